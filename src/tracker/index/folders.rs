//! What was taken from directories that are watched: each file once, also over lives of the process. So a torrent that was
//! removed from the index stays away though its file still lies there, until somebody writes it anew.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rusqlite::params;

use super::torrents::Upload;
use super::{Added, Index, IndexError, unix};

/// A file of a watched directory.
pub struct FolderFile {
    /// In the directory.
    pub path: PathBuf,
    /// What changes when it is written anew.
    pub stamp: String,
    /// What is in it.
    pub upload: Upload,
}

impl Index {
    /// What was taken from this directory: paths in it, and what the files looked like.
    ///
    /// # Errors
    /// The database's trouble.
    pub fn taken(&self, folder: &Path) -> Result<HashMap<PathBuf, String>, IndexError> {
        self.read(|connection| {
            let mut statement = connection.prepare_cached("SELECT path, stamp FROM watched WHERE folder = ?")?;
            let taken = statement.query_map([folder.as_os_str().as_bytes()], |row| {
                Ok((PathBuf::from(OsString::from_vec(row.get(0)?)), row.get(1)?))
            })?;
            Ok(taken.collect::<Result<_, _>>()?)
        })
    }

    /// Takes files of this directory, as [`add`](Self::add) does, in one transaction; what became of each.
    ///
    /// # Errors
    /// The database's trouble; then none was taken.
    pub fn take(
        &self,
        folder: &Path,
        uploader: &str,
        files: Vec<FolderFile>,
        now: SystemTime,
    ) -> Result<Vec<Added>, IndexError> {
        let (folder, uploader, added) = (folder.to_owned(), uploader.to_owned(), unix(now));
        let taken = self.write(move |connection| {
            let mut taken = Vec::with_capacity(files.len());
            let mut note =
                connection.prepare_cached("INSERT OR REPLACE INTO watched (folder, path, stamp) VALUES (?, ?, ?)")?;
            for FolderFile { path, stamp, upload } in files {
                let (new, listed) = upload.add(connection, Some(&uploader), added)?;
                note.execute(params![folder.as_os_str().as_bytes(), path.as_os_str().as_bytes(), stamp])?;
                taken.push((new, listed));
            }
            Ok(taken)
        })?;
        Ok(self.change_catalog(|catalog| {
            let list = |(new, listed)| {
                let shown = catalog.add(listed);
                Added { hashes: listed.hashes, new, shown, warnings: Vec::new() }
            };
            taken.into_iter().map(list).collect()
        }))
    }

    /// These files are gone from the directory; what was taken from them stays.
    ///
    /// # Errors
    /// The database's trouble.
    pub fn forget_taken(&self, folder: &Path, paths: Vec<PathBuf>) -> Result<(), IndexError> {
        let folder = folder.to_owned();
        self.write(move |connection| {
            let mut statement = connection.prepare_cached("DELETE FROM watched WHERE folder = ? AND path = ?")?;
            for path in paths {
                statement.execute(params![folder.as_os_str().as_bytes(), path.as_os_str().as_bytes()])?;
            }
            Ok(())
        })
    }
}
