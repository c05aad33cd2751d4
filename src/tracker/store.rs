//! Who is in which swarm.
//!
//! Sans time: `now` is an argument, never decreasing. No sockets, no format. IPv4 and IPv6 peers of a torrent are two
//! swarms, as a peer of one family can rarely use the other (BEP 7).

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::base::InfoHash;

/// How a store behaves.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// What peers are told to wait between two announces.
    pub interval: Duration,
    /// A peer that has been silent for this long is gone.
    pub expiry: Duration,
    /// Torrents at most; announces for further ones are refused.
    pub max_torrents: usize,
    /// Peers of one swarm at most; a further one takes the place of another.
    pub max_peers: usize,
    /// Seeds the choice of peers.
    pub seed: u64,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(30 * 60),
            expiry: Duration::from_secs(70 * 60),
            max_torrents: 100_000,
            max_peers: 20_000,
            seed: 0,
        }
    }
}

/// What a peer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Event {
    /// It is still there.
    #[default]
    Regular,
    /// It has just got the last piece.
    Completed,
    /// It leaves.
    Stopped,
}

/// What a peer says.
#[derive(Debug, Clone)]
pub struct Announce {
    /// The torrent.
    pub info_hash: InfoHash,
    /// Where it listens: the address of its socket, the port that it named.
    pub addr: SocketAddr,
    /// Nothing is missing.
    pub complete: bool,
    /// What it does.
    pub event: Event,
    /// How many peers it wants; `None`: as many as usual.
    pub wanted: Option<usize>,
}

/// How many take part in a swarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Peers that have everything.
    pub seeds: usize,
    /// Peers that lack something.
    pub leechers: usize,
    /// Times somebody said `completed`.
    pub completed: u64,
}

/// What a peer is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Some of the others, of the asker's address family, in no order.
    pub peers: Vec<SocketAddr>,
    /// The swarm, the asker counted.
    pub counts: Counts,
}

/// All swarms. Calls on different torrents rarely wait for each other.
#[derive(Debug)]
pub struct Store {
    config: StoreConfig,
    shards: Vec<Mutex<Shard>>,
    torrents: AtomicUsize,
    next_sweep: AtomicUsize,
}

#[derive(Debug)]
struct Shard {
    torrents: HashMap<InfoHash, Torrent>,
    rng: fastrand::Rng,
}

#[derive(Debug, Default)]
struct Torrent {
    v4: Swarm,
    v6: Swarm,
    completed: u64,
}

/// The peers of one family. Two dense lists, so that a sample needs no copy and a removal no shifting.
#[derive(Debug, Default)]
struct Swarm {
    seeds: Vec<Peer>,
    leechers: Vec<Peer>,
    places: HashMap<SocketAddr, Place>,
}

#[derive(Debug, Clone, Copy)]
struct Peer {
    addr: SocketAddr,
    heard: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    seed: bool,
    at: usize,
}

impl Store {
    /// A store without swarms.
    pub fn new(config: StoreConfig) -> Self {
        let shards = (0..SHARDS)
            .map(|shard| {
                let rng = fastrand::Rng::with_seed(config.seed.wrapping_add(shard as u64));
                Mutex::new(Shard { torrents: HashMap::new(), rng })
            })
            .collect();
        Self { config, shards, torrents: AtomicUsize::new(0), next_sweep: AtomicUsize::new(0) }
    }

