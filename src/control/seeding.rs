//! Sharing that outlives the mount: how long it goes on, and for which torrents.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Changes;
use crate::base::InfoHash;
use crate::engine::TorrentSnapshot;

/// When a torrent has been shared enough: at the first of these that it reaches. Without any, never.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Goals {
    /// Bytes sent by bytes that were fetched, or that are here where that is more.
    pub ratio: Option<f64>,
    /// Since the mount has ended.
    pub time: Option<Duration>,
    /// Since the mount has ended or a byte was sent last.
    pub idle: Option<Duration>,
    /// Also when nobody else has all of it.
    pub even_as_last_seed: bool,
}

/// What a torrent has reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reached {
    /// The ratio.
    Ratio,
    /// The time.
    Time,
    /// So long nobody took anything.
    Idle,
}

/// How the sharing of a process stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SeedingStatus {
    /// Since its mount has ended.
    pub seconds: u64,
    /// Where that was.
    pub unmounted_from: Option<String>,
    /// When a torrent was shared enough.
    pub until_ratio: Option<f64>,
    /// As above.
    pub until_seconds: Option<u64>,
    /// As above.
    pub until_idle_seconds: Option<u64>,
    /// Also as the last seed.
    pub even_as_last_seed: bool,
}

/// How the sharing of a torrent stands.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TorrentSeeding {
    /// Bytes sent by bytes that were fetched, or that are here where that is more.
    pub ratio: f64,
    /// Since a byte was sent last.
    pub idle_seconds: u64,
    /// What it has reached; it goes on as the last seed.
    pub reached: Option<Reached>,
    /// As far as is known, nobody else has all of it.
    pub last_seed: bool,
}

/// The sharing of a process.
#[derive(Debug, Default)]
pub struct Seeding {
    /// `None`: it ends with the mount.
    goals: Option<Goals>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The mount has ended.
    since: Option<Instant>,
    torrents: HashMap<InfoHash, Sharing>,
}

#[derive(Debug, Clone, Copy)]
struct Sharing {
    uploaded: u64,
    last_upload: Instant,
    status: TorrentSeeding,
}

impl Seeding {
    /// Goes on until these goals; `None`: sharing ends with the mount.
    pub fn new(goals: Option<Goals>) -> Self {
        Self { goals, state: Mutex::default() }
    }

    /// Whether sharing goes on after the mount.
    pub fn is_wanted(&self) -> bool {
        self.goals.is_some()
    }

    /// The mount has ended: it begins. Idempotent.
    pub fn begin(&self, now: Instant) {
        let mut state = self.state();
        if state.since.is_none() {
            state.since = Some(now);
            tracing::info!("unmounted; sharing goes on");
        }
    }

    /// Whether it has begun.
    pub fn has_begun(&self) -> bool {
        self.state().since.is_some()
    }

    /// Takes out what was shared enough; true as long as anything is left. Blocking.
    pub fn look(&self, now: Instant, changes: &Changes) -> bool {
        let Some(goals) = self.goals else { return false };
        let mut enough = Vec::new();
        for torrent in changes.session().torrents() {
            let (Some(hash), Some(snapshot)) = (torrent.metainfo().info_hash, torrent.snapshot()) else { continue };
            if let Some(reached) = self.judge(now, goals, hash, &snapshot) {
                tracing::info!(torrent = %hash, ?reached, "shared enough");
                enough.push(hash);
            }
        }
        if !enough.is_empty() {
            changes.remove_all(&enough);
        }
        !changes.session().torrents().is_empty()
    }

    /// How it stands; `None` before it has begun.
    pub fn status(&self, now: Instant, unmounted_from: Option<String>) -> Option<SeedingStatus> {
        let (since, goals) = (self.state().since?, self.goals?);
        Some(SeedingStatus {
            seconds: now.saturating_duration_since(since).as_secs(),
            unmounted_from,
            until_ratio: goals.ratio,
            until_seconds: goals.time.map(|time| time.as_secs()),
            until_idle_seconds: goals.idle.map(|idle| idle.as_secs()),
            even_as_last_seed: goals.even_as_last_seed,
        })
    }

    /// How it stands with a torrent, as of the last look.
    pub fn status_of(&self, torrent: &InfoHash) -> Option<TorrentSeeding> {
        self.state().torrents.get(torrent).map(|sharing| sharing.status)
    }

    /// Why a torrent is to go, if it is.
    fn judge(&self, now: Instant, goals: Goals, hash: InfoHash, snapshot: &TorrentSnapshot) -> Option<Reached> {
        let mut state = self.state();
        let since = state.since?;
        let uploaded = snapshot.uploaded_bytes;
        let before = state.torrents.get(&hash).map_or((uploaded, since), |s| (s.uploaded, s.last_upload));
        let last_upload = if before.0 == uploaded { before.1 } else { now };
        let ratio = ratio(snapshot);
        let (shared_for, idle) = (now.saturating_duration_since(since), now.saturating_duration_since(last_upload));
        let reached = match goals {
            Goals { ratio: Some(goal), .. } if ratio >= goal => Some(Reached::Ratio),
            Goals { time: Some(goal), .. } if shared_for >= goal => Some(Reached::Time),
            Goals { idle: Some(goal), .. } if idle >= goal => Some(Reached::Idle),
            _ => None,
        };
        let last_seed = is_last_seed(snapshot);
        let status = TorrentSeeding { ratio, idle_seconds: idle.as_secs(), reached, last_seed };
        state.torrents.insert(hash, Sharing { uploaded, last_upload, status });
        reached.filter(|_| goals.even_as_last_seed || !last_seed)
    }

