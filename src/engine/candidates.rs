//! Addresses that may be peers: where they came from, when to try them, whom not to try at all.
//!
//! Dials nothing and counts no connections: the torrent asks for the next address when it has room for one. Addresses
//! are hostile input (I10): bounded in number, filtered by kind, never tried faster than every three seconds.

mod priority;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::{DialFailure, Source};
pub(crate) use priority::canonical_priority;

/// How a connection ended, as far as dialling again is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Departure {
    /// It gave us something or lasted: worth another try soon.
    Useful,
    /// It was closed early and had given nothing: back off.
    Useless,
    /// It closed on hearing our opening: again at once, without one.
    Startled,
    /// Neither side needs the other (two seeds, ourselves twice): not again for half an hour.
    Redundant,
}

/// The address book of one torrent.
#[derive(Debug)]
pub(crate) struct Candidates {
    entries: BTreeMap<SocketAddr, Entry>,
    /// Idle entries by the time from which they may be tried.
    waiting: BTreeSet<(Instant, SocketAddr)>,
    /// Entries that are being dialled.
    dialling: usize,
    bans: BTreeMap<Banned, Instant>,
    own: Vec<SocketAddr>,
    /// Addresses that turned out to be ourselves.
    selves: BTreeSet<SocketAddr>,
    private: bool,
    hurry: bool,
    rng: fastrand::Rng,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    source: Source,
    state: State,
    failures: u32,
    ever_connected: bool,
    /// It does not take messages behind a handshake.
    plain: bool,
    priority: u32,
    /// Drawn by lot: while our own address is unknown all priorities are equal, and those who learn of a swarm at once
    /// must not all dial the same few of it.
    lot: u32,
    last_try: Option<Instant>,
    /// The regular time of the next try; in a hurry it may come earlier.
    ready_at: Instant,
    /// Its place in `waiting`, while idle.
    queued_at: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Dialling,
    Connected,
}

/// What a ban names: the address, or where many peers share it (`localhost`) the port as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Banned {
    Addr(IpAddr),
    Socket(SocketAddr),
}

