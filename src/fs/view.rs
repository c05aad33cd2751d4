//! What a mount shows: names, attributes and extended attributes, all from memory, without a FUSE type in sight.
//!
//! No call here waits for the network or the disk: metadata is answered in the thread that asks. Reads of data are in
//! `read.rs`.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use super::Errno;
use super::forest::{self, Branch, Folder, Gone, MAX_NAME_BYTES, Place, ROOT_INODE};
use super::handle::Handles;
use super::pending::Pending;
use super::tree::{NodeIndex, NodeKind, Tree};
use super::xattr::{self, Subject};
use crate::base::InfoHash;
use crate::engine::prefetch::PrefetchConfig;
use crate::net::TorrentHandle;
use crate::storage::Loan;

/// How a view shows its torrents.
#[derive(Debug, Clone, Default)]
pub struct ViewConfig {
    /// Owner of everything.
    pub uid: u32,
    /// Group of everything.
    pub gid: u32,
    /// How far ahead of a reader to fetch, at its own pace.
    pub readahead: Duration,
}

/// The kinds of nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symlink.
    Symlink,
}

/// What `stat(2)` tells of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attr {
    /// Inode number.
    pub inode: u64,
    /// What it is.
    pub kind: Kind,
    /// Length in bytes; 0 for a directory, the length of the target for a symlink.
    pub bytes: u64,
    /// Permission bits.
    pub mode: u16,
    /// Hard links.
    pub links: u32,
    /// All times of the node: the torrent's creation date.
    pub time: SystemTime,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Attr {
    /// Allocated size in units of 512 bytes. The full size, present or not: tools take less for a sparse file, and
    /// skip what they believe to be holes.
    pub fn blocks(&self) -> u64 {
        if self.kind == Kind::File { self.bytes.div_ceil(512) } else { 0 }
    }
}

/// One name in a directory listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirEntry<'a> {
    /// The name.
    pub name: &'a [u8],
    /// Inode number.
    pub inode: u64,
    /// What it is.
    pub kind: Kind,
    /// Where to go on after this name.
    pub next_offset: u64,
}

/// Totals for `statfs(2)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// Bytes of all files.
    pub bytes: u64,
    /// Number of nodes, the root included.
    pub nodes: u64,
}

/// What one mount shows of its torrents.
#[derive(Debug)]
pub struct View {
    config: ViewConfig,
    /// Replaced as a whole, so that nobody who looks at one waits for anybody who changes it.
    forest: RwLock<Arc<Forest>>,
    pub(super) handles: Handles,
    pub(super) pending: Arc<Pending>,
    stopped: AtomicBool,
}

type Forest = forest::Forest<Torrent>;

#[derive(Debug)]
struct Torrent {
    handle: TorrentHandle,
    time: SystemTime,
}

impl View {
    /// Shows these torrents, each under its own name as far as that is possible.
    pub fn new(torrents: &[TorrentHandle], config: ViewConfig) -> Arc<Self> {
        let mut forest = Forest::default();
        for torrent in torrents {
            hang(&mut forest, ROOT_INODE, torrent);
        }
        Arc::new(Self {
            config,
            forest: RwLock::new(Arc::new(forest)),
            handles: Handles::default(),
            pending: Arc::default(),
            stopped: AtomicBool::new(false),
        })
    }

    /// The inode number of the root.
    pub const ROOT: u64 = ROOT_INODE;

    /// Shows one more torrent, in this folder below the root, made if it is missing; where that is, from the root on.
    pub fn add(&self, torrent: &TorrentHandle, folder: &Path) -> PathBuf {
        self.change(|forest| {
            let folder = folder.iter().fold(ROOT_INODE, |parent, name| forest.folder(parent, name.as_bytes()));
            let inode = hang(forest, folder, torrent);
            let added = forest.branches().find(|branch| branch.inode(NodeIndex::TOP) == inode);
            added.map(|branch| to_path(&forest.path(branch))).unwrap_or_default()
        })
    }

