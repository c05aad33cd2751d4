//! btfs: a torrent as a read-only directory, and the BitTorrent system around it.
//!
//! The rooms, lowest first; each may use only those before it (`docs/architecture.md` §2, checked by a test):
//! [`base`] vocabulary, [`proto`] formats, [`engine`] the sans-IO brain, [`storage`] blocking disk work,
//! [`net`] the tokio shell, [`fs`] the file system, [`tracker`] the tracker server, [`control`] status, [`cli`] commands.

#![warn(missing_docs)]

pub mod base;
pub mod cli;
pub mod control;
pub mod engine;
pub mod fs;
pub mod net;
pub mod proto;
pub mod storage;
pub mod tracker;
