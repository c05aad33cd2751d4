//! Hashes of pieces.

use bytes::Bytes;

/// What a torrent says its pieces hash to. (v2 and hybrid trees come later as further variants.)
#[derive(Debug, Clone)]
pub enum PieceHashes {
    /// SHA-1, 20 bytes a piece.
    V1(Bytes),
}

/// What a hash came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// More bytes are to come.
    Incomplete,
    /// It matches: the piece is present and readable now.
    Verified,
    /// It does not. Digests of the blocks as they lie on disk (empty for a check).
    Corrupt(Vec<[u8; 20]>),
}
