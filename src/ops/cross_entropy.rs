//! The cross-entropy of a softmax (`shaders/cross_entropy.wgsl`).

use super::{Case, Fill, vector_width};
use crate::ensure_shape;
use crate::graph::{Backward, Candidate, Caps, Cost, Dispatch, GraphError, Op, Operand, Program, ShapeError};
use crate::shader::Source;
use crate::tensor::{Array, Spec};

static SHADER: Source = crate::wgsl!("cross_entropy");

/// loss = 1/N Σ_n (log Σ_k exp x_nk - x_nl), l the label of item n, for inputs [x (N, K), labels u32 (N)]; output (1).
///
/// Labels past the last class count as the last.
#[derive(Debug, Clone)]
pub struct SoftmaxCrossEntropy;

fn check(op: &'static str, x: &[Spec], count: usize) -> Result<(), ShapeError> {
    ensure_shape!(op, x.len() == count, "expected {count} inputs, found {}", x.len());
    let fits = x[0] == Spec::f32(x[0].shape.axes()) && x[0].shape.rank() == 2;
    ensure_shape!(op, fits, "scores must be f32 (N, classes), found {:?}", x[0]);
    let labels = Spec::u32([x[0].shape[0]]);
    ensure_shape!(op, x[1] == labels, "labels must be {labels:?}, found {:?}", x[1]);
    Ok(())
}

/// The label of item `n`.
fn label(x: &[Array], n: usize) -> usize {
    (x[1].data[n] as usize).min(x[0].shape[1] - 1)
}

/// exp(x_nk) / Σ_j exp(x_nj), and log Σ_j exp(x_nj).
fn softmax(row: &[f64]) -> (Vec<f64>, f64) {
    let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = row.iter().map(|x| (x - largest).exp()).sum();
    (row.iter().map(|x| (x - largest).exp() / sum).collect(), largest + sum.ln())
}

fn dispatch(entry: &'static str, x: &[Spec]) -> Dispatch {
    let (items, classes) = (x[0].shape[0], x[0].shape[1]);
    let (width, variant) = vector_width(&[classes]);
    Dispatch::new(&SHADER, entry)
        .variant(variant)
        .param("items", items)
        .param("vectors", classes / width)
        .param("factor", 1.0 / items as f32)
}

impl Op for SoftmaxCrossEntropy {
    fn name(&self) -> &'static str {
        "softmax_cross_entropy"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        check("softmax_cross_entropy", x, 2)?;
        Ok(vec![Spec::f32([1])])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let classes = x[0].shape[1];
        let rows = x[0].data.chunks_exact(classes).enumerate();
        let sum: f64 = rows.map(|(n, row)| softmax(row).1 - row[label(x, n)]).sum();
        vec![Array::new([1], vec![sum / x[0].shape[0] as f64])]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        Cost { other_flops: 4 * x[0].shape.elements() as u64, ..Cost::of_traffic(x, y) }
    }

    fn candidates(&self, x: &[Spec], _y: &[Spec], _caps: &Caps) -> Vec<Candidate> {
        let items = x[0].shape[0];
        let rows = dispatch("cross_entropy_rows", x)
            .bind("scores", Operand::Input(0))
            .bind("labels", Operand::Input(1))
            .bind("row_loss", Operand::Scratch(0))
            .linear(items, 64);
        let mean = dispatch("cross_entropy_mean", x)
            .arithmetic(0)
            .bind("row_loss", Operand::Scratch(0))
            .bind("loss", Operand::Output(0));
        Program { scratch: vec![Spec::f32([items])], dispatches: vec![rows, mean] }.into()
    }

    fn backward(&self, g: &mut Backward) -> Result<(), GraphError> {
        let inputs = [g.input(0), g.input(1), g.gradient(0)];
        let dx = g.apply(SoftmaxCrossEntropyBackward, &inputs)?;
        g.accumulate(0, dx)
    }
}

/// d loss / d x_nk = (softmax(x_n)_k - [k = label]) / N · d_loss, from [x, labels, d_loss (1)].
#[derive(Debug, Clone)]
pub struct SoftmaxCrossEntropyBackward;

impl Op for SoftmaxCrossEntropyBackward {
    fn name(&self) -> &'static str {
        "softmax_cross_entropy_backward"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        let op = "softmax_cross_entropy_backward";
        check(op, x, 3)?;
        ensure_shape!(op, x[2] == Spec::f32([1]), "d_loss must be f32(1), found {:?}", x[2]);
        Ok(vec![x[0].clone()])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let classes = x[0].shape[1];
        let factor = x[2].data[0] / x[0].shape[0] as f64;
        let shares: Vec<f64> = x[0].data.chunks_exact(classes).flat_map(|row| softmax(row).0).collect();
        vec![Array::from_fn(&x[0].shape, |i| {
            let own = if i % classes == label(x, i / classes) { 1.0 } else { 0.0 };
            factor * (shares[i] - own)
        })]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        Cost::elementwise(x, y, 6)
    }

    fn candidates(&self, x: &[Spec], _y: &[Spec], _caps: &Caps) -> Vec<Candidate> {
        dispatch("cross_entropy_backward", x)
            .bind("scores", Operand::Input(0))
            .bind("labels", Operand::Input(1))
            .bind("d_loss", Operand::Input(2))
            .bind("d_scores", Operand::Output(0))
            .linear(x[0].shape[0], 64)
            .into()
    }
}

/// Test cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (items, classes) in [(1, 1), (1, 2), (5, 7), (67, 10), (67, 16), (3, 1000), (300, 41)] {
        let (x, labels) = (Spec::f32([items, classes]), Spec::u32([items]));
        let name = format!("{items} of {classes} classes");
        // The first past the last class counts as the last.
        let fill = Fill::Below(classes + 1);
        let inputs = [x.clone(), labels.clone()];
        cases.push(Case::new(&name, SoftmaxCrossEntropy, &inputs).gradients(&[0]).fill(1, fill.clone()));
        let inputs = [x, labels, Spec::f32([1])];
        cases.push(Case::new(&name, SoftmaxCrossEntropyBackward, &inputs).no_gradient().fill(1, fill));
    }
    // exp of the largest would overflow.
    let far = Fill::Values(vec![200.0, -200.0, 0.0, -300.0, -310.0, -305.0]);
    let inputs = [Spec::f32([2, 3]), Spec::u32([2])];
    let labels = Fill::Values(vec![0.0, 2.0]);
    cases.push(
        Case::new("far from zero", SoftmaxCrossEntropy, &inputs)
            .gradients(&[0])
            .fill(0, far.clone())
            .fill(1, labels.clone()),
    );
    let inputs = [Spec::f32([2, 3]), Spec::u32([2]), Spec::f32([1])];
    cases.push(
        Case::new("far from zero", SoftmaxCrossEntropyBackward, &inputs)
            .no_gradient()
            .fill(0, far)
            .fill(1, labels),
    );
    cases
}
