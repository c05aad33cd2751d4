//! The UDP side of asking trackers (BEP 15): names to addresses, connection ids, one question and its answer.
//!
//! A tracker may be named anywhere, this host included: all that a torrent can make us send to a stranger are the 16
//! bytes of a connect, of which it shapes none. More goes only to whoever answers that with what was in it.
//!
//! When to ask is the engine's business.

mod transactions;

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lru::LruCache;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use url::Host;

use self::transactions::{Lost, Transactions};
use crate::base::InfoHash;
use crate::proto::announce::{
    AnnounceEvent, AnnounceReply, AnnounceRequest, ScrapeReply, path_and_query, tracker_host,
};
use crate::proto::path::escape_short;
use crate::proto::udp_tracker::{Action, ReplyBody, write_announce, write_connect, write_scrape};

/// Asks UDP trackers, all torrents of a session through the same sockets; cheap to clone.
#[derive(Debug, Clone)]
pub struct UdpTrackers {
    shared: Arc<Shared>,
    patience: Duration,
    first_wait: Duration,
}

#[derive(Debug)]
struct Shared {
    bind: Option<IpAddr>,
    transactions: Transactions,
    /// Of the trackers that answered last, whether their ids are still good or not.
    connections: Mutex<LruCache<SocketAddr, Connection>>,
}

/// What a tracker wants to see before it answers: proof that we get what is sent to our address.
#[derive(Debug, Clone, Copy)]
struct Connection {
    id: u64,
    since: Instant,
}

/// Why there is no answer; safe for a terminal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UdpError {
    /// Not a URL of a UDP tracker.
    #[error("not a usable udp URL")]
    Url,
    /// Its name stands for nothing.
    #[error("its name cannot be looked up: {0}")]
    Name(String),
    /// It has addresses, but none that could be asked: of another family than `--bind`, or nobody's.
    #[error("it has no address that can be asked from here")]
    NoAddress,
    /// The system does not send there.
    #[error("cannot be reached: {0}")]
    Network(String),
    /// Nothing came, or nothing that answers what was asked.
    #[error("no answer in time")]
    Timeout,
    /// It says no, in these words.
    #[error("{0}")]
    Refused(String),
}

/// One question, apart from the connection id.
#[derive(Debug, Clone, Copy)]
enum Question<'q> {
    Announce { request: &'q AnnounceRequest, url_data: &'q [u8] },
    Scrape(&'q InfoHash),
}

impl UdpTrackers {
    /// Asks from `bind`, if given; opens no socket before the first question.
    pub fn new(bind: Option<IpAddr>) -> Self {
        Self {
            shared: Arc::new(Shared {
                bind,
                transactions: Transactions::new(bind),
                connections: Mutex::new(LruCache::new(MAX_CONNECTIONS)),
            }),
            patience: PATIENCE,
            first_wait: FIRST_WAIT,
        }
    }

    /// The same sockets with another bound on the time that one question takes (30 s if never called), and another time
    /// after which its first datagram is sent again (15 s).
    pub fn with_pace(self, patience: Duration, first_wait: Duration) -> Self {
        Self { patience, first_wait, ..self }
    }

    /// Announces to the tracker of this URL.
    ///
    /// # Errors
    /// [`UdpError`]: see its variants.
    pub async fn announce(&self, url: &str, request: &AnnounceRequest) -> Result<AnnounceReply, UdpError> {
        let url_data = path_and_query(url).as_bytes();
        let mut pace = self.clone();
        if request.event == AnnounceEvent::Stopped {
            pace.first_wait = pace.first_wait.min(STOP_WAIT);
        }
        match pace.ask(url, Question::Announce { request, url_data }).await? {
            ReplyBody::Announced(reply) => Ok(reply),
            _ => Err(UdpError::Timeout),
        }
    }

    /// Asks for the figures of one torrent.
    ///
    /// # Errors
    /// [`UdpError`]: see its variants.
    pub async fn scrape(&self, url: &str, info_hash: &InfoHash) -> Result<ScrapeReply, UdpError> {
        match self.ask(url, Question::Scrape(info_hash)).await? {
            ReplyBody::Scraped(reply) => Ok(reply),
            _ => Err(UdpError::Timeout),
        }
    }

    async fn ask(&self, url: &str, question: Question<'_>) -> Result<ReplyBody, UdpError> {
        let asking = async {
            let addr = self.reach(self.addresses(url).await?).await?;
            self.exchange(addr, question).await
        };
        timeout(self.patience, asking).await.unwrap_or(Err(UdpError::Timeout))
    }

