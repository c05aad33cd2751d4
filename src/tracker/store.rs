//! Who is in which swarm.
//!
//! Sans time: `now` is an argument, never decreasing. No sockets, no format but the compact one in which peers are kept
//! and told (BEP 7, 23). IPv4 and IPv6 peers of a torrent are two swarms, as a peer of one family can rarely use the other.
//!
//! 64 shards by info-hash, each under a lock that is held for one announce or for a sweep of that shard; nothing is held
//! over two of them.

mod snapshot;
mod swarm;

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use hashbrown::HashMap;

pub use snapshot::{Restored, SnapshotError};

use self::swarm::{Said, Swarm};
use crate::base::InfoHash;
use crate::proto::peer_addr::{COMPACT_V4_BYTES, COMPACT_V6_BYTES};

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
            max_torrents: 1_000_000,
            max_peers: 100_000,
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
    /// It has just come: what it has sent and received counts from 0.
    Started,
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
    /// How many peers it wants; cut to [`MAX_WANTED`].
    pub wanted: usize,
    /// Bytes that it has sent in this life, as it says.
    pub uploaded: u64,
    /// Bytes that it has received in this life, as it says.
    pub downloaded: u64,
}

/// What is known of one torrent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Peers that have everything.
    pub seeds: usize,
    /// Peers that lack something.
    pub leechers: usize,
    /// Times somebody said `completed`.
    pub completed: u64,
    /// Bytes that peers said they have sent.
    pub uploaded: u64,
    /// Bytes that peers said they have received.
    pub downloaded: u64,
}

/// What a peer has moved since its last announce, as it says and as far as that is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moved {
    /// Bytes sent.
    pub uploaded: u64,
    /// Bytes received.
    pub downloaded: u64,
}

/// What is known of all torrents together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Torrents with at least one peer.
    pub torrents: usize,
    /// Torrents that nobody takes part in now, whose figures are kept.
    pub idle_torrents: usize,
    /// Peers over IPv4; one in two swarms counts twice.
    pub peers_v4: usize,
    /// Peers over IPv6.
    pub peers_v6: usize,
    /// Of all peers those that have everything.
    pub seeds: usize,
    /// Times somebody said `completed`, of the torrents that are kept.
    pub completed: u64,
    /// Bytes that peers said they have sent, of the torrents that are kept.
    pub uploaded: u64,
    /// Bytes that peers said they have received, of the torrents that are kept.
    pub downloaded: u64,
}

/// The torrent is new, and there is no room for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// All swarms. Calls on different torrents rarely wait for each other.
#[derive(Debug)]
pub struct Store {
    config: StoreConfig,
    /// When second [`LEAD_SECONDS`] of the store's own time was.
    epoch: Instant,
    shards: Vec<Mutex<Shard>>,
    /// In all shards, the idle ones too.
    torrents: AtomicUsize,
    next_sweep: AtomicUsize,
}

#[derive(Debug)]
struct Shard {
    torrents: HashMap<InfoHash, Torrent>,
    totals: Totals,
    rng: fastrand::Rng,
}

#[derive(Debug, Default)]
struct Torrent {
    v4: Swarm<COMPACT_V4_BYTES>,
    v6: Swarm<COMPACT_V6_BYTES>,
    completed: u64,
    uploaded: u64,
    downloaded: u64,
}

impl Store {
    /// A store without swarms, at a time before which none of its calls is.
    pub fn new(config: StoreConfig, now: Instant) -> Self {
        let shards = (0..SHARDS)
            .map(|shard| {
                let rng = fastrand::Rng::with_seed(config.seed.wrapping_add(shard as u64));
                Mutex::new(Shard { torrents: HashMap::new(), totals: Totals::default(), rng })
            })
            .collect();
        Self { config, epoch: now, shards, torrents: AtomicUsize::new(0), next_sweep: AtomicUsize::new(0) }
    }

    /// Books what a peer says, and appends others for it to `peers`, in compact form and of its address's family: for a
    /// leecher anybody, for a seed leechers only, in no order.
    ///
    /// The figures are those after it, the asker counted.
    ///
    /// # Errors
    /// [`Full`].
    pub fn announce(&self, now: Instant, announce: &Announce, peers: &mut Vec<u8>) -> Result<Counts, Full> {
        Ok(self.announce_by_user(now, announce, peers)?.0)
    }

