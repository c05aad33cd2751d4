//! One process's part in BitTorrent: ports, the peer id, the torrents.

mod descriptors;
mod limits;
mod members;

pub use self::limits::NewBounds;

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::AbortHandle;
use tracing::{Instrument, debug, info_span, warn};

use self::limits::TorrentLimits;
use super::TorrentHandle;
use super::dial::Greeted;
use super::http::HttpClient;
use super::listen::{self, Listening, Ports};
use super::registry::Registry;
use super::torrent_task::{self, Tools, TorrentParts};
use super::tracker_client::TrackerClient;
use super::udp_tracker::UdpTrackers;
use crate::base::{InfoHash, PeerId};
use crate::engine::limit::RateLimit;
use crate::engine::{self, Command, Fill, Source};
use crate::proto::metainfo::Metainfo;
use crate::proto::wire::Handshake;
use crate::storage::{
    Adopt, CacheDir, CacheLimits, Destination, DiskPool, OpenedStore, PieceHashes, StorageError, Store, TorrentFiles,
};

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
    /// How large the cache may become.
    pub limits: CacheLimits,
    /// How much may flow, and over how many connections.
    pub bounds: Bounds,
}

/// Bounds on the traffic of a process; none by default. Rates are bytes of payload per second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Those of all torrents together.
    pub all: Rates,
    /// Those of each torrent.
    pub each: Rates,
    /// Peers of a torrent that are unchoked at a time; `None`: as many as make the whole faster.
    pub upload_slots: Option<usize>,
    /// Connections of all torrents together; `None`: as many as there are descriptors for.
    pub max_connections: Option<usize>,
    /// Connections that are being opened at a time, of all torrents; `None`: 100.
    pub max_half_open: Option<usize>,
}

/// Bounds on both directions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rates {
    /// To peers.
    pub upload: Option<u64>,
    /// From peers.
    pub download: Option<u64>,
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
    /// The session keeps nothing by itself.
    #[error("this session has no cache")]
    NoCache,
    /// A v2-only torrent: later.
    #[error("this is a v2-only torrent, which btfs can show but not yet mount or seed")]
    V2Only,
    /// The torrent is in this session already.
    #[error("the torrent is given twice")]
    Twice,
    /// The descriptors that are left are for peers, and for reading the torrents that are here.
    #[error("too many torrents for {limit} open files (ulimit -Hn): allow more, or take some in another process")]
    Descriptors {
        /// How many this process may have.
        limit: u64,
    },
}

/// A running session; cheap to clone, ends with [`shutdown`](Self::shutdown).
#[derive(Debug, Clone)]
pub struct Session {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: SessionConfig,
    runtime: tokio::runtime::Handle,
    cache: Option<CacheDir>,
    pool: DiskPool,
    http: HttpClient,
    udp: UdpTrackers,
    registry: Arc<Registry>,
    /// The bounds on the rates of all torrents together.
    upload: Arc<RateLimit>,
    download: Arc<RateLimit>,
    /// Sent with all announces of this life.
    announce_key: u32,
    announcing: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Opened when the session starts, or with the first torrent, whose slot remembers the port.
    port: Option<u16>,
    listeners: Vec<Listener>,
    torrents: Vec<Running>,
    /// As they are now, for torrents that are yet to come.
    bounds: Bounds,
}

/// Where the bytes of a torrent are.
enum Place {
    Cache,
    /// Below this path, read-only.
    Theirs(PathBuf),
    Into(Destination),
}

#[derive(Debug)]
struct Running {
    info_hash: InfoHash,
    handle: TorrentHandle,
    limits: TorrentLimits,
    /// Nothing is ever sent: it is closed when the task has ended.
    ended: Receiver<()>,
}

/// A listening socket.
#[derive(Debug)]
struct Listener {
    task: AbortHandle,
    /// Nothing is ever sent: it is closed when the socket is.
    closed: Receiver<()>,
}

/// Whether a session could listen at this port (0: any) of this address, or of all.
///
/// # Errors
/// [`SessionError::Listen`]
pub fn judge_port(port: u16, bind: Option<IpAddr>) -> Result<(), SessionError> {
    Ports::open(port, bind).map(drop).map_err(|(addr, source)| SessionError::Listen { addr, source })
}

