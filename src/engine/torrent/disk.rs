//! Work for the disk and what it came to: writes, verdicts, checks of what lies there already.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::Torrent;
use crate::base::{PieceIndex, PieceRange};
use crate::engine::assembly::{BlockId, Run};
use crate::engine::blame::Sender;
use crate::engine::{DiskDone, DiskJob, Effect, PeerKey, ReadError, Room};
use crate::proto::wire::Message;

/// How the disk does, and the checks under way.
#[derive(Debug, Default)]
pub(super) struct Disk {
    /// What the system said last, if the last job failed.
    pub error: Option<String>,
    /// Nothing is fetched or checked until then.
    pub retry_at: Option<Instant>,
    /// Bursts of failures without a success in between.
    failures_in_a_row: u32,
    /// Pieces whose jobs failed.
    failed: BTreeMap<PieceIndex, Failures>,
    checks: BTreeMap<PieceIndex, Check>,
    /// Readable, and in memory alone: peers are not told of them.
    pub held: BTreeSet<PieceIndex>,
    /// Found damaged, not fetched again yet.
    damaged: BTreeSet<PieceIndex>,
    /// Found altered while they were being fetched: the store's verdict may be from before that.
    doubted: BTreeSet<PieceIndex>,
}

/// How often the disk has failed a piece: in how many attempts, and which was the last.
#[derive(Debug, Default)]
struct Failures {
    attempts: u32,
    last: u32,
}

#[derive(Debug, Clone, Copy)]
struct Check {
    attempt: u32,
    /// The files were altered again since the check began.
    stale: bool,
}

impl Torrent {
    /// Hands on what became whole with this block.
    pub(super) fn write_runs(&mut self, block: BlockId, urgent: bool) {
        while let Some(run) = self.assembly.complete_run(block, urgent) {
            self.write(block.piece, run, urgent);
        }
    }

    /// When too much is held, something goes that is not whole.
    pub(super) fn write_held_back(&mut self) {
        // What is queued goes by itself, and the shorter the runs the longer that takes.
        if self.assembly.waiting_bytes() > HELD_BYTES / 2
            && self.assembly.held_bytes() > HELD_BYTES
            && let Some((piece, run)) = self.assembly.oldest_run()
        {
            self.write(piece, run, self.reads.is_waited_for(piece));
        }
    }

    fn write(&mut self, piece: PieceIndex, run: Run, urgent: bool) {
        let Run { attempt, begin, blocks } = run;
        self.effects.push_back(Effect::Disk(DiskJob::Write { piece, attempt, begin, blocks, urgent }));
    }

    pub(super) fn disk_done(&mut self, now: Instant, done: DiskDone) {
        match done {
            DiskDone::Written { piece, attempt, bytes } => {
                self.disk_works();
                self.job_ended(piece, attempt, bytes);
            }
            DiskDone::Verified { piece, attempt, bytes } => {
                self.disk_works();
                self.verified(now, piece, attempt, bytes, false);
            }
            DiskDone::Held { piece, attempt, bytes } => self.verified(now, piece, attempt, bytes, true),
            DiskDone::Corrupt { piece, attempt, bytes, block_digests } => {
                self.disk_works();
                if self.disk.checks.get(&piece).is_some_and(|check| check.attempt == attempt) {
                    self.check_failed(piece);
                } else {
                    self.corrupt(now, piece, attempt, bytes, block_digests);
                }
            }
            DiskDone::Digests { piece, block_digests } => {
                for liar in self.blame.settle(piece, &block_digests) {
                    // A single source that lied once may be of use yet; three times is too often for anybody.
                    let others = self.peers.values().any(|peer| peer.addr != liar.addr && peer.pieces.count() > 0);
                    if others || self.blame.strike(liar.addr) {
                        self.ban(now, liar.addr);
                    }
                }
            }
            DiskDone::Failed { piece, attempt: 0, .. } => drop(self.blame.settle(piece, &[])),
            DiskDone::Failed { piece, attempt, bytes, error } => self.disk_failed(now, piece, attempt, bytes, error),
        }
    }

    fn job_ended(&mut self, piece: PieceIndex, attempt: u32, bytes: u32) {
        let full = self.assembly.held_bytes() > HELD_BYTES;
        if self.assembly.job_ended(piece, attempt, bytes) {
            self.may_begin_anew(piece);
        }
        if full && self.assembly.held_bytes() <= HELD_BYTES {
            self.dirty.everybody = true;
        }
    }

