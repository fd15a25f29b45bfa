//! How far a long task has come, and how a training run shows on the terminal.

use crate::io::columns;
use crate::nn::Precision;
use crate::train::{ByteCount, BytesOfBatch, RunPlan, Skipped, TrainConfig, TrainEvent};
use indicatif::{HumanBytes, HumanCount, HumanDuration, ProgressBar, ProgressStyle};
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How far a task of a known length has come, on standard error: a bar in a terminal; in a pipe or a file a plain line after
/// [`FIRST_LINE`] and then every [`LINE_EVERY`]. May be told from several threads.
pub(super) struct Bar {
    unit: &'static str,
    bar: ProgressBar,
    /// None where a bar is drawn, and where nothing is.
    lines: Option<Mutex<Lines>>,
}

/// When the first line is written: early, so that one sees what the speed is.
const FIRST_LINE: Duration = Duration::from_secs(5);
/// Between two lines: a night's log stays readable.
const LINE_EVERY: Duration = Duration::from_secs(30);

impl Bar {
    /// Over `length` items, each called `unit`, as in `step 3/10`.
    pub fn new(length: u64, unit: &'static str) -> Self {
        Self::begun_at(0, length, unit)
    }

    /// The same where `first` of them were done before: the time left is reckoned from the others.
    pub fn begun_at(first: u64, length: u64, unit: &'static str) -> Self {
        let template = format!("{{bar:32}} {unit} {{pos}}/{{len}}  {{msg}}  {{elapsed}} gone, {{eta}} left");
        let style = ProgressStyle::with_template(&template);
        let bar = ProgressBar::new(length).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_position(first);
        bar.reset_eta();
        let lines =
            bar.is_hidden().then(|| Mutex::new(Lines { start: Instant::now(), first, next: FIRST_LINE }));
        Self { unit, bar, lines }
    }

    /// One that shows nothing.
    pub fn hidden() -> Self {
        Self { unit: "", bar: ProgressBar::hidden(), lines: None }
    }

    /// Another number of items, once it is known.
    pub fn set_length(&self, length: u64) {
        self.bar.set_length(length);
    }

    /// What is told beside the count from now on.
    pub fn set_message(&self, message: String) {
        self.bar.set_message(message);
    }

    /// Items done. Later ones may come before earlier ones.
    pub fn set_position(&self, position: u64) {
        self.bar.set_position(position);
        let Some(lines) = &self.lines else { return };
        let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed = lines.start.elapsed();
        if lines.are_due(elapsed) {
            let (length, message) = (self.bar.length().unwrap_or(position), self.bar.message());
            eprintln!("{}", line(self.unit, lines.first, position, length, &message, elapsed));
        }
    }

