//! The three estimators of the article's expected loss, compared in value, gradient and cost.

use super::{Expected, Experiment, Findings, Lab, LabError};
use crate::data::{AugmentOptions, Dataset, Options, batch_at, glyphs};
use crate::diffusion::{NoiseSchedule, UNet};
use crate::gpu::{Blocking as _, Executable, RunError, Store};
use crate::graph::{Graph, Plan, State, ValueId};
use crate::io::{Chart, Series, Stroke};
use crate::model::Model;
use crate::ops::{
    Add, AddNoise, AddTwoNoises, Coefficients, MseLoss, NoisingRow, SCHEDULE_COLUMNS, STEP_WORDS, StepWords,
    TWO_NOISE_COLUMNS, TwoNoiseRow,
};
use crate::rng::{Philox, Stream};
use crate::sample::{Latent, LatentStepper};
use crate::tensor::{Array, DType, Shape, Spec};
use crate::train::built_in_model;
use serde_json::json;
use std::sync::Arc;
use std::time::Instant;

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "variance",
    title: "Three estimators of the loss: the whole path, two noises, one",
    see: "In gradient-variance.png the whole path lies on two noises: fewer draws of the same law change nothing. \
              One noise lies far below them, by the factor that ratio.png shows: the last noise was averaged beforehand.",
    equation: "E ‖f - ε_{t-1}‖² = E ‖f - b ε̄ / √(1 - ā²)‖² + 1 - b² / (1 - ā²) per element (the article stops at \
                   the left side)",
    shaders: &["noise.wgsl", "denoise.wgsl", "loss.wgsl"],
    minutes: 2,
    run,
};

/// Pictures behind one estimate.
const BATCH: usize = 4;
/// Estimates for each estimator and t, each from draws of its own.
const ESTIMATES: u32 = 64;
/// The article's t. At t = 1000 the schedule's last step wipes out all that is left, b² = 0.999.
const TIMES: [usize; 10] = [1, 2, 5, 20, 100, 300, 600, 900, 990, 1000];
/// Where the whole path is walked too: each estimate takes t launches.
const LONGEST_PATH: usize = 300;
/// Where the gradient is measured at weights that have learned nothing, so that its mean is not near zero.
const UNTRAINED_TIMES: [usize; 2] = [5, 20];
/// Directions that the mean of the gradient is looked at along.
const DIRECTIONS: u32 = 8;
/// Largest deviation, in standard errors, that passes for chance. Some 100 are looked at: one in 16000 goes beyond.
const CHANCE: f64 = 4.0;
/// Two-sided 95 % of the normal distribution.
const CONFIDENCE: f64 = 1.96;

/// How x_t and its target are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Estimator {
    /// ε_0 … ε_{t-1}, each.
    Path,
    /// ε̄_{t-2} and ε_{t-1}.
    Two,
    /// ε̄_{t-1}, the mean over ε_{t-1} taken beforehand.
    One,
}

/// What one run gives.
struct Estimate {
    /// ‖(b/s) g - ε_{t-1}‖² per element, s² = 1 - ā².
    loss: f64,
    /// Its gradient by the weights of `conv_out`.
    gradient: Vec<f64>,
    /// Σ g ε_{t-1} and Σ g ε̄_{t-1}, per element.
    products: [f64; 2],
    /// Spent on the steps before the last, in ms.
    walking: f64,
}

/// From x_0 (or x_{t-1}) in the latent to loss and gradient.
struct Probe {
    executable: Executable,
    table: ValueId,
    step: ValueId,
    labels: Option<ValueId>,
    loss: ValueId,
    gradients: Vec<ValueId>,
    read: [ValueId; 3],
}

