//! Crashes: a random life of a store is stopped after each of its disk operations in turn, by `kill -9` or by a power
//! cut, and whatever the next start calls present has to be right.

mod simulated;
mod troubles;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sha1::{Digest, Sha1};

use self::simulated::{Disk, Trouble};
use super::open::Parts;
use super::{OpenedStore, Run, Store, TorrentFiles};
use crate::base::{FileSpec, InfoHash, Layout, PieceIndex, PieceRange};
use crate::storage::cache_dir::Use;
use crate::storage::resume::BootId;
use crate::storage::{CacheDir, PieceHashes, PieceState, Verdict};

const PIECE_BYTES: u32 = 64;
/// For four pieces that the disk does not take.
const MEMORY_BYTES: u64 = 256;

struct World {
    torrent: TorrentFiles,
    content: Bytes,
    disk: Disk,
    cache: CacheDir,
    _temp: tempfile::TempDir,
    boot: u8,
    seed: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let lengths = [(300, false), (0, false), (20, true), (64, false), (5, false), (1, false), (500, false)];
        let files: Vec<_> = lengths.iter().map(|&(length, padding)| FileSpec { length, padding }).collect();
        let layout = Arc::new(Layout::new(PIECE_BYTES, &files).unwrap());
        let mut rng = fastrand::Rng::with_seed(7);
        let mut content: Vec<u8> = (0..layout.total_bytes()).map(|_| rng.u8(1..)).collect();
        content[300..320].fill(0);
        let hashes: Vec<u8> = content.chunks(PIECE_BYTES as usize).flat_map(Sha1::digest).collect();
        let torrent = TorrentFiles {
            info_hash: InfoHash([1; 20]),
            layout: Arc::clone(&layout),
            hashes: PieceHashes::V1(hashes.into()),
            info: Bytes::from_static(b"de"),
        };
        let temp = tempfile::tempdir().unwrap();
        let cache = CacheDir::open(temp.path()).unwrap();
        Self { torrent, content: content.into(), disk: Disk::new(layout, seed), cache, _temp: temp, boot: 1, seed }
    }

    fn open(&self) -> OpenedStore {
        let parts = Parts {
            torrent: self.torrent.clone(),
            backing: Arc::new(self.disk.clone()),
            state: Arc::new(self.disk.clone()),
            slot: self.cache.take_slot(self.torrent.info_hash, Use::Cache, &mut Vec::new()).unwrap(),
            directories: Vec::new(),
            adopted: false,
            boot: BootId([self.boot; 16]),
            budget: None,
            home: None,
            memory: MEMORY_BYTES,
        };
        parts.open(false, Vec::new())
    }

    fn bytes_of(&self, piece: PieceIndex) -> Bytes {
        let start = self.torrent.layout.piece_start(piece) as usize;
        self.content.slice(start..start + self.torrent.layout.piece_bytes(piece) as usize)
    }

    fn write(&self, store: &Store, piece: PieceIndex, attempt: u32) -> bool {
        let bytes = self.bytes_of(piece);
        let half = bytes.len() / 2;
        // Out of order, in two runs.
        let runs = [(half, bytes.slice(half..)), (0, bytes.slice(..half))];
        let run =
            |(begin, bytes): &(usize, Bytes)| store.write(piece, attempt, *begin as u32, std::slice::from_ref(bytes));
        runs.iter().map(run).last().unwrap().is_ok_and(|verdict| verdict == Verdict::Verified)
    }

    /// Whether the disk holds the right bytes of a piece.
    fn holds(&self, piece: PieceIndex) -> bool {
        let layout = &self.torrent.layout;
        layout.spans(layout.piece_start(piece), layout.piece_bytes(piece).into()).filter(|span| !span.padding).all(
            |span| {
                let start = (layout.file_start(span.file) + span.offset) as usize;
                let expected = &self.content[start..start + span.length as usize];
                self.disk.holds(span.file, span.offset as usize, expected)
            },
        )
    }

    /// A random life: pieces written well and badly, evicted, checked, read; the seconds pass; somebody meddles.
    /// Errors are what they are. Returns the pieces present at the end.
    fn live(&self, store: &Store, steps: usize, meddling: bool) -> Vec<PieceIndex> {
        let mut rng = fastrand::Rng::with_seed(self.seed);
        let mut now = Instant::now();
        let mut going = Vec::new();
        let layout = &self.torrent.layout;
        for step in 0..steps {
            let piece = layout.piece(rng.u32(..layout.piece_count() as u32)).unwrap();
            let attempt = 2 * step as u32 + 1;
            match rng.u8(..20) {
                0..=5 => {
                    self.write(store, piece, attempt);
                }
                6..=8 => {
                    // Together with what lacks behind it; one of them may be bad.
                    let bad = rng.usize(..8);
                    let lacking = (0..4).filter_map(|more| layout.piece(piece.raw() + more));
                    let lacking = lacking.filter(|&piece| store.table().state(piece) == PieceState::Absent);
                    let runs = lacking.enumerate().map(|(number, piece)| {
                        let bytes = self.bytes_of(piece);
                        let bytes = if number == bad { vec![0xff; bytes.len()].into() } else { bytes };
                        Run { piece, attempt, begin: 0, blocks: vec![bytes.slice(..1), bytes.slice(1..)] }
                    });
                    let runs: Vec<_> = runs.collect();
                    let (count, mut judged) = (runs.len(), 0);
                    store.write_all(runs, |verdict| {
                        let corrupt = matches!(verdict, Ok(Verdict::Corrupt(_)));
                        assert!(verdict.is_err() || meddling || corrupt == (judged == bad), "{judged}: {verdict:?}");
                        judged += 1;
                    });
                    assert_eq!(judged, count, "each has a verdict");
                }
                9 if store.table().state(piece) == PieceState::Absent => {
                    let wrong = Bytes::from(vec![0xff; layout.piece_bytes(piece) as usize]);
                    let _ = store.write(piece, attempt, 0, &[wrong]);
                }
                10 | 11 => {
                    // Stopped amid it, the piece is still here and may be claimed no more.
                    going.extend(store.evict(piece).is_err().then_some(piece));
                }
                12 if store.table().state(piece) == PieceState::Unchecked => {
                    let _ = store.check(piece);
                }
                13 if meddling => {
                    let file = layout.file([0, 3, 6][rng.usize(..3)]).unwrap();
                    self.disk.meddle(file);
                    // Without a look in between, our next write looks.
                    if rng.bool() {
                        store.suspect(file);
                    }
                }
                14 => {
                    let _ = store.block_digests(piece);
                }
                _ => {
                    now += Duration::from_millis([100, 1_000, 3_000, 6_000, 31_000][rng.usize(..5)]);
                    let _ = store.maintain_at(now);
                }
            }
            store.table().check_invariants();
        }
        // What is in memory alone dies with the process.
        let lasting = |piece: &PieceIndex| !going.contains(piece) && !store.is_in_memory(*piece);
        store.table().present().iter().filter(lasting).collect()
    }

    /// I1 and I3 at a start: what is present is right. Then the rest is fetched, and it is whole.
    fn assert_sound(&self, opened: &OpenedStore, story: &str) {
        for piece in opened.have.iter() {
            assert!(self.holds(piece), "{story}: piece {piece} is claimed and not held");
        }
        let store = &opened.store;
        for piece in opened.unchecked.iter() {
            let right = store.check(piece).unwrap() == Verdict::Verified;
            assert_eq!(right, self.holds(piece), "{story}: piece {piece}");
        }
        for piece in self.torrent.layout.pieces().iter().filter(|&p| store.table().state(p) != PieceState::Present) {
            assert!(self.write(store, piece, u32::MAX), "{story}: piece {piece} cannot be fetched");
        }
        store.close().unwrap();
        assert!(store.table().pin(self.torrent.layout.pieces()).is_some(), "{story}");
        for piece in self.torrent.layout.pieces().iter() {
            assert!(self.holds(piece), "{story}: piece {piece} after all was fetched");
        }
    }
}

