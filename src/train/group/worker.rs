//! The thread of a link: jobs and messages.

use super::mpi::{Mpi, Transfer};
use super::peers::Peer;
use super::watch::{LOOK_EVERY, Pulse};
use super::{Round, Tell};
use bytemuck::Pod;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

const SHARE: i32 = 1;
const SUM: i32 = 2;
const LENGTH: i32 = 3;
const BYTES: i32 = 4;

/// Bytes of one message of a broadcast.
const PIECE: usize = 64 << 20;

/// What a link asks of its thread.
pub(super) enum Job {
    Sum { bucket: usize, values: Vec<f32>, round: Round, done: SyncSender<Vec<f32>> },
    Broadcast { bytes: Vec<u8>, done: SyncSender<Vec<u8>> },
    Exchange { bytes: Vec<u8>, done: SyncSender<Vec<Vec<u8>>> },
    Fail { why: String },
    Finish { done: SyncSender<()> },
}

/// The thread of the link.
pub(super) struct Worker {
    pub mpi: Mpi,
    pub peers: Vec<Peer>,
    /// The other ranks that can be looked at.
    pub seen: Vec<usize>,
    pub jobs: Receiver<Job>,
    pub limit: Duration,
    /// Prints a line.
    pub tell: Tell,
    /// Sums of the rounds so far of this rank's share, by bucket.
    pub carried: Vec<Vec<f32>>,
    /// When the rank before this one was last heard of.
    pub heard: Instant,
    /// Whether it was said that it is silent.
    pub is_warned: bool,
    pub beat: Option<Transfer<u8>>,
    pub next_beat: Instant,
    pub last_look: Instant,
    pub pulse: Pulse,
}

impl Worker {
    pub fn join(jobs: Receiver<Job>, limit: Duration, tell: Tell) -> Result<Self, String> {
        let mpi = Mpi::start()?;
        let now = Instant::now();
        let pulse = Pulse::new();
        if mpi.size > 1 {
            pulse.clone().guard(mpi.rank, limit, tell);
        }
        let mut worker = Self {
            mpi,
            peers: vec![Peer::own()],
            seen: Vec::new(),
            jobs,
            limit,
            tell,
            carried: Vec::new(),
            heard: now,
            is_warned: false,
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

    pub fn work(mut self) {
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
                    let Self { mpi, pulse, tell, .. } = self;
                    if let Err(e) = left.and_then(|_| mpi.finish()) {
                        tell(&format!("warning: {e}"));
                    }
                    pulse.end();
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
    pub fn others(&self) -> impl Iterator<Item = usize> + use<> {
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
}
