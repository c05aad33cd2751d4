//! `btfs verify`: compares data with what a torrent says: somebody's files, or what the cache holds of it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use anyhow::{anyhow, bail};
use clap::ValueHint;
use serde::Serialize;

use super::exit::UsageError;
use super::get::choice::shown;
use super::text::{complain, safe, safe_json, say};
use super::torrents::{self, Named};
use super::{args, create, exit, interrupt, paths};
use crate::base::size::Bytes;
use crate::base::{FileIndex, PieceIndex};
use crate::proto::metainfo::{EntryKind, Metainfo};
use crate::storage::scan::{Finding, Findings, Hashing, ScanError, check_files, each_piece};
use crate::storage::{Adopt, CacheDir, PieceHashes, Store, TorrentFiles, Verdict};

/// What can stand after `btfs verify`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The .torrent file
    #[arg(value_name = "TORRENT", value_hint = ValueHint::FilePath)]
    pub torrent: OsString,
    /// The file or directory that holds its content, or the directory that holds that one [default: what the cache holds
    /// of the torrent, where what is wrong is forgotten, so that the next mount fetches it again]
    #[arg(value_name = "DATA", value_hint = ValueHint::AnyPath)]
    pub data: Option<PathBuf>,
    /// The cache directory [default: that of `btfs mount`]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, conflicts_with = "data")]
    pub cache_dir: Option<PathBuf>,
    /// Print one line of JSON instead of text
    #[arg(long)]
    pub json: bool,
}

/// Compares; 0 when everything that is there is right and, with DATA, everything is there.
pub(crate) fn run(args: &Args) -> anyhow::Result<i32> {
    let metainfo = match torrents::load(&args.torrent)? {
        Named::Parsed(metainfo) => metainfo,
        Named::Url(url) => return Err(UsageError(format!("{}: name a file, not a URL", safe(url))).into()),
    };
    let stop = interrupt::stop_on_signal(None)?;
    let outcome = match &args.data {
        Some(data) => verify_files(args, &metainfo, data, &stop),
        None => verify_cache(args, &metainfo, &stop),
    };
    match outcome {
        Err(error)
            if error.downcast_ref::<ScanError>().is_some_and(|error| matches!(error, ScanError::Interrupted)) =>
        {
            complain("interrupted");
            Ok(exit::INTERRUPTED)
        }
        other => other,
    }
}

fn verify_files(args: &Args, metainfo: &Metainfo, data: &PathBuf, stop: &AtomicBool) -> anyhow::Result<i32> {
    std::fs::metadata(data).map_err(|error| anyhow!("{}: {error}", safe(data.as_os_str().as_bytes())))?;
    let hashes = PieceHashes::V1(metainfo.piece_hashes.clone());
    let files = Adopt::find(metainfo, data);
    let found = create::with_bar(metainfo.layout.total_bytes(), stop, true, |hashing| {
        check_files(&metainfo.layout, &hashes, files, hashing)
    })?;
    let report = Report::of_files(metainfo, data.to_string_lossy().into_owned(), &found);
    report.print(args.json)?;
    Ok(if report.good { exit::OK } else { exit::FAILED })
}

fn verify_cache(args: &Args, metainfo: &Metainfo, stop: &AtomicBool) -> anyhow::Result<i32> {
    let path = match &args.cache_dir {
        Some(path) => std::path::absolute(path)?,
        None => paths::cache_dir().ok_or_else(|| anyhow!(args::NO_CACHE))?,
    };
    let info_hash = metainfo.info_hash.ok_or_else(|| anyhow!("the torrent has no v1 info-hash"))?;
    // Looking makes no directory.
    let slots = if path.is_dir() { CacheDir::open(&path)?.slots()? } else { Vec::new() };
    let slots: Vec<_> = slots.into_iter().filter(|slot| slot.info_hash == info_hash && !slot.adopted).collect();
    if slots.is_empty() {
        bail!("{}: nothing of it is in the cache {}", safe(&metainfo.name), safe(path.as_os_str().as_bytes()));
    }
    let cache = CacheDir::open(&path)?;
    let mut good = true;
    for slot in slots {
        let place = path.join(&slot.name);
        if let Some(owner) = &slot.owner {
            let place = safe(place.as_os_str().as_bytes());
            complain(format_args!("{place}: in use by {}; unmount it first", safe(owner)));
            good = false;
            continue;
        }
        let files = TorrentFiles {
            info_hash,
            layout: metainfo.layout.clone(),
            hashes: PieceHashes::V1(metainfo.piece_hashes.clone()),
            info: metainfo.info.clone(),
        };
        let opened = Store::open_slot(&cache, &slot.name, files)?;
        let (store, layout) = (opened.store, &metainfo.layout);
        let doubtful = store.doubt();
        let bytes = doubtful.iter().map(|piece| u64::from(layout.piece_bytes(piece))).sum();
        let found = create::with_bar(bytes, stop, true, |hashing| {
            let quiet = Hashing { progress: &|_| {}, ..*hashing };
            each_piece(layout, &quiet, |piece| {
                if opened.gone.has(piece) {
                    return Finding::Bad;
                }
                if !doubtful.has(piece) {
                    return Finding::Missing;
                }
                (hashing.progress)(layout.piece_bytes(piece).into());
                match store.check(piece) {
                    Ok(Verdict::Verified) => Finding::Good,
                    Ok(_) => Finding::Bad,
                    Err(error) => {
                        tracing::debug!(%error, piece = piece.raw(), "cannot be checked");
                        Finding::Bad
                    }
                }
            })
        });
        // Also when interrupted: what was not checked again stays in doubt, and is checked before it is used.
        store.close()?;
        let report = Report::of_slot(metainfo, place.to_string_lossy().into_owned(), &found?);
        report.print(args.json)?;
        good &= report.good;
    }
    Ok(if good { exit::OK } else { exit::FAILED })
}

