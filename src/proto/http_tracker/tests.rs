use proptest::prelude::*;

use super::*;
use crate::base::{InfoHash, PeerId};
use crate::proto::announce::AnnounceEvent;

fn request() -> AnnounceRequest {
    AnnounceRequest {
        info_hash: InfoHash(*b"\x00\xd1 %&=+#?azAZ09-._~\xff"),
        peer_id: PeerId(*b"-BT0001-\x01\x02\x03\x04abcdefgh"),
        port: 6881,
        uploaded: 1,
        downloaded: 2,
        left: 3,
        event: AnnounceEvent::Started,
        numwant: 50,
        key: Some(0xbeef),
        tracker_id: Some(b"a&b".to_vec()),
    }
}

#[test]
fn the_announce_url_keeps_what_the_tracker_has() {
    let tail = "info_hash=%00%D1%20%25%26%3D%2B%23%3FazAZ09-._~%FF&peer_id=-BT0001-%01%02%03%04abcdefgh&port=6881\
                &uploaded=1&downloaded=2&left=3&compact=1&numwant=50&event=started&key=0000BEEF&trackerid=a%26b";
    for (tracker, front) in [
        ("http://t/a", "http://t/a?"),
        ("http://t:80", "http://t:80/?"),
        ("http://t/a?passkey=x%2fY", "http://t/a?passkey=x%2fY&"),
        ("http://t/a?", "http://t/a?"),
        ("http://t/a?x&", "http://t/a?x&"),
        ("http://t/%7Ea#frag", "http://t/%7Ea?"),
    ] {
        assert_eq!(announce_url(tracker, &request()), format!("{front}{tail}"));
    }
}

#[test]
fn what_the_peer_asks_is_what_the_tracker_reads() {
    for event in [AnnounceEvent::Periodic, AnnounceEvent::Started, AnnounceEvent::Completed, AnnounceEvent::Stopped] {
        let request = AnnounceRequest { event, ..request() };
        let url = announce_url("http://t/a?passkey=1", &request);
        assert_eq!(parse_announce(url.split_once('?').unwrap().1.as_bytes()), Ok(request));
    }
}

#[test]
fn replies_round_trip() {
    let reply = AnnounceReply {
        interval_seconds: Some(1800),
        min_interval_seconds: Some(60),
        peers: vec!["10.0.0.1:6881".parse().unwrap(), "[2001:db8::1]:51413".parse().unwrap()],
        complete: Some(3),
        incomplete: Some(4),
        downloaded: Some(5),
        warning: Some("slow down".into()),
        external_ip: Some("192.0.2.7".parse().unwrap()),
        tracker_id: Some(b"xyz".to_vec()),
    };
    assert_eq!(parse_reply(&write_reply(&reply)), Ok(reply));
    assert_eq!(parse_reply(&write_reply(&AnnounceReply::default())), Ok(AnnounceReply::default()));
    for retry in [None, Some(Retry::Minutes(30)), Some(Retry::Never)] {
        let refused = TrackerError::Refused { reason: "not registered".into(), retry };
        assert_eq!(parse_reply(&write_failure("not registered", retry)), Err(refused));
    }
}

#[test]
fn peers_come_as_strings_or_dictionaries() {
    let list =
        b"d5:peersld2:ip9:127.0.0.17:peer id20:aaaaaaaaaaaaaaaaaaaa4:porti6881eed2:ip3:::14:porti1eed2:ip7:no.such\
4:porti1eed2:ip9:127.0.0.24:porti0eed2:ip9:127.0.0.34:porti65536eei7eee";
    let peers: Vec<_> = parse_reply(list).unwrap().peers.iter().map(ToString::to_string).collect();
    assert_eq!(peers, ["127.0.0.1:6881", "[::1]:1"]);
    assert_eq!(parse_reply(b"d5:peersi7ee").unwrap().peers, []);
    let many = [b"d5:peers60000:".to_vec(), vec![1; 60_000], b"e".to_vec()].concat();
    assert_eq!(parse_reply(&many).unwrap().peers.len(), MAX_PEERS);
}

