//! Training of a tiny network, and runs that are killed and gone on with.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use super::cut_short::records;
use inkwash::diffusion::{DownBlock, UNet, UNetConfig, UpBlock};
use inkwash::gpu::{Blocking as _, Device};
use inkwash::io::jsonl;
use inkwash::model::Model;
use inkwash::nn::Size;
use inkwash::train::{
    Diffusion, LearningRate, ModelFolder, RunOptions, TrainConfig, TrainError, TrainEvent, Trainer,
    open_model, train,
};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

/// 8x8 grey, two levels, attention in the lower one: every kind of operator in 30 thousand parameters.
pub fn tiny() -> TrainConfig {
    let unet = UNetConfig {
        sample_size: Size::Square(8),
        in_channels: 1,
        out_channels: 1,
        block_out_channels: vec![16, 16],
        layers_per_block: 1,
        down_block_types: vec![DownBlock::DownBlock2D, DownBlock::AttnDownBlock2D],
        up_block_types: vec![UpBlock::AttnUpBlock2D, UpBlock::UpBlock2D],
        norm_num_groups: 4,
        ..UNetConfig::default()
    };
    TrainConfig {
        batch: 8,
        learning_rate: 2e-3,
        learning_rate_schedule: LearningRate::Constant,
        warmup_steps: 0,
        held_out: 0.0,
        glyph_count: 8,
        log_every: 50,
        unet: Some(unet),
        ..TrainConfig::default()
    }
}

/// A run with everything on that has a state of its own: shuffling, crops, mirroring, micro-batches, the
/// average, held-out pictures.
pub fn run_config() -> TrainConfig {
    TrainConfig {
        steps: 6,
        batch: 4,
        accumulate: 2,
        glyph_count: 24,
        held_out: 0.25,
        flip: true,
        crop_padding: 1,
        warmup_steps: 2,
        learning_rate_schedule: LearningRate::Cosine,
        log_every: 4,
        sample_every: 3,
        sample_count: 5,
        sample_steps: 2,
        checkpoint_every: 3,
        ..tiny()
    }
}

/// Trains, and returns what was told, one line for each event but the steps.
pub fn run(
    device: &Arc<Device>,
    config: &TrainConfig,
    options: &RunOptions,
) -> Result<String, Box<TrainError>> {
    run_until(device, config, options, false)
}

/// The same, interrupted after its first step if `interrupted`.
pub fn run_until(
    device: &Arc<Device>,
    config: &TrainConfig,
    options: &RunOptions,
    interrupted: bool,
) -> Result<String, Box<TrainError>> {
    let mut told = String::new();
    train(
        || Ok(device.clone()),
        config,
        options,
        &AtomicBool::new(interrupted),
        |event| {
            told += &match *event {
                TrainEvent::Warning { message } => format!("warning: {message}\n"),
                TrainEvent::Note { message } => format!("note: {message}\n"),
                TrainEvent::NothingToDo { step, steps } => format!("nothing to do: {step} of {steps}\n"),
                TrainEvent::Started { step, .. } => format!("started {step}\n"),
                TrainEvent::HeldOut { step, .. } => format!("held-out {step}\n"),
                TrainEvent::GridSaved { step } => format!("grid {step}\n"),
                TrainEvent::CheckpointSaved { step } => format!("checkpoint {step}\n"),
                _ => String::new(),
            };
        },
    )?;
    Ok(told)
}

/// Goes on with a run.
pub fn resumed(out: &Path) -> RunOptions<'static> {
    RunOptions { resume: true, ..RunOptions::new(out) }
}

/// A trainer at the beginning of a run.
pub fn trainer(device: &Arc<Device>, config: &TrainConfig) -> Trainer<Diffusion> {
    let task = Diffusion::new(UNet::new(&config.unet_config(0)).unwrap(), config);
    let initial = task.unet.parameters.initial(config.seed);
    let mut trainer = Trainer::new(device, task, config.step_options()).block_on().unwrap();
    trainer.set_parameters(&initial).unwrap();
    trainer
}

