//! Who may ask, and what browsers are told about every answer.
//!
//! A page of somebody else's can make a browser ask us in two ways. By pointing a name of its own at our address (DNS
//! rebinding): so we answer to names that are ours and to bare addresses only. By sending a form: so a request that
//! changes something must not come from another origin, where the browser says from which.

use axum::extract::{Request, State};
use axum::http::header::{
    CONTENT_SECURITY_POLICY, HOST, HeaderName, ORIGIN, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderMap, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::error::{JsonError, PageError};
use super::{PagesConfig, Site, answers};

/// The authority (`host:port`) that a request was sent to, checked: among the extensions of every request.
#[derive(Debug, Clone)]
pub(super) struct Authority(pub(super) String);

pub(super) async fn guard(State(site): State<Site>, mut request: Request, next: Next) -> Response {
    // A program is told in its own language.
    let for_program = request.uri().path().starts_with("/api/");
    let refuse = |error| if for_program { JsonError(error).into_response() } else { error.into_response() };
    let requester = request.extensions().get().copied();
    let mut response = match admitted(&site.0.config, &request) {
        Ok(authority) => {
            request.extensions_mut().insert(authority);
            answers::within(&site.0.room, requester, next.run(request).await).unwrap_or_else(|| refuse(PageError::Busy))
        }
        Err(refusal) => refuse(refusal),
    };
    for (name, value) in HEADERS {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

fn admitted(config: &PagesConfig, request: &Request) -> Result<Authority, PageError> {
    // Of two, others on the way may have read the other one.
    if [HOST, ORIGIN].iter().any(|name| request.headers().get_all(name).iter().count() > 1) {
        return Err(PageError::Bad("a request has one Host, and one Origin at most".to_owned()));
    }
    let authority = request.uri().authority().map(|authority| authority.as_str().to_owned());
    let authority = authority.or_else(|| text(request.headers(), &HOST)).ok_or(PageError::Host)?.to_ascii_lowercase();
    if !is_ours(config, &authority) {
        return Err(PageError::Host);
    }
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if changes && !is_from_here(config, &authority, request.headers()) {
        return Err(PageError::Origin);
    }
    Ok(Authority(authority))
}

fn is_ours(config: &PagesConfig, authority: &str) -> bool {
    // Nothing but a name or an address: it stands in lines that people copy into a shell.
    if !authority.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte)) {
        return false;
    }
    // As a URL has it; what does not make one is nobody's.
    let Ok(url) = url::Url::parse(&format!("http://{authority}/")) else { return false };
    if url.username() != "" || url.password().is_some() || url.path() != "/" || url.query().is_some() {
        return false;
    }
    match url.host() {
        // Nobody can point an address at us.
        Some(url::Host::Ipv4(_) | url::Host::Ipv6(_)) => true,
        Some(url::Host::Domain(name)) => {
            let public = config.public_url.as_deref().and_then(|url| url::Url::parse(url).ok());
            let public = public.as_ref().and_then(|url| url.host_str());
            let name = name.trim_end_matches('.');
            name == "localhost"
                || name.ends_with(".localhost")
                || config.names.iter().map(String::as_str).chain(public).any(|ours| ours.eq_ignore_ascii_case(name))
        }
        None => false,
    }
}

fn is_from_here(config: &PagesConfig, authority: &str, headers: &HeaderMap) -> bool {
    let site = text(headers, &HeaderName::from_static("sec-fetch-site"));
    if site.is_some_and(|site| !matches!(site.as_str(), "same-origin" | "none")) {
        return false;
    }
    if !headers.contains_key(ORIGIN) {
        // No browser; or an old one, which has no token to send with it.
        return true;
    }
    let Some(origin) = text(headers, &ORIGIN) else { return false };
    // Whether TLS ends before us is not seen here.
    let same = ["http://", "https://"].iter().any(|scheme| origin.strip_prefix(scheme) == Some(authority));
    same || config.public_url.as_deref() == Some(origin.as_str())
}

fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

const HEADERS: [(HeaderName, &str); 7] = [
    (
        CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; \
         frame-ancestors 'none'",
    ),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (X_FRAME_OPTIONS, "DENY"),
    // Not `no-referrer`: with that a browser says `Origin: null` of our own forms.
    (REFERRER_POLICY, "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=()"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_names_are_ours() {
        let config = PagesConfig {
            public_url: Some("https://Tracker.example".to_owned()),
            names: vec!["box.lan".to_owned()],
            ..PagesConfig::default()
        };
        for ours in
            ["127.0.0.1", "127.0.0.1:6969", "[::1]:80", "192.0.2.7", "localhost:1", "tracker.example", "box.lan:6969"]
        {
            assert!(is_ours(&config, ours), "{ours}");
        }
        for foreign in [
            "evil.example",
            "box.lan.evil.example",
            "a@127.0.0.1",
            "127.0.0.1/x",
            "",
            " ",
            "127.0.0.1.evil.example",
            "[::1",
            "x?y",
            "127.0.0.1#x",
            "$(reboot).localhost",
            "a;b.localhost:1",
            "127.0.0.1\t",
        ] {
            assert!(!is_ours(&config, foreign), "{foreign}");
        }
    }

    #[test]
    fn forms_of_others_are_refused() {
        let config = PagesConfig { public_url: Some("https://t.example".to_owned()), ..PagesConfig::default() };
        let from = |pairs: &[(&'static str, &str)]| {
            let header = |(name, value): &(&'static str, &str)| {
                (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
            };
            is_from_here(&config, "127.0.0.1:6969", &pairs.iter().map(header).collect())
        };
        assert!(from(&[]) && from(&[("origin", "http://127.0.0.1:6969")]) && from(&[("origin", "https://t.example")]));
        assert!(from(&[("origin", "http://127.0.0.1:6969"), ("sec-fetch-site", "same-origin")]));
        for foreign in
            ["null", "http://evil.example", "http://127.0.0.1:6970", "http://127.0.0.1:6969.evil.example", ""]
        {
            assert!(!from(&[("origin", foreign)]), "{foreign}");
        }
        assert!(!from(&[("sec-fetch-site", "cross-site")]) && !from(&[("sec-fetch-site", "same-site")]));
    }
}
