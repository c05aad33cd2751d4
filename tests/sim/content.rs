//! The torrent that everybody shares, and the virtual disk: bytes are checked for real, only small.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use btfs::base::{Bitfield, FileSpec, Layout, PieceIndex};
use btfs::engine::{DiskDone, DiskJob};
use bytes::Bytes;
use sha1::{Digest, Sha1};

/// A torrent and its bytes.
#[derive(Clone)]
pub struct Content {
    pub layout: Arc<Layout>,
    pub bytes: Bytes,
}

impl Content {
    /// Files of these lengths; every byte follows from its offset.
    pub fn new(piece_length: u32, files: &[u64]) -> Self {
        let specs: Vec<FileSpec> = files.iter().map(|&length| FileSpec { length, padding: false }).collect();
        let layout = Layout::new(piece_length, &specs).expect("a valid layout");
        let byte = |at: u64| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8 ^ (at >> 14) as u8;
        let bytes = (0..layout.total_bytes()).map(byte).collect::<Vec<u8>>().into();
        Self { layout: Arc::new(layout), bytes }
    }

    pub fn piece(&self, piece: PieceIndex) -> Bytes {
        let start = self.layout.piece_start(piece) as usize;
        self.bytes.slice(start..start + self.layout.piece_bytes(piece) as usize)
    }

    /// A range on the wire, if it lies inside one piece.
    pub fn block(&self, piece: u32, begin: u32, length: u32) -> Option<Bytes> {
        let block = self.layout.block_ref(piece, begin, length)?;
        Some(self.piece(block.piece).slice(begin as usize..(begin + length) as usize))
    }
}

/// What one engine has on disk. Enforces I6: attempts in order, nothing written twice, nothing after the verdict.
pub struct VirtualDisk {
    content: Content,
    pieces: BTreeMap<PieceIndex, OnDisk>,
    present: Bitfield,
    /// Bytes handed over and not yet written, now and at most.
    pub in_flight: u64,
    pub most_in_flight: u64,
    /// Jobs fail from now on.
    pub broken: bool,
    /// It takes nothing from now on: so many pieces fit into memory.
    pub memory: Option<usize>,
    /// Those in memory, in the order in which they came.
    held: VecDeque<PieceIndex>,
    /// The most that there were.
    pub most_held: usize,
}

#[derive(Default)]
struct OnDisk {
    attempt: u32,
    jobs: usize,
    written: BTreeMap<u32, Bytes>,
    /// What lies there already and waits for a check.
    unchecked: Option<Bytes>,
}

impl VirtualDisk {
    pub fn new(content: Content, present: Bitfield) -> Self {
        Self {
            content,
            pieces: BTreeMap::new(),
            present,
            in_flight: 0,
            most_in_flight: 0,
            broken: false,
            memory: None,
            held: VecDeque::new(),
            most_held: 0,
        }
    }

    /// Puts bytes there that a check is to judge.
    pub fn leave_unchecked(&mut self, piece: PieceIndex, bytes: Bytes) {
        self.present.clear(piece);
        self.pieces.entry(piece).or_default().unchecked = Some(bytes);
    }

    pub fn has(&self, piece: PieceIndex) -> bool {
        self.present.has(piece)
    }

    /// Whether a piece is there and on the disk, so that peers may hear of it.
    pub fn keeps(&self, piece: PieceIndex) -> bool {
        self.has(piece) && !self.held.contains(&piece)
    }

    /// Pushes out of memory what does not fit, but nothing of `waited`: those are gone then.
    pub fn push_out(&mut self, waited: &BTreeSet<PieceIndex>) -> Vec<PieceIndex> {
        let mut gone = Vec::new();
        self.most_held = self.most_held.max(self.held.len());
        while self.memory.is_some_and(|room| self.held.len() > room)
            && let Some(at) = self.held.iter().position(|piece| !waited.contains(piece))
            && let Some(piece) = self.held.remove(at)
        {
            self.present.clear(piece);
            gone.push(piece);
        }
        gone
    }

    /// It takes everything again: what was in memory comes onto it.
    pub fn mend(&mut self) -> Vec<PieceIndex> {
        self.memory = None;
        std::mem::take(&mut self.held).into()
    }

