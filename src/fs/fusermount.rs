//! `fusermount3`, the set-user-id program that mounts and unmounts for ordinary users.
//!
//! fuser runs it by itself, but only where `/dev/fuse` can be opened by us; the program itself needs no such thing.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use super::sys;

/// Mounts at a path; gives back the device's descriptor for the new mount.
///
/// # Errors
/// `NotFound` when the program is missing; else what it wrote to its standard error.
pub(super) fn mount(path: &Path, options: &str) -> io::Result<OwnedFd> {
    let (ours, theirs) = UnixStream::pair()?;
    // The descriptor comes through a socket whose number is in the environment; as standard input it needs no other
    // way into the child.
    let child = Command::new(PROGRAM)
        .args(["-o", options, "--"])
        .arg(path)
        .env("_FUSE_COMMFD", "0")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let received = sys::receive_descriptor(&ours);
    drop(ours);
    let output = child.wait_with_output()?;
    received.map_err(|error| refusal(&output.stderr, error))
}

/// Detaches a mount of the calling user.
///
/// # Errors
/// As for [`mount`].
pub(super) fn unmount(path: &Path) -> io::Result<()> {
    let output = Command::new(PROGRAM).args(["-u", "-z", "--"]).arg(path).stdin(Stdio::null()).output()?;
    if output.status.success() { Ok(()) } else { Err(refusal(&output.stderr, io::ErrorKind::Other.into())) }
}

/// What the program complained of.
fn refusal(stderr: &[u8], otherwise: io::Error) -> io::Error {
    let text = String::from_utf8_lossy(stderr);
    match text.trim() {
        "" => otherwise,
        text => io::Error::other(text.to_owned()),
    }
}

const PROGRAM: &str = "fusermount3";
