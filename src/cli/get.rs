//! `btfs get`: a plain download, resumed where the last one ended. What is complete gets its name in the directory, the
//! rest waits in a slot beside it; nothing that exists is overwritten.

pub(super) mod choice;
mod job;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::ValueHint;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use self::job::{Job, Standing};
use super::args::{SwarmArgs, seconds};
use super::process::{Parts, Process, Running};
use super::text::{safe, safe_json, say};
use super::{exit, live, logging, torrents};
use crate::base::size::{Bytes, Span};
use crate::control::{Changes, Common, Seeding};
use crate::engine::TorrentSnapshot;
use crate::net::{AddTorrent, Session};
use crate::proto::announce::tracker_host;

/// What can stand after `btfs get`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A .torrent file, or an http(s) URL of one
    #[arg(value_name = "TORRENT", value_hint = ValueHint::FilePath)]
    pub torrent: OsString,
    /// The directory that the file, or the directory of the files, is to lie in; made if it is missing
    #[arg(short, long, value_name = "DIR", default_value = ".", value_hint = ValueHint::DirPath)]
    pub output: PathBuf,
    /// Only these files: a number or a range of numbers as `btfs show` prints them (2, 3-7), or a pattern of names
    /// ('*.mkv', 'extras', 'season 1/**'); repeatable
    #[arg(long, value_name = "WHICH")]
    pub files: Vec<String>,
    /// When all is here, go on sharing it until interrupted
    #[arg(long)]
    pub seed: bool,
    /// Give up when for so many seconds nothing of use has come [default: wait for ever]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub timeout: Option<Duration>,
    /// Print one line of JSON at the end, however it ends
    #[arg(long)]
    pub json: bool,
    /// The swarm.
    #[command(flatten)]
    pub swarm: SwarmArgs,
}

/// Downloads. Returns only what could not be started; else the process ends here.
pub(crate) fn run(args: Args) -> anyhow::Result<i32> {
    let named = torrents::load(&args.torrent)?;
    let directory = std::path::absolute(&args.output)?;
    let target = logging::Target::foreground();
    let logging = logging::start(&args.swarm.log, &target)?;
    let mut process = Process::start(false)?;
    let metainfo = process.resolve(vec![named], args.swarm.bind)?.remove(0);
    let job = Job::new(metainfo.clone(), &args.files, directory)?;
    let config = args.swarm.without_cache(job.directory().to_owned(), None, job.fill());
    let session = Session::start_without_cache(config, process.runtime().clone())?;
    let torrent =
        AddTorrent { metainfo, data: None, peers: args.swarm.peers.clone(), trackers: args.swarm.trackers.clone() };
    let job = match session.get(torrent, job.destination()) {
        Ok(torrent) => job.started(torrent),
        Err(error) => {
            session.shutdown();
            return Err(error.into());
        }
    };
    let (warnings, changes) = (logging.last_warnings(), Changes::new(session, None, Common::default()));
    let seeding = Seeding::default();
    let parts = Parts { changes, watch: None, seeding, mountpoint: None, warnings, log: target.describe() };
    let running = process.run("get", parts);
    download(&args, job, running)
}

fn download(args: &Args, mut job: Job, mut running: Running) -> ! {
    let line = Line::start(job.total_bytes());
    let mut patience = Patience::new(Instant::now());
    let end = loop {
        let standing = job.step();
        let snapshot = job.snapshot();
        match standing {
            Ok(Standing::Complete) => break End::Complete,
            Ok(Standing::Under) => {}
            Err(error) => break End::Failed(error),
        }
        let now = Instant::now();
        let idle = patience.note(now, Progress::of(job.have_bytes(), snapshot.as_ref()));
        if let Some(snapshot) = &snapshot {
            if let Some(error) = snapshot.disk_error.as_ref().filter(|_| idle >= DISK_PATIENCE) {
                break End::Failed(anyhow::anyhow!("the disk fails: {error}"));
            }
            let what = if idle >= QUIET { obstacle(snapshot) } else { String::new() };
            if let Some(limit) = args.timeout.filter(|&limit| idle >= limit) {
                let why = if what.is_empty() { obstacle(snapshot) } else { what };
                break End::Stalled(format!("no progress for {}: {why}", Span(limit)));
            }
            patience.warn(&line, idle, &what);
            line.show(&job, snapshot, &what);
        }
        // Or somebody has removed the torrent.
        if running.wait(STEP).is_some() || running.torrents().is_empty() {
            break End::Interrupted;
        }
    };
    line.clear();
    if let (End::Complete, true) = (&end, args.seed) {
        tell(args, &job, &end, running.source().changes.session().port());
        share(&line, running, &job);
    }
    if matches!(end, End::Complete) {
        // However long it takes: from here on the files are all that there is.
        if let Err(error) = job.settle() {
            finish(args, &job, End::Failed(error), running);
        }
    }
    finish(args, &job, end, running)
}

