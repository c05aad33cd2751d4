//! Readers far from their peers: what a seek costs on links like those of homes, in virtual time. The bounds are what is
//! reached here, and a tenth, so that a step back in latency fails without a clock. (`scripts/bench` measures real programs;
//! there connections cost a round trip less, as an opening is not said here.)

use std::time::Duration;

use btfs::base::Bitfield;

use super::{KIB, MIB, millis, seconds, sweep};
use crate::content::Content;
use crate::node::mount_config;
use crate::reader::{Answer, Step, open};
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
/// Mebibytes.
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
        check(&felt, millis(470), millis(285), millis(290), 12.9 * MB, 0.005);
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
        check(&felt, millis(590), millis(465), millis(575), 6.0 * MB, 0.02);
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
        check(&felt, millis(625), millis(320), millis(410), 11.3 * MB, 0.005);
    });
}

#[test]
fn a_dead_peer_holds_no_large_piece() {
    for (good_peers, first_bound) in [(7, 830), (2, 1550), (1, 2700)] {
        sweep(40, Content::new(4 * MIB as u32, &[180 * MIB]), |world| {
            let mount = world.add_engine(mount_config(world));
            link(world, mount, Duration::ZERO, 1 << 30);
            (0..good_peers).for_each(|_| good(world));
            let dead = world.add_script(Behaviour { ignores: Some_::All, ..Behaviour::default() });
            link(world, dead, millis(30), 2_000_000);
            let first = Step::Stream { from: 0, to: 64 * KIB, bytes_per_second: None };
            let reader = open(world, mount, 0, vec![first]);
            assert!(world.run_until(seconds(30), |world| world.engine(mount).readers[reader].finished));
            let took = world.engine(mount).readers[reader].answers[0].took();
            assert!(took <= millis(first_bound), "with {good_peers}: {took:?}");
        });
    }
}

#[test]
fn whoever_answers_some_requests_is_not_relied_on() {
    sweep(100, content(), |world| {
        let felt = travel(world, |world| {
            (0..7).for_each(|_| good(world));
            let patchy = world.add_script(Behaviour { ignores: Some_::Part(0.75), ..Behaviour::default() });
            link(world, patchy, millis(30), 2_000_000);
        });
        // Whether three of six seeks meet a dropped request or four is luck: in the middle of 100 seeds the median is 290 ms.
        check(&felt, millis(630), millis(530), millis(615), 6.3 * MB, 0.005);
    });
}

#[test]
fn a_skip_forward_is_a_seek() {
    sweep(100, content(), |world| {
        let mount = world.add_engine(mount_config(world));
        link(world, mount, Duration::ZERO, 1 << 30);
        (0..8).for_each(|_| good(world));
        let stream = |from: u64, to: u64| Step::Stream { from, to, bytes_per_second: None };
        let mut steps = vec![stream(0, 12 * MIB)];
        let skips: Vec<u64> = (1..=4).map(|nth| 12 * MIB + nth * 14 * MIB + world.rng.u64(..256) * 4 * KIB).collect();
        steps.extend(skips.iter().map(|&from| stream(from, from + 512 * KIB)));
        let reader = open(world, mount, 0, steps);
        assert!(world.run_until(seconds(60), |world| world.engine(mount).readers[reader].finished));
        for &from in &skips {
            let answers = world.engine(mount).readers[reader].answers.iter();
            let took = answers.filter(|answer| answer.offset == from).map(Answer::took).max().unwrap();
            assert!(took <= millis(230), "to {from}: {took:?}");
        }
    });
}

#[test]
fn what_one_silent_peer_holds_alone_delays_nobody_else() {
    sweep(40, content(), |world| {
        let mount = world.add_engine(mount_config(world));
        link(world, mount, Duration::ZERO, 1 << 30);
        let layout = world.content.layout.clone();
        let only = |wanted: std::ops::Range<usize>| {
            let mut have = Bitfield::new(layout.pieces().len());
            for piece in layout.pieces().iter().skip(wanted.start).take(wanted.len()) {
                have.set(piece);
            }
            Some(have)
        };
        let (low, high) = (0..64, 64..layout.pieces().len());
        for (have, ignores) in
            [(only(low), Some_::After(256)), (only(high.clone()), Some_::All), (only(high), Some_::None)]
        {
            let peer = world.add_script(Behaviour { have, ignores, ..Behaviour::default() });
            link(world, peer, millis(30), 8_000_000);
        }
        let stream = |from: u64, to: u64| Step::Stream { from, to, bytes_per_second: None };
        open(world, mount, 0, vec![stream(0, 8 * MIB)]);
        let second = open(world, mount, 0, vec![Step::Pause(seconds(3)), stream(100 * MIB, 100 * MIB + 64 * KIB)]);
        assert!(world.run_until(seconds(30), |world| world.engine(mount).readers[second].finished));
        let took = world.engine(mount).readers[second].answers[0].took();
        assert!(took <= millis(1500), "{took:?}");
    });
}
