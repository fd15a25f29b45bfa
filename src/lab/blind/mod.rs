//! Two claims of recent papers, apart from each other: that a network needs no noise conditioning (Sun et al., arXiv
//! 2502.13129; Sahraee-Ardakan et al., arXiv 2602.18428), and that it should predict the picture (Li & He, arXiv 2511.13720).

mod best_answers;
mod bottleneck;
mod ideal_denoiser;

use super::training::{CLASSES, in_turn, small_run, trained, variance_within_classes};
use super::{Expected, Experiment, Findings, Lab, LabError};
use crate::data::{Dataset, to_unit};
use crate::diffusion::{
    NoiseLevel, NoiseSchedule, Prediction, Sampler, ScheduleKind, SchedulerConfig, TimestepSpacing,
    Trajectory, Weighting,
};
use crate::gpu::{Blocking as _, Executable, RunError};
use crate::graph::{Graph, Plan};
use crate::io::{Chart, Series, Stroke, save_rows};
use crate::rng::{Philox, Stream};
use crate::sample::{Drawing, PictureSampler};
use crate::tensor::Spec;
use crate::train::{Diffusion, TrainConfig, Trainer, open_data};
use serde_json::json;
use std::sync::Arc;

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "blind",
    title: "Without noise conditioning; and predicting the picture",
    see: "In amplification.png the lack of noise conditioning costs the best answer below 1/d in x_0 for a velocity, σ²/d for ε; \
          so in exact.png the one draws pictures and the other leaves noise in some. bottleneck.png is about another \
          thing: a network narrower than the space of its data learns the picture, not the velocity.",
    equation: "f(x) = E[f(t, x) | x] for a network that is not conditioned on t (arXiv 2502.13129, 2602.18428); \
               ‖x̂_0 - x_0‖² / t² for one that predicts the picture (arXiv 2511.13720)",
    shaders: &["noise.wgsl", "loss.wgsl", "denoise.wgsl"],
    minutes: 10,
    run,
};

/// Noise steps of the chain, and levels of flow matching.
const TIMESTEPS: usize = 1000;
/// Steps of the deterministic sampler.
const STEPS: usize = 25;
/// Pictures of each class that are drawn and that they are compared with; the first is shown.
const PER_CLASS: usize = 8;
/// Sets that are drawn from different noise, for the error bars.
const REPEATS: u32 = 2;
/// Timesteps of the linear chain at whose noise the error of x_0 is measured.
const MEASURED: [usize; 9] = [20, 60, 120, 200, 320, 480, 640, 800, 999];
/// Held-out pictures that it is measured on.
const HELD_OUT: usize = 96;

/// A network of the comparison.
#[derive(Clone, Copy)]
struct Kind {
    name: &'static str,
    prediction: Prediction,
    schedule: ScheduleKind,
    weighting: Weighting,
    conditioned: bool,
    colour: usize,
}

const fn kind(
    name: &'static str,
    prediction: Prediction,
    schedule: ScheduleKind,
    conditioned: bool,
    colour: usize,
) -> Kind {
    let weighting = match prediction {
        Prediction::Sample => Weighting::Velocity,
        Prediction::Epsilon | Prediction::VPrediction | Prediction::Edm | Prediction::Flow => {
            Weighting::Uniform
        }
    };
    Kind { name, prediction, schedule, weighting, conditioned, colour }
}

/// The networks. The last is for the second claim: it is compared with the conditioned one that predicts the velocity.
const KINDS: [Kind; 7] = [
    kind("ε, conditioned", Prediction::Epsilon, ScheduleKind::Linear, true, 0),
    kind("ε, blind", Prediction::Epsilon, ScheduleKind::Linear, false, 0),
    kind("v, conditioned", Prediction::VPrediction, ScheduleKind::Linear, true, 1),
    kind("v, blind", Prediction::VPrediction, ScheduleKind::Linear, false, 1),
    kind("flow velocity, conditioned", Prediction::Flow, ScheduleKind::Flow, true, 2),
    kind("flow velocity, blind", Prediction::Flow, ScheduleKind::Flow, false, 2),
    kind("picture with v-loss, conditioned", Prediction::Sample, ScheduleKind::Flow, true, 3),
];

