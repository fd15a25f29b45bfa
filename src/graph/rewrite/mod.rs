//! Rewrites of a graph before it is planned.
//!
//! A rewrite takes a graph and returns one with the same inputs, states, outputs and persistent tensors, each with the
//! same numbers; tensors keep their ids, so that whoever built the graph can go on naming them. The f64 interpreter holds
//! every rewrite to that (`tests/rewrites.rs`).
//!
//! Most are fusions: what took a launch of its own is done by the operator before it or beside it. What is fused is decided by
//! what the operators say of themselves ([`super::Op`]) and by who reads a tensor, never by a name.

mod addends;
mod dead;
mod layers;
mod row_sums;

pub use dead::without_dead_nodes;

use super::{Caps, Graph, Origin, ValueId};

/// One kind of fusion, and how often it was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fusion {
    /// What was fused into what.
    pub name: &'static str,
    /// How often.
    pub count: usize,
}

/// Leaves out dead nodes, and if the capabilities ask for it fuses what can be.
#[must_use]
pub fn rewritten(graph: Graph, caps: &Caps) -> (Graph, Vec<Fusion>) {
    let mut graph = without_dead_nodes(graph);
    if !caps.fusion {
        return (graph, Vec::new());
    }
    let fusions = vec![
        Fusion { name: "sums into the stores of results", count: addends::fuse(&mut graph) },
        Fusion { name: "gradients of biases into those of weights", count: row_sums::fuse(&mut graph) },
        Fusion { name: "linear layers of one input joined", count: layers::join(&mut graph) },
    ];
    (graph, fusions)
}

/// Tells every tensor its node again, after nodes were taken out or moved.
pub(super) fn renumber(graph: &mut Graph) {
    for value in &mut graph.values {
        if matches!(value.origin, Origin::Node(..)) {
            value.origin = Origin::Removed;
        }
    }
    for (number, node) in graph.nodes.iter().enumerate() {
        for (i, output) in node.outputs.iter().enumerate() {
            graph.values[output.0].origin = Origin::Node(number, i);
        }
    }
}

/// The node that computes a tensor.
fn maker(graph: &Graph, value: ValueId) -> Option<usize> {
    match graph.values[value.0].origin {
        Origin::Node(node, _) => Some(node),
        _ => None,
    }
}

/// Who reads each tensor.
struct Uses {
    /// The nodes, by tensor; one that reads it twice stands there twice.
    nodes: Vec<Vec<usize>>,
    /// Whether it is asked for after the run.
    kept: Vec<bool>,
}

impl Uses {
    fn of(graph: &Graph) -> Self {
        let mut uses =
            Self { nodes: vec![Vec::new(); graph.values.len()], kept: vec![false; graph.values.len()] };
        for (number, node) in graph.nodes.iter().enumerate() {
            node.inputs.iter().for_each(|v| uses.nodes[v.0].push(number));
        }
        graph.outputs.iter().chain(graph.persistent.keys()).for_each(|v| uses.kept[v.0] = true);
        uses
    }

    /// The nodes that read a tensor.
    fn of_value(&self, value: ValueId) -> &[usize] {
        &self.nodes[value.0]
    }

    /// Whether one node alone reads the tensor, once, and nobody asks for it after the run.
    fn is_single(&self, value: ValueId) -> bool {
        self.nodes[value.0].len() == 1 && !self.kept[value.0]
    }
}
