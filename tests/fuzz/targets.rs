//! What is fuzzed: every reader of bytes that somebody else may have written. A target takes any bytes and panics when
//! what it tries does something that it promises not to do; that it panics nowhere else is the first promise.
//!
//! Shared by the fuzzer (`fuzz_targets/`) and by `tests/it/fuzz.rs`, which replays the seeds.
#![allow(dead_code, reason = "each fuzz target uses one function")]

#[path = "targets/tracker.rs"]
mod tracker;

pub use tracker::*;

use std::collections::BTreeMap;
use std::sync::Arc;

use btfs::base::{FileSpec, InfoHash, Layout};
use btfs::proto::bencode::{self, Value, Writer};
use btfs::proto::metainfo::{Change, EntryKind, Metainfo, edit};
use btfs::proto::path::is_unsafe_on_a_terminal;
use btfs::proto::wire::{Decoder, ExtensionHandshake, Handshake, Message, codec, extension, handshake};
use btfs::proto::{http_tracker, udp_tracker};
use bytes::BytesMut;
use sha1::{Digest, Sha1};

/// The scanner, and all ways to walk through what it has accepted.
pub fn bencode(data: &[u8]) {
    let Ok(scanned) = bencode::scan(data) else { return };
    let root = scanned.root;
    assert_eq!(root.raw().len() + scanned.trailing, data.len());
    let again = bencode::scan(root.raw()).expect("what was accepted stays acceptable");
    assert_eq!((again.root.raw(), again.trailing, again.unsorted), (root.raw(), 0, scanned.unsorted));
    let mut tokens = 0;
    walk(root, &mut tokens);
    let mut writer = Writer::default();
    // What is sorted and whose integers fit has one form only: what we write of it is what was there.
    if copy(root, &mut writer) && !scanned.unsorted {
        assert_eq!(writer.into_vec(), root.raw());
    }
}

/// Looks at a value in every way there is. Nesting is bounded by the scanner.
fn walk(value: Value<'_>, tokens: &mut usize) {
    *tokens += 1;
    let kinds = [value.as_bytes().is_some(), value.is_integer(), value.as_dict().is_some(), value.as_list().is_some()];
    assert_eq!(kinds.iter().filter(|&&is| is).count(), 1, "{:?} is of one kind", value.raw());
    let _ = (value.as_str(), value.as_i64(), value.as_u64());
    if let Some(dict) = value.as_dict() {
        let mut bytes = 2;
        for (key, value) in dict.iter() {
            assert_eq!(dict.get(key), Some(value), "a key is there once");
            bytes += key.len() + key.len().to_string().len() + 1 + value.raw().len();
            walk(value, tokens);
        }
        assert_eq!(bytes, dict.as_value().raw().len(), "nothing of a dictionary is passed over");
    }
    if let Some(list) = value.as_list() {
        let bytes: usize = list.map(|value| (walk(value, tokens), value.raw().len()).1).sum();
        assert_eq!(bytes + 2, value.raw().len(), "nothing of a list is passed over");
    }
    let mut cursor = value.cursor_inside();
    while cursor.value().is_some() {}
}

/// Writes a value anew; false when it has integers that do not fit.
fn copy(value: Value<'_>, writer: &mut Writer) -> bool {
    if let Some(bytes) = value.as_bytes() {
        writer.bytes(bytes);
        true
    } else if value.is_integer() {
        value.as_i64().map(|number| writer.int(number)).is_some()
    } else if let Some(list) = value.as_list() {
        let mut all = true;
        writer.list(|inner| list.for_each(|value| all &= copy(value, inner)));
        all
    } else {
        let mut all = true;
        let dict = value.as_dict().expect("of one kind");
        writer.dict(|inner| dict.iter().for_each(|(key, value)| all &= copy(value, inner.key(key))));
        all
    }
}

/// Torrent files, and bare info dictionaries.
pub fn metainfo(data: &[u8]) {
    match Metainfo::parse(data) {
        Ok(metainfo) => {
            check_torrent(&metainfo);
            let bare = Metainfo::from_info(metainfo.info.clone()).expect("the info dictionary alone is usable");
            assert_eq!((bare.info_hash, bare.info_hash_v2), (metainfo.info_hash, metainfo.info_hash_v2));
            assert_eq!((&bare.name, bare.layout), (&metainfo.name, metainfo.layout));
            let changes = [Change::AddTier(vec!["udp://a.example:1".to_owned()]), Change::Comment(None)];
            let edited = edit(data, &changes).expect("every torrent can be changed");
            assert_eq!(edited.metainfo.info, metainfo.info, "beside its info dictionary");
        }
        Err(error) => assert_plain(&error.to_string()),
    }
    if let Ok(metainfo) = Metainfo::from_info(data.to_vec().into()) {
        check_torrent(&metainfo);
    }
}

