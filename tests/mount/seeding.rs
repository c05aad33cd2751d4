//! Sharing that outlives the mount: how it begins, how it ends, and who can end it.

use std::fs::File;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::harness::mount::{Mount, is_mounted, torrents};
use crate::harness::payload::{Torrent, assert_range, assert_same, torrent, write_file};
use crate::harness::{World, as_root, can_mount, own_addr, run, run_any, texts, wait_for, wait_until};

const BOUND: Duration = Duration::from_secs(60);

fn film(world: &World) -> Torrent {
    let path = world.path("original/film.bin");
    write_file(&path, 5, (2 << 20) + 17);
    torrent(&path, 64 << 10, &[])
}

/// A mount that has all of it, that peers can reach at this address, and whose only source is gone.
fn filled(world: &World, film: &Torrent, addr: std::net::SocketAddr, arguments: &[&str]) -> Mount {
    let seed = world.seed(film);
    let (ip, port) = (addr.ip().to_string(), addr.port().to_string());
    let mount = world.mount(film).peer(seed.addr).args(&["--bind", &ip, "--port", &port, "--seed-after-unmount"]);
    let mount = mount.args(arguments).start();
    assert_same(&mount.path("film.bin"), &film.data);
    mount
}

/// `btfs umount`, which leaves the process behind.
#[track_caller]
fn umount(mount: &Mount) {
    let output = mount.tell("umount", [""; 0]);
    let said = texts(&output);
    assert!(output.status.success() && said.contains(&format!("btfs stop {}", mount.pid())), "{said}");
    assert!(!is_mounted(&mount.point));
    assert_eq!(std::fs::read_dir(&mount.point).unwrap().count(), 0);
}

/// The status of the process that shares on, if there is one.
fn sharing(world: &World) -> Option<Value> {
    let output = run(world.btfs().args(["status", "--json"]));
    let all = String::from_utf8(output.stdout).unwrap();
    all.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).find(|status| !status["seeding"].is_null())
}

#[test]
fn what_was_fetched_is_shared_on_until_it_is_enough() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let (film, addr) = (film(&world), own_addr());
    let mut mount = filled(&world, &film, addr, &["--seed-ratio", "1"]);
    umount(&mount);
    let status = sharing(&world).expect("it goes on");
    assert_eq!((&status["mountpoint"], &status["mounted"]), (&Value::Null, &Value::Bool(false)));
    assert_eq!(status["seeding"]["unmounted_from"], mount.point.to_str().unwrap());
    let text = texts(&run(world.btfs().arg("status")));
    assert!(text.contains("sharing on, was mounted at ") && text.contains("until ratio 1, but as long as"), "{text}");
    for command in ["status", "umount", "add"] {
        let arguments: &[&str] = if command == "add" { &["x"] } else { &[] };
        assert_eq!(mount.tell(command, arguments).status.code(), Some(1), "{command}: it is no mount any more");
    }

    let other = world.mount(&film).at("other").cache("other-cache").peer(addr).start();
    assert_same(&other.path("film.bin"), &film.data);
    assert_eq!(mount.wait_end(BOUND), Some(0), "all of it was sent once");
    assert!(sharing(&world).is_none());
    other.umount();
}

#[test]
fn the_last_seed_stays_until_somebody_else_has_it_all() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let (film, addr) = (film(&world), own_addr());
    let mut mount = filled(&world, &film, addr, &["--seed-time", "0s", "--seed-idle", "0s"]);
    let other = world.mount(&film).at("other").cache("other-cache").peer(addr).start();
    let reader = File::open(other.path("film.bin")).unwrap();
    let original = File::open(&film.data).unwrap();
    assert_range(&reader, &original, 0, 4096);
    umount(&mount);
    let seeding = wait_for("it has reached its goal, and stays", BOUND, || {
        let status = sharing(&world).expect("it stays");
        let seeding = torrents(&status)[0]["seeding"].clone();
        (!seeding["reached"].is_null()).then_some(seeding)
    });
    assert_eq!((&seeding["reached"], &seeding["last_seed"]), (&"time".into(), &true.into()));
    let text = texts(&run(world.btfs().arg("status")));
    assert!(text.contains("enough, but nobody else is known to have all of it"), "{text}");
    assert_same(&other.path("film.bin"), &film.data);
    assert_eq!(mount.wait_end(BOUND), Some(0), "somebody else has it all");
    drop(reader);
    other.umount();
}

