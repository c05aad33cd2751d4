//! Blocks that are sent to peers from where they lie, in the page cache, without a copy of ours.
//!
//! The bytes are copied once, by the call that puts them into a socket, under the pins of their piece (I2). Not
//! `sendfile`: that leaves references to the pages themselves in the socket, and a piece that is punched (or a file that
//! is cut) while a slow peer has yet to take them would reach it as zeros, with no way to know when the last reference
//! is gone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::backing::Backing;
use super::super::sys::{Mapping, Part};
use super::super::{Pins, StorageError};
use super::Store;
use crate::base::{BlockRef, Span};

/// A range inside a piece and one file, mapped. It says nothing of what the file is by now: see [`Store::recheck`].
#[derive(Debug)]
pub(crate) struct Pages {
    mapping: Arc<Mapping>,
    span: Span,
    /// When all of it was in memory.
    looked: Instant,
}

impl Pages {
    /// Bytes of the range for [`send`](super::super::send).
    pub(crate) fn part(&self, from: u32, length: u32) -> Part<'_> {
        Part::Mapped { mapping: &self.mapping, offset: self.span.offset + u64::from(from), length: length as usize }
    }

    /// What is mapped, to be given to the next call of [`Store::try_map_now`].
    pub(crate) fn mapping(&self) -> &Arc<Mapping> {
        &self.mapping
    }
}

impl Store {
    /// The bytes of a range inside a piece, if they lie in one file and are all in memory; `None`: read them. `near` is
    /// a mapping that may have them.
    pub(crate) fn try_map_now(&self, pins: &Pins, range: BlockRef, near: Option<&Arc<Mapping>>) -> Option<Pages> {
        self.pinned_block(pins, range, range.length as usize).ok()?;
        let span = self.layout.block_spans(range).next()?;
        let now = Instant::now();
        // Who reads the block looks at the file.
        if span.padding || span.length != u64::from(range.length) || !self.is_glanced_at(range, now) {
            return None;
        }
        let mapping = self.backing.map_now(span.file, span.offset, range.length as usize, near)?;
        let pages = Pages { mapping, span, looked: now };
        self.is_whole(&pages, 0).then_some(pages)
    }

    /// Whether the range can still be sent, from its byte `from` on, without waiting for the disk: to be asked before
    /// each use. What was in memory a moment ago is so still.
    pub(crate) fn renew_now(&self, pins: &Pins, pages: &mut Pages, from: u32, now: Instant) -> bool {
        if self.still_present(pins).is_err() || !self.glances.is_fresh(pages.span.file, now) {
            return false;
        }
        if now.saturating_duration_since(pages.looked) < FRESH {
            return true;
        }
        let (span, length) = (pages.span, pages.span.length as usize);
        let Some(mapping) = self.backing.map_now(span.file, span.offset, length, Some(&pages.mapping)) else {
            return false;
        };
        pages.mapping = mapping;
        pages.looked = now;
        self.is_whole(pages, from)
    }

    /// Whether what was taken from pages just now is what the piece has: to be asked after each use.
    ///
    /// # Errors
    /// [`StorageError::Absent`] when the file was altered behind our back and that has been noticed, as by
    /// [`read`](Self::read).
    pub(crate) fn recheck(&self, pins: &Pins, pages: &Pages) -> Result<(), StorageError> {
        if !self.is_long_enough(pages) {
            return Err(self.cut_short(pages.span));
        }
        self.still_present(pins)
    }

    fn is_whole(&self, pages: &Pages, from: u32) -> bool {
        let (offset, length) = (pages.span.offset + u64::from(from), pages.span.length - u64::from(from));
        self.is_long_enough(pages) && pages.mapping.is_resident(offset, length as usize)
    }

    /// The rest of a page that the file ends in reads as zeros: the kernel alone would not notice.
    fn is_long_enough(&self, pages: &Pages) -> bool {
        pages.mapping.file_bytes().is_ok_and(|length| length >= pages.span.offset + pages.span.length)
    }
}

/// For so long after a look the kernel is trusted not to have dropped a page: it drops what was used last, last.
const FRESH: Duration = Duration::from_millis(10);