/// Says how it ended, leaves the swarm, and ends the process.
fn finish(args: &Args, job: &Job, end: End, running: Running) -> ! {
    tell(args, job, &end, 0);
    let status = end.status();
    let store = job.store().clone();
    running.end_with(super::process::End::Done, status, move || {
        if matches!(end, End::Complete)
            && let Err(error) = store.dissolve()
        {
            tracing::warn!(%error, "what is needed no more is still there");
        }
    })
}

/// Goes on until somebody wants it to end.
fn share(line: &Line, mut running: Running, job: &Job) -> ! {
    while running.wait(live::PERIOD).is_none() {
        line.share(&live::summary(&running.source().collect(0)));
    }
    line.clear();
    let store = job.store().clone();
    running.end_with(super::process::End::Signal, exit::OK, move || {
        if let Err(error) = store.dissolve() {
            tracing::warn!(%error, "what is needed no more is still there");
        }
    })
}

/// How a download ends.
#[derive(Debug)]
enum End {
    Complete,
    /// Why nothing came.
    Stalled(String),
    Interrupted,
    Failed(anyhow::Error),
}

impl End {
    fn status(&self) -> i32 {
        match self {
            Self::Complete => exit::OK,
            Self::Failed(_) => exit::FAILED,
            Self::Stalled(_) => exit::STALLED,
            Self::Interrupted => exit::INTERRUPTED,
        }
    }
}

/// What `--json` prints; fields are only ever added.
#[derive(Debug, Serialize)]
struct Told<'j> {
    /// `complete`, `stalled`, `interrupted` or `failed`.
    state: &'static str,
    error: Option<String>,
    name: String,
    info_hash: String,
    directory: String,
    total_bytes: u64,
    have_bytes: u64,
    downloaded_bytes: u64,
    uploaded_bytes: u64,
    seconds: f64,
    files: Vec<job::ToldFile<'j>>,
}

/// The result: for programs on standard output, for people there when it is good, else on standard error. `port`: it is
/// shared from now on.
fn tell(args: &Args, job: &Job, end: &End, port: u16) {
    let (state, error) = match end {
        End::Complete => ("complete", None),
        End::Stalled(why) => ("stalled", Some(why.clone())),
        End::Interrupted => ("interrupted", None),
        End::Failed(error) => ("failed", Some(format!("{error:#}"))),
    };
    if args.json {
        let snapshot = job.snapshot();
        let told = Told {
            state,
            error: error.clone(),
            name: String::from_utf8_lossy(&job.metainfo().name).into_owned(),
            info_hash: job.metainfo().info_hash.map(|hash| hash.to_string()).unwrap_or_default(),
            directory: job.directory().to_string_lossy().into_owned(),
            total_bytes: job.total_bytes(),
            have_bytes: job.have_bytes(),
            downloaded_bytes: snapshot.as_ref().map_or(0, |snapshot| snapshot.downloaded_bytes),
            uploaded_bytes: snapshot.as_ref().map_or(0, |snapshot| snapshot.uploaded_bytes),
            seconds: job.started_at().elapsed().as_secs_f64(),
            files: job.told_files(),
        };
        match serde_json::to_string(&told) {
            Ok(json) => say(safe_json(&json)),
            Err(error) => tracing::error!(%error, "no JSON"),
        }
    }
    let (have, total) = (Bytes(job.have_bytes()), Bytes(job.total_bytes()));
    let kept = format!("{have} of {total} are kept in {}; the same command goes on from there", shown(job.slot()));
    match end {
        End::Complete if args.json => {}
        End::Complete => {
            say(format_args!("got {} ({total}) in {}", safe(&job.metainfo().name), shown(job.directory())));
            if port != 0 {
                say(format_args!("sharing it at port {port}; end it with Ctrl-C"));
            }
        }
        End::Interrupted => super::text::complain(format_args!("interrupted; {kept}")),
        End::Stalled(why) => super::text::complain(format_args!("{why}; {kept}")),
        End::Failed(error) => _ = exit::report(error),
    }
}

