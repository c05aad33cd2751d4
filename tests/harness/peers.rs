//! Other BitTorrent programs as peers: libtorrent (by python), Transmission, aria2. Each on a loopback address of its
//! own, without DHT, LSD, uTP and port mapping.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use super::payload::Torrent;
use super::process::{Process, Talker};
use super::{World, own_addr, own_ip, python, run_any, texts, wait_for, wait_until};

const START: Duration = Duration::from_secs(30);

/// A libtorrent session with one torrent.
pub struct Libtorrent {
    talker: Talker,
    pub addr: SocketAddr,
}

/// How a libtorrent peer is to be.
pub struct LibtorrentBuilder {
    script: Value,
    log: PathBuf,
}

impl World {
    /// A seed of the torrent's own data.
    pub fn libtorrent_seed(&self, torrent: &Torrent) -> LibtorrentBuilder {
        self.libtorrent(&torrent.file, "seed", torrent.parent())
    }

    /// A leecher that saves below `directory`.
    pub fn libtorrent_leech(&self, torrent: &Torrent, directory: &Path) -> LibtorrentBuilder {
        self.libtorrent(&torrent.file, "leech", directory)
    }

    fn libtorrent(&self, file: &Path, mode: &str, save: &Path) -> LibtorrentBuilder {
        let ip = own_ip();
        let script = json!({ "torrent": file, "mode": mode, "save": save, "ip": ip, "settings": {} });
        LibtorrentBuilder { script, log: self.path(format!("libtorrent-{mode}-{ip}.log")) }
    }
}

impl LibtorrentBuilder {
    pub fn ip(mut self, ip: IpAddr) -> Self {
        self.script["ip"] = json!(ip);
        self
    }

    pub fn port(mut self, port: u16) -> Self {
        self.script["port"] = json!(port);
        self
    }

    /// Announce to the torrent's trackers.
    pub fn trackers(mut self) -> Self {
        self.script["trackers"] = json!(true);
        self
    }

    pub fn connect(mut self, addr: SocketAddr) -> Self {
        self.script["connect"] = json!([[addr.ip(), addr.port()]]);
        self
    }

    pub fn setting(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.script["settings"][name] = value.into();
        self
    }

    /// Upload at most so many bytes in a second.
    pub fn upload_limit(mut self, bytes_per_second: u64) -> Self {
        // Of the torrent: from the session's limit libtorrent frees all peers on loopback.
        self.script["upload_limit"] = json!(bytes_per_second);
        self
    }

    #[track_caller]
    pub fn start(self) -> Libtorrent {
        let mut command = Command::new(python());
        command
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/harness/lt_peer.py"))
            .arg(self.script.to_string());
        let mut talker = Talker::start(&mut command, &self.log);
        let port = talker.hear("libtorrent listens", START, 0, |line| line["port"].as_u64());
        let ip: IpAddr = serde_json::from_value(self.script["ip"].clone()).unwrap();
        Libtorrent { talker, addr: (ip, port as u16).into() }
    }
}

impl Libtorrent {
    pub fn connect(&mut self, addr: SocketAddr) {
        self.talker.say(&format!("connect {} {}", addr.ip(), addr.port()));
    }

    /// Its own figures: progress, uploaded, downloaded, failed, peers.
    #[track_caller]
    pub fn state(&mut self) -> Value {
        let from = self.talker.heard().len();
        self.talker.say("state");
        self.talker.hear("libtorrent's state", START, from, |line| line.get("state").cloned())
    }

    #[track_caller]
    pub fn wait_complete(&mut self, bound: Duration) {
        self.talker.hear("libtorrent has it all", bound, 0, |line| line["complete"].as_bool());
    }

    pub fn process(&mut self) -> &mut Process {
        self.talker.process()
    }
}

/// A transmission-daemon with one torrent, its settings in a directory of its own.
pub struct Transmission {
    process: Process,
    pub addr: SocketAddr,
    rpc: SocketAddr,
}

impl World {
    /// Starts one that has, or is to fill, `directory`.
    #[track_caller]
    pub fn transmission(&self, torrent: &Torrent, directory: &Path) -> Transmission {
        let addr = own_addr();
        self.transmission_bound(torrent, directory, addr, &addr.ip().to_string(), "::1")
    }

