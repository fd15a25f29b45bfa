//! What a network could answer at best without being told the noise, exactly: for data that are a finite set of pictures
//! the posteriors of picture and noise level are sums.

use super::training::in_turn;
use super::{Expected, Findings, Lab, LabError};
use crate::data::{Dataset, Options};
use crate::diffusion::{NoiseLevel, NoiseSchedule, Prediction, ScheduleKind};
use crate::io::{Chart, Series, Stroke, save_rows};
use crate::ops::Coefficients;
use crate::rng::{Philox, Stream};

/// Levels of a schedule.
const TIMESTEPS: usize = 1000;
/// Pictures of each class in the finite set.
const OF_EACH: usize = 20;
/// Noisy pictures that the mean deviation is taken over.
const DRAWS: usize = 48;
/// Noisy pictures that the mean error for not being told is taken over. One error is about the square of a normal number,
/// so that this mean is off by √(2/300) = 8 %; of 48 it would be 20 %.
const EXCESS_DRAWS: usize = 300;
/// Side of the largest pictures, and of the squares that they are averaged over for smaller ones.
const SIDE: usize = 32;
const POOLS: [usize; 6] = [32, 16, 8, 4, 2, 1];
/// Pictures drawn with the best answers, those shown, and the steps that each takes.
const SAMPLES: usize = 60;
const SHOWN: usize = 12;
const STEPS: usize = 50;
/// σ of the levels at which answers are compared.
const SIGMAS: [f64; 9] = [0.1, 0.2, 0.5, 1.0, 3.0, 10.0, 30.0, 80.0, 150.0];

/// Pictures, each as likely as another, under the noise of a schedule, each of whose levels is as likely as another: what a
/// network is trained on that sees so many pictures for ever.
struct Exact<'a> {
    pictures: &'a [Vec<f64>],
    prediction: Prediction,
    /// In the units of what the network is given.
    levels: Vec<NoiseLevel>,
    /// (share of ε, share of x_0) in the target of each.
    targets: Vec<(f64, f64)>,
    /// x_0 from x and the answer at each, and what x is multiplied by there before the network is given it.
    estimates: Vec<Coefficients>,
    scales: Vec<f64>,
}

