//! Writing and hashing pieces.
//!
//! Runs of a piece come from several threads in any order. Each is written at once; the hash advances in order over
//! runs while they are warm, and over what came too early by reading it back from the page cache. One thread at a time
//! holds the hash; no lock is held while it works.

use std::collections::hash_map::Entry;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLockReadGuard};
use std::time::Instant;

use bytes::Bytes;

use super::super::backing::Backing;
use super::super::budget::Full;
use super::super::recency::Moment;
use super::super::resume::Record;
use super::super::sha1::{Sha1, update_together};
use super::super::verify::Ranges;
use super::super::{PieceState, StorageError, Verdict, io_error};
use super::evict::UNIT;
use super::trouble::Place;
use super::{Look, Store, lock};
use crate::base::{BlockRef, FileIndex, PieceIndex};

/// Consecutive blocks of a piece that are to be written.
#[derive(Debug)]
pub struct Run {
    /// The piece.
    pub piece: PieceIndex,
    /// The attempt at it; the higher number is the newer one.
    pub attempt: u32,
    /// First byte inside the piece.
    pub begin: u32,
    /// What is written there.
    pub blocks: Vec<Bytes>,
}

/// The hash of a piece, gone over a run that is not written yet.
pub(super) struct Ahead {
    progress: Arc<InProgress>,
    hasher: Sha1,
}

/// A piece that is being written.
#[derive(Debug)]
pub(super) struct InProgress {
    attempt: u32,
    hashing: Mutex<Hashing>,
}

#[derive(Debug, Default)]
struct Hashing {
    /// `None` while a thread works with it, and after the end.
    hasher: Option<Sha1>,
    /// How far it has got.
    hashed: u32,
    written: Ranges,
    /// A file of the piece was altered behind our back, or has other bytes than those that were sent: the hash tells
    /// nothing of what lies on disk.
    reread: bool,
    /// The file that had other bytes, and is not ours to write.
    disputed: Option<FileIndex>,
    /// A write has failed, or the verdict is spoken.
    over: bool,
}

impl InProgress {
    pub(super) fn reread(&self) {
        lock(&self.hashing).reread = true;
    }

    /// A file that is not ours to write has other bytes than those that were sent.
    fn dispute(&self, file: FileIndex) {
        let mut hashing = lock(&self.hashing);
        hashing.reread = true;
        hashing.disputed = Some(file);
    }
}

/// Counts a run that is being written, from before it asks whether the store is closed.
struct Writing<'s>(&'s AtomicUsize);

