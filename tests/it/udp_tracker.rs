//! The UDP tracker client against trackers that are honest, silent, lying and hostile.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use btfs::base::{InfoHash, PeerId};
use btfs::engine::{AnnounceEvent, AnnounceOutcome, Announcement, Scrape, ScrapeOutcome, ScrapeReply, TrackerId};
use btfs::net::TrackerClient;
use btfs::net::http::HttpClient;
use btfs::net::udp_tracker::UdpTrackers;

/// Datagrams, and when they came.
type Heard = Vec<(Instant, Vec<u8>)>;

/// A tracker of a few lines: for each datagram it sends what it was told to.
struct Tracker {
    addr: SocketAddr,
    heard: Arc<Mutex<Heard>>,
    stop: Arc<AtomicBool>,
}

impl Tracker {
    fn start(answer: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> Self {
        Self::start_at([127, 0, 0, 1].into(), move |socket, datagram, from| {
            for answer in answer(datagram) {
                let _ = socket.send_to(&answer, from);
            }
        })
    }

    fn start_at(ip: IpAddr, answer: impl Fn(&UdpSocket, &[u8], SocketAddr) + Send + 'static) -> Self {
        let socket = UdpSocket::bind((ip, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let tracker = Self { addr: socket.local_addr().unwrap(), heard: Arc::default(), stop: Arc::default() };
        let (heard, stop) = (tracker.heard.clone(), tracker.stop.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while !stop.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                heard.lock().unwrap().push((Instant::now(), buffer[..length].to_vec()));
                answer(&socket, &buffer[..length], from);
            }
        });
        tracker
    }

    fn url(&self, path: &str) -> String {
        format!("udp://{}{path}", self.addr)
    }

    fn heard(&self) -> Vec<Vec<u8>> {
        self.heard.lock().unwrap().iter().map(|(_, datagram)| datagram.clone()).collect()
    }

    /// Waits until it has noted so many datagrams: its thread may be late.
    fn wait_heard(&self, count: usize) {
        let start = Instant::now();
        while self.heard.lock().unwrap().len() < count {
            assert!(start.elapsed() < LONG, "not {count} datagrams");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The numbers of what was asked: 0 connect, 1 announce, 2 scrape.
    fn actions(&self) -> Vec<u8> {
        self.heard().iter().map(|datagram| datagram[11]).collect()
    }
}

impl Drop for Tracker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn transaction(datagram: &[u8]) -> u32 {
    u32::from_be_bytes(datagram[12..16].try_into().unwrap())
}

fn connected(datagram: &[u8], id: u64) -> Vec<u8> {
    [&[0; 4], &datagram[12..16], &id.to_be_bytes()[..]].concat()
}

/// An answer to an announce: interval 1800, 1 leecher, 2 seeds, these peers.
fn announced(datagram: &[u8], peers: &[u8]) -> Vec<u8> {
    [&[0, 0, 0, 1], &datagram[12..16], &[0, 0, 7, 8, 0, 0, 0, 1, 0, 0, 0, 2], peers].concat()
}

/// What an honest tracker answers.
fn honest(datagram: &[u8]) -> Vec<u8> {
    match datagram[11] {
        0 => connected(datagram, ID),
        1 => announced(datagram, PEER),
        _ => [&[0, 0, 0, 2], &datagram[12..16], &[0, 0, 0, 2, 0, 0, 0, 9, 0, 0, 0, 1]].concat(),
    }
}

fn client(udp: UdpTrackers) -> TrackerClient {
    TrackerClient {
        http: HttpClient::new(None).with_patience(Duration::from_secs(5)),
        udp,
        info_hash: InfoHash([0xab; 20]),
        peer_id: PeerId(*b"-FS0100-abcdefghijkl"),
        port: 0x1ae1,
        key: 7,
        turns: Arc::new(tokio::sync::Semaphore::new(8)),
    }
}

fn announcement(url: String) -> Announcement {
    Announcement {
        tracker: TrackerId(0),
        url,
        event: AnnounceEvent::Started,
        uploaded: 1,
        downloaded: 2,
        left: 3,
        numwant: 50,
        tracker_id: None,
    }
}

/// Announces to a tracker that answers.
async fn announce(url: String) -> AnnounceOutcome {
    announce_for(LONG, url).await
}

async fn announce_for(patience: Duration, url: String) -> AnnounceOutcome {
    client(UdpTrackers::new(None).with_pace(patience, patience * 2)).announce(announcement(url)).await
}

fn peers(outcome: &AnnounceOutcome) -> Vec<String> {
    match outcome {
        AnnounceOutcome::Answered { peers, .. } => peers.iter().map(ToString::to_string).collect(),
        AnnounceOutcome::Failed { reason, .. } => panic!("{reason}"),
    }
}

fn reason(outcome: AnnounceOutcome) -> String {
    match outcome {
        AnnounceOutcome::Failed { reason, retry: None } => reason,
        other => panic!("{other:?}"),
    }
}

/// The samples of one channel of the corpus.
fn samples(channel: &str) -> Vec<(String, Vec<u8>)> {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/wire");
    let table = std::fs::read_to_string(format!("{directory}/expected_wire.tsv")).unwrap();
    let rows = table.lines().map(|row| row.split('\t').collect::<Vec<_>>());
    rows.filter(|row| row[1] == channel)
        .map(|row| (row[0].to_owned(), std::fs::read(format!("{directory}/{}", row[0])).unwrap()))
        .collect()
}

#[tokio::test]
async fn an_announce_connects_first_and_says_all() {
    let tracker = Tracker::start(|datagram| vec![honest(datagram)]);
    let outcome = announce(tracker.url("")).await;
    let AnnounceOutcome::Answered { interval, complete, incomplete, .. } = &outcome else { panic!("{outcome:?}") };
    assert_eq!((*interval, *complete, *incomplete), (Some(Duration::from_secs(1800)), Some(2), Some(1)));
    assert_eq!(peers(&outcome), ["127.0.0.1:6881"]);
    let [connect, announce] = tracker.heard().try_into().unwrap();
    assert_eq!((connect.len(), &connect[..12]), (16, &[0, 0, 4, 0x17, 0x27, 0x10, 0x19, 0x80, 0, 0, 0, 0][..]));
    assert_eq!((announce.len(), &announce[..8]), (98, &ID.to_be_bytes()[..]));
    assert_eq!((&announce[16..36], &announce[36..56]), (&[0xab; 20][..], &b"-FS0100-abcdefghijkl"[..]));
    let long = |number: u8| [0, 0, 0, 0, 0, 0, 0, number];
    assert_eq!(&announce[56..80], [long(2), long(3), long(1)].as_flattened());
    assert_eq!(&announce[80..], [0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 50, 0x1a, 0xe1]);
    assert_ne!(transaction(&connect), transaction(&announce));
}

#[tokio::test]
async fn the_path_of_the_url_is_sent_along() {
    let tracker = Tracker::start(|datagram| vec![honest(datagram)]);
    let path = format!("/secret/announce?user={}", "x".repeat(300));
    assert_eq!(peers(&announce(tracker.url(&format!("{path}#frag"))).await).len(), 1);
    let said = tracker.heard().remove(1);
    let (first, second) = path.as_bytes().split_at(255);
    assert_eq!(said[98..], [&[2, 255], first, &[2, second.len() as u8], second].concat());
}

#[tokio::test]
async fn every_answer_of_the_corpus_has_its_outcome() {
    let samples = samples("udp-tracker-response");
    assert_eq!(samples.len(), 8);
    for (name, sample) in samples {
        let answer = sample.clone();
        let wrong = name.contains("wrong-txid");
        let tracker = Tracker::start(move |datagram| match datagram[11] {
            0 => vec![connected(datagram, ID)],
            _ => {
                let ours = transaction(datagram).wrapping_add(u32::from(wrong));
                vec![[&answer[..4], &ours.to_be_bytes(), &answer[8..]].concat()]
            }
        });
        let answers = ["wrong-txid", "short", "action-mismatch"].iter().all(|silent| !name.contains(silent));
        let outcome = announce_for(if answers { LONG } else { PATIENCE }, tracker.url("/announce")).await;
        let interval = match &outcome {
            AnnounceOutcome::Answered { interval, .. } => interval.map(|interval| interval.as_secs()),
            AnnounceOutcome::Failed { .. } => None,
        };
        match name.trim_start_matches("utres-").trim_end_matches(".bin") {
            "ok-announce" | "peers-not-6" => assert_eq!(peers(&outcome), ["127.0.0.1:6881"], "{name}"),
            // The engine makes a minute and a day of these.
            "interval-0" => assert_eq!(interval, Some(0)),
            "interval-max" => assert_eq!(interval, Some(u64::from(u32::MAX))),
            "error-text" => assert_eq!(reason(outcome), "says: \\u{1b}[2J<script>x</script>\\xff"),
            "wrong-txid" | "short" | "action-mismatch" => assert!(reason(outcome).contains("timed out"), "{name}"),
            other => panic!("a sample that this test does not know: {other}"),
        }
    }
}

#[tokio::test]
async fn garbage_before_the_answer_is_ignored() {
    let mut garbage: Vec<_> = samples("udp-tracker-request").into_iter().map(|(_, sample)| sample).collect();
    assert_eq!(garbage.len(), 9);
    garbage.extend([vec![0xff; 20_000], vec![0; 8], b"HTTP/1.1 200 OK\r\n\r\n".to_vec()]);
    let tracker = Tracker::start(move |datagram| {
        let mut answers = garbage.clone();
        // The right number, but another action, too short, too long.
        answers.push([&[0, 0, 0, 2], &datagram[12..16], &[0; 12]].concat());
        answers.push(honest(datagram)[..15].to_vec());
        answers.push([honest(datagram), vec![1; 9000]].concat());
        answers.push(honest(datagram));
        // And twice.
        answers.push(honest(datagram));
        answers
    });
    assert_eq!(peers(&announce(tracker.url("/announce")).await), ["127.0.0.1:6881"]);
    assert_eq!(tracker.actions(), [0, 1]);
}

#[tokio::test]
async fn an_answer_from_another_address_is_ignored() {
    for same_ip in [true, false] {
        let ip: IpAddr = if same_ip { [127, 0, 0, 1] } else { [127, 0, 0, 9] }.into();
        let other = UdpSocket::bind((ip, 0)).unwrap();
        let tracker = Tracker::start_at([127, 0, 0, 1].into(), move |_, datagram, from| {
            let _ = other.send_to(&honest(datagram), from);
        });
        assert!(reason(announce_for(PATIENCE, tracker.url("")).await).contains("timed out"));
        tracker.wait_heard(1);
        assert_eq!(tracker.actions(), [0], "an id that somebody else gave is no id");
    }
}

#[tokio::test]
async fn a_silent_tracker_is_asked_again_at_doubling_gaps_and_given_up_in_time() {
    let tracker = Tracker::start(|_| Vec::new());
    let patience = Duration::from_secs(1);
    let client = client(UdpTrackers::new(None).with_pace(patience, Duration::from_millis(100)));
    let start = Instant::now();
    assert!(reason(client.announce(announcement(tracker.url(""))).await).contains("timed out"));
    assert!((patience..LONG).contains(&start.elapsed()), "{:?}", start.elapsed());
    // At 0, 100, 300 and 700 ms; a busy machine may be late.
    tracker.wait_heard(2);
    let heard = tracker.heard.lock().unwrap().clone();
    assert!((2..=4).contains(&heard.len()), "{} datagrams", heard.len());
    assert!(heard.iter().all(|(_, datagram)| *datagram == heard[0].1), "the same question each time");
    for (index, (at, _)) in heard.iter().enumerate() {
        let earliest = Duration::from_millis((100 << index) - 100);
        assert!(*at - start >= earliest, "datagram {index} after {:?}", *at - start);
    }
}

#[tokio::test]
async fn lost_datagrams_are_sent_again() {
    let lost = Mutex::new([true; 2]);
    let tracker = Tracker::start(move |datagram| {
        let lost = std::mem::take(&mut lost.lock().unwrap()[usize::from(datagram[11])]);
        if lost { Vec::new() } else { vec![honest(datagram)] }
    });
    let client = client(UdpTrackers::new(None).with_pace(LONG, Duration::from_millis(50)));
    assert_eq!(peers(&client.announce(announcement(tracker.url(""))).await).len(), 1);
    assert_asked_again(&tracker, [2, 2]);
}

#[tokio::test]
async fn a_stop_that_is_lost_is_sent_again_within_the_time_that_an_exit_has() {
    let lost = Mutex::new(true);
    let tracker = Tracker::start(move |datagram| {
        let lost = datagram[11] == 1 && std::mem::take(&mut *lost.lock().unwrap());
        if lost { Vec::new() } else { vec![honest(datagram)] }
    });
    let stop = Announcement { event: AnnounceEvent::Stopped, ..announcement(tracker.url("/announce")) };
    let client = client(UdpTrackers::new(None));
    // After a second, where anything else is sent again after 15; a busy machine may be late.
    let stopped = tokio::time::timeout(Duration::from_secs(12), client.announce(stop));
    assert_eq!(peers(&stopped.await.unwrap()).len(), 1);
    assert_asked_again(&tracker, [1, 2]);
}

/// There were connects first and then announces, so many at least. A tracker that answers late hears more.
fn assert_asked_again(tracker: &Tracker, least: [usize; 2]) {
    let actions = tracker.actions();
    assert!(actions.is_sorted(), "{actions:?}");
    let counts = [0, 1].map(|action| actions.iter().filter(|&&asked| asked == action).count());
    assert!(counts[0] >= least[0] && counts[1] >= least[1], "{actions:?}");
}

#[tokio::test]
async fn a_connection_id_serves_many_questions_each_with_its_own_number() {
    let tracker = Tracker::start(|datagram| vec![honest(datagram)]);
    let client = client(UdpTrackers::new(None).with_pace(LONG, LONG));
    for _ in 0..3 {
        assert_eq!(peers(&client.announce(announcement(tracker.url("/announce"))).await).len(), 1);
    }
    let scrape = Scrape { tracker: TrackerId(0), url: tracker.url("/announce") };
    let figures =
        ScrapeReply { complete: Some(2), downloaded: Some(9), incomplete: Some(1), min_interval_seconds: None };
    assert_eq!(client.scrape(scrape).await, ScrapeOutcome::Answered(figures));
    assert_eq!(tracker.actions(), [0, 1, 1, 1, 2]);
    let mut numbers: Vec<u32> = tracker.heard().iter().map(|datagram| transaction(datagram)).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 5);
    assert_eq!(&tracker.heard()[4][16..], [0xab; 20]);
}

#[tokio::test]
async fn a_tracker_over_ipv6_names_peers_of_18_bytes() {
    if UdpSocket::bind("[::1]:0").is_err() {
        return eprintln!("SKIPPED: there is no IPv6");
    }
    let tracker = Tracker::start_at("::1".parse().unwrap(), |socket, datagram, from| {
        let answer = match datagram[11] {
            0 => connected(datagram, ID),
            _ => announced(datagram, &[&[0; 15][..], &[1, 0x1a, 0xe1]].concat()),
        };
        let _ = socket.send_to(&answer, from);
    });
    assert_eq!(peers(&announce(tracker.url("/announce")).await), ["[::1]:6881"]);
}

#[tokio::test]
async fn of_a_name_with_several_addresses_the_one_that_answers_is_asked() {
    // `localhost` is 127.0.0.1 and ::1 on most machines; this one listens at 127.0.0.1 only.
    let tracker = Tracker::start(|datagram| vec![honest(datagram)]);
    let url = format!("udp://localhost:{}/announce", tracker.addr.port());
    assert_eq!(peers(&announce_for(LONG, url).await), ["127.0.0.1:6881"]);
    assert_eq!(tracker.actions(), [0, 1]);
}

#[tokio::test]
async fn names_and_addresses_that_lead_nowhere_are_told() {
    let from_ipv4 = client(UdpTrackers::new(Some([127, 0, 0, 1].into())).with_pace(LONG, LONG));
    // No part of a name has more than 63 bytes: nobody has to be asked about this one.
    let unknown = format!("udp://{}.invalid:80/announce", "x".repeat(64));
    for (url, part) in [
        (&unknown[..], "cannot be looked up"),
        ("udp://[::1]:80/announce", "no address that can be asked"),
        ("udp://224.0.0.1:80/announce", "no address that can be asked"),
        ("udp://127.0.0.1/announce", "not a usable"),
    ] {
        let reason = reason(from_ipv4.announce(announcement(url.to_owned())).await);
        assert!(reason.contains(part), "{url}: {reason}");
    }
}

#[tokio::test]
async fn a_refusal_is_told_in_the_trackers_words() {
    for (said, words) in [(&b"not registered"[..], "says: not registered"), (b"", "refused: it gives no reason")] {
        let tracker = Tracker::start(move |datagram| vec![[&[0, 0, 0, 3], &datagram[12..16], said].concat()]);
        assert_eq!(reason(announce(tracker.url("/announce")).await), words);
        assert_eq!(tracker.actions(), [0]);
    }
}

const ID: u64 = 0x1122_3344_5566_7788;
/// 127.0.0.1:6881.
const PEER: &[u8] = &[127, 0, 0, 1, 0x1a, 0xe1];
/// For trackers that do not answer.
const PATIENCE: Duration = Duration::from_millis(700);
/// For trackers that do.
const LONG: Duration = Duration::from_secs(60);
