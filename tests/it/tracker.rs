//! The tracker over real sockets: every request of the corpus, honest clients, slow and greedy ones.

mod command;
mod hogs;
mod malformed;
mod udp;

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Extension};
use axum::routing::{get, post};
use btfs::base::InfoHash;
use btfs::proto::bencode;
use btfs::tracker::{Requester, ServeConfig, Sockets, StoreConfig, Tracker, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A tracker that ends with the test.
struct Server {
    addr: SocketAddr,
    tracker: Arc<Tracker>,
    stop: watch::Sender<bool>,
    served: JoinHandle<std::io::Result<()>>,
}

impl Server {
    async fn start() -> Self {
        Self::start_with("127.0.0.1".parse().unwrap(), ServeConfig::default())
    }

    fn start_with(ip: IpAddr, config: ServeConfig) -> Self {
        let sockets = Sockets::open(&[SocketAddr::new(ip, 0)], 2).unwrap();
        let addr = sockets.addrs()[0];
        let tracker = Arc::new(Tracker::new(StoreConfig::default(), Instant::now(), sockets.udp_workers()));
        let (stop, stopped) = watch::channel(false);
        let served = tokio::spawn(serve(sockets, tracker.clone(), config, stopped));
        Self { addr, tracker, stop, served }
    }

    /// Sends `bytes`, then reads until the server closes, or is silent after a whole answer.
    async fn exchange(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        // It may close before it has read all.
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            // A second answer, which there must not be, would come with the first.
            let silence = if is_whole(&answer) { Duration::from_millis(300) } else { PATIENCE };
            match tokio::time::timeout(silence, stream.read(&mut buffer)).await {
                Ok(Ok(read @ 1..)) => answer.extend_from_slice(&buffer[..read]),
                _ => break,
            }
        }
        answer.iter().map(|&byte| char::from(byte)).collect()
    }

    async fn get(&self, path: &str) -> String {
        self.exchange(format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes()).await
    }

    async fn announce(&self, port: u16, more: &str) -> String {
        self.get(&format!("/announce?info_hash={}&peer_id=-XX0001-000000000000&port={port}{more}", "%07".repeat(20)))
            .await
    }
}

/// Whether these bytes end with the body of an answer whose head says how long it is.
fn is_whole(answer: &[u8]) -> bool {
    let text: String = answer.iter().map(|&byte| char::from(byte.to_ascii_lowercase())).collect();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    length.is_some_and(|length: usize| body.chars().count() >= length)
}

/// Statuses of all answers in the bytes that came back.
fn statuses(answer: &str) -> Vec<u16> {
    answer.match_indices("HTTP/1.1 ").filter_map(|(at, _)| answer.get(at + 9..at + 12)?.parse().ok()).collect()
}

fn body(answer: &str) -> Vec<u8> {
    let at = answer.find("\r\n\r\n").expect("a head") + 4;
    answer[at..].chars().map(|c| c as u8).collect()
}

fn failed(answer: &str) -> bool {
    let body = body(answer);
    let root = bencode::scan(&body).expect("bencode").root.as_dict().expect("a dictionary");
    root.get("failure reason").is_some()
}

fn peers(answer: &str) -> Vec<u8> {
    let body = body(answer);
    let root = bencode::scan(&body).expect("bencode").root.as_dict().expect("a dictionary");
    assert!(root.get("failure reason").is_none(), "{answer}");
    root.get("peers").and_then(|peers| peers.as_bytes()).expect("peers").to_vec()
}

