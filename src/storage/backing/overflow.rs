//! What the disk does not take, kept in memory: pieces that are being fetched, and whole ones. Everything else lies on the
//! disk behind it, and reads look there.
//!
//! Knows nothing of hashes and readers, and decides nothing: the store says what is put here, what goes, and when.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::{Backing, Identity, Seen};
use crate::base::{BlockRef, FileIndex, Layout, PieceIndex, PieceRange};
use crate::storage::StorageError;
use crate::storage::sys::Mapping;
use crate::storage::verify::Ranges;

/// A disk, and memory for what it does not take.
#[derive(Debug)]
pub(crate) struct Overflow {
    layout: Arc<Layout>,
    disk: Arc<dyn Backing>,
    /// What may be in memory, or two pieces where that is more; longer pieces than this are not kept at all.
    limit: u64,
    /// Pieces in memory; while it is 0 nobody takes the lock.
    count: AtomicUsize,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    pieces: HashMap<PieceIndex, Entry>,
    /// Of all entries, each with the length of its piece.
    bytes: u64,
    /// Moves with each use.
    clock: u64,
}

#[derive(Debug)]
struct Entry {
    /// The attempt that writes it.
    attempt: u32,
    content: Content,
    /// By the clock.
    used: u64,
}

#[derive(Debug)]
enum Content {
    /// What has come; the rest lies on the disk, or nowhere yet.
    Part { buffer: Vec<u8>, filled: Ranges },
    /// All of it: nothing is read from the disk.
    Whole(Arc<Vec<u8>>),
}

impl Overflow {
    /// Memory in front of `disk`, with nothing in it: for `limit` bytes, or two pieces where that is more.
    pub(crate) fn new(layout: Arc<Layout>, disk: Arc<dyn Backing>, limit: u64) -> Self {
        Self { layout, disk, limit, count: AtomicUsize::new(0), kept: Mutex::default() }
    }

    /// Bytes that may be in memory; 0: a piece is too long for it (I7).
    pub(crate) fn capacity(&self) -> u64 {
        let piece = u64::from(self.layout.piece_length());
        if piece > self.limit { 0 } else { self.limit.max(2 * piece) }
    }

    /// Whether anything is ever put here.
    pub(crate) fn is_used(&self) -> bool {
        self.limit > 0
    }

    /// Bytes and whole pieces in memory.
    pub(crate) fn size(&self) -> (u64, usize) {
        if self.is_empty() {
            return (0, 0);
        }
        let kept = self.lock();
        (kept.bytes, kept.pieces.values().filter(|entry| entry.is_whole()).count())
    }

    /// Whether there is nothing in memory.
    pub(crate) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// Whether some of a piece is in memory.
    pub(crate) fn has(&self, piece: PieceIndex) -> bool {
        !self.is_empty() && self.lock().pieces.contains_key(&piece)
    }

    /// A piece, if all of it is in memory.
    pub(crate) fn whole(&self, piece: PieceIndex) -> Option<Arc<Vec<u8>>> {
        if self.is_empty() {
            return None;
        }
        match &self.lock().pieces.get(&piece)?.content {
            Content::Whole(bytes) => Some(Arc::clone(bytes)),
            Content::Part { .. } => None,
        }
    }

    /// The whole pieces, least recently used first.
    pub(crate) fn by_age(&self) -> Vec<PieceIndex> {
        if self.is_empty() {
            return Vec::new();
        }
        let kept = self.lock();
        let mut pieces: Vec<_> = kept
            .pieces
            .iter()
            .filter(|(_, entry)| entry.is_whole())
            .map(|(&piece, entry)| (entry.used, piece))
            .collect();
        drop(kept);
        pieces.sort_unstable();
        pieces.into_iter().map(|(_, piece)| piece).collect()
    }

    /// Takes a run of an attempt; false when there is no room for its piece.
    pub(crate) fn put(&self, run: BlockRef, attempt: u32, blocks: &[Bytes]) -> bool {
        let length = self.layout.piece_bytes(run.piece);
        let capacity = self.capacity();
        let mut kept = self.lock();
        if kept.pieces.get(&run.piece).is_some_and(|entry| entry.attempt != attempt) {
            self.remove_in(&mut kept, run.piece);
        }
        if !kept.pieces.contains_key(&run.piece) {
            if kept.bytes + u64::from(length) > capacity {
                return false;
            }
            // Zeroed by the system, page by page, as it is written to.
            let content = Content::Part { buffer: vec![0; length as usize], filled: Ranges::default() };
            kept.pieces.insert(run.piece, Entry { attempt, content, used: 0 });
            kept.bytes += u64::from(length);
            self.count.store(kept.pieces.len(), Ordering::Release);
        }
        kept.clock += 1;
        let now = kept.clock;
        let Some(entry) = kept.pieces.get_mut(&run.piece) else { return false };
        entry.used = now;
        if let Content::Part { buffer, filled } = &mut entry.content {
            let mut at = run.begin as usize;
            for block in blocks {
                buffer[at..at + block.len()].copy_from_slice(block);
                at += block.len();
            }
            filled.insert(run.begin, run.begin + run.length);
        }
        true
    }

