//! Torrents with known bytes, and the owner of their pieces, in place of a swarm.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use btfs::base::{FileSpec, InfoHash, Layout, PieceRange};
use btfs::engine::{Command as Wish, ReadError, Ticket};
use btfs::net::{PendingRead, Request, Requests, TorrentHandle};
use btfs::proto::metainfo::{Entry, EntryKind, Metainfo};
use btfs::storage::{CacheDir, DiskPool, PieceHashes, PieceState, Store, TorrentFiles};
use bytes::Bytes;
use sha1::{Digest, Sha1};

/// A torrent of these entries: `path=bytes`, `path*=bytes` for an executable, `path->target`, `#=bytes` for padding.
/// One entry of the torrent's own name makes a single file. The bytes are random, the same every time.
pub struct Content {
    pub metainfo: Arc<Metainfo>,
    pub bytes: Arc<Vec<u8>>,
}

impl Content {
    pub fn new(name: &str, piece_length: u32, entries: &[impl AsRef<str>]) -> Self {
        let mut specs = Vec::new();
        let mut list = Vec::new();
        for entry in entries.iter().map(AsRef::as_ref) {
            let (path, kind, length) = if let Some((path, target)) = entry.split_once("->") {
                (path, EntryKind::Symlink { target: target.as_bytes().into() }, 0)
            } else {
                let (path, length) = entry.split_once('=').unwrap();
                let kind = match path {
                    "#" => EntryKind::Padding,
                    _ => EntryKind::File { executable: path.ends_with('*') },
                };
                (path.trim_matches(['*', '#']), kind, length.parse().unwrap())
            };
            specs.push(FileSpec { length, padding: kind == EntryKind::Padding });
            list.push(Entry { path: path.as_bytes().into(), kind, pieces_root: None });
        }
        let layout = Arc::new(Layout::new(piece_length, &specs).unwrap());
        let mut bytes = vec![0; layout.total_bytes() as usize];
        fastrand::Rng::with_seed(layout.total_bytes()).fill(&mut bytes);
        for file in layout.files().filter(|&file| layout.is_padding(file)) {
            let start = layout.file_start(file) as usize;
            bytes[start..start + layout.file_bytes(file) as usize].fill(0);
        }
        let hashes: Vec<u8> =
            bytes.chunks(piece_length as usize).flat_map(|piece| Sha1::digest(piece).to_vec()).collect();
        let info_hash: [u8; 20] = Sha1::digest(&hashes).into();
        let metainfo = Metainfo {
            info: Bytes::from_static(b"de"),
            info_hash: InfoHash::from_slice(&info_hash),
            info_hash_v2: None,
            name: name.as_bytes().into(),
            single_file: list.len() == 1 && *list[0].path == *name.as_bytes(),
            entries: list,
            layout,
            piece_hashes: hashes.into(),
            private: false,
            trackers: Vec::new(),
            web_seeds: Vec::new(),
            http_seeds: Vec::new(),
            nodes: Vec::new(),
            creation_date: Some(CREATED),
            comment: None,
            created_by: None,
            source: None,
            warnings: Vec::new(),
        };
        Self { metainfo: Arc::new(metainfo), bytes: Arc::new(bytes) }
    }

    /// The bytes of one file.
    pub fn file(&self, path: &str) -> &[u8] {
        let metainfo = &self.metainfo;
        let at = metainfo.entries.iter().position(|entry| *entry.path == *path.as_bytes()).unwrap();
        let file = metainfo.layout.file(at as u32).unwrap();
        let start = metainfo.layout.file_start(file) as usize;
        &self.bytes[start..start + metainfo.layout.file_bytes(file) as usize]
    }

    /// The same as plain files below a directory.
    pub fn write_below(&self, top: &Path) {
        for entry in &self.metainfo.entries {
            let path = top.join(std::ffi::OsStr::from_bytes(&entry.path));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            match &entry.kind {
                EntryKind::File { .. } => {
                    std::fs::write(path, self.file(std::str::from_utf8(&entry.path).unwrap())).unwrap();
                }
                EntryKind::Padding | EntryKind::Symlink { .. } => {}
            }
        }
    }
}

/// What the owner does with reads of missing pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Supply {
    /// Fetches the pieces at once.
    Open,
    /// Lets the reads wait.
    Shut,
    /// Fails the reads at once, as after a stall.
    Stalled,
}

/// The pieces' owner: in place of a swarm.
pub struct Owner {
    pub store: Arc<Store>,
    content: Content,
    state: Mutex<State>,
    attempts: AtomicU32,
}

