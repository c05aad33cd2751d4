//! What the index has, in memory: enough to know what is listed, to filter, and to rank by health without the database.
//!
//! About 150 bytes a torrent.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Add;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::health::Health;
use crate::base::{InfoHash, InfoHashV2};
use crate::tracker::Lists;
use crate::tracker::store::Store;

/// One torrent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Listed {
    pub(super) id: i64,
    pub(super) hashes: Hashes,
    pub(super) size_bytes: u64,
    /// Seconds since 1970.
    pub(super) added: i64,
}

/// The info-hashes of a torrent, one at least.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hashes {
    /// Of a v1 or hybrid torrent.
    pub v1: Option<InfoHash>,
    /// Of a v2 or hybrid torrent.
    pub v2: Option<InfoHashV2>,
}

/// Everything that is listed, in the order in which it came.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    /// Ascending ids.
    torrents: Vec<Listed>,
    /// By all hashes that peers announce: of v2 torrents the first 20 bytes (BEP 52).
    by_hash: HashMap<InfoHash, i64>,
    /// What the operator lets in, and what of the database that leaves out.
    lists: Arc<Lists>,
    hidden: BTreeSet<i64>,
    pulse: Pulse,
}

/// Seeds and leechers of everything, as they were a moment ago.
#[derive(Debug, Default, Clone)]
pub(super) struct Pulse {
    taken: Option<Instant>,
    /// Asked for each of 100,000 torrents by a search: of the quick kind.
    health: Arc<hashbrown::HashMap<i64, Health>>,
}

impl Hashes {
    /// The hashes under which peers announce the torrent.
    pub fn announced(&self) -> impl Iterator<Item = InfoHash> {
        let short = self.v2.and_then(|hash| InfoHash::from_slice(&hash.0[..20]));
        self.v1.into_iter().chain(short)
    }

    /// Both of a hybrid torrent.
    pub fn pair(&self) -> Option<(InfoHash, InfoHash)> {
        let mut announced = self.announced();
        Some((announced.next()?, announced.next()?))
    }

    /// Both swarms of the torrent together, as the tracker knows them.
    pub fn health(&self, store: &Store) -> Health {
        self.announced().map(|hash| Health::of(store, &hash)).fold(Health::default(), Health::add)
    }
}

impl std::fmt::Display for Hashes {
    /// The one that names the torrent in URLs: that of v1, where it has one.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.v1, self.v2) {
            (Some(hash), _) => hash.fmt(f),
            (None, Some(hash)) => hash.fmt(f),
            (None, None) => Ok(()),
        }
    }
}

impl Catalog {
    /// Without torrents, for those that these lists let in.
    pub(super) fn new(lists: Arc<Lists>) -> Self {
        Self { lists, ..Self::default() }
    }

    /// Whether it is shown.
    pub(super) fn add(&mut self, torrent: Listed) -> bool {
        if self.lists.judge_all(torrent.hashes.announced()).is_err() {
            self.hidden.insert(torrent.id);
            return false;
        }
        for hash in torrent.hashes.announced() {
            self.by_hash.insert(hash, torrent.id);
        }
        match self.position(torrent.id) {
            Ok(at) => self.torrents[at] = torrent,
            Err(at) => self.torrents.insert(at, torrent),
        }
        true
    }

    pub(super) fn remove(&mut self, id: i64) {
        self.hidden.remove(&id);
        if let Ok(at) = self.position(id) {
            let torrent = self.torrents.remove(at);
            for hash in torrent.hashes.announced() {
                self.by_hash.remove(&hash);
            }
        }
    }

    pub(super) fn get(&self, id: i64) -> Option<&Listed> {
        self.position(id).ok().map(|at| &self.torrents[at])
    }