/// What was found, as `--json` prints it; fields are only ever added.
#[derive(Debug, Serialize)]
struct Report {
    name: String,
    info_hash: String,
    /// The data, or the slot.
    place: String,
    /// It is a slot of the cache: what was bad is forgotten, what is missing was never fetched.
    cache: bool,
    good: bool,
    pieces: usize,
    good_pieces: usize,
    bad_pieces: usize,
    missing_pieces: usize,
    /// All of them.
    files: Vec<FileReport>,
}

#[derive(Debug, Serialize)]
struct FileReport {
    #[serde(skip)]
    file: FileIndex,
    /// As `btfs show` has it.
    number: usize,
    path: String,
    size_bytes: u64,
    state: State,
    /// What it is long, where that is not what it should be.
    found_bytes: Option<u64>,
    bad_pieces: Vec<u32>,
}

/// What a file turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// Every byte is right.
    Good,
    /// Some of it is not here (of a slot: was not fetched), the rest is right.
    Partial,
    /// Some of it is not right.
    Wrong,
    /// There is no such file, or nothing of it.
    Missing,
    /// Its own pieces are right, but it shares one with a file that is wrong or missing, so that nobody can tell.
    Unproven,
}

impl Report {
    /// Of files that have to be complete.
    fn of_files(metainfo: &Metainfo, place: String, found: &Findings) -> Self {
        let layout = &metainfo.layout;
        let lengths = |file: FileIndex| found.lengths[file.at()];
        // First what is certain: files that are not there, of the wrong length, or with a bad piece of their own.
        let mut states: BTreeMap<FileIndex, State> = BTreeMap::new();
        for (_, file, _) in shown(metainfo).filter(|(.., entry)| matches!(entry.kind, EntryKind::File { .. })) {
            let own = |piece: PieceIndex| others(metainfo, piece, file).next().is_none();
            let mut pieces = layout.pieces_of(file, 0, u64::MAX).iter();
            let state = match lengths(file) {
                None => State::Missing,
                Some(length) if length != layout.file_bytes(file) => State::Wrong,
                _ if pieces.any(|piece| found.pieces[piece.at()] != Finding::Good && own(piece)) => State::Wrong,
                _ => State::Good,
            };
            states.insert(file, state);
        }
        // Then shared pieces: with somebody who is wrong anyway nobody else is to blame.
        let certain = states.clone();
        for (&file, state) in states.iter_mut().filter(|(_, state)| **state == State::Good) {
            let shared = layout.pieces_of(file, 0, u64::MAX);
            for piece in shared.iter().filter(|piece| found.pieces[piece.at()] != Finding::Good) {
                let excuse = others(metainfo, piece, file).any(|other| certain.get(&other) != Some(&State::Good));
                *state = if excuse && *state != State::Wrong { State::Unproven } else { State::Wrong };
            }
        }
        let mut report = Self::new(metainfo, place, &found.pieces, |file, _| states[&file]);
        for file in &mut report.files {
            file.found_bytes = lengths(file.file).filter(|&length| length != file.size_bytes);
        }
        report.good = report.files.iter().all(|file| file.state == State::Good);
        report
    }

    /// Of a slot, which may lack anything.
    fn of_slot(metainfo: &Metainfo, place: String, found: &[Finding]) -> Self {
        let state = |_, pieces: &[Finding]| {
            let any = |wanted| pieces.contains(&wanted);
            match (any(Finding::Bad), any(Finding::Missing), any(Finding::Good)) {
                (true, ..) => State::Wrong,
                (false, true, true) => State::Partial,
                (false, true, false) => State::Missing,
                (false, false, _) => State::Good,
            }
        };
        let mut report = Self::new(metainfo, place, found, state);
        report.cache = true;
        report.good = report.bad_pieces == 0;
        report
    }

