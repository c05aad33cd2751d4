//! What is not fetched although it is wanted: a cache that is bounded, and the pieces that went from it, of which peers are
//! told (BEP 54); a rate that is bounded.

use std::time::Instant;

use bytes::Bytes;

use super::Torrent;
use super::disk::Memory;
use crate::base::{BLOCK_BYTES, PieceIndex, PieceRange};
use crate::engine::assembly::Phase;
use crate::engine::limit::Claim;
use crate::engine::{CloseReason, DiskJob, Effect, PeerKey, Room};
use crate::proto::wire::Message;
use crate::proto::wire::extension::HANDSHAKE_ID;

impl Torrent {
    /// Pieces were evicted: they are as if they had never been here.
    pub(super) fn evicted(&mut self, pieces: &[PieceIndex]) {
        let was_complete = self.is_complete();
        let told: Vec<_> = self.peers.values().filter_map(|peer| Some((peer.key, peer.donthave?))).collect();
        for &piece in pieces {
            if piece.at() >= self.layout.piece_count() || !self.have.clear(piece) {
                continue;
            }
            self.totals.have_bytes -= u64::from(self.layout.piece_bytes(piece));
            self.disk.held.remove(&piece);
            if self.claimed.clear(piece) {
                // Whoever does not know this message asks in vain, and is told so then.
                for &(key, id) in &told {
                    let payload = Bytes::copy_from_slice(&piece.raw().to_be_bytes());
                    self.send(key, Message::Extended { id, payload });
                }
            }
            self.want_in_background(PieceRange::one(piece));
        }
        if was_complete && !self.is_complete() {
            // A seed no more (BEP 21).
            let extended: Vec<_> =
                self.peers.values().filter(|peer| peer.extended).map(|peer| (peer.key, peer.addr)).collect();
            for (key, addr) in extended {
                let payload = self.extension_handshake(addr).encode();
                self.send(key, Message::Extended { id: HANDSHAKE_ID, payload });
            }
        }
        self.dirty.demand = true;
    }

    /// The cache has more or less room than before.
    pub(super) fn set_room(&mut self, now: Instant, room: Room) {
        self.room = room;
        self.dirty.everybody = true;
        // It is bounded, or not any more.
        self.dirty.demand = true;
        self.drop_leftovers(now);
    }

    /// Where room is short, gives up pieces that were begun and that nobody wants any more. A few blocks that keep peers
    /// warm are no matter.
    pub(super) fn drop_leftovers(&mut self, now: Instant) {
        if self.room == Room::Plenty {
            return;
        }
        // Whole runs are no leftovers.
        self.write_gathered();
        let left = self.assembly.iter().filter(|&(piece, partial)| {
            partial.phase() == Phase::Fetching
                && partial.arrived() > WARM_BLOCKS
                && !partial.has_jobs()
                && !partial.is_awaited()
                && self.demand.class(piece).is_none()
                && !self.background.is_wanted(piece)
                && !self.blame.is_doubtful(piece)
        });
        let left: Vec<_> = left.map(|(piece, partial)| (piece, partial.attempt(), partial.arrived() as u64)).collect();
        for (piece, attempt, blocks) in left {
            self.cancel_piece(now, piece, true);
            if let Some((_, true)) = self.assembly.lose(piece, attempt) {
                self.totals.wasted_bytes += blocks * u64::from(BLOCK_BYTES);
                self.may_begin_anew(piece);
                self.effects.push_back(Effect::Disk(DiskJob::Discard { piece, attempt }));
            }
        }
    }

    /// What the bounds on the rate allow to ask for. What is asked for counts as received, until it is known that it will
    /// not be.
    pub(super) fn allowed(&self, now: Instant) -> Memory {
        let download = &self.config.limits.download;
        if !download.is_bounded() {
            return Memory::Plenty;
        }
        let now = self.clock.outer(now);
        match () {
            () if download.allows(now, Claim::Background) => Memory::Plenty,
            () if download.allows(now, Claim::Soon) => Memory::NoBackground,
            () if download.allows(now, Claim::Urgent) => Memory::BlockedOnly,
            () => Memory::Exhausted,
        }
    }

    /// Sees to it that whatever may not be asked for now is looked at when it may.
    pub(super) fn await_allowance(&mut self, now: Instant) {
        let claim = match self.allowed(now) {
            Memory::Plenty => {
                self.next_allowance = None;
                return;
            }
            Memory::NoBackground => Claim::Background,
            Memory::BlockedOnly => Claim::Soon,
            Memory::Exhausted => Claim::Urgent,
        };
        self.next_allowance = Some(now + self.config.limits.download.wait(self.clock.outer(now), claim));
    }

    /// Bytes are asked for, or come unasked.
    pub(super) fn spend(&self, now: Instant, bytes: u32) {
        self.config.limits.download.spend(self.clock.outer(now), bytes.into());
    }

    /// Bytes that were asked for will not come.
    pub(super) fn refund(&self, now: Instant, bytes: u32) {
        self.config.limits.download.refund(self.clock.outer(now), bytes.into());
    }

    /// A peer has a piece no more (BEP 54). What makes no sense is ignored.
    pub(super) fn dont_have(&mut self, now: Instant, key: PeerKey, payload: &[u8]) -> Result<(), CloseReason> {
        let piece = <[u8; 4]>::try_from(payload).ok().and_then(|raw| self.layout.piece(u32::from_be_bytes(raw)));
        let Some(piece) = piece else { return self.useless(now, key) };
        let Some(peer) = self.peers.get_mut(&key) else { return Ok(()) };
        let was_seed = peer.is_seed();
        if !peer.pieces.clear(piece) {
            return self.useless(now, key);
        }
        peer.allowed_fast.remove(&piece);
        self.background.availability.remove_one(piece, was_seed);
        self.free_requests(now, key, |_, block| block.piece == piece);
        self.dirty.everybody = true;
        // `have` may follow, and so on: not more than a thousand times a second.
        self.useless(now, key)
    }
}

/// Under this id we take `lt_donthave`.
pub(super) const DONTHAVE_ID: u8 = 1;
/// Its name (BEP 54).
pub(super) const DONTHAVE: &[u8] = b"lt_donthave";
/// Pieces with no more blocks than this are not worth giving up.
const WARM_BLOCKS: usize = 4;
