//! Connections: who may stay, who goes, whom to dial.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::Torrent;
use super::interest::LINGER;
use super::room::{DONTHAVE, DONTHAVE_ID};
use crate::base::Bitfield;
use crate::engine::candidates::Departure;
use crate::engine::peer::Peer;
use crate::engine::{CloseReason, Connected, Effect, Opening, PeerKey, Source};
use crate::proto::wire::Message;
use crate::proto::wire::extension::{ExtensionHandshake, HANDSHAKE_ID};

impl Torrent {
    pub(super) fn connected(&mut self, now: Instant, key: PeerKey, connected: &Connected) {
        if let Err(reason) = self.admit(now, connected) {
            match reason {
                CloseReason::OwnConnection => self.candidates.mark_self(connected.addr),
                CloseReason::Duplicate => self.candidates.disconnected(now, connected.addr, Departure::Redundant),
                _ => self.candidates.disconnected(now, connected.addr, Departure::Useless),
            }
            self.effects.push_back(Effect::Close { peer: key, reason });
            return;
        }
        self.candidates.connected(now, connected.addr);
        let source = self.candidates.source(connected.addr).unwrap_or(Source::Incoming);
        let mut peer = Peer::new(now, key, connected, source, self.layout.piece_count());
        match connected.opening.as_ref().and_then(|said| Bitfield::from_wire(&said.pieces, self.layout.piece_count())) {
            Some(said) => {
                peer.am_interested = true;
                peer.interest_in_opening = true;
                peer.last_wanted = Some(now);
                let since: Vec<_> = self.claimed.iter().filter(|&piece| !said.has(piece)).collect();
                since.into_iter().for_each(|piece| self.send(key, Message::Have(piece.raw())));
            }
            None => self.send_pieces(&peer),
        }
        if peer.extended {
            self.send_extension(&peer);
        }
        self.peers.insert(key, peer);
    }

    /// Whether a new connection may stay; may close another one for it.
    fn admit(&mut self, now: Instant, connected: &Connected) -> Result<(), CloseReason> {
        if self.stopping {
            return Err(CloseReason::Stopped);
        }
        if connected.peer_id == self.config.peer_id {
            return Err(CloseReason::OwnConnection);
        }
        if self.candidates.is_banned(now, connected.addr) {
            return Err(CloseReason::Banned);
        }
        let twin = self.peers.values().find(|peer| peer.peer_id == connected.peer_id);
        if let Some((twin, outgoing, since)) = twin.map(|twin| (twin.key, twin.outgoing, twin.connected_at)) {
            // When both ends dialled at once, both must close the same one: the one dialled by the smaller id.
            let crossed = outgoing != connected.outgoing && now.saturating_duration_since(since) < CROSSING;
            if !crossed || connected.outgoing != (self.config.peer_id > connected.peer_id) {
                return Err(CloseReason::Duplicate);
            }
            self.close(now, twin, CloseReason::Duplicate);
        }
        if self.peers.len() >= self.config.max_peers {
            let user = self.candidates.source(connected.addr) == Some(Source::User);
            let worst = self.worst_peer(now, user).ok_or(CloseReason::Full)?;
            self.close(now, worst, CloseReason::Replaced);
        }
        Ok(())
    }

    /// The peer that a new one may replace: of no use for a minute, longest of all; `any`: of no use for longest.
    pub(super) fn worst_peer(&self, now: Instant, any: bool) -> Option<PeerKey> {
        let replaceable = self.peers.values().filter(|peer| {
            let idle = now.saturating_duration_since(peer.last_useful);
            peer.source != Source::User && (any || idle > USELESS_FOR) && peer.outstanding() == 0
        });
        replaceable.min_by_key(|peer| (peer.last_useful, peer.key)).map(|peer| peer.key)
    }

    /// Tells a new peer what we have (BEP 3, 6): at once, before anything else.
    fn send_pieces(&mut self, peer: &Peer) {
        let message = match (peer.fast, self.claimed.count()) {
            (true, 0) => Message::HaveNone,
            (false, 0) => return,
            (true, _) if self.claimed.is_full() => Message::HaveAll,
            _ => Message::Bitfield(bytes::Bytes::copy_from_slice(self.claimed.as_wire())),
        };
        self.send(peer.key, message);
    }

    /// Says who we are (BEP 10) and whether we want nothing any more (BEP 21).
    pub(super) fn send_extension(&mut self, peer: &Peer) {
        let handshake = self.extension_handshake(peer.addr);
        self.send(peer.key, Message::Extended { id: HANDSHAKE_ID, payload: handshake.encode() });
    }

