//! The one thread that writes. What waits at the same time becomes one transaction, so that many uploads share a sync;
//! each is a savepoint of its own, so that one which fails takes nothing else with it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use rusqlite::Connection;

use super::IndexError;

/// The way to the thread; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Writer {
    jobs: SyncSender<Job>,
}

/// Does its work inside a transaction. What it gives back tells whoever waits, once it is known how that ended.
type Job = Box<dyn FnOnce(Result<&mut Connection, &str>) -> Answer + Send>;
type Answer = Box<dyn FnOnce(Option<IndexError>) + Send>;

impl Writer {
    pub(super) fn start(connection: Connection) -> Result<Self, IndexError> {
        let (jobs, waiting) = sync_channel(MAX_WAITING);
        std::thread::Builder::new().name("index-writer".to_owned()).spawn(move || write_all(connection, &waiting))?;
        Ok(Self { jobs })
    }

    pub(super) fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> Result<T, IndexError> + Send + 'static,
    ) -> Result<T, IndexError> {
        let (reply, answer) = sync_channel(1);
        let job = move |connection: Result<&mut Connection, &str>| -> Answer {
            let outcome = connection.map_err(unwritable).and_then(|connection| in_savepoint(connection, work));
            Box::new(move |trouble: Option<IndexError>| {
                // Whoever has asked may be gone.
                let _ = reply.send(trouble.map_or(outcome, Err));
            })
        };
        self.jobs.send(Box::new(job)).map_err(|_| IndexError::Closed)?;
        answer.recv().map_err(|_| IndexError::Closed)?
    }
}

fn write_all(mut connection: Connection, waiting: &Receiver<Job>) {
    while let Ok(first) = waiting.recv() {
        let jobs = std::iter::once(first).chain(waiting.try_iter().take(MAX_TOGETHER - 1));
        // A panic rolls the transaction back; those who wait for it hear that the index is closed, the next are served.
        if catch_unwind(AssertUnwindSafe(|| write_together(&mut connection, jobs))).is_err() {
            tracing::error!("a write to the index has panicked");
            let _ = connection.execute_batch("ROLLBACK");
        }
    }
}

fn write_together(connection: &mut Connection, jobs: impl Iterator<Item = Job>) {
    // Not a `Transaction`: savepoints need the connection mutably, one after the other.
    if let Err(error) = connection.execute_batch("BEGIN IMMEDIATE") {
        tracing::error!(%error, "the index cannot be written");
        // Without a transaction around it a savepoint would be one: nobody gets the connection.
        let text = error.to_string();
        jobs.for_each(|job| job(Err(&text))(None));
        return;
    }
    let answers: Vec<_> = jobs.map(|job| job(Ok(connection))).collect();
    let trouble = connection.execute_batch("COMMIT").err().map(|error| error.to_string());
    if let Some(error) = &trouble {
        tracing::error!(error, "the index cannot be written");
        let _ = connection.execute_batch("ROLLBACK");
    }
    for answer in answers {
        answer(trouble.as_deref().map(unwritable));
    }
}

fn unwritable(reason: &str) -> IndexError {
    IndexError::System(std::io::Error::other(reason.to_owned()))
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
