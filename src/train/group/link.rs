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

use super::mpi::exit_now;
use super::watch::{FAILED, LAST_WORDS};
use super::worker::{Job, Worker};
use super::{GroupError, Round, Tell};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

/// A sum that was begun.
pub(super) struct Sum(Receiver<Vec<f32>>);

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
        tell: Tell,
    ) -> Result<Option<Self>, GroupError> {
        let (sender, jobs) = channel();
        let (joined, outcome) = sync_channel(1);
        thread::spawn(move || match Worker::join(jobs, limit, tell) {
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
        let link = Self {
            rank,
            local_rank: peers[..rank].iter().filter(|peer| peer.host == peers[rank].host).count(),
            size,
            jobs: Mutex::new(sender),
        };
        if size == 1 {
            link.finish();
            return if announced > 1 {
                Err(GroupError::WrongLauncher {
                    variable,
                    announced,
                    found: "the MPI that this program was built with finds it alone".into(),
                    remedy: "Start it with the mpirun of that MPI",
                })
            } else {
                Ok(None)
            };
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
