//! One torrent's brain: composes the parts, and is the only type that drivers talk to.

use std::net::SocketAddr;
use std::time::Instant;

use super::{
    AnnounceOutcome, Command, Config, Connected, DialFailure, DiskDone, Effect, PeerEvent, PeerKey, TorrentSnapshot,
    TrackerId,
};

/// The state machine of one torrent.
#[derive(Debug)]
pub struct Torrent {}

#[allow(unused_variables, missing_docs)]
impl Torrent {
    pub fn new(config: Config, now: Instant, seed: u64) -> Self {
        todo!()
    }
    pub fn handle_connected(&mut self, now: Instant, peer: PeerKey, connected: Connected) {
        todo!()
    }
    pub fn handle_peer_events(&mut self, now: Instant, peer: PeerKey, events: impl IntoIterator<Item = PeerEvent>) {
        todo!()
    }
    pub fn handle_disconnected(&mut self, now: Instant, peer: PeerKey) {
        todo!()
    }
    pub fn handle_dial_failed(&mut self, now: Instant, addr: SocketAddr, failure: DialFailure) {
        todo!()
    }
    pub fn handle_disk_done(&mut self, now: Instant, done: DiskDone) {
        todo!()
    }
    pub fn handle_announced(&mut self, now: Instant, tracker: TrackerId, outcome: AnnounceOutcome) {
        todo!()
    }
    pub fn handle_command(&mut self, now: Instant, command: Command) {
        todo!()
    }
    pub fn handle_timeout(&mut self, now: Instant) {
        todo!()
    }
    pub fn poll_effect(&mut self) -> Option<Effect> {
        todo!()
    }
    pub fn poll_timeout(&self) -> Option<Instant> {
        todo!()
    }
    /// The state now; costs a walk over peers and reads.
    pub fn snapshot(&mut self, now: Instant) -> TorrentSnapshot {
        todo!()
    }
    pub fn check_invariants(&self) {
        todo!()
    }
}
