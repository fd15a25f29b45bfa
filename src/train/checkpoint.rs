//! `checkpoints/step-NNNNNN.safetensors`: all that is needed to go on from a step.

use super::{FolderError, ModelFolder, Pictures};
use crate::io::tensor_file::{self, TensorFile};
use crate::io::{FileError, disk, shortened};
use crate::model::{flat, tensors};
use crate::nn::Parameters;
use crate::ops::LossScale;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Parameters, first moment, second moment and average, and the step that comes next.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// The step that comes next.
    pub next_step: u32,
    /// Steps so far whose gradient was finite: those that AdamW counts.
    pub steps_taken: u32,
    /// The scale of the loss, where gradients are stored in f16.
    pub loss_scale: Option<LossScale>,
    /// What it was trained on, where that is known.
    pub pictures: Option<Pictures>,
    /// Parameters, first moment, second moment, average: flat vectors in device order.
    pub states: [Vec<f32>; 4],
}

impl Checkpoint {
    /// The states before the first step: the average is the weights.
    pub fn at_the_beginning(weights: Vec<f32>) -> Self {
        let zeros = vec![0.0; weights.len()];
        let states = [weights.clone(), zeros.clone(), zeros, weights];
        Self { next_step: 0, steps_taken: 0, loss_scale: None, pictures: None, states }
    }
}

#[cfg(not(target_arch = "wasm32"))]
impl Checkpoint {
    /// Becomes that of the first rank, but for its pictures.
    pub(super) fn share(&mut self, group: &super::Group) {
        let (next_step, steps_taken) = (self.next_step, self.steps_taken);
        let scale = self.loss_scale.map(|scale| scale.words().to_vec());
        let numbers = group.share(|| Ok::<_, std::convert::Infallible>((next_step, steps_taken, scale)));
        let Ok((next_step, steps_taken, scale)) = numbers;
        (self.next_step, self.steps_taken) = (next_step, steps_taken);
        self.loss_scale = scale.map(|words| LossScale::from_words(&words));
        self.states.iter_mut().for_each(|state| group.share_numbers(state));
    }

    /// What tells two of them apart.
    pub(super) fn fingerprint(&self) -> String {
        let of = |state: &Vec<f32>| format!("{:08x}", crc32fast::hash(bytemuck::cast_slice(state)));
        let states = self.states.each_ref().map(of).join(" ");
        format!("{} numbers each, of checksums {states}, after step {}", self.states[0].len(), self.next_step)
    }
}

/// A checkpoint that was read and agrees with itself, before it is known of which network it is.
pub(super) struct CheckpointFile {
    path: PathBuf,
    file: TensorFile,
    /// See [`Checkpoint`].
    pub next_step: u32,
    /// See [`Checkpoint`].
    pub steps_taken: u32,
    /// See [`Checkpoint`].
    pub loss_scale: Option<LossScale>,
    /// See [`Checkpoint`].
    pub pictures: Option<Pictures>,
}

impl CheckpointFile {
    /// The states of a network.
    ///
    /// # Errors
    /// Tensors of another network.
    pub fn states(self, parameters: &Parameters) -> Result<Checkpoint, FolderError> {
        let Self { path, file, next_step, steps_taken, loss_scale, pictures } = self;
        let mut states: [Vec<f32>; 4] = Default::default();
        for (state, slot) in STATES.iter().zip(&mut states) {
            *slot = flat(parameters, &file, &format!("{state}."), &path)?;
        }
        Ok(Checkpoint { next_step, steps_taken, loss_scale, pictures, states })
    }
}

/// Keys of a checkpoint's metadata.
const NEXT_STEP: &str = "next_step";
const STEPS_TAKEN: &str = "steps_taken";
/// The fields of the scale of the loss, in their order.
const LOSS_SCALE: [&str; LossScale::WORDS] = ["loss_scale", "loss_scale_steps", "loss_scale_skips"];
/// What stands before the name of a parameter in a checkpoint.
const STATES: [&str; 4] = ["parameter", "first_moment", "second_moment", "average"];
/// Checkpoints that are kept.
const KEPT: usize = 2;

impl ModelFolder {
    /// Where the checkpoints lie.
    pub(super) fn checkpoints_folder(&self) -> PathBuf {
        self.path().join("checkpoints")
    }

