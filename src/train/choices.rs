//! Which algorithms a new run computes with.

use super::{RunOptions, RunPlan, TrainConfig, TrainError, TrainEvent};
use crate::gpu::Device;
use crate::graph::Choices;
use crate::tune::{Effort, Tuning, tune};
use std::path::Path;
use std::sync::Arc;

/// What is known of the operators of a step of this configuration after so much effort ([`tune`]).
///
/// # Errors
/// A configuration that cannot be planned, or a device that fails.
pub fn tuned(
    device: &Arc<Device>,
    config: &TrainConfig,
    effort: Effort,
    cache: Option<&Path>,
    begin: &mut dyn FnMut(usize),
) -> Result<Tuning, TrainError> {
    if effort == Effort::Off {
        return Ok(Tuning::default());
    }
    let plans = RunPlan::new(config, &device.caps)?.plans;
    Ok(tune(device, &[&plans.micro, &plans.update], effort, cache, begin)?)
}

/// Measures which algorithms are the fastest for a new run, if that is wanted, and says so.
pub(super) fn measured_choices(
    device: &Arc<Device>,
    RunPlan { plans, .. }: &RunPlan,
    effort: Effort,
    options: &RunOptions,
    observe: &mut dyn FnMut(&TrainEvent),
) -> Result<Choices, TrainError> {
    if effort == Effort::Off {
        return Ok(Choices::default());
    }
    let plans = [&plans.micro, &plans.update];
    let tuning = tune(device, &plans, effort, options.cache.as_deref(), &mut |operators| {
        let message = format!(
            "{operators} operators are measured for the fastest algorithm (--tune off leaves it out)"
        );
        observe(&TrainEvent::Note { message: &message });
    })?;
    let Tuning { checked, measured, changed, ref refused, seconds, .. } = tuning;
    let mut parts = Vec::new();
    if measured > 0 {
        parts.push(format!("{measured} operators were measured; {changed} get another algorithm"));
    }
    if checked > 0 {
        parts.push(format!(
            "{checked} algorithms that were kept from an earlier run were compared with the ordinary ones"
        ));
    }
    if !refused.is_empty() {
        let names: Vec<&str> = refused.iter().map(String::as_str).collect();
        parts.push(format!(
            "faster, but of other values on this device, and not used: {} (`inkwash doctor` shows more)",
            names.join(", ")
        ));
    }
    if !parts.is_empty() {
        let message = format!("{}; {seconds:.1} s", parts.join("; "));
        observe(&TrainEvent::Note { message: &message });
    }
    Ok(tuning.choices)
}