/// What was measured of a network.
struct Outcome {
    /// Of x_0, at each of [`measured_levels`].
    errors: Vec<f64>,
    /// Of its pictures from held-out ones.
    distance: f64,
}

impl Kind {
    fn configuration(self, seed: u64) -> TrainConfig {
        TrainConfig {
            prediction: self.prediction,
            noise_schedule: self.schedule,
            weighting: self.weighting,
            time_conditioning: self.conditioned,
            timesteps: TIMESTEPS,
            batch: 8,
            ..small_run(seed)
        }
    }

    /// What conditions the network at a level, which is timestep `t` of the chain.
    fn time(self, level: NoiseLevel, t: usize) -> f64 {
        if self.conditioned { self.schedule.conditioning(level).unwrap_or(t as f64) } else { 0.0 }
    }
}

/// The levels of [`MEASURED`], the same for all.
fn measured_levels() -> [NoiseLevel; MEASURED.len()] {
    let chain = NoiseSchedule::new(ScheduleKind::Linear, TIMESTEPS);
    MEASURED.map(|t| chain.level(Some(t)))
}

/// The mean of ‖x̂_0 - x_0‖² per pixel at each of [`measured_levels`], over held-out pictures under noise that is the same
/// for all networks.
fn held_out_errors(
    trainer: &Trainer<Diffusion>,
    kind: Kind,
    pictures: &Dataset,
) -> Result<Vec<f64>, LabError> {
    let Diffusion { config, unet } = &trainer.task;
    let (height, width) = unet.config.sample_size.get();
    let mut graph = Graph::new();
    let x = graph.input("x", Spec::f32([config.batch, height, width, unet.config.in_channels]));
    let labels = graph.input("labels", Spec::u32([config.batch]));
    let time = graph.input("time", Spec::f32([config.batch]));
    let flat = graph.state(&trainer.states.ema);
    let parameters = unet.parameters.views(&mut graph, flat)?;
    let answer = unet.forward(&mut graph, &parameters, x, time, Some(labels))?;
    graph.output("answer", answer);
    let plan = Plan::new(graph, trainer.store.caps()).map_err(RunError::from)?;
    let executable = Executable::new(&trainer.store, plan).block_on()?;

    let mut errors = Vec::new();
    for (t, level) in MEASURED.into_iter().zip(measured_levels()) {
        let (c, scale) = (level.x_0(kind.prediction), level.input_scale(kind.prediction));
        // Each level has noise of its own, the same for every network.
        let mut rng = Philox::new(config.seed, Stream::Cases, u32::try_from(t).unwrap_or(u32::MAX));
        let (mut sum, mut count) = (0.0, 0.0);
        let all: Vec<usize> = (0..HELD_OUT.min(pictures.len())).collect();
        for batch in all.chunks_exact(config.batch) {
            let x_0: Vec<f64> = batch
                .iter()
                .flat_map(|&i| pictures.image(i).iter().map(|&byte| f64::from(to_unit(byte))))
                .collect();
            let noisy: Vec<f64> = x_0.iter().map(|x| level.signal * x + level.noise * rng.normal()).collect();
            executable.write(x, &noisy.iter().map(|x| (scale * x) as f32).collect::<Vec<_>>());
            executable.write_u32(labels, &batch.iter().map(|&i| pictures.label(i)).collect::<Vec<_>>());
            executable.write(time, &vec![kind.time(level, t) as f32; config.batch]);
            executable.run().block_on()?;
            for ((f, x), x_0) in executable.read(answer).block_on()?.iter().zip(&noisy).zip(&x_0) {
                sum += (c.k * (c.p_x * x + c.p_f * f64::from(*f)) - x_0).powi(2);
                count += 1.0;
            }
        }
        errors.push(sum / count);
    }
    Ok(errors)
}

/// PER_CLASS pictures of each class in turn, by DDIM without noise and without a clamp: Euler's method on the
/// probability-flow ODE.
fn drawn(trainer: &Trainer<Diffusion>, seed: u64) -> Result<Vec<Vec<f32>>, LabError> {
    let scheduler = SchedulerConfig {
        clip_sample: false,
        timestep_spacing: TimestepSpacing::Trailing,
        ..trainer.task.config.scheduler(Sampler::Ddim)
    };
    let trajectory = Trajectory::new(&scheduler, STEPS, 0.0)?;
    let count = PER_CLASS * CLASSES;
    let sampler =
        PictureSampler::new(&trainer.store, &trainer.task.unet, &trainer.states.ema, count, trajectory)
            .block_on()?;
    let labels: Vec<u32> = (0..).take(CLASSES).cycle().take(count).collect();
    let pictures = sampler.draw(&Drawing::new(count, seed, &labels), async |_| Ok(())).block_on()?;
    Ok(pictures.chunks_exact(pictures.len() / count).map(<[f32]>::to_vec).collect())
}

