//! Peers of a known character: seeds with libtorrent's rules, slow ones, liars, dead ones, and a leecher that only takes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use btfs::base::Bitfield;
use btfs::proto::wire::{BlockRequest, Message};
use bytes::Bytes;

use crate::content::Content;
use crate::world::{Kind, World};

/// What a scripted peer is like; the default is an honest seed with libtorrent's rules.
#[derive(Debug, Clone)]
pub struct Behaviour {
    /// Pieces that it has; `None`: all.
    pub have: Option<Bitfield>,
    pub fast: bool,
    /// Upload slots, ranked every `round`.
    pub slots: usize,
    pub round: Duration,
    /// Other leechers that compete for the slots.
    pub rivals: usize,
    /// An unchoked, interested peer that asks for nothing for so long is dropped.
    pub drop_idle: Option<Duration>,
    pub max_connections: usize,
    /// Before each block.
    pub delay: Duration,
    /// Part of the blocks that are wrong.
    pub poison: f64,
    /// What happens to requests.
    pub rejects: Some_,
    pub ignores: Some_,
    /// Chokes after so many blocks, for so long.
    pub choke_after: Option<(u64, Duration)>,
    pub never_unchokes: bool,
    pub allowed_fast: Vec<u32>,
    /// Takes and never gives.
    pub leech: bool,
}

/// Which of many.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Some_ {
    None,
    All,
    First(u64),
    After(u64),
    Part(f64),
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            have: None,
            fast: true,
            slots: 8,
            round: Duration::from_secs(15),
            rivals: 0,
            drop_idle: Some(Duration::from_secs(60)),
            max_connections: 200,
            delay: Duration::ZERO,
            poison: 0.0,
            rejects: Some_::None,
            ignores: Some_::None,
            choke_after: None,
            never_unchokes: false,
            allowed_fast: Vec::new(),
            leech: false,
        }
    }
}

pub struct Script {
    pub behaviour: Behaviour,
    lines: BTreeMap<usize, Line>,
    rivals: Vec<Slot>,
    pub requests: u64,
    pub blocks: u64,
    pub drops: u64,
    pub received: u64,
}

/// Somebody who wants a slot: a connection, or a rival that exists as numbers only.
#[derive(Debug, Clone, Default)]
struct Slot {
    unchoked: bool,
    last_unchoke: Option<Instant>,
    sent_since_unchoke: u64,
    sent_in_round: u64,
}

struct Line {
    side: usize,
    interested: bool,
    slot: Slot,
    last_request: Instant,
    blocks_until_choke: u64,
    /// For a leecher: what the other has, and what is asked.
    other_has: BTreeSet<u32>,
    wanted: VecDeque<BlockRequest>,
    asked: usize,
}

impl Script {
    pub fn accepts(&self) -> bool {
        self.lines.len() < self.behaviour.max_connections
    }

    /// The bytes that it sends for a request.
    pub fn block(&mut self, content: &Content, rng: &mut fastrand::Rng, request: BlockRequest) -> Option<Bytes> {
        let data = content.block(request.piece, request.begin, request.length)?;
        self.blocks += 1;
        if self.behaviour.poison > 0.0 && rng.f64() < self.behaviour.poison {
            let mut wrong = data.to_vec();
            let at = rng.usize(..wrong.len());
            wrong[at] ^= 0xff;
            return Some(wrong.into());
        }
        Some(data)
    }

    /// Who gets a slot, best first, as libtorrent's round-robin choker ranks when seeding.
    fn rank(&mut self, now: Instant) -> Vec<(usize, bool)> {
        let quota = 20 * 64 * 1024;
        let lines =
            self.lines.iter().filter(|(_, line)| line.interested).map(|(&id, line)| (Some(id), line.slot.clone()));
        let rivals = self.rivals.iter().enumerate().map(|(at, slot)| (None, at, slot.clone()));
        let mut all: Vec<(Option<usize>, usize, Slot)> =
            lines.map(|(id, slot)| (id, usize::MAX, slot)).chain(rivals).collect();
        all.sort_by_key(|(_, _, slot)| {
            let long = slot.last_unchoke.is_some_and(|at| now - at > Duration::from_secs(60));
            let sated = slot.unchoked && slot.sent_since_unchoke > quota && long;
            let rate = if slot.unchoked { slot.sent_in_round } else { 0 };
            (sated, std::cmp::Reverse(rate), slot.last_unchoke)
        });
        let mut changes = Vec::new();
        for (place, (line, rival, _)) in all.into_iter().enumerate() {
            let unchoke = place < self.behaviour.slots;
            let slot = match line {
                Some(id) => &mut self.lines.get_mut(&id).expect("listed above").slot,
                None => &mut self.rivals[rival],
            };
            if unchoke && !slot.unchoked {
                slot.last_unchoke = Some(now);
                slot.sent_since_unchoke = 0;
            }
            if unchoke != slot.unchoked {
                changes.extend(line.map(|id| (id, unchoke)));
            }
            slot.unchoked = unchoke;
            slot.sent_in_round = 0;
        }
        for (&id, line) in self.lines.iter_mut().filter(|(_, line)| !line.interested && line.slot.unchoked) {
            line.slot.unchoked = false;
            changes.push((id, false));
        }
        // A rival takes what its slot gives.
        let taken = self.behaviour.round.as_secs() * 100_000;
        for rival in self.rivals.iter_mut().filter(|rival| rival.unchoked) {
            rival.sent_in_round += taken;
            rival.sent_since_unchoke += taken;
        }
        changes
    }
}

