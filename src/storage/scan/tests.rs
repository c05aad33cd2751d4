use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use sha1::{Digest, Sha1};

use super::*;
use crate::base::{FileSpec, Layout};

fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn listing(tree: &Tree) -> Vec<String> {
    let text = |path: &[Vec<u8>]| String::from_utf8(path.join(&b'/')).unwrap();
    let line = |entry: &TreeEntry| match &entry.kind {
        TreeEntryKind::File { stamp, executable, .. } => {
            format!("{} {}{}", text(&entry.path), stamp.length, if *executable { " x" } else { "" })
        }
        TreeEntryKind::Symlink { target } => format!("{} -> {}", text(&entry.path), text(target)),
    };
    tree.entries.iter().map(line).collect()
}

fn layout(tree: &Tree, piece_length: u32) -> Layout {
    let specs: Vec<_> = tree.entries.iter().map(|entry| FileSpec { length: entry.length(), padding: false }).collect();
    Layout::new(piece_length, &specs).unwrap()
}

#[test]
fn a_tree_is_listed_in_the_order_of_bytes_with_its_links_and_modes() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    write(&root.join("b"), b"12345");
    write(&root.join("a/z"), b"1");
    write(&root.join("a/B"), b"");
    write(&root.join("a-b"), b"12");
    fs::set_permissions(root.join("b"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(root.join("empty")).unwrap();
    symlink("../b", root.join("a/link")).unwrap();
    symlink(fs::canonicalize(root).unwrap().join("a"), root.join("absolute")).unwrap();
    symlink("no/./such", root.join("dangling")).unwrap();
    let tree = walk(root, &Wanted::ALL).unwrap();
    assert!(!tree.single_file);
    assert_eq!(
        listing(&tree),
        ["a/B 0", "a/link -> b", "a/z 1", "a-b 2", "absolute -> a", "b 5 x", "dangling -> no/such"]
    );
    let single = walk(&root.join("b"), &Wanted::ALL).unwrap();
    assert!(single.single_file && single.entries.len() == 1 && single.entries[0].path.is_empty());
}

#[test]
fn links_that_lead_out_and_special_files_are_refused() {
    let refused = |target: &str| {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        write(&root.join("d/file"), b"1");
        symlink(target, root.join("d/link")).unwrap();
        walk(&root, &Wanted::ALL).is_err_and(|error| matches!(error, ScanError::Outside(_)))
    };
    for target in ["/etc/passwd", "../../x", "..", "../d/../..", "/"] {
        assert!(refused(target), "{target}");
    }
    for target in ["file", "../d", ".", "../d/no"] {
        assert!(!refused(target), "{target}");
    }
    let dir = tempfile::tempdir().unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
    assert!(matches!(walk(dir.path(), &Wanted::ALL), Err(ScanError::Special(_))));
    assert!(matches!(walk(Path::new("/dev/null"), &Wanted::ALL), Err(ScanError::Special(_))));
    assert!(matches!(walk(&dir.path().join("none"), &Wanted::ALL), Err(ScanError::Storage(_))));
}

#[test]
fn a_file_can_be_passed_over() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("old.torrent"), b"1");
    write(&dir.path().join("x"), b"2");
    let old = fs::metadata(dir.path().join("old.torrent")).unwrap();
    let wanted = Wanted { except: Some((old.dev(), old.ino())), ..Wanted::ALL };
    assert_eq!(listing(&walk(dir.path(), &wanted).unwrap()), ["x 1"]);
}

#[test]
fn pieces_hash_the_same_on_any_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    let mut content = Vec::new();
    for (name, length) in [("a", 700_000_usize), ("b", 0), ("c", 3), ("d", 50_000)] {
        let bytes: Vec<u8> = (0..length).map(|at| (at * 31 + length) as u8).collect();
        write(&dir.path().join(name), &bytes);
        content.extend(bytes);
    }
    symlink("a", dir.path().join("link")).unwrap();
    let tree = walk(dir.path(), &Wanted::ALL).unwrap();
    let expected: Vec<u8> = content.chunks(16_384).flat_map(Sha1::digest).collect();
    for threads in [1, 2, 5] {
        let bytes = AtomicU64::new(0);
        let progress = |more| {
            bytes.fetch_add(more, Ordering::Relaxed);
        };
        let hashing = Hashing { threads, progress: &progress, stop: &AtomicBool::new(false) };
        assert_eq!(hash_pieces(&tree.entries, &layout(&tree, 16_384), &hashing).unwrap(), expected);
        assert_eq!(bytes.into_inner(), content.len() as u64);
    }
}

#[test]
fn files_that_change_and_wishes_to_stop_end_the_hashing() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("a"), &[7; 100_000]);
    let tree = walk(dir.path(), &Wanted::ALL).unwrap();
    let layout = layout(&tree, 16_384);
    let hash = |stop: bool| {
        let hashing = Hashing { threads: 2, progress: &|_| {}, stop: &AtomicBool::new(stop) };
        hash_pieces(&tree.entries, &layout, &hashing)
    };
    assert!(matches!(hash(true), Err(ScanError::Interrupted)));
    write(&dir.path().join("a"), &[7; 90_000]);
    assert!(matches!(hash(false), Err(ScanError::Changed(_))));
    write(&dir.path().join("a"), &[7; 110_000]);
    assert!(matches!(hash(false), Err(ScanError::Changed(_))));
    fs::remove_file(dir.path().join("a")).unwrap();
    assert!(matches!(hash(false), Err(ScanError::Vanished(_))));
}

