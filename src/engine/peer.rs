//! One connection's protocol state: choke and interest both ways, what it has, what it was asked.
//!
//! Decides nothing that concerns other peers; sends nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::assembly::BlockId;
use super::availability::Counted;
use super::pace::Pace;
use super::{Connected, PeerKey, Source};
use crate::base::{Bitfield, PeerId, PieceIndex, RateMeter};

/// A request that is not answered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request {
    pub sent: Instant,
    pub expected: Duration,
    /// When something happens about it next: a hedge, then its end. Mirrors the torrent's table.
    pub due: Instant,
    pub bytes: u32,
    /// Bytes that were asked of the peer before.
    pub ahead_bytes: u64,
    /// It has been found overdue.
    pub late: bool,
    /// Kept although nobody wants the piece: it keeps the connection warm.
    pub warm: bool,
    sequence: u64,
}

/// A wait that doubles with every failure: 1, 2, 4 ... 60 s.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backoff {
    pub until: Instant,
    set: Instant,
    step: Duration,
}

impl Backoff {
    /// One more failure, of something begun at `began`; failures of one burst count once.
    fn fail(slot: Option<Self>, now: Instant, began: Instant) -> Self {
        match slot {
            Some(last) if began <= last.set => last,
            Some(last) => Self::wait(now, (last.step * 2).min(BACKOFF_MAX)),
            None => Self::wait(now, BACKOFF_MIN),
        }
    }

    fn wait(now: Instant, step: Duration) -> Self {
        Self { until: now + step, set: now, step }
    }
}

/// One connected peer.
#[derive(Debug)]
pub(crate) struct Peer {
    pub key: PeerKey,
    pub addr: SocketAddr,
    pub peer_id: PeerId,
    pub outgoing: bool,
    pub source: Source,
    pub fast: bool,
    pub extended: bool,
    pub connected_at: Instant,
    /// Anything at all was received.
    pub last_heard: Instant,
    /// Since when it was last seen to be of use: a block either way, an unchoke.
    pub last_useful: Instant,
    /// What it has.
    pub pieces: Bitfield,
    /// How that is counted among what all have.
    pub counted: Counted,
    /// A message other than an extended one has come: too late for a bitfield.
    pub started: bool,
    /// It takes nothing (BEP 21).
    pub upload_only: bool,
    /// Under which id it takes `lt_donthave` (BEP 54).
    pub donthave: Option<u8>,
    /// From its extension handshake.
    pub client: Option<String>,
    /// Requests that it queues.
    pub queue_limit: usize,
    pub am_choking: bool,
    pub am_interested: bool,
    /// That was said in the opening only.
    pub interest_in_opening: bool,
    pub peer_choking: bool,
    pub peer_interested: bool,
    pub unchoked_at: Option<Instant>,
    /// When it last had something that was wanted at that time.
    pub last_wanted: Option<Instant>,
    /// The state of background demand in which it had nothing to give.
    pub exhausted: u64,
    /// It was told of pieces that it may have while we choke it.
    pub fast_offered: bool,
    /// Pieces that it serves while it chokes us.
    pub allowed_fast: BTreeSet<PieceIndex>,
    pub pace: Pace,
    pub received: RateMeter,
    pub sent: RateMeter,
    /// What it gets from everybody, by the pieces that it tells of.
    pub gained: RateMeter,
    /// It owes us blocks and does not send.
    pub snubbed: bool,
    pub last_block: Option<Instant>,
    pub last_request: Option<Instant>,
    requests: BTreeMap<BlockId, Request>,
    order: BTreeMap<u64, BlockId>,
    next_sequence: u64,
    outstanding_bytes: u64,
    /// Requests taken back or lost: their blocks may still come.
    freed: BTreeMap<BlockId, Instant>,
    backoff: Option<Backoff>,
    refusals: BTreeMap<PieceIndex, Backoff>,
    unasked: u32,
    useless: u32,
    useless_since: Instant,
}

