//! Linear layers of f16 tensors on matrix units (`shaders/lib/gemm_matrix.wgsl`): further algorithms where a device has such units.

use super::launch::{BiasGradient, Sizes};
use crate::graph::{Candidate, Caps};
use crate::ops::addend::Addend;
use crate::ops::gemm_matrix::MatrixTile;
use crate::tensor::Spec;

/// y from x = input 0, w = input 1, the bias in an input from an element on, and perhaps what is added as input 3.
pub(super) fn forward(
    sizes: Sizes,
    x: &[Spec],
    y: &Spec,
    bias: (usize, usize),
    caps: &Caps,
) -> Vec<Candidate> {
    let dtype = x[0].dtype;
    MatrixTile::candidates(caps, dtype, &sizes.forward_product().gemm, |units| {
        Addend::bind(sizes.tiled_forward(dtype, bias, Some(units)), "added", x, 3, y)
    })
}

/// dx from dy = input 0, w = input 1, and perhaps what is added as input 2.
pub(super) fn backward_input(sizes: Sizes, x: &[Spec], y: &Spec, caps: &Caps) -> Vec<Candidate> {
    let dtype = x[0].dtype;
    MatrixTile::candidates(caps, dtype, &sizes.backward_input_product().gemm, |units| {
        Addend::bind(sizes.tiled_backward_input(dtype, Some(units)), "added", x, 2, y)
    })
}

/// dw, and db if asked, from x = input 0, dy = input 1.
pub(super) fn backward_weight(sizes: Sizes, x: &[Spec], bias: BiasGradient, caps: &Caps) -> Vec<Candidate> {
    let dtype = x[0].dtype;
    let program = |units| sizes.tiled_backward_weight(dtype, bias, Some(units));
    MatrixTile::candidates(caps, dtype, &sizes.backward_weight_product().gemm, program)
}
