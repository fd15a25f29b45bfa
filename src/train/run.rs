//! The training loop: pictures in, run folder out, with interruption and resumption. It sends its events to an
//! observer; nothing is printed here.

use super::checkpoint::CheckpointFile;
use super::choices::measured_choices;
use super::divergence::{Skips, first_not_finite};
use super::evaluation::Evaluation;
use super::grid::GridSampler;
use super::init::Initial;
use super::log::{self, Log};
use super::open_data::{check_labels, class_difference};
use super::plan::{PictureTask, classification, diffusion};
use super::run_folder::{Contents, DATA, Held};
use super::warnings::{learning_rate_jump, other_pictures, other_shaders, warnings};
use super::{
    Checkpoint, FolderError, ModelFolder, NetworkKind, Pictures, RunOptions, RunPlan, Skipped, StepOptions,
    TrainConfig, TrainError, TrainEvent, Trainer, open_data_reporting,
};
use crate::data::{AugmentOptions, Dataset, Loader, Report, batch_at};
use crate::gpu::{Blocking as _, Device, GpuError};
use crate::graph::Caps;
use crate::io::{FileError, write_json};
use crate::shader::Folder;
use crate::tune::Effort;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Trains, and returns the run folder. `observe` is given every event. `interrupted` is looked at after every
/// step; when it is set, a checkpoint is written and the run ends early. The device is opened once the pictures and
/// the configuration are known to be good, and nothing is written before all that can be refused has been.
///
/// At a step where all of it is due, the log is written first, then the checkpoint, then come the held-out loss and the
/// sample grid; a run that was killed in between makes up for what is missing when it is resumed. A picture that cannot be
/// written does not end the training.
///
/// # Errors
/// Whatever is refused, a device or disk that fails, and more than a tenth of the last hundred steps without a finite
/// gradient. The last checkpoint is then untouched.
pub fn train(
    open_device: impl FnOnce() -> Result<Arc<Device>, GpuError>,
    config: &TrainConfig,
    options: &RunOptions,
    interrupted: &AtomicBool,
    mut observe: impl FnMut(&TrainEvent),
) -> Result<ModelFolder, TrainError> {
    let observe = &mut observe;
    config.validate()?;
    let folder = ModelFolder::new(&options.out);
    let beginning = if options.resume {
        match Beginning::resumed(&folder, config, options.from_step, observe)? {
            Some(beginning) => beginning,
            None => return Ok(folder),
        }
    } else {
        Beginning::new(&folder, observe)?
    };
    let accepted = Accepted::new(folder, config, options, beginning, observe)?;
    match accepted.config.network {
        NetworkKind::Unet => {
            let task = diffusion(&accepted.config)?;
            accepted.run(task, open_device, options, interrupted, observe)
        }
        NetworkKind::Classifier => {
            let task = classification(&accepted.config)?;
            accepted.run(task, open_device, options, interrupted, observe)
        }
    }
}

type Observer<'a> = dyn FnMut(&TrainEvent) + 'a;

/// Where a run begins.
struct Beginning {
    /// Where it goes on.
    checkpoint: Option<CheckpointFile>,
    /// The configuration that the run had, if it is one that goes on.
    had: Option<TrainConfig>,
    /// None where nobody has trained yet.
    held: Option<Held>,
}

impl Beginning {
    /// A new run.
    fn new(folder: &ModelFolder, observe: &mut Observer) -> Result<Self, TrainError> {
        let held = match folder.contents()? {
            Contents::Nothing => None,
            Contents::Begun => {
                let held = folder.hold_early()?;
                let message = format!(
                    "{} holds a run that ended before its first checkpoint; a new one takes its place",
                    folder.path().display()
                );
                observe(&TrainEvent::Note { message: &message });
                held
            }
            Contents::Other => return Err(TrainError::OutputTaken(folder.path().to_path_buf())),
        };
        Ok(Self { checkpoint: None, had: None, held })
    }