impl Candidates {
    /// An empty book. `own`: our external addresses as far as known; `private`: only the user, trackers and those who
    /// connect to us are believed (I9).
    pub(crate) fn new(own: Vec<SocketAddr>, private: bool, seed: u64) -> Self {
        Self {
            entries: BTreeMap::new(),
            waiting: BTreeSet::new(),
            dialling: 0,
            bans: BTreeMap::new(),
            own,
            selves: BTreeSet::new(),
            private,
            hurry: false,
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    /// Adds addresses; unusable ones are dropped, known ones keep their state. Returns how many were new.
    pub(crate) fn add(&mut self, now: Instant, source: Source, addrs: impl IntoIterator<Item = SocketAddr>) -> usize {
        if self.private && matches!(source, Source::Pex | Source::Dht | Source::Lsd) {
            return 0;
        }
        let mut fresh = 0;
        for addr in addrs {
            let addr = canonical(addr);
            if !usable(addr, source) || self.selves.contains(&addr) {
                continue;
            }
            if let Some(entry) = self.entries.get_mut(&addr) {
                if source == Source::User {
                    entry.source = source;
                }
                continue;
            }
            let priority = self.priority_of(addr);
            if self.entries.len() >= MAX_ENTRIES && !self.make_room(source, priority) {
                continue;
            }
            let entry = Entry {
                source,
                state: State::Idle,
                failures: 0,
                ever_connected: false,
                plain: false,
                priority,
                lot: self.rng.u32(..),
                last_try: None,
                ready_at: now,
                queued_at: now,
            };
            self.entries.insert(addr, entry);
            self.waiting.insert((now, addr));
            fresh += 1;
        }
        fresh
    }

    /// The best address that may be tried now, marked as being tried; `None` when there is none. To be answered by
    /// [`Self::connected`] or [`Self::failed`].
    pub(crate) fn next_dial(&mut self, now: Instant) -> Option<SocketAddr> {
        self.put_off_banned(now);
        let ready = self.waiting.range(..=(now, LAST_ADDR)).map(|&(_, addr)| addr);
        let best = ready.min_by_key(|addr| {
            let entry = &self.entries[addr];
            let rank = (entry.source != Source::User, entry.failures, !entry.ever_connected);
            (rank, std::cmp::Reverse(entry.priority), entry.lot, *addr)
        })?;
        let entry = self.entries.get_mut(&best)?;
        entry.state = State::Dialling;
        self.dialling += 1;
        entry.last_try = Some(now);
        self.waiting.remove(&(entry.queued_at, best));
        Some(best)
    }

    /// A connection to or from `addr` stands; unknown addresses (a stranger's ephemeral port) are ignored.
    pub(crate) fn connected(&mut self, _now: Instant, addr: SocketAddr) {
        let addr = canonical(addr);
        if let Some(entry) = self.entries.get_mut(&addr) {
            self.waiting.remove(&(entry.queued_at, addr));
            self.dialling -= usize::from(entry.state == State::Dialling);
            entry.state = State::Connected;
            entry.ever_connected = true;
        }
    }

    /// Whether to say nothing but a handshake to this address before its own is here.
    pub(crate) fn is_plain(&self, addr: SocketAddr) -> bool {
        self.entries.get(&canonical(addr)).is_some_and(|entry| entry.plain)
    }

    /// A connection to or from `addr` has ended.
    pub(crate) fn disconnected(&mut self, now: Instant, addr: SocketAddr, how: Departure) {
        let addr = canonical(addr);
        let Some(entry) = self.entries.get_mut(&addr) else { return };
        let wait = match how {
            Departure::Useful => {
                entry.failures = 0;
                MIN_SPACING
            }
            Departure::Useless => {
                entry.failures += 1;
                backoff(entry.failures)
            }
            Departure::Startled => {
                entry.plain = true;
                entry.last_try = None;
                Duration::ZERO
            }
            Departure::Redundant => MAX_BACKOFF,
        };
        self.rest(now, addr, wait);
    }

    /// A dial came to nothing.
    pub(crate) fn failed(&mut self, now: Instant, addr: SocketAddr, failure: DialFailure) {
        let addr = canonical(addr);
        let Some(entry) = self.entries.get_mut(&addr) else { return };
        let wait = match failure {
            DialFailure::Busy => MIN_SPACING,
            DialFailure::Unreachable | DialFailure::Handshake => {
                entry.plain |= failure == DialFailure::Handshake;
                entry.failures += 1;
                backoff(entry.failures)
            }
        };
        // Nobody keeps a list of the dead: an address that never answered goes after a few tries, unless named by hand.
        if !entry.ever_connected && entry.source != Source::User && entry.failures >= MAX_FAILURES {
            self.dialling -= usize::from(entry.state == State::Dialling);
            self.entries.remove(&addr);
            return;
        }
        self.rest(now, addr, wait);
    }

    /// Nobody at this address is talked to for an hour.
    pub(crate) fn ban(&mut self, now: Instant, addr: SocketAddr) {
        let addr = canonical(addr);
        self.bans.retain(|_, until| *until > now);
        if self.bans.len() >= MAX_ENTRIES {
            // The one that ends soonest goes.
            if let Some((&first, _)) = self.bans.iter().min_by_key(|(_, until)| **until) {
                self.bans.remove(&first);
            }
        }
        self.bans.insert(banned(addr), now + BAN);
        self.rest(now, addr, BAN);
    }

    /// Whether this address is banned now.
    pub(crate) fn is_banned(&self, now: Instant, addr: SocketAddr) -> bool {
        self.banned_until(now, canonical(addr)).is_some()
    }

    /// The address is ourselves: it is forgotten and never taken up again.
    pub(crate) fn mark_self(&mut self, addr: SocketAddr) {
        let addr = canonical(addr);
        if let Some(entry) = self.entries.remove(&addr) {
            self.waiting.remove(&(entry.queued_at, addr));
            self.dialling -= usize::from(entry.state == State::Dialling);
        }
        if self.selves.len() < MAX_SELVES {
            self.selves.insert(addr);
        }
    }

    /// Our external address has become known: priorities are computed anew (BEP 40).
    pub(crate) fn learn_own(&mut self, ip: IpAddr, port: u16) {
        let addr = canonical(SocketAddr::new(ip, port));
        if self.own.contains(&addr) || !usable(addr, Source::Dht) {
            return;
        }
        self.own.retain(|known| known.is_ipv4() != addr.is_ipv4());
        self.own.push(addr);
        let addrs: Vec<SocketAddr> = self.entries.keys().copied().collect();
        for addr in addrs {
            let priority = self.priority_of(addr);
            self.entries.entry(addr).and_modify(|entry| entry.priority = priority);
        }
    }

    /// A reader waits and nobody serves it: addresses that were good once, named by the user, or one of very few are
    /// tried again every 15 s whatever their backoff.
    pub(crate) fn set_hurry(&mut self, hurry: bool) {
        if self.hurry == hurry {
            return;
        }
        self.hurry = hurry;
        let few = self.entries.len() <= FEW;
        for (&addr, entry) in &mut self.entries {
            if entry.state == State::Idle {
                self.waiting.remove(&(entry.queued_at, addr));
                entry.queued_at = entry.due(hurry, few);
                self.waiting.insert((entry.queued_at, addr));
            }
        }
    }

    /// When the next address may be tried; may lie in the past. Means nothing while there is no room for a connection.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.waiting.first().map(|&(at, _)| at)
    }

    /// Where an address came from.
    pub(crate) fn source(&self, addr: SocketAddr) -> Option<Source> {
        self.entries.get(&canonical(addr)).map(|entry| entry.source)
    }

    /// Addresses known but not connected.
    pub(crate) fn len(&self) -> usize {
        self.entries.values().filter(|entry| entry.state != State::Connected).count()
    }

    /// Addresses being dialled.
    pub(crate) fn dialling(&self) -> usize {
        self.dialling
    }

    /// Addresses banned now.
    pub(crate) fn banned_count(&self, now: Instant) -> usize {
        self.bans.values().filter(|until| **until > now).count()
    }

    /// Checks what must always hold; for debug builds and tests.
    pub(crate) fn check(&self) {
        assert_eq!(self.dialling, self.entries.values().filter(|entry| entry.state == State::Dialling).count());
    }

    fn banned_until(&self, now: Instant, addr: SocketAddr) -> Option<Instant> {
        self.bans.get(&banned(addr)).copied().filter(|&until| until > now)
    }

    /// Moves addresses that are due but banned to the end of their ban.
    fn put_off_banned(&mut self, now: Instant) {
        if self.bans.is_empty() {
            return;
        }
        let due = self.waiting.range(..=(now, LAST_ADDR)).map(|&(_, addr)| addr);
        let banned: Vec<_> = due.filter_map(|addr| Some((addr, self.banned_until(now, addr)?))).collect();
        for (addr, until) in banned {
            if let Some(entry) = self.entries.get_mut(&addr) {
                self.waiting.remove(&(entry.queued_at, addr));
                (entry.ready_at, entry.queued_at) = (until, until);
                self.waiting.insert((until, addr));
            }
        }
    }

    /// The address is idle again and may be tried after `wait`.
    fn rest(&mut self, now: Instant, addr: SocketAddr, wait: Duration) {
        let few = self.entries.len() <= FEW;
        let hurry = self.hurry;
        // A tenth of spread, so that a swarm that was cut off does not come back in one instant.
        let spread = wait / 1000 * self.rng.u32(..100);
        if let Some(entry) = self.entries.get_mut(&addr) {
            self.waiting.remove(&(entry.queued_at, addr));
            self.dialling -= usize::from(entry.state == State::Dialling);
            entry.state = State::Idle;
            let longest = if entry.source == Source::User && wait < MAX_BACKOFF { USER_BACKOFF } else { BAN };
            let spaced = entry.last_try.map_or(now, |at| at + MIN_SPACING);
            entry.ready_at = (now + (wait + spread).min(longest)).max(spaced);
            entry.queued_at = entry.due(hurry, few);
            self.waiting.insert((entry.queued_at, addr));
        }
    }

    /// Drops the least promising idle address if it is worse than a new one of this source and priority.
    fn make_room(&mut self, source: Source, priority: u32) -> bool {
        let idle = self.entries.iter().filter(|(_, entry)| entry.state == State::Idle && entry.source != Source::User);
        let Some((&worst, entry)) = idle.min_by_key(|(addr, entry)| {
            (entry.ever_connected, std::cmp::Reverse(entry.failures), entry.priority, **addr)
        }) else {
            return false;
        };
        let better = source == Source::User
            || entry.failures > 0 && !entry.ever_connected
            || !entry.ever_connected && entry.priority < priority;
        if better {
            self.waiting.remove(&(entry.queued_at, worst));
            self.entries.remove(&worst);
        }
        better
    }

    fn priority_of(&self, addr: SocketAddr) -> u32 {
        let own = self.own.iter().find(|own| own.is_ipv4() == addr.is_ipv4());
        own.map_or(0, |&own| canonical_priority(own, addr))
    }
}

impl Entry {
    fn due(&self, hurry: bool, few: bool) -> Instant {
        let eligible = self.ever_connected || self.source == Source::User || few;
        match self.last_try {
            Some(at) if hurry && eligible => self.ready_at.min(at + HURRY_SPACING),
            _ => self.ready_at,
        }
    }
}

/// IPv4 addresses in IPv6 clothes are IPv4 addresses.
fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

fn banned(addr: SocketAddr) -> Banned {
    let shared = addr.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST) || addr.ip() == IpAddr::V6(Ipv6Addr::LOCALHOST);
    if shared { Banned::Socket(addr) } else { Banned::Addr(addr.ip()) }
}

