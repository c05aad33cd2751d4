//! What a peer says, message by message. Numbers from the wire are checked here, once (I10).

use std::time::Instant;

use super::Torrent;
use super::room::{DONTHAVE, DONTHAVE_ID};
use crate::base::{Bitfield, PieceIndex};
use crate::engine::{CloseReason, PeerEvent, PeerKey, Source};
use crate::proto::wire::Message;
use crate::proto::wire::extension::{ExtensionHandshake, HANDSHAKE_ID};

/// The peer is to be closed.
type Verdict = Result<(), CloseReason>;

impl Torrent {
    pub(super) fn peer_event(&mut self, now: Instant, key: PeerKey, event: PeerEvent) -> Verdict {
        if let PeerEvent::Uploaded { bytes } = event {
            // Also when the peer is gone: its connection's last words.
            self.totals.sent.add(now, bytes);
        }
        let Some(peer) = self.peers.get_mut(&key) else { return Ok(()) };
        match event {
            PeerEvent::Message(message) => {
                peer.last_heard = now;
                self.message(now, key, message)
            }
            PeerEvent::Uploaded { bytes } => {
                peer.sent.add(now, bytes);
                peer.last_useful = now;
                Ok(())
            }
            PeerEvent::Requested => {
                peer.last_heard = now;
                Ok(())
            }
        }
    }

    fn message(&mut self, now: Instant, key: PeerKey, message: Message) -> Verdict {
        let Some(peer) = self.peers.get_mut(&key) else { return Ok(()) };
        let first = !peer.started;
        peer.started |= !matches!(message, Message::Extended { .. } | Message::KeepAlive | Message::Port(_));
        if !peer.fast && is_fast_only(&message) {
            return Err(CloseReason::Protocol("fast extension not agreed"));
        }
        match message {
            Message::Piece { piece, begin, data } => self.block(now, key, piece, begin, data),
            Message::Have(piece) => self.have_message(now, key, piece),
            Message::Bitfield(bytes) if !first => self.later_bitfield(now, key, &bytes),
            Message::Bitfield(_) | Message::HaveAll | Message::HaveNone => {
                if !first {
                    return Err(CloseReason::Protocol("pieces told twice"));
                }
                let pieces = self.layout.piece_count();
                let field = match message {
                    Message::Bitfield(bytes) => Bitfield::from_wire(&bytes, pieces),
                    Message::HaveAll => Some(Bitfield::full(pieces)),
                    _ => Some(Bitfield::new(pieces)),
                };
                self.set_pieces(now, key, field.ok_or(CloseReason::Protocol("bad bitfield"))?);
                Ok(())
            }
            Message::Choke => self.choked(now, key),
            Message::Unchoke => self.unchoked(now, key),
            Message::Interested => self.interested(now, key, true),
            Message::NotInterested => self.interested(now, key, false),
            Message::Reject(request) => {
                let range = self.layout.block_ref(request.piece, request.begin, request.length);
                self.rejected(now, key, range)
            }
            Message::AllowedFast(piece) => {
                let piece = self.checked(piece)?;
                let Some(peer) = self.peers.get_mut(&key) else { return Ok(()) };
                if peer.allowed_fast.len() >= ALLOWED_FAST_MAX || !peer.allowed_fast.insert(piece) {
                    return self.useless(now, key);
                }
                self.dirty.peers.insert(key);
                Ok(())
            }
            Message::Suggest(piece) => self.checked(piece).and_then(|_| self.useless(now, key)),
            Message::Extended { id: HANDSHAKE_ID, payload } => {
                self.extension(now, key, &payload);
                self.useless(now, key)
            }
            Message::Extended { id: DONTHAVE_ID, payload } => self.dont_have(now, key, &payload),
            Message::KeepAlive | Message::Port(_) | Message::Extended { .. } | Message::Unknown(_) => {
                self.useless(now, key)
            }
            // The peer's task answers these itself.
            Message::Request(_) | Message::Cancel(_) => Ok(()),
        }
    }

    /// BEP 3 has it as the first message only, but aria2 sends another one where it saves many `have`s: taken as those.
    fn later_bitfield(&mut self, now: Instant, key: PeerKey, bytes: &[u8]) -> Verdict {
        let field = Bitfield::from_wire(bytes, self.layout.piece_count());
        let field = field.ok_or(CloseReason::Protocol("bad bitfield"))?;
        let Some(peer) = self.peers.get(&key) else { return Ok(()) };
        let news: Vec<_> = field.iter().filter(|&piece| !peer.pieces.has(piece)).collect();
        if news.is_empty() {
            return self.useless(now, key);
        }
        news.into_iter().try_for_each(|piece| self.have_message(now, key, piece.raw()))
    }

