//! The tracker's side of BitTorrent: who is in which swarm, and the HTTP announce on top of it.
//!
//! A library for the demo and the tests so far: no UDP, no index, no list of allowed torrents.

mod http;
pub mod index;
mod store;

pub use http::serve;
pub use store::{Announce, Counts, Event, Reply, Store, StoreConfig};
