//! What mounts and seeds have in common: the runtime, signals, the control socket, the orderly end.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::answers::Answers;
use super::logging::LastWarnings;
use super::torrents::{self, Named};
use super::watching::Watching;
use super::{daemon, exit, live, paths, text};
use crate::control::{Changes, Control, Seeding, StatusSource, Warning, Watch, prepare_directory};
use crate::net::{Session, SessionConfig, SessionError, TorrentHandle};
use crate::proto::metainfo::Metainfo;
use crate::storage::StorageError;

/// Why a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// SIGTERM, SIGINT, or the terminal went away.
    Signal,
    /// What was asked for is done, or cannot be.
    Done,
    /// `btfs umount`, `btfs stop`.
    Asked,
    /// The mount has ended, but not by us; or by us, where sharing goes on.
    Unmounted,
    /// Nothing is left to share after the mount.
    Shared,
}

/// A process with a swarm, before its session exists.
pub(crate) struct Process {
    runtime: Runtime,
    ends: mpsc::UnboundedReceiver<End>,
    end: mpsc::UnboundedSender<End>,
    started: Instant,
}

impl Process {
    /// Starts the runtime and catches the signals; the second one ends the process at once.
    pub(crate) fn start(background: bool) -> anyhow::Result<Self> {
        // Nothing here blocks or computes for long; one core less is woken, and one heap less filled, for each that lacks.
        let workers = std::thread::available_parallelism().map_or(1, |cores| cores.get() / 2).clamp(1, 4);
        daemon::raise_descriptor_limit();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(workers)
            .thread_name("tokio")
            .enable_all()
            .build()
            .context("threads")?;
        // Unbounded: a few signals, one umount, one end of the mount; a flood of requests is held back by the socket.
        let (end, ends) = mpsc::unbounded_channel();
        let _guard = runtime.enter();
        let mut kinds = ending_signals();
        if background {
            daemon::ignore_hangup();
            kinds.retain(|&kind| kind != SignalKind::hangup());
        }
        let count = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        for kind in kinds {
            let (mut signals, end, count) = (signal(kind)?, end.clone(), count.clone());
            runtime.spawn(async move {
                while signals.recv().await.is_some() {
                    if count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) > 0 {
                        exit::at_once(exit::FAILED);
                    }
                    let _ = end.send(End::Signal);
                }
            });
        }
        drop(_guard);
        Ok(Self { runtime, ends, end, started: Instant::now() })
    }

    /// Fetches what was named by a URL, in order.
    pub(crate) fn resolve(&mut self, named: Vec<Named>, bind: Option<IpAddr>) -> anyhow::Result<Vec<Arc<Metainfo>>> {
        let mut torrents = Vec::with_capacity(named.len());
        for one in named {
            torrents.push(match one {
                Named::Parsed(metainfo) => metainfo,
                Named::Url(url) => {
                    let fetched = self.runtime.block_on(async {
                        tokio::select! {
                            fetched = torrents::fetch(&url, bind) => fetched,
                            _ = self.ends.recv() => Err(anyhow::anyhow!("interrupted")),
                        }
                    })?;
                    torrents::parse(&text::safe(&url), &fetched)?
                }
            });
        }
        torrents::refuse_twins(&torrents)?;
        Ok(torrents)
    }

    /// Whether there is a reason to end already, which [`Running::wait`] will give.
    pub(crate) fn is_ending(&self) -> bool {
        !self.ends.is_empty()
    }

    /// The runtime.
    pub(crate) fn runtime(&self) -> &tokio::runtime::Handle {
        self.runtime.handle()
    }

    /// Opens ports and cache.
    pub(crate) fn session(&self, config: SessionConfig) -> anyhow::Result<Session> {
        Session::start(config, self.runtime().clone()).map_err(explain)
    }

    /// Everything is up: opens the control socket and watches the mount.
    pub(crate) fn run(self, command: &'static str, parts: Parts) -> Running {
        let Parts { changes, watch, seeding, mountpoint, warnings, log } = parts;
        let changes = Arc::new(changes);
        let source = Arc::new(StatusSource {
            changes: changes.clone(),
            watching: watch.as_ref().map(|watch| watch.directory().to_owned()),
            mountpoint,
            seeding,
            command,
            started: self.started,
            log,
            warnings: Box::new(move || -> Vec<Warning> { warnings.list() }),
        });
        if let Some(mount) = changes.mount() {
            let end = self.end.clone();
            let watcher = std::thread::Builder::new().name("unmounted".into()).spawn(move || {
                mount.wait_unmounted();
                let _ = end.send(End::Unmounted);
            });
            if let Err(error) = watcher {
                tracing::warn!(%error, "cannot watch the mount");
            }
        }
        let control = match self.control(&source) {
            Ok(control) => Some(control),
            Err(error) => {
                tracing::warn!("no control socket, so no `btfs status`: {error:#}");
                None
            }
        };
        if let Some(control) = &control {
            let mountpoint = source.mountpoint.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
            let (pid, socket) = (std::process::id(), control.path().display());
            changes.sign(format!("pid {pid}\nmount {mountpoint}\ncontrol {socket}\n"));
        }
        let watching = watch.and_then(|watch| match Watching::start(watch, changes) {
            Ok(watching) => Some(watching),
            Err(error) => {
                tracing::error!(%error, "the directory is not watched any more");
                None
            }
        });
        Running { process: self, source, control, watching }
    }

    fn control(&self, source: &Arc<StatusSource>) -> anyhow::Result<Control> {
        let (uid, _) = paths::who();
        let mut problem = anyhow::anyhow!("no directory for it");
        for directory in paths::control_directories() {
            let answers = Arc::new(Answers::new(source.clone(), self.end.clone()));
            let started = prepare_directory(&directory, uid)
                .and_then(|()| Control::start(&directory, self.runtime.handle(), answers));
            match started {
                Ok(control) => return Ok(control),
                Err(error) => problem = anyhow::Error::new(error).context(directory.display().to_string()),
            }
        }
        Err(problem)
    }
}

