//! An engine in the virtual world: drives [`Torrent`], plays its peer tasks (uploads), its disk and its file system,
//! and is the referee of everything the engine does.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use btfs::base::{Bitfield, InfoHash, PieceRange};
use btfs::engine::{
    AnnounceEvent, AnnounceOutcome, Command, Config, Connected, DialFailure, Effect, Fill, PeerEvent, PeerKey,
    ScrapeOutcome, Source, Ticket, Torrent,
};
use btfs::proto::wire::{BlockRequest, Message};
use bytes::Bytes;

use crate::content::VirtualDisk;
use crate::reader::Reader;
use crate::world::{Kind, World};

pub struct EngineNode {
    pub torrent: Torrent,
    /// It uploads.
    pub gives: bool,
    pub disk: VirtualDisk,
    pub readers: Vec<Reader>,
    pub peers: BTreeMap<PeerKey, Line>,
    /// Readers by their tickets; a ticket is answered once (I5).
    pub tickets: BTreeMap<Ticket, (usize, PieceRange)>,
    next_ticket: u64,
    armed: Option<Instant>,
    spins: u32,
    pub completed: bool,
    /// Since the beginning of the run.
    pub completed_after: Option<Duration>,
    pub requests_sent: u64,
    pub blocks_received: u64,
    pub control_sent: u64,
    pub dials: BTreeMap<SocketAddr, Vec<Instant>>,
    pub closes: Vec<(SocketAddr, String)>,
}

/// One connection as the referee sees it from the engine's side.
pub struct Line {
    pub connection: usize,
    pub side: usize,
    pub addr: SocketAddr,
    pub fast: bool,
    pub we_choke: bool,
    pub we_want: bool,
    /// Pieces that we allow while choking.
    fast_out: BTreeSet<u32>,
    pub peer_chokes: bool,
    peer_has: Bitfield,
    fast_in: BTreeSet<u32>,
    /// Asked and not answered, since when.
    asked: BTreeMap<BlockRequest_, Instant>,
    last_block: Option<Instant>,
    pub requests: u64,
    pub blocks: u64,
    pub interest_changes: u64,
    since: Instant,
}

impl Line {
    /// No storms: a peer that gives nothing is asked fewer than twenty times a second, interest does not flap.
    pub fn check_manners(&self, now: Instant) {
        let seconds = (now - self.since).as_secs_f64();
        let (requests, changes) = (self.requests as f64, self.interest_changes as f64);
        assert!(self.blocks > 0 || requests <= 64.0 + 10.0 * seconds, "{requests} requests in {seconds} s for nothing");
        assert!(changes <= 4.0 + seconds / 2.0, "interest changed {changes} times in {seconds} s");
    }
}

/// `BlockRequest` as a key.
type BlockRequest_ = (u32, u32, u32);

fn key_of(request: &BlockRequest) -> BlockRequest_ {
    (request.piece, request.begin, request.length)
}

/// A configuration as `btfs mount` would make it.
pub fn mount_config(world: &World) -> Config {
    let pieces = world.content.layout.piece_count();
    Config {
        info_hash: InfoHash([7; 20]),
        layout: world.content.layout.clone(),
        have: Bitfield::new(pieces),
        unchecked: Bitfield::new(pieces),
        peer_id: btfs::base::PeerId([0; 20]),
        private: false,
        user_trackers: Vec::new(),
        trackers: vec![vec!["http://tracker.example/announce".into()]],
        fill: Fill::None,
        upload: true,
        read_timeout: Some(Duration::from_secs(120)),
        max_peers: 50,
        listen_port: Some(6881),
        client: "btfs sim".into(),
        own_addrs: Vec::new(),
        read_only: false,
        hashes_together: true,
        limits: Default::default(),
    }
}

