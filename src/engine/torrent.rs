//! One torrent's brain: composes the parts, and is the only type that drivers talk to.
//!
//! Every handler books what happened, then ends in one turn (`Torrent::finish`) that settles what follows from it:
//! demand, interest, requests, checks, dials, announces. The parts below `torrent/` are its chapters, not types.

mod blocks;
mod clock;
mod connections;
mod crowd;
mod demand;
mod disk;
mod fill;
mod interest;
mod messages;
mod room;
mod status;
#[cfg(test)]
mod tests;
mod together;
mod upload;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::announce::{Announcer, Totals};
use super::assembly::{Assembly, BlockId};
use super::blame::Blame;
use super::candidates::Candidates;
use super::choker::Choker;
use super::critical::Demand;
use super::peers::Peers;
use super::picker::Background;
use super::reads::Reads;
use super::{
    AnnounceOutcome, CloseReason, Command, Config, Connected, DialFailure, DiskDone, Effect, Fill, HandleId, PeerEvent,
    PeerKey, ReadError, Room, ScrapeOutcome, Source, TorrentSnapshot, TrackerId,
};
use crate::base::{Bitfield, FileIndex, Layout, PieceIndex, RateMeter};
use clock::Clock;
use demand::Handle;
use disk::Disk;
use interest::Wanted;
use together::Gathered;

/// The state machine of one torrent.
#[derive(Debug)]
pub struct Torrent {
    config: Config,
    layout: Arc<Layout>,
    clock: Clock,
    effects: VecDeque<Effect>,
    stopping: bool,
    began: Instant,
    /// When the last timeout was handled.
    woken: Option<Instant>,

    /// Verified and readable.
    have: Bitfield,
    /// On disk, perhaps; disjoint from `have`.
    unchecked: Bitfield,
    /// What peers were told that we have; a piece under suspicion stays in it until its check fails.
    claimed: Bitfield,
    disk: Disk,
    /// What the cache has room for.
    room: Room,
    assembly: Assembly,
    gathered: Gathered,
    blame: Blame,

    reads: Reads,
    demand: Demand,
    wanted: Wanted,
    /// Drawn once: in which order pieces come that are equally rare.
    lot: u64,
    /// Others fetch what somebody here reads.
    in_company: bool,
    background: Background,
    handles: BTreeMap<HandleId, Handle>,
    /// When the first plan of a handle is believed.
    next_plan: Option<Instant>,
    /// Files that are open (`None`) or were until not long ago: until when they keep peers warm.
    recent: BTreeMap<FileIndex, Option<Instant>>,
    last_read: Option<PieceIndex>,
    /// When a reader last wanted something that was not here, or was about to.
    last_demand: Option<Instant>,
    /// Pieces of files that were ever opened or asked for whole, for `Fill::File`.
    filled: Bitfield,

    peers: Peers,
    /// Addresses of those who left last: the verdict on their blocks may still come.
    departed: VecDeque<(PeerKey, SocketAddr)>,
    candidates: Candidates,
    choker: Choker,
    announcer: Announcer,
    /// When something happens about each request next; mirrors `Request::due`.
    due: BTreeSet<(Instant, PeerKey, BlockId)>,
    /// Overdue blocks that may be asked of one more peer.
    late: BTreeSet<BlockId>,
    /// When to look again at peers that were left alone.
    wake: BTreeSet<(Instant, PeerKey)>,
    /// Pieces that fell out of a window, and when their requests are taken back: a reader that moves on tells its new
    /// window and its read one after the other, and may want them again at once.
    forsaken: BTreeMap<PieceIndex, Instant>,
    next_chores: Option<Instant>,
    /// When more may be asked for, by the bounds on rates.
    next_allowance: Option<Instant>,
    /// Since when readers wait without any unchoked source.
    starving_since: Option<Instant>,
    dirty: Dirty,
    totals: Counters,
}

/// What has to be settled at the end of a turn.
#[derive(Debug, Default)]
struct Dirty {
    demand: bool,
    /// The demand changed by more than a window that moved.
    demand_shrank: bool,
    interest: bool,
    checks: bool,
    everybody: bool,
    peers: BTreeSet<PeerKey>,
}

