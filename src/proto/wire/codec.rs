//! Messages out of and into bytes (BEP 3, 6, 10), incrementally and without copying payloads.
//!
//! Wire form: 4-byte big-endian length, 1-byte id, payload; length 0 is a keep-alive. The length is judged, for its id,
//! before any of the body has to be there, so nobody can make a receiver buffer what it would refuse (I10). Numbers of
//! pieces that the torrent does not have are refused here too; whether a message makes sense is the engine's business.

use std::sync::Arc;

use bytes::{Buf, BufMut, BytesMut};

use super::{BlockRequest, Message};
use crate::base::{BLOCK_BYTES, Layout};

/// No message is longer than this, its length prefix not counted.
pub const MAX_MESSAGE_BYTES: u32 = 1024 * 1024;

/// The longest payload of an extended message, its id bytes not counted.
pub const MAX_EXTENDED_BYTES: u32 = 128 * 1024;

/// Bytes of a `piece` message before its block: length, id, piece, begin.
pub const PIECE_HEADER_BYTES: usize = 13;

/// A message that breaks the protocol: its sender is to be disconnected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Longer than any message of its kind may be.
    #[error("message {id:?} of {length} bytes is too long")]
    TooLong {
        /// The message's id, where it was needed to tell.
        id: Option<u8>,
        /// Its length prefix.
        length: u32,
    },
    /// The id's messages have another length.
    #[error("message {id} cannot have {length} bytes")]
    BadLength {
        /// The message's id.
        id: u8,
        /// Its length prefix.
        length: u32,
    },
    /// The torrent has no such piece.
    #[error("message {id} names piece {piece}, which does not exist")]
    NoSuchPiece {
        /// The message's id.
        id: u8,
        /// The piece.
        piece: u32,
    },
    /// The torrent has no such range of bytes.
    #[error("a block of {length} bytes from {begin} does not lie inside piece {piece}")]
    NoSuchBlock {
        /// The piece.
        piece: u32,
        /// First byte inside the piece.
        begin: u32,
        /// Bytes.
        length: u32,
    },
}

impl WireError {
    /// The same in a few fixed words, for statistics and close reasons.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLong { .. } => "message too long",
            Self::BadLength { .. } => "message of the wrong length",
            Self::NoSuchPiece { .. } => "piece out of range",
            Self::NoSuchBlock { .. } => "block out of range",
        }
    }
}

/// Reads the messages of one connection.
#[derive(Debug, Clone)]
pub struct Decoder {
    layout: Arc<Layout>,
    /// Bytes of an unknown message's payload that are still to be thrown away.
    skip: usize,
}

impl Decoder {
    /// For messages about a torrent of this layout.
    pub fn new(layout: Arc<Layout>) -> Self {
        Self { layout, skip: 0 }
    }

