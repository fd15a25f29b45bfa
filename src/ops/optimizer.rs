//! What happens to flat vectors after the gradient is known: its norm and clipping
//! (`shaders/grad_norm.wgsl`), the count of steps taken with the bias corrections (`shaders/bias_correction.wgsl`), AdamW
//! with the moving average (`shaders/adamw.wgsl`), and sums over micro-batches and the log (`shaders/accumulate.wgsl`).

use super::loss_scale::LossScale;
use super::memory::ranges;
use super::noise::{STEP_WORDS, StepWords, expect_step, step_fill};
use super::words::words;
use super::{Case, Fill, expect_f32, reducing, vector_width};
use crate::ensure_shape;
use crate::graph::{Aliasing, Candidate, Caps, Cost, Dispatch, Kernels, Op, Operand, Program, ShapeError};
use crate::shader::{Extension, Source};
use crate::tensor::{Array, DType, Shape, Spec};

static GRAD_NORM: Source = crate::wgsl!("grad_norm");
static BIAS_CORRECTION: Source = crate::wgsl!("bias_correction");
static ADAMW: Source = crate::wgsl!("adamw");
static ACCUMULATE: Source = crate::wgsl!("accumulate");

words! {
    /// The hyperparameters that change from step to step.
    Hyper {
        /// The learning rate.
        learning_rate,
        /// Decay μ of the moving average of the weights.
        ema_decay,
        /// Largest norm of the gradient; 0 for no clipping.
        max_norm,
    }
}

/// Words of the vector of [`Hyper`].
pub const HYPER: usize = Hyper::WORDS;

words! {
    /// What is known of a gradient before it is used: the output of [`GradientNorm`].
    Clipping {
        /// √(Σ g²) divided by the scale of the loss, 0 if the sum is not finite.
        norm,
        /// What the gradient is multiplied by: min(1, max_norm / (norm + 1e-6)) divided by the scale.
        factor,
        /// 1 or 0.
        finite,
    }
}

words! {
    /// What [`AdamW`] multiplies a gradient and divides its moments by: an output of [`BiasCorrection`].
    UpdateScale {
        /// Of the gradient.
        factor,
        /// Whether the gradient was finite: 1 or 0.
        finite,
        /// 1 - β1^t, with t counted from 1.
        correction1,
        /// 1 - β2^t.
        correction2,
    }
}

/// Columns of the log of [`Record`].
pub const LOG_COLUMNS: usize = 5;

/// Elements that one workgroup of the norm sums: `CHUNK` of the shader.
pub(super) const NORM_CHUNK: usize = 4096;

/// Checks a vector of words, named `name` in errors.
pub(super) fn expect_words(
    op: &'static str,
    name: &str,
    spec: &Spec,
    words: usize,
) -> Result<(), ShapeError> {
    let expected = Spec::f32([words]);
    ensure_shape!(op, *spec == expected, "{name} must be {expected:?}, found {spec:?}");
    Ok(())
}

/// The norm of a gradient and the factor that clips it: inputs [g (flat), [`Hyper`], [`LossScale`]], g the gradient of a loss so
/// scaled; output [`Clipping`].
///
/// Clipping by the global norm is Pascanu et al., arXiv 1211.5063; the 1e-6 is PyTorch's.
#[derive(Debug, Clone)]
pub struct GradientNorm;

