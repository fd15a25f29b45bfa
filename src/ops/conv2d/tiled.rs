//! Convolutions as implicit products of matrices in tiles staged in workgroup memory
//! (`shaders/conv2d_tiled.wgsl`): the launches for GPUs.

use super::{Conv2d, Extent};
use crate::graph::{Dispatch, Operand, Program};
use crate::ops::gemm::{Gemm, Splits, weight_results, with_bias_gradient};
use crate::shader::{Source, Variant};
use crate::tensor::DType;

static SHADER: Source = crate::wgsl!("conv2d_tiled");

/// What is computed: `PASS` of the shader.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    Forward = 0,
    BackwardInput = 1,
    BackwardWeight = 2,
}

/// A launch without its operands, which are stored in the type `dtype`; gradients of weights, and their splits, are f32.
fn launch(conv: &Conv2d, e: &Extent, dtype: DType, pass: Pass, gemm: Gemm, splits: Splits) -> Dispatch {
    let mut variant = Variant::base().with("PASS", format!("{}u", pass as u32));
    if pass != Pass::Forward {
        variant = variant.link("lib/bias", "lib/no_bias");
    }
    let result = if pass == Pass::BackwardWeight { DType::F32 } else { dtype };
    let channels = if pass == Pass::BackwardInput { e.out_channels } else { e.in_channels };
    gemm.dispatch(&SHADER, "convolution", variant, [dtype, result], splits)
        .param("height", e.height)
        .param("width", e.width)
        .param("out_height", e.out_height)
        .param("out_width", e.out_width)
        .param("channels", channels)
        .param("kernel", conv.kernel)
        .param("stride", conv.stride)
        .param("padding", conv.padding.before())
}

/// y from x = input 0, w = input 1, b = input 2.
pub(super) fn forward(conv: &Conv2d, e: &Extent, dtype: DType) -> Dispatch {
    let gemm = Gemm {
        rows: e.batch * e.out_height * e.out_width,
        columns: e.out_channels,
        depth: conv.kernel * conv.kernel * e.in_channels,
        a_along_depth: true,
        b_along_columns: true,
    };
    launch(conv, e, dtype, Pass::Forward, gemm, Splits::none(gemm.depth))
        .bind("a", Operand::Input(0))
        .bind("b", Operand::Input(1))
        .bind("bias", Operand::Input(2))
        .bind("c", Operand::Output(0))
}

/// dx from dy = input 0, w = input 1.
pub(super) fn backward_input(conv: &Conv2d, e: &Extent, dtype: DType) -> Dispatch {
    let gemm = Gemm {
        rows: e.batch * e.height * e.width,
        columns: e.in_channels,
        depth: conv.kernel * conv.kernel * e.out_channels,
        a_along_depth: true,
        b_along_columns: false,
    };
    launch(conv, e, dtype, Pass::BackwardInput, gemm, Splits::none(gemm.depth))
        .bind("a", Operand::Input(0))
        .bind("b", Operand::Input(1))
        .bind("c", Operand::Output(0))
}

/// dw, and db if asked, from x = input 0, dy = input 1. The sum over pixels is split, and a second launch adds the splits.
pub(super) fn backward_weight(conv: &Conv2d, e: &Extent, dtype: DType, bias: bool) -> Program {
    let gemm = Gemm {
        rows: conv.kernel * conv.kernel * e.in_channels,
        columns: e.out_channels,
        depth: e.batch * e.out_height * e.out_width,
        a_along_depth: false,
        b_along_columns: true,
    };
    let splits = gemm.splits();
    splits.program(&weight_results(gemm.rows * gemm.columns, bias, gemm.columns), |to| {
        let dispatch = launch(conv, e, dtype, Pass::BackwardWeight, gemm, splits)
            .bind("a", Operand::Input(0))
            .bind("b", Operand::Input(1))
            .bind("c", to[0]);
        with_bias_gradient(dispatch, bias, to)
    })
}
