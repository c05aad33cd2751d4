//! The commands as a user meets them: verdicts, help, usage errors, and that a refusal leaves nothing behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// A home of one's own for each test: cache, state and runtime directories lie below it.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        let home = Self(tempfile::tempdir().unwrap());
        fs::create_dir(home.path("mnt")).unwrap();
        fs::create_dir(home.path("data")).unwrap();
        home
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn btfs(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_btfs"))
            .args(arguments)
            .current_dir(self.0.path())
            .env("HOME", self.0.path())
            .env("XDG_CACHE_HOME", self.path("cache"))
            .env("XDG_STATE_HOME", self.path("state"))
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .env_remove("BTFS_LOG")
            .env_remove("INVOCATION_ID")
            .env_remove("JOURNAL_STREAM")
            .output()
            .unwrap()
    }

    /// Everything that lies in it, the mount point and the data aside.
    fn leftovers(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut left = vec![self.0.path().to_path_buf()];
        while let Some(directory) = left.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path == self.path("mnt") || path == self.path("data") {
                    continue;
                }
                found.push(path.clone());
                if path.is_dir() {
                    left.push(path);
                }
            }
        }
        found
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn torrents(prefix: char) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/torrents");
    let mut paths: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.file_name().unwrap().to_str().unwrap().starts_with(prefix));
    paths.sort();
    paths
}

