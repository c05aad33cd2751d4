//! When each piece was last used, and whether it was used again after a while: what eviction goes by.
//!
//! One atomic word a piece, written without a lock by whoever reads. A second use counts only some time after the first:
//! a reader takes a piece in many small reads, and whoever reads everything once (`sha256sum *`) must not make all of it
//! look wanted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::base::{PieceIndex, PieceRange};

/// A moment as eviction counts it: milliseconds since 1970. Roughly right is good enough, also across restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Moment(pub(crate) u64);

impl Moment {
    pub(crate) fn now() -> Self {
        Self::of(SystemTime::now())
    }

    pub(crate) fn of(time: SystemTime) -> Self {
        Self(time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64))
    }

    /// How long ago this was at `now`.
    pub(crate) fn age(self, now: Self) -> Duration {
        Duration::from_millis(now.0.saturating_sub(self.0))
    }
}

/// What is known of one piece's use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Use {
    /// When last.
    pub(crate) last: Moment,
    /// It was used again after a while.
    pub(crate) again: bool,
}

/// The use of all pieces of a torrent.
#[derive(Debug)]
pub(crate) struct Recency {
    words: Box<[AtomicU64]>,
    /// How often any of them was written.
    changes: AtomicU64,
}

impl Recency {
    /// All pieces were last used at `moment`.
    pub(crate) fn new(pieces: usize, moment: Moment) -> Self {
        let words = std::iter::repeat_with(|| AtomicU64::new(word(moment, false))).take(pieces).collect();
        Self { words, changes: AtomicU64::new(0) }
    }

    /// What an earlier life has written down; pieces that it does not tell of were last used at `moment`.
    pub(crate) fn recall(pieces: usize, moment: Moment, bytes: &[u8]) -> Self {
        let recency = Self::new(pieces, moment);
        if bytes.len() == pieces * WRITTEN_BYTES {
            for (slot, written) in recency.words.iter().zip(bytes.chunks_exact(WRITTEN_BYTES)) {
                let value = u32::from_le_bytes(written.try_into().expect("chunks of 4"));
                // A clock that went backwards must not make pieces young for ever.
                let last = Moment(u64::from(value >> 1) * 1000).min(moment);
                slot.store(word(last, value & 1 == 1), Ordering::Relaxed);
            }
        }
        recency
    }

    /// To be written down: 4 bytes a piece, little-endian seconds since 1970 and, lowest, whether it was used again.
    pub(crate) fn write_down(&self) -> Vec<u8> {
        let written = self.words.iter().map(|word| {
            let used = split(word.load(Ordering::Relaxed));
            u32::try_from(used.last.0 / 1000).unwrap_or(u32::MAX >> 1) << 1 | u32::from(used.again)
        });
        written.flat_map(u32::to_le_bytes).collect()
    }

    /// A reader takes these pieces.
    pub(crate) fn used(&self, pieces: PieceRange, now: Moment) {
        for slot in &self.words[pieces.as_usizes()] {
            let used = split(slot.load(Ordering::Relaxed));
            let age = used.last.age(now);
            // Most reads find the word fresh and leave its cache line alone.
            if age >= RESOLUTION {
                slot.store(word(now, used.again || age >= SECOND_USE), Ordering::Relaxed);
                self.changes.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// A piece was fetched: that is its first use.
    pub(crate) fn arrived(&self, piece: PieceIndex, now: Moment) {
        self.words[piece.at()].store(word(now, false), Ordering::Relaxed);
        self.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// A number that grows with every change.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    pub(crate) fn of(&self, piece: PieceIndex) -> Use {
        split(self.words[piece.at()].load(Ordering::Relaxed))
    }
}

fn word(last: Moment, again: bool) -> u64 {
    last.0 << 1 | u64::from(again)
}

fn split(word: u64) -> Use {
    Use { last: Moment(word >> 1), again: word & 1 == 1 }
}

/// Uses closer together than this are one.
const SECOND_USE: Duration = Duration::from_secs(30);
const RESOLUTION: Duration = Duration::from_millis(16);
const WRITTEN_BYTES: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: PieceIndex = PieceIndex(1);

    fn at(seconds: u64) -> Moment {
        Moment(1_800_000_000_000 + seconds * 1000)
    }

    #[test]
    fn only_a_use_after_a_while_is_a_second_one() {
        let recency = Recency::new(3, at(0));
        recency.arrived(PIECE, at(10));
        for second in 10..100 {
            recency.used(PieceRange::one(PIECE), at(second));
        }
        assert_eq!(recency.of(PIECE), Use { last: at(99), again: false }, "one slow reader");
        recency.used(PieceRange::one(PIECE), at(129));
        assert_eq!(recency.of(PIECE), Use { last: at(129), again: true });
        recency.arrived(PIECE, at(200));
        assert!(!recency.of(PIECE).again, "evicted and fetched again, it has to show its worth again");
        assert_eq!(recency.of(PieceIndex(0)), Use { last: at(0), again: false });
    }

    #[test]
    fn what_was_written_down_is_recalled_to_the_second() {
        let recency = Recency::new(3, at(0));
        recency.used(PieceRange::one(PIECE), at(50));
        let written = recency.write_down();
        let recalled = Recency::recall(3, at(60), &written);
        assert_eq!((recalled.of(PIECE), recalled.of(PieceIndex(2))), (recency.of(PIECE), recency.of(PieceIndex(2))));
        for other in [&written[1..], b"", &[0; 16]] {
            assert_eq!(Recency::recall(3, at(60), other).of(PIECE), Use { last: at(60), again: false });
        }
        assert_eq!(Recency::recall(3, at(7), &written).of(PIECE).last, at(7), "not from the future");
    }
}
