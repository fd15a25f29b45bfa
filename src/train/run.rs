//! The training loop: pictures in, run folder out, with interruption and resumption. It sends its events to an
//! observer; nothing is printed here.

use super::beginning::Beginning;
use super::choices::measured_choices;
use super::divergence::{Skips, first_not_finite};
use super::evaluation::Evaluation;
use super::grid::GridSampler;
use super::group::Group;
use super::init::Initial;
use super::log::{self, Before, Log};
use super::open_data::{check_labels, class_difference};
use super::output::Output;
use super::plan::{PictureTask, classification, diffusion};
use super::run_folder::DATA;
use super::warnings::{learning_rate_jump, other_pictures, other_shaders, warnings};
use super::{
    Checkpoint, Fitted, ModelFolder, NetworkKind, Pictures, RunOptions, RunPlan, Skipped, StepOptions,
    TrainConfig, TrainError, TrainEvent, Trainer, open_data_reporting,
};
use crate::data::{AugmentOptions, Dataset, Loader, Report, batch_at};
use crate::gpu::{Blocking as _, Device, GpuError};
use crate::graph::Caps;
use crate::io::write_json;
use crate::nn::ConfigError;
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
    let group = &options.group;
    let observe = &mut |event: &TrainEvent| {
        if group.is_first() {
            observe(event);
        }
    };
    config.validate()?;
    group.rounds(config.accumulate)?;
    let folder = ModelFolder::new(&options.out);
    let beginning = if !group.is_first() {
        Some(Beginning::default())
    } else if options.resume {
        Beginning::resumed(&folder, config, options.from_step, observe)?
    } else {
        Some(Beginning::new(&folder, observe)?)
    };
    let is_done = group.share(|| Ok::<_, TrainError>(beginning.is_none()))?;
    let Some(beginning) = beginning.filter(|_| !is_done) else { return Ok(folder) };
    let accepted = Accepted::new(folder, config, options, beginning, observe)?;
    accepted.agree(group)?;
    match accepted.config.network {
        NetworkKind::Unet => accepted.run(diffusion, open_device, options, interrupted, observe),
        NetworkKind::Classifier => accepted.run(classification, open_device, options, interrupted, observe),
    }
}

