//! The training loop: pictures in, run folder out, with interruption and resumption. It sends its events to an
//! observer; nothing is printed here.

use super::checkpoint::{Checkpoint, FolderError, ModelFolder};
use super::evaluation::{Evaluation, HeldOut, evaluation_plan};
use super::grid::GridSampler;
use super::init::Initial;
use super::step::{LogRow, Task, TrainPlans, Trainer};
use super::{Classification, Diffusion, NetworkKind, PictureBatch, TrainConfig, TrainStates};
use crate::classifier::Classifier;
use crate::data::{self, AugmentOptions, DataError, Dataset, Loader, Report};
use crate::diffusion::UNet;
use crate::gpu::{Blocking as _, Device, GpuError, Info, RunError};
use crate::graph::{Caps, Plan};
use crate::io::atomic::write_atomic;
use crate::io::{FileError, JsonLines, remove_abandoned, write_json};
use crate::nn::{ConfigError, Parameters};
use serde_json::json;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

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
#[derive(Clone)]
pub struct RunOptions<'a> {
    /// Where the run folder is made, or lies.
    pub out: PathBuf,
    /// Go on from the folder's newest checkpoint.
    pub resume: bool,
    /// Called while the pictures are read, from several threads.
    pub data_progress: &'a data::Progress<'a>,
}

impl RunOptions<'_> {
    /// A new run in this folder.
    pub fn new(out: impl Into<PathBuf>) -> Self {
        Self { out: out.into(), resume: false, data_progress: &|_, _| () }
    }
}

/// An event of a run, in the order in which they happen. Steps are counts of optimizer steps done.
pub enum TrainEvent<'a> {
    /// Something to know that is as it should be.
    Note {
        /// A sentence without its full stop.
        message: &'a str,
    },
    /// The pictures were read; this was found where they lie.
    DataOpened {
        /// Also of what is not used.
        report: &'a Report,
    },
    /// Pictures, configuration and device fit together. Nothing is allocated or written yet.
    Planned {
        /// The device.
        device: &'a Info,
        /// Pictures to train on.
        training: usize,
        /// Pictures held out.
        held_out: usize,
        /// The configuration with the network in full.
        config: &'a TrainConfig,
        /// The network, the plans of a training step, and the memory that is needed.
        plan: &'a RunPlan,
    },
    /// The first step follows.
    Started {
        /// 0, or where a resumed run goes on.
        step: u32,
        /// Steps of the whole run.
        steps: u32,
        /// Device bytes allocated.
        allocated_bytes: u64,
    },
    /// Rows were read back from the device and logged.
    Logged {
        /// One for each step since the last ones.
        rows: &'a [LogRow],
        /// Mean since the start, without pauses for samples and checkpoints.
        images_per_s: f64,
    },
    /// A step was submitted. The device may still be at work on it.
    Step {
        /// Steps done.
        step: u32,
    },
    /// The averaged weights were measured on the held-out pictures.
    HeldOut {
        /// Steps done.
        step: u32,
        /// The loss.
        loss: f64,
        /// The share of pictures whose class a classifier predicts.
        accuracy: Option<f64>,
    },
    /// A sample grid was drawn and written.
    GridSaved {
        /// Steps done.
        step: u32,
    },
    /// A checkpoint and the averaged weights were written.
    CheckpointSaved {
        /// Steps done.
        step: u32,
    },
    /// The run was interrupted and has ended early, with a checkpoint.
    Interrupted {
        /// Steps done.
        step: u32,
    },
    /// All steps are done.
    Finished {
        /// Steps done.
        step: u32,
    },
}

/// Pictures of a configuration, split into training and held-out parts.
pub fn open_data(config: &TrainConfig) -> Result<(Dataset, Dataset), TrainError> {
    open_data_reporting(config, &mut Report::default(), &|_, _| ())
}

/// As [`open_data`], with what was found, as far as it got, in `report`. `progress` is called now and then with the
/// pictures read and those there are.
pub fn open_data_reporting(
    config: &TrainConfig,
    report: &mut Report,
    progress: &data::Progress,
) -> Result<(Dataset, Dataset), TrainError> {
    let all = Dataset::open_reporting(&config.data, &config.data_options(), report, progress)?;
    split_data(config, all)
}

