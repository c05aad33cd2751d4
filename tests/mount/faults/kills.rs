//! The background process is killed the hard way, or has to end in the middle of things.

use std::time::{Duration, Instant};

use super::{BOUND, Dice, MARGIN, one_file, reader};
use crate::harness::mount::is_mounted;
use crate::harness::payload::{assert_same, compare};
use crate::harness::{World, as_root, can_mount, run, run_any, texts, times};

#[test]
fn kill_9_at_any_moment_costs_only_what_was_in_flight() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let mut dice = Dice::new();
    let torrent = one_file(&world, "file.bin", 48 << 20);
    // Limited, so that what lies in the sockets' buffers at the moment of the kill, and is lost there, stays small.
    let mut seed = world.libtorrent_seed(&torrent).upload_limit(60_000_000).start();
    let mut uploaded_before = 0;
    let mut worst = 0;
    for round in 0..times(50) {
        let cache = format!("cache/{round}");
        let mut mount = world.mount(&torrent).peer(seed.addr).cache(&cache).start();
        let path = mount.path(&torrent.name);
        let reading = reader(&world, &path, 0, torrent.length, "reader");
        let moment = Duration::from_millis(5 + dice.below(600));
        std::thread::sleep(moment); // the moment itself is what is tried, nothing is waited for
        mount.kill9();
        drop(reading);
        assert!(is_mounted(&mount.point), "the kernel keeps a dead mount");

        let start = Instant::now();
        let again = world.mount(&torrent).peer(seed.addr).cache(&cache).start();
        // Nothing is hashed for it, and nobody is waited for.
        assert!(start.elapsed() < Duration::from_secs(20), "round {round}: remounted in {:?}", start.elapsed());
        if let Err(difference) = compare(&path, &torrent.data) {
            panic!("round {round}, killed after {moment:?}: {difference}\n{}", world.logs());
        }
        let leftovers: Vec<_> = walk(&again.cache).into_iter().filter(|name| name.ends_with(".tmp")).collect();
        assert!(leftovers.is_empty(), "{leftovers:?}");
        again.umount();
        drop(mount);
        let uploaded = seed.state()["uploaded"].as_u64().unwrap();
        let twice = (uploaded - uploaded_before).saturating_sub(torrent.length);
        worst = worst.max(twice);
        assert!(twice <= IN_FLIGHT, "round {round}, killed after {moment:?}: {twice} bytes were fetched twice");
        uploaded_before = uploaded;
        std::fs::remove_dir_all(world.path(&cache)).unwrap();
    }
    eprintln!("fetched twice at most: {worst} bytes");
}

/// Blocks requested from one fast peer (500 at most: 8 MiB), and as much again that has arrived in those same pieces, none
/// of them complete.
const IN_FLIGHT: u64 = 16 << 20;

fn walk(directory: &std::path::Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        if entry.path().is_dir() {
            names.extend(walk(&entry.path()));
        } else {
            names.push(entry.path().display().to_string());
        }
    }
    names
}

#[test]
fn a_dead_mount_point_is_repaired_and_says_so() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let torrent = one_file(&world, "file.bin", 1 << 20);
    let seed = world.libtorrent_seed(&torrent).start();
    let mut mount = world.mount(&torrent).peer(seed.addr).start();
    assert_same(&mount.path(&torrent.name), &torrent.data);
    mount.kill9();
    // Attributes the kernel still knows by heart; an open asks.
    let error = std::fs::File::open(mount.path(&torrent.name)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOTCONN));
    let again = world.mount(&torrent).peer(seed.addr).start();
    assert_eq!(again.said.lines().filter(|line| line.contains("dead mount")).count(), 1, "{}", again.said);
    assert_same(&again.path(&torrent.name), &torrent.data);
    again.umount();
    assert!(!is_mounted(&mount.point), "nothing is left below");
}

#[test]
fn a_live_mount_point_is_never_touched() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let torrent = one_file(&world, "file.bin", 1 << 20);
    let other = one_file(&world, "other.bin", 1 << 20);
    let seed = world.libtorrent_seed(&torrent).start();
    let mount = world.mount(&torrent).peer(seed.addr).start();
    let refused = world.mount(&other).cache("other").attempt();
    assert_eq!(refused.status.code(), Some(1), "{}", texts(&refused));
    assert!(texts(&refused).contains(mount.point.to_str().unwrap()), "{}", texts(&refused));
    assert_same(&mount.path(&torrent.name), &torrent.data);
    mount.umount();
}

#[test]
fn somebody_elses_file_system_is_never_touched() {
    if !can_mount() || !as_root("to mount a tmpfs") {
        return;
    }
    let world = World::new();
    let torrent = one_file(&world, "file.bin", 1 << 20);
    let foreign = world.directory("foreign");
    run(std::process::Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&foreign));
    std::fs::write(foreign.join("precious"), "mine").unwrap();
    let refused = world.mount(&torrent).at("foreign").attempt();
    let kept = std::fs::read_to_string(foreign.join("precious"));
    crate::harness::mount::detach(&foreign);
    assert_eq!(kept.unwrap(), "mine");
    assert_eq!(refused.status.code(), Some(1), "{}", texts(&refused));
}

#[test]
fn a_busy_mount_keeps_the_manners_of_umount() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let torrent = one_file(&world, "file.bin", 4 << 20);
    let seed = world.libtorrent_seed(&torrent).start();
    for (program, plain, lazy) in [("umount", "--", "-l"), ("fusermount3", "-u", "-uz")] {
        let cache = format!("cache/{program}");
        let mut mount = world.mount(&torrent).peer(seed.addr).cache(&cache).start();
        let path = mount.path(&torrent.name);
        let open = std::fs::File::open(&path).unwrap();

        let busy = run_any(std::process::Command::new(program).arg(plain).arg(&mount.point));
        assert!(!busy.status.success() && texts(&busy).contains("busy"), "{}", texts(&busy));
        assert_same(&path, &torrent.data);

        run(std::process::Command::new(program).arg(lazy).arg(&mount.point));
        assert!(!is_mounted(&mount.point));
        let wanted = std::fs::File::open(&torrent.data).unwrap();
        crate::harness::payload::assert_range(&open, &wanted, 1 << 20, 1 << 20); // the open file lives on
        drop(open);
        assert_eq!(mount.wait_end(BOUND), Some(0), "the last close ends it");
    }
}

#[test]
fn an_idle_mount_ends_with_umount_and_with_fusermount() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let torrent = one_file(&world, "file.bin", 1 << 20);
    for (program, argument) in [("umount", "--"), ("fusermount3", "-u")] {
        let mut mount = world.mount(&torrent).start();
        assert_eq!(std::fs::metadata(mount.path(&torrent.name)).unwrap().len(), torrent.length);
        run(std::process::Command::new(program).arg(argument).arg(&mount.point));
        assert_eq!(mount.wait_end(BOUND), Some(0), "after {program}");
    }
}

#[test]
fn btfs_umount_fails_waiting_reads_and_is_done_in_five_seconds() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let torrent = one_file(&world, "file.bin", 4 << 20);
    let mount = world.mount(&torrent).start(); // nobody has it
    let mut readers: Vec<_> = (0..8u64)
        .map(|n| reader(&world, &mount.path(&torrent.name), n * 512 * 1024, 4096, &format!("reader-{n}")))
        .collect();
    mount.wait_blocked(8);
    let start = Instant::now();
    mount.umount();
    let took = start.elapsed();
    assert!(took < Duration::from_secs(5) + MARGIN, "{took:?}");
    for reader in &mut readers {
        assert_ne!(reader.wait(BOUND), Some(0), "a waiting read fails");
    }
}
