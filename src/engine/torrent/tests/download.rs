//! From a read to its bytes.

use std::collections::BTreeSet;

use super::world::{MS, S, World, block};
use crate::base::PieceIndex;
use crate::engine::torrent::disk::HELD_BYTES;
use crate::engine::*;
use crate::proto::wire::{BlockRequest, Message};

#[test]
fn a_read_is_fetched_from_a_single_seed() {
    let mut world = World::new(4, 4);
    world.seed(1);
    assert_eq!(world.asked_count(), 0, "nobody reads");
    world.read(9, 1, 2);
    assert!(world.said.contains(&(1, Message::Interested)));
    assert_eq!(world.asked_of(1), [(1, 0), (1, 1), (1, 2), (1, 3), (2, 0), (2, 1), (2, 2), (2, 3)]);
    world.run();
    assert_eq!(world.ready, [9]);
    let haves: Vec<_> = world.said.iter().filter(|(_, message)| matches!(message, Message::Have(_))).collect();
    assert_eq!(haves.len(), 2);
    let state = world.snapshot();
    assert_eq!((state.have.count(), state.wasted_bytes, state.downloaded_bytes), (2, 0, 8 * 16384));
}

#[test]
fn a_read_of_what_is_here_is_ready_at_once() {
    let mut world = World::new(2, 1);
    world.seed(1);
    world.read(1, 0, 0);
    world.run();
    world.read(2, 0, 0);
    assert_eq!(world.ready, [1, 2]);
}

#[test]
fn pieces_are_written_in_runs_as_these_become_complete_shorter_ones_while_somebody_waits() {
    for (blocks, fill, expected) in [
        (64, Fill::All, vec![(0, 64)]),
        (160, Fill::All, vec![(0, 64), (64, 64), (128, 32)]),
        (40, Fill::None, vec![(0, 16), (16, 16), (32, 8)]),
    ] {
        let mut world = World::with(1, blocks, |config| config.fill = fill);
        world.seed(1);
        if fill == Fill::None {
            world.read(1, 0, 0);
        }
        while world.answer(1) {}
        let runs = world.jobs.iter().map(|job| match job {
            DiskJob::Write { begin, blocks, attempt: 1, urgent, .. } if *urgent == (fill == Fill::None) => {
                (begin / 16384, blocks.len())
            }
            other => panic!("{other:?}"),
        });
        assert_eq!(runs.collect::<Vec<_>>(), expected);
        world.write_all();
        assert!(world.completed);
    }
}

#[test]
fn an_abandoned_read_takes_its_requests_back_at_once() {
    let mut world = World::new(4, 4);
    world.seed(1);
    world.read(1, 0, 0);
    world.read(2, 3, 3);
    world.command(Command::Abandon(Ticket(1)));
    assert_eq!(world.cancelled.len(), 4);
    assert_eq!(world.asked_of(1), [(3, 0), (3, 1), (3, 2), (3, 3)]);
    world.hear(1, block(BlockRequest { piece: 0, begin: 0, length: 16384 }));
    assert_eq!(world.snapshot().wasted_bytes, 0, "a block that crossed the cancel is kept");
    world.run();
    assert_eq!((world.ready.as_slice(), world.failed.as_slice()), (&[2][..], &[][..]));
}

#[test]
fn a_seek_cancels_the_old_window() {
    let mut world = World::new(100, 4);
    world.seed(1);
    world.open(5);
    world.window(5, 0, 9);
    assert!(world.asked_of(1).iter().all(|&(piece, _)| piece < 10));
    world.window(5, 50, 59);
    world.pass(30 * MS);
    assert!(world.asked_of(1).iter().all(|&(piece, _)| piece >= 50) && world.asked_count() > 0);
    world.command(Command::Released(HandleId(5)));
    assert_eq!(world.asked_count(), 0);
}