    /// The same, for a peer to whose user that counts which it has moved since its last announce.
    ///
    /// # Errors
    /// [`Full`].
    pub fn announce_by_user(
        &self,
        now: Instant,
        announce: &Announce,
        peers: &mut Vec<u8>,
    ) -> Result<(Counts, Moved), Full> {
        let mut shard = self.lock(&announce.info_hash);
        let Shard { torrents, totals, rng } = &mut *shard;
        if !torrents.contains_key(&announce.info_hash) {
            if announce.event == Event::Stopped {
                return Ok((Counts::default(), Moved::default()));
            }
            if self.torrents.fetch_add(1, Ordering::Relaxed) >= self.config.max_torrents
                && !forget_an_idle_one(torrents, totals, &self.torrents)
            {
                self.torrents.fetch_sub(1, Ordering::Relaxed);
                return Err(Full);
            }
        }
        let torrent = torrents.entry(announce.info_hash).or_default();
        totals.take(torrent);
        let said = Said {
            now: self.seconds(now),
            expiry: self.expiry(),
            interval: u32::try_from(self.config.interval.as_secs()).unwrap_or(u32::MAX),
            complete: announce.complete,
            event: announce.event,
            wanted: announce.wanted.min(MAX_WANTED),
            uploaded: announce.uploaded,
            downloaded: announce.downloaded,
            max_peers: self.config.max_peers,
        };
        // A peer that reached a dual-stack socket over IPv4 is an IPv4 peer.
        let booked = match announce.addr.ip().to_canonical() {
            IpAddr::V4(ip) => torrent.v4.announce(compact(&ip.octets(), announce.addr.port()), &said, rng, peers),
            IpAddr::V6(ip) => torrent.v6.announce(compact(&ip.octets(), announce.addr.port()), &said, rng, peers),
        };
        torrent.completed = torrent.completed.saturating_add(u64::from(booked.completed));
        torrent.uploaded = torrent.uploaded.saturating_add(booked.uploaded);
        torrent.downloaded = torrent.downloaded.saturating_add(booked.downloaded);
        let counts = torrent.counts();
        if torrent.is_worthless() {
            torrents.remove(&announce.info_hash);
            self.torrents.fetch_sub(1, Ordering::Relaxed);
        } else {
            totals.add(torrent);
        }
        Ok((counts, Moved { uploaded: booked.uploaded, downloaded: booked.downloaded }))
    }

    /// What is known of a torrent, both families together; zeros for one that nobody announced.
    pub fn scrape(&self, info_hash: &InfoHash) -> Counts {
        self.lock(info_hash).torrents.get(info_hash).map(Torrent::counts).unwrap_or_default()
    }

    /// Forgets the silent peers of one shard, another one at each call; call it every second.
    pub fn sweep(&self, now: Instant) {
        let next = self.next_sweep.fetch_add(1, Ordering::Relaxed) % self.shards.len();
        let mut shard = self.shards[next].lock().expect("no shard's holder panics");
        let Shard { torrents, totals, .. } = &mut *shard;
        let (before, now, expiry) = (torrents.len(), self.seconds(now), self.expiry());
        // Summed anew on the way.
        *totals = Totals::default();
        torrents.retain(|_, torrent| {
            torrent.v4.expire(now, expiry);
            torrent.v6.expire(now, expiry);
            let keep = !torrent.is_worthless();
            if keep {
                totals.add(torrent);
            }
            keep
        });
        self.torrents.fetch_sub(before - torrents.len(), Ordering::Relaxed);
        if torrents.len() < torrents.capacity() / 4 {
            torrents.shrink_to_fit();
        }
    }

    /// What is known of all torrents together.
    pub fn totals(&self) -> Totals {
        let mut sum = Totals::default();
        for shard in &self.shards {
            let totals = shard.lock().expect("no shard's holder panics").totals;
            sum.torrents += totals.torrents;
            sum.idle_torrents += totals.idle_torrents;
            sum.peers_v4 += totals.peers_v4;
            sum.peers_v6 += totals.peers_v6;
            sum.seeds += totals.seeds;
            sum.completed = sum.completed.saturating_add(totals.completed);
            sum.uploaded = sum.uploaded.saturating_add(totals.uploaded);
            sum.downloaded = sum.downloaded.saturating_add(totals.downloaded);
        }
        sum
    }

    /// Torrents with at least one peer.
    pub fn torrent_count(&self) -> usize {
        self.totals().torrents
    }

    /// Shows every torrent to `look`, in no order, a shard at a time: announces for that shard wait meanwhile, so it must
    /// be quick and must not call the store.
    pub fn for_each(&self, mut look: impl FnMut(&InfoHash, &Counts)) {
        for shard in &self.shards {
            let shard = shard.lock().expect("no shard's holder panics");
            shard.torrents.iter().for_each(|(info_hash, torrent)| look(info_hash, &torrent.counts()));
        }
    }

    /// What peers are told to wait between two announces.
    pub fn interval(&self) -> Duration {
        self.config.interval
    }