impl World {
    pub fn add_script(&mut self, behaviour: Behaviour) -> usize {
        let rivals = vec![Slot::default(); behaviour.rivals];
        let round = behaviour.round;
        let script =
            Script { behaviour, lines: BTreeMap::new(), rivals, requests: 0, blocks: 0, drops: 0, received: 0 };
        let node = self.add_node(Kind::Script(Box::new(script)));
        // Rounds of different seeds do not coincide.
        let phase = Duration::from_millis(self.rng.u64(..round.as_millis() as u64));
        self.after(phase, move |world| a_round(world, node));
        node
    }

    pub fn script(&self, node: usize) -> &Script {
        match &self.nodes[node].kind {
            Kind::Script(script) => script,
            Kind::Engine(_) => panic!("node {node} is an engine"),
        }
    }

    pub fn script_mut(&mut self, node: usize) -> &mut Script {
        match &mut self.nodes[node].kind {
            Kind::Script(script) => script,
            Kind::Engine(_) => panic!("node {node} is an engine"),
        }
    }
}

fn a_round(world: &mut World, node: usize) {
    let now = world.now;
    let round = world.script(node).behaviour.round;
    if world.nodes[node].online {
        let script = world.script_mut(node);
        if !script.behaviour.never_unchokes && !script.behaviour.leech {
            for (line, unchoke) in script.rank(now) {
                set_choke(world, node, line, !unchoke);
            }
        }
        drop_idle(world, node);
    }
    world.after(round, move |world| a_round(world, node));
}

fn drop_idle(world: &mut World, node: usize) {
    let now = world.now;
    let Some(limit) = world.script(node).behaviour.drop_idle else { return };
    let idle: Vec<(usize, usize)> = world
        .script(node)
        .lines
        .iter()
        .filter(|(_, line)| line.interested && line.slot.unchoked)
        .filter(|(id, _)| world.nodes[node].uploads.get(id).is_none_or(VecDeque::is_empty))
        .filter(|(_, line)| now - line.last_request.max(line.slot.last_unchoke.unwrap_or(now)) > limit)
        .map(|(&id, line)| (id, line.side))
        .collect();
    for (line, side) in idle {
        world.script_mut(node).drops += 1;
        world.script_mut(node).lines.remove(&line);
        world.close(line, side);
    }
}

fn set_choke(world: &mut World, node: usize, connection: usize, choke: bool) {
    let now = world.now;
    let Some(line) = world.script_mut(node).lines.get_mut(&connection) else { return };
    line.slot.unchoked = !choke;
    let side = line.side;
    if !choke {
        line.slot.last_unchoke = Some(now);
        line.slot.sent_since_unchoke = 0;
        return world.send(connection, side, Message::Unchoke);
    }
    world.send(connection, side, Message::Choke);
    let fast = world.connections[connection].fast;
    let dropped = world.nodes[node].uploads.remove(&connection).unwrap_or_default();
    for request in dropped.into_iter().filter(|_| fast) {
        world.send(connection, side, Message::Reject(request));
    }
}

pub fn connected(world: &mut World, node: usize, connection: usize) {
    let now = world.now;
    let side = usize::from(world.connections[connection].nodes[1] == node);
    let fast = world.connections[connection].fast;
    let script = world.script_mut(node);
    let behaviour = script.behaviour.clone();
    let line = Line {
        side,
        interested: false,
        slot: Slot::default(),
        last_request: now,
        blocks_until_choke: behaviour.choke_after.map_or(0, |(blocks, _)| blocks),
        other_has: BTreeSet::new(),
        wanted: VecDeque::new(),
        asked: 0,
    };
    script.lines.insert(connection, line);
    let pieces = world.content.layout.piece_count();
    let have = match behaviour.have {
        _ if behaviour.leech => Bitfield::new(pieces),
        Some(have) => have,
        None => Bitfield::full(pieces),
    };
    let first = match (have.count(), fast) {
        (0, true) => Message::HaveNone,
        (_, true) if have.is_full() => Message::HaveAll,
        _ => Message::Bitfield(have.as_wire().to_vec().into()),
    };
    world.send(connection, side, first);
    for piece in behaviour.allowed_fast.into_iter().filter(|_| fast) {
        world.send(connection, side, Message::AllowedFast(piece));
    }
    if behaviour.leech {
        world.send(connection, side, Message::Interested);
    }
}

