//! Whose memory each tensor of a graph lies in: views, packs and results in place, traced to their roots.

use super::{Aliasing, Graph, Origin, PlanError, ValueId};

/// Where a tensor lies within another one's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The tensor that has the memory.
    pub root: ValueId,
    /// First byte within it.
    pub offset: u64,
}

impl Graph {
    /// For every tensor, where it lies; an error where two relations cannot hold at once.
    pub(super) fn places(&self) -> Result<Vec<Place>, PlanError> {
        let mut places: Vec<Place> =
            (0..self.values.len()).map(|i| Place { root: ValueId(i), offset: 0 }).collect();
        let bytes = |value: ValueId, elements: usize| (elements * self.spec(value).dtype.bytes()) as u64;
        // Packs first: a packed tensor lies in the pack from its making on, and so do its views.
        for node in &self.nodes {
            let Aliasing::Pack { offsets } = node.op.aliasing() else { continue };
            for (&input, offset) in node.inputs.iter().zip(offsets) {
                if !self.can_be_packed(input) || places[input.0].root != input {
                    return Err(PlanError::Aliasing {
                        tensor: self.values[input.0].name.clone(),
                        message: "only a tensor with memory of its own can be packed, and only once",
                    });
                }
                places[input.0] = Place { root: node.outputs[0], offset: bytes(input, offset) };
            }
        }
        for node in &self.nodes {
            match node.op.aliasing() {
                Aliasing::View { offset } => {
                    let input = node.inputs[0];
                    let Place { root, offset: base } = places[input.0];
                    places[node.outputs[0].0] = Place { root, offset: base + bytes(input, offset) };
                }
                Aliasing::InPlace(pairs) => {
                    for (output, input) in pairs {
                        places[node.outputs[output].0] = places[node.inputs[input].0];
                    }
                }
                Aliasing::None | Aliasing::Pack { .. } => {}
            }
        }
        Ok(places)
    }

    /// Whether an operator of this graph computes the tensor into memory of its own.
    pub(crate) fn can_be_packed(&self, value: ValueId) -> bool {
        match self.values[value.0].origin {
            Origin::Node(n, _) => self.nodes[n].op.aliasing() == Aliasing::None,
            _ => false,
        }
    }

    /// The tensor whose operator wrote what a view shows.
    pub(super) fn written_as(&self, value: ValueId) -> ValueId {
        match self.values[value.0].origin {
            Origin::Node(n, _) if matches!(self.nodes[n].op.aliasing(), Aliasing::View { .. }) => {
                self.written_as(self.nodes[n].inputs[0])
            }
            _ => value,
        }
    }

    /// What was overwritten in place must not be read afterwards, by whatever view of it.
    pub(super) fn check_overwrites(&self, places: &[Place]) -> Result<(), PlanError> {
        let range = |value: ValueId| {
            let Place { root, offset } = places[value.0];
            (root, offset, offset + self.spec(value).bytes() as u64)
        };
        // The node that wrote what a tensor shows; what is there before the run comes before all nodes.
        let made = |value: ValueId| match self.values[self.written_as(value).0].origin {
            Origin::Node(n, _) => Some(n),
            _ => None,
        };
        for (i, node) in self.nodes.iter().enumerate() {
            let Aliasing::InPlace(pairs) = node.op.aliasing() else { continue };
            for (output, _) in pairs {
                let (root, start, end) = range(node.outputs[output]);
                let stale = |&value: &ValueId| {
                    let (other, first, last) = range(value);
                    other == root && first < end && start < last && made(value) < Some(i)
                };
                let later = self.nodes[i + 1..].iter().flat_map(|later| &later.inputs);
                let kept = self.outputs.iter().chain(self.persistent.keys());
                if let Some(value) = later.chain(kept).copied().find(stale) {
                    return Err(PlanError::Aliasing {
                        tensor: self.values[value.0].name.clone(),
                        message: "it is read after it was overwritten in place",
                    });
                }
            }
        }
        Ok(())
    }
}