impl Session {
    /// Opens the ports and the cache. Runs on the given runtime; needs no async context.
    ///
    /// # Errors
    /// [`SessionError::Listen`] when a port that was asked for by number cannot be had; [`SessionError::Storage`].
    pub fn start(config: SessionConfig, runtime: tokio::runtime::Handle) -> Result<Self, SessionError> {
        let mut cache = CacheDir::open(&config.cache_dir)?;
        if let Err(error) = cache.limit(config.limits) {
            warn!(%error, "the cache is not kept within bounds");
        }
        Self::begin(config, Some(cache), runtime)
    }

    /// As [`start`](Self::start), without a cache: torrents can only be [got](Self::get).
    pub fn start_without_cache(config: SessionConfig, runtime: tokio::runtime::Handle) -> Result<Self, SessionError> {
        Self::begin(config, None, runtime)
    }

    fn begin(
        config: SessionConfig,
        cache: Option<CacheDir>,
        runtime: tokio::runtime::Handle,
    ) -> Result<Self, SessionError> {
        // Hashing is what costs most: every core may be at it, and one more thread is there for who waits.
        let threads = std::thread::available_parallelism().map_or(3, |cores| cores.get().max(2) + 1);
        let descriptors = descriptors::for_connections();
        let bounds = config.bounds;
        let connections = bounds.max_connections.map_or(descriptors, |most| most.min(descriptors));
        let half_open = bounds.max_half_open.unwrap_or(MAX_HALF_OPEN);
        let mut registry = Registry::new(fresh_peer_id(), config.max_per_address, connections, half_open);
        registry.keep_free(descriptors::below_files());
        let registry = Arc::new(registry);
        let session = Self {
            shared: Arc::new(Shared {
                http: HttpClient::new(config.bind),
                udp: UdpTrackers::new(config.bind),
                cache,
                pool: DiskPool::new(threads),
                registry,
                upload: Arc::new(RateLimit::new(bounds.all.upload)),
                download: Arc::new(RateLimit::new(bounds.all.download)),
                announce_key: fastrand::u32(..),
                announcing: Arc::new(Semaphore::new(ANNOUNCING)),
                state: Mutex::new(State { port: None, listeners: Vec::new(), torrents: Vec::new(), bounds }),
                config,
                runtime,
            }),
        };
        if let Some(port) = session.shared.config.port {
            let ports = Ports::open(port, session.shared.config.bind);
            session.listen(&mut session.state(), ports)?;
        }
        Ok(session)
    }

    /// Opens the torrent's store (blocking), joins its swarm, returns at once; waits for no peer.
    ///
    /// # Errors
    /// [`SessionError`]: see its variants.
    pub fn add(&self, torrent: AddTorrent) -> Result<TorrentHandle, SessionError> {
        let AddTorrent { metainfo, data, peers, trackers } = torrent;
        self.enter(metainfo, data.map_or(Place::Cache, Place::Theirs), peers, trackers)
    }

    /// As [`add`](Self::add), for files that are to be the user's when they are complete. `data` has no meaning then.
    ///
    /// # Errors
    /// As [`add`](Self::add); [`StorageError::Mismatch`] when something is in the way of the files.
    pub fn get(&self, torrent: AddTorrent, destination: Destination) -> Result<TorrentHandle, SessionError> {
        let AddTorrent { metainfo, data: _, peers, trackers } = torrent;
        self.enter(metainfo, Place::Into(destination), peers, trackers)
    }

    fn enter(
        &self,
        metainfo: Arc<Metainfo>,
        place: Place,
        peers: Vec<SocketAddr>,
        trackers: Vec<String>,
    ) -> Result<TorrentHandle, SessionError> {
        let info_hash = metainfo.info_hash.ok_or(SessionError::V2Only)?;
        self.judge_room()?;
        let (incoming_sender, incoming) = mpsc::channel(INCOMING_QUEUE);
        if !self.shared.registry.add(info_hash, incoming_sender) {
            return Err(SessionError::Twice);
        }
        let added = self.join(info_hash, metainfo, place, trackers, incoming);
        match &added {
            Ok(handle) => handle.command(Command::Candidates { source: Source::User, addrs: peers }),
            Err(_) => self.shared.registry.remove(&info_hash),
        }
        added
    }

    /// All torrents in the order of their adding.
    pub fn torrents(&self) -> Vec<TorrentHandle> {
        self.state().torrents.iter().map(|running| running.handle.clone()).collect()
    }

    /// The port that peers can reach us at; 0 before there is a torrent, when none was asked for by number.
    pub fn port(&self) -> u16 {
        self.state().port.unwrap_or(0)
    }

    /// The cache directory.
    pub fn cache_dir(&self) -> &Path {
        &self.shared.config.cache_dir
    }