/// Whether an address of this source may be dialled at all.
///
/// Loopback and private addresses: from the user, from trackers (a tracker of one's own network names them), from
/// those who connected from there, from local discovery; not by hearsay (PEX, DHT).
fn usable(addr: SocketAddr, source: Source) -> bool {
    let hearsay = matches!(source, Source::Pex | Source::Dht);
    let kind = match addr.ip() {
        IpAddr::V4(ip) => {
            let first = ip.octets()[0];
            // "This network"; multicast, reserved, broadcast.
            let nobody = first == 0 || first >= 224 || ip.is_link_local();
            !(nobody || hearsay && ip.is_loopback() || source == Source::Dht && ip.is_private())
        }
        IpAddr::V6(ip) => {
            let nobody = ip.is_unspecified() || ip.is_multicast() || ip.is_unicast_link_local();
            !(nobody || hearsay && ip.is_loopback() || source == Source::Dht && ip.is_unique_local())
        }
    };
    addr.port() != 0 && kind
}

/// 15 s, doubling to half an hour.
fn backoff(failures: u32) -> Duration {
    FIRST_BACKOFF.saturating_mul(1 << failures.saturating_sub(1).min(7)).min(MAX_BACKOFF)
}

/// Addresses kept at most (libtorrent's default).
const MAX_ENTRIES: usize = 3000;
const MAX_SELVES: usize = 64;
const FIRST_BACKOFF: Duration = Duration::from_secs(15);
const MAX_BACKOFF: Duration = Duration::from_secs(30 * 60);
/// A peer that the user named is not left alone for longer.
const USER_BACKOFF: Duration = Duration::from_secs(60);
/// Twenty tries a minute at most, whatever happens.
const MIN_SPACING: Duration = Duration::from_secs(3);
const HURRY_SPACING: Duration = Duration::from_secs(15);
/// With so few addresses each of them is precious.
const FEW: usize = 30;
/// An address that never answered is forgotten after so many tries (about half an hour).
const MAX_FAILURES: u32 = 8;
const BAN: Duration = Duration::from_secs(60 * 60);
/// Sorts after every address.
const LAST_ADDR: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::from_bits(u128::MAX)), u16::MAX);

#[cfg(test)]
mod tests;
