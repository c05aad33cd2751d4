//! `btfs edit`: changes what stands beside the info dictionary of a torrent file.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use anyhow::{Context, anyhow, bail};
use clap::ValueHint;
use serde::Serialize;

use super::create::options::{date, node, split_tier, web_url};
use super::exit::UsageError;
use super::text::{safe, safe_json, say};
use super::whole::Existing;
use super::{exit, interrupt, torrents, whole};
use crate::base::Date;
use crate::proto::metainfo::{Beside, Change, EditError, Edited, edit};

/// What can stand after `btfs edit`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The .torrent file
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
    /// Write the changed torrent there [default: in place]
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub output: Option<PathBuf>,
    /// Overwrite the output
    #[arg(short, long, requires = "output")]
    pub force: bool,
    /// Say what would change, and write nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub json: bool,
    /// What is changed.
    #[command(flatten)]
    pub changes: ChangeArgs,
    /// What cannot be.
    #[command(flatten)]
    pub inside: InsideArgs,
}

/// The changes; what is to go goes first, what is added comes last.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Changes")]
pub struct ChangeArgs {
    /// These trackers instead of those that are there: repeat it for further tiers, put commas between the trackers of
    /// one tier
    #[arg(short, long = "announce", visible_alias = "tracker", value_name = "URL", value_hint = ValueHint::Url)]
    pub announce: Vec<String>,
    /// A further tier of trackers; repeatable
    #[arg(long, value_name = "URL")]
    pub add_tracker: Vec<String>,
    /// Without this tracker; repeatable
    #[arg(long, value_name = "URL")]
    pub remove_tracker: Vec<String>,
    /// In the URL of every tracker, put the second text where the first one is: a passkey, for example; repeatable
    #[arg(long, num_args = 2, value_names = ["OLD", "NEW"])]
    pub replace: Vec<String>,
    /// Without any tracker
    #[arg(long, conflicts_with_all = ["announce", "remove_tracker", "replace"])]
    pub no_trackers: bool,
    /// These web seeds instead of those that are there; repeatable
    #[arg(short, long = "web-seed", value_name = "URL", value_parser = web_url, value_hint = ValueHint::Url)]
    pub web_seeds: Vec<String>,
    /// One more web seed; repeatable
    #[arg(long, value_name = "URL", value_parser = web_url)]
    pub add_web_seed: Vec<String>,
    /// Without this web seed; repeatable
    #[arg(long, value_name = "URL")]
    pub remove_web_seed: Vec<String>,
    /// Without any web seed
    #[arg(long, conflicts_with_all = ["web_seeds", "remove_web_seed"])]
    pub no_web_seeds: bool,
    /// These DHT nodes instead of those that are there; repeatable
    #[arg(long = "node", value_name = "HOST:PORT", value_parser = node)]
    pub nodes: Vec<(String, u16)>,
    /// Without any DHT node
    #[arg(long, conflicts_with = "nodes")]
    pub no_nodes: bool,
    /// Another comment
    #[arg(short, long, value_name = "TEXT")]
    pub comment: Option<String>,
    /// Without a comment
    #[arg(long, conflicts_with = "comment")]
    pub no_comment: bool,
    /// Another date of creation: seconds since 1970, or `now`
    #[arg(long, value_name = "SECONDS", value_parser = date, allow_negative_numbers = true)]
    pub creation_date: Option<i64>,
    /// Without a date of creation
    #[arg(long, conflicts_with = "creation_date")]
    pub no_creation_date: bool,
}

/// What stands inside of the info dictionary: named only to be told why not.
#[derive(Debug, clap::Args)]
pub struct InsideArgs {
    #[arg(long, hide = true, num_args = 0..=1)]
    source: Option<Option<String>>,
    #[arg(long, hide = true, num_args = 0..=1)]
    name: Option<Option<String>>,
    #[arg(long, hide = true, num_args = 0..=1)]
    piece_length: Option<Option<String>>,
    #[arg(short, long, hide = true)]
    private: bool,
}

