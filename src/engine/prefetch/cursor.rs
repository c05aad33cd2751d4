//! One place in a file that is being read forward.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::{FIRST_WINDOW, MIB, PROOF};

/// Follows one stretch of reading through the kernel's disorder.
#[derive(Debug)]
pub(super) struct Cursor {
    /// Older cursors have smaller numbers.
    pub(super) number: u64,
    /// First byte of the stretch that was read without a gap, and its end: the highest contiguous offset.
    start: u64,
    pub(super) head: u64,
    /// Reads beyond a gap that is not filled yet, in order, none touching another.
    islands: Vec<Range<u64>>,
    /// When it had to wait for the network first, and where it was then.
    waited: Option<(Instant, u64)>,
    /// Times at which the stretch went on after everything before had been answered, plus one.
    bursts: u32,
    /// Bytes wanted ahead of `head`; `None` until the stretch has proved itself.
    pub(super) window: Option<u64>,
    /// The window doubles when `head` gets here.
    double_at: u64,
    /// A stall doubles it once the reader is here.
    stall_at: u64,
    /// Times the reader came back to this place from another.
    pub(super) returns: u32,
    pub(super) used_at: Instant,
    gap_since: Option<Instant>,
}

impl Cursor {
    pub(super) fn new(number: u64, now: Instant, range: &Range<u64>) -> Self {
        Self {
            number,
            start: range.start,
            head: range.end,
            islands: Vec::new(),
            waited: None,
            bursts: 1,
            window: None,
            double_at: 0,
            stall_at: 0,
            returns: 0,
            used_at: now,
            gap_since: None,
        }
    }

    /// Whether a read belongs to this stretch, in order or nearly so.
    pub(super) fn is_near(&self, range: &Range<u64>) -> bool {
        range.start <= self.head.saturating_add(FORWARD_TOLERANCE) && range.end + BACK_TOLERANCE >= self.head
    }

    pub(super) fn distance(&self, range: &Range<u64>) -> u64 {
        range.start.abs_diff(self.head)
    }

    /// First byte of what was read in a row.
    pub(super) fn start(&self) -> u64 {
        self.start
    }

    /// Bytes read in a row.
    pub(super) fn stretch(&self) -> u64 {
        self.head - self.start
    }

    /// Takes a read that belongs here. `unanswered`: bytes of this handle that were asked before and not answered yet;
    /// `proof`: bytes in a row that make a sequential reader.
    pub(super) fn advance(
        &mut self,
        now: Instant,
        range: &Range<u64>,
        new_burst: bool,
        unanswered: u64,
        cap: u64,
        proof: u64,
    ) {
        self.used_at = now;
        let before = self.head;
        let consumed = (self.head - self.start).saturating_sub(unanswered);
        let goes_on = range.end > self.head;
        self.insert(range);
        self.skip_old_gap(now, cap);
        if goes_on && new_burst {
            self.bursts += 1;
        }
        match self.window {
            None => {
                // One long read is no sequential reader yet: it must go on after an answer, or for longer than any
                // single request can be. Beyond what it does by habit asking is enough: a wait is what it would cost.
                let goes_beyond = self.stretch() >= proof && consumed >= PROOF && self.bursts >= 2;
                let proven = goes_beyond || consumed >= proof.max(LONG_PROOF);
                if proven && goes_on && self.head > before {
                    self.open(FIRST_WINDOW);
                }
            }
            Some(_) => {
                while let Some(window) = self.window.filter(|&window| self.head >= self.double_at && window < cap) {
                    self.open(self.grown(now, window, cap));
                }
            }
        }
    }

    /// A read here had to wait for the network: more must be on its way.
    pub(super) fn stalled(&mut self, now: Instant, cap: u64) {
        self.waited.get_or_insert((now, self.head));
        if let Some(window) = self.window.filter(|&window| self.head >= self.stall_at && window < cap) {
            self.open(self.grown(now, window, cap));
            self.stall_at = self.head + window;
        }
    }

    /// Twice as long; up to eight times where so much has come in a tenth of a second since it first had to wait, since
    /// a fast swarm idles while a window grows.
    fn grown(&self, now: Instant, window: u64, cap: u64) -> u64 {
        let pace = self.waited.map_or(0.0, |(since, head)| {
            let seconds = now.saturating_duration_since(since).max(MIN_SPAN).as_secs_f64();
            self.head.saturating_sub(head) as f64 / seconds
        });
        let soon = (pace * AHEAD_SECONDS) as u64;
        soon.clamp(window * 2, window * 8).min(cap.max(FIRST_WINDOW))
    }

    fn open(&mut self, window: u64) {
        self.window = Some(window);
        self.double_at = self.head + window / 2;
    }

    /// Adds a read and moves `head` over everything that it joins.
    fn insert(&mut self, range: &Range<u64>) {
        if range.start > self.head {
            let mut merged = range.clone();
            self.islands.retain(|island| {
                let apart = island.end < merged.start || island.start > merged.end;
                if !apart {
                    merged = merged.start.min(island.start)..merged.end.max(island.end);
                }
                apart
            });
            let at = self.islands.partition_point(|island| island.start < merged.start);
            self.islands.insert(at, merged);
            if self.islands.len() > MAX_ISLANDS {
                // Bounded (I7): the farthest is the least likely to be joined.
                self.islands.pop();
            }
        } else {
            self.head = self.head.max(range.end);
            if range.end >= self.start {
                self.start = self.start.min(range.start);
            }
        }
        while self.islands.first().is_some_and(|island| island.start <= self.head) {
            self.head = self.head.max(self.islands.remove(0).end);
        }
    }

    /// A gap that stays is no disorder: the reader skipped it.
    fn skip_old_gap(&mut self, now: Instant, cap: u64) {
        let Some(first) = self.islands.first() else {
            self.gap_since = None;
            return;
        };
        let since = *self.gap_since.get_or_insert(now);
        let long = first.end - first.start >= LONG_ISLAND;
        if long || now.saturating_duration_since(since) >= GAP_PATIENCE {
            if self.head - self.start < SKIPPER_MIN {
                // Skip upon skip with little read between them: this has become random access.
                self.window = None;
                self.bursts = 1;
            }
            (self.start, self.waited) = (first.start, None);
            self.head = self.islands.remove(0).end;
            self.gap_since = (!self.islands.is_empty()).then_some(now);
            if let Some(window) = self.window.filter(|_| self.head >= self.double_at) {
                // The skipped bytes were not eaten: no doubling for them.
                self.open(window.min(cap.max(FIRST_WINDOW)));
            }
        }
    }
}

/// Bytes in a row that prove it for a stretch that never paused: longer than one request of the kernel's can be.
const LONG_PROOF: u64 = FIRST_WINDOW;
/// How far behind the highest contiguous offset a late read may be.
const BACK_TOLERANCE: u64 = MIB;
/// How far ahead of it an early one may be. Farther is a seek: what lies between must not be fetched before what is read
/// now, and the end of a small file is no part of its head.
const FORWARD_TOLERANCE: u64 = MIB;
/// Reading that went on beyond a gap for so long, or with the gap open for so long, has skipped it.
const LONG_ISLAND: u64 = 2 * MIB;
const GAP_PATIENCE: Duration = Duration::from_secs(2);
/// A reader that skips forward keeps its window if it reads more than this between two skips.
const SKIPPER_MIN: u64 = 128 * 1024;
const MAX_ISLANDS: usize = 16;
/// A window of a fast stream is as long as what comes in this time.
const AHEAD_SECONDS: f64 = 0.1;
/// A pace over less time is none.
const MIN_SPAN: Duration = Duration::from_millis(2);
