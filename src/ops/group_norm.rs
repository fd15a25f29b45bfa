//! Group normalization with a modulation by scale and shift and SiLU in the same pass
//! (`shaders/group_norm.wgsl`).
//!
//! Wu & He, *Group Normalization*, arXiv 1803.08494; the modulation is the adaptive normalization of
//! Dhariwal & Nichol, arXiv 2105.05233. The gradient is four operators: the sums over pixels that all the
//! others need, and one for the input, for γ and β, and for scale and shift.

use super::channels::{Extent, RUN_INVOCATIONS, column_workgroup, sharers};
use super::elementwise::{silu, silu_derivative};
use super::{Case, Fill, expect_f32, vector_width};
use crate::ensure_shape;
use crate::graph::{
    Backward, Candidate, Caps, Cost, Dispatch, GraphError, Kernels, Op, Operand, Program, ShapeError,
};
use crate::shader::{Source, Variant};
use crate::tensor::{Array, Shape, Spec, Tolerance};

static SHADER: Source = crate::wgsl!("group_norm");

/// x̂ = (x - mean) / √(var + ε), over all pixels and the channels of each group of each image;
/// u = x̂ γ + β; v = u (1 + scale) + shift, or u; y = silu(v), or v.
///
/// Inputs: x (N, H, W, C) or (N, T, C), γ (C), β (C), and if modulated scale and shift together, (N, 2C),
/// scale first. Outputs: y, and the statistics (N, groups, 2), mean and 1/√(var + ε).
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

/// The tensors of the operator and its gradients on the host, indexed as in the formula.
struct Reference<'a> {
    norm: &'a GroupNorm,
    extent: Extent,
    gamma: &'a [f64],
    beta: &'a [f64],
    scale_shift: Option<&'a [f64]>,
}

impl<'a> Reference<'a> {
    /// `scale_shift` is the list of inputs left over, one or none.
    fn new(
        norm: &'a GroupNorm,
        x: &Array,
        gamma: &'a Array,
        beta: &'a Array,
        scale_shift: &'a [Array],
    ) -> Self {
        let scale_shift = scale_shift.first().map(|a| a.data.as_slice());
        Self { norm, extent: Extent::of(&x.shape), gamma: &gamma.data, beta: &beta.data, scale_shift }
    }

    fn scale(&self, n: usize, c: usize) -> f64 {
        self.scale_shift.map_or(0.0, |s| s[2 * n * self.extent.channels + c])
    }

    fn shift(&self, n: usize, c: usize) -> f64 {
        self.scale_shift.map_or(0.0, |s| s[(2 * n + 1) * self.extent.channels + c])
    }

    /// (n, c) of a flat index of x.
    fn place(&self, i: usize) -> (usize, usize) {
        (i / self.extent.channels / self.extent.pixels, i % self.extent.channels)
    }

    /// Index of the group of channel c of image n.
    fn group(&self, n: usize, c: usize) -> usize {
        n * self.norm.groups + c / (self.extent.channels / self.norm.groups)
    }

    /// The mean of `f` over each group of each image.
    fn group_means(&self, f: impl Fn(usize) -> f64) -> Vec<f64> {
        let Extent { images, pixels, channels } = self.extent;
        let size = (pixels * channels / self.norm.groups) as f64;
        let mut means = vec![0.0; images * self.norm.groups];
        for i in 0..images * pixels * channels {
            let (n, c) = self.place(i);
            means[self.group(n, c)] += f(i) / size;
        }
        means
    }

    /// x̂ from the statistics.
    fn normalized(&self, x: &Array, statistics: &[f64], i: usize) -> f64 {
        let (n, c) = self.place(i);
        let g = self.group(n, c);
        (x.data[i] - statistics[2 * g]) * statistics[2 * g + 1]
    }

    /// v from x̂.
    fn modulated(&self, xh: f64, i: usize) -> f64 {
        let (n, c) = self.place(i);
        (xh * self.gamma[c] + self.beta[c]) * (1.0 + self.scale(n, c)) + self.shift(n, c)
    }

    /// dv from x̂ and dy.
    fn gradient_of_v(&self, xh: f64, dy: f64, i: usize) -> f64 {
        if self.norm.silu { dy * silu_derivative(self.modulated(xh, i)) } else { dy }
    }
}

/// How the kernels see the shapes.
struct Launch<'a> {
    norm: &'a GroupNorm,
    caps: &'a Caps,
    extent: Extent,
    width: usize,
    variant: Variant,
}

impl<'a> Launch<'a> {
    fn new(norm: &'a GroupNorm, extent: Extent, caps: &'a Caps) -> Self {
        let (width, variant) = vector_width(&[extent.channels / norm.groups]);
        let variant = variant.with("SILU", norm.silu);
        Self { norm, caps, extent, width, variant }
    }

