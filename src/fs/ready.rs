//! The answer to the request that a reader is about to make: read while the kernel takes the answer before it.
//!
//! Where the kernel does not read a file by itself it has one request of a sequential reader under way at a time, so
//! copying an answer out of the page cache and copying it into the kernel's would take turns. Whoever reads on in a row
//! finds the former done. What is kept was read under pins, as any answer is (I2), is never waited for, and is thrown away
//! soon: it is no second cache.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What one open file keeps.
#[derive(Debug, Default)]
pub(super) struct Ready(Mutex<Slot>);

#[derive(Debug, Default)]
struct Slot {
    /// Where the last request ended, and how many had come in a row by then.
    end: u64,
    row: u32,
    /// Where `buffer` is from, and when it was read.
    held: Option<(u64, Instant)>,
    buffer: Vec<u8>,
}

/// A request that goes on where others have ended; the next one of the same file waits until this is dropped.
#[derive(Debug)]
pub(super) struct Turn<'r> {
    slot: MutexGuard<'r, Slot>,
    length: usize,
    offset: u64,
}

impl Ready {
    /// Takes a request in; `None` while it is no part of a row.
    pub(super) fn turn(&self, offset: u64, length: usize) -> Option<Turn<'_>> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let goes_on = slot.end == offset && offset > 0;
        slot.row = if goes_on { slot.row.saturating_add(1) } else { 0 };
        slot.end = offset + length as u64;
        if !goes_on {
            slot.clear();
        }
        (slot.row >= ROW).then_some(Turn { slot, length, offset })
    }
}

impl Turn<'_> {
    /// The answer, if it was read before.
    pub(super) fn held(&self, now: Instant) -> Option<&[u8]> {
        let (offset, since) = self.slot.held?;
        let fresh = now.saturating_duration_since(since) < FRESH;
        self.slot.buffer.get(..self.length).filter(|_| fresh && offset == self.offset)
    }

    /// Reads what comes next, of a file of `end` bytes; `read` fills the buffer without waiting, or says that it cannot.
    pub(super) fn read_next(mut self, end: u64, now: Instant, read: impl FnOnce(u64, &mut [u8]) -> bool) {
        let offset = self.slot.end;
        let length = (self.length as u64).min(end.saturating_sub(offset)) as usize;
        self.slot.held = None;
        if length == 0 || !self.slot.make_room(length) {
            return self.slot.clear();
        }
        if read(offset, &mut self.slot.buffer) {
            self.slot.held = Some((offset, now));
        }
    }
}

impl Slot {
    fn make_room(&mut self, length: usize) -> bool {
        if length > self.buffer.capacity() {
            self.clear();
            if KEPT_BYTES.fetch_add(length, Ordering::Relaxed) + length > MAX_KEPT_BYTES {
                KEPT_BYTES.fetch_sub(length, Ordering::Relaxed);
                return false;
            }
            self.buffer = Vec::with_capacity(length);
            // As much as was allocated is given back.
            KEPT_BYTES.fetch_add(self.buffer.capacity() - length, Ordering::Relaxed);
        }
        self.buffer.resize(length, 0);
        true
    }

    fn clear(&mut self) {
        self.held = None;
        KEPT_BYTES.fetch_sub(self.buffer.capacity(), Ordering::Relaxed);
        self.buffer = Vec::new();
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Requests in a row after the first that make a sequential reader.
const ROW: u32 = 3;
/// What was read longer ago is read again: somebody may have altered the file since.
const FRESH: Duration = Duration::from_millis(20);
/// Of all open files together (I7).
const MAX_KEPT_BYTES: usize = 4 << 20;

/// Bytes of all buffers.
static KEPT_BYTES: AtomicUsize = AtomicUsize::new(0);

#[cfg(test)]
mod tests {
    use super::*;

    /// Fills with the offset's low byte.
    fn read(offset: u64, buffer: &mut [u8]) -> bool {
        buffer.fill(offset as u8);
        true
    }

    #[test]
    fn who_reads_on_in_a_row_finds_the_next_answer_and_nobody_else() {
        let (ready, now) = (Ready::default(), Instant::now());
        for at in 0..3 {
            assert!(ready.turn(at * 10, 10).is_none(), "{at}");
        }
        let turn = ready.turn(30, 10).expect("the fourth of a row");
        assert!(turn.held(now).is_none());
        turn.read_next(100, now, read);
        let turn = ready.turn(40, 10).expect("it goes on");
        assert_eq!(turn.held(now), Some(&[40; 10][..]));
        assert_eq!(turn.held(now + FRESH), None, "not for long");
        turn.read_next(55, now, read);
        // Less is asked for than there was before; the end of the file is the end.
        let turn = ready.turn(50, 5).expect("it goes on");
        assert_eq!(turn.held(now), Some(&[50; 5][..]));
        turn.read_next(55, now, |_, _| panic!("there is nothing behind the end"));
        assert!(ready.turn(20, 10).is_none(), "a seek ends the row");
        assert_eq!(ready.0.lock().unwrap().buffer.capacity(), 0);
    }

    #[test]
    fn what_is_not_there_and_what_is_too_long_is_not_held() {
        let (ready, now) = (Ready::default(), Instant::now());
        (0..3).for_each(|at| drop(ready.turn(at * 10, 10)));
        ready.turn(30, 10).expect("a row").read_next(100, now, |_, _| false);
        let turn = ready.turn(40, 10).expect("it goes on");
        assert!(turn.held(now).is_none());
        turn.read_next(100, now, read);
        assert!(ready.turn(50, 20).expect("it goes on").held(now).is_none(), "more is asked for than was read");
    }

    #[test]
    fn all_of_them_together_keep_no_more_than_the_bound() {
        let now = Instant::now();
        let many: Vec<Ready> = (0..64).map(|_| Ready::default()).collect();
        let length = 1 << 20;
        for ready in &many {
            (0..3).for_each(|at| drop(ready.turn(at * length, length as usize)));
            ready.turn(3 * length, length as usize).expect("a row").read_next(1 << 30, now, read);
        }
        let kept: usize = many.iter().map(|ready| ready.0.lock().unwrap().buffer.capacity()).sum();
        assert!((1..=MAX_KEPT_BYTES).contains(&kept), "{kept}");
    }
}
