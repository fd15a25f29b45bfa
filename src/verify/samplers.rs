//! Sampler trajectories, each step by itself from the stored latent and the stored network output: a network
//! amplifies rounding, so that a whole trajectory tells nothing of its steps.

use super::network::{NetworkGraph, picture_shape};
use super::oracle::SamplerSetup;
use super::update::Update;
use super::{Limit, Oracle, Report, Row, VerifyError, channels_first, channels_last, distance, wide};
use crate::diffusion::Trajectory;
use crate::gpu::{Blocking as _, Device, Executable, RunError, Store};
use crate::graph::{Plan, ValueId};
use crate::io::Tensor;
use crate::model::Model;
use crate::ops::Coefficients;
use std::sync::Arc;

/// Timesteps and σ are kept in f32.
const GRID: Limit = Limit::Relative(1e-6);
/// One step.
const STEP: f64 = 1e-5;
/// The network's output on a stored latent.
const OUTPUT: f64 = 1e-5;
/// Pictures that the network is given at once.
const BATCH: usize = 16;

/// One step of a stack (steps, N, C, H, W), as a tensor of its own.
fn part(tensor: &Tensor, i: usize) -> Tensor {
    let shape = tensor.shape[1..].to_vec();
    let length = shape.iter().product::<usize>();
    Tensor { data: tensor.data[i * length..(i + 1) * length].to_vec(), shape }
}

pub(super) fn check(
    device: &Arc<Device>,
    model: Option<&Model>,
    oracle: &Oracle,
    report: &mut Report,
) -> Result<(), VerifyError> {
    let names: Vec<String> = oracle
        .tensors
        .keys()
        .filter_map(|k| k.strip_prefix("sampler.")?.strip_suffix(".latents"))
        .map(String::from)
        .collect();
    let mut runner = None;
    for name in names {
        let setup = oracle.sampler(&name)?;
        trajectory(device, oracle, &name, &setup, report)?;
        if setup.by_network {
            let model = oracle.model(model)?;
            let runner = match &mut runner {
                Some(runner) => runner,
                none => none.insert(Runner::new(device, model, oracle, &name)?),
            };
            runner.check(oracle, &name, &setup, report)?;
        }
    }
    Ok(())
}

/// The oracle's trajectory of a sampler.
struct Stored<'a> {
    latents: &'a Tensor,
    outputs: &'a Tensor,
    timesteps: &'a Tensor,
    trajectory: Trajectory,
}

impl<'a> Stored<'a> {
    fn new(oracle: &'a Oracle, name: &str, setup: &SamplerSetup) -> Result<Self, VerifyError> {
        let latents = oracle.tensor(&format!("sampler.{name}.latents"))?;
        let outputs = oracle.tensor(&format!("sampler.{name}.model_output"))?;
        let timesteps = oracle.tensor(&format!("sampler.{name}.timesteps"))?;
        let calls = timesteps.data.len();
        let fits = match (latents.shape.as_slice(), outputs.shape.as_slice()) {
            (&[l, n, c, h, w], &[o, on, f, oh, ow]) => {
                l == calls + 1 && o == calls && (on, oh, ow) == (n, h, w) && (f == c || f == 2 * c)
            }
            _ => false,
        };
        if !fits || calls == 0 {
            let message = format!(
                "sampler `{name}` has latents {:?} and model_output {:?} for {calls} timesteps; expected (calls + 1, \
                 N, C, H, W) and (calls, N, C or 2C, H, W)",
                latents.shape, outputs.shape
            );
            return Err(oracle.error(message).into());
        }
        let steps = setup.config.sampler.steps_of(calls);
        let trajectory = Trajectory::new(&setup.config, steps, setup.eta)
            .map_err(|e| oracle.error(format!("sampler `{name}`: {e}")))?;
        if trajectory.steps.len() != calls {
            let message = format!(
                "sampler `{name}` has {calls} timesteps; its set-up makes {}",
                trajectory.steps.len()
            );
            return Err(oracle.error(message).into());
        }
        Ok(Self { latents, outputs, timesteps, trajectory })
    }

    /// The latent before step `i` as the kernel has it: channels-last, and of the scale that the network is given.
    fn latent(&self, i: usize) -> Vec<f32> {
        let scale = self.trajectory.scale(i);
        channels_last(&part(self.latents, i)).into_iter().map(|x| (f64::from(x) / scale) as f32).collect()
    }
}

