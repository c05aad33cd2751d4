//! The handshake of the extension protocol (BEP 10): which extended messages the sender takes, under which ids, and a
//! few facts about it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use bytes::Bytes;

use crate::proto::bencode::{self, Dict, Value, Writer};

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

    /// The payload of the extended message [`HANDSHAKE_ID`].
    pub fn encode(&self) -> Bytes {
        let out = Writer::dict_to_vec(|dict| {
            if let Some(addr) = self.ipv4 {
                dict.key("ipv4").bytes(addr.octets());
            }
            if let Some(addr) = self.ipv6 {
                dict.key("ipv6").bytes(addr.octets());
            }
            let extensions: BTreeMap<_, _> = self.extensions.iter().map(|(name, id)| (name, *id)).collect();
            dict.key("m").dict(|m| extensions.into_iter().for_each(|(name, id)| m.key(name).int(id)));
            let numbers = [
                ("metadata_size", self.metadata_size),
                ("p", self.port.map(u32::from)),
                ("reqq", self.request_queue),
                ("upload_only", self.upload_only.map(u32::from)),
            ];
            for (key, value) in numbers.into_iter().filter_map(|(key, value)| value.map(|value| (key, value))) {
                dict.key(key).int(value);
            }
            if let Some(client) = &self.client {
                dict.key("v").bytes(client);
            }
            match self.your_ip {
                Some(IpAddr::V4(addr)) => dict.key("yourip").bytes(addr.octets()),
                Some(IpAddr::V6(addr)) => dict.key("yourip").bytes(addr.octets()),
                None => {}
            }
        });
        out.into()
    }

    /// Reads the payload of the extended message [`HANDSHAKE_ID`]; `None` when it is no bencoded dictionary, which is to
    /// be ignored: whoever cannot say what it can do is spoken to in plain BEP 3.
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let dict = bencode::scan(payload).ok()?.root.as_dict()?;
        let number = |key: &str, range: RangeInclusive<u64>| dict.get(key)?.as_u64().filter(|n| range.contains(n));
        let addr = |key: &str| dict.get(key)?.as_bytes();
        let ipv4 = |bytes: &[u8]| Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?));
        let ipv6 = |bytes: &[u8]| Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?));
        let your_ip = |bytes| ipv4(bytes).map(IpAddr::V4).or_else(|| ipv6(bytes).map(IpAddr::V6));
        Some(Self {
            extensions: dict.get("m").and_then(Value::as_dict).map(extensions).unwrap_or_default(),
            client: dict.get("v").and_then(Value::as_bytes).map(client),
            port: number("p", 1..=65_535).map(|port| port as u16),
            request_queue: number("reqq", 1..=u64::from(u32::MAX)).map(|count| count as u32),
            upload_only: number("upload_only", 0..=u64::MAX).map(|flag| flag != 0),
            your_ip: addr("yourip").and_then(your_ip),
            ipv4: addr("ipv4").and_then(ipv4),
            ipv6: addr("ipv6").and_then(ipv6),
            metadata_size: number("metadata_size", 1..=MAX_METADATA_BYTES).map(|size| size as u32),
        })
    }
}

/// Extensions taken from one handshake.
pub const MAX_EXTENSIONS: usize = 64;
/// Bytes of an extension's name; longer ones are ignored.
pub const MAX_NAME_BYTES: usize = 64;
/// Bytes of a client's name; longer ones are cut.
pub const MAX_CLIENT_BYTES: usize = 128;
/// The largest info dictionary that is believed in.
pub const MAX_METADATA_BYTES: u64 = 32 * 1024 * 1024;

/// The usable entries of `m`.
fn extensions(m: Dict<'_>) -> Vec<(Box<[u8]>, u8)> {
    m.iter()
        .filter(|(name, _)| name.len() <= MAX_NAME_BYTES)
        .filter_map(|(name, id)| Some((name.into(), u8::try_from(id.as_u64()?).ok()?)))
        .take(MAX_EXTENSIONS)
        .collect()
}

fn client(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_CLIENT_BYTES)]).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_handshake_of_a_real_client_is_understood() {
        let payload = b"d1:md11:upload_onlyi3e11:ut_metadatai2e6:ut_pexi1ee13:metadata_sizei31235e1:pi6881e\
            4:reqqi500e11:upload_onlyi1e1:v16:libtorrent/2.0.16:yourip4:\x7f\0\0\x01e";
        let got = ExtensionHandshake::decode(payload).unwrap();
        assert_eq!(
            (got.id_of(b"ut_pex"), got.id_of(b"upload_only"), got.id_of(b"lt_donthave")),
            (Some(1), Some(3), None)
        );
        assert_eq!((got.port, got.request_queue, got.upload_only), (Some(6881), Some(500), Some(true)));
        assert_eq!((got.client.as_deref(), got.metadata_size), (Some("libtorrent/2.0.1"), Some(31_235)));
        assert_eq!(got.your_ip, Some(IpAddr::from([127, 0, 0, 1])));
    }

    #[test]
    fn what_makes_no_sense_is_ignored() {
        for payload in ["", "garbage", "le", "i1e", &"d1:a".repeat(10_000)] {
            assert_eq!(ExtensionHandshake::decode(payload.as_bytes()), None);
        }
        for payload in ["de", "d1:ml6:ut_pexee", "d1:md1:ai-1e1:bi256e1:c1:xee", "d13:metadata_sizei-1ee"] {
            assert_eq!(
                ExtensionHandshake::decode(payload.as_bytes()),
                Some(ExtensionHandshake::default()),
                "{payload}"
            );
        }
        for payload in ["d13:metadata_sizei2147483648e1:pi65536e4:reqqi0e1:vi7e6:yourip3:abce", "d1:pi0ee"] {
            assert_eq!(
                ExtensionHandshake::decode(payload.as_bytes()),
                Some(ExtensionHandshake::default()),
                "{payload}"
            );
        }
    }

    fn handshake() -> impl Strategy<Value = ExtensionHandshake> {
        (
            proptest::collection::btree_map("[a-z_]{1,20}", any::<u8>(), 0..8),
            proptest::option::of("[ -~]{0,60}"),
            proptest::option::of(1..=u16::MAX),
            proptest::option::of(1..=u32::MAX),
            any::<(Option<bool>, Option<IpAddr>, Option<Ipv4Addr>, Option<Ipv6Addr>)>(),
            proptest::option::of(1..=MAX_METADATA_BYTES as u32),
        )
            .prop_map(|(m, client, port, request_queue, (upload_only, your_ip, ipv4, ipv6), metadata_size)| {
                let extensions = m.into_iter().map(|(name, id)| (name.into_bytes().into_boxed_slice(), id)).collect();
                ExtensionHandshake {
                    extensions,
                    client,
                    port,
                    request_queue,
                    upload_only,
                    your_ip,
                    ipv4,
                    ipv6,
                    metadata_size,
                }
            })
    }

    proptest! {
        #[test]
        fn what_we_write_is_what_we_read(handshake in handshake()) {
            prop_assert_eq!(ExtensionHandshake::decode(&handshake.encode()), Some(handshake));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            ExtensionHandshake::decode(&bytes);
        }
    }
}
