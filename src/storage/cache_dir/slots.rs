//! All slots of a cache directory at a glance: what they hold, whose they are, and giving whole ones back.
//!
//! A slot is removed only under its lock (I4), and never while it is pinned. Pins lie beside the slots, one empty file
//! named by its info-hash for each torrent, so that they can be set whoever owns what.

use std::ffi::{CStr, OsStr};
use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{ADOPTED, CacheDir, DATA, LOCK, is_same, owner_text};
use crate::base::InfoHash;
use crate::storage::sys::{self, Open};
use crate::storage::{StorageError, io_error};

/// One slot, as it is now.
#[derive(Debug, Clone)]
pub struct SlotStatus {
    /// Its directory's name: the info-hash, and a number when it is not the torrent's first.
    pub name: String,
    /// The torrent.
    pub info_hash: InfoHash,
    /// The raw info dictionary, as it was kept.
    pub info: Option<Vec<u8>>,
    /// Bytes that its files take on the disk.
    pub bytes: u64,
    /// When it was opened, or its use written down, last.
    pub last_used: SystemTime,
    /// Who has it open now, as they say.
    pub owner: Option<String>,
    /// It is that of a user's own files: it holds nothing of theirs.
    pub adopted: bool,
    /// Its torrent is pinned.
    pub pinned: bool,
}

/// What came of a try to remove a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removed {
    /// It is gone, and gave so many bytes.
    Gone(u64),
    /// Somebody has it open.
    InUse,
    /// Its torrent is pinned.
    Pinned,
    /// There is no such slot.
    Missing,
}

impl CacheDir {
    /// All slots, by name. Costs a look at every file in them. Where nothing can be written it is taken without a lock.
    pub fn slots(&self) -> Result<Vec<SlotStatus>, StorageError> {
        let _global = match self.lock_globally(&mut Vec::new()) {
            Err(StorageError::Io { source, .. }) if is_read_only(&source) => None,
            locked => locked?,
        };
        let mut slots = Vec::new();
        for (name, info_hash) in self.slot_names()? {
            match self.look_at(&name, info_hash) {
                Ok(slot) => slots.extend(slot),
                Err(error) => tracing::debug!(%error, name, "a slot cannot be looked at"),
            }
        }
        slots.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(slots)
    }

    /// Removes a slot that nobody has open and whose torrent is not pinned.
    pub fn remove(&self, name: &str) -> Result<Removed, StorageError> {
        let Some(info_hash) = hash_of(name) else { return Ok(Removed::Missing) };
        let _global = self.lock_globally(&mut Vec::new())?;
        self.remove_slot(name, info_hash).map_err(io_error("remove", &self.path.join(name)))
    }

    /// Keeps all slots of a torrent from being evicted or removed, now and later.
    pub fn pin(&self, torrent: InfoHash) -> Result<(), StorageError> {
        let failed = io_error("write", &self.path.join(PINNED));
        match sys::make_dir_at(self.dir(), OsStr::new(PINNED)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
            _ => {}
        }
        let pins = sys::open_at(self.dir(), OsStr::new(PINNED), Open::Directory).map_err(&failed)?;
        sys::open_at(&pins, OsStr::new(&torrent.to_string()), Open::Create).map(drop).map_err(failed)
    }

    /// Ends that; false when it was not pinned.
    pub fn unpin(&self, torrent: InfoHash) -> Result<bool, StorageError> {
        let pinned = self.is_pinned(torrent);
        if pinned {
            let failed = io_error("write", &self.path.join(PINNED));
            let pins = sys::open_at(self.dir(), OsStr::new(PINNED), Open::Directory).map_err(&failed)?;
            sys::unlink_at(&pins, OsStr::new(&torrent.to_string())).map_err(failed)?;
        }
        Ok(pinned)
    }

    /// Whether a torrent is pinned.
    pub fn is_pinned(&self, torrent: InfoHash) -> bool {
        let name = format!("{PINNED}/{torrent}");
        sys::status_at(self.dir(), OsStr::new(&name)).is_ok_and(|status| status.is_some())
    }

