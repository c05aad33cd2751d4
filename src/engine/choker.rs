//! Whom we upload to: tit-for-tat while we want data, rate and rotation once we have it all (BEP 3).
//!
//! Says who is to be unchoked and who choked; sends nothing and measures nothing. A free slot is given at once when a
//! peer becomes interested, and so is that of a peer that wants nothing any more, which is choked for it. Between ticks
//! those who give and those who lag behind are regarded (`reward`, `help`); everything else waits for the tick, so that no
//! peer is choked and unchoked in quick turn. Never are more unchoked than there are slots, and two for who lags behind.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::PeerKey;

/// What we are to the swarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ChokeMode {
    /// We still want something: slots go to those who give.
    Leech,
    /// We have everything: slots go to those who take fast, in turns.
    Seed,
}

/// One connected peer as the choker sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ChokePeer {
    /// Which.
    pub(crate) key: PeerKey,
    /// It wants something that we have.
    pub(crate) interested: bool,
    /// It owes us blocks and does not send: no regular slot for it (anti-snubbing).
    pub(crate) snubbed: bool,
    /// Payload from it per second, lately.
    pub(crate) download_rate: u64,
    /// Payload to it per second, lately.
    pub(crate) upload_rate: u64,
    /// Payload sent to it, ever.
    pub(crate) uploaded_bytes: u64,
    /// When it connected.
    pub(crate) connected_at: Instant,
    /// What it gets from everybody per second, lately, by the pieces that it tells of.
    pub(crate) gain_rate: u64,
}

/// The upload slots of one torrent.
#[derive(Debug)]
pub(crate) struct Choker {
    rng: fastrand::Rng,
    /// Who has a slot.
    unchoked: BTreeMap<PeerKey, Slot>,
    /// Who had one, and since when not.
    choked_at: BTreeMap<PeerKey, Instant>,
    optimistic: Option<PeerKey>,
    optimistic_until: Option<Instant>,
    /// Who has a slot beyond all others because it needs one, until when.
    needy: BTreeMap<PeerKey, Instant>,
    /// Payload per second to all together, at best.
    best_rate: u64,
    next_tick: Option<Instant>,
    growth: Growth,
    /// So many slots in all, not more and not fewer.
    fixed: Option<usize>,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    since: Instant,
    /// `uploaded_bytes` when the slot was given.
    bytes_then: u64,
    interested: bool,
}

/// Slots beyond the base: one more is kept only while it makes the whole faster.
#[derive(Debug, Default)]
struct Growth {
    extra: usize,
    /// Total rate when the last slot was added, and how many ticks ago.
    rate_before: u64,
    ticks: u32,
    /// Ticks to wait after a slot that brought nothing.
    rest: u32,
}

impl Choker {
    /// Nobody has a slot. `slots`: so many in all, the optimistic one among them; `None`: as many as pay.
    pub(crate) fn new(seed: u64, slots: Option<usize>) -> Self {
        Self {
            rng: fastrand::Rng::with_seed(seed),
            unchoked: BTreeMap::new(),
            choked_at: BTreeMap::new(),
            optimistic: None,
            optimistic_until: None,
            needy: BTreeMap::new(),
            best_rate: 0,
            next_tick: None,
            growth: Growth::default(),
            fixed: slots,
        }
    }

    /// So many slots from the next [ranking](Self::rank) on, as in [`new`](Self::new).
    pub(crate) fn set_slots(&mut self, slots: Option<usize>) {
        self.fixed = slots;
    }

