//! The run folder as the loop finds it and makes it: free, begun or done, and held by one process at a time.

use super::checkpoint::CheckpointFile;
use super::log::{self, Log};
use super::{FolderError, ModelFolder, TrainConfig, TrainError};
use crate::graph::Choices;
use crate::io::atomic::{is_temporary, write_atomic};
use crate::io::{FileError, remove_abandoned, write_json};
use serde::de::DeserializeOwned;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

/// An empty file that whoever trains in the folder has locked. It stays: a lock that is removed can be taken twice.
const LOCK: &str = ".inkwash-lock";
/// Further files that a run writes before its first checkpoint.
const CONFIG: &str = "config.toml";
pub(super) const DATA: &str = "data.json";
const CHOICES: &str = "tuning.json";
const SHADERS: &str = "shaders.json";
#[cfg(feature = "charts")]
pub(super) const LOSS_CURVE: &str = "loss.png";
#[cfg(not(feature = "charts"))]
const LOSS_CURVE: &str = "loss.png";

/// Names of WGSL files that a user changed, each with the checksum of its text.
pub(super) type Checksums = BTreeMap<String, String>;

/// What a folder holds, as far as a new run must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Contents {
    /// Nothing, or it is not there.
    Nothing,
    /// A run that ended before its first checkpoint, and nothing else: a new run may take its place.
    Begun,
    /// Something that must not be lost.
    Other,
}

/// A folder in which no other process trains while this lives. The operating system takes the lock off a dead process.
pub(super) struct Held {
    _lock: File,
}

impl ModelFolder {
    /// What lies in the folder.
    pub(super) fn contents(&self) -> Result<Contents, FolderError> {
        let entries = names(self.path())?;
        if entries.is_empty() {
            return Ok(Contents::Nothing);
        }
        // A configuration alone may be one that somebody wrote.
        let begun = entries.iter().any(|(name, _)| name == LOCK || name == "checkpoints");
        for (name, is_folder) in &entries {
            let ours = match (name.as_str(), is_folder) {
                (LOCK | CONFIG | DATA | CHOICES | SHADERS | LOSS_CURVE | log::NAME, false) => true,
                ("checkpoints", true) => {
                    names(&self.checkpoints_folder())?.iter().all(|(n, _)| is_temporary(n))
                }
                ("samples", true) => {
                    names(&self.samples_folder())?.iter().all(|(n, _)| is_grid(n) || is_temporary(n))
                }
                (name, false) => is_temporary(name),
                _ => false,
            };
            if !ours {
                return Ok(Contents::Other);
            }
        }
        Ok(if begun { Contents::Begun } else { Contents::Other })
    }

    /// Keeps other processes from training in the folder, which must be there.
    ///
    /// # Errors
    /// [`FolderError::InUse`], or whatever the disk says.
    pub(super) fn hold(&self) -> Result<Held, FolderError> {
        let path = self.path().join(LOCK);
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        self.locked(file.map_err(FileError::io("open", &path))?)
    }

    /// The same before anything may be written: `None` where there is no lock to take, as in the folder of an older version.
    pub(super) fn hold_early(&self) -> Result<Option<Held>, FolderError> {
        let file = File::options().read(true).write(true).open(self.path().join(LOCK));
        file.ok().map(|file| self.locked(file)).transpose()
    }

