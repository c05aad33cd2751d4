//! The peers of one torrent and one family.
//!
//! One dense list, seeds first: a sample needs no copy, a removal moves two peers at most, and a peer takes 28 bytes
//! (IPv6: 40). Small swarms are searched through, larger ones have an index of 4 bytes a peer beside.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

use hashbrown::HashTable;

use super::Event;

/// What a peer says, in the store's own time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Said {
    pub(super) now: u32,
    pub(super) expiry: u32,
    /// Seconds from one announce to the next, as peers are told.
    pub(super) interval: u32,
    pub(super) complete: bool,
    pub(super) event: Event,
    pub(super) wanted: usize,
    pub(super) uploaded: u64,
    pub(super) downloaded: u64,
    pub(super) max_peers: usize,
}

/// What that adds to the torrent's figures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Booked {
    pub(super) completed: bool,
    pub(super) uploaded: u64,
    pub(super) downloaded: u64,
}

/// Peers whose compact address has `N` bytes.
#[derive(Debug, Default)]
pub(super) struct Swarm<const N: usize> {
    /// The first `seeds` of them have everything.
    peers: Vec<Peer<N>>,
    seeds: u32,
    /// Where each peer is in the list, by its address; only of swarms that are long to search.
    index: Option<Box<HashTable<u32>>>,
}

/// Numbers of 64 bits in two halves, so that it is packed by 4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Peer<const N: usize> {
    uploaded: [u32; 2],
    downloaded: [u32; 2],
    pub(super) heard: u32,
    pub(super) addr: [u8; N],
}

impl<const N: usize> Peer<N> {
    pub(super) fn new(addr: [u8; N], heard: u32, uploaded: u64, downloaded: u64) -> Self {
        Self { uploaded: halves(uploaded), downloaded: halves(downloaded), heard, addr }
    }

    pub(super) fn uploaded(&self) -> u64 {
        whole(self.uploaded)
    }

    pub(super) fn downloaded(&self) -> u64 {
        whole(self.downloaded)
    }
}

impl<const N: usize> Swarm<N> {
    pub(super) fn len(&self) -> usize {
        self.peers.len()
    }

    pub(super) fn seeds(&self) -> usize {
        self.seeds as usize
    }

    /// All, seeds first.
    pub(super) fn peers(&self) -> &[Peer<N>] {
        &self.peers
    }

    /// Books what one says, and appends others for it to `out`.
    pub(super) fn announce(
        &mut self,
        addr: [u8; N],
        said: &Said,
        rng: &mut fastrand::Rng,
        out: &mut Vec<u8>,
    ) -> Booked {
        let known = self.find(&addr);
        let was_seed = known.is_some_and(|at| at < self.seeds());
        let before = known.map(|at| self.peers[at]);
        let since = |before: Option<u64>, now: u64| match before {
            // Below what it was it has begun anew.
            Some(before) => now.checked_sub(before).unwrap_or(now),
            None if said.event == Event::Started => now,
            // Somebody we have forgotten: what of it was counted before nobody knows.
            None => 0,
        };
        // Of a beginning nobody knows how long ago it was.
        let seconds = before.map_or(said.interval, |peer| said.now.saturating_sub(peer.heard));
        let most = u64::from(seconds) * MAX_BYTES_PER_SECOND + ALLOWANCE_BYTES;
        let plausible = |bytes: u64| if bytes > most { 0 } else { bytes };
        let booked = Booked {
            // Counted once a peer, however often it says so, and of those who lack something not at all.
            completed: said.event == Event::Completed && said.complete && !was_seed,
            uploaded: plausible(since(before.map(|peer| peer.uploaded()), said.uploaded)),
            downloaded: plausible(since(before.map(|peer| peer.downloaded()), said.downloaded)),
        };
        if said.event == Event::Stopped {
            if let Some(at) = known {
                self.remove(at);
            }
            return booked;
        }
        let peer = Peer::new(addr, said.now, said.uploaded, said.downloaded);
        let at = match known {
            Some(at) if was_seed == said.complete => {
                self.peers[at] = peer;
                at
            }
            Some(at) => {
                self.remove(at);
                self.insert(peer, said.complete)
            }
            None => {
                if self.len() >= said.max_peers {
                    self.remove(rng.usize(..self.len()));
                }
                self.insert(peer, said.complete)
            }
        };
        self.sample(at, said, rng, out);
        booked
    }

    /// Takes in a peer that is not known; `None` when it is.
    pub(super) fn restore(&mut self, peer: Peer<N>, seed: bool) -> Option<()> {
        self.find(&peer.addr).is_none().then(|| _ = self.insert(peer, seed))
    }

    /// Forgets whoever has been silent for `expiry`.
    pub(super) fn expire(&mut self, now: u32, expiry: u32) {
        // From the end: whoever takes the place of one that goes stood behind it, and has been looked at.
        for at in (0..self.len()).rev() {
            if now.saturating_sub(self.peers[at].heard) >= expiry {
                self.remove(at);
            }
        }
        if self.peers.len() < self.peers.capacity() / 2 {
            self.peers.shrink_to_fit();
        }
        if self.len() < INDEXED_FROM / 2 {
            self.index = None;
        }
    }

