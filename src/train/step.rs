//! One training step as two graphs that share their states: `micro` goes from pictures to gradients, once
//! per micro-batch; `update` from gradients to new weights. Here diffusion and gpu meet.

use super::{TimestepSampling, TrainConfig};
use crate::diffusion::{NoiseSchedule, Sampler, UNet};
use crate::gpu::{Blocking as _, Device, Executable, RunError, Store};
use crate::graph::{Caps, Graph, GraphError, Plan, ValueId};
use crate::ops::{
    Accumulate, Add, AddNoise, AddTwoNoises, GradientNorm, HYPER, MseLoss, Record, STEP_WORDS, Scale,
    StepWords,
};
use crate::rng::{Stream, key, philox4x32};
use crate::tensor::{Array, Spec};
use std::sync::Arc;

/// States that outlive a step, by name.
pub const PARAMETERS: &str = "parameters";
/// The moving average of the parameters.
pub const EMA: &str = "ema";
/// AdamW's first moment.
pub const FIRST_MOMENT: &str = "first_moment";
/// AdamW's second moment.
pub const SECOND_MOMENT: &str = "second_moment";
const GRADIENTS: &str = "gradients";
const MICRO_GRADIENTS: &str = "micro_gradients";
const LOSS: &str = "loss";
const LOG: &str = "log";

/// Inputs of the micro graph.
#[derive(Clone, Debug)]
pub struct Micro {
    /// Pictures (B, H, W, C) in [-1, 1].
    pub pictures: ValueId,
    /// Labels u32 (B), if the network is class-conditional.
    pub labels: Option<ValueId>,
    /// u32 (8).
    pub step: ValueId,
    /// The loss (1), for graphs that keep it readable.
    pub loss: ValueId,
}

