//! Degradations without noise (`shaders/degrade.wgsl`): blur, and loss of resolution.

use super::{Case, Fill, expect_f32};
use crate::ensure_shape;
use crate::graph::{Candidate, Caps, Cost, Dispatch, Op, Operand, Program, ShapeError};
use crate::shader::Source;
use crate::tensor::{Array, Shape, Spec};
use std::f64::consts::PI;

static SHADER: Source = crate::wgsl!("degrade");

/// D(x, s) of Bansal et al. (arXiv 2208.09392, section 3.1) for degradations that are linear and treat rows and columns
/// apart: y_n = A_s x_n B_sᵀ with s = severity_n, channel by channel.
///
/// Inputs [x (N, H, W, C), severity (N), A (S, H, H), B (S, W, W)]; output (N, H, W, C). Severities are whole numbers in
/// f32, as what conditions a network; one past the last counts as the last.
#[derive(Debug, Clone)]
pub struct Degrade;

/// The matrices (S, side, side) of Gaussian blurs with these variances, in square pixels: entry \[s, i, j\] is the weight
/// of pixel j in pixel i.
///
/// The weights are those of the heat equation on a line of pixels that no heat leaves,
///
/// M_v = Σ_k exp(-v (1 - cos(π k / side))) c_k c_kᵀ,   c_k\[i\] ∝ cos(π k (i + ½) / side).
///
/// Without edges that is e^{-v} I_{|i-j|}(v), the discrete Gaussian, whose variance is v exactly (Lindeberg, "Scale-space
/// for discrete signals", PAMI 1990); the edges mirror it, with the edge pixel doubled. So M_u M_v = M_{u+v} without any
/// error of truncation or sampling, the mean of a picture stays, and v → ∞ leaves the mean alone.
pub fn blur_matrices(side: usize, variances: &[f64]) -> Array {
    let n = side as f64;
    Array::from_fn(&Shape::new([variances.len(), side, side]), |e| {
        let (v, i, j) = (variances[e / (side * side)], e / side % side, e % side);
        if v == 0.0 {
            return f64::from(u8::from(i == j));
        }
        let term = |k: usize| {
            let frequency = PI * k as f64 / n;
            let wave = |at: usize| (frequency * (at as f64 + 0.5)).cos();
            let norm = if k == 0 { 1.0 } else { 2.0 };
            norm / n * (-v * (1.0 - frequency.cos())).exp() * wave(i) * wave(j)
        };
        (0..side).map(term).sum()
    })
}

/// The matrices (severities, side, side) that put, for severity s, the mean of each block of 2^s pixels in place of its
/// pixels. Blocks begin at multiples of 2^s; the last is shorter where 2^s does not divide the side, and its mean is that
/// of the pixels it has. So a coarser one swallows a finer one, M_s M_r = M_max(r, s), and one block is the mean.
pub fn downsample_matrices(side: usize, severities: usize) -> Array {
    Array::from_fn(&Shape::new([severities, side, side]), |e| {
        let (s, i, j) = (e / (side * side), e / side % side, e % side);
        // A block of 2^63 pixels is longer than any side.
        let block = 1usize << s.min(63);
        let first = i - i % block;
        let length = block.min(side - first);
        if j >= first && j - first < length { 1.0 / length as f64 } else { 0.0 }
    })
}

/// One launch along an axis of `length` places that lie `stride` elements apart.
fn along(x: &Shape, length: usize, stride: usize, severities: usize) -> Dispatch {
    Dispatch::new(&SHADER, "degrade")
        .bind("severity", Operand::Input(1))
        .param("count", x.elements())
        .param("item", x.elements() / x[0])
        .param("length", length)
        .param("stride", stride)
        .param("severities", severities)
        .linear(x.elements(), 64)
}

