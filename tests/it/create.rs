//! `btfs create` makes torrents that are right, the same each time, and wholly there or not at all.

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
        (vec!["linked/file", "--piece-length", "17K"], 2, "power of two"),
        (vec!["linked/file", "--name", "a/b"], 2, "a name with a slash in it"),
        (vec!["linked/file", "-o", "no/such/dir.torrent"], 1, "No such file"),
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
    // Hours of hashing, no space on disk.
    fs::File::create(dir.path().join("large")).unwrap().set_len(1 << 40).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_btfs"))
        .args(["create", "large"])
        .current_dir(dir.path())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
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
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
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

fn make_tree(root: &Path) {
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

fn create(directory: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_btfs"));
    command.arg("create").args(args).current_dir(directory).env_remove("SOURCE_DATE_EPOCH").output().unwrap()
}

fn parse(path: &Path) -> Metainfo {
    Metainfo::parse(&fs::read(path).unwrap()).unwrap()
}
