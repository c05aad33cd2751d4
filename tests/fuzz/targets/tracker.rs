//! The tracker's side: what peers ask it, what it has kept of an earlier life, and what people look for.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use btfs::base::InfoHash;
use btfs::proto::bencode;
use btfs::proto::http_tracker::MAX_NUMWANT;
use btfs::proto::metainfo::{NewEntry, NewTorrent};
use btfs::proto::udp_tracker::{self, ReplyBody};
use btfs::tracker::index::{Index, MAX_QUERY_CHARS, PER_PAGE, Query};
use btfs::tracker::web::{PagesConfig, pages};
use btfs::tracker::{Store, StoreConfig, Tracker};
use tower::ServiceExt;

use super::assert_plain;

/// A tracker that is asked by one peer after the other. The first byte says who may announce what, and by which family
/// they come; then each question: a byte that says how it is asked, its length (2 bytes, little-endian), and its bytes.
pub fn tracker_server(data: &[u8]) {
    let Some((&how, mut rest)) = data.split_first() else { return };
    let now = Instant::now();
    let config = StoreConfig { max_torrents: 4, max_peers: 8, ..StoreConfig::default() };
    let tracker = Tracker::new(config, now, 1);
    tracker.access.set_listed_only(how & 1 != 0);
    tracker.access.set_private(how & 2 != 0);
    tracker.access.list(InfoHash([b'a'; 20]));
    tracker.access.admit("key");
    let over_ipv6 = how & 4 != 0;
    for number in 1..=64_u16 {
        let Some((&[way, low, high], behind)) = rest.split_first_chunk() else { break };
        let (question, behind) = behind.split_at(usize::from(u16::from_le_bytes([low, high])).min(behind.len()));
        rest = behind;
        let ip: IpAddr =
            if over_ipv6 { [0x2001, 0xdb8, 0, 0, 0, 0, 0, number].into() } else { [192, 0, 2, number as u8].into() };
        let from = SocketAddr::new(ip, u16::from(way).max(1));
        if way & 1 == 0 {
            datagram(&tracker, now, from, question, way & 2 != 0);
        } else {
            let split = question.iter().position(|&byte| byte == b'?').unwrap_or(question.len());
            let (path, query) = (&question[..split], question.get(split + 1..).unwrap_or_default());
            over_http(&tracker, &String::from_utf8_lossy(path), query, ip);
        }
        tracker.store.check_invariants();
    }
    assert!(known(&tracker.store) <= 4);
    let summary = tracker.summary(now);
    assert!(!summary.to_prometheus().is_empty());
}

fn datagram(tracker: &Tracker, now: Instant, from: SocketAddr, question: &[u8], proven: bool) {
    let (mut question, mut answer) = (question.to_vec(), Vec::new());
    tracker.answer_datagram(now, from, &udp_tracker::write_connect(1), &mut answer);
    let Some(ReplyBody::Connected(id)) = udp_tracker::parse_reply(&answer, from.is_ipv6()).map(|reply| reply.body)
    else {
        panic!("everybody is given an id")
    };
    if let (true, Some(first)) = (proven, question.first_chunk_mut()) {
        *first = id.to_be_bytes();
    }
    answer.clear();
    tracker.answer_datagram(now, from, &question, &mut answer);
    if question.get(..8) != Some(&id.to_be_bytes()) {
        assert!(answer.len() <= question.len(), "nobody is sent more than he has sent before he proved his address");
    }
    if answer.is_empty() {
        return;
    }
    let reply = udp_tracker::parse_reply(&answer, from.is_ipv6()).expect("what we answer is of BEP 15");
    assert_eq!(reply.transaction.to_be_bytes(), question[12..16]);
    match reply.body {
        ReplyBody::Announced(reply) => {
            assert!(reply.peers.len() <= 8 && reply.peers.iter().all(|peer| peer.port() != 0 && *peer != from));
        }
        ReplyBody::Refused(words) => assert_plain(&words),
        _ => {}
    }
}

fn over_http(tracker: &Tracker, path: &str, query: &[u8], ip: IpAddr) {
    let Some(body) = tracker.answer_query(path, query, ip) else { return };
    let scanned = bencode::scan(&body).expect("bencode");
    assert!(scanned.trailing == 0 && !scanned.unsorted);
    let root = scanned.root.as_dict().expect("a dictionary");
    match root.get("failure reason") {
        Some(reason) => assert_plain(reason.as_str().expect("words")),
        None => {
            let length = |key| root.get(key).and_then(|peers| peers.as_bytes()).map_or(0, <[u8]>::len);
            assert!(length("peers") / 6 + length("peers6") / 18 <= MAX_NUMWANT as usize);
            assert!(root.get("files").is_some() || root.get("interval").is_some());
        }
    }
}

/// Torrents, with peers and without.
fn known(store: &Store) -> usize {
    let totals = store.totals();
    totals.torrents + totals.idle_torrents
}

