//! Whom we tell that we are interested, and keeping those warm who would serve the next read.
//!
//! A seed drops a peer that is interested and asks for nothing for a minute; a peer that is not interested has no slot
//! when a reader comes back. So while a file is open, and a while after, a few good peers stay interested in and send a
//! block now and then.

use std::time::{Duration, Instant};

use super::Torrent;
use super::disk::Memory;
use crate::base::{Bitfield, PieceIndex};
use crate::engine::PeerKey;
use crate::engine::peer::Peer;
use crate::proto::wire::Message;

/// What is wanted of others, as far as they have been looked through for it.
#[derive(Debug)]
pub(super) struct Wanted(Bitfield);

impl Wanted {
    pub(super) fn new(pieces: usize) -> Self {
        Self(Bitfield::new(pieces))
    }

    /// Takes what is wanted now; what of it was not wanted before.
    fn replace(&mut self, wanted: Bitfield) -> Vec<PieceIndex> {
        let old = std::mem::replace(&mut self.0, wanted);
        if !self.0.has_any_not_in(&old) {
            return Vec::new();
        }
        self.0.iter().filter(|&piece| !old.has(piece)).collect()
    }

    /// The piece is here.
    pub(super) fn arrived(&mut self, piece: PieceIndex) {
        self.0.clear(piece);
    }
}

impl Torrent {
    /// Demand has changed: interest in everybody who can serve what is new in it. A piece is looked up once at each
    /// peer, not with every read: there may be thousands of pieces, and many peers that have none of them.
    pub(super) fn raise_interest(&mut self, now: Instant) {
        let mut wanted = self.background.wanted().clone();
        self.demand.pieces().for_each(|(piece, _)| _ = wanted.set(piece));
        let fresh = self.wanted.replace(wanted);
        if fresh.is_empty() {
            return;
        }
        let serves = |peer: &&mut Peer| fresh.iter().any(|&piece| peer.pieces.has(piece));
        let mut keys = Vec::new();
        for peer in self.peers.values_mut().filter(serves) {
            peer.last_wanted = Some(now);
            keys.push(peer.key);
        }
        keys.into_iter().for_each(|key| self.set_interested(key, true));
    }

