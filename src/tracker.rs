//! The tracker's side of BitTorrent: who is in which swarm, and announces and scrapes on top of it, over HTTP and UDP.
//!
//! A [`Tracker`] is what is known, in memory; [`serve`] answers with it on [`Sockets`], beside whatever pages somebody
//! else has. What decides over access is asked in memory, too: no announce waits for a disk.

mod access;
mod admission;
mod complaint;
mod crowd;
mod forwarded;
mod http;
pub mod index;
mod listen;
mod lists;
mod pace;
mod state;
mod stats;
mod store;
mod sys;
mod udp;
pub mod web;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use ipnet::IpNet;
use tokio::sync::watch;
use tokio::task::JoinSet;

pub use access::{Access, BETRAYS_A_PASSKEY, Refusal};
pub use admission::{admit_added, admit_known, book_users, keep_access, set_lists};
pub use crowd::Bounds;
pub use http::Requester;
pub use listen::{ListenError, Sockets};
pub use lists::{BadLine, Lists};
pub use state::{StateDir, StateError};
pub use stats::{Requests, Summary};
pub use store::{
    Announce, Counts, Event, Full, MAX_WANTED, Moved, Restored, SnapshotError, Store, StoreConfig, Totals,
};

use crate::base::InfoHash;

/// What a tracker knows and has done.
#[derive(Debug)]
pub struct Tracker {
    /// The swarms.
    pub store: Store,
    /// Who may announce what.
    pub access: Access,
    stats: stats::Stats,
    ids: udp::ConnectionIds,
}

impl Tracker {
    /// One that knows nobody and lets everybody in. So many threads will answer datagrams.
    pub fn new(config: StoreConfig, now: Instant, udp_workers: usize) -> Self {
        Self {
            store: Store::new(config, now),
            access: Access::open(),
            stats: stats::Stats::new(now, udp_workers),
            ids: udp::ConnectionIds::new(now),
        }
    }

    /// What it has done and what it holds.
    pub fn summary(&self, now: Instant) -> Summary {
        self.stats.summary(now, &self.store)
    }

    /// What anybody may know of a torrent: nothing of one that is not listed.
    fn scrape(&self, info_hash: &InfoHash) -> Counts {
        let listed = !self.access.is_listed_only() || self.access.is_listed(info_hash);
        if listed && self.access.judge_lists(info_hash).is_ok() {
            self.store.scrape(info_hash)
        } else {
            Counts::default()
        }
    }
}

/// How a tracker serves.
#[derive(Debug, Clone, Default)]
pub struct ServeConfig {
    /// Pages beside the tracker's own: whatever is no announce, scrape, `/stats.json`, `/metrics` or `/health`. Its
    /// handlers find a [`Requester`] among the extensions, and bound the bodies that they read.
    pub pages: Option<Router>,
    /// Reverse proxies that are believed whom they speak for (`X-Forwarded-For`).
    pub trusted_proxies: Vec<IpNet>,
    /// What one address may have at a time; trusted proxies are not bound.
    pub bounds: Bounds,
}

/// Answers until `shutdown` becomes true or its sender is gone; then what is being answered gets a second.
///
/// Sweeps the store, too. `tracker` was made for as many UDP workers as `sockets` has.
///
/// # Errors
/// When threads or the runtime's registration of a socket are refused by the system.
pub async fn serve(
    sockets: Sockets,
    tracker: Arc<Tracker>,
    config: ServeConfig,
    mut shutdown: watch::Receiver<bool>,
) -> std::io::Result<()> {
    assert!(sockets.udp_workers() <= tracker.stats.udp.len(), "the tracker was made for these sockets");
    let tcp = sockets.tcp.into_iter().map(tokio::net::TcpListener::from_std).collect::<Result<Vec<_>, _>>()?;
    let workers = Workers::start(sockets.udp, &tracker)?;
    let http = Arc::new(http::Http::new(tracker.clone(), config));
    let mut listeners = JoinSet::new();
    for listener in tcp {
        listeners.spawn(http::listen(listener, http.clone(), shutdown.clone()));
    }
    let mut sweep = tokio::time::interval(SWEEP);
    sweep.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        // Cancel-safe: tick and wait_for lose nothing when the other wins.
        tokio::select! {
            () = async { _ = shutdown.wait_for(|&end| end).await } => break,
            _ = sweep.tick() => tracker.store.sweep(Instant::now()),
        }
    }
    // The threads are joined elsewhere than on a worker of the runtime; they end within milliseconds.
    let ended = tokio::task::spawn_blocking(move || workers.stop());
    while listeners.join_next().await.is_some() {}
    let _ = ended.await;
    Ok(())
}

/// The threads that answer datagrams; dropping them ends them as well.
struct Workers {
    stop: Arc<AtomicBool>,
    running: Vec<(socket2::Socket, std::thread::JoinHandle<()>)>,
}

impl Workers {
    fn start(sockets: Vec<std::net::UdpSocket>, tracker: &Arc<Tracker>) -> std::io::Result<Self> {
        let mut workers = Self { stop: Arc::default(), running: Vec::new() };
        for (worker, socket) in sockets.into_iter().enumerate() {
            let waker = socket2::Socket::from(socket.try_clone()?);
            let (tracker, stop) = (tracker.clone(), workers.stop.clone());
            let thread = std::thread::Builder::new()
                .name(format!("udp-{worker}"))
                .spawn(move || udp::work(&socket, worker, &tracker, &stop))?;
            workers.running.push((waker, thread));
        }
        Ok(workers)
    }

    fn stop(mut self) {
        self.wake();
        for (_, thread) in self.running.drain(..) {
            let _ = thread.join();
        }
    }

    fn wake(&self) {
        self.stop.store(true, Ordering::Release);
        for (socket, _) in &self.running {
            // It is not connected, so this is an error; the receiver wakes all the same.
            let _ = socket.shutdown(std::net::Shutdown::Both);
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.wake();
    }
}

/// One shard at a time: all in about a minute.
const SWEEP: Duration = Duration::from_secs(1);
/// What those are told who announce a torrent too many.
const NO_ROOM: &str = "this tracker has no room for another torrent";
