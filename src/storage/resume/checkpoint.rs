//! The checkpoint file `state`: which pieces we hold, and the files as we left them.
//!
//! Header (40 bytes): magic, version (u32), length of the body (u64), SHA-1 of the body. Body: a bencoded dictionary,
//! `files` (44 bytes each: index and identity), `have` and `unchecked` (bitfields), `info-hash`, `journal` (number of the
//! first journal to replay), `layout` (SHA-1 over the lengths). It is a hint: any doubt costs a check, nothing else.

use std::collections::HashMap;

use sha1::{Digest, Sha1};

use super::super::backing::Identity;
use super::journal::{self, Fields, IDENTITY_BYTES};
use crate::base::{Bitfield, FileIndex, InfoHash, Layout};
use crate::proto::bencode::{self, Writer};

/// What a checkpoint says.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Checkpoint {
    /// The first journal to replay.
    pub(crate) journal: u64,
    pub(crate) have: Bitfield,
    /// On disk, perhaps.
    pub(crate) unchecked: Bitfield,
    pub(crate) stamps: HashMap<FileIndex, Identity>,
}

/// Why a checkpoint is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Damage {
    #[error("it is damaged")]
    Damaged,
    #[error("it was written by another version (format {0})")]
    Version(u32),
    #[error("it belongs to another torrent")]
    OtherTorrent,
}

impl Checkpoint {
    pub(crate) fn encode(&self, torrent: InfoHash, layout: &Layout) -> Vec<u8> {
        let mut files = Vec::with_capacity(self.stamps.len() * (4 + IDENTITY_BYTES));
        for file in layout.files() {
            if let Some(identity) = self.stamps.get(&file) {
                files.extend_from_slice(&file.raw().to_le_bytes());
                journal::encode_identity(&mut files, identity);
            }
        }
        let body = Writer::dict_to_vec(|dict| {
            dict.key("files").bytes(&files);
            dict.key("have").bytes(self.have.as_wire());
            dict.key("info-hash").bytes(torrent.as_bytes());
            dict.key("journal").int(self.journal);
            dict.key("layout").bytes(layout_digest(layout));
            dict.key("unchecked").bytes(self.unchecked.as_wire());
        });
        let mut out = Vec::with_capacity(HEADER_BYTES + body.len());
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&(body.len() as u64).to_le_bytes());
        out.extend_from_slice(&Sha1::digest(&body));
        out.extend_from_slice(&body);
        out
    }

    pub(crate) fn decode(bytes: &[u8], torrent: InfoHash, layout: &Layout) -> Result<Self, Damage> {
        let body = checked_body(bytes)?;
        let scanned = bencode::scan(body).map_err(|_| Damage::Damaged)?;
        let dict = scanned.root.as_dict().ok_or(Damage::Damaged)?;
        let bytes = |key| dict.get(key).and_then(bencode::Value::as_bytes).ok_or(Damage::Damaged);
        if bytes("info-hash")? != torrent.as_bytes() || bytes("layout")? != layout_digest(layout) {
            return Err(Damage::OtherTorrent);
        }
        let field = |key| Bitfield::from_wire(bytes(key)?, layout.piece_count()).ok_or(Damage::Damaged);
        let mut stamps = HashMap::new();
        for entry in bytes("files")?.chunks(4 + IDENTITY_BYTES) {
            let mut fields = Fields(entry);
            let file = fields.u32().and_then(|raw| layout.file(raw)).ok_or(Damage::Damaged)?;
            stamps.insert(file, fields.identity().ok_or(Damage::Damaged)?);
        }
        let journal = dict.get("journal").and_then(bencode::Value::as_u64).ok_or(Damage::Damaged)?;
        let (mut have, unchecked) = (field("have")?, field("unchecked")?);
        // One that is said to be both is to be checked.
        unchecked.iter().for_each(|piece| _ = have.clear(piece));
        Ok(Self { journal, have, unchecked, stamps })
    }
}

const MAGIC: &[u8; 8] = b"btfsstat";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 40;

/// The body, if header and checksum are right.
fn checked_body(bytes: &[u8]) -> Result<&[u8], Damage> {
    let mut fields = Fields(bytes);
    let magic: [u8; 8] = fields.take().ok_or(Damage::Damaged)?;
    let version = fields.u32().ok_or(Damage::Damaged)?;
    if magic != *MAGIC {
        return Err(Damage::Damaged);
    }
    if version != VERSION {
        return Err(Damage::Version(version));
    }
    let length = fields.u64().ok_or(Damage::Damaged)?;
    let digest: [u8; 20] = fields.take().ok_or(Damage::Damaged)?;
    let body = fields.0;
    let right = body.len() as u64 == length && digest == *Sha1::digest(body);
    if right { Ok(body) } else { Err(Damage::Damaged) }
}

/// What a checkpoint's bits and indices mean depends on these numbers alone.
fn layout_digest(layout: &Layout) -> [u8; 20] {
    let mut hasher = Sha1::new();
    hasher.update(layout.piece_length().to_le_bytes());
    for file in layout.files() {
        hasher.update(layout.file_bytes(file).to_le_bytes());
        hasher.update([u8::from(layout.is_padding(file))]);
    }
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::{FileSpec, PieceIndex};

    const TORRENT: InfoHash = InfoHash([5; 20]);

    fn layout(piece_length: u32) -> Layout {
        let file = |length, padding| FileSpec { length, padding };
        Layout::new(piece_length, &[file(100, false), file(28, true), file(300, false)]).unwrap()
    }

    fn checkpoint() -> Checkpoint {
        let mut have = Bitfield::new(layout(16).piece_count());
        let mut unchecked = have.clone();
        have.set(PieceIndex(3));
        unchecked.set(PieceIndex(4));
        let identity = Identity { dev: 0, ino: u64::MAX, size: 300, mtime: -1, ctime: i64::MAX };
        Checkpoint { journal: 12, have, unchecked, stamps: HashMap::from([(FileIndex(2), identity)]) }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let bytes = checkpoint().encode(TORRENT, &layout(16));
        assert_eq!(Checkpoint::decode(&bytes, TORRENT, &layout(16)), Ok(checkpoint()));
    }

    #[test]
    fn another_torrent_layout_or_version_is_told() {
        let mut bytes = checkpoint().encode(TORRENT, &layout(16));
        assert_eq!(Checkpoint::decode(&bytes, InfoHash([6; 20]), &layout(16)), Err(Damage::OtherTorrent));
        assert_eq!(Checkpoint::decode(&bytes, TORRENT, &layout(32)), Err(Damage::OtherTorrent));
        bytes[8] = 2;
        assert_eq!(Checkpoint::decode(&bytes, TORRENT, &layout(16)), Err(Damage::Version(2)));
        assert_eq!(Checkpoint::decode(b"", TORRENT, &layout(16)), Err(Damage::Damaged));
    }

    proptest! {
        #[test]
        fn no_flip_and_no_cut_is_overlooked(at in any::<prop::sample::Index>(), flip in prop::option::of(1_u8..)) {
            let mut bytes = checkpoint().encode(TORRENT, &layout(16));
            let at = at.index(bytes.len());
            match flip {
                Some(mask) => bytes[at] ^= mask,
                None => bytes.truncate(at),
            }
            prop_assert!(Checkpoint::decode(&bytes, TORRENT, &layout(16)).is_err());
        }
    }
}
