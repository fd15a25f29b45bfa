//! Random numbers on the device: Philox bits, normals, and the fused noising of a training batch, by one noise or
//! by two (`shaders/random.wgsl`, `shaders/noise.wgsl`).

use super::words::words;
use super::{Case, Fill, expect_f32, stored};
use crate::ensure_shape;
use crate::graph::{Candidate, Caps, Cost, Dispatch, Op, Operand, Program, ShapeError};
use crate::rng::{self, Stream, normal4, philox4x32};
use crate::shader::{Source, Variant};
use crate::tensor::{Array, DType, Shape, Spec, Tolerance};

static NOISE: Source = crate::wgsl!("noise");
static RANDOM: Source = crate::wgsl!("random");

/// Words of the small vector of [`StepWords`].
pub const STEP_WORDS: usize = 6;

/// Where a run stands, as [`AddNoise`] and its kin read it: `Step` in `shaders/lib/step.wgsl`.
#[derive(Clone, Copy, Debug, Default)]
pub struct StepWords {
    /// Seed of the run.
    pub seed: u64,
    /// Optimizer step, from 0.
    pub step: u32,
    /// First item of the batch.
    pub first_item: u32,
    /// Micro-batch, from 0.
    pub micro: u32,
    /// Row of the log.
    pub row: u32,
}

impl StepWords {
    /// The words as the shaders read them.
    pub fn words(self) -> [u32; STEP_WORDS] {
        let [low, high] = rng::key(self.seed);
        [low, high, self.step, self.first_item, self.micro, self.row]
    }

    /// From the words.
    pub(crate) fn of(words: &Array) -> Self {
        // Words were u32 before they were f64, so the conversion is exact.
        let [low, high, step, first_item, micro, row] = std::array::from_fn(|i| words.data[i] as u32);
        Self { seed: u64::from(high) << 32 | u64::from(low), step, first_item, micro, row }
    }

    /// The Philox counter of a block of four numbers of an item of the batch.
    fn counter(&self, block: usize, stream: Stream, item: usize) -> [u32; 4] {
        [block as u32, self.step, stream as u32, self.first_item.wrapping_add(item as u32)]
    }
}

words! {
    /// A row of the table of [`AddNoise`].
    NoisingRow {
        /// Share of the picture in x_t.
        signal,
        /// Share of the noise in x_t.
        sigma,
        /// Share of the noise in the target.
        target_noise,
        /// Share of the picture in the target.
        target_data,
        /// Of the item in the loss.
        weight,
        /// The time that the network is given.
        time,
    }
}

words! {
    /// A row of the table of [`AddTwoNoises`].
    TwoNoiseRow {
        /// Share of the picture in x_{t-1}.
        signal_prev,
        /// Share of the merged noise in x_{t-1}.
        sigma_prev,
        /// Share of x_{t-1} in x_t.
        a,
        /// Share of the last noise in x_t.
        b,
        /// Share of x_{t-1} in the target.
        c_prev,
        /// Share of the last noise in the target.
        c_last,
        /// Of the item in the loss.
        weight,
        /// The time that the network is given.
        time,
    }
}

/// Columns of the noising table, whose rows are [`NoisingRow`]s.
pub const SCHEDULE_COLUMNS: usize = NoisingRow::WORDS;

/// Columns of the table of two noises, whose rows are [`TwoNoiseRow`]s.
pub const TWO_NOISE_COLUMNS: usize = TwoNoiseRow::WORDS;

pub(crate) fn expect_step(op: &'static str, spec: &Spec) -> Result<(), ShapeError> {
    let expected = Spec::u32([STEP_WORDS]);
    ensure_shape!(op, *spec == expected, "the step must be {expected:?}, found {spec:?}");
    Ok(())
}

/// The normals of one item from its Philox blocks.
pub(crate) fn normals(step: &Array, stream: Stream, item: usize, elements: usize) -> Vec<f64> {
    let at = StepWords::of(step);
    let mut z: Vec<f64> = (0..elements.div_ceil(4))
        .flat_map(|block| normal4(at.counter(block, stream, item), rng::key(at.seed)))
        .collect();
    z.truncate(elements);
    z
}

