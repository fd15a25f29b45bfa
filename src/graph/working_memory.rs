//! Which tensors a plan holds in working memory, and from which launch to which.

use super::plan::Home;
use super::{Operand, Origin, Phase, Plan};
use std::collections::BTreeMap;

/// A tensor in working memory, or what an operator scribbles in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkingTensor {
    /// As in the graph: `module/op` of what computes it; `scratch of module/op` for what lives within one operator.
    pub name: String,
    /// The phase of what computes it.
    pub phase: Phase,
    /// Whether it is what an operator scribbles in.
    pub is_scratch: bool,
    /// Its size.
    pub bytes: u64,
    /// The first launch of the operator that computes it.
    pub first: usize,
    /// The last launch of the last operator that reads it.
    pub last: usize,
}

impl Plan {
    /// Every tensor in working memory with its life, in the order of their first launches. What a launch needs at least is the sum
    /// of those alive in it; [`Home::Slot`] buffers hold more where their tensors do not fit each other.
    pub fn working_tensors(&self) -> Vec<WorkingTensor> {
        // They were found when the plan was made, or there would be none.
        let Ok(places) = self.graph.places() else { return Vec::new() };
        let in_slot = |buffer: usize| self.buffers[buffer].home == Home::Slot;
        let mut tensors = Vec::new();
        for (root, life) in self.lives(&places) {
            let value = &self.graph.values[root.0];
            let (Origin::Node(maker, _), Some(place)) = (&value.origin, self.placements[root.0]) else {
                continue;
            };
            // Views and results in place run nothing, so the launches of a life are not those of its first and last node alone.
            let first = self.launches.partition_point(|l| l.node < life.first);
            let end = self.launches.partition_point(|l| l.node <= life.last);
            if in_slot(place.buffer) && first < end {
                let (name, phase) = (value.name.clone(), self.graph.nodes[*maker].phase);
                tensors.push(WorkingTensor {
                    name,
                    phase,
                    is_scratch: false,
                    bytes: life.bytes,
                    first,
                    last: end - 1,
                });
            }
        }
        let mut first = 0;
        for launches in self.launches.chunk_by(|a, b| a.node == b.node) {
            let node = &self.graph.nodes[launches[0].node];
            let last = first + launches.len() - 1;
            let mut scratch: BTreeMap<usize, (u64, u64)> = BTreeMap::new();
            for launch in launches {
                for ((_, operand, _), binding) in launch.dispatch.operands.iter().zip(&launch.bindings) {
                    if let Operand::Scratch(k) = operand {
                        let (begin, end) = (binding.offset, binding.offset + binding.size);
                        let bound = scratch.entry(*k).or_insert((begin, end));
                        *bound = (bound.0.min(begin), bound.1.max(end));
                    }
                }
            }
            let name = format!("scratch of {}", self.graph.label(node));
            tensors.extend(scratch.into_values().map(|(begin, end)| WorkingTensor {
                name: name.clone(),
                phase: node.phase,
                is_scratch: true,
                bytes: end - begin,
                first,
                last,
            }));
            first = last + 1;
        }
        tensors.sort_by_key(|t| (t.first, std::cmp::Reverse(t.last)));
        tensors
    }

    /// Bytes of working memory that are planned, and the largest sum of the tensors alive in one launch: no plan can have less.
    pub fn working_bytes(&self) -> [u64; 2] {
        let mut changes = vec![(0u64, 0u64); self.launches.len() + 1];
        for tensor in self.working_tensors() {
            changes[tensor.first].0 += tensor.bytes;
            changes[tensor.last + 1].1 += tensor.bytes;
        }
        let alive = changes.into_iter().scan(0, |alive, (more, less)| {
            *alive = *alive + more - less;
            Some(*alive)
        });
        [self.bytes_where(|b| b.home == Home::Slot), alive.max().unwrap_or(0)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Caps, Graph, Kernels};
    use crate::ops::Silu;
    use crate::tensor::DType;

    /// Every case of the catalogue, with an operator behind it, so that its results are working memory.
    #[test]
    fn what_a_launch_binds_is_alive() {
        let mut bound = 0;
        for kernels in Kernels::ALL {
            let caps = Caps::webgpu(kernels).with_every_feature();
            for case in crate::ops::catalogue() {
                let mut graph = Graph::new();
                let x: Vec<_> = case.inputs.iter().map(|(spec, _)| graph.input("x", spec.clone())).collect();
                for a in graph.apply_shared(case.op.clone(), &x).unwrap() {
                    match graph.spec(a).dtype {
                        DType::F32 => {
                            let y = graph.apply(Silu, &[a]).unwrap();
                            graph.output("y", y);
                        }
                        _ => graph.output("y", a),
                    }
                }
                let plan = Plan::new(graph, &caps).unwrap();
                let tensors = plan.working_tensors();
                let slots = plan.bytes_where(|b| b.home == Home::Slot);
                for (number, launch) in plan.launches.iter().enumerate() {
                    let alive: u64 = tensors
                        .iter()
                        .filter(|t| (t.first..=t.last).contains(&number))
                        .map(|t| t.bytes)
                        .sum();
                    let in_slots =
                        launch.bindings.iter().filter(|b| plan.buffers[b.buffer].home == Home::Slot);
                    let mut ranges: Vec<_> =
                        in_slots.map(|b| (b.buffer, b.offset, b.offset + b.size)).collect();
                    ranges.sort_unstable();
                    let mut end = (0, 0);
                    let mut needed = 0;
                    for (buffer, first, last) in ranges {
                        // What no range before covers.
                        let from = if end.0 == buffer { first.max(end.1) } else { first };
                        needed += last.saturating_sub(from);
                        bound += usize::from(last > from);
                        end = (buffer, last.max(from));
                    }
                    assert!(
                        needed <= alive && alive <= slots,
                        "{}: {needed}, {alive}, {slots}",
                        case.title()
                    );
                }
            }
        }
        assert!(bound > 200, "{bound}");
    }
}
