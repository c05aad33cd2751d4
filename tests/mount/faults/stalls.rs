//! Seeds come and go.

use std::fs::File;
use std::time::{Duration, Instant};

use super::{BOUND, PIECE, one_file, read_errno, reader};
use crate::harness::mount::sum;
use crate::harness::payload::{assert_range, assert_same, compare};
use crate::harness::{World, can_mount};

#[test]
fn a_read_without_progress_fails_after_the_read_timeout_and_works_when_a_seed_returns() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let torrent = one_file(&world, "file.bin", 8 << 20);
    let seed = world.libtorrent_seed(&torrent).start();
    let addr = seed.addr;
    let mount = world.mount(&torrent).peer(addr).args(&["--read-timeout", "8s"]).start();
    let file = File::open(mount.path(&torrent.name)).unwrap();
    let original = File::open(&torrent.data).unwrap();
    assert_range(&file, &original, 0, 4096);
    drop(seed);

    // Far from what was read, so that no read-ahead has fetched it.
    let far = 6 << 20;
    let start = Instant::now();
    assert_eq!(read_errno(&file, far, 4096), Some(libc::EIO));
    let took = start.elapsed();
    assert!((Duration::from_millis(7500)..Duration::from_secs(40)).contains(&took), "EIO after {took:?}");
    assert_range(&file, &original, 0, 4096); // what is there stays readable
    let start = Instant::now();
    assert_eq!(read_errno(&file, far, 4096), Some(libc::EIO));
    let again = start.elapsed();
    assert!(again < Duration::from_secs(6), "a stall just found is remembered: {again:?} after {took:?}");

    let _seed = world.libtorrent_seed(&torrent).ip(addr.ip()).port(addr.port()).start();
    crate::harness::wait_until("the piece can be read", BOUND, || read_errno(&file, far, 4096).is_none());
    assert_range(&file, &original, far, 65536);
    assert_same(&mount.path(&torrent.name), &torrent.data);
    mount.umount();
}

#[test]
fn a_reader_outlives_a_seed_that_vanishes_and_returns() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let torrent = one_file(&world, "file.bin", 24 << 20);
    let seed = world.libtorrent_seed(&torrent).upload_limit(6_000_000).start();
    let addr = seed.addr;
    let mount = world.mount(&torrent).peer(addr).start();
    let (path, original) = (mount.path(&torrent.name), torrent.data.clone());
    let (tell, hear) = std::sync::mpsc::channel();
    std::thread::spawn(move || tell.send(compare(&path, &original)));
    mount.wait_status("some megabytes", BOUND, |status| sum(status, "downloaded_bytes") > 4_000_000);
    drop(seed);
    mount.wait_status("nobody is left", BOUND, |status| {
        crate::harness::mount::torrents(status)[0]["peers"].as_array().is_some_and(Vec::is_empty)
    });
    let _seed = world.libtorrent_seed(&torrent).ip(addr.ip()).port(addr.port()).start();
    assert_eq!(hear.recv_timeout(BOUND).expect("the reader goes on"), Ok(()));
    mount.umount();
}

#[test]
fn metadata_and_cached_bytes_never_wait_for_the_network() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let torrent = one_file(&world, "file.bin", 8 << 20);
    let seed = world.libtorrent_seed(&torrent).start();
    let mount = world.mount(&torrent).peer(seed.addr).start();
    let path = mount.path(&torrent.name);
    let file = File::open(&path).unwrap();
    let original = File::open(&torrent.data).unwrap();
    assert_range(&file, &original, 0, PIECE as usize);
    drop(seed);
    let _blocked: Vec<_> =
        (0..16u64).map(|n| reader(&world, &path, (4 << 20) + n * 200_000, 4096, &format!("reader-{n}"))).collect();
    mount.wait_blocked(8);
    let start = Instant::now();
    for _ in 0..20 {
        assert_eq!(std::fs::metadata(&path).unwrap().len(), torrent.length);
        assert_eq!(std::fs::read_dir(&mount.point).unwrap().count(), 1);
        let again = File::open(&path).unwrap();
        assert_range(&again, &original, 4096, 8192);
    }
    assert!(start.elapsed() < Duration::from_secs(20), "60 cheap operations took {:?}", start.elapsed());
}

#[test]
fn a_poisoner_among_good_seeds_changes_nothing_that_is_read() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let torrent = one_file(&world, "file.bin", 12 << 20);
    // The same length and name, other bytes, and a seed that believes them to be right.
    let lie = world.path("lies/file.bin");
    std::fs::create_dir_all(lie.parent().unwrap()).unwrap();
    let mut bytes = std::fs::read(&torrent.data).unwrap();
    for at in (0..bytes.len()).step_by(50_000) {
        bytes[at] ^= 0x55;
    }
    std::fs::write(&lie, bytes).unwrap();
    let poisoned = crate::harness::payload::Torrent { data: lie, ..torrent.clone() };
    let liar = world.libtorrent_seed(&poisoned).setting("disable_hash_checks", true).start();
    let good = [world.libtorrent_seed(&torrent).start(), world.libtorrent_seed(&torrent).start()];
    let mut builder = world.mount(&torrent).peer(liar.addr);
    for seed in &good {
        builder = builder.peer(seed.addr);
    }
    let mount = builder.start();
    assert_same(&mount.path(&torrent.name), &torrent.data);
    let status = mount.status();
    assert!(sum(&status, "corrupt_pieces") > 0, "the liar was asked: {status}");
    assert_eq!(sum(&status, "banned"), 1, "the liar and nobody else: {status}");
    assert!(sum(&status, "downloaded_bytes") < torrent.length * 13 / 10, "liars cost little: {status}");
    mount.umount();
}
