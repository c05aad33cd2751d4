use std::collections::{HashMap, HashSet};

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::proto::peer_addr::{decode_v4, decode_v6};

fn announce(addr: &str, complete: bool) -> Announce {
    Announce {
        info_hash: InfoHash([7; 20]),
        addr: addr.parse().unwrap(),
        complete,
        event: Event::Regular,
        wanted: 50,
        uploaded: 0,
        downloaded: 0,
    }
}

fn config() -> StoreConfig {
    StoreConfig { max_torrents: 100, max_peers: 20_000, ..StoreConfig::default() }
}

/// Announces; the figures, and the peers told of.
fn told(store: &Store, now: Instant, announce: &Announce) -> (Counts, Vec<SocketAddr>) {
    let mut peers = Vec::new();
    let counts = store.announce(now, announce, &mut peers).unwrap();
    let decoded: Vec<_> = match announce.addr.ip().to_canonical() {
        IpAddr::V4(_) => decode_v4(&peers).collect(),
        IpAddr::V6(_) => decode_v6(&peers).collect(),
    };
    (counts, decoded)
}

fn numbers(counts: Counts) -> (usize, usize, u64) {
    (counts.seeds, counts.leechers, counts.completed)
}

fn ports(peers: &[SocketAddr]) -> HashSet<u16> {
    peers.iter().map(SocketAddr::port).collect()
}

fn filled(seeds: u16, leechers: u16) -> (Store, Instant) {
    let now = Instant::now();
    let store = Store::new(config(), now);
    for port in 1..=seeds + leechers {
        told(&store, now, &announce(&format!("10.0.0.1:{port}"), port <= seeds));
    }
    store.check_invariants();
    (store, now)
}

fn sweep_all(store: &Store, now: Instant) {
    (0..SHARDS).for_each(|_| store.sweep(now));
    store.check_invariants();
}

#[test]
fn seeds_get_leechers_only_and_nobody_gets_himself() {
    let (store, now) = filled(3, 4);
    let (counts, peers) = told(&store, now, &announce("10.0.0.1:1", true));
    assert_eq!((numbers(counts), ports(&peers)), ((3, 4, 0), HashSet::from([4, 5, 6, 7])));
    let (_, peers) = told(&store, now, &announce("10.0.0.1:4", false));
    assert_eq!(ports(&peers), HashSet::from([1, 2, 3, 5, 6, 7]));
}

#[test]
fn a_download_is_completed_once_by_whoever_lacks_nothing() {
    let (store, now) = filled(0, 1);
    let said = |complete| Announce { event: Event::Completed, ..announce("10.0.0.1:1", complete) };
    for (complete, completed) in [(false, 0), (false, 0), (true, 1), (true, 1)] {
        assert_eq!(told(&store, now, &said(complete)).0.completed, completed);
    }
}

#[test]
fn the_families_are_apart_and_mapped_addresses_are_ipv4() {
    let (store, now) = filled(1, 0);
    let (counts, peers) = told(&store, now, &announce("[fd00::1]:9", false));
    assert_eq!((peers.len(), counts.seeds), (0, 1));
    let (_, peers) = told(&store, now, &announce("[::ffff:10.0.0.2]:9", false));
    assert_eq!(peers, ["10.0.0.1:1".parse().unwrap()]);
    let (_, peers) = told(&store, now, &announce("10.0.0.3:9", true));
    assert_eq!(peers, ["10.0.0.2:9".parse().unwrap()]);
    let totals = store.totals();
    assert_eq!((totals.torrents, totals.peers_v4, totals.peers_v6, totals.seeds, totals.leechers()), (1, 3, 1, 2, 2));
    store.check_invariants();
}

