//! A bounded cache: pieces that went, peers that are told, and what is not fetched for want of room.

use bytes::Bytes;

use super::world::{S, World};
use crate::base::{Bitfield, PieceIndex};
use crate::engine::*;
use crate::proto::wire::Message;
use crate::proto::wire::extension::{ExtensionHandshake, HANDSHAKE_ID};

const THEIR_ID: u8 = 7;

fn speaks_donthave(world: &mut World, peer: u64, id: u8) {
    let handshake = ExtensionHandshake {
        extensions: vec![(b"lt_donthave".as_slice().into(), id)],
        ..ExtensionHandshake::default()
    };
    world.hear(peer, Message::Extended { id: HANDSHAKE_ID, payload: handshake.encode() });
}

fn evict(world: &mut World, pieces: &[u32]) {
    world.command(Command::Evicted(pieces.iter().map(|&piece| PieceIndex(piece)).collect()));
}

fn donthaves(world: &World, peer: u64) -> Vec<u32> {
    let payloads = world.said(peer).into_iter().filter_map(|message| match message {
        Message::Extended { id: THEIR_ID, payload } => Some(u32::from_be_bytes(payload[..].try_into().unwrap())),
        _ => None,
    });
    payloads.collect()
}

#[test]
fn evicted_pieces_are_taken_back_from_those_who_understand_it() {
    let mut world = World::with(4, 2, |config| config.have = Bitfield::full(4));
    world.peer(1, "....");
    world.peer(2, "....");
    speaks_donthave(&mut world, 1, THEIR_ID);
    evict(&mut world, &[1, 3]);
    evict(&mut world, &[1]);
    assert_eq!((donthaves(&world, 1), donthaves(&world, 2)), (vec![1, 3], vec![]));
    let snapshot = world.snapshot();
    assert_eq!((snapshot.have.count(), snapshot.left_bytes), (2, 4 * 16384));
    // A seed no more: everybody hears that, and newcomers hear of what is left.
    let said = |world: &World, peer| {
        let last = world.said(peer).into_iter().rev().find_map(|message| match message {
            Message::Extended { id: HANDSHAKE_ID, payload } => ExtensionHandshake::decode(payload),
            _ => None,
        });
        last.unwrap().upload_only
    };
    assert_eq!((said(&world, 1), said(&world, 2)), (Some(false), Some(false)));
    world.connect(3);
    assert!(world.said(3).contains(&&Message::Bitfield(Bytes::from_static(&[0b1010_0000]))));
    speaks_donthave(&mut world, 1, 0);
    evict(&mut world, &[0]);
    assert_eq!(donthaves(&world, 1), [1, 3], "it has taken that back");
}

#[test]
fn an_evicted_piece_is_fetched_again_when_it_is_read_and_claimed_again() {
    let mut world = World::new(4, 2);
    world.seed(1);
    world.peer(2, "....");
    world.read(1, 1, 1);
    world.run();
    evict(&mut world, &[1]);
    world.read(2, 1, 1);
    assert_eq!(world.ready, [1], "it is not here");
    world.run();
    assert_eq!(world.ready, [1, 2]);
    let haves = world.said(2).into_iter().filter(|message| **message == Message::Have(1)).count();
    assert_eq!(haves, 2);
    assert!(!world.completed);
}

#[test]
fn completeness_is_announced_once() {
    let mut world = World::new(2, 1);
    world.seed(1);
    world.read(1, 0, 1);
    world.run();
    assert!(std::mem::take(&mut world.completed));
    evict(&mut world, &[0]);
    world.seed(3);
    world.read(2, 0, 0);
    world.run();
    assert_eq!((world.ready.len(), world.completed), (2, false));
}

#[test]
fn a_peer_that_has_a_piece_no_more_is_not_asked_for_it() {
    let mut world = World::new(4, 2);
    world.seed(1);
    world.read(1, 0, 1);
    assert_eq!(world.asked_of(1), [(0, 0), (0, 1), (1, 0), (1, 1)]);
    world.hear(1, Message::Extended { id: 1, payload: Bytes::copy_from_slice(&1_u32.to_be_bytes()) });
    assert_eq!(world.snapshot().peers[0].pieces, 3);
    // What it was asked of that piece it does not answer.
    world.asked.get_mut(&1).unwrap().retain(|request| request.piece != 1);
    world.run();
    world.pass(5 * S);
    assert_eq!((world.snapshot().have.count(), world.ready.len()), (1, 0), "nobody has the other one");
    world.seed(2);
    world.run();
    assert_eq!(world.ready, [1]);
    // Garbage is ignored; a newer have counts.
    for payload in [&b""[..], b"123", &[0xff; 4], &[0; 5]] {
        world.hear(1, Message::Extended { id: 1, payload: Bytes::copy_from_slice(payload) });
    }
    world.hear(1, Message::Have(1));
    assert!(world.closed.is_empty() && world.snapshot().peers[0].pieces == 4);
}

#[test]
fn without_room_only_what_a_reader_waits_for_is_fetched() {
    let mut world = World::new(16, 2);
    world.command(Command::Room(Room::Scarce));
    world.seed(1);
    world.open(1);
    world.window(1, 4, 9);
    assert_eq!(world.asked_count(), 0);
    world.read(1, 3, 3);
    assert_eq!(world.asked_of(1), [(3, 0), (3, 1)]);
    world.run();
    world.command(Command::Room(Room::Tight));
    world.run();
    assert_eq!(world.snapshot().have.count(), 7, "the window, too");
}

