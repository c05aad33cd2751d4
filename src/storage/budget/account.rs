//! What the processes of one cache directory tell each other: how much each holds, lacks, and could give up.
//!
//! The file `cache.usage` has a record for each living process, and a sum for the slots of the dead. A record is alive
//! while its byte is locked, which ends with the process; what it said it held then counts among the slots of nobody.
//! Nothing in here is needed for the right bytes: at worst the cache is too large or too small until the next count.

use std::ffi::OsStr;
use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::storage::recency::Moment;
use crate::storage::resume::BootId;
use crate::storage::sys::{self, Open};

/// What one process says of itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Record {
    /// 0: nobody's.
    pub(super) pid: u64,
    /// Bytes on disk, at most, `credit` included.
    pub(super) used: u64,
    /// Bytes that it may write without asking.
    pub(super) credit: u64,
    /// Bytes that it lacks.
    pub(super) wanted: u64,
    /// Since when.
    pub(super) wanted_since: Moment,
    /// Bytes that it could give up.
    pub(super) evictable: u64,
    /// When the first of those was last used.
    pub(super) coldest: Moment,
}

/// All that the file says, for the length of one [`Account::update`].
#[derive(Debug)]
pub(super) struct Books {
    /// Bytes in slots that no living process owns, as far as is known.
    pub(super) orphans: u64,
    /// Ours.
    pub(super) own: Record,
    /// Those of other living processes.
    pub(super) others: Vec<Record>,
}

impl Books {
    /// Bytes that all hold.
    pub(super) fn total(&self) -> u64 {
        self.orphans + self.own.used + self.others.iter().map(|other| other.used).sum::<u64>()
    }

    /// Bytes that all may write without asking.
    pub(super) fn credits(&self) -> u64 {
        self.own.credit + self.others.iter().map(|other| other.credit).sum::<u64>()
    }
}

/// Our place in the file.
#[derive(Debug)]
pub(super) struct Account {
    file: File,
    /// The number of our record.
    number: u64,
    /// A record of somebody dead was found: what it says is an upper bound.
    lost: AtomicBool,
}

impl Account {
    /// Takes a place in the file below the cache directory. Also whether the sum of nobody's slots has to be counted.
    pub(super) fn open(cache: &File) -> io::Result<(Self, bool)> {
        let file = sys::open_at(cache, OsStr::new(NAME), Open::Create)?;
        if !sys::status_of(&file)?.regular {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let turn = Turn::take(&file);
        let header = Self::header();
        let mut old = vec![0; header.len()];
        let known = file.read_exact_at(&mut old, 0).is_ok() && old == header;
        // Of another boot or version: everybody in it is dead, and nobody has kept the sum.
        if !known {
            file.set_len(0)?;
            file.write_all_at(&header, 0)?;
            file.write_all_at(&0_u64.to_le_bytes(), ORPHANS_AT)?;
        }
        for number in 0..MAX_RECORDS {
            if !sys::lock_byte(&file, position(number))? {
                continue;
            }
            drop(turn);
            let account = Self { file, number, lost: AtomicBool::new(false) };
            // Whoever had this place before us is dead.
            let left = account.settle_predecessor()?;
            return Ok((account, !known || left > 0));
        }
        Err(io::ErrorKind::QuotaExceeded.into())
    }

    /// Takes over a record; what its last owner held is nobody's.
    fn settle_predecessor(&self) -> io::Result<u64> {
        let _turn = Turn::take(&self.file);
        let left = self.read(self.number)?.used;
        self.write_orphans(self.orphans()?.saturating_add(left))?;
        self.write(&Record { pid: std::process::id().into(), ..Record::default() })?;
        Ok(left)
    }

    /// Reads all, lets `with` change what is ours and the sum of nobody's slots, writes those back; nobody else does so
    /// meanwhile. Short: a few calls of the system.
    pub(super) fn update<T>(&self, with: impl FnOnce(&mut Books) -> T) -> io::Result<T> {
        let _turn = Turn::take(&self.file);
        let mut books = Books { orphans: self.orphans()?, own: self.read(self.number)?, others: Vec::new() };
        let length = self.file.metadata()?.len();
        for number in (0..MAX_RECORDS).take_while(|&number| position(number) < length) {
            if number == self.number {
                continue;
            }
            let record = self.read(number)?;
            if record.pid == 0 {
                continue;
            }
            if sys::is_byte_locked(&self.file, position(number))? {
                books.others.push(record);
            } else {
                self.lost.store(true, Ordering::Relaxed);
                books.orphans = books.orphans.saturating_add(record.used);
                self.file.write_all_at(&Record::default().encode(), position(number))?;
            }
        }
        let result = with(&mut books);
        self.write_orphans(books.orphans)?;
        self.write(&books.own)?;
        Ok(result)
    }

    /// Whether somebody has died since this was last asked, so that nobody's slots had better be counted.
    pub(super) fn lost_somebody(&self) -> bool {
        self.lost.swap(false, Ordering::Relaxed)
    }

    /// The processes that are alive, ours included; read without a lock, so roughly.
    pub(super) fn living(&self) -> u64 {
        let length = self.file.metadata().map_or(0, |meta| meta.len());
        let numbers = (0..MAX_RECORDS).take_while(|&number| position(number) < length);
        numbers.filter(|&number| self.read(number).is_ok_and(|record| record.pid != 0)).count().max(1) as u64
    }

    fn header() -> Vec<u8> {
        [&MAGIC[..], &BootId::current().0[..]].concat()
    }

    fn orphans(&self) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, ORPHANS_AT)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn write_orphans(&self, bytes: u64) -> io::Result<()> {
        self.file.write_all_at(&bytes.to_le_bytes(), ORPHANS_AT)
    }

