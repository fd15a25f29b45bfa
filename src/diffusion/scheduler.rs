//! How a model is sampled, under the names of diffusers' `scheduler_config.json`.

use super::{Objective, Prediction, ScheduleKind};
use crate::nn::ConfigError;
use serde::{Deserialize, Serialize};

/// A way back from noise to a picture. In files it is the name of diffusers' class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Sampler {
    /// Ancestral sampling from the posterior (DDPM, arXiv 2006.11239, eq. 6 and 7).
    #[serde(rename = "DDPMScheduler")]
    Ddpm,
    /// The non-Markovian process, deterministic at η = 0 (DDIM, arXiv 2010.02502, eq. 12).
    #[serde(rename = "DDIMScheduler")]
    Ddim,
    /// DPM-Solver++, multistep, of second order (2M, arXiv 2211.01095, algorithm 2).
    #[serde(rename = "DPMSolverMultistepScheduler")]
    #[cfg_attr(feature = "cli", value(name = "dpmpp-2m"))]
    DpmSolver,
    /// Euler's method on the probability-flow ODE in σ (EDM, arXiv 2206.00364, algorithm 1 without line 7).
    #[serde(rename = "EulerDiscreteScheduler")]
    Euler,
    /// Euler's method to a lower σ, and noise up to the next (k-diffusion's `sample_euler_ancestral`).
    #[serde(rename = "EulerAncestralDiscreteScheduler")]
    EulerAncestral,
    /// Heun's method on it: two evaluations a step (EDM, algorithm 1).
    #[serde(rename = "HeunDiscreteScheduler")]
    Heun,
}

/// What is fixed about a sampler, in one row.
struct Facts {
    /// In tables and on charts.
    title: &'static str,
    /// In the names of an oracle's tensors.
    oracle: &'static str,
    /// See [`Sampler::options`].
    options: &'static [&'static str],
    /// See [`Sampler::order`].
    order: Option<u32>,
    /// Whether it steps from σ to σ, not from timestep to timestep of the chain.
    by_sigma: bool,
    /// Whether x is x_0 + σ ε in diffusers.
    variance_exploding: bool,
    /// Whether it evaluates the network twice in every step but the last.
    evaluates_twice: bool,
    /// See [`Sampler::has_constant_stride`].
    constant_stride: bool,
    /// See [`Sampler::counts_as_dpm_solver`].
    counts_as_dpm_solver: bool,
    /// First and last β, where nothing else is said.
    betas: (f64, f64),
}

impl Facts {
    /// Of a sampler on the timesteps of a chain, with DDPM's betas.
    fn chain(title: &'static str, oracle: &'static str, options: &'static [&'static str]) -> Self {
        Self {
            title,
            oracle,
            options,
            order: None,
            by_sigma: false,
            variance_exploding: false,
            evaluates_twice: false,
            constant_stride: false,
            counts_as_dpm_solver: false,
            betas: (1e-4, 0.02),
        }
    }

    /// Of one from σ to σ, with x = x_0 + σ ε in diffusers.
    fn by_sigma(title: &'static str, oracle: &'static str, options: &'static [&'static str]) -> Self {
        Self { by_sigma: true, variance_exploding: true, ..Self::chain(title, oracle, options) }
    }
}

