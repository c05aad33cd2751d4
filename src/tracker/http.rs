//! Announces and scrapes over HTTP (BEP 3, 7, 23, 24, 31, 48), statistics, `/health` for those who watch us, and whatever
//! pages somebody else has.
//!
//! What a peer asks wrongly is answered by a bencoded failure with status 200, as clients expect; what is no HTTP is
//! answered 400, 405, 414 or 431 and closed. Nothing a stranger sends is an error of ours, so there is no 500.

use std::cell::RefCell;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, TRANSFER_ENCODING};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tower::ServiceExt;

use super::access::Refusal;
use super::crowd::{Bounds, Crowd, Guest};
use super::pace::{PacedBody, PacedStream};
use super::stats::count;
use super::store::Announce;
use super::{NO_ROOM, ServeConfig, Tracker, forwarded, udp};
use crate::proto::announce::{AnnounceReply, Retry};
use crate::proto::http_tracker as wire;

/// Among the extensions of every request that pages get: who asks, also behind a proxy that is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Requester(pub IpAddr);

/// What all connections share.
pub(super) struct Http {
    tracker: Arc<Tracker>,
    config: ServeConfig,
    slots: Arc<Semaphore>,
    crowd: Arc<Crowd>,
}

impl Http {
    pub(super) fn new(tracker: Arc<Tracker>, config: ServeConfig) -> Self {
        let mut bounds: Bounds = config.bounds.clone();
        bounds.exempt.extend_from_slice(&config.trusted_proxies);
        let crowd = Arc::new(Crowd::new(bounds));
        Self { tracker, config, slots: Arc::new(Semaphore::new(MAX_CONNECTIONS)), crowd }
    }
}

