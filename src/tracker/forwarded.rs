//! Whose address counts behind a reverse proxy.

use std::net::{IpAddr, SocketAddr};

use axum::http::HeaderMap;
use ipnet::IpNet;

/// The address of whoever asks: the connection's; if that is a proxy we trust, the last one in `X-Forwarded-For` that
/// is none. What stands before that anybody may have written.
pub(super) fn client(peer: SocketAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let own = peer.ip().to_canonical();
    let is_trusted = |ip: &IpAddr| trusted.iter().any(|net| net.contains(ip));
    if !is_trusted(&own) {
        return own;
    }
    let lines: Vec<_> = headers.get_all("x-forwarded-for").iter().collect();
    let mut nearest = own;
    for word in lines.iter().rev().flat_map(|line| line.as_bytes().rsplit(|&byte| byte == b',')) {
        // A word that is no address ends what can be trusted.
        let Some(ip) = std::str::from_utf8(word).ok().and_then(|word| address(word.trim())) else { break };
        nearest = ip;
        if !is_trusted(&ip) {
            break;
        }
    }
    nearest
}

/// Some proxies write a port as well.
fn address(word: &str) -> Option<IpAddr> {
    let bare = word.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(word);
    let ip = bare.parse().ok().or_else(|| word.parse::<SocketAddr>().ok().map(|addr| addr.ip()))?;
    Some(IpAddr::to_canonical(&ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_proxies_that_are_trusted_speak_for_others() {
        let trusted: Vec<IpNet> = vec!["127.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()];
        for (peer, lines, expected) in [
            ("192.0.2.1:9", &["198.51.100.7"][..], "192.0.2.1"),
            ("127.0.0.1:9", &[], "127.0.0.1"),
            ("127.0.0.1:9", &["198.51.100.7"], "198.51.100.7"),
            ("[::ffff:127.0.0.1]:9", &["198.51.100.7"], "198.51.100.7"),
            ("127.0.0.1:9", &["10.9.9.9, 198.51.100.7, 127.0.0.3"], "198.51.100.7"),
            ("127.0.0.1:9", &["10.9.9.9", "198.51.100.7"], "198.51.100.7"),
            ("127.0.0.1:9", &["10.9.9.9, nonsense"], "127.0.0.1"),
            ("127.0.0.1:9", &["10.9.9.9, nonsense, 127.0.0.3"], "127.0.0.3"),
            ("127.0.0.1:9", &["[2001:db8::7]:443"], "2001:db8::7"),
            ("[fd00::1]:9", &["2001:db8::7"], "2001:db8::7"),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append("x-forwarded-for", line.parse().unwrap());
            }
            let found = client(peer.parse().unwrap(), &headers, &trusted);
            assert_eq!(found, expected.parse::<IpAddr>().unwrap(), "{peer} {lines:?}");
        }
    }
}