impl Sampler {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Ddpm, Self::Ddim, Self::DpmSolver, Self::Euler, Self::EulerAncestral, Self::Heun];

    fn facts(self) -> Facts {
        match self {
            Self::Ddpm => Facts::chain(
                "DDPM",
                "ddpm",
                &[
                    "variance_type",
                    "clip_sample",
                    "clip_sample_range",
                    "thresholding",
                    "dynamic_thresholding_ratio",
                    "sample_max_value",
                    "rescale_betas_zero_snr",
                ],
            ),
            Self::Ddim => {
                let options = &[
                    "set_alpha_to_one",
                    "clip_sample",
                    "clip_sample_range",
                    "thresholding",
                    "dynamic_thresholding_ratio",
                    "sample_max_value",
                    "rescale_betas_zero_snr",
                ];
                Facts { order: Some(1), constant_stride: true, ..Facts::chain("DDIM", "ddim", options) }
            }
            Self::DpmSolver => {
                let options = &[
                    "solver_order",
                    "solver_type",
                    "lower_order_final",
                    "euler_at_final",
                    "final_sigmas_type",
                    "lambda_min_clipped",
                    "variance_type",
                    "use_karras_sigmas",
                    "thresholding",
                    "dynamic_thresholding_ratio",
                    "sample_max_value",
                    "rescale_betas_zero_snr",
                ];
                let facts = Facts::by_sigma("DPM-Solver++ 2M", "dpmpp", options);
                Facts { order: Some(2), variance_exploding: false, counts_as_dpm_solver: true, ..facts }
            }
            Self::Euler => {
                let options = &[
                    "use_karras_sigmas",
                    "sigma_min",
                    "sigma_max",
                    "rescale_betas_zero_snr",
                    "final_sigmas_type",
                ];
                Facts { order: Some(1), ..Facts::by_sigma("Euler", "euler", options) }
            }
            Self::EulerAncestral => {
                Facts::by_sigma("Euler-ancestral", "euler-ancestral", &["rescale_betas_zero_snr"])
            }
            Self::Heun => {
                let options = &["use_karras_sigmas", "clip_sample", "clip_sample_range"];
                let facts = Facts::by_sigma("Heun", "heun", options);
                Facts { order: Some(2), evaluates_twice: true, betas: (0.00085, 0.012), ..facts }
            }
        }
    }

    /// The name in tables and on charts.
    pub fn title(self) -> &'static str {
        self.facts().title
    }

    /// The name in those of an oracle's tensors.
    pub fn oracle_name(self) -> &'static str {
        self.facts().oracle
    }

    /// The fields of [`SchedulerConfig`] that its class in diffusers has beside those that all have.
    pub fn options(self) -> &'static [&'static str] {
        self.facts().options
    }

    /// The order of its error in the length of a step, without the noise that DDIM may add; none if it always adds noise.
    pub fn order(self) -> Option<u32> {
        self.facts().order
    }

    fn has(self, option: &str) -> bool {
        self.options().contains(&option)
    }

    /// Whether it steps from σ to σ, not from timestep to timestep of the chain.
    pub fn is_by_sigma(self) -> bool {
        self.facts().by_sigma
    }

    /// Whether x is x_0 + σ ε in diffusers.
    pub(super) fn is_variance_exploding(self) -> bool {
        self.facts().variance_exploding
    }

    /// The steps S in which it evaluates the network this many times. Heun does so twice in every step but the last.
    pub fn steps_of(self, evaluations: usize) -> usize {
        if self.facts().evaluates_twice { evaluations.div_ceil(2) } else { evaluations }
    }

    /// Whether its class has `final_sigmas_type`.
    pub(super) fn has_final_sigma(self) -> bool {
        self.has("final_sigmas_type")
    }

    /// Whether its class has `set_alpha_to_one`.
    pub(super) fn has_set_alpha_to_one(self) -> bool {
        self.has("set_alpha_to_one")
    }

    /// Whether a step from timestep t ends at t - T/S, which need not be the timestep visited next.
    pub(super) fn has_constant_stride(self) -> bool {
        self.facts().constant_stride
    }

    /// Whether its class counts timesteps as diffusers' DPM-Solver does: whole numbers, from which "leading" and "linspace"
    /// leave out 0, and Karras' σ between the ends of the whole schedule. `variance_type` is null there where the network
    /// puts out no variance.
    pub fn counts_as_dpm_solver(self) -> bool {
        self.facts().counts_as_dpm_solver
    }
}

/// Which timesteps a sampler visits (arXiv 2305.08891, table 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "snake_case")]
pub enum TimestepSpacing {
    /// Multiples of ⌊T/S⌋, from 0 up.
    Leading,
    /// S numbers from 0 to T-1.
    Linspace,
    /// Multiples of T/S, from T down, less 1. On a continuous schedule, S equal parts of its time from the noisy end down.
    Trailing,
    /// Squares, so that steps are small where noise is (DDIM, arXiv 2010.02502, appendix D.2). Not in diffusers.
    #[serde(skip)]
    Quadratic,
}

