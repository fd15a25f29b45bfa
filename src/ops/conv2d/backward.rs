//! The gradients of a convolution.

use super::{Conv2d, Extent, matrix, narrow, registers, subgroup, tiled};
use crate::ensure_shape;
use crate::graph::{Candidate, Caps, Cost, Kernels, Op, ShapeError};
use crate::ops::addend::Addend;
use crate::ops::{SumRows, expect_float};
use crate::tensor::{Array, Shape, Spec};
use std::sync::Arc;

/// dx = Σ dy w over the products in which x takes part, from (dy, w) and perhaps a tensor as large as dx that is added to it,
/// of their type.
#[derive(Debug, Clone)]
pub struct Conv2dBackwardInput {
    /// The convolution.
    pub conv: Conv2d,
    /// Height of x, which a stride of 2 leaves open.
    pub height: usize,
    /// Width of x.
    pub width: usize,
}

impl Conv2dBackwardInput {
    fn input_shape(&self, dy: &Shape, w: &Shape) -> Shape {
        Shape::new([dy[0], self.height, self.width, w[2]])
    }
}

impl Op for Conv2dBackwardInput {
    fn name(&self) -> &'static str {
        "conv2d_backward_input"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        const OP: &str = "conv2d_backward_input";
        let dtype = expect_float(OP, x, x.len().clamp(2, 3))?;
        let operands = x;
        let (dy, w) = (&x[0].shape, &x[1].shape);
        ensure_shape!(OP, dy.rank() == 4, "dy must be (batch, height, width, channels), found {dy}");
        ensure_shape!(
            OP,
            w.rank() == 4 && w[0] == self.conv.kernel && w[1] == self.conv.kernel && w[3] == dy[3],
            "w must be ({k}, {k}, input channels, {}), found {w}",
            dy[3],
            k = self.conv.kernel
        );
        self.conv.check(OP, self.height, self.width)?;
        let dx = self.input_shape(dy, w);
        let y = self.conv.output_shape(&dx, w[3]);
        ensure_shape!(OP, *dy == y, "an input of shape {dx} gives an output of {y}, but dy is {dy}");
        Addend::check(OP, operands, 2, dx.axes(), &[Addend::Same])?;
        Ok(vec![Spec::new(dx.axes(), dtype)])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let (dy, w) = (&x[0], &x[1]);
        let mut dx = Array::zeros(&self.input_shape(&dy.shape, &w.shape));
        let e = Extent::new(&dx.shape, &dy.shape);
        self.conv.for_each_product(&e, |i, j, k| dx.data[i] += dy.data[k] * w.data[j]);
        Addend::add(x, 2, &mut dx);
        vec![dx]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        let additions = Addend::flops(x, 2, &y[0]);
        let e = Extent::new(&y[0].shape, &x[0].shape);
        Cost { other_flops: additions, ..self.conv.matrix_cost(&e, x, y) }
    }

    fn candidates(&self, x: &[Spec], y: &[Spec], caps: &Caps) -> Vec<Candidate> {
        let (e, dtype) = (Extent::new(&y[0].shape, &x[0].shape), x[0].dtype);
        let mut candidates = caps.both(|caps| {
            let (dispatch, name) = match (caps.kernels, caps.subgroup()) {
                (Kernels::Registers, Some(lanes))
                    if self.conv.stride == 1 && subgroup::suits(&self.conv, &e) =>
                {
                    (subgroup::backward_input(&self.conv, &e, dtype, lanes), "added")
                }
                (Kernels::Registers, _) => {
                    (registers::backward_input(&self.conv, &e, dtype), "added_elements")
                }
                (Kernels::Workgroup, _) => (tiled::backward_input(&self.conv, &e, dtype, None), "added"),
            };
            Addend::bind(dispatch, name, x, 2, &y[0]).into()
        });
        candidates.extend(matrix::backward_input(&self.conv, &e, x, &y[0], caps));
        candidates
    }

    fn takes_addend(&self, x: &[Spec], y: &Spec, addend: &Spec) -> bool {
        x.len() == 2 && Addend::fits(addend, y, &[Addend::Same])
    }
}

/// dw = Σ x dy over the products in which w takes part, from (x, dy), f32 or f16; dw is f32. The bias's gradient is
/// [`SumRows`] of dy, and may be given here too.
#[derive(Debug, Clone)]
pub struct Conv2dBackwardWeight {
    /// The convolution.
    pub conv: Conv2d,
    /// Whether the gradient of the bias is a second output.
    pub bias: bool,
}

impl Op for Conv2dBackwardWeight {
    fn name(&self) -> &'static str {
        "conv2d_backward_weight"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        const OP: &str = "conv2d_backward_weight";
        expect_float(OP, x, 2)?;
        let (x, dy) = (&x[0].shape, &x[1].shape);
        ensure_shape!(
            OP,
            x.rank() == 4 && dy.rank() == 4,
            "x and dy must be (batch, height, width, channels), found {x} and {dy}"
        );
        self.conv.check(OP, x[1], x[2])?;
        let y = self.conv.output_shape(x, dy[3]);
        ensure_shape!(OP, *dy == y, "an input of shape {x} gives an output of {y}, but dy is {dy}");
        let k = self.conv.kernel;
        let mut outputs = vec![Spec::f32([k, k, x[3], dy[3]])];
        outputs.extend(self.bias.then(|| Spec::f32([dy[3]])));
        Ok(outputs)
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let (x, dy) = (&x[0], &x[1]);
        let (k, e) = (self.conv.kernel, Extent::new(&x.shape, &dy.shape));
        let mut dw = Array::zeros(&Shape::new([k, k, e.in_channels, e.out_channels]));
        self.conv.for_each_product(&e, |i, j, k| dw.data[j] += x.data[i] * dy.data[k]);
        let mut gradients = vec![dw];
        if self.bias {
            gradients.extend(SumRows.reference(std::slice::from_ref(dy)));
        }
        gradients
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        let sums = if self.bias { x[1].shape.elements() as u64 } else { 0 };
        let e = Extent::new(&x[0].shape, &x[1].shape);
        Cost { other_flops: sums, ..self.conv.matrix_cost(&e, x, y) }
    }

    fn with_row_sums(&self) -> Option<Arc<dyn Op>> {
        (!self.bias).then(|| Arc::new(Self { conv: self.conv.clone(), bias: true }) as _)
    }

    fn candidates(&self, x: &[Spec], _y: &[Spec], caps: &Caps) -> Vec<Candidate> {
        let (e, dtype) = (Extent::new(&x[0].shape, &x[1].shape), x[0].dtype);
        let mut candidates = caps.both(|caps| match (caps.kernels, caps.subgroup()) {
            (Kernels::Registers, Some(lanes)) if subgroup::suits(&self.conv, &e) => {
                subgroup::backward_weight(&self.conv, &e, dtype, self.bias, lanes)
            }
            (Kernels::Registers, _) => registers::backward_weight(&self.conv, &e, dtype, self.bias),
            (Kernels::Workgroup, _) if narrow::suits_backward_weight(&self.conv, &e) => {
                narrow::backward_weight(&self.conv, &e, dtype, self.bias)
            }
            (Kernels::Workgroup, _) => tiled::backward_weight(&self.conv, &e, dtype, self.bias, None),
        });
        candidates.extend(matrix::backward_weight(&self.conv, &e, x, self.bias, caps));
        candidates
    }
}
