//! The linear layer and its gradients, and several layers of one input at once (`layers`). Launches and cases have a file each.

mod cases;
mod launch;
mod layers;
mod matrix;
mod subgroup;

pub(super) use cases::cases;
pub use layers::{LinearLayers, LinearLayersBackwardInput, LinearLayersBackwardWeight};

use super::addend::Addend;
use super::{SumRows, expect_activations, expect_float};
use crate::ensure_shape;
use crate::graph::{
    Backward, Candidate, Caps, Cost, GraphError, Joined, LinearPart, Op, Program, ShapeError,
};
use crate::tensor::{Array, Shape, Spec};
use launch::{BiasGradient, Sizes};
use std::sync::Arc;

/// `y[m,n] = b[n] + Σ_k x[m,k] w[k,n]`. Inputs x (…, K), w (K, N), b (N), and perhaps as many rows of N as y has, which are
/// added to it; output (…, N).
///
/// x and w are f32 or f16, and y and what is added with them; b is f32.
#[derive(Debug, Clone)]
pub struct Linear;

impl Op for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        let dtype = expect_activations("linear", x, x.len().clamp(3, 4), &[2])?;
        let (input, weight, bias) = (&x[0].shape, &x[1].shape, &x[2].shape);
        ensure_shape!("linear", input.rank() >= 1, "x must have at least one axis");
        ensure_shape!("linear", weight.rank() == 2, "w must be (K, N), found {weight}");
        ensure_shape!("linear", input.last() == weight[0], "x is {input}, but w is {weight}");
        ensure_shape!("linear", bias.axes() == [weight[1]], "b must be ({}), found {bias}", weight[1]);
        let y = with_last(input, weight[1]);
        Addend::check("linear", x, 3, &y, &[Addend::Same])?;
        Ok(vec![Spec::new(y, dtype)])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let Sizes { rows, inputs, outputs, .. } = Sizes::of(&x[0].shape, &x[1].shape);
        let mut y = Array::zeros(&Shape::new(with_last(&x[0].shape, outputs)));
        for m in 0..rows {
            let y = &mut y.data[m * outputs..][..outputs];
            y.copy_from_slice(&x[2].data);
            for k in 0..inputs {
                let w = &x[1].data[k * outputs..][..outputs];
                let x = x[0].data[m * inputs + k];
                y.iter_mut().zip(w).for_each(|(y, w)| *y += x * w);
            }
        }
        Addend::add(x, 3, &mut y);
        vec![y]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        let additions = y[0].shape.elements() as u64 + Addend::flops(x, 3, &y[0]);
        Cost { other_flops: additions, ..Cost::matrix(x, y, Sizes::of(&x[0].shape, &x[1].shape).flops()) }
    }

    fn linear_part(&self) -> Option<LinearPart> {
        Some(LinearPart::Forward)
    }

    fn joined(&self, count: usize) -> Option<Joined> {
        Some(layers::joined(LinearLayers { count }))
    }

    fn candidates(&self, x: &[Spec], y: &[Spec], caps: &Caps) -> Vec<Candidate> {
        let sizes = Sizes::of(&x[0].shape, &x[1].shape);
        let mut candidates = caps.both(|caps| {
            let dispatch = sizes.forward(x[0].dtype, caps, (2, 0));
            Addend::bind(dispatch, "added", x, 3, &y[0]).into()
        });
        candidates.extend(matrix::forward(sizes, x, &y[0], (2, 0), caps));
        candidates
    }

    fn takes_addend(&self, x: &[Spec], y: &Spec, addend: &Spec) -> bool {
        x.len() == 3 && Addend::fits(addend, y, &[Addend::Same])
    }

    fn backward(&self, g: &mut Backward) -> Result<(), GraphError> {
        let (x, w, dy) = (g.input(0), g.input(1), g.gradient(0));
        if g.needs(0) {
            let dx = g.apply(MatmulBackwardInput, &[dy, w])?;
            g.accumulate(0, dx)?;
        }
        if g.needs(1) {
            let dw = g.apply(MatmulBackwardWeight { bias: false }, &[x, dy])?;
            g.accumulate(1, dw)?;
        }
        if g.needs(2) {
            let db = g.apply(SumRows, &[dy])?;
            g.accumulate(2, db)?;
        }
        Addend::backward(g, 3)
    }
}

/// The axes of a shape with another innermost one.
fn with_last(shape: &Shape, last: usize) -> Vec<usize> {
    let mut axes = shape.axes().to_vec();
    if let Some(axis) = axes.last_mut() {
        *axis = last;
    }
    axes
}

/// `dx[m,k] = Σ_n dy[m,n] w[k,n]`. Inputs dy (…, N), w (K, N), and perhaps as many rows of K as dx has, which are added to it;
/// output (…, K), of their type.
#[derive(Debug, Clone)]
pub struct MatmulBackwardInput;

