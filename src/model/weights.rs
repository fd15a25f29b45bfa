//! The weights of a network as tensors by name, and as the flat vector on the device.

use super::ModelError;
use crate::io::{Tensor, TensorFile, shortened};
use crate::nn::Parameters;
use std::collections::BTreeSet;
use std::path::Path;

/// The tensors of a flat vector in device order, under their names in files behind `prefix` and with PyTorch's shapes.
pub fn tensors<'a>(
    parameters: &'a Parameters,
    flat: &'a [f32],
    prefix: &'a str,
) -> impl Iterator<Item = (String, Tensor)> + 'a {
    parameters.iter().map(move |p| {
        let data = p.to_file(&flat[p.offset..p.offset + p.elements()]);
        (format!("{prefix}{}", p.name), Tensor { shape: p.shape.clone(), data })
    })
}

/// The flat vector in device order from those tensors of the file whose names begin with `prefix`; `path` is for
/// messages.
///
/// # Errors
/// [`ModelError::Weights`]: a tensor that is missing, has another shape, or is not a parameter of the network.
pub fn flat(
    parameters: &Parameters,
    file: &TensorFile,
    prefix: &str,
    path: &Path,
) -> Result<Vec<f32>, ModelError> {
    let fail = |name: &str, message| ModelError::Weights {
        path: path.into(),
        name: shortened(name).into_owned(),
        message,
    };
    // 1. Every parameter, before anything is allocated for it: the file alone says how much memory there may be.
    let mut found = Vec::with_capacity(parameters.len());
    for p in parameters {
        let name = format!("{prefix}{}", p.name);
        let tensor = file.tensors.get(&name).ok_or_else(|| fail(&name, "is missing".into()))?;
        if tensor.shape != p.shape {
            let found = format!("{:?}", tensor.shape);
            let message = format!("has shape {}, but this network needs {:?}", shortened(&found), p.shape);
            return Err(fail(&name, message));
        }
        found.push(tensor);
    }
    // 2. Nothing else.
    let names: BTreeSet<&str> = parameters.iter().map(|p| p.name.as_str()).collect();
    let unknown = |name: &&String| name.strip_prefix(prefix).is_some_and(|rest| !names.contains(rest));
    if let Some(extra) = file.tensors.keys().find(unknown) {
        return Err(fail(extra, "is not a parameter of this network".into()));
    }
    // 3. Into the order of the device.
    let mut flat = vec![0.0; parameters.flat_elements()];
    for (p, tensor) in parameters.iter().zip(found) {
        flat[p.offset..p.offset + p.elements()].copy_from_slice(&p.to_device(&tensor.data));
    }
    Ok(flat)
}
