//! Nodes whose results nobody asks for.

use super::renumber;
use crate::graph::{Aliasing, Graph, Node, Origin, ValueId};

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
    let mut alive = alive.into_iter();
    graph.nodes.retain(|_| alive.next() == Some(true));
    renumber(&mut graph);
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