    /// Brings what lies on the disk of a piece, of which some is here, into memory; `None` when nothing of it is here.
    /// Whether anything came from there is told as well.
    ///
    /// # Errors
    /// What the disk says, or that a file ends too early. The piece is forgotten then.
    pub(crate) fn complete(&self, piece: PieceIndex) -> io::Result<Option<(Arc<Vec<u8>>, bool)>> {
        let taken = {
            let mut kept = self.lock();
            let Some(entry) = kept.pieces.get_mut(&piece) else { return Ok(None) };
            match &mut entry.content {
                Content::Whole(bytes) => return Ok(Some((Arc::clone(bytes), false))),
                // Nobody else is at a piece whose last run is here: the verdict is one thread's.
                Content::Part { buffer, filled } => (std::mem::take(buffer), std::mem::take(filled)),
            }
        };
        let (mut buffer, filled) = taken;
        let gaps = filled.gaps(self.layout.piece_bytes(piece));
        let mixed = !gaps.is_empty();
        for gap in gaps {
            if let Err(error) = self.read_gap(piece, gap, &mut buffer) {
                self.let_go(piece);
                return Err(error);
            }
        }
        let bytes = Arc::new(buffer);
        if let Some(entry) = self.lock().pieces.get_mut(&piece) {
            entry.content = Content::Whole(Arc::clone(&bytes));
        }
        Ok(Some((bytes, mixed)))
    }

    /// Gives the memory of a piece back.
    pub(crate) fn let_go(&self, piece: PieceIndex) {
        if !self.is_empty() {
            let gone = self.remove_in(&mut self.lock(), piece);
            drop(gone);
        }
    }

    /// As [`let_go`](Self::let_go), if it is of this attempt.
    pub(crate) fn let_go_of_attempt(&self, piece: PieceIndex, attempt: u32) {
        if self.is_empty() {
            return;
        }
        let mut kept = self.lock();
        if kept.pieces.get(&piece).is_some_and(|entry| entry.attempt == attempt) {
            let gone = self.remove_in(&mut kept, piece);
            drop(kept);
            drop(gone);
        }
    }

    fn remove_in(&self, kept: &mut Kept, piece: PieceIndex) -> Option<Entry> {
        let gone = kept.pieces.remove(&piece);
        if gone.is_some() {
            kept.bytes -= u64::from(self.layout.piece_bytes(piece));
            self.count.store(kept.pieces.len(), Ordering::Release);
        }
        gone
    }