/// The pictures to train on and those held out.
///
/// # Errors
/// None are left to train on, or there are no classes where the run learns them.
pub fn split_data(config: &TrainConfig, all: Dataset) -> Result<(Dataset, Dataset), TrainError> {
    if config.class_conditional && all.class_names.is_empty() {
        return Err(TrainError::Mismatch(format!(
            "--class-conditional needs classes, but {} has none; put the pictures of each class into a subfolder \
             named after it, or leave the flag out",
            config.data
        )));
    }
    if config.network.needs_classes() && all.class_names.len() < 2 {
        return Err(TrainError::Mismatch(format!(
            "--network classifier needs classes, but {} has {}; put the pictures of each class into a subfolder named \
             after it, and give at least two",
            config.data,
            all.class_names.len()
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

/// What a run will do to a device, before it is asked for.
#[derive(Clone, Debug)]
pub struct RunPlan {
    /// The network's.
    pub parameters: Parameters,
    /// The plans of a training step.
    pub plans: TrainPlans,
    /// Device bytes to train, evaluate and sample.
    pub bytes: u64,
}

impl RunPlan {
    /// Plans a run whose configuration has the network in full ([`TrainConfig::with_network`]).
    pub fn new(config: &TrainConfig, caps: &Caps) -> Result<Self, TrainError> {
        match config.network {
            NetworkKind::Unet => Self::of(&diffusion(config)?, config, caps),
            NetworkKind::Classifier => Self::of(&classification(config)?, config, caps),
        }
    }

    fn of(task: &impl PictureTask, config: &TrainConfig, caps: &Caps) -> Result<Self, TrainError> {
        let parameters = task.network().parameters().clone();
        let plans = TrainPlans::new(task, &config.step_options(), caps)?;
        let states = TrainStates::new(parameters.flat_elements(), config.log_every as usize);
        let evaluation = evaluation_plan(task, &states, config.batch, caps)?;
        let grids = task.grid_plans(&states, caps)?;
        let all: Vec<&Plan> = [&plans.micro, &plans.update, &evaluation].into_iter().chain(&grids).collect();
        let bytes = Plan::bytes_together(&all);
        Ok(Self { parameters, plans, bytes })
    }
}

fn diffusion(config: &TrainConfig) -> Result<Diffusion, ConfigError> {
    Ok(Diffusion::new(UNet::new(&config.unet_config(0))?, config))
}

fn classification(config: &TrainConfig) -> Result<Classification, ConfigError> {
    Ok(Classification(Classifier::new(&config.classifier_config(0))?))
}

/// A task on pictures of a data set, as the loop runs it.
trait PictureTask: Task<Batch = PictureBatch> + Sized {
    /// What the loss is, on its chart.
    #[cfg(feature = "charts")]
    const LOSS: &'static str;

    /// Draws sample grids, if the network draws.
    fn grids(trainer: &Trainer<Self>) -> Result<Option<GridSampler>, TrainError>;

    /// The plans of the grids, to know their memory.
    fn grid_plans(&self, states: &TrainStates, caps: &Caps) -> Result<Vec<Plan>, TrainError>;
}

impl PictureTask for Diffusion {
    #[cfg(feature = "charts")]
    const LOSS: &'static str = "mean squared error";

    fn grids(trainer: &Trainer<Self>) -> Result<Option<GridSampler>, TrainError> {
        Ok(Some(GridSampler::new(trainer)?))
    }

    fn grid_plans(&self, states: &TrainStates, caps: &Caps) -> Result<Vec<Plan>, TrainError> {
        Ok(GridSampler::plans(self, states, caps)?.into())
    }
}

impl PictureTask for Classification {
    #[cfg(feature = "charts")]
    const LOSS: &'static str = "cross-entropy";

    fn grids(_trainer: &Trainer<Self>) -> Result<Option<GridSampler>, TrainError> {
        Ok(None)
    }

    fn grid_plans(&self, _states: &TrainStates, _caps: &Caps) -> Result<Vec<Plan>, TrainError> {
        Ok(Vec::new())
    }
}

/// Trains, and returns the run folder. `observe` is given every event. `interrupted` is looked at after every
/// step; when it is set, a checkpoint is written and the run ends early. The device is opened once the pictures and
/// the configuration are known to be good, and nothing is written before all that can be refused has been.
///
/// # Errors
/// Whatever is refused, a device or disk that fails, and a loss that is not finite 50 steps in a row. The last
/// checkpoint is then untouched.
pub fn train(
    open_device: impl FnOnce() -> Result<Arc<Device>, GpuError>,
    config: &TrainConfig,
    options: &RunOptions,
    interrupted: &AtomicBool,
    mut observe: impl FnMut(&TrainEvent),
) -> Result<ModelFolder, TrainError> {
    let observe = &mut observe;
    let accepted = Accepted::new(config, options, observe)?;
    match accepted.config.network {
        NetworkKind::Unet => {
            let task = diffusion(&accepted.config)?;
            accepted.run(task, open_device, interrupted, observe)
        }
        NetworkKind::Classifier => {
            let task = classification(&accepted.config)?;
            accepted.run(task, open_device, interrupted, observe)
        }
    }
}

/// A run whose configuration, folder and pictures are good.
struct Accepted {
    /// With the network in full.
    config: TrainConfig,
    training: Dataset,
    held_out: Dataset,
    folder: ModelFolder,
    report: Report,
    resume: bool,
}

impl Accepted {
    fn new(
        config: &TrainConfig,
        options: &RunOptions,
        observe: &mut dyn FnMut(&TrainEvent),
    ) -> Result<Self, TrainError> {
        config.validate()?;
        let folder = ModelFolder::new(&options.out);
        let taken = std::fs::read_dir(&options.out).is_ok_and(|mut entries| entries.next().is_some());
        if taken && !options.resume {
            return Err(TrainError::OutputTaken(options.out.clone()));
        }
        let mut report = Report::default();
        let (training, held_out) = open_data_reporting(config, &mut report, options.data_progress)?;
        observe(&TrainEvent::DataOpened { report: &report });
        let config = config.with_network(&training.class_names);
        check_labels(&config, &training)?;
        Ok(Self { config, training, held_out, folder, report, resume: options.resume })
    }

    fn run<T: PictureTask>(
        self,
        task: T,
        open_device: impl FnOnce() -> Result<Arc<Device>, GpuError>,
        interrupted: &AtomicBool,
        observe: &mut dyn FnMut(&TrainEvent),
    ) -> Result<ModelFolder, TrainError> {
        let parameters = task.network().parameters();
        let start = if self.resume {
            self.folder.load_checkpoint(parameters)?
        } else {
            let Initial { weights, notes } = Initial::new(&self.config, parameters)?;
            notes.iter().for_each(|message| observe(&TrainEvent::Note { message }));
            Checkpoint::at_the_beginning(weights)
        };
        let device = open_device()?;
        observe(&TrainEvent::Planned {
            device: &device.info,
            training: self.training.len(),
            held_out: self.held_out.len(),
            config: &self.config,
            plan: &RunPlan::of(&task, &self.config, &device.caps)?,
        });
        let (mut run, mut loader) = Run::start(self, task, &start, &device, observe)?;
        run.steps(&mut loader, interrupted)?;
        #[cfg(feature = "charts")]
        super::loss_curve(&run.folder.path().join(LOG), &run.folder.path().join("loss.png"), T::LOSS)?;
        Ok(run.folder)
    }
}

/// Refuses a label that the network has no embedding or score for, or only the embedding that stands for none.
pub fn check_labels(config: &TrainConfig, training: &Dataset) -> Result<(), TrainError> {
    let (all, field) = match config.network {
        NetworkKind::Unet if !config.class_conditional => return Ok(()),
        NetworkKind::Unet => {
            (config.unet_config(0).num_class_embeds.unwrap_or(1), "num_class_embeds in [unet]")
        }
        NetworkKind::Classifier => (config.classifier_config(0).num_classes, "num_classes in [classifier]"),
    };
    let all = u32::try_from(all).unwrap_or(u32::MAX);
    let classes = config.null_label().unwrap_or(all);
    let mut labels = (0..training.len()).map(|i| training.label(i));
    match labels.find(|&label| label >= classes) {
        None => Ok(()),
        Some(label) => {
            let none = if classes < all { ", the last of its labels standing for none" } else { "" };
            Err(TrainError::Mismatch(format!(
                "{} has label {label}, but the network has {classes} classes{none}; set {field}",
                config.data
            )))
        }
    }
}

/// A run under way.
struct Run<'a, T: PictureTask> {
    config: TrainConfig,
    trainer: Trainer<T>,
    evaluation: Option<Evaluation<T>>,
    grids: Option<GridSampler>,
    folder: ModelFolder,
    log: JsonLines,
    clock: Clock,
    /// Steps in a row, up to the last that was logged, whose gradient was not finite.
    not_finite: u32,
    observe: &'a mut dyn FnMut(&TrainEvent),
}

/// After so many steps in a row without a finite gradient, a run ends: they changed nothing, and no further one will.
const NOT_FINITE_STEPS: u32 = 50;

impl<'a, T: PictureTask> Run<'a, T> {
    /// Allocates the states and plans, makes the run folder or goes on with it, and sets the loader to work.
    fn start(
        accepted: Accepted,
        task: T,
        start: &Checkpoint,
        device: &Arc<Device>,
        observe: &'a mut dyn FnMut(&TrainEvent),
    ) -> Result<(Self, Loader), TrainError> {
        let Accepted { config, training, held_out, folder, report, .. } = accepted;
        let mut trainer = Trainer::new(device, task, config.step_options()).block_on()?;
        trainer.restore(start)?;
        let step = trainer.next_step();
        let evaluation = Evaluation::new(&trainer, held_out)?;
        let grids = T::grids(&trainer)?;
        let allocated_bytes = trainer.allocated_bytes()
            + evaluation.as_ref().map_or(0, Evaluation::bytes)
            + grids.as_ref().map_or(0, GridSampler::bytes);
        let log = open_folder(&folder, &config, step)?;
        save_report(&folder, &report)?;
        let augment = AugmentOptions { flip: config.flip, crop_padding: config.crop_padding };
        let first_batch = u64::from(step) * u64::from(config.accumulate);
        let loader = Loader::new(Arc::new(training), config.batch, config.seed, augment, first_batch);
        observe(&TrainEvent::Started { step, steps: config.steps, allocated_bytes });
        let clock = Clock { first_step: step, start: Instant::now(), paused: Duration::ZERO };
        Ok((Self { config, trainer, evaluation, grids, folder, log, clock, not_finite: 0, observe }, loader))
    }

    /// Steps to the end, or until `interrupted`, with all that is due between them.
    fn steps(&mut self, loader: &mut Loader, interrupted: &AtomicBool) -> Result<(), TrainError> {
        let TrainConfig { steps, sample_every, checkpoint_every, .. } = self.config;
        while self.trainer.next_step() < steps {
            self.trainer
                .step(&self.config.hyper(self.trainer.next_step()), || {
                    let batch = loader.next();
                    (batch.images, batch.labels)
                })
                .block_on()?;
            let step = self.trainer.next_step();
            let stopped = interrupted.load(Ordering::Relaxed);
            let due = |every: u32| step == steps || (every > 0 && step.is_multiple_of(every));
            let (sample_due, checkpoint_due) = (due(sample_every), due(checkpoint_every) || stopped);
            if self.trainer.log_is_full() || sample_due || checkpoint_due {
                self.read_log(step)?;
            }
            (self.observe)(&TrainEvent::Step { step });
            let pause = Instant::now();
            if sample_due {
                self.evaluate(step)?;
                self.draw_grid(step)?;
            }
            if checkpoint_due {
                self.save_checkpoint(step)?;
            }
            self.clock.paused += pause.elapsed();
            if stopped {
                (self.observe)(&TrainEvent::Interrupted { step });
                return Ok(());
            }
        }
        (self.observe)(&TrainEvent::Finished { step: self.trainer.next_step() });
        Ok(())
    }

    /// Waits for the device's table of losses and logs it.
    fn read_log(&mut self, step: u32) -> Result<(), TrainError> {
        let rows = self.trainer.read_log().block_on()?;
        let config = &self.config;
        let images_per_s = self.clock.images_per_s(step, config);
        for row in &rows {
            self.log.write(&json!({
                "step": row.step + 1,
                "loss": row.loss,
                "gradient_norm": row.gradient_norm,
                "finite": row.finite,
                "learning_rate": config.learning_rate_at(row.step),
                "images_per_s": images_per_s,
            }))?;
            self.not_finite = if row.finite { 0 } else { self.not_finite + 1 };
        }
        (self.observe)(&TrainEvent::Logged { rows: &rows, images_per_s });
        if self.not_finite >= NOT_FINITE_STEPS {
            return Err(TrainError::Diverged(self.not_finite, step - self.not_finite));
        }
        Ok(())
    }

    fn evaluate(&mut self, step: u32) -> Result<(), TrainError> {
        if let Some(evaluation) = &self.evaluation {
            let HeldOut { loss, accuracy } = evaluation.measure(&self.trainer)?;
            let mut record = json!({ "step": step, "held_out_loss": loss });
            if let Some(accuracy) = accuracy {
                record["held_out_accuracy"] = json!(accuracy);
            }
            self.log.write(&record)?;
            (self.observe)(&TrainEvent::HeldOut { step, loss, accuracy });
        }
        Ok(())
    }

    fn draw_grid(&mut self, step: u32) -> Result<(), TrainError> {
        let Some(grids) = &self.grids else { return Ok(()) };
        let path = self.folder.path().join("samples").join(format!("step-{step:06}.png"));
        grids.save(&path)?;
        (self.observe)(&TrainEvent::GridSaved { step });
        Ok(())
    }

    fn save_checkpoint(&mut self, step: u32) -> Result<(), TrainError> {
        let parameters = self.trainer.task.network().parameters();
        self.folder.save_checkpoint(parameters, &self.trainer.checkpoint().block_on()?)?;
        (self.observe)(&TrainEvent::CheckpointSaved { step });
        Ok(())
    }
}

/// The log's name in the run folder.
const LOG: &str = "log.jsonl";

/// Makes the run folder with its configuration, if it is not there, and opens the log, from which whatever was logged
/// after `step` is taken off: those steps will be taken again.
fn open_folder(folder: &ModelFolder, config: &TrainConfig, step: u32) -> Result<JsonLines, TrainError> {
    remove_abandoned(folder.path());
    let samples = config.network.draws_pictures().then_some("samples");
    for sub in std::iter::once("checkpoints").chain(samples) {
        let path = folder.path().join(sub);
        remove_abandoned(&path);
        std::fs::create_dir_all(&path).map_err(|source| FolderError::Io { path, source })?;
    }
    let path = folder.path().join("config.toml");
    let text = toml::to_string(config)
        .map_err(|e| FolderError::Toml { path: path.clone(), message: e.to_string() })?;
    write_atomic(&path, |file| file.write_all(text.as_bytes()))?;
    Ok(JsonLines::open_keeping(folder.path().join(LOG), |record| {
        record.get("step").and_then(serde_json::Value::as_u64).is_some_and(|logged| logged <= step.into())
    })?)
}

/// Keeps what was found where the pictures lie in `data.json` of the run folder.
fn save_report(folder: &ModelFolder, report: &Report) -> Result<(), TrainError> {
    Ok(write_json(&folder.path().join("data.json"), &json!(report))?)
}

/// Measures the speed of a run.
struct Clock {
    first_step: u32,
    start: Instant,
    /// Time that samples and checkpoints took.
    paused: Duration,
}

impl Clock {
    /// The mean since the start, without the pauses.
    fn images_per_s(&self, step: u32, config: &TrainConfig) -> f64 {
        let pictures = f64::from(step - self.first_step) * config.effective_batch() as f64;
        pictures / (self.start.elapsed() - self.paused).as_secs_f64()
    }
}
