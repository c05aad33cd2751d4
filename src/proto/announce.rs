//! What an announce says and what a tracker answers, whatever the transport (BEP 3); which tracker URLs are usable.

use std::net::{IpAddr, SocketAddr};

use crate::base::{InfoHash, PeerId};

/// Why a peer announces itself (BEP 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnnounceEvent {
    /// The interval has passed.
    Periodic,
    /// First announce to this tracker.
    Started,
    /// The torrent has become complete.
    Completed,
    /// We leave.
    Stopped,
}

impl AnnounceEvent {
    /// The `event` parameter of an HTTP announce; none for the periodic one.
    pub fn as_parameter(self) -> Option<&'static str> {
        match self {
            Self::Periodic => None,
            Self::Started => Some("started"),
            Self::Completed => Some("completed"),
            Self::Stopped => Some("stopped"),
        }
    }
}

/// One announce.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnnounceRequest {
    /// Which torrent.
    pub info_hash: InfoHash,
    /// Who.
    pub peer_id: PeerId,
    /// The port that the peer listens at, not 0.
    pub port: u16,
    /// Bytes sent in this life.
    pub uploaded: u64,
    /// Bytes received in this life.
    pub downloaded: u64,
    /// Bytes missing until complete.
    pub left: u64,
    /// Why.
    pub event: AnnounceEvent,
    /// Peers wanted.
    pub numwant: u32,
    /// The same number in every announce of one life: proves identity when the address changes (BEP 7).
    pub key: Option<u32>,
    /// What the tracker gave us last time to send back.
    pub tracker_id: Option<Vec<u8>>,
}

/// What a tracker answers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AnnounceReply {
    /// Seconds until the next announce, as sent; negative ones are 0, absurd ones cut to 32 bits.
    pub interval_seconds: Option<u32>,
    /// Seconds that an earlier announce must not come before.
    pub min_interval_seconds: Option<u32>,
    /// Peers, port 0 left out.
    pub peers: Vec<SocketAddr>,
    /// Seeds in the swarm.
    pub complete: Option<u32>,
    /// Leechers in the swarm.
    pub incomplete: Option<u32>,
    /// Times that the torrent was downloaded to its end, where a tracker tells it unasked.
    pub downloaded: Option<u32>,
    /// A warning, safe for a terminal.
    pub warning: Option<String>,
    /// The peer's address as the tracker saw it (BEP 24).
    pub external_ip: Option<IpAddr>,
    /// To be sent with the next announce.
    pub tracker_id: Option<Vec<u8>>,
}

/// What a tracker that refuses says about coming again (BEP 31).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Not before so many minutes have passed.
    Minutes(u32),
    /// Never.
    Never,
}

/// What a tracker says of one swarm when it is asked for nothing else: a scrape (BEP 15, 48).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ScrapeReply {
    /// Seeds.
    pub complete: Option<u32>,
    /// Leechers.
    pub incomplete: Option<u32>,
    /// Times that the torrent was downloaded to its end.
    pub downloaded: Option<u32>,
    /// Seconds that the next scrape must not come before, as sent.
    pub min_interval_seconds: Option<u32>,
}

/// How a tracker can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrackerScheme {
    /// `http:` or `https:` (BEP 3).
    Http,
    /// `udp:` (BEP 15).
    Udp,
    /// `ws:` or `wss:`, the trackers of browsers: known, never asked.
    WebSocket,
}

/// The scheme of a tracker URL; `None` when it cannot be a tracker's: another scheme, no host, a port out of range, a
/// UDP tracker without a port, blanks or control characters inside.
pub fn tracker_scheme(url: &str) -> Option<TrackerScheme> {
    let parts = UrlParts::of(url)?;
    match parts.scheme.to_ascii_lowercase().as_str() {
        "http" | "https" => Some(TrackerScheme::Http),
        "udp" => parts.port.map(|_| TrackerScheme::Udp),
        "ws" | "wss" => Some(TrackerScheme::WebSocket),
        _ => None,
    }
}

