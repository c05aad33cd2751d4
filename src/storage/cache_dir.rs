//! The cache directory and its slots (docs/architecture.md §6).
//!
//! A slot belongs to one torrent and, while its lock is held, to one process (I4). Choosing one never fails because of
//! what others hold or left behind: there is always a next one.

mod aside;
mod slots;

use std::ffi::OsStr;
use std::fs::{DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use self::aside::{put_aside, put_odd_aside};
pub use self::slots::{Removed, SlotStatus};
use super::budget::{Budget, CacheLimits};
use super::sys::{self, Open};
use super::{StorageError, io_error};
use crate::base::InfoHash;

/// An open cache directory; everything below it is reached by descriptor, never by path.
#[derive(Debug)]
pub struct CacheDir {
    /// Shared by all who have this cache open in this process: it may have to be made again.
    dir: Arc<RwLock<Arc<File>>>,
    path: PathBuf,
    budget: Option<Arc<Budget>>,
    /// Files of stores that are open now.
    open_files: Arc<AtomicUsize>,
}

/// What a slot is used for; the two never share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// It holds the torrent's files.
    Cache,
    /// It holds what is known of somebody's own files.
    Adopted,
}

/// A slot that this process owns until the value is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) path: PathBuf,
    seat: RwLock<Arc<Seat>>,
    /// What was last written into the lock.
    owner: Mutex<Option<String>>,
}

/// The open files of a slot.
#[derive(Debug)]
struct Seat {
    dir: File,
    /// Holds the `flock`; its text is for people.
    lock: File,
}

