//! A disk that fails in one way or another: what a reader gets is right or an error, nothing panics, and the next start is
//! clean.

use std::path::Path;
use std::sync::Mutex;

use super::simulated::{Disk, Trouble};
use super::*;
use crate::base::Bitfield;
use crate::storage::store::Moved;

impl World {
    /// Fetches a piece; what the store says of it.
    fn fetch(&self, store: &Store, piece: PieceIndex, attempt: u32) -> Option<Verdict> {
        store.write(piece, attempt, 0, &[self.bytes_of(piece)]).ok()
    }

    /// Reads a piece as a reader does: none when it is not present, or cannot be read.
    fn read(&self, store: &Store, piece: PieceIndex) -> Option<Bytes> {
        let pins = store.table().pin(PieceRange::one(piece))?;
        let layout = &self.torrent.layout;
        let mut bytes = Vec::new();
        for span in layout.spans(layout.piece_start(piece), layout.piece_bytes(piece).into()) {
            let mut part = vec![0; span.length as usize];
            if !span.padding {
                store.read(&pins, span.file, span.offset, &mut part).ok()?;
            }
            bytes.extend(part);
        }
        Some(bytes.into())
    }

    /// Whatever is given to a reader is right; how many pieces were.
    fn assert_readers_get_right_bytes(&self, store: &Store, story: &str) -> usize {
        let pieces = self.torrent.layout.pieces();
        let read = pieces.iter().filter_map(|piece| Some((piece, self.read(store, piece)?)));
        read.map(|(piece, bytes)| assert!(bytes == self.bytes_of(piece), "{story}: wrong bytes of {piece}")).count()
    }

    fn pieces(&self) -> Vec<PieceIndex> {
        self.torrent.layout.pieces().iter().collect()
    }

    /// The next life of the same process's system.
    fn reopen(&self) -> OpenedStore {
        self.disk.set_trouble(Trouble::Never);
        self.open()
    }
}

const UNWRITABLE: [Trouble; 3] =
    [Trouble::Unwritable(libc::ENOSPC), Trouble::Unwritable(libc::EROFS), Trouble::Unwritable(libc::EIO)];

#[test]
fn what_the_disk_does_not_take_is_read_from_memory_and_claimed_by_nobody() {
    for trouble in UNWRITABLE.into_iter().chain([Trouble::Dead(libc::EIO), Trouble::Dead(libc::ENODEV)]) {
        let world = World::new(1);
        let opened = world.open();
        let store = &opened.store;
        world.disk.set_trouble(trouble);
        for (number, piece) in world.pieces().into_iter().enumerate() {
            // In two runs, and in one.
            if number % 2 == 0 {
                assert!(!world.write(store, piece, 1), "it is not on the disk");
            } else {
                assert_eq!(world.fetch(store, piece, 1), Some(Verdict::Held), "{trouble:?}");
            }
            assert!(store.is_in_memory(piece));
            assert_eq!(world.read(store, piece), Some(world.bytes_of(piece)), "{trouble:?}");
            assert_eq!(world.fetch(store, piece, 1), Some(Verdict::Held), "a late duplicate");
        }
        let status = store.status();
        assert!(
            status.trouble.is_some() && status.memory_bytes <= MEMORY_BYTES && status.memory_pieces == 4,
            "{status:?}"
        );
        assert_eq!(store.table().present_count(), 4, "the others had to make room");
        assert!(store.memory_alone().is_some_and(|pieces| pieces >= 1));
        let _ = store.close();
        drop(opened);
        assert_eq!(world.reopen().have.count(), 0, "{trouble:?}");
    }
}

