//! Where the time of a step goes: every launch over several runs, beside the work it does and what the device reaches.
//!
//! [`training_step`], [`sampling_step`] and [`operator`] measure, and give a [`Profile`], which is also the JSON file. Tables
//! ([`table`]), traces ([`trace`]) and comparisons ([`diff`]) are made of it. Asked for [`lines`], they give what the parts of
//! one kernel cost.

mod clock;
pub mod diff;
mod file;
pub mod lines;
mod measure;
mod memory;
pub mod page;
pub mod report;
mod roofs;
mod rounds;
mod statistics;
mod subject;
pub mod table;
pub mod trace;

pub use clock::ClockFault;
pub use measure::{Measure, Options};
pub use memory::{Memory, TensorLife};
pub use roofs::Roofs;
pub use statistics::Seconds;
pub use subject::{operator, sampling_step, training_step, with_made_up_classes};

use crate::gpu::{Clock, GpuError, RunError};
use crate::graph::{GraphError, Phase, PlanError};
use crate::nn::ConfigError;
use crate::shader::ShaderError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The version of the JSON file, raised when a field changes its meaning or goes.
pub const FORMAT: u32 = 1;

/// What stops a profile.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// A network that cannot be built.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The graph, plan or device.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A kernel that the step does not launch.
    #[error("--lines {asked}: {reason}")]
    NoKernel {
        /// What was asked for.
        asked: String,
        /// What is wrong with it, and what there is.
        reason: String,
    },
    /// The clock that was asked for is not there, or not to be trusted.
    #[error(
        "the device {device} cannot be timed by {clock}: {reason}. Leave the clock to be chosen, or choose another"
    )]
    Clock {
        /// The device.
        device: String,
        /// The clock's name.
        clock: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

impl From<ShaderError> for ProfileError {
    fn from(e: ShaderError) -> Self {
        Self::Run(GpuError::from(e).into())
    }
}

impl From<GpuError> for ProfileError {
    fn from(e: GpuError) -> Self {
        Self::Run(e.into())
    }
}

impl From<GraphError> for ProfileError {
    fn from(e: GraphError) -> Self {
        Self::Run(e.into())
    }
}

impl From<PlanError> for ProfileError {
    fn from(e: PlanError) -> Self {
        Self::Run(e.into())
    }
}

/// A step, measured. All times are in seconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Profile {
    /// [`FORMAT`].
    pub format: u32,
    /// Version of the program.
    pub inkwash: String,
    /// When it was measured: UTC, as in `2026-11-26T18:00:00Z`.
    pub date: String,
    /// The adapter.
    pub device: String,
    /// Its interface.
    pub backend: String,
    /// Its driver.
    pub driver: String,
    /// Which algorithms are preferred.
    pub kernels: String,
    /// The files that a user's folder put in place of embedded ones, with the CRC-32 of each.
    #[serde(default)]
    pub shaders: BTreeMap<String, String>,
    /// `training step`, `sampling step`, or an operator with its case.
    pub subject: String,
    /// What decides the step: a training configuration for steps.
    pub config: serde_json::Value,
    /// How launches were timed.
    pub clock: Clock,
    /// Which better clocks were tried, and why they are not trusted: one sentence each.
    pub notes: Vec<String>,
    /// Profiled steps, and as many undisturbed ones, in turns.
    pub runs: usize,
    /// Processes that measured the runs, as many runs each, in turn.
    #[serde(default = "one")]
    pub rounds: usize,
    /// An undisturbed step, waited for: the median.
    pub wall_seconds: f64,
    /// What of it is known: the host until the first submission, all launches, and the gaps between them, less what timing added;
    /// the median over the profiled steps.
    pub accounted_seconds: f64,
    /// Undisturbed steps.
    pub wall: Seconds,
    /// Profiled steps, waited for.
    pub profiled: Seconds,
    /// The host before the first submission: making and uploading the batch.
    pub upload: Seconds,
    /// The host before the first submission: encoding and submitting launches.
    pub encode: Seconds,
    /// All launches of a step.
    pub launched: Seconds,
    /// All gaps between them.
    pub gaps: Seconds,
    /// What timing added to launches and gaps: [`Roofs::clock_seconds`] for each launch.
    pub timing_seconds: f64,
    /// What the device reaches.
    pub roofs: Roofs,
    /// Every launch of a step, in order.
    pub launches: Vec<LaunchProfile>,
    /// What the step holds in device memory.
    #[serde(default)]
    pub memory: Memory,
    /// One of the profiled steps, whose launches took the median.
    pub timeline: Timeline,
}

