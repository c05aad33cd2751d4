//! The index: which torrents there are, found by words, with what the tracker knows of their swarms.
//!
//! One SQLite file. What was acknowledged is in it for good (WAL, synced at each commit); one thread writes, taking
//! together what waits; readers have connections of their own and never wait for it. All calls here block: from a task
//! they belong on a blocking thread, but for those that say that they do not block.
//!
//! No HTTP and no HTML here: see `tracker/web`.

mod catalog;
mod folders;
mod health;
mod history;
mod people;
mod schema;
mod search;
mod torrents;
mod words;
mod writer;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, ErrorCode};

pub use catalog::Hashes;
pub use folders::FolderFile;
pub use health::Health;
pub use history::{SAMPLE_EVERY, Sample, Total};
pub use people::{Person, Role};
pub use search::{Found, Hit, MAX_QUERY_CHARS, PER_PAGE, Query, Sort};
pub use torrents::{Added, Changes, Details, TorrentName, Upload};

use crate::base::InfoHash;
use crate::proto::metainfo::MetainfoError;
use catalog::Catalog;
use writer::Writer;

/// A database of torrents, open. Clones share it.
#[derive(Debug, Clone)]
pub struct Index {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    writer: Writer,
    /// Idle connections; at most as many as calls were going on at a time.
    readers: Mutex<Vec<Connection>>,
    catalog: RwLock<Catalog>,
    /// What the history has last of each swarm that is not empty; `None`: not read yet.
    written: Mutex<Option<HashMap<i64, history::Figures>>>,
}

/// Why the index could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The file that was given is no torrent.
    #[error(transparent)]
    Torrent(#[from] MetainfoError),
    /// Somebody of this name is there already.
    #[error("{0} exists already")]
    Exists(String),
    /// A search, or another question, took longer than anybody should wait.
    #[error("this takes too long")]
    TooLong,
    /// The file was written by a later version of this program.
    #[error("the database has version {version}, and this program knows {known}: use the newer one that wrote it")]
    Newer {
        /// Of the file.
        version: usize,
        /// Of this program.
        known: usize,
    },
    /// The database, or the disk below it.
    #[error("the database: {0}")]
    Database(rusqlite::Error),
    /// No random numbers, say.
    #[error("the system: {0}")]
    System(#[from] std::io::Error),
    /// The thread that writes is gone.
    #[error("the index is closed")]
    Closed,
}

impl From<rusqlite::Error> for IndexError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::OperationInterrupted) => Self::TooLong,
            _ => Self::Database(error),
        }
    }
}

impl Index {
    /// Opens the database, or makes it; an older one is brought up to date.
    ///
    /// # Errors
    /// [`IndexError`], when it cannot be read or written, or is of a later version.
    pub fn open(path: &Path) -> Result<Self, IndexError> {
        let connection = schema::open(path)?;
        let catalog = torrents::load(&connection)?;
        let shared = Shared {
            path: path.to_owned(),
            writer: Writer::start(connection)?,
            readers: Mutex::default(),
            catalog: RwLock::new(catalog),
            written: Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Makes a database as the first `version` migrations leave it: what an older version of this program wrote.
    ///
    /// # Errors
    /// [`IndexError`], when it cannot be made.
    #[doc(hidden)]
    pub fn make_older(path: &Path, version: usize, content: &str) -> Result<(), IndexError> {
        Ok(schema::open_as_of(path, version)?.execute_batch(content)?)
    }

    /// Whether the torrent that peers announce as `hash` is listed. Does not block.
    pub fn is_listed(&self, hash: &InfoHash) -> bool {
        self.catalog(|catalog| catalog.id_of(hash).is_some())
    }

    /// How many torrents are listed. Does not block.
    pub fn len(&self) -> usize {
        self.catalog(|catalog| catalog.all().len())
    }

    /// Whether nothing is listed. Does not block.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Runs `work` in the next transaction; what it did is on the disk when this returns.
    fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, IndexError> + Send + 'static,
    ) -> Result<T, IndexError> {
        self.shared.writer.write(work)
    }

    /// Runs `work` with a connection that reads, for a bounded time.
    fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T, IndexError>) -> Result<T, IndexError> {
        let idle = self.shared.readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => schema::open_for_reading(&self.shared.path)?,
        };
        let deadline = Instant::now() + PATIENCE;
        connection.progress_handler(STEPS_BETWEEN_LOOKS, Some(move || Instant::now() > deadline))?;
        let outcome = work(&connection);
        self.shared.readers.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        outcome
    }

    fn catalog<T>(&self, look: impl FnOnce(&Catalog) -> T) -> T {
        look(&self.shared.catalog.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn change_catalog<T>(&self, change: impl FnOnce(&mut Catalog) -> T) -> T {
        change(&mut self.shared.catalog.write().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Seconds since 1970, as the database has them.
fn unix(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

/// A number of the database that is never negative.
fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// A question that takes longer is given up: nobody waits for it, and others do.
const PATIENCE: Duration = Duration::from_secs(2);
/// Steps of SQLite's machine: well below a millisecond.
const STEPS_BETWEEN_LOOKS: i32 = 5000;
