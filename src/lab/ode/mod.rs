//! Three ways from noise to one distribution: ancestral sampling, the reverse SDE and the probability-flow ODE, on points
//! of the plane whose score is known.

mod method;
mod mixture;

use self::method::{Method, SIGMA_ENDS};
use self::mixture::{Cloud, Point, Projections, Update, exact, mean_distance, reference};
use super::statistics::{Measured, fitted_order};
use super::{Expected, Experiment, Findings, Lab, LabError};
use crate::diffusion::{NoiseLevel, NoiseSchedule, Sampler, ScheduleKind};
use crate::io::{Chart, Series, Stroke};
use crate::ops::Coefficients;
use crate::rng::{Philox, Stream};

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "ode",
    title: "Ancestral sampling, the reverse SDE and the probability-flow ODE",
    see: "All samplers come down to the distance that two sets of exact points have by chance, the ODE's solvers of \
          second order in tens of steps, the others in hundreds. Against the exact flow the error of Euler and DDIM \
          halves with twice the steps, that of Heun and DPM-Solver++ 2M becomes a quarter.",
    equation: "dx = [-½β x - β ∇log p] dt + √β dw and dx = [-½β x - ½β ∇log p] dt have the same marginals (Song et al., \
               arXiv 2011.13456, eq. 6 and 13)",
    shaders: &["gaussian_mixture.wgsl", "denoise.wgsl"],
    minutes: 2,
    run,
};

/// Points of a set whose distribution is looked at. Two sets of so many have a distance of some 0.009 by chance.
const POINTS: usize = 20_000;
/// Repeats with other seeds, for the error bars.
const REPEATS: u32 = 8;
/// What a sampler's distance may exceed that between two exact sets, as a part of it and beside three standard errors:
/// the error that a method of first order still has after 500 steps.
const ALLOWANCE: f64 = 0.25;

/// Points that are followed one by one.
const FOLLOWED: usize = 4096;
/// Steps of the Runge-Kutta reference.
const REFERENCE_STEPS: u32 = 200;

