//! Runs that wait for company, and requests that see to it.

use std::time::Duration;

use super::world::{MS, World};
use crate::engine::*;
use crate::proto::wire::Message;

/// A torrent that is read on and on, from a seed that has shown that it sends `bytes_per_second`.
fn stream(pieces: u32, blocks: u32, bytes_per_second: u64) -> (World, Duration) {
    let each = Duration::from_nanos(16384 * 1_000_000_000 / bytes_per_second);
    let mut world = World::new(pieces, blocks);
    world.seed(1);
    world.open(1);
    world.window(1, 0, pieces - 1);
    for _ in 0..4 * 64 {
        one(&mut world, each);
        world.write_all();
    }
    (world, each)
}

/// One more block comes.
fn one(world: &mut World, each: Duration) {
    world.pass(each);
    assert!(world.answer(1), "it has been asked for more");
}

/// The runs that were handed on, each group at once.
fn groups(world: &mut World, each: Duration, blocks: usize) -> Vec<Vec<(u32, u32)>> {
    let mut groups = Vec::new();
    for _ in 0..blocks {
        one(world, each);
        let run = |job: &DiskJob| match job {
            DiskJob::Write { piece, begin, .. } => (piece.raw(), begin / 16384),
            other => panic!("{other:?}"),
        };
        let group: Vec<_> = world.jobs.iter().map(run).collect();
        groups.extend((!group.is_empty()).then_some(group));
        world.write_all();
    }
    groups
}

#[test]
fn runs_of_a_fast_stream_go_in_twos_and_those_of_a_slower_one_at_once() {
    for (rate, expected) in [(400_000_000, 2), (40_000_000, 1)] {
        let (mut world, each) = stream(40, 64, rate);
        let groups = groups(&mut world, each, 8 * 64);
        assert!(groups.len() >= 4 && groups.iter().all(|group| group.len() == expected), "{rate}: {groups:?}");
    }
}

#[test]
fn a_pair_is_urgent_when_somebody_waits_for_one_of_it() {
    let (mut world, each) = stream(40, 64, 400_000_000);
    let next = world.asked_of(1)[0].0;
    world.read(1, next, next);
    while world.jobs.is_empty() {
        one(&mut world, each);
    }
    let urgent = |job: &DiskJob| matches!(job, DiskJob::Write { urgent: true, .. });
    assert!(world.jobs.len() == 2 && world.jobs.iter().all(urgent), "{:?}", world.jobs);
}

#[test]
fn a_run_whose_company_does_not_come_goes_by_itself() {
    let (mut world, each) = stream(40, 64, 400_000_000);
    let mut blocks = 0;
    while world.jobs.is_empty() {
        one(&mut world, each);
        blocks += 1;
        assert!(blocks <= 128);
    }
    world.write_all();
    for _ in 0..64 {
        one(&mut world, each);
    }
    assert!(world.jobs.is_empty(), "it waits");
    world.pass(7 * MS);
    assert_eq!(world.jobs.len(), 1, "not for long");
}

#[test]
fn a_piece_that_is_asked_for_alone_waits_for_nobody() {
    let (mut world, each) = stream(40, 64, 400_000_000);
    world.command(Command::Released(HandleId(1)));
    while world.answer(1) {
        world.pass(each);
        world.write_all();
    }
    world.pass(20 * MS);
    world.write_all();
    world.read(1, 39, 39);
    let mut runs = 0;
    while world.ready.is_empty() {
        one(&mut world, each);
        runs += world.jobs.len();
        world.write_all();
    }
    assert_eq!(runs, 4, "quarters, each hashed while the next one comes");
}

