//! What the torrent tells about itself, and what must always hold.

use std::time::Instant;

use super::Torrent;
use crate::engine::client::client_name;
use crate::engine::{PeerSnapshot, ReadSnapshot, Room, TorrentSnapshot};

impl Torrent {
    pub(super) fn describe(&mut self, now: Instant) -> TorrentSnapshot {
        let peers = self.peers.values_mut().map(|peer| PeerSnapshot {
            addr: peer.addr,
            peer_id: peer.peer_id,
            client: client_name(peer.client.as_deref(), &peer.peer_id),
            outgoing: peer.outgoing,
            source: peer.source,
            pieces: peer.pieces.count(),
            am_choking: peer.am_choking,
            am_interested: peer.am_interested,
            peer_choking: peer.peer_choking,
            peer_interested: peer.peer_interested,
            snubbed: peer.snubbed,
            requests_out: peer.outstanding(),
            download_rate: peer.received.bytes_per_second(now),
            upload_rate: peer.sent.bytes_per_second(now),
            downloaded_bytes: peer.received.total_bytes(),
            uploaded_bytes: peer.sent.total_bytes(),
            rtt: peer.pace.rtt(),
            connected_for: now.saturating_duration_since(peer.connected_at),
        });
        let peers = peers.collect();
        let reads = self.reads.iter().map(|(ticket, read)| {
            let first = read.missing.first();
            let sources = self.peers.values().filter(|peer| first.is_some_and(|&piece| peer.pieces.has(piece)));
            ReadSnapshot {
                ticket,
                missing: read.span(),
                waiting_for: now.saturating_duration_since(read.since),
                sources: sources.clone().count(),
                unchoked_sources: sources.filter(|peer| !peer.peer_choking).count(),
            }
        });
        TorrentSnapshot {
            have: self.have.clone(),
            have_bytes: self.totals.have_bytes,
            unchecked_pieces: self.unchecked.count(),
            left_bytes: self.left_bytes(),
            downloaded_bytes: self.totals.received.total_bytes(),
            uploaded_bytes: self.totals.sent.total_bytes(),
            wasted_bytes: self.totals.wasted_bytes,
            corrupt_pieces: self.totals.corrupt_pieces,
            repaired_pieces: self.totals.repaired_pieces,
            disk_error: self.disk.error.clone(),
            candidates: self.candidates.len(),
            banned: self.candidates.banned_count(now),
            trackers: self.announcer.snapshot(now),
            reads: reads.collect(),
            peers,
            download_rate: self.totals.received.bytes_per_second(now),
            upload_rate: self.totals.sent.bytes_per_second(now),
        }
    }

    pub(super) fn check(&self) {
        assert!(!self.have.has_any_in(&self.unchecked), "a piece both present and unchecked");
        let held = self.disk.held.iter();
        assert!(held.clone().all(|&piece| self.have.has(piece)), "a piece in memory that is not readable");
        assert!(held.clone().all(|&piece| !self.claimed.has(piece)), "peers were told of a piece in memory");
        self.assembly.check();
        self.demand.check();
        let plans = self.handles.values().filter_map(|handle| Some(handle.planned.as_ref()?.0));
        assert_eq!(self.next_plan, plans.min(), "a plan that nobody wakes up for");
        self.peers.check();
        self.candidates.check();
        self.reads.check();
        self.background.check();
        assert!(self.peers.len() <= self.config.max_peers.max(1), "too many connections");
        let mut requests = 0;
        for peer in self.peers.values() {
            peer.check();
            requests += peer.outstanding();
            for (block, request) in peer.requests() {
                assert!(self.due.contains(&(request.due, peer.key, block)), "a request that never expires");
                let asked = self.assembly.get(block.piece).is_some_and(|p| p.is_asked_of(block.number, peer.key));
                assert!(asked, "a request that assembly does not know: {block:?} of {:?}", peer.key);
                assert!(!self.have.has(block.piece), "a request for what we have: {block:?}");
            }
        }
        assert_eq!(requests, self.due.len(), "expiries without requests");
        // I6: a piece in progress is absent.
        assert!(self.assembly.iter().all(|(piece, _)| self.is_absent(piece)), "a piece in two states");
        for (piece, partial) in self.assembly.iter() {
            if self.demand.class(piece).is_some() && partial.free() > 0 {
                let open = self.demand.open().any(|wanted| wanted.piece == piece);
                assert!(open, "open blocks that nobody sees: {piece}");
            }
            for number in partial.awaited() {
                let known = partial.requesters(number).all(|key| self.peers.contains_key(&key));
                assert!(known, "a block of {piece} asked of somebody gone");
            }
        }
        let stale = self.demand.open().find(|wanted| wanted.free != self.free_blocks(wanted.piece));
        assert!(stale.is_none() || self.dirty.demand, "another number of free blocks: {stale:?}");
        for piece in self.reads.pieces() {
            assert!(!self.have.has(piece), "a reader waits for {piece}, which is here");
            let bounded = matches!(self.room, Room::Memory(_)) && !self.demand.is_empty();
            let seen = self.dirty.demand || self.config.read_only || bounded || self.demand.class(piece).is_some();
            assert!(seen || !self.is_absent(piece), "nobody fetches {piece}, for which a reader waits");
        }
    }
}
