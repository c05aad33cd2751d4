//! Opening a store: which pieces can be served, which have to be hashed first, which are not here.

use std::collections::{BTreeSet, HashMap};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};

use super::super::backing::disk::DiskFiles;
use super::super::backing::{Backing, Seen};
use super::super::cache_dir::{DATA, Slot, Use};
use super::super::{CacheDir, PieceTable, StorageError, io_error};
use super::tracks::Tracks;
use super::{Adopt, OpenedStore, Store, TorrentFiles};
use crate::base::{Bitfield, Layout};

pub(super) fn open(cache: &CacheDir, torrent: TorrentFiles, recheck: bool) -> Result<OpenedStore, StorageError> {
    let _ = recheck;
    let mut warnings = Vec::new();
    let slot = cache.take_slot(torrent.info_hash, Use::Cache, &mut warnings)?;
    let path = slot.path.join(DATA);
    let data = slot.data_dir().map_err(io_error("open", &path))?;
    let files = DiskFiles::slot(Arc::clone(&torrent.layout), data, path.clone()).map_err(io_error("stat", &path))?;
    let directories = vec![
        cache.directory()?,
        slot.directory().map_err(io_error("stat", &slot.path))?,
        files.directory().map_err(io_error("stat", &path))?,
    ];
    assemble(torrent, Box::new(files), slot, directories, false, warnings)
}

pub(super) fn adopt(
    cache: &CacheDir,
    torrent: TorrentFiles,
    files: Adopt,
    recheck: bool,
) -> Result<OpenedStore, StorageError> {
    let _ = recheck;
    let mut warnings = Vec::new();
    let slot = cache.take_slot(torrent.info_hash, Use::Adopted, &mut warnings)?;
    let (root, paths) = split_root(&torrent.layout, files)?;
    let dir = std::fs::File::open(&root).map_err(io_error("open", &root))?;
    let layout = Arc::clone(&torrent.layout);
    let files = DiskFiles::adopted(layout, dir, root.clone(), paths).map_err(io_error("stat", &root))?;
    let directories = vec![
        cache.directory()?,
        slot.directory().map_err(io_error("stat", &slot.path))?,
        files.directory().map_err(io_error("stat", &root))?,
    ];
    assemble(torrent, Box::new(files), slot, directories, true, warnings)
}

fn assemble(
    torrent: TorrentFiles,
    backing: Box<dyn Backing>,
    slot: Slot,
    directories: Vec<(u64, u64)>,
    adopted: bool,
    warnings: Vec<String>,
) -> Result<OpenedStore, StorageError> {
    let TorrentFiles { layout, hashes, .. } = torrent;
    let seen = look_at_all(&layout, &*backing);
    let have = Bitfield::new(layout.piece_count());
    let unchecked = stored_pieces(&layout, &*backing, &seen);
    let table = Arc::new(PieceTable::new(&have, &unchecked));
    let store = Store {
        layout,
        hashes,
        table,
        backing,
        tracks: Tracks::new(seen.into_iter()),
        progress: Mutex::new(HashMap::new()),
        altered: Mutex::new(BTreeSet::new()),
        slot,
        directories,
        adopted,
        closed: AtomicBool::new(false),
        hashed_pieces: AtomicU64::new(0),
    };
    Ok(OpenedStore { store: Arc::new(store), have, unchecked, warnings })
}

/// What each file is now; a file that cannot be looked at counts as missing.
fn look_at_all(layout: &Layout, backing: &dyn Backing) -> Vec<Option<Seen>> {
    let look = |file| if layout.is_padding(file) { None } else { backing.seen(file).ok().flatten() };
    layout.files().map(look).collect()
}

/// The pieces all of whose bytes are stored: no hole, no missing end.
fn stored_pieces(layout: &Layout, backing: &dyn Backing, seen: &[Option<Seen>]) -> Bitfield {
    let mut stored = Bitfield::full(layout.piece_count());
    for (file, seen) in layout.files().zip(seen) {
        let length = layout.file_bytes(file);
        if layout.is_padding(file) || length == 0 {
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
                stored.clear(piece);
            }
            at = end.max(at + 1);
        }
    }
    stored
}

/// The directory that all paths have in common (its real path), and the paths below it.
fn split_root(layout: &Layout, files: Adopt) -> Result<(PathBuf, Vec<Option<PathBuf>>), StorageError> {
    let mismatch = |path: &Path, reason: &str| StorageError::Mismatch { path: path.to_owned(), reason: reason.into() };
    let mut root: Option<PathBuf> = None;
    for path in files.paths.iter().flatten() {
        let plain = path.is_absolute() && !path.components().any(|part| matches!(part, Component::ParentDir));
        let Some(parent) = path.parent().filter(|_| plain) else {
            return Err(mismatch(path, "not an absolute path of a file"));
        };
        root = Some(match root {
            None => parent.to_owned(),
            Some(root) => {
                root.components().zip(parent.components()).take_while(|(a, b)| a == b).map(|(a, _)| a).collect()
            }
        });
    }
    let root = root.ok_or_else(|| mismatch(Path::new(""), "there is no file to share"))?;
    let below = |path: PathBuf| path.strip_prefix(&root).map(Path::to_owned).ok();
    let mut paths: Vec<_> = files.paths.into_iter().map(|path| path.and_then(below)).collect();
    paths.resize(layout.file_count(), None);
    let root = root.canonicalize().map_err(io_error("open", &root))?;
    Ok((root, paths))
}
