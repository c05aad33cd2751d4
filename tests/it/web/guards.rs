//! What must not come in: other names, other sites, strangers' files, and what is too large or malformed.

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use btfs::tracker::web::PagesConfig;

use super::Site;
use crate::index::torrents::named;

fn request(method: Method, path: &str, headers: &[(&str, &str)]) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Body::from("x")).unwrap()
}

#[tokio::test]
async fn only_names_that_are_ours_are_answered() {
    let site = Site::with(PagesConfig { names: vec!["tracker.example".to_owned()], ..PagesConfig::default() });
    for (host, expected) in [
        ("127.0.0.1", StatusCode::OK),
        ("[::1]:6969", StatusCode::OK),
        ("localhost:6969", StatusCode::OK),
        ("Tracker.Example:80", StatusCode::OK),
        ("evil.example", StatusCode::MISDIRECTED_REQUEST),
        ("tracker.example.evil.example", StatusCode::MISDIRECTED_REQUEST),
        ("", StatusCode::MISDIRECTED_REQUEST),
        ("a b", StatusCode::MISDIRECTED_REQUEST),
        // Would stand in a line that people copy into a shell.
        ("$(reboot).localhost", StatusCode::MISDIRECTED_REQUEST),
        ("127.0.0.1#x", StatusCode::MISDIRECTED_REQUEST),
    ] {
        for path in ["/", "/api/torrents", "/feed.atom", "/nowhere", "/assets/style.css"] {
            let answer = site.send(request(Method::GET, path, &[("host", host)])).await;
            let expected = if path == "/nowhere" && expected.is_success() { StatusCode::NOT_FOUND } else { expected };
            assert_eq!(answer.status, expected, "{host} {path}");
        }
    }
    let answer = site.send(request(Method::GET, "/", &[])).await;
    assert_eq!(answer.status, StatusCode::MISDIRECTED_REQUEST);
    for second in ["evil.example", "127.0.0.1"] {
        let two = [("host", "127.0.0.1"), ("host", second)];
        assert_eq!(site.send(request(Method::GET, "/", &two)).await.status, StatusCode::BAD_REQUEST, "{second}");
    }
}

#[tokio::test]
async fn programs_are_refused_in_words_that_they_can_read() {
    let site = Site::new();
    let foreign = [("host", "box.lan:6969")];
    let refused = site.send(request(Method::POST, "/api/torrents", &foreign)).await;
    assert_eq!(refused.status, StatusCode::MISDIRECTED_REQUEST);
    let words = refused.json()["error"].as_str().unwrap().to_owned();
    assert!(words.contains("--public-name"), "{words}");
    assert!(site.send(request(Method::GET, "/", &foreign)).await.text().contains("--public-name"));
}

#[tokio::test]
async fn other_sites_cannot_make_a_browser_upload() {
    let site = Site::new();
    let bearer = format!("Bearer {}", site.token);
    for headers in [
        &[("origin", "http://evil.example")][..],
        &[("origin", "null")],
        &[("origin", "http://127.0.0.1")],
        &[("sec-fetch-site", "cross-site")],
        &[("origin", "http://127.0.0.1:6969"), ("sec-fetch-site", "same-site")],
        &[("origin", "http://127.0.0.1:6969"), ("origin", "http://evil.example")],
    ] {
        for path in ["/upload", "/api/torrents"] {
            let all: Vec<_> = [("host", "127.0.0.1:6969"), ("authorization", bearer.as_str())]
                .iter()
                .chain(headers)
                .copied()
                .collect();
            let answer = site.send(request(Method::POST, path, &all)).await;
            let twice = headers.iter().filter(|(name, _)| *name == "origin").count() > 1;
            let expected = if twice { StatusCode::BAD_REQUEST } else { StatusCode::FORBIDDEN };
            assert_eq!(answer.status, expected, "{headers:?}");
        }
    }
    assert!(site.index.is_empty());
    let ours = [("host", "127.0.0.1:6969"), ("origin", "http://127.0.0.1:6969"), ("sec-fetch-site", "same-origin")];
    assert_eq!(site.send(request(Method::POST, "/api/torrents", &ours)).await.status, StatusCode::UNAUTHORIZED);
    // Reading is nothing that a foreign page could do in somebody's name: there are no names.
    let read = site.send(request(Method::GET, "/", &[("host", "127.0.0.1"), ("origin", "http://evil.example")])).await;
    assert_eq!(read.status, StatusCode::OK);
    assert!(!read.headers.contains_key("access-control-allow-origin") && !read.headers.contains_key("set-cookie"));
}

