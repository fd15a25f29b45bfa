//! The mathematics of diffusion on the host: noise schedules, what the network predicts, samplers as
//! coefficients of one kernel, and the U-Net from its configuration.

// A new sampler, schedule or prediction must be decided on wherever there is a choice, not fall into another's arm.
#![warn(clippy::wildcard_enum_match_arm)]

mod blocks;
mod config;
mod notation;
mod sampler;
mod schedule;
mod scheduler;
mod spacing;
#[cfg(test)]
mod theory_tests;
mod training_table;
mod unet;

pub use config::{DownBlock, Preset, TimeScaleShift, UNetConfig, UpBlock};
pub use notation::{ChainStep, NoiseLevel};
pub use sampler::{SamplerStep, Trajectory};
pub use schedule::{NoiseSchedule, Objective, Prediction, ScheduleKind};
pub use scheduler::{FinalSigma, Sampler, SchedulerConfig, SolverType, TimestepSpacing, VarianceType};
pub use training_table::Weighting;
pub use unet::UNet;

/// What a value without fields is called in files; the command line has the same names.
fn name_in_files(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        _ => String::new(),
    }
}
