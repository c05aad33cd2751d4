//! The store as the rest of the program uses it: write, verify, read back, come again, after whatever has happened to
//! its files.

mod adopted;
mod altered;
mod lent;
mod placed;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use btfs::base::{BLOCK_BYTES, FileIndex, FileSpec, InfoHash, Layout, PieceIndex, PieceRange};
use btfs::storage::{CacheDir, OpenedStore, PieceHashes, PieceState, Store, TorrentFiles, Verdict};
use bytes::Bytes;
use sha1::{Digest, Sha1};

/// A torrent with content that is its own at every place.
struct Torrent {
    files: TorrentFiles,
    content: Bytes,
}

/// Lengths of files in order; negative: padding.
fn torrent(piece_length: u32, lengths: &[i64]) -> Torrent {
    let specs: Vec<_> =
        lengths.iter().map(|&length| FileSpec { length: length.unsigned_abs(), padding: length < 0 }).collect();
    let layout = Layout::new(piece_length, &specs).unwrap();
    let mut content: Vec<u8> =
        (0..layout.total_bytes()).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a) >> 32) as u8 | 1).collect();
    for file in layout.files().filter(|&file| layout.is_padding(file)) {
        let start = layout.file_start(file) as usize;
        content[start..start + layout.file_bytes(file) as usize].fill(0);
    }
    let hashes: Vec<u8> = content.chunks(piece_length as usize).flat_map(Sha1::digest).collect();
    let info_hash = InfoHash(Sha1::digest(&hashes).into());
    let files = TorrentFiles {
        info_hash,
        layout: Arc::new(layout),
        hashes: PieceHashes::V1(hashes.into()),
        info: Bytes::from_static(b"d4:name1:xe"),
    };
    Torrent { files, content: content.into() }
}

impl Torrent {
    fn open(&self, dir: &Path) -> OpenedStore {
        Store::open(&CacheDir::open(dir).unwrap(), self.files.clone(), false).unwrap()
    }

    /// A store that was filled and closed.
    fn filled(&self, dir: &Path) {
        let store = self.open(dir).store;
        self.write_all(&store);
        store.close().unwrap();
    }

    fn slot(&self, dir: &Path) -> PathBuf {
        dir.join(self.files.info_hash.to_string())
    }

    fn data(&self, dir: &Path, file: u32) -> PathBuf {
        self.slot(dir).join("data").join(file.to_string())
    }

    fn file(&self, raw: u32) -> FileIndex {
        self.files.layout.file(raw).unwrap()
    }

    /// Checks what has to be checked; the number of pieces that were right.
    fn check_all(&self, store: &Store) -> usize {
        let unchecked = store.table().unchecked();
        unchecked.iter().filter(|&piece| store.check(piece).unwrap() == Verdict::Verified).count()
    }

    /// Fetches whatever is not present, as a swarm would.
    fn fetch_missing(&self, store: &Store) -> usize {
        let missing: Vec<_> =
            self.files.layout.pieces().iter().filter(|&p| store.table().state(p) != PieceState::Present).collect();
        for piece in &missing {
            assert_eq!(self.write(store, piece.raw()), Verdict::Verified);
        }
        missing.len()
    }

    fn piece(&self, raw: u32) -> PieceIndex {
        self.files.layout.piece(raw).unwrap()
    }

    fn bytes_of(&self, piece: PieceIndex) -> Bytes {
        let start = self.files.layout.piece_start(piece) as usize;
        self.content.slice(start..start + self.files.layout.piece_bytes(piece) as usize)
    }

    fn blocks_of(&self, piece: PieceIndex) -> Vec<Bytes> {
        let bytes = self.bytes_of(piece);
        (0..bytes.len())
            .step_by(BLOCK_BYTES as usize)
            .map(|at| bytes.slice(at..bytes.len().min(at + BLOCK_BYTES as usize)))
            .collect()
    }

    fn write(&self, store: &Store, raw: u32) -> Verdict {
        let piece = self.piece(raw);
        store.write(piece, 1, 0, &self.blocks_of(piece)).unwrap()
    }

    fn write_all(&self, store: &Store) {
        for piece in self.files.layout.pieces().iter() {
            assert_eq!(self.write(store, piece.raw()), Verdict::Verified);
        }
    }

