//! What a sampler works on, and its step: x and what is remembered of the step before, as states that a graph updates in
//! place, so that steps follow each other without a readback. The answer f may be a network's, given or exact.

use crate::gpu::{Executable, RunError, Store};
use crate::graph::{Graph, GraphError, Phase, Plan, State, ValueId};
use crate::ops::{
    COEFFICIENTS, Coefficients, Denoise, DynamicThreshold, RandomNormal, STEP_WORDS, Scale, StepWords,
};
use crate::rng::Stream;
use crate::tensor::{Array, Shape, Spec};

/// x and the history of a sampler, both (N, ..., C).
#[derive(Clone, Debug)]
pub struct Latent {
    /// The picture being denoised.
    pub x: State,
    /// What the sampler remembers of the step before.
    pub history: State,
}

/// Inputs of a step's graph.
#[derive(Clone, Copy, Debug)]
pub struct StepInputs {
    /// The sampler's [`Coefficients`], f32 (13).
    pub coefficients: ValueId,
    /// The addresses of the noise, [`StepWords`], u32 (8).
    pub words: ValueId,
}

/// The quantile of dynamic thresholding and the largest threshold, if there is one.
pub type Thresholding = Option<(f64, f64)>;

impl Latent {
    /// States of this shape; the first axis counts items.
    pub fn new(shape: &Shape) -> Self {
        let state = |name| State::new(name, Spec::f32(shape.axes()));
        Self { x: state("latent"), history: state("latent_history") }
    }

    /// The shape of x.
    pub fn shape(&self) -> &Shape {
        &self.x.spec.shape
    }

    /// The graph that puts normal noise times `scale` into x, and its step words.
    pub fn initial_graph(&self, scale: f64) -> Result<(Graph, ValueId), GraphError> {
        let mut graph = Graph::new();
        graph.set_phase(Phase::Sample);
        let words = graph.input("step", Spec::u32([STEP_WORDS]));
        let shape = self.shape().clone();
        let mut x = graph.apply(RandomNormal { stream: Stream::Initial, shape }, &[words])?;
        if scale != 1.0 {
            x = graph.apply(Scale(scale as f32), &[x])?;
        }
        graph.persist(&self.x, x);
        Ok((graph, words))
    }

    /// The graph of a step in place. `answer` appends what gives f (N, ..., F) from x, and returns with it whatever else
    /// its caller wants to know.
    pub fn step_graph<T>(
        &self,
        thresholding: Thresholding,
        answer: impl FnOnce(&mut Graph, ValueId) -> Result<(ValueId, T), GraphError>,
    ) -> Result<(Graph, StepInputs, T), GraphError> {
        let batch = self.shape()[0];
        let mut graph = Graph::new();
        let x = graph.state(&self.x);
        let history = graph.state(&self.history);
        let coefficients = graph.input("coefficients", Spec::f32([COEFFICIENTS]));
        let words = graph.input("step", Spec::u32([STEP_WORDS]));
        let (f, other) = answer(&mut graph, x)?;
        graph.set_phase(Phase::Sample);
        let threshold = match thresholding {
            Some((ratio, max)) => {
                graph.apply(DynamicThreshold { ratio, max: max as f32 }, &[x, f, coefficients])?
            }
            None => graph.constant("threshold", Array::new([batch], vec![1.0; batch])),
        };
        graph.apply_all(Denoise, &[x, f, history, threshold, coefficients, words])?;
        Ok((graph, StepInputs { coefficients, words }, other))
    }

    /// The answer of no network at all: zeros, for steps whose coefficient of f is 0.
    pub fn no_answer(&self, graph: &mut Graph) -> ValueId {
        graph.constant("no_answer", Array::zeros(self.shape()))
    }
}

/// A step on a device.
pub struct LatentStepper {
    /// For whatever inputs the answer has.
    pub executable: Executable,
    inputs: StepInputs,
}

impl LatentStepper {
    /// Plans and compiles [`Latent::step_graph`] on the store that holds the latent.
    pub async fn new<T>(
        store: &Store,
        latent: &Latent,
        thresholding: Thresholding,
        answer: impl FnOnce(&mut Graph, ValueId) -> Result<(ValueId, T), GraphError>,
    ) -> Result<(Self, T), RunError> {
        let (graph, inputs, other) = latent.step_graph(thresholding, answer)?;
        let executable = Executable::new(store, Plan::new(graph, store.caps())?).await?;
        Ok((Self { executable, inputs }, other))
    }

    /// Submits a step; waits for no result.
    pub async fn run(&self, coefficients: &Coefficients, words: &StepWords) -> Result<(), RunError> {
        self.upload(coefficients, words);
        Ok(self.executable.run().await?)
    }

    /// Uploads what a step needs.
    pub fn upload(&self, coefficients: &Coefficients, words: &StepWords) {
        self.executable.write(self.inputs.coefficients, &coefficients.words());
        self.executable.write_u32(self.inputs.words, &words.words());
    }
}
