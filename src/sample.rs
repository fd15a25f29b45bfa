//! The denoising loop: the network's plan replayed with a sampler's coefficients, step by step, without
//! reading anything back.

use crate::diffusion::{SamplerStep, Trajectory, UNet};
use crate::gpu::{Executable, RunError, Store};
use crate::graph::{Caps, Graph, GraphError, Plan, ValueId};
use crate::ops::{COEFFICIENTS, Denoise, DynamicThreshold, RandomNormal, STEP_WORDS, Scale, StepWords};
use crate::rng::Stream;
use crate::tensor::{Array, Shape, Spec};
use std::sync::Arc;

/// The picture being denoised, as a state shared by the two plans.
const PICTURE: &str = "sampled";
/// What a sampler remembers of the step before.
const HISTORY: &str = "sampled_history";

/// A network and a sampler ready to draw pictures, `batch` at a time.
pub struct PictureSampler {
    trajectory: Trajectory,
    initial: (Executable, ValueId),
    update: Executable,
    inputs: Inputs,
    store: Arc<Store>,
    batch: usize,
    elements: usize,
}

struct Inputs {
    timestep: ValueId,
    labels: Option<ValueId>,
    coefficients: ValueId,
    step: ValueId,
}

fn shape(unet: &UNet, batch: usize) -> Shape {
    let (height, width) = unet.config.sample_size.get();
    Shape::new([batch, height, width, unet.config.in_channels])
}

/// x_T, into the state that the update works on.
fn initial_graph(shape: &Shape, scale: f64) -> Result<(Graph, ValueId), GraphError> {
    let mut graph = Graph::new();
    let step = graph.input("step", Spec::u32([STEP_WORDS]));
    let mut x = graph.apply(RandomNormal { stream: Stream::Initial, shape: shape.clone() }, &[step])?;
    if scale != 1.0 {
        x = graph.apply(Scale(scale as f32), &[x])?;
    }
    graph.persist(PICTURE, x);
    Ok((graph, step))
}

/// One network evaluation and the update after it, in place.
fn update_graph(
    unet: &UNet,
    shape: &Shape,
    weights: &str,
    trajectory: &Trajectory,
) -> Result<(Graph, Inputs), GraphError> {
    let batch = shape[0];
    let mut graph = Graph::new();
    let x = graph.state(PICTURE, Spec::f32(shape.axes()));
    let history = graph.state(HISTORY, Spec::f32(shape.axes()));
    let timestep = graph.input("timestep", Spec::f32([batch]));
    let labels = unet.config.num_class_embeds.map(|_| graph.input("labels", Spec::u32([batch])));
    let coefficients = graph.input("coefficients", Spec::f32([COEFFICIENTS]));
    let step = graph.input("step", Spec::u32([STEP_WORDS]));
    let flat = graph.state(weights, Spec::f32([unet.flat_elements]));
    let parameters = unet.views(&mut graph, flat)?;
    let f = unet.forward(&mut graph, &parameters, x, timestep, labels)?;
    let threshold = match trajectory.thresholding {
        Some((ratio, max)) => {
            graph.apply(DynamicThreshold { ratio, max: max as f32 }, &[x, f, coefficients])?
        }
        None => graph.constant("threshold", Array::new([batch], vec![1.0; batch])),
    };
    graph.apply_all(Denoise, &[x, f, history, threshold, coefficients, step])?;
    Ok((graph, Inputs { timestep, labels, coefficients, step }))
}

impl PictureSampler {
    /// The plans of [`PictureSampler::new`], to know their memory before anything is allocated.
    pub fn plans(
        unet: &UNet,
        weights: &str,
        batch: usize,
        trajectory: &Trajectory,
        caps: &Caps,
    ) -> Result<[Plan; 2], RunError> {
        let shape = shape(unet, batch);
        Ok([
            Plan::new(initial_graph(&shape, trajectory.initial_scale)?.0, caps)?,
            Plan::new(update_graph(unet, &shape, weights, trajectory)?.0, caps)?,
        ])
    }

