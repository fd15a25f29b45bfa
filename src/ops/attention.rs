//! Multi-head attention without the matrix of weights (`shaders/attention.wgsl`): the online softmax of Milakov
//! & Gimelshein (arXiv 1805.02867), and gradients from its log-sum-exp as in Dao et al. (arXiv 2205.14135).

use super::{Case, expect_f32, vector_width};
use crate::ensure_shape;
use crate::graph::{Backward, Caps, Cost, Dispatch, GraphError, Kernels, Op, Operand, Program, ShapeError};
use crate::shader::Source;
use crate::tensor::{Array, Shape, Spec};

static SHADER: Source = crate::wgsl!("attention");

/// Bytes of workgroup memory that every WebGPU device has.
const WORKGROUP_BYTES: usize = 16 << 10;

/// Rows streamed at once: `STEP` of the shader.
const STEP: usize = 4;

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

    /// A launch of an entry point that streams rows.
    fn streaming(self, entry: &'static str, caps: &Caps) -> Dispatch {
        let (width, variant) = vector_width(&[self.head]);
        // The rows of both sides that workgroup memory has room for.
        let tile = (WORKGROUP_BYTES / (8 * self.head)).min(64) / STEP * STEP;
        let staged = caps.kernels == Kernels::Workgroup && tile > 0;
        // A GPU hides latency with many invocations of few registers; a CPU driver has no invocations to spare
        // and pays per load. Eight of them are one subgroup of lavapipe.
        let (invocations, held) = if caps.kernels == Kernels::Workgroup { (64, 1) } else { (8, 4) };
        let mut variant = variant
            .with("INVOCATIONS", format!("{invocations}u"))
            .with("HELD", format!("{held}u"))
            .with("STEP", format!("{STEP}u"))
            .with("HEAD_VECTORS", format!("{}u", self.head / width))
            .with("UNROLL", caps.kernels == Kernels::Workgroup || self.head / width <= 4);
        if staged {
            variant = variant.link("lib/stream_direct", "lib/stream_staged").with("TILE", format!("{tile}u"));
        }
        let chunks = self.length.div_ceil(invocations * held);
        self.launch(entry)
            .variant(variant)
            .param("chunks", chunks)
            .workgroups(self.batch * self.heads * chunks)
    }

    /// The launch that multiplies rows.
    fn row_products(self) -> Dispatch {
        let (width, variant) = vector_width(&[self.head]);
        self.launch("row_products")
            .variant(
                variant.with("INVOCATIONS", "64u").with("HEAD_VECTORS", format!("{}u", self.head / width)),
            )
            .param("chunks", 0u32)
            .linear(self.batch * self.heads * self.length, 64)
    }

    fn launch(self, entry: &'static str) -> Dispatch {
        let width = vector_width(&[self.head]).0;
        Dispatch::new(&SHADER, entry)
            .param("length", self.length)
            .param("heads", self.heads)
            .param("row_vectors", self.heads * self.head / width)
            .param("head_vectors", self.head / width)
            .param("sequences", self.batch * self.heads)
            .param("scale", self.scale() as f32)
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
        heads > 0 && shape[2] % heads == 0,
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
        expect_f32("attention", x, 3)?;
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

    fn dispatch(&self, x: &[Spec], _y: &[Spec], caps: &Caps) -> Program {
        Sizes::of(&x[0].shape, self.heads)
            .streaming("forward", caps)
            .bind("held_a", Operand::Input(0))
            .bind("streamed_a", Operand::Input(1))
            .bind("streamed_b", Operand::Input(2))
            .bind("result_a", Operand::Output(0))
            .bind("statistic", Operand::Output(1))
            .into()
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

/// The gradients of [`Attention`]. Inputs q, k, v, o, log-sum-exp, do; outputs dq, dk, dv.
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
        expect_f32(NAME, x, 6)?;
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

    fn dispatch(&self, x: &[Spec], _y: &[Spec], caps: &Caps) -> Program {
        let sizes = Sizes::of(&x[0].shape, self.heads);
        let products = Operand::Scratch(0);
        let [q, k, v, o, log_sum_exp, d_o] = [0, 1, 2, 3, 4, 5].map(Operand::Input);
        let dispatches = vec![
            sizes.row_products().bind("held_a", d_o).bind("held_b", o).bind("statistic", products),
            sizes
                .streaming("backward_query", caps)
                .bind("held_a", q)
                .bind("held_b", d_o)
                .bind("streamed_a", k)
                .bind("streamed_b", v)
                .bind("log_sum_exp", log_sum_exp)
                .bind("products", products)
                .bind("result_a", Operand::Output(0)),
            sizes
                .streaming("backward_key", caps)
                .bind("held_a", k)
                .bind("held_b", v)
                .bind("streamed_a", q)
                .bind("streamed_b", d_o)
                .bind("log_sum_exp", log_sum_exp)
                .bind("products", products)
                .bind("result_a", Operand::Output(1))
                .bind("result_b", Operand::Output(2)),
        ];
        Program { scratch: vec![sizes.statistic().elements()], dispatches }
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
        // The o and log-sum-exp of random numbers, as the forward pass would give them.
        let x = forward.arrays();
        let results = forward.op.reference(&x);
        let inputs = [s.clone(), s.clone(), s.clone(), s.clone(), statistic, s];
        let backward = Case::new(&name, AttentionBackward { heads }, &inputs)
            .fill(3, super::Fill::Values(results[0].data.clone()))
            .fill(4, super::Fill::Values(results[1].data.clone()))
            .no_gradient();
        cases.extend([forward, backward].map(|c| if large { c.large() } else { c }));
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
    cases
}
