//! One torrent: its page, its file, and both as JSON says it.

use std::collections::BTreeMap;

use askama::Template;
use axum::extract::{Extension, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::http::{HeaderValue, Uri};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::chart::{Chart, Line};
use super::error::PageError;
use super::guard::Authority;
use super::view::{self, shown};
use super::{Shown, Site, SiteState, turn};
use crate::base::Date;
use crate::base::size::Bytes;
use crate::proto::metainfo::{EntryKind, Metainfo};
use crate::tracker::Refusal;
use crate::tracker::index::{Details, Health, IndexError, Sample, TorrentName};

/// `/torrent/HASH` is the page, `/torrent/HASH.torrent` the file, `/torrent/HASH.json` for programs.
pub(super) async fn any(State(site): SiteState, Extension(authority): Extension<Authority>, uri: Uri) -> Shown {
    let name = uri.path().strip_prefix("/torrent/").unwrap_or_default();
    let (hash, kind) = name.split_once('.').unwrap_or((name, ""));
    let hash: TorrentName = hash.to_ascii_lowercase().parse().map_err(|_| PageError::NotFound)?;
    let make: fn(&Site, Details, &str, &'static str) -> Result<Response, IndexError> = match kind {
        "" => page,
        "torrent" => |_, details, _, _| Ok(file(details)),
        "json" => json,
        _ => return Err(PageError::NotFound),
    };
    if site.tracker().access.judge_lists(&hash.announced()) == Err(Refusal::Denied) {
        return Err(Refusal::Denied.into());
    }
    let notice = notice(uri.query().unwrap_or_default());
    let base = view::base(site.config(), &authority);
    let length = site.ask(move |site| site.index().file_bytes(&hash)).await?.ok_or(PageError::NotFound)?;
    // Nobody waits with a file in memory, and of long ones only one is read.
    let turn = if length > LONG_BYTES { Some(turn(&site.0.long).await?) } else { None };
    let made = site.ask(move |site| {
        let _turn = turn;
        match site.index().details(&hash)? {
            Some(details) => make(site, details, &base, notice).map(Some),
            None => Ok(None),
        }
    });
    made.await?.ok_or(PageError::NotFound)
}

/// The `.torrent` file, byte for byte as it was uploaded.
fn file(details: Details) -> Response {
    let disposition = format!("attachment; filename=\"{}.torrent\"", details.hashes);
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/x-bittorrent")),
        (CONTENT_DISPOSITION, HeaderValue::from_str(&disposition).unwrap_or(HeaderValue::from_static("attachment"))),
        // Named by its hash: it never changes.
        (CACHE_CONTROL, HeaderValue::from_static("public, max-age=86400")),
    ];
    (headers, details.bytes).into_response()
}

#[derive(Template)]
#[template(path = "torrent.html", config = "src/tracker/web/askama.toml")]
struct TorrentPage {
    name: String,
    /// After an upload: what became of it.
    notice: &'static str,
    hash: String,
    facts: Vec<(&'static str, String, bool)>,
    private: bool,
    hybrid: bool,
    v2_only: bool,
    state: &'static str,
    seeds: String,
    leechers: String,
    completed: String,
    /// As peers say.
    moved: String,
    chart: String,
    magnet: String,
    mount: String,
    comment: String,
    trackers: Vec<String>,
    web_seeds: Vec<String>,
    tree: Vec<Branch>,
    file_count: String,
    files_left_out: String,
    warnings: Vec<String>,
}

/// What is said after an upload.
fn notice(query: &str) -> &'static str {
    match query {
        "uploaded=new" => "Your torrent is in the index now.",
        "uploaded=known" => "This torrent was in the index before; what your file knows of trackers is joined to it.",
        _ => "",
    }
}

fn page(site: &Site, details: Details, base: &str, notice: &'static str) -> Result<Response, IndexError> {
    let now = view::now();
    let metainfo = Metainfo::parse(&details.bytes)?;
    let health = details.hashes.health(&site.tracker().store);
    let history = site.index().history(details.id, now - CHART_SECONDS)?;
    let (uploaded, downloaded) = moved(&details, site);
    let moved = match uploaded.max(downloaded) {
        0 => String::new(),
        _ => format!("Peers say that they have sent {} of it and received {}.", Bytes(uploaded), Bytes(downloaded)),
    };
    let page = TorrentPage::of(&details, &metainfo, health, &history, base, now);
    Ok(view::html(&TorrentPage { notice, moved, ..page }))
}

fn json(site: &Site, details: Details, base: &str, _: &'static str) -> Result<Response, IndexError> {
    let health = details.hashes.health(&site.tracker().store);
    let (announced_uploaded_bytes, announced_downloaded_bytes) = moved(&details, site);
    let torrent = JsonTorrent::of(&details, health, base)?;
    Ok(view::json(&JsonTorrent { announced_uploaded_bytes, announced_downloaded_bytes, ..torrent }))
}