pub fn disconnected(world: &mut World, node: usize, connection: usize) {
    world.script_mut(node).lines.remove(&connection);
}

pub fn received(world: &mut World, node: usize, connection: usize, message: Message) {
    let now = world.now;
    let layout = world.content.layout.clone();
    let script = world.script_mut(node);
    let (slots, leech) = (script.behaviour.slots, script.behaviour.leech);
    let taken = script.lines.values().filter(|line| line.slot.unchoked && line.interested).count()
        + script.rivals.iter().filter(|rival| rival.unchoked).count();
    let free = script.rivals.len() + taken < slots || script.rivals.is_empty() && taken < slots;
    let never = script.behaviour.never_unchokes;
    let Some(line) = script.lines.get_mut(&connection) else { return };
    match message {
        Message::Interested => {
            line.interested = true;
            if free && !line.slot.unchoked && !never {
                set_choke(world, node, connection, false);
            }
        }
        Message::NotInterested => line.interested = false,
        Message::Request(request) => {
            line.last_request = now;
            requested(world, node, connection, request);
        }
        Message::Cancel(request) => {
            let side = line.side;
            let found = world.nodes[node].uploads.get_mut(&connection).and_then(|queue| {
                let at = queue.iter().position(|other| *other == request)?;
                queue.remove(at)
            });
            if found.is_some() && world.connections[connection].fast {
                world.send(connection, side, Message::Reject(request));
            }
        }
        Message::Have(piece) if leech => {
            line.other_has.insert(piece);
            want(&layout, line, piece);
        }
        Message::HaveAll if leech => (0..layout.piece_count() as u32).for_each(|piece| want(&layout, line, piece)),
        Message::Bitfield(bits) if leech => {
            let bits = Bitfield::from_wire(&bits, layout.piece_count()).expect("checked by the referee");
            bits.iter().for_each(|piece| want(&layout, line, piece.raw()));
        }
        Message::Unchoke if leech => line.slot.unchoked = true,
        Message::Choke if leech => {
            line.slot.unchoked = false;
            line.asked = 0;
        }
        Message::Piece { .. } if leech => {
            line.asked = line.asked.saturating_sub(1);
            script.received += 1;
        }
        _ => {}
    }
    if leech {
        take(world, node, connection);
    }
}

fn requested(world: &mut World, node: usize, connection: usize, request: BlockRequest) {
    let chance = world.rng.f64();
    let script = world.script_mut(node);
    script.requests += 1;
    let count = script.requests;
    let hit = |some: Some_| match some {
        Some_::None => false,
        Some_::All => true,
        Some_::First(first) => count <= first,
        Some_::After(first) => count > first,
        Some_::Part(part) => chance < part,
    };
    let behaviour = script.behaviour.clone();
    let Some(line) = script.lines.get_mut(&connection) else { return };
    let side = line.side;
    let unchoked = line.slot.unchoked || behaviour.allowed_fast.contains(&request.piece);
    if !unchoked || hit(behaviour.rejects) {
        if world.connections[connection].fast {
            world.send(connection, side, Message::Reject(request));
        }
        return;
    }
    if hit(behaviour.ignores) {
        return;
    }
    line.slot.sent_in_round += u64::from(request.length);
    line.slot.sent_since_unchoke += u64::from(request.length);
    if behaviour.delay.is_zero() {
        return world.queue_upload(node, connection, request);
    }
    world.after(behaviour.delay, move |world| {
        if world.script(node).lines.get(&connection).is_some_and(|line| line.slot.unchoked) {
            world.queue_upload(node, connection, request);
        }
    });
}

/// A block has left.
pub fn sent(world: &mut World, node: usize, connection: usize) {
    let script = world.script_mut(node);
    let Some((blocks, pause)) = script.behaviour.choke_after else { return };
    let Some(line) = script.lines.get_mut(&connection) else { return };
    line.blocks_until_choke = line.blocks_until_choke.saturating_sub(1);
    if line.blocks_until_choke == 0 {
        line.blocks_until_choke = blocks;
        set_choke(world, node, connection, true);
        world.after(pause, move |world| set_choke(world, node, connection, false));
    }
}

fn want(layout: &btfs::base::Layout, line: &mut Line, piece: u32) {
    let Some(piece) = layout.piece(piece) else { return };
    line.wanted.extend(
        (0..layout.block_count(piece)).filter_map(|number| layout.block(piece, number)).map(|block| BlockRequest {
            piece: block.piece.raw(),
            begin: block.begin,
            length: block.length,
        }),
    );
}

/// The leecher keeps a few requests under way.
fn take(world: &mut World, node: usize, connection: usize) {
    let Some(line) = world.script_mut(node).lines.get_mut(&connection) else { return };
    let side = line.side;
    let mut requests = Vec::new();
    while line.slot.unchoked && line.asked < 8 {
        let Some(request) = line.wanted.pop_front() else { break };
        line.asked += 1;
        requests.push(request);
    }
    for request in requests {
        world.send(connection, side, Message::Request(request));
    }
}
