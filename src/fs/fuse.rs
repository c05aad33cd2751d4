//! Between fuser and the [`View`]: translate a request, delegate, translate the answer. No decision is made here
//! beyond what the kernel may cache, and for how long.
//!
//! A panic in a request answers it with `EIO` (fuser's replies do so when they are dropped) and ends nothing else.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, FileAttr, FileHandle, FileType, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr,
    Request, TimeOrNow, WriteFlags,
};

use super::Errno;
use super::passthrough::Passthrough;
use super::view::{Attr, Kind, View};

/// A view as fuser wants it.
#[derive(Debug)]
pub(crate) struct Fuse {
    view: Arc<View>,
    passthrough: Arc<Passthrough>,
    stack_depth: u32,
}

impl Fuse {
    /// Serves this view. `stack_depth`: 2 when data lies on a file system that itself lies on another, else 1.
    pub(crate) fn new(view: Arc<View>, passthrough: Arc<Passthrough>, stack_depth: u32) -> Self {
        Self { view, passthrough, stack_depth }
    }

    /// How long the kernel may believe a node's attributes, and the names in it.
    fn ttl(&self, inode: INodeNo) -> Duration {
        if self.view.may_change(inode.0) { FOLDER_TTL } else { IMMUTABLE_TTL }
    }

    fn close(&self, inode: INodeNo, handle: u64) {
        self.passthrough.leave(inode.0);
        self.view.release(handle);
    }
}

