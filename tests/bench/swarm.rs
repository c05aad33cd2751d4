//! One torrent amid two hundred peers and sixty-four readers who never stop, in virtual time.
//!
//! Peers answer what they are asked, each at its own rate and after its own round trip; every second one has all pieces,
//! the others two of three. The disk does its work at once. A piece that was read is taken away again behind the reader,
//! so that the swarm stays as busy as it is for as long as anybody measures.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use btfs::base::{BLOCK_BYTES, Bitfield, FileSpec, Layout, PeerId, PieceIndex, PieceRange};
use btfs::engine::{
    Command, Connected, DiskDone, DiskJob, Effect, Fill, HandleId, PeerEvent, PeerKey, Source, Ticket, Torrent,
};
use btfs::proto::wire::{BlockRequest, Message};
use bytes::Bytes;

const PEERS: u64 = 200;
const PIECE_BYTES: u32 = 1 << 20;
/// Blocks until rates and pipelines have found their measure: not measured.
const SETTLING_BLOCKS: usize = 20_000;
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// What goes on.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub pieces: u32,
    /// Handles, each with one read that waits for one piece.
    pub readers: u32,
    /// Pieces that each of them wants next.
    pub window: u32,
    pub fill: Fill,
}

pub struct Swarm {
    plan: Plan,
    torrent: Torrent,
    layout: Arc<Layout>,
    now: Instant,
    remotes: Vec<Remote>,
    /// When the first request of a peer is answered.
    arrivals: BinaryHeap<Reverse<(Instant, usize)>>,
    /// The piece that each reader waits for.
    readers: Vec<u32>,
    /// Bytes of each piece that the disk has.
    written: BTreeMap<PieceIndex, u32>,
    effects: VecDeque<Effect>,
    done: VecDeque<DiskDone>,
    next_ticket: u64,
    tickets: BTreeMap<u64, usize>,
    next_keep_alive: Instant,
    data: Bytes,
    blocks: u64,
    other: Duration,
}

/// A peer as it is.
struct Remote {
    bytes_per_second: f64,
    rtt: Duration,
    asked: VecDeque<(Instant, BlockRequest)>,
    free_at: Instant,
    /// Its first answer is under way.
    busy: bool,
}

impl Swarm {
    /// A swarm in its stride.
    pub fn settled(plan: Plan) -> Self {
        let now = Instant::now();
        let mut swarm = Self {
            plan,
            torrent: Torrent::new(crate::engine::config(plan.pieces, plan.fill), now, 7),
            layout: layout(plan.pieces),
            now,
            remotes: Vec::new(),
            arrivals: BinaryHeap::new(),
            readers: Vec::new(),
            written: BTreeMap::new(),
            effects: VecDeque::new(),
            done: VecDeque::new(),
            next_ticket: 0,
            tickets: BTreeMap::new(),
            next_keep_alive: now + KEEP_ALIVE,
            data: Bytes::from(vec![b'.'; BLOCK_BYTES as usize]),
            blocks: 0,
            other: Duration::ZERO,
        };
        let mut random = fastrand::Rng::with_seed(7);
        (0..PEERS).for_each(|peer| swarm.connect(peer, &mut random));
        // Addresses that nobody has room for, as trackers name them.
        let addrs = (0..1000_u32).map(|n| ([9, (n >> 8) as u8, n as u8, 7], 6881).into()).collect();
        swarm.command(Command::Candidates { source: Source::Tracker, addrs });
        for reader in 0..plan.readers {
            let command = Command::Opened { handle: handle(reader as usize), file: swarm.layout.file(0).unwrap() };
            swarm.command(command);
            swarm.readers.push(reader * swarm.share());
            swarm.read(reader as usize);
            swarm.perform();
        }
        let mut times = Vec::new();
        (0..SETTLING_BLOCKS).for_each(|_| _ = swarm.block(&mut times));
        (swarm.blocks, swarm.other) = (0, Duration::ZERO);
        swarm
    }

    /// The next block arrives: what the brain took for it, and its effects taken out.
    pub fn block(&mut self, times: &mut Vec<u32>) -> Duration {
        let peer = self.pass_to_arrival();
        let remote = &mut self.remotes[peer];
        let (_, request) = remote.asked.pop_front().expect("an answer has a request");
        remote.busy = false;
        let data = self.data.slice(..request.length as usize);
        let event = PeerEvent::Message(Message::Piece { piece: request.piece, begin: request.begin, data });

        let began = Instant::now();
        self.torrent.handle_peer_events(self.now, PeerKey(peer as u64), [event]);
        while let Some(effect) = self.torrent.poll_effect() {
            self.effects.push_back(effect);
        }
        let took = began.elapsed();

        times.push(took.as_nanos() as u32);
        self.blocks += 1;
        self.perform();
        self.expect_answer(peer);
        took
    }

