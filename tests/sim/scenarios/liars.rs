//! Peers that send wrong bytes.

use super::{KIB, MIB, seconds, small, sweep};
use crate::node::mount_config;
use crate::reader::cat;
use crate::script::{Behaviour, Some_};

#[test]
fn one_poisoner_among_eight_costs_little_and_nobody_else() {
    for poison in [1.0, 0.3] {
        sweep(20, small(), |world| {
            let mount = world.add_engine(mount_config(world));
            let place = world.rng.usize(..8);
            let peers: Vec<usize> = (0..8)
                .map(|at| {
                    let poison = if at == place { poison } else { 0.0 };
                    let node = world.add_script(Behaviour { poison, ..Behaviour::default() });
                    world.nodes[node].up_bytes_per_second = 200 * KIB;
                    node
                })
                .collect();
            let liar = world.nodes[peers[place]].addr;
            let reader = cat(world, mount, 0);
            assert!(world.run_until(seconds(60), |world| world.engine(mount).readers[reader].finished));
            let engine = world.engine(mount);
            assert_eq!(engine.readers[reader].bytes_read(), 3 * MIB);
            assert!(engine.readers[reader].longest_wait() < seconds(10), "{:?}", engine.readers[reader].longest_wait());
            let banned: Vec<_> = engine.closes.iter().filter(|(_, reason)| reason == "Banned").collect();
            assert!(banned.iter().all(|(addr, _)| addr.ip() == liar.ip()), "an innocent is banned: {banned:?}");
            if poison == 1.0 {
                assert!(!banned.is_empty(), "the liar goes on");
            }
            let fetched = engine.blocks_received * 16 * KIB;
            assert!(fetched < 3 * MIB * 16 / 10, "{fetched} bytes fetched for {}", 3 * MIB);
        });
    }
}

#[test]
fn when_all_lie_the_read_fails_in_bounded_time_and_they_are_banned() {
    sweep(10, small(), |world| {
        let mount = world.add_engine(mount_config(world));
        for _ in 0..4 {
            world.add_script(Behaviour { poison: 1.0, ..Behaviour::default() });
        }
        let reader = cat(world, mount, 0);
        let done = world.run_until(seconds(180), |world| world.engine(mount).readers[reader].finished);
        assert!(done, "a liar holds a reader for ever");
        let now = world.now;
        let engine = world.engine_mut(mount);
        assert!(engine.readers[reader].failed() && engine.readers[reader].bytes_read() == 0);
        assert!(engine.disk.present().count() == 0);
        let snapshot = engine.torrent.snapshot(now);
        assert!(snapshot.banned >= 1, "{} banned", snapshot.banned);
        let fetched = engine.blocks_received * 16 * KIB;
        assert!(fetched < 8 * MIB, "{fetched} bytes fetched from liars");
    });
}

#[test]
fn liars_cannot_starve_a_reader_of_the_one_good_seed() {
    sweep(10, small(), |world| {
        let mount = world.add_engine(mount_config(world));
        for at in 0..5 {
            let poison = if at == 2 { 0.0 } else { 1.0 };
            world.add_script(Behaviour { poison, ..Behaviour::default() });
        }
        let dead = Behaviour { ignores: Some_::All, ..Behaviour::default() };
        world.add_script(dead);
        let reader = cat(world, mount, 0);
        assert!(world.run_until(seconds(90), |world| world.engine(mount).readers[reader].finished));
        let engine = world.engine(mount);
        assert_eq!(engine.readers[reader].bytes_read(), 3 * MIB);
        let good = world.nodes[3].addr.ip();
        assert!(!engine.closes.iter().any(|(addr, reason)| addr.ip() == good && reason == "Banned"));
    });
}

#[test]
fn most_of_a_swarm_may_lie_or_be_dead() {
    sweep(20, small(), |world| {
        let mount = world.add_engine(mount_config(world));
        let place = world.rng.usize(..9);
        let peers: Vec<usize> = (0..9)
            .map(|at| {
                let behaviour = match at {
                    _ if at == place => Behaviour::default(),
                    0..=5 => Behaviour { poison: 1.0, ..Behaviour::default() },
                    _ => Behaviour { ignores: Some_::All, ..Behaviour::default() },
                };
                world.add_script(behaviour)
            })
            .collect();
        let good = world.nodes[peers[place]].addr.ip();
        let reader = cat(world, mount, 0);
        assert!(world.run_until(seconds(60), |world| world.engine(mount).readers[reader].finished));
        let engine = world.engine(mount);
        assert_eq!(engine.readers[reader].bytes_read(), 3 * MIB);
        assert!(!engine.closes.iter().any(|(addr, reason)| addr.ip() == good && reason == "Banned"));
        assert!(engine.blocks_received * 16 * KIB < 10 * MIB, "{} blocks", engine.blocks_received);
    });
}
