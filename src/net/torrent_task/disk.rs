//! Disk jobs of the engine as calls of the store, on disk threads.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::base::PieceIndex;
use crate::engine::{DiskDone, DiskJob};
use crate::storage::{DiskPool, HASHED_TOGETHER, Lane, Run, StorageError, Store, Verdict, hashes_together};

/// Runs that wait for a disk thread: whoever comes takes several, which are hashed together.
#[derive(Debug, Default)]
pub(super) struct Writes {
    urgent: Mutex<Waiting>,
    normal: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    runs: VecDeque<(Run, Completion)>,
    /// Closures in the pool that have not taken anything yet.
    called: usize,
}

impl Waiting {
    /// Whether one more closure is to be called, which is booked: each takes several runs.
    fn calls_another(&mut self) -> bool {
        let few = self.runs.len() > self.called * if hashes_together() { HASHED_TOGETHER } else { 1 };
        self.called += usize::from(few);
        few
    }
}

impl Writes {
    /// Calls disk threads for what has been queued; at the end of a turn, so that what came in it goes together.
    pub(super) fn call(self: &Arc<Self>, store: &Arc<Store>, pool: &DiskPool) {
        for lane in [Lane::Urgent, Lane::Normal] {
            while self.waiting(lane).calls_another() {
                let (writes, store, again) = (Arc::clone(self), Arc::clone(store), pool.clone());
                pool.submit(lane, move || {
                    writes.work(lane, &store);
                    // Runs of one piece do not go together, so this may have left some.
                    writes.call(&store, &again);
                });
            }
        }
    }

    fn queue(&self, lane: Lane, run: Run, completion: Completion) {
        self.waiting(lane).runs.push_back((run, completion));
    }

    fn waiting(&self, lane: Lane) -> MutexGuard<'_, Waiting> {
        let waiting = if lane == Lane::Urgent { &self.urgent } else { &self.normal };
        waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes some of those that wait.
    fn work(&self, lane: Lane, store: &Store) {
        let taken = {
            let mut waiting = self.waiting(lane);
            waiting.called -= 1;
            take_some(&mut waiting.runs)
        };
        let (runs, mut completions): (Vec<_>, VecDeque<_>) = taken.into_iter().unzip();
        // The blocks are slices of receive buffers, which wait for them: they go before the completion does.
        store.write_all(runs, |verdict| {
            if let Some(mut completion) = completions.pop_front() {
                completion.outcome = Some(completion.judged(verdict));
            }
        });
    }
}

/// The first few, of different pieces: a second run of one would find its hash taken.
fn take_some(waiting: &mut VecDeque<(Run, Completion)>) -> Vec<(Run, Completion)> {
    let mut taken: Vec<(Run, Completion)> = Vec::new();
    let mut at = 0;
    while at < waiting.len().min(LOOKED_AT) && taken.len() < HASHED_TOGETHER {
        let piece = waiting[at].0.piece;
        match taken.iter().any(|(run, _)| run.piece == piece) {
            true => at += 1,
            false => taken.extend(waiting.remove(at)),
        }
    }
    taken
}

/// Queues a job; its completion comes through `done`, whatever happens. Writes wait for [`Writes::call`].
///
/// `life` tells the attempts of a brain that was born again from those of the former one, whose last jobs may still be
/// queued: the store takes the higher number for the newer attempt (I6).
pub(super) fn submit(
    job: DiskJob,
    life: u32,
    store: &Arc<Store>,
    pool: &DiskPool,
    writes: &Writes,
    done: &mpsc::Sender<DiskDone>,
) {
    if let DiskJob::Discard { piece, attempt } = job {
        let store = store.clone();
        return pool.submit(Lane::Normal, move || {
            if let Err(error) = store.discard(piece, numbered(attempt, life)) {
                tracing::debug!(%error, "what was begun in vain is not given back");
            }
        });
    }
    let (piece, attempt, bytes, urgent) = match &job {
        DiskJob::Write { piece, attempt, blocks, urgent, .. } => {
            (*piece, *attempt, blocks.iter().map(|block| block.len() as u32).sum(), *urgent)
        }
        DiskJob::Check { piece, attempt, urgent } => (*piece, *attempt, 0, *urgent),
        DiskJob::Digests(piece) | DiskJob::Discard { piece, .. } => (*piece, 0, 0, false),
    };
    let store = store.clone();
    let completion = Completion { piece, attempt, bytes, outcome: None, sender: done.clone() };
    let lane = if urgent { Lane::Urgent } else { Lane::Normal };
    if let DiskJob::Write { begin, blocks, .. } = job {
        let run = Run { piece, attempt: numbered(attempt, life), begin, blocks };
        return writes.queue(lane, run, completion);
    }
    pool.submit(lane, move || completion.run(job, &store));
}

