//! `btfs seed`: shares files that are here, read-only; checks them once, with progress.

mod list;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use self::list::Listed;
use super::args::SeedArgs;
use super::exit::UsageError;
use super::process::{Parts, Process, Running};
use super::{logging, text, torrents};
use crate::base::size::Bytes;
use crate::control::{Changes, Common, Seeding, Status};
use crate::engine::Fill;
use crate::net::{AddTorrent, SessionError, TorrentHandle};
use crate::proto::metainfo::Metainfo;

/// Seeds until it is signalled.
pub(crate) fn run(args: SeedArgs) -> anyhow::Result<i32> {
    let (names, data) = pairs(&args.pairs)?;
    let named = names.iter().map(|name| torrents::load(name)).collect::<anyhow::Result<Vec<_>>>()?;
    for path in &data {
        std::fs::metadata(path).with_context(|| path.display().to_string())?;
    }
    let (listed, refused) = args.from_list.as_deref().map_or(Ok((Vec::new(), 0)), list::read)?;
    let config = args.swarm.session_config(&args.cache, None, Fill::None)?;
    let target = logging::Target::foreground();
    let logging = logging::start(&args.swarm.log, &target)?;
    let mut process = Process::start(false)?;
    let torrents = process.resolve(named, args.swarm.bind)?;
    let session = process.session(config)?;
    let add = |metainfo: &Arc<Metainfo>, data: &Path| {
        session.add(AddTorrent {
            metainfo: metainfo.clone(),
            data: Some(data.to_owned()),
            peers: args.swarm.peers.clone(),
            trackers: args.swarm.trackers.clone(),
        })
    };
    for (metainfo, data) in torrents.iter().zip(&data) {
        if let Err(error) = add(metainfo, data) {
            session.shutdown();
            return Err(error.into());
        }
    }
    let unusable = refused + add_listed(&listed, |listed| add(&listed.metainfo, &listed.data).map(drop));
    if session.torrents().is_empty() {
        session.shutdown();
        bail!("nothing of the list can be shared");
    }
    let warnings = logging.last_warnings();
    let changes = Changes::new(session, None, Common::default());
    let seeding = Seeding::default();
    let parts = Parts { changes, watch: None, seeding, mountpoint: None, warnings, log: target.describe() };
    let mut running = process.run("seed", parts);
    if let Some(end) = check(&mut running)? {
        running.end(end);
    }
    let status = running.source().collect(0);
    if status.torrents.iter().all(|torrent| torrent.have_pieces == 0) {
        // Nothing to share: who sees only the exit status must learn it, too.
        running.source().changes.session().shutdown();
        bail!("none of the data is what the torrent says: nothing to share");
    }
    if args.json {
        text::say(serde_json::to_string(&status)?);
    } else {
        announce(&status, unusable);
    }
    running.until_end(!args.json)
}

/// Adds what is on a list, many at a time: each waits for the disk. What cannot be added is complained of; how many those
/// are.
fn add_listed(listed: &[Listed], add: impl Fn(&Listed) -> Result<(), SessionError> + Sync) -> usize {
    let (next, unusable) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..ADDING.min(listed.len()) {
            scope.spawn(|| {
                while let Some(listed) = listed.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(error) = add(listed) {
                        unusable.fetch_add(1, Ordering::Relaxed);
                        text::complain(format_args!("{}: {error}", listed.origin));
                    }
                }
            });
        }
    });
    unusable.into_inner()
}

/// Waits until every piece was checked; a reason to end comes first.
pub(super) fn check(running: &mut Running) -> anyhow::Result<Option<super::process::End>> {
    let total: usize = running.torrents().iter().map(|torrent| torrent.metainfo().layout.piece_count()).sum();
    let bar = match std::io::stderr().is_terminal() {
        true => ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr()),
        false => ProgressBar::hidden(),
    };
    bar.set_style(ProgressStyle::with_template("checking {wide_bar} {pos}/{len} pieces, {eta} left")?);
    let _ = logging::LIVE_LINE.set(bar.clone());
    let started = Instant::now();
    let torrents = running.torrents();
    loop {
        let left = |torrent: &TorrentHandle| torrent.store().table().unchecked().count();
        let mut unchecked: usize = torrents.iter().map(left).sum();
        if unchecked == 0 {
            // The tables tell it first; asking a thousand tasks all the time would be more work than what they do.
            unchecked = torrents.iter().map(|torrent| torrent.snapshot().map_or(1, |it| it.unchecked_pieces)).sum();
        }
        if unchecked == 0 {
            bar.finish_and_clear();
            tracing::info!(pieces = total, elapsed_ms = started.elapsed().as_millis() as u64, "checked");
            return Ok(None);
        }
        bar.set_position((total - unchecked.min(total)) as u64);
        if let Some(end) = running.wait(Duration::from_millis(100)) {
            bar.finish_and_clear();
            return Ok(Some(end));
        }
    }
}

fn announce(status: &Status, unusable: usize) {
    let many = status.torrents.len() > NAMED;
    for torrent in &status.torrents {
        let name = text::safe(&torrent.name);
        match torrent.left_bytes {
            0 if many => {}
            0 => text::say(format_args!("sharing {name} ({}), all of it", Bytes(torrent.total_bytes))),
            left => text::say(format_args!(
                "sharing {name}: {} of {}; {} are missing or not what the torrent says",
                Bytes(torrent.have_bytes),
                Bytes(torrent.total_bytes),
                Bytes(left)
            )),
        }
    }
    if many {
        let whole = status.torrents.iter().filter(|torrent| torrent.left_bytes == 0).count();
        let size = Bytes(status.torrents.iter().map(|torrent| torrent.have_bytes).sum());
        text::say(format_args!("sharing {} torrents ({size}), {whole} of them whole", status.torrents.len()));
    }
    if unusable > 0 {
        text::say(format_args!("{unusable} of the list cannot be shared, as said above"));
    }
    text::say(format_args!("peers reach it at port {}; end it with Ctrl-C", status.port));
}

fn pairs(words: &[OsString]) -> anyhow::Result<(Vec<OsString>, Vec<PathBuf>)> {
    if !words.len().is_multiple_of(2) {
        let last = words.last().map(|word| text::safe(word.as_bytes())).unwrap_or_default();
        return Err(UsageError(format!("{last}: each torrent needs the path of its data after it")).into());
    }
    if words.iter().any(|word| word.is_empty()) {
        return Err(UsageError("TORRENT and DATA must not be empty".to_owned()).into());
    }
    let names = words.iter().step_by(2).cloned().collect();
    let data = words.iter().skip(1).step_by(2).map(std::path::absolute).collect::<Result<_, _>>()?;
    Ok((names, data))
}

/// Torrents of a list that are added at a time: their slots are made durable, and many disks do that for all at once.
const ADDING: usize = 16;
/// Of more torrents than this only those that lack something are named.
const NAMED: usize = 20;
