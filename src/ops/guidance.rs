//! Classifier-free guidance (`shaders/guidance.wgsl`).

use super::{Case, Fill, expect_activations, stored};
use crate::ensure_shape;
use crate::graph::{Candidate, Caps, Cost, Dispatch, Op, Operand, ShapeError};
use crate::shader::{Source, Variant};
use crate::tensor::{Array, Spec};

static SHADER: Source = crate::wgsl!("guidance");

/// f = u + w (c - u) in the first `guided` channels and c in the others, for the answers c with a class and u without
/// (Ho & Salimans, arXiv 2207.12598, eq. 6, whose w is one less than this).
///
/// Inputs [c (..., channels), u as c, w (1)]; output as c.
#[derive(Debug, Clone)]
pub struct Guidance {
    /// Channels that are guided; those behind them are a learned variance.
    pub guided: usize,
}

impl Op for Guidance {
    fn name(&self) -> &'static str {
        "guidance"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        let op = "guidance";
        expect_activations(op, x, 3, &[2])?;
        ensure_shape!(op, x[0].shape.rank() > 0, "c must have channels, found {:?}", x[0]);
        ensure_shape!(op, x[1] == x[0], "c is {:?}, but u is {:?}", x[0], x[1]);
        ensure_shape!(op, x[2] == Spec::f32([1]), "w must be f32(1), found {:?}", x[2]);
        let channels = x[0].shape.last();
        ensure_shape!(op, self.guided <= channels, "{} of {channels} channels are guided", self.guided);
        Ok(vec![x[0].clone()])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let [c, u, w] = std::array::from_fn(|i| &x[i]);
        let channels = c.shape.last();
        vec![Array::from_fn(&c.shape, |i| match i % channels < self.guided {
            true => u.data[i] + w.data[0] * (c.data[i] - u.data[i]),
            false => c.data[i],
        })]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        Cost::elementwise(x, y, 3)
    }

    fn candidates(&self, x: &[Spec], _y: &[Spec], _caps: &Caps) -> Vec<Candidate> {
        let count = x[0].shape.elements();
        Dispatch::new(&SHADER, "guidance")
            .variant(stored(Variant::base(), x[0].dtype))
            .bind("with_class", Operand::Input(0))
            .bind("without_class", Operand::Input(1))
            .bind("scale", Operand::Input(2))
            .bind("f", Operand::Output(0))
            .param("count", count)
            .param("channels", x[0].shape.last())
            .param("guided", self.guided)
            .linear(count, 64)
            .into()
    }
}

/// Test cases.
pub fn cases() -> Vec<Case> {
    let case = |shape: &[usize], guided: usize, w: f64| {
        let x = Spec::f32(shape.to_vec());
        let inputs = [x.clone(), x.clone(), Spec::f32([1])];
        let name = format!("{x:?}, {guided} guided, w = {w}");
        Case::new(name, Guidance { guided }, &inputs).fill(2, Fill::Values(vec![w])).no_gradient()
    };
    let mut cases = vec![case(&[65_600 * 64 / 3 + 1, 3], 2, -1.0).large()];
    for (shape, guided, w) in
        [([1, 1, 1, 1], 1, 3.0), ([3, 5, 7, 3], 3, 1.5), ([2, 4, 4, 6], 3, 7.5), ([70, 3, 1, 2], 0, 2.0)]
    {
        cases.extend(case(&shape, guided, w).and_in_f16(&[0, 1]));
    }
    cases
}
