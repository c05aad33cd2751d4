//! The state of every piece: the only state that readers, uploads and writers share.
//!
//! One atomic word a piece holds its state and the number of its pins, so that "is it present, and may I keep it so"
//! is one compare-and-swap and no reader ever takes a lock. Who may move a piece from which state to which is decided
//! here; why it is moved is the store's business.

use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, AtomicU32, AtomicU64, Ordering};

use crate::base::{Bitfield, PieceIndex, PieceRange};

/// What a piece is (I6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PieceState {
    /// Not here.
    Absent,
    /// On disk, perhaps: to be hashed before its first service.
    Unchecked,
    /// Verified and readable.
    Present,
    /// Being removed.
    Evicting,
}

/// One atomic word a piece: state and pins.
pub struct PieceTable {
    words: Box<[AtomicU32]>,
    /// Kept beside the words; signed, because two threads may book opposite moves of one piece in the wrong order.
    present: AtomicIsize,
    /// How often a piece was moved, or a lasting pin dropped.
    changes: AtomicU64,
}

/// Pins on a run of present pieces; they are dropped with it (I2).
#[derive(Debug)]
pub struct Pins {
    table: Arc<PieceTable>,
    range: PieceRange,
}

impl PieceTable {
    /// A table of `have.len()` pieces; a piece in both sets counts as unchecked.
    pub(crate) fn new(have: &Bitfield, unchecked: &Bitfield) -> Self {
        let state = |piece| match (unchecked.has(piece), have.has(piece)) {
            (true, _) => PieceState::Unchecked,
            (false, true) => PieceState::Present,
            (false, false) => PieceState::Absent,
        };
        let words: Box<[AtomicU32]> =
            (0..have.len()).map(|at| AtomicU32::new(word(state(PieceIndex(at as u32)), 0))).collect();
        let present = words.iter().filter(|word| split(word.load(Ordering::Relaxed)).0 == PieceState::Present).count();
        Self { words, present: AtomicIsize::new(present as isize), changes: AtomicU64::new(0) }
    }

    /// The state of one piece.
    pub fn state(&self, piece: PieceIndex) -> PieceState {
        split(self.words[piece.at()].load(Ordering::Acquire)).0
    }

    /// Pins all pieces of the range if all are present.
    pub fn pin(self: &Arc<Self>, range: PieceRange) -> Option<Pins> {
        for (done, piece) in range.iter().enumerate() {
            if !self.pin_one(piece) {
                range.iter().take(done).for_each(|pinned| self.unpin_one(pinned));
                return None;
            }
        }
        Some(Pins { table: Arc::clone(self), range })
    }

    /// Whether all pieces of the range are present (no pin taken).
    pub fn all_present(&self, range: PieceRange) -> bool {
        range.iter().all(|piece| self.state(piece) == PieceState::Present)
    }

