//! The brain: every protocol decision, without a socket, a file, a clock or a random source of its own.
//!
//! Input is `(now, event)`; output is a queue of [`Effect`]s and the next instant at which
//! [`Torrent::handle_timeout`] wants to be called. `now` never decreases (I8); equal input and seed give equal output.

mod announce;
mod assembly;
mod availability;
mod blame;
mod candidates;
mod choker;
mod client;
mod config;
mod critical;
mod effect;
mod event;
pub mod limit;
mod pace;
mod peer;
mod peers;
mod picker;
pub mod prefetch;
mod reads;
mod snapshot;
mod torrent;

pub use config::{Config, Fill, Limits};
pub use effect::{AnnounceEvent, Announcement, CloseReason, DiskJob, Effect, Opening, ReadError, Scrape};
pub use event::{
    AnnounceOutcome, Command, Connected, DialFailure, DiskDone, HandleId, PeerEvent, PeerKey, Retry, Room,
    ScrapeOutcome, ScrapeReply, Source, Ticket, TrackerId,
};
pub use snapshot::{PeerSnapshot, ReadSnapshot, TorrentSnapshot, TrackerSnapshot};
pub use torrent::Torrent;
