//! Which mount a path means, found in the kernel's list: a dead or stuck mount is never touched.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// A mount of btfs, ours or another process's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mounted {
    /// Where.
    pub(crate) path: PathBuf,
}

/// All mounts of btfs in our mount namespace.
pub(crate) fn all() -> io::Result<Vec<Mounted>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// The mount that `path` means, if there is one: as it is written, or after resolving links *above* the mount.
pub(crate) fn find(path: &Path) -> io::Result<Option<Mounted>> {
    let mounts = all()?;
    let named = |path: &Path| mounts.iter().find(|mount| mount.path == path).cloned();
    let mut path = std::path::absolute(path)?;
    for _ in 0..MAX_LINKS {
        if let Some(found) = named(&path) {
            return Ok(Some(found));
        }
        // Only the parent is looked at; the last component may be a mount that does not answer.
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(None) };
        let Ok(parent) = parent.canonicalize() else { return Ok(None) };
        let resolved = parent.join(name);
        if let Some(found) = named(&resolved) {
            return Ok(Some(found));
        }
        match std::fs::read_link(&resolved) {
            Ok(target) => path = std::path::absolute(parent.join(target))?,
            Err(_) => return Ok(None),
        }
    }
    Ok(None)
}

/// Lines of mountinfo (proc(5)): ... root mountpoint options [optional fields] - type source superoptions.
fn parse(text: &[u8]) -> Vec<Mounted> {
    let lines = text.split(|&byte| byte == b'\n');
    lines
        .filter_map(|line| {
            let fields: Vec<_> = line.split(|&byte| byte == b' ').collect();
            let dash = fields.iter().position(|field| *field == b"-")?;
            let ours = fields.get(dash + 1)? == b"fuse.btfs";
            ours.then(|| Mounted { path: unescape(fields[4]) })
        })
        .collect()
}

/// Blanks and the like stand there as `\040`.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let octal = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// As text for a comparison with what a process says of itself.
pub(crate) fn text(path: &Path) -> String {
    String::from_utf8_lossy(path.as_os_str().as_bytes()).into_owned()
}

const MAX_LINKS: usize = 40;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mounts_of_btfs_are_listed_and_blanks_are_unescaped() {
        let text = b"22 1 0:5 / /proc rw,nosuid - proc proc rw\n\
            36 22 0:44 / /mnt/my\\040films\\134x ro shared:7 master:1 - fuse.btfs film.torrent ro,user_id=0\n\
            37 22 0:45 / /mnt/other ro - fuse.sshfs host: ro\nrubbish\n";
        assert_eq!(parse(text), [Mounted { path: PathBuf::from("/mnt/my films\\x") }]);
    }
}
