//! A chain without noise: pictures are blurred, or lose resolution, step by step, and a network walks back (Bansal et al.,
//! "Cold Diffusion", arXiv 2208.09392).

use super::reverse::{differing, spread};
use super::training::{CLASSES, small_run};
use super::{Expected, Experiment, Findings, Lab, LabError};
use crate::data::{AugmentOptions, Dataset, Loader, to_unit};
use crate::diffusion::UNet;
use crate::gpu::{Blocking as _, Executable, RunError, Store};
use crate::graph::{Graph, GraphError, Plan, State, ValueId};
use crate::io::{Chart, Series, save_rows};
use crate::nn::Network;
use crate::ops::{Add, Degrade, MseLoss, Scale, blur_matrices, downsample_matrices};
use crate::rng::{Philox, Stream};
use crate::tensor::{Array, Spec};
use crate::train::{LossGraph, Task, TrainConfig, Trainer, open_data};
use serde_json::json;
use std::sync::Arc;

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "cold",
    title: "A chain without noise: blur and loss of resolution, undone",
    see: "In blur_error.png algorithm 2 comes nearer to the picture than algorithm 1 from every severity, and than one \
          answer of the network from the low ones. In blur_pictures.png a plain grey becomes a sharp glyph of the class \
          that was asked for; without noise in the start those of a class are nearly alike.",
    equation: "x_s = D(x_0, s); back by x_{s-1} = D(R(x_s, s), s-1) or by x_{s-1} = x_s - D(R(x_s, s), s) + \
               D(R(x_s, s), s-1)   (Cold Diffusion, arXiv 2208.09392, algorithms 1 and 2)",
    shaders: &["degrade.wgsl", "loss.wgsl"],
    minutes: 2,
    run,
};

/// Pixels of a side.
const SIDE: usize = 16;
const ELEMENTS: usize = SIDE * SIDE;
/// Steps of training for each chain.
const STEPS: u32 = 250;
/// Pictures of each class that are restored and drawn.
const COPIES: usize = 3;
const COUNT: usize = CLASSES * COPIES;
/// Training pictures of each class by which the means and the spread of the data are known.
const KNOWN: usize = 100;
/// Standard deviations of the little noise by which the pixels of a start come to differ (the paper's section 5).
const NOISES: [f64; 2] = [0.01, 0.03];
/// Pictures whose walks are shown: a person, a mouth, a tree.
const WALKS: [usize; 3] = [4 * COPIES, 6 * COPIES, 9 * COPIES];

/// A course of degradations from severity 0, which does nothing, to the last, which leaves one grey.
struct Chain {
    name: &'static str,
    /// (last + 1, SIDE, SIDE), for [`Degrade`].
    matrices: Array,
    /// What leads from severity s - 1 to s, at s.
    steps: Array,
    /// Severities at which walks are shown.
    shown: Vec<usize>,
    /// Severities from which restored pictures are shown.
    restored: [usize; 4],
}

impl Chain {
    /// Blurs whose standard deviation grows by the same factor at every step, from 0.4 pixels to one and a half sides:
    /// there the slowest wave in a picture keeps exp(-½ (1.5 π)²) = 1.5e-5 of its height.
    fn blur() -> Self {
        const LAST: u32 = 10;
        let (first, end) = (0.4, 1.5 * SIDE as f64);
        let variance = |s: u32| match s {
            0 => 0.0,
            s => (first * (end / first).powf(f64::from(s - 1) / f64::from(LAST - 1))).powi(2),
        };
        let variances: Vec<f64> = (0..=LAST).map(variance).collect();
        let increments: Vec<f64> = (0..=LAST).map(|s| variance(s) - variance(s.saturating_sub(1))).collect();
        Self {
            name: "blur",
            matrices: blur_matrices(SIDE, &variances),
            steps: blur_matrices(SIDE, &increments),
            shown: (0..=LAST as usize).collect(),
            restored: [3, 5, 7, 10],
        }
    }

    /// Blocks of 2, 4, 8 and 16 pixels. A step from one to the next is the next itself.
    fn downsample() -> Self {
        let matrices = downsample_matrices(SIDE, 5);
        let steps = matrices.clone();
        Self { name: "downsample", matrices, steps, shown: (0..5).collect(), restored: [1, 2, 3, 4] }
    }

    fn last(&self) -> usize {
        self.matrices.shape[0] - 1
    }
}

