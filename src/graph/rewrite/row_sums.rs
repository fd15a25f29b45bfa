//! Row sums into what goes through the same rows: the gradient of a bias, Σ dy, beside that of its weight, Σ x dy.

use super::{Uses, renumber};
use crate::graph::{Graph, Op};
use std::sync::Arc;

/// Fuses all there are, and says how many.
pub(super) fn fuse(graph: &mut Graph) -> usize {
    let mut count = 0;
    let mut number = 0;
    let mut uses = Uses::of(graph);
    while number < graph.nodes.len() {
        let found = if graph.nodes[number].op.sums_rows() { partner(graph, &uses, number) } else { None };
        match found {
            Some((product, op)) => {
                let sum = graph.nodes.remove(number).outputs[0];
                graph.nodes[product].op = op;
                graph.nodes[product].outputs.push(sum);
                renumber(graph);
                uses = Uses::of(graph);
                count += 1;
            }
            None => number += 1,
        }
    }
    count
}

/// The operator before the row sum `number` that can give it too, and what it becomes.
fn partner(graph: &Graph, uses: &Uses, number: usize) -> Option<(usize, Arc<dyn Op>)> {
    let x = graph.nodes[number].inputs[0];
    uses.of_value(x).iter().filter(|&&reader| reader < number).find_map(|&reader| {
        let node = &graph.nodes[reader];
        let op = node.op.with_row_sums().filter(|_| node.inputs.last() == Some(&x))?;
        Some((reader, op))
    })
}
