//! Loads a tracker with announces, over UDP and HTTP, and prints a line of JSON for each: how many were answered, and how
//! many for each second that the tracker's process computed. `scripts/tracker-load` starts trackers and compares them.
//!
//! First every peer announces once, over UDP, so that the swarms are there; then peers at random do, for the time that was
//! asked for. A few torrents have thousands of peers, most have a few.

#[path = "tracker_load/datagrams.rs"]
mod datagrams;

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

use self::datagrams::Datagrams;

/// Loads a tracker.
#[derive(Debug, Parser, Clone)]
struct Args {
    /// One after the other, with commas: udp, http (connections are kept), http-close (one each); or list: the
    /// info-hashes, for trackers that want them.
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
    /// How long each is measured.
    #[arg(long, default_value_t = 15.0)]
    seconds: f64,
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
    connections: u64,
}

fn main() {
    let args = Args::parse();
    if args.what == "list" {
        let list: String = (0..args.torrents).map(|number| format!("{}\n", info_hash(number))).collect();
        // Whoever reads may have enough of it.
        let _ = std::io::stdout().write_all(list.as_bytes());
        return;
    }
    let world = Peers::new(&args);
    let filled = udp(&args, &world, Load::Everybody);
    let filled_kib = resident_kib(args.pid);
    for what in args.what.split(',') {
        let load = Load::For(Duration::from_secs_f64(args.seconds));
        let (before, started) = (cpu_seconds(args.pid), Instant::now());
        let measured = match what {
            "udp" => udp(&args, &world, load),
            "http" => http(&args, &world, load, true),
            "http-close" => http(&args, &world, load, false),
            other => panic!("{other}: udp, http, http-close or list"),
        };
        let (seconds, cpu) = (started.elapsed().as_secs_f64(), cpu_seconds(args.pid) - before);
        let figures = serde_json::json!({
            "what": what,
            "torrents": args.torrents,
            "peers": args.peers,
            "filled": filled.answered,
            "filled_kib": filled_kib,
            "answered": measured.answered,
            "refused": measured.refused,
            "lost": measured.lost,
            "connections": measured.connections,
            "bytes_each": measured.received_bytes / measured.answered.max(1),
            "seconds": seconds,
            "per_second": measured.answered as f64 / seconds,
            "cpu_seconds": cpu,
            "per_cpu_second": measured.answered as f64 / cpu.max(0.01),
            "peak_kib": peak_kib(args.pid),
        });
        println!("{figures}");
    }
}

#[derive(Debug, Clone, Copy)]
enum Load {
    Everybody,
    For(Duration),
}

/// Which peers announce next.
struct Turns {
    rng: fastrand::Rng,
    next: usize,
    load: Load,
    started: Instant,
    peers: usize,
}

impl Turns {
    fn new(args: &Args, load: Load, seed: u64) -> Self {
        let rng = fastrand::Rng::with_seed(seed);
        Self { rng, next: 0, load, started: Instant::now(), peers: args.peers as usize }
    }

    fn next(&mut self) -> Option<usize> {
        match self.load {
            Load::Everybody => {
                self.next += 1;
                (self.next <= self.peers).then(|| self.next - 1)
            }
            Load::For(time) => (self.started.elapsed() < time).then(|| self.rng.usize(..self.peers)),
        }
    }
}

fn info_hash(torrent: u64) -> InfoHash {
    InfoHash(Sha1::digest(torrent.to_le_bytes()).into())
}

/// All who announce. The same peer is in the same torrent each time; the lower a torrent's number, the more it has.
struct Peers {
    hashes: Vec<InfoHash>,
    peers: Vec<Peer>,
    wanted: u32,
}

#[derive(Clone, Copy)]
struct Peer {
    torrent: u32,
    port: u16,
    left: bool,
}

impl Peers {
    fn new(args: &Args) -> Self {
        let mut rng = fastrand::Rng::with_seed(1);
        let hashes: Vec<_> = (0..args.torrents).map(info_hash).collect();
        let mut peer = || {
            let part = rng.f64();
            let torrent = ((part * part) * args.torrents as f64) as u32 % hashes.len() as u32;
            Peer { torrent, port: rng.u16(1..), left: rng.u8(..4) != 0 }
        };
        let peers = (0..args.peers).map(|_| peer()).collect();
        Self { hashes, peers, wanted: args.wanted }
    }

    fn request(&self, peer: usize) -> AnnounceRequest {
        let Peer { torrent, port, left } = self.peers[peer];
        AnnounceRequest {
            info_hash: self.hashes[torrent as usize],
            peer_id: PeerId(*b"-LD0001-000000000000"),
            port,
            uploaded: 0,
            downloaded: 0,
            left: u64::from(left),
            event: AnnounceEvent::Periodic,
            numwant: self.wanted,
            key: Some(1),
            tracker_id: None,
        }
    }
}

