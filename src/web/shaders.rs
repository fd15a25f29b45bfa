//! The shaders as texts, and edited ones compiled.

use super::{Result, json, parsed};
use crate::ops;
use crate::shader::{Folder, FolderError, Kernel, LIBRARY, Source};
use serde_json::json as object;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use wasm_bindgen::prelude::wasm_bindgen;

/// Every kernel of the catalogue: a second of work, once.
static KERNELS: LazyLock<BTreeSet<Kernel>> = LazyLock::new(ops::kernels);

/// Edited texts by name, compiled by naga in every variant that they change.
pub(super) fn folder(texts: BTreeMap<String, String>) -> std::result::Result<Folder, FolderError> {
    Folder::of_texts(texts, &KERNELS)
}

/// An array of all embedded shaders, those with entry points first: name, text, imports and entry points.
#[wasm_bindgen]
pub fn shaders() -> String {
    let sources: BTreeSet<&'static Source> = KERNELS.iter().map(|kernel| kernel.source).collect();
    let shader = |source: &'static Source| {
        let of_source = KERNELS.iter().filter(|kernel| kernel.source == source);
        let entries: BTreeSet<&str> = of_source.map(|kernel| kernel.entry).collect();
        let imports: Vec<&str> = source.imports().into_iter().map(|import| import.name).collect();
        object!({ "name": source.name, "text": source.text, "imports": imports, "entries": entries })
    };
    json(&sources.into_iter().chain(LIBRARY).map(shader).collect::<Vec<_>>())
}

/// Compiles edited shaders, an object of texts by name, without a device.
///
/// # Errors
/// `Shader`, with file and line.
#[wasm_bindgen]
pub fn check_shaders(edited: &str) -> Result<()> {
    folder(parsed("edited shaders", edited)?)?;
    Ok(())
}