/// Philox bits, to prove the generator: input \[step\], output u32 of `shape`, whose first axis is items.
#[derive(Debug, Clone)]
pub struct RandomBits {
    /// What the bits are for.
    pub stream: Stream,
    /// Items first.
    pub shape: Shape,
}

/// Standard normals: input \[step\], output f32 of `shape`, whose first axis is items.
#[derive(Debug, Clone)]
pub struct RandomNormal {
    /// What the numbers are for.
    pub stream: Stream,
    /// Items first.
    pub shape: Shape,
}

fn random(entry: &'static str, output: &'static str, stream: Stream, shape: &Shape) -> Program {
    let items = shape[0];
    let item = shape.elements() / items.max(1);
    let blocks = item.div_ceil(4);
    Dispatch::new(&RANDOM, entry)
        .bind("step", Operand::Input(0))
        .bind(output, Operand::Output(0))
        .param("items", items)
        .param("item", item)
        .param("blocks", blocks)
        .param("stream", stream as u32)
        .linear(items * blocks, 64)
        .into()
}

impl Op for RandomBits {
    fn name(&self) -> &'static str {
        "random_bits"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        ensure_shape!("random_bits", x.len() == 1, "expected the step alone, found {} inputs", x.len());
        expect_step("random_bits", &x[0])?;
        Ok(vec![Spec { shape: self.shape.clone(), dtype: DType::U32 }])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let at = StepWords::of(&x[0]);
        let item = self.shape.elements() / self.shape[0];
        vec![Array::from_fn(&self.shape, |i| {
            let counter = at.counter((i % item) / 4, self.stream, i / item);
            philox4x32(counter, rng::key(at.seed))[(i % item) % 4].into()
        })]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        Cost::of_traffic(x, y)
    }

    fn candidates(&self, _x: &[Spec], _y: &[Spec], _caps: &Caps) -> Vec<Candidate> {
        random("random_bits", "bits", self.stream, &self.shape).into()
    }
}

impl Op for RandomNormal {
    fn name(&self) -> &'static str {
        "random_normal"
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        ensure_shape!("random_normal", x.len() == 1, "expected the step alone, found {} inputs", x.len());
        expect_step("random_normal", &x[0])?;
        Ok(vec![Spec { shape: self.shape.clone(), dtype: DType::F32 }])
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        let item = self.shape.elements() / self.shape[0];
        let data = (0..self.shape[0]).flat_map(|n| normals(&x[0], self.stream, n, item)).collect();
        vec![Array { shape: self.shape.clone(), data }]
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        Cost::elementwise(x, y, 30)
    }

    fn candidates(&self, _x: &[Spec], _y: &[Spec], _caps: &Caps) -> Vec<Candidate> {
        random("random_normal", "normals", self.stream, &self.shape).into()
    }
}

/// What the two ways of noising have in common: inputs [x_0 (B, ...), table (T, columns), step]; outputs [x_t,
/// target, time (B), weight (B)].
struct Noising {
    op: &'static str,
    table: &'static str,
    columns: usize,
}

impl Noising {
    fn infer(&self, x: &[Spec], dtype: DType) -> Result<Vec<Spec>, ShapeError> {
        let op = self.op;
        ensure_shape!(op, dtype.is_float(), "x_t must be f32 or f16, not {}", dtype.name());
        ensure_shape!(op, x.len() == 3, "expected x_0, schedule and step, found {} inputs", x.len());
        expect_f32(op, &x[..2], 2)?;
        expect_step(op, &x[2])?;
        ensure_shape!(op, x[0].shape.rank() >= 2, "x_0 must be a batch, found {:?}", x[0]);
        let table = x[1].shape.rank() == 2 && x[1].shape[1] == self.columns;
        ensure_shape!(op, table, "the schedule must be (T, {}), found {:?}", self.columns, x[1]);
        let batch = Spec::f32([x[0].shape[0]]);
        Ok(vec![Spec::new(x[0].shape.axes(), dtype), x[0].clone(), batch.clone(), batch])
    }

