//! The journal: what has become of pieces and files since the last checkpoint, appended in the order it happened.
//!
//! Header (72 bytes): magic, version (u32), number (u64), info-hash, boot id (16), spare zeros, CRC-32. Then records:
//! kind (u8), sequence (u32), payload of the kind's length, CRC-32 over the journal's number and all before. Integers
//! are little-endian. The first record that is torn, bad or out of sequence ends the journal.

use super::super::backing::Identity;
use crate::base::{FileIndex, InfoHash, Layout, PieceIndex, PieceRange};

/// Which run of the system something happened in: what was written in this one is in the page cache, whatever has
/// become of the process that wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BootId(pub(crate) [u8; 16]);

impl BootId {
    /// The present one; one that equals no other when the system does not tell.
    pub(crate) fn current() -> Self {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
        let mut id = [0; 16];
        match hex::decode_to_slice(digits, &mut id) {
            Ok(()) => Self(id),
            Err(_) => Self([0; 16]),
        }
    }

    /// Whether both are known and the same.
    fn is(self, other: Self) -> bool {
        self == other && self.0 != [0; 16]
    }
}

/// One entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Record {
    /// The piece was verified and written.
    Have(PieceIndex),
    /// The piece is not here: evicted, or found wrong.
    Gone(PieceIndex),
    /// What is claimed of these pieces is to be checked: a file of theirs was altered by somebody else.
    Unsure(PieceRange),
    /// The file after our last write.
    Stamp(FileIndex, Identity),
    /// Whatever this journal says before was on the disk, not in the page cache alone.
    Synced,
}

/// What a journal's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) number: u64,
    pub(crate) torrent: InfoHash,
    pub(crate) boot: BootId,
}

impl Header {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(self.torrent.as_bytes());
        out.extend_from_slice(&self.boot.0);
        out.resize(HEADER_BYTES - 4, 0);
        out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, crc) = bytes.get(..HEADER_BYTES)?.split_at(HEADER_BYTES - 4);
        let mut fields = Fields(body);
        let known = fields.take::<8>()? == *MAGIC && fields.u32()? == VERSION;
        let header = Self { number: fields.u64()?, torrent: InfoHash(fields.take()?), boot: BootId(fields.take()?) };
        (known && crc == crc32fast::hash(body).to_le_bytes()).then_some(header)
    }
}

/// A journal as it was found.
#[derive(Debug)]
pub(crate) struct Journal {
    /// Written since this system was started.
    pub(crate) same_boot: bool,
    /// The records up to the first that is torn or bad.
    pub(crate) records: Vec<Record>,
    /// Whether that is all there was.
    pub(crate) whole: bool,
}

impl Journal {
    /// Reads a journal of this number and torrent; `None` when it is not one.
    pub(crate) fn read(bytes: &[u8], expected: Header, layout: &Layout) -> Option<Self> {
        let header = Header::decode(bytes)?;
        if (header.number, header.torrent) != (expected.number, expected.torrent) {
            return None;
        }
        let mut rest = &bytes[HEADER_BYTES..];
        let mut records = Vec::new();
        while let Some((record, length)) = decode_record(rest, header.number, records.len() as u32, layout) {
            records.push(record);
            rest = &rest[length..];
        }
        Some(Self { same_boot: header.boot.is(expected.boot), records, whole: rest.is_empty() })
    }
}

/// Appends the bytes of a record.
pub(crate) fn encode_record(out: &mut Vec<u8>, number: u64, sequence: u32, record: &Record) {
    let start = out.len();
    out.push(match record {
        Record::Have(_) => HAVE,
        Record::Gone(_) => GONE,
        Record::Unsure(_) => UNSURE,
        Record::Stamp(..) => STAMP,
        Record::Synced => SYNCED,
    });
    out.extend_from_slice(&sequence.to_le_bytes());
    match record {
        Record::Have(piece) | Record::Gone(piece) => out.extend_from_slice(&piece.raw().to_le_bytes()),
        Record::Unsure(range) => {
            out.extend_from_slice(&range.first().map_or(0, PieceIndex::raw).to_le_bytes());
            out.extend_from_slice(&(range.len() as u32).to_le_bytes());
        }
        Record::Stamp(file, identity) => {
            out.extend_from_slice(&file.raw().to_le_bytes());
            encode_identity(out, identity);
        }
        Record::Synced => {}
    }
    let crc = crc(number, &out[start..]);
    out.extend_from_slice(&crc.to_le_bytes());
}

/// The bytes of an identity: five integers of 8 bytes.
pub(super) fn encode_identity(out: &mut Vec<u8>, identity: &Identity) {
    for field in [identity.dev, identity.ino, identity.size] {
        out.extend_from_slice(&field.to_le_bytes());
    }
    for field in [identity.mtime, identity.ctime] {
        out.extend_from_slice(&field.to_le_bytes());
    }
}

/// Takes integers from the front of a slice.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl Fields<'_> {
    pub(super) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    pub(super) fn identity(&mut self) -> Option<Identity> {
        Some(Identity {
            dev: self.u64()?,
            ino: self.u64()?,
            size: self.u64()?,
            mtime: self.take().map(i64::from_le_bytes)?,
            ctime: self.take().map(i64::from_le_bytes)?,
        })
    }
}

