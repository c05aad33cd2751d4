//! What the rest of the program holds of a running torrent, and the receiving end that its task holds.
//!
//! A handle only sends: no call waits for the network, and no decision is made here. Every read gets its reply exactly
//! once (I5): the reply travels in a [`PendingRead`], which answers [`ReadError::Stopped`] when it is dropped unanswered,
//! whoever drops it and why.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::base::{FileIndex, PieceRange};
use crate::engine::{Command, HandleId, ReadError, Ticket, TorrentSnapshot};
use crate::proto::metainfo::Metainfo;
use crate::storage::{DiskPool, Lane, Moved, Pins, Store};

/// What a read came to: its pieces are present, or why not.
pub type ReadOutcome = Result<(), ReadError>;

/// Called exactly once, on a disk thread: it may block on the disk.
pub type ReadReply = Box<dyn FnOnce(ReadOutcome) + Send>;

/// A running torrent; cheap to clone. No call waits for the network.
#[derive(Debug, Clone)]
pub struct TorrentHandle {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    metainfo: Arc<Metainfo>,
    store: Arc<Store>,
    pool: DiskPool,
    /// Unbounded: reads are bounded by the kernel (each is a blocked thread or a slot of `max_background`), windows by
    /// the reads that move them, the rest by people.
    requests: mpsc::UnboundedSender<Request>,
    next_ticket: AtomicU64,
}

impl TorrentHandle {
    /// A handle and the end that its requests come out of. Dropping that end answers all reads, waiting and future, with
    /// [`ReadError::Stopped`].
    pub fn channel(metainfo: Arc<Metainfo>, store: Arc<Store>, pool: DiskPool) -> (Self, Requests) {
        let (requests, receiver) = mpsc::unbounded_channel();
        let shared = Shared { metainfo, store, pool, requests, next_ticket: AtomicU64::new(1) };
        let handle = Self { shared: Arc::new(shared) };
        handle.watch_moves();
        (handle, Requests { receiver })
    }

    /// What it is.
    pub fn metainfo(&self) -> &Arc<Metainfo> {
        &self.shared.metainfo
    }

    /// Its bytes.
    pub fn store(&self) -> &Arc<Store> {
        &self.shared.store
    }

    /// The disk threads.
    pub fn pool(&self) -> &DiskPool {
        &self.shared.pool
    }

    /// Makes the pieces the most urgent download; `reply` is called when all are present, or with the error. When the
    /// torrent's task is gone, `reply` gets [`ReadError::Stopped`].
    pub fn read(&self, pieces: PieceRange, reply: ReadReply) -> Ticket {
        let ticket = Ticket(self.shared.next_ticket.fetch_add(1, Ordering::Relaxed));
        let reply = PendingRead { reply: Some(reply), pool: self.shared.pool.clone() };
        self.send(Request::Read { ticket, pieces, reply });
        ticket
    }

    /// Nobody waits any more: the reply is dropped uncalled (it may also be running already).
    pub fn abandon(&self, ticket: Ticket) {
        self.send(Request::Command(Command::Abandon(ticket)));
    }

    /// A handle was opened.
    pub fn opened(&self, handle: HandleId, file: FileIndex) {
        self.send(Request::Command(Command::Opened { handle, file }));
    }

    /// A handle's window, nearest pieces first; see [`Command::Window`](crate::engine::Command).
    pub fn window(&self, handle: HandleId, pieces: Vec<PieceRange>, horizon: Option<Duration>) {
        self.send(Request::Command(Command::Window { handle, pieces, horizon }));
    }

    /// A handle was closed.
    pub fn released(&self, handle: HandleId) {
        self.send(Request::Command(Command::Released(handle)));
    }

    /// Pieces that the store has found altered.
    pub fn suspect(&self, pieces: PieceRange) {
        self.send(Request::Command(Command::Suspect(pieces)));
    }