    pub(super) fn extension_handshake(&self, addr: SocketAddr) -> ExtensionHandshake {
        ExtensionHandshake {
            extensions: vec![(DONTHAVE.into(), DONTHAVE_ID)],
            client: Some(self.config.client.clone()),
            port: self.config.listen_port,
            request_queue: Some(QUEUE_OFFERED),
            // A mount that may still read is a leecher: a seed must not take us for redundant.
            upload_only: Some(self.is_complete()),
            your_ip: Some(addr.ip().to_canonical()),
            ..ExtensionHandshake::default()
        }
    }

    /// We have just become complete: everybody learns it, and who takes nothing either goes.
    pub(super) fn announce_completeness(&mut self, now: Instant) {
        let extended: Vec<_> =
            self.peers.values().filter(|peer| peer.extended).map(|peer| (peer.key, peer.addr)).collect();
        for (key, addr) in extended {
            let payload = self.extension_handshake(addr).encode();
            self.send(key, Message::Extended { id: HANDSHAKE_ID, payload });
        }
        let peers: Vec<_> = self.peers.keys().copied().collect();
        for key in peers {
            if self.is_redundant(key) {
                self.close(now, key, CloseReason::Redundant);
            }
        }
    }

    /// Neither of us can ever give the other anything.
    pub(super) fn is_redundant(&self, key: PeerKey) -> bool {
        self.is_complete() && self.peers.get(&key).is_some_and(|peer| peer.is_seed() || peer.upload_only)
    }

    /// Closes a connection by our own will.
    pub(super) fn close(&mut self, now: Instant, key: PeerKey, reason: CloseReason) {
        if self.peers.contains_key(&key) {
            self.forget_peer(now, key, Some(reason));
            self.effects.push_back(Effect::Close { peer: key, reason });
        }
    }

    /// Nobody at this address is talked to for a while.
    pub(super) fn ban(&mut self, now: Instant, addr: SocketAddr) {
        self.candidates.ban(now, addr);
        let banned: Vec<_> = self.peers.values().map(|peer| (peer.key, peer.addr)).collect();
        for (key, addr) in banned {
            if self.candidates.is_banned(now, addr) {
                self.close(now, key, CloseReason::Banned);
            }
        }
    }

    /// A connection is no more.
    pub(super) fn forget_peer(&mut self, now: Instant, key: PeerKey, reason: Option<CloseReason>) {
        self.free_requests(now, key, |_, _| true);
        let Some(peer) = self.peers.remove(&key) else { return };
        self.background.availability.remove_all(&peer.pieces, peer.counted);
        self.choker.remove(key);
        self.wake.retain(|&(_, other)| other != key);
        let lasted = now.saturating_duration_since(peer.connected_at) > LASTED;
        // Some close when anything comes behind a handshake (aria2): nothing was heard from them.
        let startled = peer.interest_in_opening && !peer.started && peer.client.is_none();
        let departure = match reason {
            None if startled => Departure::Startled,
            Some(CloseReason::Redundant | CloseReason::Duplicate) => Departure::Redundant,
            _ if lasted || peer.received.total_bytes() > 0 || peer.sent.total_bytes() > 0 => Departure::Useful,
            _ => Departure::Useless,
        };
        self.candidates.disconnected(now, peer.addr, departure);
        self.departed.push_back((key, peer.addr));
        if self.departed.len() > DEPARTED_MAX {
            self.departed.pop_front();
        }
        self.release_sole(now, key);
        self.dirty.peers.remove(&key);
    }

    /// Those from whom nothing has come for two minutes; everybody else sends keep-alives.
    pub(super) fn close_silent(&mut self, now: Instant) {
        let silent = self.peers.values().filter(|peer| now.saturating_duration_since(peer.last_heard) > SILENT);
        let silent: Vec<_> = silent.map(|peer| peer.key).collect();
        silent.into_iter().for_each(|key| self.close(now, key, CloseReason::Silent));
    }

    /// Connections that we would make now.
    pub(super) fn dial_room(&self) -> usize {
        let most = self.config.max_peers;
        let wanted = if self.is_complete() || self.config.read_only {
            most / 2
        } else if self.handles.is_empty()
            && self.reads.poll_timeout().is_none()
            && self.background.wanted().count() == 0
        {
            // Nobody reads: enough to begin with at once when somebody does.
            most.min(IDLE_PEERS)
        } else {
            most
        };
        if self.stopping { 0 } else { wanted.max(1).saturating_sub(self.peers.len() + self.candidates.dialling()) }
    }

