//! Opening a store: which pieces can be served, which have to be hashed first, which are not here.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::time::Instant;

use super::super::backing::disk::DiskFiles;
use super::super::backing::overflow::{MEMORY_BYTES, Overflow};
use super::super::backing::{Backing, Seen};
use super::super::budget::Budget;
use super::super::cache_dir::{DATA, Slot, Use};
use super::super::recency::{Moment, Recency};
use super::super::resume::{self, BootId, Directory, Ledger, Recovered, Resume, StateFiles};
use super::super::{CacheDir, PieceTable, StorageError, io_error};
use super::glance::Glances;
use super::guards::Guards;
use super::home::Home;
use super::tracks::Tracks;
use super::trouble::Trouble;
use super::{Adopt, OpenedStore, Store, TorrentFiles, USED};
use crate::base::{Bitfield, Layout};

pub(super) fn open(cache: &CacheDir, torrent: TorrentFiles, recheck: bool) -> Result<OpenedStore, StorageError> {
    let mut warnings = Vec::new();
    let slot = cache.take_slot(torrent.info_hash, Use::Cache, &mut warnings)?;
    open_taken(cache, slot, torrent, recheck, warnings)
}

pub(super) fn open_slot(cache: &CacheDir, name: &str, torrent: TorrentFiles) -> Result<OpenedStore, StorageError> {
    let mut warnings = Vec::new();
    let slot = cache.take_only_slot(name, &mut warnings)?;
    open_taken(cache, slot, torrent, false, warnings)
}

fn open_taken(
    cache: &CacheDir,
    slot: Slot,
    torrent: TorrentFiles,
    recheck: bool,
    mut warnings: Vec<String>,
) -> Result<OpenedStore, StorageError> {
    let path = slot.path.join(DATA);
    let data = slot.data_dir(&mut warnings).map_err(io_error("open", &path))?;
    let files = DiskFiles::slot(Arc::clone(&torrent.layout), data, path.clone(), cache.open_files())
        .map_err(io_error("stat", &path))?;
    let directories = directories(cache, &slot, &files)?;
    let state = state_files(&slot)?;
    let boot = BootId::current();
    let backing = Arc::new(files);
    let home = Home { cache: cache.share(), files: Arc::clone(&backing), notes: Arc::clone(&state) };
    let (home, budget, memory) = (Some(home), cache.budget(), MEMORY_BYTES);
    Ok(Parts { torrent, backing, state, slot, directories, adopted: false, boot, budget, home, memory }
        .open(recheck, warnings))
}

pub(super) fn adopt(
    cache: &CacheDir,
    torrent: TorrentFiles,
    files: Adopt,
    recheck: bool,
) -> Result<OpenedStore, StorageError> {
    let mut warnings = Vec::new();
    let (root, paths) = files.split_root(&torrent.layout)?;
    let dir = File::open(&root).map_err(io_error("open", &root))?;
    let slot = cache.take_slot(torrent.info_hash, Use::Adopted, &mut warnings)?;
    slot.describe_adopted(&root).map_err(io_error("write", &slot.path))?;
    let layout = Arc::clone(&torrent.layout);
    let files =
        DiskFiles::adopted(layout, dir, root.clone(), paths, cache.open_files()).map_err(io_error("stat", &root))?;
    let directories = directories(cache, &slot, &files)?;
    let state = state_files(&slot)?;
    let boot = BootId::current();
    let backing = Arc::new(files);
    let (home, budget, memory) = (None, None, 0);
    Ok(Parts { torrent, backing, state, slot, directories, adopted: true, boot, budget, home, memory }
        .open(recheck, warnings))
}

/// What a store is made of. Tests put others in for the disk.
pub(super) struct Parts {
    pub(super) torrent: TorrentFiles,
    pub(super) backing: Arc<dyn Backing>,
    pub(super) state: Arc<dyn StateFiles>,
    pub(super) slot: Slot,
    pub(super) directories: Vec<(u64, u64)>,
    pub(super) adopted: bool,
    pub(super) boot: BootId,
    pub(super) budget: Option<Arc<Budget>>,
    pub(super) home: Option<Home>,
    /// Bytes of memory for what the disk does not take.
    pub(super) memory: u64,
}

