//! How far ahead of a reader to fetch: one [`Prefetcher`] per open handle.
//!
//! Works in bytes of one file; the caller maps its plans to pieces. Fetches nothing, and knows nothing of what is there
//! already: a plan names what the reader will want, present or not.
//!
//! What makes it hard: the kernel cuts, overlaps and reorders what a program reads, and probing (a header, an index at
//! the end, a thumbnail) must not cost more than it touches. So reads are followed by cursors that tolerate
//! disorder, a window opens only after a stretch that was read without gaps, and grows with use.

mod cursor;

use std::ops::Range;
use std::time::{Duration, Instant};

use cursor::Cursor;

/// Limits of read-ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrefetchConfig {
    /// A window is never longer.
    pub max_window_bytes: u64,
    /// Nor does it hold more than this much reading at the reader's own pace; zero: no read-ahead at all.
    pub max_window_time: Duration,
}

impl Default for PrefetchConfig {
    fn default() -> Self {
        Self { max_window_bytes: 64 * MIB, max_window_time: Duration::from_secs(15) }
    }
}

/// The file behind a handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileGeometry {
    /// Its length in bytes.
    pub bytes: u64,
    /// Its first byte in the torrent's content.
    pub start: u64,
    /// Length of the torrent's pieces in bytes.
    pub piece_length: u32,
}

/// What a handle will want next; replaces its former plan.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WindowPlan {
    /// Ranges of the file in order of need, none empty; no range: nothing ahead is wanted any more.
    pub ranges: Vec<Range<u64>>,
    /// Time until the reader gets to the end of the first range at its present pace; `None`: unknown.
    pub horizon: Option<Duration>,
}

/// Follows the reads of one open handle.
#[derive(Debug)]
pub struct Prefetcher {
    config: PrefetchConfig,
    file: FileGeometry,
    /// Most recently used first.
    cursors: Vec<Cursor>,
    next_number: u64,
    /// Requests not yet answered, and their bytes.
    outstanding: usize,
    outstanding_bytes: u64,
    /// Bytes asked in a row by the current burst, and its last byte's end: requests that overlap in time are one read.
    burst: Range<u64>,
    pace: Pace,
    habit: Habit,
    /// A burst that ends near a piece's end wants the next piece, too.
    next_piece: Option<Range<u64>>,
    plan: WindowPlan,
}

/// Bytes in a row that a reader has read at each of the last places it left: it will do so again. What reads one file
/// after the other (thumbnails, `file *`) is known by the handles that it has closed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Habit {
    stretches: [Option<u64>; 2],
}

/// Bytes a second that the reader takes when it does not have to wait for us.
#[derive(Debug, Default)]
struct Pace {
    bytes: f64,
    seconds: f64,
    /// It has made a pause: what it took before that filled its own buffer, which says nothing about its pace.
    paused: bool,
    idle_since: Option<Instant>,
}

impl Prefetcher {
    /// A handle that has read nothing; `habit`: what others have left behind.
    pub fn new(config: PrefetchConfig, file: FileGeometry, habit: Habit) -> Self {
        Self {
            config,
            file,
            cursors: Vec::new(),
            next_number: 0,
            outstanding: 0,
            outstanding_bytes: 0,
            burst: 0..0,
            pace: Pace::default(),
            habit,
            next_piece: None,
            plan: WindowPlan::default(),
        }
    }

    /// The reader asks for `length` bytes from `offset`. To be followed by one [`Self::on_read_done`].
    ///
    /// Returns a plan when what is wanted ahead has changed enough to tell.
    pub fn on_read(&mut self, now: Instant, offset: u64, length: u64) -> Option<WindowPlan> {
        let offset = offset.min(self.file.bytes);
        let range = offset..offset + length.min(self.file.bytes - offset);
        let new_burst = self.outstanding == 0;
        self.pace.asked(now, range.end - range.start);
        self.outstanding += 1;
        let unanswered = self.outstanding_bytes;
        self.outstanding_bytes += range.end - range.start;
        if range.is_empty() {
            return None;
        }
        self.follow(now, &range, new_burst, unanswered);
        self.extend_burst(&range, new_burst);
        self.replan()
    }

    /// A read was answered, with data or without. `length` as asked; `stalled`: the reader had to wait for the network.
    pub fn on_read_done(&mut self, now: Instant, offset: u64, length: u64, stalled: bool) -> Option<WindowPlan> {
        let offset = offset.min(self.file.bytes);
        let length = length.min(self.file.bytes - offset);
        self.outstanding = self.outstanding.saturating_sub(1);
        self.outstanding_bytes = self.outstanding_bytes.saturating_sub(length);
        if self.outstanding == 0 {
            self.outstanding_bytes = 0;
            self.pace.idle_since = Some(now);
        }
        if !stalled {
            return None;
        }
        let cap = self.cap();
        let cursor = self.cursors.iter_mut().find(|cursor| cursor.is_near(&(offset..offset + length)))?;
        cursor.stalled(now, cap);
        self.replan()
    }

