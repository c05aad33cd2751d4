//! Formats: bytes to values and back, as pure functions and incremental codecs.
//!
//! No time, no sockets, no files, no threads. Everything read here is hostile until it has been parsed (I10).

pub mod announce;
pub mod bencode;
pub mod http_tracker;
pub mod magnet;
pub mod merkle;
pub mod metainfo;
pub mod path;
pub mod peer_addr;
pub mod udp_tracker;
pub mod wire;
