//! What a run leaves on disk: `config.toml`, `model.safetensors` (the averaged weights under diffusers'
//! names), and `checkpoints/step-NNNNNN.safetensors` (all that is needed to go on).

use super::TrainConfig;
use crate::diffusion::{ConfigError, Sampler, UNet, UNetConfig};
use crate::io::FileError;
use crate::io::tensor_file::{self, TensorFile};
use crate::model::{Model, ModelError, diffusers, flat, tensors};
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
        "{path} has neither config.toml, as a run of inkwash, nor model_index.json or config.json, as a model of \
         diffusers; give a folder of either kind"
    )]
    NotAModel {
        /// The folder.
        path: PathBuf,
    },
    /// A run without a checkpoint.
    #[error(
        "{path} holds no checkpoint yet, so there is nothing to go on from; start the run anew with --out"
    )]
    NoCheckpoint {
        /// Where checkpoints would lie.
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
    /// Another error of the operating system.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

impl From<ModelError> for FolderError {
    fn from(error: ModelError) -> Self {
        Self::Model(Box::new(error))
    }
}

/// Reads a configuration file.
pub fn read_config(path: &Path) -> Result<TrainConfig, FolderError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| FolderError::Io { path: path.into(), source })?;
    toml::from_str(&text).map_err(|e| FolderError::Toml { path: path.into(), message: e.to_string() })
}

/// A folder with a configuration and weights.
#[derive(Clone, Debug)]
pub struct ModelFolder {
    path: PathBuf,
}

/// Parameters, first moment, second moment and average, and the step that comes next.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// The step that comes next.
    pub next_step: u32,
    /// Parameters, first moment, second moment, average: flat vectors in device order.
    pub states: [Vec<f32>; 4],
}

const STATES: [&str; 4] = ["parameter", "first_moment", "second_moment", "average"];

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
        if !file.is_file() {
            return Err(FolderError::NotARun { path: self.path.clone() });
        }
        read_config(&file)
    }

    /// The network of its configuration.
    pub fn unet(&self, config: &TrainConfig) -> Result<UNet, FolderError> {
        let network: UNetConfig = config.network(0);
        UNet::new(&network)
            .map_err(|source| FolderError::Config { path: self.path.join("config.toml"), source })
    }

    /// Its averaged weights as a flat vector.
    pub fn weights(&self, unet: &UNet) -> Result<Vec<f32>, FolderError> {
        let path = self.path.join("model.safetensors");
        Ok(flat(unet, &tensor_file::read(&path)?, "", &path)?)
    }

    /// The model of its averaged weights, with DDIM and what the run was trained with.
    pub fn open(&self) -> Result<Model, FolderError> {
        let config = self.config()?;
        let unet = self.unet(&config)?;
        let weights = self.weights(&unet)?;
        Ok(model(&config, unet, weights))
    }

    /// Writes the averaged weights.
    pub fn save_weights(&self, unet: &UNet, ema: &[f32], next_step: u32) -> Result<(), FolderError> {
        let file = TensorFile {
            tensors: tensors(unet, ema, "").collect(),
            metadata: BTreeMap::from([("steps".into(), next_step.to_string())]),
        };
        Ok(tensor_file::write(&self.path.join("model.safetensors"), &file)?)
    }

    fn checkpoint_path(&self, next_step: u32) -> PathBuf {
        self.path.join("checkpoints").join(format!("step-{next_step:06}.safetensors"))
    }

    /// Writes a checkpoint and the averaged weights, and keeps the two newest checkpoints.
    pub fn save_checkpoint(&self, unet: &UNet, checkpoint: &Checkpoint) -> Result<PathBuf, FolderError> {
        let path = self.checkpoint_path(checkpoint.next_step);
        let all = STATES.iter().zip(&checkpoint.states);
        let mut file = TensorFile {
            tensors: BTreeMap::new(),
            metadata: BTreeMap::from([("next_step".into(), checkpoint.next_step.to_string())]),
        };
        for (state, data) in all {
            file.tensors.extend(tensors(unet, data, &format!("{state}.")));
        }
        tensor_file::write(&path, &file)?;
        self.save_weights(unet, &checkpoint.states[3], checkpoint.next_step)?;
        let mut kept = self.checkpoints()?;
        kept.pop();
        kept.pop();
        for (_, old) in kept {
            std::fs::remove_file(&old).map_err(|source| FolderError::Io { path: old, source })?;
        }
        Ok(path)
    }

    /// The checkpoints of the run, oldest first.
    fn checkpoints(&self) -> Result<Vec<(u32, PathBuf)>, FolderError> {
        let folder = self.path.join("checkpoints");
        let entries =
            std::fs::read_dir(&folder).map_err(|source| FolderError::Io { path: folder, source })?;
        let mut found: Vec<(u32, PathBuf)> = entries
            .filter_map(|e| {
                let path = e.ok()?.path();
                let step = path.file_name()?.to_str()?.strip_prefix("step-")?.strip_suffix(".safetensors")?;
                Some((step.parse().ok()?, path))
            })
            .collect();
        found.sort();
        Ok(found)
    }

    /// The newest checkpoint.
    pub fn load_checkpoint(&self, unet: &UNet) -> Result<Checkpoint, FolderError> {
        let Some((next_step, path)) = self.checkpoints()?.pop() else {
            return Err(FolderError::NoCheckpoint { path: self.path.join("checkpoints") });
        };
        let file = tensor_file::read(&path)?;
        let mut states: [Vec<f32>; 4] = Default::default();
        for (state, slot) in STATES.iter().zip(&mut states) {
            *slot = flat(unet, &file, &format!("{state}."), &path)?;
        }
        Ok(Checkpoint { next_step, states })
    }
}

/// A run's network with DDIM and what it was trained with.
fn model(config: &TrainConfig, unet: UNet, weights: Vec<f32>) -> Model {
    let scheduler = config.scheduler(Sampler::Ddim);
    Model { unet, weights, scheduler, null_label: config.null_label(), warnings: Vec::new() }
}

/// Opens a run folder (its averaged weights) or a folder of diffusers.
pub fn open_model(path: &Path) -> Result<Model, FolderError> {
    if path.join("config.toml").is_file() {
        ModelFolder::new(path).open()
    } else if diffusers::is_model(path) {
        Ok(diffusers::open(path)?)
    } else {
        Err(FolderError::NotAModel { path: path.into() })
    }
}

/// The model that the program carries: the built-in glyphs, trained by the command in `assets/README.md`.
pub fn built_in_model() -> Result<Model, FolderError> {
    let path = Path::new("assets/glyphs/config.toml");
    let config: TrainConfig = toml::from_str(include_str!("../../assets/glyphs/config.toml"))
        .map_err(|e| FolderError::Toml { path: path.into(), message: e.to_string() })?;
    let unet = ModelFolder::new("assets/glyphs").unet(&config)?;
    let path = "assets/glyphs/model.safetensors";
    let file = tensor_file::parse(path, include_bytes!("../../assets/glyphs/model.safetensors"))?;
    let weights = flat(&unet, &file, "", Path::new(path))?;
    Ok(model(&config, unet, weights))
}
