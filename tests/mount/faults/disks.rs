//! The cache's disk is full, or what lies in its slot is not what it should be.

use std::path::Path;
use std::process::Command;

use super::{BOUND, one_file};
use crate::harness::mount::torrents;
use crate::harness::payload::{assert_same, compare};
use crate::harness::{World, can_mount, run, wait_until};

/// A small file system of a test's own.
struct Disk<'a>(&'a Path);

impl Disk<'_> {
    fn resize(&self, option: &str) {
        run(Command::new("mount").args(["-o", option]).arg(self.0));
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn a_full_disk_fails_reads_says_so_and_is_over_when_there_is_room() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let torrent = one_file(&world, "file.bin", 2 << 20);
    let seed = world.libtorrent_seed(&torrent).start();
    let point = world.directory("disk");
    if !Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "none"]).arg(&point).status().unwrap().success() {
        eprintln!("SKIPPED: cannot mount a tmpfs here");
        return;
    }
    let disk = Disk(&point);
    // What is pinned makes no room.
    let pin = ["cache", "pin", &torrent.info_hash, "--cache-dir"];
    run(world.btfs().args(pin).arg(point.join("cache")));
    let arguments = ["--read-timeout", "20s", "--cache-min-free", "0"];
    let mount = world.mount(&torrent).peer(seed.addr).cache("disk/cache").args(&arguments).start();
    let path = mount.path(&torrent.name);
    assert_eq!(std::fs::read(&path).unwrap_err().raw_os_error(), Some(libc::EIO), "more than fits");
    let status = mount.status();
    let error = torrents(&status)[0]["disk_error"].as_str().unwrap_or_default();
    assert!(error.contains("No space left"), "{status}");
    let warnings = status["warnings"].as_array().unwrap();
    let of_disk = warnings.iter().filter(|warning| warning["text"].as_str().unwrap().contains("the disk fails"));
    assert!((1..4).contains(&of_disk.count()), "{warnings:?}");

    disk.resize("remount,size=64m");
    wait_until("it is read again", BOUND, || std::fs::read(&path).is_ok());
    assert_same(&path, &torrent.data);
    mount.umount();
}

#[test]
fn a_disk_smaller_than_the_file_is_enough_to_read_it() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let torrent = one_file(&world, "file.bin", 6 << 20);
    let seed = world.libtorrent_seed(&torrent).start();
    let point = world.directory("disk");
    if !Command::new("mount").args(["-t", "tmpfs", "-o", "size=2m", "none"]).arg(&point).status().unwrap().success() {
        eprintln!("SKIPPED: cannot mount a tmpfs here");
        return;
    }
    let _disk = Disk(&point);
    for min_free in ["10%", "25%"] {
        let arguments = ["--read-timeout", "20s", "--cache-min-free", min_free];
        let mount = world.mount(&torrent).peer(seed.addr).cache("disk/cache").args(&arguments).start();
        if let Err(difference) = compare(&mount.path(&torrent.name), &torrent.data) {
            panic!("{min_free} free: {difference}\n{}", world.logs());
        }
        mount.umount();
    }
}

/// What somebody puts in the place of a file: its name, and how it is made (a link leads to the second path).
type Kind = (&'static str, fn(&Path, &Path));

#[test]
fn what_lies_in_a_slot_and_is_no_file_costs_a_fetch_and_never_a_start() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let torrent = one_file(&world, "file.bin", 2 << 20);
    let seed = world.libtorrent_seed(&torrent).start();
    let mount = world.mount(&torrent).peer(seed.addr).start();
    assert_same(&mount.path(&torrent.name), &torrent.data);
    let slot = mount.slot(&torrent);
    mount.umount();
    let outside = world.path("outside");
    std::fs::write(&outside, "theirs").unwrap();

    let kinds: [Kind; 3] = [
        ("a directory", |path, _| std::fs::create_dir(path).unwrap()),
        ("a pipe", |path, _| _ = run(Command::new("mkfifo").arg(path))),
        ("a link", |path, outside| std::os::unix::fs::symlink(outside, path).unwrap()),
    ];
    for name in ["data/0", "data", "state", "info", "../cache.lock", "../cache.usage", "used", "lock"] {
        for (kind, make) in kinds.iter().filter(|(kind, _)| (name, *kind) != ("data", "a directory")) {
            let path = slot.join(name);
            match path.symlink_metadata() {
                Ok(old) if old.is_dir() => std::fs::remove_dir_all(&path).unwrap(),
                Ok(_) => std::fs::remove_file(&path).unwrap(),
                Err(_) => {}
            }
            make(&path, &outside);
            let mount = world.mount(&torrent).peer(seed.addr).args(&["--read-timeout", "20s"]).start();
            if let Err(difference) = compare(&mount.path(&torrent.name), &torrent.data) {
                panic!("{name} as {kind}: {difference}\n{}", world.logs());
            }
            let told = name.starts_with("../") || name == "used" || mount.said.contains(name);
            assert!(told, "{name} as {kind}: {}", mount.said);
            mount.umount();
            assert_eq!(std::fs::read(&outside).unwrap(), b"theirs", "{name} as {kind}");
        }
    }
}
