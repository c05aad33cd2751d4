//! What waits for the socket of one connection, in order: bytes, and runs of blocks that the kernel copies from the page
//! cache. Does not decide what is sent.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Buf, BufMut, BytesMut};
use tokio::sync::oneshot;
use tracing::debug;

use crate::base::BlockRef;
use crate::proto::wire::codec::{self, PIECE_HEADER_BYTES};
use crate::storage::{DiskPool, Lane, Pages, Part, Pins, StorageError, Store, send};

/// The bytes that are to go out.
pub(super) struct Outgoing {
    store: Arc<Store>,
    pool: DiskPool,
    /// None but the last is empty: what is ready to be sent would else be nothing, for ever.
    segments: VecDeque<Segment>,
    /// What the first segment is to become, while a disk thread reads it.
    reading: Option<oneshot::Receiver<BytesMut>>,
}

enum Segment {
    Bytes(BytesMut),
    Run(Run),
}

/// Neighbouring blocks of a piece, each behind its header.
pub(super) struct Run {
    /// Held until the socket has taken all of it (I2).
    pins: Arc<Pins>,
    pages: Pages,
    blocks: Vec<BlockRef>,
    headers: Vec<u8>,
    /// Bytes on the wire: of all, and those that have been sent.
    length: usize,
    sent: usize,
}

impl Outgoing {
    pub(super) fn new(store: Arc<Store>, pool: DiskPool) -> Self {
        Self { store, pool, segments: VecDeque::new(), reading: None }
    }

    /// The end of the line, for bytes to be put behind everything else.
    pub(super) fn bytes(&mut self) -> &mut BytesMut {
        if !matches!(self.segments.back(), Some(Segment::Bytes(_))) {
            self.segments.push_back(Segment::Bytes(BytesMut::new()));
        }
        match self.segments.back_mut() {
            Some(Segment::Bytes(bytes)) => bytes,
            _ => unreachable!("it was just put there"),
        }
    }

    /// Puts blocks behind everything else.
    pub(super) fn push(&mut self, run: Run) {
        let empty = self.segments.back().is_some_and(|last| last.len() == 0);
        self.segments.insert(self.segments.len() - usize::from(empty), Segment::Run(run));
    }

    /// Puts the block that a disk thread has read behind everything else.
    pub(super) fn push_block(&mut self, block: BlockRef, data: &[u8]) {
        let bytes = self.bytes();
        bytes.put_slice(&header(block));
        bytes.put_slice(data);
    }

    /// Puts a block behind everything else if `read` says that it has filled it.
    pub(super) fn push_read<E>(
        &mut self,
        block: BlockRef,
        read: impl FnOnce(&mut [u8]) -> Result<bool, E>,
    ) -> Result<bool, E> {
        let bytes = self.bytes();
        let before = bytes.len();
        let result = put_block(block, bytes, read);
        if !matches!(result, Ok(true)) {
            bytes.truncate(before);
        }
        result
    }

    /// Makes ready what is to be sent next. False: nothing can be sent before [`read`](Self::read) has ended, since part
    /// of it has to be read from the disk.
    ///
    /// # Errors
    /// When that would be another piece than was promised: the middle of a block cannot be taken back.
    pub(super) fn prepare(&mut self, now: Instant) -> Result<bool, StorageError> {
        if self.reading.is_some() {
            return Ok(false);
        }
        debug_assert!(self.segments.iter().rev().skip(1).all(|segment| segment.len() > 0));
        let Some(Segment::Run(run)) = self.segments.front_mut() else { return Ok(true) };
        if run.renew(&self.store, now) {
            return Ok(true);
        }
        self.store.recheck(&run.pins, &run.pages)?;
        self.reading = Some(run.read_rest(&self.store, &self.pool));
        Ok(false)
    }

    /// Sends as much as the socket takes of what is ready, without waiting. Returns how many bytes that was.
    pub(super) fn send(&mut self, now: Instant, socket: impl AsFd) -> io::Result<usize> {
        let mut ready = usize::from(!self.segments.is_empty());
        for segment in self.segments.iter_mut().skip(1) {
            // The first one has just been prepared.
            if let Segment::Run(run) = segment
                && !run.renew(&self.store, now)
            {
                break;
            }
            ready += 1;
        }
        let mut parts = Vec::new();
        for segment in self.segments.iter().take(ready) {
            match segment {
                Segment::Bytes(bytes) => parts.push(Part::Bytes(bytes)),
                Segment::Run(run) => run.add_parts(&mut parts),
            }
        }
        send(socket, &parts)
    }

    /// Drops what the socket has taken.
    ///
    /// # Errors
    /// When some of it was not what its piece has: see [`Store::recheck`].
    pub(super) fn advance(&mut self, mut sent: usize) -> Result<(), StorageError> {
        while sent > 0 {
            let Some(first) = self.segments.front_mut() else { return Ok(()) };
            let taken = sent.min(first.len());
            sent -= taken;
            match first {
                Segment::Bytes(bytes) => bytes.advance(taken),
                Segment::Run(run) => {
                    run.sent += taken;
                    self.store.recheck(&run.pins, &run.pages)?;
                }
            }
            // A last buffer is kept: it will be used again.
            if first.len() == 0 && (self.segments.len() > 1 || matches!(self.segments[0], Segment::Run(_))) {
                self.segments.pop_front();
            }
        }
        Ok(())
    }

