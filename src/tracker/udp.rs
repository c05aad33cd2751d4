//! Announces and scrapes over UDP (BEP 15, 41).
//!
//! An address proves itself by a connection id: a keyed hash of the address and the minute, so that nothing is kept of
//! those who only asked for one. Without a right one nobody gets more bytes than he has sent, and no peers.
//!
//! Each worker is a thread that owns a socket; the kernel deals the datagrams of one port out among them.

use std::hash::{BuildHasher, RandomState};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::stats::{Counters, count};
use super::store::{Announce, Event};
use super::sys::Batch;
use super::{NO_ROOM, Tracker};
use crate::base::InfoHash;
use crate::proto::announce::AnnounceEvent;
use crate::proto::peer_addr::{COMPACT_V4_BYTES, COMPACT_V6_BYTES};
use crate::proto::udp_tracker::{self as wire, QuestionBody};

/// Makes and knows connection ids.
#[derive(Debug)]
pub(super) struct ConnectionIds {
    keys: RandomState,
    epoch: Instant,
}

impl ConnectionIds {
    /// With keys of its own, from the system.
    pub(super) fn new(now: Instant) -> Self {
        Self { keys: RandomState::new(), epoch: now }
    }

    fn issue(&self, now: Instant, addr: SocketAddr) -> u64 {
        self.id(self.minute(now), addr)
    }

    /// Right for two to three minutes: BEP 15 asks for two.
    fn is_right(&self, now: Instant, addr: SocketAddr, id: u64) -> bool {
        let minute = self.minute(now);
        (0..VALID_MINUTES).any(|ago| minute.checked_sub(ago).is_some_and(|minute| self.id(minute, addr) == id))
    }

    fn id(&self, minute: u64, addr: SocketAddr) -> u64 {
        // SipHash with 128 bits of key: who has not got an id cannot compute it, nor the key from those he gets.
        self.keys.hash_one((addr.ip(), addr.port(), minute))
    }

    fn minute(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.epoch).as_secs() / 60
    }
}

/// Answers on a socket until `stop`; whoever sets it wakes the socket by shutting it down.
pub(super) fn work(socket: &UdpSocket, worker: usize, tracker: &Arc<Tracker>, stop: &AtomicBool) {
    let mut batch = Batch::new();
    let counters = &tracker.stats.udp[worker];
    while !stop.load(Ordering::Acquire) {
        let received = match batch.receive(socket) {
            Ok(received) => received,
            // Its timeout, a signal, or the unreachable address of an earlier answer.
            Err(error) => {
                if !matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted) {
                    tracing::debug!(%error, "tracker cannot receive");
                    std::thread::sleep(Duration::from_millis(1));
                }
                continue;
            }
        };
        let now = Instant::now();
        let (mut received_bytes, mut sent_bytes) = (0, 0);
        for at in 0..received {
            let (from, datagram, out) = batch.datagram(at);
            received_bytes += datagram.len() as u64;
            answer(tracker, counters, now, from, datagram, out);
            sent_bytes += out.len() as u64;
        }
        batch.send(socket);
        count(&counters.received_bytes, received_bytes);
        count(&counters.sent_bytes, sent_bytes);
    }
}

