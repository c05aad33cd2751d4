//! `btfs cache`: what the cache holds, giving some of it back, keeping some of it. Works beside running mounts: what is in
//! use is never touched.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow, bail};
use clap::{Subcommand, ValueHint};
use serde::Serialize;

use super::text::{say, shorten};
use super::{args, paths, text, torrents};
use crate::base::InfoHash;
use crate::base::size::{Bytes, Span, parse_bytes};
use crate::proto::metainfo::Metainfo;
use crate::storage::{CacheDir, Removed, SlotStatus};

/// What can stand after `btfs cache`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The cache directory [default: that of `btfs mount`]
    #[arg(long, value_name = "DIR", global = true, value_hint = ValueHint::DirPath)]
    pub cache_dir: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
}

/// What can be done with a cache.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Show what is kept of which torrent, last used last
    List {
        /// Print one JSON object instead
        #[arg(long)]
        json: bool,
    },
    /// Remove what is neither in use nor pinned: all of it, or as the options say
    Prune {
        /// Remove no more than it takes to bring the whole cache to this size, what was used longest ago first
        #[arg(long, value_name = "SIZE", value_parser = to_size)]
        to: Option<u64>,
        /// Remove only what was not used for this long: 90m, 12h, 30d
        #[arg(long, value_name = "TIME", value_parser = time)]
        older_than: Option<Duration>,
        /// Only say what would be removed
        #[arg(long)]
        dry_run: bool,
        /// Only these: .torrent files or info-hashes
        #[arg(value_name = "TORRENT")]
        torrents: Vec<OsString>,
    },
    /// Keep torrents: nothing of them is evicted or pruned, now and later
    Pin {
        /// .torrent files or info-hashes
        #[arg(required = true, value_name = "TORRENT")]
        torrents: Vec<OsString>,
    },
    /// Keep torrents no longer
    Unpin {
        /// .torrent files or info-hashes
        #[arg(required = true, value_name = "TORRENT")]
        torrents: Vec<OsString>,
    },
}

/// Does it.
///
/// # Errors
/// The cache cannot be read or written; a torrent that was named cannot be used, is in use or pinned.
pub fn run(args: Args) -> anyhow::Result<()> {
    let path = match args.cache_dir {
        Some(path) => std::path::absolute(path)?,
        None => paths::cache_dir().ok_or_else(|| anyhow!(args::NO_CACHE))?,
    };
    // Looking makes no directory, and where there is none nothing can be removed.
    let is_there = path.try_exists().with_context(|| path.display().to_string())?;
    let open = || CacheDir::open(&path);
    match args.action {
        Action::List { json } => {
            let slots = if is_there { open()?.slots()? } else { Vec::new() };
            list(&path, slots, json)
        }
        Action::Prune { to, older_than, dry_run, torrents } => {
            let hashes = torrents.iter().map(|name| hash_of(name)).collect::<anyhow::Result<Vec<_>>>()?;
            let cache = if is_there { Some(open()?) } else { None };
            prune(cache.as_ref(), to, older_than, dry_run, &hashes)
        }
        Action::Pin { torrents } => {
            let cache = open()?;
            for name in &torrents {
                let torrent = hash_of(name)?;
                cache.pin(torrent)?;
                say(format_args!("pinned {torrent}"));
            }
            Ok(())
        }
        Action::Unpin { torrents } => {
            let cache = open()?;
            for name in &torrents {
                let torrent = hash_of(name)?;
                match cache.unpin(torrent)? {
                    true => say(format_args!("no longer pinned {torrent}")),
                    false => say(format_args!("was not pinned {torrent}")),
                }
            }
            Ok(())
        }
    }
}

/// One slot, for programs.
#[derive(Debug, Serialize)]
struct Shown {
    slot: String,
    info_hash: String,
    /// `None` where the slot does not tell.
    name: Option<String>,
    cached_bytes: u64,
    total_bytes: Option<u64>,
    /// Seconds since 1970.
    last_used: u64,
    pinned: bool,
    /// By whom, as they say.
    in_use_by: Option<String>,
    /// A user's own files, shared: nothing of theirs is kept here.
    shared_files: bool,
}

#[derive(Debug, Serialize)]
struct Listing<'a> {
    cache_dir: &'a str,
    cached_bytes: u64,
    slots: Vec<Shown>,
}

fn list(path: &Path, mut slots: Vec<SlotStatus>, json: bool) -> anyhow::Result<()> {
    slots.sort_by_key(|slot| slot.last_used);
    let total = slots.iter().map(|slot| slot.bytes).sum();
    let shown: Vec<_> = slots.iter().map(Shown::new).collect();
    if json {
        let path = path.to_string_lossy();
        let json = serde_json::to_string(&Listing { cache_dir: &path, cached_bytes: total, slots: shown })?;
        say(text::safe_json(&json));
        return Ok(());
    }
    for slot in &shown {
        let of = slot.total_bytes.map_or(String::new(), |total| format!(" of {}", Bytes(total)));
        let name = slot.name.as_deref().map_or_else(|| "?".to_owned(), text::safe);
        let mut notes = Vec::new();
        if slot.shared_files {
            notes.push("shared files".to_owned());
        }
        if slot.pinned {
            notes.push("pinned".to_owned());
        }
        notes.extend(slot.in_use_by.as_ref().map(|owner| format!("in use by {}", text::safe(owner))));
        let used = UNIX_EPOCH + Duration::from_secs(slot.last_used);
        let age = Span(SystemTime::now().duration_since(used).unwrap_or_default());
        let notes = if notes.is_empty() { String::new() } else { format!(" ({})", notes.join(", ")) };
        say(format_args!(
            "{}  {:>10}{of}, used {age} ago: {}{notes}",
            slot.info_hash,
            Bytes(slot.cached_bytes).to_string(),
            shorten(&name, 60)
        ));
    }
    let torrents = if shown.len() == 1 { "1 torrent".to_owned() } else { format!("{} torrents", shown.len()) };
    say(format_args!("{} in {torrents}, {}", Bytes(total), text::safe(path.as_os_str().as_bytes())));
    Ok(())
}