#[test]
fn long_pieces_of_a_fast_stream_come_two_at_a_time_run_by_run() {
    let (mut world, each) = stream(40, 256, 400_000_000);
    // From where a piece begins.
    while !world.asked_of(1).iter().any(|&(piece, block)| piece % 2 == 0 && block == 0) {
        one(&mut world, each);
        world.write_all();
    }
    let groups = groups(&mut world, each, 12 * 64);
    let pairs = groups.iter().filter(|group| group.len() == 2).count();
    assert!(pairs >= 5, "{groups:?}");
    assert!(groups.iter().filter(|group| group.len() == 2).all(|group| group[0].0 != group[1].0), "{groups:?}");
    let (mut world, each) = stream(40, 256, 40_000_000);
    let order: Vec<_> = groups_of_requests(&mut world, each);
    assert!(order.is_sorted(), "one after the other where that takes longer: {order:?}");
}

fn groups_of_requests(world: &mut World, each: Duration) -> Vec<(u32, u32)> {
    (0..512)
        .map(|_| {
            let first = world.asked_of(1)[0];
            one(world, each);
            world.write_all();
            first
        })
        .collect()
}

/// One run is gathered, and waits.
fn waiting() -> (World, Duration, u32) {
    let (mut world, each) = stream(40, 64, 400_000_000);
    while world.jobs.is_empty() {
        one(&mut world, each);
    }
    world.write_all();
    let piece = world.asked_of(1)[0].0;
    for _ in 0..64 {
        one(&mut world, each);
    }
    assert!(world.jobs.is_empty(), "it waits");
    (world, each, piece)
}

#[test]
fn a_reader_who_comes_for_a_piece_that_waits_need_not_wait_with_it() {
    let (mut world, _, piece) = waiting();
    world.read(1, piece, piece);
    assert_eq!(world.jobs.len(), 1);
}

#[test]
fn time_comes_between_events_however_many_there_are() {
    let (mut world, ..) = waiting();
    world.connect(2);
    let end = world.now + 20 * MS;
    while world.now < end && world.jobs.is_empty() {
        world.now += MS / 2;
        world.hear(2, Message::KeepAlive);
        // As a driver does that looks for what is due between two events.
        if world.torrent.poll_timeout().is_some_and(|at| at <= world.now) {
            world.torrent.handle_timeout(world.now);
            world.drain();
        }
    }
    assert_eq!(world.jobs.len(), 1, "the patience of a run is over, whatever else is said");
}

#[test]
fn what_waits_goes_when_the_torrent_stops() {
    let (mut world, ..) = waiting();
    world.command(Command::Stop);
    assert_eq!(world.jobs.len(), 1);
}

#[test]
fn a_piece_that_is_lost_while_a_run_of_it_waits_takes_the_run_with_it() {
    let (mut world, each) = stream(40, 256, 400_000_000);
    let mut attempts = Vec::new();
    while attempts.len() < 2 {
        one(&mut world, each);
        for job in std::mem::take(&mut world.jobs) {
            let DiskJob::Write { piece, attempt, blocks, .. } = job else { panic!("{job:?}") };
            let bytes = blocks.iter().map(|block| block.len() as u32).sum();
            attempts.push((piece, attempt, bytes));
        }
    }
    for _ in 0..64 {
        one(&mut world, each);
    }
    for (piece, attempt, bytes) in attempts {
        world.done(DiskDone::Failed { piece, attempt, bytes, error: "it is full".into() });
    }
    world.pass(20 * MS);
    world.torrent.check_invariants();
}

#[test]
fn no_neighbour_is_asked_for_where_only_what_somebody_waits_for_may_be() {
    let (mut world, each) = stream(40, 256, 400_000_000);
    world.command(Command::Room(Room::Scarce));
    for _ in 0..200 {
        if !world.answer(1) {
            break;
        }
        world.pass(each);
        world.write_all();
    }
    let before = world.requests_seen();
    world.read(1, 30, 30);
    let mut blocks = 0;
    while world.ready.is_empty() {
        one(&mut world, each);
        blocks += 1;
        world.write_all();
    }
    let asked = world.requests_seen() - before;
    assert!(asked <= 256 + 8 && blocks <= 256 + 8, "{asked} asked, {blocks} came");
}
