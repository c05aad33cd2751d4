//! A disk that takes nothing (full, read-only, broken, gone): what is read is kept in memory meanwhile, and caching goes
//! on when the disk works again.
//!
//! A piece in memory is present in the table and readable as any other. It is not journalled (I3), not lent, never a
//! victim of the cache's bounds, and peers are not told of it.

use std::io;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::super::budget::Admitted;
use super::super::recency::Moment;
use super::super::resume::Record;
use super::super::sha1::{self, Sha1};
use super::super::{StorageError, Verdict, io_error};
use super::{Moved, Store, lock};
use crate::base::{BLOCK_BYTES, BlockRef, PieceIndex, PieceRange};

/// How the disk does.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    /// It takes nothing now.
    on: AtomicBool,
    story: Mutex<Story>,
    /// Held by whoever tries the disk.
    trying: Mutex<()>,
}

#[derive(Debug, Default)]
struct Story {
    /// What the system said, while it lasts.
    error: Option<String>,
    /// When the disk is tried again.
    try_at: Option<Instant>,
    /// When it was over the last time.
    over: Option<Instant>,
}

/// What a write may do.
pub(super) enum Place<'s> {
    /// Go to the disk.
    Disk {
        /// Where there are bounds: until the write has ended.
        _admitted: Option<Admitted<'s>>,
    },
    /// Go to memory.
    Memory,
}

impl Store {
    /// Whether the disk takes nothing: how many pieces at a time fit into memory then.
    pub fn memory_alone(&self) -> Option<usize> {
        let piece = u64::from(self.layout.piece_length());
        // One more is being read while the next ones come.
        self.in_trouble().then(|| ((self.backing.capacity() / piece) as usize).saturating_sub(1).max(1))
    }

    /// Whether a piece is in memory, not on the disk.
    pub fn is_in_memory(&self, piece: PieceIndex) -> bool {
        self.backing.has(piece)
    }

    /// What the system said, for people; `None` when the disk works.
    pub(super) fn trouble_for_people(&self) -> Option<String> {
        if self.in_trouble() { lock(&self.trouble.story).error.clone() } else { None }
    }

    /// Whether memory stands in for the disk: for a cache it does, for files of the user's it does not.
    pub(super) fn overflows(&self) -> bool {
        self.backing.is_used()
    }

    pub(super) fn in_trouble(&self) -> bool {
        self.trouble.on.load(Ordering::Acquire)
    }

    /// Whether nothing is to be tried with the disk: it fails, and nobody is looking whether it still does.
    pub(super) fn lets_disk_be(&self) -> bool {
        self.in_trouble() && self.trouble.trying.try_lock().is_ok()
    }

    /// The disk has failed us. Said once, also when it comes and goes.
    pub(super) fn disk_fails(&self, error: &StorageError) {
        let StorageError::Io { source, .. } = error else { return };
        if !self.overflows() || self.in_trouble() {
            return;
        }
        let now = Instant::now();
        let mut story = lock(&self.trouble.story);
        if self.trouble.on.swap(true, Ordering::AcqRel) {
            return;
        }
        story.error = Some(error.to_string());
        story.try_at = Some(now + TRY_EVERY);
        let again = story.over.is_some_and(|over| now.saturating_duration_since(over) < SAME_TROUBLE);
        drop(story);
        let (path, advice) = (self.slot.path.display(), advice(source));
        if again {
            tracing::debug!(%error, "the disk fails again");
        } else {
            tracing::warn!(
                "the disk fails: {error}. What is read is fetched and kept in memory as long as it fits, and not shared. \
                 {advice}; {path} is tried every {} s, and caching goes on by itself",
                TRY_EVERY.as_secs()
            );
        }
    }

