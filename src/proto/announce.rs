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
    /// A warning, safe for a terminal.
    pub warning: Option<String>,
    /// The peer's address as the tracker saw it (BEP 24).
    pub external_ip: Option<IpAddr>,
    /// To be sent with the next announce.
    pub tracker_id: Option<Vec<u8>>,
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
    if host.is_empty() {
        return None;
    }
    match scheme.to_ascii_lowercase().as_str() {
        "http" | "https" => Some(TrackerScheme::Http),
        "udp" => port.map(|_| TrackerScheme::Udp),
        "ws" | "wss" => Some(TrackerScheme::WebSocket),
        _ => None,
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
}
