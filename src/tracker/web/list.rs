//! Searching: the first page, results, and the same as JSON.

use std::time::{Duration, SystemTime};

use askama::Template;
use axum::extract::{Extension, State};
use axum::http::Uri;
use axum::response::{IntoResponse, Redirect, Response};
use serde::Serialize;

use super::error::{JsonError, PageError};
use super::guard::Authority;
use super::view::{self, Row};
use super::{Shown, SiteState};
use crate::base::Date;
use crate::base::size::parse_bytes;
use crate::tracker::index::{Found, Hit, MAX_QUERY_CHARS, PER_PAGE, Query, Sort, TorrentName};

/// What stands in the form, as it was typed, and what it means.
#[derive(Debug, Clone, Default)]
pub(super) struct Search {
    q: String,
    min_size: String,
    max_size: String,
    days: String,
    min_seeds: String,
    pub(super) query: Query,
}

#[derive(Template)]
#[template(path = "list.html", config = "src/tracker/web/askama.toml")]
struct ListPage {
    search: Search,
    /// Nothing was asked for: this is the front page.
    front: bool,
    rows: Vec<Row>,
    total: String,
    one: bool,
    listed: String,
    seeds: String,
    leechers: String,
    page: usize,
    pages: usize,
    previous: Option<String>,
    next: Option<String>,
    feed: String,
    json: String,
}

pub(super) async fn page(State(site): SiteState, uri: Uri) -> Shown {
    let search = Search::parse(uri.query().unwrap_or_default())?;
    // Who pastes an info-hash wants that torrent.
    if let Ok(name) = search.q.trim().to_ascii_lowercase().parse::<TorrentName>()
        && let Some(hashes) = site.index().hashes(&name)
    {
        return Ok(Redirect::to(&format!("/torrent/{hashes}")).into_response());
    }
    let query = search.query.clone();
    let (found, summary) = site
        .ask(move |site| {
            let store = &site.tracker().store;
            Ok((site.index().search(&query, store, SystemTime::now())?, site.index().summary(store)))
        })
        .await?;
    let now = view::now();
    let (page, pages) = (search.query.page, found.total.div_ceil(PER_PAGE).max(1));
    if page >= pages {
        // Of a link that has grown old, say.
        return Ok(Redirect::to(&search.url("/", pages - 1)).into_response());
    }
    let listed = site.index().len() as u64;
    let front = search.is_empty();
    Ok(view::html(&ListPage {
        front,
        rows: found.hits.iter().map(|hit| Row::of(hit, now)).collect(),
        total: view::count(found.total as u64),
        one: found.total == 1,
        listed: view::count(listed),
        seeds: view::count(summary.seeds as u64),
        leechers: view::count(summary.leechers as u64),
        page: page + 1,
        pages,
        previous: (page > 0).then(|| search.url("/", page - 1)),
        next: (page + 1 < pages).then(|| search.url("/", page + 1)),
        feed: search.url("/feed.atom", 0),
        json: search.url("/api/torrents", page),
        search,
    }))
}

pub(super) async fn json(
    State(site): SiteState,
    Extension(authority): Extension<Authority>,
    uri: Uri,
) -> Result<Response, JsonError> {
    let search = Search::parse(uri.query().unwrap_or_default())?;
    let query = search.query;
    let page = query.page;
    let Found { total, hits } =
        site.ask(move |site| site.index().search(&query, &site.tracker().store, SystemTime::now())).await?;
    let base = view::base(site.config(), &authority);
    let torrents = hits.into_iter().map(|hit| JsonHit::of(hit, &base)).collect();
    Ok(view::json(&JsonPage { total, page: page + 1, per_page: PER_PAGE, torrents }))
}

/// What programs get; fields are only ever added.
#[derive(Debug, Serialize)]
struct JsonPage {
    total: usize,
    /// From 1.
    page: usize,
    per_page: usize,
    torrents: Vec<JsonHit>,
}

#[derive(Debug, Serialize)]
struct JsonHit {
    info_hash: Option<String>,
    info_hash_v2: Option<String>,
    name: String,
    size_bytes: u64,
    file_count: u64,
    private: bool,
    added: String,
    seeds: usize,
    leechers: usize,
    completed: u64,
    page: String,
    torrent: String,
    magnet: String,
}

