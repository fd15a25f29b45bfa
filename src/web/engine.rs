//! The device of a page.

use super::{Failure, Result, json, parsed, shaders};
use crate::gpu::{Choice, Device};
use crate::graph::Kernels;
use serde::Deserialize;
use serde_json::json as object;
use std::collections::BTreeMap;
use std::sync::Arc;
use wasm_bindgen::prelude::wasm_bindgen;

#[wasm_bindgen]
extern "C" {
    /// The browser's console.
    #[wasm_bindgen(js_namespace = console, js_name = error)]
    fn log_error(message: &str);
}

/// What a page may ask of its device.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct EngineOptions {
    /// WebGPU's default limits, whatever the adapter offers.
    default_limits: bool,
    /// `registers` or `workgroup`, in place of those that suit the device.
    kernels: Option<String>,
}

/// A device with its shaders. Edited shaders have a device of their own.
#[wasm_bindgen]
pub struct Engine {
    pub(super) device: Arc<Device>,
}

fn named(kernels: &str) -> Result<Kernels> {
    let found = Kernels::ALL.into_iter().find(|k| k.name() == kernels);
    found.ok_or_else(|| Failure::input(format!("kernels={kernels}: expected registers or workgroup")))
}

#[wasm_bindgen]
impl Engine {
    /// Opens the browser's device. `edited` is an object of the texts of shaders by their names, in place of the embedded ones;
    /// `options` one of [`EngineOptions`].
    ///
    /// # Errors
    /// No adapter, no device, a shader that does not compile.
    pub async fn open(edited: &str, options: &str) -> Result<Engine> {
        std::panic::set_hook(Box::new(|panic| log_error(&panic.to_string())));
        let texts: BTreeMap<String, String> = parsed("edited shaders", edited)?;
        let shaders = if texts.is_empty() { None } else { Some(Arc::new(shaders::folder(texts)?)) };
        let EngineOptions { default_limits, kernels } = parsed("options", options)?;
        let kernels = kernels.as_deref().map(named).transpose()?;
        let device = Device::open(&Choice { shaders, default_limits, kernels, ..Choice::default() }).await?;
        Ok(Self { device })
    }

    /// An object of what the device is: name, the kind of kernels, features, and the limits that bound a plan.
    pub fn facts(&self) -> String {
        let Device { info, caps, .. } = &*self.device;
        json(&object!({
            "name": info.name,
            "kind": info.kind,
            "kernels": format!("{:?}", caps.kernels).to_lowercase(),
            "features": info.features,
            "timestamps": caps.features.timestamps,
            "limits": info.limits.iter().cloned().collect::<BTreeMap<_, _>>(),
        }))
    }

    /// Waits until everything submitted has run.
    ///
    /// # Errors
    /// The device was lost or ran out of memory.
    pub async fn idle(&self) -> Result<()> {
        Ok(self.device.idle().await?)
    }
}
