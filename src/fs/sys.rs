//! The few system calls that std lacks, safely wrapped.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

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

/// Asks the file system at a path for its figures, for the sake of asking: a FUSE server answers this each time, while
/// attributes come from the kernel's memory although the server may be gone.
pub(crate) fn ask_figures(path: &Path) -> io::Result<()> {
    figures(path).map(drop)
}

/// Whether a path lies on an overlay of file systems, as in containers; no when it cannot be told.
pub(crate) fn is_overlay(path: &Path) -> bool {
    figures(path).is_ok_and(|figures| figures.f_type == libc::OVERLAYFS_SUPER_MAGIC)
}

fn figures(path: &Path) -> io::Result<libc::statfs> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut figures = std::mem::MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the string ends with a zero byte, and both live through the call.
    if unsafe { libc::statfs(path.as_ptr(), figures.as_mut_ptr()) } == 0 {
        // SAFETY: the call has succeeded, so it has filled the structure.
        Ok(unsafe { figures.assume_init() })
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Unmounts what is mounted at a path; `lazy`: detach it now, let it end with its last user.
pub(crate) fn unmount(path: &Path, lazy: bool) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let flags = libc::UMOUNT_NOFOLLOW | if lazy { libc::MNT_DETACH } else { 0 };
    // SAFETY: the string ends with a zero byte and lives through the call.
    if unsafe { libc::umount2(path.as_ptr(), flags) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
