//! `btfs create`: makes a torrent of what lies on disk. The same content and options give the same bytes.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, anyhow, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::exit::UsageError;
use super::show::round_size;
use super::text::safe;
use crate::base::size::{Bytes, parse_bytes};
use crate::base::{FileSpec, Layout};
use crate::proto::announce::tracker_scheme;
use crate::proto::metainfo::{Metainfo, NewEntry, NewTorrent, piece_length_for};
use crate::proto::path::check_name;
use crate::storage::scan::{Hashing, Tree, TreeEntry, TreeEntryKind, hash_pieces, walk};

/// What can stand after `btfs create`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The file or directory to share
    pub path: PathBuf,
    /// Where to write the torrent [default: NAME.torrent here]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// A tracker; repeat it for further tiers, put commas between the trackers of one tier
    #[arg(short, long = "announce", visible_alias = "tracker", value_name = "URL")]
    pub announce: Vec<String>,
    /// A web server that has the content as well (BEP 19); can be repeated
    #[arg(short, long = "web-seed", value_name = "URL", value_parser = web_url)]
    pub web_seeds: Vec<String>,
    /// The torrent's name [default: that of PATH]
    #[arg(short, long)]
    pub name: Option<String>,
    /// Bytes of a piece, a power of two from 16 KiB to 64 MiB [default: what makes 1000 to 2000 pieces]
    #[arg(short = 'l', long, value_name = "SIZE", value_parser = piece_length)]
    pub piece_length: Option<u32>,
    /// No DHT, no peer exchange, no local discovery: peers come from the trackers alone
    #[arg(short, long)]
    pub private: bool,
    /// A text for people
    #[arg(short, long, value_name = "TEXT")]
    pub comment: Option<String>,
    /// A text that makes the info-hash another one, as some private trackers want
    #[arg(long, value_name = "TEXT")]
    pub source: Option<String>,
    /// Seconds since 1970, to be noted in the torrent [default: no date, so that the bytes stay the same]
    #[arg(long, value_name = "SECONDS", env = "SOURCE_DATE_EPOCH", allow_negative_numbers = true)]
    pub creation_date: Option<i64>,
    /// Overwrite the output
    #[arg(short, long)]
    pub force: bool,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

/// Makes the torrent and says what it is. Nothing is left behind when it fails or is interrupted.
///
/// # Errors
/// One line that says what stands in the way.
pub fn run(args: Args) -> anyhow::Result<()> {
    let json = args.json;
    let (output, metainfo, total) = make(args)?;
    report(&output, &metainfo, total, json)
}

/// Makes the torrent: where it lies, what it is, the bytes of its content.
pub(super) fn make(args: Args) -> anyhow::Result<(PathBuf, Metainfo, u64)> {
    let trackers = args.announce.iter().map(|tier| split_tier(tier)).collect::<Result<Vec<_>, _>>()?;
    let name = match &args.name {
        Some(name) => {
            check_name(name.as_bytes()).map_err(|error| UsageError(format!("--name {}: {error}", safe(name))))?;
            name.clone().into_bytes()
        }
        None => name_of(&args.path)?,
    };
    let output = match &args.output {
        Some(output) => output.clone(),
        None => PathBuf::from(OsStr::from_bytes(&[name.as_slice(), b".torrent"].concat())),
    };
    let old = match fs::symlink_metadata(&output) {
        Ok(_) if !args.force => bail!("{}: exists already; overwrite it with --force", shown(&output)),
        Ok(old) if old.is_dir() => bail!("{}: is a directory; name a file with --output", shown(&output)),
        Ok(old) => Some((old.dev(), old.ino())),
        Err(_) => None,
    };

    let tree = walk(&args.path, old)?;
    let total: u64 = tree.entries.iter().map(TreeEntry::length).sum();
    if total == 0 {
        bail!("{}: there is nothing to share: no file in it has content", shown(&args.path));
    }
    let piece_length = args.piece_length.unwrap_or_else(|| piece_length_for(total));
    if total.div_ceil(u64::from(piece_length)) > MAX_PIECES {
        let advice = round_size(piece_length_for(total));
        bail!("pieces of {} would be too many; try --piece-length {advice}", round_size(piece_length));
    }
    let stop = stop_on_signal()?;
    let pieces = hash(&tree, piece_length, total, &stop)?;
    let torrent = NewTorrent {
        name,
        single_file: tree.single_file,
        entries: tree.entries.into_iter().map(new_entry).collect(),
        piece_length,
        pieces,
        private: args.private,
        trackers,
        web_seeds: args.web_seeds,
        comment: args.comment,
        created_by: Some("btfs".to_owned()),
        creation_date: args.creation_date,
        source: args.source,
    };
    let (bytes, metainfo) = torrent.write().map_err(|error| anyhow!("{}: {error}", shown(&args.path)))?;
    super::torrents::warn(&shown(&output), &metainfo);
    write_whole(&output, &bytes, args.force)?;
    Ok((output, metainfo, total))
}