    /// Memory or cache is scarce (or no longer): a new bound for the window.
    pub fn set_max_window_bytes(&mut self, bytes: u64) -> Option<WindowPlan> {
        self.config.max_window_bytes = bytes;
        self.replan()
    }

    /// What this reader leaves behind when it closes the file.
    pub fn habit(&self) -> Habit {
        let mut habit = self.habit;
        if let Some(left) = self.cursors.first() {
            habit.note(left.stretch());
        }
        habit
    }

    /// Bytes ahead of the reader that are wanted now; 0 while no window is open.
    pub fn window_bytes(&self) -> u64 {
        let cap = self.cap();
        self.cursors.first().and_then(|cursor| cursor.window).map_or(0, |window| window.min(cap))
    }

    /// Finds the cursor that the read belongs to, or sets a new one, and moves it.
    fn follow(&mut self, now: Instant, range: &Range<u64>, new_burst: bool, unanswered: u64) {
        let cap = self.cap();
        let found = (0..self.cursors.len())
            .filter(|&index| self.cursors[index].is_near(range))
            .min_by_key(|&index| self.cursors[index].distance(range));
        match found {
            Some(index) => {
                let mut cursor = self.cursors.remove(index);
                if index > 0 {
                    // Back from somewhere else: this reader hops, the others' windows stay alive with it.
                    cursor.returns += 1;
                }
                cursor.advance(now, range, new_burst, unanswered, cap, self.habit.proof());
                self.cursors.insert(0, cursor);
            }
            None => {
                if let Some(left) = self.cursors.first() {
                    self.habit.note(left.stretch());
                }
                self.cursors.truncate(MAX_CURSORS - 1);
                self.cursors.insert(0, Cursor::new(self.next_number, now, range));
                self.next_number += 1;
            }
        }
    }

    fn extend_burst(&mut self, range: &Range<u64>, new_burst: bool) {
        let touches = range.start <= self.burst.end && range.end >= self.burst.start;
        self.burst = if new_burst || !touches {
            range.clone()
        } else {
            self.burst.start.min(range.start)..self.burst.end.max(range.end)
        };
        let piece_end = self.piece_end(self.burst.end - 1);
        let near = self.burst.end - self.burst.start >= BURST_MIN && piece_end - self.burst.end <= NEAR_PIECE_END;
        let wanted = near && piece_end < self.file.bytes && !self.config.max_window_time.is_zero();
        self.next_piece = wanted.then(|| piece_end..self.piece_end(piece_end));
    }

    /// The end, in the file, of the piece that holds the byte at `offset` of the file.
    fn piece_end(&self, offset: u64) -> u64 {
        let length = u64::from(self.file.piece_length);
        let at = self.file.start + offset;
        ((at / length + 1) * length - self.file.start).min(self.file.bytes)
    }

    fn cap(&self) -> u64 {
        if self.config.max_window_time.is_zero() {
            return 0;
        }
        let by_time = self
            .pace
            .bytes_per_second()
            .map_or(u64::MAX, |pace| ((pace * self.config.max_window_time.as_secs_f64()) as u64).max(FIRST_WINDOW));
        self.config.max_window_bytes.min(by_time)
    }

    /// The plan as it should be, if it differs enough from the last one.
    fn replan(&mut self) -> Option<WindowPlan> {
        let mut ranges = self.windows();
        if ranges.is_empty() {
            let by_habit = self.habit.expected();
            ranges.extend(by_habit.map_or(self.next_piece.clone(), |bytes| self.rest_of(bytes)));
        }
        if !self.differs(&ranges) {
            return None;
        }
        let bytes: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        let pace = self.pace.bytes_per_second().filter(|_| bytes > 0);
        let horizon = pace.map(|pace| Duration::from_secs_f64((bytes as f64 / pace).min(MAX_HORIZON_SECONDS)));
        self.plan = WindowPlan { ranges, horizon };
        Some(self.plan.clone())
    }

    /// The open window of the place last read at; those of other places as well if the reader hops between them.
    fn windows(&self) -> Vec<Range<u64>> {
        let Some(latest) = self.cursors.first() else { return Vec::new() };
        let mut alive: Vec<&Cursor> = self.cursors[1..]
            .iter()
            .filter(|cursor| cursor.returns > 0 && latest.used_at.duration_since(cursor.used_at) < HOP_MEMORY)
            .chain([latest])
            .filter(|cursor| cursor.window.is_some())
            .collect();
        // In a steady order: the plan must not change with every hop.
        alive.sort_by_key(|cursor| cursor.number);
        let cap = self.cap() / alive.len().max(1) as u64;
        let windows = alive.iter().map(|cursor| {
            let end = cursor.head + cursor.window.map_or(0, |window| window.min(cap));
            cursor.head..end.min(self.file.bytes)
        });
        windows.filter(|window| !window.is_empty()).collect()
    }

