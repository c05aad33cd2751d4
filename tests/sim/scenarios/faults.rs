//! Peers, links, disks and processes that fail.

use btfs::engine::{Command, Room};

use super::{KIB, MIB, millis, seconds, small, sweep};
use crate::content::Content;
use crate::node::mount_config;
use crate::reader::{Step, cat, open, redirect};
use crate::script::{Behaviour, Some_};
use crate::world::World;

/// One misbehaving seed alone, or beside a good one: the whole file is read in time.
fn reads_through(seeds: u64, limit: u64, peers: &[Behaviour], check: impl Fn(&World, usize)) {
    sweep(seeds, small(), |world| {
        let mount = world.add_engine(mount_config(world));
        for behaviour in peers {
            world.add_script(behaviour.clone());
        }
        let reader = cat(world, mount, 0);
        let done = world.run_until(seconds(limit), |world| world.engine(mount).readers[reader].finished);
        assert!(done, "not done after {limit} s: {:?}", world.engine(mount).readers[reader].bytes_read());
        assert_eq!(world.engine(mount).readers[reader].bytes_read(), 3 * MIB);
        check(world, mount);
    });
}

#[test]
fn a_choke_in_the_middle_only_delays() {
    for fast in [true, false] {
        let choker = Behaviour { choke_after: Some((37, seconds(3))), fast, ..Behaviour::default() };
        reads_through(10, 60, std::slice::from_ref(&choker), |_, _| ());
        reads_through(10, 20, &[choker, Behaviour::default()], |_, _| ());
    }
}

#[test]
fn a_single_seed_that_rejects_a_request_is_asked_again() {
    for rejects in [Some_::First(1), Some_::First(14), Some_::Part(0.1)] {
        reads_through(7, 120, &[Behaviour { rejects, ..Behaviour::default() }], |_, _| ());
    }
}

#[test]
fn a_single_seed_that_drops_a_request_is_asked_again() {
    for ignores in [Some_::First(1), Some_::First(5), Some_::Part(0.02)] {
        for fast in [true, false] {
            reads_through(4, 240, &[Behaviour { ignores, fast, ..Behaviour::default() }], |_, _| ());
        }
    }
}

#[test]
fn one_that_rejects_everything_draws_no_storm() {
    let liar = Behaviour { rejects: Some_::All, ..Behaviour::default() };
    reads_through(10, 25, &[liar, Behaviour::default()], |world, mount| {
        let per_second = world.script(mount + 1).requests as f64 / world.elapsed().as_secs_f64();
        assert!(per_second < 20.0, "{per_second} requests a second to a peer that gives nothing");
    });
}

#[test]
fn a_seed_that_rejects_everything_draws_no_storm_when_alone() {
    sweep(5, small(), |world| {
        let mount = world.add_engine(mount_config(world));
        let liar = world.add_script(Behaviour { rejects: Some_::All, ..Behaviour::default() });
        let reader = cat(world, mount, 0);
        world.run_for(seconds(150));
        let engine = world.engine(mount);
        assert!(engine.readers[reader].failed(), "it fails by the read timeout");
        let waited = engine.readers[reader].answers[0].took();
        assert!((seconds(118)..seconds(130)).contains(&waited), "{waited:?}");
        let requests = world.script(liar).requests;
        assert!(requests < 150 * 5, "{requests} requests");
    });
}

#[test]
fn a_dead_peer_that_unchokes_and_never_sends_costs_little() {
    let dead = Behaviour { ignores: Some_::All, ..Behaviour::default() };
    reads_through(20, 20, &[dead.clone(), dead, Behaviour::default()], |world, mount| {
        let engine = world.engine(mount);
        assert!(engine.readers[0].longest_wait() < seconds(8), "{:?}", engine.readers[0].longest_wait());
        for dead in [mount + 1, mount + 2] {
            let requests = world.script(dead).requests;
            assert!(requests < 200, "{requests} requests to a dead peer");
        }
    });
}

#[test]
fn a_slow_answer_is_asked_of_another_peer() {
    // It takes 10 s for each block, whatever happens.
    let sluggish = Behaviour { delay: seconds(10), ..Behaviour::default() };
    reads_through(20, 20, &[sluggish, Behaviour::default()], |world, mount| {
        let wait = world.engine(mount).readers[0].longest_wait();
        assert!(wait < seconds(6), "{wait:?}");
    });
}

