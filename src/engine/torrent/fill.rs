//! Who is asked for what: fills the pipelines of peers that have room, most urgent blocks first.
//!
//! Peers come in the order in which they would deliver a block (eta). Each takes the first open block of the demand
//! that the others would not bring sooner: equals share a piece between them, a slow peer takes something further on,
//! or nothing. Only peers whose state changed are looked at, unless the demand did.

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use super::Torrent;
use super::disk::Memory;
use crate::base::{BLOCK_BYTES, PieceIndex};
use crate::engine::PeerKey;
use crate::engine::assembly::{BlockId, Phase};
use crate::engine::critical::{Class, Crew};
use crate::engine::pace::{LONG_SLACK, SHORT_SLACK};
use crate::engine::peer::{Peer, Request};
use crate::engine::picker::Choice;

/// What is the same for all picks of one turn.
pub(super) struct Turn {
    now: Instant,
    memory: Memory,
    /// Rate assumed of a peer that sent nothing yet.
    mean: f64,
    /// Round trip assumed of such a peer, in seconds.
    rtt: f64,
    /// Everybody who serves us.
    all: Crew,
    /// Somebody left a block that a reader waits for to faster peers.
    left_to_others: Cell<bool>,
    /// Somebody has shown that he does.
    proven: bool,
    /// Requests to somebody who has not.
    trial_depth: usize,
}

impl Torrent {
    pub(super) fn fill(&mut self, now: Instant) {
        let everybody = std::mem::take(&mut self.dirty.everybody);
        let some = std::mem::take(&mut self.dirty.peers);
        if (!everybody && some.is_empty()) || self.disk.retry_at.is_some() || self.config.read_only {
            return;
        }
        if self.demand.is_empty() && self.background.wanted().count() == 0 {
            return;
        }
        let mut turn = self.turn(now);
        if turn.memory == Memory::Exhausted {
            return;
        }
        let keys: Vec<_> = if everybody { self.peers.keys().copied().collect() } else { some.into_iter().collect() };
        self.serve(&mut turn, keys);
        if turn.left_to_others.get() && !everybody {
            // Those others may be idle, and nothing else would make them look.
            let keys = self.peers.keys().copied().collect();
            self.serve(&mut turn, keys);
        }
    }

    /// Gives these peers what they can take, the soonest first.
    fn serve(&mut self, turn: &mut Turn, keys: Vec<PeerKey>) {
        let mut queue: BinaryHeap<_> = keys.into_iter().filter_map(|key| self.place_in_queue(turn, key)).collect();
        while let Some(Reverse((_, key))) = queue.pop() {
            let Some(eta) = self.peers.get(&key).map(|peer| eta(peer, turn)) else { continue };
            let Some(block) = self.pick(turn, key, eta) else { continue };
            if self.ask(turn.now, key, block, eta, false) {
                turn.all.outstanding += BLOCK;
                queue.extend(self.place_in_queue(turn, key));
            }
        }
    }

    fn place_in_queue(&self, turn: &Turn, key: PeerKey) -> Option<Reverse<(u64, PeerKey)>> {
        let peer = self.peers.get(&key).filter(|peer| peer.can_serve(turn.now) && room(peer, Class::Blocked) > 0)?;
        // A newcomer may be slow or dead: it gets little to show its worth with, and nothing more once it is late with
        // that.
        if !peer.pace.is_proven() && (peer.outstanding() >= turn.trial_depth || turn.proven && peer.is_late()) {
            return None;
        }
        Some(Reverse(((eta(peer, turn) * 1e6) as u64, key)))
    }

    pub(super) fn turn(&self, now: Instant) -> Turn {
        let serving = self.peers.values().filter(|peer| !peer.peer_choking && !peer.snubbed);
        let rates: Vec<f64> = serving.clone().filter_map(|peer| peer.pace.rate(now)).collect();
        let mean = if rates.is_empty() { FRESH_RATE } else { rates.iter().sum::<f64>() / rates.len() as f64 };
        let proven = serving.clone().any(|peer| peer.pace.is_proven());
        let rtts: Vec<f64> = serving.clone().filter_map(|peer| Some(peer.pace.rtt()?.as_secs_f64())).collect();
        let rtt = if rtts.is_empty() { FRESH_RTT } else { rtts.iter().sum::<f64>() / rtts.len() as f64 };
        let left_to_others = Cell::new(false);
        let trial_depth = if proven { TRIAL_DEPTH } else { self.first_share() };
        let mut turn =
            Turn { now, memory: self.memory(), mean, rtt, trial_depth, all: Crew::default(), left_to_others, proven };
        let mut all = Crew::default();
        serving.for_each(|peer| enlist(&mut all, peer, &turn));
        turn.all = all;
        turn
    }

