//! What a vendor's debugger is told: the groups that launches belong to, and which step to capture.

use super::Executable;
#[cfg(not(target_arch = "wasm32"))]
use super::{Blocking as _, Device, GpuError};
use crate::graph::Phase;

/// The debug groups of a pass: a phase, and within it a module.
#[derive(Default)]
pub(super) struct Groups<'a>(Option<(Phase, &'a str)>);

impl<'a> Groups<'a> {
    /// Goes to the groups of a launch, by its number in the plan.
    pub(super) fn enter(&mut self, pass: &mut wgpu::ComputePass, executable: &'a Executable, launch: usize) {
        let plan = executable.plan();
        let node = &plan.graph.nodes[plan.launches[launch].node];
        let next = (node.phase, node.scope.as_str());
        if self.0 == Some(next) {
            return;
        }
        let stays = self.0.is_some_and(|(phase, _)| phase == next.0);
        self.0.inspect(|_| pass.pop_debug_group());
        if !stays {
            self.0.inspect(|_| pass.pop_debug_group());
            pass.push_debug_group(next.0.name());
        }
        pass.push_debug_group(next.1);
        self.0 = Some(next);
    }

    /// Leaves them, at the end of the pass.
    pub(super) fn leave(self, pass: &mut wgpu::ComputePass) {
        if self.0.is_some() {
            pass.pop_debug_group();
            pass.pop_debug_group();
        }
    }
}

#[cfg(not(target_arch = "wasm32"))]
impl Device {
    /// Does some work, and waits for it, while the debugger that this program runs under captures the device: RenderDoc on Vulkan
    /// and Direct3D 12, Xcode on Metal.
    ///
    /// # Errors
    /// [`GpuError::NoDebugger`] before any work if there is none.
    pub fn captured<T, E: From<GpuError>>(&self, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        self.idle().block_on()?;
        if !self.capture(true) {
            return Err(GpuError::NoDebugger { backend: self.info.backend.clone() }.into());
        }
        let done = work();
        let idle = self.idle().block_on();
        self.capture(false);
        idle?;
        done
    }

    /// Begins or ends a capture; whether there is a debugger.
    fn capture(&self, begin: bool) -> bool {
        use wgpu::hal;
        /// The backend's device, which tells whether a debugger heard it; wgpu's own call does not.
        fn of<A: hal::Api>(device: &wgpu::Device, begin: bool) -> Option<bool> {
            // SAFETY: nothing else begins or ends captures, each that began is ended, by `captured`, and the backend's device is
            // neither kept nor destroyed.
            #[expect(unsafe_code, reason = "captures are begun and ended by unsafe calls only")]
            unsafe {
                let device = device.as_hal::<A>()?;
                Some(match begin {
                    true => hal::Device::start_graphics_debugger_capture(&*device),
                    false => {
                        hal::Device::stop_graphics_debugger_capture(&*device);
                        true
                    }
                })
            }
        }
        let device = &self.device;
        #[cfg(target_vendor = "apple")]
        let found = of::<hal::api::Metal>(device, begin);
        #[cfg(windows)]
        let found = of::<hal::api::Dx12>(device, begin).or_else(|| of::<hal::api::Vulkan>(device, begin));
        #[cfg(not(any(target_vendor = "apple", windows)))]
        let found = of::<hal::api::Vulkan>(device, begin);
        found.unwrap_or(false)
    }
}
