//! Middles and bands of repeated measurements.

use serde::{Deserialize, Serialize};
use std::f64::consts::FRAC_PI_2;
use std::ops::Range;

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

/// Cuts `runs` into `rounds` parts, as even as can be; at most one for each run.
pub(super) fn parts(runs: usize, rounds: usize) -> impl Iterator<Item = Range<usize>> {
    let rounds = rounds.clamp(1, runs.max(1));
    (0..rounds).map(move |round| round * runs / rounds..(round + 1) * runs / rounds)
}

/// How far a number of Student's t distribution of so many degrees of freedom lies from 0 at the most, but for this chance.
pub(super) fn student(chance: f64, degrees: f64) -> f64 {
    // With t = sqrt(degrees) tan(angle), the density of the angle is proportional to cos(angle)^(degrees - 1).
    let weight = |from: f64| {
        const STEPS: usize = 400;
        let width = (FRAC_PI_2 - from) / STEPS as f64;
        let middles = (0..STEPS).map(|i| from + (i as f64 + 0.5) * width);
        middles.map(|angle| angle.cos().powf(degrees - 1.0)).sum::<f64>() * width
    };
    let all = weight(0.0);
    let (mut low, mut high) = (0.0, FRAC_PI_2);
    for _ in 0..40 {
        let middle = 0.5 * (low + high);
        if weight(middle) > chance * all { low = middle } else { high = middle }
    }
    degrees.sqrt() * low.tan()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the tables of the distribution.
    #[test]
    fn students_distribution_has_heavier_tails_the_fewer_degrees_there_are() {
        for (chance, degrees, expected) in [(0.05, 10.0, 2.2281), (0.01, 4.0, 4.6041), (0.001, 14.0, 4.1405)]
        {
            let found = student(chance, degrees);
            assert!((found - expected).abs() < 1e-3, "{found} and {expected}");
        }
    }

    #[test]
    fn rounds_hold_every_run_once() {
        let of = |runs, rounds| parts(runs, rounds).map(|part| part.len()).collect::<Vec<_>>();
        assert_eq!(of(24, 6), [4; 6]);
        assert_eq!(of(5, 3), [1, 2, 2]);
        assert_eq!(of(2, 6), [1, 1]);
        assert!(parts(5, 3).flatten().eq(0..5));
    }

    #[test]
    fn quantiles_lie_between_measurements() {
        let s = Seconds::of(&[5.0, 1.0, 2.0, 4.0, 3.0]);
        assert_eq!((s.median, s.p5, s.p95), (3.0, 1.2, 4.8));
        assert_eq!(median(&[1.0, 2.0]), 1.5);
        assert_eq!(Seconds::of(&[7.0]), Seconds { median: 7.0, p5: 7.0, p95: 7.0 });
    }
}