/// The rounds of a profile that does not say: a process was one.
fn one() -> usize {
    1
}

/// A launch of a step. Where a step runs it several times (`accumulate`), all of them together.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LaunchProfile {
    /// The part of the step.
    pub phase: Phase,
    /// The module, as in `mid_block.attentions.0`.
    pub module: String,
    /// The operator.
    pub op: String,
    /// The WGSL file.
    pub shader: String,
    /// The entry point.
    pub entry: String,
    /// What was put in place of the file's defaults.
    pub variant: String,
    /// Workgroups per dimension.
    pub groups: [u32; 3],
    /// The operator's number in its plan: the launches of one operator share it.
    pub node: usize,
    /// Times that a step runs it.
    pub calls: usize,
    /// What its calls took together, with what timing added.
    pub seconds: Seconds,
    /// The gaps before its calls, together: the median. Negative where it began before the launch before it had ended.
    pub gap_seconds: f64,
    /// Its part of the time of all launches: the mean over the runs of its part in each, so that shares add up to 1.
    pub share: f64,
    /// Floating-point operations of its calls ([`crate::graph::Plan::launch_costs`]).
    pub flops: u64,
    /// Bytes that must move.
    pub bytes: u64,
    /// The time at the roof over the median time: 1 is as fast as the roof allows. May exceed 1, where caches serve what the
    /// copy that measured the roof had to fetch.
    pub roof_share: f64,
    /// What bounds it.
    pub limit: Limit,
    /// The seconds of every run.
    pub samples: Vec<f64>,
}

impl LaunchProfile {
    /// `shader:entry`.
    pub fn kernel(&self) -> String {
        format!("{}:{}", self.shader, self.entry)
    }
}

/// What bounds a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Limit {
    /// Multiply-adds: at the roof, they take longer than the traffic.
    Arithmetic,
    /// Traffic: at the roof, it takes longer than the multiply-adds.
    Bandwidth,
    /// Neither takes as long as a launch that does nothing.
    Launch,
    /// The host, where there is no launch at all.
    Host,
}

impl Limit {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Arithmetic => "arithmetic",
            Self::Bandwidth => "bandwidth",
            Self::Launch => "launch",
            Self::Host => "host",
        }
    }
}

/// One step in time.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Timeline {
    /// What the host did, in seconds since the step began.
    pub host: Vec<HostSpan>,
    /// What the device did, in seconds since its first launch began.
    pub device: Vec<DeviceSpan>,
    /// When the host had submitted the first of the work, in seconds since the step began: the two clocks have no other point in
    /// common.
    pub submitted: f64,
}

/// Something that the host did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HostSpan {
    /// `upload`, `encode and submit` or `wait`.
    pub name: String,
    /// When it began.
    pub begin: f64,
    /// When it ended.
    pub end: f64,
}

/// A launch that the device ran.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct DeviceSpan {
    /// Index into [`Profile::launches`].
    pub launch: usize,
    /// When it began.
    pub begin: f64,
    /// When it ended.
    pub end: f64,
}

impl Profile {
    /// What of an undisturbed step is not known; negative where profiled launches took longer than undisturbed ones.
    pub fn unaccounted_seconds(&self) -> f64 {
        self.wall_seconds - self.accounted_seconds
    }
}

#[cfg(test)]
mod tests;
