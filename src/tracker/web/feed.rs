//! What is new, as an Atom feed (RFC 4287): of everything, or of a search.

use std::time::SystemTime;

use askama::Template;
use axum::extract::{Extension, State};
use axum::http::Uri;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;

use super::error::PageError;
use super::guard::Authority;
use super::list::Search;
use super::view;
use super::{Shown, SiteState};
use crate::base::Date;
use crate::base::size::Bytes;
use crate::tracker::index::{Hit, Query, Sort};

#[derive(Template)]
#[template(path = "feed.xml", config = "src/tracker/web/askama.toml")]
struct Feed {
    base: String,
    path: String,
    html: String,
    words: String,
    updated: String,
    entries: Vec<Entry>,
}

struct Entry {
    name: String,
    hash: String,
    date: String,
    summary: String,
}

pub(super) async fn feed(State(site): SiteState, Extension(authority): Extension<Authority>, uri: Uri) -> Shown {
    let search = Search::parse(uri.query().unwrap_or_default())?;
    let query = Query { sort: Sort::Newest, page: 0, ..search.query.clone() };
    let found = site.ask(move |site| site.index().search(&query, &site.tracker().store, SystemTime::now())).await?;
    let feed = Feed {
        base: view::base(site.config(), &authority),
        path: search.url("/feed.atom", 0),
        html: search.url("/", 0),
        words: xml(&search.words()),
        // Of nothing: a date that never changes, so that the feed is the same each time.
        updated: Date(found.hits.iter().map(|hit| hit.added).max().unwrap_or(0)).rfc3339(),
        entries: found.hits.iter().map(Entry::of).collect(),
    };
    let text = feed.render().map_err(|_| PageError::Broken)?;
    Ok(([(CONTENT_TYPE, "application/atom+xml; charset=utf-8")], text).into_response())
}

impl Entry {
    fn of(hit: &Hit) -> Self {
        let files = if hit.file_count == 1 { "1 file".to_owned() } else { format!("{} files", hit.file_count) };
        Self {
            name: xml(&view::shown(&hit.title)),
            hash: hit.hashes.to_string(),
            date: Date(hit.added).rfc3339(),
            summary: format!("{}, {files}", Bytes(hit.size_bytes)),
        }
    }
}

/// Without the two characters that XML cannot hold in any form; control characters are shown as escapes already.
fn xml(text: &str) -> String {
    text.replace(['\u{fffe}', '\u{ffff}'], "\u{fffd}")
}
