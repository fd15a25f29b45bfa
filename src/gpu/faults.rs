//! Devices that fail when a test wants them to.

use super::Device;
use super::device::lock;
use super::error::Failure;
use std::sync::{Mutex, OnceLock};

/// What a device is about to be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    /// A buffer is made.
    Buffer,
    /// An entry point is compiled.
    Pipeline,
    /// Buffers are bound to a pipeline.
    BindGroup,
    /// Bytes go from the host to a buffer.
    Write,
    /// Launches are submitted.
    Submit,
    /// The host waits for what was submitted.
    Wait,
    /// A buffer is mapped, to be read by the host.
    Map,
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// As a driver without memory: the call gives nothing, and wgpu reports it.
    OutOfMemory,
    /// As after a reset of the driver, or a cable pulled: the device is really given up, and wgpu refuses this call and every
    /// later one.
    Lost,
}

type Decide = Box<dyn FnMut(Call) -> Option<Fault> + Send>;

/// Where a [`Device`] asks before each call whether it is to fail: at the cost of one look at a word, where nobody told it to.
#[derive(Default)]
pub(super) struct Faults(OnceLock<Mutex<Decide>>);

impl Device {
    /// Lets calls of this device fail, for tests: `decide` is asked before each one. As after a fault that is not made up, every
    /// later call fails too, and only another device helps. Does nothing when called a second time.
    pub fn inject_faults(&self, decide: impl FnMut(Call) -> Option<Fault> + Send + 'static) {
        let _ = self.faults.0.set(Mutex::new(Box::new(decide)));
    }

    /// Stands before every call to the device.
    pub(super) fn before(&self, call: Call) {
        let Some(decide) = self.faults.0.get() else { return };
        let fault = (*lock(decide))(call);
        match fault {
            None => {}
            Some(Fault::OutOfMemory) => self.fail(Failure { memory: true, message: "Out of memory".into() }),
            Some(Fault::Lost) => self.lose(),
        }
    }
}
