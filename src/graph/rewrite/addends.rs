//! Sums into stores: y = a + b, where an operator that can add one more input computes a for this sum alone. The residual
//! connections, the time embedding, and the sums of gradients where a tensor has several uses.

use super::{Uses, maker, renumber};
use crate::graph::{Aliasing, Graph, Node, ValueId};

/// Fuses all there are, and says how many.
pub(super) fn fuse(graph: &mut Graph) -> usize {
    let mut count = 0;
    let mut uses = Uses::of(graph);
    let mut number = 0;
    while number < graph.nodes.len() {
        if graph.nodes[number].op.is_sum()
            && let Some(nodes) = fused(graph, &uses, number)
        {
            graph.nodes = nodes;
            renumber(graph);
            uses = Uses::of(graph);
            count += 1;
        } else {
            number += 1;
        }
    }
    count
}

/// The nodes of the graph with the sum `number` fused, if it can be.
fn fused(graph: &Graph, uses: &Uses, number: usize) -> Option<Vec<Node>> {
    let [a, b] = graph.nodes[number].inputs[..] else { return None };
    let mut orders = vec![(a, b)];
    if graph.spec(a) == graph.spec(b) {
        orders.push((b, a));
        // What was computed last need not move: all that it is added to is there.
        orders.sort_by_key(|(result, _)| std::cmp::Reverse(maker(graph, *result)));
    }
    orders.into_iter().find_map(|(result, addend)| fused_into(graph, uses, number, result, addend))
}

/// The same with `result` as what is computed and `addend` as what is added to it.
fn fused_into(
    graph: &Graph,
    uses: &Uses,
    number: usize,
    result: ValueId,
    addend: ValueId,
) -> Option<Vec<Node>> {
    let y = graph.nodes[number].outputs[0];
    // 1. The operator that computes the result, behind reshapes, and that nobody else reads.
    let (mut value, mut reshapes) = (result, Vec::new());
    let producer = loop {
        let node = maker(graph, value).filter(|_| uses.is_single(value))?;
        match graph.nodes[node].op.aliasing() {
            Aliasing::None => break node,
            Aliasing::View { offset: 0 } => {
                reshapes.push(node);
                value = graph.nodes[node].inputs[0];
            }
            _ => return None,
        }
    };
    let node = &graph.nodes[producer];
    let (x, outputs) = graph.node_specs(node);
    let out = outputs.first().filter(|_| node.outputs[0] == value)?;
    if out.shape.elements() != graph.shape(y).elements() || !node.op.takes_addend(&x, out, graph.spec(addend))
    {
        return None;
    }
    // 2. What is packed is computed within another tensor, and so is what is kept: not behind a reshape.
    let is_pack = |&n: &usize| matches!(graph.nodes[n].op.aliasing(), Aliasing::Pack { .. });
    if uses.of_value(y).iter().any(is_pack) || !reshapes.is_empty() && uses.kept[y.0] {
        return None;
    }
    // 3. Where the addend comes after the operator, the operator moves to where the sum is; nothing may be overwritten between.
    let moves = maker(graph, addend).is_some_and(|n| n > producer);
    let in_place = |n: &Node| matches!(n.op.aliasing(), Aliasing::InPlace(_));
    if moves && graph.nodes[producer..number].iter().any(in_place) {
        return None;
    }

    let mut moved: Vec<usize> = reshapes.iter().rev().copied().collect();
    moved.insert(0, producer);
    let changed = |n: usize| {
        let mut node = graph.nodes[n].clone();
        if n == producer {
            node.inputs.push(addend);
        }
        if Some(&n) == moved.last() {
            node.outputs[0] = y;
        }
        node
    };
    let mut nodes = Vec::with_capacity(graph.nodes.len());
    for (n, node) in graph.nodes.iter().enumerate() {
        match (n == number, moved.contains(&n)) {
            (true, _) if moves => nodes.extend(moved.iter().map(|&m| changed(m))),
            (true, _) => {}
            (_, true) if moves => {}
            (_, true) => nodes.push(changed(n)),
            _ => nodes.push(node.clone()),
        }
    }
    Some(nodes)
}
