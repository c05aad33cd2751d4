//! Whom we upload to: tit-for-tat while we want data, rate and rotation once we have it all (BEP 3).
//!
//! Says who is to be unchoked and who choked; sends nothing and measures nothing. A free slot is given at once when a
//! peer becomes interested, and so is that of a peer that wants nothing any more, which is choked for it; everything else
//! waits for the tick, so that no peer is choked and unchoked in quick turn. Never are more unchoked than there are slots.

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
        self.grow(&wanting);
        self.turn_optimistic(now, mode, &wanting);

        let mut order: Vec<&ChokePeer> =
            wanting.iter().copied().filter(|peer| self.optimistic != Some(peer.key)).collect();
        match mode {
            ChokeMode::Leech => order.sort_by_key(|peer| self.leech_order(now, peer)),
            ChokeMode::Seed => order.sort_by_key(|peer| self.seed_order(now, peer)),
        }
        let chosen: Vec<PeerKey> =
            order.iter().take(self.regular_slots()).map(|peer| peer.key).chain(self.optimistic).collect();

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
        if self.unchoked.len() >= self.slots() {
            let idle = self.unchoked.iter().filter(|(_, slot)| !slot.interested);
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
        self.choked_at.insert(peer, now);
    }

    fn forget_absent(&mut self, peers: &[ChokePeer]) {
        let here: std::collections::BTreeSet<PeerKey> = peers.iter().map(|peer| peer.key).collect();
        self.unchoked.retain(|key, _| here.contains(key));
        self.choked_at.retain(|key, _| here.contains(key));
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
    fn grow(&mut self, wanting: &[&ChokePeer]) {
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
        let idle = served.iter().filter(|peer| peer.upload_rate < IDLE_RATE).count();
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
mod tests {
    use super::*;

    struct Swarm {
        choker: Choker,
        now: Instant,
        mode: ChokeMode,
        peers: Vec<ChokePeer>,
    }

    impl Swarm {
        fn new(mode: ChokeMode, count: u64) -> Self {
            let now = Instant::now();
            let peers = (0..count).map(|key| peer(key, now)).collect();
            Self { choker: Choker::new(7, None), now: now + 10 * TICK, mode, peers }
        }

        fn tick(&mut self) -> Vec<(PeerKey, bool)> {
            self.now += TICK;
            for peer in &mut self.peers {
                if self.choker.unchoked.contains_key(&peer.key) {
                    peer.uploaded_bytes += peer.upload_rate * TICK.as_secs();
                }
            }
            self.choker.rank(self.now, self.mode, &self.peers)
        }

        /// A peer becomes interested; whether it gets a slot for that.
        fn wants(&mut self, now: Instant, peer: &ChokePeer) -> bool {
            self.choker.on_interested(now, peer).contains(&(peer.key, true))
        }

        fn unchoked(&self) -> Vec<u64> {
            self.choker.unchoked.keys().map(|key| key.0).collect()
        }
    }

    fn peer(key: u64, connected_at: Instant) -> ChokePeer {
        ChokePeer {
            key: PeerKey(key),
            interested: true,
            snubbed: false,
            download_rate: 0,
            upload_rate: 5000,
            uploaded_bytes: 0,
            connected_at,
        }
    }

    #[test]
    fn slots_that_are_counted_out_are_never_more() {
        for slots in [1, 2, 5] {
            for mode in [ChokeMode::Leech, ChokeMode::Seed] {
                let mut swarm = Swarm::new(mode, 20);
                swarm.choker.set_slots(Some(slots));
                let peers = swarm.peers.clone();
                let now = swarm.now;
                let given = peers.iter().filter(|peer| swarm.wants(now, peer)).count();
                assert_eq!(given, slots);
                let mut served = std::collections::BTreeSet::new();
                for _ in 0..60 {
                    swarm.tick();
                    assert_eq!(swarm.unchoked().len(), slots, "{mode:?}");
                    served.extend(swarm.unchoked());
                }
                assert!(served.len() > slots, "others get their turn: {served:?}");
            }
        }
    }

    #[test]
    fn a_leecher_unchokes_those_who_give_most_and_one_by_luck() {
        let mut swarm = Swarm::new(ChokeMode::Leech, 20);
        for peer in &mut swarm.peers {
            peer.download_rate = peer.key.0 * 100;
        }
        swarm.tick();
        let unchoked = swarm.unchoked();
        assert_eq!(unchoked.len(), 9);
        assert!((12..20).all(|best| unchoked.contains(&best)), "{unchoked:?}");
    }

    #[test]
    fn only_changes_are_returned_and_chokes_come_first() {
        let mut swarm = Swarm::new(ChokeMode::Leech, 20);
        swarm.choker.growth.rest = u32::MAX;
        assert!(swarm.tick().iter().all(|&(_, unchoke)| unchoke));
        assert_eq!(swarm.tick(), []);
        for peer in &mut swarm.peers[10..] {
            peer.download_rate = 1000;
        }
        let changes = swarm.tick();
        assert!(changes.is_sorted_by_key(|change| change.1) && changes.iter().any(|change| !change.1), "{changes:?}");
    }

    #[test]
    fn a_snubbing_or_uninterested_peer_gets_no_regular_slot() {
        let mut swarm = Swarm::new(ChokeMode::Leech, 12);
        for peer in &mut swarm.peers {
            peer.download_rate = 1000;
        }
        swarm.peers[3].snubbed = true;
        swarm.peers[3].download_rate = 9000;
        swarm.peers[4].interested = false;
        swarm.tick();
        assert!(!swarm.choker.is_unchoked(PeerKey(4)));
        assert!(!swarm.choker.is_unchoked(PeerKey(3)) || swarm.choker.optimistic == Some(PeerKey(3)));
    }

    #[test]
    fn the_optimistic_slot_turns_every_thirty_seconds_and_reaches_everybody() {
        let mut swarm = Swarm::new(ChokeMode::Leech, 14);
        swarm.choker.growth.rest = u32::MAX;
        for peer in &mut swarm.peers[..8] {
            peer.download_rate = 1000;
        }
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..60 {
            let before = swarm.choker.optimistic;
            swarm.tick();
            let first = swarm.choker.optimistic;
            assert!(before.is_none() || before != first);
            seen.extend(first);
            for _ in 0..2 {
                swarm.tick();
                assert_eq!(swarm.choker.optimistic, first);
            }
        }
        assert_eq!(seen.len(), 6, "{seen:?}");
    }

    #[test]
    fn who_gives_nothing_does_not_keep_a_slot() {
        let mut swarm = Swarm::new(ChokeMode::Leech, 30);
        swarm.choker.growth.rest = u32::MAX;
        swarm.peers[29].download_rate = 1;
        let mut served = std::collections::BTreeSet::new();
        for tick in 0..16 {
            swarm.tick();
            served.extend(swarm.unchoked());
            assert!(tick < 1 || swarm.choker.is_unchoked(PeerKey(29)), "the one that gives a little keeps its slot");
        }
        assert_eq!(served.len(), 30);
    }

    #[test]
    fn new_peers_are_favoured_by_luck() {
        let mut fresh = 0;
        for seed in 0..400 {
            let mut swarm = Swarm::new(ChokeMode::Leech, 10);
            swarm.choker = Choker::new(seed, None);
            for peer in &mut swarm.peers[..8] {
                peer.download_rate = 1000;
            }
            swarm.peers[9].connected_at = swarm.now;
            swarm.tick();
            fresh += usize::from(swarm.choker.optimistic == Some(PeerKey(9)));
        }
        assert!((260..340).contains(&fresh), "three of four: {fresh}");
    }

    #[test]
    fn a_free_slot_is_given_at_once_and_a_full_house_waits() {
        let mut swarm = Swarm::new(ChokeMode::Leech, 12);
        let (now, peers) = (swarm.now, swarm.peers.clone());
        let given = peers.iter().filter(|peer| swarm.wants(now, peer)).count();
        assert_eq!(given, 9);
        swarm.choker.on_not_interested(PeerKey(0));
        let changes = swarm.choker.on_interested(now, &peers[11]);
        assert_eq!(changes, [(PeerKey(0), false), (PeerKey(11), true)], "given on with a choke");
        assert_eq!(swarm.choker.on_interested(now, &peers[11]), [], "it has one");
        assert_eq!(swarm.choker.on_interested(now, &peers[0]), [], "it had one");
        assert_eq!(swarm.choker.poll_timeout(), Some(now + TICK));
    }

    #[test]
    fn peers_that_want_and_want_not_in_turns_get_no_more_slots_than_there_are() {
        for slots in [1, 2] {
            let mut swarm = Swarm::new(ChokeMode::Leech, 6);
            swarm.choker.set_slots(Some(slots));
            let (now, peers) = (swarm.now, swarm.peers.clone());
            for peer in peers.iter().chain(&peers) {
                swarm.wants(now, peer);
                swarm.choker.on_not_interested(peer.key);
                assert!(swarm.unchoked().len() <= slots);
            }
            for peer in &peers {
                swarm.wants(now, peer);
                assert!(swarm.unchoked().len() <= slots, "{:?}", swarm.unchoked());
            }
        }
    }

    #[test]
    fn a_seed_serves_everybody_in_turns() {
        let mut swarm = Swarm::new(ChokeMode::Seed, 40);
        let mut served = std::collections::BTreeSet::new();
        for _ in 0..150 {
            swarm.tick();
            served.extend(swarm.unchoked());
        }
        assert_eq!(served.len(), 40);
        let least = swarm.peers.iter().map(|peer| peer.uploaded_bytes).min();
        let most = swarm.peers.iter().map(|peer| peer.uploaded_bytes).max();
        assert!(least > Some(0) && most < least.map(|bytes| bytes * 8), "{least:?} {most:?}");
    }

    #[test]
    fn a_seed_keeps_a_peer_in_the_middle_of_its_turn() {
        let mut swarm = Swarm::new(ChokeMode::Seed, 40);
        swarm.tick();
        let first = swarm.unchoked();
        swarm.tick();
        let kept = swarm.unchoked().iter().filter(|key| first.contains(key)).count();
        assert!(kept >= BASE_SLOTS, "{kept}");
    }

    #[test]
    fn slots_grow_while_that_makes_the_whole_faster_and_stop_when_it_does_not() {
        // Each peer takes 5 kB/s whatever the number of slots: the link is not full.
        let mut swarm = Swarm::new(ChokeMode::Seed, 40);
        for _ in 0..60 {
            swarm.tick();
        }
        assert!(swarm.unchoked().len() > 2 * BASE_SLOTS, "{}", swarm.unchoked().len());
        // A link of 40 kB/s that all share.
        let mut swarm = Swarm::new(ChokeMode::Seed, 40);
        let mut most = 0;
        for _ in 0..60 {
            swarm.tick();
            let count = swarm.unchoked().len();
            most = most.max(count);
            for peer in &mut swarm.peers {
                let served = swarm.choker.unchoked.contains_key(&peer.key);
                peer.upload_rate = if served { 40_000 / count as u64 } else { 0 };
            }
        }
        assert!(most <= BASE_SLOTS + 4, "{most}");
    }

    #[test]
    fn a_peer_that_left_takes_no_slot() {
        let mut swarm = Swarm::new(ChokeMode::Leech, 9);
        swarm.tick();
        swarm.choker.remove(PeerKey(2));
        swarm.peers.retain(|peer| peer.key.0 > 4);
        swarm.tick();
        assert_eq!(swarm.unchoked(), [5, 6, 7, 8]);
    }
}