    /// Removes slots that nobody has open, least recently used first, until they gave `wanted` bytes; how many they gave.
    pub(crate) fn remove_oldest(&self, wanted: u64) -> Result<u64, StorageError> {
        let mut slots = self.slots()?;
        slots.retain(|slot| slot.owner.is_none() && !slot.pinned && !slot.adopted && slot.bytes > 0);
        slots.sort_by_key(|slot| slot.last_used);
        let mut freed = 0;
        for slot in slots {
            if freed >= wanted {
                break;
            }
            if let Removed::Gone(bytes) = self.remove(&slot.name)? {
                tracing::debug!(slot = slot.name, bytes, "removed");
                freed += bytes;
            }
        }
        Ok(freed)
    }

    /// Bytes in slots that nobody has open.
    pub(crate) fn unowned_bytes(&self) -> Result<u64, StorageError> {
        let slots = self.slots()?;
        Ok(slots.iter().filter(|slot| slot.owner.is_none() && !slot.adopted).map(|slot| slot.bytes).sum())
    }

    fn slot_names(&self) -> Result<Vec<(String, InfoHash)>, StorageError> {
        let names = sys::names_in(self.dir()).map_err(io_error("read", &self.path))?;
        let slot = |name: &std::ffi::CString| {
            let name = name.to_str().ok()?;
            Some((name.to_owned(), hash_of(name)?))
        };
        Ok(names.iter().filter_map(slot).collect())
    }

    /// Under the global lock: a slot's own lock is taken for a moment, which nobody must take for an owner's.
    fn look_at(&self, name: &str, info_hash: InfoHash) -> io::Result<Option<SlotStatus>> {
        let Ok(dir) = sys::open_at(self.dir(), OsStr::new(name), Open::Directory) else { return Ok(None) };
        let lock = match sys::open_at(&dir, OsStr::new(LOCK), Open::Write) {
            Err(error) if is_read_only(&error) => sys::open_at(&dir, OsStr::new(LOCK), Open::Read),
            lock => lock,
        };
        let (lock, owner) = match lock {
            Ok(lock) => {
                let owner = match lock.try_lock() {
                    Ok(()) => None,
                    Err(TryLockError::WouldBlock) => Some(owner_of(&lock)),
                    Err(TryLockError::Error(error)) => return Err(error),
                };
                (Some(lock), owner)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => (None, None),
            Err(error) => return Err(error),
        };
        drop(lock);
        let written = [LOCK, "used", "state"].map(|name| sys::status_at(&dir, OsStr::new(name)).ok().flatten());
        let last = written.iter().flatten().map(|status| status.mtime).max().unwrap_or(0);
        Ok(Some(SlotStatus {
            name: name.to_owned(),
            info_hash,
            info: read_small(&dir, "info"),
            bytes: data_bytes(&dir)?,
            last_used: UNIX_EPOCH + Duration::from_nanos(u64::try_from(last).unwrap_or(0)),
            owner,
            adopted: sys::status_at(&dir, OsStr::new(ADOPTED))?.is_some(),
            pinned: self.is_pinned(info_hash),
        }))
    }

    fn remove_slot(&self, name: &str, info_hash: InfoHash) -> io::Result<Removed> {
        let dir = match sys::open_at(self.dir(), OsStr::new(name), Open::Directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Removed::Missing),
            other => other?,
        };
        // Without its lock nothing in a slot is touched (I4).
        let lock = sys::open_at(&dir, OsStr::new(LOCK), Open::Create)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(Removed::InUse),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        if !self.has(OsStr::new(name), &dir)? || !is_same(&lock, sys::status_at(&dir, OsStr::new(LOCK))?)? {
            return Ok(Removed::InUse);
        }
        if self.is_pinned(info_hash) {
            return Ok(Removed::Pinned);
        }
        let bytes = data_bytes(&dir)?;
        empty(&dir)?;
        remove_emptied(&self.dir(), OsStr::new(name), &dir)?;
        Ok(Removed::Gone(bytes))
    }
}

