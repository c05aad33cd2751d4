//! The recorded attacks on the peer port, silent crowds, and peers that never read.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use btfs::net::TorrentHandle;
use btfs::proto::wire::{BlockRequest, Message};

use super::peer::HandPeer;
use super::{Content, Node, wait};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    Drop,
    Ignore,
    Either,
}

/// Name, bytes, and what is to become of the connection.
fn recorded() -> Vec<(String, Vec<u8>, Expected)> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/wire");
    let table = std::fs::read_to_string(format!("{directory}/expected_wire.tsv")).unwrap();
    let rows = table.lines().map(|line| line.split('\t').collect::<Vec<_>>());
    rows.filter(|row| row[1] == "peer")
        .map(|row| {
            let expected = match row[3] {
                text if text.starts_with("drop within") => Expected::Drop,
                "drop" => Expected::Drop,
                "ignore" => Expected::Ignore,
                // `ignore (no allocation)` and the like.
                text if text.starts_with("ignore") && !text.contains(" or ") => Expected::Ignore,
                _ => Expected::Either,
            };
            (row[0].to_owned(), std::fs::read(format!("{directory}/{}", row[0])).unwrap(), expected)
        })
        .collect()
}

/// What a connection came to.
struct Seen {
    closed: bool,
    received: Vec<u8>,
}

/// Throws bytes at a session and watches the connection for `patience`, or until it closes.
///
/// What is to stay open is watched for a moment; what is to be closed, for so long that a busy machine gets there.
fn throw(addr: SocketAddr, bytes: &[u8], patience: Duration) -> Seen {
    let mut stream = TcpStream::connect(addr).unwrap();
    let reader = stream.try_clone().unwrap();
    let watching = std::thread::spawn(move || watch(reader, patience));
    // It may be closed before all is written.
    let _ = stream.write_all(bytes);
    watching.join().unwrap()
}

