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
use crate::engine::assembly::{BlockId, Partial, Phase};
use crate::engine::critical::{Class, Crew, Wanted};
use crate::engine::pace::{FRESH_RTT, LONG_SLACK, SHORT_SLACK};
use crate::engine::peer::{Peer, Request};
use crate::engine::peers::{EXTRA, Server};
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
    /// Everybody is looked at.
    everybody: bool,
    /// Somebody left a block that a reader waits for to faster peers.
    left_to_others: Cell<bool>,
    /// Who is as slow as this, or slower, leaves everything to the others.
    hopeless_from: Cell<f64>,
    /// Somebody has shown that he does.
    proven: bool,
    /// Requests to somebody who has not.
    trial_depth: usize,
    /// What is wanted later is left to those who have a part, where one of them has it: seeds have better to do.
    spares_seeds: bool,
}

impl Turn {
    /// Whether all who serve us could send so many blocks within some seconds.
    pub(super) fn brings_within(&self, blocks: usize, seconds: f64) -> bool {
        blocks as f64 * BLOCK <= seconds * self.all.rate
    }

    /// Whether memory, cache and bounds let anything be asked for that nobody waits for yet.
    pub(super) fn allows_readahead(&self) -> bool {
        self.memory < Memory::BlockedOnly
    }
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
            self.await_allowance(now);
            return;
        }
        if !everybody {
            let servers = some.into_iter().filter_map(|key| self.peers.server(key));
            let queue = servers.filter_map(|server| place_in_queue(&turn, server)).collect();
            self.serve(&mut turn, queue);
        }
        // Those to whom something was left may be idle, and nothing else would make them look.
        if everybody || turn.left_to_others.get() {
            turn.everybody = true;
            if !self.all_take_nothing(&turn) {
                let queue = self.peers.servers().iter().filter_map(|server| place_in_queue(&turn, server)).collect();
                self.serve(&mut turn, queue);
            }
        }
        self.await_allowance(now);
    }

    /// Gives these peers what they can take, the soonest first.
    fn serve(&mut self, turn: &mut Turn, mut queue: BinaryHeap<Reverse<(u64, PeerKey)>>) {
        while let Some(Reverse((_, key))) = queue.pop().filter(|_| turn.memory < Memory::Exhausted) {
            let Some(&server) = self.peers.server(key) else { continue };
            let eta = server.eta(turn.mean);
            if self.takes_nothing(turn, &server, eta) {
                debug_assert!(self.pick(turn, &server, eta).is_none(), "{server:?} would take something");
                continue;
            }
            let Some(block) = self.pick(turn, &server, eta) else { continue };
            if self.ask(turn.now, key, block, eta, false) {
                turn.all.outstanding += BLOCK;
                turn.memory = turn.memory.max(self.allowed(turn.now));
                turn.hopeless_from.set(f64::INFINITY);
                self.peers.refresh(turn.now);
                queue.extend(self.peers.server(key).and_then(|server| place_in_queue(turn, server)));
            }
        }
    }

    /// Whether it is plain that there is nothing for anybody.
    fn all_take_nothing(&self, turn: &Turn) -> bool {
        let servers = || self.peers.servers().iter().filter(|server| has_place(turn, server));
        let soonest = servers().min_by(|a, b| a.eta(turn.mean).total_cmp(&b.eta(turn.mean)));
        // With the soonest first the others are quick to judge.
        let nothing = |server: &Server| self.takes_nothing(turn, server, server.eta(turn.mean));
        !cfg!(debug_assertions) && soonest.is_none_or(nothing) && servers().all(nothing)
    }

    pub(super) fn turn(&mut self, now: Instant) -> Turn {
        self.peers.refresh(now);
        let mean = self.peers.mean_rate().unwrap_or(FRESH_RATE);
        let proven = self.peers.is_any_proven();
        Turn {
            now,
            memory: self.memory().max(self.allowed(now)),
            mean,
            rtt: self.peers.mean_rtt().unwrap_or(FRESH_RTT.as_secs_f64()),
            all: self.peers.crew(mean),
            everybody: false,
            left_to_others: Cell::new(false),
            hopeless_from: Cell::new(f64::INFINITY),
            proven,
            spares_seeds: self.demand.has_later() && self.leechers_suffice(mean),
            trial_depth: if proven { TRIAL_DEPTH } else { self.first_share() },
        }
    }

    /// While nobody has sent anything: requests that leave a share of what is wanted first to those who are about to
    /// serve us, too. The first who unchokes would else hold all of it.
    fn first_share(&self) -> usize {
        let helpers = self.peers.len() + self.candidates.dialling();
        if helpers <= 1 || !self.demand.has_blocked() {
            return usize::MAX;
        }
        let blocks: usize = self.demand.open().take(FIRST_PIECES).map(|wanted| wanted.free).sum();
        let outstanding: usize = self.peers.servers().iter().map(|server| server.requests).sum();
        (blocks + outstanding).div_ceil(helpers).max(TRIAL_DEPTH)
    }

    /// The next block for a peer, by class.
    fn pick(&mut self, turn: &Turn, server: &Server, eta: f64) -> Option<BlockId> {
        let late = self.pick_late(turn, server.key, eta);
        // What is late ahead of a reader comes after what one waits for, and before the rest ahead.
        let waits = || self.demand.open().next().is_some_and(|open| open.class == Class::Blocked);
        late.filter(|block| self.demand.class(block.piece) == Some(Class::Blocked) || !waits())
            .or_else(|| self.pick_in_time(turn, server, eta))
            .or(late)
            .or_else(|| self.pick_in_background(turn, server.key, eta))
    }

    /// Whether it is plain that there is nothing for a peer, one among many that are looked at: it is slow, and all that
    /// is wanted is wanted in time.
    fn takes_nothing(&self, turn: &Turn, server: &Server, eta: f64) -> bool {
        turn.everybody
            && !turn.spares_seeds
            && self.late.is_empty()
            && self.background.wanted().count() == 0
            && others(turn, server).head_start(eta) > 0.0
            && self.leaves_all(turn, server, eta)
    }

    /// Whether those who have everything bring all that is open before a block that this peer brings in `eta` seconds.
    fn leaves_all(&self, turn: &Turn, server: &Server, eta: f64) -> bool {
        // Later is worse.
        if eta >= turn.hopeless_from.get() {
            return true;
        }
        if self.assembly.has_soles() {
            return false;
        }
        let open = self.demand.free_blocks() as f64;
        let mut blocks = 0.0;
        for other in self.peers.servers().iter().filter(|other| other.sure && other.key != server.key) {
            blocks += blocks_before(other, turn, eta);
            if blocks >= open {
                turn.hopeless_from.set(eta);
                return true;
            }
        }
        false
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
        if self.late.len() <= LATE_LOOKED_AT {
            return self.late.iter().filter(suits).min_by_key(urgency).copied();
        }
        // By pieces, in the order of their need: what only one peer has must not hide what others could bring.
        let late_of = |piece| self.late.range(BlockId { piece, number: 0 }..=BlockId { piece, number: u32::MAX });
        let pieces = self.demand.ordered().take(OPEN_LOOKED_AT);
        let takes = |piece: &PieceIndex| peer.may_ask(turn.now, *piece) && self.may_take(*piece, key);
        pieces.filter(takes).flat_map(late_of).find(suits).copied()
    }

    /// The most urgent open block that the others would not bring sooner.
    fn pick_in_time(&mut self, turn: &Turn, server: &Server, eta: f64) -> Option<BlockId> {
        let key = server.key;
        let peer = self.peers.get(&key)?;
        if eta > HORIZON && peer.outstanding() > 0 {
            return None;
        }
        let lead = others(turn, server).head_start(eta);
        let takes = |piece| peer.may_ask(turn.now, piece) && self.may_take(piece, key);
        let mut left = false;
        let plain = lead > 0.0 && !turn.spares_seeds && self.leaves_all(turn, server, eta);
        if plain {
            let mut blocked = self.demand.open().take(OPEN_LOOKED_AT).take_while(|open| open.class == Class::Blocked);
            left = blocked.any(|open| takes(open.piece));
            turn.left_to_others.set(turn.left_to_others.get() || left);
            if !cfg!(debug_assertions) {
                return None;
            }
        }
        let mut sooner = None;
        let mut ahead = 0.0;
        // In company a seed is asked for what nobody else has, but first for what somebody here has waited for too long.
        let shared = server.seed && !plain && self.in_company;
        let patient = !shared || self.is_patient(turn.now);
        let draws = shared && turn.memory < Memory::BlockedOnly;
        let drawn = if draws { self.drawn_piece().filter(|&piece| takes(piece)) } else { None };
        let mut found = drawn.map(|piece| (piece, false));
        let (room_now, room_ahead) = (room(peer, Class::Blocked), room(peer, Class::Readahead));
        for Wanted { piece, class, free, .. } in self.demand.open().take(OPEN_LOOKED_AT) {
            let blocked = class == Class::Blocked;
            if drawn.is_some() && (patient || !blocked) {
                break;
            }
            if (if blocked { room_now } else { room_ahead }) == 0 || (!blocked && !turn.allows_readahead()) {
                break; // What follows is less urgent still.
            }
            if !takes(piece) {
                continue;
            }
            let later = turn.spares_seeds && class == Class::Later;
            let spared = later || shared && (patient || !blocked);
            if server.seed && spared && self.is_served_by_leecher(turn.now, piece) {
                continue;
            }
            if later {
                // There is time: whoever has it may bring it.
                found = Some((piece, false));
                break;
            }
            let partial = self.assembly.get(piece);
            if !blocked
                && partial.and_then(Partial::leader).is_some_and(|leader| self.brings_alone(turn, piece, leader, key))
            {
                continue;
            }
            let sole = partial.is_some_and(|partial| partial.sole().is_some());
            if sole || (lead == 0.0 && !peer.snubbed) {
                found = Some((piece, false));
                break;
            }
            // Slower than the rest: only what those others who have this very piece would not reach before.
            let sooner = sooner.get_or_insert_with(|| self.who_is_sooner(turn, server, eta));
            let may_ask = |other| self.peers.get(&other).is_some_and(|other: &Peer| other.may_ask(turn.now, piece));
            match sooner.blocks_of(peer.snubbed, ahead + free as f64, may_ask) {
                Sooner::Enough => {
                    debug_assert!(!plain || left || !blocked, "nobody was told that {piece} is left to others");
                    turn.left_to_others.set(turn.left_to_others.get() || blocked);
                    ahead += free as f64;
                }
                Sooner::Some => {
                    found = Some((piece, true));
                    break;
                }
                Sooner::Nothing => {
                    found = Some((piece, false));
                    break;
                }
            }
        }
        // Debug builds take the long way as well.
        debug_assert!(!plain || found.is_none(), "{server:?} would take {found:?}");
        let (piece, from_the_end) = found?;
        let piece = if from_the_end || shared { piece } else { self.stride(turn, peer, piece, takes) };
        if !self.begin_piece(turn.now, piece, key) {
            // On parole with somebody else; that one is looked at next.
            return None;
        }
        if from_the_end { self.assembly.last_free(piece) } else { self.assembly.next_free(piece) }
    }

    /// Whether a piece is best left to the other one who has begun it, since that one has it in time by himself: whole
    /// pieces come off one disk, are checked once by who sends them, and arrive in the order in which we hash and write.
    fn brings_alone(&self, turn: &Turn, piece: PieceIndex, leader: PeerKey, key: PeerKey) -> bool {
        let Some(server) = self.peers.server(leader).filter(|server| leader != key && server.serves) else {
            return false;
        };
        // No reader gets there before all that comes first is fetched.
        let (rate, before) = (server.rate(turn.mean), self.demand.rank(piece).unwrap_or(0));
        f64::from(before) * rate >= ALONE * turn.all.rate
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

    /// What each of the others brings before a block that this peer brings in `eta` seconds.
    fn who_is_sooner(&self, turn: &Turn, server: &Server, eta: f64) -> Others {
        let mut found = Others::default();
        for other in self.peers.servers().iter().filter(|other| other.serves && other.key != server.key) {
            let blocks = blocks_before(other, turn, eta);
            if other.sure {
                found.sure_blocks += blocks;
                found.any_sure = true;
            } else {
                found.rest.push((other.key, blocks));
                found.rest_blocks += blocks;
            }
        }
        found
    }

    /// Blocks of a piece that nobody was asked for.
    pub(super) fn free_blocks(&self, piece: PieceIndex) -> usize {
        self.assembly.get(piece).map_or_else(|| self.layout.block_count(piece), |partial| partial.free())
    }
}

