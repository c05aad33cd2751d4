//! The same tests for an ordinary user, who mounts through fusermount3 and has no privilege.
//!
//! Each test here starts this test binary a second time, as uid and gid 65534, and has it run all tests of one module.
//! That happens inside a mount namespace of its own. There a `/dev/fuse` open to all and a fuse.conf lie over the
//! machine's (which are left alone), and the way to the builds, the sources and the peers is open as well.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::harness::payload::{Torrent, torrent, write_file};
use crate::harness::{World, as_root, btfs, can_mount, peers_directory, python, run, run_any, texts};

const NOBODY: u32 = 65534;

/// `test: module, how many of its tests at a time, [those of them that may say that they need root]`.
macro_rules! as_user {
    ($($test:ident: $module:literal, $threads:literal, [$($root:literal),*];)*) => {
        $(
            #[test]
            fn $test() {
                run_as_user($module, $threads, &[$($root),*]);
            }
        )*

        const MODULES: &[&str] = &[$($module),*];
    };
}

as_user! {
    bounded_caches: "cache::", 1, ["a_cache_on_a_read_only_disk_is_listed"];
    limits_of_rates: "limits::", 1, [];
    sharing_after_the_mount: "seeding::", 2, ["a_mount_that_is_refused_takes_nothing_over"];
    few_descriptors: "descriptors::", 1, [];
    torrents_that_come_and_go: "changes::", 2, [];
    altered_caches: "faults::altered::", 2, [];
    the_corpus: "faults::corpus::", 1, [];
    crowds: "faults::crowds::", 2, [];
    kills: "faults::kills::", 2, ["somebody_elses_file_system_is_never_touched"];
    signals: "faults::signals::", 2, [];
    stalls: "faults::stalls::", 2, [];
    contents: "semantics::data::", 2, [];
    endings: "semantics::endings::", 2, [
        "dead_mounts_over_each_other_are_cleared_away",
        "what_was_mounted_over_ours_is_left_alone"
    ];
    many_files: "semantics::many::", 1, [];
    the_model: "semantics::model::", 1, [];
    names: "semantics::names::", 2, [];
    // They wait for most of their time.
    readers: "semantics::readers::", 5, [
        "a_reader_in_another_pid_namespace_gets_its_bytes_and_can_be_killed",
        "readers_that_proc_hides_get_their_bytes"
    ];
    refusals: "semantics::refused::", 2, ["every_change_is_refused_after_a_remount_for_writing_as_well"];
    what_only_an_ordinary_user_meets: "users::alone::", 2, [];
    what_a_trusted_user_may: "users::trusted::", 1, [];
}

/// What an ordinary user cannot have: several users, a journal, helpers of mount(8), passthrough, mounts over mounts, a
/// disk of his own. The streams of a command are nobody's in particular.
const ROOTS_ALONE: &[&str] = &[
    "journal::",
    "owners::",
    "helper::",
    "semantics::passthrough::",
    "faults::covered::",
    "faults::disks::",
    "faults::streams::",
];

#[test]
fn no_test_of_roots_is_left_out() {
    let all = tests_of(&[]);
    let shared: Vec<_> =
        all.iter().filter(|name| !name.starts_with("users::") && !name.starts_with("harness::")).collect();
    assert!(shared.len() > 70, "{shared:?}");
    for name in shared {
        assert!(
            MODULES.iter().chain(ROOTS_ALONE).any(|module| name.starts_with(module)),
            "no ordinary user runs {name}"
        );
    }
}

/// The names of the tests of this binary that are run with these arguments.
fn tests_of(arguments: &[&str]) -> BTreeSet<String> {
    let itself = std::env::current_exe().unwrap();
    let listed = texts(&run(Command::new(itself).args(arguments).args(["--list", "--format", "terse"])));
    listed.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect()
}