#[test]
fn a_reply_is_bounded_and_without_repetition() {
    let (store, now) = filled(100, 400);
    for (wanted, given) in [(50, 50), (0, 0), (7, 7), (199, 199), (usize::MAX, 200)] {
        let (_, peers) = told(&store, now, &Announce { wanted, ..announce("10.0.0.1:9", false) });
        assert_eq!((peers.len(), ports(&peers).len()), (given, given), "{wanted}");
        assert!(!ports(&peers).contains(&9));
    }
}

#[test]
fn sampling_reaches_everybody() {
    let (store, now) = filled(0, 300);
    let mut seen = HashSet::new();
    for _ in 0..1000 {
        let one = Announce { wanted: 10, ..announce("10.0.0.2:1", false) };
        seen.extend(told(&store, now, &one).1);
    }
    assert_eq!(seen.len(), 300);
}

#[test]
fn leavers_and_silent_peers_are_forgotten_with_their_torrent() {
    let (store, now) = filled(2, 0);
    let stop = Announce { event: Event::Stopped, ..announce("10.0.0.1:1", true) };
    assert_eq!(told(&store, now, &stop).0.seeds, 1);
    let late = now + config().expiry;
    assert!(told(&store, late, &announce("10.0.0.9:1", false)).1.is_empty());
    sweep_all(&store, late);
    assert_eq!(numbers(store.scrape(&InfoHash([7; 20]))), (0, 1, 0));
    sweep_all(&store, late + config().expiry);
    assert_eq!(store.totals(), Totals::default());
}

#[test]
fn completion_is_counted_once_a_peer_and_kept_when_all_have_gone() {
    let (store, now) = filled(0, 1);
    let done = Announce { event: Event::Completed, ..announce("10.0.0.1:1", true) };
    for _ in 0..3 {
        assert_eq!(numbers(told(&store, now, &done).0), (1, 0, 1));
    }
    sweep_all(&store, now + config().expiry);
    assert_eq!(numbers(store.scrape(&InfoHash([7; 20]))), (0, 0, 1));
    assert_eq!((store.totals().torrents, store.totals().idle_torrents), (0, 1));
}

#[test]
fn bytes_are_counted_by_what_was_added_since() {
    let now = Instant::now();
    let store = Store::new(config(), now);
    let say = |event, uploaded, downloaded| {
        let one = Announce { event, uploaded, downloaded, ..announce("10.0.0.1:1", false) };
        let (counts, _) = told(&store, now, &one);
        (counts.uploaded, counts.downloaded)
    };
    assert_eq!(say(Event::Started, 1, 2), (1, 2));
    assert_eq!(say(Event::Regular, 11, 22), (11, 22));
    assert_eq!(say(Event::Started, 11, 22), (11, 22), "said again, by another way");
    assert_eq!(say(Event::Started, 5, 0), (16, 22), "it has begun anew");
    assert_eq!(say(Event::Regular, u64::MAX, 0), (16, 22), "nobody believes that");
    assert_eq!(say(Event::Stopped, u64::MAX, 9), (16, 31));
    // Of this one nobody knows what was counted before.
    assert_eq!(say(Event::Regular, 1000, 1000), (16, 31));
    assert_eq!(say(Event::Regular, 1001, 1002), (17, 33));
    assert_eq!((store.totals().uploaded, store.totals().downloaded), (17, 33));
}

#[test]
fn nobody_has_moved_more_than_his_time_allows() {
    let begin = Instant::now();
    let store = Store::new(config(), begin);
    let say = |seconds, event, uploaded| {
        let one = Announce { event, uploaded, ..announce("10.0.0.1:1", false) };
        told(&store, begin + Duration::from_secs(seconds), &one).0.uploaded
    };
    let second = 5_000_000_000;
    let interval = config().interval.as_secs();
    assert_eq!(say(0, Event::Started, (interval + 1) * second), 0, "an interval's worth at most");
    assert_eq!(say(0, Event::Stopped, 0), 0);
    assert_eq!(say(0, Event::Started, interval * second), interval * second);
    // Below what it was, again and again, without wait.
    let mut sum = interval * second;
    for less in 1..100 {
        assert_eq!(say(0, Event::Regular, interval * second - less), sum);
    }
    assert_eq!(say(10, Event::Regular, second), sum + second, "begun anew");
    sum += second;
    assert_eq!(say(20, Event::Regular, 11 * second), sum + 10 * second);
    sum += 10 * second;
    assert_eq!(say(30, Event::Regular, 22 * second), sum, "eleven in ten");
    assert_eq!(say(30, Event::Regular, 22 * second + 1000), sum + 1000, "seconds are whole");
}