impl Probe {
    fn new(
        store: &Store,
        unet: &UNet,
        weights: &State,
        latent: &Latent,
        two: bool,
    ) -> Result<Self, LabError> {
        let mut graph = Graph::new();
        let pictures = graph.state(&latent.x);
        let columns = if two { TWO_NOISE_COLUMNS } else { SCHEDULE_COLUMNS };
        let table = graph.input("table", Spec::f32([1, columns]));
        let step = graph.input("step", Spec::u32([STEP_WORDS]));
        let labels = unet.config.num_class_embeds.map(|_| graph.input("labels", Spec::u32([BATCH])));
        let noised = match two {
            true => graph.apply_all(AddTwoNoises { dtype: DType::F32 }, &[pictures, table, step])?,
            false => graph.apply_all(AddNoise { dtype: DType::F32 }, &[pictures, table, step])?,
        };
        let flat = graph.state(weights);
        let parameters = unet.parameters.views(&mut graph, flat)?;
        let answer = unet.forward(&mut graph, &parameters, noised[0], noised[2], labels)?;
        let loss = graph.apply(MseLoss, &[answer, noised[1], noised[3]])?;
        let one = graph.constant("d_loss", Array::new([1], vec![1.0]));
        let last: Vec<ValueId> = unet
            .parameters
            .iter()
            .zip(&parameters)
            .filter(|(p, _)| p.name.starts_with("conv_out."))
            .map(|(_, &value)| value)
            .collect();
        let by_value = graph.backward(Add, &[(loss, one)], &last)?;
        let gradients: Vec<ValueId> = last.iter().map(|p| by_value[p]).collect();
        let read = [noised[0], noised[1], answer];
        for (name, value) in [("loss", loss), ("x_t", read[0]), ("target", read[1]), ("answer", read[2])] {
            graph.output(name, value);
        }
        for &gradient in &gradients {
            graph.output("gradient", gradient);
        }
        let plan = Plan::new(graph, &store.device().caps).map_err(RunError::from)?;
        let executable = Executable::new(store, plan).block_on()?;
        Ok(Self { executable, table, step, labels, loss, gradients, read })
    }
}

/// Everything that an estimate needs.
struct Bench {
    store: Arc<Store>,
    schedule: NoiseSchedule,
    pictures: Dataset,
    seed: u64,
    one: Probe,
    two: Probe,
    latent: Latent,
    /// One step of the chain in place, x ← a x + b ε: the kernel of the samplers.
    walk: LatentStepper,
}

impl Bench {
    /// Number `k` of the estimates of the loss at the article's t.
    fn estimate(&self, estimator: Estimator, t: usize, k: u32) -> Result<Estimate, LabError> {
        let last = t - 1;
        let alpha_bar = self.schedule.alpha_bar(Some(last));
        let (signal, noise) = (alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt());
        let share = self.schedule.last_noise_share(last);
        // The network f = (b/s) g under the loss ‖f - ε_{t-1}‖² is g under (b/s)² ‖g - (s/b) ε_{t-1}‖².
        let target = [0.0, 1.0 / share, share * share];

        // 1. Draws of their own for each estimator, t and k.
        let seed = self.seed.wrapping_add((estimator as u64 + 1) << 32);
        let mut words =
            StepWords { seed, step: last as u32, first_item: k * BATCH as u32, ..StepWords::default() };
        let batch = batch_at(&self.pictures, BATCH, seed, AugmentOptions::default(), k.into());
        self.store.write(&self.latent.x, &batch.images)?;
        let start = Instant::now();
        let row = self.schedule.two_noise_row(last, target);
        let (probe, table) = match estimator {
            Estimator::One => {
                let TwoNoiseRow { weight, time, .. } = row;
                let row =
                    NoisingRow { signal, sigma: noise, target_noise: 1.0, target_data: 0.0, weight, time };
                (&self.one, row.words().to_vec())
            }
            Estimator::Two => (&self.two, row.words().to_vec()),
            Estimator::Path => {
                for i in 0..last {
                    let step = self.schedule.step(i, i.checked_sub(1));
                    let forwards = Coefficients {
                        range: 1.0,
                        c_x: step.alpha.sqrt(),
                        c_z: step.beta.sqrt(),
                        ..Coefficients::default()
                    };
                    words.step = i as u32;
                    self.walk.run(&forwards, &words).block_on()?;
                }
                words.step = last as u32;
                self.store.device().idle().block_on()?;
                // What was walked to is x_{t-1}.
                let row = TwoNoiseRow { signal_prev: 1.0, sigma_prev: 0.0, ..row };
                (&self.two, row.words().to_vec())
            }
        };

        let walking = 1e3 * start.elapsed().as_secs_f64();

        // 2. Loss and gradient.
        let run = &probe.executable;
        run.write(probe.table, &table);
        run.write_u32(probe.step, &words.words());
        if let Some(labels) = probe.labels {
            run.write_u32(labels, &batch.labels);
        }
        run.run().block_on()?;
        let mut gradient = Vec::new();
        for &value in &probe.gradients {
            gradient.extend(run.read(value).block_on()?.into_iter().map(f64::from));
        }
        let [x_t, target, answer] = [
            run.read(probe.read[0]).block_on()?,
            run.read(probe.read[1]).block_on()?,
            run.read(probe.read[2]).block_on()?,
        ];
        let mut products = [0.0; 2];
        for (i, (&x, &g)) in x_t.iter().zip(&answer).enumerate() {
            let merged = (f64::from(x) - signal * f64::from(batch.images[i])) / noise;
            // The table's target is (s/b) ε_{t-1}; of a single noise it is ε̄ itself.
            products[0] += f64::from(g) * share * f64::from(target[i]) / x_t.len() as f64;
            products[1] += f64::from(g) * merged / x_t.len() as f64;
        }
        Ok(Estimate { loss: run.read(probe.loss).block_on()?[0].into(), gradient, products, walking })
    }
}

