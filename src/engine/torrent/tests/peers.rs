//! How peers are treated.

use bytes::Bytes;

use super::world::{MS, S, World, addr, block};
use crate::base::{Bitfield, PeerId, PieceIndex};
use crate::engine::*;
use crate::proto::wire::{BlockRequest, Message};

#[test]
fn a_rejected_block_is_asked_of_a_single_seed_again_after_a_second() {
    let mut world = World::new(4, 4);
    world.seed(1);
    world.read(1, 0, 3);
    let request = world.asked.get_mut(&1).unwrap().remove(0);
    world.hear(1, Message::Reject(request));
    assert!(!world.asked_of(1).contains(&(0, 0)));
    while world.answer(1) {}
    world.write_all();
    world.pass(S);
    assert_eq!(world.asked_of(1), [(0, 0)]);
    world.run();
    assert_eq!(world.ready, [1]);
}

#[test]
fn a_peer_that_rejects_everything_is_asked_one_two_four_seconds_apart() {
    let mut world = World::new(4, 4);
    world.seed(1);
    world.read(1, 0, 3);
    let mut times = Vec::new();
    let start = world.now;
    for _ in 0..400 {
        let asked: Vec<_> = world.asked.get_mut(&1).unwrap().drain(..).collect();
        if !asked.is_empty() {
            times.push(((world.now - start).as_secs(), asked.len()));
        }
        asked.into_iter().for_each(|request| world.hear(1, Message::Reject(request)));
        world.pass(S / 4);
    }
    assert_eq!(times, [(0, 16), (1, 4), (3, 4), (7, 4), (15, 4), (31, 4), (63, 4)]);
}

#[test]
fn blocks_that_nobody_asked_for_are_wasted_and_the_eleventh_closes() {
    let mut world = World::new(4, 4);
    world.seed(1);
    for _ in 0..11 {
        assert_eq!(world.closed, []);
        world.hear(1, block(BlockRequest { piece: 1, begin: 0, length: 16384 }));
    }
    assert!(matches!(world.closed[..], [(1, CloseReason::Protocol(_))]));
    assert_eq!((world.jobs.len(), world.snapshot().wasted_bytes), (0, 11 * 16384));
}

#[test]
fn what_a_peer_was_sent_counts_even_when_it_is_told_too_late() {
    let mut world = World::new(4, 4);
    world.seed(1);
    let now = world.now;
    let events = [PeerEvent::Message(Message::Have(4)), PeerEvent::Uploaded { bytes: 5 }];
    world.torrent.handle_peer_events(now, PeerKey(1), events);
    world.torrent.handle_peer_events(now, PeerKey(1), [PeerEvent::Uploaded { bytes: 7 }]);
    world.drain();
    assert!(matches!(world.closed[..], [(1, CloseReason::Protocol(_))]));
    assert_eq!(world.snapshot().uploaded_bytes, 12);
}

#[test]
fn numbers_out_of_range_close() {
    let out_of_range = [
        Message::Have(4),
        Message::Have(u32::MAX),
        Message::AllowedFast(4),
        Message::Suggest(u32::MAX),
        Message::Bitfield(vec![0xff].into()),
        Message::Bitfield(vec![0, 0].into()),
        Message::Piece { piece: u32::MAX, begin: 0, data: vec![0; 16].into() },
        Message::Piece { piece: 0, begin: u32::MAX, data: vec![0; 16].into() },
    ];
    for message in out_of_range {
        let mut world = World::new(4, 4);
        world.connect(1);
        world.hear(1, message.clone());
        assert_eq!(world.closed.len(), 1, "{message:?}");
    }
}

#[test]
fn a_flood_of_useless_messages_closes() {
    let mut world = World::new(4, 4);
    world.seed(1);
    world.hear_all(1, std::iter::repeat_n(Message::KeepAlive, 900));
    world.pass(S);
    world.hear_all(1, std::iter::repeat_n(Message::KeepAlive, 900));
    assert_eq!(world.closed, []);
    world.hear_all(1, std::iter::repeat_n(Message::KeepAlive, 200));
    assert!(matches!(world.closed[..], [(1, CloseReason::Protocol("flood"))]));
}

