//! What a run leaves on disk: `config.toml`, `model.safetensors` (the averaged weights by name, of a U-Net under diffusers'
//! names), and `checkpoints/step-NNNNNN.safetensors` (all that is needed to go on).

use super::{NetworkKind, TrainConfig, read_config};
use crate::classifier::Classifier;
use crate::diffusion::{Sampler, UNet};
use crate::io::tensor_file::{self, TensorFile};
use crate::io::{FileError, shortened};
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
    /// A checkpoint that contradicts itself or its name.
    #[error("{path}: {message}; delete the file to go on from the checkpoint before it")]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What was found, and what was expected.
        message: String,
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
    /// Steps so far whose gradient was finite: those that AdamW counts.
    pub steps_taken: u32,
    /// Parameters, first moment, second moment, average: flat vectors in device order.
    pub states: [Vec<f32>; 4],
}

impl Checkpoint {
    /// The states before the first step: the average is the weights.
    pub fn at_the_beginning(weights: Vec<f32>) -> Self {
        let zeros = vec![0.0; weights.len()];
        Self { next_step: 0, steps_taken: 0, states: [weights.clone(), zeros.clone(), zeros, weights] }
    }
}

/// Keys of a checkpoint's metadata.
const NEXT_STEP: &str = "next_step";
const STEPS_TAKEN: &str = "steps_taken";
/// What stands before the name of a parameter in a checkpoint.
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
        let path = self.path.join("model.safetensors");
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
            metadata: BTreeMap::from([("steps".into(), next_step.to_string())]),
        };
        Ok(tensor_file::write(&self.path.join("model.safetensors"), &file)?)
    }

    fn checkpoint_path(&self, next_step: u32) -> PathBuf {
        self.path.join("checkpoints").join(format!("step-{next_step:06}.safetensors"))
    }

    /// Writes a checkpoint and the averaged weights, and keeps the two newest checkpoints.
    pub fn save_checkpoint(
        &self,
        parameters: &Parameters,
        checkpoint: &Checkpoint,
    ) -> Result<PathBuf, FolderError> {
        let path = self.checkpoint_path(checkpoint.next_step);
        let all = STATES.iter().zip(&checkpoint.states);
        let mut file = TensorFile {
            tensors: BTreeMap::new(),
            metadata: BTreeMap::from([
                (NEXT_STEP.into(), checkpoint.next_step.to_string()),
                (STEPS_TAKEN.into(), checkpoint.steps_taken.to_string()),
            ]),
        };
        for (state, data) in all {
            file.tensors.extend(tensors(parameters, data, &format!("{state}.")));
        }
        tensor_file::write(&path, &file)?;
        self.save_weights(parameters, &checkpoint.states[3], checkpoint.next_step)?;
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
    pub fn load_checkpoint(&self, parameters: &Parameters) -> Result<Checkpoint, FolderError> {
        let Some((named, path)) = self.checkpoints()?.pop() else {
            return Err(FolderError::NoCheckpoint { path: self.path.join("checkpoints") });
        };
        let file = tensor_file::read(&path)?;
        let (next_step, steps_taken) = counts(&file, named)
            .map_err(|message| FolderError::Checkpoint { path: path.clone(), message })?;
        let mut states: [Vec<f32>; 4] = Default::default();
        for (state, slot) in STATES.iter().zip(&mut states) {
            *slot = flat(parameters, &file, &format!("{state}."), &path)?;
        }
        Ok(Checkpoint { next_step, steps_taken, states })
    }
}

/// The step that comes next and the steps taken, as a checkpoint itself says; `named` is the step in its file's name.
fn counts(file: &TensorFile, named: u32) -> Result<(u32, u32), String> {
    let number = |key: &str| match file.metadata.get(key) {
        None => Ok(None),
        Some(text) => text.parse::<u32>().map(Some).map_err(|_| {
            format!("the metadata has {key} = {:?}; expected a number of steps", shortened(text))
        }),
    };
    let next_step = number(NEXT_STEP)?.ok_or_else(|| {
        format!("the metadata lacks {NEXT_STEP}, the step to go on at; a checkpoint has it")
    })?;
    if next_step != named {
        return Err(format!(
            "the name says step {named}, but the metadata has {NEXT_STEP} = {next_step}; the two must agree"
        ));
    }
    // Runs from before steps were counted apart took every one of them, as far as their optimizer knew.
    let taken = number(STEPS_TAKEN)?.unwrap_or(next_step);
    if taken > next_step {
        return Err(format!("the metadata has {STEPS_TAKEN} = {taken}, more than {NEXT_STEP} = {next_step}"));
    }
    Ok((next_step, taken))
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