    /// Whole after any panic: single inserts.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes sent by bytes that were fetched, or that are here where that is more: little was fetched of what lay in the cache.
fn ratio(snapshot: &TorrentSnapshot) -> f64 {
    snapshot.uploaded_bytes as f64 / snapshot.downloaded_bytes.max(snapshot.have_bytes).max(1) as f64
}

/// Whether we have everything and nobody else does, as far as is known: by those who are connected and by the trackers,
/// who count us. Where neither knows of anybody it is nobody's loss.
fn is_last_seed(snapshot: &TorrentSnapshot) -> bool {
    if snapshot.left_bytes > 0 {
        return false;
    }
    let pieces = snapshot.have.len();
    if snapshot.peers.iter().any(|peer| peer.pieces == pieces) {
        return false;
    }
    let told = snapshot.trackers.iter().filter(|tracker| tracker.working).filter_map(|tracker| tracker.seeds);
    match told.max() {
        Some(seeds) => seeds <= 1,
        None => !snapshot.peers.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Bitfield, PeerId};
    use crate::engine::{PeerSnapshot, Source, TrackerSnapshot};

    const PIECES: usize = 4;

    fn peer(pieces: usize) -> PeerSnapshot {
        PeerSnapshot {
            addr: "127.0.0.1:1".parse().unwrap(),
            peer_id: PeerId([1; 20]),
            client: String::new(),
            outgoing: true,
            source: Source::Tracker,
            pieces,
            am_choking: true,
            am_interested: false,
            peer_choking: true,
            peer_interested: true,
            snubbed: false,
            requests_out: 0,
            download_rate: 0,
            upload_rate: 0,
            downloaded_bytes: 0,
            uploaded_bytes: 0,
            rtt: None,
            connected_for: Duration::ZERO,
        }
    }

    fn tracker(working: bool, seeds: Option<u32>) -> TrackerSnapshot {
        TrackerSnapshot {
            url: String::new(),
            tier: 0,
            working,
            announcing: false,
            message: None,
            seeds,
            leechers: None,
            completed: None,
            next_announce: None,
        }
    }

    fn snapshot(uploaded: u64, downloaded: u64) -> TorrentSnapshot {
        TorrentSnapshot {
            have: Bitfield::full(PIECES),
            have_bytes: 1000,
            unchecked_pieces: 0,
            left_bytes: 0,
            downloaded_bytes: downloaded,
            uploaded_bytes: uploaded,
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

    #[test]
    fn it_goes_on_until_the_first_goal() {
        let (start, minute) = (Instant::now(), Duration::from_secs(60));
        let hash = InfoHash([1; 20]);
        let goals = |ratio, time: Option<u32>, idle: Option<u32>| Goals {
            ratio,
            time: time.map(|minutes| minutes * minute),
            idle: idle.map(|minutes| minutes * minute),
            even_as_last_seed: false,
        };
        for (goals, looks) in [
            (goals(None, None, None), &[(0, 0, None), (99_999, 5_000_000, None)][..]),
            (goals(Some(1.5), None, None), &[(1, 1499, None), (2, 1500, Some(Reached::Ratio))]),
            (goals(Some(9.0), Some(3), None), &[(2, 5000, None), (3, 5000, Some(Reached::Time))]),
            // Who takes something now and then keeps it from being idle.
            (goals(None, None, Some(2)), &[(1, 0, None), (2, 10, None), (3, 10, None), (4, 10, Some(Reached::Idle))]),
            (goals(None, Some(9), Some(2)), &[(2, 0, Some(Reached::Idle))]),
        ] {
            let seeding = Seeding::new(Some(goals));
            assert_eq!(seeding.judge(start, goals, hash, &snapshot(1 << 40, 1)), None, "not before the mount ends");
            seeding.begin(start);
            seeding.begin(start + minute);
            for &(minutes, uploaded, verdict) in looks {
                let judged = seeding.judge(start + minutes * minute, goals, hash, &snapshot(uploaded, 0));
                assert_eq!(judged, verdict, "{goals:?} after {minutes} min, {uploaded} sent");
            }
        }
    }

    #[test]
    fn what_is_here_counts_where_little_was_fetched() {
        let of = |uploaded, downloaded| ratio(&snapshot(uploaded, downloaded));
        assert_eq!((of(500, 0), of(500, 10), of(500, 2000)), (0.5, 0.5, 0.25));
    }

    #[test]
    fn the_last_seed_stays() {
        let snapshot = |left, peers: &[usize], trackers: Vec<TrackerSnapshot>| TorrentSnapshot {
            left_bytes: left,
            peers: peers.iter().map(|&pieces| peer(pieces)).collect(),
            trackers,
            ..snapshot(0, 0)
        };
        for (last, snapshot) in [
            (false, snapshot(0, &[], vec![])),
            (true, snapshot(0, &[1, 3], vec![])),
            (false, snapshot(0, &[1, 4], vec![])),
            (false, snapshot(5, &[1], vec![])),
            (true, snapshot(0, &[], vec![tracker(true, Some(1))])),
            (false, snapshot(0, &[3], vec![tracker(true, Some(1)), tracker(true, Some(2))])),
            (true, snapshot(0, &[3], vec![tracker(false, Some(2)), tracker(true, None)])),
        ] {
            assert_eq!(is_last_seed(&snapshot), last, "{snapshot:?}");
            let goals = Goals { time: Some(Duration::ZERO), ..Goals::default() };
            let seeding = Seeding::new(Some(goals));
            let now = Instant::now();
            seeding.begin(now);
            let judged = |goals| seeding.judge(now, goals, InfoHash([2; 20]), &snapshot);
            assert_eq!(judged(goals), (!last).then_some(Reached::Time));
            assert_eq!(judged(Goals { even_as_last_seed: true, ..goals }), Some(Reached::Time));
        }
    }
}
