//! Torrents come, are looked at, and go.

use std::collections::{BTreeSet, HashSet};
use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::catalog::{Catalog, Hashes, Listed};
use super::words::cut;
use super::{Index, IndexError, texts, unix, unsigned};
use crate::base::{InfoHash, InfoHashV2};
use crate::proto::metainfo::{EntryKind, Metainfo, MetainfoError};
use crate::tracker::Lists;

/// What became of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Added {
    /// Names the torrent, also in URLs.
    pub hashes: Hashes,
    /// It was not there before. Else its trackers and web seeds were joined to those that are known.
    pub new: bool,
    /// It is listed: the lists that count now let it in.
    pub shown: bool,
    /// What is odd about the file, a line each.
    pub warnings: Vec<String>,
}

/// All that the database has of one torrent, but for its history.
#[derive(Debug, Clone)]
pub struct Details {
    /// Names a row for good.
    pub id: i64,
    /// Its names.
    pub hashes: Hashes,
    /// Seconds since 1970.
    pub added: i64,
    /// The `.torrent` file as it was uploaded first.
    pub bytes: Bytes,
    /// Trackers of every file with this info-hash; without order.
    pub trackers: Vec<String>,
    /// Web seeds of every file with this info-hash.
    pub web_seeds: Vec<String>,
}

impl Index {
    /// Adds a `.torrent` file. One that is there already is joined: the bytes of the first stay, unknown trackers and web
    /// seeds are added to its own (but not to those of a private torrent, which must not mix). `uploader` is a note.
    ///
    /// # Errors
    /// [`IndexError::Torrent`] when it is none, [`IndexError::Refused`] when the operator does not let it in; else the database's trouble, and then nothing was added.
    pub fn add(&self, file: Bytes, uploader: Option<&str>, now: SystemTime) -> Result<Added, IndexError> {
        let mut upload = Upload::parse(file)?;
        self.lists().judge_all(upload.hashes.announced())?;
        let warnings = std::mem::take(&mut upload.warnings);
        let (uploader, added) = (uploader.map(str::to_owned), unix(now));
        let (new, listed) = self.write(move |connection| upload.add(connection, uploader.as_deref(), added))?;
        let shown = self.change_catalog(|catalog| catalog.add(listed));
        Ok(Added { hashes: listed.hashes, new, shown, warnings })
    }

    /// Everything of one torrent; `None`: it is not listed.
    ///
    /// # Errors
    /// The database's trouble.
    pub fn details(&self, hash: &TorrentName) -> Result<Option<Details>, IndexError> {
        let Some(id) = self.catalog(|catalog| catalog.id_of(&hash.announced())) else { return Ok(None) };
        self.read(|connection| {
            let sql =
                "SELECT id, hash_v1, hash_v2, size_bytes, added, bytes FROM torrents JOIN metainfo ON torrent = id
                       WHERE id = ?";
            let mut statement = connection.prepare_cached(sql)?;
            let found = statement.query_row([id], |row| Ok((listed(row)?, row.get::<_, Vec<u8>>(5)?))).optional()?;
            let Some((listed, bytes)) = found else { return Ok(None) };
            let mut sources =
                connection.prepare_cached("SELECT url, web FROM sources WHERE torrent = ? ORDER BY url")?;
            let (mut trackers, mut web_seeds) = (Vec::new(), Vec::new());
            for source in sources.query_map([id], |row| Ok((row.get(0)?, row.get(1)?)))? {
                let (url, web) = source?;
                if web { &mut web_seeds } else { &mut trackers }.push(url);
            }
            let Listed { hashes, added, .. } = listed;
            Ok(Some(Details { id, hashes, added, bytes: bytes.into(), trackers, web_seeds }))
        })
    }

    /// What a listed torrent is called; `None`: it is not listed. Does not block.
    pub fn hashes(&self, name: &TorrentName) -> Option<Hashes> {
        self.catalog(|catalog| Some(catalog.get(catalog.id_of(&name.announced())?)?.hashes))
    }