#[test]
fn a_mount_of_the_same_torrent_takes_over_and_whoever_is_named_is_stopped() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let (film, addr) = (film(&world), own_addr());
    let mut first = filled(&world, &film, addr, &[]);
    let refused = run_any(world.btfs().args(["stop", &first.pid().to_string()]));
    assert!(texts(&refused).contains("unmount it first") && refused.status.code() == Some(1), "{}", texts(&refused));
    umount(&first);

    let (ip, port) = (addr.ip().to_string(), addr.port().to_string());
    let again = || {
        let mount =
            world.mount(&film).at("again").args(&["--bind", &ip, "--port", &port, "--seed-after-unmount"]).start();
        assert_same(&mount.path("film.bin"), &film.data);
        assert_eq!(mount.downloaded(), 0);
        mount
    };
    let mut second = again();
    assert_eq!(first.wait_end(BOUND), Some(0), "it has nothing left");
    let slots = std::fs::read_dir(&second.cache).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(slots.filter(|name| name.to_str().unwrap().starts_with(&film.info_hash)).count(), 1, "one slot");

    // By its place, by its torrent, by its number, and all.
    let point = second.point.to_str().unwrap().to_owned();
    let words: [&[&str]; 4] = [&[&point], &["film.bin"], &[&film.info_hash[..12]], &["--all"]];
    for (at, word) in words.iter().enumerate() {
        umount(&second);
        let output = run_any(world.btfs().arg("stop").args(*word));
        assert!(output.status.success() && texts(&output).starts_with("stopped"), "{word:?}: {}", texts(&output));
        assert_eq!(second.wait_end(BOUND), Some(0));
        if at + 1 < words.len() {
            // Its guard clears the mount point.
            drop(second);
            second = again();
        }
    }
    assert_eq!(run_any(world.btfs().args(["stop", "film.bin"])).status.code(), Some(1));
}

#[test]
fn a_mount_that_is_refused_takes_nothing_over() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let (film, addr) = (film(&world), own_addr());
    let mount = filled(&world, &film, addr, &[]);
    umount(&mount);
    let taken = std::net::TcpListener::bind((addr.ip(), 0)).unwrap();
    let (ip, port) = (addr.ip().to_string(), taken.local_addr().unwrap().port().to_string());
    let script = "mount --bind /etc/hosts /dev/fuse && mount -o remount,ro,bind /dev/fuse && exec \"$@\"";
    let no_device = ["unshare", "--mount", "sh", "-c", script, "sh"];
    let attempt = || world.mount(&film).at("again").args(&["--bind", &ip]);
    let refused = |output: std::process::Output, word: &str| {
        let said = texts(&output);
        assert!(output.status.code() == Some(1) && said.contains(word), "{said}");
        assert_eq!(torrents(&sharing(&world).expect("it goes on")).len(), 1, "{word}");
    };
    refused(attempt().args(&["--port", &port]).attempt(), "cannot listen");
    if as_root("for a mount namespace without the device") {
        refused(attempt().wrapped(&no_device).attempt(), "/dev/fuse cannot be opened");
    }
    mount.signal(libc::SIGTERM);
}

#[test]
fn torrents_that_come_later_are_taken_over_as_well() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let watched = world.directory("watched");
    let make = |name: &str, length| {
        let path = world.path("original").join(name);
        write_file(&path, length, length);
        torrent(&path, 64 << 10, &[])
    };
    let (one, other) = (make("one.bin", 300_001), make("other.bin", 400_001));
    std::fs::copy(&one.file, watched.join("one.torrent")).unwrap();
    let seeds = [world.seed(&one), world.seed(&other)];
    let mount = |point: &str| {
        let watch = ["--watch", watched.to_str().unwrap(), "--seed-after-unmount"];
        world.mount(&one).of_none().at(point).args(&watch)
    };
    let mut first = mount("mnt").peer(seeds[0].addr).peer(seeds[1].addr).start();
    assert!(first.tell("add", [&other.file]).status.success());
    assert_same(&first.path("one.bin"), &one.data);
    assert_same(&first.path("other.bin"), &other.data);
    drop(seeds);
    umount(&first);

    let second = mount("again").start();
    assert_same(&second.path("one.bin"), &one.data);
    assert_eq!(torrents(&sharing(&world).expect("it has another one")).len(), 1);
    assert!(second.tell("add", [&other.file]).status.success());
    assert_same(&second.path("other.bin"), &other.data);
    assert_eq!(first.wait_end(BOUND), Some(0), "it has nothing left");
    assert_eq!(second.downloaded(), 0);
    second.signal(libc::SIGTERM);
}

#[test]
fn an_unmount_by_others_is_one_and_a_signal_ends_all() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let (film, addr) = (film(&world), own_addr());
    let mut mount = filled(&world, &film, addr, &["--seed-time", "10d"]);
    run(Command::new("fusermount3").arg("-u").arg(&mount.point));
    wait_until("it goes on", BOUND, || sharing(&world).is_some());
    let other = world.mount(&film).at("other").cache("other-cache").peer(addr).start();
    assert_same(&other.path("film.bin"), &film.data);
    mount.signal(libc::SIGTERM);
    assert_eq!(mount.wait_end(Duration::from_secs(20)), Some(0));
    other.umount();

    // And a signal while it is mounted, in the same way.
    let (world, addr) = (World::new(), own_addr());
    let mut mount = filled(&world, &film, addr, &[]);
    mount.signal(libc::SIGTERM);
    assert_eq!(mount.wait_end(Duration::from_secs(20)), Some(0));
    assert!(!is_mounted(&mount.point));
}
