//! The calls that the standard library lacks, each in a safe wrapper: paths relative to an open directory, reads from
//! the page cache alone, pages of files for sockets, holes. Decides nothing.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

/// What a file is and what was last done to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileStatus {
    pub(crate) dev: u64,
    pub(crate) ino: u64,
    pub(crate) size: u64,
    /// Bytes allocated on disk.
    pub(crate) allocated: u64,
    /// Nanoseconds since the epoch.
    pub(crate) mtime: i64,
    /// Nanoseconds since the epoch.
    pub(crate) ctime: i64,
    /// Whether it is a regular file.
    pub(crate) regular: bool,
}

/// The longest list that one `pwritev` takes (`UIO_MAXIOV` of Linux).
pub(crate) const IOV_MAX: usize = 1024;

/// How [`open_at`] opens; all of them refuse a symlink as the last component, never wait for the other end of a pipe, and
/// close on exec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Open {
    /// For reading.
    Read,
    /// For reading and writing.
    Write,
    /// As `Write`, made (0600) when it is missing.
    Create,
    /// As `Create`, emptied when it is there.
    Truncate,
    /// For writing at the end.
    Append,
    /// A directory, for the calls below.
    Directory,
}

/// Opens `name` below `dir`.
pub(crate) fn open_at(dir: impl AsFd, name: &OsStr, how: Open) -> io::Result<File> {
    let flags = match how {
        Open::Read => libc::O_RDONLY,
        Open::Write => libc::O_RDWR,
        Open::Create => libc::O_RDWR | libc::O_CREAT,
        Open::Truncate => libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC,
        Open::Append => libc::O_WRONLY | libc::O_APPEND,
        Open::Directory => libc::O_RDONLY | libc::O_DIRECTORY,
    };
    let name = c_name(name)?;
    let flags = flags | libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY;
    // SAFETY: the name ends in NUL and lives through the call; the mode is passed as `openat` expects it.
    let fd = retry(|| unsafe { libc::openat(dir.as_fd().as_raw_fd(), name.as_ptr(), flags, 0o600) })?;
    // SAFETY: the call has just returned this descriptor, nobody else has it.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Makes a directory (0700) below `dir`.
pub(crate) fn make_dir_at(dir: impl AsFd, name: &OsStr) -> io::Result<()> {
    make_dir_with_mode_at(dir, name, 0o700)
}

/// Makes a directory below `dir` with these permissions, less what the process's umask takes.
pub(crate) fn make_dir_with_mode_at(dir: impl AsFd, name: &OsStr, mode: libc::mode_t) -> io::Result<()> {
    let name = c_name(name)?;
    // SAFETY: the name ends in NUL and lives through the call.
    retry(|| unsafe { libc::mkdirat(dir.as_fd().as_raw_fd(), name.as_ptr(), mode) }).map(drop)
}

/// Makes a symlink below `dir`. What has the name already is an error, and stays.
pub(crate) fn symlink_at(target: &OsStr, dir: impl AsFd, name: &OsStr) -> io::Result<()> {
    let (target, name) = (c_name(target)?, c_name(name)?);
    // SAFETY: both texts end in NUL and live through the call.
    retry(|| unsafe { libc::symlinkat(target.as_ptr(), dir.as_fd().as_raw_fd(), name.as_ptr()) }).map(drop)
}

/// Where a symlink below `dir` leads to; cut at the longest path that there can be.
pub(crate) fn read_link_at(dir: impl AsFd, name: &OsStr) -> io::Result<Vec<u8>> {
    let name = c_name(name)?;
    let mut buffer = vec![0_u8; libc::PATH_MAX as usize];
    let dir = dir.as_fd().as_raw_fd();
    // SAFETY: the name ends in NUL; the buffer has as many bytes as it says, both live through the call.
    let length = unsafe { libc::readlinkat(dir, name.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) };
    buffer.truncate(usize::try_from(length).map_err(|_| io::Error::last_os_error())?);
    Ok(buffer)
}

/// What `name` below `dir` is, without following a symlink; `None` when there is nothing of that name.
pub(crate) fn status_at(dir: impl AsFd, name: &OsStr) -> io::Result<Option<FileStatus>> {
    let name = c_name(name)?;
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    let (dir, flags) = (dir.as_fd().as_raw_fd(), libc::AT_SYMLINK_NOFOLLOW);
    // SAFETY: the name ends in NUL; the buffer has room for one `stat`, both live through the call.
    match retry(|| unsafe { libc::fstatat(dir, name.as_ptr(), stat.as_mut_ptr(), flags) }) {
        // SAFETY: the call has succeeded, so it has filled the buffer.
        Ok(_) => Ok(Some(file_status(unsafe { stat.assume_init_ref() }))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// What an open file is.
pub(crate) fn status_of(file: impl AsFd) -> io::Result<FileStatus> {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the buffer has room for one `stat` and lives through the call.
    retry(|| unsafe { libc::fstat(file.as_fd().as_raw_fd(), stat.as_mut_ptr()) })?;
    // SAFETY: the call has succeeded, so it has filled the buffer.
    Ok(file_status(unsafe { stat.assume_init_ref() }))
}

/// Renames a file within `dir`, replacing what has the new name.
pub(crate) fn rename_at(dir: impl AsFd, from: &OsStr, to: &OsStr) -> io::Result<()> {
    let (from, to, dir) = (c_name(from)?, c_name(to)?, dir.as_fd().as_raw_fd());
    // SAFETY: both names end in NUL and live through the call.
    retry(|| unsafe { libc::renameat(dir, from.as_ptr(), dir, to.as_ptr()) }).map(drop)
}

/// Moves a file from one directory to another. What has the new name already is an error, and stays.
pub(crate) fn move_new_at(from_dir: impl AsFd, from: &OsStr, to_dir: impl AsFd, to: &OsStr) -> io::Result<()> {
    let (from, to) = (c_name(from)?, c_name(to)?);
    let (from_dir, to_dir) = (from_dir.as_fd().as_raw_fd(), to_dir.as_fd().as_raw_fd());
    // SAFETY: both names end in NUL and live through the call.
    let moved = unsafe {
        let flags = libc::RENAME_NOREPLACE;
        libc::syscall(libc::SYS_renameat2, from_dir, from.as_ptr(), to_dir, to.as_ptr(), flags)
    };
    if moved == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    // Not every filesystem knows the flag. A second name is refused where there is one already, too.
    if !matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) {
        return Err(error);
    }
    // SAFETY: both names end in NUL and live through the call.
    retry(|| unsafe { libc::linkat(from_dir, from.as_ptr(), to_dir, to.as_ptr(), 0) })?;
    // SAFETY: the name ends in NUL and lives through the call.
    retry(|| unsafe { libc::unlinkat(from_dir, from.as_ptr(), 0) }).map(drop)
}

/// Removes a file below `dir`; nothing there is no error.
pub(crate) fn unlink_at(dir: impl AsFd, name: &OsStr) -> io::Result<()> {
    let name = c_name(name)?;
    // SAFETY: the name ends in NUL and lives through the call.
    match retry(|| unsafe { libc::unlinkat(dir.as_fd().as_raw_fd(), name.as_ptr(), 0) }) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes an empty directory below `dir`; nothing there is no error.
pub(crate) fn remove_dir_at(dir: impl AsFd, name: &OsStr) -> io::Result<()> {
    let name = c_name(name)?;
    // SAFETY: the name ends in NUL and lives through the call.
    match retry(|| unsafe { libc::unlinkat(dir.as_fd().as_raw_fd(), name.as_ptr(), libc::AT_REMOVEDIR) }) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Bytes of the filesystem that `of` lies on: those free for us, and all.
pub(crate) fn disk_space(of: impl AsFd) -> io::Result<(u64, u64)> {
    let mut stat = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the buffer has room for one `statvfs` and lives through the call.
    retry(|| unsafe { libc::fstatvfs(of.as_fd().as_raw_fd(), stat.as_mut_ptr()) })?;
    // SAFETY: the call has succeeded, so it has filled the buffer.
    let stat = unsafe { stat.assume_init_ref() };
    let unit = stat.f_frsize;
    Ok((stat.f_bavail.saturating_mul(unit), stat.f_blocks.saturating_mul(unit)))
}

/// Locks one byte of a file for this open file, which need not be that long; false when another one has it. The lock goes
/// with the open file, so with the process at the latest.
pub(crate) fn lock_byte(file: &File, at: u64) -> io::Result<bool> {
    let lock = byte_lock(at)?;
    // SAFETY: the structure lives through the call, which only reads it.
    match retry(|| unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) }) {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether another open file has locked this byte.
pub(crate) fn is_byte_locked(file: &File, at: u64) -> io::Result<bool> {
    let mut lock = byte_lock(at)?;
    // SAFETY: the structure lives through the call, which may write to it.
    retry(|| unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) })?;
    Ok(i32::from(lock.l_type) != libc::F_UNLCK)
}

fn byte_lock(at: u64) -> io::Result<libc::flock> {
    // SAFETY: all zeros is a valid structure; the kernel wants `l_pid` to be 0 for locks of open files.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as _;
    lock.l_whence = libc::SEEK_SET as _;
    (lock.l_start, lock.l_len) = (position(at)?, 1);
    Ok(lock)
}

/// The names in `dir`, without `.` and `..`.
pub(crate) fn names_in(dir: impl AsFd) -> io::Result<Vec<CString>> {
    names_where(dir, |_| true)
}

/// Of the names in `dir` those of anything but regular files. Costs no look at each, where the filesystem notes types in
/// its directories.
pub(crate) fn irregular_in(dir: impl AsFd) -> io::Result<Vec<CString>> {
    let mut names = names_where(&dir, |kind| kind != libc::DT_REG)?;
    let status = |name: &CString| status_at(&dir, OsStr::from_bytes(name.to_bytes())).ok().flatten();
    names.retain(|name| status(name).is_some_and(|status| !status.regular));
    Ok(names)
}

fn names_where(dir: impl AsFd, keep: impl Fn(u8) -> bool) -> io::Result<Vec<CString>> {
    // A descriptor of its own: reading moves its position, and `closedir` closes it.
    let fd: OwnedFd = open_at(dir, OsStr::new("."), Open::Directory)?.into();
    // SAFETY: the descriptor is open and ours; it belongs to the stream from here on if the call succeeds.
    let stream = unsafe { libc::fdopendir(fd.as_raw_fd()) };
    if stream.is_null() {
        return Err(io::Error::last_os_error());
    }
    let _ = fd.into_raw_fd();
    let mut names = Vec::new();
    let result = loop {
        // SAFETY: errno is this thread's own.
        unsafe { *libc::__errno_location() = 0 };
        // SAFETY: the stream is open and used by this thread alone.
        let entry = unsafe { libc::readdir(stream) };
        if entry.is_null() {
            let error = io::Error::last_os_error();
            break if error.raw_os_error() == Some(0) { Ok(names) } else { Err(error) };
        }
        // SAFETY: the entry is valid until the next call on the stream, its name ends in NUL.
        let (name, kind) = unsafe { (CStr::from_ptr((*entry).d_name.as_ptr()), (*entry).d_type) };
        if name != c"." && name != c".." && keep(kind) {
            names.push(name.to_owned());
        }
    };
    // SAFETY: the stream is open, and this is its last use.
    unsafe { libc::closedir(stream) };
    result
}

/// Reads from the page cache alone: `None` when that would have to wait, or when the filesystem cannot tell.
pub(crate) fn read_now(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
    let offset = position(offset)?;
    let part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: `part` describes `buffer`, which is borrowed mutably through the call.
    let read = unsafe { libc::preadv2(file.as_raw_fd(), &part, 1, offset, libc::RWF_NOWAIT) };
    if read >= 0 {
        return Ok(Some(read as usize));
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::EOPNOTSUPP | libc::EINTR | libc::ENOSYS | libc::EINVAL) => Ok(None),
        _ => Err(error),
    }
}

/// A range of a file in our address space, for the kernel to copy from: [`send`] is all that it is good for.
///
/// The process itself never looks into it. A page that is gone (the file was cut) is then an error of the call,
/// `EFAULT`; to an access of ours it would be `SIGBUS`.
#[derive(Debug)]
pub(crate) struct Mapping {
    file: Arc<File>,
    /// Where it begins, in memory and in the file: on a page's edge.
    address: usize,
    offset: u64,
    length: usize,
    /// Whether `mincore` tells the truth of this file: of others' it calls every page resident.
    ours: bool,
}

impl Mapping {
    /// Maps at least `length` bytes from `offset`, not 0. Reads nothing.
    pub(crate) fn new(file: Arc<File>, offset: u64, length: usize) -> io::Result<Self> {
        let before = offset % page_bytes();
        let (offset, length) = (offset - before, length + before as usize);
        // SAFETY: takes numbers only.
        let flags = retry(|| unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) })?;
        // SAFETY: takes nothing.
        let user = unsafe { libc::geteuid() };
        let ours = flags & libc::O_ACCMODE == libc::O_RDWR || file.metadata()?.uid() == user;
        let (read, shared, at) = (libc::PROT_READ, libc::MAP_SHARED, position(offset)?);
        // SAFETY: the kernel chooses where, so that nothing else is overlaid; no reference into it is ever made.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), length, read, shared, file.as_raw_fd(), at) };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { file, address: address as usize, offset, length, ours })
    }

    /// Whether the range is of this very file, and inside.
    pub(crate) fn covers(&self, file: &Arc<File>, offset: u64, length: usize) -> bool {
        Arc::ptr_eq(&self.file, file) && self.part(offset, length).is_some()
    }

    /// Whether all pages of the range are in memory; false when that cannot be told.
    pub(crate) fn is_resident(&self, offset: u64, length: usize) -> bool {
        let Some(part) = self.part(offset, length) else { return false };
        let page_bytes = page_bytes() as usize;
        let start = part.start - part.start % page_bytes;
        let pages = (part.end - start).div_ceil(page_bytes);
        if !self.ours {
            let first = self.offset + start as u64;
            let mut byte = [0];
            return (0..pages).all(|page| {
                matches!(read_now(&self.file, &mut byte, first + (page * page_bytes) as u64), Ok(Some(1)))
            });
        }
        let mut states = [0_u8; 64];
        (0..pages).step_by(states.len()).all(|page| {
            let count = states.len().min(pages - page);
            let at = self.address + start + page * page_bytes;
            // SAFETY: the pages lie inside the mapping; the buffer has a byte for each and lives through the call.
            let told = unsafe { libc::mincore(at as *mut _, count * page_bytes, states.as_mut_ptr()) };
            told == 0 && states[..count].iter().all(|state| state & 1 == 1)
        })
    }

    /// Lets go of all pages, so that [`drop_cached`] can have them; a later use takes them up again.
    pub(crate) fn let_go(&self) {
        // SAFETY: the range is all of the mapping, shared and of a file: its pages can be had again from there.
        unsafe { libc::madvise(self.address as *mut _, self.length, libc::MADV_DONTNEED) };
    }

    /// The length of the file now.
    pub(crate) fn file_bytes(&self) -> io::Result<u64> {
        status_of(&*self.file).map(|status| status.size)
    }

    /// A range of the file as a range of the mapping.
    fn part(&self, offset: u64, length: usize) -> Option<std::ops::Range<usize>> {
        let start = usize::try_from(offset.checked_sub(self.offset)?).ok()?;
        let end = start.checked_add(length)?;
        (end <= self.length).then_some(start..end)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is what `mmap` gave, and nothing refers to it.
        unsafe { libc::munmap(self.address as *mut _, self.length) };
    }
}