    /// Reads every file whole and compares.
    fn assert_readable(&self, store: &Store) {
        for file in self.files.layout.files().filter(|&file| !self.files.layout.is_padding(file)) {
            assert_eq!(self.read(store, file), self.expected(file), "file {file}");
        }
    }

    fn expected(&self, file: FileIndex) -> Bytes {
        let start = self.files.layout.file_start(file) as usize;
        self.content.slice(start..start + self.files.layout.file_bytes(file) as usize)
    }

    fn read(&self, store: &Store, file: FileIndex) -> Vec<u8> {
        let layout = &self.files.layout;
        let pins = store.table().pin(layout.pieces_of(file, 0, u64::MAX)).unwrap();
        let mut buffer = vec![0; layout.file_bytes(file) as usize];
        store.read(&pins, file, 0, &mut buffer).unwrap();
        buffer
    }
}

fn torrent_of_two() -> Torrent {
    torrent(64 << 10, &[300_000, 158_000])
}

fn write_at(path: &Path, offset: u64, bytes: &[u8]) {
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, offset).unwrap();
}

#[test]
fn what_is_written_is_read_back_across_files_and_padding() {
    let torrent = torrent(64 << 10, &[100_000, 0, -31_072, 5, 70_000, 1]);
    let temp = tempfile::tempdir().unwrap();
    let opened = torrent.open(temp.path());
    assert_eq!((opened.have.count(), opened.unchecked.count()), (0, 0));
    let store = opened.store;
    torrent.write_all(&store);
    torrent.assert_readable(&store);
    for piece in torrent.files.layout.pieces().iter() {
        let mut buffer = vec![1; torrent.bytes_of(piece).len()];
        let block = torrent.files.layout.block_ref(piece.raw(), 0, buffer.len() as u32).unwrap();
        let pins = store.table().pin(PieceRange::one(piece)).unwrap();
        store.read_block(&pins, block, &mut buffer).unwrap();
        assert_eq!(buffer, torrent.bytes_of(piece));
        let digests: Vec<[u8; 20]> = torrent.blocks_of(piece).iter().map(|block| Sha1::digest(block).into()).collect();
        assert_eq!(store.block_digests(piece).unwrap(), digests);
    }
    assert!(!temp.path().join(torrent.files.info_hash.to_string()).join("data/2").exists(), "padding is not stored");
}

#[test]
fn runs_in_any_order_and_from_many_threads_end_in_one_verdict() {
    let torrent = torrent(1 << 20, &[3 << 20]);
    let temp = tempfile::tempdir().unwrap();
    let store = torrent.open(temp.path()).store;
    for piece in torrent.files.layout.pieces().iter() {
        let blocks = torrent.blocks_of(piece);
        let verdicts: Vec<Verdict> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..4)
                .map(|worker| {
                    let (blocks, store) = (&blocks, &store);
                    scope.spawn(move || {
                        let mine = (0..blocks.len()).rev().filter(|at| at % 4 == worker);
                        let write = |at| store.write(piece, 1, at as u32 * BLOCK_BYTES, &blocks[at..=at]).unwrap();
                        mine.map(write).collect::<Vec<_>>()
                    })
                })
                .collect();
            workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
        });
        assert_eq!(verdicts.iter().filter(|verdict| **verdict == Verdict::Verified).count(), 1);
        assert_eq!(verdicts.iter().filter(|verdict| **verdict == Verdict::Incomplete).count(), 63);
    }
    torrent.assert_readable(&store);
    store.table().check_invariants();
}

