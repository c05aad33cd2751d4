//! Where to mount: is the directory fit for it, what is mounted there already, and does it lie in our own way?

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::mount::{MountError, detach};
use super::sys;

/// Finds out whether a mount may go here, and gives back the absolute path. A dead FUSE mount (its server is gone) is
/// cleared away; anything alive is left alone and refused. A directory that is not empty is accepted, as `mount(8)`
/// does it.
///
/// # Errors
/// [`MountError`], which says what to do.
pub fn prepare_mountpoint(path: &Path) -> Result<PathBuf, MountError> {
    let path = resolve(path)?;
    for _ in 0..MAX_STACKED {
        let Some(found) = MountInfo::at(&path) else { break };
        if !found.kind.starts_with("fuse") || !is_dead(&path) {
            return Err(MountError::Busy { path, kind: found.kind });
        }
        detach(&path).map_err(|source| MountError::Stale { path: path.clone(), source })?;
        tracing::warn!(path = %path.display(), "cleared away a dead mount");
    }
    let metadata = fs::metadata(&path).map_err(|source| unusable(&path, source))?;
    if !metadata.is_dir() {
        return Err(MountError::NotADirectory { path });
    }
    if !sys::may_write(&path) {
        return Err(MountError::NotWritable { path });
    }
    Ok(path)
}

/// Refuses a mount point that is one of these directories (device and inode), lies inside one, or has one inside: a path
/// lookup there would wait for ourselves. The directories are to be open in this process.
pub(super) fn refuse_overlap(path: &Path, avoid: &[(u64, u64)]) -> Result<(), MountError> {
    let overlap = || MountError::Overlap { path: path.to_path_buf() };
    let own = File::open(path).and_then(|directory| directory.metadata()).map_err(|source| unusable(path, source))?;
    let own = (own.dev(), own.ino());
    if ancestors(path).iter().any(|directory| avoid.contains(directory)) {
        return Err(overlap());
    }
    // From each of these directories upwards, by descriptor: names may lie, and the directories have none here.
    for descriptor in fs::read_dir("/proc/self/fd").into_iter().flatten().flatten() {
        let path = descriptor.path();
        let is_avoided = fs::metadata(&path)
            .is_ok_and(|metadata| metadata.is_dir() && avoid.contains(&(metadata.dev(), metadata.ino())));
        if is_avoided && ancestors(&path).contains(&own) {
            return Err(overlap());
        }
    }
    Ok(())
}

/// One line of `/proc/self/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountInfo {
    /// Device number as `major:minor`.
    pub(crate) device: String,
    /// Where it is mounted.
    pub(crate) path: PathBuf,
    /// Type of the file system.
    pub(crate) kind: String,
}

impl MountInfo {
    /// All mounts that this process sees, oldest first.
    pub(crate) fn all() -> Vec<Self> {
        let text = fs::read("/proc/self/mountinfo").unwrap_or_default();
        text.split(|&byte| byte == b'\n').filter_map(Self::parse).collect()
    }

    /// The topmost mount at exactly this path.
    pub(super) fn at(path: &Path) -> Option<Self> {
        Self::all().into_iter().rfind(|mount| mount.path == path)
    }

    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|&byte| byte == b' ');
        let device = String::from_utf8(fields.nth(2)?.to_vec()).ok()?;
        let path = unescape(fields.nth(1)?);
        let mut rest = fields.skip_while(|&field| field != b"-");
        let kind = String::from_utf8(rest.nth(1)?.to_vec()).ok()?;
        Some(Self { device, path, kind })
    }
}

