//! What one peer asked for: checked, queued, read, and put behind the messages that go out.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::debug;

use super::outgoing::{Outgoing, Run};
use crate::base::{BLOCK_BYTES, BlockRef, PieceIndex, PieceRange};
use crate::engine::PeerEvent;
use crate::engine::limit::{Allowance, Claim};
use crate::proto::wire::{BlockRequest, Message, codec};
use crate::storage::{DiskPool, Lane, Mapping, Store};

/// The uploads of one connection.
pub(super) struct Uploader {
    store: Arc<Store>,
    pool: DiskPool,
    fast: bool,
    choked: bool,
    /// Pieces that may be asked for while choked (BEP 6), and bytes of each that are still given so: nobody fetches one
    /// for ever.
    allowed: HashMap<PieceIndex, u64>,
    queue: VecDeque<BlockRef>,
    /// Blocks that a disk thread reads: never more than [`MAX_COLD_READS`], so the channel is bounded by that.
    cold: VecDeque<BlockRef>,
    cold_sender: mpsc::UnboundedSender<ColdBlock>,
    cold_receiver: mpsc::UnboundedReceiver<ColdBlock>,
    /// What was mapped last: the next blocks are often near.
    mapping: Option<Arc<Mapping>>,
    uploaded: u64,
    /// How much may be sent, and when to look again after less could be than was asked for.
    allowance: Allowance,
    held_back: Option<Instant>,
}

/// A block that a disk thread has read, or not.
pub(super) struct ColdBlock {
    block: BlockRef,
    data: Option<Vec<u8>>,
}

impl Uploader {
    pub(super) fn new(fast: bool, store: Arc<Store>, pool: DiskPool, allowance: Allowance) -> Self {
        let (cold_sender, cold_receiver) = mpsc::unbounded_channel();
        Self {
            store,
            pool,
            fast,
            choked: true,
            allowed: HashMap::new(),
            queue: VecDeque::new(),
            cold: VecDeque::new(),
            cold_sender,
            cold_receiver,
            mapping: None,
            uploaded: 0,
            allowance,
            held_back: None,
        }
    }

    /// Takes a request, or refuses it.
    pub(super) fn request(&mut self, request: BlockRequest, out: &mut Outgoing) {
        let block = self.store.layout().block_ref(request.piece, request.begin, request.length);
        match block.filter(|block| block.length <= MAX_REQUEST_BYTES && self.may_have(*block)) {
            Some(block) if self.queue.len() < MAX_QUEUE => self.queue.push_back(block),
            _ => self.reject(request, out),
        }
    }

    /// Forgets a request that has not been answered yet. The fast extension wants an answer even so.
    pub(super) fn cancel(&mut self, request: BlockRequest, out: &mut Outgoing) {
        if let Some(index) = self.queue.iter().position(|block| as_request(*block) == request) {
            self.queue.remove(index);
            self.reject(request, out);
        }
    }

    /// Acts on a message of ours that was just put into `out`.
    pub(super) fn sent(&mut self, message: &Message, out: &mut Outgoing) {
        match message {
            Message::Unchoke => self.choked = false,
            Message::Choke => {
                self.choked = true;
                for block in std::mem::take(&mut self.queue) {
                    if self.may_have(block) {
                        self.queue.push_back(block);
                    } else {
                        self.reject(as_request(block), out);
                    }
                }
            }
            Message::AllowedFast(piece) => {
                if let Some(piece) = self.store.layout().piece(*piece) {
                    let bytes = u64::from(self.store.layout().piece_bytes(piece));
                    self.allowed.insert(piece, ALLOWED_FAST_TIMES * bytes);
                }
            }
            _ => {}
        }
    }

    /// Answers requests until `ahead_bytes` wait in `out`, or too many of them in memory of ours, or no more may be sent now.
    pub(super) fn fill(&mut self, out: &mut Outgoing, ahead_bytes: usize) {
        self.held_back = None;
        while !self.queue.is_empty()
            && out.len() < ahead_bytes
            && out.held_bytes() < MAX_HELD_BYTES
            && self.cold.len() < MAX_COLD_READS
        {
            let room = self.room();
            if room == 0 {
                return;
            }
            if self.answer_run(room.min(ahead_bytes - out.len()), out) {
                continue;
            }
            let Some(block) = self.queue.pop_front() else { return };
            self.answer(block, out);
        }
    }

    /// When requests can be answered that cannot now, for the sake of a bound on the rate.
    pub(super) fn held_back_until(&self) -> Option<Instant> {
        self.held_back
    }

    /// Bytes that may be sent now; when none may, notes when to look again.
    fn room(&mut self) -> usize {
        if !self.allowance.is_bounded() {
            return usize::MAX;
        }
        let now = Instant::now();
        let room = self.allowance.room(now.into_std(), Claim::Urgent) as usize;
        if room == 0 {
            self.held_back = Some(now + self.allowance.wait(now.into_std(), Claim::Urgent));
        }
        room
    }

    /// Gives memory back.
    pub(super) fn shrink(&mut self) {
        self.mapping = None;
    }

    /// The next block from a disk thread; pending while none is being read. Cancel-safe.
    pub(super) async fn cold_block(&mut self) -> ColdBlock {
        self.cold_receiver.recv().await.expect("a sender lives in self")
    }

