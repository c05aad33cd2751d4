//! Sessions among themselves.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use btfs::base::PieceRange;
use btfs::engine::{Command, ReadError};
use btfs::net::AddTorrent;
use btfs::tracker::{ServeConfig, Sockets, StoreConfig, Tracker};

use super::leaving::{COMPLETED, STARTED, STOPPED, Told, half_deaf_tracker};
use super::{Content, Node, own_ip, read, stored, wait};

#[test]
fn what_is_read_is_fetched_and_nothing_else() {
    let content = Content::random("film.mkv", 3_000_000, 65536, None);
    let (seed, leech) = (Node::start(), Node::start());
    seed.seed(&content);
    let handle = leech.leech(&content, &seed);
    let layout = handle.store().layout().clone();
    let wanted = PieceRange::inclusive(layout.piece(7).unwrap(), layout.piece(9).unwrap());
    read(&handle, wanted).unwrap();
    let pins = handle.store().table().pin(wanted).unwrap();
    let mut bytes = vec![0; 3 * 65536];
    handle.store().read(&pins, layout.file(0).unwrap(), 7 * 65536, &mut bytes).unwrap();
    assert!(bytes == content.bytes[7 * 65536..10 * 65536]);
    assert_eq!(handle.store().table().present_count(), 3);
}

#[test]
fn the_whole_content_crosses_from_seed_to_leecher_and_on_to_a_third() {
    let content = Content::random("all.bin", 20_000_001, 262_144, None);
    let (seed, middle, last) = (Node::start(), Node::start(), Node::start());
    seed.seed(&content);
    let handle = middle.leech(&content, &seed);
    read(&handle, handle.store().layout().pieces()).unwrap();
    assert!(stored(&handle) == content.bytes);
    drop(seed);
    let onward = last.leech(&content, &middle);
    read(&onward, onward.store().layout().pieces()).unwrap();
    assert!(stored(&onward) == content.bytes);
    wait("the upload is counted", || handle.snapshot().unwrap().uploaded_bytes >= content.bytes.len() as u64);
}

#[test]
fn a_second_life_needs_no_peer_and_keeps_the_port() {
    let content = Content::random("again.bin", 500_000, 32768, None);
    let (seed, leech) = (Node::start(), Node::start());
    seed.seed(&content);
    let handle = leech.leech(&content, &seed);
    read(&handle, handle.store().layout().pieces()).unwrap();
    let port = leech.session.port();
    leech.session.shutdown();
    // The store, and with it the slot, belongs to whoever holds a handle.
    drop((seed, handle));
    let config = |config: &mut btfs::net::SessionConfig| config.cache_dir = leech.directory.path().join("cache");
    let second = Node::start_with(config);
    let handle = second.session.add(content.to_add()).unwrap();
    read(&handle, handle.store().layout().pieces()).unwrap();
    assert!(stored(&handle) == content.bytes);
    assert_eq!(second.session.port(), port);
}

#[test]
fn an_abandoned_read_is_not_answered_and_a_stopped_one_fails() {
    let content = Content::random("nobody.bin", 100_000, 32768, None);
    let node = Node::start();
    let handle = node.session.add(content.to_add()).unwrap();
    let pieces = handle.store().layout().pieces();
    let (sender, outcomes) = std::sync::mpsc::channel();
    let answer = |name: &'static str| {
        let sender = sender.clone();
        Box::new(move |outcome| sender.send((name, outcome)).unwrap())
    };
    let abandoned = handle.read(pieces, answer("abandoned"));
    handle.read(pieces, answer("stopped"));
    handle.read(PieceRange::default(), answer("empty"));
    assert_eq!(outcomes.recv_timeout(Duration::from_secs(30)).unwrap(), ("empty", Ok(())));
    handle.abandon(abandoned);
    node.session.shutdown();
    assert_eq!(outcomes.recv_timeout(Duration::from_secs(30)).unwrap(), ("stopped", Err(ReadError::Stopped)));
    handle.read(pieces, answer("late"));
    assert_eq!(outcomes.recv_timeout(Duration::from_secs(30)).unwrap(), ("late", Err(ReadError::Stopped)));
    assert!(outcomes.recv_timeout(Duration::from_millis(100)).is_err());
    assert!(handle.snapshot().is_none());
}

