//! A peer that speaks the protocol by hand.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use btfs::base::{InfoHash, Layout, PeerId};
use btfs::proto::wire::handshake::HANDSHAKE_BYTES;
use btfs::proto::wire::{BlockRequest, Decoder, Handshake, Message, codec};
use bytes::BytesMut;

pub struct HandPeer {
    pub stream: TcpStream,
    decoder: Decoder,
    buffer: BytesMut,
}

impl HandPeer {
    pub fn connect(addr: SocketAddr, hash: InfoHash, layout: &Arc<Layout>) -> std::io::Result<Self> {
        let mut id = *b"-HP0001-............";
        id[8..].fill_with(|| fastrand::alphanumeric() as u8);
        let mut stream = TcpStream::connect(addr)?;
        stream.set_read_timeout(Some(Duration::from_millis(100)))?;
        stream.write_all(&Handshake::new(hash, PeerId(id)).encode())?;
        let mut peer = Self { stream, decoder: Decoder::new(layout.clone()), buffer: BytesMut::new() };
        peer.fill(HANDSHAKE_BYTES)?;
        let theirs: [u8; HANDSHAKE_BYTES] = peer.buffer.split_to(HANDSHAKE_BYTES)[..].try_into().unwrap();
        assert_eq!(Handshake::decode(&theirs).unwrap().info_hash, hash);
        Ok(peer)
    }

    pub fn send(&mut self, messages: &[Message]) -> std::io::Result<()> {
        let mut bytes = BytesMut::new();
        messages.iter().for_each(|message| codec::encode(message, &mut bytes));
        self.stream.write_all(&bytes)
    }

    /// The next message that `wanted` takes; others are dropped. An error after 10 s or at the end of the connection.
    pub fn expect<T>(&mut self, mut wanted: impl FnMut(Message) -> Option<T>) -> std::io::Result<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            while let Some(message) = self.decoder.decode(&mut self.buffer).expect("we break no rule ourselves") {
                if let Some(found) = wanted(message) {
                    return Ok(found);
                }
            }
            if Instant::now() > deadline {
                return Err(std::io::ErrorKind::TimedOut.into());
            }
            self.fill(self.buffer.len() + 1)?;
        }
    }

    /// Becomes unchoked and fetches one block, as a polite leecher does.
    pub fn fetch(&mut self, request: BlockRequest) -> std::io::Result<Vec<u8>> {
        self.send(&[Message::Interested])?;
        self.expect(|message| matches!(message, Message::Unchoke).then_some(()))?;
        self.send(&[Message::Request(request)])?;
        self.expect(|message| match message {
            Message::Piece { piece, begin, data } if (piece, begin) == (request.piece, request.begin) => {
                Some(data.to_vec())
            }
            _ => None,
        })
    }

    fn fill(&mut self, wanted: usize) -> std::io::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.buffer.len() < wanted {
            let mut bytes = [0; 65536];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => self.buffer.extend_from_slice(&bytes[..read]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock && Instant::now() < deadline => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

const PATIENCE: Duration = Duration::from_secs(10);
