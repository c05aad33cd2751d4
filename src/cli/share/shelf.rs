//! What lies there to be taken: torrents made of it, listed in the index, shared by the session, and kept in step with it.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use serde::Serialize;

use super::listing::Listing;
use super::{Args, Desk};
use crate::base::InfoHash;
use crate::cli::create::{self, ChoiceArgs};
use crate::cli::exit::{self, UsageError};
use crate::cli::get::choice::means;
use crate::cli::text::safe;
use crate::control::Changes;
use crate::net::AddTorrent;
use crate::proto::magnet;
use crate::proto::metainfo::{EntryKind, Metainfo, NewTorrent};
use crate::proto::path::check_name;
use crate::storage::scan::{ScanError, Tree};

/// What became of something.
pub(super) enum Event {
    /// It can be had.
    Shared(Shared),
    /// It can not be had any more.
    Gone {
        /// Of the torrent.
        name: String,
        /// What it was.
        info_hash: String,
    },
    /// Something cannot be shared, for a reason; the rest goes on.
    Trouble(String),
    /// What was there at the start is shared.
    AllThere,
}

/// What is shared, as others get at it. Fields are only ever added.
#[derive(Debug, Serialize)]
pub(super) struct Shared {
    pub(super) name: String,
    path: String,
    info_hash: String,
    pub(super) size_bytes: u64,
    pub(super) page: String,
    /// URL of the torrent file.
    torrent: String,
    pub(super) mount_line: String,
    pub(super) magnet: String,
}

/// Keeps the session, the index and the tracker in step with the disk.
pub(super) struct Shelf {
    path: PathBuf,
    watch: bool,
    name: Option<String>,
    comment: Option<String>,
    choice: ChoiceArgs,
    /// A tier for each.
    announce: Vec<String>,
    base: String,
    listing: Listing,
    changes: Arc<Changes>,
    stop: Arc<AtomicBool>,
    /// By their name in the directory; without `--watch` the only one has none.
    items: BTreeMap<OsString, Item>,
    /// Complaints are made once, until something changes.
    complaints: HashMap<OsString, String>,
}

/// One of the things that are to be shared.
struct Item {
    /// What there was at the last look, and at how many looks before that it was the same.
    seen: Tree,
    looks: u32,
    /// What is shared of it: its name, its info-hash, and what there was.
    shared: Option<(String, InfoHash)>,
    /// `seen` is not what is shared.
    stale: bool,
}

impl Shelf {
    /// One with nothing on it.
    pub(super) fn new(args: &Args, desk: &Desk, changes: Arc<Changes>, stop: Arc<AtomicBool>) -> Self {
        Self {
            path: args.path.clone(),
            watch: args.watch,
            name: args.name.clone(),
            comment: args.comment.clone(),
            choice: args.choice.clone(),
            announce: desk.announce.clone(),
            base: desk.base.clone(),
            listing: Listing::new(desk.index.clone(), desk.tracker.clone()),
            changes,
            stop,
            items: BTreeMap::new(),
            complaints: HashMap::new(),
        }
    }

    /// Shares what is there, and with `--watch` goes on with what comes, until asked to stop. An error ends it: without
    /// `--watch` nothing can be shared then.
    pub(super) fn fill(mut self, tell: &Sender<anyhow::Result<Event>>) {
        let outcome = if self.watch { self.fill_with_all(tell) } else { self.fill_with_one(tell) };
        if let Err(error) = outcome {
            let _ = tell.send(Err(error));
        }
    }

    fn fill_with_one(&mut self, tell: &Sender<anyhow::Result<Event>>) -> anyhow::Result<()> {
        let path = self.path.clone();
        let name = match &self.name {
            Some(name) => {
                check_name(name.as_bytes()).map_err(|error| UsageError(format!("--name {}: {error}", safe(name))))?;
                name.clone().into_bytes()
            }
            None => create::name_of(&path)?,
        };
        let (tree, meaningless) = create::look(&path, &self.choice, false, None)?;
        for pattern in meaningless {
            let _ = tell.send(Ok(Event::Trouble(format!("{pattern}: means nothing that is there"))));
        }
        let (shared, hash) = self.share(&path, name, &tree, true)?;
        self.listing.keep_only(&[hash])?;
        let _ = tell.send(Ok(Event::Shared(shared)));
        let _ = tell.send(Ok(Event::AllThere));
        Ok(())
    }

