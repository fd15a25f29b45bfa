//! Convolutions in register tiles (`shaders/conv2d.wgsl`): the launches for CPU drivers.

use super::{Conv2d, Extent};
use crate::graph::{Dispatch, Operand, Program};
use crate::ops::gemm::{weight_results, with_bias_gradient};
use crate::ops::stored;
use crate::ops::sum_rows::in_splits;
use crate::shader::{Source, Variant};
use crate::tensor::DType;

static SHADER: Source = crate::wgsl!("conv2d");

/// Invocations of a workgroup: two of the subgroups of eight that lavapipe computes at once. 8, 16 and 32
/// were equally fast; few leave more workgroups to share among cores.
pub(super) const INVOCATIONS: usize = 16;

/// Below this many operations a convolution takes about a millisecond on a CPU with any tile, and its
/// tile is chosen small for the sake of the compiler (0.3 s on lavapipe instead of 2 s).
pub(super) const SMALL_FLOPS: u64 = 4_000_000;

/// Invocations that the splits of the weights' gradient aim at. With 1024, adding the splits took up to a
/// third of the time; 256 was no different within the noise, and leaves less to share among cores.
const SPLIT_INVOCATIONS: usize = 512;

/// What is computed: each is an entry point of the shader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pass {
    Forward,
    BackwardInput,
    BackwardWeight,
}

/// The part of a result that one invocation computes. Channels are counted in numbers here.
#[derive(Debug, Clone, Copy)]
struct Tile {
    rows: usize,
    columns: usize,
    channels: usize,
}

/// Channels in one element of a buffer: four where four divides their number.
fn channel_width(channels: usize) -> usize {
    if channels.is_multiple_of(4) { 4 } else { 1 }
}

/// Tiles for a CPU driver, where the number of loads is what costs: a larger tile needs fewer per
/// multiply-add, but longer to compile. Measured with 8x32x32 pixels, 64 to 64 channels, in GFLOP/s of
/// two cores' time, as rows x columns by channels. forward: 1x8 by 8 15, 2x8 by 8 20, 2x8 by 16 23, 4x8
/// by 8 24; backward_input: 18, 25, 27, 31; backward_weight: 4 channels 24, 8 36, 16 42, though 16 is
/// slower on the small pictures.
fn tile(conv: &Conv2d, pass: Pass, e: &Extent) -> Tile {
    let small = conv.flops(e) < SMALL_FLOPS;
    if pass == Pass::BackwardWeight {
        // One element of x's channels by so many of dy's, for every kernel position.
        let channels = match (conv.kernel, small) {
            (1, _) => 16,
            (3, false) => 8,
            _ => 4,
        };
        return Tile { rows: 1, columns: 1, channels };
    }
    let (rows, columns, channels) = match (conv.kernel, small) {
        (_, true) => (1, 8, 4),
        (1, _) => (2, 8, 16),
        _ => (4, 8, 8),
    };
    let (height, width) = match pass {
        Pass::BackwardInput => (e.height.div_ceil(conv.stride), e.width),
        Pass::Forward | Pass::BackwardWeight => (e.out_height, e.out_width),
    };
    Tile {
        rows: rows.min(height.next_power_of_two()),
        columns: columns.min(width.next_power_of_two().max(Conv2d::MAX_STRIDE)),
        channels,
    }
}

/// A launch without its operands, and the number of parts into which the sums of [`Pass::BackwardWeight`] are split.
fn launch(conv: &Conv2d, pass: Pass, e: &Extent, dtype: DType) -> (Dispatch, usize) {
    let tile = tile(conv, pass, e);
    let (in_width, out_width) = (channel_width(e.in_channels), channel_width(e.out_channels));
    let (in_vectors, out_vectors) = (e.in_channels / in_width, e.out_channels / out_width);
    let (width, vectors) = match pass {
        Pass::BackwardInput => (in_width, in_vectors),
        Pass::Forward | Pass::BackwardWeight => (out_width, out_vectors),
    };
    let tile_channels = (tile.channels / width).min(vectors);
    let channel_tiles = vectors.div_ceil(tile_channels);
    let rows = e.batch * e.out_height;
    let mut rows_per_split = rows;
    let (entry, work) = match pass {
        Pass::Forward => {
            let tiles = e.out_height.div_ceil(tile.rows) * e.out_width.div_ceil(tile.columns);
            ("forward", e.batch * tiles * channel_tiles)
        }
        Pass::BackwardInput => {
            let tiles = e.height.div_ceil(tile.rows * conv.stride) * e.width.div_ceil(tile.columns);
            ("backward_input", e.batch * tiles * conv.stride * channel_tiles)
        }
        Pass::BackwardWeight => {
            let tiles = in_vectors * channel_tiles;
            rows_per_split = rows.div_ceil(SPLIT_INVOCATIONS.div_ceil(tiles).min(rows));
            ("backward_weight", rows.div_ceil(rows_per_split) * tiles)
        }
    };
    let number = |n: usize| format!("{n}u");
    let mut variant = stored(Variant::base(), dtype)
        .with("INVOCATIONS", number(INVOCATIONS))
        .with("KERNEL", number(conv.kernel))
        .with("STRIDE", number(conv.stride))
        .with("PADDING", number(conv.padding.before()))
        .with("TILE_ROWS", number(tile.rows))
        .with("TILE_COLUMNS", number(tile.columns))
        .with("TILE_CHANNELS", number(tile_channels));
    if in_width == 1 {
        variant = variant.link("lib/in4", "lib/in1");
    }
    if out_width == 1 {
        variant = variant.link("lib/out4", "lib/out1");
    }
    let mut dispatch = Dispatch::new(&SHADER, entry)
        .variant(variant)
        .linear(work, INVOCATIONS)
        .param("batch", e.batch)
        .param("height", e.height)
        .param("width", e.width)
        .param("in_vectors", in_vectors)
        .param("out_height", e.out_height)
        .param("out_width", e.out_width)
        .param("out_vectors", out_vectors);
    if pass == Pass::BackwardWeight {
        dispatch = dispatch.param("rows_per_split", rows_per_split);
    }
    (dispatch, rows.div_ceil(rows_per_split))
}

/// y from x = input 0, w = input 1, b = input 2.
pub(super) fn forward(conv: &Conv2d, e: &Extent, dtype: DType) -> Dispatch {
    launch(conv, Pass::Forward, e, dtype)
        .0
        .bind("x", Operand::Input(0))
        .bind("w", Operand::Input(1))
        .bind("b", Operand::Input(2))
        .bind("y", Operand::Output(0))
}

/// dx from dy = input 0, w = input 1.
pub(super) fn backward_input(conv: &Conv2d, e: &Extent, dtype: DType) -> Dispatch {
    launch(conv, Pass::BackwardInput, e, dtype)
        .0
        .bind("dy", Operand::Input(0))
        .bind("w", Operand::Input(1))
        .bind("dx", Operand::Output(0))
}

/// dw, and db if asked, from x = input 0, dy = input 1. The sum over rows is split, and a second launch adds the splits.
pub(super) fn backward_weight(conv: &Conv2d, e: &Extent, dtype: DType, bias: bool) -> Program {
    let (dispatch, splits) = launch(conv, Pass::BackwardWeight, e, dtype);
    let results = weight_results(conv.weight_elements(e), bias, e.out_channels);
    in_splits(splits, &results, |to| {
        let dispatch = dispatch.bind("x", Operand::Input(0)).bind("dy", Operand::Input(1)).bind("dw", to[0]);
        with_bias_gradient(dispatch, bias, to)
    })
}
