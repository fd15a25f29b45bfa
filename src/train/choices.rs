//! Which algorithms a new run computes with.

use super::{RunOptions, RunPlan, TrainError, TrainEvent};
use crate::gpu::Device;
use crate::graph::Choices;
use crate::tune::{Effort, Tuning, tune};
use std::sync::Arc;

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
    if tuning.measured > 0 {
        let Tuning { measured, changed, ref refused, seconds, .. } = tuning;
        let mut message =
            format!("{measured} operators were measured in {seconds:.1} s; {changed} get another algorithm");
        if !refused.is_empty() {
            let names: Vec<&str> = refused.iter().map(String::as_str).collect();
            message += &format!(
                ". Faster, but of other values on this device, and not used: {} (`inkwash doctor` shows more)",
                names.join(", ")
            );
        }
        observe(&TrainEvent::Note { message: &message });
    }
    Ok(tuning.choices)
}
