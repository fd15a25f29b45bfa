//! Tensors in another storage type (`shaders/cast.wgsl`).

use super::memory::ranges;
use super::{Case, stored, vector_width};
use crate::ensure_shape;
use crate::graph::{Backward, Candidate, Caps, Cost, Dispatch, GraphError, Op, Operand, Program, ShapeError};
use crate::shader::{Extension, Source};
use crate::tensor::{Array, DType, Spec};
use std::ops::Range;

static SHADER: Source = crate::wgsl!("cast");

/// y = x, stored in this type: rounded if it has fewer bits, and a copy if it is the type that x has.
#[derive(Debug, Clone)]
pub struct Cast(pub DType);

impl Op for Cast {
    fn name(&self) -> &'static str {
        "cast"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        ensure_shape!("cast", x.len() == 1, "expected 1 input, found {}", x.len());
        let floats = x[0].dtype.is_float() && self.0.is_float();
        ensure_shape!("cast", floats, "cannot make {} of {:?}", self.0.name(), x[0]);
        Ok(vec![Spec::new(x[0].shape.axes(), self.0)])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        vec![x[0].clone()]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        Cost::of_traffic(x, y)
    }

    fn candidates(&self, x: &[Spec], y: &[Spec], caps: &Caps) -> Vec<Candidate> {
        let ranges = ranges(y[0].shape.elements(), caps);
        let is_whole = ranges.len() == 1;
        let dispatch = |range: Range<usize>| {
            let elements = range.len();
            let (width, variant) = vector_width(&[elements]);
            let mut variant = stored(variant, x[0].dtype);
            if x[0].dtype != self.0 {
                let name = self.0.name();
                let target = if width == 4 { format!("vec4<{name}>") } else { name.into() };
                variant = variant.with("Target", target).enable(Extension::F16);
            }
            let dispatch = Dispatch::new(&SHADER, "convert")
                .arithmetic(elements)
                .variant(variant)
                .linear(elements / width, 64)
                .param("count", elements / width);
            match is_whole {
                true => dispatch.bind("x", Operand::Input(0)).bind("y", Operand::Output(0)),
                false => dispatch.bind_range("x", Operand::Input(0), range.clone()).bind_range(
                    "y",
                    Operand::Output(0),
                    range,
                ),
            }
        };
        Program { scratch: vec![], dispatches: ranges.into_iter().map(dispatch).collect() }.into()
    }

    fn backward(&self, g: &mut Backward) -> Result<(), GraphError> {
        let (dy, dtype) = (g.gradient(0), g.spec(g.input(0)).dtype);
        let dx = g.apply(Self(dtype), &[dy])?;
        g.accumulate(0, dx)
    }
}

/// Test cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for shape in [vec![1], vec![7, 5], vec![2, 3, 4, 8], vec![257]] {
        let name = format!("{:?}", crate::tensor::Shape::new(shape.clone()));
        for (from, to) in [
            (DType::F32, DType::F32),
            (DType::F32, DType::F16),
            (DType::F16, DType::F32),
            (DType::F16, DType::F16),
        ] {
            let case = Case::new(
                format!("{name} from {}", from.name()),
                Cast(to),
                &[Spec::new(shape.clone(), from)],
            );
            // Rounding to f16 is no concern of the interpreter's, so f32 alone has a gradient to check.
            cases.push(if from == to && from == DType::F32 { case } else { case.no_gradient() });
        }
    }
    cases
}
