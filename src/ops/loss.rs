//! The weighted mean squared error (`shaders/loss.wgsl`).

use super::{Case, expect_activations, stored};
use crate::ensure_shape;
use crate::graph::{Backward, Candidate, Caps, Cost, Dispatch, GraphError, Op, Operand, Program, ShapeError};
use crate::shader::{Source, Variant};
use crate::tensor::{Array, Spec};

static SHADER: Source = crate::wgsl!("loss");

/// Elements that one workgroup sums: `CHUNK` of the shader.
pub(super) const CHUNK: usize = 1024;

/// loss = 1/(B n) Σ_b w_b Σ_i (p_bi - q_bi)² for inputs [p (B, ...), q (B, ...), w (B)]; output (1).
/// p may be stored as f16; the others are f32.
///
/// With w = 1 this is DDPM's L_simple (arXiv 2006.11239, eq. 14).
#[derive(Debug, Clone)]
pub struct MseLoss;

fn check(op: &'static str, x: &[Spec]) -> Result<(), ShapeError> {
    ensure_shape!(op, x[0].shape == x[1].shape, "the prediction is {:?}, but the target is {:?}", x[0], x[1]);
    let batch = Spec::f32([x[0].shape[0]]);
    ensure_shape!(op, x[2] == batch, "weights must be {batch:?}, found {:?}", x[2]);
    Ok(())
}

impl Op for MseLoss {
    fn name(&self) -> &'static str {
        "mse_loss"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        expect_activations("mse_loss", x, 3, &[1, 2])?;
        check("mse_loss", x)?;
        Ok(vec![Spec::f32([1])])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let item = x[0].data.len() / x[2].data.len();
        let sum: f64 =
            (0..x[0].data.len()).map(|i| x[2].data[i / item] * (x[0].data[i] - x[1].data[i]).powi(2)).sum();
        vec![Array::new([1], vec![sum / x[0].data.len() as f64])]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        Cost { other_flops: 4 * x[0].shape.elements() as u64, ..Cost::of_traffic(x, y) }
    }

    fn candidates(&self, x: &[Spec], _y: &[Spec], _caps: &Caps) -> Vec<Candidate> {
        let count = x[0].shape.elements();
        let groups = count.div_ceil(CHUNK);
        let partial = Dispatch::new(&SHADER, "loss_partial")
            .variant(stored(Variant::base(), x[0].dtype))
            .param("count", count)
            .param("item", count / x[0].shape[0].max(1))
            .param("groups", groups)
            .bind("partial", Operand::Scratch(0))
            .bind("prediction", Operand::Input(0))
            .bind("noise_target", Operand::Input(1))
            .bind("weight", Operand::Input(2))
            .workgroups(groups);
        let finish = Dispatch::new(&SHADER, "loss_finish")
            .arithmetic(0)
            .param("groups", groups)
            .param("factor", 1.0 / count as f32)
            .bind("partial", Operand::Scratch(0))
            .bind("loss", Operand::Output(0));
        Program { scratch: vec![Spec::f32([groups])], dispatches: vec![partial, finish] }.into()
    }

    fn backward(&self, g: &mut Backward) -> Result<(), GraphError> {
        let inputs = [g.input(0), g.input(1), g.input(2), g.gradient(0)];
        let dp = g.apply(MseLossBackward, &inputs)?;
        g.accumulate(0, dp)
    }
}

/// d loss / d p = 2 w_b (p - q) / (B n) · d_loss, from [p, q, w, d_loss (1)]; stored as p is. In f16 that needs a
/// scaled loss: 2 / (B n) of a difference of 1 falls below 2^-14, the least normal number, at 32768 elements.
#[derive(Debug, Clone)]
pub struct MseLossBackward;

impl Op for MseLossBackward {
    fn name(&self) -> &'static str {
        "mse_loss_backward"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        expect_activations("mse_loss_backward", x, 4, &[1, 2, 3])?;
        check("mse_loss_backward", x)?;
        ensure_shape!("mse_loss_backward", x[3] == Spec::f32([1]), "d_loss must be f32(1), found {:?}", x[3]);
        Ok(vec![x[0].clone()])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let item = x[0].data.len() / x[2].data.len();
        let factor = 2.0 * x[3].data[0] / x[0].data.len() as f64;
        vec![Array::from_fn(&x[0].shape, |i| factor * x[2].data[i / item] * (x[0].data[i] - x[1].data[i]))]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        Cost::elementwise(x, y, 4)
    }

    fn candidates(&self, x: &[Spec], _y: &[Spec], _caps: &Caps) -> Vec<Candidate> {
        let count = x[0].shape.elements();
        Dispatch::new(&SHADER, "loss_backward")
            .variant(stored(Variant::base(), x[0].dtype))
            .bind("prediction", Operand::Input(0))
            .bind("noise_target", Operand::Input(1))
            .bind("weight", Operand::Input(2))
            .bind("d_loss", Operand::Input(3))
            .bind("d_prediction", Operand::Output(0))
            .param("count", count)
            .param("item", count / x[0].shape[0].max(1))
            .param("factor", 2.0 / count as f32)
            .linear(count, 64)
            .into()
    }
}

/// Test cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for shape in [vec![1, 1], vec![3, 5, 7, 3], vec![2, 41, 47, 1]] {
        let (p, w) = (Spec::f32(shape.clone()), Spec::f32([shape[0]]));
        let name = format!("{:?}", p.shape);
        // The gradient with respect to the target and the weights is never asked for.
        let inputs = [p.clone(), p.clone(), w.clone()];
        cases.extend(Case::new(&name, MseLoss, &inputs).gradients(&[0]).and_in_f16(&[0]));
        let inputs = [p.clone(), p, w, Spec::f32([1])];
        let [plain, half] = Case::new(&name, MseLossBackward, &inputs).no_gradient().and_in_f16(&[0]);
        // 2 / (B n) of an ordinary difference is subnormal in f16: the loss is scaled, as training would do.
        cases.extend([plain, half.fill(3, [1024.0].into())]);
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DType;

    #[test]
    fn the_prediction_alone_may_be_f16() {
        let given = |p, q, w| [Spec::new([2, 3], p), Spec::new([2, 3], q), Spec::new([2], w)];
        let [f32, f16] = [DType::F32, DType::F16];
        assert_eq!(MseLoss.infer(&given(f16, f32, f32)).unwrap(), [Spec::f32([1])]);
        for (inputs, words) in [
            (given(f32, f16, f32), "input 1 must be f32, found f16(2, 3)"),
            (given(f16, f16, f32), "input 1 must be f32, found f16(2, 3)"),
            (given(f16, f32, f16), "input 2 must be f32, found f16(2)"),
            (given(DType::U32, f32, f32), "input 0 must be f32 or f16, found u32(2, 3)"),
        ] {
            let message = MseLoss.infer(&inputs).unwrap_err().to_string();
            assert!(message.contains(words), "{message}");
        }
    }
}