fn pictures(batch: usize) -> Spec {
    Spec::f32([batch, SIDE, SIDE, 1])
}

/// R(x_s, s): x_s and what the network adds to it. Of a slight degradation it has little to learn.
fn restored(
    graph: &mut Graph,
    unet: &UNet,
    parameters: &[ValueId],
    x: ValueId,
    severity: ValueId,
    labels: ValueId,
) -> Result<ValueId, GraphError> {
    let added = unet.forward(graph, parameters, x, severity, Some(labels))?;
    graph.apply(Add, &[x, added])
}

/// To restore: the network learns R(x_s, s) by ‖R(D(x_0, s), s) - x_0‖².
struct Restoration {
    unet: UNet,
    matrices: Array,
}

/// What a batch is uploaded to.
struct RestorationInputs {
    pictures: ValueId,
    labels: ValueId,
    severity: ValueId,
}

impl Task for Restoration {
    type Inputs = RestorationInputs;
    /// Pictures, labels, severities.
    type Batch = (Vec<f32>, Vec<u32>, Vec<f32>);

    fn network(&self) -> &dyn Network {
        &self.unet
    }

    fn loss_graph(&self, weights: &State, batch: usize) -> Result<LossGraph<RestorationInputs>, GraphError> {
        let unet = &self.unet;
        let mut graph = Graph::new();
        let x_0 = graph.input("pictures", pictures(batch));
        let labels = graph.input("labels", Spec::u32([batch]));
        let severity = graph.input("severity", Spec::f32([batch]));
        let flat = graph.state(weights);
        let matrices = graph.constant("matrices", self.matrices.clone());
        let x_s = graph.apply(Degrade, &[x_0, severity, matrices, matrices])?;
        let parameters = unet.parameters.views(&mut graph, flat)?;
        let answer = restored(&mut graph, unet, &parameters, x_s, severity, labels)?;
        let weight = graph.constant("weight", Array::new([batch], vec![1.0; batch]));
        let loss = graph.apply(MseLoss, &[answer, x_0, weight])?;
        let inputs = RestorationInputs { pictures: x_0, labels, severity };
        Ok(LossGraph { graph, parameters, step: None, loss, inputs })
    }

    fn upload(&self, executable: &Executable, inputs: &RestorationInputs, batch: &Self::Batch) {
        executable.write(inputs.pictures, &batch.0);
        executable.write_u32(inputs.labels, &batch.1);
        executable.write(inputs.severity, &batch.2);
    }
}

/// Trains a network on a chain, s from 1 to the last alike.
fn train(
    lab: &Lab,
    chain: &Chain,
    config: &TrainConfig,
    data: &Arc<Dataset>,
) -> Result<Trainer<Restoration>, LabError> {
    let unet = UNet::new(&config.unet_config(0))?;
    let initial = unet.parameters.initial(config.seed);
    let task = Restoration { unet, matrices: chain.matrices.clone() };
    let mut trainer = Trainer::new(&lab.device, task, config.step_options()).block_on()?;
    trainer.set_parameters(&initial)?;
    let mut loader = Loader::new(data.clone(), config.batch, config.seed, AugmentOptions::default(), 0);
    while trainer.next_step() < config.steps {
        let step = trainer.next_step();
        trainer
            .step(&config.hyper(step), || {
                let given = loader.next();
                let mut random = Philox::new(config.seed, Stream::Timestep, step);
                let severity = |_| 1.0 + random.below(chain.last()) as f32;
                (given.images, given.labels, (0..config.batch).map(severity).collect())
            })
            .block_on()?;
        if trainer.log_is_full() {
            let rows = trainer.read_log().block_on()?;
            if let Some(row) = rows.last().filter(|row| (row.step + 1) % 100 == 0) {
                (lab.progress)(&format!("{}: step {}, loss {:.4}", chain.name, row.step + 1, row.loss));
            }
        }
    }
    Ok(trainer)
}

/// D(x, s) of COUNT pictures at once.
struct Degrader {
    executable: Executable,
    x: ValueId,
    severity: ValueId,
    y: ValueId,
}

impl Degrader {
    fn new(store: &Store, matrices: &Array) -> Result<Self, RunError> {
        let mut graph = Graph::new();
        let x = graph.input("pictures", pictures(COUNT));
        let severity = graph.input("severity", Spec::f32([COUNT]));
        let matrices = graph.constant("matrices", matrices.clone());
        let y = graph.apply(Degrade, &[x, severity, matrices, matrices])?;
        graph.output("degraded", y);
        let executable = Executable::new(store, Plan::new(graph, &store.device().caps)?).block_on()?;
        Ok(Self { executable, x, severity, y })
    }

