//! The fastest algorithm of each operator of a step, by measurement on the device that will run it.
//!
//! A rule ([`Op::candidates`]) chooses without measuring. It knows CPU drivers from GPUs, and no GPU from another.

use crate::gpu::{Blocking as _, Device, Executable, RunError, Store};
use crate::graph::{Aliasing, Candidate, Caps, Choices, Cost, Graph, GraphError, Op, Plan, ValueId};
use crate::io::atomic::write_atomic;
use crate::rng::{Philox, Stream};
use crate::tensor::{DType, Spec, Tolerance};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long may be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum Effort {
    /// Not at all: the rule chooses.
    Off,
    /// Five seconds, for the operators with the most arithmetic.
    Quick,
    /// Until every operator is measured.
    Full,
}

impl Effort {
    /// Where nobody said: off on CPU drivers, whose kernels take seconds to compile, and which the rule was made for by
    /// measurement.
    pub fn of_device(device: &Device) -> Self {
        if device.info.kind == "cpu" { Self::Off } else { Self::Quick }
    }

    /// Measuring begins no other operator after this.
    fn limit(self) -> Duration {
        match self {
            Self::Off => Duration::ZERO,
            // The one that is under way may take half a second more where the driver compiles slowly.
            Self::Quick => Duration::from_millis(4500),
            Self::Full => Duration::MAX,
        }
    }
}

/// Another algorithm must be faster than the rule's by this much: less is no gain to speak of, and may be chance.
const GAIN: f64 = 0.97;

/// Operators whose kernels are compiled together, before the first of them is measured: each has up to five algorithms. On an H200 with
/// 16 processors the 160 operators of `cifar` in f16 took 86 s so, and 108 s when each kernel was compiled before it ran.
const TOGETHER: usize = 4;

/// Runs of a candidate before the clock starts, and with it. The fastest counts: what disturbs a run only makes it slower.
const WARMUP: usize = 1;
const RUNS: usize = 5;

/// A candidate is given up once its fastest run has taken so many times as long as the fastest candidate's: kernels for CPU drivers take
/// a hundred times as long on an H200.
const HOPELESS: f64 = 2.0;

/// Runs of a candidate that must agree bit by bit.
const EQUAL_RUNS: usize = 3;

/// Numbers of a large input that are drawn; then they come again. A prime, so that no two rows or channels are alike.
const PERIOD: usize = 65_537;

/// An operator alone, on inputs of its own.
pub struct OneOperator {
    graph: Graph,
    /// The inputs, to be written before a run.
    pub inputs: Vec<ValueId>,
    /// The outputs, to be read after it.
    pub outputs: Vec<ValueId>,
}

impl OneOperator {
    /// An operator on inputs of these types and shapes.
    pub fn new(op: Arc<dyn Op>, inputs: impl IntoIterator<Item = Spec>) -> Result<Self, GraphError> {
        let mut graph = Graph::new();
        let inputs: Vec<ValueId> = inputs.into_iter().map(|spec| graph.input("x", spec)).collect();
        let outputs = graph.apply_shared(op, &inputs)?;
        for &y in &outputs {
            graph.output("y", y);
        }
        Ok(Self { graph, inputs, outputs })
    }

    /// What it costs.
    pub fn cost(&self) -> Cost {
        self.graph.cost()
    }

    /// Its algorithms, the rule's choice first.
    pub fn candidates(&self, caps: &Caps) -> Vec<Candidate> {
        let node = &self.graph.nodes[0];
        let (x, y) = self.graph.node_specs(node);
        node.op.candidates(&x, &y, caps)
    }

    /// One of its algorithms on a device.
    pub fn executable(&self, device: &Arc<Device>, candidate: &Candidate) -> Result<Executable, RunError> {
        let choose = |_, _| Some(candidate.clone());
        let plan = Plan::of_programs(self.graph.clone(), &device.caps, 0, choose)?;
        Ok(Executable::new(&Store::new(device), plan).block_on()?)
    }
}

