//! What `btfs tracker` can be told: by its file, by its options, and as such a file again.

use std::fmt::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context;
use ipnet::IpNet;
use serde::Deserialize;

use super::{Args, reload};
use crate::cli::exit::UsageError;
use crate::tracker::web::PagesConfig;
use crate::tracker::{Bounds, Sockets, StoreConfig};

/// The file's keys. A key that is none of these is an error, so a typo is one.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub(super) struct Settings {
    pub(super) listen: Vec<Listen>,
    pub(super) state_dir: Option<PathBuf>,
    pub(super) public_name: Option<String>,
    pub(super) public_url: Option<String>,
    pub(super) allow: Allow,
    pub(super) allow_list: Option<PathBuf>,
    pub(super) deny_list: Option<PathBuf>,
    pub(super) open_upload: bool,
    pub(super) watch: Vec<PathBuf>,
    pub(super) trust_forwarded_from: Vec<Network>,
    pub(super) interval_seconds: u32,
    pub(super) expiry_seconds: u32,
    pub(super) snapshot_seconds: u32,
    pub(super) max_torrents: usize,
    pub(super) max_peers_per_torrent: usize,
    pub(super) connections_per_address: usize,
    pub(super) uploads_per_address: usize,
    pub(super) udp_threads: usize,
}

impl Default for Settings {
    fn default() -> Self {
        let (store, bounds) = (StoreConfig::default(), Bounds::usual());
        Self {
            listen: vec![Listen { ip: None, port: Sockets::usual()[0].port() }],
            state_dir: None,
            public_name: None,
            public_url: None,
            allow: Allow::Open,
            allow_list: None,
            deny_list: None,
            open_upload: false,
            watch: Vec::new(),
            trust_forwarded_from: Vec::new(),
            interval_seconds: store.interval.as_secs() as u32,
            expiry_seconds: store.expiry.as_secs() as u32,
            snapshot_seconds: 300,
            max_torrents: store.max_torrents,
            max_peers_per_torrent: store.max_peers,
            connections_per_address: bounds.connections,
            uploads_per_address: bounds.uploads,
            udp_threads: 0,
        }
    }
}