    /// Number of present pieces; kept, not counted.
    pub fn present_count(&self) -> usize {
        usize::try_from(self.present.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// The present pieces.
    pub fn present(&self) -> Bitfield {
        self.in_state(PieceState::Present)
    }

    /// The pieces that have to be hashed before their first service.
    pub fn unchecked(&self) -> Bitfield {
        self.in_state(PieceState::Unchecked)
    }

    /// Whether a piece is present and nobody has pinned it.
    pub(crate) fn is_idle(&self, piece: PieceIndex) -> bool {
        self.words[piece.at()].load(Ordering::Relaxed) == word(PieceState::Present, 0)
    }

    /// Takes a present piece without pins out of service, to be punched (I2); false when it is pinned or not present.
    pub fn begin_evict(&self, piece: PieceIndex) -> bool {
        let (from, to) = (word(PieceState::Present, 0), word(PieceState::Evicting, 0));
        let moved = self.words[piece.at()].compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if moved {
            self.present.fetch_sub(1, Ordering::Relaxed);
            self.changes.fetch_add(1, Ordering::Relaxed);
        }
        moved
    }

    /// A number that grows whenever a piece is moved. Pins do not count, as every read has some; the end of those that
    /// lasted does ([`Pins::end`]).
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Ends what [`begin_evict`](Self::begin_evict) began.
    pub(crate) fn end_evict(&self, piece: PieceIndex) {
        self.shift(piece, PieceState::Absent, |state| state == PieceState::Evicting);
    }

    /// Takes back what [`begin_evict`](Self::begin_evict) began: nothing was punched.
    pub(crate) fn cancel_evict(&self, piece: PieceIndex) {
        self.shift(piece, PieceState::Present, |state| state == PieceState::Evicting);
    }

    /// The piece was verified; false when it is being evicted or is present already.
    pub(crate) fn set_present(&self, piece: PieceIndex) -> bool {
        self.shift(piece, PieceState::Present, |state| matches!(state, PieceState::Absent | PieceState::Unchecked))
    }

    /// A present piece may have been altered behind our back. Its pins stay: they guard against punching, not this.
    pub(crate) fn set_unchecked(&self, piece: PieceIndex) -> bool {
        self.shift(piece, PieceState::Unchecked, |state| state == PieceState::Present)
    }

    /// An unchecked piece turned out not to be here.
    pub(crate) fn set_absent(&self, piece: PieceIndex) -> bool {
        self.shift(piece, PieceState::Absent, |state| state == PieceState::Unchecked)
    }

    /// What must hold whenever no thread is inside the table: the kept count is right, nothing that is being evicted is
    /// pinned.
    ///
    /// # Panics
    /// When it does not hold.
    pub fn check_invariants(&self) {
        let mut present = 0;
        for (piece, word) in self.words.iter().enumerate() {
            let (state, pins) = split(word.load(Ordering::Acquire));
            present += usize::from(state == PieceState::Present);
            assert!(state != PieceState::Evicting || pins == 0, "I2: piece {piece} is being evicted with {pins} pins");
        }
        assert_eq!(self.present_count(), present, "the count of present pieces");
    }

    fn in_state(&self, wanted: PieceState) -> Bitfield {
        let mut field = Bitfield::new(self.words.len());
        for (at, word) in self.words.iter().enumerate() {
            if split(word.load(Ordering::Acquire)).0 == wanted {
                field.set(PieceIndex(at as u32));
            }
        }
        field
    }

    /// Moves a piece to `to` if `allowed` says so of its state; pins are kept.
    fn shift(&self, piece: PieceIndex, to: PieceState, allowed: impl Fn(PieceState) -> bool) -> bool {
        let moved = self.words[piece.at()].fetch_update(Ordering::AcqRel, Ordering::Acquire, |old| {
            let (state, pins) = split(old);
            allowed(state).then(|| word(to, pins))
        });
        let Ok(old) = moved else { return false };
        let change = isize::from(to == PieceState::Present) - isize::from(split(old).0 == PieceState::Present);
        self.present.fetch_add(change, Ordering::Relaxed);
        self.changes.fetch_add(1, Ordering::Relaxed);
        true
    }

    fn pin_one(&self, piece: PieceIndex) -> bool {
        let pinned = self.words[piece.at()].fetch_update(Ordering::Acquire, Ordering::Relaxed, |old| {
            let (state, pins) = split(old);
            (state == PieceState::Present && pins < PIN_MASK).then_some(old + 1)
        });
        pinned.is_ok()
    }

    fn unpin_one(&self, piece: PieceIndex) {
        let old = self.words[piece.at()].fetch_sub(1, Ordering::Release);
        debug_assert!(old & PIN_MASK > 0, "a pin was dropped twice");
    }
}

impl std::fmt::Debug for PieceTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PieceTable({}/{})", self.present_count(), self.words.len())
    }
}

impl Pins {
    /// The pinned pieces.
    pub fn range(&self) -> PieceRange {
        self.range
    }