/// Removes what a slot holds, its lock excepted. For whoever has that lock (I4).
pub(super) fn empty(slot: &File) -> io::Result<()> {
    // What claims the bytes goes before them (I3).
    for name in sys::names_in(slot)?.iter().map(|name| os(name)).filter(|&name| name != LOCK && name != DATA) {
        ignore_odd(sys::unlink_at(slot, name))?;
    }
    if let Ok(data) = sys::open_at(slot, OsStr::new(DATA), Open::Directory) {
        for name in sys::names_in(&data)?.iter().map(|name| os(name)).filter(|name| is_file_name(name)) {
            ignore_odd(sys::unlink_at(&data, name))?;
        }
        ignore_odd(sys::remove_dir_at(slot, OsStr::new(DATA)))?;
    }
    Ok(())
}

/// Removes a slot that was emptied. What is not ours stays, and the empty rest of the slot around it.
pub(super) fn remove_emptied(parent: &File, name: &OsStr, slot: &File) -> io::Result<()> {
    if sys::names_in(slot)?.len() == 1 {
        sys::unlink_at(slot, OsStr::new(LOCK))?;
        ignore_odd(sys::remove_dir_at(parent, name))?;
    }
    Ok(())
}

/// Whether something can be looked at, but not written.
fn is_read_only(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied)
}

/// Whose process it is and what it has mounted: the first two lines of a lock's text.
fn owner_of(lock: &File) -> String {
    let mut bytes = [0; 1000];
    let read = lock.read_at(&mut bytes, 0).unwrap_or(0);
    let text = String::from_utf8_lossy(&bytes[..read]);
    match text.lines().nth(1).map(|line| line.chars().filter(|c| !c.is_control()).collect::<String>()) {
        Some(second) if !second.trim().is_empty() => format!("{}, {}", owner_text(lock), second.trim()),
        _ => owner_text(lock),
    }
}

/// Bytes that the files of a slot take.
fn data_bytes(slot: &File) -> io::Result<u64> {
    let Ok(data) = sys::open_at(slot, OsStr::new(DATA), Open::Directory) else { return Ok(0) };
    let mut bytes = 0;
    for name in sys::names_in(&data)? {
        let status = sys::status_at(&data, os(&name))?;
        bytes += status.filter(|status| status.regular).map_or(0, |status| status.allocated);
    }
    Ok(bytes)
}

fn read_small(slot: &File, name: &str) -> Option<Vec<u8>> {
    let file = sys::open_at(slot, OsStr::new(name), Open::Read).ok()?;
    let status = sys::status_of(&file).ok().filter(|status| status.regular && status.size <= MAX_INFO_BYTES)?;
    let mut bytes = vec![0; status.size as usize];
    file.read_exact_at(&mut bytes, 0).ok().map(|()| bytes)
}

/// The torrent of a slot's name; `None` for what is no slot.
fn hash_of(name: &str) -> Option<InfoHash> {
    let (hash, number) = name.split_once('.').map_or((name, None), |(hash, number)| (hash, Some(number)));
    let numbered = number.is_none_or(|number| number.parse::<u32>().is_ok_and(|parsed| parsed.to_string() == number));
    hash.parse().ok().filter(|_| numbered)
}

fn is_file_name(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| name.parse::<u32>().is_ok())
}

fn os(name: &CStr) -> &OsStr {
    OsStr::from_bytes(name.to_bytes())
}

/// What is no file, or not empty, is not ours to remove.
fn ignore_odd(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EISDIR | libc::EPERM | libc::ENOTEMPTY)) => Ok(()),
        other => other,
    }
}

const PINNED: &str = "pinned";
/// As large as a torrent file may be.
const MAX_INFO_BYTES: u64 = 64 << 20;

#[cfg(test)]
mod tests {
    use super::super::Use;
    use super::*;

