//! Samplers as coefficients of the one denoising kernel (`shaders/denoise.wgsl`).
//!
//! Every sampler is written for x = signal x_0 + noise ε with signal² + noise² = 1, also those whose papers have x_0 + σ ε
//! or (1-t) x_0 + t ε: they differ by a factor ([`Trajectory::scale`]). The x that is kept is what the network is given, for
//! most predictions this same one; for EDM's and flow matching's, [`NoiseLevel::input_scale`] times it.

use super::notation::UNCLAMPED;
use super::spacing::{self, Sigmas, index, interpolated, timesteps};
use super::{
    ChainStep, FinalSigma, NoiseLevel, NoiseSchedule, Objective, Prediction, Sampler, ScheduleKind,
    SchedulerConfig, SolverType, TimestepSpacing, VarianceType,
};
use crate::nn::ConfigError;
use crate::ops::Coefficients;

/// One network evaluation and the update after it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplerStep {
    /// The t given to the network. Between two steps of the schedule it is a fraction.
    pub timestep: f64,
    /// The update.
    pub coefficients: Coefficients,
}

/// The steps of a sampler, from noise to picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Trajectory {
    /// The standard deviation of the noise that it starts from.
    pub initial_scale: f64,
    /// One for each network evaluation.
    pub steps: Vec<SamplerStep>,
    /// σ = noise / signal before each step and after the last, for the samplers that are made of them.
    pub sigmas: Option<Vec<f64>>,
    /// Ratio and maximum of dynamic thresholding.
    pub thresholding: Option<(f64, f64)>,
    /// Signal and noise of x as it is kept, before each step and after the last.
    pub levels: Vec<NoiseLevel>,
    /// Whether x is x_0 + σ ε in diffusers.
    variance_exploding: bool,
}

impl Trajectory {
    /// From noise of deviation 1, as diffusers keeps x.
    fn of(steps: Vec<SamplerStep>, levels: Vec<NoiseLevel>) -> Self {
        Self {
            initial_scale: 1.0,
            steps,
            sigmas: None,
            thresholding: None,
            levels,
            variance_exploding: false,
        }
    }

    /// Turns steps of x with signal² + noise² = 1 into steps of x as the network of a prediction is given it. What is
    /// remembered and what comes out at the end stay as they are.
    fn rescale(&mut self, prediction: Prediction) {
        let last = self.steps.len();
        let scale = |i: usize| if i < last { self.levels[i].input_scale(prediction) } else { 1.0 };
        let scales: Vec<f64> = (0..=last).map(scale).collect();
        for (SamplerStep { coefficients: c, .. }, pair) in self.steps.iter_mut().zip(scales.windows(2)) {
            let (now, next) = (pair[0], pair[1]);
            for of_x in [&mut c.p_x, &mut c.c_x, &mut c.h_x] {
                *of_x /= now;
            }
            for into_x in [&mut c.c_x, &mut c.c_f, &mut c.c_0, &mut c.c_h, &mut c.c_z] {
                *into_x *= next;
            }
        }
        for (level, scale) in self.levels.iter_mut().zip(&scales) {
            *level = NoiseLevel { signal: scale * level.signal, noise: scale * level.noise };
        }
        self.initial_scale *= scales[0];
    }

    /// What x before step `i` (or after the last) is to be multiplied by for diffusers' latent.
    pub fn scale(&self, i: usize) -> f64 {
        match &self.sigmas {
            Some(sigmas) if self.variance_exploding => (1.0 + sigmas[i] * sigmas[i]).sqrt(),
            _ => 1.0,
        }
    }

    /// Whether a step needs what another before it remembers.
    pub fn remembers(&self) -> bool {
        self.steps.iter().any(|s| s.coefficients.c_h != 0.0)
    }

    /// The trajectory from its step `first` on, which begins with nothing remembered. For Heun, whose steps come in
    /// pairs, from the pair's first.
    #[must_use]
    pub fn from_step(mut self, first: usize) -> Self {
        let mut first = first.min(self.steps.len().saturating_sub(1));
        let needs_history = |s: &SamplerStep| s.coefficients.c_h != 0.0;
        let is_corrector = |s: &SamplerStep| needs_history(s) && s.coefficients.h_0 == 0.0;
        first -= usize::from(is_corrector(&self.steps[first]));
        self.steps.drain(..first);
        self.levels.drain(..first);
        if let Some(sigmas) = &mut self.sigmas {
            sigmas.drain(..first);
        }
        // Where nothing is remembered, what the step itself would remember takes its place: the x_0 or the slope here for
        // those before, which makes the step one of first order.
        let c = &mut self.steps[0].coefficients;
        let share = std::mem::take(&mut c.c_h);
        c.c_x += share * c.h_x;
        c.c_f += share * c.h_f;
        c.c_0 += share * c.h_0;
        self
    }

