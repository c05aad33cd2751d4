//! Mounts (and seeds) of the program under test.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;

use super::payload::Torrent;
use super::process::{Process, find_process, send_signal, try_reap};
use super::{World, btfs, run_any, texts, wait_for, wait_until};

/// A `btfs mount` to be.
pub struct MountBuilder<'a> {
    world: &'a World,
    torrents: Vec<PathBuf>,
    arguments: Vec<String>,
    environment: Vec<(String, PathBuf)>,
    wrapper: Vec<String>,
    cache: PathBuf,
    point: PathBuf,
    open_files: Option<u64>,
}

impl World {
    /// A mount with a cache of its own below this world; no peers, no trackers but those of the torrent.
    pub fn mount(&self, torrent: &Torrent) -> MountBuilder<'_> {
        self.mount_file(&torrent.file)
    }

    /// As [`mount`](Self::mount), of any torrent file.
    pub fn mount_file(&self, torrent: &Path) -> MountBuilder<'_> {
        MountBuilder {
            world: self,
            torrents: vec![torrent.to_path_buf()],
            arguments: Vec::new(),
            environment: Vec::new(),
            wrapper: Vec::new(),
            cache: self.path("cache/btfs"),
            point: self.path("mnt"),
            open_files: None,
        }
    }

    /// `btfs seed` of a torrent's own data on a loopback address; ends with its guard.
    #[track_caller]
    pub fn seed(&self, torrent: &Torrent) -> Seed {
        self.seed_to(torrent, &[])
    }

    /// As [`seed`](Self::seed), dialling these peers.
    #[track_caller]
    pub fn seed_to(&self, torrent: &Torrent, peers: &[std::net::SocketAddr]) -> Seed {
        self.seed_at(super::own_addr(), torrent, peers)
    }

    /// As [`seed_to`](Self::seed_to), with an address of the caller's.
    #[track_caller]
    pub fn seed_at(&self, addr: std::net::SocketAddr, torrent: &Torrent, peers: &[std::net::SocketAddr]) -> Seed {
        let mut command = self.btfs();
        command.arg("seed").arg(&torrent.file).arg(&torrent.data);
        command.arg("--bind").arg(addr.ip().to_string()).arg("--port").arg(addr.port().to_string());
        command.arg("--cache-dir").arg(self.directory(format!("seed-{}", addr.port())));
        for peer in peers {
            command.arg("--peer").arg(peer.to_string());
        }
        let mut process = Process::start(&mut command, &self.path(format!("seed-{}.log", addr.port())));
        wait_until("the seed listens", Duration::from_secs(20), || {
            process.assert_alive();
            std::net::TcpStream::connect(addr).is_ok()
        });
        Seed { process, addr }
    }
}

/// A running `btfs seed`.
pub struct Seed {
    pub process: Process,
    pub addr: std::net::SocketAddr,
}

