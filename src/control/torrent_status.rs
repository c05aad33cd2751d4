//! What one torrent of a process is doing.

use serde::{Deserialize, Serialize};

use super::TorrentSeeding;
use crate::base::{Bitfield, Layout, PieceRange};
use crate::engine::{PeerSnapshot, ReadSnapshot, TorrentSnapshot, TrackerSnapshot};
use crate::net::{Rates, TorrentHandle};
use crate::proto::metainfo::{EntryKind, Metainfo};

/// One torrent. Rates are bytes per second.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TorrentStatus {
    /// Its name.
    pub name: String,
    /// Where it is shown, from the root of the mount on.
    #[serde(default)]
    pub path: Option<String>,
    /// Its v1 info-hash.
    pub info_hash: String,
    /// Found by its trackers only (BEP 27).
    pub private: bool,
    /// False: its task did not answer in time, and what only the task knows is told as zero.
    pub responding: bool,
    /// Bytes of its content.
    pub total_bytes: u64,
    /// Bytes of a piece.
    pub piece_bytes: u32,
    /// Number of pieces.
    pub pieces: usize,
    /// Pieces that can be read at once.
    pub have_pieces: usize,
    /// Pieces that lie on disk and are checked before their first use.
    pub unchecked_pieces: usize,
    /// Bytes that can be read at once.
    pub have_bytes: u64,
    /// Bytes missing until it is complete.
    pub left_bytes: u64,
    /// 0 to 1.
    pub progress: f64,
    /// From peers, lately.
    pub download_rate: u64,
    /// To peers, lately.
    pub upload_rate: u64,
    /// From peers, at most; none without a bound of its own.
    #[serde(default)]
    pub download_limit: Option<u64>,
    /// To peers, at most; none without a bound of its own.
    #[serde(default)]
    pub upload_limit: Option<u64>,
    /// From peers, in this life of the process.
    pub downloaded_bytes: u64,
    /// To peers, in this life of the process.
    pub uploaded_bytes: u64,
    /// From peers in vain: duplicates, unasked blocks, corrupt pieces.
    pub wasted_bytes: u64,
    /// Uploaded by downloaded; none without a download.
    pub ratio: Option<f64>,
    /// Pieces whose hash did not match.
    pub corrupt_pieces: u64,
    /// Pieces found damaged on disk and fetched again.
    pub repaired_pieces: u64,
    /// Pieces hashed since the start.
    pub hashed_pieces: u64,
    /// The last disk error, as long as the disk fails.
    pub disk_error: Option<String>,
    /// Pieces that can be read and are in memory alone, as the disk takes nothing.
    #[serde(default)]
    pub memory_pieces: usize,
    /// What those, and what is being fetched, take of memory.
    #[serde(default)]
    pub memory_bytes: u64,
    /// Its place in the cache.
    pub cache: String,
    /// What it takes there.
    pub cache_bytes: u64,
    /// Peers known but not connected.
    pub candidates: usize,
    /// Peers banned now.
    pub banned: usize,
    /// How its sharing after the mount stands.
    #[serde(default)]
    pub seeding: Option<TorrentSeeding>,
    /// Connected peers.
    pub peers: Vec<PeerStatus>,
    /// Its trackers.
    pub trackers: Vec<TrackerStatus>,
    /// Reads that wait, oldest first.
    pub reads: Vec<ReadStatus>,
    /// Number of files, padding not counted.
    pub files_total: usize,
    /// The first files, as many as were asked for.
    pub files: Vec<FileStatus>,
}

/// One file of a torrent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FileStatus {
    /// Its path below the torrent's name; not safe for a terminal as it is.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// What of it can be read at once.
    pub have_bytes: u64,
}

/// One connected peer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its address.
    pub addr: String,
    /// Its client's name, as it says.
    pub client: String,
    /// Whether we dialled.
    pub outgoing: bool,
    /// Where its address came from.
    pub source: String,
    /// How much it has, 0 to 1.
    pub progress: f64,
    /// What it does, for people.
    pub doing: String,
    /// We choke it.
    pub am_choking: bool,
    /// We want something from it.
    pub am_interested: bool,
    /// It chokes us.
    pub peer_choking: bool,
    /// It wants something from us.
    pub peer_interested: bool,
    /// It owes us blocks and does not send.
    pub snubbed: bool,
    /// Blocks asked and not yet arrived.
    pub requests_out: usize,
    /// From it, lately.
    pub download_rate: u64,
    /// To it, lately.
    pub upload_rate: u64,
    /// From it.
    pub downloaded_bytes: u64,
    /// To it.
    pub uploaded_bytes: u64,
    /// Smallest time from request to block, lately.
    pub rtt_ms: Option<u64>,
    /// How long it is connected.
    pub connected_seconds: u64,
}

