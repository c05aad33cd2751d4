//! A torrent with its surroundings: what it does is sorted into piles, what happens to it is one call.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::base::{BLOCK_BYTES, Bitfield, FileSpec, InfoHash, Layout, PeerId, PieceIndex, PieceRange};
use crate::engine::*;
use crate::proto::wire::{BlockRequest, Message};

pub(super) const MS: Duration = Duration::from_millis(1);
pub(super) const S: Duration = Duration::from_secs(1);

/// A torrent, the instant, and everything that it wanted done so far.
pub(super) struct World {
    pub torrent: Torrent,
    pub now: Instant,
    pub layout: Arc<Layout>,
    /// Requests that were neither answered nor cancelled, by peer, in order.
    pub asked: BTreeMap<u64, Vec<BlockRequest>>,
    pub cancelled: Vec<(u64, BlockRequest)>,
    /// Other messages, in order.
    pub said: Vec<(u64, Message)>,
    pub closed: Vec<(u64, CloseReason)>,
    pub jobs: Vec<DiskJob>,
    pub ready: Vec<u64>,
    pub failed: Vec<(u64, ReadError)>,
    pub dialled: Vec<SocketAddr>,
    /// Dials with something to say behind the handshake.
    pub openings: usize,
    pub announced: Vec<Announcement>,
    pub completed: bool,
    /// The disk takes nothing: what verifies is in memory alone.
    pub unwritable: bool,
    requests_seen: usize,
    /// What lies on the disk of each attempt: the first byte of each block, by number.
    written: BTreeMap<(PieceIndex, u32), BTreeMap<usize, u8>>,
}

impl World {
    /// A torrent of `pieces` pieces of `blocks` blocks each; nothing is here.
    pub fn new(pieces: u32, blocks: u32) -> Self {
        Self::with(pieces, blocks, |_| {})
    }

    pub fn with(pieces: u32, blocks: u32, change: impl FnOnce(&mut Config)) -> Self {
        let piece_length = blocks * BLOCK_BYTES;
        let length = u64::from(pieces) * u64::from(piece_length);
        let layout = Arc::new(Layout::new(piece_length, &[FileSpec { length, padding: false }]).unwrap());
        let mut config = Config {
            info_hash: InfoHash([7; 20]),
            layout: layout.clone(),
            have: Bitfield::new(pieces as usize),
            unchecked: Bitfield::new(pieces as usize),
            peer_id: PeerId(*b"-BF0001-000000000000"),
            private: false,
            user_trackers: Vec::new(),
            trackers: Vec::new(),
            fill: Fill::None,
            upload: true,
            read_timeout: Some(120 * S),
            max_peers: 50,
            listen_port: Some(6881),
            client: "btfs".into(),
            own_addrs: Vec::new(),
            read_only: false,
            hashes_together: true,
            limits: Default::default(),
        };
        change(&mut config);
        let now = Instant::now();
        let mut world = Self {
            torrent: Torrent::new(config, now, 1),
            now,
            layout,
            asked: BTreeMap::new(),
            cancelled: Vec::new(),
            said: Vec::new(),
            closed: Vec::new(),
            jobs: Vec::new(),
            ready: Vec::new(),
            failed: Vec::new(),
            dialled: Vec::new(),
            openings: 0,
            announced: Vec::new(),
            completed: false,
            unwritable: false,
            requests_seen: 0,
            written: BTreeMap::new(),
        };
        world.drain();
        world
    }

    pub fn drain(&mut self) {
        while let Some(effect) = self.torrent.poll_effect() {
            match effect {
                Effect::Send { peer, message: Message::Request(request) } => {
                    self.requests_seen += 1;
                    self.asked.entry(peer.0).or_default().push(request);
                }
                Effect::Send { peer, message: Message::Cancel(request) } => {
                    self.asked.entry(peer.0).or_default().retain(|asked| *asked != request);
                    self.cancelled.push((peer.0, request));
                }
                Effect::Send { peer, message } => self.said.push((peer.0, message)),
                Effect::Close { peer, reason } => {
                    self.asked.remove(&peer.0);
                    self.closed.push((peer.0, reason));
                }
                Effect::Dial { addr, opening } => {
                    self.dialled.push(addr);
                    self.openings += usize::from(opening.is_some());
                }
                Effect::Disk(job) => self.jobs.push(job),
                Effect::ReadReady(ticket) => self.ready.push(ticket.0),
                Effect::ReadFailed(ticket, error) => self.failed.push((ticket.0, error)),
                Effect::Announce(announcement) => self.announced.push(announcement),
                Effect::Scrape(_) => {}
                Effect::Completed => self.completed = true,
            }
        }
    }

