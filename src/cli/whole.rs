//! Files that are there wholly or not at all.

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::Context;

use super::interrupt::note_unfinished;
use super::text::safe;

/// What is done about a file that has the name already.
#[derive(Debug, Clone)]
pub(crate) enum Existing {
    /// It stays, and that is an error.
    Keep,
    /// It goes.
    Replace,
    /// It goes, and its successor gets these permissions.
    Succeed(Permissions),
}

/// Writes a file under another name first, and waits until the disk has it.
pub(crate) fn write(path: &Path, bytes: &[u8], existing: &Existing) -> anyhow::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let temporary = directory.join(format!(".btfs-{}.tmp", std::process::id()));
    note_unfinished(Some(&temporary));
    let written = write_temporary(&temporary, bytes, existing).and_then(|()| match existing {
        Existing::Replace | Existing::Succeed(_) => fs::rename(&temporary, path),
        // A link fails where a file has come into being meanwhile; a file system without links gets a rename.
        Existing::Keep => match fs::hard_link(&temporary, path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(error),
            Err(_) => fs::rename(&temporary, path),
            Ok(()) => fs::remove_file(&temporary),
        },
    });
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    note_unfinished(None);
    written.with_context(|| safe(path.as_os_str().as_bytes()))
}

fn write_temporary(path: &Path, bytes: &[u8], existing: &Existing) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(bytes)?;
    if let Existing::Succeed(permissions) = existing {
        file.set_permissions(permissions.clone())?;
    }
    file.sync_all()
}
