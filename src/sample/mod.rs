//! The denoising loop: the network's plan replayed with a sampler's coefficients, step by step, without
//! reading anything back.

mod latent;

pub use latent::{Latent, LatentStepper, StepInputs, Thresholding};

use crate::diffusion::{NoiseLevel, Trajectory, UNet};
use crate::gpu::{Executable, GpuError, RunError, Store};
use crate::graph::{Caps, Graph, GraphError, Plan, State, ValueId};
use crate::ops::{Guidance, LEVEL, Renoise, RenoiseLevel, STEP_WORDS, StepWords};
use crate::tensor::{Shape, Spec};
use std::sync::Arc;

/// A network and a sampler ready to draw pictures, `batch` at a time.
pub struct PictureSampler {
    trajectory: Trajectory,
    initial: (Executable, ValueId),
    update: (LatentStepper, Inputs),
    guided: Option<Guided>,
    store: Arc<Store>,
    latent: Latent,
    batch: usize,
    elements: usize,
}

/// Inputs of the network's answer.
struct Inputs {
    timestep: ValueId,
    labels: Option<ValueId>,
    /// The label that stands for none, throughout, and the weight, if the update is guided.
    guidance: Option<(ValueId, ValueId)>,
}

/// Classifier-free guidance: how far the network's answer is taken from the one without a class past the one with it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GuidanceOptions {
    /// 1 for none.
    pub weight: f64,
    /// Guided is where σ = noise / signal lies above the first and not above the second (arXiv 2404.07724).
    pub interval: (f64, f64),
    /// The label that stands for none.
    pub null_label: u32,
}

/// An update that asks the network twice.
struct Guided {
    options: GuidanceOptions,
    update: (LatentStepper, Inputs),
}

fn latent(unet: &UNet, batch: usize) -> Latent {
    let (height, width) = unet.config.sample_size.get();
    Latent::new(&Shape::new([batch, height, width, unet.config.in_channels]))
}

/// Appends the network's answer to x, taken past the one without a class if it is `guided`.
fn answer(
    graph: &mut Graph,
    x: ValueId,
    unet: &UNet,
    weights: &State,
    guided: bool,
) -> Result<(ValueId, Inputs), GraphError> {
    let batch = graph.shape(x)[0];
    let timestep = graph.input("timestep", Spec::f32([batch]));
    let labels = unet.config.num_class_embeds.map(|_| graph.input("labels", Spec::u32([batch])));
    let flat = graph.state(weights);
    let parameters = unet.parameters.views(graph, flat)?;
    let mut f = unet.forward(graph, &parameters, x, timestep, labels)?;
    let mut guidance = None;
    if guided {
        let null = graph.input("null_labels", Spec::u32([batch]));
        let weight = graph.input("guidance", Spec::f32([1]));
        let without = unet.forward(graph, &parameters, x, timestep, Some(null))?;
        f = graph.apply(Guidance { guided: unet.config.in_channels }, &[f, without, weight])?;
        guidance = Some((null, weight));
    }
    Ok((f, Inputs { timestep, labels, guidance }))
}

impl PictureSampler {
    /// The plans of [`PictureSampler::new`], to know their memory before anything is allocated.
    pub fn plans(
        unet: &UNet,
        weights: &State,
        batch: usize,
        trajectory: &Trajectory,
        caps: &Caps,
    ) -> Result<[Plan; 2], RunError> {
        let latent = latent(unet, batch);
        let (step, ..) =
            latent.step_graph(trajectory.thresholding, |graph, x| answer(graph, x, unet, weights, false))?;
        Ok([Plan::new(latent.initial_graph(trajectory.initial_scale)?.0, caps)?, Plan::new(step, caps)?])
    }

