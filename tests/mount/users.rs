//! The main promises again for an ordinary user: mounted through fusermount3, without any privilege.
//!
//! Each test starts itself a second time inside a mount namespace of its own, where a `/dev/fuse` open to all lies over
//! the machine's (which is left alone), as uid and gid 65534. There it uses the program alone: as seed and as mount.

use std::fs::File;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::mount::{Mount, Seed, is_mounted, sum};
use crate::harness::payload::{Torrent, assert_range, assert_same, compare, torrent, write_file};
use crate::harness::process::Process;
use crate::harness::{World, btfs, can_mount, run_any, texts, times};

const INSIDE: &str = "BTFS_TEST_AS_USER";
const NOBODY: u32 = 65534;

/// Whether this is the second start. In the first, the second is run and has to succeed.
fn inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        // SAFETY: no arguments, no failure.
        assert_eq!(unsafe { libc::geteuid() }, NOBODY);
        return true;
    }
    // SAFETY: as above.
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("SKIPPED: only root can set up another user's surroundings");
        return false;
    }
    if !can_mount() {
        return false;
    }
    let surroundings = tempfile::Builder::new().prefix("btfs-user-").tempdir().unwrap();
    let root = surroundings.path();
    std::fs::set_permissions(root, std::fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["bin", "tests", "tmp"] {
        std::fs::create_dir(root.join(name)).unwrap();
    }
    std::fs::set_permissions(root.join("tmp"), std::fs::Permissions::from_mode(0o777)).unwrap();
    // The builds may lie where only root can walk: they are shown at another place. A tmpfs is for the device node,
    // as /tmp may forbid devices.
    let script = "
        set -e
        mount -t tmpfs -o mode=755 none \"$1/dev\"
        mknod -m 666 \"$1/dev/fuse\" c 10 229
        mount --bind \"$1/dev/fuse\" /dev/fuse
        mount --bind \"$2\" \"$1/bin\"
        mount --bind \"$3\" \"$1/tests\"
        cd \"$1\"
        exec setpriv --reuid 65534 --regid 65534 --clear-groups \"$1/tests/$4\" --exact \"$5\" --nocapture
    ";
    std::fs::create_dir(root.join("dev")).unwrap();
    let (program, itself) = (btfs(), std::env::current_exe().unwrap());
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]);
    command.arg(root).arg(program.parent().unwrap()).arg(itself.parent().unwrap());
    command.arg(itself.file_name().unwrap()).arg(format!("users::{test}"));
    command.env(INSIDE, "1").env("BTFS_TEST_BIN", root.join("bin/btfs")).env("TMPDIR", root.join("tmp"));
    let output = run_any(&mut command);
    let said = texts(&output);
    eprintln!("{said}");
    assert!(output.status.success(), "as uid {NOBODY}: {}", output.status);
    assert!(said.contains("1 passed"), "the test ran");
    false
}

fn one_file(world: &World, length: u64) -> Torrent {
    let path = world.path("original/file.bin");
    write_file(&path, 3, length);
    torrent(&path, 64 << 10, &[])
}

fn mounted(world: &World, torrent: &Torrent) -> (Seed, Mount) {
    let seed = world.seed(torrent);
    let mount = world.mount(torrent).peer(seed.addr).start();
    (seed, mount)
}

fn reader(world: &World, path: &Path, offset: u64, name: &str, direct: bool) -> Process {
    let mut dd = Command::new("dd");
    dd.arg(format!("if={}", path.display())).args(["of=/dev/null", "bs=4096", "count=1", "status=none"]);
    dd.arg(format!("skip={}", offset / 4096));
    if direct {
        dd.arg("iflag=direct");
    }
    Process::start(&mut dd, &world.path(format!("{name}.log")))
}

#[test]
fn an_ordinary_user_reads_everything_and_unmounts() {
    if !inside("an_ordinary_user_reads_everything_and_unmounts") {
        return;
    }
    let world = World::new();
    let torrent = one_file(&world, 12_000_001);
    let (_seed, mount) = mounted(&world, &torrent);
    let path = mount.path(&torrent.name);
    assert_same(&path, &torrent.data);
    let metadata = std::fs::metadata(&path).unwrap();
    assert_eq!((metadata.uid(), metadata.mode() & 0o7777), (NOBODY, 0o444));
    assert_eq!(sum(&mount.status(), "left_bytes"), 0);
    let refused = std::fs::write(&path, "x").unwrap_err().raw_os_error();
    assert_eq!(refused, Some(libc::EROFS));
    mount.umount();

    let mut mount = world.mount(&torrent).start();
    assert_same(&path, &torrent.data);
    assert_eq!(mount.downloaded(), 0);
    crate::harness::run(Command::new("fusermount3").arg("-u").arg(&mount.point));
    assert_eq!(mount.wait_end(Duration::from_secs(5)), Some(0));
}

