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
        gain_rate: 0,
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
fn who_gives_need_not_wait_for_the_next_ranking() {
    let mut swarm = Swarm::new(ChokeMode::Leech, 14);
    let (now, mut peers) = (swarm.now, swarm.peers.clone());
    assert_eq!(peers.iter().filter(|peer| swarm.wants(now, peer)).count(), 9);
    peers[0].download_rate = 500;
    peers[1..].iter_mut().for_each(|peer| peer.uploaded_bytes = if peer.key == PeerKey(1) { 0 } else { 1 << 20 });
    peers[12].download_rate = 1000;
    peers[13].download_rate = 2000;
    assert_eq!(swarm.choker.reward(now + TASTE / 2, &peers), [], "what has just been given is left for a while");
    let changes = swarm.choker.reward(now + TASTE, &peers);
    let [(first, false), (PeerKey(13), true), (second, false), (PeerKey(12), true)] = changes[..] else {
        panic!("{changes:?}");
    };
    assert!([first, second].iter().all(|key| key.0 > 1), "one gives, and one has had nothing yet");
    assert_eq!(swarm.unchoked().len(), 9);
    assert_eq!(swarm.choker.reward(now + TASTE, &peers), [], "they have slots now");
    // However many give, one slot is for luck.
    peers[1..].iter_mut().for_each(|peer| peer.download_rate = if peer.key == PeerKey(7) { 0 } else { 100 });
    swarm.choker.reward(now + TASTE, &peers);
    assert!(swarm.unchoked().contains(&7) && swarm.unchoked().len() == 9);
}

#[test]
fn who_lags_behind_is_helped_for_a_while() {
    let mut swarm = Swarm::new(ChokeMode::Leech, 20);
    for peer in &mut swarm.peers {
        (peer.download_rate, peer.gain_rate, peer.upload_rate) = (1000, 9000, WORTH_A_SLOT);
    }
    swarm.peers[19] = ChokePeer { download_rate: 0, gain_rate: 2000, ..swarm.peers[19] };
    swarm.choker.growth.rest = u32::MAX;
    swarm.tick();
    swarm.choker.optimistic = Some(PeerKey(0));
    swarm.choker.unchoked.remove(&PeerKey(19));
    let mut peers = swarm.peers.clone();
    peers[..18].iter_mut().for_each(|peer| peer.upload_rate = 0);
    assert_eq!(swarm.choker.help(swarm.now, &peers), [], "where there is little to share it is not shared further");
    let peers = swarm.peers.clone();
    assert_eq!(swarm.choker.help(swarm.now, &peers), [(PeerKey(19), true)]);
    assert_eq!(swarm.choker.help(swarm.now, &peers), [], "it has a slot");
    swarm.choker.rank(swarm.now + TICK / 2, ChokeMode::Leech, &peers);
    assert!(swarm.choker.is_unchoked(PeerKey(19)), "a ranking does not end its turn");
    swarm.choker.optimistic_until = Some(swarm.now + 10 * TICK);
    swarm.choker.rank(swarm.now + 2 * TICK, ChokeMode::Leech, &peers);
    assert!(!swarm.choker.is_unchoked(PeerKey(19)), "time does");
    assert_eq!(swarm.choker.unchoked.len(), 9);
    swarm.choker.set_slots(Some(4));
    assert_eq!(swarm.choker.help(swarm.now + 2 * TICK, &peers), [], "where slots are counted out there is none beyond");
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
