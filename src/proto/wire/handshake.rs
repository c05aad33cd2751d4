//! The first 68 bytes of a connection (BEP 3): who speaks, about which torrent, and what it can do.
//!
//! Wire form: byte 19, `BitTorrent protocol`, 8 reserved bytes, 20 bytes of info-hash, 20 bytes of peer id.

use crate::base::{InfoHash, PeerId};

/// Bytes of a handshake.
pub const HANDSHAKE_BYTES: usize = 68;

/// Bytes of a handshake that end with the info-hash: enough to know which torrent is meant, and to answer.
pub const HANDSHAKE_HEAD_BYTES: usize = 48;

/// A handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handshake {
    /// What the sender can do; bits that nobody has defined are zero in ours and ignored in others'.
    pub reserved: [u8; 8],
    /// The torrent.
    pub info_hash: InfoHash,
    /// What the sender calls itself.
    pub peer_id: PeerId,
}

impl Handshake {
    /// Ours: with the extension protocol (BEP 10) and the fast extension (BEP 6).
    pub fn new(info_hash: InfoHash, peer_id: PeerId) -> Self {
        let mut reserved = [0; 8];
        reserved[EXTENDED.0] |= EXTENDED.1;
        reserved[FAST.0] |= FAST.1;
        Self { reserved, info_hash, peer_id }
    }

    /// Reads a whole handshake; `None` when it does not begin with the protocol's name.
    pub fn decode(bytes: &[u8; HANDSHAKE_BYTES]) -> Option<Self> {
        let (head, peer_id) = bytes.split_at(HANDSHAKE_HEAD_BYTES);
        let info_hash = info_hash_of(head)?;
        let reserved = head[PREFIX.len()..PREFIX.len() + 8].try_into().ok()?;
        Some(Self { reserved, info_hash, peer_id: PeerId::from_slice(peer_id)? })
    }

    /// The wire form.
    pub fn encode(&self) -> [u8; HANDSHAKE_BYTES] {
        let mut bytes = [0; HANDSHAKE_BYTES];
        bytes[..20].copy_from_slice(PREFIX);
        bytes[20..28].copy_from_slice(&self.reserved);
        bytes[28..48].copy_from_slice(self.info_hash.as_bytes());
        bytes[48..].copy_from_slice(self.peer_id.as_bytes());
        bytes
    }

    /// The sender speaks the fast extension (BEP 6).
    pub fn fast(&self) -> bool {
        self.reserved[FAST.0] & FAST.1 != 0
    }

    /// The sender speaks the extension protocol (BEP 10).
    pub fn extended(&self) -> bool {
        self.reserved[EXTENDED.0] & EXTENDED.1 != 0
    }
}

/// Whether `bytes`, of any length, can be the beginning of a handshake.
pub fn may_be_handshake(bytes: &[u8]) -> bool {
    bytes.iter().zip(PREFIX).all(|(got, expected)| got == expected)
}

/// The info-hash in the beginning of a handshake; `None` when it is cut before its end or is no handshake.
pub fn info_hash_of(bytes: &[u8]) -> Option<InfoHash> {
    let hash = bytes.get(28..HANDSHAKE_HEAD_BYTES)?;
    may_be_handshake(bytes).then(|| InfoHash::from_slice(hash))?
}

const PREFIX: &[u8; 20] = b"\x13BitTorrent protocol";
/// Byte and bit in the reserved bytes.
const EXTENDED: (usize, u8) = (5, 0x10);
const FAST: (usize, u8) = (7, 0x04);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ours_says_fast_and_extended() {
        let ours = Handshake::new(InfoHash([7; 20]), PeerId([9; 20]));
        assert!(ours.fast() && ours.extended());
        assert_eq!(ours.encode()[20..28], [0, 0, 0, 0, 0, 0x10, 0, 0x04]);
        assert_eq!(Handshake::decode(&ours.encode()), Some(ours));
    }

    #[test]
    fn other_protocols_are_seen_at_the_first_wrong_byte() {
        for wrong in [&b"GET / HTTP/1.1\r\n"[..], b"\x16\x03\x01", b"\x00", b"\xff", b"\x13BitTorrent protocoX"] {
            assert!(!may_be_handshake(wrong), "{wrong:?}");
        }
        assert!(may_be_handshake(b"") && may_be_handshake(b"\x13BitT"));
    }

    proptest! {
        #[test]
        fn any_handshake_round_trips(reserved: [u8; 8], hash: [u8; 20], id: [u8; 20]) {
            let handshake = Handshake { reserved, info_hash: InfoHash(hash), peer_id: PeerId(id) };
            let bytes = handshake.encode();
            prop_assert_eq!(Handshake::decode(&bytes), Some(handshake));
            for cut in 0..=bytes.len() {
                prop_assert!(may_be_handshake(&bytes[..cut]));
                prop_assert_eq!(info_hash_of(&bytes[..cut]).is_some(), cut >= HANDSHAKE_HEAD_BYTES);
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            may_be_handshake(&bytes);
            info_hash_of(&bytes);
        }
    }
}
