//! The metainfo file: what a torrent is (BEP 3, 12, 19, 27, 47, 52).
//!
//! Parsing validates everything once; a [`Metainfo`] needs no further check. It opens no file. What is refused and what
//! is taken with a warning follows rules that have numbers, `P1` to `P20`: `docs/beps.md` lists them, errors name them.

mod create;
mod edit;
mod info;
mod notes;
mod outer;
mod v1;
mod v2;

use std::sync::Arc;

use bytes::Bytes;

pub use create::{NewEntry, NewTorrent, piece_length_for};
pub use edit::{Beside, Change, EditError, Edited, edit};

use super::bencode::{self, BencodeError, BencodeErrorKind};
use crate::base::{InfoHash, InfoHashV2, Layout};
use notes::Notes;

/// A longer `.torrent` is refused unread.
pub const MAX_TORRENT_BYTES: usize = 64 * 1024 * 1024;

/// Most components of a path.
pub const MAX_PATH_COMPONENTS: usize = 100;

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

impl Metainfo {
    /// Reads a `.torrent` file.
    ///
    /// Memory stays below three times the length of `file` plus 64 MiB, time linear but for the sorting of names.
    ///
    /// # Errors
    /// [`MetainfoError`] when it describes no torrent, or not one torrent only.
    pub fn parse(file: &[u8]) -> Result<Self, MetainfoError> {
        if file.len() > MAX_TORRENT_BYTES {
            return Err(refuse("P5", "larger than 64 MiB"));
        }
        let scanned = bencode::scan(file)?;
        let root = scanned.root.as_dict().ok_or_else(|| refuse("P1", "not a bencoded dictionary"))?;
        let mut notes = Notes::default();
        if scanned.trailing > 0 {
            notes.add("data after the end of the torrent is ignored", || format!("{} bytes", scanned.trailing));
        }
        let info = match root.get("info") {
            Some(info) => info.as_dict().ok_or_else(|| refuse("BEP 3", "info is not a dictionary"))?,
            None if scanned.trailing > 0 => return Err(refuse("P1", "the dictionary ends before its info key")),
            None => return Err(refuse("BEP 3", "there is no info dictionary")),
        };
        let info = info.as_value().raw();
        let unsorted = scanned.unsorted && bencode::scan(info)?.unsorted;
        if scanned.unsorted {
            notes.add("dictionary keys are out of order", String::new);
        }
        let mut metainfo = info::read(Bytes::copy_from_slice(info), unsorted, &mut notes)?;
        if metainfo.info_hash_v2.is_some() {
            v2::check_layers(&metainfo, root.get("piece layers"))?;
        }
        outer::read(root, &mut metainfo, &mut notes);
        metainfo.warnings = notes.into_lines();
        Ok(metainfo)
    }

    /// Reads a bare info dictionary, as peers send it (BEP 9): no trackers, no piece layers.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub fn from_info(info: Bytes) -> Result<Self, MetainfoError> {
        if info.len() > MAX_TORRENT_BYTES {
            return Err(refuse("P5", "larger than 64 MiB"));
        }
        let bencode::Scanned { trailing, unsorted, .. } = bencode::scan(&info)?;
        if trailing > 0 {
            return Err(refuse("P1", "data after the end of the info dictionary"));
        }
        let mut notes = Notes::default();
        if unsorted {
            notes.add("dictionary keys are out of order", String::new);
        }
        let mut metainfo = info::read(info, unsorted, &mut notes)?;
        metainfo.warnings = notes.into_lines();
        Ok(metainfo)
    }

    /// Whether the torrent has no v1 part.
    pub fn is_v2_only(&self) -> bool {
        self.info_hash.is_none()
    }
}

/// Why a file is not a usable torrent, in one line that is safe for a terminal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason} ({rule})")]
pub struct MetainfoError {
    /// The rule that is broken: `P1` to `P20`, or a BEP.
    pub rule: &'static str,
    /// What is wrong.
    pub reason: String,
}

impl From<BencodeError> for MetainfoError {
    fn from(error: BencodeError) -> Self {
        let rule = match error.kind {
            BencodeErrorKind::Truncated | BencodeErrorKind::NotAValue => "P1",
            BencodeErrorKind::Integer | BencodeErrorKind::StringLength => "P3",
            BencodeErrorKind::KeyType | BencodeErrorKind::KeyWithoutValue | BencodeErrorKind::DuplicateKey => "P4",
            BencodeErrorKind::StringClaim | BencodeErrorKind::TooDeep | BencodeErrorKind::TooManyTokens => "P5",
        };
        Self { rule, reason: error.to_string() }
    }
}

/// An error that names a rule.
fn refuse(rule: &'static str, reason: impl Into<String>) -> MetainfoError {
    MetainfoError { rule, reason: reason.into() }
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
    pub pieces_root: Option<Box<[u8; 32]>>,
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

#[cfg(test)]
mod tests;
