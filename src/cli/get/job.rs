//! One download: what is wanted, what of it is here, and what gets its name next.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::bail;
use serde::Serialize;

use super::choice::choose;
use crate::base::{FileIndex, PieceIndex};
use crate::cli::paths;
use crate::cli::text::safe;
use crate::engine::{Command, Fill, TorrentSnapshot};
use crate::net::TorrentHandle;
use crate::proto::metainfo::{Entry, EntryKind, Metainfo};
use crate::proto::path::link_text;
use crate::storage::{Destination, PieceState, Store, slot_prefix};

/// Where a download stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Something is missing.
    Under,
    /// All that is wanted has its name.
    Complete,
}

/// What is wanted.
#[derive(Debug)]
pub(super) struct Job {
    metainfo: Arc<Metainfo>,
    directory: PathBuf,
    /// In the order of the torrent.
    files: Vec<Wanted>,
    /// Symlinks: where, and what they say.
    links: Vec<(PathBuf, Box<[u8]>)>,
    everything: bool,
    /// The pieces that hold them, each with its bytes of them.
    pieces: Vec<(PieceIndex, u64)>,
    total_bytes: u64,
    have_bytes: u64,
    /// Those of `files` that have no name yet.
    left: Vec<usize>,
    started: Instant,
    /// What permissions new files do not get.
    umask: u32,
    torrent: Option<TorrentHandle>,
    slot: PathBuf,
}

#[derive(Debug)]
struct Wanted {
    file: FileIndex,
    /// Below the directory.
    path: PathBuf,
    bytes: u64,
    executable: bool,
    done: bool,
}

/// A file, for programs.
#[derive(Debug, Serialize)]
pub(super) struct ToldFile<'j> {
    path: std::borrow::Cow<'j, str>,
    size_bytes: u64,
    complete: bool,
}

impl Job {
    /// What `words` name of the torrent, below `directory`.
    pub(super) fn new(metainfo: Arc<Metainfo>, words: &[String], directory: PathBuf) -> anyhow::Result<Self> {
        // Whoever may choose such a name could write into another download's state.
        if metainfo.name.to_ascii_lowercase().starts_with(slot_prefix().as_bytes()) {
            bail!("the torrent calls itself {}: such names are kept for downloads under way", safe(&metainfo.name));
        }
        let chosen = choose(&metainfo, words)?;
        let layout = &metainfo.layout;
        let (mut files, mut links, mut pieces) = (Vec::new(), Vec::new(), Vec::<(PieceIndex, u64)>::new());
        for (file, entry) in chosen {
            let path = path_of(&metainfo, entry);
            let executable = match &entry.kind {
                EntryKind::Symlink { target } => {
                    links.push((path, link_text(&entry.path, target)));
                    continue;
                }
                EntryKind::Padding => continue,
                EntryKind::File { executable } => *executable,
            };
            let (start, bytes) = (layout.file_start(file), layout.file_bytes(file));
            for piece in layout.pieces_of(file, 0, bytes).iter() {
                let from = layout.piece_start(piece).max(start);
                let to = (layout.piece_start(piece) + u64::from(layout.piece_bytes(piece))).min(start + bytes);
                match pieces.last_mut() {
                    Some((last, weight)) if *last == piece => *weight += to - from,
                    _ => pieces.push((piece, to - from)),
                }
            }
            files.push(Wanted { file, path, bytes, executable, done: false });
        }
        Ok(Self {
            directory,
            total_bytes: files.iter().map(|file| file.bytes).sum(),
            have_bytes: 0,
            left: (0..files.len()).collect(),
            files,
            links,
            everything: words.is_empty(),
            pieces,
            started: Instant::now(),
            umask: paths::umask(),
            torrent: None,
            slot: PathBuf::new(),
            metainfo,
        })
    }

    /// How the torrent is to be filled.
    pub(super) fn fill(&self) -> Fill {
        if self.everything { Fill::All } else { Fill::File }
    }

    /// Where the files go.
    pub(super) fn destination(&self) -> Destination {
        let mut paths = vec![None; self.metainfo.layout.file_count()];
        for wanted in &self.files {
            paths[wanted.file.at()] = Some(wanted.path.clone());
        }
        Destination { directory: self.directory.clone(), paths }
    }

    /// The torrent has been joined.
    pub(super) fn started(mut self, torrent: TorrentHandle) -> Self {
        if !self.everything {
            torrent.command(Command::Fill(self.files.iter().map(|wanted| wanted.file).collect()));
        }
        self.slot = torrent.store().path_for_people().to_owned();
        self.torrent = Some(torrent);
        self
    }

