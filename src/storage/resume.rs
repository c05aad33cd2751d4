//! Resume: what of a torrent lies in its slot, kept so that neither `kill -9` nor a power cut makes us claim more than
//! the disk holds (I3). It is a hint bound to the identity of each file; any doubt costs a check.
//!
//! Data before claim: a piece's bytes are written before its `have` is appended, and are on the disk before a
//! checkpoint counts them or `synced` follows. Claims before stamps: within an append, and from call to call, whatever
//! takes a claim back stands before the stamp that covers what made it wrong. Knows nothing of reading or hashing.

mod checkpoint;
mod claims;
mod files;
mod journal;
mod recover;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub(crate) use self::checkpoint::Checkpoint;
pub use self::claims::{Claims, claims};
pub(crate) use self::files::{Directory, StateFiles};
pub(crate) use self::journal::{BootId, Record};
use self::journal::{Header, encode_record};
pub(crate) use self::recover::{Recovered, recover};
use super::backing::Identity;
use crate::base::{Bitfield, FileIndex, InfoHash, Layout, PieceIndex};

/// What has happened and is not yet in the journal. Its lock is also held over each move of a piece in the table that
/// is to be journalled, so that the two have one order.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<Entries>);

/// The entries of the [`Ledger`].
#[derive(Debug, Default)]
pub(crate) struct Entries {
    /// Bounded by the number of pieces verified between two calls of `maintain`; dropped while there is no journal.
    pub(crate) pending: Vec<Record>,
    /// How often something was found altered: what was hashed across such a find may be no more.
    pub(crate) doubts: u64,
    /// Files that have moved since their last stamp.
    pub(crate) unstamped: BTreeSet<FileIndex>,
    /// Files with bytes that may not be on the disk.
    unsynced: BTreeSet<FileIndex>,
    unsynced_bytes: u64,
    unsynced_since: Option<Instant>,
    /// Bytes written since the last checkpoint.
    since_checkpoint: u64,
}

impl Entries {
    fn is_empty(&self) -> bool {
        self.pending.is_empty() && self.unstamped.is_empty() && self.unsynced.is_empty()
    }
}

impl Ledger {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn doubts(&self) -> u64 {
        self.lock().doubts
    }

    /// Bytes were written to a file. To be called before any piece of theirs is entered as held.
    pub(crate) fn wrote(&self, file: FileIndex, bytes: u64, now: Instant) {
        let mut entries = self.lock();
        entries.unstamped.insert(file);
        entries.unsynced.insert(file);
        entries.unsynced_bytes += bytes;
        entries.unsynced_since.get_or_insert(now);
        entries.since_checkpoint += bytes;
    }

    /// The bytes of a piece may be in the page cache alone, whoever has written them.
    pub(crate) fn wrote_piece(&self, piece: PieceIndex, layout: &Layout, now: Instant) {
        let length = layout.piece_bytes(piece).into();
        for span in layout.spans(layout.piece_start(piece), length).filter(|span| !span.padding) {
            self.wrote(span.file, 0, now);
        }
    }
}

/// What resume asks of the store while it works.
pub(crate) trait Subject {
    /// A file as we left it; `None` while it moves, or when there is none.
    fn stamp(&self, file: FileIndex) -> Option<Identity>;
    /// Waits until a file's bytes are on the disk. After an error its pieces count as altered: the system may have
    /// dropped what it could not write.
    fn sync(&self, file: FileIndex) -> io::Result<()>;
    /// As [`sync`](Self::sync) for all files at once; if it fails each is to be synced by itself, which tells whose
    /// bytes are lost.
    fn sync_all(&self) -> io::Result<()>;
    /// The pieces held and those to be checked.
    fn pieces(&self) -> (Bitfield, Bitfield);
}

/// Writes journals and checkpoints; used by one thread at a time.
#[derive(Debug)]
pub(crate) struct Resume {
    files: Arc<dyn StateFiles>,
    torrent: InfoHash,
    boot: BootId,
    /// The last journal made, and how many records it has.
    number: u64,
    sequence: u32,
    /// Whether it can be appended to: not before the first checkpoint, nor after an append or checkpoint went wrong.
    open: bool,
    /// Journals that a checkpoint makes useless.
    journals: Vec<u64>,
    checkpointed: Option<Instant>,
    /// Something was appended since.
    dirty: bool,
    /// When the last checkpoint went wrong.
    failed: Option<Instant>,
}

impl Resume {
    /// Continues after what was recovered. The first checkpoint has to be made before anything is appended.
    pub(crate) fn new(files: Arc<dyn StateFiles>, torrent: InfoHash, boot: BootId, journals: Vec<u64>) -> Self {
        let number = journals.last().copied().unwrap_or(0);
        Self {
            files,
            torrent,
            boot,
            number,
            sequence: 0,
            open: false,
            journals,
            checkpointed: None,
            dirty: false,
            failed: None,
        }
    }

