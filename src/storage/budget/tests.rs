//! The bounds, at each write: real files, several stores, two accounts as of two processes.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use bytes::Bytes;
use proptest::prelude::*;
use sha1::{Digest, Sha1};

use super::*;
use crate::base::{FileSpec, InfoHash, Layout, PieceIndex, PieceRange};
use crate::storage::{Guard, PieceHashes, PieceState, Pins, TorrentFiles, Verdict};

const PIECE: usize = 64 << 10;
const LIMIT: u64 = 1 << 20;
const LIMITS: CacheLimits = CacheLimits { size: Some(LIMIT), min_free: MinFree::Bytes(0) };

struct Content {
    bytes: Bytes,
    torrent: TorrentFiles,
}

impl Content {
    /// Files whose borders lie amid pieces and amid blocks of the disk.
    fn new(number: u8, pieces: usize) -> Self {
        let length = (pieces * PIECE) as u64;
        let cut = length / 3 + 777;
        let files = [cut, length - cut].map(|length| FileSpec { length, padding: false });
        let layout = Arc::new(Layout::new(PIECE as u32, &files).unwrap());
        let mut bytes = vec![0; length as usize];
        fastrand::Rng::with_seed(number.into()).fill(&mut bytes);
        let hashes: Vec<u8> = bytes.chunks(PIECE).flat_map(Sha1::digest).collect();
        let info = Bytes::from_static(b"de");
        let torrent =
            TorrentFiles { info_hash: InfoHash([number; 20]), layout, hashes: PieceHashes::V1(hashes.into()), info };
        Self { bytes: bytes.into(), torrent }
    }

    fn piece(&self, piece: PieceIndex) -> Bytes {
        self.bytes.slice(piece.at() * PIECE..(piece.at() + 1) * PIECE)
    }
}

/// A process's view of the cache: its account, and a store for each torrent.
struct Process {
    _cache: CacheDir,
    stores: Vec<Arc<Store>>,
}

impl Process {
    fn start(path: &Path, limits: CacheLimits, torrents: &[&Content]) -> Self {
        let mut cache = CacheDir::open(path).unwrap();
        cache.limit(limits).unwrap();
        let stores = torrents.iter().map(|content| Store::open(&cache, content.torrent.clone(), false).unwrap().store);
        Self { stores: stores.collect(), _cache: cache }
    }
}

/// Fetches a piece, in two runs out of order; whether it was let.
fn fetch(store: &Store, content: &Content, piece: PieceIndex, attempt: u32) -> bool {
    let bytes = content.piece(piece);
    let (first, second) = (bytes.slice(..PIECE / 2), bytes.slice(PIECE / 2..));
    let late = store.write(piece, attempt, PIECE as u32 / 2, &[second]);
    late.is_ok() && store.write(piece, attempt, 0, &[first]).is_ok_and(|verdict| verdict == Verdict::Verified)
}

/// What a reader gets of a piece: the right bytes, or nothing.
fn read(store: &Store, content: &Content, piece: PieceIndex) -> bool {
    let Some(pins) = store.table().pin(PieceRange::one(piece)) else { return false };
    let layout = store.layout();
    let wanted = content.piece(piece);
    let mut at = 0;
    for span in layout.spans(layout.piece_start(piece), PIECE as u64) {
        let mut buffer = vec![0; span.length as usize];
        store.read(&pins, span.file, span.offset, &mut buffer).unwrap();
        assert!(buffer == wanted[at..at + buffer.len()], "wrong bytes in {piece}");
        at += buffer.len();
    }
    true
}

/// Bytes that all data files below a directory take.
fn taken(path: &Path) -> u64 {
    let mut bytes = 0;
    for slot in std::fs::read_dir(path).unwrap().flatten() {
        for file in std::fs::read_dir(slot.path().join("data")).into_iter().flatten().flatten() {
            bytes += file.metadata().map_or(0, |meta| meta.blocks() * 512);
        }
    }
    bytes
}