#[test]
fn a_seed_that_vanishes_and_returns_is_read_on() {
    sweep(20, small(), |world| {
        let mount = world.add_engine(mount_config(world));
        let seed = world.add_script(Behaviour::default());
        let reader = cat(world, mount, 0);
        world.run_for(seconds(1));
        world.take_down(seed);
        let gone = 10 + world.rng.u64(..60);
        world.run_for(seconds(gone));
        assert!(!world.engine(mount).readers[reader].failed() && !world.engine(mount).readers[reader].finished);
        world.bring_up(seed);
        let back = world.now;
        assert!(world.run_until(seconds(60), |world| world.engine(mount).readers[reader].finished));
        assert_eq!(world.engine(mount).readers[reader].bytes_read(), 3 * MIB);
        assert!(world.now - back < seconds(30), "{:?} after its return", world.now - back);
    });
}

#[test]
fn a_partition_of_half_a_minute_passes() {
    sweep(10, small(), |world| {
        let mount = world.add_engine(mount_config(world));
        let seeds: Vec<usize> = (0..3).map(|_| world.add_script(Behaviour::default())).collect();
        let reader = cat(world, mount, 0);
        world.run_for(millis(600));
        seeds.iter().for_each(|&seed| world.take_down(seed));
        world.run_for(seconds(30));
        seeds.iter().for_each(|&seed| world.bring_up(seed));
        assert!(world.run_until(seconds(25), |world| world.engine(mount).readers[reader].finished));
        assert!(!world.engine(mount).readers[reader].failed());
    });
}

#[test]
fn connections_that_break_all_the_time_do_not_stop_a_reader() {
    sweep(10, small(), |world| {
        let mount = world.add_engine(mount_config(world));
        for _ in 0..3 {
            world.add_script(Behaviour::default());
        }
        let reader = cat(world, mount, 0);
        for _ in 0..400 {
            world.run_for(millis(150));
            let open: Vec<usize> = (0..world.connections.len()).filter(|&at| world.connections[at].open[0]).collect();
            if !open.is_empty() && world.rng.u8(..10) == 0 {
                let unlucky = open[world.rng.usize(..open.len())];
                world.reset(unlucky, 0);
            }
        }
        assert_eq!(world.engine(mount).readers[reader].bytes_read(), 3 * MIB);
    });
}

#[test]
fn a_suspended_process_goes_on_within_seconds() {
    sweep(10, small(), |world| {
        let mount = world.add_engine(mount_config(world));
        for _ in 0..2 {
            let seed = world.add_script(Behaviour::default());
            world.nodes[seed].up_bytes_per_second = 256 * KIB;
        }
        let reader = cat(world, mount, 0);
        world.run_for(seconds(2));
        let before = world.engine(mount).readers[reader].bytes_read();
        let time = 60 + world.rng.u64(..120);
        world.suspend(mount, seconds(time));
        world.run_for(seconds(time + 5));
        let engine = world.engine(mount);
        assert!(engine.readers[reader].bytes_read() > before, "it reads on within 5 s");
        assert!(!engine.readers[reader].failed());
        assert!(world.run_until(seconds(60), |world| world.engine(mount).readers[reader].finished));
        assert_eq!(world.engine(mount).readers[reader].bytes_read(), 3 * MIB);
    });
}

