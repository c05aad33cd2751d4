//! Logging to systemd's journal, when systemd has started us.
//!
//! Each test starts itself a second time inside a mount namespace of its own with an empty `/run`, so that the journal
//! of the machine is left alone: there the test is the journal's socket, or a real systemd-journald runs.

use std::collections::HashMap;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::harness::payload::{Torrent, torrent, write_file};
use crate::harness::process::Process;
use crate::harness::{World, as_root, can_mount, run_any, texts, wait_for, wait_until};

const INSIDE: &str = "BTFS_TEST_JOURNAL";
const SOCKET: &str = "/run/systemd/journal/socket";
const BOUND: Duration = Duration::from_secs(20);
/// As systemd starts a service: standard error is the journal's, and a variable says so.
const AS_SERVICE: &[&str] = &["sh", "-c", AS_SERVICE_SCRIPT, "sh"];
const AS_SERVICE_SCRIPT: &str =
    r#"export INVOCATION_ID=0123 JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2); exec "$@""#;

/// Whether this is the second start. In the first, the second is run and has to succeed.
fn inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    if !can_mount() || !as_root("to have a /run of its own") {
        return false;
    }
    let script = r#"mount -t tmpfs none /run && mkdir -p /run/systemd/journal && exec "$0" --exact "$1" --nocapture"#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", script]);
    command.arg(std::env::current_exe().unwrap()).arg(format!("journal::{test}")).env(INSIDE, "1");
    let output = run_any(&mut command);
    eprintln!("{}", texts(&output));
    assert!(output.status.success() && texts(&output).contains("1 passed"), "{}", output.status);
    false
}

fn small(world: &World) -> Torrent {
    let path = world.path("original/file.bin");
    write_file(&path, 1, 100_000);
    torrent(&path, 64 << 10, &[])
}

/// Where the journal's socket would be.
struct Journal(UnixDatagram);

impl Journal {
    fn listen() -> Self {
        let socket = UnixDatagram::bind(SOCKET).unwrap();
        socket.set_read_timeout(Some(BOUND)).unwrap();
        Self(socket)
    }

    /// The next record with this message.
    fn hear(&self, message: &str) -> HashMap<String, String> {
        loop {
            let mut datagram = vec![0; 65536];
            let length = self.0.recv(&mut datagram).unwrap_or_else(|error| panic!("{message}: {error}"));
            let record = fields(&datagram[..length]);
            if record.get("MESSAGE").is_some_and(|text| text == message) {
                return record;
            }
        }
    }

    fn is_quiet(&self) -> bool {
        self.0.set_nonblocking(true).unwrap();
        let mut datagram = [0; 1024];
        // An empty one asks only whether somebody listens.
        while let Ok(length) = self.0.recv(&mut datagram) {
            if length > 0 {
                return false;
            }
        }
        true
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(SOCKET);
    }
}

/// Reads the journal's native protocol: `NAME=value\n`, or `NAME\n`, a little-endian length of 8 bytes, the value, `\n`.
fn fields(mut record: &[u8]) -> HashMap<String, String> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let mut found = HashMap::new();
    while let Some(end) = record.iter().position(|&byte| byte == b'\n') {
        let (line, rest) = (&record[..end], &record[end + 1..]);
        if let Some(equals) = line.iter().position(|&byte| byte == b'=') {
            found.insert(text(&line[..equals]), text(&line[equals + 1..]));
            record = rest;
        } else {
            let (length, rest) = rest.split_at(8);
            let length = u64::from_le_bytes(length.try_into().unwrap()) as usize;
            found.insert(text(line), text(&rest[..length]));
            record = &rest[length + 1..];
        }
    }
    found
}

/// The log files of this world.
fn log_files(world: &World) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(world.path("state/btfs")).into_iter().flatten();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn a_mount_that_systemd_started_logs_to_the_journal_with_fields() {
    if !inside("a_mount_that_systemd_started_logs_to_the_journal_with_fields") {
        return;
    }
    let world = World::new();
    let torrent = small(&world);
    let journal = Journal::listen();

    let mount = world.mount(&torrent).wrapped(AS_SERVICE).start();
    let record = journal.hear("mounted");
    let expected = [
        ("PRIORITY", "5"),
        ("SYSLOG_IDENTIFIER", "btfs"),
        ("TARGET", "btfs::cli::mount"),
        ("F_MOUNTPOINT", mount.point.to_str().unwrap()),
        ("F_TORRENTS", "1"),
    ];
    for (name, value) in expected {
        assert_eq!(record.get(name).map(String::as_str), Some(value), "{record:?}");
    }
    assert_eq!(mount.status()["log"], "the journal (journalctl -t btfs)");
    mount.umount();
    assert_eq!(journal.hear("ending")["F_REASON"], "Asked");

    let (mut process, mount) = world.mount(&torrent).wrapped(AS_SERVICE).foreground();
    journal.hear("mounted");
    process.signal(libc::SIGTERM);
    assert_eq!(process.wait(BOUND), Some(0));
    assert_eq!(journal.hear("ending")["F_REASON"], "Signal");
    assert!(!process.log().contains("ending"), "not twice: {}", process.log());
    drop(mount);
    assert_eq!(log_files(&world), Vec::<PathBuf>::new());
}