impl TimestepSpacing {
    /// Whether its timesteps are the same distance apart, rounding aside.
    pub(super) fn is_even(self) -> bool {
        match self {
            Self::Leading | Self::Linspace | Self::Trailing => true,
            Self::Quadratic => false,
        }
    }
}

/// The variance of DDPM's step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "snake_case")]
#[cfg_attr(feature = "cli", value(rename_all = "snake_case"))]
pub enum VarianceType {
    /// β̃, the posterior's (DDPM, eq. 7). diffusers' `fixed_small_log` is the same number by way of its logarithm.
    #[serde(alias = "fixed_small_log")]
    FixedSmall,
    /// β (DDPM, section 3.2).
    FixedLarge,
    /// Between the two, element by element, in the logarithm: the second half of the network's channels
    /// (arXiv 2102.09672, eq. 15).
    LearnedRange,
}

/// How DPM-Solver++ 2M estimates the derivative of x_0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SolverType {
    /// Half of the first-order term's coefficient (arXiv 2211.01095, algorithm 2).
    Midpoint,
    /// The exact integral of a linear x_0.
    Heun,
}

/// The σ after the last step of DPM-Solver++ or Euler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinalSigma {
    /// 0: the last step gives x_0.
    Zero,
    /// The σ of timestep 0.
    SigmaMin,
}

/// A noise schedule, what the network predicts, and how to sample. A field that the sampler's class in diffusers
/// does not have is at its neutral value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SchedulerConfig {
    /// Which update.
    #[serde(rename = "_class_name")]
    pub sampler: Sampler,
    /// Noise steps T.
    pub num_train_timesteps: usize,
    /// How the noise grows.
    pub beta_schedule: ScheduleKind,
    /// The first β.
    pub beta_start: f64,
    /// The last β.
    pub beta_end: f64,
    /// Every β, in place of the three fields above.
    pub trained_betas: Option<Vec<f64>>,
    /// Whether ᾱ is shifted so that nothing of the picture is left at T (arXiv 2305.08891, algorithm 1).
    pub rescale_betas_zero_snr: bool,
    /// What the network predicts.
    pub prediction_type: Prediction,
    /// What the network was trained on. Not in diffusers, which has [`Objective::MergedNoise`] alone, nor in its files.
    #[serde(skip)]
    pub objective: Objective,
    /// Whether the network was given t = 0 throughout. Not in diffusers either.
    #[serde(skip)]
    pub without_time: bool,
    /// Which timesteps are visited.
    pub timestep_spacing: TimestepSpacing,
    /// Added to the timesteps of "leading".
    pub steps_offset: usize,
    /// Whether the predicted x_0 is clamped.
    pub clip_sample: bool,
    /// To ± this.
    pub clip_sample_range: f64,
    /// Dynamic thresholding of x_0 instead of the clamp (Imagen, arXiv 2205.11487, section 2.3).
    pub thresholding: bool,
    /// Its quantile of |x_0|.
    pub dynamic_thresholding_ratio: f64,
    /// Its largest threshold.
    pub sample_max_value: f64,
    /// Variance of DDPM's step. With `learned_range`, every sampler takes the first half of the channels.
    pub variance_type: VarianceType,
    /// DDIM: whether ᾱ is 1 beyond the first timestep, or that of timestep 0.
    pub set_alpha_to_one: bool,
    /// DPM-Solver++: 1 or 2.
    pub solver_order: usize,
    /// DPM-Solver++: the second-order term.
    pub solver_type: SolverType,
    /// DPM-Solver++: whether the last step is of first order when there are fewer than 15.
    pub lower_order_final: bool,
    /// DPM-Solver++: whether the last step is of first order always.
    pub euler_at_final: bool,
    /// DPM-Solver++ and Euler: the σ after the last step.
    pub final_sigmas_type: FinalSigma,
    /// DPM-Solver++: timesteps whose log(signal / noise) lies below this are left out; -∞ for none.
    #[serde(with = "or_minus_infinity")]
    pub lambda_min_clipped: f64,
    /// Whether the σ are spaced as EDM does (arXiv 2206.00364, eq. 5, with ρ = 7).
    pub use_karras_sigmas: bool,
    /// Smallest σ of that spacing; that of the last timestep if absent.
    pub sigma_min: Option<f64>,
    /// Largest.
    pub sigma_max: Option<f64>,
}