fn watch(mut stream: TcpStream, patience: Duration) -> Seen {
    let deadline = Instant::now() + patience;
    let mut seen = Seen { closed: false, received: Vec::new() };
    let mut buffer = [0; 65536];
    stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    // Looked at once more after that: whoever was late himself is not to blame.
    let mut late = false;
    while !std::mem::replace(&mut late, Instant::now() >= deadline) {
        match stream.read(&mut buffer) {
            Ok(0) => seen.closed = true,
            Ok(read) => seen.received.extend_from_slice(&buffer[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => seen.closed = true,
        }
        if seen.closed {
            break;
        }
    }
    seen
}

/// A polite peer gets a right block, and does not wait until silent ones have been given up (15 s).
fn assert_polite_peer_is_served(node: &Node, handle: &TorrentHandle, content: &Content, after: &str) {
    let started = Instant::now();
    let (hash, layout) = (content.metainfo.info_hash.unwrap(), handle.store().layout());
    let mut peer = HandPeer::connect(addr(node), hash, layout).unwrap_or_else(|error| panic!("after {after}: {error}"));
    let block = peer.fetch(BlockRequest { piece: 1, begin: 100, length: 5000 });
    let block = block.unwrap_or_else(|error| panic!("after {after}: {error}"));
    assert!(block == content.bytes[16384 + 100..][..5000], "after {after}: wrong bytes");
    assert!(started.elapsed() < Duration::from_secs(10), "after {after}: {:?}", started.elapsed());
}

fn addr(node: &Node) -> SocketAddr {
    ([127, 0, 0, 1], node.session.port()).into()
}

#[test]
fn no_recorded_attack_harms_a_seed() {
    let content = Content::recorded();
    let node = Node::start();
    let handle = node.seed(&content);
    for (name, bytes, expected) in recorded() {
        // A seed rightly leaves seeds.
        let redundant = ["peer-ok-full-bitfield.bin", "peer-piece-unrequested.bin"].contains(&name.as_str());
        let expected = if redundant { Expected::Either } else { expected };
        judge(&name, &bytes, expected, addr(&node));
        assert_polite_peer_is_served(&node, &handle, &content, &name);
    }
}

#[test]
fn no_recorded_attack_harms_a_leecher() {
    let content = Content::recorded();
    let node = Node::start();
    let handle = node.session.add(content.to_add()).unwrap();
    for (name, bytes, expected) in recorded() {
        judge(&name, &bytes, expected, addr(&node));
        assert!(handle.snapshot().is_some(), "after {name}");
    }
    assert_eq!(handle.store().table().present_count(), 0);
    wait("all attackers are gone", || handle.snapshot().unwrap().peers.is_empty());
}

fn judge(name: &str, bytes: &[u8], expected: Expected, addr: SocketAddr) {
    let patience = match expected {
        // Silence ends after 15 s, everything else at once.
        Expected::Drop if name == "peer-hs-short.bin" => SILENCE_ENDS,
        Expected::Drop => Duration::from_secs(10),
        Expected::Ignore => Duration::from_millis(250),
        Expected::Either => Duration::from_millis(100),
    };
    let seen = throw(addr, bytes, patience);
    match expected {
        Expected::Drop => assert!(seen.closed, "{name} was not closed"),
        Expected::Ignore => assert!(!seen.closed, "{name} was closed"),
        Expected::Either => {}
    }
    // No attack asks for a block that it may have: nothing long is sent, and wrong handshakes get no answer at all.
    assert!(seen.received.len() < 150_000, "{name} was sent {} bytes", seen.received.len());
    if name.starts_with("peer-hs") {
        assert!(seen.received.is_empty(), "{name} got an answer");
    }
}

#[test]
fn a_silent_crowd_neither_stays_nor_keeps_others_out() {
    let content = Content::recorded();
    let node = Node::start();
    let handle = node.seed(&content);
    let crowd: Vec<_> = (0..250).map(|_| TcpStream::connect(addr(&node)).unwrap()).collect();
    assert_polite_peer_is_served(&node, &handle, &content, "250 silent connections");
    let started = Instant::now();
    for stream in crowd {
        assert!(watch(stream, SILENCE_ENDS.saturating_sub(started.elapsed())).closed, "a silent one stays");
    }
}

#[test]
fn connections_from_one_address_are_limited() {
    let content = Content::recorded();
    let node = Node::start_with(|config| config.max_per_address = 3);
    let handle = node.seed(&content);
    let (hash, layout) = (content.metainfo.info_hash.unwrap(), handle.store().layout());
    let mut kept: Vec<_> = (0..3).map(|_| HandPeer::connect(addr(&node), hash, layout).unwrap()).collect();
    assert!(HandPeer::connect(addr(&node), hash, layout).is_err());
    kept.pop();
    wait("a place comes free", || HandPeer::connect(addr(&node), hash, layout).is_ok());
    // Connect-and-reset storms leave nothing behind.
    for _ in 0..200 {
        drop(TcpStream::connect(addr(&node)).unwrap());
    }
    kept.clear();
    wait("all places come free", || HandPeer::connect(addr(&node), hash, layout).is_ok());
}

#[test]
fn a_peer_that_asks_and_never_reads_costs_little() {
    let content = Content::recorded();
    let node = Node::start();
    let handle = node.seed(&content);
    let (hash, layout) = (content.metainfo.info_hash.unwrap(), handle.store().layout());
    let mut greedy = HandPeer::connect(addr(&node), hash, layout).unwrap();
    greedy.fetch(BlockRequest { piece: 0, begin: 0, length: 1 }).unwrap();
    greedy.stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let before = resident_bytes();
    let request = vec![Message::Request(BlockRequest { piece: 0, begin: 0, length: 16384 }); 500];
    for _ in 0..400 {
        if greedy.send(&request).is_err() {
            break;
        }
    }
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 32 << 20, "grew by {grown} bytes");
    assert_polite_peer_is_served(&node, &handle, &content, "a greedy peer");
}

#[test]
fn a_choked_peer_may_ask_for_its_fast_pieces_only() {
    let content = Content::recorded();
    let node = Node::start();
    let handle = node.seed(&content);
    let (hash, layout) = (content.metainfo.info_hash.unwrap(), handle.store().layout());
    let mut peer = HandPeer::connect(addr(&node), hash, layout).unwrap();
    let all: Vec<_> = (0..13).map(|piece| Message::Request(BlockRequest { piece, begin: 0, length: 1000 })).collect();
    peer.send(&[Message::HaveNone]).unwrap();
    let mut fast = Vec::new();
    // The set comes with the first messages; a choked request of each piece is answered, one way or the other.
    let first = peer.expect(|message| match message {
        Message::AllowedFast(piece) => Some(piece),
        _ => None,
    });
    if let Ok(piece) = first {
        fast.push(piece);
    }
    peer.send(&all).unwrap();
    let (mut served, mut rejected) = (Vec::new(), Vec::new());
    while served.len() + rejected.len() < 13 {
        peer.expect(|message| match message {
            Message::AllowedFast(piece) => {
                fast.push(piece);
                Some(())
            }
            Message::Piece { piece, begin: 0, data } => {
                assert!(data[..] == content.bytes[piece as usize * 16384..][..1000]);
                served.push(piece);
                Some(())
            }
            Message::Reject(request) => {
                rejected.push(request.piece);
                Some(())
            }
            _ => None,
        })
        .unwrap();
    }
    served.sort_unstable();
    fast.sort_unstable();
    assert_eq!(served, fast);
    assert!(!fast.is_empty() && fast.len() < 13, "{fast:?}");
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    status.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// A handshake must come within 15 s; the rest is for a busy machine.
const SILENCE_ENDS: Duration = Duration::from_secs(45);
