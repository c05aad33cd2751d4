//! Names and attributes.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::process::Command;

use btfs::fs::MountConfig;

use super::served::{CREATED, Content, Reader, Served};
use crate::harness::{can_mount, run, texts};

const ENTRIES: &[&str] =
    &["b/z=40000", "#=9152", "a=2", "b/deep/q*=70000", "b/deep/p=0", "link->b/deep/p", "b/up->a", "b/dangling->none"];

#[test]
fn a_listing_shows_every_file_once_and_no_padding() {
    if !can_mount() {
        return;
    }
    let served = Served::complete(Content::new("torrent", 32768, ENTRIES));
    let found = texts(&run(Command::new("find").arg(served.root()).args(["-printf", "%P %y %s %m %n\n"])));
    let mut lines: Vec<&str> = found.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            " d 0 555 3",
            "torrent d 0 555 3",
            "torrent/a f 2 444 1",
            "torrent/b d 0 555 3",
            "torrent/b/dangling l 7 777 1",
            "torrent/b/deep d 0 555 2",
            "torrent/b/deep/p f 0 444 1",
            "torrent/b/deep/q f 70000 555 1",
            "torrent/b/up l 4 777 1",
            "torrent/b/z f 40000 444 1",
            "torrent/link l 8 777 1",
        ]
    );
}

#[test]
fn stat_tells_owner_times_and_full_size() {
    if !can_mount() {
        return;
    }
    let config = MountConfig { uid: Some(1234), gid: Some(2345), ..MountConfig::default() };
    let served = Served::start(Content::new("torrent", 32768, ENTRIES), false, config);
    let mut inodes = BTreeMap::new();
    for name in ["", "a", "b", "b/z", "b/deep/q", "link"] {
        let metadata = fs::symlink_metadata(served.top().join(name)).unwrap();
        assert_eq!((metadata.uid(), metadata.gid()), (1234, 2345), "{name}");
        assert_eq!((metadata.mtime(), metadata.atime(), metadata.ctime()), (CREATED, CREATED, CREATED), "{name}");
        if metadata.is_file() {
            assert_eq!(metadata.blocks(), metadata.len().div_ceil(512), "{name} must not look sparse");
            assert!(metadata.blksize() >= 4096);
        }
        assert!(inodes.insert(metadata.ino(), name).is_none(), "{name} shares an inode number");
    }
    assert_eq!(fs::metadata(served.root()).unwrap().uid(), 1234);
}

#[test]
fn inode_numbers_are_the_same_in_the_next_mount() {
    if !can_mount() {
        return;
    }
    let numbers = || {
        let served = Served::complete(Content::new("torrent", 32768, ENTRIES));
        texts(&run(Command::new("find").arg(served.root()).args(["-printf", "%P %i\n"])))
    };
    assert_eq!(numbers(), numbers());
}

#[test]
fn symlinks_lead_to_their_targets() {
    if !can_mount() {
        return;
    }
    let served = Served::complete(Content::new("torrent", 32768, ENTRIES));
    let target = |name: &str| fs::read_link(served.top().join(name)).unwrap().to_str().unwrap().to_owned();
    assert_eq!(
        (target("link"), target("b/up"), target("b/dangling")),
        ("b/deep/p".into(), "../a".into(), "../none".into())
    );
    assert_eq!(fs::read(served.top().join("b/up")).unwrap(), served.content.file("a"));
    assert_eq!(fs::metadata(served.top().join("b/dangling")).unwrap_err().raw_os_error(), Some(libc::ENOENT));
}

#[test]
fn a_single_file_torrent_is_a_file_in_the_root() {
    if !can_mount() {
        return;
    }
    let served = Served::complete(Content::new("film.mkv", 16384, &["film.mkv=50000"]));
    let names: Vec<_> = fs::read_dir(served.root()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["film.mkv"]);
    assert!(fs::symlink_metadata(served.top()).unwrap().is_file());
    assert_eq!(fs::metadata(served.root()).unwrap().nlink(), 2);
    assert!(fs::read(served.top()).unwrap() == served.content.file("film.mkv"));
}