/// A number that may be -∞, for which JSON has no number: the text `-Infinity`.
mod or_minus_infinity {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    const TEXT: &str = "-Infinity";

    pub fn serialize<S: Serializer>(x: &f64, to: S) -> Result<S::Ok, S::Error> {
        if *x == f64::NEG_INFINITY { to.serialize_str(TEXT) } else { to.serialize_f64(*x) }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a number or -Infinity")]
        enum Either {
            Number(f64),
            Text(String),
        }
        match Either::deserialize(from)? {
            Either::Number(x) => Ok(x),
            Either::Text(text) if text == TEXT => Ok(f64::NEG_INFINITY),
            Either::Text(text) => {
                Err(D::Error::custom(format!("found {text:?}, expected a number or -Infinity")))
            }
        }
    }
}

impl SchedulerConfig {
    /// The defaults of the sampler's class in diffusers.
    pub fn new(sampler: Sampler) -> Self {
        let by_sigma = sampler.is_by_sigma();
        let (beta_start, beta_end) = sampler.facts().betas;
        Self {
            sampler,
            num_train_timesteps: 1000,
            beta_schedule: ScheduleKind::Linear,
            beta_start,
            beta_end,
            trained_betas: None,
            rescale_betas_zero_snr: false,
            prediction_type: Prediction::Epsilon,
            objective: Objective::default(),
            without_time: false,
            timestep_spacing: if by_sigma { TimestepSpacing::Linspace } else { TimestepSpacing::Leading },
            steps_offset: 0,
            clip_sample: !by_sigma,
            clip_sample_range: 1.0,
            thresholding: false,
            dynamic_thresholding_ratio: 0.995,
            sample_max_value: 1.0,
            variance_type: VarianceType::FixedSmall,
            set_alpha_to_one: true,
            solver_order: 2,
            solver_type: SolverType::Midpoint,
            lower_order_final: true,
            euler_at_final: false,
            final_sigmas_type: FinalSigma::Zero,
            lambda_min_clipped: f64::NEG_INFINITY,
            use_karras_sigmas: false,
            sigma_min: None,
            sigma_max: None,
        }
    }

    /// The same model sampled in another way, as diffusers' `OTHER.from_config(this.config)`: what both classes
    /// have is kept, the rest has the other's defaults.
    #[must_use]
    pub fn with_sampler(&self, sampler: Sampler) -> Self {
        if sampler == self.sampler {
            return self.clone();
        }
        let both = |option| self.sampler.has(option) && sampler.has(option);
        let mut to = Self::new(sampler);
        to.num_train_timesteps = self.num_train_timesteps;
        to.beta_schedule = self.beta_schedule;
        (to.beta_start, to.beta_end) = (self.beta_start, self.beta_end);
        to.trained_betas.clone_from(&self.trained_betas);
        to.rescale_betas_zero_snr = self.rescale_betas_zero_snr;
        to.prediction_type = self.prediction_type;
        (to.objective, to.without_time) = (self.objective, self.without_time);
        (to.timestep_spacing, to.steps_offset) = (self.timestep_spacing, self.steps_offset);
        // What a network puts out does not change with the sampler.
        to.variance_type = self.variance_type;
        if both("clip_sample") {
            (to.clip_sample, to.clip_sample_range) = (self.clip_sample, self.clip_sample_range);
        }
        if both("thresholding") {
            to.thresholding = self.thresholding;
            to.dynamic_thresholding_ratio = self.dynamic_thresholding_ratio;
            to.sample_max_value = self.sample_max_value;
        }
        if self.beta_schedule.is_continuous() || both("use_karras_sigmas") {
            to.use_karras_sigmas = self.use_karras_sigmas;
        }
        to
    }

