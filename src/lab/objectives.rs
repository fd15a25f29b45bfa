//! The article's four losses and today's, trained alike and compared in one measure and by what they draw.

use super::training::{CLASSES, in_turn, small_run, trained, variance_within_classes};
use super::{Expected, Experiment, Findings, Lab, LabError};
use crate::data::{AugmentOptions, Dataset, batch_at};
use crate::diffusion::{NoiseSchedule, Objective, Prediction, Sampler, ScheduleKind, Trajectory};
use crate::gpu::{Blocking as _, Executable, RunError};
use crate::graph::{Graph, Plan};
use crate::io::{Chart, Series, save_rows};
use crate::ops::{AddNoise, STEP_WORDS, StepWords};
use crate::sample::{Drawing, PictureSampler};
use crate::tensor::{Array, DType, Spec};
use crate::train::{Diffusion, TrainConfig, Trainer, open_data};
use serde_json::json;
use std::sync::Arc;

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "objectives",
    title: "The article's four losses and today's, trained alike",
    see: "In error.png each loss of the article errs less than the one before it, and today's least of all. In \
              samples.png only today's draws glyphs after so short a training; walked along means alone they are alike.",
    equation: "‖f - x_{t-1}‖² without t and with it; (b/a)² ‖f - ε_{t-1}‖² and without the weight; ‖f - ε̄‖² (the \
                   article, from \"Loss = \" on; DDPM, arXiv 2006.11239, eq. 14)",
    shaders: &["noise.wgsl", "loss.wgsl", "denoise.wgsl"],
    minutes: 10,
    run,
};

/// In the article's order.
const OBJECTIVES: [Objective; 5] = [
    Objective::PreviousWithoutTime,
    Objective::Previous,
    Objective::LastNoiseWeighted,
    Objective::LastNoise,
    Objective::MergedNoise,
];
/// Steps of the chain: a whole chain is walked for every picture.
const TIMESTEPS: usize = 50;
/// Timesteps in a bin of the measure.
const BIN: usize = 5;
/// Held-out batches that it is taken over.
const HELD_OUT_BATCHES: u64 = 32;
/// Pictures drawn of each class; the first is shown.
const PER_CLASS: usize = 4;

fn configuration(objective: Objective, seed: u64) -> TrainConfig {
    TrainConfig {
        objective,
        timesteps: TIMESTEPS,
        // With so few steps the linear schedule would not reach noise.
        noise_schedule: ScheduleKind::Cosine,
        ..small_run(seed)
    }
}

/// (e_x, e_f) of the merged noise ε̄ = e_x x_t + e_f f that an answer f implies at timestep t.
fn implied_noise(objective: Objective, schedule: &NoiseSchedule, t: usize) -> (f64, f64) {
    let share = schedule.last_noise_share(t);
    let step = schedule.step(t, t.checked_sub(1));
    let (a, b) = (step.alpha.sqrt(), step.beta.sqrt());
    match objective {
        Objective::MergedNoise => (0.0, 1.0),
        // E ε_{t-1} = (b/s) E ε̄
        Objective::LastNoise | Objective::LastNoiseWeighted => (0.0, 1.0 / share),
        // ε_{t-1} = (x_t - a x_{t-1}) / b
        Objective::Previous | Objective::PreviousWithoutTime => (1.0 / (b * share), -a / (b * share)),
    }
}

