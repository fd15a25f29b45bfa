//! Attention through its matrix of weights in tiles in registers (`shaders/attention_matrix.wgsl`): for wide heads on CPU
//! drivers.

use super::streaming::row_products;
use super::{Sizes, WeightedSum};
use crate::graph::{Dispatch, Operand, Program};
use crate::ops::{stored, vector_width};
use crate::shader::{Source, Variant};
use crate::tensor::{DType, Spec};
use std::ops::Range;

static SHADER: Source = crate::wgsl!("attention_matrix");

/// Invocations of a workgroup, one subgroup of lavapipe, and rows of the tile of each.
const INVOCATIONS: usize = 8;
const ROWS: usize = 8;

/// A launch over tiles of so many columns of matrices of T rows, all but the softmax.
fn tiles(
    sizes: Sizes,
    entry: &'static str,
    dtype: DType,
    sequences: &Range<usize>,
    factor: f64,
    (columns, of): (usize, usize),
) -> Dispatch {
    let mut variant = stored(Variant::base(), dtype)
        .with("INVOCATIONS", format!("{INVOCATIONS}u"))
        .with("ROWS", format!("{ROWS}u"))
        .with("COLUMNS", format!("{columns}u"));
    if sizes.width() == 1 {
        variant = variant.link("lib/in4", "lib/in1");
    }
    Dispatch::new(&SHADER, entry)
        .variant(variant)
        .param("length", sizes.length)
        .param("heads", sizes.heads)
        .param("head_vectors", sizes.head / sizes.width())
        .param("first", sequences.start)
        .param("sequences", sequences.len())
        .param("factor", factor as f32)
        .linear(sequences.len() * sizes.length.div_ceil(ROWS) * of.div_ceil(columns), INVOCATIONS)
        .arithmetic(sequences.len())
}

/// A launch that fills matrices: `scores` or `gradients`, in tiles of 8 x 4.
fn matrix(sizes: Sizes, entry: &'static str, dtype: DType, sequences: &Range<usize>) -> Dispatch {
    tiles(sizes, entry, dtype, sequences, sizes.scale(), (4, sizes.length))
}

/// The launch that turns scores into weights, a row per invocation.
fn softmax(sizes: Sizes, sequences: &Range<usize>) -> Dispatch {
    let (width, variant) = vector_width(&[sizes.length]);
    Dispatch::new(&SHADER, "softmax")
        .arithmetic(0)
        .variant(variant.with("INVOCATIONS", format!("{INVOCATIONS}u")))
        .param("vectors", sizes.length / width)
        .param("length", sizes.length)
        .param("first", sequences.start)
        .param("sequences", sequences.len())
        .linear(sequences.len() * sizes.length, INVOCATIONS)
}

/// 8 rows of up to 8 channels to a tile.
fn weighted_sum(sizes: Sizes, dtype: DType, sequences: &Range<usize>, sum: WeightedSum) -> Dispatch {
    let vectors = sizes.head / sizes.width();
    let columns = (8 / sizes.width()).min(vectors);
    let mut dispatch = tiles(sizes, "weighted_sum", dtype, sequences, sum.factor, (columns, vectors));
    dispatch.variant = dispatch.variant.with("TRANSPOSED", sum.transposed);
    dispatch.bind("m", sum.m).bind("x", sum.x).bind("y", sum.y)
}

/// o and the log-sum-exp from q, k, v.
pub(super) fn forward(sizes: Sizes, dtype: DType) -> Program {
    let p = Operand::Scratch(0);
    let [q, k, v] = [0, 1, 2].map(Operand::Input);
    let [o, log_sum_exp] = [0, 1].map(Operand::Output);
    let launches = |s: &Range<usize>| {
        [
            matrix(sizes, "scores", dtype, s).bind("q", q).bind("k", k).bind("p", p),
            softmax(sizes, s).bind("rows", p).bind("statistic", log_sum_exp),
            weighted_sum(sizes, dtype, s, WeightedSum { factor: 1.0, m: p, transposed: false, x: v, y: o }),
        ]
    };
    Program {
        scratch: vec![sizes.matrix_scratch()],
        dispatches: sizes.matrices().iter().flat_map(launches).collect(),
    }
}

/// dq, dk and dv from q, k, v, o, the log-sum-exp and do.
pub(super) fn backward(sizes: Sizes, dtype: DType) -> Program {
    let [products, p, ds] = [0, 1, 2].map(Operand::Scratch);
    let [q, k, v, _, log_sum_exp, d_o] = [0, 1, 2, 3, 4, 5].map(Operand::Input);
    let [dq, dk, dv] = [0, 1, 2].map(Operand::Output);
    let factor = sizes.scale();
    let launches = |s: &Range<usize>| {
        let sum = |sum| weighted_sum(sizes, dtype, s, sum);
        [
            matrix(sizes, "gradients", dtype, s)
                .bind("q", q)
                .bind("k", k)
                .bind("v", v)
                .bind("d_o", d_o)
                .bind("log_sum_exp", log_sum_exp)
                .bind("products", products)
                .bind("p", p)
                .bind("ds", ds),
            sum(WeightedSum { factor, m: ds, transposed: false, x: k, y: dq }),
            sum(WeightedSum { factor, m: ds, transposed: true, x: q, y: dk }),
            sum(WeightedSum { factor: 1.0, m: p, transposed: true, x: d_o, y: dv }),
        ]
    };
    let matrix = sizes.matrix_scratch();
    let mut dispatches = vec![row_products(sizes, dtype, products)];
    dispatches.extend(sizes.matrices().iter().flat_map(launches));
    Program { scratch: vec![Spec::f32([sizes.statistic().elements()]), matrix.clone(), matrix], dispatches }
}
