//! What must not be evicted although nobody has pinned it: what readers wait for, and what is ahead of them. And which
//! files are being read: what lies behind such a reader goes after what nobody reads any more.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::super::recency::Moment;
use super::Store;
use crate::base::{Bitfield, FileIndex, PieceRange};

/// Keeps pieces from being evicted, and says that a file is in use; until it is dropped.
#[derive(Debug)]
pub struct Guard {
    store: Arc<Store>,
    number: u64,
    /// Shared with the entry: a reader says so with each read, and takes no lock for it.
    used: Arc<AtomicU64>,
}

/// All guards of a store.
#[derive(Debug, Default)]
pub(super) struct Guards {
    entries: Mutex<HashMap<u64, Entry>>,
    next: AtomicU64,
    /// How often the entries were others than before.
    changes: AtomicU64,
}

#[derive(Debug)]
struct Entry {
    file: Option<FileIndex>,
    pieces: Vec<PieceRange>,
    /// As [`Moment`].
    used: Arc<AtomicU64>,
}

/// What the guards come to at one moment.
#[derive(Debug)]
pub(crate) struct Guarded {
    /// Never to be evicted.
    pub(crate) pieces: Bitfield,
    /// Files that somebody reads.
    pub(crate) files: Vec<FileIndex>,
}

impl Guards {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// A number that grows with every change.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    pub(super) fn now(&self, piece_count: usize, now: Moment) -> Guarded {
        let entries = self.lock();
        let mut pieces = Bitfield::new(piece_count);
        for piece in entries.values().flat_map(|entry| &entry.pieces).flat_map(|range| range.iter()) {
            pieces.set(piece);
        }
        let lively = entries.values().filter(|entry| Moment(entry.used.load(Ordering::Relaxed)).age(now) < LIVELY);
        let mut files: Vec<_> = lively.filter_map(|entry| entry.file).collect();
        drop(entries);
        files.sort_unstable();
        files.dedup();
        Guarded { pieces, files }
    }
}

impl Store {
    /// Guards pieces. `file`: somebody has it open.
    pub fn guard(self: &Arc<Self>, file: Option<FileIndex>, pieces: Vec<PieceRange>) -> Guard {
        let number = self.guards.next.fetch_add(1, Ordering::Relaxed);
        let used = Arc::new(AtomicU64::new(Moment::now().0));
        self.guards.lock().insert(number, Entry { file, pieces, used: Arc::clone(&used) });
        self.guards.changed();
        Guard { store: Arc::clone(self), number, used }
    }
}

impl Guard {
    /// Guards other pieces from now on; the file is in use.
    pub fn set(&self, pieces: Vec<PieceRange>) {
        if let Some(entry) = self.store.guards.lock().get_mut(&self.number) {
            entry.pieces = pieces;
        }
        self.store.guards.changed();
        self.used();
    }

    /// The file is in use.
    pub fn used(&self) {
        self.used.store(Moment::now().0, Ordering::Relaxed);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.store.guards.lock().remove(&self.number);
        self.store.guards.changed();
    }
}

/// A file that is open but was not read for so long has no privilege any more; what is ahead of its reader has.
const LIVELY: Duration = Duration::from_secs(600);