impl Shown {
    fn new(slot: &SlotStatus) -> Self {
        let metainfo = slot.info.as_deref().and_then(metainfo);
        let name = metainfo.as_ref().map(|metainfo| String::from_utf8_lossy(&metainfo.name).into_owned());
        Self {
            slot: slot.name.clone(),
            info_hash: slot.info_hash.to_string(),
            name,
            cached_bytes: slot.bytes,
            total_bytes: metainfo.map(|metainfo| metainfo.layout.total_bytes()),
            last_used: slot.last_used.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            pinned: slot.pinned,
            in_use_by: slot.owner.clone(),
            shared_files: slot.adopted,
        }
    }
}

fn prune(
    cache: Option<&CacheDir>,
    to: Option<u64>,
    older_than: Option<Duration>,
    dry_run: bool,
    torrents: &[InfoHash],
) -> anyhow::Result<()> {
    let mut slots = cache.map_or_else(|| Ok(Vec::new()), CacheDir::slots)?;
    slots.sort_by_key(|slot| slot.last_used);
    let mut total: u64 = slots.iter().map(|slot| slot.bytes).sum();
    if let Some(missing) = torrents.iter().find(|&hash| !slots.iter().any(|slot| slot.info_hash == *hash)) {
        bail!("{missing}: nothing of it is in the cache");
    }
    let (mut freed, mut removed, mut kept) = (0, 0, Vec::new());
    for slot in slots {
        let named = torrents.contains(&slot.info_hash);
        let young = older_than.is_some_and(|age| slot.last_used.elapsed().is_ok_and(|since| since < age));
        // What is known of a user's own files takes next to nothing, and saves checking them again.
        if (!named && (slot.adopted || !torrents.is_empty())) || young || to.is_some_and(|to| total <= to) {
            continue;
        }
        let outcome = match (&slot.owner, slot.pinned) {
            (Some(_), _) => Removed::InUse,
            (None, true) => Removed::Pinned,
            (None, false) if dry_run => Removed::Gone(slot.bytes),
            (None, false) => cache.map_or(Ok(Removed::Missing), |cache| cache.remove(&slot.name))?,
        };
        match outcome {
            Removed::Gone(bytes) => {
                let name = Shown::new(&slot).name.as_deref().map_or_else(|| "?".to_owned(), text::safe);
                let what = if dry_run { "would remove" } else { "removed" };
                say(format_args!("{what} {} {} ({})", slot.name, shorten(&name, 60), Bytes(bytes)));
                freed += bytes;
                total = total.saturating_sub(bytes);
                removed += 1;
            }
            Removed::InUse if named => {
                let owner = slot.owner.as_deref().map_or_else(|| "somebody".to_owned(), text::safe);
                kept.push(format!("{}: in use by {owner}", slot.name));
            }
            Removed::Pinned if named => kept.push(format!("{}: pinned; unpin it first", slot.name)),
            _ => {}
        }
    }
    let what = if dry_run { "would free" } else { "freed" };
    say(format_args!("{what} {} ({removed} removed); {} left", Bytes(freed), Bytes(total)));
    match kept.is_empty() {
        true => Ok(()),
        false => Err(anyhow!(kept.join("; "))),
    }
}

/// The torrent of a slot, from the info dictionary that it keeps.
fn metainfo(info: &[u8]) -> Option<Metainfo> {
    Metainfo::parse(&[b"d4:info", info, b"e"].concat()).ok()
}

/// An info-hash, as hex digits or as that of a torrent file.
fn hash_of(name: &OsStr) -> anyhow::Result<InfoHash> {
    if let Some(hash) = name.to_str().and_then(|text| text.parse().ok()) {
        return Ok(hash);
    }
    let shown = text::safe(name.as_bytes());
    let metainfo = torrents::judge(&shown, &torrents::read(Path::new(name))?)?;
    metainfo.info_hash.with_context(|| format!("{shown}: a v2-only torrent, of which nothing can be cached yet"))
}

fn to_size(text: &str) -> Result<u64, String> {
    parse_bytes(text).map_err(|error| error.to_string())
}

/// A time with its unit: s, m, h or d.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    let units = [('s', 1), ('m', 60), ('h', 3600), ('d', 86_400)];
    let parsed = units.into_iter().find_map(|(unit, seconds)| {
        let number: u64 = text.strip_suffix(unit)?.trim().parse().ok()?;
        number.checked_mul(seconds)
    });
    parsed.map(Duration::from_secs).ok_or_else(|| "expected a number and a unit: 90m, 12h, 30d".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_need_a_unit() {
        for (text, seconds) in [("0s", 0), ("90m", 5400), ("12h", 43_200), ("30d", 2_592_000)] {
            assert_eq!(time(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "30", "d", "-1d", "1w", "1.5h", "99999999999999999999d"] {
            assert!(time(text).is_err(), "{text}");
        }
    }
}
