//! The denoising loop: the network's plan replayed with a sampler's coefficients, step by step, without
//! reading anything back.

use crate::diffusion::{SamplerStep, UNet};
use crate::gpu::{Executable, RunError, Store};
use crate::graph::{Caps, Graph, GraphError, Plan, ValueId};
use crate::ops::{COEFFICIENTS, Denoise, RandomNormal, STEP_WORDS, StepWords};
use crate::rng::Stream;
use crate::tensor::{Shape, Spec};
use std::sync::Arc;

/// The picture being denoised, as a state shared by the two plans.
const PICTURE: &str = "sampled";

/// A network ready to draw pictures, `batch` at a time.
pub struct PictureSampler {
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
fn initial_graph(shape: &Shape) -> Result<(Graph, ValueId), GraphError> {
    let mut graph = Graph::new();
    let step = graph.input("step", Spec::u32([STEP_WORDS]));
    let x = graph.apply(RandomNormal { stream: Stream::Initial, shape: shape.clone() }, &[step])?;
    graph.persist(PICTURE, x);
    Ok((graph, step))
}

/// One network evaluation and the update after it, in place.
fn update_graph(unet: &UNet, shape: &Shape, weights: &str) -> Result<(Graph, Inputs), GraphError> {
    let batch = shape[0];
    let mut graph = Graph::new();
    let x = graph.state(PICTURE, Spec::f32(shape.axes()));
    let timestep = graph.input("timestep", Spec::f32([batch]));
    let labels = unet.config.num_class_embeds.map(|_| graph.input("labels", Spec::u32([batch])));
    let coefficients = graph.input("coefficients", Spec::f32([COEFFICIENTS]));
    let step = graph.input("step", Spec::u32([STEP_WORDS]));
    let flat = graph.state(weights, Spec::f32([unet.flat_elements]));
    let parameters = unet.views(&mut graph, flat)?;
    let f = unet.forward(&mut graph, &parameters, x, timestep, labels)?;
    graph.apply(Denoise, &[x, f, coefficients, step])?;
    Ok((graph, Inputs { timestep, labels, coefficients, step }))
}

impl PictureSampler {
    /// The plans of [`PictureSampler::new`], to know their memory before anything is allocated.
    pub fn plans(unet: &UNet, weights: &str, batch: usize, caps: &Caps) -> Result<[Plan; 2], RunError> {
        let shape = shape(unet, batch);
        Ok([
            Plan::new(initial_graph(&shape)?.0, caps)?,
            Plan::new(update_graph(unet, &shape, weights)?.0, caps)?,
        ])
    }

    /// Prepares a network whose weights are the store's state `weights`.
    pub fn new(store: &Arc<Store>, unet: &UNet, weights: &str, batch: usize) -> Result<Self, RunError> {
        let shape = shape(unet, batch);
        let caps = &store.device().caps;
        let (graph, step) = initial_graph(&shape)?;
        let initial = (Executable::new(store, Plan::new(graph, caps)?)?, step);
        let (graph, inputs) = update_graph(unet, &shape, weights)?;
        let update = Executable::new(store, Plan::new(graph, caps)?)?;
        Ok(Self { initial, update, inputs, store: store.clone(), batch, elements: shape.elements() / batch })
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

    /// Submits one step on whatever the state holds: for benchmarks.
    pub fn step_once(&self, step: &SamplerStep) -> Result<(), RunError> {
        self.update.write(self.inputs.timestep, &vec![step.timestep as f32; self.batch]);
        self.update.write(self.inputs.coefficients, &step.coefficients);
        Ok(self.update.run()?)
    }

    /// Draws `count` pictures, channels-last in about [-1, 1], by the sampler's steps. Picture i depends on
    /// the seed and i alone. `labels` has one label per picture if the network is class-conditional.
    /// `watch` is called after every step with its number and a way to read the pictures so far.
    pub fn draw(
        &self,
        count: usize,
        seed: u64,
        labels: &[u32],
        steps: &[SamplerStep],
        mut watch: impl FnMut(Progress) -> Result<(), RunError>,
    ) -> Result<Vec<f32>, RunError> {
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
                self.step_once(step)?;
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