/// Bytes that peers say they have sent and received, in both swarms of the torrent.
fn moved(details: &Details, site: &Site) -> (u64, u64) {
    let swarms = details.hashes.announced().map(|hash| site.tracker().store.scrape(&hash));
    swarms.fold((0, 0), |(uploaded, downloaded): (u64, u64), swarm| {
        (uploaded.saturating_add(swarm.uploaded), downloaded.saturating_add(swarm.downloaded))
    })
}

impl TorrentPage {
    fn of(details: &Details, metainfo: &Metainfo, health: Health, history: &[Sample], base: &str, now: i64) -> Self {
        let files: Vec<_> = files(metainfo).collect();
        let size_bytes = files.iter().map(|file| file.size_bytes).sum();
        let shown_files = shown_files(&files);
        let title = String::from_utf8_lossy(&metainfo.name);
        let hashes = details.hashes;
        Self {
            name: shown(&title),
            notice: "",
            hash: hashes.to_string(),
            facts: facts(details, metainfo, size_bytes, now),
            private: metainfo.private,
            hybrid: hashes.v1.is_some() && hashes.v2.is_some(),
            v2_only: hashes.v1.is_none(),
            state: view::state(health),
            seeds: view::count(health.seeds as u64),
            leechers: view::count(health.leechers as u64),
            completed: view::count(health.completed),
            moved: String::new(),
            chart: chart(history, health, now),
            magnet: view::magnet(&hashes, &title, size_bytes, &details.trackers),
            mount: format!("btfs mount {base}/torrent/{hashes}.torrent ~/mnt"),
            comment: shown_lines(metainfo.comment.as_deref().unwrap_or_default(), MAX_COMMENT_BYTES),
            trackers: details.trackers.iter().map(|url| shown(url)).collect(),
            web_seeds: details.web_seeds.iter().map(|url| shown(url)).collect(),
            file_count: view::count(files.len() as u64),
            files_left_out: match files.len() - shown_files {
                0 => String::new(),
                more => view::count(more as u64),
            },
            tree: tree(files.into_iter().take(shown_files)),
            warnings: metainfo.warnings.clone(),
        }
    }
}

/// What is known of it: a word, a text, and whether that is for machines.
fn facts(details: &Details, metainfo: &Metainfo, size: u64, now: i64) -> Vec<(&'static str, String, bool)> {
    let layout = &metainfo.layout;
    let piece = Bytes(u64::from(layout.piece_length()));
    let mut facts = vec![
        ("Size", format!("{} ({} bytes)", Bytes(size), view::count(size)), false),
        ("Pieces", format!("{} of {piece}", view::count(layout.piece_count() as u64)), false),
        ("Added", format!("{}, {}", view::ago(details.added, now), Date(details.added).day()), false),
    ];
    let text = |text: &Option<String>| text.as_deref().map(shown);
    facts.extend(metainfo.creation_date.map(|date| ("Created", Date(date).to_string(), false)));
    facts.extend(text(&metainfo.created_by).map(|by| ("Created by", by, false)));
    facts.extend(text(&metainfo.source).map(|source| ("Source", source, false)));
    facts.extend(details.hashes.v1.map(|hash| ("Info-hash", hash.to_string(), true)));
    facts.extend(details.hashes.v2.map(|hash| ("Info-hash v2", hash.to_string(), true)));
    facts
}

fn chart(history: &[Sample], health: Health, now: i64) -> String {
    if history.is_empty() && health == Health::default() {
        return String::new();
    }
    let points = |of: fn(&Sample) -> u64, last: usize| {
        let mut points: Vec<_> = history.iter().map(|sample| (sample.time, of(sample))).collect();
        points.push((now, last as u64));
        points
    };
    let lines = [
        Line { name: "Seeds", class: "seeds", points: points(|sample| sample.seeds, health.seeds) },
        Line { name: "Leechers", class: "leechers", points: points(|sample| sample.leechers, health.leechers) },
    ];
    Chart { title: "Seeds and leechers of the last seven days", from: now - CHART_SECONDS, to: now, lines: &lines }
        .svg()
}

/// A comment has lines of its own.
fn shown_lines(text: &str, limit: usize) -> String {
    let end = (0..=limit.min(text.len())).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    let mut lines: Vec<_> = text[..end].lines().map(shown).collect();
    if end < text.len() {
        lines.push("…".to_owned());
    }
    lines.join("\n")
}

/// How many files a page shows: fewer where their paths are long, or are of many directories each.
fn shown_files(files: &[FileLine]) -> usize {
    let weight = |file: &FileLine| file.path.len() + file.path.matches('/').count() * BYTES_OF_A_DIRECTORY;
    let weights = files.iter().scan(0, |sum: &mut usize, file| {
        *sum += weight(file);
        Some(*sum)
    });
    weights.take_while(|&sum| sum <= MAX_TREE_BYTES).count().min(MAX_FILES_SHOWN)
}

struct FileLine {
    path: String,
    size_bytes: u64,
    target: Option<String>,
}