/// Mean of ‖ε̂ - ε̄‖² per element in each bin of timesteps, over held-out pictures under noise that is the same for
/// every objective.
fn held_out_errors(trainer: &Trainer<Diffusion>, pictures: &Dataset) -> Result<Vec<f64>, LabError> {
    let Diffusion { config, unet } = &trainer.task;
    let (height, width) = unet.config.sample_size.get();
    let schedule = NoiseSchedule::new(config.noise_schedule, config.timesteps);
    let mut graph = Graph::new();
    let shape = [config.batch, height, width, unet.config.in_channels];
    let x_0 = graph.input("pictures", Spec::f32(shape));
    let labels = graph.input("labels", Spec::u32([config.batch]));
    let step = graph.input("step", Spec::u32([STEP_WORDS]));
    let table = graph.constant("schedule", schedule.uniform_table(Prediction::Epsilon));
    let noised = graph.apply_all(AddNoise { dtype: DType::F32 }, &[x_0, table, step])?;
    let [x_t, noise, t] = [noised[0], noised[1], noised[2]];
    let conditioning = if config.conditions_on_time() {
        t
    } else {
        graph.constant("no_time", Array::new([config.batch], vec![0.0; config.batch]))
    };
    let flat = graph.state(&trainer.states.ema);
    let parameters = unet.parameters.views(&mut graph, flat)?;
    let answer = unet.forward(&mut graph, &parameters, x_t, conditioning, Some(labels))?;
    for (name, value) in [("x_t", x_t), ("noise", noise), ("t", t), ("answer", answer)] {
        graph.output(name, value);
    }
    let plan = Plan::new(graph, trainer.store.caps()).map_err(RunError::from)?;
    let executable = Executable::new(&trainer.store, plan).block_on()?;

    let bins = config.timesteps / BIN;
    let (mut sums, mut counts) = (vec![0.0; bins], vec![0.0; bins]);
    for k in 0..HELD_OUT_BATCHES {
        let batch = batch_at(pictures, config.batch, config.seed, AugmentOptions::default(), k);
        let words = StepWords { seed: !config.seed, step: k as u32, ..StepWords::default() };
        executable.write(x_0, &batch.images);
        executable.write_u32(labels, &batch.labels);
        executable.write_u32(step, &words.words());
        executable.run().block_on()?;
        let [x_t, noise, t, answer] = [x_t, noise, t, answer].map(|value| executable.read(value));
        let (x_t, noise, t, answer) = (x_t.block_on()?, noise.block_on()?, t.block_on()?, answer.block_on()?);
        let item = x_t.len() / config.batch;
        for (n, &t) in t.iter().enumerate() {
            let t = t as usize;
            let (e_x, e_f) = implied_noise(config.objective, &schedule, t);
            let error = |i: usize| {
                let implied = e_x * f64::from(x_t[i]) + e_f * f64::from(answer[i]);
                (implied - f64::from(noise[i])).powi(2)
            };
            sums[t / BIN] += (n * item..(n + 1) * item).map(error).sum::<f64>() / item as f64;
            counts[t / BIN] += 1.0;
        }
    }
    Ok(sums.iter().zip(&counts).map(|(sum, count)| sum / count).collect())
}

/// Pictures by DDPM's walk down the whole chain, PER_CLASS of each class in turn, with or without the noise that it
/// adds at every step. Without, each step goes to the mean of x_{t-1} given x_t, as the article's does.
fn drawn(trainer: &Trainer<Diffusion>, with_noise: bool) -> Result<Vec<f32>, LabError> {
    let config = &trainer.task.config;
    let mut trajectory = Trajectory::new(&config.scheduler(Sampler::Ddpm), config.timesteps, 0.0)?;
    if !with_noise {
        trajectory.steps.iter_mut().for_each(|step| step.coefficients.c_z = 0.0);
    }
    let count = PER_CLASS * CLASSES;
    let sampler =
        PictureSampler::new(&trainer.store, &trainer.task.unet, &trainer.states.ema, count, trajectory)
            .block_on()?;
    let labels: Vec<u32> = (0..).take(CLASSES).cycle().take(count).collect();
    Ok(sampler.draw(&Drawing::new(count, config.seed, &labels), async |_| Ok(())).block_on()?)
}