    /// The reference: `item(n, row)` gives (x_t, target) of item n from its row of the table, whose last columns are
    /// the weight and the time.
    fn reference(&self, x: &[Array], item: impl Fn(usize, &[f64]) -> Vec<(f64, f64)>) -> Vec<Array> {
        let (x0, schedule) = (&x[0], &x[1]);
        let (batch, steps) = (x0.shape[0], schedule.shape[0]);
        let at = StepWords::of(&x[2]);
        let per_item = Shape::new([batch]);
        let [mut x_t, mut target] = [Vec::new(), Vec::new()];
        let [mut time, mut weight] = [Array::zeros(&per_item), Array::zeros(&per_item)];
        for n in 0..batch {
            let bits = philox4x32(at.counter(0, Stream::Timestep, n), rng::key(at.seed))[0];
            let t = ((u64::from(bits) * steps as u64) >> 32) as usize;
            let row = &schedule.data[t * self.columns..][..self.columns];
            weight.data[n] = row[self.columns - 2];
            time.data[n] = row[self.columns - 1];
            for (noised, asked) in item(n, row) {
                x_t.push(noised);
                target.push(asked);
            }
        }
        let whole = |data| Array { shape: x0.shape.clone(), data };
        vec![whole(x_t), whole(target), time, weight]
    }

    fn dispatch(&self, x: &[Spec], y: &[Spec]) -> Program {
        let batch = x[0].shape[0];
        let item = x[0].shape.elements() / batch.max(1);
        let blocks = item.div_ceil(4);
        Dispatch::new(&NOISE, self.op)
            .variant(stored(Variant::base(), y[0].dtype))
            .bind("x0", Operand::Input(0))
            .bind(self.table, Operand::Input(1))
            .bind("step", Operand::Input(2))
            .bind("x_t", Operand::Output(0))
            .bind("noise_target", Operand::Output(1))
            .bind("time", Operand::Output(2))
            .bind("weight", Operand::Output(3))
            .param("batch", batch)
            .param("item", item)
            .param("blocks", blocks)
            .param("timesteps", x[1].shape[0])
            .linear(batch * blocks, 64)
            .into()
    }
}

/// Item n of x_0.
fn picture(x: &[Array], n: usize) -> &[f64] {
    let item = x[0].shape.elements() / x[0].shape[0];
    &x[0].data[n * item..][..item]
}

/// Noises a batch: inputs [x_0 (B, ...), schedule (T, 6), step]; outputs [x_t, target, time (B), weight (B)]. Each item
/// draws a row of the schedule; its time is what conditions the network.
///
/// x_t = signal x_0 + sigma ε̄_{t-1} (DDPM, arXiv 2006.11239, eq. 4; the article's jump with signal = ā_{t-1}), and
/// target = target_noise ε̄_{t-1} + target_data x_0.
#[derive(Debug, Clone)]
pub struct AddNoise {
    /// Type that x_t is stored in, f32 or f16.
    pub dtype: DType,
}

const ADD_NOISE: Noising = Noising { op: "add_noise", table: "schedule", columns: SCHEDULE_COLUMNS };

impl Op for AddNoise {
    fn name(&self) -> &'static str {
        ADD_NOISE.op
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        ADD_NOISE.infer(x, self.dtype)
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        ADD_NOISE.reference(x, |n, row| {
            let x0 = picture(x, n);
            let row = NoisingRow::of(row);
            let merged = normals(&x[2], Stream::Noise, n, x0.len());
            let element = |(x, e): (&f64, f64)| {
                (row.signal * x + row.sigma * e, row.target_noise * e + row.target_data * x)
            };
            x0.iter().zip(merged).map(element).collect()
        })
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        Cost::elementwise(x, y, 36)
    }

    fn candidates(&self, x: &[Spec], y: &[Spec], _caps: &Caps) -> Vec<Candidate> {
        ADD_NOISE.dispatch(x, y).into()
    }
}

