//! What the device reaches in the simplest kernels there are.

use super::measure::spans;
use super::{Limit, ProfileError};
use crate::gpu::{Blocking as _, Clock, Device, Executable, Store};
use crate::graph::{Graph, Op, Plan, ValueId};
use crate::ops::{CopyCeiling, FmaCeiling, MatrixCeiling, ShuffleCeiling, WorkgroupCeiling};
use crate::tensor::{DType, Spec};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The bounds that kernels are held against, and what else the device reaches: the best of many runs.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(Default))]
pub struct Roofs {
    /// Floating-point operations per second of independent f32 multiply-adds in registers, two each.
    pub flops_per_s: f64,
    /// Bytes per second of a copy by vec4, read plus written.
    pub bytes_per_s: f64,
    /// The same as `flops_per_s` in f16, where shaders have it.
    #[serde(default)]
    pub f16_flops_per_s: Option<f64>,
    /// Numbers of 32 bits per second that invocations of a subgroup take over from each other, where shaders may.
    #[serde(default)]
    pub subgroup_shuffles_per_s: Option<f64>,
    /// Bytes per second read from workgroup memory by vec4. None in profiles of older versions.
    #[serde(default)]
    pub workgroup_bytes_per_s: Option<f64>,
    /// Floating-point operations per second of matrix units, from tiles of f16 to sums of f32, where shaders have them.
    #[serde(default)]
    pub matrix_flops_per_s: Option<f64>,
    /// Seconds that a launch adds to a run that copies 1 KiB again and again: what a launch takes that does next to nothing.
    pub launch_seconds: f64,
    /// Seconds that timing such a launch adds to it, by the clock of the profile.
    pub clock_seconds: f64,
}

/// Each kernel is run in so many short bursts, in turns with the others.
pub(super) const BURSTS: usize = 12;

/// Runs of a burst, a few ms together.
const RUNS: usize = 3;

/// What passes before a burst: all of them spread over 0.4 s and more, as other work may hold half of the cores for longer than a
/// burst, and a system is quick to give cores to threads that have slept. On two cores with as many compilers, three bests of
/// five were within 5 per cent of an idle machine's and two at half of it; without pauses, one of four was.
const PAUSE: Duration = Duration::from_millis(10);

/// A kernel whose speed is a roof.
struct Ceiling {
    name: &'static str,
    /// What a run does, in the unit of its roof.
    work: f64,
    executable: Executable,
    /// Seconds of the shortest run.
    best: f64,
}

impl Ceiling {
    fn new(
        device: &Arc<Device>,
        name: &'static str,
        op: impl Op + 'static,
        inputs: &[Spec],
        work: u64,
    ) -> Result<Self, ProfileError> {
        let mut graph = Graph::new();
        let inputs: Vec<ValueId> = inputs.iter().map(|spec| graph.input("x", spec.clone())).collect();
        let y = graph.apply(op, &inputs)?;
        Ok(Self { name, work: work as f64, executable: executable(device, graph, y)?, best: f64::INFINITY })
    }

    /// Work per second, less what a launch and its timing take.
    fn per_second(&self, overhead: f64, device: &Device, clock: Clock) -> Result<f64, ProfileError> {
        let seconds = self.best - overhead;
        if seconds > 0.0 {
            return Ok(self.work / seconds);
        }
        Err(ProfileError::Clock {
            device: device.info.name.clone(),
            clock: clock.name(),
            reason: format!("{} took no time by it", self.name),
        })
    }
}

impl Roofs {
    /// By the best clock that the device has.
    pub fn best(device: &Arc<Device>) -> Result<Self, ProfileError> {
        let clock = Clock::ALL.into_iter().find(|clock| clock.suits(&device.caps.features));
        Self::measure(device, clock.unwrap_or(Clock::Waiting), BURSTS)
    }

