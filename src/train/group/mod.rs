//! The processes that train one model together: ranks, each with a device and with its share of every step's pictures.
//!
//! Whatever they compute together is what one process computes alone: numbers are summed in the order of the micro-batches,
//! whose pictures and noises are addressed by their number and not by who has them. Without the feature `mpi`, and without a
//! launcher, a group is one process.

mod launcher;
#[cfg_attr(not(feature = "mpi"), path = "no_link.rs")]
mod link;
#[cfg(feature = "mpi")]
mod mpi;
#[cfg(feature = "mpi")]
mod peers;
#[cfg(feature = "mpi")]
mod watch;
#[cfg(feature = "mpi")]
mod worker;

use link::Link;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Why processes cannot train together.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// Started several times, and nobody knows of the others.
    #[error(
        "{variable} says that this is one of {announced} processes, but {found}: each would train a run of its own. \
         {remedy}; or give --alone if that is what is wanted"
    )]
    WrongLauncher {
        /// The variable of the environment.
        variable: &'static str,
        /// What it says.
        announced: usize,
        /// What is so.
        found: String,
        /// What to change.
        remedy: &'static str,
    },
    /// MPI does not start.
    #[error("MPI does not start: {0}")]
    Start(String),
    /// The processes were not given the same.
    #[error(
        "rank {rank} has another {what} than rank 0: {there}, where rank 0 has {here}. Start all ranks with the same program, \
         flags, files and pictures"
    )]
    Differs {
        /// Who.
        rank: usize,
        /// What.
        what: &'static str,
        /// What it has.
        there: String,
        /// What rank 0 has.
        here: String,
    },
    /// The micro-batches of a step cannot be shared out.
    #[error(
        "accumulate: found {accumulate} micro-batches per step for {ranks} ranks, each of which takes as many; give --accumulate \
         {next}, or another multiple of {ranks}, and --batch by how many pictures a step is to have"
    )]
    Share {
        /// Micro-batches of a step.
        accumulate: u32,
        /// Ranks.
        ranks: u32,
        /// The next larger number that can be shared.
        next: u32,
    },
}

/// Prints a line, whole.
pub type Tell = fn(&str);

/// This process among those that train together; clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// None for one that trains alone.
    link: Option<Arc<Link>>,
    course: Arc<Course>,
}

/// How a run goes, as far as the ranks tell each other.
#[derive(Debug, Default)]
struct Course {
    /// Nanoseconds in which the sums of steps were waited for.
    waited: AtomicU64,
    /// Whether this rank asks for an early end.
    asks: AtomicBool,
    /// Whether any did before the last step.
    stops: AtomicBool,
}

/// Which of a step's micro-batches a sum is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Round {
    /// Whether nothing was summed before.
    pub first: bool,
    /// Whether the sum is wanted.
    pub last: bool,
}

impl Round {
    /// Of one alone.
    pub const ONLY: Self = Self { first: true, last: true };
}

/// Numbers of a bucket, at most: 4 MiB, of which a rank's share is still 4 KiB among 1024.
const BUCKET: usize = 1 << 20;
/// And at least, but for the last: what is smaller costs no less time.
const SMALL_BUCKET: usize = 1 << 12;
/// Buckets that a vector is cut into, unless they would be too large or too small: enough for most of them to be summed while
/// the rest is computed.
const BUCKETS: usize = 16;

/// Sums under way. Every rank begins the same ones in the same order.
pub struct Sums<'g> {
    group: &'g Group,
    round: Round,
    begun: Vec<(Range<usize>, link::Sum)>,
}

