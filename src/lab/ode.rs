//! Three ways from noise to one distribution: ancestral sampling, the reverse SDE and the probability-flow ODE, on points
//! of the plane whose score is known.

use super::{Expected, Experiment, Findings, Lab, LabError};
use crate::diffusion::{
    FinalSigma, NoiseLevel, NoiseSchedule, Sampler, SchedulerConfig, TimestepSpacing, Trajectory,
};
use crate::gpu::{Device, Executable, RunError, Store};
use crate::graph::{Graph, Op, Plan, ValueId};
use crate::io::{Chart, Series, Stroke};
use crate::ops::{COEFFICIENTS, Coefficients, Denoise, GaussianMixture, RandomNormal, STEP_WORDS, StepWords};
use crate::rng::{Philox, Stream};
use crate::tensor::{Array, Shape, Spec};
use std::sync::Arc;

pub(super) const EXPERIMENT: Experiment = Experiment {
    name: "ode",
    title: "Ancestral sampling, the reverse SDE and the probability-flow ODE",
    see: "All samplers come down to the distance that two sets of exact points have by chance, the ODE's solvers of \
          second order in tens of steps, the others in hundreds. Against the exact flow the error of Euler and DDIM \
          halves with twice the steps, that of Heun and DPM-Solver++ 2M becomes a quarter.",
    equation: "dx = [-½β x - β ∇log p] dt + √β dw and dx = [-½β x - ½β ∇log p] dt have the same marginals (Song et al., \
               arXiv 2011.13456, eq. 6 and 13)",
    shaders: &["gaussian_mixture.wgsl", "denoise.wgsl"],
    trains: false,
    run,
};

/// The data: weight, standard deviation and mean of four Gaussians. Their common mean is 0.
const COMPONENTS: [[f64; 4]; 4] =
    [[0.3, 0.3, -1.6, -0.5], [0.3, 0.25, 1.5, -0.6], [0.2, 0.35, 0.6, 0.8], [0.2, 0.2, -0.45, 0.85]];

/// Points of a set whose distribution is looked at. Two sets of so many have a distance of some 0.009 by chance.
const POINTS: usize = 20_000;
/// Repeats with other seeds, for the error bars.
const REPEATS: u32 = 8;
/// Directions that the sets are projected onto, evenly over half a turn.
const DIRECTIONS: u32 = 16;
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

type Point = (f64, f64);

/// One evaluation of the score and the update after it.
#[derive(Clone, Copy)]
struct Update {
    level: NoiseLevel,
    coefficients: Coefficients,
}

/// A trajectory with the levels that stand in for the timesteps given to a network.
fn updates(trajectory: &Trajectory) -> Vec<Update> {
    let pairs = trajectory.steps.iter().zip(&trajectory.levels);
    pairs.map(|(step, &level)| Update { level, coefficients: step.coefficients }).collect()
}

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
    /// DDPM's mean without its noise, which samples nothing in particular: it has to be seen.
    DdpmSilenced,
}