    /// How long the `.torrent` file of one torrent is, without reading it; `None`: it is not listed.
    ///
    /// # Errors
    /// The database's trouble.
    pub fn file_bytes(&self, name: &TorrentName) -> Result<Option<u64>, IndexError> {
        let Some(id) = self.catalog(|catalog| catalog.id_of(&name.announced())) else { return Ok(None) };
        self.read(|connection| {
            let mut statement = connection.prepare_cached("SELECT length(bytes) FROM metainfo WHERE torrent = ?")?;
            Ok(statement.query_row([id], |row| row.get(0)).optional()?.map(unsigned))
        })
    }

    /// Takes a torrent out, history and all; whether it was there.
    ///
    /// # Errors
    /// The database's trouble.
    pub fn remove(&self, hash: &TorrentName) -> Result<bool, IndexError> {
        let Some(id) = self.catalog(|catalog| catalog.id_of(&hash.announced())) else { return Ok(false) };
        self.write(move |connection| {
            connection.execute("DELETE FROM texts WHERE rowid = ?", [id])?;
            connection.execute("DELETE FROM torrents WHERE id = ?", [id])?;
            Ok(())
        })?;
        self.change_catalog(|catalog| catalog.remove(id));
        Ok(true)
    }

    /// Looks whether another process has changed what is listed.
    ///
    /// # Errors
    /// The database's trouble; then nothing changes here.
    pub fn refresh(&self) -> Result<Changes, IndexError> {
        let here = self.catalog(|catalog| catalog.extent());
        let there = self.read(|connection| {
            let sql = "SELECT count(*), ifnull(max(id), 0) FROM torrents";
            Ok(connection.prepare_cached(sql)?.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?)
        })?;
        // No id is used twice, so nothing comes and goes without one of them.
        if here == there {
            return Ok(Changes::default());
        }
        self.reload(None)
    }

    /// Has these lists count from now on: what they do not let in is shown no more, nor taken, but kept.
    ///
    /// # Errors
    /// The database's trouble; then nothing changes here.
    pub fn set_lists(&self, lists: Arc<Lists>) -> Result<Changes, IndexError> {
        self.reload(Some(lists))
    }

    fn reload(&self, lists: Option<Arc<Lists>>) -> Result<Changes, IndexError> {
        let index = self.clone();
        // By the thread that writes: nothing of ours comes between reading the list and taking it over.
        self.write(move |connection| {
            let fresh = load(connection, lists.unwrap_or_else(|| index.lists()))?;
            Ok(index.change_catalog(|catalog| {
                let old = catalog.announced();
                catalog.replace(fresh);
                let new = catalog.announced();
                Changes { come: new.difference(&old).copied().collect(), gone: old.difference(&new).copied().collect() }
            }))
        })
    }

    /// Both info-hashes of each hybrid torrent, as peers announce them, whether it is shown or not.
    ///
    /// # Errors
    /// The database's trouble.
    pub fn hybrids(&self) -> Result<Vec<(InfoHash, InfoHash)>, IndexError> {
        self.read(|connection| {
            let sql = "SELECT hash_v1, hash_v2 FROM torrents WHERE hash_v1 IS NOT NULL AND hash_v2 IS NOT NULL";
            let mut statement = connection.prepare_cached(sql)?;
            let all = statement.query_map([], |row| hashes(row, 0))?;
            Ok(all.filter_map(|hashes| hashes.map(|hashes| hashes.pair()).transpose()).collect::<Result<_, _>>()?)
        })
    }

    /// All info-hashes under which peers announce what is listed. Does not block.
    pub fn announced(&self) -> HashSet<InfoHash> {
        self.catalog(Catalog::announced)
    }
}

