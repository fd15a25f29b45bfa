//! What the configurations of all networks have in common.

use serde::{Deserialize, Serialize};

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
