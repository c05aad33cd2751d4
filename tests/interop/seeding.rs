//! Sharing that outlives the mount, with libtorrent at the other end.

use std::time::Duration;

use crate::harness::payload::{assert_same, torrent, write_file};
use crate::harness::{World, can_mount, own_addr, texts};

const BOUND: Duration = Duration::from_secs(60);

#[test]
fn libtorrent_gets_all_of_it_after_the_mount_and_the_process_ends_when_it_has() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let path = world.path("original/film.bin");
    write_file(&path, 9, 3_000_001);
    let film = torrent(&path, 64 << 10, &[]);
    let seed = world.libtorrent_seed(&film).start();
    let addr = own_addr();
    let (ip, port) = (addr.ip().to_string(), addr.port().to_string());
    let mount = world.mount(&film).peer(seed.addr).args(&["--bind", &ip, "--port", &port]);
    let mut mount = mount.args(&["--seed-after-unmount", "--seed-ratio", "0.9"]).start();
    assert_same(&mount.path("film.bin"), &film.data);
    drop(seed);
    let output = mount.tell("umount", [""; 0]);
    assert!(output.status.success(), "{}", texts(&output));

    let directory = world.directory("leech");
    let mut leech = world.libtorrent_leech(&film, &directory).connect(addr).start();
    leech.wait_complete(BOUND);
    assert_same(&directory.join("film.bin"), &film.data);
    assert_eq!(mount.wait_end(BOUND), Some(0), "the ratio is reached, and somebody else has it all");
}