    /// Where the tracker of this URL can be asked, best first; looked up each time.
    async fn addresses(&self, url: &str) -> Result<Vec<SocketAddr>, UdpError> {
        let (host, port) = tracker_host(url).ok_or(UdpError::Url)?;
        let port = port.ok_or(UdpError::Url)?;
        let found: Vec<IpAddr> = match Host::parse(host).map_err(|_| UdpError::Url)? {
            Host::Ipv4(ip) => vec![ip.into()],
            Host::Ipv6(ip) => vec![ip.into()],
            Host::Domain(name) => {
                let found = tokio::net::lookup_host((name.as_str(), port)).await;
                let found = found.map_err(|error| UdpError::Name(shown(&error)))?;
                found.map(|addr| addr.ip()).collect()
            }
        };
        let family = self.shared.bind.map(|bind| bind.is_ipv4());
        let mut addrs: Vec<SocketAddr> = Vec::new();
        for ip in found.into_iter().map(|ip| ip.to_canonical()).filter(is_somebody) {
            let addr = SocketAddr::new(ip, port);
            if family.is_none_or(|ipv4| ipv4 == ip.is_ipv4()) && !addrs.contains(&addr) {
                addrs.push(addr);
            }
        }
        // Who has answered before lists us there: the next announce had better go to the same address.
        let connections = self.connections();
        addrs.sort_by_key(|addr| !connections.contains(addr));
        addrs.truncate(MAX_ADDRESSES);
        if addrs.is_empty() { Err(UdpError::NoAddress) } else { Ok(addrs) }
    }

    /// Which of these addresses answers first; each has a little less time than the one before it.
    async fn reach(&self, addrs: Vec<SocketAddr>) -> Result<SocketAddr, UdpError> {
        if let [only] = addrs[..] {
            return Ok(only);
        }
        let mut tries = JoinSet::new();
        for (place, addr) in addrs.into_iter().enumerate() {
            let this = self.clone();
            tries.spawn(async move {
                sleep(HEAD_START * place as u32).await;
                this.connection(addr).await.map(|_| addr)
            });
        }
        let mut failure = UdpError::Timeout;
        while let Some(tried) = tries.join_next().await {
            match tried {
                Ok(Ok(addr)) => return Ok(addr),
                Ok(Err(error)) => failure = error,
                // It panicked, and the hook has said so.
                Err(_) => {}
            }
        }
        Err(failure)
    }

    /// Asks one address. An older connection id may have been forgotten by the tracker: if it brings nothing, it is given
    /// up for a new one at once.
    async fn exchange(&self, to: SocketAddr, question: Question<'_>) -> Result<ReplyBody, UdpError> {
        loop {
            let connection = self.connection(to).await?;
            let aged = connection.since.elapsed() >= AGED;
            let write = |transaction| question.write(connection.id, transaction);
            let repeats = if aged { 0 } else { MAX_REPEATS };
            let valid_until = Some(connection.since + CONNECTION_LIFE);
            let transactions = &self.shared.transactions;
            let answer =
                transactions.transact(to, question.action(), write, self.first_wait, repeats, valid_until).await;
            match answer {
                Err(Lost::Expired) => {}
                Err(Lost::Silent) | Ok(ReplyBody::Refused(_)) if aged => {
                    self.connections().pop(&to);
                }
                Err(Lost::Silent) => return Err(UdpError::Timeout),
                Err(Lost::Network(error)) => return Err(UdpError::Network(shown(&error))),
                Ok(ReplyBody::Refused(reason)) => return Err(UdpError::Refused(reason)),
                Ok(body) => return Ok(body),
            }
        }
    }

    /// The connection id of an address: the one that we have while it is good, else a new one.
    async fn connection(&self, to: SocketAddr) -> Result<Connection, UdpError> {
        let known = self.connections().get(&to).copied();
        if let Some(known) = known.filter(|known| known.since.elapsed() < CONNECTION_LIFE) {
            return Ok(known);
        }
        let transactions = &self.shared.transactions;
        let answer =
            transactions.transact(to, Action::Connect, write_connect, self.first_wait, MAX_REPEATS, None).await;
        match answer {
            Ok(ReplyBody::Connected(id)) => {
                let connection = Connection { id, since: Instant::now() };
                self.connections().put(to, connection);
                Ok(connection)
            }
            Ok(ReplyBody::Refused(reason)) => Err(UdpError::Refused(reason)),
            Err(Lost::Network(error)) => Err(UdpError::Network(shown(&error))),
            Ok(_) | Err(Lost::Silent | Lost::Expired) => Err(UdpError::Timeout),
        }
    }

    /// Whole after any panic: it changes by single calls.
    fn connections(&self) -> MutexGuard<'_, LruCache<SocketAddr, Connection>> {
        self.shared.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Question<'_> {
    fn action(self) -> Action {
        match self {
            Self::Announce { .. } => Action::Announce,
            Self::Scrape(_) => Action::Scrape,
        }
    }

    fn write(self, connection: u64, transaction: u32) -> Vec<u8> {
        match self {
            Self::Announce { request, url_data } => write_announce(connection, transaction, request, url_data),
            Self::Scrape(info_hash) => write_scrape(connection, transaction, info_hash),
        }
    }
}

