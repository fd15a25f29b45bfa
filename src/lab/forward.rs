//! The forward process: a thousand small steps, and one jump to the same place.

use super::statistics::{
    chi_squared_score, ks_distance, ks_distance_to_normal, ks_limit, sorted, two_sided_limit,
};
use super::{Expected, Experiment, Findings, Lab, LabError};
use crate::data::{Dataset, Options, to_unit};
use crate::diffusion::{NoiseLevel, NoiseSchedule, ScheduleKind};
use crate::gpu::{Blocking as _, Device, Store};
use crate::io::{Chart, Series, Stroke, save_rows};
use crate::ops::{Coefficients, StepWords};
use crate::sample::{Latent, LatentStepper};
use crate::tensor::Shape;
use std::sync::Arc;

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "forward",
    title: "A drop of ink spreads: a thousand small steps are one jump",
    see: "forward_strip.png: glyphs dissolve in noise, by single steps and by jumps, which differ in their noise and \
          in nothing else. forward_moments.png and forward_histogram.png: dots (jumps) lie on lines (steps); at \
          t = 1000 nothing is left but the bell curve.",
    equation: "x_{t+1} = a_t x_t + b_t ε_t, a_t² + b_t² = 1   =>   x_{t+1} = ā_t x_0 + √(1 - ā_t²) ε, ā_t = a_0 … a_t   \
               (the article, \"Adding noise\"; DDPM, eq. 2 and 4)",
    shaders: &["denoise.wgsl", "lib/normal.wgsl", "lib/philox.wgsl"],
    minutes: 2,
    run,
};

/// Steps T.
const STEPS: u32 = 1000;
/// The t at which both ways are compared, as steps done: x_t, where the article's index is t - 1.
const TESTED: [u32; 18] =
    [1, 10, 25, 50, 100, 150, 200, 250, 300, 350, 400, 450, 500, 600, 700, 800, 900, STEPS];
/// The t of the strip and those of the histogram.
const SHOWN: [u32; 9] = [0, 10, 50, 100, 200, 300, 400, 600, STEPS];
const HISTOGRAMS: [u32; 4] = [50, 150, 300, STEPS];
/// Side of the pictures.
const SIDE: usize = 16;
/// The classes drawn: mouth, sun, mountain, tree, which have the most ink.
const CLASSES: [usize; 4] = [6, 7, 8, 9];
/// Copies of each picture: a share of x_0 is then known to 1 / √(4 · 512 · 256) = 1.4e-3 of the noise.
const COPIES: usize = 512;
/// The chance that any of the statistical verdicts fails although nothing is wrong: one seed in a thousand. Each test
/// gets its part of it (Bonferroni).
const FALSE_ALARM: f64 = 1e-3;

/// The denoising kernel by itself on a batch of pictures, without a network.
pub(super) struct Kernel {
    stepper: LatentStepper,
    latent: Latent,
    store: Arc<Store>,
}

impl Kernel {
    pub(super) fn new(device: &Arc<Device>, shape: [usize; 4]) -> Result<Self, LabError> {
        let store = Store::new(device);
        let latent = Latent::new(&Shape::new(shape));
        let (stepper, ()) =
            LatentStepper::new(&store, &latent, None, |graph, _| Ok((latent.no_answer(graph), ())))
                .block_on()?;
        Ok(Self { stepper, latent, store })
    }

    pub(super) fn set(&self, x: &[f32]) -> Result<(), LabError> {
        Ok(self.store.write(&self.latent.x, x)?)
    }

    /// One update in place, with noise number `step`.
    pub(super) fn apply(&self, coefficients: &Coefficients, seed: u64, step: u32) -> Result<(), LabError> {
        Ok(self.stepper.run(coefficients, &StepWords { seed, step, ..StepWords::default() }).block_on()?)
    }

    pub(super) fn get(&self) -> Result<Vec<f32>, LabError> {
        Ok(self.store.read(&self.latent.x).block_on()?)
    }
}

/// What a batch at one t shows.
struct Sample {
    /// The share of x_0, by least squares over the pixels' means.
    share: f64,
    /// The variance about the pixels' means.
    variance: f64,
    /// χ² of the pixels' means about ā x_0, in standard errors.
    mean_score: f64,
    /// Every value, in order.
    sorted: Vec<f32>,
}

