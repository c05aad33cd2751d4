//! Bounds on rates and slots: of all torrents and of single ones, as they are and as they are changed while it runs.

use std::sync::Arc;
use std::time::Instant;

use super::{Bounds, Rates, Running, Session};
use crate::base::InfoHash;
use crate::engine::Command;
use crate::engine::limit::{Allowance, RateLimit};

/// What one torrent may do.
#[derive(Debug, Clone)]
pub(super) struct TorrentLimits {
    pub(super) upload: Allowance,
    pub(super) download: Allowance,
}

/// A change: what is `None` stays as it is, `Some(None)` takes a bound away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NewBounds {
    /// To peers, bytes per second.
    pub upload: Option<Option<u64>>,
    /// From peers, bytes per second.
    pub download: Option<Option<u64>>,
    /// Peers of a torrent that are unchoked at a time.
    pub upload_slots: Option<Option<usize>>,
}

impl Session {
    /// The bounds of all torrents, and those of torrents that are yet to come.
    pub fn bounds(&self) -> Bounds {
        self.state().bounds
    }

    /// The bounds of one torrent.
    pub fn rates_of(&self, torrent: &InfoHash) -> Option<Rates> {
        let state = self.state();
        let running = state.torrents.iter().find(|running| running.info_hash == *torrent)?;
        let bound = |allowance: &Allowance| allowance.own().bytes_per_second();
        Some(Rates { upload: bound(&running.limits.upload), download: bound(&running.limits.download) })
    }

    /// Sets bounds on all torrents together.
    pub fn limit(&self, new: NewBounds) {
        let now = Instant::now();
        let mut state = self.state();
        change(&mut state.bounds.all, new);
        if let Some(slots) = new.upload_slots {
            state.bounds.upload_slots = slots;
        }
        self.shared.upload.set(now, state.bounds.all.upload);
        self.shared.download.set(now, state.bounds.all.download);
        state.torrents.iter().for_each(|running| running.tell(new));
    }

    /// Sets bounds on each torrent, those included that are yet to come.
    pub fn limit_each(&self, new: NewBounds) {
        let mut state = self.state();
        change(&mut state.bounds.each, new);
        state.torrents.iter().for_each(|running| running.limit(new));
    }

    /// Sets bounds on one torrent; false when there is none such.
    pub fn limit_one(&self, torrent: &InfoHash, new: NewBounds) -> bool {
        let state = self.state();
        let running = state.torrents.iter().find(|running| running.info_hash == *torrent);
        running.map(|running| running.limit(new)).is_some()
    }

    pub(super) fn limits(&self) -> TorrentLimits {
        let each = self.state().bounds.each;
        let allowance = |own, all: &Arc<RateLimit>| Allowance::new(Arc::new(RateLimit::new(own)), all.clone());
        TorrentLimits {
            upload: allowance(each.upload, &self.shared.upload),
            download: allowance(each.download, &self.shared.download),
        }
    }

    pub(super) fn upload_slots(&self) -> Option<usize> {
        self.state().bounds.upload_slots
    }
}

impl Running {
    fn limit(&self, new: NewBounds) {
        let now = Instant::now();
        if let Some(upload) = new.upload {
            self.limits.upload.own().set(now, upload);
        }
        if let Some(download) = new.download {
            self.limits.download.own().set(now, download);
        }
        self.tell(new);
    }

    fn tell(&self, new: NewBounds) {
        self.handle.command(Command::NewLimits);
        if let Some(slots) = new.upload_slots {
            self.handle.command(Command::UploadSlots(slots));
        }
    }
}

fn change(rates: &mut Rates, new: NewBounds) {
    rates.upload = new.upload.unwrap_or(rates.upload);
    rates.download = new.download.unwrap_or(rates.download);
}
