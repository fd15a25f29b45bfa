//! Training: one configuration, tasks, the two graphs of a step, the loop, checkpoints.
//!
//! The loop works on folders and waits for the device, so a browser, which has its own, does without it.

mod checkpoint;
mod classification;
mod config;
mod config_file;
mod diffusion;
#[cfg(not(target_arch = "wasm32"))]
mod evaluation;
#[cfg(not(target_arch = "wasm32"))]
mod grid;
#[cfg(not(target_arch = "wasm32"))]
mod init;
#[cfg(feature = "charts")]
mod loss_curve;
mod open_model;
#[cfg(not(target_arch = "wasm32"))]
mod run;
mod states;
mod step;
mod validate;

pub use checkpoint::{Checkpoint, FolderError, ModelFolder, built_in_model, open_classifier};
pub use classification::{Classification, ClassificationInputs};
pub use config::{EmaWarmup, LearningRate, NetworkKind, TimestepSampling, TrainConfig};
pub use config_file::{read_config, read_config_and_fields};
pub use diffusion::{Diffusion, DiffusionInputs};
#[cfg(not(target_arch = "wasm32"))]
pub use grid::grid_columns;
#[cfg(not(target_arch = "wasm32"))]
pub use init::{Inherited, open_initial_model};
#[cfg(feature = "charts")]
pub use loss_curve::loss_curve;
pub use open_model::open_model;
#[cfg(not(target_arch = "wasm32"))]
pub use run::{
    RunOptions, RunPlan, TrainError, TrainEvent, check_labels, open_data, open_data_reporting, split_data,
    train,
};
pub use states::TrainStates;
pub use step::{
    LogRow, LossGraph, StepOptions, Task, TrainPlans, Trainer, UpdateInputs, Updater, gradient_graph,
    update_graph,
};

/// Pictures (B, H, W, C) in [-1, 1], and labels (B).
pub type PictureBatch = (Vec<f32>, Vec<u32>);