    fn read(&self, number: u64) -> io::Result<Record> {
        let mut bytes = [0; RECORD_BYTES as usize];
        match self.file.read_exact_at(&mut bytes, position(number)) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Record::default()),
            Err(error) => Err(error),
            Ok(()) => Ok(Record::decode(&bytes)),
        }
    }

    fn write(&self, record: &Record) -> io::Result<()> {
        self.file.write_all_at(&record.encode(), position(self.number))
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        // What we leave on the disk is nobody's from now on.
        let left = self.update(|books| {
            books.orphans = books.orphans.saturating_add(books.own.used.saturating_sub(books.own.credit));
            books.own = Record::default();
        });
        if let Err(error) = left {
            tracing::debug!(%error, "the account of the cache is not closed");
        }
    }
}

impl Record {
    fn encode(&self) -> [u8; RECORD_BYTES as usize] {
        let mut bytes = [0; RECORD_BYTES as usize];
        let (since, coldest) = (self.wanted_since.0, self.coldest.0);
        let fields = [self.pid, self.used, self.credit, self.wanted, since, self.evictable, coldest];
        for (slot, field) in bytes.chunks_exact_mut(8).zip(fields) {
            slot.copy_from_slice(&field.to_le_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8; RECORD_BYTES as usize]) -> Self {
        let mut fields = bytes.chunks_exact(8).map(|slot| u64::from_le_bytes(slot.try_into().expect("chunks of 8")));
        let mut next = || fields.next().unwrap_or(0);
        Self {
            pid: next(),
            used: next(),
            credit: next(),
            wanted: next(),
            wanted_since: Moment(next()),
            evictable: next(),
            coldest: Moment(next()),
        }
    }
}

/// The turn of one process at the file. When its owner is stopped in the middle we go on without: figures may be a little
/// wrong then.
struct Turn<'f>(Option<&'f File>);

impl<'f> Turn<'f> {
    fn take(file: &'f File) -> Self {
        let until = Instant::now() + PATIENCE;
        loop {
            match file.try_lock() {
                Ok(()) => return Self(Some(file)),
                Err(TryLockError::WouldBlock) if Instant::now() < until => std::thread::sleep(POLL),
                Err(_) => return Self(None),
            }
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if let Some(file) = self.0 {
            let _ = file.unlock();
        }
    }
}

fn position(number: u64) -> u64 {
    HEADER_BYTES + number * RECORD_BYTES
}

const NAME: &str = "cache.usage";
const MAGIC: [u8; 8] = *b"btfsuse1";
/// Magic, boot id (16), sum of nobody's slots (8).
const HEADER_BYTES: u64 = 64;
const ORPHANS_AT: u64 = 24;
const RECORD_BYTES: u64 = 64;
/// Processes with one cache directory at most; more are not counted.
const MAX_RECORDS: u64 = 1024;
const PATIENCE: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_micros(200);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_dead_held_is_nobodys() {
        let temp = tempfile::tempdir().unwrap();
        let cache = File::open(temp.path()).unwrap();
        let (first, fresh) = Account::open(&cache).unwrap();
        let (second, again) = Account::open(&cache).unwrap();
        assert!(fresh && !again);
        first.update(|books| books.own.used = 70).unwrap();
        second.update(|books| (books.own.used, books.own.credit) = (5, 2)).unwrap();
        let seen = first.update(|books| (books.total(), books.credits(), books.others.len())).unwrap();
        assert_eq!((seen, first.living()), ((75, 2, 1), 2));
        // As a kill would: the lock goes with the open file, the record stays.
        let dead = unclosed(second);
        assert_eq!(first.update(|books| (books.total(), books.orphans, books.others.len())).unwrap(), (75, 5, 0));
        let (third, _) = Account::open(&cache).unwrap();
        assert_eq!(third.number, dead, "its place is taken again");
        drop(first);
        assert_eq!(third.update(|books| (books.orphans, books.others.len())).unwrap(), (75, 0));
    }

    /// Ends an account without a word; the number of its record.
    fn unclosed(account: Account) -> u64 {
        let account = std::mem::ManuallyDrop::new(account);
        // SAFETY: the account is never used or dropped after this.
        drop(unsafe { std::ptr::read(&account.file) });
        account.number
    }

    #[test]
    fn a_file_of_another_kind_is_begun_anew() {
        let temp = tempfile::tempdir().unwrap();
        let cache = File::open(temp.path()).unwrap();
        std::fs::write(temp.path().join(NAME), [0xff; 500]).unwrap();
        let (account, fresh) = Account::open(&cache).unwrap();
        assert!(fresh);
        assert_eq!(account.update(|books| (books.total(), books.others.len())).unwrap(), (0, 0));
    }
}
