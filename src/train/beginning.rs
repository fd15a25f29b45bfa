//! Where a run begins: anew, or at a checkpoint of its folder.

use super::checkpoint::CheckpointFile;
use super::run::Observer;
use super::run_folder::{Contents, Held};
use super::{FolderError, ModelFolder, TrainConfig, TrainError, TrainEvent};

/// Where a run begins. Only the first rank of a group looks into the folder.
#[derive(Default)]
pub(super) struct Beginning {
    /// Where it goes on.
    pub checkpoint: Option<CheckpointFile>,
    /// The configuration that the run had, if it is one that goes on.
    pub had: Option<TrainConfig>,
    /// None where nobody has trained yet.
    pub held: Option<Held>,
}

impl Beginning {
    /// A new run.
    pub fn new(folder: &ModelFolder, observe: &mut Observer) -> Result<Self, TrainError> {
        let held = match folder.contents()? {
            Contents::Nothing => None,
            Contents::Begun => {
                let held = folder.hold_early()?;
                let message = format!(
                    "{} holds a run that ended before its first checkpoint; a new one takes its place",
                    folder.path().display()
                );
                observe(&TrainEvent::Note { message: &message });
                held
            }
            Contents::Other => return Err(TrainError::OutputTaken(folder.path().to_path_buf())),
        };
        Ok(Self { checkpoint: None, had: None, held })
    }

    /// A run that goes on; `None`, said, if there is nothing left to do for it.
    pub fn resumed(
        folder: &ModelFolder,
        config: &TrainConfig,
        from_step: Option<u32>,
        observe: &mut Observer,
    ) -> Result<Option<Self>, TrainError> {
        if folder.contents()? == Contents::Nothing {
            return Err(FolderError::NotARun { path: folder.path().to_path_buf() }.into());
        }
        let held = folder.hold_early()?;
        let checkpoint = match folder.open_checkpoint(from_step) {
            Ok(checkpoint) => Some(checkpoint),
            Err(FolderError::NoCheckpoint { .. }) if folder.contents()? == Contents::Begun => None,
            Err(e) => return Err(e.into()),
        };
        if let Some(checkpoint) = &checkpoint
            && from_step.is_none()
            && folder.is_done(config, checkpoint)?
        {
            folder.remove_abandoned();
            observe(&TrainEvent::NothingToDo { step: checkpoint.next_step, steps: config.steps });
            return Ok(None);
        }
        if checkpoint.is_none() {
            let message = format!(
                "{} holds a run that ended before its first checkpoint; it begins again at step 0",
                folder.path().display()
            );
            observe(&TrainEvent::Note { message: &message });
        }
        // A folder that was put together by hand may have checkpoints alone.
        let had = folder.path().join("config.toml").is_file().then(|| folder.config()).transpose()?;
        Ok(Some(Self { checkpoint, had, held }))
    }

    /// Steps done.
    pub fn step(&self) -> u32 {
        self.checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.next_step)
    }
}
