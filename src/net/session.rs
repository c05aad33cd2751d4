//! One process's part in BitTorrent: ports, the peer id, the torrents.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::TorrentHandle;
use crate::engine::Fill;
use crate::proto::metainfo::Metainfo;
use crate::storage::{DiskPool, StorageError};

/// How a session is to behave; the defaults are what `btfs mount` does without options.
#[derive(Debug, Clone)]
pub struct SessionConfig {
    /// The cache directory.
    pub cache_dir: PathBuf,
    /// Listening port; `None`: the one remembered in the first torrent's slot if it is free, else any.
    pub port: Option<u16>,
    /// Listen and dial only with this address; `None`: all, IPv4 and IPv6.
    pub bind: Option<IpAddr>,
    /// Whether anything is uploaded.
    pub upload: bool,
    /// Connections at most per torrent.
    pub max_peers: usize,
    /// A blocked read fails after this long without progress; `None`: never.
    pub read_timeout: Option<Duration>,
    /// What to fetch unasked.
    pub fill: Fill,
    /// Whether trackers are asked at all.
    pub use_trackers: bool,
    /// Tell loopback trackers and peers apart from hostile redirects: connections from one address at most (tests and
    /// loopback swarms raise it).
    pub max_per_address: usize,
    /// Trust nothing that lies in the cache.
    pub recheck: bool,
}

/// A torrent to join.
#[derive(Debug, Clone)]
pub struct AddTorrent {
    /// What.
    pub metainfo: Arc<Metainfo>,
    /// Share these existing files (read-only); `None`: use the cache.
    pub data: Option<PathBuf>,
    /// Peers that the user named.
    pub peers: Vec<SocketAddr>,
    /// Trackers that the user named: a tier of their own, first.
    pub trackers: Vec<String>,
}

/// Why a session or a torrent could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The port that was asked for by number is taken, or the address is not ours.
    #[error("cannot listen on {addr}: {source}")]
    Listen {
        /// Where.
        addr: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The disk.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A v2-only torrent: later.
    #[error("this is a v2-only torrent, which btfs can show but not yet mount or seed")]
    V2Only,
    /// The torrent is in this session already.
    #[error("the torrent is given twice")]
    Twice,
}

/// A running session; cheap to clone, ends with [`shutdown`](Self::shutdown).
#[derive(Debug, Clone)]
pub struct Session {}

#[allow(unused_variables)]
impl Session {
    /// Opens the ports and the cache. Runs on the given runtime; needs no async context.
    pub fn start(config: SessionConfig, runtime: tokio::runtime::Handle) -> Result<Self, SessionError> {
        todo!()
    }
    /// Opens the torrent's store (blocking), joins its swarm, returns at once; waits for no peer.
    pub fn add(&self, torrent: AddTorrent) -> Result<TorrentHandle, SessionError> {
        todo!()
    }
    /// All torrents in the order of their adding.
    pub fn torrents(&self) -> Vec<TorrentHandle> {
        todo!()
    }
    /// The port that peers can reach us at.
    pub fn port(&self) -> u16 {
        todo!()
    }
    /// The disk threads.
    pub fn pool(&self) -> &DiskPool {
        todo!()
    }
    /// Fails waiting reads, announces `stopped` (3 s at most), closes connections and stores. Blocking, idempotent.
    pub fn shutdown(&self) {
        todo!()
    }
}
