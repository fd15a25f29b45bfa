//! Convolutions to one to four channels, and gradients of weights between these and more (`shaders/conv2d_narrow.wgsl`,
//! `shaders/conv2d_weight_narrow.wgsl`): the launches for GPUs of the layers next to the pictures, whose channels would fill a
//! sixteenth of a tile.

use super::{Conv2d, Extent};
use crate::graph::{Dispatch, Operand, Program};
use crate::ops::gemm::{Splits, weight_results};
use crate::ops::stored;
use crate::ops::sum_rows::sum_into_splits;
use crate::shader::{Source, Variant};
use crate::tensor::DType;

static FORWARD: Source = crate::wgsl!("conv2d_narrow");
static WEIGHT: Source = crate::wgsl!("conv2d_weight_narrow");

const NARROW: usize = 4;

const INVOCATIONS: usize = 64;

/// Pixels of a run of `conv2d_narrow.wgsl`.
const PIXELS: usize = 8;

/// Workgroups of the weight's gradient, of two subgroups each, on a large GPU: sixteen for each of 128 multiprocessors, since an
/// invocation has no more than four loads under way.
const BUSY_WORKGROUPS: usize = 2048;

/// Invocations of a workgroup that have four channels each, side by side.
fn lanes(channels: usize) -> usize {
    (channels / 4).next_power_of_two().min(32)
}

fn number(n: usize) -> String {
    format!("{n}u")
}

/// Whether a tensor has few channels and another ones that are loaded four at a time.
fn pair(narrow: usize, wide: usize) -> bool {
    narrow <= NARROW && wide.is_multiple_of(4)
}

/// Whether [`forward`] computes it.
pub(super) fn suits_forward(e: &Extent) -> bool {
    pair(e.out_channels, e.in_channels)
}

/// y from x = input 0, w = input 1, b = input 2.
pub(super) fn forward(conv: &Conv2d, e: &Extent, dtype: DType) -> Dispatch {
    let lanes = lanes(e.in_channels);
    let runs = INVOCATIONS / lanes;
    let variant = stored(Variant::base(), dtype)
        .with("COLUMNS", number(e.out_channels))
        .with("LANES", number(lanes))
        .with("RUNS", number(runs));
    Dispatch::new(&FORWARD, "forward")
        .variant(variant)
        .bind("x", Operand::Input(0))
        .bind("w", Operand::Input(1))
        .bind("bias", Operand::Input(2))
        .bind("y", Operand::Output(0))
        .param("batch", e.batch)
        .param("height", e.height)
        .param("width", e.width)
        .param("vectors", e.in_channels / 4)
        .param("out_height", e.out_height)
        .param("out_width", e.out_width)
        .param("kernel", conv.kernel)
        .param("stride", conv.stride)
        .param("padding", conv.padding.before())
        .linear(e.batch * e.out_height * e.out_width.div_ceil(PIXELS), runs)
}

/// Whether [`backward_weight`] computes it.
pub(super) fn suits_backward_weight(conv: &Conv2d, e: &Extent) -> bool {
    let either = pair(e.out_channels, e.in_channels) || pair(e.in_channels, e.out_channels);
    either && conv.stride == 1 && matches!(conv.kernel, 1 | 3)
}

/// dw, and db if asked, from x = input 0, dy = input 1. The rows of pixels are split, and a last launch adds the splits; db is
/// summed in a launch of its own.
pub(super) fn backward_weight(conv: &Conv2d, e: &Extent, dtype: DType, bias: bool) -> Program {
    let (x, dy) = ((Operand::Input(0), e.height, e.width), (Operand::Input(1), e.out_height, e.out_width));
    let narrow_dy = pair(e.out_channels, e.in_channels);
    let before = conv.padding.before();
    let (wide, channels, narrow, narrow_channels, before) = if narrow_dy {
        (x, e.in_channels, dy, e.out_channels, conv.kernel - 1 - before)
    } else {
        (dy, e.out_channels, x, e.in_channels, before)
    };
    let columns = lanes(channels);
    let together = INVOCATIONS / columns;
    let blocks = conv.kernel * (channels / 4).div_ceil(columns);
    let (rows, results) = (e.batch * wide.1, conv.weight_elements(e));
    let splits = Splits::new(rows, results, blocks, BUSY_WORKGROUPS, together);

    let mut variant = stored(Variant::base(), dtype)
        .with("KERNEL", number(conv.kernel))
        .with("NARROW", number(narrow_channels))
        .with("COLUMNS", number(columns))
        .with("ROWS", number(together));
    if !narrow_dy {
        variant = variant.with("NARROW_DY", false);
    }
    let mut of_bias = None;
    let mut program = splits.program(&weight_results(results, bias, e.out_channels), |to| {
        let pixels = e.batch * e.out_height * e.out_width;
        of_bias = bias.then(|| {
            sum_into_splits((dy.0, dtype), to[1], pixels, e.out_channels, splits.count).arithmetic(0)
        });
        Dispatch::new(&WEIGHT, "backward_weight")
            .variant(variant)
            .bind("m", wide.0)
            .bind("n", narrow.0)
            .bind("c", to[0])
            .param("rows", rows)
            .param("splits", splits.count)
            .param("split_rows", splits.depth)
            .param("height", wide.1)
            .param("width", wide.2)
            .param("vectors", channels / 4)
            .param("narrow_height", narrow.1)
            .param("narrow_width", narrow.2)
            .param("before", before)
            .workgroups(blocks * splits.count)
    });
    program.dispatches.extend(of_bias);
    // The sum over the splits comes last.
    if bias && splits.count > 1 {
        program.dispatches.swap(1, 2);
    }
    program
}
