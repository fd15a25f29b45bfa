//! Multi-head attention. `shaders/attention.wgsl` never stores the matrix of weights: the online softmax of
//! Milakov & Gimelshein (arXiv 1805.02867), and gradients from its log-sum-exp as in Dao et al. (arXiv
//! 2205.14135). `shaders/attention_matrix.wgsl` stores it, a few heads at a time: for wide heads on CPU drivers.

use super::{Case, expect_activations, expect_float, stored, vector_width};
use crate::ensure_shape;
use crate::graph::{
    Backward, Candidate, Caps, Cost, Dispatch, GraphError, Kernels, Limits, Op, Operand, Program, ShapeError,
};
use crate::shader::{Source, Variant};
use crate::tensor::{Array, DType, Shape, Spec};
use std::ops::Range;

static STREAM: Source = crate::wgsl!("attention");
static MATRIX: Source = crate::wgsl!("attention_matrix");

/// Scratch elements for matrices of weights: 32 MiB, unless a single one is larger.
const MATRIX_ELEMENTS: usize = 1 << 23;

/// Rows streamed at once, `STEP` of `attention.wgsl`.
const STEP: usize = 4;

/// Invocations of a workgroup of `attention_matrix.wgsl`, one subgroup of lavapipe, and rows of the tile of each.
const INVOCATIONS: usize = 8;
const ROWS: usize = 8;

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

    /// Whether the rows stream past registers (`attention.wgsl`), or the matrix of weights is stored
    /// (`attention_matrix.wgsl`).
    ///
    /// A head in registers is unrolled code, which Mesa's CPU driver takes seconds to compile from 32 channels
    /// on (a minute for the three passes at 64). A GPU streams whatever its workgroup memory can stage.
    fn streams(self, caps: &Caps) -> bool {
        match caps.kernels {
            Kernels::Registers => self.head / self.width() <= 4,
            Kernels::Workgroup => self.tile() > 0,
        }
    }

    /// Channels per load.
    fn width(self) -> usize {
        vector_width(&[self.head]).0
    }

    /// Rows of both sides, in f32, that the workgroup memory of every WebGPU device has room for.
    fn tile(self) -> usize {
        (Limits::WEBGPU.workgroup_bytes as usize / (8 * self.head)).min(64) / STEP * STEP
    }

    /// A launch of an entry point that streams rows.
    fn streaming(self, entry: &'static str, dtype: DType, caps: &Caps) -> Dispatch {
        // A GPU hides latency with many invocations of few registers; a CPU driver has no invocations to spare
        // and pays per load. Eight of them are one subgroup of lavapipe.
        let (invocations, held) = if caps.kernels == Kernels::Workgroup { (64, 1) } else { (8, 4) };
        let mut variant = self
            .variant(dtype, invocations)
            .with("HELD", format!("{held}u"))
            .with("STEP", format!("{STEP}u"));
        if caps.kernels == Kernels::Workgroup {
            let tile = format!("{}u", self.tile());
            variant = variant.link("lib/stream_direct", "lib/stream_staged").with("TILE", tile);
        }
        let chunks = self.length.div_ceil(invocations * held);
        Dispatch::new(&STREAM, entry)
            .variant(variant)
            .param("length", self.length)
            .param("heads", self.heads)
            .param("row_vectors", self.heads * self.head / self.width())
            .param("sequences", self.batch * self.heads)
            .param("chunks", chunks)
            .param("scale", self.scale() as f32)
            .workgroups(self.batch * self.heads * chunks)
    }

    /// The launch that multiplies rows.
    fn row_products(self, dtype: DType) -> Dispatch {
        const INVOCATIONS: usize = 64;
        let rows = self.batch * self.length * self.heads;
        Dispatch::new(&STREAM, "row_products")
            .arithmetic(0)
            .variant(self.variant(dtype, INVOCATIONS))
            .param("length", self.length)
            .param("heads", self.heads)
            .param("rows", rows)
            .linear(rows, INVOCATIONS)
    }

    fn variant(self, dtype: DType, invocations: usize) -> Variant {
        stored(vector_width(&[self.head]).1, dtype)
            .with("INVOCATIONS", format!("{invocations}u"))
            .with("HEAD_VECTORS", format!("{}u", self.head / self.width()))
    }

    /// The ranges of (batch, heads) whose matrices are in memory together.
    fn matrices(self) -> Vec<Range<usize>> {
        let all = self.batch * self.heads;
        let together = (MATRIX_ELEMENTS / (self.length * self.length)).clamp(1, all);
        (0..all).step_by(together).map(|first| first..all.min(first + together)).collect()
    }

    /// Elements of the largest of them.
    fn matrix_elements(self) -> usize {
        self.matrices()[0].len() * self.length * self.length
    }

    /// A launch of `attention_matrix.wgsl` over tiles of so many columns of matrices of T rows, all but the softmax.
    fn tiles(
        self,
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
        if self.width() == 1 {
            variant = variant.link("lib/in4", "lib/in1");
        }
        Dispatch::new(&MATRIX, entry)
            .variant(variant)
            .param("length", self.length)
            .param("heads", self.heads)
            .param("head_vectors", self.head / self.width())
            .param("first", sequences.start)
            .param("sequences", sequences.len())
            .param("factor", factor as f32)
            .linear(sequences.len() * self.length.div_ceil(ROWS) * of.div_ceil(columns), INVOCATIONS)
    }

    /// A launch that fills matrices: `scores` or `gradients`, in tiles of 8 x 4.
    fn matrix(self, entry: &'static str, dtype: DType, sequences: &Range<usize>) -> Dispatch {
        self.tiles(entry, dtype, sequences, self.scale(), (4, self.length)).arithmetic(sequences.len())
    }

    /// The launch that turns scores into weights, a row per invocation.
    fn softmax(self, sequences: &Range<usize>) -> Dispatch {
        Dispatch::new(&MATRIX, "softmax")
            .arithmetic(0)
            .variant(Variant::base().with("INVOCATIONS", format!("{INVOCATIONS}u")))
            .param("length", self.length)
            .param("first", sequences.start)
            .param("sequences", sequences.len())
            .linear(sequences.len() * self.length, INVOCATIONS)
    }

    /// y[r] = factor Σ_j m[r,j] x[j], or with m transposed; 8 rows of up to 8 channels to a tile.
    fn weighted_sum(
        self,
        dtype: DType,
        sequences: &Range<usize>,
        factor: f64,
        (matrix, transposed): (Operand, bool),
        [x, y]: [Operand; 2],
    ) -> Dispatch {
        let vectors = self.head / self.width();
        let columns = (8 / self.width()).min(vectors);
        let mut dispatch = self.tiles("weighted_sum", dtype, sequences, factor, (columns, vectors));
        dispatch.variant = dispatch.variant.with("TRANSPOSED", transposed);
        dispatch.bind("m", matrix).bind("x", x).bind("y", y).arithmetic(sequences.len())
    }
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
        caps.both(|caps| -> Program {
            let (sizes, dtype) = (Sizes::of(&x[0].shape, self.heads), x[0].dtype);
            let [q, k, v] = [0, 1, 2].map(Operand::Input);
            let [o, log_sum_exp] = [0, 1].map(Operand::Output);
            if sizes.streams(caps) {
                return sizes
                    .streaming("forward", dtype, caps)
                    .bind("held_a", q)
                    .bind("streamed_a", k)
                    .bind("streamed_b", v)
                    .bind("result_a", o)
                    .bind("statistic", log_sum_exp)
                    .into();
            }
            let p = Operand::Scratch(0);
            let launches = |s: &Range<usize>| {
                [
                    sizes.matrix("scores", dtype, s).bind("q", q).bind("k", k).bind("p", p),
                    sizes.softmax(s).bind("p", p).bind("statistic", log_sum_exp),
                    sizes.weighted_sum(dtype, s, 1.0, (p, false), [v, o]),
                ]
            };
            Program {
                scratch: vec![Spec::f32([sizes.matrix_elements()])],
                dispatches: sizes.matrices().iter().flat_map(launches).collect(),
            }
        })
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

