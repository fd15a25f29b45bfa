//! Numbers to bytes: which axis of an array is what, and what its values mean.

use super::super::MAX_SIDE;
use super::Problem;
use super::header::{Element, Kind};

/// How the pictures of an array lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pictures {
    pub count: usize,
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    channels_first: bool,
}

impl Pictures {
    /// By the shape alone; what could be read in two ways is refused.
    pub fn of(shape: &[usize]) -> Result<Self, Problem> {
        let wrong = |hint| Err(Problem::Shape { shape: shape.into(), hint, limit: MAX_SIDE });
        let channels = |size: usize| size == 1 || size == 3;
        let (count, height, width, channels, channels_first) = match *shape {
            [_, _, c] if channels(c) => {
                return wrong(", which looks like one picture (H, W, C): save x[None]");
            }
            [n, h, w] => (n, h, w, 1, false),
            [_, c, _, d] if channels(c) && channels(d) => {
                return wrong(", in which the channels could be the second size or the last");
            }
            [n, h, w, c] if channels(c) => (n, h, w, c, false),
            [n, c, h, w] if channels(c) => (n, h, w, c, true),
            [_, 4, _, _] | [_, _, _, 4] => {
                return wrong(", of four channels: lay the pictures on a background and keep three");
            }
            [_, _] => return wrong(", which may be pictures in rows: save x.reshape(N, H, W)"),
            _ => return wrong(""),
        };
        let sides = 1..=MAX_SIDE as usize;
        if count == 0 || !sides.contains(&height) || !sides.contains(&width) {
            return wrong("");
        }
        Ok(Self { count, height, width, channels, channels_first })
    }

    /// Bytes of one picture: channels last.
    pub fn bytes(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// Where the bytes of a picture, channels last, come from.
    pub fn order(&self) -> impl Iterator<Item = usize> {
        let (plane, channels, first) = (self.height * self.width, self.channels, self.channels_first);
        (0..self.bytes()).map(move |at| if first { at % channels * plane + at / channels } else { at })
    }
}

/// The values of an array.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    pub low: f64,
    pub high: f64,
}

/// How a number becomes a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    /// It is one.
    Bytes,
    /// 0 to 1: times 255.
    Unit,
    /// -1 to 1: plus 1, times 127.5.
    Signed,
    /// 0 to 65535: divided by 257.
    Wide,
}

impl Scale {
    /// The scale of an element whose type says it all.
    pub fn of_type(element: Element) -> Option<Self> {
        match (element.kind, element.bytes) {
            (Kind::Bool, _) => Some(Self::Unit),
            (Kind::Unsigned, 1) => Some(Self::Bytes),
            _ => None,
        }
    }

    /// The scale by the range of all values of the array.
    pub fn of_range(element: Element, Range { low, high }: Range) -> Result<Self, Problem> {
        let float = element.kind == Kind::Float;
        let wide = (element.kind, element.bytes) == (Kind::Unsigned, 2);
        let expected = match (float, wide) {
            (true, _) => "0 to 1, -1 to 1, or 0 to 255 with a value of at least 2",
            (_, true) => {
                "0 to 255, or 0 to 65535 with a value of at least 32768 (else the depth cannot be told)"
            }
            _ => "0 to 255",
        };
        let within = |from: f64, to: f64| from <= low && high <= to;
        match () {
            () if float && within(0.0, 1.0) => Ok(Self::Unit),
            () if float && within(-1.0, 1.0) => Ok(Self::Signed),
            () if within(0.0, 255.0) && (!float || high >= 2.0) => Ok(Self::Bytes),
            () if wide && high >= 32768.0 => Ok(Self::Wide),
            // As short as a person would write them.
            () => {
                Err(Problem::Range { element: element.name(), low: low as f32, high: high as f32, expected })
            }
        }
    }

    /// A value within the range that the scale is for.
    pub fn byte(self, value: f64) -> u8 {
        let value = match self {
            Self::Bytes => value,
            Self::Unit => value * 255.0,
            Self::Signed => (value + 1.0) * 127.5,
            Self::Wide => value / 257.0,
        };
        // Within 0 to 255, as the range was looked at.
        value.round() as u8
    }

    /// What was done, in words.
    pub fn describe(self, element: Element, range: Option<Range>) -> String {
        let rule = match self {
            Self::Bytes => "taken as they are, 0 black to 255 white",
            Self::Unit => "multiplied by 255",
            Self::Signed => "taken as -1 black to 1 white",
            Self::Wide => "divided by 257",
        };
        match range {
            Some(Range { low, high }) => {
                format!("{} values from {} to {}: {rule}", element.name(), low as f32, high as f32)
            }
            None => format!("{} values: {rule}", element.name()),
        }
    }
}
