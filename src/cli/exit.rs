//! How the program ends: exit statuses, the one line of an error, and what a panic leaves behind.

use std::sync::Mutex;

use crate::fs::{Mount, detach_device};

/// All is well.
pub(crate) const OK: i32 = 0;
/// What was asked for could not be done.
pub(crate) const FAILED: i32 = 1;
/// The command line makes no sense.
pub(crate) const USAGE: i32 = 2;
/// A download has come no further for as long as was allowed.
pub(crate) const STALLED: i32 = 3;
/// Somebody has ended it before its time, as shells say it of SIGINT.
pub(crate) const INTERRUPTED: i32 = 130;
/// A bug of ours.
pub(crate) const BUG: i32 = 101;

/// A mistake on the command line that clap cannot see.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct UsageError(pub(crate) String);

/// Tells the user, in one line, and gives the exit status.
pub(crate) fn report(error: &anyhow::Error) -> i32 {
    super::text::complain(line(error));
    if error.is::<UsageError>() { USAGE } else { FAILED }
}

/// What an error and its causes say, each once, in one line.
pub(crate) fn line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        // Some errors say what their source says, and name it as their source as well.
        if !text.contains(&cause) {
            text.push_str(if text.is_empty() { "" } else { ": " });
            text.push_str(&cause);
        }
    }
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    line.trim_end().to_owned()
}

/// The device number of this process's mount, for the case that we cannot go on.
static MOUNTED: Mutex<Option<String>> = Mutex::new(None);

/// Remembers (or forgets) what to detach when the program must end at once.
pub(crate) fn set_mounted(mount: Option<&Mount>) {
    if let Ok(mut mounted) = MOUNTED.lock() {
        *mounted = mount.and_then(Mount::device).map(str::to_owned);
    }
}

/// Detaches the mount, if there is one, without waiting for anybody, and ends the process.
pub(crate) fn at_once(status: i32) -> ! {
    if let Ok(mut mounted) = MOUNTED.try_lock()
        && let Some(device) = mounted.take()
    {
        detach_device(&device);
    }
    std::process::exit(status);
}

/// A panic is a bug. On the main thread nothing can go on: the mount is detached, so that nobody hangs in it. On any
/// other thread the owner of that thread or task decides; the panic is logged.
pub(crate) fn install_panic_hook() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        default(panic);
        tracing::error!(panic = %panic, "this is a bug, please report it");
        if std::thread::current().name() == Some("main") {
            at_once(BUG);
        }
    }));
}