#[test]
fn caching_goes_on_when_the_disk_works_again_with_what_is_in_memory_first() {
    for trouble in UNWRITABLE {
        let world = World::new(2);
        let opened = world.open();
        let store = &opened.store;
        let moved = Arc::new(Mutex::new(Vec::new()));
        let listener = Arc::clone(&moved);
        store.on_moved(move |what| listener.lock().unwrap().push(what));
        let pieces = world.pieces();
        assert!(world.write(store, pieces[0], 1));
        world.disk.set_trouble(trouble);
        for &piece in &pieces[1..4] {
            assert_eq!(world.fetch(store, piece, 1), Some(Verdict::Held));
        }
        let mut now = Instant::now() + Duration::from_secs(11);
        store.maintain_at(now).unwrap();
        assert!(store.memory_alone().is_some(), "{trouble:?}: it was tried in vain");
        assert!(moved.lock().unwrap().is_empty());
        world.disk.set_trouble(Trouble::Never);
        now += Duration::from_secs(5);
        store.maintain_at(now).unwrap();
        assert!(store.memory_alone().is_some(), "{trouble:?}: not tried again so soon");
        now += Duration::from_secs(6);
        store.maintain_at(now).unwrap();
        assert!(store.memory_alone().is_none() && store.status().trouble.is_none(), "{trouble:?}");
        assert_eq!(*moved.lock().unwrap(), [Moved::OnDisk(pieces[1..4].to_vec())]);
        assert!(pieces[..4].iter().all(|&piece| !store.is_in_memory(piece) && world.holds(piece)));
        assert_eq!(store.status().memory_bytes, 0);
        assert!(world.write(store, pieces[4], 1), "and the next one goes there at once");
        store.close().unwrap();
        drop(opened);
        let opened = world.reopen();
        let kept: Vec<_> = opened.have.iter().collect();
        assert_eq!(kept, pieces[..5], "{trouble:?}: nothing was to be repaired by hand");
        world.assert_sound(&opened, "afterwards");
    }
}

#[test]
fn a_piece_whose_first_half_the_disk_took_is_whole_in_memory() {
    let world = World::new(3);
    let opened = world.open();
    let store = &opened.store;
    let piece = world.pieces()[0];
    let bytes = world.bytes_of(piece);
    assert_eq!(store.write(piece, 1, 0, &[bytes.slice(..20)]).unwrap(), Verdict::Incomplete);
    world.disk.set_trouble(Trouble::Unwritable(libc::ENOSPC));
    assert_eq!(store.write(piece, 1, 40, &[bytes.slice(40..)]).unwrap(), Verdict::Incomplete);
    assert_eq!(store.write(piece, 1, 20, &[bytes.slice(20..40)]).unwrap(), Verdict::Held);
    world.disk.set_trouble(Trouble::Dead(libc::EIO));
    assert_eq!(world.read(store, piece), Some(bytes), "nothing of it is read from the disk");
    // What had its first half on a disk that is gone is lost, and fetched anew.
    world.disk.set_trouble(Trouble::Never);
    store.maintain_at(Instant::now() + Duration::from_secs(11)).unwrap();
    let piece = world.pieces()[7];
    let bytes = world.bytes_of(piece);
    assert_eq!(store.write(piece, 1, 0, &[bytes.slice(..20)]).unwrap(), Verdict::Incomplete);
    world.disk.set_trouble(Trouble::Dead(libc::EIO));
    assert!(store.write(piece, 1, 20, &[bytes.slice(20..)]).is_err());
    assert_eq!(world.fetch(store, piece, 2), Some(Verdict::Held));
}

#[test]
fn a_lie_that_only_memory_took_is_found_out_and_its_blocks_are_told() {
    let world = World::new(4);
    let opened = world.open();
    world.disk.set_trouble(Trouble::Unwritable(libc::EROFS));
    let piece = world.pieces()[1];
    let wrong = Bytes::from(vec![0xEE; world.bytes_of(piece).len()]);
    let digest = <[u8; 20]>::from(Sha1::digest(&wrong));
    assert_eq!(opened.store.write(piece, 1, 0, &[wrong]).unwrap(), Verdict::Corrupt(vec![digest]));
    assert_eq!((opened.store.table().state(piece), opened.store.status().memory_bytes), (PieceState::Absent, 0));
    assert_eq!(world.fetch(&opened.store, piece, 2), Some(Verdict::Held));
}

