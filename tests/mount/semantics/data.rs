//! Reading.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use super::served::{Content, Reader, Served, Supply, digest};
use crate::harness::can_mount;

fn content() -> Content {
    Content::new("torrent", 16384, &["head=1000", "big=3000001", "empty=0", "tail=77777"])
}

#[test]
fn a_complete_torrent_is_read_without_its_swarm() {
    if !can_mount() {
        return;
    }
    let served = Served::complete(content());
    served.owner.supply(Supply::Stalled);
    for name in ["head", "big", "empty", "tail"] {
        assert!(fs::read(served.top().join(name)).unwrap() == served.content.file(name), "{name}");
    }
}

#[test]
fn missing_pieces_are_fetched_and_nothing_more_than_asked() {
    if !can_mount() {
        return;
    }
    let served = Served::empty(content());
    let mut byte = [0];
    File::open(served.top().join("tail")).unwrap().read_exact_at(&mut byte, 70000).unwrap();
    assert_eq!(byte[0], served.content.file("tail")[70000]);
    // The kernel may ask for 128 KiB around it, which is all of the file, but for nothing of another one.
    assert!(served.owner.fetched() <= 77777 / 16384 + 2, "{}", served.owner.fetched());
    assert!(fs::read(served.top().join("big")).unwrap() == served.content.file("big"));
}

#[test]
fn reads_end_at_the_end_of_the_file() {
    if !can_mount() {
        return;
    }
    let served = Served::empty(content());
    let big = served.content.file("big");
    let mut file = File::open(served.top().join("big")).unwrap();
    let size = big.len() as u64;
    let mut buffer = vec![0; 10_000];
    assert_eq!(file.read_at(&mut buffer, size).unwrap(), 0);
    assert_eq!(file.read_at(&mut buffer, size + 1).unwrap(), 0);
    assert_eq!(file.read_at(&mut buffer, i64::MAX as u64 - 20_000).unwrap(), 0);
    assert_eq!(file.read_at(&mut buffer, size - 5).unwrap(), 5);
    assert_eq!(&buffer[..5], &big[big.len() - 5..]);
    assert_eq!(file.seek(SeekFrom::End(-3)).unwrap(), size - 3);
    assert_eq!(file.read(&mut buffer).unwrap(), 3);
    assert_eq!(file.read(&mut buffer).unwrap(), 0);
    assert_eq!(fs::read(served.top().join("empty")).unwrap(), b"");
}

#[test]
fn odd_offsets_and_lengths_give_the_right_bytes() {
    if !can_mount() {
        return;
    }
    let served = Served::empty(content());
    let big = served.content.file("big");
    let file = File::open(served.top().join("big")).unwrap();
    for (offset, length) in [(0, 1), (1, 1), (15383, 3), (15384, 16384), (16383, 2), (4095, 4098), (999_983, 700_001)] {
        let mut buffer = vec![0; length];
        file.read_exact_at(&mut buffer, offset as u64).unwrap();
        assert!(buffer == big[offset..offset + length], "{length} at {offset}");
    }
}