    /// Whether the last checkpoint tells everything: nothing was appended since, and nothing is to be.
    pub(crate) fn is_settled(&self, ledger: &Ledger) -> bool {
        self.open && !self.dirty && ledger.lock().is_empty()
    }

    /// Does what is due: a flush always, a sync after 256 MiB or 5 s, a checkpoint after 1 GiB or 30 s.
    pub(crate) fn maintain(
        &mut self,
        now: Instant,
        layout: &Layout,
        ledger: &Ledger,
        subject: &dyn Subject,
    ) -> io::Result<()> {
        let since = |then: Option<Instant>| then.map(|then| now.saturating_duration_since(then));
        if !self.open {
            if since(self.failed).is_some_and(|age| age < RETRY_AFTER) {
                // Nobody will write these down: the next checkpoint tells it all.
                ledger.lock().pending.clear();
                return Ok(());
            }
            return self.checkpoint(now, layout, ledger, subject);
        }
        let (bytes, unsynced_bytes, unsynced_since) = {
            let entries = ledger.lock();
            (entries.since_checkpoint, entries.unsynced_bytes, entries.unsynced_since)
        };
        let old = self.dirty && since(self.checkpointed).is_none_or(|age| age >= CHECKPOINT_AFTER);
        if old || bytes >= CHECKPOINT_BYTES {
            return self.checkpoint(now, layout, ledger, subject);
        }
        self.flush(ledger, subject)?;
        if unsynced_bytes >= SYNC_BYTES || since(unsynced_since).is_some_and(|age| age >= SYNC_AFTER) {
            self.sync(ledger, subject)?;
        }
        Ok(())
    }

    /// Appends what is pending, then the stamps of the files that have moved.
    pub(crate) fn flush(&mut self, ledger: &Ledger, subject: &dyn Subject) -> io::Result<()> {
        // Stamps are taken first and written last: whatever made a claim wrong before a stamp was taken is pending by
        // then, and so stands before it.
        let moved = std::mem::take(&mut ledger.lock().unstamped);
        // (A file that is being written to has none; it is entered again when that write has ended.)
        let stamp = |file| subject.stamp(file).map(|identity| Record::Stamp(file, identity));
        let stamps: Vec<_> = moved.into_iter().filter_map(stamp).collect();
        let mut records = std::mem::take(&mut ledger.lock().pending);
        records.extend(stamps);
        self.append(&records)
    }

    /// Brings what the journal says onto the disk, bytes first.
    pub(crate) fn sync(&mut self, ledger: &Ledger, subject: &dyn Subject) -> io::Result<()> {
        self.flush(ledger, subject)?;
        sync_files(ledger, subject)?;
        self.append(&[Record::Synced])?;
        self.sync_journal()
    }

    /// Waits until the journal is on the disk, not the bytes that it tells of.
    pub(crate) fn sync_journal(&mut self) -> io::Result<()> {
        if !self.open {
            return Err(io::Error::other("there is no journal"));
        }
        let result = self.files.sync(&journal_name(self.number));
        self.open &= result.is_ok();
        result
    }

    /// Forgets all that was ever claimed, on the disk too. Nothing is appended until the next checkpoint.
    pub(crate) fn start_over(&mut self) -> io::Result<()> {
        (self.open, self.failed, self.dirty) = (false, None, true);
        self.files.remove(STATE)?;
        for number in self.files.names()?.iter().filter_map(|name| journal_number(name)) {
            self.number = self.number.max(number);
            if !self.journals.contains(&number) {
                self.journals.push(number);
            }
        }
        Ok(())
    }

    /// Writes the whole state and begins a new journal. If that goes wrong nothing is appended until it has succeeded:
    /// the old state and the old stamps stay, and they are safe.
    pub(crate) fn checkpoint(
        &mut self,
        now: Instant,
        layout: &Layout,
        ledger: &Ledger,
        subject: &dyn Subject,
    ) -> io::Result<()> {
        self.write_checkpoint(now, layout, ledger, subject, None)
    }

    /// The first checkpoint of a process. It does not wait for the bytes of `unsynced` pieces, which an earlier process
    /// of this boot has left in the page cache: they count as unchecked, and as held by the new journal.
    pub(crate) fn begin(
        &mut self,
        now: Instant,
        layout: &Layout,
        ledger: &Ledger,
        subject: &dyn Subject,
        unsynced: &Bitfield,
    ) -> io::Result<()> {
        for piece in unsynced.iter() {
            ledger.wrote_piece(piece, layout, now);
        }
        self.write_checkpoint(now, layout, ledger, subject, Some(unsynced))?;
        ledger.lock().pending.extend(unsynced.iter().map(Record::Have));
        self.flush(ledger, subject)
    }

