//! How things are shown: names as text that cannot mislead, sizes, ages, links.

use std::time::SystemTime;

use askama::Template;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};

use super::guard::Authority;
use super::{PageError, PagesConfig};
use crate::base::Date;
use crate::base::size::Bytes;
use crate::proto::magnet::Magnet;
use crate::proto::path::is_unsafe_on_a_terminal;
use crate::tracker::index::{Hashes, Health, Hit};

/// A page, rendered.
pub(super) fn html(page: &impl Template) -> Response {
    match page.render() {
        Ok(text) => ([(CONTENT_TYPE, "text/html; charset=utf-8"), (CACHE_CONTROL, "no-cache")], text).into_response(),
        // Writing to memory cannot fail.
        Err(error) => {
            tracing::error!(%error, "a template cannot be rendered");
            PageError::Broken.status().into_response()
        }
    }
}

/// A value for programs.
pub(super) fn json(value: &impl serde::Serialize) -> Response {
    let text = serde_json::to_vec(value).unwrap_or_default();
    ([(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-cache")], text).into_response()
}

/// A text of a stranger's: control characters, and marks that hide or reorder text, are seen for what they are. Joiners are
/// left, which some scripts and emoji need. Escaping for HTML is the template's part.
pub(super) fn shown(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if is_misleading(c) => out.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

/// Whether a character hides, reorders or steers.
pub(super) fn is_misleading(c: char) -> bool {
    !matches!(c, '\u{200c}' | '\u{200d}') && is_unsafe_on_a_terminal(c)
}

/// Where the pages are, for links that are used elsewhere.
pub(super) fn base(config: &PagesConfig, authority: &Authority) -> String {
    config.public_url.clone().unwrap_or_else(|| format!("http://{}", authority.0))
}

/// How long ago that was.
pub(super) fn ago(seconds: i64, now: i64) -> String {
    let (number, unit) = match now.saturating_sub(seconds) {
        ..60 => return "just now".to_owned(),
        past @ 60..3600 => (past / 60, "minute"),
        past @ 3600..86_400 => (past / 3600, "hour"),
        past @ 86_400..2_592_000 => (past / 86_400, "day"),
        past @ 2_592_000..31_536_000 => (past / 2_592_000, "month"),
        past => (past / 31_536_000, "year"),
    };
    format!("{number} {unit}{} ago", if number == 1 { "" } else { "s" })
}

/// Seconds since 1970.
pub(super) fn now() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

/// How a swarm looks, in a word that is also a class of the style sheet.
pub(super) fn state(health: Health) -> &'static str {
    match (health.seeds, health.leechers) {
        (0, 0) => "silent",
        (0, _) => "starving",
        (1..=2, _) => "thin",
        _ => "healthy",
    }
}

/// A number with blanks between thousands.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

/// A magnet link (BEP 9, 52): works wherever the metadata can be fetched from peers.
pub(super) fn magnet(hashes: &Hashes, title: &str, size_bytes: u64, trackers: &[String]) -> String {
    let trackers: Vec<_> = trackers.iter().take(MAX_MAGNET_TRACKERS).map(String::as_str).collect();
    let (info_hash, info_hash_v2) = (hashes.v1, hashes.v2);
    let magnet = Magnet {
        info_hash,
        info_hash_v2,
        name: title.as_bytes(),
        bytes: size_bytes,
        trackers: &trackers,
        web_seeds: &[],
    };
    magnet.to_string()
}

/// One line of a list of torrents.
pub(super) struct Row {
    pub(super) name: String,
    pub(super) url: String,
    pub(super) size: String,
    pub(super) files: String,
    pub(super) added: String,
    pub(super) added_date: String,
    pub(super) private: bool,
    pub(super) state: &'static str,
    pub(super) seeds: String,
    pub(super) leechers: String,
    pub(super) magnet: String,
}

impl Row {
    pub(super) fn of(hit: &Hit, now: i64) -> Self {
        Self {
            name: shown(&hit.title),
            url: format!("/torrent/{}", hit.hashes),
            size: Bytes(hit.size_bytes).to_string(),
            files: match hit.file_count {
                1 => "1 file".to_owned(),
                number => format!("{} files", count(number)),
            },
            added: ago(hit.added, now),
            added_date: Date(hit.added).rfc3339(),
            private: hit.private,
            state: state(hit.health),
            seeds: count(hit.health.seeds as u64),
            leechers: count(hit.health.leechers as u64),
            magnet: magnet(&hit.hashes, &hit.title, hit.size_bytes, &hit.trackers),
        }
    }
}

/// As many as most clients ask, and a link that is not too long for anything.
const MAX_MAGNET_TRACKERS: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_mislead() {
        assert_eq!(shown("a\u{202e}b\nc\u{200b}"), "a\\u{202e}b\\u{a}c\\u{200b}");
        assert_eq!(shown("👩\u{200d}💻 <b>"), "👩\u{200d}💻 <b>");
    }

    #[test]
    fn ages_and_counts_are_readable() {
        for (past, text) in [
            (-5, "just now"),
            (61, "1 minute ago"),
            (7300, "2 hours ago"),
            (90_000, "1 day ago"),
            (40 * 86_400, "1 month ago"),
            (800 * 86_400, "2 years ago"),
        ] {
            assert_eq!(ago(1_000_000_000 - past, 1_000_000_000), text);
        }
        assert_eq!(
            (count(7), count(1234), count(1_234_567)),
            ("7".into(), "1\u{202f}234".into(), "1\u{202f}234\u{202f}567".into())
        );
    }
}