/// What was in memory alone when its job ended may have come to the disk since, which the engine was told before it knew
/// of the piece.
pub(super) fn as_it_is_now(done: DiskDone, store: &Store) -> DiskDone {
    match done {
        DiskDone::Held { piece, attempt, bytes } if !store.is_in_memory(piece) => {
            DiskDone::Verified { piece, attempt, bytes }
        }
        other => other,
    }
}

/// Warns of a disk that fails, now and then.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    warned: Option<Instant>,
}

impl Trouble {
    /// Looks at a completion.
    pub(super) fn note(&mut self, now: Instant, done: &DiskDone) {
        // Attempt 0 is a comparison of what was received, which nobody needs.
        let DiskDone::Failed { piece, attempt: 1.., error, .. } = done else { return };
        if self.warned.is_none_or(|at| now.saturating_duration_since(at) >= WARN_EVERY) {
            self.warned = Some(now);
            tracing::warn!(piece = piece.raw(), "the disk fails, it is tried again: {error}");
        }
    }
}

/// Sends the outcome of a job when dropped: a job that panics has failed.
#[derive(Debug)]
struct Completion {
    piece: PieceIndex,
    attempt: u32,
    bytes: u32,
    outcome: Option<DiskDone>,
    sender: mpsc::Sender<DiskDone>,
}

impl Completion {
    fn run(mut self, job: DiskJob, store: &Store) {
        self.outcome = Some(match job {
            DiskJob::Check { piece, .. } => self.judged(store.check(piece)),
            // Not by this way.
            DiskJob::Write { .. } | DiskJob::Discard { .. } => return,
            DiskJob::Digests(piece) => match store.block_digests(piece) {
                Ok(block_digests) => DiskDone::Digests { piece, block_digests },
                Err(error) => self.failed(error.to_string()),
            },
        });
    }

    fn judged(&self, verdict: Result<Verdict, StorageError>) -> DiskDone {
        let (piece, attempt, bytes) = (self.piece, self.attempt, self.bytes);
        match verdict {
            Ok(Verdict::Incomplete) => DiskDone::Written { piece, attempt, bytes },
            Ok(Verdict::Held) => DiskDone::Held { piece, attempt, bytes },
            Ok(Verdict::Verified) => DiskDone::Verified { piece, attempt, bytes },
            Ok(Verdict::Corrupt(block_digests)) => DiskDone::Corrupt { piece, attempt, bytes, block_digests },
            Err(error) => self.failed(error.to_string()),
        }
    }

    fn failed(&self, error: String) -> DiskDone {
        DiskDone::Failed { piece: self.piece, attempt: self.attempt, bytes: self.bytes, error }
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        let outcome = self.outcome.take().unwrap_or_else(|| self.failed("internal error".to_owned()));
        // Waits for a place; a torrent that has ended wants no completions, nor does one that died with runs in its queue, on
        // a thread that must not wait.
        let _ = match tokio::runtime::Handle::try_current() {
            Ok(_) => self.sender.try_send(outcome).map_err(drop),
            Err(_) => self.sender.blocking_send(outcome).map_err(drop),
        };
    }
}

fn numbered(attempt: u32, life: u32) -> u32 {
    attempt | life << ATTEMPT_BITS
}

/// Of runs that wait this many are looked at for others to go with the first.
const LOOKED_AT: usize = 16;

/// A full disk stays full for a while.
const WARN_EVERY: Duration = Duration::from_secs(30);

/// Bits of an attempt's number that the engine counts in.
const ATTEMPT_BITS: u32 = 24;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_different_pieces_are_taken_together_and_those_of_one_in_their_order() {
        let (sender, _receiver) = mpsc::channel(64);
        let mut waiting = VecDeque::new();
        for (piece, begin) in [(7, 0), (7, 1), (8, 0), (7, 2), (9, 0), (1, 0), (2, 0), (8, 1)] {
            let piece = PieceIndex(piece);
            let completion = Completion { piece, attempt: 1, bytes: 0, outcome: None, sender: sender.clone() };
            waiting.push_back((Run { piece, attempt: 1, begin, blocks: Vec::new() }, completion));
        }
        let rounds = std::iter::from_fn(|| {
            let taken = take_some(&mut waiting);
            let runs: Vec<_> = taken.iter().map(|(run, _)| (run.piece.raw(), run.begin)).collect();
            (!runs.is_empty()).then_some(runs)
        });
        let rounds: Vec<_> = rounds.collect();
        assert_eq!(rounds, [vec![(7, 0), (8, 0), (9, 0), (1, 0)], vec![(7, 1), (2, 0), (8, 1)], vec![(7, 2)]]);
    }
}