fn check_torrent(metainfo: &Metainfo) {
    metainfo.warnings.iter().for_each(|line| assert_plain(line));
    assert!(metainfo.info_hash.is_some() || metainfo.info_hash_v2.is_some());
    let layout = &metainfo.layout;
    assert_eq!(layout.file_count(), metainfo.entries.len());
    assert!(layout.total_bytes() > 0);
    if metainfo.info_hash.is_some() {
        assert_eq!(metainfo.piece_hashes.len(), layout.piece_count() * 20);
    }
    let safe = |name: &[u8]| {
        let bad = name.is_empty() || name.len() > 255 || name == b"." || name == b".." || name.contains(&b'/');
        !bad && std::str::from_utf8(name).is_ok() && !name.contains(&0)
    };
    assert!(safe(&metainfo.name), "{:?}", metainfo.name);
    let mut paths = Vec::new();
    for entry in metainfo.entries.iter().filter(|entry| entry.kind != EntryKind::Padding) {
        assert!(entry.path.split(|&byte| byte == b'/').all(safe), "{:?}", entry.path);
        paths.push(&entry.path);
    }
    paths.sort();
    assert!(paths.windows(2).all(|pair| pair[0] != pair[1]), "two entries of one name");
    let lengths: u64 = layout.files().map(|file| layout.file_bytes(file)).sum();
    assert_eq!(lengths, layout.total_bytes());
    let last = layout.pieces().last().expect("at least one piece");
    assert_eq!(layout.piece_start(last) + u64::from(layout.piece_bytes(last)), layout.total_bytes());
}

/// One connection: a handshake's bytes, then messages, cut where the first byte says.
pub fn wire(data: &[u8]) {
    let Some((&cut, data)) = data.split_first() else { return };
    let mut stream = data;
    if let Some(Some(read)) = data.first_chunk().map(Handshake::decode) {
        stream = &data[handshake::HANDSHAKE_BYTES..];
        assert_eq!(&read.encode()[..], &data[..handshake::HANDSHAKE_BYTES]);
        assert_eq!(handshake::info_hash_of(data), Some(read.info_hash));
        let _ = (read.fast(), read.extended());
    }
    assert!(handshake::info_hash_of(data).is_none() || handshake::may_be_handshake(data));

    let layout = Arc::new(wire_layout());
    let whole = messages(&layout, stream, stream.len().max(1));
    let parts = messages(&layout, stream, usize::from(cut).max(1));
    assert_eq!(whole, parts, "where the stream is cut decides nothing");
    for message in &whole.0 {
        let mut out = BytesMut::new();
        codec::encode(message, &mut out);
        if let Message::Unknown(_) = message {
            assert!(out.is_empty());
            continue;
        }
        let mut decoder = Decoder::new(layout.clone());
        assert_eq!(decoder.decode(&mut out), Ok(Some(message.clone())), "what is written is what is read");
        assert!(out.is_empty());
        if let Message::Extended { payload, .. } = message {
            extended(payload);
        }
    }
    extended(stream);
}

fn extended(payload: &[u8]) {
    let Some(read) = ExtensionHandshake::decode(payload) else { return };
    assert!(read.extensions.len() <= extension::MAX_EXTENSIONS);
    // A name that was not UTF-8 is longer than it was, and cut again.
    let mut written = ExtensionHandshake { client: None, ..read };
    written.extensions.sort();
    assert_eq!(ExtensionHandshake::decode(&written.encode()), Some(written));
}

/// Messages in a stream of which so many bytes come at a time, and what was wrong with it.
fn messages(layout: &Arc<Layout>, data: &[u8], at_a_time: usize) -> (Vec<Message>, Option<&'static str>) {
    let mut decoder = Decoder::new(layout.clone());
    let (mut buffer, mut found) = (BytesMut::new(), Vec::new());
    for part in data.chunks(at_a_time) {
        buffer.extend_from_slice(part);
        loop {
            match decoder.decode(&mut buffer) {
                Ok(Some(message)) => found.push(message),
                Ok(None) => break,
                Err(error) => return (found, Some(error.reason())),
            }
        }
        let missing = decoder.missing(&buffer);
        assert!((1..=codec::MAX_MESSAGE_BYTES as usize + 4).contains(&missing), "{missing} bytes are missing");
    }
    (found, None)
}

