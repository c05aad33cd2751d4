//! A directory of torrent files that is looked at again and again: which files are new or different, and which make no
//! sense even after they were given time to be written to their end.
//!
//! It is looked at in place of being told by the kernel: that works on every file system, network ones included, needs no
//! watch for each directory, and a look at a thousand files costs some milliseconds. What to do with a file is its
//! user's business ([`Folder::look`]).

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::proto::metainfo::MAX_TORRENT_BYTES;
use crate::proto::path::escape;
use crate::storage::sys::{Open, open_at};

/// What is known of a watched directory; of each file that makes sense a `K`. All paths but its own are relative to it.
#[derive(Debug)]
pub struct Folder<K> {
    directory: PathBuf,
    links: Links,
    files: BTreeMap<PathBuf, Known<K>>,
    /// Directories that cannot be read, and have been named.
    unreadable: HashSet<PathBuf>,
}

/// What becomes of a symlink in place of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// What it leads to counts.
    Followed,
    /// It is nothing: others may write where we look, and would have us read what they cannot.
    LeftOut,
}

/// One torrent file.
#[derive(Debug)]
struct Known<K> {
    stamp: Stamp,
    /// What it held when it was whole last.
    whole: Option<K>,
    /// Since when it makes no sense.
    senseless: Option<Instant>,
    /// That it makes none was said.
    named: bool,
}

/// Whatever changes when somebody writes to a file or puts another in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// What became of a file that is new or different.
#[derive(Debug)]
pub enum Judged<K> {
    /// It is a torrent.
    Whole(K),
    /// It is of no use (yet), and why, in words for the log: it is judged once more when it has had its time, and named
    /// then.
    Senseless(String),
    /// It was not judged: the next look does.
    Later,
}

/// What a look has found beside files.
#[derive(Debug)]
pub struct Look {
    /// How long it took to list the directory: what every look costs, whatever comes of it.
    pub listing: Duration,
    /// The directories below; `None` when the directory itself cannot be read: unplugged, perhaps, and what is known of
    /// it stays as it is.
    pub folders: Option<BTreeSet<PathBuf>>,
    /// Nothing was left out: no directory that cannot be read, no entry beyond the bound.
    pub complete: bool,
}

#[derive(Debug, Default)]
struct Found {
    files: BTreeMap<PathBuf, Stamp>,
    folders: BTreeSet<PathBuf>,
    /// Directories that could not be read: what was below is taken to be there still.
    unknown: BTreeMap<PathBuf, io::Error>,
    entries: usize,
}

impl<K> Folder<K> {
    /// Of a directory; nothing is looked at yet.
    pub fn new(directory: PathBuf, links: Links) -> Self {
        Self { directory, links, files: BTreeMap::new(), unreadable: HashSet::new() }
    }