    /// Books what a peer says and picks others for it: for a leecher anybody, for a seed leechers only.
    ///
    /// `None`: the torrent is new and there is no room for it.
    pub fn announce(&self, now: Instant, announce: &Announce) -> Option<Reply> {
        let mut shard = self.shard(&announce.info_hash).lock().expect("no shard's holder panics");
        let Shard { torrents, rng } = &mut *shard;
        let stopped = announce.event == Event::Stopped;
        if !torrents.contains_key(&announce.info_hash) {
            if stopped {
                return Some(Reply { peers: Vec::new(), counts: Counts::default() });
            }
            if self.torrents.fetch_add(1, Ordering::Relaxed) >= self.config.max_torrents {
                self.torrents.fetch_sub(1, Ordering::Relaxed);
                return None;
            }
        }
        let torrent = torrents.entry(announce.info_hash).or_default();
        let addr = canonical(announce.addr);
        let swarm = if addr.is_ipv4() { &mut torrent.v4 } else { &mut torrent.v6 };
        let known = swarm.places.get(&addr).copied();
        swarm.remove(addr);
        let mut peers = Vec::new();
        if !stopped {
            // Counted once a peer, however often it says so.
            if announce.event == Event::Completed && known.is_none_or(|place| !place.seed) {
                torrent.completed += 1;
            }
            let wanted = announce.wanted.unwrap_or(DEFAULT_WANTED).min(MAX_WANTED);
            swarm.sample(&mut peers, wanted, announce.complete, rng, now, self.config.expiry);
            if swarm.places.len() >= self.config.max_peers {
                swarm.remove_any(rng);
            }
            swarm.insert(Peer { addr, heard: now }, announce.complete);
        }
        let counts = torrent.counts();
        if torrent.is_empty() {
            torrents.remove(&announce.info_hash);
            self.torrents.fetch_sub(1, Ordering::Relaxed);
        }
        Some(Reply { peers, counts })
    }

    /// How many take part, both families together; zeros for a torrent that nobody announced.
    pub fn scrape(&self, info_hash: &InfoHash) -> Counts {
        let shard = self.shard(info_hash).lock().expect("no shard's holder panics");
        shard.torrents.get(info_hash).map(Torrent::counts).unwrap_or_default()
    }

    /// Forgets the silent peers of one shard, another one at each call; call it every second.
    pub fn sweep(&self, now: Instant) {
        let shard = self.next_sweep.fetch_add(1, Ordering::Relaxed) % self.shards.len();
        let mut shard = self.shards[shard].lock().expect("no shard's holder panics");
        let before = shard.torrents.len();
        shard.torrents.retain(|_, torrent| {
            torrent.v4.expire(now, self.config.expiry);
            torrent.v6.expire(now, self.config.expiry);
            !torrent.is_empty()
        });
        self.torrents.fetch_sub(before - shard.torrents.len(), Ordering::Relaxed);
    }

    /// Torrents with at least one peer.
    pub fn torrent_count(&self) -> usize {
        self.torrents.load(Ordering::Relaxed)
    }

    /// What peers are told to wait between two announces.
    pub fn interval(&self) -> Duration {
        self.config.interval
    }

    /// Panics when the lists and the places contradict each other.
    pub fn check_invariants(&self) {
        let mut torrents = 0;
        for shard in &self.shards {
            let shard = shard.lock().expect("no shard's holder panics");
            torrents += shard.torrents.len();
            for torrent in shard.torrents.values() {
                assert!(!torrent.is_empty(), "an empty torrent is kept");
                torrent.v4.check_invariants(true);
                torrent.v6.check_invariants(false);
            }
        }
        assert_eq!(torrents, self.torrent_count());
    }

    fn shard(&self, info_hash: &InfoHash) -> &Mutex<Shard> {
        // The hash is uniform already, unless somebody makes it not so: then that shard is slow, nothing worse.
        &self.shards[usize::from(info_hash.0[0]) % self.shards.len()]
    }
}

impl Torrent {
    fn counts(&self) -> Counts {
        Counts {
            seeds: self.v4.seeds.len() + self.v6.seeds.len(),
            leechers: self.v4.leechers.len() + self.v6.leechers.len(),
            completed: self.completed,
        }
    }

    fn is_empty(&self) -> bool {
        self.v4.places.is_empty() && self.v6.places.is_empty()
    }
}

impl Swarm {
    fn insert(&mut self, peer: Peer, seed: bool) {
        let list = if seed { &mut self.seeds } else { &mut self.leechers };
        self.places.insert(peer.addr, Place { seed, at: list.len() });
        list.push(peer);
    }

