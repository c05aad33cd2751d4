//! More torrents than there are descriptors for.

use std::path::PathBuf;

use crate::harness::mount::{Mount, is_mounted, torrents};
use crate::harness::payload::{Torrent, assert_same, torrent, write_file};
use crate::harness::{World, can_mount, run_any, texts};

/// A directory with so many torrent files, and one torrent that comes before them all.
fn watched(world: &World, count: u64) -> (PathBuf, Torrent) {
    let watched = world.directory("watched");
    let make = |name: &str, length: u64| {
        let path = world.path("original").join(name);
        write_file(&path, length, length);
        torrent(&path, 16 << 10, &[])
    };
    for number in 0..count {
        let made = make(&format!("{number:03}.bin"), 1000 + number);
        std::fs::copy(&made.file, watched.join(format!("{number:03}.torrent"))).unwrap();
    }
    (watched, make("first.bin", 300_001))
}

fn shown(mount: &Mount) -> usize {
    std::fs::read_dir(&mount.point).unwrap().count()
}

#[test]
fn a_low_limit_that_may_be_raised_is() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let (watched, _) = watched(&world, 60);
    let limited = ["sh", "-c", "ulimit -Sn 128 && exec \"$@\"", "sh"];
    let watch = ["--watch", watched.to_str().unwrap()];
    let mount = world.mount_file(&watched).of_none().args(&watch).wrapped(&limited).start();
    assert_eq!((shown(&mount), torrents(&mount.status()).len()), (60, 60));
    mount.umount();
}

#[test]
fn torrents_without_descriptors_are_refused_and_the_others_go_on() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let (watched, first) = watched(&world, 100);
    let seed = world.seed(&first);
    let watch = ["--watch", watched.to_str().unwrap()];
    let mount = world.mount(&first).peer(seed.addr).args(&watch).open_files(256).start();
    let status = mount.status();
    let count = torrents(&status).len();
    assert!((20..90).contains(&count), "{count} torrents");
    assert_eq!(shown(&mount), count);
    assert!(status["warnings"].to_string().contains("too many torrents for 256 open files"), "{}", status["warnings"]);
    // What was open for a moment may have left room for a few.
    let others = (90..100).map(|number| watched.join(format!("{number:03}.torrent")));
    let refused = others.map(|file| (mount.tell("add", [&file]), file)).find(|(output, _)| !output.status.success());
    let (output, last) = refused.expect("one is refused");
    let said = texts(&output);
    assert!(output.status.code() == Some(1) && said.contains("too many torrents"), "{said}");
    assert_same(&mount.path("first.bin"), &first.data);
    // One that goes makes room for another one.
    assert!(mount.tell("remove", ["000.bin"]).status.success());
    let output = mount.tell("add", [&last]);
    assert!(output.status.success(), "{}", texts(&output));
    mount.umount();
}

#[test]
fn a_mount_that_cannot_have_all_of_its_torrents_is_none() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let (watched, first) = watched(&world, 100);
    let mut builder = world.mount(&first).open_files(256);
    for number in 0..100 {
        builder = builder.and(&watched.join(format!("{number:03}.torrent")));
    }
    let output = builder.attempt();
    let said = texts(&output);
    assert!(output.status.code() == Some(1) && said.contains("too many torrents for 256 open files"), "{said}");
    assert!(!is_mounted(&world.path("mnt")));
    let left = run_any(world.btfs().arg("status"));
    assert!(left.status.success() && !texts(&left).contains("pid"), "{}", texts(&left));
}
