//! What a run leaves on disk: `config.toml`, `model.safetensors` (the averaged weights under diffusers'
//! names), and `checkpoints/step-NNNNNN.safetensors` (all that is needed to go on).

use super::TrainConfig;
use crate::diffusion::{ConfigError, UNet, UNetConfig};
use crate::io::FileError;
use crate::io::tensor_file::{self, Tensor, TensorFile};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A model folder that cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// A file that cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// No `config.toml`.
    #[error(
        "{path} has no config.toml, so it is not a run of inkwash; give the folder that `inkwash train --out` \
         wrote, or leave --model out for the built-in model"
    )]
    NotARun {
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

/// The tensors of a flat vector under diffusers' names, in file order.
fn tensors<'a>(
    unet: &'a UNet,
    flat: &'a [f32],
    prefix: &'a str,
) -> impl Iterator<Item = (String, Tensor)> + 'a {
    unet.parameters.iter().map(move |p| {
        let data = p.to_file(&flat[p.offset..p.offset + p.elements()]);
        (format!("{prefix}{}", p.name), Tensor { shape: p.shape.clone(), data })
    })
}

/// The flat vector of the network from named tensors.
fn flat(unet: &UNet, file: &TensorFile, prefix: &str, path: &Path) -> Result<Vec<f32>, FolderError> {
    let mut flat = vec![0.0; unet.flat_elements];
    for p in &unet.parameters {
        let name = format!("{prefix}{}", p.name);
        let fail = |message| FolderError::Weights { path: path.into(), name: name.clone(), message };
        let tensor = file.tensors.get(&name).ok_or_else(|| fail("is missing".into()))?;
        if tensor.shape != p.shape {
            return Err(fail(format!("has shape {:?}, but this network needs {:?}", tensor.shape, p.shape)));
        }
        flat[p.offset..p.offset + p.elements()].copy_from_slice(&p.to_device(&tensor.data));
    }
    if let Some(extra) = file.tensors.keys().find(|k| {
        k.strip_prefix(prefix).is_some_and(|rest| !unet.parameters.iter().any(|p| p.name == rest))
            && prefix.is_empty()
    }) {
        return Err(FolderError::Weights {
            path: path.into(),
            name: extra.clone(),
            message: "is not a parameter of this network".into(),
        });
    }
    Ok(flat)
}

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
        flat(unet, &tensor_file::read(&path)?, "", &path)
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

/// Configuration, network and averaged weights of a folder.
pub fn load_model(path: &Path) -> Result<(TrainConfig, UNet, Vec<f32>), FolderError> {
    let folder = ModelFolder::new(path);
    let config = folder.config()?;
    let unet = folder.unet(&config)?;
    let weights = folder.weights(&unet)?;
    Ok((config, unet, weights))
}

/// The model that the program carries: the built-in glyphs, trained by the command in `assets/README.md`.
pub fn built_in_model() -> Result<(TrainConfig, UNet, Vec<f32>), FolderError> {
    let path = Path::new("assets/glyphs/config.toml");
    let config: TrainConfig = toml::from_str(include_str!("../../assets/glyphs/config.toml"))
        .map_err(|e| FolderError::Toml { path: path.into(), message: e.to_string() })?;
    let unet = ModelFolder::new("assets/glyphs").unet(&config)?;
    let path = "assets/glyphs/model.safetensors";
    let file = tensor_file::parse(path, include_bytes!("../../assets/glyphs/model.safetensors"))?;
    let weights = flat(&unet, &file, "", Path::new(path))?;
    Ok((config, unet, weights))
}
