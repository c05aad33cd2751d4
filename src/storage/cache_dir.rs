//! The cache directory and its slots (docs/architecture.md §6).

use std::path::Path;

use super::StorageError;

/// An open cache directory; everything below it is reached by descriptor, never by path.
#[derive(Debug)]
pub struct CacheDir {}

#[allow(unused_variables)]
impl CacheDir {
    /// Opens `path`, creating it (0700) and its parents where they are missing.
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        todo!()
    }
    /// Its path as given, for messages.
    pub fn path(&self) -> &Path {
        todo!()
    }
}
