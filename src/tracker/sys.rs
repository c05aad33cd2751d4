//! Many datagrams in one system call, which std does not offer (recvmmsg(2), sendmmsg(2)).

use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::ptr;

/// Datagrams that are taken at a time.
pub(super) const BATCH: usize = 64;
/// Longer datagrams are cut: a scrape of 74 torrents has 1496 bytes, an announce with options at most some hundred.
const DATAGRAM_BYTES: usize = 2048;

/// Room for a batch of datagrams and for their answers.
pub(super) struct Batch {
    buffers: Vec<[u8; DATAGRAM_BYTES]>,
    /// Where they came from, as the kernel wrote it.
    names: Vec<libc::sockaddr_storage>,
    /// To which of our addresses they came, likewise, where [`tell_destinations`] was called.
    controls: Vec<Control>,
    incoming: Vec<libc::mmsghdr>,
    /// Pointed to by `incoming`.
    _parts: Vec<libc::iovec>,
    /// The answer to each; empty: none.
    answers: Vec<Vec<u8>>,
    received: usize,
}

impl Batch {
    pub(super) fn new() -> Self {
        let mut buffers = vec![[0; DATAGRAM_BYTES]; BATCH];
        // SAFETY: all of these are C structures of numbers and pointers, for which zeros are valid.
        let mut names: Vec<libc::sockaddr_storage> = vec![unsafe { mem::zeroed() }; BATCH];
        let mut parts: Vec<libc::iovec> = buffers
            .iter_mut()
            .map(|buffer| libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: DATAGRAM_BYTES })
            .collect();
        let mut controls = vec![Control([0; CONTROL_WORDS]); BATCH];
        let incoming = (0..BATCH).map(|at| header(&mut names[at], &mut parts[at], &mut controls[at])).collect();
        // The vectors are never grown, so what points into them stays right when they are moved.
        let answers = (0..BATCH).map(|_| Vec::with_capacity(DATAGRAM_BYTES)).collect();
        Self { buffers, names, controls, incoming, _parts: parts, answers, received: 0 }
    }

    /// Waits for a datagram, as long as the socket's timeout says, and takes all that are there then.
    pub(super) fn receive(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        for header in &mut self.incoming[..self.received] {
            header.msg_hdr.msg_namelen = NAME_BYTES;
            header.msg_hdr.msg_controllen = CONTROL_BYTES as _;
        }
        self.received = 0;
        // SAFETY: the headers point to buffers and names that live as long as `self`, with their true sizes; nothing else
        // uses them during the call.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.incoming.as_mut_ptr(),
                BATCH as u32,
                libc::MSG_WAITFORONE as _,
                ptr::null_mut(),
            )
        };
        self.received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        Ok(self.received)
    }

    /// A datagram, whom it is from, and where its answer belongs.
    pub(super) fn datagram(&mut self, at: usize) -> (SocketAddr, &[u8], &mut Vec<u8>) {
        assert!(at < self.received);
        let length = (self.incoming[at].msg_len as usize).min(DATAGRAM_BYTES);
        let answer = &mut self.answers[at];
        answer.clear();
        (address(&self.names[at]), &self.buffers[at][..length], answer)
    }

    /// Sends the answers. What the socket has no room for is lost, as datagrams are.
    pub(super) fn send(&mut self, socket: &UdpSocket) {
        let mut parts = [MaybeUninit::<libc::iovec>::uninit(); BATCH];
        let mut outgoing = [MaybeUninit::<libc::mmsghdr>::uninit(); BATCH];
        let mut count = 0;
        for at in 0..self.received {
            let answer = &mut self.answers[at];
            if answer.is_empty() {
                continue;
            }
            let part = libc::iovec { iov_base: answer.as_mut_ptr().cast(), iov_len: answer.len() };
            let control = &mut self.controls[at];
            let mut header = header(&mut self.names[at], parts[count].write(part), control);
            header.msg_hdr.msg_namelen = self.incoming[at].msg_hdr.msg_namelen;
            // The answer comes from the address that was asked, by whatever way leads back.
            header.msg_hdr.msg_controllen = self.incoming[at].msg_hdr.msg_controllen;
            if header.msg_hdr.msg_controllen > 0 {
                control.forget_interface();
            }
            outgoing[count].write(header);
            count += 1;
        }
        let mut sent = 0;
        while sent < count {
            // SAFETY: the first `count` headers are written, and what they point to lives until the end of this function.
            let done = unsafe {
                libc::sendmmsg(
                    socket.as_raw_fd(),
                    outgoing[sent].as_mut_ptr(),
                    (count - sent) as u32,
                    libc::MSG_DONTWAIT as _,
                )
            };
            // An address that cannot be sent to holds up nobody behind it.
            sent += usize::try_from(done).unwrap_or(0).max(1);
        }
    }
}