    /// Prepares a network whose weights are a state of the store.
    pub async fn new(
        store: &Arc<Store>,
        unet: &UNet,
        weights: &State,
        batch: usize,
        trajectory: Trajectory,
    ) -> Result<Self, RunError> {
        let latent = latent(unet, batch);
        let (graph, step) = latent.initial_graph(trajectory.initial_scale)?;
        let initial = (Executable::new(store, Plan::new(graph, store.caps())?).await?, step);
        let update = LatentStepper::new(store, &latent, trajectory.thresholding, |graph, x| {
            answer(graph, x, unet, weights, false)
        })
        .await?;
        let elements = latent.shape().elements() / batch;
        Ok(Self { trajectory, initial, update, guided: None, store: store.clone(), latent, batch, elements })
    }

    /// The same with guidance, which asks the network twice wherever it acts. The network must be class-conditional.
    pub async fn guided_by(
        mut self,
        unet: &UNet,
        weights: &State,
        options: GuidanceOptions,
    ) -> Result<Self, RunError> {
        let thresholding = self.trajectory.thresholding;
        let (stepper, inputs) = LatentStepper::new(&self.store, &self.latent, thresholding, |graph, x| {
            answer(graph, x, unet, weights, true)
        })
        .await?;
        if let Some((null, weight)) = inputs.guidance {
            stepper.executable.write_u32(null, &vec![options.null_label; self.batch]);
            stepper.executable.write(weight, &[options.weight as f32]);
        }
        self.guided = Some(Guided { options, update: (stepper, inputs) });
        Ok(self)
    }

    /// Pictures drawn at once.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Device bytes of its plans, without the states.
    pub fn bytes(&self) -> u64 {
        let guided = self.guided.as_ref().map_or(0, |guided| guided.update.0.executable.bytes());
        self.initial.0.bytes() + self.update.0.executable.bytes() + guided
    }

    /// Convolution and matrix-product operations of one step over the batch.
    pub fn model_flops(&self) -> u64 {
        self.update.0.executable.plan().graph.cost().matrix_flops
    }

    /// Step `number` on whatever the state holds, by `run` (as [`Executable::run`]): for benchmarks and profiles.
    pub async fn step_by(
        &self,
        number: usize,
        mut run: impl AsyncFnMut(&Executable) -> Result<(), GpuError>,
    ) -> Result<(), RunError> {
        let stepper = self.upload(number, &StepWords::default());
        Ok(run(&stepper.executable).await?)
    }

    /// Whether step `number` is guided.
    fn update_of(&self, number: usize) -> &(LatentStepper, Inputs) {
        let level = self.trajectory.levels[number];
        match &self.guided {
            Some(Guided { options: GuidanceOptions { interval: (low, high), .. }, update })
                if *low < level.sigma() && level.sigma() <= *high =>
            {
                update
            }
            _ => &self.update,
        }
    }

    async fn submit(&self, number: usize, words: &StepWords) -> Result<(), RunError> {
        Ok(self.upload(number, words).executable.run().await?)
    }

    /// Uploads what step `number` needs, and returns what takes it.
    fn upload(&self, number: usize, words: &StepWords) -> &LatentStepper {
        let step = &self.trajectory.steps[number];
        let (stepper, inputs) = self.update_of(number);
        stepper.executable.write(inputs.timestep, &vec![step.timestep as f32; self.batch]);
        stepper.upload(&step.coefficients, words);
        stepper
    }

