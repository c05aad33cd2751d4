//! The HTTP client against servers that answer with recorded, wrong, endless and hostile bytes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use btfs::base::{InfoHash, PeerId};
use btfs::engine::{
    AnnounceEvent, AnnounceOutcome, Announcement, Retry, Scrape, ScrapeOutcome, ScrapeReply, TrackerId,
};
use btfs::net::TrackerClient;
use btfs::net::http::{HttpClient, HttpError, Purpose, fetch_torrent};
use btfs::net::udp_tracker::UdpTrackers;

/// A server that reads the head of one request per connection and then does as it was told.
struct RawServer {
    addr: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    sent: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl RawServer {
    /// `answer` gets the number of the request, the connection, and what counts the bytes.
    fn start(answer: impl Fn(usize, &mut TcpStream, &AtomicUsize) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            addr: listener.local_addr().unwrap(),
            heads: Arc::default(),
            sent: Arc::default(),
            stop: Arc::default(),
        };
        let (heads, sent, stop) = (server.heads.clone(), server.sent.clone(), server.stop.clone());
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let mut stream = stream.unwrap();
                let patience = Some(Duration::from_secs(10));
                stream.set_read_timeout(patience).and(stream.set_write_timeout(patience)).unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    if stream.read(&mut byte).unwrap_or(0) == 0 {
                        break;
                    }
                    head.push(byte[0]);
                }
                heads.lock().unwrap().push(String::from_utf8_lossy(&head).into_owned());
                answer(number, &mut stream, &sent);
            }
        });
        server
    }

    fn saying(bytes: Vec<u8>) -> Self {
        Self::start(move |_, stream, _| {
            let _ = stream.write_all(&bytes);
        })
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

impl Drop for RawServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.addr);
    }
}

fn recorded(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/corpus/wire/{name}.bin", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn client() -> TrackerClient {
    TrackerClient {
        http: HttpClient::new(None).with_patience(Duration::from_secs(5)),
        udp: UdpTrackers::new(None),
        info_hash: InfoHash([0xab; 20]),
        peer_id: PeerId(*b"-FS0100-abcdefghijkl"),
        port: 6881,
        key: 7,
        turns: Arc::new(tokio::sync::Semaphore::new(8)),
    }
}

async fn announce(url: String) -> AnnounceOutcome {
    let announcement = Announcement {
        tracker: TrackerId(0),
        url,
        event: AnnounceEvent::Started,
        uploaded: 1,
        downloaded: 2,
        left: 3,
        numwant: 50,
        tracker_id: None,
    };
    client().announce(announcement).await
}

