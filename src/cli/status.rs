//! `btfs status`: what the running mounts and seeds are doing.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::bail;

use super::args::StatusArgs;
use super::text::{safe, shorten};
use super::{daemon, exit, limits, mountpoint, paths};
use crate::base::size::{Bytes, Span};
use crate::control::{CacheStatus, Limits, Request, SeedingStatus, Status, TorrentStatus, ask, sockets};

/// Shows it, once or until interrupted.
pub(crate) fn run(args: &StatusArgs) -> anyhow::Result<i32> {
    loop {
        let found = collect(args.mountpoint.as_deref());
        if let (Some(path), true) = (&args.mountpoint, found.is_empty()) {
            match mountpoint::find(path) {
                Some(_) => bail!("{}: the process of this mount does not answer", path.display()),
                None => bail!("{}: no btfs mount", path.display()),
            }
        }
        let text = render(&found, args.json)?;
        let mut out = std::io::stdout().lock();
        let written = if args.watch && !args.json && out.is_terminal() {
            // Home, then clear what is below: less flicker than clearing first.
            write!(out, "\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n"))
        } else {
            out.write_all(text.as_bytes())
        };
        match written.and_then(|()| out.flush()) {
            // Whoever read this has seen enough.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(exit::OK),
            done => done?,
        }
        drop(out);
        if !args.watch {
            return Ok(exit::OK);
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// The process that serves this mount, be it here or in another mount namespace: its socket and its status without files.
pub(super) fn find(mountpoint: &Path) -> Option<(PathBuf, Status)> {
    let is_meant = is_meant(mountpoint);
    let found = ask_all(0).into_iter().filter(|(_, status)| is_meant(status));
    // Stacked mounts: the one that still has it.
    found.max_by_key(|(_, status)| status.mounted)
}

/// Every process that answers, in the order of its socket's name. Asked all at once: one may be suspended.
pub(super) fn ask_all(files: usize) -> Vec<(PathBuf, Status)> {
    std::thread::scope(|scope| {
        let asked = sockets(&paths::control_directories()).into_iter().map(|socket| {
            scope.spawn(move || {
                let (response, stream) = ask(&socket, &Request::Status { files }, PATIENCE).ok()?;
                // Its own word would be its number in its own pid namespace.
                let status = Status { pid: daemon::peer_pid(&stream).unwrap_or(0), ..response.status? };
                Some((socket, status))
            })
        });
        let asked: Vec<_> = asked.collect();
        asked.into_iter().filter_map(|one| one.join().ok().flatten()).collect()
    })
}

/// The process of this number, as it is seen from here.
pub(super) fn find_process(pid: u32) -> Option<(PathBuf, Status)> {
    ask_all(0).into_iter().find(|(_, status)| status.pid == pid)
}

fn collect(wanted: Option<&Path>) -> Vec<Status> {
    let is_meant = wanted.map(is_meant);
    let asked = ask_all(1000).into_iter().map(|(_, status)| status);
    asked.filter(|status| is_meant.as_ref().is_none_or(|is_meant| is_meant(status))).collect()
}

/// Whether a process says that it is mounted at this path, under any name that the path may mean.
fn is_meant(path: &Path) -> impl Fn(&Status) -> bool + use<> {
    let names: Vec<_> = mountpoint::names(path).map(|name| mountpoint::text(&name)).collect();
    move |status| status.mountpoint.as_ref().is_some_and(|mountpoint| names.contains(mountpoint))
}

fn render(found: &[Status], json: bool) -> anyhow::Result<String> {
    let mut text = String::new();
    if json {
        for status in found {
            writeln!(text, "{}", serde_json::to_string(status)?)?;
        }
        return Ok(text);
    }
    if found.is_empty() {
        text.push_str("no btfs mount or seed of yours is running\n");
    }
    for (at, status) in found.iter().enumerate() {
        if at > 0 {
            text.push('\n');
        }
        text.push_str(&human(status));
    }
    Ok(text)
}

/// One process, for people.
pub(crate) fn human(status: &Status) -> String {
    let mut text = String::new();
    let place = match &status.mountpoint {
        Some(path) if mountpoint::is_here(path) => format!("{} at {}", status.command, safe(path)),
        // It lives as long as anybody holds the mount.
        Some(path) if status.mounted => {
            format!(
                "{} at {}, unmounted here, held by open files or another mount namespace",
                status.command,
                safe(path)
            )
        }
        Some(path) => format!("{} at {}, ending", status.command, safe(path)),
        None => match status.seeding.as_ref().and_then(|seeding| seeding.unmounted_from.as_ref()) {
            Some(path) => format!("sharing on, was mounted at {}", safe(path)),
            None => status.command.clone(),
        },
    };
    let up = Span(Duration::from_secs(status.uptime_seconds));
    let pid = match status.pid {
        0 => "pid of another pid namespace".to_owned(),
        pid => format!("pid {pid}"),
    };
    let _ = writeln!(text, "{place}   {pid}, port {}, up {up}", status.port);
    if let Some(seeding) = &status.seeding {
        let _ = writeln!(text, "  sharing    {}; btfs stop {} ends it", goals(seeding), status.pid);
    }
    if let Some(directory) = &status.watching {
        let _ = writeln!(text, "  watching   {}", safe(directory));
    }
    if status.limits != Limits::default() {
        let _ = writeln!(text, "  limits     {}", limits::describe(status)[0]);
    }
    if let Some(cache) = &status.cache {
        let _ = writeln!(text, "  cache      {}", bounds(cache));
    }
    for torrent in &status.torrents {
        torrent_lines(&mut text, torrent);
    }
    if !status.warnings.is_empty() {
        let _ = writeln!(text, "  last warnings");
        for warning in status.warnings.iter().rev().take(SHOWN_WARNINGS).rev() {
            let ago = now().saturating_sub(warning.at);
            let _ = writeln!(text, "    {} ago: {}", Span(Duration::from_secs(ago)), safe(&warning.text));
        }
    }
    if let Some(log) = &status.log {
        let _ = writeln!(text, "  log        {}", safe(log));
    }
    text
}

/// What a cache takes of what it may.
fn bounds(cache: &CacheStatus) -> String {
    let size = cache.size_limit.map(|size| format!(" of {}", Bytes(size))).unwrap_or_default();
    let room = match &*cache.room {
        "tight" => ", full: what was used longest ago goes",
        "scarce" => ", full of what is in use: nothing is read ahead",
        _ => "",
    };
    let (used, free, kept) = (Bytes(cache.used_bytes), Bytes(cache.free_bytes), Bytes(cache.min_free_bytes));
    format!("{used}{size} in {}, disk with {free} free, of which {kept} stay{room}", safe(&cache.path))
}

/// How long the sharing of a process goes on.
fn goals(seeding: &SeedingStatus) -> String {
    let span = |seconds: u64| Span(Duration::from_secs(seconds));
    let ratio = seeding.until_ratio.map(|ratio| format!("ratio {ratio}"));
    let time = seeding.until_seconds.map(|seconds| format!("{}", span(seconds)));
    let idle = seeding.until_idle_seconds.map(|seconds| format!("{} in which nothing is taken", span(seconds)));
    let goals: Vec<_> = [ratio, time, idle].into_iter().flatten().collect();
    let until = match goals.is_empty() {
        true => "until it is stopped".to_owned(),
        false => format!("until {}", goals.join(", or ")),
    };
    let last = match seeding.even_as_last_seed {
        false if !goals.is_empty() => ", but as long as it is the last seed",
        _ => "",
    };
    format!("for {} so far, {until}{last}", span(seeding.seconds))
}

fn torrent_lines(text: &mut String, torrent: &TorrentStatus) {
    let _ = writeln!(text, "\n  {}   {}", safe(&torrent.name), torrent.info_hash);
    if let Some(path) = torrent.path.as_ref().filter(|path| **path != torrent.name) {
        let _ = writeln!(text, "    shown as   {}", safe(path));
    }
    if !torrent.responding {
        let _ = writeln!(text, "    it does not answer");
        return;
    }
    let unchecked = match torrent.unchecked_pieces {
        0 => String::new(),
        pieces => format!(", {pieces} pieces to be checked"),
    };
    let _ = writeln!(
        text,
        "    progress   {} {:.1} %  {} of {}, {} of {} pieces of {}{unchecked}",
        bar(torrent.progress, 20),
        floor_percent(torrent.progress),
        Bytes(torrent.have_bytes),
        Bytes(torrent.total_bytes),
        torrent.have_pieces,
        torrent.pieces,
        Bytes(u64::from(torrent.piece_bytes)),
    );
    let ratio = torrent.ratio.map(|ratio| format!(", ratio {ratio:.2}")).unwrap_or_default();
    let _ = writeln!(
        text,
        "    traffic    ↓ {}/s  ↑ {}/s   down {}, up {}, wasted {}{ratio}",
        Bytes(torrent.download_rate),
        Bytes(torrent.upload_rate),
        Bytes(torrent.downloaded_bytes),
        Bytes(torrent.uploaded_bytes),
        Bytes(torrent.wasted_bytes),
    );
    if let Some(seeding) = &torrent.seeding {
        let idle = Span(Duration::from_secs(seeding.idle_seconds));
        let last = match (seeding.reached, seeding.last_seed) {
            (Some(_), true) => "; enough, but nobody else is known to have all of it",
            (None, true) => "; nobody else is known to have all of it",
            _ => "",
        };
        let _ = writeln!(text, "    sharing    ratio {:.2}, nothing taken for {idle}{last}", seeding.ratio);
    }
    let bound = |rate: Option<u64>| rate.map_or("no limit".to_owned(), |rate| format!("{}/s", Bytes(rate)));
    if torrent.download_limit.is_some() || torrent.upload_limit.is_some() {
        let _ = writeln!(text, "    limits     ↓ {}  ↑ {}", bound(torrent.download_limit), bound(torrent.upload_limit));
    }
    let _ = writeln!(text, "    cache      {} in {}", Bytes(torrent.cache_bytes), safe(&torrent.cache));
    if torrent.corrupt_pieces + torrent.repaired_pieces > 0 {
        let (corrupt, repaired) = (torrent.corrupt_pieces, torrent.repaired_pieces);
        let _ = writeln!(text, "    damage     {corrupt} corrupt pieces received, {repaired} repaired on disk");
    }
    if let Some(error) = &torrent.disk_error {
        let _ = writeln!(text, "    disk       {}", safe(error));
    }
    if torrent.memory_bytes > 0 {
        let (pieces, bytes) = (torrent.memory_pieces, Bytes(torrent.memory_bytes));
        let _ = writeln!(text, "    memory     {pieces} pieces until the disk takes them again ({bytes})");
    }
    for read in &torrent.reads {
        let _ = writeln!(
            text,
            "    waiting    {:.1} s for piece {} of {}: {}",
            read.waiting_seconds,
            read.first_piece,
            safe(&read.file),
            read.waiting_for
        );
    }
    for tracker in &torrent.trackers {
        let state = match (tracker.announcing, tracker.working) {
            (true, _) => "announcing",
            (false, true) => "works",
            (false, false) if tracker.message.is_some() => "fails",
            (false, false) => "not asked yet",
        };
        let _ = write!(text, "    tracker    {}  {state}", safe(&tracker.url));
        let figures = [("seeds", tracker.seeds), ("leechers", tracker.leechers), ("completed", tracker.completed)];
        for (name, figure) in figures {
            if let Some(figure) = figure {
                let _ = write!(text, ", {name} {figure}");
            }
        }
        if let Some(next) = tracker.next_announce_seconds {
            let _ = write!(text, ", again in {}", Span(Duration::from_secs(next)));
        }
        if let Some(message) = &tracker.message {
            let _ = write!(text, ": {}", safe(message));
        }
        text.push('\n');
    }
    peer_lines(text, torrent);
    file_lines(text, torrent);
}

fn peer_lines(text: &mut String, torrent: &TorrentStatus) {
    let banned = if torrent.banned > 0 { format!(", {} banned", torrent.banned) } else { String::new() };
    let _ =
        writeln!(text, "    peers      {} connected, {} more known{banned}", torrent.peers.len(), torrent.candidates);
    for peer in &torrent.peers {
        let _ = writeln!(
            text,
            "      {:<22} {:<22} {:>5.1} %  ↓ {:>10}/s  ↑ {:>10}/s  {}",
            peer.addr,
            shorten(&safe(&peer.client), 22),
            floor_percent(peer.progress),
            Bytes(peer.download_rate),
            Bytes(peer.upload_rate),
            peer.doing
        );
    }
}

fn file_lines(text: &mut String, torrent: &TorrentStatus) {
    let _ = writeln!(text, "    files      {}", torrent.files_total);
    // Those with something in them first: of many files few are touched.
    let mut files: Vec<_> = torrent.files.iter().collect();
    files.sort_by_key(|file| file.have_bytes == 0);
    for file in files.iter().take(SHOWN_FILES) {
        let progress = if file.bytes == 0 { 1.0 } else { file.have_bytes as f64 / file.bytes as f64 };
        let _ = writeln!(
            text,
            "      {} {:>5.1} % of {:>9}  {}",
            bar(progress, 10),
            floor_percent(progress),
            Bytes(file.bytes),
            safe(&file.path)
        );
    }
    if torrent.files_total > SHOWN_FILES {
        let _ = writeln!(text, "      ... and {} more", torrent.files_total - SHOWN_FILES.min(files.len()));
    }
}

/// 100 % only when nothing is missing.
fn floor_percent(progress: f64) -> f64 {
    (progress * 1000.0).floor() / 10.0
}

fn bar(progress: f64, width: usize) -> String {
    let full = (progress.clamp(0.0, 1.0) * width as f64).floor() as usize;
    format!("{}{}", "█".repeat(full), "░".repeat(width - full))
}

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A process that does not answer in this time is suspended, or lost.
const PATIENCE: Duration = Duration::from_secs(3);
const SHOWN_WARNINGS: usize = 8;
const SHOWN_FILES: usize = 20;