    /// Those of these ids that are listed, each with what stands beside its id. Ids ascend.
    pub(super) fn among<T>(&self, ids: impl IntoIterator<Item = (i64, T)>) -> impl Iterator<Item = (&Listed, T)> {
        let mut rest = &self.torrents[..];
        ids.into_iter().filter_map(move |(id, beside)| {
            rest = &rest[before(rest, id)..];
            rest.first().filter(|torrent| torrent.id == id).map(|torrent| (torrent, beside))
        })
    }

    pub(super) fn id_of(&self, hash: &InfoHash) -> Option<i64> {
        self.by_hash.get(hash).copied()
    }

    /// Ascending ids: the oldest first.
    pub(super) fn all(&self) -> &[Listed] {
        &self.torrents
    }

    pub(super) fn lists(&self) -> &Arc<Lists> {
        &self.lists
    }

    /// How many there are in the database, and the highest id.
    pub(super) fn extent(&self) -> (i64, i64) {
        let last = self.torrents.last().map(|torrent| torrent.id).max(self.hidden.last().copied());
        ((self.torrents.len() + self.hidden.len()) as i64, last.unwrap_or(0))
    }

    /// Takes over another list.
    pub(super) fn replace(&mut self, fresh: Self) {
        *self = fresh;
    }

    pub(super) fn announced(&self) -> HashSet<InfoHash> {
        self.by_hash.keys().copied().collect()
    }

    /// Seeds and leechers of all torrents that have any, no older than [`PULSE`]: asking the store for each of 100,000
    /// torrents at each search would take longer than the search.
    pub(super) fn pulse(&self) -> Option<Pulse> {
        self.pulse.taken.is_some_and(|taken| taken.elapsed() < PULSE).then(|| self.pulse.clone())
    }

    /// Asks the store for all; give it back by [`set_pulse`](Self::set_pulse).
    pub(super) fn measure(&self, store: &Store) -> Pulse {
        let beat = |torrent: &Listed| {
            let health = torrent.hashes.health(store);
            (health != Health::default()).then_some((torrent.id, health))
        };
        Pulse { taken: Some(Instant::now()), health: Arc::new(self.torrents.iter().filter_map(beat).collect()) }
    }

    pub(super) fn set_pulse(&mut self, pulse: Pulse) {
        self.pulse = pulse;
    }

    fn position(&self, id: i64) -> Result<usize, usize> {
        self.torrents.binary_search_by_key(&id, |torrent| torrent.id)
    }
}

impl Pulse {
    pub(super) fn of(&self, id: i64) -> Health {
        self.health.get(&id).copied().unwrap_or_default()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (i64, Health)> {
        self.health.iter().map(|(&id, &health)| (id, health))
    }
}

/// How many torrents come before `id`. Quick where it is near: many are looked up one after the other.
fn before(torrents: &[Listed], id: i64) -> usize {
    let mut near = 1;
    while near < torrents.len() && torrents[near].id <= id {
        near *= 2;
    }
    let (from, to) = (near / 2, near.min(torrents.len()));
    from + torrents[from..to].partition_point(|torrent| torrent.id < id)
}

/// How old the figures may be by which searches rank and filter; what a page shows is asked anew.
const PULSE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn torrents_are_found_as_one_by_one() {
        let mut rng = fastrand::Rng::with_seed(3);
        for count in [0, 1, 2, 3, 10, 1000] {
            let mut catalog = Catalog::default();
            for id in (0..count).filter(|_| rng.u8(..3) > 0) {
                let hashes = Hashes { v1: Some(InfoHash([id as u8; 20])), v2: None };
                catalog.add(Listed { id, hashes, size_bytes: 0, added: 0 });
            }
            for sparse in [1, 2, 50] {
                let asked: Vec<i64> = (-2..count + 2).filter(|_| rng.u8(..sparse) == 0).collect();
                let found: Vec<i64> = catalog.among(asked.iter().map(|&id| (id, ()))).map(|(t, ())| t.id).collect();
                let expected: Vec<i64> = asked.into_iter().filter(|&id| catalog.get(id).is_some()).collect();
                assert_eq!(found, expected);
            }
        }
    }
}
