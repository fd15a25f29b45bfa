//! What a run leaves on disk: `config.toml`, `model.safetensors` (the averaged weights by name, of a U-Net under diffusers'
//! names), and the checkpoints.

use super::{NetworkKind, TrainConfig, read_config};
use crate::classifier::Classifier;
use crate::diffusion::{Sampler, UNet};
use crate::io::tensor_file::{self, TensorFile};
use crate::io::{FileError, disk};
use crate::model::{Model, ModelError, flat, tensors};
use crate::nn::{ConfigError, Parameters};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A model folder that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// A file that cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A folder of diffusers that cannot be opened, or weights of another network.
    #[error(transparent)]
    Model(Box<ModelError>),
    /// No `config.toml`.
    #[error(
        "{path} has no config.toml, so it is not a run of inkwash; give the folder that `inkwash train --out` \
         wrote"
    )]
    NotARun {
        /// The folder.
        path: PathBuf,
    },
    /// Neither a run nor a folder of diffusers.
    #[error(
        "{path} {found}; expected a folder with config.toml, as a run of inkwash, or with model_index.json or \
         config.json, as a model of diffusers. {remedy}"
    )]
    NotAModel {
        /// The path.
        path: PathBuf,
        /// What is there.
        found: String,
        /// What to give instead.
        remedy: String,
    },
    /// A run without a checkpoint.
    #[error(
        "{path} holds no checkpoint; put one back into its checkpoints/, or train anew with another --out"
    )]
    NoCheckpoint {
        /// The folder.
        path: PathBuf,
    },
    /// A checkpoint that was asked for by its step.
    #[error("{path} has no checkpoint of step {step}; --from-step can be {found}")]
    NoSuchCheckpoint {
        /// The folder.
        path: PathBuf,
        /// The step.
        step: u32,
        /// Those that there are.
        found: String,
    },
    /// Another process trains in the folder.
    #[error(
        "another process is training in {path}; wait for its end or stop it (Ctrl-C writes a checkpoint), or choose \
         another --out"
    )]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// A configuration file with an error in it.
    #[error("{path}: {message}")]
    Toml {
        /// The file.
        path: PathBuf,
        /// toml's words: line, field, expectation.
        message: String,
    },
    /// A configuration that no network can be built from.
    #[error("{path}: {source}")]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: ConfigError,
    },
    /// A run of another kind of network.
    #[error(
        "{path} is a run of {found}, where a run of {expected} is needed; give one that was trained with --network {expected}"
    )]
    OtherNetwork {
        /// The folder.
        path: PathBuf,
        /// The network that it holds.
        found: &'static str,
        /// The network that is needed.
        expected: &'static str,
    },
    /// A checkpoint that is damaged, or that contradicts itself or its name.
    #[error("{message} Nothing was changed. {remedy}")]
    Checkpoint {
        /// The file, what was found in it, and what was expected.
        message: String,
        /// How to go on without it.
        remedy: String,
    },
}

impl From<ModelError> for FolderError {
    fn from(error: ModelError) -> Self {
        Self::Model(Box::new(error))
    }
}

/// A folder with a configuration and weights.
#[derive(Clone, Debug)]
pub struct ModelFolder {
    path: PathBuf,
}

/// The averaged weights.
const WEIGHTS: &str = "model.safetensors";
/// The key of their metadata that says after how many steps they were written.
const STEPS: &str = "steps";

impl ModelFolder {
    /// A folder, whether it exists or not.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its configuration.
    pub fn config(&self) -> Result<TrainConfig, FolderError> {
        let file = self.path.join("config.toml");
        if !disk::is_file(&file) {
            return Err(FolderError::NotARun { path: self.path.clone() });
        }
        read_config(&file)
    }

    /// Refuses a run of another kind of network.
    fn expect(&self, config: &TrainConfig, expected: NetworkKind) -> Result<(), FolderError> {
        if config.network == expected {
            return Ok(());
        }
        let [found, expected] = [config.network, expected].map(NetworkKind::name);
        Err(FolderError::OtherNetwork { path: self.path.clone(), found, expected })
    }

    fn config_error(&self, source: ConfigError) -> FolderError {
        FolderError::Config { path: self.path.join("config.toml"), source }
    }

    /// The U-Net of its configuration.
    pub fn unet(&self, config: &TrainConfig) -> Result<UNet, FolderError> {
        self.expect(config, NetworkKind::Unet)?;
        UNet::new(&config.unet_config(0)).map_err(|e| self.config_error(e))
    }

    /// The classifier of its configuration.
    pub fn classifier(&self, config: &TrainConfig) -> Result<Classifier, FolderError> {
        self.expect(config, NetworkKind::Classifier)?;
        Classifier::new(&config.classifier_config(0)).map_err(|e| self.config_error(e))
    }

    /// Its averaged weights as a flat vector.
    pub fn weights(&self, parameters: &Parameters) -> Result<Vec<f32>, FolderError> {
        let path = self.path.join(WEIGHTS);
        Ok(flat(parameters, &tensor_file::read(&path)?, "", &path)?)
    }

    /// The model of its averaged weights, with DDIM and what the run was trained with.
    pub fn open(&self) -> Result<Model, FolderError> {
        let config = self.config()?;
        let unet = self.unet(&config)?;
        let weights = self.weights(&unet.parameters)?;
        Ok(model(&config, unet, weights))
    }

    /// Writes the averaged weights.
    pub fn save_weights(
        &self,
        parameters: &Parameters,
        ema: &[f32],
        next_step: u32,
    ) -> Result<(), FolderError> {
        let file = TensorFile {
            tensors: tensors(parameters, ema, "").collect(),
            metadata: BTreeMap::from([(STEPS.into(), next_step.to_string())]),
        };
        Ok(tensor_file::write_sealed(&self.path.join(WEIGHTS), &file)?)
    }

    /// The step after which the averaged weights were written, if there are any and they are whole.
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) fn step_of_weights(&self) -> Option<u32> {
        tensor_file::read(&self.path.join(WEIGHTS)).ok()?.metadata.get(STEPS)?.parse().ok()
    }
}

/// A run's network with DDIM and what it was trained with.
fn model(config: &TrainConfig, unet: UNet, weights: Vec<f32>) -> Model {
    let scheduler = config.scheduler(Sampler::Ddim);
    Model {
        unet,
        weights,
        scheduler,
        null_label: config.null_label(),
        class_names: config.class_names.clone(),
        warnings: Vec::new(),
    }
}

/// Opens the run folder of a classifier, with its averaged weights.
pub fn open_classifier(path: &Path) -> Result<(Classifier, Vec<f32>), FolderError> {
    let folder = ModelFolder::new(path);
    let classifier = folder.classifier(&folder.config()?)?;
    let weights = folder.weights(&classifier.parameters)?;
    Ok((classifier, weights))
}

/// The model that the program carries: the built-in glyphs, trained by the command in `assets/README.md`.
pub fn built_in_model() -> Result<Model, FolderError> {
    let path = Path::new("assets/glyphs/config.toml");
    let config: TrainConfig = toml::from_str(include_str!("../../assets/glyphs/config.toml"))
        .map_err(|e| FolderError::Toml { path: path.into(), message: e.to_string() })?;
    let unet = ModelFolder::new("assets/glyphs").unet(&config)?;
    let path = "assets/glyphs/model.safetensors";
    let file = tensor_file::parse(path, include_bytes!("../../assets/glyphs/model.safetensors"))?;
    let weights = flat(&unet.parameters, &file, "", Path::new(path))?;
    Ok(model(&config, unet, weights))
}
