//! `btfs create` makes torrents that are right, the same each time, and wholly there or not at all.

mod content;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use btfs::proto::metainfo::{EntryKind, Metainfo};

#[test]
fn a_directory_becomes_the_torrent_that_is_expected() {
    let dir = tempfile::tempdir().unwrap();
    make_tree(&dir.path().join("tree"));
    let made = create(dir.path(), &["tree", "-o", "x.torrent", "-a", "http://127.0.0.1:6969/announce", "--json"]);
    assert!(made.status.success() && made.stderr.is_empty(), "{made:?}");
    let json: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
    // libtorrent reads the same hash from this torrent, and finds the content complete.
    assert_eq!(json["info_hash"], "d8e7f22de07f7bd725b2f86bc4b33fe0a35841d4");
    assert_eq!((json["size_bytes"].as_u64(), json["piece_count"].as_u64()), (Some(120_005), Some(8)));
    let metainfo = parse(&dir.path().join("x.torrent"));
    assert_eq!(&*metainfo.name, b"tree");
    assert!(metainfo.warnings.is_empty() && metainfo.creation_date.is_none() && !metainfo.private);
    assert_eq!(metainfo.trackers, [["http://127.0.0.1:6969/announce"]]);
    let paths: Vec<_> = metainfo.entries.iter().map(|entry| String::from_utf8_lossy(&entry.path)).collect();
    assert_eq!(paths, ["a.bin", "empty", "sub/b.txt", "sub/link", "sub/run.sh"]);
    assert_eq!(metainfo.entries[3].kind, EntryKind::Symlink { target: (*b"a.bin").into() });
    assert_eq!(metainfo.entries[4].kind, EntryKind::File { executable: true });
}

#[test]
fn the_same_content_gives_the_same_bytes_wherever_it_lies() {
    let dir = tempfile::tempdir().unwrap();
    let mut made = Vec::new();
    for place in ["one", "two"] {
        make_tree(&dir.path().join(place).join("tree"));
        let output = format!("{place}.torrent");
        assert!(create(dir.path(), &[&format!("{place}/tree"), "-o", &output]).status.success());
        made.push(fs::read(dir.path().join(output)).unwrap());
    }
    assert_eq!(made[0], made[1]);
}

#[test]
fn a_file_becomes_a_single_file_torrent_with_every_option() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("film.mp4"), vec![7; 200_000]).unwrap();
    let args = "film.mp4 --name other.mp4 -a http://a/x,http://b/x -a udp://c:1 -w http://w/f --private --piece-length 64K \
                --comment hello --source S --creation-date 12";
    assert!(create(dir.path(), &args.split_whitespace().collect::<Vec<_>>()).status.success());
    let metainfo = parse(&dir.path().join("other.mp4.torrent"));
    assert!(metainfo.single_file && metainfo.private);
    assert_eq!(metainfo.trackers, [vec!["http://a/x", "http://b/x"], vec!["udp://c:1"]]);
    assert_eq!(metainfo.layout.piece_length(), 65_536);
    assert_eq!(metainfo.web_seeds, ["http://w/f"]);
    let texts = (metainfo.comment.as_deref(), metainfo.source.as_deref(), metainfo.created_by.as_deref());
    assert_eq!(texts, (Some("hello"), Some("S"), Some("btfs")));
    assert_eq!(metainfo.creation_date, Some(12));
}

