//! Answers that are long, and readers that are slow: what they keep in memory is bounded.

use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
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