#[test]
fn a_seek_leaves_the_old_place_at_once() {
    sweep(10, Content::new(256 * 1024, &[64 * MIB]), |world| {
        let mount = world.add_engine(mount_config(world));
        let seed = world.add_script(Behaviour::default());
        world.nodes[seed].up_bytes_per_second = 512 * KIB;
        let reader = cat(world, mount, 0);
        world.run_for(seconds(10));
        let seek = Step::Stream { from: 50 * MIB, to: 51 * MIB, bytes_per_second: None };
        let answers = world.engine(mount).readers[reader].answers.len();
        redirect(world, mount, reader, [seek]);
        assert!(world.run_until(seconds(30), |world| world.engine(mount).readers[reader].answers.len() > answers));
        let first = world.engine(mount).readers[reader].answers[answers].clone();
        assert_eq!(first.offset, 50 * MIB);
        // A piece takes half a second on this link; what was asked before may still be on its way.
        assert!(first.took() < seconds(4), "{:?}", first.took());
        assert!(world.run_until(seconds(20), |world| world.engine(mount).readers[reader].finished));
        let fetched = world.engine(mount).blocks_received;
        world.run_for(seconds(20));
        let later = world.engine(mount).blocks_received;
        // The new place and its window, but not the old window (it would be another megabyte or more).
        assert!(later - fetched <= 3 * MIB / (16 * KIB), "{} blocks", later - fetched);
    });
}

#[test]
fn an_abandoned_read_is_fetched_no_further() {
    sweep(10, Content::new(MIB as u32, &[32 * MIB]), |world| {
        let mount = world.add_engine(mount_config(world));
        let seed = world.add_script(Behaviour::default());
        world.nodes[seed].up_bytes_per_second = 64 * KIB;
        let read = Step::Stream { from: 8 * MIB, to: 8 * MIB + 4096, bytes_per_second: None };
        let reader = open(world, mount, 0, [read]);
        world.run_for(seconds(3));
        redirect(world, mount, reader, [Step::Close]);
        world.run_for(seconds(3));
        let before = world.engine(mount).blocks_received;
        world.run_for(seconds(30));
        let after = world.engine(mount).blocks_received;
        assert!(after - before <= 8, "{} more blocks", after - before);
    });
}

#[test]
fn a_broken_disk_fails_reads_and_a_mended_one_serves_again() {
    sweep(10, small(), |world| {
        let mount = world.add_engine(mount_config(world));
        world.add_script(Behaviour::default());
        world.engine_mut(mount).disk.broken = true;
        let reader = cat(world, mount, 0);
        let done = world.run_until(seconds(130), |world| world.engine(mount).readers[reader].finished);
        assert!(done && world.engine(mount).readers[reader].failed());
        let fetched = world.engine(mount).blocks_received * 16 * KIB;
        assert!(fetched < 8 * MIB, "{fetched} bytes fetched for a disk that takes none");
        world.engine_mut(mount).disk.broken = false;
        world.run_for(seconds(15));
        let reader = cat(world, mount, 0);
        assert!(world.run_until(seconds(60), |world| world.engine(mount).readers[reader].finished));
        assert_eq!(world.engine(mount).readers[reader].bytes_read(), 3 * MIB);
    });
}

#[test]
fn a_disk_that_takes_nothing_is_read_past_through_a_little_memory() {
    sweep(20, small(), |world| {
        let mount = world.add_engine(mount_config(world));
        let other = world.add_engine(mount_config(world));
        world.add_script(Behaviour::default());
        world.add_script(Behaviour { delay: millis(5), ..Behaviour::default() });
        world.engine_mut(mount).disk.memory = Some(4);
        world.command(mount, Command::Room(Room::Memory(3)));
        // Two read all in a row, one hops about; somebody else fetches beside and hears nothing of what is in memory.
        let hops = (0..24).map(|hop| {
            let from = hop * 7 % 47 * 64 * KIB;
            Step::Stream { from, to: from + 96 * KIB, bytes_per_second: None }
        });
        let readers = [cat(world, mount, 0), cat(world, mount, 1), open(world, mount, 0, hops)];
        cat(world, other, 0);
        let done = world.run_until(seconds(240), |world| {
            readers.iter().all(|&reader| world.engine(mount).readers[reader].finished)
        });
        let engine = world.engine(mount);
        let answers = |reader: usize| (engine.readers[reader].failed(), engine.readers[reader].bytes_read());
        assert!(done, "{:?}", readers.map(answers));
        assert_eq!(readers.map(answers), [(false, 3 * MIB), (false, MIB), (false, 24 * 96 * KIB)]);
        let fetched = engine.blocks_received * 16 * KIB;
        assert!(fetched < 16 * MIB, "{fetched} bytes fetched for 6 MiB that were read");
        assert!(engine.disk.most_held <= 4 + readers.len() * 3, "{} pieces in memory", engine.disk.most_held);
        let held = world.engine_mut(mount).disk.mend();
        world.command(mount, Command::Kept(held));
        world.command(mount, Command::Room(Room::Plenty));
        let reader = cat(world, mount, 0);
        assert!(world.run_until(seconds(60), |world| world.engine(mount).readers[reader].finished));
        assert_eq!(world.engine(mount).readers[reader].bytes_read(), 3 * MIB);
    });
}