impl World {
    /// Adds an engine; its peer id and disk follow from the node and the configuration.
    pub fn add_engine(&mut self, mut config: Config) -> usize {
        let index = self.nodes.len();
        let disk = VirtualDisk::new(self.content.clone(), config.have.clone());
        let seed = self.rng.u64(..);
        let mut id = *b"-SM0001-............";
        id[12..].copy_from_slice(&(index as u64).to_be_bytes());
        config.peer_id = btfs::base::PeerId(id);
        let engine = EngineNode {
            gives: config.upload,
            torrent: Torrent::new(config, self.now, seed),
            disk,
            readers: Vec::new(),
            peers: BTreeMap::new(),
            tickets: BTreeMap::new(),
            next_ticket: 1,
            armed: None,
            spins: 0,
            completed: false,
            completed_after: None,
            requests_sent: 0,
            blocks_received: 0,
            control_sent: 0,
            dials: BTreeMap::new(),
            closes: Vec::new(),
        };
        let node = self.add_node(Kind::Engine(Box::new(engine)));
        assert_eq!(self.nodes[node].peer_id.0, id);
        self.after(Duration::ZERO, move |world| step(world, node, |_, _| ()));
        node
    }

    pub fn engine(&self, node: usize) -> &EngineNode {
        match &self.nodes[node].kind {
            Kind::Engine(engine) => engine,
            Kind::Script(_) => panic!("node {node} is no engine"),
        }
    }

    pub fn engine_mut(&mut self, node: usize) -> &mut EngineNode {
        match &mut self.nodes[node].kind {
            Kind::Engine(engine) => engine,
            Kind::Script(_) => panic!("node {node} is no engine"),
        }
    }

    /// What must hold of every engine at the end of every scenario.
    pub fn check_manners(&self) {
        for node in &self.nodes {
            if let Kind::Engine(engine) = &node.kind {
                engine.peers.values().for_each(|line| line.check_manners(self.now));
                for (addr, times) in &engine.dials {
                    let often = times.windows(21).any(|window| window[20] - window[0] < Duration::from_secs(60));
                    assert!(!often, "{addr} was dialled more than 20 times in a minute");
                }
                let present =
                    engine.tickets.values().any(|(_, pieces)| pieces.iter().all(|piece| engine.disk.has(piece)));
                assert!(!present, "I5: a reader waits for what is there");
            }
        }
    }

    pub fn command(&mut self, node: usize, command: Command) {
        step(self, node, move |torrent, now| torrent.handle_command(now, command));
    }

    /// Tells an engine of other nodes.
    pub fn introduce(&mut self, node: usize, source: Source, others: &[usize]) {
        let addrs = others.iter().map(|&other| self.nodes[other].addr).collect();
        self.command(node, Command::Candidates { source, addrs });
    }

    /// A reader asks for pieces; answered to it by `reader::answered`.
    pub fn ask(&mut self, node: usize, reader: usize, pieces: PieceRange) -> Ticket {
        let engine = self.engine_mut(node);
        let ticket = Ticket(engine.next_ticket);
        engine.next_ticket += 1;
        engine.tickets.insert(ticket, (reader, pieces));
        self.command(node, Command::Read { ticket, pieces });
        ticket
    }

    pub fn abandon(&mut self, node: usize, ticket: Ticket) {
        if self.engine_mut(node).tickets.remove(&ticket).is_some() {
            self.command(node, Command::Abandon(ticket));
        }
    }
}

/// Lets the engine handle something, does what it wants done, checks it, and sets its timer.
pub fn step(world: &mut World, node: usize, handle: impl FnOnce(&mut Torrent, Instant)) {
    let now = world.now;
    handle(&mut world.engine_mut(node).torrent, now);
    loop {
        let Some(effect) = world.engine_mut(node).torrent.poll_effect() else { break };
        perform(world, node, effect);
    }
    world.engine(node).torrent.check_invariants();
    arm(world, node);
}

fn arm(world: &mut World, node: usize) {
    let now = world.now;
    let engine = world.engine_mut(node);
    let Some(at) = engine.torrent.poll_timeout() else {
        engine.armed = None;
        return;
    };
    let at = at.max(now);
    if engine.armed == Some(at) {
        return;
    }
    engine.armed = Some(at);
    let due = move |world: &mut World| {
        if world.engine(node).armed != Some(at) {
            return; // Set to another time since.
        }
        let now = world.now;
        let engine = world.engine_mut(node);
        engine.armed = None;
        engine.spins = if at == now { engine.spins + 1 } else { 0 };
        step(world, node, |torrent, now| torrent.handle_timeout(now));
        let engine = world.engine_mut(node);
        if engine.armed != Some(now) {
            engine.spins = 0;
        }
        assert!(engine.spins < 100, "the engine's timer spins at {:?}", world.elapsed());
    };
    world.at(at, Box::new(move |world| world.for_node(node, Box::new(due))));
}

