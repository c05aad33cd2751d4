//! What is wanted: commands become demand, in order.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::Torrent;
use crate::base::{FileIndex, PieceIndex, PieceRange};
use crate::engine::critical::{Class, Demand, Wanted};
use crate::engine::{Effect, Fill, HandleId, ReadError, Room, Ticket};

/// One open file handle.
#[derive(Debug)]
pub(super) struct Handle {
    pub file: FileIndex,
    /// What it will want next, nearest first.
    pub window: Vec<PieceRange>,
    pub horizon: Option<Duration>,
    /// What it says that it will want, and from when on it is believed.
    pub planned: Option<(Instant, Vec<PieceRange>)>,
}

impl Torrent {
    pub(super) fn read(&mut self, now: Instant, ticket: Ticket, pieces: PieceRange) {
        let missing: BTreeSet<_> = pieces.iter().filter(|&piece| !self.have.has(piece)).collect();
        self.last_read = pieces.last().or(self.last_read);
        self.last_demand = Some(now);
        if missing.is_empty() {
            self.effects.push_back(Effect::ReadReady(ticket));
            return;
        }
        let error = if self.stopping {
            Some(ReadError::Stopped)
        } else if self.config.read_only && missing.iter().any(|&piece| self.is_absent(piece)) {
            Some(ReadError::Missing)
        } else if missing.iter().any(|&piece| self.reads.is_stalled(now, piece)) {
            Some(ReadError::Stalled)
        } else {
            None
        };
        if let Some(error) = error {
            self.effects.push_back(Effect::ReadFailed(ticket, error));
            return;
        }
        self.hasten_gathered(&missing);
        self.reads.wait(now, ticket, missing);
        self.dirty.demand = true;
        self.dirty.checks = true;
        // Starvation is looked for every second from now on.
        self.next_chores = self.next_chores.map(|at| at.min(now + super::LIVELY_CHORES));
    }

    pub(super) fn opened(&mut self, handle: HandleId, file: FileIndex) {
        self.handles.insert(handle, Handle { file, window: Vec::new(), horizon: None, planned: None });
        self.recent.insert(file, None);
        self.fill_file(file);
        // Somebody may read soon: peers are woken now, not with the first read.
        self.dirty.interest = true;
        self.next_chores = Some(self.clock.now());
    }

    /// Wants all of a file in the background, if that is how the torrent is filled.
    pub(super) fn fill_file(&mut self, file: FileIndex) {
        if self.config.fill == Fill::File {
            let pieces = self.layout.pieces_of(file, 0, u64::MAX);
            for piece in pieces.iter() {
                self.filled.set(piece);
            }
            self.want_in_background(pieces);
        }
    }

    pub(super) fn released(&mut self, now: Instant, handle: HandleId) {
        let Some(Handle { file, .. }) = self.handles.remove(&handle) else { return };
        self.note_plans();
        if !self.handles.values().any(|other| other.file == file) {
            self.recent.insert(file, Some(now + WARM_AFTER_CLOSE));
        }
        self.dirty.demand = true;
        self.dirty.demand_shrank = true;
    }

    pub(super) fn window(
        &mut self,
        now: Instant,
        handle: HandleId,
        pieces: Vec<PieceRange>,
        horizon: Option<Duration>,
    ) {
        self.last_demand = Some(now);
        let Some(handle) = self.handles.get_mut(&handle) else { return };
        handle.horizon = horizon;
        // A seek ends the old window at once; what is new waits a moment: a reader that hops has hopped on by then.
        let overlap = |old: &PieceRange| pieces.iter().any(|new| new.start < old.end && old.start < new.end);
        if !handle.window.is_empty() && !handle.window.iter().any(overlap) {
            handle.window.clear();
            self.dirty.demand = true;
        }
        let at = handle.planned.take().map_or(now + SETTLE, |(at, _)| at);
        handle.planned = (handle.window != pieces).then_some((at, pieces));
        self.note_plans();
    }

    /// Believes the plans that have stood for a moment.
    pub(super) fn settle_windows(&mut self, now: Instant) {
        for handle in self.handles.values_mut() {
            if let Some((_, pieces)) = handle.planned.take_if(|(at, _)| *at <= now) {
                handle.window = pieces;
                self.dirty.demand = true;
                self.dirty.checks = true;
            }
        }
        self.note_plans();
    }

    /// Keeps the time of the first plan at hand: it is asked for with every event.
    fn note_plans(&mut self) {
        self.next_plan = self.handles.values().filter_map(|handle| Some(handle.planned.as_ref()?.0)).min();
    }

    /// Puts the pieces of a range that `Fill` wants and that are absent among those fetched unasked.
    pub(super) fn want_in_background(&mut self, pieces: PieceRange) {
        if self.config.fill == Fill::None || self.config.read_only {
            return;
        }
        let wanted =
            |piece: &PieceIndex| self.is_absent(*piece) && (self.config.fill == Fill::All || self.filled.has(*piece));
        let wanted: Vec<_> = pieces.iter().filter(wanted).collect();
        for piece in wanted {
            let started = self.assembly.get(piece).map(|partial| partial.free() > 0);
            self.background.want(piece, started);
            self.dirty.everybody = true;
        }
        self.dirty.interest = true;
    }