/// The signals that end a process in order: not those that whoever started it wants ignored, as `nohup` does with hang-ups.
pub(crate) fn ending_signals() -> Vec<SignalKind> {
    let mut kinds = vec![SignalKind::interrupt(), SignalKind::hangup()];
    kinds.retain(|kind| !daemon::is_ignored(kind.as_raw_value()));
    kinds.push(SignalKind::terminate());
    kinds
}

/// An error of a session that keeps everything it writes in its cache, with what to do.
pub(crate) fn explain(error: SessionError) -> anyhow::Error {
    match error {
        SessionError::Storage(StorageError::Io { .. }) => {
            anyhow::anyhow!("{error}; make the cache usable, or name another directory with --cache-dir")
        }
        other => other.into(),
    }
}

/// What a process is made of.
pub(crate) struct Parts {
    /// Its torrents, and its mount.
    pub(crate) changes: Changes,
    /// The directory whose torrent files it mounts.
    pub(crate) watch: Option<Watch>,
    /// What goes on after the mount.
    pub(crate) seeding: Seeding,
    /// Where.
    pub(crate) mountpoint: Option<PathBuf>,
    /// What went wrong lately.
    pub(crate) warnings: LastWarnings,
    /// Where it logs to.
    pub(crate) log: Option<String>,
}

/// A process that is up.
pub(crate) struct Running {
    process: Process,
    source: Arc<StatusSource>,
    control: Option<Control>,
    watching: Option<Watching>,
}

impl Running {
    /// Its torrents.
    pub(crate) fn torrents(&self) -> Vec<TorrentHandle> {
        self.source.changes.session().torrents()
    }

    /// What it is doing.
    pub(crate) fn source(&self) -> &Arc<StatusSource> {
        &self.source
    }

    /// Waits at most this long for a reason to end.
    pub(crate) fn wait(&mut self, patience: Duration) -> Option<End> {
        let ends = &mut self.process.ends;
        self.process.runtime.block_on(async { tokio::time::timeout(patience, ends.recv()).await.ok().flatten() })
    }

    /// Waits for a reason to end, with a live line on a terminal if `live`; then ends in order. Does not return.
    pub(crate) fn until_end(self, live: bool) -> ! {
        self.until_end_then(live, || {})
    }

    /// As [`until_end`](Self::until_end), with something to be done last of all, if there is time.
    pub(crate) fn until_end_then(mut self, live: bool, last: impl FnOnce()) -> ! {
        let line = live.then(live::Line::start).flatten();
        let end = loop {
            let seeding = self.source.seeding.has_begun();
            // Asking a thousand torrents every second would be most of what they cost.
            let many = self.source.changes.session().torrents().len() as u32 / 100;
            let patience =
                if line.is_some() || seeding { live::PERIOD * (1 + many) } else { Duration::from_secs(3600) };
            match self.wait(patience) {
                Some(End::Unmounted) if self.source.seeding.is_wanted() => self.share_on(),
                Some(end) => break end,
                None => {}
            }
            if self.source.seeding.has_begun() && !self.source.seeding.look(Instant::now(), &self.source.changes) {
                break End::Shared;
            }
            if let Some(line) = &line {
                line.show(&self.source.collect(0));
            }
        };
        if let Some(line) = &line {
            line.clear();
        }
        self.end_with(end, exit::OK, last)
    }

    /// The mount has ended, by whomever: its last traces go, the swarms are not left. Idempotent.
    fn share_on(&mut self) {
        self.watching.take();
        self.source.changes.end_view();
        exit::set_mounted(None);
        self.source.seeding.begin(Instant::now());
    }

    /// Fails waiting reads, unmounts, says `stopped`, and ends the process within 5 s.
    pub(crate) fn end(self, end: End) -> ! {
        self.end_with(end, exit::OK, || {})
    }

    /// As [`end`](Self::end), with this exit status, and something to be done last of all, if there is time.
    pub(crate) fn end_with(mut self, end: End, status: i32, last: impl FnOnce()) -> ! {
        tracing::info!(reason = ?end, "ending");
        let hurry = std::thread::Builder::new().name("hurry".into()).spawn(move || {
            std::thread::sleep(LONGEST_END);
            tracing::warn!("ending took too long");
            exit::at_once(status);
        });
        drop(hurry);
        // The swarm is left while the kernel lets go of the mount, which may wait for open files.
        self.watching.take();
        let session = self.source.changes.session().clone();
        if let Some(mount) = self.source.changes.mount() {
            let (done, unmounted) = std::sync::mpsc::channel();
            std::thread::spawn(move || {
                mount.unmount();
                let _ = done.send(());
            });
            let _ = unmounted.recv_timeout(UNMOUNT_ALONE);
        }
        session.shutdown();
        exit::set_mounted(None);
        self.control.take();
        last();
        std::process::exit(status);
    }
}

/// Promised: 5 s from the request to the end.
const LONGEST_END: Duration = Duration::from_millis(4700);
/// After this long the session ends beside an unmount that takes its time.
const UNMOUNT_ALONE: Duration = Duration::from_millis(1200);