#[derive(Debug, Clone)]
enum Step {
    Fetch(usize, u32),
    Read(usize, u32),
    Guard(usize, u32, u32),
    Unguard,
    Pin(usize, u32),
    Unpin,
    Begin(usize, u32),
    Tick(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (store, piece) = (0_usize..3, 0_u32..40);
    let step = prop_oneof![
        8 => (store.clone(), piece.clone()).prop_map(|(store, piece)| Step::Fetch(store, piece)),
        3 => (store.clone(), piece.clone()).prop_map(|(store, piece)| Step::Read(store, piece)),
        1 => (store.clone(), piece.clone(), 1_u32..6).prop_map(|(store, piece, more)| Step::Guard(store, piece, more)),
        1 => Just(Step::Unguard),
        1 => (store.clone(), piece.clone()).prop_map(|(store, piece)| Step::Pin(store, piece)),
        1 => Just(Step::Unpin),
        1 => (store.clone(), piece).prop_map(|(store, piece)| Step::Begin(store, piece)),
        1 => store.prop_map(Step::Tick),
    ];
    proptest::collection::vec(step, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// The model: what was fetched and what is guarded or pinned. Whatever is read is right, nothing guarded or pinned
    /// goes, and at no write is more on the disk than the bound and a window.
    #[test]
    fn the_bound_holds_at_every_write(steps in steps()) {
        let temp = tempfile::tempdir().unwrap();
        let contents = [Content::new(1, 40), Content::new(2, 40), Content::new(3, 40)];
        // Two accounts: what is in the third store is another process's.
        let ours = Process::start(temp.path(), LIMITS, &[&contents[0], &contents[1]]);
        let theirs = Process::start(temp.path(), LIMITS, &[&contents[2]]);
        let stores: Vec<_> = ours.stores.iter().chain(&theirs.stores).cloned().collect();
        let window = stores[0].budget().unwrap().allowance();
        let mut guards: Vec<(usize, PieceRange, Guard)> = Vec::new();
        let mut pins: Vec<(usize, Pins)> = Vec::new();
        let mut kept: BTreeSet<(usize, u32)> = BTreeSet::new();
        for (number, step) in steps.into_iter().enumerate() {
            let attempt = number as u32 + 1;
            match step {
                Step::Fetch(store, piece) => {
                    let piece = PieceIndex(piece);
                    let was = stores[store].table().state(piece) == PieceState::Present;
                    let fetched = fetch(&stores[store], &contents[store], piece, attempt);
                    prop_assert!(fetched || !was);
                    let bytes = taken(temp.path());
                    prop_assert!(bytes <= LIMIT + window, "{} above the bound", bytes - LIMIT);
                }
                Step::Read(store, piece) => {
                    let piece = PieceIndex(piece);
                    let present = stores[store].table().state(piece) == PieceState::Present;
                    let got = read(&stores[store], &contents[store], piece);
                    // The thread of the account may have taken it in between, never given it.
                    prop_assert!(present || !got);
                }
                Step::Guard(store, first, more) => {
                    let range = PieceRange::inclusive(PieceIndex(first), PieceIndex((first + more).min(39)));
                    guards.push((store, range, stores[store].guard(None, vec![range])));
                }
                Step::Unguard => drop(guards.pop()),
                Step::Pin(store, piece) => {
                    pins.extend(stores[store].table().pin(PieceRange::one(PieceIndex(piece))).map(|pin| (store, pin)));
                }
                Step::Unpin => drop(pins.pop()),
                Step::Begin(store, piece) if stores[store].table().state(PieceIndex(piece)) == PieceState::Absent => {
                    let half = contents[store].piece(PieceIndex(piece)).slice(..PIECE / 2);
                    let _ = stores[store].write(PieceIndex(piece), attempt, 0, &[half]);
                    prop_assert!(stores[store].discard(PieceIndex(piece), attempt).is_ok());
                }
                Step::Begin(..) => {}
                Step::Tick(store) => _ = stores[store].budget().unwrap().tick(),
            }
            let held = |store: usize, piece: u32| {
                guards.iter().any(|(of, range, _)| *of == store && range.contains(PieceIndex(piece)))
                    || pins.iter().any(|(of, pin)| *of == store && pin.range().contains(PieceIndex(piece)))
            };
            kept.retain(|&(store, piece)| held(store, piece));
            for &(store, piece) in &kept {
                let state = stores[store].table().state(PieceIndex(piece));
                prop_assert_eq!(state, PieceState::Present, "{} of {} is held", piece, store);
            }
            for (store, opened) in stores.iter().enumerate() {
                opened.table().check_invariants();
                for piece in (0..40).filter(|&piece| held(store, piece)) {
                    if opened.table().state(PieceIndex(piece)) == PieceState::Present {
                        kept.insert((store, piece));
                    }
                }
            }
        }
        for (store, content) in stores.iter().zip(&contents) {
            for piece in store.layout().pieces().iter() {
                read(store, content, piece);
            }
        }
    }
}

#[test]
fn ten_times_the_bound_passes_through() {
    let temp = tempfile::tempdir().unwrap();
    let content = Content::new(1, 160);
    let process = Process::start(temp.path(), LIMITS, &[&content]);
    let store = &process.stores[0];
    for piece in store.layout().pieces().iter() {
        assert!(fetch(store, &content, piece, 1) && read(store, &content, piece), "{piece}");
        assert!(taken(temp.path()) <= LIMIT, "nothing is guarded, so the bound itself holds");
    }
    let left = store.table().present_count() * PIECE;
    assert!(left as u64 > LIMIT / 2, "no more goes than has to: {left}");
    // What borders on evicted pieces is not kept for ever.
    let whole = (store.table().present_count() * PIECE) as u64;
    assert!(taken(temp.path()) <= whole + 64 * 1024, "{} for {whole}", taken(temp.path()));
}

#[test]
fn what_two_processes_hold_makes_room_for_a_third() {
    let temp = tempfile::tempdir().unwrap();
    let contents = [Content::new(1, 12), Content::new(2, 12)];
    let first = Process::start(temp.path(), LIMITS, &[&contents[0]]);
    for piece in first.stores[0].layout().pieces().iter() {
        assert!(fetch(&first.stores[0], &contents[0], piece, 1));
    }
    let second = Process::start(temp.path(), LIMITS, &[&contents[1]]);
    let until = Instant::now() + Duration::from_secs(20);
    let mut attempt = 0;
    // It holds nothing itself: the other one gives, when it hears of it.
    while second.stores[0].table().present_count() < 12 {
        assert!(Instant::now() < until, "{} pieces", second.stores[0].table().present_count());
        attempt += 1;
        for piece in second.stores[0].layout().pieces().iter() {
            if second.stores[0].table().state(piece) == PieceState::Absent {
                fetch(&second.stores[0], &contents[1], piece, attempt);
                let window = second.stores[0].budget().unwrap().allowance();
                assert!(taken(temp.path()) <= LIMIT + window);
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(first.stores[0].table().present_count() < 12);
}

#[test]
fn slots_of_nobody_go_whole_and_before_anything_else() {
    let temp = tempfile::tempdir().unwrap();
    let contents = [Content::new(1, 12), Content::new(2, 14)];
    let old = Process::start(temp.path(), LIMITS, &[&contents[0]]);
    for piece in old.stores[0].layout().pieces().iter() {
        assert!(fetch(&old.stores[0], &contents[0], piece, 1));
    }
    old.stores[0].close().unwrap();
    drop(old);
    let new = Process::start(temp.path(), LIMITS, &[&contents[1]]);
    for piece in new.stores[0].layout().pieces().iter() {
        assert!(fetch(&new.stores[0], &contents[1], piece, 1));
        assert!(taken(temp.path()) <= LIMIT);
    }
    assert_eq!(new.stores[0].table().present_count(), 14, "nothing of its own went");
    assert!(!temp.path().join(contents[0].torrent.info_hash.to_string()).exists());
}

#[test]
fn a_pinned_torrent_stays_and_a_full_cache_takes_no_more_in_the_end() {
    let temp = tempfile::tempdir().unwrap();
    let content = Content::new(1, 40);
    let process = Process::start(temp.path(), LIMITS, &[&content]);
    let store = &process.stores[0];
    CacheDir::open(temp.path()).unwrap().pin(store.info_hash()).unwrap();
    let fetched = store.layout().pieces().iter().filter(|&piece| fetch(store, &content, piece, 1)).count();
    let window = store.budget().unwrap().allowance();
    let memory = store.status().memory_pieces;
    assert!(memory > 0 && memory + fetched == 40, "the rest is in memory: {memory} pieces");
    assert_eq!(store.table().present_count(), fetched + memory, "nothing went");
    assert!((LIMIT..=LIMIT + window).contains(&((fetched * PIECE) as u64)), "{fetched} pieces");
    assert!(taken(temp.path()) <= LIMIT + window + PIECE as u64);
    assert_eq!(store.room(), Room::Scarce);
    // When they may go, those in memory push them out by themselves.
    CacheDir::open(temp.path()).unwrap().unpin(store.info_hash()).unwrap();
    let now = Instant::now();
    for seconds in [11, 22, 33] {
        store.maintain_at(now + Duration::from_secs(seconds)).unwrap();
    }
    let status = store.status();
    assert!(status.memory_pieces == 0 && status.trouble.is_none(), "{status:?}");
    assert!(taken(temp.path()) <= LIMIT, "{}", taken(temp.path()));
    assert!(read(store, &content, PieceIndex(39)), "the newest stay");
}

#[test]
fn what_an_earlier_life_began_is_given_back() {
    let temp = tempfile::tempdir().unwrap();
    let content = Content::new(1, 8);
    let first = Process::start(temp.path(), LIMITS, &[&content]);
    assert!(fetch(&first.stores[0], &content, PieceIndex(2), 1));
    for piece in [0, 1, 5] {
        let half = content.piece(PieceIndex(piece)).slice(..PIECE / 2);
        first.stores[0].write(PieceIndex(piece), 1, 0, &[half]).unwrap();
    }
    assert!(taken(temp.path()) > 2 * PIECE as u64);
    first.stores[0].close().unwrap();
    drop(first);
    let second = Process::start(temp.path(), LIMITS, &[&content]);
    second.stores[0].sweep().unwrap();
    assert!(taken(temp.path()) <= PIECE as u64 + 3 * 4096, "{}", taken(temp.path()));
    assert!(read(&second.stores[0], &content, PieceIndex(2)));
}

#[test]
fn what_is_kept_free_of_a_disk() {
    const GIB: u64 = 1 << 30;
    for (wanted, disk, bytes) in [
        (MinFree::Default, 100 * GIB, 5 * GIB),
        (MinFree::Default, 20 * GIB, 2 * GIB),
        (MinFree::Default, 4 * GIB, GIB),
        (MinFree::Bytes(7), 4 * GIB, 7),
        (MinFree::Percent(50.0), 4 * GIB, 2 * GIB),
    ] {
        assert_eq!(wanted.of(disk), bytes, "{wanted:?} of {disk}");
    }
}

#[test]
fn a_disk_that_has_less_free_than_is_to_be_kept_takes_a_window_and_no_more() {
    let temp = tempfile::tempdir().unwrap();
    let content = Content::new(1, 40);
    let (free, _) = sys::disk_space(std::fs::File::open(temp.path()).unwrap()).unwrap();
    // More than there is: whatever is written has to go again.
    let limits = CacheLimits { size: Some(LIMIT), min_free: MinFree::Bytes(free + (1 << 40)) };
    let process = Process::start(temp.path(), limits, &[&content]);
    let store = &process.stores[0];
    for piece in store.layout().pieces().iter().take(4) {
        fetch(store, &content, piece, 1);
    }
    assert!(taken(temp.path()) <= LIMIT / 4 + PIECE as u64);
    assert_eq!(store.room(), Room::Scarce);
}

/// Whether two looks in a row at what could go are one look through all pieces.
fn is_looked_through_once(budget: &Budget) -> bool {
    let number = || lock(&budget.offer).as_ref().map(|offer| offer.number);
    // The first one may see changes, and so may the thread that looks after the account.
    (0..50).any(|_| {
        budget.tick();
        let before = number();
        (0..3).for_each(|_| _ = budget.tick());
        before.is_some() && before == number()
    })
}

#[test]
fn a_full_cache_that_nobody_uses_is_not_looked_through_again_and_again() {
    let temp = tempfile::tempdir().unwrap();
    let content = Content::new(1, 40);
    let process = Process::start(temp.path(), LIMITS, &[&content]);
    let store = &process.stores[0];
    for piece in store.layout().pieces().iter() {
        assert!(fetch(store, &content, piece, 1));
    }
    let budget = store.budget().unwrap();
    assert!(is_looked_through_once(budget));
    let before = budget.offer();
    assert!(before.0 > 0);
    // What changes is seen at once.
    let last = PieceRange::one(PieceIndex(39));
    let guard = store.guard(None, vec![last]);
    assert_eq!(budget.offer().0, before.0 - PIECE as u64);
    drop(guard);
    assert_eq!(budget.offer().0, before.0);
    assert!(fetch(store, &content, PieceIndex(0), 2));
    let number = lock(&budget.offer).as_ref().map(|offer| offer.number);
    budget.offer();
    assert!(lock(&budget.offer).as_ref().map(|offer| offer.number) > number);
    assert!(is_looked_through_once(budget));
}
