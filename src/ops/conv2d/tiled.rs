//! Convolutions as implicit products of matrices in tiles staged in workgroup memory, four channels at a time
//! (`shaders/conv2d_vectors.wgsl`, `shaders/conv2d_weight_vectors.wgsl`) where they can be, else one
//! (`shaders/conv2d_tiled.wgsl`): the launches for GPUs.

use super::{Conv2d, Extent};
use crate::graph::{Dispatch, Operand, Program};
use crate::ops::gemm::{Gemm, Tiling, weight_results, with_bias_gradient};
use crate::ops::gemm_matrix::MatrixTile;
use crate::shader::{Source, Variant};
use crate::tensor::DType;

static ELEMENTS: Source = crate::wgsl!("conv2d_tiled");
static VECTORS: Source = crate::wgsl!("conv2d_vectors");
static WEIGHT_VECTORS: Source = crate::wgsl!("conv2d_weight_vectors");

/// What is computed: `PASS` of the shaders.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    Forward = 0,
    BackwardInput = 1,
    BackwardWeight = 2,
}

/// Channels of a tap that lie side by side. For a kernel with more taps along an axis than `conv2d_vectors.wgsl` has bits they do
/// not count.
fn depth_run(conv: &Conv2d, channels: usize) -> usize {
    const BITS: usize = 16;
    if conv.kernel <= BITS { channels } else { 1 }
}

/// y as a product of pixels and taps.
pub(super) fn forward_gemm(conv: &Conv2d, e: &Extent) -> Gemm {
    Gemm {
        rows: e.batch * e.out_height * e.out_width,
        columns: e.out_channels,
        depth: conv.kernel * conv.kernel * e.in_channels,
        column_run: e.out_channels,
        depth_run: depth_run(conv, e.in_channels),
        a_along_depth: true,
        b_along_columns: true,
    }
}

/// dx as a product of pixels and taps.
pub(super) fn backward_input_gemm(conv: &Conv2d, e: &Extent) -> Gemm {
    Gemm {
        rows: e.batch * e.height * e.width,
        columns: e.in_channels,
        depth: conv.kernel * conv.kernel * e.out_channels,
        column_run: e.in_channels,
        depth_run: depth_run(conv, e.out_channels),
        a_along_depth: true,
        b_along_columns: false,
    }
}

/// dw as a product of taps and pixels.
pub(super) fn backward_weight_gemm(conv: &Conv2d, e: &Extent) -> Gemm {
    Gemm {
        rows: conv.kernel * conv.kernel * e.in_channels,
        columns: e.out_channels,
        depth: e.batch * e.out_height * e.out_width,
        column_run: e.out_channels,
        depth_run: 1,
        a_along_depth: false,
        b_along_columns: true,
    }
}

/// A launch without its operands, which are stored in the type `dtype`; gradients of weights, and their splits, are f32.
fn launch(conv: &Conv2d, e: &Extent, dtype: DType, pass: Pass, gemm: Gemm, tiling: Tiling) -> Dispatch {
    let of_pass = || {
        let variant = Variant::base().with("PASS", format!("{}u", pass as u32));
        if pass == Pass::Forward { variant } else { variant.link("lib/bias", "lib/no_bias") }
    };
    let (shader, entry, variant) = match (gemm.in_vectors(), pass) {
        (true, Pass::BackwardWeight) if e.out_width.is_multiple_of(2) => {
            (&WEIGHT_VECTORS, "product", Variant::base().with("EVEN_ROWS", true))
        }
        (true, Pass::BackwardWeight) => (&WEIGHT_VECTORS, "product", Variant::base()),
        (true, _) => (&VECTORS, "product", of_pass()),
        (false, _) => (&ELEMENTS, "convolution", of_pass()),
    };
    let result = if pass == Pass::BackwardWeight { DType::F32 } else { dtype };
    let channels = if pass == Pass::BackwardInput { e.out_channels } else { e.in_channels };
    conv.with_sizes(gemm.dispatch(shader, entry, variant, [dtype, result], tiling), e, channels)
}

/// y from x = input 0, w = input 1, b = input 2.
pub(super) fn forward(conv: &Conv2d, e: &Extent, dtype: DType, units: Option<MatrixTile>) -> Dispatch {
    let gemm = forward_gemm(conv, e);
    launch(conv, e, dtype, Pass::Forward, gemm, gemm.whole(units))
        .bind("a", Operand::Input(0))
        .bind("b", Operand::Input(1))
        .bind("bias", Operand::Input(2))
        .bind("c", Operand::Output(0))
}

/// dx from dy = input 0, w = input 1.
pub(super) fn backward_input(conv: &Conv2d, e: &Extent, dtype: DType, units: Option<MatrixTile>) -> Dispatch {
    let mut gemm = backward_input_gemm(conv, e);
    let mut tiling = gemm.whole(units);
    if gemm.in_vectors() {
        // One phase of pixels for each split.
        gemm.rows = e.batch * e.height.div_ceil(conv.stride) * e.width.div_ceil(conv.stride);
        tiling = gemm.in_parts(conv.stride * conv.stride, units);
    }
    launch(conv, e, dtype, Pass::BackwardInput, gemm, tiling)
        .bind("a", Operand::Input(0))
        .bind("b", Operand::Input(1))
        .bind("c", Operand::Output(0))
}

/// dw, and db if asked, from x = input 0, dy = input 1. The sum over pixels is split, and a second launch adds the splits.
pub(super) fn backward_weight(
    conv: &Conv2d,
    e: &Extent,
    dtype: DType,
    bias: bool,
    units: Option<MatrixTile>,
) -> Program {
    let gemm = backward_weight_gemm(conv, e);
    let tiling = gemm.split(units);
    tiling.splits.program(&weight_results(gemm.rows * gemm.columns, bias, gemm.columns), |to| {
        let dispatch = launch(conv, e, dtype, Pass::BackwardWeight, gemm, tiling)
            .bind("a", Operand::Input(0))
            .bind("b", Operand::Input(1))
            .bind("c", to[0]);
        with_bias_gradient(dispatch, bias, to)
    })
}
