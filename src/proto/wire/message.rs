//! The messages that peers exchange after the handshake.

use bytes::Bytes;

/// One message of the peer protocol; numbers are as on the wire, not yet checked against any torrent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Length 0: nothing, but the connection lives (BEP 3).
    KeepAlive,
    /// Requests will not be answered from now on, except for allowed-fast pieces (BEP 3, 6).
    Choke,
    /// Requests will be answered.
    Unchoke,
    /// The sender wants something that the receiver has.
    Interested,
    /// The sender wants nothing.
    NotInterested,
    /// The sender now has this piece.
    Have(u32),
    /// The pieces that the sender has, as in [`Bitfield::as_wire`](crate::base::Bitfield::as_wire).
    Bitfield(Bytes),
    /// Asks for a block.
    Request(BlockRequest),
    /// A block.
    Piece {
        /// Piece index.
        piece: u32,
        /// First byte inside the piece.
        begin: u32,
        /// The bytes: a slice of the receive buffer.
        data: Bytes,
    },
    /// Takes a request back.
    Cancel(BlockRequest),
    /// The sender's DHT port (BEP 5).
    Port(u16),
    /// The sender would like to send this piece (BEP 6).
    Suggest(u32),
    /// The sender has everything (BEP 6).
    HaveAll,
    /// The sender has nothing (BEP 6).
    HaveNone,
    /// This request will not be answered (BEP 6).
    Reject(BlockRequest),
    /// This piece may be requested while choked (BEP 6).
    AllowedFast(u32),
    /// A message of the extension protocol (BEP 10): 0 is its handshake.
    Extended {
        /// Extended message id.
        id: u8,
        /// Payload after the id byte.
        payload: Bytes,
    },
    /// A message that this program does not know; its payload was skipped.
    Unknown(u8),
}

/// The body of `request`, `cancel` and `reject`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockRequest {
    /// Piece index.
    pub piece: u32,
    /// First byte inside the piece.
    pub begin: u32,
    /// Bytes.
    pub length: u32,
}
