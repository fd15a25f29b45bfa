//! How well a noisy picture tells its noise, what the best answer loses without the noise level, and what it draws.

use super::ideal_denoiser::{IdealDenoiser, STEPS};
use crate::data::{Dataset, Options};
use crate::diffusion::{Prediction, ScheduleKind};
use crate::io::{Chart, Series, Stroke, save_rows};
use crate::lab::finite_set::dot;
use crate::lab::training::in_turn;
use crate::lab::{Expected, Findings, Lab, LabError};
use crate::rng::{Philox, Stream};

/// Pictures of each class in the finite set.
const OF_EACH: usize = 20;
/// Noisy pictures that the mean deviation is taken over.
const DRAWS: usize = 48;
/// Noisy pictures that the mean error without the level is taken over. One error is about the square of a normal number,
/// so that this mean is off by √(2/300) = 8 %; of 48 it would be 20 %.
const EXCESS_DRAWS: usize = 300;
/// Side of the largest pictures, and of the squares that they are averaged over for smaller ones.
const SIDE: usize = 32;
const POOLS: [usize; 6] = [32, 16, 8, 4, 2, 1];
/// Pictures drawn with the best answers, and those shown.
const SAMPLES: usize = 60;
const SHOWN: usize = 12;
/// σ of the levels at which answers are compared.
const SIGMAS: [f64; 9] = [0.1, 0.2, 0.5, 1.0, 3.0, 10.0, 30.0, 80.0, 150.0];

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
    let options = Options { seed: lab.seed, glyph_count: 1000, ..Options::new((SIDE, SIDE), 1) };
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
            let denoiser = IdealDenoiser::new(set, kind, prediction);
            let level = denoiser.nearest(1.0);
            let mut rng = Philox::new(lab.seed, Stream::Cases, 0);
            let sum: f64 = (0..DRAWS).map(|_| denoiser.deviation(&denoiser.draw(level, &mut rng))).sum();
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

/// What the lack of noise conditioning costs the best answer, by what is predicted.
fn amplification(lab: &Lab, findings: &mut Findings, pictures: &[Vec<f64>]) -> Result<(), LabError> {
    let mut chart = Chart {
        title: "Error of x_0 that the best answer has for want of noise conditioning".into(),
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
        let denoiser = IdealDenoiser::new(pictures, kind, prediction);
        let (mut points, mut formula) = (Vec::new(), Vec::new());
        for sigma in SIGMAS {
            let level = denoiser.nearest(sigma);
            let mut rng = Philox::new(lab.seed, Stream::Cases, 0);
            let sum: f64 =
                (0..EXCESS_DRAWS).map(|_| denoiser.excess(level, &denoiser.draw(level, &mut rng))).sum();
            let sigma = denoiser.levels[level].sigma();
            points.push((sigma, sum / EXCESS_DRAWS as f64));
            formula.push((sigma, denoiser.expected_excess(level, m)));
        }
        (lab.progress)(&format!("best answers, {name}: {:.4} at the end", points[points.len() - 1].1));
        // At σ = 1 x tells the picture and both ends are far.
        let at_one = SIGMAS.iter().position(|&s| s == 1.0).unwrap_or(0);
        findings.verdict(
            format!(
                "best answer, {name}: error of x_0 without noise conditioning at σ = 1, over the formula"
            ),
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
        "best answer, ε: error of x_0 without noise conditioning at σ = 150, over the mean square of a pixel",
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

/// What the best answers draw, with noise conditioning and without: in f64, without a network and its errors.
fn samples(lab: &Lab, findings: &mut Findings, pictures: &[Vec<f64>], width: usize) -> Result<(), LabError> {
    let mut rows = Vec::new();
    let mut distances = Vec::new();
    for (name, kind, prediction, conditioned) in [
        ("ε, conditioned", ScheduleKind::Linear, Prediction::Epsilon, true),
        ("ε, blind", ScheduleKind::Linear, Prediction::Epsilon, false),
        ("v, blind", ScheduleKind::Linear, Prediction::VPrediction, false),
        ("flow velocity, blind", ScheduleKind::Flow, Prediction::Flow, false),
    ] {
        let denoiser = IdealDenoiser::new(pictures, kind, prediction);
        let mut rng = Philox::new(lab.seed, Stream::Cases, 1);
        let drawn: Vec<Vec<f64>> = (0..SAMPLES).map(|_| denoiser.sample(conditioned, &mut rng)).collect();
        let distance = drawn.iter().map(|x| denoiser.distance(x)).sum::<f64>() / SAMPLES as f64;
        (lab.progress)(&format!("best answers, {name}: {distance:.4} from the nearest picture"));
        findings.number(&format!("distance of the best answer's pictures from the set: {name}"), distance);
        distances.push(distance);
        let shown = drawn.iter().take(SHOWN).flatten().map(|&x| x as f32);
        rows.push((format!("best answer, {name}"), shown.collect()));
    }
    let ode = format!("ODE in {STEPS} steps by the best answers");
    findings.verdict(
        format!("{ode}, ε, conditioned: distance of a picture from the nearest of the set, per pixel"),
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

    #[test]
    fn pooling_averages_squares() {
        let pictures: [Vec<f32>; 1] = [(0..16u8).map(f32::from).collect()];
        assert_eq!(pooled(&pictures, 4, 2), [[2.5, 4.5, 10.5, 12.5]]);
        assert_eq!(pooled(&pictures, 4, 4), [[7.5]]);
    }
}