impl<'s> Writing<'s> {
    fn begin(count: &'s AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Store {
    /// Takes the hashes of these pieces over their runs, all together, as far as they have come just there.
    pub(super) fn hash_ahead(&self, runs: &[Run]) -> Vec<Option<Ahead>> {
        let take = |run: &Run| {
            let is_fit = self.checked_run(run).is_ok() && self.table.state(run.piece) != PieceState::Present;
            let progress = if is_fit { self.enter(run.piece, run.attempt)? } else { return None };
            let hasher = lock(&progress.hashing).take_at(run.begin)?;
            Some(Ahead { progress, hasher })
        };
        let mut ahead: Vec<_> = runs.iter().map(take).collect();
        // One alone needs no turns, nor a list of who takes part for each block.
        if let ([run], [ahead]) = (runs, &mut ahead[..]) {
            ahead.iter_mut().for_each(|ahead| run.blocks.iter().for_each(|block| ahead.hasher.update(block)));
            return vec![ahead.take()];
        }
        for number in 0..runs.iter().map(|run| run.blocks.len()).max().unwrap_or(0) {
            let taken = ahead.iter_mut().zip(runs);
            update_together(
                taken.filter_map(|(ahead, run)| Some((&mut ahead.as_mut()?.hasher, &run.blocks.get(number)?[..]))),
            );
        }
        ahead
    }

    /// `ahead`: what [`hash_ahead`](Self::hash_ahead) has done for it.
    pub(super) fn write_run(&self, run: &Run, ahead: Option<Ahead>) -> Result<Verdict, StorageError> {
        let _writing = Writing::begin(&self.writing);
        let hashed = ahead.as_ref().map(|ahead| Arc::clone(&ahead.progress));
        let verdict = self.write_hashed_run(run, ahead);
        if let (Err(_), Some(progress)) = (&verdict, hashed) {
            // The attempt is lost: its hash has seen what is nowhere.
            self.lose(run.piece, &progress);
        }
        verdict
    }

    fn write_hashed_run(&self, run: &Run, ahead: Option<Ahead>) -> Result<Verdict, StorageError> {
        let &Run { piece, attempt, ref blocks, .. } = run;
        let run = self.checked_run(run)?;
        if self.table.state(piece) == PieceState::Present {
            // A late duplicate: dropped, never written (I6).
            ahead.inspect(|ahead| self.leave(piece, &ahead.progress));
            return Ok(self.present_verdict(piece));
        }
        let place = self.place_for(run);
        self.wait_for_punch(piece)?;
        let edges = self.edges.read().unwrap_or_else(PoisonError::into_inner);
        let Some(progress) = self.enter(piece, attempt) else { return Ok(Verdict::Incomplete) };
        let warm = ahead.filter(|ahead| Arc::ptr_eq(&ahead.progress, &progress)).map(|ahead| ahead.hasher);
        let failure = match &place {
            Place::Disk { .. } => {
                let written = self.write_to_disk(run, blocks, &progress, edges);
                written.inspect_err(|error| self.disk_fails(error)).err()
            }
            Place::Memory => {
                drop(edges);
                None
            }
        };
        let on_disk = failure.is_none() && matches!(place, Place::Disk { .. });
        drop(place);
        if !on_disk && let Err(error) = self.keep_in_memory(run, attempt, blocks) {
            // The attempt is lost: its hash has seen what is nowhere.
            self.lose(piece, &progress);
            return Err(failure.unwrap_or(error));
        }
        lock(&progress.hashing).put(run, warm);
        if !on_disk && lock(&progress.hashing).over {
            // Another run of the attempt has lost it meanwhile.
            self.backing.let_go_of_attempt(piece, attempt);
        }
        self.advance(piece, &progress)
    }

    /// Writes a run, evicting pieces when the disk has no room for it.
    fn write_to_disk<'s>(
        &'s self,
        run: BlockRef,
        blocks: &[Bytes],
        progress: &InProgress,
        mut edges: RwLockReadGuard<'s, ()>,
    ) -> Result<(), StorageError> {
        let mut written = self.write_blocks(run, blocks, Some(progress));
        while let Err(StorageError::Io { source, .. }) = &written
            && source.kind() == io::ErrorKind::StorageFull
            && let Some(budget) = &self.budget
        {
            // Whoever evicts needs it.
            drop(edges);
            let freed = budget.evict_for_disk(self.growth_of(run));
            edges = self.edges.read().unwrap_or_else(PoisonError::into_inner);
            if freed == 0 {
                break;
            }
            written = self.write_blocks(run, blocks, Some(progress));
        }
        drop(edges);
        written
    }

    pub(super) fn check_piece(&self, piece: PieceIndex) -> Result<Verdict, StorageError> {
        match self.table.state(piece) {
            PieceState::Present => return Ok(self.present_verdict(piece)),
            PieceState::Evicting => return Err(StorageError::Absent(piece.raw())),
            PieceState::Absent | PieceState::Unchecked => {}
        }
        for _ in 0..CHECK_TRIES {
            let doubts = self.ledger.doubts();
            let mut hasher = Sha1::new();
            let matches = match self.hash_on_disk(piece, 0, self.layout.piece_bytes(piece), &mut hasher) {
                Ok(()) => self.hashes.accept(piece, hasher),
                Err(StorageError::Absent(_)) => false,
                // What cannot be read is not there; a user's own files may be readable again later.
                Err(error) if !self.overflows() => return Err(error),
                Err(error) => {
                    self.disk_fails(&error);
                    false
                }
            };
            self.hashed_pieces.fetch_add(1, Ordering::Relaxed);
            if !matches {
                self.enter_absent(piece);
                return Ok(Verdict::Corrupt(Vec::new()));
            }
            // Whoever wrote it, it may be in the page cache alone.
            self.ledger.wrote_piece(piece, &self.layout, Instant::now());
            if self.enter_present(piece, doubts) {
                return Ok(self.present_verdict(piece));
            }
        }
        // Somebody writes into the files all the time.
        Err(io_error("check", &self.slot.path)(io::ErrorKind::ResourceBusy.into()))
    }

    /// The run as a range, if the store takes writes and it lies inside its piece.
    fn checked_run(&self, &Run { piece, begin, ref blocks, .. }: &Run) -> Result<BlockRef, StorageError> {
        let refuse = |kind: io::ErrorKind| io_error("write", &self.slot.path)(kind.into());
        if self.adopted {
            return Err(refuse(io::ErrorKind::ReadOnlyFilesystem));
        }
        if self.closed.load(Ordering::SeqCst) {
            return Err(refuse(io::ErrorKind::BrokenPipe));
        }
        let length: usize = blocks.iter().map(Bytes::len).sum();
        let length = u32::try_from(length).map_err(|_| refuse(io::ErrorKind::InvalidInput))?;
        let inside = begin.checked_add(length).is_some_and(|end| end <= self.layout.piece_bytes(piece));
        if !inside {
            return Err(refuse(io::ErrorKind::InvalidInput));
        }
        Ok(BlockRef { piece, begin, length })
    }

