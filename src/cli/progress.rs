//! How a training run shows on the terminal.

use crate::train::{RunPlan, TrainConfig, TrainEvent};
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};

/// Lines on standard output, and a bar over the steps on standard error, which is hidden where that is no terminal.
pub(super) struct TrainProgress {
    bar: ProgressBar,
}

impl TrainProgress {
    pub fn new() -> Self {
        Self { bar: ProgressBar::hidden() }
    }

    pub fn show(&mut self, event: &TrainEvent) {
        match *event {
            TrainEvent::DataOpened { report } => {
                for class in &report.classes {
                    println!("class           {} ({})", class.name, class.pictures);
                }
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
            TrainEvent::Started { step, steps, allocated_bytes } => {
                println!("                {} allocated", HumanBytes(allocated_bytes));
                self.bar = bar(steps);
                self.bar.set_position(step.into());
                self.bar.reset_eta();
            }
            TrainEvent::Logged { rows, images_per_s } => {
                if !rows.is_empty() {
                    let mean = rows.iter().map(|r| f64::from(r.loss)).sum::<f64>() / rows.len() as f64;
                    self.bar.set_message(format!("loss {mean:.4}  {images_per_s:.1} images/s"));
                }
            }
            TrainEvent::Step { step } => self.bar.set_position(step.into()),
            TrainEvent::HeldOut { step, loss, accuracy } => {
                let accuracy =
                    accuracy.map_or_else(String::new, |share| format!(", accuracy {:.2} %", 100.0 * share));
                self.bar.suspend(|| println!("step {step}: held-out loss {loss:.5}{accuracy}"));
            }
            TrainEvent::Interrupted { .. } | TrainEvent::Finished { .. } => self.bar.finish_and_clear(),
            TrainEvent::GridSaved { .. } | TrainEvent::CheckpointSaved { .. } => {}
        }
    }
}

fn bar(steps: u32) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:32} step {pos}/{len}  {msg}  {elapsed} gone, {eta} left");
    ProgressBar::new(steps.into()).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Parameters, operations and memory of a run, in lines.
pub(super) fn describe(config: &TrainConfig, plan: &RunPlan) -> String {
    let RunPlan { parameters, plans, bytes } = plan;
    let [height, width, channels] = config.picture_shape();
    let (micro, update) = (&plans.micro, &plans.update);
    let flops = plans.model_flops_per_picture(config.batch);
    format!(
        "network         {height}x{width}x{channels}, {} parameters in {} tensors\n\
         batch           {} x {} = {} pictures per step\n\
         launches        {} per micro-batch, {} per update\n\
         model FLOPs     {:.1} M per picture, {:.2} G per step (forward and backward)\n\
         device memory   {} planned, to train, evaluate and sample\n",
        HumanCount(parameters.count() as u64),
        parameters.len(),
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
