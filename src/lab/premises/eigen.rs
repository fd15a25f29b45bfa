//! Eigenvalues and eigenvectors of a symmetric matrix.

/// Sweeps after which a matrix that is not diagonal has something that is not finite in it: convergence is quadratic, and
/// 256 rows take 8.
const SWEEPS: usize = 40;

/// The eigenvalues of a symmetric matrix, given by its `n` rows one after another, the largest first; and an eigenvector of
/// length 1 for each. Jacobi's method: every element off the diagonal in turn is made zero by a rotation in the plane of
/// its row and column, until all that is left of them is rounding (Golub & Van Loan, Matrix Computations, chapter 8).
pub(super) fn eigen(mut a: Vec<f64>, n: usize) -> Vec<(f64, Vec<f64>)> {
    let mut vectors: Vec<Vec<f64>> =
        (0..n).map(|i| (0..n).map(|k| f64::from(u8::from(i == k))).collect()).collect();
    let total: f64 = a.iter().map(|x| x * x).sum();
    let negligible = (f64::EPSILON / n as f64).powi(2) * total;
    for _ in 0..SWEEPS {
        let mut rotated = false;
        for p in 0..n {
            for q in p + 1..n {
                let off = a[p * n + q];
                if off * off <= negligible {
                    continue;
                }
                rotated = true;
                // The smaller of the two angles that do it: t = tan φ, t² + 2 t cot 2φ = 1.
                let cotangent = (a[q * n + q] - a[p * n + p]) / (2.0 * off);
                let t = cotangent.signum() / (cotangent.abs() + cotangent.hypot(1.0));
                let c = t.hypot(1.0).recip();
                let turn = |x: f64, y: f64| (c * (x - t * y), c * (t * x + y));
                for k in 0..n {
                    (a[k * n + p], a[k * n + q]) = turn(a[k * n + p], a[k * n + q]);
                }
                for k in 0..n {
                    (a[p * n + k], a[q * n + k]) = turn(a[p * n + k], a[q * n + k]);
                }
                let (before, from_q) = vectors.split_at_mut(q);
                for (x, y) in before[p].iter_mut().zip(&mut from_q[0]) {
                    (*x, *y) = turn(*x, *y);
                }
            }
        }
        if !rotated {
            break;
        }
    }
    let mut pairs: Vec<(f64, Vec<f64>)> =
        vectors.into_iter().enumerate().map(|(i, vector)| (a[i * n + i], vector)).collect();
    pairs.sort_by(|a, b| b.0.total_cmp(&a.0));
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::finite_set::dot;
    use crate::rng::{Philox, Stream};

    fn values(a: &[f64], n: usize) -> Vec<f64> {
        eigen(a.to_vec(), n).into_iter().map(|(value, _)| value).collect()
    }

    #[test]
    fn known_matrices() {
        assert_eq!(values(&[2.0, 0.0, 0.0, 3.0], 2), [3.0, 2.0]);
        let found = values(&[2.0, 1.0, 1.0, 2.0], 2);
        assert!((found[0] - 3.0).abs() < 1e-15 && (found[1] - 1.0).abs() < 1e-15, "{found:?}");
        // A chain of springs, -1 2 -1: 4 sin²(k π / (2 (n + 1))).
        let n: usize = 30;
        let chain: Vec<f64> = (0..n * n)
            .map(|i| match (i / n).abs_diff(i % n) {
                0 => 2.0,
                1 => -1.0,
                _ => 0.0,
            })
            .collect();
        for (k, value) in (1..=n).rev().zip(values(&chain, n)) {
            let expected = 4.0 * (k as f64 * std::f64::consts::PI / (2 * (n + 1)) as f64).sin().powi(2);
            assert!((value - expected).abs() < 1e-13, "{k}: {value} {expected}");
        }
        // All elements 1: rank one.
        let ones = values(&[1.0; 49], 7);
        assert!((ones[0] - 7.0).abs() < 1e-13 && ones[1..].iter().all(|v| v.abs() < 1e-13), "{ones:?}");
    }

    /// A x = λ x for each pair, and the vectors are perpendicular, of length 1.
    #[test]
    fn vectors_are_those_of_the_matrix() {
        let n = 23;
        let mut rng = Philox::new(3, Stream::Cases, 0);
        let mut a = vec![0.0; n * n];
        for i in 0..n {
            for k in 0..=i {
                a[i * n + k] = rng.normal();
                a[k * n + i] = a[i * n + k];
            }
        }
        let pairs = eigen(a.clone(), n);
        for (i, (value, vector)) in pairs.iter().enumerate() {
            for (row, x) in a.chunks_exact(n).zip(vector) {
                assert!((dot(row, vector) - value * x).abs() < 1e-12);
            }
            for (k, (_, other)) in pairs.iter().enumerate() {
                assert!((dot(vector, other) - f64::from(u8::from(i == k))).abs() < 1e-13);
            }
        }
    }
}
