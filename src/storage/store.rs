//! One torrent's files on disk: what others call. Opening, reading and writing have modules of their own.

mod adopt;
mod evict;
mod glance;
mod guards;
mod home;
mod loan;
mod open;
mod pages;
mod placed;
mod read;
mod recheck;
mod tracks;
mod trouble;
mod write;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;

pub use self::adopt::Adopt;
use self::glance::Glances;
pub use self::guards::Guard;
use self::guards::Guards;
use self::home::Home;
pub use self::loan::Loan;
pub(crate) use self::pages::Pages;
use self::tracks::{Look, Tracks};
use self::trouble::Trouble;
use self::write::InProgress;
pub use self::write::Run;
use super::backing::disk::is_gone;
use super::backing::overflow::Overflow;
use super::backing::{Backing, Identity};
use super::budget::{Budget, CacheUsage, Room};
use super::cache_dir::Slot;
use super::recency::Recency;
use super::resume::{self, Ledger, Record, Resume, StateFiles};
use super::{CacheDir, PieceHashes, PieceTable, Pins, StorageError, Verdict, io_error};
use crate::base::{Bitfield, BlockRef, FileIndex, InfoHash, Layout, PieceIndex, PieceRange};

/// What a store needs to know of a torrent.
#[derive(Debug, Clone)]
pub struct TorrentFiles {
    /// Names the slot.
    pub info_hash: InfoHash,
    /// Where the bytes lie.
    pub layout: Arc<Layout>,
    /// What the pieces hash to.
    pub hashes: PieceHashes,
    /// The raw info dictionary, kept in the slot.
    pub info: Bytes,
}

/// Where a torrent's files go as they become complete.
#[derive(Debug, Clone)]
pub struct Destination {
    /// The directory, made if it is missing. What is not complete is kept in a slot of its own in it.
    pub directory: PathBuf,
    /// For each file of the layout its path below the directory; `None` for padding, symlinks, and what stays in the slot.
    pub paths: Vec<Option<PathBuf>>,
}

/// A store that has just been opened.
#[derive(Debug)]
pub struct OpenedStore {
    /// The store.
    pub store: Arc<Store>,
    /// Pieces that can be read now.
    pub have: Bitfield,
    /// Pieces that have to be checked first.
    pub unchecked: Bitfield,
    /// Pieces that were kept here and are not stored any more: somebody has cut or removed a file.
    pub gone: Bitfield,
    /// What a user should know (a damaged state file, a second slot, ...), a line each.
    pub warnings: Vec<String>,
}

/// Figures for status.
#[derive(Debug, Clone, Default)]
pub struct StoreStatus {
    /// The slot's directory, for people.
    pub path: PathBuf,
    /// Bytes allocated on disk by the slot.
    pub allocated_bytes: u64,
    /// Pieces hashed since the store was opened.
    pub hashed_pieces: u64,
    /// What the system says of a disk that takes nothing, as long as that lasts.
    pub trouble: Option<String>,
    /// Pieces that are readable and in memory alone.
    pub memory_pieces: usize,
    /// Bytes of memory that hold pieces.
    pub memory_bytes: u64,
}

/// What has become of pieces that were readable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Moved {
    /// They are not here any more.
    Gone(Vec<PieceIndex>),
    /// They were in memory alone, and lie on the disk now.
    OnDisk(Vec<PieceIndex>),
}

/// Called with pieces that moved.
type Listener = Box<dyn Fn(Moved) + Send + Sync>;

