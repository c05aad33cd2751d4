//! Announces and scrapes over HTTP (BEP 3, 7, 23, 24, 31, 48): the query and the reply, for the peer's side and for the tracker's.
//!
//! HTTP itself is elsewhere; here are a URL to ask for, a query string to understand, and bodies.

mod server;

use std::net::SocketAddr;

pub use server::{
    DEFAULT_NUMWANT, MAX_NUMWANT, RequestError, ScrapedSwarm, parse_announce, parse_scrape, write_compact_reply,
    write_failure, write_reply, write_scrape,
};

use super::announce::{AnnounceReply, AnnounceRequest, Retry, ScrapeReply};
use super::bencode::{self, Dict, Value};
use super::path::escape_short;
use super::peer_addr::{decode_ip, decode_v4, decode_v6, with_port};
use crate::base::InfoHash;

/// More peers than this in one reply are not taken.
pub const MAX_PEERS: usize = 2000;

/// Why an announce over HTTP brought no peers; safe for a terminal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrackerError {
    /// The body is no bencoded dictionary.
    #[error("the tracker's reply is not bencoded: {0}")]
    NotBencode(String),
    /// The tracker says no.
    #[error("{reason}")]
    Refused {
        /// Its words, escaped and cut.
        reason: String,
        /// When to come again (BEP 31).
        retry: Option<Retry>,
    },
}

/// The URL of an announce: the tracker's own, byte for byte, with the parameters behind whatever query it has.
pub fn announce_url(tracker: &str, request: &AnnounceRequest) -> String {
    let tracker = tracker.split('#').next().unwrap_or_default();
    let mut url = String::with_capacity(tracker.len() + 300);
    url.push_str(tracker);
    match tracker.split_once('?') {
        None => {
            // An empty path is `/` (RFC 3986 6.2.3); some servers answer nothing else.
            if tracker.split_once("://").is_some_and(|(_, rest)| !rest.contains('/')) {
                url.push('/');
            }
            url.push('?');
        }
        Some((_, query)) if query.is_empty() || query.ends_with('&') => {}
        Some(_) => url.push('&'),
    }
    url.push_str("info_hash=");
    percent_encode(request.info_hash.as_bytes(), &mut url);
    url.push_str("&peer_id=");
    percent_encode(request.peer_id.as_bytes(), &mut url);
    let AnnounceRequest { port, uploaded, downloaded, left, numwant, .. } = request;
    url.push_str(&format!(
        "&port={port}&uploaded={uploaded}&downloaded={downloaded}&left={left}&compact=1&numwant={numwant}"
    ));
    if let Some(event) = request.event.as_parameter() {
        url.push_str("&event=");
        url.push_str(event);
    }
    if let Some(key) = request.key {
        url.push_str(&format!("&key={key:08X}"));
    }
    if let Some(id) = &request.tracker_id {
        url.push_str("&trackerid=");
        percent_encode(id, &mut url);
    }
    url
}

/// The URL of a scrape of one torrent (BEP 48): where the last part of the tracker's path begins with `announce`, that
/// word becomes `scrape`; every other tracker cannot be scraped. The query is kept.
pub fn scrape_url(tracker: &str, info_hash: &InfoHash) -> Option<String> {
    let tracker = tracker.split('#').next().unwrap_or_default();
    let path_end = tracker.find('?').unwrap_or(tracker.len());
    let (path, query) = tracker.split_at(path_end);
    let (_, rest) = path.split_once("://")?;
    let (_, last) = rest.rsplit_once('/')?;
    let tail = last.strip_prefix("announce")?;
    let mut url = format!("{}scrape{tail}{query}", &path[..path.len() - last.len()]);
    url.push_str(match query {
        "" => "?",
        query if query.ends_with(['?', '&']) => "",
        _ => "&",
    });
    url.push_str("info_hash=");
    percent_encode(info_hash.as_bytes(), &mut url);
    Some(url)
}

/// Reads the body that answers a scrape of one torrent; all figures are missing when the tracker does not know it.
///
/// # Errors
/// As [`parse_reply`].
pub fn parse_scrape_reply(body: &[u8], info_hash: &InfoHash) -> Result<ScrapeReply, TrackerError> {
    let scanned = bencode::scan(body).map_err(|error| TrackerError::NotBencode(error.to_string()))?;
    let root = accepted(scanned.root)?;
    let flags = root.get("flags").and_then(Value::as_dict);
    let min_interval_seconds = flags.and_then(|flags| seconds(flags.get("min_request_interval")));
    let files = root.get("files").and_then(Value::as_dict);
    let swarm = files.and_then(|files| files.get(info_hash.as_bytes())).and_then(Value::as_dict);
    let figure = |name: &str| seconds(swarm?.get(name));
    Ok(ScrapeReply {
        complete: figure("complete"),
        incomplete: figure("incomplete"),
        downloaded: figure("downloaded"),
        min_interval_seconds,
    })
}