#[test]
fn a_torrent_is_added_once() {
    let content = Content::random("once.bin", 100_000, 32768, None);
    let node = Node::start();
    node.session.add(content.to_add()).unwrap();
    assert!(matches!(node.session.add(content.to_add()), Err(btfs::net::SessionError::Twice)));
    assert_eq!(node.session.torrents().len(), 1);
}

#[test]
fn an_asked_port_that_is_taken_is_an_error() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let node = Node::start();
    let config = btfs::net::SessionConfig {
        cache_dir: directory.path().join("cache"),
        port: Some(port),
        bind: Some([127, 0, 0, 1].into()),
        upload: true,
        max_peers: 10,
        read_timeout: None,
        fill: btfs::engine::Fill::None,
        use_trackers: false,
        max_per_address: 3,
        recheck: false,
        limits: Default::default(),
        bounds: Default::default(),
    };
    let refused = btfs::net::Session::start(config, runtime.handle().clone());
    assert!(matches!(refused, Err(btfs::net::SessionError::Listen { addr, .. }) if addr.port() == port));
    drop(node);
}

#[test]
fn a_port_is_free_as_soon_as_its_session_is_over() {
    // Where nobody else gets a port that has just become free.
    let ip = own_ip();
    for _ in 0..50 {
        let node = Node::start_with(|config| (config.port, config.bind) = (Some(0), Some(ip)));
        let port = node.session.port();
        // The runtime has something to do, and is not there at once.
        let busy: Vec<_> = (0..64).map(|_| std::net::TcpStream::connect((ip, port)).unwrap()).collect();
        node.session.shutdown();
        std::net::TcpListener::bind((ip, port)).unwrap();
        drop(busy);
    }
}

#[test]
fn peers_meet_through_a_tracker_and_say_goodbye() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let sockets = Sockets::open(&["127.0.0.1:0".parse().unwrap()], 1).unwrap();
    let url = format!("http://{}/announce", sockets.addrs()[0]);
    let tracker = Arc::new(Tracker::new(StoreConfig::default(), Instant::now(), sockets.udp_workers()));
    let (_stop, stopped) = tokio::sync::watch::channel(false);
    runtime.spawn(btfs::tracker::serve(sockets, tracker.clone(), ServeConfig::default(), stopped));
    let content = Content::random("met.bin", 400_000, 32768, Some(url));
    let (seed, leech) = (Node::start(), Node::start());
    let seeding = seed.seed(&content);
    wait("the seed has announced", || seeding.snapshot().unwrap().trackers.iter().any(|tracker| tracker.working));
    let handle = leech.session.add(content.to_add()).unwrap();
    read(&handle, handle.store().layout().pieces()).unwrap();
    assert!(stored(&handle) == content.bytes);
    let counts = || tracker.store.scrape(&content.metainfo.info_hash.unwrap());
    assert_eq!(counts().seeds + counts().leechers, 2);
    leech.session.shutdown();
    seed.session.shutdown();
    assert_eq!(counts().seeds + counts().leechers, 0, "both said `stopped`");
}