impl Op for GradientNorm {
    fn name(&self) -> &'static str {
        "gradient_norm"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        expect_f32("gradient_norm", x, 3)?;
        expect_words("gradient_norm", "hyper", &x[1], HYPER)?;
        expect_words("gradient_norm", "the scale of the loss", &x[2], LossScale::WORDS)?;
        Ok(vec![Spec::f32([Clipping::WORDS])])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let sum: f64 = x[0].data.iter().map(|g| g * g).sum();
        let finite = (sum as f32).is_finite();
        let LossScale { scale, .. } = LossScale::of(&x[2].data);
        let norm = if finite { sum.sqrt() / scale } else { 0.0 };
        let Hyper { max_norm, .. } = Hyper::of(&x[1].data);
        let clip = if max_norm > 0.0 { (max_norm / (norm + 1e-6)).min(1.0) } else { 1.0 };
        let clipping = Clipping { norm, factor: clip / scale, finite: f64::from(u8::from(finite)) };
        vec![Array::new([Clipping::WORDS], clipping.values().to_vec())]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        Cost { other_flops: 2 * x[0].shape.elements() as u64, ..Cost::of_traffic(x, y) }
    }

    fn candidates(&self, x: &[Spec], _y: &[Spec], caps: &Caps) -> Vec<Candidate> {
        caps.both(|caps| -> Program {
            let mut first = 0;
            let mut dispatches = Vec::new();
            for range in ranges(x[0].shape.elements(), caps) {
                let groups = range.len().div_ceil(NORM_CHUNK);
                let (width, variant) = vector_width(&[range.len()]);
                let variant = match caps.kernels {
                    Kernels::Registers => reducing(variant, 8, caps),
                    Kernels::Workgroup => variant,
                };
                dispatches.push(
                    Dispatch::new(&GRAD_NORM, "norm_partial")
                        .arithmetic(range.len())
                        .variant(variant)
                        .param("count", range.len() / width)
                        .param("groups", groups)
                        .param("first", first)
                        .bind_range("gradient", Operand::Input(0), range)
                        .bind("partial", Operand::Scratch(0))
                        .workgroups(groups),
                );
                first += groups;
            }
            dispatches.push(
                Dispatch::new(&GRAD_NORM, "norm_finish")
                    .arithmetic(0)
                    .param("groups", first)
                    .bind("partial", Operand::Scratch(0))
                    .bind("hyper", Operand::Input(1))
                    .bind("loss_scale", Operand::Input(2))
                    .bind("clipping", Operand::Output(0)),
            );
            Program { scratch: vec![Spec::f32([first])], dispatches }
        })
    }
}

/// Rows of [`BiasCorrection::powers`] for each digit of t.
const BASE: usize = 1024;

/// Counts the steps that were taken, in place, and gives the bias corrections of AdamW: inputs
/// [taken u32 (1), [`Clipping`], powers (3072, 2)]; outputs [taken, [`UpdateScale`]] with t the
/// steps taken, this one included. A step whose gradient is not finite is not taken, and not counted: PyTorch's optimizers
/// count the calls of `step`, which a gradient scaler leaves out then.
#[derive(Debug, Clone)]
pub struct BiasCorrection {
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
}

impl BiasCorrection {
    /// Those of an optimizer.
    pub fn of(optimizer: &AdamW) -> Self {
        Self { beta1: optimizer.beta1, beta2: optimizer.beta2 }
    }

    /// 1 - β^(k 1024^d) for both β, k from 0 to 1023 and d from 0 to 2: up to 2^30 steps. Exact in f32 up to step 1023,
    /// and within two roundings after.
    pub fn powers(&self) -> Array {
        Array::from_fn(&Shape::new([3 * BASE, 2]), |i| {
            let beta = f64::from([self.beta1, self.beta2][i % 2]);
            let (digit, k) = (i / 2 / BASE, i / 2 % BASE);
            1.0 - beta.powf((k * BASE.pow(digit as u32)) as f64)
        })
    }
}

impl Op for BiasCorrection {
    fn name(&self) -> &'static str {
        "bias_correction"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        ensure_shape!("bias_correction", x.len() == 3, "expected 3 inputs, found {}", x.len());
        ensure_shape!("bias_correction", x[0] == Spec::u32([1]), "taken must be u32(1), found {:?}", x[0]);
        expect_words("bias_correction", "the norm", &x[1], Clipping::WORDS)?;
        let powers = Spec::f32([3 * BASE, 2]);
        ensure_shape!("bias_correction", x[2] == powers, "powers must be {powers:?}, found {:?}", x[2]);
        Ok(vec![x[0].clone(), Spec::f32([UpdateScale::WORDS])])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let Clipping { factor, finite, .. } = Clipping::of(&x[1].data);
        let taken = x[0].data[0] + if finite == 0.0 { 0.0 } else { 1.0 };
        let [correction1, correction2] =
            [self.beta1, self.beta2].map(|beta| 1.0 - f64::from(beta).powf(taken));
        let scale = UpdateScale { factor, finite, correction1, correction2 };
        vec![Array::new([1], vec![taken]), Array::new([UpdateScale::WORDS], scale.values().to_vec())]
    }

    fn cost(&self, _x: &[Spec], y: &[Spec]) -> Cost {
        Cost::elementwise(&[Spec::u32([1]), Spec::f32([10])], y, 8)
    }

    fn candidates(&self, _x: &[Spec], _y: &[Spec], _caps: &Caps) -> Vec<Candidate> {
        Dispatch::new(&BIAS_CORRECTION, "bias_correction")
            .param("base", BASE)
            .bind("taken", Operand::Output(0))
            .bind("clipping", Operand::Input(1))
            .bind("powers", Operand::Input(2))
            .bind("scale", Operand::Output(1))
            .into()
    }

    fn aliasing(&self) -> Aliasing {
        Aliasing::InPlace(vec![(0, 0)])
    }
}