    /// Reads one message from the front of `buffer`; payloads are slices of it.
    ///
    /// `Ok(None)` means "need more bytes": what is there is the beginning of a message, and of unknown messages, which
    /// are dropped as they arrive, nothing is kept. After an error the connection is of no further use.
    ///
    /// # Errors
    /// [`WireError`] as soon as the length prefix and the id tell; for numbers of pieces and blocks, when the message is whole.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Message>, WireError> {
        if self.skip > 0 {
            let skipped = self.skip.min(buffer.len());
            buffer.advance(skipped);
            self.skip -= skipped;
        }
        let Some((prefix, rest)) = buffer.split_first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(*prefix);
        if length == 0 {
            buffer.advance(4);
            return Ok(Some(Message::KeepAlive));
        }
        if length > MAX_MESSAGE_BYTES {
            return Err(WireError::TooLong { id: rest.first().copied(), length });
        }
        let Some(&id) = rest.first() else { return Ok(None) };
        if !self.judge_length(id, length)? {
            buffer.advance(5);
            self.skip = length as usize - 1;
            return Ok(Some(Message::Unknown(id)));
        }
        if rest.len() < length as usize {
            return Ok(None);
        }
        buffer.advance(5);
        let payload = length as usize - 1;
        Ok(Some(match id {
            id::CHOKE => Message::Choke,
            id::UNCHOKE => Message::Unchoke,
            id::INTERESTED => Message::Interested,
            id::NOT_INTERESTED => Message::NotInterested,
            id::HAVE => Message::Have(self.piece(id, buffer)?),
            id::BITFIELD => Message::Bitfield(buffer.split_to(payload).freeze()),
            id::REQUEST => Message::Request(block_request(buffer)),
            id::PIECE => {
                let (piece, begin) = (buffer.get_u32(), buffer.get_u32());
                let length = payload as u32 - 8;
                if self.layout.block_ref(piece, begin, length).is_none() {
                    return Err(WireError::NoSuchBlock { piece, begin, length });
                }
                Message::Piece { piece, begin, data: buffer.split_to(length as usize).freeze() }
            }
            id::CANCEL => Message::Cancel(block_request(buffer)),
            id::PORT => Message::Port(buffer.get_u16()),
            id::SUGGEST => Message::Suggest(self.piece(id, buffer)?),
            id::HAVE_ALL => Message::HaveAll,
            id::HAVE_NONE => Message::HaveNone,
            id::REJECT => Message::Reject(block_request(buffer)),
            id::ALLOWED_FAST => Message::AllowedFast(self.piece(id, buffer)?),
            _ => {
                let extended = buffer.get_u8();
                Message::Extended { id: extended, payload: buffer.split_to(payload - 1).freeze() }
            }
        }))
    }

    /// Bytes that `buffer`, in which [`decode`](Self::decode) found nothing more, lacks to the end of its first message
    /// as far as is known; at least 1.
    pub fn missing(&self, buffer: &[u8]) -> usize {
        // A length counts only once it was judged together with its id.
        let whole = match buffer.first_chunk::<5>() {
            Some([a, b, c, d, _]) => 4 + u32::from_be_bytes([*a, *b, *c, *d]) as usize,
            None => 5,
        };
        whole.saturating_sub(buffer.len()).max(1)
    }

    /// Whether the message is known; an error when it cannot have this length.
    fn judge_length(&self, id: u8, length: u32) -> Result<bool, WireError> {
        let (least, most) = match id {
            id::CHOKE | id::UNCHOKE | id::INTERESTED | id::NOT_INTERESTED | id::HAVE_ALL | id::HAVE_NONE => (1, 1),
            id::HAVE | id::SUGGEST | id::ALLOWED_FAST => (5, 5),
            id::BITFIELD => {
                let exact = 1 + self.layout.piece_count().div_ceil(8) as u32;
                (exact, exact)
            }
            id::REQUEST | id::CANCEL | id::REJECT => (13, 13),
            // We never ask for more than a block, so more was never asked for.
            id::PIECE => (9, 9 + BLOCK_BYTES),
            id::PORT => (3, 3),
            id::EXTENDED => (2, 2 + MAX_EXTENDED_BYTES),
            _ => return Ok(false),
        };
        match length {
            _ if length > most => Err(WireError::TooLong { id: Some(id), length }),
            _ if length < least => Err(WireError::BadLength { id, length }),
            _ => Ok(true),
        }
    }

    fn piece(&self, id: u8, buffer: &mut BytesMut) -> Result<u32, WireError> {
        let piece = buffer.get_u32();
        self.layout.piece(piece).map(|_| piece).ok_or(WireError::NoSuchPiece { id, piece })
    }
}

/// Writes one message to the end of `buffer`. [`Message::Unknown`] has no wire form and writes nothing.
pub fn encode(message: &Message, buffer: &mut BytesMut) {
    match message {
        Message::KeepAlive => buffer.put_u32(0),
        Message::Choke => bare(id::CHOKE, buffer),
        Message::Unchoke => bare(id::UNCHOKE, buffer),
        Message::Interested => bare(id::INTERESTED, buffer),
        Message::NotInterested => bare(id::NOT_INTERESTED, buffer),
        Message::Have(piece) => numbers(id::HAVE, &[*piece], buffer),
        Message::Bitfield(bits) => {
            head(id::BITFIELD, bits.len(), buffer);
            buffer.put_slice(bits);
        }
        Message::Request(request) => block(id::REQUEST, request, buffer),
        Message::Piece { piece, begin, data } => {
            buffer.put_slice(&piece_header(*piece, *begin, data.len() as u32));
            buffer.put_slice(data);
        }
        Message::Cancel(request) => block(id::CANCEL, request, buffer),
        Message::Port(port) => {
            head(id::PORT, 2, buffer);
            buffer.put_u16(*port);
        }
        Message::Suggest(piece) => numbers(id::SUGGEST, &[*piece], buffer),
        Message::HaveAll => bare(id::HAVE_ALL, buffer),
        Message::HaveNone => bare(id::HAVE_NONE, buffer),
        Message::Reject(request) => block(id::REJECT, request, buffer),
        Message::AllowedFast(piece) => numbers(id::ALLOWED_FAST, &[*piece], buffer),
        Message::Extended { id, payload } => {
            head(id::EXTENDED, 1 + payload.len(), buffer);
            buffer.put_u8(*id);
            buffer.put_slice(payload);
        }
        Message::Unknown(_) => {}
    }
}