    /// `held`: in memory alone.
    fn verified(&mut self, now: Instant, piece: PieceIndex, attempt: u32, bytes: u32, held: bool) {
        if let Some(check) = self.disk.checks.get(&piece).copied().filter(|check| check.attempt == attempt) {
            self.disk.checks.remove(&piece);
            self.dirty.checks = true;
            if check.stale {
                return;
            }
            self.now_have(now, piece, held);
            return;
        }
        let current = self.assembly.get(piece).is_some_and(|partial| partial.attempt() == attempt);
        self.job_ended(piece, attempt, bytes);
        if !current {
            return; // I6: an old number.
        }
        self.assembly.finish(piece);
        self.totals.fetched = true;
        self.totals.repaired_pieces += u64::from(self.disk.damaged.remove(&piece));
        if self.disk.doubted.remove(&piece) {
            self.unchecked.set(piece);
            self.background.unwant(piece);
            self.dirty.checks = true;
            self.dirty.demand = true;
        } else {
            self.now_have(now, piece, held);
        }
        if self.blame.wants_digests(piece) {
            self.effects.push_back(Effect::Disk(DiskJob::Digests(piece)));
        } else if self.blame.is_doubtful(piece) {
            self.blame.settle(piece, &[]);
        }
    }

    /// A piece has become readable.
    fn now_have(&mut self, now: Instant, piece: PieceIndex, held: bool) {
        self.unchecked.clear(piece);
        self.disk.damaged.remove(&piece);
        self.disk.failed.remove(&piece);
        if !self.have.set(piece) {
            return;
        }
        self.totals.have_bytes += u64::from(self.layout.piece_bytes(piece));
        self.demand.done(piece);
        self.wanted.arrived(piece);
        self.background.unwant(piece);
        if held {
            self.disk.held.insert(piece);
        } else {
            self.claim(piece);
        }
        // The next pieces have their turn.
        self.dirty.demand |= matches!(self.room, Room::Memory(_));
        let ready = self.reads.arrived(now, piece);
        self.effects.extend(ready.into_iter().map(Effect::ReadReady));
        // Background requests are held back while somebody waits.
        self.dirty.everybody |= !self.demand.has_blocked() && self.background.wanted().count() > 0;
        self.note_completeness(now);
    }

    /// Pieces that were in memory alone are on the disk.
    pub(super) fn kept(&mut self, now: Instant, pieces: &[PieceIndex]) {
        for &piece in pieces {
            if self.disk.held.remove(&piece) {
                self.claim(piece);
            }
        }
        self.note_completeness(now);
    }

    fn claim(&mut self, piece: PieceIndex) {
        if self.claimed.set(piece) {
            let peers: Vec<_> = self.peers.keys().copied().collect();
            peers.into_iter().for_each(|key| self.send(key, Message::Have(piece.raw())));
        }
    }

    fn note_completeness(&mut self, now: Instant) {
        if self.is_complete() {
            if self.totals.fetched && !self.totals.completed {
                self.totals.completed = true;
                self.effects.push_back(Effect::Completed);
                self.announcer.completed(now);
            } else if !self.totals.fetched {
                self.announcer.found_whole(now);
            }
            self.announce_completeness(now);
        }
    }

    /// Bytes on disk are not what they were taken for.
    fn check_failed(&mut self, piece: PieceIndex) {
        self.disk.checks.remove(&piece);
        self.dirty.checks = true;
        self.unchecked.clear(piece);
        self.claimed.clear(piece);
        self.disk.damaged.insert(piece);
        if self.config.read_only {
            self.fail_reads(piece, ReadError::Missing);
        }
        self.want_in_background(PieceRange::one(piece));
        self.dirty.demand = true;
    }

    /// A fetched piece failed its hash.
    fn corrupt(&mut self, now: Instant, piece: PieceIndex, attempt: u32, bytes: u32, digests: Vec<[u8; 20]>) {
        let lost = self.assembly.lose(piece, attempt);
        self.job_ended(piece, attempt, bytes);
        let Some((senders, ended)) = lost else { return };
        if ended {
            self.may_begin_anew(piece);
        }
        self.totals.wasted_bytes += u64::from(self.layout.piece_bytes(piece));
        if digests.is_empty() {
            return; // The file was altered by somebody else: no peer is to blame.
        }
        self.totals.corrupt_pieces += 1;
        let sender = |key: PeerKey| Some(Sender { key, addr: self.addr_of(key)? });
        let senders = senders.into_iter().map(|key| sender(key?)).collect();
        if let Some(liar) = self.blame.failed(piece, digests, senders) {
            self.ban(now, liar.addr);
        }
    }

    /// No job of a lost attempt is left.
    pub(super) fn may_begin_anew(&mut self, piece: PieceIndex) {
        self.demand.set_free(piece, self.layout.block_count(piece));
        self.background.lost(piece);
        self.dirty.everybody = true;
    }

    fn disk_works(&mut self) {
        // A success during the pause is of a job from before it.
        if self.disk.retry_at.is_none() {
            self.disk.error = None;
            self.disk.failures_in_a_row = 0;
        }
    }