#[test]
fn a_window_that_is_gone_at_once_is_never_asked() {
    let mut world = World::new(100, 4);
    world.seed(1);
    world.open(5);
    world.window(5, 0, 3);
    let before = world.requests_seen();
    world.plan(5, 2, 9);
    world.plan(5, 50, 59);
    assert_eq!((world.requests_seen(), world.asked_count()), (before, 16), "a seek after a first glance");
    world.pass(3 * MS);
    assert_eq!(world.asked_count(), 0, "what was left behind is taken back, what is new is not believed yet");
    world.pass(3 * MS);
    assert!(world.asked_of(1).iter().all(|&(piece, _)| piece >= 50) && world.asked_count() > 0);
}

#[test]
fn the_first_who_unchokes_leaves_the_others_their_shares() {
    let mut world = World::new(1, 64);
    (1..=4).for_each(|peer| world.connect(peer));
    world.read(1, 0, 0);
    for peer in 1..=4 {
        world.hear_all(peer, [Message::HaveAll, Message::Unchoke]);
        assert_eq!(world.asked_of(peer).len(), 16);
    }
}

#[test]
fn the_last_blocks_are_hedged_by_what_is_known_by_then() {
    let mut world = World::new(1, 16);
    (1..=4).for_each(|peer| world.connect(peer));
    world.read(1, 0, 0);
    (1..=4).for_each(|peer| world.hear_all(peer, [Message::HaveAll, Message::Unchoke]));
    let held = world.asked_of(4);
    assert_eq!(held.len(), 4);
    // Peers 1 to 3 send after 50 ms, a block in 8 ms; peer 4 never does.
    world.pass(50 * MS);
    for _ in 0..4 {
        world.pass(8 * MS);
        for peer in 1..=3 {
            assert!(world.answer(peer));
        }
    }
    world.pass(120 * MS);
    let again: Vec<_> = (1..=3).flat_map(|peer| world.asked_of(peer)).collect();
    assert!(held.iter().all(|block| again.contains(block)), "{held:?} {again:?}");
    world.run();
    assert_eq!(world.ready, [1]);
}

#[test]
fn what_is_far_ahead_comes_a_piece_from_a_peer_and_what_is_near_from_all() {
    let (pieces, peers) = (120, 1..=4);
    let mut world = World::new(pieces, 16);
    peers.clone().for_each(|peer| world.seed(peer));
    world.open(5);
    world.window(5, 0, pieces - 1);
    world.read(1, 0, 0);
    let mut askers = vec![BTreeSet::new(); pieces as usize];
    while world.snapshot().have.count() < pieces as usize {
        world.pass(2 * MS);
        for peer in peers.clone() {
            for (piece, _) in world.asked_of(peer) {
                askers[piece as usize].insert(peer);
            }
            world.answer(peer);
        }
        world.write_all();
    }
    assert!(askers[0].len() == 4, "the reader waits for it");
    let alone = askers.iter().filter(|askers| askers.len() == 1).count();
    assert!(alone > 80, "{alone} of {pieces}");
    assert_eq!(world.snapshot().wasted_bytes, 0);
}

#[test]
fn in_company_a_seed_is_asked_for_what_only_it_has_and_nothing_is_put_off_for_good() {
    let mut world = World::new(120, 1);
    world.seed(1);
    world.open(1);
    world.read(1, 0, 0);
    world.run();
    let first = format!("x{}", ".".repeat(119));
    for peer in 2..5 {
        world.peer(peer, &first);
        world.hear(peer, Message::Interested);
    }
    world.window(1, 1, 110);
    let mut order = Vec::new();
    while let Some(&(piece, _)) = world.asked_of(1).first() {
        order.push(piece);
        world.pass(MS);
        world.answer(1);
        world.write_all();
    }
    assert_eq!(order.len(), 110);
    assert!(!order.is_sorted(), "each torrent has its own order");
    for (at, piece) in order.iter().enumerate() {
        let later = order[at..].iter().min().unwrap();
        assert!(piece - later <= 48, "{later} was put off behind {piece}");
    }
}

