//! Oracle files: tensors by name, and `meta.json` beside them, which says what made them.

use crate::diffusion::SchedulerConfig;
use crate::io::FileError;
use crate::io::tensor_file::{self, Tensor};
use crate::model::{Model, ModelError, diffusers, json};
use crate::nn::ConfigError;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// An oracle file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OracleError {
    /// The file itself.
    #[error(transparent)]
    File(Box<FileError>),
    /// `meta.json`.
    #[error(transparent)]
    Meta(Box<ModelError>),
    /// A number of a sampler out of range.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A tensor of the wrong shape, or one that is needed beside another.
    #[error("{path}: {message}")]
    Content {
        /// The file.
        path: PathBuf,
        /// What was found, what was expected, and the remedy.
        message: String,
    },
}

impl From<FileError> for OracleError {
    fn from(e: FileError) -> Self {
        Self::File(Box::new(e))
    }
}

impl From<ModelError> for OracleError {
    fn from(e: ModelError) -> Self {
        Self::Meta(Box::new(e))
    }
}

/// An oracle file in memory.
#[derive(Debug)]
pub struct Oracle {
    /// Where it came from.
    pub path: PathBuf,
    /// Its tensors.
    pub tensors: BTreeMap<String, Tensor>,
    /// `meta.json` of its folder; null where there is none.
    meta: Value,
}

/// How a sampler of an oracle was set up.
pub(super) struct SamplerSetup {
    pub config: SchedulerConfig,
    pub eta: f64,
    pub noisy: bool,
    /// Whether the outputs are those of a network, or of a stand-in that this program does not have.
    pub by_network: bool,
}

/// AdamW and the moving average of an oracle's training steps.
#[derive(Clone, Copy, Debug)]
pub(super) struct OptimizerSetup {
    pub learning_rate: f64,
    pub beta1: f64,
    pub beta2: f64,
    pub epsilon: f64,
    pub weight_decay: f64,
    pub clip_norm: f64,
    pub ema_decay: f64,
}

impl Oracle {
    /// Reads an oracle file and the `meta.json` beside it, if there is one.
    ///
    /// # Errors
    /// Whatever is wrong with either.
    pub fn read(path: &Path) -> Result<Self, OracleError> {
        let tensors = tensor_file::read(path)?.tensors;
        let beside = path.with_file_name("meta.json");
        let meta = if beside.is_file() { json::read(&beside)? } else { Value::Null };
        Ok(Self { path: path.into(), tensors, meta })
    }