/// Appends the answer to a datagram, if it gets one.
fn answer(tracker: &Tracker, counters: &Counters, now: Instant, from: SocketAddr, datagram: &[u8], out: &mut Vec<u8>) {
    let Some(question) = wire::parse_question(datagram).filter(|_| from.port() != 0) else {
        count(&counters.malformed, 1);
        return;
    };
    let transaction = question.transaction;
    let refuse = |out: &mut Vec<u8>, reason: &str| {
        count(&counters.refused, 1);
        wire::write_refused(out, transaction, reason, datagram.len());
    };
    let proven = |connection| tracker.ids.is_right(now, from, connection);
    match question.body {
        QuestionBody::Connect => {
            wire::write_connected(out, transaction, tracker.ids.issue(now, from));
            count(&counters.connects, 1);
        }
        QuestionBody::Announce { connection, .. } | QuestionBody::Scrape { connection, .. } if !proven(connection) => {
            refuse(out, "connection id is not valid");
        }
        QuestionBody::Announce { request, options, .. } => {
            if request.port == 0 {
                return refuse(out, "port is 0");
            }
            // Nobody else's options are read.
            let url = tracker.access.is_private().then(|| wire::url_data(options));
            let passkey = url.as_deref().and_then(passkey);
            if let Err(refusal) = tracker.access.judge(&request.info_hash, passkey) {
                return refuse(out, &refusal.to_string());
            }
            let most = if from.is_ipv6() { MAX_PEERS_V6 } else { MAX_PEERS_V4 };
            let announce = Announce {
                info_hash: request.info_hash,
                addr: SocketAddr::new(from.ip(), request.port),
                complete: request.left == 0,
                event: event(request.event),
                wanted: (request.numwant as usize).min(most),
                uploaded: request.uploaded,
                downloaded: request.downloaded,
            };
            // The peers stand behind figures that are known after them.
            out.resize(wire::ANNOUNCED_HEAD_BYTES, 0);
            let Ok((counts, moved)) = tracker.store.announce_by_user(now, &announce, out) else {
                out.clear();
                return refuse(out, NO_ROOM);
            };
            if let Some(passkey) = passkey {
                tracker.access.credit(passkey, moved);
            }
            let [interval, leechers, seeds] =
                [tracker.store.interval().as_secs(), counts.leechers as u64, counts.seeds as u64].map(short);
            out[..wire::ANNOUNCED_HEAD_BYTES].copy_from_slice(&wire::announced(transaction, interval, leechers, seeds));
            count(&counters.announces, 1);
        }
        QuestionBody::Scrape { hashes, .. } => {
            // A scrape has no options, so nobody can show a passkey.
            if tracker.access.is_private() {
                return refuse(out, "a private tracker is scraped over HTTP");
            }
            // Several are told as zeros, one alone is refused.
            if let [hash] = hashes
                && let Err(refusal) = tracker.access.judge_lists(&InfoHash(*hash))
            {
                return refuse(out, &refusal.to_string());
            }
            wire::write_scraped(out, transaction);
            for hash in hashes {
                let counts = tracker.scrape(&InfoHash(*hash));
                let [seeds, completed, leechers] =
                    [counts.seeds as u64, counts.completed, counts.leechers as u64].map(short);
                wire::write_scraped_swarm(out, seeds, completed, leechers);
            }
            count(&counters.scrapes, 1);
        }
    }
}

impl Tracker {
    /// Appends the answer to a datagram, if it gets one. For tests: no socket, no counters that anybody reads.
    #[doc(hidden)]
    pub fn answer_datagram(&self, now: Instant, from: SocketAddr, datagram: &[u8], out: &mut Vec<u8>) {
        answer(self, &self.stats.udp[0], now, from, datagram, out);
    }
}

/// What an announce says as the store has it.
pub(super) fn event(event: AnnounceEvent) -> Event {
    match event {
        AnnounceEvent::Periodic => Event::Regular,
        AnnounceEvent::Started => Event::Started,
        AnnounceEvent::Completed => Event::Completed,
        AnnounceEvent::Stopped => Event::Stopped,
    }
}

/// The passkey in a URL's path and query: `/PASSKEY/announce`.
fn passkey(url: &[u8]) -> Option<&str> {
    let path = url.split(|&byte| byte == b'?').next()?;
    std::str::from_utf8(path.strip_prefix(b"/")?).ok()?.strip_suffix("/announce")
}

fn short(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

const VALID_MINUTES: u64 = 3;
/// What fits into a datagram of 1500 bytes with IPv4 is more than anybody gets.
const MAX_PEERS_V4: usize = (1500 - 28 - wire::ANNOUNCED_HEAD_BYTES) / COMPACT_V4_BYTES;
/// Into one of 1280, which IPv6 promises to carry: 67.
const MAX_PEERS_V6: usize = (1280 - 48 - wire::ANNOUNCED_HEAD_BYTES) / COMPACT_V6_BYTES;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_ids_hold_for_their_address_and_two_minutes() {
        let epoch = Instant::now();
        let ids = ConnectionIds::new(epoch);
        let (one, other): (SocketAddr, SocketAddr) =
            ("192.0.2.1:1000".parse().unwrap(), "192.0.2.1:1001".parse().unwrap());
        let at = |seconds| epoch + Duration::from_secs(seconds);
        for issued in [0, 59, 60, 119, 1000] {
            let id = ids.issue(at(issued), one);
            assert!(ids.is_right(at(issued), one, id) && ids.is_right(at(issued + 120), one, id));
            assert!(!ids.is_right(at(issued + 180), one, id), "too old");
            assert!(!ids.is_right(at(issued), other, id), "another port's");
            assert!(!ConnectionIds::new(epoch).is_right(at(issued), one, id), "another life's");
        }
        let mapped: SocketAddr = "[::ffff:192.0.2.1]:1000".parse().unwrap();
        assert!(!ids.is_right(epoch, mapped, ids.issue(epoch, one)));
    }

    #[test]
    fn passkeys_stand_before_the_last_part_of_the_path() {
        for (url, expected) in [
            (&b"/key/announce"[..], Some("key")),
            (b"/key/announce?x=/b/announce", Some("key")),
            (b"/announce", None),
            (b"key/announce", None),
            (b"/key/scrape", None),
            (b"", None),
            (b"/\xff/announce", None),
        ] {
            assert_eq!(passkey(url), expected, "{}", String::from_utf8_lossy(url));
        }
    }
}
