//! `btfs seed`: shares files that are here, read-only; checks them once, with progress.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::args::SeedArgs;
use super::exit::UsageError;
use super::process::{Parts, Process, Running};
use super::{logging, text, torrents};
use crate::base::size::Bytes;
use crate::control::{Changes, Common, Seeding, Status};
use crate::engine::Fill;
use crate::net::AddTorrent;

/// Seeds until it is signalled.
pub(crate) fn run(args: SeedArgs) -> anyhow::Result<i32> {
    let (names, data) = pairs(&args.pairs)?;
    let named = names.iter().map(|name| torrents::load(name)).collect::<anyhow::Result<Vec<_>>>()?;
    for path in &data {
        std::fs::metadata(path).with_context(|| path.display().to_string())?;
    }
    let config = args.swarm.session_config(&args.cache, None, Fill::None)?;
    let target = logging::Target::foreground();
    let logging = logging::start(&args.swarm.log, &target)?;
    let mut process = Process::start(false)?;
    let torrents = process.resolve(named, args.swarm.bind)?;
    let session = process.session(config)?;
    for (metainfo, data) in torrents.iter().zip(data) {
        let added = session.add(AddTorrent {
            metainfo: metainfo.clone(),
            data: Some(data),
            peers: args.swarm.peers.clone(),
            trackers: args.swarm.trackers.clone(),
        });
        if let Err(error) = added {
            session.shutdown();
            return Err(error.into());
        }
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
        announce(&status);
    }
    running.until_end(!args.json)
}

/// Waits until every piece was checked; a reason to end comes first.
fn check(running: &mut Running) -> anyhow::Result<Option<super::process::End>> {
    let total: usize = running.torrents().iter().map(|torrent| torrent.metainfo().layout.piece_count()).sum();
    let bar = match std::io::stderr().is_terminal() {
        true => ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr()),
        false => ProgressBar::hidden(),
    };
    bar.set_style(ProgressStyle::with_template("checking {wide_bar} {pos}/{len} pieces, {eta} left")?);
    let _ = logging::LIVE_LINE.set(bar.clone());
    let started = Instant::now();
    loop {
        let unchecked: usize = running
            .torrents()
            .iter()
            .map(|torrent| {
                let unknown = torrent.metainfo().layout.piece_count();
                torrent.snapshot().map_or(unknown, |snapshot| snapshot.unchecked_pieces)
            })
            .sum();
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

fn announce(status: &Status) {
    for torrent in &status.torrents {
        let name = text::safe(&torrent.name);
        match torrent.left_bytes {
            0 => text::say(format_args!("sharing {name} ({}), all of it", Bytes(torrent.total_bytes))),
            left => text::say(format_args!(
                "sharing {name}: {} of {}; {} are missing or not what the torrent says",
                Bytes(torrent.have_bytes),
                Bytes(torrent.total_bytes),
                Bytes(left)
            )),
        }
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
