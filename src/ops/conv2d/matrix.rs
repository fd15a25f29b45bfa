//! Convolutions of f16 tensors on matrix units (`shaders/conv2d_matrix.wgsl`, `shaders/conv2d_weight_matrix.wgsl`): further
//! algorithms where a device has such units and the channels fill what is staged. Linear layers are among them, as convolutions of
//! one picture, one pixel high, by one tap.

use super::{Conv2d, Extent, Padding};
use crate::graph::{Candidate, Caps, Dispatch, Operand};
use crate::ops::addend::Addend;
use crate::ops::gemm::{Splits, weight_results, with_bias_gradient};
use crate::ops::gemm_matrix::{MatrixProduct, MatrixTile};
use crate::ops::stored;
use crate::shader::{Source, Variant};
use crate::tensor::Spec;

static SHADER: Source = crate::wgsl!("conv2d_matrix");
static WEIGHT: Source = crate::wgsl!("conv2d_weight_matrix");

/// A convolution of one size.
pub(in crate::ops) struct Convolution {
    conv: Conv2d,
    extent: Extent,
}

impl Convolution {
    pub(super) fn new(conv: &Conv2d, extent: Extent) -> Self {
        Self { conv: conv.clone(), extent }
    }

    /// y (rows, outputs) = x (rows, inputs) w (inputs, outputs) + b.
    pub(in crate::ops) fn linear(rows: usize, inputs: usize, outputs: usize) -> Self {
        let extent = Extent {
            batch: 1,
            height: 1,
            width: rows,
            in_channels: inputs,
            out_height: 1,
            out_width: rows,
            out_channels: outputs,
        };
        Self { conv: Conv2d { kernel: 1, stride: 1, padding: Padding::Symmetric(0) }, extent }
    }

    /// A launch without its operands.
    fn launch(
        &self,
        tile: MatrixTile,
        (shader, variant): (&'static Source, Variant),
        product: &MatrixProduct,
        splits: Splits,
        channels: usize,
    ) -> Dispatch {
        let dispatch = tile.dispatch(shader, "convolution", variant, product, splits);
        self.conv.with_sizes(dispatch, &self.extent, channels)
    }

    /// y from x = input 0, w = input 1, b = input 2, and perhaps what is added.
    pub(in crate::ops) fn forward(&self, x: &[Spec], y: &Spec, caps: &Caps) -> Vec<Candidate> {
        let e = &self.extent;
        let product = MatrixProduct {
            rows: e.batch * e.out_height * e.out_width,
            columns: e.out_channels,
            depth: self.conv.kernel * self.conv.kernel * e.in_channels,
            a_along_depth: true,
            b_along_depth: false,
        };
        candidates(caps, x, product.columns, e.in_channels, |tile| {
            let variant = stored(Variant::base(), x[0].dtype).with("PASS", "0u");
            let dispatch = self
                .launch(tile, (&SHADER, variant), &product, Splits::none(product.depth), e.in_channels)
                .bind("a", Operand::Input(0))
                .bind("b", Operand::Input(1))
                .bind("bias", Operand::Input(2))
                .bind("c", Operand::Output(0));
            Candidate::new(tile.algorithm(), Addend::bind(dispatch, "added", x, 3, y))
        })
    }

    /// dx from dy = input 0, w = input 1, and perhaps what is added.
    pub(in crate::ops) fn backward_input(&self, x: &[Spec], y: &Spec, caps: &Caps) -> Vec<Candidate> {
        let e = &self.extent;
        let product = MatrixProduct {
            rows: e.batch * e.height * e.width,
            columns: e.in_channels,
            depth: self.conv.kernel * self.conv.kernel * e.out_channels,
            a_along_depth: true,
            b_along_depth: true,
        };
        candidates(caps, x, product.columns, e.out_channels, |tile| {
            let variant =
                stored(Variant::base(), x[0].dtype).with("PASS", "1u").link("lib/bias", "lib/no_bias");
            let dispatch = self
                .launch(tile, (&SHADER, variant), &product, Splits::none(product.depth), e.out_channels)
                .bind("a", Operand::Input(0))
                .bind("b", Operand::Input(1))
                .bind("c", Operand::Output(0));
            Candidate::new(tile.algorithm(), Addend::bind(dispatch, "added", x, 2, y))
        })
    }

    /// dw, and db if asked, from x = input 0, dy = input 1. The sum over pixels is split, and a second launch adds the splits.
    pub(in crate::ops) fn backward_weight(&self, x: &[Spec], bias: bool, caps: &Caps) -> Vec<Candidate> {
        let e = &self.extent;
        let product = MatrixProduct {
            rows: self.conv.kernel * self.conv.kernel * e.in_channels,
            columns: e.out_channels,
            depth: e.batch * e.out_height * e.out_width,
            a_along_depth: false,
            b_along_depth: false,
        };
        if !e.in_channels.is_multiple_of(4) {
            return Vec::new();
        }
        // A stage is of pixels, so that no number of channels must divide by its depth.
        candidates(caps, x, product.columns, 0, |tile| {
            let splits = tile.splits(&product);
            let results = weight_results(product.rows * product.columns, bias, product.columns);
            let program = splits.program(&results, |to| {
                let dispatch = self
                    .launch(tile, (&WEIGHT, Variant::base()), &product, splits, e.in_channels)
                    .bind("a", Operand::Input(0))
                    .bind("b", Operand::Input(1))
                    .bind("c", to[0]);
                with_bias_gradient(dispatch, bias, to)
            });
            Candidate::new(tile.algorithm(), program)
        })
    }
}

/// A candidate for each form of the kernel that suits: vectors of four divide the columns, and a stage divides the channels that
/// are staged.
fn candidates(
    caps: &Caps,
    x: &[Spec],
    columns: usize,
    channels: usize,
    candidate: impl Fn(MatrixTile) -> Candidate,
) -> Vec<Candidate> {
    let suits = |tile: &MatrixTile| columns.is_multiple_of(4) && channels.is_multiple_of(tile.depth());
    MatrixTile::all(caps, x[0].dtype).into_iter().filter(suits).map(candidate).collect()
}
