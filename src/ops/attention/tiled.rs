//! Attention through its matrix of weights in tiles staged in workgroup memory, for wide heads on GPUs: four numbers at a time
//! (`shaders/attention_vectors.wgsl`) where they can be, else one (`shaders/attention_tiled.wgsl`); and of f16 tensors on matrix
//! units (`shaders/lib/gemm_matrix.wgsl` in the former).

use super::streaming::row_products;
use super::{Sizes, WeightedSum};
use crate::graph::{Candidate, Caps, Dispatch, Operand, Program};
use crate::ops::gemm::Gemm;
use crate::ops::gemm_matrix::MatrixTile;
use crate::shader::{Source, Variant};
use crate::tensor::{DType, Spec, Tolerance};
use std::ops::Range;

static ELEMENTS: Source = crate::wgsl!("attention_tiled");
static VECTORS: Source = crate::wgsl!("attention_vectors");

/// What lies side by side of `columns`: nothing where a depth is no multiple of sixteen, as `attention_vectors` needs it.
fn column_run(columns: usize, depth: usize) -> usize {
    if depth.is_multiple_of(16) { columns } else { 1 }
}

/// What rounding weights and gradients of scores to f16 takes, as a part of the root mean square of the result. Each is off by 2^-11 of
/// itself at most and by 2.1e-4 in the root mean square, and so is a sum of them; the worst of a million by five times that, and of
/// rows that are larger than others by more. A test below rounds in f64, with exact products, and needs 2.2e-3.
const ROUNDED_WEIGHTS: f64 = 3e-3;

/// What computes the products.
#[derive(Clone, Copy)]
pub(super) struct Products {
    sizes: Sizes,
    dtype: DType,
    /// Matrix units, in this form of their kernel.
    units: Option<MatrixTile>,
}

/// The forms on matrix units that suit.
pub(super) fn on_matrix_units(
    sizes: Sizes,
    dtype: DType,
    caps: &Caps,
    program: impl Fn(Products) -> Program,
) -> Vec<Candidate> {
    let suits =
        |units: &MatrixTile| [sizes.length, sizes.head].iter().all(|n| n.is_multiple_of(units.depth()));
    let tolerance = Tolerance { absolute: ROUNDED_WEIGHTS, ..Tolerance::default() };
    let candidate = |units: MatrixTile| Candidate {
        tolerance,
        ..Candidate::new(units.algorithm(), program(Products { sizes, dtype, units: Some(units) }))
    };
    MatrixTile::all(caps, dtype).into_iter().filter(suits).map(candidate).collect()
}

impl Products {
    /// In tiles staged in workgroup memory.
    pub(super) fn tiled(sizes: Sizes, dtype: DType) -> Self {
        Self { sizes, dtype, units: None }
    }

    /// A product for each of these heads.
    fn product(
        self,
        sequences: &Range<usize>,
        gemm: Gemm,
        variant: Variant,
        types: [DType; 2],
        factor: f64,
    ) -> Dispatch {
        let count = sequences.len();
        let shader = if gemm.in_vectors() { &VECTORS } else { &ELEMENTS };
        let dispatch = gemm.batch(count, shader, variant, types, self.units);
        dispatch
            .param("length", self.sizes.length)
            .param("heads", self.sizes.heads)
            .param("head", self.sizes.head)
            .param("first", sequences.start)
            .param("factor", factor as f32)
            .arithmetic(count)
    }

    /// The products of the rows of two tensors, into the matrices; `finished` is put in the place of `lib/scaled_sum`.
    fn scores(self, sequences: &Range<usize>, finished: &'static str, [a, b, c]: [Operand; 3]) -> Dispatch {
        let Self { sizes, dtype, .. } = self;
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
        self.product(sequences, gemm, variant, [dtype, DType::F32], sizes.scale())
            .param("a_row", row)
            .param("a_column", 1usize)
            .param("b_row", 1usize)
            .param("b_column", row)
            .param("c_row", sizes.length)
            .bind("a", a)
            .bind("b", b)
            .bind("c", c)
    }