/// Accepts until `shutdown`; then what is being answered gets a second.
pub(super) async fn listen(listener: TcpListener, http: Arc<Http>, mut shutdown: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    let ending = shutdown.clone();
    loop {
        while connections.try_join_next().is_some() {}
        // Cancel-safe: accept, changed and acquire lose nothing when another arm wins.
        tokio::select! {
            biased;
            () = async { _ = shutdown.wait_for(|&end| end).await } => break,
            (accepted, slot) = async {
                let slot = http.slots.clone().acquire_owned().await;
                (listener.accept().await, slot)
            } => match accepted {
                Ok((stream, peer)) => {
                    let Some(place) = http.crowd.enter(peer.ip()) else {
                        count(&http.tracker.stats.http.refused, 1);
                        // It fits into the socket's empty buffer, or is not said.
                        let _ = stream.try_write(CROWDED);
                        continue;
                    };
                    let (http, ending) = (http.clone(), ending.clone());
                    connections.spawn(async move {
                        // Cancel-safe: whoever has to leave is let go of as it is, waiting for a request.
                        tokio::select! {
                            () = converse(stream, peer, http, place.guest(), ending) => {}
                            () = place.guest().has_to_leave() => {
                                tracing::debug!(%peer, "tracker connection made room for another of its address");
                            }
                        }
                        drop((place, slot));
                    });
                }
                // Out of descriptors, or the peer has gone again: the next one, a little later.
                Err(error) => {
                    tracing::debug!(%error, "tracker cannot accept");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }
    drop(listener);
    let _ = tokio::time::timeout(LAST_WORDS, async { while connections.join_next().await.is_some() {} }).await;
}

async fn converse(
    stream: TcpStream,
    peer: SocketAddr,
    http: Arc<Http>,
    guest: &Guest,
    mut ending: watch::Receiver<bool>,
) {
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let http = http.clone();
        async move {
            let _busy = guest.answered();
            Ok::<_, Infallible>(respond(request, peer, &http).await)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_BUFFER_BYTES)
        .serve_connection(TokioIo::new(PacedStream::new(stream)), service);
    let mut connection = pin!(connection);
    // The whole life is bounded, whoever is slow at what: peers come once in half an hour. What is under way then, a long
    // upload to the pages say, has some time more; at our own end it has what the listener gives it.
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = tokio::time::sleep(MAX_LIFE) => None,
        _ = ending.wait_for(|&end| end) => None,
    };
    let ended = match ended {
        Some(ended) => Some(ended),
        None => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(MAX_REQUEST, connection).await.ok()
        }
    };
    match ended {
        Some(Ok(())) => {}
        Some(Err(error)) => tracing::debug!(%peer, %error, "tracker connection ended"),
        None => tracing::debug!(%peer, "tracker connection took too long"),
    }
}

/// What a path means.
enum Place<'r> {
    Announce(Option<&'r str>),
    Scrape(Option<&'r str>),
    Stats,
    Metrics,
    Health,
    Elsewhere,
}

impl<'r> Place<'r> {
    /// `/announce`, or with a passkey `/PASSKEY/announce`.
    fn of(path: &'r str) -> Self {
        match path {
            "/announce" => Self::Announce(None),
            "/scrape" => Self::Scrape(None),
            "/stats.json" => Self::Stats,
            "/metrics" => Self::Metrics,
            "/health" => Self::Health,
            _ => match path.strip_prefix('/').and_then(|path| path.split_once('/')) {
                Some((passkey, "announce")) if !passkey.is_empty() => Self::Announce(Some(passkey)),
                Some((passkey, "scrape")) if !passkey.is_empty() => Self::Scrape(Some(passkey)),
                _ => Self::Elsewhere,
            },
        }
    }
}

async fn respond(request: hyper::Request<Incoming>, peer: SocketAddr, http: &Http) -> Response {
    let tracker = &*http.tracker;
    let place = Place::of(request.uri().path());
    if let Some(refused) = refused(&request, matches!(place, Place::Elsewhere)) {
        count(&tracker.stats.http.malformed, 1);
        return closing(refused);
    }
    let ip = forwarded::client(peer, request.headers(), &http.config.trusted_proxies);
    let query = request.uri().query().unwrap_or_default().as_bytes();
    let body = match place {
        Place::Announce(passkey) => announce(tracker, passkey, ip, query),
        Place::Scrape(passkey) => scrape(tracker, passkey, query),
        Place::Stats => {
            let text = serde_json::to_vec(&tracker.summary(Instant::now())).unwrap_or_default();
            return fresh("application/json", text);
        }
        Place::Metrics => {
            return fresh("text/plain; version=0.0.4; charset=utf-8", tracker.summary(Instant::now()).to_prometheus());
        }
        Place::Health => return fresh("text/plain; charset=utf-8", "ok\n"),
        Place::Elsewhere => {
            let Some(pages) = &http.config.pages else { return StatusCode::NOT_FOUND.into_response() };
            let mut request: Request = request.map(|body| Body::new(PacedBody::new(body)));
            request.extensions_mut().insert(Requester(ip));
            return match pages.clone().oneshot(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            };
        }
    };
    count(&tracker.stats.http.received_bytes, (request.uri().path().len() + query.len()) as u64);
    count(&tracker.stats.http.sent_bytes, body.len() as u64);
    fresh("text/plain", body)
}

/// What is too long to be a peer's or a reader's, or has no place among announces.
fn refused(request: &hyper::Request<Incoming>, is_page: bool) -> Option<StatusCode> {
    let query = request.uri().query().map_or(0, str::len) + request.uri().path().len();
    let headers: usize = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if query > MAX_QUERY_BYTES {
        Some(StatusCode::URI_TOO_LONG)
    } else if headers > MAX_HEADER_BYTES {
        Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
    } else if is_page {
        // Of a request with a length as well nobody says any more which of both was meant: hyper drops the length.
        request.headers().contains_key(TRANSFER_ENCODING).then_some(StatusCode::BAD_REQUEST)
    } else if has_body(request.headers()) {
        Some(StatusCode::BAD_REQUEST)
    } else {
        (request.method() != Method::GET && request.method() != Method::HEAD).then_some(StatusCode::METHOD_NOT_ALLOWED)
    }
}

fn has_body(headers: &HeaderMap) -> bool {
    headers.contains_key("transfer-encoding") || headers.get("content-length").is_some_and(|length| length != "0")
}

fn announce(tracker: &Tracker, passkey: Option<&str>, ip: IpAddr, query: &[u8]) -> Vec<u8> {
    let counters = &tracker.stats.http;
    let request = match wire::parse_announce(query) {
        Ok(request) => request,
        Err(reason) => {
            count(&counters.malformed, 1);
            return wire::write_failure(&reason.to_string(), None);
        }
    };
    if let Err(refusal) = tracker.access.judge(&request.info_hash, passkey) {
        return refuse(tracker, refusal);
    }
    let announce = Announce {
        info_hash: request.info_hash,
        addr: SocketAddr::new(ip, request.port),
        complete: request.left == 0,
        event: udp::event(request.event),
        wanted: request.numwant as usize,
        uploaded: request.uploaded,
        downloaded: request.downloaded,
    };
    PEERS.with_borrow_mut(|peers| {
        peers.clear();
        let Ok((counts, moved)) = tracker.store.announce_by_user(Instant::now(), &announce, peers) else {
            count(&counters.refused, 1);
            return wire::write_failure(NO_ROOM, Some(Retry::Minutes(15)));
        };
        if let Some(passkey) = passkey {
            tracker.access.credit(passkey, moved);
        }
        count(&counters.announces, 1);
        let reply = AnnounceReply {
            interval_seconds: Some(seconds(tracker.store.interval())),
            // A peer in need may come earlier, not more often than this.
            min_interval_seconds: Some(seconds(tracker.store.interval() / 2)),
            complete: Some(short(counts.seeds as u64)),
            incomplete: Some(short(counts.leechers as u64)),
            downloaded: Some(short(counts.completed)),
            external_ip: Some(ip),
            ..AnnounceReply::default()
        };
        let (v4, v6): (&[u8], &[u8]) = if ip.is_ipv4() { (peers, &[]) } else { (&[], peers) };
        wire::write_compact_reply(&reply, v4, v6)
    })
}

fn scrape(tracker: &Tracker, passkey: Option<&str>, query: &[u8]) -> Vec<u8> {
    let mut hashes = match wire::parse_scrape(query, MAX_SCRAPED) {
        Ok(hashes) => hashes,
        Err(reason) => {
            count(&tracker.stats.http.malformed, 1);
            return wire::write_failure(&reason.to_string(), None);
        }
    };
    if let Err(refusal) = tracker.access.judge_passkey(passkey) {
        return refuse(tracker, refusal);
    }
    // Whoever asks of several hears of those that are let in.
    let mut refusal = None;
    hashes.retain(|hash| tracker.access.judge_lists(hash).map_err(|denied| refusal = Some(denied)).is_ok());
    if let (true, Some(refusal)) = (hashes.is_empty(), refusal) {
        return refuse(tracker, refusal);
    }
    count(&tracker.stats.http.scrapes, 1);
    let swarm = |info_hash| {
        let counts = tracker.scrape(&info_hash);
        wire::ScrapedSwarm {
            info_hash,
            complete: short(counts.seeds as u64),
            downloaded: short(counts.completed),
            incomplete: short(counts.leechers as u64),
        }
    };
    wire::write_scrape(&hashes.into_iter().map(swarm).collect::<Vec<_>>())
}

impl Tracker {
    /// The body that answers an announce or a scrape; `None`: the path is neither's. For tests: no HTTP around it.
    #[doc(hidden)]
    pub fn answer_query(&self, path: &str, query: &[u8], ip: IpAddr) -> Option<Vec<u8>> {
        match Place::of(path) {
            Place::Announce(passkey) => Some(announce(self, passkey, ip, query)),
            Place::Scrape(passkey) => Some(scrape(self, passkey, query)),
            _ => None,
        }
    }
}

fn refuse(tracker: &Tracker, refusal: Refusal) -> Vec<u8> {
    count(&tracker.stats.http.refused, 1);
    wire::write_failure(&refusal.to_string(), Some(refusal.retry()))
}

fn seconds(duration: Duration) -> u32 {
    short(duration.as_secs())
}

fn short(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// An answer that nobody keeps.
fn fresh(kind: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn closing(status: StatusCode) -> Response {
    let mut response = (status, [(CONNECTION, "close")]).into_response();
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}

thread_local! {
    /// The peers of the answer that is being written.
    static PEERS: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A slow client has this long for its header, an idle one between two requests. (Bodies and answers: `pace`.)
const HEADER_TIMEOUT: Duration = Duration::from_secs(15);
const MAX_LIFE: Duration = Duration::from_secs(120);
/// One request at most, beyond that.
const MAX_REQUEST: Duration = Duration::from_secs(600);
/// What is being answered when we end.
const LAST_WORDS: Duration = Duration::from_secs(1);
const MAX_HEADERS: usize = 100;
const MAX_HEADER_BYTES: usize = 16 << 10;
const MAX_QUERY_BYTES: usize = 8 << 10;
/// More than the longest URI that hyper takes (64 KiB), so that too long a one gets its 414.
const MAX_BUFFER_BYTES: usize = 80 << 10;
const MAX_CONNECTIONS: usize = 4096;
/// What one is told who has too many connections.
const CROWDED: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\nContent-Length: 42\r\n\
    Content-Type: text/plain; charset=utf-8\r\n\r\ntoo many connections from this address now";
const MAX_SCRAPED: usize = 100;