/// How far apart two sets of pictures are within each class, on average: with A the mean distance of a picture of one from
/// one of the other and B and C those within each, (2A - B - C) / 2A. It is 0 for one distribution and 1 for two points
/// (Székely & Rizzo, "Energy statistics", JSPI 2013, section 2): the sliced distance of Cramér over all directions, with no
/// directions to choose. Without bias, so that two samples of one distribution may be a little below 0. Pictures go
/// through the classes in turn.
fn energy_distance(a: &[Vec<f32>], b: &[Vec<f32>]) -> f64 {
    let mean = |a: &[Vec<f32>], b: &[Vec<f32>], class: usize, same: bool| {
        let (mut sum, mut count) = (0.0, 0.0);
        for (i, x) in a.iter().enumerate().skip(class).step_by(CLASSES) {
            for (j, y) in b.iter().enumerate().skip(class).step_by(CLASSES) {
                if !(same && i == j) {
                    let square: f64 = x.iter().zip(y).map(|(x, y)| f64::from(x - y).powi(2)).sum();
                    sum += square.sqrt();
                    count += 1.0;
                }
            }
        }
        sum / count
    };
    let of_class = |class: usize| {
        let across = mean(a, b, class, false);
        (2.0 * across - mean(a, a, class, true) - mean(b, b, class, true)) / (2.0 * across)
    };
    (0..CLASSES).map(of_class).sum::<f64>() / CLASSES as f64
}

/// Mean and half the range of some repeats.
fn mean_and_half_range(values: &[f64]) -> (f64, f64) {
    let (low, high) =
        values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), &v| (l.min(v), h.max(v)));
    (values.iter().sum::<f64>() / values.len() as f64, 0.5 * (high - low))
}

/// What the papers claim, as far as it shows after so short a training, held against the outcomes of [`KINDS`].
fn verdicts(findings: &mut Findings, outcomes: &[Outcome]) {
    let [_, blind_epsilon, v, blind_v, flow, blind_flow, picture] = outcomes else { return };
    // 1. Noise conditioning. The distances lie between 0 and 1.
    findings.verdict(
        "trained, v, DDIM: distance from held-out glyphs, blind - conditioned",
        blind_v.distance - v.distance,
        Expected::AtMost(0.02),
    );
    findings.verdict(
        "trained, flow velocity, Euler: distance from held-out glyphs, blind - conditioned",
        blind_flow.distance - flow.distance,
        Expected::AtMost(0.02),
    );
    findings.verdict(
        "trained, blind, same chain, DDIM: distance from held-out glyphs, ε - v",
        blind_epsilon.distance - blind_v.distance,
        Expected::AtLeast(0.1),
    );
    let last = MEASURED.len() - 1;
    findings.verdict(
        "trained, blind, same chain: error of x_0 at σ = 157, ε / v",
        blind_epsilon.errors[last] / blind_v.errors[last],
        Expected::AtLeast(10.0),
    );
    // 2. The prediction target. The error of the velocity is that of x_0 over t².
    let of_velocity = |outcome: &Outcome| {
        let squares = measured_levels().map(|level| level.flow_time().powi(2));
        outcome.errors.iter().zip(squares).map(|(error, square)| error / square).sum::<f64>()
    };
    findings.verdict(
        "a U-Net is no bottleneck: error of the velocity, predicted / by way of a predicted picture",
        of_velocity(flow) / of_velocity(picture),
        Expected::AtMost(1.0),
    );
}

