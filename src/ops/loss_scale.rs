//! The number that the gradient of the loss is multiplied by where gradients are stored in f16, so that small ones are not
//! rounded to zero (`shaders/loss_scale.wgsl`; Micikevicius et al., arXiv 1710.03740, section 3.2).

use super::optimizer::{Clipping, expect_words};
use super::words::words;
use super::{Case, expect_f32};
use crate::graph::{Aliasing, Candidate, Caps, Cost, Dispatch, Op, Operand, ShapeError};
use crate::shader::Source;
use crate::tensor::{Array, Spec};

static SHADER: Source = crate::wgsl!("loss_scale");

words! {
    /// The scale of the loss, and what decides its next change.
    LossScale {
        /// What the gradient of the loss is multiplied by: a power of two, so that scaling rounds nothing.
        scale,
        /// Steps with a finite gradient since it was changed.
        steps,
        /// Steps that were skipped because the gradient so scaled was not finite, since the beginning of the run.
        skips,
    }
}

impl LossScale {
    /// That of gradients that are not scaled.
    pub const NONE: Self = Self { scale: 1.0, steps: 0.0, skips: 0.0 };
    /// That of the first step: 2^16, as PyTorch's `GradScaler` begins. If it is too large, each of the first steps halves it.
    pub const INITIAL: Self = Self { scale: 65_536.0, ..Self::NONE };
    /// It is halved down to this and no further: a gradient that is not finite unscaled is no fault of the scale.
    pub const LEAST: f64 = 1.0;
    /// It is doubled up to this, 2^40, from f16's least number, 2^-24, to beyond its largest, 2^16: only a gradient of zeros comes
    /// so far, and would come to infinity.
    pub const MOST: f64 = 1_099_511_627_776.0;
    /// It is doubled after so many steps with a finite gradient, as by PyTorch: if that was too much, one step in 2000 is lost.
    pub const GROWS_AFTER: f64 = 2000.0;
}

/// Changes the scale after a step, in place: inputs scale ([`LossScale`]) and norm ([`Clipping`]). It is halved where the gradient
/// was not finite, and doubled after [`LossScale::GROWS_AFTER`] steps in which it was.
#[derive(Debug, Clone)]
pub struct AdjustLossScale;

impl Op for AdjustLossScale {
    fn name(&self) -> &'static str {
        "adjust_loss_scale"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        expect_f32(self.name(), x, 2)?;
        expect_words(self.name(), "the scale", &x[0], LossScale::WORDS)?;
        expect_words(self.name(), "the norm", &x[1], Clipping::WORDS)?;
        Ok(vec![x[0].clone()])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let LossScale { scale, steps, skips } = LossScale::of(&x[0].data);
        let next = if Clipping::of(&x[1].data).finite == 0.0 {
            let at_fault = if scale > LossScale::LEAST { 1.0 } else { 0.0 };
            LossScale { scale: (0.5 * scale).max(LossScale::LEAST), steps: 0.0, skips: skips + at_fault }
        } else if steps + 1.0 >= LossScale::GROWS_AFTER {
            LossScale { scale: (2.0 * scale).min(LossScale::MOST), steps: 0.0, skips }
        } else {
            LossScale { scale, steps: steps + 1.0, skips }
        };
        vec![Array::new([LossScale::WORDS], next.values().to_vec())]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        Cost::elementwise(x, y, 1)
    }

    fn candidates(&self, _x: &[Spec], _y: &[Spec], _caps: &Caps) -> Vec<Candidate> {
        Dispatch::new(&SHADER, "adjust")
            .param("grows_after", LossScale::GROWS_AFTER as f32)
            .param("least", LossScale::LEAST as f32)
            .param("most", LossScale::MOST as f32)
            .bind("loss_scale", Operand::Output(0))
            .bind("clipping", Operand::Input(1))
            .into()
    }

    fn aliasing(&self) -> Aliasing {
        Aliasing::InPlace(vec![(0, 0)])
    }
}

/// Test cases.
pub fn cases() -> Vec<Case> {
    let inputs = [Spec::f32([LossScale::WORDS]), Spec::f32([Clipping::WORDS])];
    let mut cases = Vec::new();
    for (name, finite, scale, steps) in [
        ("finite", 1.0, 1024.0, 7.0),
        ("the last step before it grows", 1.0, 1024.0, 1998.0),
        ("it grows", 1.0, 1024.0, 1999.0),
        ("it grows no further", 1.0, LossScale::MOST, 1999.0),
        ("not finite", 0.0, 1024.0, 1999.0),
        ("not finite, no scale", 0.0, LossScale::LEAST, 3.0),
    ] {
        cases.push(
            Case::new(name, AdjustLossScale, &inputs)
                .fill(0, LossScale { scale, steps, skips: 5.0 }.values().into())
                .fill(1, Clipping { norm: 2.0, factor: 0.5, finite }.words().into())
                .no_gradient(),
        );
    }
    cases
}