impl JsonHit {
    fn of(hit: Hit, base: &str) -> Self {
        Self {
            info_hash: hit.hashes.v1.map(|hash| hash.to_string()),
            info_hash_v2: hit.hashes.v2.map(|hash| hash.to_string()),
            size_bytes: hit.size_bytes,
            file_count: hit.file_count,
            private: hit.private,
            added: Date(hit.added).rfc3339(),
            seeds: hit.health.seeds,
            leechers: hit.health.leechers,
            completed: hit.health.completed,
            page: format!("{base}/torrent/{}", hit.hashes),
            torrent: format!("{base}/torrent/{}.torrent", hit.hashes),
            magnet: view::magnet(&hit.hashes, &hit.title, hit.size_bytes, &hit.trackers),
            name: hit.title,
        }
    }
}

impl Search {
    /// Reads a query string.
    ///
    /// # Errors
    /// [`PageError::Bad`] for what is too long, and for numbers that are none.
    pub(super) fn parse(query: &str) -> Result<Self, PageError> {
        let mut search = Self::default();
        for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
            let value = value.trim();
            if value.chars().count() > MAX_QUERY_CHARS {
                return Err(PageError::Bad(format!("a search has at most {MAX_QUERY_CHARS} characters")));
            }
            match (&*key, value) {
                (_, "") => {}
                ("q", text) => {
                    // What separates words, or cannot be seen, is a blank: it comes back in the form.
                    search.q = text.replace(view::is_misleading, " ");
                    search.query.text = search.q.clone();
                }
                ("min_size", text) => {
                    search.query.min_bytes = Some(bytes(text)?);
                    search.min_size = text.to_owned();
                }
                ("max_size", text) => {
                    search.query.max_bytes = Some(bytes(text)?);
                    search.max_size = text.to_owned();
                }
                ("days", text) => {
                    let days: u64 = number(text)?;
                    search.query.max_age = Some(Duration::from_secs(days.min(MAX_DAYS) * 86_400));
                    search.days = text.to_owned();
                }
                ("min_seeds", text) => {
                    search.query.min_seeds = number(text)?;
                    search.min_seeds = text.to_owned();
                }
                ("sort", text) => search.query.sort = sort(text)?,
                ("page", text) => search.query.page = number::<usize>(text)?.saturating_sub(1),
                // As links from elsewhere may have.
                _ => {}
            }
        }
        Ok(search)
    }

    /// The words, for a heading.
    pub(super) fn words(&self) -> String {
        view::shown(&self.q)
    }

    fn is_empty(&self) -> bool {
        self.query == Query::default()
    }

    fn is_filtered(&self) -> bool {
        [&self.min_size, &self.max_size, &self.days, &self.min_seeds].iter().any(|text| !text.is_empty())
    }

    fn is_sorted_by(&self, name: &str) -> bool {
        SORTS.iter().any(|&(known, sort)| known == name && sort == self.query.sort)
    }

    /// A link to the same search, at this page.
    pub(super) fn url(&self, path: &str, page: usize) -> String {
        let mut out = url::form_urlencoded::Serializer::new(String::new());
        let sort = SORTS.iter().find(|(_, sort)| *sort == self.query.sort && *sort != Sort::Best);
        for (key, value) in [
            ("q", self.q.as_str()),
            ("min_size", &self.min_size),
            ("max_size", &self.max_size),
            ("days", &self.days),
            ("min_seeds", &self.min_seeds),
            ("sort", sort.map_or("", |(name, _)| name)),
        ] {
            if !value.is_empty() {
                out.append_pair(key, value);
            }
        }
        if page > 0 {
            out.append_pair("page", &(page + 1).to_string());
        }
        match out.finish() {
            query if query.is_empty() => path.to_owned(),
            query => format!("{path}?{query}"),
        }
    }
}

fn bytes(text: &str) -> Result<u64, PageError> {
    parse_bytes(text).map_err(|error| PageError::Bad(format!("{}: {error}", view::shown(text))))
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, PageError> {
    text.parse().map_err(|_| PageError::Bad(format!("{}: expected a number", view::shown(text))))
}

fn sort(text: &str) -> Result<Sort, PageError> {
    let known = SORTS.iter().find(|(name, _)| *name == text);
    known.map(|&(_, sort)| sort).ok_or_else(|| PageError::Bad(format!("{}: no order", view::shown(text))))
}

const SORTS: [(&str, Sort); 5] = [
    ("best", Sort::Best),
    ("seeds", Sort::Seeds),
    ("newest", Sort::Newest),
    ("largest", Sort::Largest),
    ("smallest", Sort::Smallest),
];

/// A thousand years.
const MAX_DAYS: u64 = 365_000;
