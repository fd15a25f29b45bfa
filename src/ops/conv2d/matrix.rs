//! Convolutions of f16 tensors on matrix units (`shaders/lib/gemm_matrix.wgsl`): further algorithms where a device has such units and
//! the channels fill what is staged.

use super::tiled::{self, backward_input_gemm, backward_weight_gemm, forward_gemm};
use super::{Conv2d, Extent};
use crate::graph::{Candidate, Caps};
use crate::ops::addend::Addend;
use crate::ops::gemm_matrix::MatrixTile;
use crate::tensor::Spec;

/// y from x = input 0, w = input 1, b = input 2, and perhaps what is added.
pub(super) fn forward(conv: &Conv2d, e: &Extent, x: &[Spec], y: &Spec, caps: &Caps) -> Vec<Candidate> {
    let dtype = x[0].dtype;
    MatrixTile::candidates(caps, dtype, &forward_gemm(conv, e), |units| {
        Addend::bind(tiled::forward(conv, e, dtype, Some(units)), "added", x, 3, y)
    })
}

/// dx from dy = input 0, w = input 1, and perhaps what is added.
pub(super) fn backward_input(conv: &Conv2d, e: &Extent, x: &[Spec], y: &Spec, caps: &Caps) -> Vec<Candidate> {
    let dtype = x[0].dtype;
    MatrixTile::candidates(caps, dtype, &backward_input_gemm(conv, e), |units| {
        Addend::bind(tiled::backward_input(conv, e, dtype, Some(units)), "added", x, 2, y)
    })
}

/// dw, and db if asked, from x = input 0, dy = input 1.
pub(super) fn backward_weight(
    conv: &Conv2d,
    e: &Extent,
    x: &[Spec],
    bias: bool,
    caps: &Caps,
) -> Vec<Candidate> {
    let dtype = x[0].dtype;
    let program = |units| tiled::backward_weight(conv, e, dtype, bias, Some(units));
    MatrixTile::candidates(caps, dtype, &backward_weight_gemm(conv, e), program)
}
