//! Models on disk: diffusers' folders, opened and written, and the weights of a network by name.

pub mod diffusers;
pub mod json;
mod options;
mod scheduler_config;
mod unet_config;
mod unet_weights;
mod weights;

use crate::diffusion::{SchedulerConfig, UNet};
use crate::io::FileError;
use crate::nn::{ConfigError, Precision};
use std::path::PathBuf;

pub use weights::{flat, tensors};

/// A trained network and the way to sample it.
#[derive(Debug)]
pub struct Model {
    /// The network.
    pub unet: UNet,
    /// Its weights: a flat vector in device order.
    pub weights: Vec<f32>,
    /// How it is sampled.
    pub scheduler: SchedulerConfig,
    /// The label that stands for none, if the network was trained to draw without a class too.
    pub null_label: Option<u32>,
    /// The classes by name, in the order of their labels; empty if there are none or their names are not known.
    pub class_names: Vec<String>,
    /// What its files ask for and diffusers does not do either, one sentence each.
    pub warnings: Vec<String>,
}

impl Model {
    /// The same model computing in this precision.
    #[must_use]
    pub fn in_precision(self, precision: Precision) -> Self {
        let before = self.unet.parameters.clone();
        let unet = self.unet.in_precision(precision);
        Self { weights: unet.parameters.moved(&before, &self.weights), unet, ..self }
    }
}

/// A model that cannot be opened or written. Its `Display` tells all; there is no need to print the sources.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file that cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A folder that lacks a file or has one too many.
    #[error("{path} {message}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What was found, what was expected, and the remedy.
        message: String,
    },
    /// An option of a configuration file.
    #[error("{path}: `{key}`: {message}")]
    Option {
        /// The file.
        path: PathBuf,
        /// The option.
        key: String,
        /// What was found, what was expected, and the remedy.
        message: String,
    },
    /// A configuration that no network or scheduler can be made from.
    #[error("{path}: {source}")]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: ConfigError,
    },
    /// A weights file of another network.
    #[error("{path}: tensor `{name}` {message}; the file belongs to another configuration")]
    Weights {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// What differs.
        message: String,
    },
}
