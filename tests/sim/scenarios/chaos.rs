//! Everything at once: worlds drawn by lot. As long as one good seed can be reached, every read completes.

use btfs::base::Bitfield;
use btfs::engine::{Config, Fill};

use super::{KIB, MIB, millis, seconds, sweep};
use crate::content::Content;
use crate::node::mount_config;
use crate::reader::{Step, open};
use crate::script::{Behaviour, Some_};
use crate::world::World;

/// A peer of any character.
fn stranger(world: &mut World) -> Behaviour {
    let good = Behaviour { fast: world.rng.bool(), ..Behaviour::default() };
    let pieces = world.content.layout.piece_count();
    match world.rng.u8(..12) {
        0 => Behaviour { poison: 1.0, ..good },
        1 => Behaviour { poison: 0.1, ..good },
        2 => Behaviour { ignores: Some_::All, ..good },
        3 => Behaviour { ignores: Some_::Part(0.1), ..good },
        4 => Behaviour { rejects: Some_::All, ..good },
        5 => Behaviour { rejects: Some_::Part(0.2), ..good },
        6 => Behaviour { never_unchokes: true, ..good },
        7 => Behaviour { delay: millis(world.rng.u64(..8000)), ..good },
        8 => Behaviour { choke_after: Some((world.rng.u64(1..50), seconds(world.rng.u64(1..20)))), ..good },
        9 => Behaviour { leech: true, ..good },
        10 => Behaviour { rivals: 30, ..good },
        _ => {
            let mut have = Bitfield::new(pieces);
            for piece in world.content.layout.pieces().iter().filter(|_| world.rng.bool()) {
                have.set(piece);
            }
            Behaviour { have: Some(have), ..good }
        }
    }
}

fn reading(world: &mut World) -> Vec<Step> {
    let size = 6 * MIB;
    let step = |world: &mut World| {
        if world.rng.u8(..5) == 0 {
            return Step::Pause(seconds(world.rng.u64(..90)));
        }
        let from = world.rng.u64(..size);
        let length = [4 * KIB, 64 * KIB, 300 * KIB, 2 * MIB][world.rng.usize(..4)];
        let bytes_per_second = world.rng.bool().then_some(512 * KIB);
        Step::Stream { from, to: (from + length).min(size), bytes_per_second }
    };
    (0..8).map(|_| step(world)).collect()
}

#[test]
fn reads_complete_in_worlds_drawn_by_lot() {
    for piece_length in [32 * 1024, 256 * 1024, 100_000] {
        sweep(40, Content::new(piece_length, &[6 * MIB, 2 * MIB + 17]), |world| {
            let config = Config { fill: if world.rng.bool() { Fill::None } else { Fill::File }, ..mount_config(world) };
            let mount = world.add_engine(config);
            let good = world.add_script(Behaviour::default());
            world.nodes[good].up_bytes_per_second = [100 * KIB, MIB, 10 * MIB][world.rng.usize(..3)];
            for _ in 0..world.rng.usize(..10) {
                let behaviour = stranger(world);
                let node = world.add_script(behaviour);
                world.nodes[node].up_bytes_per_second = [5 * KIB, 100 * KIB, MIB][world.rng.usize(..3)];
                world.nodes[node].latency = millis(world.rng.u64(1..200));
            }
            let readers: Vec<usize> = (0..world.rng.usize(1..4))
                .map(|_| {
                    let steps = reading(world);
                    open(world, mount, 0, steps)
                })
                .collect();
            // Now and then a connection breaks, and once the process is suspended.
            for _ in 0..world.rng.usize(..6) {
                let when = seconds(world.rng.u64(..60));
                world.after(when, |world| {
                    let open: Vec<usize> =
                        (0..world.connections.len()).filter(|&at| world.connections[at].open[0]).collect();
                    if !open.is_empty() {
                        let unlucky = open[world.rng.usize(..open.len())];
                        world.reset(unlucky, 0);
                    }
                });
            }
            if world.rng.u8(..4) == 0 {
                let (when, time) = (seconds(world.rng.u64(..40)), seconds(world.rng.u64(1..100)));
                world.after(when, move |world| world.suspend(mount, time));
            }
            let all = readers.clone();
            let done = world.run_until(seconds(1500), move |world| {
                all.iter().all(|&reader| world.engine(mount).readers[reader].finished)
            });
            let engine = world.engine(mount);
            let answers: Vec<_> = readers.iter().map(|&reader| &engine.readers[reader].answers).collect();
            assert!(
                done,
                "somebody still reads: {:?}",
                answers.iter().map(|answers| answers.len()).collect::<Vec<_>>()
            );
            for &reader in &readers {
                let failed = engine.readers[reader].answers.iter().find(|answer| answer.result.is_err());
                assert!(failed.is_none(), "{failed:?}");
            }
            let good = world.nodes[good].addr.ip();
            assert!(!engine.closes.iter().any(|(addr, reason)| addr.ip() == good && reason == "Banned"));
            assert!(engine.disk.most_in_flight <= 26 * MIB);
        });
    }
}
