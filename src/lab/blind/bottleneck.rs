//! Points of a plane in a space of many dimensions, learnt by a network narrower than the space: predicting the picture,
//! and the velocity (the toy experiment of Li & He, arXiv 2511.13720, in small).

use crate::diffusion::{NoiseSchedule, Prediction, ScheduleKind, Weighting};
use crate::gpu::{Blocking as _, Executable, RunError};
use crate::graph::{Graph, GraphError, Plan, ValueId};
use crate::io::{Chart, Series, Stroke};
use crate::lab::{Expected, Findings, Lab, LabError};
use crate::nn::{Builder, Linear, Network, Parameters, Weights};
use crate::ops::{Add, AddNoise, MseLoss, STEP_WORDS, Silu, StepWords, TimeEmbedding};
use crate::rng::{Philox, Stream};
use crate::tensor::{DType, Spec};
use crate::train::{LearningRate, LossGraph, Task, TrainConfig, Trainer};

/// Dimensions of the space.
const DIMENSIONS: [usize; 4] = [4, 16, 64, 256];
/// Noise levels that training draws from.
const TIMESTEPS: usize = 1000;
/// Width of the three hidden layers: wider than the first two, narrower than the last two.
const WIDTH: usize = 32;
const BATCH: usize = 128;
const STEPS: u32 = 1000;
/// Batches of new points that the error is taken over.
const BATCHES: u32 = 40;

/// A plane in space: two directions at right angles, of length 1.
struct Plane([Vec<f64>; 2]);

impl Plane {
    fn new(dimensions: usize, seed: u64) -> Self {
        let mut rng = Philox::new(seed, Stream::Cases, 0);
        let [mut a, mut b] = [(); 2].map(|()| (0..dimensions).map(|_| rng.normal()).collect::<Vec<f64>>());
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let unit = |a: &mut Vec<f64>| {
            let length = dot(a, a).sqrt();
            a.iter_mut().for_each(|x| *x /= length);
        };
        unit(&mut a);
        let along = dot(&a, &b);
        b.iter_mut().zip(&a).for_each(|(b, a)| *b -= along * a);
        unit(&mut b);
        Self([a, b])
    }

    /// Points (BATCH, D) of a circle, whose coordinates within the plane have the variance 1.
    fn points(&self, rng: &mut Philox) -> Vec<f32> {
        let mut points = Vec::new();
        for _ in 0..BATCH {
            let (sin, cos) = (std::f64::consts::TAU * rng.unit()).sin_cos();
            let both = self.0[0].iter().zip(&self.0[1]);
            points.extend(both.map(|(a, b)| (std::f64::consts::SQRT_2 * (cos * a + sin * b)) as f32));
        }
        points
    }
}

/// f(x, t) by linear layers with SiLU between them, the first of the sum of one of x and one of t's embedding.
struct Perceptron {
    parameters: Parameters,
    of_x: Linear,
    of_t: Linear,
    hidden: [Linear; 2],
    answer: Linear,
}

impl Network for Perceptron {
    fn parameters(&self) -> &Parameters {
        &self.parameters
    }
}

impl Perceptron {
    fn new(dimensions: usize) -> Self {
        let mut parameters = Parameters::default();
        let p = &mut parameters;
        Self {
            of_x: Linear::new(p, "of_x", dimensions, WIDTH),
            of_t: Linear::new(p, "of_t", WIDTH, WIDTH),
            hidden: ["hidden.0", "hidden.1"].map(|name| Linear::new(p, name, WIDTH, WIDTH)),
            answer: Linear::new(p, "answer", WIDTH, dimensions),
            parameters,
        }
    }

    fn forward(&self, b: &mut Builder, x: ValueId, t: ValueId) -> Result<ValueId, GraphError> {
        let embedding =
            TimeEmbedding { width: WIDTH, flip_sin_to_cos: false, freq_shift: 0.0, dtype: DType::F32 };
        let frequencies = b.graph.constant("frequencies", embedding.frequencies());
        let t = b.graph.apply(embedding, &[t, frequencies])?;
        let of_x = self.of_x.forward(b, x)?;
        let of_t = self.of_t.forward(b, t)?;
        let mut h = b.graph.apply(Add, &[of_x, of_t])?;
        for layer in self.hidden.iter().chain([&self.answer]) {
            h = b.graph.apply(Silu, &[h])?;
            h = layer.forward(b, h)?;
        }
        Ok(h)
    }
}

/// Training for one prediction, under the loss of the velocity.
struct Velocity {
    network: Perceptron,
    dimensions: usize,
    prediction: Prediction,
}

impl Task for Velocity {
    /// Points (B, D).
    type Inputs = ValueId;
    type Batch = Vec<f32>;

    fn network(&self) -> &dyn Network {
        &self.network
    }

    fn loss_graph(&self, weights: &Weights, batch: usize) -> Result<LossGraph<ValueId>, GraphError> {
        let schedule = NoiseSchedule::new(ScheduleKind::Flow, TIMESTEPS);
        let weight = |level| Weighting::Velocity.of(level, self.prediction, 0.0);
        let mut graph = Graph::new();
        let points = graph.input("points", Spec::f32([batch, self.dimensions]));
        let step = graph.input("step", Spec::u32([STEP_WORDS]));
        let parameters = self.network.parameters.views_of_weights(&mut graph, weights)?;
        let table = schedule.training_table(0..TIMESTEPS, self.prediction, weight);
        let table = graph.constant("schedule", table);
        let noised = graph.apply_all(AddNoise { dtype: DType::F32 }, &[points, table, step])?;
        let [x, target, t, weight] = [noised[0], noised[1], noised[2], noised[3]];
        let answer = self.network.forward(&mut Builder::new(&mut graph, &parameters), x, t)?;
        let loss = graph.apply(MseLoss, &[answer, target, weight])?;
        Ok(LossGraph { graph, parameters, step: Some(step), loss, inputs: points })
    }

