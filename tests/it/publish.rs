//! The index as a whole: `btfs tracker` with its tokens and users, `btfs publish`, announces, kills.

mod disks;
mod folder;
mod kills;
mod lists;
mod power;
mod ratios;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::index::torrents::named;

fn btfs(room: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_btfs"));
    command.args(arguments).current_dir(room).env("HOME", room).env("XDG_STATE_HOME", room.join("state"));
    command.env_remove("BTFS_LOG").env_remove("BTFS_TOKEN").stdin(Stdio::null());
    command
}

/// What a command says on standard output; it must be fine.
#[track_caller]
fn say(room: &Path, arguments: &[&str]) -> String {
    let Output { status, stdout, stderr } = btfs(room, arguments).output().unwrap();
    assert!(status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap().trim_end().to_owned()
}

/// A tracker that listens.
struct Running {
    child: Child,
    /// Of the tracker, whoever has started it.
    pid: u32,
    addr: String,
}

impl Running {
    fn start(room: &Path, more: &[&str]) -> Self {
        let mut command = btfs(room, &["tracker", "--json", "--listen", "127.0.0.1:0"]);
        let log = std::fs::OpenOptions::new().create(true).append(true).open(room.join("log")).unwrap();
        command.args(more).stderr(log);
        Self::spawn(command)
    }

    /// What runs `btfs tracker --json` somehow.
    fn spawn(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let said: serde_json::Value = serde_json::from_str(&line).expect("it listens");
        let pid = said["pid"].as_u64().unwrap() as u32;
        Self { child, pid, addr: said["listen"][0].as_str().unwrap().to_owned() }
    }

    fn get(&self, path: &str) -> String {
        String::from_utf8_lossy(&self.ask(path)).into_owned()
    }

    /// The whole answer.
    fn ask(&self, path: &str) -> Vec<u8> {
        let mut stream = TcpStream::connect(&self.addr).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.addr).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer
    }

    /// Whether an announce for the torrent is answered with peers.
    fn takes(&self, prefix: &str, name: &str) -> bool {
        let hash: String = named(name).info_hash().0.iter().map(|byte| format!("%{byte:02x}")).collect();
        let answer =
            self.get(&format!("{prefix}/announce?info_hash={hash}&peer_id=-XX0001-000000000000&port=1000&left=0"));
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        !answer.contains("failure reason")
    }

    /// The answer to one upload; `None` when the connection broke.
    fn upload(addr: &str, token: &str, file: &[u8]) -> Option<String> {
        let mut stream = TcpStream::connect(addr).ok()?;
        let head = format!(
            "POST /api/torrents HTTP/1.1\r\nHost: {addr}\r\nAuthorization: Bearer {token}\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n",
            file.len()
        );
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(file)).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(60), "not within a minute: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_torrent_is_published_found_tracked_and_removed() {
    let room = tempfile::tempdir().unwrap();
    let token = say(room.path(), &["tracker", "token", "add", "alice"]);
    assert!(say(room.path(), &["tracker", "token", "list"]).ends_with("  alice"));
    let server = Running::start(room.path(), &["--allow", "listed"]);
    std::fs::write(room.path().join("film.torrent"), named("My film").bytes()).unwrap();
    let to = format!("http://{}/", server.addr);
    let publish = ["publish", "film.torrent", "--to", &to];

    let refused = btfs(room.path(), &publish).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("BTFS_TOKEN"));
    let refused = btfs(room.path(), &publish).env("BTFS_TOKEN", "wrong").output().unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("token that is valid here"), "{refused:?}");
    assert!(!server.takes("", "My film"), "not listed yet");

    let said = btfs(room.path(), &publish).env("BTFS_TOKEN", &token).output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    let hash = named("My film").info_hash();
    assert!(
        said.contains("film.torrent: published\n")
            && said.contains(&format!("btfs mount http://{}/torrent/{hash}.torrent", server.addr)),
        "{said}"
    );
    let again = say(room.path(), &[&publish[..], &["--token", &token, "--json"]].concat());
    assert_eq!(serde_json::from_str::<serde_json::Value>(&again).unwrap()["new"], false);

    assert!(server.takes("", "My film") && !server.takes("", "another"));
    let page = server.get("/?q=film");
    assert!(page.contains("My film") && page.contains("swarm thin"), "{page}");

    assert_eq!(say(room.path(), &["tracker", "remove", &hash.to_string()]), "removed");
    until("a removed torrent is not tracked", || !server.takes("", "My film"));
    assert!(server.get("/?q=film").contains("Nothing fits"));
    assert_eq!(btfs(room.path(), &["tracker", "remove", &hash.to_string()]).output().unwrap().status.code(), Some(1));
    say(room.path(), &["tracker", "token", "remove", "alice"]);
    let refused = btfs(room.path(), &[&publish[..], &["--token", &token]].concat()).output().unwrap();
    assert_eq!(refused.status.code(), Some(1), "a token that was removed is good no more");
}