    fn locked(&self, file: File) -> Result<Held, FolderError> {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => Err(FolderError::InUse { path: self.path().to_path_buf() }),
            // Some file systems have no locks; there, whoever starts two runs in one folder is not stopped.
            Ok(()) | Err(TryLockError::Error(_)) => Ok(Held { _lock: file }),
        }
    }

    /// Makes the folder of a new run, in place of one that was only begun.
    pub(super) fn begin(&self, held: Option<Held>, config: &TrainConfig) -> Result<Held, TrainError> {
        create(self.path())?;
        let held = held.map_or_else(|| self.hold(), Ok)?;
        // Again, for another process may have come and gone since.
        if self.contents()? == Contents::Other {
            return Err(TrainError::OutputTaken(self.path().to_path_buf()));
        }
        for name in [log::NAME, LOSS_CURVE, DATA, CHOICES, SHADERS] {
            remove(&self.path().join(name))?;
        }
        for (name, _) in names(&self.samples_folder())?.iter().filter(|(name, _)| is_grid(name)) {
            remove(&self.samples_folder().join(name))?;
        }
        self.go_on(config)?;
        Ok(held)
    }

    /// Keeps the algorithms that were measured for the run, so that it computes the same bits when it goes on.
    pub(super) fn keep_choices(&self, choices: &Choices) -> Result<(), FileError> {
        if choices.is_empty() { Ok(()) } else { write_json(&self.path().join(CHOICES), &json!(choices)) }
    }

    /// The algorithms that were measured for the run: none if nothing was.
    pub(super) fn choices(&self) -> Result<Choices, FileError> {
        self.kept(
            CHOICES,
            "names of algorithms",
            "put back the file that the run wrote, or delete it: the run then goes on with the algorithms of the rule, and may \
             round otherwise",
        )
    }

    /// Keeps the checksums of the shaders that a user put in the place of embedded ones.
    pub(super) fn keep_shaders(&self, checksums: &Checksums) -> Result<(), FileError> {
        let path = self.path().join(SHADERS);
        if checksums.is_empty() { remove(&path) } else { write_json(&path, &json!(checksums)) }
    }

    /// What a user's shaders were when the run was last trained.
    pub(super) fn shaders(&self) -> Result<Checksums, FileError> {
        self.kept(
            SHADERS,
            "checksums of shaders",
            "put back the file that the run wrote, or delete it: nothing is then said of shaders that have changed",
        )
    }

    /// What a file of the folder holds; the default if there is none.
    fn kept<T: DeserializeOwned + Default>(
        &self,
        name: &str,
        expected: &'static str,
        remedy: &'static str,
    ) -> Result<T, FileError> {
        let path = self.path().join(name);
        match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|e| FileError::malformed(&path, "JSON", e.to_string(), expected, remedy)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(T::default()),
            Err(e) => Err(FileError::io("read", &path)(e)),
        }
    }

    /// Makes ready what is missing in the folder of a run, removes what killed processes have left, and keeps the
    /// configuration.
    pub(super) fn go_on(&self, config: &TrainConfig) -> Result<(), TrainError> {
        self.remove_abandoned();
        create(&self.checkpoints_folder())?;
        if config.network.draws_pictures() {
            create(&self.samples_folder())?;
        }
        let path = self.path().join(CONFIG);
        let text = toml::to_string(config)
            .map_err(|e| FolderError::Toml { path: path.clone(), message: e.to_string() })?;
        // Not written anew where it says the same, so that its date tells when the run was changed.
        if std::fs::read(&path).ok().as_deref() != Some(text.as_bytes()) {
            write_atomic(&path, |file| file.write_all(text.as_bytes()))?;
        }
        Ok(())
    }

    /// Removes the temporary files of killed processes.
    pub(super) fn remove_abandoned(&self) {
        [self.path(), &self.checkpoints_folder(), &self.samples_folder()]
            .into_iter()
            .for_each(remove_abandoned);
    }

    /// Whether nothing is left to do for a run of so many steps that has this checkpoint: what belongs to its last step is
    /// there too.
    pub(super) fn is_done(
        &self,
        config: &TrainConfig,
        checkpoint: &CheckpointFile,
    ) -> Result<bool, FolderError> {
        let step = checkpoint.next_step;
        if step != config.steps {
            return Ok(step > config.steps);
        }
        let measures = checkpoint.pictures.as_ref().is_some_and(|pictures| pictures.held_out > 0);
        Ok(self.step_of_weights() == Some(step)
            && (!measures || Log::has_held_out(&self.path().join(log::NAME), step)?)
            && (!config.network.draws_pictures() || self.grid_path(step).is_file())
            && self.has_its_loss_curve())
    }

    /// Whether the loss curve is not older than the log.
    #[cfg(feature = "charts")]
    fn has_its_loss_curve(&self) -> bool {
        let modified =
            |name| std::fs::metadata(self.path().join(name)).and_then(|about| about.modified()).ok();
        modified(LOSS_CURVE).is_some_and(|drawn| modified(log::NAME).is_none_or(|logged| logged <= drawn))
    }

    #[cfg(not(feature = "charts"))]
    fn has_its_loss_curve(&self) -> bool {
        true
    }

    fn samples_folder(&self) -> PathBuf {
        self.path().join("samples")
    }

    /// The sample grid of a step.
    pub(super) fn grid_path(&self, step: u32) -> PathBuf {
        self.samples_folder().join(format!("step-{step:06}.png"))
    }

    /// In words, for a run that ends with an error: what of it is safe, and how to go on.
    pub(super) fn state(&self) -> String {
        let folder = self.path().display();
        match self.checkpoints().ok().and_then(|mut all| all.pop()) {
            Some((step, _)) => format!(
                "The checkpoint of step {step} is whole; `inkwash train --resume {folder}` goes on from there"
            ),
            None => format!(
                "The run has no checkpoint yet; `inkwash train --resume {folder}` begins it again, and so does the same \
                 command with other settings"
            ),
        }
    }
}