    /// What is left of the `bytes` that the reader is expected to read where it is.
    fn rest_of(&self, bytes: u64) -> Option<Range<u64>> {
        let cursor = self.cursors.first()?;
        let end = cursor.start().saturating_add(bytes.min(self.cap())).min(self.file.bytes);
        (cursor.head < end).then_some(cursor.head..end)
    }

    /// Telling costs a message, so small steps are saved up: an eighth of the window that reaches another piece.
    fn differs(&self, ranges: &[Range<u64>]) -> bool {
        ranges.len() != self.plan.ranges.len()
            || ranges.iter().zip(&self.plan.ranges).any(|(new, old)| {
                let step = ((new.end - new.start) / 8).max(1);
                let at_end = new.end == self.file.bytes;
                let other_piece = self.piece_end(new.end - 1) != self.piece_end(old.end - 1);
                new.start < old.start
                    || new.start > old.end
                    || other_piece && (new.end.abs_diff(old.end) >= step || new.end > old.end && at_end)
            })
    }
}

impl Habit {
    fn note(&mut self, stretch: u64) {
        self.stretches = [Some(stretch), self.stretches[0]];
    }

    /// The lesser of the last stretches: one long read does not make a habit.
    fn least(&self) -> Option<u64> {
        self.stretches.into_iter().flatten().min()
    }

    /// Bytes that it will read in a row, without what the kernel has read ahead for it; `None` when they are few.
    fn expected(&self) -> Option<u64> {
        let stretch = self.least()?.checked_sub(KERNEL_READAHEAD)?;
        (stretch >= HABIT_MIN).then_some(stretch.min(HABIT_MAX))
    }

    /// Bytes in a row after which it is believed to be sequential: more than it does by habit, unless that is much.
    fn proof(&self) -> u64 {
        match self.least() {
            Some(stretch) if (PROOF..=HABIT_MAX).contains(&stretch) => stretch + KERNEL_READAHEAD,
            _ => PROOF,
        }
    }
}

impl Pace {
    fn asked(&mut self, now: Instant, bytes: u64) {
        if let Some(since) = self.idle_since.take() {
            // Only the time in which nothing of ours was awaited is the reader's own; a pause is no pace.
            let thought = now.saturating_duration_since(since).min(MAX_THOUGHT);
            if !self.paused && thought >= FIRST_PAUSE {
                (self.paused, self.bytes, self.seconds) = (true, 0.0, 0.0);
            }
            self.seconds += thought.as_secs_f64();
        }
        self.bytes += bytes as f64;
        if self.seconds > PACE_MEMORY_SECONDS {
            self.bytes /= 2.0;
            self.seconds /= 2.0;
        }
    }

    fn bytes_per_second(&self) -> Option<f64> {
        (self.seconds >= PACE_MIN_SECONDS && self.bytes > 0.0).then(|| self.bytes / self.seconds)
    }
}

const MIB: u64 = 1024 * 1024;
/// The first window: what the kernel reads ahead by itself, and a megabyte.
const FIRST_WINDOW: u64 = MIB + KERNEL_READAHEAD;
/// Bytes in a row after which a reader is believed to be sequential.
const PROOF: u64 = 512 * 1024;
/// What the kernel reads beyond what it was asked for.
const KERNEL_READAHEAD: u64 = 128 * 1024;
/// Habits of shorter stretches are not worth a guess; longer ones are left to the window.
const HABIT_MIN: u64 = 256 * 1024;
const HABIT_MAX: u64 = 4 * MIB;
/// A burst of this length that ends so near the end of its piece wants the next one as well. It is two requests of the
/// kernel's, which sends them at once for a read that is longer than one; a shorter read gets one, and may be all there is.
const BURST_MIN: u64 = 256 * 1024;
const NEAR_PIECE_END: u64 = 256 * 1024;
/// Places that one handle reads at in turns: a player's picture, sound and index.
const MAX_CURSORS: usize = 3;
/// The window of another place that a hopping reader has returned to before stays this long.
const HOP_MEMORY: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const MAX_THOUGHT: Duration = Duration::from_secs(2);
const PACE_MEMORY_SECONDS: f64 = 10.0;
const PACE_MIN_SECONDS: f64 = 0.5;
const MAX_HORIZON_SECONDS: f64 = 3600.0;

#[cfg(test)]
mod tests;
