//! What a run may take of a device's memory, and what it does to stay within it: settings of a run.

use crate::graph::Checkpointing;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Which activations are computed again in the backward pass instead of being kept for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum CheckpointingMode {
    /// The least recomputation that the memory budget allows; none without a budget.
    #[default]
    Auto,
    /// None.
    None,
    /// Those within a block; the inputs of blocks are kept.
    Blocks,
    /// Of every √n of n blocks, all but the inputs of the first.
    Full,
}

impl CheckpointingMode {
    /// What may be chosen from, with the least recomputation first.
    pub fn allowed(self, with_budget: bool) -> &'static [Checkpointing] {
        match self {
            Self::Auto if with_budget => &Checkpointing::ALL,
            Self::Auto | Self::None => &[Checkpointing::None],
            Self::Blocks => &[Checkpointing::Blocks],
            Self::Full => &[Checkpointing::Full],
        }
    }
}

impl From<Checkpointing> for CheckpointingMode {
    fn from(checkpointing: Checkpointing) -> Self {
        match checkpointing {
            Checkpointing::None => Self::None,
            Checkpointing::Blocks => Self::Blocks,
            Checkpointing::Full => Self::Full,
        }
    }
}

/// So many bytes, written as 6GiB, 512MiB or 8GB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ByteCount(pub u64);

const UNITS: [(&str, u64); 6] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1000),
];

impl FromStr for ByteCount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected =
            || format!("found `{text}`; expected a number with its unit, as 6GiB, 1.5GiB, 512MiB or 8GB");
        let lower = text.trim().to_lowercase();
        let (number, unit) = UNITS
            .iter()
            .find_map(|(name, unit)| Some((lower.strip_suffix(&name.to_lowercase())?, *unit)))
            .ok_or_else(expected)?;
        let bytes = number.trim().parse::<f64>().map_err(|_| expected())? * unit as f64;
        // Up to 2^50 every whole number is a number in f64.
        if bytes >= 1.0 && bytes <= (1u64 << 50) as f64 { Ok(Self(bytes as u64)) } else { Err(expected()) }
    }
}

impl TryFrom<String> for ByteCount {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<ByteCount> for String {
    fn from(bytes: ByteCount) -> Self {
        let whole = UNITS.iter().find(|(_, unit)| bytes.0.is_multiple_of(*unit));
        match whole {
            Some((name, unit)) => format!("{}{name}", bytes.0 / unit),
            // As a fraction of a KiB: a division by a power of two, which f64 keeps.
            None => format!("{}KiB", bytes.0 as f64 / 1024.0),
        }
    }
}

impl fmt::Display for ByteCount {
    /// Rounded, as people read it: `5.82 GiB`.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let (name, unit) = UNITS[..3].iter().find(|(_, unit)| self.0 >= *unit).unwrap_or(&UNITS[2]);
        write!(f, "{:.2} {name}", self.0 as f64 / *unit as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_written_as_people_write_them() {
        for (text, bytes) in [
            ("6GiB", 6 << 30),
            ("1.5 gib", 3 << 29),
            ("512MiB", 512 << 20),
            ("8GB", 8_000_000_000),
            ("1KiB", 1024),
        ] {
            let parsed: ByteCount = text.parse().unwrap();
            assert_eq!(parsed.0, bytes);
            assert_eq!(String::from(parsed).parse(), Ok(parsed), "{text}");
        }
        assert_eq!(String::from(ByteCount(6 << 30)), "6GiB");
        assert_eq!(String::from(ByteCount(1001)).parse(), Ok(ByteCount(1001)));
        assert_eq!(ByteCount((6 << 30) - 1).to_string(), "6.00 GiB");
        assert_eq!(ByteCount(3 << 19).to_string(), "1.50 MiB");
        for text in ["", "6", "GiB", "-1GiB", "0GiB", "nanGiB", "infGiB", "1e30GiB", "6 gigs"] {
            assert!(text.parse::<ByteCount>().unwrap_err().contains("6GiB"), "{text}");
        }
    }
}