#[test]
fn what_a_reader_waits_for_goes_before_the_window() {
    let mut world = World::new(100, 4);
    world.open(5);
    world.window(5, 0, 9);
    world.read(1, 50, 50);
    world.seed(1);
    assert_eq!(world.asked_of(1)[..4], [(50, 0), (50, 1), (50, 2), (50, 3)]);
    assert_eq!(world.asked_of(1)[4], (0, 0));
}

#[test]
fn a_read_without_progress_fails_and_is_remembered_for_five_seconds() {
    let mut world = World::new(2, 1);
    world.seed(1);
    world.hear(1, Message::Choke);
    world.read(1, 0, 0);
    world.pass(119 * S);
    assert_eq!(world.failed, []);
    world.hear(1, Message::KeepAlive);
    world.pass(2 * S);
    assert_eq!(world.failed, [(1, ReadError::Stalled)]);
    world.read(2, 0, 0);
    assert_eq!(world.failed[1..], [(2, ReadError::Stalled)]);
    world.pass(5 * S);
    world.read(3, 0, 0);
    assert_eq!(world.failed.len(), 2);
    world.hear(1, Message::Unchoke);
    world.run();
    assert_eq!(world.ready, [3]);
}

#[test]
fn blocks_that_raise_the_count_are_progress_and_refetching_is_none() {
    let mut world = World::new(1, 8);
    world.seed(1);
    world.read(1, 0, 0);
    for _ in 0..7 {
        world.pass(15 * S);
        assert!(world.answer(1));
    }
    world.pass(100 * S);
    assert_eq!(world.failed, [], "the last block came less than the timeout ago");
}

#[test]
fn a_suspended_process_does_not_fail_its_readers() {
    let mut world = World::new(2, 1);
    world.seed(1);
    world.hear(1, Message::Choke);
    world.read(1, 0, 0);
    world.now += 3600 * S;
    world.torrent.handle_timeout(world.now);
    world.drain();
    assert_eq!((world.failed.len(), world.closed.len()), (0, 0));
    world.hear(1, Message::Unchoke);
    world.run();
    assert_eq!(world.ready, [1]);
}

#[test]
fn a_read_only_torrent_says_what_it_lacks() {
    let mut world = World::with(2, 1, |config| {
        config.read_only = true;
        config.have.set(PieceIndex(0));
    });
    world.seed(1);
    world.read(1, 0, 0);
    world.read(2, 0, 1);
    assert_eq!((world.ready.as_slice(), world.failed.as_slice()), (&[1][..], &[(2, ReadError::Missing)][..]));
    assert_eq!(world.asked_count(), 0);
}

#[test]
fn stopping_fails_the_readers_and_closes_everything() {
    let mut world = World::with(2, 1, |config| config.trackers = vec![vec!["http://t/announce".into()]]);
    assert_eq!(world.announced.len(), 1);
    let answer = AnnounceOutcome::Answered {
        interval: None,
        min_interval: None,
        peers: vec![],
        complete: None,
        incomplete: None,
        downloaded: None,
        warning: None,
        external_ip: None,
        tracker_id: None,
    };
    world.torrent.handle_announced(world.now, TrackerId(0), answer);
    world.seed(1);
    world.read(1, 0, 0);
    world.command(Command::Stop);
    assert_eq!(world.failed, [(1, ReadError::Stopped)]);
    assert_eq!(world.closed, [(1, CloseReason::Stopped)]);
    assert_eq!(world.announced[1].event, AnnounceEvent::Stopped);
    world.read(2, 0, 0);
    assert_eq!(world.failed[1], (2, ReadError::Stopped));
}

#[test]
fn everything_is_fetched_when_told_so_and_completion_is_said_once() {
    let mut world = World::with(20, 3, |config| config.fill = Fill::All);
    world.seed(1);
    world.peer(2, "xxxxxxxxxx..........");
    world.run();
    assert!(world.completed);
    assert_eq!(world.snapshot().left_bytes, 0);
    assert!(world.closed.contains(&(1, CloseReason::Redundant)), "two seeds need no connection");
}