/// Runs the tests of a module as an ordinary user: all must pass, and none be skipped but those named.
fn run_as_user(module: &str, threads: usize, needing_root: &[&str]) {
    if !can_mount() || !as_root("to set up another user's surroundings") {
        return;
    }
    // This module's are for the second start only, and ignored in the first; elsewhere an ignored test is a helper.
    let ours = module.starts_with("users::");
    let ignored = tests_of(&[module, "--ignored"]);
    let wanted = if ours { ignored } else { &tests_of(&[module]) - &ignored };
    assert!(!wanted.is_empty(), "{module} has tests");

    let surroundings = Surroundings::new(if module == "users::trusted::" { "user_allow_other\n" } else { "" });
    let threads = threads.to_string();
    let mut arguments = vec![module, "--show-output", "--test-threads", &threads];
    arguments.extend(ours.then_some("--ignored"));
    let output = run_any(&mut surroundings.command(&arguments));
    let said = texts(&output);
    eprintln!("{said}");
    assert!(output.status.success(), "as uid {NOBODY}: {}", output.status);
    assert!(said.contains(&format!("test result: ok. {} passed; 0 failed;", wanted.len())), "all of {wanted:?} ran");

    let skipped = skipped(&said);
    eprintln!("as uid {NOBODY}: {} passed, {} of them skipped: {skipped:?}", wanted.len(), skipped.len());
    for name in skipped {
        let known = name.strip_prefix(module).is_some_and(|name| needing_root.contains(&name));
        assert!(known, "{name} was skipped as an ordinary user");
    }
}

/// The tests that said so, in the output of a run that shows that of its tests.
fn skipped(said: &str) -> Vec<&str> {
    let mut test = "before any test";
    let mut skipped = Vec::new();
    for line in said.lines() {
        if let Some(name) = line.strip_prefix("---- ").and_then(|line| line.strip_suffix(" stdout ----")) {
            test = name;
        } else if line.starts_with("SKIPPED") {
            skipped.push(test);
        }
    }
    skipped
}

/// What an ordinary user finds: a home of their own, the usual programs, and an open way to what is under test.
struct Surroundings {
    directory: tempfile::TempDir,
}

impl Surroundings {
    fn new(fuse_conf: &str) -> Self {
        let directory = tempfile::Builder::new().prefix("btfs-user-").tempdir().unwrap();
        for (name, mode) in [("", 0o755), ("dev", 0o755), ("kept", 0o755), ("home", 0o777)] {
            let path = directory.path().join(name);
            std::fs::create_dir_all(&path).unwrap();
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        std::fs::write(directory.path().join("fuse.conf"), fuse_conf).unwrap();
        Self { directory }
    }

    /// This test binary with these arguments, as the user.
    fn command(&self, arguments: &[&str]) -> Command {
        let (root, home) = (self.directory.path(), self.directory.path().join("home"));
        let itself = std::env::current_exe().unwrap();
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", SCRIPT, "sh"]).arg(root).args(needed());
        command.arg("--").arg(itself).args(arguments);
        command.env("HOME", &home).env("TMPDIR", &home);
        // Nothing of root's own: its python may lie where the user cannot walk.
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }
}

/// The directories the user needs.
fn needed() -> Vec<PathBuf> {
    let directory = |file: PathBuf| file.parent().unwrap().to_path_buf();
    let mut needed =
        vec![PathBuf::from(env!("CARGO_MANIFEST_DIR")), directory(btfs()), directory(std::env::current_exe().unwrap())];
    needed.extend(peers_directory().canonicalize());
    // Where the peers' python is installed.
    needed.extend(python().canonicalize().iter().filter_map(|file| file.ancestors().nth(2)).map(Path::to_path_buf));
    needed
}

/// Arguments: the surroundings, the directories needed, `--`, the command. A tmpfs is for the device node, as /tmp may
/// forbid devices; others lie over the directories where only root may walk, and show there what is needed. (To the
/// user that takes nothing away.)
const SCRIPT: &str = r#"
set -e
user() { setpriv --reuid 65534 --regid 65534 --clear-groups "$@"; }
root=$1; shift
mount -t tmpfs -o mode=755 none "$root/dev"
mknod -m 666 "$root/dev/fuse" c 10 229
mount --bind "$root/dev/fuse" /dev/fuse
mount --bind "$root/fuse.conf" /etc/fuse.conf
keep=0
for path in "$@"; do
    [ "$path" != -- ] || break
    keep=$((keep + 1))
    mkdir "$root/kept/$keep"
    mount --bind "$path" "$root/kept/$keep"
done
keep=0
while path=$1; shift; [ "$path" != -- ]; do
    keep=$((keep + 1))
    user test -x "$path" && continue
    closed= at=$path
    while at=$(dirname "$at"); [ "$at" != / ]; do
        [ ! -d "$at" ] || user test -x "$at" || closed=$at
    done
    [ -z "$closed" ] || mount -t tmpfs -o mode=755 none "$closed"
    mkdir -p "$path"
    mount --bind "$root/kept/$keep" "$path"
done
cd "$root"
exec setpriv --reuid 65534 --regid 65534 --clear-groups "$@"
"#;

/// Ignored in the first start.
mod alone {
    use std::fs::File;
    use std::os::unix::fs::MetadataExt;
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use super::{NOBODY, one_file};
    use crate::harness::mount::is_mounted;
    use crate::harness::payload::{assert_range, assert_same};
    use crate::harness::{World, run, texts};

