//! Tokens and users, history, and databases of other versions.

use std::time::{Duration, SystemTime};

use btfs::tracker::index::{Index, IndexError, Role, TorrentName};

use super::kills::check;
use super::torrents::{Torrent, named};
use super::{World, day, text};

#[test]
fn tokens_and_passkeys_are_good_until_they_are_removed() {
    let world = World::new();
    let token = world.index.add_person(Role::Uploader, "alice", day(0)).unwrap();
    let passkey = world.index.add_person(Role::User, "alice", day(0)).unwrap();
    assert!(token.starts_with("btfs_") && passkey.len() == 32);
    assert_eq!(world.index.uploader(&token).unwrap().as_deref(), Some("alice"));
    assert_eq!(world.index.uploader(&passkey).unwrap(), None);
    let again = world.index.add_person(Role::User, "alice", day(0));
    assert!(matches!(again, Err(IndexError::Exists(name)) if name == "alice"));
    let users = world.index.people(Role::User).unwrap();
    assert_eq!((users[0].name.as_str(), users[0].passkey.as_deref()), ("alice", Some(passkey.as_str())));
    assert_eq!(world.index.people(Role::Uploader).unwrap()[0].passkey, None);
    assert!(world.index.remove_person(Role::Uploader, "alice").unwrap());
    assert!(!world.index.remove_person(Role::Uploader, "alice").unwrap());
    assert!(world.index.remove_person(Role::User, "alice").unwrap());
    assert!(world.index.uploader(&token).unwrap().is_none() && world.index.people(Role::User).unwrap().is_empty());
}

#[test]
fn tokens_are_not_in_the_database() {
    let world = World::new();
    let token = world.index.add_person(Role::Uploader, "bob", day(0)).unwrap();
    for entry in std::fs::read_dir(world.directory.path()).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        let random = &token.as_bytes()[token.len() - 32..];
        assert!(!bytes.windows(random.len()).any(|window| window == random));
    }
}

#[test]
fn what_another_process_adds_is_known_at_once() {
    let world = World::new();
    let other = Index::open(&world.directory.path().join("index.sqlite")).unwrap();
    let token = other.add_person(Role::Uploader, "carol", day(0)).unwrap();
    assert_eq!(world.index.uploader(&token).unwrap().as_deref(), Some("carol"));
}

#[test]
fn history_keeps_changes_and_thins_them_out() {
    let world = World::new();
    let torrent = named("film");
    world.add(&torrent);
    let id = world.index.details(&TorrentName::Short(torrent.info_hash())).unwrap().unwrap().id;
    let sample = |at| {
        // Figures in memory are some seconds old at most: a fresh look has those of now.
        let fresh = Index::open(&world.directory.path().join("index.sqlite")).unwrap();
        fresh.sample(&world.store, at).unwrap();
    };
    sample(day(0));
    assert!(world.index.history(id, 0).unwrap().is_empty(), "a swarm that never was has no history");
    world.announce(&torrent, 1, true);
    sample(day(1));
    sample(day(2));
    world.announce(&torrent, 2, false);
    sample(day(3));
    let seen: Vec<_> = world.index.history(id, 0).unwrap().iter().map(|s| (s.seeds, s.leechers)).collect();
    assert_eq!(seen, [(1, 0), (1, 1)], "a row a change");
    let from = 20_002 * 86_400;
    assert_eq!(world.index.history(id, from).unwrap().len(), 2, "what held at the beginning is part of it");
    assert_eq!(world.index.totals(0).unwrap().len(), 4);
    // A month later its last row is left, which still holds; in the turn of its part of all torrents.
    world.believe(day(60));
    for turn in 0..16 {
        sample(day(60) + Duration::from_secs(600 * turn));
    }
    let seen: Vec<_> = world.index.history(id, 0).unwrap().iter().map(|s| (s.seeds, s.leechers)).collect();
    assert_eq!(seen, [(1, 1)]);
    assert!(world.index.totals(0).unwrap().len() > 16, "those of the whole tracker are kept for a year");
}