/// What keeps the download from going on, as far as can be seen.
fn obstacle(snapshot: &TorrentSnapshot) -> String {
    if snapshot.unchecked_pieces > 0 {
        return format!("{} pieces are being checked", snapshot.unchecked_pieces);
    }
    match snapshot.peers.len() {
        0 => {
            let tracker = snapshot.trackers.iter().find_map(|tracker| {
                let host = tracker_host(&tracker.url).map_or("", |(host, _)| host);
                Some(format!("no peer; tracker {}: {}", safe(host), safe(tracker.message.as_ref()?)))
            });
            match (tracker, snapshot.trackers.is_empty(), snapshot.candidates) {
                (Some(tracker), ..) => tracker,
                (None, true, 0) => {
                    "no peer, and no tracker to ask for some: name one with --tracker or --peer".to_owned()
                }
                (None, _, 0) => "no peer: the trackers know of none".to_owned(),
                (None, _, known) => format!("no peer: none of {known} that are known can be reached"),
            }
        }
        count => {
            let peers = if count == 1 { "1 peer".to_owned() } else { format!("{count} peers") };
            if !snapshot.peers.iter().any(|peer| peer.am_interested) {
                format!("{peers}, and none of them has what is missing")
            } else if snapshot.peers.iter().all(|peer| peer.peer_choking) {
                format!("{peers}, and none of them gives anything yet")
            } else {
                format!("{peers}, and none of them sends anything")
            }
        }
    }
}

/// What changes while a download comes along, be it slowly: blocks come long before the piece that they make up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Progress {
    have_bytes: u64,
    /// Bytes of blocks that were of use. What comes again and again, and is thrown away, is none.
    useful_bytes: u64,
    unchecked_pieces: usize,
}

impl Progress {
    fn of(have_bytes: u64, snapshot: Option<&TorrentSnapshot>) -> Self {
        let Some(snapshot) = snapshot else { return Self { have_bytes, ..Self::default() } };
        let useful_bytes = snapshot.downloaded_bytes.saturating_sub(snapshot.wasted_bytes);
        Self { have_bytes, useful_bytes, unchecked_pieces: snapshot.unchecked_pieces }
    }
}

/// Since when nothing has come.
struct Patience {
    since: Instant,
    seen: Progress,
    warned: bool,
}

impl Patience {
    fn new(now: Instant) -> Self {
        Self { since: now, seen: Progress::default(), warned: false }
    }

    /// Takes how far it has come; how long it has come no further. Less that is of use than before is no progress: a piece
    /// has failed its hash.
    fn note(&mut self, now: Instant, progress: Progress) -> Duration {
        let Progress { have_bytes, useful_bytes, unchecked_pieces } = progress;
        let goes_on = (have_bytes, unchecked_pieces) != (self.seen.have_bytes, self.seen.unchecked_pieces);
        if goes_on || useful_bytes > self.seen.useful_bytes {
            (self.since, self.warned) = (now, false);
            self.seen = Progress { useful_bytes: useful_bytes.max(self.seen.useful_bytes), ..progress };
        }
        now.duration_since(self.since)
    }

    /// Where no line shows it, it is said once.
    fn warn(&mut self, line: &Line, idle: Duration, what: &str) {
        if line.0.is_hidden() && idle >= WARN_AFTER && !std::mem::replace(&mut self.warned, true) {
            tracing::warn!("nothing comes: {what}");
        }
    }
}

