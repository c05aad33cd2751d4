//! How torrents fare, as the tracker's store has it.

use std::ops::Add;

use crate::base::InfoHash;
use crate::tracker::store::Store;

/// How many take part in a torrent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Health {
    /// Peers that have everything.
    pub seeds: usize,
    /// Peers that lack something.
    pub leechers: usize,
    /// Downloads that came to their end.
    pub completed: u64,
}

impl Health {
    pub(super) fn of(store: &Store, info_hash: &InfoHash) -> Self {
        let counts = store.scrape(info_hash);
        Self { seeds: counts.seeds, leechers: counts.leechers, completed: counts.completed }
    }
}

impl Add for Health {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            seeds: self.seeds + other.seeds,
            leechers: self.leechers + other.leechers,
            completed: self.completed + other.completed,
        }
    }
}