pub(super) type Observer<'a> = dyn FnMut(&TrainEvent) + 'a;

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

    /// Checks that all ranks train the same on the same pictures.
    fn agree(&self, group: &Group) -> Result<(), TrainError> {
        let text = toml::to_string(&self.config).map_err(|e| TrainError::Mismatch(e.to_string()))?;
        group.agree("configuration", &text)?;
        Ok(group.agree("set of pictures", &self.training.fingerprint())?)
    }

    /// Allocates the states and plans, makes the run folder or goes on with it, and trains.
    fn run<T: PictureTask>(
        self,
        task: impl Fn(&TrainConfig) -> Result<T, ConfigError>,
        open_device: impl FnOnce() -> Result<Arc<Device>, GpuError>,
        options: &RunOptions,
        interrupted: &AtomicBool,
        observe: &mut Observer,
    ) -> Result<ModelFolder, TrainError> {
        let Self { folder, config, beginning, training, held_out, pictures, report } = self;
        let Beginning { checkpoint, held, .. } = beginning;
        let group = &options.group;
        let network = task(&config)?;
        let parameters = network.network().parameters();
        let goes_on = checkpoint.is_some();
        let mut start = match checkpoint {
            Some(file) => file.states(parameters)?,
            None if group.is_first() => {
                let Initial { weights, notes } = Initial::new(&config, parameters)?;
                notes.iter().for_each(|message| observe(&TrainEvent::Note { message }));
                Checkpoint::at_the_beginning(weights)
            }
            None => Checkpoint::at_the_beginning(Vec::new()),
        };
        start.share(group);
        let device = open_device()?;
        let asked = config.checkpointing;
        // The first rank's device decides for all.
        let (config, notes): (TrainConfig, Vec<String>) = group
            .share(|| config.fitted(&device.caps).map(|Fitted { config, notes, .. }| (config, notes)))?;
        group.rounds(config.accumulate)?;
        notes.iter().for_each(|message| observe(&TrainEvent::Note { message }));
        let task = task(&config)?;
        let shaders = device.shaders().map(Folder::checksums).unwrap_or_default();
        if goes_on && let Some(message) = other_shaders(&folder.shaders()?, &shaders) {
            observe(&TrainEvent::Warning { message: &message });
        }
        group.agree("set of shaders", &json!(shaders).to_string())?;
        if let Some(message) = group.devices(&device.info.name) {
            observe(&TrainEvent::Note { message: &message });
        }
        let choices = Arc::new(group.share(|| {
            if goes_on {
                return Ok(folder.choices()?);
            }
            let effort = options.tune.unwrap_or_else(|| Effort::of_device(&device));
            measured_choices(&device, &RunPlan::of(&task, &config, &device.caps)?, effort, options, observe)
        })?);
        let caps = Caps { choices: choices.clone(), ..device.caps.clone() };
        observe(&TrainEvent::Planned {
            device: &device.info,
            training: training.len(),
            held_out: held_out.len(),
            config: &config,
            plan: &RunPlan::of(&task, &config, &caps)?,
        });

        // 1. The device.
        let step_options =
            StepOptions { choices: choices.clone(), group: group.clone(), ..config.step_options() };
        let mut trainer = Trainer::new(&device, task, step_options).block_on()?;
        group.agree("order of gradients", &trainer.order_of_sums())?;
        trainer.restore(&start)?;
        let step = trainer.next_step();
        let evaluation = Evaluation::new(&trainer, held_out)?;
        let grids = if group.is_first() { T::grids(&trainer)? } else { None };
        let allocated_bytes = trainer.allocated_bytes()
            + evaluation.as_ref().map_or(0, Evaluation::bytes)
            + grids.as_ref().map_or(0, GridSampler::bytes);

        // 2. The folder. What was asked for is kept, so that a run that goes on may choose again.
        let kept = TrainConfig { checkpointing: asked, ..config.clone() };
        let (output, before) = if group.is_first() {
            let held = if goes_on {
                let held = held.map_or_else(|| folder.hold(), Ok)?;
                folder.set_aside_after(step)?;
                folder.go_on(&kept)?;
                folder.remove_old_checkpoints()?;
                if folder.step_of_weights() != Some(step) {
                    folder.save_weights(trainer.task.network().parameters(), &start.states[3], step)?;
                }
                held
            } else {
                let held = folder.begin(held, &kept)?;
                folder.keep_choices(&choices)?;
                held
            };
            folder.keep_shaders(&shaders)?;
            write_json(&folder.path().join(DATA), &json!(report))?;
            let (log, before) = Log::open(folder.path().join(log::NAME), &pictures, step)?;
            (Some(Output { folder: folder.clone(), pictures, log, grids, failed: None, _held: held }), before)
        } else {
            (None, Before::default())
        };
        let before: Before = group.share(|| Ok::<_, TrainError>(before))?;
        let all = start.next_step - start.steps_taken;
        let by_scale = start.loss_scale.map_or(0, |scale| scale.skips as u32).min(all);
        let skips = Skips::before(Skipped { not_finite: all - by_scale, by_scale }, &before.steps);

        // 3. The steps.
        let first_batch = u64::from(step) * u64::from(config.accumulate) + group.rank() as u64;
        let (data, ranks) = (training.clone(), group.size());
        let mut loader = Loader::new(data, config.batch, config.seed, augment(&config), first_batch, ranks);
        observe(&TrainEvent::Started { step, skipped: skips.total, steps: config.steps, allocated_bytes });
        let mut run = Run {
            clock: Clock { first_step: step, start: Instant::now(), paused: Duration::ZERO },
            measured: before.held_out,
            config,
            trainer,
            training,
            evaluation,
            output,
            skips,
            observe,
        };
        run.finish(&mut loader, interrupted)
            .map(|()| folder.clone())
            .map_err(|source| TrainError::Stopped { source: Box::new(source), state: folder.state() })
    }
}

