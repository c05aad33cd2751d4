//! Files and state that somebody has changed, cut, replaced or removed, while closed and while open.

use std::fs::{self, OpenOptions};
use std::path::Path;

use btfs::base::PieceRange;
use btfs::storage::{StorageError, Verdict};

use super::{torrent_of_two, write_at};

#[test]
fn damaged_state_costs_a_check_and_a_warning_never_a_start() {
    let torrent = super::torrent(64 << 10, &[300_000, 70_000]);
    let other = super::torrent(64 << 10, &[300_000, 70_001]);
    let temp = tempfile::tempdir().unwrap();
    other.filled(temp.path());
    torrent.filled(temp.path());
    let state = torrent.slot(temp.path()).join("state");
    let good = fs::read(&state).unwrap();
    let foreign = fs::read(other.slot(temp.path()).join("state")).unwrap();
    let noise = |length: usize| (0..length).map(|at| ((at * 7919) >> 3) as u8).collect::<Vec<_>>();
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        bytes
    };
    let ways: Vec<(&str, Vec<u8>)> = vec![
        ("empty", Vec::new()),
        ("one byte", vec![b'b']),
        ("noise", noise(4096)),
        ("much noise", noise(1 << 20)),
        ("zeros", vec![0; good.len()]),
        ("another torrent's", foreign),
        ("a newer version", with(&|bytes| bytes[8] = 99)),
        ("version 0", with(&|bytes| bytes[8] = 0)),
        ("wrong magic", with(&|bytes| bytes[0] = b'x')),
        ("cut in the header", with(&|bytes| bytes.truncate(20))),
        ("header alone", with(&|bytes| bytes.truncate(40))),
        ("cut in the body", with(&|bytes| bytes.truncate(bytes.len() / 2))),
        ("the last byte missing", with(&|bytes| bytes.truncate(bytes.len() - 1))),
        ("a byte more", with(&|bytes| bytes.push(b'e'))),
        ("twice", with(&|bytes| bytes.extend_from_slice(&good))),
        ("a claimed length of 2^64", with(&|bytes| bytes[12..20].fill(0xff))),
        ("a flipped bit of the have bits", with(&|bytes| bytes[150] ^= 1)),
        ("a flipped bit at the end", with(&|bytes| *bytes.last_mut().unwrap() ^= 1)),
        ("a flipped checksum", with(&|bytes| bytes[25] ^= 1)),
        ("nested lists", [&good[..40], &[b'l'; 100_000]].concat()),
        ("text", b"{\"have\": [1, 2, 3]}".to_vec()),
    ];
    for (way, bytes) in ways {
        fs::write(&state, bytes).unwrap();
        let opened = torrent.open(temp.path());
        assert_eq!((opened.have.count(), opened.unchecked.count()), (0, 6), "{way}");
        assert_eq!(opened.warnings.len(), 1, "{way}: {:?}", opened.warnings);
        assert_eq!(torrent.check_all(&opened.store), 6, "{way}");
        torrent.assert_readable(&opened.store);
        opened.store.close().unwrap();
    }
    fs::remove_file(&state).unwrap();
    let opened = torrent.open(temp.path());
    assert_eq!((opened.unchecked.count(), opened.warnings.len()), (6, 1), "missing");
    drop(opened);
    fs::remove_file(&state).unwrap();
    fs::create_dir(&state).unwrap();
    let opened = torrent.open(temp.path());
    assert_eq!(opened.unchecked.count(), 6, "a directory: {:?}", opened.warnings);
}

