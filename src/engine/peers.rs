//! The connected peers, and beside them what picking needs to know of each: kept, not collected anew for every block.
//!
//! Whoever is lent out for change is looked at again before the next pick, so that no change is missed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::PeerKey;
use super::critical::Crew;
use super::pace::{FRESH_RTT, LONG_SLACK};
use super::peer::Peer;
use crate::base::BLOCK_BYTES;

/// One peer as picking sees it, as it was when it was last looked at.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Server {
    pub key: PeerKey,
    /// It has unchoked us, and sends.
    pub serves: bool,
    /// It has every piece.
    pub seed: bool,
    /// It serves, has every piece, and is left alone for none.
    pub sure: bool,
    /// How many more requests it takes for blocks that a reader waits for.
    pub room: usize,
    /// It is left alone until then.
    pub rests_until: Option<Instant>,
    /// It has sent something.
    pub proven: bool,
    /// What it was asked first is overdue.
    pub late: bool,
    pub requests: usize,
    pub outstanding_bytes: u64,
    rtt: Option<Duration>,
    rate: Rate,
    /// When it was looked at.
    seen: Instant,
    /// It has an entry in `Peers::silences`.
    watched: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Rate {
    Known(f64),
    /// That of the others, or what its first block allows to hope for.
    Hoped(f64),
    /// That of the others.
    Fresh,
}

impl Server {
    fn of(now: Instant, peer: &Peer) -> Self {
        let serves = !peer.peer_choking && !peer.snubbed;
        Self {
            key: peer.key,
            serves,
            seed: peer.is_seed(),
            sure: serves && peer.is_seed() && !peer.is_waiting(),
            room: if peer.would_answer() { peer.room(LONG_SLACK, EXTRA) } else { 0 },
            rests_until: peer.rests_until(),
            proven: peer.pace.is_proven(),
            late: peer.is_late(),
            requests: peer.outstanding(),
            outstanding_bytes: peer.outstanding_bytes(),
            rtt: peer.pace.rtt(),
            rate: match (peer.pace.rate(now), peer.pace.hope()) {
                (Some(rate), _) => Rate::Known(rate),
                (None, Some(hope)) => Rate::Hoped(hope),
                (None, None) => Rate::Fresh,
            },
            seen: now,
            watched: false,
        }
    }

    /// Bytes per second to be expected; `mean`: those of the others.
    pub(crate) fn rate(&self, mean: f64) -> f64 {
        match self.rate {
            Rate::Known(rate) => rate,
            Rate::Hoped(hope) => mean.min(hope).max(1.0),
            Rate::Fresh => mean.max(1.0),
        }
    }

    /// Seconds until a block asked now is here.
    pub(crate) fn eta(&self, mean: f64) -> f64 {
        self.rtt_or_fresh().as_secs_f64() + (self.outstanding_bytes as f64 + f64::from(BLOCK_BYTES)) / self.rate(mean)
    }

    /// This one alone.
    pub(crate) fn crew(&self, mean: f64) -> Crew {
        let rtt = self.rtt_or_fresh().as_secs_f64();
        Crew { rate: self.rate(mean), outstanding: self.outstanding_bytes as f64, rtt }
    }

    /// What it adds to the sums, but for what it was asked.
    fn weight(&self) -> Option<(Rate, Option<Duration>, bool)> {
        self.serves.then_some((self.rate, self.rtt, self.proven))
    }

    /// What it was asked, if it serves.
    fn outstanding(&self) -> u64 {
        if self.serves { self.outstanding_bytes } else { 0 }
    }

    fn rtt_or_fresh(&self) -> Duration {
        self.rtt.unwrap_or(FRESH_RTT)
    }
}

/// What those who serve us are together. Added up anew, in order of keys, when anything of it has changed, which most
/// blocks do not: so rounding is the same whatever came before (I8).
#[derive(Debug, Default, PartialEq)]
struct Sums {
    /// Of those whose rate is known.
    rates: f64,
    known: usize,
    unknown: usize,
    proven: bool,
    /// Of those whose round trip is known.
    rtt_seconds: f64,
    rtts: usize,
    /// The least, assumed ones included.
    least_rtt: Option<Duration>,
}

impl Sums {
    fn of(servers: &[Server]) -> Self {
        let mut sums = Self::default();
        for server in servers.iter().filter(|server| server.serves) {
            if let Rate::Known(rate) = server.rate {
                sums.rates += rate;
                sums.known += 1;
            } else {
                sums.unknown += 1;
            }
            if let Some(rtt) = server.rtt {
                sums.rtt_seconds += rtt.as_secs_f64();
                sums.rtts += 1;
            }
            sums.proven |= server.proven;
            let rtt = server.rtt_or_fresh();
            sums.least_rtt = Some(sums.least_rtt.map_or(rtt, |least| least.min(rtt)));
        }
        sums
    }
}

/// All connected peers.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    peers: BTreeMap<PeerKey, Peer>,
    /// In order of keys; as of the last [`refresh`](Self::refresh).
    servers: Vec<Server>,
    sums: Sums,
    /// They are to be added up anew.
    stale: bool,
    /// Asked of those who serve us.
    outstanding_bytes: u64,
    /// Lent out for change since, or new.
    touched: Vec<PeerKey>,
    /// When to look again at whom because his silence has become long; perhaps too early, never too late.
    silences: BTreeSet<(Instant, PeerKey)>,
}

impl Peers {
    pub(crate) fn insert(&mut self, key: PeerKey, peer: Peer) {
        self.touched.push(key);
        self.peers.insert(key, peer);
    }

