//! The tracker over UDP: the corpus' datagrams, an honest client, ours, and those who claim another's address.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use btfs::base::{InfoHash, PeerId};
use btfs::engine::{AnnounceOutcome, Announcement, TrackerId};
use btfs::net::TrackerClient;
use btfs::net::http::HttpClient;
use btfs::net::udp_tracker::UdpTrackers;
use btfs::proto::announce::{AnnounceEvent, AnnounceReply, AnnounceRequest, ScrapeReply};
use btfs::proto::udp_tracker as wire;
use btfs::proto::udp_tracker::ReplyBody;
use btfs::tracker::ServeConfig;
use tokio::net::UdpSocket;

use super::Server;

const HASH: InfoHash = InfoHash([7; 20]);
/// Generous: an answer on loopback takes a fraction of a millisecond.
const PATIENCE: Duration = Duration::from_secs(10);
/// After this long without an answer there is none.
const SILENCE: Duration = Duration::from_millis(300);

/// A peer with a socket of its own.
struct Peer {
    socket: UdpSocket,
    over_ipv6: bool,
}

impl Peer {
    async fn of(server: &Server) -> Self {
        Self::at(server, server.addr.ip()).await
    }

    async fn at(server: &Server, ip: IpAddr) -> Self {
        let socket = UdpSocket::bind(SocketAddr::new(ip, 0)).await.unwrap();
        socket.connect(server.addr).await.unwrap();
        Self { socket, over_ipv6: ip.is_ipv6() }
    }

    async fn raw(&self, datagram: &[u8], patience: Duration) -> Option<Vec<u8>> {
        self.socket.send(datagram).await.unwrap();
        let mut buffer = vec![0; 4096];
        let length = tokio::time::timeout(patience, self.socket.recv(&mut buffer)).await.ok()?.unwrap();
        buffer.truncate(length);
        Some(buffer)
    }

    async fn ask(&self, datagram: &[u8]) -> ReplyBody {
        let answer = self.raw(datagram, PATIENCE).await.expect("an answer");
        let reply = wire::parse_reply(&answer, self.over_ipv6).expect("an answer of BEP 15");
        assert_eq!(reply.transaction.to_be_bytes(), datagram[12..16]);
        reply.body
    }

    async fn connect(&self) -> u64 {
        match self.ask(&wire::write_connect(1)).await {
            ReplyBody::Connected(id) => id,
            other => panic!("{other:?}"),
        }
    }

    async fn announce(&self, id: u64, request: &AnnounceRequest, url: &[u8]) -> AnnounceReply {
        match self.ask(&wire::write_announce(id, 2, request, url)).await {
            ReplyBody::Announced(reply) => reply,
            other => panic!("{other:?}"),
        }
    }
}

fn request(port: u16, left: u64) -> AnnounceRequest {
    AnnounceRequest {
        info_hash: HASH,
        peer_id: PeerId([1; 20]),
        port,
        uploaded: 0,
        downloaded: 0,
        left,
        event: AnnounceEvent::Started,
        numwant: u32::MAX,
        key: Some(1),
        tracker_id: None,
    }
}

#[tokio::test]
async fn peers_find_each_other_over_both_families_and_both_protocols() {
    for ip in ["127.0.0.1", "::1"] {
        let ip: IpAddr = ip.parse().unwrap();
        if UdpSocket::bind((ip, 0)).await.is_err() {
            eprintln!("SKIPPED: there is no {ip}");
            continue;
        }
        let server = Server::start_with(ip, ServeConfig::default());
        let peer = Peer::of(&server).await;
        let id = peer.connect().await;
        let reply = peer.announce(id, &request(1000, 0), b"").await;
        assert_eq!((reply.peers.len(), reply.complete, reply.incomplete), (0, Some(1), Some(0)));
        assert_eq!(reply.interval_seconds, Some(1800));
        let reply = peer.announce(id, &request(2000, 5), b"/announce").await;
        assert_eq!(reply.peers, [SocketAddr::new(ip, 1000)]);
        // By the other protocol, at the same port.
        let answer = server.announce(3000, "&left=5").await;
        assert!(answer.contains(if ip.is_ipv4() { "5:peers12:" } else { "6:peers636:" }), "{answer}");
        let scraped = peer.ask(&wire::write_scrape(id, 3, &HASH)).await;
        let figures =
            ScrapeReply { complete: Some(1), downloaded: Some(0), incomplete: Some(2), min_interval_seconds: None };
        assert_eq!(scraped, ReplyBody::Scraped(figures));
        let done = AnnounceRequest { event: AnnounceEvent::Completed, ..request(2000, 0) };
        assert_eq!(peer.announce(id, &done, b"").await.complete, Some(2));
        let gone = AnnounceRequest { event: AnnounceEvent::Stopped, ..request(1000, 0) };
        assert_eq!(peer.announce(id, &gone, b"").await.complete, Some(1));
        let totals = server.tracker.store.totals();
        assert_eq!((totals.seeds, totals.leechers(), totals.completed), (1, 1, 1));
        server.tracker.store.check_invariants();
    }
}

