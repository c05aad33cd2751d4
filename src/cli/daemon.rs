//! Going on in the background, and the few system calls that the commands need.
//!
//! The fork comes before any thread exists. The child keeps the terminal until the mount answers, so that its errors
//! are seen; then it lets go of it and the parent returns with the child's status, as mount(8) does.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// What a process is after [`fork`].
pub(crate) enum Forked {
    /// The one that was called: it has nothing to do but to end with this status.
    Parent(i32),
    /// The one that goes on.
    Child(Ready),
}

/// The child's way to say that it is ready. Dropped without: the parent takes the child's exit status.
pub(crate) struct Ready {
    parent: File,
    /// `/dev/null`, open already: there may be no descriptor left later.
    null: File,
}

/// No second process could be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot go on in the background")]
pub(crate) struct NoProcess(#[source] io::Error);

/// Splits the process; the parent returns when the child is ready or has ended.
///
/// # Panics
/// If there is a second thread: its locks would stay locked in the child.
pub(crate) fn fork() -> Result<Forked, NoProcess> {
    assert_single_thread();
    let (mut from_child, parent) = pipe().map_err(NoProcess)?;
    let null = File::options().read(true).write(true).open("/dev/null").map_err(NoProcess)?;
    // SAFETY: there is one thread (asserted), so the child may do everything that the parent may.
    match unsafe { libc::fork() } {
        -1 => Err(NoProcess(io::Error::last_os_error())),
        0 => {
            drop(from_child);
            Ok(Forked::Child(Ready { parent, null }))
        }
        child => {
            drop((parent, null));
            let mut status = [0];
            match from_child.read_exact(&mut status) {
                Ok(()) => Ok(Forked::Parent(i32::from(status[0]))),
                Err(_) => Ok(Forked::Parent(wait(child))),
            }
        }
    }
}

impl Ready {
    /// Lets go of the terminal, the session and the standard streams, and sends the parent home with status 0.
    pub(crate) fn tell(mut self) -> io::Result<()> {
        // SAFETY: setsid takes no pointers; it fails for a group leader only, which a forked child is not.
        unsafe { libc::setsid() };
        for stream in 0..=2 {
            // Pointed elsewhere and never closed: the FUSE device must not become one of them.
            // SAFETY: both are valid descriptors.
            if unsafe { libc::dup2(self.null.as_raw_fd(), stream) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        // A parent that was killed meanwhile does not read this; that is no reason to end.
        let _ = self.parent.write_all(&[0]);
        Ok(())
    }
}

/// The process at the other end of a Unix socket (of a listener: who began to listen), by its number in our pid
/// namespace; `None` when it has none there.
pub(crate) fn peer_pid(stream: &UnixStream) -> Option<u32> {
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the structure and its length live through the call, which writes no more than that.
    let got = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut length,
        )
    };
    u32::try_from(peer.pid).ok().filter(|&pid| got == 0 && pid > 0)
}

/// Leaves the directory that we were started in: nothing of ours may be looked up by a path inside our own mount. What
/// the environment names relative to it, and a library reads later, is named absolutely from then on.
///
/// # Panics
/// If there is a second thread, which might read the environment meanwhile.
pub(crate) fn leave_directory() -> io::Result<()> {
    assert_single_thread();
    for name in ["SSL_CERT_FILE", "SSL_CERT_DIR"] {
        let Some(value) = std::env::var_os(name).filter(|value| !value.is_empty()) else { continue };
        let value = match name {
            // A list.
            "SSL_CERT_DIR" => {
                let directories =
                    std::env::split_paths(&value).map(std::path::absolute).collect::<io::Result<Vec<_>>>();
                std::env::join_paths(directories?).map_err(io::Error::other)?
            }
            _ => std::path::absolute(value)?.into_os_string(),
        };
        // SAFETY: there is one thread (asserted).
        unsafe { std::env::set_var(name, value) };
    }
    std::env::set_current_dir("/")
}

/// Forgets where the user's things lie: what is the system's must not depend on who happened to ask for it.
///
/// # Panics
/// If there is a second thread, which might read the environment meanwhile.
pub(crate) fn forget_home() {
    assert_single_thread();
    for name in ["HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"] {
        // SAFETY: there is one thread (asserted).
        unsafe { std::env::remove_var(name) };
    }
}

/// Goes over into another mount namespace (a file such as `/proc/PID/ns/mnt`); the current directory is its root then.
///
/// # Panics
/// If there is a second thread: the kernel moves none that shares its directories.
pub(crate) fn enter_mount_namespace(file: &Path) -> io::Result<()> {
    assert_single_thread();
    let namespace = File::open(file)?;
    // SAFETY: takes an open descriptor and a constant.
    match unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNS) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn assert_single_thread() {
    assert_eq!(std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count), 1, "before any other thread");
}

/// Makes a file that would grow beyond `ulimit -f` an error (`EFBIG`) instead of the end.
pub(crate) fn ignore_file_size_signal() {
    // SAFETY: sets a disposition; no handler of ours runs.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
}

/// Lets this process have as many descriptors open as it ever may: every torrent takes some.
pub(crate) fn raise_descriptor_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure lives through both calls; the second one only reads it.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
    }
}

/// Makes hang-ups (the terminal goes away) harmless.
pub(crate) fn ignore_hangup() {
    // SAFETY: sets a disposition; no handler of ours runs.
    unsafe { libc::signal(libc::SIGHUP, libc::SIG_IGN) };
}

/// Whether a signal was ignored when this process was started: by `nohup`, or as SIGINT of what a shell without job control
/// starts in the background.
pub(crate) fn is_ignored(signal: libc::c_int) -> bool {
    // SAFETY: all zeros are a valid value of this structure.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: asks only; the structure lives through the call.
    unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) == 0 && action.sa_sigaction == libc::SIG_IGN }
}

/// Few heaps for all threads (glibc gives each its own): what one frees the others use again, so memory stays near what
/// is in use.
pub(crate) fn share_heaps() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets a number inside the allocator, before there is a second thread.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2)
    };
}

fn pipe() -> io::Result<(File, File)> {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors.
    if unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both are fresh and ours.
    Ok(unsafe { (File::from_raw_fd(ends[0]), File::from_raw_fd(ends[1])) })
}

/// The exit status of an ended child; a bug if it was killed by a signal of its own making.
fn wait(child: libc::pid_t) -> i32 {
    let mut status = 0;
    loop {
        // SAFETY: a child of ours and a valid pointer.
        if unsafe { libc::waitpid(child, &mut status, 0) } == child {
            break;
        }
        if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
            return super::exit::FAILED;
        }
    }
    match libc::WIFEXITED(status) {
        // Ended well without ever having been ready: somebody stopped it.
        true if libc::WEXITSTATUS(status) == 0 => super::exit::FAILED,
        true => libc::WEXITSTATUS(status),
        false if matches!(libc::WTERMSIG(status), libc::SIGABRT | libc::SIGSEGV | libc::SIGBUS) => super::exit::BUG,
        false => super::exit::FAILED,
    }
}
