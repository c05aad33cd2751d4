//! What of a directory becomes a torrent, how it lies in it, and what is printed of it.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output};

use btfs::proto::metainfo::{EntryKind, Metainfo};
use sha1::{Digest, Sha1};

use super::{create, libtorrent_says, make_tree, parse};

#[test]
fn patterns_choose_files() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("music");
    for name in ["a/1.flac", "a/1.log", "a/cover.jpg", "drafts/x.flac", "b/drafts/y.flac", ".hidden/z.flac", "0.flac"] {
        fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
        fs::write(root.join(name), name).unwrap();
    }
    let _socket = UnixListener::bind(root.join("drafts/socket")).unwrap();
    symlink("/etc/passwd", root.join("a/out")).unwrap();
    for (args, expected) in [
        (
            &["--include", "*.flac"][..],
            &[".hidden/z.flac", "0.flac", "a/1.flac", "b/drafts/y.flac", "drafts/x.flac"][..],
        ),
        (&["--include", "*.flac", "--exclude", "drafts", "--exclude", ".*"], &["0.flac", "a/1.flac"]),
        (&["--include", "a", "--exclude", "*.log", "--exclude", "out"], &["a/1.flac", "a/cover.jpg"]),
        (&["--include", "a/*.log", "--include", "/*.flac"], &["0.flac", "a/1.log"]),
        (&["--include", "**/drafts/*.flac"], &["b/drafts/y.flac", "drafts/x.flac"]),
        (&["--exclude", "/drafts/", "--exclude", "a"], &[".hidden/z.flac", "0.flac", "b/drafts/y.flac"]),
    ] {
        let made = create(dir.path(), &[&["music", "-f", "-o", "x.torrent"], args].concat());
        assert!(made.status.success() && made.stderr.is_empty(), "{args:?}: {made:?}");
        assert_eq!(paths(&parse(&dir.path().join("x.torrent"))), expected, "{args:?}");
    }
    for (args, status, words) in [
        (&["music", "--include", "*.ogg"][..], 1, "no file in it has content and is not left out"),
        (&["music", "--exclude", "out"], 1, "drafts/socket: neither a file"),
        (&["music", "--exclude", "socket"], 1, "a/out: the symlink leads out"),
        (&["music/0.flac", "--exclude", "x"], 2, "choose from a directory"),
        (&["music", "--exclude", "/"], 2, "an empty pattern means nothing"),
    ] {
        refused(dir.path(), args, status, words);
    }
    let made = create(dir.path(), &["music", "-f", "-o", "x.torrent", "--include", "*.jpg", "--exclude", "*.tmp"]);
    assert_eq!(String::from_utf8_lossy(&made.stderr), "btfs: --exclude *.tmp: means nothing that is there\n");
    assert!(made.status.success());
}

#[test]
fn symlinks_are_followed_on_request_and_never_in_circles() {
    let dir = tempfile::tempdir().unwrap();
    make_tree(&dir.path().join("elsewhere"));
    fs::create_dir(dir.path().join("tree")).unwrap();
    symlink("../elsewhere", dir.path().join("tree/data")).unwrap();
    symlink("data/a.bin", dir.path().join("tree/one")).unwrap();
    refused(dir.path(), &["tree"], 1, "take what it leads to with --follow-symlinks");
    let made = create(dir.path(), &["tree", "--follow-symlinks"]);
    assert!(made.status.success(), "{made:?}");
    let metainfo = parse(&dir.path().join("tree.torrent"));
    let expected = ["data/a.bin", "data/empty", "data/sub/b.txt", "data/sub/link", "data/sub/run.sh", "one"];
    assert_eq!(paths(&metainfo), expected);
    assert!(metainfo.entries.iter().all(|entry| matches!(entry.kind, EntryKind::File { .. })));
    symlink("..", dir.path().join("elsewhere/up")).unwrap();
    refused(dir.path(), &["tree", "-f", "-L"], 1, "following the symlink leads back to itself");
    assert!(create(dir.path(), &["tree", "-f", "-L", "--exclude", "up"]).status.success());
    symlink("none", dir.path().join("tree/dangling")).unwrap();
    refused(dir.path(), &["tree", "-f", "-L", "--exclude", "up"], 1, "tree/dangling: the symlink leads nowhere");
}