    const HASH: InfoHash = InfoHash([7; 20]);

    fn slot(cache: &CacheDir, hash: InfoHash, bytes: usize) -> super::super::Slot {
        let slot = cache.take_slot(hash, Use::Cache, &mut Vec::new()).unwrap();
        slot.data_dir(&mut Vec::new()).unwrap();
        std::fs::write(slot.path.join("data/0"), vec![1; bytes]).unwrap();
        std::fs::write(slot.path.join("info"), "de").unwrap();
        slot
    }

    #[test]
    fn slots_are_listed_with_what_they_hold_and_whose_they_are() {
        let temp = tempfile::tempdir().unwrap();
        let cache = CacheDir::open(temp.path()).unwrap();
        let owned = slot(&cache, HASH, 8192);
        owned.describe_owner("pid 1\nmount /mnt/x\ncontrol z").unwrap();
        drop(slot(&cache, InfoHash([8; 20]), 100));
        cache.pin(InfoHash([8; 20])).unwrap();
        std::fs::create_dir(temp.path().join("else")).unwrap();
        let slots = cache.slots().unwrap();
        let seen: Vec<_> =
            slots.iter().map(|s| (s.info_hash, s.owner.as_deref(), s.pinned, s.info.is_some())).collect();
        assert_eq!(seen, [(HASH, Some("pid 1, mount /mnt/x"), false, true), (InfoHash([8; 20]), None, true, true)]);
        assert!(slots[0].bytes >= 8192 && slots[1].bytes > 0);
        assert_eq!(cache.unowned_bytes().unwrap(), slots[1].bytes);
    }

    #[test]
    fn neither_what_is_in_use_nor_what_is_pinned_is_removed() {
        let temp = tempfile::tempdir().unwrap();
        let cache = CacheDir::open(temp.path()).unwrap();
        let owned = slot(&cache, HASH, 100);
        let name = HASH.to_string();
        assert_eq!(cache.remove(&name).unwrap(), Removed::InUse);
        drop(owned);
        cache.pin(HASH).unwrap();
        assert_eq!((cache.remove(&name).unwrap(), cache.remove_oldest(1).unwrap()), (Removed::Pinned, 0));
        assert!(cache.unpin(HASH).unwrap() && !cache.unpin(HASH).unwrap());
        assert!(matches!(cache.remove(&name).unwrap(), Removed::Gone(bytes) if bytes > 0));
        assert!(!temp.path().join(&name).exists());
        for missing in [&name, "..", "cache.lock"] {
            assert_eq!(cache.remove(missing).unwrap(), Removed::Missing);
        }
    }

    #[test]
    fn the_least_recently_used_go_first_and_no_more_than_needed() {
        let temp = tempfile::tempdir().unwrap();
        let cache = CacheDir::open(temp.path()).unwrap();
        for (number, age) in [(1, 30), (2, 90), (3, 60)] {
            let slot = slot(&cache, InfoHash([number; 20]), 4096);
            let lock = File::options().write(true).open(slot.path.join(LOCK)).unwrap();
            lock.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        }
        assert!(cache.remove_oldest(4097).unwrap() >= 8192);
        let left: Vec<_> = cache.slots().unwrap().into_iter().map(|slot| slot.info_hash).collect();
        assert_eq!(left, [InfoHash([1; 20])]);
    }

    #[test]
    fn what_is_not_ours_in_a_slot_stays() {
        let temp = tempfile::tempdir().unwrap();
        let cache = CacheDir::open(temp.path()).unwrap();
        let path = slot(&cache, HASH, 100).path.clone();
        std::fs::write(path.join("data/notes"), "mine").unwrap();
        assert!(matches!(cache.remove(&HASH.to_string()).unwrap(), Removed::Gone(_)));
        assert_eq!(std::fs::read(path.join("data/notes")).unwrap(), b"mine");
        assert!(!path.join("data/0").exists());
        drop(slot(&cache, HASH, 100));
    }
}
