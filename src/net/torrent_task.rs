//! The task that owns one torrent's brain: events in, effects out, nothing clever.
//!
//! One loop: wait for something to happen, hand all of it to [`engine::Torrent`](crate::engine::Torrent), carry out what
//! it wants, flush once per peer. Never waits for a leaf: what goes to peers and to the disk goes through channels whose
//! contents the engine bounds.

mod disk;
#[cfg(test)]
mod tests;
mod trackers;

use std::collections::HashMap;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tracing::{debug, error, info, warn};

use super::dial::{self, Greeted};
use super::peer_task::{self, FromPeer, Peer};
use super::registry::Registry;
use super::torrent_handle::{PendingRead, Request, Requests};
use super::tracker_client::TrackerClient;
use crate::base::{Bitfield, PieceRange};
use crate::engine::limit::Allowance;
use crate::engine::{
    AnnounceOutcome, Announcement, Command, Config, DialFailure, DiskDone, Effect, Opening, PeerKey, Room, Scrape,
    ScrapeOutcome, Ticket, Torrent, TrackerId,
};
use crate::proto::wire::{Handshake, Message};
use crate::storage::{self, DiskPool, Lane, PieceState, Store};

/// What a torrent's task is made of.
#[derive(Debug)]
pub(super) struct TorrentParts {
    /// What the brain is told at birth.
    pub config: Config,
    /// What handles ask.
    pub requests: Requests,
    /// Connections that others opened, handshakes done.
    pub incoming: mpsc::Receiver<Greeted>,
    /// The rest.
    pub tools: Tools,
}

/// What the task works with; it outlives a brain that fails.
#[derive(Debug, Clone)]
pub(super) struct Tools {
    /// The bytes.
    pub store: Arc<Store>,
    /// The disk threads.
    pub pool: DiskPool,
    /// Our handshake for this torrent.
    pub handshake: Handshake,
    /// The address to dial from.
    pub bind: Option<IpAddr>,
    /// How much may be sent.
    pub upload: Allowance,
    /// Who announces.
    pub trackers: TrackerClient,
    /// Where outgoing connections find a place.
    pub registry: Arc<Registry>,
}

/// Runs a torrent until it is stopped or all of its handles are gone.
///
/// A bug in the brain ends its life: waiting reads fail (I5), connections close, and it is born again once, from what the
/// store has.
pub(super) async fn run(parts: TorrentParts) {
    let TorrentParts { mut config, mut requests, mut incoming, tools } = parts;
    let mut asked_to_stop = false;
    for life in 0..LIVES {
        if life > 0 {
            // Nobody was told of what is in memory alone.
            tools.store.forget_memory();
            config.have = tools.store.table().present();
            config.unchecked = unchecked(&tools.store);
        }
        let living = live(life, config.clone(), &mut requests, &mut incoming, tools.clone(), &mut asked_to_stop);
        if contain(living).await.is_ok() {
            return;
        }
        error!("the torrent's task failed by a bug: its waiting reads have failed");
        if asked_to_stop {
            break;
        }
    }
    close(&tools).await;
}

async fn live(
    life: u32,
    config: Config,
    requests: &mut Requests,
    incoming: &mut mpsc::Receiver<Greeted>,
    tools: Tools,
    asked_to_stop: &mut bool,
) {
    let (from_peers_sender, from_peers) = mpsc::channel(PEER_QUEUE);
    let (disk_sender, disk_done) = mpsc::channel(DISK_QUEUE);
    let mut task = TorrentTask {
        engine: Torrent::new(config, now(), fastrand::u64(..)),
        life,
        tools,
        reads: HashMap::new(),
        peers: HashMap::new(),
        next_peer: 0,
        spoken_to: Vec::new(),
        peer_tasks: JoinSet::new(),
        errands: JoinSet::new(),
        errand_names: HashMap::new(),
        announcing: HashMap::new(),
        hurried: None,
        dialling: 0,
        from_peers_sender,
        disk_sender,
        disk_trouble: disk::Trouble::default(),
        writes: Arc::default(),
        trackers: trackers::Trackers::default(),
        maintaining: Arc::new(AtomicBool::new(false)),
        room: Room::default(),
        turns: 0,
        stopping: None,
    };
    task.serve(requests, incoming, from_peers, disk_done, asked_to_stop).await;
    task.finish().await;
}

