//! `btfs share`: gives something away with one command. Makes the torrent, tracks it, shows it on a page and seeds it, all
//! in this process and for as long as it lives; with `--watch`, whatever comes into a directory and changes there.

mod listing;
mod shelf;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::ValueHint;
use serde_json::json;
use tokio::sync::watch;

use self::shelf::{Event, Shelf};
use super::args::{CacheArgs, SwarmArgs};
use super::create::ChoiceArgs;
use super::exit::{self, UsageError};
use super::process::{End, Parts, Process, Running};
use super::text::{complain, safe, safe_json, say};
use super::tracker::announce_urls;
use super::tracker::people::open_index;
use super::tracker::settings::{Listen, own_names, public_name};
use super::{daemon, logging, paths, seed};
use crate::base::size::Bytes;
use crate::control::{Changes, Common, Seeding};
use crate::engine::Fill;
use crate::tracker::index::Index;
use crate::tracker::web::{PagesConfig, keep_history, pages};
use crate::tracker::{Bounds, ServeConfig, Sockets, StateDir, StateError, StoreConfig, Tracker, serve};

/// What can stand after `btfs share`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The file or directory to give away
    #[arg(value_hint = ValueHint::AnyPath)]
    pub path: PathBuf,
    /// Share each file and directory in PATH as a torrent of its own, also what comes later; renew what changes
    #[arg(long)]
    pub watch: bool,
    /// The torrent's name [default: that of PATH]
    #[arg(short, long, conflicts_with = "watch")]
    pub name: Option<String>,
    /// A text for people
    #[arg(short, long, value_name = "TEXT")]
    pub comment: Option<String>,
    /// Track and show the page here: PORT, ADDRESS or ADDRESS:PORT (repeatable) [default: port 6969 of every address, or
    /// any port where that is taken]
    #[arg(long, value_name = "ADDR")]
    pub listen: Vec<Listen>,
    /// Under which name or address others reach this machine [default: the address that leads to the world]
    #[arg(long, value_name = "NAME", value_parser = public_name)]
    pub public_name: Option<String>,
    /// Where the index and its history are kept [default: $XDG_STATE_HOME/btfs/share or ~/.local/state/btfs/share, or
    /// beside it where that is in use]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub state_dir: Option<PathBuf>,
    /// Print lines of JSON instead of text
    #[arg(long)]
    pub json: bool,
    /// What of a directory is shared.
    #[command(flatten)]
    pub choice: ChoiceArgs,
    /// The swarm.
    #[command(flatten)]
    pub swarm: SwarmArgs,
    /// The cache.
    #[command(flatten)]
    pub cache: CacheArgs,
}

/// Shares until it is signalled.
pub(crate) fn run(args: &Args) -> anyhow::Result<i32> {
    let found = std::fs::metadata(&args.path).with_context(|| args.path.display().to_string())?;
    if args.watch && !found.is_dir() {
        return Err(UsageError("--watch: PATH is no directory".to_owned()).into());
    }
    let session = args.swarm.session_config(&args.cache, None, Fill::None)?;
    let target = logging::Target::foreground();
    let logging = logging::start(&args.swarm.log, &target)?;
    daemon::raise_descriptor_limit();
    let desk = Desk::open(args)?;
    let process = Process::start(false)?;
    let session = process.session(session)?;
    let (serving, stop_serving) = desk.serve(process.runtime(), args);
    let changes =
        Changes::new(session, None, Common { peers: args.swarm.peers.clone(), trackers: args.swarm.trackers.clone() });
    let warnings = logging.last_warnings();
    let parts =
        Parts { changes, watch: None, seeding: Seeding::default(), mountpoint: None, warnings, log: target.describe() };
    let mut running = process.run("share", parts);

    let stop = Arc::new(AtomicBool::new(false));
    let (tell, told) = mpsc::channel();
    let shelf = Shelf::new(args, &desk, Arc::clone(&running.source().changes), Arc::clone(&stop));
    std::thread::Builder::new().name("share".into()).spawn(move || shelf.fill(&tell))?;
    let first = match until_shared(&mut running, &told, args.json) {
        Ok(first) => first,
        Err(error) => {
            running.source().changes.session().shutdown();
            return Err(error);
        }
    };
    let end = match first {
        None => seed::check(&mut running)?,
        end => end,
    };
    if let Some(end) = end {
        // Whatever it is at, it ends with the process.
        stop.store(true, Ordering::Relaxed);
        running.end_with(end, exit::INTERRUPTED, || {});
    }
    ready(args, &desk, &running);
    let json = args.json;
    // Ends with the process.
    std::thread::spawn(move || {
        told.into_iter().for_each(|event| match event {
            Ok(event) => event.tell(json),
            Err(error) => complain(exit::line(&error)),
        });
    });
    running.until_end_then(!args.json, move || {
        let _ = stop_serving.send(true);
        if let Err(error) = desk.state.save(&desk.tracker.store, Instant::now()) {
            complain(format_args!("the swarms are not saved: {error}"));
        }
        drop(serving);
    })
}