#[tokio::test]
async fn every_datagram_of_the_corpus_has_its_outcome() {
    let server = Server::start().await;
    let directory = Path::new("tests/corpus/wire");
    let table = std::fs::read_to_string(directory.join("expected_wire.tsv")).unwrap();
    let mut seen = 0;
    for row in table.lines().filter(|row| row.split('\t').nth(1) == Some("udp-tracker-request")) {
        let columns: Vec<_> = row.split('\t').collect();
        let (file, expected) = (columns[0], columns[3]);
        let datagram = std::fs::read(directory.join(file)).unwrap();
        let answer = Peer::of(&server).await.raw(&datagram, SILENCE).await;
        let length = answer.as_ref().map_or(0, Vec::len);
        assert!(length <= datagram.len(), "{file}: {length} bytes for {}", datagram.len());
        let body = answer.and_then(|answer| wire::parse_reply(&answer, false)).map(|reply| reply.body);
        match expected {
            "connect reply of 16 bytes" => assert!(matches!(body, Some(ReplyBody::Connected(_))), "{file}: {body:?}"),
            "noreply" => assert_eq!(body, None, "{file}"),
            _ if expected.starts_with("noreply") => {
                assert!(matches!(body, None | Some(ReplyBody::Refused(_))), "{file}: {body:?}");
            }
            other => panic!("an outcome that this test does not know: {other}"),
        }
        seen += 1;
    }
    assert_eq!(seen, 9);
    assert_eq!(server.tracker.store.totals().torrents, 0);
}

#[tokio::test]
async fn nobody_is_sent_more_than_he_sent_before_he_proved_his_address() {
    let server = Server::start().await;
    let peer = Peer::of(&server).await;
    let id = peer.connect().await;
    for port in 1..100 {
        peer.announce(id, &request(port, 5), b"").await;
    }
    let whole = wire::write_announce(id, 2, &request(9, 5), b"/a/b");
    assert!(peer.raw(&whole, PATIENCE).await.unwrap().len() > whole.len(), "the swarm is worth forging for");
    let stranger = Peer::of(&server).await;
    let hashes = [HASH.0; 70].concat();
    let scrape = [&wire::write_scrape(id, 2, &HASH)[..16], &hashes].concat();
    for forged in [id, 0, u64::MAX, 0x417_2710_1980] {
        let mut announce = whole.clone();
        announce[..8].copy_from_slice(&forged.to_be_bytes());
        let mut scrape = scrape.clone();
        scrape[..8].copy_from_slice(&forged.to_be_bytes());
        for datagram in [&announce[..], &announce[..98], &scrape, &scrape[..36]] {
            let answer = stranger.raw(datagram, PATIENCE).await.expect("an error");
            assert!(answer.len() <= datagram.len() && answer[..4] == [0, 0, 0, 3], "{answer:?}");
        }
    }
    // Whoever has, gets all of it.
    assert_eq!(peer.raw(&scrape, PATIENCE).await.unwrap().len(), 8 + 70 * 12);
}

