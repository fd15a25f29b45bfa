//! In which type a network stores what it computes.

use crate::tensor::DType;
use serde::{Deserialize, Serialize};

/// The type of activations, of their gradients, and of the weights that products read. Weights as the optimizer knows them,
/// biases, the parameters of norms, statistics, sums, gradients of weights and losses are f32 in either (mixed precision:
/// Micikevicius et al., arXiv 1710.03740).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Single precision
    #[default]
    F32,
    /// Half precision: half the memory and traffic; training scales the loss, so that small gradients are not rounded to zero
    F16,
}

impl Precision {
    /// As flags and files have it.
    pub fn name(self) -> &'static str {
        self.dtype().name()
    }

    /// The type.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
        }
    }
}
