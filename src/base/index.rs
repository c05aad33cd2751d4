//! Indices that were checked against a [`Layout`](super::Layout) once, and need no further check.
//!
//! Raw integers from the wire become these at the codec's edge, through `Layout::piece`, `Layout::file` and
//! `Layout::block_ref`; nothing else makes them outside tests.

use std::fmt;
use std::ops::Range;

/// A piece of one torrent: in range for the layout that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PieceIndex(pub(crate) u32);

/// A file of one torrent (padding files count): in range for the layout that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileIndex(pub(crate) u32);

macro_rules! index {
    ($name:ident) => {
        impl $name {
            /// The index as on the wire.
            pub fn raw(self) -> u32 {
                self.0
            }

            /// The index for use in a slice.
            pub fn at(self) -> usize {
                self.0 as usize
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

index!(PieceIndex);
index!(FileIndex);

/// A range of bytes inside one piece; in range for the layout that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockRef {
    /// The piece.
    pub piece: PieceIndex,
    /// First byte inside the piece.
    pub begin: u32,
    /// Bytes, at least 1; at most [`BLOCK_BYTES`](super::BLOCK_BYTES) for blocks that we request.
    pub length: u32,
}

/// Consecutive pieces `[start, end)` of one torrent; may be empty.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct PieceRange {
    pub(crate) start: u32,
    pub(crate) end: u32,
}

impl PieceRange {
    /// Just this piece.
    pub fn one(piece: PieceIndex) -> Self {
        Self { start: piece.0, end: piece.0 + 1 }
    }

    /// From `first` to `last`, both included; empty when they are the wrong way round.
    pub fn inclusive(first: PieceIndex, last: PieceIndex) -> Self {
        Self { start: first.0, end: (last.0 + 1).max(first.0) }
    }

    /// Number of pieces.
    pub fn len(self) -> usize {
        (self.end - self.start) as usize
    }

    /// Whether there is no piece in it.
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// Whether `piece` is one of them.
    pub fn contains(self, piece: PieceIndex) -> bool {
        (self.start..self.end).contains(&piece.0)
    }

    /// The first piece, if any.
    pub fn first(self) -> Option<PieceIndex> {
        (!self.is_empty()).then_some(PieceIndex(self.start))
    }

    /// The last piece, if any.
    pub fn last(self) -> Option<PieceIndex> {
        (!self.is_empty()).then(|| PieceIndex(self.end - 1))
    }

    /// The pieces in order.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = PieceIndex> + ExactSizeIterator + Clone {
        (self.start as usize..self.end as usize).map(|raw| PieceIndex(raw as u32))
    }

    /// As indices of a slice.
    pub fn as_usizes(self) -> Range<usize> {
        self.start as usize..self.end as usize
    }
}

impl fmt::Debug for PieceRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}
