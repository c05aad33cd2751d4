//! What there is below a path.

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use super::{ScanError, Stamp, Tree, TreeEntry, TreeEntryKind, io_error};

/// What of a directory is taken.
pub struct Wanted<'w> {
    /// The file of this device and inode is passed over: the torrent of an earlier run, for example.
    pub except: Option<(u64, u64)>,
    /// Symlinks are taken for what they lead to, wherever that is.
    pub follow: bool,
    /// Whether something is taken, by its components below the root joined by `/`; of a directory (`true`): looked into.
    pub keep: &'w dyn Fn(&[u8], bool) -> bool,
}

impl Wanted<'static> {
    /// Everything, links as links.
    pub const ALL: Self = Self { except: None, follow: false, keep: &|_, _| true };
}

/// Looks at everything wanted below `root`: a file, or a directory. A symlink as root is followed; others are kept as what
/// they are unless they are to be followed. A file as root is always wanted.
///
/// # Errors
/// [`ScanError`] for what cannot be read or cannot be a part of a torrent.
pub fn walk(root: &Path, wanted: &Wanted<'_>) -> Result<Tree, ScanError> {
    let root = fs::canonicalize(root).map_err(io_error("open", root))?;
    let metadata = fs::metadata(&root).map_err(io_error("look at", &root))?;
    if metadata.is_file() {
        let entry = TreeEntry { path: Vec::new(), kind: file(&root, &metadata) };
        return Ok(Tree { single_file: true, entries: vec![entry] });
    }
    if !metadata.is_dir() {
        return Err(ScanError::Special(root));
    }
    let mut entries = Vec::new();
    let mut directories = vec![Directory { path: Vec::new(), above: vec![place(&metadata)] }];
    let mut count = 0;
    while let Some(directory) = directories.pop() {
        let location = below(&root, &directory.path);
        if directory.path.len() >= MAX_DEPTH {
            return Err(ScanError::TooDeep(location));
        }
        for entry in fs::read_dir(&location).map_err(io_error("read", &location))? {
            let entry = entry.map_err(io_error("read", &location))?;
            let location = entry.path();
            let mut path = directory.path.clone();
            path.push(entry.file_name().into_vec());
            // Before anything is asked of it: what is left out may be unreadable, a socket, or lead out of here.
            let is_wanted = |is_directory| (wanted.keep)(&path.join(&b'/'), is_directory);
            let mut metadata = fs::symlink_metadata(&location).map_err(io_error("look at", &location))?;
            if metadata.is_symlink() && wanted.follow {
                if !is_wanted(false) && !is_wanted(true) {
                    continue;
                }
                metadata = follow(&location)?;
                if metadata.is_dir() && directory.above.contains(&place(&metadata)) {
                    return Err(ScanError::Loop(location));
                }
            }
            if !is_wanted(metadata.is_dir()) {
                continue;
            }
            count += 1;
            if count > MAX_ENTRIES {
                return Err(ScanError::TooMany(root));
            }
            let kind = match metadata.file_type() {
                kind if kind.is_dir() => {
                    let above = [&directory.above[..], &[place(&metadata)]].concat();
                    directories.push(Directory { path, above });
                    continue;
                }
                kind if kind.is_file() && wanted.except == Some(place(&metadata)) => continue,
                kind if kind.is_file() => file(&location, &metadata),
                kind if kind.is_symlink() => {
                    TreeEntryKind::Symlink { target: target(&root, &directory.path, &location)? }
                }
                _ => return Err(ScanError::Special(location)),
            };
            entries.push(TreeEntry { path, kind });
        }
    }
    entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Ok(Tree { single_file: false, entries })
}

/// A directory that is still to be read.
struct Directory {
    /// Components below the root.
    path: Vec<Vec<u8>>,
    /// Itself and those that it lies in, up to the root: what a followed link must not lead to.
    above: Vec<(u64, u64)>,
}

fn file(location: &Path, metadata: &Metadata) -> TreeEntryKind {
    TreeEntryKind::File {
        location: location.to_owned(),
        stamp: Stamp::of(metadata),
        executable: metadata.mode() & 0o100 != 0,
    }
}

/// What a symlink leads to.
fn follow(link: &Path) -> Result<Metadata, ScanError> {
    fs::metadata(link).map_err(|error| match error.kind() {
        ErrorKind::NotFound => ScanError::Dangling(link.to_owned()),
        _ if error.raw_os_error() == Some(libc::ELOOP) => ScanError::Loop(link.to_owned()),
        _ => io_error("look at", link)(error),
    })
}

/// Device and inode.
fn place(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Where a symlink in `directory` leads, from the root; only if that is a place below it.
fn target(root: &Path, directory: &[Vec<u8>], link: &Path) -> Result<Vec<Vec<u8>>, ScanError> {
    let outside = || ScanError::Outside(link.to_owned());
    let text = fs::read_link(link).map_err(io_error("read", link))?;
    let (mut target, rest) = match text.strip_prefix(root) {
        Ok(rest) => (Vec::new(), rest),
        Err(_) if text.is_absolute() => return Err(outside()),
        Err(_) => (directory.to_vec(), text.as_path()),
    };
    for component in rest.components() {
        match component {
            Component::Normal(name) => target.push(name.as_bytes().to_vec()),
            Component::ParentDir => drop(target.pop().ok_or_else(outside)?),
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return Err(outside()),
        }
    }
    if target.is_empty() {
        return Err(outside());
    }
    // `..` after a link to a directory means another place to the kernel than to the eye.
    let same = match (fs::canonicalize(link), fs::canonicalize(below(root, &target))) {
        (Ok(real), Ok(ours)) => real == ours && real.starts_with(root),
        (Err(_), Err(_)) => true,
        _ => false,
    };
    if same { Ok(target) } else { Err(outside()) }
}

fn below(root: &Path, path: &[Vec<u8>]) -> PathBuf {
    path.iter().fold(root.to_owned(), |location, name| location.join(OsStr::from_bytes(name)))
}

/// As deep as a torrent may be (rule P5).
const MAX_DEPTH: usize = crate::proto::metainfo::MAX_PATH_COMPONENTS;

/// More than fit into the values that a torrent may have (rule P5): each is a dictionary of a length and a path. Also where
/// followed links that lead to one another's neighbours end, whose number doubles with each step.
pub(super) const MAX_ENTRIES: usize = crate::proto::bencode::MAX_TOKENS / 6;
