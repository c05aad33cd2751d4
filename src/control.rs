//! Looking into a running process and telling it to end: one Unix socket a process, lines of JSON.
//!
//! One [`Status`] type stands behind every view, so that they cannot disagree. Nothing here changes a torrent.

mod client;
mod socket;
mod status;
mod torrent_status;

pub use client::{ask, sockets};
pub use socket::{Control, prepare_directory};
pub use status::{Status, StatusSource, Warning};
pub use torrent_status::{FileStatus, PeerStatus, ReadStatus, TorrentStatus, TrackerStatus};

use serde::{Deserialize, Serialize};

/// What can be asked, a line each: `{"cmd":"status"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cmd", rename_all = "lowercase")]
pub enum Request {
    /// Are you there? Answered by `{"ok":true,"pid":N}`.
    Ping,
    /// What are you doing? Answered by `{"ok":true,"status":{...}}`.
    Status {
        /// Files of each torrent at most.
        #[serde(default = "default_files")]
        files: usize,
    },
    /// End: fail waiting reads, detach the mount, say `stopped`. Answered by `{"ok":true}` before it is done; it is done
    /// when the process closes the connection.
    Umount,
}

/// What comes back, a line each.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Response {
    /// Whether the request was understood and done.
    pub ok: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Who answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The answer to `status`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
}

fn default_files() -> usize {
    1000
}
