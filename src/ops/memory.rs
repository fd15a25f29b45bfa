//! Relations between tensors and memory that cost nothing: a view of a range, and tensors computed in
//! place within one flat vector. They are how parameters and gradients are flat vectors for the optimizer
//! and shaped tensors for everything else.

use super::{Case, expect_f32};
use crate::ensure_shape;
use crate::graph::{Aliasing, Backward, Candidate, Caps, Cost, GraphError, Op, ShapeError};
use crate::tensor::{Array, Shape, Spec};

/// Elements to which flat ranges are aligned: 64 f32 are the 256 bytes of WebGPU's default
/// `minStorageBufferOffsetAlignment`.
pub const ALIGNMENT: usize = 64;

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
        ensure_shape!(
            "view",
            self.offset.is_multiple_of(ALIGNMENT),
            "offset {} must be a multiple of 64",
            self.offset
        );
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
        expect_f32("pack", x, self.offsets.len())?;
        let mut end = 0;
        for (spec, &offset) in x.iter().zip(&self.offsets) {
            ensure_shape!("pack", offset >= end, "input at {offset} overlaps the one before it, up to {end}");
            ensure_shape!(
                "pack",
                offset.is_multiple_of(ALIGNMENT),
                "offset {offset} must be a multiple of 64"
            );
            end = offset + spec.shape.elements();
        }
        ensure_shape!("pack", end <= self.total, "inputs end at {end}, past the total of {}", self.total);
        Ok(vec![Spec::f32([self.total])])
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

/// Nothing runs, so there is nothing for a device to get wrong; `tests/noop.rs` checks the memory.
pub fn cases() -> Vec<Case> {
    vec![]
}
