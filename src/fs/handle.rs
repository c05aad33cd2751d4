//! Open files: what a read needs to know, found by the number that the kernel sends along, and how each is read.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

use super::ready::Ready;
use super::view::Attr;
use crate::base::{FileIndex, PieceRange};
use crate::engine::HandleId;
use crate::engine::prefetch::{FileGeometry, Habit, PrefetchConfig, Prefetcher, WindowPlan};
use crate::net::TorrentHandle;
use crate::storage::Guard;

/// One open file.
pub(crate) struct Handle {
    /// Its number, for the kernel and for the engine.
    pub(crate) id: HandleId,
    /// The torrent.
    pub(crate) torrent: TorrentHandle,
    /// The file.
    pub(crate) file: FileIndex,
    /// As it was when it was opened, so that it can be looked at when it is shown no more.
    pub(crate) attr: Attr,
    /// What is ahead of the reader is not evicted.
    guard: Guard,
    ahead: Mutex<Ahead>,
    /// The next answer.
    pub(super) ready: Ready,
}

/// What is wanted ahead of the reader.
struct Ahead {
    prefetcher: Prefetcher,
    /// A plan that the torrent does not know yet.
    untold: Option<WindowPlan>,
    /// The torrent knows of a window.
    told: bool,
}

impl Handle {
    fn new(
        id: HandleId,
        torrent: TorrentHandle,
        file: FileIndex,
        attr: Attr,
        config: PrefetchConfig,
        habit: Habit,
    ) -> Self {
        let layout = torrent.store().layout();
        let geometry =
            FileGeometry { bytes: attr.bytes, start: layout.file_start(file), piece_length: layout.piece_length() };
        let ahead = Ahead { prefetcher: Prefetcher::new(config, geometry, habit), untold: None, told: false };
        let guard = torrent.store().guard(Some(file), Vec::new());
        Self { id, torrent, file, attr, guard, ahead: Mutex::new(ahead), ready: Ready::default() }
    }

    /// The pieces behind a range of the file.
    pub(crate) fn pieces(&self, offset: u64, length: u64) -> PieceRange {
        self.torrent.store().layout().pieces_of(self.file, offset, length)
    }

    /// The reader asks for a range: to be followed by one [`answered`](Self::answered).
    pub(crate) fn asked(&self, offset: u64, length: usize) {
        let mut ahead = self.ahead();
        self.guard.used();
        // Taken under the lock: the prefetcher wants times that never decrease (I8).
        let plan = ahead.prefetcher.on_read(Instant::now(), offset, length as u64);
        ahead.keep(plan);
    }

    /// The reader has its answer; `stalled`: it had to wait for pieces.
    pub(crate) fn answered(&self, offset: u64, length: usize, stalled: bool) {
        let mut ahead = self.ahead();
        let plan = ahead.prefetcher.on_read_done(Instant::now(), offset, length as u64, stalled);
        ahead.keep(plan);
    }

    /// Tells the torrent what is wanted ahead, if that has changed. Apart from [`asked`](Self::asked), so that what a
    /// reader waits for is asked of the torrent before what it may want later.
    pub(crate) fn tell_window(&self) {
        let mut ahead = self.ahead();
        let Some(plan) = ahead.untold.take() else { return };
        let pieces: Vec<PieceRange> =
            plan.ranges.iter().map(|range| self.pieces(range.start, range.end - range.start)).collect();
        self.guard.set(pieces.clone());
        let table = self.torrent.store().table();
        let nothing_missing = pieces.iter().all(|&range| table.all_present(range));
        // Where all is present, as with a complete torrent, no message is due, unless to take back an earlier one.
        if nothing_missing && !ahead.told {
            return;
        }
        ahead.told = !nothing_missing;
        // Sent under the lock, so that plans of two threads keep their order; sending never waits.
        self.torrent.window(self.id, pieces, plan.horizon);
    }

    fn ahead(&self) -> MutexGuard<'_, Ahead> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("id", &self.id).field("file", &self.file).finish_non_exhaustive()
    }
}

impl Ahead {
    fn keep(&mut self, plan: Option<WindowPlan>) {
        if plan.is_some() {
            self.untold = plan;
        }
    }
}

/// All open files of a mount.
#[derive(Debug, Default)]
pub(crate) struct Handles {
    open: RwLock<HashMap<u64, Arc<Handle>>>,
    /// What the last reader to close a file has left behind.
    habit: Mutex<Habit>,
}

impl Handles {
    /// Enters a file that is being opened.
    pub(crate) fn open(
        &self,
        torrent: &TorrentHandle,
        file: FileIndex,
        attr: Attr,
        config: PrefetchConfig,
    ) -> Arc<Handle> {
        let number = NEXT_HANDLE.fetch_add(1, Ordering::Relaxed);
        let habit = *self.habit();
        let handle = Arc::new(Handle::new(HandleId(number), torrent.clone(), file, attr, config, habit));
        self.open.write().unwrap_or_else(PoisonError::into_inner).insert(number, Arc::clone(&handle));
        handle
    }

    /// The open file of this number.
    pub(crate) fn find(&self, number: u64) -> Option<Arc<Handle>> {
        self.open.read().unwrap_or_else(PoisonError::into_inner).get(&number).cloned()
    }

    /// What an open file was when it was opened, by its inode number.
    pub(crate) fn attr_of(&self, inode: u64) -> Option<Attr> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.values().find(|handle| handle.attr.inode == inode).map(|handle| handle.attr)
    }

    /// Takes a file out that was closed.
    pub(crate) fn close(&self, number: u64) -> Option<Arc<Handle>> {
        let handle = self.open.write().unwrap_or_else(PoisonError::into_inner).remove(&number)?;
        *self.habit() = handle.ahead().prefetcher.habit();
        Some(handle)
    }

    fn habit(&self) -> MutexGuard<'_, Habit> {
        self.habit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Number of open files.
    pub(crate) fn len(&self) -> usize {
        self.open.read().unwrap_or_else(PoisonError::into_inner).len()
    }
}

/// One count for all mounts of the process: a torrent that is in two of them tells their open files apart by it.
static NEXT_HANDLE: AtomicU64 = AtomicU64::new(1);