/// AdamW (Loshchilov & Hutter, arXiv 1711.05101, algorithm 2) and the moving average of the weights, in
/// place: inputs [p, g, m, v, ema (flat), [`UpdateScale`], [`Hyper`]]; outputs [p, m, v, ema], and perhaps a copy of p in f16.
///
/// Does nothing when the gradient is not finite.
#[derive(Debug, Clone)]
pub struct AdamW {
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub epsilon: f32,
    /// Decoupled weight decay, per unit of learning rate.
    pub weight_decay: f32,
    /// Whether the new weights are a further output in f16, for products to read.
    pub copy: bool,
}

impl Op for AdamW {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        expect_f32("adamw", x, 7)?;
        for (i, spec) in x[1..5].iter().enumerate() {
            ensure_shape!("adamw", *spec == x[0], "input {} is {spec:?}, but p is {:?}", i + 1, x[0]);
        }
        expect_words("adamw", "the scale", &x[5], UpdateScale::WORDS)?;
        expect_words("adamw", "hyper", &x[6], HYPER)?;
        let mut outputs = vec![x[0].clone(); 4];
        outputs.extend(self.copy.then(|| Spec::new(x[0].shape.axes(), DType::F16)));
        Ok(outputs)
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let [p, g, m, v, ema] = std::array::from_fn(|i| &x[i].data);
        let UpdateScale { factor, finite, correction1, correction2 } = UpdateScale::of(&x[5].data);
        let with_copy = |mut outputs: Vec<Array>| {
            outputs.extend(self.copy.then(|| outputs[0].clone()));
            outputs
        };
        if finite == 0.0 {
            return with_copy([0, 2, 3, 4].map(|i| x[i].clone()).to_vec());
        }
        let [beta1, beta2, epsilon, decay] =
            [self.beta1, self.beta2, self.epsilon, self.weight_decay].map(f64::from);
        let Hyper { learning_rate, ema_decay, .. } = Hyper::of(&x[6].data);
        let shape = &x[0].shape;
        let first = Array::from_fn(shape, |i| beta1 * m[i] + (1.0 - beta1) * factor * g[i]);
        let second = Array::from_fn(shape, |i| beta2 * v[i] + (1.0 - beta2) * (factor * g[i]).powi(2));
        let updated = Array::from_fn(shape, |i| {
            let step = (first.data[i] / correction1) / ((second.data[i] / correction2).sqrt() + epsilon);
            (1.0 - learning_rate * decay) * p[i] - learning_rate * step
        });
        let average = Array::from_fn(shape, |i| ema_decay * ema[i] + (1.0 - ema_decay) * updated.data[i]);
        with_copy(vec![updated, first, second, average])
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        Cost::elementwise(x, y, 18)
    }

    fn candidates(&self, x: &[Spec], _y: &[Spec], caps: &Caps) -> Vec<Candidate> {
        let dispatches = ranges(x[0].shape.elements(), caps)
            .into_iter()
            .map(|range| {
                let (width, mut variant) = vector_width(&[range.len()]);
                if self.copy {
                    let copied = if width == 4 { "vec4<f16>" } else { "f16" };
                    variant = variant.link("lib/no_weight_copy", "lib/weight_copy").with("Copied", copied);
                    variant = variant.enable(Extension::F16);
                }
                let dispatch = Dispatch::new(&ADAMW, "adamw")
                    .arithmetic(range.len())
                    .variant(variant)
                    .param("count", range.len() / width)
                    .param("beta1", self.beta1)
                    .param("beta2", self.beta2)
                    .param("epsilon", self.epsilon)
                    .param("weight_decay", self.weight_decay)
                    .linear(range.len() / width, 64)
                    .bind_range("p", Operand::Output(0), range.clone())
                    .bind_range("g", Operand::Input(1), range.clone())
                    .bind_range("m", Operand::Output(1), range.clone())
                    .bind_range("v", Operand::Output(2), range.clone())
                    .bind_range("ema", Operand::Output(3), range.clone())
                    .bind("scale", Operand::Input(5))
                    .bind("hyper", Operand::Input(6));
                if self.copy { dispatch.bind_range("copy", Operand::Output(4), range) } else { dispatch }
            })
            .collect();
        Program { scratch: vec![], dispatches }.into()
    }

    fn aliasing(&self) -> Aliasing {
        Aliasing::InPlace(vec![(0, 0), (1, 2), (2, 3), (3, 4)])
    }
}