#[test]
fn refusals_say_when_to_come_again() {
    for (body, retry) in [
        ("d14:failure reason2:no8:retry ini30ee", Some(Retry::Minutes(30))),
        ("d14:failure reason2:no8:retry in2:15e", Some(Retry::Minutes(15))),
        ("d14:failure reason2:no8:retry in5:nevere", Some(Retry::Never)),
        ("d14:failure reason2:no8:retry in4:soone", None),
    ] {
        assert_eq!(parse_reply(body.as_bytes()), Err(TrackerError::Refused { reason: "no".into(), retry }), "{body}");
    }
}

#[test]
fn a_tracker_is_scraped_where_its_url_allows_it() {
    let hash = InfoHash([b'a'; 20]);
    let tail = "info_hash=aaaaaaaaaaaaaaaaaaaa";
    for (tracker, front) in [
        ("http://example.com/announce", Some("http://example.com/scrape?")),
        ("http://example.com/x/announce", Some("http://example.com/x/scrape?")),
        ("http://example.com/announce.php", Some("http://example.com/scrape.php?")),
        ("http://example.com/announce?x2%0644", Some("http://example.com/scrape?x2%0644&")),
        ("https://example.com:80/announce?passkey=a/b#frag", Some("https://example.com:80/scrape?passkey=a/b&")),
        ("http://example.com/announce?", Some("http://example.com/scrape?")),
        ("http://example.com/a", None),
        ("http://example.com/x%064announce", None),
        ("http://example.com/announce/passkey", None),
        ("http://example.com/x?y=/announce", None),
        ("http://announce", None),
        ("http://announce.example/", None),
    ] {
        assert_eq!(scrape_url(tracker, &hash), front.map(|front| format!("{front}{tail}")), "{tracker}");
    }
}

#[test]
fn scrapes_round_trip_and_strange_ones_tell_nothing() {
    let swarm =
        |byte, seeds| ScrapedSwarm { info_hash: InfoHash([byte; 20]), complete: seeds, downloaded: 9, incomplete: 2 };
    let body = write_scrape(&[swarm(b'a', 4), swarm(b'b', 5)]);
    let figures = |complete| ScrapeReply { complete, downloaded: Some(9), incomplete: Some(2), ..Default::default() };
    assert_eq!(parse_scrape_reply(&body, &InfoHash([b'b'; 20])), Ok(figures(Some(5))));
    let flags = b"d5:filesde5:flagsd20:min_request_intervali900eee";
    let nothing = ScrapeReply::default();
    for (body, expected) in [
        (&flags[..], ScrapeReply { min_interval_seconds: Some(900), ..nothing }),
        (b"d5:filesi7ee", nothing),
        (b"d5:filesd20:aaaaaaaaaaaaaaaaaaaai7eee", nothing),
        (
            b"d5:filesd20:aaaaaaaaaaaaaaaaaaaad8:completei-1e10:downloaded1:xeee",
            ScrapeReply { complete: Some(0), ..nothing },
        ),
        (b"de", nothing),
    ] {
        let shown = String::from_utf8_lossy(body);
        assert_eq!(parse_scrape_reply(body, &InfoHash([b'a'; 20])), Ok(expected), "{shown}");
    }
    for key in ["failure reason", "failure_reason"] {
        let body = format!("d14:{key}2:noe");
        let refused = TrackerError::Refused { reason: "no".into(), retry: None };
        assert_eq!(parse_scrape_reply(body.as_bytes(), &InfoHash([b'a'; 20])), Err(refused));
    }
    assert!(matches!(parse_scrape_reply(b"<html>", &InfoHash([0; 20])), Err(TrackerError::NotBencode(_))));
}

/// The recorded streams: head and body parted at the empty line.
fn recorded(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/corpus/wire/{name}.bin", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(path).unwrap()
}

fn body(name: &str) -> Vec<u8> {
    let bytes = recorded(name);
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    bytes[end..].to_vec()
}