/// Timesteps, σ, the start, and every step.
fn trajectory(
    device: &Arc<Device>,
    oracle: &Oracle,
    name: &str,
    setup: &SamplerSetup,
    report: &mut Report,
) -> Result<(), VerifyError> {
    let stored = Stored::new(oracle, name, setup)?;
    let Stored { latents, outputs, trajectory, .. } = &stored;
    let times: Vec<f64> = trajectory.steps.iter().map(|s| s.timestep).collect();
    report.compare(oracle, &format!("sampler.{name}.timesteps"), &times, GRID)?;
    if let Some(sigmas) = &trajectory.sigmas {
        let key = format!("sampler.{name}.sigmas");
        if oracle.tensors.get(&key).is_some_and(|t| t.data.len() == sigmas.len()) {
            report.compare(oracle, &key, sigmas, GRID)?;
        }
    }

    let first = oracle.shaped("x_T", &latents.shape[1..])?;
    let start = trajectory.initial_scale * trajectory.scale(0);
    let mut all: Vec<f64> = first.data.iter().map(|&x| f64::from(x) * start).collect();
    let (mut max_abs, mut worst) = distance(&all, &wide(&part(latents, 0).data));
    let mut worst_step = "the start".to_string();
    let mut limit = STEP;
    let mut remembered = 0.0;

    let &[_, n, c, h, w] = latents.shape.as_slice() else { return Ok(()) };
    let update = Update::new(device, &[n, h, w, c], outputs.shape[2], trajectory.thresholding)?;
    for (i, step) in trajectory.steps.iter().enumerate() {
        let mut coefficients = step.coefficients;
        if setup.noisy && coefficients.c_z != 0.0 {
            // The kernel would draw its own; the noise of the oracle goes where a history would.
            let noise = oracle.tensor("step_noise")?;
            if noise.shape.len() != 5 || noise.shape[0] <= i || noise.shape[1..] != latents.shape[1..] {
                let found = &noise.shape;
                return Err(oracle
                    .error(format!("tensor `step_noise` has shape {found:?}; expected one latent a step"))
                    .into());
            }
            update.set_history(&channels_last(&part(noise, i)))?;
            (coefficients.c_h, coefficients.c_z) = (coefficients.c_z, 0.0);
        }
        let (x, f) = (stored.latent(i), channels_last(&part(outputs, i)));
        let next = update.run(&x, &f, &coefficients)?;
        let shape = &latents.shape[1..];
        let scale = trajectory.scale(i + 1);
        let ours: Vec<f64> = channels_first(&next, shape).into_iter().map(|v| v * scale).collect();
        let theirs = wide(&part(latents, i + 1).data);
        let (max, relative) = distance(&ours, &theirs);
        let lost = rounding(&coefficients, &x, &f);
        // In diffusers x_0 + σ ε is made smaller step by step, and keeps the rounding of what it was.
        let larger = f64::from(f32::EPSILON) * length(&x) * trajectory.scale(i) / scale;
        let loss = coefficients.c_0.abs() * lost + coefficients.c_h.abs() * remembered + larger;
        let allowed = STEP.max(loss / length(&next).max(f64::MIN_POSITIVE));
        remembered = coefficients.h_0.abs() * lost;
        // The step that comes nearest to its limit stands for all.
        let nearer = relative / allowed > worst / limit;
        if nearer || relative.is_nan() {
            (worst, limit, worst_step) = (relative, allowed, format!("step {}", i + 1));
        }
        max_abs = if max.is_nan() { max } else { max_abs.max(max) };
        all.extend(ours);
    }
    let key = format!("sampler.{name}.latents");
    report.keep(&key, &latents.shape, &all)?;
    let note = if limit > STEP { format!("{worst_step}; cancels in f32") } else { worst_step };
    report.rows.push(Row {
        name: key,
        shape: latents.shape.clone(),
        max_abs,
        relative_l2: worst,
        limit: Limit::Relative(limit),
        note,
    });
    Ok(())
}

fn length(v: &[f32]) -> f64 {
    v.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt()
}

