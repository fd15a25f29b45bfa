//! Sums, scales and SiLU, element by element (`shaders/elementwise.wgsl`).

use super::{Case, expect_float, stored, vector_width};
use crate::ensure_shape;
use crate::graph::{Backward, Candidate, Caps, Cost, Dispatch, GraphError, Op, Operand, ShapeError};
use crate::shader::Source;
use crate::tensor::{Array, Spec};

static SHADER: Source = crate::wgsl!("elementwise");

const INVOCATIONS: usize = 64;

/// A launch over all elements, four at a time where their number allows.
fn elementwise(entry: &'static str, inputs: &[&'static str], y: &Spec) -> Dispatch {
    let elements = y.shape.elements();
    let (width, variant) = vector_width(&[elements]);
    let mut d = Dispatch::new(&SHADER, entry).variant(stored(variant, y.dtype));
    for (i, name) in inputs.iter().enumerate() {
        d = d.bind(name, Operand::Input(i));
    }
    d.bind("y", Operand::Output(0)).linear(elements / width, INVOCATIONS).param("count", elements / width)
}

/// y = a + b, equal shapes.
#[derive(Debug, Clone)]
pub struct Add;

impl Op for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        expect_float("add", x, 2)?;
        ensure_shape!("add", x[0] == x[1], "operands differ: {:?} and {:?}", x[0], x[1]);
        Ok(vec![x[0].clone()])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        vec![Array::from_fn(&x[0].shape, |i| x[0].data[i] + x[1].data[i])]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        Cost::elementwise(x, y, 1)
    }

    fn candidates(&self, _x: &[Spec], y: &[Spec], _caps: &Caps) -> Vec<Candidate> {
        elementwise("add", &["a", "b"], &y[0]).into()
    }

    fn is_sum(&self) -> bool {
        true
    }

    fn backward(&self, g: &mut Backward) -> Result<(), GraphError> {
        let dy = g.gradient(0);
        for i in 0..2 {
            if g.needs(i) {
                g.accumulate(i, dy)?;
            }
        }
        Ok(())
    }
}

/// y = c x for a fixed number c.
#[derive(Debug, Clone)]
pub struct Scale(pub f32);

impl Op for Scale {
    fn name(&self) -> &'static str {
        "scale"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        expect_float("scale", x, 1)?;
        Ok(vec![x[0].clone()])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        vec![x[0].map(|v| f64::from(self.0) * v)]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        Cost::elementwise(x, y, 1)
    }

    fn candidates(&self, _x: &[Spec], y: &[Spec], _caps: &Caps) -> Vec<Candidate> {
        elementwise("scale", &["a"], &y[0]).param("factor", self.0).into()
    }

    fn backward(&self, g: &mut Backward) -> Result<(), GraphError> {
        let dy = g.gradient(0);
        let dx = g.apply(self.clone(), &[dy])?;
        g.accumulate(0, dx)
    }
}

/// silu(x) = x σ(x) (Elfwing et al., arXiv 1702.03118).
pub fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

/// silu'(x) = σ(x) (1 + x (1 - σ(x))).
pub fn silu_derivative(x: f64) -> f64 {
    let s = 1.0 / (1.0 + (-x).exp());
    s * (1.0 + x * (1.0 - s))
}

/// y = silu(x).
#[derive(Debug, Clone)]
pub struct Silu;

impl Op for Silu {
    fn name(&self) -> &'static str {
        "silu"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        expect_float("silu", x, 1)?;
        Ok(vec![x[0].clone()])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        vec![x[0].map(silu)]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        Cost::elementwise(x, y, 5)
    }

    fn candidates(&self, _x: &[Spec], y: &[Spec], _caps: &Caps) -> Vec<Candidate> {
        elementwise("silu_forward", &["a"], &y[0]).into()
    }

    fn backward(&self, g: &mut Backward) -> Result<(), GraphError> {
        let (dy, x) = (g.gradient(0), g.input(0));
        let dx = g.apply(SiluBackward, &[x, dy])?;
        g.accumulate(0, dx)
    }
}

/// dx = dy silu'(x), from (x, dy).
#[derive(Debug, Clone)]
pub struct SiluBackward;

impl Op for SiluBackward {
    fn name(&self) -> &'static str {
        "silu_backward"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        expect_float("silu_backward", x, 2)?;
        ensure_shape!("silu_backward", x[0] == x[1], "x is {:?}, but dy is {:?}", x[0], x[1]);
        Ok(vec![x[0].clone()])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        vec![Array::from_fn(&x[0].shape, |i| x[1].data[i] * silu_derivative(x[0].data[i]))]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        Cost::elementwise(x, y, 8)
    }

    fn candidates(&self, _x: &[Spec], y: &[Spec], _caps: &Caps) -> Vec<Candidate> {
        elementwise("silu_backward", &["a", "b"], &y[0]).into()
    }
}

/// Test cases.
pub fn cases() -> Vec<Case> {
    // 64 invocations of one element each in 65536 workgroups: past the limit of one dimension.
    let past_limit = Spec::f32([65_536 * 64 + 1]);
    let mut cases = vec![Case::new("past 65535 workgroups", Scale(-0.5), &[past_limit]).large()];
    for shape in [vec![1], vec![7, 5], vec![2, 3, 4, 8], vec![257]] {
        let (s, name) = (Spec::f32(shape.clone()), format!("{:?}", crate::tensor::Shape::new(shape)));
        cases.extend(Case::new(&name, Add, &[s.clone(), s.clone()]).and_in_f16(&[0, 1]));
        cases.extend(Case::new(&name, Scale(1.25), std::slice::from_ref(&s)).and_in_f16(&[0]));
        cases.extend(Case::new(&name, Silu, std::slice::from_ref(&s)).and_in_f16(&[0]));
        cases.extend(Case::new(&name, SiluBackward, &[s.clone(), s]).no_gradient().and_in_f16(&[0, 1]));
    }
    let extremes = vec![-1e4, -100.0, -20.0, -1e-6, 0.0, 1e-6, 20.0, 100.0, 1e4];
    let s = Spec::f32([extremes.len()]);
    cases.push(Case::new("extremes", Silu, &[s]).fill(0, super::Fill::Values(extremes)).gradients(&[]));
    cases
}