impl Peer {
    pub(crate) fn new(now: Instant, key: PeerKey, connected: &Connected, source: Source, pieces: usize) -> Self {
        Self {
            key,
            addr: connected.addr,
            peer_id: connected.peer_id,
            outgoing: connected.outgoing,
            source,
            fast: connected.fast,
            extended: connected.extended,
            connected_at: now,
            last_heard: now,
            last_useful: now,
            pieces: Bitfield::new(pieces),
            counted: Counted::PieceByPiece,
            started: false,
            upload_only: false,
            donthave: None,
            client: None,
            queue_limit: DEFAULT_QUEUE,
            am_choking: true,
            am_interested: false,
            interest_in_opening: false,
            peer_choking: true,
            peer_interested: false,
            unchoked_at: None,
            last_wanted: None,
            exhausted: 0,
            fast_offered: false,
            allowed_fast: BTreeSet::new(),
            pace: Pace::new(),
            received: RateMeter::new(now),
            sent: RateMeter::new(now),
            gained: RateMeter::new(now),
            snubbed: false,
            last_block: None,
            last_request: None,
            requests: BTreeMap::new(),
            order: BTreeMap::new(),
            next_sequence: 0,
            outstanding_bytes: 0,
            freed: BTreeMap::new(),
            backoff: None,
            refusals: BTreeMap::new(),
            unasked: 0,
            useless: 0,
            useless_since: now,
        }
    }

    /// Books a request that leaves now.
    pub(crate) fn ask(&mut self, now: Instant, block: BlockId, request: NewRequest) {
        self.pace.requested(now, self.requests.is_empty());
        self.last_request = Some(now);
        self.next_sequence += 1;
        self.order.insert(self.next_sequence, block);
        let ahead_bytes = self.outstanding_bytes;
        self.outstanding_bytes += u64::from(request.bytes);
        self.requests.insert(
            block,
            Request {
                sent: now,
                expected: request.expected,
                due: request.due,
                bytes: request.bytes,
                ahead_bytes,
                late: false,
                warm: request.warm,
                sequence: self.next_sequence,
            },
        );
    }

    /// Forgets a request that was answered or refused.
    pub(crate) fn settle(&mut self, block: BlockId) -> Option<Request> {
        let request = self.requests.remove(&block)?;
        self.order.remove(&request.sequence);
        self.outstanding_bytes -= u64::from(request.bytes);
        Some(request)
    }

    /// Forgets a request whose block may still come.
    pub(crate) fn free(&mut self, now: Instant, block: BlockId) -> Option<Request> {
        let request = self.settle(block)?;
        if self.freed.len() >= FREED_MAX {
            self.freed.retain(|_, since| now.saturating_duration_since(*since) < FREED_MEMORY);
        }
        if self.freed.len() < FREED_MAX {
            self.freed.insert(block, now);
        }
        Some(request)
    }

    /// Whether an answer to a request that we have taken back or given up may still come; forgets it. With the fast
    /// extension such a request is answered too, by its block or by a reject (BEP 6), before any newer one.
    pub(crate) fn was_freed(&mut self, now: Instant, block: BlockId) -> bool {
        self.freed.remove(&block).is_some_and(|since| now.saturating_duration_since(since) < FREED_MEMORY)
    }

    /// A block came that was asked: the peer is fine.
    pub(crate) fn served(&mut self, now: Instant, block: BlockId, request: Option<&Request>, bytes: u32) {
        if let Some(request) = request {
            self.pace.block(now, request.sent, request.expected, bytes);
        }
        self.received.add(now, u64::from(bytes));
        self.last_block = Some(now);
        self.last_useful = now;
        self.snubbed = false;
        self.backoff = None;
        // Only what was asked after a refusal shows that it is over.
        let over = |refusal: &Backoff| request.is_some_and(|request| request.sent > refusal.set);
        if self.refusals.get(&block.piece).is_some_and(over) {
            self.refusals.remove(&block.piece);
        }
    }

    /// It refused a block of a piece; until when to leave it alone.
    pub(crate) fn refused(&mut self, now: Instant, block: BlockId, sent: Instant) -> Instant {
        let of_piece = Backoff::fail(self.refusals.get(&block.piece).copied(), now, sent);
        if self.refusals.len() < REFUSALS_MAX || self.refusals.contains_key(&block.piece) {
            self.refusals.insert(block.piece, of_piece);
        }
        // A refusal amid blocks concerns the piece; one after nothing else concerns the peer.
        if self.last_block.is_none_or(|last| last < sent) {
            return self.failed(now, sent).max(of_piece.until);
        }
        of_piece.until
    }

    /// It gave nothing for a request of `sent`; until when to leave it alone.
    pub(crate) fn failed(&mut self, now: Instant, sent: Instant) -> Instant {
        let backoff = Backoff::fail(self.backoff, now, sent);
        self.backoff = Some(backoff);
        self.pace.restart();
        backoff.until
    }