impl Op for Degrade {
    fn name(&self) -> &'static str {
        "degrade"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        let op = "degrade";
        expect_f32(op, x, 4)?;
        let shape = &x[0].shape;
        let pictures = shape.rank() == 4 && shape.elements() > 0;
        ensure_shape!(op, pictures, "x must be (N, H, W, C), found {shape}");
        let batch = Spec::f32([shape[0]]);
        ensure_shape!(op, x[1] == batch, "the severities must be {batch:?}, found {:?}", x[1]);
        for (matrices, side) in [(&x[2].shape, shape[1]), (&x[3].shape, shape[2])] {
            let fits = matrices.rank() == 3 && matrices[0] > 0 && matrices.axes()[1..] == [side, side];
            ensure_shape!(op, fits, "the matrices must be (severities, {side}, {side}), found {matrices}");
        }
        let (rows, columns) = (x[2].shape[0], x[3].shape[0]);
        ensure_shape!(op, rows == columns, "rows have {rows} severities, but columns {columns}");
        Ok(vec![x[0].clone()])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let [picture, severity, rows, columns] = std::array::from_fn(|i| &x[i]);
        let shape = &picture.shape;
        let (height, width, channels) = (shape[1], shape[2], shape[3]);
        let mut y = picture.clone();
        for (matrices, length, stride) in [(rows, height, width * channels), (columns, width, channels)] {
            let before = y;
            y = Array::from_fn(shape, |e| {
                let s = (severity.data[e / (height * width * channels)] as usize).min(matrices.shape[0] - 1);
                let i = e / stride % length;
                let row = &matrices.data[(s * length + i) * length..][..length];
                (0..length).map(|j| row[j] * before.data[e - i * stride + j * stride]).sum()
            });
        }
        vec![y]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        let shape = &x[0].shape;
        Cost::elementwise(x, y, 2 * (shape[1] + shape[2]) as u64)
    }

    fn candidates(&self, x: &[Spec], _y: &[Spec], _caps: &Caps) -> Vec<Candidate> {
        let (shape, severities) = (&x[0].shape, x[2].shape[0]);
        let between = Operand::Scratch(0);
        let rows = along(shape, shape[1], shape[2] * shape[3], severities)
            .bind("x", Operand::Input(0))
            .bind("matrices", Operand::Input(2))
            .bind("y", between);
        let columns = along(shape, shape[2], shape[3], severities)
            .bind("x", between)
            .bind("matrices", Operand::Input(3))
            .bind("y", Operand::Output(0));
        Program { scratch: vec![Spec::f32([shape.elements()])], dispatches: vec![rows, columns] }.into()
    }
}

