//! Folders of the diffusers library, as `DDPMPipeline.save_pretrained` writes them.

use super::options::{Options, VERSION, shown};
use super::scheduler_config::{self, class_name, sampler_of};
use super::unet_config::Classes;
use super::unet_weights::{self, WEIGHTS};
use super::{Model, ModelError, json, tensors, unet_config};
use crate::diffusion::{
    Objective, Prediction, Sampler, SchedulerConfig, TimestepSpacing, UNetConfig, VarianceType,
};
use crate::io::atomic::write_atomic;
use crate::io::tensor_file::{self, TensorFile};
use crate::io::{disk, quoted};
use crate::nn::ConfigError;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

const INDEX: &str = "model_index.json";
const CONFIG: &str = "config.json";
const SCHEDULER: &str = "scheduler_config.json";

/// Pipelines that are a U-Net and a scheduler and nothing else.
const PIPELINES: [&str; 2] = ["DDPMPipeline", "DDIMPipeline"];

/// Whether a folder is laid out as diffusers lays out a pipeline or a network.
pub fn is_model(path: &Path) -> bool {
    disk::exists(&path.join(INDEX)) || disk::exists(&path.join(CONFIG))
}

/// Opens a folder of diffusers: a pipeline (`model_index.json`, with the network and the scheduler in folders of
/// their own or beside it) or a network alone (`config.json` and its weights).
///
/// Names, options, defaults and oddities are those of diffusers 0.42.1. What it does without a word and cannot be
/// meant goes into [`Model::warnings`].
///
/// # Errors
/// A missing file, an option that is unknown or not supported, a tensor that is missing, unknown, of another shape
/// or not finite. Each names the file.
pub fn open(path: &Path) -> Result<Model, ModelError> {
    let mut warnings = Vec::new();
    // 1. The parts.
    let index = path.join(INDEX);
    let pipeline = disk::exists(&index).then(|| Pipeline::read(&index)).transpose()?;
    let part = |name: &str| match path.join(name) {
        folder if pipeline.is_some() && disk::is_folder(&folder) => folder,
        _ => path.to_path_buf(),
    };
    // 2. The network's configuration.
    let folder = part("unet");
    let config_path = folder.join(CONFIG);
    if !disk::exists(&config_path) {
        let message =
            format!("has no {CONFIG}; expected a network there, as diffusers' save_pretrained writes it");
        return Err(ModelError::Folder { path: folder, message });
    }
    let (config, classes) = unet_config::read(&config_path, &mut warnings)?;
    // 3. The scheduler.
    let scheduler_path = part("scheduler").join(SCHEDULER);
    let scheduler = match &pipeline {
        Some(pipeline) => {
            let own = scheduler_config::read(&scheduler_path, Some(pipeline.sampler), &mut warnings)?;
            pipeline.convert(own, &mut warnings)
        }
        None if disk::exists(&scheduler_path) => {
            scheduler_config::read(&scheduler_path, None, &mut warnings)?
        }
        None => {
            warnings.push(format!(
                "{}: a network without a scheduler; taken is a {} with its defaults. Give the folder with \
                 {INDEX} to have the model's own",
                path.display(),
                class_name(Sampler::Ddpm)
            ));
            SchedulerConfig::new(Sampler::Ddpm)
        }
    };
    check_variance(&scheduler_path, &config, &scheduler)?;
    // 4. The weights.
    let (unet, weights) = unet_weights::read(&folder, &config_path, &config, &mut warnings)?;
    let Classes { names: class_names, null_label } = classes;
    Ok(Model { unet, weights, scheduler, null_label, class_names, warnings })
}

/// A scheduler's configuration that is part of the file at `path`; its `_class_name` says which.
///
/// # Errors
/// As [`open`].
pub fn scheduler(path: &Path, value: Value) -> Result<SchedulerConfig, ModelError> {
    scheduler_config::parse(path, Options::new(path, value)?, None, &mut Vec::new())
}

/// A `model_index.json`.
struct Pipeline {
    sampler: Sampler,
    is_ddim: bool,
    path: PathBuf,
}