    fn dispatch(&self, entry: &'static str, variant: Variant, count: usize) -> Dispatch {
        Dispatch::new(&SHADER, entry)
            .variant(variant)
            .param("images", self.extent.images)
            .param("pixels", self.extent.pixels)
            .param("vectors", self.extent.channels / self.width)
            .param("groups", self.norm.groups)
            .param("count", count)
            .param("epsilon", self.norm.eps)
    }

    /// The entry point for these inputs.
    fn entry(&self, plain: &'static str, modulated: &'static str) -> &'static str {
        if self.norm.scale_shift { modulated } else { plain }
    }

    /// One invocation per run of pixels.
    fn over_runs(&self, entry: &'static str, extent: Extent) -> Dispatch {
        let runs = extent.runs(self.width);
        self.dispatch(entry, self.variant.clone(), runs).linear(runs, RUN_INVOCATIONS)
    }

    /// One workgroup per group of each of the images.
    fn over_groups(&self, entry: &'static str, lanes: usize) -> Dispatch {
        let count = self.extent.images * self.norm.groups;
        let variant = self.variant.clone().with("LANES", format!("{lanes}u"));
        self.dispatch(entry, variant, count).workgroups(count)
    }

    /// One workgroup per block of channels of each of the images, of so many rows.
    fn over_columns(&self, entry: &'static str, images: usize, rows: usize) -> Dispatch {
        let vectors = self.extent.channels / self.width;
        let (variant, blocks) = column_workgroup(self.variant.clone(), rows, vectors, self.caps);
        self.dispatch(entry, variant, images * blocks).workgroups(images * blocks)
    }

    /// Binds the optional input.
    fn bind_scale_shift(&self, dispatch: Dispatch, input: usize) -> Dispatch {
        if self.norm.scale_shift { dispatch.bind("scale_shift", Operand::Input(input)) } else { dispatch }
    }
}

impl GroupNorm {
    /// The extent of x (N, ..., C), or of sums (N, 2, C).
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

    /// Images and channels of sums (N, 2, C).
    fn sums_extent(&self, op: &'static str, sums: &Spec) -> Result<Extent, ShapeError> {
        let extent = self.extent(op, "sums", sums)?;
        expect_shape(op, "sums", sums, &[extent.images, 2, extent.channels])?;
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
        expect_f32("group_norm", x, if self.scale_shift { 4 } else { 3 })?;
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
            let launch = Launch::new(self, Extent::of(&x[0].shape), caps);
            let Extent { pixels, channels, .. } = launch.extent;
            let vectors = pixels * channels / self.groups / launch.width;
            let lanes = match caps.kernels {
                // One SIMD register: 8x32x32x64 in 16 groups takes 1.8 ms on llvmpipe, with 64 lanes 5.6 ms.
                Kernels::Registers => sharers(vectors, 8),
                Kernels::Workgroup => vectors.next_power_of_two().clamp(32, 256),
            };
            let measure = launch
                .over_groups("measure", lanes)
                .bind("x", Operand::Input(0))
                .bind("statistics_out", Operand::Output(1));
            let normalize = launch
                .over_runs(launch.entry("normalize", "normalize_modulated"), launch.extent)
                .bind("x", Operand::Input(0))
                .bind("gamma", Operand::Input(1))
                .bind("beta", Operand::Input(2))
                .bind("statistics", Operand::Output(1))
                .bind("y", Operand::Output(0));
            Program { scratch: vec![], dispatches: vec![measure, launch.bind_scale_shift(normalize, 3)] }
        })
    }

    fn backward(&self, g: &mut Backward) -> Result<(), GraphError> {
        let (x, gamma, beta, dy, statistics) =
            (g.input(0), g.input(1), g.input(2), g.gradient(0), g.output(1));
        let scale_shift = self.scale_shift.then(|| g.input(3));
        let inputs = self.with_scale_shift(&[x, dy, statistics, gamma, beta], scale_shift);
        let sums = g.apply(GroupNormSums(self.clone()), &inputs)?;
        if g.needs(0) {
            let inputs = self.with_scale_shift(&[x, dy, statistics, sums, gamma, beta], scale_shift);
            let dx = g.apply(GroupNormBackwardInput(self.clone()), &inputs)?;
            g.accumulate(0, dx)?;
        }
        if g.needs(1) || g.needs(2) {
            let inputs = self.with_scale_shift(&[sums], scale_shift);
            let gradients = g.apply_all(GroupNormBackwardParams(self.clone()), &inputs)?;
            for (i, gradient) in [1, 2].into_iter().zip(gradients) {
                if g.needs(i) {
                    g.accumulate(i, gradient)?;
                }
            }
        }
        if self.scale_shift && g.needs(3) {
            let gradient = g.apply(GroupNormBackwardScaleShift(self.clone()), &[sums, gamma, beta])?;
            g.accumulate(3, gradient)?;
        }
        Ok(())
    }
}

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
        expect_f32(op, x, if self.0.scale_shift { 6 } else { 5 })?;
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
            let launch = Launch::new(&self.0, Extent::of(&x[0].shape), caps);
            let Extent { images, pixels, .. } = launch.extent;
            let sums = launch
                .over_columns(launch.entry("sum_pixels", "sum_pixels_modulated"), images, pixels)
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
/// Inputs: x, dy, statistics, sums, γ, β, and the modulation if there is one.
#[derive(Debug, Clone)]
pub struct GroupNormBackwardInput(pub GroupNorm);

