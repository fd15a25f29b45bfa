//! Along the channels: a vector added to every pixel, sums over pixels, concatenation and slices
//! (`shaders/channels.wgsl`).

use super::{Case, expect_float, stored, vector_width};
use crate::ensure_shape;
use crate::graph::{
    Backward, Candidate, Caps, Cost, Dispatch, GraphError, Kernels, Op, Operand, Program, ShapeError,
};
use crate::shader::{Source, Variant};
use crate::tensor::{Array, Shape, Spec};

static SHADER: Source = crate::wgsl!("channels");

/// Workgroup size of the kernels that walk along runs of pixels.
pub(super) const RUN_INVOCATIONS: usize = 64;

/// Pixels of one run: with fewer than 8 vector loads per invocation a CPU driver spends more on the invocation than on
/// its loads.
pub(super) const RUN_PIXELS: usize = 8;

/// The variant of a kernel that walks along runs of so many pixels (`lib/pixel_run`).
pub(super) fn run_variant(variant: Variant, pixels: usize) -> Variant {
    variant.with("PIXELS", format!("{pixels}u")).with("RUN_INVOCATIONS", format!("{RUN_INVOCATIONS}u"))
}

/// An activation's axes with its pixels, or tokens, flattened: `(images, pixels, channels)`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    pub images: usize,
    pub pixels: usize,
    pub channels: usize,
}

impl Extent {
    /// Of a tensor whose first axis counts images and whose last one counts channels.
    pub fn of(shape: &Shape) -> Self {
        let axes = shape.axes();
        let pixels = axes[1..axes.len() - 1].iter().product();
        Self { images: shape[0], pixels, channels: shape.last() }
    }

    /// Of a tensor for which the difference between images and pixels does not matter.
    pub fn rows(shape: &Shape) -> Self {
        Self { images: 1, pixels: shape.rows(), channels: shape.last() }
    }

    /// Invocations of a kernel that walks along runs of pixels, with so many channels to a Vector.
    pub fn runs(&self, width: usize) -> usize {
        self.runs_of(RUN_PIXELS, width)
    }

    /// The same with so many pixels to a run.
    pub fn runs_of(&self, pixels: usize, width: usize) -> usize {
        self.images * self.pixels.div_ceil(pixels) * (self.channels / width)
    }
}

/// Invocations that share a sum of so many terms: `least`, or a greater power of two for long sums, up to
/// the 256 of WebGPU's default limit. llvmpipe leaves a loop after 65535 rounds without a word, and 16384
/// leaves room for two million terms.
pub(super) fn sharers(terms: usize, least: usize) -> usize {
    terms.div_ceil(16_384).next_power_of_two().clamp(least, 256)
}

/// Columns that an invocation takes where `columns` of `all` lie side by side in a workgroup, of which there would be so many for
/// each of `images`. On a CPU driver, up to 4, where that leaves 16 workgroups: 8 Vectors are half of a row of 64 channels, and two
/// cores that read every other 128 bytes read 64 MiB in 15.5 ms, but whole rows in 5.
pub(super) fn columns_each(images: usize, all: usize, columns: usize, caps: &Caps) -> usize {
    let fits = |&each: &usize| all.is_multiple_of(columns * each) && images * all / (columns * each) >= 16;
    match caps.kernels {
        Kernels::Registers => [4, 2].into_iter().find(fits).unwrap_or(1),
        Kernels::Workgroup => 1,
    }
}

/// The variant of a kernel whose invocations take so many columns each.
pub(super) fn each_variant(variant: Variant, each: usize) -> Variant {
    if each > 1 { variant.with("EACH", format!("{each}u")) } else { variant }
}

