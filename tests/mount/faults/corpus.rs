//! Tricky torrents that must be taken: mounted together, they show the listing that the corpus demands.

use std::collections::BTreeMap;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::harness::payload::link_text;
use crate::harness::{World, can_mount};

/// An entry of a tree: path below the torrent's root, then what it is.
type Tree = BTreeMap<Vec<u8>, String>;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus")
}

fn decode(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'%' {
            out.push(u8::from_str_radix(&text[at + 1..at + 3], 16).expect("an escape"));
            at += 3;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    out
}

/// What `layout.tsv` demands, by torrent.
fn demanded() -> BTreeMap<String, Tree> {
    let text = std::fs::read_to_string(corpus().join("layout.tsv")).unwrap();
    let mut trees: BTreeMap<String, Tree> = BTreeMap::new();
    for line in text.lines().skip(1) {
        let fields: Vec<&str> = line.split('\t').collect();
        let [torrent, kind, path, length, _sha256, mode, target] = fields[..] else { panic!("{line}") };
        let path = decode(path);
        let entry = match kind {
            "file" => format!("file {length} {mode}"),
            "symlink" => format!("symlink {}", link_text(&path, &decode(target)).escape_ascii()),
            _ => continue, // padding is not shown
        };
        trees.entry(torrent.to_owned()).or_default().insert(path, entry);
    }
    trees
}

/// What a root entry of the mount shows.
fn shown(path: &Path, below: &[u8], tree: &mut Tree) {
    let metadata = path.symlink_metadata().unwrap();
    let mode = metadata.permissions().mode() & 0o7777;
    if metadata.is_dir() {
        assert_eq!(mode, 0o555, "{}", path.display());
        for entry in std::fs::read_dir(path).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name();
            let inner = if below.is_empty() { name.as_bytes().to_vec() } else { [below, name.as_bytes()].join(&b'/') };
            shown(&entry.path(), &inner, tree);
        }
    } else if metadata.is_symlink() {
        let target = std::fs::read_link(path).unwrap().into_os_string().into_vec();
        tree.insert(below.to_vec(), format!("symlink {}", target.escape_ascii()));
    } else {
        tree.insert(below.to_vec(), format!("file {} {mode:04o}", metadata.len()));
    }
}

#[test]
fn accepted_torrents_mount_together_with_exactly_their_listing() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let expected = std::fs::read_to_string(corpus().join("expected.tsv")).unwrap();
    // Taken, and with a v1 side.
    let taken: Vec<String> = expected
        .lines()
        .skip(1)
        .map(|line| line.split('\t').collect::<Vec<_>>())
        .filter(|fields| fields[2].starts_with("accept") && fields[4] != "-")
        .map(|fields| fields[0].to_owned())
        .collect();
    assert!(taken.len() > 45, "{} torrents", taken.len());
    let file = |name: &String| corpus().join("torrents").join(name);
    let mut builder = world.mount_file(&file(&taken[0])).args(&["--no-tracker"]);
    for name in &taken[1..] {
        builder = builder.and(&file(name));
    }
    let mount = builder.start();

    let mut trees: Vec<Tree> = Vec::new();
    for entry in std::fs::read_dir(&mount.point).unwrap() {
        let entry = entry.unwrap();
        let mut tree = Tree::new();
        let root = if entry.file_type().unwrap().is_dir() { Vec::new() } else { entry.file_name().into_vec() };
        shown(&entry.path(), &root, &mut tree);
        trees.push(tree);
    }
    assert_eq!(trees.len(), taken.len(), "one root entry for each torrent");
    for (torrent, tree) in demanded().iter().filter(|(torrent, _)| taken.contains(torrent)) {
        let place = trees.iter().position(|shown| shown == tree);
        let place = place.unwrap_or_else(|| {
            let names: Vec<_> = tree.keys().map(|name| name.escape_ascii().to_string()).collect();
            panic!("{torrent}: no root entry shows exactly {names:?}\n{}", nearest(&trees, tree));
        });
        trees.remove(place);
    }
    mount.umount();
}

/// For the message: the shown tree that has the most in common.
fn nearest(trees: &[Tree], wanted: &Tree) -> String {
    let common = |tree: &&Tree| tree.keys().filter(|name| wanted.contains_key(*name)).count();
    let best = trees.iter().max_by_key(common);
    let lines = best.into_iter().flatten().map(|(name, what)| format!("  {} {what}", name.escape_ascii()));
    let wanted = wanted.iter().map(|(name, what)| format!("  {} {what}", name.escape_ascii()));
    format!("shown:\n{}\nwanted:\n{}", lines.collect::<Vec<_>>().join("\n"), wanted.collect::<Vec<_>>().join("\n"))
}