/// What is known of the operators of a step on a device.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tuning {
    /// The algorithms to use.
    pub choices: Choices,
    /// Operators whose algorithm was kept from an earlier process, and whose values were compared again now.
    pub checked: usize,
    /// Operators that were measured now.
    pub measured: usize,
    /// Those of them whose fastest algorithm is not the rule's.
    pub changed: usize,
    /// Algorithms that were faster, or kept, and are not used, `conv2d by cooperative 16`: their results were not those of the rule's
    /// algorithm within both tolerances, or not the same bits in every run.
    pub refused: BTreeSet<String>,
    /// Seconds that it took.
    pub seconds: f64,
}

/// Chooses an algorithm for every operator of these plans that has several, and keeps the choices in the folder `cache`, where they
/// are found the next time. Before it measures, it calls `begin` with the number of operators that it knows nothing of.
///
/// A choice that is found there and is not the rule's is used if its values are right now too, on this device and with these
/// kernels: they are compared once in a process.
///
/// # Errors
/// A device that fails. An algorithm that does not run on it is left out.
pub fn tune(
    device: &Arc<Device>,
    plans: &[&Plan],
    effort: Effort,
    cache: Option<&Path>,
    begin: &mut dyn FnMut(usize),
) -> Result<Tuning, RunError> {
    if effort == Effort::Off {
        return Ok(Tuning::default());
    }
    let start = Instant::now();
    let file = cache.map(|folder| folder.join(Kept::name(device, effort)));
    let known = file.as_deref().and_then(Kept::read).unwrap_or_default();
    let mut tuning = Tuning::default();
    let mut unknown = Vec::new();
    for question in Question::all(plans, device) {
        match known.get(&question.key) {
            Some(algorithm) => {
                let right = question.checked(device, algorithm, &mut tuning)?;
                tuning.choices.insert(question.key, right);
            }
            None => unknown.push(question),
        }
    }
    let is_news = !unknown.is_empty() || !tuning.refused.is_empty();
    if !unknown.is_empty() {
        begin(unknown.len());
    }
    for some in unknown.chunks(TOGETHER) {
        if start.elapsed() < effort.limit() {
            let candidates = some.iter().flat_map(|question| &question.candidates);
            device.compile_together(candidates.flat_map(|candidate| &candidate.program.dispatches));
        }
        for question in some {
            let of_rule = question.candidates[0].algorithm;
            let mut fastest = of_rule;
            if start.elapsed() < effort.limit() {
                fastest = question.fastest(device, &mut tuning.refused)?;
                tuning.measured += 1;
                tuning.changed += usize::from(fastest != of_rule);
            }
            // Also where the time was over, so that the next run does not begin again.
            tuning.choices.insert(question.key.clone(), fastest);
        }
    }
    tuning.seconds = start.elapsed().as_secs_f64();
    if let (Some(file), true) = (file, is_news) {
        // What cannot be kept is measured again.
        let _ = Kept::write(&file, known, &tuning.choices);
    }
    Ok(tuning)
}

/// Algorithms that were found to be right in this process, [`Question::fact`].
fn right_ones() -> MutexGuard<'static, BTreeSet<String>> {
    static RIGHT: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    RIGHT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An operator of a step, and how it may be computed.
struct Question {
    key: String,
    op: Arc<dyn Op>,
    inputs: Vec<Spec>,
    candidates: Vec<Candidate>,
}

impl Question {
    /// Each operator with several algorithms once, those with the most arithmetic in a step first.
    fn all(plans: &[&Plan], device: &Device) -> Vec<Self> {
        let mut found: BTreeMap<String, (u64, Self)> = BTreeMap::new();
        for plan in plans {
            for node in &plan.graph.nodes {
                let (inputs, outputs) = plan.graph.node_specs(node);
                let flops = node.op.cost(&inputs, &outputs).flops();
                let key = Choices::key(&*node.op, &inputs);
                if let Some((sum, _)) = found.get_mut(&key) {
                    *sum += flops;
                    continue;
                }
                let candidates = node.op.candidates(&inputs, &outputs, &device.caps);
                if candidates.len() > 1 {
                    let op = node.op.clone();
                    found.insert(key.clone(), (flops, Self { key, op, inputs, candidates }));
                }
            }
        }
        let mut all: Vec<(u64, Self)> = found.into_values().collect();
        all.sort_by_key(|(flops, _)| std::cmp::Reverse(*flops));
        all.into_iter().map(|(_, question)| question).collect()
    }

