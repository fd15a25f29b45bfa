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
        "the device {device} ran out of memory: {message}. Use a smaller batch (with --accumulate to keep the effective \
         batch) or a narrower model, or end other programs that use the device"
    )]
    OutOfMemory {
        /// The device.
        device: String,
        /// The driver's words.
        message: String,
    },
    /// A shader that does not compile or does not fit its operator.
    #[error(transparent)]
    Shader(#[from] ShaderError),
    /// A plan that does not fit the device.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// wgpu rejected a call, or the device was lost.
    #[error(
        "the device {device} failed: {message}. Give the command again (`inkwash train --resume` goes on from a run's last \
         checkpoint); if it fails again, update the device's driver, or choose another device with --device"
    )]
    Device {
        /// The device.
        device: String,
        /// wgpu's words.
        message: String,
    },
    /// Nothing to capture with.
    #[error(
        "nothing can capture the device: no debugger is attached to this program by {backend}. Start it from one: \
         `renderdoccmd capture -w inkwash ...` (Vulkan, Direct3D 12), or Xcode, or METAL_CAPTURE_ENABLED=1 (Metal)"
    )]
    NoDebugger {
        /// The device's interface.
        backend: String,
    },
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
    /// Whoever watched it had enough.
    #[error("it was stopped")]
    Stopped,
}

/// What wgpu says went wrong. Its own errors may not cross threads in a browser.
#[derive(Clone)]
pub(super) struct Failure {
    /// Whether memory was wanting; anything else is a defect or a lost device.
    pub memory: bool,
    /// wgpu's own words.
    pub message: String,
}

impl Failure {
    /// Neither a want of memory nor anything that is told apart.
    pub fn other(message: &impl std::fmt::Display) -> Self {
        Self { memory: false, message: message.to_string() }
    }

    /// The same as the error of a device with this name.
    pub fn of(self, device: &str) -> GpuError {
        // wgpu writes causes below each other, and a full stop may end them.
        let message = self.message.split_whitespace().collect::<Vec<_>>().join(" ");
        let (device, message) = (device.into(), message.trim_end_matches('.').into());
        match self.memory {
            true => GpuError::OutOfMemory { device, message },
            false => GpuError::Device { device, message },
        }
    }
}

impl From<wgpu::Error> for Failure {
    fn from(error: wgpu::Error) -> Self {
        match error {
            wgpu::Error::OutOfMemory { source } => Self { memory: true, message: source.to_string() },
            wgpu::Error::Validation { description, .. } | wgpu::Error::Internal { description, .. } => {
                Self::other(&description)
            }
        }
    }
}
