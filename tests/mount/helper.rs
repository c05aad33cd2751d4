//! `mount -t btfs` by the real mount(8), and lines of fstab(5).
//!
//! Each test starts itself a second time inside a mount namespace of its own. There a link to the program under test lies
//! among the machine's helpers as `mount.btfs`, and what a system's mounts write (`/run`, `/var/cache`, `/var/log`) is
//! empty and the test's own.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use crate::harness::mount::{detach, is_mounted};
use crate::harness::payload::{Torrent, assert_same, torrent, write_file};
use crate::harness::process::{Process, find_process, send_signal, try_reap};
use crate::harness::{World, as_root, btfs, can_mount, own_ip, run, run_any, texts, wait_for, wait_until};

const INSIDE: &str = "BTFS_TEST_HELPER";
const BOUND: Duration = Duration::from_secs(20);

/// Arguments: the program, the test binary, the test. mount(8) looks for helpers in /sbin (util-linux; `mount.8`, EXTERNAL
/// HELPERS), which may be a link; links to all that is there, and ours, lie over it.
const SCRIPT: &str = r#"
set -e
mount -t tmpfs none /run
for directory in /var/cache /var/log /mnt; do mount -t tmpfs none $directory; done
mkdir /run/over /run/real /run/program
sbin=$(realpath /sbin)
mount --bind "$sbin" /run/real
mount --bind "$(dirname "$1")" /run/program
cp -as /run/real/. /run/over
ln -sf "/run/program/$(basename "$1")" /run/over/mount.btfs
ln -sf mount.btfs /run/over/mount.fuse.btfs
mount --bind /run/over "$sbin"
exec "$2" --exact "$3" --nocapture
"#;

/// Whether this is the second start. In the first, the second is run and has to succeed.
fn inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    if !can_mount() || !as_root("to have a /sbin of its own") {
        return false;
    }
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", SCRIPT, "sh"]).arg(btfs());
    command.arg(std::env::current_exe().unwrap()).arg(format!("helper::{test}")).env(INSIDE, "1");
    let output = run_any(&mut command);
    eprintln!("{}", texts(&output));
    assert!(output.status.success() && texts(&output).contains("1 passed"), "{}", output.status);
    false
}

/// A program in the environment of a service: no home, no user.
fn bare(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C");
    command
}

fn directory(world: &World) -> Torrent {
    let top = world.path("original/two files");
    write_file(&top.join("deep/film.bin"), 1, 3_000_001);
    write_file(&top.join("notes.txt"), 2, 1_001);
    torrent(&top, 64 << 10, &[])
}

/// A mount point that is free again when the test ends, with the process that serves it.
struct Point(PathBuf);