/// The host of a tracker URL, brackets of an IPv6 address included, with its port if it names one: fit for logs, as
/// neither a password nor a passkey is in it. `None` where [`tracker_scheme`] would say so.
pub fn tracker_host(url: &str) -> Option<(&str, Option<u16>)> {
    UrlParts::of(url).map(|parts| (parts.host, parts.port))
}

/// Path and query of a URL as BEP 41 wants them sent, without a fragment; empty where there is nothing behind the host.
pub fn path_and_query(url: &str) -> &str {
    let url = url.split('#').next().unwrap_or_default();
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    rest.find(['/', '?']).map_or("", |start| &rest[start..])
}

struct UrlParts<'u> {
    scheme: &'u str,
    host: &'u str,
    port: Option<u16>,
}

impl<'u> UrlParts<'u> {
    fn of(url: &'u str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        if url.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return None;
        }
        let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
        let host_port = authority.rsplit_once('@').map_or(authority, |(_, host_port)| host_port);
        let host_end = match host_port.rfind(']') {
            Some(bracket) => bracket + 1,
            None => host_port.rfind(':').unwrap_or(host_port.len()),
        };
        let (host, port) = host_port.split_at(host_end);
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => None,
            None => return None,
            Some("") => None,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(digits.parse::<u16>().ok().filter(|&port| port != 0)?)
            }
            Some(_) => return None,
        };
        (!host.is_empty()).then_some(Self { scheme, host, port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usable_tracker_urls_are_told_from_others() {
        use TrackerScheme::{Http, Udp, WebSocket};
        for (url, scheme) in [
            ("http://tracker.example/announce", Some(Http)),
            ("HTTPS://tracker.example:443/a?passkey=x%2Fy", Some(Http)),
            ("http://[::1]:6969/announce", Some(Http)),
            ("http://[::1]/announce", Some(Http)),
            ("http://user:pass@host/a", Some(Http)),
            ("http://host:/a", Some(Http)),
            ("udp://127.0.0.1:6969", Some(Udp)),
            ("udp://127.0.0.1:6969/announce", Some(Udp)),
            ("wss://tracker.example", Some(WebSocket)),
            ("udp://127.0.0.1", None),
            ("http://127.0.0.1:99999/a", None),
            ("http://127.0.0.1:0/a", None),
            ("http://127.0.0.1:x/a", None),
            ("http:///announce", None),
            ("http://:80/announce", None),
            ("file:///etc/passwd", None),
            ("javascript:alert(1)", None),
            ("gopher://127.0.0.1/", None),
            ("http://a b/", None),
            ("http://a/\n", None),
            ("", None),
            ("x", None),
        ] {
            assert_eq!(tracker_scheme(url), scheme, "{url}");
        }
    }

    #[test]
    fn the_host_of_a_url_is_told_without_its_secrets() {
        for (url, host) in [
            ("udp://tracker.example:6969/announce?passkey=1", Some(("tracker.example", Some(6969)))),
            ("https://user:pass@tracker.example/secret/announce", Some(("tracker.example", None))),
            ("udp://[2001:db8::1]:80", Some(("[2001:db8::1]", Some(80)))),
            ("nonsense", None),
        ] {
            assert_eq!(tracker_host(url), host, "{url}");
        }
    }

    #[test]
    fn path_and_query_are_what_stands_behind_the_host() {
        for (url, expected) in [
            ("udp://t:1", ""),
            ("udp://t:1/", "/"),
            ("udp://t:1/announce", "/announce"),
            ("udp://t:1/dir?a=b&c=/d#frag", "/dir?a=b&c=/d"),
            ("udp://t:1?x", "?x"),
            ("nonsense", ""),
        ] {
            assert_eq!(path_and_query(url), expected, "{url}");
        }
    }
}