impl CacheDir {
    /// Opens `path`, creating it (0700) and its parents where they are missing.
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        let path = std::path::absolute(path).map_err(io_error("open", path))?;
        DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(io_error("create", &path))?;
        let dir = File::open(&path).map_err(io_error("open", &path))?;
        if !dir.metadata().map_err(io_error("stat", &path))?.is_dir() {
            return Err(io_error("open", &path)(io::ErrorKind::NotADirectory.into()));
        }
        let dir = Arc::new(RwLock::new(Arc::new(dir)));
        Ok(Self { dir, path, budget: None, open_files: Arc::default() })
    }

    /// Keeps the cache within these bounds, together with all other processes that do. Stores that are opened from now on
    /// take part.
    pub fn limit(&mut self, limits: CacheLimits) -> Result<(), StorageError> {
        self.budget = Some(Budget::open(self.share(), limits)?);
        Ok(())
    }

    /// The same directory, without bounds.
    pub(crate) fn share(&self) -> Self {
        let (dir, open_files) = (Arc::clone(&self.dir), Arc::clone(&self.open_files));
        Self { dir, path: self.path.clone(), budget: None, open_files }
    }

    pub(crate) fn budget(&self) -> Option<Arc<Budget>> {
        self.budget.clone()
    }

    /// The number of files that all stores of this directory have open.
    pub(crate) fn open_files(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.open_files)
    }

    pub(crate) fn dir(&self) -> Arc<File> {
        Arc::clone(&self.dir.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Opens the directory anew, making it if need be, where its path does not lead to the one that is open any more;
    /// whether that is so. The only look-up by path after the start: the mount point is neither above nor below it.
    pub(crate) fn settle(&self) -> Result<bool, StorageError> {
        let open = self.directory()?;
        match std::fs::metadata(&self.path) {
            Ok(named) if (named.dev(), named.ino()) == open => return Ok(false),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error("stat", &self.path)(error)),
            _ => {}
        }
        let anew = Self::open(&self.path)?.dir();
        *self.dir.write().unwrap_or_else(PoisonError::into_inner) = anew;
        Ok(true)
    }

    /// Whether a slot is what has its name.
    pub(crate) fn is_named(&self, slot: &Slot) -> io::Result<bool> {
        let seat = slot.seat();
        Ok(slot.path.file_name().is_some_and(|name| self.has(name, &seat.dir).unwrap_or(false))
            && is_same(&seat.lock, sys::status_at(&seat.dir, OsStr::new(LOCK))?)?)
    }

    /// Makes a slot of ours again that was removed, or moved; whether that was needed.
    ///
    /// # Errors
    /// Whatever the system says; `ResourceBusy` when somebody else has it by now.
    pub(crate) fn retake(&self, slot: &Slot) -> Result<bool, StorageError> {
        let failed = io_error("open", &slot.path);
        if self.is_named(slot).map_err(&failed)? {
            return Ok(false);
        }
        let _global = self.lock_globally(&mut Vec::new())?;
        let name = slot.path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        match self.try_slot(name, &slot.path, Use::Cache).map_err(&failed)? {
            Attempt::Taken(anew) => {
                slot.move_to(&anew);
                Ok(true)
            }
            Attempt::Owned(_) | Attempt::Unfit | Attempt::Broken(_) => Err(failed(io::ErrorKind::ResourceBusy.into())),
        }
    }

    /// Its path as given, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Device and inode.
    pub(crate) fn directory(&self) -> Result<(u64, u64), StorageError> {
        sys::status_of(self.dir()).map(|status| (status.dev, status.ino)).map_err(io_error("stat", &self.path))
    }

    /// Takes the first slot of a torrent that no live process owns and that has this use, making it if need be. Slots
    /// that were passed over because somebody owns them are reported in `warnings`.
    pub(crate) fn take_slot(
        &self,
        torrent: InfoHash,
        wanted: Use,
        warnings: &mut Vec<String>,
    ) -> Result<Slot, StorageError> {
        let _global = self.lock_globally(warnings)?;
        for number in 1..=MAX_SLOTS {
            let name = match number {
                1 => torrent.to_string(),
                _ => format!("{torrent}.{number}"),
            };
            let path = self.path.join(&name);
            match self.try_slot(&name, &path, wanted).map_err(io_error("open", &path))? {
                Attempt::Taken(slot) => {
                    if let Err(error) = put_odd_aside(&slot.seat().dir, &path, |name| name != DATA, warnings) {
                        warnings.push(format!("{}: {error}", path.display()));
                    }
                    return Ok(slot);
                }
                Attempt::Owned(owner) => {
                    warnings.push(format!("{} is in use by {owner}; a slot beside it is used", path.display()));
                }
                Attempt::Unfit => {}
                Attempt::Broken(reason) => {
                    warnings.push(format!("{} cannot be used ({reason}); a slot beside it is used", path.display()));
                }
            }
        }
        Err(io_error("lock", &self.path.join(torrent.to_string()))(io::ErrorKind::ResourceBusy.into()))
    }

    /// Takes the slot of this name, making it if need be. There is no other one beside it.
    ///
    /// # Errors
    /// [`StorageError::Mismatch`] when another process has it, or something is in its way.
    pub(crate) fn take_only_slot(&self, name: &str, warnings: &mut Vec<String>) -> Result<Slot, StorageError> {
        let path = self.path.join(name);
        let reason = match self.try_slot(name, &path, Use::Cache).map_err(io_error("open", &path))? {
            Attempt::Taken(slot) => {
                if let Err(error) = put_odd_aside(&slot.seat().dir, &path, |name| name != DATA, warnings) {
                    warnings.push(format!("{}: {error}", path.display()));
                }
                return Ok(slot);
            }
            Attempt::Owned(owner) => format!("in use by {owner}"),
            Attempt::Unfit => "cannot be used".to_owned(),
            Attempt::Broken(reason) => format!("cannot be used: {reason}"),
        };
        Err(StorageError::Mismatch { path, reason })
    }

    fn try_slot(&self, name: &str, path: &Path, wanted: Use) -> io::Result<Attempt> {
        for _ in 0..RETRIES {
            match sys::make_dir_at(self.dir(), OsStr::new(name)) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            let dir = match sys::open_at(self.dir(), OsStr::new(name), Open::Directory) {
                // It was removed this moment.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) if is_odd(&error) => return Ok(Attempt::Broken(error.to_string())),
                other => other?,
            };
            // Without its lock nothing in a slot is touched, so a lock that cannot be had is left as it is.
            let lock = match sys::open_at(&dir, OsStr::new(LOCK), Open::Create) {
                Ok(lock) if sys::status_of(&lock)?.regular => lock,
                Ok(_) => return Ok(Attempt::Broken(format!("{LOCK} is no regular file"))),
                Err(error) if is_odd(&error) => return Ok(Attempt::Broken(format!("{LOCK}: {error}"))),
                Err(error) => return Err(error),
            };
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(Attempt::Owned(owner_text(&lock))),
                Err(TryLockError::Error(error)) => return Err(error),
            }
            // Whoever removes a slot holds its lock: we may have waited for, and got, the lock of a removed one.
            if !self.has(OsStr::new(name), &dir)? || !is_same(&lock, sys::status_at(&dir, OsStr::new(LOCK))?)? {
                continue;
            }
            let other = match wanted {
                Use::Cache => ADOPTED,
                Use::Adopted => DATA,
            };
            if sys::status_at(&dir, OsStr::new(other))?.is_some() {
                return Ok(Attempt::Unfit);
            }
            lock.set_len(0)?;
            lock.write_all_at(format!("pid {}\n", std::process::id()).as_bytes(), 0)?;
            return Ok(Attempt::Taken(Slot::new(path.to_owned(), Seat { dir, lock })));
        }
        Ok(Attempt::Unfit)
    }

    fn has(&self, name: &OsStr, dir: &File) -> io::Result<bool> {
        is_same(dir, sys::status_at(self.dir(), name)?)
    }

    /// The lock for steps that concern several slots. Held for milliseconds; when it cannot be had for long (its owner
    /// is stopped) we go on without: the slots' own locks still keep processes apart.
    fn lock_globally(&self, warnings: &mut Vec<String>) -> Result<Option<File>, StorageError> {
        let path = self.path.join(GLOBAL_LOCK);
        let lock = match sys::open_at(self.dir(), OsStr::new(GLOBAL_LOCK), Open::Create) {
            Err(error) if is_odd(&error) => {
                warnings.push(format!("{} cannot be used ({error}): remove it", path.display()));
                return Ok(None);
            }
            other => other.map_err(io_error("open", &path))?,
        };
        let until = Instant::now() + GLOBAL_PATIENCE;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(Some(lock)),
                Err(TryLockError::WouldBlock) if Instant::now() < until => std::thread::sleep(GLOBAL_POLL),
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(io_error("lock", &path)(error)),
            }
        }
    }
}

