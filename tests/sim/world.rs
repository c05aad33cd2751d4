//! Virtual time and virtual links: one agenda of events, nodes joined by connections with latency and rates.
//!
//! Nothing here knows the protocol's rules; [`node`](crate::node) drives engines, [`script`](crate::script) plays
//! peers of a known character. Equal seeds give equal runs.

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use btfs::base::PeerId;
use btfs::engine::{Connected, DialFailure, PeerKey};
use btfs::proto::wire::{BlockRequest, Message};

use crate::content::Content;
use crate::node::EngineNode;
use crate::script::Script;

pub type Action = Box<dyn FnOnce(&mut World)>;

/// Everything there is.
pub struct World {
    pub now: Instant,
    pub start: Instant,
    sequence: u64,
    agenda: BTreeMap<(Instant, u64), Action>,
    pub nodes: Vec<Node>,
    pub connections: Vec<Connection>,
    pub content: Content,
    pub rng: fastrand::Rng,
    /// The tracker fails every announce.
    pub tracker_down: bool,
    pub announces: Vec<(Instant, usize, btfs::engine::AnnounceEvent)>,
    /// A digest of everything that was delivered, to compare runs.
    pub trace: u64,
    pub steps: u64,
    /// More than these are a storm.
    pub most_steps: u64,
    /// Every message is printed: `SIM_TRACE=1`, for one scenario at a time.
    talkative: bool,
    /// What waits for a partition of the net to end, in the order in which it would have arrived.
    pub held: Vec<Action>,
}

/// One host.
pub struct Node {
    pub addr: SocketAddr,
    pub peer_id: PeerId,
    /// One way, to the middle of the net.
    pub latency: Duration,
    pub up_bytes_per_second: u64,
    pub down_bytes_per_second: u64,
    pub online: bool,
    /// Told to others by the tracker.
    pub listed: bool,
    /// In which part of the net it is; nothing passes between parts.
    pub part: u8,
    suspended: bool,
    backlog: Vec<Action>,
    up_free: Instant,
    down_free: Instant,
    pumping: bool,
    /// Blocks asked by peers, by connection; served in turns.
    pub uploads: BTreeMap<usize, VecDeque<BlockRequest>>,
    last_served: usize,
    pub kind: Kind,
    next_key: u64,
}

pub enum Kind {
    Engine(Box<EngineNode>),
    Script(Box<Script>),
}

/// A TCP connection: side 0 dialled, side 1 was dialled.
pub struct Connection {
    pub nodes: [usize; 2],
    pub keys: [PeerKey; 2],
    pub open: [bool; 2],
    last_arrival: [Instant; 2],
    last_delivery: [Instant; 2],
    /// Both ends speak the fast extension.
    pub fast: bool,
}

impl World {
    pub fn new(seed: u64, content: Content) -> Self {
        let now = Instant::now();
        Self {
            now,
            start: now,
            sequence: 0,
            agenda: BTreeMap::new(),
            nodes: Vec::new(),
            connections: Vec::new(),
            content,
            rng: fastrand::Rng::with_seed(seed),
            tracker_down: false,
            announces: Vec::new(),
            trace: seed,
            steps: 0,
            most_steps: MAX_STEPS,
            talkative: std::env::var_os("SIM_TRACE").is_some(),
            held: Vec::new(),
        }
    }

    pub fn add_node(&mut self, kind: Kind) -> usize {
        let index = self.nodes.len();
        let mut id = *b"-SM0001-............";
        id[12..].copy_from_slice(&(index as u64).to_be_bytes());
        self.nodes.push(Node {
            addr: SocketAddr::new(Ipv4Addr::from_bits(FIRST_ADDR + index as u32).into(), 6881),
            peer_id: PeerId(id),
            latency: Duration::from_millis(20),
            up_bytes_per_second: 1 << 20,
            down_bytes_per_second: 8 << 20,
            online: true,
            listed: true,
            part: 0,
            suspended: false,
            backlog: Vec::new(),
            up_free: self.now,
            down_free: self.now,
            pumping: false,
            uploads: BTreeMap::new(),
            last_served: 0,
            kind,
            next_key: 1,
        });
        index
    }

