//! Mounting, unmounting, and mount points.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::{Duration, Instant};

use btfs::fs::{Mount, MountConfig, MountError, prepare_mountpoint};

use super::served::{Content, Reader, Served, Supply};
use crate::harness::{as_root, can_mount, wait_until};

/// Three seconds, and what a machine that is busy otherwise may add to them.
const BOUND: Duration = Duration::from_secs(15);

fn content() -> Content {
    Content::new("torrent", 16384, &["a=100000", "b=100000"])
}

#[test]
fn unmounting_fails_waiting_reads_and_is_quick() {
    if !can_mount() {
        return;
    }
    let served = Served::empty(content());
    served.owner.supply(Supply::Shut);
    let readers: Vec<_> = ["a", "b"]
        .iter()
        .map(|name| {
            let path = served.top().join(name);
            std::thread::spawn(move || fs::read(path).unwrap_err().raw_os_error())
        })
        .collect();
    served.wait_blocked(2);
    let start = Instant::now();
    served.mount().unmount();
    assert!(start.elapsed() < BOUND, "{:?}", start.elapsed());
    for reader in readers {
        assert_eq!(reader.join().unwrap(), Some(libc::EIO));
    }
    assert!(!served.mount().is_mounted());
    assert_eq!(fs::read_dir(served.root()).unwrap().count(), 0);
    served.mount().unmount();
    served.mount().wait_unmounted();
}

#[test]
fn unmounting_while_files_are_open_detaches() {
    if !can_mount() {
        return;
    }
    let served = Served::complete(content());
    let file = File::open(served.top().join("a")).unwrap();
    let start = Instant::now();
    served.mount().unmount();
    let took = start.elapsed();
    assert!(took < BOUND, "{took:?}");
    assert_eq!(fs::read_dir(served.root()).unwrap().count(), 0, "it is gone from the name space");
    let mut bytes = vec![0; 100_000];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == served.content.file("a"), "what is present is served until the last close");
    assert!(served.mount().is_mounted());
    drop(file);
    wait_until("the session ends with the last close", BOUND, || !served.mount().is_mounted());
}

#[test]
fn a_plain_umount_keeps_the_kernels_manners() {
    if !can_mount() {
        return;
    }
    let served = Served::complete(content());
    let file = File::open(served.top().join("a")).unwrap();
    let umount = |option: Option<&str>| {
        Command::new("umount").args(option).arg(served.root()).output().unwrap().status.success()
    };
    assert!(!umount(None), "busy stays mounted");
    assert!(served.mount().is_mounted());
    assert!(fs::read(served.top().join("b")).unwrap() == served.content.file("b"));
    drop(file);
    wait_until("umount works once nothing is open", BOUND, || umount(None));
    served.mount().wait_unmounted();
    assert!(!served.mount().is_mounted());
}

#[test]
fn a_lazy_umount_ends_with_the_last_close() {
    if !can_mount() {
        return;
    }
    let served = Served::empty(content());
    let mut file = File::open(served.top().join("a")).unwrap();
    assert!(Command::new("umount").arg("-l").arg(served.root()).status().unwrap().success());
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    assert!(bytes == served.content.file("a"), "missing pieces are still fetched");
    assert!(served.mount().is_mounted());
    drop(file);
    served.mount().wait_unmounted();
}

#[test]
fn what_was_mounted_over_ours_is_left_alone() {
    if !can_mount() || !as_root("to mount a tmpfs") {
        return;
    }
    let served = Served::complete(content());
    let mount =
        |arguments: &[&str]| Command::new("mount").args(arguments).arg(served.root()).status().unwrap().success();
    if !mount(&["-t", "tmpfs", "none"]) {
        eprintln!("SKIPPED: cannot mount a tmpfs here");
        return;
    }
    fs::write(served.root().join("theirs"), "x").unwrap();
    served.mount().unmount();
    let theirs = fs::read(served.root().join("theirs"));
    assert!(Command::new("umount").arg(served.root()).status().unwrap().success());
    assert_eq!(theirs.unwrap(), b"x");
}

