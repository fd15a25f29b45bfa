//! What the experiments that train have in common: a small network, glyphs, and the training of the one on the others.

use super::{Lab, LabError};
use crate::data::{AugmentOptions, Batch, Dataset, Loader, to_unit};
use crate::diffusion::{UNet, UNetConfig};
use crate::gpu::Blocking as _;
use crate::train::{Diffusion, Task, TrainConfig, Trainer};
use std::sync::Arc;

/// Classes of the built-in glyphs.
pub(super) const CLASSES: usize = 10;

/// 300 steps of 16 glyphs for a U-Net of 16 and 32 channels, conditioned on the class: then so small a network draws what
/// a person can read.
pub(super) fn small_run(seed: u64) -> TrainConfig {
    let base = TrainConfig::default();
    let unet = UNetConfig { block_out_channels: vec![16, 32], ..UNetConfig::preset(base.preset) };
    TrainConfig {
        class_conditional: true,
        steps: 300,
        warmup_steps: 30,
        learning_rate: 3e-3,
        ema_decay: 0.98,
        glyph_count: 10_000,
        unet: Some(UNetConfig { num_class_embeds: Some(CLASSES), ..unet }),
        seed,
        ..base
    }
}

/// Trains a task on pictures, from whose batches `batch_of` makes the task's, given the step. Progress goes by `name`.
pub(super) fn train<T: Task>(
    lab: &Lab,
    name: &str,
    task: T,
    config: &TrainConfig,
    pictures: &Arc<Dataset>,
    batch_of: impl Fn(Batch, u32) -> T::Batch,
) -> Result<Trainer<T>, LabError> {
    let initial = task.network().parameters().initial(config.seed);
    let mut trainer = Trainer::new(&lab.device, task, config.step_options()).block_on()?;
    trainer.set_parameters(&initial)?;
    let mut loader =
        Loader::new(pictures.clone(), config.batch, config.seed, AugmentOptions::default(), 0, 1);
    while trainer.next_step() < config.steps {
        let step = trainer.next_step();
        trainer.step(&config.hyper(step), || batch_of(loader.next(), step)).block_on()?;
        if trainer.log_is_full() {
            let rows = trainer.read_log().block_on()?;
            if let Some(row) = rows.last().filter(|row| (row.step + 1) % 100 == 0) {
                (lab.progress)(&format!("{name}: step {}, loss {:.4}", row.step + 1, row.loss));
            }
        }
    }
    Ok(trainer)
}

/// A diffusion model after its training.
pub(super) fn trained(
    lab: &Lab,
    name: &str,
    config: &TrainConfig,
    pictures: &Arc<Dataset>,
) -> Result<Trainer<Diffusion>, LabError> {
    let task = Diffusion::new(UNet::new(&config.unet_config(0))?, config);
    train(lab, name, task, config, pictures, |batch, _| (batch.images, batch.labels))
}

/// The first `of_each` pictures of every class, going through the classes in turn, in [-1, 1]. Fewer where a class has
/// fewer.
pub(super) fn in_turn(pictures: &Dataset, of_each: usize) -> Vec<Vec<f32>> {
    let mut by_class: Vec<Vec<Vec<f32>>> = vec![Vec::new(); CLASSES];
    for i in 0..pictures.len() {
        let class = &mut by_class[pictures.label(i) as usize % CLASSES];
        if class.len() < of_each {
            class.push(pictures.image(i).iter().map(|&byte| to_unit(byte)).collect());
        }
    }
    let count = by_class.iter().map(Vec::len).min().unwrap_or(0);
    (0..count * CLASSES).map(|i| by_class[i % CLASSES][i / CLASSES].clone()).collect()
}

/// Variance of a pixel among pictures of one class, averaged over pixels and classes. Pictures go through the classes
/// in turn.
pub(super) fn variance_within_classes(pictures: &[Vec<f32>]) -> f64 {
    let item = pictures[0].len();
    let count = pictures.len() / CLASSES;
    let variance = |class: usize, pixel: usize| {
        let values = || (0..count).map(|k| f64::from(pictures[k * CLASSES + class][pixel]));
        let mean = values().sum::<f64>() / count as f64;
        values().map(|x| (x - mean).powi(2)).sum::<f64>() / (count - 1) as f64
    };
    let of_class = |class: usize| (0..item).map(|pixel| variance(class, pixel)).sum::<f64>();
    (0..CLASSES).map(of_class).sum::<f64>() / (CLASSES * item) as f64
}
