//! Proof of the operators: every case against its f64 reference on a device, with guard words behind the
//! outputs, and every gradient against finite differences without one. Tests and `doctor` share this.

use crate::gpu::{Executable, GpuError, Store};
use crate::graph::{Caps, Graph, GraphError, Plan, ValueId, interpret};
use crate::ops::{Add, Case};
use crate::rng::{Philox, Stream};
use crate::tensor::{Array, Deviation};
use std::collections::HashMap;
use std::sync::Arc;

/// Words behind each output that a kernel must not touch: more than one workgroup's worth.
const GUARD_WORDS: usize = 320;

/// A NaN of its own: whatever was not written is seen in outputs and guards alike.
const POISON: u32 = 0x7fc0_dead;

/// How a case came out on a device.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The candidate's algorithm.
    pub algorithm: &'static str,
    /// The largest deviation over the outputs.
    pub deviation: Deviation,
    /// Shape of the output in which it was found.
    pub output: String,
    /// Whether a word behind an output or a scratch tensor was written.
    pub guard_broken: bool,
    /// Shader files, entry points and variants that ran.
    pub kernels: String,
}

impl Outcome {
    /// Whether it is within tolerance and stayed within its memory.
    pub fn passed(&self) -> bool {
        self.deviation.excess <= 1.0 && !self.guard_broken
    }
}

/// A graph of one operator with the case's inputs.
fn single(case: &Case) -> Result<(Graph, Vec<ValueId>, Vec<ValueId>), GraphError> {
    let mut graph = Graph::new();
    let inputs: Vec<ValueId> = case
        .inputs
        .iter()
        .enumerate()
        .map(|(i, (spec, _))| graph.input(&format!("x{i}"), spec.clone()))
        .collect();
    let outputs = graph.apply_shared(case.op.clone(), &inputs)?;
    for (i, &y) in outputs.iter().enumerate() {
        graph.output(&format!("y{i}"), y);
    }
    Ok((graph, inputs, outputs))
}

/// What stops a case from being judged.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The case's own shapes are wrong.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// The device failed.
    #[error(transparent)]
    Gpu(#[from] GpuError),
}

/// Runs every candidate of a case that the launches made for `caps` have, the rule's choice first.
pub async fn on_device(case: &Case, store: &Arc<Store>, caps: &Caps) -> Result<Vec<Outcome>, CheckError> {
    let (graph, inputs, outputs) = single(case)?;
    let (x, y) = graph.node_specs(&graph.nodes[0]);
    let arrays = case.arrays();
    let expected = case.op.reference(&arrays);
    let mut outcomes = Vec::new();
    for candidate in case.op.candidates(&x, &y, caps) {
        let choose = |_, _| Some(candidate.clone());
        let plan = Plan::of_programs(graph.clone(), caps, GUARD_WORDS, choose).map_err(GpuError::from)?;
        let kernels = plan.launches.iter().map(|launch| launch.dispatch.to_string()).collect::<Vec<_>>();
        let executable = Executable::new(store, plan).await?;
        executable.poison(POISON);
        for (&id, array) in inputs.iter().zip(&arrays) {
            executable.write_values(id, &array.data);
        }
        executable.run().await?;
        let mut outcome = Outcome {
            algorithm: candidate.algorithm,
            deviation: Deviation::default(),
            output: String::new(),
            guard_broken: !executable.guards_hold(POISON).await?,
            kernels: kernels.join(", "),
        };
        let tolerance = case.tolerance.unwrap_or(candidate.tolerance);
        for (&id, array) in outputs.iter().zip(&expected) {
            let spec = executable.plan().graph.spec(id);
            let got = executable.read_values(id).await?;
            let deviation = tolerance.stored_as(spec.dtype).compare(&got, &array.data);
            if deviation.excess >= outcome.deviation.excess {
                (outcome.deviation, outcome.output) = (deviation, format!("{spec:?}"));
            }
        }
        outcomes.push(outcome);
    }
    Ok(outcomes)
}

/// The derivative of ⟨y, r⟩, r random, along a random direction of each checked input: the backward graph
/// in f64 against central differences. Returns the largest error relative to the derivative's scale.
pub fn gradient(case: &Case) -> Result<f64, GraphError> {
    let (mut graph, inputs, outputs) = single(case)?;
    let arrays = case.arrays();
    let mut given: HashMap<ValueId, Array> = inputs.iter().copied().zip(arrays).collect();

    let mut rng = Philox::new(1, Stream::Cases, 1);
    // Only the first output has a gradient; others (statistics) are by-products.
    let y = outputs[0];
    let seed_value = Array::from_fn(graph.shape(y), |_| rng.normal());
    let seed = graph.input("seed", graph.spec(y).clone());
    given.insert(seed, seed_value.clone());
    let wrt: Vec<ValueId> = case.gradients.iter().map(|&i| inputs[i]).collect();
    let gradients = graph.backward(Add, &[(y, seed)], &wrt)?;
    let values = interpret(&graph, &given);

    let project = |given: &HashMap<ValueId, Array>| {
        let x: Vec<Array> = inputs.iter().map(|v| given[v].clone()).collect();
        let y = case.op.reference(&x).swap_remove(0);
        y.data.iter().zip(&seed_value.data).map(|(a, b)| a * b).sum::<f64>()
    };
    let mut worst: f64 = 0.0;
    for &x in &wrt {
        let Some(gradient) = gradients.get(&x) else { return Ok(f64::INFINITY) };
        let gradient = &values[gradient.0];
        for _ in 0..3 {
            let direction = Array::from_fn(&given[&x].shape, |_| rng.normal());
            const H: f64 = 1e-5;
            let at = |h: f64| {
                let mut moved = given.clone();
                let array = moved.get_mut(&x).expect("every checked input is given");
                array.data.iter_mut().zip(&direction.data).for_each(|(v, d)| *v += h * d);
                project(&moved)
            };
            let numeric = (at(H) - at(-H)) / (2.0 * H);
            let products: Vec<f64> = gradient.data.iter().zip(&direction.data).map(|(g, d)| g * d).collect();
            let analytic: f64 = products.iter().sum();
            let scale = products.iter().map(|p| p * p).sum::<f64>().sqrt().max(1e-3);
            worst = worst.max((numeric - analytic).abs() / scale);
        }
    }
    Ok(worst)
}
