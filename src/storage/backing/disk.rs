//! Real files, reached from an open directory, never by a path from the root: such a path could lead into our own
//! mount. Open descriptors are kept in a bounded cache.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Permissions};
use std::io::{self, IoSlice};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use lru::LruCache;

use super::places::Places;
use super::{Backing, Identity, Seen};
use crate::base::{FileIndex, Layout};
use crate::storage::StorageError;
use crate::storage::sys::{self, FileStatus, Mapping, Open};

/// Files on disk.
#[derive(Debug)]
pub(crate) struct DiskFiles {
    layout: Arc<Layout>,
    dir: RwLock<Arc<File>>,
    /// The path of `dir`, for messages.
    path: PathBuf,
    /// The device that identities are relative to.
    dev: AtomicU64,
    names: Names,
    /// The inode that each file was first met with (0: not yet); a name that leads elsewhere later is refused.
    inodes: Box<[AtomicU64]>,
    open: Mutex<LruCache<FileIndex, Arc<File>>>,
    /// Files that are open in all stores of the process.
    all_open: Arc<AtomicUsize>,
    /// As many of them as there may be; above it each store keeps one.
    most_open: usize,
    /// What others have of our files in memory. They drop it; at most a few a connection are alive.
    mapped: Mutex<Vec<(FileIndex, Weak<Mapping>)>>,
}

/// How the files are called below the directory.
#[derive(Debug)]
enum Names {
    /// By their index; ours to write.
    Slot,
    /// By path; somebody else's, read-only (I4).
    Adopted { root: File, paths: Vec<Option<PathBuf>> },
    /// By their index and ours to write until they are placed; then as `Adopted`.
    Placed(Places),
}

impl DiskFiles {
    /// The files of a slot: `dir` is its `data` directory.
    pub(crate) fn slot(layout: Arc<Layout>, dir: File, path: PathBuf, open: Arc<AtomicUsize>) -> io::Result<Self> {
        Self::new(layout, dir, path, Names::Slot, open)
    }

    /// Files of the user's: paths below `dir`, which are reached through real directories only.
    pub(crate) fn adopted(
        layout: Arc<Layout>,
        dir: File,
        path: PathBuf,
        paths: Vec<Option<PathBuf>>,
        open: Arc<AtomicUsize>,
    ) -> io::Result<Self> {
        let root = dir.try_clone()?;
        Self::new(layout, dir, path, Names::Adopted { root, paths }, open)
    }

    /// The files of a slot that get names of their own when they are complete.
    pub(crate) fn placed(layout: Arc<Layout>, dir: File, path: PathBuf, places: Places) -> io::Result<Self> {
        Self::new(layout, dir, path, Names::Placed(places), Arc::default())
    }

    /// Device and inode of the directory.
    pub(crate) fn directory(&self) -> io::Result<(u64, u64)> {
        sys::status_of(self.dir()).map(|status| (status.dev, status.ino))
    }

    /// The files are below another directory from now on.
    pub(crate) fn move_to(&self, dir: File) -> io::Result<()> {
        let dev = sys::status_of(&dir)?.dev;
        *self.dir.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(dir);
        self.dev.store(dev, Ordering::Relaxed);
        self.layout.files().for_each(|file| self.forget(file));
        Ok(())
    }

