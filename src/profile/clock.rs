//! Whether timestamps can be trusted. Some drivers give zeros, some run backwards, some are off by a factor.

use std::fmt;

/// What is wrong with the timestamps of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ClockFault {
    /// No launch took any time.
    StoodStill,
    /// One was earlier than the one before it.
    Backwards,
    /// From the first to the last, they claim more seconds than the host waited.
    TooLong {
        /// What they claim.
        claimed: f64,
        /// What the host waited.
        waited: f64,
    },
    /// They claim less than half of what the host waited.
    TooShort {
        /// What they claim.
        claimed: f64,
        /// What the host waited.
        waited: f64,
    },
}

impl fmt::Display for ClockFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StoodStill => write!(f, "no launch took any time by it"),
            Self::Backwards => write!(f, "it ran backwards"),
            Self::TooLong { claimed, waited } | Self::TooShort { claimed, waited } => {
                write!(
                    f,
                    "by it a step took {:.3} ms, but the host waited {:.3} ms",
                    claimed * 1e3,
                    waited * 1e3
                )
            }
        }
    }
}

/// What the host's clock and the device's may differ by: seconds, beside 5 per cent.
const SLACK: f64 = 1e-3;

/// Steps shorter than this may have spent most of the wait on the way to the device and back: seconds.
const SHORT: f64 = 10e-3;

/// Checks the begin and end of each launch of a step, in ticks and in the order of the launches, against the seconds that the host
/// waited: from the step's begin on, and from the first submission on.
pub fn check(ticks: &[[u64; 2]], tick_seconds: f64, [step, submitted]: [f64; 2]) -> Result<(), ClockFault> {
    let (Some([first, _]), Some([_, last])) = (ticks.first(), ticks.last()) else { return Ok(()) };
    // A launch may begin before the one before it has ended, but not before that began.
    let backwards =
        ticks.iter().any(|[begin, end]| end < begin) || ticks.windows(2).any(|w| w[1][0] < w[0][0]);
    if backwards || last < first {
        return Err(ClockFault::Backwards);
    }
    if ticks.iter().all(|[begin, end]| begin == end) {
        return Err(ClockFault::StoodStill);
    }
    let claimed = (last - first) as f64 * tick_seconds;
    // The device may have begun before the host was back from submitting.
    if claimed > 1.05 * step + SLACK {
        return Err(ClockFault::TooLong { claimed, waited: step });
    }
    if submitted > SHORT && claimed < 0.5 * submitted {
        return Err(ClockFault::TooShort { claimed, waited: submitted });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 20 ms in launches of 4 ms with gaps of 1 ms, at a nanosecond a tick.
    const GOOD: [[u64; 2]; 4] = [
        [7_000_000, 11_000_000],
        [12_000_000, 16_000_000],
        [17_000_000, 21_000_000],
        [22_000_000, 27_000_000],
    ];

    #[test]
    fn timestamps_are_held_against_the_host() {
        assert_eq!(check(&GOOD, 1e-9, [0.022, 0.021]), Ok(()));
        assert_eq!(check(&[], 1e-9, [0.022, 0.021]), Ok(()));
        // Launches that do not depend on each other overlap.
        let mut overlapping = GOOD;
        overlapping[1][0] = 10_000_000;
        assert_eq!(check(&overlapping, 1e-9, [0.022, 0.021]), Ok(()));
        assert_eq!(check(&[[0, 0]; 4], 1e-9, [0.022, 0.021]), Err(ClockFault::StoodStill));
        assert_eq!(check(&[[5, 5], [9, 9]], 1e-9, [0.022, 0.021]), Err(ClockFault::StoodStill));
        let mut swapped = GOOD;
        swapped[2].reverse();
        assert_eq!(check(&swapped, 1e-9, [0.022, 0.021]), Err(ClockFault::Backwards));
        let mut late = GOOD;
        late.swap(1, 2);
        assert_eq!(check(&late, 1e-9, [0.022, 0.021]), Err(ClockFault::Backwards));
        // A counter of few bits that begins anew.
        let mut wrapped = GOOD;
        wrapped[3] = [10, 20];
        assert_eq!(check(&wrapped, 1e-9, [0.022, 0.021]), Err(ClockFault::Backwards));
        // The period of a tick is wrong.
        assert!(matches!(check(&GOOD, 83e-9, [0.022, 0.021]), Err(ClockFault::TooLong { .. })));
        assert!(matches!(check(&GOOD, 1e-10, [0.022, 0.021]), Err(ClockFault::TooShort { .. })));
        // A short step is mostly the way to the device.
        assert_eq!(check(&[[0, 10_000]], 1e-9, [0.001, 0.001]), Ok(()));
    }
}
