//! The gradient of group normalization: the sums over pixels that all the others need, and one operator each for the
//! input, for γ and β, and for scale and shift. x, dy and the modulation are f32 or f16, and with them dx and the
//! modulation's gradient; all else is f32.

use super::launch::Launch;
use super::reference::Reference;
use super::{GroupNorm, expect_shape};
use crate::ensure_shape;
use crate::graph::{Candidate, Caps, Cost, Kernels, Op, Operand, Program, ShapeError};
use crate::ops::addend::Addend;
use crate::ops::channels::Extent;
use crate::ops::{expect_activations, expect_f32};
use crate::tensor::{Array, DType, Shape, Spec};

/// A = Σ dv and B = Σ dv x̂ over the pixels of each image, (N, 2, C), A first; dv = dy silu'(v), or dy.
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
        Ok(vec![Spec::f32([extent.images, 2, extent.channels])])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let r = Reference::new(&self.0, &x[0], &x[3], &x[4], &x[5..]);
        let Extent { images, channels, .. } = r.extent;
        let mut sums = Array::zeros(&Shape::new([images, 2, channels]));
        for i in 0..x[0].data.len() {
            let (n, c) = r.place(i);
            let xh = r.normalized(&x[0], &x[2].data, i);
            let dv = r.gradient_of_v(xh, x[1].data[i], i);
            sums.data[2 * n * channels + c] += dv;
            sums.data[(2 * n + 1) * channels + c] += dv * xh;
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

/// dx = (g - mean(g) - x̂ mean(g x̂)) / √(var + ε), means over the group, g = dv (1 + scale) γ.
///
/// Inputs: x, dy, statistics, sums, γ, β, and the modulation if there is one; without it, perhaps a tensor as large as dx
/// that is added to it. With both, its kernel would bind nine tensors, where WebGPU allows eight.
#[derive(Debug, Clone)]
pub struct GroupNormBackwardInput(pub GroupNorm);

impl Op for GroupNormBackwardInput {
    fn name(&self) -> &'static str {
        "group_norm_backward_input"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        let op = self.name();
        let most = if self.0.scale_shift { 7 } else { x.len().clamp(6, 7) };
        expect_activations(op, x, most, &[2, 3, 4, 5])?;
        let extent = self.0.check_gradient(op, x)?;
        expect_shape(op, "sums", &x[3], &[extent.images, 2, extent.channels])?;
        self.0.check_parameters(op, extent, &x[4..self.0.count(6)])?;
        Addend::check(op, x, self.0.count(6), x[0].shape.axes(), &[Addend::Same])?;
        Ok(vec![x[0].clone()])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let r = Reference::new(&self.0, &x[0], &x[4], &x[5], &x[6..self.0.count(6)]);
        let Extent { images, pixels, channels } = r.extent;
        let factor = |n: usize, c: usize| (1.0 + r.scale(n, c)) * r.gamma[c];
        let size = (pixels * channels / self.0.groups) as f64;
        let (mut mean_g, mut mean_gxh) =
            (vec![0.0; images * self.0.groups], vec![0.0; images * self.0.groups]);
        for n in 0..images {
            for c in 0..channels {
                mean_g[r.group(n, c)] += factor(n, c) * x[3].data[2 * n * channels + c] / size;
                mean_gxh[r.group(n, c)] += factor(n, c) * x[3].data[(2 * n + 1) * channels + c] / size;
            }
        }
        let mut dx = Array::from_fn(&x[0].shape, |i| {
            let (n, c) = r.place(i);
            let group = r.group(n, c);
            let xh = r.normalized(&x[0], &x[2].data, i);
            let g = r.gradient_of_v(xh, x[1].data[i], i) * factor(n, c);
            x[2].data[2 * group + 1] * (g - mean_g[group] - xh * mean_gxh[group])
        });
        Addend::add(x, self.0.count(6), &mut dx);
        vec![dx]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        // 2 for x̂, 5 for dx, 2 for v, 7 for SiLU's derivative, and what is added.
        let flops = if self.0.silu { 16 } else { 7 } + u64::from(x.len() > self.0.count(6));
        Cost::elementwise(x, y, flops)
    }

    fn candidates(&self, x: &[Spec], y: &[Spec], caps: &Caps) -> Vec<Candidate> {
        caps.both(|caps| -> Program {
            let launch = Launch::new(&self.0, Extent::of(&x[0].shape), x[0].dtype, caps);
            // 4 to 16 Vectors are usual, so 32 lanes leave no GPU waiting.
            let lanes = match caps.kernels {
                Kernels::Registers => 8,
                Kernels::Workgroup => 32,
            };
            let means = launch
                .over_groups("group_means", launch.modulated(), lanes)
                .arithmetic(0)
                .bind("sums", Operand::Input(3))
                .bind("gamma", Operand::Input(4))
                .bind("means_out", Operand::Scratch(0));
            let dx = launch
                .over_runs("backward_input")
                .bind("x", Operand::Input(0))
                .bind("dy", Operand::Input(1))
                .bind("statistics", Operand::Input(2))
                .bind("gamma", Operand::Input(4))
                .bind("beta", Operand::Input(5))
                .bind("means", Operand::Scratch(0))
                .bind("y", Operand::Output(0));
            let dx = Addend::bind(dx, "added", x, self.0.count(6), &y[0]);
            Program {
                scratch: vec![Spec::f32([2 * launch.extent.images * self.0.groups])],
                dispatches: vec![launch.bind_scale_shift(means, 6), launch.bind_scale_shift(dx, 6)],
            }
        })
    }

    fn takes_addend(&self, x: &[Spec], y: &Spec, addend: &Spec) -> bool {
        !self.0.scale_shift && x.len() == 6 && addend == y
    }
}

