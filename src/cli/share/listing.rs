//! What others find of what is shared: its place in the index, and that the tracker lets its peers in.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context;
use bytes::Bytes;

use crate::base::InfoHash;
use crate::tracker::Tracker;
use crate::tracker::index::{Index, TorrentName};

/// The index and the tracker, as far as what is shared stands in them.
pub(super) struct Listing {
    index: Index,
    tracker: Arc<Tracker>,
    /// Is not shared any more, and still in the index, which could not be written then.
    leftovers: BTreeSet<InfoHash>,
}

impl Listing {
    pub(super) fn new(index: Index, tracker: Arc<Tracker>) -> Self {
        Self { index, tracker, leftovers: BTreeSet::new() }
    }

    /// Lists a torrent, whose file this is.
    pub(super) fn add(&mut self, hash: InfoHash, file: Bytes) -> anyhow::Result<()> {
        self.index.add(file, None, SystemTime::now()).context("the index")?;
        self.tracker.access.list(hash);
        self.leftovers.remove(&hash);
        Ok(())
    }

    /// Lists it no more. Peers are told so at once; where the index cannot be written, [`tidy`](Self::tidy) goes on.
    pub(super) fn take_off(&mut self, hash: InfoHash) -> anyhow::Result<()> {
        self.tracker.access.unlist(&hash);
        self.leftovers.insert(hash);
        self.tidy()
    }

    /// Takes what could not be removed out of the index.
    pub(super) fn tidy(&mut self) -> anyhow::Result<()> {
        while let Some(&hash) = self.leftovers.first() {
            self.index.remove(&TorrentName::Short(hash)).context("the index")?;
            self.leftovers.remove(&hash);
        }
        Ok(())
    }

    /// Takes out what the index has of an earlier life.
    pub(super) fn keep_only(&self, shared: &[InfoHash]) -> anyhow::Result<()> {
        for hash in self.index.announced() {
            if !shared.contains(&hash) {
                self.index.remove(&TorrentName::Short(hash)).context("the index")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::proto::metainfo::{NewEntry, NewTorrent};
    use crate::tracker::StoreConfig;

    #[test]
    fn what_a_failing_index_keeps_is_taken_off_once_it_can_be() {
        let room = tempfile::tempdir().unwrap();
        let (here, away) = (room.path().join("state"), room.path().join("away"));
        std::fs::create_dir(&here).unwrap();
        let index = Index::open(&here.join("index.sqlite")).unwrap();
        let tracker = Arc::new(Tracker::new(StoreConfig::default(), Instant::now(), 1));
        let mut listing = Listing::new(index.clone(), tracker);
        let [first, second] = ["first", "second"].map(torrent);
        for (hash, file) in [&first, &second] {
            listing.add(*hash, file.clone()).unwrap();
        }

        // A disk that goes away, and comes back.
        std::fs::rename(&here, &away).unwrap();
        listing.take_off(first.0).unwrap_err();
        listing.take_off(second.0).unwrap_err();
        listing.tidy().unwrap_err();
        assert!(index.is_listed(&first.0) && index.is_listed(&second.0));
        std::fs::rename(&away, &here).unwrap();
        // What is shared again stays.
        listing.add(second.0, second.1).unwrap();
        listing.tidy().unwrap();
        assert!(!index.is_listed(&first.0) && index.is_listed(&second.0));
    }

    fn torrent(name: &str) -> (InfoHash, Bytes) {
        let entry = NewEntry { path: vec![name.into()], length: 1, executable: false, target: None };
        let torrent = NewTorrent {
            name: name.into(),
            single_file: true,
            entries: vec![entry],
            piece_length: 1 << 14,
            pieces: vec![7; 20],
            ..NewTorrent::default()
        };
        let (bytes, metainfo) = torrent.write().unwrap();
        (metainfo.info_hash.unwrap(), bytes.into())
    }
}
