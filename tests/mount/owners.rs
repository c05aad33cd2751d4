//! `--uid`, `--gid` and `--allow-other`: who owns what is shown, and whom the kernel lets in.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use crate::harness::payload::{Torrent, assert_same, compare, torrent, write_file};
use crate::harness::{World, as_root, can_mount, run_any, texts};

const OWNER: u32 = 65534;
const STRANGER: u32 = 65533;

fn directory(world: &World) -> Torrent {
    let top = world.path("original/top");
    write_file(&top.join("deep/file.bin"), 1, 300_001);
    write_file(&top.join("other.bin"), 2, 100_001);
    torrent(&top, 64 << 10, &[])
}

/// Runs a command as another user, with no group but its own.
fn as_user(uid: u32, command: &[&str], path: &Path) -> (bool, String) {
    let id = uid.to_string();
    let mut setpriv = Command::new("setpriv");
    setpriv.args(["--reuid", &id, "--regid", &id, "--clear-groups"]).args(command).arg(path).env("LC_ALL", "C");
    let output = run_any(&mut setpriv);
    (output.status.success(), texts(&output))
}

#[test]
fn with_allow_other_everybody_may_look_and_all_belongs_to_whom_it_is_given() {
    if !can_mount() || !as_root("to be several users") {
        return;
    }
    let world = World::new();
    let torrent = directory(&world);
    let seed = world.seed(&torrent);
    let mount = world.mount(&torrent).peer(seed.addr);
    let mount = mount.args(&["--allow-other", "--uid", "65534", "--gid", "65532"]).start();
    let file = mount.path("top/deep/file.bin");
    for path in [mount.point.as_path(), &mount.path("top"), &mount.path("top/deep"), &file] {
        let metadata = std::fs::metadata(path).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (OWNER, 65532), "{}", path.display());
    }
    for uid in [OWNER, STRANGER] {
        let (fine, said) = as_user(uid, &["stat", "-c", "%u %g %a %s"], &file);
        assert_eq!((fine, said.trim()), (true, "65534 65532 444 300001"), "{uid}");
        let (fine, said) = as_user(uid, &["ls", "-R"], &mount.point);
        assert!(fine && said.contains("file.bin"), "{uid}: {said}");
        // Each reads what nobody has read before.
        let name = if uid == OWNER { "deep/file.bin" } else { "other.bin" };
        let original = torrent.data.join(name);
        let (fine, said) = as_user(uid, &["cmp", "--", original.to_str().unwrap()], &mount.path("top").join(name));
        assert!(fine, "{uid}: {said}");
    }
    let (fine, said) = as_user(OWNER, &["touch"], &file);
    assert!(!fine && said.contains("Read-only file system"), "{said}");
    let (fine, said) = as_user(OWNER, &["test", "-w"], &file);
    assert!(!fine, "{said}");
    assert_same(&file, &torrent.data.join("deep/file.bin"));
    mount.umount();
}

#[test]
fn without_allow_other_only_the_user_who_mounts_may_look_whoever_owns_the_files() {
    if !can_mount() || !as_root("to be several users") {
        return;
    }
    let world = World::new();
    let torrent = directory(&world);
    let seed = world.seed(&torrent);
    let mount = world.mount(&torrent).peer(seed.addr).args(&["-o", "uid=65534,gid=65534"]).start();
    let file = mount.path("top/deep/file.bin");
    for uid in [OWNER, STRANGER] {
        for command in [&["stat"][..], &["ls"], &["cat"]] {
            for path in [&mount.point, &file] {
                let (fine, said) = as_user(uid, command, path);
                assert!(!fine && said.contains("Permission denied"), "{uid} {command:?}: {said}");
            }
        }
    }
    let metadata = std::fs::metadata(&file).unwrap();
    assert_eq!((metadata.uid(), metadata.gid()), (OWNER, OWNER));
    assert_eq!(compare(&file, &torrent.data.join("deep/file.bin")), Ok(()));
    mount.umount();
}