    fn write_checkpoint(
        &mut self,
        now: Instant,
        layout: &Layout,
        ledger: &Ledger,
        subject: &dyn Subject,
        unsynced: Option<&Bitfield>,
    ) -> io::Result<()> {
        self.open = false;
        self.failed = Some(now);
        let next = self.number + 1;
        let header = Header { number: next, torrent: self.torrent, boot: self.boot };
        self.files.create(&journal_name(next), &header.encode())?;
        self.number = next;
        self.sequence = 0;
        self.journals.push(next);

        // The same order as in `flush`: stamps, claims, and then the bytes that they speak of.
        ledger.lock().unstamped.clear();
        let stamps: HashMap<_, _> = layout.files().filter_map(|file| Some((file, subject.stamp(file)?))).collect();
        let (mut have, mut unchecked) = {
            let mut entries = ledger.lock();
            entries.pending.clear();
            entries.since_checkpoint = 0;
            subject.pieces()
        };
        match unsynced {
            None => sync_files(ledger, subject)?,
            Some(unsynced) => unsynced.iter().filter(|&piece| have.clear(piece)).for_each(|piece| {
                unchecked.set(piece);
            }),
        }
        let state = Checkpoint { journal: next, have, unchecked, stamps }.encode(self.torrent, layout);
        self.files.sync(&journal_name(next))?;
        replace(&*self.files, STATE, &state, true)?;

        self.open = true;
        self.failed = None;
        self.dirty = false;
        self.checkpointed = Some(now);
        for number in std::mem::replace(&mut self.journals, vec![next]) {
            // One that stays is ignored, and removed next time.
            if number != next && self.files.remove(&journal_name(number)).is_err() {
                self.journals.push(number);
            }
        }
        Ok(())
    }

    fn append(&mut self, records: &[Record]) -> io::Result<()> {
        if records.is_empty() || !self.open {
            return Ok(());
        }
        let mut bytes = Vec::new();
        for record in records {
            encode_record(&mut bytes, self.number, self.sequence, record);
            self.sequence += 1;
        }
        self.dirty = true;
        let result = self.files.append(&journal_name(self.number), &bytes);
        // A torn record hides all after it, so this journal takes no more.
        self.open &= result.is_ok();
        result
    }
}

/// Replaces a small file as a whole.
pub(crate) fn replace(files: &dyn StateFiles, name: &str, bytes: &[u8], durable: bool) -> io::Result<()> {
    let temporary = format!("{name}.tmp");
    files.create(&temporary, bytes)?;
    if durable {
        files.sync(&temporary)?;
    }
    files.rename(&temporary, name)?;
    if durable { files.sync_names() } else { Ok(()) }
}

const STATE: &str = "state";

/// A power cut may cost this much, or what is written in this time.
const SYNC_BYTES: u64 = 256 << 20;
const SYNC_AFTER: Duration = Duration::from_secs(5);

/// From so many files on the whole filesystem is synced instead of each.
const MANY_FILES: usize = if cfg!(test) { 3 } else { 64 };

/// A start has to replay this much at most.
const CHECKPOINT_BYTES: u64 = 1 << 30;
const CHECKPOINT_AFTER: Duration = Duration::from_secs(30);

/// A disk that refused a checkpoint is left alone for so long.
const RETRY_AFTER: Duration = Duration::from_secs(10);

fn journal_name(number: u64) -> String {
    format!("journal.{number}")
}

fn journal_number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("journal.")?;
    digits.parse().ok().filter(|&number: &u64| journal_name(number) == name && number < u64::MAX)
}

/// Waits for the bytes of all files that were written to. All are tried; the first error is told.
fn sync_files(ledger: &Ledger, subject: &dyn Subject) -> io::Result<()> {
    let (files, bytes, since) = {
        let mut entries = ledger.lock();
        (
            std::mem::take(&mut entries.unsynced),
            std::mem::take(&mut entries.unsynced_bytes),
            entries.unsynced_since.take(),
        )
    };
    // Each sync of a small file costs a commit of the filesystem's own journal: 100,000 of them took four minutes.
    if files.len() >= MANY_FILES && subject.sync_all().is_ok() {
        return Ok(());
    }
    let mut result = Ok(());
    for file in files {
        if let Err(error) = subject.sync(file) {
            let mut entries = ledger.lock();
            entries.unsynced.insert(file);
            entries.unsynced_bytes = entries.unsynced_bytes.max(bytes);
            entries.unsynced_since = entries.unsynced_since.or(since);
            result = result.and(Err(error));
        }
    }
    result
}