#[tokio::test]
async fn every_request_of_the_corpus_gets_its_outcome() {
    let directory = Path::new("tests/corpus/wire");
    let table = std::fs::read_to_string(directory.join("expected_wire.tsv")).unwrap();
    let mut seen = 0;
    for row in table.lines().filter(|row| row.split('\t').nth(1) == Some("http-tracker-request")) {
        let columns: Vec<_> = row.split('\t').collect();
        let (file, expected) = (columns[0], columns[3]);
        let server = Server::start().await;
        let answer = server.exchange(&std::fs::read(directory.join(file)).unwrap()).await;
        let found = statuses(&answer);
        let context = format!("{file}: expected {expected}, got {found:?} {}", answer.get(..300).unwrap_or(&answer));
        assert!(found.len() <= 1 && found.iter().all(|status| *status < 500), "{context}");
        assert!(!answer.contains("root:") && !answer.contains("<script>"), "{context}");
        let status = found.first().copied();
        let right = match file {
            // Parts of the index and the control pages, which this tracker has none of.
            "htreq-rebind-host.bin" | "htreq-csrf-origin.bin" | "htreq-xss-search.bin" => {
                matches!(status, Some(400 | 403 | 404))
            }
            _ => match expected {
                "200" | "200 with bencoded peers" | "200, default count" | "200, at most the cap (200)" => {
                    status == Some(200) && peers(&answer).len() <= 200 * 6
                }
                "200; the stored address is the socket's" => {
                    // Another peer is told of the first.
                    let sample = std::fs::read_to_string(directory.join(file)).unwrap();
                    let second = server.exchange(sample.replace("port=6881", "port=6882").as_bytes()).await;
                    status == Some(200) && peers(&second) == [127, 0, 0, 1, 0x1a, 0xe1]
                }
                "failure reason" => status == Some(200) && failed(&answer),
                "200 with failure reason, or 400" => status == Some(400) || status == Some(200) && failed(&answer),
                "200 for the first, or failure reason" => status == Some(200),
                _ if file == "htreq-left-huge.bin" => status == Some(200) && failed(&answer),
                _ if expected.starts_with("200 or failure reason") => status == Some(200),
                "414 or 400 or close" => matches!(status, Some(414 | 400) | None),
                "431 or 400 or close" => matches!(status, Some(431 | 400) | None),
                "400 and close" | "400" => status == Some(400),
                "400 or served; one answer only" => matches!(status, Some(400 | 404)),
                "400 or 404, no file content" => matches!(status, Some(400 | 404)),
                other => panic!("an outcome that this test does not know: {other}"),
            },
        };
        assert!(right, "{context}");
        server.tracker.store.check_invariants();
        seen += 1;
    }
    assert_eq!(seen, 26);
}

#[tokio::test]
async fn peers_find_each_other_and_leave() {
    let server = Server::start().await;
    assert!(peers(&server.announce(1000, "&left=0").await).is_empty());
    assert_eq!(peers(&server.announce(2000, "&left=5&event=started&ip=8.8.8.8").await), [127, 0, 0, 1, 3, 232]);
    assert_eq!(peers(&server.announce(1000, "&left=0").await), [127, 0, 0, 1, 7, 208]);
    let scraped = server.get(&format!("/scrape?info_hash={}", "%07".repeat(20))).await;
    let expected = [&b"d5:filesd20:"[..], &[7; 20], b"d8:completei1e10:downloadedi0e10:incompletei1eeee"].concat();
    assert_eq!(body(&scraped), expected);
    server.announce(1000, "&left=0&event=stopped").await;
    assert!(peers(&server.announce(2000, "&left=5").await).is_empty());
    assert!(failed(&server.get("/scrape").await), "nobody is told of every torrent");
    assert!(server.get("/health").await.ends_with("ok\n"));
    assert_eq!(server.tracker.store.totals().torrents, 1);
}

#[tokio::test]
async fn statistics_are_told_in_both_formats() {
    let server = Server::start().await;
    server.announce(1000, "&left=0").await;
    server.announce(2000, "&left=5").await;
    server.get("/announce").await;
    let summary: serde_json::Value = serde_json::from_slice(&body(&server.get("/stats.json").await)).unwrap();
    assert_eq!((&summary["torrents"], &summary["seeds"], &summary["leechers"]), (&1.into(), &1.into(), &1.into()));
    assert_eq!((&summary["http"]["announces"], &summary["http"]["malformed"]), (&2.into(), &1.into()), "{summary}");
    let text = server.get("/metrics").await;
    assert!(text.contains("text/plain; version=0.0.4") && text.contains("\nbtfs_tracker_seeds 1\n"), "{text}");
}

