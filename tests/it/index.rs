//! The index over its library: what is found by which words, what an upload leaves behind, and what a kill takes away.

pub mod kills;
mod people;
pub mod torrents;

use std::time::{Duration, SystemTime};

use btfs::tracker::index::{Found, Index, MAX_QUERY_CHARS, PER_PAGE, Query, Sort, TorrentName};
use btfs::tracker::{Announce, Event, Store, StoreConfig};

use torrents::{Torrent, named};

/// An index in a directory of its own, and a tracker's memory beside it.
pub struct World {
    pub index: Index,
    pub store: Store,
    directory: tempfile::TempDir,
}

impl World {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let index = Index::open(&directory.path().join("index.sqlite")).unwrap();
        Self { index, store: Store::new(StoreConfig::default(), std::time::Instant::now()), directory }
    }

    fn with(names: &[&str]) -> Self {
        let world = Self::new();
        names.iter().for_each(|name| world.add(&named(name)));
        world
    }

    fn add(&self, torrent: &Torrent) {
        self.index.add(torrent.bytes().into(), None, day(0)).unwrap();
    }

    fn search(&self, query: &Query) -> Found {
        self.index.search(query, &self.store, day(10)).unwrap()
    }

    /// Titles of the first page.
    fn titles(&self, query: &Query) -> Vec<String> {
        self.search(query).hits.into_iter().map(|hit| hit.title).collect()
    }

    /// Titles that fit the words, in the order of the alphabet.
    fn fitting(&self, words: &str) -> Vec<String> {
        let mut titles = self.titles(&text(words));
        titles.sort();
        titles
    }

    fn announce(&self, torrent: &Torrent, port: u16, complete: bool) {
        let info_hash = torrent.info_hash();
        let addr = ([127, 0, 0, 1], port).into();
        let event = Event::Regular;
        let announce = Announce { info_hash, addr, complete, event, wanted: 0, uploaded: 0, downloaded: 0 };
        self.store.announce(std::time::Instant::now(), &announce, &mut Vec::new()).unwrap();
    }
}

fn text(words: &str) -> Query {
    Query { text: words.to_owned(), ..Query::default() }
}

/// So many days after some day.
fn day(number: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs((20_000 + number) * 86_400)
}

#[test]
fn all_words_must_occur_somewhere() {
    let world = World::new();
    world.add(&named("Big Buck Bunny 2008 1080p"));
    world.add(&Torrent { comment: Some("a bunny, again"), ..named("Sintel big") });
    world.add(&Torrent { files: &["extras/Making of the Bunny.mkv", "feature.mkv"], ..named("Elephants") });
    assert_eq!(world.fitting("bunny"), ["Big Buck Bunny 2008 1080p", "Elephants", "Sintel big"]);
    assert_eq!(world.fitting("BUNNY big"), ["Big Buck Bunny 2008 1080p", "Sintel big"]);
    assert_eq!(world.fitting("bunny big 1080p"), ["Big Buck Bunny 2008 1080p"]);
    assert_eq!(world.fitting("making feature"), ["Elephants"]);
    assert!(world.fitting("bunny nowhere").is_empty());
    assert_eq!(world.search(&text("")).total, 3);
}

#[test]
fn parts_of_names_and_names_without_blanks_are_found() {
    let names = ["ubuntu-24.04.1-desktop-amd64.iso", "BigBuckBunny", "映画館の夜2024", "Amélie à Montmartre", "C++"];
    let world = World::with(&names);
    for (words, found) in [
        ("ubun", names[0]),
        ("buntu", names[0]),
        ("24.04", names[0]),
        ("24.04.1-desk", names[0]),
        ("ktop amd64.iso", names[0]),
        ("buckbun", names[1]),
        ("uckbunny iGbUc", names[1]),
        ("映画", names[2]),
        ("画館", names[2]),
        ("夜", names[2]),
        ("館の夜2024", names[2]),
        ("amelie", names[3]),
        ("AMÉLIE MONTM", names[3]),
        ("ontmar", names[3]),
        ("c", names[4]),
    ] {
        assert_eq!(world.fitting(words), [found], "{words}");
    }
    // Every character is found alone.
    for words in ["映", "画 夜", "館 映画館の夜"] {
        assert_eq!(world.fitting(words), [names[2]], "{words}");
    }
    // One word by a part of the title, the other by a whole one: each may be found where it is.
    assert_eq!(world.fitting("untu iso"), [names[0]]);
    for words in ["bunty", "24.05", "映館", "melie x"] {
        assert!(world.fitting(words).is_empty(), "{words}");
    }
}