/// One torrent's bytes on disk, its piece table and its resume state.
pub struct Store {
    info_hash: InfoHash,
    layout: Arc<Layout>,
    hashes: PieceHashes,
    table: Arc<PieceTable>,
    /// The disk, and memory for what it does not take.
    backing: Overflow,
    /// How the disk does.
    trouble: Trouble,
    /// `None`: it has no directories of its own that could be made again.
    home: Option<Home>,
    /// The raw info dictionary.
    info: Bytes,
    tracks: Tracks,
    glances: Glances,
    /// Pieces that are being written. Each entry is locked by itself.
    progress: Mutex<HashMap<PieceIndex, Arc<InProgress>>>,
    /// Files found altered that nobody has been told of.
    altered: Mutex<BTreeSet<FileIndex>>,
    /// Files that were here before, and how often a verified piece would have needed other bytes in them.
    disputed: Mutex<BTreeMap<FileIndex, u32>>,
    slot: Slot,
    directories: Vec<(u64, u64)>,
    /// The files are somebody else's (I4).
    adopted: bool,
    ledger: Ledger,
    /// Held over writes and syncs of the slot's small files, by whoever maintains, evicts or closes; nobody else waits
    /// for it.
    resume: Mutex<Resume>,
    /// The slot's small files.
    notes: Arc<dyn StateFiles>,
    closed: AtomicBool,
    /// A file was lent to the kernel in the life of this store.
    has_lent: AtomicBool,
    /// Runs being written now.
    writing: AtomicUsize,
    recency: Recency,
    /// When the use of pieces was written down last.
    written_down: Mutex<Instant>,
    guards: Guards,
    /// Who admits what is written; `None`: nobody, there is no bound.
    budget: Option<Arc<Budget>>,
    listener: OnceLock<Listener>,
    /// Held while a run is written; by whoever gives back more than whole pieces, alone.
    edges: RwLock<()>,
    /// The filesystem makes no holes.
    unpunchable: AtomicBool,
    hashed_pieces: AtomicU64,
}

impl Store {
    /// Takes a slot of the cache for the torrent: the first that no live process owns. `recheck`: trust nothing.
    ///
    /// Old, damaged or foreign state never fails this; it costs a check (`unchecked`) and a warning.
    pub fn open(cache: &CacheDir, torrent: TorrentFiles, recheck: bool) -> Result<OpenedStore, StorageError> {
        open::open(cache, torrent, recheck)
    }

    /// Shares existing files, read-only. A slot in the cache keeps only what was verified, by file identity.
    /// Files of wrong length or missing ones: their pieces are absent and a warning says so.
    pub fn adopt(
        cache: &CacheDir,
        torrent: TorrentFiles,
        files: Adopt,
        recheck: bool,
    ) -> Result<OpenedStore, StorageError> {
        open::adopt(cache, torrent, files, recheck)
    }

    /// Keeps what is not complete in a slot of the destination, for [`place`](Self::place) to give each file its name.
    /// Files that are there already, with the right length, are taken for the torrent's own: checked, and never written.
    ///
    /// # Errors
    /// [`StorageError::Mismatch`] when something else has one of the names, or another process the slot. Nothing is made then.
    pub fn open_into(
        destination: &Destination,
        torrent: TorrentFiles,
        recheck: bool,
    ) -> Result<OpenedStore, StorageError> {
        placed::open(destination, torrent, recheck)
    }

    /// The shared table.
    pub fn table(&self) -> &Arc<PieceTable> {
        &self.table
    }

    /// The torrent.
    pub fn info_hash(&self) -> InfoHash {
        self.info_hash
    }

    /// Where the bytes lie.
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// Fills `buffer` from the page cache alone; `false`: it would have to wait for the disk (nothing is promised of
    /// the buffer then). The range must lie inside the file and under `pins`.
    pub fn try_read_now(
        &self,
        pins: &Pins,
        file: FileIndex,
        offset: u64,
        buffer: &mut [u8],
    ) -> Result<bool, StorageError> {
        self.read_file_now(pins, file, offset, buffer)
    }

    /// Fills `buffer`, waiting for the disk. The range must lie inside the file and under `pins`.
    ///
    /// # Errors
    /// [`StorageError::Absent`] when the file was altered behind our back: the pieces are unchecked from now on, and
    /// [`suspect`](Self::suspect) tells which.
    pub fn read(&self, pins: &Pins, file: FileIndex, offset: u64, buffer: &mut [u8]) -> Result<(), StorageError> {
        self.read_file(pins, file, offset, buffer)
    }

    /// As [`try_read_now`](Self::try_read_now), for a range inside a piece, across files, that is sent to a peer; padding
    /// reads as zeros. It leaves files to [`read_block`](Self::read_block) that were not looked at for a second.
    pub fn try_read_block_now(&self, pins: &Pins, block: BlockRef, buffer: &mut [u8]) -> Result<bool, StorageError> {
        self.read_spans_now(pins, block, buffer)
    }