/// Reads and hashes everything, with a progress bar where a person looks on.
fn hash(tree: &Tree, piece_length: u32, total: u64, stop: &AtomicBool) -> anyhow::Result<Vec<u8>> {
    let specs: Vec<_> = tree.entries.iter().map(|entry| FileSpec { length: entry.length(), padding: false }).collect();
    let layout = Layout::new(piece_length, &specs)?;
    // Draws nothing when standard error is no terminal.
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    bar.set_style(ProgressStyle::with_template(BAR).expect("the template is a constant"));
    let progress = |bytes| bar.inc(bytes);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let pieces = hash_pieces(&tree.entries, &layout, &Hashing { threads, progress: &progress, stop });
    bar.finish_and_clear();
    Ok(pieces?)
}

fn new_entry(entry: TreeEntry) -> NewEntry {
    match entry.kind {
        TreeEntryKind::File { length, executable, .. } => {
            NewEntry { path: entry.path, length, executable, target: None }
        }
        TreeEntryKind::Symlink { target } => {
            NewEntry { path: entry.path, length: 0, executable: false, target: Some(target) }
        }
    }
}

/// Writes a file that is there wholly or not at all.
fn write_whole(path: &Path, bytes: &[u8], overwrite: bool) -> anyhow::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let temporary = directory.join(format!(".btfs-create-{}.tmp", std::process::id()));
    let written = write_temporary(&temporary, bytes).and_then(|()| match overwrite {
        true => fs::rename(&temporary, path),
        // A link fails where a file has come into being meanwhile; a file system without links gets a rename.
        false => match fs::hard_link(&temporary, path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(error),
            Err(_) => fs::rename(&temporary, path),
            Ok(()) => fs::remove_file(&temporary),
        },
    });
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written.with_context(|| shown(path))
}

fn write_temporary(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn report(output: &Path, metainfo: &Metainfo, total: u64, json: bool) -> anyhow::Result<()> {
    let info_hash = metainfo.info_hash.map(|hash| hash.to_string()).unwrap_or_default();
    let layout = &metainfo.layout;
    let text = match json {
        true => serde_json::json!({
            "path": output.to_string_lossy(),
            "info_hash": info_hash,
            "name": String::from_utf8_lossy(&metainfo.name),
            "file_count": metainfo.entries.len(),
            "size_bytes": total,
            "piece_length": layout.piece_length(),
            "piece_count": layout.piece_count(),
        })
        .to_string(),
        false => format!(
            "{}: {}, {}, {} pieces of {}\ninfo-hash {info_hash}",
            shown(output),
            safe(&metainfo.name),
            Bytes(total),
            layout.piece_count(),
            round_size(layout.piece_length()),
        ),
    };
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// A flag that the first SIGINT or SIGTERM sets: hashing looks at it, and nothing is left behind. A second one ends the
/// process, for disks that do not answer.
pub(super) fn stop_on_signal() -> anyhow::Result<Arc<AtomicBool>> {
    use tokio::signal::unix::{SignalKind, signal};
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let (mut interrupt, mut terminate) = {
        let _context = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    // Ends with the process.
    std::thread::spawn(move || {
        runtime.block_on(async {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if flag.swap(true, Ordering::Relaxed) {
                    super::exit::at_once(super::exit::FAILED);
                }
            }
        });
    });
    Ok(stop)
}

/// The name of a path as the user sees it; of `.`, `..` and `/` that of the directory they stand for.
fn name_of(path: &Path) -> anyhow::Result<Vec<u8>> {
    let whole = fs::canonicalize(path).with_context(|| shown(path))?;
    let name = path.file_name().or(whole.file_name()).ok_or_else(|| UsageError("name it with --name".to_owned()))?;
    Ok(name.to_owned().into_vec())
}

/// The trackers of one tier: what stands between commas, except for commas inside a URL.
fn split_tier(tier: &str) -> Result<Vec<String>, UsageError> {
    let mut urls: Vec<String> = Vec::new();
    for part in tier.split(',') {
        match urls.last_mut() {
            Some(last) if !part.contains("://") => last.extend([",", part]),
            _ => urls.push(part.to_owned()),
        }
    }
    match urls.iter().find(|url| tracker_scheme(url).is_none()) {
        Some(url) => Err(UsageError(format!("{}: no tracker URL; it needs http, https or udp, and a host", safe(url)))),
        None => Ok(urls),
    }
}

fn web_url(text: &str) -> Result<String, String> {
    match text.starts_with("http") && tracker_scheme(text).is_some() {
        true => Ok(text.to_owned()),
        false => Err("web seeds need an http or https URL".to_owned()),
    }
}

fn piece_length(text: &str) -> Result<u32, String> {
    let bytes = parse_bytes(text).map_err(|error| error.to_string())?;
    let fits = bytes.is_power_of_two() && (16 << 10..=64 << 20).contains(&bytes);
    fits.then_some(bytes as u32).ok_or_else(|| "expected a power of two from 16K to 64M".to_owned())
}

fn shown(path: &Path) -> String {
    safe(path.as_os_str().as_bytes())
}

/// More would make a torrent that nobody takes: their hashes alone have 40 MB.
const MAX_PIECES: u64 = 2_000_000;

pub(super) const BAR: &str =
    "{bar:30} {percent:>3} %  {binary_bytes} of {binary_total_bytes}  {binary_bytes_per_sec}  {eta} left";
