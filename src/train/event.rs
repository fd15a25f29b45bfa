//! What a run is asked beside its configuration, and what it tells.

use super::{Group, LogRow, RunPlan, TrainConfig};
use crate::data::{self, Report};
use crate::gpu::Info;
use crate::tune::Effort;
use std::path::PathBuf;

/// What is asked of a run beside its configuration.
#[derive(Clone)]
pub struct RunOptions<'a> {
    /// Where the run folder is made, or lies.
    pub out: PathBuf,
    /// Go on with the run in the folder: from its newest checkpoint, or from its beginning if it has none yet.
    pub resume: bool,
    /// Go on from the checkpoint of this step, and set newer ones aside.
    pub from_step: Option<u32>,
    /// Called while the pictures are read, from several threads.
    pub data_progress: &'a data::Progress<'a>,
    /// Whether the fastest algorithms are looked for before a new run begins; `None` for what suits the device.
    pub tune: Option<Effort>,
    /// The folder that keeps what was measured, if it is to be kept.
    pub cache: Option<PathBuf>,
    /// The processes that train together. The first of them writes the folder and tells the events.
    pub group: Group,
}

impl RunOptions<'_> {
    /// A new run in this folder.
    pub fn new(out: impl Into<PathBuf>) -> Self {
        Self {
            out: out.into(),
            resume: false,
            from_step: None,
            data_progress: &|_, _| (),
            tune: None,
            cache: None,
            group: Group::alone(),
        }
    }
}

/// Steps that changed nothing, since their gradient was not finite.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Whatever the loss was scaled by: too many of them end the run.
    pub not_finite: u32,
    /// Since the loss was scaled by too much ([`LogRow::is_skipped_by_scale`]).
    pub by_scale: u32,
}

/// An event of a run, in the order in which they happen. Steps are counts of optimizer steps done.
pub enum TrainEvent<'a> {
    /// Something that a person may not expect of what was asked for, before anything is trained. Also a picture of the run
    /// that could not be written, while the training goes on.
    Warning {
        /// What, and its consequence: a sentence without its full stop.
        message: &'a str,
    },
    /// Something to know that is as it should be.
    Note {
        /// A sentence without its full stop.
        message: &'a str,
    },
    /// The run that is to be gone on with has all its steps. Nothing was changed, and no other event follows.
    NothingToDo {
        /// Steps done.
        step: u32,
        /// Steps of the whole run.
        steps: u32,
    },
    /// The pictures were read; this was found where they lie.
    DataOpened {
        /// Also of what is not used.
        report: &'a Report,
    },
    /// Pictures, configuration and device fit together. Nothing is allocated or written yet.
    Planned {
        /// The device.
        device: &'a Info,
        /// Pictures to train on.
        training: usize,
        /// Pictures held out.
        held_out: usize,
        /// The configuration with the network in full.
        config: &'a TrainConfig,
        /// The network, the plans of a training step, and the memory that is needed.
        plan: &'a RunPlan,
    },
    /// The first step follows.
    Started {
        /// 0, or where a resumed run goes on.
        step: u32,
        /// Of the steps before, those that changed nothing.
        skipped: Skipped,
        /// Steps of the whole run.
        steps: u32,
        /// Device bytes allocated.
        allocated_bytes: u64,
    },
    /// Rows were read back from the device and logged.
    Logged {
        /// One for each step since the last ones.
        rows: &'a [LogRow],
        /// Steps since the beginning of the run that changed nothing.
        skipped: Skipped,
        /// Mean since the start, without pauses for samples and checkpoints.
        images_per_s: f64,
    },
    /// A step was submitted. The device may still be at work on it.
    Step {
        /// Steps done.
        step: u32,
    },
    /// The averaged weights were measured on the held-out pictures.
    HeldOut {
        /// Steps done.
        step: u32,
        /// The loss.
        loss: f64,
        /// The share of pictures whose class a classifier predicts.
        accuracy: Option<f64>,
    },
    /// A sample grid was drawn and written.
    GridSaved {
        /// Steps done.
        step: u32,
    },
    /// A checkpoint and the averaged weights were written.
    CheckpointSaved {
        /// Steps done.
        step: u32,
    },
    /// The run was interrupted and has ended early, with a checkpoint.
    Interrupted {
        /// Steps done.
        step: u32,
    },
    /// All steps are done.
    Finished {
        /// Steps done.
        step: u32,
    },
}
