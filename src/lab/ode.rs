//! Three ways from noise to one distribution: ancestral sampling, the reverse SDE and the probability-flow ODE, on points
//! of the plane whose score is known.

use super::mixture::{Cloud, Point, Projections, Update, exact, mean_distance, reference, updates};
use super::statistics::{Measured, fitted_order};
use super::{Expected, Experiment, Findings, Lab, LabError};
use crate::diffusion::{
    FinalSigma, NoiseLevel, NoiseSchedule, Sampler, ScheduleKind, SchedulerConfig, TimestepSpacing,
    Trajectory,
};
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
/// The ends of the σ-grid on which the orders are measured; 0 is left out, where Heun's and the multistep method
/// fall back to first order.
const SIGMA_ENDS: (f64, f64) = (80.0, 0.02);
/// Steps of the Runge-Kutta reference.
const REFERENCE_STEPS: u32 = 200;

/// The reverse SDE dx = [-½β x - β ∇log p(x)] dt + √β dw (Song et al., arXiv 2011.13456, eq. 6 and 11) by Euler and
/// Maruyama: over a step from t to s < t with b = ∫ β = ln(ᾱ_s / ᾱ_t), and with ∇log p = -ε / noise,
///
/// x' = (1 + b/2) x - b/noise ε + √b z.
///
/// The last step, from the first timestep to no noise, takes x_0 as it is expected to be, as DDPM does.
fn reverse_sde(schedule: &NoiseSchedule, steps: usize) -> Vec<Update> {
    let stride = schedule.steps() / steps;
    let update = |i: usize| {
        let t = stride * (steps - i) - 1;
        let now = schedule.alpha_bar(Some(t));
        let level = NoiseLevel::of_alpha_bar(now);
        let NoiseLevel { signal, noise } = level;
        let coefficients = match t.checked_sub(stride) {
            Some(s) => {
                let b = (schedule.alpha_bar(Some(s)) / now).ln();
                Coefficients { c_x: 1.0 + 0.5 * b, c_f: -b / noise, c_z: b.sqrt(), ..Coefficients::default() }
            }
            None => Coefficients { c_x: 1.0 / signal, c_f: -noise / signal, ..Coefficients::default() },
        };
        Update { level, coefficients }
    };
    (0..steps).map(update).collect()
}

/// A way from noise to the data, as updates of the denoising kernel for a number of steps.
#[derive(Clone, Copy, PartialEq)]
enum Method {
    Ddpm,
    DdimStochastic,
    ReverseSde,
    Ddim,
    Euler,
    Heun,
    DpmSolver,
    /// A sampler on a continuous schedule, from σ = 80 to no noise.
    Continuous(ScheduleKind, Sampler),
    /// DDPM's mean without its noise, which samples nothing in particular: it has to be seen.
    DdpmSilenced,
}

impl Method {
    fn name(self) -> String {
        let name = match self {
            Self::Ddpm => "DDPM",
            Self::DdimStochastic => "DDIM η = 1",
            Self::ReverseSde => "reverse SDE, Euler-Maruyama",
            Self::Ddim => "DDIM η = 0",
            Self::Euler => "ODE, Euler",
            Self::Heun => "ODE, Heun",
            Self::DpmSolver => "ODE, DPM-Solver++ 2M",
            Self::Continuous(kind, sampler) => {
                let kind = if kind == ScheduleKind::Edm { "EDM".into() } else { kind.name() };
                return format!("{kind}, {}", sampler.title());
            }
            Self::DdpmSilenced => "DDPM without its noise",
        };
        name.into()
    }