#[test]
fn directories_can_be_read_in_small_steps_and_from_anywhere() {
    if !can_mount() {
        return;
    }
    let entries: Vec<String> = (0..700).map(|number| format!("f{number:03}{}=1", "x".repeat(number % 50))).collect();
    let served = Served::complete(Content::new("torrent", 32768, &entries));
    // Small buffers by getdents64; then from every remembered offset again, in reverse order, and from the start.
    let program = r"
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
fd = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECTORY)
buffer = ctypes.create_string_buffer(4096)
def page(size):
    n = libc.syscall(217, fd, buffer, size)
    assert n >= 0, os.strerror(ctypes.get_errno())
    at, found = 0, []
    while at < n:
        ino, off, length, kind = struct.unpack_from('<QqHB', buffer.raw, at)
        found.append((buffer.raw[at + 19:at + length].split(b'\0')[0].decode(), off, ino, kind))
        at += length
    return found
everything = []
while True:
    found = page(120)
    if not found: break
    everything += found
names = [entry[0] for entry in everything]
assert len(names) == len(set(names)) == 702, len(names)
assert names[:2] == ['.', '..'] and names[2:] == sorted(names[2:])
assert page(120) == []
for index in reversed(range(0, len(everything) - 1, 7)):
    os.lseek(fd, everything[index][1], os.SEEK_SET)
    assert page(120)[0] == everything[index + 1]
os.lseek(fd, 0, os.SEEK_SET)
assert page(4096)[0] == everything[0]
for name, off, ino, kind in everything[2:]:
    assert os.stat(name, dir_fd=fd).st_ino == ino and kind == 8
";
    Reader::python(program, &served.top()).output(std::time::Duration::from_secs(30));
}

#[test]
fn names_that_are_not_there_fail_as_they_should() {
    if !can_mount() {
        return;
    }
    let served = Served::complete(Content::new("torrent", 32768, ENTRIES));
    let fails = |name: &str| fs::metadata(served.root().join(name)).unwrap_err().raw_os_error().unwrap();
    assert_eq!(fails("none"), libc::ENOENT);
    assert_eq!(fails("torrent/none"), libc::ENOENT);
    assert_eq!(fails("torrent/none"), libc::ENOENT, "also from the kernel's memory");
    assert_eq!(fails("torrent/a/b"), libc::ENOTDIR);
    assert_eq!(fails(&format!("torrent/{}", "n".repeat(255))), libc::ENOENT);
    assert_eq!(fails(&format!("torrent/{}", "n".repeat(256))), libc::ENAMETOOLONG);
    assert_eq!(fails(&"n".repeat(2000)), libc::ENAMETOOLONG);
    let directory = fs::File::open(served.top()).unwrap();
    assert_eq!(std::io::read_to_string(directory).unwrap_err().raw_os_error(), Some(libc::EISDIR));
}

#[test]
fn statfs_tells_the_size_of_the_torrents() {
    if !can_mount() {
        return;
    }
    let served = Served::complete(Content::new("torrent", 32768, ENTRIES));
    let text = texts(&run(Command::new("stat").args(["-f", "-c", "%S %b %f %a %l %c"]).arg(served.root())));
    let blocks = served.content.metainfo.layout.total_bytes().div_ceil(4096);
    assert_eq!(text.trim(), format!("4096 {blocks} 0 0 255 11"));
    let text = texts(&run(Command::new("stat").args(["-f", "-c", "%T"]).arg(served.root())));
    assert!(text.contains("fuse"), "{text}");
    let text = texts(&run(Command::new("findmnt").args(["-n", "-o", "FSTYPE,SOURCE,OPTIONS"]).arg(served.root())));
    let fields: Vec<&str> = text.split_whitespace().collect();
    assert_eq!(fields[..2], ["fuse.btfs", "btfs"]);
    assert!(fields[2].starts_with("ro,nosuid,nodev,noatime"), "{text}");
}

