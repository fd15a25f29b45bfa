//! What can be profiled: a training step, a sampling step, an operator; and each of them in either of two ways: the step
//! launch by launch, or a kernel of it line by line.

use super::ProfileError;
use super::measure::Measure;
use crate::classifier::Classifier;
use crate::diffusion::{Trajectory, UNet};
use crate::gpu::{Blocking as _, Device, Executable, Store};
use crate::graph::{Choices, Graph, Plan, State};
use crate::ops::Case;
use crate::rng::{Philox, Stream};
use crate::sample::PictureSampler;
use crate::tensor::Spec;
use crate::train::{
    Classification, Diffusion, NetworkKind, PictureBatch, StepOptions, Task, TrainConfig, Trainer,
};
use serde_json::json;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// The configuration with the network in full that [`training_step`] profiles: of made-up classes where it has classes.
pub fn with_made_up_classes(config: &TrainConfig) -> TrainConfig {
    let classes = match config.network {
        NetworkKind::Unet => 1,
        NetworkKind::Classifier => 10,
    };
    config.with_network(&vec![String::new(); classes])
}

/// Profiles a training step of a configuration on made-up pictures, from these weights (the initial ones if left out), by these
/// algorithms (the rule's for what they leave out). Every step, profiled or not, is a real one: weights, moments and random numbers
/// go on as in training, in memory alone.
pub fn training_step<M: Measure>(
    device: &Arc<Device>,
    config: &TrainConfig,
    weights: Option<&[f32]>,
    choices: Choices,
    how: M,
) -> Result<M::Found, ProfileError> {
    let [height, width, channels] = config.picture_shape();
    let mut rng = Philox::new(0, Stream::Cases, 0);
    let pictures =
        (0..config.batch * height * width * channels).map(|_| rng.uniform(-1.0, 1.0) as f32).collect();
    let batch: PictureBatch = (pictures, vec![0; config.batch]);
    let options = StepOptions { choices: Arc::new(choices), ..config.step_options() };
    let whole = with_made_up_classes(config);
    match config.network {
        NetworkKind::Unet => {
            let task = Diffusion::new(UNet::new(&whole.unet_config(0))?, config);
            steps_of(device, config, task, (options, batch), weights, how)
        }
        NetworkKind::Classifier => {
            let classifier = Classifier::new(&whole.classifier_config(0))?;
            let task = Classification(classifier.in_precision(config.precision));
            steps_of(device, config, task, (options, batch), weights, how)
        }
    }
}

fn steps_of<T: Task<Batch = PictureBatch>, M: Measure>(
    device: &Arc<Device>,
    config: &TrainConfig,
    task: T,
    (options, batch): (StepOptions, PictureBatch),
    weights: Option<&[f32]>,
    how: M,
) -> Result<M::Found, ProfileError> {
    let initial = task.network().parameters().initial(config.seed);
    let mut trainer = Trainer::new(device, task, options).block_on()?;
    trainer.set_parameters(weights.unwrap_or(&initial))?;
    let facts = serde_json::to_value(config).unwrap_or_default();
    how.measure(device, "training step", facts, |recorder| {
        let hyper = config.hyper(trainer.next_step());
        trainer
            .step_by(&hyper, || batch.clone(), async |executable| recorder.run(executable).await)
            .block_on()
    })
}

/// Profiles the step in the middle of a trajectory, of a network with these weights.
pub fn sampling_step<M: Measure>(
    device: &Arc<Device>,
    unet: &UNet,
    weights: &[f32],
    batch: usize,
    trajectory: Trajectory,
    how: M,
) -> Result<M::Found, ProfileError> {
    let store = Store::new(device);
    let state = State::new("parameters", Spec::f32([weights.len()]));
    store.write(&state, weights)?;
    let half_way = trajectory.steps.len() / 2;
    let facts = json!({ "batch": batch, "unet": unet.config });
    let sampler = PictureSampler::new(&store, unet, &state, batch, trajectory).block_on()?;
    how.measure(device, "sampling step", facts, |recorder| {
        sampler.step_by(half_way, async |executable| recorder.run(executable).await).block_on()
    })
}

/// Profiles the cases of an operator, each by its first candidate and as a module of its own.
pub fn operator<M: Measure>(device: &Arc<Device>, cases: &[Case], how: M) -> Result<M::Found, ProfileError> {
    let mut graph = Graph::new();
    let mut inputs = Vec::new();
    for case in cases {
        let x: Vec<_> = case.inputs.iter().map(|(spec, _)| graph.input("x", spec.clone())).collect();
        graph.enter(&case.name);
        for y in graph.apply_shared(case.op.clone(), &x)? {
            graph.output("y", y);
        }
        graph.leave();
        inputs.extend(x.into_iter().zip(case.arrays()));
    }
    let executable = Executable::new(&Store::new(device), Plan::new(graph, &device.caps)?).block_on()?;
    for (value, array) in inputs {
        executable.write_values(value, &array.data);
    }
    let titles: Vec<String> = cases.iter().map(Case::title).collect();
    let facts = json!({ "cases": titles });
    how.measure(device, &titles.join(", "), facts, |recorder| Ok(recorder.run(&executable).block_on()?))
}

/// The time of day, as in `2026-11-26T18:00:00Z`.
pub(super) fn now() -> String {
    utc(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

/// Seconds since 1970 as a date, by the Gregorian calendar.
fn utc(seconds: u64) -> String {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let (mut days, second) = (seconds / 86_400, seconds % 86_400);
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z", month + 1, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_know_leap_years() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(utc(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(utc(1_795_716_000), "2026-11-26T18:00:00Z");
    }
}
