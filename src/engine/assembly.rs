//! Pieces in progress: which blocks were asked, from whom, which are here, which are on disk.
//!
//! Books blocks and cuts them into runs for the disk; decides nothing about what to fetch. Every attempt at a piece has
//! a number, and a new one begins only after every disk job of the last has ended (I6).

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;

use super::PeerKey;
use crate::base::{BLOCK_BYTES, BlockRef, Layout, PieceIndex};

/// Blocks of one run for the disk at most: 1 MiB.
pub(crate) const RUN_BLOCKS: usize = 64;

/// And of a piece that somebody waits for.
const URGENT_RUN_BLOCKS: usize = 16;

/// One block of one piece, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct BlockId {
    /// The piece; in range.
    pub piece: PieceIndex,
    /// The block's number inside the piece; in range.
    pub number: u32,
}

impl BlockId {
    /// The block behind a checked range, if the range is exactly one block of our grid.
    pub(crate) fn of(layout: &Layout, range: BlockRef) -> Option<Self> {
        let number = range.begin / BLOCK_BYTES;
        (layout.block(range.piece, number as usize) == Some(range)).then_some(Self { piece: range.piece, number })
    }
}

/// A run of blocks to be written.
#[derive(Debug)]
pub(crate) struct Run {
    pub attempt: u32,
    pub begin: u32,
    pub blocks: Vec<Bytes>,
}

/// What a block has made whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whole {
    /// As long a run as there is.
    Run,
    /// One as short as goes to the disk while somebody waits.
    Part,
}

/// What became of a block that arrived.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It was wanted; these other peers were asked for it as well. `progress`: the piece never had so many blocks.
    Fresh { others: Vec<PeerKey>, progress: bool },
    /// We have it, or the piece is not being fetched.
    Useless,
}

/// How far an attempt is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Blocks are being fetched.
    Fetching,
    /// Every block went to the disk; the verdict is awaited.
    Finishing,
    /// The attempt is lost; its jobs have to end before the next begins.
    Draining,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BlockState {
    Free,
    Asked,
    Held,
    Written,
}

/// One attempt at one piece.
#[derive(Debug)]
pub(crate) struct Partial {
    attempt: u32,
    phase: Phase,
    /// Order of birth: flushing begins with the oldest.
    age: u64,
    state: Vec<BlockState>,
    data: Vec<Option<Bytes>>,
    /// Asked: the first peer asked. Here: the sender.
    from: Vec<Option<PeerKey>>,
    /// Further peers asked for a block.
    hedges: BTreeMap<u32, Vec<PeerKey>>,
    free: usize,
    arrived: usize,
    /// The most blocks that ever arrived in an attempt at the piece.
    most: usize,
    held: usize,
    /// No block before this one is free.
    first_free: usize,
    jobs: u32,
    /// Only this peer is asked (parole: a piece that failed is fetched from one peer alone).
    sole: Option<PeerKey>,
}

/// What outlives an attempt.
#[derive(Debug, Clone, Copy, Default)]
struct Record {
    attempt: u32,
    most_blocks: usize,
}

/// All pieces in progress.
#[derive(Debug, Default)]
pub(crate) struct Assembly {
    pieces: BTreeMap<PieceIndex, Partial>,
    records: BTreeMap<PieceIndex, Record>,
    /// Pieces by age that hold blocks in memory.
    ages: BTreeMap<u64, PieceIndex>,
    next_age: u64,
    /// Bytes in memory: held for a run, or in a job that has not ended.
    held_bytes: u64,
    /// The latter part of them.
    queued_bytes: u64,
    /// Pieces that only one peer is asked for.
    soles: usize,
}

impl Assembly {
    /// Begins an attempt, if none is under way; its number.
    pub(crate) fn start(&mut self, layout: &Layout, piece: PieceIndex, sole: Option<PeerKey>) {
        if self.pieces.contains_key(&piece) {
            return;
        }
        let blocks = layout.block_count(piece);
        let attempt = self.next_attempt(piece);
        let most = self.records.get(&piece).map_or(0, |record| record.most_blocks);
        self.next_age += 1;
        self.soles += usize::from(sole.is_some());
        self.pieces.insert(
            piece,
            Partial {
                attempt,
                phase: Phase::Fetching,
                age: self.next_age,
                state: vec![BlockState::Free; blocks],
                data: vec![None; blocks],
                from: vec![None; blocks],
                hedges: BTreeMap::new(),
                free: blocks,
                arrived: 0,
                most,
                held: 0,
                first_free: 0,
                jobs: 0,
                sole,
            },
        );
    }

