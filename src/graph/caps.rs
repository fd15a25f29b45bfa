//! What a device can do, as the operators need to know it. Plain data: no device is needed to plan.

/// Which algorithms suit the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kernels {
    /// Register tiles and vector loads, no barriers: CPU drivers, where workgroup memory is ordinary
    /// memory and a barrier is a loop split (lavapipe: 19 GFLOP/s against 5 to 10 for staged tiles).
    Registers,
    /// Tiles staged in workgroup memory: GPUs, where a load from it is some ten times cheaper.
    Workgroup,
}

/// The limits and preferences that dispatches are made for.
#[derive(Clone, Debug, PartialEq)]
pub struct Caps {
    /// Preferred algorithms.
    pub kernels: Kernels,
    /// Largest range of a buffer that one binding may cover, in bytes.
    pub max_binding_bytes: u64,
    /// Largest buffer, in bytes.
    pub max_buffer_bytes: u64,
    /// Start of a bound range must be a multiple of this, in bytes.
    pub offset_alignment: u64,
}

impl Caps {
    /// WebGPU's default limits: what every base shader must live within.
    pub fn webgpu(kernels: Kernels) -> Self {
        Self { kernels, max_binding_bytes: 128 << 20, max_buffer_bytes: 256 << 20, offset_alignment: 256 }
    }
}
