//! Content that lies on disk already, as the material of a torrent: what is there, what its pieces hash to, and whether that
//! is what a torrent says.
//!
//! Walks without recursion, and follows links only where it is told to; hashes on several threads, piece by piece. Writes
//! nothing, and knows nothing of torrents' file format.

mod ahead;
mod check;
mod hash;
mod walk;

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::StorageError;

pub use check::{Finding, Findings, check_files, each_piece};
pub use hash::{Hashing, hash_pieces};
pub use walk::{Wanted, walk};

/// A file or a directory tree, in the order of its names' bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Tree {
    /// The content is one file: the only entry, with an empty path.
    pub single_file: bool,
    /// What there is.
    pub entries: Vec<TreeEntry>,
}

/// One entry of a tree. Empty directories are none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeEntry {
    /// Components below the root.
    pub path: Vec<Vec<u8>>,
    /// What it is.
    pub kind: TreeEntryKind,
}

/// What an entry of a tree is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TreeEntryKind {
    /// A regular file.
    File {
        /// Where it lies.
        location: PathBuf,
        /// What it was when it was looked at.
        stamp: Stamp,
        /// Its owner may execute it.
        executable: bool,
    },
    /// A symlink that stays inside of the tree.
    Symlink {
        /// Components below the root.
        target: Vec<Vec<u8>>,
    },
}

/// How long a file is, and when it was last written to: as long as that is the same, so is what is in it. (Not its inode:
/// on some network file systems the same file has another one later.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Bytes.
    pub length: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self { length: metadata.len(), modified: (metadata.mtime(), metadata.mtime_nsec()) }
    }
}

impl TreeEntry {
    /// Bytes of content: none for symlinks.
    pub fn length(&self) -> u64 {
        match self.kind {
            TreeEntryKind::File { stamp, .. } => stamp.length,
            TreeEntryKind::Symlink { .. } => 0,
        }
    }
}

/// Why content cannot be made a torrent of.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The disk.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Neither file, directory nor symlink.
    #[error("{}: neither a file, a directory nor a symlink; leave it out with --exclude, or remove it", .0.display())]
    Special(PathBuf),
    /// A symlink that leaves the tree, or stands for the whole of it.
    #[error(
        "{}: the symlink leads out of what is shared; leave it out with --exclude, or take what it leads to with \
         --follow-symlinks",
        .0.display()
    )]
    Outside(PathBuf),
    /// A symlink that is to be followed leads to nothing.
    #[error("{}: the symlink leads nowhere and cannot be followed; leave it out with --exclude, or remove it", .0.display())]
    Dangling(PathBuf),
    /// A symlink that is to be followed leads to a directory that holds it, or to itself.
    #[error("{}: following the symlink leads back to itself; leave it out with --exclude", .0.display())]
    Loop(PathBuf),
    /// More entries than a torrent can list.
    #[error("{}: more than {} files, directories and symlinks; share parts of it, or an archive", .0.display(), walk::MAX_ENTRIES)]
    TooMany(PathBuf),
    /// Deeper than a torrent may be.
    #[error("{}: more than 100 directories deep", .0.display())]
    TooDeep(PathBuf),
    /// A file that was altered between the first look and the last.
    #[error("{}: changed while it was read; try again when nobody writes to it", .0.display())]
    Changed(PathBuf),
    /// A file that is not there any more.
    #[error("{}: vanished while it was read; try again when nobody moves or removes files there", .0.display())]
    Vanished(PathBuf),
    /// Somebody asked to stop.
    #[error("interrupted")]
    Interrupted,
}

/// An I/O error of `op` on `path`.
fn io_error(op: &'static str, path: &std::path::Path) -> impl FnOnce(std::io::Error) -> ScanError {
    let path = path.to_owned();
    move |source| ScanError::Storage(StorageError::Io { op, path, source })
}

#[cfg(test)]
mod tests;
