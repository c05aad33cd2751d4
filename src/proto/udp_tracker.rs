//! Announces and scrapes over UDP (BEP 15, IPv6 by its last section, BEP 41): datagrams of the peer's side and of the
//! tracker's.
//!
//! What is asked when, and of whom an answer is taken, is decided elsewhere: here are single datagrams.

mod server;

pub use server::{
    ANNOUNCED_HEAD_BYTES, MAX_SCRAPED, Question, QuestionBody, announced, parse_question, url_data, write_connected,
    write_refused, write_scraped, write_scraped_swarm,
};

use super::announce::{AnnounceEvent, AnnounceReply, AnnounceRequest, ScrapeReply};
use super::path::escape_short;
use super::peer_addr::{decode_v4, decode_v6};
use crate::base::InfoHash;

/// The longest datagram that is taken for an answer: 450 IPv6 or 1360 IPv4 peers, and nobody is asked for more than 200.
pub const MAX_REPLY_BYTES: usize = 8192;

/// What a datagram asks for; stands in it as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A connection id.
    Connect = 0,
    /// Peers.
    Announce = 1,
    /// Figures.
    Scrape = 2,
}

/// A datagram of a tracker, judged by its form alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The number that the question carried, if this answers one.
    pub transaction: u32,
    /// What it says.
    pub body: ReplyBody,
}

/// What a tracker answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplyBody {
    /// To [`Action::Connect`]: an id that is good for a minute.
    Connected(u64),
    /// To [`Action::Announce`].
    Announced(AnnounceReply),
    /// To [`Action::Scrape`] of one torrent.
    Scraped(ScrapeReply),
    /// To anything: it says no. Its words, escaped and cut.
    Refused(String),
}

impl ReplyBody {
    /// Whether this can answer such a question.
    pub fn answers(&self, action: Action) -> bool {
        match self {
            Self::Connected(_) => action == Action::Connect,
            Self::Announced(_) => action == Action::Announce,
            Self::Scraped(_) => action == Action::Scrape,
            Self::Refused(_) => true,
        }
    }
}

/// The datagram that asks for a connection id: 8 bytes of protocol, 4 of action, 4 of transaction.
pub fn write_connect(transaction: u32) -> Vec<u8> {
    header(PROTOCOL_ID, Action::Connect, transaction)
}

/// The datagram that announces: 98 bytes, then `url_data` as options of at most 255 bytes each (BEP 41), none when it is
/// empty. Of more than [`MAX_URL_DATA_BYTES`] the rest is left out: that keeps to one datagram anywhere.
pub fn write_announce(connection: u64, transaction: u32, request: &AnnounceRequest, url_data: &[u8]) -> Vec<u8> {
    let mut out = header(connection, Action::Announce, transaction);
    out.extend_from_slice(request.info_hash.as_bytes());
    out.extend_from_slice(request.peer_id.as_bytes());
    for number in [request.downloaded, request.left, request.uploaded] {
        out.extend_from_slice(&number.to_be_bytes());
    }
    let event: u32 = match request.event {
        AnnounceEvent::Periodic => 0,
        AnnounceEvent::Completed => 1,
        AnnounceEvent::Started => 2,
        AnnounceEvent::Stopped => 3,
    };
    // The address is the sender's.
    for number in [event, 0, request.key.unwrap_or(0), request.numwant] {
        out.extend_from_slice(&number.to_be_bytes());
    }
    out.extend_from_slice(&request.port.to_be_bytes());
    for part in url_data[..url_data.len().min(MAX_URL_DATA_BYTES)].chunks(usize::from(u8::MAX)) {
        out.extend_from_slice(&[URL_DATA, part.len() as u8]);
        out.extend_from_slice(part);
    }
    out
}

/// The datagram that scrapes one torrent.
pub fn write_scrape(connection: u64, transaction: u32, info_hash: &InfoHash) -> Vec<u8> {
    let mut out = header(connection, Action::Scrape, transaction);
    out.extend_from_slice(info_hash.as_bytes());
    out
}

/// Reads a datagram: 4 bytes of action, 4 of transaction, then by the action. Peers are 18 bytes each if it came over
/// IPv6, else 6; a tail shorter than a peer is dropped, as is what follows a fixed part (BEP 15: do not expect exact sizes).
///
/// `None` when it is too short for its action, longer than [`MAX_REPLY_BYTES`], or of an unknown action.
pub fn parse_reply(datagram: &[u8], over_ipv6: bool) -> Option<Reply> {
    if datagram.len() > MAX_REPLY_BYTES {
        return None;
    }
    let (action, rest) = number(datagram)?;
    let (transaction, rest) = number(rest)?;
    let body = match action {
        0 => ReplyBody::Connected(u64::from_be_bytes(*rest.first_chunk()?)),
        1 => {
            let (interval, rest) = number(rest)?;
            let (leechers, rest) = number(rest)?;
            let (seeds, rest) = number(rest)?;
            ReplyBody::Announced(AnnounceReply {
                interval_seconds: Some(interval),
                incomplete: Some(leechers),
                complete: Some(seeds),
                peers: if over_ipv6 { decode_v6(rest).collect() } else { decode_v4(rest).collect() },
                ..AnnounceReply::default()
            })
        }
        2 => {
            let (seeds, rest) = number(rest)?;
            let (completed, rest) = number(rest)?;
            let (leechers, _) = number(rest)?;
            ReplyBody::Scraped(ScrapeReply {
                complete: Some(seeds),
                downloaded: Some(completed),
                incomplete: Some(leechers),
                min_interval_seconds: None,
            })
        }
        3 => {
            // Some end it as C does.
            let text = rest.split(|&byte| byte == 0).next().unwrap_or_default();
            ReplyBody::Refused(escape_short(text.trim_ascii(), 200))
        }
        _ => return None,
    };
    Some(Reply { transaction, body })
}

fn header(connection: u64, action: Action, transaction: u32) -> Vec<u8> {
    let mut out = connection.to_be_bytes().to_vec();
    out.extend_from_slice(&(action as u32).to_be_bytes());
    out.extend_from_slice(&transaction.to_be_bytes());
    out
}

fn number(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (first, rest) = bytes.split_first_chunk()?;
    Some((u32::from_be_bytes(*first), rest))
}

/// The longest path and query that are sent along.
pub const MAX_URL_DATA_BYTES: usize = 1020;
/// Stands in a connect where others have the connection id.
const PROTOCOL_ID: u64 = 0x417_2710_1980;
/// The option of BEP 41 that carries a part of the URL.
const URL_DATA: u8 = 2;

#[cfg(test)]
mod tests;
