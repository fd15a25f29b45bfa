//! Failures as JavaScript errors.

use crate::check::CheckError;
use crate::gpu::{GpuError, RunError};
use crate::shader::{FolderError, ShaderError};
use js_sys::Reflect;
use std::error::Error;
use wasm_bindgen::JsValue;

/// The `name` of an error.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// The browser gives no adapter or no device.
    NoDevice,
    /// The device ran out of memory.
    OutOfMemory,
    /// The device was lost, or refused a call: every later call fails too, and only another device helps.
    DeviceLost,
    /// A shader that does not compile or does not fit; `origin` says file and line, `listing` shows the lines.
    Shader,
    /// Whoever watched a computation ended it.
    Stopped,
    /// A file, configuration or number that cannot be used.
    Input,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::NoDevice => "NoDevice",
            Self::OutOfMemory => "OutOfMemory",
            Self::DeviceLost => "DeviceLost",
            Self::Shader => "Shader",
            Self::Stopped => "Stopped",
            Self::Input => "Input",
        }
    }
}

/// Why a call gives nothing.
#[derive(Debug)]
pub struct Failure {
    kind: Kind,
    message: String,
    /// File and line of the error in a shader, and the lines around it.
    place: Option<(String, String)>,
}

impl Failure {
    /// Something that the page gave and that cannot be used.
    pub(super) fn input(message: impl Into<String>) -> Self {
        Self { kind: Kind::Input, message: message.into(), place: None }
    }

    fn of_shader(error: &ShaderError) -> Self {
        let (message, place) = match error {
            ShaderError::Invalid { message, origin, listing, .. } => {
                (message.clone(), Some((origin.clone(), listing.clone())))
            }
            other => (other.to_string(), None),
        };
        Self { kind: Kind::Shader, message, place }
    }

    /// Without the remedies of the command line.
    fn of_gpu(error: &GpuError) -> Self {
        let (kind, message) = match error {
            GpuError::Shader(error) => return Self::of_shader(error),
            GpuError::NoAdapter(message) | GpuError::Request { message, .. } => {
                (Kind::NoDevice, message.clone())
            }
            GpuError::OutOfMemory { message, .. } => (Kind::OutOfMemory, message.clone()),
            GpuError::Device { message, .. } => (Kind::DeviceLost, message.clone()),
            other => (Kind::Input, other.to_string()),
        };
        Self { kind, message, place: None }
    }
}

impl<E: Error + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        let error: &(dyn Error + 'static) = &error;
        if let Some(RunError::Stopped) = error.downcast_ref() {
            return Self { kind: Kind::Stopped, message: String::new(), place: None };
        }
        let gpu = match (error.downcast_ref::<RunError>(), error.downcast_ref::<CheckError>()) {
            (Some(RunError::Gpu(gpu)), _) | (_, Some(CheckError::Gpu(gpu))) => Some(gpu),
            _ => error.downcast_ref::<GpuError>(),
        };
        let shader = match error.downcast_ref::<FolderError>() {
            Some(FolderError::Shader(shader)) => Some(shader),
            _ => error.downcast_ref::<ShaderError>(),
        };
        match (gpu, shader) {
            (Some(gpu), _) => Self::of_gpu(gpu),
            (_, Some(shader)) => Self::of_shader(shader),
            (None, None) => Self::input(error.to_string()),
        }
    }
}

impl From<Failure> for JsValue {
    fn from(Failure { kind, message, place }: Failure) -> Self {
        let error = js_sys::Error::new(&message);
        error.set_name(kind.name());
        if let Some((origin, listing)) = place {
            // An error object takes any property.
            let _ = Reflect::set(&error, &"origin".into(), &origin.into());
            let _ = Reflect::set(&error, &"listing".into(), &listing.into());
        }
        error.into()
    }
}
