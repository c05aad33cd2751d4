//! Where a user's things lie, and who the user is.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The directory that an XDG variable names, or its default below the home directory; `None` without either.
/// Relative values are ignored, as the XDG base directory specification demands.
pub(crate) fn xdg(variable: &str, default: &str) -> Option<PathBuf> {
    let absolute = |value: &OsStr| Path::new(value).is_absolute().then(|| PathBuf::from(value));
    std::env::var_os(variable)
        .and_then(|value| absolute(&value))
        .or_else(|| std::env::var_os("HOME").and_then(|home| absolute(&home)).map(|home| home.join(default)))
}

/// Where pieces are kept unless a directory is named: in the user's cache directory. Root may have none, where init or
/// mount(8) starts us; then it is [`SYSTEM_CACHE`]. `None`: an ordinary user without a home.
pub(crate) fn cache_dir() -> Option<PathBuf> {
    let own = xdg("XDG_CACHE_HOME", ".cache").map(|cache| cache.join("btfs"));
    own.or_else(|| (who().0 == 0).then(|| PathBuf::from(SYSTEM_CACHE)))
}

/// Where logs are kept: in the user's state directory, without one in [`SYSTEM_LOGS`].
pub(crate) fn log_dir() -> PathBuf {
    xdg("XDG_STATE_HOME", ".local/state").map_or_else(|| PathBuf::from(SYSTEM_LOGS), |state| state.join("btfs"))
}

/// Who we are: effective user and group id.
pub(crate) fn who() -> (u32, u32) {
    // The owner of /proc/self is the effective user; no unsafe call needed.
    std::fs::metadata("/proc/self").map_or((0, 0), |meta| (meta.uid(), meta.gid()))
}

/// The permissions that new files do not get.
pub(crate) fn umask() -> u32 {
    // Asking the system for it means to set it, for all threads; Linux tells it here as well.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| u32::from_str_radix(line.strip_prefix("Umask:")?.trim(), 8).ok());
    mask.unwrap_or(0o022)
}

/// Where control sockets may lie, the first that works being ours: the user's runtime directory, /run for root, a
/// directory below /tmp for a user without either.
pub(crate) fn control_directories() -> Vec<PathBuf> {
    let mut directories = Vec::new();
    if let Some(runtime) = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute()) {
        directories.push(runtime.join("btfs"));
    }
    let (uid, _) = who();
    directories.push(if uid == 0 { PathBuf::from("/run/btfs") } else { PathBuf::from(format!("/tmp/btfs-{uid}")) });
    directories
}

/// Of the system's own mounts (hier(7): what can be fetched again, and is kept over a boot).
const SYSTEM_CACHE: &str = "/var/cache/btfs";
const SYSTEM_LOGS: &str = "/var/log/btfs";
