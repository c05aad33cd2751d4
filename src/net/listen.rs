//! Incoming connections: the ports, and the handshakes of those who call.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tracing::{debug, trace};

use super::dial::{Greeted, is_shortage, read_handshake};
use super::registry::{Place, Registry};
use crate::proto::wire::Handshake;
use crate::proto::wire::handshake::{HANDSHAKE_BYTES, HANDSHAKE_HEAD_BYTES, info_hash_of};

/// The listening sockets of a session: one a family, all of one port.
#[derive(Debug)]
pub(super) struct Ports {
    /// The port.
    pub port: u16,
    /// The sockets, at least one.
    pub sockets: Vec<std::net::TcpListener>,
}

impl Ports {
    /// Opens exactly this port.
    pub(super) fn open(port: u16, bind: Option<IpAddr>) -> Result<Self, (SocketAddr, io::Error)> {
        let addrs = match bind {
            Some(addr) => vec![addr],
            None => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
        };
        let mut ports = Self { port, sockets: Vec::new() };
        for addr in addrs {
            let addr = SocketAddr::new(addr, ports.port);
            match listener(addr) {
                Ok(socket) => {
                    ports.port = socket.local_addr().map_err(|error| (addr, error))?.port();
                    ports.sockets.push(socket);
                }
                // A host without IPv6 listens with IPv4 alone.
                Err(error) if !ports.sockets.is_empty() && is_missing_family(&error) => {
                    debug!(%addr, %error, "not listening");
                }
                Err(error) => return Err((addr, error)),
            }
        }
        Ok(ports)
    }

    /// Opens `preferred` if it is free, else any port.
    pub(super) fn open_any(preferred: Option<u16>, bind: Option<IpAddr>) -> Result<Self, (SocketAddr, io::Error)> {
        if let Some(ports) = preferred.and_then(|port| Self::open(port, bind).ok()) {
            return Ok(ports);
        }
        // The port that one family gives may be taken in the other: then the next will do.
        let mut opened = Self::open(0, bind);
        for _ in 0..ANY_PORT_TRIES {
            if opened.is_ok() {
                break;
            }
            opened = Self::open(0, bind);
        }
        opened
    }
}

fn listener(addr: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Connections of a former life that linger must not keep us from our port; a living listener still does.
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn is_missing_family(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL | libc::EPROTONOSUPPORT))
}

/// A listening socket, and a word that it is closed: fields go in their order, also with a task that never ran.
pub(super) struct Listening {
    pub(super) listener: TcpListener,
    /// Nothing is ever sent; it is closed when the socket is.
    pub(super) _open: Sender<()>,
}

/// Accepts connections until the task is aborted.
pub(super) async fn accept(listening: Listening, registry: Arc<Registry>) {
    let mut greetings = JoinSet::new();
    // Oldest first: whoever is silent longest makes room.
    let mut waiting: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let (stream, addr) = tokio::select! {
            accepted = listening.listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    debug!(%error, "not accepted");
                    if is_shortage(&error) {
                        sleep(SHORTAGE_PAUSE).await;
                    }
                    continue;
                }
            },
            Some(_) = greetings.join_next() => continue,
        };
        waiting.retain(|greeting| !greeting.is_finished());
        let place = registry.incoming(addr.ip());
        if (waiting.len() >= MAX_GREETINGS || registry.is_full())
            && let Some(oldest) = waiting.pop_front()
        {
            oldest.abort();
        }
        let Some(place) = place else {
            trace!(%addr, "no place for this connection");
            continue;
        };
        let registry = registry.clone();
        waiting.push_back(greetings.spawn(async move {
            if !matches!(timeout(GREETING_PATIENCE, greet(stream, addr, place, &registry)).await, Ok(Ok(()))) {
                trace!(%addr, "no handshake");
            }
        }));
    }
}

/// Hears a handshake, answers it if it is for a torrent of ours, and hands the connection over.
async fn greet(mut stream: TcpStream, addr: SocketAddr, place: Place, registry: &Registry) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut bytes = [0; HANDSHAKE_BYTES];
    read_handshake(&mut stream, &mut bytes, 0, HANDSHAKE_HEAD_BYTES).await?;
    let torrent = info_hash_of(&bytes[..HANDSHAKE_HEAD_BYTES]).and_then(|hash| Some((hash, registry.torrent(&hash)?)));
    let Some((info_hash, torrent)) = torrent else { return Err(io::ErrorKind::NotFound.into()) };
    stream.write_all(&Handshake::new(info_hash, registry.peer_id()).encode()).await?;
    read_handshake(&mut stream, &mut bytes, HANDSHAKE_HEAD_BYTES, HANDSHAKE_BYTES).await?;
    let theirs = Handshake::decode(&bytes).ok_or(io::ErrorKind::InvalidData)?;
    // A torrent that is too busy to take it loses it: owners never wait, and neither does anybody for them.
    let _ = torrent.try_send(Greeted::new(stream, addr, &theirs, place));
    Ok(())
}

/// Connections that the kernel keeps for us.
const BACKLOG: i32 = 1024;
/// Connections whose handshake is not done, per listening socket (I7).
const MAX_GREETINGS: usize = 512;
/// A handshake takes no longer than this from its first byte to its last.
const GREETING_PATIENCE: Duration = Duration::from_secs(15);
/// How long to wait for descriptors to come free.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(200);
/// How often to look for a port that is free in both families.
const ANY_PORT_TRIES: usize = 16;
