//! The weights of a U-Net in a folder of diffusers.

use super::{ModelError, flat};
use crate::diffusion::{UNet, UNetConfig};
use crate::io::disk;
use crate::io::tensor_file::{self, TensorFile};
use crate::nn::ConfigError;
use std::path::{Path, PathBuf};

pub(super) const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";
const SHARDS: &str = "diffusion_pytorch_model.safetensors.index.json";
const PICKLE: &str = "diffusion_pytorch_model.bin";
/// What stands before and after the name of a variant, as `fp16`.
const VARIANT: [&str; 2] = ["diffusion_pytorch_model.", ".safetensors"];
/// Endings under which downloads are kept until they are whole.
const UNFINISHED: [&str; 3] = [".incomplete", ".part", ".crdownload"];

/// The network and its weights, a flat vector in device order. A choice that was made goes into `warnings`.
///
/// # Errors
/// No file of weights or several to choose from, or weights of another network.
pub(super) fn read(
    folder: &Path,
    config_path: &Path,
    config: &UNetConfig,
    warnings: &mut Vec<String>,
) -> Result<(UNet, Vec<f32>), ModelError> {
    let path = find(folder, warnings)?;
    let mut file = tensor_file::read(&path)?;
    // Every residual block has ten tensors or more. What the file cannot fill is not even laid out: a line of
    // JSON can ask for thousands of blocks.
    let blocks = config.block_out_channels.len() * (2 * config.layers_per_block + 1) + 2;
    if file.tensors.len() < 10 * blocks {
        let message = format!(
            "asks for {blocks} residual blocks, which have {} tensors or more, but {} holds {}; the file belongs to \
             another configuration",
            10 * blocks,
            path.display(),
            file.tensors.len()
        );
        return Err(ModelError::Config {
            path: config_path.into(),
            source: ConfigError { field: "layers_per_block", message },
        });
    }
    let unet = UNet::new(config).map_err(|source| ModelError::Config { path: config_path.into(), source })?;
    rename(&unet, &mut file, &path)?;
    let weights = flat(&unet.parameters, &file, "", &path)?;
    Ok((unet, weights))
}

/// The file of the weights: that of the plain name, or the one variant that is there in its place.
fn find(folder: &Path, warnings: &mut Vec<String>) -> Result<PathBuf, ModelError> {
    const CONVERT: &str = "To get one, load it with diffusers where you trust it, and write it with \
                           save_pretrained(FOLDER, safe_serialization=True, max_shard_size=\"100GB\")";
    let path = folder.join(WEIGHTS);
    if disk::exists(&path) {
        return Ok(path);
    }
    let entries = disk::entries(folder).unwrap_or_default();
    let mut names: Vec<String> =
        entries.iter().filter_map(|entry| Some(entry.file_name()?.to_str()?.into())).collect();
    names.sort();
    let variants: Vec<&String> = names.iter().filter(|name| variant(name).is_some()).collect();
    if let [name] = variants.as_slice() {
        warnings.push(format!("{}: has no {WEIGHTS}; taken is its variant {name}", folder.display()));
        return Ok(folder.join(name));
    }
    let unfinished = |name: &&String| UNFINISHED.iter().any(|ending| name.ends_with(ending));
    let found = if !variants.is_empty() {
        let variants: Vec<&str> = variants.into_iter().map(String::as_str).collect();
        format!("{} are variants of it; give the one that is meant its name", variants.join(", "))
    } else if disk::exists(&folder.join(SHARDS)) {
        format!("its weights are spread over several files. {CONVERT}")
    } else if disk::exists(&folder.join(PICKLE)) {
        format!(
            "{PICKLE} is a Python pickle, which can run any program when it is opened, so it is not read. {CONVERT}"
        )
    } else if let Some(name) = names.iter().find(unfinished) {
        format!("{name} is a download that did not end; download it again")
    } else {
        format!("nothing of the kind is there. {CONVERT}")
    };
    let message = format!("has no {WEIGHTS}: {found}");
    Err(ModelError::Folder { path: folder.into(), message })
}

/// The variant whose weights are in a file of this name. A part of one, `NAME-00001-of-00002`, is none.
fn variant(name: &str) -> Option<&str> {
    let name = name.strip_prefix(VARIANT[0])?.strip_suffix(VARIANT[1])?;
    (!name.is_empty() && !name.contains("-of-")).then_some(name)
}

/// Gives attention layers of before diffusers 0.12 their present names.
fn rename(unet: &UNet, file: &mut TensorFile, path: &Path) -> Result<(), ModelError> {
    for p in &unet.parameters {
        for (new, old) in
            [(".to_q.", ".query."), (".to_k.", ".key."), (".to_v.", ".value."), (".to_out.0.", ".proj_attn.")]
        {
            if !p.name.contains(new) {
                continue;
            }
            let old = p.name.replace(new, old);
            let Some(tensor) = file.tensors.remove(&old) else { continue };
            if file.tensors.insert(p.name.clone(), tensor).is_some() {
                let message = format!("is there twice, also under its old name `{old}`");
                return Err(ModelError::Weights { path: path.into(), name: p.name.clone(), message });
            }
        }
    }
    Ok(())
}