    /// Time passes; the torrent is woken as it wishes, the disk does its work at once when `disk`.
    pub fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.torrent.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.torrent.handle_timeout(self.now);
            self.drain();
        }
        self.now = end;
    }

    pub fn command(&mut self, command: Command) {
        self.torrent.handle_command(self.now, command);
        self.drain();
    }

    pub fn read(&mut self, ticket: u64, from: u32, to: u32) {
        let pieces = PieceRange::inclusive(PieceIndex(from), PieceIndex(to));
        self.command(Command::Read { ticket: Ticket(ticket), pieces });
    }

    pub fn open(&mut self, handle: u64) {
        let file = self.layout.file(0).unwrap();
        self.command(Command::Opened { handle: HandleId(handle), file });
    }

    /// A window that has stood long enough to be believed.
    pub fn window(&mut self, handle: u64, from: u32, to: u32) {
        self.plan(handle, from, to);
        self.pass(5 * MS);
    }

    pub fn plan(&mut self, handle: u64, from: u32, to: u32) {
        let pieces = vec![PieceRange::inclusive(PieceIndex(from), PieceIndex(to))];
        self.command(Command::Window { handle: HandleId(handle), pieces, horizon: None });
    }

    pub fn connect(&mut self, peer: u64) {
        self.connect_as(peer, PeerId(peer_id(peer)), addr(peer), true);
    }

    pub fn connect_as(&mut self, peer: u64, peer_id: PeerId, addr: SocketAddr, outgoing: bool) {
        self.connected(peer, Connected { addr, outgoing, peer_id, fast: true, extended: true, opening: None });
    }

    /// A peer that was told this much with the handshake.
    pub fn connect_told(&mut self, peer: u64, opening: Opening) {
        let (addr, peer_id, opening) = (addr(peer), PeerId(peer_id(peer)), Some(opening));
        self.connected(peer, Connected { addr, outgoing: true, peer_id, fast: true, extended: true, opening });
    }

    fn connected(&mut self, peer: u64, connected: Connected) {
        self.torrent.handle_connected(self.now, PeerKey(peer), connected);
        self.drain();
    }

    /// What was said to a peer, but for requests.
    pub fn said(&self, peer: u64) -> Vec<&Message> {
        self.said.iter().filter(|(to, _)| *to == peer).map(|(_, message)| message).collect()
    }

    pub fn hear(&mut self, peer: u64, message: Message) {
        self.hear_all(peer, [message]);
    }

    pub fn hear_all(&mut self, peer: u64, messages: impl IntoIterator<Item = Message>) {
        let events = messages.into_iter().map(PeerEvent::Message);
        self.torrent.handle_peer_events(self.now, PeerKey(peer), events);
        self.drain();
    }

    /// A peer that has what the string says (`x` a piece) and has unchoked us.
    pub fn peer(&mut self, peer: u64, has: &str) {
        self.connect(peer);
        let mut field = Bitfield::new(has.len());
        for (at, _) in has.bytes().enumerate().filter(|(_, letter)| *letter == b'x') {
            field.set(PieceIndex(at as u32));
        }
        let first = match field.count() {
            0 => Message::HaveNone,
            _ if field.is_full() => Message::HaveAll,
            _ => Message::Bitfield(Bytes::copy_from_slice(field.as_wire())),
        };
        self.hear_all(peer, [first, Message::Unchoke]);
    }

    pub fn seed(&mut self, peer: u64) {
        let all = "x".repeat(self.layout.piece_count());
        self.peer(peer, &all);
    }

    /// Seeds that have shown what they can: each sends at `rate` after `rtt`.
    pub fn asked_of(&self, peer: u64) -> Vec<(u32, u32)> {
        let asked = self.asked.get(&peer).into_iter().flatten();
        asked.map(|request| (request.piece, request.begin / BLOCK_BYTES)).collect()
    }

    pub fn asked_count(&self) -> usize {
        self.asked.values().map(Vec::len).sum()
    }

    /// Requests ever sent.
    pub fn requests_seen(&self) -> usize {
        self.requests_seen
    }

    /// A peer answers its oldest request; false when it has none.
    pub fn answer(&mut self, peer: u64) -> bool {
        let Some(asked) = self.asked.get_mut(&peer).filter(|asked| !asked.is_empty()) else { return false };
        let request = asked.remove(0);
        self.hear(peer, block(request));
        true
    }

    /// Everybody answers everything, a millisecond a block, the disk works at once, until nothing is asked any more.
    pub fn run(&mut self) {
        for _ in 0..100_000 {
            let Some(&peer) = self.asked.iter().find(|(_, asked)| !asked.is_empty()).map(|(peer, _)| peer) else {
                break;
            };
            self.pass(MS);
            self.answer(peer);
            self.write_all();
        }
    }

    /// The disk does its jobs: every piece verifies, unless a block of it is bad.
    pub fn write_all(&mut self) {
        let mut bad = Vec::new();
        self.write_with(&mut bad);
    }

    pub fn write_with(&mut self, bad: &mut Vec<u32>) {
        for job in std::mem::take(&mut self.jobs) {
            let done = match job {
                DiskJob::Write { piece, attempt, begin, blocks, .. } => {
                    let bytes: u32 = blocks.iter().map(|block| block.len() as u32).sum();
                    let here = self.written.entry((piece, attempt)).or_default();
                    let number = begin as usize / BLOCK_BYTES as usize;
                    here.extend(blocks.iter().zip(number..).map(|(block, number)| (number, block[0])));
                    if here.len() < self.layout.block_count(piece) {
                        DiskDone::Written { piece, attempt, bytes }
                    } else if here.values().any(|&byte| byte == b'X') {
                        bad.push(piece.raw());
                        let block_digests = here.values().map(|&byte| [byte; 20]).collect();
                        DiskDone::Corrupt { piece, attempt, bytes, block_digests }
                    } else if self.unwritable {
                        DiskDone::Held { piece, attempt, bytes }
                    } else {
                        DiskDone::Verified { piece, attempt, bytes }
                    }
                }
                DiskJob::Check { piece, attempt, .. } => DiskDone::Verified { piece, attempt, bytes: 0 },
                DiskJob::Discard { .. } => continue,
                DiskJob::Digests(piece) => {
                    let block_digests = vec![[b'.'; 20]; self.layout.block_count(piece)];
                    DiskDone::Digests { piece, block_digests }
                }
            };
            self.done(done);
        }
    }

    pub fn done(&mut self, done: DiskDone) {
        self.torrent.handle_disk_done(self.now, done);
        self.drain();
    }

    pub fn snapshot(&mut self) -> TorrentSnapshot {
        self.torrent.snapshot(self.now)
    }
}

fn peer_id(peer: u64) -> [u8; 20] {
    let mut id = *b"-XX0001-000000000000";
    id[12..].copy_from_slice(&peer.to_be_bytes());
    id
}

pub(super) fn addr(peer: u64) -> SocketAddr {
    SocketAddr::from(([8, 8, (peer >> 8) as u8, peer as u8], 6881))
}

/// The right answer to a request.
pub(super) fn block(request: BlockRequest) -> Message {
    let data = Bytes::from(vec![b'.'; request.length as usize]);
    Message::Piece { piece: request.piece, begin: request.begin, data }
}

/// A lie as answer to a request.
pub(super) fn lie(request: BlockRequest) -> Message {
    let data = Bytes::from(vec![b'X'; request.length as usize]);
    Message::Piece { piece: request.piece, begin: request.begin, data }
}