/// The line at the bottom of a terminal.
struct Line(ProgressBar);

impl Line {
    fn start(total: u64) -> Self {
        let bar = match std::io::stderr().is_terminal() {
            true => ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr()),
            false => ProgressBar::hidden(),
        };
        bar.set_style(ProgressStyle::with_template("{bar:20} {percent:>3} %  {wide_msg}").expect("a constant"));
        let _ = logging::LIVE_LINE.set(bar.clone());
        Self(bar)
    }

    fn show(&self, job: &Job, snapshot: &TorrentSnapshot, obstacle: &str) {
        let (have, total, rate) = (job.have_bytes(), job.total_bytes(), snapshot.download_rate);
        self.0.set_position(have);
        let mut text = format!("{} of {}", Bytes(have), Bytes(total));
        if !obstacle.is_empty() {
            text = format!("{text}  {obstacle}");
        } else if snapshot.unchecked_pieces > 0 {
            text = format!("{text}  {} pieces to be checked", snapshot.unchecked_pieces);
        } else {
            let peers = snapshot.peers.len();
            text = format!("{text}  ↓ {}/s  {peers} {}", Bytes(rate), if peers == 1 { "peer" } else { "peers" });
            if let Some(seconds) = total.saturating_sub(have).checked_div(rate) {
                text = format!("{text}  {} left", Span(Duration::from_secs(seconds)));
            }
        }
        self.0.set_message(text);
    }

    fn share(&self, summary: &str) {
        self.0.reset();
        self.0.set_style(ProgressStyle::with_template("{wide_msg}").expect("a constant"));
        self.0.set_message(summary.to_owned());
    }

    fn clear(&self) {
        self.0.finish_and_clear();
    }
}

fn shown(path: &Path) -> String {
    safe(path.as_os_str().as_bytes())
}

/// How often complete files are looked for and the line changes.
const STEP: Duration = Duration::from_millis(200);
/// After so long without anything the line says why.
const QUIET: Duration = Duration::from_secs(5);
/// And so long where there is no line.
const WARN_AFTER: Duration = Duration::from_secs(30);
/// A disk that fails for so long, and nothing else gets on, is full or broken: nobody waits for that.
const DISK_PATIENCE: Duration = Duration::from_secs(10);

pub(super) const EXAMPLES: &str = "Examples:
  btfs get debian.torrent                              into this directory
  btfs get films.torrent -o ~/films --files '*.mkv'    some of it
  btfs get films.torrent --files 2 --files 5-7         by the numbers of `btfs show`
  btfs get films.torrent --seed                        and share it from then on
  btfs get films.torrent --timeout 300 --json          for scripts

What is not complete lies in DIR/.btfs-INFOHASH/; whatever ended it, the same command goes on from there. A file gets its
name when it is complete. Files that exist are checked, and kept if they are what the torrent says; nothing is overwritten.

Exit status: 0 all is here, 1 failed, 2 wrong usage, 3 no progress within --timeout, 130 interrupted, 101 a bug.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_of_a_piece_that_is_not_whole_yet_are_progress_and_what_is_thrown_away_is_none() {
        let start = Instant::now();
        let mut patience = Patience::new(start);
        let mut idle = |second: u64, have_bytes, useful_bytes, unchecked_pieces| {
            let progress = Progress { have_bytes, useful_bytes, unchecked_pieces };
            patience.note(start + Duration::from_secs(second), progress).as_secs()
        };
        assert_eq!((idle(5, 0, 0, 0), idle(6, 0, 0, 9), idle(8, 0, 0, 9)), (5, 0, 2));
        assert_eq!((idle(9, 0, 16384, 0), idle(10, 0, 32768, 0), idle(12, 0, 32768, 0)), (0, 0, 2));
        // The piece is not what the torrent says, and the same blocks come again.
        assert_eq!((idle(13, 0, 0, 0), idle(14, 0, 16384, 0), idle(15, 0, 32768, 0)), (3, 4, 5));
        assert_eq!((idle(16, 0, 49152, 0), idle(17, 65536, 49152, 0), idle(19, 65536, 49152, 0)), (0, 0, 2));
    }
}
