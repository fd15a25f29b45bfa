//! Training: one configuration, the two graphs of a step, the loop, checkpoints.

mod checkpoint;
mod config;
mod evaluation;
mod grid;
#[cfg(feature = "charts")]
mod loss_curve;
mod run;
mod step;

pub use checkpoint::{Checkpoint, FolderError, ModelFolder, built_in_model, open_model, read_config};
pub use config::{EmaWarmup, LearningRate, TimestepSampling, TrainConfig};
pub use grid::grid_columns;
#[cfg(feature = "charts")]
pub use loss_curve::loss_curve;
pub use run::{RunOptions, TrainError, TrainEvent, open_data, planned_bytes, train};
pub use step::{
    EMA, LogRow, Micro, PARAMETERS, TrainPlans, Trainer, Update, evaluation_graph, micro_graph, update_graph,
};