    /// Runs every kernel that the device can run, in turns, each in so many bursts.
    pub fn measure(device: &Arc<Device>, clock: Clock, bursts: usize) -> Result<Self, ProfileError> {
        let [mut fma, mut copy, mut workgroup] = ceilings(device)?;
        let [mut half, mut shuffle, mut matrix] = optional_ceilings(device)?;
        let [short, long] = [64, 512];
        let (short_chain, long_chain) = (chain(device, short)?, chain(device, long)?);
        // By the host's clock: the way to the device and back is in both.
        let wall = |chain: &Executable| -> Result<f64, ProfileError> {
            let start = Instant::now();
            chain.run().block_on()?;
            device.idle().block_on()?;
            Ok(start.elapsed().as_secs_f64())
        };

        // The shortest runs, which other work on the machine has left alone.
        let (mut walls, mut timed) = ([f64::INFINITY; 2], f64::INFINITY);
        for _ in 0..bursts {
            for _ in 0..RUNS {
                walls = [walls[0].min(wall(&short_chain)?), walls[1].min(wall(&long_chain)?)];
                timed = timed.min(timed_once(&long_chain, clock)?);
            }
            let optional = [&mut half, &mut shuffle, &mut matrix].into_iter().flatten();
            for ceiling in [&mut fma, &mut copy, &mut workgroup].into_iter().chain(optional) {
                std::thread::sleep(PAUSE);
                for _ in 0..RUNS {
                    ceiling.best = ceiling.best.min(timed_once(&ceiling.executable, clock)?);
                }
            }
        }

        let launch_seconds = ((walls[1] - walls[0]) / (long - short) as f64).max(0.0);
        let clock_seconds = (timed / long as f64 - launch_seconds).max(0.0);
        let speed = |ceiling: &Ceiling| ceiling.per_second(launch_seconds + clock_seconds, device, clock);
        let optional = |ceiling: &Option<Ceiling>| ceiling.as_ref().map(speed).transpose();
        Ok(Self {
            flops_per_s: speed(&fma)?,
            bytes_per_s: speed(&copy)?,
            f16_flops_per_s: optional(&half)?,
            subgroup_shuffles_per_s: optional(&shuffle)?,
            workgroup_bytes_per_s: Some(speed(&workgroup)?),
            matrix_flops_per_s: optional(&matrix)?,
            launch_seconds,
            clock_seconds,
        })
    }

    /// Those beside f32 multiply-adds and the copy that there are, in words.
    pub fn others(&self) -> Vec<String> {
        [
            (self.f16_flops_per_s, "GFLOP/s of f16 multiply-adds"),
            (self.matrix_flops_per_s, "GFLOP/s of matrix units"),
            (self.workgroup_bytes_per_s, "GB/s read from workgroup memory"),
            (self.subgroup_shuffles_per_s, "G shuffles/s in subgroups"),
        ]
        .into_iter()
        .filter_map(|(roof, words)| Some(format!("{:.1} {words}", roof? * 1e-9)))
        .collect()
    }

    /// The seconds that this work takes at the roof: of the arithmetic or of the traffic, whichever takes longer.
    pub fn seconds(&self, flops: u64, bytes: u64) -> f64 {
        (flops as f64 / self.flops_per_s).max(bytes as f64 / self.bytes_per_s)
    }

    /// What bounds a launch of this work.
    pub fn limit(&self, flops: u64, bytes: u64) -> Limit {
        if self.seconds(flops, bytes) < self.launch_seconds {
            Limit::Launch
        } else if flops as f64 / self.flops_per_s >= bytes as f64 / self.bytes_per_s {
            Limit::Arithmetic
        } else {
            Limit::Bandwidth
        }
    }
}

/// Multiply-adds, a copy, and reads of workgroup memory.
fn ceilings(device: &Arc<Device>) -> Result<[Ceiling; 3], ProfileError> {
    let (invocations, rounds) = size(device);
    let elements = if is_cpu(device) { 8 << 20 } else { 32 << 20 };
    let fma = FmaCeiling { invocations, rounds };
    let workgroup = WorkgroupCeiling { invocations, rounds };
    let (flops, bytes) = (fma.flops(), workgroup.bytes());
    let tile = Spec::f32([WorkgroupCeiling::ELEMENTS]);
    Ok([
        Ceiling::new(device, "multiply-adds", fma, &[Spec::f32([1])], flops)?,
        Ceiling::new(device, "a copy", CopyCeiling, &[Spec::f32([elements])], 8 * elements as u64)?,
        Ceiling::new(device, "reads of workgroup memory", workgroup, &[tile], bytes)?,
    ])
}

