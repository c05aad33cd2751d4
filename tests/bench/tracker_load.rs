//! Loads a tracker with announces, over UDP or HTTP, and prints one line of JSON: how many were answered, and how many for
//! each second that the tracker's process computed. `scripts/tracker-load` starts trackers and compares them.
//!
//! First every peer announces once, so that the swarms are there; then peers at random do, for the time that was asked for.
//! A few torrents have thousands of peers, most have a few.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use btfs::base::{InfoHash, PeerId};
use btfs::proto::announce::{AnnounceEvent, AnnounceRequest};
use btfs::proto::http_tracker::announce_url;
use btfs::proto::udp_tracker as wire;
use clap::Parser;
use sha1::{Digest, Sha1};

/// Loads a tracker.
#[derive(Debug, Parser, Clone)]
struct Args {
    /// udp, http (connections are kept), http-close (one each), or list: the info-hashes, for trackers that want them.
    what: String,
    /// Where the tracker is.
    #[arg(default_value = "127.0.0.1:6969")]
    addr: SocketAddr,
    /// The tracker's process, whose time and memory count.
    #[arg(long, default_value_t = 0)]
    pid: u32,
    /// Torrents.
    #[arg(long, default_value_t = 100_000)]
    torrents: u64,
    /// Peers of all torrents.
    #[arg(long, default_value_t = 1_000_000)]
    peers: u64,
    /// Peers that each announce asks for.
    #[arg(long, default_value_t = 30)]
    wanted: u32,
    /// How long it is measured.
    #[arg(long, default_value_t = 15)]
    seconds: u64,
    /// Cargo says this to every bench.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What came of it.
#[derive(Debug, Default, Clone, Copy)]
struct Outcome {
    answered: u64,
    refused: u64,
    lost: u64,
    received_bytes: u64,
}

fn main() {
    let args = Args::parse();
    if args.what == "list" {
        let mut out = String::new();
        (0..args.torrents).for_each(|number| out += &format!("{}\n", info_hash(number)));
        print!("{out}");
        return;
    }
    let run: fn(&Args, Load) -> Outcome = match args.what.as_str() {
        "udp" => udp,
        "http" | "http-close" => http,
        other => panic!("{other}: udp, http, http-close or list"),
    };
    let filled = run(&args, Load::Everybody);
    let before = cpu_seconds(args.pid);
    let started = Instant::now();
    let measured = run(&args, Load::For(Duration::from_secs(args.seconds)));
    let seconds = started.elapsed().as_secs_f64();
    let cpu = cpu_seconds(args.pid) - before;
    let figures = serde_json::json!({
        "what": args.what,
        "torrents": args.torrents,
        "peers": args.peers,
        "filled": filled.answered,
        "answered": measured.answered,
        "refused": measured.refused,
        "lost": measured.lost,
        "bytes_each": measured.received_bytes / measured.answered.max(1),
        "seconds": seconds,
        "per_second": measured.answered as f64 / seconds,
        "cpu_seconds": cpu,
        "per_cpu_second": measured.answered as f64 / cpu.max(0.01),
        "peak_kib": peak_kib(args.pid),
    });
    println!("{figures}");
}

#[derive(Debug, Clone, Copy)]
enum Load {
    Everybody,
    For(Duration),
}

/// Which peers announce next.
struct Turns {
    rng: fastrand::Rng,
    next: u64,
    load: Load,
    started: Instant,
    peers: u64,
}

impl Turns {
    fn new(args: &Args, load: Load, seed: u64) -> Self {
        Self { rng: fastrand::Rng::with_seed(seed), next: 0, load, started: Instant::now(), peers: args.peers }
    }