fn perform(world: &mut World, node: usize, effect: Effect) {
    match effect {
        Effect::Send { peer, message } => {
            judge(world, node, peer, &message);
            let Some(line) = world.engine(node).peers.get(&peer) else { return };
            let (connection, side) = (line.connection, line.side);
            let choke = message == Message::Choke;
            world.send(connection, side, message);
            if choke {
                drop_uploads(world, node, peer);
            }
        }
        Effect::Close { peer, reason } => {
            if let Some(line) = world.engine_mut(node).peers.remove(&peer) {
                line.check_manners(world.now);
                world.engine_mut(node).closes.push((line.addr, format!("{reason:?}")));
                world.close(line.connection, line.side);
            }
        }
        Effect::Dial { addr, .. } => {
            let now = world.now;
            world.engine_mut(node).dials.entry(addr).or_default().push(now);
            world.dial(node, addr);
        }
        Effect::Disk(job) => {
            world.engine_mut(node).disk.begin(&job);
            // Disk jobs overtake each other.
            let delay = Duration::from_micros(world.rng.u64(100..5000));
            world.after(delay, move |world| {
                let run = move |world: &mut World| {
                    let engine = world.engine_mut(node);
                    let done = engine.disk.run(job);
                    let waited = engine.tickets.values().flat_map(|(_, pieces)| pieces.iter()).collect();
                    let gone = engine.disk.push_out(&waited);
                    step(world, node, |torrent, now| {
                        torrent.handle_disk_done(now, done);
                        if !gone.is_empty() {
                            torrent.handle_command(now, Command::Evicted(gone));
                        }
                    });
                };
                world.for_node(node, Box::new(run));
            });
        }
        Effect::ReadReady(ticket) => {
            let engine = world.engine_mut(node);
            let (reader, pieces) = engine.tickets.remove(&ticket).expect("I5: a ticket is answered once");
            let ready = pieces.iter().all(|piece| engine.disk.has(piece));
            assert!(ready, "I1: {pieces:?} is said to be readable");
            world.after(Duration::ZERO, move |world| crate::reader::answered(world, node, reader, ticket, Ok(())));
        }
        Effect::ReadFailed(ticket, error) => {
            let (reader, _) = world.engine_mut(node).tickets.remove(&ticket).expect("I5: a ticket is answered once");
            world.after(Duration::ZERO, move |world| crate::reader::answered(world, node, reader, ticket, Err(error)));
        }
        Effect::Announce(announcement) => {
            world.announces.push((world.now, node, announcement.event));
            world.after(Duration::from_millis(150), move |world| {
                let outcome = tracker_says(world, announcement.event, announcement.numwant as usize);
                let tracker = announcement.tracker;
                let told = move |world: &mut World| {
                    step(world, node, |torrent, now| torrent.handle_announced(now, tracker, outcome));
                };
                world.for_node(node, Box::new(told));
            });
        }
        Effect::Scrape(scrape) => {
            let tracker = scrape.tracker;
            world.after(Duration::from_millis(150), move |world| {
                let told = move |world: &mut World| {
                    step(world, node, |torrent, now| torrent.handle_scraped(now, tracker, ScrapeOutcome::Impossible));
                };
                world.for_node(node, Box::new(told));
            });
        }
        Effect::Completed => {
            let elapsed = world.elapsed();
            let engine = world.engine_mut(node);
            engine.completed = true;
            engine.completed_after = Some(elapsed);
        }
    }
}

fn tracker_says(world: &mut World, event: AnnounceEvent, numwant: usize) -> AnnounceOutcome {
    if world.tracker_down {
        return AnnounceOutcome::Failed { reason: "connection refused".into(), retry: None };
    }
    let listed = world.nodes.iter().filter(|node| node.listed && event != AnnounceEvent::Stopped);
    let mut peers: Vec<SocketAddr> = listed.map(|node| node.addr).collect();
    if peers.len() > numwant {
        // As trackers do: some, drawn anew for each.
        world.rng.shuffle(&mut peers);
        peers.truncate(numwant);
    }
    AnnounceOutcome::Answered {
        interval: Some(Duration::from_secs(1800)),
        min_interval: None,
        // Ourselves included: the engine has to notice.
        peers,
        complete: Some(1),
        incomplete: Some(1),
        downloaded: None,
        warning: None,
        external_ip: None,
        tracker_id: None,
    }
}