/// One tracker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TrackerStatus {
    /// Its URL.
    pub url: String,
    /// Its tier, from 0.
    pub tier: usize,
    /// Its last answer was good.
    pub working: bool,
    /// It is being asked.
    pub announcing: bool,
    /// Its last error or warning.
    pub message: Option<String>,
    /// Seeds it knows of.
    pub seeds: Option<u32>,
    /// Leechers it knows of.
    pub leechers: Option<u32>,
    /// Complete downloads that it has counted.
    pub completed: Option<u32>,
    /// Time until it is asked again.
    pub next_announce_seconds: Option<u64>,
}

/// One read that waits.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReadStatus {
    /// The file that its first missing piece begins in.
    pub file: String,
    /// First missing piece.
    pub first_piece: u32,
    /// How many from there to the last one missing.
    pub pieces: usize,
    /// How long it waits.
    pub waiting_seconds: f64,
    /// What it waits for, for people.
    pub waiting_for: String,
}

/// The state of one torrent that is shown at `path` and bounded by `rates`, with at most `files` files. Blocking.
pub(super) fn torrent_status(
    torrent: &TorrentHandle,
    path: Option<String>,
    rates: Rates,
    files: usize,
) -> TorrentStatus {
    let metainfo = torrent.metainfo();
    let layout = &metainfo.layout;
    let snapshot = torrent.snapshot();
    let responding = snapshot.is_some();
    let snapshot = snapshot.unwrap_or_else(|| silent(layout));
    let store = torrent.store().status();
    let total = layout.total_bytes();
    let have_bytes = bytes_of(&snapshot.have, layout, 0, total);
    TorrentStatus {
        name: text(&metainfo.name),
        path,
        info_hash: metainfo.info_hash.map(|hash| hash.to_string()).unwrap_or_default(),
        private: metainfo.private,
        responding,
        total_bytes: total,
        piece_bytes: layout.piece_length(),
        pieces: layout.piece_count(),
        have_pieces: snapshot.have.count(),
        unchecked_pieces: snapshot.unchecked_pieces,
        have_bytes,
        left_bytes: snapshot.left_bytes,
        progress: fraction(have_bytes, total),
        download_rate: snapshot.download_rate,
        upload_rate: snapshot.upload_rate,
        download_limit: rates.download,
        upload_limit: rates.upload,
        downloaded_bytes: snapshot.downloaded_bytes,
        uploaded_bytes: snapshot.uploaded_bytes,
        wasted_bytes: snapshot.wasted_bytes,
        ratio: (snapshot.downloaded_bytes > 0)
            .then(|| snapshot.uploaded_bytes as f64 / snapshot.downloaded_bytes as f64),
        corrupt_pieces: snapshot.corrupt_pieces,
        repaired_pieces: snapshot.repaired_pieces,
        hashed_pieces: store.hashed_pieces,
        disk_error: store.trouble.or(snapshot.disk_error),
        memory_pieces: store.memory_pieces,
        memory_bytes: store.memory_bytes,
        cache: store.path.to_string_lossy().into_owned(),
        cache_bytes: store.allocated_bytes,
        candidates: snapshot.candidates,
        banned: snapshot.banned,
        seeding: None,
        peers: snapshot.peers.iter().map(|peer| peer_status(peer, layout)).collect(),
        trackers: snapshot.trackers.iter().map(tracker_status).collect(),
        reads: snapshot.reads.iter().map(|read| read_status(read, metainfo)).collect(),
        files_total: metainfo.entries.iter().filter(|entry| is_file(&entry.kind)).count(),
        files: file_statuses(metainfo, &snapshot.have, files),
    }
}

fn file_statuses(metainfo: &Metainfo, have: &Bitfield, files: usize) -> Vec<FileStatus> {
    let layout = &metainfo.layout;
    let listed = layout.files().zip(&metainfo.entries).filter(|(_, entry)| is_file(&entry.kind)).take(files);
    listed
        .map(|(file, entry)| {
            let (start, bytes) = (layout.file_start(file), layout.file_bytes(file));
            let have_bytes = bytes_of(have, layout, start, start + bytes);
            FileStatus { path: text(&entry.path), bytes, have_bytes }
        })
        .collect()
}

/// Present bytes of the content in `[start, end)`.
fn bytes_of(have: &Bitfield, layout: &Layout, start: u64, end: u64) -> u64 {
    let pieces = layout.pieces_at(start, end - start);
    let held = pieces.iter().filter(|&piece| have.has(piece)).map(|piece| {
        let from = layout.piece_start(piece);
        let to = from + u64::from(layout.piece_bytes(piece));
        to.min(end) - from.max(start)
    });
    held.sum()
}