    /// Gives every file that has become complete its name.
    ///
    /// # Errors
    /// What keeps a file from ever becoming complete, or from getting its name.
    pub(super) fn step(&mut self) -> anyhow::Result<Standing> {
        let (store, layout) = (self.store().clone(), self.metainfo.layout.clone());
        let table = store.table();
        let present = |piece: PieceIndex| table.state(piece) == PieceState::Present;
        self.have_bytes = self.pieces.iter().filter(|(piece, _)| present(*piece)).map(|(_, bytes)| bytes).sum();
        let whole = |at: &usize| {
            let wanted = &self.files[*at];
            table.all_present(layout.pieces_of(wanted.file, 0, wanted.bytes))
        };
        let (whole, mut left): (Vec<usize>, Vec<usize>) = self.left.iter().partition(|at| whole(at));
        let fresh: Vec<_> =
            whole.iter().map(|&at| self.files[at].file).filter(|&file| !store.is_placed(file)).collect();
        store.settle(&fresh)?;
        for at in whole {
            let wanted = &mut self.files[at];
            let mode = if wanted.executable { 0o777 } else { 0o666 } & !self.umask;
            wanted.done = store.place(wanted.file, mode)?;
            if !wanted.done {
                left.push(at);
            }
        }
        left.sort_unstable();
        self.left = left;
        if self.left.is_empty() {
            for (path, target) in &self.links {
                store.place_link(path, OsStr::from_bytes(target))?;
            }
            return Ok(Standing::Complete);
        }
        if let Some(file) = store.disputed().or_else(|| self.hopeless()) {
            let path = store.path_of(file);
            bail!(
                "{}: exists already, and is not what the torrent says; move it away, or get the torrent into another directory",
                safe(path.as_os_str().as_bytes())
            );
        }
        Ok(Standing::Under)
    }

    /// A file that was here before and has a bad piece of its own. (Where it shares one, what peers send for it tells whose
    /// fault that is: [`Store::disputed`].)
    fn hopeless(&self) -> Option<FileIndex> {
        let (store, layout) = (self.store(), &self.metainfo.layout);
        let lacks = |file: FileIndex| {
            let mut pieces = layout.pieces_of(file, 0, layout.file_bytes(file)).iter();
            pieces.any(|piece| {
                let mut spans = layout.spans(layout.piece_start(piece), layout.piece_bytes(piece).into());
                store.table().state(piece) == PieceState::Absent && spans.all(|span| span.padding || span.file == file)
            })
        };
        self.left.iter().map(|&at| self.files[at].file).find(|&file| store.is_placed(file) && lacks(file))
    }

    /// Waits until all of it is on the disk.
    pub(super) fn settle(&self) -> anyhow::Result<()> {
        let files: Vec<_> = self.files.iter().map(|wanted| wanted.file).collect();
        Ok(self.store().settle(&files)?)
    }

    /// What the torrent's task says, if it answers.
    pub(super) fn snapshot(&self) -> Option<TorrentSnapshot> {
        self.torrent().snapshot()
    }

    pub(super) fn store(&self) -> &Arc<Store> {
        self.torrent().store()
    }

    pub(super) fn metainfo(&self) -> &Metainfo {
        &self.metainfo
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where that is which is not complete.
    pub(super) fn slot(&self) -> &Path {
        &self.slot
    }

    pub(super) fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// As of the last step.
    pub(super) fn have_bytes(&self) -> u64 {
        self.have_bytes
    }

    pub(super) fn started_at(&self) -> Instant {
        self.started
    }

    pub(super) fn told_files(&self) -> Vec<ToldFile<'_>> {
        let told = |wanted| {
            let Wanted { path, bytes, done, .. }: &Wanted = wanted;
            ToldFile { path: path.to_string_lossy(), size_bytes: *bytes, complete: *done }
        };
        self.files.iter().map(told).collect()
    }

    fn torrent(&self) -> &TorrentHandle {
        self.torrent.as_ref().expect("a job is asked only when it has been started")
    }
}

/// The path of an entry in a mount, from the mount point: safe, unique names.
fn path_of(metainfo: &Metainfo, entry: &Entry) -> PathBuf {
    let name = Path::new(OsStr::from_bytes(&metainfo.name));
    match metainfo.single_file {
        true => name.to_owned(),
        false => name.join(OsStr::from_bytes(&entry.path)),
    }
}
