//! Operators that memory bounds, each alone on tensors past the caches, in turns with a copy.

use super::{Repeats, Times};
use crate::gpu::{Blocking as _, Clock, Device, Executable, RunError};
use crate::ops::{
    Accumulate, AdamW, Add, AddChannels, Attention, Case, Cast, Concat, CopyCeiling, GradientNorm, GroupNorm,
    GroupNormBackward, GroupNormSums, HYPER, LossScale, STEP_WORDS, Silu, SiluBackward, SliceChannels,
    SoftmaxCrossEntropy, SoftmaxCrossEntropyBackward, SpreadPixels, SumPixels, SumRows, UpdateScale,
    UpsampleNearest, UpsampleNearestBackward,
};
use crate::rng::{Philox, Stream};
use crate::tensor::{DType, Spec};
use crate::tune::OneOperator;
use serde::Serialize;
use std::sync::Arc;

/// The speed of an operator that memory bounds.
#[derive(Clone, Debug, Serialize)]
pub struct Traffic {
    /// Its name, and that of the launch if it is one of several.
    pub operator: String,
    /// Its inputs.
    pub inputs: String,
    /// Bytes read and written if every tensor moves once.
    pub bytes: u64,
    /// Seconds, median.
    pub median_s: f64,
    /// Bytes per second in that time.
    pub bytes_per_s: f64,
    /// Bytes per second over those of the copy that ran before it, median of all turns.
    pub share_of_copy: f64,
}

/// What is timed.
struct Subject {
    case: Case,
    /// The one launch that counts, and the bytes it moves; all launches and the operator's own cost if left out.
    launch: Option<(&'static str, u64)>,
}

impl Subject {
    fn title(&self) -> String {
        let name = self.case.op.name();
        self.launch.map_or(name.into(), |(launch, _)| format!("{name}, {launch}"))
    }

    fn inputs(&self) -> String {
        let specs = self.case.inputs.iter().map(|(spec, _)| spec);
        let large = specs.filter(|spec| spec.shape.elements() > 1024);
        large.map(|spec| format!("{spec:?}")).collect::<Vec<_>>().join(" ")
    }
}

/// Activations of so many MiB and of this type, and f32 where operators know no other.
fn subjects(mebibytes: usize, dtype: DType) -> Vec<Subject> {
    // An image of 64 x 64 x 64 numbers of f32 is 1 MiB.
    let images = mebibytes * 4 / dtype.bytes();
    let image = |pixels: usize, channels: usize| Spec::new([images, pixels, pixels, channels], dtype);
    let (x, small) = (image(64, 64), image(32, 64));
    let of_channels = |rows: &[usize]| Spec::f32([rows, &[64]].concat());
    let gamma = || of_channels(&[]);
    let norm = GroupNorm { groups: 16, eps: 1e-5, silu: true, scale_shift: false };
    let statistics = Spec::f32([images, norm.groups, 2]);
    let sums = of_channels(&[images, 6]);
    let pixel = Spec::new([images, 64], dtype);
    let flat = || Spec::f32([mebibytes << 17]);
    let scores = |classes: usize| Spec::f32([(mebibytes << 18) / classes, classes]);
    let labels = |classes: usize| Spec::u32([(mebibytes << 18) / classes]);
    let adamw =
        AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01, copy: dtype == DType::F16 };
    let [words, hyper, scale] = [UpdateScale::WORDS, HYPER, LossScale::WORDS].map(|words| Spec::f32([words]));
    let length = (mebibytes << 18).isqrt();
    let tokens = Spec::new([1, length, 256], dtype);
    let matrix = 2 * 4 * (length * length) as u64;

    let (one, two) = (std::slice::from_ref(&x), [x.clone(), x.clone()]);
    let mut cases = vec![
        Case::new("", norm.clone(), &[x.clone(), gamma(), gamma()]),
        Case::new("", GroupNormSums(norm.clone()), &[x.clone(), x.clone(), statistics, gamma(), gamma()]),
        Case::new("", GroupNormBackward(norm), &[x.clone(), x.clone(), sums]),
        Case::new("", Add, &two),
        Case::new("", Silu, one),
        Case::new("", SiluBackward, &two),
        Case::new("", UpsampleNearest, &[small]),
        Case::new("", UpsampleNearestBackward, one),
        Case::new("", Concat, &[image(64, 48), image(64, 24)]),
        Case::new("", SliceChannels { start: 24, count: 48 }, &[image(64, 72)]),
        Case::new("", AddChannels, &[x.clone(), pixel.clone()]),
        Case::new("", SpreadPixels { shape: x.shape.clone() }, &[pixel]),
        Case::new("", SumPixels, one),
        Case::new("", SumRows, one),
        Case::new("", SoftmaxCrossEntropy, &[scores(16), labels(16)]),
        Case::new("", SoftmaxCrossEntropyBackward, &[scores(16), labels(16), Spec::f32([1])]),
        Case::new("", SoftmaxCrossEntropy, &[scores(1000), labels(1000)]),
        Case::new("", SoftmaxCrossEntropyBackward, &[scores(1000), labels(1000), Spec::f32([1])]),
        Case::new("", adamw, &[flat(), flat(), flat(), flat(), flat(), words, hyper.clone()]),
        Case::new("", GradientNorm, &[flat(), hyper, scale]),
        Case::new("", Accumulate, &[flat(), flat(), Spec::u32([STEP_WORDS])]),
    ];
    if dtype == DType::F16 {
        cases.push(Case::new("", Cast(dtype), &[flat()]));
    }
    let mut subjects: Vec<Subject> = cases.into_iter().map(|case| Subject { case, launch: None }).collect();
    subjects.push(Subject {
        case: Case::new("", Attention { heads: 1 }, &[tokens.clone(), tokens.clone(), tokens]),
        launch: Some(("softmax", matrix)),
    });
    subjects
}

