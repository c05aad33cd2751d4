//! `btfs verify`: files of the user's, and what the cache holds.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use btfs::proto::metainfo::Metainfo;
use btfs::storage::{CacheDir, OpenedStore, PieceHashes, PieceState, Store, TorrentFiles, Verdict};
use bytes::Bytes;

const PIECE: usize = 16 << 10;

/// Three files whose borders lie inside pieces, and an empty one.
struct World {
    directory: tempfile::TempDir,
    metainfo: Metainfo,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("films");
        fs::create_dir_all(data.join("sub")).unwrap();
        for (seed, (name, length)) in [("a", 50_000), ("b", 10), ("empty", 0), ("sub/c", 90_000)].iter().enumerate() {
            let bytes: Vec<u8> = (0..*length).map(|at: usize| (at * 31 + at / 251 + seed) as u8).collect();
            fs::write(data.join(name), bytes).unwrap();
        }
        let world = Self { metainfo: Self::make(directory.path()), directory };
        assert_eq!(world.metainfo.layout.piece_count(), 9);
        world
    }

    fn make(directory: &Path) -> Metainfo {
        let output = Command::new(env!("CARGO_BIN_EXE_btfs"))
            .current_dir(directory)
            .args(["create", "films", "-l", "16K"])
            .output();
        assert!(output.unwrap().status.success());
        Metainfo::parse(&fs::read(directory.join("films.torrent")).unwrap()).unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn btfs(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_btfs"));
        command
            .current_dir(self.directory.path())
            .env("HOME", self.path("home"))
            .env("XDG_CACHE_HOME", self.path("cache"));
        command.args(arguments).output().unwrap()
    }

    /// What is said of each file, its state and bad pieces.
    fn states(&self, arguments: &[&str], status: i32) -> (serde_json::Value, Vec<(String, Vec<u64>)>) {
        let output = self.btfs(&[&["verify", "films.torrent"], arguments, &["--json"]].concat());
        assert_eq!(output.status.code(), Some(status), "{output:?}");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let state = |file: &serde_json::Value| {
            let bad = file["bad_pieces"].as_array().unwrap().iter().map(|piece| piece.as_u64().unwrap()).collect();
            (format!("{} {}", file["path"].as_str().unwrap(), file["state"].as_str().unwrap()), bad)
        };
        let states = report["files"].as_array().unwrap().iter().map(state).collect();
        (report, states)
    }

    fn files(&self) -> TorrentFiles {
        TorrentFiles {
            info_hash: self.metainfo.info_hash.unwrap(),
            layout: self.metainfo.layout.clone(),
            hashes: PieceHashes::V1(self.metainfo.piece_hashes.clone()),
            info: self.metainfo.info.clone(),
        }
    }

    fn open(&self) -> OpenedStore {
        Store::open(&CacheDir::open(&self.path("cache/btfs")).unwrap(), self.files(), false).unwrap()
    }

    /// Fetches these pieces, as a mount would.
    fn fetch(&self, pieces: std::ops::Range<u32>) {
        let content: Vec<u8> =
            ["a", "b", "sub/c"].iter().flat_map(|name| fs::read(self.path("films").join(name)).unwrap()).collect();
        let store = self.open().store;
        for raw in pieces {
            let piece = self.metainfo.layout.piece(raw).unwrap();
            let start = raw as usize * PIECE;
            let bytes = Bytes::copy_from_slice(&content[start..content.len().min(start + PIECE)]);
            assert_eq!(store.write(piece, 1, 0, &[bytes]).unwrap(), Verdict::Verified);
        }
        store.close().unwrap();
    }
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

fn owned(states: &[(&str, &[u64])]) -> Vec<(String, Vec<u64>)> {
    states.iter().map(|(state, bad)| ((*state).to_owned(), bad.to_vec())).collect()
}

#[test]
fn files_are_told_apart_into_right_wrong_missing_and_unproven() {
    let world = World::new();
    let all = owned(&[("a good", &[]), ("b good", &[]), ("empty good", &[]), ("sub/c good", &[])]);
    let (report, states) = world.states(&["films"], 0);
    assert_eq!((states, &report["good"], &report["good_pieces"]), (all, &true.into(), &9.into()));
    // The directory that holds it will do as well.
    assert_eq!(world.states(&["."], 0).0["good_pieces"], 9);

    flip(&world.path("films/sub/c"), 30_000);
    let one = owned(&[("a good", &[]), ("b good", &[]), ("empty good", &[]), ("sub/c wrong", &[4])]);
    assert_eq!(world.states(&["films"], 1).1, one);
    let said = world.btfs(&["verify", "films.torrent", "films"]);
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("wrong     sub/c (piece 4)\n") && said.contains("3 of 4 files are right"), "{said}");

    // A border: it is the wrong file that its neighbours suffer from.
    flip(&world.path("films/sub/c"), 0);
    let border = owned(&[("a unproven", &[3]), ("b unproven", &[3]), ("empty good", &[]), ("sub/c wrong", &[3, 4])]);
    assert_eq!(world.states(&["films"], 1).1, border);
    fs::remove_file(world.path("films/b")).unwrap();
    symlink("a", world.path("films/b")).unwrap();
    fs::remove_file(world.path("films/empty")).unwrap();
    let (report, states) = world.states(&["films"], 1);
    let missing = owned(&[("a unproven", &[]), ("b missing", &[]), ("empty missing", &[]), ("sub/c wrong", &[4])]);
    assert_eq!((states, &report["missing_pieces"]), (missing, &1.into()));
    fs::write(world.path("films/a"), [0; 49_999]).unwrap();
    let (report, states) = world.states(&["films"], 1);
    assert_eq!((&*states[0].0, &report["files"][0]["found_bytes"]), ("a wrong", &49_999.into()));
    assert!(!world.path("cache").exists() && !world.path("home").exists(), "nothing is kept of it");
    let output = world.btfs(&["verify", "films.torrent", "nowhere"]);
    assert!(output.status.code() == Some(1) && String::from_utf8_lossy(&output.stderr).contains("nowhere"));
}