/// What a mount would show.
fn files(metainfo: &Metainfo) -> impl Iterator<Item = FileLine> {
    metainfo.entries.iter().zip(metainfo.layout.files()).filter_map(|(entry, file)| {
        let target = match &entry.kind {
            EntryKind::Padding => return None,
            EntryKind::File { .. } => None,
            EntryKind::Symlink { target } => Some(String::from_utf8_lossy(target).into_owned()),
        };
        let path = String::from_utf8_lossy(&entry.path).into_owned();
        Some(FileLine { path, size_bytes: metainfo.layout.file_bytes(file), target })
    })
}

/// The tree, written out: a directory opens, its entries follow, it closes.
enum Branch {
    Open { name: String, size: String, open: bool },
    File { name: String, size: String },
    Close,
}

#[derive(Default)]
struct Directory {
    directories: BTreeMap<String, Directory>,
    files: BTreeMap<String, FileLine>,
    size_bytes: u64,
}

fn tree(files: impl Iterator<Item = FileLine>) -> Vec<Branch> {
    let mut root = Directory::default();
    for file in files {
        let mut directory = &mut root;
        let path = file.path.clone();
        let (above, name) = path.rsplit_once('/').unwrap_or(("", &path));
        directory.size_bytes += file.size_bytes;
        // At most MAX_PATH_COMPONENTS.
        for part in above.split('/').filter(|part| !part.is_empty()) {
            directory = directory.directories.entry(part.to_owned()).or_default();
            directory.size_bytes += file.size_bytes;
        }
        directory.files.insert(name.to_owned(), file);
    }
    let mut out = Vec::new();
    root.write(&mut out, 0);
    out
}

impl Directory {
    fn write(&self, out: &mut Vec<Branch>, depth: usize) {
        for (name, directory) in &self.directories {
            let (name, size) = (shown(name), Bytes(directory.size_bytes).to_string());
            out.push(Branch::Open { name, size, open: depth < 2 });
            directory.write(out, depth + 1);
            out.push(Branch::Close);
        }
        for (name, file) in &self.files {
            let size = match &file.target {
                Some(target) => format!("link to {}", shown(target)),
                None => Bytes(file.size_bytes).to_string(),
            };
            out.push(Branch::File { name: shown(name), size });
        }
    }
}

/// What programs get; fields are only ever added.
#[derive(Debug, Serialize)]
struct JsonTorrent {
    info_hash: Option<String>,
    info_hash_v2: Option<String>,
    name: String,
    size_bytes: u64,
    piece_length: u32,
    piece_count: usize,
    private: bool,
    added: String,
    comment: Option<String>,
    created_by: Option<String>,
    creation_date: Option<i64>,
    seeds: usize,
    leechers: usize,
    completed: u64,
    announced_uploaded_bytes: u64,
    announced_downloaded_bytes: u64,
    trackers: Vec<String>,
    web_seeds: Vec<String>,
    torrent: String,
    magnet: String,
    files: Vec<JsonFile>,
}

#[derive(Debug, Serialize)]
struct JsonFile {
    path: String,
    size_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
}

impl JsonTorrent {
    fn of(details: &Details, health: Health, base: &str) -> Result<Self, crate::proto::metainfo::MetainfoError> {
        let metainfo = Metainfo::parse(&details.bytes)?;
        let hashes = details.hashes;
        let name = String::from_utf8_lossy(&metainfo.name).into_owned();
        let file = |file: FileLine| JsonFile { path: file.path, size_bytes: file.size_bytes, target: file.target };
        let files: Vec<_> = files(&metainfo).map(file).collect();
        let size_bytes = files.iter().map(|file| file.size_bytes).sum();
        Ok(Self {
            info_hash: hashes.v1.map(|hash| hash.to_string()),
            info_hash_v2: hashes.v2.map(|hash| hash.to_string()),
            magnet: view::magnet(&hashes, &name, size_bytes, &details.trackers),
            name,
            size_bytes,
            piece_length: metainfo.layout.piece_length(),
            piece_count: metainfo.layout.piece_count(),
            private: metainfo.private,
            added: Date(details.added).rfc3339(),
            comment: metainfo.comment,
            created_by: metainfo.created_by,
            creation_date: metainfo.creation_date,
            seeds: health.seeds,
            leechers: health.leechers,
            completed: health.completed,
            announced_uploaded_bytes: 0,
            announced_downloaded_bytes: 0,
            trackers: details.trackers.clone(),
            web_seeds: details.web_seeds.clone(),
            torrent: format!("{base}/torrent/{hashes}.torrent"),
            files,
        })
    }
}

const CHART_SECONDS: i64 = 7 * 86_400;
/// The page of a torrent with a hundred thousand files would be of use to nobody; JSON has them all.
const MAX_FILES_SHOWN: usize = 2000;
const MAX_TREE_BYTES: usize = 512 << 10;
/// What opens and closes one takes about as many.
const BYTES_OF_A_DIRECTORY: usize = 100;
const MAX_COMMENT_BYTES: usize = 16 << 10;
/// Longer `.torrent` files are read and shown one at a time: in memory they are many times as long.
const LONG_BYTES: u64 = 1 << 20;
