//! The pages of the index, asked as a browser, a program, or an attacker asks.

mod answers;
mod guards;
mod pages;
mod uploads;

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use btfs::tracker::index::{Index, Role};
use btfs::tracker::web::{PagesConfig, pages};
use btfs::tracker::{StoreConfig, Tracker};
use tower::ServiceExt;

use crate::index::torrents::Torrent;

/// Pages over an index in a directory of its own.
struct Site {
    index: Index,
    tracker: Arc<Tracker>,
    router: Router,
    token: String,
    _directory: tempfile::TempDir,
}

/// What came back, whole.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Site {
    fn new() -> Self {
        Self::with(PagesConfig::default())
    }

    fn with(config: PagesConfig) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let index = Index::open(&directory.path().join("index.sqlite")).unwrap();
        let token = index.add_person(Role::Uploader, "tester", SystemTime::now()).unwrap();
        let tracker = Arc::new(Tracker::new(StoreConfig::default(), Instant::now(), 1));
        let router = pages(index.clone(), tracker.clone(), config);
        Self { index, tracker, router, token, _directory: directory }
    }

    fn add(&self, torrent: &Torrent) {
        self.index.add(torrent.bytes().into(), None, SystemTime::now()).unwrap();
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap().to_vec();
        let answer = Answer { status: head.status, headers: head.headers, body };
        assert!(answer.status != StatusCode::INTERNAL_SERVER_ERROR);
        assert!(answer.headers["content-security-policy"].to_str().unwrap().starts_with("default-src 'none'"));
        assert_eq!(answer.headers["x-content-type-options"], "nosniff");
        // No frame of another site's has it.
        assert_eq!(answer.headers["x-frame-options"], "DENY");
        assert!(answer.headers["content-security-policy"].to_str().unwrap().contains("frame-ancestors 'none'"));
        if !answer.body.is_empty()
            && answer.headers.get("content-type").is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"))
        {
            check_html(&answer.text());
        }
        answer
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path).header("host", "127.0.0.1:6969").body(Body::empty()).unwrap()).await
    }

    /// As `btfs publish` does it.
    async fn publish(&self, token: &str, file: Vec<u8>) -> Answer {
        let request = Request::post("/api/torrents")
            .header("host", "127.0.0.1:6969")
            .header("authorization", format!("Bearer {token}"))
            .body(Body::from(file))
            .unwrap();
        self.send(request).await
    }
}

impl Answer {
    fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// Nothing in a page may run, and nothing may come from elsewhere.
fn check_html(page: &str) {
    assert!(page.contains("<html lang=\"en\">") && page.contains("<h1"), "{page}");
    let mut open = Vec::new();
    for tag in page.split('<').skip(1) {
        let (tag, _) = tag.split_once('>').unwrap_or_else(|| panic!("a tag does not end: {tag}"));
        let name = tag.split([' ', '/']).next().unwrap();
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "closed in another order than opened");
            continue;
        }
        let empty = ["!doctype", "meta", "link", "input", "line", "path", "circle"].contains(&name);
        if !empty && !tag.ends_with('/') {
            open.push(name);
        }
        assert!(KNOWN_TAGS.contains(&name), "<{tag}> is none of ours");
        assert!(name != "script" || tag.contains(" src=\"/assets/"), "<{tag}>");
        // Quoted values aside, what is left are names of attributes.
        let names: String = tag.split('"').step_by(2).collect();
        assert!(!names.contains(" style=") && !names.contains(" on"), "<{tag}>");
        for attribute in ["src=\"", "action=\""] {
            if let Some((_, url)) = tag.split_once(attribute) {
                assert!(url.starts_with('/') && !url.starts_with("//"), "<{tag}>");
            }
        }
        if let Some((_, url)) = tag.split_once(" href=\"") {
            let ours = url.starts_with('/') && !url.starts_with("//") || url.starts_with('#');
            assert!(ours || name == "a" && url.starts_with("magnet:?"), "<{tag}>");
        }
    }
    assert!(open.is_empty(), "not closed: {open:?}");
    let hidden =
        page.chars().find(|c| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{1b}' | '\0'));
    assert_eq!(hidden, None, "a mark that misleads");
}

const KNOWN_TAGS: [&str; 50] = [
    "!doctype", "html", "head", "meta", "title", "link", "script", "body", "header", "div", "a", "svg", "path", "span",
    "form", "input", "nav", "main", "footer", "p", "strong", "code", "section", "h1", "h2", "q", "button", "details",
    "summary", "label", "select", "option", "table", "thead", "tbody", "tr", "th", "td", "bdi", "small", "time",
    "article", "ul", "li", "dl", "dt", "dd", "line", "text", "circle",
];