/// Whether this is the name of a sample grid.
fn is_grid(name: &str) -> bool {
    let step = name.strip_prefix("step-").and_then(|name| name.strip_suffix(".png"));
    step.is_some_and(|step| step.len() >= 6 && step.bytes().all(|b| b.is_ascii_digit()))
}

/// The names in a folder, and which of them are folders; none if it is not there.
fn names(folder: &Path) -> Result<Vec<(String, bool)>, FolderError> {
    let failed = |source| FileError::io("list", folder)(source).into();
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(failed(e)),
    };
    let named = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry?;
        // A name that is not UTF-8 is none of ours, whatever it becomes.
        Ok((entry.file_name().to_string_lossy().into_owned(), entry.file_type()?.is_dir()))
    };
    entries.map(named).collect::<std::io::Result<_>>().map_err(failed)
}

fn create(folder: &Path) -> Result<(), FolderError> {
    Ok(std::fs::create_dir_all(folder).map_err(FileError::io("make the folder", folder))?)
}

/// Removes a file, if it is there.
fn remove(path: &Path) -> Result<(), FileError> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(FileError::io("remove", path)(e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_begun_run_writes_may_be_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let run = ModelFolder::new(folder.path().join("run"));
        let write = |name: &str| {
            let path = run.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        };
        let contents = || run.contents().unwrap();
        assert_eq!(contents(), Contents::Nothing);
        std::fs::create_dir(run.path()).unwrap();
        assert_eq!(contents(), Contents::Nothing);
        // A configuration that somebody wrote there beforehand.
        write("config.toml");
        assert_eq!(contents(), Contents::Other);
        drop(run.hold().unwrap());
        assert_eq!(contents(), Contents::Begun);
        for name in
            ["log.jsonl", "loss.png", "data.json", "samples/step-000500.png", ".inkwash-0123456789ab.tmp"]
        {
            write(name);
            assert_eq!(contents(), Contents::Begun, "{name}");
        }
        std::fs::create_dir(run.path().join("checkpoints")).unwrap();
        write("checkpoints/.inkwash-0123456789ab.tmp");
        assert_eq!(contents(), Contents::Begun);
        for name in [
            "notes.txt",
            "model.safetensors",
            "checkpoints/step-000001.safetensors",
            "checkpoints/step-000001.safetensors.set-aside",
            "samples/mine.png",
            "other/file",
        ] {
            write(name);
            assert_eq!(contents(), Contents::Other, "{name}");
            std::fs::remove_file(run.path().join(name)).unwrap();
        }
        assert_eq!(contents(), Contents::Other, "a folder of somebody else's");
        std::fs::remove_dir(run.path().join("other")).unwrap();

        // As a new run in its place leaves it.
        let config = TrainConfig::default();
        let held = run.begin(None, &config).unwrap();
        assert_eq!(run.config().unwrap(), config);
        let mut left: Vec<String> = names(run.path()).unwrap().into_iter().map(|(name, _)| name).collect();
        left.sort();
        assert_eq!(left, [".inkwash-lock", "checkpoints", "config.toml", "samples"]);
        assert!(names(&run.samples_folder()).unwrap().is_empty());
        assert!(names(&run.checkpoints_folder()).unwrap().is_empty());
        drop(held);
    }

    #[test]
    fn one_process_at_a_time_holds_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        let run = ModelFolder::new(folder.path());
        let held = run.hold().unwrap();
        let error = run.hold().err().unwrap().to_string();
        assert!(error.contains("another process is training in") && error.contains("--out"), "{error}");
        drop(held);
        assert!(run.hold().is_ok());
    }
}