/// A number and its standard error.
#[derive(Clone, Copy, Debug)]
struct Measured {
    value: f64,
    error: f64,
}

impl Measured {
    /// The mean of independent values.
    fn mean(values: impl ExactSizeIterator<Item = f64> + Clone) -> Self {
        let n = values.len() as f64;
        let value = values.clone().sum::<f64>() / n;
        let variance = values.map(|x| (x - value).powi(2)).sum::<f64>() / (n - 1.0);
        Self { value, error: (variance / n).sqrt() }
    }

    /// The variance of independent vectors, summed over their components. Its error is that of a mean of squared
    /// distances.
    fn variance(vectors: &[Vec<f64>]) -> Self {
        let n = vectors.len() as f64;
        let mean = |i: usize| vectors.iter().map(|v| v[i]).sum::<f64>() / n;
        let centre: Vec<f64> = (0..vectors[0].len()).map(mean).collect();
        let distance = |v: &Vec<f64>| v.iter().zip(&centre).map(|(x, c)| (x - c).powi(2)).sum::<f64>();
        let distances: Vec<f64> = vectors.iter().map(distance).collect();
        let Self { value, error } = Self::mean(distances.iter().copied());
        Self { value: value * n / (n - 1.0), error }
    }

    /// The difference, in standard errors, from a number that is expected of this one.
    fn deviation(self, expected: f64) -> f64 {
        ((self.value - expected) / self.error).abs()
    }

    fn minus(self, other: Self) -> Self {
        Self { value: self.value - other.value, error: self.error.hypot(other.error) }
    }

    /// The ratio, by its logarithm's error.
    fn over(self, other: Self) -> Self {
        let value = self.value / other.value;
        Self { value, error: value * (self.error / self.value).hypot(other.error / other.value) }
    }

    fn interval(self) -> [f64; 3] {
        [self.value, self.value - CONFIDENCE * self.error, self.value + CONFIDENCE * self.error]
    }
}

/// What the estimates of one estimator at one t say.
struct Summary {
    loss: Measured,
    loss_variance: Measured,
    gradient_variance: Measured,
    /// Mean of the gradient along fixed directions.
    projections: Vec<Measured>,
    products: Vec<[f64; 2]>,
    /// Of one estimate, and of that for the steps before the last.
    milliseconds: [f64; 2],
}