/// The rules of the protocol and of the design, from what the engine has been told.
fn judge(world: &mut World, node: usize, peer: PeerKey, message: &Message) {
    let (now, layout, elapsed) = (world.now, world.content.layout.clone(), world.elapsed());
    let engine = world.engine_mut(node);
    let line = engine.peers.get_mut(&peer).unwrap_or_else(|| panic!("{message:?} to a closed connection"));
    match message {
        Message::Request(request) => {
            let block = layout.block_ref(request.piece, request.begin, request.length);
            let block = block.unwrap_or_else(|| panic!("{request:?} is out of range"));
            assert!(block.length <= 16 * 1024 && block.begin % (16 * 1024) == 0, "{request:?} is no block");
            let allowed = !line.peer_chokes || line.fast_in.contains(&request.piece);
            assert!(allowed, "{request:?} to a peer that chokes us, at {elapsed:?}");
            assert!(line.we_want, "{request:?} without interest, at {elapsed:?}");
            assert!(line.peer_has.has(block.piece), "{request:?} of a piece that the peer lacks");
            assert!(!engine.disk.has(block.piece), "{request:?} of a piece that we have");
            // Again after 20 s, or when the peer has plainly passed it over (it sent others meanwhile), or when it has
            // answered nothing at all for 20 s.
            let patience = Duration::from_secs(20);
            let passed_over = |at: Instant| line.last_block.is_some_and(|last| last > at + Duration::from_millis(500));
            let silent = line.asked.values().min().is_some_and(|&first| {
                now - first >= patience && line.last_block.is_none_or(|last| now - last >= patience)
            });
            let before = line.asked.insert(key_of(request), now);
            let patient = before.is_none_or(|at| now - at >= patience || silent || passed_over(at));
            assert!(patient, "{request:?} twice at a time, at {elapsed:?}");
            line.requests += 1;
            engine.requests_sent += 1;
        }
        Message::Cancel(request) => {
            line.asked.remove(&key_of(request));
        }
        Message::Interested => {
            assert!(!std::mem::replace(&mut line.we_want, true), "interested twice");
            line.interest_changes += 1;
        }
        Message::NotInterested => {
            assert!(std::mem::replace(&mut line.we_want, false), "not interested twice");
            line.interest_changes += 1;
        }
        Message::Choke => line.we_choke = true,
        Message::Unchoke => line.we_choke = false,
        Message::AllowedFast(piece) => {
            line.fast_out.insert(*piece);
        }
        Message::Have(piece) => {
            let piece = layout.piece(*piece).expect("have is in range");
            assert!(engine.disk.keeps(piece), "I1: have of a piece that is not there, or not for long");
        }
        Message::Bitfield(bits) => {
            let bits = Bitfield::from_wire(bits, layout.piece_count()).expect("our bitfield is well formed");
            assert!(bits.iter().all(|piece| engine.disk.keeps(piece)), "I1: a bitfield that claims too much");
        }
        Message::HaveAll => assert!(engine.disk.present().is_full(), "I1: have-all that claims too much"),
        Message::HaveNone | Message::KeepAlive | Message::Extended { .. } | Message::Reject(_) => {}
        other => panic!("the engine sends {other:?}"),
    }
    if !matches!(message, Message::Request(_) | Message::Have(_)) {
        engine.control_sent += 1;
    }
}

/// The peer task's choke: what is queued is dropped, or rejected.
fn drop_uploads(world: &mut World, node: usize, peer: PeerKey) {
    let Some(line) = world.engine(node).peers.get(&peer) else { return };
    let (connection, side, fast, kept) = (line.connection, line.side, line.fast, line.fast_out.clone());
    let Some(queue) = world.nodes[node].uploads.get_mut(&connection) else { return };
    let (stay, go): (Vec<_>, Vec<_>) = queue.drain(..).partition(|request| fast && kept.contains(&request.piece));
    queue.extend(stay);
    for request in go.into_iter().filter(|_| fast) {
        world.send(connection, side, Message::Reject(request));
    }
}