#[test]
fn a_tracker_that_does_not_answer_is_told_that_we_leave_and_holds_nobody_up() {
    const LAST: u8 = 99;
    let events = |told: &Mutex<Vec<Told>>| told.lock().unwrap().iter().map(|told| told.event).collect::<Vec<_>>();
    // One that answers `started` is told of the completion, in vain, and of the end.
    let (url, told) = half_deaf_tracker(&[STARTED, STOPPED]);
    let content = Content::random("told.bin", 100_000, 32768, Some(url));
    let (seed, leech) = (Node::start_with(|config| config.use_trackers = false), Node::start());
    seed.seed(&content);
    let handle = leech.leech(&content, &seed);
    wait("it has announced", || handle.snapshot().unwrap().trackers[0].working);
    read(&handle, handle.store().layout().pieces()).unwrap();
    wait("it has told of its completion", || events(&told).last() == Some(&COMPLETED));
    leech.session.shutdown();
    wait("it has heard all", || events(&told).len() >= 3);
    assert_eq!(events(&told), [STARTED, COMPLETED, STOPPED]);

    // One that has never answered knows nothing of us.
    let (url, told) = half_deaf_tracker(&[]);
    let content = Content::random("silent.bin", 100_000, 32768, Some(url.clone()));
    let node = Node::start();
    node.session.add(content.to_add()).unwrap();
    wait("it asks", || !events(&told).is_empty());
    node.session.shutdown();
    // Whatever was sent to it before this is heard before it.
    let last = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = url.trim_start_matches("udp://").trim_end_matches("/announce");
    last.send_to(&[&[0; 11][..], &[1], &[LAST; 80]].concat(), addr).unwrap();
    wait("it has heard all", || events(&told).last() == Some(&LAST));
    assert_eq!(events(&told), [STARTED, LAST]);
}

#[test]
fn pieces_that_are_not_the_torrents_are_not_fetched() {
    let larger = Content::random("large", 900_000, 1024, None);
    let node = Node::start_with(|config| config.read_timeout = Some(Duration::from_millis(300)));
    let handle = node.session.add(Content::random("small.bin", 300_000, 32768, None).to_add()).unwrap();
    let stranger = larger.metainfo.layout.piece(800).unwrap();
    assert!(read(&handle, PieceRange::one(stranger)).is_err());
    assert!(handle.snapshot().is_some());
}

#[test]
fn sessions_meet_over_ipv6() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        eprintln!("no IPv6 here");
        return;
    }
    let content = Content::random("six.bin", 300_000, 32768, None);
    let on_six = |config: &mut btfs::net::SessionConfig| config.bind = Some(std::net::Ipv6Addr::LOCALHOST.into());
    let (seed, leech) = (Node::start_with(on_six), Node::start_with(on_six));
    seed.seed(&content);
    let peers = vec![(std::net::Ipv6Addr::LOCALHOST, seed.session.port()).into()];
    let handle = leech.session.add(AddTorrent { peers, ..content.to_add() }).unwrap();
    read(&handle, handle.store().layout().pieces()).unwrap();
    assert!(stored(&handle) == content.bytes);
}

#[test]
fn blocks_that_left_the_page_cache_are_uploaded_too() {
    let content = Content::random("cold.bin", 4_000_000, 65536, None);
    let (seed, leech) = (Node::start(), Node::start());
    seed.seed(&content);
    // Where the file system keeps the pages all the same, this is one more warm upload.
    let file = format!("if={}", seed.directory.path().join("content").display());
    std::fs::File::open(seed.directory.path().join("content")).unwrap().sync_all().unwrap();
    std::process::Command::new("dd").args([&file, "iflag=nocache", "count=0", "status=none"]).status().unwrap();
    let handle = leech.leech(&content, &seed);
    read(&handle, handle.store().layout().pieces()).unwrap();
    assert!(stored(&handle) == content.bytes);
}

#[test]
fn a_seed_of_wrong_files_serves_nothing() {
    let content = Content::random("wrong.bin", 300_000, 32768, None);
    let (seed, leech) = (Node::start(), Node::start_with(|config| config.read_timeout = Some(Duration::from_secs(2))));
    let path = seed.directory.path().join("content");
    std::fs::write(&path, vec![7; 300_000]).unwrap();
    let seeding = seed.session.add(AddTorrent { data: Some(path), ..content.to_add() }).unwrap();
    assert!(read(&seeding, seeding.store().layout().pieces()).is_err());
    let handle = leech.leech(&content, &seed);
    assert!(read(&handle, handle.store().layout().pieces()).is_err());
    assert_eq!(handle.store().table().present_count(), 0);
    handle.command(Command::Stop);
}
