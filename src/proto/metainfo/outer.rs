//! What stands beside the info dictionary: trackers, web seeds, nodes, dates and texts (BEP 3, 5, 12, 17, 19).
//!
//! Nothing here can make a torrent unusable: a value of no use is left out and noted (P19).

use super::Metainfo;
use super::info::text;
use super::notes::Notes;
use crate::proto::announce::{TrackerScheme, tracker_scheme};
use crate::proto::bencode::{Dict, Value};
use crate::proto::path::escape_short;

/// Fills in everything but what the info dictionary says.
pub(super) fn read(root: Dict<'_>, metainfo: &mut Metainfo, notes: &mut Notes) {
    let mut announce = None;
    let mut announce_list = None;
    for (key, value) in root.iter() {
        match key {
            b"announce" => announce = Some(value),
            b"announce-list" => announce_list = Some(value),
            b"url-list" => metainfo.web_seeds = urls(value, "a web seed URL is unusable and ignored", notes),
            b"httpseeds" => metainfo.http_seeds = urls(value, "an HTTP seed URL is unusable and ignored", notes),
            b"nodes" => metainfo.nodes = nodes(value, notes),
            b"creation date" => {
                metainfo.creation_date = value.as_i64();
                note_useless(value.as_i64().is_none(), "the creation date is not an integer and is ignored", notes);
            }
            b"comment" => {
                metainfo.comment = text(value);
                note_useless(metainfo.comment.is_none(), "the comment is not a string and is ignored", notes);
            }
            b"created by" => {
                metainfo.created_by = text(value);
                note_useless(metainfo.created_by.is_none(), "created by is not a string and is ignored", notes);
            }
            b"encoding" => {
                note_useless(value.as_bytes().is_none(), "the encoding is not a string and is ignored", notes);
            }
            _ => {}
        }
    }
    metainfo.trackers = trackers(announce, announce_list, notes);
}

/// Trackers by tier. Where `announce-list` names a usable one, `announce` is ignored (BEP 12), but still looked at.
fn trackers(announce: Option<Value<'_>>, announce_list: Option<Value<'_>>, notes: &mut Notes) -> Vec<Vec<String>> {
    let single: Vec<String> = announce.and_then(|value| tracker(value, notes)).into_iter().collect();
    let mut tiers: Vec<Vec<String>> = Vec::new();
    if let Some(value) = announce_list {
        let list = value.as_list();
        note_useless(list.is_none(), "the announce-list is not a list and is ignored", notes);
        for tier in list.into_iter().flatten() {
            let urls = tier.as_list();
            note_useless(urls.is_none(), "a tier of the announce-list is not a list and is ignored", notes);
            tiers.push(urls.into_iter().flatten().filter_map(|url| tracker(url, notes)).collect());
        }
    }
    if tiers.iter().all(Vec::is_empty) {
        tiers = vec![single];
    }
    let mut seen = std::collections::HashSet::new();
    tiers.iter_mut().for_each(|tier| tier.retain(|url| seen.insert(url.clone())));
    tiers.retain(|tier| !tier.is_empty());
    tiers
}

fn tracker(value: Value<'_>, notes: &mut Notes) -> Option<String> {
    let url = value.as_str().map(str::trim).unwrap_or_default();
    match tracker_scheme(url) {
        Some(TrackerScheme::Http | TrackerScheme::Udp) => Some(url.to_owned()),
        // Such trackers serve browsers; torrents made for both worlds name them rightly.
        Some(TrackerScheme::WebSocket) => None,
        None => {
            notes.add("a tracker URL is unusable and ignored", || shown(value));
            None
        }
    }
}

/// One URL or a list of them; the empty string stands for none and is common.
fn urls(value: Value<'_>, what: &'static str, notes: &mut Notes) -> Vec<String> {
    let mut urls = Vec::new();
    let mut seen = std::collections::HashSet::new();
    let mut take = |value: Value<'_>| match value.as_str().map(str::trim) {
        Some("") => {}
        Some(url) if tracker_scheme(url) == Some(TrackerScheme::Http) => {
            if seen.insert(url.to_owned()) {
                urls.push(url.to_owned());
            }
        }
        _ => notes.add(what, || shown(value)),
    };
    match value.as_list() {
        Some(list) => list.for_each(take),
        None => take(value),
    }
    urls
}

fn nodes(value: Value<'_>, notes: &mut Notes) -> Vec<(String, u16)> {
    let node = |value: Value<'_>| {
        let mut parts = value.as_list()?;
        let host = parts.next()?.as_str().filter(|host| !host.is_empty())?;
        let port = u16::try_from(parts.next()?.as_u64()?).ok().filter(|&port| port != 0)?;
        Some((host.to_owned(), port))
    };
    let Some(list) = value.as_list() else {
        notes.add("nodes is not a list and is ignored", String::new);
        return Vec::new();
    };
    let mut nodes = Vec::new();
    for value in list {
        match node(value) {
            Some(node) => nodes.push(node),
            None => notes.add("a DHT node is not a host and a port and is ignored", String::new),
        }
    }
    nodes
}

fn note_useless(useless: bool, what: &'static str, notes: &mut Notes) {
    if useless {
        notes.add(what, String::new);
    }
}

fn shown(value: Value<'_>) -> String {
    value.as_bytes().map_or_else(|| "not a string".to_owned(), |bytes| escape_short(bytes, 80))
}