impl Op for GroupNormBackwardInput {
    fn name(&self) -> &'static str {
        "group_norm_backward_input"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        let op = self.name();
        expect_f32(op, x, if self.0.scale_shift { 7 } else { 6 })?;
        let extent = self.0.check_gradient(op, x)?;
        expect_shape(op, "sums", &x[3], &[extent.images, 2, extent.channels])?;
        self.0.check_parameters(op, extent, &x[4..])?;
        Ok(vec![x[0].clone()])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let r = Reference::new(&self.0, &x[0], &x[4], &x[5], &x[6..]);
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
        vec![Array::from_fn(&x[0].shape, |i| {
            let (n, c) = r.place(i);
            let group = r.group(n, c);
            let xh = r.normalized(&x[0], &x[2].data, i);
            let g = r.gradient_of_v(xh, x[1].data[i], i) * factor(n, c);
            x[2].data[2 * group + 1] * (g - mean_g[group] - xh * mean_gxh[group])
        })]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        // 2 for x̂, 5 for dx, 2 for v, 7 for SiLU's derivative.
        Cost::elementwise(x, y, if self.0.silu { 16 } else { 7 })
    }

    fn candidates(&self, x: &[Spec], _y: &[Spec], caps: &Caps) -> Vec<Candidate> {
        caps.both(|caps| -> Program {
            let launch = Launch::new(&self.0, Extent::of(&x[0].shape), caps);
            // 4 to 16 Vectors are usual, so 32 lanes leave no GPU waiting.
            let lanes = match caps.kernels {
                Kernels::Registers => 8,
                Kernels::Workgroup => 32,
            };
            let means = launch
                .over_groups(launch.entry("group_means", "group_means_modulated"), lanes)
                .bind("sums", Operand::Input(3))
                .bind("gamma", Operand::Input(4))
                .bind("means_out", Operand::Scratch(0));
            let dx = launch
                .over_runs(launch.entry("backward_input", "backward_input_modulated"), launch.extent)
                .bind("x", Operand::Input(0))
                .bind("dy", Operand::Input(1))
                .bind("statistics", Operand::Input(2))
                .bind("gamma", Operand::Input(4))
                .bind("beta", Operand::Input(5))
                .bind("means", Operand::Scratch(0))
                .bind("y", Operand::Output(0));
            Program {
                scratch: vec![Spec::f32([2 * launch.extent.images * self.0.groups])],
                dispatches: vec![launch.bind_scale_shift(means, 6), launch.bind_scale_shift(dx, 6)],
            }
        })
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
        expect_f32(op, x, if self.0.scale_shift { 2 } else { 1 })?;
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
            let launch = Launch::new(&self.0, Extent::of(&x[0].shape), caps);
            let images = launch.extent.images;
            let parameters = launch
                .over_columns(launch.entry("backward_parameters", "backward_parameters_modulated"), 1, images)
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
pub struct GroupNormBackwardScaleShift(pub GroupNorm);

impl Op for GroupNormBackwardScaleShift {
    fn name(&self) -> &'static str {
        "group_norm_backward_scale_shift"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        let op = self.name();
        expect_f32(op, x, 3)?;
        let extent = self.0.sums_extent(op, &x[0])?;
        self.0.check_parameters(op, extent, &x[1..])?;
        Ok(vec![Spec::f32([extent.images, 2 * extent.channels])])
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
            let launch = Launch::new(&self.0, Extent::of(&x[0].shape), caps);
            let Extent { images, channels, .. } = launch.extent;
            launch
                .over_runs("backward_scale_shift", Extent { images: 1, pixels: images, channels })
                .bind("sums", Operand::Input(0))
                .bind("gamma", Operand::Input(1))
                .bind("beta", Operand::Input(2))
                .bind("dscale_shift", Operand::Output(0))
                .into()
        })
    }
}

/// One operand's shape.
fn expect_shape(op: &'static str, name: &str, found: &Spec, axes: &[usize]) -> Result<(), ShapeError> {
    let expected = Shape::new(axes);
    ensure_shape!(op, found.shape == expected, "{name} must be {expected}, found {}", found.shape);
    Ok(())
}