#[test]
fn a_mount_that_only_inherits_the_variable_logs_as_anywhere() {
    if !inside("a_mount_that_only_inherits_the_variable_logs_as_anywhere") {
        return;
    }
    let world = World::new();
    let torrent = small(&world);
    let journal = Journal::listen();
    // A terminal that was started by the user's systemd hands these down to every command.
    let in_terminal = || world.mount(&torrent).env("INVOCATION_ID", "0123").env("JOURNAL_STREAM", "9:4711");
    let mount = in_terminal().start();
    mount.umount();
    let logs = log_files(&world);
    assert_eq!(logs.len(), 1, "{logs:?}");
    assert!(std::fs::read_to_string(&logs[0]).unwrap().contains("mounted"));
    let (mut process, mount) = in_terminal().foreground();
    wait_until("its log is seen", BOUND, || process.log().contains("INFO"));
    process.signal(libc::SIGTERM);
    assert_eq!(process.wait(BOUND), Some(0));
    drop(mount);
    assert!(journal.is_quiet());

    // Started by systemd, but its journal is gone: better a file than no mount.
    drop(journal);
    std::fs::remove_file(&logs[0]).unwrap();
    world.mount(&torrent).wrapped(AS_SERVICE).start().umount();
    assert!(std::fs::read_to_string(&logs[0]).unwrap().contains("mounted"));
    let abandoned = UnixDatagram::bind(SOCKET).unwrap();
    drop(abandoned); // the socket's file stays
    std::fs::remove_file(&logs[0]).unwrap();
    world.mount(&torrent).wrapped(AS_SERVICE).start().umount();
    assert!(std::fs::read_to_string(&logs[0]).unwrap().contains("mounted"));
}

#[test]
fn the_journal_of_systemd_shows_what_a_mount_logs() {
    let journald = ["/usr/lib/systemd/systemd-journald", "/lib/systemd/systemd-journald"];
    let Some(journald) = journald.into_iter().find(|path| Path::new(path).exists()) else {
        eprintln!("SKIPPED: there is no systemd-journald");
        return;
    };
    if !inside("the_journal_of_systemd_shows_what_a_mount_logs") {
        return;
    }
    let world = World::new();
    let torrent = small(&world);
    // The kernel's messages and its audit are none of the test's business; all is kept below the new /run.
    let config = Path::new("/run/systemd/journald.conf.d");
    std::fs::create_dir(config).unwrap();
    let options = "[Journal]\nStorage=volatile\nReadKMsg=no\nAudit=\nForwardToSyslog=no\nForwardToWall=no\n";
    std::fs::write(config.join("test.conf"), options).unwrap();
    let mut daemon = Process::start(&mut Command::new(journald), &world.path("journald.log"));
    wait_until("journald listens", BOUND, || {
        daemon.assert_alive();
        Path::new(SOCKET).exists() && Path::new("/run/systemd/journal/stdout").exists()
    });

    let service: Vec<&str> = ["systemd-cat", "--"].iter().chain(AS_SERVICE).copied().collect();
    let mount = world.mount(&torrent).wrapped(&service).start();
    let record = wait_for("the journal has it", BOUND, || {
        let mut journalctl = Command::new("journalctl");
        journalctl.args(["-D", "/run/log/journal", "-t", "btfs", "-o", "json", "--no-pager", "-q"]);
        let output = run_any(&mut journalctl);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let records = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        records.into_iter().find(|record| record["MESSAGE"] == "mounted")
    });
    assert_eq!(record["_PID"], mount.pid().to_string(), "{record}");
    assert_eq!((&record["_TRANSPORT"], &record["PRIORITY"]), (&"journal".into(), &"5".into()), "{record}");
    assert_eq!(record["F_MOUNTPOINT"], mount.point.to_str().unwrap(), "{record}");
    mount.umount();
    daemon.assert_alive();
}
