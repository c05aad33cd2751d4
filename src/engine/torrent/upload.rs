//! The upload side: slots, and the pieces that a newcomer may take without one. Serving itself is the peer task's.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use sha1::{Digest, Sha1};

use super::Torrent;
use crate::base::{InfoHash, Layout, PieceIndex};
use crate::engine::PeerKey;
use crate::engine::choker::{ChokeMode, ChokePeer};
use crate::engine::peer::Peer;
use crate::proto::wire::Message;

impl Torrent {
    /// Ranks everybody anew.
    pub(super) fn rank_uploads(&mut self, now: Instant) {
        let mode = if self.is_complete() || self.config.read_only { ChokeMode::Seed } else { ChokeMode::Leech };
        let peers: Vec<_> = self.peers.values_mut().map(|peer| seen_by_choker(now, peer)).collect();
        let changes = self.choker.rank(now, mode, &peers);
        changes.into_iter().for_each(|(key, unchoke)| self.set_choking(key, !unchoke));
    }

    /// What cannot wait for the next ranking: slots for those who give and have none, and for those who lag behind.
    pub(super) fn regard_givers_and_laggards(&mut self, now: Instant) {
        // Before that nobody has wanted anything.
        if self.is_complete() || self.config.read_only || self.choker.poll_timeout().is_none() {
            return;
        }
        let peers: Vec<_> = self.peers.values().map(|peer| glimpsed_by_choker(now, peer)).collect();
        let mut changes = self.choker.reward(now, &peers);
        changes.extend(self.choker.help(now, &peers));
        changes.into_iter().for_each(|(key, unchoke)| self.set_choking(key, !unchoke));
    }

    /// A peer wants something: a free slot is its at once.
    pub(super) fn offer_slot(&mut self, now: Instant, key: PeerKey) {
        if !self.config.upload {
            return;
        }
        let Some(peer) = self.peers.get_mut(&key) else { return };
        let seen = seen_by_choker(now, peer);
        let changes = self.choker.on_interested(now, &seen);
        changes.into_iter().for_each(|(key, unchoke)| self.set_choking(key, !unchoke));
    }

    /// There are so many slots from now on.
    pub(super) fn set_slots(&mut self, now: Instant, slots: Option<usize>) {
        self.choker.set_slots(slots);
        // Before that nobody has wanted anything.
        if self.choker.poll_timeout().is_some() {
            self.rank_uploads(now);
        }
    }

    fn set_choking(&mut self, key: PeerKey, choke: bool) {
        let Some(peer) = self.peers.get_mut(&key).filter(|peer| peer.am_choking != choke) else { return };
        peer.am_choking = choke;
        self.send(key, if choke { Message::Choke } else { Message::Unchoke });
    }

    /// A newcomer with next to nothing gets a few pieces without waiting for a slot (BEP 6). A few newcomers at a time:
    /// else a crowd of them would take everything, and those with slots would get nothing for them.
    pub(super) fn offer_allowed_fast(&mut self, key: PeerKey) {
        let Some(peer) = self.peers.get(&key).filter(|peer| peer.fast && is_newcomer(peer)) else { return };
        if !self.config.upload || peer.upload_only {
            return;
        }
        let served = self.peers.values().filter(|peer| peer.am_choking && peer.fast_offered && is_newcomer(peer));
        if served.count() >= NEWCOMERS {
            return;
        }
        let set = allowed_fast_set(&self.layout, &self.config.info_hash, peer.addr);
        for piece in set {
            if self.have.has(piece) {
                self.send(key, Message::AllowedFast(piece.raw()));
            }
        }
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.fast_offered = true;
        }
    }
}

fn is_newcomer(peer: &Peer) -> bool {
    peer.pieces.count() < ALLOWED
}

fn seen_by_choker(now: Instant, peer: &mut Peer) -> ChokePeer {
    let (download_rate, upload_rate) = (peer.received.bytes_per_second(now), peer.sent.bytes_per_second(now));
    ChokePeer { download_rate, upload_rate, ..glimpsed_by_choker(now, peer) }
}

/// Between rankings, with meters left as they are.
fn glimpsed_by_choker(now: Instant, peer: &Peer) -> ChokePeer {
    ChokePeer {
        key: peer.key,
        interested: peer.peer_interested,
        snubbed: peer.snubbed,
        download_rate: peer.received.peek(now),
        upload_rate: peer.sent.peek(now),
        uploaded_bytes: peer.sent.total_bytes(),
        connected_at: peer.connected_at,
        gain_rate: peer.gained.peek(now),
    }
}

/// The canonical set of BEP 6: drawn from the network part of the peer's address and the info-hash, so that nobody
/// gains by asking from many addresses. Defined for IPv4 alone.
fn allowed_fast_set(layout: &Layout, info_hash: &InfoHash, addr: SocketAddr) -> Vec<PieceIndex> {
    let IpAddr::V4(ip) = addr.ip().to_canonical() else { return Vec::new() };
    let [a, b, c, _] = ip.octets();
    let pieces = layout.piece_count() as u64;
    let wanted = ALLOWED.min(layout.piece_count());
    let mut set = Vec::new();
    let mut x = Vec::from([a, b, c, 0]);
    x.extend_from_slice(info_hash.as_bytes());
    // A handful of rounds suffices; torrents of very few pieces may not fill the set in them.
    for _ in 0..ROUNDS {
        x = Sha1::digest(&x).to_vec();
        for word in x.chunks_exact(4) {
            let number = u32::from_be_bytes(word.try_into().expect("chunks of 4"));
            let piece = layout.piece((u64::from(number) % pieces) as u32);
            if let Some(piece) = piece.filter(|piece| set.len() < wanted && !set.contains(piece)) {
                set.push(piece);
            }
        }
        if set.len() == wanted {
            break;
        }
    }
    set
}

/// Size of the set, and how many pieces a peer has that needs none.
const ALLOWED: usize = 10;
const ROUNDS: usize = 64;
/// Peers that take such pieces without a slot, at a time.
const NEWCOMERS: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::FileSpec;

    #[test]
    fn the_allowed_fast_set_is_that_of_the_specification() {
        // The example of BEP 6: 1313 pieces, 80.4.4.200, info-hash of 20 bytes 0xaa.
        let layout = Layout::new(16384, &[FileSpec { length: 1313 * 16384, padding: false }]).unwrap();
        let addr = SocketAddr::from(([80, 4, 4, 200], 6881));
        let set = allowed_fast_set(&layout, &InfoHash([0xaa; 20]), addr);
        let expected = [1059, 431, 808, 1217, 287, 376, 1188, 353, 508, 1246];
        assert_eq!(set.into_iter().map(PieceIndex::raw).collect::<Vec<_>>(), expected);
    }
}
