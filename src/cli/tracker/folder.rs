//! `btfs tracker --watch`: what is dropped into a directory is taken into the index.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use tokio::sync::watch;

use crate::cli::watching::Watching;
use crate::storage::{Folder, Judged, Links, Stamp, read_torrent_file_below};
use crate::tracker::index::{FolderFile, Index, IndexError, Upload};
use crate::tracker::{BETRAYS_A_PASSKEY, Lists, Tracker, admit_added};

/// Brings files of one directory into the index.
pub(super) struct Taker {
    folder: Folder<()>,
    desk: Desk,
    /// Nothing is looked at before.
    resting: Option<Instant>,
    /// That the database cannot be used was said.
    complained: bool,
}

/// Where files are taken.
struct Desk {
    index: Index,
    tracker: Arc<Tracker>,
    stopped: watch::Receiver<bool>,
    /// The directory, as the database knows it.
    path: PathBuf,
    /// In place of a token's name.
    uploader: String,
    /// As the database has it; `None`: not asked yet.
    taken: Option<HashMap<PathBuf, String>>,
    waiting: Vec<FolderFile>,
    waiting_bytes: usize,
    /// By which was judged, and what was refused by them.
    lists: Arc<Lists>,
    refused: HashSet<PathBuf>,
    /// Of this look.
    new: usize,
    joined: usize,
    failed: Vec<PathBuf>,
    trouble: Option<IndexError>,
}

impl Taker {
    /// For a directory that can be read now.
    pub(super) fn new(
        directory: &Path,
        index: Index,
        tracker: Arc<Tracker>,
        stopped: watch::Receiver<bool>,
    ) -> anyhow::Result<Self> {
        let name = || format!("{}, to be watched", directory.display());
        // As a directory: what is no such thing is an error here.
        let path = std::fs::canonicalize(directory).with_context(name)?;
        File::open(path.join(".")).and_then(|_| std::fs::read_dir(&path)).with_context(name)?;
        let uploader = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let desk = Desk {
            index,
            tracker,
            stopped,
            path: path.clone(),
            uploader,
            taken: None,
            waiting: Vec::new(),
            waiting_bytes: 0,
            lists: Arc::default(),
            refused: HashSet::new(),
            new: 0,
            joined: 0,
            failed: Vec::new(),
            trouble: None,
        };
        Ok(Self { folder: Folder::new(path, Links::LeftOut), desk, resting: None, complained: false })
    }

    /// Looks from now on, in a thread of its own.
    pub(super) fn start(mut self) -> std::io::Result<Watching> {
        Watching::repeat(Duration::ZERO, REST, move || self.look(Instant::now()))
    }

    fn look(&mut self, now: Instant) -> Duration {
        if self.resting.is_some_and(|until| now < until) {
            return Duration::ZERO;
        }
        self.resting = None;
        let Self { folder, desk, .. } = self;
        let lists = desk.index.lists();
        if !Arc::ptr_eq(&lists, &std::mem::replace(&mut desk.lists, lists.clone())) {
            // Others may be let in now.
            desk.refused.drain().for_each(|path| folder.forget(&path));
        }
        let look = match desk.know() {
            Ok(()) => folder.look(now, &mut |path, _, stamp| desk.judge(path, stamp)),
            Err(error) => return self.rest(now, &error),
        };
        desk.flush();
        desk.refused.retain(|path| folder.is_known(path));
        for path in desk.failed.drain(..) {
            folder.forget(&path);
        }
        if look.complete && desk.trouble.is_none() && !*desk.stopped.borrow() {
            desk.trouble = desk.forget_gone(folder).err();
        }
        let (new, joined) = (std::mem::take(&mut desk.new), std::mem::take(&mut desk.joined));
        if new + joined > 0 {
            tracing::info!(new, joined, folder = %desk.path.display(), "taken into the index");
        }
        match desk.trouble.take() {
            Some(error) => return self.rest(now, &error),
            None => self.complained = false,
        }
        look.listing
    }