impl Sample {
    /// Of copies of `x_0`, picture after picture and copy after copy, at `level`.
    fn new(x: &[f32], x_0: &[f32], level: NoiseLevel) -> Self {
        let pixels = x_0.len();
        let copies = (x.len() / pixels) as f64;
        let mut mean = vec![0.0; pixels];
        for copy in x.chunks_exact(pixels) {
            mean.iter_mut().zip(copy).for_each(|(m, &x)| *m += f64::from(x) / copies);
        }
        let mut squares = 0.0;
        for copy in x.chunks_exact(pixels) {
            squares += copy.iter().zip(&mean).map(|(&x, m)| (f64::from(x) - m).powi(2)).sum::<f64>();
        }
        let pairs = || mean.iter().zip(x_0.iter().map(|&x| f64::from(x)));
        let of_mean: f64 = pairs().map(|(m, x_0)| (m - level.signal * x_0).powi(2)).sum();
        let freedom = pixels as f64;
        Self {
            share: pairs().map(|(m, x_0)| m * x_0).sum::<f64>() / power(x_0),
            variance: squares / (freedom * (copies - 1.0)),
            mean_score: chi_squared_score(of_mean * copies / level.noise.powi(2), freedom),
            sorted: sorted(x),
        }
    }
}

/// Σ x_0².
fn power(x_0: &[f32]) -> f64 {
    x_0.iter().map(|&x| f64::from(x).powi(2)).sum()
}

/// (t, value at t) of every t that was compared.
fn over_time(values: &[f64]) -> Vec<(f64, f64)> {
    TESTED.iter().map(|&t| f64::from(t)).zip(values.iter().copied()).collect()
}

/// Dots: lines of one point, of which the first is named.
fn dots(name: &str, points: &[(f64, f64)], colour: usize) -> impl Iterator<Item = Series> {
    points.iter().enumerate().map(move |(i, &point)| {
        let name = if i == 0 { name.to_string() } else { String::new() };
        Series { name, points: vec![point], stroke: Stroke::Thick, colour }
    })
}

/// (middle, density) of the bins of `width` from -3 to 3 of sorted values.
fn histogram(sorted: &[f32], width: f32) -> Vec<(f64, f64)> {
    let below = |x: f32| sorted.partition_point(|&v| v < x) as f64;
    let edge = |i: u16| -3.0 + f32::from(i) * width;
    let bins = (0u16..).take_while(|&i| edge(i + 1) <= 3.0 + 1e-3);
    let density = |i| (below(edge(i + 1)) - below(edge(i))) / (sorted.len() as f64 * f64::from(width));
    bins.map(|i| (f64::from(edge(i) + 0.5 * width), density(i))).collect()
}

fn run(lab: &Lab, findings: &mut Findings) -> Result<(), LabError> {
    // 1. A few pictures, many times over.
    let options = Options { seed: lab.seed, glyph_count: 10, ..Options::new((SIDE, SIDE), 1) };
    let glyphs = Dataset::open("builtin:glyphs", &options)?;
    let x_0: Vec<f32> = CLASSES.iter().flat_map(|&i| glyphs.image(i)).map(|&byte| to_unit(byte)).collect();
    let start = x_0.repeat(COPIES);
    let kernel = Kernel::new(&lab.device, [CLASSES.len() * COPIES, SIDE, SIDE, 1])?;
    let schedule = NoiseSchedule::new(ScheduleKind::Linear, STEPS as usize);
    let level = |t: u32| schedule.level((t as usize).checked_sub(1));

    // 2. Step by step, and by a jump to each t. Noises 0 to T-1 are the steps', those from T on the jumps'.
    let keep = |x: &[f32], strip: &mut Vec<Vec<f32>>| strip.push(x[..x_0.len()].to_vec());
    let (mut steps, mut jumps) = (Vec::new(), Vec::new());
    let (mut step_strip, mut jump_strip) = (Vec::new(), Vec::new());
    kernel.set(&start)?;
    keep(&start, &mut step_strip);
    for t in 1..=STEPS {
        kernel.apply(&schedule.forward_step(t as usize - 1), lab.seed, t - 1)?;
        if TESTED.contains(&t) || SHOWN.contains(&t) {
            let x = kernel.get()?;
            if SHOWN.contains(&t) {
                keep(&x, &mut step_strip);
            }
            if TESTED.contains(&t) {
                steps.push(Sample::new(&x, &x_0, level(t)));
                (lab.progress)(&format!("step by step to t = {t}"));
            }
        }
    }
    keep(&start, &mut jump_strip);
    for t in (1..=STEPS).filter(|t| TESTED.contains(t) || SHOWN.contains(t)) {
        kernel.set(&start)?;
        kernel.apply(&schedule.jump(t as usize - 1), lab.seed, STEPS + t)?;
        let x = kernel.get()?;
        if SHOWN.contains(&t) {
            keep(&x, &mut jump_strip);
        }
        if TESTED.contains(&t) {
            jumps.push(Sample::new(&x, &x_0, level(t)));
        }
    }
    (lab.progress)("jumped to the same t");

    judge(findings, &schedule, &x_0, &steps, &jumps);
    draw(findings, &steps, &jumps)?;

    // 3. The strip: two pictures, each both ways.
    let picture = SIDE * SIDE;
    let rows: Vec<(String, Vec<f32>)> = [0, 3]
        .into_iter()
        .flat_map(|i| [("steps", &step_strip, i), ("jump", &jump_strip, i)])
        .map(|(name, strip, i)| {
            let of_picture = |x: &Vec<f32>| x[i * picture..(i + 1) * picture].to_vec();
            (name.to_string(), strip.iter().flat_map(of_picture).collect())
        })
        .collect();
    findings.number("strip_t", SHOWN);
    Ok(save_rows(&findings.file("forward_strip.png"), &rows, SIDE, SIDE, 1, 64)?)
}

