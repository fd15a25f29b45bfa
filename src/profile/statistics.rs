//! Middles and bands of repeated measurements.

use serde::{Deserialize, Serialize};

/// A repeated measurement, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Seconds {
    /// The middle.
    pub median: f64,
    /// 5 per cent are below.
    pub p5: f64,
    /// 5 per cent are above.
    pub p95: f64,
}

impl Seconds {
    /// Of at least one measurement.
    pub fn of(samples: &[f64]) -> Self {
        let sorted = sorted(samples);
        Self { median: quantile(&sorted, 0.5), p5: quantile(&sorted, 0.05), p95: quantile(&sorted, 0.95) }
    }
}

pub(super) fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// The quantile q in [0, 1] of sorted numbers, between two of them in proportion; 0 of none.
pub(super) fn quantile(sorted: &[f64], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let place = q.clamp(0.0, 1.0) * last as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(last);
    sorted[below] + (sorted[above] - sorted[below]) * (place - below as f64)
}

pub(super) fn median(samples: &[f64]) -> f64 {
    quantile(&sorted(samples), 0.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_measurements() {
        let s = Seconds::of(&[5.0, 1.0, 2.0, 4.0, 3.0]);
        assert_eq!((s.median, s.p5, s.p95), (3.0, 1.2, 4.8));
        assert_eq!(median(&[1.0, 2.0]), 1.5);
        assert_eq!(Seconds::of(&[7.0]), Seconds { median: 7.0, p5: 7.0, p95: 7.0 });
    }
}
