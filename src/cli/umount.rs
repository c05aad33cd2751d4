//! `btfs umount`: by way of the process that serves the mount; a mount whose process is gone is detached.

use std::io::Read;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::args::UmountArgs;
use super::{daemon, exit, mountpoint, status};
use crate::control::{Request, ask};

/// Unmounts, within 5 s.
pub(crate) fn run(args: &UmountArgs) -> anyhow::Result<i32> {
    let until = Instant::now() + PATIENCE;
    let Some(mount) = mountpoint::find(&args.mountpoint)? else {
        bail!("{}: no btfs mount", args.mountpoint.display());
    };
    let Some((socket, _)) = status::find(&mount.path) else {
        // Its process is gone or cannot be reached: nothing but the kernel's entry is left to take away.
        daemon::detach_mount(&mount.path).with_context(|| mount.path.display().to_string())?;
        return Ok(exit::OK);
    };
    let asked = ask(&socket, &Request::Umount, PATIENCE);
    if let Ok((response, mut stream)) = asked
        && response.ok
    {
        // The connection ends with the process: then its cache is free for the next mount.
        let _ = stream.set_read_timeout(Some(until.saturating_duration_since(Instant::now()).max(SHORTEST)));
        let _ = stream.read(&mut [0]);
    }
    // It did not manage, or did not answer: suspended, perhaps.
    if mountpoint::find(&mount.path)?.is_some() {
        daemon::detach_mount(&mount.path).with_context(|| mount.path.display().to_string())?;
    }
    Ok(exit::OK)
}

/// For the process; after that the mount is detached by us.
const PATIENCE: Duration = Duration::from_millis(4500);
const SHORTEST: Duration = Duration::from_millis(10);
