//! Answers that are long, and readers that are slow: what they keep in memory is bounded.

use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use btfs::tracker::web::PagesConfig;
use btfs::tracker::{Bounds, Requester};
use tower::ServiceExt;

use super::Site;
use crate::index::torrents::{Torrent, named};

/// 24 MiB of piece hashes.
fn long() -> Torrent<'static> {
    Torrent { length: 80 << 30, ..named("long") }
}

#[tokio::test]
async fn long_answers_wait_for_their_readers_within_a_bound() {
    let site = Site::new();
    site.add(&long());
    let path = format!("/torrent/{}.torrent", long().info_hash());
    let ask = async || {
        let request = Request::get(&path).header("host", "127.0.0.1").body(Body::empty()).unwrap();
        site.router.clone().oneshot(request).await.unwrap()
    };
    let mut kept = Vec::new();
    let refused = loop {
        assert!(kept.len() < 20, "20 answers of 25 MB are kept, and a further one is given");
        let answer = ask().await;
        if answer.status() != StatusCode::OK {
            break answer;
        }
        // As the server does: it takes all of the body, and keeps the bytes until they are sent.
        kept.push(to_bytes(answer.into_body(), usize::MAX).await.unwrap());
    };
    assert!(kept.len() >= 4 && kept[0] == long().bytes(), "{} answers", kept.len());
    assert_eq!(
        (refused.status(), refused.headers()["retry-after"].as_bytes()),
        (StatusCode::SERVICE_UNAVAILABLE, &b"5"[..])
    );
    assert!(refused.headers().contains_key("content-security-policy"));
    // What is short is not held up by what is long.
    assert_eq!(site.get("/").await.status, StatusCode::OK);
    kept.pop();
    assert_eq!(ask().await.status(), StatusCode::OK, "one was read");
}

#[tokio::test]
async fn one_address_has_a_quarter_of_the_room() {
    let site = Site::with(PagesConfig { bounds: Bounds::usual(), ..PagesConfig::default() });
    site.add(&long());
    let path = format!("/torrent/{}.torrent", long().info_hash());
    let ask = async |ip: &str| {
        let mut request = Request::get(&path).header("host", "127.0.0.1").body(Body::empty()).unwrap();
        request.extensions_mut().insert(Requester(ip.parse().unwrap()));
        site.router.clone().oneshot(request).await.unwrap()
    };
    let mut kept = Vec::new();
    for (ip, expected) in [
        ("192.0.2.1", StatusCode::OK),
        ("192.0.2.1", StatusCode::OK),
        ("192.0.2.1", StatusCode::SERVICE_UNAVAILABLE),
        ("192.0.2.2", StatusCode::OK),
        ("2001:db8::1", StatusCode::OK),
        ("2001:db8::2", StatusCode::OK),
        ("2001:db8::3", StatusCode::SERVICE_UNAVAILABLE),
        ("127.0.0.1", StatusCode::OK),
        ("127.0.0.1", StatusCode::OK),
        ("127.0.0.1", StatusCode::OK),
    ] {
        let answer = ask(ip).await;
        assert_eq!(answer.status(), expected, "{ip}");
        kept.push(answer);
    }
    kept.remove(0);
    assert_eq!(ask("192.0.2.1").await.status(), StatusCode::OK, "one was read");
}