/// Test cases.
pub fn cases() -> Vec<Case> {
    let variances = [0.0, 0.3, 2.0, 40.0, 1e4];
    let case = |name: &str, shape: [usize; 4], severities: &[f64], matrices: &dyn Fn(usize) -> Array| {
        let [n, h, w, _] = shape;
        let (rows, columns) = (matrices(h), matrices(w));
        let of = |a: &Array| Spec::f32(a.shape.axes());
        let given: Vec<f64> = severities.iter().copied().cycle().take(n).collect();
        let inputs = [Spec::f32(shape), Spec::f32([n]), of(&rows), of(&columns)];
        Case::new(format!("{name}, {:?}", inputs[0]), Degrade, &inputs)
            .fill(1, Fill::Values(given))
            .fill(2, Fill::Values(rows.data))
            .fill(3, Fill::Values(columns.data))
            .no_gradient()
    };
    let blur = |side: usize| blur_matrices(side, &variances);
    let blocks = |side: usize| downsample_matrices(side, variances.len());
    // Every severity, out of order, and one past the last.
    let severities = [4.0, 0.0, 2.0, 1.0, 3.0, 9.0];
    let mut cases = Vec::new();
    for shape in [[1, 1, 1, 1], [2, 1, 7, 3], [6, 5, 7, 3], [6, 16, 16, 1], [7, 13, 4, 2], [3, 41, 47, 1]] {
        cases.push(case("blur", shape, &severities, &blur));
        cases.push(case("downsample", shape, &severities, &blocks));
    }
    cases.push(case("untouched", [3, 9, 6, 3], &[0.0], &blur).tolerance(crate::tensor::Tolerance::EXACT));
    // 64 elements in each of 65625 workgroups: past the limit of one dimension.
    cases.push(case("past 65535 workgroups", [70_000, 6, 10, 1], &severities, &blur).large());
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    fn product(a: &[f64], b: &[f64], side: usize) -> Vec<f64> {
        let entry = |e: usize| (0..side).map(|k| a[e / side * side + k] * b[k * side + e % side]).sum();
        (0..side * side).map(entry).collect()
    }

    fn furthest(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
    }

    /// e^{-v} I_d(v) by its power series.
    fn discrete_gaussian(v: f64, d: usize) -> f64 {
        let mut term = (1..=d).fold((-v).exp(), |term, k| term * 0.5 * v / k as f64);
        let mut sum = 0.0;
        for m in 1..200 {
            sum += term;
            term *= 0.25 * v * v / (m * (m + d)) as f64;
        }
        sum
    }

    #[test]
    fn a_blur_is_the_discrete_gaussian_mirrored_at_the_edges() {
        for (side, v) in [(9, 0.4), (16, 3.0), (5, 20.0)] {
            let found = blur_matrices(side, &[v]).data;
            let expected: Vec<f64> = (0..side * side)
                .map(|e| {
                    let (i, j) = (e / side, (e % side).cast_signed());
                    let period = 2 * side.cast_signed();
                    // Pixel j and its mirror image, again and again.
                    (-20..=20)
                        .flat_map(|n| [n * period + j, n * period - 1 - j])
                        .map(|at| discrete_gaussian(v, at.abs_diff(i.cast_signed())))
                        .sum()
                })
                .collect();
            assert!(furthest(&found, &expected) < 1e-14, "{side} {v}");
        }
    }

    #[test]
    fn blurs_one_after_another_are_one_blur() {
        let side = 13;
        let m = blur_matrices(side, &[0.0, 0.7, 2.3, 3.0, 1e6]).data;
        let [untouched, a, b, both, all] = std::array::from_fn(|s| &m[s * side * side..][..side * side]);
        assert!(furthest(&product(a, b, side), both) < 1e-15);
        assert_eq!(product(untouched, a, side), a);
        assert!(all.iter().all(|&w| (w - 1.0 / 13.0).abs() < 1e-15));
        for row in both.chunks(side) {
            assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-14 && row.iter().all(|&w| w > 0.0));
        }
    }

    #[test]
    fn blocks_average_what_they_have() {
        let matrices = downsample_matrices(5, 70).data;
        let apply = |s: usize, x: &[f64]| -> Vec<f64> {
            (0..5).map(|i| (0..5).map(|j| matrices[(s * 5 + i) * 5 + j] * x[j]).sum()).collect()
        };
        let x = [1.0, 3.0, 5.0, 7.0, 20.0];
        assert_eq!(apply(0, &x), x);
        assert_eq!(apply(1, &x), [2.0, 2.0, 6.0, 6.0, 20.0]);
        assert_eq!(apply(2, &x), [4.0, 4.0, 4.0, 4.0, 20.0]);
        for s in [3, 63, 69] {
            assert!(furthest(&apply(s, &x), &[7.2; 5]) < 1e-14, "{s}");
        }
        for (r, s) in [(1, 2), (2, 1), (1, 3)] {
            assert!(furthest(&apply(s, &apply(r, &x)), &apply(r.max(s), &x)) < 1e-14);
        }
    }

    #[test]
    fn wrong_shapes_are_named() {
        let refused = |i: usize, spec: Spec, words: &str| {
            let mut x = [[2, 3, 4, 1].as_slice(), &[2], &[5, 3, 3], &[5, 4, 4]].map(Spec::f32);
            assert!(Degrade.infer(&x).is_ok());
            x[i] = spec;
            let message = Degrade.infer(&x).unwrap_err().to_string();
            assert!(message.contains(words), "{message}");
        };
        refused(0, Spec::f32([2, 3, 4]), "x must be (N, H, W, C), found (2, 3, 4)");
        refused(1, Spec::f32([3]), "the severities must be f32(2), found f32(3)");
        refused(1, Spec::u32([2]), "input 1 must be f32");
        refused(2, Spec::f32([5, 3, 4]), "the matrices must be (severities, 3, 3), found (5, 3, 4)");
        refused(3, Spec::f32([0, 4, 4]), "the matrices must be (severities, 4, 4), found (0, 4, 4)");
        refused(3, Spec::f32([6, 4, 4]), "rows have 5 severities, but columns 6");
    }
}