    /// A number for an attempt that is no download (a check).
    pub(crate) fn next_attempt(&mut self, piece: PieceIndex) -> u32 {
        let record = self.records.entry(piece).or_default();
        record.attempt += 1;
        record.attempt
    }

    /// Books a request; false when the block needs none, or this peer was asked already.
    pub(crate) fn ask(&mut self, block: BlockId, peer: PeerKey) -> bool {
        let Some(partial) = self.pieces.get_mut(&block.piece) else { return false };
        let at = block.number as usize;
        match partial.state[at] {
            BlockState::Free => {
                partial.state[at] = BlockState::Asked;
                partial.from[at] = Some(peer);
                partial.free -= 1;
                true
            }
            BlockState::Asked if !partial.is_asked_of(block.number, peer) => {
                partial.hedges.entry(block.number).or_default().push(peer);
                true
            }
            _ => false,
        }
    }

    /// Forgets a request; true when nobody is asked for the block any more.
    pub(crate) fn unask(&mut self, block: BlockId, peer: PeerKey) -> bool {
        let Some(partial) = self.pieces.get_mut(&block.piece) else { return false };
        let at = block.number as usize;
        if partial.state[at] != BlockState::Asked {
            return false;
        }
        let mut hedges = partial.hedges.remove(&block.number).unwrap_or_default();
        if partial.from[at] == Some(peer) {
            partial.from[at] = (!hedges.is_empty()).then(|| hedges.remove(0));
        } else {
            hedges.retain(|&other| other != peer);
        }
        if !hedges.is_empty() {
            partial.hedges.insert(block.number, hedges);
        }
        if partial.from[at].is_some() {
            return false;
        }
        partial.state[at] = BlockState::Free;
        partial.free += 1;
        partial.first_free = partial.first_free.min(at);
        true
    }

    /// Takes a block in, from whomever: late data is as good as any. Data has the block's length.
    pub(crate) fn take(&mut self, block: BlockId, peer: PeerKey, data: Bytes) -> Taken {
        let Some(partial) = self.pieces.get_mut(&block.piece) else { return Taken::Useless };
        let at = block.number as usize;
        if partial.phase != Phase::Fetching {
            return Taken::Useless;
        }
        let mut others = Vec::new();
        match partial.state[at] {
            BlockState::Held | BlockState::Written => return Taken::Useless,
            BlockState::Free => partial.free -= 1,
            BlockState::Asked => {
                others.extend(partial.from[at]);
                others.extend(partial.hedges.remove(&block.number).unwrap_or_default());
                others.retain(|&other| other != peer);
            }
        }
        self.held_bytes += data.len() as u64;
        partial.state[at] = BlockState::Held;
        partial.data[at] = Some(data);
        partial.from[at] = Some(peer);
        partial.arrived += 1;
        partial.held += 1;
        if partial.held == 1 {
            self.ages.insert(partial.age, block.piece);
        }
        let progress = partial.arrived > partial.most;
        partial.most = partial.most.max(partial.arrived);
        Taken::Fresh { others, progress }
    }

    /// The run that became complete with this block: the whole piece up to 1 MiB, else its 1 MiB segment; `urgent`: 256
    /// KiB of it, so that little is left to hash when the last block comes.
    pub(crate) fn complete_run(&mut self, block: BlockId, urgent: bool) -> Option<Run> {
        let partial = self.pieces.get(&block.piece)?;
        let whole = |length| partial.whole_segment(block.number, length);
        let mut segment = whole(RUN_BLOCKS).or_else(|| urgent.then(|| whole(URGENT_RUN_BLOCKS)).flatten())?;
        // Parts of the segment may be written already; what is left need not be in one run.
        let last = segment.end;
        let from = segment.find(|&at| partial.state[at] == BlockState::Held)?;
        self.cut(block.piece, from, last)
    }

    /// What became whole with this block, as [`complete_run`](Self::complete_run) would find it.
    pub(crate) fn whole(&self, block: BlockId, urgent: bool) -> Option<Whole> {
        let partial = self.pieces.get(&block.piece)?;
        let whole = |length| partial.whole_segment(block.number, length).is_some();
        match () {
            () if whole(RUN_BLOCKS) => Some(Whole::Run),
            () if urgent && whole(URGENT_RUN_BLOCKS) => Some(Whole::Part),
            () => None,
        }
    }

    /// A run of the oldest piece that holds blocks, complete or not.
    pub(crate) fn oldest_run(&mut self) -> Option<(PieceIndex, Run)> {
        let piece = *self.ages.values().next()?;
        let partial = self.pieces.get(&piece)?;
        let from = partial.state.iter().position(|&state| state == BlockState::Held)?;
        let last = (from / RUN_BLOCKS + 1) * RUN_BLOCKS;
        Some((piece, self.cut(piece, from, last)?))
    }

