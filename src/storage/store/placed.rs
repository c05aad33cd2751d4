//! Downloads into a directory of the user's: a slot of their own until files are complete, then names of their own.
//!
//! Whoever has a name before is not written to (I4): what peers send for it is compared instead. Where a piece fails its
//! hash because of such a file, that is counted, as it may be the peers who are wrong.

use std::ffi::OsStr;
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;

use super::super::backing::Backing;
use super::super::backing::disk::DiskFiles;
use super::super::backing::places::{Places, slot_name};
use super::super::cache_dir::DATA;
use super::super::resume::BootId;
use super::super::{CacheDir, StorageError, io_error, sys};
use super::open::{Parts, state_files};
use super::{Destination, OpenedStore, Store, TorrentFiles, lock};
use crate::base::{FileIndex, Span};

pub(super) fn open(
    destination: &Destination,
    torrent: TorrentFiles,
    recheck: bool,
) -> Result<OpenedStore, StorageError> {
    let path = std::path::absolute(&destination.directory).map_err(io_error("open", &destination.directory))?;
    // It is the user's, unlike a cache: others may look into it as the umask says.
    std::fs::create_dir_all(&path).map_err(io_error("create", &path))?;
    let directory = CacheDir::open(&path)?;
    let root = || directory.dir().try_clone().map_err(io_error("open", &path));
    let name = slot_name(torrent.info_hash);
    let begun = |file: FileIndex| {
        let begun = Path::new(&name).join(DATA).join(file.to_string());
        sys::status_at(directory.dir(), begun.as_os_str()).ok().flatten().is_some()
    };
    let places = Places::new(root()?, path.clone(), destination.paths.clone(), &torrent.layout, begun)?;
    let mut warnings = Vec::new();
    let slot = directory.take_only_slot(&name, &mut warnings)?;
    let data_path = slot.path.join(DATA);
    let data = slot.data_dir(&mut warnings).map_err(io_error("open", &data_path))?;
    let layout = Arc::clone(&torrent.layout);
    let files = DiskFiles::placed(layout, data, data_path.clone(), places).map_err(io_error("stat", &data_path))?;
    let directories = vec![directory.directory()?, slot.directory().map_err(io_error("stat", &slot.path))?];
    let state = state_files(&slot)?;
    let (backing, boot) = (Arc::new(files), BootId::current());
    // A download is only done when it is on the disk.
    let (budget, home, memory) = (None, None, 0);
    Ok(Parts { torrent, backing, state, slot, directories, adopted: false, boot, budget, home, memory }
        .open(recheck, warnings))
}

impl Store {
    /// Gives a file its name and these permissions, once all of its pieces are present; false when they are not. A file
    /// that has its name already stays as it is. Call [`settle`](Self::settle) before, so that no name ever stands for
    /// bytes that a power cut may take.
    ///
    /// # Errors
    /// [`StorageError::Mismatch`] when something else has the name, or is in the way to it.
    pub fn place(&self, file: FileIndex, mode: u32) -> Result<bool, StorageError> {
        let pieces = self.pieces_of(file);
        let Some(_pins) = self.table.pin(pieces) else { return Ok(false) };
        if self.backing.is_placed(file) {
            return Ok(true);
        }
        let mut outcome = Ok(false);
        // The move is one of our own changes: it moves the file's times, and what others have done shows before it.
        let changed = self.change(file, 0, 0, || {
            if self.table.all_present(pieces) {
                outcome = self.backing.place(file, mode).map(|()| true);
            }
            Ok(())
        })?;
        changed.map_err(io_error("create", &self.backing.path(file)))?;
        outcome
    }

    /// Makes a symlink at a path of the destination, unless it is there.
    ///
    /// # Errors
    /// As [`place`](Self::place).
    pub fn place_link(&self, path: &Path, target: &OsStr) -> Result<(), StorageError> {
        self.backing.place_link(path, target)
    }

    /// Whether a file has its name: by [`place`](Self::place), or from before.
    pub fn is_placed(&self, file: FileIndex) -> bool {
        self.backing.is_placed(file)
    }

    /// A file that was here before, and that pieces fail for again and again: it is not what the torrent says.
    pub fn disputed(&self) -> Option<FileIndex> {
        lock(&self.disputed).iter().find(|&(_, &times)| times >= DISPUTES).map(|(&file, _)| file)
    }

    /// Waits until all that was written to these files is on the disk.
    pub fn settle(&self, files: &[FileIndex]) -> Result<(), StorageError> {
        if files.len() >= MANY_FILES && self.backing.sync_all().is_ok() {
            return Ok(());
        }
        let stored = files.iter().copied().filter(|&file| self.tracks.stamp(file).is_some());
        stored.into_iter().try_for_each(|file| {
            self.backing.sync(file).map_err(|error| {
                self.distrust(file);
                io_error("sync", &self.backing.path(file))(error)
            })
        })
    }

    /// Waits until everything is on the disk, names included, and removes the slot: all that was wanted has its name.
    /// Nothing can be kept here any more. Call [`close`](Self::close) before.
    pub fn dissolve(&self) -> Result<(), StorageError> {
        self.backing.sync_all().map_err(io_error("sync", &self.slot.path))?;
        self.slot.dissolve().map_err(io_error("remove", &self.slot.path))
    }

    /// Where a file lies, for people.
    pub fn path_of(&self, file: FileIndex) -> std::path::PathBuf {
        self.backing.path(file)
    }

    /// Whether a file has just these bytes.
    pub(super) fn holds(&self, span: Span, slices: &[IoSlice<'_>]) -> Result<bool, StorageError> {
        let mut there = vec![0; span.length as usize];
        let read = self.backing.read_at(span.file, span.offset, &mut there);
        if read.map_err(io_error("read", &self.backing.path(span.file)))? != there.len() {
            return Ok(false);
        }
        let mut rest = &there[..];
        Ok(slices.iter().all(|slice| {
            let (part, tail) = rest.split_at(slice.len());
            rest = tail;
            part == &**slice
        }))
    }

    /// A piece has failed its hash, and this file had other bytes than those that were sent for it.
    pub(super) fn dispute(&self, file: FileIndex) {
        *lock(&self.disputed).entry(file).or_default() += 1;
    }
}

/// One liar must not make a good file a bad one.
const DISPUTES: u32 = 3;

/// From so many files on the whole filesystem is synced instead of each.
const MANY_FILES: usize = 64;
