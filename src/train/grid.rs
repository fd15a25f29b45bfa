//! Sample grids: how far a run has come, as pictures.

use super::{Diffusion, TrainConfig, TrainError, TrainStates, Trainer};
use crate::diffusion::{Sampler, Trajectory};
use crate::gpu::Blocking as _;
use crate::graph::{Caps, Plan};
use crate::io::{GridExtent, save_grid};
use crate::nn::ConfigError;
use crate::sample::{Drawing, PictureSampler};
use std::path::Path;

/// Draws grids from the averaged weights by DDIM; the same noise at every call, so that grids compare.
pub(super) struct GridSampler {
    sampler: PictureSampler,
    /// One for each picture.
    labels: Vec<u32>,
    seed: u64,
    /// Height, width, channels.
    shape: [usize; 3],
    columns: usize,
}

/// The shorter side of a picture in the grid, at least.
const MIN_SIDE: usize = 64;

/// How many pictures the grids of a run show, and in how many columns: as many as it asks for, if a drawing holds them.
/// `config` has the network in full.
pub(super) fn grid_extent(config: &TrainConfig) -> GridExtent {
    let [height, width, _] = config.picture_shape();
    let embeddings = config.unet_config(0).num_class_embeds.unwrap_or(1);
    let columns = grid_columns(config.sample_count, classes(embeddings, config));
    GridExtent::new(config.sample_count, columns, height, width, MIN_SIDE)
}

/// Pictures that are computed at once.
fn batch(config: &TrainConfig) -> usize {
    grid_extent(config).shown.min(config.batch)
}

fn trajectory(config: &TrainConfig) -> Result<Trajectory, ConfigError> {
    // A network that predicts the picture one step before cannot leave out a step.
    let steps = if config.objective.predicts_previous() { config.timesteps } else { config.sample_steps };
    Trajectory::new(&config.scheduler(Sampler::Ddim), steps, 0.0)
}

impl GridSampler {
    /// The plans of [`GridSampler::new`], to know their memory before anything is allocated.
    pub(super) fn plans(
        Diffusion { unet, config }: &Diffusion,
        states: &TrainStates,
        caps: &Caps,
    ) -> Result<[Plan; 2], TrainError> {
        Ok(PictureSampler::plans(unet, &states.ema, batch(config), &trajectory(config)?, caps)?)
    }

    pub(super) fn new(trainer: &Trainer<Diffusion>) -> Result<Self, TrainError> {
        let Diffusion { unet, config } = &trainer.task;
        let (store, ema) = (&trainer.store, &trainer.states.ema);
        let sampler = PictureSampler::new(store, unet, ema, batch(config), trajectory(config)?).block_on()?;
        let classes = classes(unet.config.num_class_embeds.unwrap_or(1), config);
        let GridExtent { columns, shown } = grid_extent(config);
        let (height, width) = unet.config.sample_size.get();
        Ok(Self {
            sampler,
            labels: (0..shown).map(|i| (i % classes) as u32).collect(),
            seed: config.seed,
            shape: [height, width, unet.config.out_channels],
            columns,
        })
    }

    /// Device bytes of its plans, without the states.
    pub(super) fn bytes(&self) -> u64 {
        self.sampler.bytes()
    }

    /// Draws the pictures and writes them as one PNG.
    pub(super) fn save(&self, path: &Path) -> Result<(), TrainError> {
        let drawing = Drawing::new(self.labels.len(), self.seed, &self.labels);
        let pictures = self.sampler.draw(&drawing, async |_| Ok(())).block_on()?;
        let [height, width, channels] = self.shape;
        Ok(save_grid(path, &pictures, height, width, channels, self.columns, MIN_SIDE)?)
    }
}

/// Classes that can be drawn, of a network with so many embeddings; 1 without any.
fn classes(embeddings: usize, config: &TrainConfig) -> usize {
    config.null_label().map_or(embeddings, |null| null as usize).max(1)
}

/// Columns of a grid: one for each class if that fills the rows, or else the squarest.
pub fn grid_columns(count: usize, classes: usize) -> usize {
    if classes > 1 && count >= classes && count.is_multiple_of(classes) {
        return classes;
    }
    (1..=count).find(|c| c * c >= count).unwrap_or(1)
}
