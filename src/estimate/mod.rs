//! What a training step costs before anything runs, and how long it would take on a GPU that is not at hand.
//!
//! [`Estimate::new`] counts what the plans of a run launch and keep in memory; with a [`Gpu`] it also says how long each launch
//! would take there ([`model`]). No device is opened.

mod capacity;
mod gpu;
mod memory;
mod mix;
pub mod model;
pub mod report;
#[cfg(test)]
mod tests;
mod work;

pub use gpu::{GPUS, Gpu, Tiles, UnknownGpu};
pub use memory::{MemoryByLife, WorkingMemory};
pub use mix::{InstructionMix, InstructionMixes};
pub use model::Bound;
pub use work::Work;

use crate::graph::{Candidate, Caps, Choices, Kernels, Plan};
use crate::shader::ShaderError;
use crate::train::{RunPlan, TrainConfig, TrainError};
use serde::Serialize;
use std::collections::BTreeMap;

/// The version of the JSON, raised when a field changes its meaning or goes.
pub const FORMAT: u32 = 1;

/// What a training step costs. All times are in seconds.
#[derive(Clone, Debug, Serialize)]
pub struct Estimate {
    /// [`FORMAT`].
    pub format: u32,
    /// Version of the program.
    pub inkwash: &'static str,
    /// What decides the step.
    pub config: TrainConfig,
    /// Numbers that are trained.
    pub parameters: u64,
    /// Pictures of a step.
    pub pictures: u64,
    /// Of all launches.
    pub totals: Sums,
    /// By part of the step.
    pub phases: Vec<Sums>,
    /// By operator.
    pub operators: Vec<Sums>,
    /// By kernel and variant.
    pub kernels: Vec<Sums>,
    /// Device memory.
    pub memory: MemoryByLife,
    /// Working memory of each plan.
    pub working_memory: Vec<WorkingMemory>,
    /// The step on a GPU, if one was named.
    pub on: Option<OnGpu>,
    /// Every launch, in the order of the step.
    pub launches: Vec<LaunchEstimate>,
}

/// A step on a GPU that is not at hand.
#[derive(Clone, Debug, Serialize)]
pub struct OnGpu {
    /// The GPU.
    pub gpu: Gpu,
    /// Launches and gaps.
    pub step_seconds: f64,
    /// The gaps between launches.
    pub gap_seconds: f64,
    /// Pictures per second.
    pub pictures_per_s: f64,
    /// Products whose instructions are not recorded: `shader:entry [variant]`.
    pub unrecorded: Vec<String>,
    /// What the model takes for granted, a sentence each.
    pub assumptions: Vec<String>,
}

/// A launch, and how long it would take.
#[derive(Clone, Debug, Serialize)]
pub struct LaunchEstimate {
    /// What it does.
    #[serde(flatten)]
    pub work: Work,
    /// The time of all its calls, if a GPU was named.
    pub seconds: Option<f64>,
    /// What bounds it there.
    pub bound: Option<Bound>,
}

/// Launches that have something in common, added up.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Sums {
    /// What they have in common.
    pub name: String,
    /// Launches in a step.
    pub launches: u64,
    /// Operations in convolutions and products of matrices.
    pub matrix_flops: u64,
    /// All other arithmetic.
    pub other_flops: u64,
    /// What the tiles of products execute ([`Work::executed_flops`]).
    pub executed_flops: u64,
    /// Bytes that must be read.
    pub bytes_read: u64,
    /// Bytes that must be written.
    pub bytes_written: u64,
    /// Bytes that the launches read and write ([`Work::moved_bytes`]).
    pub moved_bytes: u64,
    /// Their time without gaps, if a GPU was named.
    pub seconds: Option<f64>,
    /// What bounds most of it.
    pub bound: Option<Bound>,
}

impl Sums {
    /// Of these launches.
    pub fn of(name: impl Into<String>, launches: &[&LaunchEstimate]) -> Self {
        let mut sums = Self { name: name.into(), ..Self::default() };
        let mut by_bound: BTreeMap<Bound, f64> = BTreeMap::new();
        for LaunchEstimate { work, seconds, bound } in launches {
            sums.launches += work.calls;
            sums.matrix_flops += work.matrix_flops;
            sums.other_flops += work.other_flops;
            sums.executed_flops += work.executed_flops;
            sums.bytes_read += work.bytes_read;
            sums.bytes_written += work.bytes_written;
            sums.moved_bytes += work.moved_bytes;
            if let (Some(seconds), Some(bound)) = (seconds, bound) {
                *sums.seconds.get_or_insert(0.0) += seconds;
                *by_bound.entry(*bound).or_default() += seconds;
            }
        }
        sums.bound = by_bound.into_iter().max_by(|a, b| a.1.total_cmp(&b.1)).map(|(bound, _)| bound);
        sums
    }
}

