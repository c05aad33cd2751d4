//! The life of a read: inline from the page cache, from a disk thread when it is cold, or blocked until its pieces come.
//!
//! Every read is answered exactly once (I5), whole up to the end of the file: an answer of fewer bytes would be taken
//! for the end. Pieces are read under pins only (I2).

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Instant;

use super::Errno;
use super::handle::Handle;
use super::pending::{Key, Waiting};
use super::view::View;
use crate::net::ReadOutcome;
use crate::storage::{Lane, Pins, StorageError};

impl View {
    /// Reads `size` bytes at `offset` of an open file, fewer at its end, none behind it. `reply` is called once, here or
    /// on a disk thread, now or when the pieces have come. `thread`: the reader's, as far as the kernel tells it, else 0.
    pub fn read(
        self: &Arc<Self>,
        handle: u64,
        offset: u64,
        size: u32,
        thread: u32,
        reply: impl FnOnce(Result<&[u8], Errno>) + Send + 'static,
    ) {
        let Some(handle) = self.handles.find(handle) else { return reply(Err(Errno::EBADF)) };
        let length = u64::from(size).min(handle.attr.bytes.saturating_sub(offset)) as usize;
        if length == 0 {
            return reply(Ok(&[]));
        }
        let store = handle.torrent.store();
        let pins = store.table().pin(handle.pieces(offset, length as u64));
        handle.asked(offset, length);
        let mut reply = Some(reply);
        let now = Instant::now();
        let turn = pins.as_ref().and_then(|_| handle.ready.turn(offset, length));
        let held = turn.as_ref().and_then(|turn| turn.held(now));
        let attempt = match (&pins, held) {
            (None, _) => Attempt::Missing,
            (Some(_), Some(bytes)) => {
                if let Some(reply) = reply.take() {
                    reply(Ok(bytes));
                }
                Attempt::Answered
            }
            (Some(pins), None) => {
                with_buffer(length, |buffer| match store.try_read_now(pins, handle.file, offset, buffer) {
                    Ok(true) => {
                        if let Some(reply) = reply.take() {
                            reply(Ok(buffer));
                        }
                        Attempt::Answered
                    }
                    Ok(false) => Attempt::Cold,
                    Err(error) => Attempt::Broken(error),
                })
            }
        };
        let Some(reply) = reply else {
            if let Some(turn) = turn {
                turn.read_next(handle.attr.bytes, now, |offset, buffer| {
                    let pins = store.table().pin(handle.pieces(offset, buffer.len() as u64));
                    pins.is_some_and(|pins| matches!(store.try_read_now(&pins, handle.file, offset, buffer), Ok(true)))
                });
            }
            handle.answered(offset, length, false);
            handle.tell_window();
            return;
        };
        drop(turn);
        let (reply, since) = (Box::new(reply), now);
        let read = Waiting {
            reply,
            handle,
            offset,
            length,
            thread,
            since,
            attempts: 0,
            blocked: false,
            guard: None,
            ticket: None,
        };
        let handle = Arc::clone(&read.handle);
        match (attempt, pins) {
            (Attempt::Cold, Some(pins)) => {
                let view = Arc::clone(self);
                handle.torrent.pool().submit(Lane::Urgent, move || view.read_pinned(read, pins));
            }
            (Attempt::Broken(error), pins) => {
                drop(pins);
                report(&handle, &error);
                self.wait(read);
            }
            _ => self.wait(read),
        }
        handle.tell_window();
    }

