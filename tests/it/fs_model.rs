//! The view of a torrent, without a kernel: random operations on it and on a plain directory with the same files give
//! the same, and reads are answered once, whatever becomes of their pieces.

#[path = "../mount/semantics/content.rs"]
#[allow(dead_code, reason = "the mount tests use the rest")]
mod content;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use btfs::fs::{Attr, Errno, Kind, View, ViewConfig};
use content::{Content, Owner, Supply};

/// A view, its owner, and a directory that holds the same files.
struct Sides {
    view: Arc<View>,
    owner: Arc<Owner>,
    content: Content,
    directory: tempfile::TempDir,
}

type Answer = Result<Vec<u8>, Errno>;

impl Sides {
    fn new(entries: &[&str], complete: bool) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let content = Content::new("torrent", 16384, entries);
        content.write_below(&directory.path().join("plain"));
        let (owner, handle, _) = Owner::start(&content, directory.path(), complete);
        let config = ViewConfig { uid: 1, gid: 2, readahead: Duration::from_secs(15) };
        let view = View::new(&[handle], config);
        Self { view, owner, content, directory }
    }

    fn plain(&self) -> PathBuf {
        self.directory.path().join("plain")
    }

    fn find(&self, path: &Path) -> Result<Attr, Errno> {
        let mut attr = self.view.lookup(View::ROOT, b"torrent")?.ok_or(Errno::ENOENT)?;
        for name in path.iter() {
            attr = self.view.lookup(attr.inode, name.as_bytes())?.ok_or(Errno::ENOENT)?;
        }
        Ok(attr)
    }

    fn start_read(&self, handle: u64, offset: u64, size: u32) -> mpsc::Receiver<Answer> {
        let (sender, answer) = mpsc::channel();
        self.view.read(handle, offset, size, 0, move |outcome| {
            let _ = sender.send(outcome.map(<[u8]>::to_vec));
        });
        answer
    }

    fn read(&self, handle: u64, offset: u64, size: u32) -> Answer {
        self.start_read(handle, offset, size).recv_timeout(PATIENCE).expect("an answer")
    }

    fn open(&self, path: &str) -> u64 {
        self.view.open(self.find(path.as_ref()).unwrap().inode, false).unwrap()
    }
}

/// How the plain directory's errors look.
fn errno(error: &std::io::Error) -> Option<i32> {
    error.raw_os_error()
}

#[test]
fn random_operations_on_a_view_give_what_a_plain_directory_gives() {
    for (seed, complete) in [(1, false), (2, true)] {
        let sides = Sides::new(&["small=10", "d/big=900001", "d/e/odd=65537", "empty=0", "d/e/piece=16384"], complete);
        let paths = ["small", "d/big", "d/e/odd", "empty", "d/e/piece", "none", "d", "d/e", "small/x", ""];
        let mut random = fastrand::Rng::with_seed(seed);
        let mut open: BTreeMap<u64, File> = BTreeMap::new();
        for number in 0..4000 {
            let path = paths[random.usize(..paths.len())];
            let (plain, found) = (sides.plain().join(path), sides.find(path.as_ref()));
            match random.u32(0..8) {
                0 => match (fs::symlink_metadata(&plain), &found) {
                    (Ok(wanted), Ok(attr)) => {
                        assert_eq!(wanted.is_dir(), attr.kind == Kind::Directory);
                        assert!(wanted.is_dir() || wanted.len() == attr.bytes);
                        assert_eq!(sides.view.attr(attr.inode).as_ref(), Ok(attr));
                    }
                    (Err(wanted), Err(got)) => assert_eq!(errno(&wanted), Some(got.raw()), "{path}"),
                    other => panic!("seed {seed}, operation {number}, {path}: {other:?}"),
                },
                1 if plain.is_dir() => {
                    let inode = found.unwrap().inode;
                    let (mut names, mut offset) = (Vec::new(), 0);
                    // In steps of a few names, as with a small buffer.
                    loop {
                        let mut left = random.usize(1..4);
                        let before = offset;
                        let visit = |entry: btfs::fs::DirEntry<'_>| {
                            left -= 1;
                            names.push(entry.name.to_vec());
                            offset = entry.next_offset;
                            left > 0
                        };
                        sides.view.read_dir(inode, before, visit).unwrap();
                        if offset == before {
                            break;
                        }
                    }
                    let mut wanted: Vec<Vec<u8>> = vec![b".".into(), b"..".into()];
                    let listed = fs::read_dir(&plain).unwrap();
                    wanted.extend(listed.map(|entry| entry.unwrap().file_name().as_bytes().to_vec()));
                    wanted.sort();
                    assert_eq!(names, wanted, "{path}");
                }
                2 if plain.is_file() && open.len() < 20 => {
                    open.insert(sides.open(path), File::open(&plain).unwrap());
                }
                3 => {
                    if let Some(&handle) = open.keys().nth(random.usize(..20)) {
                        open.remove(&handle);
                        sides.view.release(handle);
                        assert_eq!(sides.read(handle, 0, 1), Err(Errno::EBADF));
                    }
                }
                _ => {
                    let Some((&handle, file)) = open.iter().nth(random.usize(..20)) else { continue };
                    let mut wanted = vec![0; random.usize(..150_000)];
                    let offset = random.u64(..920_000);
                    let got = sides.read(handle, offset, wanted.len() as u32).unwrap();
                    let count = file.read_at(&mut wanted, offset).unwrap();
                    assert!(got == wanted[..count], "seed {seed}, operation {number}: {count} bytes at {offset}");
                }
            }
        }
        assert_eq!(sides.view.open_files(), open.len());
        assert_eq!(sides.view.waiting_reads(), 0);
    }
}

