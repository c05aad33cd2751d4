//! The state of every piece: the only state that readers, uploads and writers share.

use crate::base::{Bitfield, PieceIndex, PieceRange};

/// What a piece is (I6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PieceState {
    /// Not here.
    Absent,
    /// On disk, perhaps: to be hashed before its first service.
    Unchecked,
    /// Verified and readable.
    Present,
    /// Being removed.
    Evicting,
}

/// One atomic word a piece: state and pins.
#[derive(Debug)]
pub struct PieceTable {}

/// Pins on a run of present pieces; they are dropped with it (I2).
#[derive(Debug)]
pub struct Pins {}

#[allow(unused_variables)]
impl PieceTable {
    /// The state of one piece.
    pub fn state(&self, piece: PieceIndex) -> PieceState {
        todo!()
    }
    /// Pins all pieces of the range if all are present.
    pub fn pin(self: &std::sync::Arc<Self>, range: PieceRange) -> Option<Pins> {
        todo!()
    }
    /// Whether all pieces of the range are present (no pin taken).
    pub fn all_present(&self, range: PieceRange) -> bool {
        todo!()
    }
    /// Number of present pieces; kept, not counted.
    pub fn present_count(&self) -> usize {
        todo!()
    }
    /// The present pieces.
    pub fn present(&self) -> Bitfield {
        todo!()
    }
}