fn peer_status(peer: &PeerSnapshot, layout: &Layout) -> PeerStatus {
    PeerStatus {
        addr: peer.addr.to_string(),
        client: peer.client.clone(),
        outgoing: peer.outgoing,
        source: format!("{:?}", peer.source).to_lowercase(),
        progress: fraction(peer.pieces as u64, layout.piece_count() as u64),
        doing: doing(peer),
        am_choking: peer.am_choking,
        am_interested: peer.am_interested,
        peer_choking: peer.peer_choking,
        peer_interested: peer.peer_interested,
        snubbed: peer.snubbed,
        requests_out: peer.requests_out,
        download_rate: peer.download_rate,
        upload_rate: peer.upload_rate,
        downloaded_bytes: peer.downloaded_bytes,
        uploaded_bytes: peer.uploaded_bytes,
        rtt_ms: peer.rtt.map(|rtt| rtt.as_millis() as u64),
        connected_seconds: peer.connected_for.as_secs(),
    }
}

/// Both directions in a few words.
fn doing(peer: &PeerSnapshot) -> String {
    let towards_us = match () {
        () if peer.snubbed => "owes us blocks",
        () if peer.requests_out > 0 => "sends to us",
        () if peer.am_interested && peer.peer_choking => "chokes us",
        () if peer.am_interested => "ready for us",
        () => "",
    };
    let from_us = match () {
        () if peer.peer_interested && peer.am_choking => "waits for a slot",
        () if peer.peer_interested && peer.upload_rate > 0 => "takes from us",
        () if peer.peer_interested => "may take from us",
        () => "",
    };
    match (towards_us, from_us) {
        ("", "") => "idle".to_owned(),
        ("", one) | (one, "") => one.to_owned(),
        (one, other) => format!("{one}, {other}"),
    }
}

fn tracker_status(tracker: &TrackerSnapshot) -> TrackerStatus {
    TrackerStatus {
        url: tracker.url.clone(),
        tier: tracker.tier,
        working: tracker.working,
        announcing: tracker.announcing,
        message: tracker.message.clone(),
        seeds: tracker.seeds,
        leechers: tracker.leechers,
        completed: tracker.completed,
        next_announce_seconds: tracker.next_announce.map(|next| next.as_secs()),
    }
}

fn read_status(read: &ReadSnapshot, metainfo: &Metainfo) -> ReadStatus {
    ReadStatus {
        file: file_at(metainfo, read.missing),
        first_piece: read.missing.first().map_or(0, |piece| piece.raw()),
        pieces: read.missing.len(),
        waiting_seconds: read.waiting_for.as_secs_f64(),
        waiting_for: match (read.sources, read.unchoked_sources) {
            (0, _) => "no connected peer has it".to_owned(),
            (1, 0) => "1 peer has it, but chokes us".to_owned(),
            (all, 0) => format!("{all} peers have it, but all choke us"),
            (_, 1) => "1 peer has it and may send it".to_owned(),
            (_, ready) => format!("{ready} peers have it and may send it"),
        },
    }
}

/// The path of the file, not padding, that the first of `pieces` begins in.
fn file_at(metainfo: &Metainfo, pieces: PieceRange) -> String {
    let layout = &metainfo.layout;
    let Some(first) = pieces.first() else { return String::new() };
    let mut spans = layout.spans(layout.piece_start(first), u64::from(layout.piece_bytes(first)));
    let file = spans.find(|span| !span.padding).map(|span| span.file);
    file.and_then(|file| metainfo.entries.get(file.at())).map(|entry| text(&entry.path)).unwrap_or_default()
}

fn is_file(kind: &EntryKind) -> bool {
    matches!(kind, EntryKind::File { .. })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn fraction(part: u64, whole: u64) -> f64 {
    if whole == 0 { 1.0 } else { part as f64 / whole as f64 }
}

/// What is told of a torrent whose task does not answer.
fn silent(layout: &Layout) -> TorrentSnapshot {
    TorrentSnapshot {
        have: Bitfield::new(layout.piece_count()),
        have_bytes: 0,
        unchecked_pieces: 0,
        left_bytes: layout.total_bytes(),
        downloaded_bytes: 0,
        uploaded_bytes: 0,
        wasted_bytes: 0,
        download_rate: 0,
        upload_rate: 0,
        corrupt_pieces: 0,
        repaired_pieces: 0,
        disk_error: None,
        peers: Vec::new(),
        candidates: 0,
        banned: 0,
        trackers: Vec::new(),
        reads: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::FileSpec;

    #[test]
    fn bytes_of_a_file_are_counted_in_its_own_part_of_a_piece() {
        let spec = |length| FileSpec { length, padding: false };
        let layout = Layout::new(10, &[spec(7), spec(12), spec(1)]).unwrap();
        let mut have = Bitfield::new(2);
        have.set(layout.piece(0).unwrap());
        assert_eq!([(0, 7), (7, 19), (19, 20)].map(|(from, to)| bytes_of(&have, &layout, from, to)), [7, 3, 0]);
        have.set(layout.piece(1).unwrap());
        assert_eq!(bytes_of(&have, &layout, 0, 20), 20);
    }
}
