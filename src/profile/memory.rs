//! What a step holds in device memory.

use crate::graph::{Home, Phase, Plan, WorkingTensor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Device memory of a step, in bytes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Memory {
    /// What lives across steps: weights, moments, random numbers.
    pub states: u64,
    /// What is uploaded.
    pub inputs: u64,
    /// What is filled once.
    pub constants: u64,
    /// What is kept for reading.
    pub outputs: u64,
    /// Buffers that tensors share in turns. At least the most that [`Memory::tensors`] hold in a launch.
    pub working: u64,
    /// What lies in them, in the order of `first`.
    pub tensors: Vec<TensorLife>,
}

/// A tensor in working memory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TensorLife {
    /// `module/op` of what computes it; `scratch of module/op` for what lives within one operator.
    pub name: String,
    /// The phase of what computes it.
    pub phase: Phase,
    /// Its size.
    pub bytes: u64,
    /// Index into [`super::Profile::launches`]: the first launch that it is alive in.
    pub first: usize,
    /// The last one.
    pub last: usize,
}

impl Memory {
    /// Of plans on one store, each with the number of its first launch.
    pub(super) fn of(plans: &[(usize, &Plan)]) -> Self {
        let mut memory = Self::default();
        let mut states: BTreeMap<&str, u64> = BTreeMap::new();
        for &(first_launch, plan) in plans {
            memory.inputs += plan.bytes_where(|b| b.home == Home::Input);
            memory.constants += plan.bytes_where(|b| b.home == Home::Constant);
            memory.outputs += plan.bytes_where(|b| b.home == Home::Output);
            let of_states = plan.buffers.iter().filter(|b| b.home == Home::State);
            states.extend(of_states.map(|b| (b.name.as_str(), b.bytes)));
            let tensors = plan.working_tensors().into_iter();
            memory.tensors.extend(tensors.map(
                |WorkingTensor { name, phase, bytes, first, last, .. }| TensorLife {
                    name,
                    phase,
                    bytes,
                    first: first + first_launch,
                    last: last + first_launch,
                },
            ));
        }
        memory.states = states.values().sum();
        let all: Vec<&Plan> = plans.iter().map(|(_, plan)| *plan).collect();
        let others = memory.states + memory.inputs + memory.constants + memory.outputs;
        memory.working = Plan::bytes_together(&all) - others;
        memory
    }
}
