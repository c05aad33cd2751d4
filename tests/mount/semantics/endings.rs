//! Mounting, unmounting, and mount points.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::{Duration, Instant};

use btfs::fs::{Mount, MountConfig, MountError, prepare_mountpoint};

use super::served::{Content, Reader, Served, Supply};
use crate::harness::{can_mount, wait_until};

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
    assert!(start.elapsed() < Duration::from_millis(3500), "{:?}", start.elapsed());
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
    assert!(took < Duration::from_millis(3500), "{took:?}");
    assert_eq!(fs::read_dir(served.root()).unwrap().count(), 0, "it is gone from the name space");
    let mut bytes = vec![0; 100_000];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == served.content.file("a"), "what is present is served until the last close");
    assert!(served.mount().is_mounted());
    drop(file);
    wait_until("the session ends with the last close", Duration::from_secs(5), || !served.mount().is_mounted());
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
    wait_until("umount works once nothing is open", Duration::from_secs(5), || umount(None));
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
    if !can_mount() {
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
    let directory = tempfile::tempdir().unwrap();
    // A FUSE mount whose server goes away at once: the device is closed without an answer.
    let program = r"
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
fd = os.open('/dev/fuse', os.O_RDWR)
options = 'fd=%d,rootmode=40000,user_id=0,group_id=0' % fd
assert libc.mount(b'dead', sys.argv[1].encode(), b'fuse', 0, options.encode()) == 0, os.strerror(ctypes.get_errno())
";
    let path = directory.path().canonicalize().unwrap();
    for _ in 0..2 {
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

#[test]
fn an_ordinary_user_mounts_reads_and_unmounts() {
    if !can_mount() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mode = |path: &std::path::Path, mode| {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    mode(directory.path(), 0o777);
    // Where cargo puts it the user may not be let in.
    let program = directory.path().join("tests");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    mode(&program, 0o755);
    // In a mount namespace of its own the device is open to everybody, as on most systems.
    let script = "mknod \"$1/fuse\" c 10 229 && chmod 666 \"$1/fuse\" && mount --bind \"$1/fuse\" /dev/fuse && \
                  exec setpriv --reuid 65534 --regid 65534 --clear-groups \"$1/tests\" \
                  --exact semantics::endings::mounted_by_nobody --ignored --nocapture";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--", "sh", "-c", script, "sh"]).arg(directory.path());
    command.env("TMPDIR", directory.path()).env("HOME", directory.path()).current_dir("/");
    let said = Reader::run(&mut command).output(Duration::from_secs(60));
    assert!(said.contains("mounted, read, killed, unmounted"), "{said}");
}

/// The child of the test above; it means nothing by itself.
#[test]
#[ignore = "run by an_ordinary_user_mounts_reads_and_unmounts"]
fn mounted_by_nobody() {
    let served = Served::empty(content());
    assert!(fs::read(served.top().join("a")).unwrap() == served.content.file("a"));
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&fs::metadata(served.top()).unwrap()), 65534);
    served.owner.supply(Supply::Shut);
    let mut reader = Reader::run(
        Command::new("dd")
            .args(["iflag=direct", "bs=64k", "of=/dev/null"])
            .arg(format!("if={}/b", served.top().display())),
    );
    served.wait_blocked(1);
    reader.signal(libc::SIGKILL);
    reader.ends_within(Duration::from_secs(2));
    // Detached with a file open, and cleared away when dead.
    let file = File::open(served.top().join("a")).unwrap();
    served.mount().unmount();
    assert_eq!(fs::read_dir(served.root()).unwrap().count(), 0);
    drop(file);
    served.mount().wait_unmounted();
    // Letting others in takes root's consent, and the message says where.
    let consents = fs::read_to_string("/etc/fuse.conf")
        .is_ok_and(|text| text.lines().any(|line| line.trim() == "user_allow_other"));
    let beside = served.beside("others");
    let config = MountConfig { mountpoint: beside.clone(), allow_other: true, ..MountConfig::default() };
    match Mount::start(config, &[served.handle.clone().unwrap()], &[]) {
        Ok(_) => assert!(consents),
        Err(error) => {
            assert!(!consents && error.to_string().contains("user_allow_other"), "{error}");
            assert_eq!(fs::read_dir(&beside).unwrap().count(), 0);
        }
    }
    println!("mounted, read, killed, unmounted");
}
