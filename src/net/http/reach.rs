//! How deep into our own network a request may go (protection against server-side request forgery).

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::Purpose;

/// How near to us an address is, farthest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Scope {
    /// On the internet.
    Public,
    /// In a private network.
    Private,
    /// On this link only: routers, and the services of clouds that hand out credentials.
    LinkLocal,
    /// This host.
    Loopback,
}

impl Scope {
    /// The scope of an address; one that names nobody counts as this host, which is where the kernel sends it.
    pub(super) fn of(addr: IpAddr) -> Self {
        match addr.to_canonical() {
            IpAddr::V4(addr) => match addr.octets() {
                [0 | 127, ..] => Self::Loopback,
                [169, 254, ..] => Self::LinkLocal,
                [10, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] => Self::Private,
                _ => Self::Public,
            },
            IpAddr::V6(addr) if addr.is_loopback() || addr.is_unspecified() => Self::Loopback,
            IpAddr::V6(addr) => match addr.segments()[0] {
                0xfe80..=0xfebf => Self::LinkLocal,
                0xfc00..=0xfdff | 0xfec0..=0xfeff => Self::Private,
                _ => Self::Public,
            },
        }
    }
}

/// The scopes that a request may go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Reach {
    private: bool,
    link_local: bool,
    loopback: bool,
}

impl Reach {
    /// For a request to a URL with this path, which came from a place that is trusted with `trust`, by a redirect or not.
    pub(super) fn of(trust: Scope, redirected: bool, purpose: Purpose, path: &str) -> Self {
        let polite = match purpose {
            Purpose::Document => true,
            Purpose::Tracker => is_announce(path),
            Purpose::Scrape => matches!(last_part(path), "scrape" | "scrape.php"),
        };
        Self {
            private: trust >= Scope::Private,
            link_local: polite && !redirected,
            loopback: polite && trust >= Scope::Loopback,
        }
    }

    pub(super) fn allows(self, addr: IpAddr) -> bool {
        match Scope::of(addr) {
            Scope::Public => true,
            Scope::Private => self.private,
            Scope::LinkLocal => self.link_local,
            Scope::Loopback => self.loopback,
        }
    }
}

/// Whether a path is one that trackers have and other services do not.
fn is_announce(path: &str) -> bool {
    matches!(last_part(path), "announce" | "announce.php") || path.starts_with("/announce/")
}

fn last_part(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
}

/// Looks names up, and gives those addresses only that are in reach.
#[derive(Debug)]
pub(super) struct GuardedResolver {
    pub(super) reach: Reach,
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = self.reach;
        Box::pin(async move {
            let mut found = false;
            let mut addrs = Vec::new();
            for addr in tokio::net::lookup_host((name.as_str(), 0)).await.map_err(Unknown)? {
                found = true;
                if reach.allows(addr.ip()) {
                    addrs.push(addr);
                }
            }
            if found && addrs.is_empty() {
                return Err(Unreachable.into());
            }
            Ok(Box::new(addrs.into_iter()) as Box<dyn Iterator<Item = SocketAddr> + Send> as Addrs)
        })
    }
}

/// A name that has only addresses which may not be asked.
#[derive(Debug)]
pub(super) struct Unreachable;

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name stands for a local address")
    }
}

impl std::error::Error for Unreachable {}

/// A name that has no address.
#[derive(Debug)]
pub(super) struct Unknown(pub(super) std::io::Error);

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Unknown {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_their_scope() {
        for (addr, scope) in [
            ("8.8.8.8", Scope::Public),
            ("172.32.0.1", Scope::Public),
            ("2001:4860::1", Scope::Public),
            ("10.1.2.3", Scope::Private),
            ("100.64.0.1", Scope::Private),
            ("fd00::1", Scope::Private),
            ("169.254.169.254", Scope::LinkLocal),
            ("fe80::1", Scope::LinkLocal),
            ("127.8.9.1", Scope::Loopback),
            ("0.0.0.0", Scope::Loopback),
            ("::", Scope::Loopback),
            ("::1", Scope::Loopback),
            ("::ffff:127.0.0.1", Scope::Loopback),
            ("::ffff:192.168.0.1", Scope::Private),
        ] {
            assert_eq!(Scope::of(addr.parse().unwrap()), scope, "{addr}");
        }
    }

    #[test]
    fn redirects_lead_no_deeper_than_where_they_come_from() {
        let reaches = |trust, redirected, purpose, path: &str| {
            let reach = Reach::of(trust, redirected, purpose, path);
            ["8.8.8.8", "10.0.0.1", "169.254.1.1", "127.0.0.1"].map(|addr| reach.allows(addr.parse().unwrap()))
        };
        use Purpose::{Document, Scrape, Tracker};
        use Scope::{Loopback, Private, Public};
        for (trust, redirected, purpose, path, allowed) in [
            (Loopback, false, Document, "/x.torrent", [true, true, true, true]),
            (Loopback, false, Tracker, "/announce", [true, true, true, true]),
            (Loopback, false, Tracker, "/passkey/announce.php", [true, true, true, true]),
            (Loopback, false, Tracker, "/admin/reboot", [true, true, false, false]),
            (Loopback, false, Scrape, "/x/scrape.php", [true, true, true, true]),
            (Loopback, false, Scrape, "/announce", [true, true, false, false]),
            (Loopback, false, Tracker, "/scrape", [true, true, false, false]),
            (Loopback, true, Tracker, "/announce", [true, true, false, true]),
            (Loopback, true, Tracker, "/announcement", [true, true, false, false]),
            (Private, true, Tracker, "/announce", [true, true, false, false]),
            (Public, true, Tracker, "/announce", [true, false, false, false]),
            (Public, true, Document, "/x.torrent", [true, false, false, false]),
        ] {
            assert_eq!(reaches(trust, redirected, purpose, path), allowed, "{trust:?} {redirected} {purpose:?} {path}");
        }
    }
}
