//! Which of the user's files hold the content of a torrent.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::proto::metainfo::{EntryKind, Metainfo};
use crate::storage::Adopt;

/// The files of `metainfo` below `data`: `data` itself is the file or the directory that the torrent names, or the
/// directory that holds it. What is not there is reported by the store.
pub(super) fn find(metainfo: &Metainfo, data: &Path) -> Adopt {
    let data = std::path::absolute(data).unwrap_or_else(|_| data.to_owned());
    let inside = data.join(OsStr::from_bytes(&metainfo.name));
    let path = |entry: &crate::proto::metainfo::Entry, root: &Path| match entry.kind {
        EntryKind::File { .. } if metainfo.single_file => Some(root.to_owned()),
        EntryKind::File { .. } => Some(root.join(OsStr::from_bytes(&entry.path))),
        EntryKind::Padding | EntryKind::Symlink { .. } => None,
    };
    let there =
        |root: &Path| metainfo.entries.iter().filter_map(|entry| path(entry, root)).filter(|p| p.is_file()).count();
    let root: PathBuf = match metainfo.single_file {
        true if data.is_dir() => inside,
        true => data,
        false if there(&inside) > there(&data) => inside,
        false => data,
    };
    Adopt { paths: metainfo.entries.iter().map(|entry| path(entry, &root)).collect() }
}
