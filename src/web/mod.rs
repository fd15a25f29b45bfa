//! What a page calls: one class for each thing that it shows. Whatever may wait for the device is `async`, and nothing blocks.
//!
//! Numbers cross as typed arrays, structures as JSON, and failures as JavaScript errors whose `name` tells their kind
//! ([`failure::Kind`]). Files are those that the page holds in memory ([`files`]). Only one call may use an object at a time:
//! the page makes them one after another.

mod activations;
mod doctor;
mod engine;
mod failure;
mod files;
mod forward;
mod painter;
mod plan;
mod shaders;
mod training;

pub use activations::Activations;
pub use doctor::Doctor;
pub use engine::Engine;
pub use failure::Failure;
pub use files::{mount, mount_zip, unmount, zipped};
pub use forward::Forward;
pub use painter::{Painter, PictureModel};
pub use shaders::{check_shaders, shaders};
pub use training::Training;

use serde::{Serialize, de::DeserializeOwned};

/// What a call gives or why it gives nothing.
type Result<T> = std::result::Result<T, Failure>;

/// As JSON. What is serialized here are plain structs of numbers and text, which never fail.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// From JSON that the page made.
fn parsed<T: DeserializeOwned>(what: &str, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|e| Failure::input(format!("{what}: {e}")))
}
