//! The small files of a slot, behind a trait so that tests can take the power away.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::{Arc, PoisonError, RwLock};

use super::super::sys::{self, Open};

/// The files of a slot other than its data. Names are ours alone.
pub(crate) trait StateFiles: Send + Sync + fmt::Debug {
    /// The whole of a file; `None` when it is missing.
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>>;

    /// All names.
    fn names(&self) -> io::Result<Vec<String>>;

    /// Makes a file, or empties it, and writes `bytes`.
    fn create(&self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// Writes at the end of a file that exists.
    fn append(&self, name: &str, bytes: &[u8]) -> io::Result<()>;

    /// Waits until a file is on the disk.
    fn sync(&self, name: &str) -> io::Result<()>;

    /// Gives a file another name, replacing what had it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file; nothing there is no error.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Waits until names are on the disk.
    fn sync_names(&self) -> io::Result<()>;
}

/// Files in a directory. Each call opens by name, so a slot that somebody has removed is noticed.
#[derive(Debug)]
pub(crate) struct Directory(RwLock<Arc<File>>);

impl Directory {
    pub(crate) fn new(dir: File) -> Self {
        Self(RwLock::new(Arc::new(dir)))
    }

    /// It is another directory from now on.
    pub(crate) fn move_to(&self, dir: File) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(dir);
    }

    fn dir(&self) -> Arc<File> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Opens a file of ours; somebody else's directory, pipe or link of that name is none.
    fn open(&self, name: &str, how: Open) -> io::Result<File> {
        let file = sys::open_at(self.dir(), OsStr::new(name), how)?;
        match sys::status_of(&file)?.regular {
            true => Ok(file),
            false => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
        }
    }
}

impl StateFiles for Directory {
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let file = match self.open(name, Open::Read) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let mut bytes = Vec::new();
        file.take(MAX_BYTES).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let names = sys::names_in(self.dir())?;
        Ok(names.into_iter().filter_map(|name| name.into_string().ok()).collect())
    }

    fn create(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.open(name, Open::Truncate)?.write_all(bytes)
    }

    fn append(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.open(name, Open::Append)?.write_all(bytes)
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        self.open(name, Open::Read)?.sync_data()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        sys::rename_at(self.dir(), OsStr::new(from), OsStr::new(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        sys::unlink_at(self.dir(), OsStr::new(name))
    }

    fn sync_names(&self) -> io::Result<()> {
        self.dir().sync_all()
    }
}

/// More than any file of ours has; what is longer is damaged anyway.
const MAX_BYTES: u64 = 1 << 30;