#[test]
fn what_is_bad_in_the_cache_is_forgotten_and_fetched_again() {
    let world = World::new();
    let nothing = world.btfs(&["verify", "films.torrent"]);
    assert_eq!(nothing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nothing.stderr).contains("films: nothing of it is in the cache"), "{nothing:?}");
    assert!(!world.path("cache").exists());
    world.fetch(0..7);
    let (report, states) = world.states(&[], 0);
    let fine = owned(&[("a good", &[]), ("b good", &[]), ("empty good", &[]), ("sub/c partial", &[])]);
    assert_eq!((states, &report["good_pieces"], &report["missing_pieces"]), (fine, &7.into(), &2.into()));

    // Rot, as far as times can be put back.
    let slot = world.path("cache/btfs").join(world.metainfo.info_hash.unwrap().to_string());
    let path = slot.join("data/0");
    let modified = path.metadata().unwrap().modified().unwrap();
    flip(&path, 20_000);
    fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
    // And a file that somebody cut.
    fs::File::options().write(true).open(slot.join("data/3")).unwrap().set_len(30_000).unwrap();
    let (report, states) = world.states(&[], 1);
    let bad = owned(&[("a wrong", &[1]), ("b good", &[]), ("empty good", &[]), ("sub/c wrong", &[4, 5, 6])]);
    assert_eq!((states, &report["good"], &report["cache"]), (bad, &false.into(), &true.into()));
    let (report, _) = world.states(&[], 0);
    assert_eq!((&report["good_pieces"], &report["missing_pieces"]), (&3.into(), &6.into()), "forgotten");
    let opened = world.open();
    assert_eq!((opened.have.count(), opened.unchecked.count()), (3, 0));
    assert_eq!(opened.store.table().state(world.metainfo.layout.piece(1).unwrap()), PieceState::Absent);

    // Nobody touches what a mount has open (I4).
    let output = world.btfs(&["verify", "films.torrent"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && said.contains("in use by pid") && said.contains("unmount it"), "{said}");
    drop(opened);
    world.fetch(0..9);
    assert_eq!(world.states(&[], 0).0["good_pieces"], 9);
}