impl MountBuilder<'_> {
    /// Of no torrent, but of what else the arguments say.
    pub fn of_none(mut self) -> Self {
        self.torrents.clear();
        self
    }

    pub fn and(mut self, torrent: &Path) -> Self {
        self.torrents.push(torrent.to_path_buf());
        self
    }

    pub fn at(mut self, point: &str) -> Self {
        self.point = self.world.path(point);
        self
    }

    pub fn cache(mut self, name: &str) -> Self {
        self.cache = self.world.path(name);
        self
    }

    pub fn peer(self, addr: impl ToString) -> Self {
        let addr = addr.to_string();
        self.args(&["--peer", &addr])
    }

    pub fn args(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|&text| text.to_owned()));
        self
    }

    /// With this in its environment.
    pub fn env(mut self, name: &str, value: impl Into<PathBuf>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// Started by this command, which gets the program and its arguments as its last ones.
    pub fn wrapped(mut self, command: &[&str]) -> Self {
        self.wrapper = command.iter().map(|&text| text.to_owned()).collect();
        self
    }

    /// At most so many open files for the process.
    pub fn open_files(mut self, limit: u64) -> Self {
        self.open_files = Some(limit);
        self
    }

    fn command(&self) -> Command {
        let _ = std::fs::create_dir_all(&self.point); // fails on a dead mount: it is there, then
        let mut command = match self.wrapper.split_first() {
            Some((first, others)) => {
                let mut command = Command::new(first);
                self.world.surround(&mut command);
                command.args(others).arg(btfs());
                command
            }
            None => self.world.btfs(),
        };
        command.arg("mount").args(&self.torrents).arg(&self.point);
        command.arg("--cache-dir").arg(&self.cache);
        // Tests meet on loopback only, and never ask a tracker outside.
        if !self.arguments.iter().any(|text| text == "--bind") {
            command.args(["--bind", &super::own_ip().to_string()]);
        }
        command.args(&self.arguments).envs(self.environment.iter().map(|(name, value)| (name, value)));
        if let Some(limit) = self.open_files {
            let limit = libc::rlimit { rlim_cur: limit, rlim_max: limit };
            // SAFETY: setrlimit is safe between fork and exec and reads a live struct.
            unsafe {
                command.pre_exec(move || match libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                });
            }
        }
        command
    }

    /// Runs `btfs mount` as a user does: it returns when the mount is ready and goes on in the background.
    #[track_caller]
    pub fn start(self) -> Mount {
        let output = run_any(&mut self.command());
        assert!(output.status.success(), "mount: {}\n{}{}", output.status, texts(&output), self.world.logs());
        assert!(is_mounted(&self.point), "mount said it is ready: {}", texts(&output));
        let pid = find_process(&btfs(), &self.point).expect("the background process");
        Mount {
            point: self.point.clone(),
            cache: self.cache.clone(),
            pid: Some(pid),
            said: texts(&output),
            environment: self.world.btfs(),
        }
    }

    /// Runs `btfs mount` and returns what came of it, whatever that is.
    pub fn attempt(self) -> Output {
        run_any(&mut self.command())
    }

    /// Runs `btfs mount --foreground` as a child.
    #[track_caller]
    pub fn foreground(self) -> (Process, Mount) {
        let mut command = self.command();
        command.arg("--foreground");
        let mut process = Process::start(&mut command, &self.world.path("foreground.log"));
        wait_until("the mount is there", Duration::from_secs(20), || {
            process.assert_alive();
            is_mounted(&self.point)
        });
        let mount = Mount {
            point: self.point.clone(),
            cache: self.cache.clone(),
            pid: None,
            said: String::new(),
            environment: self.world.btfs(),
        };
        (process, mount)
    }
}

/// A mount that goes away with this guard.
pub struct Mount {
    pub point: PathBuf,
    pub cache: PathBuf,
    /// What `btfs mount` printed.
    pub said: String,
    /// The background process, while it is ours to end.
    pid: Option<i32>,
    environment: Command,
}