    fn apply(&self, x: &[f32], severity: usize) -> Result<Vec<f32>, RunError> {
        self.executable.write(self.x, x);
        self.executable.write(self.severity, &[severity as f32; COUNT]);
        self.executable.run().block_on()?;
        Ok(self.executable.read(self.y).block_on()?)
    }
}

/// The two ways to go from x_s to x_{s-1}.
#[derive(Clone, Copy)]
enum Algorithm {
    /// D(R, s-1): algorithm 1.
    Naive,
    /// x_s - D(R, s) + D(R, s-1): algorithm 2.
    Improved,
}

/// One evaluation of R at severity s, and what both algorithms make of it.
struct Restorer {
    executable: Executable,
    x: ValueId,
    labels: ValueId,
    severity: ValueId,
    before: ValueId,
    answer: ValueId,
    naive: ValueId,
    improved: ValueId,
}

impl Restorer {
    fn new(trainer: &Trainer<Restoration>) -> Result<Self, RunError> {
        let (store, Restoration { unet, matrices }) = (&trainer.store, &trainer.task);
        let mut graph = Graph::new();
        let x = graph.input("x", pictures(COUNT));
        let labels = graph.input("labels", Spec::u32([COUNT]));
        let [severity, before] = ["severity", "before"].map(|name| graph.input(name, Spec::f32([COUNT])));
        let matrices = graph.constant("matrices", matrices.clone());
        let flat = graph.state(&trainer.states.ema);
        let parameters = unet.parameters.views(&mut graph, flat)?;
        let answer = restored(&mut graph, unet, &parameters, x, severity, labels)?;
        let naive = graph.apply(Degrade, &[answer, before, matrices, matrices])?;
        let now = graph.apply(Degrade, &[answer, severity, matrices, matrices])?;
        let minus_now = graph.apply(Scale(-1.0), &[now])?;
        let rest = graph.apply(Add, &[x, minus_now])?;
        let improved = graph.apply(Add, &[rest, naive])?;
        for (name, value) in [("answer", answer), ("naive", naive), ("improved", improved)] {
            graph.output(name, value);
        }
        let executable = Executable::new(store, Plan::new(graph, &store.device().caps)?).block_on()?;
        Ok(Self { executable, x, labels, severity, before, answer, naive, improved })
    }

    fn evaluate(&self, x: &[f32], severity: usize) -> Result<(), RunError> {
        self.executable.write(self.x, x);
        self.executable.write_u32(self.labels, &labels());
        self.executable.write(self.severity, &[severity as f32; COUNT]);
        self.executable.write(self.before, &[(severity - 1) as f32; COUNT]);
        Ok(self.executable.run().block_on()?)
    }

    /// R(x_s, s).
    fn directly(&self, x: &[f32], severity: usize) -> Result<Vec<f32>, RunError> {
        self.evaluate(x, severity)?;
        Ok(self.executable.read(self.answer).block_on()?)
    }

    /// x_s, x_{s-1}, …, x_0.
    fn walk(&self, algorithm: Algorithm, x: &[f32], severity: usize) -> Result<Vec<Vec<f32>>, RunError> {
        let mut way = vec![x.to_vec()];
        for s in (1..=severity).rev() {
            self.evaluate(&way[severity - s], s)?;
            way.push(
                self.executable
                    .read(match algorithm {
                        Algorithm::Naive => self.naive,
                        Algorithm::Improved => self.improved,
                    })
                    .block_on()?,
            );
        }
        Ok(way)
    }
}

/// COPIES of each class, class after class.
fn labels() -> Vec<u32> {
    (0..).take(CLASSES).flat_map(|class| [class; COPIES]).collect()
}

/// The first pictures of each class, class after class.
fn of_each_class(data: &Dataset, count: usize) -> Vec<f32> {
    let mut pictures = Vec::new();
    for class in 0..CLASSES {
        let members = (0..data.len()).filter(|&i| data.label(i) as usize == class).take(count);
        pictures.extend(members.flat_map(|i| data.image(i)).map(|&byte| to_unit(byte)));
    }
    pictures
}

