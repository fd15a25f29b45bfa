//! Nearest-neighbour upsampling by two (`shaders/resample.wgsl`).

use super::channels::{Extent, RUN_INVOCATIONS, run_variant};
use super::{Case, expect_float, stored, vector_width};
use crate::ensure_shape;
use crate::graph::{Backward, Candidate, Caps, Cost, Dispatch, GraphError, Kernels, Op, Operand, ShapeError};
use crate::shader::Source;
use crate::tensor::{Array, Shape, Spec};

static SHADER: Source = crate::wgsl!("resample");

/// Pixels of the small image per invocation, with four of the large one to each. On a CPU driver the divisions that an invocation
/// begins with cost as much as half a pixel.
fn run_pixels(caps: &Caps) -> usize {
    match caps.kernels {
        Kernels::Registers => 8,
        Kernels::Workgroup => 2,
    }
}

fn launch(entry: &'static str, small: &Spec, caps: &Caps) -> Dispatch {
    let extent = Extent::rows(&small.shape);
    let (width, variant) = vector_width(&[extent.channels]);
    let pixels = run_pixels(caps);
    let runs = extent.runs_of(pixels, width);
    Dispatch::new(&SHADER, entry)
        .variant(run_variant(stored(variant, small.dtype), pixels))
        .bind("x", Operand::Input(0))
        .bind("y", Operand::Output(0))
        .param("pixels", extent.pixels)
        .param("width", small.shape[2])
        .param("vectors", extent.channels / width)
        .param("count", runs)
        .linear(runs, RUN_INVOCATIONS)
}

/// (n, h, w, c) of a flat index.
fn place(shape: &Shape, i: usize) -> [usize; 4] {
    let (c, i) = (i % shape[3], i / shape[3]);
    let (w, i) = (i % shape[2], i / shape[2]);
    [i / shape[1], i % shape[1], w, c]
}

/// The flat index of (n, h, w, c).
fn index(shape: &Shape, [n, h, w, c]: [usize; 4]) -> usize {
    ((n * shape[1] + h) * shape[2] + w) * shape[3] + c
}

/// y[n, h, w, c] = x[n, ⌊h/2⌋, ⌊w/2⌋, c]: (N, H, W, C) to (N, 2H, 2W, C).
#[derive(Debug, Clone)]
pub struct UpsampleNearest;

impl Op for UpsampleNearest {
    fn name(&self) -> &'static str {
        "upsample_nearest"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        expect_float("upsample_nearest", x, 1)?;
        let shape = &x[0].shape;
        ensure_shape!("upsample_nearest", shape.rank() == 4, "x must be (N, H, W, C), found {shape}");
        Ok(vec![x[0].with_shape([shape[0], 2 * shape[1], 2 * shape[2], shape[3]])])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let shape = &x[0].shape;
        let large = Shape::new([shape[0], 2 * shape[1], 2 * shape[2], shape[3]]);
        vec![Array::from_fn(&large, |i| {
            let [n, h, w, c] = place(&large, i);
            x[0].data[index(shape, [n, h / 2, w / 2, c])]
        })]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        Cost::of_traffic(x, y)
    }

    fn candidates(&self, x: &[Spec], _y: &[Spec], caps: &Caps) -> Vec<Candidate> {
        caps.both(|caps| launch("upsample", &x[0], caps).into())
    }

    fn backward(&self, g: &mut Backward) -> Result<(), GraphError> {
        let dy = g.gradient(0);
        let dx = g.apply(UpsampleNearestBackward, &[dy])?;
        g.accumulate(0, dx)
    }
}

/// dx[n, h, w, c] = Σ dy over the 2x2 pixels above (h, w): (N, 2H, 2W, C) to (N, H, W, C).
#[derive(Debug, Clone)]
pub struct UpsampleNearestBackward;

impl Op for UpsampleNearestBackward {
    fn name(&self) -> &'static str {
        "upsample_nearest_backward"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        expect_float("upsample_nearest_backward", x, 1)?;
        let shape = &x[0].shape;
        ensure_shape!(
            "upsample_nearest_backward",
            shape.rank() == 4 && shape[1].is_multiple_of(2) && shape[2].is_multiple_of(2),
            "dy must be (N, 2H, 2W, C), found {shape}"
        );
        Ok(vec![x[0].with_shape([shape[0], shape[1] / 2, shape[2] / 2, shape[3]])])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let shape = &x[0].shape;
        let mut dx = Array::zeros(&Shape::new([shape[0], shape[1] / 2, shape[2] / 2, shape[3]]));
        for (i, dy) in x[0].data.iter().enumerate() {
            let [n, h, w, c] = place(shape, i);
            let at = index(&dx.shape, [n, h / 2, w / 2, c]);
            dx.data[at] += dy;
        }
        vec![dx]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        Cost::elementwise(x, y, 3)
    }

    fn candidates(&self, _x: &[Spec], y: &[Spec], caps: &Caps) -> Vec<Candidate> {
        caps.both(|caps| launch("upsample_backward", &y[0], caps).into())
    }
}

/// Test cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for axes in [[1, 1, 1, 1], [2, 1, 1, 8], [2, 5, 7, 3], [1, 41, 47, 4], [3, 4, 5, 36]] {
        let [n, h, w, c] = axes;
        let name = Shape::new(axes).to_string();
        cases.extend(Case::new(&name, UpsampleNearest, &[Spec::f32(axes)]).and_in_f16(&[0]));
        let large = Spec::f32([n, 2 * h, 2 * w, c]);
        cases.extend(Case::new(&name, UpsampleNearestBackward, &[large]).no_gradient().and_in_f16(&[0]));
    }
    cases
}
