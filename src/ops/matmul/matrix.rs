//! Linear layers of f16 tensors on matrix units (`shaders/matmul_matrix.wgsl`): further algorithms where a device has such units.

use super::launch::{BiasGradient, Sizes};
use crate::graph::{Candidate, Caps, Operand};
use crate::ops::addend::Addend;
use crate::ops::gemm::Splits;
use crate::ops::gemm_matrix::MatrixTile;
use crate::ops::stored;
use crate::shader::{Source, Variant};
use crate::tensor::Spec;

static SHADER: Source = crate::wgsl!("matmul_matrix");

/// y from x = input 0, w = input 1, the bias in an input from an element on, and perhaps what is added as input 3.
pub(super) fn forward(
    sizes: Sizes,
    x: &[Spec],
    y: &Spec,
    (bias, bias_start): (usize, usize),
    caps: &Caps,
) -> Vec<Candidate> {
    let (dtype, product) = (x[0].dtype, sizes.forward_product());
    MatrixTile::candidates(caps, dtype, &product.gemm, |tile| {
        let (variant, splits) = (stored(Variant::base(), dtype), Splits::none(product.gemm.depth));
        let dispatch = tile.dispatch(&SHADER, "product", variant, &product.gemm, splits);
        let dispatch = product
            .with_strides(dispatch, 0, bias_start)
            .bind("a", Operand::Input(0))
            .bind("b", Operand::Input(1))
            .bind("bias", Operand::Input(bias))
            .bind("c", Operand::Output(0));
        Addend::bind(dispatch, "added", x, 3, y)
    })
}

/// dx from dy = input 0, w = input 1, and perhaps what is added as input 2.
pub(super) fn backward_input(sizes: Sizes, x: &[Spec], y: &Spec, caps: &Caps) -> Vec<Candidate> {
    let (dtype, product) = (x[0].dtype, sizes.backward_input_product());
    MatrixTile::candidates(caps, dtype, &product.gemm, |tile| {
        let variant = stored(Variant::base(), dtype).link("lib/bias", "lib/no_bias");
        let splits = Splits::none(product.gemm.depth);
        let dispatch = tile.dispatch(&SHADER, "product", variant, &product.gemm, splits);
        let dispatch = product
            .with_strides(dispatch, 0, 0)
            .bind("a", Operand::Input(0))
            .bind("b", Operand::Input(1))
            .bind("c", Operand::Output(0));
        Addend::bind(dispatch, "added", x, 2, y)
    })
}

/// dw, and db if asked, from x = input 0, dy = input 1. The sum over rows is split, and a second launch adds the splits.
pub(super) fn backward_weight(sizes: Sizes, x: &[Spec], bias: BiasGradient, caps: &Caps) -> Vec<Candidate> {
    let (dtype, product) = (x[0].dtype, sizes.backward_weight_product());
    let (results, bias_start) = sizes.weight_results(bias);
    MatrixTile::candidates(caps, dtype, &product.gemm, |tile| {
        let splits = tile.splits(&product.gemm);
        splits.program(&results, |to| {
            let variant =
                stored(Variant::base(), dtype).with("Result", "f32").link("lib/bias", "lib/no_bias");
            let dispatch = tile.dispatch(&SHADER, "product", variant, &product.gemm, splits);
            let dispatch = product
                .with_strides(dispatch, results[0], bias_start)
                .bind("a", Operand::Input(0))
                .bind("b", Operand::Input(1))
                .bind("c", to[0]);
            bias.into_results(dispatch, to)
        })
    })
}