/// Bytes and pieces counted over this life.
#[derive(Debug)]
struct Counters {
    received: RateMeter,
    sent: RateMeter,
    wasted_bytes: u64,
    have_bytes: u64,
    corrupt_pieces: u64,
    repaired_pieces: u64,
    /// A piece was fetched and verified in this life.
    fetched: bool,
    /// The torrent was complete in this life, and everybody was told.
    completed: bool,
}

impl Torrent {
    /// A torrent that has met nobody yet. Equal inputs and seed give equal outputs (I8).
    pub fn new(config: Config, now: Instant, seed: u64) -> Self {
        let layout = config.layout.clone();
        let pieces = layout.piece_count();
        let have_bytes = config.have.iter().map(|piece| u64::from(layout.piece_bytes(piece))).sum();
        let mut torrent = Self {
            clock: Clock::new(now),
            effects: VecDeque::new(),
            stopping: false,
            began: now,
            woken: None,
            have: config.have.clone(),
            unchecked: config.unchecked.clone(),
            claimed: config.have.clone(),
            disk: Disk::default(),
            room: Room::default(),
            assembly: Assembly::default(),
            gathered: Gathered::default(),
            blame: Blame::default(),
            reads: Reads::new(config.read_timeout),
            demand: Demand::default(),
            wanted: Wanted::new(pieces),
            lot: fastrand::Rng::with_seed(seed ^ 5).u64(..),
            in_company: false,
            background: Background::new(pieces, seed ^ 1),
            handles: BTreeMap::new(),
            next_plan: None,
            recent: BTreeMap::new(),
            last_read: None,
            last_demand: None,
            filled: Bitfield::new(if config.fill == Fill::File { pieces } else { 0 }),
            peers: Peers::default(),
            departed: VecDeque::new(),
            candidates: Candidates::new(config.own_addrs.clone(), config.private, seed ^ 2),
            choker: Choker::new(seed ^ 3, config.limits.upload_slots),
            announcer: Announcer::new(&config.user_trackers, &config.trackers, now, seed ^ 4),
            due: BTreeSet::new(),
            late: BTreeSet::new(),
            wake: BTreeSet::new(),
            forsaken: BTreeMap::new(),
            next_chores: None,
            next_allowance: None,
            starving_since: None,
            dirty: Dirty { checks: true, ..Dirty::default() },
            totals: Counters {
                received: RateMeter::new(now),
                sent: RateMeter::new(now),
                wasted_bytes: 0,
                have_bytes,
                corrupt_pieces: 0,
                repaired_pieces: 0,
                fetched: false,
                completed: false,
            },
            config,
            layout,
        };
        if torrent.config.read_only && torrent.unchecked.count() > 0 {
            torrent.announcer.hold(now + FIRST_CHECK);
        }
        torrent.want_in_background(torrent.layout.pieces());
        torrent.finish(now);
        torrent
    }

    /// A connection stands, its handshakes done.
    pub fn handle_connected(&mut self, now: Instant, peer: PeerKey, connected: Connected) {
        let now = self.begin(now);
        self.connected(now, peer, &connected);
        self.finish(now);
    }

    /// What one peer did, in order. Of unknown peers (just closed by us) only what they were sent counts.
    pub fn handle_peer_events(&mut self, now: Instant, peer: PeerKey, events: impl IntoIterator<Item = PeerEvent>) {
        let now = self.begin(now);
        for event in events {
            if let Err(reason) = self.peer_event(now, peer, event) {
                self.close(now, peer, reason);
            }
        }
        self.finish(now);
    }

    /// A connection has ended, not by us.
    pub fn handle_disconnected(&mut self, now: Instant, peer: PeerKey) {
        let now = self.begin(now);
        self.forget_peer(now, peer, None);
        self.finish(now);
    }

    /// A dial came to nothing.
    pub fn handle_dial_failed(&mut self, now: Instant, addr: SocketAddr, failure: DialFailure) {
        let now = self.begin(now);
        self.candidates.failed(now, addr, failure);
        self.finish(now);
    }

    /// A disk job has ended.
    pub fn handle_disk_done(&mut self, now: Instant, done: DiskDone) {
        let now = self.begin(now);
        self.disk_done(now, done);
        self.finish(now);
    }