    /// Ranks all connected peers anew and returns the changes: `true` is unchoke. Call it when [`Self::poll_timeout`]
    /// says so; peers that are not in `peers` any more are forgotten without a change.
    pub(crate) fn rank(&mut self, now: Instant, mode: ChokeMode, peers: &[ChokePeer]) -> Vec<(PeerKey, bool)> {
        self.next_tick = Some(now + TICK);
        self.forget_absent(peers);
        let wanting: Vec<&ChokePeer> = peers.iter().filter(|peer| peer.interested).collect();
        self.grow(now, &wanting);
        self.turn_optimistic(now, mode, &wanting);

        self.needy.retain(|key, until| now < *until && wanting.iter().any(|peer| peer.key == *key));
        let beside = |key| self.optimistic == Some(key) || self.needy.contains_key(&key);
        let mut order: Vec<&ChokePeer> = wanting.iter().copied().filter(|peer| !beside(peer.key)).collect();
        match mode {
            ChokeMode::Leech => order.sort_by_key(|peer| self.leech_order(now, peer)),
            ChokeMode::Seed => order.sort_by_key(|peer| self.seed_order(now, peer)),
        }
        let merited = order.iter().take(self.regular_slots()).map(|peer| peer.key);
        let chosen: Vec<PeerKey> = merited.chain(self.optimistic).chain(self.needy.keys().copied()).collect();

        let mut changes = Vec::new();
        for peer in peers {
            let stays = chosen.contains(&peer.key);
            if stays != self.unchoked.contains_key(&peer.key) {
                changes.push((peer.key, stays));
                if stays { self.give(now, peer) } else { self.take(now, peer.key) }
            } else if let Some(slot) = self.unchoked.get_mut(&peer.key) {
                slot.interested = peer.interested;
            }
        }
        // Chokes first: never more peers unchoked on the way than after it.
        changes.sort_by_key(|&(key, unchoke)| (unchoke, key));
        changes
    }

    /// Between two rankings: who gives and has no slot gets that of somebody who has given nothing for it. Returns the
    /// changes as [`rank`](Self::rank) does.
    ///
    /// Those who came first would else wait long for what they are owed: when slots were given away they had all that there
    /// was to have, and wanted none.
    pub(crate) fn reward(&mut self, now: Instant, peers: &[ChokePeer]) -> Vec<(PeerKey, bool)> {
        let age = |key: &PeerKey| self.unchoked.get(key).map(|slot| now.saturating_duration_since(slot.since));
        let rests = |key: &PeerKey| self.choked_at.get(key).is_some_and(|&at| now.saturating_duration_since(at) < TICK);
        let beside = |key| self.optimistic == Some(key) || self.needy.contains_key(&key);
        let gives = |peer: &ChokePeer| peer.interested && !peer.snubbed && peer.download_rate > 0;
        let is_owed = |peer: &&ChokePeer| gives(peer) && age(&peer.key).is_none() && !rests(&peer.key);
        let is_idle = |peer: &&ChokePeer| {
            let tasted = self.unchoked.get(&peer.key).is_some_and(|slot| slot.was_tasted(now, peer));
            tasted && !gives(peer) && !beside(peer.key)
        };
        let mut owed: Vec<&ChokePeer> = peers.iter().filter(is_owed).collect();
        owed.sort_by_key(|peer| (std::cmp::Reverse(peer.download_rate), peer.key));
        let mut idle: Vec<&ChokePeer> = peers.iter().filter(is_idle).collect();
        idle.sort_by_key(|peer| (std::cmp::Reverse(age(&peer.key)), peer.key));
        // One is for luck, as long as nobody has been drawn for it.
        let beside = self.needy.len() + usize::from(self.optimistic.is_some());
        let stay = self.unchoked.len().saturating_sub(idle.len() + beside);
        let room = self.regular_slots().saturating_sub(stay);
        let pairs: Vec<_> = idle.into_iter().zip(owed).take(room).collect();
        let mut changes = Vec::new();
        for (holder, giver) in pairs {
            self.take(now, holder.key);
            self.give(now, giver);
            changes.extend([(holder.key, false), (giver.key, true)]);
        }
        changes
    }