    #[test]
    #[ignore = "run as an ordinary user by the test above"]
    fn the_mount_is_the_users_own() {
        // SAFETY: no arguments, no failure.
        assert_eq!(unsafe { libc::geteuid() }, NOBODY);
        let world = World::new();
        let torrent = one_file(&world, 3_000_001);
        let seed = world.seed(&torrent); // this program at both ends
        let mut mount = world.mount(&torrent).peer(seed.addr).start();
        let path = mount.path(&torrent.name);
        let metadata = std::fs::metadata(&path).unwrap();
        assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o7777), (NOBODY, NOBODY, 0o444));
        assert_same(&path, &torrent.data);
        run(Command::new("fusermount3").arg("-u").arg(&mount.point));
        assert_eq!(mount.wait_end(Duration::from_secs(5)), Some(0));
    }

    #[test]
    #[ignore = "run as an ordinary user by the test above"]
    fn an_ordinary_user_is_told_what_allow_other_needs() {
        let world = World::new();
        let torrent = one_file(&world, 100_000);
        for arguments in [&["--allow-other"][..], &["-o", "allow_other", "--foreground"]] {
            let output = world.mount(&torrent).args(arguments).attempt();
            let said = texts(&output);
            assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{said}");
            assert!(
                said.contains("--allow-other") && said.contains("\"user_allow_other\" in /etc/fuse.conf"),
                "{said}"
            );
            assert!(!is_mounted(&world.path("mnt")));
        }
    }

    #[test]
    #[ignore = "run as an ordinary user by the test above"]
    fn complete_files_are_read_without_passthrough() {
        let world = World::new();
        let torrent = one_file(&world, 4 << 20);
        let seed = world.seed(&torrent);
        let mount = world.mount(&torrent).peer(seed.addr).start();
        let path = mount.path(&torrent.name);
        assert_same(&path, &torrent.data);
        mount.umount();
        drop(seed);

        // Complete from its first open on: the try fails, and nobody sees it.
        let mount = world.mount(&torrent).start();
        let opens: Vec<File> = (0..3).map(|_| File::open(&path).unwrap()).collect();
        mount.signal(libc::SIGSTOP);
        let mut sum =
            Command::new("sha1sum").stdin(opens[0].try_clone().unwrap()).stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(300)); // what must not happen in it would take 10 ms
        let early = sum.try_wait().unwrap();
        mount.signal(libc::SIGCONT);
        assert_eq!(early, None, "it waits for us");
        assert!(sum.wait().unwrap().success());
        for file in &opens {
            assert_range(file, &File::open(&torrent.data).unwrap(), 1_000_000, 70_000);
        }
        assert_same(&path, &torrent.data);
        assert!(!world.logs().contains("ERROR"), "{}", world.logs());
        drop(opens);
        mount.umount();
    }
}

/// As [`alone`], where root has consented in fuse.conf.
mod trusted {
    use std::os::unix::fs::MetadataExt;

    use super::one_file;
    use crate::harness::World;
    use crate::harness::payload::assert_same;

    #[test]
    #[ignore = "run as an ordinary user by the test above"]
    fn an_ordinary_user_lets_others_in_where_fuse_conf_allows_it() {
        let world = World::new();
        let torrent = one_file(&world, 100_000);
        let seed = world.seed(&torrent);
        let mount = world.mount(&torrent).peer(seed.addr).args(&["--allow-other", "--uid", "1"]).start();
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let line = table.lines().find(|line| line.contains(mount.point.to_str().unwrap())).unwrap();
        assert!(line.contains("allow_other") && line.contains("default_permissions"), "{line}");
        let path = mount.path(&torrent.name);
        assert_eq!(std::fs::metadata(&path).unwrap().uid(), 1);
        assert_same(&path, &torrent.data);
        mount.umount();
    }
}

fn one_file(world: &World, length: u64) -> Torrent {
    let path = world.path("original/file.bin");
    write_file(&path, 3, length);
    torrent(&path, 64 << 10, &[])
}