#[test]
fn what_is_made_is_published_on_request() {
    let room = tempfile::tempdir().unwrap();
    let token = say(room.path(), &["tracker", "token", "add", "alice"]);
    let server = Running::start(room.path(), &["--allow", "listed"]);
    std::fs::write(room.path().join("clip.mkv"), "1").unwrap();
    let (announce, index) = (format!("http://{}/announce", server.addr), format!("http://{}", server.addr));
    let create = ["create", "clip.mkv", "-f", "-a", &announce, "--publish", &index];
    let refused = btfs(room.path(), &create).output().unwrap();
    assert_eq!(refused.status.code(), Some(1), "it is made, but not published: {refused:?}");
    let made = btfs(room.path(), &create).env("BTFS_TOKEN", &token).output().unwrap();
    let said = String::from_utf8_lossy(&made.stdout);
    assert!(made.status.success() && said.contains("clip.mkv.torrent: published\n"), "{made:?}");
    assert!(server.get("/?q=clip").contains("clip.mkv"));
}

#[test]
fn a_private_tracker_serves_users_while_they_are_there() {
    let room = tempfile::tempdir().unwrap();
    let server = Running::start(room.path(), &["--allow", "private"]);
    assert!(!server.takes("", "x"));
    let passkey = say(room.path(), &["tracker", "user", "add", "bob"]);
    let prefix = format!("/{passkey}");
    until("a new user is let in", || server.takes(&prefix, "x"));
    let listed = say(room.path(), &["tracker", "user", "list", "--json"]);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&listed).unwrap()["passkey"], passkey);
    assert!(!server.takes("/0123456789abcdef0123456789abcdef", "x"));
    say(room.path(), &["tracker", "user", "remove", "bob"]);
    until("a removed user is let in no more", || !server.takes(&prefix, "x"));
    assert_eq!(btfs(room.path(), &["tracker", "user", "remove", "bob"]).output().unwrap().status.code(), Some(1));
}

#[test]
fn requests_of_the_corpus_for_the_index_get_their_outcome() {
    let room = tempfile::tempdir().unwrap();
    let server = Running::start(room.path(), &[]);
    for (file, status) in [("htreq-rebind-host", 421), ("htreq-csrf-origin", 403), ("htreq-xss-search", 200)] {
        let bytes = std::fs::read(format!("tests/corpus/wire/{file}.bin")).unwrap();
        let mut stream = TcpStream::connect(&server.addr).unwrap();
        stream.write_all(&bytes).unwrap();
        // One answer; then the connection may stay open.
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(reader.read_line(&mut head).unwrap() > 0, "{file}: {head}");
        }
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{file}: {head}");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.expect("a length")];
        reader.read_exact(&mut body).unwrap();
        let body = String::from_utf8(body).unwrap();
        let whole = body.contains("</html>") || body.starts_with("{\"error\":\"");
        assert!(whole && !body.contains("<script>"), "{file}: {body}");
    }
}

#[test]
fn what_is_no_index_is_said_to_be_none() {
    let room = tempfile::tempdir().unwrap();
    std::fs::write(room.path().join("film.torrent"), named("film").bytes()).unwrap();
    std::fs::write(room.path().join("bad.torrent"), "no torrent").unwrap();
    std::fs::write(room.path().join("open.toml"), "open-upload = true").unwrap();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let to = format!("http://{nobody}");
    for arguments in [&["publish", "film.torrent", "--to", &to][..], &["publish", "bad.torrent", "--to", &to]] {
        let failed = btfs(room.path(), arguments).output().unwrap();
        let error = String::from_utf8(failed.stderr).unwrap();
        assert_eq!((failed.status.code(), error.lines().count()), (Some(1), 1), "{error}");
    }
    let magnet = format!("magnet:?xt=urn:btih:{}", named("film").info_hash());
    let failed = btfs(room.path(), &["publish", &magnet, "--to", &to]).output().unwrap();
    let error = String::from_utf8(failed.stderr).unwrap();
    assert!(failed.status.code() == Some(1) && error.contains("magnet links are not taken yet"), "{error}");
    let server = Running::start(room.path(), &["--config", "open.toml"]);
    let answer = Running::upload(&server.addr, "", magnet.as_bytes()).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("magnet links are not taken yet"), "{answer}");
    for wrong in [
        &["publish", "x"][..],
        &["publish", "--to", &to],
        &["publish", "x", "--to", "ftp://h"],
        &["tracker", "token", "add", ""],
    ] {
        assert_eq!(btfs(room.path(), wrong).output().unwrap().status.code(), Some(2), "{wrong:?}");
    }
}
