//! Requests and what becomes of them: blocks, rejects, chokes, silence.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::Torrent;
use crate::base::{BlockRef, PieceIndex};
use crate::engine::assembly::{BlockId, Partial, Taken};
use crate::engine::critical::Class;
use crate::engine::peer::{NewRequest, Peer};
use crate::engine::{CloseReason, PeerKey};
use crate::proto::wire::{BlockRequest, Message};

impl Torrent {
    /// Asks a peer for a block, expected in `expected` seconds; false when it cannot be asked.
    pub(super) fn ask(&mut self, now: Instant, key: PeerKey, block: BlockId, expected: f64, warm: bool) -> bool {
        let Some(range) = self.layout.block(block.piece, block.number as usize) else { return false };
        let Some(peer) = self.peers.get_mut(&key) else { return false };
        if peer.request(block).is_some() || !self.assembly.ask(block, key) {
            return false;
        }
        let expected = expected.min(EXPECTED_MAX);
        let patience = Duration::from_secs_f64(expected + peer.pace.spread(expected));
        // What is expected of a newcomer is a guess.
        let due = now + patience.min(if peer.pace.is_proven() { EXPIRY } else { HASTE });
        let expected = Duration::from_secs_f64(expected);
        peer.ask(now, block, NewRequest { expected, due, bytes: range.length, warm });
        self.spend(now, range.length);
        self.due.insert((due, key, block));
        self.late.remove(&block);
        self.note_openness(block.piece);
        self.send(key, Message::Request(wire(range)));
        true
    }