/// Inputs of the update graph.
#[derive(Clone, Debug)]
pub struct Update {
    /// u32 (8).
    pub step: ValueId,
    /// f32 (8).
    pub hyper: ValueId,
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
                    schedule.training_table(0..schedule.steps(), config.prediction, weight)
                }
                TimestepSampling::LogitNormal => {
                    let steps = schedule.logit_normal_steps(config.logit_mean, config.logit_deviation);
                    schedule.training_table(steps, config.prediction, weight)
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

/// Noise, network and loss: what training and evaluation share.
fn loss_graph(
    unet: &UNet,
    config: &TrainConfig,
    batch: usize,
    weights: &str,
) -> Result<(Graph, Vec<ValueId>, Micro), GraphError> {
    let (height, width) = unet.config.sample_size.get();
    let mut graph = Graph::new();
    let pictures = graph.input("pictures", Spec::f32([batch, height, width, unet.config.in_channels]));
    let labels = unet.config.num_class_embeds.map(|_| graph.input("labels", Spec::u32([batch])));
    let step = graph.input("step", Spec::u32([STEP_WORDS]));
    let flat = graph.state(weights, Spec::f32([unet.flat_elements]));
    let parameters = unet.views(&mut graph, flat)?;
    graph.enter("noise");
    let (table, two) = noise_table(config);
    let table = graph.constant("schedule", table);
    let noised = match two {
        false => graph.apply_all(AddNoise, &[pictures, table, step])?,
        true => graph.apply_all(AddTwoNoises, &[pictures, table, step])?,
    };
    graph.leave();
    let [x_t, target, t, weight] = [noised[0], noised[1], noised[2], noised[3]];
    let prediction = unet.forward(&mut graph, &parameters, x_t, t, labels)?;
    graph.enter("loss");
    let loss = graph.apply(MseLoss, &[prediction, target, weight])?;
    graph.leave();
    Ok((graph, parameters, Micro { pictures, labels, step, loss }))
}

/// Pictures → gradients in the state `gradients`, and the loss in the state `loss`, both averaged over the
/// micro-batches.
pub fn micro_graph(unet: &UNet, config: &TrainConfig) -> Result<(Graph, Micro), GraphError> {
    let (mut graph, parameters, micro) = loss_graph(unet, config, config.batch, PARAMETERS)?;
    let share = 1.0 / f64::from(config.accumulate);
    let seed = graph.constant("d_loss", Array::new([1], vec![share]));
    let gradients = graph.backward(Add, &[(micro.loss, seed)], &parameters)?;
    graph.enter("gradients");
    let gradients: Vec<ValueId> = parameters.iter().map(|p| gradients[p]).collect();
    let packed = unet.pack(&mut graph, &gradients)?;
    if config.accumulate == 1 {
        graph.persist(GRADIENTS, packed);
        graph.persist(LOSS, micro.loss);
    } else {
        // A state, which begins as zeros: in a slot, the gaps between parameters would hold what other tensors
        // left there, and the norm of the sum would count it.
        graph.persist(MICRO_GRADIENTS, packed);
        let sum = graph.state(GRADIENTS, Spec::f32([unet.flat_elements]));
        graph.apply(Accumulate, &[sum, packed, micro.step])?;
        let scaled = graph.apply(Scale(share as f32), &[micro.loss])?;
        let sum = graph.state(LOSS, Spec::f32([1]));
        graph.apply(Accumulate, &[sum, scaled, micro.step])?;
    }
    graph.leave();
    Ok((graph, micro))
}

/// Gradients → clipped AdamW step, moving average, and a row of the log.
pub fn update_graph(unet: &UNet, config: &TrainConfig) -> Result<(Graph, Update), GraphError> {
    let flat = Spec::f32([unet.flat_elements]);
    let mut graph = Graph::new();
    let step = graph.input("step", Spec::u32([STEP_WORDS]));
    let hyper = graph.input("hyper", Spec::f32([HYPER]));
    let [p, g, m, v, ema] =
        [PARAMETERS, GRADIENTS, FIRST_MOMENT, SECOND_MOMENT, EMA].map(|name| graph.state(name, flat.clone()));
    let loss = graph.state(LOSS, Spec::f32([1]));
    let log = graph.state(LOG, Spec::f32([config.log_every as usize, 4]));
    graph.enter("update");
    let norm = graph.apply(GradientNorm, &[g, hyper])?;
    graph.apply_all(config.optimizer(), &[p, g, m, v, ema, norm, hyper])?;
    graph.apply(Record, &[log, loss, norm, step])?;
    graph.leave();
    Ok((graph, Update { step, hyper }))
}

/// Pictures → loss of the averaged weights, without gradients.
pub fn evaluation_graph(unet: &UNet, config: &TrainConfig) -> Result<(Graph, Micro), GraphError> {
    let (mut graph, _, micro) = loss_graph(unet, config, config.batch, EMA)?;
    graph.output("held_out_loss", micro.loss);
    Ok((graph, micro))
}

/// Labels of a micro-batch with the fraction `label_dropout` of them replaced by the one that stands for none, so that one
/// network learns to draw with a class and without (arXiv 2207.12598, algorithm 1).
fn with_some_left_out(mut labels: Vec<u32>, config: &TrainConfig, words: &StepWords) -> Vec<u32> {
    let Some(null) = config.null_label() else { return labels };
    for (label, item) in labels.iter_mut().zip(words.first_item..) {
        let bits = philox4x32([0, words.step, Stream::LabelDropout as u32, item], key(words.seed))[0];
        if f64::from(bits) < config.label_dropout * 2f64.powi(32) {
            *label = null;
        }
    }
    labels
}

/// One row of the log.
#[derive(Clone, Copy, Debug)]
pub struct LogRow {
    /// Optimizer step, from 0.
    pub step: u32,
    /// Training loss of that step.
    pub loss: f32,
    /// Norm of its gradient before clipping.
    pub gradient_norm: f32,
    /// Whether the gradient was finite; the step was skipped if not.
    pub finite: bool,
}

/// The plans of a training run, before any device: what `--dry-run` prints.
#[derive(Clone, Debug)]
pub struct TrainPlans {
    /// Pictures to gradients.
    pub micro: (Plan, Micro),
    /// Gradients to weights.
    pub update: (Plan, Update),
}

impl TrainPlans {
    /// Plans both graphs.
    pub fn new(unet: &UNet, config: &TrainConfig, caps: &Caps) -> Result<Self, RunError> {
        let (graph, micro) = micro_graph(unet, config)?;
        let micro = (Plan::new(graph, caps)?, micro);
        let (graph, update) = update_graph(unet, config)?;
        Ok(Self { micro, update: (Plan::new(graph, caps)?, update) })
    }

    /// Device bytes of both plans together.
    pub fn bytes(&self) -> u64 {
        Plan::bytes_together(&[&self.micro.0, &self.update.0])
    }

    /// Floating-point operations of the model per picture, forward and backward, as convolutions and
    /// matrix products are counted.
    pub fn model_flops_per_picture(&self, batch: usize) -> u64 {
        self.micro.0.graph.cost().matrix_flops / batch.max(1) as u64
    }
}

/// A training run on a device.
pub struct Trainer {
    /// What decides the run.
    pub config: TrainConfig,
    /// The network.
    pub unet: UNet,
    /// States on the device.
    pub store: Arc<Store>,
    micro: (Executable, Micro),
    update: (Executable, Update),
    next_step: u32,
    unread: u32,
}

impl Trainer {
    /// Allocates and compiles everything. States are zero until [`Trainer::set_parameters`].
    pub fn new(device: &Arc<Device>, unet: UNet, config: &TrainConfig) -> Result<Self, RunError> {
        let plans = TrainPlans::new(&unet, config, &device.caps)?;
        let store = Store::new(device);
        let micro = (Executable::new(&store, plans.micro.0).block_on()?, plans.micro.1);
        let update = (Executable::new(&store, plans.update.0).block_on()?, plans.update.1);
        Ok(Self { config: config.clone(), unet, store, micro, update, next_step: 0, unread: 0 })
    }

    /// Device bytes allocated: states, working memory, inputs, launch parameters.
    pub fn allocated_bytes(&self) -> u64 {
        self.store.bytes() + self.micro.0.bytes() + self.update.0.bytes()
    }

    /// Sets the weights, and their average to the same, as at the beginning of a run.
    pub fn set_parameters(&mut self, flat: &[f32]) -> Result<(), RunError> {
        let zeros = vec![0.0; flat.len()];
        self.set_states(0, [flat, &zeros, &zeros, flat])
    }

    /// Sets parameters, first moment, second moment and average, to go on at a step.
    pub fn set_states(&mut self, next_step: u32, states: [&[f32]; 4]) -> Result<(), RunError> {
        for (name, data) in [PARAMETERS, FIRST_MOMENT, SECOND_MOMENT, EMA].into_iter().zip(states) {
            self.store.write(name, data)?;
        }
        self.next_step = next_step;
        self.unread = 0;
        Ok(())
    }

    /// Reads parameters, first moment, second moment and average.
    pub fn states(&self) -> Result<[Vec<f32>; 4], RunError> {
        let [p, m, v, ema] = [PARAMETERS, FIRST_MOMENT, SECOND_MOMENT, EMA].map(|n| self.store.read(n));
        Ok([p.block_on()?, m.block_on()?, v.block_on()?, ema.block_on()?].map(Option::unwrap_or_default))
    }

    /// The step that comes next.
    pub fn next_step(&self) -> u32 {
        self.next_step
    }

    /// Runs one optimizer step; `next_batch` gives pictures (B, H, W, C) and labels for each micro-batch.
    /// Does not wait for the device.
    pub fn step(&mut self, mut next_batch: impl FnMut() -> (Vec<f32>, Vec<u32>)) -> Result<(), RunError> {
        let config = &self.config;
        let step = self.next_step;
        let mut words =
            StepWords { seed: config.seed, step, row: step % config.log_every, ..StepWords::default() };
        for micro in 0..config.accumulate {
            let (pictures, labels) = next_batch();
            words.micro = micro;
            words.first_item = micro * config.batch as u32;
            let (executable, inputs) = &self.micro;
            executable.write(inputs.pictures, &pictures);
            if let Some(value) = inputs.labels {
                executable.write_u32(value, &with_some_left_out(labels, config, &words));
            }
            executable.write_u32(inputs.step, &words.words());
            executable.run().block_on()?;
        }
        let (executable, inputs) = &self.update;
        executable.write_u32(inputs.step, &words.words());
        executable.write(inputs.hyper, &config.hyper(step));
        executable.run().block_on()?;
        self.next_step += 1;
        self.unread += 1;
        Ok(())
    }

    /// Whether the log is full and must be read before the next step.
    pub fn log_is_full(&self) -> bool {
        self.unread >= self.config.log_every
    }

    /// Waits for the device and reads the rows of the steps since the last call (at most `log_every`).
    pub fn read_log(&mut self) -> Result<Vec<LogRow>, RunError> {
        let rows = self.store.read(LOG).block_on()?.unwrap_or_default();
        let first = self.next_step - self.unread.min(self.config.log_every);
        self.unread = 0;
        Ok((first..self.next_step)
            .map(|step| {
                let row = (step % self.config.log_every) as usize * 4;
                LogRow { step, loss: rows[row], gradient_norm: rows[row + 1], finite: rows[row + 3] != 0.0 }
            })
            .collect())
    }

    /// The profile of one micro-batch and update with whatever was uploaded last: label, operator, seconds
    /// of each launch.
    pub fn profile(&self) -> Result<Vec<(String, &'static str, f64)>, RunError> {
        let mut rows = Vec::new();
        for executable in [&self.micro.0, &self.update.0] {
            let plan = executable.plan();
            for (launch, seconds) in plan.launches.iter().zip(executable.profile().block_on()?) {
                rows.push((plan.label(launch), plan.graph.nodes[launch.node].op.name(), seconds));
            }
        }
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::UNetConfig;

    #[test]
    fn the_given_fraction_of_the_labels_is_left_out() {
        let unet = UNetConfig { num_class_embeds: Some(11), ..UNetConfig::default() };
        let config = TrainConfig { label_dropout: 0.2, unet: Some(unet), ..TrainConfig::default() };
        let count = |words: StepWords| {
            let labels = with_some_left_out(vec![3; 10_000], &config, &words);
            assert!(labels.iter().all(|&label| label == 3 || label == 10));
            labels.iter().filter(|&&label| label == 10).count()
        };
        // 2000 and a standard deviation of 40.
        let words = StepWords { seed: 1, step: 5, ..StepWords::default() };
        assert!((1800..2200).contains(&count(words)));
        // A batch in parts has the same labels as a whole one.
        let part = |first_item| with_some_left_out(vec![3; 50], &config, &StepWords { first_item, ..words });
        let whole = with_some_left_out(vec![3; 100], &config, &words);
        assert_eq!([part(0), part(50)].concat(), whole);
        let none = TrainConfig { label_dropout: 0.0, ..config.clone() };
        assert_eq!(with_some_left_out(vec![3; 50], &none, &words), [3; 50]);
    }
}
