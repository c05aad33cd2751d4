//! The seeds of the fuzz targets, and what fuzzing has found, replayed without a fuzzer (`scripts/fuzz` runs that).

use std::path::{Path, PathBuf};

#[path = "../fuzz/targets.rs"]
mod targets;

/// Runs a target over every file of a directory; a panic names the file.
fn replay(target: fn(&[u8]), directory: &str, least: usize) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(directory);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= least, "{} has {} files", directory.display(), files.len());
    for file in files {
        let bytes = std::fs::read(&file).unwrap();
        let outcome = std::panic::catch_unwind(|| target(&bytes));
        assert!(outcome.is_ok(), "{} breaks its target", file.display());
    }
}

#[test]
fn bencode_seeds_are_survived() {
    replay(targets::bencode, "fuzz/seeds/bencode", 10);
    replay(targets::bencode, "corpus/torrents", 176);
}

#[test]
fn metainfo_seeds_are_survived() {
    replay(targets::metainfo, "fuzz/seeds/metainfo", 3);
    replay(targets::metainfo, "corpus/torrents", 176);
}

#[test]
fn wire_seeds_are_survived() {
    replay(targets::wire, "fuzz/seeds/wire", 40);
}

#[test]
fn tracker_seeds_are_survived() {
    replay(targets::tracker_http, "fuzz/seeds/tracker_http", 20);
    replay(targets::tracker_udp, "fuzz/seeds/tracker_udp", 20);
}

#[test]
fn seeds_of_the_trackers_own_side_are_survived() {
    replay(targets::tracker_server, "fuzz/seeds/tracker_server", 12);
    replay(targets::snapshot, "fuzz/seeds/snapshot", 16);
    replay(targets::search, "fuzz/seeds/search", 20);
}

#[test]
fn resume_seeds_are_survived() {
    replay(targets::resume, "fuzz/seeds/resume", 5);
}

#[test]
fn the_seeds_reach_what_they_are_for() {
    let seed =
        |name: &str| std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds").join(name)).unwrap();
    // Checksums, info-hash and layout are right: what stands behind them is reached.
    let body = &seed("resume/checkpoint-alone")[4..];
    let files = [("state".to_owned(), targets::sealed_state(body))].into();
    let layout = targets::resume_layout();
    let claims = btfs::storage::claims(&files, targets::RESUME_TORRENT, &layout, targets::RESUME_BOOT);
    assert!(claims.have.is_full() && claims.damage.is_none(), "{claims:?}");
    assert!(btfs::proto::metainfo::Metainfo::parse(&seed("metainfo/every-attribute")).is_ok());
    let now = std::time::Instant::now();
    let store = btfs::tracker::Store::new(btfs::tracker::StoreConfig::default(), now);
    let bytes = targets::sealed_snapshot(&seed("snapshot/sealed-all-kinds")[1..]);
    let restored = store.restore(now, targets::SNAPSHOT_TIME, &mut &bytes[..]).unwrap();
    // One of its six peers is older than the rest.
    assert_eq!((restored.torrents, restored.peers), (2, 5));
    assert!(btfs::proto::http_tracker::parse_announce(&seed("tracker_http/announce-with-all")).is_ok());
    let asked = seed("tracker_udp/asked-announce-with-url");
    let question = btfs::proto::udp_tracker::parse_question(&asked).expect("an announce");
    let btfs::proto::udp_tracker::QuestionBody::Announce { options, .. } = question.body else { panic!("no announce") };
    assert_eq!(*btfs::proto::udp_tracker::url_data(options), *b"/key/announce?a=b");
}
