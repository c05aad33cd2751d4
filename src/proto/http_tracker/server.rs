//! The tracker's side of an announce over HTTP: queries to read, bodies to write.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use crate::base::{InfoHash, PeerId};
use crate::proto::announce::{AnnounceEvent, AnnounceReply, AnnounceRequest, Retry};
use crate::proto::bencode::{DictWriter, Writer};
use crate::proto::peer_addr::encode;

/// Most peers that one announce is given, whatever it asks for.
pub const MAX_NUMWANT: u32 = 200;

/// Peers that an announce is given when it does not say how many it wants (BEP 3).
pub const DEFAULT_NUMWANT: u32 = 50;

/// Why an announce is refused: the words that the peer is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// `info_hash` is missing.
    #[error("info_hash is missing")]
    NoInfoHash,
    /// `info_hash` is given more than once: two readers might take two different ones.
    #[error("info_hash is given twice")]
    TwoInfoHashes,
    /// `info_hash` is not 20 bytes.
    #[error("info_hash is not 20 bytes")]
    InfoHash,
    /// `peer_id` is missing or not 20 bytes.
    #[error("peer_id is not 20 bytes")]
    PeerId,
    /// `port` is missing or not between 1 and 65535.
    #[error("port is not between 1 and 65535")]
    Port,
    /// `left` has more digits than any number of bytes.
    #[error("left is no number of bytes")]
    Left,
    /// A percent code is cut off or not hexadecimal.
    #[error("a percent code is malformed")]
    Percent,
}

/// Reads the query of an announce, as it stands behind the `?`.
///
/// Numbers that are missing or make no sense count as 0 (`left`: as "all", but one of more than 20 digits is refused), `numwant` is cut to [`MAX_NUMWANT`], an
/// unknown `event` counts as none. `ip` is ignored: the address is the connection's. Of other parameters the first counts.
///
/// # Errors
/// [`RequestError`], to be told to the peer with [`write_failure`].
pub fn parse_announce(query: &[u8]) -> Result<AnnounceRequest, RequestError> {
    let mut fields = Fields::default();
    for pair in query.split(|&byte| byte == b'&') {
        let split = pair.iter().position(|&byte| byte == b'=').unwrap_or(pair.len());
        let (name, value) = (&pair[..split], pair.get(split + 1..).unwrap_or_default());
        let field = match name {
            b"info_hash" if fields.info_hash.is_some() => return Err(RequestError::TwoInfoHashes),
            b"info_hash" => &mut fields.info_hash,
            b"peer_id" => &mut fields.peer_id,
            b"port" => &mut fields.port,
            b"uploaded" => &mut fields.uploaded,
            b"downloaded" => &mut fields.downloaded,
            b"left" => &mut fields.left,
            b"event" => &mut fields.event,
            b"numwant" => &mut fields.numwant,
            b"key" => &mut fields.key,
            b"trackerid" => &mut fields.tracker_id,
            _ => continue,
        };
        field.get_or_insert(value);
    }
    let info_hash = percent_decode(fields.info_hash.ok_or(RequestError::NoInfoHash)?)?;
    let peer_id = percent_decode(fields.peer_id.unwrap_or_default())?;
    let event = match fields.event {
        Some(b"started") => AnnounceEvent::Started,
        Some(b"completed") => AnnounceEvent::Completed,
        Some(b"stopped") => AnnounceEvent::Stopped,
        _ => AnnounceEvent::Periodic,
    };
    let port = number(fields.port).and_then(|port| u16::try_from(port).ok()).filter(|&port| port != 0);
    // Some that do not know it yet say -1, or as much as fits; nobody has a reason for more digits.
    let left = match fields.left {
        Some(text) if text.len() > MAX_DIGITS => return Err(RequestError::Left),
        text => number(text).unwrap_or(u64::MAX),
    };
    let numwant = match fields.numwant {
        Some(text) if text.starts_with(b"-") => DEFAULT_NUMWANT,
        text => number(text).map_or(DEFAULT_NUMWANT, |number| number.min(u64::from(MAX_NUMWANT)) as u32),
    };
    Ok(AnnounceRequest {
        info_hash: InfoHash::from_slice(&info_hash).ok_or(RequestError::InfoHash)?,
        peer_id: PeerId::from_slice(&peer_id).ok_or(RequestError::PeerId)?,
        port: port.ok_or(RequestError::Port)?,
        left,
        uploaded: number(fields.uploaded).unwrap_or(0),
        downloaded: number(fields.downloaded).unwrap_or(0),
        event,
        numwant,
        key: fields.key.and_then(|text| u32::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok()),
        tracker_id: fields.tracker_id.map(percent_decode).transpose()?.map(Cow::into_owned),
    })
}

/// The body that answers an announce: compact peers, IPv4 and IPv6 apart (BEP 7, 23).
pub fn write_reply(reply: &AnnounceReply) -> Vec<u8> {
    let compact = |v4: bool| {
        let mut out = Vec::new();
        reply.peers.iter().filter(|peer| peer.is_ipv4() == v4).for_each(|&peer: &SocketAddr| encode(peer, &mut out));
        out
    };
    write_compact_reply(reply, &compact(true), &compact(false))
}

