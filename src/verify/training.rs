//! AdamW and the moving average: on the network over some steps, and on a short vector with given gradients. Both run the
//! graphs that training runs.

use super::network::{NetworkGraph, add_noise, picture_shape, vanishes};
use super::oracle::OptimizerSetup;
use super::{Limit, Oracle, Report, Row, VerifyError, channels_last, distance, wide};
use crate::diffusion::{NoiseSchedule, Prediction, UNet};
use crate::gpu::{Blocking as _, Device, Executable, Store};
use crate::graph::{Checkpointing, GraphError, ValueId};
use crate::io::Tensor;
use crate::model::Model;
use crate::nn::{Network, Weights};
use crate::ops::{AdamW, Hyper, StepWords};
use crate::tensor::Spec;
use crate::train::{
    EmaWarmup, Group, LearningRate, LossGraph, StepOptions, Task, TrainConfig, TrainStates, Trainer, Updater,
};
use std::sync::Arc;

/// One step of AdamW from given gradients.
const STEP: Limit = Limit::Relative(1e-6);

/// Weights after some steps from our own gradients. AdamW divides each gradient by its size, so that rounding in a
/// gradient that is next to nothing becomes a whole step of one element: PyTorch's own weights in f32 and f64 are up
/// to 1e-4 apart.
const WEIGHTS_AFTER: f64 = 1e-3;

impl OptimizerSetup {
    fn adamw(&self) -> AdamW {
        AdamW {
            beta1: self.beta1 as f32,
            beta2: self.beta2 as f32,
            epsilon: self.epsilon as f32,
            weight_decay: self.weight_decay as f32,
            copy: false,
        }
    }

    fn hyper(&self) -> Hyper {
        let &Self { learning_rate, ema_decay, clip_norm, .. } = self;
        Hyper { learning_rate, ema_decay, max_norm: clip_norm }
    }
}

/// Updates from given gradients.
struct GivenGradients {
    store: Arc<Store>,
    states: TrainStates,
    updater: Updater,
    hyper: Hyper,
}

impl GivenGradients {
    fn new(device: &Arc<Device>, weights: &[f32], setup: &OptimizerSetup) -> Result<Self, VerifyError> {
        let store = Store::new(device);
        let states = TrainStates::new(weights.len(), 1);
        store.write(&states.parameters, weights)?;
        store.write(&states.ema, weights)?;
        let updater = Updater::new(&store, &states, &setup.adamw()).block_on()?;
        Ok(Self { store, states, updater, hyper: setup.hyper() })
    }

    /// The weights and their average after one more step.
    fn step(&self, gradients: &[f32]) -> Result<(Vec<f32>, Vec<f32>), VerifyError> {
        self.store.write(&self.states.gradients, gradients)?;
        self.updater.run(&self.hyper, &StepWords::default()).block_on()?;
        Ok((
            self.store.read(&self.states.parameters).block_on()?,
            self.store.read(&self.states.ema).block_on()?,
        ))
    }
}

/// To predict a given target from given noisy pictures.
struct GivenTarget<'a> {
    unet: &'a UNet,
    /// N, H, W.
    shape: [usize; 3],
    target_channels: usize,
}

/// What a batch is uploaded to.
struct GivenInputs {
    x: ValueId,
    timestep: ValueId,
    target: ValueId,
    labels: Option<ValueId>,
}

/// A batch as an oracle has it, channels last.
struct GivenBatch {
    x_t: Vec<f32>,
    times: Vec<f32>,
    target: Vec<f32>,
    labels: Option<Vec<u32>>,
}

impl Task for GivenTarget<'_> {
    type Inputs = GivenInputs;
    type Batch = GivenBatch;

    fn network(&self) -> &dyn Network {
        self.unet
    }

    fn loss_graph(&self, weights: &Weights, batch: usize) -> Result<LossGraph<GivenInputs>, GraphError> {
        let [_, h, w] = self.shape;
        let mut network = NetworkGraph::new(self.unet, &weights.flat, [batch, h, w], false)?;
        let (target, loss) = network.loss(Spec::f32([batch, h, w, self.target_channels]))?;
        let NetworkGraph { graph, parameters, x, timestep, labels, .. } = network;
        Ok(LossGraph {
            graph,
            parameters,
            step: None,
            loss,
            inputs: GivenInputs { x, timestep, target, labels },
        })
    }

    fn upload(&self, executable: &Executable, inputs: &GivenInputs, batch: &GivenBatch) {
        executable.write(inputs.x, &batch.x_t);
        executable.write(inputs.timestep, &batch.times);
        executable.write(inputs.target, &batch.target);
        if let (Some(value), Some(labels)) = (inputs.labels, &batch.labels) {
            executable.write_u32(value, labels);
        }
    }
}

