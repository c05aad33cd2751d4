//! `btfs tracker` brings others together: libtorrent, Transmission, aria2, rqbit and our own programs, over HTTP and UDP,
//! IPv4 and IPv6. Nobody names a peer; what each cannot do, and why, stands in [`Program::cannot`].

use std::any::Any;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::harness::mount::torrents;
use crate::harness::payload::{Torrent, assert_same, compare, torrent, write_file};
use crate::harness::rqbit::has_rqbit;
use crate::harness::trackers::OwnTracker;
use crate::harness::{World, as_root, can_mount, free_addr, in_own_network, own_ip, wait_until};

const BOUND: Duration = Duration::from_secs(60);
const PIECE: u64 = 64 << 10;

/// How a tracker is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Http,
    Udp,
    HttpOverV6,
    UdpOverV6,
}

impl Way {
    const ALL: [Self; 4] = [Self::Http, Self::Udp, Self::HttpOverV6, Self::UdpOverV6];

    fn is_udp(self) -> bool {
        matches!(self, Self::Udp | Self::UdpOverV6)
    }

    fn is_v6(self) -> bool {
        matches!(self, Self::HttpOverV6 | Self::UdpOverV6)
    }

    /// For another program or tracker; over IPv6 they differ in their ports alone.
    fn ip(self) -> IpAddr {
        if self.is_v6() { "::1".parse().unwrap() } else { own_ip() }
    }

    fn url(self, tracker: &OwnTracker) -> String {
        if self.is_udp() { tracker.udp.clone() } else { tracker.url.clone() }
    }
}

/// Who announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Program {
    Libtorrent,
    Transmission,
    Aria2,
    Rqbit,
    /// `btfs seed`.
    Seed,
    /// `btfs mount`.
    Mount,
}

impl Program {
    /// Why it cannot ask a tracker in this way. All of it was seen, and is of the program, not of the tracker.
    fn cannot(self, way: Way) -> Option<&'static str> {
        match (self, way) {
            // To ask over IPv6 it must listen at every address of IPv4: shown in a network of its own, below.
            (Self::Transmission, Way::HttpOverV6) => {
                Some("bound to an IPv4 address it asks HTTP trackers from there alone")
            }
            (Self::Transmission, Way::UdpOverV6) => Some("Transmission 3 cannot read an IPv6 address in a udp: URL"),
            (Self::Aria2, Way::UdpOverV6) => Some("aria2 asks UDP trackers from its IPv4 socket alone"),
            _ => None,
        }
    }

    /// Whether it can be had here at all; says so when it cannot.
    fn is_here(self) -> bool {
        match self {
            Self::Rqbit => has_rqbit(),
            Self::Mount => can_mount(),
            _ => true,
        }
    }

    /// Whether it tells the tracker when it has everything.
    fn says_completed(self) -> bool {
        // rqbit comes again when its interval has passed, whatever happens.
        self != Self::Rqbit
    }

    /// Starts one that has the torrent.
    fn seed(self, world: &World, torrent: &Torrent, way: Way) -> Box<dyn Any> {
        let ip = way.ip();
        match self {
            Self::Libtorrent => Box::new(world.libtorrent_seed(torrent).ip(ip).trackers().start()),
            Self::Transmission => Box::new(world.transmission(torrent, torrent.parent())),
            Self::Aria2 => Box::new(aria2(world, torrent, torrent.parent().into(), true, way)),
            Self::Rqbit => Box::new(world.rqbit_at(free_addr(rqbits_ip(way)), torrent, torrent.parent(), &[])),
            Self::Seed => Box::new(world.seed_at(free_addr(ip), torrent, &[])),
            Self::Mount => unreachable!("a mount has nothing that it did not fetch"),
        }
    }

    /// Starts one that lacks the torrent; what is returned waits for its download, compares it, and lets it go on.
    fn leech<'w>(self, world: &'w World, torrent: &'w Torrent, way: Way) -> Box<dyn FnOnce() -> Box<dyn Any> + 'w> {
        let into = world.directory("got");
        let got = into.join(&torrent.name);
        match self {
            Self::Libtorrent => {
                let mut leech = world.libtorrent_leech(torrent, &into).ip(way.ip()).trackers().start();
                Box::new(move || {
                    leech.wait_complete(BOUND);
                    assert_same(&got, &torrent.data);
                    Box::new(leech)
                })
            }
            Self::Transmission => {
                let mut leech = world.transmission(torrent, &into);
                Box::new(move || {
                    leech.wait_complete(BOUND);
                    assert_same(&got, &torrent.data);
                    Box::new(leech)
                })
            }
            Self::Aria2 => {
                let mut leech = aria2(world, torrent, into, false, way);
                Box::new(move || {
                    // It says so in no log before it ends.
                    wait_until("aria2 has it all", BOUND, || {
                        leech.process.assert_alive();
                        compare(&got, &torrent.data).is_ok()
                    });
                    Box::new(leech)
                })
            }
            Self::Rqbit => {
                let mut leech = world.rqbit_at(free_addr(rqbits_ip(way)), torrent, &into, &[]);
                Box::new(move || {
                    leech.wait_complete(BOUND);
                    assert_same(&got, &torrent.data);
                    Box::new(leech)
                })
            }
            Self::Mount => {
                let mount = world.mount(torrent).args(&["--bind", &way.ip().to_string()]).start();
                Box::new(move || {
                    assert_same(&mount.path(&torrent.name), &torrent.data);
                    assert_eq!(mount.downloaded(), torrent.length);
                    let status = mount.wait_status("the tracker's figures", BOUND, |status| {
                        let seen = &torrents(status)[0]["trackers"][0];
                        seen["working"] == true && seen["seeds"] == 2 && seen["completed"].is_u64()
                    });
                    let scheme = if way.is_udp() { "udp:" } else { "http:" };
                    assert!(
                        torrents(&status)[0]["trackers"][0]["url"].as_str().unwrap().starts_with(scheme),
                        "{status}"
                    );
                    Box::new(mount)
                })
            }
            Self::Seed => unreachable!("btfs seed fetches nothing"),
        }
    }
}