impl Slot {
    fn new(path: PathBuf, seat: Seat) -> Self {
        Self { path, seat: RwLock::new(Arc::new(seat)), owner: Mutex::default() }
    }

    fn seat(&self) -> Arc<Seat> {
        Arc::clone(&self.seat.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes the place of another one, which nobody else uses.
    fn move_to(&self, other: &Self) {
        *self.seat.write().unwrap_or_else(PoisonError::into_inner) = other.seat();
        let text = self.owner.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(Err(error)) = text.map(|text| self.describe_owner(&text)) {
            tracing::debug!(%error, "the lock does not say who has it");
        }
    }

    /// The open directory.
    pub(crate) fn dir(&self) -> io::Result<File> {
        self.seat().dir.try_clone()
    }

    /// Writes the text of the lock file. The file stays the same: the lock hangs on it.
    pub(crate) fn describe_owner(&self, text: &str) -> io::Result<()> {
        *self.owner.lock().unwrap_or_else(PoisonError::into_inner) = Some(text.to_owned());
        let seat = self.seat();
        seat.lock.set_len(0)?;
        seat.lock.write_all_at(text.as_bytes(), 0)
    }

    /// Whether `data` is the directory with this device and inode.
    pub(crate) fn has_data(&self, directory: (u64, u64)) -> io::Result<bool> {
        let named = sys::status_at(&self.seat().dir, OsStr::new(DATA))?;
        Ok(named.is_some_and(|named| (named.dev, named.ino) == directory))
    }

    /// Opens the directory `data`, making it if need be. What lies there and cannot be ours is put aside.
    pub(crate) fn data_dir(&self, warnings: &mut Vec<String>) -> io::Result<File> {
        let (name, path) = (OsStr::new(DATA), self.path.join(DATA));
        let data = match self.open_data() {
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTDIR | libc::ELOOP)) => {
                let new = put_aside(&self.seat().dir, name)?;
                warnings.push(format!("{} is no directory: renamed to {}", path.display(), new.display()));
                self.open_data()?
            }
            other => other?,
        };
        put_odd_aside(&data, &path, |name| name.parse::<u32>().is_ok(), warnings)?;
        Ok(data)
    }