/// Training steps on the oracle's batches. `stored` may hold the gradients of the first.
pub(super) fn check(
    device: &Arc<Device>,
    model: &Model,
    oracle: &Oracle,
    stored: Option<&Oracle>,
    report: &mut Report,
) -> Result<(), VerifyError> {
    let unet = &model.unet;
    let setup = oracle.training()?;
    let x0 = oracle.tensor("batch.x0")?;
    let &[steps, ref batch_shape @ ..] = x0.shape.as_slice() else {
        return Err(oracle.error("tensor `batch.x0` is a scalar; expected (steps, N, C, H, W)").into());
    };
    let [n, h, w] = picture_shape(oracle, "batch.x0", batch_shape, unet)?;
    let channels = unet.config.in_channels;
    let given = oracle.tensors.get("batch.target");
    let target_channels = match given.map(|t| t.shape.as_slice()) {
        None => channels,
        Some(&[s, b, c, th, tw]) if (s, b, th, tw) == (steps, n, h, w) => c,
        Some(found) => {
            return Err(oracle
                .error(format!("tensor `batch.target` has shape {found:?}; `batch.x0` {:?}", x0.shape))
                .into());
        }
    };
    let noise = oracle.shaped("batch.noise", &x0.shape)?;
    let timestep = oracle.shaped("batch.timestep", &[steps, n])?;
    let labels = oracle.labels("batch.class_labels", steps * n, unet.config.num_class_embeds)?;

    // 1. The trainer, from the model's weights.
    let task = GivenTarget { unet, shape: [n, h, w], target_channels };
    let options = StepOptions {
        batch: n,
        accumulate: 1,
        seed: 0,
        log_every: 1,
        optimizer: setup.adamw(),
        fusion: true,
        checkpointing: Checkpointing::None,
        choices: Arc::default(),
        group: Group::alone(),
    };
    let mut trainer = Trainer::new(device, task, options).block_on()?;
    trainer.set_parameters(&model.weights)?;

    // 2. The steps.
    let schedule = NoiseSchedule::of(&model.scheduler);
    let part = |tensor: &Tensor, step: usize| {
        let length = tensor.data.len() / steps;
        Tensor {
            shape: tensor.shape[1..].to_vec(),
            data: tensor.data[step * length..(step + 1) * length].to_vec(),
        }
    };
    let mut losses = Vec::with_capacity(steps);
    for step in 0..steps {
        let (x_0, noise) = (part(x0, step), part(noise, step));
        let times = &timestep.data[step * n..(step + 1) * n];
        let x_t = add_noise(device, oracle, &schedule, &x_0, &noise, times)?;
        let x_t = Tensor { shape: batch_shape.to_vec(), data: x_t.iter().map(|&v| v as f32).collect() };
        let target = match given {
            Some(given) => part(given, step),
            None => target(model.scheduler.prediction_type, &schedule, &x_0, &noise, times),
        };
        let batch = GivenBatch {
            x_t: channels_last(&x_t),
            times: times.to_vec(),
            target: channels_last(&target),
            labels: labels.as_ref().map(|labels| labels[step * n..(step + 1) * n].to_vec()),
        };
        let mut batch = Some(batch);
        let mut next = || batch.take().expect("a step without accumulation takes one batch");
        trainer.step(&setup.hyper(), &mut next).block_on()?;
        losses.extend(trainer.read_log().block_on()?.iter().map(|row| f64::from(row.loss)));
        if step == 0 {
            let ours = trainer.store.read(&trainer.states.gradients).block_on()?;
            let stored = stored.filter(|s| same_batch(s, &x_0));
            first_step(device, &setup, model, oracle, stored, &ours, report)?;
        }
        let checkpoint = trainer.checkpoint().block_on()?;
        let [weights, _, _, average] = &checkpoint.states;
        for (prefix, flat) in [("param", weights), ("ema", average)] {
            let prefix = format!("{prefix}_step{}.", step + 1);
            if prefix == "param_step1."
                && report.computed.contains_key(&format!("{prefix}{}", unet.parameters[0].name))
            {
                continue;
            }
            compare_flat(report, unet, oracle, &prefix, flat, step + 1, &setup)?;
        }
    }
    // AdamW turns rounding of small gradients into whole steps, and the later losses see them.
    report.compare(oracle, "losses", &losses, Limit::Relative(1e-4))
}

