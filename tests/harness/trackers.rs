//! Trackers on loopback: other people's, and ours.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use super::process::{Process, Talker};
use super::web::Certificate;
use super::{World, own_addr, own_ip, peers_directory, run_any, wait_until};

const START: Duration = Duration::from_secs(30);

/// npm's bittorrent-tracker; it tells of every announce.
pub struct NpmTracker {
    talker: Talker,
    pub url: String,
    /// The same tracker by UDP.
    pub udp: String,
    /// The same tracker by UDP at `::1`.
    pub udp6: String,
    /// The same tracker by HTTPS, if it has a certificate.
    pub https: Option<String>,
}

impl World {
    #[track_caller]
    pub fn npm_tracker(&self) -> NpmTracker {
        self.npm_tracker_at(own_ip(), None)
    }

    /// As [`npm_tracker`](Self::npm_tracker), with an address of the caller's and by HTTPS as well.
    #[track_caller]
    pub fn npm_tracker_at(&self, ip: IpAddr, certificate: Option<&Certificate>) -> NpmTracker {
        let mut command = Command::new("node");
        command.arg(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/harness/npm_tracker.mjs"));
        command.arg(peers_directory().join("npm/node_modules")).arg(ip.to_string());
        if let Some(certificate) = certificate {
            command.arg(&certificate.chain).arg(&certificate.key);
        }
        let mut talker = Talker::start(&mut command, &self.path("npm-tracker.log"));
        let ports = talker.hear("bittorrent-tracker listens", START, 0, |line| {
            line["http"].is_u64().then(|| ["http", "udp", "udp6", "https"].map(|name| line[name].as_u64()))
        });
        let url = |scheme: &str, host: String, port: Option<u64>| Some(format!("{scheme}://{host}:{}/announce", port?));
        NpmTracker {
            talker,
            url: url("http", ip.to_string(), ports[0]).unwrap(),
            udp: url("udp", ip.to_string(), ports[1]).unwrap(),
            udp6: url("udp", "[::1]".to_owned(), ports[2]).unwrap(),
            https: url("https", ip.to_string(), ports[3]),
        }
    }
}

impl NpmTracker {
    /// Waits for an announce with this event (`start`, `update`, `complete`, `stop`) from `addr`; what it said is left.
    #[track_caller]
    pub fn wait_event(&mut self, event: &str, addr: SocketAddr, bound: Duration) -> u64 {
        self.talker.hear(&format!("{event} from {addr}"), bound, 0, |line| {
            (line["event"] == *event && is_from(line, addr)).then(|| line["left"].as_u64().unwrap_or(u64::MAX))
        })
    }

    /// All events from `addr`, in order.
    pub fn events(&self, addr: SocketAddr) -> Vec<String> {
        let heard = self.talker.heard();
        heard
            .iter()
            .filter(|line| is_from(line, addr))
            .map(|line| line["event"].as_str().unwrap_or("").to_owned())
            .collect()
    }
}

/// Whether it tells of this peer; it spells IPv6 addresses without brackets.
fn is_from(line: &serde_json::Value, addr: SocketAddr) -> bool {
    let spelled = format!("{}:{}", addr.ip(), addr.port());
    line["addr"].as_str().is_some_and(|from| from.replace(['[', ']'], "").ends_with(&spelled))
}

/// `btfs tracker`.
pub struct OwnTracker {
    talker: Talker,
    addr: SocketAddr,
    pub url: String,
    /// The same tracker by UDP.
    pub udp: String,
}

impl World {
    /// Starts one that listens with this address.
    #[track_caller]
    pub fn own_tracker(&self, ip: IpAddr) -> OwnTracker {
        let mut command = self.btfs();
        command.args(["tracker", "--json", "--listen", &SocketAddr::new(ip, 0).to_string()]);
        let mut talker = Talker::start(&mut command, &self.path("tracker.log"));
        let (addr, urls) = talker.hear("btfs tracker listens", START, 0, |line| {
            let addr: SocketAddr = line["listen"][0].as_str()?.parse().ok()?;
            Some((addr, [0, 1].map(|at: usize| line["announce"][at].as_str().unwrap_or_default().to_owned())))
        });
        let [url, udp] = urls;
        OwnTracker { talker, addr, url, udp }
    }
}

impl OwnTracker {
    /// What it says of itself.
    #[track_caller]
    pub fn stats(&mut self) -> serde_json::Value {
        self.talker.process().assert_alive();
        let mut stream = TcpStream::connect(self.addr).expect("it listens");
        write!(stream, "GET /stats.json HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        serde_json::from_str(answer.split_once("\r\n\r\n").expect("a head").1).unwrap()
    }

    /// Waits until it knows of so many peers.
    #[track_caller]
    pub fn wait_known(&mut self, peers: u64, bound: Duration) {
        wait_until(&format!("{peers} peers have announced"), bound, || self.stats()["peers"] == peers);
    }

    /// Waits until it knows of so many seeds and leechers.
    #[track_caller]
    pub fn wait_peers(&mut self, seeds: u64, leechers: u64, bound: Duration) {
        wait_until(&format!("{seeds} seeds and {leechers} leechers have announced"), bound, || {
            let stats = self.stats();
            (stats["seeds"].as_u64(), stats["leechers"].as_u64()) == (Some(seeds), Some(leechers))
        });
    }
}

/// opentracker, with the torrent on its white list.
pub struct OpenTracker {
    process: Process,
    addr: SocketAddr,
    hash: String,
    pub url: String,
    /// The same tracker by UDP.
    pub udp: String,
}

impl World {
    /// Starts one that knows the torrent of this info-hash.
    #[track_caller]
    pub fn opentracker(&self, info_hash: &str) -> OpenTracker {
        let addr = own_addr();
        let home = self.directory("opentracker");
        // Debian's build answers for listed torrents only.
        std::fs::write(home.join("whitelist"), format!("{info_hash}\n")).unwrap();
        let mut command = Command::new("opentracker");
        command.current_dir(&home).arg("-i").arg(addr.ip().to_string());
        command.args(["-p", &addr.port().to_string(), "-P", &addr.port().to_string()]);
        command.arg("-d").arg(&home).args(["-w", "whitelist"]);
        // As root it insists on another user, who can read a World.
        command.args(["-u", "nobody"]);
        let process = Process::start(&mut command, &home.join("log"));
        let (url, udp) = (format!("http://{addr}/announce"), format!("udp://{addr}/announce"));
        let mut tracker = OpenTracker { process, addr, hash: info_hash.to_owned(), url, udp };
        wait_until("opentracker listens", START, || {
            tracker.process.assert_alive();
            std::net::TcpStream::connect(addr).is_ok()
        });
        tracker
    }
}

impl OpenTracker {
    /// Its scrape: seeds, downloads completed, leechers.
    pub fn scrape(&self) -> Option<(u64, u64, u64)> {
        let escaped: String =
            self.hash.as_bytes().chunks(2).map(|hex| format!("%{}{}", hex[0] as char, hex[1] as char)).collect();
        let url = format!("http://{}/scrape?info_hash={escaped}", self.addr);
        let output = run_any(Command::new("curl").args(["-sS", "-m", "5", "--noproxy", "*", &url]));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let number = |key: &str| text.split(&format!("{key}i")).nth(1)?.split('e').next()?.parse().ok();
        Some((number("8:complete")?, number("10:downloaded")?, number("10:incomplete")?))
    }
}
