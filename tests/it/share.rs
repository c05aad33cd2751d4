//! `btfs share`: one command makes, tracks, shows and seeds, for as long as it lives.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use btfs::proto::metainfo::Metainfo;
use serde_json::Value;

/// Nothing takes as long on a machine that is awake.
const BOUND: Duration = Duration::from_secs(60);

/// A `btfs share --json` in a directory of its own, and the lines that it prints.
struct Share {
    child: Child,
    lines: Receiver<Value>,
    root: Arc<tempfile::TempDir>,
}

impl Share {
    /// `fill` makes what is shared, below the directory that it gets.
    fn start(fill: impl FnOnce(&Path), args: &[&str]) -> Self {
        let root = Arc::new(tempfile::tempdir().unwrap());
        fill(root.path());
        Self::start_in(root, args)
    }

    /// Another one of the same user's.
    fn start_beside(other: &Self, args: &[&str]) -> Self {
        Self::start_in(Arc::clone(&other.root), args)
    }

    fn start_in(root: Arc<tempfile::TempDir>, args: &[&str]) -> Self {
        let mut command = btfs(root.path());
        command.arg("share").args(args).args(["--json", "--listen", "127.0.0.1:0", "--bind", "127.0.0.1"]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let (tell, lines) = channel();
        let output = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let _ = tell.send(serde_json::from_str(&line).unwrap());
            }
        });
        Self { child, lines, root }
    }

    #[track_caller]
    fn hear(&self, event: &str) -> Value {
        let line = self.lines.recv_timeout(BOUND).unwrap_or_else(|_| panic!("nothing of {event}"));
        assert_eq!(line["event"], event, "{line}");
        line
    }

    /// Ends it as Ctrl-C does; its exit status.
    fn end(&mut self) -> Option<i32> {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        let start = Instant::now();
        while start.elapsed() < BOUND {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it does not end");
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The program with nothing of the user's around it.
fn btfs(root: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_btfs"));
    command.current_dir(root).env_remove("SOURCE_DATE_EPOCH").env_remove("XDG_RUNTIME_DIR").env("HOME", root);
    for (variable, place) in [("XDG_CACHE_HOME", "cache"), ("XDG_STATE_HOME", "state"), ("XDG_RUNTIME_DIR", "run")] {
        command.env(variable, root.join(place));
    }
    command
}

/// The status and the body of a page.
fn get(url: &str) -> (u16, Vec<u8>) {
    let (host, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut stream = TcpStream::connect(host).unwrap();
    stream.set_read_timeout(Some(BOUND)).unwrap();
    write!(stream, "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let head = answer.windows(4).position(|end| end == b"\r\n\r\n").expect("a head");
    let status = std::str::from_utf8(&answer[9..12]).unwrap().parse().unwrap();
    (status, answer.split_off(head + 4))
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 % 251) as u8).collect()
}

#[test]
fn others_find_it_fetch_it_and_it_ends_with_the_command() {
    let fill = |root: &Path| {
        fs::create_dir_all(root.join("my films/sub")).unwrap();
        fs::write(root.join("my films/a.bin"), bytes(300_000)).unwrap();
        fs::write(root.join("my films/sub/b.txt"), "text").unwrap();
        fs::write(root.join("my films/left.tmp"), "out").unwrap();
    };
    let mut share = Share::start(fill, &["my films", "--exclude", "*.tmp", "--comment", "for you"]);
    let shared = share.hear("shared");
    let ready = share.hear("ready");
    let (status, file) = get(shared["torrent"].as_str().unwrap());
    let metainfo = Metainfo::parse(&file).unwrap();
    assert_eq!(
        (status, metainfo.info_hash.unwrap().to_string()),
        (200, shared["info_hash"].as_str().unwrap().to_owned())
    );
    assert_eq!((&*metainfo.name, metainfo.comment.as_deref()), (&b"my films"[..], Some("for you")));
    let trackers: Vec<_> = metainfo.trackers.iter().flatten().map(|url| Value::from(url.as_str())).collect();
    assert_eq!(ready["announce"], Value::from(trackers));
    assert_eq!(shared["size_bytes"], 300_004);
    let line = format!("mkdir -p mnt && btfs mount {} mnt", shared["torrent"].as_str().unwrap());
    assert_eq!(shared["mount_line"], line);
    let index = ready["index"].as_str().unwrap();
    for page in [&format!("{index}/"), shared["page"].as_str().unwrap()] {
        let (status, html) = get(page);
        assert!(status == 200 && String::from_utf8_lossy(&html).contains("my films"), "{page}");
    }

    // Somebody else, who knows nothing but the link.
    let into = share.root.path().join("into");
    let mut command = btfs(share.root.path());
    command.args(["get", shared["torrent"].as_str().unwrap(), "-o"]).arg(&into).args(["--bind", "127.0.0.1"]);
    let got = command.args(["--timeout", "60"]).output().unwrap();
    assert!(got.status.success(), "{got:?}");
    assert_eq!(fs::read(into.join("my films/a.bin")).unwrap(), bytes(300_000));
    assert_eq!(fs::read(into.join("my films/sub/b.txt")).unwrap(), b"text");

    assert_eq!(share.end(), Some(0));
    let (host, _) = index.strip_prefix("http://").unwrap().rsplit_once(':').unwrap();
    assert_eq!(host, "127.0.0.1");
    assert!(TcpStream::connect(index.strip_prefix("http://").unwrap()).is_err(), "nobody answers any more");
    assert!(!share.root.path().join("my films.torrent").exists(), "nothing is left beside it");
}

#[test]
fn a_watched_directory_is_kept_in_step_with() {
    let fill = |root: &Path| {
        fs::create_dir_all(root.join("public/album")).unwrap();
        fs::write(root.join("public/album/1.flac"), bytes(40_000)).unwrap();
        fs::write(root.join("public/.hidden"), "1").unwrap();
        fs::write(root.join("public/no.tmp"), "1").unwrap();
    };
    let mut share = Share::start(fill, &["public", "--watch", "--exclude", "*.tmp"]);
    let public = share.root.path().join("public");
    let album = share.hear("shared");
    assert_eq!(album["name"], "album");
    share.hear("ready");
    let page = |shared: &Value| get(shared["page"].as_str().unwrap()).0;
    let hash = |event: &Value| event["info_hash"].clone();

    fs::write(public.join("film.mkv"), bytes(50_000)).unwrap();
    let film = share.hear("shared");
    assert_eq!((&film["name"], page(&film), page(&album)), (&Value::from("film.mkv"), 200, 200));

    fs::write(public.join("album/2.flac"), bytes(10)).unwrap();
    let gone = share.hear("gone");
    let renewed = share.hear("shared");
    assert_eq!((hash(&gone), &renewed["name"]), (hash(&album), &Value::from("album")));
    assert_ne!(hash(&renewed), hash(&album));
    assert_eq!((page(&album), page(&renewed)), (404, 200));

    fs::remove_file(public.join("film.mkv")).unwrap();
    assert_eq!(hash(&share.hear("gone")), hash(&film));
    assert_eq!(page(&film), 404);
    // What cannot be shared hinders nothing else.
    symlink("/etc/passwd", public.join("album/out")).unwrap();
    fs::write(public.join("last"), bytes(20_000)).unwrap();
    assert_eq!(share.hear("shared")["name"], "last");
    assert_eq!(page(&renewed), 200, "as it was");
    assert_eq!(share.end(), Some(0));
}

#[test]
fn what_cannot_be_shared_is_told_at_once() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("empty")).unwrap();
    fs::write(root.path().join("file"), "1").unwrap();
    fs::create_dir(root.path().join("odd")).unwrap();
    fs::write(root.path().join("odd").join(OsStr::from_bytes(b"\xff")), "1").unwrap();
    for (args, status, words) in [
        (&["empty"][..], 1, "nothing to share"),
        (&["none"], 1, "No such file"),
        (&["file", "--watch"], 2, "PATH is no directory"),
        (&["file", "--name", "a/b"], 2, "a name with a slash in it"),
        (&["empty", "--watch", "--name", "x"], 2, "cannot be used with"),
        (&["file", "--listen", "192.0.2.1:0"], 1, "cannot listen"),
        // Would stand in torrents, in which nobody finds it then.
        (&["file", "--public-name", "http://me.example"], 2, "a name or an address alone"),
        // A torrent has another name for it, under which nothing lies there.
        (&["odd"], 1, "odd/\\xff: a torrent cannot have this name; rename it"),
    ] {
        let mut command = btfs(root.path());
        command.arg("share").args(args).args(["--bind", "127.0.0.1", "--log", "error"]);
        if !args.contains(&"--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        let refused = command.output().unwrap();
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(refused.status.code() == Some(status) && said.contains(words), "{args:?}: {refused:?}");
    }
}

#[test]
fn two_share_at_once_each_with_an_index_of_its_own() {
    let fill = |root: &Path| {
        fs::write(root.join("one"), bytes(20_000)).unwrap();
        fs::write(root.join("two"), bytes(30_000)).unwrap();
    };
    let mut one = Share::start(fill, &["one"]);
    one.hear("shared");
    let first = one.hear("ready")["index"].clone();
    let mut two = Share::start_beside(&one, &["two"]);
    two.hear("shared");
    let second = two.hear("ready")["index"].clone();
    let listed = |index: &Value| {
        let (status, json) = get(&format!("{}/api/torrents", index.as_str().unwrap()));
        assert_eq!(status, 200);
        let json: Value = serde_json::from_slice(&json).unwrap();
        json["torrents"].as_array().unwrap().iter().map(|torrent| torrent["name"].clone()).collect::<Vec<_>>()
    };
    assert_eq!((listed(&first), listed(&second)), (vec!["one".into()], vec!["two".into()]));
    assert_eq!((two.end(), one.end()), (Some(0), Some(0)));
}

#[test]
fn a_watched_directory_may_be_empty_at_first() {
    let mut share = Share::start(|root| fs::create_dir(root.join("public")).unwrap(), &["public", "--watch"]);
    assert_eq!(share.hear("ready")["port"], 0, "nobody listens to peers yet");
    fs::write(share.root.path().join("public/film"), bytes(30_000)).unwrap();
    assert_eq!(share.hear("shared")["name"], "film");
    assert_eq!(share.end(), Some(0));
}

#[test]
fn what_a_watched_directory_has_that_cannot_be_shared_is_said_once() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("public")).unwrap();
    symlink("nowhere", root.path().join("public/link")).unwrap();
    let mut command = btfs(root.path());
    command.args(["share", "public", "--watch", "--listen", "127.0.0.1:0", "--bind", "127.0.0.1", "--log", "error"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let said = lines.find(|line| line.starts_with("btfs: ")).unwrap_or_default();
    let _ = child.kill();
    child.wait().unwrap();
    assert!(said.contains("public/link") && said.matches("No such file").count() == 1, "{said}");
}