    /// Panics when what is kept contradicts itself.
    pub fn check_invariants(&self) {
        let mut torrents = 0;
        for shard in &self.shards {
            let shard = shard.lock().expect("no shard's holder panics");
            torrents += shard.torrents.len();
            let mut totals = Totals::default();
            for torrent in shard.torrents.values() {
                assert!(!torrent.is_worthless(), "an empty torrent is kept");
                torrent.v4.check_invariants();
                torrent.v6.check_invariants();
                totals.add(torrent);
            }
            assert_eq!(totals, shard.totals);
        }
        assert_eq!(torrents, self.torrents.load(Ordering::Relaxed));
    }

    fn lock(&self, info_hash: &InfoHash) -> MutexGuard<'_, Shard> {
        // The hash is uniform already, unless somebody makes it not so: then that shard is slow, nothing worse.
        self.shards[usize::from(info_hash.0[0]) % self.shards.len()].lock().expect("no shard's holder panics")
    }

    fn seconds(&self, now: Instant) -> u32 {
        let seconds = now.saturating_duration_since(self.epoch).as_secs();
        u32::try_from(seconds).unwrap_or(u32::MAX).saturating_add(LEAD_SECONDS)
    }

    fn expiry(&self) -> u32 {
        u32::try_from(self.config.expiry.as_secs()).unwrap_or(u32::MAX)
    }
}

/// Makes room for one torrent where that takes nothing but figures of one that nobody takes part in.
fn forget_an_idle_one(torrents: &mut HashMap<InfoHash, Torrent>, totals: &mut Totals, count: &AtomicUsize) -> bool {
    if totals.idle_torrents == 0 {
        return false;
    }
    let idle = torrents.iter().find(|(_, torrent)| torrent.is_idle()).map(|(info_hash, _)| *info_hash);
    let Some(gone) = idle.and_then(|idle| torrents.remove(&idle)) else { return false };
    totals.take(&gone);
    count.fetch_sub(1, Ordering::Relaxed);
    true
}

impl Torrent {
    fn counts(&self) -> Counts {
        Counts {
            seeds: self.v4.seeds() + self.v6.seeds(),
            leechers: self.v4.len() + self.v6.len() - self.v4.seeds() - self.v6.seeds(),
            completed: self.completed,
            uploaded: self.uploaded,
            downloaded: self.downloaded,
        }
    }

    fn is_idle(&self) -> bool {
        self.v4.len() == 0 && self.v6.len() == 0
    }

    /// Nobody is there, and nothing was.
    fn is_worthless(&self) -> bool {
        self.is_idle() && self.completed == 0 && self.uploaded == 0 && self.downloaded == 0
    }
}

impl Totals {
    /// Leechers of all torrents.
    pub fn leechers(&self) -> usize {
        self.peers_v4 + self.peers_v6 - self.seeds
    }

    fn add(&mut self, torrent: &Torrent) {
        *(if torrent.is_idle() { &mut self.idle_torrents } else { &mut self.torrents }) += 1;
        self.peers_v4 += torrent.v4.len();
        self.peers_v6 += torrent.v6.len();
        self.seeds += torrent.v4.seeds() + torrent.v6.seeds();
        // Wrapping: a snapshot may claim anything.
        self.completed = self.completed.wrapping_add(torrent.completed);
        self.uploaded = self.uploaded.wrapping_add(torrent.uploaded);
        self.downloaded = self.downloaded.wrapping_add(torrent.downloaded);
    }

    /// Undoes [`add`](Self::add); nothing for a torrent that has just been made.
    fn take(&mut self, torrent: &Torrent) {
        if torrent.is_worthless() {
            return;
        }
        *(if torrent.is_idle() { &mut self.idle_torrents } else { &mut self.torrents }) -= 1;
        self.peers_v4 -= torrent.v4.len();
        self.peers_v6 -= torrent.v6.len();
        self.seeds -= torrent.v4.seeds() + torrent.v6.seeds();
        self.completed = self.completed.wrapping_sub(torrent.completed);
        self.uploaded = self.uploaded.wrapping_sub(torrent.uploaded);
        self.downloaded = self.downloaded.wrapping_sub(torrent.downloaded);
    }
}

/// An address and a port as on the wire; `N` is 2 more than the bytes of `ip`.
fn compact<const N: usize>(ip: &[u8], port: u16) -> [u8; N] {
    let mut out = [0; N];
    out[..N - 2].copy_from_slice(ip);
    out[N - 2..].copy_from_slice(&port.to_be_bytes());
    out
}

/// Peers in a reply at most, whatever is asked for.
pub const MAX_WANTED: usize = 200;

const SHARDS: usize = 64;
/// Where the store's own time begins, so that peers of a former life can have been heard before.
const LEAD_SECONDS: u32 = 30 * 24 * 3600;

#[cfg(test)]
mod tests;