fn summarise(bench: &Bench, estimator: Estimator, t: usize) -> Result<Summary, LabError> {
    // What is compiled at the first run is not the estimator's.
    bench.estimate(estimator, t, 0)?;
    let start = Instant::now();
    let estimates =
        (0..ESTIMATES).map(|k| bench.estimate(estimator, t, k)).collect::<Result<Vec<Estimate>, _>>()?;
    let milliseconds = 1e3 * start.elapsed().as_secs_f64() / f64::from(ESTIMATES);
    let walking = estimates.iter().map(|e| e.walking).sum::<f64>() / f64::from(ESTIMATES);
    let losses: Vec<Vec<f64>> = estimates.iter().map(|e| vec![e.loss]).collect();
    let gradients: Vec<Vec<f64>> = estimates.iter().map(|e| e.gradient.clone()).collect();
    let length = gradients[0].len();
    let project = |direction: u32| {
        let mut signs = Philox::new(bench.seed, Stream::Cases, direction);
        let signs: Vec<f64> = (0..length).map(|_| if signs.bits() & 1 == 0 { 1.0 } else { -1.0 }).collect();
        let along = |g: &Vec<f64>| g.iter().zip(&signs).map(|(g, s)| g * s).sum::<f64>();
        Measured::mean(gradients.iter().map(along).collect::<Vec<f64>>().into_iter())
    };
    Ok(Summary {
        loss: Measured::mean(estimates.iter().map(|e| e.loss)),
        loss_variance: Measured::variance(&losses),
        gradient_variance: Measured::variance(&gradients),
        projections: (0..DIRECTIONS).map(project).collect(),
        products: estimates.iter().map(|e| e.products).collect(),
        milliseconds: [milliseconds, walking],
    })
}

/// The largest deviation of two summaries' mean gradients from each other.
fn gradient_deviation(a: &Summary, b: &Summary) -> f64 {
    a.projections.iter().zip(&b.projections).map(|(a, b)| a.minus(*b).deviation(0.0)).fold(0.0, f64::max)
}

fn series(name: &str, points: Vec<(f64, f64)>, colour: usize, stroke: Stroke) -> Series {
    Series { name: name.into(), points, colour, stroke }
}