    /// Bytes of the disk that a run may take.
    pub(super) fn growth_of(&self, run: BlockRef) -> u64 {
        let spans = self.layout.block_spans(run).filter(|span| !span.padding);
        spans.map(|span| blocks_touched(span.offset, span.length)).sum()
    }

    pub(super) fn refused(&self, full: Full) -> StorageError {
        tracing::debug!(wanted = full.wanted, "the cache is full and nothing of it may go");
        io_error("write", &self.slot.path)(io::ErrorKind::QuotaExceeded.into())
    }

    /// The entry of an attempt; `None` when a newer one has begun.
    fn enter(&self, piece: PieceIndex, attempt: u32) -> Option<Arc<InProgress>> {
        match lock(&self.progress).entry(piece) {
            Entry::Occupied(entry) if entry.get().attempt == attempt => Some(Arc::clone(entry.get())),
            Entry::Occupied(entry) if entry.get().attempt > attempt => None,
            Entry::Occupied(mut entry) => {
                entry.insert(InProgress::new(attempt));
                Some(Arc::clone(entry.get()))
            }
            Entry::Vacant(entry) => Some(Arc::clone(entry.insert(InProgress::new(attempt)))),
        }
    }

    fn leave(&self, piece: PieceIndex, ours: &Arc<InProgress>) {
        if let Entry::Occupied(entry) = lock(&self.progress).entry(piece)
            && Arc::ptr_eq(entry.get(), ours)
        {
            entry.remove();
        }
    }

    /// Ends an attempt that has failed.
    fn lose(&self, piece: PieceIndex, ours: &Arc<InProgress>) {
        lock(&ours.hashing).over = true;
        self.leave(piece, ours);
        self.backing.let_go_of_attempt(piece, ours.attempt);
    }

    /// Brings the hash forward over what is written, as far as there is no gap; at the end speaks the verdict.
    fn advance(&self, piece: PieceIndex, progress: &Arc<InProgress>) -> Result<Verdict, StorageError> {
        let length = self.layout.piece_bytes(piece);
        loop {
            let (mut hasher, from, to) = {
                let doubts = self.ledger.doubts();
                let mut hashing = lock(&progress.hashing);
                let (from, to) = (hashing.hashed, hashing.written.end_of_run(hashing.hashed));
                if hashing.over || (from == to && from < length) {
                    return Ok(Verdict::Incomplete);
                }
                // Somebody else has the hash: they will find what we have written.
                let Some(hasher) = hashing.hasher.take() else { return Ok(Verdict::Incomplete) };
                if from == length {
                    hashing.over = true;
                    let (reread, disputed) = (hashing.reread, hashing.disputed);
                    drop(hashing);
                    let verdict = self.verdict(piece, doubts, hasher, reread);
                    if let (Ok(Verdict::Corrupt(_)), Some(file)) = (&verdict, disputed) {
                        self.dispute(file);
                    }
                    match &verdict {
                        Ok(_) => self.leave(piece, progress),
                        Err(error) => {
                            self.disk_fails(error);
                            self.lose(piece, progress);
                        }
                    }
                    return verdict;
                }
                (hasher, from, to)
            };
            if let Err(error) = self.hash_on_disk(piece, from, to, &mut hasher) {
                self.disk_fails(&error);
                self.lose(piece, progress);
                return Err(error);
            }
            let mut hashing = lock(&progress.hashing);
            hashing.hashed = to;
            hashing.hasher = Some(hasher);
        }
    }

    fn verdict(&self, piece: PieceIndex, doubts: u64, mut hasher: Sha1, reread: bool) -> Result<Verdict, StorageError> {
        if let Some(verdict) = self.verdict_in_memory(piece, reread)? {
            return Ok(verdict);
        }
        if reread {
            hasher = Sha1::new();
            self.hash_on_disk(piece, 0, self.layout.piece_bytes(piece), &mut hasher)?;
        }
        self.hashed_pieces.fetch_add(1, Ordering::Relaxed);
        if self.hashes.accept(piece, hasher) {
            if self.enter_present(piece, doubts) {
                return Ok(Verdict::Verified);
            }
            return self.check_piece(piece);
        }
        self.enter_absent(piece);
        if reread {
            // Somebody else wrote into the file meanwhile: what lies there says nothing of who sent it.
            return Ok(Verdict::Corrupt(Vec::new()));
        }
        self.digests_on_disk(piece).map(Verdict::Corrupt)
    }

