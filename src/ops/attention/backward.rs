//! The gradients of attention.

use super::tiled::Products;
use super::{Sizes, check, dot, registers, streaming, tiled};
use crate::ensure_shape;
use crate::graph::{Candidate, Caps, Cost, Kernels, Op, ShapeError};
use crate::ops::expect_activations;
use crate::tensor::{Array, Spec};

/// The gradients of [`Attention`](super::Attention). Inputs q, k, v, o, log-sum-exp, do; outputs dq, dk, dv. The
/// log-sum-exp is f32, all others of one type.
#[derive(Debug, Clone)]
pub struct AttentionBackward {
    /// Heads, into which the channels are divided.
    pub heads: usize,
}

impl AttentionBackward {
    /// dq, dk and dv; `stored` is what becomes of a weight, and of the gradient of a score, before it is a factor.
    pub(super) fn gradients(&self, x: &[Array], stored: impl Fn(f64) -> f64) -> Vec<Array> {
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
                    let ds = stored(p * (dot(&d_o[row..][..head], &v[other..][..head]) - d));
                    let p = stored(p);
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
        self.gradients(x, |weight| weight)
    }

    /// Four products of the model; that two of them are computed twice, and the scores again, is not counted.
    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        Cost::matrix(x, y, Sizes::of(&x[0].shape, self.heads).flops(8))
    }

    fn candidates(&self, x: &[Spec], _y: &[Spec], caps: &Caps) -> Vec<Candidate> {
        let (sizes, dtype) = (Sizes::of(&x[0].shape, self.heads), x[0].dtype);
        let mut candidates = caps.both(|caps| match caps.kernels {
            _ if streaming::suits_backward(sizes, caps) => streaming::backward(sizes, dtype, caps),
            Kernels::Registers => registers::backward(sizes, dtype),
            Kernels::Workgroup => tiled::backward(Products::tiled(sizes, dtype)),
        });
        candidates.extend(tiled::on_matrix_units(sizes, dtype, caps, tiled::backward));
        candidates
    }
}