    /// Shows a torrent no more. Reads of its files that wait fail with `EIO`; its open files can be read as far as they
    /// are present.
    pub(super) fn remove(&self, hash: &InfoHash) -> Option<Gone> {
        let gone = self.change(|forest| {
            let inode = find(forest, hash)?.inode(NodeIndex::TOP);
            forest.remove(inode)
        });
        let (branch, gone) = gone?;
        for read in self.pending.take_all_of(branch.torrent.handle.store()) {
            read.give_up(Errno::EIO);
        }
        Some(gone)
    }

    /// Shows no torrent any more.
    pub(super) fn clear(&self) {
        self.change(|forest| *forest = Forest::default());
    }

    /// Makes these folders, all their parents among them, and takes away all others that are empty.
    pub(super) fn set_folders(&self, folders: &BTreeSet<PathBuf>) -> Vec<Gone> {
        let forest = self.forest();
        let known: BTreeSet<PathBuf> = forest.folders().iter().map(|(_, names)| to_path(names)).collect();
        if known == *folders {
            return Vec::new();
        }
        self.change(|forest| {
            for folder in folders {
                folder.iter().fold(ROOT_INODE, |parent, name| forest.folder(parent, name.as_bytes()));
            }
            let mut others = forest.folders();
            // The deepest first.
            others.sort_by_key(|(_, names)| std::cmp::Reverse(names.len()));
            let others = others.into_iter().filter(|(_, names)| !folders.contains(&to_path(names)));
            others.filter_map(|(inode, _)| forest.remove_folder(inode)).collect()
        })
    }

    /// Where a torrent is shown, from the root on.
    pub fn path_of(&self, hash: &InfoHash) -> Option<PathBuf> {
        let forest = self.forest();
        find(&forest, hash).map(|branch| to_path(&forest.path(branch)))
    }

    /// Whether a node is a directory whose names may change.
    pub(super) fn may_change(&self, inode: u64) -> bool {
        inode == ROOT_INODE || matches!(self.forest().place(inode), Some(Place::Folder(_)))
    }

    /// The node of this name in a directory; `Ok(None)` when there is none.
    ///
    /// # Errors
    /// `ENOTDIR`, `ENAMETOOLONG`; `ENOENT` for an unknown inode.
    pub fn lookup(&self, parent: u64, name: &[u8]) -> Result<Option<Attr>, Errno> {
        if name.len() > MAX_NAME_BYTES {
            return Err(Errno::ENAMETOOLONG);
        }
        let forest = self.forest();
        match place(&forest, parent)? {
            Place::Folder(folder) => folder.find(name).map(|inode| self.attr_in(&forest, inode)).transpose(),
            Place::Node(branch, node) => {
                if !matches!(branch.tree.kind(node), NodeKind::Directory { .. }) {
                    return Err(Errno::ENOTDIR);
                }
                Ok(branch.tree.child(node, name).map(|child| self.node_attr(branch, child)))
            }
        }
    }

    /// What `stat(2)` tells.
    ///
    /// # Errors
    /// `ENOENT` for an unknown inode.
    pub fn attr(&self, inode: u64) -> Result<Attr, Errno> {
        // A file of a torrent that was removed stays what it was for those who have it open.
        self.attr_in(&self.forest(), inode).or_else(|gone| self.handles.attr_of(inode).ok_or(gone))
    }

