//! What the small files of a slot claim, read from memory: for tests that judge the reading alone, millions of times.

use std::collections::BTreeMap;
use std::io;

use super::files::StateFiles;
use super::journal::BootId;
use super::recover::recover;
use crate::base::{Bitfield, InfoHash, Layout};

/// What a start would take from a slot, before it looks at any file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// Verified once, and the bytes are where they were put.
    pub have: Bitfield,
    /// To be checked first; none of `have`.
    pub unchecked: Bitfield,
    /// Those of `have` whose bytes may lie in the page cache alone.
    pub unsynced: Bitfield,
    /// Why the checkpoint was of no use, if that is so.
    pub damage: Option<String>,
}

/// Reads `state` and `journal.<n>` (by name) as they would lie in the slot of this torrent; `boot`: the present one.
pub fn claims(files: &BTreeMap<String, Vec<u8>>, torrent: InfoHash, layout: &Layout, boot: [u8; 16]) -> Claims {
    let found = recover(&InMemory(files.clone()), torrent, layout, BootId(boot));
    Claims { have: found.have, unchecked: found.unchecked, unsynced: found.unsynced, damage: found.damage }
}

/// Files that can only be read.
#[derive(Debug)]
struct InMemory(BTreeMap<String, Vec<u8>>);

impl StateFiles for InMemory {
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(self.0.get(name).cloned())
    }

    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.0.keys().cloned().collect())
    }

    fn create(&self, _: &str, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn append(&self, _: &str, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync(&self, _: &str) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn remove(&self, _: &str) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync_names(&self) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
}