#[test]
fn extended_attributes_tell_of_the_torrent() {
    if !can_mount() {
        return;
    }
    let served = Served::empty(Content::new("torrent", 32768, ENTRIES));
    let get = |name: &str, path: &str| {
        let mut command = Command::new("getfattr");
        command.args(["--only-values", "-n", name]).arg(served.top().join(path));
        let output = command.output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    };
    let hash = served.content.metainfo.info_hash.unwrap().to_string();
    assert_eq!(get("user.btfs.info_hash", "a"), Some(hash.clone()));
    assert_eq!(get("user.btfs.info_hash", ""), Some(hash));
    assert_eq!(get("user.btfs.file_index", "a").as_deref(), Some("2"));
    assert_eq!(get("user.btfs.file_index", ""), None);
    assert_eq!(get("user.btfs.piece_length", "a").as_deref(), Some("32768"));
    assert_eq!(get("user.btfs.progress", "b/z").as_deref(), Some("0.0"));
    assert_eq!(get("user.btfs.cached", "b/z").as_deref(), Some("0"));
    assert!(get("user.btfs.status", "b/z").unwrap().contains(r#""state":"empty""#));
    fs::read(served.top().join("b/z")).unwrap();
    assert_eq!(get("user.btfs.progress", "b/z").as_deref(), Some("100.0"));
    let length = fs::metadata(served.top().join("b/z")).unwrap().len();
    assert_eq!(get("user.btfs.cached", "b/z"), Some(length.to_string()));
    assert!(get("user.btfs.cached", "").unwrap().parse::<u64>().unwrap() >= length, "of a directory: of the torrent");
    assert!(get("user.btfs.status", "b/z").unwrap().contains(r#""state":"complete""#));
    assert!(get("user.btfs.status", "").unwrap().contains(r#""state":"partial""#));
    for (name, path) in [("user.btfs.nothing", "a"), ("user.other", "a"), ("security.selinux", "b"), ("user.x", "link")]
    {
        assert_eq!(get(name, path), None, "{name}");
    }
    // Sizes: 0 asks, too small is refused, exact is enough; the same for the list of names.
    let program = r"
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
path = sys.argv[1].encode()
def call(name, *arguments):
    n = getattr(libc, name)(*arguments)
    return n if n >= 0 else errno.errorcode[ctypes.get_errno()]
room = ctypes.create_string_buffer(500)
assert call('getxattr', path, b'user.btfs.piece_length', None, 0) == 5
assert call('getxattr', path, b'user.btfs.piece_length', room, 4) == 'ERANGE'
assert call('getxattr', path, b'user.btfs.piece_length', room, 5) == 5 and room.raw[:5] == b'32768'
assert call('getxattr', path, b'user.btfs.none', room, 500) == 'ENODATA'
n = call('listxattr', path, None, 0)
assert call('listxattr', path, room, n - 1) == 'ERANGE'
assert call('listxattr', path, room, n) == n
assert sorted(os.listxattr(path)) == sorted(['user.btfs.' + name for name in
    ['info_hash', 'progress', 'cached', 'status', 'piece_length', 'file_index']])
assert os.listxattr(os.path.dirname(path) + b'/link', follow_symlinks=False) == []
";
    Reader::python(program, &served.top().join("a")).output(std::time::Duration::from_secs(20));
}

#[test]
fn access_is_judged_by_modes_and_the_read_only_mount() {
    if !can_mount() {
        return;
    }
    let served = Served::complete(Content::new("torrent", 32768, ENTRIES));
    let program = r"
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def access(name, mode):
    n = libc.access(os.path.join(sys.argv[1], name).encode(), mode)
    return 0 if n == 0 else errno.errorcode[ctypes.get_errno()]
for name in ['', 'a', 'b', 'b/deep/q', 'link']:
    assert access(name, os.F_OK) == 0 and access(name, os.R_OK) == 0, name
    assert access(name, os.W_OK) == 'EROFS', (name, access(name, os.W_OK))
assert access('b', os.X_OK) == 0 and access('b/deep/q', os.X_OK) == 0
assert access('a', os.X_OK) == 'EACCES'
assert access('none', os.F_OK) == 'ENOENT'
";
    Reader::python(program, &served.top()).output(std::time::Duration::from_secs(20));
}

#[test]
fn no_special_files_appear() {
    if !can_mount() {
        return;
    }
    let served = Served::complete(Content::new("torrent", 32768, ENTRIES));
    for entry in fs::read_dir(served.top()).unwrap() {
        let kind = entry.unwrap().file_type().unwrap();
        assert!(!kind.is_fifo() && !kind.is_socket() && !kind.is_block_device() && !kind.is_char_device());
    }
}
