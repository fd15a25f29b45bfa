//! The catalogue of operators, one file or folder each: shapes, f64 reference, cost, launches, gradient, cases.
//!
//! One list of cases serves the reference tests, the gradient tests, the portability tests and `inkwash
//! doctor`: a new operator adds a file here, a shader, and its lines below: `mod`, `pub use`, `cases()`.

mod addend;
mod attention;
mod cast;
mod ceiling;
mod channels;
mod conv2d;
mod cross_entropy;
mod degrade;
mod denoise;
mod elementwise;
mod embedding;
mod gaussian_mixture;
mod gemm;
mod gemm_matrix;
mod group_norm;
mod guidance;
mod loss;
mod loss_scale;
mod matmul;
mod memory;
mod noise;
mod optimizer;
mod renoise;
mod resample;
mod sum_rows;
mod threshold;
mod words;

pub use attention::{Attention, AttentionBackward};
pub use cast::Cast;
pub use ceiling::{CopyCeiling, FmaCeiling, MatrixCeiling, ShuffleCeiling, WorkgroupCeiling};
pub use channels::{AddChannels, Concat, SliceChannels, SpreadPixels, SumPixels};
pub use conv2d::{Conv2d, Conv2dBackwardInput, Conv2dBackwardWeight, Padding};
pub use cross_entropy::{SoftmaxCrossEntropy, SoftmaxCrossEntropyBackward};
pub use degrade::{Degrade, blur_matrices, downsample_matrices};
pub use denoise::{COEFFICIENTS, Coefficients, Denoise};
pub use elementwise::{Add, Scale, Silu, SiluBackward};
pub use embedding::{Embedding, EmbeddingBackward, TimeEmbedding};
pub use gaussian_mixture::{GaussianMixture, MixtureLevel};
pub use group_norm::{GroupNorm, GroupNormBackward, GroupNormBackwardScaleShift, GroupNormSums};
pub use guidance::Guidance;
pub use loss::{MseLoss, MseLossBackward};
pub use loss_scale::{AdjustLossScale, LossScale};
pub use matmul::{
    Linear, LinearLayers, LinearLayersBackwardInput, LinearLayersBackwardWeight, MatmulBackwardInput,
    MatmulBackwardWeight,
};
pub use memory::{ALIGNMENT, Pack, View, pack};
pub use noise::{
    AddNoise, AddTwoNoises, NoisingRow, RandomBits, RandomNormal, SCHEDULE_COLUMNS, STEP_WORDS, StepWords,
    TWO_NOISE_COLUMNS, TwoNoiseRow,
};
pub use optimizer::{
    Accumulate, AdamW, BiasCorrection, Clipping, GradientNorm, HYPER, Hyper, LOG_COLUMNS, Record, UpdateScale,
};
pub use renoise::{LEVEL, Renoise, RenoiseLevel};
pub use resample::{UpsampleNearest, UpsampleNearestBackward};
pub use sum_rows::SumRows;
pub use threshold::DynamicThreshold;

use crate::graph::{Aliasing, Caps, Kernels, Op};
use crate::rng::{Philox, Stream};
use crate::shader::{Extension, Kernel, Variant};
use crate::tensor::{Array, DType, Spec, Tolerance};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Every case of every operator.
pub fn catalogue() -> Vec<Case> {
    [
        noise::cases(),
        embedding::cases(),
        conv2d::cases(),
        group_norm::cases(),
        matmul::cases(),
        attention::cases(),
        elementwise::cases(),
        cast::cases(),
        channels::cases(),
        resample::cases(),
        sum_rows::cases(),
        memory::cases(),
        loss::cases(),
        cross_entropy::cases(),
        optimizer::cases(),
        loss_scale::cases(),
        denoise::cases(),
        threshold::cases(),
        renoise::cases(),
        guidance::cases(),
        degrade::cases(),
        gaussian_mixture::cases(),
        ceiling::cases(),
    ]
    .concat()
}

/// Every entry point in every variant that a case of the catalogue launches by any algorithm, on a device with f16, subgroups
/// of 8 and matrix units.
pub fn kernels() -> BTreeSet<Kernel> {
    let caps = Caps::webgpu(Kernels::Registers).with_every_feature();
    let of_case = |case: &Case| {
        let x: Vec<Spec> = case.inputs.iter().map(|(spec, _)| spec.clone()).collect();
        let y = case.op.infer(&x).expect("a case's inputs fit its operator");
        case.op.candidates(&x, &y, &caps)
    };
    let candidates = catalogue().iter().flat_map(of_case).collect::<Vec<_>>();
    candidates.into_iter().flat_map(|c| c.program.dispatches).map(|d| d.kernel()).collect()
}

/// How a test input is filled.
#[derive(Clone, Debug)]
pub enum Fill {
    /// Standard normal numbers.
    Normal,
    /// Uniform between two numbers.
    Uniform(f64, f64),
    /// Integers from 0 up to, and not including, this one.
    Below(usize),
    /// These numbers.
    Values(Vec<f64>),
    /// What another operator makes of the first so many inputs, by its reference: the output of this number.
    Output(Arc<dyn Op>, usize, usize),
}