/// What is listed now and was not, and the other way round.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// As peers announce them: these are listed now.
    pub come: Vec<InfoHash>,
    /// And these no more.
    pub gone: Vec<InfoHash>,
}

/// How somebody names a torrent: 40 hexadecimal digits, or 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TorrentName {
    /// By its v1 info-hash, or by what peers announce of a v2 one.
    Short(InfoHash),
    /// By its v2 info-hash.
    Long(InfoHashV2),
}

impl TorrentName {
    pub(in crate::tracker) fn announced(self) -> InfoHash {
        match self {
            Self::Short(hash) => hash,
            Self::Long(hash) => InfoHash::from_slice(&hash.0[..20]).expect("20 of 32 bytes"),
        }
    }
}

/// A text that names no torrent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected an info-hash: 40 hexadecimal digits, or 64")]
pub struct NoTorrentName;

impl FromStr for TorrentName {
    type Err = NoTorrentName;

    fn from_str(text: &str) -> Result<Self, NoTorrentName> {
        text.parse().map(Self::Short).or_else(|_| text.parse().map(Self::Long)).map_err(|_| NoTorrentName)
    }
}

/// A `.torrent` file that can be added.
pub struct Upload {
    row: NewRow,
    hashes: Hashes,
    file: Bytes,
    warnings: Vec<String>,
}

impl Upload {
    /// Reads a file.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(file: Bytes) -> Result<Self, MetainfoError> {
        let metainfo = Metainfo::parse(&file)?;
        let (row, hashes) = (NewRow::of(&metainfo), hashes_of(&metainfo));
        Ok(Self { row, hashes, file, warnings: metainfo.warnings })
    }

    /// What it is.
    pub fn hashes(&self) -> &Hashes {
        &self.hashes
    }

    /// The file.
    pub fn bytes(&self) -> &Bytes {
        &self.file
    }

    /// Adds it, or joins it to what is there; whether it is new.
    pub(super) fn add(
        &self,
        connection: &Connection,
        uploader: Option<&str>,
        added: i64,
    ) -> Result<(bool, Listed), IndexError> {
        if let Some(known) = find(connection, &self.hashes)? {
            self.row.join(connection, known.id)?;
            return Ok((false, known));
        }
        let id = self.row.insert(connection, &self.hashes, &self.file, uploader, added)?;
        Ok((true, Listed { id, hashes: self.hashes, size_bytes: self.row.size_bytes, added }))
    }
}

/// What stands in the database of a torrent that comes.
struct NewRow {
    title: String,
    comment: String,
    paths: String,
    size_bytes: u64,
    file_count: usize,
    private: bool,
    trackers: BTreeSet<String>,
    web_seeds: BTreeSet<String>,
}

impl NewRow {
    fn of(metainfo: &Metainfo) -> Self {
        let title = String::from_utf8_lossy(&metainfo.name).into_owned();
        let (mut size_bytes, mut file_count) = (0, 0);
        for (entry, file) in metainfo.entries.iter().zip(metainfo.layout.files()) {
            if entry.kind == EntryKind::Padding {
                continue;
            }
            size_bytes += metainfo.layout.file_bytes(file);
            file_count += 1;
        }
        let sources = |urls: &mut dyn Iterator<Item = &String>| -> BTreeSet<String> {
            urls.filter(|url| url.len() <= MAX_URL_BYTES).take(MAX_SOURCES).cloned().collect()
        };
        Self {
            title,
            comment: cut(metainfo.comment.as_deref().unwrap_or_default(), MAX_COMMENT_BYTES).to_owned(),
            paths: texts::paths_of(metainfo),
            size_bytes,
            file_count,
            private: metainfo.private,
            trackers: sources(&mut metainfo.trackers.iter().flatten()),
            web_seeds: sources(&mut metainfo.web_seeds.iter()),
        }
    }

