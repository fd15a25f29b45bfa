//! Dynamic thresholding of a sampler's estimate (`shaders/threshold.wgsl`).

use super::denoise::{Coefficients, answer_index, expect_answer, expect_coefficients};
use super::{COEFFICIENTS, Case, Fill, expect_activations, stored};
use crate::ensure_shape;
use crate::graph::{Candidate, Caps, Cost, Dispatch, Op, Operand, ShapeError};
use crate::shader::{Source, Variant};
use crate::tensor::{Array, Spec, Tolerance};

static SHADER: Source = crate::wgsl!("threshold");

/// Elements of the largest item: 2,031,360, as of an RGB picture of 822 x 822. llvmpipe leaves a loop without
/// a word once the loops of an invocation have made 65535 turns together. Here eight passes take turns over
/// the elements, by 256 invocations, and then over at most 256 bins.
const LARGEST_ITEM: usize = 256 * (65_535 / 8 - 256);

/// s = min(max(q, 1), max), q the quantile `ratio` of |raw| over the elements of an item, for each item:
/// dynamic thresholding (Imagen, arXiv 2205.11487, section 2.3).
///
/// Inputs [x (N, ..., C), f (N, ..., C or 2 C), [`Coefficients`]]; output (N), the threshold of
/// [`Denoise`](super::Denoise). raw = k (p_x x + p_f f) as in [`Coefficients`]. Between two elements the
/// quantile is interpolated linearly, at place ratio (n - 1) of the n sorted ones, as `torch.quantile` does.
#[derive(Debug, Clone)]
pub struct DynamicThreshold {
    /// Share of an item's elements that are not to be clamped, in [0, 1]; Imagen's p.
    pub ratio: f64,
    /// The largest threshold, at least 1.
    pub max: f32,
}

impl DynamicThreshold {
    /// The place of the quantile among `elements` sorted ones: the element before it, and the fraction of the
    /// way to the next.
    fn place(&self, elements: usize) -> (usize, f64) {
        let place = self.ratio * (elements - 1) as f64;
        // Within 0 ..= elements - 1, since the ratio is in [0, 1]: nothing is cut off but the fraction.
        (place as usize, place.fract())
    }
}

impl Op for DynamicThreshold {
    fn name(&self) -> &'static str {
        "dynamic_threshold"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        let op = "dynamic_threshold";
        expect_activations(op, x, 3, &[0, 2])?;
        expect_answer(op, &x[0], &x[1])?;
        expect_coefficients(op, &x[2])?;
        ensure_shape!(
            op,
            (0.0..=1.0).contains(&self.ratio),
            "the ratio must be 0 to 1, found {}",
            self.ratio
        );
        let sound = self.max >= 1.0 && self.max.is_finite();
        ensure_shape!(op, sound, "the largest threshold must be a number from 1 on, found {}", self.max);
        let item = x[0].shape.elements() / x[0].shape[0];
        ensure_shape!(
            op,
            item <= LARGEST_ITEM,
            "an item must have at most {LARGEST_ITEM} elements for its quantile, found {item} in {:?}",
            x[0]
        );
        Ok(vec![Spec::f32([x[0].shape[0]])])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let [x, f, words] = std::array::from_fn(|i| &x[i]);
        let c = Coefficients::of(&words.data);
        let (items, channels, f_channels) = (x.shape[0], x.shape.last(), f.shape.last());
        let item = x.shape.elements() / items;
        let (rank, fraction) = self.place(item);
        let threshold = |n: usize| {
            let magnitude = |i: usize| c.raw(x.data[i], f.data[answer_index(i, channels, f_channels)]).abs();
            let mut sorted: Vec<f64> = (n * item..(n + 1) * item).map(magnitude).collect();
            sorted.sort_by(f64::total_cmp);
            let (lower, upper) = (sorted[rank], sorted[(rank + 1).min(item - 1)]);
            (lower + fraction * (upper - lower)).max(1.0).min(self.max.into())
        };
        vec![Array::new([items], (0..items).map(threshold).collect())]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        // raw takes four operations, in each of eight passes.
        Cost { other_flops: 32 * x[0].shape.elements() as u64, ..Cost::of_traffic(x, y) }
    }

    fn candidates(&self, x: &[Spec], _y: &[Spec], _caps: &Caps) -> Vec<Candidate> {
        let items = x[0].shape[0];
        let item = x[0].shape.elements() / items;
        let (rank, fraction) = self.place(item);
        Dispatch::new(&SHADER, "dynamic_threshold")
            .variant(stored(Variant::base(), x[1].dtype))
            .bind("x", Operand::Input(0))
            .bind("f", Operand::Input(1))
            .bind("coefficients", Operand::Input(2))
            .bind("threshold", Operand::Output(0))
            .param("items", items)
            .param("item", item)
            .param("channels", x[0].shape.last())
            .param("f_channels", x[1].shape.last())
            .param("rank", rank)
            .param("fraction", fraction as f32)
            .param("largest", self.max)
            .workgroups(items)
            .into()
    }
}