/// The shape of the workgroups that sum down columns of Vectors (`lib/column_sum`) with so many rows in each image, and
/// the number of workgroups for one row. A GPU wants 256 invocations for each 8 Vectors (128 neighbouring
/// bytes); a CPU driver one SIMD register of 8 invocations, with a single row if it can.
pub(super) fn column_workgroup(
    variant: Variant,
    images: usize,
    rows: usize,
    vectors: usize,
    caps: &Caps,
) -> (Variant, usize) {
    let columns = vectors.next_power_of_two().min(8);
    let rows = match caps.kernels {
        Kernels::Registers => sharers(rows, 8 / columns).min(256 / columns),
        Kernels::Workgroup => 256 / columns,
    };
    let each = columns_each(images, vectors, columns, caps);
    let variant = variant.with("COLUMNS", format!("{columns}u")).with("ROWS", format!("{rows}u"));
    (each_variant(variant, each), vectors.div_ceil(columns * each))
}

/// A launch over runs of pixels of y.
fn over_runs(entry: &'static str, variant: Variant, width: usize, extent: Extent) -> Dispatch {
    Dispatch::new(&SHADER, entry)
        .variant(run_variant(variant, RUN_PIXELS))
        .param("pixels", extent.pixels)
        .param("vectors", extent.channels / width)
        .param("count", extent.runs(width))
        .linear(extent.runs(width), RUN_INVOCATIONS)
}

/// y = x + e, the same vector for every pixel of an image: (N, H, W, C) + (N, C).
#[derive(Debug, Clone)]
pub struct AddChannels;

impl Op for AddChannels {
    fn name(&self) -> &'static str {
        "add_channels"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        expect_float("add_channels", x, 2)?;
        let (image, vector) = (&x[0].shape, &x[1].shape);
        ensure_shape!("add_channels", image.rank() >= 2, "x must be (N, ..., C), found {image}");
        ensure_shape!(
            "add_channels",
            vector.axes() == [image[0], image.last()],
            "x is {image}, so e must be ({}, {}), found {vector}",
            image[0],
            image.last()
        );
        Ok(vec![x[0].clone()])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let Extent { pixels, channels, .. } = Extent::of(&x[0].shape);
        vec![Array::from_fn(&x[0].shape, |i| {
            let (n, c) = (i / channels / pixels, i % channels);
            x[0].data[i] + x[1].data[n * channels + c]
        })]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        Cost::elementwise(x, y, 1)
    }

    fn candidates(&self, _x: &[Spec], y: &[Spec], _caps: &Caps) -> Vec<Candidate> {
        let extent = Extent::of(&y[0].shape);
        let (width, variant) = vector_width(&[extent.channels]);
        over_runs("add_channels", stored(variant, y[0].dtype), width, extent)
            .bind("x", Operand::Input(0))
            .bind("e", Operand::Input(1))
            .bind("y", Operand::Output(0))
            .into()
    }

    fn is_sum(&self) -> bool {
        true
    }

    fn backward(&self, g: &mut Backward) -> Result<(), GraphError> {
        let dy = g.gradient(0);
        if g.needs(0) {
            g.accumulate(0, dy)?;
        }
        if g.needs(1) {
            let de = g.apply(SumPixels, &[dy])?;
            g.accumulate(1, de)?;
        }
        Ok(())
    }
}

/// y = Σ x over the pixels of each image: (N, H, W, C) to (N, C).
#[derive(Debug, Clone)]
pub struct SumPixels;

