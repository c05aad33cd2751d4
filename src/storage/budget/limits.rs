//! How large a cache may become, in terms of itself and of its disk, and how far that has gone.

use std::path::PathBuf;

/// How large a cache may become.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct CacheLimits {
    /// Bytes of the disk that all slots may take; `None`: as the disk allows.
    pub size: Option<u64>,
    /// What is kept free of the disk.
    pub min_free: MinFree,
}

/// What is kept free of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum MinFree {
    /// 5 % or 2 GiB, whichever is more; of a small disk a quarter at most.
    #[default]
    Default,
    /// So many bytes.
    Bytes(u64),
    /// A share of the disk, in per cent.
    Percent(f64),
}

impl MinFree {
    /// In bytes, of a disk of `total`.
    pub fn of(self, total: u64) -> u64 {
        match self {
            Self::Default => (total / 20).max(2 << 30).min(total / 4),
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => (total as f64 * percent / 100.0) as u64,
        }
    }
}

/// How much may be fetched with regard to the bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Room {
    /// Anything.
    Plenty,
    /// What is read, and ahead of readers; it pushes out what was used longest ago.
    Tight,
    /// What a reader waits for: nothing may go.
    Scarce,
}

/// What the slots of a cache directory take together, those of all processes and of nobody, and its bounds. In bytes.
#[derive(Debug, Clone)]
pub struct CacheUsage {
    /// The directory.
    pub path: PathBuf,
    /// What all slots take of the disk, up to some that is being written.
    pub used: u64,
    /// What they may take; `None`: as the disk allows.
    pub size: Option<u64>,
    /// What the disk has free.
    pub free: u64,
    /// What is kept free of it.
    pub min_free: u64,
    /// What may be fetched.
    pub room: Room,
}
