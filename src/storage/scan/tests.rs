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
        TreeEntryKind::File { length, executable, .. } => {
            format!("{} {length}{}", text(&entry.path), if *executable { " x" } else { "" })
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
    let tree = walk(root, None).unwrap();
    assert!(!tree.single_file);
    assert_eq!(
        listing(&tree),
        ["a/B 0", "a/link -> b", "a/z 1", "a-b 2", "absolute -> a", "b 5 x", "dangling -> no/such"]
    );
    let single = walk(&root.join("b"), None).unwrap();
    assert!(single.single_file && single.entries.len() == 1 && single.entries[0].path.is_empty());
}

#[test]
fn links_that_lead_out_and_special_files_are_refused() {
    let refused = |target: &str| {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        write(&root.join("d/file"), b"1");
        symlink(target, root.join("d/link")).unwrap();
        walk(&root, None).is_err_and(|error| matches!(error, ScanError::Outside(_)))
    };
    for target in ["/etc/passwd", "../../x", "..", "../d/../..", "/"] {
        assert!(refused(target), "{target}");
    }
    for target in ["file", "../d", ".", "../d/no"] {
        assert!(!refused(target), "{target}");
    }
    let dir = tempfile::tempdir().unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap();
    assert!(matches!(walk(dir.path(), None), Err(ScanError::Special(_))));
    assert!(matches!(walk(Path::new("/dev/null"), None), Err(ScanError::Special(_))));
    assert!(matches!(walk(&dir.path().join("none"), None), Err(ScanError::Storage(_))));
}

#[test]
fn a_file_can_be_passed_over() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("old.torrent"), b"1");
    write(&dir.path().join("x"), b"2");
    let old = fs::metadata(dir.path().join("old.torrent")).unwrap();
    assert_eq!(listing(&walk(dir.path(), Some((old.dev(), old.ino()))).unwrap()), ["x 1"]);
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
    let tree = walk(dir.path(), None).unwrap();
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
    let tree = walk(dir.path(), None).unwrap();
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
    assert!(matches!(hash(false), Err(ScanError::Storage(_))));
}
