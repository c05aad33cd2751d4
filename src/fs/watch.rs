//! Is the reader of a blocked read still there?
//!
//! The kernel cannot tell us: fuser answers `FUSE_INTERRUPT` with `ENOSYS`, so a process that waits for a synchronous
//! read (O_DIRECT, the retry of a page) could not even be killed. A thread therefore looks at `/proc/<thread>/status`
//! of the readers that wait, every 100 ms and only while some wait for more than 250 ms, and answers `EINTR` for those
//! that are dead or are to die. A reader that lives is never disturbed: an alarm, a child's end or the SIGURG of a Go
//! runtime must not surface as EINTR, or as SIGBUS in a mapping, and what cannot be seen counts as alive.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::{io, thread};

use super::Errno;
use super::pending::{Look, Pending};
use super::sys;

/// Starts the watch over the reads of a mount; it ends when they are closed.
pub(crate) fn spawn(pending: Arc<Pending>) -> io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name("fs-watch".into()).spawn(move || watch(&pending, &Readers::new("/proc")))
}

fn watch(pending: &Pending, readers: &Readers) {
    while let Look::Old(reads) = pending.look(PERIOD, AGE) {
        let mut seen = HashMap::new();
        for (key, thread) in reads {
            let gone = *seen.entry(thread).or_insert_with(|| readers.is_gone(thread));
            if gone && let Some(read) = pending.take(key) {
                tracing::debug!(thread, offset = read.offset, bytes = read.length, "the reader is gone");
                read.give_up(Errno::EINTR);
            }
        }
    }
}

/// The processes that may read.
struct Readers {
    proc: PathBuf,
}

impl Readers {
    fn new(proc: impl Into<PathBuf>) -> Self {
        Self { proc: proc.into() }
    }

    /// Whether the reader's thread is dead, or has a signal pending that will end it or its read.
    fn is_gone(&self, thread: u32) -> bool {
        // 0: a reader outside our pid namespace; nothing can be known of it.
        let Ok(id) = i32::try_from(thread) else { return false };
        if id == 0 {
            return false;
        }
        // Not text for certain: the name of the process is in it.
        match std::fs::read(self.proc.join(thread.to_string()).join("status")) {
            Ok(status) => is_dying(&status),
            // Ended, or hidden from us (hidepid).
            Err(_) => !sys::thread_exists(id),
        }
    }
}

/// Judges the text of a `status` file; what cannot be parsed is alive.
fn is_dying(status: &[u8]) -> bool {
    let field = |name: &str| {
        status.split(|&byte| byte == b'\n').find_map(|line| {
            let value = line.strip_prefix(name.as_bytes())?.strip_prefix(b":")?;
            std::str::from_utf8(value).ok().map(str::trim)
        })
    };
    let mask = |name| field(name).and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or(0);
    if field("State").is_some_and(|state| state.starts_with(['Z', 'X'])) {
        return true;
    }
    let pending = mask("SigPnd") | mask("ShdPnd");
    if pending & bit(libc::SIGKILL) != 0 {
        return true;
    }
    pending & !mask("SigBlk") & !mask("SigIgn") & ENDING.iter().fold(0, |all, &signal| all | bit(signal)) != 0
}

/// The bit of a signal in the masks of `/proc`.
const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// Signals by which people and service managers end a reader.
const ENDING: [i32; 4] = [libc::SIGINT, libc::SIGTERM, libc::SIGHUP, libc::SIGQUIT];

/// How often the readers are looked at.
const PERIOD: Duration = Duration::from_millis(100);

/// A read that waits for less is not worth a look.
const AGE: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;

    fn status(state: &str, thread: u64, shared: u64, blocked: u64, ignored: u64) -> Vec<u8> {
        format!(
            "Name:\tcat\nUmask:\t0022\nState:\t{state}\nSigQ:\t0/15\nSigPnd:\t{thread:016x}\nShdPnd:\t{shared:016x}\n\
             SigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\nSigCgt:\t0000000000000000\n"
        )
        .into_bytes()
    }

    #[test]
    fn only_signals_that_end_a_reader_count() {
        let int = bit(libc::SIGINT);
        let kill = bit(libc::SIGKILL);
        let harmless = bit(libc::SIGALRM) | bit(libc::SIGURG) | bit(libc::SIGCHLD) | bit(libc::SIGUSR1);
        for (text, gone) in [
            (status("D (disk sleep)", 0, 0, 0, 0), false),
            (status("Z (zombie)", 0, 0, 0, 0), true),
            (status("X (dead)", 0, 0, 0, 0), true),
            (status("T (stopped)", 0, 0, 0, 0), false),
            (status("D (disk sleep)", kill, 0, u64::MAX, u64::MAX), true),
            (status("D (disk sleep)", 0, kill, 0, 0), true),
            (status("D (disk sleep)", 0, int, 0, 0), true),
            (status("D (disk sleep)", int, 0, 0, 0), true),
            (status("D (disk sleep)", 0, int, int, 0), false),
            (status("D (disk sleep)", 0, int, 0, int), false),
            (status("D (disk sleep)", 0, bit(libc::SIGTERM), 0, int), true),
            (status("D (disk sleep)", 0, bit(libc::SIGHUP), 0, 0), true),
            (status("D (disk sleep)", 0, bit(libc::SIGQUIT), 0, 0), true),
            (status("D (disk sleep)", harmless, harmless, 0, 0), false),
            (b"Name:\t\xff\xfe\nState:\tZ (zombie)\n".to_vec(), true),
            (b"nothing that we know".to_vec(), false),
            (Vec::new(), false),
        ] {
            assert_eq!(is_dying(&text), gone, "{}", String::from_utf8_lossy(&text));
        }
    }

    #[test]
    fn what_cannot_be_seen_is_alive() {
        let hidden = Readers::new("/nonexistent");
        assert!(!hidden.is_gone(0));
        assert!(!hidden.is_gone(u32::MAX));
        assert!(!hidden.is_gone(std::process::id()));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let id = child.id();
        child.wait().unwrap();
        assert!(hidden.is_gone(id), "a process that has ended and was waited for is gone");
        assert!(!Readers::new("/proc").is_gone(std::process::id()));
    }
}