/// Runs a future; an error when it panics, which the panic hook has reported by then.
async fn contain(life: impl Future<Output = ()>) -> Result<(), ()> {
    let mut life = Box::pin(life);
    // Nothing that the future has left half-done is looked at again: its state dies with it.
    poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| life.as_mut().poll(context))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(())) => Poll::Ready(Ok(())),
        Err(_) => Poll::Ready(Err(())),
    })
    .await
}

fn unchecked(store: &Store) -> Bitfield {
    let mut field = Bitfield::new(store.layout().piece_count());
    for piece in store.layout().pieces().iter().filter(|&piece| store.table().state(piece) == PieceState::Unchecked) {
        field.set(piece);
    }
    field
}

/// Closes the store, on a disk thread.
async fn close(tools: &Tools) {
    let (sender, closed) = oneshot::channel();
    let store = tools.store.clone();
    tools.pool.submit(Lane::Urgent, move || {
        if let Err(error) = store.close() {
            warn!(%error, "state of the cache not written at the end");
        }
        let _ = sender.send(());
    });
    let _ = tokio::time::timeout(STOP_PATIENCE, closed).await;
}

struct TorrentTask {
    engine: Torrent,
    /// How often the brain was born before.
    life: u32,
    tools: Tools,
    reads: HashMap<Ticket, (PendingRead, PieceRange)>,
    peers: HashMap<PeerKey, Outbox>,
    next_peer: u64,
    /// Peers with something in their batch.
    spoken_to: Vec<PeerKey>,
    peer_tasks: JoinSet<()>,
    errands: JoinSet<ErrandDone>,
    errand_names: HashMap<Id, Errand>,
    /// The announces among them that are under way.
    announcing: HashMap<TrackerId, AbortHandle>,
    /// When the torrent ends: those that it waits for no longer than this, before it says `stopped`.
    hurried: Option<(Instant, Vec<AbortHandle>)>,
    dialling: usize,
    from_peers_sender: mpsc::Sender<FromPeer>,
    disk_sender: mpsc::Sender<DiskDone>,
    disk_trouble: disk::Trouble,
    writes: Arc<disk::Writes>,
    trackers: trackers::Trackers,
    maintaining: Arc<AtomicBool>,
    /// What the engine knows of the room in the cache.
    room: Room,
    turns: u64,
    /// Set when the torrent ends: no later than this.
    stopping: Option<Instant>,
}

/// The way to one peer's task.
struct Outbox {
    sender: mpsc::UnboundedSender<Vec<Message>>,
    /// What this turn wants said.
    batch: Vec<Message>,
    task: Id,
}

/// Something done on the side, by its own task.
#[derive(Debug, Clone, Copy)]
enum Errand {
    Dial(SocketAddr),
    Announce(TrackerId),
    Scrape(TrackerId),
}

/// What it came to.
enum ErrandDone {
    Dialled(Result<Greeted, DialFailure>),
    Announced(AnnounceOutcome),
    Scraped(ScrapeOutcome),
}

impl TorrentTask {
    async fn serve(
        &mut self,
        requests: &mut Requests,
        incoming: &mut mpsc::Receiver<Greeted>,
        mut from_peers: mpsc::Receiver<FromPeer>,
        mut disk_done: mpsc::Receiver<DiskDone>,
        asked_to_stop: &mut bool,
    ) {
        let mut maintenance = interval(MAINTENANCE);
        maintenance.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let timer = sleep_until(Instant::now());
        tokio::pin!(timer);
        let (mut batches, mut completions) = (Vec::new(), Vec::new());
        let mut orphaned = false;
        loop {
            self.look_for_room();
            self.carry_out();
            if self.has_ended() {
                return;
            }
            let timeout = self.timeout();
            if let Some(at) = timeout
                && timer.deadline() != at
            {
                timer.as_mut().reset(at);
            }
            // All arms are cancel-safe. Peers and the disk are taken in bounded portions, so that neither starves timers.
            tokio::select! {
                request = requests.recv(), if !orphaned => match request {
                    Some(request) => {
                        self.handle_request(request);
                        for _ in 0..MAX_PORTION {
                            let Some(request) = requests.try_recv() else { break };
                            self.handle_request(request);
                        }
                    }
                    None => {
                        orphaned = true;
                        self.stop();
                    }
                },
                _ = from_peers.recv_many(&mut batches, MAX_PORTION) => {
                    for batch in batches.drain(..) {
                        self.handle_peer(batch);
                    }
                }
                _ = disk_done.recv_many(&mut completions, MAX_PORTION) => {
                    let now = now();
                    for done in completions.drain(..) {
                        let done = disk::as_it_is_now(done, &self.tools.store);
                        // What a disk that takes nothing comes to is said by the store.
                        if self.tools.store.memory_alone().is_none() {
                            self.disk_trouble.note(now, &done);
                        }
                        self.engine.handle_disk_done(now, done);
                    }
                }
                Some(greeted) = incoming.recv() => self.greet(greeted),
                Some(done) = self.errands.join_next_with_id() => self.handle_errand(done),
                Some(done) = self.peer_tasks.join_next_with_id() => self.handle_peer_end(done),
                _ = maintenance.tick() => self.maintain(),
                () = timer.as_mut(), if timeout.is_some() => {}
            }
            *asked_to_stop = self.stopping.is_some();
            if let Some((_, late)) = self.hurried.take_if(|(until, _)| *until <= Instant::now()) {
                late.iter().for_each(AbortHandle::abort);
            }
            let now = now();
            if self.engine.poll_timeout().is_some_and(|at| at <= now) {
                self.engine.handle_timeout(now);
            }
        }
    }

