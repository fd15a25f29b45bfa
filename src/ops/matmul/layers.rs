//! Several linear layers of one input in one launch, as [`crate::graph::rewrite`] makes them: the weights of each layer with its
//! bias behind them, one layer behind the other. Of weights in f16 the biases are those of another tensor, laid out alike in f32.

use super::launch::{BiasGradient, Sizes};
use super::{Linear, MatmulBackwardInput, MatmulBackwardWeight, matrix};
use crate::ensure_shape;
use crate::graph::{Candidate, Caps, Cost, Joined, LinearPart, Op, ShapeError};
use crate::ops::addend::Addend;
use crate::ops::{Pack, View, expect_activations, expect_float};
use crate::tensor::{Array, DType, Shape, Spec};
use std::sync::Arc;

/// With what lays its tensors beside each other.
pub(super) fn joined(op: impl Op + 'static) -> Joined {
    Joined {
        op: Arc::new(op),
        view: |offset, shape| Arc::new(View { offset, shape }),
        pack: |offsets, total| Arc::new(Pack { offsets, total }),
    }
}

/// Sizes from the rows of x or dy, K if it is known or else N, and the elements of the parameters of so many layers.
fn sizes(
    op: &'static str,
    count: usize,
    rows: usize,
    (known, is_input): (usize, bool),
    parameters: usize,
) -> Result<Sizes, ShapeError> {
    let each = parameters / count.max(1);
    let (inputs, outputs) = if is_input {
        (known, each / (known + 1))
    } else {
        (each / known.max(1)).checked_sub(1).map_or((0, known), |inputs| (inputs, known))
    };
    let fits = count > 0 && inputs > 0 && outputs > 0 && count * (inputs + 1) * outputs == parameters;
    ensure_shape!(op, fits, "{parameters} elements are not {count} layers with {known} inputs or outputs");
    Ok(Sizes { rows, inputs, outputs, layers: count })
}

/// Weight and bias of a layer.
fn layer(parameters: &Array, s: Sizes, l: usize) -> [Array; 2] {
    let data = &parameters.data[l * s.stride()..][..s.stride()];
    let (weight, bias) = data.split_at(s.inputs * s.outputs);
    [Array::new([s.inputs, s.outputs], weight.to_vec()), Array::new([s.outputs], bias.to_vec())]
}

/// A layer's part of dy.
fn part(dy: &Array, s: Sizes, l: usize) -> Array {
    let size = s.rows * s.outputs;
    Array::new(&dy.shape.axes()[1..], dy.data[l * size..][..size].to_vec())
}

/// `y[l,m,n] = b[l,n] + Σ_k x[m,k] w[l,k,n]` for each of `count` layers l. Inputs x (…, K) and the parameters (count (K + 1) N),
/// w then b of each layer; output (count, …, N). x and w are f32 or f16, and y with them. In f16 a third input is like the
/// parameters in f32, and b is taken from there.
#[derive(Debug, Clone)]
pub struct LinearLayers {
    /// The number of layers.
    pub count: usize,
}

impl LinearLayers {
    fn sizes(&self, x: &[&Shape]) -> Result<Sizes, ShapeError> {
        sizes(self.name(), self.count, x[0].rows(), (x[0].last(), true), x[1].elements())
    }
}

impl Op for LinearLayers {
    fn name(&self) -> &'static str {
        "linear_layers"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        let half = x.first().is_some_and(|x| x.dtype == DType::F16);
        let dtype = expect_activations(self.name(), x, if half { 3 } else { 2 }, &[2])?;
        ensure_shape!(self.name(), x[0].shape.rank() >= 1, "x must have at least one axis");
        let alike = x.get(2).is_none_or(|biases| biases.shape == x[1].shape);
        ensure_shape!(self.name(), alike, "the parameters are {:?}, in f32 {:?}", x[1], x[2]);
        let s = self.sizes(&[&x[0].shape, &x[1].shape])?;
        let mut axes = [&[self.count], x[0].shape.axes()].concat();
        axes[x[0].shape.rank()] = s.outputs;
        Ok(vec![Spec::new(axes, dtype)])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let Ok(s) = self.sizes(&[&x[0].shape, &x[1].shape]) else { return Vec::new() };
        let mut axes = [&[self.count], x[0].shape.axes()].concat();
        axes[x[0].shape.rank()] = s.outputs;
        let of_layer = |l: usize| {
            let ([w, _], [_, b]) = (layer(&x[1], s, l), layer(x.last().unwrap_or(&x[1]), s, l));
            Linear.reference(&[x[0].clone(), w, b]).swap_remove(0).data
        };
        vec![Array::new(axes, (0..self.count).flat_map(of_layer).collect())]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        let flops = self.sizes(&[&x[0].shape, &x[1].shape]).map_or(0, Sizes::flops);
        let additions = y[0].shape.elements() as u64;
        // Of the further parameters it reads the biases alone.
        let biases = Spec::f32([self.count * y[0].shape.last()]);
        let read = [&x[..2], &vec![biases; x.len() - 2]].concat();
        Cost { other_flops: additions, ..Cost::matrix(&read, y, flops) }
    }

    fn candidates(&self, x: &[Spec], y: &[Spec], caps: &Caps) -> Vec<Candidate> {
        let Ok(s) = self.sizes(&[&x[0].shape, &x[1].shape]) else { return Vec::new() };
        let bias = (x.len() - 1, s.inputs * s.outputs);
        let mut candidates = caps.both(|caps| s.forward(x[0].dtype, caps, bias).into());
        candidates.extend(matrix::forward(s, x, &y[0], bias, caps));
        candidates
    }
}