    pub fn present(&self) -> &Bitfield {
        &self.present
    }

    /// A job is handed over: the promises of the engine are checked.
    pub fn begin(&mut self, job: &DiskJob) {
        let (piece, attempt) = match job {
            DiskJob::Write { piece, attempt, blocks, .. } => {
                assert!(!self.present.has(*piece), "a verified piece is written again: {piece}");
                self.in_flight += blocks.iter().map(|block| block.len() as u64).sum::<u64>();
                self.most_in_flight = self.most_in_flight.max(self.in_flight);
                (*piece, *attempt)
            }
            DiskJob::Check { piece, attempt, .. } => (*piece, *attempt),
            DiskJob::Digests(piece) => {
                assert!(self.present.has(*piece), "digests of an unverified piece are asked");
                return;
            }
            DiskJob::Discard { .. } => unreachable!("the disk has room"),
        };
        let slot = self.pieces.entry(piece).or_default();
        assert!(attempt >= 1 && attempt >= slot.attempt, "attempt {attempt} of {piece} after {}", slot.attempt);
        if attempt > slot.attempt {
            assert_eq!(slot.jobs, 0, "I6: attempt {attempt} of {piece} begins before the last one has ended");
            slot.attempt = attempt;
            slot.written.clear();
        }
        slot.jobs += 1;
    }

    /// Does the job.
    pub fn run(&mut self, job: DiskJob) -> DiskDone {
        match job {
            DiskJob::Write { piece, attempt, begin, blocks, .. } => self.write(piece, attempt, begin, blocks),
            DiskJob::Check { piece, attempt, .. } => {
                let good = self.content.piece(piece);
                let slot = self.pieces.entry(piece).or_default();
                slot.jobs -= 1;
                if slot.unchecked.take().is_some_and(|bytes| bytes == good) {
                    self.present.set(piece);
                    DiskDone::Verified { piece, attempt, bytes: 0 }
                } else {
                    DiskDone::Corrupt { piece, attempt, bytes: 0, block_digests: Vec::new() }
                }
            }
            DiskJob::Discard { .. } => unreachable!("the disk has room"),
            DiskJob::Digests(piece) => {
                DiskDone::Digests { piece, block_digests: block_digests(&self.content.piece(piece)) }
            }
        }
    }

    fn write(&mut self, piece: PieceIndex, attempt: u32, begin: u32, blocks: Vec<Bytes>) -> DiskDone {
        let run = blocks.concat();
        let bytes = run.len() as u32;
        self.in_flight -= u64::from(bytes);
        let length = self.content.layout.piece_bytes(piece);
        let slot = self.pieces.entry(piece).or_default();
        slot.jobs -= 1;
        assert_eq!(attempt, slot.attempt);
        if self.broken {
            return DiskDone::Failed { piece, attempt, bytes, error: "no space left on device".into() };
        }
        assert!(bytes > 0 && begin + bytes <= length, "a write beyond piece {piece}");
        let overlaps = slot.written.range(..begin + bytes).next_back().is_some_and(|(&at, old)| {
            let end = at + old.len() as u32;
            end > begin
        });
        assert!(!overlaps, "I6: bytes of piece {piece} written twice in attempt {attempt}");
        slot.written.insert(begin, run.into());
        let total: usize = slot.written.values().map(Bytes::len).sum();
        if total < length as usize {
            return DiskDone::Written { piece, attempt, bytes };
        }
        let whole = std::mem::take(&mut slot.written).into_values().collect::<Vec<_>>().concat();
        if whole == self.content.piece(piece) {
            self.present.set(piece);
            if self.memory.is_some() {
                self.held.push_back(piece);
                return DiskDone::Held { piece, attempt, bytes };
            }
            DiskDone::Verified { piece, attempt, bytes }
        } else {
            DiskDone::Corrupt { piece, attempt, bytes, block_digests: block_digests(&whole) }
        }
    }
}

fn block_digests(piece: &[u8]) -> Vec<[u8; 20]> {
    piece.chunks(16 * 1024).map(|block| Sha1::digest(block).into()).collect()
}