impl Op for MatmulBackwardInput {
    fn name(&self) -> &'static str {
        "linear_backward_input"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        const NAME: &str = "linear_backward_input";
        let dtype = expect_float(NAME, x, x.len().clamp(2, 3))?;
        let (gradient, weight) = (&x[0].shape, &x[1].shape);
        ensure_shape!(NAME, gradient.rank() >= 1, "dy must have at least one axis");
        ensure_shape!(NAME, weight.rank() == 2, "w must be (K, N), found {weight}");
        ensure_shape!(NAME, gradient.last() == weight[1], "dy is {gradient}, but w is {weight}");
        let dx = with_last(gradient, weight[0]);
        Addend::check(NAME, x, 2, &dx, &[Addend::Same])?;
        Ok(vec![Spec::new(dx, dtype)])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let Sizes { rows, inputs, outputs, .. } = Sizes::of(&x[0].shape, &x[1].shape);
        let (dy, w) = (&x[0], &x[1]);
        let mut dx = Array::zeros(&Shape::new(with_last(&dy.shape, inputs)));
        for m in 0..rows {
            for k in 0..inputs {
                for n in 0..outputs {
                    dx.data[m * inputs + k] += dy.data[m * outputs + n] * w.data[k * outputs + n];
                }
            }
        }
        Addend::add(x, 2, &mut dx);
        vec![dx]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        let additions = Addend::flops(x, 2, &y[0]);
        Cost { other_flops: additions, ..Cost::matrix(x, y, Sizes::of(&x[0].shape, &x[1].shape).flops()) }
    }

    fn linear_part(&self) -> Option<LinearPart> {
        Some(LinearPart::BackwardInput)
    }

    fn joined(&self, count: usize) -> Option<Joined> {
        Some(layers::joined(LinearLayersBackwardInput { count }))
    }

    fn candidates(&self, x: &[Spec], y: &[Spec], caps: &Caps) -> Vec<Candidate> {
        let sizes = Sizes::of(&x[0].shape, &x[1].shape);
        let mut candidates = caps.both(|caps| {
            let (dispatch, name) = sizes.backward_input(x[0].dtype, caps);
            Addend::bind(dispatch, name, x, 2, &y[0]).into()
        });
        candidates.extend(matrix::backward_input(sizes, x, &y[0], caps));
        candidates
    }

    fn takes_addend(&self, x: &[Spec], y: &Spec, addend: &Spec) -> bool {
        x.len() == 2 && Addend::fits(addend, y, &[Addend::Same])
    }
}

/// `dw[k,n] = Σ_m x[m,k] dy[m,n]`, and perhaps `db[n] = Σ_m dy[m,n]`. Inputs x (…, K), dy (…, N), f32 or f16; outputs (K, N), and
/// (N), in f32.
///
/// The sum runs over all rows, so it is split among workgroups, and a second launch adds the splits.
#[derive(Debug, Clone)]
pub struct MatmulBackwardWeight {
    /// Whether db is given too.
    pub bias: bool,
}

impl Op for MatmulBackwardWeight {
    fn name(&self) -> &'static str {
        "linear_backward_weight"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        const NAME: &str = "linear_backward_weight";
        expect_float(NAME, x, 2)?;
        let (input, gradient) = (&x[0].shape, &x[1].shape);
        ensure_shape!(NAME, input.rank() >= 1, "x must have at least one axis");
        let same = gradient.axes() == with_last(input, gradient.last());
        ensure_shape!(NAME, same, "x is {input}, but dy is {gradient}");
        let mut outputs = vec![Spec::f32([input.last(), gradient.last()])];
        outputs.extend(self.bias.then(|| Spec::f32([gradient.last()])));
        Ok(outputs)
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let (x, dy) = (&x[0], &x[1]);
        let (rows, inputs, outputs) = (x.shape.rows(), x.shape.last(), dy.shape.last());
        let mut dw = Array::zeros(&Shape::new([inputs, outputs]));
        for m in 0..rows {
            for k in 0..inputs {
                for n in 0..outputs {
                    dw.data[k * outputs + n] += x.data[m * inputs + k] * dy.data[m * outputs + n];
                }
            }
        }
        let mut gradients = vec![dw];
        if self.bias {
            gradients.extend(SumRows.reference(std::slice::from_ref(dy)));
        }
        gradients
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        let sums = if self.bias { x[1].shape.elements() as u64 } else { 0 };
        Cost { other_flops: sums, ..Cost::matrix(x, y, Sizes::of(&x[0].shape, &y[0].shape).flops()) }
    }

    fn with_row_sums(&self) -> Option<Arc<dyn Op>> {
        (!self.bias).then(|| Arc::new(Self { bias: true }) as _)
    }

    fn linear_part(&self) -> Option<LinearPart> {
        self.bias.then_some(LinearPart::BackwardWeight)
    }

    fn joined(&self, count: usize) -> Option<Joined> {
        self.bias.then(|| layers::joined(LinearLayersBackwardWeight { count }))
    }

    fn candidates(&self, x: &[Spec], y: &[Spec], caps: &Caps) -> Vec<Candidate> {
        let bias = if self.bias { BiasGradient::Beside } else { BiasGradient::None };
        let sizes = Sizes::of(&x[0].shape, &y[0].shape);
        let mut candidates = caps.both(|caps| -> Program { sizes.backward_weight(x[0].dtype, caps, bias) });
        candidates.extend(matrix::backward_weight(sizes, x, bias, caps));
        candidates
    }
}