impl fuser::Filesystem for Fuse {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // What an older kernel does not offer is left out; nothing depends on it but speed. READDIRPLUS_AUTO is not
        // asked for: with it, a `find` over 100,000 files in one directory (which lists first and looks at each file
        // afterwards) took 2.4 s instead of 0.4 s, and a bare listing is no faster (0.26 s).
        for capability in
            [InitFlags::FUSE_DO_READDIRPLUS, InitFlags::FUSE_PARALLEL_DIROPS, InitFlags::FUSE_CACHE_SYMLINKS]
        {
            if config.add_capabilities(capability).is_err() {
                tracing::debug!(?capability, "the kernel lacks a capability");
            }
        }
        // The kernel takes the one only with the other.
        if config.set_max_stack_depth(self.stack_depth).is_ok()
            && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
        {
            self.passthrough.offered();
        }
        // The default of 16 would let sixteen blocked readaheads starve every other reader.
        config.set_max_background(MAX_BACKGROUND).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        guard(|| match self.view.lookup(parent.0, name.as_bytes()) {
            Ok(Some(attr)) => reply.entry(&self.ttl(parent), &file_attr(&attr), GENERATION),
            // Inode 0: "there is none", which the kernel remembers, as players probe for subtitles again and again.
            Ok(None) if !self.view.may_change(parent.0) => {
                let attr = FileAttr { ino: INodeNo(0), ..file_attr(&NOTHING) };
                reply.entry(&IMMUTABLE_TTL, &attr, GENERATION);
            }
            Ok(None) => reply.error(errno(Errno::ENOENT)),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn getattr(&self, _request: &Request, inode: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        guard(|| match self.view.attr(inode.0) {
            Ok(attr) => reply.attr(&self.ttl(inode), &file_attr(&attr)),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn readlink(&self, _request: &Request, inode: INodeNo, reply: ReplyData) {
        guard(|| match self.view.read_link(inode.0) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(errno(error)),
        });
    }

    fn open(&self, _request: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        guard(|| {
            let handle = match self.view.open(inode.0, flags.acc_mode() != OpenAccMode::O_RDONLY) {
                Ok(handle) => handle,
                Err(error) => return reply.error(errno(error)),
            };
            match self.passthrough.enter(inode.0, &reply, || self.view.lend(handle)) {
                Some(lent) if self.view.is_sound(handle, &lent.loan) => {
                    reply.opened_passthrough(FileHandle(handle), FopenFlags::FOPEN_NOFLUSH, &lent.backing);
                }
                // Altered since, and held open: the kernel would take it as it is, or not at all.
                Some(_) => {
                    self.close(inode, handle);
                    reply.error(errno(Errno::EIO));
                }
                // KEEP_CACHE always: content never changes, and without it a second open would wait, unkillable, for
                // a read in flight.
                None => {
                    reply.opened(FileHandle(handle), FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH);
                }
            }
        });
    }

    fn read(
        &self,
        request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        guard(|| {
            self.view.read(handle.0, offset, size, request.pid(), move |outcome| match outcome {
                Ok(bytes) => reply.data(bytes),
                Err(error) => reply.error(errno(error)),
            });
        });
    }

    fn release(
        &self,
        _request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        guard(|| {
            self.close(inode, handle.0);
            reply.ok();
        });
    }

    fn opendir(&self, _request: &Request, inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        // Torrents may come and go.
        let flags = if self.view.may_change(inode.0) {
            FopenFlags::empty()
        } else {
            FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE
        };
        reply.opened(FileHandle(0), flags);
    }

    fn readdir(&self, _request: &Request, inode: INodeNo, _handle: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        guard(|| {
            let listed = self.view.read_dir(inode.0, offset, |entry| {
                !reply.add(
                    INodeNo(entry.inode),
                    entry.next_offset,
                    file_type(entry.kind),
                    OsStr::from_bytes(entry.name),
                )
            });
            match listed {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn readdirplus(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        guard(|| {
            let ttl = self.ttl(inode);
            let listed = self.view.read_dir(inode.0, offset, |entry| {
                let Ok(attr) = self.view.attr(entry.inode) else { return true };
                let name = OsStr::from_bytes(entry.name);
                !reply.add(INodeNo(entry.inode), entry.next_offset, name, &ttl, &file_attr(&attr), GENERATION)
            });
            match listed {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(errno(error)),
            }
        });
    }

    fn statfs(&self, _request: &Request, _inode: INodeNo, reply: ReplyStatfs) {
        guard(|| {
            let totals = self.view.totals();
            let blocks = totals.bytes.div_ceil(u64::from(BLOCK_BYTES));
            reply.statfs(blocks, 0, 0, totals.nodes, 0, BLOCK_BYTES, MAX_NAME_BYTES, BLOCK_BYTES);
        });
    }

    fn getxattr(&self, _request: &Request, inode: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        guard(|| reply_xattr(self.view.xattr(inode.0, name.as_bytes()), size, reply));
    }

    fn listxattr(&self, _request: &Request, inode: INodeNo, size: u32, reply: ReplyXattr) {
        guard(|| reply_xattr(self.view.xattr_names(inode.0), size, reply));
    }

    fn access(&self, _request: &Request, inode: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        // The kernel checks modes itself (default_permissions) and asks us only where it was mounted otherwise.
        guard(|| match self.view.attr(inode.0) {
            Ok(_) if mask.contains(AccessFlags::W_OK) => reply.error(errno(Errno::EROFS)),
            Ok(_) => reply.ok(),
            Err(error) => reply.error(errno(error)),
        });
    }

    // Changes: the kernel refuses them on a read-only mount. They come here only after `mount -o remount,rw`.

    fn setattr(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        _size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.error(errno(Errno::EROFS));
    }

    fn mknod(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(errno(Errno::EROFS));
    }

    fn mkdir(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(errno(Errno::EROFS));
    }

    fn unlink(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(errno(Errno::EROFS));
    }

    fn rmdir(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(errno(Errno::EROFS));
    }

    fn symlink(&self, _: &Request, _: INodeNo, _: &OsStr, _: &Path, reply: ReplyEntry) {
        reply.error(errno(Errno::EROFS));
    }

    fn rename(&self, _: &Request, _: INodeNo, _: &OsStr, _: INodeNo, _: &OsStr, _: RenameFlags, reply: ReplyEmpty) {
        reply.error(errno(Errno::EROFS));
    }

    fn link(&self, _: &Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.error(errno(Errno::EROFS));
    }

    fn create(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: i32, reply: ReplyCreate) {
        reply.error(errno(Errno::EROFS));
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.error(errno(Errno::EROFS));
    }

    fn setxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: &[u8], _: i32, _: u32, reply: ReplyEmpty) {
        reply.error(errno(Errno::EROFS));
    }

    fn removexattr(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(errno(Errno::EROFS));
    }

    fn fallocate(&self, _: &Request, _: INodeNo, _: FileHandle, _: u64, _: u64, _: i32, reply: ReplyEmpty) {
        reply.error(errno(Errno::EROFS));
    }

    fn copy_file_range(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        _: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        // Both ends are ours, so it would be a write.
        reply.error(errno(Errno::EROFS));
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }
}

/// Runs one request; its panic stays here.
fn guard(request: impl FnOnce()) {
    // The reply was moved into the request and is dropped with it: EIO. What the view holds behind locks stays whole,
    // as each lock guards a few lines that cannot panic.
    if catch_unwind(AssertUnwindSafe(request)).is_err() {
        tracing::error!("a file system request panicked: this is a bug");
    }
}

/// Answers with a value, or its size when that was asked (`size` 0).
fn reply_xattr(value: Result<Vec<u8>, Errno>, size: u32, reply: ReplyXattr) {
    match value {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(errno(Errno::ERANGE)),
        Ok(value) => reply.data(&value),
        Err(error) => reply.error(errno(error)),
    }
}

fn errno(error: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(error.raw())
}

fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::Directory => FileType::Directory,
        Kind::File => FileType::RegularFile,
        Kind::Symlink => FileType::Symlink,
    }
}

fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.inode),
        size: attr.bytes,
        blocks: attr.blocks(),
        atime: attr.time,
        mtime: attr.time,
        ctime: attr.time,
        crtime: attr.time,
        kind: file_type(attr.kind),
        perm: attr.mode,
        nlink: attr.links,
        uid: attr.uid,
        gid: attr.gid,
        rdev: 0,
        blksize: PREFERRED_READ_BYTES,
        flags: 0,
    }
}

/// Inode numbers are never used again while mounted.
const GENERATION: Generation = Generation(0);

/// The list of torrents may change. What goes is taken back from the kernel at once; this bounds what that misses.
const FOLDER_TTL: Duration = Duration::from_secs(1);

/// Nothing inside a torrent ever changes.
const IMMUTABLE_TTL: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Readaheads that may be blocked at once without holding up others.
const MAX_BACKGROUND: u16 = 512;

/// What `stat(2)` recommends for reads: what a request of the kernel carries at most by default.
const PREFERRED_READ_BYTES: u32 = 128 * 1024;

const BLOCK_BYTES: u32 = 4096;
const MAX_NAME_BYTES: u32 = 255;

const NOTHING: Attr =
    Attr { inode: 0, kind: Kind::File, bytes: 0, mode: 0, links: 0, time: SystemTime::UNIX_EPOCH, uid: 0, gid: 0 };
