//! Output, activations, loss and gradients of the network on one batch.

use super::update::Update;
use super::{Limit, Oracle, Report, VerifyError, channels_first, channels_last, wide};
use crate::diffusion::{NoiseSchedule, UNet};
use crate::gpu::{Blocking as _, Device, Executable, RunError, Store};
use crate::graph::{Graph, GraphError, Plan, State, ValueId};
use crate::io::Tensor;
use crate::model::Model;
use crate::ops::{Add, MseLoss, SliceChannels};
use crate::tensor::{Array, Spec};
use std::sync::Arc;

/// The sum of 10^3 products has about 30 roundings' worth of error in f32, and the network is some 100 layers deep.
const OUTPUT: Limit = Limit::Relative(1e-5);
/// Activations in the middle of the network are not averaged by what follows.
const ACTIVATION: Limit = Limit::Relative(2e-5);
/// A gradient has gone through the network twice.
const GRADIENT: Limit = Limit::Relative(1e-4);

/// Inputs and outputs of a network in a graph.
pub(super) struct NetworkGraph {
    pub graph: Graph,
    pub parameters: Vec<ValueId>,
    pub x: ValueId,
    pub timestep: ValueId,
    pub labels: Option<ValueId>,
    pub output: ValueId,
    pub activations: Vec<(String, ValueId)>,
}

impl NetworkGraph {
    pub fn new(
        unet: &UNet,
        weights: &State,
        [n, h, w]: [usize; 3],
        recorded: bool,
    ) -> Result<Self, GraphError> {
        let mut graph = Graph::new();
        let flat = graph.state(weights);
        let parameters = unet.parameters.views(&mut graph, flat)?;
        let x = graph.input("x", Spec::f32([n, h, w, unet.config.in_channels]));
        let timestep = graph.input("timestep", Spec::f32([n]));
        let labels = unet.config.num_class_embeds.map(|_| graph.input("labels", Spec::u32([n])));
        let (output, activations) = if recorded {
            unet.forward_recorded(&mut graph, &parameters, x, timestep, labels)?
        } else {
            (unet.forward(&mut graph, &parameters, x, timestep, labels)?, Vec::new())
        };
        Ok(Self { graph, parameters, x, timestep, labels, output, activations })
    }

    /// Appends the mean squared error against `target` (N, H, W, C) and returns both. Of a network with 2C channels
    /// the first C count.
    pub fn loss(&mut self, target: Spec) -> Result<(ValueId, ValueId), GraphError> {
        let (n, channels) = (target.shape[0], target.shape[3]);
        let graph = &mut self.graph;
        let mut prediction = self.output;
        if graph.shape(prediction)[3] == 2 * channels {
            prediction = graph.apply(SliceChannels { start: 0, count: channels }, &[prediction])?;
        }
        let target = graph.input("target", target);
        let weight = graph.constant("weight", Array::new([n], vec![1.0; n]));
        Ok((target, graph.apply(MseLoss, &[prediction, target, weight])?))
    }

    /// Appends the gradients of the parameters.
    pub fn gradients(&mut self, loss: ValueId) -> Result<Vec<ValueId>, GraphError> {
        let one = self.graph.constant("d_loss", Array::new([1], vec![1.0]));
        let by_value = self.graph.backward(Add, &[(loss, one)], &self.parameters)?;
        Ok(self.parameters.iter().map(|p| by_value[p]).collect())
    }
}

/// N, H, W of pictures (N, C, H, W) that the network takes.
pub(super) fn picture_shape(
    oracle: &Oracle,
    name: &str,
    shape: &[usize],
    unet: &UNet,
) -> Result<[usize; 3], VerifyError> {
    let channels = unet.config.in_channels;
    let halvings = unet.config.block_out_channels.len() - 1;
    match *shape {
        [n, c, h, w] if n > 0 && c == channels && h > 0 && w > 0 && h % (1 << halvings) == 0 && w % (1 << halvings) == 0 => {
            Ok([n, h, w])
        }
        _ => Err(oracle
            .error(format!(
                "tensor `{name}` has shape {shape:?}; this network takes (N, {channels}, H, W) with sides that halve {halvings} times"
            ))
            .into()),
    }
}