    /// Cuts held blocks from `from` up to `last` or the first one that is not held.
    fn cut(&mut self, piece: PieceIndex, from: usize, last: usize) -> Option<Run> {
        let partial = self.pieces.get_mut(&piece)?;
        let mut blocks = Vec::new();
        for at in from..last.min(partial.state.len()) {
            if partial.state[at] != BlockState::Held {
                break;
            }
            blocks.extend(partial.data[at].take());
            partial.state[at] = BlockState::Written;
        }
        self.queued_bytes += blocks.iter().map(|block| block.len() as u64).sum::<u64>();
        partial.held -= blocks.len();
        partial.jobs += 1;
        if partial.held == 0 {
            self.ages.remove(&partial.age);
            if partial.arrived == partial.state.len() {
                partial.phase = Phase::Finishing;
            }
        }
        Some(Run { attempt: partial.attempt, begin: from as u32 * BLOCK_BYTES, blocks })
    }

    /// A disk job ended and holds its bytes no more; true when the piece is lost and may be begun anew.
    pub(crate) fn job_ended(&mut self, piece: PieceIndex, attempt: u32, bytes: u32) -> bool {
        self.held_bytes = self.held_bytes.saturating_sub(u64::from(bytes));
        self.queued_bytes = self.queued_bytes.saturating_sub(u64::from(bytes));
        let Some(partial) = self.pieces.get_mut(&piece).filter(|partial| partial.attempt == attempt) else {
            return false;
        };
        partial.jobs = partial.jobs.saturating_sub(1);
        if partial.phase != Phase::Draining || partial.jobs > 0 {
            return false;
        }
        self.remove(piece);
        true
    }

    /// The attempt is lost. Its held blocks are dropped; it lingers until its jobs have ended. The senders of the blocks
    /// are returned, and whether the piece may be begun anew at once.
    pub(crate) fn lose(&mut self, piece: PieceIndex, attempt: u32) -> Option<(Vec<Option<PeerKey>>, bool)> {
        let partial = self.pieces.get_mut(&piece).filter(|partial| partial.attempt == attempt)?;
        let held: usize = partial.data.iter().flatten().map(Bytes::len).sum();
        self.held_bytes = self.held_bytes.saturating_sub(held as u64);
        self.ages.remove(&partial.age);
        self.records.entry(piece).or_default().most_blocks = partial.most;
        let senders = std::mem::take(&mut partial.from);
        partial.phase = Phase::Draining;
        partial.data = Vec::new();
        partial.state = Vec::new();
        partial.hedges = BTreeMap::new();
        (partial.free, partial.held, partial.arrived) = (0, 0, 0);
        let ended = partial.jobs == 0;
        if ended {
            self.remove(piece);
        }
        Some((senders, ended))
    }

    /// The piece is verified: forgets it.
    pub(crate) fn finish(&mut self, piece: PieceIndex) -> Option<Partial> {
        let partial = self.remove(piece)?;
        self.ages.remove(&partial.age);
        if let Some(record) = self.records.get_mut(&piece) {
            record.most_blocks = 0;
        }
        Some(partial)
    }

    /// From now on only `sole` is asked, or everybody.
    pub(crate) fn entrust(&mut self, piece: PieceIndex, sole: Option<PeerKey>) {
        if let Some(partial) = self.pieces.get_mut(&piece) {
            let old = std::mem::replace(&mut partial.sole, sole);
            self.soles = self.soles - usize::from(old.is_some()) + usize::from(sole.is_some());
        }
    }

    /// Whether there is a piece that only one peer is asked for.
    pub(crate) fn has_soles(&self) -> bool {
        self.soles > 0
    }

    fn remove(&mut self, piece: PieceIndex) -> Option<Partial> {
        let partial = self.pieces.remove(&piece)?;
        self.soles -= usize::from(partial.sole.is_some());
        Some(partial)
    }

    pub(crate) fn get(&self, piece: PieceIndex) -> Option<&Partial> {
        self.pieces.get(&piece)
    }

