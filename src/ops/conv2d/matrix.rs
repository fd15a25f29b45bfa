//! Convolutions of f16 tensors on matrix units (`shaders/conv2d_matrix.wgsl`, `shaders/conv2d_weight_matrix.wgsl`): further
//! algorithms where a device has such units and the channels fill what is staged.

use super::tiled::{backward_input_gemm, backward_weight_gemm, forward_gemm};
use super::{Conv2d, Extent};
use crate::graph::{Candidate, Caps, Operand};
use crate::ops::addend::Addend;
use crate::ops::gemm::{Splits, weight_results, with_bias_gradient};
use crate::ops::gemm_matrix::MatrixTile;
use crate::ops::stored;
use crate::shader::{Source, Variant};
use crate::tensor::Spec;

static SHADER: Source = crate::wgsl!("conv2d_matrix");
static WEIGHT: Source = crate::wgsl!("conv2d_weight_matrix");

/// y from x = input 0, w = input 1, b = input 2, and perhaps what is added.
pub(super) fn forward(conv: &Conv2d, e: &Extent, x: &[Spec], y: &Spec, caps: &Caps) -> Vec<Candidate> {
    let dtype = x[0].dtype;
    let gemm = forward_gemm(conv, e);
    MatrixTile::candidates(caps, dtype, &gemm, |tile| {
        let variant = stored(Variant::base(), dtype).with("PASS", "0u");
        let dispatch = tile.dispatch(&SHADER, "convolution", variant, &gemm, Splits::none(gemm.depth));
        let dispatch = conv
            .with_sizes(dispatch, e, e.in_channels)
            .bind("a", Operand::Input(0))
            .bind("b", Operand::Input(1))
            .bind("bias", Operand::Input(2))
            .bind("c", Operand::Output(0));
        Addend::bind(dispatch, "added", x, 3, y)
    })
}

/// dx from dy = input 0, w = input 1, and perhaps what is added.
pub(super) fn backward_input(conv: &Conv2d, e: &Extent, x: &[Spec], y: &Spec, caps: &Caps) -> Vec<Candidate> {
    let dtype = x[0].dtype;
    let gemm = backward_input_gemm(conv, e);
    MatrixTile::candidates(caps, dtype, &gemm, |tile| {
        let variant = stored(Variant::base(), dtype).with("PASS", "1u").link("lib/bias", "lib/no_bias");
        let dispatch = tile.dispatch(&SHADER, "convolution", variant, &gemm, Splits::none(gemm.depth));
        let dispatch = conv
            .with_sizes(dispatch, e, e.out_channels)
            .bind("a", Operand::Input(0))
            .bind("b", Operand::Input(1))
            .bind("c", Operand::Output(0));
        Addend::bind(dispatch, "added", x, 2, y)
    })
}

/// dw, and db if asked, from x = input 0, dy = input 1. The sum over pixels is split, and a second launch adds the splits.
pub(super) fn backward_weight(
    conv: &Conv2d,
    e: &Extent,
    x: &[Spec],
    bias: bool,
    caps: &Caps,
) -> Vec<Candidate> {
    if !e.in_channels.is_multiple_of(4) {
        return Vec::new();
    }
    let gemm = backward_weight_gemm(conv, e);
    MatrixTile::candidates(caps, x[0].dtype, &gemm, |tile| {
        let splits = tile.splits(&gemm);
        splits.program(&weight_results(gemm.rows * gemm.columns, bias, gemm.columns), |to| {
            let dispatch = tile.dispatch(&WEIGHT, "convolution", Variant::base(), &gemm, splits);
            let dispatch = conv
                .with_sizes(dispatch, e, e.in_channels)
                .bind("a", Operand::Input(0))
                .bind("b", Operand::Input(1))
                .bind("c", to[0]);
            with_bias_gradient(dispatch, bias, to)
        })
    })
}