/// Whether an address is one machine's: neither all of a network nor nobody's, which the kernel takes for this host's.
fn is_somebody(ip: &IpAddr) -> bool {
    !ip.is_multicast() && !ip.is_unspecified() && *ip != IpAddr::from([255; 4])
}

fn shown(error: &std::io::Error) -> String {
    escape_short(error.to_string().as_bytes(), 200)
}

/// For one question, from the look-up of its name on: as for HTTP. The repeats of BEP 15 beyond this are the engine's
/// back-off, which doubles as they do.
const PATIENCE: Duration = Duration::from_secs(30);
/// Until a datagram is sent again; doubles each time (BEP 15).
const FIRST_WAIT: Duration = Duration::from_secs(15);
/// The same for `stopped`: the process ends in 3 s, and nobody would send it again.
const STOP_WAIT: Duration = Duration::from_secs(1);
/// How often a datagram is sent again at most (BEP 15).
const MAX_REPEATS: u32 = 8;
/// How long a connection id may be used (BEP 15).
const CONNECTION_LIFE: Duration = Duration::from_secs(60);
/// A connection id that a tracker may have lost since, by a restart.
const AGED: Duration = Duration::from_secs(1);
/// Trackers whose connection ids are kept.
const MAX_CONNECTIONS: NonZeroUsize = NonZeroUsize::new(256).expect("not 0");
/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 4;
/// RFC 8305: before the next address of a name is tried.
const HEAD_START: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_are_those_that_can_be_asked() {
        let from = |bind: Option<&str>| UdpTrackers::new(bind.map(|ip| ip.parse().unwrap()));
        for (bind, url, expected) in [
            (None, "udp://127.0.0.1:80/announce", Ok("127.0.0.1:80")),
            (None, "udp://[::1]:80", Ok("[::1]:80")),
            (None, "udp://[::ffff:127.0.0.1]:80", Ok("127.0.0.1:80")),
            (None, "udp://224.0.0.1:80", Err(UdpError::NoAddress)),
            (None, "udp://[ff02::1]:80", Err(UdpError::NoAddress)),
            (None, "udp://255.255.255.255:80", Err(UdpError::NoAddress)),
            (None, "udp://0.0.0.0:80", Err(UdpError::NoAddress)),
            (None, "udp://127.0.0.1", Err(UdpError::Url)),
            (Some("127.0.0.1"), "udp://[::1]:80", Err(UdpError::NoAddress)),
            (Some("::1"), "udp://127.0.0.1:80", Err(UdpError::NoAddress)),
            (Some("::1"), "udp://[::1]:80", Ok("[::1]:80")),
        ] {
            let found = from(bind).addresses(url).await;
            assert_eq!(found, expected.map(|addr| vec![addr.parse().unwrap()]), "{url} from {bind:?}");
        }
    }

    #[tokio::test]
    async fn who_has_answered_is_asked_first() {
        let trackers = UdpTrackers::new(None);
        let found = trackers.addresses("udp://localhost:80").await.unwrap();
        let last = *found.last().unwrap();
        trackers.connections().put(last, Connection { id: 1, since: Instant::now() });
        assert_eq!(trackers.addresses("udp://localhost:80").await.unwrap()[0], last);
    }

    /// A tracker that knows one connection id; what it was asked comes back.
    async fn tracker_knowing(id: u64) -> (SocketAddr, tokio::task::JoinHandle<Vec<u8>>) {
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let addr = socket.local_addr().unwrap();
        let tracker = tokio::spawn(async move {
            let (mut actions, mut buffer) = (Vec::new(), [0; 200]);
            loop {
                let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
                let asked = &buffer[..length];
                actions.push(asked[11]);
                let known = asked[..8] == id.to_be_bytes();
                let answer = match asked[11] {
                    0 => [&[0; 4], &asked[12..16], &id.to_be_bytes()].concat(),
                    2 if known => [&[0, 0, 0, 2], &asked[12..16], &[0; 12]].concat(),
                    _ => [&[0, 0, 0, 3], &asked[12..16], b"unknown id"].concat(),
                };
                socket.send_to(&answer, from).await.unwrap();
                if known {
                    return actions;
                }
            }
        });
        (addr, tracker)
    }

    #[tokio::test]
    async fn a_connection_id_is_renewed_when_it_is_old_or_forgotten() {
        for (id, age, asked) in [
            (7, 30, vec![2]),       // good for a minute
            (7, 61, vec![0, 2]),    // no longer
            (8, 30, vec![2, 0, 2]), // the tracker has begun anew
        ] {
            let (addr, tracker) = tracker_knowing(7).await;
            let trackers = UdpTrackers::new(None);
            let since = Instant::now() - Duration::from_secs(age);
            trackers.connections().put(addr, Connection { id, since });
            let scraped = trackers.scrape(&format!("udp://{addr}"), &InfoHash([1; 20])).await;
            assert!(scraped.is_ok(), "{scraped:?}");
            assert_eq!(tracker.await.unwrap(), asked, "id {id}, {age} s old");
        }
    }
}