impl Estimate {
    /// Of the run that `config` plans, with the network in full; with times if a GPU is named.
    ///
    /// # Errors
    /// A shader that naga refuses.
    pub fn new(config: &TrainConfig, run: &RunPlan, gpu: Option<Gpu>) -> Result<Self, ShaderError> {
        let plans = [(&run.plans.micro, u64::from(config.accumulate)), (&run.plans.update, 1)];
        let mixes = InstructionMixes::recorded();
        let launches = launches(Work::of(&plans)?, gpu.as_ref(), mixes);
        let all: Vec<&LaunchEstimate> = launches.iter().collect();
        let totals = Sums::of("step", &all);
        let pictures = config.effective_batch() as u64;
        let on = gpu.map(|gpu| on_gpu(gpu, &totals, pictures, &launches, mixes));
        Ok(Self {
            format: FORMAT,
            inkwash: env!("CARGO_PKG_VERSION"),
            config: config.clone(),
            parameters: run.parameters.count() as u64,
            pictures,
            totals,
            phases: sums_by(&launches, |work| work.phase.name().into()),
            operators: sums_by(&launches, |work| work.op.clone()),
            kernels: sums_by(&launches, kernel),
            memory: MemoryByLife::of(run),
            working_memory: WorkingMemory::of(run),
            on,
            launches,
        })
    }
}

/// The plan of a run on a GPU, with matrix units wherever an operator has an algorithm that uses them.
///
/// # Errors
/// As [`RunPlan::new`].
pub fn plan(config: &TrainConfig, gpu: &Gpu, kernels: Kernels) -> Result<RunPlan, TrainError> {
    let caps = gpu.caps(kernels);
    let run = RunPlan::new(config, &caps)?;
    let plans = [&run.plans.micro, &run.plans.update, &run.evaluation];
    let plans: Vec<&Plan> = plans.into_iter().chain(&run.grids).collect();
    let choices = Choices::of(&plans, &caps, Candidate::on_matrix_units);
    if choices.is_empty() { Ok(run) } else { RunPlan::new(config, &Caps { choices: choices.into(), ..caps }) }
}

fn on_gpu(
    gpu: Gpu,
    totals: &Sums,
    pictures: u64,
    launches: &[LaunchEstimate],
    mixes: &InstructionMixes,
) -> OnGpu {
    let gap_seconds = totals.launches as f64 * model::GAP_SECONDS;
    let step_seconds = totals.seconds.unwrap_or(0.0) + gap_seconds;
    let products = launches.iter().map(|launch| &launch.work).filter(|work| work.matrix_flops > 0);
    let mut unrecorded: Vec<String> = products
        .filter(|work| {
            mixes.of(&work.kernel, &work.variant).is_none_or(|mix| mix.hottest.fma + mix.hottest.matrix == 0)
        })
        .map(kernel)
        .collect();
    unrecorded.sort();
    unrecorded.dedup();
    OnGpu {
        gpu,
        step_seconds,
        gap_seconds,
        pictures_per_s: pictures as f64 / step_seconds.max(f64::MIN_POSITIVE),
        unrecorded,
        assumptions: model::assumptions(&gpu),
    }
}

/// `shader:entry [variant]`.
fn kernel(work: &Work) -> String {
    format!("{} [{}]", work.kernel, work.variant)
}

/// Times for what launches do, if a GPU is named.
fn launches(works: Vec<Work>, gpu: Option<&Gpu>, mixes: &InstructionMixes) -> Vec<LaunchEstimate> {
    let timed = |work: Work| {
        let time = gpu.map(|gpu| model::seconds(&work, mixes.of(&work.kernel, &work.variant), gpu));
        LaunchEstimate {
            work,
            seconds: time.map(|(seconds, _)| seconds),
            bound: time.map(|(_, bound)| bound),
        }
    };
    works.into_iter().map(timed).collect()
}

/// Sums of the launches that have the same key, the longest time first, or the most arithmetic and then the most bytes.
pub fn sums_by(launches: &[LaunchEstimate], key: impl Fn(&Work) -> String) -> Vec<Sums> {
    let mut groups: BTreeMap<String, Vec<&LaunchEstimate>> = BTreeMap::new();
    for launch in launches {
        groups.entry(key(&launch.work)).or_default().push(launch);
    }
    let mut sums: Vec<Sums> = groups.into_iter().map(|(name, launches)| Sums::of(name, &launches)).collect();
    sums.sort_by(|a, b| {
        let time = |sums: &Sums| sums.seconds.unwrap_or(0.0);
        let size = |sums: &Sums| (sums.matrix_flops + sums.other_flops, sums.moved_bytes);
        time(b).total_cmp(&time(a)).then_with(|| size(b).cmp(&size(a)))
    });
    sums
}
