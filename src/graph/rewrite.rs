//! Rewrites of a graph before it is planned.
//!
//! A rewrite takes a graph and returns one with the same inputs, states, outputs and persistent tensors, each with the
//! same numbers; tensors keep their ids, so that whoever built the graph can go on naming them. The f64 interpreter holds
//! every rewrite to that (`tests/rewrites.rs`).

use super::{Aliasing, Graph, Node, Origin, ValueId};

/// Leaves out the nodes whose results nobody asks for: neither an output nor a persistent tensor, nor an update of a state
/// in place depends on them.
#[must_use]
pub fn without_dead_nodes(mut graph: Graph) -> Graph {
    let mut wanted = vec![false; graph.values.len()];
    for value in graph.outputs.iter().chain(graph.persistent.keys()) {
        wanted[value.0] = true;
    }
    let mut alive = vec![false; graph.nodes.len()];
    for (i, node) in graph.nodes.iter().enumerate().rev() {
        alive[i] = node.outputs.iter().any(|v| wanted[v.0]) || updates_a_state(&graph, node);
        if alive[i] {
            node.inputs.iter().for_each(|v| wanted[v.0] = true);
        }
    }
    let mut number = 0;
    for (node, &alive) in std::mem::take(&mut graph.nodes).into_iter().zip(&alive) {
        for (i, output) in node.outputs.iter().enumerate() {
            graph.values[output.0].origin = if alive { Origin::Node(number, i) } else { Origin::Removed };
        }
        if alive {
            graph.nodes.push(node);
            number += 1;
        }
    }
    graph
}

/// Whether a node overwrites, in place, what lies in the memory of a state.
fn updates_a_state(graph: &Graph, node: &Node) -> bool {
    let in_state = |mut value: ValueId| {
        loop {
            match graph.values[value.0].origin {
                Origin::State => return true,
                Origin::Node(n, output) => {
                    let before = &graph.nodes[n];
                    value = match before.op.aliasing() {
                        Aliasing::View { .. } => before.inputs[0],
                        Aliasing::InPlace(pairs) => match pairs.iter().find(|(o, _)| *o == output) {
                            Some(&(_, input)) => before.inputs[input],
                            None => return false,
                        },
                        Aliasing::None | Aliasing::Pack { .. } => return false,
                    };
                }
                Origin::Input | Origin::Constant(_) | Origin::Removed => return false,
            }
        }
    };
    match node.op.aliasing() {
        Aliasing::InPlace(pairs) => pairs.iter().any(|&(_, input)| in_state(node.inputs[input])),
        _ => false,
    }
}