impl Op for SumPixels {
    fn name(&self) -> &'static str {
        "sum_pixels"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        expect_float("sum_pixels", x, 1)?;
        let shape = &x[0].shape;
        ensure_shape!("sum_pixels", shape.rank() >= 2, "x must be (N, ..., C), found {shape}");
        Ok(vec![x[0].with_shape([shape[0], shape.last()])])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let Extent { images, pixels, channels } = Extent::of(&x[0].shape);
        let mut y = Array::zeros(&Shape::new([images, channels]));
        for n in 0..images {
            for p in 0..pixels {
                for c in 0..channels {
                    y.data[n * channels + c] += x[0].data[(n * pixels + p) * channels + c];
                }
            }
        }
        vec![y]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        Cost { other_flops: x[0].shape.elements() as u64, ..Cost::of_traffic(x, y) }
    }

    fn candidates(&self, x: &[Spec], _y: &[Spec], caps: &Caps) -> Vec<Candidate> {
        caps.both(|caps| -> Program {
            let extent = Extent::of(&x[0].shape);
            let (width, variant) = vector_width(&[extent.channels]);
            let vectors = extent.channels / width;
            let (variant, blocks) = column_workgroup(variant, extent.images, extent.pixels, vectors, caps);
            Dispatch::new(&SHADER, "sum_pixels")
                .variant(stored(variant, x[0].dtype))
                .bind("x", Operand::Input(0))
                .bind("y", Operand::Output(0))
                .param("pixels", extent.pixels)
                .param("vectors", vectors)
                .param("count", extent.images * blocks)
                .workgroups(extent.images * blocks)
                .into()
        })
    }

    fn backward(&self, g: &mut Backward) -> Result<(), GraphError> {
        let dx = SpreadPixels { shape: g.shape(g.input(0)).clone() };
        let dy = g.gradient(0);
        let dx = g.apply(dx, &[dy])?;
        g.accumulate(0, dx)
    }
}

/// y[n, p, c] = x[n, c] for every pixel: (N, C) to `shape`, (N, ..., C). The gradient of [`SumPixels`].
#[derive(Debug, Clone)]
pub struct SpreadPixels {
    /// The shape of y.
    pub shape: Shape,
}

impl Op for SpreadPixels {
    fn name(&self) -> &'static str {
        "spread_pixels"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        expect_float("spread_pixels", x, 1)?;
        let y = &self.shape;
        ensure_shape!("spread_pixels", y.rank() >= 2, "y must be (N, ..., C), found {y}");
        let fits = x[0].shape.axes() == [y[0], y.last()];
        ensure_shape!("spread_pixels", fits, "x is {}, which does not spread to {y}", x[0].shape);
        Ok(vec![x[0].with_shape(y.axes())])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let Extent { pixels, channels, .. } = Extent::of(&self.shape);
        vec![Array::from_fn(&self.shape, |i| {
            let (n, c) = (i / channels / pixels, i % channels);
            x[0].data[n * channels + c]
        })]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        Cost::of_traffic(x, y)
    }

    fn candidates(&self, _x: &[Spec], y: &[Spec], _caps: &Caps) -> Vec<Candidate> {
        let extent = Extent::of(&y[0].shape);
        let (width, variant) = vector_width(&[extent.channels]);
        over_runs("spread_pixels", stored(variant, y[0].dtype), width, extent)
            .bind("e", Operand::Input(0))
            .bind("y", Operand::Output(0))
            .into()
    }

    fn backward(&self, g: &mut Backward) -> Result<(), GraphError> {
        let dy = g.gradient(0);
        let dx = g.apply(SumPixels, &[dy])?;
        g.accumulate(0, dx)
    }
}

/// The channels of a, then those of b: (..., Ca) and (..., Cb) to (..., Ca + Cb).
#[derive(Debug, Clone)]
pub struct Concat;