    pub(super) fn check_invariants(&self) {
        assert!(self.seeds() <= self.len());
        match &self.index {
            Some(index) => assert_eq!(index.len(), self.len()),
            None => assert!(self.len() <= INDEXED_FROM),
        }
        for (at, peer) in self.peers.iter().enumerate() {
            assert_eq!(self.find(&peer.addr), Some(at), "each is where it is said to be, and once");
        }
    }

    fn find(&self, addr: &[u8; N]) -> Option<usize> {
        match &self.index {
            Some(index) => index.find(hash(addr), |&at| self.peers[at as usize].addr == *addr).map(|&at| at as usize),
            None => self.peers.iter().position(|peer| peer.addr == *addr),
        }
    }

    /// Returns its place.
    fn insert(&mut self, peer: Peer<N>, seed: bool) -> usize {
        if self.peers.len() == self.peers.capacity() {
            // By a quarter: a million peers should not cost twice what they take.
            self.peers.reserve_exact((self.peers.len() / 4).max(2));
        }
        let last = self.peers.len();
        self.peers.push(peer);
        match &mut self.index {
            Some(index) => {
                let peers = &self.peers;
                index.insert_unique(hash(&peer.addr), last as u32, |&at| hash(&peers[at as usize].addr));
            }
            None if self.peers.len() > INDEXED_FROM => {
                let mut index = HashTable::with_capacity(self.peers.len() * 2);
                for (at, peer) in self.peers.iter().enumerate() {
                    index.insert_unique(hash(&peer.addr), at as u32, |&at| hash(&self.peers[at as usize].addr));
                }
                self.index = Some(Box::new(index));
            }
            None => {}
        }
        if !seed {
            return last;
        }
        let border = self.seeds();
        self.swap(border, last);
        self.seeds += 1;
        border
    }

    fn remove(&mut self, at: usize) {
        let mut hole = at;
        if at < self.seeds() {
            self.seeds -= 1;
            self.swap(at, self.seeds());
            hole = self.seeds();
        }
        let last = self.peers.len() - 1;
        self.swap(hole, last);
        if let Some(index) = &mut self.index {
            let addr = hash(&self.peers[last].addr);
            index.find_entry(addr, |&at| at as usize == last).expect("every peer is in the index").remove();
        }
        self.peers.pop();
    }

    fn swap(&mut self, a: usize, b: usize) {
        if a == b {
            return;
        }
        if let Some(index) = &mut self.index {
            let (of_a, of_b) = (hash(&self.peers[a].addr), hash(&self.peers[b].addr));
            // Found before either is changed: both may have one hash.
            let at_a = index.find_bucket_index(of_a, |&at| at as usize == a).expect("every peer is in the index");
            let at_b = index.find_bucket_index(of_b, |&at| at as usize == b).expect("every peer is in the index");
            *index.get_bucket_mut(at_a).expect("it was just found") = b as u32;
            *index.get_bucket_mut(at_b).expect("it was just found") = a as u32;
        }
        self.peers.swap(a, b);
    }

    /// Appends at most as many as are wanted, without the one at `own`; a leecher gets seeds and leechers as they are mixed.
    fn sample(&self, own: usize, said: &Said, rng: &mut fastrand::Rng, out: &mut Vec<u8>) {
        let first = if said.complete { self.seeds() } else { 0 };
        let all = self.len() - first;
        let mut left = said.wanted;
        let mut tell = |at: usize| {
            let peer = &self.peers[first + at];
            if left > 0 && first + at != own && said.now.saturating_sub(peer.heard) < said.expiry {
                out.extend_from_slice(&peer.addr);
                left -= 1;
            }
        };
        if all <= said.wanted + 1 {
            (0..all).for_each(tell);
        } else if said.wanted > 0 {
            // One more, in place of the asker.
            distinct(all as u32, said.wanted as u32 + 1, rng).for_each(|at| tell(at as usize));
        }
    }
}

/// At most `wanted` different numbers below `all`: steps of a random stride that shares no divisor with `all`.
fn distinct(all: u32, wanted: u32, rng: &mut fastrand::Rng) -> impl Iterator<Item = u32> {
    let (mut at, mut stride) = (0, 1);
    if all > 1 {
        at = rng.u32(..all);
        stride = rng.u32(1..all);
        while gcd(stride, all) != 1 {
            stride = stride % all + 1;
        }
    }
    (0..wanted.min(all)).map(move |_| {
        // Below 2^32 in sum: a list of peers is far below 2^31 long.
        at += stride;
        if at >= all {
            at -= all;
        }
        at
    })
}

fn gcd(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Keyed anew in each process: who chooses his addresses must not choose where they fall.
fn hash<const N: usize>(addr: &[u8; N]) -> u64 {
    static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    KEYS.hash_one(addr.as_slice())
}

fn halves(number: u64) -> [u32; 2] {
    [(number >> 32) as u32, number as u32]
}

fn whole([high, low]: [u32; 2]) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

// A million peers are 28 or 40 MB, not 56.
const _: () = assert!(size_of::<Peer<6>>() == 28 && size_of::<Peer<18>>() == 40);

/// Longer lists have an index.
const INDEXED_FROM: usize = 24;
/// What somebody says he has moved since his last announce; more is not believed: 40 Gbit/s.
const MAX_BYTES_PER_SECOND: u64 = 5_000_000_000;
/// And so much without a second in between, as seconds are whole.
const ALLOWANCE_BYTES: u64 = 64 << 20;