#[tokio::test]
async fn recorded_replies_have_their_outcome() {
    enum Expected {
        Peers(usize),
        Failure(&'static str),
    }
    use Expected::{Failure, Peers};
    for (name, expected) in [
        ("htres-ok-compact", Peers(1)),
        ("htres-ok-trailing", Peers(1)),
        ("htres-html", Failure("not bencoded")),
        ("htres-empty", Failure("not bencoded")),
        ("htres-peers-7", Peers(0)),
        ("htres-port-0", Peers(0)),
        ("htres-interval-neg", Peers(0)),
        ("htres-interval-0", Peers(0)),
        ("htres-interval-huge", Peers(0)),
        ("htres-deep", Failure("nesting")),
        ("htres-failure-ansi", Failure("\\u{1b}[2J<script>")),
        ("htres-cl-huge", Failure("longer than 1048576")),
        ("htres-no-header-end", Failure("bad answer")),
        ("htres-chunk-huge", Failure("bad answer")),
        ("htres-redirect-file", Failure("leads nowhere")),
        ("htres-redirect-loop", Failure("more than 5 redirects")),
    ] {
        let server = RawServer::saying(recorded(name));
        let outcome = announce(server.url("/announce")).await;
        match (&outcome, expected) {
            (AnnounceOutcome::Answered { peers, .. }, Peers(count)) if peers.len() == count => {}
            (AnnounceOutcome::Failed { reason, .. }, Failure(part)) if reason.contains(part) => {
                assert!(!reason.contains(char::is_control), "{name}: {reason:?}");
            }
            _ => panic!("{name}: {outcome:?}"),
        }
        assert!(server.heads().len() <= 6, "{name}: {} requests", server.heads().len());
    }
}

#[tokio::test]
async fn an_announce_keeps_every_byte_of_the_query_and_asks_for_no_compression() {
    let server = RawServer::saying(recorded("htres-ok-compact"));
    announce(server.url("/x/announce?passkey=a%2fB~'%7e")).await;
    let head = server.heads().remove(0);
    let line = head.lines().next().unwrap();
    assert!(line.starts_with("GET /x/announce?passkey=a%2fB~"), "{line}");
    assert!(line.contains("&info_hash=%AB%AB") && line.contains("&event=started") && line.contains("key=00000007"));
    assert!(!head.to_ascii_lowercase().contains("accept-encoding"), "{head}");
}

#[tokio::test]
async fn a_refusal_with_a_status_tells_its_reason() {
    let refusal = "HTTP/1.1 403 Forbidden\r\nContent-Length: 34\r\n\r\nd14:failure reason12:no such usere";
    let server = RawServer::saying(refusal.into());
    let AnnounceOutcome::Failed { reason, .. } = announce(server.url("/announce")).await else { panic!() };
    assert!(reason.contains("no such user"), "{reason}");
    let server = RawServer::saying(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n".to_vec());
    let AnnounceOutcome::Failed { reason, .. } = announce(server.url("/announce")).await else { panic!() };
    assert!(reason.contains("503"), "{reason}");
}

#[tokio::test]
async fn failures_are_told_in_words_and_when_to_come_again() {
    for (body, words, heeded) in [
        ("d14:failure reason4:busy8:retry ini5ee", "says: busy (and to come again in 5 min)", Some(Retry::Minutes(5))),
        ("d14:failure reason2:no8:retry in5:nevere", "says: no (and never to come again)", Some(Retry::Never)),
    ] {
        let server =
            RawServer::saying(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into());
        let AnnounceOutcome::Failed { reason, retry } = announce(server.url("/announce")).await else { panic!() };
        assert_eq!((reason.as_str(), retry), (words, heeded));
    }
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    // No part of a name has more than 63 bytes: nobody has to be asked about this one.
    let name = "x".repeat(64);
    for (url, words) in [
        (format!("http://{closed}/announce"), "refused: connection"),
        (format!("http://{name}.invalid/announce"), "its name cannot be looked up"),
    ] {
        let AnnounceOutcome::Failed { reason, .. } = announce(url.clone()).await else { panic!("{url}") };
        assert!(reason.starts_with(words), "{url}: {reason}");
    }
}

#[tokio::test]
async fn a_tracker_is_scraped_beside_its_announce() {
    let files = [&b"d5:filesd20:"[..], &[0xab; 20], b"d8:completei4e10:downloadedi9e10:incompletei2eeee"].concat();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", files.len());
    let server = RawServer::saying([head.into_bytes(), files].concat());
    let scrape = |url| Scrape { tracker: TrackerId(0), url };
    let figures =
        ScrapeReply { complete: Some(4), downloaded: Some(9), incomplete: Some(2), min_interval_seconds: None };
    let outcome = client().scrape(scrape(server.url("/x/announce?passkey=a%2fB"))).await;
    assert_eq!(outcome, ScrapeOutcome::Answered(figures));
    let heads = server.heads();
    assert!(heads[0].starts_with("GET /x/scrape?passkey=a%2fB&info_hash=%AB%AB"), "{heads:?}");
    for url in [server.url("/a"), server.url("/announce/passkey"), "ws://127.0.0.1:1/announce".to_owned()] {
        assert_eq!(client().scrape(scrape(url)).await, ScrapeOutcome::Impossible);
    }
    let refusing = RawServer::saying(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec());
    assert_eq!(client().scrape(scrape(refusing.url("/announce"))).await, ScrapeOutcome::Failed);
    assert_eq!(client().scrape(scrape(refusing.url("/announcement"))).await, ScrapeOutcome::Failed);
    assert_eq!((server.heads().len(), refusing.heads().len()), (1, 1), "nothing else of this host was asked");
}

#[tokio::test]
async fn a_body_is_read_up_to_its_bound_and_no_further() {
    let server = RawServer::start(|_, stream, sent| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        while let Ok(written @ 1..) = stream.write(&[b'd'; 16384]) {
            sent.fetch_add(written, Ordering::Relaxed);
        }
    });
    let AnnounceOutcome::Failed { reason, .. } = announce(server.url("/announce")).await else { panic!() };
    assert!(reason.contains("longer than 1048576"), "{reason}");
    let sent = server.sent.load(Ordering::Relaxed);
    assert!(sent < 16 << 20, "{sent} bytes were taken, socket buffers included");
}

#[tokio::test]
async fn chunks_without_end_are_read_up_to_a_bound() {
    // Chunks of a byte, one extension, trailers, 64 MiB of zeros at once.
    for (head, more) in [
        ("", &b"1\r\nd\r\n"[..]),
        ("1;", b"x=yxxxxxxxxxxxxxx"),
        ("0\r\n", b"X-More: of the same\r\n"),
        ("4000000\r\n", &[0; 1000]),
    ] {
        let (head, more) = (head.to_owned(), more.repeat(16));
        let server = RawServer::start(move |_, stream, sent| {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            let _ = stream.write_all(head.as_bytes());
            while let Ok(written @ 1..) = stream.write(&more) {
                sent.fetch_add(written, Ordering::Relaxed);
            }
        });
        let outcome = announce(server.url("/announce")).await;
        assert!(matches!(outcome, AnnounceOutcome::Failed { .. }), "{outcome:?}");
        let sent = server.sent.load(Ordering::Relaxed);
        assert!(sent < 32 << 20, "{sent} bytes were taken, socket buffers included");
    }
}

#[tokio::test]
async fn a_body_that_trickles_is_given_up_in_time() {
    let server = RawServer::start(|_, stream, _| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
        for _ in 0..100 {
            if stream.write_all(b"d").is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let client = HttpClient::new(None).with_patience(Duration::from_millis(400));
    let started = Instant::now();
    let answer = client.get(&server.url("/x"), Purpose::Document, 2000).await;
    assert_eq!(answer, Err(HttpError::Timeout));
    assert!(started.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn compressed_answers_are_refused() {
    let server =
        RawServer::saying(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nde".to_vec());
    let answer = HttpClient::new(None).get(&server.url("/"), Purpose::Document, 100).await;
    assert_eq!(answer, Err(HttpError::Compressed));
}

#[tokio::test]
async fn redirects_are_followed_to_announce_paths_only_on_this_host() {
    let target = Arc::new(RawServer::saying(recorded("htres-ok-compact")));
    let redirect = |location: String| {
        RawServer::saying(
            format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n").into_bytes(),
        )
    };
    let good = redirect(target.url("/announce?key=1"));
    assert!(matches!(announce(good.url("/announce")).await, AnnounceOutcome::Answered { .. }));
    assert_eq!(target.heads().len(), 1);
    for (path, location) in [
        ("/announce", target.url("/admin")),
        ("/announce", "http://169.254.169.254/latest/meta-data".to_owned()),
        ("/announce", format!("http://localhost:{}/shutdown", target.addr.port())),
        ("/announce", format!("http://[::ffff:127.0.0.1]:{}/", target.addr.port())),
        ("/announce", format!("http://0.0.0.0:{}/", target.addr.port())),
        ("/announce", format!("http://2130706433:{}/", target.addr.port())),
    ] {
        let bad = redirect(location.clone());
        let outcome = announce(bad.url(path)).await;
        let AnnounceOutcome::Failed { reason, .. } = outcome else { panic!("{location}: {outcome:?}") };
        assert!(reason.contains("local address"), "{location}: {reason}");
        assert_eq!(target.heads().len(), 1, "{location} was asked");
    }
}

#[tokio::test]
async fn a_torrent_cannot_name_other_services_of_this_host() {
    let server = RawServer::saying(recorded("htres-ok-compact"));
    for url in [server.url("/admin"), format!("http://localhost:{}/admin?x=announce", server.addr.port())] {
        let AnnounceOutcome::Failed { reason, .. } = announce(url.clone()).await else { panic!("{url}") };
        assert!(reason.contains("local address"), "{url}: {reason}");
    }
    for url in ["wss://tracker.example", "file:///etc/passwd"] {
        assert!(matches!(announce(url.to_owned()).await, AnnounceOutcome::Failed { .. }), "{url}");
    }
    assert!(server.heads().is_empty());
}

#[tokio::test]
async fn a_document_is_fetched_through_redirects_and_errors_hide_the_url() {
    let document = RawServer::start(|number, stream, _| {
        let answer: &[u8] = match number {
            0 => b"HTTP/1.1 301 Moved\r\nLocation: real.torrent\r\nContent-Length: 0\r\n\r\n",
            1 => b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nde",
            _ => b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        };
        let _ = stream.write_all(answer);
    });
    assert_eq!(fetch_torrent(&document.url("/t/x.torrent"), None).await.unwrap(), "de");
    assert!(document.heads()[1].starts_with("GET /t/real.torrent "));
    let missing = fetch_torrent(&document.url("/t?passkey=secret"), None).await.unwrap_err();
    assert!(missing.to_string().contains("404"), "{missing}");
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let refused = fetch_torrent(&format!("http://{closed}/t?passkey=secret"), None).await.unwrap_err();
    assert!(matches!(refused, HttpError::Refused) && !refused.to_string().contains("secret"), "{refused}");
    assert_eq!(fetch_torrent("ftp://host/x", None).await, Err(HttpError::Url));
}