    /// Where a run goes to. May evict, and so wait for the disk.
    pub(super) fn place_for(&self, run: BlockRef) -> Place<'_> {
        if self.in_trouble() || self.backing.has(run.piece) {
            return Place::Memory;
        }
        match &self.budget {
            None => Place::Disk { _admitted: None },
            Some(budget) => match budget.admit(self.growth_of(run)) {
                Ok(admitted) => Place::Disk { _admitted: Some(admitted) },
                Err(full) => {
                    self.disk_fails(&self.refused(full));
                    Place::Memory
                }
            },
        }
    }

    /// Keeps a run in memory. Pieces that nobody reads just now make room for it.
    ///
    /// # Errors
    /// When there is none: the attempt is lost.
    pub(super) fn keep_in_memory(&self, run: BlockRef, attempt: u32, blocks: &[Bytes]) -> Result<(), StorageError> {
        for patience in (0..ROOM_TRIES).rev() {
            loop {
                if self.backing.put(run, attempt, blocks) {
                    return Ok(());
                }
                if !self.drop_from_memory() {
                    break;
                }
            }
            // A reader is being answered.
            if patience > 0 && self.backing.capacity() > 0 {
                std::thread::sleep(ROOM_WAIT);
            }
        }
        let told = self.trouble_for_people().unwrap_or_default();
        let why = if self.backing.capacity() == 0 { "its pieces are too long for memory" } else { "no memory left" };
        Err(io_error("keep", &self.slot.path)(io::Error::new(io::ErrorKind::OutOfMemory, format!("{why} ({told})"))))
    }

    /// Lets the piece in memory go that was used longest ago; of those that somebody waits for the newest, so that the
    /// oldest reader gets all of his. False when all are pinned, or there is none.
    fn drop_from_memory(&self) -> bool {
        let guarded = self.guards.now(self.layout.piece_count(), Moment::now()).pieces;
        let (awaited, others): (Vec<_>, Vec<_>) =
            self.backing.by_age().into_iter().partition(|&piece| guarded.has(piece));
        others.into_iter().chain(awaited.into_iter().rev()).any(|piece| self.drop_piece(piece))
    }

    fn drop_piece(&self, piece: PieceIndex) -> bool {
        if !self.table.begin_evict(piece) {
            return false;
        }
        // It may be on the disk by now.
        if self.backing.whole(piece).is_none() {
            self.table.cancel_evict(piece);
            return false;
        }
        self.backing.let_go(piece);
        self.table.end_evict(piece);
        self.tell(Moved::Gone(vec![piece]));
        true
    }

    /// Lets all go that is in memory.
    pub fn forget_memory(&self) {
        for piece in self.backing.by_age() {
            self.drop_piece(piece);
        }
    }

    /// The verdict on a piece of which some is in memory; `None` when nothing is. What is hashed is what is kept.
    pub(super) fn verdict_in_memory(&self, piece: PieceIndex, reread: bool) -> Result<Option<Verdict>, StorageError> {
        let failed = |error| {
            let error = io_error("read", &self.slot.path)(error);
            self.disk_fails(&error);
            error
        };
        let Some((bytes, mixed)) = self.backing.complete(piece).map_err(failed)? else { return Ok(None) };
        self.hashed_pieces.fetch_add(1, Ordering::Relaxed);
        let mut hasher = Sha1::new();
        hasher.update(&bytes);
        if self.hashes.accept(piece, hasher) {
            let in_order = self.ledger.lock();
            if self.table.set_present(piece) {
                self.recency.arrived(piece, Moment::now());
            }
            drop(in_order);
            return Ok(Some(Verdict::Held));
        }
        self.backing.let_go(piece);
        self.enter_absent(piece);
        // What was read back from a disk that fails says nothing of who sent it, if somebody has altered it.
        let blocks = bytes.chunks(BLOCK_BYTES as usize);
        let digests = if reread && mixed { Vec::new() } else { sha1::digests(blocks) };
        Ok(Some(Verdict::Corrupt(digests)))
    }

    /// What a present piece is.
    pub(super) fn present_verdict(&self, piece: PieceIndex) -> Verdict {
        if self.backing.has(piece) { Verdict::Held } else { Verdict::Verified }
    }

    /// Tries a disk that has failed, when that is due, and brings onto it what is in memory. False: nothing is to be
    /// written now.
    pub(super) fn try_disk(&self, now: Instant) -> bool {
        let failing = self.in_trouble();
        if !failing && self.backing.is_empty() {
            return true;
        }
        if failing && lock(&self.trouble.story).try_at.is_some_and(|at| now < at) {
            return false;
        }
        let Ok(_trying) = self.trouble.trying.try_lock() else { return !failing };
        let tried = if failing { self.probe().and_then(|()| self.write_back()) } else { self.write_back() };
        match tried {
            Ok(()) => {
                if failing {
                    let mut story = lock(&self.trouble.story);
                    (story.error, story.over) = (None, Some(Instant::now()));
                    self.trouble.on.store(false, Ordering::Release);
                    drop(story);
                    tracing::info!(path = %self.slot.path.display(), "the disk works again: caching goes on");
                }
                true
            }
            Err(error) if failing => {
                let mut story = lock(&self.trouble.story);
                (story.error, story.try_at) = (Some(error.to_string()), Some(now + TRY_EVERY));
                drop(story);
                tracing::debug!(%error, "the disk still fails");
                false
            }
            Err(error) => {
                self.disk_fails(&error);
                false
            }
        }
    }

    /// Whether the disk takes a small file and, as the bounds go, a piece. Directories that are gone are made anew.
    fn probe(&self) -> Result<(), StorageError> {
        self.settle_home()?;
        let bytes = vec![0xA5; self.layout.piece_length().clamp(PROBE_MIN, PROBE_MAX) as usize];
        let write = || {
            let written = self.notes.create(PROBE, &bytes).and_then(|()| self.notes.sync(PROBE));
            let removed = self.notes.remove(PROBE);
            written.and(removed)
        };
        let mut written = write();
        if written.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::StorageFull)
            && let Some(budget) = &self.budget
            && budget.evict_for_disk(bytes.len() as u64) > 0
        {
            // What was being read when it became full is not any more.
            written = write();
        }
        written.map_err(io_error("write", &self.slot.path))?;
        match &self.budget {
            Some(budget) => {
                budget.admit(self.layout.piece_length().into()).map(drop).map_err(|full| self.refused(full))
            }
            None => Ok(()),
        }
    }

    /// Writes what is in memory to the disk, oldest first: it is as if it had been written there at once.
    fn write_back(&self) -> Result<(), StorageError> {
        let mut kept = Vec::new();
        let mut result = Ok(());
        for piece in self.backing.by_age() {
            result = self.write_piece_back(piece).map(|written| kept.extend(written.then_some(piece)));
            if result.is_err() {
                break;
            }
        }
        if !kept.is_empty() {
            self.tell(Moved::OnDisk(kept));
        }
        result
    }

    /// False when it has gone, or has to be tried again.
    fn write_piece_back(&self, piece: PieceIndex) -> Result<bool, StorageError> {
        // Under a pin nobody lets it go (I2); one that is not present yet has no verdict.
        let Some(_pins) = self.table.pin(PieceRange::one(piece)) else { return Ok(false) };
        let Some(bytes) = self.backing.whole(piece) else { return Ok(false) };
        let whole = BlockRef { piece, begin: 0, length: bytes.len() as u32 };
        let _admitted = match &self.budget {
            Some(budget) => Some(budget.admit(self.growth_of(whole)).map_err(|full| self.refused(full))?),
            None => None,
        };
        let doubts = self.ledger.doubts();
        let edges = self.edges.read().unwrap_or_else(PoisonError::into_inner);
        for (number, part) in bytes.chunks(PART_BYTES).enumerate() {
            let run = BlockRef { piece, begin: (number * PART_BYTES) as u32, length: part.len() as u32 };
            self.write_blocks(run, &[Bytes::copy_from_slice(part)], None)?;
        }
        drop(edges);
        let mut ledger = self.ledger.lock();
        if ledger.doubts != doubts {
            return Ok(false);
        }
        // From here on it is read from the disk.
        self.backing.let_go(piece);
        ledger.pending.push(Record::Have(piece));
        Ok(true)
    }
}