    fn remove(&mut self, addr: SocketAddr) {
        let Some(place) = self.places.remove(&addr) else { return };
        let list = if place.seed { &mut self.seeds } else { &mut self.leechers };
        list.swap_remove(place.at);
        if let Some(moved) = list.get(place.at) {
            self.places.insert(moved.addr, place);
        }
    }

    fn remove_any(&mut self, rng: &mut fastrand::Rng) {
        let at = rng.usize(..self.seeds.len() + self.leechers.len());
        let victim = self.seeds.get(at).unwrap_or_else(|| &self.leechers[at - self.seeds.len()]);
        self.remove(victim.addr);
    }

    /// Fills `peers` with at most `wanted`; a leecher gets seeds and leechers as they are mixed in the swarm.
    fn sample(
        &self,
        peers: &mut Vec<SocketAddr>,
        wanted: usize,
        for_seed: bool,
        rng: &mut fastrand::Rng,
        now: Instant,
        expiry: Duration,
    ) {
        let seeds: &[Peer] = if for_seed { &[] } else { &self.seeds };
        let all = seeds.len() + self.leechers.len();
        let fresh = |peer: &Peer| now.saturating_duration_since(peer.heard) < expiry;
        for at in distinct(all, wanted, rng) {
            let peer = seeds.get(at).unwrap_or_else(|| &self.leechers[at - seeds.len()]);
            if fresh(peer) {
                peers.push(peer.addr);
            }
        }
    }

    fn expire(&mut self, now: Instant, expiry: Duration) {
        let silent = |peer: &&Peer| now.saturating_duration_since(peer.heard) >= expiry;
        let gone: Vec<_> = self.seeds.iter().chain(&self.leechers).filter(silent).map(|peer| peer.addr).collect();
        for addr in gone {
            self.remove(addr);
        }
    }

    fn check_invariants(&self, v4: bool) {
        assert_eq!(self.places.len(), self.seeds.len() + self.leechers.len());
        for (addr, place) in &self.places {
            let list = if place.seed { &self.seeds } else { &self.leechers };
            assert_eq!((list[place.at].addr, addr.is_ipv4()), (*addr, v4));
        }
    }
}

/// At most `wanted` different numbers below `all`: steps of a random stride that shares no divisor with `all`.
fn distinct(all: usize, wanted: usize, rng: &mut fastrand::Rng) -> impl Iterator<Item = usize> {
    let (mut at, mut stride) = (0, 1);
    if all > 1 {
        at = rng.usize(..all);
        stride = rng.usize(1..all);
        while gcd(stride, all) != 1 {
            stride = stride % all + 1;
        }
    }
    (0..wanted.min(all)).map(move |_| {
        at = (at + stride) % all;
        at
    })
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// A peer that reached a dual-stack socket over IPv4 is an IPv4 peer.
fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr.ip() {
        IpAddr::V6(ip) => SocketAddr::new(ip.to_canonical(), addr.port()),
        IpAddr::V4(_) => addr,
    }
}