impl Settings {
    /// The defaults, changed by the file, changed by the options.
    pub(super) fn of(args: &Args) -> anyhow::Result<Self> {
        let mut settings = match &args.config {
            Some(path) => {
                let text = String::from_utf8(reload::read_file(path)?).with_context(|| path.display().to_string())?;
                Self::parse(&text).map_err(|error| UsageError(format!("{}: {error}", path.display())))?
            }
            None => Self::default(),
        };
        if !args.listen.is_empty() {
            settings.listen = args.listen.clone();
        }
        if !args.trust_forwarded_from.is_empty() {
            settings.trust_forwarded_from = args.trust_forwarded_from.iter().copied().map(Network).collect();
        }
        if !args.watch.is_empty() {
            settings.watch = args.watch.clone();
        }
        settings.allow_list = args.allow_list.clone().or(settings.allow_list);
        settings.deny_list = args.deny_list.clone().or(settings.deny_list);
        settings.state_dir = args.state_dir.clone().or(settings.state_dir);
        settings.public_url = args.public_url.clone().or(settings.public_url);
        settings.allow = args.allow.unwrap_or(settings.allow);
        settings.public_name = args.public_name.clone().or(settings.public_name);
        Ok(settings)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let settings: Self = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| text[..span.start].lines().count().max(1));
            format!("line {line}: {}", error.message())
        })?;
        settings.check()?;
        Ok(settings)
    }

    fn check(&self) -> Result<(), String> {
        if self.listen.is_empty() {
            return Err("listen: there must be an address".to_owned());
        }
        if !(60..=86_400).contains(&self.interval_seconds) {
            return Err("interval-seconds: from 60 to 86400".to_owned());
        }
        if self.expiry_seconds <= self.interval_seconds {
            return Err("expiry-seconds: must be more than interval-seconds, or every peer is forgotten".to_owned());
        }
        if let Some(name) = &self.public_name {
            public_name(name).map_err(|error| format!("public-name: {error}"))?;
        }
        if let Some(url) = &self.public_url {
            public_url(url).map_err(|error| format!("public-url: {error}"))?;
        }
        if self.snapshot_seconds == 0 || self.max_torrents == 0 || self.max_peers_per_torrent == 0 {
            return Err("snapshot-seconds, max-torrents and max-peers-per-torrent: at least 1".to_owned());
        }
        Ok(())
    }

    /// The file that says this.
    pub(super) fn to_toml(&self) -> String {
        let mut out = String::from(
            "# btfs tracker: all options. What is commented out shows what is done without it.\n\
             # SIGHUP has allow, allow-list and deny-list read anew; all else counts from the next start.\n",
        );
        let mut option = |comment: &str, line: String| {
            let _ = writeln!(out);
            comment.lines().for_each(|comment| _ = writeln!(out, "# {comment}"));
            let _ = writeln!(out, "{line}");
        };
        let list = |items: Vec<String>| format!("[{}]", items.join(", "));
        let listen = list(self.listen.iter().map(|listen| quoted(&listen.to_string())).collect());
        option(
            "Where to listen, HTTP and UDP alike: \"PORT\", \"ADDRESS\" or \"ADDRESS:PORT\".\nA port alone means every address, IPv4 and IPv6.",
            format!("listen = {listen}"),
        );
        let directory = self.state_dir.clone().or_else(super::default_state_dir).unwrap_or_default();
        let mark = if self.state_dir.is_some() { "" } else { "# " };
        option(
            "Where swarms and figures are kept over a restart.",
            format!("{mark}state-dir = {}", quoted(&directory.to_string_lossy())),
        );
        let mark = if self.public_name.is_some() { "" } else { "# " };
        let name = self.public_name.as_deref().unwrap_or("tracker.example");
        option(
            "Under which name or address others reach this machine, for the URLs that are shown.\nWithout it: the address that leads to the world.",
            format!("{mark}public-name = {}", quoted(name)),
        );
        let mark = if self.public_url.is_some() { "" } else { "# " };
        let url = self.public_url.as_deref().unwrap_or("https://tracker.example");
        option(
            "Where the pages of the index are, as others see it.\nWithout it: http, and the name or address by which each request asks.",
            format!("{mark}public-url = {}", quoted(url)),
        );
        option(
            "Who may announce what: \"open\" (everybody anything), \"listed\" (what is in the index),\n\"private\" (users that have a passkey).",
            format!("allow = {}", quoted(self.allow.word())),
        );
        for (path, key, comment) in [
            (
                &self.allow_list,
                "allow-list",
                "A file of the only torrents that are let in, beside what allow says: info-hashes of 40 or 64\nhexadecimal digits, one a line, comments after #.",
            ),
            (
                &self.deny_list,
                "deny-list",
                "Such a file of torrents that are not: announces and uploads are refused, pages show them no more.",
            ),
        ] {
            let mark = if path.is_some() { "" } else { "# " };
            let path = path.clone().unwrap_or_else(|| format!("/etc/btfs/{key}").into());
            option(comment, format!("{mark}{key} = {}", quoted(&path.to_string_lossy())));
        }
        option(
            "Whether anybody may upload to the index, without a token.",
            format!("open-upload = {}", self.open_upload),
        );
        let watch = list(self.watch.iter().map(|path| quoted(&path.to_string_lossy())).collect());
        option(
            "Directories whose .torrent files are taken into the index, now and when they come: [\"/srv/torrents\"]\nRemoving a file does not remove the torrent: btfs tracker remove does.",
            format!("watch = {watch}"),
        );
        let proxies = list(self.trust_forwarded_from.iter().map(|network| quoted(&network.0.to_string())).collect());
        option(
            "Reverse proxies that are believed for whom they ask (X-Forwarded-For): [\"10.0.0.0/8\"]",
            format!("trust-forwarded-from = {proxies}"),
        );
        option(
            "How long peers are told to wait between two announces, 60 to 86400; over HTTP, half of it at least.",
            format!("interval-seconds = {}", self.interval_seconds),
        );
        option("A peer that has been silent for so long is gone.", format!("expiry-seconds = {}", self.expiry_seconds));
        option(
            "How often the swarms are written to the disk.",
            format!("snapshot-seconds = {}", self.snapshot_seconds),
        );
        option("More torrents than this are refused.", format!("max-torrents = {}", self.max_torrents));
        option(
            "Of more peers of one torrent than this, a new one takes the place of another.",
            format!("max-peers-per-torrent = {}", self.max_peers_per_torrent),
        );
        option(
            "HTTP connections that one address may have at a time; IPv6: a network of 64 bits; 0: no bound.\nOf more than this, one that waits for a request makes room. This machine's own addresses and proxies that are\nbelieved have no bound.",
            format!("connections-per-address = {}", self.connections_per_address),
        );
        option(
            "Uploads to the index that are read at a time from one address; others wait; 0: no bound.",
            format!("uploads-per-address = {}", self.uploads_per_address),
        );
        option(
            "Threads that answer UDP, for each address family; 0: one for each core.",
            format!("udp-threads = {}", self.udp_threads),
        );
        out
    }

    pub(super) fn store(&self) -> StoreConfig {
        StoreConfig {
            interval: Duration::from_secs(self.interval_seconds.into()),
            expiry: Duration::from_secs(self.expiry_seconds.into()),
            max_torrents: self.max_torrents,
            max_peers: self.max_peers_per_torrent,
            seed: fastrand::u64(..),
        }
    }

    /// How the index behaves.
    pub(super) fn pages(&self) -> PagesConfig {
        PagesConfig {
            public_url: self.public_url.as_deref().map(|url| url.trim_end_matches('/').to_owned()),
            names: self.public_name.iter().cloned().chain(own_names()).collect(),
            open_upload: self.open_upload,
            bounds: self.bounds(),
        }
    }

    /// What one address may have.
    pub(super) fn bounds(&self) -> Bounds {
        let mut bounds = Bounds::usual();
        bounds.exempt.extend(self.trusted_proxies());
        Bounds { connections: self.connections_per_address, uploads: self.uploads_per_address, ..bounds }
    }

    pub(super) fn snapshot(&self) -> Duration {
        Duration::from_secs(self.snapshot_seconds.into())
    }

    /// Every address once.
    pub(super) fn addrs(&self) -> Vec<SocketAddr> {
        Listen::addrs(&self.listen)
    }

    pub(super) fn trusted_proxies(&self) -> Vec<IpNet> {
        self.trust_forwarded_from.iter().map(|network| network.0).collect()
    }

    pub(super) fn threads(&self) -> usize {
        match self.udp_threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads.min(256),
        }
    }
}

