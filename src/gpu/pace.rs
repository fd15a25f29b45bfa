//! How much work a submission may hold, by how fast the device was so far.

/// Seconds that a submission may take: a quarter of the two after which Windows resets a device, and 5000 times the 0.1 ms that
/// submitting costs.
const SECONDS: f64 = 0.5;

/// Floating-point operations of a submission before any has run: a slow integrated GPU (some 0.3 TFLOP/s in our kernels) takes
/// a third of a second for them.
const AT_FIRST: u64 = 100_000_000_000;

/// Neither less than a hundredth of what it begins with, nor more than a hundred times as much.
const LEAST: u64 = AT_FIRST / 100;
const MOST: u64 = AT_FIRST * 100;

/// Measured seconds from which on the speed is believed.
const ENOUGH_SECONDS: f64 = 0.05;

/// What is kept of earlier submissions with each new one. The host may learn late that one is done, so that its time contains that
/// of those behind it: only sums over several are right.
const KEPT: f64 = 0.9;

/// Work and time of the submissions so far, the latest counting most.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    flops: f64,
    seconds: f64,
    /// Of all submissions alike.
    measured: f64,
}

impl Pace {
    /// A submission of so much work was busy for so long.
    pub(super) fn add(&mut self, flops: u64, seconds: f64) {
        self.flops = self.flops * KEPT + flops as f64;
        self.seconds = self.seconds * KEPT + seconds;
        self.measured += seconds;
    }

    /// Floating-point operations after which a submission ends.
    pub(super) fn submission_flops(&self) -> u64 {
        if self.measured < ENOUGH_SECONDS || self.seconds <= 0.0 {
            return AT_FIRST;
        }
        ((self.flops / self.seconds * SECONDS) as u64).clamp(LEAST, MOST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_submission_takes_half_a_second_on_any_device() {
        let mut pace = Pace::default();
        assert_eq!(pace.submission_flops(), AT_FIRST);
        pace.add(10_000_000_000, 0.01);
        assert_eq!(pace.submission_flops(), AT_FIRST, "a hundredth of a second tells nothing");
        // 20 TFLOP/s: at 1e11 operations each, a step of `cifar` is cut into 48.
        for _ in 0..50 {
            pace.add(100_000_000_000, 0.005);
        }
        let flops = pace.submission_flops() as f64;
        assert!((flops / 1e13 - 1.0).abs() < 0.05, "{flops}");
        // The same device learnt of late: one submission seems to have taken the time of three.
        for seconds in [0.6, 0.0, 0.0].into_iter().cycle().take(60) {
            pace.add(4_000_000_000_000, seconds);
        }
        let flops = pace.submission_flops() as f64;
        assert!((flops / 1e13 - 1.0).abs() < 0.15, "{flops}");
        for _ in 0..100 {
            pace.add(1_000_000, 1.0);
        }
        assert_eq!(pace.submission_flops(), LEAST);
    }
}
