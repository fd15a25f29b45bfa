//! One axis of a chart, linear or logarithmic: its range, its ticks and their labels.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

/// About how many ticks an axis should have.
const TICKS: f64 = 7.0;
/// Values beyond this, or logarithmic ones below its inverse, have no place: arithmetic on them may overflow.
const LARGEST: f64 = 1e300;

/// An axis from `low` to `high`, with `low < high` and both finite, in units of the axis (see [`place`]).
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Axis {
    log: bool,
    low: f64,
    high: f64,
}

impl Axis {
    /// Whether an axis of this kind has a place for `value`.
    pub fn accepts(log: bool, value: f64) -> bool {
        value.abs() <= LARGEST && (!log || value >= LARGEST.recip())
    }

    /// The axis that spans `values`, which it must accept, with `margin` of its length to spare at either end. No
    /// values, or all the same, get some room too.
    pub fn spanning(log: bool, values: impl Iterator<Item = f64>, margin: f64) -> Axis {
        let (low, high) = values
            .map(|value| place(log, value))
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
        if low > high {
            return Axis { log, low: 0.0, high: 1.0 };
        }
        let (span, largest) = (high - low, low.abs().max(high.abs()));
        // A span so small that ticks would differ only in the last digits of a float counts as none.
        let spare = if span > (1e-9 * largest).max(LARGEST.recip()) {
            span * margin
        } else if log || largest <= LARGEST.recip() {
            0.5
        } else {
            0.1 * largest
        };
        Axis { log, low: low - spare, high: high + spare }
    }

    /// The values that get a grid line and a label.
    pub fn ticks(&self) -> Vec<f64> {
        let decades = self.high - self.low;
        let mantissas: &[f64] = if decades < 2.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let ticks: Vec<f64> = if self.even_ticks() {
            let (low, high) = self.values();
            multiples(low, high, tick_step(low, high)).collect()
        } else {
            multiples(self.low.floor(), self.high, (decades / TICKS).ceil())
                .flat_map(|power| mantissas.iter().map(move |mantissa| mantissa * 10_f64.powf(power)))
                .collect()
        };
        let slack = 1e-9 * (self.high - self.low);
        let range = self.low - slack..=self.high + slack;
        ticks.into_iter().filter(|&tick| range.contains(&place(self.log, tick))).collect()
    }

    /// The text for a tick, with as many digits as tell it from its neighbours.
    pub fn label(&self, tick: f64) -> String {
        let (low, high) = self.values();
        let (step, largest) =
            if self.even_ticks() { (tick_step(low, high), low.abs().max(high.abs())) } else { (tick, tick) };
        if tick.abs() < 1e-9 * largest {
            // A tick at nought may be off by a rounding error.
            "0".into()
        } else if (1e-4..1e6).contains(&largest) {
            format!("{tick:.*}", digits(-power_of_ten(step)))
        } else {
            format!("{tick:.*e}", digits(power_of_ten(tick) - power_of_ten(step)))
        }
    }

    /// Whether ticks are evenly spaced in value: also on a logarithmic axis too short for powers of ten.
    fn even_ticks(&self) -> bool {
        !self.log || self.high - self.low < 0.9
    }

    /// The values at the ends.
    fn values(&self) -> (f64, f64) {
        if self.log { (10_f64.powf(self.low), 10_f64.powf(self.high)) } else { (self.low, self.high) }
    }
}

/// Where a value lies in units of the axis: the value itself, or the power of ten on a logarithmic axis.
fn place(log: bool, value: f64) -> f64 {
    if log { value.log10() } else { value }
}

/// A number of decimals, from nought to a few.
fn digits(count: f64) -> usize {
    // A whole number within 0..=9 after the clamp, so the cast is exact.
    count.clamp(0.0, 9.0) as usize
}

/// The power of ten of a number's first digit. A hair is added for those that lie a rounding error below.
fn power_of_ten(value: f64) -> f64 {
    (value.abs().log10() + 1e-9).floor()
}

/// A step of 1, 2 or 5 times a power of ten that makes about [`TICKS`] of the range.
fn tick_step(low: f64, high: f64) -> f64 {
    let rough = (high - low) / TICKS;
    let power = 10_f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= rough * 0.999).unwrap_or(10.0);
    factor * power
}

