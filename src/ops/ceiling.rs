//! The simplest kernels there are, to measure what a device reaches (`shaders/ceiling*.wgsl`).

use super::gemm_matrix::with_tiles;
use super::{Case, Fill, expect_f32, expect_float, stored};
use crate::ensure_shape;
use crate::graph::{Candidate, Caps, Cost, Dispatch, MAX_GROUPS, Op, Operand, ShapeError};
use crate::shader::{Extension, Source, Variant};
use crate::tensor::{Array, DType, Spec, Tolerance};

static SHADER: Source = crate::wgsl!("ceiling");
static SUBGROUP: Source = crate::wgsl!("ceiling_subgroup");
static MATRIX: Source = crate::wgsl!("ceiling_matrix");

/// Links in one turn of the shader's loop: `LINKS` of the shader.
pub(super) const LINKS: usize = 8;

/// Chains of multiply-adds in registers: z ← z m + c, with m = 1/2 + clamp(x, -1, 1)/4. x is one element, in whose type the
/// arithmetic is: f32, or f16.
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
        let dtype = expect_float("fma_ceiling", x, 1)?;
        ensure_shape!(
            "fma_ceiling",
            self.rounds.is_multiple_of(LINKS),
            "{} links are not a multiple of 8",
            self.rounds
        );
        Ok(vec![Spec::new([self.invocations], dtype)])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let m = 0.5 + 0.25 * x[0].data[0].clamp(-1.0, 1.0);
        let chain = |start: f64, c: f64| (0..self.rounds).fold(start, |z, _| z * m + c);
        vec![Array::new(
            [self.invocations],
            (0..self.invocations)
                .map(|i| {
                    let c = (i % 256) as f64 / 256.0;
                    4.0 * (chain(c, c) + chain(c + 1.0, c) + chain(c + 2.0, c) + chain(c + 3.0, c))
                })
                .collect(),
        )]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        Cost { other_flops: self.flops(), ..Cost::of_traffic(x, y) }
    }

    fn candidates(&self, x: &[Spec], _y: &[Spec], _caps: &Caps) -> Vec<Candidate> {
        let dispatch = Dispatch::new(&SHADER, "fma_ceiling")
            .variant(stored(Variant::base(), x[0].dtype))
            .bind("x", Operand::Input(0))
            .bind("y", Operand::Output(0))
            .param("count", self.invocations)
            .param("rounds", self.rounds / LINKS)
            .linear(self.invocations, 64);
        let tolerance = match x[0].dtype {
            // A link rounds by 2^-11 and so does m, product and sum perhaps apart, and 1/(1 - m) <= 4 adds that up: 11 times
            // 2^-11. What is smaller than 2^-14 may become zero in each of sixteen chains.
            DType::F16 => Tolerance { absolute: 2f64.powi(-10), relative: 2f64.powi(-7) },
            DType::F32 | DType::U32 => Tolerance::default(),
        };
        vec![Candidate { tolerance, ..Candidate::new("direct", dispatch) }]
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

/// Reads of workgroup memory: y_i is the sum of `rounds` vectors of the 512 in x, eight in each turn k: from (i + k) mod 256
/// on, 32 apart.
#[derive(Debug, Clone)]
pub struct WorkgroupCeiling {
    /// Invocations, 256 in a workgroup.
    pub invocations: usize,
    /// Vectors that each of them reads, a multiple of eight.
    pub rounds: usize,
}

impl WorkgroupCeiling {
    /// Elements of x.
    pub const ELEMENTS: usize = 4 * 512;

    /// Bytes that are read from workgroup memory: 16 in a vector.
    pub fn bytes(&self) -> u64 {
        16 * self.invocations as u64 * self.rounds as u64
    }
}

impl Op for WorkgroupCeiling {
    fn name(&self) -> &'static str {
        "workgroup_ceiling"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        expect_f32("workgroup_ceiling", x, 1)?;
        let (found, expected) = (x[0].shape.elements(), Self::ELEMENTS);
        ensure_shape!("workgroup_ceiling", found == expected, "{found} elements, expected {expected}");
        let rounds = self.rounds;
        ensure_shape!(
            "workgroup_ceiling",
            rounds.is_multiple_of(LINKS),
            "{rounds} vectors are not a multiple of 8"
        );
        Ok(vec![Spec::f32([self.invocations])])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let vector = |v: usize| x[0].data[4 * v..4 * v + 4].iter().sum::<f64>();
        let turn = |i: usize, k: usize| (0..LINKS).map(|link| vector((i + k) % 256 + 32 * link)).sum::<f64>();
        let sum = |i: usize| (0..self.rounds / LINKS).map(|k| turn(i, k)).sum();
        vec![Array::new([self.invocations], (0..self.invocations).map(sum).collect())]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        // Four additions a vector.
        Cost { other_flops: self.bytes() / 4, ..Cost::of_traffic(x, y) }
    }

    fn candidates(&self, _x: &[Spec], _y: &[Spec], _caps: &Caps) -> Vec<Candidate> {
        Dispatch::new(&SHADER, "workgroup_ceiling")
            .bind("x4", Operand::Input(0))
            .bind("y", Operand::Output(0))
            .param("count", self.invocations)
            .param("rounds", self.rounds / LINKS)
            .linear(self.invocations, 256)
            .into()
    }
}

