//! Ctrl-C for commands that work through files: a flag for the workers, and an end for those who do not get to see it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{daemon, exit};

/// A flag that the first SIGINT or SIGTERM sets: whoever works looks at it, and leaves nothing behind. A second one ends the
/// process, and so does the end of `patience`, for disks that do not answer.
pub(crate) fn stop_on_signal(patience: Option<Duration>) -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let (mut interrupt, mut terminate) = {
        let _context = runtime.enter();
        // Of what a shell starts in the background SIGINT is ignored, and stays so.
        let interrupt = match daemon::is_ignored(SignalKind::interrupt().as_raw_value()) {
            true => None,
            false => Some(signal(SignalKind::interrupt())?),
        };
        (interrupt, signal(SignalKind::terminate())?)
    };
    // Ends with the process.
    std::thread::spawn(move || {
        runtime.block_on(async {
            let mut either = async || {
                tokio::select! {
                    _ = received(&mut interrupt) => {}
                    _ = terminate.recv() => {}
                }
            };
            either().await;
            flag.store(true, Ordering::Relaxed);
            match patience {
                Some(patience) => drop(tokio::time::timeout(patience, either()).await),
                None => either().await,
            }
            if let Some(path) = UNFINISHED.lock().ok().and_then(|mut unfinished| unfinished.take()) {
                let _ = std::fs::remove_file(path);
            }
            super::text::complain("interrupted");
            exit::at_once(exit::INTERRUPTED);
        });
    });
    Ok(stop)
}

/// The next one; of a signal that is ignored never.
async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => _ = signal.recv().await,
        None => std::future::pending().await,
    }
}

/// Notes a file that is to go when the process is ended now; `None`: there is none any more.
pub(super) fn note_unfinished(path: Option<&Path>) {
    if let Ok(mut unfinished) = UNFINISHED.lock() {
        *unfinished = path.map(Path::to_owned);
    }
}

/// How long the workers may take to see the flag, before the process ends without them.
pub(crate) const AT_ONCE: Duration = Duration::from_millis(500);

static UNFINISHED: Mutex<Option<PathBuf>> = Mutex::new(None);