#[test]
fn a_wrong_block_is_corrupt_with_digests_and_a_new_attempt_mends_it() {
    let torrent = torrent(64 << 10, &[128 << 10]);
    let temp = tempfile::tempdir().unwrap();
    let store = torrent.open(temp.path()).store;
    let piece = torrent.piece(1);
    let mut blocks = torrent.blocks_of(piece);
    blocks[2] = Bytes::from(vec![0xaa; BLOCK_BYTES as usize]);
    let digests: Vec<[u8; 20]> = blocks.iter().map(|block| Sha1::digest(block).into()).collect();
    assert_eq!(store.write(piece, 1, 0, &blocks).unwrap(), Verdict::Corrupt(digests));
    assert_eq!(store.table().state(piece), PieceState::Absent);
    assert!(store.table().pin(PieceRange::one(piece)).is_none());
    assert_eq!(store.write(piece, 2, 0, &torrent.blocks_of(piece)).unwrap(), Verdict::Verified);
    assert_eq!(store.write(piece, 2, 0, &blocks).unwrap(), Verdict::Verified, "a late duplicate is dropped");
    let mut buffer = vec![0; 1 << 16];
    let pins = store.table().pin(PieceRange::one(piece)).unwrap();
    store.read(&pins, torrent.files.layout.file(0).unwrap(), 1 << 16, &mut buffer).unwrap();
    assert_eq!(buffer, torrent.bytes_of(piece));
}

#[test]
fn a_closed_store_comes_back_whole_and_unhashed() {
    let torrent = torrent(64 << 10, &[300_000, 0, 70_000]);
    let temp = tempfile::tempdir().unwrap();
    torrent.filled(temp.path());
    let opened = torrent.open(temp.path());
    assert!(opened.have.is_full() && opened.warnings.is_empty(), "{:?}", opened.warnings);
    assert_eq!((opened.unchecked.count(), opened.store.status().hashed_pieces), (0, 0));
    torrent.assert_readable(&opened.store);
    assert!(opened.store.status().allocated_bytes >= 370_000);
    assert!(opened.store.write(torrent.piece(0), 1, 0, &[]).is_ok());
    opened.store.close().unwrap();
    opened.store.close().unwrap();
    assert!(opened.store.write(torrent.piece(0), 1, 0, &[]).is_err(), "later writes are refused");
}

#[test]
fn a_store_that_was_never_closed_comes_back_by_its_journal() {
    let torrent = torrent(64 << 10, &[300_000, 70_000]);
    let temp = tempfile::tempdir().unwrap();
    let store = torrent.open(temp.path()).store;
    (0..3).for_each(|raw| assert_eq!(torrent.write(&store, raw), Verdict::Verified));
    store.maintain().unwrap();
    drop(store);
    let opened = torrent.open(temp.path());
    assert_eq!((opened.have.count(), opened.unchecked.count()), (3, 0));
    // Again, without a word between writing and the end: the file is not as its stamp says.
    (3..5).for_each(|raw| assert_eq!(torrent.write(&opened.store, raw), Verdict::Verified));
    drop(opened);
    let opened = torrent.open(temp.path());
    assert_eq!((opened.have.count(), opened.unchecked.count()), (0, 5), "{:?}", opened.warnings);
    assert_eq!(torrent.check_all(&opened.store), 5);
    assert_eq!(torrent.fetch_missing(&opened.store), 1);
    torrent.assert_readable(&opened.store);
}

#[test]
fn a_recheck_trusts_nothing_that_lies_there() {
    let torrent = torrent(64 << 10, &[300_000]);
    let temp = tempfile::tempdir().unwrap();
    torrent.filled(temp.path());
    let opened = Store::open(&CacheDir::open(temp.path()).unwrap(), torrent.files.clone(), true).unwrap();
    assert_eq!((opened.have.count(), opened.unchecked.count()), (0, 5));
    assert_eq!(torrent.check_all(&opened.store), 5);
}

#[test]
fn what_is_not_pinned_or_not_inside_is_not_read() {
    let torrent = torrent_of_two();
    let temp = tempfile::tempdir().unwrap();
    let store = torrent.open(temp.path()).store;
    torrent.write_all(&store);
    let pins = store.table().pin(PieceRange::one(torrent.piece(1))).unwrap();
    let mut buffer = vec![0; 100];
    for (offset, fine) in [(65_536, true), (65_500, false), (131_000, false), (299_990, false), (u64::MAX, false)] {
        assert_eq!(store.read(&pins, torrent.file(0), offset, &mut buffer).is_ok(), fine, "{offset}");
    }
    assert!(store.read(&pins, torrent.file(0), 65_536, &mut []).is_ok());
    let block = torrent.files.layout.block_ref(1, 0, 101).unwrap();
    assert!(store.read_block(&pins, block, &mut buffer).is_err(), "a buffer of another length");
}

