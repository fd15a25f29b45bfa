//! What ties the ranks together: a thread that makes every call of MPI, one job of the training after the other, and
//! watches meanwhile that the others live.
//!
//! Sums are messages from rank to rank and additions here, not a reduction of MPI, whose order of additions depends on
//! its algorithm: each rank is sent its share of a bucket by all, adds in the order of the ranks, and sends the sum to all.
//! That moves 2 (R - 1) / R of the bucket to and from each rank, as the ring of MPI's reductions does.
//!
//! A rank ends the job in four ways: it says why ([`Link::fail`]); it is gone, which ranks of the same machine see; it has
//! not beaten for the limit, which the rank after it in the ring notices; or it lives, and its share has not come for thirty
//! limits. Whoever notices tells the others, so that each says who is missing, before the launcher ends them.

use super::mpi::{Mpi, Transfer, exit_now};
use super::peers::Peer;
use super::{GroupError, Round};
use bytemuck::Pod;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Exit code of a job that a missing rank has ended: the EX_TEMPFAIL of sysexits.h, "try again".
const MISSING: u8 = 75;
/// Exit code of a job that a rank has ended by an error.
const FAILED: u8 = 1;

const SHARE: i32 = 1;
const SUM: i32 = 2;
const LENGTH: i32 = 3;
const BYTES: i32 = 4;
const BEAT: i32 = 5;
const NOTICE: i32 = 6;

/// Between two beats, and between two looks at the processes of this machine.
const BEAT_EVERY: Duration = Duration::from_secs(1);
/// Between two looks for beats and notices.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// What the others are given to read a notice, before MPI_Abort ends them.
const LAST_WORDS: Duration = Duration::from_millis(1500);
/// Bytes of one message of a broadcast.
const PIECE: usize = 64 << 20;

/// A sum that was begun.
pub(super) struct Sum(Receiver<Vec<f32>>);

enum Job {
    Sum { bucket: usize, values: Vec<f32>, round: Round, done: SyncSender<Vec<f32>> },
    Broadcast { bytes: Vec<u8>, done: SyncSender<Vec<u8>> },
    Exchange { bytes: Vec<u8>, done: SyncSender<Vec<Vec<u8>>> },
    Fail { why: String },
    Finish { done: SyncSender<()> },
}

/// See the top of this file.
#[derive(Debug)]
pub(super) struct Link {
    rank: usize,
    local_rank: usize,
    size: usize,
    jobs: Mutex<Sender<Job>>,
}

/// Where a panic is told to.
static PANICS: OnceLock<Mutex<Sender<Job>>> = OnceLock::new();

