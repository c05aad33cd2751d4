//! `--watch`: the thread that looks at a directory, and what a mount does with what it finds.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use super::process::explain;
use super::stop::Sharers;
use crate::base::InfoHash;
use crate::control::{Changes, Shelf, Watch};
use crate::net::{AddTorrent, SessionError};
use crate::proto::metainfo::Metainfo;

/// A directory is watched until this is dropped.
pub(crate) struct Watching {
    /// Nothing is ever sent.
    _alive: Sender<()>,
}

impl Watching {
    /// Looks at it from now on.
    pub(crate) fn start(mut watch: Watch, changes: Arc<Changes>) -> std::io::Result<Self> {
        Self::repeat(PERIOD, REST, move || watch.look(Instant::now(), &InMount::new(&changes)))
    }

    /// Calls `look` after `first`, then every second; it says how long listing the directory took. Where that takes long,
    /// on a network or of very many files, it rests so many times as long: what came of a look is done once, and does not
    /// keep the next file waiting.
    pub(crate) fn repeat(
        first: Duration,
        rest: u32,
        mut look: impl FnMut() -> Duration + Send + 'static,
    ) -> std::io::Result<Self> {
        let (alive, ended) = channel::<()>();
        std::thread::Builder::new().name("watch".into()).spawn(move || {
            let mut period = first;
            while ended.recv_timeout(period) == Err(RecvTimeoutError::Timeout) {
                period = PERIOD.max(look() * rest);
            }
        })?;
        Ok(Self { _alive: alive })
    }
}

/// The mount as a shelf, for one look.
pub(crate) struct InMount<'a> {
    changes: &'a Changes,
    sharers: Sharers,
    is_ending: &'a dyn Fn() -> bool,
}

impl<'a> InMount<'a> {
    pub(crate) fn new(changes: &'a Changes) -> Self {
        Self { changes, sharers: Sharers::default(), is_ending: &|| false }
    }

    /// Takes nothing any more when this says so.
    pub(crate) fn until(self, is_ending: &'a dyn Fn() -> bool) -> Self {
        Self { is_ending, ..self }
    }
}

impl Shelf for InMount<'_> {
    fn is_ending(&self) -> bool {
        (self.is_ending)()
    }

    fn add(&self, metainfo: Arc<Metainfo>, folder: &Path) -> Result<(), String> {
        self.changes.session().judge_room().map_err(|error| error.to_string())?;
        self.sharers.take_over(std::slice::from_ref(&metainfo), self.changes.session().cache_dir());
        let torrent = AddTorrent { metainfo, data: None, peers: Vec::new(), trackers: Vec::new() };
        match self.changes.add(torrent, folder) {
            Ok(path) => {
                tracing::info!(path = %path.display(), "mounted, found in the watched directory");
                Ok(())
            }
            Err(SessionError::Twice) => Err("the torrent is in this mount already".to_owned()),
            Err(error) => Err(explain(error).to_string()),
        }
    }

    fn remove(&self, torrents: &[InfoHash]) {
        for torrent in self.changes.remove_all(torrents) {
            tracing::info!(%torrent, "its file is gone: mounted no more");
        }
    }

    fn read_anew(&self, metainfo: &Metainfo) {
        if let Some(hash) = &metainfo.info_hash {
            self.changes.session().learn_trackers(hash, metainfo.trackers.clone());
        }
    }

    fn move_to(&self, torrent: &InfoHash, folder: &Path) {
        self.changes.move_to(torrent, folder);
    }

    fn set_folders(&self, folders: &BTreeSet<PathBuf>) {
        if let Some(mount) = self.changes.mount() {
            mount.set_folders(folders);
        }
    }
}

const PERIOD: Duration = Duration::from_secs(1);
/// Times that it rests, of the time that listing the directory took.
const REST: u32 = 20;