#[test]
fn what_is_being_read_or_waited_for_stays_in_memory() {
    let world = World::new(5);
    let opened = world.open();
    let store = &opened.store;
    world.disk.set_trouble(Trouble::Unwritable(libc::ENOSPC));
    let pieces = world.pieces();
    for &piece in &pieces[..4] {
        assert_eq!(world.fetch(store, piece, 1), Some(Verdict::Held));
    }
    let pins = store.table().pin(PieceRange::one(pieces[0]));
    let guard = store.guard(None, vec![PieceRange::one(pieces[1])]);
    assert_eq!(world.fetch(store, pieces[4], 1), Some(Verdict::Held));
    assert_eq!(world.fetch(store, pieces[5], 1), Some(Verdict::Held));
    let left = |of: &[PieceIndex]| of.iter().map(|&piece| store.is_in_memory(piece)).collect::<Vec<_>>();
    assert_eq!(left(&pieces[..6]), [true, true, false, false, true, true], "the least recently used went");
    // With nothing else left, what somebody waits for gives way too; what is being read never does (I2).
    let all = store.table().pin(PieceRange::inclusive(pieces[4], pieces[5]));
    assert_eq!(world.fetch(store, pieces[6], 1), Some(Verdict::Held));
    assert_eq!(left(&pieces[..2]), [true, false]);
    let last = store.table().pin(PieceRange::one(pieces[6]));
    assert_eq!(world.fetch(store, pieces[7], 1), None, "all is being read");
    drop((pins, all, last, guard));
    assert_eq!(world.fetch(store, pieces[7], 2), Some(Verdict::Held));
}

#[test]
fn a_present_piece_that_the_disk_does_not_give_any_more_is_fetched_again() {
    let world = World::new(6);
    let opened = world.open();
    let store = &opened.store;
    let pieces = world.pieces();
    assert!(world.write(store, pieces[0], 1));
    world.disk.set_trouble(Trouble::Dead(libc::EIO));
    assert_eq!(world.read(store, pieces[0]), None);
    assert_eq!(store.table().state(pieces[0]), PieceState::Unchecked, "whoever waits for it has it checked");
    assert!(!store.take_altered().is_empty(), "and the torrent is told");
    assert_eq!(store.check(pieces[0]).unwrap(), Verdict::Corrupt(Vec::new()));
    assert_eq!(world.fetch(store, pieces[0], 2), Some(Verdict::Held));
    assert_eq!(world.read(store, pieces[0]), Some(world.bytes_of(pieces[0])));
}