#[test]
fn an_opened_file_is_filled_when_told_so() {
    let mut world = World::with(5, 1, |config| config.fill = Fill::File);
    world.seed(1);
    assert_eq!(world.asked_count(), 0);
    world.open(1);
    world.command(Command::Released(HandleId(1)));
    world.run();
    assert!(world.completed);
}

#[test]
fn a_disk_that_fails_is_retried_later_and_then_told_to_the_reader() {
    let mut world = World::new(1, 1);
    world.seed(1);
    world.read(1, 0, 0);
    for attempt in 1..=2 {
        world.answer(1);
        let bytes = 16384;
        let error = "no space".to_owned();
        world.jobs.clear();
        world.done(DiskDone::Failed { piece: PieceIndex(0), attempt, bytes, error });
        assert_eq!(world.asked_count(), 0, "not at once");
        assert_eq!(world.snapshot().disk_error.as_deref(), Some("no space"));
        world.pass(3 * S);
    }
    assert_eq!(world.failed, [(1, ReadError::Disk)]);
    world.read(2, 0, 0);
    world.pass(5 * S);
    world.run();
    assert_eq!(world.ready, [2]);
    assert_eq!(world.snapshot().disk_error, None);
}

#[test]
fn held_blocks_are_flushed_when_there_are_too_many() {
    // 40 pieces of 1 MiB, of each all blocks but the last arrive.
    let mut world = World::with(40, 64, |config| config.fill = Fill::All);
    world.seed(1);
    let mut most = 0;
    for _ in 0..20_000 {
        let asked = world.asked.get(&1).cloned().unwrap_or_default();
        let Some(request) = asked.into_iter().find(|request| request.begin != 63 * 16384) else { break };
        world.asked.get_mut(&1).unwrap().retain(|other| *other != request);
        world.hear(1, block(request));
        world.now += MS;
        most = most.max(world.torrent.assembly.held_bytes());
    }
    assert!(!world.jobs.is_empty(), "something was flushed");
    assert!(most < 49 << 20, "{most}");
    world.write_all();
    world.run();
    assert!(world.completed);
}

#[test]
fn a_disk_that_is_behind_gets_whole_runs() {
    // Cutting runs short because much is queued makes the queue longer.
    let mut world = World::with(40, 64, |config| config.fill = Fill::All);
    world.seed(1);
    let mut most = 0;
    for _ in 0..20_000 {
        let Some(&request) = world.asked.get(&1).and_then(|asked| asked.first()) else { break };
        world.asked.get_mut(&1).unwrap().retain(|other| *other != request);
        world.hear(1, block(request));
        most = most.max(world.torrent.assembly.held_bytes());
    }
    assert!(most > HELD_BYTES, "{most}");
    let runs = world.jobs.iter().map(|job| match job {
        DiskJob::Write { blocks, .. } => blocks.len(),
        other => panic!("{other:?}"),
    });
    assert_eq!(runs.collect::<Vec<_>>(), vec![64; world.jobs.len()]);
    for _ in 0..40 {
        world.write_all();
        world.run();
    }
    assert!(world.completed);
}

#[test]
fn a_later_bitfield_is_taken_as_haves_as_aria2_means_it() {
    let mut world = World::new(4, 1);
    world.peer(1, "x...");
    world.read(9, 2, 2);
    assert_eq!(world.asked_count(), 0, "nobody has it");
    world.hear(1, Message::Bitfield(vec![0b1010_0000].into()));
    assert_eq!(world.asked_of(1), [(2, 0)]);
    world.hear(1, Message::Bitfield(vec![0b0001_0000].into()));
    world.read(10, 0, 3);
    assert_eq!(
        world.asked_of(1),
        [(2, 0), (0, 0), (3, 0)],
        "what it had is not forgotten, what nobody has is not asked"
    );
    world.hear(1, Message::Bitfield(vec![0b0000_1000].into()));
    assert_eq!(world.snapshot().peers.len(), 0, "spare bits");
}