/// One that stays when it has everything: else it leaves with `stopped`, and never says `completed`.
fn aria2(world: &World, torrent: &Torrent, directory: PathBuf, seeds: bool, way: Way) -> crate::harness::peers::Aria2 {
    let addr = free_addr(way.ip());
    // It speaks UDP with trackers where it speaks UDP at all; its DHT knows nobody to begin with.
    let (port, routes) = (free_addr(addr.ip()).port(), world.path("aria2-dht.dat"));
    let dht = [
        "--seed-time=600",
        "--enable-dht=true",
        &format!("--dht-listen-port={port}"),
        &format!("--dht-file-path={}", routes.display()),
    ];
    world.aria2_at(addr, torrent, &directory, seeds, if way.is_udp() { &dht } else { &dht[..1] })
}

/// Whatever it listens at, it asks trackers from here, and they tell others where it asked from.
fn rqbits_ip(way: Way) -> IpAddr {
    if way.is_v6() { way.ip() } else { "127.0.0.1".parse().unwrap() }
}

/// One has a torrent, the other lacks it; the tracker is all they have in common. It has to count them rightly.
fn meet(seed: Program, leech: Program) {
    if !seed.is_here() || !leech.is_here() {
        return;
    }
    for way in Way::ALL {
        if let Some(reason) = seed.cannot(way).or_else(|| leech.cannot(way)) {
            eprintln!("{seed:?} and {leech:?}, {way:?}: left out, {reason}");
            continue;
        }
        if std::net::UdpSocket::bind((way.ip(), 0)).is_err() {
            eprintln!("SKIPPED: {way:?}, there is no IPv6");
            continue;
        }
        eprintln!("{seed:?} and {leech:?}, {way:?}");
        meet_over(seed, leech, way);
    }
}

fn meet_over(seed: Program, leech: Program, way: Way) {
    let world = World::new();
    let mut tracker = world.own_tracker(way.ip());
    let data = world.path("original/file.bin");
    write_file(&data, 21, 2_000_001);
    let torrent = torrent(&data, PIECE, &[way.url(&tracker)]);
    // Transmission takes no loopback address of a tracker: who has something for it comes later, learns of it, and dials.
    let (seeding, leeching);
    if leech == Program::Transmission {
        leeching = leech.leech(&world, &torrent, way);
        tracker.wait_peers(0, 1, BOUND);
        seeding = seed.seed(&world, &torrent, way);
    } else {
        seeding = seed.seed(&world, &torrent, way);
        tracker.wait_known(1, BOUND);
        leeching = leech.leech(&world, &torrent, way);
    }
    let done = leeching();
    // `btfs seed` has announced while it looked at its file, and is taken for a leecher until it comes again.
    let complete = u64::from(leech.says_completed());
    // Over UDP rqbit says `completed` whenever it has everything, so also when it has fetched nothing.
    let completed = complete + u64::from(seed == Program::Rqbit && way.is_udp());
    let seeds = u64::from(seed != Program::Seed) + complete..=1 + complete;
    wait_until("the tracker counts them rightly", BOUND, || {
        let stats = tracker.stats();
        stats["peers"] == 2 && stats["completed"] == completed && seeds.contains(&stats["seeds"].as_u64().unwrap())
    });
    let stats = tracker.stats();
    assert_eq!(stats["peers_ipv6"], if way.is_v6() { 2 } else { 0 }, "{stats}");
    let (asked, other) = if way.is_udp() { ("udp", "http") } else { ("http", "udp") };
    assert!(stats[asked]["announces"].as_u64() >= Some(2 + complete), "{stats}");
    for nothing in [&stats[other]["announces"], &stats[asked]["refused"], &stats[asked]["malformed"]] {
        assert_eq!(*nothing, 0, "{stats}");
    }
    drop((done, seeding));
}

#[test]
fn libtorrent_and_a_mount_meet() {
    meet(Program::Libtorrent, Program::Mount);
}

