//! `btfs umount`: by way of the process that serves the mount; a mount whose process is gone is detached. What somebody
//! else has mounted over ours is never touched.

use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::args::UmountArgs;
use super::mountpoint::Mounted;
use super::{daemon, exit, mountpoint, status, text};
use crate::control::{Request, ask};
use crate::fs::detach;

/// Unmounts, within 5 s.
pub(crate) fn run(args: &UmountArgs) -> anyhow::Result<i32> {
    let until = Instant::now() + PATIENCE;
    let mount = mountpoint::find(&args.mountpoint);
    mount.as_ref().map_or(Ok(()), refuse_covered)?;
    // Where our namespace has no such mount (any more), another may hold it and the process lives.
    let served = status::find(mount.as_ref().map_or(&args.mountpoint, |mount| &mount.path));
    match (&served, &mount) {
        (None, None) => bail!("{}: no btfs mount", args.mountpoint.display()),
        // Its process is gone or cannot be reached: nothing but the kernel's entry is left to take away.
        (None, Some(mount)) => take_away(&mount.path)?,
        (Some((socket, _)), _) => {
            let ended = match end(socket, until) {
                Ended::Mount(pid) => {
                    text::say(format_args!(
                        "unmounted; what was fetched is shared on: btfs status shows how, btfs stop {pid} ends it"
                    ));
                    true
                }
                Ended::Process => true,
                Ended::Nothing => false,
            };
            // It did not manage, or did not answer: suspended, perhaps.
            match mountpoint::find(&args.mountpoint) {
                Some(mount) => refuse_covered(&mount).and_then(|()| take_away(&mount.path))?,
                None if mount.is_none() && !ended => {
                    bail!("{}: no btfs mount here, and its process does not end", args.mountpoint.display());
                }
                None => {}
            }
        }
    }
    Ok(exit::OK)
}

/// Asks a process to end and waits for that: then its cache is free for the next mount. One that shares on ends its mount
/// only.
fn end(socket: &Path, until: Instant) -> Ended {
    let asked = ask(socket, &Request::Umount, PATIENCE);
    let Some((answer, mut stream)) = asked.ok().filter(|(response, _)| response.ok) else { return Ended::Nothing };
    if answer.seeding {
        return Ended::Mount(daemon::peer_pid(&stream).unwrap_or_default());
    }
    // The connection ends with the process.
    let _ = stream.set_read_timeout(Some(until.saturating_duration_since(Instant::now()).max(SHORTEST)));
    match stream.read(&mut [0]) {
        Ok(0) => Ended::Process,
        _ => Ended::Nothing,
    }
}

/// What has ended by being asked.
enum Ended {
    /// The process, and with it everything.
    Process,
    /// The mount; the process of this number shares on.
    Mount(u32),
    /// Nothing, or not in time.
    Nothing,
}

fn refuse_covered(mount: &Mounted) -> anyhow::Result<()> {
    let Some(over) = &mount.over else { return Ok(()) };
    let place = if over.path == mount.path { "over" } else { "inside" };
    let (path, other, kind) = (mount.path.display(), over.path.display(), &over.kind);
    bail!("{path}: something ({kind}) is mounted {place} it: unmount that first (umount {other}), then try again");
}

fn take_away(path: &Path) -> anyhow::Result<()> {
    detach(path).with_context(|| path.display().to_string())
}

/// For the process; after that the mount is detached by us.
const PATIENCE: Duration = Duration::from_millis(4500);
const SHORTEST: Duration = Duration::from_millis(10);
