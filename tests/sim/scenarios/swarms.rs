//! Swarms in which nobody means ill.

use btfs::base::Bitfield;
use btfs::engine::Fill;

use super::{KIB, MIB, millis, seconds, small, sweep};
use crate::content::Content;
use crate::node::mount_config;
use crate::reader::{Step, cat, open};
use crate::script::Behaviour;

#[test]
fn a_file_is_read_whole_from_one_seed() {
    sweep(20, small(), |world| {
        let mount = world.add_engine(mount_config(world));
        world.add_script(Behaviour::default());
        let reader = cat(world, mount, 0);
        assert!(world.run_until(seconds(30), |world| world.engine(mount).readers[reader].finished));
        let engine = world.engine(mount);
        assert_eq!(engine.readers[reader].bytes_read(), 3 * MIB);
        let first = engine.readers[reader].answers[0].took();
        assert!(first < millis(600), "first bytes after {first:?}");
        // The link gives 1 MiB/s: little is lost on the way.
        assert!(world.elapsed() < seconds(5), "{:?}", world.elapsed());
        assert!(engine.blocks_received <= 3 * MIB / (16 * KIB) + 16, "{}", engine.blocks_received);
        assert!(!engine.disk.has(world.content.layout.piece(63).unwrap()), "nobody read the other file");
    });
}

#[test]
fn several_seeds_add_up() {
    sweep(10, Content::new(256 * 1024, &[16 * MIB]), |world| {
        let mount = world.add_engine(mount_config(world));
        for _ in 0..4 {
            world.add_script(Behaviour::default());
        }
        let reader = cat(world, mount, 0);
        assert!(world.run_until(seconds(60), |world| world.engine(mount).readers[reader].finished));
        assert!(world.elapsed() < seconds(8), "16 MiB at 4 MiB/s took {:?}", world.elapsed());
        let engine = world.engine(mount);
        assert!(engine.blocks_received <= 1024 * 21 / 20, "{}", engine.blocks_received);
    });
}

#[test]
fn slow_peers_do_not_hold_a_reader_back() {
    sweep(20, small(), |world| {
        let mount = world.add_engine(mount_config(world));
        for _ in 0..6 {
            let slow = world.add_script(Behaviour::default());
            world.nodes[slow].up_bytes_per_second = 4 * KIB;
            world.nodes[slow].latency = millis(200);
        }
        world.add_script(Behaviour::default());
        let reader = cat(world, mount, 0);
        assert!(world.run_until(seconds(60), |world| world.engine(mount).readers[reader].finished));
        let engine = world.engine(mount);
        assert_eq!(engine.readers[reader].bytes_read(), 3 * MIB);
        assert!(world.elapsed() < seconds(20), "{:?}", world.elapsed());
        assert!(engine.readers[reader].longest_wait() < seconds(12), "{:?}", engine.readers[reader].longest_wait());
        assert!(engine.blocks_received <= 3 * MIB / (16 * KIB) * 5 / 4 + 40, "{}", engine.blocks_received);
    });
}

#[test]
fn two_leechers_and_a_seed_complete_and_share() {
    sweep(10, small(), |world| {
        let leechers: Vec<usize> = (0..2)
            .map(|_| {
                let config = btfs::engine::Config { fill: Fill::All, ..mount_config(world) };
                let node = world.add_engine(config);
                world.nodes[node].up_bytes_per_second = 2 * MIB;
                node
            })
            .collect();
        let pieces = world.content.layout.piece_count();
        let config = btfs::engine::Config { have: Bitfield::full(pieces), ..mount_config(world) };
        let seed = world.add_engine(config);
        world.nodes[seed].up_bytes_per_second = 512 * KIB;
        let all = leechers.clone();
        assert!(world.run_until(seconds(60), move |world| all.iter().all(|&node| world.engine(node).completed)));
        // 4 MiB to each of two at 512 KiB/s would take 16 s without sharing.
        assert!(world.elapsed() < seconds(14), "{:?}", world.elapsed());
        for &leecher in &leechers {
            let now = world.now;
            let snapshot = world.engine_mut(leecher).torrent.snapshot(now);
            assert_eq!(snapshot.left_bytes, 0);
            assert!(snapshot.uploaded_bytes > MIB / 4, "it gave {}", snapshot.uploaded_bytes);
            assert!(snapshot.wasted_bytes < MIB / 4, "it wasted {}", snapshot.wasted_bytes);
        }
        assert!(!world.engine(seed).completed, "it was complete before");
    });
}