    fn open_data(&self) -> io::Result<File> {
        match sys::make_dir_at(&self.seat().dir, OsStr::new(DATA)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => sys::open_at(&self.seat().dir, OsStr::new(DATA), Open::Directory),
        }
    }

    /// Marks the slot as that of the user's files below `root`.
    pub(crate) fn describe_adopted(&self, root: &Path) -> io::Result<()> {
        let file = sys::open_at(&self.seat().dir, OsStr::new(ADOPTED), Open::Truncate)?;
        file.write_all_at(root.as_os_str().as_bytes(), 0)
    }

    /// Removes what it holds, and itself. What is not ours stays, and the empty rest of the slot around it.
    pub(crate) fn dissolve(&self) -> io::Result<()> {
        let seat = self.seat();
        slots::empty(&seat.dir)?;
        let name = self.path.file_name().unwrap_or_default();
        slots::remove_emptied(&sys::open_at(&seat.dir, OsStr::new(".."), Open::Directory)?, name, &seat.dir)
    }

    /// Device and inode.
    pub(crate) fn directory(&self) -> io::Result<(u64, u64)> {
        sys::status_of(&self.seat().dir).map(|status| (status.dev, status.ino))
    }
}

/// The directory of a slot's files.
pub(crate) const DATA: &str = "data";

/// The file that marks a slot as that of adopted files.
const ADOPTED: &str = "adopted";

const LOCK: &str = "lock";
const GLOBAL_LOCK: &str = "cache.lock";

/// Slots of one torrent at most.
const MAX_SLOTS: u32 = 999;

/// How often a slot that is being removed under our hands is tried.
const RETRIES: usize = 3;

const GLOBAL_PATIENCE: Duration = Duration::from_secs(5);
const GLOBAL_POLL: Duration = Duration::from_millis(10);

enum Attempt {
    Taken(Slot),
    /// By whom, as they say.
    Owned(String),
    Unfit,
    /// Something is in the way; what it is.
    Broken(String),
}

/// Whether an error says that something which is not ours has the name.
fn is_odd(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOTDIR | libc::ELOOP | libc::EISDIR | libc::ENXIO | libc::EACCES | libc::EPERM)
    )
}

fn is_same(open: &File, named: Option<sys::FileStatus>) -> io::Result<bool> {
    let open = sys::status_of(open)?;
    Ok(named.is_some_and(|named| (named.dev, named.ino) == (open.dev, open.ino)))
}