    /// The algorithm to use: the rule's, unless another is faster by [`GAIN`] and gives the same values. Names of those that do not
    /// go to `refused`.
    fn fastest(
        &self,
        device: &Arc<Device>,
        refused: &mut BTreeSet<String>,
    ) -> Result<&'static str, RunError> {
        let one = OneOperator::new(self.op.clone(), self.inputs.iter().cloned())?;
        let of_rule = &self.candidates[0];
        let mut fastest = of_rule.algorithm;
        let mut least = self.seconds(device, &one, of_rule, f64::INFINITY)?;
        let mut expected = None;
        for candidate in &self.candidates[1..] {
            let mut is_faster = || -> Result<bool, RunError> {
                let seconds = self.seconds(device, &one, candidate, least)?;
                if seconds >= least * GAIN {
                    return Ok(false);
                }
                // Only now, since reading results takes longer than the trial.
                let is_right = self.is_right(device, &one, candidate, &mut expected, refused)?;
                if is_right {
                    least = seconds;
                }
                Ok(is_right)
            };
            match is_faster() {
                Ok(true) => fastest = candidate.algorithm,
                Ok(false) => {}
                // A device that is lost fails every call from now on.
                Err(_) => device.check()?,
            }
        }
        Ok(fastest)
    }

    /// The algorithm that was kept, if its values are right; else the rule's.
    fn checked(
        &self,
        device: &Arc<Device>,
        kept: &str,
        tuning: &mut Tuning,
    ) -> Result<&'static str, RunError> {
        let of_rule = self.candidates[0].algorithm;
        let Some(candidate) = self.candidates[1..].iter().find(|candidate| candidate.algorithm == kept)
        else {
            return Ok(of_rule);
        };
        if right_ones().contains(&self.fact(device, candidate)) {
            return Ok(candidate.algorithm);
        }
        tuning.checked += 1;
        let one = OneOperator::new(self.op.clone(), self.inputs.iter().cloned())?;
        match self.is_right(device, &one, candidate, &mut None, &mut tuning.refused) {
            Ok(true) => Ok(candidate.algorithm),
            Ok(false) => Ok(of_rule),
            Err(_) => {
                device.check()?;
                Ok(of_rule)
            }
        }
    }

    /// Whether an algorithm gives what the rule's does, which goes to `expected`. The name of one that does not goes to `refused`,
    /// and one that does is known to be right from now on.
    fn is_right(
        &self,
        device: &Arc<Device>,
        one: &OneOperator,
        candidate: &Candidate,
        expected: &mut Option<Vec<Vec<u8>>>,
        refused: &mut BTreeSet<String>,
    ) -> Result<bool, RunError> {
        let expected = match expected {
            Some(expected) => expected,
            none => none.insert(self.results(device, one, &self.candidates[0], 1)?.swap_remove(0)),
        };
        let found = self.results(device, one, candidate, EQUAL_RUNS)?;
        let is_right = self.agree(one, candidate, expected, &found);
        if is_right {
            right_ones().insert(self.fact(device, candidate));
        } else {
            refused.insert(format!("{} by {}", self.op.name(), candidate.algorithm));
        }
        Ok(is_right)
    }

    /// What is known once an algorithm was found to be right.
    fn fact(&self, device: &Device, candidate: &Candidate) -> String {
        format!("{} by {} on {:?}", self.key, candidate.algorithm, device.info)
    }

    fn seconds(
        &self,
        device: &Arc<Device>,
        one: &OneOperator,
        candidate: &Candidate,
        to_beat: f64,
    ) -> Result<f64, RunError> {
        let executable = one.executable(device, candidate)?;
        self.write_inputs(one, &executable);
        let mut least = f64::INFINITY;
        for run in 0..WARMUP + RUNS {
            device.idle().block_on()?;
            let start = Instant::now();
            executable.run().block_on()?;
            device.idle().block_on()?;
            if run >= WARMUP {
                least = least.min(start.elapsed().as_secs_f64());
                if least > HOPELESS * to_beat {
                    break;
                }
            }
        }
        Ok(least)
    }

    /// The same numbers for every candidate and every run. Only one period of them is encoded: a tensor of 64 MiB took 0.3 s.
    fn write_inputs(&self, one: &OneOperator, executable: &Executable) {
        let mut rng = Philox::new(0, Stream::Cases, 0);
        for (&input, spec) in one.inputs.iter().zip(&self.inputs) {
            let mut number = || if spec.dtype == DType::U32 { 0.0 } else { rng.uniform(-1.0, 1.0) };
            let period: Vec<f64> = (0..spec.shape.elements().min(PERIOD)).map(|_| number()).collect();
            let mut bytes = spec.dtype.encode(&period);
            let (period, whole) = (bytes.len(), spec.bytes());
            bytes.reserve_exact(whole - period);
            while bytes.len() < whole {
                let more = period.min(whole - bytes.len());
                bytes.extend_from_within(..more);
            }
            executable.write_encoded(input, bytes);
        }
    }

    /// The outputs of so many runs, as they lie in memory.
    fn results(
        &self,
        device: &Arc<Device>,
        one: &OneOperator,
        candidate: &Candidate,
        runs: usize,
    ) -> Result<Vec<Vec<Vec<u8>>>, RunError> {
        let executable = one.executable(device, candidate)?;
        let overwrites = matches!(self.op.aliasing(), Aliasing::InPlace(_));
        let run = |number: usize| -> Result<Vec<Vec<u8>>, RunError> {
            if number == 0 || overwrites {
                self.write_inputs(one, &executable);
            }
            executable.run().block_on()?;
            let read = |&output| Ok(executable.read_encoded(output).block_on()?);
            one.outputs.iter().map(read).collect()
        };
        (0..runs).map(run).collect()
    }

    /// Whether every run gave the same bits, and values that differ from those of the rule's algorithm by no more than both may be
    /// off.
    fn agree(
        &self,
        one: &OneOperator,
        candidate: &Candidate,
        expected: &[Vec<u8>],
        found: &[Vec<Vec<u8>>],
    ) -> bool {
        let [a, b] = [candidate.tolerance, self.candidates[0].tolerance];
        let tolerance = Tolerance { absolute: a.absolute + b.absolute, relative: a.relative + b.relative };
        found[1..].iter().all(|run| *run == found[0])
            && one.outputs.iter().zip(expected).zip(&found[0]).all(|((&output, expected), found)| {
                let dtype = one.graph.spec(output).dtype;
                // The trial's numbers may be none that the operator is made for, such as a negative variance.
                let both = dtype.decode(expected).into_iter().zip(dtype.decode(found));
                let (expected, found): (Vec<f64>, Vec<f64>) =
                    both.filter(|(e, f)| !(e.is_nan() && f.is_nan())).unzip();
                tolerance.stored_as(dtype).compare(&found, &expected).excess <= 1.0
            })
    }
}

