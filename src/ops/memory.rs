//! Relations between tensors and memory that cost nothing: a view of a range, and tensors computed in
//! place within one flat vector. They are how parameters and gradients are flat vectors for the optimizer
//! and shaped tensors for everything else.

use super::{Case, Cast, expect_float};
use crate::ensure_shape;
use crate::graph::{Aliasing, Backward, Candidate, Caps, Cost, Graph, GraphError, Op, ShapeError, ValueId};
use crate::tensor::{Array, DType, Shape, Spec};
use std::collections::HashSet;
use std::ops::Range;

/// Elements to which flat ranges of f32 are aligned: 64 are the 256 bytes of WebGPU's default
/// `minStorageBufferOffsetAlignment`.
pub const ALIGNMENT: usize = 64;

/// The ranges in which a flat vector is bound, so that none exceeds the device's limit. Each begins where a range of f16 may begin
/// too.
pub(super) fn ranges(elements: usize, caps: &Caps) -> Vec<Range<usize>> {
    const MULTIPLE: usize = 2 * ALIGNMENT;
    let limit = usize::try_from(caps.limits.binding_bytes / 4).unwrap_or(usize::MAX) / MULTIPLE * MULTIPLE;
    (0..elements).step_by(limit.max(MULTIPLE)).map(|start| start..elements.min(start + limit)).collect()
}

/// Whether a range of elements of this type may begin here: at a multiple of the same 256 bytes.
fn expect_aligned(op: &'static str, dtype: DType, offset: usize) -> Result<(), ShapeError> {
    let multiple = ALIGNMENT * DType::F32.bytes() / dtype.bytes();
    let name = dtype.name();
    ensure_shape!(
        op,
        offset.is_multiple_of(multiple),
        "offset {offset} of {name} must be a multiple of {multiple}"
    );
    Ok(())
}

/// A range of a tensor's elements under a shape of its own. Also a reshape, with offset 0.
#[derive(Debug, Clone)]
pub struct View {
    /// First element.
    pub offset: usize,
    /// The shape of the result.
    pub shape: Shape,
}

impl Op for View {
    fn name(&self) -> &'static str {
        "view"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        ensure_shape!("view", x.len() == 1, "expected 1 input, found {}", x.len());
        let (end, size) = (self.offset + self.shape.elements(), x[0].shape.elements());
        ensure_shape!("view", end <= size, "elements {}..{end} of a tensor of {size}", self.offset);
        expect_aligned("view", x[0].dtype, self.offset)?;
        Ok(vec![Spec { shape: self.shape.clone(), dtype: x[0].dtype }])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let range = self.offset..self.offset + self.shape.elements();
        vec![Array { shape: self.shape.clone(), data: x[0].data[range].to_vec() }]
    }

    fn cost(&self, _x: &[Spec], _y: &[Spec]) -> Cost {
        Cost::default()
    }

    fn candidates(&self, _x: &[Spec], _y: &[Spec], _caps: &Caps) -> Vec<Candidate> {
        Vec::new()
    }

    fn backward(&self, g: &mut Backward) -> Result<(), GraphError> {
        // Ranges of parameters are asked for themselves; only a reshape passes a gradient on.
        let shape = g.shape(g.input(0)).clone();
        if shape.elements() != self.shape.elements() {
            return Err(g.no_gradient());
        }
        let dy = g.gradient(0);
        let dx = g.apply(View { offset: 0, shape }, &[dy])?;
        g.accumulate(0, dx)
    }

    fn aliasing(&self) -> Aliasing {
        Aliasing::View { offset: self.offset }
    }
}

/// Tensors laid into one flat vector, each from an offset on. Elements between them are never written.
#[derive(Debug, Clone)]
pub struct Pack {
    /// First element of each input.
    pub offsets: Vec<usize>,
    /// Elements of the flat vector.
    pub total: usize,
}

impl Op for Pack {
    fn name(&self) -> &'static str {
        "pack"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        let dtype = expect_float("pack", x, self.offsets.len())?;
        let mut end = 0;
        for (spec, &offset) in x.iter().zip(&self.offsets) {
            ensure_shape!("pack", offset >= end, "input at {offset} overlaps the one before it, up to {end}");
            expect_aligned("pack", dtype, offset)?;
            end = offset + spec.shape.elements();
        }
        ensure_shape!("pack", end <= self.total, "inputs end at {end}, past the total of {}", self.total);
        Ok(vec![Spec::new([self.total], dtype)])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let mut y = vec![0.0; self.total];
        for (array, &offset) in x.iter().zip(&self.offsets) {
            y[offset..offset + array.data.len()].copy_from_slice(&array.data);
        }
        vec![Array::new([self.total], y)]
    }

    fn cost(&self, _x: &[Spec], _y: &[Spec]) -> Cost {
        Cost::default()
    }

    fn candidates(&self, _x: &[Spec], _y: &[Spec], _caps: &Caps) -> Vec<Candidate> {
        Vec::new()
    }

    fn aliasing(&self) -> Aliasing {
        Aliasing::Pack { offsets: self.offsets.clone() }
    }
}

/// Lays tensors into one flat vector of `total` elements, each from its offset on ([`Pack`]).
///
/// A tensor that cannot be computed in place there is copied: one that an operator reads, since that operator could not
/// write to the same vector; one that is packed twice; and one that has no memory of its own.
pub fn pack(
    graph: &mut Graph,
    tensors: &[ValueId],
    offsets: Vec<usize>,
    total: usize,
) -> Result<ValueId, GraphError> {
    let mut taken: HashSet<ValueId> =
        graph.nodes.iter().flat_map(|node| node.inputs.iter().copied()).collect();
    let mut packed = Vec::with_capacity(tensors.len());
    for &tensor in tensors {
        let in_place = graph.can_be_packed(tensor) && taken.insert(tensor);
        packed.push(match in_place {
            true => tensor,
            false => graph.apply(Cast(graph.spec(tensor).dtype), &[tensor])?,
        });
    }
    graph.apply(Pack { offsets, total }, &packed)
}

/// Nothing runs, so there is nothing for a device to get wrong; `tests/noop.rs` checks the memory.
pub fn cases() -> Vec<Case> {
    vec![]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_begin_at_multiples_of_256_bytes() {
        let infer = |offset, dtype| View { offset, shape: Shape::new([8]) }.infer(&[Spec::new([512], dtype)]);
        assert!(infer(64, DType::F32).is_ok() && infer(128, DType::F16).is_ok());
        for (offset, dtype, words) in [
            (32, DType::F32, "offset 32 of f32 must be a multiple of 64"),
            (64, DType::F16, "offset 64 of f16 must be a multiple of 128"),
        ] {
            let message = infer(offset, dtype).unwrap_err().to_string();
            assert!(message.contains(words), "{message}");
        }
    }
}