    /// Drops pins that have lasted: what they kept may go now, and whoever looks for that is to see it.
    pub(crate) fn end(self) {
        let table = Arc::clone(&self.table);
        drop(self);
        table.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// The first piece that is no longer present although it is pinned: its file was altered behind our back.
    pub(crate) fn first_lost(&self) -> Option<PieceIndex> {
        self.range.iter().find(|&piece| self.table.state(piece) != PieceState::Present)
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        self.range.iter().for_each(|piece| self.table.unpin_one(piece));
    }
}

const PIN_BITS: u32 = 30;
const PIN_MASK: u32 = (1 << PIN_BITS) - 1;

fn word(state: PieceState, pins: u32) -> u32 {
    let state = match state {
        PieceState::Absent => 0,
        PieceState::Unchecked => 1,
        PieceState::Present => 2,
        PieceState::Evicting => 3,
    };
    state << PIN_BITS | pins
}

fn split(word: u32) -> (PieceState, u32) {
    let state = match word >> PIN_BITS {
        0 => PieceState::Absent,
        1 => PieceState::Unchecked,
        2 => PieceState::Present,
        _ => PieceState::Evicting,
    };
    (state, word & PIN_MASK)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(pieces: usize) -> Arc<PieceTable> {
        Arc::new(PieceTable::new(&Bitfield::new(pieces), &Bitfield::new(pieces)))
    }

    fn range(start: u32, end: u32) -> PieceRange {
        PieceRange { start, end }
    }

    #[test]
    fn a_range_is_pinned_only_if_all_of_it_is_present() {
        let table = table(3);
        table.set_present(PieceIndex(0));
        table.set_present(PieceIndex(1));
        assert!(table.pin(range(0, 3)).is_none());
        assert!(table.begin_evict(PieceIndex(0)), "a refused pin leaves none behind");
        assert!(table.pin(range(1, 2)).is_some());
        assert!(table.pin(range(2, 2)).is_some(), "nothing needs nothing");
    }

    #[test]
    fn evicting_a_pinned_piece_is_refused() {
        let table = table(1);
        table.set_present(PieceIndex(0));
        let pins = table.pin(range(0, 1)).unwrap();
        assert!(!table.begin_evict(PieceIndex(0)));
        drop(pins);
        assert!(table.begin_evict(PieceIndex(0)));
        assert!(table.pin(range(0, 1)).is_none() && !table.set_present(PieceIndex(0)));
        table.end_evict(PieceIndex(0));
        assert_eq!((table.state(PieceIndex(0)), table.present_count()), (PieceState::Absent, 0));
    }

    #[test]
    fn a_pinned_piece_that_was_altered_is_reported_by_its_pins() {
        let table = table(2);
        table.set_present(PieceIndex(0));
        table.set_present(PieceIndex(1));
        let pins = table.pin(range(0, 2)).unwrap();
        assert_eq!(pins.first_lost(), None);
        assert!(table.set_unchecked(PieceIndex(1)));
        assert_eq!(pins.first_lost(), Some(PieceIndex(1)));
    }

    #[test]
    fn both_sets_make_unchecked() {
        let table = PieceTable::new(&Bitfield::full(2), &Bitfield::full(2));
        assert_eq!((table.state(PieceIndex(1)), table.present_count()), (PieceState::Unchecked, 0));
        table.check_invariants();
    }

    #[derive(Debug, Clone)]
    enum Step {
        Pin(u32, u32),
        Unpin(usize),
        Present(u32),
        Unchecked(u32),
        Absent(u32),
        BeginEvict(u32),
        EndEvict(u32),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let piece = 0_u32..6;
        let step = prop_oneof![
            (piece.clone(), 0_u32..4).prop_map(|(first, more)| Step::Pin(first, (first + more).min(6))),
            (0_usize..4).prop_map(Step::Unpin),
            piece.clone().prop_map(Step::Present),
            piece.clone().prop_map(Step::Present),
            piece.clone().prop_map(Step::Unchecked),
            piece.clone().prop_map(Step::Absent),
            piece.clone().prop_map(Step::BeginEvict),
            piece.prop_map(Step::EndEvict),
        ];
        proptest::collection::vec(step, 0..60)
    }

    proptest! {
        #[test]
        fn the_table_does_what_a_naive_model_does(steps in steps()) {
            let table = table(6);
            let mut model = [(PieceState::Absent, 0_u32); 6];
            let mut held: Vec<Pins> = Vec::new();
            for step in steps {
                match step {
                    Step::Pin(start, end) => {
                        let pieces = start as usize..end as usize;
                        let all = model[pieces.clone()].iter().all(|piece| piece.0 == PieceState::Present);
                        let pins = table.pin(range(start, end));
                        prop_assert_eq!(pins.is_some(), all);
                        if let Some(pins) = pins {
                            model[pieces].iter_mut().for_each(|piece| piece.1 += 1);
                            held.push(pins);
                        }
                    }
                    Step::Unpin(number) if number < held.len() => {
                        let pins = held.swap_remove(number);
                        model[pins.range().as_usizes()].iter_mut().for_each(|piece| piece.1 -= 1);
                    }
                    Step::Unpin(_) => {}
                    Step::Present(raw) => {
                        let entry = &mut model[raw as usize];
                        let moves = matches!(entry.0, PieceState::Absent | PieceState::Unchecked);
                        prop_assert_eq!(table.set_present(PieceIndex(raw)), moves);
                        if moves { entry.0 = PieceState::Present; }
                    }
                    Step::Unchecked(raw) => {
                        let entry = &mut model[raw as usize];
                        let moves = entry.0 == PieceState::Present;
                        prop_assert_eq!(table.set_unchecked(PieceIndex(raw)), moves);
                        if moves { entry.0 = PieceState::Unchecked; }
                    }
                    Step::Absent(raw) => {
                        let entry = &mut model[raw as usize];
                        let moves = entry.0 == PieceState::Unchecked;
                        prop_assert_eq!(table.set_absent(PieceIndex(raw)), moves);
                        if moves { entry.0 = PieceState::Absent; }
                    }
                    Step::BeginEvict(raw) => {
                        let entry = &mut model[raw as usize];
                        let moves = *entry == (PieceState::Present, 0);
                        prop_assert_eq!(table.begin_evict(PieceIndex(raw)), moves);
                        if moves { entry.0 = PieceState::Evicting; }
                    }
                    Step::EndEvict(raw) => {
                        table.end_evict(PieceIndex(raw));
                        let entry = &mut model[raw as usize];
                        if entry.0 == PieceState::Evicting { entry.0 = PieceState::Absent; }
                    }
                }
                table.check_invariants();
                for (raw, entry) in model.iter().enumerate() {
                    let seen = split(table.words[raw].load(Ordering::Relaxed));
                    prop_assert_eq!(seen, *entry);
                }
            }
        }
    }

    #[test]
    fn pins_and_evictions_of_many_threads_never_meet() {
        let table = table(4);
        table.set_present(PieceIndex(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        if let Some(pins) = table.pin(range(0, 1)) {
                            assert_eq!(table.state(PieceIndex(0)), PieceState::Present, "I2");
                            drop(pins);
                        }
                    }
                });
            }
            scope.spawn(|| {
                for _ in 0..20_000 {
                    if table.begin_evict(PieceIndex(0)) {
                        table.end_evict(PieceIndex(0));
                        table.set_present(PieceIndex(0));
                    }
                }
            });
        });
        table.check_invariants();
    }
}
