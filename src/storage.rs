//! Blocking disk work: the cache of verified pieces, and files that somebody shares.
//!
//! The cache files are the truth: a byte is served, to a reader or a peer, only by reading it back from here, and only
//! after its piece was verified (I1). Nothing here is async; slow calls belong on the [`DiskPool`].

mod backing;
mod budget;
mod cache_dir;
mod folder;
mod pool;
mod recency;
mod resume;
pub mod scan;
mod sha1;
mod store;
mod sys;
mod table;
mod verify;

pub use budget::{CacheLimits, CacheUsage, MinFree, Room};
pub use cache_dir::{CacheDir, Removed, SlotStatus};
pub use folder::{Folder, Judged, Links, Look, Stamp, open_regular, read_torrent_file, read_torrent_file_below};
pub use pool::{DiskPool, Lane};
pub use resume::{Claims, claims};
pub use store::{Adopt, Destination, Guard, Loan, Moved, OpenedStore, Run, Store, StoreStatus, TorrentFiles};
pub use table::{PieceState, PieceTable, Pins};
pub use verify::{PieceHashes, Verdict};

pub(crate) use sha1::{TOGETHER as HASHED_TOGETHER, gains_together as hashes_together};
pub(crate) use store::Pages;
#[cfg(test)]
pub(crate) use sys::drop_cached;
pub(crate) use sys::{Mapping, Part, descriptor_limit, lowest_free_descriptor, send};

use std::path::{Path, PathBuf};

/// What the names of the directories begin with that hold downloads under way ([`Store::open_into`]).
pub fn slot_prefix() -> &'static str {
    backing::places::SLOT_PREFIX
}

/// Trouble with the disk.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The system refused.
    #[error("{op} {path}: {source}", path = path.display())]
    Io {
        /// What was tried: `open`, `write`, ...
        op: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A piece that was asked for is not present (any more).
    #[error("piece {0} is not present")]
    Absent(u32),
    /// The user's files are not what the torrent says.
    #[error("{path}: {reason}", path = path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Makes a [`StorageError`] of what the system said about `path`.
fn io_error(op: &'static str, path: &Path) -> impl Fn(std::io::Error) -> StorageError + use<> {
    let path = path.to_owned();
    move |source| StorageError::Io { op, path: path.clone(), source }
}
