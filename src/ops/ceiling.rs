//! The two simplest kernels there are, to measure what a device reaches (`shaders/ceiling.wgsl`).

use super::{Case, expect_f32};
use crate::ensure_shape;
use crate::graph::{Candidate, Caps, Cost, Dispatch, Op, Operand, ShapeError};
use crate::shader::Source;
use crate::tensor::{Array, Spec};

static SHADER: Source = crate::wgsl!("ceiling");

/// Links in one turn of the shader's loop: `LINKS` of the shader.
pub(super) const LINKS: usize = 8;

/// Chains of multiply-adds in registers: z ← z m + c, with m = 1/2 + clamp(x, -1, 1)/4.
#[derive(Debug, Clone)]
pub struct FmaCeiling {
    /// Invocations, each with sixteen chains.
    pub invocations: usize,
    /// Links of each chain, a multiple of eight.
    pub rounds: usize,
}

impl FmaCeiling {
    /// Two operations per link.
    pub fn flops(&self) -> u64 {
        32 * self.invocations as u64 * self.rounds as u64
    }
}

impl Op for FmaCeiling {
    fn name(&self) -> &'static str {
        "fma_ceiling"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        expect_f32("fma_ceiling", x, 1)?;
        ensure_shape!(
            "fma_ceiling",
            self.rounds.is_multiple_of(LINKS),
            "{} links are not a multiple of 8",
            self.rounds
        );
        Ok(vec![Spec::f32([self.invocations])])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let m = 0.5 + 0.25 * x[0].data[0].clamp(-1.0, 1.0);
        let chain = |start: f64, c: f64| (0..self.rounds).fold(start, |z, _| z * m + c);
        vec![Array::new(
            [self.invocations],
            (0..self.invocations)
                .map(|i| {
                    let c = i as f64 * 1e-6;
                    4.0 * (chain(c, c) + chain(c + 1.0, c) + chain(c + 2.0, c) + chain(c + 3.0, c))
                })
                .collect(),
        )]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        Cost { other_flops: self.flops(), ..Cost::of_traffic(x, y) }
    }

    fn candidates(&self, _x: &[Spec], _y: &[Spec], _caps: &Caps) -> Vec<Candidate> {
        Dispatch::new(&SHADER, "fma_ceiling")
            .bind("x", Operand::Input(0))
            .bind("y", Operand::Output(0))
            .param("count", self.invocations)
            .param("rounds", self.rounds / LINKS)
            .linear(self.invocations, 64)
            .into()
    }
}

/// y = x; the number of elements must be a multiple of four.
#[derive(Debug, Clone)]
pub struct CopyCeiling;

impl Op for CopyCeiling {
    fn name(&self) -> &'static str {
        "copy_ceiling"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        expect_f32("copy_ceiling", x, 1)?;
        let elements = x[0].shape.elements();
        ensure_shape!(
            "copy_ceiling",
            elements.is_multiple_of(4),
            "{elements} elements are not a multiple of four"
        );
        Ok(vec![x[0].clone()])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        vec![x[0].clone()]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        Cost::of_traffic(x, y)
    }

    fn candidates(&self, _x: &[Spec], y: &[Spec], _caps: &Caps) -> Vec<Candidate> {
        let count = y[0].shape.elements() / 4;
        Dispatch::new(&SHADER, "copy_ceiling")
            .bind("x4", Operand::Input(0))
            .bind("y4", Operand::Output(0))
            .param("count", count)
            .linear(count, 64)
            .into()
    }
}

/// Test cases.
pub fn cases() -> Vec<Case> {
    vec![
        Case::new("65 invocations", FmaCeiling { invocations: 65, rounds: 24 }, &[Spec::f32([1])])
            .no_gradient(),
        Case::new("260 elements", CopyCeiling, &[Spec::f32([260])]).no_gradient(),
    ]
}
