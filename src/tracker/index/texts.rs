//! What of a torrent is searched, and how it comes into the table of words.

use rusqlite::{Connection, params};

use super::IndexError;
use super::words::{grams, push_line};
use crate::proto::metainfo::{EntryKind, Metainfo};

/// The paths of a torrent, a line each, as far as they are searched.
pub(super) fn paths_of(metainfo: &Metainfo) -> String {
    let mut paths = String::new();
    // A torrent that is one file has its name as its title.
    if metainfo.single_file {
        return paths;
    }
    for entry in metainfo.entries.iter().filter(|entry| entry.kind != EntryKind::Padding) {
        if paths.len() >= MAX_PATHS_BYTES {
            break;
        }
        push_line(&mut paths, &String::from_utf8_lossy(&entry.path), MAX_PATHS_BYTES);
    }
    paths
}

/// Has a torrent found by its words.
pub(super) fn insert(
    connection: &Connection,
    id: i64,
    title: &str,
    paths: &str,
    comment: &str,
) -> Result<(), IndexError> {
    connection
        .prepare_cached("INSERT INTO texts (rowid, title, parts, paths, comment) VALUES (?, ?, ?, ?, ?)")?
        .execute(params![id, title, grams(title), paths, comment])?;
    Ok(())
}

/// Fills the empty table again, from the files: it keeps no texts itself. (A part of a migration: the columns that it fills
/// must be those of that step.)
pub(super) fn refill(connection: &Connection) -> Result<(), IndexError> {
    let mut statement = connection
        .prepare("SELECT id, title, comment, bytes FROM torrents LEFT JOIN metainfo ON torrent = id ORDER BY id")?;
    let mut rows = statement.query([])?;
    let mut count = 0;
    while let Some(row) = rows.next()? {
        let (title, comment): (String, String) = (row.get(1)?, row.get(2)?);
        // What is not understood any more is found by its name.
        let bytes = row.get_ref(3)?.as_blob_or_null().ok().flatten().unwrap_or_default();
        let paths = Metainfo::parse(bytes).map_or_else(|_| String::new(), |metainfo| paths_of(&metainfo));
        insert(connection, row.get(0)?, &title, &paths, &comment)?;
        count += 1;
        if count == LONG {
            tracing::info!("the words of the index are written anew, once: this takes a moment");
        }
    }
    Ok(())
}

/// What is indexed of a torrent's paths: thousands of files, not millions.
const MAX_PATHS_BYTES: usize = 256 << 10;
/// So many torrents take a good part of a second.
const LONG: usize = 5000;