    /// Puts the demand in order anew: who waits longest first, then the windows by the time until they are needed.
    pub(super) fn rebuild_demand(&mut self, now: Instant) {
        let old = std::mem::take(&mut self.demand);
        if !self.config.read_only {
            let mut ahead = self.readahead(now);
            let mut blocked: Vec<_> = self.reads.pieces().collect();
            if let Room::Memory(pieces) = self.room {
                // In the order of their readers: each gets his in turn.
                let mut taken = BTreeSet::new();
                blocked.retain(|&piece| self.is_absent(piece) && taken.len() < pieces && taken.insert(piece));
                ahead.clear();
            }
            let blocked = blocked.into_iter().map(|piece| (piece, Class::Blocked, 0));
            let mut demand = Demand::default();
            let absent = blocked.chain(ahead).filter(|&(piece, ..)| self.is_absent(piece));
            demand.rebuild(absent.map(|(piece, class, ahead)| Wanted {
                piece,
                class,
                free: self.free_blocks(piece),
                ahead,
            }));
            self.demand = demand;
        }
        let pieces: Vec<_> = self.demand.pieces().collect();
        for (piece, class) in pieces {
            self.note_openness(piece);
            if class == Class::Blocked && old.class(piece) != Some(Class::Blocked) {
                self.hasten(now, piece);
            }
        }
        // A closed file, a reader gone: what was asked for them alone is taken back at once. A seek: very soon.
        let at = if std::mem::take(&mut self.dirty.demand_shrank) { now } else { now + FORSAKEN_GRACE };
        let gone = old.pieces().map(|(piece, _)| piece).filter(|&piece| self.demand.class(piece).is_none());
        let gone: Vec<_> = gone.filter(|&piece| self.is_absent(piece)).collect();
        for piece in gone {
            self.forsaken.entry(piece).and_modify(|old| *old = at.min(*old)).or_insert(at);
        }
        self.drop_forsaken(now);
        self.in_company = self.is_in_company();
        self.dirty.everybody = true;
        self.dirty.interest = true;
    }

    /// Takes back what was asked for pieces that nobody has wanted for a moment.
    pub(super) fn drop_forsaken(&mut self, now: Instant) {
        if self.forsaken.is_empty() {
            return;
        }
        let due: Vec<_> = self.forsaken.iter().filter(|(_, at)| **at <= now).map(|(&piece, _)| piece).collect();
        for piece in due {
            self.forsaken.remove(&piece);
            if self.demand.class(piece).is_none() && !self.background.is_wanted(piece) {
                self.cancel_piece(now, piece, false);
            }
        }
    }

    /// The windows' pieces, soonest needed first. Where others are still fetching the same, what is needed later comes in
    /// the order of its rarity, ties as each torrent has drawn them: those who read the same film at once would else all ask
    /// the one source for the same piece, and have nothing for each other.
    fn readahead(&mut self, now: Instant) -> Vec<(PieceIndex, Class, u32)> {
        let shared = self.has_company();
        // Nobody gets further than what is fetched, whatever his pace.
        let fetched = self.totals.received.bytes_per_second(now).max(1) as f64;
        let piece_seconds = f64::from(self.layout.piece_length()) / fetched;
        let mut pieces = Vec::new();
        for (nth, handle) in self.handles.values().enumerate() {
            let horizon = handle.horizon.unwrap_or(UNKNOWN_HORIZON).as_secs_f64();
            let all: usize = handle.window.iter().map(|range| range.len()).sum();
            let window = handle.window.iter().flat_map(|range| range.iter()).take(WINDOW_PIECES);
            pieces.extend(window.enumerate().map(|(at, piece)| {
                let seconds = horizon * at as f64 / all as f64;
                let later = shared && seconds.max(at as f64 * piece_seconds) >= SOON && at >= SOON_PIECES;
                let (order, class) = match later {
                    false => ((seconds * 1e6) as u64, Class::Readahead),
                    true => (u64::from(self.background.availability.count(piece)), Class::Later),
                };
                (class, order, if later { self.lot_of(piece) } else { nth as u64 }, at, piece)
            }));
        }
        if self.handles.len() > 1 || shared {
            pieces.sort_unstable();
        }
        pieces.into_iter().map(|(class, .., at, piece)| (piece, class, at as u32)).collect()
    }
}

/// A file that was read keeps peers warm for this long after its last handle was closed.
const WARM_AFTER_CLOSE: Duration = Duration::from_secs(600);
/// How far ahead a window reaches when its reader's pace is unknown.
const UNKNOWN_HORIZON: Duration = Duration::from_secs(10);
/// What is needed within so many seconds, and so many pieces in any case, is fetched in order.
const SOON: f64 = 4.0;
const SOON_PIECES: usize = 4;
/// I7: pieces of one window.
const WINDOW_PIECES: usize = 8192;
const FORSAKEN_GRACE: Duration = Duration::from_millis(2);
/// A window that grows is believed after this long.
const SETTLE: Duration = Duration::from_millis(4);