    /// What everything but blocks took: verdicts of the disk, reads, windows, timeouts.
    pub fn other_nanos_per_block(&self) -> f64 {
        self.other.as_nanos() as f64 / self.blocks as f64
    }

    /// Goes on to the next arrival; wakes the torrent on the way as it wishes.
    fn pass_to_arrival(&mut self) -> usize {
        loop {
            let arrival = self.arrivals.peek().map(|Reverse((at, _))| *at);
            let wake = self.torrent.poll_timeout();
            match (arrival, wake) {
                (Some(at), wake) if wake.is_none_or(|wake| at <= wake) => {
                    let Some(Reverse((at, peer))) = self.arrivals.pop() else { continue };
                    self.now = self.now.max(at);
                    return peer;
                }
                (_, Some(wake)) => {
                    self.now = self.now.max(wake);
                    self.turn(|torrent, now| torrent.handle_timeout(now));
                    self.perform();
                }
                (_, None) => unreachable!("a torrent with handles or peers has chores"),
            }
            if self.now >= self.next_keep_alive {
                self.next_keep_alive = self.now + KEEP_ALIVE;
                for peer in 0..PEERS {
                    let event = PeerEvent::Message(Message::KeepAlive);
                    self.turn(|torrent, now| torrent.handle_peer_events(now, PeerKey(peer), [event]));
                }
            }
        }
    }

    fn connect(&mut self, peer: u64, random: &mut fastrand::Rng) {
        // From 100 kB/s to 10 MB/s, from 5 to 105 ms.
        self.remotes.push(Remote {
            bytes_per_second: 1e5 * 100_f64.powf(random.f64()),
            rtt: Duration::from_micros(random.u64(5_000..105_000)),
            asked: VecDeque::new(),
            free_at: self.now,
            busy: false,
        });
        let mut peer_id = [0; 20];
        peer_id[..8].copy_from_slice(&peer.to_be_bytes());
        let connected = Connected {
            addr: ([8, 8, 1, peer as u8], 6881).into(),
            outgoing: true,
            peer_id: PeerId(peer_id),
            fast: true,
            extended: true,
            opening: None,
        };
        self.turn(|torrent, now| torrent.handle_connected(now, PeerKey(peer), connected));
        let first = if peer.is_multiple_of(2) {
            Message::HaveAll
        } else {
            let mut pieces = Bitfield::new(self.layout.piece_count());
            self.layout.pieces().iter().filter(|_| random.u8(0..3) > 0).for_each(|piece| _ = pieces.set(piece));
            Message::Bitfield(Bytes::copy_from_slice(pieces.as_wire()))
        };
        let events = [first, Message::Unchoke].map(PeerEvent::Message);
        self.turn(|torrent, now| torrent.handle_peer_events(now, PeerKey(peer), events));
        self.perform();
    }

    /// Lets the torrent do something that is no block.
    fn turn(&mut self, with: impl FnOnce(&mut Torrent, Instant)) {
        let began = Instant::now();
        with(&mut self.torrent, self.now);
        while let Some(effect) = self.torrent.poll_effect() {
            self.effects.push_back(effect);
        }
        self.other += began.elapsed();
    }

    /// The same for what happens here alone: it does not count.
    fn aside(&mut self, with: impl FnOnce(&mut Torrent, Instant)) {
        let before = self.other;
        self.turn(with);
        self.other = before;
    }

    fn command(&mut self, command: Command) {
        self.turn(|torrent, now| torrent.handle_command(now, command));
    }

    /// Does what the torrent wants done, until it wants no more.
    fn perform(&mut self) {
        loop {
            if let Some(effect) = self.effects.pop_front() {
                self.perform_one(effect);
            } else if let Some(done) = self.done.pop_front() {
                self.disk_done(done);
            } else {
                return;
            }
        }
    }