impl Pipeline {
    fn read(path: &Path) -> Result<Self, ModelError> {
        let mut options = Options::read(path)?;
        let class = options.class.clone().unwrap_or_default();
        if !PIPELINES.contains(&class.as_str()) {
            let supported = PIPELINES.join(" or ");
            let message = format!(
                "found {}, expected {supported}: a U-Net and a scheduler, and nothing else",
                quoted(&class)
            );
            return Err(options.refuse("_class_name", message));
        }
        let unet = component(&mut options, "unet")?;
        if unet != unet_config::CLASS {
            let message = format!(
                "found {}, expected {:?}, the one network that inkwash can run",
                quoted(&unet),
                unet_config::CLASS
            );
            return Err(options.refuse("unet", message));
        }
        let scheduler = component(&mut options, "scheduler")?;
        let sampler = sampler_of(&scheduler).map_err(|message| options.refuse("scheduler", message))?;
        if let Some((key, value)) = options.map.iter().next() {
            let message = format!(
                "found {}, expected no part but unet and scheduler; inkwash cannot run others",
                shown(value)
            );
            return Err(options.refuse(key, message));
        }
        Ok(Self { sampler, is_ddim: class == PIPELINES[1], path: path.into() })
    }

    /// A DDIM pipeline makes a DDIM scheduler of whatever it is given.
    fn convert(&self, scheduler: SchedulerConfig, warnings: &mut Vec<String>) -> SchedulerConfig {
        if !self.is_ddim || scheduler.sampler == Sampler::Ddim {
            return scheduler;
        }
        let (from, to) = (class_name(scheduler.sampler), class_name(Sampler::Ddim));
        let path = self.path.display();
        warnings.push(format!(
            "{path}: a DDIMPipeline with a {from}; taken is a {to} made from it, as in diffusers"
        ));
        scheduler.with_sampler(Sampler::Ddim)
    }
}

/// The class of a part: `["diffusers", CLASS]`.
fn component(options: &mut Options, key: &str) -> Result<String, ModelError> {
    let value = options.map.remove(key).unwrap_or(Value::Null);
    match value.as_array().map(Vec::as_slice) {
        Some([Value::String(library), Value::String(class)]) if library == "diffusers" => Ok(class.clone()),
        _ => Err(options.refuse(key, format!("found {}, expected [\"diffusers\", CLASS]", shown(&value)))),
    }
}

/// With a learned variance, and only then, a network puts out twice as many channels as it takes in.
fn check_variance(path: &Path, config: &UNetConfig, scheduler: &SchedulerConfig) -> Result<(), ModelError> {
    let (channels, out) = (config.in_channels, config.out_channels);
    let learned = scheduler.variance_type == VarianceType::LearnedRange;
    if learned == (out == 2 * channels) {
        return Ok(());
    }
    let message = if learned {
        format!("is learned_range, which needs out_channels = {} in the network, found {out}", 2 * channels)
    } else {
        format!(
            "must be \"learned_range\" for a network with out_channels = {out}, twice its in_channels: the second half \
             is the variance; give it in {SCHEDULER}"
        )
    };
    Err(ModelError::Config { path: path.into(), source: ConfigError { field: "variance_type", message } })
}

