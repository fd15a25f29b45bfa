//! When a difference is more than chance.

use crate::rng::{normal_cdf, normal_quantile};

/// How many standard errors a normal number is off, up or down, in a share `level` of all cases.
pub fn two_sided_limit(level: f64) -> f64 {
    normal_quantile(1.0 - 0.5 * level)
}

/// χ² of `freedom` degrees as standard errors of a normal number (Wilson & Hilferty, 1931).
pub fn chi_squared_score(chi_squared: f64, freedom: f64) -> f64 {
    let variance = 2.0 / (9.0 * freedom);
    ((chi_squared / freedom).cbrt() - (1.0 - variance)) / variance.sqrt()
}

/// The distance of Kolmogorov and Smirnov that two samples of `n` and `m` numbers from one distribution exceed in a
/// share `level` of all cases; for one sample and a known distribution `m` is infinite.
pub fn ks_limit(level: f64, n: f64, m: f64) -> f64 {
    (-0.5 * (0.5 * level).ln() * (1.0 / n + 1.0 / m)).sqrt()
}

/// The largest difference between the shares of two samples, both sorted, that lie below any number.
pub fn ks_distance(a: &[f32], b: &[f32]) -> f64 {
    let (mut i, mut j, mut distance) = (0, 0, 0.0f64);
    while i < a.len() && j < b.len() {
        let x = a[i].min(b[j]);
        i += a[i..].iter().take_while(|&&v| v <= x).count();
        j += b[j..].iter().take_while(|&&v| v <= x).count();
        distance = distance.max((i as f64 / a.len() as f64 - j as f64 / b.len() as f64).abs());
    }
    distance
}

/// The same between a sorted sample and the standard normal distribution.
pub fn ks_distance_to_normal(sorted: &[f32]) -> f64 {
    let n = sorted.len() as f64;
    let at = |(i, &x): (usize, &f32)| {
        let p = normal_cdf(x.into());
        (p - i as f64 / n).max((i + 1) as f64 / n - p)
    };
    sorted.iter().enumerate().map(at).fold(0.0, f64::max)
}

/// In order.
pub fn sorted(values: &[f32]) -> Vec<f32> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f32::total_cmp);
    sorted
}

/// Two-sided 95 % of the normal distribution.
const CONFIDENCE: f64 = 1.96;

/// A number and its standard error.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    pub(super) value: f64,
    pub(super) error: f64,
}

impl Measured {
    /// The mean of independent values.
    pub(super) fn mean(values: impl ExactSizeIterator<Item = f64> + Clone) -> Self {
        let n = values.len() as f64;
        let value = values.clone().sum::<f64>() / n;
        let variance = values.map(|x| (x - value).powi(2)).sum::<f64>() / (n - 1.0);
        Self { value, error: (variance / n).sqrt() }
    }

    /// The variance of independent vectors, summed over their components. Its error is that of a mean of squared
    /// distances.
    pub(super) fn variance(vectors: &[Vec<f64>]) -> Self {
        let n = vectors.len() as f64;
        let mean = |i: usize| vectors.iter().map(|v| v[i]).sum::<f64>() / n;
        let centre: Vec<f64> = (0..vectors[0].len()).map(mean).collect();
        let distance = |v: &Vec<f64>| v.iter().zip(&centre).map(|(x, c)| (x - c).powi(2)).sum::<f64>();
        let distances: Vec<f64> = vectors.iter().map(distance).collect();
        let Self { value, error } = Self::mean(distances.iter().copied());
        Self { value: value * n / (n - 1.0), error }
    }

    /// The geometric mean of independent numbers.
    pub(super) fn geometric_mean(numbers: &[Self]) -> Self {
        let n = numbers.len() as f64;
        let value = (numbers.iter().map(|r| r.value.ln()).sum::<f64>() / n).exp();
        let error = numbers.iter().map(|r| (r.error / r.value).powi(2)).sum::<f64>().sqrt() / n;
        Self { value, error: value * error }
    }

    /// The difference, in standard errors, from a number that is expected of this one.
    pub(super) fn deviation(self, expected: f64) -> f64 {
        ((self.value - expected) / self.error).abs()
    }

    /// The difference of independent numbers.
    pub(super) fn minus(self, other: Self) -> Self {
        Self { value: self.value - other.value, error: self.error.hypot(other.error) }
    }

    /// The ratio of independent numbers, by its logarithm's error.
    pub(super) fn over(self, other: Self) -> Self {
        let value = self.value / other.value;
        Self { value, error: value * (self.error / self.value).hypot(other.error / other.value) }
    }