struct State {
    supply: Supply,
    waiting: Vec<(Ticket, PieceRange, PendingRead)>,
    /// Pieces that were written for readers.
    fetched: usize,
}

impl Owner {
    /// Opens the torrent's store below a directory, and serves what is asked of its handle on a thread of its own, which
    /// ends when the last handle is gone.
    pub fn start(content: &Content, directory: &Path, complete: bool) -> (Arc<Self>, TorrentHandle, JoinHandle<()>) {
        let metainfo = &content.metainfo;
        let files = TorrentFiles {
            info_hash: metainfo.info_hash.unwrap(),
            layout: Arc::clone(&metainfo.layout),
            hashes: PieceHashes::V1(metainfo.piece_hashes.clone()),
            info: metainfo.info.clone(),
        };
        let cache = CacheDir::open(&directory.join("cache")).unwrap();
        let store = Store::open(&cache, files, false).unwrap().store;
        let (handle, requests) = TorrentHandle::channel(Arc::clone(metainfo), Arc::clone(&store), DiskPool::new(2));
        let owner = Arc::new(Self {
            store,
            content: Content { metainfo: Arc::clone(metainfo), bytes: Arc::clone(&content.bytes) },
            state: Mutex::new(State { supply: Supply::Open, waiting: Vec::new(), fetched: 0 }),
            attempts: AtomicU32::new(0),
        });
        if complete {
            owner.fetch_all();
        }
        let thread = std::thread::spawn({
            let owner = Arc::clone(&owner);
            move || owner.run(requests)
        });
        (owner, handle, thread)
    }

    /// Changes what becomes of reads, those that wait included.
    pub fn supply(&self, supply: Supply) {
        let waiting = {
            let mut state = self.state.lock().unwrap();
            state.supply = supply;
            if supply == Supply::Shut { Vec::new() } else { std::mem::take(&mut state.waiting) }
        };
        for (_, pieces, reply) in waiting {
            self.serve(supply, pieces, reply);
        }
    }

    /// Reads that wait here.
    pub fn waiting(&self) -> usize {
        self.state.lock().unwrap().waiting.len()
    }

    /// Pieces that were written for readers.
    pub fn fetched(&self) -> usize {
        self.state.lock().unwrap().fetched
    }

    /// Puts all pieces into the store.
    pub fn fetch_all(&self) {
        self.fetch(self.store.layout().pieces());
    }

    fn serve(&self, supply: Supply, pieces: PieceRange, reply: PendingRead) {
        if supply == Supply::Stalled {
            return reply.answer(Err(ReadError::Stalled));
        }
        self.fetch(pieces);
        reply.answer(Ok(()));
    }

    fn fetch(&self, pieces: PieceRange) {
        let layout = Arc::clone(self.store.layout());
        for piece in pieces.iter().filter(|&piece| !self.store.table().all_present(PieceRange::one(piece))) {
            if self.store.table().state(piece) == PieceState::Unchecked {
                self.store.check(piece).unwrap();
                if self.store.table().state(piece) == PieceState::Present {
                    continue;
                }
            }
            let start = layout.piece_start(piece) as usize;
            let bytes = &self.content.bytes[start..start + layout.piece_bytes(piece) as usize];
            let attempt = self.attempts.fetch_add(1, Ordering::Relaxed) + 1;
            self.store.write(piece, attempt, 0, &[Bytes::copy_from_slice(bytes)]).unwrap();
            self.state.lock().unwrap().fetched += 1;
        }
    }

    fn run(&self, mut requests: Requests) {
        while let Some(request) = requests.blocking_recv() {
            match request {
                Request::Read { ticket, pieces, reply } => {
                    let supply = {
                        let mut state = self.state.lock().unwrap();
                        if state.supply == Supply::Shut {
                            state.waiting.push((ticket, pieces, reply));
                            continue;
                        }
                        state.supply
                    };
                    self.serve(supply, pieces, reply);
                }
                Request::Command(Wish::Abandon(ticket)) => {
                    let mut state = self.state.lock().unwrap();
                    if let Some(at) = state.waiting.iter().position(|(waiting, ..)| *waiting == ticket) {
                        state.waiting.remove(at).2.forget();
                    }
                }
                Request::Command(_) | Request::Snapshot(_) => {}
            }
        }
    }
}

/// SHA-1 as hex, as python's hashlib prints it.
pub fn digest(bytes: &[u8]) -> String {
    Sha1::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// When all these torrents were made.
pub const CREATED: i64 = 1_700_000_000;