#[test]
fn a_mount_fetches_only_what_is_read() {
    sweep(10, Content::new(256 * 1024, &[64 * MIB]), |world| {
        let mount = world.add_engine(mount_config(world));
        world.add_script(Behaviour::default());
        let probes =
            [0, 63 * MIB, 20 * MIB].map(|at| Step::Stream { from: at, to: at + 64 * KIB, bytes_per_second: None });
        let reader = open(world, mount, 0, probes);
        assert!(world.run_until(seconds(30), |world| world.engine(mount).readers[reader].finished));
        world.run_for(seconds(30));
        let engine = world.engine(mount);
        assert!(!engine.readers[reader].failed());
        assert!(engine.disk.present().count() <= 6, "{:?}", engine.disk.present());
    });
}

#[test]
fn a_player_never_waits_for_a_swarm_that_is_fast_enough() {
    sweep(10, Content::new(256 * 1024, &[24 * MIB]), |world| {
        let mount = world.add_engine(mount_config(world));
        for _ in 0..3 {
            let seed = world.add_script(Behaviour::default());
            world.nodes[seed].up_bytes_per_second = 400 * KIB;
        }
        let play = Step::Stream { from: 0, to: 24 * MIB, bytes_per_second: Some(512 * KIB) };
        let reader = open(world, mount, 0, [play]);
        assert!(world.run_until(seconds(120), |world| world.engine(mount).readers[reader].finished));
        let answers = &world.engine(mount).readers[reader].answers;
        let late: Vec<_> = answers.iter().skip(24).filter(|answer| answer.took() > millis(300)).collect();
        assert!(late.is_empty(), "{late:?}");
    });
}

#[test]
fn who_only_takes_gets_less_than_who_gives() {
    sweep(3, Content::new(64 * 1024, &[16 * MIB]), |world| {
        let config = btfs::engine::Config { fill: Fill::All, ..mount_config(world) };
        let leecher = world.add_engine(config);
        world.nodes[leecher].up_bytes_per_second = 200 * KIB;
        // Nine that give a little and take, twelve that only take.
        let pieces = world.content.layout.piece_count();
        let givers: Vec<usize> = (0..9)
            .map(|_| {
                let mut have = Bitfield::new(pieces);
                for piece in world.content.layout.pieces().iter().filter(|_| world.rng.bool()) {
                    have.set(piece);
                }
                let config = btfs::engine::Config { fill: Fill::All, have, ..mount_config(world) };
                let node = world.add_engine(config);
                world.nodes[node].up_bytes_per_second = 100 * KIB;
                node
            })
            .collect();
        let takers: Vec<usize> =
            (0..12).map(|_| world.add_script(Behaviour { leech: true, ..Behaviour::default() })).collect();
        for &taker in &takers {
            let addr = world.nodes[leecher].addr;
            world.dial(taker, addr);
        }
        world.run_for(seconds(100));
        let taken: u64 = takers.iter().map(|&taker| world.script(taker).received * 16 * KIB).sum();
        let given: u64 = givers
            .iter()
            .map(|&giver| {
                let now = world.now;
                world.engine_mut(giver).torrent.snapshot(now).downloaded_bytes
            })
            .sum();
        assert!(taken / 12 < given / 9, "takers got {taken}, givers {given}");
    });
}

#[test]
fn equal_seeds_give_equal_runs() {
    let run = || {
        let mut world = crate::world::World::new(42, small());
        let mount = world.add_engine(mount_config(&world));
        for delay in [0, 5, 30] {
            world.add_script(Behaviour { delay: millis(delay), poison: 0.05, ..Behaviour::default() });
        }
        cat(&mut world, mount, 0);
        world.run_for(seconds(120));
        (world.trace, world.steps)
    };
    assert_eq!(run(), run());
}