/// sum ← x on the first micro-batch of a step, sum + x on the others: inputs [sum, x, step], in place.
#[derive(Debug, Clone)]
pub struct Accumulate;

impl Op for Accumulate {
    fn name(&self) -> &'static str {
        "accumulate"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        ensure_shape!("accumulate", x.len() == 3, "expected sum, x and step, found {} inputs", x.len());
        expect_f32("accumulate", &x[..2], 2)?;
        ensure_shape!("accumulate", x[0] == x[1], "sum is {:?}, but x is {:?}", x[0], x[1]);
        expect_step("accumulate", &x[2])?;
        Ok(vec![x[0].clone()])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let kept = if StepWords::of(&x[2]).micro == 0 { 0.0 } else { 1.0 };
        vec![Array::from_fn(&x[0].shape, |i| kept * x[0].data[i] + x[1].data[i])]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        Cost::elementwise(x, y, 1)
    }

    fn candidates(&self, x: &[Spec], _y: &[Spec], caps: &Caps) -> Vec<Candidate> {
        let dispatches = ranges(x[0].shape.elements(), caps)
            .into_iter()
            .map(|range| {
                let (width, variant) = vector_width(&[range.len()]);
                Dispatch::new(&ACCUMULATE, "accumulate")
                    .arithmetic(range.len())
                    .variant(variant)
                    .param("count", range.len() / width)
                    .linear(range.len() / width, 64)
                    .bind_range("sum", Operand::Output(0), range.clone())
                    .bind_range("x", Operand::Input(1), range)
                    .bind("step", Operand::Input(2))
            })
            .collect();
        Program { scratch: vec![], dispatches }.into()
    }

    fn aliasing(&self) -> Aliasing {
        Aliasing::InPlace(vec![(0, 0)])
    }
}

/// Writes (loss, norm, factor, finite, scale of the loss) into the log's row `step.row mod rows`: inputs
/// [log (rows, 5), loss (1), [`Clipping`], step, [`LossScale`]], in place. The host reads many rows at once.
#[derive(Debug, Clone)]
pub struct Record;

impl Op for Record {
    fn name(&self) -> &'static str {
        "record"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        ensure_shape!(
            "record",
            x.len() == 5,
            "expected log, loss, norm, step and scale, found {} inputs",
            x.len()
        );
        expect_f32("record", &x[..3], 3)?;
        let table = x[0].shape.rank() == 2 && x[0].shape[1] == LOG_COLUMNS;
        ensure_shape!("record", table, "the log must be (rows, {LOG_COLUMNS}), found {:?}", x[0]);
        ensure_shape!("record", x[1] == Spec::f32([1]), "the loss must be f32(1), found {:?}", x[1]);
        expect_words("record", "the norm", &x[2], Clipping::WORDS)?;
        expect_step("record", &x[3])?;
        expect_words("record", "the scale of the loss", &x[4], LossScale::WORDS)?;
        Ok(vec![x[0].clone()])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let mut y = x[0].clone();
        let row = StepWords::of(&x[3]).row as usize % x[0].shape[0];
        let Clipping { norm, factor, finite } = Clipping::of(&x[2].data);
        let LossScale { scale, .. } = LossScale::of(&x[4].data);
        let record = [x[1].data[0], norm, factor, finite, scale];
        y.data[row * LOG_COLUMNS..][..LOG_COLUMNS].copy_from_slice(&record);
        vec![y]
    }

    fn cost(&self, x: &[Spec], _y: &[Spec]) -> Cost {
        Cost::of_traffic(&x[1..], &[Spec::f32([LOG_COLUMNS])])
    }

    fn candidates(&self, x: &[Spec], _y: &[Spec], _caps: &Caps) -> Vec<Candidate> {
        Dispatch::new(&ACCUMULATE, "record")
            .param("rows", x[0].shape[0])
            .bind("log_rows", Operand::Output(0))
            .bind("loss", Operand::Input(1))
            .bind("clipping", Operand::Input(2))
            .bind("step", Operand::Input(3))
            .bind("loss_scale", Operand::Input(4))
            .into()
    }

    fn aliasing(&self) -> Aliasing {
        Aliasing::InPlace(vec![(0, 0)])
    }
}