const STEPS: usize = 60;

/// The number of disk operations of a life that nothing disturbs.
fn operations(seed: u64, meddling: bool) -> usize {
    let world = World::new(seed);
    let opened = world.open();
    world.live(&opened.store, STEPS, meddling);
    world.disk.operations()
}

#[test]
fn after_kill_at_any_step_nothing_is_claimed_wrongly_and_nothing_is_lost() {
    for seed in 0..6 {
        for step in 0..operations(seed, true) {
            let story = format!("seed {seed}, killed at operation {step}");
            let world = World::new(seed);
            world.disk.set_trouble(Trouble::Stop(step));
            let opened = world.open();
            let present = world.live(&opened.store, STEPS, true);
            drop(opened);
            world.disk.set_trouble(Trouble::Never);
            let opened = world.open();
            for piece in present {
                let known = opened.have.has(piece) || opened.unchecked.has(piece);
                assert!(known, "{story}: piece {piece} was lost");
            }
            world.assert_sound(&opened, &story);
        }
    }
}

#[test]
fn what_was_present_when_killed_is_present_or_checked_at_the_next_start() {
    for seed in 0..40 {
        let world = World::new(seed);
        let opened = world.open();
        let present = world.live(&opened.store, STEPS, true);
        drop(opened);
        let opened = world.open();
        for piece in present {
            let known = opened.have.has(piece) || opened.unchecked.has(piece);
            assert!(known, "seed {seed}: piece {piece} was lost");
        }
        world.assert_sound(&opened, &format!("seed {seed}"));
    }
}

