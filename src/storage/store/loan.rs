//! Complete files that the kernel reads by itself, past us (FUSE passthrough).

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::super::Pins;
use super::super::backing::{Backing, Identity};
use super::super::recency::Moment;
use super::Store;
use crate::base::FileIndex;

/// An open file of which every piece is present, and stays so: all are pinned as long as this lives (I2).
#[derive(Debug)]
pub struct Loan {
    file: Option<Arc<File>>,
    index: FileIndex,
    /// The file when it was lent.
    identity: Identity,
    /// Until it is dropped.
    pins: Option<Pins>,
}

impl Drop for Loan {
    fn drop(&mut self) {
        self.pins.take().into_iter().for_each(Pins::end);
    }
}

impl Store {
    /// Lends a file, if all its pieces are present and it is as we left it and of its right length: past us, nobody keeps
    /// a reader from bytes behind the end. Call [`suspect`](Self::suspect) before. May wait for the disk to open it.
    pub fn lend(&self, file: FileIndex) -> Option<Loan> {
        let bytes = self.layout.file_bytes(file);
        // Past us nobody fetches again what a disk does not give.
        if self.layout.is_padding(file) || bytes == 0 || self.in_trouble() {
            return None;
        }
        let pins = self.table.pin(self.pieces_of(file))?;
        let stamp = self.tracks.stamp(file).filter(|stamp| stamp.size == bytes)?;
        match self.backing.lend(file) {
            Ok((open, identity)) if identity == stamp => {
                self.has_lent.store(true, Ordering::Release);
                // Of what the kernel reads by itself nothing more is heard.
                self.recency.used(pins.range(), Moment::now());
                Some(Loan { file: Some(open), index: file, identity, pins: Some(pins) })
            }
            Ok(_) => None,
            Err(error) => {
                tracing::debug!(%error, %file, "a complete file cannot be lent to the kernel");
                None
            }
        }
    }

    /// Whether a lent file still has the bytes of the torrent, as far as we have looked.
    pub fn is_sound(&self, loan: &Loan) -> bool {
        let Some(stamp) = self.tracks.stamp(loan.index) else { return false };
        // Where it is not as it was lent it may have been checked, or repaired, since.
        let repaired = || self.table.all_present(self.pieces_of(loan.index));
        stamp == loan.identity || (stamp.is_same_file(&loan.identity) && stamp.size == loan.identity.size && repaired())
    }
}

impl Loan {
    /// The open file, until [`let_go`](Self::let_go).
    pub fn file(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(|file| file.as_fd())
    }

    /// Gives our descriptor back: the kernel holds the file by itself. Many files may be open, few descriptors ours.
    pub fn let_go(&mut self) {
        self.file = None;
    }
}