/// `PORT`, `ADDRESS` or `ADDRESS:PORT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Listen {
    ip: Option<IpAddr>,
    port: u16,
}

impl Listen {
    /// Every address that is meant, once.
    pub(in crate::cli) fn addrs(all: &[Self]) -> Vec<SocketAddr> {
        let mut addrs = Vec::new();
        for listen in all {
            let meant = match listen.ip {
                Some(ip) => vec![SocketAddr::new(ip, listen.port)],
                None => Sockets::usual().map(|addr| SocketAddr::new(addr.ip(), listen.port)).to_vec(),
            };
            addrs.extend(meant.into_iter().filter(|addr| !addrs.contains(addr)).collect::<Vec<_>>());
        }
        addrs
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let usual = Sockets::usual()[0].port();
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        if let Ok(port) = text.strip_prefix(':').unwrap_or(text).parse() {
            Ok(Self { ip: None, port })
        } else if let Ok(ip) = bare.parse() {
            Ok(Self { ip: Some(ip), port: usual })
        } else if let Ok(addr) = text.parse::<SocketAddr>() {
            Ok(Self { ip: Some(addr.ip()), port: addr.port() })
        } else {
            Err(format!("{text:?} is no PORT, ADDRESS or ADDRESS:PORT"))
        }
    }
}

impl TryFrom<String> for Listen {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ip {
            Some(ip) => SocketAddr::new(ip, self.port).fmt(f),
            None => self.port.fmt(f),
        }
    }
}

/// Who may announce what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Allow {
    /// Everybody, any torrent
    Open,
    /// Everybody, but only torrents of the index
    Listed,
    /// Only users: with a passkey in the URL
    Private,
}

impl Allow {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Listed => "listed",
            Self::Private => "private",
        }
    }
}

/// Names of this machine in its own network, which nobody else can point elsewhere from outside.
pub(in crate::cli) fn own_names() -> Vec<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => Vec::new(),
        name => vec![name.to_owned(), format!("{name}.local")],
    }
}

/// A name or an address, without anything around it: it becomes a part of URLs.
pub(in crate::cli) fn public_name(text: &str) -> Result<String, String> {
    let is_name = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        && url::Host::parse(text).is_ok();
    let fits = is_name || text.parse::<std::net::Ipv6Addr>().is_ok();
    fits.then(|| text.to_owned()).ok_or_else(|| "expected a name or an address alone: me.example".to_owned())
}

