//! Noise put back onto a picture (`shaders/renoise.wgsl`).

use super::noise::{STEP_WORDS, expect_step, normals, step_fill};
use super::words::words;
use super::{Case, Fill, expect_f32};
use crate::ensure_shape;
use crate::graph::{Aliasing, Candidate, Caps, Cost, Dispatch, Op, Operand, ShapeError};
use crate::rng::Stream;
use crate::shader::Source;
use crate::tensor::{Array, Spec, Tolerance};

static SHADER: Source = crate::wgsl!("renoise");

words! {
    /// The four numbers of [`Renoise`].
    RenoiseLevel {
        /// s, the share of the known picture.
        signal,
        /// n, the standard deviation of the noise on it.
        noise,
        /// a, the share of x.
        kept,
        /// b, the standard deviation of the noise put back onto x.
        added,
    }
}

/// Words of the level.
pub const LEVEL: usize = RenoiseLevel::WORDS;

/// x ← m (s x_0 + n z) + (1 - m) (a x + b z), with z standard normal: where m is 1, the known picture x_0 at signal s and
/// noise n (SDEdit, arXiv 2108.01073); where it is 0, x as it is or with noise put back (RePaint, arXiv 2201.09865).
///
/// Inputs [x, x_0, m (all of one shape, items first), [`RenoiseLevel`], step]; the output overwrites x.
#[derive(Debug, Clone)]
pub struct Renoise;

impl Op for Renoise {
    fn name(&self) -> &'static str {
        "renoise"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        let op = "renoise";
        ensure_shape!(op, x.len() == 5, "expected x, x_0, mask, level and step, found {} inputs", x.len());
        expect_f32(op, &x[..4], 4)?;
        let elements = x[0].shape.elements();
        ensure_shape!(op, x[0].shape.rank() >= 2 && elements > 0, "x must be (items, ...), found {:?}", x[0]);
        ensure_shape!(op, x[1] == x[0], "x is {:?}, but x_0 is {:?}", x[0], x[1]);
        ensure_shape!(op, x[2] == x[0], "x is {:?}, but the mask is {:?}", x[0], x[2]);
        ensure_shape!(op, x[3] == Spec::f32([LEVEL]), "the level must be f32(4), found {:?}", x[3]);
        expect_step(op, &x[4])?;
        Ok(vec![x[0].clone()])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let [x, known, mask, level, step] = std::array::from_fn(|i| &x[i]);
        let RenoiseLevel { signal: s, noise: n, kept: a, added: b } = RenoiseLevel::of(&level.data);
        let items = x.shape[0];
        let item = x.shape.elements() / items;
        let z: Vec<f64> = (0..items).flat_map(|i| normals(step, Stream::Renoise, i, item)).collect();
        vec![Array::from_fn(&x.shape, |i| {
            let m = mask.data[i];
            m * (s * known.data[i] + n * z[i]) + (1.0 - m) * (a * x.data[i] + b * z[i])
        })]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        Cost::elementwise(x, y, 40)
    }

    fn candidates(&self, x: &[Spec], _y: &[Spec], _caps: &Caps) -> Vec<Candidate> {
        let items = x[0].shape[0];
        let item = x[0].shape.elements() / items;
        let blocks = item.div_ceil(4);
        Dispatch::new(&SHADER, "renoise")
            .bind("x", Operand::Output(0))
            .bind("known", Operand::Input(1))
            .bind("mask", Operand::Input(2))
            .bind("level", Operand::Input(3))
            .bind("step", Operand::Input(4))
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
    let mut cases = Vec::new();
    let levels = [
        (
            "jump",
            RenoiseLevel { signal: 0.8, noise: 0.6, kept: 0.0, added: 0.0 },
            Fill::Values(vec![1.0; 3 * 105]),
        ),
        ("merge", RenoiseLevel { signal: 0.8, noise: 0.6, kept: 1.0, added: 0.0 }, Fill::Below(2)),
        (
            "back up",
            RenoiseLevel { signal: 0.3, noise: 0.95, kept: 0.96, added: 0.28 },
            Fill::Uniform(0.0, 1.0),
        ),
    ];
    for (name, level, mask) in levels {
        let shapes = if name == "jump" {
            vec![vec![3, 5, 7, 3]]
        } else {
            vec![vec![1, 1], vec![3, 5, 7, 3], vec![70, 4, 4, 1]]
        };
        for shape in shapes {
            let x = Spec::f32(shape);
            let inputs = [x.clone(), x.clone(), x.clone(), Spec::f32([LEVEL]), Spec::u32([STEP_WORDS])];
            let case = Case::new(format!("{name}, {x:?}"), Renoise, &inputs).fill(2, mask.clone());
            cases.push(case.fill(3, level.words().into()).fill(4, step_fill()).no_gradient());
        }
    }
    let x = Spec::f32([65_600, 3]);
    let inputs = [x.clone(), x.clone(), x, Spec::f32([LEVEL]), Spec::u32([STEP_WORDS])];
    // Among 200,000 uniform numbers some lie within 2^-25 of 1, where a device may round the word to f32 either way
    // (SwiftShader seems to round down): there a normal number is 0 or √(2 · 2^-24) = 3.5e-4.
    let many = Case::new("past 65535 workgroups' worth of items", Renoise, &inputs).fill(2, Fill::Below(2));
    let many = many.tolerance(Tolerance { absolute: 5e-4, relative: 1e-5 });
    cases.push(
        many.fill(3, RenoiseLevel { signal: 0.6, noise: 0.8, kept: 1.0, added: 0.0 }.words().into())
            .fill(4, step_fill())
            .no_gradient()
            .large(),
    );
    cases
}
