//! Points of a plane in a space of many dimensions, learnt by a network narrower than the space: asked for the picture,
//! and for the velocity (the toy experiment of Li & He, arXiv 2511.13720, in small).

use super::{Expected, Findings, Lab, LabError};
use crate::diffusion::{NoiseSchedule, Prediction, ScheduleKind, Weighting};
use crate::gpu::{Blocking as _, Executable, RunError, Store};
use crate::graph::{Graph, GraphError, Plan, ValueId};
use crate::io::{Chart, Series, Stroke};
use crate::ops::{
    Add, AddNoise, GradientNorm, HYPER, Linear, MseLoss, STEP_WORDS, Silu, StepWords, TimeEmbedding,
};
use crate::rng::{Philox, Stream};
use crate::tensor::{Array, Spec};
use crate::train::{LearningRate, TrainConfig};

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

/// Shapes (inputs, outputs) of the linear layers: of x, of the time, two hidden ones, and the answer.
fn layers(dimensions: usize) -> [(usize, usize); 5] {
    [(dimensions, WIDTH), (WIDTH, WIDTH), (WIDTH, WIDTH), (WIDTH, WIDTH), (WIDTH, dimensions)]
}

/// A parameter by its state's name, with its shape and the inputs of its layer.
fn parameters(dimensions: usize) -> Vec<(String, Vec<usize>, usize)> {
    let of_layer = |(i, (inputs, outputs)): (usize, (usize, usize))| {
        [(format!("weight_{i}"), vec![inputs, outputs], inputs), (format!("bias_{i}"), vec![outputs], inputs)]
    };
    layers(dimensions).into_iter().enumerate().flat_map(of_layer).collect()
}

/// What a graph is given, and its loss.
struct Inputs {
    points: ValueId,
    step: ValueId,
    loss: ValueId,
}

/// Points, noise, network and the error of the velocity, with the parameters in the states whose names end so.
fn loss_graph(
    dimensions: usize,
    prediction: Prediction,
    suffix: &str,
) -> Result<(Graph, Inputs, Vec<ValueId>), GraphError> {
    let schedule = NoiseSchedule::new(ScheduleKind::Flow, TIMESTEPS);
    let weight = |level| Weighting::Velocity.of(level, prediction, 0.0);
    let mut graph = Graph::new();
    let points = graph.input("points", Spec::f32([BATCH, dimensions]));
    let step = graph.input("step", Spec::u32([STEP_WORDS]));
    let p: Vec<ValueId> = parameters(dimensions)
        .into_iter()
        .map(|(name, shape, _)| graph.state(&(name + suffix), Spec::f32(shape)))
        .collect();
    let table = graph.constant("schedule", schedule.training_table(0..TIMESTEPS, prediction, weight));
    let noised = graph.apply_all(AddNoise, &[points, table, step])?;
    let [x, target, t, weight] = [noised[0], noised[1], noised[2], noised[3]];
    let embedding = TimeEmbedding { width: WIDTH, flip_sin_to_cos: false, freq_shift: 0.0 };
    let frequencies = graph.constant("frequencies", embedding.frequencies());
    let t = graph.apply(embedding, &[t, frequencies])?;
    let of_x = graph.apply(Linear, &[x, p[0], p[1]])?;
    let of_t = graph.apply(Linear, &[t, p[2], p[3]])?;
    let mut h = graph.apply(Add, &[of_x, of_t])?;
    for layer in 2..5 {
        h = graph.apply(Silu, &[h])?;
        h = graph.apply(Linear, &[h, p[2 * layer], p[2 * layer + 1]])?;
    }
    let loss = graph.apply(MseLoss, &[h, target, weight])?;
    Ok((graph, Inputs { points, step, loss }, p))
}

