//! The tracker's side of UDP: questions to read, answers to write.
//!
//! Whether an address may be answered (its connection id) is decided elsewhere.

use std::borrow::Cow;

use super::{Action, PROTOCOL_ID, URL_DATA, number};
use crate::base::{InfoHash, PeerId};
use crate::proto::announce::{AnnounceEvent, AnnounceRequest};
use crate::proto::http_tracker::{DEFAULT_NUMWANT, MAX_NUMWANT};

/// Torrents of one scrape at most (BEP 15); what is asked beyond is not answered.
pub const MAX_SCRAPED: usize = 74;

/// Bytes of an answer to an announce before its first peer.
pub const ANNOUNCED_HEAD_BYTES: usize = 20;

/// A datagram of a peer, judged by its form alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question<'d> {
    /// What the answer repeats.
    pub transaction: u32,
    /// What is asked.
    pub body: QuestionBody<'d>,
}

/// What a peer asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QuestionBody<'d> {
    /// For a connection id.
    Connect,
    /// For peers.
    Announce {
        /// What proves the address.
        connection: u64,
        /// What it says of itself; `port` is as sent, it may be 0.
        request: AnnounceRequest,
        /// What stands behind the fixed part (BEP 41); see [`url_data`].
        options: &'d [u8],
    },
    /// For figures.
    Scrape {
        /// What proves the address.
        connection: u64,
        /// 1 to [`MAX_SCRAPED`] info-hashes.
        hashes: &'d [[u8; 20]],
    },
}

/// Reads a datagram: 8 bytes of connection id, 4 of action, 4 of transaction, then by the action. What follows a fixed
/// part and is no option, and a hash that is cut off, are dropped (BEP 15: do not expect exact sizes).
///
/// An unknown event counts as none. `numwant` below zero is the usual number, above [`MAX_NUMWANT`] that. The address
/// that a peer claims is not read.
///
/// `None` when it is too short for its action, of an unknown action, or a connect without the protocol's number.
pub fn parse_question(datagram: &[u8]) -> Option<Question<'_>> {
    let (connection, rest) = datagram.split_first_chunk()?;
    let connection = u64::from_be_bytes(*connection);
    let (action, rest) = number(rest)?;
    let (transaction, rest) = number(rest)?;
    let body = match action {
        0 if connection == PROTOCOL_ID => QuestionBody::Connect,
        1 => {
            let (hash, rest) = rest.split_first_chunk()?;
            let (peer_id, rest) = rest.split_first_chunk()?;
            let (downloaded, rest) = rest.split_first_chunk()?;
            let (left, rest) = rest.split_first_chunk()?;
            let (uploaded, rest) = rest.split_first_chunk()?;
            let (event, rest) = number(rest)?;
            let (_address, rest) = number(rest)?;
            let (key, rest) = number(rest)?;
            let (numwant, rest) = number(rest)?;
            let (port, options) = rest.split_first_chunk()?;
            let request = AnnounceRequest {
                info_hash: InfoHash(*hash),
                peer_id: PeerId(*peer_id),
                port: u16::from_be_bytes(*port),
                uploaded: u64::from_be_bytes(*uploaded),
                downloaded: u64::from_be_bytes(*downloaded),
                left: u64::from_be_bytes(*left),
                event: match event {
                    1 => AnnounceEvent::Completed,
                    2 => AnnounceEvent::Started,
                    3 => AnnounceEvent::Stopped,
                    _ => AnnounceEvent::Periodic,
                },
                numwant: if (numwant as i32) < 0 { DEFAULT_NUMWANT } else { numwant.min(MAX_NUMWANT) },
                key: Some(key),
                tracker_id: None,
            };
            QuestionBody::Announce { connection, request, options }
        }
        2 => {
            let (hashes, _) = rest.as_chunks();
            if hashes.is_empty() {
                return None;
            }
            QuestionBody::Scrape { connection, hashes: &hashes[..hashes.len().min(MAX_SCRAPED)] }
        }
        _ => return None,
    };
    Some(Question { transaction, body })
}

/// The path and query that options carry (BEP 41): all parts joined; an option that is unknown or cut off ends them.
pub fn url_data(mut options: &[u8]) -> Cow<'_, [u8]> {
    let mut joined = Cow::Borrowed(&[][..]);
    while let Some((&kind, rest)) = options.split_first() {
        match (kind, rest.split_first()) {
            // A filler of one byte.
            (1, _) => options = rest,
            (URL_DATA, Some((&length, rest))) if usize::from(length) <= rest.len() => {
                let (part, rest) = rest.split_at(usize::from(length));
                if joined.is_empty() {
                    joined = Cow::Borrowed(part);
                } else {
                    joined.to_mut().extend_from_slice(part);
                }
                options = rest;
            }
            _ => break,
        }
    }
    joined
}

/// Appends the answer to a connect: 16 bytes, as many as were asked with.
pub fn write_connected(out: &mut Vec<u8>, transaction: u32, connection: u64) {
    head(out, Action::Connect as u32, transaction);
    out.extend_from_slice(&connection.to_be_bytes());
}

/// The beginning of the answer to an announce. Its peers follow in compact form, of the family that was asked over.
pub fn announced(transaction: u32, interval_seconds: u32, leechers: u32, seeds: u32) -> [u8; ANNOUNCED_HEAD_BYTES] {
    let mut out = [0; ANNOUNCED_HEAD_BYTES];
    let numbers = [Action::Announce as u32, transaction, interval_seconds, leechers, seeds];
    for (place, number) in out.as_chunks_mut().0.iter_mut().zip(numbers) {
        *place = number.to_be_bytes();
    }
    out
}

/// Appends the answer to a scrape without its figures.
pub fn write_scraped(out: &mut Vec<u8>, transaction: u32) {
    head(out, Action::Scrape as u32, transaction);
}

/// Appends the figures of the next torrent, in the order of the question.
pub fn write_scraped_swarm(out: &mut Vec<u8>, seeds: u32, completed: u32, leechers: u32) {
    for number in [seeds, completed, leechers] {
        out.extend_from_slice(&number.to_be_bytes());
    }
}

/// Appends a refusal; of `reason` as much as fits into `room` bytes, so that nobody is sent more than he has sent.
pub fn write_refused(out: &mut Vec<u8>, transaction: u32, reason: &str, room: usize) {
    head(out, 3, transaction);
    out.extend_from_slice(&reason.as_bytes()[..reason.len().min(room.saturating_sub(8))]);
}

fn head(out: &mut Vec<u8>, action: u32, transaction: u32) {
    out.extend_from_slice(&action.to_be_bytes());
    out.extend_from_slice(&transaction.to_be_bytes());
}
