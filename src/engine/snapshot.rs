//! What a torrent's brain tells about itself; plain data for status, logs and tests.

use std::net::SocketAddr;
use std::time::Duration;

use super::{Source, Ticket};
use crate::base::{Bitfield, PeerId, PieceRange};

/// The state of one torrent at one instant.
#[derive(Debug, Clone)]
pub struct TorrentSnapshot {
    /// Pieces that are readable.
    pub have: Bitfield,
    /// Their bytes.
    pub have_bytes: u64,
    /// Pieces that lie on disk and wait for their check.
    pub unchecked_pieces: usize,
    /// Bytes missing until complete.
    pub left_bytes: u64,
    /// Payload received in this life.
    pub downloaded_bytes: u64,
    /// Payload sent in this life.
    pub uploaded_bytes: u64,
    /// Payload received in vain: duplicates, unasked blocks, corrupt pieces.
    pub wasted_bytes: u64,
    /// Payload received per second, lately.
    pub download_rate: u64,
    /// Payload sent per second, lately.
    pub upload_rate: u64,
    /// Pieces whose hash did not match.
    pub corrupt_pieces: u64,
    /// Pieces found damaged on disk and fetched again.
    pub repaired_pieces: u64,
    /// The last disk error, if the last job failed.
    pub disk_error: Option<String>,
    /// Connected peers.
    pub peers: Vec<PeerSnapshot>,
    /// Addresses known but not connected.
    pub candidates: usize,
    /// Addresses banned now.
    pub banned: usize,
    /// Trackers in the order of their tiers.
    pub trackers: Vec<TrackerSnapshot>,
    /// Reads that wait now, oldest first.
    pub reads: Vec<ReadSnapshot>,
}

/// One connected peer.
#[derive(Debug, Clone)]
pub struct PeerSnapshot {
    /// Its address.
    pub addr: SocketAddr,
    /// Its id.
    pub peer_id: PeerId,
    /// Its client name: from the extension handshake, else from the id (BEP 20); safe for a terminal.
    pub client: String,
    /// Whether we dialled.
    pub outgoing: bool,
    /// Where its address came from.
    pub source: Source,
    /// Pieces it has.
    pub pieces: usize,
    /// We choke it.
    pub am_choking: bool,
    /// We want something from it.
    pub am_interested: bool,
    /// It chokes us.
    pub peer_choking: bool,
    /// It wants something from us.
    pub peer_interested: bool,
    /// It owes us blocks and does not send (anti-snubbing).
    pub snubbed: bool,
    /// Blocks asked and not yet arrived.
    pub requests_out: usize,
    /// Payload from it per second, lately.
    pub download_rate: u64,
    /// Payload to it per second, lately.
    pub upload_rate: u64,
    /// Payload from it.
    pub downloaded_bytes: u64,
    /// Payload to it.
    pub uploaded_bytes: u64,
    /// Smallest time from request to block, lately.
    pub rtt: Option<Duration>,
    /// How long it is connected.
    pub connected_for: Duration,
}

/// One tracker.
#[derive(Debug, Clone)]
pub struct TrackerSnapshot {
    /// Its URL.
    pub url: String,
    /// Its tier, from 0.
    pub tier: usize,
    /// The last answer was good.
    pub working: bool,
    /// An announce is under way.
    pub announcing: bool,
    /// Last error or warning, safe for a terminal.
    pub message: Option<String>,
    /// Seeds it knows of.
    pub seeds: Option<u32>,
    /// Leechers it knows of.
    pub leechers: Option<u32>,
    /// Complete downloads that it has counted.
    pub completed: Option<u32>,
    /// Time until the next announce; `None` when none is planned.
    pub next_announce: Option<Duration>,
}

/// One blocked read.
#[derive(Debug, Clone)]
pub struct ReadSnapshot {
    /// Its ticket.
    pub ticket: Ticket,
    /// The pieces that it still lacks.
    pub missing: PieceRange,
    /// How long it waits.
    pub waiting_for: Duration,
    /// Connected peers that have its first missing piece.
    pub sources: usize,
    /// Of those, how many have unchoked us.
    pub unchoked_sources: usize,
}
