//! What goes wrong on a device.

use crate::graph::{GraphError, PlanError};
use crate::shader::ShaderError;

/// What goes wrong on a device.
#[derive(Debug, thiserror::Error)]
pub enum GpuError {
    /// There is no adapter at all.
    #[error("no graphics adapter was found. {0}")]
    NoAdapter(String),
    /// There are adapters, but not the one that was asked for.
    #[error(
        "no adapter matches {wanted}; this machine has: {found}. Choose one of these with --device NAME|INDEX"
    )]
    NoMatch {
        /// What was asked for.
        wanted: String,
        /// What there is.
        found: String,
    },
    /// A backend name that wgpu does not have.
    #[error("unknown backend `{0}`: expected vulkan, metal, dx12 or gl")]
    UnknownBackend(String),
    /// The driver refused to make a device.
    #[error(
        "adapter {adapter} did not give a device: {message}. Update its driver, or choose another with --device"
    )]
    Request {
        /// The adapter.
        adapter: String,
        /// The driver's words.
        message: String,
    },
    /// Not enough device memory.
    #[error(
        "the device ran out of memory: {0}. Use a smaller batch (with --accumulate to keep the effective batch) or a \
         narrower model"
    )]
    OutOfMemory(String),
    /// A shader that does not compile or does not fit its operator.
    #[error(transparent)]
    Shader(#[from] ShaderError),
    /// A plan that does not fit the device.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// wgpu rejected a call, or the device was lost.
    #[error("the device failed: {0}")]
    Device(String),
    /// A tensor whose memory others have taken by the end of the run.
    #[error("`{tensor}` is not kept: make it an output of the graph to read it")]
    NotKept {
        /// The tensor.
        tensor: String,
    },
    /// Two plans disagree on the size of a state, or it was given other data.
    #[error("state `{name}` has {found} bytes, but {needed} are needed")]
    StateSize {
        /// The state.
        name: String,
        /// Its size.
        found: u64,
        /// The size that is needed.
        needed: u64,
    },
}

/// What stops a graph on its way through plan and device.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A defect in the network's graph.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// Too large for the device.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The device failed.
    #[error(transparent)]
    Gpu(#[from] GpuError),
}

impl From<wgpu::Error> for GpuError {
    /// wgpu's own words: memory is told from everything else, which is a defect or a lost device.
    fn from(error: wgpu::Error) -> Self {
        match error {
            wgpu::Error::OutOfMemory { source } => Self::OutOfMemory(source.to_string()),
            wgpu::Error::Validation { description, .. } | wgpu::Error::Internal { description, .. } => {
                Self::Device(description)
            }
        }
    }
}