/// Runs the experiment.
fn run(lab: &Lab, findings: &mut Findings) -> Result<(), LabError> {
    let config = configuration(Objective::MergedNoise, lab.seed);
    let (training, held_out) = open_data(&config)?;
    let (height, width) = config.unet_config(0).sample_size.get();
    let training = Arc::new(training);
    let real = in_turn(&training, 40);
    let real_variance = variance_within_classes(&real);

    // 1. The same for every objective.
    let schedule = NoiseSchedule::new(config.noise_schedule, config.timesteps);
    let weights: Vec<f64> = (0..TIMESTEPS)
        .map(|t| {
            let step = schedule.step(t, t.checked_sub(1));
            step.beta / step.alpha
        })
        .collect();
    let last_weight = weights[TIMESTEPS - 1] / weights.iter().sum::<f64>();
    let mut all_rows = Vec::new();
    let mut table = serde_json::Map::new();
    let mut lines = Vec::new();
    let mut means = Vec::new();
    // The last objective's, walked along means alone.
    let mut spread = f64::NAN;
    for (colour, objective) in OBJECTIVES.into_iter().enumerate() {
        let name = objective.name();
        let trainer = trained(lab, &name, &configuration(objective, lab.seed), &training)?;
        let errors = held_out_errors(&trainer, &held_out)?;
        let mean = errors.iter().sum::<f64>() / errors.len() as f64;
        let mut rows = Vec::new();
        let mut shares = Vec::new();
        for (with_noise, walk) in [(false, "means alone"), (true, "with noise")] {
            let pictures = drawn(&trainer, with_noise)?;
            let item = height * width;
            let single: Vec<Vec<f32>> = pictures.chunks_exact(item).map(<[f32]>::to_vec).collect();
            shares.push(variance_within_classes(&single) / real_variance);
            rows.push((format!("{name}, {walk}"), pictures[..CLASSES * item].to_vec()));
        }
        save_rows(&findings.file(&format!("{name}.png")), &rows, height, width, 1, 48)?;
        all_rows.extend(rows);
        let middle = |bin: usize| (bin * BIN) as f64 + 0.5 * (BIN + 1) as f64;
        lines.push(Series {
            name: name.clone(),
            points: errors.iter().enumerate().map(|(bin, &e)| (middle(bin), e)).collect(),
            colour,
            ..Series::default()
        });
        findings.number(&format!("error_{name}"), mean);
        table.insert(
            name,
            json!({ "error_by_bin": errors, "mean": mean, "variance_means_alone": shares[0], "variance_with_noise": shares[1] }),
        );
        means.push(mean);
        spread = shares[0];
    }
    findings.number("timesteps_per_bin", BIN);
    findings.number("objectives", table);
    findings.number("weight_of_the_last_timestep", last_weight);

    // 2. Verdicts.
    let [blind, previous, weighted, last, merged] = [means[0], means[1], means[2], means[3], means[4]];
    findings.verdict(
        "conditioned on t, the network errs less (previous / without time)",
        previous / blind,
        Expected::AtMost(1.0),
    );
    findings.verdict(
        "predicting the noise, it errs less than predicting the picture (last-noise / previous)",
        last / previous,
        Expected::AtMost(1.0),
    );
    findings.verdict(
        "without the weight (b/a)² it errs less (last-noise / last-noise-weighted)",
        last / weighted,
        Expected::AtMost(1.0),
    );
    findings.verdict(
        "with the last noise integrated out it errs less (merged-noise / last-noise)",
        merged / last,
        Expected::AtMost(1.0),
    );
    findings.verdict(
        // Noise that is left in the pictures would only raise it.
        "a walk along means alone draws less variety than there is (variance within classes / of the data, \
         merged-noise)",
        spread,
        Expected::AtMost(0.5),
    );

    // 3. Pictures.
    save_rows(&findings.file("samples.png"), &all_rows, height, width, 1, 48)?;
    findings.chart(
        "error",
        &Chart {
            title: "Error of the noise that each answer implies, on held-out pictures".into(),
            x_label: "t, of 50".into(),
            y_label: "mean squared error; 1: knows nothing".into(),
            log_y: true,
            series: lines,
            ..Chart::default()
        },
    )
}