impl Link {
    /// Starts MPI; `None` if the job is one process.
    pub fn join(
        variable: &'static str,
        announced: usize,
        limit: Duration,
    ) -> Result<Option<Self>, GroupError> {
        let (sender, jobs) = channel();
        let (joined, outcome) = sync_channel(1);
        thread::spawn(move || match Worker::join(jobs, limit) {
            Ok(worker) => {
                let _ = joined.send(Ok((worker.mpi.rank, worker.mpi.size, worker.peers.clone())));
                worker.work();
            }
            Err(e) => {
                let _ = joined.send(Err(e));
            }
        });
        let (rank, size, peers) =
            outcome.recv().unwrap_or_else(|_| Err("its thread ended".into())).map_err(GroupError::Start)?;
        if size == 1 && announced > 1 {
            return Err(GroupError::WrongLauncher {
                variable,
                announced,
                found: "the MPI that this program was built with finds it alone".into(),
                remedy: "Start it with the mpirun of that MPI",
            });
        }
        let link = Self {
            rank,
            local_rank: peers[..rank].iter().filter(|peer| peer.host == peers[rank].host).count(),
            size,
            jobs: Mutex::new(sender),
        };
        if size == 1 {
            link.finish();
            return Ok(None);
        }
        if let Some(rank) = (1..size).find(|&rank| peers[rank].version != peers[0].version) {
            let version = |rank: usize| format!("inkwash {}", peers[rank].version);
            return Err(GroupError::Differs {
                rank,
                what: "program",
                there: version(rank),
                here: version(0),
            });
        }
        // Unwinding would leave the others waiting.
        let _ = PANICS.set(Mutex::new(lock(&link.jobs).clone()));
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            hook(panic);
            if let Some(jobs) = PANICS.get() {
                let _ = lock(jobs).send(Job::Fail { why: format!("it panicked: {panic}") });
            }
            thread::sleep(3 * LAST_WORDS);
            exit_now(FAILED);
        }));
        Ok(Some(link))
    }

    pub fn rank(&self) -> usize {
        self.rank
    }

    pub fn size(&self) -> usize {
        self.size
    }

    pub fn local_rank(&self) -> usize {
        self.local_rank
    }

    /// Begins to sum a bucket over the ranks. Buckets of one round are told apart by their numbers, and every rank begins them
    /// in the same order.
    pub fn begin_sum(&self, bucket: usize, values: Vec<f32>, round: Round) -> Sum {
        Sum(self.begin(|done| Job::Sum { bucket, values, round, done }))
    }

    /// Waits for a sum; empty where the round is not the last.
    pub fn finish_sum(&self, sum: Sum) -> Vec<f32> {
        Self::wait(&sum.0)
    }

    /// The first rank's bytes, whatever the others give.
    pub fn broadcast(&self, bytes: Vec<u8>) -> Vec<u8> {
        Self::wait(&self.begin(|done| Job::Broadcast { bytes, done }))
    }

    /// What every rank gives, by rank.
    pub fn exchange(&self, bytes: Vec<u8>) -> Vec<Vec<u8>> {
        Self::wait(&self.begin(|done| Job::Exchange { bytes, done }))
    }

    /// Tells the others, and ends the job.
    pub fn fail(&self, why: &str) -> ! {
        self.send(Job::Fail { why: why.into() });
        Self::ended()
    }

    /// Leaves once all do.
    pub fn finish(&self) {
        Self::wait(&self.begin(|done| Job::Finish { done }));
    }

    fn begin<T>(&self, job: impl FnOnce(SyncSender<T>) -> Job) -> Receiver<T> {
        let (done, receiver) = sync_channel(1);
        self.send(job(done));
        receiver
    }

    fn send(&self, job: Job) {
        if lock(&self.jobs).send(job).is_err() {
            Self::ended();
        }
    }

    fn wait<T>(receiver: &Receiver<T>) -> T {
        receiver.recv().unwrap_or_else(|_| Self::ended())
    }

    /// The thread of the link is about to end this process.
    fn ended() -> ! {
        loop {
            thread::park();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread of the link.
struct Worker {
    mpi: Mpi,
    peers: Vec<Peer>,
    /// The other ranks that can be looked at.
    seen: Vec<usize>,
    jobs: Receiver<Job>,
    limit: Duration,
    /// Sums of the rounds so far of this rank's share, by bucket.
    carried: Vec<Vec<f32>>,
    /// When the rank before this one was last heard of.
    heard: Instant,
    beat: Option<Transfer<u8>>,
    next_beat: Instant,
    last_look: Instant,
    pulse: Pulse,
}

/// When the thread of the link was last seen at work: MPI itself may hang.
#[derive(Clone)]
struct Pulse {
    start: Instant,
    seconds: Arc<AtomicU64>,
    ends: Arc<AtomicBool>,
}

impl Pulse {
    fn beat(&self) {
        self.seconds.store(self.start.elapsed().as_secs(), Ordering::Relaxed);
    }

    /// Ends the process if there was no beat for longer than the limit.
    fn guard(self, rank: usize, limit: Duration) {
        thread::spawn(move || {
            let mut before = 0;
            let mut still = Duration::ZERO;
            while !self.ends.load(Ordering::Relaxed) {
                thread::sleep(BEAT_EVERY);
                let now = self.seconds.load(Ordering::Relaxed);
                still = if now == before { still + BEAT_EVERY } else { Duration::ZERO };
                before = now;
                if still > limit + limit / 2 {
                    eprintln!(
                        "error: rank {rank}: a call of MPI has not returned for {} s; a rank is missing",
                        still.as_secs()
                    );
                    exit_now(MISSING);
                }
            }
        });
    }
}

impl Worker {
    fn join(jobs: Receiver<Job>, limit: Duration) -> Result<Self, String> {
        let mpi = Mpi::start()?;
        let now = Instant::now();
        let pulse = Pulse { start: now, seconds: Arc::default(), ends: Arc::default() };
        if mpi.size > 1 {
            pulse.clone().guard(mpi.rank, limit);
        }
        let mut worker = Self {
            mpi,
            peers: vec![Peer::own()],
            seen: Vec::new(),
            jobs,
            limit,
            carried: Vec::new(),
            heard: now,
            beat: None,
            next_beat: now,
            last_look: now,
            pulse,
        };
        if worker.mpi.size > 1 {
            let own = serde_json::to_vec(&worker.peers[0]).map_err(|e| e.to_string())?;
            // Until they are known, they are called by number alone.
            worker.peers = Vec::new();
            let all = worker.exchange(own)?;
            let read = |text: &Vec<u8>| serde_json::from_slice::<Peer>(text);
            worker.peers = all.iter().map(read).collect::<Result<_, _>>().map_err(|e| {
                format!("a rank is of another version of inkwash, which greets otherwise ({e})")
            })?;
            let host = &worker.peers[worker.mpi.rank].host;
            let others = (0..worker.mpi.size).filter(|&rank| rank != worker.mpi.rank);
            worker.seen = others.filter(|&rank| worker.peers[rank].is_seen(host)).collect();
        }
        Ok(worker)
    }

    fn work(mut self) {
        loop {
            let done = match self.jobs.recv_timeout(LOOK_EVERY) {
                Ok(Job::Sum { bucket, values, round, done }) => {
                    self.sum(bucket, values, round).map(|sum| drop(done.send(sum)))
                }
                Ok(Job::Broadcast { bytes, done }) => {
                    self.broadcast(bytes).map(|bytes| drop(done.send(bytes)))
                }
                Ok(Job::Exchange { bytes, done }) => self.exchange(bytes).map(|all| drop(done.send(all))),
                Ok(Job::Fail { why }) => self.fail(&why),
                Ok(Job::Finish { done }) => {
                    let left = self.exchange(Vec::new());
                    let Self { mpi, pulse, .. } = self;
                    if let Err(e) = left.and_then(|_| mpi.finish()) {
                        eprintln!("warning: {e}");
                    }
                    pulse.ends.store(true, Ordering::Relaxed);
                    let _ = done.send(());
                    return;
                }
                Err(RecvTimeoutError::Timeout) => self.look(),
                Err(RecvTimeoutError::Disconnected) => self.fail("it left without a word"),
            };
            if let Err(e) = done {
                self.miss(&e, None);
            }
        }
    }

    /// The other ranks.
    fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let rank = self.mpi.rank;
        (0..self.mpi.size).filter(move |&other| other != rank)
    }

    /// See the top of this file.
    fn sum(&mut self, bucket: usize, mut values: Vec<f32>, round: Round) -> Result<Vec<f32>, String> {
        let (rank, size) = (self.mpi.rank, self.mpi.size);
        let share = values.len().div_ceil(size);
        let range = |rank: usize| (rank * share).min(values.len())..((rank + 1) * share).min(values.len());
        let mine = range(rank);

        // 1. Everybody's part of this rank's share.
        let mut transfers = Vec::with_capacity(2 * size);
        for other in self.others() {
            transfers.push(self.mpi.receive::<f32>(mine.len(), other, SHARE)?);
        }
        for other in self.others() {
            transfers.push(self.mpi.send(values[range(other)].to_vec(), other, SHARE)?);
        }
        let received = self.finish_all(transfers)?;
        let mut received = received.into_iter().take(size - 1);

        // 2. Added in the order of the ranks.
        let mut sum = if round.first { None } else { self.carried.get_mut(bucket).map(std::mem::take) };
        for other in 0..size {
            let theirs = if other == rank { None } else { received.next() };
            let part: &[f32] = theirs.as_ref().map_or(&values[mine.clone()], |transfer| &transfer.buffer);
            match &mut sum {
                None => sum = Some(part.to_vec()),
                Some(sum) => sum.iter_mut().zip(part).for_each(|(sum, part)| *sum += part),
            }
        }
        let sum = sum.unwrap_or_default();
        if !round.last {
            if self.carried.len() <= bucket {
                self.carried.resize(bucket + 1, Vec::new());
            }
            self.carried[bucket] = sum;
            return Ok(Vec::new());
        }

        // 3. Everybody's sums.
        let mut transfers = Vec::with_capacity(2 * size);
        for other in self.others() {
            transfers.push(self.mpi.receive::<f32>(range(other).len(), other, SUM)?);
        }
        for other in self.others() {
            transfers.push(self.mpi.send(sum.clone(), other, SUM)?);
        }
        let ranges: Vec<_> = (0..size).map(range).collect();
        values[mine].copy_from_slice(&sum);
        for transfer in self.finish_all(transfers)?.iter().take(size - 1) {
            values[ranges[transfer.peer].clone()].copy_from_slice(&transfer.buffer);
        }
        Ok(values)
    }

    /// From the first rank along a tree: a rank hands on to those whose number is its own with a higher bit set.
    fn broadcast(&mut self, bytes: Vec<u8>) -> Result<Vec<u8>, String> {
        let (rank, size) = (self.mpi.rank, self.mpi.size);
        let highest = if rank == 0 { 0 } else { 1 << rank.ilog2() };
        let first_child = (2 * highest).max(1);
        let bits = std::iter::successors(Some(first_child), |bit| Some(2 * bit));
        let children: Vec<usize> = bits.map(|bit| rank + bit).take_while(|&child| child < size).collect();
        let bytes = if rank == 0 { bytes } else { self.receive_bytes(rank - highest)? };
        for child in children {
            self.send_bytes(&bytes, child)?;
        }
        Ok(bytes)
    }

    fn exchange(&mut self, bytes: Vec<u8>) -> Result<Vec<Vec<u8>>, String> {
        let others: Vec<usize> = self.others().collect();
        let mut transfers = Vec::with_capacity(2 * others.len());
        for &peer in &others {
            transfers.push(self.mpi.receive::<u64>(1, peer, LENGTH)?);
        }
        for &peer in &others {
            transfers.push(self.mpi.send(vec![bytes.len() as u64], peer, LENGTH)?);
        }
        let lengths = self.finish_all(transfers)?;
        let mut transfers = Vec::new();
        for length in lengths.iter().take(others.len()) {
            let bytes = usize::try_from(length.buffer[0]).map_err(|e| e.to_string())?;
            transfers.push(self.mpi.receive::<u8>(bytes, length.peer, BYTES)?);
        }
        for &peer in &others {
            transfers.push(self.mpi.send(bytes.clone(), peer, BYTES)?);
        }
        let mut all = vec![Vec::new(); self.mpi.size];
        for mut transfer in self.finish_all(transfers)?.into_iter().take(others.len()) {
            all[transfer.peer] = std::mem::take(&mut transfer.buffer);
        }
        all[self.mpi.rank] = bytes;
        Ok(all)
    }

    fn receive_bytes(&mut self, from: usize) -> Result<Vec<u8>, String> {
        let length = self.finish_all(vec![self.mpi.receive::<u64>(1, from, LENGTH)?])?;
        let length = usize::try_from(length[0].buffer[0]).map_err(|e| e.to_string())?;
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            let piece = (length - bytes.len()).min(PIECE);
            let transfer = self.finish_all(vec![self.mpi.receive::<u8>(piece, from, BYTES)?])?;
            bytes.extend_from_slice(&transfer[0].buffer);
        }
        Ok(bytes)
    }

    fn send_bytes(&mut self, bytes: &[u8], to: usize) -> Result<(), String> {
        self.finish_all(vec![self.mpi.send(vec![bytes.len() as u64], to, LENGTH)?])?;
        for piece in bytes.chunks(PIECE) {
            self.finish_all(vec![self.mpi.send(piece.to_vec(), to, BYTES)?])?;
        }
        Ok(())
    }

    /// Waits until all messages have arrived or gone.
    fn finish_all<T: Pod>(&mut self, mut transfers: Vec<Transfer<T>>) -> Result<Vec<Transfer<T>>, String> {
        let begun = Instant::now();
        let mut turns = 0u32;
        loop {
            let mut all = true;
            for transfer in &mut transfers {
                all &= transfer.test()?;
            }
            if all {
                return Ok(transfers);
            }
            self.look()?;
            if begun.elapsed() > 30 * self.limit {
                let mut missing: Vec<usize> = transfers.iter().filter(|t| !t.done).map(|t| t.peer).collect();
                missing.sort_unstable();
                missing.dedup();
                let names: Vec<String> = missing.iter().map(|&rank| self.name(rank)).collect();
                let (names, waited) = (names.join(", "), begun.elapsed().as_secs());
                self.miss(&format!("waited {waited} s for {names}, which lives but does not come"), None);
            }
            // A wait within a sum is short; that for a rank's gradients is as long as a step, and its device may be this CPU.
            turns += 1;
            if turns < 20 {
                thread::yield_now();
            } else {
                thread::sleep(Duration::from_micros(if turns < 200 { 50 } else { 200 }));
            }
        }
    }

    fn name(&self, rank: usize) -> String {
        self.peers.get(rank).map_or_else(|| format!("rank {rank}"), |peer| peer.named(rank))
    }

    /// Beats, and looks whether the others live.
    fn look(&mut self) -> Result<(), String> {
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
        }
        let (rank, size) = (self.mpi.rank, self.mpi.size);
        let before = (rank + size - 1) % size;
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
    fn fail(&mut self, why: &str) -> ! {
        if self.mpi.rank == 0 {
            eprintln!("error: {why}");
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
            eprintln!("error: rank {}: {why}", self.mpi.rank);
        }
        let notice = format!("{} has failed: {why}", self.name(self.mpi.rank));
        self.end(&notice, None, FAILED)
    }

    /// Ends the job for a rank that is missing.
    fn miss(&mut self, why: &str, missing: Option<usize>) -> ! {
        eprintln!("error: rank {}: {why}", self.mpi.rank);
        self.end(why, missing, MISSING)
    }

    /// Ends this rank as another has told.
    fn follow(&self, notice: &[u8]) -> ! {
        let (code, why) = notice.split_first().map_or((FAILED, &[][..]), |(&code, why)| (code, why));
        eprintln!("error: rank {}: {}", self.mpi.rank, String::from_utf8_lossy(why));
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