/// The mean squared difference of two sets of pictures, per element.
fn error(a: &[f32], b: &[f32]) -> f64 {
    let squares = a.iter().zip(b).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2));
    squares.sum::<f64>() / a.len() as f64
}

fn mean(values: &[f32]) -> f64 {
    values.iter().map(|&v| f64::from(v)).sum::<f64>() / values.len() as f64
}

/// The largest of numbers that are not negative; NaN if one of them is.
fn largest(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(0.0, |largest: f64, v| if largest.is_nan() || v <= largest { largest } else { v })
}

/// The largest distance of a pixel from the mean of its picture.
fn unevenness(pictures: &[f32]) -> f64 {
    let of_picture = |picture: &[f32]| {
        let mean = mean(picture);
        largest(picture.iter().map(|&x| (f64::from(x) - mean).abs()))
    };
    largest(pictures.chunks_exact(ELEMENTS).map(of_picture))
}

/// The mean squared difference of a pixel from the next in its row: how sharp pictures are.
fn detail(pictures: &[f32]) -> f64 {
    let pairs = || pictures.chunks_exact(SIDE).flat_map(|row| row.windows(2));
    pairs().map(|pair| f64::from(pair[1] - pair[0]).powi(2)).sum::<f64>() / pairs().count() as f64
}

/// Starts of one grey each. For each class the greys are those of a Gaussian fitted to the means of its pictures, as the
/// paper fits one to the means of all.
fn greys(known: &[f32], seed: u64) -> Vec<f32> {
    let mut random = Philox::new(seed, Stream::Initial, 0);
    let mut greys = Vec::new();
    for class in known.chunks_exact(KNOWN * ELEMENTS) {
        let means: Vec<f64> = class.chunks_exact(ELEMENTS).map(mean).collect();
        let centre = means.iter().sum::<f64>() / means.len() as f64;
        let variance = means.iter().map(|m| (m - centre).powi(2)).sum::<f64>() / (means.len() - 1) as f64;
        for _ in 0..COPIES {
            greys.extend([(centre + variance.sqrt() * random.normal()) as f32; ELEMENTS]);
        }
    }
    greys
}

/// The share of pictures to which, of the mean pictures of all classes, that of their own is the nearest.
fn recognised(pictures: &[f32], known: &[f32]) -> f64 {
    let means: Vec<Vec<f32>> = known
        .chunks_exact(KNOWN * ELEMENTS)
        .map(|class| {
            let at = |i: usize| class.iter().skip(i).step_by(ELEMENTS).sum::<f32>() / KNOWN as f32;
            (0..ELEMENTS).map(at).collect()
        })
        .collect();
    let nearest = |picture: &[f32]| {
        (0..CLASSES).min_by(|&a, &b| error(picture, &means[a]).total_cmp(&error(picture, &means[b])))
    };
    let right = pictures.chunks_exact(ELEMENTS).enumerate().filter(|(i, p)| nearest(p) == Some(i / COPIES));
    right.count() as f64 / COUNT as f64
}

/// What every chain is given.
struct Ground {
    config: TrainConfig,
    training: Arc<Dataset>,
    /// Training pictures, KNOWN of each class.
    known: Vec<f32>,
    /// Held-out pictures, COPIES of each class.
    x_0: Vec<f32>,
}

fn run(lab: &Lab, findings: &mut Findings) -> Result<(), LabError> {
    let config = TrainConfig { steps: STEPS, batch: 8, ..small_run(lab.seed) };
    let (training, held_out) = open_data(&config)?;
    let ground = Ground {
        known: of_each_class(&training, KNOWN),
        x_0: of_each_class(&held_out, COPIES),
        training: Arc::new(training),
        config,
    };
    findings.number("spread_of_data", spread(&ground.known, KNOWN, ELEMENTS));
    findings.number("detail_of_data", detail(&ground.known));
    findings.number("recognised_of_held_out", recognised(&ground.x_0, &ground.known));
    for chain in [Chain::blur(), Chain::downsample()] {
        let trainer = train(lab, &chain, &ground.config, &ground.training)?;
        let restorer = Restorer::new(&trainer)?;
        restore(lab, findings, &chain, &ground.x_0, &trainer.store, &restorer)?;
        draw(lab, findings, &chain, &ground, &restorer)?;
    }
    Ok(())
}