#[test]
fn a_choke_frees_the_blocks_at_once_and_late_data_is_taken() {
    let mut world = World::new(1, 4);
    world.seed(1);
    world.read(1, 0, 0);
    let first = world.asked[&1][0];
    world.hear(1, Message::Choke);
    world.asked.clear();
    world.seed(2);
    assert_eq!(world.asked_of(2).len(), 4, "asked of another peer");
    world.hear(1, block(first));
    assert_eq!(world.asked_of(2).len(), 3, "the late block made its request needless");
    world.run();
    let state = world.snapshot();
    assert_eq!((world.ready.as_slice(), state.wasted_bytes), (&[1][..], 0));
}

#[test]
fn the_reject_of_a_cancelled_request_does_not_end_its_successor() {
    let mut world = World::new(1, 1);
    world.seed(1);
    world.read(1, 0, 0);
    let request = world.asked[&1][0];
    world.command(Command::Abandon(Ticket(1)));
    world.read(2, 0, 0);
    assert_eq!(world.asked[&1], [request]);
    world.hear(1, Message::Reject(request));
    world.hear(1, block(request));
    world.write_all();
    assert_eq!((world.snapshot().wasted_bytes, world.ready), (0, vec![2]));
}

#[test]
fn an_overdue_block_is_asked_of_one_more_peer_and_the_loser_is_cancelled() {
    let mut world = World::new(1, 1);
    world.seed(1);
    world.read(1, 0, 0);
    world.seed(2);
    assert_eq!((world.asked_of(1).len(), world.asked_of(2).len()), (1, 0));
    world.pass(2 * S);
    assert_eq!(world.asked_of(2), [(0, 0)]);
    world.answer(2);
    assert_eq!(world.cancelled.len(), 1);
    world.write_all();
    assert_eq!(world.ready, [1]);
}

#[test]
fn a_silent_peer_is_closed_after_two_minutes_and_one_that_lives_is_not() {
    let mut world = World::new(1, 1);
    world.seed(1);
    world.seed(2);
    for _ in 0..13 {
        world.pass(10 * S);
        world.hear(2, Message::KeepAlive);
    }
    assert_eq!(world.closed, [(1, CloseReason::Silent)]);
}

#[test]
fn ourselves_and_those_connected_twice_are_closed() {
    let mut world = World::new(1, 1);
    world.connect_as(1, PeerId(*b"-BF0001-000000000000"), addr(1), true);
    world.connect_as(2, PeerId([2; 20]), addr(2), true);
    world.connect_as(3, PeerId([2; 20]), addr(3), true);
    assert_eq!(world.closed, [(1, CloseReason::OwnConnection), (3, CloseReason::Duplicate)]);
}

#[test]
fn an_allowed_fast_piece_is_asked_for_while_choked() {
    let mut world = World::new(4, 1);
    world.connect(1);
    world.hear_all(1, [Message::HaveAll, Message::AllowedFast(2)]);
    world.read(1, 1, 2);
    assert_eq!(world.asked_of(1), [(2, 0)]);
}

#[test]
fn a_warm_peer_is_asked_for_a_block_now_and_then() {
    let mut world = World::new(400, 1);
    world.seed(1);
    world.open(1);
    world.pass(S);
    assert!(world.said.contains(&(1, Message::Interested)), "opening wakes the peers");
    for minute in 1..=9 {
        for _ in 0..6 {
            world.pass(10 * S);
            while world.answer(1) {}
            world.write_all();
            world.hear(1, Message::KeepAlive);
        }
        assert!(world.requests_seen() >= minute, "minute {minute}: {}", world.requests_seen());
    }
}

