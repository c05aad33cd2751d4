//! What a torrent's brain is told at birth.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::limit::Allowance;
use crate::base::{Bitfield, InfoHash, Layout, PeerId};

/// Everything that [`Torrent::new`](super::Torrent::new) needs beside the time and a seed.
#[derive(Debug, Clone)]
pub struct Config {
    /// Names the torrent (allowed-fast sets are computed from it, BEP 6).
    pub info_hash: InfoHash,
    /// Where the bytes lie.
    pub layout: Arc<Layout>,
    /// Pieces that are verified and readable now.
    pub have: Bitfield,
    /// Pieces that lie on disk, perhaps: to be hashed before their first service ([`DiskJob::Check`](super::DiskJob)).
    /// Disjoint from `have`.
    pub unchecked: Bitfield,
    /// Our own id, to recognise a connection to ourselves.
    pub peer_id: PeerId,
    /// BEP 27.
    pub private: bool,
    /// Trackers that the user named: a tier of their own, asked beside the torrent's.
    pub user_trackers: Vec<String>,
    /// The torrent's trackers by tier, in its order (shuffled inside a tier by the engine, BEP 12).
    pub trackers: Vec<Vec<String>>,
    /// What to fetch without being asked.
    pub fill: Fill,
    /// Whether anything is uploaded.
    pub upload: bool,
    /// A blocked read fails after this long without progress; `None`: it waits for ever.
    pub read_timeout: Option<Duration>,
    /// Connections at most, both directions.
    pub max_peers: usize,
    /// Our listening port, told to peers in the extension handshake (`p`); `None` when we do not listen.
    pub listen_port: Option<u16>,
    /// Client name and version for the extension handshake (`v`).
    pub client: String,
    /// Our own external addresses, as far as known, for BEP 40 priorities.
    pub own_addrs: Vec<SocketAddr>,
    /// The storage can only be read (`seed` of existing files): missing pieces are never fetched.
    pub read_only: bool,
    /// The disk threads hash several pieces in little more time than one: whole runs of a fast stream may wait for others.
    pub hashes_together: bool,
    /// Bounds on what it may do.
    pub limits: Limits,
}

/// Bounds that people set; none by default.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    /// Payload received.
    pub download: Allowance,
    /// Peers that are unchoked at a time; `None`: as many as make the whole faster.
    pub upload_slots: Option<usize>,
}

/// What is fetched without a reader asking for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fill {
    /// Only what is read, and read-ahead.
    #[default]
    None,
    /// The rest of every file that was opened.
    File,
    /// Everything.
    All,
}
