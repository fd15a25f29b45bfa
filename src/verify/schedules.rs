//! Noise schedules, timesteps and the forward process: what no network enters.

use super::network::add_noise;
use super::{Limit, Oracle, Report, VerifyError};
use crate::diffusion::{NoiseSchedule, Sampler, ScheduleKind, SchedulerConfig, TimestepSpacing, Trajectory};
use crate::gpu::Device;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::sync::Arc;

const TABLE: Limit = Limit::Relative(1e-6);

fn named<T: DeserializeOwned>(name: &str) -> Option<T> {
    serde_json::from_value(Value::String(name.into())).ok()
}

/// `linear`, `linear-T100`, `linear-zero_snr`, …: a schedule and what differs from the usual.
fn schedule(oracle: &Oracle, label: &str) -> Option<SchedulerConfig> {
    let mut config = SchedulerConfig::new(Sampler::Ddpm);
    (config.beta_start, config.beta_end) = oracle.betas();
    let mut parts = label.split('-');
    config.beta_schedule = named::<ScheduleKind>(parts.next()?)?;
    for part in parts {
        match part.strip_prefix('T').and_then(|steps| steps.parse().ok()) {
            Some(steps) => config.num_train_timesteps = steps,
            None if part == "zero_snr" => config.rescale_betas_zero_snr = true,
            None => return None,
        }
    }
    config.validate().ok()?;
    Some(config)
}

pub(super) fn check(device: &Arc<Device>, oracle: &Oracle, report: &mut Report) -> Result<(), VerifyError> {
    let names: Vec<String> = oracle.tensors.keys().cloned().collect();
    for name in names {
        let ours = match name.split('.').collect::<Vec<_>>()[..] {
            ["add_noise", label, what @ ("x_t" | "velocity")] => noised(device, oracle, label, what)?,
            ["timesteps", class, spacing, steps] => timesteps(class, spacing, steps),
            [label, what] => schedule(oracle, label).and_then(|config| table(&config, what)),
            _ => None,
        };
        match ours {
            // √ᾱ - √ᾱ_T cancels, and PyTorch's square root is a unit in the last place off the nearest f32.
            Some(ours) if name.ends_with("zero_snr.betas") => {
                report.compare(oracle, &name, &ours, Limit::Relative(1e-5))?;
            }
            Some(ours) => report.compare(oracle, &name, &ours, TABLE)?,
            None if name.starts_with("add_noise.") => {}
            None => report.left_out.push((name, "not of a schedule that is known by this name")),
        }
    }
    Ok(())
}

/// A column of a schedule's table.
fn table(config: &SchedulerConfig, what: &str) -> Option<Vec<f64>> {
    let schedule = NoiseSchedule::of(config);
    let value = |t: usize| {
        let step = schedule.step(t, t.checked_sub(1));
        match what {
            "betas" => Some(schedule.beta(t)),
            "alphas_cumprod" => Some(schedule.alpha_bar(Some(t))),
            "variance_fixed_small" => Some(step.variance),
            "variance_fixed_large" => Some(step.beta),
            _ => None,
        }
    };
    (0..schedule.timesteps()).map(value).collect()
}

fn timesteps(class: &str, spacing: &str, steps: &str) -> Option<Vec<f64>> {
    let sampler = Sampler::ALL.into_iter().find(|sampler| sampler.oracle_name() == class)?;
    let config = SchedulerConfig {
        timestep_spacing: named::<TimestepSpacing>(spacing)?,
        ..SchedulerConfig::new(sampler)
    };
    let trajectory = Trajectory::new(&config, steps.parse().ok()?, 0.0).ok()?;
    Some(trajectory.steps.iter().map(|s| s.timestep).collect())
}

/// x_t = signal x_0 + noise ε, and v = signal ε - noise x_0, by the kernel.
fn noised(
    device: &Arc<Device>,
    oracle: &Oracle,
    label: &str,
    what: &str,
) -> Result<Option<Vec<f64>>, VerifyError> {
    let Some(config) = schedule(oracle, label) else { return Ok(None) };
    let schedule = NoiseSchedule::of(&config);
    let (x_0, noise) = (oracle.tensor("add_noise.x0")?, oracle.tensor("add_noise.noise")?);
    let times = &oracle.tensor("add_noise.timestep")?.data;
    if what == "x_t" {
        return add_noise(device, oracle, &schedule, x_0, noise, times).map(Some);
    }
    // v is x_t a quarter turn on: ε in the place of x_0, and -x_0 in that of ε.
    let mut negative = x_0.clone();
    negative.data.iter_mut().for_each(|x| *x = -*x);
    add_noise(device, oracle, &schedule, noise, &negative, times).map(Some)
}