    /// Blocks a read until the torrent has its pieces.
    fn wait(self: &Arc<Self>, mut read: Waiting) {
        read.blocked = true;
        if self.is_stopped() || read.attempts > MAX_ATTEMPTS {
            return read.give_up(Errno::EIO);
        }
        let handle = Arc::clone(&read.handle);
        let pieces = handle.pieces(read.offset, read.length as u64);
        read.guard.get_or_insert_with(|| handle.torrent.store().guard(None, vec![pieces]));
        match self.pending.insert(read) {
            Ok(key) => {
                let view = Arc::clone(self);
                let ticket = handle.torrent.read(pieces, Box::new(move |outcome| view.resume(key, outcome)));
                // Answered already, or given up by the watch before it had a name: the torrent ignores what it does not
                // know.
                if !self.pending.set_ticket(key, ticket) {
                    handle.torrent.abandon(ticket);
                }
            }
            // The mount ended meanwhile.
            Err(read) => read.give_up(Errno::EIO),
        }
    }

    /// The torrent has the pieces of a read, or will not have them. On a disk thread.
    fn resume(self: &Arc<Self>, key: Key, outcome: ReadOutcome) {
        let Some(read) = self.pending.take(key) else { return };
        if let Err(error) = outcome {
            tracing::debug!(offset = read.offset, bytes = read.length, ?error, "a read failed");
            return read.answer(Err(error.into()));
        }
        let pieces = read.handle.pieces(read.offset, read.length as u64);
        match read.handle.torrent.store().table().pin(pieces) {
            Some(pins) => self.read_pinned(read, pins),
            // Evicted or found altered in between; of that, the torrent may not have heard.
            None => {
                if let Some(pieces) = read.handle.torrent.store().suspect(read.handle.file) {
                    read.handle.torrent.suspect(pieces);
                }
                read.handle.torrent.missing(pieces);
                self.again(read);
            }
        }
    }

    /// Reads from the disk and answers. On a disk thread.
    fn read_pinned(self: &Arc<Self>, read: Waiting, pins: Pins) {
        let handle = Arc::clone(&read.handle);
        let (offset, length) = (read.offset, read.length);
        let mut read = Some(read);
        let outcome = with_buffer(length, |buffer| {
            handle.torrent.store().read(&pins, handle.file, offset, buffer).map(|()| {
                if let Some(read) = read.take() {
                    read.answer(Ok(buffer));
                }
            })
        });
        drop(pins);
        if let Err(error) = outcome {
            report(&handle, &error);
        }
        if let Some(read) = read {
            self.again(read);
        }
    }

    fn again(self: &Arc<Self>, mut read: Waiting) {
        read.attempts += 1;
        self.wait(read);
    }
}

/// How far a read came in the thread that asked.
enum Attempt {
    Answered,
    /// The pieces are present, the page cache is cold.
    Cold,
    /// A piece is missing.
    Missing,
    /// The pieces are present, and their file is not what it was.
    Broken(StorageError),
}

/// A present piece could not be read: somebody has cut or replaced the file. Its pieces are to be checked again, and
/// fetched again if need be.
fn report(handle: &Handle, error: &StorageError) {
    if matches!(error, StorageError::Absent(_)) || handle.torrent.store().memory_alone().is_some() {
        // The store has said why.
        tracing::debug!(%error, file = %handle.file, "a cached piece could not be read");
    } else {
        tracing::warn!(%error, file = %handle.file, "a cached piece could not be read");
    }
    if let Some(pieces) = handle.torrent.store().suspect(handle.file) {
        handle.torrent.suspect(pieces);
    }
}

/// Lends this thread's own buffer: reads of the usual sizes allocate nothing.
fn with_buffer<T>(length: usize, body: impl FnOnce(&mut [u8]) -> T) -> T {
    if length > BUFFER_BYTES {
        // Only where `fs.fuse.max_pages_limit` was raised; the kernel bounds it.
        return body(&mut vec![0; length]);
    }
    BUFFER.with_borrow_mut(|buffer| {
        buffer.resize(BUFFER_BYTES, 0);
        body(&mut buffer[..length])
    })
}

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The longest read at the usual `fs.fuse.max_pages_limit`.
const BUFFER_BYTES: usize = 1024 * 1024;

/// How often a read may find its pieces gone again before it fails.
const MAX_ATTEMPTS: u32 = 8;