#[test]
fn after_a_power_cut_at_any_step_nothing_is_claimed_wrongly() {
    for seed in 0..8 {
        for step in 0..=operations(seed, false) {
            let story = format!("seed {seed}, power cut at operation {step}");
            let mut world = World::new(seed);
            world.disk.set_trouble(Trouble::Stop(step));
            let opened = world.open();
            world.live(&opened.store, STEPS, false);
            drop(opened);
            world.disk.cut_power();
            world.disk.set_trouble(Trouble::Never);
            world.boot += 1;
            world.assert_sound(&world.open(), &story);
        }
    }
}

#[test]
fn a_killed_process_and_then_a_power_cut_leave_nothing_claimed_wrongly() {
    for seed in 0..8 {
        for step in (0..=operations(seed, false)).step_by(3) {
            let story = format!("seed {seed}, killed at operation {step}, power cut soon after");
            let mut world = World::new(seed);
            world.disk.set_trouble(Trouble::Stop(step));
            let opened = world.open();
            world.live(&opened.store, STEPS, false);
            drop(opened);
            world.disk.set_trouble(Trouble::Never);
            world.seed += 100;
            let opened = world.open();
            world.live(&opened.store, (seed * 2) as usize, false);
            drop(opened);
            world.disk.cut_power();
            world.boot += 1;
            world.assert_sound(&world.open(), &story);
        }
    }
}

#[test]
fn any_disk_operation_may_fail_and_the_next_start_is_clean() {
    for seed in 0..6 {
        for step in 0..operations(seed, true) {
            let story = format!("seed {seed}, operation {step} fails");
            let mut world = World::new(seed);
            world.disk.set_trouble(Trouble::Fail(step));
            let opened = world.open();
            world.live(&opened.store, STEPS, true);
            drop(opened);
            world.disk.set_trouble(Trouble::Never);
            world.boot += (step % 2) as u8;
            world.assert_sound(&world.open(), &story);
        }
    }
}

#[test]
fn what_was_synced_before_a_power_cut_is_trusted_after_it() {
    let mut world = World::new(1);
    let opened = world.open();
    for piece in world.torrent.layout.pieces().iter() {
        assert!(world.write(&opened.store, piece, 1));
    }
    let now = Instant::now();
    opened.store.maintain_at(now).unwrap();
    opened.store.maintain_at(now + Duration::from_secs(6)).unwrap();
    drop(opened);
    world.disk.cut_power();
    world.boot += 1;
    let opened = world.open();
    assert!(opened.have.is_full(), "{:?}, {:?} unchecked", opened.have, opened.unchecked);
}

#[test]
fn what_was_not_synced_before_a_power_cut_is_checked_after_it() {
    let mut world = World::new(1);
    let opened = world.open();
    let piece = world.torrent.layout.piece(0).unwrap();
    assert!(world.write(&opened.store, piece, 1));
    opened.store.maintain_at(Instant::now()).unwrap();
    assert!(opened.store.table().pin(PieceRange::one(piece)).is_some());
    drop(opened);
    // No power was cut; the system was started anew all the same.
    world.boot += 1;
    let opened = world.open();
    assert!(!opened.have.has(piece) && opened.unchecked.has(piece));
    assert_eq!(opened.store.check(piece).unwrap(), Verdict::Verified);
}

#[test]
fn a_hash_that_was_overtaken_by_an_alteration_makes_no_piece_present() {
    let world = World::new(1);
    let opened = world.open();
    let store = &opened.store;
    let piece = PieceIndex(0);
    assert!(world.write(store, piece, 1));
    // Hashing begins, the file is found altered, hashing ends.
    let doubts = store.ledger.doubts();
    store.distrust(world.torrent.layout.file(0).unwrap());
    assert!(!store.enter_present(piece, doubts));
    assert_eq!(store.table().state(piece), PieceState::Unchecked);
    assert_eq!(store.check(piece).unwrap(), Verdict::Verified, "what lies there was fine after all");
    assert_eq!(store.table().state(piece), PieceState::Present);
}
