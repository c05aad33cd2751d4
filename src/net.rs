//! The tokio shell: sockets, tasks, and the drivers that carry events to the brain and effects out of it.
//!
//! No protocol decision is made here.

pub mod http;
mod session;
mod torrent_handle;

pub use session::{AddTorrent, Session, SessionConfig, SessionError};
pub use torrent_handle::{PendingRead, ReadOutcome, ReadReply, Request, Requests, TorrentHandle};
