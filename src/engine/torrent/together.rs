//! Company for what is to be hashed: several pieces together take little longer than one (`storage::sha1`).
//!
//! A run goes to the disk as soon as it is whole, unless the next one of another piece will be here within moments: then
//! both go at once. In a fast stream that halves what hashing costs, and a reader gets two pieces at a time instead of
//! one after the other; where nothing else is on its way, or not soon, nobody waits. So that pieces of several runs
//! have company, too, the requests of a fast stream change between two pieces from run to run.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::Torrent;
use super::fill::{Turn, room};
use crate::base::{BLOCK_BYTES, PieceIndex};
use crate::engine::assembly::{BlockId, Partial, RUN_BLOCKS, Whole};
use crate::engine::critical::Class;
use crate::engine::peer::Peer;

/// Whole runs that wait for others.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    /// The block that made each of them whole; of different pieces.
    blocks: Vec<BlockId>,
    /// When they go, whoever has come.
    until: Option<Instant>,
}

impl Gathered {
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.until
    }
}

impl Torrent {
    /// Hands on what became whole with this block, or lets it wait for company.
    pub(super) fn write_whole(&mut self, now: Instant, block: BlockId) {
        let urgent = self.reads.is_waited_for(block.piece);
        let whole = self.assembly.whole(block, urgent);
        if whole.is_some() {
            // What came with this block is under way no more.
            self.peers.refresh(now);
        }
        match whole {
            None => {}
            Some(Whole::Run) if !self.gathered.blocks.is_empty() || self.awaits_company(block.piece) => {
                self.gather(now, block);
            }
            // It will be whole in a moment, and is hashed with others then.
            Some(Whole::Part) if self.awaits_company(block.piece) => {}
            Some(_) => self.write_runs(block, urgent),
        }
        self.write_held_back();
    }

    fn gather(&mut self, now: Instant, block: BlockId) {
        if self.gathered.blocks.iter().any(|other| other.piece == block.piece) {
            self.write_gathered();
        }
        self.gathered.blocks.push(block);
        self.gathered.until.get_or_insert(now + PATIENCE);
        if self.gathered.blocks.len() >= TOGETHER || !self.awaits_company(block.piece) {
            self.write_gathered();
        }
    }

    /// Somebody waits for one of these pieces now: what is gathered of them goes at once.
    pub(super) fn hasten_gathered(&mut self, pieces: &BTreeSet<PieceIndex>) {
        if self.gathered.blocks.iter().any(|block| pieces.contains(&block.piece)) {
            self.write_gathered();
        }
    }

    /// Company or not, these have waited long enough.
    pub(super) fn settle_gathered(&mut self, now: Instant) {
        if self.gathered.until.is_some_and(|until| until <= now) {
            self.write_gathered();
        }
    }

    pub(super) fn write_gathered(&mut self) {
        self.gathered.until = None;
        let blocks = std::mem::take(&mut self.gathered.blocks);
        let urgent = blocks.iter().any(|block| self.reads.is_waited_for(block.piece));
        blocks.into_iter().for_each(|block| self.write_runs(block, urgent));
    }

    /// Whether runs come so fast that one can wait for the next, and a good part of one of another piece is on its way.
    fn awaits_company(&self, piece: PieceIndex) -> bool {
        if !self.config.hashes_together {
            return false;
        }
        let own = self.assembly.get(piece).map_or(0, Partial::awaited_count);
        let all = self.peers.outstanding_bytes() / u64::from(BLOCK_BYTES);
        let comes = all >= (own + RUN_BLOCKS / 4) as u64;
        let mean = if comes { self.peers.mean_rate() } else { None };
        mean.is_some_and(|mean| self.peers.crew(mean).rate * PATIENCE.as_secs_f64() >= RUN_BYTES)
    }

    /// The one of two neighbours in a fast stream that is behind by a run, if a piece has several runs.
    pub(super) fn stride(
        &self,
        turn: &Turn,
        peer: &Peer,
        piece: PieceIndex,
        takes: impl Fn(PieceIndex) -> bool,
    ) -> PieceIndex {
        let runs = self.layout.block_count(piece).div_ceil(RUN_BLOCKS);
        if runs < 2 || !self.config.hashes_together || !turn.brings_within(2 * runs * RUN_BLOCKS, STRIDE.as_secs_f64())
        {
            return piece;
        }
        let behind = |piece: &PieceIndex| (self.assembly.first_free(*piece) / RUN_BLOCKS, piece.raw());
        let fits = |other| match self.demand.class(other) {
            Some(Class::Blocked) => true,
            Some(Class::Readahead) => turn.allows_readahead() && room(peer, Class::Readahead) > 0,
            Some(Class::Later) | None => false,
        };
        let other = self.layout.piece(piece.raw() ^ 1);
        let other = other.filter(|&other| self.free_blocks(other) > 0 && fits(other) && takes(other));
        other.into_iter().chain([piece]).min_by_key(behind).unwrap_or(piece)
    }
}

/// So many go together: one more gains little, and each waits in memory.
const TOGETHER: usize = 2;
/// A run waits for so long at most.
const PATIENCE: Duration = Duration::from_millis(6);
/// Two pieces that take longer come one after the other.
const STRIDE: Duration = Duration::from_millis(30);
const RUN_BYTES: f64 = RUN_BLOCKS as f64 * BLOCK_BYTES as f64;