    /// Counts a message that is of no use; true when there are too many of them.
    pub(crate) fn is_flooding(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.useless_since) >= Duration::from_secs(1) {
            (self.useless, self.useless_since) = (0, now);
        }
        self.useless += 1;
        self.useless > USELESS_PER_SECOND
    }

    /// Counts a block that was never asked; true when there are too many of them.
    pub(crate) fn is_pushing(&mut self) -> bool {
        self.unasked += 1;
        self.unasked > UNASKED_MAX
    }

    /// Whether it would answer requests, were it not left alone.
    pub(crate) fn would_answer(&self) -> bool {
        !self.peer_choking || !self.allowed_fast.is_empty()
    }

    /// Until when it is left alone wholly; may lie in the past.
    pub(crate) fn rests_until(&self) -> Option<Instant> {
        self.backoff.map(|backoff| backoff.until)
    }

    /// Whether it would answer requests at all now.
    pub(crate) fn can_serve(&self, now: Instant) -> bool {
        self.would_answer() && self.rests_until().is_none_or(|until| until <= now)
    }

    /// Whether it can be asked for blocks of this piece now.
    pub(crate) fn may_ask(&self, now: Instant, piece: PieceIndex) -> bool {
        self.pieces.has(piece)
            && (!self.peer_choking || self.allowed_fast.contains(&piece))
            && self.backoff.is_none_or(|backoff| backoff.until <= now)
            && (self.refusals.is_empty() || self.refusals.get(&piece).is_none_or(|refusal| refusal.until <= now))
    }

    /// Whether it is left alone for a while, wholly or for some pieces.
    pub(crate) fn is_waiting(&self) -> bool {
        self.backoff.is_some() || !self.refusals.is_empty()
    }

    /// How many more requests its pipeline takes: what covers its round trip and `slack`, and `extra`.
    pub(crate) fn room(&self, slack: Duration, extra: usize) -> usize {
        let depth = match (self.snubbed, self.backoff) {
            (true, _) => 1,
            (false, Some(_)) => PROBATION_DEPTH,
            (false, None) => self.pace.depth(slack) + extra,
        };
        depth.min(self.queue_limit).saturating_sub(self.requests.len())
    }

    pub(crate) fn request(&self, block: BlockId) -> Option<&Request> {
        self.requests.get(&block)
    }

    pub(crate) fn request_mut(&mut self, block: BlockId) -> Option<&mut Request> {
        self.requests.get_mut(&block)
    }

    /// Unanswered requests, in order of blocks.
    pub(crate) fn requests(&self) -> impl Iterator<Item = (BlockId, &Request)> {
        self.requests.iter().map(|(&block, request)| (block, request))
    }

    /// The request that waits longest.
    pub(crate) fn oldest(&self) -> Option<BlockId> {
        self.order.values().next().copied()
    }

    /// Whether what it was asked first is overdue.
    pub(crate) fn is_late(&self) -> bool {
        self.oldest().and_then(|block| self.requests.get(&block)).is_some_and(|request| request.late)
    }

    pub(crate) fn outstanding(&self) -> usize {
        self.requests.len()
    }

    pub(crate) fn outstanding_bytes(&self) -> u64 {
        self.outstanding_bytes
    }

    pub(crate) fn is_seed(&self) -> bool {
        self.pieces.is_full()
    }

    /// Checks what must always hold; for debug builds and tests.
    pub(crate) fn check(&self) {
        assert_eq!(self.requests.len(), self.order.len());
        assert_eq!(self.outstanding_bytes, self.requests.values().map(|request| u64::from(request.bytes)).sum::<u64>());
        assert!(self.freed.len() <= FREED_MAX);
    }
}

/// What is to be remembered of a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewRequest {
    pub expected: Duration,
    pub due: Instant,
    pub bytes: u32,
    pub warm: bool,
}

/// Requests that a peer queues when it does not say (`reqq`, BEP 10): what libtorrent assumes.
const DEFAULT_QUEUE: usize = 250;
/// Requests at a time to a peer that has refused everything lately: a few, lest it refuse just that one.
const PROBATION_DEPTH: usize = 4;
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// I7: freed requests and refusals that are remembered.
const FREED_MAX: usize = 2048;
const FREED_MEMORY: Duration = Duration::from_secs(60);
const REFUSALS_MAX: usize = 1024;
const USELESS_PER_SECOND: u32 = 1000;
const UNASKED_MAX: u32 = 10;
