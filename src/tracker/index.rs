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
mod place;
mod schema;
mod search;
mod texts;
mod torrents;
mod words;
mod writer;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, ErrorCode};

pub use catalog::Hashes;
pub use folders::FolderFile;
pub use health::Health;
pub use history::{SAMPLE_EVERY, Sample, Total};
pub use people::{Person, Role};
pub use search::{Found, Hit, MAX_QUERY_CHARS, PER_PAGE, Query, Sort};
pub use torrents::{Added, Changes, Details, NoTorrentName, TorrentName, Upload};

use super::complaint::Complaint;
use crate::base::InfoHash;
use crate::proto::metainfo::MetainfoError;
use crate::tracker::{Lists, Refusal};
use catalog::Catalog;
use place::{Identity, Lies, Place};
use writer::Writer;

/// A database of torrents, open. Clones share it.
#[derive(Debug, Clone)]
pub struct Index {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    place: Arc<Place>,
    writer: Writer,
    /// Idle connections, and the file that each reads; [`MAX_READERS`] at most.
    readers: Mutex<Vec<(Identity, Connection)>>,
    catalog: RwLock<Catalog>,
    /// What the history has last of each swarm that is not empty; `None`: not read yet.
    written: Mutex<Option<HashMap<i64, history::Figures>>>,
    /// What went wrong with reading and writing, so that it is told once.
    reading: Complaint,
    writing: Complaint,
}

/// Why the index could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The file that was given is no torrent.
    #[error(transparent)]
    Torrent(#[from] MetainfoError),
    /// The operator does not let it in.
    #[error("{0}")]
    Refused(#[from] Refusal),
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
    /// The disk has no room for it; what is there stays.
    #[error("the disk is full")]
    Full,
    /// The disk takes nothing, or what it takes would be lost.
    #[error("it cannot be written: {0}")]
    Unwritable(String),
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
            Some(ErrorCode::DiskFull) => Self::Full,
            _ => Self::Database(error),
        }
    }
}

impl IndexError {
    /// Whether the database or what is below it is to blame, not whoever has asked.
    fn is_trouble(&self) -> bool {
        matches!(self, Self::Full | Self::Unwritable(_) | Self::Database(_) | Self::System(_) | Self::Closed)
    }
}

impl Index {
    /// Opens the database, or makes it; an older one is brought up to date.
    ///
    /// # Errors
    /// [`IndexError`], when it cannot be read or written, or is of a later version.
    pub fn open(path: &Path) -> Result<Self, IndexError> {
        let connection = schema::open(path)?;
        let catalog = torrents::load(&connection, Arc::default())?;
        let place = Arc::new(Place::of(path)?);
        let reader = (place.ours(), schema::open_for_reading(path)?);
        let shared = Shared {
            writer: Writer::start(connection, place.clone())?,
            place,
            readers: Mutex::new(vec![reader]),
            catalog: RwLock::new(catalog),
            written: Mutex::default(),
            reading: Complaint::default(),
            writing: Complaint::default(),
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

    /// Which torrents the operator lets in. Does not block.
    pub fn lists(&self) -> Arc<Lists> {
        self.catalog(|catalog| catalog.lists().clone())
    }

    /// Runs `work` in the next transaction; what it did is on the disk when this returns.
    fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, IndexError> + Send + 'static,
    ) -> Result<T, IndexError> {
        let outcome = self.shared.writer.write(work);
        match &outcome {
            Err(error) if error.is_trouble() && self.shared.writing.wrong(Instant::now()) => {
                tracing::warn!(path = %self.shared.place.path().display(), %error, "the index takes nothing until this is mended");
            }
            Ok(_) if self.shared.writing.fine() => tracing::info!("the index can be written again"),
            _ => {}
        }
        outcome
    }

    /// Runs `work` with a connection that reads, for a bounded time.
    fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T, IndexError>) -> Result<T, IndexError> {
        let outcome = self.reader().and_then(|(file, mut connection)| {
            let deadline = Instant::now() + PATIENCE;
            connection.progress_handler(STEPS_BETWEEN_LOOKS, Some(move || Instant::now() > deadline))?;
            let outcome = work(&connection);
            let mut readers = self.shared.readers.lock().unwrap_or_else(PoisonError::into_inner);
            // Each has a cache of its own.
            if readers.len() < MAX_READERS {
                readers.push((file, connection));
            }
            outcome
        });
        match &outcome {
            Err(error) if error.is_trouble() && self.shared.reading.wrong(Instant::now()) => {
                tracing::warn!(path = %self.shared.place.path().display(), %error, "the index cannot be read");
            }
            Ok(_) if self.shared.reading.fine() => tracing::info!("the index can be read again"),
            _ => {}
        }
        outcome
    }

    /// A connection that reads our file. Where the file has lost its name no new one can be had, but those that are there
    /// go on.
    fn reader(&self) -> Result<(Identity, Connection), IndexError> {
        let (place, deadline) = (&self.shared.place, Instant::now() + PATIENCE);
        loop {
            let idle = self.shared.readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
            match idle {
                Some(idle) if idle.0 == place.ours() => return Ok(idle),
                // Of a file that was written anew.
                Some(old) => {
                    drop(old);
                    continue;
                }
                None => {}
            }
            let ours = place.ours();
            let opened = match place.look() {
                Ok(Lies::Here) => schema::open_for_reading(place.path()),
                Ok(_) => Err(IndexError::Unwritable("its file is not where it was".to_owned())),
                Err(error) => Err(error.into()),
            };
            match opened {
                Ok(connection) => return Ok((ours, connection)),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_) => std::thread::sleep(RETRY),
            }
        }
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
/// How long to wait until another connection may be free.
const RETRY: Duration = Duration::from_millis(10);
/// Steps of SQLite's machine: well below a millisecond.
const STEPS_BETWEEN_LOOKS: i32 = 5000;
/// As many as pages ask at a time; what is beyond that is closed after use.
const MAX_READERS: usize = 8;

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn connections_that_many_needed_at_once_are_not_kept() {
        let room = tempfile::tempdir().unwrap();
        let index = Index::open(&room.path().join("index.sqlite")).unwrap();
        let all = Barrier::new(3 * MAX_READERS);
        std::thread::scope(|scope| {
            for _ in 0..3 * MAX_READERS {
                scope.spawn(|| index.read(|_| Ok(_ = all.wait())).unwrap());
            }
        });
        assert_eq!(index.shared.readers.lock().unwrap().len(), MAX_READERS);
    }
}
