//! How the cost of a node is shared among its launches.

use super::{Cost, Operand, Plan};
use std::collections::HashSet;

impl Plan {
    /// The cost of every launch. Those of a node add up to the cost of its operator: arithmetic is shared as the launches say
    /// ([`super::Dispatch::arithmetic`]), and the bytes of an input or output belong to the first launch that binds it. So scratch
    /// memory, and what is read a second time, count for nothing: they need not move.
    pub fn launch_costs(&self) -> Vec<Cost> {
        let mut costs = Vec::with_capacity(self.launches.len());
        for launches in self.launches.chunk_by(|a, b| a.node == b.node) {
            let node = &self.graph.nodes[launches[0].node];
            let (x, y) = self.graph.node_specs(node);
            let total = node.op.cost(&x, &y);
            let arithmetic: Vec<u64> = launches.iter().map(|l| l.dispatch.arithmetic as u64).collect();
            let mut seen = HashSet::new();
            let (mut read, mut written) = (Vec::new(), Vec::new());
            for launch in launches {
                let (mut inputs, mut outputs) = (0, 0);
                for ((_, operand, range), binding) in launch.dispatch.operands.iter().zip(&launch.bindings) {
                    let (kind, number, bytes) = match operand {
                        Operand::Input(k) => (0, k, &mut inputs),
                        Operand::Output(k) => (1, k, &mut outputs),
                        Operand::Scratch(_) => continue,
                    };
                    if seen.insert((kind, *number, range.clone())) {
                        *bytes += binding.size - binding.guard;
                    }
                }
                read.push(inputs);
                written.push(outputs);
            }
            let matrix_flops = shares(total.matrix_flops, &arithmetic);
            let other_flops = shares(total.other_flops, &arithmetic);
            let (read, written) = (shares(total.bytes_read, &read), shares(total.bytes_written, &written));
            costs.extend((0..launches.len()).map(|i| Cost {
                matrix_flops: matrix_flops[i],
                other_flops: other_flops[i],
                bytes_read: read[i],
                bytes_written: written[i],
            }));
        }
        costs
    }
}

/// A total shared in proportion to weights, rounded so that the shares add up to it; all of it to the first if no weight is
/// above zero.
fn shares(total: u64, weights: &[u64]) -> Vec<u64> {
    let all: u128 = weights.iter().map(|&w| u128::from(w)).sum();
    if all == 0 {
        return (0..weights.len()).map(|i| if i == 0 { total } else { 0 }).collect();
    }
    let (mut before, mut given) = (0u128, 0);
    weights
        .iter()
        .map(|&weight| {
            before += u128::from(weight);
            // At most `total`, since `before` is at most `all`.
            let until = u64::try_from(u128::from(total) * before / all).unwrap_or(total);
            let share = until - given;
            given = until;
            share
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{Aliasing, Caps, Graph, Kernels, Op};
    use crate::tensor::Spec;

    #[test]
    fn shares_add_up() {
        assert_eq!(shares(10, &[1, 1, 1]), [3, 3, 4]);
        assert_eq!(shares(10, &[0, 5, 0]), [0, 10, 0]);
        assert_eq!(shares(10, &[0, 0]), [10, 0]);
        assert_eq!(shares(1 << 60, &[1 << 40, 3 << 40]), [1 << 58, 3 << 58]);
    }

    /// Every case of the catalogue, with every candidate.
    #[test]
    fn the_launches_of_an_operator_cost_what_it_costs() {
        let mut several = 0;
        for kernels in Kernels::ALL {
            let caps = Caps::webgpu(kernels).with_every_feature();
            for case in crate::ops::catalogue() {
                let mut graph = Graph::new();
                let x: Vec<_> = case.inputs.iter().map(|(spec, _)| graph.input("x", spec.clone())).collect();
                for y in graph.apply_shared(case.op.clone(), &x).unwrap() {
                    graph.output("y", y);
                }
                let cost = graph.cost();
                let plan = Plan::new(graph, &caps).unwrap();
                let costs = plan.launch_costs();
                let mut sum = Cost::default();
                costs.iter().for_each(|&c| sum += c);
                let expected = if costs.is_empty() { Cost::default() } else { cost };
                assert_eq!(sum, expected, "{}", case.title());
                several += usize::from(costs.len() > 1);
            }
        }
        assert!(several > 50, "{several}");
    }

    /// Every case of the catalogue: what an operator must read and write is what its launches bind.
    #[test]
    fn bytes_are_those_of_the_tensors_that_are_bound() {
        // These take some rows, columns or a single number of a table, and Record writes one row.
        const LOOKED_UP: [&str; 6] = [
            "embedding",
            "slice_channels",
            "bias_correction",
            "record",
            "group_norm_backward_scale_shift",
            "linear_layers",
        ];
        let caps = Caps::webgpu(Kernels::Workgroup).with_every_feature();
        for case in crate::ops::catalogue() {
            let x: Vec<Spec> = case.inputs.iter().map(|(spec, _)| spec.clone()).collect();
            let y = case.op.infer(&x).unwrap();
            let cost = case.op.cost(&x, &y);
            let Some(candidate) = case.op.candidates(&x, &y, &caps).into_iter().next() else { continue };
            let bound: HashSet<Operand> = candidate
                .program
                .dispatches
                .iter()
                .flat_map(|d| d.operands.iter().map(|(_, o, _)| *o))
                .collect();
            // What is overwritten in place is read first, and bound under its new name.
            let overwritten: Vec<usize> = match case.op.aliasing() {
                Aliasing::InPlace(pairs) => pairs.iter().map(|&(_, input)| input).collect(),
                _ => Vec::new(),
            };
            let bytes = |spec: &Spec| spec.bytes() as u64;
            let read: u64 = (0..x.len())
                .filter(|i| bound.contains(&Operand::Input(*i)) || overwritten.contains(i))
                .map(|i| bytes(&x[i]))
                .sum();
            let written: u64 =
                (0..y.len()).filter(|&i| bound.contains(&Operand::Output(i))).map(|i| bytes(&y[i])).sum();
            let counted = (cost.bytes_read, cost.bytes_written);
            if LOOKED_UP.contains(&case.op.name()) {
                assert!(counted.0 <= read && counted.1 <= written, "{}: {counted:?}", case.title());
            } else {
                assert_eq!(counted, (read, written), "{}", case.title());
            }
        }
    }

    #[test]
    fn arithmetic_is_counted_as_by_hand() {
        use crate::ops::{Attention, Conv2d, Linear, Padding};
        let flops = |op: &dyn Op, x: &[Spec]| op.cost(x, &op.infer(x).unwrap()).flops();
        // 2 pictures of 8 by 8, 32 channels from 9 taps of 16 each, a multiplication and an addition; and the bias.
        let conv = Conv2d { kernel: 3, stride: 1, padding: Padding::Symmetric(1) };
        let x = [Spec::f32([2, 8, 8, 16]), Spec::f32([3, 3, 16, 32]), Spec::f32([32])];
        assert_eq!(flops(&conv, &x), 2 * 8 * 8 * 32 * (9 * 16 * 2 + 1));
        assert_eq!(
            flops(&Linear, &[Spec::f32([5, 7]), Spec::f32([7, 3]), Spec::f32([3])]),
            5 * 3 * (7 * 2 + 1)
        );
        // 2 sequences of 10 in 4 heads of 8: scores and weighted values, 10 by 10 of 8 terms each.
        let q = Spec::f32([2, 10, 32]);
        assert_eq!(flops(&Attention { heads: 4 }, &[q.clone(), q.clone(), q]), 2 * 4 * (2 * 10 * 10 * 8 * 2));
    }
}
