//! Group normalization with a modulation by scale and shift and SiLU in the same pass
//! (`shaders/group_norm.wgsl`).
//!
//! Wu & He, *Group Normalization*, arXiv 1803.08494; the modulation is the adaptive normalization of
//! Dhariwal & Nichol, arXiv 2105.05233. The gradient is three operators: the sums over pixels that the
//! others need, one for the input, γ and β, and one for scale and shift.

mod backward;
mod cases;
mod launch;
mod reference;

pub use backward::{GroupNormBackward, GroupNormBackwardScaleShift, GroupNormSums};
pub(super) use cases::cases;

use super::channels::{Extent, sharers};
use super::elementwise::silu;
use super::expect_activations;
use crate::ensure_shape;
use crate::graph::{
    Backward, Candidate, Caps, Cost, Dispatch, GraphError, Kernels, Op, Operand, Program, ShapeError,
};
use crate::tensor::{Array, Shape, Spec};
use launch::Launch;
use reference::Reference;

/// x̂ = (x - mean) / √(var + ε), over all pixels and the channels of each group of each image;
/// u = x̂ γ + β; v = u (1 + scale) + shift, or u; y = silu(v), or v.
///
/// Inputs: x (N, H, W, C) or (N, T, C), γ (C), β (C), and if modulated scale and shift together, (N, 2C),
/// scale first. Outputs: y, and the statistics (N, groups, 2), mean and 1/√(var + ε).
///
/// x and the modulation are f32 or f16, and y with them; γ, β and the statistics are f32.
#[derive(Debug, Clone)]
pub struct GroupNorm {
    /// Groups of neighbouring channels.
    pub groups: usize,
    /// ε, added to the variance.
    pub eps: f32,
    /// Whether SiLU follows.
    pub silu: bool,
    /// Whether there is a fourth input, the modulation.
    pub scale_shift: bool,
}

impl GroupNorm {
    /// The extent of x (N, ..., C), or of sums (N, 6, C).
    fn extent(&self, op: &'static str, name: &str, found: &Spec) -> Result<Extent, ShapeError> {
        let shape = &found.shape;
        ensure_shape!(op, shape.rank() >= 3, "{name} must have at least three axes, found {shape}");
        let extent = Extent::of(shape);
        ensure_shape!(
            op,
            self.groups > 0 && extent.channels.is_multiple_of(self.groups),
            "{} channels cannot be split into {} groups",
            extent.channels,
            self.groups
        );
        Ok(extent)
    }

    /// Images and channels of sums (N, 6, C).
    fn sums_extent(&self, op: &'static str, sums: &Spec) -> Result<Extent, ShapeError> {
        let extent = self.extent(op, "sums", sums)?;
        expect_shape(op, "sums", sums, &[extent.images, backward::SUMS, extent.channels])?;
        Ok(extent)
    }

    /// Checks γ and β, and the modulation if it follows.
    fn check_parameters(&self, op: &'static str, extent: Extent, x: &[Spec]) -> Result<(), ShapeError> {
        expect_shape(op, "gamma", &x[0], &[extent.channels])?;
        expect_shape(op, "beta", &x[1], &[extent.channels])?;
        x[2..].iter().try_for_each(|s| self.check_scale_shift(op, extent, s))
    }

    fn check_scale_shift(&self, op: &'static str, extent: Extent, found: &Spec) -> Result<(), ShapeError> {
        expect_shape(op, "scale and shift", found, &[extent.images, 2 * extent.channels])
    }

    /// Checks x, dy and statistics.
    fn check_gradient(&self, op: &'static str, x: &[Spec]) -> Result<Extent, ShapeError> {
        let extent = self.extent(op, "x", &x[0])?;
        expect_shape(op, "dy", &x[1], x[0].shape.axes())?;
        expect_shape(op, "statistics", &x[2], &[extent.images, self.groups, 2])?;
        Ok(extent)
    }

    /// The number of inputs: so many, and the modulation behind them if there is one.
    fn count(&self, inputs: usize) -> usize {
        inputs + usize::from(self.scale_shift)
    }

    /// The inputs of every gradient: some tensors, and the modulation behind them if there is one.
    fn with_scale_shift<T: Clone>(&self, tensors: &[T], scale_shift: Option<T>) -> Vec<T> {
        tensors.iter().cloned().chain(scale_shift.filter(|_| self.scale_shift)).collect()
    }
}

