//! What is known at the start: the checkpoint, and the journals after it.

use std::collections::HashMap;

use super::super::backing::Identity;
use super::checkpoint::Checkpoint;
use super::files::StateFiles;
use super::journal::{BootId, Header, Journal, Record};
use super::{STATE, journal_number};
use crate::base::{Bitfield, FileIndex, InfoHash, Layout};

/// What the slot claims. Nothing of it counts for a file that is not as its stamp says.
#[derive(Debug)]
pub(crate) struct Recovered {
    /// Pieces that were verified, and whose bytes are where they were put.
    pub(crate) have: Bitfield,
    /// Pieces that were verified once, or that lay there unchecked.
    pub(crate) unchecked: Bitfield,
    /// Those of `have` whose bytes may lie in the page cache alone.
    pub(crate) unsynced: Bitfield,
    /// The files as we left them.
    pub(crate) stamps: HashMap<FileIndex, Identity>,
    /// Why the checkpoint was of no use, if that is so.
    pub(crate) damage: Option<String>,
    /// Journals that lie there.
    pub(crate) journals: Vec<u64>,
    /// Whether there was a checkpoint at all, good or bad.
    pub(crate) had_state: bool,
}

/// Reads checkpoint and journals. Never fails: what cannot be read is not known.
pub(crate) fn recover(files: &dyn StateFiles, torrent: InfoHash, layout: &Layout, boot: BootId) -> Recovered {
    let mut journals: Vec<u64> =
        files.names().unwrap_or_default().iter().filter_map(|name| journal_number(name)).collect();
    journals.sort_unstable();
    let nothing = |damage, had_state| Recovered {
        have: Bitfield::new(layout.piece_count()),
        unchecked: Bitfield::new(layout.piece_count()),
        unsynced: Bitfield::new(layout.piece_count()),
        stamps: HashMap::new(),
        damage,
        journals: journals.clone(),
        had_state,
    };
    let checkpoint = match files.read(STATE) {
        Ok(None) => return nothing(None, false),
        Ok(Some(bytes)) => Checkpoint::decode(&bytes, torrent, layout).map_err(|damage| damage.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let checkpoint = match checkpoint {
        Ok(checkpoint) => checkpoint,
        Err(damage) => return nothing(Some(damage), true),
    };
    let Checkpoint { journal: first, have, unchecked, stamps } = checkpoint;
    let unsynced = Bitfield::new(layout.piece_count());
    let mut replay = Replay { have, unchecked, unsynced, stamps, doubtful: false };
    let mut expected = first;
    for &number in journals.iter().filter(|&&number| number >= first) {
        replay.doubtful |= number != expected;
        expected = number.saturating_add(1);
        let bytes = files.read(&super::journal_name(number)).ok().flatten().unwrap_or_default();
        match Journal::read(&bytes, Header { number, torrent, boot }, layout) {
            Some(journal) => replay.journal(&journal),
            None => replay.doubtful = true,
        }
    }
    let Replay { have, unchecked, unsynced, stamps, .. } = replay;
    Recovered { have, unchecked, unsynced, stamps, damage: None, journals, had_state: true }
}

struct Replay {
    have: Bitfield,
    unchecked: Bitfield,
    unsynced: Bitfield,
    stamps: HashMap<FileIndex, Identity>,
    /// A journal has ended before its time, so something that a later one builds upon may be missing. From there on
    /// only what takes a claim back is believed; and a file that was touched since keeps its old stamp, which it fails.
    doubtful: bool,
}

impl Replay {
    fn journal(&mut self, journal: &Journal) {
        let mut unsynced = Bitfield::new(self.have.len());
        for record in &journal.records {
            match *record {
                Record::Have(piece) if !self.doubtful => {
                    self.have.set(piece);
                    self.unchecked.clear(piece);
                    unsynced.set(piece);
                    self.unsynced.clear(piece);
                }
                Record::Gone(piece) => {
                    self.have.clear(piece);
                    self.unchecked.clear(piece);
                    self.unsynced.clear(piece);
                    unsynced.clear(piece);
                }
                Record::Unsure(pieces) => {
                    for piece in pieces.iter() {
                        if self.have.clear(piece) {
                            self.unchecked.set(piece);
                        }
                        self.unsynced.clear(piece);
                        unsynced.clear(piece);
                    }
                }
                Record::Stamp(file, identity) if !self.doubtful => {
                    self.stamps.insert(file, identity);
                }
                Record::Synced if !self.doubtful => unsynced = Bitfield::new(self.have.len()),
                Record::Have(_) | Record::Stamp(..) | Record::Synced => {}
            }
        }
        for piece in unsynced.iter() {
            if journal.same_boot {
                self.unsynced.set(piece);
            } else if self.have.clear(piece) {
                // The page cache of then is gone, and with it perhaps the bytes.
                self.unchecked.set(piece);
            }
        }
        self.doubtful |= !journal.whole;
    }
}