/// The verdicts, each against what chance allows.
fn judge(findings: &mut Findings, schedule: &NoiseSchedule, x_0: &[f32], steps: &[Sample], jumps: &[Sample]) {
    let values = (x_0.len() * COPIES) as f64;
    // Per t: share, mean and variance of each way, two differences, one distance; and two distances at T.
    let level_of_each = FALSE_ALARM / (TESTED.len() * 9 + 2) as f64;
    let limit = two_sided_limit(level_of_each);
    let two_samples = ks_limit(level_of_each, values, values);
    let one_sample = ks_limit(level_of_each, values, f64::INFINITY);
    let levels: Vec<NoiseLevel> = TESTED.iter().map(|&t| schedule.level(Some(t as usize - 1))).collect();

    let share_error = |level: NoiseLevel| level.noise / (power(x_0) * COPIES as f64).sqrt();
    // Of a variance, relative to it: one mean of each pixel is spent.
    let variance_error = (2.0 / (values - x_0.len() as f64)).sqrt();
    let worst = |score: &dyn Fn(&Sample, &Sample, NoiseLevel) -> f64| {
        let scores = steps.iter().zip(jumps).zip(&levels).map(|((s, j), &l)| score(s, j, l).abs());
        // `max` would pass over a NaN.
        scores.fold(0.0, |worst: f64, x| if x.is_nan() { x } else { worst.max(x) })
    };
    let at_most = Expected::AtMost(limit);

    for (name, way) in [("single steps", 0), ("the jump", 1)] {
        let of = move |s: &Sample, j: &Sample, what: fn(&Sample) -> f64| what(if way == 0 { s } else { j });
        findings.verdict(
            format!("after {name}, every pixel averages ā x_0: χ² at the worst t, in standard errors"),
            worst(&|s, j, _| of(s, j, |x| x.mean_score)),
            at_most,
        );
        findings.verdict(
            format!("after {name}, the share of x_0 is ā: at the worst t, in standard errors"),
            worst(&|s, j, l| (of(s, j, |x| x.share) - l.signal) / share_error(l)),
            at_most,
        );
        findings.verdict(
            format!("after {name}, the variance is 1 - ā²: at the worst t, in standard errors"),
            worst(&|s, j, l| (of(s, j, |x| x.variance) / l.noise.powi(2) - 1.0) / variance_error),
            at_most,
        );
    }
    let both = 2f64.sqrt();
    findings.verdict(
        "both ways have the same share of x_0: difference at the worst t, in standard errors",
        worst(&|s, j, l| (s.share - j.share) / (both * share_error(l))),
        at_most,
    );
    findings.verdict(
        "both ways have the same variance: difference at the worst t, in standard errors",
        worst(&|s, j, _| (s.variance / j.variance).ln() / (both * variance_error)),
        at_most,
    );
    let distances: Vec<f64> =
        steps.iter().zip(jumps).map(|(s, j)| ks_distance(&s.sorted, &j.sorted)).collect();
    findings.verdict(
        format!(
            "both ways have the same pixels: largest Kolmogorov-Smirnov distance, level {level_of_each:.1e}"
        ),
        distances.iter().copied().fold(0.0, f64::max),
        Expected::AtMost(two_samples),
    );

    // At T. What is left of x_0 shifts a value by ā_T at most, and Φ by φ(0) of that.
    let last = levels[levels.len() - 1].signal;
    let shift = last / std::f64::consts::TAU.sqrt();
    let to_normal: Vec<f64> = steps.iter().map(|s| ks_distance_to_normal(&s.sorted)).collect();
    let jump_to_normal = jumps.last().map_or(f64::NAN, |j| ks_distance_to_normal(&j.sorted));
    findings.verdict("ā_T, what is left of x_0 at the end", last, Expected::AtMost(0.01));
    for (name, distance) in [("single steps", to_normal[to_normal.len() - 1]), ("the jump", jump_to_normal)] {
        findings.verdict(
            format!(
                "x_T of {name} is standard normal: Kolmogorov-Smirnov distance, level {level_of_each:.1e}"
            ),
            distance,
            Expected::AtMost(one_sample + shift),
        );
    }
    let early = TESTED.iter().position(|&t| t == 300).map_or(f64::NAN, |i| to_normal[i]);
    findings.verdict(
        "x_300 is not yet standard normal: the same distance, which sees the picture there",
        early,
        Expected::AtLeast(10.0 * (one_sample + shift)),
    );

    findings.number("values_at_each_t", values);
    findings.number("level_of_each_test", level_of_each);
    findings.number("limit_in_standard_errors", limit);
    findings.number("limit_of_kolmogorov_smirnov_two_samples", two_samples);
    findings.number("limit_of_kolmogorov_smirnov_one_sample", one_sample);
    let column = |of: &dyn Fn(&Sample) -> f64, way: &[Sample]| way.iter().map(of).collect::<Vec<_>>();
    findings.number("t", TESTED);
    findings.number("a_bar", levels.iter().map(|l| l.signal).collect::<Vec<_>>());
    findings.number("share_of_x_0_steps", column(&|s| s.share, steps));
    findings.number("share_of_x_0_jump", column(&|s| s.share, jumps));
    findings.number("one_minus_a_bar_squared", levels.iter().map(|l| l.noise.powi(2)).collect::<Vec<_>>());
    findings.number("variance_steps", column(&|s| s.variance, steps));
    findings.number("variance_jump", column(&|s| s.variance, jumps));
    findings.number("score_of_pixel_means_steps", column(&|s| s.mean_score, steps));
    findings.number("score_of_pixel_means_jump", column(&|s| s.mean_score, jumps));
    findings.number("distance_between_the_ways", distances);
    findings.number("distance_to_normal_steps", to_normal);
}

