//! Giving bytes back to the filesystem: pieces that are to go, and bytes that belong to no piece we hold.
//!
//! A piece is out of service only for as long as its punch takes: the journal takes its claim back before that, and
//! brings it onto the disk (I3). No checkpoint can come in between, as it would claim the piece anew.

use std::io;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::super::backing::Backing;
use super::super::budget::victims::Candidate;
use super::super::recency::Moment;
use super::super::resume::Record;
use super::super::{PieceState, StorageError, io_error};
use super::{Moved, Store, lock};
use crate::base::{FileIndex, PieceIndex, PieceRange, Span};

impl Store {
    /// Evicts those of the pieces that can be: present, not pinned, in no file that somebody has open or mapped past us.
    /// Returns which went. `patient`: wait for a checkpoint under way, which may wait for the disk.
    pub(crate) fn evict_all(&self, pieces: &[PieceIndex], patient: bool) -> Result<Vec<PieceIndex>, StorageError> {
        if self.adopted || self.unpunchable.load(Ordering::Relaxed) {
            return Ok(Vec::new());
        }
        let resume = if patient { Some(lock(&self.resume)) } else { self.resume.try_lock().ok() };
        let Some(mut resume) = resume else { return Ok(Vec::new()) };
        let idle = |piece: &PieceIndex| self.table.is_idle(*piece) && !self.backing.has(*piece);
        let victims: Vec<_> = pieces.iter().copied().filter(idle).collect();
        if victims.is_empty() {
            return Ok(victims);
        }
        self.ledger.lock().pending.extend(victims.iter().map(|&piece| Record::Gone(piece)));
        let unclaimed = resume.flush(&self.ledger, self).and_then(|()| resume.sync_journal());
        // Where not even that has room: without a state nothing at all is claimed, and to remove it takes none.
        let unclaimed = match unclaimed {
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                resume.start_over().and(self.notes.sync_names())
            }
            other => other,
        };
        if let Err(error) = unclaimed {
            self.ledger.lock().pending.extend(victims.iter().map(|&piece| Record::Have(piece)));
            let error = self.resume_error()(error);
            self.disk_fails(&error);
            return Err(error);
        }
        let mut gone = Vec::with_capacity(victims.len());
        let mut result = Ok(());
        for piece in victims {
            if result.is_ok() && self.take_out(piece) {
                match self.punch(piece) {
                    Err(StorageError::Io { source, .. }) if source.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                        self.unpunchable.store(true, Ordering::Relaxed);
                        self.put_back(piece);
                    }
                    other => {
                        result = other;
                        self.table.end_evict(piece);
                        gone.push(piece);
                    }
                }
            } else {
                self.reclaim(piece);
            }
        }
        drop(resume);
        if !gone.is_empty() {
            self.tell(Moved::Gone(gone.clone()));
        }
        result.map(|()| gone)
    }

    /// Who is told of readable pieces that move, on whatever thread that happens. To be set once.
    pub fn on_moved(&self, listener: impl Fn(Moved) + Send + Sync + 'static) {
        let _ = self.listener.set(Box::new(listener));
    }

    pub(super) fn tell(&self, moved: Moved) {
        if let Some(listener) = self.listener.get() {
            listener(moved);
        }
    }

    /// Takes a piece out of service, if nobody has pinned it and nobody reads a file of it past us.
    fn take_out(&self, piece: PieceIndex) -> bool {
        {
            let mut ledger = self.ledger.lock();
            if !self.table.begin_evict(piece) {
                return false;
            }
            // Should something have claimed it since the journal was written.
            ledger.pending.push(Record::Gone(piece));
        }
        // From here on nobody can be lent a file of this piece.
        if self.is_held(piece) {
            self.put_back(piece);
            return false;
        }
        true
    }

    fn put_back(&self, piece: PieceIndex) {
        let in_order = self.ledger.lock();
        self.table.cancel_evict(piece);
        drop(in_order);
        self.reclaim(piece);
    }

    /// The journal has taken back the claim of a piece that stays.
    fn reclaim(&self, piece: PieceIndex) {
        let mut ledger = self.ledger.lock();
        match self.table.state(piece) {
            PieceState::Present => ledger.pending.push(Record::Have(piece)),
            PieceState::Unchecked => {
                ledger.pending.push(Record::Have(piece));
                ledger.pending.push(Record::Unsure(PieceRange::one(piece)));
            }
            PieceState::Absent | PieceState::Evicting => {}
        }
    }

    /// Whether a file of this piece may be read past us.
    fn is_held(&self, piece: PieceIndex) -> bool {
        let mut spans = self.layout.spans(self.layout.piece_start(piece), self.layout.piece_bytes(piece).into());
        // Where the filesystem cannot tell, nothing goes once anything was lent.
        let unknown = self.has_lent.load(Ordering::Acquire);
        spans.any(|span| !span.padding && self.backing.is_held(span.file).unwrap_or(unknown))
    }

    fn punch(&self, piece: PieceIndex) -> Result<(), StorageError> {
        let length = self.layout.piece_bytes(piece).into();
        for span in self.layout.spans(self.layout.piece_start(piece), length).filter(|span| !span.padding) {
            if span.offset.is_multiple_of(UNIT) && self.ends_evenly(span) {
                self.punch_range(span.file, span.offset, span.length)?;
                continue;
            }
            let _alone = self.edges.write().unwrap_or_else(PoisonError::into_inner);
            self.punch_with_edges(span)?;
        }
        Ok(())
    }

    /// A block of the disk that a piece shares goes with the last of its neighbours. Under the lock of `edges`: no write
    /// of theirs may begin meanwhile.
    fn punch_with_edges(&self, span: Span) -> Result<(), StorageError> {
        let file_bytes = self.layout.file_bytes(span.file);
        let (mut start, mut end) = (span.offset, span.offset + span.length);
        let before = start / UNIT * UNIT;
        if self.are_dead(self.layout.pieces_of(span.file, before, start - before)) {
            start = before;
        }
        let behind = end.next_multiple_of(UNIT).min(file_bytes);
        if self.are_dead(self.layout.pieces_of(span.file, end, behind - end)) {
            end = behind;
        }
        self.punch_range(span.file, start, end - start)
    }

    fn ends_evenly(&self, span: Span) -> bool {
        let end = span.offset + span.length;
        end.is_multiple_of(UNIT) || end == self.layout.file_bytes(span.file)
    }

    fn punch_range(&self, file: FileIndex, start: u64, length: u64) -> Result<(), StorageError> {
        // To the end of the file's last block of the disk: the file keeps its length.
        let end = start + length;
        let whole = if end == self.layout.file_bytes(file) { end.next_multiple_of(UNIT) - start } else { length };
        self.change(file, 0, 0, || self.backing.punch(file, start, whole))?
            .map_err(io_error("punch", &self.backing.path(file)))
    }

    /// Whether nothing of these pieces is held or being written. Under the lock of `edges`.
    fn are_dead(&self, pieces: PieceRange) -> bool {
        let progress = lock(&self.progress);
        pieces.iter().all(|piece| {
            matches!(self.table.state(piece), PieceState::Absent | PieceState::Evicting)
                && !progress.contains_key(&piece)
        })
    }

    /// Gives back what lies on the disk and belongs to no piece that is held, to be checked or being written: what was
    /// begun in an earlier life, for example. May take a while; the number of runs found.
    pub(crate) fn sweep(&self) -> Result<usize, StorageError> {
        let mut found = 0;
        if self.adopted {
            return Ok(found);
        }
        for file in self.layout.files().filter(|&file| !self.layout.is_padding(file) && self.tracks.has_bytes(file)) {
            if self.table.all_present(self.pieces_of(file)) {
                continue;
            }
            let (mut at, length) = (0, self.layout.file_bytes(file));
            while at < length {
                let run = self.backing.next_data(file, at).map_err(io_error("read", &self.backing.path(file)))?;
                let Some(run) = run else { break };
                at = run.start.max(at);
                let end = run.end.min(length);
                while at < end {
                    at = self.sweep_from(file, at, end, &mut found)?;
                }
            }
        }
        Ok(found)
    }

    /// Punches the run of dead pieces at `at`, of a few pieces at most; where to go on.
    fn sweep_from(&self, file: FileIndex, at: u64, end: u64, found: &mut usize) -> Result<u64, StorageError> {
        let file_start = self.layout.file_start(file);
        let end_of = |piece: PieceIndex| {
            let piece_end = self.layout.piece_start(piece) + u64::from(self.layout.piece_bytes(piece));
            (piece_end - file_start).min(end)
        };
        let pieces = self.layout.pieces_of(file, at, end - at);
        let _alone = self.edges.write().unwrap_or_else(PoisonError::into_inner);
        let dead = pieces.iter().take(SWEPT_AT_ONCE).take_while(|&piece| self.are_dead(PieceRange::one(piece))).last();
        let Some(last) = dead else { return Ok(pieces.first().map_or(end, end_of)) };
        let stop = end_of(last);
        // Blocks of the disk that are shared with a piece that lives are left: they are few.
        let (from, to) =
            (at.next_multiple_of(UNIT), if stop == self.layout.file_bytes(file) { stop } else { stop / UNIT * UNIT });
        if from < to {
            self.punch_range(file, from, to - from)?;
            *found += 1;
        }
        Ok(stop.max(at + 1))
    }

    /// Forgets an attempt at a piece that nobody goes on with, and gives back what it has written.
    pub fn discard(&self, piece: PieceIndex, attempt: u32) -> Result<(), StorageError> {
        {
            let mut progress = lock(&self.progress);
            if progress.get(&piece).is_some_and(|entry| entry.attempt() > attempt) {
                return Ok(());
            }
            progress.remove(&piece);
        }
        self.backing.let_go_of_attempt(piece, attempt);
        // To the end: the next attempt may begin to write.
        let _alone = self.edges.write().unwrap_or_else(PoisonError::into_inner);
        if self.adopted || self.in_trouble() || !self.are_dead(PieceRange::one(piece)) {
            return Ok(());
        }
        let length = self.layout.piece_bytes(piece).into();
        let mut spans = self.layout.spans(self.layout.piece_start(piece), length).filter(|span| !span.padding);
        spans.try_for_each(|span| self.punch_with_edges(span))
    }

    /// The pieces that could go, with what decides on their order.
    pub(crate) fn candidates(&self, store: usize, now: Moment, into: &mut Vec<Candidate>) {
        if self.adopted || self.lets_disk_be() || self.unpunchable.load(Ordering::Relaxed) {
            return;
        }
        let guarded = self.guards.now(self.layout.piece_count(), now);
        let mut read = vec![None; if guarded.files.is_empty() { 0 } else { self.layout.piece_count() }];
        for &file in &guarded.files {
            for piece in self.layout.pieces_of(file, 0, u64::MAX).iter() {
                read[piece.at()] = Some(file);
            }
        }
        let idle = self
            .layout
            .pieces()
            .iter()
            .filter(|&piece| self.table.is_idle(piece) && !guarded.pieces.has(piece) && !self.backing.has(piece));
        into.extend(idle.map(|piece| Candidate {
            store,
            piece,
            bytes: self.layout.piece_bytes(piece).into(),
            used: self.recency.of(piece),
            read_in: read.get(piece.at()).copied().flatten(),
        }));
    }

    /// A number that is another one whenever [`candidates`](Self::candidates) may be others, but for pins of a moment and for
    /// time that passes.
    pub(crate) fn candidates_version(&self) -> u64 {
        let changes = self.table.changes() + self.recency.changes() + self.guards.changes();
        let lets_go = !self.lets_disk_be() && !self.unpunchable.load(Ordering::Relaxed);
        changes << 1 | u64::from(lets_go)
    }

    /// Bytes that all files take on the disk, at most.
    pub(crate) fn allocated(&self) -> u64 {
        if self.adopted { 0 } else { self.tracks.allocated() }
    }

    /// Waits until a piece that is being punched is so: a write before that would be lost.
    pub(super) fn wait_for_punch(&self, piece: PieceIndex) -> Result<(), StorageError> {
        for _ in 0..PUNCH_PATIENCE {
            if self.table.state(piece) != PieceState::Evicting {
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        Err(io_error("write", &self.slot.path)(io::ErrorKind::ResourceBusy.into()))
    }
}

/// Blocks of filesystems are not larger, as a rule; with larger ones less is given back than was meant.
pub(super) const UNIT: u64 = 4096;
const SWEPT_AT_ONCE: usize = 256;
/// Milliseconds that a write waits for a punch.
const PUNCH_PATIENCE: u32 = 10_000;