    /// As [`read`](Self::read), for a range inside a piece, across files, that is sent to a peer; padding reads as zeros.
    /// A file is looked at once a second before: readers of the mount look when they open it, peers never do.
    pub fn read_block(&self, pins: &Pins, block: BlockRef, buffer: &mut [u8]) -> Result<(), StorageError> {
        self.read_spans(pins, block, buffer)
    }

    /// Writes a run of blocks; the call that completes the piece ends its hash. Safe to call from several threads for
    /// one piece. Padding is not written.
    pub fn write(
        &self,
        piece: PieceIndex,
        attempt: u32,
        begin: u32,
        blocks: &[Bytes],
    ) -> Result<Verdict, StorageError> {
        let run = Run { piece, attempt, begin, blocks: blocks.to_vec() };
        let ahead = self.hash_ahead(std::slice::from_ref(&run)).pop().flatten();
        self.write_run(&run, ahead)
    }

    /// As [`write`](Self::write) for each of several runs of different pieces, which are hashed together. `done` gets the
    /// verdicts in the same order, each as soon as it is known, when the blocks of its run are no longer held.
    pub fn write_all(&self, runs: Vec<Run>, mut done: impl FnMut(Result<Verdict, StorageError>)) {
        let ahead = self.hash_ahead(&runs);
        for (run, ahead) in runs.into_iter().zip(ahead) {
            let verdict = self.write_run(&run, ahead);
            drop(run);
            done(verdict);
        }
    }

    /// Hashes what lies on disk: the piece becomes present or absent.
    pub fn check(&self, piece: PieceIndex) -> Result<Verdict, StorageError> {
        self.check_piece(piece)
    }

    /// SHA-1 of each block of a present piece.
    pub fn block_digests(&self, piece: PieceIndex) -> Result<Vec<[u8; 20]>, StorageError> {
        let pins = self.table.pin(PieceRange::one(piece)).ok_or(StorageError::Absent(piece.raw()))?;
        let digests = self.digests_on_disk(piece)?;
        match pins.first_lost() {
            Some(lost) => Err(StorageError::Absent(lost.raw())),
            None => Ok(digests),
        }
    }

    /// Compares a file with what we last saw of it; when it was altered by somebody else its pieces become unchecked,
    /// and their range is returned.
    pub fn suspect(&self, file: FileIndex) -> Option<PieceRange> {
        if self.layout.is_padding(file) || self.layout.file_bytes(file) == 0 {
            return None;
        }
        match self.tracks.look(file, &self.backing) {
            Ok(Look::Same) => {}
            // If we cannot even look, reads will tell.
            Ok(Look::Altered) => self.altered(file),
            Err(error) => tracing::debug!(%error, "a file cannot be looked at"),
        }
        let altered = lock(&self.altered).remove(&file);
        altered.then(|| self.pieces_of(file))
    }

    /// The pieces of files that were found altered in passing, by a read or a write, since this was last asked.
    pub fn take_altered(&self) -> Vec<PieceRange> {
        let files = std::mem::take(&mut *lock(&self.altered));
        files.into_iter().map(|file| self.pieces_of(file)).collect()
    }

    /// Writes out the journal if anything is pending (call it every second), checkpoints when one is due. Returns at
    /// once when another thread is at it.
    pub fn maintain(&self) -> Result<(), StorageError> {
        self.maintain_at(Instant::now())
    }

    /// Whether [`maintain`](Self::maintain) has anything to do: nearly never, of a torrent that nobody fetches. Does not wait.
    pub fn wants_maintenance(&self) -> bool {
        let use_is_due = || !self.adopted && lock(&self.written_down).elapsed() >= WRITE_DOWN_AFTER;
        self.in_trouble()
            || !self.backing.is_empty()
            || self.resume.try_lock().is_ok_and(|resume| !resume.is_settled(&self.ledger))
            || use_is_due()
    }

