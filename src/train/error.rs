//! What ends a run that cannot go on.

use super::{FolderError, GroupError};
use crate::data::DataError;
use crate::gpu::{GpuError, RunError};
use crate::io::FileError;
use crate::nn::ConfigError;
use std::path::PathBuf;

/// A run that cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A number out of range or a network that cannot be built.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The pictures.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The graph, plan or device.
    #[error(transparent)]
    Step(#[from] RunError),
    /// The device.
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// A file of the run.
    #[error(transparent)]
    File(#[from] FileError),
    /// The run folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The processes that train together.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// The output folder is taken.
    #[error(
        "{0} already holds files; choose another --out, or go on with the run in it by `inkwash train --resume {0}`"
    )]
    OutputTaken(PathBuf),
    /// The pictures do not fit the configuration.
    #[error("{0}")]
    Mismatch(String),
    /// Too many steps were skipped for a gradient that is not finite.
    #[error(
        "the gradient was not finite in {skipped} of the last {steps} steps, up to step {step}; such a step changes \
         nothing. {place}. {remedy}"
    )]
    Diverged {
        /// Steps that were skipped.
        skipped: usize,
        /// Of so many.
        steps: usize,
        /// Steps done.
        step: u32,
        /// Where the first number that is not finite appeared, as a sentence.
        place: String,
        /// What to change.
        remedy: String,
    },
    /// All steps are done, but some of the pictures of the run could not be written.
    #[error(
        "{first} All steps are done, but {count} of the sample grids and the loss curve could not be written"
    )]
    Pictures {
        /// What failed first.
        first: Box<FileError>,
        /// How many failed.
        count: usize,
    },
    /// A run that had begun.
    #[error("{}. {state}", .source.to_string().trim_end_matches('.'))]
    Stopped {
        /// What ended it.
        #[source]
        source: Box<TrainError>,
        /// What of it is safe, and how to go on.
        state: String,
    },
}
