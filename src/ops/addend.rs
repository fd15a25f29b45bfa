//! A further input of an operator, which is added to its result before the result is stored
//! (`shaders/lib/added.wgsl`): what rewrites put in the place of an addition of its own.

use super::View;
use crate::ensure_shape;
use crate::graph::{Backward, Dispatch, GraphError, Operand, ShapeError};
use crate::tensor::{Array, Shape, Spec};

/// How the further input lies beside the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Addend {
    /// Element by element; its outer axes may be cut otherwise.
    Same,
    /// One row of channels for all pixels of an image: (N, C) to (N, …, C).
    PerImage,
}

impl Addend {
    /// How a tensor of this shape can be added to a result of that one.
    pub fn of(addend: &Shape, y: &Shape) -> Option<Self> {
        if addend.elements() == y.elements() && addend.last() == y.last() {
            Some(Self::Same)
        } else if y.rank() >= 3 && addend.axes() == [y[0], y.last()] {
            Some(Self::PerImage)
        } else {
            None
        }
    }

    /// Whether a tensor can be added to a result in one of these ways.
    pub fn fits(addend: &Spec, y: &Spec, allowed: &[Self]) -> bool {
        addend.dtype == y.dtype && Self::of(&addend.shape, &y.shape).is_some_and(|how| allowed.contains(&how))
    }

    /// Of input `i`, if it is there, to a result of this shape; refused unless it is one of those allowed.
    pub fn check(
        op: &'static str,
        x: &[Spec],
        i: usize,
        y: &[usize],
        allowed: &[Self],
    ) -> Result<(), ShapeError> {
        let y = Shape::new(y);
        if let Some(addend) = x.get(i) {
            let fits = Self::fits(addend, &addend.with_shape(y.axes()), allowed);
            ensure_shape!(op, fits, "{} cannot be added to a result of {y}", addend.shape);
        }
        Ok(())
    }

    /// Adds input `i`, if it is there, to a result.
    pub fn add(x: &[Array], i: usize, y: &mut Array) {
        let Some(addend) = x.get(i) else { return };
        let (channels, rows) = (y.shape.last(), addend.shape.rows().max(1));
        let pixels = y.shape.rows() / rows;
        for (k, y) in y.data.iter_mut().enumerate() {
            *y += addend.data[k / channels / pixels * channels + k % channels];
        }
    }

    /// Additions that a further input means: one for each element of the result.
    pub fn flops(x: &[Spec], i: usize, y: &Spec) -> u64 {
        if x.len() > i { y.shape.elements() as u64 } else { 0 }
    }

    /// Binds input `i`, if it is there, as `name`, and takes in what adds it.
    pub fn bind(mut dispatch: Dispatch, name: &'static str, x: &[Spec], i: usize, y: &Spec) -> Dispatch {
        let Some(addend) = x.get(i) else { return dispatch };
        let file = match Self::of(&addend.shape, &y.shape) {
            Some(Self::PerImage) => "lib/added_per_image",
            _ => "lib/added",
        };
        dispatch.variant = dispatch.variant.link("lib/no_added", file);
        dispatch.bind(name, Operand::Input(i))
    }

    /// Passes the gradient of the result on to input `i`, if it is there.
    pub fn backward(g: &mut Backward, i: usize) -> Result<(), GraphError> {
        if i >= g.inputs() || !g.needs(i) {
            return Ok(());
        }
        let (dy, shape) = (g.gradient(0), g.shape(g.input(i)).clone());
        let gradient = match Self::of(&shape, g.shape(dy)) {
            Some(Self::PerImage) => g.apply(super::SumPixels, &[dy])?,
            _ if shape == *g.shape(dy) => dy,
            _ => g.apply(View { offset: 0, shape }, &[dy])?,
        };
        g.accumulate(i, gradient)
    }
}
