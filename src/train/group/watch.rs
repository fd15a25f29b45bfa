//! The thread of a link: whether the others live, and how a job ends when one does not.

use super::Tell;
use super::mpi::{Mpi, exit_now};
use super::worker::Worker;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Exit code of a job that a missing rank has ended: the EX_TEMPFAIL of sysexits.h, "try again".
const MISSING: u8 = 75;
/// Exit code of a job that a rank has ended by an error.
pub(super) const FAILED: u8 = 1;

const BEAT: i32 = 5;
const NOTICE: i32 = 6;

/// Between two beats, and between two looks at the processes of this machine.
const BEAT_EVERY: Duration = Duration::from_secs(1);
/// Between two looks for beats and notices.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(10);
/// What the others are given to read a notice, before MPI_Abort ends them.
pub(super) const LAST_WORDS: Duration = Duration::from_millis(1500);

/// When the thread of the link was last seen at work: MPI itself may hang.
#[derive(Clone)]
pub(super) struct Pulse {
    start: Instant,
    seconds: Arc<AtomicU64>,
    ends: Arc<AtomicBool>,
}

impl Pulse {
    pub fn new() -> Self {
        Self { start: Instant::now(), seconds: Arc::default(), ends: Arc::default() }
    }

    /// MPI is left.
    pub fn end(&self) {
        self.ends.store(true, Ordering::Relaxed);
    }

    pub fn beat(&self) {
        self.seconds.store(self.start.elapsed().as_secs(), Ordering::Relaxed);
    }

    /// Ends the process if there was no beat for longer than the limit.
    pub fn guard(self, rank: usize, limit: Duration, tell: Tell) {
        thread::spawn(move || {
            let mut before = 0;
            let mut still = Duration::ZERO;
            while !self.ends.load(Ordering::Relaxed) {
                thread::sleep(BEAT_EVERY);
                let now = self.seconds.load(Ordering::Relaxed);
                still = if now == before { still + BEAT_EVERY } else { Duration::ZERO };
                before = now;
                if still > limit + limit / 2 {
                    let silent = still.as_secs();
                    tell(&format!(
                        "error: rank {rank}: a call of MPI has not returned for {silent} s; a rank is missing"
                    ));
                    exit_now(MISSING);
                }
            }
        });
    }
}

impl Worker {
    pub fn name(&self, rank: usize) -> String {
        self.peers.get(rank).map_or_else(|| format!("rank {rank}"), |peer| peer.named(rank))
    }

    /// Beats, and looks whether the others live.
    pub fn look(&mut self) -> Result<(), String> {
        let now = Instant::now();
        if now - self.last_look < LOOK_EVERY || self.mpi.size == 1 {
            return Ok(());
        }
        // Whoever was stopped cannot tell how long the others were silent.
        if now - self.last_look > self.limit / 2 {
            self.heard = now;
        }
        self.last_look = now;
        self.pulse.beat();

        if let Some(notice) = self.come(NOTICE)? {
            self.follow(&notice);
        }
        while self.come(BEAT)?.is_some() {
            self.heard = now;
            self.is_warned = false;
        }
        let (rank, size) = (self.mpi.rank, self.mpi.size);
        let before = (rank + size - 1) % size;
        if !self.is_warned && now - self.heard > self.limit / 4 {
            self.is_warned = true;
            let (name, silent) = (self.name(before), (now - self.heard).as_secs());
            (self.tell)(&format!("warning: rank {rank}: {name} was not heard of for {silent} s"));
        }
        if now - self.heard > self.limit {
            let silent = (now - self.heard).as_secs();
            let why =
                format!("{} was not heard of for {silent} s: it hangs, or is cut off", self.name(before));
            self.miss(&why, Some(before));
        }
        if now >= self.next_beat {
            self.next_beat = now + BEAT_EVERY;
            let gone = match &mut self.beat {
                None => true,
                Some(beat) => beat.test()?,
            };
            if gone {
                self.beat = Some(self.mpi.send(vec![0u8], (rank + 1) % size, BEAT)?);
            }
            if let Some(&gone) = self.seen.iter().find(|&&peer| !self.peers[peer].is_alive()) {
                self.miss(&format!("{} has ended without a word", self.name(gone)), Some(gone));
            }
        }
        Ok(())
    }

    /// A message of a tag that has come.
    fn come(&self, tag: i32) -> Result<Option<Vec<u8>>, String> {
        let Some((peer, bytes)) = self.mpi.probe(tag)? else { return Ok(None) };
        let mut transfer = self.mpi.receive::<u8>(bytes, peer, tag)?;
        while !transfer.test()? {
            thread::yield_now();
        }
        Ok(Some(std::mem::take(&mut transfer.buffer)))
    }

    /// Ends the job for an error of this rank. One that all ranks have is told by the first alone.
    pub fn fail(&mut self, why: &str) -> ! {
        if self.mpi.rank == 0 {
            (self.tell)(&format!("error: {why}"));
        } else {
            let until = Instant::now() + LAST_WORDS / 3;
            while Instant::now() < until {
                if let Ok(Some(notice)) = self.come(NOTICE) {
                    if notice.ends_with(why.as_bytes()) {
                        thread::sleep(LAST_WORDS);
                        Mpi::abort(FAILED);
                    }
                    self.follow(&notice);
                }
                thread::sleep(Duration::from_millis(5));
            }
            (self.tell)(&format!("error: rank {}: {why}", self.mpi.rank));
        }
        let notice = format!("{} has failed: {why}", self.name(self.mpi.rank));
        self.end(&notice, None, FAILED)
    }

    /// Ends the job for a rank that is missing.
    pub fn miss(&mut self, why: &str, missing: Option<usize>) -> ! {
        (self.tell)(&format!("error: rank {}: {why}", self.mpi.rank));
        self.end(why, missing, MISSING)
    }

    /// Ends this rank as another has told.
    fn follow(&self, notice: &[u8]) -> ! {
        let (code, why) = notice.split_first().map_or((FAILED, &[][..]), |(&code, why)| (code, why));
        (self.tell)(&format!("error: rank {}: {}", self.mpi.rank, String::from_utf8_lossy(why)));
        thread::sleep(LAST_WORDS);
        Mpi::abort(code)
    }

    /// Tells the others, but the one that is missing, and ends the job.
    fn end(&mut self, why: &str, missing: Option<usize>, code: u8) -> ! {
        let notice = [&[code], why.as_bytes()].concat();
        let others = self.others().filter(|&other| Some(other) != missing);
        let mut notices: Vec<_> =
            others.filter_map(|other| self.mpi.send(notice.clone(), other, NOTICE).ok()).collect();
        let until = Instant::now() + LAST_WORDS;
        while Instant::now() < until {
            notices.retain_mut(|notice| !notice.test().unwrap_or(true));
            thread::sleep(Duration::from_millis(5));
        }
        Mpi::abort(code)
    }
}
