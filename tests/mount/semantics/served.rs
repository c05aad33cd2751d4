//! A torrent that is mounted in this process.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use btfs::fs::{Mount, MountConfig};
use btfs::net::TorrentHandle;

pub use super::content::{CREATED, Content, Owner, Supply, digest};
use crate::harness::wait_until;

/// A mounted torrent; unmounted when dropped.
pub struct Served {
    // Dropped in this order: the mount first, the directory last.
    mount: Option<Mount>,
    pub handle: Option<TorrentHandle>,
    pub owner: Arc<Owner>,
    thread: Option<JoinHandle<()>>,
    pub content: Content,
    point: PathBuf,
    _directory: tempfile::TempDir,
}

impl Served {
    /// Everything is present.
    pub fn complete(content: Content) -> Self {
        Self::start(content, true, MountConfig::default())
    }

    /// Nothing is present, and the supply is open.
    pub fn empty(content: Content) -> Self {
        Self::start(content, false, MountConfig::default())
    }

    /// Mounts with these options (but for the mount point).
    pub fn start(content: Content, complete: bool, config: MountConfig) -> Self {
        let directory = tempfile::Builder::new().prefix("btfs-fs-").tempdir().unwrap();
        set_mode(directory.path(), 0o755);
        let point = directory.path().join("mnt");
        std::fs::create_dir(&point).unwrap();
        let (owner, handle, thread) = Owner::start(&content, directory.path(), complete);
        let config = MountConfig { mountpoint: point.clone(), ..config };
        let avoid = owner.store.directories();
        let mount = Mount::start(config, std::slice::from_ref(&handle), &avoid).unwrap();
        Self {
            mount: Some(mount),
            handle: Some(handle),
            owner,
            thread: Some(thread),
            content,
            point,
            _directory: directory,
        }
    }

    /// The mount.
    pub fn mount(&self) -> &Mount {
        self.mount.as_ref().unwrap()
    }

    /// The mount point.
    pub fn root(&self) -> &Path {
        &self.point
    }

    /// The torrent's directory, or single file, in the mount.
    pub fn top(&self) -> PathBuf {
        self.point.join(std::ffi::OsStr::from_bytes(&self.content.metainfo.name))
    }

    /// A directory beside the mount, on a disk.
    pub fn beside(&self, name: &str) -> PathBuf {
        let path = self._directory.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    /// Waits until this many reads wait.
    #[track_caller]
    pub fn wait_blocked(&self, reads: usize) {
        wait_until("reads wait", Duration::from_secs(10), || self.mount().waiting_reads() >= reads);
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.mount.take());
        drop(self.handle.take());
        // Ends when the last open file of the view is gone, too; a detached mount may keep it.
        let thread = self.thread.take().unwrap();
        let until = Instant::now() + Duration::from_secs(5);
        while !thread.is_finished() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A child program that is killed when dropped.
pub struct Reader(pub Child);

impl Reader {
    /// Runs a python program with `path` as its argument; its output can be read when it has ended.
    pub fn python(program: &str, path: &Path) -> Self {
        Self::run(Command::new("python3").arg("-c").arg(program).arg(path))
    }

    /// Runs a command.
    pub fn run(command: &mut Command) -> Self {
        Self::run_with(command, Stdio::null())
    }

    /// Runs a command with this input.
    pub fn run_with(command: &mut Command, input: impl Into<Stdio>) -> Self {
        let child = command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        Self(child.unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        crate::harness::process::send_signal(self.0.id() as i32, signal);
    }

    /// Waits for its end; whether it came.
    pub fn try_ends_within(&mut self, bound: Duration) -> bool {
        let until = Instant::now() + bound;
        while self.0.try_wait().unwrap().is_none() {
            if Instant::now() > until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }

    /// Waits for its end; panics when that takes longer.
    #[track_caller]
    pub fn ends_within(&mut self, bound: Duration) -> std::process::ExitStatus {
        let mut status = None;
        wait_until("the reader ends", bound, || {
            status = self.0.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// Its output after a good end.
    #[track_caller]
    pub fn output(mut self, bound: Duration) -> String {
        let status = self.ends_within(bound);
        let (mut text, mut errors) = (String::new(), String::new());
        std::io::Read::read_to_string(self.0.stdout.as_mut().unwrap(), &mut text).unwrap();
        std::io::Read::read_to_string(self.0.stderr.as_mut().unwrap(), &mut errors).unwrap();
        assert!(status.success(), "{status}: {text}{errors}");
        text
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.0.kill();
        // Not waited for without end: a reader may be stuck in the very mount under test.
        for _ in 0..200 {
            if matches!(self.0.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}
