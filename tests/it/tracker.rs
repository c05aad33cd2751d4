//! The tracker over real sockets: every request of the corpus, honest clients, slow and greedy ones.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use btfs::proto::bencode;
use btfs::tracker::{Store, StoreConfig, serve};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A tracker that ends with the test.
struct Server {
    addr: SocketAddr,
    store: Arc<Store>,
    _stop: watch::Sender<bool>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let store = Arc::new(Store::new(StoreConfig::default()));
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(serve(listener, store.clone(), stopped));
        Self { addr, store, _stop: stop }
    }

    /// Sends `bytes`, then reads until the server closes or is silent for a while.
    async fn exchange(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        // It may close before it has read all.
        let _ = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(Ok(read @ 1..)) = tokio::time::timeout(Duration::from_millis(700), stream.read(&mut buffer)).await
        {
            answer.extend_from_slice(&buffer[..read]);
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
        server.store.check_invariants();
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
}

#[tokio::test]
async fn slow_clients_are_dropped_and_keep_nobody_waiting() {
    let server = Server::start().await;
    let started = Instant::now();
    let mut slow = Vec::new();
    for _ in 0..150 {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        stream.write_all(b"GET /announce?info_hash=").await.unwrap();
        slow.push(stream);
    }
    let polite = Instant::now();
    peers(&server.announce(1000, "&left=0").await);
    assert!(polite.elapsed() < Duration::from_secs(1));
    for mut stream in slow {
        let left = Duration::from_secs(20).saturating_sub(started.elapsed());
        // Whatever it says, it closes.
        let closed = tokio::time::timeout(left, stream.read_to_end(&mut Vec::new())).await;
        assert!(closed.is_ok(), "still open after 20 s");
    }
}