/// What somebody does to a file of ours, and how many of the torrent's pieces are right afterwards.
type Alteration = (&'static str, fn(&Path), usize);

/// Five pieces of 64 KiB in file 0, two in file 1, which begins within piece 4.
const ALTERATIONS: [Alteration; 8] = [
    ("flip", |path| write_at(path, 70_000, &[0]), 6),
    ("zero", |path| write_at(path, 65_536, &[0; 16_384]), 6),
    ("truncate", |path| OpenOptions::new().write(true).open(path).unwrap().set_len(140_000).unwrap(), 4),
    ("extend", |path| write_at(path, 300_000, b"more"), 7),
    ("swap two pieces", swap_pieces, 5),
    ("replace by a copy", |path| replace(path, &fs::read(path).unwrap()), 7),
    ("replace by zeros", |path| replace(path, &[0; 300_000]), 2),
    ("remove", |path| fs::remove_file(path).unwrap(), 2),
];

fn swap_pieces(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let (first, second) = bytes.split_at_mut(65_536);
    first.swap_with_slice(&mut second[..65_536]);
    write_at(path, 0, &bytes);
}

fn replace(path: &Path, bytes: &[u8]) {
    let beside = path.with_extension("new");
    fs::write(&beside, bytes).unwrap();
    fs::rename(&beside, path).unwrap();
}

#[test]
fn a_file_altered_while_closed_is_checked_again_and_no_other() {
    for (way, alter, right) in ALTERATIONS {
        let torrent = torrent_of_two();
        let temp = tempfile::tempdir().unwrap();
        torrent.filled(temp.path());
        alter(&torrent.data(temp.path(), 0));
        let opened = torrent.open(temp.path());
        assert_eq!(opened.have.count(), 2, "{way}: pieces of the other file alone");
        assert_eq!(opened.have.count() + torrent.check_all(&opened.store), right, "{way}");
        assert_eq!(torrent.fetch_missing(&opened.store), 7 - right, "{way}");
        torrent.assert_readable(&opened.store);
        opened.store.close().unwrap();
        drop(opened);
        assert!(torrent.open(temp.path()).have.is_full(), "{way}");
    }
}

#[test]
fn a_file_altered_while_open_is_noticed_at_the_next_look() {
    for (way, alter, right) in ALTERATIONS {
        let torrent = torrent_of_two();
        let temp = tempfile::tempdir().unwrap();
        let store = torrent.open(temp.path()).store;
        torrent.write_all(&store);
        store.maintain().unwrap();
        assert_eq!((store.suspect(torrent.file(0)), store.suspect(torrent.file(1))), (None, None), "{way}");
        alter(&torrent.data(temp.path(), 0));
        assert_eq!(store.suspect(torrent.file(1)), None, "{way}");
        let range = store.suspect(torrent.file(0)).expect(way);
        assert_eq!(range.as_usizes(), 0..5, "{way}");
        assert_eq!((store.suspect(torrent.file(0)), store.table().present_count()), (None, 2), "{way}: told once");
        assert_eq!(2 + torrent.check_all(&store), right, "{way}");
        assert_eq!(torrent.fetch_missing(&store), 7 - right, "{way}");
        torrent.assert_readable(&store);
        // A process that dies now must not leave the old claims with the new stamp.
        store.maintain().unwrap();
        drop(store);
        let opened = torrent.open(temp.path());
        assert!(opened.have.is_full(), "{way}: {:?}", opened.have);
        torrent.assert_readable(&opened.store);
    }
}

#[test]
fn claims_taken_back_stay_so_when_the_process_dies() {
    let torrent = torrent_of_two();
    let temp = tempfile::tempdir().unwrap();
    torrent.filled(temp.path());
    let store = torrent.open(temp.path()).store;
    write_at(&torrent.data(temp.path(), 0), 70_000, &[0]);
    assert!(store.suspect(torrent.file(0)).is_some());
    store.maintain().unwrap();
    drop(store);
    let opened = torrent.open(temp.path());
    assert_eq!((opened.have.count(), opened.unchecked.count()), (2, 5));
    assert_eq!(torrent.check_all(&opened.store), 4);
}

#[test]
fn a_write_does_not_cover_up_what_somebody_did_before_it() {
    let torrent = torrent_of_two();
    let temp = tempfile::tempdir().unwrap();
    let store = torrent.open(temp.path()).store;
    (0..4).for_each(|raw| assert_eq!(torrent.write(&store, raw), Verdict::Verified));
    write_at(&torrent.data(temp.path(), 0), 70_000, &[0]);
    assert_eq!(torrent.write(&store, 4), Verdict::Verified);
    assert_eq!(store.take_altered(), [torrent.files.layout.pieces_of(torrent.file(0), 0, 300_000)]);
    assert_eq!(torrent.check_all(&store), 3);
}

#[test]
fn a_file_cut_under_a_reader_is_an_error_never_a_short_read() {
    let torrent = torrent_of_two();
    let temp = tempfile::tempdir().unwrap();
    let store = torrent.open(temp.path()).store;
    torrent.write_all(&store);
    let pins = store.table().pin(torrent.files.layout.pieces_of(torrent.file(0), 0, 300_000)).unwrap();
    OpenOptions::new().write(true).open(torrent.data(temp.path(), 0)).unwrap().set_len(100_000).unwrap();
    let mut buffer = vec![0; 200_000];
    assert!(matches!(store.try_read_now(&pins, torrent.file(0), 0, &mut buffer), Ok(false)));
    assert!(matches!(store.read(&pins, torrent.file(0), 0, &mut buffer), Err(StorageError::Absent(0))));
    assert!(matches!(store.read(&pins, torrent.file(0), 0, &mut buffer[..10]), Err(StorageError::Absent(_))));
    assert_eq!(store.suspect(torrent.file(0)).map(PieceRange::as_usizes), Some(0..5));
    drop(pins);
    assert_eq!(torrent.check_all(&store), 1);
    torrent.fetch_missing(&store);
    torrent.assert_readable(&store);
}
