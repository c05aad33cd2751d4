//! Pieces that fail, and who pays for it.

use super::world::{MS, S, World, addr, block, lie};
use crate::base::{BLOCK_BYTES, PieceIndex, PieceRange};
use crate::engine::*;
use crate::proto::wire::Message;

#[test]
fn a_failed_piece_is_fetched_from_one_peer_alone_and_the_liar_is_named_by_comparison() {
    let mut world = World::new(2, 32);
    (1..=4).for_each(|peer| world.seed(peer));
    world.read(1, 0, 0);
    assert!(world.asked.values().filter(|asked| !asked.is_empty()).count() > 1, "the piece is spread");
    let liar = *world.asked.keys().next().unwrap();
    let (mut bad, mut lied) = (Vec::new(), false);
    let mut second_attempt = std::collections::BTreeSet::new();
    while let Some(peer) = world.asked.iter().find(|(_, asked)| !asked.is_empty()).map(|(&peer, _)| peer) {
        let request = world.asked.get_mut(&peer).unwrap().remove(0);
        let lying = peer == liar && !lied;
        lied |= lying;
        if !bad.is_empty() {
            second_attempt.insert(peer);
        }
        world.hear(peer, if lying { lie(request) } else { block(request) });
        world.write_with(&mut bad);
    }
    world.write_with(&mut bad);
    assert_eq!((bad, world.ready), (vec![0], vec![1]));
    assert_eq!(second_attempt.len(), 1, "{second_attempt:?}");
    assert_eq!(world.closed, [(liar, CloseReason::Banned)]);
}

#[test]
fn the_sole_sender_of_bad_pieces_is_banned_at_the_third() {
    let mut world = World::new(1, 2);
    world.seed(1);
    world.read(1, 0, 0);
    let mut bad = Vec::new();
    for _ in 0..3 {
        for request in std::mem::take(world.asked.get_mut(&1).unwrap()) {
            world.hear(1, lie(request));
        }
        world.write_with(&mut bad);
    }
    assert_eq!(bad, [0, 0, 0]);
    assert_eq!(world.closed, [(1, CloseReason::Banned)]);
    assert_eq!(world.snapshot().corrupt_pieces, 3);
    world.connect(2);
    world.connect_as(3, crate::base::PeerId([3; 20]), addr(1), false);
    assert_eq!(world.closed[1..], [(3, CloseReason::Banned)], "the address is remembered, others are not harmed");
}

#[test]
fn nobody_is_blamed_for_what_an_outsider_wrote_into_the_file() {
    let mut world = World::new(1, 2);
    world.seed(1);
    world.read(1, 0, 0);
    for _ in 0..5 {
        for request in std::mem::take(world.asked.get_mut(&1).unwrap()) {
            world.hear(1, block(request));
        }
        for job in std::mem::take(&mut world.jobs) {
            let DiskJob::Write { piece, attempt, blocks, .. } = job else { panic!("{job:?}") };
            let bytes = blocks.iter().map(|block| block.len() as u32).sum();
            world.done(DiskDone::Corrupt { piece, attempt, bytes, block_digests: Vec::new() });
        }
    }
    assert!(world.closed.is_empty(), "{:?}", world.closed);
    assert_eq!(world.snapshot().corrupt_pieces, 0);
    assert_eq!(world.asked_count(), 2, "it is fetched again, and again");
}

#[test]
fn pieces_that_lie_on_disk_are_checked_before_they_are_fetched_and_repaired_when_bad() {
    let mut world = World::with(4, 1, |config| {
        config.unchecked.set(PieceIndex(2));
    });
    let [DiskJob::Check { piece: PieceIndex(2), attempt, .. }] = world.jobs[..] else { panic!("{:?}", world.jobs) };
    world.jobs.clear();
    world.seed(1);
    world.read(1, 2, 2);
    assert_eq!(world.asked_count(), 0, "the check is under way");
    world.done(DiskDone::Corrupt { piece: PieceIndex(2), attempt, bytes: 0, block_digests: vec![] });
    assert_eq!(world.asked_of(1), [(2, 0)]);
    world.run();
    assert_eq!((world.snapshot().repaired_pieces, world.ready), (1, vec![1]));
}