    /// Whether it holds a tensor of this name.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    pub(super) fn has_prefix(&self, prefix: &str) -> bool {
        self.tensors.keys().any(|k| k.starts_with(prefix))
    }

    pub(super) fn has_suffix(&self, suffix: &str) -> bool {
        self.tensors.keys().any(|k| k.ends_with(suffix))
    }

    pub(super) fn error(&self, message: impl Into<String>) -> OracleError {
        OracleError::Content { path: self.path.clone(), message: message.into() }
    }

    pub(super) fn unknown(&self) -> OracleError {
        let some: Vec<&str> = self.tensors.keys().take(4).map(String::as_str).collect();
        self.error(format!(
            "found tensors {some:?}, …; expected those of an oracle (`sample`, `batch.x0`, `sampler.NAME.latents`, \
             `NAME.alphas_cumprod` or `p0`). docs/oracle.md has the layout and the script that makes one"
        ))
    }

    /// The model, which this file needs.
    pub(super) fn model<'a>(&self, model: Option<&'a Model>) -> Result<&'a Model, OracleError> {
        model.ok_or_else(|| self.error("these numbers are a network's; give its folder with --model"))
    }

    /// A tensor that must be there.
    pub(super) fn tensor(&self, name: &str) -> Result<&Tensor, OracleError> {
        self.tensors.get(name).ok_or_else(|| self.error(format!("tensor `{name}` is missing")))
    }

    /// A tensor that must be there with this shape.
    pub(super) fn shaped(&self, name: &str, shape: &[usize]) -> Result<&Tensor, OracleError> {
        let tensor = self.tensor(name)?;
        if tensor.shape != shape {
            let found = &tensor.shape;
            return Err(self.error(format!("tensor `{name}` has shape {found:?}, expected {shape:?}")));
        }
        Ok(tensor)
    }

    /// Labels (N), if the network is class-conditional.
    pub(super) fn labels(
        &self,
        name: &str,
        count: usize,
        classes: Option<usize>,
    ) -> Result<Option<Vec<u32>>, OracleError> {
        let Some(classes) = classes else { return Ok(None) };
        let tensor = self.tensor(name)?;
        if tensor.data.len() != count {
            let found = tensor.data.len();
            return Err(self.error(format!("tensor `{name}` has {found} labels, expected {count}")));
        }
        let label = |&v: &f32| {
            let fits = v >= 0.0 && v.fract() == 0.0 && (v as usize) < classes;
            fits.then_some(v as u32).ok_or_else(|| {
                self.error(format!("tensor `{name}` has {v}; the network's classes are 0 to {}", classes - 1))
            })
        };
        tensor.data.iter().map(label).collect::<Result<_, _>>().map(Some)
    }

    /// The stride with which a tensor of `elements` elements is stored: `flat[::stride]`.
    pub(super) fn stride(&self, name: &str, elements: usize) -> Result<usize, OracleError> {
        let stored = self.tensor(name)?.data.len();
        let stride = if stored == 0 { 0 } else { elements.div_ceil(stored) };
        // Rounding up leaves one stride for each length as long as it is below √elements, and 1 for a whole tensor.
        let fits = |s: &usize| *s > 0 && elements.div_ceil(*s) == stored;
        [stride, stride.saturating_sub(1)].into_iter().find(fits).ok_or_else(|| {
            self.error(format!(
                "tensor `{name}` has {stored} elements; the network's has {elements}, or every n-th of them"
            ))
        })
    }

    fn number(&self, pointer: &str) -> Result<f64, OracleError> {
        self.meta.pointer(pointer).and_then(Value::as_f64).ok_or_else(|| {
            let meta = self.path.with_file_name("meta.json");
            self.error(format!("{} must say `{pointer}`, a number", meta.display()))
        })
    }

    /// The optimizer of `batch.*` and `param_step*`.
    pub(super) fn training(&self) -> Result<OptimizerSetup, OracleError> {
        let mut setup = self.optimizer("/training/optimizer")?;
        setup.ema_decay = self.number("/training/ema/decay")?;
        setup.clip_norm =
            self.meta.pointer("/training/gradient_clipping").and_then(Value::as_f64).unwrap_or(0.0);
        Ok(setup)
    }

    /// An optimizer of the file with `p0`.
    pub(super) fn variant(&self, name: &str) -> Result<OptimizerSetup, OracleError> {
        let mut setup = self.optimizer(&format!("/variants/{name}"))?;
        let clip = self.meta.pointer(&format!("/clip_grad_norm/{name}"));
        setup.clip_norm = clip.and_then(Value::as_f64).unwrap_or(0.0);
        setup.ema_decay = self.number(&format!("/variants/{name}/ema_decay")).unwrap_or(0.0);
        Ok(setup)
    }

    fn optimizer(&self, at: &str) -> Result<OptimizerSetup, OracleError> {
        Ok(OptimizerSetup {
            learning_rate: self.number(&format!("{at}/lr"))?,
            beta1: self.number(&format!("{at}/betas/0"))?,
            beta2: self.number(&format!("{at}/betas/1"))?,
            epsilon: self.number(&format!("{at}/eps"))?,
            weight_decay: self.number(&format!("{at}/weight_decay"))?,
            clip_norm: 0.0,
            ema_decay: 0.0,
        })
    }

    /// The set-up of a sampler.
    pub(super) fn sampler(&self, name: &str) -> Result<SamplerSetup, OracleError> {
        let find = |at: &str| self.meta.pointer(at).and_then(|samplers| samplers.get(name));
        let by_network = find("/sampling/samplers");
        let meta = self.path.with_file_name("meta.json");
        let setup = by_network.or_else(|| find("/samplers")).ok_or_else(|| {
            self.error(format!("{} must say how sampler `{name}` was set up", meta.display()))
        })?;
        let mut config = setup.get("config").cloned().unwrap_or_default();
        if let (Some(config), Some(class)) = (config.as_object_mut(), setup.get("class")) {
            config.insert("_class_name".into(), class.clone());
        }
        Ok(SamplerSetup {
            config: diffusers::scheduler(&meta, config)?,
            eta: setup.pointer("/step_arguments/eta").and_then(Value::as_f64).unwrap_or(0.0),
            noisy: setup.get("consumes_step_noise").and_then(Value::as_bool).unwrap_or(false),
            by_network: by_network.is_some(),
        })
    }

    /// The standard deviation of the data behind the stand-in, if there is one.
    pub(super) fn betas(&self) -> (f64, f64) {
        let number = |key: &str, otherwise| self.meta.get(key).and_then(Value::as_f64).unwrap_or(otherwise);
        (number("beta_start", 1e-4), number("beta_end", 0.02))
    }
}
