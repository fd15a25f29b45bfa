//! The gradient of group normalization: the sums over pixels that all the others need, one operator for the input with γ and β,
//! and one for scale and shift. x, dy and the modulation are f32 or f16, and with them dx and the
//! modulation's gradient; all else is f32.

use super::launch::Launch;
use super::reference::Reference;
use super::{GroupNorm, expect_shape};
use crate::ensure_shape;
use crate::graph::{Candidate, Caps, Cost, Kernels, Op, Operand, Program, ShapeError};
use crate::ops::addend::Addend;
use crate::ops::channels::{Extent, RUN_PIXELS};
use crate::ops::elementwise::silu_derivative;
use crate::ops::{expect_activations, expect_f32};
use crate::tensor::{Array, DType, Shape, Spec};

/// Rows of the sums of an image.
pub(super) const SUMS: usize = 6;
const A: usize = 0;
const B: usize = 1;
const MEAN: usize = 2;
const RSTD: usize = 3;
const FACTOR: usize = 4;
const OFFSET: usize = 5;

/// A = Σ dv and B = Σ dv x̂ over the pixels of each image; dv = dy silu'(v), or dy. With them what the other gradients need of a
/// channel: mean, 1/√(var + ε), Γ = γ (1 + scale) and Δ = β (1 + scale) + shift. (N, 6, C), in this order.
///
/// Inputs: x, dy, statistics, γ, β, and the modulation if there is one.
#[derive(Debug, Clone)]
pub struct GroupNormSums(pub GroupNorm);

impl Op for GroupNormSums {
    fn name(&self) -> &'static str {
        "group_norm_sums"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        let op = self.name();
        expect_activations(op, x, self.0.count(5), &[2, 3, 4])?;
        let extent = self.0.check_gradient(op, x)?;
        self.0.check_parameters(op, extent, &x[3..])?;
        Ok(vec![Spec::f32([extent.images, SUMS, extent.channels])])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let r = Reference::new(&self.0, &x[0], &x[3], &x[4], &x[5..]);
        let Extent { images, channels, .. } = r.extent;
        let mut sums = Array::from_fn(&Shape::new([images, SUMS, channels]), |i| {
            let (n, row, c) = (i / channels / SUMS, i / channels % SUMS, i % channels);
            let (group, plus) = (r.group(n, c), 1.0 + r.scale(n, c));
            match row {
                MEAN => x[2].data[2 * group],
                RSTD => x[2].data[2 * group + 1],
                FACTOR => x[3].data[c] * plus,
                OFFSET => x[4].data[c] * plus + r.shift(n, c),
                _ => 0.0,
            }
        });
        for i in 0..x[0].data.len() {
            let (n, c) = r.place(i);
            let xh = r.normalized(&x[0], &x[2].data, i);
            let dv = r.gradient_of_v(xh, x[1].data[i], i);
            sums.data[(SUMS * n + A) * channels + c] += dv;
            sums.data[(SUMS * n + B) * channels + c] += dv * xh;
        }
        vec![sums]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        // 2 for x̂, 3 for the sums, 2 for v, 7 for SiLU's derivative.
        let flops = if self.0.silu { 14 } else { 5 };
        Cost { other_flops: flops * x[0].shape.elements() as u64, ..Cost::of_traffic(x, y) }
    }

    fn candidates(&self, x: &[Spec], _y: &[Spec], caps: &Caps) -> Vec<Candidate> {
        caps.both(|caps| -> Program {
            let launch = Launch::new(&self.0, Extent::of(&x[0].shape), x[0].dtype, caps);
            let sums = launch
                .over_pixels("sum_pixels")
                .bind("x", Operand::Input(0))
                .bind("dy", Operand::Input(1))
                .bind("statistics", Operand::Input(2))
                .bind("gamma", Operand::Input(3))
                .bind("beta", Operand::Input(4))
                .bind("sums_out", Operand::Output(0));
            launch.bind_scale_shift(sums, 5).into()
        })
    }
}

/// dx = (g - mean(g) - x̂ mean(g x̂)) / √(var + ε), means over the group, g = dv (1 + scale) γ; and dγ = Σ (1 + scale) B and
/// dβ = Σ (1 + scale) A over the images, (C) each.
///
/// Inputs: x, dy, sums, the modulation if there is one, and perhaps a tensor as large as dx that is added to it.
#[derive(Debug, Clone)]
pub struct GroupNormBackward(pub GroupNorm);

impl GroupNormBackward {
    /// Pixels of a run, each of which takes two loads, where the means of its group take three for each Vector of the group. On a
    /// CPU driver the divisions and loads that a run begins with cost as much as six pixels.
    fn run_pixels(&self, vectors: usize, caps: &Caps) -> usize {
        let least = match caps.kernels {
            Kernels::Registers => 4 * RUN_PIXELS,
            Kernels::Workgroup => RUN_PIXELS,
        };
        least.max((2 * vectors / self.0.groups).next_power_of_two())
    }
}

