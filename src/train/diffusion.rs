//! The task of a diffusion model: to predict from a noisy picture its noise, or the picture, or what else the
//! configuration has as its prediction.

use super::{LossGraph, Task};
use super::{PictureBatch, TimestepSampling, TrainConfig};
use crate::diffusion::{NoiseSchedule, Sampler, UNet};
use crate::gpu::Executable;
use crate::graph::{Graph, GraphError, Phase, ValueId};
use crate::nn::{Network, Weights};
use crate::ops::{AddNoise, AddTwoNoises, MseLoss, STEP_WORDS, StepWords};
use crate::rng::{Stream, key, philox4x32};
use crate::tensor::{Array, DType, Spec};

/// A U-Net and how it is trained.
#[derive(Debug)]
pub struct Diffusion {
    /// The network.
    pub unet: UNet,
    /// Schedule, prediction, weights and draws of the noise.
    pub config: TrainConfig,
}

/// Inputs of the loss.
#[derive(Clone, Copy, Debug)]
pub struct DiffusionInputs {
    /// Pictures (B, H, W, C) in [-1, 1].
    pub pictures: ValueId,
    /// Labels u32 (B), if the network is class-conditional.
    pub labels: Option<ValueId>,
}

/// The rows that each item of a batch draws one of, and whether they are of two noises.
fn noise_table(config: &TrainConfig) -> (Array, bool) {
    let schedule = NoiseSchedule::of(&config.scheduler(Sampler::Ddim));
    let (mut table, two) = match schedule.two_noise_table(config.objective) {
        Some(table) => (table, true),
        None => {
            let weight = |level| config.weighting.of(level, config.prediction, config.min_snr_gamma);
            let table = match config.timestep_sampling {
                TimestepSampling::Uniform => {
                    schedule.training_table(0..schedule.timesteps(), config.prediction, weight)
                }
                TimestepSampling::LogitNormal => {
                    let timesteps =
                        schedule.logit_normal_timesteps(config.logit_mean, config.logit_deviation);
                    schedule.training_table(timesteps, config.prediction, weight)
                }
            };
            (table, false)
        }
    };
    if !config.conditions_on_time() {
        // The time is the last column of either.
        let columns = table.shape.last();
        table.data.chunks_exact_mut(columns).for_each(|row| row[columns - 1] = 0.0);
    }
    (table, two)
}

impl Diffusion {
    /// A network with its training, in the precision of the configuration.
    pub fn new(unet: UNet, config: &TrainConfig) -> Self {
        Self { unet: unet.in_precision(config.precision), config: config.clone() }
    }
}

impl Task for Diffusion {
    type Inputs = DiffusionInputs;
    type Batch = PictureBatch;

    fn network(&self) -> &dyn Network {
        &self.unet
    }

    /// Noise, network and mean squared error.
    fn loss_graph(&self, weights: &Weights, batch: usize) -> Result<LossGraph<DiffusionInputs>, GraphError> {
        let unet = &self.unet;
        let (height, width) = unet.config.sample_size.get();
        let mut graph = Graph::new();
        let pictures = graph.input("pictures", Spec::f32([batch, height, width, unet.config.in_channels]));
        let labels = unet.config.num_class_embeds.map(|_| graph.input("labels", Spec::u32([batch])));
        let step = graph.input("step", Spec::u32([STEP_WORDS]));
        let parameters = unet.parameters.views_of_weights(&mut graph, weights)?;
        graph.set_phase(Phase::Noise);
        graph.enter("noise");
        let (table, two) = noise_table(&self.config);
        let table = graph.constant("schedule", table);
        let noised = match two {
            false => graph.apply_all(AddNoise { dtype: DType::F32 }, &[pictures, table, step])?,
            true => graph.apply_all(AddTwoNoises { dtype: DType::F32 }, &[pictures, table, step])?,
        };
        graph.leave();
        let [x_t, target, t, weight] = [noised[0], noised[1], noised[2], noised[3]];
        graph.set_phase(Phase::Forward);
        let prediction = unet.forward(&mut graph, &parameters, x_t, t, labels)?;
        graph.set_phase(Phase::Loss);
        graph.enter("loss");
        let loss = graph.apply(MseLoss, &[prediction, target, weight])?;
        graph.leave();
        Ok(LossGraph {
            graph,
            parameters,
            step: Some(step),
            loss,
            inputs: DiffusionInputs { pictures, labels },
        })
    }

    fn vary(&self, (pictures, labels): PictureBatch, words: &StepWords) -> PictureBatch {
        (pictures, drop_labels(labels, &self.config, words))
    }

    fn upload(&self, executable: &Executable, inputs: &DiffusionInputs, (pictures, labels): &PictureBatch) {
        executable.write(inputs.pictures, pictures);
        if let Some(value) = inputs.labels {
            executable.write_u32(value, labels);
        }
    }
}

/// Labels of a micro-batch with the fraction `label_dropout` of them replaced by the one that stands for none, so that one
/// network learns to draw with a class and without (arXiv 2207.12598, algorithm 1).
fn drop_labels(mut labels: Vec<u32>, config: &TrainConfig, words: &StepWords) -> Vec<u32> {
    let Some(null) = config.null_label() else { return labels };
    for (label, item) in labels.iter_mut().zip(words.first_item..) {
        let bits = philox4x32([0, words.step, Stream::LabelDropout as u32, item], key(words.seed))[0];
        if f64::from(bits) < config.label_dropout * 2f64.powi(32) {
            *label = null;
        }
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::UNetConfig;

    #[test]
    fn the_given_fraction_of_the_labels_is_dropped() {
        let unet = UNetConfig { num_class_embeds: Some(11), ..UNetConfig::default() };
        let config = TrainConfig { label_dropout: 0.2, unet: Some(unet), ..TrainConfig::default() };
        let count = |words: StepWords| {
            let labels = drop_labels(vec![3; 10_000], &config, &words);
            assert!(labels.iter().all(|&label| label == 3 || label == 10));
            labels.iter().filter(|&&label| label == 10).count()
        };
        // 2000 and a standard deviation of 40.
        let words = StepWords { seed: 1, step: 5, ..StepWords::default() };
        assert!((1800..2200).contains(&count(words)));
        // A batch in parts has the same labels as a whole one.
        let part = |first_item| drop_labels(vec![3; 50], &config, &StepWords { first_item, ..words });
        let whole = drop_labels(vec![3; 100], &config, &words);
        assert_eq!([part(0), part(50)].concat(), whole);
        let none = TrainConfig { label_dropout: 0.0, ..config.clone() };
        assert_eq!(drop_labels(vec![3; 50], &none, &words), [3; 50]);
    }
}