/// Waits until what is there is shared; a reason to end comes first.
fn until_shared(
    running: &mut Running,
    told: &mpsc::Receiver<anyhow::Result<Event>>,
    json: bool,
) -> anyhow::Result<Option<End>> {
    loop {
        if let Some(end) = running.wait(Duration::from_millis(20)) {
            return Ok(Some(end));
        }
        match told.recv_timeout(Duration::from_millis(100)) {
            Ok(Ok(Event::AllThere)) => return Ok(None),
            Ok(Ok(event)) => event.tell(json),
            Ok(Err(error)) => return Err(error),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => bail!("what is shared cannot be looked after any more"),
        }
    }
}

/// Says where everything is.
fn ready(args: &Args, desk: &Desk, running: &Running) {
    let port = running.source().changes.session().port();
    if args.json {
        let ready = json!({
            "event": "ready", "index": desk.base, "announce": desk.announce, "listen": desk.addrs, "port": port,
            "pid": std::process::id(),
        });
        return say(safe_json(&ready.to_string()));
    }
    let also = if args.watch { " What comes into the directory is shared, too." } else { "" };
    say(format_args!("All of it: {}/", desk.base));
    let desk_port = desk.addrs.first().map_or(0, SocketAddr::port);
    // With nothing to share yet nobody listens to peers.
    let ports = match port {
        0 => format!("The page and the tracker are at port {desk_port}."),
        _ => format!("Peers reach it at port {port}, the page and the tracker at port {desk_port}."),
    };
    say(format_args!("{ports}{also} Ctrl-C ends all of it."));
}

/// The tracker and the index that go with what is shared.
struct Desk {
    state: StateDir,
    index: Index,
    tracker: Arc<Tracker>,
    sockets: std::cell::Cell<Option<Sockets>>,
    addrs: Vec<SocketAddr>,
    /// What stands in the torrents.
    announce: Vec<String>,
    /// Where the pages are, without a slash at the end.
    base: String,
}

impl Desk {
    fn open(args: &Args) -> anyhow::Result<Self> {
        let state = state(args)?;
        let index = open_index(state.path()).context("the index")?;
        let sockets = listen(args)?;
        let addrs = sockets.addrs().to_vec();
        let now = Instant::now();
        let config =
            StoreConfig { seed: fastrand::u64(..), interval: INTERVAL, expiry: EXPIRY, ..StoreConfig::default() };
        let tracker = Arc::new(Tracker::new(config, now, sockets.udp_workers()));
        state.restore(&tracker.store, now);
        // Only what is shared here: this is nobody else's tracker.
        tracker.access.set_listed_only(true);
        let announce = announce_urls(args.public_name.as_deref(), &addrs);
        let own = announce.iter().find_map(|url| url.strip_prefix("http://")?.strip_suffix("/announce"));
        let base = format!("http://{}", own.unwrap_or("localhost"));
        Ok(Self { state, index, tracker, sockets: Some(sockets).into(), addrs, announce, base })
    }