/// Test cases.
pub fn cases() -> Vec<Case> {
    let epsilon = Coefficients { p_x: 1.0, p_f: -0.6, k: 1.25, ..Coefficients::default() };
    let large = Coefficients { k: 1e3, ..epsilon };
    let mut cases = Vec::new();
    let mut add = |name: &str, c: &Coefficients, ratio, max, shape: &[usize], width: usize| {
        let mut answer = shape.to_vec();
        answer[shape.len() - 1] *= width;
        let inputs = [Spec::f32(shape), Spec::f32(answer), Spec::f32([COEFFICIENTS])];
        let name = format!("{name}, {ratio} of {:?} from {:?}, at most {max:e}", inputs[0], inputs[1]);
        let case = Case::new(name, DynamicThreshold { ratio, max }, &inputs).fill(2, c.words().into());
        let [plain, half] = case.no_gradient().and_in_f16(&[1]);
        cases.push(plain);
        if ratio == 0.995 {
            cases.push(half);
        }
    };
    for ratio in [0.0, 0.5, 0.9, 0.995, 1.0] {
        for (shape, width) in
            [(vec![1, 1], 1), (vec![3, 5, 7, 3], 2), (vec![70, 4, 4, 1], 1), (vec![2, 32, 32, 3], 2)]
        {
            add("near 1", &epsilon, ratio, 1.5, &shape, width);
            add("far above 1", &large, ratio, 1e30, &shape, width);
        }
    }
    add("past 65535 workgroups", &large, 1.0, 1e30, &[65_537, 2], 1);
    // The last passes settle the last bits, so that leaving out their ends would hide in the usual tolerance.
    let largest = [Spec::f32([1, LARGEST_ITEM]), Spec::f32([1, LARGEST_ITEM]), Spec::f32([COEFFICIENTS])];
    cases.push(
        Case::new("as many elements as there may be", DynamicThreshold { ratio: 0.7, max: 1e30 }, &largest)
            .fill(0, Fill::Uniform(0.0, 4.0))
            .fill(1, Fill::Uniform(0.0, 1.0))
            .fill(2, epsilon.words().into())
            .tolerance(Tolerance { absolute: 0.0, relative: 1e-6 })
            .no_gradient()
            .large(),
    );
    // Equal numbers, both zeros, and a place between equal and unequal ones.
    let ties = vec![0.0, -0.0, 2.0, -2.0, 2.0, -2.0, 2.0, 3.0, -3.0, 0.5];
    for ratio in [0.05, 0.5, 0.7, 0.75, 0.8] {
        let plain = Coefficients { p_x: 1.0, k: 1.0, ..Coefficients::default() };
        let inputs = [Spec::f32([1, 10]), Spec::f32([1, 10]), Spec::f32([COEFFICIENTS])];
        let op = DynamicThreshold { ratio, max: 100.0 };
        let case = Case::new(format!("ties, {ratio}"), op, &inputs).fill(2, plain.words().into());
        cases.push(case.fill(0, Fill::Values(ties.clone())).no_gradient());
    }
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `torch.quantile([0.5, 3, 2, 1.5, 4], ratio)`, PyTorch 2.11, then clamped.
    #[test]
    fn the_quantile_is_pytorchs() {
        let x = Array::new([1, 5], vec![0.5, 3.0, -2.0, 1.5, -4.0]);
        let words = Coefficients { p_x: 1.0, k: 1.0, ..Coefficients::default() }.words();
        let words = Array::new([COEFFICIENTS], words.map(f64::from).to_vec());
        for (ratio, max, expected) in [
            (0.0, 10.0, 1.0),
            (0.3, 10.0, 1.6),
            (0.9, 10.0, 3.6),
            (0.995, 10.0, 3.98),
            (1.0, 10.0, 4.0),
            (1.0, 2.5, 2.5),
        ] {
            let s =
                DynamicThreshold { ratio, max }.reference(&[x.clone(), x.clone(), words.clone()])[0].data[0];
            assert!((s - expected).abs() < 1e-12, "{ratio}: {s} instead of {expected}");
        }
    }

    #[test]
    fn wrong_numbers_and_shapes_are_named() {
        let infer = |ratio, max, x: [Spec; 2]| {
            let [x, f] = x;
            DynamicThreshold { ratio, max }.infer(&[x, f, Spec::f32([COEFFICIENTS])])
        };
        let (small, odd) = (Spec::f32([2, 8, 3]), Spec::f32([2, 8, 4]));
        let vast = Spec::f32([1, 4096, 4096, 1]);
        assert_eq!(infer(0.9, 1.0, [small.clone(), small.clone()]).unwrap(), [Spec::f32([2])]);
        for (ratio, max, x, words) in [
            (f64::NAN, 1.0, [&small, &small], "the ratio must be 0 to 1, found NaN"),
            (1.5, 1.0, [&small, &small], "found 1.5"),
            (0.9, 0.5, [&small, &small], "from 1 on, found 0.5"),
            (0.9, f32::INFINITY, [&small, &small], "found inf"),
            (0.9, 1.0, [&small, &odd], "or that with 6 channels, found f32(2, 8, 4)"),
            (0.9, 1.0, [&vast, &vast], "at most 2031360 elements for its quantile, found 16777216"),
        ] {
            let message = infer(ratio, max, x.map(Spec::clone)).unwrap_err().to_string();
            assert!(message.contains(words), "{message}");
        }
    }
}
