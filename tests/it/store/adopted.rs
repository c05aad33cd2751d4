//! Files of the user's, shared as they are.

use std::fs;
use std::path::Path;

use btfs::storage::{Adopt, CacheDir, OpenedStore, StorageError, Store};

use super::{Torrent, torrent_of_two, write_at};

fn adopt(torrent: &Torrent, cache: &Path, data: &Path) -> OpenedStore {
    let paths = (0..torrent.files.layout.file_count()).map(|file| Some(data.join(format!("f{file}")))).collect();
    Store::adopt(&CacheDir::open(cache).unwrap(), torrent.files.clone(), Adopt { paths }, false).unwrap()
}

#[test]
fn adopted_files_are_read_verified_once_and_never_written() {
    let torrent = torrent_of_two();
    let temp = tempfile::tempdir().unwrap();
    let (cache, data) = (temp.path().join("cache"), temp.path().join("data"));
    fs::create_dir(&data).unwrap();
    for raw in 0..2 {
        fs::write(data.join(format!("f{raw}")), torrent.expected(torrent.file(raw))).unwrap();
    }
    let opened = adopt(&torrent, &cache, &data);
    assert_eq!((opened.have.count(), opened.unchecked.count(), opened.warnings.len()), (0, 7, 0));
    assert_eq!(torrent.check_all(&opened.store), 7);
    torrent.assert_readable(&opened.store);
    assert!(matches!(opened.store.write(torrent.piece(0), 1, 0, &[]), Err(StorageError::Io { .. })));
    assert!(!opened.store.evict(torrent.piece(0)).unwrap(), "I4");
    opened.store.close().unwrap();
    drop(opened);
    let opened = adopt(&torrent, &cache, &data);
    assert!(opened.have.is_full() && opened.store.status().hashed_pieces == 0, "trusted by identity");
    assert!(!torrent.slot(&cache).join("data").exists());
    drop(opened);
    // A mount of the same torrent has a slot of its own, and leaves this one alone.
    assert_eq!(torrent.open(&cache).have.count(), 0);
    write_at(&data.join("f1"), 10, b"altered");
    let opened = adopt(&torrent, &cache, &data);
    assert_eq!((opened.have.count(), opened.unchecked.count()), (4, 3));
    assert_eq!(torrent.check_all(&opened.store), 2);
}

#[test]
fn adopted_files_that_are_wrong_are_named_and_absent() {
    let torrent = torrent_of_two();
    let temp = tempfile::tempdir().unwrap();
    let (cache, data) = (temp.path().join("cache"), temp.path().join("data"));
    fs::create_dir(&data).unwrap();
    fs::write(data.join("f0"), torrent.expected(torrent.file(0))).unwrap();
    let opened = adopt(&torrent, &cache, &data);
    assert_eq!((opened.unchecked.count(), opened.warnings.len()), (4, 1), "missing: {:?}", opened.warnings);
    drop(opened);
    fs::write(data.join("f1"), b"short").unwrap();
    let opened = adopt(&torrent, &cache, &data);
    assert_eq!((opened.unchecked.count(), opened.warnings.len()), (4, 1), "short: {:?}", opened.warnings);
    assert_eq!(torrent.check_all(&opened.store), 4);
    drop(opened);
    fs::rename(data.join("f0"), temp.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink("../elsewhere", data.join("f0")).unwrap();
    let opened = adopt(&torrent, &cache, &data);
    assert_eq!((opened.have.count(), opened.unchecked.count(), opened.warnings.len()), (0, 0, 2), "a symlink");
    let nothing = Adopt { paths: vec![None, None] };
    let cache = CacheDir::open(&cache).unwrap();
    assert!(Store::adopt(&cache, torrent.files.clone(), nothing, false).is_err());
    let relative = Adopt { paths: vec![Some("data/f0".into()), None] };
    assert!(Store::adopt(&cache, torrent.files.clone(), relative, false).is_err());
}