    /// The one address that it listens and dials with, if it has one.
    pub fn bind(&self) -> Option<IpAddr> {
        self.shared.config.bind
    }

    /// The disk threads.
    pub fn pool(&self) -> &DiskPool {
        &self.shared.pool
    }

    /// Fails waiting reads, announces `stopped` (3 s at most), closes connections and stores. Blocking, idempotent.
    pub fn shutdown(&self) {
        let (listeners, torrents) = {
            let mut state = self.state();
            (std::mem::take(&mut state.listeners), std::mem::take(&mut state.torrents))
        };
        listeners.iter().for_each(|listener| listener.task.abort());
        self.end(torrents);
        // Whoever waits for our end may want our port.
        let deadline = Instant::now() + CLOSING_PATIENCE;
        for listener in &listeners {
            let _ = listener.closed.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        }
    }

    fn end(&self, torrents: Vec<Running>) {
        for running in &torrents {
            self.shared.registry.remove(&running.info_hash);
            running.handle.command(Command::Stop);
        }
        let deadline = Instant::now() + SHUTDOWN_PATIENCE;
        for running in &torrents {
            let left = deadline.saturating_duration_since(Instant::now());
            if running.ended.recv_timeout(left) == Err(RecvTimeoutError::Timeout) {
                warn!(hash = %running.info_hash, "the torrent does not end in time");
            }
        }
    }

    fn join(
        &self,
        info_hash: InfoHash,
        metainfo: Arc<Metainfo>,
        place: Place,
        trackers: Vec<String>,
        incoming: mpsc::Receiver<Greeted>,
    ) -> Result<TorrentHandle, SessionError> {
        let Shared { config, cache, pool, registry, .. } = &*self.shared;
        let files = TorrentFiles {
            info_hash,
            layout: metainfo.layout.clone(),
            hashes: PieceHashes::V1(metainfo.piece_hashes.clone()),
            info: metainfo.info.clone(),
        };
        let read_only = matches!(place, Place::Theirs(_));
        let limits = self.limits();
        let cache = || cache.as_ref().ok_or(SessionError::NoCache);
        let OpenedStore { store, have, unchecked, warnings, .. } = match place {
            Place::Cache => Store::open(cache()?, files, config.recheck)?,
            Place::Theirs(data) => Store::adopt(cache()?, files, Adopt::find(&metainfo, &data), config.recheck)?,
            Place::Into(destination) => Store::open_into(&destination, files, config.recheck)?,
        };
        for warning in warnings {
            warn!(hash = %info_hash, "{warning}");
        }
        let port = self.listen_for(&store)?;
        let (user_trackers, tiers) =
            if config.use_trackers { tiers(trackers, &metainfo.trackers) } else { Default::default() };
        let engine = engine::Config {
            info_hash,
            layout: metainfo.layout.clone(),
            have,
            unchecked,
            peer_id: registry.peer_id(),
            private: metainfo.private,
            user_trackers,
            trackers: tiers,
            fill: config.fill,
            upload: config.upload,
            read_timeout: config.read_timeout,
            max_peers: config.max_peers,
            listen_port: Some(port),
            client: concat!("btfs/", env!("CARGO_PKG_VERSION")).to_owned(),
            own_addrs: Vec::new(),
            read_only,
            hashes_together: crate::storage::hashes_together(),
            limits: engine::Limits { download: limits.download.clone(), upload_slots: self.upload_slots() },
        };
        let (handle, requests) = TorrentHandle::channel(metainfo, store.clone(), pool.clone());
        let (alive, ended) = channel();
        let parts = TorrentParts {
            config: engine,
            requests,
            incoming,
            tools: Tools {
                store,
                pool: pool.clone(),
                handshake: Handshake::new(info_hash, registry.peer_id()),
                bind: config.bind,
                upload: limits.upload.clone(),
                trackers: TrackerClient {
                    http: self.shared.http.clone(),
                    udp: self.shared.udp.clone(),
                    info_hash,
                    peer_id: registry.peer_id(),
                    port,
                    key: self.shared.announce_key,
                    turns: self.shared.announcing.clone(),
                },
                registry: registry.clone(),
            },
        };
        let short_hash = info_hash.to_string()[..8].to_owned();
        let task = async move {
            let _alive: Sender<()> = alive;
            torrent_task::run(parts).await;
        };
        self.shared.runtime.spawn(task.instrument(info_span!("torrent", hash = short_hash)));
        self.state().torrents.push(Running { info_hash, handle: handle.clone(), limits, ended });
        Ok(handle)
    }

