//! Which pieces go first. Pure: a list in, the victims out.
//!
//! As in 2Q: pieces that were used once make room for each other, however many pass through, while they are more than a
//! quarter of all; those that were used again after a while stay. Of the former, what lies in a file that somebody is
//! reading goes last, and of several such files the one with most of it gives: whoever reads everything once eats its own
//! tail and not what is being watched beside it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};

use crate::base::{FileIndex, PieceIndex};
use crate::storage::recency::{Moment, Use};

/// A piece that may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Which of the process's stores has it.
    pub(crate) store: usize,
    pub(crate) piece: PieceIndex,
    pub(crate) bytes: u64,
    pub(crate) used: Use,
    /// A file of it that somebody reads.
    pub(crate) read_in: Option<FileIndex>,
}

impl Candidate {
    fn order(&self) -> (Moment, usize, PieceIndex) {
        (self.used.last, self.store, self.piece)
    }
}

/// The first of the candidates to go, until they make up `wanted` bytes.
pub(crate) fn choose(mut candidates: Vec<Candidate>, wanted: u64) -> Vec<Candidate> {
    candidates.sort_unstable_by_key(Candidate::order);
    let total: u64 = candidates.iter().map(|candidate| candidate.bytes).sum();
    let mut queues = Queues::default();
    for candidate in candidates {
        queues.put(candidate);
    }
    let (mut chosen, mut bytes) = (Vec::new(), 0);
    while bytes < wanted {
        let Some(next) = queues.next(total / PROBATION_SHARE) else { break };
        bytes += next.bytes;
        chosen.push(next);
    }
    chosen
}

/// Candidates by kind, each kind in the order of its use.
#[derive(Default)]
struct Queues {
    once: VecDeque<Candidate>,
    /// By store and file, with the bytes in each.
    read: BTreeMap<(usize, FileIndex), (u64, VecDeque<Candidate>)>,
    again: VecDeque<Candidate>,
    /// Bytes of the first two.
    once_bytes: u64,
}

impl Queues {
    fn put(&mut self, candidate: Candidate) {
        if candidate.used.again {
            self.again.push_back(candidate);
            return;
        }
        self.once_bytes += candidate.bytes;
        match candidate.read_in {
            None => self.once.push_back(candidate),
            Some(file) => {
                let (bytes, queue) = self.read.entry((candidate.store, file)).or_default();
                *bytes += candidate.bytes;
                queue.push_back(candidate);
            }
        }
    }

    fn next(&mut self, probation_bytes: u64) -> Option<Candidate> {
        let oldest = self.once.front().or_else(|| {
            let fronts = self.read.values().filter_map(|(_, queue)| queue.front());
            fronts.min_by_key(|candidate| candidate.order())
        });
        let few = self.once_bytes <= probation_bytes;
        let older = |again: &Candidate| oldest.is_none_or(|oldest| again.order() < oldest.order());
        if oldest.is_none() || (few && self.again.front().is_some_and(older)) {
            return self.again.pop_front();
        }
        let next = self.once.pop_front().or_else(|| {
            let largest = self.read.iter().max_by_key(|(key, (bytes, _))| (*bytes, Reverse(**key)));
            let key = largest.map(|(&key, _)| key)?;
            let (bytes, queue) = self.read.get_mut(&key)?;
            let next = queue.pop_front()?;
            *bytes -= next.bytes;
            if queue.is_empty() {
                self.read.remove(&key);
            }
            Some(next)
        });
        self.once_bytes -= next.map_or(0, |next| next.bytes);
        next
    }
}

/// Pieces used once may be pushed out by those used again only below one part in so many.
const PROBATION_SHARE: u64 = 4;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Pieces drawn as characters, oldest first: lower case used once, upper case used again; `a` in no open file, others
    /// in an open file of that letter.
    fn candidates(drawn: &str) -> Vec<Candidate> {
        let one = |(at, c): (usize, u8)| Candidate {
            store: 0,
            piece: PieceIndex(at as u32),
            bytes: 1,
            used: Use { last: Moment(at as u64), again: c.is_ascii_uppercase() },
            read_in: (!c.eq_ignore_ascii_case(&b'a')).then(|| FileIndex(u32::from(c.to_ascii_lowercase()))),
        };
        drawn.bytes().enumerate().map(one).collect()
    }

    fn chosen(drawn: &str, wanted: u64) -> Vec<u32> {
        choose(candidates(drawn), wanted).iter().map(|candidate| candidate.piece.raw()).collect()
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        assert_eq!(chosen("aaaa", 2), [0, 1]);
        assert_eq!(chosen("aa", 9), [0, 1], "all, and no more");
        assert_eq!(chosen("", 1), Vec::<u32>::new());
    }

    #[test]
    fn what_was_used_again_outlives_any_number_of_pieces_used_once() {
        assert_eq!(chosen("AAAaaaaaa", 4), [3, 4, 5, 6]);
        // Once those are a quarter, age alone counts: a favourite of the past goes in the end.
        assert_eq!(chosen("AAAAAAaa", 3), [0, 1, 2]);
        assert_eq!(chosen("aAAAAAAa", 2), [0, 1]);
    }

    #[test]
    fn what_lies_in_files_being_read_goes_after_what_nobody_reads() {
        assert_eq!(chosen("fffaaa", 4), [3, 4, 5, 0]);
    }

    #[test]
    fn of_files_being_read_the_one_with_most_gives() {
        // `f` is watched, `s` is scanned in one go.
        assert_eq!(chosen("fffssssss", 4), [3, 4, 5, 0], "until they are equal, then in turns");
    }

    proptest! {
        #[test]
        fn as_much_goes_as_is_wanted_and_nothing_twice(drawn in "[afsAF]{0,40}", wanted in 0_u64..50) {
            let mut got = chosen(&drawn, wanted);
            prop_assert_eq!(got.len() as u64, wanted.min(drawn.len() as u64));
            got.sort_unstable();
            got.dedup();
            prop_assert_eq!(got.len() as u64, wanted.min(drawn.len() as u64));
        }

        #[test]
        fn a_scan_leaves_what_was_used_again(hot in 1_usize..10, scanned in 1_usize..100) {
            let drawn = "A".repeat(hot) + &"a".repeat(scanned);
            let room = scanned.saturating_sub(drawn.len() / 4) as u64;
            prop_assert!(chosen(&drawn, room).iter().all(|&piece| piece as usize >= hot));
        }
    }
}
