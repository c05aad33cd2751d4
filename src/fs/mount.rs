//! A mount's life: put at its mount point, served until somebody unmounts it, taken away in bounded time.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use fuser::{INodeNo, MountOption, Notifier, Session, SessionACL};

use super::forest::Gone;
use super::fuse::Fuse;
use super::mountpoint::{MountInfo, prepare_mountpoint, refuse_overlap};
use super::passthrough::Passthrough;
use super::sys;
use super::view::{View, ViewConfig};
use super::watch;
use crate::base::InfoHash;
use crate::net::TorrentHandle;

/// What to mount where.
#[derive(Debug, Clone)]
pub struct MountConfig {
    /// The directory to mount at.
    pub mountpoint: PathBuf,
    /// Let other users in; as an ordinary user this needs `user_allow_other` in `/etc/fuse.conf`.
    pub allow_other: bool,
    /// Owner of everything; `None`: the user that mounts.
    pub uid: Option<u32>,
    /// Group of everything; `None`: the group of the user that mounts.
    pub gid: Option<u32>,
    /// How far ahead of a reader to fetch, at its own pace.
    pub readahead: Duration,
    /// A directory on the file system that holds the data of torrents which may come later.
    pub data: Option<PathBuf>,
    /// Options as of `mount(8)`: `noatime`, `nodev`, `noexec`, `ro`, `fsname=...` and so on.
    pub options: Vec<String>,
}

impl Default for MountConfig {
    fn default() -> Self {
        Self {
            mountpoint: PathBuf::new(),
            allow_other: false,
            uid: None,
            gid: None,
            readahead: Duration::from_secs(15),
            data: None,
            options: Vec::new(),
        }
    }
}

/// Why something cannot be mounted; each says what to do.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages explain them")]
pub enum MountError {
    #[error("mount point {path} does not exist: create the directory first", path = path.display())]
    NotFound { path: PathBuf },
    #[error("mount point {path} is not a directory", path = path.display())]
    NotADirectory { path: PathBuf },
    #[error("mount point {path} is not writable for you: choose a directory of your own", path = path.display())]
    NotWritable { path: PathBuf },
    #[error("mount point {path}: {source}", path = path.display())]
    Unusable { path: PathBuf, source: io::Error },
    #[error("something ({kind}) is mounted at {path} already: unmount it first, or choose another directory", path = path.display())]
    Busy { path: PathBuf, kind: String },
    #[error("a dead mount at {path} cannot be cleared away: {source}; try: fusermount3 -u -z {path}", path = path.display())]
    Stale { path: PathBuf, source: io::Error },
    #[error("mount point {path} and the cache (or data) lie inside each other: choose another directory", path = path.display())]
    Overlap { path: PathBuf },
    #[error("/dev/fuse is missing: load the kernel module (modprobe fuse), or let the container have the device")]
    NoDevice,
    #[error(
        "/dev/fuse cannot be opened: {source}; let root make it usable for you (chmod 0666 /dev/fuse), or run as root"
    )]
    Device { source: io::Error },
    #[error("--allow-other needs the line \"user_allow_other\" in /etc/fuse.conf when you are not root")]
    AllowOther,
    #[error("fusermount3 is missing, which ordinary users need to mount: install the package fuse3")]
    NoHelper,
    #[error("mount option {option:?} is not known")]
    Option { option: String },
    #[error("cannot mount at {path}: {source}", path = path.display())]
    System { path: PathBuf, source: io::Error },
}

/// A mount that is served; unmounted when dropped.
#[derive(Debug)]
pub struct Mount {
    path: PathBuf,
    /// Device number as `major:minor`: tells our mount from whatever else may be at the path later.
    device: Option<String>,
    view: Arc<View>,
    passthrough: Arc<Passthrough>,
    session: Arc<SessionState>,
    unmounting: Mutex<()>,
}

#[derive(Debug, Default)]
struct SessionState {
    ended: Mutex<bool>,
    changed: Condvar,
    /// The way to tell the kernel that a name is gone, as long as it is served: it keeps the device open.
    notifier: Mutex<Option<Notifier>>,
}

