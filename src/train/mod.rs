//! Training: one configuration, tasks, the two graphs of a step, the loop, checkpoints.
//!
//! The loop works on folders and waits for the device, so a browser, which has its own, does without it.

#[cfg(not(target_arch = "wasm32"))]
mod beginning;
mod checkpoint;
#[cfg(not(target_arch = "wasm32"))]
mod choices;
mod classification;
mod config;
mod config_file;
mod diffusion;
#[cfg(not(target_arch = "wasm32"))]
mod divergence;
#[cfg(not(target_arch = "wasm32"))]
mod error;
#[cfg(not(target_arch = "wasm32"))]
mod evaluation;
#[cfg(not(target_arch = "wasm32"))]
mod event;
#[cfg(not(target_arch = "wasm32"))]
mod fit;
mod folder;
mod graphs;
#[cfg(not(target_arch = "wasm32"))]
mod grid;
mod group;
#[cfg(not(target_arch = "wasm32"))]
mod init;
#[cfg(not(target_arch = "wasm32"))]
mod log;
mod log_row;
#[cfg(feature = "charts")]
mod loss_curve;
mod memory_budget;
#[cfg(not(target_arch = "wasm32"))]
mod open_data;
mod open_model;
#[cfg(not(target_arch = "wasm32"))]
mod output;
mod pictures;
#[cfg(not(target_arch = "wasm32"))]
mod plan;
#[cfg(not(target_arch = "wasm32"))]
mod run;
#[cfg(not(target_arch = "wasm32"))]
mod run_folder;
mod states;
mod step;
mod validate;
#[cfg(not(target_arch = "wasm32"))]
mod warnings;

pub use checkpoint::Checkpoint;
#[cfg(not(target_arch = "wasm32"))]
pub use choices::tuned;
pub use classification::{Classification, ClassificationInputs};
pub use config::{EmaWarmup, LearningRate, NetworkKind, TimestepSampling, TrainConfig};
pub use config_file::{read_config, read_config_and_fields};
pub use diffusion::{Diffusion, DiffusionInputs};
#[cfg(not(target_arch = "wasm32"))]
pub use error::TrainError;
#[cfg(not(target_arch = "wasm32"))]
pub use event::{RunOptions, Skipped, TrainEvent};
#[cfg(not(target_arch = "wasm32"))]
pub use fit::{BytesOfBatch, Fitted};
pub use folder::{FolderError, ModelFolder, built_in_model, open_classifier};
pub use graphs::{LossGraph, UpdateInputs, gradient_graph, update_graph};
#[cfg(not(target_arch = "wasm32"))]
pub use grid::grid_columns;
pub use group::{Group, GroupError, Round, Sums, Tell};
#[cfg(not(target_arch = "wasm32"))]
pub use init::{Inherited, open_initial_model};
pub use log_row::LogRow;
#[cfg(feature = "charts")]
pub use loss_curve::loss_curve;
pub use memory_budget::{ByteCount, CheckpointingMode};
#[cfg(not(target_arch = "wasm32"))]
pub use open_data::{check_labels, open_data, open_data_reporting, split_data};
pub use open_model::open_model;
pub use pictures::Pictures;
#[cfg(not(target_arch = "wasm32"))]
pub use plan::RunPlan;
#[cfg(not(target_arch = "wasm32"))]
pub use run::train;
pub use states::TrainStates;
pub use step::{StepOptions, Task, TrainPlans, Trainer, Updater};

/// Pictures (B, H, W, C) in [-1, 1], and labels (B).
pub type PictureBatch = (Vec<f32>, Vec<u32>);
