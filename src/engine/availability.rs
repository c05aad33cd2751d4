//! How many connected peers have each piece, and the rarest of those that are wanted.
//!
//! Seeds are counted once, not piece by piece. Wanted pieces lie in buckets by count; ties inside a bucket are in an
//! order that the seed of the torrent shuffled.

use crate::base::{Bitfield, PieceIndex};

/// Counts of all pieces, buckets of the wanted ones.
#[derive(Debug)]
pub(crate) struct Availability {
    counts: Vec<u32>,
    seeds: u32,
    /// Wanted pieces by count.
    buckets: Vec<Vec<PieceIndex>>,
    /// Where a piece lies in its bucket; `None`: not wanted.
    place: Vec<Option<u32>>,
    wanted: usize,
    rng: fastrand::Rng,
}

impl Availability {
    pub(crate) fn new(pieces: usize, seed: u64) -> Self {
        Self {
            counts: vec![0; pieces],
            seeds: 0,
            buckets: Vec::new(),
            place: vec![None; pieces],
            wanted: 0,
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    /// A peer has come, with these pieces.
    pub(crate) fn add_all(&mut self, pieces: &Bitfield) {
        if pieces.is_full() {
            self.seeds += 1;
        } else {
            pieces.iter().for_each(|piece| self.change(piece, 1));
        }
    }

    /// A peer has gone, with these pieces.
    pub(crate) fn remove_all(&mut self, pieces: &Bitfield) {
        if pieces.is_full() {
            self.seeds -= 1;
        } else {
            pieces.iter().for_each(|piece| self.change(piece, -1));
        }
    }

    /// A peer that has `pieces` now has got `piece` last.
    pub(crate) fn add_one(&mut self, piece: PieceIndex, pieces: &Bitfield) {
        if pieces.is_full() {
            pieces.iter().filter(|&other| other != piece).for_each(|other| self.change(other, -1));
            self.seeds += 1;
        } else {
            self.change(piece, 1);
        }
    }

    /// A peer has lost a piece; `was_seed`: it had all before.
    pub(crate) fn remove_one(&mut self, piece: PieceIndex, was_seed: bool) {
        if was_seed {
            self.seeds -= 1;
            (0..self.counts.len()).map(|at| PieceIndex(at as u32)).filter(|&other| other != piece).for_each(|other| {
                self.change(other, 1);
            });
        } else {
            self.change(piece, -1);
        }
    }

    /// Connected peers that have the piece.
    pub(crate) fn count(&self, piece: PieceIndex) -> u32 {
        self.seeds + self.counts[piece.at()]
    }

    /// Connected peers that have the piece and not everything.
    pub(crate) fn leechers(&self, piece: PieceIndex) -> u32 {
        self.counts[piece.at()]
    }

    /// Makes a piece one that may be picked.
    pub(crate) fn want(&mut self, piece: PieceIndex) {
        if self.place[piece.at()].is_none() {
            self.insert(piece);
            self.wanted += 1;
        }
    }

    /// The piece is not to be picked any more.
    pub(crate) fn unwant(&mut self, piece: PieceIndex) {
        if self.place[piece.at()].is_some() {
            self.take_out(piece);
            self.wanted -= 1;
        }
    }

    pub(crate) fn wanted(&self) -> usize {
        self.wanted
    }

    /// The rarest wanted piece that `accept` takes.
    pub(crate) fn rarest(&self, accept: impl Fn(PieceIndex) -> bool) -> Option<PieceIndex> {
        self.buckets.iter().flatten().copied().find(|&piece| accept(piece))
    }

    fn change(&mut self, piece: PieceIndex, by: i32) {
        let listed = self.place[piece.at()].is_some();
        if listed {
            self.take_out(piece);
        }
        let count = &mut self.counts[piece.at()];
        *count = count.saturating_add_signed(by);
        if listed {
            self.insert(piece);
        }
    }

    fn insert(&mut self, piece: PieceIndex) {
        let count = self.counts[piece.at()] as usize;
        if self.buckets.len() <= count {
            self.buckets.resize_with(count + 1, Vec::new);
        }
        let bucket = &mut self.buckets[count];
        bucket.push(piece);
        let (last, at) = (bucket.len() - 1, self.rng.usize(..bucket.len()));
        bucket.swap(at, last);
        self.place[bucket[last].at()] = Some(last as u32);
        self.place[bucket[at].at()] = Some(at as u32);
    }

    fn take_out(&mut self, piece: PieceIndex) {
        let Some(at) = self.place[piece.at()].take() else { return };
        let bucket = &mut self.buckets[self.counts[piece.at()] as usize];
        bucket.swap_remove(at as usize);
        if let Some(moved) = bucket.get(at as usize) {
            self.place[moved.at()] = Some(at);
        }
    }

    /// Checks what must always hold; for debug builds and tests.
    pub(crate) fn check(&self) {
        assert_eq!(self.wanted, self.buckets.iter().map(Vec::len).sum::<usize>());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Availability of peers drawn as strings, `x` for a piece they have; every piece is wanted.
    fn swarm(peers: &[&str], seed: u64) -> Availability {
        let pieces = peers[0].len();
        let mut availability = Availability::new(pieces, seed);
        (0..pieces).for_each(|piece| availability.want(PieceIndex(piece as u32)));
        for peer in peers {
            availability.add_all(&field(peer));
        }
        availability.check();
        availability
    }

    fn field(peer: &str) -> Bitfield {
        let mut field = Bitfield::new(peer.len());
        peer.bytes().enumerate().filter(|(_, b)| *b == b'x').for_each(|(at, _)| {
            field.set(PieceIndex(at as u32));
        });
        field
    }

    #[test]
    fn the_rarest_piece_comes_first() {
        let availability = swarm(&["xx.x", "x..x", "xxxx"], 1);
        assert_eq!(availability.rarest(|_| true), Some(PieceIndex(2)));
        assert_eq!(availability.rarest(|piece| field("xx..").has(piece)), Some(PieceIndex(1)));
        assert_eq!(availability.count(PieceIndex(2)), 1);
    }

    #[test]
    fn ties_depend_on_the_seed_alone() {
        let first = |seed| swarm(&["xxxxxxxxxxxxxxxx"], seed).rarest(|_| true);
        assert_eq!(first(7), first(7));
        assert!((0..20).any(|seed| first(seed) != first(7)));
    }

    #[test]
    fn a_leecher_that_becomes_a_seed_is_counted_once() {
        let mut availability = swarm(&["x.x", ".x."], 3);
        let mut pieces = field("x.x");
        pieces.set(PieceIndex(1));
        availability.add_one(PieceIndex(1), &pieces);
        assert_eq!([0, 1, 2].map(|piece| availability.count(PieceIndex(piece))), [1, 2, 1]);
        availability.remove_all(&pieces);
        assert_eq!([0, 1, 2].map(|piece| availability.count(PieceIndex(piece))), [0, 1, 0]);
        availability.check();
    }

    #[test]
    fn a_seed_that_loses_a_piece_is_counted_piece_by_piece() {
        let mut availability = swarm(&["xxx", "x.."], 3);
        let count = |availability: &Availability| [0, 1, 2].map(|piece| availability.count(PieceIndex(piece)));
        availability.remove_one(PieceIndex(0), true);
        assert_eq!(count(&availability), [1, 1, 1]);
        availability.remove_one(PieceIndex(1), false);
        assert_eq!(count(&availability), [1, 0, 1]);
        availability.remove_all(&field("..x"));
        availability.remove_all(&field("x.."));
        assert_eq!(count(&availability), [0, 0, 0]);
        availability.check();
    }

    #[test]
    fn pieces_not_wanted_are_not_picked() {
        let mut availability = swarm(&["xxx"], 3);
        availability.unwant(PieceIndex(0));
        availability.unwant(PieceIndex(2));
        assert_eq!((availability.rarest(|_| true), availability.wanted()), (Some(PieceIndex(1)), 1));
    }
}