impl Mount {
    /// Refuses what [`start`](Self::start) would refuse without a look at any torrent: the mount point, the options, the
    /// device. Clears away a dead mount, as that does.
    ///
    /// # Errors
    /// As of [`start`](Self::start).
    pub fn judge(config: &MountConfig) -> Result<(), MountError> {
        prepare_mountpoint(&config.mountpoint)?;
        mount_options(config)?;
        device()
    }

    /// Mounts; when it returns, the mount answers. `avoid`: directories (device and inode) of ours that must neither hold
    /// the mount point nor lie below it; they are to be open in this process.
    pub fn start(config: MountConfig, torrents: &[TorrentHandle], avoid: &[(u64, u64)]) -> Result<Self, MountError> {
        let path = prepare_mountpoint(&config.mountpoint)?;
        refuse_overlap(&path, avoid)?;
        if fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_some()) {
            tracing::warn!(path = %path.display(), "the mount point is not empty: what lies there is hidden while mounted");
        }
        let view = View::new(
            torrents,
            ViewConfig {
                uid: config.uid.unwrap_or_else(sys::effective_user),
                gid: config.gid.unwrap_or_else(sys::effective_group),
                readahead: config.readahead,
            },
        );
        let system = |source| MountError::System { path: path.clone(), source };
        let watch = watch::spawn(Arc::clone(&view.pending)).map_err(system)?;
        // Ends the watch as well when the mount does not come about.
        let passthrough = Arc::new(Passthrough::default());
        let fuse =
            Fuse::new(Arc::clone(&view), Arc::clone(&passthrough), stack_depth(torrents, config.data.as_deref()));
        let session = open_session(&config, &path, fuse).inspect_err(|_| view.stop())?;
        let state =
            Arc::new(SessionState { notifier: Mutex::new(Some(session.notifier())), ..SessionState::default() });
        let device = MountInfo::at(&path).map(|mount| mount.device);
        let served = (Arc::clone(&view), Arc::clone(&state), device.clone());
        thread::Builder::new()
            .name("fs-session".into())
            .spawn(move || {
                let (view, state, device) = served;
                let ended = session.run();
                state.notifier.lock().unwrap_or_else(PoisonError::into_inner).take();
                if let Err(error) = ended {
                    tracing::error!(%error, "the mount has failed");
                    // It answers nothing any more: better no mount than a dead one.
                    device.as_deref().inspect(|device| detach_device(device));
                }
                view.stop();
                let _ = watch.join();
                state.end();
            })
            .map_err(system)?;
        let mount = Self { path, device, view, passthrough, session: state, unmounting: Mutex::new(()) };
        // When its first call returns, requests are answered.
        fs::symlink_metadata(&mount.path).map_err(|source| MountError::System { path: mount.path.clone(), source })?;
        Ok(mount)
    }

    /// The mount point, absolute.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Device number as `major:minor`, for [`detach_device`].
    pub(crate) fn device(&self) -> Option<&str> {
        self.device.as_deref()
    }

    /// Waits until the kernel has ended the mount, whoever unmounted it; after `umount -l` with the last close.
    pub fn wait_unmounted(&self) {
        let mut ended = self.session.lock();
        while !*ended {
            ended = self.session.changed.wait(ended).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Whether the kernel still sends requests.
    pub fn is_mounted(&self) -> bool {
        !*self.session.lock()
    }

    /// Fails the reads that wait, with `EIO`, and unmounts; where files are open the mount is detached, and ends with
    /// their last close or with this process. Takes at most about 3 s. Idempotent.
    pub fn unmount(&self) {
        self.view.stop();
        let _one_at_a_time = self.unmounting.lock().unwrap_or_else(PoisonError::into_inner);
        let places = if self.is_mounted() { places(self.device.as_deref()) } else { Vec::new() };
        if places.is_empty() && MountInfo::all().iter().any(|mount| Some(&mount.device) == self.device.as_ref()) {
            tracing::warn!(path = %self.path.display(), "something else is mounted over it: left as it is");
        }
        for place in places {
            let unmounted = match sys::unmount(&place, false) {
                Err(error) if is_gone(&error) => Ok(()),
                Err(_) => detach(&place),
                Ok(()) => Ok(()),
            };
            if let Err(error) = unmounted {
                tracing::warn!(path = %place.display(), %error, "cannot unmount");
            }
        }
        self.session.wait_at_most(UNMOUNT_PATIENCE);
    }

    /// Shows one more torrent, in this folder below the root, made if it is missing; where that is, from the root on.
    pub fn add(&self, torrent: &TorrentHandle, folder: &Path) -> PathBuf {
        self.view.add(torrent, folder)
    }

    /// Shows a torrent no more, and tells the kernel; false when it was not shown. Reads of it that wait fail with `EIO`.
    /// May wait for look-ups in its folder: not for a thread that answers any.
    pub fn remove(&self, hash: &InfoHash) -> bool {
        self.view.remove(hash).inspect(|gone| self.forget(gone)).is_some()
    }

    /// Shows nothing any more; for a mount that has ended, so that it holds nothing of its torrents.
    pub fn clear(&self) {
        self.view.clear();
    }

    /// Makes these folders below the root, all their parents being among them, and takes away all others that are empty.
    pub fn set_folders(&self, folders: &BTreeSet<PathBuf>) {
        self.view.set_folders(folders).iter().for_each(|gone| self.forget(gone));
    }

    /// Where a torrent is shown, from the root on.
    pub fn path_of(&self, hash: &InfoHash) -> Option<PathBuf> {
        self.view.path_of(hash)
    }

    /// Tells the kernel that a name is no more.
    fn forget(&self, gone: &Gone) {
        // Not under the lock: the session's end must not wait for the kernel.
        let notifier = self.session.notifier.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let told = notifier.map(|notifier| notifier.inval_entry(INodeNo(gone.folder), OsStr::from_bytes(&gone.name)));
        if let Some(Err(error)) = told {
            tracing::debug!(%error, "the kernel learns in a second that a name is gone");
        }
    }

    /// Reads that wait for pieces.
    pub fn waiting_reads(&self) -> usize {
        self.view.waiting_reads()
    }

    /// Files that are open.
    pub fn open_files(&self) -> usize {
        self.view.open_files()
    }

    /// Files of those that the kernel reads by itself: they are complete, and no read of them is seen here.
    pub fn passthrough_files(&self) -> usize {
        self.passthrough.files()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        self.unmount();
    }
}

impl SessionState {
    fn lock(&self) -> MutexGuard<'_, bool> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) {
        *self.lock() = true;
        self.changed.notify_all();
    }

    fn wait_at_most(&self, patience: Duration) {
        let until = Instant::now() + patience;
        let mut ended = self.lock();
        while !*ended {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            ended = self.changed.wait_timeout(ended, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Where the file system of this device number is mounted now: bind mounts too, but nothing that lies under another mount.
fn places(device: Option<&str>) -> Vec<PathBuf> {
    let all = MountInfo::all();
    let is_topmost = |at: usize| !all[at + 1..].iter().any(|later| later.path == all[at].path);
    let is_ours = |at: usize| device == Some(&all[at].device) && is_topmost(at);
    (0..all.len()).rev().filter(|&at| is_ours(at)).map(|at| all[at].path.clone()).collect()
}

/// Takes away now every mount of a file system that can be reached: what lies under another mount stays.
pub(crate) fn detach_device(device: &str) {
    for place in places(Some(device)) {
        let _ = detach(&place);
    }
}

/// Takes a mount away now; it ends with its last open file.
pub(crate) fn detach(path: &Path) -> io::Result<()> {
    match sys::unmount(path, true) {
        Err(error) if is_gone(&error) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let output = Command::new(HELPER).args(["-u", "-z", "--"]).arg(path).stdin(Stdio::null()).output()?;
            if output.status.success() {
                return Ok(());
            }
            Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
        }
        outcome => outcome,
    }
}

/// Whether an unmount failed because there was nothing (any more).
fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT))
}