/// Noises a batch by way of the state before the last: inputs [x_0 (B, ...), table (T, 8), step]; outputs [x_t,
/// target, time (B), weight (B)].
///
/// x_{t-1} = signal_prev x_0 + sigma_prev ε̄_{t-2} with all steps but the last in one, x_t = a x_{t-1} + b ε_{t-1} with the
/// last, and target = c_prev x_{t-1} + c_last ε_{t-1}: the article's two draws. t and ε̄ are drawn where [`AddNoise`] draws
/// them.
#[derive(Debug, Clone)]
pub struct AddTwoNoises {
    /// Type that x_t is stored in, f32 or f16.
    pub dtype: DType,
}

const ADD_TWO_NOISES: Noising =
    Noising { op: "add_two_noises", table: "two_noise_schedule", columns: TWO_NOISE_COLUMNS };

impl Op for AddTwoNoises {
    fn name(&self) -> &'static str {
        ADD_TWO_NOISES.op
    }

    fn infer(&self, x: &[Spec]) -> Result<Vec<Spec>, ShapeError> {
        ADD_TWO_NOISES.infer(x, self.dtype)
    }

    fn reference(&self, x: &[Array]) -> Vec<Array> {
        ADD_TWO_NOISES.reference(x, |n, row| {
            let x0 = picture(x, n);
            let row = TwoNoiseRow::of(row);
            let merged = normals(&x[2], Stream::Noise, n, x0.len());
            let last = normals(&x[2], Stream::LastNoise, n, x0.len());
            let element = |((x, merged), last): ((&f64, f64), f64)| {
                let previous = row.signal_prev * x + row.sigma_prev * merged;
                (row.a * previous + row.b * last, row.c_prev * previous + row.c_last * last)
            };
            x0.iter().zip(merged).zip(last).map(element).collect()
        })
    }

    fn cost(&self, x: &[Spec], y: &[Spec]) -> Cost {
        Cost::elementwise(x, y, 70)
    }

    fn candidates(&self, x: &[Spec], y: &[Spec], _caps: &Caps) -> Vec<Candidate> {
        ADD_TWO_NOISES.dispatch(x, y).into()
    }
}

pub(crate) fn step_fill() -> Fill {
    StepWords { seed: 987_654_321 << 32 | 123_456_789, step: 17, first_item: 5, micro: 0, row: 3 }
        .words()
        .into()
}

/// Test cases.
pub fn cases() -> Vec<Case> {
    let step = Spec::u32([STEP_WORDS]);
    let mut cases = Vec::new();
    for shape in [vec![1, 1], vec![3, 5, 7, 3], vec![70, 4, 4, 1], vec![2, 1025]] {
        let shape = Shape::new(shape);
        let bits = RandomBits { stream: Stream::Noise, shape: shape.clone() };
        let normal = RandomNormal { stream: Stream::Initial, shape: shape.clone() };
        let name = format!("{shape}");
        let one = std::slice::from_ref(&step);
        cases
            .push(Case::new(&name, bits, one).fill(0, step_fill()).tolerance(Tolerance::EXACT).no_gradient());
        // Near the axes of the circle a normal is small against its radius: the absolute part covers it.
        cases.push(Case::new(&name, normal, one).fill(0, step_fill()).no_gradient());
        let inputs = [Spec::f32(shape.axes()), Spec::f32([11, SCHEDULE_COLUMNS]), step.clone()];
        for (dtype, name) in [(DType::F32, name.clone()), (DType::F16, format!("{name}, f16"))] {
            let case = Case::new(name, AddNoise { dtype }, &inputs);
            cases.push(case.fill(2, step_fill()).no_gradient());
        }
        let inputs = [Spec::f32(shape.axes()), Spec::f32([11, TWO_NOISE_COLUMNS]), step.clone()];
        for (dtype, name) in [(DType::F32, name.clone()), (DType::F16, format!("{name}, f16"))] {
            let case = Case::new(name, AddTwoNoises { dtype }, &inputs);
            cases.push(case.fill(2, step_fill()).no_gradient());
        }
    }
    cases
}