impl Sums<'_> {
    /// Begins to sum a bucket, whose elements these are in a larger whole, over the ranks.
    pub fn begin(&mut self, elements: Range<usize>, values: Vec<f32>) {
        if let Some(link) = &self.group.link {
            let sum = link.begin_sum(self.begun.len(), values, self.round);
            self.begun.push((elements, sum));
        }
    }

    /// Waits for the sums of the last round, and gives them. Those of the others stay with the ranks, and are exchanged while
    /// the next micro-batch is computed.
    pub fn finish(self, place: impl FnMut(Range<usize>, &[f32])) {
        let waited = &self.group.course.waited;
        let nanoseconds = u64::try_from(self.collect(place).as_nanos()).unwrap_or(u64::MAX);
        waited.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// The same, with the time that was waited.
    fn collect(self, mut place: impl FnMut(Range<usize>, &[f32])) -> Duration {
        let mut waited = Duration::ZERO;
        let Some(link) = self.group.link.as_ref().filter(|_| self.round.last) else { return waited };
        for (elements, sum) in self.begun {
            let start = Instant::now();
            let sum = link.finish_sum(sum);
            waited += start.elapsed();
            place(elements, &sum);
        }
        waited
    }
}

impl Group {
    /// One process.
    pub fn alone() -> Self {
        Self::default()
    }

    /// Those that the same launcher has started. A rank that is not heard of for `limit` ends the job; `tell` is given the lines
    /// that then say who is missing.
    ///
    /// # Errors
    /// A launcher that has started several processes that cannot find each other.
    pub fn join(limit: Duration, tell: Tell) -> Result<Self, GroupError> {
        match launcher::announced(|name| std::env::var(name).ok()) {
            None => Ok(Self::alone()),
            Some((variable, announced)) => {
                let link = Link::join(variable, announced, limit, tell)?.map(Arc::new);
                Ok(Self { link, ..Self::default() })
            }
        }
    }

    /// The number of this process, from 0.
    pub fn rank(&self) -> usize {
        self.link.as_ref().map_or(0, |link| link.rank())
    }

    /// How many there are.
    pub fn size(&self) -> usize {
        self.link.as_ref().map_or(1, |link| link.size())
    }

    /// Processes of the group on this machine with lower numbers.
    pub fn local_rank(&self) -> usize {
        self.link.as_ref().map_or(0, |link| link.local_rank())
    }

    /// Whether this is the process that writes and tells.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// Micro-batches that each rank takes of a step of so many.
    ///
    /// # Errors
    /// They are no multiple of the ranks.
    pub fn rounds(&self, accumulate: u32) -> Result<u32, GroupError> {
        let ranks = u32::try_from(self.size()).unwrap_or(u32::MAX);
        if accumulate.is_multiple_of(ranks) {
            return Ok(accumulate / ranks);
        }
        Err(GroupError::Share { accumulate, ranks, next: accumulate.next_multiple_of(ranks) })
    }