/// Shuffles among the invocations of subgroups: z_i ← z_(i xor mask) + x_i for the masks lanes/2, ..., 2, 1, `rounds` times, in
/// four chains that begin with x_i, ..., x_i + 3; y_i is their sum, modulo 2^32.
#[derive(Debug, Clone)]
pub struct ShuffleCeiling {
    /// A power of two up to 64, and no more than the smallest subgroup has: for devices where that is so.
    pub lanes: usize,
    /// Times that all masks are gone through.
    pub rounds: usize,
}

impl ShuffleCeiling {
    /// The invocations of a workgroup.
    pub const MOST_LANES: usize = 64;

    /// Numbers that so many invocations take over.
    pub fn shuffles(&self, invocations: usize) -> u64 {
        4 * u64::from(self.lanes.ilog2()) * invocations as u64 * self.rounds as u64
    }
}

impl Op for ShuffleCeiling {
    fn name(&self) -> &'static str {
        "shuffle_ceiling"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        let [x] = x else {
            return Err(ShapeError::new("shuffle_ceiling", format!("expected 1 input, found {}", x.len())));
        };
        let (lanes, invocations) = (self.lanes, x.shape.elements());
        ensure_shape!("shuffle_ceiling", x.dtype == DType::U32, "input 0 must be u32, found {x:?}");
        ensure_shape!(
            "shuffle_ceiling",
            lanes.is_power_of_two() && lanes <= Self::MOST_LANES && invocations.is_multiple_of(lanes),
            "{lanes} lanes are no power of two up to 64, or {invocations} elements not a multiple of them"
        );
        Ok(vec![x.clone()])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let x = &x[0];
        let n = x.data.len();
        let mut sum = vec![0.0; n];
        for start in 0..4 {
            let mut z: Vec<f64> = x.data.iter().map(|step| step + f64::from(start)).collect();
            for _ in 0..self.rounds {
                let mut mask = self.lanes / 2;
                while mask > 0 {
                    z = (0..n).map(|i| z[i ^ mask] + x.data[i]).collect();
                    mask /= 2;
                }
            }
            sum.iter_mut().zip(z).for_each(|(sum, z)| *sum += z);
        }
        vec![Array::new(x.shape.axes(), sum.into_iter().map(|sum| sum.rem_euclid(2f64.powi(32))).collect())]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        Cost::of_traffic(x, y)
    }

    fn candidates(&self, x: &[Spec], _y: &[Spec], caps: &Caps) -> Vec<Candidate> {
        if caps.features.subgroups.is_none_or(|(least, _)| self.lanes > least as usize) {
            return Vec::new();
        }
        let count = x[0].shape.elements();
        Dispatch::new(&SUBGROUP, "shuffle_ceiling")
            .variant(Variant::base().enable(Extension::Subgroups).with("LANES", format!("{}u", self.lanes)))
            .bind("x", Operand::Input(0))
            .bind("y", Operand::Output(0))
            .param("count", count)
            .param("rounds", self.rounds)
            .linear(count, Self::MOST_LANES)
            .into()
    }
}

