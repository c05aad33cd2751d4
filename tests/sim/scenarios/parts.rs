//! A net that falls into two parts and becomes one again.

use btfs::engine::{Config, Fill};

use super::fairness::add_seed;
use super::{KIB, MIB, seconds, sweep};
use crate::content::Content;
use crate::node::mount_config;
use crate::reader::{Step, open};
use crate::world::World;

/// Ten that want everything, and a seed.
fn swarm(world: &mut World) -> (usize, Vec<usize>) {
    let seed = add_seed(world, 64 * KIB);
    let leechers = (0..10).map(|_| {
        let leecher = world.add_engine(Config { fill: Fill::All, ..mount_config(world) });
        world.nodes[leecher].up_bytes_per_second = 64 * KIB;
        leecher
    });
    (seed, leechers.collect())
}

fn have(world: &World, nodes: &[usize]) -> Vec<usize> {
    nodes.iter().map(|&node| world.engine(node).disk.present().count()).collect()
}

#[test]
fn a_swarm_that_is_cut_in_two_goes_on_in_both_parts_and_completes_when_it_heals() {
    for (cut, bound) in [(20, 120), (400, 420)] {
        sweep(4, Content::new(64 * 1024, &[4 * MIB]), |world| {
            let (_, leechers) = swarm(world);
            world.run_for(seconds(25));
            let (with_seed, without) = leechers.split_at(5);
            world.cut_off(without);
            let pieces = world.content.layout.piece_count();
            let there = |world: &World| {
                let somewhere = world
                    .content
                    .layout
                    .pieces()
                    .iter()
                    .filter(|&piece| without.iter().any(|&node| world.engine(node).disk.has(piece)));
                somewhere.count()
            };
            let before = there(world);
            assert!(before > 0 && before < pieces, "{before}: it is cut too late or too early");
            world.run_for(seconds(cut));
            if cut > 120 {
                assert!(have(world, with_seed).iter().all(|&count| count == pieces), "{:?}", have(world, with_seed));
                // Those without a seed have shared what they had among them.
                assert!(
                    have(world, without).iter().all(|&count| count == before),
                    "{before} {:?}",
                    have(world, without)
                );
            }
            world.heal();
            let rest = leechers.clone();
            let done =
                world.run_until(seconds(bound), move |world| rest.iter().all(|&node| world.engine(node).completed));
            assert!(done, "after {cut} s apart: {:?} of {pieces}", have(world, &leechers));
            println!("cut for {cut} s: all have all at {:.0?}", world.elapsed());
        });
    }
}

#[test]
fn a_reader_that_was_cut_off_goes_on_soon_after_the_net_has_healed() {
    sweep(10, Content::new(64 * 1024, &[16 * MIB]), |world| {
        add_seed(world, MIB);
        let config = Config { read_timeout: None, ..mount_config(world) };
        let mount = world.add_engine(config);
        let stream = Step::Stream { from: 0, to: 16 * MIB, bytes_per_second: None };
        let reader = open(world, mount, 0, [stream]);
        world.run_for(seconds(4));
        world.cut_off(&[mount]);
        world.run_for(seconds(600));
        assert!(!world.engine(mount).readers[reader].finished);
        world.heal();
        let healed = world.now;
        assert!(world.run_until(seconds(90), |world| world.engine(mount).readers[reader].finished), "it never goes on");
        let first = world.engine(mount).readers[reader].answers.iter().find(|answer| answer.answered > healed);
        let waited = first.expect("something was missing").answered - healed;
        // Whoever waits tries again every 15 s, and a dial that nobody answers takes 5.
        assert!(waited < seconds(25), "{waited:?}");
    });
}
