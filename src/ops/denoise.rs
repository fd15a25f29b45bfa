//! The fused update of every sampler (`shaders/denoise.wgsl`).

use super::noise::{expect_step, normals, step_fill};
use super::{Case, Fill, expect_f32};
use crate::ensure_shape;
use crate::graph::{Aliasing, Caps, Cost, Dispatch, Op, Operand, Program, ShapeError};
use crate::rng::Stream;
use crate::shader::Source;
use crate::tensor::{Array, Spec};

static SHADER: Source = crate::wgsl!("denoise");

/// Words of the coefficient vector: k_x, k_f, low, high, c_x, c_f, c_0, c_z.
pub const COEFFICIENTS: usize = 8;

/// x_0 = clamp(k_x x + k_f f, low, high); x ← c_x x + c_f f + c_0 x_0 + c_z z, with z standard normal.
///
/// Inputs [x, f, coefficients (8), step]; the output overwrites x.
#[derive(Debug, Clone)]
pub struct Denoise;

impl Op for Denoise {
    fn name(&self) -> &'static str {
        "denoise"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        ensure_shape!(
            "denoise",
            x.len() == 4,
            "expected x, f, coefficients and step, found {} inputs",
            x.len()
        );
        expect_f32("denoise", &x[..3], 3)?;
        ensure_shape!("denoise", x[0] == x[1], "x is {:?}, but f is {:?}", x[0], x[1]);
        let eight = Spec::f32([COEFFICIENTS]);
        ensure_shape!("denoise", x[2] == eight, "the coefficients must be f32(8), found {:?}", x[2]);
        expect_step("denoise", &x[3])?;
        Ok(vec![x[0].clone()])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let [k_x, k_f, low, high, c_x, c_f, c_0, c_z] = std::array::from_fn(|i| x[2].data[i]);
        let items = x[0].shape[0];
        let item = x[0].shape.elements() / items;
        let z: Vec<f64> = (0..items).flat_map(|n| normals(&x[3], Stream::Sampler, n, item)).collect();
        vec![Array::from_fn(&x[0].shape, |i| {
            let (x, f) = (x[0].data[i], x[1].data[i]);
            let x_0 = (k_x * x + k_f * f).clamp(low, high);
            c_x * x + c_f * f + c_0 * x_0 + c_z * z[i]
        })]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        Cost::elementwise(x, y, 40)
    }

    fn dispatch(&self, x: &[Spec], _y: &[Spec], _caps: &Caps) -> Program {
        let items = x[0].shape[0];
        let item = x[0].shape.elements() / items.max(1);
        let blocks = item.div_ceil(4);
        Dispatch::new(&SHADER, "denoise")
            .bind("x", Operand::Output(0))
            .bind("f", Operand::Input(1))
            .bind("coefficients", Operand::Input(2))
            .bind("step", Operand::Input(3))
            .param("items", items)
            .param("item", item)
            .param("blocks", blocks)
            .linear(items * blocks, 64)
            .into()
    }

    fn aliasing(&self) -> Aliasing {
        Aliasing::InPlace(vec![(0, 0)])
    }
}

/// Test cases.
pub fn cases() -> Vec<Case> {
    let noisy = vec![1.1, -0.4, -1.0, 1.0, 0.3, -0.2, 0.7, 0.25];
    let plain = vec![1.1, -0.4, -1e30, 1e30, 0.3, -0.2, 0.7, 0.0];
    let mut cases = Vec::new();
    for (kind, coefficients) in [("noisy, clipped", noisy), ("deterministic", plain)] {
        for shape in [vec![1, 1], vec![3, 5, 7, 3], vec![70, 4, 4, 1]] {
            let x = Spec::f32(shape);
            let inputs = [x.clone(), x.clone(), Spec::f32([COEFFICIENTS]), Spec::u32([8])];
            let case = Case::new(format!("{kind}, {x:?}"), Denoise, &inputs).fill(3, step_fill());
            cases.push(case.fill(2, Fill::Values(coefficients.clone())).no_gradient());
        }
    }
    cases
}