#[test]
fn every_way_of_reading_gives_the_same_bytes() {
    if !can_mount() {
        return;
    }
    let served = Served::empty(content());
    let program = r"
import ctypes, errno, hashlib, mmap, os, sys, tempfile
path, way = sys.argv[1].rsplit(':', 1)
size = os.stat(path).st_size
fd = os.open(path, os.O_RDONLY | (os.O_DIRECT if way.startswith('direct') else 0))
result = hashlib.sha1()
def collect(copy):
    with tempfile.TemporaryFile() as out:
        while copy(out) > 0: pass
        out.seek(0)
        result.update(out.read())
if way == 'read':
    while data := os.read(fd, 100001): result.update(data)
elif way == 'mmap':
    result.update(mmap.mmap(fd, size, prot=mmap.PROT_READ))
elif way == 'mmap-backwards':
    mapped = mmap.mmap(fd, size, prot=mmap.PROT_READ, flags=mmap.MAP_PRIVATE)
    parts = [mapped[max(0, end - 50001):end] for end in range(size, 0, -50001)]
    for part in reversed(parts): result.update(part)
elif way == 'sendfile':
    collect(lambda out: os.sendfile(out.fileno(), fd, None, 1 << 20))
elif way == 'copy_file_range':
    # Between file systems of different types the kernel refuses, and tools read instead.
    def copy(out):
        try:
            return os.copy_file_range(fd, out.fileno(), 1 << 20)
        except OSError as error:
            assert error.errno == errno.EXDEV
            return out.write(os.read(fd, 1 << 20))
    collect(copy)
elif way == 'splice':
    # There is no os.splice before python 3.10.
    libc = ctypes.CDLL(None, use_errno=True)
    r, w = os.pipe()
    def copy(out):
        n = libc.splice(fd, None, w, None, 60000, 0)
        assert n >= 0, os.strerror(ctypes.get_errno())
        left = n
        while left: left -= libc.splice(r, None, out.fileno(), None, left, 0)
        return n
    collect(copy)
elif way == 'direct':
    room = mmap.mmap(-1, 1 << 20)
    at = 0
    while (n := os.preadv(fd, [room], at)) > 0:
        result.update(room[:n])
        assert n == min(len(room), size - at), (n, at)
        at += n
elif way == 'direct-small':
    room = memoryview(mmap.mmap(-1, 4096))
    at = 0
    while (n := os.preadv(fd, [room], at)) > 0:
        result.update(room[:n])
        at += n
elif way == 'threads':
    from concurrent.futures import ThreadPoolExecutor
    with ThreadPoolExecutor(16) as pool:
        for part in pool.map(lambda at: os.pread(fd, 30011, at), range(0, size, 30011)): result.update(part)
print(result.hexdigest())
";
    let wanted = digest(served.content.file("big"));
    let ways = [
        "direct-small",
        "read",
        "mmap",
        "mmap-backwards",
        "sendfile",
        "copy_file_range",
        "splice",
        "direct",
        "threads",
    ];
    for way in ways {
        let path = format!("{}:{way}", served.top().join("big").display());
        let got = Reader::python(program, path.as_ref()).output(Duration::from_secs(60));
        assert_eq!(got.trim(), wanted, "{way}");
    }
    // Again each on a mount of its own: with nothing in the kernel's cache, and nothing in ours.
    for way in ways {
        let served = Served::empty(content());
        let path = format!("{}:{way}", served.top().join("big").display());
        let got = Reader::python(program, path.as_ref()).output(Duration::from_secs(60));
        assert_eq!(got.trim(), wanted, "{way}, cold");
    }
    // And where the kernel may read by itself.
    let served = Served::complete(content());
    for way in ways {
        let path = format!("{}:{way}", served.top().join("big").display());
        let got = Reader::python(program, path.as_ref()).output(Duration::from_secs(60));
        assert_eq!(got.trim(), wanted, "{way}, complete");
    }
}

#[test]
fn a_thousand_opens_of_one_file_and_of_many() {
    if !can_mount() {
        return;
    }
    let served = Served::complete(content());
    let open: Vec<File> = (0..1000).map(|_| File::open(served.top().join("tail")).unwrap()).collect();
    for (number, file) in open.iter().enumerate() {
        let mut buffer = [0; 100];
        file.read_exact_at(&mut buffer, number as u64 * 77).unwrap();
        assert_eq!(buffer, served.content.file("tail")[number * 77..][..100]);
    }
    assert_eq!(served.mount().open_files(), 1000);
    drop(open);
    // Releases come without anybody waiting for them.
    crate::harness::wait_until("all are released", Duration::from_secs(5), || served.mount().open_files() == 0);
}

#[test]
fn a_reread_comes_from_the_kernels_cache() {
    if !can_mount() {
        return;
    }
    let served = Served::complete(content());
    let path = served.top().join("big");
    fs::read(&path).unwrap();
    // Opening again must not throw it away.
    let file = File::open(&path).unwrap();
    assert_eq!(file.metadata().unwrap().len(), served.content.file("big").len() as u64);
    let resident = std::process::Command::new("python3").args(["-c", RESIDENT]).arg(&path).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&resident.stdout).trim(), "cached", "{resident:?}");
}

/// Says `cached` when a file is in the page cache, but for the few pages that a busy machine may have taken.
const RESIDENT: &str = r"
import ctypes, mmap, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
fd = os.open(sys.argv[1], os.O_RDONLY)
size = os.fstat(fd).st_size
at = libc.mmap(None, size, 1, 1, fd, 0)
pages = ctypes.create_string_buffer((size + 4095) // 4096)
assert libc.mincore(at, size, pages) == 0, os.strerror(ctypes.get_errno())
present = sum(byte & 1 for byte in pages.raw)
print('cached' if present >= 0.9 * len(pages.raw) else f'{present} of {len(pages.raw)}')
";

#[test]
fn padding_between_files_is_never_seen() {
    if !can_mount() {
        return;
    }
    let content = Content::new("torrent", 16384, &["a=100", "#=16284", "b=5000", "#=11384", "c=40000"]);
    let served = Served::empty(content);
    for name in ["c", "a", "b"] {
        assert!(fs::read(served.top().join(name)).unwrap() == served.content.file(name), "{name}");
    }
}