    pub(crate) fn maintain_at(&self, now: Instant) -> Result<(), StorageError> {
        if !self.try_disk(now) {
            return Ok(());
        }
        let Ok(mut resume) = self.resume.try_lock() else { return Ok(()) };
        if self.closed.load(Ordering::Acquire) {
            return Ok(());
        }
        let maintained = resume.maintain(now, &self.layout, &self.ledger, self);
        if maintained.is_err() {
            // Bytes that could not be synced are lost, perhaps, and claimed in the journal: a kill must not leave it so.
            let _ = resume.flush(&self.ledger, self);
        }
        drop(resume);
        let maintained = maintained.map_err(self.resume_error());
        if let Err(error) = &maintained {
            self.disk_fails(error);
        }
        let due = {
            let mut last = lock(&self.written_down);
            let due = now.saturating_duration_since(*last) >= WRITE_DOWN_AFTER;
            if due {
                *last = now;
            }
            due
        };
        if due {
            self.write_down_use();
        }
        // Said already.
        if self.in_trouble() { Ok(()) } else { maintained }
    }

    /// Keeps what is known of the pieces' use, for the next life. If that fails, it knows a little less.
    fn write_down_use(&self) {
        if self.adopted {
            return;
        }
        if let Err(error) = resume::replace(&*self.notes, USED, &self.recency.write_down(), false) {
            tracing::debug!(%error, "the use of pieces is not kept");
        }
    }

    /// Last checkpoint; later writes are refused, those under way are waited for, half a second at most: a file
    /// that is written after its last stamp would be checked again. Idempotent.
    pub fn close(&self) -> Result<(), StorageError> {
        if self.closed.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        let patience = Instant::now() + CLOSE_PATIENCE;
        while self.writing.load(Ordering::SeqCst) > 0 && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(2));
        }
        self.write_down_use();
        let mut resume = lock(&self.resume);
        if resume.is_settled(&self.ledger) {
            return Ok(());
        }
        resume.checkpoint(Instant::now(), &self.layout, &self.ledger, self).map_err(self.resume_error())
    }

    /// Gives the bytes of a present piece back to the filesystem, unless somebody has pinned it, or has a file of it open
    /// or mapped past us; false then, and when it was not present. Files that are somebody else's are never touched (I4).
    pub fn evict(&self, piece: PieceIndex) -> Result<bool, StorageError> {
        self.evict_all(&[piece], true).map(|gone| !gone.is_empty())
    }

    #[cfg(test)]
    pub(crate) fn budget(&self) -> Option<&Arc<Budget>> {
        self.budget.as_ref()
    }

    /// How much may be fetched, as the bounds of the cache go.
    pub fn room(&self) -> Room {
        self.budget.as_ref().map_or(Room::Plenty, |budget| budget.room())
    }

    /// What its cache takes, if it lies in one that is bounded.
    pub fn cache_usage(&self) -> Option<CacheUsage> {
        self.budget.as_ref().map(|budget| budget.usage())
    }

    /// Bytes that a reader's window may have for itself, if the cache is bounded.
    pub fn window_bytes(&self) -> Option<u64> {
        self.budget.as_ref().map(|budget| budget.window_bytes())
    }

    /// A small named text kept in the slot (for example the listening port), `None` when it was never kept.
    pub fn remembered(&self, key: &str) -> Option<String> {
        let bytes = self.notes.read(&note_name(key)?).ok().flatten()?;
        String::from_utf8(bytes).ok()
    }

    /// Keeps a small named text in the slot. Keys are made of lower-case letters, digits and `-`.
    pub fn remember(&self, key: &str, value: &str) -> Result<(), StorageError> {
        let name = note_name(key).ok_or(std::io::ErrorKind::InvalidInput.into());
        name.and_then(|name| resume::replace(&*self.notes, &name, value.as_bytes(), false))
            .map_err(io_error("write", &self.slot.path))
    }

    /// Writes the text of the slot's lock file, for people: pid, mount points, control socket.
    pub fn describe_owner(&self, text: &str) -> Result<(), StorageError> {
        self.slot.describe_owner(text).map_err(io_error("write", &self.slot.path))
    }

    /// Figures for status.
    pub fn status(&self) -> StoreStatus {
        let (memory_bytes, memory_pieces) = self.backing.size();
        StoreStatus {
            path: self.slot.path.clone(),
            allocated_bytes: self.tracks.allocated(),
            hashed_pieces: self.hashed_pieces.load(Ordering::Relaxed),
            trouble: self.trouble_for_people(),
            memory_pieces,
            memory_bytes,
        }
    }

    /// Device and inode of the slot's directories, so that nobody mounts over them or asks us through our own mount.
    pub fn directories(&self) -> Vec<(u64, u64)> {
        self.directories.clone()
    }

    /// The slot's directory.
    pub fn path_for_people(&self) -> &Path {
        &self.slot.path
    }

    fn pieces_of(&self, file: FileIndex) -> PieceRange {
        self.layout.pieces_of(file, 0, self.layout.file_bytes(file))
    }

    /// A look has found a file altered.
    fn altered(&self, file: FileIndex) {
        self.distrust(file);
        self.tracks.settled(file);
        self.ledger.lock().unstamped.insert(file);
    }

    /// A file is not as we left it: none of its pieces is served before it was hashed again.
    fn distrust(&self, file: FileIndex) {
        self.distrust_pieces(file, self.pieces_of(file));
    }

    fn distrust_pieces(&self, file: FileIndex, pieces: PieceRange) {
        // Marked first, doubted then: whoever is about to speak a verdict sees the one or the other.
        let progress: Vec<_> = {
            let progress = lock(&self.progress);
            progress.iter().filter(|(piece, _)| pieces.contains(**piece)).map(|(_, entry)| Arc::clone(entry)).collect()
        };
        progress.iter().for_each(|entry| entry.reread());
        let lost = {
            let mut ledger = self.ledger.lock();
            ledger.doubts += 1;
            // What is whole in memory is none of the disk's business.
            let on_disk = pieces.iter().filter(|&piece| self.backing.whole(piece).is_none());
            let lost = on_disk.filter(|&piece| self.table.set_unchecked(piece)).count();
            if lost > 0 {
                ledger.pending.push(Record::Unsure(pieces));
            }
            lost
        };
        if lost > 0 {
            let path = self.backing.path(file);
            if self.in_trouble() || !self.is_at_home() {
                tracing::debug!(path = %path.display(), pieces = lost, "gone, or altered by somebody else");
            } else {
                tracing::warn!(path = %path.display(), pieces = lost, "altered by somebody else");
            }
            lock(&self.altered).insert(file);
        }
    }

    fn resume_error(&self) -> impl Fn(std::io::Error) -> StorageError + use<> {
        io_error("keep the state of", &self.slot.path)
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("slot", &self.slot.path).field("table", &self.table).finish_non_exhaustive()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if let Some(budget) = &self.budget {
            budget.left(self.allocated());
        }
    }
}

