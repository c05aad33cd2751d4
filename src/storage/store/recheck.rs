//! Checking of what a slot holds, whatever is known of it.

use super::super::resume::Record;
use super::super::{CacheDir, StorageError};
use super::{OpenedStore, Store, TorrentFiles, open};
use crate::base::Bitfield;

impl Store {
    /// Takes the slot of this name, as [`CacheDir::slots`] tells it, and no other one.
    ///
    /// # Errors
    /// [`StorageError::Mismatch`] when somebody has it.
    pub fn open_slot(cache: &CacheDir, name: &str, torrent: TorrentFiles) -> Result<OpenedStore, StorageError> {
        open::open_slot(cache, name, torrent)
    }

    /// Takes everything out of service until it was [checked](Self::check) again; the pieces that are to be checked.
    pub fn doubt(&self) -> Bitfield {
        let mut ledger = self.ledger.lock();
        ledger.doubts += 1;
        let pieces = self.layout.pieces();
        let on_disk = pieces.iter().filter(|&piece| self.backing.whole(piece).is_none());
        if on_disk.filter(|&piece| self.table.set_unchecked(piece)).count() > 0 {
            ledger.pending.push(Record::Unsure(pieces));
        }
        self.table.unchecked()
    }
}
