//! The only place that names wgpu: devices, buffers, pipelines, running a plan, reading back, timing.
//!
//! Whatever may wait for the device is an `async fn`, since a browser's page must not block. Programs that may block call
//! `.block_on()` on what it returns ([`Blocking`]).

mod adapter;
mod alone;
mod debugger;
mod device;
mod error;
mod executable;
mod faults;
mod pace;
mod pieces;
mod pipeline;
mod pipeline_cache;
mod store;
mod timing;

pub use adapter::{Info, list};
pub use alone::{Alone, Form, InParts};
pub use device::Device;
pub use error::{GpuError, RunError};
pub use executable::Executable;
pub use faults::{Call, Fault};
pub use pieces::Pieces;
/// Waits for a future by blocking the thread: for everything but browsers.
#[cfg(not(target_arch = "wasm32"))]
pub use pollster::FutureExt as Blocking;
pub use store::Store;
pub use timing::{Clock, Timing};

use crate::graph::Kernels;
use crate::shader::Folder;
use std::path::PathBuf;
use std::sync::Arc;

/// Which device to use.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// Part of an adapter's name (any case), or its number in the list of `inkwash doctor`; or several numbers with commas,
    /// for processes that share a machine.
    pub device: Option<String>,
    /// The number of this process among those that share a machine: each takes the next of the numbers, or of the adapters of
    /// the best kind, and begins again at the first where there are fewer.
    pub local_rank: usize,
    /// `vulkan`, `metal`, `dx12` or `gl`.
    pub backend: Option<String>,
    /// Overrides the algorithms that suit the device.
    pub kernels: Option<Kernels>,
    /// Plans leave every operator a launch of its own.
    pub no_fusion: bool,
    /// WebGPU's default limits, which every device has, in place of all that this one has.
    pub default_limits: bool,
    /// WGSL files in place of the embedded ones.
    pub shaders: Option<Arc<Folder>>,
    /// The folder in which the driver's compiled pipelines are kept from run to run, if they are.
    pub cache: Option<PathBuf>,
}
