//! Files of the user's that hold the content of a torrent.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::super::{StorageError, io_error};
use crate::base::Layout;
use crate::proto::metainfo::{Entry, EntryKind, Metainfo};

/// Files of the user's to be shared as they are, opened read-only (I4).
#[derive(Debug, Clone)]
pub struct Adopt {
    /// For each file of the layout its path (absolute), `None` for padding and symlinks.
    pub paths: Vec<Option<PathBuf>>,
}

impl Adopt {
    /// The files of `metainfo` below `data`: `data` itself is the file or the directory that the torrent names, or the
    /// directory that holds it. Whether they are there, and right, is seen later.
    pub fn find(metainfo: &Metainfo, data: &Path) -> Self {
        let data = std::path::absolute(data).unwrap_or_else(|_| data.to_owned());
        let inside = data.join(OsStr::from_bytes(&metainfo.name));
        let path = |entry: &Entry, root: &Path| match entry.kind {
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
        Self { paths: metainfo.entries.iter().map(|entry| path(entry, &root)).collect() }
    }

    /// The directory that all paths have in common (its real path), and the paths below it.
    pub(in crate::storage) fn split_root(
        self,
        layout: &Layout,
    ) -> Result<(PathBuf, Vec<Option<PathBuf>>), StorageError> {
        let mismatch =
            |path: &Path, reason: &str| StorageError::Mismatch { path: path.to_owned(), reason: reason.into() };
        let mut root: Option<PathBuf> = None;
        for path in self.paths.iter().flatten() {
            let plain = path.is_absolute() && !path.components().any(|part| matches!(part, Component::ParentDir));
            let Some(parent) = path.parent().filter(|_| plain) else {
                return Err(mismatch(path, "not an absolute path of a file"));
            };
            root = Some(match root {
                None => parent.to_owned(),
                Some(root) => {
                    root.components().zip(parent.components()).take_while(|(a, b)| a == b).map(|(a, _)| a).collect()
                }
            });
        }
        let root = root.ok_or_else(|| mismatch(Path::new(""), "there is no file to share"))?;
        let below = |path: PathBuf| path.strip_prefix(&root).map(Path::to_owned).ok();
        let mut paths: Vec<_> = self.paths.into_iter().map(|path| path.and_then(below)).collect();
        paths.resize(layout.file_count(), None);
        let root = root.canonicalize().map_err(io_error("open", &root))?;
        Ok((root, paths))
    }
}
