//! Requests at the bounds of what is taken, and bytes that are no HTTP or may be read in two ways.

use axum::Router;
use axum::body::Bytes;
use axum::routing::{get, post};
use btfs::tracker::ServeConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{PATIENCE, Server, statuses};

/// Everything that comes back until the server closes, which it has to.
async fn until_closed(server: &Server, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(server.addr).await.unwrap();
    // It may close before it has read all.
    let _ = stream.write_all(bytes).await;
    let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match tokio::time::timeout(PATIENCE, stream.read(&mut buffer)).await.expect("it closes") {
            Ok(read @ 1..) => answer.extend_from_slice(&buffer[..read]),
            // What was sent and not read makes it a reset.
            _ => return answer.iter().map(|&byte| char::from(byte)).collect(),
        }
    }
}

fn with_pages() -> Server {
    let pages = Router::new()
        .route("/", get(async || "page"))
        .route("/upload", post(async |body: Bytes| body.len().to_string()));
    let config = ServeConfig { pages: Some(pages), ..ServeConfig::default() };
    Server::start_with("127.0.0.1".parse().unwrap(), config)
}

#[tokio::test]
async fn requests_are_taken_up_to_their_bounds_and_not_beyond() {
    let server = with_pages();
    for place in ["/announce", "/"] {
        for (length, status) in [(8192, 200), (8193, 414), (60_000, 414), (200_000, 414)] {
            let query = "x".repeat(length - place.len());
            let answer = server.get(&format!("{place}?{query}")).await;
            assert!(
                statuses(&answer) == [status] || length > 100_000 && matches!(statuses(&answer)[..], [400 | 431]),
                "{place} {length}: {answer}"
            );
            if status != 200 {
                let request = format!("GET {place}?{query} HTTP/1.1\r\nHost: a\r\n\r\n");
                assert!(statuses(&until_closed(&server, request.as_bytes()).await).len() <= 1);
            }
        }
        // `Host: a` is one of them.
        for (count, status) in [(99, 200), (100, 431), (2000, 431)] {
            let lines: String = (0..count).map(|number| format!("X-{number}: y\r\n")).collect();
            let end = if status == 200 { "Connection: close\r\n" } else { "" };
            let lines = if status == 200 { lines.replacen("X-0: y\r\n", "", 1) } else { lines };
            let request = format!("GET {place} HTTP/1.1\r\nHost: a\r\n{lines}{end}\r\n");
            let answer = until_closed(&server, request.as_bytes()).await;
            assert!(
                statuses(&answer) == [status] || count > 1000 && statuses(&answer).is_empty(),
                "{place} {count}: {answer}"
            );
        }
        for (length, status) in [(16_000, 200), (16_500, 431), (70_000, 431)] {
            let end = if status == 200 { "Connection: close\r\n" } else { "" };
            let request = format!("GET {place} HTTP/1.1\r\nHost: a\r\n{end}X: {}\r\n\r\n", "y".repeat(length));
            let answer = until_closed(&server, request.as_bytes()).await;
            assert_eq!(statuses(&answer), [status], "{place} {length}");
        }
    }
}

#[tokio::test]
async fn what_may_be_read_in_two_ways_is_answered_once_and_closed() {
    let server = with_pages();
    // Whoever takes the length for another one finds a request of its own behind it.
    let hidden = "GET /health HTTP/1.1\r\nHost: a\r\n\r\n";
    let length = hidden.len();
    for (lines, body) in [
        (format!("Content-Length: {length}\r\nTransfer-Encoding: chunked"), "0\r\n\r\n"),
        (format!("Transfer-Encoding: chunked\r\nContent-Length: {length}"), "0\r\n\r\n"),
        (format!("Content-Length: 0\r\nContent-Length: {length}"), ""),
        (format!("Content-Length: 0, {length}"), ""),
        ("Content-Length: -1".to_owned(), ""),
        ("Content-Length: +0".to_owned(), ""),
        ("Content-Length: 0x0".to_owned(), ""),
        ("Content-Length: 99999999999999999999999999".to_owned(), ""),
        ("Transfer-Encoding: chunked, identity".to_owned(), "0\r\n\r\n"),
        ("Transfer-Encoding: xchunked".to_owned(), "0\r\n\r\n"),
        ("Transfer-Encoding : chunked".to_owned(), "0\r\n\r\n"),
        ("Transfer-Encoding: chunked".to_owned(), "ffffffffffffffffff\r\n"),
        ("Transfer-Encoding: chunked".to_owned(), "-1\r\n"),
        ("X: a\0b".to_owned(), ""),
        ("X: a\r\n folded: b".to_owned(), ""),
        ("\0".to_owned(), ""),
        (": nameless".to_owned(), ""),
    ] {
        for first in ["GET /announce", "POST /upload", "GET /"] {
            let request = format!("{first} HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n{body}{hidden}");
            let answer = until_closed(&server, request.as_bytes()).await;
            assert!(!answer.ends_with("ok\n"), "{first} {lines}: the hidden one was answered: {answer}");
            let found = statuses(&answer);
            // A page that does not look at the body has answered before it is known to be malformed.
            let fine = found == [400] || found.is_empty() || found == [200] && first != "GET /announce";
            assert!(fine, "{first} {lines}: {answer}");
        }
    }
    for raw in [
        "GET /announce\0 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET  /announce HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /announce HTTP/9.9\r\nHost: a\r\n\r\n",
        "GET\r\n\r\n",
        "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let answer = until_closed(&server, format!("{raw}{hidden}").as_bytes()).await;
        assert!(statuses(&answer) == [400] || answer.is_empty(), "{raw:?}: {answer}");
    }
    // Two requests that leave no doubt are two.
    let both = format!("{hidden}GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!(statuses(&until_closed(&server, both.as_bytes()).await), [200, 200]);
    assert_eq!(server.tracker.store.totals().torrents, 0);
}
