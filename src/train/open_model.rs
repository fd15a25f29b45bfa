//! A model by the path of its folder, and what to give instead where the path is close to one.

use super::{FolderError, ModelFolder};
use crate::io::disk;
use crate::model::{Model, diffusers};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};

/// The networks in a checkpoint of `accelerate`, as diffusers' training scripts leave it, and what they are.
const NETWORKS: [(&str, &str); 2] =
    [("unet_ema", "the averaged weights"), ("unet", "the weights as they are")];

/// Opens a run folder (its averaged weights), a folder of diffusers, or a checkpoint of its training scripts that holds
/// one network.
///
/// # Errors
/// A path at which there is no model, with what to give instead if one lies near; and whatever is wrong with the model.
pub fn open_model(path: &Path) -> Result<Model, FolderError> {
    if is_run(path) {
        return ModelFolder::new(path).open();
    }
    if diffusers::is_model(path) {
        return Ok(diffusers::open(path)?);
    }
    let networks = NETWORKS.map(|(name, what)| (path.join(name), what));
    match networks.each_ref().map(|(folder, _)| diffusers::is_model(folder)) {
        [true, true] => {
            let remedy = networks.map(|(folder, what)| format!("{} ({what})", folder.display())).join(" or ");
            not_a_model(path, "is a checkpoint with two networks", format!("Give {remedy}."))
        }
        [false, false] => Err(near_miss(path)),
        [averaged, _] => {
            let (folder, _) = &networks[usize::from(!averaged)];
            let mut model = diffusers::open(folder)?;
            model.warnings.push(format!(
                "{}: a checkpoint with one network; taken is {}",
                path.display(),
                folder.display()
            ));
            Ok(model)
        }
    }
}

fn is_run(path: &Path) -> bool {
    disk::is_file(&path.join("config.toml"))
}

fn is_model(path: &Path) -> bool {
    is_run(path) || diffusers::is_model(path)
}

fn not_a_model<T>(path: &Path, found: impl Into<String>, remedy: String) -> Result<T, FolderError> {
    Err(FolderError::NotAModel { path: path.into(), found: found.into(), remedy })
}

/// What a path is that holds no model, and what was meant.
fn near_miss(path: &Path) -> FolderError {
    let meant = |models: &[PathBuf]| match models {
        [] => None,
        models => {
            let names: Vec<String> = models.iter().map(|model| model.display().to_string()).collect();
            Some(format!("Did you mean {}?", names.join(" or ")))
        }
    };
    let around = || path.ancestors().skip(1).take(2).find(|folder| is_model(folder)).map(Path::to_path_buf);
    let (found, remedy) = if !disk::exists(path) {
        let remedy = match path.components().count() {
            2 if path.is_relative() => format!(
                "Check the spelling. A model of the Hugging Face Hub is downloaded first: hf download {0} --local-dir \
                 {0}",
                path.display()
            ),
            _ => "Check the spelling.".into(),
        };
        ("is not there".to_string(), remedy)
    } else if disk::is_file(path) {
        let found = match path.extension().and_then(|e| e.to_str()).unwrap_or_default() {
            "safetensors" => "is a file of weights, which say nothing of their network",
            "zip" => "is a zip file, which is to be unpacked first",
            "bin" | "ckpt" | "pkl" | "pt" | "pth" => {
                "is a Python pickle by its name, which can run any program when it is opened, so it is not read"
            }
            _ => "is a file",
        };
        let remedy = meant(&around().into_iter().collect::<Vec<_>>()).unwrap_or_else(|| {
            "Give the folder that `inkwash train --out` wrote, or that diffusers' save_pretrained(FOLDER, \
             safe_serialization=True) writes."
                .into()
        });
        (found.into(), remedy)
    } else {
        let mut models = models_below(path);
        if models.is_empty() {
            models.extend(around());
        }
        ("holds no model".into(), meant(&models).unwrap_or_else(|| "Give a folder of either kind.".into()))
    };
    FolderError::NotAModel { path: path.into(), found, remedy }
}

/// As many as a message names, and folders that are looked into for them.
const NAMED: usize = 4;
const LOOKED_INTO: usize = 1000;

/// Models up to two levels below a folder, the nearest first.
fn models_below(path: &Path) -> Vec<PathBuf> {
    let mut models = Vec::new();
    let mut folders = VecDeque::from([(path.to_path_buf(), 0)]);
    let mut seen = 0;
    while let Some((folder, depth)) = folders.pop_front() {
        let entries = disk::entries(&folder).unwrap_or_default();
        let mut below: Vec<PathBuf> = entries.into_iter().take(LOOKED_INTO - seen).collect();
        seen += below.len();
        below.sort();
        for folder in below.into_iter().filter(|path| disk::is_folder(path)) {
            if is_model(&folder) {
                models.push(folder);
            } else if depth == 0 {
                folders.push_back((folder, depth + 1));
            }
            if models.len() == NAMED {
                return models;
            }
        }
    }
    models
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(path: &Path, words: &[&str]) {
        let message = open_model(path).unwrap_err().to_string();
        for word in words.iter().chain(&["config.toml", "model_index.json"]) {
            assert!(message.contains(word), "no `{word}` in: {message}");
        }
    }

    /// Nothing but the names of the files is looked at.
    #[test]
    fn a_path_close_to_a_model_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        let file = |name: &str| {
            let path = at.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        };
        std::fs::create_dir(at.join("empty")).unwrap();
        refused(&at.join("empty"), &["empty holds no model", "Give a folder"]);
        refused(&at.join("nowhere"), &["is not there", "Check the spelling"]);
        refused(Path::new("google/nothing-of-the-kind"), &["hf download google/nothing-of-the-kind"]);
        // One level too high, and two.
        file("runs/a/config.toml");
        file("runs/a/model.safetensors");
        file("runs/a/checkpoints/step-000005.safetensors");
        refused(&at.join("runs"), &["Did you mean", "runs/a?"]);
        file("runs/b/unet/config.json");
        refused(&at.join("runs"), &["runs/a or ", "runs/b/unet?"]);
        // One too low, and a file of a model.
        refused(&at.join("runs/a/checkpoints"), &["runs/a?"]);
        refused(&at.join("runs/a/model.safetensors"), &["file of weights", "runs/a?"]);
        refused(&at.join("runs/a/checkpoints/step-000005.safetensors"), &["file of weights", "runs/a?"]);
        refused(&at.join("runs/a/config.toml"), &["is a file;", "runs/a?"]);
        file("run.zip");
        refused(&at.join("run.zip"), &["zip file", "unpacked first"]);
        for name in ["old.ckpt", "old.pt", "old.bin"] {
            file(name);
            refused(&at.join(name), &["pickle", "not read", "save_pretrained"]);
        }
        // A checkpoint of diffusers' training scripts.
        file("out/checkpoint-500/unet/config.json");
        file("out/checkpoint-500/unet_ema/config.json");
        let (averaged, plain) =
            ("out/checkpoint-500/unet_ema (the averaged", "out/checkpoint-500/unet (the weights");
        refused(&at.join("out/checkpoint-500"), &["two networks", averaged, plain]);
        refused(&at.join("out"), &["out/checkpoint-500/unet or ", "out/checkpoint-500/unet_ema?"]);
        // More than a message should name.
        for k in 0..9 {
            file(&format!("many/{k}/config.toml"));
        }
        refused(&at.join("many"), &["many/0", "many/3?"]);
    }
}