/// What is removed, and how; of the cache and its slot.
type Way = (&'static str, fn(&Path, &Path));

#[test]
fn directories_that_somebody_has_removed_are_made_again() {
    let ways: [Way; 3] = [
        ("the cache", |cache, _| std::fs::remove_dir_all(cache).unwrap()),
        ("the slot", |_, slot| std::fs::remove_dir_all(slot).unwrap()),
        ("the data", |_, slot| std::fs::remove_dir_all(slot.join("data")).unwrap()),
    ];
    for (what, remove) in ways {
        let world = World::new(7);
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("cache");
        let mut cache = CacheDir::open(&path).unwrap();
        cache.limit(crate::storage::CacheLimits { size: Some(1 << 30), ..Default::default() }).unwrap();
        let opened = Store::open(&cache, world.torrent.clone(), false).unwrap();
        let store = &opened.store;
        store.describe_owner("pid 1\n").unwrap();
        let (slot, pieces) = (store.path_for_people().to_owned(), world.pieces());
        assert!(world.write(store, pieces[0], 1));
        remove(&path, &slot);
        assert_eq!(world.fetch(store, pieces[1], 1), Some(Verdict::Held), "{what}");
        assert_eq!(world.read(store, pieces[1]), Some(world.bytes_of(pieces[1])));
        assert!(!store.take_altered().is_empty(), "{what}: what was there is not");
        assert_eq!(store.check(pieces[0]).unwrap(), Verdict::Corrupt(Vec::new()), "{what}");
        let now = Instant::now() + Duration::from_secs(11);
        store.maintain_at(now).unwrap();
        assert!(store.memory_alone().is_none(), "{what}: {:?}", store.status());
        store.maintain_at(now + Duration::from_secs(1)).unwrap();
        assert!(!store.is_in_memory(pieces[1]) && world.write(store, pieces[2], 1), "{what}");
        assert_eq!(std::fs::read(slot.join("lock")).unwrap(), b"pid 1\n", "{what}");
        // The bounds are kept in the new directory, and the slot is ours.
        assert!(path.join("cache.usage").exists(), "{what}");
        let other = Store::open(&cache, world.torrent.clone(), false).unwrap();
        assert!(
            other.warnings.iter().any(|warning| warning.contains("in use by pid 1")),
            "{what}: {:?}",
            other.warnings
        );
        drop(other);
        store.close().unwrap();
        drop(opened);
        let opened = Store::open(&cache, world.torrent.clone(), false).unwrap();
        assert_eq!(opened.have.iter().collect::<Vec<_>>(), pieces[1..3], "{what}: {:?}", opened.warnings);
    }
}

#[test]
fn every_seventh_disk_call_fails_and_nothing_wrong_is_read_or_claimed() {
    let mut read = 0;
    for seed in 0..12 {
        for k in 0..7 {
            let story = format!("seed {seed}, calls {k}, {}, ... fail", k + 7);
            let mut world = World::new(seed);
            world.disk.set_trouble(Trouble::Each { n: 7, k });
            let opened = world.open();
            world.live(&opened.store, STEPS, false);
            read += world.assert_readers_get_right_bytes(&opened.store, &story);
            opened.store.table().check_invariants();
            let _ = opened.store.close();
            drop(opened);
            world.boot += (k % 2) as u8;
            world.assert_sound(&world.reopen(), &story);
        }
    }
    assert!(read > 200, "reads went on: {read}");
}

#[test]
fn any_one_disk_call_may_fail_and_reads_go_on() {
    let count = {
        let world = World::new(9);
        let opened = world.open();
        world.live(&opened.store, STEPS, false);
        world.disk.calls()
    };
    for call in 0..count {
        let story = format!("call {call} fails");
        let world = World::new(9);
        world.disk.set_trouble(Trouble::Each { n: usize::MAX, k: call });
        let opened = world.open();
        world.live(&opened.store, STEPS, false);
        world.assert_readers_get_right_bytes(&opened.store, &story);
        // Whatever is missing can be had at once, wherever it is kept.
        for piece in world.pieces() {
            let fetched = world.fetch(&opened.store, piece, u32::MAX - 1);
            assert!(matches!(fetched, Some(Verdict::Verified | Verdict::Held)), "{story}: {piece}, {fetched:?}");
            assert_eq!(world.read(&opened.store, piece), Some(world.bytes_of(piece)), "{story}");
        }
        drop(opened);
        world.assert_sound(&world.reopen(), &story);
    }
}

/// Replays all beginnings of what a life did to the disk, and cuts the power there.
fn cut_after_each_step(seed: u64, cut: impl Fn(&Disk), variants: u64) {
    let mut world = World::new(seed);
    let opened = world.open();
    world.live(&opened.store, STEPS, false);
    drop(opened);
    let steps = world.disk.record();
    assert!(steps.len() > 80, "{}", steps.len());
    world.boot += 1;
    for count in 0..=steps.len() {
        for variant in 0..variants {
            let story = format!("seed {seed}, power cut after {count} operations, variant {variant}");
            world.disk = Disk::replay(Arc::clone(&world.torrent.layout), 1000 * seed + variant, &steps[..count]);
            cut(&world.disk);
            world.assert_sound(&world.open(), &story);
        }
    }
}

#[test]
fn a_power_cut_after_any_recorded_operation_loses_what_was_not_synced_and_claims_none_of_it() {
    for seed in 20..24 {
        cut_after_each_step(seed, Disk::cut_power_and_lose_all, 1);
    }
}

#[test]
fn a_power_cut_after_any_recorded_operation_may_tear_what_was_not_synced() {
    for seed in 20..23 {
        cut_after_each_step(seed, Disk::cut_power, 4);
    }
}

#[test]
fn synced_pieces_survive_the_power_cut_that_loses_all_else() {
    let mut world = World::new(1);
    let opened = world.open();
    let pieces = world.pieces();
    let now = Instant::now();
    for &piece in &pieces[..5] {
        assert!(world.write(&opened.store, piece, 1));
    }
    opened.store.maintain_at(now).unwrap();
    opened.store.maintain_at(now + Duration::from_secs(6)).unwrap();
    let synced = world.disk.record().len();
    for &piece in &pieces[5..] {
        assert!(world.write(&opened.store, piece, 1));
    }
    opened.store.maintain_at(now + Duration::from_secs(7)).unwrap();
    drop(opened);
    let steps = world.disk.record();
    world.boot += 1;
    for count in synced..=steps.len() {
        world.disk = Disk::replay(Arc::clone(&world.torrent.layout), 1, &steps[..count]);
        world.disk.cut_power_and_lose_all();
        let opened = world.open();
        let mut known = Bitfield::new(pieces.len());
        opened.have.iter().chain(opened.unchecked.iter()).for_each(|piece| _ = known.set(piece));
        assert!(pieces[..5].iter().all(|&piece| known.has(piece) && world.holds(piece)), "after {count} operations");
    }
}
