//! What a process is doing, as plain data: the one type behind `btfs status`, its JSON and the live line.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::torrent_status::{TorrentStatus, torrent_status};
use super::{Changes, Seeding, SeedingStatus};
use crate::net::Bounds;
use crate::storage::{CacheUsage, Room};

/// One process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// Version of btfs that runs.
    pub version: String,
    /// Its process id, as whoever asked sees it; 0 when it lives in a pid namespace that is not seen from there.
    pub pid: u32,
    /// `mount` or `seed`.
    pub command: String,
    /// Where it is mounted; bytes that are not UTF-8 are replaced.
    pub mountpoint: Option<String>,
    /// Whether the kernel still has the mount.
    pub mounted: bool,
    /// It shares on, although its mount has ended.
    #[serde(default)]
    pub seeding: Option<SeedingStatus>,
    /// Seconds since it was started.
    pub uptime_seconds: u64,
    /// The port that peers can reach it at.
    pub port: u16,
    /// The one address that it listens and dials with, if it has one.
    #[serde(default)]
    pub bind: Option<IpAddr>,
    /// The directory whose torrent files it mounts.
    #[serde(default)]
    pub watching: Option<String>,
    /// Reads that wait in the mount.
    pub waiting_reads: usize,
    /// What bounds its traffic.
    #[serde(default)]
    pub limits: Limits,
    /// The cache directory that its torrents lie in; none where they lie elsewhere.
    #[serde(default)]
    pub cache: Option<CacheStatus>,
    /// The torrents.
    pub torrents: Vec<TorrentStatus>,
    /// The last warnings, oldest first.
    pub warnings: Vec<Warning>,
    /// Where it logs to.
    pub log: Option<String>,
}

/// Bounds on the traffic of a process: bytes per second of payload, `None` without a bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// To peers, all torrents together.
    pub upload: Option<u64>,
    /// From peers, all torrents together.
    pub download: Option<u64>,
    /// To peers, of each torrent that is yet to come.
    pub torrent_upload: Option<u64>,
    /// From peers, of each torrent that is yet to come.
    pub torrent_download: Option<u64>,
    /// Peers of a torrent that are unchoked at a time; `None`: as many as make the whole faster.
    pub upload_slots: Option<usize>,
}

impl Limits {
    fn of(bounds: Bounds) -> Self {
        Self {
            upload: bounds.all.upload,
            download: bounds.all.download,
            torrent_upload: bounds.each.upload,
            torrent_download: bounds.each.download,
            upload_slots: bounds.upload_slots,
        }
    }
}

/// A cache directory and its bounds, for all processes that use it. In bytes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CacheStatus {
    /// Its path; bytes that are not UTF-8 are replaced.
    pub path: String,
    /// What it takes of the disk.
    pub used_bytes: u64,
    /// What it may take; none: as the disk allows.
    pub size_limit: Option<u64>,
    /// What its disk has free.
    pub free_bytes: u64,
    /// What is kept free of it.
    pub min_free_bytes: u64,
    /// It is at its bounds: `plenty`, `tight` (old pieces go for new ones) or `scarce` (nothing may go: readers alone fetch).
    pub room: String,
}

impl From<CacheUsage> for CacheStatus {
    fn from(usage: CacheUsage) -> Self {
        let room = match usage.room {
            Room::Plenty => "plenty",
            Room::Tight => "tight",
            Room::Scarce => "scarce",
        };
        Self {
            path: usage.path.to_string_lossy().into_owned(),
            used_bytes: usage.used,
            size_limit: usage.size,
            free_bytes: usage.free,
            min_free_bytes: usage.min_free,
            room: room.to_owned(),
        }
    }
}

/// A warning or error that was logged.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Warning {
    /// Seconds since the epoch.
    pub at: u64,
    /// `WARN` or `ERROR`.
    pub level: String,
    /// What was said; safe for a terminal.
    pub text: String,
}

/// Where the figures come from.
pub struct StatusSource {
    /// The torrents, and the mount if there is one.
    pub changes: Arc<Changes>,
    /// The directory whose torrent files are mounted.
    pub watching: Option<PathBuf>,
    /// Where it is mounted.
    pub mountpoint: Option<PathBuf>,
    /// What goes on after the mount.
    pub seeding: Seeding,
    /// `mount` or `seed`.
    pub command: &'static str,
    /// When the process was started.
    pub started: Instant,
    /// Where it logs to.
    pub log: Option<String>,
    /// The last warnings.
    pub warnings: Box<dyn Fn() -> Vec<Warning> + Send + Sync>,
}

impl StatusSource {
    /// The state now, with at most `files` files of each torrent. Blocking: it asks every torrent's task.
    pub fn collect(&self, files: usize) -> Status {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let (session, mount) = (self.changes.session(), self.changes.mount());
        let torrents = session.torrents();
        let cache = torrents.iter().find_map(|torrent| torrent.store().cache_usage());
        let torrents = torrents.iter().map(|torrent| {
            let hash = torrent.metainfo().info_hash;
            let shown = mount.as_ref().zip(hash).and_then(|(mount, hash)| mount.path_of(&hash));
            let rates = hash.and_then(|hash| session.rates_of(&hash)).unwrap_or_default();
            let seeding = hash.and_then(|hash| self.seeding.status_of(&hash));
            TorrentStatus { seeding, ..torrent_status(torrent, shown.map(|path| text(&path)), rates, files) }
        });
        let mountpoint = self.mountpoint.as_deref().map(text);
        let seeding = self.seeding.status(Instant::now(), mountpoint.clone());
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            command: self.command.to_owned(),
            // Another mount may be there by now.
            mountpoint: mountpoint.filter(|_| seeding.is_none()),
            mounted: mount.as_ref().is_some_and(|mount| mount.is_mounted()),
            seeding,
            uptime_seconds: self.started.elapsed().as_secs(),
            port: session.port(),
            bind: session.bind(),
            watching: self.watching.as_deref().map(text),
            waiting_reads: mount.as_ref().map_or(0, |mount| mount.waiting_reads()),
            limits: Limits::of(session.bounds()),
            cache: cache.map(CacheStatus::from),
            torrents: torrents.collect(),
            warnings: (self.warnings)(),
            log: self.log.clone(),
        }
    }
}

impl std::fmt::Debug for StatusSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StatusSource").field("command", &self.command).finish_non_exhaustive()
    }
}