    fn handle_request(&mut self, request: Request) {
        match request {
            Request::Read { reply, pieces, .. } if pieces.is_empty() => reply.answer(Ok(())),
            // Dropped replies say so.
            Request::Read { .. } if self.stopping.is_some() => {}
            Request::Read { ticket, pieces, reply } => {
                self.reads.insert(ticket, (reply, pieces));
                self.engine.handle_command(now(), Command::Read { ticket, pieces });
            }
            Request::Command(Command::Evicted(mut pieces)) => {
                // What was fetched again since is here, and the engine knows or will hear of it.
                let table = self.tools.store.table();
                pieces.retain(|&piece| matches!(table.state(piece), PieceState::Absent | PieceState::Evicting));
                self.engine.handle_command(now(), Command::Evicted(pieces));
            }
            Request::Command(Command::Stop) => self.stop(),
            Request::Command(command) => {
                if let Command::Abandon(ticket) = command
                    && let Some((read, _)) = self.reads.remove(&ticket)
                {
                    read.forget();
                }
                self.engine.handle_command(now(), command);
            }
            // A receiver that has lost patience is gone; that is its business.
            Request::Snapshot(reply) => drop(reply.try_send(self.engine.snapshot(now()))),
            #[cfg(test)]
            Request::Panic => panic!("as asked"),
        }
    }

    fn handle_peer(&mut self, batch: FromPeer) {
        match batch.events {
            Some(events) => self.engine.handle_peer_events(now(), batch.peer, events),
            None => {
                if self.peers.remove(&batch.peer).is_some() {
                    self.engine.handle_disconnected(now(), batch.peer);
                }
            }
        }
    }

    /// Ended tasks have said so before, unless they panicked.
    fn handle_peer_end(&mut self, done: Result<(Id, ()), JoinError>) {
        let Err(panic) = done else { return };
        let id = panic.id();
        error!(%panic, "a peer's task ended by a bug");
        if let Some(key) = self.peers.iter().find(|(_, outbox)| outbox.task == id).map(|(&key, _)| key) {
            self.peers.remove(&key);
            self.engine.handle_disconnected(now(), key);
        }
    }

    fn handle_errand(&mut self, done: Result<(Id, ErrandDone), JoinError>) {
        let (id, done) = match done {
            Ok((id, done)) => (id, Some(done)),
            Err(end) => {
                // We abort those only that take too long at the end.
                if !end.is_cancelled() {
                    error!(panic = %end, "an errand ended by a bug");
                }
                (end.id(), None)
            }
        };
        match (self.errand_names.remove(&id), done) {
            (Some(Errand::Dial(addr)), done) => {
                self.dialling -= 1;
                match done {
                    Some(ErrandDone::Dialled(Ok(greeted))) => self.greet(greeted),
                    Some(ErrandDone::Dialled(Err(failure))) => self.engine.handle_dial_failed(now(), addr, failure),
                    _ => self.engine.handle_dial_failed(now(), addr, DialFailure::Busy),
                }
            }
            (Some(Errand::Announce(tracker)), done) => {
                self.announcing.remove(&tracker);
                let outcome = match done {
                    Some(ErrandDone::Announced(outcome)) => outcome,
                    _ => AnnounceOutcome::Failed { reason: "internal error".to_owned(), retry: None },
                };
                // Who cannot be told that we leave is nobody's concern.
                if self.stopping.is_none() {
                    self.trackers.ended(tracker, &outcome);
                }
                self.engine.handle_announced(now(), tracker, outcome);
            }
            (Some(Errand::Scrape(tracker)), done) => {
                let outcome = match done {
                    Some(ErrandDone::Scraped(outcome)) => outcome,
                    _ => ScrapeOutcome::Failed,
                };
                self.engine.handle_scraped(now(), tracker, outcome);
            }
            (None, _) => {}
        }
    }