    /// Prepares a network whose weights are the store's state `weights`.
    pub fn new(
        store: &Arc<Store>,
        unet: &UNet,
        weights: &str,
        batch: usize,
        trajectory: Trajectory,
    ) -> Result<Self, RunError> {
        let shape = shape(unet, batch);
        let caps = &store.device().caps;
        let (graph, step) = initial_graph(&shape, trajectory.initial_scale)?;
        let initial = (Executable::new(store, Plan::new(graph, caps)?)?, step);
        let (graph, inputs) = update_graph(unet, &shape, weights, &trajectory)?;
        let update = Executable::new(store, Plan::new(graph, caps)?)?;
        let elements = shape.elements() / batch;
        Ok(Self { trajectory, initial, update, inputs, store: store.clone(), batch, elements })
    }

    /// Pictures drawn at once.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Device bytes of its plans, without the states.
    pub fn bytes(&self) -> u64 {
        self.initial.0.bytes() + self.update.bytes()
    }

    /// Convolution and matrix-product operations of one step over the batch.
    pub fn model_flops(&self) -> u64 {
        self.update.plan().graph.cost().matrix_flops
    }

    /// Submits step `number` on whatever the state holds: for benchmarks.
    pub fn step_once(&self, number: usize) -> Result<(), RunError> {
        self.submit(&self.trajectory.steps[number])
    }

    fn submit(&self, step: &SamplerStep) -> Result<(), RunError> {
        self.update.write(self.inputs.timestep, &vec![step.timestep as f32; self.batch]);
        self.update.write(self.inputs.coefficients, &step.coefficients.words());
        Ok(self.update.run()?)
    }

    /// Draws `count` pictures, channels-last in about [-1, 1]. Picture i depends on the seed and i alone. `labels`
    /// has one label per picture if the network is class-conditional. `noise` (count, H, W, C), standard normal, is
    /// what the pictures begin from; drawn from the seed if absent. `watch` is called before the first step and
    /// after every step with their number and a way to read the pictures so far.
    pub fn draw(
        &self,
        count: usize,
        seed: u64,
        labels: &[u32],
        noise: Option<&[f32]>,
        mut watch: impl FnMut(Progress) -> Result<(), RunError>,
    ) -> Result<Vec<f32>, RunError> {
        let steps = &self.trajectory.steps;
        let mut pictures = Vec::with_capacity(count * self.elements);
        let total = steps.len() * count.div_ceil(self.batch);
        let mut done = 0;
        for first in (0..count).step_by(self.batch) {
            let kept = self.batch.min(count - first);
            let read = || -> Result<Vec<f32>, RunError> {
                let mut all = self.store.read(PICTURE)?.unwrap_or_default();
                all.truncate(kept * self.elements);
                Ok(all)
            };
            let first_item = u32::try_from(first).unwrap_or(u32::MAX);
            let mut words = StepWords { seed, first_item, ..StepWords::default() };
            let (initial, step) = &self.initial;
            initial.write_u32(*step, &words.words());
            initial.run()?;
            if let Some(noise) = noise {
                let given = noise.iter().skip(first * self.elements).take(kept * self.elements);
                let mut x: Vec<f32> = given.map(|z| z * self.trajectory.initial_scale as f32).collect();
                x.resize(self.batch * self.elements, 0.0);
                self.store.write(PICTURE, &x)?;
            }
            if let Some(value) = self.inputs.labels {
                let mut chunk: Vec<u32> = labels.iter().skip(first).take(kept).copied().collect();
                chunk.resize(self.batch, 0);
                self.update.write_u32(value, &chunk);
            }
            if first == 0 {
                watch(Progress { done, total, read: &read })?;
            }
            for (number, step) in (0u32..).zip(steps) {
                words.step = number;
                self.update.write_u32(self.inputs.step, &words.words());
                self.submit(step)?;
                done += 1;
                watch(Progress { done, total, read: &read })?;
            }
            pictures.extend(read()?);
        }
        Ok(pictures)
    }
}

/// Where a draw stands.
pub struct Progress<'a> {
    /// Sampler steps done, over all batches.
    pub done: usize,
    /// Sampler steps in all.
    pub total: usize,
    /// Reads the pictures of the present batch as they are now. Waits for the device.
    pub read: &'a dyn Fn() -> Result<Vec<f32>, RunError>,
}