impl Parts {
    /// Nothing that lies in the slot fails this.
    pub(super) fn open(self, recheck: bool, mut warnings: Vec<String>) -> OpenedStore {
        let Self { torrent: TorrentFiles { info_hash, layout, hashes, info }, backing, state, slot, budget, .. } = self;
        let known = resume::recover(&*state, info_hash, &layout, self.boot);
        let mut seen = look_at_all(&layout, &*backing);
        if self.adopted {
            warn_of_missing(&layout, &*backing, &mut seen, &mut warnings);
        }
        let (have, unchecked) = judge(&layout, &*backing, &seen, &known, recheck);
        // Of files that have come otherwise than by us nothing can be known.
        let somebodys = self.adopted || layout.files().any(|file| backing.is_placed(file));
        if let Some(damage) = &known.damage {
            let path = slot.path.display();
            let count = unchecked.count();
            warnings.push(format!("the state in {path} is not used: {damage}; {count} pieces will be checked"));
        } else if !known.had_state && !somebodys && unchecked.count() > 0 {
            let path = slot.path.display();
            warnings.push(format!("{path} has no state; {} pieces will be checked", unchecked.count()));
        }
        let mut unsynced = known.unsynced;
        unsynced.clone().iter().filter(|&piece| !have.has(piece)).for_each(|piece| {
            unsynced.clear(piece);
        });
        if let Err(error) = keep_info(&*state, &info) {
            warnings.push(format!("{}: {error}", slot.path.join(INFO).display()));
        }
        let mut gone = known.have.clone();
        known.unchecked.iter().for_each(|piece| _ = gone.set(piece));
        have.iter().chain(unchecked.iter()).for_each(|piece| _ = gone.clear(piece));
        let now = Moment::now();
        let used = state.read(USED).ok().flatten().unwrap_or_default();
        let recency = Recency::recall(layout.piece_count(), now, &used);
        let resume = Resume::new(Arc::clone(&state), info_hash, self.boot, known.journals);
        let store = Store {
            info_hash,
            table: Arc::new(PieceTable::new(&have, &unchecked)),
            tracks: Tracks::new(seen.into_iter()),
            glances: Glances::new(Instant::now(), layout.file_count()),
            backing: Overflow::new(Arc::clone(&layout), backing, self.memory),
            trouble: Trouble::default(),
            home: self.home,
            info,
            layout,
            hashes,
            progress: Mutex::new(HashMap::new()),
            altered: Mutex::new(BTreeSet::new()),
            disputed: Mutex::default(),
            slot,
            directories: self.directories,
            adopted: self.adopted,
            ledger: Ledger::default(),
            resume: Mutex::new(resume),
            notes: state,
            closed: AtomicBool::new(false),
            has_lent: AtomicBool::new(false),
            writing: AtomicUsize::new(0),
            recency,
            written_down: Mutex::new(Instant::now()),
            guards: Guards::default(),
            budget: budget.clone(),
            listener: OnceLock::new(),
            edges: RwLock::new(()),
            unpunchable: AtomicBool::new(false),
            hashed_pieces: AtomicU64::new(0),
        };
        // Before anything is written: whatever is not trusted any more must not be claimed by the old state once a file
        // has got a new stamp.
        let begun = super::lock(&store.resume).begin(Instant::now(), &store.layout, &store.ledger, &store, &unsynced);
        if let Err(error) = begun {
            let path = store.slot.path.display();
            warnings.push(format!("{path}: {error}; what is fetched now may have to be checked next time"));
        }
        let store = Arc::new(store);
        if let Some(budget) = budget {
            budget.joined(&store);
        }
        OpenedStore { store, have, unchecked, gone, warnings }
    }
}

pub(super) fn state_files(slot: &Slot) -> Result<Arc<Directory>, StorageError> {
    slot.dir().map(|dir| Arc::new(Directory::new(dir))).map_err(io_error("open", &slot.path))
}

