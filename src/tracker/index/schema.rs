//! The database file: how it is opened, and how an older one becomes one of today.
//!
//! Each migration is a file of SQL that is never changed again, and perhaps what SQL cannot do; `PRAGMA user_version` counts
//! those that are in.

use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::{IndexError, texts};

/// Opens the database for writing, makes it if it is not there, and brings it up to date.
pub(super) fn open(path: &Path) -> Result<Connection, IndexError> {
    open_as_of(path, MIGRATIONS.len())
}

/// As [`open`], for the first so many migrations: what an older program would have left.
pub(super) fn open_as_of(path: &Path, version: usize) -> Result<Connection, IndexError> {
    let mut connection = Connection::open(path)?;
    prepare(&connection)?;
    // An acknowledged upload survives a power cut: each commit is synced. (WAL alone survives kill -9.)
    connection.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "full")?;
    migrate(&mut connection, version)?;
    Ok(connection)
}

/// Opens the database, which is there and of today, for reading.
pub(super) fn open_for_reading(path: &Path) -> Result<Connection, IndexError> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    prepare(&connection)?;
    // It may be the last one that has a file open whose name is another's by now.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    Ok(connection)
}

fn prepare(connection: &Connection) -> Result<(), IndexError> {
    // Another process may write: `btfs tracker token add`, say.
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "temp_store", "memory")?;
    connection.pragma_update(None, "trusted_schema", false)?;
    // Negative: KiB.
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    Ok(())
}

fn migrate(connection: &mut Connection, target: usize) -> Result<(), IndexError> {
    loop {
        // Each step sees the version under the lock that it changes it with: two processes may start at once.
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let version: u32 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
        let version = version as usize;
        if version > MIGRATIONS.len() {
            return Err(IndexError::Newer { version, known: MIGRATIONS.len() });
        }
        let Some((sql, rest)) = MIGRATIONS[..target].get(version) else { return Ok(()) };
        transaction.execute_batch(sql)?;
        rest(&transaction)?;
        transaction.pragma_update(None, "user_version", version as u32 + 1)?;
        transaction.commit()?;
    }
}

type Rest = fn(&Connection) -> Result<(), IndexError>;

const MIGRATIONS: &[(&str, Rest)] = &[
    (include_str!("schema/1-torrents.sql"), NOTHING),
    (include_str!("schema/2-history.sql"), NOTHING),
    (include_str!("schema/3-people.sql"), NOTHING),
    (include_str!("schema/4-watched.sql"), NOTHING),
    (include_str!("schema/5-moved.sql"), NOTHING),
    (include_str!("schema/6-unused.sql"), NOTHING),
    (include_str!("schema/7-thinning.sql"), NOTHING),
    (include_str!("schema/8-beginnings.sql"), texts::refill),
];
const NOTHING: Rest = |_| Ok(());

const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
const CACHE_KIB: i32 = 8 << 10;
