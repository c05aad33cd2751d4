//! `kill -9` while several clients upload: whatever was acknowledged is there, whole, and nothing is there by halves.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::SystemTime;

use btfs::tracker::index::{Index, Query, TorrentName};
use btfs::tracker::{Store, StoreConfig};

use super::{Running, say, until};
use crate::index::kills::check;
use crate::index::torrents::{Torrent, named};

/// A torrent that no other thread and no other life uploads; every third one is long, so that its transaction is, too.
fn upload(life: usize, thread: usize, number: usize) -> (String, Vec<u8>) {
    let name = format!("film{life:03}x{thread}x{number:05}");
    let paths: Vec<String> = (0..500).map(|file| format!("part {file}/of {name} with a longer name.mkv")).collect();
    let files: Vec<&str> = paths.iter().map(String::as_str).collect();
    let files = if number % 3 == 1 { &files[..] } else { &[] };
    let bytes = Torrent { files, ..named(&name) }.bytes();
    (name, bytes)
}

#[test]
fn what_was_acknowledged_survives_kills_of_the_server() {
    let room = tempfile::tempdir().unwrap();
    let path = room.path().join("state/btfs/tracker/index.sqlite");
    let token = say(room.path(), &["tracker", "token", "add", "alice"]);
    let long = std::env::var("BTFS_LONG").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let mut acknowledged = BTreeMap::new();
    for life in 0..5 * long {
        let mut server = Running::start(room.path(), &[]);
        let (addr, token) = (server.addr.clone(), &token);
        let taken = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (addr, taken) = (&addr, &taken);
                scope.spawn(move || {
                    for number in 0.. {
                        let (name, bytes) = upload(life, thread, number);
                        match Running::upload(addr, token, &bytes) {
                            Some(answer) if answer.starts_with("HTTP/1.1 201") => {
                                taken.lock().unwrap().push((name, bytes));
                            }
                            _ => return,
                        }
                    }
                });
            }
            // After a few more each time: the kill hits another moment.
            until("uploads", || taken.lock().unwrap().len() > 3 + life % 17);
            server.child.kill().unwrap();
        });
        drop(server);
        let taken = taken.into_inner().unwrap();
        check(&path);
        let index = Index::open(&path).unwrap();
        let store = Store::new(StoreConfig::default(), std::time::Instant::now());
        for (name, _) in &taken {
            let query = Query { text: name.clone(), ..Query::default() };
            let found = index.search(&query, &store, SystemTime::now()).unwrap();
            assert!(found.hits.iter().any(|hit| hit.title == *name), "life {life}: {name} is not found");
        }
        acknowledged.extend(taken);
        for (name, bytes) in &acknowledged {
            let hash = btfs::proto::metainfo::Metainfo::parse(bytes).unwrap().info_hash.unwrap();
            let details = index.details(&TorrentName::Short(hash)).unwrap();
            assert!(details.is_some_and(|details| details.bytes == *bytes), "life {life}: {name} is lost");
        }
    }
    let server = Running::start(room.path(), &[]);
    for (name, bytes) in &acknowledged {
        let hash = btfs::proto::metainfo::Metainfo::parse(bytes).unwrap().info_hash.unwrap();
        let answer = server.ask(&format!("/torrent/{hash}.torrent"));
        let body = answer.windows(4).position(|end| end == b"\r\n\r\n").expect("a head") + 4;
        assert!(answer.starts_with(b"HTTP/1.1 200 ") && answer[body..] == *bytes, "{name} is lost");
        assert!(server.get(&format!("/?q={name}")).contains(&hash.to_string()), "{name} is not found");
    }
    assert!(acknowledged.len() >= 15 * long);
}
