//! The calls that the standard library lacks, each in a safe wrapper: paths relative to an open directory, reads from
//! the page cache alone, holes. Decides nothing.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

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

/// How [`open_at`] opens; all of them refuse a symlink as the last component and close on exec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Open {
    /// For reading; never waits for a writer of a pipe.
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
        Open::Read => libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY,
        Open::Write => libc::O_RDWR,
        Open::Create => libc::O_RDWR | libc::O_CREAT,
        Open::Truncate => libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC,
        Open::Append => libc::O_WRONLY | libc::O_APPEND,
        Open::Directory => libc::O_RDONLY | libc::O_DIRECTORY,
    };
    let name = c_name(name)?;
    let flags = flags | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    // SAFETY: the name ends in NUL and lives through the call; the mode is passed as `openat` expects it.
    let fd = retry(|| unsafe { libc::openat(dir.as_fd().as_raw_fd(), name.as_ptr(), flags, 0o600) })?;
    // SAFETY: the call has just returned this descriptor, nobody else has it.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Makes a directory (0700) below `dir`.
pub(crate) fn make_dir_at(dir: impl AsFd, name: &OsStr) -> io::Result<()> {
    let name = c_name(name)?;
    // SAFETY: the name ends in NUL and lives through the call.
    retry(|| unsafe { libc::mkdirat(dir.as_fd().as_raw_fd(), name.as_ptr(), 0o700) }).map(drop)
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

/// Removes a file below `dir`; nothing there is no error.
pub(crate) fn unlink_at(dir: impl AsFd, name: &OsStr) -> io::Result<()> {
    let name = c_name(name)?;
    // SAFETY: the name ends in NUL and lives through the call.
    match retry(|| unsafe { libc::unlinkat(dir.as_fd().as_raw_fd(), name.as_ptr(), 0) }) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The names in `dir`, without `.` and `..`.
pub(crate) fn names_in(dir: impl AsFd) -> io::Result<Vec<CString>> {
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
        let name = unsafe { CStr::from_ptr((*entry).d_name.as_ptr()) };
        if name != c"." && name != c".." {
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

/// Waits until everything that was written to a filesystem is on its disk.
pub(crate) fn sync_filesystem(of: &File) -> io::Result<()> {
    // SAFETY: takes a number only.
    retry(|| unsafe { libc::syncfs(of.as_raw_fd()) }).map(drop)
}

/// Drops a file's clean pages from the page cache. After a failed sync they are clean but were never written: what is
/// read next has to be what the disk has. Best effort.
pub(crate) fn drop_cached(file: &File) {
    // SAFETY: takes numbers only.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
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
mod tests {
    use std::os::unix::fs::{FileExt, PermissionsExt};

    use super::*;

    fn directory() -> (tempfile::TempDir, File) {
        let temp = tempfile::tempdir().unwrap();
        let dir = File::open(temp.path()).unwrap();
        (temp, dir)
    }

    fn name(text: &str) -> &OsStr {
        OsStr::new(text)
    }

    #[test]
    fn files_are_made_for_us_alone_and_symlinks_are_refused() {
        let (temp, dir) = directory();
        open_at(&dir, name("file"), Open::Create).unwrap();
        make_dir_at(&dir, name("sub")).unwrap();
        let mode = |name: &str| temp.path().join(name).metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("file") & 0o177, mode("sub") & 0o077), (0, 0));
        std::os::unix::fs::symlink("file", temp.path().join("link")).unwrap();
        for how in [Open::Read, Open::Write, Open::Create, Open::Truncate, Open::Append] {
            assert_eq!(open_at(&dir, name("link"), how).unwrap_err().raw_os_error(), Some(libc::ELOOP), "{how:?}");
        }
        assert!(!status_at(&dir, name("link")).unwrap().unwrap().regular);
        assert!(open_at(&dir, name("file"), Open::Directory).is_err());
        assert!(open_at(&dir, OsStr::from_bytes(b"a\0b"), Open::Read).is_err());
    }

    #[test]
    fn names_and_states_are_told_renamed_and_removed() {
        let (_temp, dir) = directory();
        open_at(&dir, name("a"), Open::Create).unwrap().set_len(5).unwrap();
        rename_at(&dir, name("a"), name("b")).unwrap();
        assert_eq!(names_in(&dir).unwrap(), [c"b".to_owned()]);
        assert_eq!(names_in(&dir).unwrap().len(), 1, "a second look starts at the beginning");
        assert_eq!(status_at(&dir, name("a")).unwrap(), None);
        let status = status_at(&dir, name("b")).unwrap().unwrap();
        assert_eq!(status, status_of(open_at(&dir, name("b"), Open::Read).unwrap()).unwrap());
        assert!(status.regular && status.size == 5 && status.ctime > 0);
        unlink_at(&dir, name("b")).unwrap();
        unlink_at(&dir, name("b")).unwrap();
    }

    #[test]
    fn more_slices_than_one_call_takes_are_all_written() {
        let (_temp, dir) = directory();
        let file = open_at(&dir, name("file"), Open::Create).unwrap();
        let bytes: Vec<u8> = (0..5000_u32).map(|at| (at % 251) as u8).collect();
        let mut slices: Vec<_> = bytes.chunks(2).map(IoSlice::new).collect();
        slices.insert(7, IoSlice::new(&[]));
        write_all_at(&file, &mut slices, 100).unwrap();
        let mut read = vec![0; 5000];
        file.read_exact_at(&mut read, 100).unwrap();
        assert_eq!(read, bytes);
        write_all_at(&file, &mut [IoSlice::new(&[])], 0).unwrap();
        assert!(write_all_at(&file, &mut [IoSlice::new(b"x")], u64::MAX).is_err());
    }

    #[test]
    fn a_read_of_warm_pages_answers_now_or_says_that_it_cannot() {
        let (_temp, dir) = directory();
        let file = open_at(&dir, name("file"), Open::Create).unwrap();
        file.write_all_at(b"0123456789", 0).unwrap();
        let mut buffer = [0; 4];
        if let Some(read) = read_now(&file, &mut buffer, 3).unwrap() {
            assert_eq!((read, &buffer), (4, b"3456"));
            assert_eq!(read_now(&file, &mut buffer, 10).unwrap(), Some(0), "at the end");
        }
        let unreadable = open_at(&dir, name("file"), Open::Append).unwrap();
        assert!(read_now(&unreadable, &mut buffer, 0).is_err());
    }

    #[test]
    fn a_punched_range_is_a_hole() {
        let (_temp, dir) = directory();
        let file = open_at(&dir, name("file"), Open::Create).unwrap();
        file.write_all_at(&vec![1; 1 << 20], 0).unwrap();
        file.set_len(2 << 20).unwrap();
        assert_eq!(next_data(&file, 0).unwrap(), Some((0, 1 << 20)));
        punch(&file, 0, 512 << 10).unwrap();
        assert_eq!(next_data(&file, 0).unwrap(), Some((512 << 10, 1 << 20)));
        assert_eq!(next_data(&file, 1 << 20).unwrap(), None);
        assert_eq!(next_data(&file, 4 << 20).unwrap(), None, "past the end");
    }

    #[test]
    fn there_is_a_descriptor_limit() {
        assert!(descriptor_limit() > 8);
    }
}