    /// Draws pictures, channels-last in about [-1, 1]. Picture i depends on the seed and i alone, up to the rounding of sums
    /// in batches of another size. `watch` is called before the first step and after every step with their number and a way
    /// to read the pictures so far. Whoever wants many pictures in bounded memory draws them in several calls.
    pub async fn draw(
        &self,
        drawing: &Drawing<'_>,
        mut watch: impl AsyncFnMut(Progress<'_>) -> Result<(), RunError>,
    ) -> Result<Vec<f32>, RunError> {
        let &Drawing { first: first_picture, count, seed, labels, start, inpaint } = drawing;
        let steps = &self.trajectory.steps;
        let mut pictures = Vec::with_capacity(count * self.elements);
        let rounds = inpaint.map_or(1, |i| i.resamples.max(1));
        let total = steps.len() * rounds * count.div_ceil(self.batch);
        let renoise = match (start, inpaint) {
            (Start::Picture(_), _) | (_, Some(_)) => Some(Renoiser::new(&self.store, &self.latent).await?),
            _ => None,
        };
        let mut done = 0;
        for first in (0..count).step_by(self.batch) {
            let kept = self.batch.min(count - first);
            let progress = |done| Progress { done, total, sampler: self, kept };
            // The pictures of this batch, and nothing behind them.
            let part = |all: &[f32]| -> Vec<f32> {
                let mut part: Vec<f32> =
                    all.iter().skip(first * self.elements).take(kept * self.elements).copied().collect();
                part.resize(self.batch * self.elements, 0.0);
                part
            };
            let first_item = u32::try_from(first_picture.saturating_add(first)).unwrap_or(u32::MAX);
            let mut words = StepWords { seed, first_item, ..StepWords::default() };
            match start {
                Start::Seed => {
                    let (initial, step) = &self.initial;
                    initial.write_u32(*step, &words.words());
                    initial.run().await?;
                }
                Start::Noise(noise) => {
                    let scale = self.trajectory.initial_scale as f32;
                    let x: Vec<f32> = part(noise).into_iter().map(|z| z * scale).collect();
                    self.store.write(&self.latent.x, &x)?;
                }
                Start::Picture(_) => {
                    self.store.write(&self.latent.x, &vec![0.0; self.batch * self.elements])?
                }
            }
            if let (Some(renoise), Start::Picture(x_0)) = (&renoise, start) {
                let NoiseLevel { signal, noise } = self.trajectory.levels[0];
                renoise.know(&part(x_0), &vec![1.0; self.batch * self.elements]);
                // A step that no sampler has.
                let words = StepWords { step: u32::MAX, ..words };
                renoise.run(&words, RenoiseLevel { signal, noise, ..RenoiseLevel::default() }).await?;
            }
            if let (Some(renoise), Some(inpaint)) = (&renoise, inpaint) {
                renoise.know(&part(inpaint.known), &part(inpaint.mask));
            }
            let mut chunk: Vec<u32> = labels.iter().skip(first).take(kept).copied().collect();
            chunk.resize(self.batch, 0);
            let guided = self.guided.as_ref().map(|guided| &guided.update);
            for (stepper, inputs) in std::iter::once(&self.update).chain(guided) {
                if let Some(value) = inputs.labels {
                    stepper.executable.write_u32(value, &chunk);
                }
            }
            if first == 0 {
                watch(progress(done)).await?;
            }
            let mut number = 0;
            for i in 0..steps.len() {
                for round in 1..=rounds {
                    words.step = number;
                    number += 1;
                    self.submit(i, &words).await?;
                    if let (Some(renoise), Some(_)) = (&renoise, inpaint) {
                        renoise.run(&words, self.renoise_level(i, round == rounds)).await?;
                    }
                    done += 1;
                    watch(progress(done)).await?;
                }
            }
            pictures.extend(progress(done).read().await?);
        }
        Ok(pictures)
    }

    /// What follows step `i` when inpainting: in the last round, the known part at the noise that x has now; before
    /// it, all of x back at the noise of before the step (RePaint, algorithm 1).
    fn renoise_level(&self, i: usize, last: bool) -> RenoiseLevel {
        let NoiseLevel { signal, noise } = self.trajectory.levels[i + 1];
        if last {
            return RenoiseLevel { signal, noise, kept: 1.0, added: 0.0 };
        }
        let before = self.trajectory.levels[i];
        let kept = before.signal / signal;
        let added = (before.noise.powi(2) - (kept * noise).powi(2)).max(0.0).sqrt();
        RenoiseLevel { signal: before.signal, noise: before.noise, kept, added }
    }
}

/// What to draw.
#[derive(Clone, Copy, Debug)]
pub struct Drawing<'a> {
    /// The number i of the first picture, below 2^32.
    pub first: usize,
    /// How many pictures, this one and those that follow it.
    pub count: usize,
    /// Of all noise.
    pub seed: u64,
    /// One for each picture if the network is class-conditional.
    pub labels: &'a [u32],
    /// What the pictures begin from.
    pub start: Start<'a>,
    /// What of them is known.
    pub inpaint: Option<Inpaint<'a>>,
}

