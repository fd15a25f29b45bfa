//! Convolutions in register tiles whose operands the invocations of a subgroup load for each other
//! (`shaders/conv2d_subgroup.wgsl`): the launches for CPU drivers with subgroups.

use super::registers::SMALL_FLOPS;
use super::{Conv2d, Extent};
use crate::graph::{Dispatch, Operand, Program};
use crate::ops::gemm::{weight_results, with_bias_gradient};
use crate::ops::stored;
use crate::ops::sum_rows::in_splits;
use crate::shader::{Extension, Source, Variant};
use crate::tensor::DType;

static SHADER: Source = crate::wgsl!("conv2d_subgroup");

/// Columns of a tile: as many sums fit into the registers of a CPU beside two operands.
const COLUMNS: usize = 8;

/// Vectors of channels of a tile. 8x8x8 pixels by 64 to 64 channels, in GFLOP/s of two cores: 4 vectors 47, 8 57.
const VECTORS: usize = 8;

/// Workgroups that the splits of the weights' gradient aim at.
const SPLIT_WORKGROUPS: usize = 64;

/// Whether the shader has this convolution, of so many channels on both sides, and it is worth the compiler's time.
pub(super) fn suits(conv: &Conv2d, e: &Extent) -> bool {
    let vectors = [e.in_channels, e.out_channels].iter().all(|c| c.is_multiple_of(4));
    vectors && conv.kernel <= 3 && conv.flops(e) >= SMALL_FLOPS
}

fn variant(conv: &Conv2d, padding: usize, lanes: usize, columns: usize, dtype: DType) -> Variant {
    let number = |n: usize| format!("{n}u");
    stored(Variant::base(), dtype)
        .enable(Extension::Subgroups)
        .with("LANES", number(lanes))
        .with("KERNEL", number(conv.kernel))
        .with("STRIDE", number(conv.stride))
        .with("PADDING", number(padding))
        .with("COLUMNS", number(columns))
}

fn extent(dispatch: Dispatch, e: &Extent) -> Dispatch {
    dispatch
        .param("batch", e.batch)
        .param("height", e.height)
        .param("width", e.width)
        .param("in_vectors", e.in_channels / 4)
        .param("out_height", e.out_height)
        .param("out_width", e.out_width)
        .param("out_vectors", e.out_channels / 4)
}

/// A launch of `forward` or `backward_input`, which is a convolution from `e`'s input to its output too.
fn product(
    entry: &'static str,
    conv: &Conv2d,
    padding: usize,
    e: &Extent,
    dtype: DType,
    lanes: usize,
) -> Dispatch {
    let columns = COLUMNS.min(e.out_width.next_power_of_two());
    let vectors = VECTORS.min(e.out_channels / 4);
    let tiles = (e.batch * e.out_height).div_ceil(lanes) * e.out_width.div_ceil(columns);
    let variant = variant(conv, padding, lanes, columns, dtype).with("VECTORS", format!("{vectors}u"));
    extent(Dispatch::new(&SHADER, entry).variant(variant), e)
        .workgroups(tiles * (e.out_channels / 4).div_ceil(vectors))
        .bind("w", Operand::Input(1))
        .bind("x", Operand::Input(0))
        .bind("y", Operand::Output(0))
}

/// y from x = input 0, w = input 1, b = input 2.
pub(super) fn forward(conv: &Conv2d, e: &Extent, dtype: DType, lanes: usize) -> Dispatch {
    product("forward", conv, conv.padding.before(), e, dtype, lanes).bind("b", Operand::Input(2))
}

/// dx from dy = input 0, w = input 1, of a convolution whose stride is 1.
pub(super) fn backward_input(conv: &Conv2d, e: &Extent, dtype: DType, lanes: usize) -> Dispatch {
    let turned = Extent {
        batch: e.batch,
        height: e.out_height,
        width: e.out_width,
        in_channels: e.out_channels,
        out_height: e.height,
        out_width: e.width,
        out_channels: e.in_channels,
    };
    product("backward_input", conv, conv.kernel - 1 - conv.padding.before(), &turned, dtype, lanes)
}

/// dw, and db if asked, from x = input 0, dy = input 1. The sum over rows is split, and a second launch adds the splits.
pub(super) fn backward_weight(conv: &Conv2d, e: &Extent, dtype: DType, bias: bool, lanes: usize) -> Program {
    let columns = COLUMNS.min(e.out_width.next_power_of_two());
    // One kernel position has few products for each element of dy: 96 to 32 channels, 4 vectors 40 GFLOP/s, 8 vectors 48.
    let in_vectors = if conv.kernel == 1 { 8 } else { 1 }.min(e.in_channels / 4);
    let tiles = (e.in_channels / 4).div_ceil(in_vectors) * (e.out_channels / 4).div_ceil(lanes);
    let rows = e.batch * e.out_height;
    let rows_per_split = rows.div_ceil(SPLIT_WORKGROUPS.div_ceil(tiles).min(rows));
    let splits = rows.div_ceil(rows_per_split);
    let results = weight_results(conv.weight_elements(e), bias, e.out_channels);
    in_splits(splits, &results, |to| {
        let variant = variant(conv, conv.padding.before(), lanes, columns, dtype)
            .with("IN_VECTORS", format!("{in_vectors}u"));
        let dispatch = extent(Dispatch::new(&SHADER, "backward_weight").variant(variant), e)
            .param("rows_per_split", rows_per_split)
            .workgroups(tiles * splits)
            .bind("x", Operand::Input(0))
            .bind("dy", Operand::Input(1))
            .bind("dw", to[0]);
        with_bias_gradient(dispatch, bias, to)
    })
}
