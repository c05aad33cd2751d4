//! Complete files, read past us.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use btfs::storage::PieceState;

use super::served::{Content, Reader, Served, Supply, digest};
use crate::harness::payload::{assert_range, assert_same, torrent, write_file};
use crate::harness::{World, as_root, can_mount, times, wait_until};

/// `a` and `b` share a piece, `last` ends in one of its own.
fn content() -> Content {
    Content::new("torrent", 16384, &["a=100000", "b=100000", "#=12224", "last=20000", "empty=0"])
}

/// Only root, on a kernel that has it.
fn can_pass() -> bool {
    if !can_mount() || !as_root("for passthrough") {
        return false;
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < (6, 9) {
        eprintln!("SKIPPED: passthrough needs Linux 6.9 or newer");
        return false;
    }
    true
}

fn passing(served: &Served) -> usize {
    served.mount().passthrough_files()
}

/// Releases come a little later than the close.
#[track_caller]
fn wait_closed(served: &Served) {
    wait_until("all files are closed", Duration::from_secs(5), || served.mount().open_files() == 0);
    assert_eq!(passing(served), 0, "given back with the last close");
}

fn stored(served: &Served, index: u32) -> PathBuf {
    served.owner.store.path_for_people().join("data").join(index.to_string())
}

#[track_caller]
fn assert_whole(file: &File, wanted: &[u8]) {
    let mut bytes = vec![0; wanted.len()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == wanted);
}

#[test]
fn a_complete_file_is_read_by_the_kernel_alone() {
    if !can_pass() {
        return;
    }
    let served = Served::complete(content());
    for name in ["a", "b", "last"] {
        let (path, wanted) = (served.top().join(name), served.content.file(name));
        let file = File::open(&path).unwrap();
        assert_eq!(passing(&served), 1, "{name}");
        assert_whole(&file, wanted);
        assert_eq!(file.read_at(&mut [0; 10], wanted.len() as u64).unwrap(), 0, "{name} ends");
        assert_eq!(file.metadata().unwrap().len(), wanted.len() as u64);
        let again = File::open(&path).unwrap();
        assert_eq!((passing(&served), served.mount().open_files()), (1, 2));
        drop(file);
        assert_whole(&again, wanted);
        drop(again);
        wait_closed(&served);
    }
    assert_eq!(fs::read(served.top().join("empty")).unwrap(), b"");
}

#[test]
fn it_is_read_while_the_program_stands_still() {
    if !can_pass() {
        return;
    }
    let world = World::new();
    let path = world.path("original/file.bin");
    write_file(&path, 5, 3_000_001);
    let torrent = torrent(&path, 64 << 10, &[]);
    let seed = world.seed(&torrent);
    let mount = world.mount(&torrent).peer(seed.addr).start();
    assert_same(&mount.path(&torrent.name), &torrent.data);
    mount.umount();

    let mount = world.mount(&torrent).start();
    let (open, original) = (File::open(mount.path(&torrent.name)).unwrap(), File::open(&torrent.data).unwrap());
    mount.signal(libc::SIGSTOP);
    for offset in [0, 1_000_000, 2_999_000] {
        assert_range(&open, &original, offset, 1001);
    }
    let mut sum = Reader::run_with(&mut Command::new("sha1sum"), open.try_clone().unwrap());
    let ended = sum.try_ends_within(Duration::from_secs(10));
    mount.signal(libc::SIGCONT);
    assert!(ended, "nobody is asked");
    assert!(sum.output(Duration::from_secs(5)).starts_with(&digest(&fs::read(&torrent.data).unwrap())));
    drop(open);
    mount.umount();
}

#[test]
fn an_incomplete_file_is_read_through_us_until_its_last_close() {
    if !can_pass() {
        return;
    }
    let served = Served::empty(content());
    let path = served.top().join("a");
    let early = File::open(&path).unwrap();
    assert_whole(&early, served.content.file("a"));
    let later = File::open(&path).unwrap();
    assert_eq!(passing(&served), 0, "complete, but open before");
    assert_whole(&later, served.content.file("a"));
    drop(early);
    wait_until("one is closed", Duration::from_secs(5), || served.mount().open_files() == 1);
    let third = File::open(&path).unwrap();
    assert_eq!(passing(&served), 0);
    drop((later, third));
    wait_closed(&served);

    let fresh = File::open(&path).unwrap();
    assert_eq!(passing(&served), 1, "the first open after the last close");
    assert_whole(&fresh, served.content.file("a"));
    let other = File::open(served.top().join("last")).unwrap();
    assert_eq!(passing(&served), 1, "not yet here");
    assert_whole(&other, served.content.file("last"));
}

#[test]
fn opens_and_closes_of_all_kinds_at_once_are_never_refused() {
    if !can_pass() {
        return;
    }
    let served = Served::empty(content());
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for number in 0..4 {
            let (served, over) = (&served, &over);
            scope.spawn(move || {
                let mut dice = fastrand::Rng::with_seed(number);
                let mut held = Vec::new();
                while !over.load(Ordering::Relaxed) {
                    let name = ["a", "b"][dice.usize(..2)];
                    let file = File::open(served.top().join(name)).unwrap();
                    let (at, mut bytes) = (dice.usize(..99_000), [0; 1000]);
                    file.read_exact_at(&mut bytes, at as u64).unwrap();
                    assert!(bytes == served.content.file(name)[at..][..1000]);
                    held.push(file);
                    held.truncate(dice.usize(..4));
                }
            });
        }
        std::thread::sleep(Duration::from_millis(50 * times(40) as u64)); // the more the better
        over.store(true, Ordering::Relaxed);
    });
    wait_closed(&served);
    assert_eq!(served.owner.fetched(), 13, "each piece once");
}