    fn next(&mut self) -> Option<u64> {
        match self.load {
            Load::Everybody => {
                self.next += 1;
                (self.next <= self.peers).then(|| self.next - 1)
            }
            Load::For(time) => (self.started.elapsed() < time).then(|| self.rng.u64(..self.peers)),
        }
    }
}

fn info_hash(torrent: u64) -> InfoHash {
    InfoHash(Sha1::digest(torrent.to_le_bytes()).into())
}

/// The same peer is in the same torrent each time; the lower a torrent's number, the more it has.
fn request(args: &Args, hashes: &[InfoHash], peer: u64) -> AnnounceRequest {
    let mut rng = fastrand::Rng::with_seed(peer);
    let part = rng.f64();
    AnnounceRequest {
        info_hash: hashes[((part * part) * args.torrents as f64) as usize % hashes.len()],
        peer_id: PeerId(*b"-LD0001-000000000000"),
        port: rng.u16(1..),
        uploaded: 0,
        downloaded: 0,
        left: u64::from(rng.u8(..4) != 0),
        event: AnnounceEvent::Periodic,
        numwant: args.wanted,
        key: Some(1),
        tracker_id: None,
    }
}

fn hashes(args: &Args) -> Vec<InfoHash> {
    (0..args.torrents).map(info_hash).collect()
}

/// Several sockets, so that a tracker can deal them out; so many questions of each are under way.
fn udp(args: &Args, load: Load) -> Outcome {
    let (hashes, mut turns, mut outcome) = (hashes(args), Turns::new(args, load, 1), Outcome::default());
    let sockets: Vec<UdpSocket> = (0..SOCKETS).map(|_| connected(args.addr)).collect();
    let mut ids: Vec<u64> = sockets.iter().map(connection_id).collect();
    let mut under_way = [0_u32; SOCKETS];
    let mut buffer = [0; 4096];
    let (mut heard, mut renewed, mut more) = (Instant::now(), Instant::now(), true);
    while more || under_way.iter().any(|&count| count > 0) {
        for (at, socket) in sockets.iter().enumerate() {
            while more && under_way[at] < WINDOW {
                let Some(peer) = turns.next() else {
                    more = false;
                    break;
                };
                let datagram = wire::write_announce(ids[at], peer as u32, &request(args, &hashes, peer), b"");
                if socket.send(&datagram).is_err() {
                    break;
                }
                under_way[at] += 1;
            }
            while let Ok(length) = socket.recv(&mut buffer) {
                heard = Instant::now();
                under_way[at] = under_way[at].saturating_sub(1);
                outcome.received_bytes += length as u64;
                *(if buffer[3] == 1 { &mut outcome.answered } else { &mut outcome.refused }) += 1;
            }
        }
        // What was lost on the way does not come any more.
        if heard.elapsed() > Duration::from_millis(500) {
            outcome.lost += u64::from(under_way.iter().sum::<u32>());
            under_way.fill(0);
            heard = Instant::now();
        }
        if renewed.elapsed() > Duration::from_secs(45) {
            // What is under way now is taken for answers to connects, and is not counted.
            ids = sockets.iter().map(connection_id).collect();
            under_way.fill(0);
            renewed = Instant::now();
        }
    }
    outcome
}

fn connected(addr: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    socket.connect(addr).expect("an address on loopback");
    socket.set_nonblocking(true).expect("a socket of ours");
    socket
}

fn connection_id(socket: &UdpSocket) -> u64 {
    let mut buffer = [0; 4096];
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(5) {
        socket.send(&wire::write_connect(7)).expect("it listens");
        std::thread::sleep(Duration::from_millis(20));
        while let Ok(length) = socket.recv(&mut buffer) {
            if let Some(wire::Reply { body: wire::ReplyBody::Connected(id), .. }) =
                wire::parse_reply(&buffer[..length], false)
            {
                return id;
            }
        }
    }
    panic!("no connection id from the tracker");
}

/// A few threads, each with a connection.
fn http(args: &Args, load: Load) -> Outcome {
    let (hashes, total) = (hashes(args), Mutex::new(Outcome::default()));
    // Filling over HTTP takes long: every peer comes over UDP, which all trackers here speak at the same port.
    if matches!(load, Load::Everybody) {
        return udp(args, load);
    }
    std::thread::scope(|scope| {
        for thread in 0..CONNECTIONS {
            let (hashes, total) = (&hashes, &total);
            scope.spawn(move || {
                let (mut turns, mut outcome) = (Turns::new(args, load, 100 + thread), Outcome::default());
                let (mut stream, keep) = (None, args.what == "http");
                while let Some(peer) = turns.next() {
                    let url = announce_url("/announce", &request(args, hashes, peer));
                    match ask(&mut stream, args.addr, &url, keep) {
                        Ok(bytes) => {
                            outcome.answered += 1;
                            outcome.received_bytes += bytes as u64;
                        }
                        Err(error) if error.kind() == ErrorKind::InvalidData => outcome.refused += 1,
                        Err(_) => {
                            stream = None;
                            outcome.lost += 1;
                        }
                    }
                }
                let mut total = total.lock().expect("no thread panics with it");
                total.answered += outcome.answered;
                total.refused += outcome.refused;
                total.lost += outcome.lost;
                total.received_bytes += outcome.received_bytes;
            });
        }
    });
    total.into_inner().expect("no thread panics with it")
}

/// One announce; the bytes of its answer.
fn ask(kept: &mut Option<TcpStream>, addr: SocketAddr, path: &str, keep: bool) -> std::io::Result<usize> {
    let mut stream = match kept.take() {
        Some(stream) => stream,
        None => {
            let stream = TcpStream::connect(addr)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            stream
        }
    };
    let how = if keep { "keep-alive" } else { "close" };
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: t\r\nConnection: {how}\r\n\r\n").as_bytes())?;
    let mut answer = Vec::with_capacity(2048);
    let mut buffer = [0; 4096];
    let whole = loop {
        let read = stream.read(&mut buffer)?;
        answer.extend_from_slice(&buffer[..read]);
        let head = answer.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4);
        let length = head.and_then(|head| content_length(&answer[..head]).map(|length| head + length));
        if length.is_some_and(|length| answer.len() >= length) || read == 0 {
            break answer.len();
        }
    };
    if !answer.windows(8).any(|part| part == b"interval") {
        return Err(ErrorKind::InvalidData.into());
    }
    if keep {
        *kept = Some(stream);
    }
    Ok(whole)
}

fn content_length(head: &[u8]) -> Option<usize> {
    let head = std::str::from_utf8(head).ok()?.to_ascii_lowercase();
    head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok())
}

/// Time that a process has computed, all threads together.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    // utime and stime, in hundredths of a second on every Linux of today.
    after_name.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn peak_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

const SOCKETS: usize = 8;
const WINDOW: u32 = 32;
const CONNECTIONS: u64 = 16;
