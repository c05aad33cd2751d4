//! Extended attributes: `user.btfs.*`, computed from memory whenever somebody asks.

use crate::base::{FileIndex, Layout};
use crate::net::TorrentHandle;
use crate::storage::PieceState;

/// What an attribute is asked of.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Subject<'a> {
    /// A file of a torrent.
    File(&'a TorrentHandle, FileIndex),
    /// A directory of a torrent: figures are those of the whole torrent.
    Directory(&'a TorrentHandle),
    /// A symlink, or the root of the mount: without attributes.
    Bare,
}

/// The names that a subject has, each ended by a zero byte, as `listxattr(2)` wants them.
pub(crate) fn list(subject: Subject<'_>) -> Vec<u8> {
    let names: &[&str] = match subject {
        Subject::File(..) => &[INFO_HASH, PROGRESS, CACHED, STATUS, PIECE_LENGTH, FILE_INDEX],
        Subject::Directory(_) => &[INFO_HASH, PROGRESS, CACHED, STATUS, PIECE_LENGTH],
        Subject::Bare => &[],
    };
    names.iter().flat_map(|name| name.bytes().chain([0])).collect()
}

/// The value of an attribute; `None` when there is none of this name. `waiting`: reads of the mount that wait.
pub(crate) fn value(subject: Subject<'_>, name: &[u8], waiting: usize) -> Option<String> {
    let (torrent, file) = match subject {
        Subject::File(torrent, file) => (torrent, Some(file)),
        Subject::Directory(torrent) => (torrent, None),
        Subject::Bare => return None,
    };
    match std::str::from_utf8(name).ok()? {
        INFO_HASH => {
            let metainfo = torrent.metainfo();
            let v1 = metainfo.info_hash.map(|hash| hash.to_string());
            v1.or_else(|| metainfo.info_hash_v2.map(|hash| hash.to_string()))
        }
        PROGRESS => Some(Progress::of(torrent, file).percent()),
        CACHED => Some(Progress::of(torrent, file).present_bytes.to_string()),
        STATUS => Some(Progress::of(torrent, file).describe(waiting)),
        PIECE_LENGTH => Some(torrent.store().layout().piece_length().to_string()),
        FILE_INDEX => file.map(|file| file.to_string()),
        _ => None,
    }
}

/// How much of a file or torrent is readable at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Progress {
    pieces: usize,
    present_pieces: usize,
    bytes: u64,
    present_bytes: u64,
}

impl Progress {
    fn of(torrent: &TorrentHandle, file: Option<FileIndex>) -> Self {
        let store = torrent.store();
        let layout: &Layout = store.layout();
        let (start, bytes) = match file {
            Some(file) => (layout.file_start(file), layout.file_bytes(file)),
            None => (0, layout.total_bytes()),
        };
        let pieces = layout.pieces_at(start, bytes);
        let mut progress = Self { pieces: pieces.len(), present_pieces: 0, bytes, present_bytes: 0 };
        for piece in pieces.iter().filter(|&piece| store.table().state(piece) == PieceState::Present) {
            let from = layout.piece_start(piece).max(start);
            let to = (layout.piece_start(piece) + u64::from(layout.piece_bytes(piece))).min(start + bytes);
            progress.present_pieces += 1;
            progress.present_bytes += to - from;
        }
        progress
    }

    /// Per cent of the bytes with one digit, cut, so that 100.0 means all of them.
    fn percent(self) -> String {
        let thousandths = (u128::from(self.present_bytes) * 1000).checked_div(u128::from(self.bytes)).unwrap_or(1000);
        format!("{}.{}", thousandths / 10, thousandths % 10)
    }

    /// One line of JSON.
    fn describe(self, waiting: usize) -> String {
        let state = match self.present_bytes {
            present if present == self.bytes => "complete",
            0 => "empty",
            _ => "partial",
        };
        format!(
            "{{\"state\":\"{state}\",\"bytes\":{},\"present_bytes\":{},\"pieces\":{},\"present_pieces\":{},\
             \"waiting_reads\":{waiting}}}",
            self.bytes, self.present_bytes, self.pieces, self.present_pieces
        )
    }
}

const INFO_HASH: &str = "user.btfs.info_hash";
const PROGRESS: &str = "user.btfs.progress";
const CACHED: &str = "user.btfs.cached";
const STATUS: &str = "user.btfs.status";
const PIECE_LENGTH: &str = "user.btfs.piece_length";
const FILE_INDEX: &str = "user.btfs.file_index";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_reaches_a_hundred_only_when_complete() {
        let progress = |present_bytes, bytes| Progress { pieces: 2, present_pieces: 1, bytes, present_bytes };
        for (present, bytes, percent) in [
            (0, 10, "0.0"),
            (1, 3, "33.3"),
            (99_999, 100_000, "99.9"),
            (7, 7, "100.0"),
            (0, 0, "100.0"),
            (u64::MAX / 2, u64::MAX / 2, "100.0"),
        ] {
            assert_eq!(progress(present, bytes).percent(), percent, "{present} of {bytes}");
        }
        assert_eq!(
            progress(1, 3).describe(4),
            r#"{"state":"partial","bytes":3,"present_bytes":1,"pieces":2,"present_pieces":1,"waiting_reads":4}"#
        );
    }
}