/// All of a `piece` message but its block, for those who read the block straight into its place.
pub fn piece_header(piece: u32, begin: u32, length: u32) -> [u8; PIECE_HEADER_BYTES] {
    let mut header = [0; PIECE_HEADER_BYTES];
    header[..4].copy_from_slice(&(9 + length).to_be_bytes());
    header[4] = id::PIECE;
    header[5..9].copy_from_slice(&piece.to_be_bytes());
    header[9..].copy_from_slice(&begin.to_be_bytes());
    header
}

fn head(id: u8, payload: usize, buffer: &mut BytesMut) {
    buffer.put_u32(1 + payload as u32);
    buffer.put_u8(id);
}

fn bare(id: u8, buffer: &mut BytesMut) {
    head(id, 0, buffer);
}

fn numbers(id: u8, numbers: &[u32], buffer: &mut BytesMut) {
    head(id, 4 * numbers.len(), buffer);
    numbers.iter().for_each(|&number| buffer.put_u32(number));
}

fn block(id: u8, request: &BlockRequest, buffer: &mut BytesMut) {
    numbers(id, &[request.piece, request.begin, request.length], buffer);
}

fn block_request(buffer: &mut BytesMut) -> BlockRequest {
    BlockRequest { piece: buffer.get_u32(), begin: buffer.get_u32(), length: buffer.get_u32() }
}

/// Message ids.
mod id {
    pub const CHOKE: u8 = 0;
    pub const UNCHOKE: u8 = 1;
    pub const INTERESTED: u8 = 2;
    pub const NOT_INTERESTED: u8 = 3;
    pub const HAVE: u8 = 4;
    pub const BITFIELD: u8 = 5;
    pub const REQUEST: u8 = 6;
    pub const PIECE: u8 = 7;
    pub const CANCEL: u8 = 8;
    pub const PORT: u8 = 9;
    pub const SUGGEST: u8 = 13;
    pub const HAVE_ALL: u8 = 14;
    pub const HAVE_NONE: u8 = 15;
    pub const REJECT: u8 = 16;
    pub const ALLOWED_FAST: u8 = 17;
    pub const EXTENDED: u8 = 20;
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::base::FileSpec;

    const PIECES: u32 = 13;

    fn decoder() -> Decoder {
        let file = FileSpec { length: 200_001, padding: false };
        Decoder::new(Arc::new(Layout::new(16384, &[file]).unwrap()))
    }

    fn decode_all(bytes: &[u8]) -> Result<Vec<Message>, WireError> {
        let (mut decoder, mut buffer) = (decoder(), BytesMut::from(bytes));
        let mut messages = Vec::new();
        while let Some(message) = decoder.decode(&mut buffer)? {
            messages.push(message);
        }
        Ok(messages)
    }

    #[test]
    fn lengths_are_judged_before_the_body_is_there() {
        let cases: [(&[u8], WireError); 9] = [
            (&[0xff, 0xff, 0xff, 0xff], WireError::TooLong { id: None, length: u32::MAX }),
            (&[0x7f, 0xff, 0xff, 0xff, 5], WireError::TooLong { id: Some(5), length: 0x7fff_ffff }),
            (&[1, 0, 0, 0, 7], WireError::TooLong { id: Some(7), length: 1 << 24 }),
            (&[0, 0, 0x40, 0x0a, 7], WireError::TooLong { id: Some(7), length: 0x400a }),
            (&[0, 0, 0, 4, 0], WireError::TooLong { id: Some(0), length: 4 }),
            (&[0, 0, 0, 4, 4], WireError::BadLength { id: 4, length: 4 }),
            (&[0, 0, 0, 2, 5], WireError::BadLength { id: 5, length: 2 }),
            (&[0, 0, 0, 4, 5], WireError::TooLong { id: Some(5), length: 4 }),
            (&[0, 0, 0, 1, 20], WireError::BadLength { id: 20, length: 1 }),
        ];
        for (bytes, error) in cases {
            assert_eq!(decode_all(bytes), Err(error), "{bytes:?}");
        }
    }

    #[test]
    fn pieces_and_blocks_that_do_not_exist_are_refused() {
        for id in [4, 13, 17] {
            assert!(decode_all(&[0, 0, 0, 5, id, 0, 0, 0, 12]).is_ok());
            assert_eq!(
                decode_all(&[0, 0, 0, 5, id, 0, 0, 0, 13]),
                Err(WireError::NoSuchPiece { id, piece: 13 }),
                "{id}"
            );
        }
        for (piece, begin, length) in
            [(13, 0, 1), (u32::MAX, 0, 1), (0, 16384, 1), (0, u32::MAX, 2), (12, 3393, 1), (0, 0, 0)]
        {
            let mut wire = piece_header(piece, begin, length).to_vec();
            wire.resize(wire.len() + length as usize, 0);
            assert_eq!(decode_all(&wire), Err(WireError::NoSuchBlock { piece, begin, length }));
        }
    }

