//! Vocabulary of every other room: identities, indices, the layout of a torrent, bitfields, meters, dates.
//!
//! Depends on `std` only. No I/O, no formats of the wire or of files.

mod bitfield;
mod date;
mod id;
mod index;
mod layout;
mod meter;
pub mod size;

pub use bitfield::Bitfield;
pub use date::Date;
pub use id::{InfoHash, InfoHashV2, ParseIdError, PeerId};
pub use index::{BlockRef, FileIndex, PieceIndex, PieceRange};
pub use layout::{BLOCK_BYTES, FileSpec, Layout, LayoutError, MAX_PIECE_BYTES, Span};
pub use meter::RateMeter;
