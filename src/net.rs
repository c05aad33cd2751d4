//! The tokio shell: sockets, tasks, and the drivers that carry events to the brain and effects out of it.
//!
//! No protocol decision is made here.

mod dial;
pub mod http;
mod listen;
mod peer_task;
mod registry;
mod session;
mod torrent_handle;
mod torrent_task;
mod tracker_client;
pub mod udp_tracker;

pub use session::{AddTorrent, Bounds, NewBounds, Rates, Session, SessionConfig, SessionError, judge_port};
pub use torrent_handle::{PendingRead, ReadOutcome, ReadReply, Request, Requests, TorrentHandle};
pub use tracker_client::TrackerClient;