#[test]
fn recorded_replies_have_their_outcome() {
    let reply = |name: &str| parse_reply(&body(name));
    for name in ["htres-ok-compact", "htres-ok-trailing"] {
        assert_eq!(reply(name).unwrap().peers, ["127.0.0.1:6881".parse().unwrap()], "{name}");
        assert_eq!(reply(name).unwrap().interval_seconds, Some(1800));
    }
    for name in ["htres-html", "htres-empty", "htres-deep"] {
        assert!(matches!(reply(name), Err(TrackerError::NotBencode(_))), "{name}");
    }
    for name in ["htres-peers-7", "htres-port-0"] {
        assert_eq!(reply(name).unwrap().peers, [], "{name}");
    }
    for (name, seconds) in [("htres-interval-neg", 0), ("htres-interval-0", 0), ("htres-interval-huge", u32::MAX)] {
        assert_eq!(reply(name).unwrap().interval_seconds, Some(seconds), "{name}");
    }
    let Err(TrackerError::Refused { reason, .. }) = reply("htres-failure-ansi") else { panic!("not refused") };
    assert_eq!(reason, "\\u{1b}[2J<script>x</script>\\xff");
}

#[test]
fn recorded_requests_have_their_outcome() {
    let announce = |name: &str| {
        let bytes = recorded(name);
        let line = bytes.split(|&byte| byte == b' ').nth(1).unwrap().to_vec();
        let query = line.iter().position(|&byte| byte == b'?').unwrap() + 1;
        parse_announce(&line[query..])
    };
    let ok = announce("htreq-ok").unwrap();
    assert_eq!(ok.info_hash.to_string(), "d10d48f2a02b77a5d908fcdc8c9872dd97457c6e");
    assert_eq!((ok.port, ok.left, ok.numwant, ok.event), (6881, 1, 50, AnnounceEvent::Periodic));
    assert_eq!(announce("htreq-percent-25").unwrap().info_hash.as_bytes()[19], b'%');
    assert_eq!(announce("htreq-raw-infohash").unwrap().info_hash.as_bytes(), b"AAAAAAAAAAAAAAAAAAAA");
    for (name, error) in [
        ("htreq-no-infohash", RequestError::NoInfoHash),
        ("htreq-infohash-19", RequestError::InfoHash),
        ("htreq-infohash-21", RequestError::InfoHash),
        ("htreq-percent-cut", RequestError::Percent),
        ("htreq-port-0", RequestError::Port),
        ("htreq-port-65536", RequestError::Port),
        ("htreq-dup-infohash", RequestError::TwoInfoHashes),
        ("htreq-left-huge", RequestError::Left),
    ] {
        assert_eq!(announce(name), Err(error), "{name}");
    }
    assert_eq!(announce("htreq-numwant-neg").unwrap().numwant, 50);
    assert_eq!(announce("htreq-numwant-huge").unwrap().numwant, MAX_NUMWANT);
    let bare = "info_hash=AAAAAAAAAAAAAAAAAAAA&peer_id=AAAAAAAAAAAAAAAAAAAA&port=1";
    for (left, expected) in
        [("", u64::MAX), ("&left=-1", u64::MAX), ("&left=18446744073709551616", u64::MAX), ("&left=0", 0)]
    {
        assert_eq!(parse_announce(format!("{bare}{left}").as_bytes()).unwrap().left, expected, "{left}");
    }
    assert_eq!(announce("htreq-event-garbage").unwrap().event, AnnounceEvent::Periodic);
    assert_eq!(announce("htreq-ip-spoof").unwrap(), ok, "the ip parameter changes nothing");
}

proptest! {
    #[test]
    fn no_reply_makes_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse_reply(&bytes);
    }

    #[test]
    fn no_altered_reply_makes_the_parser_panic(at in 0_usize..150, byte in any::<u8>(), cut in 0_usize..150) {
        let reply = AnnounceReply {
            interval_seconds: Some(1800),
            peers: vec!["10.0.0.1:6881".parse().unwrap(), "[2001:db8::1]:51413".parse().unwrap()],
            warning: Some("slow down".into()),
            ..AnnounceReply::default()
        };
        let mut bytes = write_reply(&reply);
        let whole = bytes.len();
        bytes[at % whole] = byte;
        let _ = parse_reply(&bytes);
        let _ = parse_reply(&bytes[..cut % whole]);
    }

    #[test]
    fn no_query_makes_the_tracker_panic(query in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse_announce(&query);
        let _ = parse_announce(&[b"info_hash=", &query[..], b"&peer_id=aaaaaaaaaaaaaaaaaaaa&port=1"].concat());
    }
}