#[test]
fn padding_begins_each_file_with_a_piece_and_is_no_file() {
    let dir = tempfile::tempdir().unwrap();
    make_tree(&dir.path().join("tree"));
    let made = create(dir.path(), &["tree", "--pad", "--piece-length", "16K", "--json"]);
    assert!(made.status.success() && made.stderr.is_empty(), "{made:?}");
    let said: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
    assert_eq!((said["file_count"].as_u64(), said["size_bytes"].as_u64()), (Some(5), Some(120_005)));
    assert_eq!(said["piece_count"].as_u64(), Some(7 + 1 + 2));
    let metainfo = parse(&dir.path().join("tree.torrent"));
    assert!(metainfo.warnings.is_empty());
    let layout = &metainfo.layout;
    let mut content = Vec::new();
    for (entry, file) in metainfo.entries.iter().zip(layout.files()) {
        match &entry.kind {
            EntryKind::Padding => content.resize(content.len() + layout.file_bytes(file) as usize, 0),
            EntryKind::File { .. } => {
                let path = dir.path().join("tree").join(std::str::from_utf8(&entry.path).unwrap());
                let bytes = fs::read(path).unwrap();
                assert!(bytes.is_empty() || content.len().is_multiple_of(16_384), "{:?}", entry.path);
                content.extend(bytes);
            }
            EntryKind::Symlink { .. } => {}
        }
    }
    let hashes: Vec<u8> = content.chunks(16_384).flat_map(Sha1::digest).collect();
    assert_eq!(metainfo.piece_hashes, hashes);
    // One file needs none.
    for (args, name) in [(&["tree/a.bin"][..], "a.bin"), (&["tree/a.bin", "--pad"], "b.bin")] {
        let output = format!("{name}.torrent");
        assert!(create(dir.path(), &[args, &["-o", &output]].concat()).status.success());
    }
    let read = |name: &str| fs::read(dir.path().join(name)).unwrap();
    assert_eq!(read("a.bin.torrent"), read("b.bin.torrent"));
}

#[test]
fn libtorrent_makes_the_same_info_of_the_same_files() {
    let dir = tempfile::tempdir().unwrap();
    make_tree(&dir.path().join("tree"));
    fs::remove_file(dir.path().join("tree/sub/link")).unwrap();
    let script = dir.path().join("script.json");
    for (kind, args) in [
        ("plain", &["tree"][..]),
        ("padded", &["tree", "--pad"]),
        ("plain", &["tree", "--private"]),
        ("plain", &["tree/a.bin"]),
        ("padded", &["tree/sub/run.sh"]),
    ] {
        let output = dir.path().join("x.torrent");
        let words = ["--piece-length", "16K", "-f", "-o", "x.torrent"];
        let made = create(dir.path(), &[args, &words].concat());
        assert!(made.status.success(), "{made:?}");
        let ours = parse(&output);
        let asked = serde_json::json!({
            "kind": kind, "path": dir.path().join(args[0]), "private": args.contains(&"--private"),
        });
        fs::write(&script, asked.to_string()).unwrap();
        let Some(theirs) = libtorrent_says(LIBTORRENT_MAKES, &script) else { return };
        assert_eq!(theirs["info_hash"], ours.info_hash.unwrap().to_string(), "{args:?}");
    }
}

/// Makes a torrent with pieces of 16 KiB: of the files in the order of their names, or as libtorrent itself orders and pads
/// them.
const LIBTORRENT_MAKES: &str = r#"
import hashlib, json, os, sys
import libtorrent as lt
asked = json.load(open(sys.argv[1]))
path = asked["path"]
C = lt.create_torrent
flags = int(C.v1_only)
if asked["kind"] == "padded":
    flags |= int(C.canonical_files_no_tail_padding)
files = lt.list_files(path, flags=flags)
if asked["kind"] == "plain":
    files = sorted(files, key=lambda file: file.filename)
made = lt.create_torrent(files, 16384, flags)
made.set_priv(asked["private"])
lt.set_piece_hashes(made, os.path.dirname(path))
info = made.generate()[b"info"]
print(json.dumps({"info_hash": hashlib.sha1(lt.bencode(info)).hexdigest()}))
"#;