/// Those who serve us but one, by the blocks that they bring before him.
#[derive(Debug, Default)]
struct Others {
    /// Of those who can be asked for any piece.
    sure_blocks: f64,
    any_sure: bool,
    /// Of those who have some pieces, or are left alone for some.
    rest: Vec<(PeerKey, f64)>,
    rest_blocks: f64,
}

/// What the others can do for a piece, and all before it.
#[derive(Debug, PartialEq, Eq)]
enum Sooner {
    /// All of it.
    Enough,
    /// A part.
    Some,
    Nothing,
}

impl Others {
    /// Whether they bring `wanted` blocks of a piece sooner; `may_ask` knows who can be asked for it. For somebody
    /// `snubbed` it is enough that there is anybody else.
    fn blocks_of(&self, snubbed: bool, wanted: f64, may_ask: impl Fn(PeerKey) -> bool) -> Sooner {
        // Sums of whole numbers: exact in whatever order, so the rest need not be looked through where it decides nothing.
        if self.any_sure && (snubbed || wanted <= self.sure_blocks) {
            return Sooner::Enough;
        }
        if !snubbed && wanted > self.sure_blocks + self.rest_blocks && self.sure_blocks > 0.0 {
            return Sooner::Some;
        }
        let (mut blocks, mut anybody) = (self.sure_blocks, self.any_sure);
        for &(key, more) in &self.rest {
            if anybody && more == 0.0 || !may_ask(key) {
                continue;
            }
            blocks += more;
            anybody = true;
            if snubbed || wanted <= blocks {
                return Sooner::Enough;
            }
        }
        if blocks > 0.0 { Sooner::Some } else { Sooner::Nothing }
    }
}