fn torrent(name: &str) -> String {
    format!("{}/tests/corpus/torrents/{name}.torrent", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn a_reject_is_one_line_and_leaves_nothing_behind() {
    let home = Home::new();
    let rejects = torrents('r');
    assert_eq!(rejects.len(), 121);
    for path in rejects {
        let file = path.to_str().unwrap();
        for command in [&["mount", file, "mnt"][..], &["mount", "-f", file, "mnt"], &["seed", file, "data"]] {
            let started = Instant::now();
            let output = home.btfs(command);
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{command:?}: {said}");
            assert!(said.starts_with(&format!("btfs: {file}: not a usable torrent: ")), "{said}");
            assert_eq!((said.lines().count(), output.stdout.len()), (1, 0), "{said}");
            assert!(started.elapsed() < Duration::from_secs(20), "{command:?}");
        }
    }
    assert_eq!(home.leftovers(), Vec::<PathBuf>::new());
}

#[test]
fn one_bad_torrent_among_good_ones_stops_them_all() {
    let home = Home::new();
    let output = home.btfs(&["mount", &torrent("v01-single"), &torrent("r010-gzip"), "mnt"]);
    assert_eq!((output.status.code(), text(&output.stderr).lines().count()), (Some(1), 1));
    let output = home.btfs(&["mount", &torrent("v01-single"), &torrent("v01-single"), "mnt"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).ends_with("the torrent is given twice\n"));
    assert_eq!(home.leftovers(), Vec::<PathBuf>::new());
}

#[test]
fn a_v2_only_torrent_is_refused_by_mount_and_seed_with_the_reason() {
    let home = Home::new();
    let expected = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/expected.tsv")).unwrap();
    let v2_only = expected.lines().map(|row| row.split('\t').collect::<Vec<_>>());
    let v2_only: Vec<_> =
        v2_only.filter(|row| row[2].starts_with("accept") && row[4] == "-").map(|row| row[0]).collect();
    assert!(!v2_only.is_empty());
    for file in v2_only {
        let file = torrent(file.trim_end_matches(".torrent"));
        for command in [["mount", &file, "mnt"], ["seed", &file, "data"]] {
            let output = home.btfs(&command);
            let said = text(&output.stderr);
            assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{said}");
            assert!(said.contains("v2-only"), "{said}");
        }
    }
    assert_eq!(home.leftovers(), Vec::<PathBuf>::new());
}

#[test]
fn problems_with_the_mount_point_or_the_data_are_one_line_with_the_path() {
    let home = Home::new();
    fs::write(home.path("data/file"), "x").unwrap();
    let good = torrent("v01-single");
    for (command, path) in [
        (["mount", good.as_str(), "nowhere"], "nowhere"),
        (["mount", good.as_str(), "data/file"], "file"),
        (["mount", good.as_str(), "/proc"], "/proc"),
        (["mount", "nothing.torrent", "mnt"], "nothing.torrent"),
        (["mount", "data", "mnt"], "data"),
        (["mount", "--watch=nowhere", "mnt"], "nowhere"),
        (["mount", "--watch=data/file", "mnt"], "data/file"),
        (["mount", "magnet:?xt=urn:btih:0", "mnt"], "magnet"),
        (["seed", good.as_str(), "nodata"], "nodata"),
        (["seed", "nothing.torrent", "data"], "nothing.torrent"),
    ] {
        let output = home.btfs(&command);
        let said = text(&output.stderr);
        assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{command:?}: {said}");
        assert!(said.starts_with("btfs: ") && said.contains(path), "{said}");
        assert_eq!(home.leftovers(), Vec::<PathBuf>::new(), "{command:?}");
    }
    for cache in ["data/file", "data/file/below"] {
        let output = home.btfs(&["mount", "--cache-dir", cache, &good, "mnt"]);
        let said = text(&output.stderr);
        assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{said}");
        assert!(said.contains(cache) && said.contains("name another directory with --cache-dir"), "{said}");
    }
    let output = home.btfs(&["mount", "--cache-dir", "mnt/cache", &good, "mnt"]);
    assert!(text(&output.stderr).contains("inside the mount"), "{}", text(&output.stderr));
    assert_eq!((output.status.code(), home.path("mnt/cache").exists()), (Some(1), false));
}

#[test]
fn mistakes_on_the_command_line_are_usage_errors() {
    let home = Home::new();
    let good = torrent("v01-single");
    for (command, said) in [
        (&["mount"][..], "Usage"),
        (&["mount", &good][..], "MOUNTPOINT"),
        (&["dance"][..], "dance"),
        (&["mount", "--fill", "some", &good, "mnt"][..], "some"),
        (&["mount", "-o", "ro,colour=red", &good, "mnt"][..], "colour=red"),
        (&["mount", "--log", "a=b=c", &good, "mnt"][..], "--log"),
        (&["seed", &good, "data", &good][..], "needs the path of its data"),
        (&["seed", &good][..], "Usage"),
        (&["mount", "", "mnt"][..], "TORRENT"),
        (&["mount", &good, ""][..], "MOUNTPOINT"),
        (&["seed", "", "data"][..], "TORRENT"),
        (&["seed", &good, ""][..], "DATA"),
        (&["add", "mnt"][..], "TORRENT"),
        (&["remove", "mnt"][..], "NAME|HASH"),
        (&["mount", "--watch", "data"][..], "MOUNTPOINT"),
        (&["create", "nowhere", "-n", "a/b"][..], "--name a/b"),
        (&["mount", "--max-peers", "0", &good, "mnt"][..], "--max-peers"),
    ] {
        let output = home.btfs(command);
        assert_eq!(output.status.code(), Some(2), "{command:?}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains(said), "{}", text(&output.stderr));
    }
}

#[test]
fn every_command_has_a_help_that_fits_its_options() {
    let home = Home::new();
    let commands = [
        "mount",
        "umount",
        "add",
        "remove",
        "set",
        "stop",
        "status",
        "show",
        "create",
        "edit",
        "get",
        "seed",
        "share",
        "verify",
        "demo",
        "completions",
        "man",
    ];
    let output = home.btfs(&["--help"]);
    assert!(output.status.success());
    for command in commands {
        assert!(text(&output.stdout).contains(&format!("  {command} ")), "{command}");
        for flag in ["-h", "--help"] {
            let output = home.btfs(&[command, flag]);
            assert!(output.status.success() && text(&output.stdout).contains("Usage: btfs"), "{command} {flag}");
            assert!(text(&output.stdout).lines().all(|line| line.chars().count() <= 100), "{command} {flag}");
        }
    }
    for option in [
        "--cache-dir",
        "--read-timeout",
        "--watch",
        "--fill",
        "--readahead",
        "--port",
        "--bind",
        "--max-peers",
        "--max-per-address",
        "--peer",
        "--uid",
        "--no-upload",
        "--allow-other",
        "--gid",
        "--foreground",
        "--options",
        "--log",
        "--tracker",
        "--no-tracker",
        "--max-upload",
        "--max-download",
        "--torrent-max-upload",
        "--torrent-max-download",
        "--upload-slots",
        "--max-connections",
        "--max-half-open",
        "--seed-after-unmount",
        "--seed-ratio",
        "--seed-time",
        "--seed-idle",
        "--even-as-last-seed",
    ] {
        assert!(text(&home.btfs(&["mount", "--help"]).stdout).contains(option), "{option}");
    }
    // What concerns the swarm and the cache means the same wherever there is one.
    let swarm = |command: &str| {
        let output = home.btfs(&[command, "--help"]);
        let text = text(&output.stdout).to_owned();
        let from = text.find("Swarm:").expect("its heading");
        text[from..].lines().take_while(|line| !line.starts_with("Examples")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(swarm("mount"), swarm("seed"));
}

#[test]
fn nothing_to_share_is_said_instead_of_sharing() {
    let home = Home::new();
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/torrents");
    let torrent = directory.join("v02-multi.torrent");
    for more in [&[][..], &["--json"]] {
        let mut command = vec!["seed", torrent.to_str().unwrap(), "data", "--bind", "127.0.0.1", "--no-tracker"];
        command.extend(more);
        let output = home.btfs(&command);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("nothing to share"), "{said}");
        assert_eq!(text(&output.stdout), "");
    }
}

/// A process that ends with the test.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn signals_that_were_ignored_at_the_start_stay_ignored() {
    let home = Home::new();
    let child = Command::new("sh")
        .args(["-c", "trap '' HUP INT && exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_btfs"), "tracker"])
        .args(["--listen", "127.0.0.1:0", "--state-dir", "state", "--json"])
        .current_dir(home.0.path())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut running = Running(child);
    let child = &mut running.0;
    let pid = child.id() as libc::pid_t;
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.as_mut().unwrap()), &mut line).unwrap();
    assert!(line.contains("announce"), "{line}");
    wait_caught(pid, libc::SIGTERM);
    let ignored = signals(pid, "SigIgn");
    assert!(ignored & (1 << (libc::SIGINT - 1)) != 0, "{ignored:x}");
    // (A hang-up has a tracker read its lists anew; it is not to end it.)
    wait_caught(pid, libc::SIGHUP);
    // SAFETY: signals to a child that has not been waited for.
    unsafe {
        libc::kill(pid, libc::SIGHUP);
        libc::kill(pid, libc::SIGINT);
    }
    assert!(child.try_wait().unwrap().is_none());
    // SAFETY: as above.
    unsafe { libc::kill(pid, libc::SIGTERM) };
    assert!(child.wait().unwrap().success(), "the first one that counts ends it in order");
}

