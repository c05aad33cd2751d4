//! Many who read the same at the same time, as when a film has just come out.
//!
//! Left to themselves all of them ask the few sources for the very piece that each needs next: the sources send it many
//! times, what is new comes no faster than one reader's share of them, and nobody has anything for anybody. So among
//! company that is not done yet the pieces that only seeds have are shared out by lot, what others have is left to them,
//! and what is not needed for some seconds comes in the order of its rarity (`demand.rs`).
//!
//! The lot shifts the order of need and does not replace it: what everybody's lot put last would be what everybody waits
//! for in the end, while the seeds are busy with what nobody needs yet.

use std::time::{Duration, Instant};

use super::Torrent;
use super::fill::OPEN_LOOKED_AT;
use crate::base::PieceIndex;
use crate::engine::critical::Wanted;
use crate::engine::peer::Peer;
use crate::engine::peers::Server;

impl Torrent {
    /// Whether somebody else is fetching here, too.
    pub(super) fn has_company(&self) -> bool {
        self.peers.values().any(|peer| !peer.is_seed() && !peer.upload_only && peer.peer_interested)
    }

    /// A number that differs from torrent to torrent and from piece to piece, and is always the same for both.
    pub(super) fn lot_of(&self, piece: PieceIndex) -> u64 {
        fastrand::Rng::with_seed(self.lot ^ u64::from(piece.raw())).u64(..)
    }

    /// Whether somebody here reads on where some others fetch, too.
    pub(super) fn is_in_company(&self) -> bool {
        let Some(next) = self.demand.ordered().next().map(PieceIndex::raw) else { return false };
        let read_on =
            next.checked_sub(1).and_then(|raw| self.layout.piece(raw)).is_some_and(|last| self.have.has(last));
        let near = || (next.saturating_sub(NEAR)..next.saturating_add(NEAR)).filter_map(|raw| self.layout.piece(raw));
        let company =
            |peer: &&Peer| !peer.is_seed() && peer.peer_interested && near().any(|piece| peer.pieces.has(piece));
        read_on && self.peers.values().filter(company).take(COMPANY).count() == COMPANY
    }

    /// Whether nobody here has waited for so long that his piece goes before those that the lot gives.
    pub(super) fn is_patient(&self, now: Instant) -> bool {
        let patient = |since: Instant| now.saturating_duration_since(since) < PATIENCE;
        self.reads.iter().all(|(_, read)| patient(read.since))
    }

    /// The piece that the lot gives to us of those that only seeds have: the next one by need, but each of us puts off other
    /// pieces, each behind a few dozen at most.
    pub(super) fn drawn_piece(&self) -> Option<PieceIndex> {
        let rare = |wanted: &Wanted| self.background.availability.leechers(wanted.piece) == 0;
        let turn = |wanted: &Wanted| {
            (u64::from(wanted.ahead) * FINE + self.lot_of(wanted.piece) % (PUT_OFF * FINE), wanted.piece)
        };
        self.demand.open().take(OPEN_LOOKED_AT).filter(rare).min_by_key(turn).map(|wanted| wanted.piece)
    }

    /// Whether those who are not done yet are fast enough for everybody who reads here at a known pace.
    pub(super) fn leechers_suffice(&self, mean: f64) -> bool {
        let mut pace = 0.0;
        for handle in self.handles.values().filter(|handle| !handle.window.is_empty()) {
            let Some(horizon) = handle.horizon.filter(|horizon| !horizon.is_zero()) else { return false };
            let pieces: usize = handle.window.iter().map(|range| range.len()).sum();
            pace += pieces as f64 * f64::from(self.layout.piece_length()) / horizon.as_secs_f64();
        }
        let leechers = self.peers.servers().iter().filter(|server| server.serves && !server.seed && server.proven);
        leechers.map(|server| server.rate(mean)).sum::<f64>() >= pace * ENOUGH
    }

    /// Whether somebody who has not everything can be asked for a piece.
    pub(super) fn is_served_by_leecher(&self, now: Instant, piece: PieceIndex) -> bool {
        let mut leechers = self.peers.servers().iter().filter(|server| server.serves && !server.seed);
        let may_ask = |server: &Server| self.peers.get(&server.key).is_some_and(|peer| peer.may_ask(now, piece));
        self.background.availability.leechers(piece) > 0 && leechers.any(may_ask)
    }
}

/// Pieces before and behind the next one in which others are company.
const NEAR: u32 = 8;
/// A piece is put off behind so many others at most. A multiple of the slots of a seed, or too many draw the same at a time.
const PUT_OFF: u64 = 48;
/// Lots are told apart by this part of a piece.
const FINE: u64 = 1024;
/// So many who follow the same make a crowd.
const COMPANY: usize = 3;
/// A reader waits for so long before his piece goes before those that the lot gives.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Times as fast as what is read.
const ENOUGH: f64 = 1.25;
