//! What happens to a torrent: the input of its brain.

use std::net::SocketAddr;
use std::time::Duration;

use super::Opening;
use crate::base::{FileIndex, PeerId, PieceIndex, PieceRange};
use crate::proto::wire::Message;

pub use crate::proto::announce::{Retry, ScrapeReply};

/// One connection, named by whoever drives the engine; never reused within a torrent's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerKey(pub u64);

/// One blocked read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// One open file handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HandleId(pub u64);

/// One tracker of the torrent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrackerId(pub u32);

/// A connection whose handshakes are done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connected {
    /// The remote end of the connection.
    pub addr: SocketAddr,
    /// Whether we dialled.
    pub outgoing: bool,
    /// What the peer calls itself.
    pub peer_id: PeerId,
    /// The peer speaks the fast extension (BEP 6).
    pub fast: bool,
    /// The peer speaks the extension protocol (BEP 10).
    pub extended: bool,
    /// What went out with our handshake, if anything did.
    pub opening: Option<Opening>,
}

/// Something that one peer did.
#[derive(Debug, Clone)]
pub enum PeerEvent {
    /// It sent a message. `request` and `cancel` are answered by the peer's task and do not come here.
    Message(Message),
    /// Payload was sent to it since the last such event.
    Uploaded {
        /// Bytes of blocks, without headers.
        bytes: u64,
    },
    /// It asked for something (at most one event per batch): it is alive and takes from us.
    Requested,
}

/// Somebody else's wish.
#[derive(Debug)]
pub enum Command {
    /// A reader waits for these pieces; answered by exactly one `ReadReady` or `ReadFailed`, unless abandoned.
    Read {
        /// Chosen by the caller, never reused.
        ticket: Ticket,
        /// Not empty.
        pieces: PieceRange,
    },
    /// Nobody waits for this ticket any more; no answer will come. Unknown tickets are ignored.
    Abandon(Ticket),
    /// A handle was opened: somebody may read this file soon.
    Opened {
        /// The handle.
        handle: HandleId,
        /// Its file.
        file: FileIndex,
    },
    /// A handle was closed: its window is forgotten.
    Released(HandleId),
    /// The pieces that a handle will want next, nearest first; replaces its former window.
    Window {
        /// The handle.
        handle: HandleId,
        /// Runs of pieces in order of need.
        pieces: Vec<PieceRange>,
        /// Time until the reader gets to the end of the window at its present pace; `None`: unknown.
        horizon: Option<Duration>,
    },
    /// With [`Fill::File`](super::Fill): the rest of these files is to be fetched as well, although nobody has opened them.
    Fill(Vec<FileIndex>),
    /// Addresses of possible peers.
    Candidates {
        /// Where they come from.
        source: Source,
        /// The addresses; unusable ones are dropped by the engine.
        addrs: Vec<SocketAddr>,
    },
    /// The files behind these pieces were altered by somebody: they count as unchecked from now on.
    Suspect(PieceRange),
    /// These pieces are not here any more: they were evicted.
    Evicted(Vec<PieceIndex>),
    /// These pieces were in memory alone, and are on the disk now.
    Kept(Vec<PieceIndex>),
    /// The cache has more or less room from now on.
    Room(Room),
    /// The bounds on rates are others from now on.
    NewLimits,
    /// So many peers are unchoked at a time from now on; `None`: as many as make the whole faster.
    UploadSlots(Option<usize>),
    /// There are these trackers, too, tier by tier; those that are known already are passed over.
    Trackers(Vec<Vec<String>>),
    /// The torrent ends: `stopped` is announced; no peer is dialled any more, waiting reads fail.
    Stop,
}

/// What may be fetched with regard to the bounds of the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Room {
    /// Anything.
    #[default]
    Plenty,
    /// Nothing that nobody reads: it would push out what somebody has read.
    Tight,
    /// Only what a reader waits for.
    Scarce,
    /// The disk takes nothing: only what a reader waits for, and so many pieces at a time (at least one).
    Memory(usize),
}

/// Where an address comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// `--peer`: the user named it; always tried, loopback and private addresses included.
    User,
    /// A tracker's reply.
    Tracker,
    /// It connected to us.
    Incoming,
    /// Peer exchange (later).
    Pex,
    /// The DHT (later).
    Dht,
    /// Local discovery (later).
    Lsd,
}

/// Why an address could not be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DialFailure {
    /// No connection: refused, unreachable, timed out.
    Unreachable,
    /// The handshake failed or named another torrent.
    Handshake,
    /// The driver is out of descriptors or half-open slots; the address is not to blame.
    Busy,
}

/// What a disk job came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskDone {
    /// A run was written; more of the piece is to come.
    Written {
        /// The piece.
        piece: PieceIndex,
        /// The attempt of the job.
        attempt: u32,
        /// Bytes of the run: no longer held in memory.
        bytes: u32,
    },
    /// All bytes are there and the hash matches: the piece is readable.
    Verified {
        /// The piece.
        piece: PieceIndex,
        /// The attempt of the job.
        attempt: u32,
        /// Bytes of the last run; 0 for a check.
        bytes: u32,
    },
    /// As `Verified`, and the disk does not take it: the piece is readable, for a while, and peers are not told of it.
    Held {
        /// The piece.
        piece: PieceIndex,
        /// The attempt of the job.
        attempt: u32,
        /// Bytes of the last run; 0 for a check.
        bytes: u32,
    },
    /// All bytes are there and the hash does not match.
    Corrupt {
        /// The piece.
        piece: PieceIndex,
        /// The attempt of the job.
        attempt: u32,
        /// Bytes of the last run; 0 for a check.
        bytes: u32,
        /// SHA-1 of each block as it lies on disk, to find out later who lied; empty for a check, and
        /// where somebody else altered the file: nobody is to blame then.
        block_digests: Vec<[u8; 20]>,
    },
    /// Digests of a verified piece's blocks, as asked by [`DiskJob::Digests`](super::DiskJob).
    Digests {
        /// The piece.
        piece: PieceIndex,
        /// SHA-1 of each block.
        block_digests: Vec<[u8; 20]>,
    },
    /// The disk could not be read or written; the attempt is lost.
    Failed {
        /// The piece.
        piece: PieceIndex,
        /// The attempt of the job.
        attempt: u32,
        /// Bytes that the job held.
        bytes: u32,
        /// What the system said.
        error: String,
    },
}

/// What an announce came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnnounceOutcome {
    /// The tracker answered.
    Answered {
        /// Its `interval`, as sent (clamped by the engine).
        interval: Option<Duration>,
        /// Its `min interval`, as sent.
        min_interval: Option<Duration>,
        /// Peers it named.
        peers: Vec<SocketAddr>,
        /// Seeds it knows of.
        complete: Option<u32>,
        /// Leechers it knows of.
        incomplete: Option<u32>,
        /// Complete downloads that it has counted.
        downloaded: Option<u32>,
        /// BEP 31 and friends: a warning, safe for a terminal.
        warning: Option<String>,
        /// Our address as the tracker saw it (BEP 24).
        external_ip: Option<std::net::IpAddr>,
        /// To be sent with the next announce to this tracker.
        tracker_id: Option<Vec<u8>>,
    },
    /// It did not, or refused.
    Failed {
        /// Why, safe for a terminal.
        reason: String,
        /// When to come again, if it says so (BEP 31).
        retry: Option<Retry>,
    },
}

/// What a scrape came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScrapeOutcome {
    /// The tracker answered; all figures are missing when it does not know the torrent.
    Answered(ScrapeReply),
    /// It did not, or refused.
    Failed,
    /// There is no way to scrape this one (BEP 48).
    Impossible,
}
