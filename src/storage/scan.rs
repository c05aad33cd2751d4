//! Content that lies on disk already, as the material of a torrent: what is there, what its pieces hash to, and whether that
//! is what a torrent says.
//!
//! Walks without following links and without recursion; hashes on several threads, piece by piece. Writes nothing, and
//! knows nothing of torrents' file format.

mod check;
mod hash;
mod walk;

use std::path::PathBuf;
use std::time::SystemTime;

use super::StorageError;

pub use check::{Finding, Findings, check_files, each_piece};
pub use hash::{Hashing, hash_pieces};
pub use walk::walk;

/// A file or a directory tree, in the order of its names' bytes.
#[derive(Debug)]
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
        /// Bytes when it was looked at.
        length: u64,
        /// When it was last written to.
        modified: Option<SystemTime>,
        /// Its owner may execute it.
        executable: bool,
    },
    /// A symlink that stays inside of the tree.
    Symlink {
        /// Components below the root.
        target: Vec<Vec<u8>>,
    },
}

impl TreeEntry {
    /// Bytes of content: none for symlinks.
    pub fn length(&self) -> u64 {
        match self.kind {
            TreeEntryKind::File { length, .. } => length,
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
    #[error("{}: neither a file, a directory nor a symlink; remove it or share its neighbours one by one", .0.display())]
    Special(PathBuf),
    /// A symlink that leaves the tree, or stands for the whole of it.
    #[error("{}: the symlink leads out of what is shared; replace it by what it leads to, or remove it", .0.display())]
    Outside(PathBuf),
    /// Deeper than a torrent may be.
    #[error("{}: more than 100 directories deep", .0.display())]
    TooDeep(PathBuf),
    /// A file that was altered between the first look and the last.
    #[error("{}: changed while it was read; try again when nobody writes to it", .0.display())]
    Changed(PathBuf),
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
