//! The training loop: pictures in, run folder out, with progress, interruption and resumption.

use super::checkpoint::{Checkpoint, FolderError, ModelFolder};
use super::step::{EMA, LogRow, TrainPlans, Trainer, evaluation_graph};
use super::{Micro, TrainConfig};
use crate::data::{AugmentOptions, DataError, Dataset, Loader, Options, batch_at};
use crate::diffusion::{ConfigError, Sampler, Trajectory, UNet};
use crate::gpu::{Blocking as _, Device, Executable, GpuError, RunError};
use crate::graph::{Caps, Plan};
use crate::io::atomic::write_atomic;
use crate::io::{Chart, FileError, JsonLines, jsonl, save_grid};
use crate::ops::StepWords;
use crate::sample::{Drawing, PictureSampler};
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};
use serde_json::json;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// A run that cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A number out of range or a network that cannot be built.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The pictures.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The graph, plan or device.
    #[error(transparent)]
    Step(#[from] RunError),
    /// The device.
    #[error(transparent)]
    Gpu(#[from] GpuError),
    /// A file of the run.
    #[error(transparent)]
    File(#[from] FileError),
    /// The run folder.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The output folder is taken.
    #[error(
        "{0} already holds files; choose another --out, or go on with the run in it by `inkwash train --resume {0}`"
    )]
    OutputTaken(PathBuf),
    /// The pictures do not fit the configuration.
    #[error("{0}")]
    Mismatch(String),
    /// The loss became infinite or NaN and stays so.
    #[error(
        "the gradient was not finite in {0} steps in a row, from step {1} on; the last checkpoint is untouched. \
         Lower --learning-rate or set --clip-norm 1"
    )]
    Diverged(u32, u32),
}

/// What is asked of a run beside its configuration.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Where the run folder is made, or lies.
    pub out: PathBuf,
    /// Go on from the folder's newest checkpoint.
    pub resume: bool,
    /// No progress bar.
    pub quiet: bool,
}

/// Pictures of a configuration, split into training and held-out parts.
pub fn open_data(config: &TrainConfig) -> Result<(Dataset, Dataset), TrainError> {
    let network = config.network(0);
    let options = Options {
        size: network.sample_size.get(),
        channels: network.in_channels,
        seed: config.seed,
        glyph_count: config.glyph_count,
    };
    let all = Dataset::open(&config.data, &options)?;
    if config.class_conditional && all.class_names.is_empty() {
        return Err(TrainError::Mismatch(format!(
            "--class-conditional needs classes, but {} has none; put the pictures of each class into a subfolder \
             named after it, or leave the flag out",
            config.data
        )));
    }
    let count = all.len();
    let (training, held_out) = all.split(config.held_out, config.seed);
    if training.is_empty() {
        return Err(TrainError::Mismatch(format!(
            "{}: of {count} pictures, held_out = {} leaves none to train on; lower --held-out",
            config.data, config.held_out
        )));
    }
    Ok((training, held_out))
}

/// The held-out loss: a fixed set of pictures under fixed noise, with the averaged weights.
struct Evaluation {
    executable: Executable,
    inputs: Micro,
    pictures: Arc<Dataset>,
    batches: u64,
}

/// Held-out pictures that are looked at, at most: the standard error of the mean over 512 pictures with one
/// t each is some 3 % of the loss.
const HELD_OUT_PICTURES: usize = 512;

impl Evaluation {
    fn new(trainer: &Trainer, pictures: Dataset) -> Result<Option<Self>, RunError> {
        if pictures.is_empty() {
            return Ok(None);
        }
        let (graph, inputs) = evaluation_graph(&trainer.unet, &trainer.config)?;
        let plan = Plan::new(graph, &trainer.store.device().caps)?;
        let executable = Executable::new(&trainer.store, plan).block_on()?;
        let batches = pictures.len().min(HELD_OUT_PICTURES).div_ceil(trainer.config.batch) as u64;
        Ok(Some(Self { executable, inputs, pictures: Arc::new(pictures), batches }))
    }

