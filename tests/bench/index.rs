//! Searches in an index of 100,000 torrents, a fifth of which have peers. Making it takes the better part of a minute.

use std::hint::black_box;
use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime};

use btfs::base::InfoHash;
use btfs::proto::metainfo::{NewEntry, NewTorrent};
use btfs::tracker::index::{Index, Query, Sort};
use btfs::tracker::{Announce, Event, Store, StoreConfig};
use criterion::Criterion;

struct World {
    index: Index,
    store: Store,
    _directory: tempfile::TempDir,
}

pub fn benches(criterion: &mut Criterion) {
    let text = |text: &str| Query { text: text.to_owned(), ..Query::default() };
    let cases = [
        ("one torrent", text("w4999 w4998 nr077777")),
        ("a rare word", text("w4321")),
        ("the most common word", text("w0")),
        ("three common words", text("w0 w1 w2")),
        ("a part of a name", text("77777")),
        ("a common part", text("w12")),
        ("a beginning that most names have", text("nr0")),
        ("a word of every path", text("mkv")),
        ("a word and a filter", Query { min_bytes: Some(2000), min_seeds: 2, ..text("w3") }),
        ("everything by seeds", Query { sort: Sort::Seeds, ..Query::default() }),
        ("the newest", Query::default()),
        ("the last page", Query { page: 3000, ..Query::default() }),
    ];
    let mut group = criterion.benchmark_group("search 100,000 torrents");
    group.sample_size(20).measurement_time(Duration::from_secs(3));
    for (name, query) in cases {
        group.bench_function(name, |bencher| {
            static WORLD: LazyLock<World> = LazyLock::new(|| World::of(TORRENTS));
            let World { index, store, .. } = &*WORLD;
            bencher.iter(|| index.search(black_box(&query), store, SystemTime::now()).unwrap());
        });
    }
    group.finish();
}

impl World {
    fn of(torrents: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let index = Index::open(&directory.path().join("index.sqlite")).unwrap();
        let store = Store::new(StoreConfig::default(), Instant::now());
        let started = Instant::now();
        // Many at once share their syncs.
        std::thread::scope(|scope| {
            for part in 0..WRITERS {
                let (index, store) = (&index, &store);
                scope.spawn(move || {
                    for number in (part..torrents).step_by(WRITERS) {
                        let (bytes, info_hash) = torrent(number);
                        index.add(bytes.into(), None, SystemTime::now()).unwrap();
                        if number % 5 == 0 {
                            (0..number % 7 + 1).for_each(|peer| announce(store, info_hash, peer as u16));
                        }
                    }
                });
            }
        });
        println!("{torrents} torrents added in {:.1} s", started.elapsed().as_secs_f64());
        Self { index, store, _directory: directory }
    }
}

fn announce(store: &Store, info_hash: InfoHash, peer: u16) {
    let addr = ([10, 0, 0, 1], 1000 + peer).into();
    let complete = peer.is_multiple_of(2);
    let announce = Announce { info_hash, addr, complete, event: Event::Regular, wanted: 0, uploaded: 0, downloaded: 0 };
    store.announce(Instant::now(), &announce, &mut Vec::new()).unwrap();
}

/// A name of words, the first of which are the most common, and five files.
fn torrent(number: usize) -> (Vec<u8>, InfoHash) {
    let mut rng = fastrand::Rng::with_seed(number as u64);
    // The product of three is small as often as words are common.
    let mut word = || format!("w{}", rng.usize(0..WORDS) * rng.usize(0..WORDS) / WORDS * rng.usize(0..WORDS) / WORDS);
    let name = format!("{} {} {} {}.nr{number:06}", word(), word(), word(), word());
    let entries = (0..5).map(|file| NewEntry {
        path: vec![word().into_bytes(), format!("{} {file}.mkv", word()).into_bytes()],
        length: 100 * (file + 1) + number as u64 % 1000,
        executable: false,
        target: None,
    });
    let torrent = NewTorrent {
        name: name.into_bytes(),
        entries: entries.collect(),
        piece_length: 1 << 16,
        pieces: vec![7; 20],
        ..NewTorrent::default()
    };
    let (bytes, metainfo) = torrent.write().expect("a torrent");
    (bytes, metainfo.info_hash.expect("v1"))
}

const TORRENTS: usize = 100_000;
const WRITERS: usize = 32;
const WORDS: usize = 5000;
