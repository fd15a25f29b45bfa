//! The mathematics of diffusion on the host: noise schedules, what the network predicts, samplers as
//! coefficients of one kernel, and the U-Net from its configuration.

mod config;
mod sampler;
mod schedule;
mod unet;

pub use config::{ConfigError, DownBlock, Preset, Size, TimeScaleShift, UNetConfig, UpBlock};
pub use sampler::{Sampler, SamplerOptions, SamplerStep, sampler_steps};
pub use schedule::{BetaSchedule, NoiseSchedule, Prediction};
pub use unet::{Layout, Parameter, UNet};