#[test]
fn trackers_first_hear_of_what_is_shared_when_it_is_checked() {
    let mut world = World::with(4, 1, |config| {
        config.read_only = true;
        config.trackers = vec![vec!["udp://127.0.0.1:1".to_owned()]];
        (0..4).for_each(|piece| assert!(config.unchecked.set(PieceIndex(piece))));
    });
    world.pass(S);
    assert!(world.announced.is_empty(), "{:?}", world.announced);
    while !world.jobs.is_empty() {
        world.write_all();
    }
    let told: Vec<_> = world.announced.iter().map(|announced| (announced.event, announced.left)).collect();
    assert_eq!(told, [(AnnounceEvent::Started, 0)]);
}

#[test]
fn a_suspected_piece_is_checked_before_its_next_service_and_peers_hear_nothing_of_it() {
    let mut world = World::with(2, 1, |config| {
        config.have.set(PieceIndex(0));
    });
    world.seed(1);
    world.command(Command::Suspect(PieceRange::one(PieceIndex(0))));
    world.read(1, 0, 0);
    assert!(world.ready.is_empty());
    assert!(matches!(world.jobs[..], [DiskJob::Check { .. }]), "{:?}", world.jobs);
    world.write_all();
    assert_eq!(world.ready, [1]);
    assert!(!world.said.iter().any(|(_, message)| matches!(message, Message::Have(_))));
    assert_eq!(world.requests_seen(), 0);
}

#[test]
fn a_piece_suspected_before_the_verdict_on_it_is_heard_is_checked_first() {
    let mut world = World::new(2, 1);
    world.seed(1);
    world.read(1, 0, 0);
    assert!(world.answer(1));
    let [DiskJob::Write { piece, attempt, .. }] = world.jobs[..] else { panic!("{:?}", world.jobs) };
    world.jobs.clear();
    // The store had it, and has found its file altered: the verdict is older than that.
    world.command(Command::Suspect(PieceRange::one(piece)));
    world.done(DiskDone::Verified { piece, attempt, bytes: 16384 });
    assert!(world.ready.is_empty());
    assert!(matches!(world.jobs[..], [DiskJob::Check { piece: PieceIndex(0), .. }]), "{:?}", world.jobs);
    let asked = world.requests_seen();
    world.write_all();
    assert_eq!((&world.ready[..], world.requests_seen()), (&[1][..], asked), "it is not fetched again");
}

#[test]
fn completions_of_an_old_attempt_are_dropped() {
    let mut world = World::new(1, 2);
    world.seed(1);
    world.read(1, 0, 0);
    world.done(DiskDone::Verified { piece: PieceIndex(0), attempt: 7, bytes: 0 });
    assert!(world.ready.is_empty());
    world.run();
    assert_eq!(world.ready, [1]);
}

#[test]
fn a_burst_of_failing_writes_pauses_for_a_second_and_the_next_burst_for_two() {
    let mut world = World::new(32, 1);
    world.seed(1);
    world.read(1, 0, 15);
    for (burst, pause) in [(1, S), (2, 2 * S)] {
        while world.answer(1) {}
        let jobs = std::mem::take(&mut world.jobs);
        assert_eq!(jobs.len(), 16, "burst {burst}: everything was asked, again");
        for job in jobs {
            let DiskJob::Write { piece, attempt, .. } = job else { panic!("{job:?}") };
            let error = "No space left on device".to_owned();
            world.done(DiskDone::Failed { piece, attempt, bytes: BLOCK_BYTES, error });
        }
        assert_eq!(world.snapshot().disk_error.as_deref(), Some("No space left on device"));
        // Who waits is told when the second attempt has failed, too.
        assert_eq!(world.failed.is_empty(), burst == 1);
        if burst == 2 {
            world.read(2, 0, 15);
        }
        world.pass(pause - MS);
        assert_eq!(world.asked_count(), 0, "burst {burst}: a pause");
        world.pass(2 * MS);
    }
    world.run();
    assert_eq!(world.snapshot().disk_error, None);
    assert_eq!(world.ready, [2]);
}