    /// Tries again later; said once, until it has worked again.
    fn rest(&mut self, now: Instant, error: &IndexError) -> Duration {
        if !std::mem::replace(&mut self.complained, true) {
            tracing::warn!(%error, "what is in {} cannot be taken into the index", self.desk.path.display());
        }
        self.resting = Some(now + RETRY);
        Duration::ZERO
    }
}

impl Desk {
    fn know(&mut self) -> Result<(), IndexError> {
        if self.taken.is_none() {
            self.taken = Some(self.index.taken(&self.path)?);
        }
        Ok(())
    }

    fn judge(&mut self, path: &Path, stamp: Stamp) -> Judged<()> {
        if self.trouble.is_some() || *self.stopped.borrow() {
            return Judged::Later;
        }
        let stamp = stamp.to_string();
        if self.taken.as_ref().and_then(|taken| taken.get(path)) == Some(&stamp) {
            return Judged::Whole(());
        }
        let parsed = read_torrent_file_below(&self.path, path)
            .map_err(|error| error.to_string())
            .and_then(|bytes| Upload::parse(bytes.into()).map_err(|error| error.to_string()));
        let upload = match parsed {
            Ok(upload) => upload,
            Err(reason) => return Judged::Senseless(format!("not a usable torrent: {reason}")),
        };
        if self.tracker.access.betrays_a_passkey(upload.bytes()) {
            return Judged::Senseless(BETRAYS_A_PASSKEY.to_owned());
        }
        if let Err(refusal) = self.lists.judge_all(upload.hashes().announced()) {
            self.refused.insert(path.to_owned());
            return Judged::Senseless(refusal.to_string());
        }
        self.waiting_bytes += upload.bytes().len();
        self.waiting.push(FolderFile { path: path.to_owned(), stamp, upload });
        if self.waiting.len() >= MAX_TOGETHER || self.waiting_bytes >= MAX_TOGETHER_BYTES {
            self.flush();
        }
        Judged::Whole(())
    }

    /// Takes what waits; a transaction each time, so that uploads by others come in between.
    fn flush(&mut self) {
        let files = std::mem::take(&mut self.waiting);
        self.waiting_bytes = 0;
        if files.is_empty() {
            return;
        }
        let notes: Vec<_> = files.iter().map(|file| (file.path.clone(), file.stamp.clone())).collect();
        match self.index.take(&self.path, &self.uploader, files, SystemTime::now()) {
            Ok(added) => {
                for added in &added {
                    admit_added(&self.index, &self.tracker, added);
                    *(if added.new { &mut self.new } else { &mut self.joined }) += 1;
                }
                self.taken.get_or_insert_default().extend(notes);
            }
            Err(error) => {
                self.failed.extend(notes.into_iter().map(|(path, _)| path));
                self.trouble = Some(error);
            }
        }
    }

    /// Files that are gone are taken anew when they come back.
    fn forget_gone(&mut self, folder: &Folder<()>) -> Result<(), IndexError> {
        let Some(taken) = &mut self.taken else { return Ok(()) };
        // Whatever is whole was taken: as many of one as of the other are the same.
        if folder.whole().count() == taken.len() {
            return Ok(());
        }
        let there: HashSet<_> = folder.whole().map(|(path, ())| path).collect();
        let gone: Vec<_> = taken.keys().filter(|path| !there.contains(path.as_path())).cloned().collect();
        self.index.forget_taken(&self.path, gone.clone())?;
        gone.iter().for_each(|path| _ = taken.remove(path));
        Ok(())
    }
}