#[test]
fn a_file_that_was_altered_is_found_at_the_next_open() {
    if !can_pass() {
        return;
    }
    let served = Served::complete(content());
    let (path, wanted) = (served.top().join("a"), served.content.file("a"));
    let alter = |at| {
        let file = OpenOptions::new().write(true).open(stored(&served, 0)).unwrap();
        file.write_all_at(b"altered", at).unwrap();
    };
    for round in 0..3 {
        alter(round * 40_000);
        let file = File::open(&path).unwrap();
        assert_eq!(passing(&served), 0, "it has to be checked first");
        assert_whole(&file, wanted);
        drop(file);
        wait_closed(&served);
    }
    // What the kernel has in its cache, and is right, nobody has asked for again.
    served.owner.fetch_all();

    let held = File::open(&path).unwrap();
    assert_eq!(passing(&served), 1, "repaired");
    alter(50_000);
    assert_eq!(File::open(&path).unwrap_err().raw_os_error(), Some(libc::EIO), "no doubtful byte by a new open");
    assert_whole(&File::open(served.top().join("last")).unwrap(), served.content.file("last"));
    drop(held);
    wait_closed(&served);
    assert_whole(&File::open(&path).unwrap(), wanted);
    wait_closed(&served);

    // What is repaired while it is open can be opened again.
    let held = File::open(&path).unwrap();
    alter(50_000);
    assert!(File::open(&path).is_err());
    served.owner.fetch_all();
    assert_whole(&File::open(&path).unwrap(), wanted);
    assert_whole(&held, wanted);
}

#[test]
fn a_neighbours_alteration_or_a_wrong_length_is_no_ones_fault_but_its_own() {
    if !can_pass() {
        return;
    }
    let served = Served::complete(content());
    let held = File::open(served.top().join("a")).unwrap();
    // In the piece that both share.
    OpenOptions::new().write(true).open(stored(&served, 1)).unwrap().write_all_at(b"altered", 10).unwrap();
    assert_whole(&File::open(served.top().join("b")).unwrap(), served.content.file("b"));
    assert_whole(&File::open(served.top().join("a")).unwrap(), served.content.file("a"));
    drop(held);
    wait_closed(&served);

    let longer = OpenOptions::new().write(true).open(stored(&served, 3)).unwrap();
    longer.write_all_at(b"more than it should have", 20_000).unwrap();
    let path = served.top().join("last");
    assert!(fs::read(&path).unwrap() == served.content.file("last"));
    wait_closed(&served);
    let file = File::open(&path).unwrap();
    assert_eq!(file.read_at(&mut [0; 10], 20_000).unwrap(), 0, "it ends where the torrent says");
    assert_whole(&file, served.content.file("last"));
}

#[test]
fn no_piece_goes_while_the_kernel_reads() {
    if !can_pass() {
        return;
    }
    let served = Served::complete(content());
    served.owner.supply(Supply::Shut);
    let store = &served.owner.store;
    let path = served.top().join("a");
    let pieces = store.layout().pieces_of(store.layout().file(0).unwrap(), 0, 100_000);
    let open = File::open(&path).unwrap();
    for piece in pieces.iter() {
        assert!(!store.evict(piece).unwrap(), "{piece:?} is pinned");
    }
    assert_whole(&open, served.content.file("a"));
    drop(open);
    wait_closed(&served);
    assert!(store.evict(pieces.first().unwrap()).unwrap());
    assert_eq!(store.table().state(pieces.first().unwrap()), PieceState::Absent);
    let _incomplete = File::open(&path).unwrap();
    assert_eq!(passing(&served), 0);
}

#[test]
fn a_mapping_keeps_its_pieces_after_the_close() {
    if !can_pass() {
        return;
    }
    let served = Served::complete(content());
    served.owner.supply(Supply::Shut);
    let store = &served.owner.store;
    let open = File::open(served.top().join("a")).unwrap();
    // SAFETY: a new mapping, of a file that is longer than it.
    let mapped =
        unsafe { libc::mmap(std::ptr::null_mut(), 65536, libc::PROT_READ, libc::MAP_SHARED, open.as_raw_fd(), 0) };
    assert_ne!(mapped, libc::MAP_FAILED);
    drop(open);
    // The mapping is of the cache's own file: to us, this one is closed.
    wait_closed(&served);
    let piece = store.layout().piece(1).unwrap();
    assert!(!store.evict(piece).unwrap(), "somebody reads it still");
    assert_eq!(store.table().state(piece), PieceState::Present);
    // SAFETY: the mapping is of this length, and nobody writes to it.
    let bytes = unsafe { std::slice::from_raw_parts(mapped.cast::<u8>(), 65536) };
    assert!(bytes == &served.content.file("a")[..65536]);
    // SAFETY: mapped above, and not used any more.
    assert_eq!(unsafe { libc::munmap(mapped, 65536) }, 0);
    wait_until("nobody reads it any more", Duration::from_secs(5), || store.evict(piece).unwrap());
}