    /// Between two rankings: who gets far less than others do, from whomever, gets a slot beyond the usual ones for a while,
    /// few at a time. Returns the changes as [`rank`](Self::rank) does.
    ///
    /// Who lags behind has nothing to give, so by merit nobody ever serves him, and luck takes its time.
    pub(crate) fn help(&mut self, now: Instant, peers: &[ChokePeer]) -> Vec<(PeerKey, bool)> {
        self.best_rate = self.best_rate.max(peers.iter().map(|peer| peer.upload_rate).sum());
        let wanting = || peers.iter().filter(|peer| peer.interested);
        let mean = wanting().map(|peer| peer.gain_rate).sum::<u64>() / wanting().count().max(1) as u64;
        let rests =
            |key: &PeerKey| self.choked_at.get(key).is_some_and(|&at| now.saturating_duration_since(at) < TASTE);
        let lags = |peer: &&ChokePeer| {
            let known = now.saturating_duration_since(peer.connected_at) >= TASTE;
            known && peer.gain_rate < mean / LAGS && !self.unchoked.contains_key(&peer.key) && !rests(&peer.key)
        };
        // Where each has next to nothing one more has no more.
        let worth = self.best_rate / (self.unchoked.len() as u64 + 1) >= WORTH_A_SLOT;
        let room = if self.fixed.is_some() || !worth { 0 } else { NEEDY.saturating_sub(self.needy.len()) };
        let mut needy: Vec<_> = wanting().filter(lags).collect();
        // Not all of us the same.
        self.rng.shuffle(&mut needy);
        needy.truncate(room);
        for peer in &needy {
            self.give(now, peer);
            self.needy.insert(peer.key, now + NEEDY_TURN);
        }
        needy.into_iter().map(|peer| (peer.key, true)).collect()
    }

    /// A peer has become interested: it gets a free slot at once, or that of a peer that wants nothing. Returns the
    /// changes as [`rank`](Self::rank) does.
    pub(crate) fn on_interested(&mut self, now: Instant, peer: &ChokePeer) -> Vec<(PeerKey, bool)> {
        self.next_tick.get_or_insert(now + TICK);
        if let Some(slot) = self.unchoked.get_mut(&peer.key) {
            slot.interested = true;
            return Vec::new();
        }
        // A peer that we have just choked waits for the tick: its slot was given away on purpose.
        let resting = self.choked_at.get(&peer.key).is_some_and(|&at| now.saturating_duration_since(at) < TICK);
        if resting {
            return Vec::new();
        }
        let mut changes = Vec::new();
        if self.unchoked.len() >= self.slots() + self.needy.len() {
            let idle = self.unchoked.iter().filter(|(key, slot)| !slot.interested && !self.needy.contains_key(key));
            let Some(holder) = idle.min_by_key(|(key, slot)| (slot.since, **key)).map(|(&key, _)| key) else {
                return Vec::new();
            };
            self.take(now, holder);
            changes.push((holder, false));
        }
        self.give(now, peer);
        changes.push((peer.key, true));
        changes
    }

    /// A peer wants nothing any more: it stays unchoked until the tick, or until somebody wants its slot.
    pub(crate) fn on_not_interested(&mut self, peer: PeerKey) {
        if let Some(slot) = self.unchoked.get_mut(&peer) {
            slot.interested = false;
        }
    }

    /// A connection has ended.
    pub(crate) fn remove(&mut self, peer: PeerKey) {
        self.unchoked.remove(&peer);
        self.choked_at.remove(&peer);
        self.needy.remove(&peer);
        if self.optimistic == Some(peer) {
            self.optimistic = None;
        }
    }

