//! What there is below a path.

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use super::{ScanError, Tree, TreeEntry, TreeEntryKind, io_error};

/// Looks at everything below `root`: a file, or a directory. A symlink as root is followed, others are kept as what they
/// are. The file `except` (device and inode) is passed over: the torrent of an earlier run, for example.
///
/// # Errors
/// [`ScanError`] for what cannot be read or cannot be a part of a torrent.
pub fn walk(root: &Path, except: Option<(u64, u64)>) -> Result<Tree, ScanError> {
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
    // Directories still to be read, by their components below the root.
    let mut directories: Vec<Vec<Vec<u8>>> = vec![Vec::new()];
    while let Some(directory) = directories.pop() {
        let location = below(&root, &directory);
        if directory.len() >= MAX_DEPTH {
            return Err(ScanError::TooDeep(location));
        }
        for entry in fs::read_dir(&location).map_err(io_error("read", &location))? {
            let entry = entry.map_err(io_error("read", &location))?;
            let location = entry.path();
            let metadata = fs::symlink_metadata(&location).map_err(io_error("look at", &location))?;
            let mut path = directory.clone();
            path.push(entry.file_name().into_vec());
            let kind = match metadata.file_type() {
                kind if kind.is_dir() => {
                    directories.push(path);
                    continue;
                }
                kind if kind.is_file() && except == Some((metadata.dev(), metadata.ino())) => continue,
                kind if kind.is_file() => file(&location, &metadata),
                kind if kind.is_symlink() => TreeEntryKind::Symlink { target: target(&root, &directory, &location)? },
                _ => return Err(ScanError::Special(location)),
            };
            entries.push(TreeEntry { path, kind });
        }
    }
    entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Ok(Tree { single_file: false, entries })
}

fn file(location: &Path, metadata: &Metadata) -> TreeEntryKind {
    TreeEntryKind::File {
        location: location.to_owned(),
        length: metadata.len(),
        modified: metadata.modified().ok(),
        executable: metadata.mode() & 0o100 != 0,
    }
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