impl<T: Into<f64>, const N: usize> From<[T; N]> for Fill {
    fn from(numbers: [T; N]) -> Self {
        Self::Values(numbers.map(Into::into).to_vec())
    }
}

/// One operator on inputs of one shape: the unit of every test and benchmark.
#[derive(Clone, Debug)]
pub struct Case {
    /// What is particular about it: `3x3 stride 2, 7x5, odd channels`.
    pub name: String,
    /// The operator.
    pub op: Arc<dyn Op>,
    /// Its inputs.
    pub inputs: Vec<(Spec, Fill)>,
    /// How far a device may be off, where that is not the algorithm's own affair ([`crate::graph::Candidate::tolerance`]).
    pub tolerance: Option<Tolerance>,
    /// Inputs whose gradient is checked by finite differences.
    pub gradients: Vec<usize>,
    /// Too large for the finite differences: devices only.
    pub large: bool,
}

impl Case {
    /// A case with normal f32 inputs, all of them differentiable.
    pub fn new(name: impl Into<String>, op: impl Op + 'static, inputs: &[Spec]) -> Self {
        let fill = |s: &Spec| match s.dtype {
            DType::F32 | DType::F16 => Fill::Normal,
            DType::U32 => Fill::Below(1 << 16),
        };
        Self {
            name: name.into(),
            op: Arc::new(op),
            inputs: inputs.iter().map(|s| (s.clone(), fill(s))).collect(),
            tolerance: None,
            gradients: (0..inputs.len()).filter(|&i| inputs[i].dtype.is_float()).collect(),
            large: false,
        }
    }

    /// Fills input `i` otherwise.
    #[must_use]
    pub fn fill(mut self, i: usize, fill: Fill) -> Self {
        self.inputs[i].1 = fill;
        self
    }

    /// Sets the tolerance.
    #[must_use]
    pub fn tolerance(mut self, tolerance: Tolerance) -> Self {
        self.tolerance = Some(tolerance);
        self
    }

    /// This case, and the same one with these inputs stored as f16. That is for devices alone: its arithmetic, and with it
    /// the gradient, is that of f32.
    #[must_use]
    pub fn and_in_f16(self, inputs: &[usize]) -> [Self; 2] {
        let mut half = self.clone().no_gradient();
        for &i in inputs {
            half.inputs[i].0.dtype = DType::F16;
        }
        half.name += ", f16";
        [self, half]
    }

    /// Whether a device can hold its tensors, and the operator has an algorithm for it or needs none.
    pub fn suits(&self, caps: &Caps) -> bool {
        let inputs: Vec<Spec> = self.inputs.iter().map(|(spec, _)| spec.clone()).collect();
        // Specs that the operator refuses are a defect of the case, which whoever runs it reports.
        let Ok(outputs) = self.op.infer(&inputs) else { return true };
        let launches_none = matches!(self.op.aliasing(), Aliasing::View { .. } | Aliasing::Pack { .. });
        inputs.iter().chain(&outputs).all(|spec| caps.stores(spec.dtype))
            && (launches_none || !self.op.candidates(&inputs, &outputs, caps).is_empty())
    }

    /// Checks the gradients of these inputs alone.
    #[must_use]
    pub fn gradients(mut self, inputs: &[usize]) -> Self {
        self.gradients = inputs.to_vec();
        self
    }

    /// The operator has no gradient: it is one, or nothing asks for it.
    #[must_use]
    pub fn no_gradient(self) -> Self {
        self.gradients(&[])
    }

    /// Leaves the case to devices.
    #[must_use]
    pub fn large(mut self) -> Self {
        self.large = true;
        self
    }

    /// The inputs' numbers, as their types hold them: the same for every device.
    pub fn arrays(&self) -> Vec<Array> {
        let mut arrays: Vec<Array> = Vec::new();
        for ((spec, fill), i) in self.inputs.iter().zip(0u32..) {
            let made = match fill {
                Fill::Output(op, inputs, number) => {
                    op.reference(&arrays[..*inputs]).swap_remove(*number).data
                }
                _ => Vec::new(),
            };
            let mut rng = Philox::new(i.into(), Stream::Cases, 0);
            let mut draw = |k: usize| match fill {
                Fill::Normal => rng.normal(),
                Fill::Uniform(low, high) => rng.uniform(*low, *high),
                Fill::Below(n) => rng.below(*n) as f64,
                Fill::Values(v) => v[k],
                Fill::Output(..) => made[k],
            };
            arrays.push(Array::from_fn(&spec.shape, |k| spec.dtype.round(draw(k))));
        }
        arrays
    }

    /// `operator: name` for tables.
    pub fn title(&self) -> String {
        format!("{}: {}", self.op.name(), self.name)
    }
}