/// Whole blocks that a peer brings before one that somebody else brings in `eta` seconds: seven slow peers do not make
/// one that is seven times as quick.
fn blocks_before(server: &Server, turn: &Turn, eta: f64) -> f64 {
    let head_start = server.crew(turn.mean).head_start(eta);
    if head_start > 0.0 { (head_start / BLOCK).floor() + 1.0 } else { 0.0 }
}

/// All who serve us but this one, taken as one source: never slower than they are.
fn others(turn: &Turn, server: &Server) -> Crew {
    let mut crew = turn.all;
    if server.serves {
        crew.rate = (crew.rate - server.rate(turn.mean)).max(0.0);
        crew.outstanding = (crew.outstanding - server.outstanding_bytes as f64).max(0.0);
    }
    if crew.rate < 1.0 {
        crew.rate = 0.0;
    }
    crew
}

/// How many more requests of a class a peer takes.
pub(super) fn room(peer: &Peer, class: Class) -> usize {
    match class {
        Class::Blocked => peer.room(LONG_SLACK, EXTRA),
        Class::Readahead | Class::Later => peer.room(SHORT_SLACK, 0),
    }
}

/// Whether a peer takes requests at all.
fn has_place(turn: &Turn, server: &Server) -> bool {
    // A newcomer may be slow or dead: it gets little to show its worth with, and nothing more once it is late with
    // that.
    let on_trial = || !server.proven && (server.requests >= turn.trial_depth || turn.proven && server.late);
    server.room > 0 && server.rests_until.is_none_or(|until| until <= turn.now) && !on_trial()
}

