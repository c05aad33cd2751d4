//! What is read anew on SIGHUP: who may announce what, and the lists of torrents that are let in or not.

use std::collections::HashSet;
use std::convert::Infallible;
use std::io::{IsTerminal, Read};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use super::Args;
use super::settings::{Allow, Settings};
use crate::base::InfoHash;
use crate::cli::daemon;
use crate::cli::exit::UsageError;
use crate::storage::open_regular;
use crate::tracker::index::Index;
use crate::tracker::{Lists, Tracker, set_lists};

/// The lists that the settings name.
pub(super) fn lists(settings: &Settings) -> anyhow::Result<Lists> {
    Ok(Lists {
        allow: settings.allow_list.as_deref().map(read).transpose()?,
        deny: settings.deny_list.as_deref().map(read).transpose()?.unwrap_or_default(),
    })
}

fn read(path: &Path) -> anyhow::Result<HashSet<InfoHash>> {
    let bytes = read_file(path)?;
    let hashes = Lists::parse(&String::from_utf8_lossy(&bytes));
    hashes.map_err(|error| UsageError(format!("{}: {error}", path.display())).into())
}

/// What is in a file of options or a list, which is a regular file of some length: nobody waits for what else may lie there.
pub(super) fn read_file(path: &Path) -> anyhow::Result<Vec<u8>> {
    let name = || path.display().to_string();
    let mut bytes = Vec::new();
    let file = open_regular(path).with_context(name)?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).with_context(name)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(UsageError(format!("{}: more than {MAX_FILE_BYTES} bytes", path.display())).into());
    }
    Ok(bytes)
}

/// Has this count from now on.
pub(super) fn set_allow(tracker: &Tracker, allow: Allow) {
    tracker.access.set_listed_only(allow == Allow::Listed);
    tracker.access.set_private(allow == Allow::Private);
}

/// Waits for SIGHUP.
pub(super) struct Reloads<'a> {
    args: &'a Args,
    settings: Settings,
    index: Index,
    tracker: Arc<Tracker>,
    stop: Arc<watch::Sender<bool>>,
    hangups: Signal,
    /// Its end is ours.
    terminal: bool,
}

impl<'a> Reloads<'a> {
    /// From now on.
    pub(super) fn new(
        args: &'a Args,
        settings: Settings,
        index: Index,
        tracker: Arc<Tracker>,
        stop: Arc<watch::Sender<bool>>,
    ) -> anyhow::Result<Self> {
        // nohup: whoever started us wants us to stay.
        let ignored = daemon::is_ignored(SignalKind::hangup().as_raw_value());
        let hangups = signal(SignalKind::hangup())?;
        Ok(Self { args, settings, index, tracker, stop, hangups, terminal: !ignored && has_terminal() })
    }

    /// Reads anew whenever it is asked to.
    pub(super) async fn run(mut self) -> Infallible {
        loop {
            if self.hangups.recv().await.is_none() {
                std::future::pending::<()>().await;
            }
            // A terminal that is closed says so by the same signal, and is none any more.
            if self.terminal && !has_terminal() {
                let _ = self.stop.send(true);
            } else if let Err(error) = self.reload().await {
                tracing::error!("nothing is read anew, everything stays as it was: {error:#}");
            }
        }
    }

    /// All of it or nothing.
    async fn reload(&mut self) -> anyhow::Result<()> {
        let (args, index, tracker) = (self.args.clone(), self.index.clone(), self.tracker.clone());
        // Signals that end us are not kept waiting by a slow disk.
        let reading = tokio::task::spawn_blocking(move || {
            let fresh = Settings::of(&args)?;
            let lists = Arc::new(lists(&fresh)?);
            set_lists(&index, &tracker, &lists).context("the index")?;
            anyhow::Ok((fresh, lists))
        });
        let (fresh, lists) = reading.await.context("the thread that reads")??;
        set_allow(&self.tracker, fresh.allow);
        let (allowed, denied) = (lists.allow.as_ref().map(HashSet::len), lists.deny.len());
        tracing::info!(allow = fresh.allow.word(), allowed, denied, "read anew");
        self.settings.allow = fresh.allow;
        self.settings.allow_list = fresh.allow_list.clone();
        self.settings.deny_list = fresh.deny_list.clone();
        if fresh != self.settings {
            tracing::warn!("what else has changed in the options counts from the next start");
        }
        Ok(())
    }
}

fn has_terminal() -> bool {
    std::io::stdin().is_terminal() || std::io::stdout().is_terminal() || std::io::stderr().is_terminal()
}

/// A million info-hashes.
const MAX_FILE_BYTES: u64 = 64 << 20;