/// Runs the experiment.
fn run(lab: &Lab, findings: &mut Findings) -> Result<(), LabError> {
    // 1. The built-in model, new pictures, and the three ways to an estimate.
    let Model { unet, weights, scheduler, .. } = built_in_model()?;
    let (height, width) = unet.config.sample_size.get();
    let channels = unet.config.in_channels;
    let pictures =
        glyphs::dataset(&Options { size: (height, width), channels, seed: !lab.seed, glyph_count: 2000 })?;
    let latent = Latent::new(&Shape::new([BATCH, height, width, channels]));
    let state = unet.parameters.state("weights");
    let store = Store::new(&lab.device);
    store.write(&state, &weights)?;
    let (walk, ()) =
        LatentStepper::new(&store, &latent, None, |graph, _| Ok((latent.no_answer(graph), ()))).block_on()?;
    let bench = Bench {
        schedule: NoiseSchedule::of(&scheduler),
        pictures,
        seed: lab.seed,
        one: Probe::new(&store, &unet, &state, &latent, false)?,
        two: Probe::new(&store, &unet, &state, &latent, true)?,
        latent,
        walk,
        store: store.clone(),
    };

    // 2. Value and gradient at every t.
    let mut rows = Vec::new();
    let (mut same_law, mut constant, mut optimum): (f64, f64, f64) = (0.0, 0.0, 0.0);
    let mut path_ratio = Vec::new();
    let [mut of_path, mut of_two, mut of_one] = [Vec::new(), Vec::new(), Vec::new()];
    let [mut ratios, mut low, mut high, mut white] = [Vec::new(), Vec::new(), Vec::new(), Vec::new()];
    let [mut fitted, mut theory] = [Vec::new(), Vec::new()];
    for t in TIMES {
        (lab.progress)(&format!("t = {t}"));
        let share = bench.schedule.last_noise_share(t - 1);
        let one = summarise(&bench, Estimator::One, t)?;
        let two = summarise(&bench, Estimator::Two, t)?;
        let path = (t > 1 && t <= LONGEST_PATH).then(|| summarise(&bench, Estimator::Path, t)).transpose()?;
        let x = t as f64;

        // The same joint law of x_t and ε_{t-1}, so the same everything.
        if let Some(path) = &path {
            let ratio = path.gradient_variance.over(two.gradient_variance);
            for deviation in [
                path.loss.minus(two.loss).deviation(0.0),
                path.loss_variance.minus(two.loss_variance).deviation(0.0),
                ratio.deviation(1.0),
                gradient_deviation(path, &two),
            ] {
                same_law = same_law.max(deviation);
            }
            path_ratio.push(ratio);
            of_path.push((x, path.gradient_variance.value));
        }
        // One noise less costs the loss a constant, the variance of ε_{t-1} given x_0 and x_t.
        let gap = two.loss.minus(one.loss);
        let expected_gap = 1.0 - share * share;
        constant = constant.max(gap.deviation(expected_gap));
        // For any function g of x_t, E g ε_{t-1} = (b/s) E g ε̄; here g is what the network answers.
        let excess = Measured::mean(two.products.iter().map(|[last, all]| last - share * all));
        if t > 1 {
            optimum = optimum.max(excess.deviation(0.0));
        }
        let all = Measured::mean(two.products.iter().map(|[_, all]| *all)).value;
        let slope = Measured { value: share + excess.value / all, error: excess.error / all.abs() };
        fitted.push((x, slope.value));
        theory.push((x, share));

        of_two.push((x, two.gradient_variance.value));
        of_one.push((x, one.gradient_variance.value));
        let ratio = two.gradient_variance.over(one.gradient_variance);
        let [middle, bottom, top] = ratio.interval();
        ratios.push((x, middle));
        low.push((x, bottom.max(0.01 * middle)));
        high.push((x, top));
        // What is left of the target's noise, against what the network leaves of ε̄.
        let predicted = 1.0 + (share.powi(-2) - 1.0) / (one.loss.value / (share * share));
        white.push((x, predicted));
        rows.push(json!({
            "t": t,
            "last_noise_share": share,
            "slope_of_last_noise": slope.interval(),
            "loss": {
                "path": path.as_ref().map(|s| s.loss.interval()),
                "two": two.loss.interval(),
                "one": one.loss.interval(),
                "two_minus_one": gap.interval(),
                "expected_difference": expected_gap,
            },
            "loss_variance": {
                "path": path.as_ref().map(|s| s.loss_variance.interval()),
                "two": two.loss_variance.interval(),
                "one": one.loss_variance.interval(),
            },
            "gradient_variance": {
                "path": path.as_ref().map(|s| s.gradient_variance.interval()),
                "two": two.gradient_variance.interval(),
                "one": one.gradient_variance.interval(),
                "two_over_one": ratio.interval(),
                "two_over_one_if_white": predicted,
            },
            "draws_per_pixel": { "path": t, "two": 2, "one": 1 },
            "milliseconds": {
                "path": path.as_ref().map(|s| s.milliseconds[0]),
                "of_that_walking": path.as_ref().map(|s| s.milliseconds[1]),
                "two": two.milliseconds[0],
                "one": one.milliseconds[0],
            },
        }));
    }

    // 3. The mean of the gradient, where it is not near zero.
    store.write(&state, &unet.parameters.initial(lab.seed))?;
    let (mut same_mean, mut resolved): (f64, f64) = (0.0, f64::INFINITY);
    for t in UNTRAINED_TIMES {
        (lab.progress)(&format!("t = {t}, untrained"));
        let [path, two, one] =
            [Estimator::Path, Estimator::Two, Estimator::One].map(|e| summarise(&bench, e, t));
        let (path, two, one) = (path?, two?, one?);
        same_mean = same_mean.max(gradient_deviation(&two, &one)).max(gradient_deviation(&path, &one));
        for summary in [&two, &one] {
            let largest = summary.projections.iter().map(|p| p.deviation(0.0)).fold(0.0, f64::max);
            resolved = resolved.min(largest);
        }
    }

    // 4. Numbers, verdicts, charts.
    let log_mean = |ratios: &[Measured]| {
        let n = ratios.len() as f64;
        let value = (ratios.iter().map(|r| r.value.ln()).sum::<f64>() / n).exp();
        let error = ratios.iter().map(|r| (r.error / r.value).powi(2)).sum::<f64>().sqrt() / n;
        Measured { value, error: value * error }
    };
    let path_over_two = log_mean(&path_ratio);
    let at = |points: &[(f64, f64)], t: usize| {
        points.iter().find(|(x, _)| *x == t as f64).map_or(f64::NAN, |(_, y)| *y)
    };
    let largest = ratios.iter().copied().fold((0.0, 0.0), |a, b| if b.1 > a.1 { b } else { a });
    findings.number("estimates", ESTIMATES);
    findings.number("pictures_per_estimate", BATCH);
    findings.number("rows", rows);
    findings.number("path_over_two_gradient_variance", path_over_two.value);
    findings.number("two_over_one_gradient_variance_at_t_2", at(&ratios, 2));
    findings.number("two_over_one_gradient_variance_at_t_300", at(&ratios, 300));
    findings.number("two_over_one_gradient_variance_largest", largest.1);
    findings.number("two_over_one_gradient_variance_largest_at_t", largest.0);
    findings.number("two_over_one_gradient_variance_at_t_1000", at(&ratios, 1000));
    findings.verdict(
        "whole path and two noises agree in loss, gradient and both variances (largest difference, standard errors)",
        same_law,
        Expected::AtMost(CHANCE),
    );
    findings.verdict(
        "two draws instead of t do not lessen the variance of the gradient (whole path / two noises)",
        path_over_two.value,
        Expected::About(1.0, 3.0 * path_over_two.error),
    );
    findings.verdict(
        "the third estimator's loss is lower by 1 - b²/(1 - ā²) (largest difference from it, standard errors)",
        constant,
        Expected::AtMost(CHANCE),
    );
    findings.verdict(
        "all three have the same expected gradient, at weights that have learned nothing (standard errors)",
        same_mean,
        Expected::AtMost(CHANCE),
    );
    findings.verdict(
        "that gradient is told from zero (smallest over the estimators, standard errors)",
        resolved,
        Expected::AtLeast(2.0 * CHANCE),
    );
    findings.verdict(
        "the last noise is b/√(1 - ā²) times the merged noise, as the network can tell it (standard errors)",
        optimum,
        Expected::AtMost(CHANCE),
    );
    findings.verdict(
        "integrating the last noise out lessens the variance of the gradient at t = 300 (two noises / one)",
        at(&ratios, 300),
        Expected::AtLeast(10.0),
    );
    let chart = |title: &str, y_label: &str, series| Chart {
        title: title.into(),
        x_label: "t".into(),
        y_label: y_label.into(),
        log_x: true,
        log_y: true,
        series,
    };
    findings.chart(
        "gradient-variance",
        &chart(
            "Variance of the gradient, by estimator",
            "summed over the weights of conv_out",
            vec![
                series("one noise", of_one, 0, Stroke::Thick),
                series("two noises", of_two, 1, Stroke::Thick),
                series("whole path", of_path, 2, Stroke::Thick),
            ],
        ),
    )?;
    findings.chart(
        "ratio",
        &chart(
            "By how much integrating the last noise out lessens the variance",
            "variance with two noises / with one",
            vec![
                series("measured", ratios, 0, Stroke::Thick),
                series("", low, 0, Stroke::Thin),
                series("", high, 0, Stroke::Thin),
                series("if the network's errors were white", white, 1, Stroke::Thick),
            ],
        ),
    )?;
    findings.chart(
        "share",
        &chart(
            "The last noise in units of all noise, as x_t tells it",
            "slope",
            vec![
                series("b / √(1 - ā²)", theory, 1, Stroke::Thick),
                series("measured", fitted, 0, Stroke::Thick),
            ],
        ),
    )
}