/// One of the masks of signals that the kernel shows of a process.
fn signals(pid: libc::pid_t, mask: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(mask)).unwrap();
    u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap()
}

/// Waits until a process has a handler for a signal.
fn wait_caught(pid: libc::pid_t, signal: libc::c_int) {
    let started = Instant::now();
    while signals(pid, "SigCgt") & (1 << (signal - 1)) == 0 {
        assert!(started.elapsed() < Duration::from_secs(30), "no handler");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_cache_that_is_not_there_is_empty_and_looking_makes_none() {
    let home = Home::new();
    for command in [&["cache", "list"][..], &["cache", "prune"], &["cache", "prune", "--dry-run"]] {
        let output = home.btfs(command);
        assert!(output.status.success(), "{command:?}: {}", text(&output.stderr));
        assert!(text(&output.stdout).contains("0 B"), "{}", text(&output.stdout));
    }
    let json = home.btfs(&["cache", "list", "--json"]);
    assert!(text(&json.stdout).contains("\"slots\":[]"), "{}", text(&json.stdout));
    assert_eq!(home.leftovers(), Vec::<PathBuf>::new());
}

#[test]
fn asking_where_nothing_runs_is_answered_plainly() {
    let home = Home::new();
    let good = torrent("v01-single");
    for command in [
        &["umount", "mnt"][..],
        &["umount", "nowhere"],
        &["status", "mnt"],
        &["umount", "/proc"],
        &["add", "mnt", &good],
        &["remove", "mnt", "x"],
        &["set", "mnt", "--max-upload", "1M"],
        &["set", "999999999"],
        &["stop", "999999999"],
    ] {
        let output = home.btfs(command);
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains("no btfs mount"), "{}", text(&output.stderr));
    }
    assert!(home.btfs(&["status"]).status.success());
}