/// Numbers that are these but for a factor with the given logarithms and have the sum 1; and the logarithm of the sum.
fn normalised(logs: &mut [f64]) -> f64 {
    let largest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    logs.iter_mut().for_each(|l| *l = (*l - largest).exp());
    let sum: f64 = logs.iter().sum();
    logs.iter_mut().for_each(|l| *l /= sum);
    largest + sum.ln()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

impl<'a> Exact<'a> {
    fn new(pictures: &'a [Vec<f64>], kind: ScheduleKind, prediction: Prediction) -> Self {
        let schedule = NoiseSchedule::new(kind, TIMESTEPS);
        let (mut levels, mut targets, mut estimates, mut scales) = (vec![], vec![], vec![], vec![]);
        // The last of flow matching has no σ.
        for level in (0..TIMESTEPS).map(|t| schedule.level(Some(t))).filter(|level| level.signal > 0.0) {
            let scale = level.input_scale(prediction);
            levels.push(NoiseLevel { signal: scale * level.signal, noise: scale * level.noise });
            targets.push(level.target(prediction));
            estimates.push(level.x_0(prediction));
            scales.push(scale);
        }
        Self { pictures, prediction, levels, targets, estimates, scales }
    }

    /// The level whose σ is nearest.
    fn nearest(&self, sigma: f64) -> usize {
        let distance = |g: usize| (self.levels[g].sigma() / sigma).ln().abs();
        let all = 0..self.levels.len();
        all.min_by(|&a, &b| distance(a).total_cmp(&distance(b))).unwrap_or(0)
    }

    /// A picture of the set under the noise of a level.
    fn draw(&self, level: usize, rng: &mut Philox) -> Vec<f64> {
        let NoiseLevel { signal, noise } = self.levels[level];
        let picture = &self.pictures[rng.below(self.pictures.len())];
        picture.iter().map(|x| signal * x + noise * rng.normal()).collect()
    }

    /// What x says of each picture: its products with x and with itself.
    fn products(&self, x: &[f64]) -> Vec<(f64, f64)> {
        self.pictures.iter().map(|p| (dot(x, p), dot(p, p))).collect()
    }

    /// ln p(x | level) but for a constant, and the share of every picture in it. Bayes' rule: p(x | level, picture) is
    /// normal with mean signal x_0 and deviation noise.
    fn at_level(&self, level: usize, x: &[f64], products: &[(f64, f64)]) -> (f64, Vec<f64>) {
        let (length, NoiseLevel { signal, noise }) = (dot(x, x), self.levels[level]);
        let exponent = |(along, square): &(f64, f64)| {
            -0.5 * (length - 2.0 * signal * along + signal * signal * square) / (noise * noise)
        };
        let mut shares: Vec<f64> = products.iter().map(exponent).collect();
        let evidence = normalised(&mut shares) - x.len() as f64 * noise.ln();
        (evidence, shares)
    }

    /// The share of every level given x, and in each of every picture.
    fn posterior(&self, x: &[f64]) -> (Vec<f64>, Vec<Vec<f64>>) {
        let products = self.products(x);
        let each = (0..self.levels.len()).map(|level| self.at_level(level, x, &products));
        let (mut levels, pictures): (Vec<f64>, Vec<Vec<f64>>) = each.unzip();
        normalised(&mut levels);
        (levels, pictures)
    }

    /// The standard deviation of ln SNR given x.
    fn deviation(&self, x: &[f64]) -> f64 {
        let shares = self.posterior(x).0;
        let mean_of = |f: &dyn Fn(f64) -> f64| {
            shares.iter().zip(&self.levels).map(|(p, level)| p * f(-2.0 * level.sigma().ln())).sum::<f64>()
        };
        let mean = mean_of(&|l| l);
        mean_of(&|l| (l - mean).powi(2)).sqrt()
    }

    /// The best answer at the level that it is conditioned on, or at an unknown one: E[f | x, level] or E[f | x].
    fn answer(&self, x: &[f64], level: Option<usize>) -> Vec<f64> {
        let (mut of_x, mut of_pictures) = (0.0, vec![0.0; self.pictures.len()]);
        // At a level that of ε is (x - signal E x_0) / noise.
        let mut add = |level: usize, share: f64, pictures: &[f64]| {
            let NoiseLevel { signal, noise } = self.levels[level];
            let (of_noise, of_data) = self.targets[level];
            of_x += share * of_noise / noise;
            let each = share * (of_data - of_noise * signal / noise);
            of_pictures.iter_mut().zip(pictures).for_each(|(sum, p)| *sum += each * p);
        };
        match level {
            Some(level) => add(level, 1.0, &self.at_level(level, x, &self.products(x)).1),
            None => {
                let (levels, pictures) = self.posterior(x);
                (0..levels.len()).for_each(|g| add(g, levels[g], &pictures[g]));
            }
        }
        let mut answer: Vec<f64> = x.iter().map(|x| of_x * x).collect();
        for (share, picture) in of_pictures.iter().zip(self.pictures) {
            answer.iter_mut().zip(picture).for_each(|(sum, p)| *sum += share * p);
        }
        answer
    }

    /// The mean square per pixel of what not being told the level does to x_0: gain² ‖E[f | x] - E[f | x, level]‖² / d.
    fn excess(&self, level: usize, x: &[f64]) -> f64 {
        let pairs = self.answer(x, None).into_iter().zip(self.answer(x, Some(level)));
        let square: f64 = pairs.map(|(blind, conditioned)| (blind - conditioned).powi(2)).sum();
        self.estimates[level].p_f.powi(2) * self.estimates[level].k.powi(2) * square / x.len() as f64
    }

    /// A picture drawn along the probability-flow ODE by Euler's method in [`STEPS`] steps, with no clamp.
    fn sample(&self, conditioned: bool, rng: &mut Philox) -> Vec<f64> {
        let at = |i: usize| self.levels.len() * (STEPS - i) / STEPS - 1;
        let mut x: Vec<f64> =
            self.pictures[0].iter().map(|_| self.levels[at(0)].noise * rng.normal()).collect();
        for i in 0..STEPS {
            let level = at(i);
            let f = self.answer(&x, conditioned.then_some(level));
            let (c, scale, now) = (self.estimates[level], self.scales[level], self.levels[level]);
            let next =
                if i + 1 < STEPS { self.levels[at(i + 1)] } else { NoiseLevel { signal: 1.0, noise: 0.0 } };
            let kept = next.noise / now.noise;
            for (x, f) in x.iter_mut().zip(f) {
                let x_0 = c.k * (c.p_x * *x / scale + c.p_f * f);
                *x = kept * *x + (next.signal - kept * now.signal) * x_0;
            }
        }
        x
    }

    /// The root mean square per pixel of a picture's difference from the nearest of the set.
    fn distance(&self, x: &[f64]) -> f64 {
        let square = |p: &Vec<f64>| p.iter().zip(x).map(|(p, x)| (p - x).powi(2)).sum::<f64>();
        let nearest = self.pictures.iter().map(square).fold(f64::INFINITY, f64::min);
        (nearest / x.len() as f64).sqrt()
    }

    /// [`Self::excess`] by the formulas of `docs/lab/blind.md`, which hold where x tells the picture and no end of the
    /// schedule is near.
    fn expected_excess(&self, level: usize, mean_square: f64) -> f64 {
        let (m, d) = (mean_square, self.pictures[0].len() as f64);
        let sigma = self.levels[level].sigma();
        let (t, precision) = (sigma / (1.0 + sigma), sigma.powi(-2));
        match self.prediction {
            Prediction::Epsilon => sigma * sigma * (m + precision) / (d * (m + 2.0 * precision)),
            Prediction::VPrediction => 1.0 / (d * (m + 2.0 * precision)),
            Prediction::Flow => t * t * (1.0 + m) / (d * (2.0 + m)),
            // There is no formula, and a verdict on this one fails.
            Prediction::Sample | Prediction::Edm => f64::NAN,
        }
    }
}

/// Pictures averaged over squares of side `pool`.
fn pooled(pictures: &[Vec<f32>], width: usize, pool: usize) -> Vec<Vec<f64>> {
    let small = width / pool;
    let of_one = |picture: &Vec<f32>| {
        let mut sums = vec![0.0; small * small];
        for (i, &x) in picture.iter().enumerate() {
            sums[i / width / pool * small + i % width / pool] += f64::from(x) / (pool * pool) as f64;
        }
        sums
    };
    pictures.iter().map(of_one).collect()
}

fn mean_square(pictures: &[Vec<f64>]) -> f64 {
    pictures.iter().map(|p| dot(p, p) / p.len() as f64).sum::<f64>() / pictures.len() as f64
}

/// How well x tells its noise, by the number of its pixels.
fn narrowing(lab: &Lab, findings: &mut Findings) -> Result<(), LabError> {
    let options = Options { size: (SIDE, SIDE), channels: 1, seed: lab.seed, glyph_count: 1000 };
    let glyphs = in_turn(&Dataset::open("builtin:glyphs", &options)?, OF_EACH);
    let mut chart = Chart {
        title: "How well a noisy picture tells its noise, at SNR = 1".into(),
        x_label: "pixels d".into(),
        y_label: "standard deviation of ln SNR given x".into(),
        log_x: true,
        log_y: true,
        series: Vec::new(),
    };
    let sets: Vec<Vec<Vec<f64>>> = POOLS.iter().map(|&pool| pooled(&glyphs, SIDE, pool)).collect();
    let formula = |set: &Vec<Vec<f64>>| {
        let d = set[0].len() as f64;
        (d, 4.0 / (d * (2.0 + mean_square(set))).sqrt())
    };
    let expected: Vec<(f64, f64)> = sets.iter().map(formula).collect();
    for (colour, (name, kind, prediction)) in [
        ("signal² + noise² = 1, linear β", ScheduleKind::Linear, Prediction::Epsilon),
        ("flow matching", ScheduleKind::Flow, Prediction::Flow),
    ]
    .into_iter()
    .enumerate()
    {
        let mut points = Vec::new();
        for set in &sets {
            let exact = Exact::new(set, kind, prediction);
            let level = exact.nearest(1.0);
            let mut rng = Philox::new(lab.seed, Stream::Cases, 0);
            let sum: f64 = (0..DRAWS).map(|_| exact.deviation(&exact.draw(level, &mut rng))).sum();
            points.push((set[0].len() as f64, sum / DRAWS as f64));
            (lab.progress)(&format!("{name}, {} pixels: {:.4}", set[0].len(), sum / DRAWS as f64));
        }
        let last = points.len() - 1;
        findings.verdict(
            format!(
                "{name}: deviation of ln SNR given x at {} pixels, over 4 / √((2 + m) d)",
                points[last].0
            ),
            points[last].1 / expected[last].1,
            Expected::About(1.0, 0.1),
        );
        findings.verdict(
            format!("{name}: the same at {} pixels over that at {}", points[last].0, points[last - 1].0),
            points[last].1 / points[last - 1].1,
            Expected::About(0.5, 0.05),
        );
        findings.number(&format!("deviation of ln SNR by pixels: {name}"), &points);
        chart.series.push(Series { name: name.into(), points, colour, stroke: Stroke::Thick });
    }
    chart.series.push(Series {
        name: "4 / √((2 + m) d)".into(),
        points: expected,
        colour: 2,
        stroke: Stroke::Thin,
    });
    findings.chart("posterior", &chart)
}

/// What not being told costs the best answer, by what is asked for.
fn amplification(lab: &Lab, findings: &mut Findings, pictures: &[Vec<f64>]) -> Result<(), LabError> {
    let mut chart = Chart {
        title: "Error of x_0 that the best answer has for not being told the noise".into(),
        x_label: "σ = noise / signal".into(),
        y_label: "mean square per pixel; thin: the formulas".into(),
        log_x: true,
        log_y: true,
        series: Vec::new(),
    };
    let m = mean_square(pictures);
    findings.number("mean square of a pixel", m);
    let mut at_the_end = Vec::new();
    let mut largest = Vec::new();
    for (colour, (name, kind, prediction)) in [
        ("ε", ScheduleKind::Linear, Prediction::Epsilon),
        ("v", ScheduleKind::Linear, Prediction::VPrediction),
        ("flow velocity", ScheduleKind::Flow, Prediction::Flow),
    ]
    .into_iter()
    .enumerate()
    {
        let exact = Exact::new(pictures, kind, prediction);
        let (mut points, mut formula) = (Vec::new(), Vec::new());
        for sigma in SIGMAS {
            let level = exact.nearest(sigma);
            let mut rng = Philox::new(lab.seed, Stream::Cases, 0);
            let sum: f64 = (0..EXCESS_DRAWS).map(|_| exact.excess(level, &exact.draw(level, &mut rng))).sum();
            let sigma = exact.levels[level].sigma();
            points.push((sigma, sum / EXCESS_DRAWS as f64));
            formula.push((sigma, exact.expected_excess(level, m)));
        }
        (lab.progress)(&format!("best answers, {name}: {:.4} at the end", points[points.len() - 1].1));
        // At σ = 1 x tells the picture and both ends are far.
        let at_one = SIGMAS.iter().position(|&s| s == 1.0).unwrap_or(0);
        findings.verdict(
            format!("best answer, {name}: error of x_0 for not being told at σ = 1, over the formula"),
            points[at_one].1 / formula[at_one].1,
            Expected::About(1.0, 0.3),
        );
        at_the_end.push(points[points.len() - 1].1);
        largest.push(points.iter().map(|p| p.1).fold(0.0, f64::max));
        findings.number(&format!("excess of the best blind answer: {name}"), &points);
        chart.series.push(Series { points: formula, colour, stroke: Stroke::Thin, ..Series::default() });
        chart.series.push(Series { name: name.into(), points, colour, stroke: Stroke::Thick });
    }
    findings.verdict(
        "best answer, ε: error of x_0 for not being told at σ = 150, over the mean square of a pixel",
        at_the_end[0] / m,
        Expected::AtLeast(1.0),
    );
    for (name, largest) in [("v", largest[1]), ("flow velocity", largest[2])] {
        findings.verdict(
            format!("best answer, {name}: the largest such error at any σ, over the mean square of a pixel"),
            largest / m,
            Expected::AtMost(0.1),
        );
    }
    findings.chart("amplification", &chart)
}

/// What the best answers draw, told and not: in f64, without a network and its errors.
fn samples(lab: &Lab, findings: &mut Findings, pictures: &[Vec<f64>], width: usize) -> Result<(), LabError> {
    let mut rows = Vec::new();
    let mut distances = Vec::new();
    for (name, kind, prediction, conditioned) in [
        ("ε, told", ScheduleKind::Linear, Prediction::Epsilon, true),
        ("ε, blind", ScheduleKind::Linear, Prediction::Epsilon, false),
        ("v, blind", ScheduleKind::Linear, Prediction::VPrediction, false),
        ("flow velocity, blind", ScheduleKind::Flow, Prediction::Flow, false),
    ] {
        let exact = Exact::new(pictures, kind, prediction);
        let mut rng = Philox::new(lab.seed, Stream::Cases, 1);
        let drawn: Vec<Vec<f64>> = (0..SAMPLES).map(|_| exact.sample(conditioned, &mut rng)).collect();
        let distance = drawn.iter().map(|x| exact.distance(x)).sum::<f64>() / SAMPLES as f64;
        (lab.progress)(&format!("best answers, {name}: {distance:.4} from the nearest picture"));
        findings.number(&format!("distance of the best answer's pictures from the set: {name}"), distance);
        distances.push(distance);
        let shown = drawn.iter().take(SHOWN).flatten().map(|&x| x as f32);
        rows.push((format!("best answer, {name}"), shown.collect()));
    }
    let ode = format!("ODE in {STEPS} steps by the best answers");
    findings.verdict(
        format!("{ode}, ε, told: distance of a picture from the nearest of the set, per pixel"),
        distances[0],
        Expected::AtMost(0.01),
    );
    for (name, distance) in [("v", distances[2]), ("flow velocity", distances[3])] {
        findings.verdict(format!("{ode}, {name}, blind: that distance"), distance, Expected::AtMost(0.1));
        findings.verdict(
            format!("{ode}, ε, blind: that distance over that of {name}, blind"),
            distances[1] / distance,
            Expected::AtLeast(1.5),
        );
    }
    Ok(save_rows(&findings.file("exact.png"), &rows, pictures[0].len() / width, width, 1, 48)?)
}

/// All of it, the last two on the pictures that networks are trained on.
pub(super) fn show(lab: &Lab, findings: &mut Findings, data: &Dataset, width: usize) -> Result<(), LabError> {
    narrowing(lab, findings)?;
    let pictures = pooled(&in_turn(data, OF_EACH), width, 1);
    amplification(lab, findings, &pictures)?;
    samples(lab, findings, &pictures, width)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two pictures of one pixel: against sums written out by hand.
    #[test]
    fn the_posterior_is_that_of_bayes() {
        let set = vec![vec![1.0], vec![-0.5]];
        let exact = Exact::new(&set, ScheduleKind::Linear, Prediction::Epsilon);
        let x = 0.3;
        let density = |g: usize, picture: f64| {
            let NoiseLevel { signal, noise } = exact.levels[g];
            (-0.5 * ((x - signal * picture) / noise).powi(2)).exp() / noise
        };
        let total: f64 = (0..TIMESTEPS).map(|g| density(g, 1.0) + density(g, -0.5)).sum();
        let (levels, pictures) = exact.posterior(&[x]);
        for g in [0, 10, 300, 999] {
            let of_level = density(g, 1.0) + density(g, -0.5);
            assert!((levels[g] - of_level / total).abs() < 1e-12, "{g}");
            if of_level > 0.0 {
                assert!((pictures[g][0] - density(g, 1.0) / of_level).abs() < 1e-12, "{g}");
            }
        }
        // The answer that is expected, and what it lacks against the one that is told.
        let answer = |g: usize| {
            let NoiseLevel { signal, noise } = exact.levels[g];
            let (a, b) = (density(g, 1.0), density(g, -0.5));
            if a + b > 0.0 { (x - signal * (a - 0.5 * b) / (a + b)) / noise } else { 0.0 }
        };
        let blind: f64 =
            (0..TIMESTEPS).map(|g| (density(g, 1.0) + density(g, -0.5)) / total * answer(g)).sum();
        let level = 500;
        let expected = (exact.levels[level].sigma() * (blind - answer(level))).powi(2);
        assert!((exact.excess(level, &[x]) / expected - 1.0).abs() < 1e-9);
    }

    /// With one level there is nothing to be told.
    #[test]
    fn a_single_level_costs_nothing() {
        let set = vec![vec![1.0, 0.2], vec![-0.5, 0.1]];
        let mut exact = Exact::new(&set, ScheduleKind::Flow, Prediction::Flow);
        exact.levels = vec![exact.levels[400]];
        (exact.targets, exact.estimates) = (vec![exact.targets[400]], vec![exact.estimates[400]]);
        assert!(exact.excess(0, &[0.3, 0.4]) < 1e-20 && exact.deviation(&[0.3, 0.4]) < 1e-7);
    }

    #[test]
    fn pooling_averages_squares() {
        let pictures: [Vec<f32>; 1] = [(0..16u8).map(f32::from).collect()];
        assert_eq!(pooled(&pictures, 4, 2), [[2.5, 4.5, 10.5, 12.5]]);
        assert_eq!(pooled(&pictures, 4, 4), [[7.5]]);
    }
}
