//! Bounds on rates, slots and connections: as options of every command with a swarm, and `btfs set`, which changes those
//! of a process that runs.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::bail;
use clap::ValueHint;

use super::args::at_least_one;
use super::exit::UsageError;
use super::{exit, mountpoint, status, text};
use crate::base::size::{Bytes, parse_bytes};
use crate::control::{NewLimits, Request, Status, ask};
use crate::net::{Bounds, Rates};

/// What every command with a swarm understands.
#[derive(Debug, clap::Args, Clone, Copy, Default)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// Send peers no more than so much in a second, all torrents together, such as 500K or 2M [default: no limit]
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub max_upload: Option<u64>,
    /// Receive no more than so much in a second, all torrents together; readers who wait go before everything else
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub max_download: Option<u64>,
    /// As --max-upload, of each torrent
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub torrent_max_upload: Option<u64>,
    /// As --max-download, of each torrent
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub torrent_max_download: Option<u64>,
    /// Send to so many peers of a torrent at a time [default: 9, and more while that makes the whole faster]
    #[arg(long, value_name = "NUMBER", value_parser = slots)]
    pub upload_slots: Option<usize>,
    /// Connections at most of all torrents together [default: as many as descriptors allow]
    #[arg(long, value_name = "NUMBER", value_parser = at_least_one)]
    pub max_connections: Option<usize>,
    /// Connections at most that are being opened at a time [default: 100]
    #[arg(long, value_name = "NUMBER", value_parser = at_least_one)]
    pub max_half_open: Option<usize>,
}

impl LimitArgs {
    /// As a session wants them.
    pub(crate) fn bounds(&self) -> Bounds {
        let bound = |given: Option<u64>| given.filter(|&rate| rate > 0);
        Bounds {
            all: Rates { upload: bound(self.max_upload), download: bound(self.max_download) },
            each: Rates { upload: bound(self.torrent_max_upload), download: bound(self.torrent_max_download) },
            upload_slots: self.upload_slots.filter(|&slots| slots > 0),
            max_connections: self.max_connections,
            max_half_open: self.max_half_open,
        }
    }
}

/// `btfs set`.
#[derive(Debug, clap::Args)]
pub struct Set {
    /// Where it is mounted; or the number of a process, as `btfs status` shows it
    #[arg(value_name = "MOUNTPOINT|PID", value_hint = ValueHint::DirPath)]
    pub process: PathBuf,
    /// Only this torrent: its name in the mount, or its info-hash (the beginning will do)
    #[arg(long, value_name = "NAME|HASH", conflicts_with = "each")]
    pub torrent: Option<OsString>,
    /// Each torrent for itself, those that are yet to come included
    #[arg(long)]
    pub each: bool,
    /// Send no more than so much in a second; none: no limit
    #[arg(long, value_name = "RATE|none", value_parser = rate)]
    pub max_upload: Option<u64>,
    /// Receive no more than so much in a second; none: no limit
    #[arg(long, value_name = "RATE|none", value_parser = rate)]
    pub max_download: Option<u64>,
    /// Send to so many peers of a torrent at a time; none: as many as make the whole faster
    #[arg(long, value_name = "NUMBER|none", value_parser = slots, conflicts_with_all = ["torrent", "each"])]
    pub upload_slots: Option<usize>,
}

/// Changes what is given, and says what holds then.
pub(crate) fn set(args: &Set) -> anyhow::Result<i32> {
    let (socket, _) = process(&args.process)?;
    let new = NewLimits { upload: args.max_upload, download: args.max_download, upload_slots: args.upload_slots };
    let torrent = args.torrent.as_deref().map(|name| mountpoint::text(Path::new(name)));
    if new == NewLimits::default() && (torrent.is_some() || args.each) {
        return Err(UsageError("nothing to set: name --max-upload or --max-download".to_owned()).into());
    }
    if new != NewLimits::default() {
        let request = Request::Set { torrent, each: args.each, new };
        let (answer, _) = ask(&socket, &request, PATIENCE)?;
        if !answer.ok {
            bail!("{}", text::safe(answer.error.unwrap_or_default()));
        }
    }
    let (_, status) = process(&args.process)?;
    for line in describe(&status) {
        text::say(line);
    }
    Ok(exit::OK)
}

/// The process that serves this mount, or has this number.
pub(crate) fn process(named: &Path) -> anyhow::Result<(PathBuf, Status)> {
    if let Some(found) = status::find(named) {
        return Ok(found);
    }
    let pid = named.to_str().and_then(|text| text.parse::<u32>().ok()).filter(|&pid| pid > 0);
    if let Some(found) = pid.and_then(status::find_process) {
        return Ok(found);
    }
    match mountpoint::find(named) {
        Some(_) => bail!("{}: the process of this mount does not answer", named.display()),
        None => bail!("{}: no btfs mount", named.display()),
    }
}

/// What bounds a process, a line each; a first one always.
pub(crate) fn describe(status: &Status) -> Vec<String> {
    let limits = &status.limits;
    let mut first = format!("all torrents: {}", rates(limits.download, limits.upload));
    if limits.torrent_download.is_some() || limits.torrent_upload.is_some() {
        let _ = write!(first, "; each that comes: {}", rates(limits.torrent_download, limits.torrent_upload));
    }
    if let Some(slots) = limits.upload_slots {
        let _ = write!(first, "; {slots} upload {} each", if slots == 1 { "slot" } else { "slots" });
    }
    let bounded = status.torrents.iter().filter(|t| t.download_limit.is_some() || t.upload_limit.is_some());
    let others = bounded.map(|torrent| {
        let name = torrent.path.as_ref().unwrap_or(&torrent.name);
        format!("{}: {}", text::safe(name), rates(torrent.download_limit, torrent.upload_limit))
    });
    std::iter::once(first).chain(others).collect()
}

fn rates(download: Option<u64>, upload: Option<u64>) -> String {
    let rate = |bound: Option<u64>| bound.map_or("no limit".to_owned(), |rate| format!("{}/s", Bytes(rate)));
    format!("↓ {}  ↑ {}", rate(download), rate(upload))
}

/// A rate in bytes per second, 0 for none.
pub(crate) fn rate(given: &str) -> Result<u64, String> {
    if given == "none" || given == "0" {
        return Ok(0);
    }
    match parse_bytes(given.strip_suffix("/s").unwrap_or(given)) {
        Ok(rate) if rate < MIN_RATE => {
            Err("at least 1K is needed; none: no limit (--no-upload sends nothing)".to_owned())
        }
        other => other.map_err(|_| "expected bytes in a second, such as 500K or 2M, or none".to_owned()),
    }
}

/// A number of slots, 0 for as many as it takes.
pub(crate) fn slots(given: &str) -> Result<usize, String> {
    if given == "none" { Ok(0) } else { at_least_one(given) }
}

/// Below this a block would take longer than peers wait.
const MIN_RATE: u64 = 1024;
const PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_as_people_write_them() {
        for (text, read) in [("none", 0), ("0", 0), ("500K", 500 << 10), ("1.5MiB/s", 3 << 19), ("4096", 4096)] {
            assert_eq!(rate(text), Ok(read), "{text}");
        }
        for text in ["", "fast", "12", "-1M", "1M/h"] {
            assert!(rate(text).is_err(), "{text}");
        }
        assert_eq!((slots("none"), slots("4"), slots("0").is_err()), (Ok(0), Ok(4), true));
    }
}
