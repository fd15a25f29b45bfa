//! Device memory by how long it is needed.

use crate::graph::{Home, Phase, Plan, WorkingTensor};
use crate::train::{RunPlan, TrainStates};
use serde::Serialize;
use std::collections::BTreeMap;

/// Device memory of a training run, in bytes. All but the two last fields add up to `step`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MemoryByLife {
    /// The weights, for the whole run, and their copy in f16.
    pub parameters: u64,
    /// Their gradients, of the effective batch and of a micro-batch.
    pub gradients: u64,
    /// Both moments, the moving average, the count of steps, and the scale of the loss.
    pub optimizer: u64,
    /// The losses, and rows of the log that the host has not read.
    pub log: u64,
    /// What is uploaded for a step.
    pub inputs: u64,
    /// What is filled once.
    pub constants: u64,
    /// What is kept for reading.
    pub outputs: u64,
    /// Working memory at its fullest launch: what an earlier part of the step computed and the backward pass reads.
    pub activations: u64,
    /// There: what is computed and read within one part of the step.
    pub passing: u64,
    /// There: what lives within one operator.
    pub scratch: u64,
    /// What the buffers of working memory have beyond that, since whole buffers are shared by tensors of several sizes.
    pub unfilled: u64,
    /// A training step.
    pub step: u64,
    /// What evaluation and sampling need beside it.
    pub evaluation: u64,
}

/// Working memory of a plan, in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WorkingMemory {
    /// What the plan does.
    pub plan: &'static str,
    /// What is planned.
    pub planned: u64,
    /// The largest sum of the tensors alive in one launch.
    pub alive: u64,
}

impl WorkingMemory {
    /// Of every plan of a run that has any.
    pub fn of(run: &RunPlan) -> Vec<Self> {
        let plans = [
            ("training, a micro-batch", &run.plans.micro),
            ("training, the update", &run.plans.update),
            ("held-out loss", &run.evaluation),
        ];
        let grids = run.grids.iter().map(|plan| ("sampling", plan));
        let all = plans.into_iter().chain(grids).map(|(plan, of)| {
            let [planned, alive] = of.working_bytes();
            Self { plan, planned, alive }
        });
        all.filter(|working| working.planned > 0).collect()
    }
}

impl MemoryByLife {
    /// Of a run that is planned.
    pub fn of(run: &RunPlan) -> Self {
        let plans = [&run.plans.micro, &run.plans.update];
        let mut memory = Self { step: run.plans.bytes(), ..Self::default() };
        memory.evaluation = run.bytes.saturating_sub(memory.step);
        memory.add_states(&run.states, &plans);
        let bytes_of = |home| plans.iter().map(|plan| plan.bytes_where(|b| b.home == home)).sum();
        memory.inputs = bytes_of(Home::Input);
        memory.constants = bytes_of(Home::Constant);
        memory.outputs = bytes_of(Home::Output);
        let others = memory.states() + memory.inputs + memory.constants + memory.outputs;
        let fullest = plans.iter().map(|plan| fullest(plan)).max_by_key(|alive| alive.iter().sum::<u64>());
        [memory.activations, memory.passing, memory.scratch] = fullest.unwrap_or_default();
        let filled = memory.activations + memory.passing + memory.scratch;
        memory.unfilled = memory.step.saturating_sub(others + filled);
        memory
    }

    fn add_states(&mut self, states: &TrainStates, plans: &[&Plan]) {
        let buffers = plans.iter().flat_map(|plan| &plan.buffers).filter(|b| b.home == Home::State);
        let bytes: BTreeMap<&str, u64> = buffers.map(|b| (b.name.as_str(), b.bytes)).collect();
        let named = |state: &crate::graph::State| bytes.get(state.name.as_str()).copied().unwrap_or(0);
        let of = |state: &Option<crate::graph::State>| state.as_ref().map_or(0, named);
        self.parameters = named(&states.parameters) + of(&states.copy);
        self.gradients = named(&states.gradients) + named(&states.micro_gradients);
        self.optimizer = [&states.first_moment, &states.second_moment, &states.ema, &states.steps_taken]
            .into_iter()
            .map(named)
            .sum::<u64>()
            + of(&states.loss_scale);
        self.log = named(&states.loss) + named(&states.log);
    }

    fn states(&self) -> u64 {
        self.parameters + self.gradients + self.optimizer + self.log
    }
}

/// What is alive in the launch that needs the most: activations kept for the backward pass, what passes within a part, scratch.
fn fullest(plan: &Plan) -> [u64; 3] {
    let phase = |launch: usize| plan.graph.nodes[plan.launches[launch].node].phase;
    let kind = |tensor: &WorkingTensor| match tensor {
        WorkingTensor { is_scratch: true, .. } => 2,
        WorkingTensor { phase: Phase::Backward | Phase::Recompute, .. } => 1,
        tensor => usize::from(!matches!(phase(tensor.last), Phase::Backward | Phase::Recompute)),
    };
    // What begins and what ends with each launch, so that one walk over them finds the fullest.
    let mut changes: Vec<[i128; 3]> = vec![[0; 3]; plan.launches.len() + 1];
    for tensor in plan.working_tensors() {
        let kind = kind(&tensor);
        changes[tensor.first][kind] += i128::from(tensor.bytes);
        changes[tensor.last + 1][kind] -= i128::from(tensor.bytes);
    }
    let (mut alive, mut most) = ([0i128; 3], [0i128; 3]);
    for change in changes {
        alive = [0, 1, 2].map(|kind| alive[kind] + change[kind]);
        if alive.iter().sum::<i128>() > most.iter().sum() {
            most = alive;
        }
    }
    most.map(|bytes| u64::try_from(bytes).unwrap_or(0))
}
