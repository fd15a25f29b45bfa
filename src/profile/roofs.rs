//! What the device reaches in the simplest kernels there are.

use super::measure::spans;
use super::{Limit, ProfileError};
use crate::gpu::{Blocking as _, Clock, Device, Executable, Store};
use crate::graph::{Graph, Plan, ValueId};
use crate::ops::{CopyCeiling, FmaCeiling};
use crate::tensor::Spec;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Instant;

/// The bounds that kernels are held against.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Roofs {
    /// Floating-point operations per second of independent f32 multiply-adds in registers, two each: the best of many runs.
    pub flops_per_s: f64,
    /// Bytes per second of a copy by vec4, read plus written: the best of many runs.
    pub bytes_per_s: f64,
    /// Seconds that a launch adds to a run that copies 1 KiB again and again: what a launch takes that does next to nothing.
    pub launch_seconds: f64,
    /// Seconds that timing such a launch adds to it, by the clock of the profile.
    pub clock_seconds: f64,
}

/// Runs of each kernel.
const RUNS: usize = 24;

impl Roofs {
    /// By the best clock that the device has.
    pub fn best(device: &Arc<Device>) -> Result<Self, ProfileError> {
        let clock = Clock::ALL.into_iter().find(|clock| clock.suits(&device.caps.features));
        Self::measure(device, clock.unwrap_or(Clock::Waiting))
    }

    /// Runs the three kernels.
    pub fn measure(device: &Arc<Device>, clock: Clock) -> Result<Self, ProfileError> {
        let cpu = device.info.kind == "cpu";
        // Long enough to swamp the launch (a few ms), short enough for a CPU driver.
        let fma = FmaCeiling {
            invocations: if cpu { 1 << 12 } else { 1 << 18 },
            rounds: if cpu { 2_000 } else { 8_000 },
        };
        let elements = if cpu { 8 << 20 } else { 32 << 20 };
        let flops = fma.flops() as f64;

        let [short, long] = [64, 512];
        let chain = |launches: usize| -> Result<Executable, ProfileError> {
            let mut graph = Graph::new();
            let mut x = graph.input("x", Spec::f32([256]));
            for _ in 0..launches {
                x = graph.apply(CopyCeiling, &[x])?;
            }
            executable(device, graph, x)
        };
        let (short_chain, long_chain) = (chain(short)?, chain(long)?);
        // By the host's clock: the way to the device and back is in both.
        let wall = |chain: &Executable| -> Result<f64, ProfileError> {
            let start = Instant::now();
            chain.run().block_on()?;
            device.idle().block_on()?;
            Ok(start.elapsed().as_secs_f64())
        };
        // The shortest runs, which other work on the machine has left alone.
        let (mut walls, mut timed) = ([f64::INFINITY; 2], f64::INFINITY);
        for _ in 0..=RUNS {
            walls = [walls[0].min(wall(&short_chain)?), walls[1].min(wall(&long_chain)?)];
            timed = timed.min(timed_once(&long_chain, clock)?.last().map_or(0.0, |[_, end]| *end));
        }
        let launch_seconds = ((walls[1] - walls[0]) / (long - short) as f64).max(0.0);
        let clock_seconds = (timed / long as f64 - launch_seconds).max(0.0);

        let best = |graph, y, name: &'static str| -> Result<f64, ProfileError> {
            let executable = executable(device, graph, y)?;
            let mut best = f64::INFINITY;
            for _ in 0..=RUNS {
                let spans = timed_once(&executable, clock)?;
                best = best.min(spans.last().map_or(0.0, |[_, end]| *end) - clock_seconds - launch_seconds);
            }
            if best > 0.0 {
                return Ok(best);
            }
            Err(ProfileError::Clock {
                device: device.info.name.clone(),
                clock: clock.name(),
                reason: format!("{name} took no time by it"),
            })
        };
        let mut graph = Graph::new();
        let x = graph.input("x", Spec::f32([1]));
        let y = graph.apply(fma, &[x])?;
        let flops_per_s = flops / best(graph, y, "multiply-adds")?;
        let mut graph = Graph::new();
        let x = graph.input("x", Spec::f32([elements]));
        let y = graph.apply(CopyCeiling, &[x])?;
        let bytes_per_s = 8.0 * elements as f64 / best(graph, y, "a copy")?;
        Ok(Self { flops_per_s, bytes_per_s, launch_seconds, clock_seconds })
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

fn executable(device: &Arc<Device>, mut graph: Graph, y: ValueId) -> Result<Executable, ProfileError> {
    graph.output("y", y);
    Ok(Executable::new(&Store::new(device), Plan::new(graph, &device.caps)?).block_on()?)
}

/// When each launch of a run began and ended.
fn timed_once(executable: &Executable, clock: Clock) -> Result<Vec<[f64; 2]>, ProfileError> {
    let (ticks, tick_seconds) = executable.run_timed(clock).block_on()?.read().block_on()?;
    Ok(spans(&ticks, tick_seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longer_of_two_times_is_the_roof() {
        let roofs = Roofs { flops_per_s: 1e12, bytes_per_s: 1e11, launch_seconds: 4e-6, clock_seconds: 0.0 };
        assert_eq!(roofs.seconds(2_000_000_000, 1_000_000), 2e-3);
        assert_eq!(roofs.limit(2_000_000_000, 1_000_000), Limit::Arithmetic);
        assert_eq!(roofs.seconds(1_000_000, 100_000_000), 1e-3);
        assert_eq!(roofs.limit(1_000_000, 100_000_000), Limit::Bandwidth);
        assert_eq!(roofs.limit(1000, 1000), Limit::Launch);
        assert_eq!(roofs.limit(0, 0), Limit::Launch);
    }
}
