//! The one HTTP client: trackers, `.torrent` URLs, later web seeds.
//!
//! Caps every body, takes no longer than half a minute, keeps the bytes of a query as they are, asks for no compression,
//! goes through no proxy, and follows at most [`MAX_REDIRECTS`] redirects by hand, so that nobody in the swarm or on the
//! web can make us ask a service of this host or its network (`reach.rs`).

mod reach;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{CONTENT_ENCODING, CONTENT_TYPE, LOCATION};
use reqwest::redirect::Policy;
use tracing::warn;
use url::{Host, Url};

use self::reach::{GuardedResolver, Reach, Scope};
use crate::proto::path::escape_short;

/// An HTTP client; cheap to clone.
#[derive(Debug, Clone)]
pub struct HttpClient {
    shared: Arc<Shared>,
    patience: Duration,
}

#[derive(Debug)]
struct Shared {
    bind: Option<IpAddr>,
    /// One a reach: the resolver of each gives only addresses that may be asked.
    clients: Mutex<HashMap<Reach, reqwest::Client>>,
}

/// Whose URL is fetched: decides what it may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A tracker, named by a torrent, thus by a stranger: on this host and link-local only under a path that ends in
    /// `announce` or `announce.php`.
    Tracker,
    /// The same tracker's figures: its path ends in `scrape` instead.
    Scrape,
    /// A document that the user named: anything.
    Document,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body, whole.
    pub body: Bytes,
}

/// Why there is no answer; safe for a terminal, and without the URL, which may hold a passkey.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    /// Not a URL that can be fetched.
    #[error("not an http or https URL")]
    Url,
    /// Its name stands for nothing.
    #[error("its name cannot be looked up: {0}")]
    Name(String),
    /// Nobody listens there.
    #[error("the connection is refused")]
    Refused,
    /// Any other trouble with the connection.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// The server is not who it should be, or nobody that is trusted here says so.
    #[error("the certificate of the server is not accepted: {0}")]
    Certificate(String),
    /// Nothing whole came in time.
    #[error("no answer in time")]
    Timeout,
    /// What came is no HTTP.
    #[error("bad answer: {0}")]
    Protocol(String),
    /// The body is longer than allowed.
    #[error("the answer is longer than {0} bytes")]
    TooLong(usize),
    /// The body is compressed, which was not asked for.
    #[error("the answer is compressed")]
    Compressed,
    /// More than [`MAX_REDIRECTS`].
    #[error("more than {MAX_REDIRECTS} redirects")]
    Redirects,
    /// A redirect without a usable target.
    #[error("a redirect leads nowhere")]
    Target,
    /// A redirect, or a stranger's URL, names a place that it must not.
    #[error("refuses to ask a local address")]
    Forbidden,
}

impl HttpClient {
    /// A client that connects from `bind`, if given.
    pub fn new(bind: Option<IpAddr>) -> Self {
        INSTALL_TLS.call_once(|| {
            // Fails only where the program has chosen another one before.
            let _ = rustls::crypto::ring::default_provider().install_default();
        });
        Self { shared: Arc::new(Shared { bind, clients: Mutex::default() }), patience: PATIENCE }
    }

    /// The same client, with another bound on the time that one [`get`](Self::get) takes; 30 s if never called.
    pub fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Fetches `url`, whatever the status of the answer.
    ///
    /// # Errors
    /// [`HttpError`]: see its variants.
    pub async fn get(&self, url: &str, purpose: Purpose, max_bytes: usize) -> Result<Answer, HttpError> {
        let answer = tokio::time::timeout(self.patience, self.follow(url, purpose, max_bytes)).await;
        answer.unwrap_or(Err(HttpError::Timeout))
    }

    /// Sends `body` to a URL that the user named, once; whatever the status of the answer. Redirects are not followed: what
    /// is sent, and the `token` that goes with it, is for that server alone.
    ///
    /// # Errors
    /// [`HttpError`]: see its variants.
    pub async fn post(
        &self,
        url: &str,
        kind: &str,
        token: Option<&str>,
        body: Bytes,
        max_bytes: usize,
    ) -> Result<Answer, HttpError> {
        let url = parse(url)?;
        let client = self.client(Reach::of(Scope::Loopback, false, Purpose::Document, url.path()))?;
        let mut request = client.post(url).header(CONTENT_TYPE, kind).body(body);
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let exchange = async { read(request.send().await.map_err(network_error)?, max_bytes).await };
        tokio::time::timeout(self.patience, exchange).await.unwrap_or(Err(HttpError::Timeout))
    }

    async fn follow(&self, url: &str, purpose: Purpose, max_bytes: usize) -> Result<Answer, HttpError> {
        let mut url = parse(url)?;
        let mut trust = Scope::Loopback;
        for hop in 0..=MAX_REDIRECTS {
            let reach = Reach::of(trust, hop > 0, purpose, url.path());
            let response = self.client(reach)?.get(admit(&url, reach)?.clone()).send().await.map_err(network_error)?;
            if !response.status().is_redirection() {
                return read(response, max_bytes).await;
            }
            // A redirect leads no deeper into our network than the place it comes from.
            let from = response.remote_addr().map_or(Scope::Public, |addr| Scope::of(addr.ip()));
            trust = trust.min(from);
            let location =
                response.headers().get(LOCATION).and_then(|value| std::str::from_utf8(value.as_bytes()).ok());
            url = url.join(location.ok_or(HttpError::Target)?).map_err(|_| HttpError::Target)?;
            if !has_web_scheme(&url) {
                return Err(HttpError::Target);
            }
        }
        Err(HttpError::Redirects)
    }

