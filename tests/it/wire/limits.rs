//! Bounds on rates, slots and connections, over real sockets. Times are looked at from below only.

use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use btfs::base::PieceRange;
use btfs::engine::Fill;
use btfs::net::{AddTorrent, Bounds, NewBounds, Rates};

use super::{Content, Node, read, stored, wait};

const MIB: u64 = 1 << 20;

fn with(bounds: Bounds) -> Node {
    Node::start_with(|config| config.bounds = bounds)
}

fn download(rate: u64) -> Rates {
    Rates { download: Some(rate), upload: None }
}

fn upload(rate: u64) -> Rates {
    Rates { upload: Some(rate), download: None }
}

#[test]
fn what_crosses_keeps_to_the_bound_of_either_end() {
    let content = Content::random("bounded.bin", 8 << 20, 262_144, None);
    let (all, each) =
        (|rates| Bounds { all: rates, ..Bounds::default() }, |rates| Bounds { each: rates, ..Bounds::default() });
    for (seeds, leeches) in [
        (Bounds::default(), all(download(2 * MIB))),
        (Bounds::default(), each(download(2 * MIB))),
        (all(upload(2 * MIB)), Bounds::default()),
        (each(upload(2 * MIB)), all(download(100 * MIB))),
    ] {
        let (seed, leech) = (with(seeds), with(leeches));
        seed.seed(&content);
        let handle = leech.leech(&content, &seed);
        let begun = Instant::now();
        read(&handle, handle.store().layout().pieces()).unwrap();
        // 4 s, and a burst of a quarter less.
        assert!(begun.elapsed() >= Duration::from_secs(3), "{seeds:?} {leeches:?}: {:?}", begun.elapsed());
        assert!(stored(&handle) == content.bytes);
    }
}

#[test]
fn torrents_share_the_bound_of_all() {
    let contents = [4 << 20, (4 << 20) + 1].map(|length| Content::random("half.bin", length, 262_144, None));
    let seeds: Vec<_> = contents.iter().map(|content| (Node::start(), content)).collect();
    let leech = with(Bounds { all: download(2 * MIB), each: download(50 * MIB), ..Bounds::default() });
    let (sender, outcomes) = channel();
    let begun = Instant::now();
    for (seed, content) in &seeds {
        seed.seed(content);
        let handle = leech.leech(content, seed);
        let sender = sender.clone();
        handle.read(handle.store().layout().pieces(), Box::new(move |outcome| sender.send(outcome).unwrap()));
    }
    for _ in &seeds {
        outcomes.recv_timeout(Duration::from_secs(60)).unwrap().unwrap();
    }
    assert!(begun.elapsed() >= Duration::from_secs(3), "{:?}", begun.elapsed());
}

#[test]
fn a_bound_can_be_changed_while_it_holds_something_up() {
    let content = Content::random("slow.bin", 8 << 20, 65536, None);
    let hash = content.metainfo.info_hash.unwrap();
    let slow = Bounds { all: Rates { upload: Some(32 << 10), download: None }, ..Bounds::default() };
    let (seed, leech) = (with(slow), with(Bounds { all: download(16 << 10), ..Bounds::default() }));
    seed.seed(&content);
    let handle = leech.leech(&content, &seed);
    let (sender, outcome) = channel();
    handle.read(handle.store().layout().pieces(), Box::new(move |outcome| sender.send(outcome).unwrap()));
    // At that rate it would take minutes.
    wait("something flows", || handle.snapshot().unwrap().downloaded_bytes > 100_000);
    assert!(outcome.try_recv().is_err());
    assert!(leech.session.limit_one(&hash, NewBounds { download: Some(Some(1 << 20)), ..NewBounds::default() }));
    leech.session.limit(NewBounds { download: Some(None), ..NewBounds::default() });
    seed.session.limit_each(NewBounds { upload: Some(Some(500 << 20)), ..NewBounds::default() });
    seed.session.limit(NewBounds { upload: Some(None), ..NewBounds::default() });
    assert_eq!(leech.session.rates_of(&hash), Some(download(1 << 20)));
    assert_eq!((leech.session.bounds().all, seed.session.bounds().each), (Rates::default(), upload(500 << 20)));
    leech.session.limit_each(NewBounds { download: Some(None), ..NewBounds::default() });
    outcome.recv_timeout(Duration::from_secs(60)).unwrap().unwrap();
    assert!(stored(&handle) == content.bytes);
}

#[test]
fn a_reader_goes_before_the_rest_where_the_rate_is_bounded() {
    let content = Content::random("film.bin", 32 << 20, 65536, None);
    let seed = Node::start();
    let leech = Node::start_with(|config| {
        config.fill = Fill::All;
        config.bounds.all.download = Some(MIB);
    });
    seed.seed(&content);
    let handle = leech.leech(&content, &seed);
    wait("it fills", || handle.snapshot().unwrap().downloaded_bytes > MIB);
    let far = handle.store().layout().pieces().iter().rev().find(|&piece| !handle.snapshot().unwrap().have.has(piece));
    let before = handle.snapshot().unwrap().downloaded_bytes;
    read(&handle, PieceRange::one(far.unwrap())).unwrap();
    let meanwhile = handle.snapshot().unwrap().downloaded_bytes - before;
    assert!(meanwhile < 4 * MIB, "{meanwhile} bytes came before the 64 KiB that a reader waits for");
}

#[test]
fn only_so_many_peers_have_a_slot() {
    let content = Content::random("slots.bin", 4 << 20, 65536, None);
    let seed = with(Bounds { upload_slots: Some(1), all: upload(256 << 10), ..Bounds::default() });
    let seeding = seed.seed(&content);
    let leeches: Vec<_> = (0..3).map(|_| Node::start_with(|config| config.fill = Fill::All)).collect();
    let handles: Vec<_> = leeches.iter().map(|leech| leech.leech(&content, &seed)).collect();
    let mut looks_at_all = 0;
    wait("one of three has it", || {
        let peers = seeding.snapshot().unwrap().peers;
        let unchoked = peers.iter().filter(|peer| !peer.am_choking).count();
        assert!(unchoked <= 1, "{unchoked} of {} have a slot", peers.len());
        looks_at_all += usize::from(unchoked == 1 && peers.len() == 3);
        looks_at_all > 20
    });
    // And any number when that is wished for.
    seed.session.limit(NewBounds { upload_slots: Some(None), upload: Some(None), ..NewBounds::default() });
    handles.iter().for_each(|handle| read(handle, handle.store().layout().pieces()).unwrap());
}

#[test]
fn all_torrents_share_the_connections() {
    let content = Content::random("few.bin", 600_000, 32768, None);
    let seeds: Vec<_> = (0..3).map(|_| Node::start()).collect();
    seeds.iter().for_each(|seed| _ = seed.seed(&content));
    let bounds =
        Bounds { max_connections: Some(1), max_half_open: Some(1), all: download(200 << 10), ..Bounds::default() };
    let leech = with(bounds);
    let peers = seeds.iter().map(|seed| ([127, 0, 0, 1], seed.session.port()).into()).collect();
    let handle = leech.session.add(AddTorrent { peers, ..content.to_add() }).unwrap();
    let (sender, outcome) = channel();
    handle.read(handle.store().layout().pieces(), Box::new(move |outcome| sender.send(outcome).unwrap()));
    let mut connected = 0;
    wait("all of it is here", || {
        connected = connected.max(handle.snapshot().unwrap().peers.len());
        outcome.try_recv().is_ok_and(|outcome| outcome.is_ok())
    });
    assert_eq!(connected, 1, "connections at a time");
    assert!(stored(&handle) == content.bytes);
}
