//! Sample grids: how far a run has come, as pictures.

use super::step::{EMA, Trainer};
use super::{TrainConfig, TrainError};
use crate::diffusion::{ConfigError, Sampler, Trajectory, UNet};
use crate::graph::{Caps, Plan};
use crate::io::save_grid;
use crate::sample::{Drawing, PictureSampler};
use std::path::Path;

/// Draws grids from the averaged weights by DDIM; the same noise at every call, so that grids compare.
pub(super) struct GridSampler(PictureSampler);

/// Pictures that are computed at once.
fn batch(config: &TrainConfig) -> usize {
    config.sample_count.min(config.batch)
}

fn trajectory(config: &TrainConfig) -> Result<Trajectory, ConfigError> {
    // A network that predicts the picture one step before cannot leave out a step.
    let steps = if config.objective.predicts_previous() { config.timesteps } else { config.sample_steps };
    Trajectory::new(&config.scheduler(Sampler::Ddim), steps, 0.0)
}

impl GridSampler {
    /// The plans of [`GridSampler::new`], to know their memory before anything is allocated.
    pub(super) fn plans(unet: &UNet, config: &TrainConfig, caps: &Caps) -> Result<[Plan; 2], TrainError> {
        Ok(PictureSampler::plans(unet, EMA, batch(config), &trajectory(config)?, caps)?)
    }

    pub(super) fn new(trainer: &Trainer) -> Result<Self, TrainError> {
        let config = &trainer.config;
        let sampler =
            PictureSampler::new(&trainer.store, &trainer.unet, EMA, batch(config), trajectory(config)?)?;
        Ok(Self(sampler))
    }

    /// Device bytes of its plans, without the states.
    pub(super) fn bytes(&self) -> u64 {
        self.0.bytes()
    }

    /// Draws the pictures and writes them as one PNG.
    pub(super) fn save(&self, trainer: &Trainer, path: &Path) -> Result<(), TrainError> {
        let config = &trainer.config;
        let embeddings = trainer.unet.config.num_class_embeds.unwrap_or(1);
        let classes = config.null_label().map_or(embeddings, |null| null as usize).max(1);
        let labels: Vec<u32> = (0..config.sample_count).map(|i| (i % classes) as u32).collect();
        let pictures = self.0.draw(&Drawing::new(config.sample_count, config.seed, &labels), |_| Ok(()))?;
        let (height, width) = trainer.unet.config.sample_size.get();
        let channels = trainer.unet.config.out_channels;
        let columns = grid_columns(config.sample_count, classes);
        Ok(save_grid(path, &pictures, height, width, channels, columns, 64)?)
    }
}

/// Columns of a grid: one for each class if that fills the rows, or else the squarest.
pub fn grid_columns(count: usize, classes: usize) -> usize {
    if classes > 1 && count >= classes && count.is_multiple_of(classes) {
        return classes;
    }
    (1..=count).find(|c| c * c >= count).unwrap_or(1)
}
