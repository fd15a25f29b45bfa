//! The fused update of every sampler (`shaders/denoise.wgsl`).

use super::noise::{STEP_WORDS, expect_step, normals, step_fill};
use super::words::words;
use super::{Case, Fill, expect_activations, stored};
use crate::ensure_shape;
use crate::graph::{Aliasing, Candidate, Caps, Cost, Dispatch, Op, Operand, ShapeError};
use crate::rng::Stream;
use crate::shader::{Source, Variant};
use crate::tensor::{Array, Spec};

static SHADER: Source = crate::wgsl!("denoise");

words! {
    /// One step of a sampler, as [`Denoise`] and [`DynamicThreshold`](super::DynamicThreshold) read it.
    ///
    /// With x the picture, f the network's answer, h the history, v the learned variance and z noise:
    ///
    /// - raw = k (p_x x + p_f f)
    /// - x_0 = clamp(raw, -range s, range s) / s, s the item's threshold
    /// - x' = c_x x + c_f f + c_0 x_0 + exp(c_v v) (c_h h + c_z z)
    /// - h' = h_x x + h_f f + h_0 x_0, or h where these three are zero
    Coefficients {
        /// Share of the picture in the estimate of x_0.
        p_x,
        /// Share of the network's answer in the estimate of x_0.
        p_f,
        /// Scale of the estimate, taken last: x - σ f may nearly cancel.
        k,
        /// Where the estimate is clamped, in units of the threshold; 1e30 is beyond any picture.
        range,
        /// Share of the picture in the next one.
        c_x,
        /// Share of the network's answer in the next picture.
        c_f,
        /// Share of the clamped estimate in the next picture.
        c_0,
        /// Share of the history in the next picture.
        c_h,
        /// Standard deviation of the noise added; none is drawn for 0.
        c_z,
        /// What the learned variance counts in the exponent; not read for 0.
        c_v,
        /// Share of the picture in the next history.
        h_x,
        /// Share of the network's answer in the next history.
        h_f,
        /// Share of the clamped estimate in the next history.
        h_0,
    }
}

/// Words of the vector of [`Coefficients`].
pub const COEFFICIENTS: usize = Coefficients::WORDS;

impl Coefficients {
    pub(super) fn raw(&self, x: f64, f: f64) -> f64 {
        self.k * (self.p_x * x + self.p_f * f)
    }
}

/// Checks that f answers for x: the same axes, with as many channels or twice as many.
pub(super) fn expect_answer(op: &'static str, x: &Spec, f: &Spec) -> Result<(), ShapeError> {
    let axes = x.shape.axes();
    ensure_shape!(op, axes.len() >= 2 && !axes.contains(&0), "x must be (items, ..., channels), found {x:?}");
    let channels = x.shape.last();
    let fits = [channels, 2 * channels].iter().any(|&last| {
        let mut expected = axes.to_vec();
        expected[axes.len() - 1] = last;
        f.shape.axes() == expected
    });
    ensure_shape!(op, fits, "f must be {x:?}, or that with {} channels, found {f:?}", 2 * channels);
    Ok(())
}

/// Checks the vector of coefficients.
pub(super) fn expect_coefficients(op: &'static str, spec: &Spec) -> Result<(), ShapeError> {
    let expected = Spec::f32([COEFFICIENTS]);
    ensure_shape!(op, *spec == expected, "the coefficients must be {expected:?}, found {spec:?}");
    Ok(())
}

/// Where f answers for element i of x.
pub(super) fn answer_index(i: usize, channels: usize, f_channels: usize) -> usize {
    i / channels * f_channels + i % channels
}

/// One step of any sampler, in place: inputs [x (N, ..., C), f (N, ..., C or 2 C), history (as x),
/// threshold (N), [`Coefficients`], step]; outputs [x', history'] over x and the history.
///
/// [`Coefficients`] has the formulas. The first C channels of f answer for those of x, the next C are v (0
/// if there are none), as in Improved DDPM, arXiv 2102.09672. z is standard normal, drawn at (block, step,
/// stream `Sampler`, item). f may be stored as f16. Old values stand on every right-hand side. What a zero coefficient silences is
/// not read (history, v), not drawn (z), or not written (history).
#[derive(Debug, Clone)]
pub struct Denoise;

