//! What the descriptors of a process are shared out for: torrents, connections, and the files that are read.
//!
//! New descriptors get the lowest free number. So whoever opens something only while that number is small never has one of
//! the upper numbers, however many he has; nothing has to be counted.

use super::{Session, SessionError};
use crate::storage::{descriptor_limit, lowest_free_descriptor};

impl Session {
    /// Whether one more torrent would have the descriptors that it takes, and leave some for reading. The first one always
    /// may.
    ///
    /// # Errors
    /// [`SessionError::Descriptors`]
    pub fn judge_room(&self) -> Result<(), SessionError> {
        let limit = descriptor_limit();
        match lowest_free_descriptor() < below_connections(limit) || self.state().torrents.is_empty() {
            true => Ok(()),
            false => Err(SessionError::Descriptors { limit }),
        }
    }
}

/// Connections at most, however few torrents there are.
pub(super) fn for_connections() -> usize {
    (descriptor_limit() / 2).saturating_sub(8).max(8) as usize
}

/// Connections get numbers below this one: the last quarter is for files (`storage` opens no more than that), the mount, and
/// what is open for a moment.
pub(super) fn below_files() -> u64 {
    let limit = descriptor_limit();
    limit - limit / 4
}

/// Torrents get numbers below this one: an eighth more is for connections alone.
fn below_connections(limit: u64) -> u64 {
    limit - limit / 4 - limit / 8
}