    /// While nobody has sent anything: requests that leave a share of what is wanted first to those who are about to
    /// serve us, too. The first who unchokes would else hold all of it.
    fn first_share(&self) -> usize {
        let helpers = self.peers.len() + self.candidates.dialling();
        if helpers <= 1 || !self.demand.has_blocked() {
            return usize::MAX;
        }
        let blocks: f64 = self.demand.open().take(FIRST_PIECES).map(|(piece, _)| self.open_bytes(piece) / BLOCK).sum();
        let outstanding: usize = self.peers.values().map(Peer::outstanding).sum();
        (blocks as usize + outstanding).div_ceil(helpers).max(TRIAL_DEPTH)
    }

    /// The next block for a peer, by class.
    fn pick(&mut self, turn: &Turn, key: PeerKey, eta: f64) -> Option<BlockId> {
        self.pick_late(turn, key, eta)
            .or_else(|| self.pick_in_time(turn, key, eta))
            .or_else(|| self.pick_in_background(turn, key, eta))
    }

    /// When a block asked of a peer is here, by what is known of it and of the others now; with a quarter's grace.
    pub(super) fn expected_by(&self, turn: &Turn, peer: &Peer, request: &Request) -> Instant {
        let rtt = peer.pace.rtt().map_or(turn.rtt, |rtt| rtt.as_secs_f64());
        let bytes = (request.ahead_bytes + u64::from(request.bytes)) as f64;
        let seconds = rtt + bytes / peer.pace.rate_or(turn.now, turn.mean);
        request.sent + TAIL_GRACE + Duration::from_secs_f64((seconds * 1.25).min(60.0))
    }

    /// A block that somebody else should have brought by now.
    fn pick_late(&self, turn: &Turn, key: PeerKey, eta: f64) -> Option<BlockId> {
        let peer = self.peers.get(&key).filter(|peer| !peer.snubbed && room(peer, Class::Blocked) > 0)?;
        if eta > HORIZON {
            return None;
        }
        let suits = |block: &&BlockId| {
            let asked = self.assembly.get(block.piece).is_none_or(|partial| partial.is_asked_of(block.number, key));
            !asked && peer.may_ask(turn.now, block.piece) && self.may_take(block.piece, key)
        };
        let urgency = |block: &&BlockId| (self.demand.rank(block.piece).unwrap_or(u32::MAX), **block);
        self.late.iter().take(LATE_LOOKED_AT).filter(suits).min_by_key(urgency).copied()
    }

    /// The most urgent open block that the others would not bring sooner.
    fn pick_in_time(&mut self, turn: &Turn, key: PeerKey, eta: f64) -> Option<BlockId> {
        let peer = self.peers.get(&key)?;
        if eta > HORIZON && peer.outstanding() > 0 {
            return None;
        }
        let lead = others(turn, peer).head_start(eta);
        let mut ahead = 0.0;
        let mut found = None;
        for (piece, class) in self.demand.open().take(OPEN_LOOKED_AT) {
            let blocked = class == Class::Blocked;
            if room(peer, class) == 0 || (!blocked && turn.memory >= Memory::BlockedOnly) {
                break; // What follows is less urgent still.
            }
            if !peer.may_ask(turn.now, piece) || !self.may_take(piece, key) {
                continue;
            }
            let sole = self.assembly.get(piece).is_some_and(|partial| partial.sole().is_some());
            if sole || (lead == 0.0 && !peer.snubbed) {
                found = Some((piece, false));
                break;
            }
            // Slower than the rest: only what those others who have this very piece would not reach before.
            let open = self.open_bytes(piece);
            let sooner = self.brought_sooner(turn, peer, piece, eta);
            if sooner.is_some_and(|bytes| peer.snubbed || ahead + open <= bytes) {
                turn.left_to_others.set(turn.left_to_others.get() || blocked);
                ahead += open;
                continue;
            }
            found = Some((piece, sooner.is_some_and(|bytes| bytes > 0.0)));
            break;
        }
        let (piece, from_the_end) = found?;
        if !self.begin_piece(turn.now, piece, key) {
            // On parole with somebody else; that one is looked at next.
            return None;
        }
        if from_the_end { self.assembly.last_free(piece) } else { self.assembly.next_free(piece) }
    }