#[test]
fn two_stores_of_one_torrent_take_two_slots() {
    let torrent = torrent_of_two();
    let temp = tempfile::tempdir().unwrap();
    let first = torrent.open(temp.path());
    first.store.describe_owner("pid 17, mounted at /mnt/x").unwrap();
    let second = torrent.open(temp.path());
    assert_ne!(first.store.path_for_people(), second.store.path_for_people());
    assert!(second.warnings.len() == 1 && second.warnings[0].contains("pid 17"), "{:?}", second.warnings);
    torrent.write_all(&first.store);
    torrent.write_all(&second.store);
    torrent.assert_readable(&first.store);
    torrent.assert_readable(&second.store);
    assert_eq!(first.store.directories().len(), 3);
    assert_eq!(first.store.directories()[0], second.store.directories()[0]);
    assert_ne!(first.store.directories()[1], second.store.directories()[1]);
}

#[test]
fn everything_is_private_and_notes_are_kept() {
    let torrent = torrent_of_two();
    let temp = tempfile::tempdir().unwrap();
    let cache = temp.path().join("cache");
    let store = torrent.open(&cache).store;
    torrent.write_all(&store);
    assert_eq!(store.remembered("port"), None);
    store.remember("port", "6881").unwrap();
    store.remember("port", "6882").unwrap();
    assert!(store.remember("../port", "1").is_err() && store.remembered("../port").is_none());
    store.close().unwrap();
    drop(store);
    assert_eq!(torrent.open(&cache).store.remembered("port").as_deref(), Some("6882"));
    assert_eq!(fs::read(torrent.slot(&cache).join("info")).unwrap(), torrent.files.info);
    let mut waiting = vec![cache];
    while let Some(path) = waiting.pop() {
        let meta = path.symlink_metadata().unwrap();
        let expected = if meta.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(meta.permissions().mode() & 0o777, expected, "{}", path.display());
        if meta.is_dir() {
            waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
}

#[test]
fn evicted_pieces_are_holes_and_stay_away() {
    let torrent = torrent(1 << 20, &[3 << 20]);
    let temp = tempfile::tempdir().unwrap();
    let store = torrent.open(temp.path()).store;
    torrent.write_all(&store);
    let before = store.status().allocated_bytes;
    let pins = store.table().pin(PieceRange::one(torrent.piece(1))).unwrap();
    assert!(!store.evict(torrent.piece(1)).unwrap(), "pinned");
    drop(pins);
    assert!(store.evict(torrent.piece(1)).unwrap() && !store.evict(torrent.piece(1)).unwrap());
    assert!(store.status().allocated_bytes <= before - (1 << 20));
    store.maintain().unwrap();
    drop(store);
    let opened = torrent.open(temp.path());
    assert_eq!((opened.have.count(), opened.unchecked.count()), (2, 0), "{:?}", opened.warnings);
    assert_eq!(torrent.fetch_missing(&opened.store), 1);
    torrent.assert_readable(&opened.store);
}

#[test]
fn a_cache_removed_under_us_leaves_memory() {
    let torrent = torrent_of_two();
    let temp = tempfile::tempdir().unwrap();
    let store = torrent.open(temp.path()).store;
    (0..3).for_each(|raw| assert_eq!(torrent.write(&store, raw), Verdict::Verified));
    fs::remove_dir_all(torrent.slot(temp.path())).unwrap();
    let piece = torrent.piece(3);
    for _ in 0..2 {
        assert_eq!(store.write(piece, 1, 0, &torrent.blocks_of(piece)).unwrap(), Verdict::Held);
    }
    assert_eq!(store.table().present_count(), 1, "nothing else is claimed that nobody can reach");
    assert!(store.maintain().is_ok() && store.remember("port", "1").is_err());
    assert_eq!(store.check(piece).unwrap(), Verdict::Held);
    assert!(matches!(store.check(torrent.piece(0)), Ok(Verdict::Corrupt(_))));
    assert!(store.close().is_err());
}

#[test]
fn sixty_four_readers_never_see_a_wrong_byte_while_pieces_are_written() {
    let torrent = torrent(64 << 10, &[1 << 20, 3 << 20, -65_536, 12_345]);
    let temp = tempfile::tempdir().unwrap();
    let store = torrent.open(temp.path()).store;
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for reader in 0..64_u64 {
            let (torrent, store, over) = (&torrent, &store, &over);
            scope.spawn(move || {
                let mut seed = reader * 0x9e37_79b9 + 1;
                let mut buffer = vec![0; 100_000];
                let mut reads = 0;
                while !over.load(Ordering::Acquire) || reads == 0 {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    let file = torrent.file([0, 1, 3][(seed >> 60) as usize % 3]);
                    let size = torrent.files.layout.file_bytes(file);
                    let offset = (seed >> 20) % size;
                    let length = ((seed >> 40) % 100_000).min(size - offset);
                    let Some(pins) = store.table().pin(torrent.files.layout.pieces_of(file, offset, length)) else {
                        std::thread::yield_now();
                        continue;
                    };
                    let part = &mut buffer[..length as usize];
                    part.fill(0);
                    if !store.try_read_now(&pins, file, offset, part).unwrap() {
                        store.read(&pins, file, offset, part).unwrap();
                    }
                    let start = (torrent.files.layout.file_start(file) + offset) as usize;
                    assert!(*part == torrent.content[start..start + length as usize], "a wrong byte");
                    reads += 1;
                }
            });
        }
        let writers: Vec<_> = (0..3)
            .map(|writer| {
                let (torrent, store) = (&torrent, &store);
                scope.spawn(move || {
                    for piece in torrent.files.layout.pieces().iter().filter(|piece| piece.at() % 3 == writer) {
                        let mut blocks = torrent.blocks_of(piece);
                        if piece.at() % 5 == 0 {
                            blocks[0] = Bytes::from(vec![0xee; blocks[0].len()]);
                            assert!(matches!(store.write(piece, 1, 0, &blocks).unwrap(), Verdict::Corrupt(_)));
                        }
                        assert_eq!(store.write(piece, 2, 0, &torrent.blocks_of(piece)).unwrap(), Verdict::Verified);
                        store.maintain().unwrap();
                    }
                })
            })
            .collect();
        let results: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        over.store(true, Ordering::Release);
        results.into_iter().for_each(|result| result.unwrap());
    });
    torrent.assert_readable(&store);
    store.table().check_invariants();
    assert_eq!(store.suspect(torrent.file(1)), None, "our own writes are no alteration");
}