#[test]
fn libtorrent_reads_of_a_torrent_what_create_was_told_and_show_tells() {
    let dir = tempfile::tempdir().unwrap();
    make_tree(&dir.path().join("tree"));
    // As mktorrent has it: each -a is a tier, commas stand inside of one.
    let args = "tree -o x.torrent -a http://a.example/x,https://b.example/x --announce udp://c.example:6969/announce \
                -a http://d.example/1,2 -w http://w.example/f/ --web-seed https://w.example:8443/f/ --private \
                --piece-length 256K --comment für_alle";
    let args: Vec<_> = args.split_whitespace().collect();
    assert!(create(dir.path(), &args).status.success());
    let first = fs::read(dir.path().join("x.torrent")).unwrap();
    assert!(create(dir.path(), &[&args[..], &["--force"]].concat()).status.success());
    assert_eq!(fs::read(dir.path().join("x.torrent")).unwrap(), first, "the same again");

    let expected = serde_json::json!({
        "name": "tree",
        "private": true,
        "piece_length": 256 << 10,
        "comment": "für_alle",
        "created_by": "btfs",
        "trackers": [
            ["http://a.example/x", "https://b.example/x"],
            ["udp://c.example:6969/announce"],
            ["http://d.example/1,2"],
        ],
        "web_seeds": ["http://w.example/f/", "https://w.example:8443/f/"],
    });
    let is_as_told = |said: &serde_json::Value, who: &str| {
        for (name, value) in expected.as_object().unwrap() {
            assert_eq!(&said[name], value, "{name} by {who}");
        }
    };
    let show = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_btfs"));
        let shown = command.arg("show").args(more).arg("x.torrent").current_dir(dir.path()).output().unwrap();
        assert!(shown.status.success() && shown.stderr.is_empty(), "{shown:?}");
        String::from_utf8(shown.stdout).unwrap()
    };
    let shown: serde_json::Value = serde_json::from_str(&show(&["--json"])).unwrap();
    is_as_told(&shown, "btfs show");
    let text = show(&[]);
    for line in [
        "pieces        1 of 256 KiB",
        "private       yes: no DHT, no peer exchange, no local discovery",
        "comment       für_alle",
        "tracker 1     http://a.example/x",
        "tracker 1     https://b.example/x",
        "tracker 2     udp://c.example:6969/announce",
        "tracker 3     http://d.example/1,2",
        "web seed      http://w.example/f/",
        "web seed      https://w.example:8443/f/",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line:?} in\n{text}");
    }

    let Some(read) = libtorrent_reads(&dir.path().join("x.torrent")) else { return };
    is_as_told(&read, "libtorrent");
    assert_eq!(read["info_hash"], shown["info_hash"]);
}

#[test]
fn pieces_have_every_length_from_16_kib_to_64_mib() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), vec![9; 40_000]).unwrap();
    for (text, bytes) in [
        ("16384", 16 << 10),
        ("16K", 16 << 10),
        ("256K", 256 << 10),
        ("1M", 1 << 20),
        ("2MiB", 2 << 20),
        ("64M", 64 << 20),
    ] {
        assert!(create(dir.path(), &["file", "--force", "--piece-length", text]).status.success(), "{text}");
        assert_eq!(parse(&dir.path().join("file.torrent")).layout.piece_length(), bytes, "{text}");
        if let Some(read) = libtorrent_reads(&dir.path().join("file.torrent")) {
            assert_eq!(read["piece_length"], bytes);
        }
    }
    for text in ["0", "8K", "96K", "128M", "1T", "-1", "K", ""] {
        let refused = create(dir.path(), &["file", "--force", "--piece-length", text]);
        assert_eq!(refused.status.code(), Some(2), "{text:?}");
    }
}

/// What libtorrent says is in a torrent; `None` where it is not installed.
pub fn libtorrent_reads(torrent: &Path) -> Option<serde_json::Value> {
    libtorrent_says(LIBTORRENT, torrent)
}