    /// Interest in a peer that can serve what is wanted now.
    pub(super) fn consider_interest(&mut self, now: Instant, key: PeerKey) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        if self.wanted.0.has_any_in(&peer.pieces) {
            peer.last_wanted = Some(now);
            self.set_interested(key, true);
        }
    }

    /// Looks after everybody's interest: what is wanted now, the warm ones, and an end for the rest.
    pub(super) fn settle_interest(&mut self, now: Instant) {
        self.raise_interest(now);
        let warm = self.warm_peers();
        let keys: Vec<_> = self.peers.keys().copied().collect();
        for key in keys {
            self.consider_interest(now, key);
            let recently = self.peers[&key].last_wanted.is_some_and(|at| now.saturating_duration_since(at) < LINGER);
            if warm.contains(&key) {
                self.set_interested(key, true);
            } else if !recently {
                self.set_interested(key, false);
            }
        }
    }

    /// The peers that are to be kept warm: they have unchoked us, we are interested already, they are fast.
    fn warm_peers(&self) -> Vec<PeerKey> {
        let wanted = self.possible_demand();
        if wanted.count() == 0 {
            return Vec::new();
        }
        let mut able: Vec<_> = self.peers.values().filter(|peer| wanted.has_any_in(&peer.pieces)).collect();
        able.sort_by_key(|peer| {
            let rate = peer.pace.rate(self.clock.now()).unwrap_or(0.0) as u64;
            (peer.snubbed, peer.peer_choking, !peer.am_interested, std::cmp::Reverse(rate), peer.key)
        });
        able.iter().take(WARM_PEERS).map(|peer| peer.key).collect()
    }

    /// What may be read next: whatever open or recently open files lack.
    fn possible_demand(&self) -> Bitfield {
        let mut wanted = Bitfield::new(self.layout.piece_count());
        if !self.config.read_only && !self.is_complete() {
            for &file in self.recent.keys() {
                for piece in self.layout.pieces_of(file, 0, u64::MAX).iter().filter(|&piece| self.is_absent(piece)) {
                    wanted.set(piece);
                }
            }
        }
        wanted
    }

    /// Asks each warm peer that was not asked for long for one block of what the handles need next.
    pub(super) fn keep_warm(&mut self, now: Instant) {
        if self.recent.is_empty() || self.allowed(now) == Memory::Exhausted {
            return;
        }
        let paused = self.last_demand.is_some_and(|at| now.saturating_duration_since(at) < PAUSE);
        let every = if paused { WARM_EVERY_IN_PAUSE } else { WARM_EVERY };
        for key in self.warm_peers() {
            let Some(peer) = self.peers.get(&key) else { continue };
            let since = peer.last_request.max(peer.unchoked_at).unwrap_or(peer.connected_at);
            let due = now.saturating_duration_since(since) >= every;
            if !due || peer.peer_choking || peer.outstanding() > 0 || !peer.can_serve(now) {
                continue;
            }
            let Some(piece) = self.warm_piece(now, key) else { continue };
            if self.assembly.get(piece).is_none() {
                self.assembly.start(&self.layout, piece, None);
                self.background.started(piece);
            }
            if let Some(block) = self.assembly.next_free(piece) {
                let eta = self.peers[&key].pace.eta(now, 0, FRESH_RATE);
                self.ask(now, key, block, eta, true);
            }
        }
    }

    /// A piece for a block that keeps a peer warm: of the windows, after the last read, or any of the files.
    fn warm_piece(&self, now: Instant, key: PeerKey) -> Option<PieceIndex> {
        let peer = self.peers.get(&key)?;
        let suits = |piece: &PieceIndex| {
            let free = self.assembly.get(*piece).is_none_or(|partial| partial.free() > 0 && partial.sole().is_none());
            self.is_absent(*piece) && free && peer.may_ask(now, *piece) && !self.blame.is_doubtful(*piece)
        };
        if let Some(piece) = self.demand.ordered().find(suits) {
            return Some(piece);
        }
        let files = || self.recent.keys().map(|&file| self.layout.pieces_of(file, 0, u64::MAX));
        let behind = |piece: &PieceIndex| self.last_read.is_none_or(|last| *piece > last);
        let next = files().flat_map(|range| range.iter()).filter(behind).find(suits);
        next.or_else(|| files().flat_map(|range| range.iter()).find(suits))
    }

    fn set_interested(&mut self, key: PeerKey, interested: bool) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        // Should anybody throw away what comes right behind a handshake: said once more, it costs nothing.
        let unheard = std::mem::take(&mut peer.interest_in_opening) && interested;
        if peer.am_interested == interested && !unheard {
            return;
        }
        peer.am_interested = interested;
        self.send(key, if interested { Message::Interested } else { Message::NotInterested });
    }
}

const WARM_PEERS: usize = 8;
/// Seeds drop after 60 s without a request; chores come every second, messages take their time.
const WARM_EVERY: Duration = Duration::from_secs(40);
/// A busy seed of libtorrent's kind gives the slot of whoever took nothing in a round of 15 s to the next in line, and
/// it may take minutes to get another: for a pause of this length the slot is kept (16 KiB from each, read-ahead all).
const WARM_EVERY_IN_PAUSE: Duration = Duration::from_secs(12);
const PAUSE: Duration = Duration::from_secs(600);
/// Interest outlives its reason a little: readers come in bursts.
pub(super) const LINGER: Duration = Duration::from_secs(10);
const FRESH_RATE: f64 = 64.0 * 1024.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_window_that_moves_on_only_its_new_end_is_looked_up() {
        let window = |from: u32, to: u32| {
            let mut pieces = Bitfield::new(8192);
            (from..to).for_each(|piece| _ = pieces.set(PieceIndex(piece)));
            pieces
        };
        let mut wanted = Wanted::new(8192);
        assert_eq!(wanted.replace(window(0, 4096)).len(), 4096);
        assert_eq!(wanted.replace(window(0, 4096)), []);
        assert_eq!(wanted.replace(window(1, 4098)), [PieceIndex(4096), PieceIndex(4097)]);
        // What was not wanted for a while is new again, and so is what was here and is lost.
        wanted.arrived(PieceIndex(7));
        assert_eq!(wanted.replace(window(0, 4098)), [PieceIndex(0), PieceIndex(7)]);
    }
}