#[test]
fn a_file_that_changes_behind_the_hashers_is_noticed_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("a"), dir.path().join("b"));
    write(&first, &[7; 16_384]);
    write(&second, &[8; 16_384]);
    let tree = walk(dir.path(), &Wanted::ALL).unwrap();
    let layout = layout(&tree, 16_384);
    let hash = |behind: &(dyn Fn() + Sync)| {
        let count = AtomicU64::new(0);
        // The first call comes when the first file has been read by the only thread.
        let progress = |_| {
            if count.fetch_add(1, Ordering::Relaxed) == 0 {
                behind();
            }
        };
        let hashing = Hashing { threads: 1, progress: &progress, stop: &AtomicBool::new(false) };
        hash_pieces(&tree.entries, &layout, &hashing)
    };
    assert_eq!(hash(&|| ()).unwrap().len(), 40);
    let longer = hash(&|| write(&first, &[7; 16_385])).unwrap_err();
    assert!(matches!(&longer, ScanError::Changed(path) if path.ends_with("a")), "{longer}");
    write(&first, &[7; 16_384]);
    let tree = walk(dir.path(), &Wanted::ALL).unwrap();
    let gone = AtomicBool::new(false);
    let progress = |_| {
        if !gone.swap(true, Ordering::Relaxed) {
            fs::remove_file(&first).unwrap();
        }
    };
    let hashing = Hashing { threads: 1, progress: &progress, stop: &AtomicBool::new(false) };
    let error = hash_pieces(&tree.entries, &layout, &hashing).unwrap_err();
    assert!(matches!(&error, ScanError::Vanished(path) if path.ends_with("a")), "{error}");
}

#[test]
fn padding_is_hashed_as_zeros_and_belongs_to_no_entry() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("a"), &[7; 20_000]);
    write(&dir.path().join("b"), &[8; 5]);
    let tree = walk(dir.path(), &Wanted::ALL).unwrap();
    let file = |length| FileSpec { length, padding: false };
    let padded = Layout::new(16_384, &[file(20_000), FileSpec { length: 12_768, padding: true }, file(5)]).unwrap();
    let bytes = AtomicU64::new(0);
    let progress = |more| {
        bytes.fetch_add(more, Ordering::Relaxed);
    };
    let hashing = Hashing { threads: 2, progress: &progress, stop: &AtomicBool::new(false) };
    let content = [&[7; 20_000][..], &[0; 12_768], &[8; 5]].concat();
    let expected: Vec<u8> = content.chunks(16_384).flat_map(Sha1::digest).collect();
    assert_eq!(hash_pieces(&tree.entries, &padded, &hashing).unwrap(), expected);
    assert_eq!(bytes.into_inner(), 20_005, "padding is not read");
}

#[test]
fn only_what_is_wanted_is_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    ["keep/a", "keep/b.tmp", "skip/c", "d"].iter().for_each(|name| write(&root.join(name), b"1"));
    let _socket = std::os::unix::net::UnixListener::bind(root.join("skip/socket")).unwrap();
    symlink("/etc/passwd", root.join("out.tmp")).unwrap();
    let keep = |path: &[u8], is_directory: bool| !(path.ends_with(b".tmp") || (is_directory && path == b"skip"));
    for follow in [false, true] {
        let wanted = Wanted { keep: &keep, follow, ..Wanted::ALL };
        assert_eq!(listing(&walk(root, &wanted).unwrap()), ["d 1", "keep/a 1"], "{follow}");
    }
}

#[test]
fn followed_links_are_what_they_lead_to_and_never_lead_back() {
    let dir = tempfile::tempdir().unwrap();
    let (root, other) = (dir.path().join("root"), dir.path().join("other"));
    write(&root.join("a/file"), b"123");
    write(&other.join("deep/x"), b"12");
    symlink("../other", root.join("b")).unwrap();
    symlink("a/file", root.join("c")).unwrap();
    symlink("deep", other.join("twin")).unwrap();
    let wanted = Wanted { follow: true, ..Wanted::ALL };
    let tree = walk(&root, &wanted).unwrap();
    assert_eq!(listing(&tree), ["a/file 3", "b/deep/x 2", "b/twin/x 2", "c 3"]);
    let hashing = Hashing { threads: 2, progress: &|_| {}, stop: &AtomicBool::new(false) };
    assert_eq!(hash_pieces(&tree.entries, &layout(&tree, 16_384), &hashing).unwrap().len(), 20);
    let refused = |target: &str| {
        symlink(target, root.join("a/link")).unwrap();
        let error = walk(&root, &wanted).unwrap_err();
        fs::remove_file(root.join("a/link")).unwrap();
        error
    };
    for target in ["..", ".", "../a", "../../root", "link"] {
        let error = refused(target);
        assert!(matches!(error, ScanError::Loop(_)), "{target}: {error}");
    }
    assert!(matches!(refused("none"), ScanError::Dangling(_)));
    assert!(matches!(refused("/dev/null"), ScanError::Special(_)));
}