/// As [`write_reply`], with peers that are in compact form already; those of `reply` are left out.
pub fn write_compact_reply(reply: &AnnounceReply, v4: &[u8], v6: &[u8]) -> Vec<u8> {
    Writer::dict_to_vec(|root| {
        write_number(root, "complete", reply.complete);
        write_number(root, "downloaded", reply.downloaded);
        match reply.external_ip {
            Some(IpAddr::V4(ip)) => root.key("external ip").bytes(ip.octets()),
            Some(IpAddr::V6(ip)) => root.key("external ip").bytes(ip.octets()),
            None => {}
        }
        write_number(root, "incomplete", reply.incomplete);
        write_number(root, "interval", reply.interval_seconds);
        write_number(root, "min interval", reply.min_interval_seconds);
        root.key("peers").bytes(v4);
        if !v6.is_empty() {
            root.key("peers6").bytes(v6);
        }
        if let Some(id) = &reply.tracker_id {
            root.key("tracker id").bytes(id);
        }
        if let Some(warning) = &reply.warning {
            root.key("warning message").bytes(warning);
        }
    })
}

/// One swarm in the answer to a scrape (BEP 48).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScrapedSwarm {
    /// Which.
    pub info_hash: InfoHash,
    /// Seeds.
    pub complete: u32,
    /// Times that a peer said `completed`.
    pub downloaded: u32,
    /// Leechers.
    pub incomplete: u32,
}

/// Reads the query of a scrape: the torrents asked for, at most `limit` of them, none twice, in order of their hash.
///
/// # Errors
/// [`RequestError`] for a hash that is none, or when there is none: nobody is told of every torrent.
pub fn parse_scrape(query: &[u8], limit: usize) -> Result<Vec<InfoHash>, RequestError> {
    let hashes = query.split(|&byte| byte == b'&').filter_map(|pair| pair.strip_prefix(b"info_hash=")).take(limit);
    let mut hashes = hashes
        .map(|hash| InfoHash::from_slice(&percent_decode(hash)?).ok_or(RequestError::InfoHash))
        .collect::<Result<Vec<_>, _>>()?;
    hashes.sort_unstable();
    hashes.dedup();
    if hashes.is_empty() { Err(RequestError::NoInfoHash) } else { Ok(hashes) }
}

/// The body that answers a scrape; `swarms` in order of their hash.
pub fn write_scrape(swarms: &[ScrapedSwarm]) -> Vec<u8> {
    Writer::dict_to_vec(|root| {
        root.key("files").dict(|files| {
            for swarm in swarms {
                files.key(swarm.info_hash.as_bytes()).dict(|file| {
                    file.key("complete").int(swarm.complete);
                    file.key("downloaded").int(swarm.downloaded);
                    file.key("incomplete").int(swarm.incomplete);
                });
            }
        });
    })
}

/// The body that refuses an announce or a scrape; `retry` says when to come again (BEP 31).
pub fn write_failure(reason: &str, retry: Option<Retry>) -> Vec<u8> {
    Writer::dict_to_vec(|root| {
        root.key("failure reason").bytes(reason);
        match retry {
            Some(Retry::Minutes(minutes)) => root.key("retry in").int(minutes),
            Some(Retry::Never) => root.key("retry in").bytes("never"),
            None => {}
        }
    })
}

fn write_number(root: &mut DictWriter, key: &str, value: Option<u32>) {
    if let Some(value) = value {
        root.key(key).int(value);
    }
}

/// The first value of each parameter, still percent-encoded.
#[derive(Debug, Default)]
struct Fields<'q> {
    info_hash: Option<&'q [u8]>,
    peer_id: Option<&'q [u8]>,
    port: Option<&'q [u8]>,
    uploaded: Option<&'q [u8]>,
    downloaded: Option<&'q [u8]>,
    left: Option<&'q [u8]>,
    event: Option<&'q [u8]>,
    numwant: Option<&'q [u8]>,
    key: Option<&'q [u8]>,
    tracker_id: Option<&'q [u8]>,
}

/// A decimal number, cut to 64 bits; none when it is something else.
fn number(text: Option<&[u8]>) -> Option<u64> {
    let text = text.filter(|text| !text.is_empty() && text.iter().all(u8::is_ascii_digit))?;
    Some(text.iter().fold(0_u64, |sum, digit| sum.saturating_mul(10).saturating_add(u64::from(digit - b'0'))))
}

/// Undoes percent codes; every other byte, `+` among them, stands for itself.
fn percent_decode(text: &[u8]) -> Result<Cow<'_, [u8]>, RequestError> {
    if !text.contains(&b'%') {
        return Ok(Cow::Borrowed(text));
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digit = |at: usize| after.get(at).and_then(|&digit| char::from(digit).to_digit(16));
        let (high, low) = digit(0).zip(digit(1)).ok_or(RequestError::Percent)?;
        out.push((high * 16 + low) as u8);
        rest = &after[2..];
    }
    Ok(Cow::Owned(out))
}

/// Those of 2^64.
const MAX_DIGITS: usize = 20;