    /// A run that goes on; `None`, said, if there is nothing left to do for it.
    fn resumed(
        folder: &ModelFolder,
        config: &TrainConfig,
        from_step: Option<u32>,
        observe: &mut Observer,
    ) -> Result<Option<Self>, TrainError> {
        if folder.contents()? == Contents::Nothing {
            return Err(FolderError::NotARun { path: folder.path().to_path_buf() }.into());
        }
        let held = folder.hold_early()?;
        let checkpoint = match folder.open_checkpoint(from_step) {
            Ok(checkpoint) => Some(checkpoint),
            Err(FolderError::NoCheckpoint { .. }) if folder.contents()? == Contents::Begun => None,
            Err(e) => return Err(e.into()),
        };
        if let Some(checkpoint) = &checkpoint
            && from_step.is_none()
            && folder.is_done(config, checkpoint)?
        {
            folder.remove_abandoned();
            observe(&TrainEvent::NothingToDo { step: checkpoint.next_step, steps: config.steps });
            return Ok(None);
        }
        if checkpoint.is_none() {
            let message = format!(
                "{} holds a run that ended before its first checkpoint; it begins again at step 0",
                folder.path().display()
            );
            observe(&TrainEvent::Note { message: &message });
        }
        // A folder that was put together by hand may have checkpoints alone.
        let had = folder.path().join("config.toml").is_file().then(|| folder.config()).transpose()?;
        Ok(Some(Self { checkpoint, had, held }))
    }

    /// Steps done.
    fn step(&self) -> u32 {
        self.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.next_step)
    }
}

/// A run whose configuration, folder and pictures are good.
struct Accepted {
    folder: ModelFolder,
    /// With the network in full.
    config: TrainConfig,
    beginning: Beginning,
    training: Arc<Dataset>,
    held_out: Dataset,
    pictures: Pictures,
    /// What was found where the pictures lie.
    report: Report,
}

impl Accepted {
    fn new(
        folder: ModelFolder,
        config: &TrainConfig,
        options: &RunOptions,
        beginning: Beginning,
        observe: &mut Observer,
    ) -> Result<Self, TrainError> {
        let mut report = Report::default();
        let (training, held_out) = open_data_reporting(config, &mut report, options.data_progress)?;
        observe(&TrainEvent::DataOpened { report: &report });
        let found = &training.class_names;
        let with_network = config.with_network(found);
        let pictures = Pictures {
            training: training.len(),
            held_out: held_out.len(),
            class_names: with_network.class_names.clone(),
        };
        let had = beginning.checkpoint.as_ref().and_then(|checkpoint| checkpoint.pictures.as_ref());

        // 1. A label must mean what it meant.
        let kept = had.map_or(&config.class_names, |had| &had.class_names);
        if let Some(difference) = class_difference(kept, found).filter(|_| !kept.is_empty()) {
            let (whose, remedy) = if options.resume {
                (
                    "the run",
                    "Give the data back these classes under these names, or begin a new run with --out",
                )
            } else {
                ("class_names in the configuration", "Leave class_names out: the data has them")
            };
            return Err(TrainError::Mismatch(format!(
                "the classes found in {} are not those of {whose}: {difference}. {remedy}",
                config.data
            )));
        }
        check_labels(&with_network, &training)?;

        // 2. What is allowed, but may not be meant.
        let mut warned = warnings(&with_network, &pictures);
        if options.resume && config.learns_classes() && kept.is_empty() && beginning.checkpoint.is_some() {
            warned.push(
                "the run has not kept the names of its classes, so that they cannot be compared; it keeps those of the \
                 data from now on"
                    .into(),
            );
        }
        warned.extend(had.and_then(|had| other_pictures(had, &pictures)));
        let step = beginning.step();
        warned.extend(beginning.had.as_ref().and_then(|had| learning_rate_jump(had, &with_network, step)));
        warned.iter().for_each(|message| observe(&TrainEvent::Warning { message }));
        let (config, training) = (with_network, Arc::new(training));
        Ok(Self { folder, config, beginning, training, held_out, pictures, report })
    }