/// The loss and a step of AdamW on it.
fn training_graph(
    dimensions: usize,
    prediction: Prediction,
    config: &TrainConfig,
) -> Result<(Graph, Inputs, ValueId), GraphError> {
    let (mut graph, inputs, p) = loss_graph(dimensions, prediction, "")?;
    let seed = graph.constant("d_loss", Array::new([1], vec![1.0]));
    let gradients = graph.backward(Add, &[(inputs.loss, seed)], &p)?;
    let hyper = graph.input("hyper", Spec::f32([HYPER]));
    for ((name, shape, _), p) in parameters(dimensions).into_iter().zip(p) {
        let g = gradients[&p];
        let [m, v, average] = ["_first", "_second", "_average"]
            .map(|end| graph.state(&(name.clone() + end), Spec::f32(shape.clone())));
        let norm = graph.apply(GradientNorm, &[g, hyper])?;
        graph.apply_all(config.optimizer(), &[p, g, m, v, average, norm, hyper])?;
    }
    Ok((graph, inputs, hyper))
}

/// The error of the velocity on new points after training, summed over the coordinates.
fn error(lab: &Lab, dimensions: usize, prediction: Prediction) -> Result<f64, LabError> {
    let store = Store::new(&lab.device);
    let caps = &lab.device.caps;
    let config = TrainConfig {
        steps: STEPS,
        warmup_steps: 0,
        learning_rate: 3e-3,
        learning_rate_schedule: LearningRate::Cosine,
        weight_decay: 0.0,
        ema_decay: 0.99,
        ..TrainConfig::default()
    };
    let (graph, inputs, hyper) = training_graph(dimensions, prediction, &config)?;
    let training = Executable::new(&store, Plan::new(graph, caps).map_err(RunError::from)?).block_on()?;
    for ((name, shape, fan_in), number) in parameters(dimensions).into_iter().zip(0u32..) {
        let mut rng = Philox::new(lab.seed, Stream::Parameters, number);
        let bound = 1.0 / (fan_in as f64).sqrt();
        let count: usize = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|_| rng.uniform(-bound, bound) as f32).collect();
        store.write(&name, &values)?;
        store.write(&(name + "_average"), &values)?;
    }
    let plane = Plane::new(dimensions, lab.seed);
    let mut rng = Philox::new(lab.seed, Stream::Cases, 1);
    for step in 0..STEPS {
        training.write(hyper, &config.hyper(step));
        training.write(inputs.points, &plane.points(&mut rng));
        training.write_u32(inputs.step, &StepWords { seed: lab.seed, step, ..StepWords::default() }.words());
        training.run().block_on()?;
    }
    let (mut graph, inputs, _) = loss_graph(dimensions, prediction, "_average")?;
    graph.output("loss", inputs.loss);
    let evaluation = Executable::new(&store, Plan::new(graph, caps).map_err(RunError::from)?).block_on()?;
    let mut rng = Philox::new(lab.seed, Stream::Cases, 2);
    let mut sum = 0.0;
    for step in 0..BATCHES {
        evaluation.write(inputs.points, &plane.points(&mut rng));
        evaluation
            .write_u32(inputs.step, &StepWords { seed: !lab.seed, step, ..StepWords::default() }.words());
        evaluation.run().block_on()?;
        sum += f64::from(evaluation.read(inputs.loss).block_on()?[0]);
    }
    Ok(dimensions as f64 * sum / f64::from(BATCHES))
}

/// The mean weight of the velocity's error.
fn mean_weight() -> f64 {
    let schedule = NoiseSchedule::new(ScheduleKind::Flow, TIMESTEPS);
    let weight = |t| Weighting::Velocity.of(schedule.level(Some(t)), Prediction::Flow, 0.0);
    (0..TIMESTEPS).map(weight).sum::<f64>() / TIMESTEPS as f64
}

/// Asked for the picture and for the velocity, in more and more dimensions.
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
        [("asked for the velocity", Prediction::Flow), ("asked for the picture", Prediction::Sample)]
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
        format!("v-loss with a bottleneck, asked for the picture / for the velocity ({d} dimensions, width {WIDTH})"),
        of_picture / of_velocity,
        Expected::AtMost(0.2),
    );
    findings.verdict(
        format!("v-loss asked for the picture, {d} dimensions / {} dimensions", DIMENSIONS[0]),
        of_picture / curves[1][0].1,
        Expected::AtMost(1.5),
    );
    findings.verdict(
        format!("v-loss asked for the velocity, over that of the {d} - {WIDTH} directions without an output"),
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