/// The newest checkpoint's states and the averaged weights.
pub fn end_of(folder: &Path) -> (u32, Vec<Vec<u32>>, Vec<u32>) {
    let Model { unet, weights, .. } = open_model(folder).unwrap();
    let checkpoint = ModelFolder::new(folder).load_checkpoint(&unet.parameters).unwrap();
    (checkpoint.next_step, checkpoint.states.iter().map(|s| bits(s)).collect(), bits(&weights))
}

/// The (step, loss) pairs of a log.
pub fn losses(folder: &Path) -> Vec<(u64, f64)> {
    let pair = |r: &serde_json::Value| Some((r["step"].as_u64()?, r["loss"].as_f64()?));
    records(folder).iter().filter_map(pair).collect()
}

pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// The files below a folder with what is in them and when they were written.
pub fn files(folder: &Path) -> BTreeMap<PathBuf, (SystemTime, Vec<u8>)> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            let modified = path.metadata().unwrap().modified().unwrap();
            found.insert(path.clone(), (modified, std::fs::read(&path).unwrap()));
        }
    }
    found
}

pub fn copy(from: &Path, to: &Path) {
    for path in files(from).into_keys() {
        let target = to.join(path.strip_prefix(from).unwrap());
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(&path, target).unwrap();
    }
}

/// A finished run of [`run_config`] in a folder of its own.
pub struct Finished {
    pub device: Arc<Device>,
    pub folder: tempfile::TempDir,
    pub config: TrainConfig,
}

impl Finished {
    pub fn new() -> Option<Self> {
        let finished = Self {
            device: super::open_device()?,
            folder: tempfile::tempdir().unwrap(),
            config: run_config(),
        };
        run(&finished.device, &finished.config, &RunOptions::new(finished.path())).unwrap();
        Some(finished)
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    /// A copy as a process leaves it that was killed after the checkpoint of step 3 and before whatever `lost` removes.
    pub fn killed(&self, name: &str, lost: impl Fn(&Path)) -> PathBuf {
        let path = self.folder.path().join(name);
        copy(&self.path(), &path);
        for name in ["checkpoints/step-000006.safetensors", "samples/step-000006.png", "loss.png"] {
            std::fs::remove_file(path.join(name)).unwrap();
        }
        lost(&path);
        path
    }

    /// Goes on with a copy, which must then be as the run that was not killed; returns what was told.
    pub fn catches_up(&self, path: &Path) -> String {
        let told = run(&self.device, &self.config, &resumed(path)).unwrap();
        assert!(end_of(path) == end_of(&self.path()), "{}: other weights", path.display());
        assert_eq!(records(path), records(&self.path()), "{}", path.display());
        let names =
            |of: &Path| files(of).into_keys().map(|p| p.strip_prefix(of).unwrap().to_path_buf()).collect();
        let (found, expected): (Vec<PathBuf>, Vec<PathBuf>) = (names(path), names(&self.path()));
        assert_eq!(found, expected);
        for step in [3, 6] {
            let [a, b] = [path, &self.path()]
                .map(|of| std::fs::read(of.join(format!("samples/step-{step:06}.png"))).unwrap());
            assert!(a == b, "{}: another grid of step {step}", path.display());
        }
        told
    }
}

/// Takes the records off a log for which the condition holds, and those of later steps than 3.
pub fn cut_log(path: &Path, off: impl Fn(&serde_json::Value) -> bool) {
    let records = jsonl::read(&path.join("log.jsonl")).unwrap();
    let kept = records.iter().filter(|r| r["step"].as_u64().is_none_or(|step| step <= 3) && !off(r));
    let text: String = kept.map(|record| format!("{record}\n")).collect();
    std::fs::write(path.join("log.jsonl"), text).unwrap();
}
