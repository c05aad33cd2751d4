//! The style sheet, the script and the icon: in the program, so that a page needs nothing else.

use std::sync::LazyLock;

use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderValue, Uri};
use axum::response::{IntoResponse, Response};

use super::Shown;
use super::error::PageError;

/// Changes with the assets: part of their URLs, so that they can be kept for ever.
pub(super) fn version() -> &'static str {
    static VERSION: LazyLock<String> =
        LazyLock::new(|| format!("{:08x}", crc32fast::hash([STYLE, SCRIPT, ICON].concat().as_bytes())));
    &VERSION
}

pub(super) async fn any(uri: Uri) -> Shown {
    match uri.path() {
        "/assets/style.css" => Ok(asset("text/css; charset=utf-8", STYLE)),
        "/assets/script.js" => Ok(asset("text/javascript; charset=utf-8", SCRIPT)),
        "/assets/icon.svg" => Ok(icon().await),
        _ => Err(PageError::NotFound),
    }
}

pub(super) async fn icon() -> Response {
    asset("image/svg+xml", ICON)
}

/// Crawlers may read the pages, but not every order of every search.
pub(super) async fn robots() -> &'static str {
    "User-agent: *\nDisallow: /*?\nDisallow: /api/\nDisallow: /upload\n"
}

fn asset(kind: &'static str, text: &'static str) -> Response {
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static(kind)),
        (CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable")),
    ];
    (headers, text).into_response()
}

const STYLE: &str = include_str!("assets/style.css");
const SCRIPT: &str = include_str!("assets/script.js");
const ICON: &str = include_str!("assets/icon.svg");
