//! Sums over everything but the channels: the gradient of a bias (`shaders/sum_rows.wgsl`).

use super::{Case, expect_float, stored, vector_width};
use crate::ensure_shape;
use crate::graph::{Candidate, Caps, Cost, Dispatch, Op, Operand, Program, ShapeError};
use crate::shader::{Source, Variant};
use crate::tensor::{Array, DType, Spec};

static SHADER: Source = crate::wgsl!("sum_rows");

const INVOCATIONS: usize = 64;

/// Rows that an invocation should sum, one load after the other: a load from memory takes a GPU about half a microsecond.
const ROWS_EACH: usize = 32;

/// A launch of a sum over so many rows, for so many results: as many invocations share one as leaves each [`ROWS_EACH`], up to
/// eight, whose loads of eight neighbours fill a line of a cache.
fn shared(entry: &'static str, variant: Variant, rows: usize, results: usize) -> Dispatch {
    let together = rows.div_ceil(ROWS_EACH).next_power_of_two().min(8);
    let columns = INVOCATIONS / together;
    Dispatch::new(&SHADER, entry)
        .variant(variant.with("COLUMNS", format!("{columns}u")).with("ROWS", format!("{together}u")))
        .linear(results, columns)
}

/// Sums the (rows, channels) matrix `x`, stored in the type `dtype`, over each of so many splits of its rows, as equal as they can
/// be, into the f32 matrix `y`; those at the end may be empty.
pub(super) fn sum_into_splits(
    (x, dtype): (Operand, DType),
    y: Operand,
    rows: usize,
    channels: usize,
    splits: usize,
) -> Dispatch {
    let (width, variant) = vector_width(&[channels]);
    let (vectors, rows_per_split) = (channels / width, rows.div_ceil(splits));
    shared("sum_rows", stored(variant, dtype), rows_per_split, splits * vectors)
        .bind("x", x)
        .bind("y", y)
        .param("rows", rows)
        .param("vectors", vectors)
        .param("splits", splits)
        .param("rows_per_split", rows_per_split)
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
            shared("sum_both", variant, splits, vectors + vectors_b)
                .bind("x", parts[0])
                .bind("y", Operand::Output(0))
                .bind("x_b", parts[1])
                .bind("y_b", Operand::Output(1))
                .param("rows", splits)
                .param("vectors", vectors)
                .param("vectors_b", vectors_b)
        }
        _ => sum_into_splits((parts[0], DType::F32), Operand::Output(0), splits, results[0], 1),
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
        let splits = rows.isqrt();
        let input = (Operand::Input(0), x[0].dtype);
        in_splits(splits, &[channels], |y| sum_into_splits(input, y[0], rows, channels, splits)).into()
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
