//! The article's experiments. Each computes its numbers with the engine's own kernels, draws them, and leaves
//! `result.json` with verdicts: claims, each with the value that was measured and what was expected of it.

mod blind;
mod cold;
mod findings;
mod finite_set;
mod forward;
mod objectives;
mod ode;
mod premises;
mod reverse;
mod statistics;
mod training;
mod variance;

pub use findings::{Expected, Findings, LabError, Table, Verdict};

use crate::gpu::Device;
use std::sync::Arc;

/// An experiment.
pub struct Experiment {
    /// What `inkwash lab NAME` calls it.
    pub name: &'static str,
    /// What it is about, in a few words.
    pub title: &'static str,
    /// What to see in its plot, in two sentences.
    pub see: &'static str,
    /// The equation that it is about, and where the article or a paper has it.
    pub equation: &'static str,
    /// The shaders that compute it, as files under `shaders/`.
    pub shaders: &'static [&'static str],
    /// What it takes at most on two cores without a GPU, in a release build.
    pub minutes: u32,
    /// Runs it.
    pub run: fn(&Lab, &mut Findings) -> Result<(), LabError>,
}

/// What an experiment is given.
pub struct Lab<'a> {
    /// Where the kernels run.
    pub device: Arc<Device>,
    /// Of everything random.
    pub seed: u64,
    /// Real pictures, as `inkwash train --data` names them, for the experiment that looks at some.
    pub data: Option<&'a str>,
    /// Says how far it is, in a line.
    pub progress: &'a dyn Fn(&str),
}

/// Every experiment, in the order of the article.
pub const EXPERIMENTS: &[Experiment] = &[
    premises::EXPERIMENT,
    forward::EXPERIMENT,
    objectives::EXPERIMENT,
    variance::EXPERIMENT,
    reverse::EXPERIMENT,
    ode::EXPERIMENT,
    blind::EXPERIMENT,
    cold::EXPERIMENT,
];

/// The experiment of a name.
pub fn find(name: &str) -> Option<&'static Experiment> {
    EXPERIMENTS.iter().find(|e| e.name == name)
}
