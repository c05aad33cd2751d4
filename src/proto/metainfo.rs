//! The metainfo file: what a torrent is (BEP 3, 12, 19, 27, 47, 52).
//!
//! Parsing validates everything once; a [`Metainfo`] needs no further check. It opens no file.

use std::sync::Arc;

use bytes::Bytes;

use crate::base::{InfoHash, InfoHashV2, Layout};

/// A valid torrent.
#[derive(Debug, Clone)]
pub struct Metainfo {
    /// The raw bytes of the `info` value, exactly as found: both info-hashes are taken over them.
    pub info: Bytes,
    /// SHA-1 of `info`, for v1 and hybrid torrents.
    pub info_hash: Option<InfoHash>,
    /// SHA-256 of `info`, for v2 and hybrid torrents.
    pub info_hash_v2: Option<InfoHashV2>,
    /// The torrent's name as it is shown: one valid path component of 1 to 255 bytes.
    pub name: Box<[u8]>,
    /// Whether the torrent is one file called `name`, not a directory of that name.
    pub single_file: bool,
    /// Every file in order, padding and symlinks included: entry n is file n of `layout`.
    pub entries: Vec<Entry>,
    /// Where the bytes lie.
    pub layout: Arc<Layout>,
    /// SHA-1 of each piece, 20 bytes each; empty for v2-only torrents.
    pub piece_hashes: Bytes,
    /// BEP 27: no DHT, no PEX, no LSD.
    pub private: bool,
    /// Trackers by tier (BEP 12), usable URLs only, none twice, byte for byte as found.
    pub trackers: Vec<Vec<String>>,
    /// Web seeds (BEP 19).
    pub web_seeds: Vec<String>,
    /// Older web seeds (BEP 17).
    pub http_seeds: Vec<String>,
    /// DHT nodes to start from (BEP 5): host and port.
    pub nodes: Vec<(String, u16)>,
    /// Seconds since the epoch; may be negative.
    pub creation_date: Option<i64>,
    /// Free text, not safe for a terminal as it is.
    pub comment: Option<String>,
    /// The program that made the torrent; not safe for a terminal as it is.
    pub created_by: Option<String>,
    /// The `source` key that private trackers use; not safe for a terminal as it is.
    pub source: Option<String>,
    /// What is odd about it, a line each, safe for a terminal.
    pub warnings: Vec<String>,
}

/// One entry of the torrent's file list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Path below the torrent's root as it is shown: valid, unique components joined by `/`. For a single-file torrent
    /// the name itself. Empty for padding.
    pub path: Box<[u8]>,
    /// What it is.
    pub kind: EntryKind,
    /// Root of the file's SHA-256 tree (BEP 52), for non-empty files of v2 and hybrid torrents.
    pub pieces_root: Option<[u8; 32]>,
}

/// What an entry is (BEP 47).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A file with bytes of its own.
    File {
        /// Attribute `x`: mode 0555 instead of 0444.
        executable: bool,
    },
    /// Padding: zeros, never shown.
    Padding,
    /// A symlink; its length in the layout is 0.
    Symlink {
        /// Path of the target below the torrent's root, components joined by `/`; it may not exist.
        target: Box<[u8]>,
    },
}
