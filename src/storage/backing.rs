//! Where the bytes of a torrent lie: one interface over files of a slot, files of the user's, and test doubles.

pub(crate) mod disk;
pub(crate) mod overflow;
pub(crate) mod places;

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::StorageError;
use super::sys::Mapping;
use crate::base::FileIndex;

/// What tells whether a file is still as somebody left it. Any write, truncation or replacement moves part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Device, relative to that of the directory: the numbers of devices change from boot to boot.
    pub(crate) dev: u64,
    pub(crate) ino: u64,
    pub(crate) size: u64,
    /// Nanoseconds since the epoch.
    pub(crate) mtime: i64,
    /// Nanoseconds since the epoch.
    pub(crate) ctime: i64,
}

impl Identity {
    /// Whether it is the same file, altered or not.
    pub(crate) fn is_same_file(&self, other: &Self) -> bool {
        (self.dev, self.ino) == (other.dev, other.ino)
    }
}

/// A file as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) identity: Identity,
    /// Bytes allocated on disk.
    pub(crate) allocated: u64,
}

/// The files of one torrent, by index; padding is never asked for. All calls may come from any thread at once.
pub(crate) trait Backing: Send + Sync + fmt::Debug {
    /// Reads what is there: fewer bytes than asked for only at the end of the file.
    fn read_at(&self, file: FileIndex, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// As [`read_at`](Self::read_at), from memory alone; `None` when that would have to wait.
    fn read_now_at(&self, file: FileIndex, offset: u64, buffer: &mut [u8]) -> io::Result<Option<usize>>;

    /// A mapping that covers a range of at least one byte, inside the file; `old` if it does. `None` where the bytes have
    /// to be read instead, and when this would have to wait. Whether they are in memory is not looked at.
    fn map_now(
        &self,
        _file: FileIndex,
        _offset: u64,
        _length: usize,
        _old: Option<&Arc<Mapping>>,
    ) -> Option<Arc<Mapping>> {
        None
    }

    /// Writes all slices, which are used up.
    fn write_vectored_at(&self, file: FileIndex, offset: u64, slices: &mut [IoSlice<'_>]) -> io::Result<()>;

    /// Makes the file, with a hole of its whole length, or gives it its right length.
    fn prepare(&self, file: FileIndex) -> io::Result<()>;

    /// Makes a hole of a range.
    fn punch(&self, file: FileIndex, offset: u64, length: u64) -> io::Result<()>;

    /// Waits until all that was written is on the disk.
    fn sync(&self, file: FileIndex) -> io::Result<()>;

    /// Waits until all that was written to any file is on the disk. May be refused: then each file is synced by itself.
    fn sync_all(&self) -> io::Result<()>;

    /// What has the file's name now; `None` when nothing, or nothing that is a regular file.
    fn seen(&self, file: FileIndex) -> io::Result<Option<Seen>>;

    /// The first run of stored bytes at or after `offset`; `None` when only a hole is left.
    fn next_data(&self, file: FileIndex, offset: u64) -> io::Result<Option<Range<u64>>>;

    /// The file was replaced: drop what is open of the old one.
    fn forget(&self, file: FileIndex);

    /// The open file, for the kernel to read it by itself, and what it is. May be refused.
    fn lend(&self, file: FileIndex) -> io::Result<(Arc<File>, Identity)>;

    /// Whether anybody but us has the file open or mapped; `None` when that cannot be told.
    fn is_held(&self, file: FileIndex) -> Option<bool>;

    /// The path of a file, for messages.
    fn path(&self, file: FileIndex) -> PathBuf;

    /// Whether a file that this backing may write has its final name: from then on it is the user's, and never written.
    fn is_placed(&self, _file: FileIndex) -> bool {
        false
    }

    /// Gives a complete file its final name and these permissions. What has that name already is an error, and stays.
    fn place(&self, file: FileIndex, _mode: u32) -> Result<(), StorageError> {
        Err(StorageError::Mismatch { path: self.path(file), reason: "has no other name".to_owned() })
    }

    /// Makes a symlink beside the files that have their final names; one that is there already may stay.
    fn place_link(&self, path: &Path, _target: &OsStr) -> Result<(), StorageError> {
        Err(StorageError::Mismatch { path: path.to_owned(), reason: "has no place".to_owned() })
    }
}
