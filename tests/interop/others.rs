//! The other programs among themselves: when these fail, the surroundings are at fault and not our program.

use std::time::{Duration, Instant};

use crate::harness::World;
use crate::harness::payload::{Torrent, assert_same, torrent, write_file};
use crate::harness::wait_until;

const BOUND: Duration = Duration::from_secs(60);

fn original(world: &World, trackers: &[String]) -> Torrent {
    let data = world.path("original/file.bin");
    write_file(&data, 9, 2_000_003);
    torrent(&data, 64 << 10, trackers)
}

#[test]
fn libtorrent_leeches_from_transmission_and_from_aria2() {
    let world = World::new();
    let torrent = original(&world, &[]);
    let mut transmission = world.transmission(&torrent, torrent.parent());
    transmission.wait_complete(BOUND);
    let aria2 = world.aria2(&torrent, torrent.parent(), true);
    for (name, addr) in [("transmission", transmission.addr), ("aria2", aria2.addr)] {
        let into = world.directory(name);
        world.libtorrent_leech(&torrent, &into).connect(addr).start().wait_complete(BOUND);
        assert_same(&into.join(&torrent.name), &torrent.data);
    }
}

#[test]
fn transmission_and_aria2_leech_from_a_libtorrent_that_dials_them() {
    let world = World::new();
    let torrent = original(&world, &[]);
    let (one, two) = (world.directory("transmission"), world.directory("aria2"));
    let mut transmission = world.transmission(&torrent, &one);
    let mut aria2 = world.aria2(&torrent, &two, false);
    let mut seed = world.libtorrent_seed(&torrent).start();
    seed.connect(transmission.addr);
    seed.connect(aria2.addr);
    assert_eq!(aria2.process.wait(BOUND), Some(0), "{}", aria2.process.log());
    transmission.wait_complete(BOUND);
    assert_same(&one.join(&torrent.name), &torrent.data);
    assert_same(&two.join(&torrent.name), &torrent.data);
}

#[test]
fn both_trackers_bring_libtorrent_peers_together() {
    let world = World::new();
    let mut npm = world.npm_tracker();
    let by_npm = original(&world, std::slice::from_ref(&npm.url));
    let opentracker = world.opentracker(&by_npm.info_hash);
    let seed = world.libtorrent_seed(&by_npm).trackers().start();
    npm.wait_event("start", seed.addr, BOUND);
    world.libtorrent_leech(&by_npm, &world.directory("one")).trackers().start().wait_complete(BOUND);
    drop(seed);

    let by_opentracker = original(&world, std::slice::from_ref(&opentracker.url));
    let _seed = world.libtorrent_seed(&by_opentracker).trackers().start();
    wait_until("opentracker knows the seed", BOUND, || opentracker.scrape() == Some((1, 0, 0)));
    world.libtorrent_leech(&by_opentracker, &world.directory("two")).trackers().start().wait_complete(BOUND);
}

#[test]
fn a_limited_seed_is_slow() {
    let world = World::new();
    let torrent = original(&world, &[]);
    let start = Instant::now();
    let seed = world.libtorrent_seed(&torrent).upload_limit(500_000).start();
    world.libtorrent_leech(&torrent, &world.directory("got")).connect(seed.addr).start().wait_complete(BOUND);
    assert!(start.elapsed() > Duration::from_secs(2), "{:?}", start.elapsed());
}
