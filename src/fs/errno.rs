//! Error numbers, and the one place where outcomes become one of them.

use std::fmt;

use crate::engine::ReadError;
use crate::storage::StorageError;

/// A Linux error number, as a system call of a reader returns it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(pub(crate) i32);

#[allow(missing_docs, reason = "the names are errno(3)'s")]
impl Errno {
    pub const EBADF: Self = Self(libc::EBADF);
    pub const EINTR: Self = Self(libc::EINTR);
    pub const EINVAL: Self = Self(libc::EINVAL);
    pub const EIO: Self = Self(libc::EIO);
    pub const EISDIR: Self = Self(libc::EISDIR);
    pub const ENAMETOOLONG: Self = Self(libc::ENAMETOOLONG);
    pub const ENODATA: Self = Self(libc::ENODATA);
    pub const ENOENT: Self = Self(libc::ENOENT);
    pub const ENOTDIR: Self = Self(libc::ENOTDIR);
    pub const ERANGE: Self = Self(libc::ERANGE);
    pub const EROFS: Self = Self(libc::EROFS);

    /// As `errno` has it.
    pub fn raw(self) -> i32 {
        self.0
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", std::io::Error::from_raw_os_error(self.0))
    }
}

impl From<ReadError> for Errno {
    /// A stalled, ended or failed torrent and a broken disk look alike to a reader: the bytes cannot be had now.
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Stalled | ReadError::Stopped | ReadError::Disk | ReadError::Missing => Self::EIO,
        }
    }
}

impl From<&StorageError> for Errno {
    fn from(error: &StorageError) -> Self {
        match error {
            StorageError::Io { .. } | StorageError::Absent(_) | StorageError::Mismatch { .. } => Self::EIO,
        }
    }
}