/// The multiples of `step` from `low` to `high`, forty at most.
fn multiples(low: f64, high: f64, step: f64) -> impl Iterator<Item = f64> {
    let first = (low / step).ceil();
    (0..40_u8).map(move |index| (first + f64::from(index)) * step).take_while(move |&value| value <= high)
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (start, end): (i32, i32)) -> i32 {
        let part = ((place(self.log, *value) - self.low) / (self.high - self.low)).clamp(0.0, 1.0);
        let pixel = f64::from(start) + part * (f64::from(end) - f64::from(start));
        // Between `start` and `end`, so it fits.
        pixel.round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        self.ticks()
    }

    fn range(&self) -> Range<f64> {
        let (low, high) = self.values();
        low..high
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        self.label(*value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn labels(log: bool, low: f64, high: f64) -> Vec<String> {
        let axis = Axis::spanning(log, [low, high].into_iter(), 0.0);
        axis.ticks().into_iter().map(|tick| axis.label(tick)).collect()
    }

    #[test]
    fn ticks_are_round_numbers() {
        assert_eq!(labels(false, 0.0, 1.0), ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(labels(false, 0.0, 20_000.0), ["0", "5000", "10000", "15000", "20000"]);
        assert_eq!(labels(false, -0.03, 0.03), ["-0.03", "-0.02", "-0.01", "0", "0.01", "0.02", "0.03"]);
        assert_eq!(labels(false, 0.0, 4e6), ["0", "1e6", "2e6", "3e6", "4e6"]);
        assert_eq!(labels(true, 0.001, 10.0), ["0.001", "0.01", "0.1", "1", "10"]);
        assert_eq!(labels(true, 0.02, 0.6), ["0.02", "0.05", "0.1", "0.2", "0.5"]);
        assert_eq!(labels(true, 2.0, 3.0), ["2.0", "2.2", "2.4", "2.6", "2.8", "3.0"]);
        assert_eq!(labels(true, 1e-9, 1e-6), ["1e-9", "1e-8", "1e-7", "1e-6"]);
        assert_eq!(labels(true, 1.0, 1e30)[..3], ["1", "100000", "1e10"]);
    }

    #[test]
    fn values_without_a_span_get_room() {
        for (log, values) in
            [(false, vec![]), (true, vec![]), (false, vec![0.0]), (false, vec![-3.0; 5]), (true, vec![3.0])]
        {
            let axis = Axis::spanning(log, values.iter().copied(), 0.0);
            assert!(axis.low < axis.high && axis.ticks().len() >= 2, "{axis:?}");
            assert!(
                values.iter().all(|&value| axis.low < place(log, value) && place(log, value) < axis.high),
                "{axis:?}"
            );
        }
    }

    #[test]
    fn places_are_even() {
        let axis = Axis::spanning(true, [1.0, 100.0].into_iter(), 0.0);
        assert_eq!([1.0, 10.0, 100.0, 1e9].map(|value| axis.map(&value, (0, 200))), [0, 100, 200, 200]);
        let axis = Axis::spanning(false, [0.0, 10.0].into_iter(), 0.0);
        assert_eq!([0.0, 4.0].map(|value| axis.map(&value, (100, 0))), [100, 60]);
    }

    proptest! {
        #[test]
        fn any_axis_is_sound(log: bool, a: f64, b: f64) {
            let values: Vec<f64> = [a, b].into_iter().filter(|&value| Axis::accepts(log, value)).collect();
            let axis = Axis::spanning(log, values.iter().copied(), 0.05);
            prop_assert!(axis.low < axis.high && axis.low.is_finite() && axis.high.is_finite(), "{axis:?}");
            let ticks = axis.ticks();
            prop_assert!((2..25).contains(&ticks.len()), "{axis:?} {ticks:?}");
            for tick in ticks {
                prop_assert!((0..=300).contains(&axis.map(&tick, (0, 300))));
                prop_assert!((1..14).contains(&axis.label(tick).len()), "{axis:?} {}", axis.label(tick));
            }
        }
    }
}