    /// Checks every number that has a range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let fail = |field, message: String| Err(ConfigError { field, message });
        let total = self.num_train_timesteps;
        if total == 0 || total > 1_000_000 {
            return fail("num_train_timesteps", format!("found {total}; it must be between 1 and 1000000"));
        }
        if self.objective.is_of_last_step() && self.prediction_type != Prediction::Epsilon {
            let (objective, prediction) = (self.objective.name(), self.prediction_type);
            return fail(
                "objective",
                format!(
                    "found {objective} with the prediction {prediction:?}; this objective says itself what is \
                     predicted: leave --prediction out, or choose merged-noise"
                ),
            );
        }
        if self.beta_schedule.is_continuous() {
            let name = self.beta_schedule.name();
            if self.objective.is_of_last_step() {
                let objective = self.objective.name();
                return fail(
                    "objective",
                    format!(
                        "found {objective} with the schedule {name}, which is continuous: its chain has no last step; \
                         choose linear, scaled_linear, squaredcos_cap_v2 or sigmoid"
                    ),
                );
            }
            if self.rescale_betas_zero_snr {
                return fail(
                    "rescale_betas_zero_snr",
                    format!("found true with the schedule {name}, which has no β to rescale; leave it out"),
                );
            }
            let from_the_end = match self.timestep_spacing {
                TimestepSpacing::Trailing | TimestepSpacing::Quadratic => true,
                TimestepSpacing::Leading | TimestepSpacing::Linspace => false,
            };
            if !from_the_end {
                return fail(
                    "timestep_spacing",
                    format!(
                        "found {:?} with the schedule {name}, which is continuous: its steps begin at the noisy end; \
                         choose trailing or quadratic",
                        self.timestep_spacing
                    ),
                );
            }
        }
        for (field, beta) in [("beta_start", self.beta_start), ("beta_end", self.beta_end)] {
            if !(beta > 0.0 && beta < 1.0) {
                return fail(field, format!("found {beta}; it must lie between 0 and 1"));
            }
        }
        if self.rescale_betas_zero_snr && total == 1 {
            return fail("rescale_betas_zero_snr", "found true, which needs more than one timestep".into());
        }
        if let Some(betas) = &self.trained_betas {
            if betas.len() != total {
                let found = betas.len();
                return fail(
                    "trained_betas",
                    format!("found {found} numbers for num_train_timesteps = {total}"),
                );
            }
            if let Some(beta) = betas.iter().find(|b| !(**b >= 0.0 && **b < 1.0)) {
                return fail("trained_betas", format!("found {beta}; each must be at least 0 and below 1"));
            }
        }
        if self.steps_offset >= total {
            let found = self.steps_offset;
            return fail(
                "steps_offset",
                format!("found {found}; it must be below num_train_timesteps = {total}"),
            );
        }
        if !(self.clip_sample_range > 0.0 && self.clip_sample_range.is_finite()) {
            return fail(
                "clip_sample_range",
                format!("found {}; it must be positive", self.clip_sample_range),
            );
        }
        if !(0.0..=1.0).contains(&self.dynamic_thresholding_ratio) {
            let found = self.dynamic_thresholding_ratio;
            return fail("dynamic_thresholding_ratio", format!("found {found}; it must be between 0 and 1"));
        }
        if !(self.sample_max_value >= 1.0 && self.sample_max_value.is_finite()) {
            return fail(
                "sample_max_value",
                format!("found {}; it must be at least 1", self.sample_max_value),
            );
        }
        if !(1..=2).contains(&self.solver_order) {
            return fail("solver_order", format!("found {}; 1 and 2 are supported", self.solver_order));
        }
        for (field, sigma) in [("sigma_min", self.sigma_min), ("sigma_max", self.sigma_max)] {
            if sigma.is_some_and(|s| !(s > 0.0 && s.is_finite())) {
                return fail(field, format!("found {sigma:?}; it must be positive"));
            }
        }
        Ok(())
    }
}