/// Changes a torrent file, and says what has changed.
pub(crate) fn run(args: &Args) -> anyhow::Result<i32> {
    refuse_inside(&args.inside)?;
    let changes = changes(&args.changes)?;
    if changes.is_empty() {
        return Err(UsageError("say what is to change; `btfs edit --help` has the options".to_owned()).into());
    }
    let name = safe(args.file.as_os_str().as_bytes());
    let file = torrents::read(&args.file)?;
    let old = torrents::judge(&name, &file)?;
    let edited = edit(&file, &changes).map_err(|error| explain(&name, &error))?;
    // What the whole command promises.
    if edited.metainfo.info != old.info {
        bail!("{name}: the info dictionary would change; nothing was written");
    }
    torrents::warn(&name, &edited.metainfo);
    let differs = edited.bytes != file;
    let output = args.output.as_deref().unwrap_or(&args.file);
    let written = !args.dry_run && (differs || args.output.is_some());
    if written {
        // A signal comes too late, or before anything was written.
        let _stop = interrupt::stop_on_signal(None)?;
        match &args.output {
            Some(output) if !args.force && output.symlink_metadata().is_ok() => {
                bail!("{}: exists already; overwrite it with --force", safe(output.as_os_str().as_bytes()));
            }
            Some(output) => {
                let existing = if args.force { Existing::Replace } else { Existing::Keep };
                whole::write(output, &edited.bytes, &existing)?;
            }
            None => {
                // Behind a link, it is the file that is changed, and not the link that goes.
                let path = fs::canonicalize(&args.file).with_context(|| name.clone())?;
                let permissions = fs::metadata(&path).with_context(|| name.clone())?.permissions();
                whole::write(&path, &edited.bytes, &Existing::Succeed(permissions))?;
            }
        }
    }
    report(args, output.as_os_str().as_bytes(), &edited, differs, written)?;
    Ok(exit::OK)
}

fn refuse_inside(inside: &InsideArgs) -> Result<(), UsageError> {
    let named = [
        (inside.source.is_some(), "--source"),
        (inside.name.is_some(), "--name"),
        (inside.piece_length.is_some(), "--piece-length"),
        (inside.private, "--private"),
    ];
    match named.iter().find(|(is_named, _)| *is_named) {
        None => Ok(()),
        Some((_, option)) => Err(UsageError(format!(
            "{option}: that is a part of what the info-hash is taken of, so it would be another torrent, in a swarm of its \
             own; make that with `btfs create`"
        ))),
    }
}

fn changes(args: &ChangeArgs) -> Result<Vec<Change>, UsageError> {
    let mut changes = Vec::new();
    if args.no_trackers || !args.announce.is_empty() {
        let tiers = args.announce.iter().map(|tier| split_tier(tier)).collect::<Result<_, _>>()?;
        changes.push(Change::Trackers(tiers));
    }
    changes.extend(args.remove_tracker.iter().cloned().map(Change::RemoveTracker));
    for pair in args.replace.chunks_exact(2) {
        if pair[0].is_empty() {
            return Err(UsageError("--replace: the first text must not be empty".to_owned()));
        }
        changes.push(Change::ReplaceInTrackers(pair[0].clone(), pair[1].clone()));
    }
    for tier in &args.add_tracker {
        changes.push(Change::AddTier(split_tier(tier)?));
    }
    if args.no_web_seeds || !args.web_seeds.is_empty() {
        changes.push(Change::WebSeeds(args.web_seeds.clone()));
    }
    changes.extend(args.remove_web_seed.iter().cloned().map(Change::RemoveWebSeed));
    changes.extend(args.add_web_seed.iter().cloned().map(Change::AddWebSeed));
    if args.no_nodes || !args.nodes.is_empty() {
        changes.push(Change::Nodes(args.nodes.clone()));
    }
    if args.no_comment || args.comment.is_some() {
        changes.push(Change::Comment(args.comment.clone()));
    }
    if args.no_creation_date || args.creation_date.is_some() {
        changes.push(Change::CreationDate(args.creation_date));
    }
    Ok(changes)
}

fn explain(name: &str, error: &EditError) -> anyhow::Error {
    match error {
        EditError::NotThere { what, text } => anyhow!("{name}: there is no {what} {}; nothing was changed", safe(text)),
        EditError::Unusable(url) => anyhow!("{name}: {} would be no tracker URL; nothing was changed", safe(url)),
        other => anyhow!("{name}: {other}; nothing was changed"),
    }
}

