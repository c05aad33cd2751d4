//! A torrent that is mounted in this process, and the owner of its pieces.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use btfs::base::{FileSpec, InfoHash, Layout, PieceRange};
use btfs::engine::{Command as Wish, ReadError, Ticket};
use btfs::fs::{Mount, MountConfig};
use btfs::net::{PendingRead, Request, Requests, TorrentHandle};
use btfs::proto::metainfo::{Entry, EntryKind, Metainfo};
use btfs::storage::{CacheDir, DiskPool, PieceHashes, Store, TorrentFiles};
use bytes::Bytes;
use sha1::{Digest, Sha1};

use crate::harness::{payload, wait_until};

/// A torrent of these entries: `path=bytes`, `path*=bytes` for an executable, `path->target`, `#=bytes` for padding.
/// One entry of the torrent's own name makes a single file. The bytes are those of `payload::bytes`.
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
        let mut bytes = payload::bytes(layout.total_bytes(), layout.total_bytes() as usize);
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
    store: Arc<Store>,
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

/// A mounted torrent; unmounted when dropped.
pub struct Served {
    // Dropped in this order: the mount first, the directory last.
    mount: Option<Mount>,
    pub handle: Option<TorrentHandle>,
    pub owner: Arc<Owner>,
    thread: Option<JoinHandle<()>>,
    pub content: Content,
    point: PathBuf,
    _directory: tempfile::TempDir,
}

impl Served {
    /// Everything is present.
    pub fn complete(content: Content) -> Self {
        Self::start(content, true, MountConfig::default())
    }

    /// Nothing is present, and the supply is open.
    pub fn empty(content: Content) -> Self {
        Self::start(content, false, MountConfig::default())
    }

    /// Mounts with these options (but for the mount point).
    pub fn start(content: Content, complete: bool, config: MountConfig) -> Self {
        let directory = tempfile::Builder::new().prefix("btfs-fs-").tempdir().unwrap();
        set_mode(directory.path(), 0o755);
        let point = directory.path().join("mnt");
        std::fs::create_dir(&point).unwrap();
        let metainfo = &content.metainfo;
        let files = TorrentFiles {
            info_hash: metainfo.info_hash.unwrap(),
            layout: Arc::clone(&metainfo.layout),
            hashes: PieceHashes::V1(metainfo.piece_hashes.clone()),
            info: metainfo.info.clone(),
        };
        let cache = CacheDir::open(&directory.path().join("cache")).unwrap();
        let store = Store::open(&cache, files, false).unwrap().store;
        let (handle, requests) = TorrentHandle::channel(Arc::clone(metainfo), Arc::clone(&store), DiskPool::new(2));
        let owner = Arc::new(Owner {
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
        let config = MountConfig { mountpoint: point.clone(), ..config };
        let avoid = owner.store.directories();
        let mount = Mount::start(config, std::slice::from_ref(&handle), &avoid).unwrap();
        Self {
            mount: Some(mount),
            handle: Some(handle),
            owner,
            thread: Some(thread),
            content,
            point,
            _directory: directory,
        }
    }

    /// The mount.
    pub fn mount(&self) -> &Mount {
        self.mount.as_ref().unwrap()
    }

    /// The mount point.
    pub fn root(&self) -> &Path {
        &self.point
    }

    /// The torrent's directory, or single file, in the mount.
    pub fn top(&self) -> PathBuf {
        self.point.join(std::ffi::OsStr::from_bytes(&self.content.metainfo.name))
    }

    /// A directory beside the mount, on a disk.
    pub fn beside(&self, name: &str) -> PathBuf {
        let path = self._directory.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    /// Waits until this many reads wait.
    #[track_caller]
    pub fn wait_blocked(&self, reads: usize) {
        wait_until("reads wait", Duration::from_secs(10), || self.mount().waiting_reads() >= reads);
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.mount.take());
        drop(self.handle.take());
        // Ends when the last open file of the view is gone, too; a detached mount may keep it.
        let thread = self.thread.take().unwrap();
        let until = Instant::now() + Duration::from_secs(5);
        while !thread.is_finished() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A child program that is killed when dropped.
pub struct Reader(pub Child);

impl Reader {
    /// Runs a python program with `path` as its argument; its output can be read when it has ended.
    pub fn python(program: &str, path: &Path) -> Self {
        Self::run(Command::new("python3").arg("-c").arg(program).arg(path))
    }

    /// Runs a command.
    pub fn run(command: &mut Command) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        Self(child.unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        crate::harness::process::send_signal(self.0.id() as i32, signal);
    }

    /// Waits for its end; panics when that takes longer.
    #[track_caller]
    pub fn ends_within(&mut self, bound: Duration) -> std::process::ExitStatus {
        let mut status = None;
        wait_until("the reader ends", bound, || {
            status = self.0.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// Its output after a good end.
    #[track_caller]
    pub fn output(mut self, bound: Duration) -> String {
        let status = self.ends_within(bound);
        let (mut text, mut errors) = (String::new(), String::new());
        std::io::Read::read_to_string(self.0.stdout.as_mut().unwrap(), &mut text).unwrap();
        std::io::Read::read_to_string(self.0.stderr.as_mut().unwrap(), &mut errors).unwrap();
        assert!(status.success(), "{status}: {text}{errors}");
        text
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.0.kill();
        // Not waited for without end: a reader may be stuck in the very mount under test.
        for _ in 0..200 {
            if matches!(self.0.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// SHA-1 as hex, as python's hashlib prints it.
pub fn digest(bytes: &[u8]) -> String {
    Sha1::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// When all these torrents were made.
pub const CREATED: i64 = 1_700_000_000;