/// Test cases.
pub fn cases() -> Vec<Case> {
    let hyper = |max_norm: f64| Hyper { learning_rate: 1e-3, ema_decay: 0.99, max_norm }.words().into();
    let [of_hyper, of_clipping, of_scale, of_loss_scale] =
        [Hyper::WORDS, Clipping::WORDS, UpdateScale::WORDS, LossScale::WORDS].map(|words| Spec::f32([words]));
    let loss_scale = |scale| -> Fill { LossScale { scale, ..LossScale::NONE }.words().into() };
    let step = Spec::u32([STEP_WORDS]);
    let mut cases = Vec::new();
    for count in [1, 63, 4097, 8200, 70_001] {
        let flat = Spec::f32([count]);
        for (name, max_norm, scale) in
            [("clipped", 1.0, 1.0), ("not clipped", 0.0, 1.0), ("scaled and clipped", 1e-3, 256.0)]
        {
            let inputs = [flat.clone(), of_hyper.clone(), of_loss_scale.clone()];
            let case = Case::new(format!("{count}, {name}"), GradientNorm, &inputs);
            cases.push(case.fill(1, hyper(max_norm)).fill(2, loss_scale(scale)).no_gradient());
        }
        let adamw = AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01, copy: false };
        let mut inputs = vec![flat.clone(); 5];
        inputs.extend([of_scale.clone(), of_hyper.clone()]);
        let scale = |finite| UpdateScale { factor: 0.5, finite, correction1: 0.1, correction2: 0.001 };
        for (name, finite) in [("finite", 1.0), ("not finite", 0.0)] {
            for (copy, copied) in [(false, ""), (true, ", a copy in f16")] {
                let adamw = AdamW { copy, ..adamw.clone() };
                cases.push(
                    Case::new(format!("{count}, {name}{copied}"), adamw, &inputs)
                        .fill(3, Fill::Uniform(0.0, 2.0))
                        .fill(5, scale(finite).words().into())
                        .fill(6, hyper(1.0))
                        .no_gradient(),
                );
            }
        }
        for (name, micro) in [("first", 0), ("later", 2)] {
            let words = StepWords { seed: 2 << 32 | 1, step: 3, first_item: 4, micro, row: 5 };
            let inputs = [flat.clone(), flat.clone(), step.clone()];
            cases.push(
                Case::new(format!("{count}, {name} micro-batch"), Accumulate, &inputs)
                    .fill(2, words.words().into())
                    .no_gradient(),
            );
        }
    }
    let correction = BiasCorrection { beta1: 0.9, beta2: 0.999 };
    let powers = Spec::f32([3 * BASE, 2]);
    for (taken, finite) in
        [(0, 1.0), (0, 0.0), (1, 1.0), (1022, 1.0), (1023, 1.0), (5_000, 0.0), (1 << 29, 1.0)]
    {
        let inputs = [Spec::u32([1]), of_clipping.clone(), powers.clone()];
        let name = format!("after {taken}, {}", if finite == 0.0 { "not finite" } else { "finite" });
        cases.push(
            Case::new(name, correction.clone(), &inputs)
                .fill(0, Fill::Values(vec![f64::from(taken)]))
                .fill(1, Clipping { norm: 2.0, factor: 0.5, finite }.words().into())
                .fill(2, Fill::Values(correction.powers().data))
                .no_gradient(),
        );
    }
    let overflow = Spec::f32([3]);
    for (name, bad) in [("NaN", f64::NAN), ("infinity", f64::INFINITY), ("overflow", 1e30)] {
        let case =
            Case::new(name, GradientNorm, &[overflow.clone(), of_hyper.clone(), of_loss_scale.clone()]);
        let case = case.fill(0, Fill::Values(vec![1.0, bad, 2.0])).fill(1, hyper(1.0));
        cases.push(case.fill(2, loss_scale(2.0)).no_gradient());
    }
    let inputs = [Spec::f32([2, LOG_COLUMNS]), Spec::f32([1]), of_clipping, step, of_loss_scale];
    cases.push(Case::new("row 3 of 2", Record, &inputs).fill(3, step_fill()).no_gradient());
    cases
}
