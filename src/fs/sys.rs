//! The few system calls that std lacks, safely wrapped.

use std::ffi::CString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::{io, mem};

/// Whether a thread or process of this number exists, as far as the kernel tells; when in doubt, it does.
pub(crate) fn thread_exists(id: i32) -> bool {
    // SAFETY: signal 0 is sent to nobody; the call takes no pointer.
    let sent = unsafe { libc::kill(id, 0) };
    sent == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH)
}

/// The effective user of this process.
pub(crate) fn effective_user() -> u32 {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

/// The effective group of this process.
pub(crate) fn effective_group() -> u32 {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::getegid() }
}

/// Whether this process may write to a path, by permission bits and mount flags.
pub(crate) fn may_write(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return false };
    // SAFETY: the string ends with a zero byte and lives through the call.
    unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), libc::W_OK, libc::AT_EACCESS) == 0 }
}

/// Unmounts what is mounted at a path; `lazy`: detach it now, let it end with its last user.
pub(crate) fn unmount(path: &Path, lazy: bool) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let flags = libc::UMOUNT_NOFOLLOW | if lazy { libc::MNT_DETACH } else { 0 };
    // SAFETY: the string ends with a zero byte and lives through the call.
    if unsafe { libc::umount2(path.as_ptr(), flags) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Receives one descriptor over a socket, with at least one byte of data.
///
/// # Errors
/// `UnexpectedEof` when the other end closes without sending one.
pub(crate) fn receive_descriptor(socket: &UnixStream) -> io::Result<OwnedFd> {
    let mut byte = [0_u8; 1];
    let mut part = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: byte.len() };
    // Words, as control messages are aligned to them; room for more descriptors than one is not wanted.
    let mut control = [0_usize; CONTROL_WORDS];
    // SAFETY: all fields of the structure may be zero.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = mem::size_of_val(&control) as _;
    let received = loop {
        // SAFETY: the structure points to buffers of the lengths it names, which live through the call.
        let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
        let error = io::Error::last_os_error();
        if received >= 0 || error.kind() != io::ErrorKind::Interrupted {
            break if received >= 0 { Ok(received) } else { Err(error) };
        }
    }?;
    // SAFETY: the kernel filled in the structure; the header, if there is one, lies inside `control`.
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const message).as_ref() };
    match header {
        Some(header)
            if received > 0 && header.cmsg_level == libc::SOL_SOCKET && header.cmsg_type == libc::SCM_RIGHTS =>
        {
            // SAFETY: a message of this type carries at least one descriptor, which is ours from now on.
            Ok(unsafe { OwnedFd::from_raw_fd(libc::CMSG_DATA(header).cast::<i32>().read_unaligned()) })
        }
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// Words of a control message with one descriptor: a header of two words (its length, level and type) and the
/// descriptor.
const CONTROL_WORDS: usize = 3;
