//! Signals to the background process.

use std::time::Duration;

use super::{BOUND, ENDS, deaf_tracker, one_file, reader, wait_announced, wait_ending};
use crate::harness::mount::is_mounted;
use crate::harness::payload::assert_same;
use crate::harness::{World, can_mount, is_long, wait_until};

#[test]
fn sigterm_and_sigint_fail_blocked_readers_at_once_and_end_well() {
    if !can_mount() {
        return;
    }
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let world = World::new();
        let torrent = one_file(&world, "file.bin", 4 << 20);
        let mut mount = world.mount(&torrent).start(); // nobody has it
        let path = mount.path(&torrent.name);
        let mut readers: Vec<_> =
            (0..8u64).map(|n| reader(&world, &path, n * 512 * 1024, 4096, &format!("reader-{n}"))).collect();
        mount.wait_blocked(8);
        mount.signal(signal);
        for reader in &mut readers {
            assert_eq!(reader.wait(ENDS), Some(1), "dd reports the error: {}", reader.log());
        }
        assert_eq!(mount.wait_end(ENDS), Some(0));
        assert!(!is_mounted(&mount.point));
    }
}

#[test]
fn sigterm_with_an_open_file_detaches_and_ends() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let torrent = one_file(&world, "file.bin", 1 << 20);
    let mut mount = world.mount(&torrent).start();
    let open = std::fs::File::open(mount.path(&torrent.name)).unwrap();
    mount.signal(libc::SIGTERM);
    assert_eq!(mount.wait_end(ENDS), Some(0));
    assert!(!is_mounted(&mount.point));
    assert!(super::read_errno(&open, 0, 4096).is_some(), "an error, not a hang");
}

#[test]
fn a_limit_of_file_sizes_ends_neither_the_process_nor_a_read() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let torrent = one_file(&world, "file.bin", 4 << 20);
    let seed = world.libtorrent_seed(&torrent).start();
    let limited = ["sh", "-c", "ulimit -f 2000 && exec \"$@\"", "sh"];
    let mount = world.mount(&torrent).peer(seed.addr).args(&["--read-timeout", "20s"]).wrapped(&limited).start();
    let file = std::fs::File::open(mount.path(&torrent.name)).unwrap();
    assert_eq!(super::read_errno(&file, 3 << 20, 4096), None, "from memory");
    drop(file);
    mount.umount();
}

#[test]
fn a_second_signal_ends_at_once() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let torrent = one_file(&world, "file.bin", 1 << 20);
    let mut mount = world.mount(&torrent).args(&["--tracker", &deaf_tracker()]).start();
    wait_announced(&mount);
    let _open = std::fs::File::open(mount.path(&torrent.name)).unwrap();
    mount.signal(libc::SIGTERM);
    wait_ending(&world);
    mount.signal(libc::SIGTERM);
    assert_eq!(mount.wait_end(ENDS), Some(1), "not by the ordinary end, which waits for the tracker");
    let gone = || !is_mounted(&mount.point) || std::fs::metadata(&mount.point).is_err();
    wait_until("the mount is gone or dead", BOUND, gone);
}

#[test]
fn a_suspended_process_goes_on_where_it_was() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let torrent = one_file(&world, "file.bin", 24 << 20);
    let seed = world.libtorrent_seed(&torrent).upload_limit(6_000_000).start();
    let mount = world.mount(&torrent).peer(seed.addr).start();
    let path = mount.path(&torrent.name);
    let (tell, hear) = std::sync::mpsc::channel();
    let (copy, original) = (path.clone(), torrent.data.clone());
    std::thread::spawn(move || tell.send(crate::harness::payload::compare(&copy, &original)));
    mount.wait_status("half a second's worth", BOUND, |status| {
        crate::harness::mount::sum(status, "downloaded_bytes") > 2_000_000
    });
    mount.signal(libc::SIGSTOP);
    // The time that it is away; after a minute peers and timers have given it up.
    std::thread::sleep(Duration::from_secs(if is_long() { 60 } else { 3 }));
    mount.signal(libc::SIGCONT);
    let result = hear.recv_timeout(BOUND).expect("the reader goes on");
    assert_eq!(result, Ok(()));
    assert_same(&path, &torrent.data);
    mount.umount();
}