/// `dx[m,k] = Σ_{l,n} dy[l,m,n] w[l,k,n]` over the layers l. Inputs dy (count, …, N), the parameters, and perhaps as many rows of K
/// as dx has, which are added to it; output (…, K), of their type.
#[derive(Debug, Clone)]
pub struct LinearLayersBackwardInput {
    /// The number of layers.
    pub count: usize,
}

impl LinearLayersBackwardInput {
    fn sizes(&self, x: &[&Shape]) -> Result<Sizes, ShapeError> {
        let rows = x[0].rows() / self.count.max(1);
        sizes(self.name(), self.count, rows, (x[0].last(), false), x[1].elements())
    }
}

impl Op for LinearLayersBackwardInput {
    fn name(&self) -> &'static str {
        "linear_layers_backward_input"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        let dtype = expect_float(self.name(), x, x.len().clamp(2, 3))?;
        let dy = &x[0].shape;
        let fits = dy.rank() >= 2 && dy[0] == self.count;
        ensure_shape!(self.name(), fits, "dy must be ({}, …, N), found {dy}", self.count);
        let s = self.sizes(&[dy, &x[1].shape])?;
        let mut axes = dy.axes()[1..].to_vec();
        axes[dy.rank() - 2] = s.inputs;
        Addend::check(self.name(), x, 2, &axes, &[Addend::Same])?;
        Ok(vec![Spec::new(axes, dtype)])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let Ok(s) = self.sizes(&[&x[0].shape, &x[1].shape]) else { return Vec::new() };
        let of_layer = |l: usize| {
            let [w, _] = layer(&x[1], s, l);
            MatmulBackwardInput.reference(&[part(&x[0], s, l), w]).swap_remove(0)
        };
        let mut dx = of_layer(0);
        for l in 1..self.count {
            dx.data.iter_mut().zip(of_layer(l).data).for_each(|(sum, v)| *sum += v);
        }
        Addend::add(x, 2, &mut dx);
        vec![dx]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        let flops = self.sizes(&[&x[0].shape, &x[1].shape]).map_or(0, Sizes::flops);
        Cost { other_flops: Addend::flops(x, 2, &y[0]), ..Cost::matrix(x, y, flops) }
    }

    fn linear_part(&self) -> Option<LinearPart> {
        Some(LinearPart::BackwardInputOfSeveral)
    }

    fn candidates(&self, x: &[Spec], y: &[Spec], caps: &Caps) -> Vec<Candidate> {
        let Ok(s) = self.sizes(&[&x[0].shape, &x[1].shape]) else { return Vec::new() };
        let mut candidates = caps.both(|caps| {
            let (dispatch, name) = s.backward_input(x[0].dtype, caps);
            Addend::bind(dispatch, name, x, 2, &y[0]).into()
        });
        candidates.extend(matrix::backward_input(s, x, &y[0], caps));
        candidates
    }

    fn takes_addend(&self, x: &[Spec], y: &Spec, addend: &Spec) -> bool {
        x.len() == 2 && Addend::fits(addend, y, &[Addend::Same])
    }
}

/// `dw[l,k,n] = Σ_m x[m,k] dy[l,m,n]` and `db[l,n] = Σ_m dy[l,m,n]`. Inputs x (…, K), dy (count, …, N), f32 or f16; output
/// (count, (K + 1) N) in f32, dw then db of each layer.
#[derive(Debug, Clone)]
pub struct LinearLayersBackwardWeight {
    /// The number of layers.
    pub count: usize,
}

impl LinearLayersBackwardWeight {
    fn sizes(&self, x: &Shape, dy: &Shape) -> Sizes {
        Sizes { rows: x.rows(), inputs: x.last(), outputs: dy.last(), layers: self.count }
    }
}

impl Op for LinearLayersBackwardWeight {
    fn name(&self) -> &'static str {
        "linear_layers_backward_weight"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        expect_float(self.name(), x, 2)?;
        let (x, dy) = (&x[0].shape, &x[1].shape);
        ensure_shape!(self.name(), x.rank() >= 1, "x must have at least one axis");
        let mut expected = [&[self.count], x.axes()].concat();
        expected[x.rank()] = dy.last();
        ensure_shape!(self.name(), dy.axes() == expected, "x is {x}, but dy is {dy}");
        Ok(vec![Spec::f32([self.count, self.sizes(x, dy).stride()])])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let s = self.sizes(&x[0].shape, &x[1].shape);
        let of_layer = |l: usize| {
            let op = MatmulBackwardWeight { bias: true };
            op.reference(&[x[0].clone(), part(&x[1], s, l)]).into_iter().flat_map(|a| a.data)
        };
        vec![Array::new([self.count, s.stride()], (0..self.count).flat_map(of_layer).collect())]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        let flops = self.sizes(&x[0].shape, &x[1].shape).flops();
        Cost { other_flops: x[1].shape.elements() as u64, ..Cost::matrix(x, y, flops) }
    }

    fn candidates(&self, x: &[Spec], _y: &[Spec], caps: &Caps) -> Vec<Candidate> {
        let s = self.sizes(&x[0].shape, &x[1].shape);
        let mut candidates = caps.both(|caps| s.backward_weight(x[0].dtype, caps, BiasGradient::Behind));
        candidates.extend(matrix::backward_weight(s, x, BiasGradient::Behind, caps));
        candidates
    }
}