    fn disk_failed(&mut self, now: Instant, piece: PieceIndex, attempt: u32, bytes: u32, error: String) {
        self.disk.error = Some(error);
        // Jobs that were under way fail together: a burst counts once.
        if self.disk.retry_at.is_none() {
            self.disk.failures_in_a_row += 1;
            // The swarm must not be asked for the same data without end.
            let wait = Duration::from_secs(1 << (self.disk.failures_in_a_row.min(6) - 1)).min(DISK_RETRY_MAX);
            self.disk.retry_at = Some(now + wait);
        }
        let failures = self.disk.failed.entry(piece).or_default();
        failures.attempts += u32::from(failures.last != attempt);
        failures.last = attempt;
        let hopeless = failures.attempts >= DISK_TRIES;
        if self.disk.checks.get(&piece).is_some_and(|check| check.attempt == attempt) {
            // What cannot be read is not there.
            self.check_failed(piece);
        } else {
            self.cancel_piece(now, piece, true);
            let lost = self.assembly.lose(piece, attempt);
            if lost.is_some() {
                // Until its last job has ended, which may be this one.
                self.demand.set_free(piece, 0);
            }
            self.job_ended(piece, attempt, bytes);
            if let Some((_, true)) = lost {
                self.may_begin_anew(piece);
            }
        }
        if hopeless {
            self.disk.failed.remove(&piece);
            self.fail_reads(piece, ReadError::Disk);
        }
    }

    /// Everybody who waits for this piece is told so.
    fn fail_reads(&mut self, piece: PieceIndex, error: ReadError) {
        for ticket in self.reads.waiting_for(piece) {
            self.reads.remove(ticket);
            self.effects.push_back(Effect::ReadFailed(ticket, error));
        }
        self.dirty.demand = true;
    }

    /// Checks what lies on disk: what somebody waits for at once, the rest a little at a time.
    pub(super) fn start_checks(&mut self) {
        if self.unchecked.count() == 0 || self.disk.retry_at.is_some() {
            return;
        }
        let waited: Vec<_> = self.reads.pieces().filter(|&piece| self.unchecked.has(piece)).collect();
        waited.into_iter().for_each(|piece| self.check_piece(piece, true));
        let windows = self.handles.values().flat_map(|handle| &handle.window).flat_map(|range| range.iter());
        let soon: Vec<_> = windows.filter(|&piece| self.unchecked.has(piece)).take(CHECKS_AHEAD).collect();
        for piece in soon {
            if self.disk.checks.len() < CHECKS_AHEAD {
                self.check_piece(piece, false);
            }
        }
        let idle = CHECKS_IDLE.saturating_sub(self.disk.checks.len());
        if idle > 0 {
            let rest = self.unchecked.iter().filter(|piece| !self.disk.checks.contains_key(piece));
            let rest: Vec<_> = rest.take(idle).collect();
            rest.into_iter().for_each(|piece| self.check_piece(piece, false));
        }
    }

    fn check_piece(&mut self, piece: PieceIndex, urgent: bool) {
        if !self.disk.checks.contains_key(&piece) {
            let attempt = self.assembly.next_attempt(piece);
            self.disk.checks.insert(piece, Check { attempt, stale: false });
            self.effects.push_back(Effect::Disk(DiskJob::Check { piece, attempt, urgent }));
        }
    }

    /// The files behind these pieces were altered by somebody.
    pub(super) fn suspect(&mut self, pieces: PieceRange) {
        for piece in pieces.iter() {
            if self.have.clear(piece) {
                self.disk.held.remove(&piece);
                self.unchecked.set(piece);
                self.totals.have_bytes -= u64::from(self.layout.piece_bytes(piece));
            } else if self.assembly.get(piece).is_some() {
                self.disk.doubted.insert(piece);
            }
            if let Some(check) = self.disk.checks.get_mut(&piece) {
                check.stale = true;
            }
        }
        self.dirty.checks = true;
        self.dirty.demand = true;
    }

    /// A piece is neither here nor waiting for its check: it would have to be fetched.
    pub(super) fn is_absent(&self, piece: PieceIndex) -> bool {
        !self.have.has(piece) && !self.unchecked.has(piece)
    }

    /// How much may be asked with regard to the memory that is waiting for the disk, and to the room in the cache.
    pub(super) fn memory(&self) -> Memory {
        let by_cache = match self.room {
            Room::Plenty => Memory::Plenty,
            Room::Tight => Memory::NoBackground,
            Room::Scarce | Room::Memory(_) => Memory::BlockedOnly,
        };
        let by_memory = match self.assembly.held_bytes() {
            held if held > 2 * HELD_BYTES => Memory::Exhausted,
            held if held > HELD_BYTES + HELD_BYTES / 2 => Memory::BlockedOnly,
            held if held > HELD_BYTES => Memory::NoBackground,
            _ => Memory::Plenty,
        };
        by_memory.max(by_cache)
    }
}

/// What memory, cache and bounds on the rate allow to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Memory {
    Plenty,
    NoBackground,
    BlockedOnly,
    Exhausted,
}

/// I7: bytes not yet written. Twice as much is never asked for.
pub(super) const HELD_BYTES: u64 = 6 * 1024 * 1024;
const DISK_RETRY_MAX: Duration = Duration::from_secs(30);
/// A read fails when the disk has failed its piece this often.
const DISK_TRIES: u32 = 2;
const CHECKS_AHEAD: usize = 8;
const CHECKS_IDLE: usize = 2;
