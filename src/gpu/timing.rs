//! When the launches of a run began and ended, by one of three clocks.

use super::{Device, GpuError};
use crate::graph::Features;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use web_time::Instant;

/// How launches are timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "kebab-case")]
pub enum Clock {
    /// A device timestamp after each launch, in the passes of an ordinary run.
    TimestampsInPasses,
    /// Device timestamps at the beginning and the end of a pass, which each launch has for itself.
    TimestampsPerPass,
    /// The host's clock: each launch is submitted and waited for alone.
    Waiting,
}

impl Clock {
    /// Every clock, the one that disturbs a run least first.
    pub const ALL: [Self; 3] = [Self::TimestampsInPasses, Self::TimestampsPerPass, Self::Waiting];

    /// Its name in flags and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::TimestampsInPasses => "timestamps-in-passes",
            Self::TimestampsPerPass => "timestamps-per-pass",
            Self::Waiting => "waiting",
        }
    }

    /// Whether a device of these features has it.
    pub fn suits(self, features: &Features) -> bool {
        match self {
            Self::TimestampsInPasses => features.timestamps_in_passes,
            Self::TimestampsPerPass => features.timestamps,
            Self::Waiting => true,
        }
    }
}

/// What wgpu allows in a set.
const QUERIES_PER_SET: usize = 4096;

/// The times of a run, which may still be on their way: [`Timing::read`] waits for them.
pub struct Timing {
    device: Arc<Device>,
    sets: Vec<wgpu::QuerySet>,
    resolved: Option<wgpu::Buffer>,
    /// The queries of the begin and the end of each launch.
    queries: Vec<[usize; 2]>,
    waited: Vec<[u64; 2]>,
    /// When the device was given the first of the work.
    pub first_submitted: Option<Instant>,
}

impl Timing {
    /// Room for so many timestamps.
    pub(super) fn of_timestamps(device: &Arc<Device>, queries: usize) -> Self {
        let sets = (0..queries.div_ceil(QUERIES_PER_SET))
            .map(|set| device.query_set((queries - set * QUERIES_PER_SET).min(QUERIES_PER_SET) as u32))
            .collect();
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        let resolved = (queries > 0).then(|| device.buffer("timestamps", 8 * queries as u64, usage));
        Self { sets, resolved, ..Self::of_waiting(device) }
    }

    /// Nothing yet.
    pub(super) fn of_waiting(device: &Arc<Device>) -> Self {
        let device = device.clone();
        Self {
            device,
            sets: Vec::new(),
            resolved: None,
            queries: Vec::new(),
            waited: Vec::new(),
            first_submitted: None,
        }
    }

    /// Notes which queries are those of the next launch.
    pub(super) fn launch(&mut self, begin: usize, end: usize) {
        self.queries.push([begin, end]);
    }

    /// Where a query lies: its set, and its place there.
    pub(super) fn query(&self, number: usize) -> (&wgpu::QuerySet, u32) {
        (&self.sets[number / QUERIES_PER_SET], (number % QUERIES_PER_SET) as u32)
    }

    /// Collects the timestamps, after the last launch.
    pub(super) fn resolve(&self, encoder: &mut wgpu::CommandEncoder) {
        let Some(resolved) = &self.resolved else { return };
        let queries = (resolved.size() / 8) as usize;
        for (i, set) in self.sets.iter().enumerate() {
            let count = (queries - i * QUERIES_PER_SET).min(QUERIES_PER_SET);
            encoder.resolve_query_set(set, 0..count as u32, resolved, 8 * (i * QUERIES_PER_SET) as u64);
        }
    }

    /// A launch that was waited for, right after the one before.
    pub(super) fn waited_for(&mut self, seconds: f64) {
        let begin = self.waited.last().map_or(0, |[_, end]| *end);
        self.waited.push([begin, begin + (seconds * 1e9) as u64]);
    }

    /// Waits, and reads when each launch began and ended: ticks of the device's clock, or of a clock that stands still between
    /// launches that were waited for; and the seconds of a tick.
    pub async fn read(self) -> Result<(Vec<[u64; 2]>, f64), GpuError> {
        let Some(resolved) = &self.resolved else { return Ok((self.waited, 1e-9)) };
        let words = self.device.read_words(resolved, 0, resolved.size()).await?;
        let tick = |query: usize| u64::from(words[2 * query]) | u64::from(words[2 * query + 1]) << 32;
        let ticks = self.queries.iter().map(|queries| queries.map(tick)).collect();
        Ok((ticks, self.device.tick_seconds()))
    }
}
