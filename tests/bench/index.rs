//! Searches in an index of 100,000 torrents, a fifth of which have peers. Making it takes the better part of a minute.
//!
//! Figures are of the time for which a core was at it, as the scheduler counts: on a machine that others use, too, nothing else
//! stays the same from run to run.

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
    directory: tempfile::TempDir,
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
        // What is worst: it fits all, by many words, many grams, or many torrents.
        ("a letter of every path", text("1")),
        ("two letters", text("nr")),
        ("a beginning of every path, of as many words", text("img")),
        ("a longer one of a fifth", text("img00")),
        ("five common beginnings", text("nr0 img s01 mkv www")),
        ("the same and filters, last page", {
            let query = Query { min_bytes: Some(1), min_seeds: 1, page: 600, ..text("nr0 img s01 mkv www") };
            Query { max_age: Some(Duration::from_secs(86_400)), ..query }
        }),
        ("the same by size", Query { sort: Sort::Largest, ..text("nr0 img s01 mkv www") }),
        ("a rare word and common beginnings", text("w4321 nr0 img s01 mkv")),
        ("a long part that all names have", text("xampletracke")),
        ("a name that all names have", text("exampletracker.org")),
        ("an address of every comment", text("www.example-tracker.org")),
        ("a letter of a script without blanks", text("画")),
        ("two of its letters and a beginning", text("映画 nr0")),
        ("sixteen words that fit all", text("nr0 img s01 mkv 映画 映 画 example tracker org www from 1 2 3 4")),
    ];
    let mut group = criterion.benchmark_group("search 100,000 torrents");
    group.sample_size(20).measurement_time(Duration::from_secs(3));
    for (name, query) in cases {
        group.bench_function(name, |bencher| {
            static WORLD: LazyLock<World> = LazyLock::new(|| World::of(TORRENTS));
            let World { index, store, .. } = &*WORLD;
            bencher.iter_custom(|count| {
                let before = time_on_a_core();
                (0..count).for_each(|_| drop(index.search(black_box(&query), store, SystemTime::now()).unwrap()));
                time_on_a_core() - before
            });
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
        let took = started.elapsed().as_secs_f64();
        let bytes = std::fs::metadata(directory.path().join("index.sqlite")).unwrap().len();
        println!("{torrents} torrents added in {took:.1} s, {:.0} a second; {bytes} bytes", torrents as f64 / took);
        let world = Self { index, store, directory };
        world.migrate();
        world
    }

    /// How long it takes to open what an older version has left of the same torrents, which it must find as well.
    fn migrate(&self) {
        let older = self.directory.path().join("older.sqlite");
        let content = format!(
            "ATTACH '{}' AS here;
             INSERT INTO torrents SELECT * FROM here.torrents;
             INSERT INTO metainfo SELECT * FROM here.metainfo;",
            self.directory.path().join("index.sqlite").display()
        );
        Index::make_older(&older, 5, &content).unwrap();
        let before = time_on_a_core();
        let older = Index::open(&older).unwrap();
        println!("brought up to date in {:.1} s of a core", (time_on_a_core() - before).as_secs_f64());
        for words in ["img00", "w12", "w0 w1"] {
            let query = Query { text: words.to_owned(), ..Query::default() };
            let total = |index: &Index| index.search(&query, &self.store, SystemTime::now()).unwrap().total;
            assert_eq!(total(&older), total(&self.index), "{words}");
        }
    }
}

/// Of this thread.
fn time_on_a_core() -> Duration {
    // The scheduler adds up when it is called, or at its next tick.
    std::thread::yield_now();
    let line = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(line.split_whitespace().next().and_then(|nanos| nanos.parse().ok()).unwrap())
}

fn announce(store: &Store, info_hash: InfoHash, peer: u16) {
    let addr = ([10, 0, 0, 1], 1000 + peer).into();
    let complete = peer.is_multiple_of(2);
    let announce = Announce { info_hash, addr, complete, event: Event::Regular, wanted: 0, uploaded: 0, downloaded: 0 };
    store.announce(Instant::now(), &announce, &mut Vec::new()).unwrap();
}

/// A name of words, the first of which are the most common, what all names have, and five files.
fn torrent(number: usize) -> (Vec<u8>, InfoHash) {
    let mut rng = fastrand::Rng::with_seed(number as u64);
    // The product of three is small as often as words are common.
    let mut word = || format!("w{}", rng.usize(0..WORDS) * rng.usize(0..WORDS) / WORDS * rng.usize(0..WORDS) / WORDS);
    let [one, two, three, four] = [word(), word(), word(), word()];
    // Characters of Chinese follow one another.
    let wide = |nth: usize| char::from_u32(0x4e00 + (number * 7 + nth * 31) as u32 % 500).expect("a character");
    let (a, b, c) = (wide(0), wide(1), wide(2));
    let name = format!("{one} {two} {three} {four}.nr{number:06} 映画{a}{b}{c} [exampletracker.org]");
    let entries = (0..5).map(|file| NewEntry {
        path: vec![
            word().into_bytes(),
            format!("{} {file} s01e{file:02} img{:06}.mkv", word(), 5 * number as u64 + file).into_bytes(),
        ],
        length: 100 * (file + 1) + number as u64 % 1000,
        executable: false,
        target: None,
    });
    let torrent = NewTorrent {
        name: name.into_bytes(),
        entries: entries.collect(),
        piece_length: 1 << 16,
        comment: Some("from www.example-tracker.org".to_owned()),
        pieces: vec![7; 20],
        ..NewTorrent::default()
    };
    let (bytes, metainfo) = torrent.write().expect("a torrent");
    (bytes, metainfo.info_hash.expect("v1"))
}

const TORRENTS: usize = 100_000;
const WRITERS: usize = 32;
const WORDS: usize = 5000;
