//! What the device tests share.

use inkwash::gpu::{Blocking as _, Choice, Device};
use inkwash::graph::Kernels;
use std::sync::Arc;

/// The device of this machine, or `None`, said aloud, where there is none. With `INKWASH_REQUIRE_DEVICE`
/// set, as in CI, a missing device is a failure.
pub fn open_device(kernels: Option<Kernels>) -> Option<Arc<Device>> {
    match Device::open(&Choice { kernels, ..Choice::default() }).block_on() {
        Ok(device) => Some(device),
        Err(e) => {
            assert!(std::env::var_os("INKWASH_REQUIRE_DEVICE").is_none(), "a device is required: {e}");
            eprintln!("SKIPPED, no device: {e}");
            None
        }
    }
}
