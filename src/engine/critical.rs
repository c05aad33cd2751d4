//! What is wanted in time, in order: pieces that readers wait for, then pieces that they will want next.
//!
//! Keeps the order and the pieces in which there is something to ask; who is asked is decided in `torrent/fill`.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::{BLOCK_BYTES, PieceIndex};

/// Why a piece is wanted in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// Somebody waits for it.
    Blocked,
    /// Somebody will want it next.
    Readahead,
    /// Somebody will want it, but not for some seconds.
    Later,
}

/// The pieces wanted in time, most urgent first. Pieces that we have are not in it.
#[derive(Debug, Default)]
pub(crate) struct Demand {
    /// By rank; those that have come since stay in it.
    order: Vec<Wanted>,
    ranks: BTreeMap<PieceIndex, u32>,
    /// Ranks of pieces with blocks that nobody was asked for.
    open: BTreeSet<u32>,
    /// Blocks of all of them that nobody was asked for.
    free_blocks: usize,
    blocked: usize,
    later: bool,
}

/// A piece that is wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub piece: PieceIndex,
    pub class: Class,
    /// Blocks that nobody was asked for.
    pub free: usize,
    /// Pieces that its reader wants before it.
    pub ahead: u32,
}

impl Demand {
    /// Replaces everything. A piece given twice counts where it comes first.
    pub(crate) fn rebuild(&mut self, pieces: impl Iterator<Item = Wanted>) {
        *self = Self::default();
        for wanted in pieces {
            let rank = self.order.len() as u32;
            if let std::collections::btree_map::Entry::Vacant(slot) = self.ranks.entry(wanted.piece) {
                slot.insert(rank);
                self.order.push(Wanted { free: 0, ..wanted });
                self.set_free_of(rank, wanted.free);
                self.blocked += usize::from(wanted.class == Class::Blocked);
                self.later |= wanted.class == Class::Later;
            }
        }
    }

    /// The piece is here.
    pub(crate) fn done(&mut self, piece: PieceIndex) {
        if let Some(rank) = self.ranks.remove(&piece) {
            self.set_free_of(rank, 0);
            self.blocked -= usize::from(self.order[rank as usize].class == Class::Blocked);
        }
    }

    /// Says how many blocks of a piece nobody was asked for; pieces not wanted are ignored.
    pub(crate) fn set_free(&mut self, piece: PieceIndex, blocks: usize) {
        if let Some(&rank) = self.ranks.get(&piece) {
            self.set_free_of(rank, blocks);
        }
    }

    fn set_free_of(&mut self, rank: u32, blocks: usize) {
        let old = std::mem::replace(&mut self.order[rank as usize].free, blocks);
        self.free_blocks = self.free_blocks - old + blocks;
        match (old > 0, blocks > 0) {
            (false, true) => _ = self.open.insert(rank),
            (true, false) => _ = self.open.remove(&rank),
            _ => {}
        }
    }

    /// Pieces with something to ask, most urgent first.
    pub(crate) fn open(&self) -> impl Iterator<Item = Wanted> + '_ {
        self.open.iter().map(|&rank| self.order[rank as usize])
    }

    /// Blocks of all wanted pieces that nobody was asked for.
    pub(crate) fn free_blocks(&self) -> usize {
        self.free_blocks
    }

    /// All pieces wanted, in order of pieces.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = (PieceIndex, Class)> + '_ {
        self.ranks.iter().map(|(&piece, &rank)| (piece, self.order[rank as usize].class))
    }

    /// All pieces wanted, most urgent first.
    pub(crate) fn ordered(&self) -> impl Iterator<Item = PieceIndex> + '_ {
        self.order.iter().map(|wanted| wanted.piece).filter(|piece| self.ranks.contains_key(piece))
    }

    pub(crate) fn class(&self, piece: PieceIndex) -> Option<Class> {
        self.rank(piece).map(|rank| self.order[rank as usize].class)
    }

    /// Smaller is more urgent.
    pub(crate) fn rank(&self, piece: PieceIndex) -> Option<u32> {
        self.ranks.get(&piece).copied()
    }

    /// Whether somebody waits.
    pub(crate) fn has_blocked(&self) -> bool {
        self.blocked > 0
    }

    /// Whether anything was wanted for later only, when the order was made.
    pub(crate) fn has_later(&self) -> bool {
        self.later
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ranks.is_empty()
    }

    /// Checks what must always hold; for debug builds and tests.
    pub(crate) fn check(&self) {
        assert_eq!(self.free_blocks, self.open().map(|wanted| wanted.free).sum::<usize>());
        assert!(self.open().all(|wanted| wanted.free > 0 && self.ranks.contains_key(&wanted.piece)));
    }
}

