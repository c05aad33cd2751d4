//! rqbit as a seed for our mount and as a leecher from it and from `btfs seed`; in the long run, where it is installed.

use std::time::Duration;

use crate::clients::{assert_downloaded, assert_whole, complete_mount, several_files};
use crate::harness::rqbit::has_rqbit;
use crate::harness::{World, can_mount};

const BOUND: Duration = Duration::from_secs(90);

#[test]
fn a_mount_reads_from_rqbit() {
    if !can_mount() || !has_rqbit() {
        return;
    }
    let world = World::new();
    let torrent = several_files(&world);
    let mut seed = world.rqbit(&torrent, torrent.parent(), &[]);
    seed.wait_complete(BOUND);
    let mount = world.mount(&torrent).peer(seed.addr).start();
    assert_whole(&mount.path(&torrent.name), &torrent.data);
    mount.umount();
}

#[test]
fn rqbit_leeches_from_a_mount() {
    if !can_mount() || !has_rqbit() {
        return;
    }
    let world = World::new();
    let torrent = several_files(&world);
    let (mount, addr) = complete_mount(&world, &torrent, &[]);
    let into = world.directory("got");
    world.rqbit(&torrent, &into, &[addr]).wait_complete(BOUND);
    assert_downloaded(&into.join(&torrent.name), &torrent.data);
    mount.umount();
}

#[test]
fn rqbit_leeches_what_btfs_seed_shares() {
    if !has_rqbit() {
        return;
    }
    let world = World::new();
    let torrent = several_files(&world);
    let seed = world.seed(&torrent);
    let into = world.directory("got");
    world.rqbit(&torrent, &into, &[seed.addr]).wait_complete(BOUND);
    assert_downloaded(&into.join(&torrent.name), &torrent.data);
}