#[test]
fn dates_come_from_the_option_or_the_environment_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "1").unwrap();
    let date = |epoch: Option<&str>, args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_btfs"));
        command.args(["create", "file", "-f"]).args(args).current_dir(dir.path()).env_remove("SOURCE_DATE_EPOCH");
        if let Some(epoch) = epoch {
            command.env("SOURCE_DATE_EPOCH", epoch);
        }
        let made = command.output().unwrap();
        assert!(made.status.success(), "{made:?}");
        parse(&dir.path().join("file.torrent")).creation_date
    };
    assert_eq!(date(None, &[]), None);
    assert_eq!(date(Some("1700000000"), &[]), Some(1_700_000_000));
    assert_eq!(date(Some("1700000000"), &["--creation-date", "-5"]), Some(-5));
    assert_eq!(date(Some("1700000000"), &["--no-creation-date"]), None);
    assert!(date(None, &["--creation-date", "now"]).unwrap() > 1_700_000_000);
    refused(dir.path(), &["file", "-f", "--creation-date", "today"], 2, "expected seconds since 1970, or now");
}

#[test]
fn links_lines_and_nodes_are_those_that_others_can_use() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("it's a film"), vec![7; 40_000]).unwrap();
    let args = ["it's a film", "-a", "http://a.example/x?y=1&z", "-w", "https://w.example/f", "--node", "[::1]:6881"];
    let made = create(dir.path(), &[&args[..], &["--node", "dht.example:1", "--magnet", "--mount-line"]].concat());
    assert!(made.status.success() && made.stderr.is_empty(), "{made:?}");
    let said = String::from_utf8(made.stdout).unwrap();
    let lines: Vec<_> = said.lines().collect();
    let metainfo = parse(&dir.path().join("it's a film.torrent"));
    assert_eq!(metainfo.nodes, [("::1".to_owned(), 6881), ("dht.example".to_owned(), 1)]);
    assert_eq!(lines.len(), 4, "{said}");
    let hash = metainfo.info_hash.unwrap().to_string();
    let magnet = format!("magnet:?xt=urn:btih:{hash}&dn=it%27s%20a%20film&xl=40000&tr=http%3A%2F%2Fa.example");
    assert!(lines[2].starts_with(&magnet), "{}", lines[2]);
    assert_eq!(lines[3], r"mkdir -p mnt && btfs mount 'it'\''s a film.torrent' mnt");
    let json = create(dir.path(), &[&args[..], &["--json", "-f", "--exclude", "x"]].concat());
    assert_eq!(json.status.code(), Some(2));
    let json = create(
        dir.path(),
        &[&args[..5], &["--node", "[::1]:6881", "--node", "dht.example:1", "--json", "-f"]].concat(),
    );
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert!(lines[2].starts_with(json["magnet"].as_str().unwrap()), "{json}");
    assert_eq!(json["mount_line"], lines[3]);

    const READS: &str = "import json, sys, libtorrent as lt
p = lt.parse_magnet_uri(open(sys.argv[1]).read())
print(json.dumps({'hash': str(p.info_hashes.v1), 'name': p.name, 'trackers': p.trackers, 'seeds': p.url_seeds}))";
    fs::write(dir.path().join("magnet"), lines[2]).unwrap();
    if let Some(read) = libtorrent_says(READS, &dir.path().join("magnet")) {
        let expected = serde_json::json!({
            "hash": hash, "name": "it's a film", "trackers": ["http://a.example/x?y=1&z"], "seeds": ["https://w.example/f"],
        });
        assert_eq!(read, expected);
    }
    refused(dir.path(), &["it's a film", "-f", "--private", "--node", "a:1"], 2, "cannot be used with");
    refused(dir.path(), &["it's a film", "-f", "--node", "a"], 2, "expected HOST:PORT");
}

fn paths(metainfo: &Metainfo) -> Vec<String> {
    let files = metainfo.entries.iter().filter(|entry| entry.kind != EntryKind::Padding);
    files.map(|entry| String::from_utf8_lossy(&entry.path).into_owned()).collect()
}

#[track_caller]
fn refused(directory: &Path, args: &[&str], status: i32, words: &str) -> Output {
    let refused = create(directory, args);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(status), "{args:?}: {said}");
    assert!(said.contains(words), "{args:?}: {said}");
    refused
}
