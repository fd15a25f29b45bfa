//! The noise levels at which samplers evaluate the network, and the timesteps that condition it there.

use super::{FinalSigma, NoiseLevel, NoiseSchedule, ScheduleKind, SchedulerConfig, TimestepSpacing};
use crate::nn::ConfigError;

/// The noise levels at which a sampler evaluates the network, most noise first.
pub(super) struct Sigmas {
    /// The timestep that conditions the network at each.
    pub timesteps: Vec<f64>,
    /// The level at each, and after the last step.
    pub levels: Vec<NoiseLevel>,
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

/// The timesteps of every sampler but a multistep one, largest first. DDPM and DDIM round "linspace" to whole numbers.
pub(super) fn timesteps(config: &SchedulerConfig, steps: usize) -> Vec<f64> {
    let total = config.num_train_timesteps;
    match config.timestep_spacing {
        TimestepSpacing::Leading => {
            (0..steps).rev().map(|i| (i * (total / steps) + config.steps_offset) as f64).collect()
        }
        TimestepSpacing::Linspace => {
            let round = !config.sampler.is_by_sigma();
            let exact = evenly((total - 1) as f64, steps);
            exact.map(|t| if round { t.round_ties_even() } else { f64::from(t as f32) }).collect()
        }
        TimestepSpacing::Trailing => {
            let spaced = downwards(total as f64, total as f64 / steps as f64, steps);
            spaced.map(|t| t.round_ties_even() - 1.0).collect()
        }
        TimestepSpacing::Quadratic => quadratic(total - 1, steps),
    }
}

/// `steps` whole numbers from `last` to 0 that grow as squares (DDIM, arXiv 2010.02502, appendix D.2); where squares
/// lie closer than that, one apart.
fn quadratic(last: usize, steps: usize) -> Vec<f64> {
    let mut times = Vec::with_capacity(steps);
    for i in 0..steps {
        let u = if steps > 1 { i as f64 / (steps - 1) as f64 } else { 1.0 };
        let next = times.last().map_or(0.0, |t| t + 1.0);
        times.push((last as f64 * u * u).round_ties_even().max(next));
    }
    times.reverse();
    times
}

/// A multistep solver's timesteps: it steps from each to the next and from the last to its final σ, so that "leading" and
/// "linspace" leave out 0.
fn multistep_timesteps(config: &SchedulerConfig, schedule: &NoiseSchedule, steps: usize) -> Vec<f64> {
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
        TimestepSpacing::Quadratic => {
            let mut times = quadratic(last.saturating_sub(1), steps + 1);
            times.truncate(steps);
            times
        }
    }
}

/// The index of a whole timestep.
pub(super) fn index(t: f64, total: usize) -> Result<usize, ConfigError> {
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
pub(super) fn interpolated(table: &[f64], t: f64) -> f64 {
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

/// The sigmas of DPM-Solver++, Euler and Heun on a chain: those between its timesteps.
pub(super) fn by_sigma(
    config: &SchedulerConfig,
    schedule: &NoiseSchedule,
    steps: usize,
) -> Result<Sigmas, ConfigError> {
    let table = sigma_table(config, schedule);
    let multistep = config.sampler.counts_as_dpm_solver();
    let mut times =
        if multistep { multistep_timesteps(config, schedule, steps) } else { timesteps(config, steps) };
    let mut sigmas: Vec<f64> = times.iter().map(|&t| interpolated(&table, t)).collect();
    if config.use_karras_sigmas {
        let ends = if multistep { (table.first(), table.last()) } else { (sigmas.last(), sigmas.first()) };
        let smallest = config.sigma_min.or(ends.0.copied()).unwrap_or(1.0);
        let largest = config.sigma_max.or(ends.1.copied()).unwrap_or(1.0);
        sigmas = karras(smallest, largest, steps);
        times = sigmas.iter().map(|&s| timestep_of(&table, s)).collect();
        if multistep && config.beta_schedule.has_whole_karras_timesteps() {
            times.iter_mut().for_each(|t| *t = t.round_ties_even());
        }
    }
    if multistep {
        times.iter_mut().for_each(|t| *t = t.trunc());
    }
    let last = match config.final_sigmas_type {
        FinalSigma::SigmaMin if config.sampler.has_final_sigma() => table[0],
        FinalSigma::SigmaMin | FinalSigma::Zero => 0.0,
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
    Ok(Sigmas { timesteps: times, levels: sigmas.into_iter().map(NoiseLevel::of_sigma).collect() })
}

/// The sigmas on a continuous schedule, the last at no noise.
pub(super) fn continuous(config: &SchedulerConfig, steps: usize) -> Sigmas {
    let kind = config.beta_schedule;
    // EDM, table 1.
    let (smallest, largest) = (config.sigma_min.unwrap_or(0.002), config.sigma_max.unwrap_or(80.0));
    let mut levels: Vec<NoiseLevel> = if config.use_karras_sigmas {
        karras(smallest, largest, steps).into_iter().map(NoiseLevel::of_sigma).collect()
    } else {
        let part = |i: usize| {
            let left = 1.0 - i as f64 / steps as f64;
            match config.timestep_spacing {
                TimestepSpacing::Quadratic => left * left,
                TimestepSpacing::Leading | TimestepSpacing::Linspace | TimestepSpacing::Trailing => left,
            }
        };
        let level = |i| match kind {
            ScheduleKind::Flow => {
                NoiseLevel::of_flow_time(config.sigma_max.map_or(1.0, |s| s / (1.0 + s)) * part(i))
            }
            ScheduleKind::Edm
            | ScheduleKind::Linear
            | ScheduleKind::ScaledLinear
            | ScheduleKind::Cosine
            | ScheduleKind::Sigmoid => NoiseLevel::of_sigma(largest * part(i)),
        };
        (0..steps).map(level).collect()
    };
    let timesteps = levels.iter().map(|&level| kind.conditioning(level).unwrap_or(0.0)).collect();
    levels.push(NoiseLevel { signal: 1.0, noise: 0.0 });
    Sigmas { timesteps, levels }
}
