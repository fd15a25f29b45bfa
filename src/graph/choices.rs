//! Which of an operator's algorithms is to be used, where somebody has measured it.

use super::{Candidate, Caps, Op, Plan};
use crate::tensor::Spec;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Names of algorithms by what they compute. Where it says nothing, or names an algorithm that the device has not, the rule's choice
/// holds: the first candidate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Choices(BTreeMap<String, String>);

impl Choices {
    /// For the operators of these plans: the first algorithm that is wanted, where the capabilities have one.
    pub fn of(plans: &[&Plan], caps: &Caps, mut wanted: impl FnMut(&Candidate) -> bool) -> Self {
        let mut choices = Self::default();
        for plan in plans {
            for node in &plan.graph.nodes {
                let (inputs, outputs) = plan.graph.node_specs(node);
                let candidates = node.op.candidates(&inputs, &outputs, caps);
                if let Some(candidate) = candidates.iter().find(|candidate| wanted(candidate)) {
                    choices.insert(Self::key(&*node.op, &inputs), candidate.algorithm);
                }
            }
        }
        choices
    }

    /// What stands for an operator on inputs of these types and shapes.
    pub fn key(op: &dyn Op, inputs: &[Spec]) -> String {
        format!("{op:?} of {inputs:?}")
    }

    /// The algorithm for this key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// Chooses an algorithm for a key.
    pub fn insert(&mut self, key: String, algorithm: &str) {
        self.0.insert(key, algorithm.into());
    }

    /// Takes over what another says.
    pub fn extend(&mut self, other: &Self) {
        self.0.extend(other.0.iter().map(|(key, algorithm)| (key.clone(), algorithm.clone())));
    }

    /// Whether nothing is chosen.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Candidates with the chosen one first.
    pub(super) fn sorted(
        &self,
        op: &dyn Op,
        inputs: &[Spec],
        mut candidates: Vec<Candidate>,
    ) -> Vec<Candidate> {
        if !self.is_empty() && candidates.len() > 1 {
            let key = Self::key(op, inputs);
            let chosen = self.get(&key);
            candidates.sort_by_key(|candidate| Some(candidate.algorithm) != chosen);
        }
        candidates
    }
}
