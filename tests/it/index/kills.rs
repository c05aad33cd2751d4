//! `kill -9` while torrents come: the database opens, and whatever was acknowledged is in it.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use btfs::base::InfoHash;
use btfs::proto::metainfo::Metainfo;
use btfs::tracker::index::{Index, TorrentName};

use super::torrents::named;

#[test]
fn nothing_acknowledged_is_lost_by_kills() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("index.sqlite");
    let mut acknowledged = BTreeSet::new();
    let long = std::env::var("BTFS_LONG").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    for life in 0..5 * long {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "index::kills::adds_until_killed", "--ignored", "--nocapture"])
            .env("BTFS_TEST_INDEX", &path)
            .env("BTFS_TEST_LIFE", life.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // After a few more each time: the kill hits another moment.
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let hashes = lines.map_while(Result::ok).filter_map(|line| Some(line.strip_prefix("added ")?.to_owned()));
        let mut hashes = hashes.peekable();
        acknowledged.extend(hashes.by_ref().take(3 + life % 17));
        child.kill().unwrap();
        child.wait().unwrap();
        // What it had said before it died.
        acknowledged.extend(hashes);
        let index = Index::open(&path).unwrap();
        check(&path);
        assert!(index.len() >= acknowledged.len());
        for hash in &acknowledged {
            let name: TorrentName = hash.parse().unwrap();
            assert!(index.details(&name).unwrap().is_some(), "life {life}: {hash} is lost");
        }
    }
    assert!(acknowledged.len() >= 15 * long, "{}", acknowledged.len());
}

/// The database is sound, and every torrent in it is whole: file, words and all.
pub fn check(path: &Path) {
    let connection = rusqlite::Connection::open(path).unwrap();
    let verdict: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(verdict, "ok");
    connection.execute("INSERT INTO texts(texts) VALUES ('integrity-check')", []).unwrap();
    let ids = |sql: &str| -> Vec<i64> {
        let mut statement = connection.prepare(sql).unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    };
    let listed = ids("SELECT id FROM torrents ORDER BY id");
    assert_eq!(listed, ids("SELECT torrent FROM metainfo ORDER BY torrent"));
    assert_eq!(listed, ids("SELECT id FROM texts_docsize ORDER BY id"));
    assert!(ids("SELECT torrent FROM sources WHERE torrent NOT IN (SELECT id FROM torrents)").is_empty());
    let mut files = connection.prepare("SELECT hash_v1, bytes FROM torrents JOIN metainfo ON torrent = id").unwrap();
    let file = |row: &rusqlite::Row<'_>| Ok((row.get::<_, [u8; 20]>(0)?, row.get::<_, Vec<u8>>(1)?));
    for torrent in files.query_map([], file).unwrap() {
        let (hash, bytes) = torrent.unwrap();
        let metainfo = Metainfo::parse(&bytes).expect("what is listed is a torrent");
        assert_eq!(metainfo.info_hash, Some(InfoHash(hash)));
    }
}

#[test]
#[ignore = "run and killed by nothing_acknowledged_is_lost_by_kills"]
fn adds_until_killed() {
    let path = std::env::var_os("BTFS_TEST_INDEX").expect("a parent");
    let life = std::env::var("BTFS_TEST_LIFE").expect("a parent");
    let index = Index::open(path.as_ref()).unwrap();
    let add = &|thread: usize| {
        for number in 0..10_000 {
            let torrent = named(&format!("torrent {number} of {thread} in {life}")).bytes();
            let added = index.add(torrent.into(), None, std::time::SystemTime::now()).unwrap();
            let mut out = std::io::stdout().lock();
            writeln!(out, "added {}", added.hashes).and_then(|()| out.flush()).unwrap();
        }
    };
    std::thread::scope(|scope| {
        for thread in 0..3 {
            scope.spawn(move || add(thread));
        }
    });
}
