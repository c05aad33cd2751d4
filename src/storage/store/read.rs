//! Reads of pinned pieces, and of what is to be hashed.
//!
//! The hot path takes no lock but that of the descriptor cache. A read is never short: a file that ends too early was
//! cut behind our back, and that is an error that makes its pieces unchecked.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::time::Instant;

use super::super::backing::Backing;
use super::super::backing::disk::is_gone;
use super::super::recency::Moment;
use super::super::sha1::{self, Sha1};
use super::super::{Pins, StorageError, io_error};
use super::{Look, Store};
use crate::base::{BLOCK_BYTES, BlockRef, FileIndex, PieceIndex, Span};

impl Store {
    pub(super) fn read_file_now(
        &self,
        pins: &Pins,
        file: FileIndex,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<bool, StorageError> {
        let span = self.pinned_span(pins, file, offset, buffer.len())?;
        let Some(span) = span else { return Ok(true) };
        let read = self.read_span_now(span, buffer)?;
        if read {
            self.recency.used(pins.range(), Moment::now());
        }
        self.still_present(pins).map(|()| read)
    }

    pub(super) fn read_file(
        &self,
        pins: &Pins,
        file: FileIndex,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<(), StorageError> {
        if let Some(span) = self.pinned_span(pins, file, offset, buffer.len())? {
            self.read_span(span, buffer)?;
            self.recency.used(pins.range(), Moment::now());
        }
        self.still_present(pins)
    }

    pub(super) fn read_spans_now(&self, pins: &Pins, block: BlockRef, buffer: &mut [u8]) -> Result<bool, StorageError> {
        self.pinned_block(pins, block, buffer.len())?;
        if !self.is_glanced_at(block, Instant::now()) {
            return Ok(false);
        }
        let walked = self.walk(block, buffer, |span, part| match self.read_span_now(span, part) {
            Ok(true) => ControlFlow::Continue(()),
            Ok(false) => ControlFlow::Break(Ok(false)),
            Err(error) => ControlFlow::Break(Err(error)),
        });
        match walked {
            ControlFlow::Continue(()) => self.still_present(pins).map(|()| true),
            ControlFlow::Break(result) => result,
        }
    }

    pub(super) fn read_spans(&self, pins: &Pins, block: BlockRef, buffer: &mut [u8]) -> Result<(), StorageError> {
        self.pinned_block(pins, block, buffer.len())?;
        self.glance(block, Instant::now())?;
        self.read_unpinned(block, buffer)?;
        self.still_present(pins)
    }

    /// Puts `[from, to)` of a piece, as it lies on disk, into a hash. Memory does not depend on its length.
    pub(super) fn hash_on_disk(
        &self,
        piece: PieceIndex,
        from: u32,
        to: u32,
        hasher: &mut Sha1,
    ) -> Result<(), StorageError> {
        self.each_part(piece, from, to, |part| hasher.update(part))
    }

    /// SHA-1 of each block of a piece as it lies on disk.
    pub(super) fn digests_on_disk(&self, piece: PieceIndex) -> Result<Vec<[u8; 20]>, StorageError> {
        let mut digests = Vec::with_capacity(self.layout.block_count(piece));
        self.each_part(piece, 0, self.layout.piece_bytes(piece), |part| {
            digests.extend(sha1::digests(part.chunks(BLOCK_BYTES as usize)));
        })?;
        Ok(digests)
    }

    fn each_part(
        &self,
        piece: PieceIndex,
        from: u32,
        to: u32,
        mut with: impl FnMut(&[u8]),
    ) -> Result<(), StorageError> {
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.resize(PART_BYTES as usize, 0);
            let mut begin = from;
            while begin < to {
                let length = PART_BYTES.min(to - begin);
                let part = &mut scratch[..length as usize];
                self.read_unpinned(BlockRef { piece, begin, length }, part)?;
                with(part);
                begin += length;
            }
            Ok(())
        })
    }