    /// Puts a block from a disk thread into `out`.
    pub(super) fn finish(&mut self, read: ColdBlock, out: &mut Outgoing) {
        if let Some(index) = self.cold.iter().position(|block| *block == read.block) {
            self.cold.remove(index);
        }
        match read.data {
            // A choke in between has taken the request back.
            Some(data) if self.may_have(read.block) => {
                out.push_block(read.block, &data);
                self.count(read.block);
            }
            _ => self.reject(as_request(read.block), out),
        }
    }

    /// Bytes sent since the last call, if any.
    pub(super) fn take_uploaded(&mut self) -> Option<PeerEvent> {
        let bytes = std::mem::take(&mut self.uploaded);
        (bytes > 0).then_some(PeerEvent::Uploaded { bytes })
    }

    /// Whether [`take_uploaded`](Self::take_uploaded) has something to give.
    pub(super) fn has_uploaded(&self) -> bool {
        self.uploaded > 0
    }

    /// Whether the peer is unchoked, or the block is in its fast set and not used up.
    fn may_have(&self, block: BlockRef) -> bool {
        !self.choked || self.allowed.get(&block.piece).is_some_and(|&left| left >= u64::from(block.length))
    }

    /// Answers the first requests of the queue by a run of blocks, if they follow one another and all is in memory: about
    /// `room_bytes`, at least one block. False: it has done nothing.
    fn answer_run(&mut self, room_bytes: usize, out: &mut Outgoing) -> bool {
        // What is given to the choked is counted block by block.
        let Some(first) = self.queue.front().filter(|_| !self.choked) else { return false };
        let mut run = *first;
        let mut count = 1;
        for block in self.queue.iter().skip(1) {
            let follows = block.piece == run.piece && block.begin == run.begin + run.length;
            if !follows || (run.length + block.length) as usize > room_bytes {
                break;
            }
            run.length += block.length;
            count += 1;
        }
        if run.length < MIN_RUN_BYTES {
            return false;
        }
        // I2: a piece that is not present (any more) is refused, never a hole.
        let Some(pins) = self.store.table().pin(PieceRange::one(run.piece)) else { return false };
        let Some(pages) = self.store.try_map_now(&pins, run, self.mapping.as_ref()) else { return false };
        self.mapping = Some(pages.mapping().clone());
        let blocks: Vec<_> = self.queue.drain(..count).collect();
        blocks.iter().for_each(|block| self.count(*block));
        out.push(Run::new(pins, pages, blocks));
        true
    }

    fn answer(&mut self, block: BlockRef, out: &mut Outgoing) {
        // What was queued before may have used the fast set up.
        if !self.may_have(block) {
            return self.reject(as_request(block), out);
        }
        // I2: read under a pin; a piece that is not present (any more) is refused, never a hole.
        let Some(pins) = self.store.table().pin(PieceRange::one(block.piece)) else {
            return self.reject(as_request(block), out);
        };
        let read = out.push_read(block, |data| self.store.try_read_block_now(&pins, block, data));
        match read {
            Ok(true) => self.count(block),
            Ok(false) => {
                self.cold.push_back(block);
                let reading = Reading { block, sender: self.cold_sender.clone(), data: None };
                let store = self.store.clone();
                self.pool.submit(Lane::Urgent, move || {
                    let mut data = vec![0; block.length as usize];
                    match store.read_block(&pins, block, &mut data) {
                        Ok(()) => reading.done(data),
                        Err(error) => debug!(piece = block.piece.raw(), %error, "upload not read"),
                    }
                });
            }
            Err(error) => {
                debug!(piece = block.piece.raw(), %error, "upload not read");
                self.reject(as_request(block), out);
            }
        }
    }

    fn count(&mut self, block: BlockRef) {
        self.uploaded += u64::from(block.length);
        if self.allowance.is_bounded() {
            self.allowance.spend(Instant::now().into_std(), block.length.into());
        }
        if self.choked
            && let Some(left) = self.allowed.get_mut(&block.piece)
        {
            *left = left.saturating_sub(u64::from(block.length));
        }
    }

    /// Peers that do not speak the fast extension are left to find out.
    fn reject(&self, request: BlockRequest, out: &mut Outgoing) {
        if self.fast {
            codec::encode(&Message::Reject(request), out.bytes());
        }
    }
}

/// Sends its outcome when dropped: a disk thread that panics answers too.
struct Reading {
    block: BlockRef,
    sender: mpsc::UnboundedSender<ColdBlock>,
    data: Option<Vec<u8>>,
}

impl Reading {
    fn done(mut self, data: Vec<u8>) {
        self.data = Some(data);
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let _ = self.sender.send(ColdBlock { block: self.block, data: self.data.take() });
    }
}

fn as_request(block: BlockRef) -> BlockRequest {
    BlockRequest { piece: block.piece.raw(), begin: block.begin, length: block.length }
}

/// Requests of one peer that wait; what goes beyond is refused.
const MAX_QUEUE: usize = 500;
/// The longest block that is given.
const MAX_REQUEST_BYTES: u32 = 128 * 1024;
/// Blocks of one peer that disk threads read at a time.
const MAX_COLD_READS: usize = 8;
/// Bytes that wait in memory of ours before no more requests are answered (I7).
const MAX_HELD_BYTES: usize = 256 * 1024;
/// Shorter runs are read: to map them costs as much.
const MIN_RUN_BYTES: u32 = BLOCK_BYTES;
/// How many times a piece of the fast set is given to a choked peer.
const ALLOWED_FAST_TIMES: u64 = 2;

#[cfg(test)]
mod tests;