#[test]
fn with_little_room_nothing_is_fetched_in_the_background() {
    let mut world = World::with(16, 2, |config| config.fill = Fill::All);
    world.command(Command::Room(Room::Tight));
    world.seed(1);
    assert_eq!(world.asked_count(), 0);
    world.command(Command::Room(Room::Plenty));
    world.run();
    assert!(world.snapshot().have.is_full());
    evict(&mut world, &[3]);
    world.run();
    assert!(!world.snapshot().have.is_full() || world.snapshot().peers.is_empty());
}

#[test]
fn what_was_begun_and_is_wanted_no_more_is_given_up_where_room_is_short() {
    let mut world = World::new(4, 128);
    world.seed(1);
    world.open(1);
    world.window(1, 1, 1);
    // A run of 1 MiB is written, then the reader goes elsewhere.
    while world.jobs.is_empty() {
        assert!(world.answer(1));
    }
    world.write_all();
    world.command(Command::Released(HandleId(1)));
    world.pass(S);
    assert!(world.jobs.is_empty(), "as long as there is room it may be of use");
    world.command(Command::Room(Room::Tight));
    assert!(matches!(world.jobs[..], [DiskJob::Discard { piece: PieceIndex(1), attempt: 1 }]), "{:?}", world.jobs);
    world.jobs.clear();
    world.read(1, 1, 1);
    world.run();
    assert_eq!(world.ready, [1], "begun anew");
}

#[test]
fn peers_are_told_of_pieces_in_memory_when_those_are_on_the_disk() {
    let mut world = World::new(4, 2);
    world.unwritable = true;
    world.seed(1);
    world.peer(2, "....");
    world.read(1, 0, 2);
    world.run();
    assert_eq!(world.ready, [1], "readers have them");
    let haves = |world: &World| {
        let said = world.said(2).into_iter().filter_map(|message| match message {
            Message::Have(piece) => Some(*piece),
            _ => None,
        });
        said.collect::<Vec<_>>()
    };
    assert_eq!(haves(&world), Vec::<u32>::new());
    let snapshot = world.snapshot();
    assert_eq!((snapshot.have.count(), snapshot.left_bytes), (3, 4 * 2 * 16384), "they have to be fetched again yet");
    world.connect(3);
    assert!(world.said(3).contains(&&Message::HaveNone));
    evict(&mut world, &[1]);
    let kept = |pieces: &[u32]| Command::Kept(pieces.iter().map(|&piece| PieceIndex(piece)).collect());
    world.command(kept(&[2, 0, 1, 3]));
    assert_eq!(haves(&world), [2, 0], "what went in between did not come to the disk");
    assert_eq!(world.snapshot().left_bytes, 2 * 2 * 16384);
}

#[test]
fn a_torrent_is_complete_when_all_of_it_is_on_the_disk() {
    let mut world = World::new(2, 1);
    world.unwritable = true;
    world.seed(1);
    world.read(1, 0, 1);
    world.run();
    assert!(world.ready == [1] && !world.completed && world.closed.is_empty());
    world.command(Command::Kept(vec![PieceIndex(0), PieceIndex(1)]));
    assert!(world.completed);
}

#[test]
fn what_fits_into_memory_is_fetched_reader_by_reader() {
    let mut world = World::new(16, 2);
    world.unwritable = true;
    world.command(Command::Room(Room::Memory(2)));
    world.seed(1);
    world.open(1);
    world.window(1, 12, 15);
    world.read(1, 4, 6);
    world.read(2, 1, 1);
    world.read(3, 6, 7);
    let pieces = |world: &World| world.asked_of(1).into_iter().map(|(piece, _)| piece).collect::<Vec<_>>();
    assert_eq!(pieces(&world), [4, 4, 5, 5], "the first reader's, and no more than fit");
    world.run();
    assert_eq!(world.ready, [1, 2, 3]);
    assert_eq!(world.snapshot().have.count(), 5, "nothing was read ahead");
    // Pushed out again, it is fetched again.
    evict(&mut world, &[4]);
    world.read(4, 4, 4);
    world.run();
    assert_eq!(world.ready, [1, 2, 3, 4]);
    world.unwritable = false;
    world.command(Command::Room(Room::Plenty));
    world.run();
    assert_eq!(world.snapshot().have.count(), 9, "and the window is fetched");
}

/// A seed that takes pieces back and has them again, over and over: no walk through all pieces for each.
#[test]
fn a_seed_that_says_this_and_that_of_a_piece_costs_little() {
    const PIECES: u32 = 50_000;
    let mut world = World::with(PIECES, 1, |config| config.fill = Fill::All);
    world.connect(1);
    world.hear(1, Message::HaveAll);
    let donthave = |piece: u32| Message::Extended { id: 1, payload: Bytes::copy_from_slice(&piece.to_be_bytes()) };
    // The best of a few: whatever else the machine does meanwhile does not count.
    let rounds = (0..10).map(|_| {
        let begun = std::time::Instant::now();
        for number in 0..20 {
            world.hear_all(1, [donthave(number % 7), Message::Have(number % 7)]);
        }
        begun.elapsed()
    });
    let flips = rounds.min().unwrap();
    // A few times as many walks, through as many counters and no more than that.
    let mut counters = std::hint::black_box(vec![0_u32; PIECES as usize]);
    let begun = std::time::Instant::now();
    for _ in 0..200 {
        counters.iter_mut().for_each(|counter| *counter = std::hint::black_box(*counter + 1));
    }
    let walks = begun.elapsed();
    assert!(world.closed.is_empty() && world.snapshot().peers[0].pieces == PIECES as usize);
    assert!(flips < walks, "forty messages {flips:?}, two hundred walks {walks:?}");
}
