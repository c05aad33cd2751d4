//! The receive buffer of one connection: large reads, blocks handed out as slices of it, memory used again.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::net::TcpStream;

use crate::base::Layout;
use crate::proto::wire::{Decoder, Message, WireError};

/// Reads and decodes one connection.
///
/// A buffer that has been filled is put aside; when all blocks cut from it have been written to disk its memory serves
/// again. So a fast peer runs on a few buffers, and the kernel need not hand out (and clear) fresh pages.
pub(super) struct Receiver {
    decoder: Decoder,
    buffer: BytesMut,
    /// Size of new buffers: grows while the peer fills them at one read.
    chunk_bytes: usize,
    full: VecDeque<BytesMut>,
    /// Whether a read filled its buffer since the last call of `shrink`.
    busy: bool,
}

impl Receiver {
    pub(super) fn new(layout: Arc<Layout>) -> Self {
        Self {
            decoder: Decoder::new(layout),
            buffer: BytesMut::new(),
            chunk_bytes: MIN_CHUNK_BYTES,
            full: VecDeque::new(),
            busy: false,
        }
    }

    /// Reads once, without waiting; 0 bytes are the end of the stream.
    pub(super) fn read(&mut self, stream: &TcpStream) -> io::Result<usize> {
        self.make_room();
        let read = stream.try_read_buf(&mut self.buffer)?;
        if self.buffer.len() == self.buffer.capacity() && read > 0 {
            self.busy = true;
            self.chunk_bytes = (self.chunk_bytes * 4).min(MAX_CHUNK_BYTES);
        }
        Ok(read)
    }

    /// The next message that is whole.
    pub(super) fn decode(&mut self) -> Result<Option<Message>, WireError> {
        self.decoder.decode(&mut self.buffer)
    }

    /// Gives memory back when the peer has been quiet since the last call.
    pub(super) fn shrink(&mut self) {
        if !std::mem::take(&mut self.busy) {
            self.full.clear();
            self.chunk_bytes = MIN_CHUNK_BYTES;
            if self.buffer.is_empty() {
                self.buffer = BytesMut::new();
            }
        }
    }

    /// Makes room for the rest of the message that has begun, and for a worthwhile read.
    fn make_room(&mut self) {
        let missing = self.decoder.missing(&self.buffer);
        let room = self.buffer.capacity() - self.buffer.len();
        if room >= missing.max(self.chunk_bytes / 8) {
            return;
        }
        let wanted = self.chunk_bytes.max(self.buffer.len() + missing);
        let mut next = match self.full.iter_mut().position(|old| old.try_reclaim(wanted)) {
            Some(index) => self.full.swap_remove_front(index).expect("the index was just found"),
            None => BytesMut::with_capacity(wanted),
        };
        next.extend_from_slice(&self.buffer);
        let mut old = std::mem::replace(&mut self.buffer, next);
        old.clear();
        if self.chunk_bytes == MAX_CHUNK_BYTES && self.full.len() < MAX_FULL_CHUNKS {
            self.full.push_back(old);
        }
    }
}

/// Bounds of one buffer: many silent peers must cost little, and larger reads than these gain nothing (measured).
const MIN_CHUNK_BYTES: usize = 4 * 1024;
const MAX_CHUNK_BYTES: usize = 256 * 1024;
/// Buffers that wait for their blocks to be written.
const MAX_FULL_CHUNKS: usize = 8;