    fn client(&self, reach: Reach) -> Result<reqwest::Client, HttpError> {
        let mut clients = self.shared.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&reach) {
            return Ok(client.clone());
        }
        let builder = || {
            reqwest::Client::builder()
                .user_agent(concat!("btfs/", env!("CARGO_PKG_VERSION")))
                .redirect(Policy::none())
                .referer(false)
                .no_proxy()
                .connect_timeout(CONNECT_PATIENCE)
                .pool_max_idle_per_host(0)
                .local_address(self.shared.bind)
                .dns_resolver(GuardedResolver { reach })
        };
        let client = builder().build().or_else(|error| {
            // A system without certificates can still do plain HTTP; HTTPS then trusts nobody.
            warn!(error = innermost(&error), "no https: no certificate authority can be read (SSL_CERT_FILE, if set)");
            builder().tls_certs_only([]).build()
        });
        let client = client.map_err(|error| HttpError::Connect(innermost(&error)))?;
        clients.insert(reach, client.clone());
        Ok(client)
    }
}

/// Fetches a metainfo file that the user named by its URL.
///
/// # Errors
/// [`HttpError`]; an answer with a bad status is a [`HttpError::Protocol`].
pub async fn fetch_torrent(url: &str, bind: Option<IpAddr>) -> Result<Bytes, HttpError> {
    let answer = HttpClient::new(bind).get(url, Purpose::Document, MAX_TORRENT_BYTES).await?;
    match answer.status {
        200..=299 => Ok(answer.body),
        status => Err(HttpError::Protocol(format!("status {status}"))),
    }
}

/// The longest metainfo file that is fetched (rule P5 of the corpus).
pub const MAX_TORRENT_BYTES: usize = 64 * 1024 * 1024;

/// Redirects that are followed.
pub const MAX_REDIRECTS: usize = 5;

fn parse(url: &str) -> Result<Url, HttpError> {
    Url::parse(url).ok().filter(has_web_scheme).ok_or(HttpError::Url)
}

fn has_web_scheme(url: &Url) -> bool {
    matches!(url.scheme(), "http" | "https") && url.has_host()
}

/// Checks an address that is written out; names are checked when they are looked up.
fn admit(url: &Url, reach: Reach) -> Result<&Url, HttpError> {
    let addr = match url.host() {
        Some(Host::Ipv4(addr)) => IpAddr::from(addr),
        Some(Host::Ipv6(addr)) => IpAddr::from(addr),
        _ => return Ok(url),
    };
    if reach.allows(addr) { Ok(url) } else { Err(HttpError::Forbidden) }
}

/// Reads the body as long as it keeps to its bound; a length that is claimed sizes nothing (I10).
async fn read(mut response: reqwest::Response, max_bytes: usize) -> Result<Answer, HttpError> {
    if response.headers().get(CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
        return Err(HttpError::Compressed);
    }
    if response.content_length().is_some_and(|length| length > max_bytes as u64) {
        return Err(HttpError::TooLong(max_bytes));
    }
    let status = response.status().as_u16();
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(network_error)? {
        if body.len() + chunk.len() > max_bytes {
            return Err(HttpError::TooLong(max_bytes));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Answer { status, body: body.freeze() })
}

fn network_error(error: reqwest::Error) -> HttpError {
    let mut cause: Option<&dyn std::error::Error> = Some(&error);
    while let Some(known) = cause {
        if known.is::<reach::Unreachable>() {
            return HttpError::Forbidden;
        }
        if let Some(reach::Unknown(reason)) = known.downcast_ref() {
            return HttpError::Name(escape_short(reason.to_string().as_bytes(), MAX_CAUSE_CHARS));
        }
        let refused = known.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        if refused == Some(std::io::ErrorKind::ConnectionRefused) {
            return HttpError::Refused;
        }
        cause = known.source();
    }
    if let Some(reason) = certificate_error(&error) {
        return HttpError::Certificate(reason);
    }
    match &error {
        error if error.is_timeout() => HttpError::Timeout,
        error if error.is_connect() => HttpError::Connect(innermost(error)),
        error => HttpError::Protocol(innermost(error)),
    }
}

/// Why a certificate was refused, if that is the cause.
fn certificate_error(error: &reqwest::Error) -> Option<String> {
    let mut cause = std::error::Error::source(error);
    while let Some(known) = cause {
        match known.downcast_ref() {
            Some(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer)) => {
                return Some("nobody who is trusted here has signed it".to_owned());
            }
            Some(rustls::Error::InvalidCertificate(refused)) => {
                let reason = match refused {
                    rustls::CertificateError::Other(other) => other.0.to_string(),
                    known => known.to_string(),
                };
                return Some(escape_short(reason.as_bytes(), MAX_CAUSE_CHARS));
            }
            _ => {}
        }
        // An I/O error does not name as its source what it wraps.
        cause = match known.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(wrapped) => Some(wrapped),
            None => known.source(),
        };
    }
    None
}

/// The last cause of an error: the outer ones name the URL.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    escape_short(cause.to_string().as_bytes(), MAX_CAUSE_CHARS)
}

static INSTALL_TLS: Once = Once::new();
/// From the first look-up to the last byte of the body, redirects included.
const PATIENCE: Duration = Duration::from_secs(30);
/// For one connection, TLS included.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// What is shown of a cause.
const MAX_CAUSE_CHARS: usize = 200;