#[tokio::test]
async fn only_what_is_listed_is_tracked_and_the_list_changes_while_it_runs() {
    let server = Server::start().await;
    let hash = InfoHash([7; 20]);
    server.announce(1000, "&left=0").await;
    server.tracker.access.set_listed_only(true);
    let refused = server.announce(2000, "&left=5").await;
    assert!(failed(&refused) && refused.contains("8:retry ini30e"), "{refused}");
    // Nothing is told of it either, though it is in memory.
    let path = format!("/scrape?info_hash={}", "%07".repeat(20));
    assert!(server.get(&path).await.contains("8:completei0e"));
    server.tracker.access.list(hash);
    assert_eq!(peers(&server.announce(2000, "&left=5").await), [127, 0, 0, 1, 3, 232]);
    assert!(server.get(&path).await.contains("8:completei1e"));
}

#[tokio::test]
async fn a_private_tracker_wants_a_passkey_in_the_path() {
    let server = Server::start().await;
    server.tracker.access.set_private(true);
    server.tracker.access.admit("s3cret");
    let query = format!("info_hash={}&peer_id=-XX0001-000000000000&port=1&left=0", "%07".repeat(20));
    let refused = server.get(&format!("/announce?{query}")).await;
    assert!(failed(&refused) && refused.contains("8:retry in5:never"), "{refused}");
    for key in ["wrong", "S3cret", "s3cret%00", "s3cre"] {
        assert!(failed(&server.get(&format!("/{key}/announce?{query}")).await), "{key}");
        assert!(failed(&server.get(&format!("/{key}/scrape?{query}")).await), "{key}");
    }
    assert!(peers(&server.get(&format!("/s3cret/announce?{query}")).await).is_empty());
    assert!(server.get(&format!("/s3cret/scrape?{query}")).await.contains("8:completei1e"));
    assert_eq!(statuses(&server.get(&format!("/a/s3cret/announce?{query}")).await), [404]);
}

#[tokio::test]
async fn a_proxy_that_is_trusted_says_whose_address_counts() {
    let trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    let server =
        Server::start_with("127.0.0.1".parse().unwrap(), ServeConfig { trusted_proxies, ..ServeConfig::default() });
    let forwarded = |port: u16, ip: &str| {
        let (hash, port) = ("%07".repeat(20), port.to_string());
        let path = format!("/announce?info_hash={hash}&peer_id=-XX0001-000000000000&port={port}&left=5");
        format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 9.9.9.9, {ip}\r\nConnection: close\r\n\r\n")
    };
    peers(&server.exchange(forwarded(1000, "192.0.2.1").as_bytes()).await);
    let told = peers(&server.exchange(forwarded(2000, "192.0.2.2").as_bytes()).await);
    assert_eq!(told, [192, 0, 2, 1, 3, 232]);
    // Not believed by one that trusts nobody.
    let server = Server::start().await;
    peers(&server.exchange(forwarded(1000, "192.0.2.1").as_bytes()).await);
    let told = peers(&server.exchange(forwarded(2000, "192.0.2.2").as_bytes()).await);
    assert_eq!(told, [127, 0, 0, 1, 3, 232]);
}