impl Op for Concat {
    fn name(&self) -> &'static str {
        "concat"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        expect_float("concat", x, 2)?;
        let (a, b) = (x[0].shape.axes(), x[1].shape.axes());
        let equal = !a.is_empty() && a.len() == b.len() && a[..a.len() - 1] == b[..b.len() - 1];
        ensure_shape!("concat", equal, "only the last axis may differ: {} and {}", x[0].shape, x[1].shape);
        let mut axes = a.to_vec();
        axes[a.len() - 1] += x[1].shape.last();
        Ok(vec![x[0].with_shape(axes)])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let (a, b) = (x[0].shape.last(), x[1].shape.last());
        let mut axes = x[0].shape.axes().to_vec();
        axes[x[0].shape.rank() - 1] = a + b;
        vec![Array::from_fn(&Shape::new(axes), |i| {
            let (row, c) = (i / (a + b), i % (a + b));
            if c < a { x[0].data[row * a + c] } else { x[1].data[row * b + c - a] }
        })]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        Cost::of_traffic(x, y)
    }

    fn candidates(&self, x: &[Spec], y: &[Spec], _caps: &Caps) -> Vec<Candidate> {
        let (a, b) = (x[0].shape.last(), x[1].shape.last());
        let (width, variant) = vector_width(&[a, b]);
        over_runs("concat", stored(variant, y[0].dtype), width, Extent::rows(&y[0].shape))
            .bind("a", Operand::Input(0))
            .bind("b", Operand::Input(1))
            .bind("y", Operand::Output(0))
            .param("vectors_a", a / width)
            .param("vectors_b", b / width)
            .into()
    }

    fn backward(&self, g: &mut Backward) -> Result<(), GraphError> {
        let dy = g.gradient(0);
        let mut start = 0;
        for i in 0..2 {
            let count = g.shape(g.input(i)).last();
            if g.needs(i) {
                let dx = g.apply(SliceChannels { start, count }, &[dy])?;
                g.accumulate(i, dx)?;
            }
            start += count;
        }
        Ok(())
    }
}

/// Neighbouring channels of every pixel: (..., C) to (..., count).
#[derive(Debug, Clone)]
pub struct SliceChannels {
    /// The first channel taken.
    pub start: usize,
    /// How many are taken.
    pub count: usize,
}

impl Op for SliceChannels {
    fn name(&self) -> &'static str {
        "slice_channels"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        expect_float("slice_channels", x, 1)?;
        let (shape, end) = (&x[0].shape, self.start + self.count);
        ensure_shape!(
            "slice_channels",
            shape.rank() >= 1 && self.count > 0 && end <= shape.last(),
            "channels {}..{end} of a tensor {shape}",
            self.start
        );
        let mut axes = shape.axes().to_vec();
        axes[shape.rank() - 1] = self.count;
        Ok(vec![x[0].with_shape(axes)])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let channels = x[0].shape.last();
        let mut axes = x[0].shape.axes().to_vec();
        axes[x[0].shape.rank() - 1] = self.count;
        vec![Array::from_fn(&Shape::new(axes), |i| {
            let (row, c) = (i / self.count, i % self.count);
            x[0].data[row * channels + self.start + c]
        })]
    }

    fn cost(&self, _x: &[Spec], y: &[Spec]) -> Cost {
        Cost::of_traffic(y, y)
    }

    fn candidates(&self, x: &[Spec], y: &[Spec], _caps: &Caps) -> Vec<Candidate> {
        let channels = x[0].shape.last();
        let (width, variant) = vector_width(&[channels, self.start, self.count]);
        over_runs("slice_channels", stored(variant, y[0].dtype), width, Extent::rows(&y[0].shape))
            .bind("x", Operand::Input(0))
            .bind("y", Operand::Output(0))
            .param("start", self.start / width)
            .param("vectors_x", channels / width)
            .into()
    }

    /// dx is dy between zeros.
    fn backward(&self, g: &mut Backward) -> Result<(), GraphError> {
        let axes = g.shape(g.input(0)).axes().to_vec();
        let (rows, channels) = (&axes[..axes.len() - 1], axes[axes.len() - 1]);
        let dtype = g.spec(g.input(0)).dtype;
        let zeros = |g: &mut Backward, count: usize| {
            let shape = [rows, &[count]].concat();
            let elements = shape.iter().product();
            g.constant("zeros", dtype, Array::new(shape, vec![0.0; elements]))
        };
        let mut dx = g.gradient(0);
        if self.start > 0 {
            let before = zeros(g, self.start);
            dx = g.apply(Concat, &[before, dx])?;
        }
        let after = channels - self.start - self.count;
        if after > 0 {
            let after = zeros(g, after);
            dx = g.apply(Concat, &[dx, after])?;
        }
        g.accumulate(0, dx)
    }
}