impl Point {
    /// A directory in /mnt whose name no other test has: processes are known by it.
    fn new() -> Self {
        let path = PathBuf::from(format!("/mnt/x{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn text(&self) -> &str {
        self.0.to_str().unwrap()
    }

    #[track_caller]
    fn pid(&self) -> i32 {
        find_process(&btfs(), &self.0).expect("the process that serves the mount")
    }

    /// The kernel's line on it: mount options, type, source, options of the file system.
    #[track_caller]
    fn line(&self) -> String {
        let found = texts(&run(bare("findmnt").args(["-n", "-o", "OPTIONS,FSTYPE,SOURCE,FS-OPTIONS"]).arg(&self.0)));
        found.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// By umount(8); the process must end well.
    #[track_caller]
    fn umount(&self) {
        let pid = self.pid();
        run(bare("umount").arg(&self.0));
        assert!(!is_mounted(&self.0));
        assert_eq!(wait_for("the process ends with its mount", BOUND, || try_reap(pid)), Some(0));
    }
}

impl Drop for Point {
    fn drop(&mut self) {
        if let Some(pid) = find_process(&btfs(), &self.0) {
            send_signal(pid, libc::SIGKILL);
        }
        detach(&self.0);
    }
}

fn assert_content(point: &Path, torrent: &Torrent) {
    for name in ["deep/film.bin", "notes.txt"] {
        assert_same(&point.join(&torrent.name).join(name), &torrent.data.join(name));
    }
}

/// The options for a mount with this peer and no other.
fn options(peer: SocketAddr, own: IpAddr) -> String {
    format!("peer={peer},address={own},no_tracker")
}

/// Exit status and what was said.
fn outcome(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), texts(output))
}

#[test]
fn mount_8_mounts_a_torrent_and_umount_8_ends_it() {
    if !inside("mount_8_mounts_a_torrent_and_umount_8_ends_it") {
        return;
    }
    let world = World::new();
    let torrent = directory(&world);
    let seed = world.libtorrent_seed(&torrent).start();
    let point = Point::new();
    let own = own_ip();
    let options = format!("ro,noexec,nofail,_netdev,x-systemd.automount,allow_other,uid=7,{}", options(seed.addr, own));
    let output = run_any(bare("mount").args(["-t", "btfs", "-o", &options]).arg(&torrent.file).arg(&point.0));
    assert_eq!(outcome(&output), (Some(0), String::new()), "silent when all is well");

    let line = point.line();
    for part in ["ro,nosuid,nodev,noexec", " fuse.btfs ", torrent.file.to_str().unwrap(), "allow_other"] {
        assert!(line.contains(part), "{part} in {line}");
    }
    assert_content(&point.0, &torrent);
    let status = texts(&run(bare(btfs().to_str().unwrap()).args(["status", "--json"]).arg(&point.0)));
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["pid"], point.pid());
    let log = format!("/var/log/btfs/btfs-{}.log", point.text().trim_start_matches('/').replace('/', "-"));
    assert_eq!(status["log"], log);
    assert!(
        Path::new("/var/cache/btfs").join(&torrent.info_hash).is_dir(),
        "without a home, the cache is the system's"
    );
    assert!(std::fs::read_to_string(log).unwrap().contains("mounted"));
    let again = run_any(bare("mount").args(["-t", "btfs", "-o", &options]).arg(&torrent.file).arg(&point.0));
    let (status, said) = outcome(&again);
    assert!(
        status == Some(32) && said.contains(&format!("is mounted at {} already", point.text())),
        "{status:?}: {said}"
    );
    point.umount();
    drop(seed);

    // Whoever mounts, from wherever: root's home makes no other cache of it. All is there, nobody is needed.
    let mut command = bare("mount");
    world.surround(&mut command);
    command.args(["-v", "-t", "btfs", "-o", "no_tracker"]).arg("-oaddress=127.0.0.1").arg(&torrent.file).arg(&point.0);
    let (status, said) = outcome(&run_any(&mut command));
    assert!(
        status == Some(0) && said.contains("mounted two files (2.86 MiB, 2 files) at /mnt/x"),
        "{status:?}: {said}"
    );
    assert_content(&point.0, &torrent);
    assert!(std::fs::read_dir(world.path("cache")).unwrap().next().is_none());
    run(bare(btfs().to_str().unwrap()).arg("umount").arg(&point.0));
    assert!(!is_mounted(&point.0));
}

#[test]
fn a_line_of_fstab_is_mounted_once() {
    if !inside("a_line_of_fstab_is_mounted_once") {
        return;
    }
    let world = World::new();
    let torrent = directory(&world);
    let seed = world.libtorrent_seed(&torrent).start();
    let point = Point::new();
    let fstab = world.path("fstab");
    let line = |options: &str| {
        let file = torrent.file.to_str().unwrap().replace(' ', "\\040");
        std::fs::write(&fstab, format!("{file} {} btfs {options} 0 0\n", point.text())).unwrap();
    };
    // As the documentation has it, and where the peer is.
    let swarm = options(seed.addr, own_ip());
    line(&format!("ro,nofail,_netdev,cache_dir=/var/cache/films,{swarm}"));
    let by_place = || run_any(bare("mount").arg("--fstab").arg(&fstab).arg(&point.0));
    assert_eq!(outcome(&by_place()), (Some(0), String::new()));
    assert_content(&point.0, &torrent);
    assert!(Path::new("/var/cache/films").join(&torrent.info_hash).is_dir() && !Path::new("/var/cache/btfs").exists());

    // What is mounted already is known by its source, and left alone.
    let all = || run_any(bare("mount").arg("--all").arg("--fstab").arg(&fstab));
    let pid = point.pid();
    assert_eq!(outcome(&all()), (Some(0), String::new()));
    assert_eq!((point.pid(), point.line().matches("fuse.btfs").count()), (pid, 1));
    point.umount();
    assert_eq!(outcome(&all()), (Some(0), String::new()));
    assert_content(&point.0, &torrent);
    point.umount();

    line(&format!("noauto,user,comment=mine,X-mount.mkdir,rw,{swarm}"));
    assert_eq!(outcome(&all()), (Some(0), String::new()));
    assert!(!is_mounted(&point.0), "noauto");
    assert_eq!(outcome(&by_place()), (Some(0), String::new()));
    assert!(point.line().starts_with("ro,nosuid,nodev,noexec"), "{}", point.line());
    assert_content(&point.0, &torrent);
    point.umount();

    line("ro,colour=red");
    let (status, said) = outcome(&by_place());
    assert_eq!((status, said.trim()), (Some(1), "btfs: option colour=red: unknown"));
    assert!(!is_mounted(&point.0));
}

