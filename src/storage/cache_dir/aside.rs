//! Directories, pipes and links in a slot, where our files belong: they are put aside under another name in the same
//! directory (I4). Nothing is removed, followed, or waited for.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::storage::sys;

/// Puts aside whatever in `dir` is no regular file and has a name of ours; `path` is that of `dir`, for the warnings.
pub(super) fn put_odd_aside(
    dir: &File,
    path: &Path,
    is_ours: impl Fn(&str) -> bool,
    warnings: &mut Vec<String>,
) -> io::Result<()> {
    let mut more = 0_usize;
    for name in sys::irregular_in(dir)? {
        let name = OsStr::from_bytes(name.to_bytes());
        if !name.to_str().is_some_and(|name| is_ours(name) && !name.starts_with(ASIDE)) {
            continue;
        }
        let new = put_aside(dir, name)?;
        if warnings.len() < NAMED {
            warnings.push(format!("{} is no regular file: renamed to {}", path.join(name).display(), new.display()));
        } else {
            more += 1;
        }
    }
    if more > 0 {
        warnings.push(format!("{more} more in {} were no regular files and are renamed", path.display()));
    }
    Ok(())
}

/// Gives what has this name another one, which is free; tells which.
pub(super) fn put_aside(dir: &File, name: &OsStr) -> io::Result<OsString> {
    for number in 1..=MOST {
        let new = OsString::from(format!("{ASIDE}{number}"));
        if sys::status_at(dir, &new)?.is_none() {
            return sys::rename_at(dir, name, &new).map(|()| new);
        }
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, "too much was put aside here: remove it"))
}

const ASIDE: &str = "put-aside-";
const MOST: u32 = 10_000;
/// Warned of one by one.
const NAMED: usize = 10;