    /// When [`Self::rank`] wants to be called; `None` until a peer has been interested.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.next_tick
    }

    /// Whether a peer has a slot.
    #[cfg(test)]
    pub(crate) fn is_unchoked(&self, peer: PeerKey) -> bool {
        self.unchoked.contains_key(&peer)
    }

    fn regular_slots(&self) -> usize {
        match self.fixed {
            // Of one, a peer that gives is worth more than luck.
            Some(fixed) => fixed.saturating_sub(1).max(1),
            None => BASE_SLOTS + self.growth.extra,
        }
    }

    /// With the optimistic one.
    fn slots(&self) -> usize {
        self.fixed.unwrap_or(self.regular_slots() + 1)
    }

    fn give(&mut self, now: Instant, peer: &ChokePeer) {
        self.choked_at.remove(&peer.key);
        let slot = Slot { since: now, bytes_then: peer.uploaded_bytes, interested: peer.interested };
        self.unchoked.insert(peer.key, slot);
    }

    fn take(&mut self, now: Instant, peer: PeerKey) {
        self.unchoked.remove(&peer);
        self.needy.remove(&peer);
        self.choked_at.insert(peer, now);
    }

    fn forget_absent(&mut self, peers: &[ChokePeer]) {
        let here: std::collections::BTreeSet<PeerKey> = peers.iter().map(|peer| peer.key).collect();
        self.unchoked.retain(|key, _| here.contains(key));
        self.choked_at.retain(|key, _| here.contains(key));
        self.needy.retain(|key, _| here.contains(key));
        self.optimistic = self.optimistic.filter(|key| here.contains(key));
    }

    /// Best first: by what they give. Among those who give nothing: who is still being tried, who waits, longest first,
    /// who was tried in vain; else the first that came would keep their slots for nothing.
    fn leech_order(&self, now: Instant, peer: &ChokePeer) -> impl Ord + use<> {
        let class = match self.unchoked.get(&peer.key) {
            Some(_) if peer.download_rate > 0 => 0,
            Some(slot) if now.saturating_duration_since(slot.since) < TRIAL => 0,
            Some(_) => 2,
            None => 1,
        };
        (
            peer.snubbed,
            std::cmp::Reverse(peer.download_rate),
            class,
            self.choked_at.get(&peer.key).copied(),
            peer.connected_at,
            peer.key,
        )
    }

    /// Best first: those in the middle of their turn by rate; those who wait, longest first; those who had their turn.
    fn seed_order(&self, now: Instant, peer: &ChokePeer) -> impl Ord + use<> {
        let (class, rate) = match self.unchoked.get(&peer.key) {
            Some(slot) if slot.turn_is_over(now, peer) => (2, peer.upload_rate),
            Some(_) => (0, peer.upload_rate),
            None => (1, 0),
        };
        // Never served sorts before served long ago (`None < Some`); then the longest connected.
        (class, std::cmp::Reverse(rate), self.choked_at.get(&peer.key).copied(), peer.connected_at, peer.key)
    }

    /// Gives the optimistic slot to somebody else every 30 s, or when its holder wants nothing any more.
    fn turn_optimistic(&mut self, now: Instant, mode: ChokeMode, wanting: &[&ChokePeer]) {
        if self.slots() <= self.regular_slots() {
            self.optimistic = None;
            return;
        }
        let holder = self.optimistic.filter(|key| wanting.iter().any(|peer| peer.key == *key));
        if holder.is_some() && self.optimistic_until.is_some_and(|until| now < until) {
            return;
        }
        // Who would get a regular slot on merit needs no luck; to find that out, rank without the optimistic one.
        let mut order = wanting.to_vec();
        match mode {
            ChokeMode::Leech => order.sort_by_key(|peer| self.leech_order(now, peer)),
            ChokeMode::Seed => order.sort_by_key(|peer| self.seed_order(now, peer)),
        }
        let rest: Vec<&ChokePeer> =
            order.into_iter().skip(self.regular_slots()).filter(|peer| Some(peer.key) != holder).collect();
        let weight = |peer: &ChokePeer| {
            if now.saturating_duration_since(peer.connected_at) < NEW_PEER { NEW_PEER_WEIGHT } else { 1 }
        };
        let total: u32 = rest.iter().map(|peer| weight(peer)).sum();
        if total == 0 {
            self.optimistic = holder;
            return;
        }
        let mut draw = self.rng.u32(..total);
        self.optimistic = rest.iter().find_map(|peer| match draw.checked_sub(weight(peer)) {
            Some(left) => {
                draw = left;
                None
            }
            None => Some(peer.key),
        });
        self.optimistic_until = Some(now + OPTIMISTIC_TURN);
    }

    /// Adds a slot while more peers want one and the last one made the whole faster, or while slots lie idle.
    fn grow(&mut self, now: Instant, wanting: &[&ChokePeer]) {
        let served: Vec<&&ChokePeer> = wanting.iter().filter(|peer| self.unchoked.contains_key(&peer.key)).collect();
        let total: u64 = served.iter().map(|peer| peer.upload_rate).sum();
        let growth = &mut self.growth;
        growth.ticks += 1;
        if wanting.len() <= BASE_SLOTS + growth.extra {
            return;
        }
        growth.rest = growth.rest.saturating_sub(1);
        if growth.rest > 0 || growth.ticks < 2 {
            return;
        }
        let faster = total > growth.rate_before + growth.rate_before / 20;
        // What was given a moment ago cannot have been used yet.
        let settled =
            |key| self.unchoked.get(key).is_some_and(|slot| now.saturating_duration_since(slot.since) >= TICK);
        let idle = served.iter().filter(|peer| peer.upload_rate < IDLE_RATE && settled(&peer.key)).count();
        if (faster || idle > growth.extra) && growth.extra < MAX_EXTRA_SLOTS {
            growth.extra += 1;
            growth.rate_before = total;
            growth.ticks = 0;
        } else if growth.extra > 0 && !faster && idle < growth.extra {
            // The last slot only split what there was.
            growth.extra -= 1;
            growth.rate_before = total;
            growth.ticks = 0;
            growth.rest = REST_TICKS;
        }
    }
}

