//! Readers that wait: their tickets, the pieces they lack, and how long nothing has moved for them.
//!
//! Every ticket ends exactly once: ready, failed or abandoned (I5).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::Ticket;
use crate::base::{PieceIndex, PieceRange};

/// One blocked read.
#[derive(Debug)]
pub(crate) struct Read {
    pub missing: BTreeSet<PieceIndex>,
    pub since: Instant,
    sequence: u64,
    /// When it fails unless something moves; mirrors `Reads::deadlines`.
    deadline: Option<Instant>,
}

/// All blocked reads.
#[derive(Debug)]
pub(crate) struct Reads {
    timeout: Option<Duration>,
    tickets: BTreeMap<Ticket, Read>,
    /// Tickets in the order of their coming.
    order: BTreeMap<u64, Ticket>,
    waiters: BTreeMap<PieceIndex, Waited>,
    deadlines: BTreeSet<(Instant, Ticket)>,
    /// Pieces whose reads fail at once, until when.
    stalled: BTreeMap<PieceIndex, Instant>,
    next_sequence: u64,
}

#[derive(Debug)]
struct Waited {
    tickets: BTreeSet<Ticket>,
    last_progress: Option<Instant>,
}

impl Reads {
    pub(crate) fn new(timeout: Option<Duration>) -> Self {
        Self {
            timeout,
            tickets: BTreeMap::new(),
            order: BTreeMap::new(),
            waiters: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            stalled: BTreeMap::new(),
            next_sequence: 0,
        }
    }

    /// A reader begins to wait for pieces that are not here.
    pub(crate) fn wait(&mut self, now: Instant, ticket: Ticket, missing: BTreeSet<PieceIndex>) {
        let deadline = self.timeout.map(|timeout| now + timeout);
        for &piece in &missing {
            let waited = self.waiters.entry(piece);
            waited.or_insert_with(|| Waited { tickets: BTreeSet::new(), last_progress: None }).tickets.insert(ticket);
        }
        self.next_sequence += 1;
        self.order.insert(self.next_sequence, ticket);
        self.deadlines.extend(deadline.map(|at| (at, ticket)));
        self.tickets.insert(ticket, Read { missing, since: now, sequence: self.next_sequence, deadline });
    }

    /// A piece is here: the tickets that lack nothing any more, oldest first.
    pub(crate) fn arrived(&mut self, now: Instant, piece: PieceIndex) -> Vec<Ticket> {
        self.progressed(now, piece);
        let Some(waited) = self.waiters.remove(&piece) else { return Vec::new() };
        let mut ready = Vec::new();
        for ticket in waited.tickets {
            let Some(read) = self.tickets.get_mut(&ticket) else { continue };
            read.missing.remove(&piece);
            if read.missing.is_empty() {
                ready.push((read.sequence, ticket));
            } else if let (Some(timeout), Some(old)) = (self.timeout, read.deadline) {
                // The piece takes its stamp along, so the ticket's own deadline moves now.
                self.deadlines.remove(&(old, ticket));
                read.deadline = Some(now + timeout);
                self.deadlines.insert((now + timeout, ticket));
            }
        }
        ready.sort_unstable();
        ready.iter().for_each(|&(_, ticket)| drop(self.remove(ticket)));
        ready.into_iter().map(|(_, ticket)| ticket).collect()
    }

    /// Something moved for a piece: its readers' patience begins anew.
    pub(crate) fn progressed(&mut self, now: Instant, piece: PieceIndex) {
        self.stalled.remove(&piece);
        if let Some(waited) = self.waiters.get_mut(&piece) {
            waited.last_progress = Some(now);
        }
    }

    /// Ends a ticket, whatever its state.
    pub(crate) fn remove(&mut self, ticket: Ticket) -> Option<Read> {
        let read = self.tickets.remove(&ticket)?;
        self.order.remove(&read.sequence);
        if let Some(deadline) = read.deadline {
            self.deadlines.remove(&(deadline, ticket));
        }
        for piece in &read.missing {
            if let Some(waited) = self.waiters.get_mut(piece) {
                waited.tickets.remove(&ticket);
                if waited.tickets.is_empty() {
                    self.waiters.remove(piece);
                }
            }
        }
        Some(read)
    }