#[test]
fn a_lock_dies_with_its_process() {
    let torrent = torrent_of_two();
    let temp = tempfile::tempdir().unwrap();
    drop(torrent.open(temp.path()));
    let lock = torrent.slot(temp.path()).join("lock");
    let mut holder = std::process::Command::new("flock")
        .arg("--close")
        .arg(&lock)
        .args(["--command", "echo held; exec cat"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("util-linux has flock");
    let mut said = [0; 5];
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut said).unwrap();
    let second = torrent.open(temp.path());
    assert_ne!(second.store.path_for_people(), torrent.slot(temp.path()));
    // What ran under `flock` ends when its standard input does, which `wait` closes.
    holder.kill().unwrap();
    holder.wait().unwrap();
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while torrent.open(temp.path()).store.path_for_people() != torrent.slot(temp.path()) {
        assert!(std::time::Instant::now() < until, "the lock outlives its process");
        std::thread::yield_now();
    }
}

#[test]
fn memory_does_not_depend_on_the_piece_length() {
    // 96 MiB in one piece, in the worst order: nothing can be hashed warm.
    let torrent = torrent(96 << 20, &[96 << 20]);
    let temp = tempfile::tempdir().unwrap();
    let store = torrent.open(temp.path()).store;
    let blocks = torrent.blocks_of(torrent.piece(0));
    for (number, run) in blocks.chunks(64).enumerate().rev() {
        let verdict = store.write(torrent.piece(0), 1, (number << 20) as u32, run).unwrap();
        assert_eq!(verdict, if number == 0 { Verdict::Verified } else { Verdict::Incomplete });
    }
    let data = File::open(torrent.data(temp.path(), 0)).unwrap();
    assert_eq!(data.metadata().unwrap().size(), 96 << 20);
    assert_eq!(store.status().hashed_pieces, 1);
}