    /// The steps of `config` with S = `steps`, from noise to picture. `eta` is DDIM's: 0 is deterministic, 1 has as
    /// much noise as DDPM. Heun evaluates the network 2S - 1 times.
    ///
    /// # Errors
    /// A number of `config` out of range, or more steps than the schedule and the spacing have room for.
    pub fn new(config: &SchedulerConfig, steps: usize, eta: f64) -> Result<Self, ConfigError> {
        config.validate()?;
        let total = config.num_train_timesteps;
        let most = if config.beta_schedule.is_continuous() { 1_000_000 } else { total };
        if steps == 0 || steps > most {
            let message =
                format!("found {steps}; this model has {most} noise steps: give between 1 and {most}");
            return Err(ConfigError { field: "steps", message });
        }
        if !(0.0..=1.0).contains(&eta) {
            return Err(ConfigError {
                field: "eta",
                message: format!("found {eta}; it must be between 0 and 1"),
            });
        }
        let schedule = NoiseSchedule::of(config);
        let method = method(config.sampler);
        let mut trajectory = if config.beta_schedule.is_continuous() {
            continuous(config, method, steps, eta)?
        } else {
            match method {
                Method::Ancestral(update) => ancestral(config, update, &schedule, steps, eta)?,
                Method::BySigma(solve) => by_sigma(config, solve, &schedule, steps)?,
            }
        };
        adapt(config, &schedule, &mut trajectory.steps)?;
        trajectory.rescale(config.prediction_type);
        for step in &mut trajectory.steps {
            step.coefficients.range = match (config.thresholding, config.clip_sample) {
                (true, _) => 1.0,
                (false, true) => config.clip_sample_range,
                (false, false) => UNCLAMPED,
            };
        }
        trajectory.thresholding =
            config.thresholding.then_some((config.dynamic_thresholding_ratio, config.sample_max_value));
        Ok(trajectory)
    }
}

/// Makes steps for a network that answers with ε into steps for one that was trained on the last step alone.
///
/// Given x_t, the expected noise of the last step is b_{t-1} / √(1 - ā_{t-1}²) times the expected ε, so that such an
/// answer divided by this factor is ε, for every sampler. A network that answers with x_{t-1} is a step by itself: x' = f,
/// and the noise that the sampler adds.
fn adapt(
    config: &SchedulerConfig,
    schedule: &NoiseSchedule,
    steps: &mut [SamplerStep],
) -> Result<(), ConfigError> {
    let total = config.num_train_timesteps;
    match config.objective {
        Objective::MergedNoise => {}
        Objective::LastNoise | Objective::LastNoiseWeighted => {
            let shares: Vec<f64> = (0..total).map(|t| schedule.last_noise_share(t)).collect();
            for SamplerStep { timestep, coefficients: c } in steps.iter_mut() {
                let share = interpolated(&shares, *timestep);
                for of_f in [&mut c.p_f, &mut c.c_f, &mut c.h_f] {
                    *of_f /= share;
                }
            }
        }
        Objective::PreviousWithoutTime | Objective::Previous => {
            let name = config.objective.name();
            if config.sampler.is_by_sigma() {
                let message = format!(
                    "found {:?}, which needs an estimate of x_0 or of the noise; this model ({name}) answers with the \
                     picture one step before: give ddim (as in the article) or ddpm (with noise)",
                    config.sampler
                );
                return Err(ConfigError { field: "sampler", message });
            }
            if steps.len() != total {
                let message = format!(
                    "found {}; this model ({name}) answers with the picture one step before, so that no step of the \
                     chain can be left out: give {total}",
                    steps.len()
                );
                return Err(ConfigError { field: "steps", message });
            }
            for SamplerStep { coefficients: c, .. } in steps.iter_mut() {
                *c = Coefficients { c_f: 1.0, c_z: c.c_z, ..Coefficients::default() };
            }
        }
    }
    if config.without_time {
        steps.iter_mut().for_each(|step| step.timestep = 0.0);
    }
    Ok(())
}

