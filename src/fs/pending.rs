//! Reads that wait for pieces: who is to be answered, and for what.
//!
//! Whoever takes a read out of here owes it its answer, and nobody can take it twice: so the torrent that has the
//! pieces, the watch that finds the reader dead, and the end of the mount cannot answer one read together (I5).

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Errno;
use super::handle::Handle;
use crate::engine::Ticket;
use crate::storage::{Guard, Store};

/// Takes the bytes of a read, or why there are none. Dropped uncalled, it answers `EIO` by itself.
pub(crate) type Reply = Box<dyn FnOnce(Result<&[u8], Errno>) + Send>;

/// Names a waiting read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key(u64);

/// One waiting read.
pub(crate) struct Waiting {
    /// Whom to answer.
    pub(crate) reply: Reply,
    /// The open file.
    pub(crate) handle: Arc<Handle>,
    /// First byte in the file.
    pub(crate) offset: u64,
    /// Bytes; the range lies inside the file.
    pub(crate) length: usize,
    /// The reader's thread, as the kernel tells it; 0: not visible from here.
    pub(crate) thread: u32,
    /// When it began to wait.
    pub(crate) since: Instant,
    /// How often its pieces were present and gone again, or could not be read.
    pub(crate) attempts: u32,
    /// It had to wait for pieces.
    pub(crate) blocked: bool,
    /// Keeps what is here of them from being evicted while the rest is awaited.
    pub(crate) guard: Option<Guard>,
    /// Its name at the torrent, once it has (had) one.
    pub(crate) ticket: Option<Ticket>,
}

impl Waiting {
    /// Answers.
    pub(crate) fn answer(self, outcome: Result<&[u8], Errno>) {
        (self.reply)(outcome);
        self.handle.answered(self.offset, self.length, self.blocked);
        self.handle.tell_window();
    }

    /// Answers with an error, and tells the torrent that nobody waits any more.
    pub(crate) fn give_up(self, error: Errno) {
        if let Some(ticket) = self.ticket {
            self.handle.torrent.abandon(ticket);
        }
        self.answer(Err(error));
    }
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiting")
            .field("offset", &self.offset)
            .field("length", &self.length)
            .field("thread", &self.thread)
            .field("ticket", &self.ticket)
            .finish_non_exhaustive()
    }
}

/// All waiting reads of a mount. Bounded by the kernel: `max_background` readaheads and one read per blocked thread.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    slab: Mutex<Slab>,
    /// Signalled when a first read begins to wait, and at the end.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Slab {
    waiting: HashMap<u64, Waiting>,
    last: u64,
    closed: bool,
}

/// What the watch finds when it looks.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// Nobody will wait any more.
    Closed,
    /// Reads that wait for long enough, and their threads.
    Old(Vec<(Key, u32)>),
}

impl Pending {
    /// Enters a read.
    ///
    /// # Errors
    /// The read itself after [`close`](Self::close): no more reads may wait.
    pub(crate) fn insert(&self, read: Waiting) -> Result<Key, Waiting> {
        let mut slab = self.lock();
        if slab.closed {
            return Err(read);
        }
        slab.last += 1;
        let key = slab.last;
        let first = slab.waiting.is_empty();
        slab.waiting.insert(key, read);
        drop(slab);
        if first {
            self.changed.notify_all();
        }
        Ok(Key(key))
    }

    /// Notes the read's name at the torrent; `false` when the read is no longer here.
    pub(crate) fn set_ticket(&self, key: Key, ticket: Ticket) -> bool {
        let mut slab = self.lock();
        let read = slab.waiting.get_mut(&key.0);
        let found = read.is_some();
        if let Some(read) = read {
            read.ticket = Some(ticket);
        }
        found
    }

    /// Takes a read out: the caller answers it.
    pub(crate) fn take(&self, key: Key) -> Option<Waiting> {
        self.lock().waiting.remove(&key.0)
    }

    /// Takes all reads of a torrent out, for the caller to answer.
    pub(crate) fn take_all_of(&self, store: &Arc<Store>) -> Vec<Waiting> {
        let mut slab = self.lock();
        let taken = slab.waiting.extract_if(|_, read| Arc::ptr_eq(read.handle.torrent.store(), store));
        taken.map(|(_, read)| read).collect()
    }

    /// Takes everything out, for the caller to answer, and lets nothing in any more.
    pub(crate) fn close(&self) -> Vec<Waiting> {
        let mut slab = self.lock();
        slab.closed = true;
        let all = std::mem::take(&mut slab.waiting);
        drop(slab);
        self.changed.notify_all();
        all.into_values().collect()
    }

    /// Number of waiting reads.
    pub(crate) fn len(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Sleeps while nothing waits, then for one `period`, and tells which reads are older than `age` then.
    pub(crate) fn look(&self, period: Duration, age: Duration) -> Look {
        let mut slab = self.lock();
        while slab.waiting.is_empty() && !slab.closed {
            slab = self.changed.wait(slab).unwrap_or_else(PoisonError::into_inner);
        }
        let until = Instant::now() + period;
        while !slab.closed {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            slab = self.changed.wait_timeout(slab, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        if slab.closed {
            return Look::Closed;
        }
        let old = slab.waiting.iter().filter(|(_, read)| read.since.elapsed() >= age);
        Look::Old(old.map(|(&key, read)| (Key(key), read.thread)).collect())
    }

    fn lock(&self) -> MutexGuard<'_, Slab> {
        self.slab.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
