//! Whoever reads what the commands say goes away, or writes it to a full disk.

use std::process::Command;
use std::time::Duration;

use super::{BOUND, one_file};
use crate::harness::payload::assert_same;
use crate::harness::process::Process;
use crate::harness::{World, btfs, can_mount, own_addr, run, texts, wait_until};

/// A shell that runs its arguments with these redirections.
fn redirected(to: &str) -> [String; 4] {
    ["sh", "-c", &format!("exec \"$@\" {to}"), "sh"].map(str::to_owned)
}

/// A standard output, or both, that nobody reads any more.
const LOST: [&str; 3] = [">/dev/full", ">/dev/full 2>/dev/full", ">lost 2>&1"];

#[test]
fn a_mount_is_up_whoever_hears_of_it() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let torrent = one_file(&world, "file.bin", 1 << 20);
    let seed = world.libtorrent_seed(&torrent).start();
    // A pipe without a reader.
    run(Command::new("mkfifo").arg(world.path("lost")));
    for to in LOST {
        let _reader = to.contains("lost").then(|| {
            Process::start(
                Command::new("sh").args(["-c", "exec <lost"]).current_dir(world.path("")),
                &world.path("reader.log"),
            )
        });
        let wrapper = redirected(to);
        let wrapper: Vec<_> = wrapper.iter().map(String::as_str).collect();
        let mount = world.mount(&torrent).peer(seed.addr).wrapped(&wrapper).start();
        assert_same(&mount.path(&torrent.name), &torrent.data);
        mount.umount();
    }
}

#[test]
fn a_seed_shares_whoever_hears_of_it() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let torrent = one_file(&world, "file.bin", 1 << 20);
    for to in LOST.iter().filter(|to| !to.contains("lost")) {
        let addr = own_addr();
        let mut command = Command::new("sh");
        world.surround(&mut command);
        command.args(&redirected(to)[1..]).arg(btfs()).arg("seed").arg(&torrent.file).arg(&torrent.data);
        command.args(["--bind", &addr.ip().to_string(), "--port", &addr.port().to_string()]);
        let mut seed = Process::start(&mut command, &world.path("seed.log"));
        if !to.contains("2>") {
            wait_until("it is about to say what it shares", BOUND, || seed.log().contains("checked"));
        }
        let mount = world.mount(&torrent).peer(addr).start();
        assert_same(&mount.path(&torrent.name), &torrent.data);
        mount.umount();
        seed.assert_alive();
        seed.signal(libc::SIGTERM);
        assert_eq!(seed.wait(BOUND), Some(0));
        std::fs::remove_dir_all(world.path("cache/btfs")).unwrap();
    }
}

#[test]
fn a_watched_status_ends_quietly_with_its_reader() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let torrent = one_file(&world, "file.bin", 1 << 20);
    let mount = world.mount(&torrent).start();
    let mut watch = Command::new("bash");
    world.surround(&mut watch);
    watch.args(["-c", "set -o pipefail; \"$1\" status --watch | head -n 1", "bash"]).arg(btfs());
    let log = world.path("watch.log");
    let mut watch = Process::start(&mut watch, &log);
    assert_eq!(watch.wait(Duration::from_secs(20)), Some(0), "{}", watch.log());
    assert_eq!(watch.log().lines().count(), 1, "{}", watch.log());
    mount.umount();
    let status = run(world.btfs().arg("status"));
    assert!(texts(&status).contains("no btfs mount"));
}
