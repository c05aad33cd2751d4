//! Somebody else mounts over ours or holds a copy of ours in another mount namespace; ours lives in another pid namespace.

use std::path::Path;
use std::process::{Command, Output};

use super::{BOUND, ENDS, deaf_tracker, one_file, wait_announced, wait_ending};
use crate::harness::mount::{Mount, is_mounted};
use crate::harness::process::{Process, find_process};
use crate::harness::{World, btfs as program, can_mount, run_any, texts, wait_until};

fn mount_tmpfs(point: &Path) -> bool {
    let done = Command::new("mount").args(["-t", "tmpfs", "none"]).arg(point).status().unwrap().success();
    if !done {
        eprintln!("SKIPPED: cannot mount a tmpfs here");
    }
    done
}

fn umount(point: &Path) {
    assert!(Command::new("umount").arg(point).status().unwrap().success());
}

fn btfs(world: &World, command: &str, mount: &Mount) -> Output {
    run_any(world.btfs().arg(command).arg(&mount.point))
}

#[test]
fn btfs_umount_leaves_alone_what_was_mounted_over_ours_and_says_so() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let torrent = one_file(&world, "file.bin", 1 << 20);
    let mount = world.mount(&torrent).start();
    if !mount_tmpfs(&mount.point) {
        return;
    }
    std::fs::write(mount.path("theirs"), "x").unwrap();
    let output = btfs(&world, "umount", &mount);
    let said = texts(&output);
    let theirs = std::fs::read(mount.path("theirs"));
    if theirs.is_ok() {
        umount(&mount.point);
    }
    assert_eq!(theirs.unwrap(), b"x");
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("tmpfs") && said.contains("unmount that first"), "{said}");
    assert!(mount.path(&torrent.name).exists(), "ours is as it was");
    mount.umount();
}

#[test]
fn a_second_signal_takes_away_nothing_of_others() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let torrent = one_file(&world, "file.bin", 1 << 20);
    let mut mount = world.mount(&torrent).args(&["--tracker", &deaf_tracker()]).start();
    wait_announced(&mount);
    if !mount_tmpfs(&mount.point) {
        return;
    }
    std::fs::write(mount.path("theirs"), "x").unwrap();
    mount.signal(libc::SIGTERM);
    wait_ending(&world);
    mount.signal(libc::SIGINT);
    let status = mount.wait_end(ENDS);
    let theirs = std::fs::read(mount.path("theirs"));
    if theirs.is_ok() {
        umount(&mount.point);
    }
    assert_eq!((theirs.unwrap(), status), (b"x".to_vec(), Some(1)));
    let output = btfs(&world, "umount", &mount);
    assert!(output.status.success() && !is_mounted(&mount.point), "the dead one goes: {}", texts(&output));
}

#[test]
fn a_mount_of_another_pid_namespace_has_the_pid_that_we_can_signal() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let torrent = one_file(&world, "file.bin", 1 << 20);
    let other = one_file(&world, "other.bin", 1 << 20);
    // Each is process 1 of its namespace, and both talk in the same directory.
    let wrapper = ["unshare", "--pid", "--fork", "--kill-child"];
    let mounts = [(&torrent, "mnt"), (&other, "mnt2")]
        .map(|(torrent, point)| world.mount(torrent).at(point).wrapped(&wrapper).foreground());
    for (_, mount) in &mounts {
        wait_until("it answers", BOUND, || btfs(&world, "status", mount).status.success());
        let pid = mount.status()["pid"].as_i64();
        assert_eq!(pid, find_process(&program(), &mount.point).map(i64::from));
    }
    for (mut process, mount) in mounts {
        mount.umount();
        assert_eq!(process.wait(BOUND), Some(0));
    }
}

#[test]
fn a_mount_that_another_namespace_holds_is_shown_and_ended_from_here() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let torrent = one_file(&world, "file.bin", 1 << 20);
    let mut mount = world.mount(&torrent).start();
    let mut holder = Command::new("unshare");
    holder.args(["--mount", "sh", "-c", "echo held; exec sleep 100"]);
    let mut holder = Process::start(&mut holder, &world.path("holder.log"));
    wait_until("the copy is made", BOUND, || holder.log().contains("held"));
    umount(&mount.point);
    assert!(!is_mounted(&mount.point));

    let output = btfs(&world, "status", &mount);
    let said = texts(&output);
    assert!(output.status.success() && said.contains("another mount namespace"), "{said}");
    let output = btfs(&world, "umount", &mount);
    assert!(output.status.success(), "{}", texts(&output));
    assert_eq!(mount.wait_end(ENDS), Some(0));
    for command in ["status", "umount"] {
        let output = btfs(&world, command, &mount);
        assert!(output.status.code() == Some(1) && texts(&output).contains("no btfs mount"), "{}", texts(&output));
    }
    holder.assert_alive();
}