    /// An announce was answered, or not.
    pub fn handle_announced(&mut self, now: Instant, tracker: TrackerId, outcome: AnnounceOutcome) {
        let now = self.begin(now);
        self.announcer.handle_outcome(now, tracker, &outcome);
        if let AnnounceOutcome::Answered { peers, external_ip, .. } = outcome {
            self.candidates.add(now, Source::Tracker, peers);
            if let (Some(ip), Some(port)) = (external_ip, self.config.listen_port) {
                self.candidates.learn_own(ip, port);
            }
        }
        self.finish(now);
    }

    /// A scrape was answered, or not.
    pub fn handle_scraped(&mut self, now: Instant, tracker: TrackerId, outcome: ScrapeOutcome) {
        let now = self.begin(now);
        self.announcer.handle_scraped(now, tracker, outcome);
        self.finish(now);
    }

    /// Somebody wants something.
    pub fn handle_command(&mut self, now: Instant, command: Command) {
        let now = self.begin(now);
        match command {
            Command::Read { ticket, pieces } => self.read(now, ticket, pieces),
            Command::Abandon(ticket) => {
                let known = self.reads.remove(ticket).is_some();
                self.dirty.demand |= known;
                self.dirty.demand_shrank |= known;
            }
            Command::Opened { handle, file } => self.opened(handle, file),
            Command::Released(handle) => self.released(now, handle),
            Command::Window { handle, pieces, horizon } => self.window(now, handle, pieces, horizon),
            Command::Fill(files) => files.into_iter().for_each(|file| self.fill_file(file)),
            Command::Candidates { source, addrs } => drop(self.candidates.add(now, source, addrs)),
            Command::Suspect(pieces) => self.suspect(pieces),
            Command::Evicted(pieces) => self.evicted(&pieces),
            Command::Kept(pieces) => self.kept(now, &pieces),
            Command::Room(room) => self.set_room(now, room),
            Command::NewLimits => self.dirty.everybody = true,
            Command::UploadSlots(slots) => self.set_slots(now, slots),
            Command::Trackers(tiers) => self.announcer.learn(&tiers, now),
            Command::Stop => self.stop(now),
        }
        self.finish(now);
    }

    /// The instant named by [`poll_timeout`](Self::poll_timeout) has come. Calling it earlier does no harm.
    pub fn handle_timeout(&mut self, now: Instant) {
        let now = self.begin(now);
        self.woken = Some(now);
        self.expire_requests(now);
        self.settle_gathered(now);
        self.settle_windows(now);
        self.drop_forsaken(now);
        for ticket in self.reads.expire(now) {
            self.effects.push_back(Effect::ReadFailed(ticket, ReadError::Stalled));
            self.dirty.demand = true;
        }
        while let Some(&(at, peer)) = self.wake.first().filter(|(at, _)| *at <= now) {
            self.wake.remove(&(at, peer));
            self.dirty.peers.insert(peer);
        }
        if self.disk.retry_at.is_some_and(|at| at <= now) {
            self.disk.retry_at = None;
            self.dirty.everybody = true;
            self.dirty.checks = true;
        }
        if self.next_allowance.is_some_and(|at| at <= now) {
            self.next_allowance = None;
            self.dirty.everybody = true;
        }
        if self.choker.poll_timeout().is_some_and(|at| at <= now) {
            self.rank_uploads(now);
        }
        if self.next_chores.is_some_and(|at| at <= now) {
            self.next_chores = None;
            self.chores(now);
        }
        self.finish(now);
    }