#[test]
fn history_of_a_busy_day_is_bounded() {
    let world = World::new();
    let torrent = named("busy");
    world.add(&torrent);
    let id = world.index.details(&TorrentName::Short(torrent.info_hash())).unwrap().unwrap().id;
    for number in 0..40_u16 {
        world.announce(&torrent, number + 1, true);
        let fresh = Index::open(&world.directory.path().join("index.sqlite")).unwrap();
        fresh.sample(&world.store, day(0) + Duration::from_secs(600 * u64::from(number))).unwrap();
    }
    assert_eq!(world.index.history(id, 0).unwrap().len(), 40);
    // A clock that jumps, and goes back after some hours, thins nothing.
    for turn in 0..32 {
        world.index.sample(&world.store, day(400) + Duration::from_secs(600 * turn)).unwrap();
    }
    assert_eq!(world.index.history(id, 0).unwrap().len(), 40);
    world.believe(day(3));
    for turn in 0..16 {
        world.index.sample(&world.store, day(3) + Duration::from_secs(600 * turn)).unwrap();
    }
    let left = world.index.history(id, 0).unwrap();
    // 40 samples, six an hour: seven hours have begun.
    assert_eq!(left.len(), 7, "{left:?}");
}

impl World {
    /// Has the index take it that this is the time, without the days of samples that it takes else.
    fn believe(&self, now: SystemTime) {
        let connection = rusqlite::Connection::open(self.directory.path().join("index.sqlite")).unwrap();
        let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as i64;
        assert_eq!(connection.execute("UPDATE thinning SET clock = ?", [seconds]).unwrap(), 1);
    }
}

#[test]
fn a_database_of_an_older_version_is_brought_up_to_date() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index.sqlite");
    let torrent = Torrent { files: &["reels/first part.mkv", "notes.txt"], ..named("old film") };
    // What this program cannot read any more is found by its name.
    let row = format!(
        "INSERT INTO torrents (id, hash_v1, title, comment, size_bytes, file_count, private, added)
         VALUES (7, x'{}', 'old film', 'shot in 1926', 100, 2, 0, 1), (9, x'{}', 'odd film', '', 100, 1, 0, 1);
         INSERT INTO metainfo (torrent, bytes) VALUES (7, x'{}'), (9, x'00');
         INSERT INTO texts (rowid, title, parts, paths, comment)
         VALUES (7, 'old film', 'old fil ilm', 'reels/first part.mkv', 'shot in 1926'), (9, 'odd film', '', '', '');",
        torrent.info_hash(),
        "07".repeat(20),
        hex::encode(torrent.bytes()),
    );
    Index::make_older(&path, 1, &row).unwrap();
    let world = World::new();
    let index = Index::open(&path).unwrap();
    let search = |words: &str| {
        let found = index.search(&text(words), &world.store, day(0)).unwrap();
        let mut titles: Vec<_> = found.hits.into_iter().map(|hit| hit.title).collect();
        titles.sort();
        titles
    };
    for words in ["old", "ree", "firs mkv", "reels notes", "shot 1926", "old film part txt"] {
        assert_eq!(search(words), ["old film"], "{words}");
    }
    assert_eq!(search("ilm"), ["odd film", "old film"]);
    assert!(search("shut").is_empty());
    assert!(index.remove(&"07".repeat(20).parse().unwrap()).unwrap());
    check(&path);
    assert!(index.is_listed(&torrent.info_hash()));
    let token = index.add_person(Role::Uploader, "new", day(0)).unwrap();
    assert!(index.uploader(&token).unwrap().is_some());
    assert!(!index.add(torrent.bytes().into(), None, day(0)).unwrap().new);
    assert!(index.add(named("new film").bytes().into(), Some("new"), day(0)).unwrap().new);
    assert_eq!(search("film new"), ["new film"]);
}

#[test]
fn a_database_of_a_newer_version_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index.sqlite");
    Index::make_older(&path, 3, "PRAGMA user_version = 99").unwrap();
    let refused = Index::open(&path).unwrap_err();
    assert!(matches!(refused, IndexError::Newer { version: 99, .. }), "{refused}");
    assert!(refused.to_string().contains("newer"));
}

#[test]
fn what_is_no_database_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index.sqlite");
    std::fs::write(&path, "no database at all, but long enough to be looked at".repeat(100)).unwrap();
    assert!(Index::open(&path).is_err());
}
