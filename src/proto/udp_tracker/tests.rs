use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::base::PeerId;

fn request() -> AnnounceRequest {
    AnnounceRequest {
        info_hash: InfoHash([0xaa; 20]),
        peer_id: PeerId([0xbb; 20]),
        port: 0x1ae1,
        uploaded: 3,
        downloaded: 1,
        left: 2,
        event: AnnounceEvent::Started,
        numwant: 50,
        key: Some(0xbeef),
        tracker_id: None,
    }
}

#[test]
fn questions_have_the_bytes_of_bep_15() {
    assert_eq!(write_connect(0x0102_0304), [0, 0, 4, 0x17, 0x27, 0x10, 0x19, 0x80, 0, 0, 0, 0, 1, 2, 3, 4]);
    let long = |number: u8| [0, 0, 0, 0, 0, 0, 0, number];
    let mut expected = vec![0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1, 0, 0, 0, 7];
    expected.extend([0xaa; 20].iter().chain(&[0xbb; 20]));
    expected.extend([long(1), long(2), long(3)].as_flattened());
    expected.extend([0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0xbe, 0xef, 0, 0, 0, 50, 0x1a, 0xe1]);
    assert_eq!(write_announce(9, 7, &request(), b""), expected);
    assert_eq!(expected.len(), 98);
    let scrape = write_scrape(9, 7, &InfoHash([0xaa; 20]));
    assert_eq!(scrape, [&[0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 2, 0, 0, 0, 7][..], &[0xaa; 20]].concat());
    for (event, number) in [(AnnounceEvent::Periodic, 0), (AnnounceEvent::Completed, 1), (AnnounceEvent::Stopped, 3)] {
        assert_eq!(write_announce(9, 7, &AnnounceRequest { event, ..request() }, b"")[83], number);
    }
}

#[test]
fn the_question_of_the_corpus_is_ours() {
    let sample = recorded("utreq-ok-connect");
    let transaction = u32::from_be_bytes(sample[12..16].try_into().unwrap());
    assert_eq!(write_connect(transaction), sample);
}

#[test]
fn the_url_goes_behind_the_announce_in_options() {
    assert_eq!(write_announce(9, 7, &request(), b"/dir?a=b")[98..], *b"\x02\x08/dir?a=b");
    let long = vec![b'x'; 300];
    let out = write_announce(9, 7, &request(), &long);
    assert_eq!((out[98..100].to_vec(), out[355..357].to_vec(), out.len()), (vec![2, 255], vec![2, 45], 98 + 304));
}

#[test]
fn answers_are_read_by_their_action() {
    let read = |bytes: &[u8]| parse_reply(bytes, false).map(|reply| (reply.transaction, reply.body));
    assert_eq!(read(b"\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\x09"), Some((7, ReplyBody::Connected(9))));
    let peers = b"\x7f\0\0\x01\x1a\xe1\x7f\0\0\x02\0\0\x7f\0"; // the second has port 0, the third is cut
    let announced = [&b"\0\0\0\x01\0\0\0\x07\0\0\x07\x08\0\0\0\x02\0\0\0\x03"[..], peers].concat();
    let reply = AnnounceReply {
        interval_seconds: Some(1800),
        incomplete: Some(2),
        complete: Some(3),
        peers: vec!["127.0.0.1:6881".parse().unwrap()],
        ..AnnounceReply::default()
    };
    assert_eq!(read(&announced), Some((7, ReplyBody::Announced(reply))));
    let scraped = b"\0\0\0\x02\0\0\0\x07\0\0\0\x03\0\0\0\x09\0\0\0\x02";
    let figures =
        ScrapeReply { complete: Some(3), downloaded: Some(9), incomplete: Some(2), min_interval_seconds: None };
    assert_eq!(read(scraped), Some((7, ReplyBody::Scraped(figures))));
    assert_eq!(read(b"\0\0\0\x03\0\0\0\x07no \x1b[2J\0rest"), Some((7, ReplyBody::Refused("no \\u{1b}[2J".into()))));
}