pub fn connected(world: &mut World, node: usize, connection: usize, side: usize, key: PeerKey, connected: Connected) {
    let pieces = world.content.layout.piece_count();
    let line = Line {
        connection,
        side,
        addr: connected.addr,
        fast: connected.fast,
        we_choke: true,
        we_want: false,
        fast_out: BTreeSet::new(),
        peer_chokes: true,
        peer_has: Bitfield::new(pieces),
        fast_in: BTreeSet::new(),
        asked: BTreeMap::new(),
        last_block: None,
        requests: 0,
        blocks: 0,
        interest_changes: 0,
        since: world.now,
    };
    world.engine_mut(node).peers.insert(key, line);
    step(world, node, |torrent, now| torrent.handle_connected(now, key, connected));
}

pub fn disconnected(world: &mut World, node: usize, key: PeerKey) {
    if let Some(line) = world.engine_mut(node).peers.remove(&key) {
        line.check_manners(world.now);
        step(world, node, |torrent, now| torrent.handle_disconnected(now, key));
    }
}

pub fn dial_failed(world: &mut World, node: usize, addr: SocketAddr, failure: DialFailure) {
    if let Kind::Engine(_) = world.nodes[node].kind {
        step(world, node, |torrent, now| torrent.handle_dial_failed(now, addr, failure));
    }
}

/// A message has arrived: requests are the peer task's business, the rest is the engine's.
pub fn received(world: &mut World, node: usize, connection: usize, message: Message) {
    let pieces = world.content.layout.piece_count();
    let layout = world.content.layout.clone();
    let now = world.now;
    let engine = world.engine_mut(node);
    let Some((&key, line)) = engine.peers.iter_mut().find(|(_, line)| line.connection == connection) else { return };
    match &message {
        Message::Request(request) => {
            let (request, side) = (*request, line.side);
            let allowed = !line.we_choke || line.fast && line.fast_out.contains(&request.piece);
            let fast = line.fast;
            let block = layout.block_ref(request.piece, request.begin, request.length);
            let present = block.is_some_and(|block| engine.disk.has(block.piece));
            if allowed && present {
                world.queue_upload(node, connection, request);
            } else if fast {
                world.send(connection, side, Message::Reject(request));
            }
            return step(world, node, |torrent, now| torrent.handle_peer_events(now, key, [PeerEvent::Requested]));
        }
        Message::Cancel(request) => {
            let side = line.side;
            let fast = line.fast;
            let queue = world.nodes[node].uploads.get_mut(&connection);
            let found = queue.and_then(|queue| {
                let at = queue.iter().position(|other| other == request)?;
                queue.remove(at)
            });
            if fast && found.is_some() {
                world.send(connection, side, Message::Reject(*request));
            }
            return;
        }
        Message::Choke => {
            line.peer_chokes = true;
            line.asked.clear();
        }
        Message::Unchoke => line.peer_chokes = false,
        Message::AllowedFast(piece) => {
            line.fast_in.insert(*piece);
        }
        Message::Have(piece) => {
            if let Some(piece) = layout.piece(*piece) {
                line.peer_has.set(piece);
            }
        }
        Message::HaveAll => line.peer_has = Bitfield::full(pieces),
        Message::Bitfield(bits) => {
            if let Some(bits) = Bitfield::from_wire(bits, pieces) {
                line.peer_has = bits;
            }
        }
        Message::Reject(request) => {
            line.asked.remove(&key_of(request));
        }
        Message::Piece { piece, begin, data } => {
            line.asked.remove(&(*piece, *begin, data.len() as u32));
            line.blocks += 1;
            line.last_block = Some(now);
            engine.blocks_received += 1;
        }
        _ => {}
    }
    step(world, node, |torrent, now| torrent.handle_peer_events(now, key, [PeerEvent::Message(message)]));
}

/// The uplink is free: the bytes of a block that a peer asked for, read from disk.
pub fn upload(world: &mut World, node: usize, connection: usize, request: BlockRequest) -> Option<Bytes> {
    let block = world.content.layout.block_ref(request.piece, request.begin, request.length)?;
    let data = world.content.block(request.piece, request.begin, request.length)?;
    let engine = world.engine_mut(node);
    assert!(engine.disk.has(block.piece), "I1: only verified pieces are uploaded");
    let (&key, _) = engine.peers.iter().find(|(_, line)| line.connection == connection)?;
    let bytes = data.len() as u64;
    step(world, node, |torrent, now| torrent.handle_peer_events(now, key, [PeerEvent::Uploaded { bytes }]));
    Some(data)
}
