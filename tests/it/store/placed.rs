//! Files that get names of their own below a directory of the user's.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use btfs::storage::{Destination, OpenedStore, PieceState, StorageError, Store, Verdict};
use bytes::Bytes;

use super::{Torrent, torrent, torrent_of_two, write_at};

fn destination(directory: &Path, names: &[&str]) -> Destination {
    let name = |name: &&str| (!name.is_empty()).then(|| PathBuf::from(name));
    Destination { directory: directory.to_owned(), paths: names.iter().map(name).collect() }
}

fn open(torrent: &Torrent, directory: &Path, names: &[&str]) -> Result<OpenedStore, StorageError> {
    Store::open_into(&destination(directory, names), torrent.files.clone(), false)
}

fn slot(torrent: &Torrent, directory: &Path) -> PathBuf {
    directory.join(format!(".btfs-{}", torrent.files.info_hash))
}

#[test]
fn complete_files_get_their_names_and_the_slot_goes() {
    let torrent = torrent(64 << 10, &[300_000, 0, -20_000, 158_000]);
    let temp = tempfile::tempdir().unwrap();
    let names = ["t/a", "t/d/empty", "", "t/d/b"];
    let store = open(&torrent, temp.path(), &names).unwrap().store;
    assert!(!store.place(torrent.file(0), 0o644).unwrap(), "nothing is here");
    assert!(store.place(torrent.file(1), 0o600).unwrap(), "of nothing everything is here");
    for piece in 0..5 {
        torrent.write(&store, piece);
    }
    assert!(store.place(torrent.file(0), 0o755).unwrap() && !store.place(torrent.file(3), 0o644).unwrap());
    assert_eq!(fs::read(temp.path().join("t/a")).unwrap(), torrent.expected(torrent.file(0)));
    assert_eq!(temp.path().join("t/a").metadata().unwrap().permissions().mode() & 0o777, 0o755);
    // It is served from there, and its border goes on being used.
    assert_eq!(torrent.read(&store, torrent.file(0)), torrent.expected(torrent.file(0)));
    for piece in 5..torrent.files.layout.piece_count() as u32 {
        torrent.write(&store, piece);
    }
    assert!(store.place(torrent.file(3), 0o644).unwrap());
    store.close().unwrap();
    store.dissolve().unwrap();
    drop(store);
    assert_eq!(fs::read(temp.path().join("t/d/b")).unwrap(), torrent.expected(torrent.file(3)));
    assert_eq!(fs::metadata(temp.path().join("t/d/empty")).unwrap().len(), 0);
    assert!(!slot(&torrent, temp.path()).exists());
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
}

#[test]
fn a_later_life_goes_on_with_what_was_placed_and_what_was_not() {
    let torrent = torrent_of_two();
    let temp = tempfile::tempdir().unwrap();
    let names = ["a", "b"];
    let store = open(&torrent, temp.path(), &names).unwrap().store;
    for piece in 0..6 {
        torrent.write(&store, piece);
    }
    assert!(store.place(torrent.file(0), 0o644).unwrap());
    let in_use = open(&torrent, temp.path(), &names).unwrap_err().to_string();
    assert!(in_use.contains("in use by pid"), "{in_use}");
    store.close().unwrap();
    drop(store);
    let opened = open(&torrent, temp.path(), &names).unwrap();
    assert_eq!((opened.have.count(), opened.unchecked.count()), (6, 0), "{:?}", opened.warnings);
    assert!(opened.store.is_placed(torrent.file(0)) && !opened.store.is_placed(torrent.file(1)));
    assert_eq!(opened.store.status().hashed_pieces, 0);
    drop(opened);
    // As after a kill: the name is there, and nothing was written down of it.
    fs::remove_dir_all(slot(&torrent, temp.path())).unwrap();
    let opened = open(&torrent, temp.path(), &names).unwrap();
    assert_eq!((opened.have.count(), opened.unchecked.count()), (0, 4), "the fifth is not all here");
    assert_eq!(torrent.check_all(&opened.store), 4);
    assert_eq!(torrent.fetch_missing(&opened.store), 3);
    torrent.assert_readable(&opened.store);
}

