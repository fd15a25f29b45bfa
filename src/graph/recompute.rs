//! Activations computed again in the backward pass instead of being kept for it (T. Chen et al., "Training deep nets with
//! sublinear memory cost", arXiv 1604.06174).
//!
//! The forward part of a graph is divided into blocks ([`Graph::begin_block`]), and blocks into segments. What one segment
//! gives to another is kept. Everything else that the backward pass reads is given by copies of the forward nodes, each right
//! before its first reader: the same operators on the same numbers, and so the same bits.

use super::rewrite::renumber;
use super::{Graph, LinearPart, Node, Origin, Phase, Value, ValueId};
use std::collections::{BTreeSet, HashMap};

/// What of the forward pass is computed again in the backward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Checkpointing {
    /// Nothing: all that the backward pass reads is kept.
    #[default]
    None,
    /// What lies within a block: its inputs are kept.
    Blocks,
    /// The same, and of every √n of the n blocks only the inputs of the first are kept: those of the others are computed
    /// again first, when the backward pass comes to them.
    Full,
}

impl Checkpointing {
    /// All, with less memory and more arithmetic each.
    pub const ALL: [Self; 3] = [Self::None, Self::Blocks, Self::Full];

    /// As flags and files have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Blocks => "blocks",
            Self::Full => "full",
        }
    }
}

/// The smallest tensors of the forward pass are kept if all of them together are no more than this share of it: to compute
/// them again would cost launches and save nothing. In the U-Nets these are statistics and projected times.
const KEPT_SHARE: f64 = 0.01;

/// A graph of which the nodes from `forward` on are being given copies to read from.
struct Recomputation {
    graph: Graph,
    /// Nodes of the forward pass.
    forward: usize,
    /// The block of each of them; none of what comes before the first.
    blocks: Vec<Option<usize>>,
    /// The segment of each block.
    segments: Vec<usize>,
    /// Tensors that need no copy.
    kept: Vec<bool>,
    /// Those that another block reads.
    inputs_of_blocks: Vec<bool>,
    nodes: Vec<Node>,
    /// The copies of each tensor, by what they are for.
    copies: [HashMap<ValueId, ValueId>; 2],
}

/// Copies from which the inputs of a segment's blocks are computed. Within the blocks they are for this purpose alone, so that they
/// need not live until the gradients of their block.
const FOR_BLOCKS: usize = 0;
/// Copies that the gradients of a block read.
const FOR_GRADIENTS: usize = 1;

impl Graph {
    /// The same graph, of which the nodes before `forward` are the forward pass and the others read from it, with copies of
    /// forward nodes in place of what is not kept.
    #[must_use]
    pub fn recomputed(self, forward: usize, checkpointing: Checkpointing) -> Self {
        let count = self.block_starts.len();
        let per_segment = match checkpointing {
            _ if count < 2 => return self,
            Checkpointing::None => return self,
            Checkpointing::Blocks => 1,
            Checkpointing::Full => count.div_ceil(count.isqrt().max(1)),
        };
        let blocks = (0..forward)
            .map(|node| self.block_starts.partition_point(|&start| start <= node).checked_sub(1))
            .collect();
        let mut recomputation = Recomputation {
            forward,
            blocks,
            segments: (0..count).map(|block| block / per_segment).collect(),
            kept: vec![true; self.values.len()],
            inputs_of_blocks: vec![false; self.values.len()],
            nodes: Vec::with_capacity(self.nodes.len()),
            copies: Default::default(),
            graph: self,
        };
        recomputation.decide();
        recomputation.rebuild()
    }
}

impl Recomputation {
    /// The forward node that computes a tensor.
    fn maker(&self, value: ValueId) -> Option<usize> {
        match self.graph.values[value.0].origin {
            Origin::Node(node, _) if node < self.forward => Some(node),
            _ => None,
        }
    }

    /// The block in which a tensor's memory is written, unless it is the last one, whose gradients come at once.
    fn block(&self, value: ValueId) -> Option<usize> {
        let made = self.maker(self.graph.written_as(value)).and_then(|node| self.blocks[node]);
        made.filter(|&block| block + 1 < self.segments.len())
    }

