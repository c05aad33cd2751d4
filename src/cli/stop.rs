//! Sharing that goes on after the mount: the options for it, `btfs stop`, which ends it, and the next mount of the same
//! torrent, which takes it over.

use std::cell::OnceCell;
use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cache::time;
use super::{exit, mountpoint, status, text};
use crate::control::{Goals, Request, Status, TorrentStatus, ask};
use crate::proto::metainfo::Metainfo;

/// How long sharing goes on after the mount.
#[derive(Debug, clap::Args, Clone, Copy, Default)]
#[command(next_help_heading = "After unmounting")]
pub struct SeedingArgs {
    /// Go on sharing what was fetched when it is unmounted, until one of the following, or btfs stop
    #[arg(long)]
    pub seed_after_unmount: bool,
    /// Share each torrent until so many times what was fetched of it has been sent
    #[arg(long, value_name = "RATIO", value_parser = ratio, requires = "seed_after_unmount")]
    pub seed_ratio: Option<f64>,
    /// Share each torrent for so long after the unmount: 90m, 12h, 30d
    #[arg(long, value_name = "TIME", value_parser = time, requires = "seed_after_unmount")]
    pub seed_time: Option<Duration>,
    /// Share each torrent until nobody has taken anything for so long
    #[arg(long, value_name = "TIME", value_parser = time, requires = "seed_after_unmount")]
    pub seed_idle: Option<Duration>,
    /// Then leave also where nobody else is known to have all of it [default: the last seed stays]
    #[arg(long, requires = "seed_after_unmount")]
    pub even_as_last_seed: bool,
}

impl SeedingArgs {
    /// When it is enough; `None`: with the mount.
    pub(crate) fn goals(&self) -> Option<Goals> {
        self.seed_after_unmount.then_some(Goals {
            ratio: self.seed_ratio,
            time: self.seed_time,
            idle: self.seed_idle,
            even_as_last_seed: self.even_as_last_seed,
        })
    }

    /// Bounds of what was not asked for.
    pub(crate) fn is_without_reason(&self) -> bool {
        let any = self.seed_ratio.is_some() || self.seed_time.is_some() || self.seed_idle.is_some();
        (any || self.even_as_last_seed) && !self.seed_after_unmount
    }
}

/// `btfs stop`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The number of a process, as btfs status shows it; where it was mounted; or a torrent that it shares, by its name or
    /// info-hash
    #[arg(value_name = "PID|PATH|NAME|HASH", required_unless_present = "all")]
    pub which: Vec<OsString>,
    /// All that go on after their mounts
    #[arg(long, conflicts_with = "which")]
    pub all: bool,
}

/// Ends what is named, each with its goodbyes.
pub(crate) fn run(args: &Args) -> anyhow::Result<i32> {
    let running = status::ask_all(0);
    let mut outcome = exit::OK;
    if args.all {
        for (socket, status) in running.iter().filter(|(_, status)| status.seeding.is_some()) {
            outcome = outcome.max(end(socket, status));
        }
        return Ok(outcome);
    }
    for word in &args.which {
        let found = running.iter().find(|(_, status)| is_process(word, status));
        if let Some((socket, status)) = found {
            outcome = outcome.max(end(socket, status));
            continue;
        }
        let name = mountpoint::text(Path::new(word));
        let mut shared = running.iter().filter(|(_, status)| status.seeding.is_some());
        let removed = shared.find_map(|(socket, _)| leave(socket, &name));
        match removed {
            Some(hash) => text::say(format_args!("stopped sharing {hash}")),
            None => {
                text::complain(format_args!("{}: no btfs mount, seed or torrent that is shared on", text::safe(&name)));
                outcome = exit::FAILED;
            }
        }
    }
    Ok(outcome)
}

/// The processes that share on, asked for once, when first somebody wants to know.
#[derive(Default)]
pub(crate) struct Sharers(OnceCell<Vec<(PathBuf, Status)>>);