    fn read_gap(&self, piece: PieceIndex, gap: Range<u32>, buffer: &mut [u8]) -> io::Result<()> {
        let block = BlockRef { piece, begin: gap.start, length: gap.end - gap.start };
        let mut rest = &mut buffer[gap.start as usize..gap.end as usize];
        for span in self.layout.block_spans(block) {
            let (part, tail) = rest.split_at_mut(span.length as usize);
            rest = tail;
            if !span.padding && self.disk.read_at(span.file, span.offset, part)? != part.len() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// Reads a range of a file: what is in memory from there, the rest by `disk`, which may read less. `None` from it: it
    /// would have to wait.
    fn read_with(
        &self,
        file: FileIndex,
        offset: u64,
        buffer: &mut [u8],
        disk: impl Fn(u64, &mut [u8]) -> io::Result<Option<usize>>,
    ) -> io::Result<Option<usize>> {
        if self.is_empty() || !self.has_any_of(self.layout.pieces_of(file, offset, buffer.len() as u64)) {
            return disk(offset, buffer);
        }
        let mut done = 0;
        while done < buffer.len() {
            let start = self.layout.file_start(file) + offset + done as u64;
            match self.copy(start, &mut buffer[done..]) {
                Ok(copied) => done += copied,
                Err(gap) => match disk(offset + done as u64, &mut buffer[done..done + gap])? {
                    None => return Ok(None),
                    Some(read) if read < gap => return Ok(Some(done + read)),
                    Some(read) => done += read,
                },
            }
        }
        Ok(Some(done))
    }

    /// Copies what is in memory at a position of the torrent, inside one piece: how many bytes, or how many are not here.
    fn copy(&self, start: u64, part: &mut [u8]) -> Result<usize, usize> {
        let Some(piece) = self.layout.pieces_at(start, 1).first() else { return Err(part.len()) };
        let begin = (start - self.layout.piece_start(piece)) as u32;
        let length = part.len().min((self.layout.piece_bytes(piece) - begin) as usize);
        let mut kept = self.lock();
        kept.clock += 1;
        let now = kept.clock;
        let Some(entry) = kept.pieces.get_mut(&piece) else { return Err(length) };
        entry.used = now;
        let bytes = match &entry.content {
            Content::Whole(bytes) => Arc::clone(bytes),
            Content::Part { buffer, filled } => {
                let end = begin + length as u32;
                let run = filled.end_of_run(begin).min(end);
                if run == begin {
                    return Err((filled.next_run(begin).min(end) - begin) as usize);
                }
                let copied = (run - begin) as usize;
                part[..copied].copy_from_slice(&buffer[begin as usize..run as usize]);
                return Ok(copied);
            }
        };
        drop(kept);
        part[..length].copy_from_slice(&bytes[begin as usize..begin as usize + length]);
        Ok(length)
    }

    fn has_any_of(&self, pieces: PieceRange) -> bool {
        let kept = self.lock();
        pieces.iter().any(|piece| kept.pieces.contains_key(&piece))
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn is_whole(&self) -> bool {
        matches!(self.content, Content::Whole(_))
    }
}

impl Backing for Overflow {
    fn read_at(&self, file: FileIndex, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let disk = |at, part: &mut [u8]| self.disk.read_at(file, at, part).map(Some);
        self.read_with(file, offset, buffer, disk).map(Option::unwrap_or_default)
    }

    fn read_now_at(&self, file: FileIndex, offset: u64, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        self.read_with(file, offset, buffer, |at, part| self.disk.read_now_at(file, at, part))
    }

    fn map_now(&self, file: FileIndex, offset: u64, length: usize, old: Option<&Arc<Mapping>>) -> Option<Arc<Mapping>> {
        if !self.is_empty() && self.has_any_of(self.layout.pieces_of(file, offset, length as u64)) {
            return None;
        }
        self.disk.map_now(file, offset, length, old)
    }

    /// To the disk: what it does not take is [`put`](Overflow::put) here.
    fn write_vectored_at(&self, file: FileIndex, offset: u64, slices: &mut [IoSlice<'_>]) -> io::Result<()> {
        self.disk.write_vectored_at(file, offset, slices)
    }

    fn prepare(&self, file: FileIndex) -> io::Result<()> {
        self.disk.prepare(file)
    }

    fn punch(&self, file: FileIndex, offset: u64, length: u64) -> io::Result<()> {
        self.disk.punch(file, offset, length)
    }

    fn sync(&self, file: FileIndex) -> io::Result<()> {
        self.disk.sync(file)
    }

    fn sync_all(&self) -> io::Result<()> {
        self.disk.sync_all()
    }

    fn seen(&self, file: FileIndex) -> io::Result<Option<Seen>> {
        self.disk.seen(file)
    }

    fn next_data(&self, file: FileIndex, offset: u64) -> io::Result<Option<Range<u64>>> {
        self.disk.next_data(file, offset)
    }

    fn forget(&self, file: FileIndex) {
        self.disk.forget(file);
    }

    fn lend(&self, file: FileIndex) -> io::Result<(Arc<File>, Identity)> {
        if !self.is_empty() && self.has_any_of(self.layout.pieces_of(file, 0, u64::MAX)) {
            return Err(io::Error::other("some of it is in memory alone"));
        }
        self.disk.lend(file)
    }

    fn is_held(&self, file: FileIndex) -> Option<bool> {
        self.disk.is_held(file)
    }

    fn path(&self, file: FileIndex) -> PathBuf {
        self.disk.path(file)
    }

    fn is_placed(&self, file: FileIndex) -> bool {
        self.disk.is_placed(file)
    }

    fn place(&self, file: FileIndex, mode: u32) -> Result<(), StorageError> {
        self.disk.place(file, mode)
    }

    fn place_link(&self, path: &Path, target: &OsStr) -> Result<(), StorageError> {
        self.disk.place_link(path, target)
    }
}

/// The limit of a torrent.
pub(crate) const MEMORY_BYTES: u64 = 32 << 20;