/// What the network is to predict, per item at its timestep.
fn target(
    prediction: Prediction,
    schedule: &NoiseSchedule,
    x_0: &Tensor,
    noise: &Tensor,
    times: &[f32],
) -> Tensor {
    let item = x_0.data.len() / times.len().max(1);
    let value = |(i, (&x_0, &e)): (usize, (&f32, &f32))| {
        let (of_e, of_x) = schedule.level(Some(times[i / item] as usize)).target(prediction);
        (of_e * f64::from(e) + of_x * f64::from(x_0)) as f32
    };
    Tensor {
        shape: x_0.shape.clone(),
        data: x_0.data.iter().zip(&noise.data).enumerate().map(value).collect(),
    }
}

fn same_batch(stored: &Oracle, x_0: &Tensor) -> bool {
    stored.tensors.get("x0") == Some(x_0)
}

/// The first step from the oracle's own gradients, where they are stored, and from `ours` elsewhere: what is left is
/// AdamW's arithmetic alone.
fn first_step(
    device: &Arc<Device>,
    setup: &OptimizerSetup,
    model: &Model,
    oracle: &Oracle,
    stored: Option<&Oracle>,
    ours: &[f32],
    report: &mut Report,
) -> Result<(), VerifyError> {
    let Some(stored) = stored else { return Ok(()) };
    let unet = &model.unet;
    let mut gradients = ours.to_vec();
    let mut strides = Vec::with_capacity(unet.parameters.len());
    for p in &unet.parameters {
        let name = format!("grad.{}", p.name);
        let stride = if stored.has(&name) { stored.stride(&name, p.elements())? } else { 0 };
        strides.push(stride);
        if stride > 0 {
            let range = p.offset..p.offset + p.elements();
            let mut file = p.to_file(&ours[range.clone()]);
            for (element, &g) in file.iter_mut().step_by(stride).zip(&stored.tensor(&name)?.data) {
                *element = g;
            }
            gradients[range].copy_from_slice(&p.to_device(&file));
        }
    }
    let (stepped, _) = GivenGradients::new(device, &model.weights, setup)?.step(&gradients)?;
    for (p, stride) in unet.parameters.iter().zip(strides) {
        let name = format!("param_step1.{}", p.name);
        let Some(theirs) = oracle.tensors.get(&name) else { continue };
        let every = oracle.stride(&name, p.elements())?;
        let file = p.to_file(&stepped[p.offset..p.offset + p.elements()]);
        let thinned: Vec<f64> = file.iter().step_by(every).map(|&v| v.into()).collect();
        report.keep(&name, &theirs.shape, &thinned)?;
        // Both are thinned: only where both have the element is the step that of a stored gradient.
        let known = |i: &usize| stride > 0 && (i * every).is_multiple_of(stride);
        let (a, b): (Vec<f64>, Vec<f64>) =
            (0..thinned.len()).filter(known).map(|i| (thinned[i], f64::from(theirs.data[i]))).unzip();
        let (max_abs, relative_l2) = distance(&a, &b);
        let note = if a.len() == thinned.len() {
            "from the stored gradient".to_string()
        } else {
            format!("from the stored gradient, {} of {}", a.len(), thinned.len())
        };
        report.rows.push(Row { name, shape: theirs.shape.clone(), max_abs, relative_l2, limit: STEP, note });
    }
    Ok(())
}