/// The URL of a first page: scheme and host, perhaps a port.
pub(super) fn public_url(text: &str) -> Result<String, String> {
    let url = url::Url::parse(text).map_err(|error| error.to_string())?;
    let fits = matches!(url.scheme(), "http" | "https") && url.has_host() && url.path() == "/" && url.query().is_none();
    fits.then(|| text.to_owned()).ok_or_else(|| format!("{text:?} is not of the form https://tracker.example"))
}

/// A network, or a single address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(super) struct Network(IpNet);

impl TryFrom<String> for Network {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        network(&text).map(Self)
    }
}

/// `10.0.0.0/8`, or one address.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let one = text.parse::<IpAddr>().map(IpNet::from);
    one.or_else(|_| text.parse()).map_err(|_| format!("{text:?} is no network as in 10.0.0.0/8, and no address"))
}

/// A string as TOML writes it.
fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => _ = write!(out, "\\u{:04X}", u32::from(c)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_what_is_read() {
        let defaults = Settings::default();
        assert_eq!(Settings::parse(&defaults.to_toml()), Ok(defaults.clone()));
        assert_eq!(Settings::parse(""), Ok(defaults));
        let other = Settings {
            listen: vec!["[::1]:7".parse().unwrap(), "192.0.2.1".parse().unwrap(), "8".parse().unwrap()],
            state_dir: Some("/a \"b\" \\c\n".into()),
            public_name: Some("tracker.example".into()),
            public_url: Some("https://tracker.example".into()),
            allow: Allow::Private,
            allow_list: Some("/etc/allow".into()),
            deny_list: Some("/etc/deny".into()),
            open_upload: true,
            watch: vec!["/srv/a \"b\"".into(), "c".into()],
            trust_forwarded_from: vec![Network("10.0.0.0/8".parse().unwrap())],
            interval_seconds: 120,
            expiry_seconds: 300,
            snapshot_seconds: 1,
            max_torrents: 2,
            max_peers_per_torrent: 3,
            connections_per_address: 5,
            uploads_per_address: 6,
            udp_threads: 4,
        };
        assert_eq!(Settings::parse(&other.to_toml()), Ok(other));
    }

    #[test]
    fn every_key_is_printed() {
        let printed = Settings::default().to_toml();
        // An unknown key's message names all that are known.
        let message = Settings::parse("no-such-key = 1").unwrap_err();
        assert!(message.starts_with("line 1: unknown field `no-such-key`, expected one of "), "{message}");
        let (_, known) = message.split_once("one of ").unwrap();
        for key in known.split(", ").map(|key| key.trim_matches('`')) {
            assert!(printed.contains(&format!("\n{key} = ")) || printed.contains(&format!("\n# {key} = ")), "{key}");
        }
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        for (text, part) in [
            ("listen = []", "listen"),
            ("\nlisten = [\"nowhere\"]", "line 2: \"nowhere\" is no PORT"),
            ("interval-seconds = 59", "from 60"),
            ("interval-seconds = 3600\nexpiry-seconds = 3600", "expiry-seconds"),
            ("max-torrents = -1", "line 1"),
            ("max-torrents = 0", "at least 1"),
            ("public-name = \"http://me.example\"", "a name or an address"),
            ("trust-forwarded-from = [\"10.0.0.0/33\"]", "no network"),
            ("listen = ", "line 1"),
        ] {
            let message = Settings::parse(text).unwrap_err();
            assert!(message.contains(part), "{text}: {message}");
        }
    }

    #[test]
    fn a_public_name_is_a_name_and_nothing_else() {
        for fine in ["me.example", "box", "my_box.lan", "192.0.2.7", "2001:db8::1", "xn--bcher-kva.example"] {
            assert_eq!(public_name(fine).as_deref(), Ok(fine));
        }
        for wrong in
            ["", "a b", "http://me.example", "me.example/", "me.example:80", "[::1]", "a/b", "$(x)", "a;b", "1.2.3.4.5"]
        {
            assert!(public_name(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_port_alone_means_both_families() {
        let addrs = |listen: &[&str]| {
            let listen = listen.iter().map(|text| text.parse().unwrap()).collect();
            let settings = Settings { listen, ..Settings::default() };
            settings.addrs().iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(addrs(&["7000"]), ["[::]:7000", "0.0.0.0:7000"]);
        assert_eq!(addrs(&[":7000", "0.0.0.0:7000"]), ["[::]:7000", "0.0.0.0:7000"]);
        assert_eq!(addrs(&["::1", "[::1]:7", "127.0.0.1"]), ["[::1]:6969", "[::1]:7", "127.0.0.1:6969"]);
    }
}