    /// The number and the ends of its 95 % interval.
    pub(super) fn interval(self) -> [f64; 3] {
        [self.value, self.value - CONFIDENCE * self.error, self.value + CONFIDENCE * self.error]
    }
}

/// The p of error ∝ steps^-p by least squares of the logarithms.
pub(super) fn fitted_order(points: &[(f64, f64)]) -> f64 {
    let logs: Vec<(f64, f64)> = points.iter().map(|(steps, error)| (steps.ln(), error.ln())).collect();
    let count = logs.len() as f64;
    let (x, y) =
        (logs.iter().map(|p| p.0).sum::<f64>() / count, logs.iter().map(|p| p.1).sum::<f64>() / count);
    let slope = logs.iter().map(|p| (p.0 - x) * (p.1 - y)).sum::<f64>();
    -slope / logs.iter().map(|p| (p.0 - x).powi(2)).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Philox, Stream};

    #[test]
    fn limits_are_two_sided() {
        assert!((two_sided_limit(0.05) - 1.959_963_985).abs() < 1e-8);
        assert!((two_sided_limit(1e-5) - 4.417_173_413).abs() < 1e-8);
    }

    /// From tables: the 99.9th percentile of χ² with 100 degrees is 149.449, Kolmogorov's distribution has its 95th at
    /// 1.3581.
    #[test]
    fn limits_are_those_of_tables() {
        assert!((chi_squared_score(149.449, 100.0) - 3.0902).abs() < 5e-3);
        assert!((ks_limit(0.05, 1.0, f64::INFINITY) - 1.3581).abs() < 1e-4);
        assert!((ks_limit(0.05, 2.0, 2.0) - 1.3581).abs() < 1e-4);
    }

    #[test]
    fn distances_by_hand() {
        assert_eq!(ks_distance(&[1.0, 2.0, 3.0, 4.0], &[1.0, 2.0, 3.0, 4.0]), 0.0);
        assert_eq!(ks_distance(&[1.0, 1.0, 2.0], &[1.0, 3.0]), 0.5);
        assert_eq!(ks_distance(&[5.0, 6.0], &[1.0]), 1.0);
        assert!((ks_distance_to_normal(&[0.0]) - 0.5).abs() < 1e-12);
        assert!((ks_distance_to_normal(&[9.0, 9.0]) - 1.0).abs() < 1e-12);
    }

    /// The limit is exceeded about as often as it says, and a shift by a tenth is seen.
    #[test]
    fn the_limit_is_exceeded_as_often_as_it_says() {
        let mut rng = Philox::new(1, Stream::Cases, 0);
        let mut draw = |n: usize| sorted(&(0..n).map(|_| rng.normal() as f32).collect::<Vec<_>>());
        let beyond = |distance: f64, m: f64| usize::from(distance > ks_limit(0.1, 400.0, m));
        let (mut two, mut one) = (0, 0);
        for _ in 0..400 {
            let (a, b) = (draw(400), draw(400));
            two += beyond(ks_distance(&a, &b), 400.0);
            one += beyond(ks_distance_to_normal(&a), f64::INFINITY);
        }
        // 40 of 400 with a standard error of 6; the limits are for large samples, and 400 has a little less.
        assert!((15..=60).contains(&two) && (15..=60).contains(&one), "{two} {one}");
        let shifted: Vec<f32> = draw(4000).iter().map(|x| x + 0.1).collect();
        assert!(ks_distance_to_normal(&shifted) > ks_limit(0.001, 4000.0, f64::INFINITY));
    }

    #[test]
    fn orders_and_errors_are_fitted() {
        let curve: Vec<(f64, f64)> = [10.0, 20.0, 40.0].map(|n: f64| (n, 3.0 * n.powf(-1.5))).to_vec();
        assert!((fitted_order(&curve) - 1.5).abs() < 1e-12);
        let Measured { value, error } = Measured::mean([1.0, 2.0, 3.0, 4.0].into_iter());
        assert!(value == 2.5 && (error - (5.0f64 / 12.0).sqrt()).abs() < 1e-12);
        // ln 2 and ln 8, each known to 0.1: half their sum is ln 4, known to 0.1 / √2.
        let numbers = [2.0, 8.0].map(|value| Measured { value, error: 0.1 * value });
        let Measured { value, error } = Measured::geometric_mean(&numbers);
        assert!((value - 4.0).abs() < 1e-12 && (error / value - 0.1 / 2f64.sqrt()).abs() < 1e-12);
    }
}