    /// Takes a connection whose handshakes are done.
    fn greet(&mut self, greeted: Greeted) {
        if self.stopping.is_some() {
            return;
        }
        let Greeted { stream, connected, place } = greeted;
        let key = PeerKey(self.next_peer);
        self.next_peer += 1;
        let (sender, outbox) = mpsc::unbounded_channel();
        let peer = Peer {
            key,
            fast: connected.fast,
            store: self.tools.store.clone(),
            pool: self.tools.pool.clone(),
            upload: self.tools.upload.clone(),
        };
        let inbox = self.from_peers_sender.clone();
        debug!(peer = key.0, addr = %connected.addr, outgoing = connected.outgoing, "connected");
        let task = self.peer_tasks.spawn(async move {
            let _place = place;
            peer_task::run(stream, peer, outbox, inbox).await;
        });
        self.peers.insert(key, Outbox { sender, batch: Vec::new(), task: task.id() });
        self.engine.handle_connected(now(), key, connected);
    }

    /// Carries out what the engine wants, then flushes once per peer.
    fn carry_out(&mut self) {
        while let Some(effect) = self.engine.poll_effect() {
            match effect {
                Effect::Send { peer, message } => {
                    if let Some(outbox) = self.peers.get_mut(&peer) {
                        if outbox.batch.is_empty() {
                            self.spoken_to.push(peer);
                        }
                        outbox.batch.push(message);
                    }
                }
                Effect::Close { peer, reason } => {
                    debug!(peer = peer.0, ?reason, "closing connection");
                    if let Some(outbox) = self.peers.remove(&peer)
                        && !outbox.batch.is_empty()
                    {
                        let _ = outbox.sender.send(outbox.batch);
                    }
                }
                Effect::Dial { addr, opening } => self.dial(addr, opening),
                Effect::Disk(job) => {
                    let tools = &self.tools;
                    disk::submit(job, self.life, &tools.store, &tools.pool, &self.writes, &self.disk_sender);
                }
                Effect::ReadReady(ticket) => self.answer(ticket, Ok(())),
                Effect::ReadFailed(ticket, error) => self.answer(ticket, Err(error)),
                Effect::Announce(announcement) => self.announce(announcement),
                Effect::Scrape(scrape) => self.scrape(scrape),
                Effect::Completed => info!("the torrent is complete"),
            }
        }
        self.writes.call(&self.tools.store, &self.tools.pool);
        for peer in self.spoken_to.drain(..) {
            if let Some(outbox) = self.peers.get_mut(&peer) {
                // A task that has ended says so on its own.
                let _ = outbox.sender.send(std::mem::take(&mut outbox.batch));
            }
        }
        self.turns += 1;
        if cfg!(debug_assertions) && self.turns.is_multiple_of(TURNS_PER_CHECK) {
            self.engine.check_invariants();
        }
    }

    fn answer(&mut self, ticket: Ticket, outcome: Result<(), crate::engine::ReadError>) {
        if let Some((read, pieces)) = self.reads.remove(&ticket) {
            // So that nothing is evicted between its arrival and the reader.
            let pins = outcome.is_ok().then(|| self.tools.store.table().pin(pieces)).flatten();
            read.answer_holding(outcome, pins);
        }
    }

    fn dial(&mut self, addr: SocketAddr, opening: Option<Opening>) {
        let may = self.dialling < MAX_DIALLING && self.stopping.is_none();
        let opening_place = may.then(|| self.tools.registry.opening()).flatten();
        let places = opening_place.and_then(|opening| Some((opening, self.tools.registry.outgoing()?)));
        let Some((half_open, place)) = places else {
            return self.engine.handle_dial_failed(now(), addr, DialFailure::Busy);
        };
        self.dialling += 1;
        let (handshake, bind) = (self.tools.handshake, self.tools.bind);
        let dialling = dial::dial(addr, handshake, opening, bind, place);
        let task = self.errands.spawn(async move {
            let dialled = dialling.await;
            drop(half_open);
            ErrandDone::Dialled(dialled)
        });
        self.errand_names.insert(task.id(), Errand::Dial(addr));
    }