#[test]
fn without_upload_nobody_is_unchoked() {
    for upload in [true, false] {
        let mut world = World::with(2, 1, |config| {
            config.upload = upload;
            config.have.set(PieceIndex(0));
        });
        world.peer(1, "..");
        world.hear(1, Message::Interested);
        world.pass(60 * S);
        assert_eq!(world.said.contains(&(1, Message::Unchoke)), upload);
    }
}

#[test]
fn who_is_dialled_for_a_reader_hears_of_our_interest_at_once() {
    let mut world = World::new(9, 1);
    world.open(5);
    world.read(1, 3, 3);
    let opening = Opening { pieces: Bytes::from_static(&[0, 0]) };
    world.connect_told(1, opening.clone());
    assert!(!world.said(1).iter().any(|message| matches!(message, Message::Interested | Message::HaveNone)));
    world.hear_all(1, [Message::HaveAll, Message::Unchoke]);
    assert_eq!(world.asked_of(1), [(3, 0)]);
    world.run();
    // A piece that came between the opening and its answer is told.
    world.connect_told(2, opening);
    assert!(world.said(2).iter().any(|message| matches!(message, Message::Have(3))), "{:?}", world.said(2));
}

#[test]
fn who_closes_on_an_opening_is_dialled_again_without_one() {
    let mut world = World::new(9, 1);
    world.open(5);
    world.read(1, 3, 3);
    world.command(Command::Candidates { source: Source::Tracker, addrs: vec![addr(1)] });
    assert_eq!((world.dialled.as_slice(), world.openings), (&[addr(1)][..], 1));
    world.connect_told(1, Opening { pieces: Bytes::from_static(&[0, 0]) });
    world.torrent.handle_disconnected(world.now, PeerKey(1));
    world.drain();
    world.pass(2 * MS);
    assert_eq!((world.dialled.len(), world.openings), (2, 1), "at once, and plainly");
}

/// Who was choked and unchoked, in order; forgets it.
fn slots_given(world: &mut World) -> Vec<(u64, bool)> {
    let said = std::mem::take(&mut world.said);
    let changes = said.into_iter().filter_map(|(peer, message)| match message {
        Message::Choke => Some((peer, false)),
        Message::Unchoke => Some((peer, true)),
        _ => None,
    });
    changes.collect()
}

#[test]
fn another_number_of_slots_holds_at_once() {
    let mut world = World::with(4, 1, |config| {
        config.have = Bitfield::full(4);
        config.limits.upload_slots = Some(2);
    });
    world.command(Command::UploadSlots(Some(2)));
    for peer in 1..=5 {
        world.peer(peer, "....");
        world.hear(peer, Message::Interested);
    }
    assert_eq!(slots_given(&mut world), [(1, true), (2, true)]);
    world.command(Command::UploadSlots(Some(4)));
    assert_eq!(slots_given(&mut world).len(), 2, "two more");
    world.command(Command::UploadSlots(Some(1)));
    let given = slots_given(&mut world);
    assert!(given.len() == 3 && given.iter().all(|&(_, unchoke)| !unchoke), "{given:?}");
    world.command(Command::UploadSlots(None));
    assert_eq!(slots_given(&mut world).len(), 4, "all of them");
}

#[test]
fn a_slot_that_is_given_on_is_taken_from_who_had_it() {
    let mut world = World::with(4, 1, |config| {
        config.have = Bitfield::full(4);
        config.limits.upload_slots = Some(1);
    });
    for peer in 1..=6 {
        world.peer(peer, "....");
        world.hear_all(peer, [Message::Interested, Message::NotInterested]);
    }
    let given = slots_given(&mut world);
    assert_eq!(given[..5], [(1, true), (1, false), (2, true), (2, false), (3, true)]);
    (1..=6).for_each(|peer| world.hear(peer, Message::Interested));
    assert_eq!(slots_given(&mut world), [], "five were choked just now, and the sixth has it");
    assert_eq!(world.snapshot().peers.iter().filter(|peer| !peer.am_choking).count(), 1);
}