impl Slot {
    /// Whether its holder has had something for which to give something.
    fn was_tasted(&self, now: Instant, peer: &ChokePeer) -> bool {
        let bytes = peer.uploaded_bytes.saturating_sub(self.bytes_then);
        now.saturating_duration_since(self.since) >= TASTE && bytes >= IDLE_BYTES
    }

    fn turn_is_over(&self, now: Instant, peer: &ChokePeer) -> bool {
        let time = now.saturating_duration_since(self.since);
        let bytes = peer.uploaded_bytes.saturating_sub(self.bytes_then);
        let (sated, idle) = (bytes >= TURN_BYTES, bytes < IDLE_BYTES);
        time >= LONG_TURN || time >= TURN && (sated || idle)
    }
}

/// Time between two rankings (BEP 3: ten seconds, so that TCP gets up to speed).
const TICK: Duration = Duration::from_secs(10);
/// The optimistic slot goes on after this long (BEP 3).
const OPTIMISTIC_TURN: Duration = Duration::from_secs(30);
/// A leecher's slot is kept for so long by a peer that gives nothing for it.
const TRIAL: Duration = Duration::from_secs(30);
/// Between rankings a slot is left to somebody who gives nothing for so long, and until he has taken `IDLE_BYTES`.
const TASTE: Duration = Duration::from_secs(3);
/// Who gets less than this part of what others get on average lags behind.
const LAGS: u64 = 3;
/// So many of them are helped at a time, for so long at least.
const NEEDY: usize = 2;
const NEEDY_TURN: Duration = Duration::from_secs(10);
/// A block a second.
const WORTH_A_SLOT: u64 = 16 * 1024;
/// A peer is new for this long, and three times as likely to be tried (BEP 3).
const NEW_PEER: Duration = Duration::from_secs(60);
const NEW_PEER_WEIGHT: u32 = 3;
/// Regular slots at least; one optimistic comes on top.
const BASE_SLOTS: usize = 8;
const MAX_EXTRA_SLOTS: usize = 56;
/// Below this a slot counts as unused.
const IDLE_RATE: u64 = 1024;
/// A turn of a seed's slot: a minute and 4 MiB, or a minute with next to nothing taken, or three minutes.
const TURN: Duration = Duration::from_secs(60);
const TURN_BYTES: u64 = 4 * 1024 * 1024;
const IDLE_BYTES: u64 = 64 * 1024;
const LONG_TURN: Duration = Duration::from_secs(180);
/// Ticks before another slot is tried after one that brought nothing.
const REST_TICKS: u32 = 12;

#[cfg(test)]
mod tests;
