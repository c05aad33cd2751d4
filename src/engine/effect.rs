//! What a torrent's brain wants done: its output.

use std::net::SocketAddr;

use bytes::Bytes;

use super::{PeerKey, Ticket, TrackerId};
use crate::base::PieceIndex;
use crate::proto::wire::Message;

pub use crate::proto::announce::AnnounceEvent;

/// One thing to do, in order.
#[derive(Debug)]
pub enum Effect {
    /// Send a message. `choke`, `unchoke` and `allowed-fast` also tell the peer's task whom it may serve.
    Send {
        /// To whom.
        peer: PeerKey,
        /// What.
        message: Message,
    },
    /// Close a connection; no event of this peer is wanted any more (and `handle_disconnected` need not be called).
    Close {
        /// Which.
        peer: PeerKey,
        /// Why.
        reason: CloseReason,
    },
    /// Connect to an address; answered by `handle_connected` or `handle_dial_failed`.
    Dial {
        /// Where.
        addr: SocketAddr,
        /// What to say behind our handshake, without waiting for theirs: a round trip earlier. Comes back in
        /// [`Connected`](super::Connected).
        opening: Option<Opening>,
    },
    /// Work for the disk; answered by `handle_disk_done`.
    Disk(DiskJob),
    /// All pieces of a ticket are readable.
    ReadReady(Ticket),
    /// A ticket will not be served.
    ReadFailed(Ticket, ReadError),
    /// Ask a tracker; answered by `handle_announced`.
    Announce(Announcement),
    /// Ask a tracker for its figures; answered by `handle_scraped`.
    Scrape(Scrape),
    /// The whole torrent has become complete in this life.
    Completed,
}

/// The first messages to somebody whom we dial: our bitfield (BEP 3; valid with the fast extension, too) and
/// `interested`. Whoever reads soon is unchoked by the time that both handshakes are done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening {
    /// What we said that we have, as on the wire.
    pub pieces: Bytes,
}

impl Opening {
    /// The messages, in order.
    pub fn messages(&self) -> [Message; 2] {
        [Message::Bitfield(self.pieces.clone()), Message::Interested]
    }
}

/// Work for the disk. Jobs of one piece and attempt may run in any order and at once; the storage puts them together.
#[derive(Debug)]
pub enum DiskJob {
    /// Write a run of blocks. The job that completes the piece also ends its hash and yields `Verified`, `Held` or `Corrupt`;
    /// every other yields `Written`.
    Write {
        /// The piece.
        piece: PieceIndex,
        /// Starts at 1, higher for each new attempt; a new one starts after all jobs of the last have ended (I6).
        attempt: u32,
        /// First byte inside the piece.
        begin: u32,
        /// Consecutive blocks.
        blocks: Vec<Bytes>,
        /// A reader waits for the piece.
        urgent: bool,
    },
    /// Hash what lies on disk: `Verified` or `Corrupt`.
    Check {
        /// The piece.
        piece: PieceIndex,
        /// As above.
        attempt: u32,
        /// A reader waits for the piece.
        urgent: bool,
    },
    /// An attempt is given up: what it has written can go. Not answered; the next attempt may begin at once.
    Discard {
        /// The piece.
        piece: PieceIndex,
        /// The attempt that was the last.
        attempt: u32,
    },
    /// Digests of the blocks of a verified piece: `Digests`, or `Failed` with attempt 0.
    Digests(PieceIndex),
}

/// Why a read failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadError {
    /// No progress for the read timeout, or such a failure is less than 5 s old.
    Stalled,
    /// The torrent ends.
    Stopped,
    /// The disk failed and there is no other way.
    Disk,
    /// The data cannot be had: read-only storage lacks it.
    Missing,
}

/// Why we close a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// It broke the protocol.
    Protocol(&'static str),
    /// It is ourselves.
    OwnConnection,
    /// We have a connection to the same peer already.
    Duplicate,
    /// It sent bad data.
    Banned,
    /// Nothing came for too long.
    Silent,
    /// Both of us have everything.
    Redundant,
    /// There are better peers for this place.
    Replaced,
    /// No place left.
    Full,
    /// The torrent ends.
    Stopped,
}

/// One announce to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// Which tracker.
    pub tracker: TrackerId,
    /// Its URL, byte for byte.
    pub url: String,
    /// What happened.
    pub event: AnnounceEvent,
    /// Bytes sent in this life.
    pub uploaded: u64,
    /// Bytes received in this life.
    pub downloaded: u64,
    /// Bytes missing until complete.
    pub left: u64,
    /// Peers wanted; 0 with `Stopped`.
    pub numwant: u32,
    /// What the tracker gave us last time to send back.
    pub tracker_id: Option<Vec<u8>>,
}

/// One scrape to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scrape {
    /// Which tracker.
    pub tracker: TrackerId,
    /// Its announce URL, byte for byte.
    pub url: String,
}
