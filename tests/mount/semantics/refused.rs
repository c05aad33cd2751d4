//! Changes are refused.

use std::time::Duration;

use super::served::{Content, Reader, Served};
use crate::harness::{as_root, can_mount};

/// Tries every call that would change something; all must fail with EROFS.
const CHANGES: &str = r"
import ctypes, errno, os, sys
top = sys.argv[1]
def path(name): return os.path.join(top, name)
libc = ctypes.CDLL(None, use_errno=True)
def raw(name, *arguments):
    if getattr(libc, name)(*arguments) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
allowed = {'EROFS'}
def refused(what, call, *arguments, also=()):
    try:
        call(*arguments)
    except OSError as error:
        assert errno.errorcode[error.errno] in allowed | set(also), (what, error)
    else:
        raise AssertionError(what + ' was accepted')
refused('create', os.open, path('new'), os.O_CREAT | os.O_WRONLY)
refused('create in a subdirectory', os.open, path('d/new'), os.O_CREAT | os.O_RDWR)
refused('create in the root', os.open, os.path.join(os.path.dirname(top), 'new'), os.O_CREAT | os.O_RDWR)
refused('open to write', os.open, path('a'), os.O_WRONLY)
refused('open to read and write', os.open, path('a'), os.O_RDWR)
refused('open to append', os.open, path('a'), os.O_WRONLY | os.O_APPEND)
refused('open and truncate', os.open, path('a'), os.O_RDONLY | os.O_TRUNC)
refused('a file without a name', os.open, top, os.O_TMPFILE | os.O_RDWR, also=['EOPNOTSUPP', 'ENOTSUP'])
refused('truncate', os.truncate, path('a'), 3)
refused('mkdir', os.mkdir, path('new'))
refused('mknod', os.mknod, path('new'))
refused('mkfifo', os.mkfifo, path('new'))
refused('symlink', os.symlink, 'a', path('new'))
refused('link', os.link, path('a'), path('new'))
refused('unlink', os.unlink, path('a'))
refused('rmdir', os.rmdir, path('d'))
refused('rename', os.rename, path('a'), path('new'))
refused('rename over', os.rename, path('a'), path('d/b'))
refused('chmod', os.chmod, path('a'), 0o777)
refused('chown', os.chown, path('a'), 0, 0)
refused('utime', os.utime, path('a'))
refused('utime of a directory', os.utime, path('d'), (1, 1))
refused('setxattr', os.setxattr, path('a'), 'user.x', b'1')
refused('setxattr of ours', os.setxattr, path('a'), 'user.btfs.status', b'1')
refused('removexattr', os.removexattr, path('a'), 'user.btfs.status')
fd = os.open(path('a'), os.O_RDONLY)
allowed = {'EBADF', 'EROFS', 'EINVAL'}
refused('write', os.write, fd, b'x')
refused('ftruncate', os.ftruncate, fd, 3)
refused('fallocate', os.posix_fallocate, fd, 0, 10)
refused('copy_file_range', os.copy_file_range, fd, fd, 1)
allowed = {'EROFS'}
refused('fchmod', os.fchmod, fd, 0o777)
os.fsync(fd)
os.sync()
import mmap
refused('a writable shared mapping', lambda: mmap.mmap(fd, 3, prot=mmap.PROT_READ | mmap.PROT_WRITE), also=['EACCES'])
private = mmap.mmap(fd, 3, prot=mmap.PROT_READ | mmap.PROT_WRITE, flags=mmap.MAP_PRIVATE)
before = os.pread(fd, 3, 0)
private[:3] = bytes(byte ^ 255 for byte in before)
assert os.pread(fd, 3, 0) == before
print('all refused')
";

#[test]
fn every_change_is_refused_as_on_a_read_only_disk() {
    if !can_mount() {
        return;
    }
    let served = Served::complete(Content::new("torrent", 16384, &["a=1000", "d/b=1000"]));
    let said = Reader::python(CHANGES, &served.top()).output(Duration::from_secs(20));
    assert_eq!(said.trim(), "all refused");
    assert!(std::fs::read(served.top().join("a")).unwrap() == served.content.file("a"));
}

#[test]
fn every_change_is_refused_after_a_remount_for_writing_as_well() {
    if !can_mount() || !as_root("to remount") {
        return;
    }
    let served = Served::complete(Content::new("torrent", 16384, &["a=1000", "d/b=1000"]));
    let mut remount = std::process::Command::new("mount");
    if !remount.args(["-i", "-o", "remount,rw"]).arg(served.root()).status().unwrap().success() {
        // Then there is nothing to refuse: the kernel keeps it read-only.
        return;
    }
    let said = Reader::python(CHANGES, &served.top()).output(Duration::from_secs(20));
    assert_eq!(said.trim(), "all refused");
    assert!(std::fs::read(served.top().join("a")).unwrap() == served.content.file("a"));
}
