//! How many connected peers have each piece, and the rarest of those that are wanted.
//!
//! Seeds are counted once, not piece by piece, and so is whoever was a seed and has lost pieces since: what he lacks is
//! taken off. However often somebody loses and gets a piece, all pieces are walked through at most once for him. Wanted
//! pieces lie in buckets by count; ties inside a bucket are in an order that the seed of the torrent shuffled.

use std::collections::VecDeque;

use crate::base::{Bitfield, PieceIndex};

/// How a connected peer is counted: kept beside its pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counted {
    /// For each piece that it has.
    PieceByPiece,
    /// Once, less what it lacks. Whoever had everything once, as long as it is connected.
    AsSeed,
}

/// Counts of all pieces, buckets of the wanted ones.
#[derive(Debug)]
pub(crate) struct Availability {
    /// Those that have it of the peers counted piece by piece, less those that lack it of the others.
    counts: Vec<i32>,
    /// Peers that have everything.
    seeds: u32,
    /// Peers that had everything, are counted as if they had, and lack something.
    former_seeds: u32,
    /// Wanted pieces by their entry in `counts`.
    buckets: VecDeque<Vec<PieceIndex>>,
    /// The entry that the first bucket is for.
    lowest: i32,
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
            former_seeds: 0,
            buckets: VecDeque::new(),
            lowest: 0,
            place: vec![None; pieces],
            wanted: 0,
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    /// A peer has come, with these pieces.
    pub(crate) fn add_all(&mut self, pieces: &Bitfield) -> Counted {
        if pieces.is_full() {
            self.seeds += 1;
            return Counted::AsSeed;
        }
        pieces.iter().for_each(|piece| self.change(piece, 1));
        Counted::PieceByPiece
    }

    /// A peer has gone, with these pieces.
    pub(crate) fn remove_all(&mut self, pieces: &Bitfield, counted: Counted) {
        match counted {
            Counted::AsSeed if pieces.is_full() => self.seeds -= 1,
            Counted::AsSeed => {
                self.former_seeds -= 1;
                pieces.iter_unset().for_each(|piece| self.change(piece, 1));
            }
            Counted::PieceByPiece => pieces.iter().for_each(|piece| self.change(piece, -1)),
        }
    }

    /// A peer that has `pieces` now has got `piece` last.
    pub(crate) fn add_one(&mut self, piece: PieceIndex, pieces: &Bitfield, counted: Counted) -> Counted {
        match counted {
            Counted::AsSeed => {
                self.change(piece, 1);
                if pieces.is_full() {
                    (self.former_seeds, self.seeds) = (self.former_seeds - 1, self.seeds + 1);
                }
            }
            Counted::PieceByPiece if pieces.is_full() => {
                pieces.iter().filter(|&other| other != piece).for_each(|other| self.change(other, -1));
                self.seeds += 1;
            }
            Counted::PieceByPiece => {
                self.change(piece, 1);
                return Counted::PieceByPiece;
            }
        }
        Counted::AsSeed
    }

    /// A peer has lost a piece; `was_seed`: it had all before.
    pub(crate) fn remove_one(&mut self, piece: PieceIndex, was_seed: bool) {
        if was_seed {
            (self.seeds, self.former_seeds) = (self.seeds - 1, self.former_seeds + 1);
        }
        self.change(piece, -1);
    }

    /// Connected peers that have the piece.
    pub(crate) fn count(&self, piece: PieceIndex) -> u32 {
        self.seeds + self.leechers(piece)
    }

    /// Connected peers that have the piece and not everything.
    pub(crate) fn leechers(&self, piece: PieceIndex) -> u32 {
        self.former_seeds.saturating_add_signed(self.counts[piece.at()])
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
        *count += by;
        if listed {
            self.insert(piece);
        }
    }

    fn insert(&mut self, piece: PieceIndex) {
        let count = self.counts[piece.at()];
        while count < self.lowest {
            self.buckets.push_front(Vec::new());
            self.lowest -= 1;
        }
        let at = self.bucket_of(count);
        if self.buckets.len() <= at {
            self.buckets.resize_with(at + 1, Vec::new);
        }
        let bucket = &mut self.buckets[at];
        bucket.push(piece);
        let (last, at) = (bucket.len() - 1, self.rng.usize(..bucket.len()));
        bucket.swap(at, last);
        self.place[bucket[last].at()] = Some(last as u32);
        self.place[bucket[at].at()] = Some(at as u32);
    }

    fn take_out(&mut self, piece: PieceIndex) {
        let Some(at) = self.place[piece.at()].take() else { return };
        let number = self.bucket_of(self.counts[piece.at()]);
        let bucket = &mut self.buckets[number];
        bucket.swap_remove(at as usize);
        if let Some(moved) = bucket.get(at as usize) {
            self.place[moved.at()] = Some(at);
        }
    }