#[test]
fn what_is_wrong_is_told_in_a_line_and_by_the_statuses_of_mount_8() {
    if !inside("what_is_wrong_is_told_in_a_line_and_by_the_statuses_of_mount_8") {
        return;
    }
    let world = World::new();
    let torrent = directory(&world);
    let point = Point::new();
    let (file, at) = (torrent.file.to_str().unwrap(), point.text());
    std::fs::write(world.path("no.torrent"), "no").unwrap();
    let no = world.path("no.torrent");
    let bad_cache = format!("cache_dir={}/below", no.display());
    for (arguments, status, wanted) in [
        (&["-o", "ro,colour=red", file, at][..], 1, "option colour=red: unknown"),
        (&["-o", "port=http", file, at], 1, "option port=http: invalid digit"),
        (&["-o", "cache_dir", file, at], 1, "option cache_dir: needs a value"),
        (&["-o", "no_tracker,tracker=http://h/a", file, at], 1, "exclude each other"),
        (&["-o", "remount,ro", file, at], 1, "unmount, then mount again"),
        (&["-o", "log=a=b=c", file, at], 1, "--log"),
        (&["/nowhere.torrent", at], 32, "/nowhere.torrent: No such file"),
        (&[no.to_str().unwrap(), at], 32, "not a usable torrent"),
        (&["-o", &bad_cache, file, at], 32, "no.torrent"),
        (&[file, "/mnt/nowhere"], 32, "mount point /mnt/nowhere does not exist"),
    ] {
        let (got, said) = outcome(&run_any(bare("mount").args(["-t", "btfs"]).args(arguments)));
        assert_eq!(got, Some(status), "{arguments:?}: {said}");
        assert!(said.contains(wanted) && said.lines().count() <= 2, "{arguments:?}: {said}");
        assert!(!is_mounted(&point.0), "{arguments:?}");
    }
    // As mount(8) would not call it, but others do.
    let helper = |arguments: &[&str]| outcome(&run_any(bare("/sbin/mount.btfs").args(arguments)));
    for (arguments, status, wanted) in [
        (&[][..], 1, "Usage: mount.btfs"),
        (&[file], 1, "DIR"),
        (&[file, at, "-Z"], 1, "-Z"),
        (&[file, at, "-t", "ext4"], 1, "only btfs"),
        (&[file, "/mnt/nowhere"], 32, "does not exist"),
        (&[file, at, "-N", "/dev/null"], 32, "mount namespace /dev/null"),
        (&["-V"], 0, "mount.btfs"),
        (&["-h"], 0, "Usage: mount.btfs"),
        // Nothing is mounted, all is judged; and with -s what is unknown is passed over.
        (&[file, at, "-f", "-n", "-o", "ro"], 0, ""),
        (&["-f", "/nowhere.torrent", at], 32, "No such file"),
        (&[file, at, "-f", "-o", "colour=red"], 1, "colour=red"),
        (&[file, at, "-sf", "-o", "colour=red"], 0, ""),
        (&[file, at, "-sf", "-o", "uid=root"], 1, "uid=root"),
    ] {
        let (got, said) = helper(arguments);
        assert_eq!(got, Some(status), "{arguments:?}: {said}");
        assert!(said.contains(wanted) && said.is_empty() == wanted.is_empty(), "{arguments:?}: {said}");
        assert!(!is_mounted(&point.0), "{arguments:?}");
    }
    assert!(!Path::new("/var/cache/btfs").exists(), "a refusal leaves nothing behind");
}

#[test]
fn the_type_that_the_kernel_shows_mounts_as_well() {
    if !inside("the_type_that_the_kernel_shows_mounts_as_well") {
        return;
    }
    let world = World::new();
    let torrent = directory(&world);
    let point = Point::new();
    let options = format!("no_tracker,address={}", own_ip());
    let output = run_any(bare("mount").args(["-t", "fuse.btfs", "-o", &options]).arg(&torrent.file).arg(&point.0));
    assert_eq!(outcome(&output), (Some(0), String::new()));
    assert!(point.line().contains(" fuse.btfs "));
    point.umount();
}