    fn have_message(&mut self, now: Instant, key: PeerKey, piece: u32) -> Verdict {
        let piece = self.checked(piece)?;
        let Some(peer) = self.peers.get_mut(&key) else { return Ok(()) };
        // Said twice costs nothing and keeps nothing: some peers repeat themselves after their bitfield.
        if !peer.pieces.set(piece) {
            return Ok(());
        }
        peer.gained.add(now, u64::from(self.layout.piece_bytes(piece)));
        peer.counted = self.background.availability.add_one(piece, &peer.pieces, peer.counted);
        if peer.is_seed() || self.demand.class(piece).is_some() || self.background.is_wanted(piece) {
            self.peer_has_more(now, key);
        }
        Ok(())
    }

    fn choked(&mut self, now: Instant, key: PeerKey) -> Verdict {
        let Some(peer) = self.peers.get_mut(&key) else { return Ok(()) };
        if peer.peer_choking {
            return self.useless(now, key);
        }
        peer.peer_choking = true;
        peer.unchoked_at = None;
        peer.pace.restart();
        // Whatever the fast extension says about rejects to come: the blocks are free at once.
        self.free_requests(now, key, |peer, block| !peer.allowed_fast.contains(&block.piece));
        self.release_sole(now, key);
        self.dirty.everybody = true;
        Ok(())
    }

    fn unchoked(&mut self, now: Instant, key: PeerKey) -> Verdict {
        let Some(peer) = self.peers.get_mut(&key) else { return Ok(()) };
        if !peer.peer_choking {
            return self.useless(now, key);
        }
        peer.peer_choking = false;
        peer.snubbed = false;
        peer.unchoked_at = Some(now);
        peer.last_useful = now;
        self.dirty.peers.insert(key);
        Ok(())
    }

    fn interested(&mut self, now: Instant, key: PeerKey, interested: bool) -> Verdict {
        let Some(peer) = self.peers.get_mut(&key) else { return Ok(()) };
        if peer.peer_interested == interested {
            return self.useless(now, key);
        }
        peer.peer_interested = interested;
        if interested {
            self.offer_slot(now, key);
        } else {
            self.choker.on_not_interested(key);
        }
        self.useless(now, key)
    }

    /// The handshake of the extension protocol; a later one changes what it names. Garbage is ignored.
    fn extension(&mut self, now: Instant, key: PeerKey, payload: &[u8]) {
        let Some(handshake) = ExtensionHandshake::decode(payload) else { return };
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if let Some(id) = handshake.id_of(DONTHAVE) {
            // 0 takes it back.
            peer.donthave = (id != 0).then_some(id);
        }
        if handshake.client.is_some() {
            peer.client = handshake.client;
        }
        if let Some(limit) = handshake.request_queue {
            peer.queue_limit = (limit as usize).max(1);
        }
        if let Some(upload_only) = handshake.upload_only {
            peer.upload_only = upload_only;
        }
        let listens = handshake.port.filter(|&port| port != 0 && !peer.outgoing);
        if let Some(port) = listens {
            let mut addr = peer.addr;
            addr.set_port(port);
            self.candidates.add(now, Source::Incoming, [addr]);
        }
        if self.is_redundant(key) {
            self.close(now, key, CloseReason::Redundant);
        }
    }

    /// Counts a message that brought nothing.
    pub(super) fn useless(&mut self, now: Instant, key: PeerKey) -> Verdict {
        if self.peers.get_mut(&key).is_some_and(|peer| peer.is_flooding(now)) {
            return Err(CloseReason::Protocol("flood"));
        }
        Ok(())
    }

    fn checked(&self, piece: u32) -> Result<PieceIndex, CloseReason> {
        self.layout.piece(piece).ok_or(CloseReason::Protocol("piece out of range"))
    }
}

fn is_fast_only(message: &Message) -> bool {
    matches!(
        message,
        Message::HaveAll | Message::HaveNone | Message::Reject(_) | Message::AllowedFast(_) | Message::Suggest(_)
    )
}

/// I7: pieces that one peer may allow.
const ALLOWED_FAST_MAX: usize = 256;