/// The gradients of [`Attention`]. Inputs q, k, v, o, log-sum-exp, do; outputs dq, dk, dv. The
/// log-sum-exp is f32, all others of one type.
#[derive(Debug, Clone)]
pub struct AttentionBackward {
    /// Heads, into which the channels are divided.
    pub heads: usize,
}

impl Op for AttentionBackward {
    fn name(&self) -> &'static str {
        "attention_backward"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        const NAME: &str = "attention_backward";
        expect_activations(NAME, x, 6, &[4])?;
        check(NAME, x, self.heads)?;
        let statistic = Sizes::of(&x[0].shape, self.heads).statistic();
        for (name, i) in [("o", 3), ("do", 5)] {
            ensure_shape!(NAME, x[i] == x[0], "q is {}, but {name} is {}", x[0].shape, x[i].shape);
        }
        ensure_shape!(
            NAME,
            x[4].shape == statistic,
            "the log-sum-exp must be {statistic}, found {}",
            x[4].shape
        );
        Ok(vec![x[0].clone(); 3])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let sizes @ Sizes { batch, length, heads, head } = Sizes::of(&x[0].shape, self.heads);
        let [q, k, v, o, l, d_o] = [0, 1, 2, 3, 4, 5].map(|i| &x[i].data);
        let [mut dq, mut dk, mut dv] = [0, 1, 2].map(|i| Array::zeros(&x[i].shape));
        for (b, h) in (0..batch).flat_map(|b| (0..heads).map(move |h| (b, h))) {
            for t in 0..length {
                let row = sizes.at(b, h, t);
                let l = l[(b * heads + h) * length + t];
                let d = dot(&d_o[row..][..head], &o[row..][..head]);
                for u in 0..length {
                    let other = sizes.at(b, h, u);
                    let s = sizes.scale() * dot(&q[row..][..head], &k[other..][..head]);
                    let p = (s - l).exp();
                    let ds = p * (dot(&d_o[row..][..head], &v[other..][..head]) - d);
                    for c in 0..head {
                        dq.data[row + c] += sizes.scale() * ds * k[other + c];
                        dk.data[other + c] += sizes.scale() * ds * q[row + c];
                        dv.data[other + c] += p * d_o[row + c];
                    }
                }
            }
        }
        vec![dq, dk, dv]
    }

    /// Four products of the model; that two of them are computed twice, and the scores again, is not counted.
    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        Cost::matrix(x, y, Sizes::of(&x[0].shape, self.heads).flops(8))
    }

    fn candidates(&self, x: &[Spec], _y: &[Spec], caps: &Caps) -> Vec<Candidate> {
        caps.both(|caps| -> Program {
            let (sizes, dtype) = (Sizes::of(&x[0].shape, self.heads), x[0].dtype);
            let products = Operand::Scratch(0);
            let [q, k, v, o, log_sum_exp, d_o] = [0, 1, 2, 3, 4, 5].map(Operand::Input);
            let [dq, dk, dv] = [0, 1, 2].map(Operand::Output);
            let first =
                sizes.row_products(dtype).bind("held_a", d_o).bind("held_b", o).bind("statistic", products);
            let mut program =
                Program { scratch: vec![Spec::f32([sizes.statistic().elements()])], dispatches: vec![first] };
            if sizes.streams(caps) {
                // Of the four products, dq and half of dp are here, dk, dv and the other half there.
                let query = sizes.streaming("backward_query", dtype, caps).arithmetic(3).bind("result_a", dq);
                let key = sizes
                    .streaming("backward_key", dtype, caps)
                    .arithmetic(5)
                    .bind("result_a", dk)
                    .bind("result_b", dv);
                let rows = [(query, [q, d_o, k, v]), (key, [k, v, q, d_o])];
                program.dispatches.extend(rows.map(|(launch, [held_a, held_b, streamed_a, streamed_b])| {
                    launch
                        .bind("held_a", held_a)
                        .bind("held_b", held_b)
                        .bind("streamed_a", streamed_a)
                        .bind("streamed_b", streamed_b)
                        .bind("log_sum_exp", log_sum_exp)
                        .bind("products", products)
                }));
                return program;
            }
            let [p, ds] = [1, 2].map(Operand::Scratch);
            program.scratch.extend(vec![Spec::f32([sizes.matrix_elements()]); 2]);
            for s in &sizes.matrices() {
                program.dispatches.extend([
                    sizes
                        .matrix("gradients", dtype, s)
                        .bind("q", q)
                        .bind("k", k)
                        .bind("v", v)
                        .bind("d_o", d_o)
                        .bind("log_sum_exp", log_sum_exp)
                        .bind("products", products)
                        .bind("p", p)
                        .bind("ds", ds),
                    sizes.weighted_sum(dtype, s, sizes.scale(), (ds, false), [k, dq]),
                    sizes.weighted_sum(dtype, s, sizes.scale(), (ds, true), [q, dk]),
                    sizes.weighted_sum(dtype, s, 1.0, (p, true), [d_o, dv]),
                ]);
            }
            program
        })
    }
}