/// What [`send`] is to send.
#[derive(Debug)]
pub(crate) enum Part<'a> {
    Bytes(&'a [u8]),
    /// Bytes of a file, from an offset in it.
    Mapped {
        mapping: &'a Mapping,
        offset: u64,
        length: usize,
    },
}

/// Sends as much of the parts as a socket takes now (of the first [`IOV_MAX`]); how many bytes that was.
///
/// All of it has been copied on return, nothing refers to the files' pages any more: what is written, cut or punched
/// afterwards is not what the peer gets.
///
/// # Errors
/// `EFAULT` when the first byte lies in a page that the file does not have any more.
pub(crate) fn send(socket: impl AsFd, parts: &[Part<'_>]) -> io::Result<usize> {
    let mut slices = Vec::with_capacity(parts.len().min(IOV_MAX));
    for part in parts.iter().take(IOV_MAX) {
        slices.push(match *part {
            Part::Bytes(bytes) => libc::iovec { iov_base: bytes.as_ptr() as *mut _, iov_len: bytes.len() },
            Part::Mapped { mapping, offset, length } => {
                let part = mapping.part(offset, length).ok_or(io::ErrorKind::InvalidInput)?;
                libc::iovec { iov_base: (mapping.address + part.start) as *mut _, iov_len: part.len() }
            }
        });
    }
    // SAFETY: all zeros is an empty header.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = slices.as_mut_ptr();
    header.msg_iovlen = slices.len() as _;
    loop {
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        // SAFETY: the header names `slices`, which name borrowed bytes or parts of borrowed mappings; the call only reads.
        let sent = unsafe { libc::sendmsg(socket.as_fd().as_raw_fd(), &header, flags) };
        if sent >= 0 {
            return Ok(sent as usize);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Writes all of `slices` from `offset`; the slices are used up.
pub(crate) fn write_all_at(file: &File, mut slices: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        let count = slices.len().min(IOV_MAX);
        let (parts, position) = (slices.as_ptr().cast::<libc::iovec>(), position(offset)?);
        // SAFETY: `IoSlice` is ABI compatible with `iovec` on Unix; the first `count` of them are borrowed through the call.
        let written = unsafe { libc::pwritev(file.as_raw_fd(), parts, count as libc::c_int, position) };
        match written {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            1.. => {
                offset += written as u64;
                IoSlice::advance_slices(&mut slices, written as usize);
            }
            _ => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
    Ok(())
}

/// Gives the blocks of a range back to the filesystem; it reads as zeros from then on.
pub(crate) fn punch(file: &File, offset: u64, length: u64) -> io::Result<()> {
    let (offset, length) = (position(offset)?, position(length)?);
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: takes numbers only.
    retry(|| unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, length) }).map(drop)
}

/// Whether anybody but this descriptor has the file open or mapped; `None` when the filesystem cannot tell. Asked by a
/// lease, which the kernel gives to nobody else's knowledge: a mapping that the kernel made past us outlives its handle.
pub(crate) fn is_held(file: &File) -> Option<bool> {
    let fd = file.as_raw_fd();
    // SAFETY: takes numbers only.
    let lease = |kind: libc::c_int| retry(|| unsafe { libc::fcntl(fd, libc::F_SETLEASE, kind) });
    // Whoever opens the file in this very moment waits until the lease is back. The signal that tells us so is to be one
    // that is ignored by default: SIGIO would end the process.
    // SAFETY: takes numbers only.
    retry(|| unsafe { libc::fcntl(fd, F_SETSIG, libc::SIGURG) }).ok()?;
    match lease(libc::F_WRLCK) {
        Ok(_) => lease(libc::F_UNLCK).map(|_| false).ok(),
        Err(error) if error.raw_os_error() == Some(libc::EAGAIN) => Some(true),
        Err(_) => None,
    }
}

/// Waits until everything that was written to a filesystem is on its disk.
pub(crate) fn sync_filesystem(of: &File) -> io::Result<()> {
    // SAFETY: takes a number only.
    retry(|| unsafe { libc::syncfs(of.as_raw_fd()) }).map(drop)
}

/// Drops a file's clean pages from the page cache, those that a [`Mapping`] holds excepted. After a failed sync they are
/// clean but were never written: what is read next has to be what the disk has. Best effort.
pub(crate) fn drop_cached(file: &File) {
    // SAFETY: takes numbers only.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
}

/// The most that Linux surely reads at once when it is told to read ahead: twice that is cut where a disk's own limits are
/// low.
pub(crate) const ADVICE_BYTES: u64 = 128 * 1024;

/// Tells the kernel that these bytes are read soon: it begins to read them without being waited for. No more than
/// [`ADVICE_BYTES`] at once. Best effort.
pub(crate) fn advise_soon(file: &File, offset: u64, length: u64) {
    if let (Ok(offset), Ok(length)) = (position(offset), position(length)) {
        // SAFETY: takes numbers only.
        unsafe { libc::posix_fadvise(file.as_raw_fd(), offset, length, libc::POSIX_FADV_WILLNEED) };
    }
}

/// The first run of stored bytes at or after `offset`, as start and end; `None` when only a hole is left.
pub(crate) fn next_data(file: &File, offset: u64) -> io::Result<Option<(u64, u64)>> {
    let seek = |from: u64, whence| {
        // SAFETY: takes numbers only. The position that it moves is used by nobody.
        let at = unsafe { libc::lseek(file.as_raw_fd(), position(from)?, whence) };
        u64::try_from(at).map_err(|_| io::Error::last_os_error())
    };
    let start = match seek(offset, libc::SEEK_DATA) {
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => return Ok(None),
        other => other?,
    };
    Ok(Some((start, seek(start, libc::SEEK_HOLE)?)))
}

/// How many descriptors this process may have open.
pub(crate) fn descriptor_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the buffer has room for one `rlimit` and lives through the call.
    match unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } {
        0 => limit.rlim_cur,
        _ => 256,
    }
}

/// The smallest number that no descriptor of this process has: what is opened next gets it, so all below are taken. Where
/// none is left, the limit.
pub(crate) fn lowest_free_descriptor() -> u64 {
    // SAFETY: takes numbers only; what it returns is fresh and ours, and closed here.
    unsafe {
        match libc::eventfd(0, libc::EFD_CLOEXEC) {
            -1 => descriptor_limit(),
            descriptor => {
                libc::close(descriptor);
                u64::try_from(descriptor).unwrap_or(0)
            }
        }
    }
}

fn page_bytes() -> u64 {
    // SAFETY: takes a number only.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096).max(1)
}

/// From `<fcntl.h>`, the same on every architecture.
const F_SETSIG: libc::c_int = 10;

fn file_status(stat: &libc::stat) -> FileStatus {
    FileStatus {
        dev: stat.st_dev,
        ino: stat.st_ino,
        size: stat.st_size.try_into().unwrap_or(0),
        allocated: u64::try_from(stat.st_blocks).unwrap_or(0) * 512,
        mtime: stat.st_mtime.wrapping_mul(1_000_000_000).wrapping_add(stat.st_mtime_nsec),
        ctime: stat.st_ctime.wrapping_mul(1_000_000_000).wrapping_add(stat.st_ctime_nsec),
        regular: stat.st_mode & libc::S_IFMT == libc::S_IFREG,
    }
}

fn c_name(name: &OsStr) -> io::Result<CString> {
    CString::new(name.as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn position(offset: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn retry(mut call: impl FnMut() -> libc::c_int) -> io::Result<libc::c_int> {
    loop {
        let result = call();
        if result >= 0 {
            return Ok(result);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

#[cfg(test)]
mod tests;