/// Several sockets, so that a tracker can deal them out; so many questions of each are under way.
fn udp(args: &Args, world: &Peers, load: Load) -> Outcome {
    let (mut turns, mut outcome) = (Turns::new(args, load, 1), Outcome::default());
    let sockets: Vec<UdpSocket> = (0..SOCKETS).map(|_| connected(args.addr)).collect();
    let mut ids: Vec<u64> = sockets.iter().map(connection_id).collect();
    let mut under_way = [0_usize; SOCKETS];
    let (mut questions, mut answers) = (Datagrams::<98>::new(), Datagrams::<2048>::new());
    let (mut heard, mut renewed, mut more) = (Instant::now(), Instant::now(), true);
    while more || under_way.iter().any(|&count| count > 0) {
        let mut moved = 0;
        for (at, socket) in sockets.iter().enumerate() {
            for answer in answers.receive(socket) {
                moved += 1;
                under_way[at] = under_way[at].saturating_sub(1);
                outcome.received_bytes += answer.len() as u64;
                *(if answer.get(3) == Some(&1) { &mut outcome.answered } else { &mut outcome.refused }) += 1;
            }
            // In halves, so that a tracker finds some while we are at the other sockets.
            let room = if more && under_way[at] <= WINDOW / 2 { WINDOW - under_way[at] } else { 0 };
            let mut ready = 0;
            while ready < room {
                let Some(peer) = turns.next() else {
                    more = false;
                    break;
                };
                let question = wire::write_announce(ids[at], peer as u32, &world.request(peer), b"");
                questions.write(ready, |buffer| {
                    buffer.copy_from_slice(&question);
                    question.len()
                });
                ready += 1;
            }
            if ready > 0 {
                let sent = questions.send(socket, ready);
                outcome.lost += (ready - sent) as u64;
                under_way[at] += sent;
                moved += sent;
            }
        }
        if moved > 0 {
            heard = Instant::now();
        } else if heard.elapsed() > Duration::from_millis(500) {
            // What was lost on the way does not come any more.
            outcome.lost += under_way.iter().sum::<usize>() as u64;
            under_way.fill(0);
            heard = Instant::now();
        } else {
            datagrams::wait(&sockets);
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
fn http(args: &Args, world: &Peers, load: Load, keep: bool) -> Outcome {
    let total = Mutex::new(Outcome::default());
    std::thread::scope(|scope| {
        for thread in 0..CONNECTIONS {
            let total = &total;
            scope.spawn(move || {
                let (mut turns, mut outcome) = (Turns::new(args, load, 100 + thread), Outcome::default());
                let mut line = Line { addr: args.addr, keep, kept: None, connections: 0 };
                while let Some(peer) = turns.next() {
                    let url = announce_url("/announce", &world.request(peer));
                    match line.ask(&url) {
                        Ok(bytes) => {
                            outcome.answered += 1;
                            outcome.received_bytes += bytes as u64;
                        }
                        Err(error) if error.kind() == ErrorKind::InvalidData => outcome.refused += 1,
                        Err(_) => outcome.lost += 1,
                    }
                }
                let mut total = total.lock().expect("no thread panics with it");
                total.answered += outcome.answered;
                total.refused += outcome.refused;
                total.lost += outcome.lost;
                total.received_bytes += outcome.received_bytes;
                total.connections += line.connections;
            });
        }
    });
    total.into_inner().expect("no thread panics with it")
}

/// A connection, a new one where the tracker does not keep it.
struct Line {
    addr: SocketAddr,
    keep: bool,
    kept: Option<TcpStream>,
    connections: u64,
}

impl Line {
    /// One announce; the bytes of its answer.
    fn ask(&mut self, path: &str) -> std::io::Result<usize> {
        let how = if self.keep { "keep-alive" } else { "close" };
        let question = format!("GET {path} HTTP/1.1\r\nHost: t\r\nConnection: {how}\r\n\r\n");
        if let Some(stream) = self.kept.take() {
            // One that was let go of meanwhile says nothing.
            match self.ask_on(stream, &question) {
                Ok(0) | Err(_) => {}
                answered => return answered,
            }
        }
        let stream = TcpStream::connect(self.addr)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        self.connections += 1;
        self.ask_on(stream, &question)
    }

    fn ask_on(&mut self, mut stream: TcpStream, question: &str) -> std::io::Result<usize> {
        stream.write_all(question.as_bytes())?;
        let mut answer = Vec::with_capacity(2048);
        let mut buffer = [0; 4096];
        let (mut ended, mut head) = (false, None);
        while !ended {
            let read = stream.read(&mut buffer)?;
            answer.extend_from_slice(&buffer[..read]);
            head = head.or_else(|| Head::of(&answer));
            ended =
                read == 0 || head.as_ref().is_some_and(|head| head.whole.is_some_and(|whole| answer.len() >= whole));
            if read == 0 {
                head = head.map(|head| Head { keeps: false, ..head });
            }
        }
        if answer.is_empty() {
            return Ok(0);
        }
        if !answer.windows(8).any(|part| part == b"interval") {
            return Err(ErrorKind::InvalidData.into());
        }
        if self.keep && head.is_some_and(|head| head.keeps) {
            self.kept = Some(stream);
        }
        Ok(answer.len())
    }
}

/// What an answer's head says.
#[derive(Clone, Copy)]
struct Head {
    /// The length of it all, if it says.
    whole: Option<usize>,
    keeps: bool,
}

impl Head {
    fn of(answer: &[u8]) -> Option<Self> {
        let length = answer.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)?;
        let head = std::str::from_utf8(&answer[..length]).ok()?.to_ascii_lowercase();
        let body = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
        let keeps = head.starts_with("http/1.1") && !head.contains("\r\nconnection: close");
        Some(Self { whole: body.map(|body| length + body), keeps })
    }
}

/// Time that a process has computed, all threads together.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    // utime and stime, in hundredths of a second on every Linux of today.
    after_name.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn peak_kib(pid: u32) -> u64 {
    status_kib(pid, "VmHWM:")
}

fn resident_kib(pid: u32) -> u64 {
    status_kib(pid, "VmRSS:")
}

fn status_kib(pid: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

const SOCKETS: usize = 8;
/// All of them together fit into the buffer that a socket has unless it asks for more.
const WINDOW: usize = 24;
const CONNECTIONS: u64 = 16;