    /// The mean loss over the batches. The noise is that of a seed of its own, the same at every call.
    fn loss(&self, config: &TrainConfig) -> Result<f64, RunError> {
        let mut sum = 0.0;
        for k in 0..self.batches {
            let batch = batch_at(&self.pictures, config.batch, config.seed, AugmentOptions::default(), k);
            let first_item = u32::try_from(k * config.batch as u64).unwrap_or(u32::MAX);
            let words = StepWords { seed: !config.seed, first_item, ..StepWords::default() };
            self.executable.write(self.inputs.pictures, &batch.images);
            if let Some(labels) = self.inputs.labels {
                self.executable.write_u32(labels, &batch.labels);
            }
            self.executable.write_u32(self.inputs.step, &words.words());
            self.executable.run().block_on()?;
            sum += f64::from(self.executable.read(self.inputs.loss).block_on()?[0]);
        }
        Ok(sum / self.batches as f64)
    }
}

/// Pictures that the sampler of a run computes at once.
fn sampler_batch(config: &TrainConfig) -> usize {
    config.sample_count.min(config.batch)
}

/// Device bytes that a run will allocate, to train, evaluate and sample.
pub fn planned_bytes(
    unet: &UNet,
    config: &TrainConfig,
    plans: &TrainPlans,
    caps: &Caps,
) -> Result<u64, TrainError> {
    let evaluation =
        Plan::new(evaluation_graph(unet, config).map_err(RunError::from)?.0, caps).map_err(RunError::from)?;
    let [initial, update] =
        PictureSampler::plans(unet, EMA, sampler_batch(config), &grid_trajectory(config)?, caps)?;
    Ok(Plan::bytes_together(&[&plans.micro.0, &plans.update.0, &evaluation, &initial, &update]))
}

/// What `--dry-run` prints: kernels, parameters, operations, memory.
pub fn describe(unet: &UNet, config: &TrainConfig, plans: &TrainPlans, bytes: u64) -> String {
    let (height, width) = unet.config.sample_size.get();
    let (micro, update) = (&plans.micro.0, &plans.update.0);
    let flops = plans.model_flops_per_picture(config.batch);
    format!(
        "network         {height}x{width}x{}, {} parameters in {} tensors\n\
         batch           {} x {} = {} pictures per step\n\
         launches        {} per micro-batch, {} per update\n\
         model FLOPs     {:.1} M per picture, {:.2} G per step (forward and backward)\n\
         device memory   {} planned, to train, evaluate and sample\n",
        unet.config.in_channels,
        HumanCount(unet.parameter_count() as u64),
        unet.parameters.len(),
        config.batch,
        config.accumulate,
        config.effective_batch(),
        micro.launches.len(),
        update.launches.len(),
        flops as f64 * 1e-6,
        flops as f64 * config.effective_batch() as f64 * 1e-9,
        HumanBytes(bytes),
    )
}

