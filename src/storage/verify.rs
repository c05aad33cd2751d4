//! Hashes of pieces.
//!
//! Compares, and remembers which bytes of a piece in progress were written and hashed; reads and writes nothing.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;

use super::sha1::Sha1;
use crate::base::PieceIndex;

/// What a torrent says its pieces hash to. (v2 and hybrid trees come later as further variants.)
#[derive(Debug, Clone)]
pub enum PieceHashes {
    /// SHA-1, 20 bytes a piece.
    V1(Bytes),
}

/// What a hash came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// More bytes are to come.
    Incomplete,
    /// It matches: the piece is present and readable now.
    Verified,
    /// It matches, and the disk does not take it: the piece is readable and lies in memory alone, for as long as it is
    /// not pushed out there.
    Held,
    /// It does not. Digests of the blocks as they lie on disk; empty for a check, and when somebody else wrote into the
    /// file meanwhile, so that nothing follows for those who sent the blocks.
    Corrupt(Vec<[u8; 20]>),
}

impl PieceHashes {
    /// Whether the bytes that went into `hasher` are those of the piece.
    pub(crate) fn accept(&self, piece: PieceIndex, hasher: Sha1) -> bool {
        let Self::V1(hashes) = self;
        let digest = hasher.finish();
        hashes.get(piece.at() * 20..piece.at() * 20 + 20).is_some_and(|expected| expected == digest)
    }
}

/// A set of bytes of one piece, as ranges that neither touch nor overlap.
#[derive(Debug, Default)]
pub(crate) struct Ranges(BTreeMap<u32, u32>);

impl Ranges {
    /// Adds `[start, end)`.
    pub(crate) fn insert(&mut self, mut start: u32, mut end: u32) {
        while let Some((&left, &right)) = self.0.range(..=end).next_back().filter(|&(_, &right)| right >= start) {
            self.0.remove(&left);
            start = start.min(left);
            end = end.max(right);
        }
        if start < end {
            self.0.insert(start, end);
        }
    }

    /// Where the run of bytes that begins at or before `at` ends; `at` itself when the byte there is missing.
    pub(crate) fn end_of_run(&self, at: u32) -> u32 {
        self.0.range(..=at).next_back().map_or(at, |(_, &end)| end.max(at))
    }

    /// Where the first run behind `at` begins; beyond everything when there is none.
    pub(crate) fn next_run(&self, at: u32) -> u32 {
        self.0.range(at..).next().map_or(u32::MAX, |(&start, _)| start)
    }

    /// What is missing of `[0, length)`.
    pub(crate) fn gaps(&self, length: u32) -> Vec<Range<u32>> {
        let (mut gaps, mut at) = (Vec::new(), 0);
        while at < length {
            let run = self.end_of_run(at);
            if run > at {
                at = run;
                continue;
            }
            let end = self.next_run(at).min(length);
            gaps.push(at..end);
            at = end;
        }
        gaps
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn ranges_hold_what_a_set_of_bytes_holds(
            inserts in proptest::collection::vec((0_u32..64, 0_u32..20), 0..20),
        ) {
            let mut ranges = Ranges::default();
            let mut model = [false; 100];
            for (start, length) in inserts {
                ranges.insert(start, start + length);
                model[start as usize..(start + length) as usize].fill(true);
                for at in 0..90_u32 {
                    let run = model[at as usize..].iter().take_while(|byte| **byte).count() as u32;
                    prop_assert_eq!(ranges.end_of_run(at), at + run);
                }
                let mut missing = [false; 100];
                for gap in ranges.gaps(100) {
                    prop_assert!(gap.start < gap.end);
                    missing[gap.start as usize..gap.end as usize].fill(true);
                }
                prop_assert!(model.iter().zip(missing).all(|(&held, missing)| held != missing));
                let ends: Vec<_> = ranges.0.iter().map(|(&start, &end)| (start, end)).collect();
                prop_assert!(ends.windows(2).all(|pair| pair[0].1 < pair[1].0));
            }
        }
    }
}