#[test]
fn peers_over_ipv6_have_18_bytes() {
    let mut bytes = b"\0\0\0\x01\0\0\0\x07\0\0\x07\x08\0\0\0\x02\0\0\0\x03".to_vec();
    for port in [1_u8, 2] {
        bytes.extend([&[0_u8; 15][..], &[1, 0, port]].concat());
    }
    let peers = |over_ipv6| match parse_reply(&bytes, over_ipv6).unwrap().body {
        ReplyBody::Announced(reply) => reply.peers,
        other => panic!("{other:?}"),
    };
    assert_eq!(peers(true), ["[::1]:1".parse().unwrap(), "[::1]:2".parse().unwrap()]);
}

#[test]
fn what_is_short_long_or_unknown_is_nothing() {
    for (action, least) in [(0, 16), (1, 20), (2, 20), (3, 8)] {
        let whole = [&[0, 0, 0, action, 0, 0, 0, 7][..], &[0; 12]].concat();
        for length in 0..least {
            assert_eq!(parse_reply(&whole[..length], false), None, "{action} {length}");
        }
        assert!(parse_reply(&whole[..least], false).is_some(), "{action}");
        let grown = |length| [&whole[..least], &vec![0; length - least]].concat();
        assert!(parse_reply(&grown(MAX_REPLY_BYTES), true).is_some());
        assert_eq!(parse_reply(&grown(MAX_REPLY_BYTES + 1), true), None);
    }
    assert_eq!(parse_reply(&[0, 0, 0, 99, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0], false), None);
}