/// Coefficients from one level to ᾱ of another, by the step of the chain between them.
struct AncestralStep {
    level: NoiseLevel,
    next: f64,
    step: ChainStep,
    /// DDIM's share of noise.
    eta: f64,
    /// Whether DDPM adds noise.
    adds_noise: bool,
}

type AncestralUpdate = fn(&SchedulerConfig, AncestralStep) -> Coefficients;

/// The steps between the sigmas, and the level before each and after the last.
type Solve = fn(&SchedulerConfig, &Sigmas) -> (Vec<SamplerStep>, Vec<NoiseLevel>);

/// What a sampler computes.
#[derive(Clone, Copy)]
enum Method {
    /// Along the chain, from a timestep to another.
    Ancestral(AncestralUpdate),
    /// Along the probability-flow ODE or with noise beside it, from σ to σ.
    BySigma(Solve),
}

fn method(sampler: Sampler) -> Method {
    match sampler {
        Sampler::Ddpm => Method::Ancestral(ddpm),
        Sampler::Ddim => Method::Ancestral(ddim),
        Sampler::DpmSolver => Method::BySigma(multistep),
        Sampler::Euler => Method::BySigma(|config, sigmas| each(config, sigmas, straight)),
        Sampler::EulerAncestral => Method::BySigma(|config, sigmas| each(config, sigmas, euler_ancestral)),
        Sampler::Heun => Method::BySigma(heun),
    }
}

/// DDPM: the mean of the posterior, and noise of the variance that was chosen.
fn ddpm(config: &SchedulerConfig, ancestral: AncestralStep) -> Coefficients {
    let AncestralStep { level, step: ChainStep { beta, variance, mean_x, mean_0, .. }, adds_noise, .. } =
        ancestral;
    let mut c = level.x_0(config.prediction_type);
    (c.c_x, c.c_0) = (mean_x, mean_0);
    if adds_noise {
        // diffusers' bound, so that the logarithm exists.
        let small = variance.max(1e-20);
        (c.c_z, c.c_v) = match config.variance_type {
            VarianceType::FixedSmall => (small.sqrt(), 0.0),
            VarianceType::FixedLarge => (beta.sqrt(), 0.0),
            // exp(½ (u ln β + (1-u) ln β̃)) with u = (v + 1) / 2.
            VarianceType::LearnedRange => ((beta * small).powf(0.25), 0.25 * (beta / small).ln()),
        };
    }
    c
}

/// DDIM: the estimated x_0 and ε at the next level, η of the noise drawn anew.
fn ddim(config: &SchedulerConfig, ancestral: AncestralStep) -> Coefficients {
    let AncestralStep { level, next, step, eta, .. } = ancestral;
    let mut c = level.x_0(config.prediction_type);
    let (e_x, e_f) = level.epsilon(config.prediction_type);
    c.c_z = eta * step.variance.max(0.0).sqrt();
    let direction = (1.0 - next - c.c_z * c.c_z).max(0.0).sqrt();
    (c.c_x, c.c_f, c.c_0) = (direction * e_x, direction * e_f, next.sqrt());
    c
}

/// DDPM and DDIM on a chain.
fn ancestral(
    config: &SchedulerConfig,
    update: AncestralUpdate,
    schedule: &NoiseSchedule,
    steps: usize,
    eta: f64,
) -> Result<Trajectory, ConfigError> {
    let total = config.num_train_timesteps;
    let times = timesteps(config, steps);
    let mut list = Vec::with_capacity(steps);
    for (i, &timestep) in times.iter().enumerate() {
        let t = index(timestep, total)?;
        // DDPM goes on to the next timestep of the list, DDIM to t - T/S, which is another for "linspace" and
        // "trailing".
        let previous = if config.sampler.has_constant_stride() && config.timestep_spacing.is_even() {
            t.checked_sub(total / steps)
        } else {
            times.get(i + 1).map(|&p| index(p, total)).transpose()?
        };
        let now = schedule.alpha_bar(Some(t));
        let beyond = (config.sampler.has_set_alpha_to_one() && !config.set_alpha_to_one).then_some(0);
        let next = schedule.alpha_bar(previous.or(beyond));
        if now <= 0.0 && config.prediction_type.needs_signal() {
            return Err(no_signal(&format!("at timestep {t}")));
        }
        let (level, step) = (NoiseLevel::of_alpha_bar(now), ChainStep::rounded(now, next));
        let coefficients = update(config, AncestralStep { level, next, step, eta, adds_noise: t > 0 });
        list.push(SamplerStep { timestep, coefficients });
    }
    let levels = (0..=times.len()).map(|i| schedule.level(times.get(i).map(|&t| t as usize))).collect();
    Ok(Trajectory::of(list, levels))
}