    fn weighted_sum(self, sequences: &Range<usize>, sum: WeightedSum) -> Dispatch {
        let Self { sizes, dtype, .. } = self;
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
        self.product(sequences, gemm, variant, [dtype; 2], sum.factor)
            .param("a_row", a_row)
            .param("a_column", a_column)
            .param("b_row", row)
            .param("b_column", 1usize)
            .param("c_row", row)
            .bind("a", sum.m)
            .bind("b", sum.x)
            .bind("c", sum.y)
    }
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

/// o and the log-sum-exp from q, k, v.
pub(super) fn forward(products: Products) -> Program {
    let sizes = products.sizes;
    let p = Operand::Scratch(0);
    let [q, k, v] = [0, 1, 2].map(Operand::Input);
    let [o, log_sum_exp] = [0, 1].map(Operand::Output);
    let launches = |s: &Range<usize>| {
        [
            products.scores(s, "lib/scaled_sum", [q, k, p]),
            softmax(sizes, s).bind("p", p).bind("statistic", log_sum_exp),
            products.weighted_sum(s, WeightedSum { factor: 1.0, m: p, transposed: false, x: v, y: o }),
        ]
    };
    Program {
        scratch: vec![sizes.matrix_scratch()],
        dispatches: sizes.matrices().iter().flat_map(launches).collect(),
    }
}

/// dq, dk and dv from q, k, v, o, the log-sum-exp and do. The gradients of the scores take the place of the weights, as soon as
/// dv is computed.
pub(super) fn backward(products: Products) -> Program {
    let Products { sizes, dtype, .. } = products;
    let [row_sums, m] = [0, 1].map(Operand::Scratch);
    let [q, k, v, _, log_sum_exp, d_o] = [0, 1, 2, 3, 4, 5].map(Operand::Input);
    let [dq, dk, dv] = [0, 1, 2].map(Operand::Output);
    let factor = sizes.scale();
    let launches = |s: &Range<usize>| {
        let sum = |sum| products.weighted_sum(s, sum);
        [
            products.scores(s, "lib/softmax_weight", [q, k, m]).bind("log_sum_exp", log_sum_exp),
            sum(WeightedSum { factor: 1.0, m, transposed: true, x: d_o, y: dv }),
            products.scores(s, "lib/softmax_gradient", [d_o, v, m]).bind("products", row_sums),
            sum(WeightedSum { factor, m, transposed: false, x: k, y: dq }),
            sum(WeightedSum { factor, m, transposed: true, x: q, y: dk }),
        ]
    };
    let mut dispatches = vec![row_products(sizes, dtype, row_sums)];
    dispatches.extend(sizes.matrices().iter().flat_map(launches));
    Program { scratch: vec![Spec::f32([sizes.statistic().elements()]), sizes.matrix_scratch()], dispatches }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::attention::{AttentionBackward, cases};

    /// In f64, with nothing rounded but the factors and the results: a kernel has room for its own arithmetic, and little more.
    #[test]
    fn rounding_alone_takes_most_of_the_tolerance() {
        let is_it = |title: &str| title.starts_with("attention_backward: 48 x 112 rows, 4 heads of 80");
        let case = cases().into_iter().rfind(|case| is_it(&case.title())).expect("the largest case");
        let (x, backward) = (case.arrays(), AttentionBackward { heads: 4 });
        assert!(x[0].data.iter().all(|&q| DType::F16.round(q) == q), "the case in f16");
        let exact = backward.gradients(&x, |weight| weight);
        let rounded = backward.gradients(&x, |weight| DType::F16.round(weight));
        let tolerance = Tolerance { absolute: ROUNDED_WEIGHTS, ..Tolerance::default() }.stored_as(DType::F16);
        let excess = exact.iter().zip(rounded).map(|(exact, rounded)| {
            tolerance.compare(&rounded.map(|d| DType::F16.round(d)).data, &exact.data).excess
        });
        let most = excess.fold(0.0, f64::max);
        assert!((0.6..1.0).contains(&most), "{most} of the tolerance");
    }
}