/// Times that it rests, of the time that listing the directory took: a hundredth of a core.
const REST: u32 = 100;
/// Files that share a transaction: they are in memory till then.
const MAX_TOGETHER: usize = 64;
const MAX_TOGETHER_BYTES: usize = 8 << 20;
/// After trouble with the database.
const RETRY: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::InfoHash;
    use crate::proto::metainfo::{NewEntry, NewTorrent};
    use crate::tracker::StoreConfig;

    fn torrent(name: &str) -> (Vec<u8>, InfoHash) {
        let name = name.as_bytes().to_vec();
        let entry = NewEntry { path: vec![name.clone()], length: 1, executable: false, target: None };
        let new = NewTorrent {
            name,
            single_file: true,
            entries: vec![entry],
            piece_length: 1 << 16,
            pieces: vec![7; 20],
            trackers: vec![vec!["http://t.example/a/0123456789abcdef0123456789abcdef/announce".to_owned()]],
            ..NewTorrent::default()
        };
        let (bytes, metainfo) = new.write().unwrap();
        (bytes, metainfo.info_hash.unwrap())
    }

    /// A directory `in` of this room, watched.
    fn taker(room: &Path) -> (Taker, watch::Sender<bool>) {
        let folder = room.join("in");
        std::fs::create_dir(&folder).unwrap();
        let index = Index::open(&room.join("index.sqlite")).unwrap();
        let tracker = Arc::new(Tracker::new(StoreConfig::default(), Instant::now(), 1));
        let (stop, stopped) = watch::channel(false);
        (Taker::new(&folder, index, tracker, stopped).unwrap(), stop)
    }

    fn denying(hash: InfoHash) -> Arc<Lists> {
        Arc::new(Lists { allow: None, deny: HashSet::from([hash]) })
    }

    #[test]
    fn what_is_denied_between_judging_and_taking_is_not_listed() {
        let room = tempfile::tempdir().unwrap();
        let (mut taker, _stop) = taker(room.path());
        let (bytes, hash) = torrent("a");
        let full = room.path().join("in/a.torrent");
        std::fs::write(&full, bytes).unwrap();
        let Taker { folder, desk, .. } = &mut taker;
        folder.look(Instant::now(), &mut |path, _, stamp| desk.judge(path, stamp));
        assert_eq!(desk.waiting.len(), 1);
        crate::tracker::set_lists(&desk.index, &desk.tracker, &denying(hash)).unwrap();
        desk.flush();
        assert!(!desk.tracker.access.is_listed(&hash) && !desk.index.is_listed(&hash));
        crate::tracker::set_lists(&desk.index, &desk.tracker, &Arc::default()).unwrap();
        assert!(desk.tracker.access.is_listed(&hash), "it was kept");
    }

    #[test]
    fn what_was_refused_is_remembered_once_and_as_long_as_it_is_there() {
        let room = tempfile::tempdir().unwrap();
        let (mut taker, _stop) = taker(room.path());
        let (bytes, hash) = torrent("a");
        taker.desk.index.set_lists(denying(hash)).unwrap();
        let full = room.path().join("in/a.torrent");
        for _ in 0..3 {
            // Another file each time: judged anew.
            std::fs::write(room.path().join("fresh"), &bytes).unwrap();
            std::fs::rename(room.path().join("fresh"), &full).unwrap();
            taker.look(Instant::now());
            assert_eq!(taker.desk.refused.len(), 1);
        }
        std::fs::remove_file(&full).unwrap();
        taker.look(Instant::now());
        assert!(taker.desk.refused.is_empty());
    }

    #[test]
    fn a_file_that_tells_a_users_passkey_is_left_alone() {
        let room = tempfile::tempdir().unwrap();
        let (mut taker, _stop) = taker(room.path());
        taker.desk.tracker.access.admit("0123456789abcdef0123456789abcdef");
        let (bytes, hash) = torrent("a");
        let full = room.path().join("in/a.torrent");
        std::fs::write(&full, bytes).unwrap();
        taker.look(Instant::now());
        assert!(!taker.desk.index.is_listed(&hash));
        taker.desk.tracker.access.expel("0123456789abcdef0123456789abcdef");
        taker.folder.forget(Path::new("a.torrent"));
        taker.look(Instant::now());
        assert!(taker.desk.index.is_listed(&hash));
    }
}