    /// The directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Looks, and lets `judge` read each file that is new, or not as it was. It is given the path in the directory, the
    /// whole path, and what the file looked like. Blocking.
    pub fn look(&mut self, now: Instant, judge: &mut dyn FnMut(&Path, &Path, Stamp) -> Judged<K>) -> Look {
        let begun = Instant::now();
        let mut found = Found::default();
        let device = match fs::metadata(&self.directory) {
            Ok(meta) => meta.dev(),
            Err(error) => {
                found.unknown.insert(PathBuf::new(), error);
                0
            }
        };
        if found.unknown.is_empty() {
            self.scan(Path::new(""), device, 0, &mut found);
        }
        let listing = begun.elapsed();
        self.name_unreadable(&found);
        if found.unknown.contains_key(Path::new("")) {
            return Look { listing, folders: None, complete: false };
        }
        let is_unknown = |path: &Path| path.ancestors().any(|above| found.unknown.contains_key(above));
        self.files.retain(|path, _| found.files.contains_key(path) || is_unknown(path));
        for (path, stamp) in &found.files {
            self.judge(now, path, *stamp, judge);
        }
        let mut folders = found.folders;
        for path in self.files.keys().filter(|path| is_unknown(path)) {
            folders.extend(path.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()).map(Path::to_owned));
        }
        let complete = found.unknown.is_empty() && found.entries <= MAX_ENTRIES;
        Look { listing, folders: Some(folders), complete }
    }

    /// Files and what they held when they were whole last, by name.
    pub fn whole(&self) -> impl Iterator<Item = (&Path, &K)> {
        self.files.iter().filter_map(|(path, known)| Some((path.as_path(), known.whole.as_ref()?)))
    }

    /// Has the next look judge this file anew.
    pub fn forget(&mut self, path: &Path) {
        self.files.remove(path);
    }

    /// Whether it was there at the last look, or may have been.
    pub fn is_known(&self, path: &Path) -> bool {
        self.files.contains_key(path)
    }

    /// Whether that this file makes no sense was said.
    #[cfg(test)]
    pub(crate) fn is_named(&self, path: &Path) -> bool {
        self.files[path].named
    }

    /// Lists a directory and those in it. Names that begin with a dot are hidden, links to directories are not followed,
    /// nor are borders of the file system crossed.
    fn scan(&self, directory: &Path, device: u64, depth: usize, found: &mut Found) {
        let entries = match fs::read_dir(self.directory.join(directory)) {
            Ok(entries) => entries,
            // Gone since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound && depth > 0 => return,
            Err(error) => {
                found.unknown.insert(directory.to_owned(), error);
                return;
            }
        };
        for entry in entries.flatten() {
            found.entries += 1;
            let (name, path) = (entry.file_name(), directory.join(entry.file_name()));
            if found.entries > MAX_ENTRIES || name.as_bytes().starts_with(b".") {
                continue;
            }
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                if meta.dev() == device && depth < MAX_DEPTH {
                    found.folders.insert(path.clone());
                    self.scan(&path, device, depth + 1, found);
                }
            } else if is_torrent(&name) {
                let meta = match self.links {
                    Links::Followed => fs::metadata(entry.path()).ok(),
                    Links::LeftOut => Some(meta),
                };
                if let Some(meta) = meta.filter(Metadata::is_file) {
                    found.files.insert(path, Stamp::of(&meta));
                }
            }
        }
    }

    /// Has a file judged if it is not as it was at the last look.
    fn judge(
        &mut self,
        now: Instant,
        path: &Path,
        stamp: Stamp,
        judge: &mut dyn FnMut(&Path, &Path, Stamp) -> Judged<K>,
    ) {
        let known = self.files.get(path);
        let patience_ends = |since: Instant| now.saturating_duration_since(since) >= PATIENCE;
        let (named, since) = match known {
            // Said once, or whole.
            Some(known) if known.stamp == stamp && (known.named || known.senseless.is_none()) => return,
            Some(known) if known.stamp == stamp => match known.senseless {
                Some(since) if !patience_ends(since) => return,
                since => (known.named, since),
            },
            // It is being written, or replaced.
            _ => (false, None),
        };
        let full = self.directory.join(path);
        let judged = match judge(path, &full, stamp) {
            Judged::Whole(whole) => Known { stamp, whole: Some(whole), senseless: None, named: false },
            Judged::Senseless(reason) => {
                let since = since.unwrap_or(now);
                let named = named || patience_ends(since);
                if named {
                    tracing::warn!("{}: {reason}", escape(full.as_os_str().as_bytes()));
                }
                // What was whole before counts until the file is whole again, or gone.
                let whole = self.files.remove(path).and_then(|known| known.whole);
                Known { stamp, whole, senseless: Some(since), named }
            }
            Judged::Later => return,
        };
        self.files.insert(path.to_owned(), judged);
    }

    fn name_unreadable(&mut self, found: &Found) {
        for (path, error) in &found.unknown {
            if self.unreadable.insert(path.clone()) {
                let name = escape(self.directory.join(path).as_os_str().as_bytes());
                tracing::warn!(%error, "{name}: cannot be watched; what is known of it stays");
            }
        }
        self.unreadable.retain(|path| found.unknown.contains_key(path));
        if found.entries > MAX_ENTRIES && self.unreadable.insert(PathBuf::from("*")) {
            tracing::warn!("{}: more than {MAX_ENTRIES} entries: the rest is not watched", self.directory.display());
        }
    }
}

impl Stamp {
    fn of(meta: &Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            bytes: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

impl fmt::Display for Stamp {
    /// To be kept over lives of the process; so without the device, whose number may be another after a boot.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { device: _, inode, bytes, modified, changed } = self;
        write!(f, "{inode} {bytes} {}.{:09} {}.{:09}", modified.0, modified.1, changed.0, changed.1)
    }
}

/// Opens what is a file and nothing else, and does not wait: what somebody has put in its place may be a pipe.
///
/// # Errors
/// The system's; [`io::ErrorKind::InvalidInput`] for what is no file.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
    only_regular(OpenOptions::new().read(true).custom_flags(flags).open(path)?)
}