#[tokio::test]
async fn what_is_asked_wrongly_or_too_much_is_refused_or_cut() {
    let server = Server::start().await;
    let peer = Peer::of(&server).await;
    let id = peer.connect().await;
    let refused = peer.ask(&wire::write_announce(id, 2, &request(0, 5), b"")).await;
    assert_eq!(refused, ReplyBody::Refused("port is 0".into()));
    for port in 1..=300 {
        peer.announce(id, &request(port, 5), b"").await;
    }
    for (numwant, given) in [(0, 0), (7, 7), (50, 50), (i32::MAX as u32, 200), (-1_i32 as u32, 50)] {
        let one = AnnounceRequest { numwant, ..request(1, 5) };
        assert_eq!(peer.announce(id, &one, b"").await.peers.len(), given, "{numwant}");
    }
    // More hashes than a datagram may have: those that fit are answered.
    let many = [&wire::write_scrape(id, 2, &HASH)[..16], &[HASH.0; 100].concat()].concat();
    assert_eq!(peer.raw(&many, PATIENCE).await.unwrap().len(), 8 + 74 * 12);
    server.tracker.store.check_invariants();
}

#[tokio::test]
async fn a_passkey_comes_in_the_url_and_lists_hold_here_as_well() {
    let server = Server::start().await;
    let peer = Peer::of(&server).await;
    let id = peer.connect().await;
    let access = &server.tracker.access;
    access.set_private(true);
    access.admit("s3cret");
    for url in [&b""[..], b"/announce", b"/wrong/announce", b"/s3cret/scrape"] {
        let refused = peer.ask(&wire::write_announce(id, 2, &request(1, 5), url)).await;
        assert!(matches!(refused, ReplyBody::Refused(_)), "{refused:?}");
    }
    let refused = peer.ask(&wire::write_scrape(id, 2, &HASH)).await;
    assert!(matches!(refused, ReplyBody::Refused(_)), "{refused:?}");
    assert_eq!(peer.announce(id, &request(1, 5), b"/s3cret/announce?a=b").await.incomplete, Some(1));
    access.set_private(false);
    access.set_listed_only(true);
    let refused = peer.ask(&wire::write_announce(id, 2, &request(1, 5), b"")).await;
    assert_eq!(refused, ReplyBody::Refused("this torrent is not registered here".into()));
    access.list(HASH);
    assert_eq!(peer.announce(id, &request(1, 5), b"").await.incomplete, Some(1));
}

#[tokio::test]
async fn the_answer_comes_from_the_address_that_was_asked() {
    let server = Server::start_with("0.0.0.0".parse().unwrap(), ServeConfig::default());
    for asked in ["127.0.0.1", "127.0.0.9", "127.8.7.6"] {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let asked = SocketAddr::new(asked.parse().unwrap(), server.addr.port());
        socket.send_to(&wire::write_connect(1), asked).await.unwrap();
        let mut buffer = [0; 64];
        let answered = tokio::time::timeout(PATIENCE, socket.recv_from(&mut buffer)).await;
        let (length, from) = answered.unwrap_or_else(|_| panic!("nothing from {asked}")).unwrap();
        assert_eq!((length, from), (16, asked));
    }
}

#[tokio::test]
async fn our_own_client_is_answered() {
    let server = Server::start().await;
    let client = |port| TrackerClient {
        http: HttpClient::new(None),
        udp: UdpTrackers::new(None),
        info_hash: HASH,
        peer_id: PeerId(*b"-FS0100-abcdefghijkl"),
        port,
        key: 7,
        turns: Arc::new(tokio::sync::Semaphore::new(8)),
    };
    for scheme in ["udp", "http"] {
        let announcement = |left| Announcement {
            tracker: TrackerId(0),
            url: format!("{scheme}://{}/announce", server.addr),
            event: AnnounceEvent::Started,
            uploaded: 1,
            downloaded: 2,
            left,
            numwant: 50,
            tracker_id: None,
        };
        client(1000).announce(announcement(0)).await;
        match client(2000).announce(announcement(3)).await {
            AnnounceOutcome::Answered { peers, .. } => assert_eq!(peers, ["127.0.0.1:1000".parse().unwrap()]),
            AnnounceOutcome::Failed { reason, .. } => panic!("{scheme}: {reason}"),
        }
    }
}
