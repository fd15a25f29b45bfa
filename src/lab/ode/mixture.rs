//! Points of the plane from a mixture of Gaussians, whose score is known: moved by the samplers' own kernel, and compared.

use crate::diffusion::{NoiseLevel, Trajectory};
use crate::gpu::{Blocking as _, Device, Executable, RunError, Store};
use crate::graph::{Op, Plan, ValueId};
use crate::ops::{Coefficients, GaussianMixture, MixtureLevel, StepWords};
use crate::rng::{Philox, Stream};
use crate::sample::{Latent, LatentStepper};
use crate::tensor::{Array, Shape, Spec};
use std::sync::Arc;

/// The data: weight, standard deviation and mean of four Gaussians. Their common mean is 0.
pub(super) const COMPONENTS: [[f64; 4]; 4] =
    [[0.3, 0.3, -1.6, -0.5], [0.3, 0.25, 1.5, -0.6], [0.2, 0.35, 0.6, 0.8], [0.2, 0.2, -0.45, 0.85]];

pub(super) type Point = (f64, f64);

/// One evaluation of the score and the update after it.
#[derive(Clone, Copy)]
pub(super) struct Update {
    /// Where the points are.
    pub(super) level: NoiseLevel,
    /// Where they go.
    pub(super) coefficients: Coefficients,
}

/// A trajectory with the levels that stand in for the timesteps given to a network.
pub(super) fn updates(trajectory: &Trajectory) -> Vec<Update> {
    let pairs = trajectory.steps.iter().zip(&trajectory.levels);
    pairs.map(|(step, &level)| Update { level, coefficients: step.coefficients }).collect()
}

/// Points on the device, moved by updates.
pub(super) struct Cloud {
    store: Arc<Store>,
    latent: Latent,
    initial: (Executable, ValueId),
    stepper: LatentStepper,
    level: ValueId,
}

pub(super) fn components() -> Array {
    Array::new([COMPONENTS.len(), 4], COMPONENTS.concat())
}

impl Cloud {
    pub(super) fn new(device: &Arc<Device>, points: usize) -> Result<Self, RunError> {
        let store = Store::new(device);
        // One item: the kernel draws four normals at once within an item, which here serve two points.
        let latent = Latent::new(&Shape::new([1, points, 2]));
        let (graph, words) = latent.initial_graph(1.0)?;
        let initial = (Executable::new(&store, Plan::new(graph, &device.caps)?).block_on()?, words);
        let (stepper, level) = LatentStepper::new(&store, &latent, None, |graph, x| {
            let level = graph.input("level", Spec::f32([MixtureLevel::WORDS]));
            let mixture = graph.constant("components", components());
            Ok((graph.apply(GaussianMixture, &[x, mixture, level])?, level))
        })
        .block_on()?;
        Ok(Self { store, latent, initial, stepper, level })
    }

    /// Standard normal points: x_T of every method, whatever its largest σ.
    pub(super) fn start(&self, seed: u64) -> Result<(), RunError> {
        let (initial, words) = &self.initial;
        initial.write_u32(*words, &StepWords { seed, ..StepWords::default() }.words());
        Ok(initial.run().block_on()?)
    }

    pub(super) fn place(&self, points: &[Point]) -> Result<(), RunError> {
        let x: Vec<f32> = points.iter().flat_map(|p| [p.0 as f32, p.1 as f32]).collect();
        Ok(self.store.write(&self.latent.x, &x)?)
    }

    pub(super) fn apply(&self, seed: u64, number: u32, update: &Update) -> Result<(), RunError> {
        let NoiseLevel { signal, noise } = update.level;
        self.stepper.executable.write(self.level, &MixtureLevel { signal, noise }.words());
        self.stepper
            .run(&update.coefficients, &StepWords { seed, step: number, ..StepWords::default() })
            .block_on()
    }

    pub(super) fn points(&self) -> Result<Vec<Point>, RunError> {
        let x = self.store.read(&self.latent.x).block_on()?;
        Ok(x.chunks_exact(2).map(|p| (f64::from(p[0]), f64::from(p[1]))).collect())
    }

    /// Where standard normal points are after all updates.
    pub(super) fn run(&self, seed: u64, updates: &[Update]) -> Result<Vec<Point>, RunError> {
        self.start(seed)?;
        for (number, update) in (0u32..).zip(updates) {
            self.apply(seed, number, update)?;
        }
        self.points()
    }
}

/// Points of the data themselves; another `set` has others.
pub(super) fn exact(seed: u64, set: u32, count: usize) -> Vec<Point> {
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

/// Directions that the sets are projected onto, evenly over half a turn.
pub(super) const DIRECTIONS: u32 = 16;
/// A set of points seen along each direction, in order.
pub(super) struct Projections(Vec<Vec<f64>>);

impl Projections {
    pub(super) fn new(points: &[Point]) -> Self {
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
    pub(super) fn distance(&self, other: &Self) -> f64 {
        let pairs = self.0.iter().zip(&other.0).flat_map(|(a, b)| a.iter().zip(b));
        let count = self.0.iter().map(Vec::len).sum::<usize>();
        pairs.map(|(a, b)| (a - b).abs()).sum::<f64>() / count as f64
    }
}

/// The probability flow in the angle φ = arctan σ, in which signal = cos φ, noise = sin φ and
/// dx/dφ = E[v | x] = (ε - noise x) / signal (Salimans & Ho, arXiv 2202.00512, appendix D), from one σ to another in f64
/// by the classical Runge-Kutta method of fourth order.
pub(super) fn reference(start: &[Point], from: f64, to: f64, steps: u32) -> Vec<Point> {
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
pub(super) fn mean_distance(a: &[Point], b: &[Point]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a.0 - b.0).hypot(a.1 - b.1)).sum::<f64>() / a.len() as f64
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
}