/// Thirteen pieces of 48 KiB but the last, so that every kind of block has its place.
pub fn wire_layout() -> Layout {
    Layout::new(48 * 1024, &[FileSpec { length: 12 * 48 * 1024 + 20_000, padding: false }]).expect("a valid layout")
}

/// What trackers answer over HTTP, and what they are asked.
pub fn tracker_http(data: &[u8]) {
    match http_tracker::parse_reply(data) {
        Ok(reply) => {
            assert!(reply.peers.len() <= http_tracker::MAX_PEERS);
            assert!(reply.peers.iter().all(|peer| peer.port() != 0));
            reply.warning.iter().for_each(|text| assert_plain(text));
            assert!(reply.tracker_id.as_ref().is_none_or(|id| id.len() <= 256));
            let again = http_tracker::parse_reply(&http_tracker::write_reply(&reply)).expect("what we write we read");
            let sorted = |mut peers: Vec<std::net::SocketAddr>| {
                peers.sort();
                peers
            };
            assert_eq!(sorted(again.peers), sorted(reply.peers));
            assert_eq!((again.interval_seconds, again.complete), (reply.interval_seconds, reply.complete));
            assert_eq!((again.tracker_id, again.external_ip), (reply.tracker_id, reply.external_ip));
        }
        Err(http_tracker::TrackerError::Refused { reason, .. }) => assert_plain(&reason),
        Err(error) => assert_plain(&error.to_string()),
    }
    let hash = InfoHash([b'a'; 20]);
    if let Err(error) = http_tracker::parse_scrape_reply(data, &hash) {
        assert_plain(&error.to_string());
    }
    if let Ok(request) = http_tracker::parse_announce(data) {
        assert!(request.port != 0 && request.numwant <= http_tracker::MAX_NUMWANT);
        let url = http_tracker::announce_url("http://tracker.example/announce", &request);
        let query = url.split_once('?').expect("an announce has a query").1;
        let again = http_tracker::parse_announce(query.as_bytes()).expect("what we ask we understand");
        assert_eq!(again, request);
    }
    if let Ok(hashes) = http_tracker::parse_scrape(data, 64) {
        assert!((1..=64).contains(&hashes.len()) && hashes.is_sorted());
    }
    if let Ok(url) = std::str::from_utf8(data) {
        let _ = (btfs::proto::announce::tracker_scheme(url), btfs::proto::announce::tracker_host(url));
        let _ = (btfs::proto::announce::path_and_query(url), http_tracker::scrape_url(url, &hash));
    }
}

/// Datagrams of UDP trackers, and those that they are sent.
pub fn tracker_udp(data: &[u8]) {
    if let Some(question) = udp_tracker::parse_question(data) {
        assert_eq!(question.transaction.to_be_bytes(), data[12..16]);
        let mut refusal = Vec::new();
        udp_tracker::write_refused(&mut refusal, question.transaction, "a reason that is longer than most", data.len());
        assert!(refusal.len() <= data.len(), "nobody is sent more than he has sent");
        match question.body {
            udp_tracker::QuestionBody::Announce { connection, request, options } => {
                assert!(request.numwant <= http_tracker::MAX_NUMWANT);
                let url = udp_tracker::url_data(options);
                assert!(url.len() < data.len());
                let again = udp_tracker::write_announce(connection, question.transaction, &request, &url);
                let again = udp_tracker::parse_question(&again).expect("what we ask we understand");
                let udp_tracker::QuestionBody::Announce { request: read, options, .. } = again.body else {
                    panic!("an announce is one")
                };
                assert_eq!(read, request);
                assert!(url.len() > udp_tracker::MAX_URL_DATA_BYTES || *udp_tracker::url_data(options) == *url);
            }
            udp_tracker::QuestionBody::Scrape { hashes, .. } => {
                assert!((1..=udp_tracker::MAX_SCRAPED).contains(&hashes.len()));
            }
            udp_tracker::QuestionBody::Connect => assert!(data.len() >= 16),
        }
    }
    for over_ipv6 in [false, true] {
        let Some(reply) = udp_tracker::parse_reply(data, over_ipv6) else { continue };
        assert_eq!(reply.transaction.to_be_bytes(), data[4..8]);
        let kinds = [udp_tracker::Action::Connect, udp_tracker::Action::Announce, udp_tracker::Action::Scrape];
        let answers = kinds.into_iter().filter(|&kind| reply.body.answers(kind)).count();
        match reply.body {
            udp_tracker::ReplyBody::Announced(reply) => {
                assert!(reply.peers.len() <= data.len() / 6);
                assert!(reply.peers.iter().all(|peer| peer.port() != 0));
                assert!(reply.peers.iter().all(|peer| over_ipv6 || peer.is_ipv4()));
            }
            udp_tracker::ReplyBody::Refused(words) => {
                assert_plain(&words);
                assert_eq!(answers, 3);
            }
            _ => assert_eq!(answers, 1),
        }
    }
}

