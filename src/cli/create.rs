//! `btfs create`: makes a torrent of what lies on disk. The same content and options give the same bytes.

pub(crate) mod options;

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::{Context, anyhow, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::exit::UsageError;
use super::get::choice::{means, shown as shown_entries};
use super::show::round_size;
use super::text::{complain, safe, safe_json, shell_word};
use super::whole::Existing;
use super::{exit, interrupt, publish, torrents, whole};
use crate::base::size::Bytes;
use crate::proto::magnet;
use crate::proto::metainfo::{Metainfo, NewEntry, NewTorrent, piece_length_for};
use crate::proto::path::check_name;
use crate::storage::scan::{Hashing, ScanError, Tree, TreeEntry, TreeEntryKind, Wanted, hash_pieces, walk};

pub use options::{Args, ChoiceArgs};

/// Makes the torrent and says what it is. Nothing is left behind when it fails or is interrupted.
///
/// # Errors
/// One line that says what stands in the way.
pub fn run(args: Args) -> anyhow::Result<i32> {
    let stop = interrupt::stop_on_signal(Some(interrupt::AT_ONCE))?;
    match make(&args, &stop) {
        Ok(made) => {
            report(&made, &args)?;
            args.publish.as_ref().map_or(Ok(exit::OK), |to| publish(&made.path, to, args.json))
        }
        Err(error) if matches!(error.downcast_ref(), Some(ScanError::Interrupted)) => {
            complain("interrupted");
            Ok(exit::INTERRUPTED)
        }
        Err(error) => Err(error),
    }
}

/// As `btfs publish` does it.
fn publish(path: &Path, to: &url::Url, json: bool) -> anyhow::Result<i32> {
    let token = std::env::var("BTFS_TOKEN").ok();
    publish::run(&publish::Args { files: vec![path.as_os_str().to_owned()], to: to.clone(), token, json })
}

/// A torrent that was made.
pub(super) struct Made {
    /// Where it lies.
    pub(super) path: PathBuf,
    /// What it is.
    pub(super) metainfo: Metainfo,
    /// Bytes of its files.
    pub(super) total: u64,
}

/// Makes the torrent.
pub(super) fn make(args: &Args, stop: &AtomicBool) -> anyhow::Result<Made> {
    let trackers = args.sources.tiers()?;
    let name = match &args.name {
        Some(name) => {
            check_name(name.as_bytes()).map_err(|error| UsageError(format!("--name {}: {error}", safe(name))))?;
            name.clone().into_bytes()
        }
        None => name_of(&args.path)?,
    };
    let path = match &args.output {
        Some(output) => output.clone(),
        None => PathBuf::from(OsStr::from_bytes(&[name.as_slice(), b".torrent"].concat())),
    };
    let old = match fs::symlink_metadata(&path) {
        Ok(old) if old.is_dir() => bail!("{}: is a directory; name a file with --output", shown(&path)),
        Ok(_) if !args.force => bail!("{}: exists already; overwrite it with --force", shown(&path)),
        Ok(old) => Some((old.dev(), old.ino())),
        Err(_) => None,
    };

    let choice = &args.content.choice;
    let (tree, meaningless) = look(&args.path, choice, args.content.follow_symlinks, old)?;
    meaningless.iter().for_each(|pattern| complain(format_args!("{pattern}: means nothing that is there")));
    let torrent = NewTorrent {
        name,
        piece_length: args.piece_length.unwrap_or_default(),
        private: args.sources.private,
        trackers,
        web_seeds: args.sources.web_seeds.clone(),
        nodes: args.sources.nodes.clone(),
        comment: args.comment.clone(),
        created_by: Some("btfs".to_owned()),
        creation_date: args.creation_date.filter(|_| !args.no_creation_date),
        source: args.source.clone(),
        pad: choice.pad,
        ..NewTorrent::default()
    };
    let (bytes, metainfo) = build(&args.path, &tree, torrent, stop, true)?;
    torrents::warn(&shown(&path), &metainfo);
    whole::write(&path, &bytes, if args.force { &Existing::Replace } else { &Existing::Keep })?;
    Ok(Made { path, metainfo, total: total(&tree) })
}

/// Reads and hashes what was found, and writes the torrent of it: what `torrent` lacks of content, and a piece length where
/// it has none, is filled in. With a bar on a terminal.
pub(super) fn build(
    path: &Path,
    tree: &Tree,
    mut torrent: NewTorrent,
    stop: &AtomicBool,
    bar: bool,
) -> anyhow::Result<(Vec<u8>, Metainfo)> {
    torrent.single_file = tree.single_file;
    torrent.entries = tree.entries.iter().map(new_entry).collect();
    if torrent.piece_length == 0 {
        torrent.piece_length = piece_length_for(total(tree));
    }
    let layout = torrent.layout()?;
    if layout.piece_count() > MAX_PIECES {
        let pieces = round_size(layout.piece_length());
        let advice = round_size(piece_length_for(layout.total_bytes()));
        bail!("pieces of {pieces} would be too many; try --piece-length {advice}");
    }
    // What no torrent can say is better known before hours of hashing.
    let unusable = |error| anyhow!("{}: {error}", shown(path));
    torrent.pieces = vec![0; layout.piece_count() * 20];
    torrent.write().map_err(unusable)?;
    let hash = |hashing: &Hashing<'_>| hash_pieces(&tree.entries, &layout, hashing);
    torrent.pieces = with_bar(total(tree), stop, bar, hash)?;
    torrent.write().map_err(unusable)
}

/// Bytes of all files.
fn total(tree: &Tree) -> u64 {
    tree.entries.iter().map(TreeEntry::length).sum()
}

/// What there is, without what is not wanted; and the patterns that mean nothing.
pub(super) fn look(
    path: &Path,
    choice: &ChoiceArgs,
    follow: bool,
    except: Option<(u64, u64)>,
) -> anyhow::Result<(Tree, Vec<String>)> {
    let patterns = |option, texts: &'_ [String]| -> Vec<Pattern> {
        texts.iter().map(|text| Pattern { option, text: text.clone(), meant: Cell::new(false) }).collect()
    };
    let (include, exclude) = (patterns("--include", &choice.include), patterns("--exclude", &choice.exclude));
    // All are asked, so that each knows whether it means something.
    let any = |patterns: &[Pattern], path: &[u8]| patterns.iter().filter(|pattern| pattern.means(path)).count() > 0;
    let keep = |path: &[u8], is_directory: bool| {
        !any(&exclude, path) && (is_directory || include.is_empty() || any(&include, path))
    };
    let tree = walk(path, &Wanted { except, follow, keep: &keep })?;
    if tree.single_file && !(include.is_empty() && exclude.is_empty()) {
        return Err(UsageError("--include and --exclude choose from a directory".to_owned()).into());
    }
    if total(&tree) == 0 {
        let chosen = if include.is_empty() && exclude.is_empty() { "" } else { " and is not left out" };
        bail!("{}: there is nothing to share: no file in it has content{chosen}", shown(path));
    }
    let meaningless = include.iter().chain(&exclude).filter(|pattern| !pattern.meant.get());
    let meaningless = meaningless.map(|pattern| format!("{} {}", pattern.option, safe(&pattern.text))).collect();
    Ok((tree, meaningless))
}