#[test]
fn an_ordinary_user_survives_kill_9_at_any_moment() {
    if !inside("an_ordinary_user_survives_kill_9_at_any_moment") {
        return;
    }
    let world = World::new();
    let torrent = one_file(&world, 16 << 20);
    let seed = world.seed(&torrent);
    for round in 0..times(10) {
        let cache = format!("cache/{round}");
        let mut mount = world.mount(&torrent).peer(seed.addr).cache(&cache).start();
        let path = mount.path(&torrent.name);
        let reading = reader(&world, &path, 0, "reader", false);
        std::thread::sleep(Duration::from_millis(7 * round as u64 % 300)); // the moment is what is tried
        mount.kill9();
        drop(reading);
        let start = Instant::now();
        let again = world.mount(&torrent).peer(seed.addr).cache(&cache).start();
        assert!(start.elapsed() < Duration::from_secs(3), "round {round}: {:?}", start.elapsed());
        compare(&path, &torrent.data).unwrap_or_else(|error| panic!("round {round}: {error}\n{}", world.logs()));
        again.umount();
        assert!(!is_mounted(&mount.point));
    }
}

#[test]
fn an_ordinary_users_blocked_readers_end_on_signals_and_on_umount() {
    if !inside("an_ordinary_users_blocked_readers_end_on_signals_and_on_umount") {
        return;
    }
    let world = World::new();
    let torrent = one_file(&world, 16 << 20);
    let mount = world.mount(&torrent).start(); // nobody has it
    let path = mount.path(&torrent.name);
    for (number, (signal, direct)) in [
        (libc::SIGINT, false),
        (libc::SIGINT, true),
        (libc::SIGKILL, false),
        (libc::SIGKILL, true),
        (libc::SIGTERM, true),
    ]
    .into_iter()
    .enumerate()
    {
        let mut blocked = reader(&world, &path, number as u64 * (2 << 20), &format!("reader-{number}"), direct);
        mount.wait_blocked(1);
        blocked.signal(signal);
        blocked.wait(Duration::from_secs(1));
        mount.wait_status("its read is forgotten", Duration::from_secs(2), |status| {
            crate::harness::mount::waiting_reads(status) == 0
        });
    }
    let mut blocked: Vec<_> =
        (0..8u64).map(|n| reader(&world, &path, n * (2 << 20), &format!("last-{n}"), false)).collect();
    mount.wait_blocked(8);
    mount.umount();
    for reader in &mut blocked {
        assert_ne!(reader.wait(Duration::from_secs(1)), Some(0));
    }
}

#[test]
fn an_ordinary_users_busy_mount_survives_a_plain_umount() {
    if !inside("an_ordinary_users_busy_mount_survives_a_plain_umount") {
        return;
    }
    let world = World::new();
    let torrent = one_file(&world, 4 << 20);
    let (_seed, mut mount) = mounted(&world, &torrent);
    let open = File::open(mount.path(&torrent.name)).unwrap();
    let busy = run_any(Command::new("fusermount3").arg("-u").arg(&mount.point));
    assert!(!busy.status.success(), "{}", texts(&busy));
    assert_same(&mount.path(&torrent.name), &torrent.data);
    crate::harness::run(Command::new("fusermount3").arg("-uz").arg(&mount.point));
    assert_range(&open, &File::open(&torrent.data).unwrap(), 100_000, 500_000);
    drop(open);
    assert_eq!(mount.wait_end(Duration::from_secs(5)), Some(0), "the last close ends it");
}

#[test]
fn an_ordinary_users_readers_share_a_mount() {
    if !inside("an_ordinary_users_readers_share_a_mount") {
        return;
    }
    let world = World::new();
    let torrent = one_file(&world, 16 << 20);
    let (_seed, mount) = mounted(&world, &torrent);
    let path = mount.path(&torrent.name);
    std::thread::scope(|scope| {
        for number in 0..16u64 {
            let (path, torrent) = (&path, &torrent);
            scope.spawn(move || {
                let (got, wanted) = (File::open(path).unwrap(), File::open(&torrent.data).unwrap());
                for step in 0..40u64 {
                    assert_range(
                        &got,
                        &wanted,
                        (number * 977 + step * step * 10_007) % (torrent.length - 70_000),
                        70_000,
                    );
                }
                assert_same(path, &torrent.data);
            });
        }
    });
    mount.umount();
}

#[test]
fn an_ordinary_user_sees_a_stall_end_in_an_error() {
    if !inside("an_ordinary_user_sees_a_stall_end_in_an_error") {
        return;
    }
    let world = World::new();
    let torrent = one_file(&world, 4 << 20);
    let mount = world.mount(&torrent).args(&["--read-timeout", "2s"]).start();
    let start = Instant::now();
    let error = compare(&mount.path(&torrent.name), &torrent.data).unwrap_err();
    assert!(error.contains("os error 5"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    mount.umount();
}