#[test]
fn a_living_mount_is_refused_as_a_mount_point() {
    if !can_mount() {
        return;
    }
    let served = Served::complete(content());
    let error = prepare_mountpoint(served.root()).unwrap_err();
    assert!(matches!(error, MountError::Busy { .. }), "{error}");
    assert!(error.to_string().contains("unmount it first"), "{error}");
    assert!(fs::read(served.top().join("b")).unwrap() == served.content.file("b"));
}

#[test]
fn a_dead_mount_is_cleared_away() {
    if !can_mount() {
        return;
    }
    // A FUSE mount whose server goes away at once: the device is closed without an answer.
    clear_dead_mounts(&[r"
import os, socket, subprocess, sys
ours, theirs = socket.socketpair()
command = ['fusermount3', '-o', 'fsname=dead', '--', sys.argv[1]]
subprocess.run(command, env={**os.environ, '_FUSE_COMMFD': str(theirs.fileno())}, pass_fds=[theirs.fileno()], check=True)
"]);
}

#[test]
fn dead_mounts_over_each_other_are_cleared_away() {
    if !can_mount() || !as_root("to mount over a dead mount") {
        return;
    }
    let mounted_directly = r"
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
fd = os.open('/dev/fuse', os.O_RDWR)
options = 'fd=%d,rootmode=40000,user_id=0,group_id=0' % fd
assert libc.mount(b'dead', sys.argv[1].encode(), b'fuse', 0, options.encode()) == 0, os.strerror(ctypes.get_errno())
";
    clear_dead_mounts(&[mounted_directly; 2]);
}

/// Has each program make a dead mount, over that of the one before.
fn clear_dead_mounts(programs: &[&str]) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().canonicalize().unwrap();
    for program in programs {
        Reader::python(program, &path).output(Duration::from_secs(10));
    }
    assert_eq!(fs::metadata(&path).unwrap_err().raw_os_error(), Some(libc::ENOTCONN));
    assert_eq!(prepare_mountpoint(&path).unwrap(), path);
    assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
}

#[test]
fn a_mount_in_or_around_the_cache_is_refused() {
    if !can_mount() {
        return;
    }
    let served = Served::complete(content());
    let handle = served.handle.clone().unwrap();
    let directories = handle.store().directories();
    let top = served.beside("cache");
    let config = |mountpoint: &std::path::Path| MountConfig { mountpoint: mountpoint.into(), ..MountConfig::default() };
    let torrents = [handle];
    // The slot, and the whole cache around it.
    let slot = fs::read_dir(&top).unwrap().map(|entry| entry.unwrap().path()).find(|path| path.is_dir()).unwrap();
    for point in [top.as_path(), slot.as_path()] {
        let refused = Mount::start(config(point), &torrents, &directories);
        assert!(matches!(refused, Err(MountError::Overlap { .. })), "{}: {refused:?}", point.display());
    }
    let beside = served.beside("elsewhere");
    let mount = Mount::start(config(&beside), &torrents, &directories).unwrap();
    assert!(fs::read(beside.join("torrent/a")).unwrap() == served.content.file("a"));
    mount.unmount();
}

#[test]
fn two_torrents_share_a_root() {
    if !can_mount() {
        return;
    }
    let first = Served::complete(Content::new("same", 16384, &["a=100", "d/b=200"]));
    let second = Served::complete(Content::new("same", 16384, &["same=300"]));
    let point = first.beside("both");
    let torrents = [first.handle.clone().unwrap(), second.handle.clone().unwrap()];
    let config = MountConfig { mountpoint: point.clone(), ..MountConfig::default() };
    let mount = Mount::start(config, &torrents, &[]).unwrap();
    let mut names: Vec<_> =
        fs::read_dir(&point).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let hash = second.content.metainfo.info_hash.unwrap().to_string();
    assert_eq!(names, ["same".to_owned(), format!("same.{}", &hash[..8])]);
    assert!(fs::read(point.join("same/d/b")).unwrap() == first.content.file("d/b"));
    assert!(fs::read(point.join(&names[1])).unwrap() == second.content.file("same"));
    mount.unmount();
}