/// Held-out pictures, degraded to each severity and restored.
fn restore(
    lab: &Lab,
    findings: &mut Findings,
    chain: &Chain,
    x_0: &[f32],
    store: &Store,
    restorer: &Restorer,
) -> Result<(), LabError> {
    let (name, last) = (chain.name, chain.last());
    let degrader = Degrader::new(store, &chain.matrices)?;
    let stepper = Degrader::new(store, &chain.steps)?;

    // 1. Errors.
    const WAYS: [&str; 4] = ["degraded", "one answer of R", "algorithm 1", "algorithm 2"];
    let mut errors: [Vec<f64>; 4] = Default::default();
    let mut degraded = vec![x_0.to_vec()];
    let mut unevennesses = vec![unevenness(x_0)];
    let (mut stepped, mut off) = (x_0.to_vec(), Vec::new());
    let mut details = [0.0; 4];
    // The first two pictures of each class.
    let two =
        |x: &[f32]| x.chunks_exact(COPIES * ELEMENTS).flat_map(|c| &c[..2 * ELEMENTS]).copied().collect();
    let mut rows: Vec<(String, Vec<f32>)> = vec![("held out".into(), two(x_0))];
    for s in 1..=last {
        let x_s = degrader.apply(x_0, s)?;
        stepped = stepper.apply(&stepped, s)?;
        off.push(largest(x_s.iter().zip(&stepped).map(|(a, b)| f64::from((a - b).abs()))));
        let naive = restorer.walk(Algorithm::Naive, &x_s, s)?.remove(s);
        let improved = restorer.walk(Algorithm::Improved, &x_s, s)?.remove(s);
        let restored = [x_s.clone(), restorer.directly(&x_s, s)?, naive, improved];
        for (way, x) in restored.iter().enumerate() {
            errors[way].push(error(x, x_0));
            details[way] = detail(x);
            if chain.restored.contains(&s) {
                rows.push((format!("{s}: {}", WAYS[way]), two(x)));
            }
        }
        unevennesses.push(unevenness(&x_s));
        degraded.push(x_s);
    }
    (lab.progress)(&format!("{name}: restored from {last} severities"));

    // 2. Verdicts.
    let [left, direct, naive, improved] = &errors;
    let worst = |a: &[f64], b: &[f64]| largest(a.iter().zip(b).map(|(a, b)| a / b));
    let mut claim =
        |words: &str, value, expected| findings.verdict(format!("{name}: {words}"), value, expected);
    // Pixels lie within ±1, and a step is two sums of 16 products.
    let roundings = largest(off.into_iter()) * 2f64.powi(24);
    claim(
        "severity s is s single steps: largest difference of a pixel, in roundings of 1",
        roundings,
        Expected::AtMost(64.0),
    );
    claim(
        "the last severity leaves one grey: largest difference of a pixel from it",
        unevennesses[last],
        Expected::AtMost(1e-4),
    );
    claim(
        "from severity 2 on R comes nearer to the picture than what it was given is: worst ratio of errors",
        worst(&direct[1..], &left[1..]),
        Expected::AtMost(0.6),
    );
    claim(
        "from every severity algorithm 2 comes nearer than algorithm 1: worst ratio of errors",
        worst(improved, naive),
        Expected::AtMost(1.0),
    );
    claim(
        "from severity 1 algorithm 2 comes nearer than one answer of R: ratio of errors",
        improved[0] / direct[0],
        Expected::AtMost(1.0),
    );
    claim(
        "from the last one answer of R comes nearer, the mean of what may have been: algorithm 2 in its error",
        improved[last - 1] / direct[last - 1],
        Expected::AtLeast(1.0),
    );
    claim(
        "but algorithm 2 has the detail that a mean lacks: its detail in that of one answer of R",
        details[3] / details[1],
        Expected::AtLeast(1.3),
    );
    let table: serde_json::Map<_, _> =
        WAYS.iter().zip(&errors).map(|(&way, errors)| (way.into(), json!(errors))).collect();
    findings.number(&format!("{name}_errors_from_severity_1_on"), table);
    findings.number(&format!("{name}_unevenness_from_severity_0_on"), &unevennesses);

    // 3. Pictures and the chart.
    save_rows(&findings.file(&format!("{name}_restoration.png")), &rows, SIDE, SIDE, 1, 48)?;
    let walks = walk_rows(chain, name, &|s| &degraded[s]);
    save_rows(&findings.file(&format!("{name}_degradation.png")), &walks, SIDE, SIDE, 1, 64)?;
    let series = |(colour, errors): (usize, &Vec<f64>)| Series {
        name: WAYS[colour].into(),
        points: (1u32..).zip(errors).map(|(s, &e)| (f64::from(s), e)).collect(),
        colour,
        ..Series::default()
    };
    findings.chart(
        &format!("{name}_error"),
        &Chart {
            title: format!("Restored from {name}, held-out pictures"),
            x_label: "severity s".into(),
            y_label: "mean squared error of a pixel".into(),
            log_y: true,
            series: errors.iter().enumerate().map(series).collect(),
            ..Chart::default()
        },
    )
}