    /// Serves until told otherwise, or until the sender is gone.
    fn serve(
        &self,
        runtime: &tokio::runtime::Handle,
        args: &Args,
    ) -> (tokio::task::JoinHandle<io::Result<()>>, watch::Sender<bool>) {
        let (stop, stopped) = watch::channel(false);
        let config = PagesConfig {
            public_url: None,
            names: args.public_name.iter().cloned().chain(own_names()).collect(),
            open_upload: false,
            bounds: Bounds::usual(),
        };
        let pages = Some(pages(self.index.clone(), self.tracker.clone(), config));
        let config = ServeConfig { pages, trusted_proxies: Vec::new(), bounds: Bounds::usual() };
        runtime.spawn(keep_history(self.index.clone(), self.tracker.clone(), stopped.clone()));
        let sockets = self.sockets.take().expect("it is served once");
        let tracker = self.tracker.clone();
        let serving = runtime.spawn(async move {
            let served = serve(sockets, tracker, config, stopped).await;
            if let Err(error) = &served {
                tracing::error!(%error, "the tracker and the page cannot go on");
            }
            served
        });
        (serving, stop)
    }
}

/// Where it was told; else where no other `btfs share` is at it.
fn state(args: &Args) -> anyhow::Result<StateDir> {
    if let Some(directory) = &args.state_dir {
        return StateDir::open(directory).context("name another directory with --state-dir");
    }
    let own = paths::xdg("XDG_STATE_HOME", ".local/state").map(|state| state.join("btfs"));
    let own = own.or_else(|| (paths::who().0 == 0).then(|| PathBuf::from("/var/lib/btfs")));
    let own = own.ok_or_else(|| {
        UsageError("neither XDG_STATE_HOME nor HOME is set: name a directory with --state-dir".to_owned())
    })?;
    let mut opened = StateDir::open(&own.join("share"));
    for number in 2..=MAX_AT_ONCE {
        match opened {
            Err(StateError::InUse(_)) => opened = StateDir::open(&own.join(format!("share-{number}"))),
            _ => break,
        }
    }
    opened.context("name another directory with --state-dir")
}

/// Where it was told; else at the usual port, or at any that is free.
fn listen(args: &Args) -> anyhow::Result<Sockets> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_UDP_THREADS);
    if !args.listen.is_empty() {
        return Ok(Sockets::open(&Listen::addrs(&args.listen), threads)?);
    }
    match Sockets::open(&Sockets::usual(), threads) {
        Err(error) if error.source.kind() == io::ErrorKind::AddrInUse => {
            let any = Sockets::usual().map(|addr| SocketAddr::new(addr.ip(), 0));
            Ok(Sockets::open(&any, threads)?)
        }
        opened => Ok(opened?),
    }
}

impl Event {
    /// On standard output; what is wrong on standard error. Beside the live line, if there is one.
    fn tell(&self, json: bool) {
        let tell = || match self {
            Self::AllThere => {}
            Self::Trouble(trouble) => complain(trouble),
            Self::Gone { name, info_hash } if json => {
                say(safe_json(&json!({"event": "gone", "name": name, "info_hash": info_hash}).to_string()));
            }
            Self::Gone { name, .. } => say(format_args!("{} is not shared any more", safe(name))),
            Self::Shared(shared) if json => {
                let mut line = json!(shared);
                line["event"] = json!("shared");
                say(safe_json(&line.to_string()));
            }
            Self::Shared(shared) => {
                say(format_args!("sharing {} ({})", safe(&shared.name), Bytes(shared.size_bytes)));
                say(format_args!("  page    {}", shared.page));
                say(format_args!("  mount   {}", shared.mount_line));
                say(format_args!("  magnet  {}", shared.magnet));
            }
        };
        match logging::LIVE_LINE.get() {
            Some(line) => line.suspend(tell),
            None => tell(),
        }
    }
}

pub(crate) const EXAMPLES: &str = "Examples:
  btfs share ~/films                              one torrent of it, with a page, a tracker and a seed
  btfs share ~/public --watch                     one of each file and directory in it, for ever
  btfs share film.mkv --public-name me.example    with the name by which the world reaches this machine

It prints the page to send to others, the line with which they mount it, and the magnet link. Peers and
browsers must reach the ports that it names: forward them where a router is in between.";

/// What is shared may come and go; peers ask more often than trackers of the world could bear.
const INTERVAL: Duration = Duration::from_secs(600);
const EXPIRY: Duration = Duration::from_secs(1500);
const MAX_UDP_THREADS: usize = 4;
/// Directories of its own that a user's `btfs share` finds by itself.
const MAX_AT_ONCE: u32 = 64;