/// The error of every deterministic method, point by point.
fn orders(lab: &Lab, findings: &mut Findings) -> Result<(), LabError> {
    (lab.progress)("orders of the deterministic methods");
    let cloud = Cloud::new(&lab.device, FOLLOWED)?;
    let start = cloud.run(lab.seed, &[])?;
    let first = Method::Ddim.config();
    let last_alpha_bar = NoiseSchedule::of(&first).alpha_bar(Some(first.num_train_timesteps - 1));
    let NoiseLevel { signal, noise } = NoiseLevel::of_alpha_bar(last_alpha_bar);
    let chart = |title: &str| Chart {
        title: title.into(),
        x_label: "steps".into(),
        y_label: "mean distance".into(),
        log_x: true,
        log_y: true,
        series: Vec::new(),
    };
    let mut chain = chart("Error of each point against the exact flow");
    let mut continuous = chart("The same on the schedules of EDM and flow matching");

    // Each with the steps over which the order is fitted: above them the error of f32 begins to count, below them the
    // steps are not yet small beside the components.
    let by_sigma: &[usize] = &[10, 20, 40, 80, 160, 320, 640];
    let by_timestep: &[usize] = &[10, 20, 50, 100, 200, 500, 1000];
    let (edm, flow) = (ScheduleKind::Edm, ScheduleKind::Flow);
    let plans = [
        (Method::Ddim, by_timestep, 100..=1000, 1.0),
        (Method::Euler, by_sigma, 80..=640, 1.0),
        (Method::Heun, by_sigma, 80..=320, 2.0),
        (Method::DpmSolver, by_sigma, 80..=320, 2.0),
        (Method::Continuous(edm, Sampler::Euler), by_sigma, 80..=640, 1.0),
        (Method::Continuous(edm, Sampler::Heun), by_sigma, 80..=320, 2.0),
        (Method::Continuous(edm, Sampler::DpmSolver), by_sigma, 80..=320, 2.0),
        (Method::Continuous(flow, Sampler::Euler), by_sigma, 80..=640, 1.0),
        (Method::Continuous(flow, Sampler::Heun), by_sigma, 80..=320, 2.0),
    ];
    let ends = |method| match method {
        Method::Ddim => (noise / signal, 0.0),
        Method::Continuous(..) => (SIGMA_ENDS.0, 0.0),
        Method::Ddpm
        | Method::DdimStochastic
        | Method::ReverseSde
        | Method::Euler
        | Method::Heun
        | Method::DpmSolver
        | Method::DdpmSilenced => SIGMA_ENDS,
    };
    let ranges =
        [(ends(Method::Ddim), "157 to 0"), (SIGMA_ENDS, "80 to 0.02"), ((SIGMA_ENDS.0, 0.0), "80 to 0")];
    for ((from, to), name) in ranges {
        let [fine, coarse] = [1, 2].map(|part| reference(&start, from, to, REFERENCE_STEPS / part));
        findings.verdict(
            format!("the exact flow, σ from {name}: change of a point with half as many steps, in 1e-6"),
            1e6 * mean_distance(&fine, &coarse),
            Expected::AtMost(1.0),
        );
        for (method, counts, fit, order) in &plans {
            if ends(*method) != (from, to) {
                continue;
            }
            let mut points = Vec::new();
            for &steps in *counts {
                let updates =
                    if to == 0.0 { method.updates(steps)? } else { method.updates_between(steps)? };
                let error = mean_distance(&cloud.run(lab.seed, &updates)?, &fine);
                points.push((steps as f64, error));
                (lab.progress)(&format!("{}, {steps} steps: error {error:.2e}", method.name()));
            }
            findings.number(&format!("errors: {}", method.name()), &points);
            let straight: Vec<Point> = counts
                .iter()
                .zip(&points)
                .filter(|(steps, _)| fit.contains(*steps))
                .map(|(_, p)| *p)
                .collect();
            let fitted = fitted_order(&straight);
            findings.verdict(
                format!("order of {}, fitted from {} to {} steps", method.name(), fit.start(), fit.end()),
                fitted,
                Expected::About(*order, 0.2),
            );
            let name = format!("{}, order {fitted:.2}", method.name());
            let chart = if matches!(method, Method::Continuous(..)) { &mut continuous } else { &mut chain };
            chart.series.push(Series { name, points, colour: chart.series.len(), stroke: Stroke::Thick });
        }
    }
    findings.chart("order", &chain)?;
    findings.chart("order_continuous", &continuous)
}