/// What has changed, as `--json` prints it; fields are only ever added.
#[derive(Debug, Serialize)]
struct Report {
    path: String,
    info_hash: Option<String>,
    info_hash_v2: Option<String>,
    /// It was written (not with --dry-run, nor where nothing differs).
    written: bool,
    changed: Vec<Changed>,
}

/// One key that has another value.
#[derive(Debug, Serialize)]
struct Changed {
    key: &'static str,
    before: serde_json::Value,
    after: serde_json::Value,
    /// For people: a line each, with `-` or `+` in front.
    #[serde(skip)]
    lines: Vec<String>,
}

fn report(args: &Args, path: &[u8], edited: &Edited, differs: bool, written: bool) -> anyhow::Result<()> {
    let metainfo = &edited.metainfo;
    let report = Report {
        path: String::from_utf8_lossy(path).into_owned(),
        info_hash: metainfo.info_hash.map(|hash| hash.to_string()),
        info_hash_v2: metainfo.info_hash_v2.map(|hash| hash.to_string()),
        written,
        changed: changed(&edited.before, &edited.after)?,
    };
    if args.json {
        say(safe_json(&serde_json::to_string(&report)?));
        return Ok(());
    }
    let hash = report.info_hash.or(report.info_hash_v2).unwrap_or_default();
    let done = match (differs, written) {
        (false, _) => "nothing changes",
        (true, true) => "changed",
        (true, false) => "would be changed",
    };
    say(format_args!("{}: {done}; info-hash {hash}, as before", safe(path)));
    report.changed.iter().flat_map(|changed| &changed.lines).for_each(say);
    Ok(())
}

/// A value for programs, and lines for people.
type Shown = (serde_json::Value, Vec<String>);

fn changed(before: &Beside, after: &Beside) -> serde_json::Result<Vec<Changed>> {
    let mut changed = Vec::new();
    let mut compare = |key, list: fn(&Beside) -> serde_json::Result<Shown>| {
        let ((old, gone), (new, come)) = (list(before)?, list(after)?);
        if old != new {
            let lines = gone.iter().filter(|line| !come.contains(line)).map(|line| format!("- {line}"));
            let lines = lines.chain(come.iter().filter(|line| !gone.contains(line)).map(|line| format!("+ {line}")));
            changed.push(Changed { key, lines: lines.collect(), before: old, after: new });
        }
        serde_json::Result::Ok(())
    };
    compare("trackers", |beside| {
        let tiers = beside.trackers.iter().enumerate();
        let lines =
            tiers.flat_map(|(tier, urls)| urls.iter().map(move |url| format!("tracker {} {}", tier + 1, safe(url))));
        Ok((serde_json::to_value(&beside.trackers)?, lines.collect()))
    })?;
    compare("web_seeds", |beside| {
        let lines = beside.web_seeds.iter().map(|url| format!("web seed {}", safe(url)));
        Ok((serde_json::to_value(&beside.web_seeds)?, lines.collect()))
    })?;
    compare("nodes", |beside| {
        let lines = beside.nodes.iter().map(|(host, port)| format!("DHT node {}", safe(format!("{host}:{port}"))));
        Ok((serde_json::to_value(&beside.nodes)?, lines.collect()))
    })?;
    compare("comment", |beside| {
        let lines = beside.comment.iter().map(|comment| format!("comment {}", safe(comment)));
        Ok((serde_json::to_value(&beside.comment)?, lines.collect()))
    })?;
    compare("creation_date", |beside| {
        let lines = beside.creation_date.iter().map(|&seconds| format!("created {}", Date(seconds)));
        Ok((serde_json::to_value(beside.creation_date)?, lines.collect()))
    })?;
    Ok(changed)
}

pub(crate) const EXAMPLES: &str = "Examples:
  btfs edit films.torrent --add-tracker udp://tracker.example:6969
  btfs edit films.torrent -a https://new.example/announce       instead of all that are there
  btfs edit films.torrent --replace OLDPASSKEY NEWPASSKEY
  btfs edit films.torrent --no-comment --no-creation-date -o clean.torrent
  btfs edit films.torrent -n --add-web-seed https://w.example/  only say what would change

The info-hash stays what it is: who shares the torrent goes on sharing it.";
