//! Attention through its matrix of weights in tiles staged in workgroup memory, for wide heads on GPUs: four numbers at a time
//! (`shaders/attention_vectors.wgsl`) where they can be, else one (`shaders/attention_tiled.wgsl`).

use super::streaming::row_products;
use super::{Sizes, WeightedSum};
use crate::graph::{Dispatch, Operand, Program};
use crate::ops::gemm::Gemm;
use crate::shader::{Source, Variant};
use crate::tensor::{DType, Spec};
use std::ops::Range;

static ELEMENTS: Source = crate::wgsl!("attention_tiled");
static VECTORS: Source = crate::wgsl!("attention_vectors");

/// What lies side by side of `columns`: nothing where a depth is no multiple of sixteen, as `attention_vectors` needs it.
fn column_run(columns: usize, depth: usize) -> usize {
    if depth.is_multiple_of(16) { columns } else { 1 }
}

/// A product for each of these heads.
fn product(
    sizes: Sizes,
    sequences: &Range<usize>,
    gemm: Gemm,
    variant: Variant,
    types: [DType; 2],
    factor: f64,
) -> Dispatch {
    let shader = if gemm.in_vectors() { &VECTORS } else { &ELEMENTS };
    gemm.batch(sequences.len(), shader, "product", variant, types)
        .param("length", sizes.length)
        .param("heads", sizes.heads)
        .param("head", sizes.head)
        .param("first", sequences.start)
        .param("factor", factor as f32)
        .arithmetic(sequences.len())
}

/// The products of the rows of two tensors, into the matrices; `finished` is put in the place of `lib/scaled_sum`.
fn scores(
    sizes: Sizes,
    dtype: DType,
    sequences: &Range<usize>,
    finished: &'static str,
    [a, b, c]: [Operand; 3],
) -> Dispatch {
    let gemm = Gemm {
        rows: sizes.length,
        columns: sizes.length,
        depth: sizes.head,
        column_run: column_run(sizes.length, sizes.head),
        depth_run: sizes.head,
        a_along_depth: true,
        b_along_columns: false,
    };
    let variant = Variant::base().link("lib/scaled_sum", finished);
    let row = sizes.heads * sizes.head;
    product(sizes, sequences, gemm, variant, [dtype, DType::F32], sizes.scale())
        .param("a_row", row)
        .param("a_column", 1usize)
        .param("b_row", 1usize)
        .param("b_column", row)
        .param("c_row", sizes.length)
        .bind("a", a)
        .bind("b", b)
        .bind("c", c)
}

/// The launch that turns scores into weights, a row per workgroup.
fn softmax(sizes: Sizes, sequences: &Range<usize>) -> Dispatch {
    // Four elements to an invocation, where rows are long enough.
    let lanes = sizes.length.div_ceil(4).next_power_of_two().clamp(32, 256);
    Dispatch::new(&ELEMENTS, "softmax")
        .arithmetic(0)
        .variant(Variant::base().with("LANES", format!("{lanes}u")))
        .param("length", sizes.length)
        .param("first", sequences.start)
        .param("sequences", sequences.len())
        .workgroups(sequences.len() * sizes.length)
}

fn weighted_sum(sizes: Sizes, dtype: DType, sequences: &Range<usize>, sum: WeightedSum) -> Dispatch {
    let gemm = Gemm {
        rows: sizes.length,
        columns: sizes.head,
        depth: sizes.length,
        column_run: column_run(sizes.head, sizes.length),
        depth_run: sizes.length,
        a_along_depth: !sum.transposed,
        b_along_columns: true,
    };
    let left = if gemm.in_vectors() { "vec4<f32>" } else { "f32" };
    let variant = Variant::base().with("WEIGHTED_SUM", true).with("Left", left);
    let (a_row, a_column) = if sum.transposed { (1, sizes.length) } else { (sizes.length, 1) };
    let row = sizes.heads * sizes.head;
    product(sizes, sequences, gemm, variant, [dtype; 2], sum.factor)
        .param("a_row", a_row)
        .param("a_column", a_column)
        .param("b_row", row)
        .param("b_column", 1usize)
        .param("c_row", row)
        .bind("a", sum.m)
        .bind("b", sum.x)
        .bind("c", sum.y)
}

/// o and the log-sum-exp from q, k, v.
pub(super) fn forward(sizes: Sizes, dtype: DType) -> Program {
    let p = Operand::Scratch(0);
    let [q, k, v] = [0, 1, 2].map(Operand::Input);
    let [o, log_sum_exp] = [0, 1].map(Operand::Output);
    let launches = |s: &Range<usize>| {
        [
            scores(sizes, dtype, s, "lib/scaled_sum", [q, k, p]),
            softmax(sizes, s).bind("p", p).bind("statistic", log_sum_exp),
            weighted_sum(sizes, dtype, s, WeightedSum { factor: 1.0, m: p, transposed: false, x: v, y: o }),
        ]
    };
    Program {
        scratch: vec![sizes.matrix_scratch()],
        dispatches: sizes.matrices().iter().flat_map(launches).collect(),
    }
}

/// dq, dk and dv from q, k, v, o, the log-sum-exp and do. The gradients of the scores take the place of the weights, as soon as
/// dv is computed.
pub(super) fn backward(sizes: Sizes, dtype: DType) -> Program {
    let [products, m] = [0, 1].map(Operand::Scratch);
    let [q, k, v, _, log_sum_exp, d_o] = [0, 1, 2, 3, 4, 5].map(Operand::Input);
    let [dq, dk, dv] = [0, 1, 2].map(Operand::Output);
    let factor = sizes.scale();
    let launches = |s: &Range<usize>| {
        let sum = |sum| weighted_sum(sizes, dtype, s, sum);
        [
            scores(sizes, dtype, s, "lib/softmax_weight", [q, k, m]).bind("log_sum_exp", log_sum_exp),
            sum(WeightedSum { factor: 1.0, m, transposed: true, x: d_o, y: dv }),
            scores(sizes, dtype, s, "lib/softmax_gradient", [d_o, v, m]).bind("products", products),
            sum(WeightedSum { factor, m, transposed: false, x: k, y: dq }),
            sum(WeightedSum { factor, m, transposed: true, x: q, y: dk }),
        ]
    };
    let mut dispatches = vec![row_products(sizes, dtype, products)];
    dispatches.extend(sizes.matrices().iter().flat_map(launches));
    Program { scratch: vec![Spec::f32([sizes.statistic().elements()]), sizes.matrix_scratch()], dispatches }
}
