//! Those who open many connections, say little or nothing, and those who only want to be served beside them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use btfs::tracker::{Bounds, ServeConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::{PATIENCE, Server, peers, statuses};

const MANY: usize = 150;
/// Polite requests take milliseconds; whoever waits for a slow client waits longer than this. The rest is for a busy machine.
const SERVED: Duration = Duration::from_secs(10);

fn server(connections: usize, pages: Option<Router>) -> Server {
    let bounds = Bounds { connections, ..Bounds::default() };
    Server::start_with("127.0.0.1".parse().unwrap(), ServeConfig { pages, bounds, ..ServeConfig::default() })
}

/// A connection from `ip`.
async fn from(ip: [u8; 4], server: &Server) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from((ip, 0))).unwrap();
    socket.connect(server.addr).await.unwrap()
}

/// One of those who never come to an end of their head: silent, or a byte a second. How long it was suffered.
async fn slow(mut stream: TcpStream, trickles: bool) -> Duration {
    let started = Instant::now();
    let _ = stream.write_all(b"GET /announce?info_hash=").await;
    let mut buffer = [0; 1024];
    while started.elapsed() < PATIENCE {
        match tokio::time::timeout(Duration::from_secs(1), stream.read(&mut buffer)).await {
            Ok(Ok(0) | Err(_)) => return started.elapsed(),
            // Whatever it says, it closes.
            Ok(Ok(_)) => {}
            Err(_) if trickles => _ = stream.write_all(b"a").await,
            Err(_) => {}
        }
    }
    panic!("still open after {PATIENCE:?}");
}

/// Asks politely until all of the slow have been dropped; the longest time that an answer took.
async fn beside_slow_ones(server: Server, ips: impl Fn(usize) -> [u8; 4]) {
    let mut streams = Vec::new();
    for number in 0..MANY {
        streams.push(from(ips(number), &server).await);
    }
    let gone = Arc::new(AtomicBool::new(false));
    let ended = gone.clone();
    let suffering = tokio::spawn(async move {
        let slow: Vec<_> = streams
            .into_iter()
            .enumerate()
            .map(|(number, stream)| tokio::spawn(slow(stream, number % 3 == 0)))
            .collect();
        let mut longest = Duration::ZERO;
        for slow in slow {
            longest = longest.max(slow.await.expect("it is dropped in time"));
        }
        ended.store(true, Ordering::Release);
        longest
    });
    let (mut worst, mut served) = (Duration::ZERO, 0);
    while !gone.load(Ordering::Acquire) && !suffering.is_finished() {
        let started = Instant::now();
        peers(&server.announce(1000, "&left=0").await);
        worst = worst.max(started.elapsed());
        assert!(worst < SERVED, "a polite request took {worst:?}");
        served += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let longest = suffering.await.expect("all are dropped in time");
    eprintln!("{served} served, the slowest in {worst:?}; slow ones were suffered for {longest:?} at most");
    assert!(served > 10);
}

#[tokio::test]
async fn slow_clients_of_one_address_are_dropped_and_keep_nobody_waiting() {
    // Those who ask politely come from the same address, and find room.
    beside_slow_ones(server(Bounds::usual().connections, None), |_| [127, 0, 0, 1]).await;
}

#[tokio::test]
async fn slow_clients_of_many_addresses_are_dropped_and_keep_nobody_waiting() {
    beside_slow_ones(server(Bounds::usual().connections, None), |number| [127, 0, 9, number as u8 + 1]).await;
}

#[tokio::test]
async fn slow_clients_are_dropped_where_nobody_is_bound() {
    beside_slow_ones(server(0, None), |_| [127, 0, 0, 1]).await;
}

#[tokio::test]
async fn of_one_address_only_so_many_are_answered_at_a_time_and_others_have_room() {
    let pages = Router::new().route("/upload", post(async |body: Bytes| body.len().to_string()));
    let server = server(4, Some(pages));
    let mut busy = Vec::new();
    for _ in 0..4 {
        let mut stream = from([127, 0, 0, 5], &server).await;
        stream
            .write_all(b"POST /upload HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n")
            .await
            .unwrap();
        // It is being answered: its body is asked for.
        let mut answer = [0; 25];
        stream.read_exact(&mut answer).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 100 "));
        busy.push(stream);
    }
    let mut fifth = from([127, 0, 0, 5], &server).await;
    let mut answer = String::new();
    fifth.read_to_string(&mut answer).await.unwrap();
    assert!(statuses(&answer) == [503] && answer.ends_with("too many connections from this address now"), "{answer}");
    let length = answer.split_once("\r\n\r\n").unwrap().1.len();
    assert!(answer.contains(&format!("Content-Length: {length}\r\n")), "{answer}");
    peers(&server.announce(1000, "&left=0").await);
    // One of them comes to its end: it waits for the next request, and makes room.
    busy[2].write_all(b"nine byte").await.unwrap();
    let mut answer = [0; 1024];
    let read = busy[2].read(&mut answer).await.unwrap();
    assert!(answer[..read].starts_with(b"HTTP/1.1 200 "));
    let mut sixth = from([127, 0, 0, 5], &server).await;
    sixth.write_all(b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    sixth.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("ok\n"), "{answer}");
    for (number, stream) in busy.iter_mut().enumerate().filter(|(number, _)| *number != 2) {
        stream.write_all(b"nine byte").await.unwrap();
        let mut answer = [0; 1024];
        let read = stream.read(&mut answer).await.unwrap();
        assert!(answer[..read].starts_with(b"HTTP/1.1 200 "), "{number} was not disturbed");
    }
}

#[tokio::test]
async fn who_is_exempt_or_a_trusted_proxy_is_not_bound() {
    let usual = Bounds { connections: 2, ..Bounds::usual() };
    let own = ServeConfig { bounds: usual, ..ServeConfig::default() };
    let trusted_proxies = vec!["127.0.0.6/32".parse().unwrap()];
    let proxy = ServeConfig {
        bounds: Bounds { connections: 2, ..Bounds::default() },
        trusted_proxies,
        ..ServeConfig::default()
    };
    for config in [own, proxy] {
        let server = Server::start_with("127.0.0.1".parse().unwrap(), config);
        let mut streams = Vec::new();
        for _ in 0..10 {
            streams.push(from([127, 0, 0, 6], &server).await);
        }
        for mut stream in streams {
            stream.write_all(b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.ends_with("ok\n"), "{answer}");
        }
    }
}