    fn pick_in_background(&mut self, turn: &Turn, key: PeerKey, eta: f64) -> Option<BlockId> {
        let epoch = self.background.epoch();
        // Where a file is open its reader may seek at any moment.
        let slack = if self.handles.is_empty() { LONG_SLACK } else { SHORT_SLACK };
        let peer = self.peers.get(&key).filter(|peer| !peer.peer_choking && peer.room(slack, 0) > 0)?;
        // While somebody waits only what keeps a pipeline warm.
        let held_back = self.demand.has_blocked() && peer.outstanding() >= WARM_PIPELINE;
        if held_back || turn.memory >= Memory::NoBackground || self.background.wanted().count() == 0 {
            return None;
        }
        if self.background.is_endgame() {
            return self.pick_endgame(turn, key, eta);
        }
        if peer.exhausted == epoch {
            return None;
        }
        let may_ask = |piece| peer.may_ask(turn.now, piece) && self.may_take(piece, key);
        let choice = self.background.pick(may_ask);
        match choice {
            Some(Choice::Partial(piece)) => self.assembly.next_free(piece),
            Some(Choice::Fresh(piece)) => {
                self.begin_piece(turn.now, piece, key).then(|| self.assembly.next_free(piece)).flatten()
            }
            None => {
                // A wait that ends with time alone is no reason to stop looking.
                let patient = !peer.is_waiting();
                if let Some(peer) = self.peers.get_mut(&key).filter(|_| patient) {
                    peer.exhausted = epoch;
                }
                None
            }
        }
    }

    /// The last blocks are asked twice when the second would be clearly faster.
    fn pick_endgame(&self, turn: &Turn, key: PeerKey, eta: f64) -> Option<BlockId> {
        let peer = self.peers.get(&key).filter(|peer| !peer.snubbed)?;
        let pieces = self.assembly.iter().filter(|(piece, partial)| {
            partial.is_awaited() && partial.sole().is_none() && self.background.is_wanted(*piece)
        });
        let mut slowest = None;
        for (piece, partial) in pieces.filter(|(piece, _)| peer.may_ask(turn.now, *piece)).take(ENDGAME_PIECES) {
            for number in partial.awaited() {
                let block = BlockId { piece, number };
                let mut holders = partial.requesters(number);
                let (Some(holder), None) = (holders.next(), holders.next()) else { continue };
                let Some(request) = self.peers.get(&holder).filter(|_| holder != key).and_then(|p| p.request(block))
                else {
                    continue;
                };
                let left = (request.sent + request.expected).saturating_duration_since(turn.now).as_secs_f64();
                if request.late || left > eta * 1.5 {
                    slowest = slowest.max(Some(((left * 1e6) as u64, block)));
                }
            }
        }
        slowest.map(|(_, block)| block)
    }

    /// Parole restricts some pieces to one peer.
    fn may_take(&self, piece: PieceIndex, key: PeerKey) -> bool {
        self.assembly
            .get(piece)
            .is_none_or(|partial| partial.phase() == Phase::Fetching && partial.sole().is_none_or(|sole| sole == key))
    }

    /// Begins an attempt if none is under way; false when this peer may not take part in it.
    fn begin_piece(&mut self, now: Instant, piece: PieceIndex, key: PeerKey) -> bool {
        if self.assembly.get(piece).is_none() {
            self.assembly.start(&self.layout, piece, None);
            self.background.started(piece);
            if self.blame.is_doubtful(piece) {
                self.entrust(now, piece, None);
            }
        }
        self.may_take(piece, key)
    }

    /// Gives a piece that has failed to one peer alone: fast, and little suspect.
    fn entrust(&mut self, now: Instant, piece: PieceIndex, but: Option<PeerKey>) {
        let turn = self.turn(now);
        let able =
            self.peers.values().filter(|peer| !peer.snubbed && Some(peer.key) != but && peer.may_ask(now, piece));
        let bytes = f64::from(self.layout.piece_bytes(piece));
        let order = |peer: &&Peer| {
            // Trust is worth a multiple of time, not any time: a reader waits, and fetching again is no progress.
            let seconds = eta(peer, &turn) + bytes / peer.pace.rate_or(now, turn.mean);
            let (tries, failures) = self.blame.suspicion(piece, peer.key);
            let doubt = 1.0 + 4.0 * f64::from(tries) + failures as f64 + f64::from(u8::from(!peer.pace.is_proven()));
            ((seconds * doubt * 1e6) as u64, peer.key)
        };
        let sole = able.min_by_key(order).map(|peer| peer.key);
        self.assembly.entrust(piece, sole);
        if let Some(sole) = sole {
            self.blame.entrusted(piece, sole);
            self.dirty.peers.insert(sole);
        }
    }

