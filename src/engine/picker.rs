//! Background selection: what to fetch when nobody waits (`Fill`). Partial pieces first, then the rarest.

use std::collections::BTreeSet;

use super::availability::Availability;
use crate::base::{Bitfield, PieceIndex};

/// A piece to take a block of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice {
    /// It is under way and has free blocks.
    Partial(PieceIndex),
    /// It is to be begun.
    Fresh(PieceIndex),
}

/// The pieces wanted without anybody asking, and how rare each piece is.
#[derive(Debug)]
pub(crate) struct Background {
    /// Wanted and not here.
    wanted: Bitfield,
    /// Of those, the ones under way that have free blocks.
    open: BTreeSet<PieceIndex>,
    /// Its buckets hold those not under way.
    pub availability: Availability,
    /// Changes whenever there may be something new to pick.
    epoch: u64,
}

impl Background {
    pub(crate) fn new(pieces: usize, seed: u64) -> Self {
        Self {
            wanted: Bitfield::new(pieces),
            open: BTreeSet::new(),
            availability: Availability::new(pieces, seed),
            epoch: 1,
        }
    }

    /// Wants a piece; `started`: it is under way, with free blocks or without.
    pub(crate) fn want(&mut self, piece: PieceIndex, started: Option<bool>) {
        self.wanted.set(piece);
        match started {
            None => self.availability.want(piece),
            Some(open) => self.set_open(piece, open),
        }
        self.epoch += 1;
    }

    /// The piece is here, or not wanted any more.
    pub(crate) fn unwant(&mut self, piece: PieceIndex) {
        self.wanted.clear(piece);
        self.open.remove(&piece);
        self.availability.unwant(piece);
    }

    /// The piece is under way now, its blocks all free.
    pub(crate) fn started(&mut self, piece: PieceIndex) {
        self.availability.unwant(piece);
        self.set_open(piece, true);
    }

    /// The attempt at the piece is lost.
    pub(crate) fn lost(&mut self, piece: PieceIndex) {
        if self.wanted.has(piece) {
            self.open.remove(&piece);
            self.availability.want(piece);
            self.epoch += 1;
        }
    }

    /// Says whether a piece under way has free blocks.
    pub(crate) fn set_open(&mut self, piece: PieceIndex, open: bool) {
        if !open {
            self.open.remove(&piece);
        } else if self.wanted.has(piece) && self.open.insert(piece) {
            self.epoch += 1;
        }
    }

    /// What to take next from a peer that `may_ask` knows.
    pub(crate) fn pick(&self, may_ask: impl Fn(PieceIndex) -> bool) -> Option<Choice> {
        let open = self.open.iter().copied().take(PARTIALS_LOOKED_AT).filter(|&piece| may_ask(piece));
        let partial = open.min_by_key(|&piece| self.availability.count(piece));
        let fresh = self.availability.rarest(&may_ask);
        match (partial, fresh) {
            // What many have can wait for one of them: whoever has what few have is asked for that.
            (Some(partial), Some(fresh))
                if self.open.len() < PARTIALS_MAX
                    && self.availability.count(fresh) < self.availability.count(partial) =>
            {
                Some(Choice::Fresh(fresh))
            }
            (Some(partial), _) => Some(Choice::Partial(partial)),
            (None, fresh) => fresh.map(Choice::Fresh),
        }
    }

    /// Every wanted block is here or asked: only duplicates could be asked now.
    pub(crate) fn is_endgame(&self) -> bool {
        self.wanted.count() > 0 && self.open.is_empty() && self.availability.wanted() == 0
    }

    pub(crate) fn is_wanted(&self, piece: PieceIndex) -> bool {
        self.wanted.has(piece)
    }

    /// Pieces wanted and not here.
    pub(crate) fn wanted(&self) -> &Bitfield {
        &self.wanted
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Checks what must always hold; for debug builds and tests.
    pub(crate) fn check(&self) {
        self.availability.check();
        assert!(self.open.iter().all(|&piece| self.wanted.has(piece)));
        assert!(self.open.len() + self.availability.wanted() <= self.wanted.count());
    }
}

/// Few pieces are under way at a time; a bound for peers that have none of many.
const PARTIALS_LOOKED_AT: usize = 64;
/// Pieces begun and left for rarer ones, at most: what is not whole can be given to nobody.
const PARTIALS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    /// `.` not wanted, `w` wanted, `o` under way with free blocks, `c` under way without.
    fn background(state: &str) -> Background {
        let mut background = Background::new(state.len(), 1);
        for (at, letter) in state.bytes().enumerate() {
            let piece = PieceIndex(at as u32);
            match letter {
                b'w' => background.want(piece, None),
                b'o' => background.want(piece, Some(true)),
                b'c' => background.want(piece, Some(false)),
                _ => {}
            }
        }
        background.check();
        background
    }

    fn pick(background: &Background, peer: &str) -> Option<Choice> {
        background.pick(|piece| peer.as_bytes()[piece.at()] == b'x')
    }

    #[test]
    fn partial_pieces_are_finished_first() {
        assert_eq!(pick(&background("w.ocw"), "xxxxx"), Some(Choice::Partial(PieceIndex(2))));
        assert_eq!(pick(&background("w.ocw"), "....x"), Some(Choice::Fresh(PieceIndex(4))));
        assert_eq!(pick(&background("w.ocw"), ".x.x."), None);
    }

    #[test]
    fn it_is_endgame_when_every_block_is_asked() {
        assert!(background(".cc.").is_endgame());
        assert!(!background("....").is_endgame());
        assert!(!background(".cw.").is_endgame() && !background(".co.").is_endgame());
    }

    #[test]
    fn a_lost_piece_is_wanted_again() {
        let mut background = background("c.");
        background.lost(PieceIndex(0));
        background.lost(PieceIndex(1));
        assert_eq!(pick(&background, "xx"), Some(Choice::Fresh(PieceIndex(0))));
        background.unwant(PieceIndex(0));
        assert_eq!(pick(&background, "xx"), None);
        background.check();
    }
}
