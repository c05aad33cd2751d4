//! Whether the database's file still has the name by which it was opened: what is written to a file without a name is
//! gone with the process.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The name, and the file that has it when all is well.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    ours: Mutex<Identity>,
}

/// What tells files apart: device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity(u64, u64);

/// Where the name leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lies {
    /// To our file.
    Here,
    /// To another one.
    Elsewhere,
    /// To nothing; the directory is there.
    Nowhere,
}

impl Place {
    /// Of a file that has just been opened by this name.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), ours: Mutex::new(identity(path)?) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Which file is ours: another one after each [`settle`](Self::settle).
    pub(super) fn ours(&self) -> Identity {
        *self.ours.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks where the name leads.
    ///
    /// # Errors
    /// The directory is not there, or cannot be looked into.
    pub(super) fn look(&self) -> io::Result<Lies> {
        match identity(&self.path) {
            Ok(found) if found == self.ours() => Ok(Lies::Here),
            Ok(_) => Ok(Lies::Elsewhere),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let directory = self.directory();
                fs::metadata(directory).map(|_| Lies::Nowhere).map_err(|error| {
                    let text = format!("{}: {error}; make it again, or mount what belongs there", directory.display());
                    io::Error::new(error.kind(), text)
                })
            }
            Err(error) => Err(error),
        }
    }

    /// A name beside, free.
    pub(super) fn fresh(&self) -> PathBuf {
        let fresh = self.beside(".new");
        let _ = fs::remove_file(&fresh);
        fresh
    }

    /// Gives the name to the file at `fresh`, when all of it is on the disk.
    pub(super) fn put(&self, fresh: &Path) -> io::Result<()> {
        File::open(fresh)?.sync_all()?;
        // What they say of the file before must not be read into this one.
        for suffix in ["-wal", "-shm"] {
            match fs::remove_file(self.beside(suffix)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(fresh, &self.path)?;
        File::open(self.directory())?.sync_all()
    }

    /// The file that has the name now, and is open, is ours from here on.
    pub(super) fn settle(&self) -> io::Result<()> {
        *self.ours.lock().unwrap_or_else(PoisonError::into_inner) = identity(&self.path)?;
        Ok(())
    }

    fn directory(&self) -> &Path {
        match self.path.parent() {
            Some(directory) if directory != Path::new("") => directory,
            _ => Path::new("."),
        }
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(suffix);
        name.into()
    }
}

fn identity(path: &Path) -> io::Result<Identity> {
    let metadata = fs::metadata(path)?;
    Ok(Identity(metadata.dev(), metadata.ino()))
}