/// The distance of every method's points from the data, over the number of evaluations.
fn distances(lab: &Lab, findings: &mut Findings) -> Result<(), LabError> {
    let cloud = Cloud::new(&lab.device, POINTS)?;
    let seeds: Vec<(u32, u64)> =
        (0..REPEATS).map(|r| (r, lab.seed.wrapping_mul(REPEATS.into()).wrapping_add(r.into()))).collect();
    (lab.progress)("sets of exact points");
    let data: Vec<Projections> =
        seeds.iter().map(|&(r, _)| Projections::new(&exact(lab.seed, 2 * r, POINTS))).collect();
    let again = |r: u32| Projections::new(&exact(lab.seed, 2 * r + 1, POINTS));
    let chance: Vec<f64> = data.iter().zip(&seeds).map(|(a, &(r, _))| a.distance(&again(r))).collect();
    let Measured { value: floor, error: floor_error } = Measured::mean(chance.iter().copied());
    findings.number("distance of two exact sets", floor);
    findings.number("its standard error", floor_error);

    let mut chart = Chart {
        title: format!("Distance from the data of {POINTS} points, ± 1 standard error of {REPEATS} repeats"),
        x_label: "evaluations of the score".into(),
        y_label: "sliced Wasserstein-1 distance".into(),
        log_x: true,
        log_y: true,
        series: Vec::new(),
    };
    let slow: &[usize] = &[10, 20, 50, 100, 500];
    let fast: &[usize] = &[5, 10, 20, 50];
    let plans = [
        (Method::Ddpm, slow),
        (Method::ReverseSde, slow),
        (Method::Ddim, slow),
        (Method::Heun, fast),
        (Method::DpmSolver, fast),
        (Method::Euler, &[5, 500]),
        (Method::DdpmSilenced, &[50]),
    ];
    for (colour, (method, counts)) in plans.iter().enumerate() {
        let control =
            |steps: usize| *method == Method::DdpmSilenced || steps == 5 && *method == Method::Euler;
        let (mut curve, mut bars, mut above) = (Vec::new(), Vec::new(), Vec::new());
        for &steps in *counts {
            let updates = method.updates(steps)?;
            let mut found = Vec::new();
            for (&(_, seed), data) in seeds.iter().zip(&data) {
                found.push(data.distance(&Projections::new(&cloud.run(seed, &updates)?)));
            }
            let Measured { value: mean, error } = Measured::mean(found.iter().copied());
            // Repeat by repeat: both distances are from the same exact set.
            let beyond: Vec<f64> = found.iter().zip(&chance).map(|(d, floor)| d - floor).collect();
            let Measured { value: difference, error: difference_error } = Measured::mean(beyond.into_iter());
            (lab.progress)(&format!(
                "{}, {steps} steps: distance {mean:.4} ± {error:.4}, beyond chance {difference:.4} ± {difference_error:.4}",
                method.name()
            ));
            let evaluations = updates.len() as f64;
            curve.push((evaluations, mean));
            // Where chance is the smaller part, what is beyond it falls as the error does.
            if mean > 2.0 * floor {
                above.push((evaluations, difference));
            }
            bars.push((evaluations, error));
            let limit = 3.0 * difference_error + ALLOWANCE * floor;
            let words = format!("{}, {steps} steps: distance from the data beyond chance", method.name());
            if control(steps) {
                findings.verdict(format!("control: {words}"), difference, Expected::AtLeast(limit));
            } else if Some(&steps) == counts.last() {
                findings.verdict(words, difference, Expected::AtMost(limit));
            }
        }
        findings.number(&format!("distances: {}", method.name()), &curve);
        findings.number(&format!("standard errors: {}", method.name()), &bars);
        // The controls are taken at one number of steps, through which there is no line.
        if above.len() > 1 {
            findings.number(&format!("order in distribution: {}", method.name()), fitted_order(&above));
        }
        if curve.len() > 2 {
            for ((x, mean), (_, error)) in curve.iter().zip(&bars) {
                let points = vec![(*x, mean - error), (*x, mean + error)];
                chart.series.push(Series { points, colour, stroke: Stroke::Thick, ..Series::default() });
            }
            let name = method.name();
            chart.series.push(Series { name, points: curve, colour, stroke: Stroke::Thick });
        }
    }
    let name = "two exact sets".to_owned();
    let points = vec![(5.0, floor), (500.0, floor)];
    chart.series.push(Series { name, points, colour: 5, stroke: Stroke::Thick });
    findings.chart("distance", &chart)
}

/// The vector field of the flow at one level of noise, over points with that noise.
fn field(lab: &Lab, findings: &mut Findings) -> Result<(), LabError> {
    const SIGMA: f64 = 0.4;
    const SIDES: (u32, u32) = (23, 13);
    let level = NoiseLevel::of_sigma(SIGMA);
    let NoiseLevel { signal, noise } = level;
    let even = |i: u32, count: u32, reach: f64| reach * (2.0 * f64::from(i) / f64::from(count - 1) - 1.0);
    let grid: Vec<Point> = (0..SIDES.1)
        .flat_map(|j| (0..SIDES.0).map(move |i| (even(i, SIDES.0, 2.7), even(j, SIDES.1, 1.5))))
        .collect();
    let cloud = Cloud::new(&lab.device, grid.len())?;
    cloud.place(&grid)?;
    // dx/dφ = (ε - noise x) / signal is an update as well. From noise to data φ falls.
    let c = Coefficients { c_x: noise / signal, c_f: -1.0 / signal, ..Coefficients::default() };
    cloud.apply(lab.seed, 0, &Update { level, coefficients: c })?;
    let flow = cloud.points()?;
    let largest = flow.iter().map(|v| v.0.hypot(v.1)).fold(0.0, f64::max);
    let arrows = grid.iter().zip(&flow).flat_map(|(x, v)| {
        // The square root keeps the short ones visible.
        let length = v.0.hypot(v.1);
        let factor = 0.24 / (largest * length).sqrt().max(1e-9);
        [*x, (x.0 + factor * v.0, x.1 + factor * v.1)]
    });
    let mut rng = Philox::new(lab.seed, Stream::Cases, u32::MAX);
    let noisy = exact(lab.seed, 0, 1500).into_iter();
    let mut noised = |x: f64| signal * x + noise * rng.normal();
    let points: Vec<Point> = noisy.map(|p| (noised(p.0), noised(p.1))).collect();
    let inside: Vec<Point> = points.into_iter().filter(|p| p.0.abs() < 2.7 && p.1.abs() < 1.5).collect();
    let chart = Chart {
        title: format!("The probability flow towards the data at σ = {SIGMA}"),
        x_label: "x".into(),
        y_label: "y".into(),
        series: vec![
            Series { name: "data with this noise".into(), points: inside, stroke: Stroke::Dots, colour: 1 },
            Series {
                name: "-dx/dφ, lengths as their square roots".into(),
                points: arrows.collect(),
                stroke: Stroke::Arrows,
                colour: 0,
            },
        ],
        ..Chart::default()
    };
    findings.chart("field", &chart)
}

