//! Readers far from their peers: what a seek costs on links like those of homes, in virtual time. The bounds are those
//! that `scripts/bench` measures with real programs, so that a step back in latency fails without a clock.

use std::time::Duration;

use super::{KIB, MIB, millis, seconds, sweep};
use crate::content::Content;
use crate::node::mount_config;
use crate::reader::{Step, open};
use crate::script::{Behaviour, Some_};
use crate::world::World;

/// What a reader felt.
struct Felt {
    /// First 64 KiB: the tracker, connections and all (an opening is not said here: that would save a round trip).
    first: Duration,
    /// Reads of 1 MiB here and there, in their order.
    seeks: Vec<Duration>,
    /// 16 MiB in a row, in bytes per second.
    stream: f64,
    wasted_bytes: u64,
    received_bytes: u64,
}

const MB: f64 = 1e6;
/// Mebibytes; farther from each other than a reader that only skips a little would go.
const SEEKS: [u64; 6] = [80, 20, 120, 40, 140, 60];

fn link(world: &mut World, node: usize, one_way: Duration, up: u64) {
    let node = &mut world.nodes[node];
    node.latency = one_way;
    node.up_bytes_per_second = up;
    node.down_bytes_per_second = 1 << 30;
}

/// A good peer: 30 ms to the mount, 2 MB/s.
fn good(world: &mut World) {
    let seed = world.add_script(Behaviour::default());
    link(world, seed, millis(30), 2_000_000);
}

fn travel(world: &mut World, swarm: impl Fn(&mut World)) -> Felt {
    let mount = world.add_engine(mount_config(world));
    link(world, mount, Duration::ZERO, 1 << 30);
    swarm(world);
    let mut steps = vec![Step::Stream { from: 0, to: 64 * KIB, bytes_per_second: None }, Step::Pause(seconds(2))];
    let places: Vec<u64> = SEEKS.iter().map(|place| place * MIB + world.rng.u64(..256) * 4 * KIB).collect();
    for &from in &places {
        steps.push(Step::Stream { from, to: from + MIB, bytes_per_second: None });
    }
    let run = 160 * MIB;
    steps.push(Step::Stream { from: run, to: run + 16 * MIB, bytes_per_second: None });
    let reader = open(world, mount, 0, steps);
    assert!(world.run_until(seconds(60), |world| world.engine(mount).readers[reader].finished), "it takes for ever");
    let answers = &world.engine(mount).readers[reader].answers;
    let span = |from: u64, to: u64| {
        let mut of = answers.iter().filter(|answer| (from..to).contains(&answer.offset));
        let first = of.next().expect("it was read");
        of.next_back().unwrap_or(first).answered - first.asked
    };
    let (first, stream) = (span(0, 64 * KIB), 16.0 * MIB as f64 / span(run, run + 16 * MIB).as_secs_f64());
    let seeks = places.iter().map(|&from| span(from, from + MIB)).collect();
    let now = world.now;
    let snapshot = world.engine_mut(mount).torrent.snapshot(now);
    Felt { first, seeks, stream, wasted_bytes: snapshot.wasted_bytes, received_bytes: snapshot.downloaded_bytes }
}

/// What `felt` must not exceed. The first two seeks teach the prefetcher what the reader does.
fn check(felt: &Felt, first: Duration, median: Duration, longest: Duration, stream: f64, waste: f64) {
    assert!(felt.first <= first, "first bytes: {:?}", felt.first);
    let mut sorted = felt.seeks.clone();
    sorted.sort();
    assert!(sorted[sorted.len() / 2] <= median && sorted[sorted.len() - 1] <= longest, "{:?}", felt.seeks);
    assert!(felt.stream >= stream, "{:.1} MB/s in sequence", felt.stream / MB);
    let wasted = felt.wasted_bytes as f64 / felt.received_bytes as f64;
    assert!(wasted <= waste, "{:.1} % wasted", wasted * 100.0);
}

fn content() -> Content {
    Content::new(MIB as u32, &[180 * MIB])
}

#[test]
fn eight_distant_peers_are_as_one_near_peer() {
    sweep(100, content(), |world| {
        let felt = travel(world, |world| (0..8).for_each(|_| good(world)));
        check(&felt, millis(460), millis(265), millis(300), 13.0 * MB, 0.02);
    });
}

#[test]
fn slow_peers_do_not_hold_the_fast_ones_back() {
    sweep(100, content(), |world| {
        let felt = travel(world, |world| {
            for _ in 0..4 {
                good(world);
                let slow = world.add_script(Behaviour::default());
                link(world, slow, millis(300), 50_000);
            }
        });
        check(&felt, millis(600), millis(460), millis(800), 6.0 * MB, 0.06);
    });
}

#[test]
fn a_peer_that_never_sends_costs_little() {
    sweep(100, content(), |world| {
        let felt = travel(world, |world| {
            (0..7).for_each(|_| good(world));
            let dead = world.add_script(Behaviour { ignores: Some_::All, ..Behaviour::default() });
            link(world, dead, millis(30), 2_000_000);
        });
        check(&felt, millis(620), millis(300), millis(500), 11.0 * MB, 0.02);
    });
}