    fn config(self) -> SchedulerConfig {
        let (kind, sampler) = match self {
            Self::Continuous(kind, sampler) => (kind, sampler),
            Self::Ddpm | Self::DdpmSilenced | Self::ReverseSde => (ScheduleKind::Linear, Sampler::Ddpm),
            Self::DdimStochastic | Self::Ddim => (ScheduleKind::Linear, Sampler::Ddim),
            Self::Euler => (ScheduleKind::Linear, Sampler::Euler),
            Self::Heun => (ScheduleKind::Linear, Sampler::Heun),
            Self::DpmSolver => (ScheduleKind::Linear, Sampler::DpmSolver),
        };
        // On flow matching's schedule Euler and Heun take equal steps of t. For DPM-Solver++, whose theory is in ln σ, those
        // are too long at both ends: its order would be 1.7. With Karras' it takes the same steps there as on EDM's.
        let by_sigma = matches!(sampler, Sampler::Euler | Sampler::Heun) && kind != ScheduleKind::Flow;
        SchedulerConfig {
            beta_schedule: kind,
            beta_start: 1e-4,
            beta_end: 0.02,
            timestep_spacing: TimestepSpacing::Trailing,
            clip_sample: false,
            use_karras_sigmas: by_sigma || sampler == Sampler::DpmSolver,
            // The answer here is ε, which tells of the picture only where some signal is left.
            sigma_max: kind.is_continuous().then_some(SIGMA_ENDS.0),
            ..SchedulerConfig::new(sampler)
        }
    }

    fn updates(self, steps: usize) -> Result<Vec<Update>, LabError> {
        let config = self.config();
        if self == Self::ReverseSde {
            return Ok(reverse_sde(&NoiseSchedule::of(&config), steps));
        }
        let eta = if self == Self::DdimStochastic { 1.0 } else { 0.0 };
        let mut updates = updates(&Trajectory::new(&config, steps, eta)?);
        if self == Self::DdpmSilenced {
            updates.iter_mut().for_each(|u| u.coefficients.c_z = 0.0);
        }
        Ok(updates)
    }

    /// `steps` steps between the two [`SIGMA_ENDS`].
    fn updates_between(self, steps: usize) -> Result<Vec<Update>, LabError> {
        let config = SchedulerConfig {
            final_sigmas_type: FinalSigma::SigmaMin,
            lower_order_final: false,
            sigma_max: Some(SIGMA_ENDS.0),
            sigma_min: Some(SIGMA_ENDS.1),
            ..self.config()
        };
        let mut updates = updates(&Trajectory::new(&config, steps + 1, 0.0)?);
        // The last goes on from the smallest σ of the grid.
        updates.pop();
        Ok(updates)
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    /// Over one small step the discretised SDE is DDPM's step but for terms of second order.
    #[test]
    fn the_reverse_sde_is_ancestral_sampling_in_small_steps() {
        let schedule = NoiseSchedule::of(&Method::Ddpm.config());
        let sde = reverse_sde(&schedule, 1000);
        let ddpm = Method::Ddpm.updates(1000).unwrap();
        assert_eq!(sde.len(), ddpm.len());
        for (i, (a, b)) in sde.iter().zip(&ddpm).enumerate() {
            assert!((a.level.signal - b.level.signal).abs() < 1e-12);
            let c = b.coefficients;
            // x' = c_x x + c_0 k (p_x x + p_f ε)
            let (x, e) = (c.c_x + c.c_0 * c.k * c.p_x, c.c_0 * c.k * c.p_f);
            let (beta, variance) = (schedule.beta(999 - i), a.level.noise * a.level.noise);
            // ᾱ and α are rounded to f32, and β is what is left of them.
            let rounding = 2f64.powi(-22);
            assert!((a.coefficients.c_x - x).abs() < beta * beta + rounding / variance, "{i}");
            assert!((a.coefficients.c_f / e - 1.0).abs() < beta + rounding / beta, "{i}");
            // The posterior's variance β̃ is β but for the share of x_0, which counts where the noise is small.
            if i < 999 {
                let ratio = a.coefficients.c_z / c.c_z;
                assert!((ratio - 1.0).abs() < beta / variance + rounding / beta, "{i}: {ratio}");
            }
        }
    }
}
