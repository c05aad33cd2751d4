//! What we last saw of each file, so that somebody else's change of it is noticed (docs/architecture.md §6, stamps).
//!
//! Our own writes move a file's times too. So a file is looked at before the first and after the last of a bunch of
//! overlapping writes: the look before must find what the look after the last bunch left.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::super::StorageError;
use super::super::backing::{Backing, Identity, Seen};
use super::super::io_error;
use crate::base::{FileIndex, Layout};

/// One entry a file.
#[derive(Debug)]
pub(super) struct Tracks {
    files: Box<[Mutex<Track>]>,
    /// Sum over all files, as of the last look at each, and what writes may have added since: never too little.
    allocated: AtomicI64,
}

#[derive(Debug, Default)]
struct Track {
    /// Writes of ours that are under way, and a number that each beginning and end of one moves.
    writing: u32,
    turn: u32,
    /// The file after our last write, `None` when there is none.
    stamp: Option<Identity>,
    allocated: u64,
    /// Bytes that writes may have added since the last look.
    growth: u64,
    /// Alterations that were found and whose pieces are not yet taken out of service: until then the stamp, which is
    /// of the altered file, must not be written down.
    unsettled: u32,
}

impl Track {
    fn join(&mut self, growth: u64) {
        self.writing += 1;
        self.growth += growth;
        self.turn = self.turn.wrapping_add(1);
    }
}

/// What a look at a file came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// As we left it, or our own writes are under way and nothing can be told.
    Same,
    /// Somebody else has written, cut, replaced or removed it. Whoever is told so takes its pieces out of service and
    /// then calls [`Tracks::settled`].
    Altered,
}

impl Tracks {
    /// Starts from what was seen of each file at opening.
    pub(super) fn new(seen: impl Iterator<Item = Option<Seen>>) -> Self {
        let mut sum = 0;
        let files = seen
            .map(|seen| {
                let allocated = seen.map_or(0, |seen| seen.allocated);
                sum += allocated as i64;
                Mutex::new(Track { stamp: seen.map(|seen| seen.identity), allocated, ..Track::default() })
            })
            .collect();
        Self { files, allocated: AtomicI64::new(sum) }
    }

    /// Bytes allocated on disk, at most.
    pub(super) fn allocated(&self) -> u64 {
        self.allocated.load(Ordering::Relaxed).max(0) as u64
    }

    /// Whether a file takes anything on the disk.
    pub(super) fn has_bytes(&self, file: FileIndex) -> bool {
        let track = self.lock(file);
        track.allocated + track.growth > 0
    }

    /// The file as we left it; `None` while our own writes move it, and when there is none, or it is being distrusted.
    pub(super) fn stamp(&self, file: FileIndex) -> Option<Identity> {
        let track = self.lock(file);
        track.stamp.filter(|_| track.writing == 0 && track.unsettled == 0)
    }

    /// The pieces of a file that was found altered are out of service.
    pub(super) fn settled(&self, file: FileIndex) {
        self.lock(file).unsettled -= 1;
    }

    /// Compares a file with what we left, and takes what is there now as seen.
    pub(super) fn look(&self, file: FileIndex, backing: &dyn Backing) -> Result<Look, StorageError> {
        self.look_and(file, backing, |_| {})
    }

    /// To be called before a write that may allocate `growth` bytes, and [`end_write`](Self::end_write) after it unless
    /// this fails.
    pub(super) fn begin_write(
        &self,
        file: FileIndex,
        growth: u64,
        backing: &dyn Backing,
    ) -> Result<Look, StorageError> {
        self.look_and(file, backing, |track| {
            track.join(growth);
            self.allocated.fetch_add(growth as i64, Ordering::Relaxed);
        })
    }

    /// Whether the file is there and of its right length, as far as we have looked.
    pub(super) fn is_prepared(&self, file: FileIndex, layout: &Layout) -> bool {
        self.lock(file).stamp.is_some_and(|stamp| stamp.size == layout.file_bytes(file))
    }

    /// To be called after a write, whatever it came to.
    pub(super) fn end_write(&self, file: FileIndex, layout: &Layout, backing: &dyn Backing) -> Look {
        let length = layout.file_bytes(file);
        for look in 1.. {
            let turn = {
                let mut track = self.lock(file);
                if track.writing > 1 {
                    track.writing -= 1;
                    track.turn = track.turn.wrapping_add(1);
                    return Look::Same;
                }
                track.turn
            };
            // Outside the lock: a look may wait for the disk. If it fails, nothing is known of the file.
            let seen = backing.seen(file).ok().flatten();
            let mut track = self.lock(file);
            // If others have written meanwhile, what was seen may be from before or after.
            if track.turn == turn || (look >= LOOKS && track.writing == 1) {
                let before = track.stamp;
                self.see(&mut track, seen);
                track.writing = 0;
                track.turn = track.turn.wrapping_add(1);
                let same_file = match (before, track.stamp) {
                    (Some(before), Some(now)) => now.is_same_file(&before),
                    (None, Some(_)) => true,
                    (_, None) => false,
                };
                // The length is always ours: a file that was cut before this write has got it back.
                let ours = same_file && track.stamp.is_some_and(|now| now.size == length);
                track.unsettled += u32::from(!ours);
                drop(track);
                if !same_file {
                    backing.forget(file);
                }
                return if ours { Look::Same } else { Look::Altered };
            }
        }
        Look::Same
    }

    fn look_and(
        &self,
        file: FileIndex,
        backing: &dyn Backing,
        then: impl Fn(&mut Track),
    ) -> Result<Look, StorageError> {
        for _ in 0..LOOKS {
            let turn = {
                let mut track = self.lock(file);
                if track.writing > 0 {
                    then(&mut track);
                    return Ok(Look::Same);
                }
                track.turn
            };
            let seen = backing.seen(file).map_err(io_error("stat", &backing.path(file)))?;
            let now = seen.map(|seen| seen.identity);
            let mut track = self.lock(file);
            if track.turn != turn {
                continue;
            }
            let before = track.stamp;
            if before != now {
                self.see(&mut track, seen);
                track.unsettled += 1;
            }
            then(&mut track);
            drop(track);
            if before.is_some_and(|before| now.is_none_or(|now| !now.is_same_file(&before))) {
                backing.forget(file);
            }
            return Ok(if before == now { Look::Same } else { Look::Altered });
        }
        then(&mut self.lock(file));
        Ok(Look::Same)
    }

    fn see(&self, track: &mut Track, seen: Option<Seen>) {
        let allocated = seen.map_or(0, |seen| seen.allocated);
        let before = track.allocated + std::mem::take(&mut track.growth);
        self.allocated.fetch_add(allocated as i64 - before as i64, Ordering::Relaxed);
        track.allocated = allocated;
        track.stamp = seen.map(|seen| seen.identity);
    }

    fn lock(&self, file: FileIndex) -> MutexGuard<'_, Track> {
        self.files[file.at()].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How often a look is repeated when our own writes come in between.
const LOOKS: u32 = 4;