/// A few points on their way by the ODE and by the SDE: their first coordinate after each step.
fn paths(lab: &Lab, findings: &mut Findings) -> Result<(), LabError> {
    const STARTS: [Point; 5] = [(-1.9, 0.3), (-0.9, -0.6), (0.1, 0.9), (0.9, -0.4), (1.7, 0.6)];
    const STEPS: u32 = 250;
    let cloud = Cloud::new(&lab.device, STARTS.len())?;
    let mut rng = Philox::new(lab.seed, Stream::Cases, u32::MAX);
    let end = f64::from(STEPS);
    let column = exact(lab.seed, 0, 1000).into_iter().map(|p| (end + rng.uniform(4.0, 16.0), p.0));
    let points = column.collect();
    let mut series = vec![Series { name: "the data".into(), points, stroke: Stroke::Dots, colour: 2 }];
    for (colour, stroke, method, name) in [
        (1, Stroke::Thin, Method::ReverseSde, "reverse SDE"),
        (0, Stroke::Thick, Method::Ddim, "probability-flow ODE"),
    ] {
        let mut tracks = STARTS.map(|start| vec![(0.0, start.0)]);
        cloud.place(&STARTS)?;
        for (number, update) in (0u32..).zip(&method.updates(STEPS as usize)?) {
            cloud.apply(lab.seed, number, update)?;
            let done = f64::from(number + 1);
            tracks.iter_mut().zip(cloud.points()?).for_each(|(track, p)| track.push((done, p.0)));
        }
        for (i, points) in tracks.into_iter().enumerate() {
            let name = if i == 0 { name.to_owned() } else { String::new() };
            series.push(Series { name, points, stroke, colour });
        }
    }
    let chart = Chart {
        title: "From the same noise to the same distribution".into(),
        x_label: "steps done".into(),
        y_label: "first coordinate".into(),
        series,
        ..Chart::default()
    };
    findings.chart("paths", &chart)
}

/// DDIM's step at η = 1 is DDPM's: both draw from the posterior with the same mean and variance.
fn same_step(lab: &Lab, findings: &mut Findings) -> Result<(), LabError> {
    const STEPS: usize = 50;
    let cloud = Cloud::new(&lab.device, FOLLOWED)?;
    let [a, b] = [Method::Ddpm, Method::DdimStochastic]
        .map(|method| Ok::<_, LabError>(cloud.run(lab.seed, &method.updates(STEPS)?)?));
    findings.verdict(
        format!("DDIM at η = 1 is DDPM: mean distance of points with the same noise after {STEPS} steps"),
        mean_distance(&a?, &b?),
        Expected::AtMost(1e-4),
    );
    Ok(())
}

fn run(lab: &Lab, findings: &mut Findings) -> Result<(), LabError> {
    field(lab, findings)?;
    paths(lab, findings)?;
    same_step(lab, findings)?;
    orders(lab, findings)?;
    distances(lab, findings)
}