impl Op for Denoise {
    fn name(&self) -> &'static str {
        "denoise"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        ensure_shape!(
            "denoise",
            x.len() == 6,
            "expected x, f, history, threshold, coefficients and step, found {} inputs",
            x.len()
        );
        expect_activations("denoise", &x[..5], 5, &[0, 2, 3, 4])?;
        expect_answer("denoise", &x[0], &x[1])?;
        ensure_shape!("denoise", x[2] == x[0], "x is {:?}, but the history is {:?}", x[0], x[2]);
        let items = Spec::f32([x[0].shape[0]]);
        ensure_shape!("denoise", x[3] == items, "the threshold must be {items:?}, found {:?}", x[3]);
        expect_coefficients("denoise", &x[4])?;
        expect_step("denoise", &x[5])?;
        Ok(vec![x[0].clone(), x[0].clone()])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let [x, f, history, threshold, words, step] = std::array::from_fn(|i| &x[i]);
        let c = Coefficients::of(&words.data);
        let items = x.shape[0];
        let item = x.shape.elements() / items;
        let (channels, f_channels) = (x.shape.last(), f.shape.last());
        let learned = c.c_v != 0.0 && f_channels > channels;
        let remembers = [c.h_x, c.h_f, c.h_0] != [0.0; 3];
        let z: Vec<f64> = (0..items).flat_map(|n| normals(step, Stream::Sampler, n, item)).collect();
        let (mut picture, mut memory) = (x.clone(), history.clone());
        for (i, (&x, z)) in x.data.iter().zip(z).enumerate() {
            let answer = answer_index(i, channels, f_channels);
            let v = if learned { f.data[answer + channels] } else { 0.0 };
            let (f, s) = (f.data[answer], threshold.data[i / item]);
            let x_0 = c.raw(x, f).clamp(-c.range * s, c.range * s) / s;
            let h = if c.c_h == 0.0 { 0.0 } else { history.data[i] };
            picture.data[i] =
                c.c_x * x + c.c_f * f + c.c_0 * x_0 + (c.c_v * v).exp() * (c.c_h * h + c.c_z * z);
            if remembers {
                memory.data[i] = c.h_x * x + c.h_f * f + c.h_0 * x_0;
            }
        }
        vec![picture, memory]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        Cost::elementwise(x, y, 50)
    }

    fn candidates(&self, x: &[Spec], _y: &[Spec], _caps: &Caps) -> Vec<Candidate> {
        let items = x[0].shape[0];
        let item = x[0].shape.elements() / items;
        let blocks = item.div_ceil(4);
        Dispatch::new(&SHADER, "denoise")
            .variant(stored(Variant::base(), x[1].dtype))
            .bind("x", Operand::Output(0))
            .bind("f", Operand::Input(1))
            .bind("history", Operand::Output(1))
            .bind("threshold", Operand::Input(3))
            .bind("coefficients", Operand::Input(4))
            .bind("step", Operand::Input(5))
            .param("items", items)
            .param("item", item)
            .param("blocks", blocks)
            .param("channels", x[0].shape.last())
            .param("f_channels", x[1].shape.last())
            .linear(items * blocks, 64)
            .into()
    }

    fn aliasing(&self) -> Aliasing {
        Aliasing::InPlace(vec![(0, 0), (1, 2)])
    }
}

/// Inputs of [`Denoise`] for pictures of this shape whose answer has `f_channels`.
fn inputs(shape: &[usize], f_channels: usize) -> [Spec; 6] {
    let x = Spec::f32(shape);
    let mut answer = shape.to_vec();
    answer.pop();
    answer.push(f_channels);
    let (items, words) = (Spec::f32([shape[0]]), Spec::f32([COEFFICIENTS]));
    [x.clone(), Spec::f32(answer), x, items, words, Spec::u32([STEP_WORDS])]
}