    pub(super) fn dial(&mut self, now: Instant) {
        for _ in 0..self.dial_room() {
            let Some(addr) = self.candidates.next_dial(now) else { break };
            let opening = self.opening(now, addr);
            self.effects.push_back(Effect::Dial { addr, opening });
        }
    }

    /// What a peer is told at once when somebody reads, or is likely to soon: there is a reader, or we have just begun.
    fn opening(&self, now: Instant, addr: SocketAddr) -> Option<Opening> {
        if self.candidates.is_plain(addr) {
            return None;
        }
        let begun = now.saturating_duration_since(self.began) < LINGER;
        let wanted =
            begun || !self.handles.is_empty() || !self.demand.is_empty() || self.background.wanted().count() > 0;
        // It may be thrown away: nothing must be lost with it.
        let brief = self.claimed.count() == 0 && self.claimed.as_wire().len() <= OPENING_MAX;
        (wanted && brief && !self.is_complete() && !self.config.read_only)
            .then(|| Opening { pieces: bytes::Bytes::copy_from_slice(self.claimed.as_wire()) })
    }

    /// Somebody waits and no source is unchoked: after a while we look for others with all means.
    pub(super) fn watch_starving(&mut self, now: Instant) {
        let Some(piece) = self.reads.pieces().next() else {
            self.starving_since = None;
            self.set_hurry(now, false);
            return;
        };
        let served = self.peers.values().any(|peer| !peer.peer_choking && !peer.snubbed && peer.pieces.has(piece));
        if served {
            self.starving_since = None;
        } else {
            self.starving_since.get_or_insert(now);
        }
        let starving = self.starving_since.is_some_and(|since| now.saturating_duration_since(since) >= STARVING);
        self.set_hurry(now, starving);
        if starving && self.peers.len() >= self.config.max_peers {
            let silent = self.peers.values().filter(|peer| !peer.pieces.has(piece) && peer.source != Source::User);
            if let Some(key) = silent.min_by_key(|peer| (peer.last_heard, peer.key)).map(|peer| peer.key) {
                self.close(now, key, CloseReason::Replaced);
            }
        }
    }

    fn set_hurry(&mut self, now: Instant, hurry: bool) {
        self.candidates.set_hurry(hurry);
        let missing = self.config.max_peers.saturating_sub(self.peers.len());
        self.announcer.set_need(now, missing, hurry && self.peers.len() < FEW_PEERS);
    }

    pub(super) fn send(&mut self, peer: PeerKey, message: Message) {
        self.effects.push_back(Effect::Send { peer, message });
    }

    /// Where a peer is or was.
    pub(super) fn addr_of(&self, key: PeerKey) -> Option<SocketAddr> {
        let departed = || self.departed.iter().find(|(gone, _)| *gone == key).map(|&(_, addr)| addr);
        self.peers.get(&key).map(|peer| peer.addr).or_else(departed)
    }

    /// Books what a peer has, as its first message said.
    pub(super) fn set_pieces(&mut self, now: Instant, key: PeerKey, pieces: Bitfield) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.counted = self.background.availability.add_all(&pieces);
        peer.pieces = pieces;
        self.peer_has_more(now, key);
        self.offer_allowed_fast(key);
    }

    /// A peer has pieces that it had not before.
    pub(super) fn peer_has_more(&mut self, now: Instant, key: PeerKey) {
        if self.is_redundant(key) {
            self.close(now, key, CloseReason::Redundant);
            return;
        }
        self.consider_interest(now, key);
        self.dirty.peers.insert(key);
    }
}

/// Requests that our side queues (`reqq`).
const QUEUE_OFFERED: u32 = 500;
/// Two connections of the same two ends this close together were dialled at once.
const CROSSING: Duration = Duration::from_secs(10);
/// I7: bytes that are said before anybody has answered.
const OPENING_MAX: usize = 8 * 1024;
const USELESS_FOR: Duration = Duration::from_secs(60);
const LASTED: Duration = Duration::from_secs(60);
const SILENT: Duration = Duration::from_secs(120);
const STARVING: Duration = Duration::from_secs(2);
const IDLE_PEERS: usize = 25;
const FEW_PEERS: usize = 10;
const DEPARTED_MAX: usize = 256;