    /// A reader has found pieces of these gone: the torrent may not have heard of their eviction yet.
    pub fn missing(&self, pieces: PieceRange) {
        self.send(Request::Command(Command::Evicted(pieces.iter().collect())));
    }

    /// Tells the torrent of pieces that its store moves, as long as there are handles; this is none.
    fn watch_moves(&self) {
        let requests = self.shared.requests.downgrade();
        self.shared.store.on_moved(move |moved| {
            let command = match moved {
                Moved::Gone(pieces) => Command::Evicted(pieces),
                Moved::OnDisk(pieces) => Command::Kept(pieces),
            };
            if let Some(requests) = requests.upgrade() {
                let _ = requests.send(Request::Command(command));
            }
        });
    }

    /// The state now; waits at most 2 s for the torrent's task (blocking call, not for async contexts), else `None`.
    pub fn snapshot(&self) -> Option<TorrentSnapshot> {
        let (sender, receiver) = sync_channel(1);
        self.send(Request::Snapshot(sender));
        receiver.recv_timeout(SNAPSHOT_PATIENCE).ok()
    }

    /// Any other wish; reads go through [`read`](Self::read), which knows whom to answer.
    pub fn command(&self, command: Command) {
        self.send(Request::Command(command));
    }

    /// A torrent without a task drops the request, and with it answers the read that it may hold.
    pub(super) fn send(&self, request: Request) {
        let _ = self.shared.requests.send(request);
    }
}

/// One request to a torrent's task.
#[derive(Debug)]
pub enum Request {
    /// A reader waits.
    Read {
        /// Names the read, for `Abandon` and for the engine.
        ticket: Ticket,
        /// What it waits for; may be empty, then it is ready at once.
        pieces: PieceRange,
        /// Whom to answer.
        reply: PendingRead,
    },
    /// Anything that wants no answer; never `Command::Read`.
    Command(Command),
    /// Somebody wants to see the state.
    Snapshot(SyncSender<TorrentSnapshot>),
    /// Behave as if there were a bug.
    #[cfg(test)]
    Panic,
}

/// The end of a [`TorrentHandle`] that its task reads.
#[derive(Debug)]
pub struct Requests {
    receiver: mpsc::UnboundedReceiver<Request>,
}

impl Requests {
    /// The next request; `None` when every handle is gone. Cancel-safe.
    pub async fn recv(&mut self) -> Option<Request> {
        self.receiver.recv().await
    }

    /// The next request if there is one now.
    pub fn try_recv(&mut self) -> Option<Request> {
        self.receiver.try_recv().ok()
    }

    /// The next request, waiting for it on this thread (not for async contexts); `None` when every handle is gone.
    pub fn blocking_recv(&mut self) -> Option<Request> {
        self.receiver.blocking_recv()
    }
}

/// A reader's reply, not yet called: answered once, by [`answer`](Self::answer) or else when dropped.
pub struct PendingRead {
    reply: Option<ReadReply>,
    pool: DiskPool,
}

impl PendingRead {
    /// Calls the reply on a disk thread.
    pub fn answer(self, outcome: ReadOutcome) {
        self.answer_holding(outcome, None);
    }

    /// As [`answer`](Self::answer); the pieces stay where they are until the reply was called.
    pub fn answer_holding(mut self, outcome: ReadOutcome, pins: Option<Pins>) {
        self.call(outcome, pins);
    }

    /// Forgets the reply: nobody waits for it.
    pub fn forget(mut self) {
        self.reply = None;
    }

    fn call(&mut self, outcome: ReadOutcome, pins: Option<Pins>) {
        if let Some(reply) = self.reply.take() {
            self.pool.submit(Lane::Urgent, move || {
                reply(outcome);
                drop(pins);
            });
        }
    }
}

impl Drop for PendingRead {
    fn drop(&mut self) {
        self.call(Err(ReadError::Stopped), None);
    }
}

impl fmt::Debug for PendingRead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingRead").field("answered", &self.reply.is_none()).finish()
    }
}

/// How long a snapshot may take.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(2);