#[test]
fn operations_on_the_wrong_kind_of_node_are_refused() {
    let sides = Sides::new(&["d/file=10", "link->d/file"], true);
    let inode = |path: &str| sides.find(path.as_ref()).unwrap().inode;
    let view = &sides.view;
    assert_eq!(view.open(View::ROOT, false), Err(Errno::EISDIR));
    assert_eq!(view.open(inode("d"), false), Err(Errno::EISDIR));
    assert_eq!(view.open(inode("link"), false), Err(Errno::EINVAL));
    assert_eq!(view.open(inode("d/file"), true), Err(Errno::EROFS));
    assert_eq!(view.open(12345, false), Err(Errno::ENOENT));
    assert_eq!(view.attr(0), Err(Errno::ENOENT));
    assert_eq!(view.read_link(inode("d")), Err(Errno::EINVAL));
    assert_eq!(view.read_link(inode("link")), Ok(b"d/file".to_vec()));
    assert_eq!(view.read_dir(inode("d/file"), 0, |_| true), Err(Errno::ENOTDIR));
    assert_eq!(view.lookup(inode("d/file"), b"x"), Err(Errno::ENOTDIR));
    assert_eq!(view.lookup(inode("d"), &[b'n'; 256]), Err(Errno::ENAMETOOLONG));
    assert_eq!(view.xattr(inode("d"), b"user.btfs.file_index"), Err(Errno::ENODATA));
    assert_eq!(view.xattr(View::ROOT, b"user.btfs.status"), Err(Errno::ENODATA));
}

#[test]
fn a_read_waits_until_its_pieces_come() {
    let sides = Sides::new(&["a=100000"], false);
    sides.owner.supply(Supply::Shut);
    let handle = sides.open("a");
    let first = sides.start_read(handle, 5, 60_000);
    let second = sides.start_read(handle, 90_000, 60_000);
    assert_eq!(sides.view.waiting_reads(), 2);
    assert_eq!(sides.read(handle, 100_000, 5), Ok(Vec::new()), "the end is known without data");
    assert!(first.try_recv().is_err());
    sides.owner.supply(Supply::Open);
    let content = sides.content.file("a");
    assert!(first.recv_timeout(PATIENCE).unwrap().unwrap() == content[5..60_005]);
    assert!(second.recv_timeout(PATIENCE).unwrap().unwrap() == content[90_000..]);
    assert_eq!(sides.view.waiting_reads(), 0);
}

#[test]
fn a_stall_and_the_end_of_the_mount_are_errors() {
    let sides = Sides::new(&["a=100000", "b=100000"], false);
    let (a, b) = (sides.open("a"), sides.open("b"));
    sides.owner.supply(Supply::Stalled);
    assert_eq!(sides.read(a, 0, 10), Err(Errno::EIO));
    sides.owner.supply(Supply::Open);
    assert!(sides.read(a, 0, 10).unwrap() == sides.content.file("a")[..10]);
    sides.owner.supply(Supply::Shut);
    let waiting = sides.start_read(b, 50_000, 10);
    sides.view.stop();
    assert_eq!(waiting.recv_timeout(PATIENCE).unwrap(), Err(Errno::EIO));
    assert_eq!(sides.read(b, 50_000, 10), Err(Errno::EIO), "missing data is refused at once");
    assert!(sides.read(a, 0, 10).unwrap() == sides.content.file("a")[..10], "what is present is served on");
    let until = Instant::now() + PATIENCE;
    while sides.owner.waiting() > 0 {
        assert!(Instant::now() < until, "the torrent is told that nobody waits");
        std::thread::yield_now();
    }
}

#[test]
fn bytes_that_somebody_changed_are_never_served() {
    let sides = Sides::new(&["a=100000"], true);
    let first = sides.open("a");
    let wanted = sides.content.file("a").to_vec();
    assert!(sides.read(first, 0, 100_000).unwrap() == wanted);
    // The largest file below the cache holds the data.
    let mut left = vec![sides.directory.path().join("cache")];
    let mut data = None;
    while let Some(path) = left.pop() {
        for entry in fs::read_dir(path).unwrap().map(Result::unwrap) {
            match entry.metadata().unwrap() {
                metadata if metadata.is_dir() => left.push(entry.path()),
                metadata if metadata.len() >= 100_000 => data = Some(entry.path()),
                _ => {}
            }
        }
    }
    fs::write(data.unwrap(), vec![b'x'; 100_000]).unwrap();
    let second = sides.open("a");
    assert!(sides.read(second, 0, 100_000).unwrap() == wanted, "they are checked and fetched again");
    assert_eq!(sides.owner.fetched(), 7 + 7);
}

#[test]
fn a_file_that_was_cut_is_fetched_again() {
    let sides = Sides::new(&["a=100000"], true);
    let handle = sides.open("a");
    let wanted = sides.content.file("a").to_vec();
    let cache = sides.directory.path().join("cache");
    let find = std::process::Command::new("find").arg(cache).args(["-type", "f", "-size", "+90k"]).output().unwrap();
    let data = PathBuf::from(String::from_utf8(find.stdout).unwrap().lines().next().unwrap());
    fs::OpenOptions::new().write(true).open(data).unwrap().set_len(1000).unwrap();
    // Already open: the read finds out.
    assert!(sides.read(handle, 50_000, 50_000).unwrap() == wanted[50_000..]);
    assert!(sides.read(handle, 0, 100_000).unwrap() == wanted);
}

const PATIENCE: Duration = Duration::from_secs(10);