    fn dir(&self) -> Arc<File> {
        Arc::clone(&self.dir.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn new(
        layout: Arc<Layout>,
        dir: File,
        path: PathBuf,
        names: Names,
        all_open: Arc<AtomicUsize>,
    ) -> io::Result<Self> {
        let dev = sys::status_of(&dir)?.dev;
        let inodes = std::iter::repeat_with(|| AtomicU64::new(0)).take(layout.file_count()).collect();
        // Sockets and the mount need descriptors too: a quarter of the limit is ours.
        let most_open = usize::try_from(sys::descriptor_limit() / 4).unwrap_or(usize::MAX);
        let room = most_open.clamp(8, MAX_OPEN_FILES);
        let open = Mutex::new(LruCache::new(NonZeroUsize::new(room).unwrap_or(NonZeroUsize::MIN)));
        let (dir, dev) = (RwLock::new(Arc::new(dir)), AtomicU64::new(dev));
        Ok(Self { layout, dir, path, dev, names, inodes, open, all_open, most_open, mapped: Mutex::default() })
    }

    fn cached(&self, file: FileIndex) -> Option<Arc<File>> {
        self.lock().get(&file).map(Arc::clone)
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<FileIndex, Arc<File>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mapped_of(&self, file: FileIndex) -> Vec<Arc<Mapping>> {
        let mapped = self.mapped.lock().unwrap_or_else(PoisonError::into_inner);
        mapped.iter().filter(|(of, _)| *of == file).filter_map(|(_, mapping)| mapping.upgrade()).collect()
    }

    /// The open file for reading (and writing, where that is allowed).
    fn reader(&self, file: FileIndex) -> io::Result<Arc<File>> {
        if let Some(open) = self.cached(file) {
            return Ok(open);
        }
        let opened = match self.home(file) {
            Home::Slot => match sys::open_at(self.dir(), &slot_name(file), Open::Write) {
                // The disk was remounted read-only, or is somebody else's: what is there can still be served.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EROFS | libc::EACCES)) => {
                    sys::open_at(self.dir(), &slot_name(file), Open::Read)?
                }
                other => other?,
            },
            Home::Below(root, path) => {
                let (dir, name) = entry(root, path)?;
                sys::open_at(dir.as_ref().unwrap_or(root), name, Open::Read)?
            }
            Home::None => return Err(io::ErrorKind::NotFound.into()),
        };
        self.keep(file, opened)
    }

    /// The open file for writing; made when it is missing.
    fn writer(&self, file: FileIndex) -> io::Result<Arc<File>> {
        match (self.home(file), self.cached(file)) {
            (Home::Below(..) | Home::None, _) => Err(io::ErrorKind::PermissionDenied.into()),
            (Home::Slot, Some(open)) => Ok(open),
            (Home::Slot, None) => self.keep(file, sys::open_at(self.dir(), &slot_name(file), Open::Create)?),
        }
    }

    /// Puts a file that was just opened into the cache, if it is the one that we know.
    fn keep(&self, file: FileIndex, opened: File) -> io::Result<Arc<File>> {
        let status = sys::status_of(&opened)?;
        let known = &self.inodes[file.at()];
        let met = known.compare_exchange(0, status.ino, Ordering::Relaxed, Ordering::Relaxed).unwrap_or_else(|met| met);
        if !status.regular || (met != 0 && met != status.ino) {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the file was replaced by another"));
        }
        let opened = Arc::new(opened);
        // What falls out is closed after the lock is gone: a close may wait for the disk.
        let (fallen, more) = {
            let mut open = self.lock();
            let before = open.len();
            let fallen = open.push(file, Arc::clone(&opened));
            let all = self.all_open.fetch_add(open.len() - before, Ordering::Relaxed) + open.len() - before;
            let more = if all > self.most_open && open.len() > 1 { open.pop_lru() } else { None };
            (fallen, more)
        };
        self.all_open.fetch_sub(usize::from(more.is_some()), Ordering::Relaxed);
        drop((fallen, more));
        Ok(opened)
    }

    /// Where a file lies now.
    fn home(&self, file: FileIndex) -> Home<'_> {
        match &self.names {
            Names::Slot => Home::Slot,
            Names::Adopted { root, paths } => match paths.get(file.at()).and_then(Option::as_deref) {
                Some(path) => Home::Below(root, path),
                None => Home::None,
            },
            Names::Placed(places) => places.placed(file).map_or(Home::Slot, |path| Home::Below(places.root(), path)),
        }
    }

    fn identity(&self, status: &FileStatus) -> Identity {
        Identity {
            dev: status.dev.wrapping_sub(self.dev.load(Ordering::Relaxed)),
            ino: status.ino,
            size: status.size,
            mtime: status.mtime,
            ctime: status.ctime,
        }
    }

    fn status(&self, file: FileIndex) -> io::Result<Option<FileStatus>> {
        match self.home(file) {
            Home::Slot => sys::status_at(self.dir(), &slot_name(file)),
            Home::Below(root, path) => status_below(root, path),
            Home::None => Ok(None),
        }
    }
}

impl Backing for DiskFiles {
    fn read_at(&self, file: FileIndex, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let open = self.reader(file)?;
        let mut done = 0;
        while done < buffer.len() {
            match open.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn read_now_at(&self, file: FileIndex, offset: u64, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        // Opening may wait for the disk, so a file that is not open is left to `read_at`.
        let Some(open) = self.cached(file) else { return Ok(None) };
        sys::read_now(&open, buffer, offset)
    }

    fn map_now(&self, file: FileIndex, offset: u64, length: usize, old: Option<&Arc<Mapping>>) -> Option<Arc<Mapping>> {
        let open = self.cached(file)?;
        // Of the file that is open now: an old one may have been replaced.
        if let Some(old) = old.filter(|old| old.covers(&open, offset, length)) {
            return Some(Arc::clone(old));
        }
        let rest = usize::try_from(self.layout.file_bytes(file).saturating_sub(offset)).unwrap_or(MAPPED_BYTES);
        let new = Mapping::new(open, offset, rest.min(MAPPED_BYTES).max(length)).ok().map(Arc::new)?;
        let mut mapped = self.mapped.lock().unwrap_or_else(PoisonError::into_inner);
        mapped.retain(|(_, old)| old.strong_count() > 0);
        mapped.push((file, Arc::downgrade(&new)));
        drop(mapped);
        Some(new)
    }

    fn write_vectored_at(&self, file: FileIndex, offset: u64, slices: &mut [IoSlice<'_>]) -> io::Result<()> {
        sys::write_all_at(&*self.writer(file)?, slices, offset)
    }

    fn prepare(&self, file: FileIndex) -> io::Result<()> {
        let (open, length) = (self.writer(file)?, self.layout.file_bytes(file));
        if open.metadata()?.len() != length {
            open.set_len(length)?;
        }
        Ok(())
    }

    fn punch(&self, file: FileIndex, offset: u64, length: u64) -> io::Result<()> {
        sys::punch(&*self.writer(file)?, offset, length)
    }

    fn sync(&self, file: FileIndex) -> io::Result<()> {
        let open = self.reader(file)?;
        // All of it, not the data alone: the times belong to the file's identity.
        open.sync_all().inspect_err(|_| {
            for mapping in self.mapped_of(file) {
                mapping.let_go();
            }
            sys::drop_cached(&open);
        })
    }

    fn sync_all(&self) -> io::Result<()> {
        match self.names {
            Names::Slot | Names::Placed(_) => sys::sync_filesystem(&self.dir()),
            // They may lie on several filesystems.
            Names::Adopted { .. } => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    fn seen(&self, file: FileIndex) -> io::Result<Option<Seen>> {
        let status = self.status(file)?.filter(|status| status.regular);
        Ok(status.map(|status| Seen { identity: self.identity(&status), allocated: status.allocated }))
    }

    fn next_data(&self, file: FileIndex, offset: u64) -> io::Result<Option<Range<u64>>> {
        let open = match self.reader(file) {
            Err(error) if is_gone(&error) => return Ok(None),
            other => other?,
        };
        if !matches!(self.home(file), Home::Slot) {
            // Somebody's file may be sparse and right: its holes are zeros, not absence.
            let size = open.metadata()?.len();
            return Ok((offset < size).then_some(offset..size));
        }
        Ok(sys::next_data(&open, offset)?.map(|(start, end)| start..end))
    }

    fn forget(&self, file: FileIndex) {
        self.inodes[file.at()].store(0, Ordering::Relaxed);
        let fallen = self.lock().pop(&file);
        self.all_open.fetch_sub(usize::from(fallen.is_some()), Ordering::Relaxed);
        drop(fallen);
    }

    fn lend(&self, file: FileIndex) -> io::Result<(Arc<File>, Identity)> {
        let open = self.reader(file)?;
        let status = sys::status_of(&*open)?;
        Ok((open, self.identity(&status)))
    }

    fn is_held(&self, file: FileIndex) -> Option<bool> {
        self.reader(file).ok().and_then(|open| sys::is_held(&open))
    }

    fn path(&self, file: FileIndex) -> PathBuf {
        match (&self.names, self.home(file)) {
            (_, Home::Slot) => self.path.join(slot_name(file)),
            (Names::Placed(places), Home::Below(_, path)) => places.path().join(path),
            (_, Home::Below(_, path)) => self.path.join(path),
            (_, Home::None) => self.path.clone(),
        }
    }

    fn is_placed(&self, file: FileIndex) -> bool {
        matches!((&self.names, self.home(file)), (Names::Placed(_), Home::Below(..)))
    }

    fn place(&self, file: FileIndex, mode: u32) -> Result<(), StorageError> {
        let failed = |source| StorageError::Io { op: "name", path: self.path(file), source };
        let Names::Placed(places) = &self.names else { return Err(failed(io::ErrorKind::Unsupported.into())) };
        let open = self.writer(file).map_err(failed)?;
        open.set_permissions(Permissions::from_mode(mode)).map_err(failed)?;
        places.place(file, &self.dir(), &slot_name(file))
    }

    fn place_link(&self, path: &Path, target: &OsStr) -> Result<(), StorageError> {
        match &self.names {
            Names::Placed(places) => places.link(path, target),
            _ => Err(StorageError::Io { op: "link", path: path.to_owned(), source: io::ErrorKind::Unsupported.into() }),
        }
    }
}

impl Drop for DiskFiles {
    fn drop(&mut self) {
        let open = self.lock().len();
        self.all_open.fetch_sub(open, Ordering::Relaxed);
    }
}

/// Where a file lies.
#[derive(Debug)]
enum Home<'f> {
    /// In the slot, by its index.
    Slot,
    /// Somewhere below a directory, and not ours to write (I4).
    Below(&'f File, &'f Path),
    /// Nowhere.
    None,
}

/// The directory (`None`: the root itself) and the last component of a path below `root`. Each component is opened by
/// itself and must be no symlink.
pub(crate) fn entry<'p>(root: &File, path: &'p Path) -> io::Result<(Option<File>, &'p OsStr)> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let mut dir: Option<File> = None;
    for component in parent.components() {
        let Component::Normal(part) = component else { return Err(io::ErrorKind::InvalidInput.into()) };
        dir = Some(sys::open_at(dir.as_ref().unwrap_or(root), part, Open::Directory)?);
    }
    Ok((dir, name))
}

/// What lies at a path below `root`, reached through real directories only; `None` when nothing does.
fn status_below(root: &File, path: &Path) -> io::Result<Option<FileStatus>> {
    match entry(root, path) {
        Ok((dir, name)) => sys::status_at(dir.as_ref().unwrap_or(root), name),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What is mapped at once: a peer that asks in order needs a new mapping once in 256 blocks (once in 64 cost 5 % more),
/// and no more of a file than this counts as our memory for its sake.
const MAPPED_BYTES: usize = 4 << 20;

/// Descriptors that one store keeps open at most.
const MAX_OPEN_FILES: usize = 128;

/// Whether an error says that there is no such file (any more), or that something else has its name.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP | libc::EISDIR | libc::ENXIO))
        || error.kind() == io::ErrorKind::NotFound
}

fn slot_name(file: FileIndex) -> OsString {
    OsStr::from_bytes(file.to_string().as_bytes()).to_owned()
}
