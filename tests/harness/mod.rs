//! What the tests with real mounts and real peers share: a world of their own (directories, environment, payloads,
//! torrents), the program under test, and other BitTorrent programs as peers and trackers.
//!
//! Everything started here is ended here, by process id, and everything mounted is unmounted, also when a test panics.
//! Nothing listens anywhere but on loopback. Included by path from `tests/mount` and `tests/interop`.
#![allow(dead_code, reason = "two test binaries use different parts")]

pub mod mount;
pub mod payload;
pub mod peers;
pub mod process;
pub mod rqbit;
pub mod trackers;
pub mod web;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use process::become_subreaper;

/// The directories and the environment of one test: nothing of the user's is read or written.
pub struct World {
    directory: tempfile::TempDir,
}

impl World {
    pub fn new() -> Self {
        become_subreaper();
        let directory = tempfile::Builder::new().prefix("btfs-").tempdir().expect("a temporary directory");
        let world = Self { directory };
        // Open to others: some peers and an ordinary user's tests run under another name.
        std::fs::set_permissions(world.path(""), std::fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["home", "run", "state", "cache", "config"] {
            std::fs::create_dir(world.path(name)).unwrap();
        }
        world
    }

    /// A path inside this world.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A directory inside this world, made if it is missing.
    pub fn directory(&self, name: impl AsRef<Path>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    /// The program under test, in this world's environment, without a terminal.
    pub fn btfs(&self) -> Command {
        let mut command = Command::new(btfs());
        self.surround(&mut command);
        command
    }

    /// Gives a command this world's environment.
    pub fn surround(&self, command: &mut Command) {
        command
            .current_dir(self.directory.path())
            .env("HOME", self.path("home"))
            .env("XDG_CACHE_HOME", self.path("cache"))
            .env("XDG_STATE_HOME", self.path("state"))
            .env("XDG_CONFIG_HOME", self.path("config"))
            .env("XDG_RUNTIME_DIR", self.path("run"))
            .env_remove("JOURNAL_STREAM")
            .env_remove("SSL_CERT_FILE")
            .env_remove("SSL_CERT_DIR")
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null());
    }

    /// What the background process logged, for messages of failing tests.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        let Ok(entries) = std::fs::read_dir(self.path("state/btfs")) else { return text };
        for entry in entries.flatten() {
            let log = std::fs::read(entry.path()).unwrap_or_default();
            let tail = &log[log.len().saturating_sub(4000)..];
            text += &format!("-- {}\n{}\n", entry.path().display(), String::from_utf8_lossy(tail));
        }
        text
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
    }
}

/// The program under test.
pub fn btfs() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_btfs"))
}

/// Where `scripts/setup` puts what is not a Debian package.
pub fn peers_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers")
}

/// A python that has libtorrent.
pub fn python() -> PathBuf {
    let own = peers_directory().join("venv/bin/python");
    if own.exists() { own } else { PathBuf::from("python3") }
}

/// This many times in the normal run; `BTFS_LONG` multiplies.
pub fn times(count: usize) -> usize {
    let factor = std::env::var("BTFS_LONG").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    count * factor
}

/// Whether this is the long run.
pub fn is_long() -> bool {
    times(1) > 1
}

/// Whether tests can mount here; says so when they cannot.
pub fn can_mount() -> bool {
    let can = Path::new("/dev/fuse").exists();
    if !can {
        eprintln!("SKIPPED: there is no /dev/fuse");
    }
    can
}

/// Whether this runs as root, for what no ordinary user can set up; says what that is when it does not.
pub fn as_root(why: &str) -> bool {
    // SAFETY: no arguments, no failure.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        eprintln!("SKIPPED: needs root {why}");
    }
    root
}

/// Polls until the condition gives a value; panics with `what` when `bound` has passed.
#[track_caller]
pub fn wait_for<T>(what: &str, bound: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < bound, "not within {bound:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Polls until the condition holds.
#[track_caller]
pub fn wait_until(what: &str, bound: Duration, mut condition: impl FnMut() -> bool) {
    wait_for(what, bound, || condition().then_some(()));
}

/// A loopback address that no other test uses at this time.
pub fn own_ip() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let pid = std::process::id();
    let host = NEXT.fetch_add(1, Ordering::Relaxed);
    Ipv4Addr::new(127, 1 + (pid >> 8) as u8 % 250, pid as u8, 1 + host % 250).into()
}

/// An address of its own with a port that is free now.
pub fn own_addr() -> SocketAddr {
    free_addr(own_ip())
}

/// This address with a port that is free now.
pub fn free_addr(ip: IpAddr) -> SocketAddr {
    TcpListener::bind((ip, 0)).expect("a free port").local_addr().unwrap()
}

/// Runs a test in a network of its own that has these addresses (with the length of their prefix) beside loopback. What
/// it starts is in there, too. As root only.
pub fn in_own_network(addresses: &[&str], test: impl FnOnce() + Send + 'static) {
    let mut commands = vec![vec!["link", "set", "lo", "up"]];
    commands.extend(addresses.iter().map(|address| match address.contains(':') {
        true => vec!["address", "add", address, "dev", "lo", "nodad"],
        false => vec!["address", "add", address, "dev", "lo"],
    }));
    std::thread::scope(|scope| {
        // It holds for the thread that asks for it, and for its children.
        let thread = scope.spawn(move || {
            // SAFETY: no pointers; this thread has no socket yet.
            let entered = unsafe { libc::unshare(libc::CLONE_NEWNET) };
            assert_eq!(entered, 0, "a network of its own: {}", std::io::Error::last_os_error());
            commands.iter().for_each(|words| _ = run(Command::new("ip").args(words)));
            test();
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

/// Runs a command to its end; it must be fine.
#[track_caller]
pub fn run(command: &mut Command) -> Output {
    let output = run_any(command);
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, texts(&output));
    output
}

/// Runs a command to its end, whatever that is.
#[track_caller]
pub fn run_any(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// What a command printed, both streams.
pub fn texts(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