    fn perform_one(&mut self, effect: Effect) {
        match effect {
            Effect::Send { peer, message: Message::Request(request) } => {
                let peer = peer.0 as usize;
                self.remotes[peer].asked.push_back((self.now, request));
                self.expect_answer(peer);
            }
            Effect::Send { peer, message: Message::Cancel(request) } => {
                // What is on its way comes all the same.
                let remote = &mut self.remotes[peer.0 as usize];
                let place = remote.asked.iter().position(|(_, asked)| *asked == request);
                if let Some(place) = place.filter(|&place| place > 0) {
                    remote.asked.remove(place);
                }
            }
            Effect::Disk(job) => self.disk(job),
            Effect::ReadReady(ticket) => {
                let reader = self.tickets.remove(&ticket.0).expect("a ticket is answered once");
                self.go_on(reader);
            }
            Effect::Close { reason, .. } => panic!("nobody is closed here: {reason:?}"),
            Effect::ReadFailed(_, error) => panic!("no read fails here: {error:?}"),
            Effect::Send { .. } | Effect::Dial { .. } | Effect::Announce(_) | Effect::Scrape(_) | Effect::Completed => {
            }
        }
    }

    /// The first request of a peer that is free is answered at its time.
    fn expect_answer(&mut self, peer: usize) {
        let remote = &mut self.remotes[peer];
        let Some((sent, request)) = remote.asked.front().filter(|_| !remote.busy) else { return };
        let takes = Duration::from_secs_f64(f64::from(request.length) / remote.bytes_per_second);
        remote.free_at = remote.free_at.max(*sent + remote.rtt) + takes;
        remote.busy = true;
        self.arrivals.push(Reverse((remote.free_at, peer)));
    }

    fn disk(&mut self, job: DiskJob) {
        match job {
            DiskJob::Write { piece, attempt, blocks, .. } => {
                let bytes = blocks.iter().map(Bytes::len).sum::<usize>() as u32;
                let written = self.written.entry(piece).or_default();
                *written += bytes;
                if *written < PIECE_BYTES {
                    self.done.push_back(DiskDone::Written { piece, attempt, bytes });
                } else {
                    self.written.remove(&piece);
                    self.done.push_back(DiskDone::Verified { piece, attempt, bytes });
                }
            }
            DiskJob::Check { .. } | DiskJob::Discard { .. } | DiskJob::Digests(_) => {
                unreachable!("nothing old is here, there is room for all, and nobody lies")
            }
        }
    }

    fn disk_done(&mut self, done: DiskDone) {
        let verified = match &done {
            DiskDone::Verified { piece, .. } => Some(*piece),
            _ => None,
        };
        self.turn(|torrent, now| torrent.handle_disk_done(now, done));
        if let Some(piece) = verified.filter(|_| self.plan.readers == 0) {
            self.take_away(piece);
        }
    }

    fn take_away(&mut self, piece: PieceIndex) {
        let command = Command::Evicted(vec![piece]);
        self.aside(|torrent, now| torrent.handle_command(now, command));
    }

    /// A reader has what it waited for: it goes on to the next piece of its share, round and round.
    fn go_on(&mut self, reader: usize) {
        let share = self.share();
        let (piece, start) = (self.readers[reader], reader as u32 * share);
        self.take_away(self.piece(piece));
        self.readers[reader] = start + (piece + 1 - start) % share;
        self.read(reader);
    }

    fn read(&mut self, reader: usize) {
        let piece = self.readers[reader];
        self.next_ticket += 1;
        self.tickets.insert(self.next_ticket, reader);
        let pieces = PieceRange::one(self.piece(piece));
        self.command(Command::Read { ticket: Ticket(self.next_ticket), pieces });
        if self.plan.window > 0 {
            let end = (reader as u32 + 1) * self.share();
            let window =
                (piece + 1..end.min(piece + 1 + self.plan.window)).map(|piece| PieceRange::one(self.piece(piece)));
            let command = Command::Window { handle: handle(reader), pieces: window.collect(), horizon: None };
            self.command(command);
        }
    }

    /// Pieces of each reader.
    fn share(&self) -> u32 {
        self.plan.pieces / self.plan.readers.max(1)
    }

    fn piece(&self, raw: u32) -> PieceIndex {
        self.layout.piece(raw).expect("shares are parts of the torrent")
    }
}

fn handle(reader: usize) -> HandleId {
    HandleId(reader as u64)
}

/// A file of so many pieces of 1 MiB.
pub fn layout(pieces: u32) -> Arc<Layout> {
    let file = FileSpec { length: u64::from(pieces) * u64::from(PIECE_BYTES), padding: false };
    Arc::new(Layout::new(PIECE_BYTES, &[file]).unwrap())
}