#[test]
fn no_query_is_syntax() {
    let world = World::with(&["plain", "AND OR NOT NEAR", "drop table"]);
    for hostile in [
        "\"",
        "'",
        "\"\"\"",
        "*",
        "plain*",
        "pl*in",
        "^plain",
        "title:plain",
        "{title}:plain",
        "(plain",
        "plain)",
        "NEAR(",
        "AND",
        "OR",
        "NOT",
        "plain AND",
        "OR plain",
        "NOT plain",
        "a NEAR/2 b",
        "-plain",
        "+plain",
        "%",
        "_",
        "\\",
        ";",
        "--",
        "'; DROP TABLE torrents; --",
        "\0",
        "plain\0",
        "\u{202e}",
        "<script>alert(1)</script>",
        "\u{fffd}",
        "🦀",
        "ﷺ",
        "İ",
    ] {
        world.search(&text(hostile));
        let long = hostile.repeat(MAX_QUERY_CHARS / hostile.chars().count());
        world.search(&text(&long));
    }
    assert_eq!(world.fitting("plain*"), ["plain"]);
    assert_eq!(world.fitting("(plain"), ["plain"]);
    assert_eq!(world.fitting("AND"), ["AND OR NOT NEAR"]);
    assert_eq!(world.fitting("NOT near"), ["AND OR NOT NEAR"]);
    assert_eq!(world.fitting("'; DROP TABLE --"), ["drop table"]);
    assert!(world.fitting("*").is_empty(), "nothing to find is nothing found");
}

#[test]
fn every_torrent_of_the_corpus_is_taken_or_refused_and_found_by_its_name() {
    let world = World::new();
    let mut taken = 0;
    for entry in std::fs::read_dir("tests/corpus/torrents").unwrap() {
        let path = entry.unwrap().path();
        let good = path.file_name().unwrap().to_string_lossy().starts_with('v');
        let bytes = std::fs::read(&path).unwrap();
        let added = world.index.add(bytes.clone().into(), None, day(1));
        assert_eq!(added.is_ok(), good, "{}: {added:?}", path.display());
        let Ok(added) = added else { continue };
        taken += usize::from(added.new);
        let name: TorrentName = added.hashes.to_string().parse().unwrap();
        let details = world.index.details(&name).unwrap().expect("it is there");
        assert!(!added.new || details.bytes == bytes, "{}: not its own bytes", path.display());
        let metainfo = btfs::proto::metainfo::Metainfo::parse(&bytes).unwrap();
        let title = String::from_utf8_lossy(&metainfo.name).into_owned();
        let shown: String = title.chars().take(MAX_QUERY_CHARS).collect();
        if shown.chars().any(char::is_alphanumeric) {
            assert!(world.titles(&text(&shown)).contains(&title), "{}: {title:?} is not found", path.display());
        }
    }
    assert!(taken > 50 && world.index.len() == taken, "{taken} of {}", world.index.len());
}

#[test]
fn filters_leave_what_fits_all_of_them() {
    let world = World::new();
    for (name, length, days) in [("small old", 1000, 1), ("large old", 5_000_000, 2), ("small new", 2000, 9)] {
        let torrent = Torrent { length, ..named(name) };
        world.index.add(torrent.bytes().into(), None, day(days)).unwrap();
    }
    let all = Query { sort: Sort::Smallest, ..Query::default() };
    assert_eq!(world.titles(&all), ["small old", "small new", "large old"]);
    assert_eq!(world.titles(&Query { min_bytes: Some(2000), ..all.clone() }), ["small new", "large old"]);
    assert_eq!(world.titles(&Query { max_bytes: Some(2000), ..all.clone() }), ["small old", "small new"]);
    let week = Some(Duration::from_secs(7 * 86_400));
    assert_eq!(world.titles(&Query { max_age: week, ..all.clone() }), ["small new"]);
    assert_eq!(world.titles(&Query { max_age: week, max_bytes: Some(5), ..text("small") }), [""; 0]);
    world.announce(&Torrent { length: 1000, ..named("small old") }, 1, true);
    world.announce(&Torrent { length: 1000, ..named("small old") }, 2, true);
    // Figures by which is filtered may be some seconds old: another index has none yet.
    let fresh = Index::open(&world.directory.path().join("index.sqlite")).unwrap();
    let found = fresh.search(&Query { min_seeds: 2, ..text("old") }, &world.store, day(10)).unwrap();
    assert_eq!((found.total, found.hits[0].health.seeds), (1, 2));
    assert_eq!(fresh.search(&Query { min_seeds: 3, ..all }, &world.store, day(10)).unwrap().total, 0);
}

