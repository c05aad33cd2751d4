//! Torrents that come into a running mount and go, with libtorrent at the other end.

use std::fs;
use std::time::Duration;

use serde_json::json;

use crate::harness::mount::torrents;
use crate::harness::payload::{assert_same, torrent, write_file};
use crate::harness::{World, can_mount, own_addr, texts, wait_until};

const BOUND: Duration = Duration::from_secs(60);

#[test]
fn a_torrent_that_is_added_is_fetched_and_shared_until_it_is_removed() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let make = |name: &str, length| {
        let path = world.path("original").join(name);
        write_file(&path, length, length);
        torrent(&path, 64 << 10, &[])
    };
    let (first, second) = (make("first.bin", 100_001), make("second.bin", 3_000_001));
    let mut seed = world.libtorrent_seed(&second).start();
    let addr = own_addr();
    let (ip, port) = (addr.ip().to_string(), addr.port().to_string());
    let mount = world.mount(&first).args(&["--bind", &ip, "--port", &port]).start();
    let output = mount.tell("add", [second.file.to_str().unwrap(), "--peer", &seed.addr.to_string()]);
    assert!(output.status.success(), "{}", texts(&output));
    assert_same(&mount.path("second.bin"), &second.data);

    let directory = world.directory("leech");
    let mut leech = world.libtorrent_leech(&second, &directory).connect(addr).start();
    leech.wait_complete(BOUND);
    assert_same(&directory.join("second.bin"), &second.data);
    wait_until("the upload is counted", BOUND, || {
        torrents(&mount.status())[1]["uploaded_bytes"].as_u64() >= Some(second.length)
    });

    let output = mount.tell("remove", ["second.bin"]);
    assert!(output.status.success(), "{}", texts(&output));
    for peer in [&mut seed, &mut leech] {
        wait_until("we are gone", BOUND, || peer.state()["peers"] == json!([]));
    }
    assert_eq!(fs::read_dir(&mount.point).unwrap().count(), 1);
    mount.umount();
}