    /// The next thing to do; drain it after every handler.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        // Never at once again: a part that is not satisfied with its timeout must not spin the driver. Other events do
        // not count, or a torrent that hears something every half a millisecond would never be woken.
        let soonest = self.woken.map(|woken| woken + MIN_SLEEP);
        self.next_timeout().map(|at| self.clock.outer(soonest.map_or(at, |soonest| at.max(soonest))))
    }

    fn next_timeout(&self) -> Option<Instant> {
        [
            self.due.first().map(|&(at, ..)| at),
            self.wake.first().map(|&(at, _)| at),
            self.reads.poll_timeout(),
            self.disk.retry_at,
            self.next_chores,
            self.next_allowance,
            self.forsaken.values().min().copied(),
            self.next_plan,
            self.gathered.poll_timeout(),
            self.choker.poll_timeout().filter(|_| !self.peers.is_empty()),
            self.candidates.poll_timeout().filter(|_| self.dial_room() > 0),
            self.announcer.poll_timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Takes the outer time in; the parts know only the time in which this process ran.
    fn begin(&mut self, now: Instant) -> Instant {
        let planned = self.next_timeout();
        self.clock.enter(now, planned)
    }

    /// Settles what follows from the events of this turn.
    fn finish(&mut self, now: Instant) {
        if !self.stopping {
            if std::mem::take(&mut self.dirty.demand) {
                self.rebuild_demand(now);
            }
            if std::mem::take(&mut self.dirty.checks) {
                self.start_checks();
            }
            if std::mem::take(&mut self.dirty.interest) {
                self.raise_interest(now);
            }
            self.fill(now);
            self.dial(now);
            if self.next_chores.is_none()
                && !(self.peers.is_empty() && self.handles.is_empty() && self.demand.is_empty())
            {
                let lively = !self.handles.is_empty() || !self.demand.is_empty();
                self.next_chores = Some(now + if lively { LIVELY_CHORES } else { IDLE_CHORES });
            }
        }
        let totals = Totals {
            uploaded: self.totals.sent.total_bytes(),
            downloaded: self.totals.received.total_bytes(),
            left: self.left_bytes(),
        };
        while let Some(announcement) = self.announcer.poll_announce(now, totals) {
            self.effects.push_back(Effect::Announce(announcement));
        }
        while let Some(scrape) = self.announcer.poll_scrape(now) {
            self.effects.push_back(Effect::Scrape(scrape));
        }
        if cfg!(debug_assertions) {
            self.check_invariants();
        }
    }

    /// What comes up every second or every few.
    fn chores(&mut self, now: Instant) {
        self.recent.retain(|_, until| until.is_none_or(|until| until > now));
        self.close_silent(now);
        self.settle_interest(now);
        self.keep_warm(now);
        self.watch_starving(now);
        self.drop_leftovers(now);
        self.regard_givers_and_laggards(now);
        // Rates change with time alone: what was left to a faster peer may be anybody's by now.
        self.dirty.everybody |= self.demand.open().next().is_some();
    }

    fn stop(&mut self, now: Instant) {
        if self.stopping {
            return;
        }
        self.stopping = true;
        self.write_gathered();
        let tickets: Vec<_> = self.reads.iter().map(|(ticket, _)| ticket).collect();
        for ticket in tickets {
            self.reads.remove(ticket);
            self.effects.push_back(Effect::ReadFailed(ticket, ReadError::Stopped));
        }
        let peers: Vec<_> = self.peers.keys().copied().collect();
        for peer in peers {
            self.close(now, peer, CloseReason::Stopped);
        }
        self.demand = Demand::default();
        (self.next_chores, self.next_allowance, self.disk.retry_at) = (None, None, None);
        self.wake.clear();
        self.forsaken.clear();
        self.dirty = Dirty::default();
        self.announcer.stop(now);
    }

    fn left_bytes(&self) -> u64 {
        // What is in memory alone will have to be fetched again.
        let held = self.disk.held.iter().map(|&piece| u64::from(self.layout.piece_bytes(piece))).sum::<u64>();
        self.layout.total_bytes() - self.totals.have_bytes + held
    }

    fn is_complete(&self) -> bool {
        self.have.is_full() && self.disk.held.is_empty()
    }

    /// The state now; costs a walk over peers and reads.
    pub fn snapshot(&mut self, now: Instant) -> TorrentSnapshot {
        let now = self.begin(now);
        self.describe(now)
    }

    /// Panics when something that must always hold does not. Costs a walk over everything in progress.
    pub fn check_invariants(&self) {
        self.check();
    }
}

const MIN_SLEEP: Duration = Duration::from_millis(1);
/// So long trackers wait for the check of what is shared. A larger one is announced to meanwhile, by then with something to give.
const FIRST_CHECK: Duration = Duration::from_secs(10);
const LIVELY_CHORES: Duration = Duration::from_secs(1);
const IDLE_CHORES: Duration = Duration::from_secs(5);