    /// `progress`: who is told when a file that is not ours to write has other bytes.
    pub(super) fn write_blocks(
        &self,
        run: BlockRef,
        blocks: &[Bytes],
        progress: Option<&InProgress>,
    ) -> Result<(), StorageError> {
        let mut blocks = blocks.iter().map(|block| &block[..]).filter(|block| !block.is_empty());
        let mut rest: &[u8] = &[];
        let mut slices = Vec::new();
        for span in self.layout.block_spans(run) {
            slices.clear();
            let mut missing = span.length as usize;
            while missing > 0 {
                if rest.is_empty() {
                    rest = blocks.next().expect("the run is as long as its blocks");
                }
                let (part, tail) = rest.split_at(missing.min(rest.len()));
                slices.push(IoSlice::new(part));
                missing -= part.len();
                rest = tail;
            }
            if span.padding {
                continue;
            }
            if !self.backing.is_placed(span.file) {
                self.write_slices(span.file, span.offset, &mut slices)?;
            } else if !self.holds(span, &slices)?
                && let Some(progress) = progress
            {
                progress.dispute(span.file);
            }
        }
        Ok(())
    }

    fn write_slices(&self, file: FileIndex, offset: u64, slices: &mut [IoSlice<'_>]) -> Result<(), StorageError> {
        let length = slices.iter().map(|slice| slice.len() as u64).sum();
        let written = self.change(file, length, blocks_touched(offset, length), || {
            self.backing.write_vectored_at(file, offset, slices)
        })?;
        written.map_err(io_error("write", &self.backing.path(file)))
    }

    /// Enters a piece whose hash is right; false when something was found altered since its reading began, at `doubts`:
    /// then the hash may tell of bytes that are no more.
    pub(super) fn enter_present(&self, piece: PieceIndex, doubts: u64) -> bool {
        let mut ledger = self.ledger.lock();
        if ledger.doubts != doubts {
            return false;
        }
        if self.table.set_present(piece) {
            self.recency.arrived(piece, Moment::now());
            // What is in memory alone dies with us (I3).
            if !self.backing.has(piece) {
                ledger.pending.push(Record::Have(piece));
            }
        }
        true
    }

    pub(super) fn enter_absent(&self, piece: PieceIndex) {
        let mut ledger = self.ledger.lock();
        if self.table.set_absent(piece) {
            ledger.pending.push(Record::Gone(piece));
        }
    }

    /// Does something to a file of ours, between a look for what others have done and a look at what it has become.
    /// `bytes` are written, and at most `growth` allocated.
    pub(super) fn change(
        &self,
        file: FileIndex,
        bytes: u64,
        growth: u64,
        action: impl FnOnce() -> io::Result<()>,
    ) -> Result<io::Result<()>, StorageError> {
        if self.tracks.begin_write(file, growth, &self.backing)? == Look::Altered {
            self.altered(file);
        }
        let prepared = if self.tracks.is_prepared(file, &self.layout) { Ok(()) } else { self.backing.prepare(file) };
        let result = prepared.and_then(|()| action());
        if self.tracks.end_write(file, &self.layout, &self.backing) == Look::Altered {
            self.altered(file);
        }
        self.ledger.wrote(file, bytes, Instant::now());
        Ok(result)
    }
}

impl InProgress {
    pub(super) fn attempt(&self) -> u32 {
        self.attempt
    }

    fn new(attempt: u32) -> Arc<Self> {
        let hashing = Hashing { hasher: Some(Sha1::new()), ..Hashing::default() };
        Arc::new(Self { attempt, hashing: Mutex::new(hashing) })
    }
}

impl Hashing {
    /// The hash, if it has come just as far as `begin`.
    fn take_at(&mut self, begin: u32) -> Option<Sha1> {
        if self.hashed == begin { self.hasher.take() } else { None }
    }

    /// Books a run as written; `warm` is the hash if it has gone over the run.
    fn put(&mut self, run: BlockRef, warm: Option<Sha1>) {
        let end = run.begin + run.length;
        self.written.insert(run.begin, end);
        if let Some(hasher) = warm {
            self.hashed = end;
            self.hasher = Some(hasher);
        }
    }
}

/// What a range takes on the disk, in whole blocks of it.
fn blocks_touched(offset: u64, length: u64) -> u64 {
    (offset + length).next_multiple_of(UNIT) - offset / UNIT * UNIT
}

/// Readings of a piece while its files are altered meanwhile.
const CHECK_TRIES: usize = 8;