/// What a user can do about it.
fn advice(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EDQUOT) => "Free some of the disk, or mount again with another --cache-dir",
        Some(libc::EROFS) => "Remount the disk for writing",
        Some(libc::ENOENT | libc::ENOTDIR) => "The cache directory was removed, and is made again",
        Some(libc::EACCES | libc::EPERM) => "Make the cache directory writable",
        _ if error.kind() == io::ErrorKind::QuotaExceeded => {
            "The cache is full of what is pinned or being read: raise --cache-size, or lower --cache-min-free"
        }
        _ => "See what the system says of the disk (dmesg), or mount again with another --cache-dir",
    }
}

/// A disk that fails is tried again so often.
const TRY_EVERY: Duration = Duration::from_secs(10);
/// Trouble that comes back within this is not said again.
const SAME_TROUBLE: Duration = Duration::from_secs(300);
/// How often, and for how long, a run waits for memory before its attempt is lost.
const ROOM_TRIES: u32 = 10;
const ROOM_WAIT: Duration = Duration::from_millis(10);
/// The file that a disk is tried with, and its size: about a piece.
const PROBE: &str = "probe";
const PROBE_MIN: u32 = 64 << 10;
const PROBE_MAX: u32 = 1 << 20;
/// Written at once.
const PART_BYTES: usize = 1 << 20;
