//! inkwash trains and samples diffusion models on any vendor's GPU. Every operation of the mathematics is a
//! WGSL compute shader under `shaders/`, derivatives included; nothing else computes.
//!
//! The modules, in the order in which a training step passes through them:
//!
//! - [`tensor`]: shapes, element types, f64 arrays on the host, tolerances.
//! - [`rng`]: Philox random numbers by address.
//! - [`shader`]: WGSL files, their variants and what they bind.
//! - [`graph`]: operators as lists of facts, graphs of them, gradients, the plan, the f64 interpreter.
//! - [`ops`]: the catalogue, one file per operator.
//! - [`gpu`]: devices; the only place that names wgpu.
//! - [`nn`]: parameters and layers, which networks are made of.
//! - [`diffusion`]: noise schedules, samplers as coefficients, the U-Net from its configuration.
//! - [`classifier`]: a network that tells the class of a picture.
//! - [`data`]: pictures in. [`io`]: files in and out. [`model`]: trained networks on disk.
//! - [`train`]: tasks, the two graphs of a step, the loop, checkpoints. [`sample`]: the denoising loop.
//! - [`check`]: proof of the operators. [`verify`]: proof of the whole against PyTorch's numbers. [`bench`](mod@bench): their speed.
//!   [`profile`]: where the time of a step goes. [`isa`]: what a driver's compiler makes of a kernel. [`estimate`]: where the time
//!   would go on a GPU that is not at hand. [`scale`]: a step over several ranks, measured and modelled.
//! - [`lab`]: the article's experiments (feature `charts`).
//! - `web`: what a page calls (feature `web`, for the target wasm32).
//! - [`cli`]: one file per command (feature `cli`, which brings `charts` along). Only it prints, reads flags or catches
//!   signals.

#[cfg(not(target_arch = "wasm32"))]
pub mod bench;
pub mod check;
pub mod classifier;
#[cfg(feature = "cli")]
pub mod cli;
pub mod data;
pub mod diffusion;
#[cfg(not(target_arch = "wasm32"))]
pub mod estimate;
pub mod gpu;
pub mod graph;
pub mod io;
#[cfg(not(target_arch = "wasm32"))]
pub mod isa;
#[cfg(feature = "charts")]
pub mod lab;
pub mod model;
pub mod nn;
pub mod ops;
#[cfg(not(target_arch = "wasm32"))]
pub mod profile;
pub mod rng;
pub mod sample;
#[cfg(not(target_arch = "wasm32"))]
pub mod scale;
pub mod shader;
pub mod tensor;
pub mod train;
#[cfg(not(target_arch = "wasm32"))]
pub mod tune;
#[cfg(not(target_arch = "wasm32"))]
pub mod verify;
#[cfg(all(feature = "web", target_arch = "wasm32"))]
pub mod web;