impl Mount {
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.point.join(name)
    }

    /// The background process.
    #[track_caller]
    pub fn pid(&self) -> i32 {
        self.pid.expect("a mount in the background, not yet ended")
    }

    fn btfs(&self) -> Command {
        let mut command = Command::new(self.environment.get_program());
        for (name, value) in self.environment.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command
    }

    /// Runs a command of the program on this mount: `btfs COMMAND MOUNTPOINT ARGUMENTS...`, to its end, whatever that is.
    #[track_caller]
    pub fn tell(&self, command: &str, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Output {
        run_any(self.btfs().arg(command).arg(&self.point).args(arguments))
    }

    /// The torrent's slot in the cache.
    pub fn slot(&self, torrent: &Torrent) -> PathBuf {
        self.cache.join(&torrent.info_hash)
    }

    /// `btfs status MOUNTPOINT --json`.
    #[track_caller]
    pub fn status(&self) -> Value {
        let output = run_any(self.btfs().arg("status").arg(&self.point).arg("--json"));
        assert!(output.status.success(), "status: {}\n{}", output.status, texts(&output));
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("status is not JSON ({error}): {}", texts(&output)))
    }

    /// Polls the status until `condition` holds.
    #[track_caller]
    pub fn wait_status(&self, what: &str, bound: Duration, condition: impl Fn(&Value) -> bool) -> Value {
        wait_for(what, bound, || Some(self.status()).filter(&condition))
    }

    /// A figure of the torrents, added up.
    #[track_caller]
    pub fn figure(&self, name: &str) -> u64 {
        sum(&self.status(), name)
    }

    /// Payload bytes received from peers in this life of the mount.
    #[track_caller]
    pub fn downloaded(&self) -> u64 {
        self.figure("downloaded_bytes")
    }

    /// Waits until that many reads are blocked.
    #[track_caller]
    pub fn wait_blocked(&self, count: usize) {
        self.wait_status(&format!("{count} blocked reads"), Duration::from_secs(20), |status| {
            waiting_reads(status) >= count
        });
    }

    pub fn signal(&self, signal: i32) {
        send_signal(self.pid(), signal);
    }

    /// Kills the background process the hard way and waits until it is gone; its mount point stays, dead.
    #[track_caller]
    pub fn kill9(&mut self) {
        let pid = self.pid();
        send_signal(pid, libc::SIGKILL);
        wait_for("the end of a killed process", Duration::from_secs(10), || try_reap(pid));
        self.pid = None;
    }

    /// Waits for the end of the background process; its exit code, `None` when a signal ended it.
    #[track_caller]
    pub fn wait_end(&mut self, bound: Duration) -> Option<i32> {
        let pid = self.pid();
        let code = wait_for("the end of the background process", bound, || try_reap(pid));
        self.pid = None;
        code
    }

    /// `btfs umount`, and the end of the background process: both must be fine.
    #[track_caller]
    pub fn umount(mut self) {
        let output = run_any(self.btfs().arg("umount").arg(&self.point));
        assert!(output.status.success(), "umount: {}\n{}", output.status, texts(&output));
        assert!(!is_mounted(&self.point), "umount said it is done");
        if self.pid.is_some() {
            assert_eq!(self.wait_end(Duration::from_secs(20)), Some(0), "exit status after umount");
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Some(pid) = self.pid {
            send_signal(pid, libc::SIGKILL);
        }
        detach(&self.point);
        if let Some(pid) = self.pid {
            let end = std::time::Instant::now() + Duration::from_secs(5);
            while try_reap(pid).is_none() && std::time::Instant::now() < end {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

/// Sums a figure over the torrents of a status.
#[track_caller]
pub fn sum(status: &Value, name: &str) -> u64 {
    torrents(status)
        .iter()
        .map(|torrent| torrent[name].as_u64().unwrap_or_else(|| panic!("no {name}: {torrent}")))
        .sum()
}

/// The torrents of a status.
#[track_caller]
pub fn torrents(status: &Value) -> &[Value] {
    status["torrents"].as_array().unwrap_or_else(|| panic!("no torrents: {status}"))
}

/// How many reads wait.
pub fn waiting_reads(status: &Value) -> usize {
    status["waiting_reads"].as_u64().unwrap_or_else(|| panic!("no waiting_reads: {status}")) as usize
}

/// Whether something is mounted there, by the kernel's word; nobody is asked.
pub fn is_mounted(point: &Path) -> bool {
    let table = std::fs::read("/proc/self/mountinfo").unwrap();
    table
        .split(|&byte| byte == b'\n')
        .any(|line| line.split(|&byte| byte == b' ').nth(4).is_some_and(|field| field == point.as_os_str().as_bytes()))
}

/// Takes away whatever is mounted there: several layers, too.
pub fn detach(point: &Path) {
    let path = std::ffi::CString::new(point.as_os_str().as_bytes()).unwrap();
    while is_mounted(point) {
        // SAFETY: the path is a valid C string for the call.
        if unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) } != 0 {
            // Not root: the helper can.
            let done = Command::new("fusermount3").arg("-uzq").arg(point).status();
            if !done.is_ok_and(|status| status.success()) {
                return;
            }
        }
    }
}