    /// Ends the tickets for which nothing moved for too long; what they lack is remembered for a while.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<Ticket> {
        let Some(timeout) = self.timeout else { return Vec::new() };
        let mut failed = Vec::new();
        while let Some(&(at, ticket)) = self.deadlines.first().filter(|(at, _)| *at <= now) {
            let Some(read) = self.tickets.get_mut(&ticket) else {
                self.deadlines.remove(&(at, ticket));
                continue;
            };
            // Progress is stamped on pieces; it is looked up only here.
            let moved = read.missing.iter().filter_map(|piece| self.waiters.get(piece)?.last_progress).max();
            if let Some(later) = moved.map(|moved| moved + timeout).filter(|&later| later > now) {
                self.deadlines.remove(&(at, ticket));
                self.deadlines.insert((later, ticket));
                read.deadline = Some(later);
                continue;
            }
            if let Some(read) = self.remove(ticket) {
                self.stalled.extend(read.missing.iter().map(|&piece| (piece, now + STALL_MEMORY)));
            }
            failed.push(ticket);
        }
        self.stalled.retain(|_, until| *until > now);
        failed
    }

    /// Whether a read of this piece has failed a moment ago and nothing has moved since.
    pub(crate) fn is_stalled(&self, now: Instant, piece: PieceIndex) -> bool {
        self.stalled.get(&piece).is_some_and(|&until| until > now)
    }

    /// The tickets that wait for this piece.
    pub(crate) fn waiting_for(&self, piece: PieceIndex) -> Vec<Ticket> {
        self.waiters.get(&piece).map(|waited| waited.tickets.iter().copied().collect()).unwrap_or_default()
    }

    /// Whether somebody waits for this piece.
    pub(crate) fn is_waited_for(&self, piece: PieceIndex) -> bool {
        self.waiters.contains_key(&piece)
    }

    /// The pieces waited for: those of the oldest ticket first.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = PieceIndex> + '_ {
        self.iter().flat_map(|(_, read)| read.missing.iter().copied())
    }

    /// Tickets, oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Ticket, &Read)> {
        self.order.values().filter_map(|ticket| Some((*ticket, self.tickets.get(ticket)?)))
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|&(at, _)| at)
    }

    /// Checks what must always hold; for debug builds and tests.
    pub(crate) fn check(&self) {
        assert_eq!(self.order.len(), self.tickets.len());
        assert_eq!(self.deadlines.len(), self.tickets.values().filter(|read| read.deadline.is_some()).count());
        for (piece, waited) in &self.waiters {
            assert!(!waited.tickets.is_empty(), "nobody waits for {piece}");
            assert!(waited.tickets.iter().all(|ticket| self.tickets[ticket].missing.contains(piece)));
        }
        assert!(self.tickets.values().all(|read| !read.missing.is_empty()), "a finished ticket lingers");
    }
}

impl Read {
    /// From the first to the last piece that it lacks.
    pub(crate) fn span(&self) -> PieceRange {
        match (self.missing.first(), self.missing.last()) {
            (Some(&first), Some(&last)) => PieceRange::inclusive(first, last),
            _ => PieceRange::default(),
        }
    }
}

/// After a failed readahead the kernel asks again in the reader's name: that read is to fail too, not to wait again.
const STALL_MEMORY: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn set(pieces: &[u32]) -> BTreeSet<PieceIndex> {
        pieces.iter().map(|&piece| PieceIndex(piece)).collect()
    }

    fn reads(now: Instant, tickets: &[(u64, &[u32])]) -> Reads {
        let mut reads = Reads::new(Some(120 * S));
        tickets.iter().for_each(|&(ticket, pieces)| reads.wait(now, Ticket(ticket), set(pieces)));
        reads.check();
        reads
    }

    #[test]
    fn a_ticket_is_ready_with_its_last_piece() {
        let now = Instant::now();
        let mut reads = reads(now, &[(9, &[1, 2]), (3, &[2])]);
        assert_eq!(reads.arrived(now, PieceIndex(1)), []);
        assert_eq!(reads.arrived(now, PieceIndex(2)), [Ticket(9), Ticket(3)], "in the order of their coming");
        assert_eq!(reads.arrived(now, PieceIndex(2)), []);
        reads.check();
    }

    #[test]
    fn oldest_tickets_come_first() {
        let reads = reads(Instant::now(), &[(9, &[7, 8]), (3, &[2, 7])]);
        assert_eq!(reads.pieces().map(PieceIndex::raw).collect::<Vec<_>>(), [7, 8, 2, 7]);
    }

    #[test]
    fn a_read_fails_when_nothing_moves_and_the_piece_is_remembered_for_a_while() {
        let now = Instant::now();
        let mut reads = reads(now, &[(1, &[1]), (2, &[2])]);
        reads.progressed(now + 100 * S, PieceIndex(2));
        assert_eq!(reads.poll_timeout(), Some(now + 120 * S));
        assert_eq!(reads.expire(now + 120 * S), [Ticket(1)]);
        assert!(reads.is_stalled(now + 124 * S, PieceIndex(1)));
        assert!(!reads.is_stalled(now + 125 * S, PieceIndex(1)));
        assert_eq!(reads.poll_timeout(), Some(now + 220 * S));
        assert_eq!(reads.expire(now + 220 * S), [Ticket(2)]);
        reads.check();
    }

    #[test]
    fn progress_lifts_the_memory_of_a_stall_and_abandoning_leaves_none() {
        let now = Instant::now();
        let mut reads = reads(now, &[(1, &[1])]);
        reads.expire(now + 120 * S);
        reads.progressed(now + 121 * S, PieceIndex(1));
        assert!(!reads.is_stalled(now + 121 * S, PieceIndex(1)));
        reads.wait(now, Ticket(5), set(&[5]));
        reads.remove(Ticket(5));
        assert!(!reads.is_stalled(now, PieceIndex(5)) && !reads.is_waited_for(PieceIndex(5)));
        reads.check();
    }

    #[test]
    fn a_piece_that_arrives_is_progress_for_a_read_that_lacks_more() {
        let now = Instant::now();
        let mut reads = reads(now, &[(1, &[1, 2])]);
        reads.arrived(now + 100 * S, PieceIndex(1));
        assert_eq!(reads.expire(now + 130 * S), []);
        assert_eq!(reads.expire(now + 220 * S), [Ticket(1)]);
    }

    #[test]
    fn without_a_timeout_a_read_waits_for_ever() {
        let now = Instant::now();
        let mut reads = Reads::new(None);
        reads.wait(now, Ticket(1), set(&[1]));
        assert_eq!((reads.poll_timeout(), reads.expire(now + 100_000 * S)), (None, vec![]));
    }
}