/// An operator on a device, with numbers in its inputs.
struct Prepared {
    executable: Executable,
    launch: Option<&'static str>,
    bytes: u64,
}

impl Prepared {
    /// With the algorithm of the rule; none where the device has none with that launch.
    fn new(device: &Arc<Device>, subject: &Subject) -> Result<Option<Self>, RunError> {
        let Subject { case, launch } = subject;
        let one = OneOperator::new(case.op.clone(), case.inputs.iter().map(|(spec, _)| spec.clone()))?;
        let candidates = one.candidates(&device.caps).into_iter();
        let candidate = candidates
            .take(1)
            .find(|c| launch.is_none_or(|(name, _)| c.program.dispatches.iter().any(|d| d.entry == name)));
        let Some(candidate) = candidate else { return Ok(None) };
        let executable = one.executable(device, &candidate)?;
        let mut rng = Philox::new(0, Stream::Cases, 0);
        for (&value, (spec, _)) in one.inputs.iter().zip(&case.inputs) {
            executable.write_values(value, &numbers(spec, &mut rng));
        }
        let cost = one.cost();
        let bytes = launch.map_or(cost.bytes_read + cost.bytes_written, |(_, bytes)| bytes);
        Ok(Some(Self { executable, launch: launch.map(|(name, _)| name), bytes }))
    }

    /// Bytes per second of one run.
    fn speed(&self, clock: Clock) -> Result<f64, RunError> {
        let (ticks, tick_seconds) = self.executable.run_timed(clock).block_on()?.read().block_on()?;
        let launches = self.executable.plan().launches.iter().zip(ticks);
        let counted =
            launches.filter(|(launch, _)| self.launch.is_none_or(|name| launch.dispatch.entry == name));
        let spent: u64 = counted.map(|(_, [begin, end])| end.saturating_sub(begin)).sum();
        Ok(self.bytes as f64 / (spent as f64 * tick_seconds))
    }
}

/// Positive numbers, of which a few thousand are enough, and no label or step past 7.
fn numbers(spec: &Spec, rng: &mut Philox) -> Vec<f64> {
    let few: Vec<f64> = (0..4099)
        .map(|_| if spec.dtype == DType::U32 { rng.below(8) as f64 } else { rng.uniform(0.25, 1.0) })
        .collect();
    few.into_iter().cycle().take(spec.shape.elements()).collect()
}

/// Times every operator that memory bounds, and whose name contains `only`, on activations of so many MiB, each in turns with a
/// copy of as much; what is timed is handed to `tell` at once.
pub fn memory_speeds(
    device: &Arc<Device>,
    (mebibytes, dtype): (usize, DType),
    only: &str,
    repeats: Repeats,
    mut tell: impl FnMut(Traffic),
) -> Result<(), RunError> {
    let clock = Clock::ALL.into_iter().find(|clock| clock.suits(&device.caps.features));
    let clock = clock.unwrap_or(Clock::Waiting);
    let copied = Case::new("", CopyCeiling, &[Spec::f32([mebibytes << 18])]);
    let Some(copy) = Prepared::new(device, &Subject { case: copied, launch: None })? else { return Ok(()) };
    for subject in subjects(mebibytes, dtype) {
        let operator = subject.title();
        if !operator.contains(only) {
            continue;
        }
        let Some(prepared) = Prepared::new(device, &subject)? else { continue };
        let (mut seconds, mut shares) = (Vec::new(), Vec::new());
        for turn in 0..repeats.warmup + repeats.runs.max(1) {
            let (of_copy, speed) = (copy.speed(clock)?, prepared.speed(clock)?);
            if turn >= repeats.warmup {
                seconds.push(prepared.bytes as f64 / speed);
                shares.push(speed / of_copy);
            }
        }
        let median_s = Times::new(seconds).median();
        tell(Traffic {
            operator,
            inputs: subject.inputs(),
            bytes: prepared.bytes,
            median_s,
            bytes_per_s: prepared.bytes as f64 / median_s,
            share_of_copy: Times::new(shares).median(),
        });
    }
    Ok(())
}