    /// Begins sums over all ranks, in which a number is added in the order of the ranks on to what the rounds before left.
    pub fn sums(&self, round: Round) -> Sums<'_> {
        Sums { group: self, round, begun: Vec::new() }
    }

    /// Numbers of a bucket, for a vector of so many.
    pub fn bucket(elements: usize) -> usize {
        elements.div_ceil(BUCKETS).clamp(SMALL_BUCKET, BUCKET)
    }

    /// How long this rank has waited for the sums of steps since it joined; `None` if it is alone.
    pub fn waited(&self) -> Option<Duration> {
        self.link.as_ref().map(|_| Duration::from_nanos(self.course.waited.load(Ordering::Relaxed)))
    }

    /// Puts the sum over all ranks in the place of each number, added in the order of the ranks.
    pub fn sum(&self, values: &mut [f32]) {
        if self.link.is_none() {
            return;
        }
        let mut sums = self.sums(Round::ONLY);
        let mut first = 0;
        for part in values.chunks(BUCKET) {
            sums.begin(first..first + part.len(), part.to_vec());
            first += part.len();
        }
        sums.collect(|elements, sum| values[elements].copy_from_slice(sum));
    }

    /// Asks for an early end, which all ranks learn of with the sums of the next step.
    pub fn ask_to_stop(&self, asks: bool) {
        self.course.asks.store(asks, Ordering::Relaxed);
    }

    /// Whether a rank had asked for an early end before the last step.
    pub fn stops(&self) -> bool {
        self.course.stops.load(Ordering::Relaxed)
    }

    /// A 1 that is summed with a step where this rank asks for an end, and what became of it.
    pub(super) fn asks(&self) -> f32 {
        f32::from(self.course.asks.load(Ordering::Relaxed))
    }

    pub(super) fn learn(&self, asking: f32) {
        self.course.stops.store(asking > 0.0, Ordering::Relaxed);
    }

    /// What the first rank makes, for all.
    ///
    /// # Errors
    /// Of the first rank. The others learn of it when it calls [`Group::fail`], and do not return.
    pub fn share<T: Serialize + DeserializeOwned, E>(
        &self,
        make: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let Some(link) = &self.link else { return make() };
        if self.is_first() {
            let made = make()?;
            link.broadcast(serde_json::to_vec(&made).expect("what ranks share has a text"));
            return Ok(made);
        }
        let text = link.broadcast(Vec::new());
        Ok(serde_json::from_slice(&text).expect("ranks of one version write and read the same"))
    }

    /// The first rank's numbers, for all. The others give empty ones.
    pub fn share_numbers(&self, numbers: &mut Vec<f32>) {
        let Some(link) = &self.link else { return };
        let bytes = if self.is_first() { bytemuck::cast_slice(numbers).to_vec() } else { Vec::new() };
        let bytes = link.broadcast(bytes);
        if !self.is_first() {
            *numbers = bytemuck::pod_collect_to_vec(&bytes);
        }
    }

    /// Checks that every rank has the same, in as many lines.
    ///
    /// # Errors
    /// [`GroupError::Differs`] with the first line that does, on every rank.
    pub fn agree(&self, what: &'static str, mine: &str) -> Result<(), GroupError> {
        let Some(link) = &self.link else { return Ok(()) };
        let all = link.exchange(mine.as_bytes().to_vec());
        let text = |rank: usize| String::from_utf8_lossy(&all[rank]).into_owned();
        let first = text(0);
        let Some(rank) = (1..all.len()).find(|&rank| all[rank] != all[0]) else { return Ok(()) };
        let other = text(rank);
        let (mut there, mut here) = (other.lines(), first.lines());
        let (there, here) = loop {
            match (there.next(), here.next()) {
                (Some(there), Some(here)) if there == here => {}
                (there, here) => break (there.unwrap_or("nothing").into(), here.unwrap_or("nothing").into()),
            }
        };
        Err(GroupError::Differs { rank, what, there, here })
    }

    /// What the ranks compute on, given the name of this one's device; nothing of one that is alone.
    pub fn devices(&self, name: &str) -> Option<String> {
        let link = self.link.as_ref()?;
        let mut counts = BTreeMap::new();
        for name in link.exchange(name.as_bytes().to_vec()) {
            *counts.entry(String::from_utf8_lossy(&name).into_owned()).or_insert(0usize) += 1;
        }
        let differ = if counts.len() > 1 {
            ". Different devices may round differently; where the weights come apart, the run ends"
        } else {
            ""
        };
        let each: Vec<String> = counts.iter().map(|(name, count)| format!("{count} x {name}")).collect();
        Some(format!("{} ranks train together, on {}{differ}", self.size(), each.join(", ")))
    }

    /// Waits until every rank is here, or one fails.
    pub fn wait(&self) {
        if let Some(link) = &self.link {
            link.exchange(Vec::new());
        }
    }

    /// Says why this rank cannot go on, also to the others, and ends the job. Returns only to a process that is alone.
    pub fn fail(&self, why: &str) {
        if let Some(link) = &self.link {
            link.fail(why);
        }
    }

    /// Leaves in order, once all ranks do.
    pub fn finish(&self) {
        if let Some(link) = &self.link {
            link.finish();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn micro_batches_are_shared_out_whole() {
        assert_eq!(Group::alone().rounds(3).unwrap(), 3);
        let e = GroupError::Share { accumulate: 3, ranks: 2, next: 4 }.to_string();
        assert!(
            e.contains("found 3 micro-batches per step for 2 ranks") && e.contains("--accumulate 4"),
            "{e}"
        );
    }
}
