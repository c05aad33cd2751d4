//! The asking side: finds the sockets of running processes and asks them. Blocking, for the command line.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use super::socket::short_path;
use super::{Request, Response};

/// The sockets in these directories that somebody listens at; those of processes that are gone are removed.
pub fn sockets(directories: &[PathBuf]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for directory in directories {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_none_or(|extension| extension != "sock") {
                continue;
            }
            match probe(&path) {
                Ok(()) => found.push(path),
                // Nobody listens: its process was killed.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    let _ = std::fs::remove_file(&path);
                }
                Err(_) => {}
            }
        }
    }
    found.sort();
    found
}

/// Whether somebody listens at a socket.
pub(super) fn is_answered(path: &Path) -> bool {
    probe(path).is_ok()
}

fn probe(path: &Path) -> io::Result<()> {
    match connect(path, PROBE_PATIENCE) {
        Ok(_) => Ok(()),
        // Its queue is full: it lives, but it is suspended.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error),
    }
}

/// Sends one request and waits for its answer; the connection comes back with it.
///
/// # Errors
/// The socket's, [`io::ErrorKind::InvalidData`] for an answer that is none, `TimedOut` or `WouldBlock` after `timeout`.
pub fn ask(socket: &Path, request: &Request, timeout: Duration) -> io::Result<(Response, UnixStream)> {
    ask_with(socket, request, &[], timeout)
}

/// As [`ask`], with bytes that follow the request.
///
/// # Errors
/// As those of [`ask`].
pub fn ask_with(
    socket: &Path,
    request: &Request,
    bytes: &[u8],
    timeout: Duration,
) -> io::Result<(Response, UnixStream)> {
    let mut stream = connect(socket, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    stream.write_all(bytes)?;
    let mut answer = Vec::new();
    BufReader::new((&stream).take(MAX_ANSWER_BYTES)).read_until(b'\n', &mut answer)?;
    if answer.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((serde_json::from_slice(&answer)?, stream))
}

/// Connects, waiting for a place in the other side's queue no longer than `timeout` (`WouldBlock` then): a suspended
/// process accepts nobody. Linux takes the write timeout for that (`net/unix/af_unix.c`).
fn connect(path: &Path, timeout: Duration) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_write_timeout(Some(timeout))?;
    socket.connect(&SockAddr::unix(short_path(path)?)?)?;
    Ok(OwnedFd::from(socket).into())
}

/// How long a socket may keep whoever looks for sockets.
const PROBE_PATIENCE: Duration = Duration::from_millis(500);

/// A status of very many files.
const MAX_ANSWER_BYTES: u64 = 256 << 20;
