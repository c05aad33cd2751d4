//! Open files: what a read needs to know, found by the number that the kernel sends along.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use crate::base::{FileIndex, PieceRange};
use crate::engine::HandleId;
use crate::net::TorrentHandle;

/// One open file.
#[derive(Debug)]
pub(crate) struct Handle {
    /// Its number, for the kernel and for the engine.
    pub(crate) id: HandleId,
    /// The torrent.
    pub(crate) torrent: TorrentHandle,
    /// The file.
    pub(crate) file: FileIndex,
    /// Its length in bytes.
    pub(crate) bytes: u64,
    /// How far ahead of the reader to fetch.
    readahead: Duration,
}

impl Handle {
    /// The pieces behind a range of the file.
    pub(crate) fn pieces(&self, offset: u64, length: usize) -> PieceRange {
        self.torrent.store().layout().pieces_of(self.file, offset, length as u64)
    }

    /// The reader asks for a range; `present`: it is all here.
    pub(crate) fn asked(&self, _offset: u64, _length: usize, _present: bool) {
        let _ = self.readahead;
    }

    /// The reader has its answer.
    pub(crate) fn answered(&self, _offset: u64, _length: usize) {}
}

/// All open files of a mount.
#[derive(Debug, Default)]
pub(crate) struct Handles {
    open: RwLock<HashMap<u64, Arc<Handle>>>,
    last: AtomicU64,
}

impl Handles {
    /// Enters a file that is being opened.
    pub(crate) fn open(&self, torrent: &TorrentHandle, file: FileIndex, readahead: Duration) -> Arc<Handle> {
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let bytes = torrent.store().layout().file_bytes(file);
        let handle = Arc::new(Handle { id: HandleId(number), torrent: torrent.clone(), file, bytes, readahead });
        self.open.write().unwrap_or_else(PoisonError::into_inner).insert(number, Arc::clone(&handle));
        handle
    }

    /// The open file of this number.
    pub(crate) fn find(&self, number: u64) -> Option<Arc<Handle>> {
        self.open.read().unwrap_or_else(PoisonError::into_inner).get(&number).cloned()
    }

    /// Takes a file out that was closed.
    pub(crate) fn close(&self, number: u64) -> Option<Arc<Handle>> {
        self.open.write().unwrap_or_else(PoisonError::into_inner).remove(&number)
    }

    /// Number of open files.
    pub(crate) fn len(&self) -> usize {
        self.open.read().unwrap_or_else(PoisonError::into_inner).len()
    }
}
