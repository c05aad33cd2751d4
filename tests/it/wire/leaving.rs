//! Torrents that are taken out of a session that goes on.

use std::net::UdpSocket;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{Content, Node, wait};

pub(super) const COMPLETED: u8 = 1;
pub(super) const STARTED: u8 = 2;
pub(super) const STOPPED: u8 = 3;

/// What a tracker was told.
pub(super) struct Told {
    torrent: Vec<u8>,
    pub event: u8,
    at: Instant,
}

/// A UDP tracker that answers a connect, and announces with these events only; what it has been told. What was sent again
/// counts once.
pub(super) fn half_deaf_tracker(answered: &'static [u8]) -> (String, Arc<Mutex<Vec<Told>>>) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let url = format!("udp://{}/announce", socket.local_addr().unwrap());
    let told = Arc::<Mutex<Vec<Told>>>::default();
    let heard = told.clone();
    // It ends when nobody has asked it for long.
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 2000];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let asked = &buffer[..length];
            let answer = match (asked[11], asked.get(83)) {
                (0, _) => [&[0; 4], &asked[12..16], &[7; 8]].concat(),
                (1, Some(&event)) => {
                    let torrent = asked[16..36].to_vec();
                    let mut heard = heard.lock().unwrap();
                    if heard.iter().rev().find(|told| told.torrent == torrent).is_none_or(|told| told.event != event) {
                        heard.push(Told { torrent, event, at: Instant::now() });
                    }
                    drop(heard);
                    if !answered.contains(&event) {
                        continue;
                    }
                    [&[0, 0, 0, 1], &asked[12..16], &[0, 0, 7, 8], &[0; 8]].concat()
                }
                _ => continue,
            };
            let _ = socket.send_to(&answer, from);
        }
    });
    (url, told)
}

#[test]
fn torrents_that_go_together_wait_together_for_trackers_that_are_dead() {
    let (url, told) = half_deaf_tracker(&[STARTED]);
    let node = Node::start();
    let contents: Vec<_> =
        (0..4).map(|number| Content::random("gone.bin", 50_000 + number, 32768, Some(url.clone()))).collect();
    let handles: Vec<_> = contents.iter().map(|content| node.session.add(content.to_add()).unwrap()).collect();
    wait("all have announced", || handles.iter().all(|handle| handle.snapshot().unwrap().trackers[0].working));
    drop(handles);
    let hashes: Vec<_> = contents.iter().map(|content| content.metainfo.info_hash.unwrap()).collect();
    assert_eq!(node.session.remove_all(&hashes), hashes);
    assert_eq!(node.session.remove_all(&hashes), [], "they are not here any more");
    assert!(node.session.torrents().is_empty());
    let told = told.lock().unwrap();
    let said: Vec<_> = told.iter().filter(|told| told.event == STOPPED).map(|told| told.at).collect();
    let spread = said.iter().max().unwrap().duration_since(*said.iter().min().unwrap());
    // Each waits for 3 s in vain: one after the other the last one would say it 9 s after the first.
    assert!(said.len() == 4 && spread < Duration::from_secs(6), "{} of them, within {spread:?}", said.len());
}

#[test]
fn a_torrent_learns_of_trackers_while_it_runs() {
    let (url, _) = half_deaf_tracker(&[STARTED]);
    let node = Node::start();
    let content = Content::random("learns.bin", 50_000, 32768, None);
    let handle = node.session.add(content.to_add()).unwrap();
    node.session.learn_trackers(&content.metainfo.info_hash.unwrap(), vec![vec![url.clone(), url]]);
    wait("it has announced", || {
        let trackers = handle.snapshot().unwrap().trackers;
        trackers.len() == 1 && trackers[0].working
    });
}