/// A run under way.
struct Run<'a, T: PictureTask> {
    config: TrainConfig,
    trainer: Trainer<T>,
    training: Arc<Dataset>,
    evaluation: Option<Evaluation<T>>,
    /// Of the first rank.
    output: Option<Output>,
    clock: Clock,
    skips: Skips,
    /// Whether the held-out pictures were measured at the step where the run goes on.
    measured: bool,
    observe: &'a mut Observer<'a>,
}

impl<T: PictureTask> Run<'_, T> {
    /// Everything from the first step on.
    fn finish(&mut self, loader: &mut Loader, interrupted: &AtomicBool) -> Result<(), TrainError> {
        self.make_up()?;
        self.steps(loader, interrupted)?;
        match &mut self.output {
            None => Ok(()),
            Some(output) => output.finish::<T>(self.observe),
        }
    }

    /// What was due at the step where the run goes on and is not there, because the run was killed after the checkpoint.
    fn make_up(&mut self) -> Result<(), TrainError> {
        let step = self.trainer.next_step();
        if step > 0 && self.is_due(self.config.sample_every, step) {
            if !self.measured {
                self.evaluate(step)?;
            }
            if let Some(output) = self.output.as_mut().filter(|output| !output.has_grid(step)) {
                output.draw_grid(step, self.observe)?;
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
            self.trainer.options.group.ask_to_stop(interrupted.load(Ordering::Relaxed));
            self.trainer
                .step(&self.config.hyper(self.trainer.next_step()), || {
                    let batch = loader.next();
                    (batch.images, batch.labels)
                })
                .block_on()?;
            let step = self.trainer.next_step();
            let stopped = self.stops(interrupted);
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
                if let Some(output) = &mut self.output {
                    output.draw_grid(step, self.observe)?;
                }
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

    /// Whether the run is to end early: a rank that is alone looks again after its step.
    fn stops(&self, interrupted: &AtomicBool) -> bool {
        let group = &self.trainer.options.group;
        if group.size() == 1 { interrupted.load(Ordering::Relaxed) } else { group.stops() }
    }

    /// Waits for the device's table of losses and logs it.
    fn read_log(&mut self, step: u32) -> Result<(), TrainError> {
        let rows = self.trainer.read_log().block_on()?;
        let images_per_s = self.clock.images_per_s(step, &self.config);
        let group = &self.trainer.options.group;
        let waiting = group.waited().map(|waited| waited.as_secs_f64() / self.clock.seconds());
        for row in &rows {
            self.skips.count(row);
            let learning_rate = self.config.learning_rate_at(row.step);
            if let Some(output) = &mut self.output {
                output.log.step(row, self.skips.total, learning_rate, images_per_s, waiting)?;
            }
        }
        (self.observe)(&TrainEvent::Logged { rows: &rows, skipped: self.skips.total, images_per_s });
        if self.skips.are_too_many() { Err(self.diverged(step)?) } else { Ok(()) }
    }

    /// Why so many steps were skipped.
    fn diverged(&self, step: u32) -> Result<TrainError, TrainError> {
        // The others wait for what the first rank says.
        if self.output.is_none() {
            self.trainer.options.group.wait();
        }
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
            if let Some(output) = &mut self.output {
                output.log.held_out(step, measured)?;
            }
            let (loss, accuracy) = (measured.loss, measured.accuracy);
            (self.observe)(&TrainEvent::HeldOut { step, loss, accuracy });
        }
        Ok(())
    }

    fn save_checkpoint(&mut self, step: u32) -> Result<(), TrainError> {
        let checkpoint = self.trainer.checkpoint().block_on()?;
        self.trainer.options.group.agree("set of weights", &checkpoint.fingerprint())?;
        if let Some(output) = &mut self.output {
            output.save_checkpoint(self.trainer.task.network().parameters(), checkpoint)?;
            (self.observe)(&TrainEvent::CheckpointSaved { step });
        }
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
        pictures / self.seconds()
    }

    /// Since the start, without the pauses.
    fn seconds(&self) -> f64 {
        (self.start.elapsed() - self.paused).as_secs_f64()
    }
}