    fn insert(
        &self,
        connection: &Connection,
        hashes: &Hashes,
        file: &[u8],
        uploader: Option<&str>,
        added: i64,
    ) -> Result<i64, IndexError> {
        let (v1, v2) = (hashes.v1.map(|hash| hash.0), hashes.v2.map(|hash| hash.0));
        connection
            .prepare_cached(
                "INSERT INTO torrents (hash_v1, hash_v2, title, comment, size_bytes, file_count, private, added, uploader)
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            )?
            .execute(params![
                v1,
                v2,
                self.title,
                self.comment,
                self.size_bytes as i64,
                self.file_count as i64,
                self.private,
                added,
                uploader
            ])?;
        let id = connection.last_insert_rowid();
        connection.prepare_cached("INSERT INTO metainfo (torrent, bytes) VALUES (?, ?)")?.execute(params![id, file])?;
        texts::insert(connection, id, &self.title, &self.paths, &self.comment)?;
        self.insert_sources(connection, id)?;
        Ok(id)
    }

    /// Joins what this file knows to a torrent that is there.
    fn join(&self, connection: &Connection, id: i64) -> Result<(), IndexError> {
        let known: i64 =
            connection.query_row("SELECT count(*) FROM sources WHERE torrent = ?", [id], |row| row.get(0))?;
        if self.private || known >= MAX_SOURCES as i64 {
            return Ok(());
        }
        self.insert_sources(connection, id)
    }

    fn insert_sources(&self, connection: &Connection, id: i64) -> Result<(), IndexError> {
        let sql = "INSERT OR IGNORE INTO sources (torrent, url, web) VALUES (?, ?, ?)";
        let mut statement = connection.prepare_cached(sql)?;
        let trackers = self.trackers.iter().map(|url| (url, false));
        for (url, web) in trackers.chain(self.web_seeds.iter().map(|url| (url, true))) {
            statement.execute(params![id, url, web])?;
        }
        Ok(())
    }
}

/// Everything that is listed.
pub(super) fn load(connection: &Connection, lists: Arc<Lists>) -> Result<Catalog, IndexError> {
    let mut catalog = Catalog::new(lists);
    let mut statement =
        connection.prepare("SELECT id, hash_v1, hash_v2, size_bytes, added FROM torrents ORDER BY id")?;
    for torrent in statement.query_map([], listed)? {
        catalog.add(torrent?);
    }
    Ok(catalog)
}

/// The torrent that has one of these info-hashes.
fn find(connection: &Connection, hashes: &Hashes) -> Result<Option<Listed>, IndexError> {
    let (v1, v2) = (hashes.v1.map(|hash| hash.0), hashes.v2.map(|hash| hash.0));
    let sql = "SELECT id, hash_v1, hash_v2, size_bytes, added FROM torrents WHERE hash_v1 = ? OR hash_v2 = ?";
    Ok(connection.prepare_cached(sql)?.query_row(params![v1, v2], listed).optional()?)
}

fn listed(row: &Row<'_>) -> rusqlite::Result<Listed> {
    Ok(Listed { id: row.get(0)?, hashes: hashes(row, 1)?, size_bytes: unsigned(row.get(3)?), added: row.get(4)? })
}

/// The info-hashes in columns `at` and `at + 1`.
pub(super) fn hashes(row: &Row<'_>, at: usize) -> rusqlite::Result<Hashes> {
    let v1: Option<[u8; 20]> = row.get(at)?;
    let v2: Option<[u8; 32]> = row.get(at + 1)?;
    Ok(Hashes { v1: v1.map(InfoHash), v2: v2.map(InfoHashV2) })
}

fn hashes_of(metainfo: &Metainfo) -> Hashes {
    Hashes { v1: metainfo.info_hash, v2: metainfo.info_hash_v2 }
}

const MAX_COMMENT_BYTES: usize = 4 << 10;
const MAX_URL_BYTES: usize = 1 << 10;
/// Trackers, and web seeds, of one torrent.
const MAX_SOURCES: usize = 100;
