//! Torrents come in by the form and by `btfs publish`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use btfs::proto::metainfo::MAX_TORRENT_BYTES;
use btfs::tracker::index::Role;
use btfs::tracker::web::PagesConfig;
use btfs::tracker::{Bounds, Requester};
use tower::ServiceExt;

use super::{Answer, Site};
use crate::index::torrents::{Torrent, named};

/// The form as a browser sends it.
async fn submit(site: &Site, parts: &[(&str, Option<&str>, &[u8])]) -> Answer {
    let mut body = Vec::new();
    for (name, file, content) in parts {
        let file = file.map(|file| format!("; filename=\"{file}\"\r\nContent-Type: application/x-bittorrent"));
        let head =
            format!("--edge\r\nContent-Disposition: form-data; name=\"{name}\"{}\r\n\r\n", file.unwrap_or_default());
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(content);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--edge--\r\n");
    raw_form(site, body).await
}

async fn raw_form(site: &Site, body: Vec<u8>) -> Answer {
    let request = Request::post("/upload")
        .header("host", "127.0.0.1:6969")
        .header("origin", "http://127.0.0.1:6969")
        .header("content-type", "multipart/form-data; boundary=edge")
        .body(Body::from(body))
        .unwrap();
    site.send(request).await
}

#[tokio::test]
async fn a_form_with_a_token_adds_a_torrent_once() {
    let site = Site::new();
    let torrent = named("film");
    let parts = [("token", None, site.token.as_bytes()), ("file", Some("film.torrent"), &torrent.bytes())];
    let hash = torrent.info_hash();
    for what in ["new", "known"] {
        let answer = submit(&site, &parts).await;
        assert_eq!(answer.status, StatusCode::SEE_OTHER, "{}", answer.text());
        let to = answer.headers["location"].to_str().unwrap();
        assert_eq!(to, format!("/torrent/{hash}?uploaded={what}"));
        assert!(site.get(to).await.text().contains("class=\"notice\""));
    }
    assert_eq!(site.index.len(), 1);
    assert!(site.tracker.access.is_listed(&hash), "the tracker knows that it is listed");
}

#[tokio::test]
async fn what_is_wrong_with_a_form_is_said_beside_it() {
    let site = Site::new();
    let good = named("film").bytes();
    let token = site.token.as_bytes();
    for (parts, status) in [
        (&[("token", None, &b"btfs_wrong"[..]), ("file", Some("f"), &good)][..], StatusCode::UNAUTHORIZED),
        (&[("file", Some("f"), &good)], StatusCode::UNAUTHORIZED),
        (&[("token", None, b""), ("file", Some("f"), &good)], StatusCode::UNAUTHORIZED),
        (&[("token", None, &[b'x'; 1000]), ("file", Some("f"), &good)], StatusCode::UNAUTHORIZED),
        (&[("token", None, token)], StatusCode::BAD_REQUEST),
        (&[("token", None, token), ("file", Some(""), b"")], StatusCode::BAD_REQUEST),
        (&[("token", None, token), ("file", Some("f"), b"no torrent <b>")], StatusCode::BAD_REQUEST),
        (&[("other", None, b"x")], StatusCode::BAD_REQUEST),
        (&[], StatusCode::BAD_REQUEST),
    ] {
        let answer = submit(&site, parts).await;
        assert_eq!(answer.status, status, "{}", answer.text());
        assert!(answer.text().contains("role=\"alert\"") && answer.text().contains("multipart/form-data"));
    }
    for broken in
        [&b""[..], b"--edge\r\n", b"--edge\r\nContent-Disposition: form-data; name=\"token\"\r\n\r\nhalf", &[0xff; 100]]
    {
        assert_eq!(raw_form(&site, broken.to_vec()).await.status, StatusCode::BAD_REQUEST, "{broken:?}");
    }
    assert!(site.index.is_empty());
}

#[tokio::test]
async fn a_files_own_name_means_nothing() {
    let site = Site::new();
    for name in ["../../etc/cron.d/x", "/etc/passwd", "C:\\x", "<script>", ".", "a\u{202e}b"] {
        let torrent = named("film");
        let answer =
            submit(&site, &[("token", None, site.token.as_bytes()), ("file", Some(name), &torrent.bytes())]).await;
        assert_eq!(answer.status, StatusCode::SEE_OTHER, "{name}");
        assert_eq!(site.get(&format!("/torrent/{}.torrent", torrent.info_hash())).await.body, torrent.bytes());
    }
}

#[tokio::test]
async fn every_bad_torrent_of_the_corpus_is_refused_in_one_line() {
    let site = Site::new();
    for entry in std::fs::read_dir("tests/corpus/torrents").unwrap() {
        let path = entry.unwrap().path();
        if !path.file_name().unwrap().to_string_lossy().starts_with('r') {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        let answer = site.publish(&site.token, bytes.clone()).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{}", path.display());
        let error = answer.json()["error"].as_str().unwrap().to_owned();
        assert!(error.starts_with("this is no usable torrent: ") && !error.contains('\n'), "{error}");
        let parts = [("token", None, site.token.as_bytes()), ("file", Some("f"), &bytes[..])];
        assert_eq!(submit(&site, &parts).await.status, StatusCode::BAD_REQUEST);
    }
    assert!(site.index.is_empty());
}

#[tokio::test]
async fn programs_publish_with_a_token() {
    let site = Site::new();
    let torrent = Torrent { trackers: &["http://a.example/announce"], ..named("film") };
    let answer = site.publish(&site.token, torrent.bytes()).await;
    assert_eq!(answer.status, StatusCode::CREATED);
    let json = answer.json();
    let hash = torrent.info_hash().to_string();
    assert_eq!((&json["info_hash"], &json["new"]), (&hash.clone().into(), &true.into()));
    assert_eq!(json["page"], format!("http://127.0.0.1:6969/torrent/{hash}"));
    assert_eq!(site.publish(&site.token, torrent.bytes()).await.status, StatusCode::OK);
    for token in ["", "wrong", "btfs_00000000000000000000000000000000"] {
        let refused = site.publish(token, torrent.bytes()).await;
        assert_eq!(
            (refused.status, &refused.headers["www-authenticate"]),
            (StatusCode::UNAUTHORIZED, &"Bearer".parse().unwrap())
        );
    }
    let open = Site::with(PagesConfig { open_upload: true, ..PagesConfig::default() });
    assert_eq!(open.publish("", torrent.bytes()).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn what_is_larger_than_a_torrent_is_not_read() {
    let site = Site::new();
    let claimed = Request::post("/api/torrents")
        .header("host", "127.0.0.1")
        .header("content-length", (MAX_TORRENT_BYTES + 1).to_string())
        .header("authorization", format!("Bearer {}", site.token))
        .body(Body::from("x"))
        .unwrap();
    assert_eq!(site.send(claimed).await.status, StatusCode::PAYLOAD_TOO_LARGE);
    let large = vec![b'0'; MAX_TORRENT_BYTES + 1];
    // Without a claim, as in chunks.
    assert_eq!(site.publish(&site.token, large.clone()).await.status, StatusCode::PAYLOAD_TOO_LARGE);
    let parts = [("token", None, site.token.as_bytes()), ("file", Some("f"), &large[..])];
    let answer = submit(&site, &parts).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(answer.text().contains("role=\"alert\""));
}

#[tokio::test]
async fn one_address_has_one_turn_at_a_time_and_others_theirs() {
    let bounds = Bounds { uploads: 1, ..Bounds::usual() };
    let site = Site::with(PagesConfig { open_upload: true, bounds, ..PagesConfig::default() });
    let request = |ip: &str, body: Body| {
        let mut request = Request::post("/api/torrents").header("host", "127.0.0.1:6969").body(body).unwrap();
        request.extensions_mut().insert(Requester(ip.parse().unwrap()));
        request
    };
    // Its file never comes to an end.
    let (begun, asked) = tokio::sync::oneshot::channel();
    let endless = Endless(Some(begun));
    let router = site.router.clone();
    let hog = tokio::spawn(router.oneshot(request("2001:db8::1", Body::new(endless))));
    asked.await.unwrap();
    let upload = async |ip: &str, name: &str| site.send(request(ip, Body::from(named(name).bytes()))).await.status;
    assert_eq!(upload("2001:db8:0:1::1", "other network").await, StatusCode::CREATED);
    assert_eq!(upload("192.0.2.1", "other family").await, StatusCode::CREATED);
    assert_eq!(upload("127.0.0.1", "this machine").await, StatusCode::CREATED);
    assert_eq!(upload("2001:db8::2", "same network").await, StatusCode::SERVICE_UNAVAILABLE);
    hog.abort();
    assert!(hog.await.is_err());
    assert_eq!(upload("2001:db8::2", "same network").await, StatusCode::CREATED);
}

/// A body that says when it is asked for, and then nothing.
struct Endless(Option<tokio::sync::oneshot::Sender<()>>);

impl axum::body::HttpBody for Endless {
    type Data = bytes::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Self::Data>, Self::Error>>> {
        if let Some(begun) = self.0.take() {
            let _ = begun.send(());
        }
        std::task::Poll::Pending
    }
}

#[tokio::test]
async fn what_stands_between_fields_is_bounded() {
    let site = Site::with(PagesConfig { open_upload: true, ..PagesConfig::default() });
    let form = |preamble: &str, head: &str, name: &str| {
        let mut body =
            format!("{preamble}--edge\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f\"\r\n{head}\r\n")
                .into_bytes();
        body.extend_from_slice(&named(name).bytes());
        body.extend_from_slice(b"\r\n--edge--\r\n");
        body
    };
    let long = "x".repeat(3 << 20);
    for (preamble, head) in [(&*long, ""), ("", &*format!("X-Long: {long}\r\n")), ("", &*"X: y\r\n".repeat(100_000))] {
        let answer = raw_form(&site, form(preamble, head, "film")).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{}", answer.text());
    }
    assert!(site.index.is_empty());
    let usual = form("a short one\r\n", "Content-Type: application/x-bittorrent\r\n", "film");
    assert_eq!(raw_form(&site, usual).await.status, StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn a_form_comes_in_parts_of_any_length() {
    let long = Torrent { length: 1 << 30, ..named("film") };
    let other = vec![b'\r'; 1 << 20];
    for part in [1, 7, 4096, 1 << 16, 1 << 24] {
        let site = Site::new();
        let mut body = Vec::new();
        for (name, content) in [("other", &other[..]), ("token", site.token.as_bytes()), ("file", &long.bytes())] {
            let head = format!("--edge\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n");
            body.extend_from_slice(head.as_bytes());
            body.extend_from_slice(if name == "other" && part == 1 { b"x" } else { content });
            body.extend_from_slice(b"\r\n");
        }
        body.extend_from_slice(b"--edge--\r\n");
        let parts = Parts { left: body.into(), part, taken: Default::default() };
        assert_eq!(stream_form(&site, parts, &[]).await.status, StatusCode::SEE_OTHER, "{part}");
        assert_eq!(site.index.len(), 1);
    }
}

#[tokio::test]
async fn a_form_that_does_not_end_is_not_read_for_ever() {
    let site = Site::new();
    let endless = || Parts { left: vec![b'-'; 5 * MAX_TORRENT_BYTES].into(), part: 1 << 20, taken: Default::default() };
    let parts = endless();
    let taken = parts.taken.clone();
    assert_eq!(stream_form(&site, parts, &[]).await.status, StatusCode::BAD_REQUEST);
    assert!(taken.load(Ordering::Relaxed) <= 3 * MAX_TORRENT_BYTES, "{taken:?}");
    // And not at all when it says so.
    let parts = endless();
    let taken = parts.taken.clone();
    let answer = stream_form(&site, parts, &[("content-length", "100000000000")]).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!((taken.load(Ordering::Relaxed), &answer.headers["connection"]), (0, &"close".parse().unwrap()));
}

#[tokio::test]
async fn a_torrent_that_tells_a_users_passkey_is_refused() {
    let site = Site::new();
    let passkey = site.index.add_person(Role::User, "bob", SystemTime::now()).unwrap();
    btfs::tracker::admit_known(&site.index, &site.tracker).unwrap();
    let url = format!("http://t.example/{passkey}/announce");
    for trackers in [&[&*url][..], &["http://t.example/announce", &*url]] {
        let torrent = Torrent { trackers, ..named("film") }.bytes();
        let answer = site.publish(&site.token, torrent.clone()).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
        assert!(answer.text().contains("passkey of a user"), "{}", answer.text());
        let parts = [("token", None, site.token.as_bytes()), ("file", Some("f"), &torrent[..])];
        assert_eq!(submit(&site, &parts).await.status, StatusCode::BAD_REQUEST);
    }
    assert!(site.index.is_empty());
    let other = Torrent { trackers: &["http://t.example/0123456789abcdef0123456789abcdef/announce"], ..named("film") };
    assert_eq!(site.publish(&site.token, other.bytes()).await.status, StatusCode::CREATED);
}

async fn stream_form(site: &Site, parts: Parts, headers: &[(&str, &str)]) -> Answer {
    let mut request = Request::post("/upload")
        .header("host", "127.0.0.1:6969")
        .header("content-type", "multipart/form-data; boundary=edge");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    site.send(request.body(Body::new(parts)).unwrap()).await
}

/// A body that comes in parts, and how much of it was taken.
struct Parts {
    left: bytes::Bytes,
    part: usize,
    taken: Arc<AtomicUsize>,
}

impl axum::body::HttpBody for Parts {
    type Data = bytes::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Self::Data>, Self::Error>>> {
        let length = self.part.min(self.left.len());
        self.taken.fetch_add(length, Ordering::Relaxed);
        let part = self.left.split_to(length);
        std::task::Poll::Ready((!part.is_empty()).then_some(Ok(hyper::body::Frame::data(part))))
    }
}