#[test]
fn a_tracker_that_is_down_is_asked_again_and_then_helps() {
    sweep(5, small(), |world| {
        world.tracker_down = true;
        let mount = world.add_engine(mount_config(world));
        world.add_script(Behaviour::default());
        let reader = cat(world, mount, 0);
        world.run_for(seconds(40));
        assert!(!world.engine(mount).readers[reader].finished);
        assert!(world.announces.len() <= 3, "{:?}", world.announces);
        world.tracker_down = false;
        assert!(world.run_until(seconds(60), |world| world.engine(mount).readers[reader].finished));
        assert_eq!(world.engine(mount).readers[reader].bytes_read(), 3 * MIB);
    });
}

#[test]
fn a_peer_that_the_user_names_needs_no_tracker_and_is_tried_again() {
    sweep(5, small(), |world| {
        let mut config = mount_config(world);
        config.trackers.clear();
        let mount = world.add_engine(config);
        let seed = world.add_script(Behaviour::default());
        world.nodes[seed].online = false;
        world.introduce(mount, btfs::engine::Source::User, &[seed]);
        let reader = cat(world, mount, 0);
        world.run_for(seconds(50));
        world.bring_up(seed);
        assert!(world.run_until(seconds(30), |world| world.engine(mount).readers[reader].finished));
        assert_eq!(world.engine(mount).readers[reader].bytes_read(), 3 * MIB);
    });
}

#[test]
fn what_lies_on_disk_is_checked_before_it_is_served_and_fetched_when_wrong() {
    sweep(10, small(), |world| {
        let mut config = mount_config(world);
        let pieces: Vec<_> = world.content.layout.pieces().iter().collect();
        for &piece in &pieces[..32] {
            config.unchecked.set(piece);
        }
        let mount = world.add_engine(config);
        let mut wrong = 0;
        for &piece in &pieces[..32] {
            let mut bytes = world.content.piece(piece).to_vec();
            if world.rng.u8(..4) == 0 {
                bytes[1000] ^= 1;
                wrong += 1;
            }
            world.engine_mut(mount).disk.leave_unchecked(piece, bytes.into());
        }
        world.add_script(Behaviour::default());
        let reader = cat(world, mount, 0);
        assert!(world.run_until(seconds(30), |world| world.engine(mount).readers[reader].finished));
        let engine = world.engine(mount);
        assert_eq!(engine.readers[reader].bytes_read(), 3 * MIB);
        let fetched = engine.blocks_received / 4;
        assert!((16 + wrong..=16 + wrong + 2).contains(&fetched), "{fetched} pieces fetched, {wrong} were wrong");
        assert!(engine.closes.iter().all(|(_, reason)| reason != "Banned"), "nobody is to blame");
    });
}

#[test]
fn stopping_fails_reads_and_tells_the_tracker() {
    sweep(5, small(), |world| {
        let mount = world.add_engine(mount_config(world));
        world.add_script(Behaviour { never_unchokes: true, ..Behaviour::default() });
        let reader = cat(world, mount, 0);
        world.run_for(seconds(5));
        world.command(mount, btfs::engine::Command::Stop);
        world.run_for(millis(500));
        let engine = world.engine(mount);
        assert_eq!(engine.readers[reader].answers[0].result, Err(btfs::engine::ReadError::Stopped));
        assert!(engine.tickets.is_empty());
        assert_eq!(world.announces.last().map(|announce| announce.2), Some(btfs::engine::AnnounceEvent::Stopped));
        let dials: usize = engine.dials.values().map(Vec::len).sum();
        world.run_for(seconds(120));
        assert_eq!(world.engine(mount).dials.values().map(Vec::len).sum::<usize>(), dials);
    });
}