#[tokio::test]
async fn paths_lead_nowhere_else() {
    let site = Site::new();
    site.add(&named("film"));
    for path in [
        "/../etc/passwd",
        "/%2e%2e%2fetc/passwd",
        "/%252e%252e%252f",
        "/assets/../../Cargo.toml",
        "/assets/%2e%2e%2fstyle.css",
        "/assets/style.css%00",
        "/torrent/",
        "/torrent/..",
        "/torrent/%2e%2e",
        "/torrent/x.torrent",
        "/torrent/0101010101010101010101010101010101010101",
        "/torrent/0101010101010101010101010101010101010101.torrent",
        "/torrent/%ff",
        "//evil.example/",
        "/index.sqlite",
        "/api",
        "/upload/",
    ] {
        assert_eq!(site.get(path).await.status, StatusCode::NOT_FOUND, "{path}");
    }
    let hash = named("film").info_hash();
    for path in [format!("/torrent/{hash}.exe"), format!("/torrent/{hash}/x"), format!("/torrent/{hash}.torrent.json")]
    {
        assert_eq!(site.get(&path).await.status, StatusCode::NOT_FOUND, "{path}");
    }
}

#[tokio::test]
async fn a_search_that_makes_no_sense_is_said_to_make_none() {
    let site = Site::new();
    for query in ["min_size=much", "max_size=-1", "days=soon", "min_seeds=-1", "sort=best;drop", "page=x", "days=1e9"] {
        for path in ["/", "/api/torrents", "/feed.atom"] {
            assert_eq!(site.get(&format!("{path}?{query}")).await.status, StatusCode::BAD_REQUEST, "{path}?{query}");
        }
    }
    for query in [
        "page=0",
        "days=18446744073709551615",
        "min_size=0&max_size=0",
        "q=%00%ff%fe",
        "q=%",
        "&&&==&q",
        "q=a&q=b&unknown=1",
        "min_seeds=18446744073709551615",
    ] {
        assert_eq!(site.get(&format!("/?{query}")).await.status, StatusCode::OK, "{query}");
    }
    assert_eq!(site.get("/?page=18446744073709551615").await.status, StatusCode::SEE_OTHER);
    assert_eq!(site.get("/api/torrents?page=18446744073709551615").await.status, StatusCode::OK);
    assert_eq!(site.get(&format!("/?q={}", "a".repeat(256))).await.status, StatusCode::OK);
    assert_eq!(site.get(&format!("/?q={}", "a".repeat(257))).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(site.get(&format!("/?q={}", "%22".repeat(256))).await.status, StatusCode::OK);
}

#[tokio::test]
async fn other_methods_are_refused() {
    let site = Site::new();
    for (method, path) in [
        (Method::POST, "/"),
        (Method::PUT, "/api/torrents"),
        (Method::DELETE, "/torrent/x"),
        (Method::PATCH, "/upload"),
    ] {
        let answer = site.send(request(method.clone(), path, &[("host", "127.0.0.1")])).await;
        assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
    }
    let head = site.send(request(Method::HEAD, "/", &[("host", "127.0.0.1")])).await;
    assert_eq!((head.status, head.body.len()), (StatusCode::OK, 0));
}