    /// Forgets all requests to a peer that `which` names; their blocks are free, and taken if they come yet.
    pub(super) fn free_requests(&mut self, now: Instant, key: PeerKey, which: impl Fn(&Peer, BlockId) -> bool) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let freed: Vec<_> = peer.requests().map(|(block, _)| block).filter(|&block| which(peer, block)).collect();
        for block in freed {
            self.free_request(now, key, block);
        }
    }

    fn free_request(&mut self, now: Instant, key: PeerKey, block: BlockId) {
        let Some(request) = self.peers.get_mut(&key).and_then(|peer| peer.free(now, block)) else { return };
        self.due.remove(&(request.due, key, block));
        self.refund(now, request.bytes);
        if self.assembly.unask(block, key) {
            self.late.remove(&block);
            self.note_openness(block.piece);
            self.dirty.everybody = true;
        }
    }

    /// Takes a request back, on the wire as well.
    pub(super) fn cancel(&mut self, now: Instant, key: PeerKey, block: BlockId) {
        if self.peers.get(&key).is_some_and(|peer| peer.request(block).is_some()) {
            self.free_request(now, key, block);
            if let Some(range) = self.layout.block(block.piece, block.number as usize) {
                self.send(key, Message::Cancel(wire(range)));
            }
        }
    }

    /// Who is asked for which blocks of a piece.
    fn asked_for(&self, piece: PieceIndex) -> Vec<(PeerKey, BlockId)> {
        let Some(partial) = self.assembly.get(piece) else { return Vec::new() };
        let requesters = |number| partial.requesters(number).map(move |key| (key, BlockId { piece, number }));
        partial.awaited().flat_map(requesters).collect()
    }

    /// Cancels what is asked of a piece that nobody wants any more; what keeps a connection warm stays.
    pub(super) fn cancel_piece(&mut self, now: Instant, piece: PieceIndex, all: bool) {
        for (key, block) in self.asked_for(piece) {
            let warm = self.peers.get(&key).and_then(|peer| peer.request(block)).is_some_and(|request| request.warm);
            if all || !warm {
                self.cancel(now, key, block);
            }
        }
    }

    /// A block has come.
    pub(super) fn block(
        &mut self,
        now: Instant,
        key: PeerKey,
        piece: u32,
        begin: u32,
        data: Bytes,
    ) -> Result<(), CloseReason> {
        let bytes = u32::try_from(data.len()).unwrap_or(u32::MAX);
        self.spend(now, bytes);
        let Some(peer) = self.peers.get_mut(&key) else { return Ok(()) };
        self.totals.received.add(now, data.len() as u64);
        let Some(range) = self.layout.block_ref(piece, begin, bytes) else {
            self.totals.wasted_bytes += data.len() as u64;
            if data.is_empty() && self.layout.piece(piece).is_some() {
                return self.unasked(key);
            }
            return Err(CloseReason::Protocol("block out of range"));
        };
        let block = BlockId::of(&self.layout, range);
        let request = block.and_then(|block| peer.settle(block));
        let Some(block) = block.filter(|&block| request.is_some() || peer.was_freed(now, block)) else {
            self.totals.wasted_bytes += u64::from(bytes);
            return self.unasked(key);
        };
        peer.served(now, block, request.as_ref(), bytes);
        if let Some(request) = request {
            self.due.remove(&(request.due, key, block));
            // That was spent when it was asked for.
            self.refund(now, request.bytes);
        }
        self.dirty.peers.insert(key);
        let Taken::Fresh { others, progress } = self.assembly.take(block, key, data) else {
            self.totals.wasted_bytes += u64::from(bytes);
            return Ok(());
        };
        self.late.remove(&block);
        for other in others {
            self.outrun(now, other, block);
        }
        if progress {
            self.reads.progressed(now, block.piece);
        }
        self.note_openness(block.piece);
        self.hasten_tail(now, block.piece);
        self.write_whole(now, block);
        Ok(())
    }

    /// Somebody else has brought what this peer was asked for. If it is late with that and has sent nothing since, it is
    /// left alone for a while: a dead peer must not hold a share of every piece.
    fn outrun(&mut self, now: Instant, key: PeerKey, block: BlockId) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let silent = |sent| peer.last_block.is_none_or(|last| last < sent);
        let late =
            peer.request(block).filter(|request| request.late && silent(request.sent)).map(|request| request.sent);
        if let Some(sent) = peer.request(block).filter(|request| request.late).map(|request| request.sent) {
            // Who answers some requests and drops others is slower than what he sends comes.
            peer.pace.missed(now, sent);
        }
        if let Some(sent) = late {
            let until = peer.failed(now, sent);
            self.wake.insert((until, key));
        }
        self.cancel(now, key, block);
    }

    /// The last blocks of a piece that readers wait for are expected by what is known now, not by what was known when
    /// they were asked: a peer that turns out slow or dead must not hold them.
    fn hasten_tail(&mut self, now: Instant, piece: PieceIndex) {
        let awaited = |partial: &Partial| partial.awaited().take(TAIL_MAX + 1).count();
        let Some(awaited) = self.assembly.get(piece).filter(|partial| partial.free() == 0).map(awaited) else { return };
        // A longer tail is looked at now and then: it is soon over if all goes well, and else one of many peers holds it.
        let now_and_then = awaited <= TAIL_MAX && awaited.is_multiple_of(TAIL);
        if self.demand.class(piece) != Some(Class::Blocked) || (awaited > TAIL && !now_and_then) {
            return;
        }
        let turn = self.turn(now);
        if awaited > TAIL && !turn.brings_within(awaited, TAIL_SECONDS) {
            return;
        }
        for (key, block) in self.asked_for(piece) {
            let Some(peer) = self.peers.get(&key) else { continue };
            let Some(request) = peer.request(block).filter(|request| !request.late) else { continue };
            let due = self.expected_by(&turn, peer, request).max(now);
            if due < request.due {
                self.due.remove(&(request.due, key, block));
                self.due.insert((due, key, block));
                if let Some(request) = self.peers.get_mut(&key).and_then(|peer| peer.request_mut(block)) {
                    request.due = due;
                }
            }
        }
    }

    fn unasked(&mut self, key: PeerKey) -> Result<(), CloseReason> {
        if self.peers.get_mut(&key).is_some_and(Peer::is_pushing) {
            return Err(CloseReason::Protocol("blocks that nobody asked for"));
        }
        Ok(())
    }

    /// A request was refused.
    pub(super) fn rejected(&mut self, now: Instant, key: PeerKey, range: Option<BlockRef>) -> Result<(), CloseReason> {
        let block = range.and_then(|range| BlockId::of(&self.layout, range));
        let Some(peer) = self.peers.get_mut(&key) else { return Ok(()) };
        // The answer to a request that was taken back, even if the block was asked again since.
        if block.is_some_and(|block| peer.was_freed(now, block)) {
            return Ok(());
        }
        let Some((block, request)) = block.and_then(|block| Some((block, peer.settle(block)?))) else {
            return self.useless(now, key);
        };
        if peer.peer_choking {
            peer.allowed_fast.remove(&block.piece);
        }
        let until = peer.refused(now, block, request.sent);
        self.wake.insert((until, key));
        self.due.remove(&(request.due, key, block));
        self.refund(now, request.bytes);
        self.assembly.unask(block, key);
        self.late.remove(&block);
        self.note_openness(block.piece);
        self.release_sole(now, key);
        self.dirty.everybody = true;
        Ok(())
    }

    /// Looks after requests whose time has come.
    pub(super) fn expire_requests(&mut self, now: Instant) {
        while let Some(&(at, key, block)) = self.due.first().filter(|(at, ..)| *at <= now) {
            self.due.remove(&(at, key, block));
            let Some(peer) = self.peers.get_mut(&key) else { continue };
            let last_block = peer.last_block;
            let oldest = peer.oldest() == Some(block);
            let Some(request) = peer.request_mut(block) else { continue };
            let expired = now.saturating_duration_since(request.sent) >= EXPIRY;
            if !request.late && !expired {
                // Overdue: one more peer may be asked, and patience has a next end.
                request.late = true;
                request.due = (request.sent + EXPIRY).max(now + Duration::from_millis(1));
                self.due.insert((request.due, key, block));
                self.overdue(now, block);
                continue;
            }
            let silent = now.saturating_duration_since(last_block.unwrap_or(request.sent).max(request.sent)) >= EXPIRY;
            let passed_over = oldest && last_block.is_some_and(|last| last > request.sent + request.expected * 4);
            if silent {
                self.snub(now, key);
            } else if passed_over {
                self.free_request(now, key, block);
            } else {
                request.late = true;
                request.due = now + RECHECK;
                self.due.insert((request.due, key, block));
                self.overdue(now, block);
            }
        }
    }

    /// A block is late: if it is wanted in time, somebody else may bring it as well.
    fn overdue(&mut self, now: Instant, block: BlockId) {
        if self.demand.class(block.piece).is_some() {
            if let Some(sole) = self.assembly.get(block.piece).and_then(|partial| partial.sole()) {
                self.entrust_another(now, block.piece, sole);
            }
            self.late.insert(block);
            self.dirty.everybody = true;
        }
    }

    /// A peer has sent nothing for 20 s although it was asked: everything is free, and it gets one request at a time.
    fn snub(&mut self, now: Instant, key: PeerKey) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.snubbed = true;
        let until = peer.failed(now, now);
        self.wake.insert((until, key));
        self.free_requests(now, key, |_, _| true);
        self.release_sole(now, key);
    }

    /// Readers wait for these pieces since now: what is asked of others is hedged sooner.
    pub(super) fn hasten(&mut self, now: Instant, piece: PieceIndex) {
        for (key, block) in self.asked_for(piece) {
            let Some(request) = self.peers.get_mut(&key).and_then(|peer| peer.request_mut(block)) else { continue };
            let soon = now + HASTE;
            if !request.late && request.due > soon {
                self.due.remove(&(request.due, key, block));
                request.due = soon;
                self.due.insert((soon, key, block));
            } else if request.late {
                self.overdue(now, block);
            }
        }
    }

    /// Tells those who pick whether a piece has blocks that nobody was asked for.
    pub(super) fn note_openness(&mut self, piece: PieceIndex) {
        let Some(partial) = self.assembly.get(piece) else { return };
        let free = partial.free();
        self.demand.set_free(piece, free);
        self.background.set_open(piece, free > 0);
    }
}

fn wire(range: BlockRef) -> BlockRequest {
    BlockRequest { piece: range.piece.raw(), begin: range.begin, length: range.length }
}

/// A request without an answer for this long is as good as none, from a peer that sends nothing else either.
const EXPIRY: Duration = Duration::from_secs(20);
const EXPECTED_MAX: f64 = 60.0;
/// Blocks of a piece whose arrival is looked at block by block; more of them, up to a bound and if all together could
/// send them so soon, once for so many.
const TAIL: usize = 16;
const TAIL_MAX: usize = 512;
const TAIL_SECONDS: f64 = 0.3;
const RECHECK: Duration = Duration::from_secs(5);
/// A block that was asked before a reader waited for it, or of a newcomer, is hedged after this long at most.
const HASTE: Duration = Duration::from_secs(1);