    /// As [`transmission`](Self::transmission), with an address in each family to listen at and to announce from. It asks
    /// HTTP trackers from the first that is not "any".
    #[track_caller]
    pub fn transmission_bound(
        &self,
        torrent: &Torrent,
        directory: &Path,
        addr: SocketAddr,
        ipv4: &str,
        ipv6: &str,
    ) -> Transmission {
        let rpc = own_addr();
        let home = self.directory(format!("transmission-{}", rpc.ip()));
        let settings = json!({
            "bind-address-ipv4": ipv4, "bind-address-ipv6": ipv6, "peer-port": addr.port(),
            "download-dir": directory, "encryption": 0,
            "dht-enabled": false, "lpd-enabled": false, "utp-enabled": false, "pex-enabled": false,
            "port-forwarding-enabled": false, "ratio-limit-enabled": false, "preallocation": 0,
            "rpc-bind-address": rpc.ip(), "rpc-port": rpc.port(), "rpc-whitelist-enabled": false,
            "rpc-host-whitelist-enabled": false,
        });
        std::fs::write(home.join("settings.json"), settings.to_string()).unwrap();
        let mut command = Command::new("transmission-daemon");
        self.surround(&mut command);
        command.arg("-f").arg("-g").arg(&home);
        let process = Process::start(&mut command, &home.join("log"));
        let mut started = Transmission { process, addr, rpc };
        wait_until("Transmission answers", START, || {
            started.process.assert_alive();
            started.call("session-get", json!({})).is_some()
        });
        let added = started.call("torrent-add", json!({ "filename": torrent.file, "download-dir": directory }));
        assert!(added.is_some(), "Transmission takes the torrent");
        started
    }
}

impl Transmission {
    /// One call of its remote control.
    fn call(&self, method: &str, arguments: Value) -> Option<Value> {
        let url = format!("http://{}/transmission/rpc", self.rpc);
        let body = json!({ "method": method, "arguments": arguments }).to_string();
        let mut session = String::new();
        // The first answer, 409, tells the session id that the second try has to carry.
        for _ in 0..2 {
            let mut curl = Command::new("curl");
            curl.args(["-sS", "-i", "-m", "10", "--noproxy", "*", "-d", &body, &url]);
            curl.args(["-H", &format!("X-Transmission-Session-Id: {session}")]);
            let output = run_any(&mut curl);
            let text = texts(&output);
            let (head, body) = text.split_once("\r\n\r\n")?;
            if head.contains(" 409 ") {
                session = head.lines().find_map(|line| line.strip_prefix("X-Transmission-Session-Id: "))?.to_owned();
                continue;
            }
            let answer: Value = serde_json::from_str(body).ok()?;
            return (answer["result"] == "success").then(|| answer["arguments"].clone());
        }
        None
    }

    /// A field of its torrent.
    fn field(&self, name: &str) -> Option<Value> {
        let answer = self.call("torrent-get", json!({ "fields": [name] }))?;
        answer["torrents"].get(0).map(|torrent| torrent[name].clone())
    }

    #[track_caller]
    pub fn wait_complete(&mut self, bound: Duration) {
        wait_until("Transmission has it all", bound, || {
            self.process.assert_alive();
            std::thread::sleep(Duration::from_millis(100)); // each look is a process
            self.field("leftUntilDone") == Some(json!(0)) && self.field("status") == Some(json!(6))
        });
    }
}

/// An aria2c with one torrent.
pub struct Aria2 {
    pub process: Process,
    pub addr: SocketAddr,
}

impl World {
    /// Starts one that has (`seeds`), or is to fill, `directory`. A leecher ends by itself when it has all.
    #[track_caller]
    pub fn aria2(&self, torrent: &Torrent, directory: &Path, seeds: bool) -> Aria2 {
        self.aria2_at(own_addr(), torrent, directory, seeds, &[])
    }

    /// As [`aria2`](Self::aria2), with an address of the caller's and further options.
    #[track_caller]
    pub fn aria2_at(&self, addr: SocketAddr, torrent: &Torrent, directory: &Path, seeds: bool, more: &[&str]) -> Aria2 {
        let mut command = Command::new("aria2c");
        self.surround(&mut command);
        command.args(["--no-conf", "--enable-dht=false", "--enable-dht6=false", "--bt-enable-lpd=false"]);
        command.args(["--enable-peer-exchange=false", "--file-allocation=none", "--summary-interval=0"]);
        command.args(["--show-console-readout=false", "--console-log-level=notice"]);
        command.arg(format!("--disable-ipv6={}", addr.is_ipv4()));
        command.arg(format!("--interface={}", addr.ip()));
        command.arg(format!("--listen-port={}", addr.port()));
        command.arg("-d").arg(directory);
        if seeds {
            command.args(["--check-integrity=true", "--seed-ratio=0.0", "--seed-time=600"]);
        } else {
            command.args(["--seed-time=0"]);
        }
        command.args(more).arg(&torrent.file);
        let process = Process::start(&mut command, &self.path(format!("aria2-{}.log", addr.port())));
        let mut started = Aria2 { process, addr };
        wait_for("aria2 listens", START, || {
            started.process.assert_alive();
            std::net::TcpStream::connect(addr).ok()
        });
        started
    }
}