    /// Writes a checkpoint and the averaged weights, and keeps the two newest checkpoints.
    pub fn save_checkpoint(
        &self,
        parameters: &Parameters,
        checkpoint: &Checkpoint,
    ) -> Result<PathBuf, FolderError> {
        let path = self.checkpoints_folder().join(format!("step-{:06}.safetensors", checkpoint.next_step));
        let mut metadata = checkpoint.pictures.as_ref().map(Pictures::metadata).unwrap_or_default();
        metadata.insert(NEXT_STEP.into(), checkpoint.next_step.to_string());
        metadata.insert(STEPS_TAKEN.into(), checkpoint.steps_taken.to_string());
        if let Some(scale) = &checkpoint.loss_scale {
            let fields = LOSS_SCALE.iter().zip(scale.values());
            metadata.extend(fields.map(|(key, value)| ((*key).to_string(), value.to_string())));
        }
        let mut file = TensorFile { tensors: BTreeMap::new(), metadata };
        for (state, data) in STATES.iter().zip(&checkpoint.states) {
            file.tensors.extend(tensors(parameters, data, &format!("{state}.")));
        }
        tensor_file::write_sealed(&path, &file)?;
        self.save_weights(parameters, &checkpoint.states[3], checkpoint.next_step)?;
        self.remove_old_checkpoints()?;
        Ok(path)
    }

    /// Removes all checkpoints but the two newest.
    pub(super) fn remove_old_checkpoints(&self) -> Result<(), FolderError> {
        let mut old = self.checkpoints()?;
        old.truncate(old.len().saturating_sub(KEPT));
        for (_, old) in old {
            disk::remove(&old).map_err(FileError::io("remove", &old))?;
        }
        Ok(())
    }

    /// The checkpoints of the run by the steps in their names, oldest first; none where there is no folder for them.
    pub(super) fn checkpoints(&self) -> Result<Vec<(u32, PathBuf)>, FolderError> {
        let folder = self.checkpoints_folder();
        let entries = match disk::entries(&folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(FileError::io("list", &folder)(source).into()),
        };
        let mut found: Vec<(u32, PathBuf)> = entries
            .into_iter()
            .filter_map(|path| {
                let step = path.file_name()?.to_str()?.strip_prefix("step-")?.strip_suffix(".safetensors")?;
                Some((step.parse().ok()?, path))
            })
            .collect();
        found.sort();
        Ok(found)
    }

    /// The checkpoint of a step, or the newest.
    fn find_checkpoint(&self, step: Option<u32>) -> Result<(u32, PathBuf), FolderError> {
        let mut all = self.checkpoints()?;
        let path = || self.path().to_path_buf();
        match step {
            None => all.pop().ok_or_else(|| FolderError::NoCheckpoint { path: path() }),
            Some(step) => {
                let steps: Vec<String> = all.iter().map(|(step, _)| step.to_string()).collect();
                let found =
                    if steps.is_empty() { "nothing, as there are none".into() } else { steps.join(" or ") };
                all.into_iter()
                    .find(|(found, _)| *found == step)
                    .ok_or_else(|| FolderError::NoSuchCheckpoint { path: path(), step, found })
            }
        }
    }

    /// The newest checkpoint.
    pub fn load_checkpoint(&self, parameters: &Parameters) -> Result<Checkpoint, FolderError> {
        self.open_checkpoint(None)?.states(parameters)
    }

    /// Reads the checkpoint of a step, or the newest.
    ///
    /// # Errors
    /// A checkpoint that is not there or damaged. A damaged one is told with the one before it.
    pub(super) fn open_checkpoint(&self, step: Option<u32>) -> Result<CheckpointFile, FolderError> {
        let (step, path) = self.find_checkpoint(step)?;
        let damaged = |message: String| self.damaged_checkpoint(step, message);
        let file = tensor_file::read(&path).map_err(|e| damaged(e.to_string()))?;
        let contradiction = |message: String| damaged(format!("{}: {message}.", path.display()));
        let (next_step, steps_taken) = counts(&file, step).map_err(contradiction)?;
        let loss_scale = loss_scale(&file).map_err(contradiction)?;
        let pictures = Pictures::from_metadata(&file.metadata).map_err(contradiction)?;
        Ok(CheckpointFile { path, file, next_step, steps_taken, loss_scale, pictures })
    }