/// dγ = Σ (1 + scale) B and dβ = Σ (1 + scale) A over the images, (C) each.
///
/// Inputs: sums, and the modulation if there is one.
#[derive(Debug, Clone)]
pub struct GroupNormBackwardParams(pub GroupNorm);

impl Op for GroupNormBackwardParams {
    fn name(&self) -> &'static str {
        "group_norm_backward_params"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        let op = self.name();
        expect_activations(op, x, self.0.count(1), &[0])?;
        let extent = self.0.sums_extent(op, &x[0])?;
        x[1..].iter().try_for_each(|s| self.0.check_scale_shift(op, extent, s))?;
        Ok(vec![Spec::f32([extent.channels]), Spec::f32([extent.channels])])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let Extent { images, channels, .. } = Extent::of(&x[0].shape);
        let scale = |n: usize, c: usize| x.get(1).map_or(0.0, |s| s.data[2 * n * channels + c]);
        let total = |second: usize| {
            Array::from_fn(&Shape::new([channels]), |c| {
                (0..images).map(|n| (1.0 + scale(n, c)) * x[0].data[(2 * n + second) * channels + c]).sum()
            })
        };
        vec![total(1), total(0)]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        Cost { other_flops: 2 * x[0].shape.elements() as u64, ..Cost::of_traffic(x, y) }
    }

    fn candidates(&self, x: &[Spec], _y: &[Spec], caps: &Caps) -> Vec<Candidate> {
        caps.both(|caps| -> Program {
            let dtype = x.last().map_or(DType::F32, |modulation| modulation.dtype);
            let launch = Launch::new(&self.0, Extent::of(&x[0].shape), dtype, caps);
            let parameters = launch
                .over_images("backward_parameters")
                .bind("sums", Operand::Input(0))
                .bind("dgamma", Operand::Output(0))
                .bind("dbeta", Operand::Output(1));
            launch.bind_scale_shift(parameters, 1).into()
        })
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
            let (a, b) = (x[0].data[2 * n * channels + c], x[0].data[(2 * n + 1) * channels + c]);
            if i / channels % 2 == 0 { x[1].data[c] * b + x[2].data[c] * a } else { a }
        })]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        Cost::elementwise(x, y, 2)
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
