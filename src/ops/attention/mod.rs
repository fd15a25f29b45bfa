//! Multi-head attention, in one of two ways. Rows stream past those that invocations hold in registers, and the matrix of
//! weights is never stored (`streaming`): the online softmax of Milakov & Gimelshein (arXiv 1805.02867), and gradients from its
//! log-sum-exp as in Dao et al. (arXiv 2205.14135). Or the matrix is stored, a few heads at a time: in tiles in registers for
//! CPU drivers (`registers`), staged in workgroup memory for GPUs (`tiled`).

mod backward;
mod cases;
mod registers;
mod streaming;
mod tiled;

pub use backward::AttentionBackward;
pub(super) use cases::cases;

use super::{expect_float, vector_width};
use crate::ensure_shape;
use crate::graph::{Backward, Candidate, Caps, Cost, GraphError, Kernels, Op, Operand, ShapeError};
use crate::tensor::{Array, Shape, Spec};
use std::ops::Range;
use tiled::Products;

/// Scratch elements for matrices of weights: 32 MiB, unless a single one is larger.
const MATRIX_ELEMENTS: usize = 1 << 23;

/// Batch, rows T, heads, and channels d of a head.
#[derive(Clone, Copy)]
struct Sizes {
    batch: usize,
    length: usize,
    heads: usize,
    head: usize,
}

impl Sizes {
    fn of(shape: &Shape, heads: usize) -> Self {
        Self { batch: shape[0], length: shape[1], heads, head: shape[2] / heads }
    }

    fn statistic(self) -> Shape {
        Shape::new([self.batch, self.heads, self.length])
    }

    /// Batch times heads times T² d operations per unit.
    fn flops(self, units: u64) -> u64 {
        units * (self.batch * self.heads * self.length) as u64 * (self.length * self.head) as u64
    }

    fn scale(self) -> f64 {
        1.0 / (self.head as f64).sqrt()
    }

    /// Where row `t` of head `h` of sequence `b` begins.
    fn at(self, b: usize, h: usize, t: usize) -> usize {
        ((b * self.length + t) * self.heads + h) * self.head
    }

    /// Channels per load.
    fn width(self) -> usize {
        vector_width(&[self.head]).0
    }

    /// The ranges of (batch, heads) whose matrices are in memory together.
    fn matrices(self) -> Vec<Range<usize>> {
        let all = self.batch * self.heads;
        let together = (MATRIX_ELEMENTS / (self.length * self.length)).clamp(1, all);
        (0..all).step_by(together).map(|first| first..all.min(first + together)).collect()
    }

    /// The largest of these matrices together.
    fn matrix_scratch(self) -> Spec {
        Spec::f32([self.matrices()[0].len() * self.length * self.length])
    }
}

/// A weighted sum of rows, y[r] = factor Σ_j m[r,j] x[j], or with m[j,r].
struct WeightedSum {
    factor: f64,
    m: Operand,
    transposed: bool,
    x: Operand,
    y: Operand,
}

/// Σ_c a[c] b[c].
fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn check(op: &'static str, x: &[Spec], heads: usize) -> Result<(), ShapeError> {
    let shape = &x[0].shape;
    ensure_shape!(op, shape.rank() == 3, "q must be (batch, T, channels), found {shape}");
    ensure_shape!(op, shape.elements() > 0, "q is empty: {shape}");
    ensure_shape!(
        op,
        heads > 0 && shape[2].is_multiple_of(heads),
        "{} channels cannot be divided into {heads} heads",
        shape[2]
    );
    for (name, y) in ["k", "v"].iter().zip(&x[1..3]) {
        ensure_shape!(op, y == &x[0], "q is {shape}, but {name} is {}", y.shape);
    }
    Ok(())
}

/// o = softmax(q kᵀ / √d) v in each head. Inputs q, k, v, each (batch, T, heads d); outputs o of the same shape,
/// and the log-sum-exp of the scores, (batch, heads, T), for the gradient.
///
/// q, k and v are f32 or f16, and o with them; the log-sum-exp is f32.
#[derive(Debug, Clone)]
pub struct Attention {
    /// Heads, into which the channels are divided.
    pub heads: usize,
}

impl Op for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        expect_float("attention", x, 3)?;
        check("attention", x, self.heads)?;
        let statistic = Sizes::of(&x[0].shape, self.heads).statistic();
        Ok(vec![x[0].clone(), Spec::f32(statistic.axes())])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let sizes @ Sizes { batch, length, heads, head } = Sizes::of(&x[0].shape, self.heads);
        let (q, k, v) = (&x[0].data, &x[1].data, &x[2].data);
        let mut o = Array::zeros(&x[0].shape);
        let mut log_sum_exp = Vec::with_capacity(sizes.statistic().elements());
        for (b, h) in (0..batch).flat_map(|b| (0..heads).map(move |h| (b, h))) {
            for t in 0..length {
                let q = &q[sizes.at(b, h, t)..][..head];
                let s: Vec<f64> =
                    (0..length).map(|u| sizes.scale() * dot(q, &k[sizes.at(b, h, u)..][..head])).collect();
                let largest = s.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let l = largest + s.iter().map(|s| (s - largest).exp()).sum::<f64>().ln();
                for u in 0..length {
                    let p = (s[u] - l).exp();
                    for c in 0..head {
                        o.data[sizes.at(b, h, t) + c] += p * v[sizes.at(b, h, u) + c];
                    }
                }
                log_sum_exp.push(l);
            }
        }
        vec![o, Array { shape: sizes.statistic(), data: log_sum_exp }]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        Cost::matrix(x, y, Sizes::of(&x[0].shape, self.heads).flops(4))
    }

    fn candidates(&self, x: &[Spec], _y: &[Spec], caps: &Caps) -> Vec<Candidate> {
        let (sizes, dtype) = (Sizes::of(&x[0].shape, self.heads), x[0].dtype);
        let mut candidates = caps.both(|caps| match caps.kernels {
            _ if streaming::suits_forward(sizes, caps) => streaming::forward(sizes, dtype, caps),
            Kernels::Registers => registers::forward(sizes, dtype),
            Kernels::Workgroup => tiled::forward(Products::tiled(sizes, dtype)),
        });
        candidates.extend(tiled::on_matrix_units(sizes, dtype, caps, tiled::forward));
        candidates
    }

    fn backward(&self, g: &mut Backward) -> Result<(), GraphError> {
        let inputs = [g.input(0), g.input(1), g.input(2), g.output(0), g.output(1), g.gradient(0)];
        let gradients = g.apply_all(AttentionBackward { heads: self.heads }, &inputs)?;
        for (i, gradient) in gradients.into_iter().enumerate() {
            if g.needs(i) {
                g.accumulate(i, gradient)?;
            }
        }
        Ok(())
    }
}