/// Test cases.
pub fn cases() -> Vec<Case> {
    // The estimate of an ε-prediction at signal 0.8, σ 0.6.
    let epsilon = Coefficients { p_x: 1.0, p_f: -0.6, k: 1.25, range: 1e30, ..Coefficients::default() };
    let ddpm = Coefficients { range: 1.0, c_x: 0.3, c_0: 0.7, c_z: 0.25, c_v: 0.5, ..epsilon };
    let ddim = Coefficients { c_f: 0.4, c_0: 0.9, ..epsilon };
    let multistep = Coefficients { range: 1.0, c_x: 0.6, c_0: 0.7, c_h: -0.3, h_0: 1.0, ..epsilon };
    let predict = Coefficients { c_x: 1.0, c_f: -0.2, h_x: 1.0, h_f: -0.1, ..epsilon };
    let correct = Coefficients { c_f: -0.1, c_0: 0.2, c_h: 1.0, c_z: 0.3, c_v: -0.7, ..epsilon };
    let everything =
        Coefficients { c_x: 0.6, c_f: 0.3, h_x: -0.5, h_f: 0.2, h_0: 1.1, range: 0.8, ..correct };
    let samplers = [
        ("ddpm", ddpm),
        ("ddim", ddim),
        ("multistep", multistep),
        ("prediction of Heun", predict),
        ("correction of Heun", correct),
        ("everything", everything),
    ];
    let mut cases = Vec::new();
    for (name, c) in &samplers {
        for shape in [vec![1, 1], vec![3, 5, 7, 3], vec![70, 4, 4, 1], vec![2, 3, 11, 4]] {
            for width in [1, 2] {
                let inputs = inputs(&shape, width * shape[shape.len() - 1]);
                let case =
                    Case::new(format!("{name}, {:?} from {:?}", inputs[0], inputs[1]), Denoise, &inputs);
                let case = case.fill(3, Fill::Uniform(1.0, 2.0)).fill(4, c.words().into());
                cases.extend(case.fill(5, step_fill()).no_gradient().and_in_f16(&[1]));
            }
        }
    }
    let special = |name: &str, c: &Coefficients, f_channels| {
        Case::new(name, Denoise, &inputs(&[1, 3, 2], f_channels))
            .fill(3, Fill::Values(vec![1.5]))
            .fill(4, c.words().into())
            .fill(5, step_fill())
            .no_gradient()
    };
    // What is not to be read would show as NaN.
    let nan = f64::NAN;
    cases.push(
        special("a history not yet written", &Coefficients { c_h: 0.0, ..multistep }, 2)
            .fill(2, Fill::Values(vec![nan; 6])),
    );
    let variance = [0.3, -1.2, nan, nan].repeat(3);
    cases.push(
        special("a variance not asked for", &Coefficients { c_v: 0.0, ..ddpm }, 4)
            .fill(1, Fill::Values(variance)),
    );
    // x and f agree but for some roundings; k (p_x x) + k (p_f f) would be off by 1e-3.
    let f = [0.9, -0.7, 0.33, 1.9, -1.1, 0.123];
    let x: Vec<f64> = f.iter().zip(1i32..).map(|(f, i)| f + 1e-5 * f64::from(i - 3)).collect();
    let cancelling = Coefficients {
        p_x: 1.0,
        p_f: -1.0,
        k: 23_456.7,
        range: 1e30,
        c_0: 1.0,
        h_0: 1.0,
        ..Coefficients::default()
    };
    cases.push(
        special("x - f cancels", &cancelling, 2).fill(0, Fill::Values(x)).fill(1, Fill::Values(f.to_vec())),
    );
    cases
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DType;

    #[test]
    fn wrong_shapes_are_named() {
        let refused = |i: usize, spec: Spec, words: &str| {
            let mut x = inputs(&[2, 4, 4, 3], 6);
            assert!(Denoise.infer(&x).is_ok());
            x[i] = spec;
            let message = Denoise.infer(&x).unwrap_err().to_string();
            assert!(message.contains(words), "{message}");
        };
        refused(0, Spec::new([2, 4, 4, 3], DType::F16), "input 0 must be f32, found f16(2, 4, 4, 3)");
        refused(1, Spec::u32([2, 4, 4, 6]), "input 1 must be f32 or f16");
        refused(0, Spec::f32([3]), "x must be (items, ..., channels), found f32(3)");
        refused(1, Spec::f32([2, 4, 4, 9]), "or that with 6 channels, found f32(2, 4, 4, 9)");
        refused(1, Spec::f32([2, 16, 3]), "f must be f32(2, 4, 4, 3)");
        refused(2, Spec::f32([2, 4, 4, 6]), "the history is f32(2, 4, 4, 6)");
        refused(3, Spec::f32([1]), "the threshold must be f32(2), found f32(1)");
        refused(4, Spec::f32([8]), "the coefficients must be f32(13), found f32(8)");
        refused(5, Spec::f32([8]), "the step must be u32(6)");
    }
}
