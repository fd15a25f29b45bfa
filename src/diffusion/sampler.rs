//! Samplers as coefficients of the one denoising kernel (`shaders/denoise.wgsl`).
//!
//! Every sampler works on x = signal x_0 + noise ε with signal² + noise² = 1, which is what the network is given,
//! also those whose papers have x_0 + σ ε: the two differ by the factor √(1 + σ²), [`Trajectory::scale`].

use super::notation::UNCLAMPED;
use super::{
    ChainStep, ConfigError, FinalSigma, NoiseLevel, NoiseSchedule, Objective, Prediction, Sampler,
    SchedulerConfig, SolverType, TimestepSpacing, VarianceType,
};
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
    /// Signal and noise before each step and after the last.
    pub levels: Vec<NoiseLevel>,
    /// Whether x is x_0 + σ ε in diffusers.
    variance_exploding: bool,
}

impl Trajectory {
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
        // DPM-Solver++ without the x_0 before: the step of first order.
        let c = &mut self.steps[0].coefficients;
        c.c_0 += std::mem::take(&mut c.c_h);
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
        if steps == 0 || steps > total {
            let message =
                format!("found {steps}; this model has {total} noise steps: give between 1 and {total}");
            return Err(ConfigError { field: "steps", message });
        }
        if !(0.0..=1.0).contains(&eta) {
            return Err(ConfigError {
                field: "eta",
                message: format!("found {eta}; it must be between 0 and 1"),
            });
        }
        let schedule = NoiseSchedule::of(config);
        let mut trajectory = match config.sampler {
            Sampler::Ddpm | Sampler::Ddim => ancestral(config, &schedule, steps, eta)?,
            Sampler::DpmSolver | Sampler::Euler | Sampler::Heun => by_sigma(config, &schedule, steps)?,
        };
        adapt(config, &schedule, &mut trajectory.steps)?;
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
            if !matches!(config.sampler, Sampler::Ddpm | Sampler::Ddim) {
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

/// numpy's `arange(start, 0, -step)`, at most `count` numbers.
fn downwards(start: f64, step: f64, count: usize) -> impl Iterator<Item = f64> {
    // The difference of its first two numbers is what numpy adds, not the step itself.
    let difference = (start - step) - start;
    (0..count).map(move |i| start + i as f64 * difference)
}

/// numpy's `linspace(0, last, count)`, reversed.
fn evenly(last: f64, count: usize) -> impl Iterator<Item = f64> {
    let step = if count > 1 { last / (count - 1) as f64 } else { 0.0 };
    (0..count).rev().map(move |i| if i > 0 && i + 1 == count { last } else { i as f64 * step })
}

/// The timesteps of DDPM, DDIM, Euler and Heun, largest first. The first two round "linspace" to whole numbers.
fn timesteps(config: &SchedulerConfig, steps: usize) -> Vec<f64> {
    let total = config.num_train_timesteps;
    match config.timestep_spacing {
        TimestepSpacing::Leading => {
            (0..steps).rev().map(|i| (i * (total / steps) + config.steps_offset) as f64).collect()
        }
        TimestepSpacing::Linspace => {
            let round = matches!(config.sampler, Sampler::Ddpm | Sampler::Ddim);
            let exact = evenly((total - 1) as f64, steps);
            exact.map(|t| if round { t.round_ties_even() } else { f64::from(t as f32) }).collect()
        }
        TimestepSpacing::Trailing => {
            let spaced = downwards(total as f64, total as f64 / steps as f64, steps);
            spaced.map(|t| t.round_ties_even() - 1.0).collect()
        }
    }
}

/// DPM-Solver++'s timesteps: it steps from each to the next and from the last to its final σ, so that "leading" and
/// "linspace" leave out 0.
fn solver_timesteps(config: &SchedulerConfig, schedule: &NoiseSchedule, steps: usize) -> Vec<f64> {
    let total = config.num_train_timesteps;
    let below = |t: &usize| {
        let a = schedule.alpha_bar(Some(*t));
        a.sqrt().ln() - (1.0 - a).sqrt().ln() < config.lambda_min_clipped
    };
    let last = total - (0..total).filter(below).count();
    match config.timestep_spacing {
        TimestepSpacing::Leading => {
            (1..=steps).rev().map(|i| (i * (last / (steps + 1)) + config.steps_offset) as f64).collect()
        }
        TimestepSpacing::Linspace => {
            evenly(last.saturating_sub(1) as f64, steps + 1).take(steps).map(f64::round_ties_even).collect()
        }
        TimestepSpacing::Trailing => {
            let spaced = downwards(last as f64, total as f64 / steps as f64, steps);
            spaced.take_while(|t| *t > 0.0).map(|t| t.round_ties_even() - 1.0).collect()
        }
    }
}

/// The index of a whole timestep.
fn index(t: f64, total: usize) -> Result<usize, ConfigError> {
    if t >= 0.0 && t < total as f64 {
        return Ok(t as usize);
    }
    let message = format!(
        "with this spacing and offset the sampler would visit timestep {t}, but the schedule ends at {}; give \
         fewer steps",
        total - 1
    );
    Err(ConfigError { field: "steps", message })
}

/// DDPM and DDIM.
fn ancestral(
    config: &SchedulerConfig,
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
        let previous = match config.sampler {
            Sampler::Ddpm => times.get(i + 1).map(|&p| index(p, total)).transpose()?,
            _ => t.checked_sub(total / steps),
        };
        let now = schedule.alpha_bar(Some(t));
        let next = match (previous, config.sampler) {
            (None, Sampler::Ddim) if !config.set_alpha_to_one => schedule.alpha_bar(Some(0)),
            _ => schedule.alpha_bar(previous),
        };
        if now <= 0.0 && config.prediction_type == Prediction::Epsilon {
            let message = format!(
                "found epsilon, but at timestep {t} this schedule has no signal left, so that the noise does not \
                 tell the picture; such a model must predict v_prediction or sample"
            );
            return Err(ConfigError { field: "prediction_type", message });
        }
        let level = NoiseLevel::of_alpha_bar(now);
        let ChainStep { beta, variance, mean_x, mean_0, .. } = ChainStep::rounded(now, next);
        let mut c = level.x_0(config.prediction_type);
        match config.sampler {
            Sampler::Ddpm => {
                (c.c_x, c.c_0) = (mean_x, mean_0);
                if t > 0 {
                    // diffusers' bound, so that the logarithm exists.
                    let small = variance.max(1e-20);
                    (c.c_z, c.c_v) = match config.variance_type {
                        VarianceType::FixedSmall => (small.sqrt(), 0.0),
                        VarianceType::FixedLarge => (beta.sqrt(), 0.0),
                        // exp(½ (u ln β + (1-u) ln β̃)) with u = (v + 1) / 2.
                        VarianceType::LearnedRange => ((beta * small).powf(0.25), 0.25 * (beta / small).ln()),
                    };
                }
            }
            _ => {
                let (e_x, e_f) = level.epsilon(config.prediction_type);
                c.c_z = eta * variance.max(0.0).sqrt();
                let direction = (1.0 - next - c.c_z * c.c_z).max(0.0).sqrt();
                (c.c_x, c.c_f, c.c_0) = (direction * e_x, direction * e_f, next.sqrt());
            }
        }
        list.push(SamplerStep { timestep, coefficients: c });
    }
    let levels = (0..=times.len()).map(|i| schedule.level(times.get(i).map(|&t| t as usize))).collect();
    Ok(Trajectory {
        initial_scale: 1.0,
        steps: list,
        sigmas: None,
        thresholding: None,
        levels,
        variance_exploding: false,
    })
}

/// σ of every timestep, in f32 as diffusers' table.
fn sigma_table(config: &SchedulerConfig, schedule: &NoiseSchedule) -> Vec<f64> {
    let total = config.num_train_timesteps;
    (0..total)
        .map(|t| {
            let mut a = schedule.alpha_bar(Some(t));
            if config.rescale_betas_zero_snr && t + 1 == total {
                // Not 0, where σ would be infinite.
                a = 2f64.powi(-24);
            }
            f64::from(NoiseLevel::of_alpha_bar(a).sigma() as f32)
        })
        .collect()
}

/// Between two timesteps, linearly; beyond the last, its σ.
fn interpolated(table: &[f64], t: f64) -> f64 {
    let low = (t.max(0.0) as usize).min(table.len() - 1);
    let high = (low + 1).min(table.len() - 1);
    table[low] + (table[high] - table[low]) * (t - low as f64).clamp(0.0, 1.0)
}

/// The timestep with this σ: linear between the logarithms, kept in f32, of the table.
fn timestep_of(table: &[f64], sigma: f64) -> f64 {
    if table.len() < 2 {
        return 0.0;
    }
    let log = |i: usize| table[i].ln() as f32;
    let sought = sigma.max(1e-10).ln();
    let low = (0..table.len()).rev().find(|&i| f64::from(log(i)) <= sought).unwrap_or(0).min(table.len() - 2);
    let w = (f64::from(log(low)) - sought) / f64::from(log(low) - log(low + 1));
    let w = w.clamp(0.0, 1.0);
    (1.0 - w) * low as f64 + w * (low + 1) as f64
}

/// EDM's spacing, `count` numbers from largest to smallest: eq. 5 with ρ = 7.
fn karras(smallest: f64, largest: f64, count: usize) -> Vec<f64> {
    const RHO: f64 = 7.0;
    let (from, to) = (largest.powf(1.0 / RHO), smallest.powf(1.0 / RHO));
    let fraction = |i: usize| if count > 1 { i as f64 / (count - 1) as f64 } else { 0.0 };
    (0..count).map(|i| (from + fraction(i) * (to - from)).powf(RHO)).collect()
}

/// Signal and noise at σ, with diffusers' roundings: where σ is 2e4 the noise is 1 in f32, and x_0 = (x - noise ε) /
/// signal is all cancellation.
fn at_sigma(sigma: f64) -> NoiseLevel {
    let sigma = sigma as f32;
    let signal = 1.0 / (sigma * sigma + 1.0).sqrt();
    NoiseLevel { signal: signal.into(), noise: (sigma * signal).into() }
}

/// DPM-Solver++, Euler and Heun: the steps follow from a list of σ.
fn by_sigma(
    config: &SchedulerConfig,
    schedule: &NoiseSchedule,
    steps: usize,
) -> Result<Trajectory, ConfigError> {
    let table = sigma_table(config, schedule);
    let solver = config.sampler == Sampler::DpmSolver;

    // 1. Timesteps and σ.
    let mut times = if solver { solver_timesteps(config, schedule, steps) } else { timesteps(config, steps) };
    let mut sigmas: Vec<f64> = times.iter().map(|&t| interpolated(&table, t)).collect();
    if config.use_karras_sigmas {
        let ends = if solver { (table.first(), table.last()) } else { (sigmas.last(), sigmas.first()) };
        let smallest = config.sigma_min.or(ends.0.copied()).unwrap_or(1.0);
        let largest = config.sigma_max.or(ends.1.copied()).unwrap_or(1.0);
        sigmas = karras(smallest, largest, steps);
        times = sigmas.iter().map(|&s| timestep_of(&table, s)).collect();
        if solver && config.beta_schedule != super::BetaSchedule::Cosine {
            times.iter_mut().for_each(|t| *t = t.round_ties_even());
        }
    }
    if solver {
        times.iter_mut().for_each(|t| *t = t.trunc());
    }
    let last = match config.final_sigmas_type {
        FinalSigma::SigmaMin if config.sampler != Sampler::Heun => table[0],
        _ => 0.0,
    };
    sigmas.push(last);
    sigmas.iter_mut().for_each(|s| *s = f64::from(*s as f32));
    times.iter_mut().for_each(|t| *t = f64::from(*t as f32));
    if times.iter().any(|&t| t < 0.0 || t >= table.len() as f64)
        || sigmas.windows(2).any(|w| w[1] > w[0])
        || sigmas[..times.len()].windows(2).any(|w| w[1] == w[0])
    {
        let message =
            format!("found {steps}, more than this schedule has room for with this spacing; give fewer");
        return Err(ConfigError { field: "steps", message });
    }

    // 2. The updates.
    let initial_scale = match config.timestep_spacing {
        TimestepSpacing::Linspace | TimestepSpacing::Trailing if !solver => {
            sigmas[0] / (1.0 + sigmas[0] * sigmas[0]).sqrt()
        }
        _ => 1.0,
    };
    let (list, sigmas) = match config.sampler {
        Sampler::DpmSolver => (multistep(config, &times, &sigmas), sigmas),
        Sampler::Heun => heun(config, &times, &sigmas),
        _ => (euler(config, &times, &sigmas), sigmas),
    };
    let levels = sigmas.iter().map(|&s| at_sigma(s)).collect();
    Ok(Trajectory {
        initial_scale,
        steps: list,
        levels,
        sigmas: Some(sigmas),
        thresholding: None,
        variance_exploding: !solver,
    })
}

/// From σ to σ' along the straight line to x_0: x' = c_x x + c_0 x_0. DPM-Solver++ of first order, Euler's method and
/// DDIM are this same step.
fn straight(prediction: Prediction, from: f64, to: f64) -> Coefficients {
    let level = at_sigma(from);
    let signal_to = 1.0 / (1.0 + to * to).sqrt();
    let mut c = level.x_0(prediction);
    c.c_x = to * signal_to / (from * level.signal);
    c.c_0 = signal_to * (1.0 - to / from);
    c
}

fn euler(config: &SchedulerConfig, times: &[f64], sigmas: &[f64]) -> Vec<SamplerStep> {
    let update = |(&timestep, w): (&f64, &[f64])| SamplerStep {
        timestep,
        coefficients: straight(config.prediction_type, w[0], w[1]),
    };
    times.iter().zip(sigmas.windows(2)).map(update).collect()
}

/// DPM-Solver++ 2M: the history is x_0 of the step before.
fn multistep(config: &SchedulerConfig, times: &[f64], sigmas: &[f64]) -> Vec<SamplerStep> {
    let count = times.len();
    let step = |i: usize| {
        let (from, to) = (sigmas[i], sigmas[i + 1]);
        let mut c = straight(config.prediction_type, from, to);
        let few = config.lower_order_final && count < 15;
        let first_order_end = config.euler_at_final || few || config.final_sigmas_type == FinalSigma::Zero;
        // Karras' smallest σ may be the final one already: then the last step stays where it is.
        if config.solver_order == 2 && i > 0 && to < from && !(i + 1 == count && first_order_end) {
            // λ = -ln σ. x_0 is continued with the slope (x_0 - x_0') / (λ_i - λ_{i-1}).
            let (h, before) = ((from / to).ln(), (sigmas[i - 1] / from).ln());
            let weight = match config.solver_type {
                SolverType::Midpoint => 0.5 * c.c_0,
                SolverType::Heun => ((-h).exp_m1() / h + 1.0) / (1.0 + to * to).sqrt(),
            };
            c.c_0 += weight * h / before;
            c.c_h = -weight * h / before;
        }
        c.h_0 = 1.0;
        SamplerStep { timestep: times[i], coefficients: c }
    };
    (0..count).map(step).collect()
}

/// Heun's method: a step of Euler's, whose slope d = (x - x_0) / σ is the history, and a correction by half the
/// difference between the slope there and d. Returns the σ before each of the two as well.
fn heun(config: &SchedulerConfig, times: &[f64], sigmas: &[f64]) -> (Vec<SamplerStep>, Vec<f64>) {
    let scale = |sigma: f64| (1.0 + sigma * sigma).sqrt();
    let mut list = Vec::with_capacity(2 * times.len());
    let mut before = Vec::with_capacity(2 * times.len() + 1);
    for (i, &timestep) in times.iter().enumerate() {
        let (from, to) = (sigmas[i], sigmas[i + 1]);
        let mut predictor = straight(config.prediction_type, from, to);
        (predictor.h_x, predictor.h_0) = (scale(from) / from, -1.0 / from);
        list.push(SamplerStep { timestep, coefficients: predictor });
        before.push(from);
        if let Some(&timestep) = times.get(i + 1) {
            let mut corrector = at_sigma(to).x_0(config.prediction_type);
            let half = 0.5 * (to - from) / scale(to);
            corrector.c_x = 1.0 + half * scale(to) / to;
            corrector.c_0 = -half / to;
            corrector.c_h = -half;
            list.push(SamplerStep { timestep, coefficients: corrector });
            before.push(to);
        }
    }
    before.extend(sigmas.last());
    (list, before)
}

#[cfg(test)]
#[path = "sampler_tests.rs"]
mod tests;
