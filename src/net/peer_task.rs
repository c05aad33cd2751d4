//! One connection after its handshakes: bytes to batches of events, messages to bytes, and the uploads.
//!
//! Everything that one read brought becomes one message to the torrent's task; everything that one turn of that task
//! wants said is written at once. Requests are answered here: the torrent's task only says who is choked, and learns how
//! many bytes went out. Decides nothing else.

mod outgoing;
mod receive;
mod upload;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep_until};
use tracing::debug;

use self::outgoing::Outgoing;
use self::receive::Receiver;
use self::upload::Uploader;
use crate::engine::limit::Allowance;
use crate::engine::{PeerEvent, PeerKey};
use crate::proto::wire::{Message, codec};
use crate::storage::{DiskPool, StorageError, Store};

/// What a peer's task tells the torrent's.
#[derive(Debug)]
pub(super) struct FromPeer {
    /// Who.
    pub peer: PeerKey,
    /// What happened, in order; `None`: the connection has ended, nothing more comes.
    pub events: Option<Vec<PeerEvent>>,
}

/// What a connection needs to serve its peer.
#[derive(Debug)]
pub(super) struct Peer {
    /// Its name.
    pub key: PeerKey,
    /// Both sides speak the fast extension.
    pub fast: bool,
    /// Where the blocks are read.
    pub store: Arc<Store>,
    /// Who reads them when the disk has to be waited for.
    pub pool: DiskPool,
    /// How much may be sent.
    pub upload: Allowance,
}