/// The file of choices of one device, driver and version of this program.
struct Kept;

impl Kept {
    fn name(device: &Device, effort: Effort) -> PathBuf {
        let info = &device.info;
        let of = format!("{} {} {} {effort:?}", info.name, info.backend, info.driver);
        format!("tuning-{}-{:08x}.json", env!("CARGO_PKG_VERSION"), crc32fast::hash(of.as_bytes())).into()
    }

    /// What a file holds; nothing if it is missing or damaged.
    fn read(file: &Path) -> Option<Choices> {
        serde_json::from_slice(&std::fs::read(file).ok()?).ok()
    }

    fn write(file: &Path, mut known: Choices, choices: &Choices) -> Option<()> {
        known.extend(choices);
        let text = serde_json::to_string_pretty(&known).ok()?;
        std::fs::create_dir_all(file.parent()?).ok()?;
        write_atomic(file, |out| out.write_all(text.as_bytes())).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_file_counts_as_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("kept").join("tuning.json");
        assert_eq!(Kept::read(&file), None);
        let mut known = Choices::default();
        known.insert("a".into(), "registers");
        let mut new = Choices::default();
        new.insert("b".into(), "workgroup");
        Kept::write(&file, known.clone(), &new).expect("written");
        known.extend(&new);
        assert_eq!(Kept::read(&file), Some(known));
        for damaged in ["", "{\"a\": \"regi", "[1]", "{\"a\": 1}"] {
            std::fs::write(&file, damaged).expect("written");
            assert_eq!(Kept::read(&file), None, "{damaged}");
        }
    }
}