    #[test]
    fn unknown_messages_are_dropped_as_they_arrive() {
        let (mut decoder, mut buffer) = (decoder(), BytesMut::from(&[0, 1, 0, 0, 77, 1, 2][..]));
        assert_eq!(decoder.decode(&mut buffer), Ok(Some(Message::Unknown(77))));
        for _ in 0..65533 {
            assert_eq!(decoder.decode(&mut buffer), Ok(None));
            assert!(buffer.is_empty());
            buffer.extend_from_slice(&[9]);
        }
        buffer.extend_from_slice(&[0, 0, 0, 1, 14]);
        assert_eq!(decoder.decode(&mut buffer), Ok(Some(Message::HaveAll)));
    }

    #[test]
    fn blocks_are_slices_of_the_receive_buffer() {
        let mut buffer = BytesMut::with_capacity(1000);
        encode(&Message::Piece { piece: 1, begin: 16284, data: Bytes::from_static(&[5; 100]) }, &mut buffer);
        let place = buffer[PIECE_HEADER_BYTES..].as_ptr();
        let Ok(Some(Message::Piece { data, .. })) = decoder().decode(&mut buffer) else { panic!() };
        assert_eq!((data.as_ptr(), data.len()), (place, 100));
    }

    fn request() -> impl Strategy<Value = BlockRequest> {
        any::<(u32, u32, u32)>().prop_map(|(piece, begin, length)| BlockRequest { piece, begin, length })
    }

    fn message() -> impl Strategy<Value = Message> {
        let piece = 0..PIECES;
        let bytes = |most| proptest::collection::vec(any::<u8>(), 0..most).prop_map(Bytes::from);
        prop_oneof![
            Just(Message::KeepAlive),
            Just(Message::Choke),
            Just(Message::Unchoke),
            Just(Message::Interested),
            Just(Message::NotInterested),
            Just(Message::HaveAll),
            Just(Message::HaveNone),
            piece.clone().prop_map(Message::Have),
            piece.clone().prop_map(Message::Suggest),
            piece.clone().prop_map(Message::AllowedFast),
            any::<[u8; 2]>().prop_map(|bits| Message::Bitfield(Bytes::copy_from_slice(&bits))),
            request().prop_map(Message::Request),
            request().prop_map(Message::Cancel),
            request().prop_map(Message::Reject),
            any::<u16>().prop_map(Message::Port),
            (piece, 0u32..3000, proptest::collection::vec(any::<u8>(), 1..300).prop_map(Bytes::from))
                .prop_map(|(piece, begin, data)| Message::Piece { piece, begin, data }),
            (any::<u8>(), bytes(300)).prop_map(|(id, payload)| Message::Extended { id, payload }),
        ]
    }

    proptest! {
        #[test]
        fn messages_survive_the_wire_however_it_is_cut(
            messages in proptest::collection::vec(message(), 0..20),
            cuts in proptest::collection::vec(1usize..200, 1..20),
        ) {
            let mut wire = BytesMut::new();
            messages.iter().for_each(|message| encode(message, &mut wire));
            let (mut decoder, mut buffer, mut got) = (decoder(), BytesMut::new(), Vec::new());
            let mut cuts = cuts.into_iter().cycle();
            while !wire.is_empty() {
                let part = wire.split_to(cuts.next().unwrap().min(wire.len()));
                buffer.extend_from_slice(&part);
                while let Some(message) = decoder.decode(&mut buffer).unwrap() {
                    got.push(message);
                }
                prop_assert!(decoder.missing(&buffer) > 0);
            }
            prop_assert_eq!(got, messages);
            prop_assert!(buffer.is_empty());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let _ = decode_all(&bytes);
        }

        #[test]
        fn arbitrary_short_messages_never_panic(
            messages in proptest::collection::vec((0u8..24, proptest::collection::vec(any::<u8>(), 0..20)), 0..20),
        ) {
            let mut wire = Vec::new();
            for (id, payload) in messages {
                wire.extend_from_slice(&(1 + payload.len() as u32).to_be_bytes());
                wire.push(id);
                wire.extend_from_slice(&payload);
            }
            let _ = decode_all(&wire);
        }
    }
}