    fn announce(&mut self, announcement: Announcement) {
        self.trackers.asked(&announcement);
        let name = Errand::Announce(announcement.tracker);
        let trackers = self.tools.trackers.clone();
        let tracker = announcement.tracker;
        let task = self.errands.spawn(async move { ErrandDone::Announced(trackers.announce(announcement).await) });
        self.errand_names.insert(task.id(), name);
        self.announcing.insert(tracker, task);
    }

    fn scrape(&mut self, scrape: Scrape) {
        let name = Errand::Scrape(scrape.tracker);
        let trackers = self.tools.trackers.clone();
        let task = self.errands.spawn(async move { ErrandDone::Scraped(trackers.scrape(scrape).await) });
        self.errand_names.insert(task.id(), name);
    }

    /// Lets the store write its journal; syncs and checkpoints fall due seconds after the last write too. What it has
    /// found altered in passing is told to the engine.
    fn maintain(&mut self) {
        for pieces in self.tools.store.take_altered() {
            self.engine.handle_command(now(), Command::Suspect(pieces));
        }
        if !self.tools.store.wants_maintenance() || self.maintaining.swap(true, Ordering::Relaxed) {
            return;
        }
        let (store, maintaining) = (self.tools.store.clone(), self.maintaining.clone());
        self.tools.pool.submit(Lane::Idle, move || {
            if let Err(error) = store.maintain() {
                warn!(%error, "state of the cache not written");
            }
            maintaining.store(false, Ordering::Relaxed);
        });
    }

    /// Tells the engine when the cache has more or less room than it was told last.
    fn look_for_room(&mut self) {
        let store = &self.tools.store;
        let room = match (store.memory_alone(), store.room()) {
            (Some(pieces), _) => Room::Memory(pieces),
            (None, storage::Room::Plenty) => Room::Plenty,
            (None, storage::Room::Tight) => Room::Tight,
            (None, storage::Room::Scarce) => Room::Scarce,
        };
        if std::mem::replace(&mut self.room, room) != room {
            debug!(?room, "room in the cache");
            self.engine.handle_command(now(), Command::Room(room));
        }
    }

    fn stop(&mut self) {
        if self.stopping.is_none() {
            self.stopping = Some(Instant::now() + STOP_PATIENCE);
            // What is being announced now comes before `stopped`, but a tracker that does not answer must not take its place.
            let under_way = self.announcing.drain().map(|(_, task)| task).collect();
            self.hurried = Some((Instant::now() + LAST_ANSWERS, under_way));
            self.engine.handle_command(now(), Command::Stop);
        }
    }

    /// Whether nothing is left to do before [`finish`](Self::finish): `stopped` was announced, or time is up.
    fn has_ended(&self) -> bool {
        self.stopping.is_some_and(|patience| {
            // Whoever is being told something else is told `stopped` when that is answered.
            let announcing = self.errand_names.values().any(|errand| matches!(errand, Errand::Announce(_)));
            !announcing || Instant::now() >= patience
        })
    }

    fn timeout(&self) -> Option<Instant> {
        let engine = self.engine.poll_timeout().map(Instant::from_std);
        let hurried = self.hurried.as_ref().map(|&(until, _)| until);
        [engine, self.stopping, hurried].into_iter().flatten().min()
    }

    /// Closes connections and the store; reads that still wait fail as their replies are dropped.
    async fn finish(mut self) {
        self.reads.clear();
        self.peers.clear();
        let _ =
            tokio::time::timeout(CLOSE_PATIENCE, async { while self.peer_tasks.join_next().await.is_some() {} }).await;
        close(&self.tools).await;
    }
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// A torrent whose brain fails is rebuilt once.
const LIVES: u32 = 2;
/// Batches from peers that wait; each holds at most what one read brought, so this bounds their memory (I7).
const PEER_QUEUE: usize = 12;
/// Completions that wait; disk threads wait for a place.
const DISK_QUEUE: usize = 256;
/// Things of one kind handled in one turn.
const MAX_PORTION: usize = 32;
/// Connections being opened at a time.
const MAX_DIALLING: usize = 50;
/// How often the store may write its journal.
const MAINTENANCE: Duration = Duration::from_secs(1);
/// `stopped` is announced for no longer than this.
const STOP_PATIENCE: Duration = Duration::from_secs(3);
/// What was being announced when the torrent ends may take so long of that.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// Peers get their last messages for no longer than this.
const CLOSE_PATIENCE: Duration = Duration::from_millis(250);
/// Debug builds check the engine's invariants once in so many turns.
const TURNS_PER_CHECK: u64 = 16;