impl resume::Subject for Store {
    fn stamp(&self, file: FileIndex) -> Option<Identity> {
        if self.layout.is_padding(file) { None } else { self.tracks.stamp(file) }
    }

    fn sync(&self, file: FileIndex) -> std::io::Result<()> {
        let result = self.backing.sync(file);
        if result.is_err() {
            self.distrust(file);
        }
        match result {
            // Nothing of it can be lost any more.
            Err(error) if is_gone(&error) => Ok(()),
            other => other,
        }
    }

    fn sync_all(&self) -> std::io::Result<()> {
        self.backing.sync_all()
    }

    fn pieces(&self) -> (Bitfield, Bitfield) {
        let mut present = self.table.present();
        for piece in self.backing.by_age() {
            present.clear(piece);
        }
        (present, self.table.unchecked())
    }
}

/// The file that keeps a remembered text; `None` for what is no key.
fn note_name(key: &str) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (!key.is_empty() && key.len() <= 64 && key.bytes().all(plain)).then(|| format!("note.{key}"))
}

/// Every lock of the store guards a few lines that leave nothing half done, so a poisoned one is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The use of pieces, as [`Recency::write_down`] has it.
pub(super) const USED: &str = "used";

/// A kill costs so much of the knowledge which pieces were used last.
const WRITE_DOWN_AFTER: Duration = Duration::from_secs(300);

/// How long the end waits for writes under way.
const CLOSE_PATIENCE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests;
