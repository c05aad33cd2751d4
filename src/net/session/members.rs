//! Torrents that are here already: those that leave, and what others learn.

use std::time::{Duration, Instant};

use super::{Running, Session};
use crate::base::InfoHash;
use crate::engine::Command;

impl Session {
    /// Takes a torrent out: fails its waiting reads, announces `stopped` (3 s at most), closes its connections and its
    /// store. Blocking; false when there is no such torrent. Its slot in the cache is free when all handles are gone.
    pub fn remove(&self, info_hash: &InfoHash) -> bool {
        !self.remove_all(&[*info_hash]).is_empty()
    }

    /// As [`remove`](Self::remove), several at once, which takes no longer than one. Returns those that were here.
    pub fn remove_all(&self, info_hashes: &[InfoHash]) -> Vec<InfoHash> {
        let leaving: Vec<Running> = {
            let mut state = self.state();
            state.torrents.extract_if(.., |running| info_hashes.contains(&running.info_hash)).collect()
        };
        let gone = leaving.iter().map(|running| running.info_hash).collect();
        let stores: Vec<_> = leaving.iter().map(|running| std::sync::Arc::downgrade(running.handle.store())).collect();
        self.end(leaving);
        // Jobs and connections that are just ending hold them a moment longer; an open file holds its own as long as it
        // likes.
        let until = Instant::now() + SLOT_PATIENCE;
        while stores.iter().any(|store| store.strong_count() > 0) && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        gone
    }

    /// Tells a torrent of trackers, tier by tier: those that it does not know are asked beside the others, behind them.
    /// Nothing happens where no trackers are asked at all, nor when there is no such torrent.
    pub fn learn_trackers(&self, info_hash: &InfoHash, tiers: Vec<Vec<String>>) {
        if !self.shared.config.use_trackers {
            return;
        }
        let state = self.state();
        if let Some(running) = state.torrents.iter().find(|running| running.info_hash == *info_hash) {
            running.handle.command(Command::Trackers(tiers));
        }
    }
}

/// How long torrents that were taken out are waited for until their slots are free.
const SLOT_PATIENCE: Duration = Duration::from_millis(500);