impl Method {
    fn name(self) -> &'static str {
        match self {
            Self::Ddpm => "DDPM",
            Self::DdimStochastic => "DDIM η = 1",
            Self::ReverseSde => "reverse SDE, Euler-Maruyama",
            Self::Ddim => "DDIM η = 0",
            Self::Euler => "ODE, Euler",
            Self::Heun => "ODE, Heun",
            Self::DpmSolver => "ODE, DPM-Solver++ 2M",
            Self::DdpmSilenced => "DDPM without its noise",
        }
    }

    fn config(self) -> SchedulerConfig {
        let sampler = match self {
            Self::Ddpm | Self::DdpmSilenced | Self::ReverseSde => Sampler::Ddpm,
            Self::DdimStochastic | Self::Ddim => Sampler::Ddim,
            Self::Euler => Sampler::Euler,
            Self::Heun => Sampler::Heun,
            Self::DpmSolver => Sampler::DpmSolver,
        };
        let by_sigma = matches!(self, Self::Euler | Self::Heun | Self::DpmSolver);
        SchedulerConfig {
            beta_start: 1e-4,
            beta_end: 0.02,
            timestep_spacing: TimestepSpacing::Trailing,
            clip_sample: false,
            use_karras_sigmas: by_sigma,
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

/// The states of the plans.
const STATE: &str = "points";
const HISTORY: &str = "points_history";

/// Points on the device, moved by updates.
struct Cloud {
    store: Arc<Store>,
    initial: (Executable, ValueId),
    update: Executable,
    level: ValueId,
    coefficients: ValueId,
    step: ValueId,
}

fn components() -> Array {
    Array::new([COMPONENTS.len(), 4], COMPONENTS.concat())
}

impl Cloud {
    fn new(device: &Arc<Device>, points: usize) -> Result<Self, RunError> {
        let store = Store::new(device);
        let caps = &device.caps;
        // One item: the kernel draws four normals at once within an item, which here serve two points.
        let shape = Shape::new([1, points, 2]);

        let mut graph = Graph::new();
        let step = graph.input("step", Spec::u32([STEP_WORDS]));
        let x = graph.apply(RandomNormal { stream: Stream::Initial, shape: shape.clone() }, &[step])?;
        graph.persist(STATE, x);
        let initial = (Executable::new(&store, Plan::new(graph, caps)?)?, step);

        let mut graph = Graph::new();
        let x = graph.state(STATE, Spec::f32(shape.axes()));
        let history = graph.state(HISTORY, Spec::f32(shape.axes()));
        let level = graph.input("level", Spec::f32([2]));
        let coefficients = graph.input("coefficients", Spec::f32([COEFFICIENTS]));
        let step = graph.input("step", Spec::u32([STEP_WORDS]));
        let mixture = graph.constant("components", components());
        let threshold = graph.constant("threshold", Array::new([1], vec![1.0]));
        let f = graph.apply(GaussianMixture, &[x, mixture, level])?;
        graph.apply_all(Denoise, &[x, f, history, threshold, coefficients, step])?;
        let update = Executable::new(&store, Plan::new(graph, caps)?)?;
        Ok(Self { store, initial, update, level, coefficients, step })
    }

    /// Standard normal points: x_T of every method, whatever its largest σ.
    fn start(&self, seed: u64) -> Result<(), RunError> {
        let (initial, step) = &self.initial;
        initial.write_u32(*step, &StepWords { seed, ..StepWords::default() }.words());
        Ok(initial.run()?)
    }

    fn place(&self, points: &[Point]) -> Result<(), RunError> {
        let x: Vec<f32> = points.iter().flat_map(|p| [p.0 as f32, p.1 as f32]).collect();
        Ok(self.store.write(STATE, &x)?)
    }

    fn apply(&self, seed: u64, number: u32, update: &Update) -> Result<(), RunError> {
        self.update.write_u32(self.step, &StepWords { seed, step: number, ..StepWords::default() }.words());
        self.update.write(self.level, &[update.level.signal as f32, update.level.noise as f32]);
        self.update.write(self.coefficients, &update.coefficients.words());
        Ok(self.update.run()?)
    }

    fn points(&self) -> Result<Vec<Point>, RunError> {
        let x = self.store.read(STATE)?.unwrap_or_default();
        Ok(x.chunks_exact(2).map(|p| (f64::from(p[0]), f64::from(p[1]))).collect())
    }

    /// Where standard normal points are after all updates.
    fn run(&self, seed: u64, updates: &[Update]) -> Result<Vec<Point>, RunError> {
        self.start(seed)?;
        for (number, update) in (0u32..).zip(updates) {
            self.apply(seed, number, update)?;
        }
        self.points()
    }
}

/// Points of the data themselves; another `set` has others.
fn exact(seed: u64, set: u32, count: usize) -> Vec<Point> {
    let mut rng = Philox::new(seed, Stream::Cases, set);
    let total: f64 = COMPONENTS.iter().map(|c| c[0]).sum();
    let mut draw = || {
        let mut left = total * rng.unit();
        let found = COMPONENTS.iter().find(|c| {
            left -= c[0];
            left <= 0.0
        });
        // The last takes what roundings leave.
        let [_, deviation, x, y] = found.unwrap_or(&COMPONENTS[COMPONENTS.len() - 1]);
        (x + deviation * rng.normal(), y + deviation * rng.normal())
    };
    (0..count).map(|_| draw()).collect()
}

/// A set of points seen along each direction, in order.
struct Projections(Vec<Vec<f64>>);

impl Projections {
    fn new(points: &[Point]) -> Self {
        let along = |i: u32| {
            let (sin, cos) = (std::f64::consts::PI * f64::from(i) / f64::from(DIRECTIONS)).sin_cos();
            let mut places: Vec<f64> = points.iter().map(|p| p.0 * cos + p.1 * sin).collect();
            places.sort_unstable_by(f64::total_cmp);
            places
        };
        Self((0..DIRECTIONS).map(along).collect())
    }

    /// The sliced Wasserstein-1 distance (Bonneel et al., "Sliced and Radon Wasserstein barycenters of measures", JMIV
    /// 2015, section 2.3) of two sets of equal size: in one dimension the mean distance of the points in order.
    fn distance(&self, other: &Self) -> f64 {
        let pairs = self.0.iter().zip(&other.0).flat_map(|(a, b)| a.iter().zip(b));
        let count = self.0.iter().map(Vec::len).sum::<usize>();
        pairs.map(|(a, b)| (a - b).abs()).sum::<f64>() / count as f64
    }
}

/// Mean and its standard error.
fn mean_and_error(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (count - 1.0);
    (mean, (variance / count).sqrt())
}

/// The p of error ∝ steps^-p by least squares of the logarithms.
fn fitted_order(points: &[Point]) -> f64 {
    let logs: Vec<Point> = points.iter().map(|(steps, error)| (steps.ln(), error.ln())).collect();
    let count = logs.len() as f64;
    let (x, y) =
        (logs.iter().map(|p| p.0).sum::<f64>() / count, logs.iter().map(|p| p.1).sum::<f64>() / count);
    let slope = logs.iter().map(|p| (p.0 - x) * (p.1 - y)).sum::<f64>();
    -slope / logs.iter().map(|p| (p.0 - x).powi(2)).sum::<f64>()
}

/// The probability flow in the angle φ = arctan σ, in which signal = cos φ, noise = sin φ and
/// dx/dφ = E[v | x] = (ε - noise x) / signal (Salimans & Ho, arXiv 2202.00512, appendix D), from one σ to another in f64
/// by the classical Runge-Kutta method of fourth order.
fn reference(start: &[Point], from: f64, to: f64, steps: u32) -> Vec<Point> {
    let components = components();
    let velocity = |x: &Array, angle: f64| {
        let (noise, signal) = angle.sin_cos();
        let level = Array::new([2], vec![signal, noise]);
        let e = &GaussianMixture.reference(&[x.clone(), components.clone(), level])[0];
        Array::from_fn(&x.shape, |i| (e.data[i] - noise * x.data[i]) / signal)
    };
    let moved = |x: &Array, by: f64, v: &Array| Array::from_fn(&x.shape, |i| x.data[i] + by * v.data[i]);
    let mut x = Array::new([start.len(), 2], start.iter().flat_map(|p| [p.0, p.1]).collect());
    let h = (to.atan() - from.atan()) / f64::from(steps);
    for i in 0..steps {
        let angle = from.atan() + f64::from(i) * h;
        let k1 = velocity(&x, angle);
        let k2 = velocity(&moved(&x, 0.5 * h, &k1), angle + 0.5 * h);
        let k3 = velocity(&moved(&x, 0.5 * h, &k2), angle + 0.5 * h);
        let k4 = velocity(&moved(&x, h, &k3), angle + h);
        x = Array::from_fn(&x.shape, |i| {
            x.data[i] + h / 6.0 * (k1.data[i] + 2.0 * (k2.data[i] + k3.data[i]) + k4.data[i])
        });
    }
    x.data.chunks_exact(2).map(|p| (p[0], p[1])).collect()
}

/// The mean distance of each point from its partner.
fn mean_distance(a: &[Point], b: &[Point]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a.0 - b.0).hypot(a.1 - b.1)).sum::<f64>() / a.len() as f64
}

