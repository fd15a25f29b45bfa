//! AdamW and the moving average: on the network over some steps, and on a short vector with given gradients.

use super::network::{Network, WEIGHTS, add_noise, picture_shape, vanishes};
use super::oracle::OptimizerSetup;
use super::{Limit, Oracle, Report, Row, VerifyError, channels_last, distance, wide};
use crate::diffusion::{NoiseSchedule, Prediction, UNet};
use crate::gpu::{Blocking as _, Device, Executable, RunError, Store};
use crate::graph::{Graph, Plan, ValueId};
use crate::io::Tensor;
use crate::model::Model;
use crate::ops::{AdamW, GradientNorm, HYPER};
use crate::tensor::Spec;
use crate::train::{EmaWarmup, LearningRate, TrainConfig};
use std::sync::Arc;

const GRADIENTS: &str = "gradients";
const FIRST_MOMENT: &str = "first_moment";
const SECOND_MOMENT: &str = "second_moment";
const AVERAGE: &str = "average";

/// One step of AdamW from given gradients.
const STEP: Limit = Limit::Relative(1e-6);

/// Weights after some steps from our own gradients. AdamW divides each gradient by its size, so that rounding in a
/// gradient that is next to nothing becomes a whole step of one element: PyTorch's own weights in f32 and f64 are up
/// to 1e-4 apart.
const WEIGHTS_AFTER: f64 = 1e-3;

/// The optimizer's kernels on a flat vector.
struct Optimizer {
    executable: Executable,
    hyper: ValueId,
    store: Arc<Store>,
    setup: OptimizerSetup,
    steps: u32,
}

impl Optimizer {
    fn new(store: &Arc<Store>, elements: usize, setup: OptimizerSetup) -> Result<Self, VerifyError> {
        let flat = Spec::f32([elements]);
        let mut graph = Graph::new();
        let hyper = graph.input("hyper", Spec::f32([HYPER]));
        let [p, g, m, v, average] = [WEIGHTS, GRADIENTS, FIRST_MOMENT, SECOND_MOMENT, AVERAGE]
            .map(|name| graph.state(name, flat.clone()));
        let norm = graph.apply(GradientNorm, &[g, hyper])?;
        let adamw = AdamW {
            beta1: setup.beta1 as f32,
            beta2: setup.beta2 as f32,
            epsilon: setup.epsilon as f32,
            weight_decay: setup.weight_decay as f32,
        };
        graph.apply_all(adamw, &[p, g, m, v, average, norm, hyper])?;
        let plan = Plan::new(graph, &store.device().caps).map_err(RunError::from)?;
        let executable = Executable::new(store, plan).block_on()?;
        Ok(Self { executable, hyper, store: store.clone(), setup, steps: 0 })
    }

    /// Weights and their average, with moments of zero.
    fn start(&mut self, weights: &[f32]) -> Result<(), VerifyError> {
        let zeros = vec![0.0; weights.len()];
        let states = [WEIGHTS, AVERAGE, FIRST_MOMENT, SECOND_MOMENT];
        for (name, data) in states.into_iter().zip([weights, weights, &zeros, &zeros]) {
            self.store.write(name, data)?;
        }
        self.steps = 0;
        Ok(())
    }

    /// A step from the gradients in the store.
    fn step(&mut self) -> Result<(), VerifyError> {
        self.steps += 1;
        let t = f64::from(self.steps);
        let s = &self.setup;
        let hyper = [
            s.learning_rate,
            1.0 - s.beta1.powf(t),
            1.0 - s.beta2.powf(t),
            s.ema_decay,
            s.clip_norm,
            0.0,
            0.0,
            0.0,
        ];
        self.executable.write(self.hyper, &hyper.map(|h| h as f32));
        Ok(self.executable.run().block_on()?)
    }

    fn read(&self, name: &str) -> Result<Vec<f32>, VerifyError> {
        Ok(self.store.read(name).block_on()?.unwrap_or_default())
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

    // 1. Pictures to gradients, and gradients to weights, as two plans on one store.
    let store = Store::new(device);
    let mut optimizer = Optimizer::new(&store, unet.flat_elements, setup)?;
    optimizer.start(&model.weights)?;
    let mut network = Network::new(unet, [n, h, w], false)?;
    let (target_input, loss) = network.loss(Spec::f32([n, h, w, target_channels]))?;
    let gradients = network.gradients(loss)?;
    let packed = unet.pack(&mut network.graph, &gradients)?;
    network.graph.persist(GRADIENTS, packed);
    network.graph.output("loss", loss);
    let plan = Plan::new(network.graph, &device.caps).map_err(RunError::from)?;
    let executable = Executable::new(&store, plan).block_on()?;

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
        executable.write(network.x, &channels_last(&x_t));
        executable.write(network.timestep, times);
        executable.write(target_input, &channels_last(&target));
        if let (Some(value), Some(labels)) = (network.labels, &labels) {
            executable.write_u32(value, &labels[step * n..(step + 1) * n]);
        }
        executable.run().block_on()?;
        losses.extend(wide(&executable.read(loss).block_on()?));
        if step == 0 {
            first_step(&mut optimizer, unet, oracle, stored.filter(|s| same_batch(s, &x_0)), report)?;
        }
        optimizer.step()?;
        let (weights, average) = (optimizer.read(WEIGHTS)?, optimizer.read(AVERAGE)?);
        for (prefix, flat) in [("param", &weights), ("ema", &average)] {
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

/// The first step from the oracle's own gradients, where they are stored: what is left is AdamW's arithmetic alone.
fn first_step(
    optimizer: &mut Optimizer,
    unet: &UNet,
    oracle: &Oracle,
    stored: Option<&Oracle>,
    report: &mut Report,
) -> Result<(), VerifyError> {
    let Some(stored) = stored else { return Ok(()) };
    let (weights, ours) = (optimizer.read(WEIGHTS)?, optimizer.read(GRADIENTS)?);
    let mut gradients = ours.clone();
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
    optimizer.store.write(GRADIENTS, &gradients)?;
    optimizer.step()?;
    let stepped = optimizer.read(WEIGHTS)?;
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
    // Back to before, with the network's own gradients.
    optimizer.start(&weights)?;
    optimizer.store.write(GRADIENTS, &ours)?;
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
        let store = Store::new(device);
        let weights = padded(&start.data);
        let mut optimizer = Optimizer::new(&store, weights.len(), oracle.variant(&variant)?)?;
        optimizer.start(&weights)?;
        let (mut path, mut averages) = (Vec::with_capacity(steps * count), Vec::with_capacity(steps * count));
        for gradient in grads.data.chunks_exact(count) {
            store.write(GRADIENTS, &padded(gradient))?;
            optimizer.step()?;
            path.extend(wide(&optimizer.read(WEIGHTS)?[..count]));
            averages.extend(wide(&optimizer.read(AVERAGE)?[..count]));
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