#[test]
fn a_mount_for_another_namespace_is_made_there_alone() {
    if !inside("a_mount_for_another_namespace_is_made_there_alone") {
        return;
    }
    let world = World::new();
    let torrent = directory(&world);
    let seed = world.libtorrent_seed(&torrent).start();
    let point = Point::new();
    let mut other = Command::new("unshare");
    other.args(["--mount", "--propagation", "private", "sleep", "600"]);
    let other = Process::start(&mut other, &world.path("sleep.log"));
    let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap();
    let there = other.pid().to_string();
    wait_until("the other namespace", BOUND, || of(&there) != of("self"));
    let within = |program: &str| {
        let mut command = bare("nsenter");
        command.args(["--mount", "--target", &there, "--", program]);
        command
    };

    let namespace = format!("/proc/{there}/ns/mnt");
    let mut command = bare("mount");
    command.args(["-N", &namespace, "-t", "btfs", "-o", &options(seed.addr, own_ip())]);
    let output = run_any(command.arg(&torrent.file).arg(&point.0));
    assert_eq!(outcome(&output), (Some(0), String::new()));
    assert!(!is_mounted(&point.0));
    let name = Path::new(&torrent.name).join("deep/film.bin");
    run(within("cmp").arg(point.0.join(&name)).arg(torrent.data.join("deep/film.bin")));
    let pid = point.pid();
    run(within("umount").arg(&point.0));
    assert_eq!(wait_for("the process ends with its mount", BOUND, || try_reap(pid)), Some(0));
}

/// fstab may let everybody mount: then mount(8) runs us with that user's rights, and fusermount3 mounts.
#[test]
fn a_user_mounts_what_fstab_lets_users_mount() {
    if !inside("a_user_mounts_what_fstab_lets_users_mount") {
        return;
    }
    const NOBODY: &str = "65534";
    let world = World::new();
    let torrent = directory(&world);
    let seed = world.libtorrent_seed(&torrent).start();
    // What mount(8) reads for users is /etc/fstab alone; and the machine's device may be closed to them.
    let script = r#"
        set -e
        mkdir /run/dev && mount -t tmpfs -o mode=755 none /run/dev
        mknod -m 666 /run/dev/fuse c 10 229 && mount --bind /run/dev/fuse /dev/fuse
        mount --bind "$1" /etc/fstab"#;
    let fstab = world.path("fstab");
    let point = Point::new();
    let (own, home) = (own_ip(), world.directory("home"));
    let line = format!(
        "{} btfs user,noauto,cache_dir={},{} 0 0\n",
        point.text(),
        home.join("cache").display(),
        options(seed.addr, own)
    );
    std::fs::write(&fstab, format!("{} {line}", torrent.file.to_str().unwrap().replace(' ', "\\040"))).unwrap();
    if !Path::new("/etc/fstab").exists() {
        eprintln!("SKIPPED: there is no /etc/fstab to lay another one over");
        return;
    }
    run(bare("sh").args(["-c", script, "sh"]).arg(&fstab));
    for path in [point.0.as_path(), &home] {
        std::os::unix::fs::chown(path, Some(65534), Some(65534)).unwrap();
    }
    let by_user = |words: &[&str]| {
        let mut command = bare("setpriv");
        command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--"]).args(words).env("HOME", &home);
        command
    };
    if run_any(&mut by_user(&["test", "-x", "/run/program/btfs"])).status.code() != Some(0) {
        eprintln!("SKIPPED: the program under test is closed to ordinary users");
        return;
    }
    assert_eq!(outcome(&run_any(&mut by_user(&["mount", point.text()]))), (Some(0), String::new()));
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let entry = table.lines().find(|line| line.contains(&format!(" {} ", point.text()))).unwrap();
    assert!(entry.contains("user_id=65534") && entry.contains("noexec"), "{entry}");
    let film = point.0.join(&torrent.name).join("deep/film.bin");
    let original = torrent.data.join("deep/film.bin");
    run(&mut by_user(&["cmp", film.to_str().unwrap(), original.to_str().unwrap()]));
    let pid = point.pid();
    assert_eq!(outcome(&run_any(&mut by_user(&["umount", point.text()]))), (Some(0), String::new()));
    assert_eq!(wait_for("the process ends with its mount", BOUND, || try_reap(pid)), Some(0));
}
