//! What a run writes while it is under way, by the first rank of its group.

use super::grid::GridSampler;
use super::log::Log;
use super::plan::PictureTask;
use super::run::Observer;
use super::run_folder::Held;
use super::{Checkpoint, ModelFolder, Pictures, TrainError, TrainEvent};
use crate::io::FileError;
use crate::nn::Parameters;

/// The folder of a run under way.
pub(super) struct Output {
    pub folder: ModelFolder,
    pub pictures: Pictures,
    pub log: Log,
    pub grids: Option<GridSampler>,
    /// Pictures that could not be written: the first error, and how many.
    pub failed: Option<(FileError, usize)>,
    pub _held: Held,
}

impl Output {
    pub fn has_grid(&self, step: u32) -> bool {
        self.folder.grid_path(step).is_file()
    }

    pub fn draw_grid(&mut self, step: u32, observe: &mut Observer) -> Result<(), TrainError> {
        let Some(grids) = &self.grids else { return Ok(()) };
        match grids.save(&self.folder.grid_path(step)) {
            Ok(()) => observe(&TrainEvent::GridSaved { step }),
            Err(TrainError::File(e)) => self.note_failure(Err(e), observe),
            Err(e) => return Err(e),
        }
        Ok(())
    }

    /// A picture that cannot be written is told at once and at the end. The training goes on.
    fn note_failure(&mut self, drawn: Result<(), FileError>, observe: &mut Observer) {
        let Err(e) = drawn else { return };
        observe(&TrainEvent::Warning { message: e.to_string().trim_end_matches('.') });
        let count = self.failed.as_ref().map_or(0, |(_, count)| *count) + 1;
        self.failed = Some((self.failed.take().map_or(e, |(first, _)| first), count));
    }

    pub fn save_checkpoint(
        &mut self,
        parameters: &Parameters,
        checkpoint: Checkpoint,
    ) -> Result<(), TrainError> {
        self.log.sync()?;
        let pictures = Some(self.pictures.clone());
        self.folder.save_checkpoint(parameters, &Checkpoint { pictures, ..checkpoint })?;
        Ok(())
    }

    /// Draws the loss curve, and says which pictures are missing.
    #[cfg_attr(not(feature = "charts"), expect(unused_variables, reason = "only the curve may fail here"))]
    pub fn finish<T: PictureTask>(&mut self, observe: &mut Observer) -> Result<(), TrainError> {
        #[cfg(feature = "charts")]
        {
            let [log, curve] =
                [super::log::NAME, super::run_folder::LOSS_CURVE].map(|name| self.folder.path().join(name));
            let drawn = super::loss_curve(&log, &curve, T::LOSS);
            self.note_failure(drawn, observe);
        }
        match self.failed.take() {
            None => Ok(()),
            Some((first, count)) => Err(TrainError::Pictures { first: Box::new(first), count }),
        }
    }
}