#[tokio::test]
async fn pages_are_served_beside_the_tracker() {
    let who = async |Extension(Requester(ip)): Extension<Requester>| ip.to_string();
    let pages = Router::new()
        .route("/", get(who))
        .route("/announce", get(async || "never"))
        .route("/upload", post(async |body: String| body.len().to_string()))
        .layer(DefaultBodyLimit::max(1000));
    let config = ServeConfig { pages: Some(pages), ..ServeConfig::default() };
    let server = Server::start_with("127.0.0.1".parse().unwrap(), config);
    assert!(server.get("/").await.ends_with("\r\n\r\n127.0.0.1"));
    assert!(peers(&server.announce(1000, "&left=0").await).is_empty());
    assert_eq!(statuses(&server.get("/none").await), [404]);
    let post = |path: &str, length: usize| {
        let body = "x".repeat(length);
        format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
    };
    assert!(server.exchange(post("/upload", 900).as_bytes()).await.ends_with("900"));
    assert_eq!(statuses(&server.exchange(post("/upload", 1001).as_bytes()).await), [413]);
    // Two lengths, in either order, and none: never two answers.
    for lengths in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 4",
        "Transfer-Encoding: chunked",
    ] {
        let smuggled = "0\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let request = format!("POST /upload HTTP/1.1\r\nHost: a\r\n{lengths}\r\n\r\n{smuggled}");
        assert_eq!(statuses(&server.exchange(request.as_bytes()).await), [400], "{lengths}");
    }
    assert_eq!(statuses(&server.exchange(post("/announce", 1).as_bytes()).await), [400]);
    assert_eq!(statuses(&server.exchange(post("/stats.json", 0).as_bytes()).await), [405]);
}

#[tokio::test]
async fn the_end_waits_for_nobody_who_is_idle() {
    let server = Server::start().await;
    let mut idle = TcpStream::connect(server.addr).await.unwrap();
    let request = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n";
    idle.write_all(request).await.unwrap();
    let mut answer = [0; 1024];
    assert!(idle.read(&mut answer).await.unwrap() > 0);
    server.stop.send(true).unwrap();
    tokio::time::timeout(Duration::from_secs(10), server.served).await.expect("it ends").unwrap().unwrap();
    assert_eq!(idle.read(&mut answer).await.unwrap_or(0), 0, "it is closed");
    Sockets::open(&[server.addr], 1).expect("the port is free again");
}

#[tokio::test]
async fn an_upload_that_falls_silent_is_dropped() {
    let pages = Router::new().route("/upload", post(async |body: String| body));
    let config = ServeConfig { pages: Some(pages), ..ServeConfig::default() };
    let server = Server::start_with("127.0.0.1".parse().unwrap(), config);
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream.write_all(b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf of it").await.unwrap();
    let mut answer = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(25), stream.read_to_end(&mut answer)).await;
    assert!(closed.is_ok(), "still open after 25 s");
    assert!(!answer.starts_with(b"HTTP/1.1 2") && !answer.starts_with(b"HTTP/1.1 5"), "{answer:?}");
}

#[tokio::test]
async fn a_reader_who_takes_nearly_nothing_is_dropped() {
    let under_way = Arc::new(());
    let held = Arc::clone(&under_way);
    let big = async move || Bytes::from_owner(Held { bytes: vec![7; 16 << 20], _held: Arc::clone(&held) });
    let config = ServeConfig { pages: Some(Router::new().route("/big", get(big))), ..ServeConfig::default() };
    let server = Server::start_with("127.0.0.1".parse().unwrap(), config);
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    stream.write_all(b"GET /big HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let (mut buffer, mut taken) = ([0; 100], stream.read(&mut [0; 100]).await.unwrap());
    let dropped = async {
        // One is ours, one that of the page.
        while Arc::strong_count(&under_way) > 2 {
            taken += stream.read(&mut buffer).await.unwrap_or(0);
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    };
    tokio::time::timeout(PATIENCE, dropped).await.expect("the answer is kept for one who takes 400 bytes a second");
    assert!(taken > 0 && taken < 1 << 20, "{taken}");
}

/// An answer that can be seen to be under way.
struct Held {
    bytes: Vec<u8>,
    _held: Arc<()>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A head must come within 15 s; the rest is for a busy machine.
const PATIENCE: Duration = Duration::from_secs(45);