/// The number of operands, and whether they are f32: what nearly every `infer` checks first.
pub(crate) fn expect_f32(op: &'static str, x: &[Spec], count: usize) -> Result<(), crate::graph::ShapeError> {
    crate::ensure_shape!(op, x.len() == count, "expected {count} inputs, found {}", x.len());
    for (i, spec) in x.iter().enumerate() {
        crate::ensure_shape!(op, spec.dtype == DType::F32, "input {i} must be f32, found {spec:?}");
    }
    Ok(())
}

/// The number of operands, and whether they are floats of one type: what an operator on activations checks first.
pub(crate) fn expect_float(
    op: &'static str,
    x: &[Spec],
    count: usize,
) -> Result<DType, crate::graph::ShapeError> {
    expect_activations(op, x, count, &[])
}

/// The number of operands, and their types: those of `single` (biases, statistics, sums) must be f32, the others
/// (activations, weights) floats of one type. Returns that type.
pub(crate) fn expect_activations(
    op: &'static str,
    x: &[Spec],
    count: usize,
    single: &[usize],
) -> Result<DType, crate::graph::ShapeError> {
    crate::ensure_shape!(op, x.len() == count, "expected {count} inputs, found {}", x.len());
    let first = (0..count).find(|i| !single.contains(i));
    let dtype = first.map_or(DType::F32, |i| x[i].dtype);
    for (i, spec) in x.iter().enumerate() {
        if single.contains(&i) {
            crate::ensure_shape!(op, spec.dtype == DType::F32, "input {i} must be f32, found {spec:?}");
        } else if Some(i) == first {
            crate::ensure_shape!(op, dtype.is_float(), "input {i} must be f32 or f16, found {spec:?}");
        } else {
            let (same, name) = (spec.dtype == dtype, dtype.name());
            crate::ensure_shape!(op, same, "input {i} must be {name}, as the first, found {spec:?}");
        }
    }
    Ok(dtype)
}

/// The variant whose activations are stored in this type: its alias `Element`.
pub(crate) fn stored(variant: Variant, dtype: DType) -> Variant {
    match dtype {
        DType::F16 => variant.with("Element", "f16").enable(Extension::F16),
        DType::F32 | DType::U32 => variant,
    }
}

/// `lib/vector4` where four divides the innermost axis of every tensor bound as vectors, else
/// `lib/vector1`; and the width.
pub(crate) fn vector_width(channels: &[usize]) -> (usize, Variant) {
    if channels.iter().all(|c| c % 4 == 0) {
        (4, Variant::base())
    } else {
        (1, Variant::base().link("lib/vector4", "lib/vector1"))
    }
}

/// The variant of a kernel that sums over workgroups of so many invocations (`lib/reduce`); on a CPU driver over a subgroup, if all
/// have one size and at least so many.
///
/// Barriers were half of it: of a training step of tiny-gray at batch 16 on llvmpipe, the 21 launches of group_norm's `measure` took
/// 8.3 ms with a tree in memory, and 4.4 without.
pub(crate) fn reducing(variant: Variant, lanes: usize, caps: &Caps) -> Variant {
    let registers = caps.kernels == Kernels::Registers;
    match caps.subgroup().filter(|&size| registers && lanes <= size) {
        Some(size) => variant
            .enable(Extension::Subgroups)
            .link("lib/reduce", "lib/reduce_subgroup")
            .with("LANES", format!("{size}u")),
        None => variant.with("LANES", format!("{lanes}u")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an operator says of operands of the wrong types.
    fn refusal(op: impl Op, operands: &[Spec]) -> String {
        op.infer(operands).expect_err("operands of these types must be refused").to_string()
    }

    #[test]
    fn activations_agree_and_parameters_are_f32() {
        let half = |axes: &[usize]| Spec::new(axes, DType::F16);
        let (x, w, b) = (Spec::f32([3, 4]), Spec::f32([4, 2]), Spec::f32([2]));
        assert_eq!(Linear.infer(&[half(&[3, 4]), half(&[4, 2]), b.clone()]).unwrap(), [half(&[3, 2])]);
        let weights = refusal(Linear, &[x.clone(), half(&[4, 2]), b.clone()]);
        assert_eq!(weights, "linear: input 1 must be f32, as the first, found f16(4, 2)");
        let bias = refusal(Linear, &[half(&[3, 4]), half(&[4, 2]), half(&[2])]);
        assert_eq!(bias, "linear: input 2 must be f32, found f16(2)");
        assert!(refusal(Linear, &[Spec::u32([3, 4]), w, b]).contains("must be f32 or f16"));
        // Sums and gradients of weights are f32 whatever is summed.
        assert_eq!(SumRows.infer(&[half(&[3, 4])]).unwrap(), [Spec::f32([4])]);
        let weight = MatmulBackwardWeight { bias: true };
        let gradients = weight.infer(&[half(&[3, 4]), half(&[3, 2])]).unwrap();
        assert_eq!(gradients, [Spec::f32([4, 2]), Spec::f32([2])]);
    }
}