/// A bar over the steps; hidden where there is no terminal.
fn progress_bar(config: &TrainConfig, quiet: bool) -> ProgressBar {
    if quiet {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(config.steps.into());
    let style = ProgressStyle::with_template("{bar:32} step {pos}/{len}  {msg}  {elapsed} gone, {eta} left");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Trains, and returns the run folder. The device is opened once the pictures and the configuration are known to
/// be good. `interrupted` is looked at after every step; when it is set, a
/// checkpoint is written and the run ends early.
pub fn train(
    open_device: impl FnOnce() -> Result<Arc<Device>, GpuError>,
    config: &TrainConfig,
    options: &RunOptions,
    interrupted: &AtomicBool,
) -> Result<ModelFolder, TrainError> {
    // 1. Everything that can be refused is refused before anything is written.
    config.validate()?;
    let folder = ModelFolder::new(&options.out);
    let taken = std::fs::read_dir(&options.out).is_ok_and(|mut entries| entries.next().is_some());
    if taken && !options.resume {
        return Err(TrainError::OutputTaken(options.out.clone()));
    }
    let (training, held_out) = open_data(config)?;
    let mut config = config.clone();
    config.unet = Some(config.network(training.class_names.len()));
    let unet = UNet::new(&config.network(0))?;
    let resumed = if options.resume { Some(folder.load_checkpoint(&unet)?) } else { None };
    let device = open_device()?;
    let plans = TrainPlans::new(&unet, &config, &device.caps)?;
    let say = |line: &str| {
        if !options.quiet {
            println!("{line}");
        }
    };
    say(&format!("device          {} ({}, {})", device.info.name, device.info.backend, device.info.driver));
    say(&format!(
        "pictures        {} to train on, {} held out, from {}",
        HumanCount(training.len() as u64),
        HumanCount(held_out.len() as u64),
        config.data
    ));
    let planned = planned_bytes(&unet, &config, &plans, &device.caps)?;
    say(describe(&unet, &config, &plans, planned).trim_end());

    // 2. Device, states, plans.
    let embeddings = u32::try_from(unet.config.num_class_embeds.unwrap_or(1)).unwrap_or(u32::MAX);
    let classes = config.null_label().unwrap_or(embeddings);
    if let Some(label) =
        (0..training.len()).map(|i| training.label(i)).find(|&l| config.class_conditional && l >= classes)
    {
        let none = if classes < embeddings { ", the last of its labels standing for none" } else { "" };
        return Err(TrainError::Mismatch(format!(
            "{} has label {label}, but the network has {classes} classes{none}; set num_class_embeds in [unet]",
            config.data
        )));
    }
    let mut trainer = Trainer::new(&device, unet, &config)?;
    match &resumed {
        Some(c) => {
            trainer.set_states(c.next_step, [&c.states[0], &c.states[1], &c.states[2], &c.states[3]])?
        }
        None => {
            let initial = trainer.unet.initial_parameters(config.seed);
            trainer.set_parameters(&initial)?;
        }
    }
    let evaluation = Evaluation::new(&trainer, held_out)?;
    let sampler = PictureSampler::new(
        &trainer.store,
        &trainer.unet,
        EMA,
        sampler_batch(&config),
        grid_trajectory(&config)?,
    )?;
    let allocated =
        trainer.allocated_bytes() + evaluation.as_ref().map_or(0, |e| e.executable.bytes()) + sampler.bytes();
    say(&format!("                {} allocated", HumanBytes(allocated)));

    // 3. The run folder.
    for sub in ["checkpoints", "samples"] {
        let path = options.out.join(sub);
        std::fs::create_dir_all(&path).map_err(|source| FolderError::Io { path, source })?;
    }
    let path = options.out.join("config.toml");
    let text = toml::to_string(&config)
        .map_err(|e| FolderError::Toml { path: path.clone(), message: e.to_string() })?;
    write_atomic(&path, |file| file.write_all(text.as_bytes()))?;
    let log_path = options.out.join("log.jsonl");
    // What was logged after the checkpoint will be logged again.
    let first_step = trainer.next_step();
    let mut log = JsonLines::open_keeping(&log_path, |record| {
        record.get("step").and_then(serde_json::Value::as_u64).is_some_and(|step| step <= first_step.into())
    })?;

    // 4. Steps.
    let augment = AugmentOptions { flip: config.flip, crop_padding: config.crop_padding };
    let first_batch = u64::from(trainer.next_step()) * u64::from(config.accumulate);
    let mut loader = Loader::new(Arc::new(training), config.batch, config.seed, augment, first_batch);
    let bar = progress_bar(&config, options.quiet);
    bar.set_position(trainer.next_step().into());
    bar.reset_eta();
    let start = Instant::now();
    let mut paused = std::time::Duration::ZERO;
    let mut not_finite = 0;
    while trainer.next_step() < config.steps {
        trainer.step(|| {
            let batch = loader.next();
            (batch.images, batch.labels)
        })?;
        let done = trainer.next_step();
        let stopped = interrupted.load(Ordering::Relaxed);
        let due = |every: u32| done == config.steps || (every > 0 && done.is_multiple_of(every));
        let (sample_due, checkpoint_due) =
            (due(config.sample_every), due(config.checkpoint_every) || stopped);
        let pause = sample_due || checkpoint_due;
        if trainer.log_is_full() || pause {
            let rows = trainer.read_log()?;
            let pictures = f64::from(done - first_step) * config.effective_batch() as f64;
            let rate = pictures / (start.elapsed() - paused).as_secs_f64();
            report(&rows, rate, &config, &mut log, &bar)?;
            for row in &rows {
                not_finite = if row.finite { 0 } else { not_finite + 1 };
            }
            if not_finite >= 50 {
                return Err(TrainError::Diverged(not_finite, done - not_finite));
            }
        }
        bar.set_position(done.into());
        if pause {
            let pause_start = Instant::now();
            if sample_due {
                if let Some(evaluation) = &evaluation {
                    let loss = evaluation.loss(&config)?;
                    log.write(&json!({ "step": done, "held_out_loss": loss }))?;
                    bar.suspend(|| say(&format!("step {done}: held-out loss {loss:.5}")));
                }
                let path = options.out.join("samples").join(format!("step-{done:06}.png"));
                sample_grid(&trainer, &sampler, &path)?;
            }
            if checkpoint_due {
                let checkpoint = Checkpoint { next_step: done, states: trainer.states()? };
                folder.save_checkpoint(&trainer.unet, &checkpoint)?;
            }
            paused += pause_start.elapsed();
        }
        if stopped {
            break;
        }
    }
    bar.finish_and_clear();
    loss_curve(&log_path, &options.out.join("loss.png"))?;
    Ok(folder)
}

/// Logs the rows and shows the last of them.
fn report(
    rows: &[LogRow],
    images_per_s: f64,
    config: &TrainConfig,
    log: &mut JsonLines,
    bar: &ProgressBar,
) -> Result<(), TrainError> {
    for row in rows {
        log.write(&json!({
            "step": row.step + 1,
            "loss": row.loss,
            "gradient_norm": row.gradient_norm,
            "finite": row.finite,
            "learning_rate": config.learning_rate_at(row.step),
            "images_per_s": images_per_s,
        }))?;
    }
    if !rows.is_empty() {
        let mean = rows.iter().map(|r| f64::from(r.loss)).sum::<f64>() / rows.len() as f64;
        bar.set_message(format!("loss {mean:.4}  {images_per_s:.1} images/s"));
    }
    Ok(())
}

/// How the grids are drawn.
fn grid_trajectory(config: &TrainConfig) -> Result<Trajectory, ConfigError> {
    // A network that predicts the picture one step before cannot leave out a step.
    let steps = if config.objective.predicts_previous() { config.timesteps } else { config.sample_steps };
    Trajectory::new(&config.scheduler(Sampler::Ddim), steps, 0.0)
}

/// Draws a grid from the averaged weights by DDIM; the same noise at every call, so that grids compare.
fn sample_grid(trainer: &Trainer, sampler: &PictureSampler, path: &Path) -> Result<(), TrainError> {
    let config = &trainer.config;
    let embeddings = trainer.unet.config.num_class_embeds.unwrap_or(1);
    let classes = config.null_label().map_or(embeddings, |null| null as usize).max(1);
    let labels: Vec<u32> = (0..config.sample_count).map(|i| (i % classes) as u32).collect();
    let pictures = sampler.draw(&Drawing::new(config.sample_count, config.seed, &labels), |_| Ok(()))?;
    let (height, width) = trainer.unet.config.sample_size.get();
    save_grid(
        path,
        &pictures,
        height,
        width,
        trainer.unet.config.out_channels,
        grid_columns(config.sample_count, classes),
        64,
    )?;
    Ok(())
}

/// Columns of a grid: one for each class if that fills the rows, or else the squarest.
pub fn grid_columns(count: usize, classes: usize) -> usize {
    if classes > 1 && count >= classes && count.is_multiple_of(classes) {
        return classes;
    }
    (1..=count).find(|c| c * c >= count).unwrap_or(1)
}

/// Draws the losses of a log as a PNG.
pub fn loss_curve(log: &Path, path: &Path) -> Result<(), FileError> {
    let records = jsonl::read(log)?;
    let series = |key: &str| -> Vec<(f64, f64)> {
        records.iter().filter_map(|r| Some((r.get("step")?.as_f64()?, r.get(key)?.as_f64()?))).collect()
    };
    let training = series("loss");
    let mut chart = Chart {
        title: "loss".into(),
        x_label: "step".into(),
        y_label: "mean squared error".into(),
        log_y: true,
        ..Chart::default()
    };
    chart.add_smoothed("training", &training, (training.len() / 40).max(1));
    let held_out = series("held_out_loss");
    if !held_out.is_empty() {
        chart.series.push(crate::io::Series {
            name: "held out".into(),
            points: held_out,
            colour: 1,
            ..Default::default()
        });
    }
    chart.save_png(path)
}
