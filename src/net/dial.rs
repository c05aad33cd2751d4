//! Outgoing connections: connect, and exchange handshakes.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tracing::trace;

use super::registry::Place;
use crate::engine::{Connected, DialFailure, Opening};
use crate::proto::wire::handshake::{HANDSHAKE_BYTES, may_be_handshake};
use crate::proto::wire::{Handshake, codec};

/// A connection whose handshakes are done.
#[derive(Debug)]
pub(super) struct Greeted {
    /// The connection, just behind the handshake.
    pub stream: TcpStream,
    /// Who it is.
    pub connected: Connected,
    /// Its place among all connections, held as long as it lives.
    pub place: Place,
}

impl Greeted {
    /// A connection on which nothing but handshakes has been said.
    pub(super) fn new(stream: TcpStream, addr: SocketAddr, theirs: &Handshake, place: Place) -> Self {
        let connected = Connected {
            addr,
            outgoing: place.is_outgoing(),
            peer_id: theirs.peer_id,
            fast: theirs.fast(),
            extended: theirs.extended(),
            opening: None,
        };
        Self { stream, connected, place }
    }
}

/// Connects to `addr`, says `ours` and the opening, and hears their handshake.
pub(super) async fn dial(
    addr: SocketAddr,
    ours: Handshake,
    opening: Option<Opening>,
    bind: Option<IpAddr>,
    place: Place,
) -> Result<Greeted, DialFailure> {
    let mut stream = match timeout(CONNECT_PATIENCE, connect(addr, bind)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            trace!(%addr, %error, "not connected");
            return Err(if is_shortage(&error) { DialFailure::Busy } else { DialFailure::Unreachable });
        }
        Err(_) => return Err(DialFailure::Unreachable),
    };
    match timeout(HANDSHAKE_PATIENCE, exchange(&mut stream, &ours, opening.as_ref())).await {
        Ok(Ok(theirs)) if theirs.info_hash == ours.info_hash => {
            let mut greeted = Greeted::new(stream, addr, &theirs, place);
            greeted.connected.opening = opening;
            Ok(greeted)
        }
        _ => Err(DialFailure::Handshake),
    }
}

async fn connect(addr: SocketAddr, bind: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if let Some(bind) = bind {
        socket.bind(SocketAddr::new(bind, 0))?;
    }
    let stream = socket.connect(addr).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn exchange(stream: &mut TcpStream, ours: &Handshake, opening: Option<&Opening>) -> io::Result<Handshake> {
    let mut said = BytesMut::from(&ours.encode()[..]);
    for message in opening.iter().flat_map(|opening| opening.messages()) {
        codec::encode(&message, &mut said);
    }
    stream.write_all(&said).await?;
    let mut bytes = [0; HANDSHAKE_BYTES];
    read_handshake(stream, &mut bytes, 0, HANDSHAKE_BYTES).await?;
    Handshake::decode(&bytes).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Reads on from `from` until `to` bytes of a handshake are there; an error at the first byte that cannot be one's.
pub(super) async fn read_handshake(
    stream: &mut TcpStream,
    bytes: &mut [u8; HANDSHAKE_BYTES],
    from: usize,
    to: usize,
) -> io::Result<()> {
    let mut got = from;
    while got < to {
        let read = stream.read(&mut bytes[got..to]).await?;
        got += read;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if !may_be_handshake(&bytes[..got]) {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    Ok(())
}

/// Whether we, not the other side, are to blame.
pub(super) fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

/// How long a connection may take to open.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// How long the handshakes may take then.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);