impl<'a> Drawing<'a> {
    /// Pictures from the noise of a seed.
    pub fn new(count: usize, seed: u64, labels: &'a [u32]) -> Self {
        Self { first: 0, count, seed, labels, start: Start::Seed, inpaint: None }
    }
}

/// What pictures begin from.
#[derive(Clone, Copy, Debug)]
pub enum Start<'a> {
    /// The noise of the seed.
    Seed,
    /// Standard normal noise (count, H, W, C).
    Noise(&'a [f32]),
    /// Pictures (count, H, W, C), with noise put on them as the trajectory's first step expects it (SDEdit, arXiv
    /// 2108.01073). [`Trajectory::from_step`] decides how much.
    Picture(&'a [f32]),
}

/// Pictures of which a part is known (RePaint, arXiv 2201.09865). For samplers that remember nothing.
#[derive(Clone, Copy, Debug)]
pub struct Inpaint<'a> {
    /// The pictures (count, H, W, C).
    pub known: &'a [f32],
    /// 1 where they are known, 0 where they are to be drawn (count, H, W, C).
    pub mask: &'a [f32],
    /// How often each step is taken, with noise put back between, so that the two parts come to fit.
    pub resamples: usize,
}

/// Puts noise onto a latent in place ([`Renoise`]): the forward process in one jump or by a step, and what is known of a
/// picture at the noise that the rest has.
pub struct Renoiser {
    executable: Executable,
    known: ValueId,
    mask: ValueId,
    level: ValueId,
    step: ValueId,
}

impl Renoiser {
    /// Plans and compiles it on the store that holds the latent.
    pub async fn new(store: &Store, latent: &Latent) -> Result<Self, RunError> {
        let mut graph = Graph::new();
        let x = graph.state(&latent.x);
        let known = graph.input("known", latent.x.spec.clone());
        let mask = graph.input("mask", latent.x.spec.clone());
        let level = graph.input("level", Spec::f32([LEVEL]));
        let step = graph.input("step", Spec::u32([STEP_WORDS]));
        graph.apply(Renoise, &[x, known, mask, level, step])?;
        let executable = Executable::new(store, Plan::new(graph, store.caps())?).await?;
        Ok(Self { executable, known, mask, level, step })
    }

    /// Uploads the pictures that are known and where, both of the latent's shape.
    pub fn know(&self, known: &[f32], mask: &[f32]) {
        self.executable.write(self.known, known);
        self.executable.write(self.mask, mask);
    }

    /// Submits it; waits for no result.
    pub async fn run(&self, words: &StepWords, level: RenoiseLevel) -> Result<(), RunError> {
        self.executable.write(self.level, &level.words());
        self.executable.write_u32(self.step, &words.words());
        Ok(self.executable.run().await?)
    }
}

/// Where a draw stands.
pub struct Progress<'a> {
    /// Sampler steps done, over all batches.
    pub done: usize,
    /// Sampler steps in all.
    pub total: usize,
    sampler: &'a PictureSampler,
    /// Pictures of the present batch.
    kept: usize,
}

impl Progress<'_> {
    /// Waits for the device, and reads the pictures of the present batch as they are now.
    pub async fn read(&self) -> Result<Vec<f32>, RunError> {
        let PictureSampler { store, latent, elements, .. } = self.sampler;
        let mut all = store.read(&latent.x).await?;
        all.truncate(self.kept * elements);
        Ok(all)
    }
}