    fn upload(&self, executable: &Executable, points: &ValueId, batch: &Vec<f32>) {
        executable.write(*points, batch);
    }
}

/// The error of the velocity on new points after training, summed over the coordinates.
fn error(lab: &Lab, dimensions: usize, prediction: Prediction) -> Result<f64, LabError> {
    let config = TrainConfig {
        steps: STEPS,
        batch: BATCH,
        seed: lab.seed,
        warmup_steps: 0,
        learning_rate: 3e-3,
        learning_rate_schedule: LearningRate::Cosine,
        weight_decay: 0.0,
        ema_decay: 0.99,
        ..TrainConfig::default()
    };
    let network = Perceptron::new(dimensions);
    let initial = network.parameters.initial(lab.seed);
    let task = Velocity { network, dimensions, prediction };
    let mut trainer = Trainer::new(&lab.device, task, config.step_options()).block_on()?;
    trainer.set_parameters(&initial)?;
    let plane = Plane::new(dimensions, lab.seed);
    let mut rng = Philox::new(lab.seed, Stream::Cases, 1);
    for step in 0..STEPS {
        trainer.step(&config.hyper(step), || plane.points(&mut rng)).block_on()?;
    }
    let LossGraph { mut graph, step: words, loss, inputs, .. } =
        trainer.task.loss_graph(&Weights::from(&trainer.states.ema), BATCH)?;
    graph.output("loss", loss);
    let plan = Plan::new(graph, &lab.device.caps).map_err(RunError::from)?;
    let evaluation = Executable::new(&trainer.store, plan).block_on()?;
    let mut rng = Philox::new(lab.seed, Stream::Cases, 2);
    let mut sum = 0.0;
    for step in 0..BATCHES {
        evaluation.write(inputs, &plane.points(&mut rng));
        if let Some(words) = words {
            let address = StepWords { seed: !lab.seed, step, ..StepWords::default() };
            evaluation.write_u32(words, &address.words());
        }
        evaluation.run().block_on()?;
        sum += f64::from(evaluation.read(loss).block_on()?[0]);
    }
    Ok(dimensions as f64 * sum / f64::from(BATCHES))
}

/// The mean weight of the velocity's error.
fn mean_weight() -> f64 {
    let schedule = NoiseSchedule::new(ScheduleKind::Flow, TIMESTEPS);
    let weight = |t| Weighting::Velocity.of(schedule.level(Some(t)), Prediction::Flow, 0.0);
    (0..TIMESTEPS).map(weight).sum::<f64>() / TIMESTEPS as f64
}

/// Predicting the picture and the velocity, in more and more dimensions.
pub(super) fn show(lab: &Lab, findings: &mut Findings) -> Result<(), LabError> {
    let mut chart = Chart {
        title: format!("Points of a plane in d dimensions, a network of width {WIDTH}"),
        x_label: "dimensions d".into(),
        y_label: "squared error of the velocity, all coordinates".into(),
        log_x: true,
        log_y: true,
        series: Vec::new(),
    };
    let mut curves = Vec::new();
    for (colour, (name, prediction)) in
        [("predicting the velocity", Prediction::Flow), ("predicting the picture", Prediction::Sample)]
            .into_iter()
            .enumerate()
    {
        let mut points = Vec::new();
        for dimensions in DIMENSIONS {
            let found = error(lab, dimensions, prediction)?;
            (lab.progress)(&format!("{name}, {dimensions} dimensions: error {found:.3}"));
            points.push((dimensions as f64, found));
        }
        findings.number(&format!("error of the velocity by dimensions: {name}"), &points);
        chart.series.push(Series {
            name: name.into(),
            points: points.clone(),
            colour,
            stroke: Stroke::Thick,
        });
        curves.push(points);
    }
    let last = DIMENSIONS.len() - 1;
    let [of_velocity, of_picture] = [0, 1].map(|i: usize| curves[i][last].1);
    let d = DIMENSIONS[last];
    findings.verdict(
        format!(
            "v-loss with a bottleneck, predicting the picture / the velocity ({d} dimensions, width {WIDTH})"
        ),
        of_picture / of_velocity,
        Expected::AtMost(0.2),
    );
    findings.verdict(
        format!("v-loss predicting the picture, {d} dimensions / {} dimensions", DIMENSIONS[0]),
        of_picture / curves[1][0].1,
        Expected::AtMost(1.5),
    );
    findings.verdict(
        format!(
            "v-loss predicting the velocity, over that of the {d} - {WIDTH} directions without an output"
        ),
        of_velocity / ((d - WIDTH) as f64 * mean_weight()),
        Expected::About(1.0, 0.1),
    );
    findings.chart("bottleneck", &chart)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plane_has_two_directions_at_right_angles() {
        let plane = Plane::new(64, 3);
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let [a, b] = &plane.0;
        assert!(
            (dot(a, a) - 1.0).abs() < 1e-12 && (dot(b, b) - 1.0).abs() < 1e-12 && dot(a, b).abs() < 1e-12
        );
        let points = plane.points(&mut Philox::new(1, Stream::Cases, 1));
        for point in points.chunks_exact(64) {
            let square: f32 = point.iter().map(|x| x * x).sum();
            assert!((square - 2.0).abs() < 1e-5, "{square}");
        }
    }
}