fn directories(cache: &CacheDir, slot: &Slot, files: &DiskFiles) -> Result<Vec<(u64, u64)>, StorageError> {
    let failed = io_error("stat", &slot.path);
    Ok(vec![cache.directory()?, slot.directory().map_err(&failed)?, files.directory().map_err(&failed)?])
}

/// What can be served at once, and what has to be hashed before: all that lies there but is not known to be as we left
/// it.
fn judge(
    layout: &Layout,
    backing: &dyn Backing,
    seen: &[Option<Seen>],
    known: &Recovered,
    recheck: bool,
) -> (Bitfield, Bitfield) {
    let mut have = if recheck { Bitfield::new(layout.piece_count()) } else { known.have.clone() };
    let mut doubtful = if recheck { Bitfield::full(layout.piece_count()) } else { known.unchecked.clone() };
    for (file, seen) in layout.files().zip(seen) {
        let length = layout.file_bytes(file);
        let trusted = seen.is_some() && known.stamps.get(&file) == seen.as_ref().map(|seen| &seen.identity);
        if trusted || layout.is_padding(file) || length == 0 {
            continue;
        }
        for piece in layout.pieces_of(file, 0, length).iter() {
            have.clear(piece);
            doubtful.set(piece);
        }
    }
    keep_stored(layout, backing, seen, &mut doubtful);
    (have, doubtful)
}

/// What each file is now; a file that cannot be looked at counts as missing.
fn look_at_all(layout: &Layout, backing: &dyn Backing) -> Vec<Option<Seen>> {
    let look = |file| if layout.is_padding(file) { None } else { backing.seen(file).ok().flatten() };
    layout.files().map(look).collect()
}

/// Takes out of `pieces` all that are not stored whole: with a hole, or beyond the end of a file.
fn keep_stored(layout: &Layout, backing: &dyn Backing, seen: &[Option<Seen>], pieces: &mut Bitfield) {
    for (file, seen) in layout.files().zip(seen) {
        let length = layout.file_bytes(file);
        let concerned = layout.pieces_of(file, 0, length).iter().any(|piece| pieces.has(piece));
        if layout.is_padding(file) || !concerned {
            continue;
        }
        let mut at = 0;
        while at < length {
            let run = match seen {
                Some(_) => backing.next_data(file, at).ok().flatten(),
                None => None,
            };
            let (start, end) = run.map_or((length, length), |run| (run.start.min(length), run.end));
            for piece in layout.pieces_of(file, at, start - at).iter() {
                pieces.clear(piece);
            }
            at = end.max(at + 1);
        }
    }
}

/// Files of the user's that are missing or of another length count as missing; the first few are named.
fn warn_of_missing(layout: &Layout, backing: &dyn Backing, seen: &mut [Option<Seen>], warnings: &mut Vec<String>) {
    let mut more = 0_usize;
    for (file, seen) in layout.files().zip(seen) {
        let expected = layout.file_bytes(file);
        let found = seen.map(|seen| seen.identity.size);
        if layout.is_padding(file) || expected == 0 || found == Some(expected) {
            continue;
        }
        *seen = None;
        if warnings.len() >= NAMED_FILES {
            more += 1;
            continue;
        }
        let path = backing.path(file);
        let path = path.display();
        warnings.push(match found {
            None => format!("{path}: missing, or not a regular file below real directories; its pieces are not shared"),
            Some(found) => format!("{path}: {found} bytes instead of {expected}; its pieces are not shared"),
        });
    }
    if more > 0 {
        warnings.push(format!("{more} more files are missing or of the wrong length"));
    }
}

/// Keeps the info dictionary in the slot, so that a torrent can be named without its file.
pub(super) fn keep_info(state: &dyn StateFiles, info: &[u8]) -> std::io::Result<()> {
    if state.read(INFO)?.as_deref() == Some(info) {
        return Ok(());
    }
    resume::replace(state, INFO, info, false)
}

const INFO: &str = "info";

/// Files that are warned of one by one.
const NAMED_FILES: usize = 10;