fn open_session(config: &MountConfig, path: &Path, fuse: Fuse) -> Result<Session<Fuse>, MountError> {
    let mut session = fuser::Config::default();
    let (options, allow_other) = mount_options(config)?;
    session.mount_options = options;
    session.acl = if allow_other { SessionACL::All } else { SessionACL::Owner };
    // Two, so that a long answer does not hold up a short one.
    session.n_threads = Some(2);
    // Asked first, for a clear message: fusermount3 opens the device with our rights as well.
    device()?;
    // Each thread its own queue; it opens the device again, and would fail only after the mount is up.
    session.clone_fd = true;
    Session::new(fuse, path, &session).map_err(|source| explain(path, source))
}

/// How deep file systems are stacked by a mount that hands out files of these torrents, or such in `data`. No deeper than
/// needed: the kernel's bound is 2, and an overlay on this mount counts as well.
fn stack_depth(torrents: &[TorrentHandle], data: Option<&Path>) -> u32 {
    let places = torrents.iter().map(|torrent| torrent.store().path_for_people()).chain(data);
    let stacked = places.into_iter().any(sys::is_overlay);
    1 + u32::from(stacked)
}

/// Whether the device can be opened.
fn device() -> Result<(), MountError> {
    match OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(MountError::NoDevice),
        Err(source) => Err(MountError::Device { source }),
    }
}