#[test]
fn a_file_that_was_here_is_compared_and_never_written() {
    let torrent = torrent_of_two();
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("a");
    fs::write(&path, torrent.expected(torrent.file(0))).unwrap();
    let before = path.metadata().unwrap();
    let store = open(&torrent, temp.path(), &["a", "b"]).unwrap().store;
    assert_eq!(torrent.check_all(&store), 4);
    // The border, its blocks in the wrong order.
    let piece = torrent.piece(4);
    let blocks = torrent.blocks_of(piece);
    assert_eq!(store.write(piece, 1, 3 << 14, &blocks[3..]).unwrap(), Verdict::Incomplete);
    assert_eq!(store.write(piece, 1, 0, &blocks[..3]).unwrap(), Verdict::Verified);
    assert_eq!(torrent.fetch_missing(&store), 2);
    torrent.assert_readable(&store);
    let after = path.metadata().unwrap();
    let times = |meta: &fs::Metadata| (meta.ino(), meta.mtime_nsec(), meta.ctime_nsec());
    assert_eq!(times(&before), times(&after));
    assert!(store.place(torrent.file(0), 0o600).unwrap() && store.disputed().is_none());
    assert_eq!(times(&before), times(&path.metadata().unwrap()), "not even its permissions");
}

#[test]
fn a_file_that_was_here_and_is_wrong_is_found_out_at_its_border_by_more_than_one_lie() {
    let torrent = torrent_of_two();
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("a");
    fs::write(&path, torrent.expected(torrent.file(0))).unwrap();
    write_at(&path, 299_990, b"wrong");
    let wrong = fs::read(&path).unwrap();
    let store = open(&torrent, temp.path(), &["a", "b"]).unwrap().store;
    assert_eq!(torrent.check_all(&store), 4);
    let piece = torrent.piece(4);
    // Whoever sends something else than the torrent's bytes for the other file says nothing of this one.
    let mut lie = torrent.bytes_of(piece).to_vec();
    *lie.last_mut().unwrap() ^= 1;
    lie[300_000 - 4 * 65_536 - 10..300_000 - 4 * 65_536 - 5].copy_from_slice(b"wrong");
    for attempt in 1..=4 {
        assert!(matches!(store.write(piece, attempt, 0, &[Bytes::from(lie.clone())]).unwrap(), Verdict::Corrupt(_)));
    }
    assert_eq!(store.disputed(), None);
    for attempt in 5..=7 {
        assert_eq!(store.disputed(), None);
        let verdict = store.write(piece, attempt, 0, &torrent.blocks_of(piece)).unwrap();
        assert_eq!(verdict, Verdict::Corrupt(Vec::new()), "nobody is to blame");
        assert_eq!(store.table().state(piece), PieceState::Absent);
    }
    assert_eq!(store.disputed(), Some(torrent.file(0)));
    assert_eq!(fs::read(&path).unwrap(), wrong);
}

#[test]
fn what_is_in_the_way_is_refused_before_anything_is_made() {
    let torrent = torrent_of_two();
    let temp = tempfile::tempdir().unwrap();
    fs::write(temp.path().join("b"), "somebody's").unwrap();
    let refused = open(&torrent, temp.path(), &["a", "b"]).unwrap_err().to_string();
    assert!(refused.contains("/b: exists already, with 10 bytes instead of 158000"), "{refused}");
    assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 1);
    // It comes while the other one is under way.
    fs::remove_file(temp.path().join("b")).unwrap();
    let store = open(&torrent, temp.path(), &["a", "b"]).unwrap().store;
    torrent.write_all(&store);
    fs::write(temp.path().join("b"), "somebody's").unwrap();
    assert!(store.place(torrent.file(0), 0o644).unwrap());
    let refused = store.place(torrent.file(1), 0o644).unwrap_err().to_string();
    assert!(refused.contains("/b: exists already; move it away"), "{refused}");
    assert_eq!(fs::read(temp.path().join("b")).unwrap(), b"somebody's");
    fs::remove_file(temp.path().join("b")).unwrap();
    assert!(store.place(torrent.file(1), 0o644).unwrap());
    torrent.assert_readable(&store);
}