    pub(crate) fn remove(&mut self, key: &PeerKey) -> Option<Peer> {
        let peer = self.peers.remove(key)?;
        if let Ok(at) = self.place(*key) {
            let old = self.servers.remove(at);
            self.outstanding_bytes -= old.outstanding();
            self.stale = true;
            self.silences.retain(|(_, other)| other != key);
        }
        Some(peer)
    }

    pub(crate) fn get(&self, key: &PeerKey) -> Option<&Peer> {
        self.peers.get(key)
    }

    pub(crate) fn get_mut(&mut self, key: &PeerKey) -> Option<&mut Peer> {
        let peer = self.peers.get_mut(key)?;
        if self.touched.last() != Some(key) {
            self.touched.push(*key);
        }
        Some(peer)
    }

    pub(crate) fn contains_key(&self, key: &PeerKey) -> bool {
        self.peers.contains_key(key)
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &PeerKey> + '_ {
        self.peers.keys()
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &Peer> + Clone + '_ {
        self.peers.values()
    }

    pub(crate) fn values_mut(&mut self) -> impl Iterator<Item = &mut Peer> + '_ {
        self.touched.clear();
        self.touched.extend(self.peers.keys());
        self.peers.values_mut()
    }

    pub(crate) fn len(&self) -> usize {
        self.peers.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// Looks again at whoever may have changed, by himself or with time. To be called before any of the following.
    pub(crate) fn refresh(&mut self, now: Instant) {
        while let Some(&(at, key)) = self.silences.first().filter(|(at, _)| *at < now) {
            self.silences.remove(&(at, key));
            self.look(now, key, true);
        }
        while let Some(key) = self.touched.pop() {
            self.look(now, key, false);
        }
        if std::mem::take(&mut self.stale) {
            self.sums = Sums::of(&self.servers);
        }
    }

    /// What picking needs to know of each, in order of keys.
    pub(crate) fn servers(&self) -> &[Server] {
        &self.servers
    }

    pub(crate) fn server(&self, key: PeerKey) -> Option<&Server> {
        self.place(key).ok().map(|at| &self.servers[at])
    }

    /// The mean rate of those who serve us and whose rate is known.
    pub(crate) fn mean_rate(&self) -> Option<f64> {
        (self.sums.known > 0).then(|| self.sums.rates / self.sums.known as f64)
    }

    /// The mean round trip of those who serve us, in seconds.
    pub(crate) fn mean_rtt(&self) -> Option<f64> {
        (self.sums.rtts > 0).then(|| self.sums.rtt_seconds / self.sums.rtts as f64)
    }

    /// Whether somebody who serves us has sent something.
    pub(crate) fn is_any_proven(&self) -> bool {
        self.sums.proven
    }

    /// Bytes asked of all who serve us.
    pub(crate) fn outstanding_bytes(&self) -> u64 {
        self.outstanding_bytes
    }

    /// Everybody who serves us; `mean`: the rate assumed of those of whom none is known.
    pub(crate) fn crew(&self, mean: f64) -> Crew {
        let rate = match self.sums.unknown {
            0 => self.sums.rates,
            _ => self.servers.iter().filter(|server| server.serves).map(|server| server.rate(mean)).sum(),
        };
        let rtt = self.sums.least_rtt.unwrap_or_default().as_secs_f64();
        Crew { rate, outstanding: self.outstanding_bytes as f64, rtt }
    }

    /// Checks what must always hold; for debug builds and tests.
    pub(crate) fn check(&self) {
        assert!(self.stale || self.sums == Sums::of(&self.servers), "sums of something else");
        assert_eq!(self.outstanding_bytes, self.servers.iter().map(Server::outstanding).sum::<u64>());
        assert!(self.servers.windows(2).all(|pair| pair[0].key < pair[1].key));
        for (key, peer) in self.peers.iter().filter(|(key, _)| !self.touched.contains(key)) {
            let server = self.server(*key).expect("who was not touched has been looked at");
            let now = Server { watched: server.watched, ..Server::of(server.seen, peer) };
            assert_eq!(*server, now, "a change that nobody saw");
            let silence = peer.pace.silent_at(server.seen);
            assert!(silence.is_none_or(|at| self.silences.iter().any(|entry| entry.1 == *key && entry.0 <= at)));
        }
    }

    /// Takes in how one is now; `silence`: his entry in `silences` is gone.
    fn look(&mut self, now: Instant, key: PeerKey, silence: bool) {
        let Some(peer) = self.peers.get(&key) else { return };
        let mut server = Server::of(now, peer);
        let place = self.place(key);
        let watched = place.is_ok_and(|at| self.servers[at].watched) && !silence;
        // One entry each: it stays as it is while he sends, and finds that out when its time has come.
        let silent_at = peer.pace.silent_at(now).filter(|_| !watched);
        self.silences.extend(silent_at.map(|at| (at, key)));
        server.watched = watched || silent_at.is_some();
        match place {
            Ok(at) => {
                let old = std::mem::replace(&mut self.servers[at], server);
                self.stale |= old.weight() != server.weight();
                self.outstanding_bytes = self.outstanding_bytes - old.outstanding() + server.outstanding();
            }
            Err(at) => {
                self.stale = true;
                self.outstanding_bytes += server.outstanding();
                self.servers.insert(at, server);
            }
        }
    }

    fn place(&self, key: PeerKey) -> Result<usize, usize> {
        self.servers.binary_search_by_key(&key, |server| server.key)
    }
}

impl std::ops::Index<&PeerKey> for Peers {
    type Output = Peer;

    fn index(&self, key: &PeerKey) -> &Peer {
        &self.peers[key]
    }
}

/// Requests beyond the usual depth for blocks that a reader waits for.
pub(crate) const EXTRA: usize = 8;