/// The small files of a slot. The first byte says what follows: files as they are, or with the checksums that such files
/// have, so that what stands behind those is reached as well. A file is its name's number, its length (2 bytes,
/// little-endian) and its bytes; number 0 is `state`.
pub fn resume(data: &[u8]) {
    let Some((&how, mut rest)) = data.split_first() else { return };
    let mut files = BTreeMap::new();
    while let Some((&[name, low, high], behind)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_le_bytes([low, high])).min(behind.len());
        let (bytes, behind) = behind.split_at(length);
        rest = behind;
        let number = u64::from(name);
        let (name, sealed) = match name {
            0 => ("state".to_owned(), sealed_state(bytes)),
            _ => (format!("journal.{number}"), sealed_journal(number, bytes)),
        };
        files.insert(name, if how & 1 == 1 { sealed } else { bytes.to_vec() });
    }
    let layout = resume_layout();
    let claims = btfs::storage::claims(&files, RESUME_TORRENT, &layout, RESUME_BOOT);
    for pieces in [&claims.have, &claims.unchecked, &claims.unsynced] {
        assert_eq!(pieces.len(), layout.piece_count());
    }
    assert!(!claims.have.has_any_in(&claims.unchecked), "a piece is had, or to be checked: {claims:?}");
    assert!(claims.unsynced.iter().all(|piece| claims.have.has(piece)), "only what is had can be lost: {claims:?}");
    if claims.damage.is_some() || !files.contains_key("state") {
        assert_eq!((claims.have.count(), claims.unchecked.count()), (0, 0), "claims without a checkpoint: {claims:?}");
    }
    if let Some(damage) = claims.damage {
        assert_plain(&damage);
    }
}

/// Two files in pieces that they share.
pub fn resume_layout() -> Layout {
    let specs = [FileSpec { length: 800, padding: false }, FileSpec { length: 805, padding: false }];
    Layout::new(16, &specs).expect("a valid layout")
}

/// Whose slot it is.
pub const RESUME_TORRENT: InfoHash = InfoHash([3; 20]);
/// The boot id of the run.
pub const RESUME_BOOT: [u8; 16] = [9; 16];

/// A checkpoint with this body, its header right.
pub fn sealed_state(body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u64).to_le_bytes();
    [b"btfsstat", &1_u32.to_le_bytes()[..], &length, &Sha1::digest(body)[..], body].concat()
}

/// A journal of these records, each a byte of kind and its payload, with header, sequence and checksums right.
pub fn sealed_journal(number: u64, mut records: &[u8]) -> Vec<u8> {
    let mut out = [b"btfsjrnl", &1_u32.to_le_bytes()[..], &number.to_le_bytes()].concat();
    out.extend_from_slice(RESUME_TORRENT.as_bytes());
    // Of this boot or of another one.
    let same = number % 2 == 1;
    out.extend_from_slice(&if same { RESUME_BOOT } else { [8; 16] });
    out.resize(68, 0);
    out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
    let mut sequence = 0_u32;
    while let Some((&kind, behind)) = records.split_first() {
        let payload = match kind % 8 {
            1 | 2 => 4,
            3 => 8,
            4 => 44,
            _ => 0,
        };
        let Some((payload, behind)) = behind.split_at_checked(payload) else { break };
        records = behind;
        let record = [&[kind % 8], &sequence.to_le_bytes()[..], payload].concat();
        let crc = crc32fast::hash(&[&number.to_le_bytes()[..], &record].concat());
        out.extend_from_slice(&record);
        out.extend_from_slice(&crc.to_le_bytes());
        sequence += 1;
    }
    out
}

/// One line without anything that a terminal would obey.
fn assert_plain(text: &str) {
    assert!(!text.chars().any(is_unsafe_on_a_terminal), "{text:?}");
}