/// What the loss compares with: `target`, or `noise`, which it is where the network predicts ε.
fn target(oracle: &Oracle) -> Option<&Tensor> {
    oracle.tensors.get("target").or_else(|| oracle.tensors.get("noise"))
}

pub(super) fn check(
    device: &Arc<Device>,
    model: &Model,
    oracle: &Oracle,
    report: &mut Report,
) -> Result<(), VerifyError> {
    let unet = &model.unet;
    let sample = oracle.tensor("sample")?;
    let shape = picture_shape(oracle, "sample", &sample.shape, unet)?;
    let [n, h, w] = shape;
    let timestep = oracle.shaped("timestep", &[n])?;
    let labels = oracle.labels("class_labels", n, unet.config.num_class_embeds)?;
    let with_gradients = oracle.has_prefix("grad.") || oracle.has("grad_norm");

    // 1. One graph for all of it. What was not asked for is not kept.
    let weights = unet.parameters.state("weights");
    let mut network = NetworkGraph::new(unet, &weights, shape, oracle.has_prefix("act."))?;
    network.graph.output("output", network.output);
    let mut kept = Vec::new();
    for (name, value) in network.activations.clone() {
        let name = format!("act.{name}");
        if oracle.has(&name) {
            network.graph.output(&name, value);
            kept.push((name, value));
        }
    }
    let target = target(oracle).filter(|_| with_gradients || oracle.has("loss"));
    let mut loss = None;
    let mut gradients = Vec::new();
    if let Some(target) = target {
        let &[_, channels, ..] = target.shape.as_slice() else {
            return Err(oracle
                .error(format!("the loss's target has shape {:?}; expected (N, C, H, W)", target.shape))
                .into());
        };
        let (input, value) = network.loss(Spec::f32([n, h, w, channels]))?;
        oracle_shape(oracle, "the loss's target", target, [n, channels, h, w])?;
        network.graph.output("loss", value);
        if with_gradients {
            gradients = network.gradients(value)?;
            for &gradient in &gradients {
                network.graph.output("gradient", gradient);
            }
        }
        loss = Some((input, value, channels_last(target)));
    }

    // 2. Run.
    let store = Store::new(device);
    store.write(&weights, &model.weights)?;
    let plan = Plan::new(network.graph, &device.caps).map_err(RunError::from)?;
    let executable = Executable::new(&store, plan).block_on()?;
    executable.write(network.x, &channels_last(sample));
    executable.write(network.timestep, &timestep.data);
    if let (Some(value), Some(labels)) = (network.labels, &labels) {
        executable.write_u32(value, labels);
    }
    if let Some((input, _, target)) = &loss {
        executable.write(*input, target);
    }
    executable.run().block_on()?;

    // 3. Compare.
    let read = |value, name: &str| -> Result<Vec<f64>, VerifyError> {
        let shape = oracle.tensors.get(name).map_or(&[][..], |t| &t.shape);
        Ok(channels_first(&executable.read(value).block_on()?, shape))
    };
    let x_t = noised(device, model, oracle)?;
    if let Some(x_t) = x_t {
        report.compare(oracle, "x_t", &x_t, Limit::Relative(1e-6))?;
    }
    match oracle.tensors.get("output") {
        Some(expected) => {
            let shape = [n, unet.config.out_channels, h, w];
            oracle_shape(oracle, "tensor `output`", expected, shape)?;
            report.compare(oracle, "output", &read(network.output, "output")?, OUTPUT)?;
        }
        None => {
            let shape = [n, unet.config.out_channels, h, w];
            report.keep(
                "output",
                &shape,
                &channels_first(&executable.read(network.output).block_on()?, &shape),
            )?;
        }
    }
    for (name, value) in kept {
        let elements = oracle.tensor(&name)?.data.len();
        if executable.read(value).block_on()?.len() != elements {
            return Err(oracle.error(format!("tensor `{name}` is not the shape of this network's")).into());
        }
        report.compare(oracle, &name, &read(value, &name)?, ACTIVATION)?;
    }
    if let Some((_, value, _)) = &loss {
        report.compare(oracle, "loss", &read(*value, "loss")?, OUTPUT)?;
    }
    if !gradients.is_empty() {
        let mut square = 0.0;
        let mut all = Vec::with_capacity(gradients.len());
        for (p, &value) in unet.parameters.iter().zip(&gradients) {
            let gradient = p.to_file(&executable.read(value).block_on()?);
            square += gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>();
            all.push(gradient);
        }
        report.compare(oracle, "grad_norm", &[square.sqrt()], GRADIENT)?;
        for (p, gradient) in unet.parameters.iter().zip(&all) {
            let name = format!("grad.{}", p.name);
            if !oracle.has(&name) {
                continue;
            }
            let stride = oracle.stride(&name, p.elements())?;
            let thinned: Vec<f64> = gradient.iter().step_by(stride).map(|&g| g.into()).collect();
            let (limit, note) = if vanishes(&p.name) {
                (Limit::Absolute(1e-6 * square.sqrt()), "zero but for rounding")
            } else {
                (GRADIENT, "")
            };
            report.compare(oracle, &name, &thinned, limit)?;
            if let Some(row) = report.rows.last_mut() {
                row.note = note.into();
            }
        }
    }
    for name in oracle.tensors.keys() {
        let ours = name.strip_prefix("grad.").is_none_or(|p| unet.parameters.iter().any(|q| q.name == p));
        if (name.starts_with("act.") || name.starts_with("grad."))
            && !(ours && report.computed.contains_key(name))
        {
            return Err(oracle
                .error(format!("tensor `{name}` is of another network than the one given with --model"))
                .into());
        }
    }
    Ok(())
}