    /// Whoever had this piece alone is late or gone: another one gets it, and may ask again for what that one owes.
    pub(super) fn entrust_another(&mut self, now: Instant, piece: PieceIndex, last: PeerKey) {
        self.entrust(now, piece, Some(last));
        let awaited = self.assembly.get(piece).map(|partial| partial.awaited().collect::<Vec<_>>());
        self.late.extend(awaited.into_iter().flatten().map(|number| BlockId { piece, number }));
        self.note_openness(piece);
        self.dirty.everybody = true;
    }

    /// A peer that had pieces to fetch alone cannot do it now.
    pub(super) fn release_sole(&mut self, now: Instant, key: PeerKey) {
        for piece in self.blame.doubtful() {
            if self.assembly.get(piece).is_some_and(|partial| partial.sole() == Some(key)) {
                self.entrust_another(now, piece, key);
            }
        }
    }

    /// Bytes that others can bring of a piece, in whole blocks, before a block that this peer brings in `eta` seconds;
    /// `None`: nobody else can be asked for it.
    fn brought_sooner(&self, turn: &Turn, peer: &Peer, piece: PieceIndex, eta: f64) -> Option<f64> {
        let able = self.peers.values().filter(|other| {
            let serves = !other.snubbed && !other.peer_choking && other.may_ask(turn.now, piece);
            other.key != peer.key && serves && self.may_take(piece, other.key)
        });
        let mut blocks = None;
        for other in able {
            let mut alone = Crew::default();
            enlist(&mut alone, other, turn);
            // Block by block: seven slow peers do not make one that is seven times as quick.
            let head_start = alone.head_start(eta);
            *blocks.get_or_insert(0.0) += if head_start > 0.0 { (head_start / BLOCK).floor() + 1.0 } else { 0.0 };
        }
        blocks.map(|blocks: f64| blocks * BLOCK)
    }

    /// Bytes of a piece that nobody was asked for.
    fn open_bytes(&self, piece: PieceIndex) -> f64 {
        let blocks = self.assembly.get(piece).map_or_else(|| self.layout.block_count(piece), |partial| partial.free());
        blocks as f64 * BLOCK
    }
}

/// All who serve us but this one, taken as one source: never slower than they are.
fn others(turn: &Turn, peer: &Peer) -> Crew {
    let mut crew = turn.all;
    if !peer.peer_choking && !peer.snubbed {
        crew.rate = (crew.rate - peer.pace.rate_or(turn.now, turn.mean)).max(0.0);
        crew.outstanding = (crew.outstanding - peer.outstanding_bytes() as f64).max(0.0);
    }
    if crew.rate < 1.0 {
        crew.rate = 0.0;
    }
    crew
}

/// How many more requests of a class a peer takes.
fn room(peer: &Peer, class: Class) -> usize {
    match class {
        Class::Blocked => peer.room(LONG_SLACK, EXTRA),
        Class::Readahead => peer.room(SHORT_SLACK, 0),
    }
}

fn eta(peer: &Peer, turn: &Turn) -> f64 {
    peer.pace.eta(turn.now, peer.outstanding_bytes(), turn.mean)
}

fn enlist(crew: &mut Crew, peer: &Peer, turn: &Turn) {
    let rate = peer.pace.rate_or(turn.now, turn.mean);
    let rtt = peer.pace.rtt().map_or(0.1, |rtt| rtt.as_secs_f64());
    crew.add(rate, peer.outstanding_bytes() as f64, rtt);
}

/// A peer is not given what it would bring later than this, beyond one request.
const HORIZON: f64 = 2.0;
/// Requests to a newcomer while others serve.
const TRIAL_DEPTH: usize = 4;
/// Pieces of which newcomers get their shares.
const FIRST_PIECES: usize = 8;
/// Requests beyond the usual depth for blocks that a reader waits for.
const EXTRA: usize = 8;
const BLOCK: f64 = BLOCK_BYTES as f64;
/// Bytes per second and seconds of a round trip assumed while nobody has sent anything.
const FRESH_RATE: f64 = 256.0 * 1024.0;
const FRESH_RTT: f64 = 0.1;
/// A block of the tail is overdue so much after the time at which it was expected.
const TAIL_GRACE: Duration = Duration::from_millis(30);
/// Background requests per peer while somebody waits.
const WARM_PIPELINE: usize = 2;
/// Bounds of what one pick looks at.
const OPEN_LOOKED_AT: usize = 512;
const LATE_LOOKED_AT: usize = 64;
const ENDGAME_PIECES: usize = 16;