/// What a script of libtorrent's prints, given a path.
fn libtorrent_says(script: &str, path: &Path) -> Option<serde_json::Value> {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/venv/bin/python");
    let output = match Command::new(python).args(["-c", script]).arg(path).output() {
        Ok(output) => output,
        Err(error) => {
            eprintln!("SKIPPED: libtorrent: {error}");
            return None;
        }
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

const LIBTORRENT: &str = r#"
import json, sys
import libtorrent as lt
p = lt.load_torrent_file(sys.argv[1])
tiers = {}
for url, tier in zip(p.trackers, p.tracker_tiers):
    tiers.setdefault(tier, []).append(url)
print(json.dumps({
    "name": p.ti.name(), "private": p.ti.priv(), "piece_length": p.ti.piece_length(), "comment": p.comment,
    "created_by": p.created_by, "trackers": [tiers[tier] for tier in sorted(tiers)], "web_seeds": p.url_seeds,
    "info_hash": str(p.ti.info_hashes().v1),
}))
"#;

#[test]
fn what_is_there_already_is_overwritten_only_by_force_and_never_shared() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    make_tree(&tree);
    assert!(create(&tree, &["."]).status.success());
    let first = fs::read(tree.join("tree.torrent")).unwrap();
    let refused = create(&tree, &["."]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--force"), "{refused:?}");
    assert!(create(&tree, &[".", "--force"]).status.success());
    assert_eq!(fs::read(tree.join("tree.torrent")).unwrap(), first);
}

#[test]
fn what_cannot_be_shared_is_one_line_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    fs::create_dir_all(root.join("empty/sub")).unwrap();
    fs::write(root.join("empty/nothing"), "").unwrap();
    fs::create_dir(root.join("linked")).unwrap();
    fs::write(root.join("linked/file"), "1").unwrap();
    symlink("/etc/passwd", root.join("linked/out")).unwrap();
    for (args, status, words) in [
        (vec!["empty"], 1, "nothing to share"),
        (vec!["linked"], 1, "leads out"),
        (vec!["none"], 1, "No such file"),
        (vec!["linked/file", "-a", "gopher://x"], 2, "no tracker URL"),
        (vec!["linked/file", "-a", "http://a/x,udp://"], 2, "no tracker URL"),
        (vec!["linked/file", "-w", "udp://x:1"], 2, "web seeds need an http or https URL"),
        (vec!["linked/file", "--piece-length", "17K"], 2, "power of two"),
        (vec!["linked/file", "--name", "a/b"], 2, "a name with a slash in it"),
        (vec!["linked/file", "-o", "no/such/dir.torrent"], 1, "No such file"),
        (vec!["linked/file", "-o", "empty"], 1, "is a directory; name a file"),
    ] {
        let refused = create(root, &args);
        let stderr = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(status), "{args:?}: {stderr}");
        assert!(stderr.contains(words), "{args:?}: {stderr}");
        assert!(status == 2 || stderr.lines().count() == 1, "{args:?}: {stderr}");
    }
    let left = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn an_interrupt_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = hash_for_hours(dir.path());
    let catches_interrupts = || {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or("0").trim().to_owned();
        u64::from_str_radix(&caught, 16).unwrap_or(0) & 0b10 != 0
    };
    assert!(within_20_s(catches_interrupts), "it never came to hashing");
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let ended = within_20_s(|| child.try_wait().unwrap().is_some());
    let _ = child.kill();
    assert!(ended);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.code() == Some(130) && output.stderr.starts_with(b"btfs: interrupted\n"), "{output:?}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_file_that_is_cut_while_it_is_hashed_is_an_error_that_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = hash_for_hours(dir.path());
    let descriptors = format!("/proc/{}/fd", child.id());
    let is_open = || {
        let open = fs::read_dir(&descriptors).into_iter().flatten().flatten();
        open.filter_map(|entry| fs::read_link(entry.path()).ok()).any(|target| target.ends_with("large"))
    };
    assert!(within_20_s(is_open), "it never came to hashing");
    fs::OpenOptions::new().write(true).open(dir.path().join("large")).unwrap().set_len(1).unwrap();
    let ended = within_20_s(|| child.try_wait().unwrap().is_some());
    let _ = child.kill();
    assert!(ended);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("large: changed while it was read"), "{said}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

/// A `btfs create` that is at it for hours; its content takes no space on disk.
fn hash_for_hours(directory: &Path) -> std::process::Child {
    fs::File::create(directory.join("large")).unwrap().set_len(1 << 40).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_btfs"));
    command.args(["create", "large"]).current_dir(directory).stderr(std::process::Stdio::piped());
    command.env_remove("SOURCE_DATE_EPOCH").spawn().unwrap()
}

/// Polls until it is so.
fn within_20_s(mut is_so: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !is_so() {
        if start.elapsed() > Duration::from_secs(20) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}

pub fn make_tree(root: &Path) {
    let bytes = |length: u32| (0..length).map(|at| ((at * 7 + length) % 251) as u8).collect::<Vec<_>>();
    fs::create_dir_all(root.join("sub")).unwrap();
    for (name, length, mode) in
        [("a.bin", 100_000, 0o644), ("sub/b.txt", 5, 0o600), ("sub/run.sh", 20_000, 0o755), ("empty", 0, 0o644)]
    {
        fs::write(root.join(name), bytes(length)).unwrap();
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    symlink("../a.bin", root.join("sub/link")).unwrap();
}

pub fn create(directory: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_btfs"));
    command.arg("create").args(args).current_dir(directory).env_remove("SOURCE_DATE_EPOCH").output().unwrap()
}

pub fn parse(path: &Path) -> Metainfo {
    Metainfo::parse(&fs::read(path).unwrap()).unwrap()
}
