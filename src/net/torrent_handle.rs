//! What the rest of the program holds of a running torrent.

use std::sync::Arc;
use std::time::Duration;

use crate::base::{FileIndex, PieceRange};
use crate::engine::{HandleId, ReadError, Ticket, TorrentSnapshot};
use crate::proto::metainfo::Metainfo;
use crate::storage::{DiskPool, Store};

/// What a read came to: its pieces are present, or why not.
pub type ReadOutcome = Result<(), ReadError>;

/// Called exactly once, on a disk thread: it may block on the disk.
pub type ReadReply = Box<dyn FnOnce(ReadOutcome) + Send>;

/// A running torrent; cheap to clone. No call waits for the network.
#[derive(Debug, Clone)]
pub struct TorrentHandle {}

#[allow(unused_variables)]
impl TorrentHandle {
    /// What it is.
    pub fn metainfo(&self) -> &Arc<Metainfo> {
        todo!()
    }
    /// Its bytes.
    pub fn store(&self) -> &Arc<Store> {
        todo!()
    }
    /// The disk threads.
    pub fn pool(&self) -> &DiskPool {
        todo!()
    }
    /// Makes the pieces the most urgent download; `reply` is called when all are present, or with the error. When the
    /// torrent's task is gone, `reply` gets [`ReadError::Stopped`].
    pub fn read(&self, pieces: PieceRange, reply: ReadReply) -> Ticket {
        todo!()
    }
    /// Nobody waits any more: the reply is dropped uncalled (it may also be running already).
    pub fn abandon(&self, ticket: Ticket) {
        todo!()
    }
    /// A handle was opened.
    pub fn opened(&self, handle: HandleId, file: FileIndex) {
        todo!()
    }
    /// A handle's window, nearest pieces first; see [`Command::Window`](crate::engine::Command).
    pub fn window(&self, handle: HandleId, pieces: Vec<PieceRange>, horizon: Option<Duration>) {
        todo!()
    }
    /// A handle was closed.
    pub fn released(&self, handle: HandleId) {
        todo!()
    }
    /// Pieces that the store has found altered.
    pub fn suspect(&self, pieces: PieceRange) {
        todo!()
    }
    /// The state now; waits at most 2 s for the torrent's task (blocking call, not for async contexts), else `None`.
    pub fn snapshot(&self) -> Option<TorrentSnapshot> {
        todo!()
    }
}