/// Test cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut case = |batch: usize, length: usize, heads: usize, head: usize, large: bool| {
        let s = Spec::f32([batch, length, heads * head]);
        let statistic = Spec::f32([batch, heads, length]);
        let name = format!("{batch} x {length} rows, {heads} heads of {head}");
        let forward = Case::new(&name, Attention { heads }, &[s.clone(), s.clone(), s.clone()]);
        // The formula holds for any log-sum-exp; these are about the true ones, so that the weights stay small.
        let inputs = [s.clone(), s.clone(), s.clone(), s.clone(), statistic, s];
        let backward = Case::new(&name, AttentionBackward { heads }, &inputs)
            .fill(4, super::Fill::Uniform(2.0, 4.0))
            .no_gradient();
        let halves: [&[usize]; 2] = [&[0, 1, 2], &[0, 1, 2, 3, 5]];
        for (case, halves) in [forward, backward].into_iter().zip(halves) {
            cases.extend((if large { case.large() } else { case }).and_in_f16(halves));
        }
    };
    case(1, 1, 1, 1, false);
    case(2, 1, 2, 8, false);
    case(2, 5, 2, 8, false);
    case(1, 7, 3, 5, false);
    case(2, 64, 2, 8, false);
    case(1, 65, 1, 20, false);
    case(1, 33, 2, 64, true);
    case(1, 19, 1, 256, true);
    case(1, 6, 1, 1028, true);
    case(1, 1025, 1, 4, true);
    // Matrices of more than one part of scratch memory: two and one.
    case(3, 2048, 1, 5, true);
    cases
}