impl Op for GroupNorm {
    fn name(&self) -> &'static str {
        "group_norm"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        expect_activations("group_norm", x, self.count(3), &[1, 2])?;
        let extent = self.extent("group_norm", "x", &x[0])?;
        self.check_parameters("group_norm", extent, &x[1..])?;
        Ok(vec![x[0].clone(), Spec::f32([extent.images, self.groups, 2])])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let r = Reference::new(self, &x[0], &x[1], &x[2], &x[3..]);
        let group = |i: usize| {
            let (n, c) = r.place(i);
            r.group(n, c)
        };
        let mean = r.group_means(|i| x[0].data[i]);
        let variance = r.group_means(|i| (x[0].data[i] - mean[group(i)]).powi(2));
        let statistics: Vec<f64> = mean
            .iter()
            .zip(&variance)
            .flat_map(|(&m, v)| [m, 1.0 / (v + f64::from(self.eps)).sqrt()])
            .collect();
        let y = Array::from_fn(&x[0].shape, |i| {
            let v = r.modulated(r.normalized(&x[0], &statistics, i), i);
            if self.silu { silu(v) } else { v }
        });
        vec![y, Array::new([r.extent.images, self.groups, 2], statistics)]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        // 1 for the mean, 4 for the corrected variance, 3 to normalize, 4 for SiLU.
        Cost::elementwise(x, y, if self.silu { 12 } else { 8 })
    }

    fn candidates(&self, x: &[Spec], _y: &[Spec], caps: &Caps) -> Vec<Candidate> {
        caps.both(|caps| -> Program {
            let launch = Launch::new(self, Extent::of(&x[0].shape), x[0].dtype, caps);
            let Extent { images, pixels, channels } = launch.extent;
            let vectors = pixels * channels / self.groups / launch.width;
            let lanes = match caps.kernels {
                // One SIMD register: 8x32x32x64 in 16 groups takes 1.8 ms on llvmpipe, with 64 lanes 5.6 ms.
                Kernels::Registers => sharers(vectors, 8),
                Kernels::Workgroup => vectors.next_power_of_two().clamp(32, 256),
            };
            // In one launch where there are groups enough for 16 workgroups on a CPU driver, each of as many groups as one SIMD
            // register has numbers, or for two on each of a large GPU's 128 multiprocessors. There groups of four channels of f16
            // lie in 32 bytes, which memory moves together.
            let (side_by_side, sharing, least) = match caps.kernels {
                Kernels::Registers => (8, sharers(pixels, 1), 16),
                Kernels::Workgroup => (4, 64, 256),
            };
            let whole = images * self.groups >= least * side_by_side && side_by_side * sharing <= 256;
            let [x, gamma, beta] = [0, 1, 2].map(Operand::Input);
            let [y, statistics] = [0, 1].map(Operand::Output);
            let measures = |dispatch: Dispatch| {
                dispatch.param("epsilon", self.eps).bind("x", x).bind("statistics_out", statistics)
            };
            let normalizes = |dispatch: Dispatch| {
                launch.bind_scale_shift(dispatch.bind("gamma", gamma).bind("beta", beta).bind("y", y), 3)
            };
            if whole {
                let both = launch.over_whole_groups("measure_and_normalize", side_by_side, sharing);
                return normalizes(measures(both)).into();
            }
            let measure = measures(launch.over_groups("measure", launch.stored(), lanes)).arithmetic(5);
            let normalize = normalizes(launch.over_runs("normalize"))
                .arithmetic(if self.silu { 7 } else { 3 })
                .bind("x", x)
                .bind("statistics", statistics);
            Program { scratch: vec![], dispatches: vec![measure, normalize] }
        })
    }

    fn backward(&self, g: &mut Backward) -> Result<(), GraphError> {
        let (x, gamma, beta, dy, statistics) =
            (g.input(0), g.input(1), g.input(2), g.gradient(0), g.output(1));
        let scale_shift = self.scale_shift.then(|| g.input(3));
        let inputs = self.with_scale_shift(&[x, dy, statistics, gamma, beta], scale_shift);
        let sums = g.apply(GroupNormSums(self.clone()), &inputs)?;
        if (0..3).any(|i| g.needs(i)) {
            let inputs = self.with_scale_shift(&[x, dy, sums], scale_shift);
            let gradients = g.apply_all(GroupNormBackward(self.clone()), &inputs)?;
            for (i, gradient) in gradients.into_iter().enumerate() {
                if g.needs(i) {
                    g.accumulate(i, gradient)?;
                }
            }
        }
        if self.scale_shift && g.needs(3) {
            let op = GroupNormBackwardScaleShift { norm: self.clone(), dtype: g.spec(x).dtype };
            let gradient = g.apply(op, &[sums, gamma, beta])?;
            g.accumulate(3, gradient)?;
        }
        Ok(())
    }
}

/// One operand's shape.
fn expect_shape(op: &'static str, name: &str, found: &Spec, axes: &[usize]) -> Result<(), ShapeError> {
    let expected = Shape::new(axes);
    ensure_shape!(op, found.shape == expected, "{name} must be {expected}, found {}", found.shape);
    Ok(())
}