/// Reads the body of a reply. What follows the dictionary is ignored: real trackers send line ends there.
///
/// # Errors
/// [`TrackerError`] when it is no bencoded dictionary, or says that the announce is refused.
pub fn parse_reply(body: &[u8]) -> Result<AnnounceReply, TrackerError> {
    let scanned = bencode::scan(body).map_err(|error| TrackerError::NotBencode(error.to_string()))?;
    let root = accepted(scanned.root)?;
    let mut reply = AnnounceReply {
        interval_seconds: seconds(root.get("interval")),
        min_interval_seconds: seconds(root.get("min interval")),
        complete: seconds(root.get("complete")),
        incomplete: seconds(root.get("incomplete")),
        downloaded: seconds(root.get("downloaded")),
        warning: root.get("warning message").and_then(Value::as_bytes).map(shown),
        external_ip: root.get("external ip").and_then(Value::as_bytes).and_then(decode_ip),
        tracker_id: root.get("tracker id").and_then(Value::as_bytes).filter(short_enough).map(<[u8]>::to_vec),
        peers: Vec::new(),
    };
    if let Some(peers) = root.get("peers") {
        match (peers.as_bytes(), peers.as_list()) {
            (Some(compact), _) => reply.peers.extend(decode_v4(compact).take(MAX_PEERS)),
            (None, Some(list)) => reply.peers.extend(list.filter_map(|peer| dictionary_peer(peer)).take(MAX_PEERS)),
            (None, None) => {}
        }
    }
    if let Some(compact) = root.get("peers6").and_then(Value::as_bytes) {
        let room = MAX_PEERS - reply.peers.len();
        reply.peers.extend(decode_v6(compact).take(room));
    }
    Ok(reply)
}

/// Appends `bytes` with everything but unreserved characters (RFC 3986) as `%XX`.
pub fn percent_encode(bytes: &[u8], out: &mut String) {
    for &byte in bytes {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte.into()),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
}

/// The dictionary of a reply that is no refusal; BEP 48 writes the key with an underscore.
fn accepted(root: Value<'_>) -> Result<Dict<'_>, TrackerError> {
    let root = root.as_dict().ok_or_else(|| TrackerError::NotBencode("not a dictionary".into()))?;
    match root.get("failure reason").or_else(|| root.get("failure_reason")) {
        Some(reason) => {
            let reason = reason.as_bytes().unwrap_or(b"refused without a reason");
            Err(TrackerError::Refused { reason: shown(reason), retry: retry(root) })
        }
        None => Ok(root),
    }
}

/// A number that is not below 0 and is cut to 32 bits; none when it is no integer.
fn seconds(value: Option<Value<'_>>) -> Option<u32> {
    let value = value.filter(|value| value.is_integer())?;
    match (value.as_u64(), value.raw().starts_with(b"i-")) {
        (_, true) => Some(0),
        (number, false) => Some(number.map_or(u32::MAX, |number| u32::try_from(number).unwrap_or(u32::MAX))),
    }
}

/// A peer in the long form: a dictionary of `ip` and `port`. Host names are not looked up.
fn dictionary_peer(peer: Value<'_>) -> Option<SocketAddr> {
    let peer = peer.as_dict()?;
    let ip = peer.get("ip")?.as_str()?.parse().ok()?;
    with_port(ip, u16::try_from(peer.get("port")?.as_u64()?).ok()?)
}

fn retry(root: Dict<'_>) -> Option<Retry> {
    let value = root.get("retry in")?;
    match value.as_bytes() {
        Some(b"never") => Some(Retry::Never),
        Some(text) => std::str::from_utf8(text).ok()?.parse().ok().map(Retry::Minutes),
        None => seconds(Some(value)).map(Retry::Minutes),
    }
}

/// A stranger's text for people.
fn shown(text: &[u8]) -> String {
    escape_short(text.trim_ascii(), 200)
}

/// We send a tracker's id back in a URL.
fn short_enough(id: &&[u8]) -> bool {
    id.len() <= 256
}

#[cfg(test)]
mod tests;