/// The severities to show of the pictures to show: a row for each.
fn walk_rows<'a>(chain: &Chain, label: &str, at: &dyn Fn(usize) -> &'a Vec<f32>) -> Vec<(String, Vec<f32>)> {
    let row = |&picture: &usize| {
        let part = |&s: &usize| at(s)[picture * ELEMENTS..(picture + 1) * ELEMENTS].to_vec();
        (label.to_string(), chain.shown.iter().flat_map(part).collect())
    };
    WALKS.iter().map(row).collect()
}

/// Pictures from a plain grey.
fn draw(
    lab: &Lab,
    findings: &mut Findings,
    chain: &Chain,
    ground: &Ground,
    restorer: &Restorer,
) -> Result<(), LabError> {
    let (name, last, known) = (chain.name, chain.last(), &ground.known);
    let data = spread(known, KNOWN, ELEMENTS);

    // 1. Starts: one grey for each class, a grey for each picture, and that with a little noise.
    let grey = greys(known, lab.seed);
    let one: Vec<f32> = grey.iter().enumerate().map(|(i, _)| grey[i - i % (COPIES * ELEMENTS)]).collect();
    let mut random = Philox::new(lab.seed, Stream::Initial, 1);
    let noise: Vec<f64> = grey.iter().map(|_| random.normal()).collect();
    let noised =
        |size: f64| -> Vec<f32> { grey.iter().zip(&noise).map(|(&g, z)| g + (size * z) as f32).collect() };
    let mut starts = vec![("one grey a class".to_string(), one), ("greys".to_string(), grey.clone())];
    starts.extend(NOISES.map(|size| (format!("greys, noise {size}"), noised(size))));

    // 2. Walks.
    let mut rows = vec![("held out".to_string(), ground.x_0.clone())];
    let mut measure = |findings: &mut Findings, what: &str, pictures: Vec<f32>| -> [f64; 2] {
        let (right, share) = (recognised(&pictures, known), spread(&pictures, COPIES, ELEMENTS) / data);
        let found =
            json!({ "recognised": right, "spread_in_that_of_data": share, "detail": detail(&pictures) });
        findings.number(&format!("{name}_drawn_{}", what.replace([' ', ','], "_")), found);
        rows.push((what.to_string(), pictures));
        [right, share]
    };
    measure(findings, "R alone from greys", restorer.directly(&grey, last)?);
    let naive = restorer.walk(Algorithm::Naive, &grey, last)?;
    measure(findings, "algorithm 1 from greys", naive[last].clone());
    let mut measured = Vec::new();
    let mut walks = Vec::new();
    for (start, x) in &starts {
        let walk = restorer.walk(Algorithm::Improved, x, last)?;
        measured.push(measure(findings, &format!("algorithm 2 from {start}"), walk[last].clone()));
        walks.push(walk);
    }
    let again = restorer.walk(Algorithm::Improved, &grey, last)?;
    (lab.progress)(&format!("{name}: drawn from {} starts", starts.len()));

    // 3. Verdicts.
    let [_, of_one] = measured[0];
    let [right, of_greys] = measured[1];
    let [_, of_noise] = measured[3];
    let mut claim =
        |words: &str, value, expected| findings.verdict(format!("{name}: {words}"), value, expected);
    claim(
        "the same start ends in the same bits: share of values that differ",
        differing(&walks[1][last], &again[last]),
        Expected::AtMost(0.0),
    );
    claim(
        "from grey come glyphs of the class asked for: share of pictures that its mean is nearest to",
        right,
        Expected::AtLeast(0.9),
    );
    // The same sums in the same order; a device whose compiler orders them by place would make small differences.
    claim(
        "from one grey a class has one picture: its spread in that of the data",
        of_one,
        Expected::AtMost(1e-3),
    );
    claim(
        "other greys give little more: spread of a class in that of the data",
        of_greys,
        Expected::AtMost(0.5),
    );
    if name == "blur" {
        // Averages over the whole picture leave R nothing of it to see.
        claim(
            &format!("noise of {} in the start gives more: spread of a class in that without it", NOISES[1]),
            of_noise / of_greys,
            Expected::AtLeast(1.5),
        );
    }

    // 4. Pictures.
    save_rows(&findings.file(&format!("{name}_pictures.png")), &rows, SIDE, SIDE, 1, 32)?;
    let mut strip = walk_rows(chain, "algorithm 1", &|s| &naive[last - s]);
    strip.extend(walk_rows(chain, "algorithm 2", &|s| &walks[1][last - s]));
    for (_, row) in &mut strip {
        *row = row.rchunks_exact(ELEMENTS).flatten().copied().collect();
    }
    save_rows(&findings.file(&format!("{name}_walk.png")), &strip, SIDE, SIDE, 1, 64)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_begin_with_nothing_and_end_in_one_grey() {
        for chain in [Chain::blur(), Chain::downsample()] {
            let matrices: Vec<&[f64]> = chain.matrices.data.chunks_exact(ELEMENTS).collect();
            let steps: Vec<&[f64]> = chain.steps.data.chunks_exact(ELEMENTS).collect();
            let product = |a: &[f64], b: &[f64]| -> Vec<f64> {
                let entry =
                    |e: usize| (0..SIDE).map(|k| a[e / SIDE * SIDE + k] * b[k * SIDE + e % SIDE]).sum();
                (0..ELEMENTS).map(entry).collect()
            };
            for s in 1..=chain.last() {
                let stepped = product(steps[s], matrices[s - 1]);
                assert!(stepped.iter().zip(matrices[s]).all(|(a, b)| (a - b).abs() < 1e-13), "{s}");
            }
            assert!((0..ELEMENTS).all(|e| matrices[0][e] == f64::from(u8::from(e / SIDE == e % SIDE))));
            // The slowest wave is as high as the mean at 2 · 1.5e-5 · √2 at most.
            assert!(matrices[chain.last()].iter().all(|w| (w * SIDE as f64 - 1.0).abs() < 5e-5));
            assert!(chain.shown.iter().chain(&chain.restored).all(|&s| s <= chain.last()));
        }
    }

    #[test]
    fn measures_by_hand() {
        let mut picture = [0.5; ELEMENTS];
        assert_eq!((unevenness(&picture), detail(&picture)), (0.0, 0.0));
        // The first pixel of a row has one neighbour, the mean moves by 1/256.
        picture[SIDE] = 1.5;
        assert!((unevenness(&picture) - 255.0 / 256.0).abs() < 1e-12);
        assert!((detail(&picture) - 1.0 / 240.0).abs() < 1e-12);
        assert!((error(&picture, &[0.5; ELEMENTS]) - 1.0 / 256.0).abs() < 1e-12);
        assert_eq!(largest([1.0, 3.0, 2.0].into_iter()), 3.0);
        assert!(largest([1.0, f64::NAN, 2.0].into_iter()).is_nan());
    }

    /// Class k is the grey k / 10, give or take.
    fn known() -> Vec<f32> {
        let grey = |i: usize| (i / KNOWN) as f32 / 10.0 + if i.is_multiple_of(2) { 0.01 } else { -0.01 };
        (0..CLASSES * KNOWN).flat_map(|i| [grey(i); ELEMENTS]).collect()
    }

    #[test]
    fn greys_are_those_of_their_class_and_recognised() {
        let known = known();
        let greys = greys(&known, 3);
        assert_eq!(greys.len(), COUNT * ELEMENTS);
        for (i, picture) in greys.chunks_exact(ELEMENTS).enumerate() {
            let off = (picture[0] - (i / COPIES) as f32 / 10.0).abs();
            assert!(off < 0.04 && picture.iter().all(|&g| g == picture[0]), "{i}: {off}");
        }
        assert!(greys[0] != greys[ELEMENTS]);
        assert_eq!(recognised(&greys, &known), 1.0);
        let shifted: Vec<f32> = greys.iter().map(|g| g + 0.1).collect();
        // The last class has no next one.
        assert_eq!(recognised(&shifted, &known), 0.1);
    }
}