    fn read_unpinned(&self, block: BlockRef, buffer: &mut [u8]) -> Result<(), StorageError> {
        let walked = self.walk(block, buffer, |span, part| match self.read_span(span, part) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        });
        match walked {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(error) => Err(error),
        }
    }

    /// Calls `with` for each part of a range inside a piece that lies in a file; padding is zeroed here.
    fn walk<B>(
        &self,
        block: BlockRef,
        buffer: &mut [u8],
        mut with: impl FnMut(Span, &mut [u8]) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let mut rest = buffer;
        for span in self.layout.block_spans(block) {
            let (part, tail) = rest.split_at_mut(span.length as usize);
            rest = tail;
            if span.padding {
                part.fill(0);
            } else {
                with(span, part)?;
            }
        }
        ControlFlow::Continue(())
    }

    fn read_span(&self, span: Span, buffer: &mut [u8]) -> Result<(), StorageError> {
        match self.backing.read_at(span.file, span.offset, buffer) {
            Ok(read) if read == buffer.len() => Ok(()),
            Err(error) if !is_gone(&error) => Err(self.unreadable(span, error)),
            _ => Err(self.cut_short(span)),
        }
    }

    /// A file has ended too early: its pieces, at least that of the span, are not served before they were hashed again.
    pub(super) fn cut_short(&self, span: Span) -> StorageError {
        let pieces = self.layout.pieces_of(span.file, span.offset, 1);
        match self.tracks.look(span.file, &self.backing) {
            Ok(Look::Altered) => self.altered(span.file),
            // Known to be short, or moving: it is this piece alone that cannot be so.
            _ => self.distrust_pieces(span.file, pieces),
        }
        StorageError::Absent(pieces.first().map_or(0, PieceIndex::raw))
    }

    /// The disk does not give what it has: the pieces are to be fetched again.
    fn unreadable(&self, span: Span, error: std::io::Error) -> StorageError {
        let ours = matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM));
        let error = io_error("read", &self.backing.path(span.file))(error);
        if self.overflows() && !ours {
            self.disk_fails(&error);
            self.distrust_pieces(span.file, self.layout.pieces_of(span.file, span.offset, span.length));
        }
        error
    }

    fn read_span_now(&self, span: Span, buffer: &mut [u8]) -> Result<bool, StorageError> {
        match self.backing.read_now_at(span.file, span.offset, buffer) {
            // Short: the rest is not in memory, or not in the file; whoever waits will see which.
            Ok(read) => Ok(read == Some(buffer.len())),
            Err(error) => Err(self.unreadable(span, error)),
        }
    }

    /// The range of a file as a span, if its pieces are pinned (I2); `None` for no bytes at all.
    fn pinned_span(
        &self,
        pins: &Pins,
        file: FileIndex,
        offset: u64,
        length: usize,
    ) -> Result<Option<Span>, StorageError> {
        if length == 0 {
            return Ok(None);
        }
        let length = length as u64;
        let pieces = self.layout.pieces_of(file, offset, length);
        let inside = offset.checked_add(length).is_some_and(|end| end <= self.layout.file_bytes(file));
        match (pieces.first(), pieces.last()) {
            (Some(first), Some(last)) if inside => {
                if !pins.range().contains(first) || !pins.range().contains(last) {
                    return Err(StorageError::Absent(first.raw()));
                }
                Ok(Some(Span { file, offset, length, padding: false }))
            }
            _ => {
                let source = std::io::ErrorKind::InvalidInput.into();
                Err(io_error("read", &self.backing.path(file))(source))
            }
        }
    }

    pub(super) fn pinned_block(&self, pins: &Pins, block: BlockRef, length: usize) -> Result<(), StorageError> {
        if !pins.range().contains(block.piece) {
            return Err(StorageError::Absent(block.piece.raw()));
        }
        let inside =
            block.begin.checked_add(block.length).is_some_and(|end| end <= self.layout.piece_bytes(block.piece));
        if !inside || length != block.length as usize {
            return Err(io_error("read", &self.slot.path)(std::io::ErrorKind::InvalidInput.into()));
        }
        Ok(())
    }

    /// A pin keeps a piece from being punched, not somebody from writing into our files: what was read counts only if
    /// nobody has noticed such a thing (I1).
    pub(super) fn still_present(&self, pins: &Pins) -> Result<(), StorageError> {
        pins.first_lost().map_or(Ok(()), |lost| Err(StorageError::Absent(lost.raw())))
    }
}

/// What is read at once for hashing: 16 blocks. Large enough to make calls cheap, small enough to stay in the L2 cache.
const PART_BYTES: u32 = 16 * BLOCK_BYTES;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}