    /// Prints something of its own while the bar is out of the way.
    pub fn suspend(&self, print: impl FnOnce()) {
        self.bar.suspend(print);
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// Also where an error ends the task.
impl Drop for Bar {
    fn drop(&mut self) {
        self.finish();
    }
}

/// When lines are written.
struct Lines {
    start: Instant,
    /// Items that were done at the start.
    first: u64,
    /// The next line, from the start.
    next: Duration,
}

impl Lines {
    /// Whether it is time for a line; the next one is then due [`LINE_EVERY`] later.
    fn are_due(&mut self, elapsed: Duration) -> bool {
        let due = elapsed >= self.next;
        if due {
            self.next = elapsed + LINE_EVERY;
        }
        due
    }
}

fn line(unit: &str, first: u64, position: u64, length: u64, message: &str, elapsed: Duration) -> String {
    let message = if message.is_empty() { String::new() } else { format!("{message}  ") };
    let done = position.saturating_sub(first);
    let left = if done == 0 {
        "an unknown time".to_string()
    } else {
        let seconds = elapsed.as_secs_f64() / done as f64 * length.saturating_sub(position) as f64;
        let left = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        format!("{:#}", HumanDuration(left))
    };
    format!("{unit} {position}/{length}  {message}{:#} gone, {left} left", HumanDuration(elapsed))
}

/// Lines on standard output, and a [`Bar`] over the steps; warnings on standard error.
pub(super) struct TrainProgress {
    bar: Bar,
    /// Shows nothing but warnings.
    quiet: bool,
    /// Steps of the run, and how many of them were skipped so far.
    steps: u32,
    skipped: Skipped,
}

impl TrainProgress {
    pub fn new(quiet: bool) -> Self {
        Self { bar: Bar::hidden(), quiet, steps: 0, skipped: Skipped::default() }
    }

    pub fn show(&mut self, event: &TrainEvent) {
        if let TrainEvent::Warning { message } = *event {
            self.bar.suspend(|| eprintln!("warning: {message}"));
        }
        if self.quiet {
            return;
        }
        match *event {
            TrainEvent::Note { message } => println!("note            {message}"),
            TrainEvent::NothingToDo { step, .. } => println!("nothing to do   all {step} steps are done"),
            TrainEvent::DataOpened { report } => {
                print!("{}", super::data::describe(report));
            }
            TrainEvent::Planned { device, training, held_out, config, plan } => {
                println!("device          {} ({}, {})", device.name, device.backend, device.driver);
                println!(
                    "pictures        {} to train on, {} held out, from {}",
                    HumanCount(training as u64),
                    HumanCount(held_out as u64),
                    config.data
                );
                print!("{}", describe(config, plan));
            }
            TrainEvent::Started { step, skipped, steps, allocated_bytes } => {
                (self.steps, self.skipped) = (steps, skipped);
                println!("                {} allocated", HumanBytes(allocated_bytes));
                self.bar = Bar::begun_at(step.into(), steps.into(), "step");
            }
            TrainEvent::Logged { rows, skipped, images_per_s } => {
                self.skipped = skipped;
                if !rows.is_empty() {
                    let mean = rows.iter().map(|r| f64::from(r.loss)).sum::<f64>() / rows.len() as f64;
                    let count = |count: u32, what: &str| match count {
                        0 => String::new(),
                        count => format!("  {count} skipped{what}"),
                    };
                    let [skipped, by_scale] =
                        [count(skipped.not_finite, ""), count(skipped.by_scale, " by the loss scale")];
                    self.bar.set_message(format!(
                        "loss {mean:.4}  {images_per_s:.1} images/s{skipped}{by_scale}"
                    ));
                }
            }
            TrainEvent::Step { step } => self.bar.set_position(step.into()),
            TrainEvent::HeldOut { step, loss, accuracy } => {
                let accuracy =
                    accuracy.map_or_else(String::new, |share| format!(", accuracy {:.2} %", 100.0 * share));
                self.bar.suspend(|| println!("step {step}: held-out loss {loss:.5}{accuracy}"));
            }
            TrainEvent::Interrupted { .. } | TrainEvent::Finished { .. } => self.bar.finish(),
            TrainEvent::GridSaved { .. }
            | TrainEvent::CheckpointSaved { .. }
            | TrainEvent::Warning { .. } => {}
        }
    }

    /// The steps that changed nothing, in a line for the end; empty if there are none.
    pub fn skipped(&self) -> String {
        let line = |count: u32, why: &str| match count {
            0 => String::new(),
            count => format!("skipped         {count} of {} steps, {why}\n", self.steps),
        };
        let Skipped { not_finite, by_scale } = self.skipped;
        line(not_finite, "whose gradient was not finite")
            + &line(by_scale, "whose scaled gradient was too large for f16: the scale was halved")
    }
}

/// Parameters, operations and memory of a run, in lines.
pub(super) fn describe(config: &TrainConfig, plan: &RunPlan) -> String {
    let RunPlan { parameters, plans, bytes, .. } = plan;
    let [height, width, channels] = config.picture_shape();
    let (micro, update) = (&plans.micro, &plans.update);
    let flops = plans.model_flops_per_picture(config.batch);
    format!(
        "network         {height}x{width}x{channels}, {} parameters in {} tensors\n\
         precision       {}\n\
         batch           {} x {} = {} pictures per step\n\
         launches        {} per micro-batch, {} per update\n\
         model FLOPs     {:.1} M per picture, {:.2} G per step (forward and backward)\n\
         device memory   {} planned, to train, evaluate and sample\n",
        HumanCount(parameters.count() as u64),
        parameters.len(),
        match config.precision {
            Precision::F32 => "f32",
            Precision::F16 => "f16, with f32 weights for the optimizer and a scaled loss",
        },
        config.batch,
        config.accumulate,
        config.effective_batch(),
        micro.launches.len(),
        update.launches.len(),
        flops as f64 * 1e-6,
        flops as f64 * config.effective_batch() as f64 * 1e-9,
        HumanBytes(*bytes),
    )
}

/// What was fused, and what the same plans need without fusions.
pub(super) fn describe_fusions(plan: &RunPlan, unfused: &RunPlan) -> String {
    let count = |plan: &RunPlan| (plan.plans.micro.launches.len(), plan.plans.update.launches.len());
    let (micro, update) = count(unfused);
    let mut lines = format!(
        "without fusion  {micro} launches per micro-batch, {update} per update; {} planned\n",
        HumanBytes(unfused.bytes)
    );
    for fusion in &plan.plans.micro.fusions {
        let _ = writeln!(lines, "fused           {:>4} {}", fusion.count, fusion.name);
    }
    lines
}

/// Whether it fits: device memory by the pictures at a time, without recomputation and with it. What is more than `most`, and what
/// the limits forbid, is marked.
pub(super) fn describe_batches(rows: &[BytesOfBatch], most: Option<ByteCount>, on: &str) -> String {
    let cell = |bytes: &Option<u64>| match bytes.map(ByteCount) {
        None => "past the limits".into(),
        Some(bytes) if most.is_some_and(|most| bytes > most) => format!("{bytes}, too much"),
        Some(bytes) => bytes.to_string(),
    };
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|BytesOfBatch { batch, bytes }| {
            std::iter::once(batch.to_string()).chain(bytes.iter().map(cell)).collect()
        })
        .collect();
    let heads = ["pictures at a time", "checkpointing none", "blocks", "full"];
    let most = most.map_or_else(String::new, |most| format!(", {most} at most"));
    format!("\ndevice memory on {on}{most}, to train, evaluate and sample\n{}", columns(&heads, &cells, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_comes_early_and_then_every_half_minute_at_most() {
        let mut lines = Lines { start: Instant::now(), first: 0, next: FIRST_LINE };
        let due: Vec<u64> = (0..100).filter(|&s| lines.are_due(Duration::from_secs(s))).collect();
        assert_eq!(due, [5, 35, 65, 95]);
        // A step that takes minutes makes no lines up for.
        assert!(lines.are_due(Duration::from_secs(400)) && !lines.are_due(Duration::from_secs(429)));
    }

    #[test]
    fn a_line_says_how_long_it_will_take() {
        let after =
            |first, position| line("step", first, position, 2000, "loss 0.5", Duration::from_secs(60));
        assert_eq!(after(0, 500), "step 500/2000  loss 0.5  60s gone, 3m left");
        // Only what was done since then tells the speed.
        assert_eq!(after(1000, 1500), "step 1500/2000  loss 0.5  60s gone, 60s left");
        assert_eq!(after(7, 7), "step 7/2000  loss 0.5  60s gone, an unknown time left");
        assert_eq!(line("picture", 0, 3, 3, "", Duration::from_secs(1)), "picture 3/3  1s gone, 0s left");
    }
}
