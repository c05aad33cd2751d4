use std::sync::mpsc::{Receiver, channel};

use super::*;
use crate::engine::{Fill, ReadError};
use crate::net::{AddTorrent, ReadOutcome, Session, SessionConfig, TorrentHandle};
use crate::proto::metainfo::{NewEntry, NewTorrent};

#[test]
fn a_task_that_fails_fails_its_reads_and_is_born_again_once() {
    let directory = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let config = SessionConfig {
        cache_dir: directory.path().join("cache"),
        port: None,
        bind: Some([127, 0, 0, 1].into()),
        upload: true,
        max_peers: 10,
        read_timeout: None,
        fill: Fill::None,
        use_trackers: false,
        max_per_address: 3,
        recheck: false,
        limits: Default::default(),
        bounds: Default::default(),
    };
    let session = Session::start(config, runtime.handle().clone()).unwrap();
    let torrent = NewTorrent {
        name: b"x".to_vec(),
        single_file: true,
        entries: vec![NewEntry { path: vec![b"x".to_vec()], length: 40_000, executable: false, target: None }],
        piece_length: 32768,
        pieces: vec![7; 40],
        ..NewTorrent::default()
    };
    let metainfo = Arc::new(torrent.write().unwrap().1);
    let handle = session.add(AddTorrent { metainfo, data: None, peers: Vec::new(), trackers: Vec::new() }).unwrap();

    let waiting = read(&handle);
    handle.send(Request::Panic);
    assert_eq!(waiting.recv_timeout(PATIENCE), Ok(Err(ReadError::Stopped)));
    assert!(handle.snapshot().is_some(), "there is a new task");
    let waiting = read(&handle);
    assert!(handle.snapshot().is_some_and(|snapshot| snapshot.reads.len() == 1));
    handle.send(Request::Panic);
    assert_eq!(waiting.recv_timeout(PATIENCE), Ok(Err(ReadError::Stopped)));
    assert_eq!(read(&handle).recv_timeout(PATIENCE), Ok(Err(ReadError::Stopped)));
    session.shutdown();
}

fn read(handle: &TorrentHandle) -> Receiver<ReadOutcome> {
    let (sender, outcome) = channel();
    handle.read(handle.store().layout().pieces(), Box::new(move |outcome| sender.send(outcome).unwrap()));
    outcome
}

const PATIENCE: Duration = Duration::from_secs(10);