/// Some peers taken as one source.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Crew {
    /// Bytes per second of all together; 0: nobody.
    pub rate: f64,
    /// Bytes asked of all together.
    pub outstanding: f64,
    /// The smallest round trip, in seconds.
    pub rtt: f64,
}

impl Crew {
    /// Bytes of open demand that the crew would deliver before a block that somebody else brings in `eta` seconds.
    /// Those are not for him: the reader would wait longer. Near ties (a quarter and 50 ms) count as none.
    pub(crate) fn head_start(&self, eta: f64) -> f64 {
        if self.rate == 0.0 {
            return 0.0;
        }
        let usable = (eta - 0.05) / 1.25 - self.rtt;
        (usable * self.rate - self.outstanding - f64::from(BLOCK_BYTES)).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(demand: &Demand) -> String {
        let name = |wanted: Wanted| {
            let letter = (b'a' + wanted.piece.raw() as u8) as char;
            if wanted.class == Class::Blocked { letter.to_ascii_uppercase() } else { letter }
        };
        demand.check();
        demand.open().map(name).collect()
    }

    /// Upper case: blocked; lower case: readahead.
    fn demand(order: &str) -> Demand {
        let mut demand = Demand::default();
        demand.rebuild(order.bytes().map(|letter| {
            let class = if letter.is_ascii_uppercase() { Class::Blocked } else { Class::Readahead };
            Wanted { piece: PieceIndex(u32::from(letter.to_ascii_lowercase() - b'a')), class, free: 2, ahead: 0 }
        }));
        demand
    }

    #[test]
    fn the_order_is_kept_and_the_first_mention_counts() {
        assert_eq!(pieces(&demand("CBcda")), "CBda");
        assert!(demand("Ca").has_blocked() && !demand("ca").has_blocked());
    }

    #[test]
    fn pieces_close_open_again_and_go() {
        let mut demand = demand("CBda");
        demand.set_free(PieceIndex(1), 0);
        demand.set_free(PieceIndex(3), 0);
        assert_eq!((pieces(&demand).as_str(), demand.free_blocks()), ("Ca", 4));
        demand.set_free(PieceIndex(3), 1);
        demand.set_free(PieceIndex(25), 1);
        assert_eq!(demand.free_blocks(), 5);
        demand.done(PieceIndex(2));
        demand.done(PieceIndex(1));
        assert_eq!(pieces(&demand), "da");
        assert!(!demand.has_blocked());
        demand.set_free(PieceIndex(2), 1);
        assert_eq!(pieces(&demand), "da", "a piece that is here stays away");
    }

    #[test]
    fn equals_leave_each_other_nothing_and_a_slow_one_leaves_what_the_fast_get_through() {
        assert_eq!(Crew::default().head_start(9.0), 0.0, "nobody else");
        let fast = Crew { rate: 1e6, outstanding: 16384.0, rtt: 0.05 };
        assert_eq!(fast.head_start(0.07), 0.0, "as good as the others");
        let bytes = fast.head_start(2.0);
        assert!((1e6..2e6).contains(&bytes), "{bytes}");
    }
}
