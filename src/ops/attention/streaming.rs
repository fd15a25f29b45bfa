//! Attention by rows that stream past those in registers (`shaders/attention.wgsl`).

use super::Sizes;
use crate::graph::{Caps, Dispatch, Kernels, Limits, Operand, Program};
use crate::ops::{stored, vector_width};
use crate::shader::{Extension, Source, Variant};
use crate::tensor::{DType, Spec};

static SHADER: Source = crate::wgsl!("attention");

/// Rows streamed at once, `STEP` of the shader.
const STEP: usize = 4;

/// Channels of a head that a GPU has registers for: the most without a spill as Mesa's compilers for RDNA 3 and 4, Ampere and
/// Apple's GPUs make the kernels. The gradients hold four rows of a head, and in 16 channels spill 17 registers on Apple's alone;
/// in 32 they would spill up to 152.
const FORWARD_CHANNELS: usize = 40;
const BACKWARD_CHANNELS: usize = 16;

/// Whether a head is narrow enough for registers.
///
/// It is unrolled code there, which Mesa's CPU driver takes seconds to compile from 32 channels on (a minute for the three passes
/// at 64).
fn suits(sizes: Sizes, caps: &Caps, channels: usize) -> bool {
    match caps.kernels {
        Kernels::Registers => sizes.head / sizes.width() <= 4,
        Kernels::Workgroup => sizes.head <= channels,
    }
}

/// Whether [`forward`] suits.
pub(super) fn suits_forward(sizes: Sizes, caps: &Caps) -> bool {
    suits(sizes, caps, FORWARD_CHANNELS)
}

/// Whether [`backward`] suits.
pub(super) fn suits_backward(sizes: Sizes, caps: &Caps) -> bool {
    suits(sizes, caps, BACKWARD_CHANNELS)
}

/// Rows of both sides, in f32, that the workgroup memory of every WebGPU device has room for.
fn tile(sizes: Sizes) -> usize {
    (Limits::WEBGPU.workgroup_bytes as usize / (8 * sizes.head)).min(64) / STEP * STEP
}

fn variant(sizes: Sizes, dtype: DType, invocations: usize) -> Variant {
    stored(vector_width(&[sizes.head]).1, dtype)
        .with("INVOCATIONS", format!("{invocations}u"))
        .with("HEAD_VECTORS", format!("{}u", sizes.head / sizes.width()))
}

/// A launch of an entry point that streams rows.
fn stream(sizes: Sizes, entry: &'static str, dtype: DType, caps: &Caps) -> Dispatch {
    // A GPU hides latency with many invocations of few registers; a CPU driver has no invocations to spare
    // and pays per load. Eight of them are one subgroup of lavapipe, whose invocations load for each other.
    let subgroup = caps.subgroup().filter(|&size| caps.kernels == Kernels::Registers && size >= STEP);
    let (invocations, held) = match caps.kernels {
        Kernels::Workgroup => (64, 1),
        Kernels::Registers => (subgroup.unwrap_or(8), 4),
    };
    let mut variant =
        variant(sizes, dtype, invocations).with("HELD", format!("{held}u")).with("STEP", format!("{STEP}u"));
    if caps.kernels == Kernels::Workgroup {
        let tile = format!("{}u", tile(sizes));
        variant = variant.link("lib/stream_direct", "lib/stream_staged").with("TILE", tile);
    }
    if subgroup.is_some() {
        variant = variant.enable(Extension::Subgroups).link("lib/stream_direct", "lib/stream_subgroup");
    }
    let chunks = sizes.length.div_ceil(invocations * held);
    Dispatch::new(&SHADER, entry)
        .variant(variant)
        .param("length", sizes.length)
        .param("heads", sizes.heads)
        .param("row_vectors", sizes.heads * sizes.head / sizes.width())
        .param("sequences", sizes.batch * sizes.heads)
        .param("chunks", chunks)
        .param("scale", sizes.scale() as f32)
        .workgroups(sizes.batch * sizes.heads * chunks)
}

/// D, the products of the rows of do and o, from the inputs of the gradients.
pub(super) fn row_products(sizes: Sizes, dtype: DType, products: Operand) -> Dispatch {
    const INVOCATIONS: usize = 64;
    let rows = sizes.batch * sizes.length * sizes.heads;
    Dispatch::new(&SHADER, "row_products")
        .arithmetic(0)
        .variant(variant(sizes, dtype, INVOCATIONS))
        .param("length", sizes.length)
        .param("heads", sizes.heads)
        .param("rows", rows)
        .linear(rows, INVOCATIONS)
        .bind("held_a", Operand::Input(5))
        .bind("held_b", Operand::Input(3))
        .bind("statistic", products)
}

/// o and the log-sum-exp from q, k, v.
pub(super) fn forward(sizes: Sizes, dtype: DType, caps: &Caps) -> Program {
    stream(sizes, "forward", dtype, caps)
        .bind("held_a", Operand::Input(0))
        .bind("streamed_a", Operand::Input(1))
        .bind("streamed_b", Operand::Input(2))
        .bind("result_a", Operand::Output(0))
        .bind("statistic", Operand::Output(1))
        .into()
}

/// dq, dk and dv from q, k, v, o, the log-sum-exp and do.
pub(super) fn backward(sizes: Sizes, dtype: DType, caps: &Caps) -> Program {
    let products = Operand::Scratch(0);
    let [q, k, v, _, log_sum_exp, d_o] = [0, 1, 2, 3, 4, 5].map(Operand::Input);
    let [dq, dk, dv] = [0, 1, 2].map(Operand::Output);
    // Of the four products, dq and half of dp are here, dk, dv and the other half there.
    let query = stream(sizes, "backward_query", dtype, caps).arithmetic(3).bind("result_a", dq);
    let key =
        stream(sizes, "backward_key", dtype, caps).arithmetic(5).bind("result_a", dk).bind("result_b", dv);
    let mut dispatches = vec![row_products(sizes, dtype, products)];
    let rows = [(query, [q, d_o, k, v]), (key, [k, v, q, d_o])];
    dispatches.extend(rows.map(|(launch, [held_a, held_b, streamed_a, streamed_b])| {
        launch
            .bind("held_a", held_a)
            .bind("held_b", held_b)
            .bind("streamed_a", streamed_a)
            .bind("streamed_b", streamed_b)
            .bind("log_sum_exp", log_sum_exp)
            .bind("products", products)
    }));
    Program { scratch: vec![Spec::f32([sizes.statistic().elements()])], dispatches }
}