/// What fuser's errors mean for a person.
fn explain(path: &Path, source: io::Error) -> MountError {
    let path = path.to_path_buf();
    if source.to_string().contains("user_allow_other") {
        return MountError::AllowOther;
    }
    match source.kind() {
        // Everything else exists by now.
        io::ErrorKind::NotFound => MountError::NoHelper,
        _ => MountError::System { path, source },
    }
}

/// Our own options and the user's, and whether others are let in.
fn mount_options(config: &MountConfig) -> Result<(Vec<MountOption>, bool), MountError> {
    let mut options = vec![MountOption::RO, MountOption::DefaultPermissions];
    let mut allow_other = config.allow_other;
    let mut name = "btfs".to_owned();
    for option in &config.options {
        options.push(match option.as_str() {
            // Always so, or the default of every mount.
            "ro" | "default_permissions" | "defaults" | "rw" | "nodev" | "nosuid" | "async" | "" => continue,
            "allow_other" => {
                allow_other = true;
                continue;
            }
            "dev" => MountOption::Dev,
            "suid" => MountOption::Suid,
            "exec" => MountOption::Exec,
            "noexec" => MountOption::NoExec,
            "atime" => MountOption::Atime,
            "noatime" => MountOption::NoAtime,
            "sync" => MountOption::Sync,
            "dirsync" => MountOption::DirSync,
            other => match other.split_once('=') {
                Some(("fsname", value)) if !value.contains(',') => {
                    name = value.to_owned();
                    continue;
                }
                // It is part of the type that the kernel shows, which is how others recognise us.
                Some(("subtype", _)) => continue,
                Some(("max_read" | "blksize" | "context" | "fscontext" | "defcontext" | "rootcontext", _)) => {
                    MountOption::CUSTOM(other.to_owned())
                }
                _ => return Err(MountError::Option { option: option.clone() }),
            },
        });
    }
    if !options.contains(&MountOption::Atime) && !options.contains(&MountOption::NoAtime) {
        options.push(MountOption::NoAtime);
    }
    options.push(MountOption::FSName(name));
    // Not fuser's `Subtype`, which only names the source when it mounts without the helper.
    options.push(MountOption::CUSTOM("subtype=btfs".into()));
    Ok((options, allow_other))
}

/// Mounts (for fuser) and unmounts for ordinary users.
const HELPER: &str = "fusermount3";

/// How long an unmount may take.
const UNMOUNT_PATIENCE: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;

    fn options(given: &[&str]) -> Result<(Vec<MountOption>, bool), MountError> {
        let options = given.iter().map(|&option| option.to_owned()).collect();
        mount_options(&MountConfig { options, ..MountConfig::default() })
    }

    #[test]
    fn a_mount_is_always_read_only() {
        for given in [&[][..], &["rw"], &["ro", "defaults", "nodev"]] {
            let (options, allow_other) = options(given).unwrap();
            assert!(options.contains(&MountOption::RO) && !options.contains(&MountOption::RW), "{given:?}");
            assert!(options.contains(&MountOption::DefaultPermissions) && !allow_other);
        }
    }

    #[test]
    fn options_of_mount_are_understood() {
        let (known, allow_other) = options(&["allow_other", "atime", "noexec", "fsname=films"]).unwrap();
        assert!(allow_other);
        assert!(known.contains(&MountOption::Atime) && !known.contains(&MountOption::NoAtime));
        assert!(known.contains(&MountOption::NoExec) && known.contains(&MountOption::FSName("films".into())));
        for unknown in ["nonsense", "fsname=a,b", "direct_io"] {
            assert!(matches!(options(&[unknown]), Err(MountError::Option { .. })), "{unknown}");
        }
    }
}