fn recorded(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/corpus/wire/{name}.bin", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

#[test]
fn questions_of_the_corpus_are_read_or_dropped() {
    let body = |name: &str| parse_question(&recorded(name)).map(|question| format!("{:?}", question.body));
    assert_eq!(body("utreq-ok-connect").as_deref(), Some("Connect"));
    for name in ["bad-magic", "short-15", "empty", "announce-short", "action-99", "scrape-odd"] {
        assert_eq!(body(&format!("utreq-{name}")), None, "{name}");
    }
    assert!(body("utreq-forged-connid").unwrap().starts_with("Announce"));
    let many = recorded("utreq-scrape-200");
    let QuestionBody::Scrape { hashes, .. } = parse_question(&many).unwrap().body else { panic!("no scrape") };
    assert_eq!(hashes.len(), MAX_SCRAPED);
}

#[test]
fn what_is_asked_is_what_is_read() {
    let mut asked = request();
    for event in [AnnounceEvent::Periodic, AnnounceEvent::Completed, AnnounceEvent::Started, AnnounceEvent::Stopped] {
        asked.event = event;
        let datagram = write_announce(9, 7, &asked, b"/key/announce");
        let options = &datagram[98..];
        let body = QuestionBody::Announce { connection: 9, request: asked.clone(), options };
        assert_eq!(parse_question(&datagram), Some(Question { transaction: 7, body }));
        assert_eq!(*url_data(options), *b"/key/announce");
    }
    let scrape = write_scrape(9, 7, &InfoHash([3; 20]));
    let body = QuestionBody::Scrape { connection: 9, hashes: &[[3; 20]] };
    assert_eq!(parse_question(&scrape), Some(Question { transaction: 7, body }));
    assert_eq!(parse_question(&write_connect(7)), Some(Question { transaction: 7, body: QuestionBody::Connect }));
}

#[test]
fn the_number_wanted_is_clamped() {
    for (sent, read) in [(-1_i32, 50), (i32::MIN, 50), (0, 0), (7, 7), (i32::MAX, 200)] {
        let datagram = write_announce(9, 7, &AnnounceRequest { numwant: sent as u32, ..request() }, b"");
        let Some(Question { body: QuestionBody::Announce { request, .. }, .. }) = parse_question(&datagram) else {
            panic!("no announce")
        };
        assert_eq!(request.numwant, read, "{sent}");
    }
}

#[test]
fn options_end_where_they_are_broken() {
    for (options, read) in [
        (&b""[..], &b""[..]),
        (b"\x01\x01\x02\x02ab\x01\x02\x01c\x00\x02\x01d", b"abc"),
        (b"\x02\x05ab", b""),
        (b"\x02", b""),
        (b"\x63\x02\x01a", b""),
    ] {
        assert_eq!(*url_data(options), *read, "{options:?}");
    }
}

#[test]
fn answers_are_read_as_they_were_written() {
    let read = |bytes: &[u8]| parse_reply(bytes, false).map(|reply| (reply.transaction, reply.body)).unwrap();
    let mut out = Vec::new();
    write_connected(&mut out, 7, 9);
    assert_eq!((out.len(), read(&out)), (16, (7, ReplyBody::Connected(9))));
    let told = AnnounceReply {
        interval_seconds: Some(1800),
        incomplete: Some(2),
        complete: Some(3),
        ..AnnounceReply::default()
    };
    assert_eq!(read(&announced(7, 1800, 2, 3)), (7, ReplyBody::Announced(told)));
    out.clear();
    write_scraped(&mut out, 7);
    write_scraped_swarm(&mut out, 3, 9, 2);
    let told = ScrapeReply { complete: Some(3), downloaded: Some(9), incomplete: Some(2), min_interval_seconds: None };
    assert_eq!(read(&out), (7, ReplyBody::Scraped(told)));
    out.clear();
    write_refused(&mut out, 7, "no such torrent", 15);
    assert_eq!((out.len(), read(&out)), (15, (7, ReplyBody::Refused("no such".into()))));
}

proptest! {
    #[test]
    fn no_bytes_make_trouble(bytes in vec(any::<u8>(), 0..200), action in 0_u8..5, over_ipv6: bool) {
        let _ = parse_reply(&bytes, over_ipv6);
        let asked = [&9_u64.to_be_bytes()[..], &[0, 0, 0, action, 0, 0, 0, 7], &bytes].concat();
        if let Some(Question { body: QuestionBody::Announce { options, .. }, .. }) = parse_question(&asked) {
            let _ = url_data(options);
        }
        let told = [&[0, 0, 0, action, 0, 0, 0, 7], &bytes[..]].concat();
        let Some(reply) = parse_reply(&told, over_ipv6) else { return Ok(()) };
        prop_assert_eq!(reply.transaction, 7);
        match reply.body {
            ReplyBody::Announced(reply) => {
                let least = if over_ipv6 { 18 } else { 6 };
                prop_assert!(reply.peers.len() <= bytes.len() / least);
                prop_assert!(reply.peers.iter().all(|peer| peer.port() != 0 && peer.is_ipv6() == over_ipv6));
            }
            ReplyBody::Refused(text) => {
                prop_assert!(!text.contains(char::is_control) && text.chars().count() <= 203);
            }
            _ => {}
        }
    }

    #[test]
    fn announced_peers_round_trip(peers in vec((any::<[u8; 16]>(), 1_u16..), 0..100), over_ipv6: bool) {
        let mut bytes = [[0_u8, 0, 0, 1], [0, 0, 0, 7], [0; 4], [0; 4], [0; 4]].as_flattened().to_vec();
        let peers: Vec<std::net::SocketAddr> = peers
            .into_iter()
            .map(|(ip, port)| match over_ipv6 {
                true => (std::net::IpAddr::from(ip), port).into(),
                false => ([ip[0], ip[1], ip[2], ip[3]], port).into(),
            })
            .collect();
        peers.iter().for_each(|&peer| crate::proto::peer_addr::encode(peer, &mut bytes));
        let reply = parse_reply(&bytes, over_ipv6).unwrap();
        let read = matches!(&reply.body, ReplyBody::Announced(reply) if reply.peers == peers);
        prop_assert!(read, "{:?}", reply);
    }

    #[test]
    fn url_data_round_trips(url in vec(any::<u8>(), 0..2000)) {
        let out = write_announce(1, 2, &request(), &url);
        prop_assert_eq!(&*url_data(&out[98..]), &url[..url.len().min(MAX_URL_DATA_BYTES)]);
        prop_assert!(out.len() <= 1200);
    }
}