    /// Of a piece that lies in one: no entry is below the lowest then.
    fn bucket_of(&self, count: i32) -> usize {
        (count - self.lowest) as usize
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
        let counted = availability.add_one(PieceIndex(1), &pieces, Counted::PieceByPiece);
        assert_eq!(counted, Counted::AsSeed);
        assert_eq!([0, 1, 2].map(|piece| availability.count(PieceIndex(piece))), [1, 2, 1]);
        availability.remove_all(&pieces, counted);
        assert_eq!([0, 1, 2].map(|piece| availability.count(PieceIndex(piece))), [0, 1, 0]);
        availability.check();
    }

    #[test]
    fn a_seed_that_loses_pieces_is_counted_for_the_others() {
        let mut availability = swarm(&["xxx", "x.."], 3);
        let count = |availability: &Availability| [0, 1, 2].map(|piece| availability.count(PieceIndex(piece)));
        let leechers = |availability: &Availability| [0, 1, 2].map(|piece| availability.leechers(PieceIndex(piece)));
        availability.remove_one(PieceIndex(0), true);
        assert_eq!((count(&availability), leechers(&availability)), ([1, 1, 1], [1, 1, 1]));
        availability.remove_one(PieceIndex(1), false);
        assert_eq!((count(&availability), leechers(&availability)), ([1, 0, 1], [1, 0, 1]));
        assert_eq!(availability.rarest(|_| true), Some(PieceIndex(1)));
        availability.check();
        availability.remove_all(&field("..x"), Counted::AsSeed);
        assert_eq!(count(&availability), [1, 0, 0]);
        availability.remove_all(&field("x.."), Counted::PieceByPiece);
        assert_eq!(count(&availability), [0, 0, 0]);
        availability.check();
    }

    /// In the time that twenty walks through all pieces take there is room for hundreds of times losing and getting one.
    #[test]
    fn a_seed_that_loses_and_gets_a_piece_again_and_again_costs_next_to_nothing() {
        const PIECES: usize = 100_000;
        let mut availability = Availability::new(PIECES, 3);
        (0..PIECES as u32).for_each(|piece| availability.want(PieceIndex(piece)));
        let mut pieces = Bitfield::full(PIECES);
        let counted = availability.add_all(&pieces);
        // The best of a few: whatever else the machine does meanwhile does not count.
        let rounds = (0..5).map(|_| {
            let begun = std::time::Instant::now();
            for number in 0..200 {
                let piece = PieceIndex(number % 7);
                pieces.clear(piece);
                availability.remove_one(piece, true);
                pieces.set(piece);
                assert_eq!(availability.add_one(piece, &pieces, counted), counted);
            }
            begun.elapsed()
        });
        let flips = rounds.min().unwrap();
        availability.check();
        let mut leecher = pieces.clone();
        leecher.clear(PieceIndex(9));
        let begun = std::time::Instant::now();
        for _ in 0..10 {
            let counted = availability.add_all(&leecher);
            availability.remove_all(&leecher, counted);
        }
        let walks = begun.elapsed();
        assert!(flips < walks, "{flips:?}, and twenty walks {walks:?}");
    }

    proptest::proptest! {
        /// Whatever peers say, the counts are those of their bitfields.
        #[test]
        fn counts_are_those_of_the_bitfields(
            told in proptest::collection::vec((0_usize..4, 0_u32..6, proptest::bool::weighted(0.6)), 0..80),
        ) {
            const PIECES: usize = 6;
            let mut availability = Availability::new(PIECES, 1);
            [0, 2, 3].into_iter().for_each(|piece| availability.want(PieceIndex(piece)));
            let fields = [field("xxxxxx"), field("......"), field("xxxxx."), field("xxxxxx")];
            let mut peers = fields.map(|pieces| (availability.add_all(&pieces), pieces));
            for (peer, piece, has) in told {
                let (counted, pieces) = &mut peers[peer];
                let (piece, was_seed) = (PieceIndex(piece), pieces.is_full());
                if has && pieces.set(piece) {
                    *counted = availability.add_one(piece, pieces, *counted);
                } else if !has && pieces.clear(piece) {
                    availability.remove_one(piece, was_seed);
                }
                availability.check();
                for piece in (0..PIECES as u32).map(PieceIndex) {
                    let having = || peers.iter().filter(|(_, pieces)| pieces.has(piece));
                    proptest::prop_assert_eq!(availability.count(piece) as usize, having().count());
                    let leechers = having().filter(|(_, pieces)| !pieces.is_full()).count();
                    proptest::prop_assert_eq!(availability.leechers(piece) as usize, leechers);
                }
                let rarest = availability.rarest(|_| true).map(|piece| availability.count(piece));
                proptest::prop_assert_eq!(rarest, [0, 2, 3].map(|at| availability.count(PieceIndex(at))).into_iter().min());
            }
            for (counted, pieces) in &peers {
                availability.remove_all(pieces, *counted);
            }
            proptest::prop_assert!((0..PIECES as u32).all(|piece| availability.count(PieceIndex(piece)) == 0));
        }
    }

    #[test]
    fn pieces_not_wanted_are_not_picked() {
        let mut availability = swarm(&["xxx"], 3);
        availability.unwant(PieceIndex(0));
        availability.unwant(PieceIndex(2));
        assert_eq!((availability.rarest(|_| true), availability.wanted()), (Some(PieceIndex(1)), 1));
    }
}