/// Whether a gradient is zero but for rounding: a constant added to every key shifts all logits of a query alike, which
/// the softmax does not see.
pub(super) fn vanishes(parameter: &str) -> bool {
    parameter.ends_with("to_k.bias")
}

fn oracle_shape(
    oracle: &Oracle,
    what: &str,
    tensor: &Tensor,
    expected: [usize; 4],
) -> Result<(), VerifyError> {
    if tensor.shape == expected {
        return Ok(());
    }
    Err(oracle
        .error(format!("{what} has shape {:?}; with this network it is {expected:?}", tensor.shape))
        .into())
}

/// x_t of x_0, noise and t, by the schedule of the model.
fn noised(device: &Arc<Device>, model: &Model, oracle: &Oracle) -> Result<Option<Vec<f64>>, VerifyError> {
    let (Some(x_0), true) = (oracle.tensors.get("x0"), oracle.has("x_t")) else { return Ok(None) };
    let noise = oracle.shaped("noise", &x_0.shape)?;
    let timestep = oracle.tensor("timestep")?;
    let x_t = add_noise(device, oracle, &NoiseSchedule::of(&model.scheduler), x_0, noise, &timestep.data)?;
    Ok(Some(x_t))
}

/// signal x_0 + noise ε for pictures (N, C, H, W) at one timestep each, in the same layout.
pub(super) fn add_noise(
    device: &Arc<Device>,
    oracle: &Oracle,
    schedule: &NoiseSchedule,
    x_0: &Tensor,
    noise: &Tensor,
    timesteps: &[f32],
) -> Result<Vec<f64>, VerifyError> {
    let items = timesteps.len();
    let item = x_0.data.len() / items.max(1);
    if items == 0 || item == 0 || item * items != x_0.data.len() || x_0.data.len() != noise.data.len() {
        return Err(oracle.error("pictures, noise and timesteps are not of the same number of items").into());
    }
    // The arithmetic is element by element, so the order within an item does not matter.
    let update = Update::new(device, &[1, 1, item, 1], 1, None)?;
    let mut x_t = Vec::with_capacity(x_0.data.len());
    let pairs = x_0.data.chunks_exact(item).zip(noise.data.chunks_exact(item));
    for ((x_0, noise), &t) in pairs.zip(timesteps) {
        if !(t >= 0.0 && (t as usize) < schedule.timesteps() && t.fract() == 0.0) {
            let last = schedule.timesteps() - 1;
            return Err(oracle.error(format!("timestep {t}: the model's schedule has 0 to {last}")).into());
        }
        x_t.extend(wide(&update.add_noise(x_0, noise, schedule.alpha_bar(Some(t as usize)))?));
    }
    Ok(x_t)
}
