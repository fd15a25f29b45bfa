//! What the tests share.

#![allow(dead_code, reason = "each test file uses a part of it")]

pub mod cut_short;
pub mod training;

use inkwash::gpu::{Blocking as _, Choice, Device};
use inkwash::graph::Caps;
use std::fmt::Display;
use std::io::Write;
use std::sync::Arc;

/// Says what was not tested and why. The test runner hides what a passing test prints through `println!` and
/// `eprintln!`, so this writes to standard error itself.
pub fn skip(why: impl Display) {
    let thread = std::thread::current();
    let line = format!("SKIPPED, {}: {why}\n", thread.name().unwrap_or("a test"));
    // Where nothing can be written, nobody reads.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// The device of this machine, or `None`, said aloud, where there is none. With `INKWASH_REQUIRE_DEVICE`
/// set, as in CI, a missing device is a failure.
pub fn open_device() -> Option<Arc<Device>> {
    open(&Choice::default())
}

/// The device of this machine once for each of its [`Caps::variants`]; none, said aloud, where there is no device.
pub fn every_variant() -> impl Iterator<Item = Arc<Device>> {
    let variants = open_device().map(|device| device.caps.variants()).unwrap_or_default();
    variants
        .into_iter()
        .filter_map(|Caps { kernels, .. }| open(&Choice { kernels: Some(kernels), ..Choice::default() }))
}

fn open(choice: &Choice) -> Option<Arc<Device>> {
    match Device::open(choice).block_on() {
        Ok(device) => Some(device),
        Err(e) => {
            assert!(std::env::var_os("INKWASH_REQUIRE_DEVICE").is_none(), "a device is required: {e}");
            skip(format_args!("no device: {e}"));
            None
        }
    }
}