    /// Pieces in progress, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (PieceIndex, &Partial)> {
        self.pieces.iter().map(|(&piece, partial)| (piece, partial))
    }

    pub(crate) fn held_bytes(&self) -> u64 {
        self.held_bytes
    }

    /// Of those, the ones that no job holds: they wait for the rest of their run.
    pub(crate) fn waiting_bytes(&self) -> u64 {
        self.held_bytes - self.queued_bytes
    }

    /// The next block that nobody was asked for.
    pub(crate) fn next_free(&mut self, piece: PieceIndex) -> Option<BlockId> {
        let partial = self.pieces.get_mut(&piece).filter(|partial| partial.free > 0)?;
        let at = (partial.first_free..partial.state.len()).find(|&at| partial.state[at] == BlockState::Free)?;
        partial.first_free = at;
        Some(BlockId { piece, number: at as u32 })
    }

    /// No block of a piece before this one is free.
    pub(crate) fn first_free(&self, piece: PieceIndex) -> usize {
        self.pieces.get(&piece).map_or(0, |partial| partial.first_free)
    }

    /// The last block that nobody was asked for: for peers that are slower than the rest.
    pub(crate) fn last_free(&self, piece: PieceIndex) -> Option<BlockId> {
        let partial = self.pieces.get(&piece).filter(|partial| partial.free > 0)?;
        let at = partial.state.iter().rposition(|&state| state == BlockState::Free)?;
        Some(BlockId { piece, number: at as u32 })
    }

    /// Checks what must always hold; for debug builds and tests.
    pub(crate) fn check(&self) {
        assert_eq!(self.soles, self.pieces.values().filter(|partial| partial.sole.is_some()).count());
        let waiting: usize = self.pieces.values().flat_map(|partial| &partial.data).flatten().map(Bytes::len).sum();
        assert_eq!(self.held_bytes, self.queued_bytes + waiting as u64, "bytes in memory");
        for (piece, partial) in &self.pieces {
            let count = |wanted| partial.state.iter().filter(|&&state| state == wanted).count();
            assert_eq!(partial.free, count(BlockState::Free), "free blocks of {piece}");
            assert_eq!(partial.held, count(BlockState::Held), "held blocks of {piece}");
            assert_eq!(partial.arrived, partial.held + count(BlockState::Written), "blocks of {piece}");
            assert_eq!(self.ages.contains_key(&partial.age), partial.held > 0, "age of {piece}");
            let asked = partial.state.iter().zip(&partial.from).filter(|(state, _)| **state == BlockState::Asked);
            assert!(asked.clone().all(|(_, from)| from.is_some()), "an asked block of {piece} without a peer");
        }
    }
}

impl Partial {
    pub(crate) fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Blocks that are here.
    pub(crate) fn arrived(&self) -> usize {
        self.arrived
    }

    /// Disk jobs of it are under way.
    pub(crate) fn has_jobs(&self) -> bool {
        self.jobs > 0
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// Blocks that nobody was asked for.
    pub(crate) fn free(&self) -> usize {
        self.free
    }

    /// Who was asked for its first block.
    pub(crate) fn leader(&self) -> Option<PeerKey> {
        self.from.first().copied().flatten()
    }

    pub(crate) fn sole(&self) -> Option<PeerKey> {
        self.sole
    }

    /// Whether blocks are asked and not here.
    pub(crate) fn is_awaited(&self) -> bool {
        self.awaited_count() > 0
    }

    /// How many blocks are asked and not here.
    pub(crate) fn awaited_count(&self) -> usize {
        self.state.len() - self.free - self.arrived
    }

    /// The blocks around this one in steps of `length`, if all of them are here.
    fn whole_segment(&self, number: u32, length: usize) -> Option<Range<usize>> {
        if self.phase != Phase::Fetching {
            return None;
        }
        let here = |state: &BlockState| matches!(state, BlockState::Held | BlockState::Written);
        let first = number as usize / length * length;
        let last = (first + length).min(self.state.len());
        (self.arrived >= last - first && self.state[first..last].iter().all(here)).then_some(first..last)
    }

    /// Whether this peer was asked for the block and it is not here.
    pub(crate) fn is_asked_of(&self, number: u32, peer: PeerKey) -> bool {
        self.requesters(number).any(|other| other == peer)
    }

    /// The peers asked for a block that is not here.
    pub(crate) fn requesters(&self, number: u32) -> impl Iterator<Item = PeerKey> + '_ {
        let at = number as usize;
        let asked = self.state.get(at) == Some(&BlockState::Asked);
        let first = if asked { self.from[at] } else { None };
        first.into_iter().chain(self.hedges.get(&number).into_iter().flatten().copied())
    }

    /// Numbers of the blocks that are asked and not here.
    pub(crate) fn awaited(&self) -> impl Iterator<Item = u32> + '_ {
        self.state.iter().enumerate().filter(|(_, state)| **state == BlockState::Asked).map(|(at, _)| at as u32)
    }
}