fn draw(findings: &mut Findings, steps: &[Sample], jumps: &[Sample]) -> Result<(), LabError> {
    let mut chart = Chart {
        title: "The picture fades, the noise grows: T steps or one jump".into(),
        x_label: "steps t".into(),
        y_label: "share of x_0; variance".into(),
        ..Chart::default()
    };
    let share: fn(&Sample) -> f64 = |s| s.share;
    let curves = [("share of x_0", share), ("variance", |s| s.variance)];
    for (colour, (name, of)) in curves.into_iter().enumerate() {
        let points = |way: &[Sample]| over_time(&way.iter().map(of).collect::<Vec<_>>());
        let name_of = |way: &str| format!("{name}, {way}");
        let line = Series { name: name_of("steps"), points: points(steps), stroke: Stroke::Thick, colour };
        chart.series.push(line);
        chart.series.extend(dots(&name_of("jump"), &points(jumps), colour + 2));
    }
    findings.chart("forward_moments", &chart)?;

    let mut chart = Chart {
        title: "The values of the pixels: lines by single steps, dots by a jump".into(),
        x_label: "value of a pixel".into(),
        y_label: "density".into(),
        ..Chart::default()
    };
    for (colour, t) in HISTOGRAMS.into_iter().enumerate() {
        let Some(i) = TESTED.iter().position(|&tested| tested == t) else { continue };
        let (name, points) = (format!("t = {t}"), histogram(&steps[i].sorted, 0.1));
        chart.series.push(Series { name, points, stroke: Stroke::Thick, colour });
        chart.series.extend(dots("", &histogram(&jumps[i].sorted, 0.1), colour));
    }
    findings.chart("forward_histogram", &chart)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_of_known_moments() {
        // Two copies of three pixels: means 1.0, 0.0 and -1.0, each ± 0.5.
        let x = [1.5, 0.5, -1.5, 0.5, -0.5, -0.5];
        let level = NoiseLevel { signal: 0.5, noise: 0.5 };
        let sample = Sample::new(&x, &[2.0, 0.0, -2.0], level);
        assert!((sample.share - 0.5).abs() < 1e-12);
        assert!((sample.variance - 0.5).abs() < 1e-12);
        // The means are ā x_0 exactly: χ² is 0, far below what chance gives.
        assert!(sample.mean_score < -3.0);
        assert_eq!(sample.sorted, [-1.5, -0.5, -0.5, 0.5, 0.5, 1.5]);
    }

    #[test]
    fn histograms_hold_every_value_within() {
        let bars = histogram(&[-2.95, 0.01, 0.02, 0.09, 2.95], 0.1);
        assert_eq!(bars.len(), 60);
        assert!((bars.iter().map(|(_, density)| density * 0.1).sum::<f64>() - 1.0).abs() < 1e-6);
        assert!((bars[30].0 - 0.05).abs() < 1e-6 && (bars[30].1 - 6.0).abs() < 1e-4);
    }
}