/// Bytes of an encoded identity.
pub(super) const IDENTITY_BYTES: usize = 40;

const MAGIC: &[u8; 8] = b"btfsjrnl";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 72;

const HAVE: u8 = 1;
const GONE: u8 = 2;
const UNSURE: u8 = 3;
const STAMP: u8 = 4;
const SYNCED: u8 = 5;

fn crc(number: u64, record: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&number.to_le_bytes());
    hasher.update(record);
    hasher.finalize()
}

/// The record at the front of `bytes` and its length; `None` at the end and for whatever is no such record.
fn decode_record(bytes: &[u8], number: u64, sequence: u32, layout: &Layout) -> Option<(Record, usize)> {
    let kind = *bytes.first()?;
    let payload = match kind {
        HAVE | GONE => 4,
        UNSURE => 8,
        STAMP => 4 + IDENTITY_BYTES,
        SYNCED => 0,
        _ => return None,
    };
    let (body, rest) = bytes.split_at_checked(5 + payload)?;
    let mut fields = Fields(&body[1..]);
    if rest.get(..4)? != crc(number, body).to_le_bytes() || fields.u32()? != sequence {
        return None;
    }
    let record = match kind {
        HAVE => Record::Have(layout.piece(fields.u32()?)?),
        GONE => Record::Gone(layout.piece(fields.u32()?)?),
        UNSURE => {
            let (first, count) = (fields.u32()?, fields.u32()?);
            let last = first.checked_add(count)?.checked_sub(1)?;
            Record::Unsure(PieceRange::inclusive(layout.piece(first)?, layout.piece(last)?))
        }
        STAMP => Record::Stamp(layout.file(fields.u32()?)?, fields.identity()?),
        _ => Record::Synced,
    };
    Some((record, body.len() + 4))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::FileSpec;

    fn layout() -> Layout {
        Layout::new(16, &[FileSpec { length: 800, padding: false }, FileSpec { length: 800, padding: false }]).unwrap()
    }

    const HEADER: Header = Header { number: 7, torrent: InfoHash([3; 20]), boot: BootId([9; 16]) };

    fn records() -> impl Strategy<Value = Vec<Record>> {
        let identity = (any::<u64>(), any::<u64>(), any::<u64>(), any::<i64>(), any::<i64>())
            .prop_map(|(dev, ino, size, mtime, ctime)| Identity { dev, ino, size, mtime, ctime });
        let record = prop_oneof![
            (0_u32..100).prop_map(|piece| Record::Have(PieceIndex(piece))),
            (0_u32..100).prop_map(|piece| Record::Gone(PieceIndex(piece))),
            (0_u32..50, 1_u32..50).prop_map(|(start, count)| Record::Unsure(PieceRange { start, end: start + count })),
            (0_u32..2, identity).prop_map(|(file, identity)| Record::Stamp(FileIndex(file), identity)),
            Just(Record::Synced),
        ];
        proptest::collection::vec(record, 0..20)
    }

    fn encode(records: &[Record]) -> Vec<u8> {
        let mut bytes = HEADER.encode();
        for (sequence, record) in records.iter().enumerate() {
            encode_record(&mut bytes, HEADER.number, sequence as u32, record);
        }
        bytes
    }

    proptest! {
        #[test]
        fn what_was_appended_is_read_back(records in records()) {
            let journal = Journal::read(&encode(&records), HEADER, &layout()).unwrap();
            prop_assert!(journal.whole && journal.same_boot);
            prop_assert_eq!(journal.records, records);
        }

        #[test]
        fn a_torn_or_flipped_journal_ends_with_its_last_good_record(
            records in records(),
            at in any::<prop::sample::Index>(),
            flip in prop::option::of(1_u8..),
        ) {
            let mut bytes = encode(&records);
            let at = at.index(bytes.len());
            match flip {
                Some(mask) => bytes[at] ^= mask,
                None => bytes.truncate(at),
            }
            match Journal::read(&bytes, HEADER, &layout()) {
                None => prop_assert!(at < HEADER_BYTES),
                Some(journal) => {
                    prop_assert!(records.starts_with(&journal.records));
                    let good = encode(&journal.records).len();
                    prop_assert!(good <= at && at < good + 5 + 4 + IDENTITY_BYTES + 4);
                }
            }
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Journal::read(&bytes, HEADER, &layout());
            let behind = [HEADER.encode(), bytes].concat();
            prop_assert!(Journal::read(&behind, HEADER, &layout()).is_some());
        }
    }

    #[test]
    fn a_journal_of_another_torrent_number_or_boot_is_told() {
        let bytes = encode(&[Record::Synced]);
        assert!(Journal::read(&bytes, Header { number: 8, ..HEADER }, &layout()).is_none());
        assert!(Journal::read(&bytes, Header { torrent: InfoHash([4; 20]), ..HEADER }, &layout()).is_none());
        assert!(!Journal::read(&bytes, Header { boot: BootId([8; 16]), ..HEADER }, &layout()).unwrap().same_boot);
        let unknown = Header { boot: BootId([0; 16]), ..HEADER };
        assert!(!Journal::read(&unknown.encode(), unknown, &layout()).unwrap().same_boot);
    }

    #[test]
    fn this_system_knows_its_boot() {
        assert!(BootId::current().is(BootId::current()));
    }
}