/// The error of every deterministic method, point by point.
fn orders(lab: &Lab, findings: &mut Findings) -> Result<(), LabError> {
    (lab.progress)("orders of the deterministic methods");
    let cloud = Cloud::new(&lab.device, FOLLOWED)?;
    let start = cloud.run(lab.seed, &[])?;
    let first = Method::Ddim.config();
    let last_alpha_bar = NoiseSchedule::of(&first).alpha_bar(Some(first.num_train_timesteps - 1));
    let NoiseLevel { signal, noise } = NoiseLevel::of_alpha_bar(last_alpha_bar);
    let mut chart = Chart {
        title: "Error of each point against the exact flow".into(),
        x_label: "steps".into(),
        y_label: "mean distance".into(),
        log_x: true,
        log_y: true,
        series: Vec::new(),
    };

    // Each with the steps over which the order is fitted: above them the error of f32 begins to count, below them the
    // steps are not yet small beside the components.
    let by_sigma: &[usize] = &[10, 20, 40, 80, 160, 320, 640];
    let by_timestep: &[usize] = &[10, 20, 50, 100, 200, 500, 1000];
    let plans = [
        (Method::Ddim, by_timestep, 100..=1000, 1.0),
        (Method::Euler, by_sigma, 80..=640, 1.0),
        (Method::Heun, by_sigma, 80..=320, 2.0),
        (Method::DpmSolver, by_sigma, 80..=320, 2.0),
    ];
    let ends = |method| if method == Method::Ddim { (noise / signal, 0.0) } else { SIGMA_ENDS };
    for ((from, to), name) in [(ends(Method::Ddim), "157 to 0"), (SIGMA_ENDS, "80 to 0.02")] {
        let [fine, coarse] = [1, 2].map(|part| reference(&start, from, to, REFERENCE_STEPS / part));
        findings.verdict(
            format!("the exact flow, σ from {name}: change of a point with half as many steps, in 1e-6"),
            1e6 * mean_distance(&fine, &coarse),
            Expected::AtMost(1.0),
        );
        for (colour, (method, counts, fit, order)) in plans.iter().enumerate() {
            if ends(*method) != (from, to) {
                continue;
            }
            let mut points = Vec::new();
            for &steps in *counts {
                let updates = if *method == Method::Ddim {
                    method.updates(steps)?
                } else {
                    method.updates_between(steps)?
                };
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
            chart.series.push(Series { name, points, colour, stroke: Stroke::Thick });
        }
    }
    findings.chart("order", &chart)
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
    let (floor, floor_error) = mean_and_error(&chance);
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
            let (mean, error) = mean_and_error(&found);
            // Repeat by repeat: both distances are from the same exact set.
            let beyond: Vec<f64> = found.iter().zip(&chance).map(|(d, floor)| d - floor).collect();
            let (difference, difference_error) = mean_and_error(&beyond);
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
            let name = method.name().to_owned();
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

    #[test]
    fn distances_are_those_of_shifted_sets() {
        let set = exact(3, 0, 500);
        let shifted: Vec<Point> = set.iter().map(|p| (p.0 + 0.5, p.1)).collect();
        let found = Projections::new(&set).distance(&Projections::new(&shifted));
        // The mean of 0.5 |cos θ| over half a turn, by 16 directions: 0.5 · 2/π within 1 %.
        assert!((found - 1.0 / std::f64::consts::PI).abs() < 0.004, "{found}");
        assert_eq!(Projections::new(&set).distance(&Projections::new(&set)), 0.0);
        assert_ne!(exact(3, 1, 1), exact(3, 0, 1));
    }

    #[test]
    fn exact_points_have_the_moments_of_the_mixture() {
        let set = exact(5, 0, 200_000);
        let mean = |f: &dyn Fn(&Point) -> f64| set.iter().map(f).sum::<f64>() / set.len() as f64;
        let square: f64 = COMPONENTS.iter().map(|[w, s, x, _]| w * (s * s + x * x)).sum();
        assert!(mean(&|p| p.0).abs() < 0.01 && mean(&|p| p.1).abs() < 0.01);
        assert!((mean(&|p| p.0 * p.0) / square - 1.0).abs() < 0.01);
    }

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

    #[test]
    fn orders_and_errors_are_fitted() {
        let curve: Vec<Point> = [10.0, 20.0, 40.0].map(|n: f64| (n, 3.0 * n.powf(-1.5))).to_vec();
        assert!((fitted_order(&curve) - 1.5).abs() < 1e-12);
        let (mean, error) = mean_and_error(&[1.0, 2.0, 3.0, 4.0]);
        assert!(mean == 2.5 && (error - (5.0f64 / 12.0).sqrt()).abs() < 1e-12);
    }
}