/// Multiply-adds in f16, shuffles, and matrix units, where the device has them.
fn optional_ceilings(device: &Arc<Device>) -> Result<[Option<Ceiling>; 3], ProfileError> {
    let features = &device.caps.features;
    let (invocations, rounds) = size(device);
    let half = || {
        let fma = FmaCeiling { invocations, rounds };
        let flops = fma.flops();
        Ceiling::new(device, "f16 multiply-adds", fma, &[Spec::new([1], DType::F16)], flops)
    };
    let shuffle = |(least, _): (u32, u32)| {
        let op = ShuffleCeiling { lanes: (least as usize).min(ShuffleCeiling::MOST_LANES), rounds };
        let shuffles = op.shuffles(invocations);
        Ceiling::new(device, "shuffles", op, &[Spec::u32([invocations])], shuffles)
    };
    let matrix = |side| {
        let (workgroups, rounds) = if is_cpu(device) { (16, 32) } else { (1024, 2000) };
        let op = MatrixCeiling { workgroups, rounds };
        let flops = op.flops(side);
        Ceiling::new(device, "products of matrix units", op, &MatrixCeiling::inputs(side), flops)
    };
    Ok([
        features.f16.then(half).transpose()?,
        // Drivers that do not tell the size say 0.
        features.subgroups.filter(|(least, _)| *least > 1).map(shuffle).transpose()?,
        MatrixCeiling::largest_side(&device.caps).map(matrix).transpose()?,
    ])
}

fn is_cpu(device: &Device) -> bool {
    device.info.kind == "cpu"
}

/// Invocations, and links of each: long enough to swamp the launch (a few ms), short enough for a CPU driver.
fn size(device: &Device) -> (usize, usize) {
    if is_cpu(device) { (1 << 12, 1_000) } else { (1 << 18, 8_000) }
}

/// So many launches, one after the other, that copy 1 KiB.
fn chain(device: &Arc<Device>, launches: usize) -> Result<Executable, ProfileError> {
    let mut graph = Graph::new();
    let mut x = graph.input("x", Spec::f32([256]));
    for _ in 0..launches {
        x = graph.apply(CopyCeiling, &[x])?;
    }
    executable(device, graph, x)
}

fn executable(device: &Arc<Device>, mut graph: Graph, y: ValueId) -> Result<Executable, ProfileError> {
    graph.output("y", y);
    Ok(Executable::new(&Store::new(device), Plan::new(graph, &device.caps)?).block_on()?)
}

/// Seconds until the last launch of a run has ended.
fn timed_once(executable: &Executable, clock: Clock) -> Result<f64, ProfileError> {
    let (ticks, tick_seconds) = executable.run_timed(clock).block_on()?.read().block_on()?;
    Ok(spans(&ticks, tick_seconds).last().map_or(0.0, |[_, end]| *end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longer_of_two_times_is_the_roof() {
        let roofs = Roofs { flops_per_s: 1e12, bytes_per_s: 1e11, launch_seconds: 4e-6, ..Roofs::default() };
        assert_eq!(roofs.seconds(2_000_000_000, 1_000_000), 2e-3);
        assert_eq!(roofs.limit(2_000_000_000, 1_000_000), Limit::Arithmetic);
        assert_eq!(roofs.seconds(1_000_000, 100_000_000), 1e-3);
        assert_eq!(roofs.limit(1_000_000, 100_000_000), Limit::Bandwidth);
        assert_eq!(roofs.limit(1000, 1000), Limit::Launch);
        assert_eq!(roofs.limit(0, 0), Limit::Launch);
    }

    #[test]
    fn a_roof_that_was_not_measured_is_none() {
        let old =
            r#"{"flops_per_s": 1e12, "bytes_per_s": 1e11, "launch_seconds": 4e-6, "clock_seconds": 1e-6}"#;
        let mut roofs: Roofs = serde_json::from_str(old).unwrap();
        assert_eq!(roofs.others(), [""; 0]);
        roofs.workgroup_bytes_per_s = Some(1.25e12);
        roofs.f16_flops_per_s = Some(2e12);
        assert_eq!(
            roofs.others(),
            ["2000.0 GFLOP/s of f16 multiply-adds", "1250.0 GB/s read from workgroup memory"]
        );
    }
}
