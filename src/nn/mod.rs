//! What networks are made of: parameters with their layout and initial values, and layers. A network is a tree of layers
//! over one list of parameters; the trainer, checkpoints and files of weights see the list and nothing else.

mod config;
mod layers;
mod parameters;
mod precision;

pub use config::{ConfigError, PictureSize, Size, check_halving};
pub use layers::{Builder, Conv, Linear, Norm};
pub use parameters::{Init, Layout, Parameter, ParameterId, Parameters, Weights};
pub use precision::Precision;

/// What training and storing a network need to know of it.
pub trait Network {
    /// Every parameter, in the order of the flat vector.
    fn parameters(&self) -> &Parameters;
}
