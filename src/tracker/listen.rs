//! The sockets: one port number for TCP and UDP, in each family.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::sys::tell_destinations;

/// Why the tracker cannot listen.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {addr} ({protocol}): {source}")]
pub struct ListenError {
    /// Where.
    pub addr: SocketAddr,
    /// TCP or UDP.
    pub protocol: &'static str,
    /// What the system says.
    pub source: io::Error,
}

/// Sockets that listen.
#[derive(Debug)]
pub struct Sockets {
    pub(super) tcp: Vec<TcpListener>,
    pub(super) udp: Vec<UdpSocket>,
    addrs: Vec<SocketAddr>,
}

impl Sockets {
    /// Where a tracker listens unless it is told otherwise: every address of this host.
    pub fn usual() -> [SocketAddr; 2] {
        [(IpAddr::from(Ipv6Addr::UNSPECIFIED), PORT).into(), (IpAddr::from(Ipv4Addr::UNSPECIFIED), PORT).into()]
    }

    /// Opens TCP and UDP at each address, UDP `workers` times. Port 0 is any port that is free in all of them. A host
    /// without one of the families listens with the other alone, if that is asked for as well.
    ///
    /// # Errors
    /// The first address that cannot be had, [`ListenError`].
    pub fn open(addrs: &[SocketAddr], workers: usize) -> Result<Self, ListenError> {
        let mut opened = Self::open_once(addrs, workers);
        // The port that one socket gives may be taken for the next: then another one will do.
        for _ in 0..ANY_PORT_TRIES {
            match &opened {
                Err(error)
                    if error.source.kind() == io::ErrorKind::AddrInUse && addrs.iter().any(|addr| addr.port() == 0) =>
                {
                    opened = Self::open_once(addrs, workers);
                }
                _ => break,
            }
        }
        opened
    }

    /// Where it listens, each address once.
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// How many threads answer datagrams.
    pub fn udp_workers(&self) -> usize {
        self.udp.len()
    }

    fn open_once(addrs: &[SocketAddr], workers: usize) -> Result<Self, ListenError> {
        let mut sockets = Self { tcp: Vec::new(), udp: Vec::new(), addrs: Vec::new() };
        let (mut any_port, mut missing) = (0, None);
        for &addr in addrs {
            let mut addr = addr;
            if addr.port() == 0 {
                addr.set_port(any_port);
            }
            match sockets.add(addr, workers) {
                Ok(port) if addr.port() == 0 => any_port = port,
                Ok(_) => {}
                Err(error) if addr.ip().is_unspecified() && is_missing_family(&error.source) => missing = Some(error),
                Err(error) => return Err(error),
            }
        }
        match missing {
            Some(error) if sockets.addrs.is_empty() => Err(error),
            _ => Ok(sockets),
        }
    }

    fn add(&mut self, asked: SocketAddr, workers: usize) -> Result<u16, ListenError> {
        let wrong = |protocol| move |source| ListenError { addr: asked, protocol, source };
        let tcp = listener(asked).map_err(wrong("TCP"))?;
        let port = tcp.local_addr().map_err(wrong("TCP"))?.port();
        let addr = SocketAddr::new(asked.ip(), port);
        // Sockets that share a port would share it with a stranger's, too: first it must be free.
        drop(datagrams(addr, false).map_err(wrong("UDP"))?);
        for _ in 0..workers.max(1) {
            self.udp.push(datagrams(addr, true).map_err(wrong("UDP"))?);
        }
        self.tcp.push(tcp);
        self.addrs.push(addr);
        Ok(port)
    }
}

fn listener(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Connections of a former life that linger must not keep us from our port; a living listener still does.
    socket.set_reuse_address(true)?;
    // Connections inherit both: answers leave at once, and who takes nothing of his is let go of by the kernel.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(LONGEST_UNTAKEN))?;
    // What somebody takes is seen in small steps, however much the kernel would take for him. (Not every kernel can do that.)
    let _ = socket.set_tcp_notsent_lowat(MOST_UNSENT_BYTES);
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn datagrams(addr: SocketAddr, shared: bool) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM.cloexec(), Some(Protocol::UDP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_port(shared)?;
    // As much as the system lets us: a burst waits there.
    let _ = socket.set_recv_buffer_size(BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(BUFFER_BYTES);
    socket.set_read_timeout(Some(LONGEST_WAIT))?;
    socket.bind(&addr.into())?;
    let socket = socket.into();
    if addr.ip().is_unspecified() {
        tell_destinations(&socket, addr.is_ipv6())?;
    }
    Ok(socket)
}

fn is_missing_family(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL | libc::EPROTONOSUPPORT))
}

/// What most UDP trackers use.
const PORT: u16 = 6969;
const BACKLOG: i32 = 1024;
const BUFFER_BYTES: usize = 4 << 20;
/// What was sent and is not taken ends a connection after this time.
const LONGEST_UNTAKEN: Duration = Duration::from_secs(15);
const MOST_UNSENT_BYTES: u32 = 64 << 10;
/// A worker that was not woken looks up after this time.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
const ANY_PORT_TRIES: usize = 16;