#[test]
fn full_stores_refuse_torrents_and_replace_peers() {
    let now = Instant::now();
    let store = Store::new(StoreConfig { max_torrents: 1, max_peers: 3, ..config() }, now);
    for port in 1..=20 {
        let (counts, _) = told(&store, now, &announce(&format!("10.0.0.1:{port}"), port % 2 == 0));
        assert!(counts.seeds + counts.leechers <= 3);
    }
    let other = Announce { info_hash: InfoHash([8; 20]), ..announce("10.0.0.1:1", true) };
    assert_eq!(store.announce(now, &other, &mut Vec::new()), Err(Full));
    store.check_invariants();
}

#[test]
fn figures_of_the_gone_make_room_for_those_who_come() {
    let now = Instant::now();
    let store = Store::new(StoreConfig { max_torrents: 1, ..config() }, now);
    told(&store, now, &Announce { event: Event::Completed, ..announce("10.0.0.1:1", true) });
    told(&store, now, &Announce { event: Event::Stopped, ..announce("10.0.0.1:1", true) });
    assert_eq!(store.totals().idle_torrents, 1);
    // Of the same shard.
    let mut hash = [9; 20];
    hash[0] = 7;
    let other = Announce { info_hash: InfoHash(hash), ..announce("10.0.0.1:1", true) };
    assert_eq!(told(&store, now, &other).0.seeds, 1);
    assert_eq!((store.totals().torrents, store.totals().idle_torrents), (1, 0));
    store.check_invariants();
}

#[test]
fn a_snapshot_keeps_everything_and_ages_it() {
    let (store, now) = filled(40, 30);
    told(&store, now, &Announce { uploaded: 9, event: Event::Started, ..announce("[fd00::1]:5", false) });
    told(&store, now, &Announce { event: Event::Completed, ..announce("10.0.0.1:70", true) });
    let counts = store.scrape(&InfoHash([7; 20]));
    let later = now + Duration::from_secs(600);
    told(&store, later, &announce("10.0.0.9:1", false));
    let mut saved = Vec::new();
    store.save(later, 5000, &mut saved).unwrap();

    let begin = Instant::now();
    let again = Store::new(config(), begin);
    let restored = again.restore(begin, 5100, &mut &saved[..]).unwrap();
    assert_eq!(restored, Restored { torrents: 1, peers: 72 });
    again.check_invariants();
    assert_eq!(again.scrape(&InfoHash([7; 20])), Counts { leechers: counts.leechers + 1, ..counts });
    // What is said next is counted from what was said last.
    let one = Announce { uploaded: 12, ..announce("[fd00::1]:5", false) };
    assert_eq!(told(&again, begin, &one).0.uploaded, 12);
    // 700 s of their time are over; the last one to come has had 100 s.
    sweep_all(&again, begin + config().expiry - Duration::from_secs(650));
    assert_eq!(numbers(again.scrape(&InfoHash([7; 20]))), (0, 2, 1));

    // Expired in between, and a clock that was set back.
    let again = Store::new(config(), begin);
    assert_eq!(again.restore(begin, 5000 + 4200, &mut &saved[..]).unwrap(), Restored { torrents: 1, peers: 0 });
    let again = Store::new(config(), begin);
    assert_eq!(again.restore(begin, 0, &mut &saved[..]).unwrap().peers, 72);
    // Within the bounds of the new life.
    let again = Store::new(StoreConfig { max_peers: 5, ..config() }, begin);
    assert_eq!(again.restore(begin, 5000, &mut &saved[..]).unwrap().peers, 6);
    again.check_invariants();
}