#[test]
fn titles_come_before_paths_and_the_healthy_before_the_dead() {
    let world = World::new();
    let dead = named("gimp manual");
    let alive = named("gimp manuel");
    world.add(&Torrent { files: &["doc/gimp.txt", "b.txt"], ..named("something else") });
    world.add(&alive);
    world.add(&dead);
    world.announce(&alive, 1, true);
    world.announce(&alive, 2, false);
    assert_eq!(world.titles(&text("gimp")), ["gimp manuel", "gimp manual", "something else"]);
    assert_eq!(world.search(&text("gimp")).hits[0].health.leechers, 1);
    assert_eq!(world.titles(&Query { sort: Sort::Seeds, ..Query::default() })[0], "gimp manuel");
    assert_eq!(world.index.summary(&world.store).seeds, 1);
}

#[test]
fn pages_hold_every_result_once() {
    let world = World::new();
    let count = 2 * PER_PAGE + 7;
    (0..count).for_each(|number| world.add(&named(&format!("part {number:03}"))));
    for sort in [Sort::Best, Sort::Newest, Sort::Seeds, Sort::Largest, Sort::Smallest] {
        let mut seen = Vec::new();
        for page in 0..4 {
            let found = world.search(&Query { page, sort, ..text("part") });
            assert_eq!(found.total, count);
            seen.extend(found.hits.into_iter().map(|hit| hit.title));
        }
        assert_eq!(seen.len(), count);
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), count, "{sort:?}");
    }
    assert!(world.search(&Query { page: usize::MAX, ..text("part") }).hits.is_empty());
}

#[test]
fn words_that_fit_thousands_are_ranked_as_well() {
    let world = World::new();
    let bytes: Vec<_> = (0..1500).map(|number| named(&format!("linux {number}")).bytes()).collect();
    // Together, so that they share their syncs.
    std::thread::scope(|scope| {
        for part in bytes.chunks(100) {
            scope.spawn(|| part.iter().for_each(|b| drop(world.index.add(b.clone().into(), None, day(0)).unwrap())));
        }
    });
    let path = Torrent { files: &["linux.txt", "b"], ..named("other") };
    world.add(&path);
    world.announce(&named("linux 700"), 1, true);
    world.announce(&path, 1, true);
    let found = world.search(&text("linux"));
    assert_eq!((found.total, found.hits[0].title.as_str()), (1501, "linux 700"));
    let last = world.search(&Query { page: 1500 / PER_PAGE, ..text("linux") });
    assert_eq!(last.hits.last().unwrap().title, "other", "a path, alive or not, comes after titles");
}

#[test]
fn the_same_torrent_is_joined_and_a_private_one_keeps_to_itself() {
    let world = World::new();
    let first = Torrent { trackers: &["http://a.example/announce"], ..named("film") };
    let second = Torrent { trackers: &["http://b.example/announce"], comment: Some("again"), ..named("film") };
    let added = world.index.add(first.bytes().into(), Some("me"), day(0)).unwrap();
    assert!(added.new);
    let again = world.index.add(second.bytes().into(), None, day(1)).unwrap();
    assert!(!again.new && again.hashes == added.hashes);
    let name: TorrentName = added.hashes.to_string().parse().unwrap();
    let details = world.index.details(&name).unwrap().unwrap();
    assert_eq!(details.trackers, ["http://a.example/announce", "http://b.example/announce"]);
    assert_eq!(details.bytes, first.bytes());
    assert_eq!(world.index.len(), 1);
    for trackers in [&["http://a.example/1"][..], &["http://b.example/2"]] {
        let private = Torrent { private: true, trackers, ..named("secret") };
        world.index.add(private.bytes().into(), None, day(0)).unwrap();
        let name = TorrentName::Short(private.info_hash());
        assert_eq!(world.index.details(&name).unwrap().unwrap().trackers, ["http://a.example/1"]);
    }
}

#[test]
fn a_torrent_that_is_removed_is_found_no_more() {
    let world = World::with(&["here", "gone"]);
    let gone = named("gone").info_hash();
    assert!(world.index.is_listed(&gone));
    assert!(world.index.remove(&TorrentName::Short(gone)).unwrap());
    assert!(!world.index.remove(&TorrentName::Short(gone)).unwrap() && !world.index.is_listed(&gone));
    assert!(world.fitting("gone").is_empty() && world.fitting("here").len() == 1);
    let name = TorrentName::Short(gone);
    assert!(world.index.details(&name).unwrap().is_none());
    world.add(&named("gone"));
    assert_eq!(world.fitting("gone"), ["gone"]);
}
