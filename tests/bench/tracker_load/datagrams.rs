//! Many datagrams in one system call on a connected socket, so that the generator is faster than what it measures.

use std::io;
use std::mem;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::ptr;

/// Datagrams that go at a time.
pub const MOST: usize = 32;

/// Room for [`MOST`] datagrams of at most `N` bytes.
pub struct Datagrams<const N: usize> {
    buffers: Box<[[u8; N]; MOST]>,
    headers: Vec<libc::mmsghdr>,
    /// Pointed to by `headers`.
    parts: Vec<libc::iovec>,
}

impl<const N: usize> Datagrams<N> {
    pub fn new() -> Self {
        let mut buffers = Box::new([[0; N]; MOST]);
        let mut parts: Vec<_> =
            buffers.iter_mut().map(|buffer| libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: N }).collect();
        let header = |part: &mut libc::iovec| {
            // SAFETY: a C structure of numbers and pointers, for which zeros are valid.
            let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
            (header.msg_hdr.msg_iov, header.msg_hdr.msg_iovlen) = (part, 1);
            header
        };
        let headers = parts.iter_mut().map(header).collect();
        Self { buffers, headers, parts }
    }

    /// Writes the datagram of this place: it gets the whole buffer and says how much of it counts.
    pub fn write(&mut self, at: usize, write: impl FnOnce(&mut [u8; N]) -> usize) {
        self.parts[at].iov_len = write(&mut self.buffers[at]).min(N);
    }

    /// Sends the first `count`; how many went.
    pub fn send(&mut self, socket: &UdpSocket, count: usize) -> usize {
        let headers = &mut self.headers[..count];
        // SAFETY: the headers point to parts and buffers that live as long as `self`, with their true sizes.
        let sent =
            unsafe { libc::sendmmsg(socket.as_raw_fd(), headers.as_mut_ptr(), count as u32, libc::MSG_DONTWAIT as _) };
        usize::try_from(sent).unwrap_or(0)
    }

    /// Takes what is there.
    pub fn receive(&mut self, socket: &UdpSocket) -> impl Iterator<Item = &[u8]> {
        // SAFETY: as above; nothing else uses the buffers during the call.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                MOST as u32,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        };
        let received = usize::try_from(received).unwrap_or(0);
        (0..received).map(|at| &self.buffers[at][..(self.headers[at].msg_len as usize).min(N)])
    }
}

/// Waits until one of these sockets has something, a short time at most.
pub fn wait(sockets: &[UdpSocket]) {
    let event = |socket: &UdpSocket| libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let mut events: Vec<_> = sockets.iter().map(event).collect();
    // SAFETY: the list lives through the call, with its true length.
    if unsafe { libc::poll(events.as_mut_ptr(), events.len() as _, 5) } < 0 {
        let error = io::Error::last_os_error();
        assert_eq!(error.kind(), io::ErrorKind::Interrupted, "{error}");
    }
}