impl Op for GroupNormBackward {
    fn name(&self) -> &'static str {
        "group_norm_backward"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        let (op, count) = (self.name(), self.0.count(3));
        expect_activations(op, x, x.len().clamp(count, count + 1), &[2])?;
        let extent = self.0.extent(op, "x", &x[0])?;
        expect_shape(op, "dy", &x[1], x[0].shape.axes())?;
        expect_shape(op, "sums", &x[2], &[extent.images, SUMS, extent.channels])?;
        x[3..count].iter().try_for_each(|s| self.0.check_scale_shift(op, extent, s))?;
        Addend::check(op, x, count, x[0].shape.axes(), &[Addend::Same])?;
        Ok(vec![x[0].clone(), Spec::f32([extent.channels]), Spec::f32([extent.channels])])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let Extent { images, pixels, channels } = Extent::of(&x[0].shape);
        let sum = |row: usize, n: usize, c: usize| x[2].data[(SUMS * n + row) * channels + c];
        let width = channels / self.0.groups;
        // [images][groups]
        let mean = |row: usize| -> Vec<f64> {
            let of_group = |i: usize| {
                let (n, first) = (i / self.0.groups, i % self.0.groups * width);
                (first..first + width).map(|c| sum(FACTOR, n, c) * sum(row, n, c)).sum::<f64>()
            };
            let size = (pixels * width) as f64;
            (0..images * self.0.groups).map(|i| of_group(i) / size).collect()
        };
        let (mean_g, mean_gxh) = (mean(A), mean(B));
        let mut dx = Array::from_fn(&x[0].shape, |i| {
            let (n, c) = (i / channels / pixels, i % channels);
            let group = n * self.0.groups + c / width;
            let xh = (x[0].data[i] - sum(MEAN, n, c)) * sum(RSTD, n, c);
            let v = xh * sum(FACTOR, n, c) + sum(OFFSET, n, c);
            let dv = if self.0.silu { x[1].data[i] * silu_derivative(v) } else { x[1].data[i] };
            sum(RSTD, n, c) * (dv * sum(FACTOR, n, c) - mean_g[group] - xh * mean_gxh[group])
        });
        Addend::add(x, self.0.count(3), &mut dx);
        let scale =
            |n: usize, c: usize| if self.0.scale_shift { x[3].data[2 * n * channels + c] } else { 0.0 };
        let total = |row: usize| {
            Array::from_fn(&Shape::new([channels]), |c| {
                (0..images).map(|n| (1.0 + scale(n, c)) * sum(row, n, c)).sum()
            })
        };
        vec![dx, total(B), total(A)]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        // 2 for x̂, 5 for dx, 2 for v, 7 for SiLU's derivative, and what is added.
        let flops = if self.0.silu { 16 } else { 7 } + u64::from(x.len() > self.0.count(3));
        Cost::elementwise(x, y, flops)
    }

    fn candidates(&self, x: &[Spec], y: &[Spec], caps: &Caps) -> Vec<Candidate> {
        caps.both(|caps| -> Program {
            let launch = Launch::new(&self.0, Extent::of(&x[0].shape), x[0].dtype, caps);
            let vectors = launch.extent.channels / launch.width;
            let dispatch = launch
                .over_runs_and_parameters("backward", self.run_pixels(vectors, caps))
                .bind("x", Operand::Input(0))
                .bind("dy", Operand::Input(1))
                .bind("sums", Operand::Input(2))
                .bind("y", Operand::Output(0))
                .bind("dgamma", Operand::Output(1))
                .bind("dbeta", Operand::Output(2));
            let dispatch = launch.bind_scale_shift(dispatch, 3);
            Addend::bind(dispatch, "added", x, self.0.count(3), &y[0]).into()
        })
    }

    fn takes_addend(&self, x: &[Spec], y: &Spec, addend: &Spec) -> bool {
        x.len() == self.0.count(3) && Addend::fits(addend, y, &[Addend::Same])
    }
}

/// dscale = γ B + β A and dshift = A, together (N, 2C).
///
/// Inputs: sums, γ, β.
#[derive(Debug, Clone)]
pub struct GroupNormBackwardScaleShift {
    /// The normalization.
    pub norm: GroupNorm,
    /// The type in which the modulation is stored, and its gradient with it.
    pub dtype: DType,
}

impl Op for GroupNormBackwardScaleShift {
    fn name(&self) -> &'static str {
        "group_norm_backward_scale_shift"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        let op = self.name();
        expect_f32(op, x, 3)?;
        ensure_shape!(op, self.dtype.is_float(), "a modulation is f32 or f16, not {}", self.dtype.name());
        let extent = self.norm.sums_extent(op, &x[0])?;
        self.norm.check_parameters(op, extent, &x[1..])?;
        Ok(vec![Spec::new([extent.images, 2 * extent.channels], self.dtype)])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let Extent { images, channels, .. } = Extent::of(&x[0].shape);
        vec![Array::from_fn(&Shape::new([images, 2 * channels]), |i| {
            let (n, c) = (i / (2 * channels), i % channels);
            let [a, b] = [A, B].map(|row| x[0].data[(SUMS * n + row) * channels + c]);
            if i / channels % 2 == 0 { x[1].data[c] * b + x[2].data[c] * a } else { a }
        })]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        // Of the sums it reads A and B alone.
        let sums = &x[0].shape;
        let read = Spec::f32([sums[0], 2, sums[2]]);
        Cost::elementwise(&[read, x[1].clone(), x[2].clone()], y, 2)
    }

    fn candidates(&self, x: &[Spec], _y: &[Spec], caps: &Caps) -> Vec<Candidate> {
        caps.both(|caps| -> Program {
            Launch::new(&self.norm, Extent::of(&x[0].shape), self.dtype, caps)
                .over_image_runs("backward_scale_shift")
                .bind("sums", Operand::Input(0))
                .bind("gamma", Operand::Input(1))
                .bind("beta", Operand::Input(2))
                .bind("dscale_shift", Operand::Output(0))
                .into()
        })
    }
}