#[test]
fn btfs_seed_and_libtorrent_meet() {
    meet(Program::Seed, Program::Libtorrent);
}

#[test]
fn transmission_and_a_mount_meet() {
    meet(Program::Transmission, Program::Mount);
}

#[test]
fn transmission_and_libtorrent_meet() {
    meet(Program::Transmission, Program::Libtorrent);
}

#[test]
fn btfs_seed_and_transmission_meet() {
    meet(Program::Seed, Program::Transmission);
}

#[test]
fn aria2_and_a_mount_meet() {
    meet(Program::Aria2, Program::Mount);
}

#[test]
fn btfs_seed_and_aria2_meet() {
    meet(Program::Seed, Program::Aria2);
}

#[test]
fn libtorrent_and_aria2_meet() {
    meet(Program::Libtorrent, Program::Aria2);
}

#[test]
fn rqbit_and_a_mount_meet() {
    meet(Program::Rqbit, Program::Mount);
}

#[test]
fn libtorrent_and_rqbit_meet() {
    meet(Program::Libtorrent, Program::Rqbit);
}

#[test]
fn btfs_seed_and_rqbit_meet() {
    meet(Program::Seed, Program::Rqbit);
}

#[test]
fn a_mount_that_leaves_is_forgotten_and_what_it_has_done_is_not() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let mut tracker = world.own_tracker(own_ip());
    let data = world.path("original/file.bin");
    write_file(&data, 22, 3_000_001);
    let torrent = torrent(&data, PIECE, std::slice::from_ref(&tracker.udp));
    let _seed = world.libtorrent_seed(&torrent).trackers().start();
    tracker.wait_peers(1, 0, BOUND);
    let mount = world.mount(&torrent).start();
    assert_same(&mount.path(&torrent.name), &torrent.data);
    tracker.wait_peers(2, 0, BOUND);
    mount.umount();
    tracker.wait_peers(1, 0, Duration::from_secs(10));
    let stats = tracker.stats();
    assert_eq!((&stats["completed"], &stats["announced_downloaded_bytes"]), (&1.into(), &torrent.length.into()));
}

#[test]
fn aria2_that_leaves_at_once_has_not_said_completed() {
    let world = World::new();
    let mut tracker = world.own_tracker(own_ip());
    let data = world.path("original/file.bin");
    write_file(&data, 23, 1_000_001);
    let torrent = torrent(&data, PIECE, std::slice::from_ref(&tracker.url));
    let _seed = world.libtorrent_seed(&torrent).trackers().start();
    tracker.wait_peers(1, 0, BOUND);
    let into = world.directory("got");
    let mut aria2 = world.aria2(&torrent, &into, false);
    assert_eq!(aria2.process.wait(BOUND), Some(0), "{}", aria2.process.log());
    assert_same(&into.join(&torrent.name), &torrent.data);
    // It says `started` and `stopped`, so it is gone, has moved its bytes, and BEP 48 counts no completion.
    tracker.wait_peers(1, 0, BOUND);
    let stats = tracker.stats();
    assert_eq!((&stats["completed"], &stats["announced_downloaded_bytes"]), (&0.into(), &torrent.length.into()));
}

#[test]
fn transmission_dials_whom_the_tracker_names() {
    if !as_root("to have addresses that Transmission takes from a tracker") {
        return;
    }
    // One for the tracker, one for the seed, one for Transmission.
    let v4 = ["10.77.0.1/24", "10.77.0.2/24", "10.77.0.3/24"];
    let v6 = ["fd77::1/64", "fd77::2/64", "fd77::3/64"];
    in_own_network(&[v4, v6].concat(), move || {
        let ip = |address: &str| -> IpAddr { address.split('/').next().unwrap().parse().unwrap() };
        for (way, [of_tracker, of_seed, of_transmission]) in [(Way::Http, v4), (Way::Udp, v4), (Way::HttpOverV6, v6)] {
            eprintln!("{way:?}");
            let world = World::new();
            let mut tracker = world.own_tracker(ip(of_tracker));
            let data = world.path("original/file.bin");
            write_file(&data, 24, 2_000_001);
            let torrent = torrent(&data, PIECE, &[way.url(&tracker)]);
            // The seed was there first and is told of nobody: who comes second has to dial.
            let _seed = world.seed_at(free_addr(ip(of_seed)), &torrent, &[]);
            tracker.wait_known(1, BOUND);
            let (addr, into) = (free_addr(ip(of_transmission)), world.directory("got"));
            let own = addr.ip().to_string();
            let bound = if way.is_v6() { ("0.0.0.0", own.as_str()) } else { (own.as_str(), "::1") };
            let mut leech = world.transmission_bound(&torrent, &into, addr, bound.0, bound.1);
            leech.wait_complete(BOUND);
            assert_same(&into.join(&torrent.name), &torrent.data);
            wait_until("its completion is counted", BOUND, || tracker.stats()["completed"] == 1);
            assert_eq!(tracker.stats()["peers_ipv6"], if way.is_v6() { 2 } else { 0 });
        }
    });
}