const SHARDS: usize = 64;
/// Peers in a reply when none are asked for by number; what most trackers give.
const DEFAULT_WANTED: usize = 50;
/// Peers in a reply at most.
const MAX_WANTED: usize = 200;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn announce(addr: &str, complete: bool) -> Announce {
        Announce {
            info_hash: InfoHash([7; 20]),
            addr: addr.parse().unwrap(),
            complete,
            event: Event::Regular,
            wanted: None,
        }
    }

    fn filled(seeds: u16, leechers: u16) -> (Store, Instant) {
        let (store, now) = (Store::new(StoreConfig::default()), Instant::now());
        for port in 1..=seeds + leechers {
            store.announce(now, &announce(&format!("10.0.0.1:{port}"), port <= seeds)).unwrap();
        }
        store.check_invariants();
        (store, now)
    }

    #[test]
    fn seeds_get_leechers_only_and_nobody_gets_himself() {
        let (store, now) = filled(3, 4);
        let seed = store.announce(now, &announce("10.0.0.1:1", true)).unwrap();
        assert_eq!(seed.counts, Counts { seeds: 3, leechers: 4, completed: 0 });
        let ports: HashSet<_> = seed.peers.iter().map(SocketAddr::port).collect();
        assert_eq!(ports, HashSet::from([4, 5, 6, 7]));
        let leecher = store.announce(now, &announce("10.0.0.1:4", false)).unwrap();
        let ports: HashSet<_> = leecher.peers.iter().map(SocketAddr::port).collect();
        assert_eq!(ports, HashSet::from([1, 2, 3, 5, 6, 7]));
    }

    #[test]
    fn the_families_are_apart_and_mapped_addresses_are_ipv4() {
        let (store, now) = filled(1, 0);
        let six = store.announce(now, &announce("[fd00::1]:9", false)).unwrap();
        assert_eq!((six.peers.len(), six.counts.seeds), (0, 1));
        let mapped = store.announce(now, &announce("[::ffff:10.0.0.2]:9", false)).unwrap();
        assert_eq!(mapped.peers, ["10.0.0.1:1".parse().unwrap()]);
        let four = store.announce(now, &announce("10.0.0.3:9", true)).unwrap();
        assert_eq!(four.peers, ["10.0.0.2:9".parse().unwrap()]);
        store.check_invariants();
    }

    #[test]
    fn a_reply_is_bounded_and_without_repetition() {
        let (store, now) = filled(100, 400);
        for (wanted, given) in [(None, 50), (Some(0), 0), (Some(7), 7), (Some(usize::MAX), 200)] {
            let reply = store.announce(now, &Announce { wanted, ..announce("10.0.0.2:1", false) }).unwrap();
            let different: HashSet<_> = reply.peers.iter().collect();
            assert_eq!((reply.peers.len(), different.len()), (given, given), "{wanted:?}");
        }
    }

    #[test]
    fn sampling_reaches_everybody() {
        let (store, now) = filled(0, 30);
        let mut seen = HashSet::new();
        for _ in 0..100 {
            let one = Announce { wanted: Some(3), ..announce("10.0.0.2:1", false) };
            seen.extend(store.announce(now, &one).unwrap().peers);
        }
        assert_eq!(seen.len(), 30);
    }

    #[test]
    fn leavers_and_silent_peers_are_forgotten_with_their_torrent() {
        let (store, now) = filled(2, 0);
        let stop = Announce { event: Event::Stopped, ..announce("10.0.0.1:1", true) };
        assert_eq!(store.announce(now, &stop).unwrap().counts.seeds, 1);
        let late = now + StoreConfig::default().expiry;
        assert_eq!(store.announce(late, &announce("10.0.0.9:1", false)).unwrap().peers, []);
        (0..SHARDS).for_each(|_| store.sweep(late));
        assert_eq!(store.scrape(&InfoHash([7; 20])), Counts { leechers: 1, ..Counts::default() });
        (0..SHARDS).for_each(|_| store.sweep(late + StoreConfig::default().expiry));
        assert_eq!(store.torrent_count(), 0);
        store.check_invariants();
    }

    #[test]
    fn completion_is_counted_once_a_peer() {
        let (store, now) = filled(0, 1);
        let done = Announce { event: Event::Completed, ..announce("10.0.0.1:1", true) };
        for _ in 0..3 {
            assert_eq!(store.announce(now, &done).unwrap().counts, Counts { seeds: 1, leechers: 0, completed: 1 });
        }
        store.check_invariants();
    }

    #[test]
    fn full_stores_refuse_torrents_and_replace_peers() {
        let now = Instant::now();
        let store = Store::new(StoreConfig { max_torrents: 1, max_peers: 3, ..StoreConfig::default() });
        for port in 1..=20 {
            let reply = store.announce(now, &announce(&format!("10.0.0.1:{port}"), port % 2 == 0)).unwrap();
            assert!(reply.counts.seeds + reply.counts.leechers <= 3);
        }
        let other = Announce { info_hash: InfoHash([8; 20]), ..announce("10.0.0.1:1", true) };
        assert_eq!(store.announce(now, &other), None);
        store.check_invariants();
    }
}