    /// Names of a directory from `offset` on (0, or a `next_offset`), `.` and `..` included, until `visit` returns
    /// `false`. Offsets mean the same in every listing.
    ///
    /// # Errors
    /// `ENOTDIR`; `ENOENT` for an unknown inode.
    pub fn read_dir(
        &self,
        directory: u64,
        offset: u64,
        mut visit: impl FnMut(DirEntry<'_>) -> bool,
    ) -> Result<(), Errno> {
        let forest = self.forest();
        let place = place(&forest, directory)?;
        if let Place::Node(branch, node) = place
            && !matches!(branch.tree.kind(node), NodeKind::Directory { .. })
        {
            return Err(Errno::ENOTDIR);
        }
        let dots: [(&[u8], u64); 2] = [(b".", directory), (b"..", parent(&place))];
        for (at, (name, inode)) in (0_u64..).zip(dots).skip(usize::try_from(offset).unwrap_or(usize::MAX)) {
            if !visit(DirEntry { name, inode, kind: Kind::Directory, next_offset: at + 1 }) {
                return Ok(());
            }
        }
        let skip = offset.saturating_sub(FIRST_CHILD);
        match place {
            Place::Folder(folder) => {
                for (serial, name, inode) in folder.children(skip) {
                    let Some(kind) = kind_in(&forest, inode) else { continue };
                    if !visit(DirEntry { name, inode, kind, next_offset: serial + FIRST_CHILD }) {
                        break;
                    }
                }
            }
            Place::Node(branch, node) => {
                let tree = &branch.tree;
                let children = tree.children(node, usize::try_from(skip).unwrap_or(usize::MAX));
                for (child, at) in children.into_iter().flatten().zip(skip..) {
                    let kind = kind_of(tree.kind(child));
                    let next_offset = at + FIRST_CHILD + 1;
                    if !visit(DirEntry { name: tree.name(child), inode: branch.inode(child), kind, next_offset }) {
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// Where a symlink points.
    ///
    /// # Errors
    /// `EINVAL` when it is none; `ENOENT` for an unknown inode.
    pub fn read_link(&self, inode: u64) -> Result<Vec<u8>, Errno> {
        match place(&self.forest(), inode)? {
            Place::Folder(_) => Err(Errno::EINVAL),
            Place::Node(branch, node) => branch.tree.target(node).map(<[u8]>::to_vec).ok_or(Errno::EINVAL),
        }
    }

    /// The value of an extended attribute.
    ///
    /// # Errors
    /// `ENODATA` when there is none of this name; `ENOENT` for an unknown inode.
    pub fn xattr(&self, inode: u64, name: &[u8]) -> Result<Vec<u8>, Errno> {
        let waiting = self.waiting_reads();
        let value = xattr::value(subject(&self.forest(), inode)?, name, waiting);
        value.map(String::into_bytes).ok_or(Errno::ENODATA)
    }

    /// The names of all extended attributes, each ended by a zero byte.
    ///
    /// # Errors
    /// `ENOENT` for an unknown inode.
    pub fn xattr_names(&self, inode: u64) -> Result<Vec<u8>, Errno> {
        Ok(xattr::list(subject(&self.forest(), inode)?))
    }

    /// Totals for `statfs(2)`.
    pub fn totals(&self) -> Totals {
        let forest = self.forest();
        let bytes = forest.branches().map(|branch| branch.torrent.handle.store().layout().total_bytes()).sum();
        let nodes = forest.branches().map(|branch| branch.tree.len() as u64).sum::<u64>();
        Totals { bytes, nodes: nodes + forest.folder_count() as u64 }
    }

    /// Opens a file; the number names it in [`read`](Self::read) and [`release`](Self::release).
    ///
    /// # Errors
    /// `EISDIR`; `EROFS` when it is to be written; `EINVAL` for a symlink; `ENOENT` for an unknown inode.
    pub fn open(&self, inode: u64, for_writing: bool) -> Result<u64, Errno> {
        let forest = self.forest();
        let Place::Node(branch, node) = place(&forest, inode)? else { return Err(Errno::EISDIR) };
        let file = match branch.tree.kind(node) {
            NodeKind::Directory { .. } => return Err(Errno::EISDIR),
            NodeKind::Symlink => return Err(Errno::EINVAL),
            NodeKind::File { .. } if for_writing => return Err(Errno::EROFS),
            NodeKind::File { file, .. } => file,
        };
        let torrent = &branch.torrent.handle;
        if let Some(pieces) = torrent.store().suspect(file) {
            // The store has said so.
            tracing::debug!(%file, ?pieces, "altered: its pieces are checked again");
            torrent.suspect(pieces);
        }
        let mut prefetch = PrefetchConfig { max_window_time: self.config.readahead, ..PrefetchConfig::default() };
        if let Some(all) = torrent.store().window_bytes() {
            // Windows are not evicted: all readers together share what the cache has for them.
            let ours = all / (self.handles.len() as u64 + 1);
            prefetch.max_window_bytes = prefetch.max_window_bytes.min(ours);
        }
        let handle = self.handles.open(torrent, file, self.node_attr(branch, node), prefetch);
        torrent.opened(handle.id, file);
        Ok(handle.id.0)
    }

    /// Lends the file of a handle to the kernel, if it is complete. May wait for the disk.
    pub(super) fn lend(&self, handle: u64) -> Option<Loan> {
        let handle = self.handles.find(handle)?;
        handle.torrent.store().lend(handle.file)
    }

    /// Whether the lent file of a handle has the right bytes, as far as is known.
    pub(super) fn is_sound(&self, handle: u64, loan: &Loan) -> bool {
        self.handles.find(handle).is_some_and(|handle| handle.torrent.store().is_sound(loan))
    }

    /// Closes an open file.
    pub fn release(&self, handle: u64) {
        if let Some(handle) = self.handles.close(handle) {
            handle.torrent.released(handle.id);
        }
    }

    /// Reads that wait for pieces.
    pub fn waiting_reads(&self) -> usize {
        self.pending.len()
    }

    /// Files that are open.
    pub fn open_files(&self) -> usize {
        self.handles.len()
    }

    /// Ends the service of missing data: reads that wait fail with `EIO`, as do all that would have to. What is present
    /// can be read on. Idempotent.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        for read in self.pending.close() {
            read.give_up(Errno::EIO);
        }
    }

    /// Whether [`stop`](Self::stop) was called.
    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    fn forest(&self) -> Arc<Forest> {
        self.forest.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes what is shown; those who look at it meanwhile see all of the change or nothing.
    fn change<R>(&self, change: impl FnOnce(&mut Forest) -> R) -> R {
        change(Arc::make_mut(&mut self.forest.write().unwrap_or_else(PoisonError::into_inner)))
    }

    fn attr_in(&self, forest: &Forest, inode: u64) -> Result<Attr, Errno> {
        Ok(match place(forest, inode)? {
            Place::Folder(folder) => self.folder_attr(forest, inode, folder),
            Place::Node(branch, node) => self.node_attr(branch, node),
        })
    }

    fn folder_attr(&self, forest: &Forest, inode: u64, folder: &Folder) -> Attr {
        let children = || folder.children(0).map(|(_, _, inode)| inode);
        let directories = children().filter(|&inode| kind_in(forest, inode) == Some(Kind::Directory)).count();
        // The newest torrent dates the folder: its date changes only when the list of torrents does.
        let times = children().filter_map(|inode| match forest.place(inode) {
            Some(Place::Node(branch, _)) => Some(branch.torrent.time),
            _ => None,
        });
        let time = times.max().unwrap_or(SystemTime::UNIX_EPOCH);
        self.directory_attr(inode, directories as u32, time)
    }

    fn node_attr(&self, branch: &Branch<Torrent>, node: NodeIndex) -> Attr {
        let torrent = &branch.torrent;
        let inode = branch.inode(node);
        let (kind, bytes, mode) = match branch.tree.kind(node) {
            NodeKind::Directory { subdirectories } => return self.directory_attr(inode, subdirectories, torrent.time),
            NodeKind::File { file, executable } => {
                (Kind::File, torrent.handle.store().layout().file_bytes(file), if executable { 0o555 } else { 0o444 })
            }
            NodeKind::Symlink => {
                (Kind::Symlink, branch.tree.target(node).map_or(0, |target| target.len() as u64), 0o777)
            }
        };
        let (uid, gid) = (self.config.uid, self.config.gid);
        Attr { inode, kind, bytes, mode, links: 1, time: torrent.time, uid, gid }
    }

    fn directory_attr(&self, inode: u64, subdirectories: u32, time: SystemTime) -> Attr {
        let (uid, gid) = (self.config.uid, self.config.gid);
        Attr { inode, kind: Kind::Directory, bytes: 0, mode: 0o555, links: 2 + subdirectories, time, uid, gid }
    }
}

/// Hangs a torrent into a folder; its first inode number.
fn hang(forest: &mut Forest, folder: u64, torrent: &TorrentHandle) -> u64 {
    let metainfo = torrent.metainfo();
    let v1 = metainfo.info_hash.map(|hash| hash.to_string());
    let hash = v1.or_else(|| metainfo.info_hash_v2.map(|hash| hash.to_string())).unwrap_or_default();
    let shown = Torrent { handle: torrent.clone(), time: time_of(metainfo.creation_date) };
    forest.add(folder, &metainfo.name, &hash, metainfo.single_file, Arc::new(Tree::new(metainfo)), shown)
}

fn find<'a>(forest: &'a Forest, hash: &InfoHash) -> Option<&'a Branch<Torrent>> {
    let mut branches = forest.branches().map(|branch| &**branch);
    branches.find(|branch| branch.torrent.handle.metainfo().info_hash.as_ref() == Some(hash))
}

fn place(forest: &Forest, inode: u64) -> Result<Place<'_, Torrent>, Errno> {
    forest.place(inode).ok_or(Errno::ENOENT)
}

fn parent(place: &Place<'_, Torrent>) -> u64 {
    match place {
        Place::Folder(folder) => folder.parent(),
        Place::Node(branch, node) => branch.tree.parent(*node).map_or(branch.folder(), |parent| branch.inode(parent)),
    }
}

fn subject(forest: &Forest, inode: u64) -> Result<Subject<'_>, Errno> {
    let Place::Node(branch, node) = place(forest, inode)? else { return Ok(Subject::Bare) };
    let torrent = &branch.torrent.handle;
    Ok(match branch.tree.kind(node) {
        NodeKind::Directory { .. } => Subject::Directory(torrent),
        NodeKind::File { file, .. } => Subject::File(torrent, file),
        NodeKind::Symlink => Subject::Bare,
    })
}

fn kind_in(forest: &Forest, inode: u64) -> Option<Kind> {
    Some(match forest.place(inode)? {
        Place::Folder(_) => Kind::Directory,
        Place::Node(branch, node) => kind_of(branch.tree.kind(node)),
    })
}

fn to_path(names: &[Box<[u8]>]) -> PathBuf {
    names.iter().map(|name| OsStr::from_bytes(name)).collect()
}

fn kind_of(kind: NodeKind) -> Kind {
    match kind {
        NodeKind::Directory { .. } => Kind::Directory,
        NodeKind::File { .. } => Kind::File,
        NodeKind::Symlink => Kind::Symlink,
    }
}

/// The creation date as a time; the epoch when there is none, or none that a clock can show: a date that is the same in
/// every mount matters more than a plausible one.
fn time_of(creation_date: Option<i64>) -> SystemTime {
    let seconds = creation_date.filter(|date| date.unsigned_abs() <= LATEST_DATE).unwrap_or(0);
    let distance = Duration::from_secs(seconds.unsigned_abs());
    let epoch = SystemTime::UNIX_EPOCH;
    let time = if seconds < 0 { epoch.checked_sub(distance) } else { epoch.checked_add(distance) };
    time.unwrap_or(epoch)
}

/// Offset of the first name after `.` and `..`.
const FIRST_CHILD: u64 = 2;

/// The year 9999: what tools can print.
const LATEST_DATE: u64 = 253_402_300_799;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_creation_dates_become_a_stable_time() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(time_of(None), at(0));
        assert_eq!(time_of(Some(1_700_000_000)), at(1_700_000_000));
        assert_eq!(time_of(Some(i64::MAX)), at(0));
        assert_eq!(time_of(Some(i64::MIN)), at(0));
        assert_eq!(time_of(Some(-5)), SystemTime::UNIX_EPOCH - Duration::from_secs(5));
    }
}