/// Why a network that answers with the noise cannot begin.
fn no_signal(place: &str) -> ConfigError {
    let message = format!(
        "found epsilon, but {place} this schedule has no signal left, so that the noise does not tell the picture; such \
         a model must predict v_prediction, sample, edm or flow"
    );
    ConfigError { field: "prediction_type", message }
}

/// Signal and noise at σ, with diffusers' roundings: where σ is 2e4 the noise is 1 in f32, and x_0 = (x - noise ε) /
/// signal is all cancellation.
fn at_sigma(sigma: f64) -> NoiseLevel {
    let sigma = sigma as f32;
    let signal = 1.0 / (sigma * sigma + 1.0).sqrt();
    NoiseLevel { signal: signal.into(), noise: (sigma * signal).into() }
}

/// x_0 at a level: that of a chain with diffusers' roundings.
fn estimate(config: &SchedulerConfig, level: NoiseLevel) -> Coefficients {
    let level = if config.beta_schedule.is_continuous() { level } else { at_sigma(level.sigma()) };
    level.x_0(config.prediction_type)
}

/// DPM-Solver++, Euler and Heun on a chain.
fn by_sigma(
    config: &SchedulerConfig,
    solve: Solve,
    schedule: &NoiseSchedule,
    steps: usize,
) -> Result<Trajectory, ConfigError> {
    let sigmas = spacing::by_sigma(config, schedule, steps)?;
    let (list, levels) = solve(config, &sigmas);
    let variance_exploding = config.sampler.is_variance_exploding();
    let from_sigma = variance_exploding
        && match config.timestep_spacing {
            TimestepSpacing::Linspace | TimestepSpacing::Trailing => true,
            TimestepSpacing::Leading | TimestepSpacing::Quadratic => false,
        };
    Ok(Trajectory {
        initial_scale: if from_sigma { levels[0].noise } else { 1.0 },
        sigmas: Some(levels.iter().map(|level| level.sigma()).collect()),
        variance_exploding,
        ..Trajectory::of(list, levels)
    })
}

/// Every sampler on a continuous schedule.
fn continuous(
    config: &SchedulerConfig,
    method: Method,
    steps: usize,
    eta: f64,
) -> Result<Trajectory, ConfigError> {
    let sigmas = spacing::continuous(config, steps);
    if sigmas.levels[0].signal == 0.0 && config.prediction_type.needs_signal() {
        return Err(no_signal("at its start"));
    }
    let (list, levels) = match method {
        Method::Ancestral(update) => {
            let step = |(&timestep, pair): (&f64, &[NoiseLevel])| {
                let (level, next) = (pair[0], pair[1].alpha_bar());
                let step = ChainStep::between(level.alpha_bar(), next);
                let adds_noise = pair[1].noise > 0.0;
                let coefficients = update(config, AncestralStep { level, next, step, eta, adds_noise });
                SamplerStep { timestep, coefficients }
            };
            let list = sigmas.timesteps.iter().zip(sigmas.levels.windows(2)).map(step).collect();
            (list, sigmas.levels)
        }
        Method::BySigma(solve) => solve(config, &sigmas),
    };
    Ok(Trajectory { initial_scale: levels[0].noise, ..Trajectory::of(list, levels) })
}

/// One update from each level to the next.
fn each(
    config: &SchedulerConfig,
    sigmas: &Sigmas,
    update: fn(&SchedulerConfig, NoiseLevel, NoiseLevel) -> Coefficients,
) -> (Vec<SamplerStep>, Vec<NoiseLevel>) {
    let step = |(&timestep, pair): (&f64, &[NoiseLevel])| SamplerStep {
        timestep,
        coefficients: update(config, pair[0], pair[1]),
    };
    (sigmas.timesteps.iter().zip(sigmas.levels.windows(2)).map(step).collect(), sigmas.levels.clone())
}

/// From one level to another along the straight line to x_0: x' = c_x x + c_0 x_0. Euler's method in σ or in flow
/// matching's t, DPM-Solver++ of first order and DDIM are this same step.
fn straight(config: &SchedulerConfig, from: NoiseLevel, to: NoiseLevel) -> Coefficients {
    let mut c = estimate(config, from);
    c.c_x = to.noise / from.noise;
    c.c_0 = to.signal - c.c_x * from.signal;
    c
}