#[test]
fn a_snapshot_that_is_not_whole_is_not_taken() {
    let (store, now) = filled(3, 4);
    let mut saved = Vec::new();
    store.save(now, 5000, &mut saved).unwrap();
    let restore = |bytes: &[u8]| {
        let fresh = Store::new(config(), now);
        let restored = fresh.restore(now, 5000, &mut &bytes[..]);
        fresh.check_invariants();
        assert!(restored.is_ok() || fresh.totals() == Totals::default());
        restored
    };
    assert_eq!(restore(&saved).unwrap().peers, 7);
    for length in 0..saved.len() {
        assert!(restore(&saved[..length]).is_err(), "{length}");
    }
    for at in 0..saved.len() {
        let mut changed = saved.clone();
        changed[at] ^= 0x10;
        // The time is not covered, and harms nobody.
        assert!(restore(&changed).is_err() || (8..16).contains(&at), "{at}");
    }
    assert!(restore(&[&saved[..], b"x"].concat()).is_err());
}

/// What a store should be, in the plainest form.
#[derive(Default)]
struct Model {
    peers: HashMap<(InfoHash, SocketAddr), (bool, u64)>,
    completed: HashMap<InfoHash, u64>,
}

proptest! {
    #[test]
    fn a_store_is_what_a_plain_map_is(
        steps in vec((0_u8..3, 0_u8..2, 1_u16..60, any::<bool>(), 0_u8..8, 0_u64..400), 1..400),
    ) {
        let begin = Instant::now();
        let store = Store::new(config(), begin);
        let (mut model, mut clock, expiry) = (Model::default(), 0, config().expiry.as_secs());
        for (torrent, family, port, complete, event, wait) in steps {
            clock += wait;
            let now = begin + Duration::from_secs(clock);
            let info_hash = InfoHash([torrent; 20]);
            let ip: IpAddr = if family == 0 { [10, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() };
            let addr = SocketAddr::new(ip, port);
            let event = match event {
                0 => Event::Stopped,
                1 => Event::Completed,
                2 => Event::Started,
                _ => Event::Regular,
            };
            if wait % 50 == 0 {
                (0..SHARDS).for_each(|_| store.sweep(now));
                model.peers.retain(|_, (_, heard)| clock - *heard < expiry);
            }
            let key = (info_hash, addr);
            let was_seed = model.peers.get(&key).is_some_and(|(seed, _)| *seed);
            if event == Event::Stopped {
                model.peers.remove(&key);
            } else {
                if event == Event::Completed && complete && !was_seed {
                    *model.completed.entry(info_hash).or_default() += 1;
                }
                model.peers.insert(key, (complete, clock));
            }
            let said = Announce { info_hash, addr, complete, event, wanted: 200, uploaded: 0, downloaded: 0 };
            let (counts, peers) = told(&store, now, &said);
            let of = |seed: bool| {
                model.peers.iter().filter(|((hash, _), (is, _))| *hash == info_hash && *is == seed).count()
            };
            let completed = model.completed.get(&info_hash).copied().unwrap_or(0);
            prop_assert_eq!(numbers(counts), (of(true), of(false), completed));
            let expected: HashSet<SocketAddr> = model
                .peers
                .iter()
                .filter(|((hash, other), (seed, heard))| {
                    *hash == info_hash && *other != addr && other.is_ipv4() == addr.is_ipv4()
                        && !(complete && *seed) && clock - heard < expiry && event != Event::Stopped
                })
                .map(|((_, other), _)| *other)
                .collect();
            prop_assert_eq!(peers.len(), expected.len());
            prop_assert_eq!(peers.into_iter().collect::<HashSet<_>>(), expected);
        }
        store.check_invariants();
    }
}
