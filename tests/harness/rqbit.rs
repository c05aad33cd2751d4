//! rqbit as a peer, by its HTTP interface. It comes from crates.io and takes minutes to build, so only `scripts/full`
//! installs it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::payload::Torrent;
use super::process::Process;
use super::{World, is_long, own_addr, peers_directory, run_any, wait_for, wait_until};

const START: Duration = Duration::from_secs(30);

/// Whether there is one; says so when there is not, which the long run does not accept.
pub fn has_rqbit() -> bool {
    let has = program().exists();
    assert!(has || !is_long(), "{} is missing: scripts/full installs it", program().display());
    if !has {
        eprintln!("SKIPPED: rqbit is not installed (scripts/full does that)");
    }
    has
}

fn program() -> PathBuf {
    peers_directory().join("rqbit/bin/rqbit")
}

/// An rqbit server with one torrent.
pub struct Rqbit {
    process: Process,
    pub addr: SocketAddr,
    http: SocketAddr,
}

impl World {
    /// Starts one that has, or is to fill, `directory`, and dials these peers.
    #[track_caller]
    pub fn rqbit(&self, torrent: &Torrent, directory: &Path, peers: &[SocketAddr]) -> Rqbit {
        self.rqbit_at(own_addr(), torrent, directory, peers)
    }

    /// As [`rqbit`](Self::rqbit), with an address of the caller's. Trackers it asks from 127.0.0.1 or `::1`, whatever that is.
    #[track_caller]
    pub fn rqbit_at(&self, addr: SocketAddr, torrent: &Torrent, directory: &Path, peers: &[SocketAddr]) -> Rqbit {
        let http = own_addr();
        let mut command = Command::new(program());
        self.surround(&mut command);
        command.args(["-v", "warn", "--disable-dht", "--disable-upnp-port-forward", "--disable-lsd"]);
        if addr.is_ipv4() {
            command.arg("--ipv4-only");
        }
        command.arg("--listen-ip").arg(addr.ip().to_string()).arg("--listen-port").arg(addr.port().to_string());
        command.arg("--announce-port").arg(addr.port().to_string());
        command.arg("--http-api-listen-addr").arg(http.to_string());
        command.args(["server", "start", "--disable-persistence"]).arg(directory);
        let process = Process::start(&mut command, &self.path(format!("rqbit-{}.log", http.ip())));
        let mut started = Rqbit { process, addr, http };
        wait_until("rqbit answers", START, || {
            started.process.assert_alive();
            started.ask("/", None).is_some()
        });
        let peers: Vec<String> = peers.iter().map(SocketAddr::to_string).collect();
        let path = format!("/torrents?overwrite=true&initial_peers={}", peers.join(","));
        let added = started.ask(&path, Some(&torrent.file));
        assert!(added.is_some(), "rqbit takes the torrent");
        started.wait("rqbit has looked at its files", START, |stats| stats["state"] == "live");
        started
    }
}

impl Rqbit {
    /// What it answers, to a POST of this file or to a GET; `None` when that is an error.
    fn ask(&self, path: &str, body: Option<&Path>) -> Option<Value> {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-f", "-m", "10", "--noproxy", "*"]).arg(format!("http://{}{path}", self.http));
        if let Some(body) = body {
            curl.arg("--data-binary").arg(format!("@{}", body.display()));
        }
        let output = run_any(&mut curl);
        output.status.success().then(|| serde_json::from_slice(&output.stdout).ok())?
    }

    #[track_caller]
    fn wait(&mut self, what: &str, bound: Duration, condition: impl Fn(&Value) -> bool) {
        wait_for(what, bound, || {
            self.process.assert_alive();
            std::thread::sleep(Duration::from_millis(100)); // each look is a process
            self.ask("/torrents/0/stats/v1", None).filter(|stats| condition(stats))
        });
    }

    #[track_caller]
    pub fn wait_complete(&mut self, bound: Duration) {
        self.wait("rqbit has it all", bound, |stats| stats["finished"] == true);
    }
}