impl Sharers {
    /// What they share of these torrents from this cache is shared by us from now on: it is taken out of them, and they end
    /// with their last torrent.
    pub(crate) fn take_over(&self, torrents: &[Arc<Metainfo>], cache: &Path) {
        self.all().iter().for_each(|(socket, status)| take_over(socket, status, torrents, cache));
    }

    /// Whether one of them listens at this port, and would end if these torrents were taken over.
    pub(crate) fn will_free(&self, port: u16, torrents: &[Arc<Metainfo>], cache: &Path) -> bool {
        let ends = |status: &Status| {
            let ours = ours(status, torrents, cache).count();
            ours > 0 && ours == status.torrents.len()
        };
        self.all().iter().any(|(_, status)| status.port == port && ends(status))
    }

    fn all(&self) -> &[(PathBuf, Status)] {
        self.0.get_or_init(|| {
            let mut all = status::ask_all(0);
            all.retain(|(_, status)| status.seeding.is_some());
            all
        })
    }
}

/// What a process shares of these torrents from this cache.
fn ours<'s>(status: &'s Status, torrents: &[Arc<Metainfo>], cache: &Path) -> impl Iterator<Item = &'s TorrentStatus> {
    let wanted = |hash: &str| torrents.iter().filter_map(|t| t.info_hash).any(|ours| ours.to_string() == hash);
    let here = status.torrents.iter().filter(move |torrent| Path::new(&torrent.cache).starts_with(cache));
    here.filter(move |torrent| wanted(&torrent.info_hash))
}

fn take_over(socket: &Path, status: &Status, torrents: &[Arc<Metainfo>], cache: &Path) {
    let ours: Vec<_> = ours(status, torrents, cache).collect();
    for torrent in &ours {
        let taken = leave(socket, &torrent.info_hash);
        tracing::info!(pid = status.pid, torrent = torrent.info_hash, taken = taken.is_some(), "takes over");
    }
    if !ours.is_empty() && ours.len() == status.torrents.len() {
        // It ends, and our port is free then.
        let until = Instant::now() + ENDING;
        while Instant::now() < until && ask(socket, &Request::Ping, PATIENCE).is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Whether a word on the command line means a process.
fn is_process(word: &OsString, status: &Status) -> bool {
    let text = mountpoint::text(Path::new(word));
    if text.parse() == Ok(status.pid) && status.pid > 0 {
        return true;
    }
    let place =
        status.seeding.as_ref().and_then(|seeding| seeding.unmounted_from.as_ref()).or(status.mountpoint.as_ref());
    place.is_some_and(|place| mountpoint::names(Path::new(word)).any(|name| mountpoint::text(&name) == *place))
}

/// Asks a process to end, and waits for that.
fn end(socket: &Path, status: &Status) -> i32 {
    let refused = match ask(socket, &Request::Stop, PATIENCE) {
        Ok((answer, mut stream)) if answer.ok => {
            let _ = stream.set_read_timeout(Some(PATIENCE));
            match stream.read(&mut [0]) {
                Ok(0) => {
                    text::say(format_args!("stopped {}", status.pid));
                    return exit::OK;
                }
                _ => "it does not end in time".to_owned(),
            }
        }
        Ok((answer, _)) => answer.error.unwrap_or_default(),
        Err(error) => error.to_string(),
    };
    text::complain(format_args!("{}: {}", status.pid, text::safe(&refused)));
    exit::FAILED
}

/// Takes a torrent out of a process; its info-hash when it was there.
fn leave(socket: &Path, torrent: &str) -> Option<String> {
    let (answer, _) = ask(socket, &Request::Remove { torrent: torrent.to_owned() }, PATIENCE).ok()?;
    answer.info_hash.filter(|_| answer.ok)
}

/// A ratio of shared to fetched.
pub(crate) fn ratio(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(ratio) if (0.0..=MAX_RATIO).contains(&ratio) => Ok(ratio),
        _ => Err("expected a number such as 1.5".to_owned()),
    }
}

const MAX_RATIO: f64 = 1e6;
/// A process that ends says goodbye to its trackers first.
const PATIENCE: Duration = Duration::from_secs(8);
const ENDING: Duration = Duration::from_secs(5);