    /// Since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    pub fn after(&mut self, delay: Duration, action: impl FnOnce(&mut World) + 'static) {
        self.at(self.now + delay, Box::new(action));
    }

    pub fn at(&mut self, when: Instant, action: Action) {
        self.sequence += 1;
        self.agenda.insert((when.max(self.now), self.sequence), action);
    }

    /// Runs until the agenda is past `duration` from now.
    pub fn run_for(&mut self, duration: Duration) {
        self.run_until(duration, |_| false);
    }

    /// Runs until `done`, at most for `limit`; whether it was done in time.
    pub fn run_until(&mut self, limit: Duration, done: impl Fn(&World) -> bool) -> bool {
        let end = self.now + limit;
        while !done(self) {
            match self.agenda.first_key_value() {
                Some((&(when, _), _)) if when <= end => {}
                _ => {
                    self.now = end;
                    return done(self);
                }
            }
            let ((when, _), action) = self.agenda.pop_first().expect("seen above");
            assert!(when >= self.now, "I8: time goes forward");
            self.now = when;
            self.steps += 1;
            assert!(self.steps < self.most_steps, "a storm: {} events in {:?}", self.steps, self.elapsed());
            action(self);
        }
        true
    }

    /// Runs an action of a node now, or when its process goes on.
    pub fn for_node(&mut self, node: usize, action: Action) {
        if self.nodes[node].suspended {
            self.nodes[node].backlog.push(action);
        } else {
            action(self);
        }
    }

    /// SIGSTOP and, after a while, SIGCONT.
    pub fn suspend(&mut self, node: usize, time: Duration) {
        self.nodes[node].suspended = true;
        self.after(time, move |world| {
            world.nodes[node].suspended = false;
            for action in std::mem::take(&mut world.nodes[node].backlog) {
                action(world);
            }
        });
    }

    /// The host is gone: every connection breaks, dials fail.
    pub fn take_down(&mut self, node: usize) {
        self.nodes[node].online = false;
        for index in 0..self.connections.len() {
            if let Some(side) = self.connections[index].nodes.iter().position(|&other| other == node) {
                self.reset(index, side);
            }
        }
    }

    pub fn bring_up(&mut self, node: usize) {
        self.nodes[node].online = true;
    }

    /// A connection dies: both ends notice.
    pub fn reset(&mut self, connection: usize, first: usize) {
        for side in [first, 1 - first] {
            if self.connections[connection].open[side] {
                self.connections[connection].open[side] = false;
                let node = self.connections[connection].nodes[side];
                self.after(Duration::from_millis(1), move |world| {
                    world.for_node(node, Box::new(move |world| world.ended(connection, side)));
                });
            }
        }
    }

    /// One end closes; the other notices when everything sent before has arrived.
    pub fn close(&mut self, connection: usize, side: usize) {
        let this = &mut self.connections[connection];
        if !std::mem::replace(&mut this.open[side], false) {
            return;
        }
        let node = this.nodes[side];
        let other = this.nodes[1 - side];
        let arrival = this.last_arrival[side].max(self.now + self.nodes[node].latency + self.nodes[other].latency);
        self.nodes[node].uploads.remove(&connection);
        self.at(arrival, Box::new(move |world| world.end_arrives(connection, side)));
    }

    /// The end that one side has made of a connection gets to the other.
    fn end_arrives(&mut self, connection: usize, side: usize) {
        if self.is_cut(connection) {
            return self.held.push(Box::new(move |world| world.end_arrives(connection, side)));
        }
        let other = self.connections[connection].nodes[1 - side];
        self.for_node(
            other,
            Box::new(move |world| {
                let drained = world.connections[connection].last_delivery[side];
                world.at(drained, Box::new(move |world| world.finished(connection, 1 - side)));
            }),
        );
    }

    /// The other end has closed.
    fn finished(&mut self, connection: usize, side: usize) {
        if std::mem::replace(&mut self.connections[connection].open[side], false) {
            self.ended(connection, side);
        }
    }

    fn ended(&mut self, connection: usize, side: usize) {
        let node = self.connections[connection].nodes[side];
        let key = self.connections[connection].keys[side];
        self.nodes[node].uploads.remove(&connection);
        match &self.nodes[node].kind {
            Kind::Engine(_) => crate::node::disconnected(self, node, key),
            Kind::Script(_) => crate::script::disconnected(self, node, connection),
        }
    }

    /// A node dials an address.
    pub fn dial(&mut self, from: usize, addr: SocketAddr) {
        let to = self.nodes.iter().position(|node| node.addr == addr);
        let Some(to) = to.filter(|&to| self.nodes[to].online && self.nodes[to].part == self.nodes[from].part) else {
            // Nobody there: as long as a TCP connect is allowed to take.
            return self.after(Duration::from_secs(5), move |world| {
                world.for_node(
                    from,
                    Box::new(move |world| crate::node::dial_failed(world, from, addr, DialFailure::Unreachable)),
                );
            });
        };
        let round_trip = (self.nodes[from].latency + self.nodes[to].latency) * 2;
        self.after(round_trip, move |world| {
            world.for_node(to, Box::new(move |world| world.accept(from, to)));
        });
    }

    fn accept(&mut self, from: usize, to: usize) {
        let addr = self.nodes[to].addr;
        let accepts = match &self.nodes[to].kind {
            Kind::Engine(_) => true,
            Kind::Script(script) => script.accepts(),
        };
        if !accepts || !self.nodes[to].online || !self.nodes[from].online {
            return self.for_node(
                from,
                Box::new(move |world| crate::node::dial_failed(world, from, addr, DialFailure::Unreachable)),
            );
        }
        let index = self.connections.len();
        let keys = [self.next_key(from), self.next_key(to)];
        let fast = [from, to].iter().all(|&node| match &self.nodes[node].kind {
            Kind::Engine(_) => true,
            Kind::Script(script) => script.behaviour.fast,
        });
        let (last_arrival, last_delivery) = ([self.now; 2], [self.now; 2]);
        let nodes = [from, to];
        self.connections.push(Connection { nodes, keys, open: [true; 2], last_arrival, last_delivery, fast });
        for side in [0, 1] {
            let node = self.connections[index].nodes[side];
            self.for_node(node, Box::new(move |world| world.established(index, side)));
        }
    }

    fn established(&mut self, connection: usize, side: usize) {
        let this = &self.connections[connection];
        if !this.open[side] {
            return;
        }
        let (node, other, key, fast) = (this.nodes[side], this.nodes[1 - side], this.keys[side], this.fast);
        let mut addr = self.nodes[other].addr;
        if side == 1 {
            addr.set_port(40_000 + (connection % 20_000) as u16);
        }
        let connected = Connected {
            addr,
            outgoing: side == 0,
            peer_id: self.nodes[other].peer_id,
            fast,
            extended: matches!(self.nodes[other].kind, Kind::Engine(_)),
            opening: None,
        };
        match &self.nodes[node].kind {
            Kind::Engine(_) => crate::node::connected(self, node, connection, side, key, connected),
            Kind::Script(_) => crate::script::connected(self, node, connection),
        }
    }

    fn next_key(&mut self, node: usize) -> PeerKey {
        self.nodes[node].next_key += 1;
        PeerKey(self.nodes[node].next_key)
    }

    /// Sends a small message.
    pub fn send(&mut self, connection: usize, side: usize, message: Message) {
        self.transmit(connection, side, message, self.now);
    }

    fn transmit(&mut self, connection: usize, side: usize, message: Message, departure: Instant) {
        let this = &mut self.connections[connection];
        if !this.open[side] {
            return;
        }
        let (from, to) = (this.nodes[side], this.nodes[1 - side]);
        let arrival = departure + self.nodes[from].latency + self.nodes[to].latency;
        // In order within a connection.
        let arrival = arrival.max(this.last_arrival[side]);
        this.last_arrival[side] = arrival;
        self.at(arrival, Box::new(move |world| world.arrive(connection, side, message)));
    }

    /// The last link: blocks share the receiver's bandwidth in the order in which they get there.
    fn arrive(&mut self, connection: usize, side: usize, message: Message) {
        if self.is_cut(connection) {
            return self.held.push(Box::new(move |world| world.arrive(connection, side, message)));
        }
        let this = &mut self.connections[connection];
        let to = this.nodes[1 - side];
        let mut delivery = self.now;
        if let Message::Piece { data, .. } = &message {
            let receiver = &mut self.nodes[to];
            receiver.down_free =
                receiver.down_free.max(self.now) + time_for(data.len(), receiver.down_bytes_per_second);
            delivery = receiver.down_free;
        }
        delivery = delivery.max(this.last_delivery[side]);
        this.last_delivery[side] = delivery;
        self.at(
            delivery,
            Box::new(move |world| {
                world.for_node(to, Box::new(move |world| world.deliver(connection, 1 - side, message)));
            }),
        );
    }

    fn deliver(&mut self, connection: usize, side: usize, message: Message) {
        if !self.connections[connection].open[side] {
            return;
        }
        let node = self.connections[connection].nodes[side];
        self.note(connection, side, &message);
        if self.talkative {
            let from = self.connections[connection].nodes[1 - side];
            eprintln!("{:>12.3?} {from} -> {node}: {}", self.elapsed(), brief(&message));
        }
        match &self.nodes[node].kind {
            Kind::Engine(_) => crate::node::received(self, node, connection, message),
            Kind::Script(_) => crate::script::received(self, node, connection, message),
        }
    }

    /// Queues a block for upload; the uplink serves its connections in turns.
    pub fn queue_upload(&mut self, node: usize, connection: usize, request: BlockRequest) {
        self.nodes[node].uploads.entry(connection).or_default().push_back(request);
        self.pump(node);
    }

    fn pump(&mut self, node: usize) {
        let host = &mut self.nodes[node];
        if host.pumping {
            return;
        }
        host.pumping = true;
        let when = host.up_free;
        self.at(
            when,
            Box::new(move |world| {
                world.nodes[node].pumping = false;
                world.for_node(node, Box::new(move |world| world.upload_one(node)));
            }),
        );
    }

    fn upload_one(&mut self, node: usize) {
        let host = &mut self.nodes[node];
        host.uploads.retain(|_, queue| !queue.is_empty());
        let next = host.uploads.range(host.last_served + 1..).next().or(host.uploads.iter().next());
        let Some(connection) = next.map(|(&connection, _)| connection) else { return };
        host.last_served = connection;
        let Some(request) = host.uploads.get_mut(&connection).and_then(VecDeque::pop_front) else { return };
        let side = usize::from(self.connections[connection].nodes[1] == node);
        let data = match &mut self.nodes[node].kind {
            Kind::Engine(_) => crate::node::upload(self, node, connection, request),
            Kind::Script(script) => script.block(&self.content, &mut self.rng, request),
        };
        if let Some(data) = data {
            let host = &mut self.nodes[node];
            host.up_free = self.now + time_for(data.len(), host.up_bytes_per_second);
            let departure = host.up_free;
            let message = Message::Piece { piece: request.piece, begin: request.begin, data };
            self.transmit(connection, side, message, departure);
            if let Kind::Script(_) = &self.nodes[node].kind {
                crate::script::sent(self, node, connection);
            }
        }
        if self.nodes[node].uploads.values().any(|queue| !queue.is_empty()) {
            self.pump(node);
        }
    }

    fn note(&mut self, connection: usize, side: usize, message: &Message) {
        let kind = match message {
            Message::Request(request) | Message::Cancel(request) | Message::Reject(request) => {
                u64::from(request.piece) << 32 | u64::from(request.begin)
            }
            Message::Piece { piece, begin, .. } => u64::from(*piece) << 40 | u64::from(*begin),
            Message::Have(piece) => u64::from(*piece) << 8 | 1,
            Message::Choke => 2,
            Message::Unchoke => 3,
            Message::Interested => 4,
            Message::NotInterested => 5,
            _ => 6,
        };
        let word = kind ^ (connection as u64) << 48 ^ (side as u64) << 63 ^ self.elapsed().as_nanos() as u64;
        self.trace = (self.trace ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
    }
}

fn brief(message: &Message) -> String {
    match message {
        Message::Piece { piece, begin, data } => format!("Piece {piece} {begin} ({})", data.len()),
        Message::Request(request) => format!("Request {} {}", request.piece, request.begin),
        Message::Cancel(request) => format!("Cancel {} {}", request.piece, request.begin),
        Message::Reject(request) => format!("Reject {} {}", request.piece, request.begin),
        Message::Bitfield(_) => "Bitfield".into(),
        Message::Extended { id, .. } => format!("Extended {id}"),
        other => format!("{other:?}"),
    }
}

fn time_for(bytes: usize, bytes_per_second: u64) -> Duration {
    Duration::from_nanos(bytes as u64 * 1_000_000_000 / bytes_per_second.max(1))
}

/// Few scenarios need as many events.
const MAX_STEPS: u64 = 3_000_000;
/// 203.0.113.1; the tracker's own list decides who is there, no scenario looks at addresses.
const FIRST_ADDR: u32 = 0xcb00_7101;