    fn fill_with_all(&mut self, tell: &Sender<anyhow::Result<Event>>) -> anyhow::Result<()> {
        // At the start nothing is waited for: what somebody is writing just then is renewed when he has done.
        self.look_at_all(tell, 0)?;
        let hashes: Vec<_> = self.items.values().filter_map(|item| Some(item.shared.as_ref()?.1)).collect();
        self.listing.keep_only(&hashes)?;
        let _ = tell.send(Ok(Event::AllThere));
        while !self.stop.load(Ordering::Relaxed) {
            let start = Instant::now();
            match self.look_at_all(tell, SETTLED_LOOKS) {
                Ok(()) => _ = self.complaints.remove(&OsString::new()),
                Err(error) => self.complain(&OsString::new(), &error, tell),
            }
            // Large directories are looked at less often: at most a twentieth of the time.
            std::thread::sleep(PERIOD.max(start.elapsed() * 20));
        }
        Ok(())
    }

    /// One look at the directory; what was the same at so many looks is shared.
    fn look_at_all(&mut self, tell: &Sender<anyhow::Result<Event>>, settled: u32) -> anyhow::Result<()> {
        let mut there: Vec<_> = std::fs::read_dir(&self.path)
            .and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect::<Result<_, _>>())
            .with_context(|| safe(self.path.as_os_str().as_bytes()))?;
        // What begins with a dot is hidden: also what others write under another name at first.
        there.retain(|name| !name.as_bytes().starts_with(b".") && self.is_wanted(name));
        there.sort();
        // A database that fails keeps nothing else from being seen.
        let mut outcome = self.listing.tidy();
        let gone: Vec<_> = self.items.keys().filter(|name| there.binary_search(name).is_err()).cloned().collect();
        for name in gone {
            self.complaints.remove(&name);
            if let Some((name, hash)) = self.items.remove(&name).and_then(|item| item.shared) {
                outcome = outcome.and(self.take_off(hash));
                let _ = tell.send(Ok(Event::Gone { name, info_hash: hash.to_string() }));
            }
        }
        for name in there {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            if let Err(error) = self.look_at(&name, tell, settled) {
                // It is read again at the next look.
                if let Some(item) = self.items.get_mut(&name) {
                    item.looks = 0;
                }
                self.complain(&name, &error, tell);
            }
        }
        outcome
    }

    fn look_at(&mut self, name: &OsString, tell: &Sender<anyhow::Result<Event>>, settled: u32) -> anyhow::Result<()> {
        let path = self.path.join(name);
        let (tree, _) = create::look(&path, &self.choice_for(&path), false, None)?;
        match self.items.get_mut(name) {
            Some(item) if item.seen == tree => item.looks += 1,
            Some(item) => (item.seen, item.looks, item.stale) = (tree, 0, true),
            None => {
                self.items.insert(name.clone(), Item { seen: tree, looks: 0, shared: None, stale: true });
            }
        }
        let Some(item) = self.items.get_mut(name).filter(|item| item.stale && item.looks >= settled) else {
            return Ok(());
        };
        let old = item.shared.take();
        let seen = std::mem::replace(&mut item.seen, Tree { single_file: false, entries: Vec::new() });
        // Before it is read: nobody gets what is not there any more.
        let outcome = old
            .as_ref()
            .map_or(Ok(()), |(_, hash)| self.take_off(*hash))
            .and_then(|()| self.share(&path, name.as_bytes().to_vec(), &seen, settled == 0));
        let item = self.items.get_mut(name).ok_or_else(|| anyhow!("what is looked at is kept"))?;
        item.seen = seen;
        match outcome {
            Ok((shared, hash)) => {
                (item.shared, item.stale) = (Some((shared.name.clone(), hash)), false);
                self.complaints.remove(name);
                let old = old.filter(|(_, old)| *old != hash);
                if let Some((name, hash)) = old {
                    let _ = tell.send(Ok(Event::Gone { name, info_hash: hash.to_string() }));
                }
                let _ = tell.send(Ok(Event::Shared(shared)));
                Ok(())
            }
            Err(error) => {
                if let Some((name, hash)) = old {
                    let _ = tell.send(Ok(Event::Gone { name, info_hash: hash.to_string() }));
                }
                Err(error)
            }
        }
    }

    /// Patterns choose from what lies in the directory itself, too.
    fn is_wanted(&self, name: &OsString) -> bool {
        let any = |patterns: &[String]| patterns.iter().any(|pattern| means(pattern, name.as_bytes()));
        let include = &self.choice.include;
        !any(&self.choice.exclude) && (include.is_empty() || any(include) || self.path.join(name).is_dir())
    }

    /// In a file there is nothing left to choose.
    fn choice_for(&self, path: &Path) -> ChoiceArgs {
        match path.is_dir() {
            true => self.choice.clone(),
            false => ChoiceArgs { include: Vec::new(), exclude: Vec::new(), pad: self.choice.pad },
        }
    }

    /// Makes the torrent, lists it, and shares it.
    fn share(&mut self, path: &Path, name: Vec<u8>, tree: &Tree, bar: bool) -> anyhow::Result<(Shared, InfoHash)> {
        let torrent = NewTorrent {
            name,
            trackers: self.announce.iter().map(|url| vec![url.clone()]).collect(),
            comment: self.comment.clone(),
            created_by: Some("btfs".to_owned()),
            pad: self.choice.pad,
            ..NewTorrent::default()
        };
        let (bytes, metainfo) = create::build(path, tree, torrent, &self.stop, bar)?;
        refuse_odd_names(path, tree, &metainfo)?;
        let hash = metainfo.info_hash.ok_or_else(|| anyhow!("a v1 torrent has an info-hash"))?;
        let url = format!("{}/torrent/{hash}", self.base);
        let files = metainfo.layout.files().filter(|&file| !metainfo.layout.is_padding(file));
        let shared = Shared {
            name: String::from_utf8_lossy(&metainfo.name).into_owned(),
            path: path.to_string_lossy().into_owned(),
            info_hash: hash.to_string(),
            size_bytes: files.map(|file| metainfo.layout.file_bytes(file)).sum(),
            torrent: format!("{url}.torrent"),
            mount_line: create::mount_line(format!("{url}.torrent").as_bytes()),
            magnet: magnet::link(&metainfo),
            page: url,
        };
        self.listing.add(hash, bytes.into())?;
        // Files below are reached through real directories only; a link that the user names is followed here.
        let data = std::fs::canonicalize(path).with_context(|| safe(path.as_os_str().as_bytes()))?;
        let torrent =
            AddTorrent { metainfo: Arc::new(metainfo), data: Some(data), peers: Vec::new(), trackers: Vec::new() };
        if let Err(error) = self.changes.add(torrent, Path::new("")) {
            self.take_off(hash)?;
            return Err(error.into());
        }
        Ok((shared, hash))
    }

    fn take_off(&mut self, hash: InfoHash) -> anyhow::Result<()> {
        self.changes.remove(&hash);
        self.listing.take_off(hash)
    }

    /// Once for each reason.
    fn complain(&mut self, name: &OsString, error: &anyhow::Error, tell: &Sender<anyhow::Result<Event>>) {
        if matches!(error.downcast_ref(), Some(ScanError::Interrupted | ScanError::Changed(_) | ScanError::Vanished(_)))
        {
            // Somebody is at it: the next look tells more.
            return;
        }
        let text = exit::line(error);
        if self.complaints.get(name) != Some(&text) {
            let _ = tell.send(Ok(Event::Trouble(text.clone())));
            self.complaints.insert(name.clone(), text);
        }
    }
}

/// Names that a torrent shows otherwise than the disk has them could be listed, but not found again to be sent.
fn refuse_odd_names(path: &Path, tree: &Tree, metainfo: &Metainfo) -> anyhow::Result<()> {
    let shown = metainfo.entries.iter().filter(|entry| entry.kind != EntryKind::Padding);
    for (entry, shown) in tree.entries.iter().zip(shown) {
        let there = entry.path.join(&b'/');
        if !tree.single_file && *there != *shown.path {
            let (path, there) = (safe(path.as_os_str().as_bytes()), safe(&there));
            bail!("{path}/{there}: a torrent cannot have this name; rename it, or leave it out with --exclude");
        }
    }
    Ok(())
}

/// How often the directory is looked at.
const PERIOD: Duration = Duration::from_secs(1);
/// What nobody has touched from one look to the next, this often, is whole.
const SETTLED_LOOKS: u32 = 2;
