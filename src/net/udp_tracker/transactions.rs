//! Sockets, and the questions that wait for their answer on them.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, trace};

use crate::proto::udp_tracker::{Action, MAX_REPLY_BYTES, ReplyBody, parse_reply};

/// One socket a family, opened when it is first needed.
#[derive(Debug)]
pub(super) struct Transactions {
    bind: Option<IpAddr>,
    ipv4: Mutex<Option<Receiving>>,
    ipv6: Mutex<Option<Receiving>>,
    waiting: Arc<Waiting>,
}

/// Why a question has no answer.
#[derive(Debug)]
pub(super) enum Lost {
    /// The time of its connection id has passed.
    Expired,
    /// Every datagram of it went unanswered.
    Silent,
    /// It cannot be sent.
    Network(io::Error),
}

#[derive(Debug)]
struct Receiving {
    socket: Arc<UdpSocket>,
    task: AbortHandle,
}

/// The questions that wait, by transaction: as many as trackers are being asked (I7).
#[derive(Debug, Default)]
struct Waiting {
    questions: Mutex<HashMap<u32, Question>>,
    /// Transactions are numbered, and the numbers hidden by a key: nobody who sees some can tell the next.
    key: RandomState,
    next: AtomicU64,
}

#[derive(Debug)]
struct Question {
    to: SocketAddr,
    action: Action,
    answer: oneshot::Sender<ReplyBody>,
}

/// A question's place among those that wait; given up with it.
struct Place<'w> {
    waiting: &'w Waiting,
    transaction: u32,
    answer: oneshot::Receiver<ReplyBody>,
}

impl Transactions {
    pub(super) fn new(bind: Option<IpAddr>) -> Self {
        Self { bind, ipv4: Mutex::default(), ipv6: Mutex::default(), waiting: Arc::default() }
    }

    /// Sends what `write` makes of a transaction number, waits `first_wait` for the answer, sends it again, waits twice as
    /// long, and so on, up to `repeats` times. Nothing is sent after `valid_until`. Safe to drop at any time.
    pub(super) async fn transact(
        &self,
        to: SocketAddr,
        action: Action,
        write: impl Fn(u32) -> Vec<u8>,
        first_wait: Duration,
        repeats: u32,
        valid_until: Option<Instant>,
    ) -> Result<ReplyBody, Lost> {
        let socket = self.socket(to.is_ipv4()).map_err(Lost::Network)?;
        let mut place = self.waiting.take_place(to, action);
        let datagram = write(place.transaction);
        for repeat in 0..=repeats {
            if valid_until.is_some_and(|end| Instant::now() >= end) {
                return Err(Lost::Expired);
            }
            socket.send_to(&datagram, to).await.map_err(Lost::Network)?;
            match timeout(first_wait.saturating_mul(1 << repeat.min(8)), &mut place.answer).await {
                Ok(Ok(answer)) => return Ok(answer),
                // Nobody drops what waits but its place.
                Ok(Err(_)) => return Err(Lost::Silent),
                Err(_) => trace!(%to, repeat, "no answer of a UDP tracker yet"),
            }
        }
        Err(Lost::Silent)
    }

    fn socket(&self, ipv4: bool) -> io::Result<Arc<UdpSocket>> {
        let slot = if ipv4 { &self.ipv4 } else { &self.ipv6 };
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(receiving) = &*slot {
            return Ok(receiving.socket.clone());
        }
        let any = if ipv4 { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = Arc::new(open(SocketAddr::new(self.bind.unwrap_or(any), 0))?);
        let task = tokio::spawn(receive(socket.clone(), self.waiting.clone())).abort_handle();
        *slot = Some(Receiving { socket: socket.clone(), task });
        Ok(socket)
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Waiting {
    fn take_place(&self, to: SocketAddr, action: Action) -> Place<'_> {
        let (sender, answer) = oneshot::channel();
        let mut questions = self.questions();
        let transaction = loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let transaction = self.key.hash_one(number) as u32;
            if !questions.contains_key(&transaction) {
                break transaction;
            }
        };
        questions.insert(transaction, Question { to, action, answer: sender });
        Place { waiting: self, transaction, answer }
    }

    /// Gives a datagram to the question that it answers: its number, its sender and its action must be right.
    fn deliver(&self, datagram: &[u8], from: SocketAddr) {
        let Some(reply) = parse_reply(datagram, from.is_ipv6()) else {
            return trace!(%from, bytes = datagram.len(), "no answer of a UDP tracker");
        };
        let mut questions = self.questions();
        let meant = questions.get(&reply.transaction).is_some_and(|question| {
            // Not the whole address: it may have a scope that we did not name.
            let from_there = question.to.ip() == from.ip() && question.to.port() == from.port();
            from_there && reply.body.answers(question.action)
        });
        if !meant {
            return trace!(%from, transaction = reply.transaction, "nobody has asked for this");
        }
        if let Some(question) = questions.remove(&reply.transaction) {
            // Whoever gave up meanwhile needs no answer.
            let _ = question.answer.send(reply.body);
        }
    }

    /// Whole after any panic: it changes by single calls.
    fn questions(&self) -> MutexGuard<'_, HashMap<u32, Question>> {
        self.questions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.waiting.questions().remove(&self.transaction);
    }
}

fn open(addr: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    UdpSocket::from_std(socket.into())
}

/// Takes datagrams until it is aborted.
async fn receive(socket: Arc<UdpSocket>, waiting: Arc<Waiting>) {
    // One byte more than is taken: what fills it is too long.
    let mut buffer = vec![0; MAX_REPLY_BYTES + 1];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((length, from)) => waiting.deliver(&buffer[..length], from),
            Err(error) => {
                debug!(%error, "cannot receive from UDP trackers");
                sleep(RECEIVE_PAUSE).await;
            }
        }
    }
}

/// After an error that may come again at once.
const RECEIVE_PAUSE: Duration = Duration::from_millis(100);