    /// Allocates the states and plans, makes the run folder or goes on with it, and trains.
    fn run<T: PictureTask>(
        self,
        task: T,
        open_device: impl FnOnce() -> Result<Arc<Device>, GpuError>,
        options: &RunOptions,
        interrupted: &AtomicBool,
        observe: &mut Observer,
    ) -> Result<ModelFolder, TrainError> {
        let Self { folder, config, beginning, training, held_out, pictures, report } = self;
        let Beginning { checkpoint, held, .. } = beginning;
        let parameters = task.network().parameters();
        let goes_on = checkpoint.is_some();
        let start = match checkpoint {
            Some(file) => file.states(parameters)?,
            None => {
                let Initial { weights, notes } = Initial::new(&config, parameters)?;
                notes.iter().for_each(|message| observe(&TrainEvent::Note { message }));
                Checkpoint::at_the_beginning(weights)
            }
        };
        let device = open_device()?;
        let shaders = device.shaders().map(Folder::checksums).unwrap_or_default();
        if goes_on && let Some(message) = other_shaders(&folder.shaders()?, &shaders) {
            observe(&TrainEvent::Warning { message: &message });
        }
        let effort = options.tune.unwrap_or_else(|| Effort::of_device(&device));
        let choices = Arc::new(if goes_on {
            folder.choices()?
        } else {
            measured_choices(&device, &RunPlan::of(&task, &config, &device.caps)?, effort, options, observe)?
        });
        let caps = Caps { choices: choices.clone(), ..device.caps.clone() };
        observe(&TrainEvent::Planned {
            device: &device.info,
            training: training.len(),
            held_out: held_out.len(),
            config: &config,
            plan: &RunPlan::of(&task, &config, &caps)?,
        });

        // 1. The device.
        let mut trainer =
            Trainer::new(&device, task, StepOptions { choices: choices.clone(), ..config.step_options() })
                .block_on()?;
        trainer.restore(&start)?;
        let step = trainer.next_step();
        let evaluation = Evaluation::new(&trainer, held_out)?;
        let grids = T::grids(&trainer)?;
        let allocated_bytes = trainer.allocated_bytes()
            + evaluation.as_ref().map_or(0, Evaluation::bytes)
            + grids.as_ref().map_or(0, GridSampler::bytes);

        // 2. The folder.
        let held = if goes_on {
            let held = held.map_or_else(|| folder.hold(), Ok)?;
            folder.set_aside_after(step)?;
            folder.go_on(&config)?;
            folder.remove_old_checkpoints()?;
            if folder.step_of_weights() != Some(step) {
                folder.save_weights(trainer.task.network().parameters(), &start.states[3], step)?;
            }
            held
        } else {
            let held = folder.begin(held, &config)?;
            folder.keep_choices(&choices)?;
            held
        };
        folder.keep_shaders(&shaders)?;
        write_json(&folder.path().join(DATA), &json!(report))?;
        let (log, before) = Log::open(folder.path().join(log::NAME), &pictures, step)?;
        let all = start.next_step - start.steps_taken;
        let by_scale = start.loss_scale.map_or(0, |scale| scale.skips as u32).min(all);
        let skips = Skips::before(Skipped { not_finite: all - by_scale, by_scale }, &before.steps);

        // 3. The steps.
        let first_batch = u64::from(step) * u64::from(config.accumulate);
        let mut loader =
            Loader::new(training.clone(), config.batch, config.seed, augment(&config), first_batch);
        observe(&TrainEvent::Started { step, skipped: skips.total, steps: config.steps, allocated_bytes });
        let mut run = Run {
            clock: Clock { first_step: step, start: Instant::now(), paused: Duration::ZERO },
            measured: before.held_out,
            failed: None,
            _held: held,
            config,
            trainer,
            training,
            pictures,
            evaluation,
            grids,
            folder,
            log,
            skips,
            observe,
        };
        match run.finish(&mut loader, interrupted) {
            Ok(()) => Ok(run.folder),
            Err(source) => Err(TrainError::Stopped { source: Box::new(source), state: run.folder.state() }),
        }
    }
}

/// A run under way.
struct Run<'a, T: PictureTask> {
    config: TrainConfig,
    trainer: Trainer<T>,
    training: Arc<Dataset>,
    pictures: Pictures,
    evaluation: Option<Evaluation<T>>,
    grids: Option<GridSampler>,
    folder: ModelFolder,
    _held: Held,
    log: Log,
    clock: Clock,
    skips: Skips,
    /// Whether the held-out pictures were measured at the step where the run goes on.
    measured: bool,
    /// Pictures that could not be written: the first error, and how many.
    failed: Option<(FileError, usize)>,
    observe: &'a mut Observer<'a>,
}

