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
}

/// The pieces wanted in time, most urgent first. Pieces that we have are not in it.
#[derive(Debug, Default)]
pub(crate) struct Demand {
    order: Vec<PieceIndex>,
    entries: BTreeMap<PieceIndex, (u32, Class)>,
    /// Ranks of pieces with blocks that nobody was asked for.
    open: BTreeSet<u32>,
    blocked: usize,
}

impl Demand {
    /// Replaces everything. A piece given twice counts where it comes first; all are open at first.
    pub(crate) fn rebuild(&mut self, pieces: impl Iterator<Item = (PieceIndex, Class)>) {
        *self = Self::default();
        for (piece, class) in pieces {
            let rank = self.order.len() as u32;
            if let std::collections::btree_map::Entry::Vacant(slot) = self.entries.entry(piece) {
                slot.insert((rank, class));
                self.order.push(piece);
                self.open.insert(rank);
                self.blocked += usize::from(class == Class::Blocked);
            }
        }
    }

    /// The piece is here.
    pub(crate) fn done(&mut self, piece: PieceIndex) {
        if let Some((rank, class)) = self.entries.remove(&piece) {
            self.open.remove(&rank);
            self.blocked -= usize::from(class == Class::Blocked);
        }
    }

    /// Says whether there is something to ask of a piece; pieces not wanted are ignored.
    pub(crate) fn set_open(&mut self, piece: PieceIndex, open: bool) {
        let Some(&(rank, _)) = self.entries.get(&piece) else { return };
        if open {
            self.open.insert(rank);
        } else {
            self.open.remove(&rank);
        }
    }

    /// Pieces with something to ask, most urgent first.
    pub(crate) fn open(&self) -> impl Iterator<Item = (PieceIndex, Class)> + '_ {
        self.open.iter().filter_map(|&rank| {
            let piece = *self.order.get(rank as usize)?;
            Some((piece, self.class(piece)?))
        })
    }

    /// All pieces wanted, in order of pieces.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = (PieceIndex, Class)> + '_ {
        self.entries.iter().map(|(&piece, &(_, class))| (piece, class))
    }

    /// All pieces wanted, most urgent first.
    pub(crate) fn ordered(&self) -> impl Iterator<Item = PieceIndex> + '_ {
        self.order.iter().copied().filter(|piece| self.entries.contains_key(piece))
    }

    pub(crate) fn class(&self, piece: PieceIndex) -> Option<Class> {
        self.entries.get(&piece).map(|&(_, class)| class)
    }

    /// Smaller is more urgent.
    pub(crate) fn rank(&self, piece: PieceIndex) -> Option<u32> {
        self.entries.get(&piece).map(|&(rank, _)| rank)
    }

    /// Whether somebody waits.
    pub(crate) fn has_blocked(&self) -> bool {
        self.blocked > 0
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
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
    pub(crate) fn add(&mut self, rate: f64, outstanding: f64, rtt: f64) {
        self.rtt = if self.rate == 0.0 { rtt } else { self.rtt.min(rtt) };
        self.rate += rate;
        self.outstanding += outstanding;
    }

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
        let name = |(piece, class)| {
            let letter = (b'a' + PieceIndex::raw(piece) as u8) as char;
            if class == Class::Blocked { letter.to_ascii_uppercase() } else { letter }
        };
        demand.open().map(name).collect()
    }

    /// Upper case: blocked; lower case: readahead.
    fn demand(order: &str) -> Demand {
        let mut demand = Demand::default();
        demand.rebuild(order.bytes().map(|letter| {
            let class = if letter.is_ascii_uppercase() { Class::Blocked } else { Class::Readahead };
            (PieceIndex(u32::from(letter.to_ascii_lowercase() - b'a')), class)
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
        demand.set_open(PieceIndex(1), false);
        demand.set_open(PieceIndex(3), false);
        assert_eq!(pieces(&demand), "Ca");
        demand.set_open(PieceIndex(3), true);
        demand.set_open(PieceIndex(25), true);
        demand.done(PieceIndex(2));
        demand.done(PieceIndex(1));
        assert_eq!(pieces(&demand), "da");
        assert!(!demand.has_blocked());
        demand.set_open(PieceIndex(2), true);
        assert_eq!(pieces(&demand), "da", "a piece that is here stays away");
    }

    #[test]
    fn equals_leave_each_other_nothing_and_a_slow_one_leaves_what_the_fast_get_through() {
        let mut fast = Crew::default();
        assert_eq!(fast.head_start(9.0), 0.0, "nobody else");
        fast.add(1e6, 16384.0, 0.05);
        assert_eq!(fast.head_start(0.07), 0.0, "as good as the others");
        let bytes = fast.head_start(2.0);
        assert!((1e6..2e6).contains(&bytes), "{bytes}");
    }
}