/// Test cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let shapes: [(&[usize], usize); 9] = [
        (&[3, 1, 1, 4], 1),
        (&[2, 1, 1, 6], 2),
        (&[2, 5, 7, 7], 1),
        (&[1, 5, 7, 6], 6),
        (&[2, 41, 47, 5], 5),
        (&[2, 9, 112], 16),
        (&[2, 16, 16, 32], 8),
        (&[3, 4, 4, 48], 1),
        (&[2, 23, 64], 2),
    ];
    for (axes, groups) in shapes {
        for (silu, scale_shift) in [(false, false), (true, false), (false, true), (true, true)] {
            let norm = GroupNorm { groups, eps: 1e-5, silu, scale_shift };
            let name = format!(
                "{}, {groups} groups{}{}",
                Shape::new(axes),
                if silu { ", silu" } else { "" },
                if scale_shift { ", modulated" } else { "" }
            );
            cases.extend(norm.cases(&name, axes));
        }
    }

    // One value per group: its variance is 0 and y does not depend on x.
    let norm = GroupNorm { groups: 6, eps: 1e-5, silu: true, scale_shift: true };
    cases.push(norm.cases("(3, 1, 1, 6), 6 groups", &[3, 1, 1, 6]).swap_remove(0));

    // The mean is stored in f32, so it is off by up to 2^-18 = 4e-6 near 100, and with it x̂ at standard
    // deviation 1: y is off by 4e-6 γ, and γ, normal, reaches 4. Without centring the squares it is off by
    // 1e-3, and without correcting the mean by 3e-5 over 256 x 256 pixels.
    let norm = GroupNorm { groups: 2, eps: 1e-5, silu: false, scale_shift: false };
    let tolerance = Tolerance { absolute: 1.5e-5, relative: 1e-5 };
    for axes in [[2, 16, 16, 8], [1, 256, 256, 8]] {
        let forward = norm.cases(&format!("{}, mean 100", Shape::new(axes)), &axes).swap_remove(0);
        cases.push(forward.fill(0, Fill::Uniform(98.0, 102.0)).tolerance(tolerance).large());
    }

    // One-pixel images: the most runs and groups for their size; and of one channel, the most workgroups
    // of sums, which are slow on a CPU driver when they are made for a GPU.
    let norm = GroupNorm { groups: 1, eps: 1e-5, silu: true, scale_shift: false };
    let name = "past 65535 workgroups";
    let wide = norm.cases(name, &[65_600, 1, 65]).into_iter().step_by(2).take(2);
    let narrow = norm.cases(name, &[65_600, 1, 1]).into_iter().skip(1);
    cases.extend(wide.chain(narrow).map(Case::large));

    // More pixels than the 65535 rounds that llvmpipe gives a loop, for one and for eight invocations.
    let norm = GroupNorm { groups: 1, eps: 1e-5, silu: false, scale_shift: true };
    for axes in [[1, 256, 257, 32], [1, 1024, 520, 1]] {
        cases.extend(norm.cases(&Shape::new(axes).to_string(), &axes).into_iter().take(2).map(Case::large));
    }
    cases
}

impl GroupNorm {
    /// The operator, then its gradients, on an activation of this shape.
    fn cases(&self, name: &str, axes: &[usize]) -> Vec<Case> {
        let x = Spec::f32(axes);
        let Extent { images, channels, .. } = Extent::of(&x.shape);
        let parameters = Spec::f32([channels]);
        let statistics = Spec::f32([images, self.groups, 2]);
        let sums = Spec::f32([images, 2, channels]);
        let scale_shift = Some(Spec::f32([images, 2 * channels]));
        let inputs = |tensors: &[&Spec]| {
            let tensors: Vec<Spec> = tensors.iter().map(|&s| s.clone()).collect();
            self.with_scale_shift(&tensors, scale_shift.clone())
        };
        let (gamma, beta) = (&parameters, &parameters);
        let mut cases = vec![
            Case::new(name, self.clone(), &inputs(&[&x, gamma, beta])),
            Case::new(name, GroupNormSums(self.clone()), &inputs(&[&x, &x, &statistics, gamma, beta])),
            Case::new(
                name,
                GroupNormBackwardInput(self.clone()),
                &inputs(&[&x, &x, &statistics, &sums, gamma, beta]),
            ),
            Case::new(name, GroupNormBackwardParams(self.clone()), &inputs(&[&sums])),
        ];
        if self.scale_shift {
            let op = GroupNormBackwardScaleShift(self.clone());
            cases.push(Case::new(name, op, &[sums, parameters.clone(), parameters]));
        }
        cases[1..].iter_mut().for_each(|case| case.gradients.clear());
        cases
    }
}
