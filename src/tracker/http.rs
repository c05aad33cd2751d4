//! Announces and scrapes over HTTP (BEP 3, 7, 23, 31, 48), and `/health` for those who watch us.
//!
//! What a peer asks wrongly is answered by a bencoded failure with status 200, as clients expect; what is no HTTP is
//! answered 400, 414 or 431 and closed. Nothing a stranger sends is an error of ours, so there is no 500.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Extension, Request, State};
use axum::http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use super::store::{Announce, Event, Store};
use crate::proto::announce::{AnnounceEvent, AnnounceReply};
use crate::proto::http_tracker as wire;

/// Answers on `listener` until `shutdown` becomes true or its sender is gone; then what is being answered gets a second.
///
/// Sweeps the store, too.
pub async fn serve(listener: TcpListener, store: Arc<Store>, mut shutdown: watch::Receiver<bool>) {
    let router = Router::new()
        .route("/announce", get(announce))
        .route("/scrape", get(scrape))
        .route("/health", get(async || "ok\n"))
        .layer(middleware::from_fn(bounded))
        .with_state(store.clone());
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    let mut sweep = tokio::time::interval(SWEEP);
    loop {
        while connections.try_join_next().is_some() {}
        // Cancel-safe: accept, tick, changed and acquire lose nothing when another arm wins.
        tokio::select! {
            biased;
            () = async { _ = shutdown.wait_for(|&end| end).await } => break,
            _ = sweep.tick() => store.sweep(Instant::now()),
            (accepted, slot) = async {
                let slot = slots.clone().acquire_owned().await;
                (listener.accept().await, slot)
            } => match accepted {
                Ok((stream, peer)) => {
                    let router = router.clone();
                    connections.spawn(async move {
                        converse(stream, peer, router).await;
                        drop(slot);
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
    let _ =
        tokio::time::timeout(Duration::from_secs(1), async { while connections.join_next().await.is_some() {} }).await;
}

async fn converse(stream: TcpStream, peer: SocketAddr, router: Router) {
    let _ = stream.set_nodelay(true);
    let service = TowerToHyperService::new(router.layer(Extension(peer)));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_BUFFER_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    // The whole life is bounded, whoever is slow at what: peers come once in half an hour.
    match tokio::time::timeout(MAX_LIFE, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%peer, %error, "tracker connection ended"),
        Err(_) => tracing::debug!(%peer, "tracker connection took too long"),
    }
}

/// Refuses what is too long to be a peer's, and requests with a body, which nothing here has a use for.
async fn bounded(request: Request, next: Next) -> Response {
    let query = request.uri().query().map_or(0, str::len) + request.uri().path().len();
    let headers: usize = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    let refused = if query > MAX_QUERY_BYTES {
        StatusCode::URI_TOO_LONG
    } else if headers > MAX_HEADER_BYTES {
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
    } else if has_body(request.headers()) {
        StatusCode::BAD_REQUEST
    } else {
        return next.run(request).await;
    };
    (refused, [(CONNECTION, "close")]).into_response()
}

fn has_body(headers: &HeaderMap) -> bool {
    headers.contains_key("transfer-encoding") || headers.get("content-length").is_some_and(|length| length != "0")
}

async fn announce(State(store): State<Arc<Store>>, Extension(peer): Extension<SocketAddr>, uri: Uri) -> Response {
    let request = match wire::parse_announce(uri.query().unwrap_or_default().as_bytes()) {
        Ok(request) => request,
        Err(reason) => return bencoded(wire::write_failure(&reason.to_string())),
    };
    let reply = store.announce(
        Instant::now(),
        &Announce {
            info_hash: request.info_hash,
            addr: SocketAddr::new(peer.ip(), request.port),
            complete: request.left == 0,
            event: match request.event {
                AnnounceEvent::Stopped => Event::Stopped,
                AnnounceEvent::Completed => Event::Completed,
                AnnounceEvent::Started | AnnounceEvent::Periodic => Event::Regular,
            },
            wanted: Some(request.numwant as usize),
        },
    );
    bencoded(match reply {
        Some(reply) => wire::write_reply(&AnnounceReply {
            interval_seconds: Some(seconds(store.interval())),
            // A peer in need may come earlier, not more often than this.
            min_interval_seconds: Some(seconds(store.interval() / 2)),
            peers: reply.peers,
            complete: Some(count(reply.counts.seeds as u64)),
            incomplete: Some(count(reply.counts.leechers as u64)),
            external_ip: Some(peer.ip().to_canonical()),
            ..AnnounceReply::default()
        }),
        None => wire::write_failure("this tracker has no room for another torrent"),
    })
}

async fn scrape(State(store): State<Arc<Store>>, uri: Uri) -> Response {
    bencoded(match wire::parse_scrape(uri.query().unwrap_or_default().as_bytes(), MAX_SCRAPED) {
        Ok(hashes) => {
            let swarm = |info_hash| {
                let counts = store.scrape(&info_hash);
                wire::ScrapedSwarm {
                    info_hash,
                    complete: count(counts.seeds as u64),
                    downloaded: count(counts.completed),
                    incomplete: count(counts.leechers as u64),
                }
            };
            wire::write_scrape(&hashes.into_iter().map(swarm).collect::<Vec<_>>())
        }
        Err(reason) => wire::write_failure(&reason.to_string()),
    })
}

fn seconds(duration: Duration) -> u32 {
    count(duration.as_secs())
}

fn count(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn bencoded(body: Vec<u8>) -> Response {
    let headers =
        [(CONTENT_TYPE, HeaderValue::from_static("text/plain")), (CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    (headers, body).into_response()
}

/// A slow client has this long for its header, and an idle one between two requests.
const HEADER_TIMEOUT: Duration = Duration::from_secs(15);
const MAX_LIFE: Duration = Duration::from_secs(120);
const MAX_HEADERS: usize = 100;
const MAX_HEADER_BYTES: usize = 16 << 10;
const MAX_QUERY_BYTES: usize = 8 << 10;
/// More than the longest URI that hyper takes (64 KiB), so that too long a one gets its 414.
const MAX_BUFFER_BYTES: usize = 80 << 10;
const MAX_CONNECTIONS: usize = 4096;
const MAX_SCRAPED: usize = 100;
const SWEEP: Duration = Duration::from_secs(1);