/// Products of matrix units: y_g = rounds x w for each workgroup g, by adding the product `rounds` times. x is (4 s, s) and w
/// (s, 16 s), both f16, for tiles of s rows and columns, 8 or 16; y is (workgroups, 4 s, 16 s), f32.
#[derive(Debug, Clone)]
pub struct MatrixCeiling {
    /// Workgroups, at most 65535, each with 64 tiles of results.
    pub workgroups: usize,
    /// Products that are added up.
    pub rounds: usize,
}

impl MatrixCeiling {
    /// The inputs for tiles of so many rows and columns.
    pub fn inputs(side: usize) -> [Spec; 2] {
        [[4 * side, side], [side, 16 * side]].map(|shape| Spec::new(shape, DType::F16))
    }

    /// Rows and columns of the largest tile of f16 that the device multiplies into sums of f32.
    pub fn largest_side(caps: &Caps) -> Option<usize> {
        [16, 8].into_iter().find(|&side| caps.features.multiplies_f16(side))
    }

    /// Two operations per multiply-add.
    pub fn flops(&self, side: usize) -> u64 {
        2 * 64 * (side as u64).pow(3) * self.workgroups as u64 * self.rounds as u64
    }
}

impl Op for MatrixCeiling {
    fn name(&self) -> &'static str {
        "matrix_ceiling"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        let side = [8, 16].into_iter().find(|&side| x == Self::inputs(side));
        let Some(side) = side else {
            let message = format!("expected f16(4 s, s) and f16(s, 16 s) with s 8 or 16, found {x:?}");
            return Err(ShapeError::new("matrix_ceiling", message));
        };
        ensure_shape!(
            "matrix_ceiling",
            self.workgroups <= MAX_GROUPS as usize,
            "{} workgroups, at most {MAX_GROUPS} are allowed",
            self.workgroups
        );
        Ok(vec![Spec::f32([self.workgroups, 4 * side, 16 * side])])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let (a, b) = (&x[0].data, &x[1].data);
        let side = x[0].shape[1];
        let (rows, columns) = (4 * side, 16 * side);
        let term = |row, column| (0..side).map(|k| a[row * side + k] * b[k * columns + column]).sum::<f64>();
        let y = |i: usize| self.rounds as f64 * term(i / columns % rows, i % columns);
        let elements = self.workgroups * rows * columns;
        vec![Array::new([self.workgroups, rows, columns], (0..elements).map(y).collect())]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        Cost::matrix(x, y, self.flops(x[0].shape[1]))
    }

    fn candidates(&self, x: &[Spec], _y: &[Spec], caps: &Caps) -> Vec<Candidate> {
        let side = x[0].shape[1];
        if !caps.features.multiplies_f16(side) {
            return Vec::new();
        }
        let variant = with_tiles(Variant::base(), side);
        Dispatch::new(&MATRIX, "matrix_ceiling")
            .variant(variant)
            .bind("x", Operand::Input(0))
            .bind("w", Operand::Input(1))
            .bind("y", Operand::Output(0))
            .param("rounds", self.rounds)
            .workgroups(self.workgroups)
            .into()
    }
}

/// Test cases.
pub fn cases() -> Vec<Case> {
    let fma = Case::new("65 invocations", FmaCeiling { invocations: 65, rounds: 24 }, &[Spec::f32([1])]);
    let mut cases = fma.no_gradient().and_in_f16(&[0]).to_vec();
    cases.push(Case::new("260 elements", CopyCeiling, &[Spec::f32([260])]).no_gradient());
    let workgroup = WorkgroupCeiling { invocations: 301, rounds: 2400 };
    let tile = Spec::f32([WorkgroupCeiling::ELEMENTS]);
    cases.push(
        Case::new("301 invocations", workgroup, &[tile]).fill(0, Fill::Uniform(0.0, 1.0)).no_gradient(),
    );
    for lanes in [4, 8] {
        let op = ShuffleCeiling { lanes, rounds: 11 };
        cases.push(Case::new(format!("{lanes} lanes"), op, &[Spec::u32([72])]).no_gradient());
    }
    for side in [8, 16] {
        let op = MatrixCeiling { workgroups: 3, rounds: 24 };
        let name = format!("tiles of {side}x{side}");
        cases.push(Case::new(name, op, &MatrixCeiling::inputs(side)).no_gradient());
    }
    cases
}