    fn damaged_checkpoint(&self, step: u32, message: String) -> FolderError {
        let older = self.checkpoints().unwrap_or_default().into_iter().rev().find(|(older, _)| *older < step);
        let remedy = match older {
            Some((older, _)) => format!(
                "The checkpoint before it is of step {older}: go on from there with `inkwash train --resume {} \
                 --from-step {older}`, which sets this one aside",
                self.path().display()
            ),
            None => "There is no older checkpoint of the run: put a copy of the file back, or begin a new run with \
                     another --out"
                .into(),
        };
        FolderError::Checkpoint { message, remedy }
    }

    /// Renames every checkpoint after a step, so that it is kept and no longer counts. The newest goes first: whenever this
    /// is cut short, what is left is a run that can go on.
    #[cfg(not(target_arch = "wasm32"))]
    pub(super) fn set_aside_after(&self, step: u32) -> Result<(), FolderError> {
        for (_, path) in self.checkpoints()?.into_iter().rev().filter(|(newer, _)| *newer > step) {
            let aside = free_name(&path);
            std::fs::rename(&path, &aside).map_err(FileError::io("rename", &path))?;
        }
        Ok(())
    }
}

/// A name for a checkpoint that is set aside: `….safetensors.set-aside`, with a number if that is taken.
#[cfg(not(target_arch = "wasm32"))]
fn free_name(path: &std::path::Path) -> PathBuf {
    let named = |number: u64| {
        let mut name = path.as_os_str().to_owned();
        name.push(".set-aside");
        if number > 1 {
            name.push(format!("-{number}"));
        }
        PathBuf::from(name)
    };
    let mut number = 1;
    while named(number).exists() {
        number += 1;
    }
    named(number)
}

/// The step that comes next and the steps taken, as a checkpoint itself says; `named` is the step in its file's name.
fn counts(file: &TensorFile, named: u32) -> Result<(u32, u32), String> {
    let number = |key: &str| match file.metadata.get(key) {
        None => Ok(None),
        Some(text) => text.parse::<u32>().map(Some).map_err(|_| {
            format!("the metadata has {key} = {:?}; expected a number of steps", shortened(text))
        }),
    };
    let next_step = number(NEXT_STEP)?.ok_or_else(|| {
        format!("the metadata lacks {NEXT_STEP}, the step to go on at; a checkpoint has it")
    })?;
    if next_step != named {
        return Err(format!(
            "the name says step {named}, but the metadata has {NEXT_STEP} = {next_step}; the two must agree"
        ));
    }
    // Runs from before steps were counted apart took every one of them, as far as their optimizer knew.
    let taken = number(STEPS_TAKEN)?.unwrap_or(next_step);
    if taken > next_step {
        return Err(format!("the metadata has {STEPS_TAKEN} = {taken}, more than {NEXT_STEP} = {next_step}"));
    }
    Ok((next_step, taken))
}

/// The scale of the loss, of a run in f16; none of others, and of runs from before there was one.
fn loss_scale(file: &TensorFile) -> Result<Option<LossScale>, String> {
    let [scale, ..] = LOSS_SCALE;
    if !file.metadata.contains_key(scale) {
        return Ok(None);
    }
    let mut words = [0.0; LossScale::WORDS];
    for (word, key) in words.iter_mut().zip(LOSS_SCALE) {
        let text =
            file.metadata.get(key).ok_or_else(|| format!("the metadata has {scale}, but lacks {key}"))?;
        let found = || format!("the metadata has {key} = {:?}", shortened(text));
        *word = text.parse::<f32>().map_err(|_| format!("{}; expected a number", found()))?;
        let least = if key == scale { LossScale::LEAST } else { 0.0 };
        let is_whole = word.fract() == 0.0 && (least..=LossScale::MOST).contains(&f64::from(*word));
        if !is_whole || key == scale && f64::from(*word).log2().fract() != 0.0 {
            let expected = if key == scale { "a power of two" } else { "a whole number" };
            return Err(format!("{}; expected {expected} from {least} to {}", found(), LossScale::MOST));
        }
    }
    Ok(Some(LossScale::from_words(&words)))
}