/// Writes a folder that `DDPMPipeline.from_pretrained` opens, byte for byte as `save_pretrained` of diffusers 0.42.1
/// would. The names of the classes and the label that stands for none are notes in the network's configuration, which
/// diffusers passes over, and [`open`] reads back. The folder must be new or empty. `model_index.json` is written last,
/// so that a folder which has one is whole.
///
/// # Errors
/// An objective that diffusers does not know, a folder that holds something, a weight that is not finite, or what the
/// disk says.
pub fn save(path: &Path, model: &Model) -> Result<(), ModelError> {
    let Model { unet, weights, scheduler, null_label, class_names, .. } = model;
    let (schedule, prediction) = (scheduler.beta_schedule, scheduler.prediction_type);
    let predicts = match prediction {
        Prediction::Epsilon | Prediction::Sample | Prediction::VPrediction => true,
        Prediction::Edm | Prediction::Flow => false,
    };
    let spaces = match scheduler.timestep_spacing {
        TimestepSpacing::Leading | TimestepSpacing::Linspace | TimestepSpacing::Trailing => true,
        TimestepSpacing::Quadratic => false,
    };
    let foreign = match scheduler.objective {
        _ if schedule.is_continuous() => Some(format!("its noise schedule is {}", schedule.name())),
        _ if !predicts => Some(format!("its prediction is {}", prediction.name())),
        _ if !spaces => Some("its timestep spacing is quadratic".to_string()),
        Objective::MergedNoise if scheduler.without_time => Some("its network is not told t".to_string()),
        Objective::MergedNoise => None,
        objective => Some(format!("its objective is {}", objective.name())),
    };
    if let Some(what) = foreign {
        let message = format!(
            "cannot hold this model: {what}, which diffusers does not know; a model to export is trained with one of \
             the four chains, --prediction epsilon, sample or v_prediction, --objective merged-noise and \
             --time-conditioning true"
        );
        return Err(ModelError::Folder { path: path.into(), message });
    }
    let io = |action, source| {
        let message = format!("cannot be {action}: {source}");
        ModelError::Folder { path: path.into(), message }
    };
    if path.exists() && std::fs::read_dir(path).map_err(|e| io("read", e))?.next().is_some() {
        let message = "already holds files; give a folder that is new or empty".into();
        return Err(ModelError::Folder { path: path.into(), message });
    }
    for part in ["unet", "scheduler"] {
        std::fs::create_dir_all(path.join(part)).map_err(|e| io("made", e))?;
    }
    let file = TensorFile {
        tensors: tensors(&unet.parameters, weights, "").collect(),
        metadata: BTreeMap::from([("format".into(), "pt".into())]),
    };
    tensor_file::write(&path.join("unet").join(WEIGHTS), &file)?;
    let classes = Classes { names: class_names.clone(), null_label: *null_label };
    write_json(&path.join("unet").join(CONFIG), unet_config::to_json(&unet.config, &classes))?;
    write_json(&path.join("scheduler").join(SCHEDULER), scheduler_config::to_json(scheduler))?;
    let index = serde_json::json!({
        "_class_name": PIPELINES[0],
        "_diffusers_version": VERSION,
        "scheduler": ["diffusers", class_name(scheduler.sampler)],
        "unet": ["diffusers", unet_config::CLASS],
    });
    write_json(&path.join(INDEX), Ok(index))
}

fn write_json(path: &Path, value: serde_json::Result<Value>) -> Result<(), ModelError> {
    let text = value.and_then(|value| json::to_text(&value)).map_err(std::io::Error::from);
    Ok(write_atomic(path, |out| writeln!(out, "{}", text?))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::{Preset, ScheduleKind, UNet};

    #[test]
    fn what_diffusers_does_not_know_is_refused_by_name() {
        let unet = UNet::new(&UNetConfig::preset(Preset::TinyGray)).unwrap();
        let weights = vec![0.0; unet.parameters.flat_elements()];
        let folder = tempfile::tempdir().unwrap();
        let own = SchedulerConfig::new(Sampler::Ddim);
        let (null_label, class_names, warnings) = (None, Vec::new(), Vec::new());
        let mut model = Model { unet, weights, scheduler: own.clone(), null_label, class_names, warnings };
        let mut refused = |scheduler: &SchedulerConfig, words: &str| {
            model.scheduler = scheduler.clone();
            let message = save(folder.path(), &model).unwrap_err().to_string();
            assert!(message.contains(words), "{message}");
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        };
        refused(&SchedulerConfig { objective: Objective::Previous, ..own.clone() }, "objective is previous");
        refused(
            &SchedulerConfig { objective: Objective::LastNoise, ..own.clone() },
            "objective is last-noise",
        );
        refused(&SchedulerConfig { without_time: true, ..own.clone() }, "not told t");
        refused(&SchedulerConfig { prediction_type: Prediction::Flow, ..own.clone() }, "prediction is flow");
        refused(
            &SchedulerConfig { beta_schedule: ScheduleKind::Edm, ..own.clone() },
            "noise schedule is edm",
        );
        model.scheduler = own.clone();
        save(folder.path(), &model).unwrap();
        assert_eq!(open(folder.path()).unwrap().scheduler, own);
    }
}