/// What the tracker has kept of its swarms. The first byte says whether the rest is a snapshot as it is, or the time and
/// the sections of one, each behind its length (2 bytes, little-endian), which get the checksums that they should have.
pub fn snapshot(data: &[u8]) {
    let Some((&how, rest)) = data.split_first() else { return };
    let bytes = if how & 1 == 1 { sealed_snapshot(rest) } else { rest.to_vec() };
    let (now, config) = (Instant::now(), StoreConfig { max_torrents: 100, max_peers: 50, ..StoreConfig::default() });
    let store = Store::new(config.clone(), now);
    let outcome = store.restore(now, SNAPSHOT_TIME, &mut &bytes[..]);
    store.check_invariants();
    match outcome {
        Ok(restored) => {
            assert_eq!(known(&store), restored.torrents);
            assert!(restored.torrents <= 100 && restored.peers <= 100 * restored.torrents);
            let mut again = Vec::new();
            store.save(now, SNAPSHOT_TIME, &mut again).expect("memory takes everything");
            let other = Store::new(config, now);
            let read = other.restore(now, SNAPSHOT_TIME, &mut &again[..]).expect("what is saved is read");
            assert_eq!((read, other.totals()), (restored, store.totals()));
        }
        Err(error) => {
            assert_plain(&error.to_string());
            assert_eq!(known(&store), 0, "all of it, or nothing");
        }
    }
}

/// What the clock says when a snapshot is read.
pub const SNAPSHOT_TIME: u64 = 1_000_000;

/// A snapshot of these sections, its checksums right.
pub fn sealed_snapshot(data: &[u8]) -> Vec<u8> {
    let (time, mut rest) = data.split_at(data.len().min(8));
    let mut out = b"btfstrk1".to_vec();
    out.extend_from_slice(time);
    out.resize(16, 0);
    let mut sections = 0_u32;
    while let Some((&length, behind)) = rest.split_first_chunk() {
        let (section, behind) = behind.split_at(usize::from(u16::from_le_bytes(length)).min(behind.len()));
        rest = behind;
        out.extend_from_slice(&(section.len() as u32).to_le_bytes());
        out.extend_from_slice(&crc32fast::hash(section).to_le_bytes());
        out.extend_from_slice(section);
        sections += 1;
    }
    out.extend_from_slice(&u32::MAX.to_le_bytes());
    out.extend_from_slice(&sections.to_le_bytes());
    out
}

/// What people look for, as words, and as the query of a URL.
pub fn search(data: &[u8]) {
    let library = library();
    let text = String::from_utf8_lossy(data);
    // A longer one is refused before it gets there.
    let query = Query { text: text.chars().take(MAX_QUERY_CHARS).collect(), ..Query::default() };
    let found = library.index.search(&query, &library.tracker.store, SystemTime::now()).expect("no query is wrong");
    assert!(found.total <= library.index.len() && found.hits.len() == found.total.min(PER_PAGE));
    for path in ["/", "/api/torrents", "/feed.atom"] {
        let Ok(uri) = format!("{path}?{text}").parse::<axum::http::Uri>() else { continue };
        let request = Request::get(uri).header("host", "127.0.0.1").body(Body::empty()).expect("a request");
        let (status, body) = library.runtime.block_on(async {
            let Ok(answer) = library.router.clone().oneshot(request).await;
            (answer.status(), to_bytes(answer.into_body(), usize::MAX).await.expect("a body"))
        });
        // A page past the last leads to the last.
        if status == StatusCode::SEE_OTHER {
            continue;
        }
        assert!(matches!(status, StatusCode::OK | StatusCode::BAD_REQUEST), "{status}");
        let body = String::from_utf8(body.to_vec()).expect("text");
        match path {
            "/api/torrents" => _ = serde_json::from_str::<serde_json::Value>(&body).expect("JSON"),
            // Nothing of the query is markup: there are as many tags as there would be without it.
            _ => assert!(!body.contains("<script>") && !body.contains("<img")),
        }
    }
}

/// An index with some torrents, for the life of the process.
struct Library {
    index: Index,
    tracker: Arc<Tracker>,
    router: Router,
    runtime: tokio::runtime::Runtime,
}

fn library() -> &'static Library {
    static LIBRARY: OnceLock<Library> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let directory = std::env::temp_dir().join(format!("btfs-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let index = Index::open(&directory.join("index.sqlite")).expect("an index");
        for name in
            ["Big Buck Bunny 1080p", "linux-6.18.tar.xz", "\u{6620}\u{753b}\u{9928} 2024", "na\u{ef}ve <b>", "x"]
        {
            let entry = NewEntry { path: vec![name.into()], length: 100, ..NewEntry::default() };
            let torrent = NewTorrent {
                name: name.into(),
                single_file: true,
                entries: vec![entry],
                piece_length: 1 << 16,
                pieces: vec![7; 20],
                comment: Some("and a comment".to_owned()),
                ..NewTorrent::default()
            };
            let (bytes, _) = torrent.write().expect("a torrent");
            let added = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
            index.add(bytes.into(), None, added).expect("it is added");
        }
        // What is open stays.
        let tracker = Arc::new(Tracker::new(StoreConfig::default(), Instant::now(), 1));
        let router = pages(index.clone(), tracker.clone(), PagesConfig::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        Library { index, tracker, router, runtime }
    })
}
