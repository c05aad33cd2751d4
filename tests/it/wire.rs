//! Whole sessions on loopback: among themselves, and against peers that do everything wrong.

mod attacks;
mod leaving;
mod limits;
mod peer;
mod swarm;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use btfs::base::PieceRange;
use btfs::engine::{Fill, ReadError};
use btfs::net::{AddTorrent, Session, SessionConfig, TorrentHandle};
use btfs::proto::metainfo::{Metainfo, NewEntry, NewTorrent};
use sha1::{Digest, Sha1};
use tempfile::TempDir;

/// A session of its own cache directory and runtime, on 127.0.0.1.
struct Node {
    session: Session,
    directory: TempDir,
    _runtime: tokio::runtime::Runtime,
}

impl Node {
    fn start() -> Self {
        Self::start_with(|_| {})
    }

    fn start_with(adjust: impl FnOnce(&mut SessionConfig)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let mut config = SessionConfig {
            cache_dir: directory.path().join("cache"),
            port: None,
            bind: Some([127, 0, 0, 1].into()),
            upload: true,
            max_peers: 400,
            read_timeout: Some(Duration::from_secs(20)),
            fill: Fill::None,
            use_trackers: true,
            max_per_address: 1000,
            recheck: false,
            limits: Default::default(),
            bounds: Default::default(),
        };
        adjust(&mut config);
        let session = Session::start(config, runtime.handle().clone()).unwrap();
        Self { session, directory, _runtime: runtime }
    }

    /// Joins as a seed: the content is written to a file of the user's first.
    fn seed(&self, torrent: &Content) -> TorrentHandle {
        let path: PathBuf = self.directory.path().join("content");
        std::fs::write(&path, &torrent.bytes).unwrap();
        let handle = self.session.add(AddTorrent { data: Some(path), ..torrent.to_add() }).unwrap();
        wait("the seed has checked its files", || {
            read(&handle, handle.store().layout().pieces()).is_ok()
                && handle.snapshot().is_some_and(|s| s.have.is_full())
        });
        handle
    }

    /// Joins as a leecher that knows one peer.
    fn leech(&self, torrent: &Content, from: &Node) -> TorrentHandle {
        let peers = vec![([127, 0, 0, 1], from.session.port()).into()];
        self.session.add(AddTorrent { peers, ..torrent.to_add() }).unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.session.shutdown();
    }
}

/// A torrent of one file, and the file.
struct Content {
    metainfo: Arc<Metainfo>,
    bytes: Vec<u8>,
}

impl Content {
    /// The torrent that the recorded attacks are about.
    fn recorded() -> Self {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/torrents/v01-single.torrent");
        let metainfo = Metainfo::parse(&std::fs::read(path).unwrap()).unwrap();
        let blocks = (0..).map(|count: u32| sha2::Sha256::digest(format!("v01-single/0/{count}")));
        let bytes = blocks.flatten().take(200_001).collect();
        Self { metainfo: Arc::new(metainfo), bytes }
    }

    /// Some torrent.
    fn random(name: &str, length: usize, piece_length: usize, tracker: Option<String>) -> Self {
        let mut random = fastrand::Rng::with_seed(length as u64);
        let mut bytes = vec![0; length];
        random.fill(&mut bytes);
        let torrent = NewTorrent {
            name: name.into(),
            single_file: true,
            entries: vec![NewEntry { path: vec![name.into()], length: length as u64, executable: false, target: None }],
            piece_length: piece_length as u32,
            pieces: bytes.chunks(piece_length).flat_map(Sha1::digest).collect(),
            trackers: tracker.into_iter().map(|url| vec![url]).collect(),
            ..NewTorrent::default()
        };
        Self { metainfo: Arc::new(torrent.write().unwrap().1), bytes }
    }

    fn to_add(&self) -> AddTorrent {
        AddTorrent { metainfo: self.metainfo.clone(), data: None, peers: Vec::new(), trackers: Vec::new() }
    }
}

/// Waits for pieces; the handle's own time limit bounds it.
fn read(handle: &TorrentHandle, pieces: PieceRange) -> Result<(), ReadError> {
    let (sender, outcome) = channel();
    handle.read(pieces, Box::new(move |outcome| sender.send(outcome).unwrap()));
    outcome.recv_timeout(Duration::from_secs(60)).expect("every read is answered")
}

/// What the store has of the whole content.
fn stored(handle: &TorrentHandle) -> Vec<u8> {
    let (store, layout) = (handle.store(), handle.store().layout());
    let pins = store.table().pin(layout.pieces()).expect("all pieces are present");
    let mut bytes = vec![0; layout.total_bytes() as usize];
    store.read(&pins, layout.file(0).unwrap(), 0, &mut bytes).unwrap();
    bytes
}

/// A loopback address that no other test uses at this time: each runs in a process of its own.
fn own_ip() -> IpAddr {
    let [.., high, low] = std::process::id().to_be_bytes();
    [127, 1 + high % 250, low, 253].into()
}

/// Waits until a condition holds.
fn wait(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(60), "{what}: not within 60 s");
        std::thread::sleep(Duration::from_millis(20));
    }
}