    /// The port; opens it, if that has not happened yet, preferring the one that the torrent's slot remembers.
    fn listen_for(&self, store: &Store) -> Result<u16, SessionError> {
        let mut state = self.state();
        let port = match state.port {
            Some(port) => port,
            None => {
                let remembered =
                    store.remembered(PORT_KEY).and_then(|port| port.parse().ok()).filter(|&port| port != 0);
                self.listen(&mut state, Ports::open_any(remembered, self.shared.config.bind))?
            }
        };
        if let Err(error) = store.remember(PORT_KEY, &port.to_string()) {
            warn!(%error, "the listening port is not remembered");
        }
        Ok(port)
    }

    fn listen(&self, state: &mut State, ports: Result<Ports, (SocketAddr, io::Error)>) -> Result<u16, SessionError> {
        let listening = |(addr, source)| SessionError::Listen { addr, source };
        let Ports { port, sockets } = ports.map_err(listening)?;
        let _runtime = self.shared.runtime.enter();
        for socket in sockets {
            let addr = socket.local_addr().map_err(|error| listening((SocketAddr::from(([0; 4], port)), error)))?;
            let listener = TcpListener::from_std(socket).map_err(|error| listening((addr, error)))?;
            let (open, closed) = channel();
            let accepting = listen::accept(Listening { listener, _open: open }, self.shared.registry.clone());
            let task = self.shared.runtime.spawn(accepting);
            state.listeners.push(Listener { task: task.abort_handle(), closed });
        }
        debug!(port, "listening");
        state.port = Some(port);
        Ok(port)
    }

    /// The state is whole after any panic: it changes by single pushes and takes.
    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Shared {
    /// A session that is dropped without [`Session::shutdown`] stops listening; its torrents end with their handles.
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        state.listeners.iter().for_each(|listener| listener.task.abort());
    }
}

/// The user's trackers and the tiers of the torrent, none of it asked twice.
fn tiers(mut users: Vec<String>, torrents: &[Vec<String>]) -> (Vec<String>, Vec<Vec<String>>) {
    let mut seen = HashSet::new();
    users.retain(|url| seen.insert(url.clone()));
    let others = torrents.iter().map(|tier| tier.iter().filter(|url| !users.contains(url)).cloned().collect());
    let others = others.filter(|tier: &Vec<String>| !tier.is_empty()).collect();
    (users, others)
}

/// An id of the common form (BEP 20): two letters, four digits of the version, 12 random letters and digits.
fn fresh_peer_id() -> PeerId {
    let mut id = *b"-FS0000-............";
    let version = [env!("CARGO_PKG_VERSION_MAJOR"), env!("CARGO_PKG_VERSION_MINOR"), env!("CARGO_PKG_VERSION_PATCH")];
    for (place, number) in id[3..6].iter_mut().zip(version) {
        *place = number.bytes().last().unwrap_or(b'0');
    }
    id[8..].fill_with(|| fastrand::alphanumeric() as u8);
    PeerId(id)
}

/// Connections that are being opened at a time: what a router of a home can be expected to bear.
const MAX_HALF_OPEN: usize = 100;
/// Under this name a slot remembers the port.
const PORT_KEY: &str = "port";
/// Connections that wait for a torrent's task; more are dropped.
const INCOMING_QUEUE: usize = 16;
/// Announces by HTTP at a time, of all torrents: a thousand at once would be a flood to a tracker, and of descriptors.
const ANNOUNCING: usize = 64;
/// `stopped` takes 3 s at most; then the stores are closed.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(8);
/// A socket is closed when the runtime next looks at its task.
const CLOSING_PATIENCE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peer_id_has_the_common_form() {
        let id = fresh_peer_id().0;
        assert_eq!((&id[..3], id[7]), (&b"-FS"[..], b'-'));
        assert!(id[3..7].iter().all(u8::is_ascii_digit) && id[8..].iter().all(u8::is_ascii_alphanumeric));
        assert_ne!(fresh_peer_id(), fresh_peer_id());
    }

    #[test]
    fn the_users_trackers_are_apart_and_none_is_asked_twice() {
        let strings = |urls: &[&str]| urls.iter().map(|&url| url.to_owned()).collect::<Vec<_>>();
        let got = tiers(strings(&["a", "b"]), &[strings(&["b"]), strings(&["c", "a"])]);
        assert_eq!(got, (strings(&["a", "b"]), vec![strings(&["c"])]));
        assert_eq!(tiers(strings(&["a", "a"]), &[strings(&["a"])]), (strings(&["a"]), vec![]));
    }
}