    /// Waits for what a disk thread reads; pending while there is nothing. Cancel-safe. False: it could not be read.
    pub(super) async fn read(&mut self) -> bool {
        let Some(reading) = &mut self.reading else { return std::future::pending().await };
        let read = reading.await;
        self.reading = None;
        match (read, self.segments.front_mut()) {
            (Ok(bytes), Some(first)) => {
                *first = Segment::Bytes(bytes);
                true
            }
            _ => false,
        }
    }

    /// Gives memory back if nothing waits.
    pub(super) fn shrink(&mut self) {
        if self.is_empty() {
            self.segments = VecDeque::new();
        }
    }

    /// Whether a disk thread reads what is to be sent next.
    pub(super) fn is_reading(&self) -> bool {
        self.reading.is_some()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.segments.iter().all(|segment| segment.len() == 0)
    }

    /// Bytes that wait.
    pub(super) fn len(&self) -> usize {
        self.segments.iter().map(Segment::len).sum()
    }

    /// Bytes that wait in memory of ours.
    pub(super) fn held_bytes(&self) -> usize {
        let bytes = self.segments.iter().filter(|segment| matches!(segment, Segment::Bytes(_)));
        bytes.map(Segment::len).sum()
    }
}

impl Segment {
    fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Run(run) => run.length - run.sent,
        }
    }
}

impl Run {
    /// `blocks` follow one another, and `pages` are all their bytes.
    pub(super) fn new(pins: Pins, pages: Pages, blocks: Vec<BlockRef>) -> Self {
        let headers: Vec<u8> = blocks.iter().flat_map(|block| header(*block)).collect();
        let length = headers.len() + blocks.iter().map(|block| block.length as usize).sum::<usize>();
        Self { pins: Arc::new(pins), pages, blocks, headers, length, sent: 0 }
    }

    /// Whether the rest can be sent now.
    fn renew(&mut self, store: &Store, now: Instant) -> bool {
        let (first, sent) = self.first_unsent();
        let from = self.blocks.get(first).map_or(0, |block| block.begin - self.blocks[0].begin);
        let within = sent.saturating_sub(PIECE_HEADER_BYTES) as u32;
        store.renew_now(&self.pins, &mut self.pages, from + within, now)
    }

    fn add_parts<'a>(&'a self, parts: &mut Vec<Part<'a>>) {
        let (first, mut sent) = self.first_unsent();
        for (block, header) in self.blocks.iter().zip(self.headers.chunks(PIECE_HEADER_BYTES)).skip(first) {
            if sent < header.len() {
                parts.push(Part::Bytes(&header[sent..]));
            }
            let within = sent.saturating_sub(header.len()) as u32;
            parts.push(self.pages.part(block.begin - self.blocks[0].begin + within, block.length - within));
            sent = 0;
        }
    }

    /// The first block that has not been sent whole, and how many bytes of it and its header have been.
    fn first_unsent(&self) -> (usize, usize) {
        let mut sent = self.sent;
        for (index, block) in self.blocks.iter().enumerate() {
            let length = PIECE_HEADER_BYTES + block.length as usize;
            if sent < length {
                return (index, sent);
            }
            sent -= length;
        }
        (self.blocks.len(), 0)
    }

    /// Has a disk thread read what has not been sent.
    fn read_rest(&self, store: &Arc<Store>, pool: &DiskPool) -> oneshot::Receiver<BytesMut> {
        let (sender, receiver) = oneshot::channel();
        let (first, sent) = self.first_unsent();
        let (blocks, pins, store) = (self.blocks[first..].to_vec(), self.pins.clone(), store.clone());
        let length = self.length - self.sent + sent;
        pool.submit(Lane::Urgent, move || {
            let mut bytes = BytesMut::with_capacity(length);
            for block in blocks {
                if let Err(error) = put_block(block, &mut bytes, |data| store.read_block(&pins, block, data)) {
                    // The sender is dropped: that says it all.
                    return debug!(piece = block.piece.raw(), %error, "upload not read");
                }
            }
            bytes.advance(sent);
            let _ = sender.send(bytes);
        });
        receiver
    }
}

/// Puts a block, as `read` fills it, behind its header.
fn put_block<T>(block: BlockRef, bytes: &mut BytesMut, read: impl FnOnce(&mut [u8]) -> T) -> T {
    bytes.put_slice(&header(block));
    let start = bytes.len();
    bytes.resize(start + block.length as usize, 0);
    read(&mut bytes[start..])
}

fn header(block: BlockRef) -> [u8; PIECE_HEADER_BYTES] {
    codec::piece_header(block.piece.raw(), block.begin, block.length)
}
