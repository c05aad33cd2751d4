//! The one thread that writes. What waits at the same time becomes one transaction, so that many uploads share a sync;
//! each is a savepoint of its own, so that one which fails takes nothing else with it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use rusqlite::Connection;
use rusqlite::config::DbConfig;

use super::place::{Lies, Place};
use super::{IndexError, schema};

/// The way to the thread; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Writer {
    jobs: SyncSender<Job>,
}

/// Does its work inside a transaction, if there is one. What it gives back tells whoever waits, once it is known how that
/// ended; and what of the disk's trouble it met.
type Job = Box<dyn FnOnce(Result<&mut Connection, Trouble>) -> (Option<Trouble>, Answer) + Send>;
type Answer = Box<dyn FnOnce(Option<Trouble>) + Send>;

/// Why nobody's work was kept.
#[derive(Debug, Clone)]
enum Trouble {
    Full,
    Other(String),
}

impl Writer {
    pub(super) fn start(connection: Connection, place: Arc<Place>) -> Result<Self, IndexError> {
        let (jobs, waiting) = sync_channel(MAX_WAITING);
        let book = Book { connection, place };
        std::thread::Builder::new().name("index-writer".to_owned()).spawn(move || write_all(book, &waiting))?;
        Ok(Self { jobs })
    }

    pub(super) fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, IndexError> + Send + 'static,
    ) -> Result<T, IndexError> {
        let (reply, answer) = sync_channel(1);
        let job = move |connection: Result<&mut Connection, Trouble>| {
            let outcome = connection.map_err(IndexError::from).and_then(|connection| in_savepoint(connection, work));
            let met = outcome.as_ref().err().and_then(Trouble::of);
            let answer: Answer = Box::new(move |trouble| {
                // Whoever has asked may be gone.
                let _ = reply.send(trouble.map_or(outcome, |trouble| Err(trouble.into())));
            });
            (met, answer)
        };
        self.jobs.send(Box::new(job)).map_err(|_| IndexError::Closed)?;
        answer.recv().map_err(|_| IndexError::Closed)?
    }
}

/// The connection that writes, and where its file should be.
struct Book {
    connection: Connection,
    place: Arc<Place>,
}

fn write_all(mut book: Book, waiting: &Receiver<Job>) {
    while let Ok(first) = waiting.recv() {
        let jobs = std::iter::once(first).chain(waiting.try_iter().take(MAX_TOGETHER - 1));
        // A panic rolls the transaction back; those who wait for it hear that the index is closed, the next are served.
        if catch_unwind(AssertUnwindSafe(|| book.write_together(jobs))).is_err() {
            tracing::error!("a write to the index has panicked");
            let _ = book.connection.execute_batch("ROLLBACK");
        }
    }
}

impl Book {
    fn write_together(&mut self, jobs: impl Iterator<Item = Job>) {
        // Not a `Transaction`: savepoints need the connection mutably, one after the other.
        let mut begun = self.in_place().and_then(|()| Ok(self.connection.execute_batch("BEGIN IMMEDIATE")?));
        let mut answers = Vec::new();
        for job in jobs {
            // Without a transaction around it a savepoint would be one: nobody gets the connection.
            let (met, answer) = match &begun {
                Ok(()) => job(Ok(&mut self.connection)),
                Err(error) => job(Err(Trouble::of(error).unwrap_or_else(|| Trouble::Other(error.to_string())))),
            };
            answers.push(answer);
            // A disk that is full, say, ends the whole transaction: with it goes what came before.
            if begun.is_ok() && self.connection.is_autocommit() {
                let trouble = met.unwrap_or_else(|| Trouble::Other("the transaction was given up".to_owned()));
                begun = Err(trouble.into());
            }
        }
        let ended = begun.and_then(|()| Ok(self.connection.execute_batch("COMMIT")?));
        let trouble = ended.err().map(|error| Trouble::of(&error).unwrap_or_else(|| Trouble::Other(error.to_string())));
        if trouble.is_some() && !self.connection.is_autocommit() {
            let _ = self.connection.execute_batch("ROLLBACK");
        }
        for answer in answers {
            answer(trouble.clone());
        }
    }

    /// Sees to it that what is written can be found again: that the file has its name. One whose name was removed is still
    /// open here, whole, and is written anew; not so where its directory has gone, too, which may lie on a disk that comes
    /// back.
    fn in_place(&mut self) -> Result<(), IndexError> {
        match self.place.look()? {
            Lies::Here => Ok(()),
            Lies::Elsewhere => {
                Err(IndexError::Unwritable("another file lies in its place: restart the tracker".into()))
            }
            Lies::Nowhere => {
                let fresh = self.place.fresh();
                let written = self.connection.execute("VACUUM INTO ?", [fresh.to_string_lossy()]);
                if let Err(error) = written {
                    let _ = std::fs::remove_file(&fresh);
                    return Err(error.into());
                }
                // Closed, it must not remove what has the names of its files then.
                self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
                self.place.put(&fresh)?;
                self.connection = schema::open(self.place.path())?;
                self.place.settle()?;
                tracing::warn!(path = %self.place.path().display(), "the index was removed while it was open: written anew");
                Ok(())
            }
        }
    }
}

impl Trouble {
    fn of(error: &IndexError) -> Option<Self> {
        match error {
            IndexError::Full => Some(Self::Full),
            IndexError::Database(_) | IndexError::System(_) | IndexError::Unwritable(_) => {
                Some(Self::Other(error.to_string()))
            }
            _ => None,
        }
    }
}

impl From<Trouble> for IndexError {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Full => Self::Full,
            Trouble::Other(reason) => Self::Unwritable(reason),
        }
    }
}

fn in_savepoint<T>(
    connection: &mut Connection,
    work: impl FnOnce(&Connection) -> Result<T, IndexError>,
) -> Result<T, IndexError> {
    let savepoint = connection.savepoint()?;
    // Rolled back where it is dropped.
    let value = work(&savepoint)?;
    savepoint.commit()?;
    Ok(value)
}

/// Uploads hold a torrent each; the web side lets in only a few at a time.
const MAX_WAITING: usize = 64;
const MAX_TOGETHER: usize = 32;