    fn new(
        metainfo: &Metainfo,
        place: String,
        found: &[Finding],
        state: impl Fn(FileIndex, &[Finding]) -> State,
    ) -> Self {
        let files = shown(metainfo).filter(|(.., entry)| matches!(entry.kind, EntryKind::File { .. }));
        let files = files.map(|(number, file, entry)| {
            let pieces: Vec<_> = metainfo.layout.pieces_of(file, 0, u64::MAX).iter().collect();
            let findings: Vec<_> = pieces.iter().map(|piece| found[piece.at()]).collect();
            let bad = pieces.iter().zip(&findings).filter(|(_, finding)| **finding == Finding::Bad);
            FileReport {
                file,
                number,
                path: String::from_utf8_lossy(&entry.path).into_owned(),
                size_bytes: metainfo.layout.file_bytes(file),
                state: state(file, &findings),
                found_bytes: None,
                bad_pieces: bad.map(|(piece, _)| piece.raw()).collect(),
            }
        });
        let count = |wanted| found.iter().filter(|&&finding| finding == wanted).count();
        Self {
            name: String::from_utf8_lossy(&metainfo.name).into_owned(),
            info_hash: metainfo.info_hash.map(|hash| hash.to_string()).unwrap_or_default(),
            place,
            cache: false,
            good: false,
            pieces: found.len(),
            good_pieces: count(Finding::Good),
            bad_pieces: count(Finding::Bad),
            missing_pieces: count(Finding::Missing),
            files: files.collect(),
        }
    }

    /// On standard output: what is not as it should be, a line each, and a summary.
    fn print(&self, json: bool) -> anyhow::Result<()> {
        if json {
            say(safe_json(&serde_json::to_string(self)?));
            return Ok(());
        }
        for file in &self.files {
            let path = safe(&file.path);
            let bad = match file.bad_pieces.len() {
                0 => String::new(),
                1 => format!(" (piece {})", file.bad_pieces[0]),
                count => format!(" ({count} pieces)"),
            };
            match (file.state, file.found_bytes) {
                (State::Wrong, Some(found)) => {
                    say(format_args!("wrong     {path} ({found} bytes instead of {})", file.size_bytes));
                }
                (State::Wrong, None) => say(format_args!("wrong     {path}{bad}")),
                (State::Missing, _) if !self.cache => say(format_args!("missing   {path}")),
                (State::Unproven, _) => {
                    say(format_args!("unproven  {path} (shares a piece with a file that is wrong or missing)"));
                }
                _ => {}
            }
        }
        let (name, place) = (safe(&self.name), safe(&self.place));
        let size = Bytes(self.files.iter().map(|file| file.size_bytes).sum());
        let count = |state| self.files.iter().filter(|file| file.state == state).count();
        let whole = self.files.len();
        match (self.cache, self.good) {
            (false, true) => say(format_args!("{name} ({size}, {whole} of {whole} files): all of it is right")),
            (false, false) => {
                say(format_args!("{name}: {} of {whole} files are right, as they lie in {place}", count(State::Good)));
            }
            (true, true) => {
                let (good, all) = (self.good_pieces, self.pieces);
                say(format_args!("{name}: {good} of {all} pieces are kept in {place}, and right"));
            }
            (true, false) => {
                let (bad, good) = (self.bad_pieces, self.good_pieces);
                let pieces = if bad == 1 {
                    "1 piece was wrong and is".to_owned()
                } else {
                    format!("{bad} pieces were wrong and are")
                };
                say(format_args!(
                    "{name}: {pieces} forgotten, {good} are right; the next mount fetches anew what it reads ({place})"
                ));
            }
        }
        Ok(())
    }
}

/// The other files that have bytes in a piece.
fn others(metainfo: &Metainfo, piece: PieceIndex, file: FileIndex) -> impl Iterator<Item = FileIndex> {
    let layout = &metainfo.layout;
    let spans = layout.spans(layout.piece_start(piece), layout.piece_bytes(piece).into());
    spans.filter(move |span| !span.padding && span.file != file).map(|span| span.file)
}

pub(super) const EXAMPLES: &str = "Examples:
  btfs verify films.torrent ~/films     are these the files of the torrent?
  btfs verify films.torrent             is what the cache holds of it still right? What is not is fetched anew when it is read

Exit status: 0 all is right (and with DATA all is there), 1 something is not, 2 wrong usage, 130 interrupted, 101 a bug.";
