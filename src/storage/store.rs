//! One torrent's files on disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::{CacheDir, PieceHashes, PieceTable, Pins, StorageError, Verdict};
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

/// Files of the user's to be shared as they are, opened read-only (I4).
#[derive(Debug, Clone)]
pub struct Adopt {
    /// For each file of the layout its path (absolute), `None` for padding and symlinks.
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
}

/// One torrent's bytes on disk, its piece table and its resume state.
#[derive(Debug)]
pub struct Store {}

#[allow(unused_variables)]
impl Store {
    /// Takes a slot of the cache for the torrent: the first that no live process owns. `recheck`: trust nothing.
    ///
    /// Old, damaged or foreign state never fails this; it costs a check (`unchecked`) and a warning.
    pub fn open(cache: &CacheDir, torrent: TorrentFiles, recheck: bool) -> Result<OpenedStore, StorageError> {
        todo!()
    }
    /// Shares existing files, read-only. A slot in the cache keeps only what was verified, by file identity.
    /// Files of wrong length or missing ones: their pieces are absent and a warning says so.
    pub fn adopt(
        cache: &CacheDir,
        torrent: TorrentFiles,
        files: Adopt,
        recheck: bool,
    ) -> Result<OpenedStore, StorageError> {
        todo!()
    }
    /// The shared table.
    pub fn table(&self) -> &Arc<PieceTable> {
        todo!()
    }
    /// Where the bytes lie.
    pub fn layout(&self) -> &Arc<Layout> {
        todo!()
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
        todo!()
    }
    /// Fills `buffer`, waiting for the disk. The range must lie inside the file and under `pins`.
    pub fn read(&self, pins: &Pins, file: FileIndex, offset: u64, buffer: &mut [u8]) -> Result<(), StorageError> {
        todo!()
    }
    /// As [`try_read_now`](Self::try_read_now), for a range inside a piece, across files; padding reads as zeros.
    pub fn try_read_block_now(&self, pins: &Pins, block: BlockRef, buffer: &mut [u8]) -> Result<bool, StorageError> {
        todo!()
    }
    /// As [`read`](Self::read), for a range inside a piece, across files; padding reads as zeros.
    pub fn read_block(&self, pins: &Pins, block: BlockRef, buffer: &mut [u8]) -> Result<(), StorageError> {
        todo!()
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
        todo!()
    }
    /// Hashes what lies on disk: the piece becomes present or absent.
    pub fn check(&self, piece: PieceIndex) -> Result<Verdict, StorageError> {
        todo!()
    }
    /// SHA-1 of each block of a present piece.
    pub fn block_digests(&self, piece: PieceIndex) -> Result<Vec<[u8; 20]>, StorageError> {
        todo!()
    }
    /// Compares a file with what we last saw of it; when it was altered by somebody else its pieces become unchecked,
    /// and their range is returned.
    pub fn suspect(&self, file: FileIndex) -> Option<PieceRange> {
        todo!()
    }
    /// Writes out the journal if anything is pending (call it every second), checkpoints when one is due.
    pub fn maintain(&self) -> Result<(), StorageError> {
        todo!()
    }
    /// Last checkpoint; later writes are refused. Idempotent.
    pub fn close(&self) -> Result<(), StorageError> {
        todo!()
    }
    /// A small named text kept in the slot (for example the listening port), `None` when it was never kept.
    pub fn remembered(&self, key: &str) -> Option<String> {
        todo!()
    }
    /// Keeps a small named text in the slot.
    pub fn remember(&self, key: &str, value: &str) -> Result<(), StorageError> {
        todo!()
    }
    /// Writes the text of the slot's lock file, for people: pid, mount points, control socket.
    pub fn describe_owner(&self, text: &str) -> Result<(), StorageError> {
        todo!()
    }
    /// Figures for status.
    pub fn status(&self) -> StoreStatus {
        todo!()
    }
    /// Device and inode of the slot's directories, so that nobody mounts over them or asks us through our own mount.
    pub fn directories(&self) -> Vec<(u64, u64)> {
        todo!()
    }
    /// An open descriptor of a wholly present file (for passthrough), pinned while it lives. Later.
    pub fn path_for_people(&self) -> &Path {
        todo!()
    }
}
