//! Looks at files that blocks are sent from: somebody may write into them while we share them, and peers are to get no
//! more of that than what left within a second.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use super::super::StorageError;
use super::{Look, Store};
use crate::base::{BlockRef, FileIndex};

/// When each file was looked at last, for whoever shares it.
#[derive(Debug)]
pub(super) struct Glances {
    start: Instant,
    /// In [`TICK`]s since the start.
    files: Box<[AtomicU32]>,
}

impl Glances {
    /// At `start` all files have been looked at.
    pub(super) fn new(start: Instant, files: usize) -> Self {
        Self { start, files: std::iter::repeat_with(|| AtomicU32::new(0)).take(files).collect() }
    }

    /// Whether that was within the last second.
    pub(super) fn is_fresh(&self, file: FileIndex, now: Instant) -> bool {
        self.tick(now).saturating_sub(self.files[file.at()].load(Ordering::Relaxed)) < FRESH_TICKS
    }

    fn note(&self, file: FileIndex, now: Instant) {
        self.files[file.at()].store(self.tick(now), Ordering::Relaxed);
    }

    fn tick(&self, now: Instant) -> u32 {
        let ticks = now.saturating_duration_since(self.start).as_millis() / TICK.as_millis();
        u32::try_from(ticks).unwrap_or(u32::MAX)
    }
}

impl Store {
    /// Whether the files of a block were looked at within the last second; else [`glance`](Self::glance) has to, which
    /// may wait for the disk.
    pub(super) fn is_glanced_at(&self, block: BlockRef, now: Instant) -> bool {
        self.layout.block_spans(block).all(|span| span.padding || self.glances.is_fresh(span.file, now))
    }

    /// Looks at the files of a block, each at most once a second.
    ///
    /// # Errors
    /// [`StorageError::Absent`] when one was altered behind our back: its pieces are unchecked from now on.
    pub(super) fn glance(&self, block: BlockRef, now: Instant) -> Result<(), StorageError> {
        for span in self.layout.block_spans(block).filter(|span| !span.padding) {
            if self.glances.is_fresh(span.file, now) {
                continue;
            }
            match self.tracks.look(span.file, &self.backing) {
                Ok(Look::Same) => {}
                Ok(Look::Altered) => {
                    self.altered(span.file);
                    return Err(StorageError::Absent(block.piece.raw()));
                }
                // If we cannot even look, reads will tell.
                Err(error) => tracing::debug!(%error, "a file cannot be looked at"),
            }
            self.glances.note(span.file, now);
        }
        Ok(())
    }
}

const TICK: Duration = Duration::from_millis(100);
const FRESH_TICKS: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_is_good_for_a_second() {
        let layout = crate::base::Layout::new(16, &[crate::base::FileSpec { length: 5, padding: false }]).unwrap();
        let file = layout.file(0).unwrap();
        let start = Instant::now();
        let glances = Glances::new(start, 1);
        let at = |millis| start + Duration::from_millis(millis);
        for looked in [0, 5_000, 1 << 36] {
            glances.note(file, at(looked));
            assert!(glances.is_fresh(file, at(looked + 899)) && !glances.is_fresh(file, at(looked + 1000)), "{looked}");
        }
    }
}