/// The length of the rounding in x_0 = k (p_x x + p_f f), in f32, which PyTorch's number has too. Where σ is 10^4, at
/// the end of a cosine schedule, so is k, and the sum all but vanishes.
fn rounding(c: &Coefficients, x: &[f32], f: &[f32]) -> f64 {
    // Two products, a sum and two stored factors, in either program, each off by 0.3 units in the last place as a rule:
    // together one unit.
    let lost = f64::from(f32::EPSILON) * c.k * (c.p_x.abs() * length(x) + c.p_f.abs() * length(f));
    // A clamp lets through no more than its range.
    lost.min(2.0 * c.range * (x.len() as f64).sqrt())
}

/// The network on pictures of one size, [`BATCH`] at once.
struct Runner {
    executable: Executable,
    x: ValueId,
    timestep: ValueId,
    labels: Option<ValueId>,
    output: ValueId,
    given: Option<Vec<u32>>,
    /// Of a picture: (C, H, W).
    shape: [usize; 3],
    out_channels: usize,
}

impl Runner {
    fn new(device: &Arc<Device>, model: &Model, oracle: &Oracle, name: &str) -> Result<Self, VerifyError> {
        let key = format!("sampler.{name}.latents");
        let shape = &oracle.tensor(&key)?.shape;
        let [n, h, w] = picture_shape(oracle, &key, &shape[1..], &model.unet)?;
        let given = oracle.labels("class_labels", n, model.unet.config.num_class_embeds)?;
        let weights = model.unet.parameters.state("weights");
        let mut network = NetworkGraph::new(&model.unet, &weights, [BATCH, h, w], false)?;
        network.graph.output("output", network.output);
        let store = Store::new(device);
        store.write(&weights, &model.weights)?;
        let plan = Plan::new(network.graph, &device.caps).map_err(RunError::from)?;
        let config = &model.unet.config;
        Ok(Self {
            executable: Executable::new(&store, plan).block_on()?,
            x: network.x,
            timestep: network.timestep,
            labels: network.labels,
            output: network.output,
            given,
            shape: [config.in_channels, h, w],
            out_channels: config.out_channels,
        })
    }

    /// The network's output at every stored latent and timestep.
    fn check(
        &self,
        oracle: &Oracle,
        name: &str,
        setup: &SamplerSetup,
        report: &mut Report,
    ) -> Result<(), VerifyError> {
        let stored = Stored::new(oracle, name, setup)?;
        let &[calls, n, f_channels, h, w] = stored.outputs.shape.as_slice() else { return Ok(()) };
        let [c, height, width] = self.shape;
        if stored.latents.shape[1..] != [n, c, height, width] || f_channels != self.out_channels {
            let found = &stored.latents.shape[1..];
            return Err(oracle
                .error(format!("sampler `{name}` has latents {found:?}, the sampler before {:?}", self.shape))
                .into());
        }
        // One list of pictures over all steps, in batches.
        let inputs: Vec<f32> = (0..calls).flat_map(|i| stored.latent(i)).collect();
        let times: Vec<f32> = stored.timesteps.data.iter().flat_map(|&t| std::iter::repeat_n(t, n)).collect();
        let labels: Option<Vec<u32>> =
            self.given.as_ref().map(|l| l.iter().cycle().take(calls * n).copied().collect());
        let item = c * h * w;
        let mut outputs = Vec::with_capacity(stored.outputs.data.len());
        for first in (0..calls * n).step_by(BATCH) {
            let kept = BATCH.min(calls * n - first);
            let mut x = inputs[first * item..(first + kept) * item].to_vec();
            x.resize(BATCH * item, 0.0);
            let mut t = times[first..first + kept].to_vec();
            t.resize(BATCH, 0.0);
            self.executable.write(self.x, &x);
            self.executable.write(self.timestep, &t);
            if let (Some(value), Some(labels)) = (self.labels, &labels) {
                let mut labels = labels[first..first + kept].to_vec();
                labels.resize(BATCH, 0);
                self.executable.write_u32(value, &labels);
            }
            self.executable.run().block_on()?;
            outputs.extend(
                self.executable.read(self.output).block_on()?.into_iter().take(kept * h * w * f_channels),
            );
        }
        let ours = channels_first(&outputs, &[calls * n, f_channels, h, w]);
        report.compare(oracle, &format!("sampler.{name}.model_output"), &ours, Limit::Relative(OUTPUT))
    }
}
