//! Sums over everything but the channels: the gradient of a bias (`shaders/sum_rows.wgsl`).

use super::{Case, expect_float, stored, vector_width};
use crate::ensure_shape;
use crate::graph::{Candidate, Caps, Cost, Dispatch, Op, Operand, Program, ShapeError};
use crate::shader::Source;
use crate::tensor::{Array, DType, Spec};

static SHADER: Source = crate::wgsl!("sum_rows");

const INVOCATIONS: usize = 64;

/// Sums the (rows, channels) matrix `x`, stored in the type `dtype`, over each `rows_per_split` of its rows into the
/// f32 matrix `y`.
fn sum_into_splits(
    (x, dtype): (Operand, DType),
    y: Operand,
    rows: usize,
    channels: usize,
    rows_per_split: usize,
) -> Dispatch {
    let (width, variant) = vector_width(&[channels]);
    let (vectors, splits) = (channels / width, rows.div_ceil(rows_per_split));
    Dispatch::new(&SHADER, "sum_rows")
        .variant(stored(variant, dtype).with("INVOCATIONS", format!("{INVOCATIONS}u")))
        .bind("x", x)
        .bind("y", y)
        .param("rows", rows)
        .param("vectors", vectors)
        .param("splits", splits)
        .param("rows_per_split", rows_per_split)
        .linear(splits * vectors, INVOCATIONS)
}

/// The launches of one or two results of so many elements each, which are sums: `first` writes each of them to an operand that it
/// is given, once for each of `splits` parts, so that more invocations can share the sum; a second launch adds the parts into the
/// outputs. Of one part, `first` writes the outputs themselves.
pub(super) fn in_splits(
    splits: usize,
    results: &[usize],
    first: impl FnOnce(&[Operand]) -> Dispatch,
) -> Program {
    if splits == 1 {
        return first(&[Operand::Output(0), Operand::Output(1)]).into();
    }
    let parts = [Operand::Scratch(0), Operand::Scratch(1)];
    let second = match *results {
        [a, b] => {
            let (width, variant) = vector_width(&[a, b]);
            let (vectors, vectors_b) = (a / width, b / width);
            Dispatch::new(&SHADER, "sum_both")
                .variant(variant.with("INVOCATIONS", format!("{INVOCATIONS}u")))
                .bind("x", parts[0])
                .bind("y", Operand::Output(0))
                .bind("x_b", parts[1])
                .bind("y_b", Operand::Output(1))
                .param("rows", splits)
                .param("vectors", vectors)
                .param("vectors_b", vectors_b)
                .linear(vectors + vectors_b, INVOCATIONS)
        }
        _ => sum_into_splits((parts[0], DType::F32), Operand::Output(0), splits, results[0], splits),
    };
    Program {
        scratch: results.iter().map(|elements| Spec::f32([splits * elements])).collect(),
        dispatches: vec![first(&parts), second.arithmetic(0)],
    }
}

/// `y[c] = Σ x[…, c]`, from x of any shape (…, C), f32 or f16, to (C) in f32.
#[derive(Debug, Clone)]
pub struct SumRows;

impl Op for SumRows {
    fn name(&self) -> &'static str {
        "sum_rows"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        expect_float("sum_rows", x, 1)?;
        ensure_shape!("sum_rows", x[0].shape.elements() > 0, "nothing to sum in {:?}", x[0]);
        Ok(vec![Spec::f32([x[0].shape.last()])])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let channels = x[0].shape.last();
        let mut sum = vec![0.0; channels];
        for row in x[0].data.chunks_exact(channels) {
            for (s, v) in sum.iter_mut().zip(row) {
                *s += v;
            }
        }
        vec![Array::new([channels], sum)]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        Cost { other_flops: x[0].shape.elements() as u64, ..Cost::of_traffic(x, y) }
    }

    fn candidates(&self, x: &[Spec], _y: &[Spec], _caps: &Caps) -> Vec<Candidate> {
        let (rows, channels) = (x[0].shape.rows(), x[0].shape.last());
        // √rows splits of √rows rows: the two launches are equally deep.
        let rows_per_split = rows.isqrt().max(1);
        let splits = rows.div_ceil(rows_per_split);
        let input = (Operand::Input(0), x[0].dtype);
        in_splits(splits, &[channels], |y| sum_into_splits(input, y[0], rows, channels, rows_per_split))
            .into()
    }

    fn sums_rows(&self) -> bool {
        true
    }
}

/// Test cases. No gradient: it is one.
pub fn cases() -> Vec<Case> {
    let shapes: [&[usize]; 7] = [&[1], &[7], &[1, 5], &[41, 3], &[2, 5, 7, 12], &[3, 17, 19, 32], &[130, 1]];
    let mut cases: Vec<Case> = shapes
        .into_iter()
        .flat_map(|s| {
            let name = format!("{}", crate::tensor::Shape::new(s));
            Case::new(name, SumRows, &[Spec::f32(s)]).no_gradient().and_in_f16(&[0])
        })
        .collect();
    // Two splits of 4,194,305 channels, 64 to a workgroup: past the limit of one dimension.
    cases.push(
        Case::new("past 65535 workgroups", SumRows, &[Spec::f32([2, 4_194_305])]).no_gradient().large(),
    );
    cases
}