/// The same of a file below a directory, where no symlink leads on the way to it.
fn open_below(directory: &Path, path: &Path) -> io::Result<File> {
    let mut place = File::open(directory)?;
    let mut names = path.iter().peekable();
    while let Some(name) = names.next() {
        let how = if names.peek().is_some() { Open::Directory } else { Open::Read };
        place = open_at(&place, name, how)?;
    }
    only_regular(place)
}

fn only_regular(file: File) -> io::Result<File> {
    let is_file = file.metadata()?.is_file();
    if is_file { Ok(file) } else { Err(io::Error::new(io::ErrorKind::InvalidInput, "this is no regular file")) }
}

/// The bytes of a torrent file, as many as one may have.
///
/// # Errors
/// The system's; [`io::ErrorKind::InvalidInput`] for what is no file, [`io::ErrorKind::FileTooLarge`] beyond that bound.
pub fn read_torrent_file(path: &Path) -> io::Result<Vec<u8>> {
    torrent_bytes(open_regular(path)?)
}

/// The same of a path in a directory, below which no symlink is followed.
///
/// # Errors
/// As [`read_torrent_file`].
pub fn read_torrent_file_below(directory: &Path, path: &Path) -> io::Result<Vec<u8>> {
    torrent_bytes(open_below(directory, path)?)
}

fn torrent_bytes(file: File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One byte more than allowed is enough to see that it is too long.
    file.take(MAX_TORRENT_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > MAX_TORRENT_BYTES { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
}

fn is_torrent(name: &OsStr) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension.eq_ignore_ascii_case("torrent"))
}

/// A file that makes no sense is given so long to become whole.
const PATIENCE: Duration = Duration::from_secs(3);
/// Bounds of what is looked at (I7).
const MAX_ENTRIES: usize = 100_000;
const MAX_DEPTH: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(directory: &Path, path: &Path, links: Links) -> io::Result<Vec<u8>> {
        match links {
            Links::Followed => read_torrent_file(&directory.join(path)),
            Links::LeftOut => read_torrent_file_below(directory, path),
        }
    }

    #[test]
    fn what_is_no_file_is_neither_waited_for_nor_read() {
        let room = tempfile::tempdir().unwrap();
        let room = room.path();
        fs::create_dir(room.join("below")).unwrap();
        fs::write(room.join("below/a.torrent"), "content").unwrap();
        assert!(std::process::Command::new("mkfifo").arg(room.join("pipe.torrent")).status().unwrap().success());
        for links in [Links::Followed, Links::LeftOut] {
            let read = |path: &str| read(room, Path::new(path), links);
            assert_eq!(read("below/a.torrent").unwrap(), b"content");
            for wrong in ["pipe.torrent", "below", ""] {
                let error = read(wrong).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error}");
            }
        }
    }

    #[test]
    fn links_are_left_out_where_they_are_not_followed() {
        let room = tempfile::tempdir().unwrap();
        let inside = room.path().join("in");
        fs::create_dir_all(inside.join("below")).unwrap();
        fs::create_dir(room.path().join("out")).unwrap();
        fs::write(room.path().join("out/secret.torrent"), "content").unwrap();
        fs::write(inside.join("below/own.torrent"), "content").unwrap();
        let link = |to: &str, name: &str| std::os::unix::fs::symlink(to, inside.join(name)).unwrap();
        link("../out/secret.torrent", "link.torrent");
        link("../out", "directory");
        for (links, expected) in [(Links::Followed, 2), (Links::LeftOut, 1)] {
            let mut seen = 0;
            Folder::new(inside.clone(), links).look(Instant::now(), &mut |path, _, _| {
                seen += usize::from(read(&inside, path, links).is_ok());
                Judged::Whole(())
            });
            assert_eq!(seen, expected, "{links:?}");
            for through in ["link.torrent", "directory/secret.torrent"] {
                let read = read(&inside, Path::new(through), links);
                assert_eq!(read.is_ok(), links == Links::Followed, "{through}");
            }
        }
    }
}