/// Test cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let shapes: [&[usize]; 7] = [
        &[1, 1, 1, 1],
        &[2, 1, 1, 7],
        &[1, 41, 47, 3],
        &[3, 5, 7, 20],
        &[2, 16, 16, 64],
        &[2, 33, 6],
        &[5, 12],
    ];
    for axes in shapes {
        let x = Spec::f32(axes);
        let e = Spec::f32([x.shape[0], x.shape.last()]);
        let name = x.shape.to_string();
        cases.extend(Case::new(&name, AddChannels, &[x.clone(), e.clone()]).and_in_f16(&[0, 1]));
        cases.extend(Case::new(&name, SpreadPixels { shape: x.shape.clone() }, &[e]).and_in_f16(&[0]));
        cases.extend(Case::new(&name, SumPixels, &[x]).and_in_f16(&[0]));
    }
    let pairs: [(&[usize], usize, usize); 6] = [
        (&[], 1, 1),
        (&[1], 3, 4),
        (&[2, 5, 7], 8, 12),
        (&[1, 41, 47], 4, 5),
        (&[3], 1, 6),
        (&[2, 8, 8], 64, 32),
    ];
    for (rows, a, b) in pairs {
        let of = |c: usize| Spec::f32([rows, &[c]].concat());
        let name = format!("{rows:?} rows of {a} + {b}");
        cases.extend(Case::new(name, Concat, &[of(a), of(b)]).and_in_f16(&[0, 1]));
        let name = format!("{rows:?} rows, the {b} channels behind {a}");
        let slice = SliceChannels { start: a, count: b };
        cases.extend(Case::new(name, slice.clone(), &[of(a + b + 1)]).and_in_f16(&[0]));
        let name = format!("{rows:?} rows, the {b} channels behind {a} of a multiple of four");
        let all = of((a + b).next_multiple_of(4));
        cases.extend(Case::new(name, slice, &[all]).and_in_f16(&[0]));
    }
    // One-pixel images make one invocation per channel, one-channel images one workgroup per image.
    let (many, name) = (65_600, "past 65535 workgroups");
    let (x, e) = (Spec::f32([many, 1, 65]), Spec::f32([many, 65]));
    cases.push(Case::new(name, AddChannels, &[x, e]).large());
    cases.push(Case::new(name, SumPixels, &[Spec::f32([many, 2, 1])]).large());
    // Two and four Vectors to each invocation of a CPU driver.
    for channels in [64, 128] {
        let x = Spec::f32([17, 3, 3, channels]);
        cases.extend(Case::new(x.shape.to_string(), SumPixels, &[x]).large().and_in_f16(&[0]));
    }
    let long = Spec::f32([1, 256, 257, 32]);
    cases.push(Case::new("past 65535 pixels", SumPixels, &[long]).large());
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Graph;
    use crate::ops::Add;
    use crate::tensor::DType;

    #[test]
    fn a_slice_of_f16_has_a_gradient_of_f16() {
        let mut graph = Graph::new();
        let x = graph.input("x", Spec::new([2, 9], DType::F16));
        let y = graph.apply(SliceChannels { start: 2, count: 3 }, &[x]).unwrap();
        let seed = graph.input("seed", graph.spec(y).clone());
        let gradients = graph.backward(Add, &[(y, seed)], &[x]).unwrap();
        assert_eq!(*graph.spec(gradients[&x]), Spec::new([2, 9], DType::F16));
    }

    #[test]
    fn mixed_types_are_named() {
        let mixed = [Spec::new([2, 3], DType::F16), Spec::f32([2, 3])];
        let message = Concat.infer(&mixed).unwrap_err().to_string();
        assert!(message.contains("input 1 must be f16, as the first, found f32(2, 3)"), "{message}");
    }
}