fn place_in_queue(turn: &Turn, server: &Server) -> Option<Reverse<(u64, PeerKey)>> {
    has_place(turn, server).then(|| Reverse(((server.eta(turn.mean) * 1e6) as u64, server.key)))
}

fn eta(peer: &Peer, turn: &Turn) -> f64 {
    peer.pace.eta(turn.now, peer.outstanding_bytes(), turn.mean)
}

/// A peer is not given what it would bring later than this, beyond one request.
const HORIZON: f64 = 2.0;
/// Requests to a newcomer while others serve.
const TRIAL_DEPTH: usize = 4;
/// Pieces of which newcomers get their shares.
const FIRST_PIECES: usize = 8;
const BLOCK: f64 = BLOCK_BYTES as f64;
/// Bytes per second assumed while nobody has sent anything.
const FRESH_RATE: f64 = 256.0 * 1024.0;
/// A block of the tail is overdue so much after the time at which it was expected.
const TAIL_GRACE: Duration = Duration::from_millis(30);
/// A piece that is needed after so many times what one peer takes for it may be left to him.
const ALONE: f64 = 2.0;
/// Background requests per peer while somebody waits.
const WARM_PIPELINE: usize = 2;
/// Bounds of what one pick looks at.
pub(super) const OPEN_LOOKED_AT: usize = 512;
const LATE_LOOKED_AT: usize = 64;
const ENDGAME_PIECES: usize = 16;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn looking_at_few_of_the_others_decides_what_looking_at_all_does(
            sure in proptest::collection::vec(0_u32..20, 0..3),
            rest in proptest::collection::vec((0_u32..20, any::<bool>()), 0..6),
            wanted in 1_u32..60,
            snubbed: bool,
        ) {
            let mut others = Others { any_sure: !sure.is_empty(), ..Others::default() };
            others.sure_blocks = f64::from(sure.iter().sum::<u32>());
            others.rest = (0..).zip(&rest).map(|(key, (blocks, _))| (PeerKey(key), f64::from(*blocks))).collect();
            others.rest_blocks = f64::from(rest.iter().map(|(blocks, _)| blocks).sum::<u32>());

            let able: Vec<u32> =
                sure.iter().copied().chain(rest.iter().filter(|(_, able)| *able).map(|(blocks, _)| *blocks)).collect();
            let blocks: u32 = able.iter().sum();
            let dull = match () {
                () if !able.is_empty() && (snubbed || wanted <= blocks) => Sooner::Enough,
                () if blocks > 0 => Sooner::Some,
                () => Sooner::Nothing,
            };
            prop_assert_eq!(others.blocks_of(snubbed, wanted.into(), |key| rest[key.0 as usize].1), dull);
        }
    }
}