impl<T: PictureTask> Run<'_, T> {
    /// Everything from the first step on.
    fn finish(&mut self, loader: &mut Loader, interrupted: &AtomicBool) -> Result<(), TrainError> {
        self.make_up()?;
        self.steps(loader, interrupted)?;
        #[cfg(feature = "charts")]
        {
            let [log, curve] =
                [log::NAME, super::run_folder::LOSS_CURVE].map(|name| self.folder.path().join(name));
            let drawn = super::loss_curve(&log, &curve, T::LOSS);
            self.note_failure(drawn);
        }
        match self.failed.take() {
            None => Ok(()),
            Some((first, count)) => Err(TrainError::Pictures { first: Box::new(first), count }),
        }
    }

    /// What was due at the step where the run goes on and is not there, because the run was killed after the checkpoint.
    fn make_up(&mut self) -> Result<(), TrainError> {
        let step = self.trainer.next_step();
        if step > 0 && self.is_due(self.config.sample_every, step) {
            if !self.measured {
                self.evaluate(step)?;
            }
            if !self.folder.grid_path(step).is_file() {
                self.draw_grid(step)?;
            }
        }
        Ok(())
    }

    fn is_due(&self, every: u32, step: u32) -> bool {
        step == self.config.steps || (every > 0 && step.is_multiple_of(every))
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
            let sample_due = self.is_due(sample_every, step);
            let checkpoint_due = self.is_due(checkpoint_every, step) || stopped;
            if self.trainer.log_is_full() || sample_due || checkpoint_due {
                self.read_log(step)?;
            }
            (self.observe)(&TrainEvent::Step { step });
            let pause = Instant::now();
            if checkpoint_due {
                // Before all that may fail for another reason than the training itself.
                self.save_checkpoint(step)?;
            }
            if sample_due {
                self.evaluate(step)?;
                self.draw_grid(step)?;
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
        let images_per_s = self.clock.images_per_s(step, &self.config);
        for row in &rows {
            self.skips.count(row);
            let learning_rate = self.config.learning_rate_at(row.step);
            self.log.step(row, self.skips.total, learning_rate, images_per_s)?;
        }
        (self.observe)(&TrainEvent::Logged { rows: &rows, skipped: self.skips.total, images_per_s });
        if self.skips.are_too_many() { Err(self.diverged(step)?) } else { Ok(()) }
    }

    /// Why so many steps were skipped.
    fn diverged(&self, step: u32) -> Result<TrainError, TrainError> {
        /// Steps that are taken once more, at most, to see where it begins: each reads every tensor of it.
        const TRIED: usize = 3;
        let TrainConfig { batch, seed, accumulate, learning_rate, clip_norm, .. } = self.config;
        let mut place = None;
        for skipped in self.skips.recent_skipped().take(TRIED) {
            let first = u64::from(skipped - 1) * u64::from(accumulate);
            let batches = (first..first + u64::from(accumulate)).map(|k| {
                let batch = batch_at(&self.training, batch, seed, augment(&self.config), k);
                (batch.images, batch.labels)
            });
            place = first_not_finite(&self.trainer, skipped, batches).block_on()?;
            if place.is_some() {
                break;
            }
        }
        let clip = if clip_norm > 0.0 { "" } else { ", or set --clip-norm 1" };
        Ok(TrainError::Diverged {
            skipped: self.skips.recent_skipped().count(),
            steps: self.skips.recent(),
            step,
            place: place.unwrap_or_else(|| "With the weights as they are now, these steps are finite".into()),
            remedy: format!("Lower --learning-rate, which is {learning_rate}{clip}"),
        })
    }

    fn evaluate(&mut self, step: u32) -> Result<(), TrainError> {
        if let Some(evaluation) = &self.evaluation {
            let measured = evaluation.measure(&self.trainer)?;
            self.log.held_out(step, measured)?;
            let (loss, accuracy) = (measured.loss, measured.accuracy);
            (self.observe)(&TrainEvent::HeldOut { step, loss, accuracy });
        }
        Ok(())
    }

    fn draw_grid(&mut self, step: u32) -> Result<(), TrainError> {
        let Some(grids) = &self.grids else { return Ok(()) };
        match grids.save(&self.folder.grid_path(step)) {
            Ok(()) => (self.observe)(&TrainEvent::GridSaved { step }),
            Err(TrainError::File(e)) => self.note_failure(Err(e)),
            Err(e) => return Err(e),
        }
        Ok(())
    }

    /// A picture that cannot be written is told at once and at the end. The training goes on.
    fn note_failure(&mut self, drawn: Result<(), FileError>) {
        let Err(e) = drawn else { return };
        (self.observe)(&TrainEvent::Warning { message: e.to_string().trim_end_matches('.') });
        let count = self.failed.as_ref().map_or(0, |(_, count)| *count) + 1;
        self.failed = Some((self.failed.take().map_or(e, |(first, _)| first), count));
    }

    fn save_checkpoint(&mut self, step: u32) -> Result<(), TrainError> {
        self.log.sync()?;
        let mut checkpoint = self.trainer.checkpoint().block_on()?;
        checkpoint.pictures = Some(self.pictures.clone());
        self.folder.save_checkpoint(self.trainer.task.network().parameters(), &checkpoint)?;
        (self.observe)(&TrainEvent::CheckpointSaved { step });
        Ok(())
    }
}

fn augment(config: &TrainConfig) -> AugmentOptions {
    AugmentOptions { flip: config.flip, crop_padding: config.crop_padding }
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