/// One that was named, and whether it has meant anything yet.
struct Pattern {
    option: &'static str,
    text: String,
    meant: Cell<bool>,
}

impl Pattern {
    fn means(&self, path: &[u8]) -> bool {
        let means = means(&self.text, path);
        self.meant.set(self.meant.get() || means);
        means
    }
}

/// Calls `work` with as many threads as there are cores, and a bar on a terminal, if it may be shown.
pub(super) fn with_bar<T>(
    bytes: u64,
    stop: &AtomicBool,
    may_show: bool,
    work: impl FnOnce(&Hashing<'_>) -> Result<T, ScanError>,
) -> Result<T, ScanError> {
    // Draws nothing when standard error is no terminal.
    let target = if may_show { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(bytes), target);
    bar.set_style(ProgressStyle::with_template(BAR).expect("the template is a constant"));
    let progress = |bytes| bar.inc(bytes);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let done = work(&Hashing { threads, progress: &progress, stop });
    bar.finish_and_clear();
    done
}

fn new_entry(entry: &TreeEntry) -> NewEntry {
    let path = entry.path.clone();
    match &entry.kind {
        TreeEntryKind::File { stamp, executable, .. } => {
            NewEntry { path, length: stamp.length, executable: *executable, target: None }
        }
        TreeEntryKind::Symlink { target } => {
            NewEntry { path, length: 0, executable: false, target: Some(target.clone()) }
        }
    }
}

fn report(made: &Made, args: &Args) -> anyhow::Result<()> {
    let Made { path, metainfo, total } = made;
    let info_hash = metainfo.info_hash.map(|hash| hash.to_string()).unwrap_or_default();
    let layout = &metainfo.layout;
    let (magnet, line) = (magnet::link(metainfo), mount_line(path.as_os_str().as_bytes()));
    let mut text = String::new();
    if args.json {
        let json = serde_json::json!({
            "path": path.to_string_lossy(),
            "info_hash": info_hash,
            "name": String::from_utf8_lossy(&metainfo.name),
            "file_count": shown_entries(metainfo).count(),
            "size_bytes": total,
            "piece_length": layout.piece_length(),
            "piece_count": layout.piece_count(),
            "magnet": magnet,
            "mount_line": line,
        });
        text = safe_json(&json.to_string());
    } else {
        text.push_str(&format!(
            "{}: {}, {}, {} pieces of {}\ninfo-hash {info_hash}",
            shown(path),
            safe(&metainfo.name),
            Bytes(*total),
            layout.piece_count(),
            round_size(layout.piece_length()),
        ));
        for line in [(args.magnet, &magnet), (args.mount_line, &line)].iter().filter(|line| line.0) {
            text.push_str(&format!("\n{}", line.1));
        }
    }
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// What to type to mount a torrent file, or the URL of one.
pub(super) fn mount_line(torrent: &[u8]) -> String {
    format!("mkdir -p mnt && btfs mount {} mnt", shell_word(torrent))
}

/// The name of a path as the user sees it; of `.`, `..` and `/` that of the directory they stand for.
pub(super) fn name_of(path: &Path) -> anyhow::Result<Vec<u8>> {
    let real = fs::canonicalize(path).with_context(|| shown(path))?;
    let name = path.file_name().or(real.file_name()).ok_or_else(|| UsageError("name it with --name".to_owned()))?;
    Ok(name.to_owned().into_vec())
}

fn shown(path: &Path) -> String {
    safe(path.as_os_str().as_bytes())
}

/// More would make a torrent that nobody takes: their hashes alone have 40 MB.
const MAX_PIECES: usize = 2_000_000;

const BAR: &str = "{bar:30} {percent:>3} %  {binary_bytes} of {binary_total_bytes}  {binary_bytes_per_sec}  {eta} left";
