//! `btfs tracker` as a process: what it prints, how it ends, what it keeps.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

fn btfs(room: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_btfs"));
    command.arg("tracker").env("HOME", room).env("XDG_STATE_HOME", room.join("state")).env_remove("BTFS_LOG");
    command.stdin(Stdio::null());
    command
}

/// A tracker that has said that it listens.
struct Running {
    child: Child,
    said: Value,
}

impl Running {
    fn start(room: &Path, arguments: &[&str]) -> Self {
        let mut command = btfs(room);
        command.args(["--json", "--listen", "127.0.0.1:0"]).args(arguments);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let said = serde_json::from_str(&line).unwrap_or_else(|_| {
            let _ = child.kill();
            let mut text = String::new();
            let _ = child.stderr.take().unwrap().read_to_string(&mut text);
            panic!("{line:?} {text}")
        });
        Self { child, said }
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.said["listen"][0].as_str().unwrap()).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn announce(&self, port: u16, more: &str) -> String {
        let hash = "%07".repeat(20);
        self.get(&format!("/announce?info_hash={hash}&peer_id=-XX0001-000000000000&port={port}{more}"))
    }

    /// Ends it; its exit status and what it said on standard error.
    fn end(mut self, signal: &str) -> (Option<i32>, String) {
        assert!(Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap().success());
        let started = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(started.elapsed() < Duration::from_secs(20), "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        };
        let mut text = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        (status.code(), text)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(output: &Output) -> String {
    [&output.stdout[..], &output.stderr].concat().iter().map(|&byte| char::from(byte)).collect()
}

#[test]
fn counts_survive_a_restart() {
    let room = tempfile::tempdir().unwrap();
    for signal in ["-TERM", "-INT"] {
        let running = Running::start(room.path(), &[]);
        running.announce(1000, "&left=0&event=started&uploaded=77");
        running.announce(2000, "&left=0&event=completed");
        let (status, log) = running.end(signal);
        assert_eq!((status, log.contains("WARN")), (Some(0), false), "{log}");
        let again = Running::start(room.path(), &[]);
        assert_eq!(again.said["restored"]["peers"], 2, "{}", again.said);
        let peers = again.announce(3000, "&left=5");
        assert!(peers.contains("5:peers12:") && peers.contains("10:downloadedi1e"), "{peers}");
        let stats = again.get("/stats.json");
        assert!(stats.contains("\"announced_uploaded_bytes\":77"), "{stats}");
        again.announce(3000, "&left=5&event=stopped");
        assert_eq!(again.end("-TERM").0, Some(0));
    }
}

#[test]
fn a_damaged_state_is_a_warning_and_a_fresh_start() {
    let room = tempfile::tempdir().unwrap();
    let running = Running::start(room.path(), &["--state-dir", room.path().join("s").to_str().unwrap()]);
    running.announce(1000, "&left=0");
    let state = room.path().join("s");
    assert_eq!(running.said["state_dir"], *state.to_str().unwrap());
    // One at a time.
    let second = btfs(room.path()).args(["--listen", "127.0.0.1:0", "--state-dir"]).arg(&state).output().unwrap();
    assert!(second.status.code() == Some(1) && text(&second).contains("another tracker"), "{}", text(&second));
    running.end("-TERM");
    let mut bytes = std::fs::read(state.join("swarms")).unwrap();
    bytes[30] ^= 1;
    std::fs::write(state.join("swarms"), bytes).unwrap();
    let again = Running::start(room.path(), &["--state-dir", state.to_str().unwrap()]);
    assert_eq!(again.said["restored"]["torrents"], 0);
    assert!(again.announce(2000, "&left=5").contains("5:peers0:"));
    let (status, log) = again.end("-TERM");
    assert!(status == Some(0) && log.contains("WARN") && log.contains("swarms.damaged"), "{log}");
}

#[test]
fn a_file_of_options_is_printed_and_read_and_judged() {
    let room = tempfile::tempdir().unwrap();
    let printed = btfs(room.path()).arg("--print-config").output().unwrap();
    assert!(printed.status.success());
    let file = room.path().join("tracker.toml");
    let text_of = String::from_utf8(printed.stdout).unwrap();
    std::fs::write(&file, text_of.replace("interval-seconds = 1800", "interval-seconds = 900")).unwrap();
    let running = Running::start(room.path(), &["--config", file.to_str().unwrap(), "--public-name", "t.example"]);
    assert!(running.announce(1, "&left=0").contains("8:intervali900e"));
    let url = running.said["announce"][1].as_str().unwrap();
    assert!(url.starts_with("udp://t.example:") && url.ends_with("/announce"), "{url}");
    running.end("-TERM");
    std::fs::write(&file, "listn = [\"7000\"]\n").unwrap();
    let wrong = btfs(room.path()).arg("--config").arg(&file).output().unwrap();
    let told = text(&wrong);
    assert_eq!(wrong.status.code(), Some(2), "{told}");
    assert!(told.contains("tracker.toml: line 1: unknown field `listn`") && told.lines().count() == 1, "{told}");
}

#[test]
fn a_port_that_is_taken_is_named() {
    let room = tempfile::tempdir().unwrap();
    let running = Running::start(room.path(), &[]);
    let addr = running.said["listen"][0].as_str().unwrap().to_owned();
    let second =
        btfs(room.path()).args(["--listen", &addr, "--state-dir"]).arg(room.path().join("b")).output().unwrap();
    assert!(second.status.code() == Some(1) && text(&second).contains(&addr), "{}", text(&second));
    // Also where only the datagrams' port is somebody else's.
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let third = btfs(room.path()).args(["--listen", &addr, "--state-dir"]).arg(room.path().join("b")).output().unwrap();
    assert!(third.status.code() == Some(1) && text(&third).contains("UDP"), "{}", text(&third));
}

#[test]
fn people_are_asked_for_where_a_tracker_is_and_a_new_directory_is_told_of() {
    let room = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let output = btfs(room.path()).current_dir(room.path()).args(arguments).output().unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let hash = "07".repeat(20);
    for arguments in [
        &["token", "list", "--state-dir", "typo"][..],
        &["user", "remove", "bob", "--state-dir", "typo"],
        &["remove", &hash, "--state-dir", "typo"],
    ] {
        let (status, _, error) = run(arguments);
        assert!(status == Some(1) && error.contains("typo: no tracker has used this directory"), "{error}");
        assert!(!room.path().join("typo").exists());
    }
    let (status, token, said) = run(&["token", "add", "alice", "--state-dir", "new"]);
    assert!(status == Some(0) && token.starts_with("btfs_") && said.contains("no tracker has used"), "{token} {said}");
    let (_, _, said) = run(&["token", "add", "bob", "--state-dir", "new"]);
    assert_eq!(said, "");
    let (status, list, said) = run(&["user", "list", "--state-dir", "new"]);
    assert_eq!((status, list.as_str()), (Some(0), ""));
    assert!(said.contains("btfs tracker user add"), "{said}");
    let (status, _, error) = run(&["remove", "07", "--state-dir", "new"]);
    assert!(status == Some(2) && error.contains("40 hexadecimal digits, or 64"), "{error}");
}
