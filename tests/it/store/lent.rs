//! Complete files that are lent to the kernel.

use std::fs::File;
use std::io::Read;

use super::{torrent, write_at};

#[test]
fn a_file_is_lent_when_all_of_it_is_present_and_right() {
    let torrent = torrent(64 << 10, &[100_000, -31_072, 70_000, 0, 200_000]);
    let temp = tempfile::tempdir().unwrap();
    let store = torrent.open(temp.path()).store;
    let lend = |file| store.lend(torrent.file(file));
    assert!(lend(0).is_none(), "nothing is here");
    torrent.write(&store, 0);
    assert!(lend(0).is_none(), "half of it is here");
    torrent.fetch_missing(&store);
    assert!(lend(1).is_none() && lend(3).is_none(), "padding, and nothing at all");

    let loan = lend(2).expect("complete");
    assert!(store.is_sound(&loan));
    let mut bytes = Vec::new();
    File::from(loan.file().unwrap().try_clone_to_owned().unwrap()).read_to_end(&mut bytes).unwrap();
    assert!(bytes == torrent.content[131_072..201_072]);
    let piece = torrent.piece(2);
    assert!(!store.evict(piece).unwrap(), "it is pinned");
    drop(loan);
    assert!(store.evict(piece).unwrap());
    assert!(lend(2).is_none());
}

#[test]
fn a_lent_file_that_was_altered_is_sound_again_once_it_is_repaired() {
    let torrent = torrent(64 << 10, &[200_000]);
    let temp = tempfile::tempdir().unwrap();
    let store = torrent.open(temp.path()).store;
    torrent.fetch_missing(&store);
    let (file, path) = (torrent.file(0), torrent.data(temp.path(), 0));
    let loan = store.lend(file).unwrap();
    write_at(&path, 70_000, b"altered");
    assert!(store.suspect(file).is_some());
    assert!(!store.is_sound(&loan));
    assert!(store.lend(file).is_none());
    torrent.check_all(&store);
    torrent.fetch_missing(&store);
    assert!(store.is_sound(&loan), "the same file, repaired");
    assert!(store.lend(file).is_some());

    // Longer than it should be: each piece is right, and yet a reader past us would see more.
    write_at(&path, 200_000, b"more");
    assert!(store.suspect(file).is_some());
    torrent.check_all(&store);
    assert!(store.table().all_present(torrent.files.layout.pieces()));
    assert!(store.lend(file).is_none() && !store.is_sound(&loan));
    drop(loan);

    // Another file of the same bytes is not the one that was lent.
    let copy = path.with_extension("copy");
    std::fs::write(&copy, &torrent.content).unwrap();
    std::fs::rename(&copy, &path).unwrap();
    assert!(store.suspect(file).is_some());
    torrent.check_all(&store);
    let loan = store.lend(file).expect("right again");
    std::fs::write(&copy, &torrent.content).unwrap();
    std::fs::rename(&copy, &path).unwrap();
    store.suspect(file);
    torrent.check_all(&store);
    assert!(!store.is_sound(&loan));
    assert!(store.lend(file).is_some());
}
