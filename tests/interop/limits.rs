//! Bounds on rates, with libtorrent at the other end. Times are looked at from below only.

use std::time::{Duration, Instant};

use crate::harness::payload::{assert_same, torrent, write_file};
use crate::harness::{World, can_mount, own_addr};

const BOUND: Duration = Duration::from_secs(60);

#[test]
fn both_directions_keep_to_their_bounds() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let path = world.path("original/film.bin");
    write_file(&path, 9, 4 << 20);
    let film = torrent(&path, 64 << 10, &[]);
    let seed = world.libtorrent_seed(&film).start();
    let addr = own_addr();
    let (ip, port) = (addr.ip().to_string(), addr.port().to_string());
    let mount = world.mount(&film).peer(seed.addr).args(&["--bind", &ip, "--port", &port]);
    let mount = mount.args(&["--max-download", "2M", "--torrent-max-upload", "2M"]).start();
    let begun = Instant::now();
    assert_same(&mount.path("film.bin"), &film.data);
    // 2 s, and a burst of a quarter less.
    assert!(begun.elapsed() >= Duration::from_millis(1500), "{:?}", begun.elapsed());

    let directory = world.directory("leech");
    let begun = Instant::now();
    let mut leech = world.libtorrent_leech(&film, &directory).connect(addr).start();
    leech.wait_complete(BOUND);
    assert!(begun.elapsed() >= Duration::from_millis(1500), "{:?}", begun.elapsed());
    assert_same(&directory.join("film.bin"), &film.data);
    mount.umount();
}
