//! Torrents that come and go while a process runs: into its session and its mount, or out of both.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use crate::base::InfoHash;
use crate::fs::Mount;
use crate::net::{AddTorrent, Session, SessionError, TorrentHandle};

/// The torrents of a running process.
#[derive(Debug)]
pub struct Changes {
    session: Session,
    /// What every torrent is told beside what it is told itself.
    common: Common,
    mount: RwLock<Option<Arc<Mount>>>,
    /// Held while something changes: a torrent that goes has gone before it comes again.
    one_at_a_time: Mutex<()>,
    /// Who owns the slots of the torrents, for people.
    owner: OnceLock<String>,
}

/// What is the same for all torrents of a process.
#[derive(Debug, Clone, Default)]
pub struct Common {
    /// Peers that the user named.
    pub peers: Vec<std::net::SocketAddr>,
    /// Trackers that the user named.
    pub trackers: Vec<String>,
}

/// Why no torrent is meant by a word.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotFound {
    /// Nothing is shown under that name, or has that info-hash.
    #[error("no torrent of that name or info-hash is mounted here")]
    Nothing,
    /// The beginning of an info-hash that several share.
    #[error("several torrents have info-hashes that begin so: write more of it")]
    Several,
}

impl Changes {
    /// Changes this session, and what this mount shows of it.
    pub fn new(session: Session, mount: Option<Arc<Mount>>, common: Common) -> Self {
        Self { session, common, mount: RwLock::new(mount), one_at_a_time: Mutex::default(), owner: OnceLock::new() }
    }

    /// The session.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The mount, as long as there is one.
    pub fn mount(&self) -> Option<Arc<Mount>> {
        self.mount.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the mount; the torrents stay in their swarms. Blocking: some seconds where files are open. Idempotent.
    pub fn end_view(&self) {
        let mount = self.mount.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mount) = mount {
            mount.unmount();
            mount.clear();
        }
    }

    /// Says in the slots of all torrents, those that are yet to come included, who owns them.
    pub fn sign(&self, owner: String) {
        let _ = self.owner.set(owner);
        self.session.torrents().iter().for_each(|torrent| self.sign_one(torrent));
    }

    /// Joins the torrent's swarm and shows it in this folder below the root; where that is, from the root on (the folder
    /// alone when there is no mount). Blocking.
    ///
    /// # Errors
    /// Those of [`Session::add`].
    pub fn add(&self, mut torrent: AddTorrent, folder: &Path) -> Result<PathBuf, SessionError> {
        torrent.peers.extend(&self.common.peers);
        torrent.trackers.extend(self.common.trackers.iter().cloned());
        let _alone = self.lock();
        let added = self.session.add(torrent)?;
        self.sign_one(&added);
        Ok(self.mount().map_or_else(|| folder.to_path_buf(), |mount| mount.add(&added, folder)))
    }

    /// Shows a torrent no more and leaves its swarm; false when it is not here. Blocking: up to some seconds.
    pub fn remove(&self, hash: &InfoHash) -> bool {
        !self.remove_all(&[*hash]).is_empty()
    }

    /// As [`remove`](Self::remove), several at once, which takes no longer than one: first all names go. Returns those
    /// that were here.
    pub fn remove_all(&self, hashes: &[InfoHash]) -> Vec<InfoHash> {
        let _alone = self.lock();
        if let Some(mount) = self.mount() {
            hashes.iter().for_each(|hash| _ = mount.remove(hash));
        }
        self.session.remove_all(hashes)
    }

    /// Shows a torrent in another folder; nothing else happens to it.
    pub fn move_to(&self, hash: &InfoHash, folder: &Path) {
        let _alone = self.lock();
        let all = self.session.torrents();
        let torrent = all.iter().find(|torrent| torrent.metainfo().info_hash.as_ref() == Some(hash));
        if let (Some(mount), Some(torrent)) = (self.mount(), torrent) {
            mount.remove(hash);
            mount.add(torrent, folder);
        }
    }

    /// The torrent that is shown under this name (from the root on), or has this info-hash or the only one that begins so.
    ///
    /// # Errors
    /// [`NotFound`]
    pub fn find(&self, word: &str) -> Result<InfoHash, NotFound> {
        let mount = self.mount();
        let torrents = self.session.torrents();
        let hashes = || torrents.iter().filter_map(|torrent| torrent.metainfo().info_hash);
        let wanted = word.trim_matches('/');
        let is_called = |torrent: &&TorrentHandle| match (&mount, torrent.metainfo().info_hash) {
            (Some(mount), Some(hash)) => mount.path_of(&hash).is_some_and(|path| path.to_string_lossy() == wanted),
            // Where nothing is shown, it is called as its maker called it.
            _ => String::from_utf8_lossy(&torrent.metainfo().name) == wanted,
        };
        if let Some(called) = torrents.iter().find(is_called) {
            return called.metainfo().info_hash.ok_or(NotFound::Nothing);
        }
        let digits = word.to_ascii_lowercase();
        let mut begin = hashes().filter(|hash| digits.len() >= SHORTEST_HASH && hash.to_string().starts_with(&digits));
        match (begin.next(), begin.next()) {
            (Some(hash), None) => Ok(hash),
            (Some(_), Some(_)) => Err(NotFound::Several),
            (None, _) => Err(NotFound::Nothing),
        }
    }

    fn sign_one(&self, torrent: &TorrentHandle) {
        if let Some(owner) = self.owner.get() {
            let _ = torrent.store().describe_owner(owner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.one_at_a_time.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Digits of an info-hash that mean it.
const SHORTEST_HASH: usize = 6;
