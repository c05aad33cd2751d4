//! Looking into a running process and telling it what to do: one Unix socket a process, lines of JSON.
//!
//! One [`Status`] type stands behind every view, so that they cannot disagree. [`Changes`] is how torrents come and go,
//! whether somebody asks for it here or a watched directory does.

mod changes;
mod client;
mod seeding;
mod socket;
mod status;
mod torrent_status;
mod watch;

pub use changes::{Changes, Common, NotFound};
pub use client::{ask, ask_with, sockets};
pub use seeding::{Goals, Reached, Seeding, SeedingStatus, TorrentSeeding};
pub use socket::{Control, Responder, prepare_directory};
pub use status::{CacheStatus, Limits, Status, StatusSource, Warning};
pub use torrent_status::{FileStatus, PeerStatus, ReadStatus, TorrentStatus, TrackerStatus};
pub use watch::{Shelf, Watch};

use std::net::SocketAddr;

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
    /// when the process closes the connection. Where sharing goes on without the mount: answered by
    /// `{"ok":true,"seeding":true}` when the mount has ended.
    Umount,
    /// End sharing: as `umount`, of a process that has no mount (any more).
    Stop,
    /// Mount one more torrent, whose file follows the line. Answered by `{"ok":true,"path":"...","info_hash":"..."}`.
    Add {
        /// Bytes of the torrent file.
        bytes: u64,
        /// Peers to connect to, too.
        #[serde(default)]
        peers: Vec<SocketAddr>,
        /// Trackers to ask, too.
        #[serde(default)]
        trackers: Vec<String>,
    },
    /// Set limits. Answered by `{"ok":true}`.
    Set {
        /// Of this torrent only, named as for `remove`.
        #[serde(default)]
        torrent: Option<String>,
        /// Of each torrent for itself, in place of all together.
        #[serde(default)]
        each: bool,
        /// What.
        #[serde(flatten)]
        new: NewLimits,
    },
    /// Take a torrent out: its name in the mount (with the folders that it is in), or its info-hash or the beginning of
    /// one. Answered as `add`, when it has left its swarm.
    Remove {
        /// Which.
        torrent: String,
    },
}

/// Limits to be set: rates in bytes per second, 0 for none; what is missing stays as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewLimits {
    /// To peers.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "max_upload")]
    pub upload: Option<u64>,
    /// From peers.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "max_download")]
    pub download: Option<u64>,
    /// Peers of a torrent that are unchoked at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload_slots: Option<usize>,
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
    /// The mount has ended, and the process goes on sharing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub seeding: bool,
    /// Where the torrent that came or went is (or was) shown, from the root of the mount on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Its info-hash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub info_hash: Option<String>,
}

impl Response {
    /// Done, and nothing to tell.
    pub fn done() -> Self {
        Self { ok: true, error: None, pid: None, status: None, seeding: false, path: None, info_hash: None }
    }

    /// Not done, and why.
    pub fn refused(error: impl Into<String>) -> Self {
        Self { ok: false, error: Some(error.into()), ..Self::done() }
    }
}

fn default_files() -> usize {
    1000
}