/// The first line of a lock's text, cut and harmless for a terminal.
fn owner_text(lock: &File) -> String {
    let mut bytes = [0; 200];
    let read = lock.read_at(&mut bytes, 0).unwrap_or(0);
    let text = String::from_utf8_lossy(&bytes[..read]);
    match text.lines().next().map(str::trim) {
        Some(line) if !line.is_empty() => line.chars().filter(|c| !c.is_control()).collect(),
        _ => "another process".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const HASH: InfoHash = InfoHash([7; 20]);

    fn taken(cache: &CacheDir, wanted: Use) -> (Slot, Vec<String>) {
        let mut warnings = Vec::new();
        (cache.take_slot(HASH, wanted, &mut warnings).unwrap(), warnings)
    }

    #[test]
    fn a_missing_directory_is_made_private() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("a/b");
        let cache = CacheDir::open(&path).unwrap();
        assert_eq!(cache.path(), path);
        for path in [temp.path().join("a"), path] {
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        }
        std::fs::write(temp.path().join("file"), "").unwrap();
        assert!(CacheDir::open(&temp.path().join("file")).is_err());
    }

    #[test]
    fn an_owned_slot_is_passed_over_and_a_freed_one_taken_again() {
        let temp = tempfile::tempdir().unwrap();
        let cache = CacheDir::open(temp.path()).unwrap();
        let (first, warnings) = taken(&cache, Use::Cache);
        assert!(warnings.is_empty() && first.path.ends_with(HASH.to_string()));
        first.describe_owner("pid 1 at /mnt/x\nmore").unwrap();
        let (second, warnings) = taken(&cache, Use::Cache);
        assert!(second.path.ends_with(format!("{HASH}.2")));
        assert!(warnings.len() == 1 && warnings[0].contains("pid 1 at /mnt/x;"), "{warnings:?}");
        drop(first);
        assert!(taken(&cache, Use::Cache).0.path.ends_with(HASH.to_string()));
    }

    #[test]
    fn slots_of_the_two_uses_are_kept_apart() {
        let temp = tempfile::tempdir().unwrap();
        let cache = CacheDir::open(temp.path()).unwrap();
        taken(&cache, Use::Cache).0.data_dir(&mut Vec::new()).unwrap();
        let (slot, warnings) = taken(&cache, Use::Adopted);
        assert!(slot.path.ends_with(format!("{HASH}.2")) && warnings.is_empty());
        sys::open_at(slot.dir().unwrap(), OsStr::new(ADOPTED), Open::Create).unwrap();
        drop(slot);
        assert!(taken(&cache, Use::Cache).0.path.ends_with(HASH.to_string()));
        assert!(taken(&cache, Use::Adopted).0.path.ends_with(format!("{HASH}.2")));
    }

    #[test]
    fn what_is_no_directory_is_no_slot() {
        let temp = tempfile::tempdir().unwrap();
        let cache = CacheDir::open(temp.path()).unwrap();
        std::fs::write(temp.path().join(HASH.to_string()), "in the way").unwrap();
        std::os::unix::fs::symlink("/", temp.path().join(format!("{HASH}.2"))).unwrap();
        let (slot, warnings) = taken(&cache, Use::Cache);
        assert!(slot.path.ends_with(format!("{HASH}.3")));
        assert!(warnings.len() == 2 && warnings[0].contains(&HASH.to_string()), "{warnings:?}");
    }

    #[test]
    fn what_cannot_be_ours_is_put_aside_and_never_followed() {
        let temp = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("0"), "theirs").unwrap();
        let cache = CacheDir::open(temp.path()).unwrap();
        let slot = temp.path().join(HASH.to_string());
        for round in 1..=3 {
            std::fs::create_dir_all(slot.join("data/1")).unwrap();
            std::fs::create_dir(slot.join("state")).unwrap();
            std::fs::create_dir(slot.join("data/notes")).unwrap();
            std::os::unix::fs::symlink(outside.path().join("0"), slot.join("data/0")).unwrap();
            let (taken, mut warnings) = taken(&cache, Use::Cache);
            taken.data_dir(&mut warnings).unwrap();
            assert!(taken.path.ends_with(HASH.to_string()), "the same slot");
            assert_eq!(warnings.len(), 3, "{warnings:?}");
            for name in ["state", "data/0", "data/1"] {
                assert!(warnings.iter().any(|warning| warning.contains(name)), "{name}: {warnings:?}");
                assert!(slot.join(name).symlink_metadata().is_err(), "{name}");
            }
            std::fs::remove_dir(slot.join("data/notes")).unwrap();
            assert_eq!(slot.join("data").read_dir().unwrap().count(), 2 * round);
        }
        std::fs::remove_dir_all(slot.join("data")).unwrap();
        std::os::unix::fs::symlink(outside.path(), slot.join("data")).unwrap();
        let (taken, mut warnings) = taken(&cache, Use::Cache);
        taken.data_dir(&mut warnings).unwrap();
        assert!(slot.join("data").symlink_metadata().unwrap().is_dir());
        assert_eq!(std::fs::read(outside.path().join("0")).unwrap(), b"theirs");
        drop(taken);
        std::fs::remove_file(slot.join(LOCK)).unwrap();
        std::fs::create_dir(slot.join(LOCK)).unwrap();
        std::fs::remove_file(temp.path().join(GLOBAL_LOCK)).unwrap();
        std::os::unix::fs::symlink("nowhere", temp.path().join(GLOBAL_LOCK)).unwrap();
        let mut warnings = Vec::new();
        let taken = cache.take_slot(HASH, Use::Cache, &mut warnings).unwrap();
        assert!(taken.path.ends_with(format!("{HASH}.2")));
        assert!(warnings.len() == 2 && warnings[0].contains(GLOBAL_LOCK), "{warnings:?}");
        assert!(warnings[1].contains(LOCK), "{warnings:?}");
    }
}