/// Weights or averages after some steps with the network's own gradients.
fn compare_flat(
    report: &mut Report,
    unet: &UNet,
    oracle: &Oracle,
    prefix: &str,
    flat: &[f32],
    steps: usize,
    setup: &OptimizerSetup,
) -> Result<(), VerifyError> {
    let average = prefix.starts_with("ema");
    for p in &unet.parameters {
        let name = format!("{prefix}{}", p.name);
        if !oracle.has(&name) {
            continue;
        }
        let every = oracle.stride(&name, p.elements())?;
        let file = p.to_file(&flat[p.offset..p.offset + p.elements()]);
        let thinned: Vec<f64> = file.iter().step_by(every).map(|&v| v.into()).collect();
        // What of the weights' distance gets into their average.
        let share = if average { (1.0 - setup.ema_decay) * steps as f64 } else { 1.0 };
        let (limit, note) = if vanishes(&p.name) {
            (Limit::Absolute(2.0 * setup.learning_rate * steps as f64 * share), "its gradient is rounding")
        } else {
            (Limit::Relative(WEIGHTS_AFTER * share), "from our own gradients")
        };
        report.compare(oracle, &name, &thinned, limit)?;
        if let Some(row) = report.rows.last_mut() {
            row.note = note.into();
        }
    }
    Ok(())
}

/// The optimizer on a short vector, decays of the moving average, and learning rates.
pub(super) fn check_optimizer(
    device: &Arc<Device>,
    oracle: &Oracle,
    report: &mut Report,
) -> Result<(), VerifyError> {
    let start = oracle.tensor("p0")?;
    let count = start.data.len();
    let variants: Vec<String> =
        oracle.tensors.keys().filter_map(|k| k.strip_suffix(".params")).map(String::from).collect();
    for variant in variants {
        let name = format!("{variant}.params");
        let &[steps, width] = oracle.tensor(&name)?.shape.as_slice() else {
            return Err(oracle.error(format!("tensor `{name}` must be (steps, elements)")).into());
        };
        let grads = oracle.shaped("grads", &[steps, width])?;
        if width != count || count == 0 {
            return Err(oracle
                .error(format!("tensor `{name}` has {width} elements a step, `p0` has {count}"))
                .into());
        }
        // A flat vector begins and ends at multiples of 64 elements; what is too much stays zero.
        let padded = |data: &[f32]| {
            let mut data = data.to_vec();
            data.resize(count.next_multiple_of(crate::ops::ALIGNMENT), 0.0);
            data
        };
        let optimizer = GivenGradients::new(device, &padded(&start.data), &oracle.variant(&variant)?)?;
        let (mut path, mut averages) = (Vec::with_capacity(steps * count), Vec::with_capacity(steps * count));
        for gradient in grads.data.chunks_exact(count) {
            let (weights, average) = optimizer.step(&padded(gradient))?;
            path.extend(wide(&weights[..count]));
            averages.extend(wide(&average[..count]));
        }
        report.compare(oracle, &name, &path, STEP)?;
        report.compare(oracle, &format!("{variant}.ema"), &averages, STEP)?;
    }
    let config = |ema_warmup| TrainConfig { ema_decay: 0.9999, ema_warmup, ..TrainConfig::default() };
    for (name, warmup) in [("ema.decay_plain", EmaWarmup::Ratio), ("ema.decay_warmup", EmaWarmup::Power)] {
        if let (Some(at), true) = (oracle.tensors.get("ema.step"), oracle.has(name)) {
            let config = config(warmup);
            // Step 1 is the first there, step 0 here.
            let decays: Vec<f64> =
                at.data.iter().map(|&n| config.ema_decay_at((n as u32).saturating_sub(1))).collect();
            report.compare(oracle, name, &decays, STEP)?;
        }
    }
    for (name, learning_rate_schedule, warmup_steps) in [
        ("lr.constant", LearningRate::Constant, 0),
        ("lr.constant_with_warmup", LearningRate::Constant, 10),
        ("lr.linear", LearningRate::Linear, 10),
        ("lr.cosine", LearningRate::Cosine, 10),
    ] {
        let Some(rates) = oracle.tensors.get(name) else { continue };
        let steps = u32::try_from(rates.data.len()).unwrap_or(u32::MAX);
        let config = TrainConfig {
            learning_rate: 1.0,
            learning_rate_schedule,
            warmup_steps,
            steps,
            ..TrainConfig::default()
        };
        let rates: Vec<f64> = (0..steps).map(|step| config.learning_rate_at(step)).collect();
        report.compare(oracle, name, &rates, STEP)?;
    }
    Ok(())
}