/// Euler's method to a level below the next, and noise up to it: with r = σ' / σ, from σ to σ' r, and σ' √(1-r²) of noise.
fn euler_ancestral(config: &SchedulerConfig, from: NoiseLevel, to: NoiseLevel) -> Coefficients {
    let mut c = estimate(config, from);
    // r / signal, which is finite where there is no signal.
    let share = to.noise / (to.signal * from.noise);
    let squared = (share * from.signal).powi(2);
    c.c_x = to.signal * share * share * from.signal;
    c.c_0 = to.signal * (1.0 - squared);
    c.c_z = to.noise * (1.0 - squared).sqrt();
    c
}

/// DPM-Solver++ 2M: the history is x_0 of the step before.
fn multistep(config: &SchedulerConfig, sigmas: &Sigmas) -> (Vec<SamplerStep>, Vec<NoiseLevel>) {
    let (times, levels) = (&sigmas.timesteps, &sigmas.levels);
    let count = times.len();
    let step = |i: usize| {
        let (from, to) = (levels[i], levels[i + 1]);
        let mut c = straight(config, from, to);
        let few = config.lower_order_final && count < 15;
        let first_order_end = config.euler_at_final || few || config.final_sigmas_type == FinalSigma::Zero;
        // Karras' smallest σ may be the final one already: then the last step stays where it is.
        if config.solver_order == 2
            && i > 0
            && to.sigma() < from.sigma()
            && !(i + 1 == count && first_order_end)
        {
            // λ = -ln σ. x_0 is continued with the slope (x_0 - x_0') / (λ_i - λ_{i-1}).
            let log = |from: NoiseLevel, to: NoiseLevel| (from.sigma() / to.sigma()).ln();
            let (h, before) = (log(from, to), log(levels[i - 1], from));
            let weight = match config.solver_type {
                SolverType::Midpoint => 0.5 * c.c_0,
                SolverType::Heun => ((-h).exp_m1() / h + 1.0) * to.signal,
            };
            c.c_0 += weight * h / before;
            c.c_h = -weight * h / before;
        }
        c.h_0 = 1.0;
        SamplerStep { timestep: times[i], coefficients: c }
    };
    ((0..count).map(step).collect(), levels.clone())
}

/// The picture's scale and the time in which Heun's method takes its steps: in both, x over the scale moves by
/// dx̂/dτ = (x̂ - x_0) / τ. They are EDM's, x_0 + σ ε, or where σ may be infinite flow matching's, (1-t) x_0 + t ε.
fn clock(config: &SchedulerConfig, level: NoiseLevel) -> (f64, f64) {
    match config.beta_schedule {
        ScheduleKind::Flow => (level.signal + level.noise, level.flow_time()),
        ScheduleKind::Linear
        | ScheduleKind::ScaledLinear
        | ScheduleKind::Cosine
        | ScheduleKind::Sigmoid
        | ScheduleKind::Edm => (level.signal, level.sigma()),
    }
}

/// Heun's method: a step of Euler's, whose slope d = (x̂ - x_0) / τ is the history, and a correction by half the
/// difference between the slope there and d.
fn heun(config: &SchedulerConfig, sigmas: &Sigmas) -> (Vec<SamplerStep>, Vec<NoiseLevel>) {
    let (times, levels) = (&sigmas.timesteps, &sigmas.levels);
    let mut list = Vec::with_capacity(2 * times.len());
    let mut before = Vec::with_capacity(2 * times.len() + 1);
    for (i, &timestep) in times.iter().enumerate() {
        let (from, to) = (levels[i], levels[i + 1]);
        let ((_, tau), (scale, next)) = (clock(config, from), clock(config, to));
        let mut predictor = straight(config, from, to);
        // x̂ / τ is x over the noise in both clocks.
        (predictor.h_x, predictor.h_0) = (1.0 / from.noise, -1.0 / tau);
        list.push(SamplerStep { timestep, coefficients: predictor });
        before.push(from);
        if let Some(&timestep) = times.get(i + 1) {
            let mut corrector = estimate(config, to);
            let half = 0.5 * (next - tau) * scale;
            corrector.c_x = 1.0 + half / to.noise;
            corrector.c_0 = -half / next;
            corrector.c_h = -half;
            list.push(SamplerStep { timestep, coefficients: corrector });
            before.push(to);
        }
    }
    before.extend(levels.last());
    (list, before)
}

#[cfg(test)]
#[path = "sampler_tests.rs"]
mod tests;
