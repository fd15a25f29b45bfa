//! The held-out loss.

use super::step::{Trainer, evaluation_graph};
use super::{Micro, TrainConfig};
use crate::data::{AugmentOptions, Dataset, batch_at};
use crate::gpu::{Blocking as _, Executable, RunError};
use crate::graph::Plan;
use crate::ops::StepWords;
use std::sync::Arc;

/// The held-out loss: a fixed set of pictures under fixed noise, with the averaged weights.
pub(super) struct Evaluation {
    executable: Executable,
    inputs: Micro,
    pictures: Arc<Dataset>,
    batches: u64,
}

/// Held-out pictures that are looked at, at most: the standard error of the mean over 512 pictures with one
/// t each is some 3 % of the loss.
const HELD_OUT_PICTURES: usize = 512;

impl Evaluation {
    pub(super) fn new(trainer: &Trainer, pictures: Dataset) -> Result<Option<Self>, RunError> {
        if pictures.is_empty() {
            return Ok(None);
        }
        let (graph, inputs) = evaluation_graph(&trainer.unet, &trainer.config)?;
        let plan = Plan::new(graph, &trainer.store.device().caps)?;
        let executable = Executable::new(&trainer.store, plan).block_on()?;
        let batches = pictures.len().min(HELD_OUT_PICTURES).div_ceil(trainer.config.batch) as u64;
        Ok(Some(Self { executable, inputs, pictures: Arc::new(pictures), batches }))
    }

    /// The mean loss over the batches. The noise is that of a seed of its own, the same at every call.
    pub(super) fn loss(&self, config: &TrainConfig) -> Result<f64, RunError> {
        let mut sum = 0.0;
        for k in 0..self.batches {
            let batch = batch_at(&self.pictures, config.batch, config.seed, AugmentOptions::default(), k);
            let first_item = u32::try_from(k * config.batch as u64).unwrap_or(u32::MAX);
            let words = StepWords { seed: !config.seed, first_item, ..StepWords::default() };
            self.executable.write(self.inputs.pictures, &batch.images);
            if let Some(labels) = self.inputs.labels {
                self.executable.write_u32(labels, &batch.labels);
            }
            self.executable.write_u32(self.inputs.step, &words.words());
            self.executable.run().block_on()?;
            sum += f64::from(self.executable.read(self.inputs.loss).block_on()?[0]);
        }
        Ok(sum / self.batches as f64)
    }

    /// Device bytes of its plan, without the states.
    pub(super) fn bytes(&self) -> u64 {
        self.executable.bytes()
    }
}