/// Serves one connection until it ends, the torrent's task drops `outbox`, or something is wrong.
///
/// `outbox` is unbounded, so that the torrent's task never waits: it is bounded by the protocol (requests by the
/// pipeline, `have`s by the pieces) and by [`MAX_BACKLOG_BYTES`], above which the connection is given up.
pub(super) async fn run(
    stream: TcpStream,
    peer: Peer,
    mut outbox: mpsc::UnboundedReceiver<Vec<Message>>,
    inbox: mpsc::Sender<FromPeer>,
) {
    let key = peer.key;
    let mut connection = Connection::new(stream, peer);
    let end = connection.serve(&mut outbox, &inbox).await;
    debug!(peer = key.0, reason = %end, "connection ended");
    // Only a torrent that has ended does not take this.
    if let Some(uploaded) = connection.uploader.take_uploaded() {
        let _ = inbox.send(FromPeer { peer: key, events: Some(vec![uploaded]) }).await;
    }
    let _ = inbox.send(FromPeer { peer: key, events: None }).await;
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the peer closed it")]
    Closed,
    #[error("closed by us")]
    Dropped,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Wire(#[from] crate::proto::wire::WireError),
    #[error("the peer does not read")]
    Backlog,
    #[error("in the middle of an upload: {0}")]
    Storage(#[from] StorageError),
    #[error("in the middle of an upload: it could not be read")]
    Unread,
}

struct Connection {
    stream: TcpStream,
    key: PeerKey,
    receiver: Receiver,
    uploader: Uploader,
    out: Outgoing,
    /// When the last byte went out, and when last nothing was waiting to go out.
    last_write: Instant,
    /// Blocks are put into `out` up to so many bytes: more while the peer takes them fast, fewer when it is slow.
    ahead_bytes: usize,
}

impl Connection {
    fn new(stream: TcpStream, peer: Peer) -> Self {
        Self {
            stream,
            key: peer.key,
            receiver: Receiver::new(peer.store.layout().clone()),
            out: Outgoing::new(peer.store.clone(), peer.pool.clone()),
            uploader: Uploader::new(peer.fast, peer.store, peer.pool, peer.upload),
            last_write: Instant::now(),
            ahead_bytes: MIN_AHEAD_BYTES,
        }
    }

    async fn serve(
        &mut self,
        outbox: &mut mpsc::UnboundedReceiver<Vec<Message>>,
        inbox: &mpsc::Sender<FromPeer>,
    ) -> End {
        let timer = sleep_until(Instant::now() + TICK);
        tokio::pin!(timer);
        loop {
            self.uploader.fill(&mut self.out, self.ahead_bytes);
            if self.out.held_bytes() > MAX_BACKLOG_BYTES {
                return End::Backlog;
            }
            let refill = self.uploader.held_back_until();
            // All arms are cancel-safe: readiness, channels and time.
            let turn = tokio::select! {
                messages = outbox.recv() => match messages {
                    Some(messages) => {
                        self.send(&messages);
                        while let Ok(messages) = outbox.try_recv() {
                            self.send(&messages);
                        }
                        Ok(())
                    }
                    None => {
                        let _ = self.write();
                        Err(End::Dropped)
                    }
                },
                ready = self.stream.writable(), if !self.out.is_empty() && !self.out.is_reading() => match ready {
                    Ok(()) => self.write(),
                    Err(error) => Err(End::Io(error)),
                },
                ready = self.stream.readable() => match ready {
                    Ok(()) => self.read(inbox).await,
                    Err(error) => Err(End::Io(error)),
                },
                block = self.uploader.cold_block() => {
                    self.uploader.finish(block, &mut self.out);
                    Ok(())
                }
                read = self.out.read() => {
                    // It was we who kept the peer waiting.
                    self.last_write = Instant::now();
                    if read { Ok(()) } else { Err(End::Unread) }
                }
                () = async { sleep_until(refill.unwrap_or_else(Instant::now)).await }, if refill.is_some() => Ok(()),
                () = timer.as_mut() => {
                    let turn = self.tick(inbox).await;
                    timer.as_mut().reset(Instant::now() + TICK);
                    turn
                }
            };
            if let Err(end) = turn {
                return end;
            }
            self.hurry(timer.as_mut());
        }
    }

    /// Puts messages of the torrent's task into the buffer, and acts on those that concern uploads.
    fn send(&mut self, messages: &[Message]) {
        for message in messages {
            codec::encode(message, self.out.bytes());
            self.uploader.sent(message, &mut self.out);
        }
    }

    /// Reads once, and passes on what came.
    async fn read(&mut self, inbox: &mpsc::Sender<FromPeer>) -> Result<(), End> {
        match self.receiver.read(&self.stream) {
            Ok(0) => return Err(End::Closed),
            // Whoever sends with Nagle's algorithm holds the end of a block back until what came before is acknowledged,
            // which the kernel would put off for 40 ms (tcp(7): the option is not permanent).
            Ok(read) if read < BULK_BYTES => drop(SockRef::from(&self.stream).set_tcp_quickack(true)),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(End::Io(error)),
        }
        loop {
            // What was sent is told before a message that may end the connection.
            let mut events: Vec<_> = self.uploader.take_uploaded().into_iter().collect();
            let decoded = self.decode(&mut events);
            if !events.is_empty() {
                self.pass_on(events, inbox).await?;
            }
            match decoded {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(end) => return Err(end),
            }
        }
    }

    /// Turns what lies in the receive buffer into events; true when a batch was full before the buffer was empty.
    fn decode(&mut self, events: &mut Vec<PeerEvent>) -> Result<bool, End> {
        let (mut requested, mut alive, mut result) = (false, false, Ok(false));
        loop {
            match self.receiver.decode() {
                Ok(Some(Message::Request(request))) => {
                    requested = true;
                    self.uploader.request(request, &mut self.out);
                    if self.out.held_bytes() > MAX_BACKLOG_BYTES {
                        result = Err(End::Backlog);
                        break;
                    }
                }
                Ok(Some(Message::Cancel(request))) => self.uploader.cancel(request, &mut self.out),
                Ok(Some(Message::KeepAlive | Message::Unknown(_))) => alive = true,
                Ok(Some(message)) => {
                    events.push(PeerEvent::Message(message));
                    if events.len() == MAX_BATCH_EVENTS {
                        result = Ok(true);
                        break;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    result = Err(End::Wire(error));
                    break;
                }
            }
        }
        if requested {
            events.push(PeerEvent::Requested);
        } else if alive && events.is_empty() {
            // One stands for all: the peer lives.
            events.push(PeerEvent::Message(Message::KeepAlive));
        }
        result
    }

    /// Waits while the torrent's task is behind: then we do not read either, and TCP slows the peer down.
    async fn pass_on(&self, events: Vec<PeerEvent>, inbox: &mpsc::Sender<FromPeer>) -> Result<(), End> {
        inbox.send(FromPeer { peer: self.key, events: Some(events) }).await.map_err(|_| End::Dropped)
    }

    /// Writes as much as the socket takes.
    fn write(&mut self) -> Result<(), End> {
        let now = Instant::now();
        if !self.out.prepare(now.into_std())? {
            return Ok(());
        }
        match self.stream.try_io(Interest::WRITABLE, || self.out.send(now.into_std(), &self.stream)) {
            Ok(written) => {
                self.last_write = now;
                self.ahead_bytes = if written == self.out.len() {
                    (self.ahead_bytes * 2).min(MAX_AHEAD_BYTES)
                } else {
                    (self.ahead_bytes / 2).max(MIN_AHEAD_BYTES)
                };
                self.out.advance(written).map_err(End::Storage)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(End::Io(error)),
        }
    }

    /// What time brings: keep-alives, patience with peers that do not read, reports of uploads, buffers given back.
    async fn tick(&mut self, inbox: &mpsc::Sender<FromPeer>) -> Result<(), End> {
        // Tried before it is judged: after a suspension this timer is ready before the socket was looked at.
        if !self.out.is_empty() {
            self.write()?;
        }
        let idle = self.last_write.elapsed();
        if !self.out.is_empty() && !self.out.is_reading() && idle > WRITE_PATIENCE {
            return Err(End::Backlog);
        }
        if self.out.is_empty() && idle > KEEP_ALIVE {
            codec::encode(&Message::KeepAlive, self.out.bytes());
        }
        if self.out.is_empty() && idle > TICK {
            self.out.shrink();
            self.uploader.shrink();
        }
        self.receiver.shrink();
        match self.uploader.take_uploaded() {
            Some(uploaded) => self.pass_on(vec![uploaded], inbox).await,
            None => Ok(()),
        }
    }

    /// Uploads are reported soon even when the peer says nothing more.
    fn hurry(&self, timer: std::pin::Pin<&mut Sleep>) {
        if self.uploader.has_uploaded() {
            let soon = Instant::now() + REPORT;
            if timer.deadline() > soon {
                timer.reset(soon);
            }
        }
    }
}

/// How often a connection looks at the time.
const TICK: Duration = Duration::from_secs(10);
/// A read of so much is amid a stream of data, where acknowledgements flow by themselves.
const BULK_BYTES: usize = 64 * 1024;
/// Uploads are reported no later than this.
const REPORT: Duration = Duration::from_millis(500);
/// Nothing written for so long: send a keep-alive. Others drop us after two minutes.
const KEEP_ALIVE: Duration = Duration::from_secs(95);
/// A peer that takes nothing for so long is given up.
const WRITE_PATIENCE: Duration = Duration::from_secs(60);
/// Bounds of what waits in line for the socket; of it, as much as `upload` says in memory of ours. With 1 MiB a fast peer
/// costs 10 to 20 % less than with 256 KiB (measured on loopback): fewer calls and wake-ups.
const MIN_AHEAD_BYTES: usize = 32 * 1024;
const MAX_AHEAD_BYTES: usize = 1024 * 1024;
/// More unsent bytes than this, and the peer is not reading what it provokes (I7).
const MAX_BACKLOG_BYTES: usize = 1024 * 1024;
/// Events in one message to the torrent's task (I7).
const MAX_BATCH_EVENTS: usize = 4096;