/// Blanks and backslashes are written as `\ooo` there.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut at = 0;
    while at < field.len() {
        let octal = field
            .get(at..at + 4)
            .filter(|code| code[0] == b'\\')
            .and_then(|code| u8::from_str_radix(std::str::from_utf8(&code[1..]).ok()?, 8).ok());
        bytes.push(octal.unwrap_or(field[at]));
        at += if octal.is_some() { 4 } else { 1 };
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// The absolute path without links. The last component may be a dead mount, which no call can look into.
fn resolve(path: &Path) -> Result<PathBuf, MountError> {
    if path.as_os_str().as_bytes().is_empty() {
        return Err(unusable(path, io::Error::from(io::ErrorKind::NotFound)));
    }
    let error = match fs::canonicalize(path) {
        Ok(path) => return Ok(path),
        Err(error) => error,
    };
    let by_parent = || {
        let absolute = std::path::absolute(path).ok()?;
        Some(fs::canonicalize(absolute.parent()?).ok()?.join(absolute.file_name()?))
    };
    match by_parent() {
        Some(path) if MountInfo::at(&path).is_some() => Ok(path),
        _ => Err(unusable(path, error)),
    }
}

fn unusable(path: &Path, source: io::Error) -> MountError {
    let path = path.to_path_buf();
    match source.kind() {
        io::ErrorKind::NotFound => MountError::NotFound { path },
        io::ErrorKind::NotADirectory => MountError::NotADirectory { path },
        _ => MountError::Unusable { path, source },
    }
}

/// Whether the server of a FUSE mount is gone. One that does not answer in time is alive, perhaps stopped.
fn is_dead(path: &Path) -> bool {
    let (sender, answer) = mpsc::channel();
    let path = path.to_path_buf();
    // A thread of its own, as the call may wait for somebody else's server for ever; it ends with the process.
    let asked = thread::Builder::new().name("mount-probe".into()).spawn(move || {
        let _ = sender.send(sys::ask_figures(&path));
    });
    if asked.is_err() {
        return false;
    }
    let error = answer.recv_timeout(PROBE_PATIENCE).ok().and_then(Result::err);
    error.is_some_and(|error| matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED)))
}

/// Device and inode of a directory and of all above it.
fn ancestors(path: &Path) -> Vec<(u64, u64)> {
    let mut found = Vec::new();
    let Ok(mut directory) = File::open(path) else { return found };
    while let Ok(metadata) = directory.metadata() {
        let identity = (metadata.dev(), metadata.ino());
        if found.last() == Some(&identity) || found.len() > MAX_DEPTH {
            break;
        }
        found.push(identity);
        // By descriptor, so that nobody can move it from under us.
        match File::open(format!("/proc/self/fd/{}/..", directory.as_raw_fd())) {
            Ok(parent) => directory = parent,
            Err(_) => break,
        }
    }
    found
}

/// How long the server of a mount may take to show that it is alive.
const PROBE_PATIENCE: Duration = Duration::from_secs(2);

/// Dead mounts may lie on each other; more than this is no accident.
const MAX_STACKED: usize = 8;

/// Bounds the way up.
const MAX_DEPTH: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_mountinfo_are_understood() {
        let line = br"36 35 98:0 /mnt1 /mnt\0402\134x rw,noatime master:1 shared:2 - fuse.btfs btfs rw,errors=continue";
        let mount = MountInfo::parse(line).unwrap();
        assert_eq!(mount.device, "98:0");
        assert_eq!(mount.path, Path::new(r"/mnt 2\x"));
        assert_eq!(mount.kind, "fuse.btfs");
        assert_eq!(MountInfo::parse(b""), None);
        assert_eq!(MountInfo::parse(b"1 2 3:4 / /x rw"), None);
        assert!(MountInfo::at(Path::new("/proc")).is_some_and(|mount| mount.kind == "proc"));
    }

    #[test]
    fn a_mount_point_must_be_a_directory_and_free() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing");
        assert!(matches!(prepare_mountpoint(&missing), Err(MountError::NotFound { .. })));
        let file = directory.path().join("file");
        fs::write(&file, "x").unwrap();
        assert!(matches!(prepare_mountpoint(&file), Err(MountError::NotADirectory { .. })));
        assert!(matches!(prepare_mountpoint(Path::new("/proc")), Err(MountError::Busy { .. })));
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(directory.path(), &link).unwrap();
        let real = directory.path().canonicalize().unwrap();
        assert_eq!(prepare_mountpoint(&link).unwrap(), real);
        assert_eq!(prepare_mountpoint(&directory.path().join("x/..")).ok(), None);
    }

    #[test]
    fn a_mount_point_and_our_own_directories_keep_apart() {
        let top = tempfile::tempdir().unwrap();
        let cache = top.path().join("cache");
        let inside = cache.join("inside");
        let beside = top.path().join("beside");
        fs::create_dir_all(&inside).unwrap();
        fs::create_dir(&beside).unwrap();
        let open = File::open(&cache).unwrap();
        let metadata = open.metadata().unwrap();
        let avoid = [(metadata.dev(), metadata.ino())];
        assert!(refuse_overlap(&cache, &avoid).is_err());
        assert!(refuse_overlap(&inside, &avoid).is_err());
        assert!(refuse_overlap(top.path(), &avoid).is_err());
        assert!(refuse_overlap(&beside, &avoid).is_ok());
        assert!(refuse_overlap(&inside, &[]).is_ok());
    }
}