/// One control message, `IP_PKTINFO` or `IPV6_PKTINFO`, aligned as those must be.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(8))]
struct Control([u64; CONTROL_WORDS]);

impl Control {
    /// Leaves the way of an answer to the routing table, unless the address means nothing without its interface.
    fn forget_interface(&mut self) {
        // SAFETY: the buffer has room for a header and the larger of the two structures, is aligned for them, and was
        // written by the kernel or is zero; both structures are numbers.
        unsafe {
            let header: *mut libc::cmsghdr = self.0.as_mut_ptr().cast();
            let content = libc::CMSG_DATA(header);
            match ((*header).cmsg_level, (*header).cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => (*content.cast::<libc::in_pktinfo>()).ipi_ifindex = 0,
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info = content.cast::<libc::in6_pktinfo>();
                    if !Ipv6Addr::from((*info).ipi6_addr.s6_addr).is_unicast_link_local() {
                        (*info).ipi6_ifindex = 0;
                    }
                }
                _ => {}
            }
        }
    }
}

/// Has the kernel say with each datagram which of our addresses it came to. Else an answer may leave with another one,
/// where there are several, and whoever asked does not know it.
pub(super) fn tell_destinations(socket: &UdpSocket, ipv6: bool) -> io::Result<()> {
    let (level, name) =
        if ipv6 { (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO) } else { (libc::IPPROTO_IP, libc::IP_PKTINFO) };
    let on: libc::c_int = 1;
    let length = mem::size_of_val(&on) as libc::socklen_t;
    // SAFETY: the value lives through the call, and its length is right.
    match unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, ptr::from_ref(&on).cast(), length) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn header(name: &mut libc::sockaddr_storage, part: &mut libc::iovec, control: &mut Control) -> libc::mmsghdr {
    // SAFETY: zeros are valid for it.
    let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
    header.msg_hdr.msg_name = ptr::from_mut(name).cast();
    header.msg_hdr.msg_namelen = NAME_BYTES;
    header.msg_hdr.msg_iov = part;
    header.msg_hdr.msg_iovlen = 1;
    header.msg_hdr.msg_control = ptr::from_mut(control).cast();
    header.msg_hdr.msg_controllen = CONTROL_BYTES as _;
    header
}

fn address(name: &libc::sockaddr_storage) -> SocketAddr {
    let is_v4 = i32::from(name.ss_family) == libc::AF_INET;
    let name = ptr::from_ref(name);
    if is_v4 {
        // SAFETY: of this family it is a `sockaddr_in`, which is smaller and no more aligned.
        let v4 = unsafe { &*name.cast::<libc::sockaddr_in>() };
        (IpAddr::from(v4.sin_addr.s_addr.to_ne_bytes()), u16::from_be(v4.sin_port)).into()
    } else {
        // SAFETY: our sockets are of one of two families; of this one it is a `sockaddr_in6`, likewise.
        let v6 = unsafe { &*name.cast::<libc::sockaddr_in6>() };
        (IpAddr::from(v6.sin6_addr.s6_addr), u16::from_be(v6.sin6_port)).into()
    }
}

/// A header of 16 bytes and at most 20 of content, rounded up.
const CONTROL_WORDS: usize = 5;
const CONTROL_BYTES: usize = CONTROL_WORDS * 8;
const NAME_BYTES: libc::socklen_t = mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t;