    /// Decides what is kept: a tensor and all views of it alike.
    fn decide(&mut self) {
        let (graph, last) = (&self.graph, self.segments[self.segments.len() - 1]);
        let mut kept: Vec<bool> = (0..graph.values.len()).map(|v| self.block(ValueId(v)).is_none()).collect();
        // 1. What is asked for after the run, and what another segment reads. The gradients of the last segment come before
        //    those of all others, so that what its blocks give each other need not be computed twice.
        for value in graph.outputs.iter().chain(graph.persistent.keys()) {
            kept[graph.written_as(*value).0] = true;
        }
        for (node, reader) in graph.nodes[..self.forward].iter().zip(&self.blocks) {
            for &value in &node.inputs {
                let Some(block) = self.block(value).filter(|block| Some(*block) != *reader) else { continue };
                let (root, segment) = (graph.written_as(value), self.segments[block]);
                self.inputs_of_blocks[root.0] = true;
                kept[root.0] |= segment == last || reader.map(|block| self.segments[block]) != Some(segment);
            }
        }
        // 2. Linear layers of what was made before the blocks, as the times that are projected for each block: they are joined to one
        //    product (`rewrite/layers.rs`), and a product of some of them alone might sum in another order.
        for node in &graph.nodes[..self.forward] {
            let linear = node.op.linear_part() == Some(LinearPart::Forward);
            if linear && node.inputs.iter().all(|&value| self.block(value).is_none()) {
                node.outputs.iter().for_each(|output| kept[output.0] = true);
            }
        }
        // 3. The smallest.
        let mut sizes: Vec<(usize, ValueId)> = (0..graph.values.len())
            .map(ValueId)
            .filter(|&value| graph.written_as(value) == value && self.block(value).is_some())
            .map(|value| (graph.spec(value).bytes(), value))
            .collect();
        sizes.sort_unstable();
        let mut left = KEPT_SHARE * sizes.iter().map(|&(bytes, _)| bytes as f64).sum::<f64>();
        for (bytes, value) in sizes {
            left -= bytes as f64;
            kept[value.0] |= left >= 0.0;
        }
        // 4. Views go with what they show.
        let of_root = |of: &[bool]| (0..of.len()).map(|v| of[graph.written_as(ValueId(v)).0]).collect();
        self.kept = of_root(&kept);
        self.inputs_of_blocks = of_root(&self.inputs_of_blocks);
    }

    fn rebuild(mut self) -> Graph {
        let old = std::mem::take(&mut self.graph.nodes);
        let (forward, backward) = old.split_at(self.forward);
        self.nodes.extend_from_slice(forward);
        for node in backward {
            let mut needed = [BTreeSet::new(), BTreeSet::new()];
            node.inputs.iter().for_each(|&v| self.need(forward, v, FOR_GRADIENTS, &mut needed));
            // In the order of the forward pass: of two operators whose sum is fused, the later one takes it in, and in f16 it matters
            // which of them does.
            for (purpose, nodes) in needed.into_iter().enumerate() {
                nodes.into_iter().for_each(|number| self.copy(&forward[number], purpose));
            }
            let inputs = node.inputs.iter().map(|&v| self.in_place_of(v, FOR_GRADIENTS)).collect();
            self.nodes.push(Node { inputs, ..node.clone() });
        }
        self.graph.nodes = self.nodes;
        renumber(&mut self.graph);
        self.graph
    }

    /// For which purpose there must be a copy of a tensor to read, if there must be one.
    fn purpose(&self, value: ValueId, reader: usize) -> Option<usize> {
        self.maker(value).filter(|_| !self.kept[value.0])?;
        Some(if self.inputs_of_blocks[value.0] { FOR_BLOCKS } else { reader })
    }

    /// What is read in place of a tensor.
    fn in_place_of(&self, value: ValueId, reader: usize) -> ValueId {
        self.purpose(value, reader).map_or(value, |purpose| self.copies[purpose][&value])
    }

    /// Notes the nodes that must be copied before a tensor can be read, by purpose.
    fn need(&self, forward: &[Node], value: ValueId, reader: usize, needed: &mut [BTreeSet<usize>; 2]) {
        let Some((purpose, node)) = self.purpose(value, reader).zip(self.maker(value)) else { return };
        if !self.copies[purpose].contains_key(&value) && needed[purpose].insert(node) {
            forward[node].inputs.iter().for_each(|&v| self.need(forward, v, purpose, needed));
        }
    }

    /// Appends a copy of a forward node, of which everything that it reads is there.
    fn copy(&mut self, node: &Node, purpose: usize) {
        let inputs = node.inputs.iter().map(|&v| self.in_place_of(v, purpose)).collect();
        let values = &mut self.graph.values;
        let first = values.len();
        for &output in &node.outputs {
            values.push(Value { origin: Origin::Removed, ..values[output.0].clone() });
        }
        let outputs: Vec<ValueId> = (first..values.len()).map(ValueId).collect();
        self.copies[purpose].extend(node.outputs.iter().copied().zip(outputs.iter().copied()));
        self.nodes.push(Node { inputs, outputs, phase: Phase::Recompute, ..node.clone() });
    }
}