/// Runs the experiment.
fn run(lab: &Lab, findings: &mut Findings) -> Result<(), LabError> {
    let config = KINDS[0].configuration(lab.seed);
    let (training, held_out) = open_data(&config)?;
    let training = Arc::new(training);
    let (height, width) = config.unet_config(0).sample_size.get();

    let real = in_turn(&held_out, 5 * PER_CLASS);
    findings.number("held-out pictures compared with", real.len());

    // 1. The best answers; networks narrower than their space.
    best_answers::show(lab, findings, &training, width)?;
    bottleneck::show(lab, findings)?;

    // 2. U-Nets, trained alike.
    let others = in_turn(&training, 2 * PER_CLASS);
    let floors: Vec<f64> =
        others.chunks_exact(PER_CLASS * CLASSES).map(|set| energy_distance(set, &real)).collect();
    let (floor, floor_range) = mean_and_half_range(&floors);
    let real_variance = variance_within_classes(&real);
    let levels = measured_levels();
    let mut rows = vec![("held-out glyphs".to_string(), real[..CLASSES].concat())];
    let mut series = Vec::new();
    let mut table = serde_json::Map::new();
    let mut outcomes = Vec::new();
    for kind in KINDS {
        let name = kind.name;
        let trainer = trained(lab, name, &kind.configuration(lab.seed), &training)?;
        let errors = held_out_errors(&trainer, kind, &held_out)?;
        let seed = lab.seed.wrapping_mul(REPEATS.into());
        let sets = (0..REPEATS)
            .map(|repeat| drawn(&trainer, seed.wrapping_add(repeat.into())))
            .collect::<Result<Vec<_>, _>>()?;
        let of_sets: Vec<f64> = sets.iter().map(|set| energy_distance(set, &real)).collect();
        let (distance, range) = mean_and_half_range(&of_sets);
        let variance = variance_within_classes(&sets.concat()) / real_variance;
        (lab.progress)(&format!("{name}: distance {distance:.4} ± {range:.4}, variance {variance:.3}"));
        rows.push((name.to_string(), sets[0][..CLASSES].concat()));
        table.insert(name.into(), json!({ "distance": distance, "half_range": range, "variance": variance }));
        findings.number(&format!("error of x_0 by σ: {name}"), &errors);
        series.push(Series {
            name: name.into(),
            points: levels.iter().map(|level| level.sigma()).zip(errors.iter().copied()).collect(),
            colour: kind.colour,
            stroke: if kind.conditioned { Stroke::Thick } else { Stroke::Thin },
        });
        outcomes.push(Outcome { errors, distance });
    }
    findings.number("σ of the errors", levels.map(|level| level.sigma()));
    findings.number("samples", table);
    findings.number("distance of real from real", floor);
    findings.number("half its range", floor_range);
    save_rows(&findings.file("samples.png"), &rows, height, width, 1, 48)?;
    findings.chart(
        "error",
        &Chart {
            title: "Error of x_0 on held-out pictures: thick conditioned, thin blind".into(),
            x_label: "σ = noise / signal".into(),
            y_label: "mean square per pixel".into(),
            log_x: true,
            log_y: true,
            series,
        },
    )?;
    verdicts(findings, &outcomes);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Points, samples of one distribution, and normal numbers three deviations apart: E|x - y| is 3.017 across and 2 / √π
    /// within.
    #[test]
    fn the_energy_distance_is_that_of_known_distributions() {
        let constant = |x: f32| vec![vec![x]; 3 * CLASSES];
        assert!((energy_distance(&constant(0.0), &constant(2.0)) - 1.0).abs() < 1e-12);
        let mut rng = Philox::new(1, Stream::Cases, 0);
        let mut normal = |mean: f64| -> Vec<Vec<f32>> {
            (0..100 * CLASSES).map(|_| vec![(mean + rng.normal()) as f32]).collect()
        };
        let (a, b, shifted) = (normal(0.0), normal(0.0), normal(3.0));
        assert!(energy_distance(&a, &b).abs() < 0.01);
        assert!((energy_distance(&a, &shifted) - 0.626).abs() < 0.02);
    }

    /// The levels are those of the chain, and flow matching's network is conditioned on its own time there.
    #[test]
    fn networks_are_conditioned_on_the_time_of_the_same_level() {
        let level = measured_levels()[4];
        assert_eq!(KINDS[0].time(level, MEASURED[4]), MEASURED[4] as f64);
        assert_eq!(KINDS[1].time(level, MEASURED[4]), 0.0);
        assert!((KINDS[4].time(level, MEASURED[4]) - 1000.0 * level.flow_time()).abs() < 1e-9);
    }
}
