//! What the configurations of all networks have in common.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A configuration that no network can be built from.
#[derive(Debug, thiserror::Error)]
#[error("{field}: {message}")]
pub struct ConfigError {
    /// The offending field.
    pub field: &'static str,
    /// What was found, what was expected, and the remedy.
    pub message: String,
}

/// A picture's size: one number for a square, or `[height, width]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "one number, or [height, width]")]
pub enum Size {
    /// Height and width.
    Square(usize),
    /// Height, width.
    Rectangle([usize; 2]),
}

impl Size {
    /// Height and width.
    pub fn get(self) -> (usize, usize) {
        match self {
            Self::Square(side) => (side, side),
            Self::Rectangle([height, width]) => (height, width),
        }
    }
}

/// A picture's size as people write it: `64` for a square, or `96x64`, width first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct PictureSize {
    /// Pixels from left to right.
    pub width: usize,
    /// Pixels from top to bottom.
    pub height: usize,
}

/// In a file, a square is a number too.
#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "one number, or \"WIDTHxHEIGHT\"")]
enum Written {
    Side(usize),
    Text(String),
}

impl From<PictureSize> for Written {
    fn from(size: PictureSize) -> Self {
        if size.width == size.height { Self::Side(size.width) } else { Self::Text(size.to_string()) }
    }
}

impl TryFrom<Written> for PictureSize {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        match written {
            Written::Side(side) => Ok(Self { width: side, height: side }),
            Written::Text(text) => text.parse(),
        }
    }
}

impl FromStr for PictureSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (width, height) = text.split_once(['x', 'X', '×']).unwrap_or((text, text));
        match (width.trim().parse(), height.trim().parse()) {
            (Ok(width), Ok(height)) => Ok(Self { width, height }),
            _ => Err("expected one number, as 64, or WIDTHxHEIGHT, as 96x64".into()),
        }
    }
}

impl fmt::Display for PictureSize {
    fn fmt(&self, out: &mut fmt::Formatter) -> fmt::Result {
        write!(out, "{}x{}", self.width, self.height)
    }
}

impl From<PictureSize> for Size {
    fn from(size: PictureSize) -> Self {
        let PictureSize { width, height } = size;
        if width == height { Self::Square(width) } else { Self::Rectangle([height, width]) }
    }
}

/// Whether two sides can be halved so many times, each without a rest; if not, what was found and the nearest sides that
/// can.
///
/// # Errors
/// That message.
pub fn check_halving(sides: [usize; 2], times: usize) -> Result<(), String> {
    let factor = 1 << times;
    if sides.iter().all(|&side| side > 0 && side.is_multiple_of(factor)) {
        return Ok(());
    }
    let [a, b] = sides;
    let shown = |[a, b]: [usize; 2]| format!("{a}x{b}");
    let below = sides.map(|side| side / factor * factor);
    let above = sides.map(|side| side.max(1).checked_next_multiple_of(factor).unwrap_or(side));
    let near =
        if below.contains(&0) { shown(above) } else { format!("{} or {}", shown(below), shown(above)) };
    Err(format!(
        "{a}x{b} does not halve {times} times, once less than there are levels; both sides must be positive multiples of \
         {factor}, as {near}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_as_people_write_them() {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        struct File {
            size: PictureSize,
        }
        let wide = File { size: PictureSize { width: 96, height: 64 } };
        assert_eq!(toml::to_string(&wide).unwrap(), "size = \"96x64\"\n");
        assert_eq!(Size::from(wide.size).get(), (64, 96));
        for text in ["size = \"96x64\"", "size = \"96 X 64\"", "size = \"96×64\""] {
            assert_eq!(toml::from_str::<File>(text).unwrap(), wide);
        }
        let square = File { size: "64".parse().unwrap() };
        assert_eq!(toml::to_string(&square).unwrap(), "size = 64\n");
        assert_eq!(toml::from_str::<File>("size = 64").unwrap(), square);
        assert_eq!(Size::from(square.size), Size::Square(64));
        for text in ["", "x", "64x", "-4", "64x64x3", "6.4", "99999999999999999999"] {
            assert!(text.parse::<PictureSize>().unwrap_err().contains("WIDTHxHEIGHT"), "{text}");
        }
        assert!(toml::from_str::<File>("size = [64, 96]").unwrap_err().to_string().contains("WIDTHxHEIGHT"));
    }

    #[test]
    fn the_nearest_sides_that_halve_are_named() {
        assert!(check_halving([64, 96], 5).is_ok());
        for (sides, times, words) in [
            ([70, 48], 3, "70x48 does not halve 3 times"),
            ([70, 48], 3, "multiples of 8, as 64x48 or 72x48"),
            ([3, 16], 2, "as 4x16"),
            ([0, 16], 2, "as 4x16"),
            ([usize::MAX, 16], 4, "does not halve"),
        ] {
            let message = check_halving(sides, times).unwrap_err();
            assert!(message.contains(words), "{message}");
        }
    }
}
