//! Who gives gets more, and a swarm carries itself: figures of whole downloads.

use std::net::Ipv4Addr;
use std::time::Duration;

use btfs::base::Bitfield;
use btfs::engine::{Config, Fill};

use super::{KIB, MIB, is_long, seconds, sweep};
use crate::content::Content;
use crate::drawing::{Sent, copies_sent};
use crate::node::mount_config;
use crate::world::World;

/// A home somewhere, in a network of its own.
pub fn home(world: &mut World, node: usize, up: u64, down: u64) {
    let latency = Duration::from_millis(world.rng.u64(5..40));
    let host = &mut world.nodes[node];
    (host.latency, host.up_bytes_per_second, host.down_bytes_per_second) = (latency, up, down);
    host.addr.set_ip(Ipv4Addr::new(11, (node >> 8) as u8, node as u8, 1).into());
}

/// Somebody who has it all and sends so much.
pub fn add_seed(world: &mut World, up: u64) -> usize {
    let have = Bitfield::full(world.content.layout.piece_count());
    let seed = world.add_engine(Config { have, ..mount_config(world) });
    home(world, seed, up, 20 * up);
    seed
}

/// Somebody who wants it all, from some moment of the first seconds on; `upload`: he gives, too.
fn join(world: &mut World, up: u64, upload: bool, within: Duration) {
    let at = Duration::from_millis(world.rng.u64(..within.as_millis() as u64));
    world.after(at, move |world| {
        let leecher = world.add_engine(Config { fill: Fill::All, upload, ..mount_config(world) });
        home(world, leecher, up, 20 * up);
    });
}

/// How long the slower half of some nodes took, at least.
fn median(world: &World, nodes: impl Iterator<Item = usize>) -> f64 {
    let mut took: Vec<Duration> = nodes.map(|node| world.engine(node).completed_after.expect("all are done")).collect();
    took.sort();
    took[took.len() / 2].as_secs_f64()
}

fn all_done(world: &World, nodes: usize) -> bool {
    world.nodes.len() == nodes && (1..nodes).all(|node| world.engine(node).completed)
}

pub fn uploaded(world: &mut World, node: usize) -> u64 {
    let now = world.now;
    world.engine_mut(node).torrent.snapshot(now).uploaded_bytes
}

/// How many times as long free riders take as those who give, by the medians. Whoever is done leaves, or `stays`.
fn free_riders(world: &mut World, givers: usize, riders: usize, stays: bool) -> f64 {
    // Ten minutes: the choker's rounds of ten seconds need time to tell who gives.
    let up = 16 * KIB;
    // Slots for nine, and a link that is no treasure either: most live by what they get from each other.
    add_seed(world, 4 * up);
    let mut gives: Vec<bool> = (0..givers + riders).map(|nth| nth < givers).collect();
    world.rng.shuffle(&mut gives);
    gives.into_iter().for_each(|upload| join(world, up, upload, seconds(5)));
    let nodes = 1 + givers + riders;
    while !all_done(world, nodes) {
        assert!(world.elapsed() < seconds(3600), "somebody is never done");
        world.run_for(seconds(1));
        let done = |world: &World, node: &usize| world.nodes[*node].online && world.engine(*node).completed;
        let leave: Vec<usize> = (1..world.nodes.len()).filter(|node| !stays && done(world, node)).collect();
        leave.into_iter().for_each(|node| world.take_down(node));
    }
    let gives = |node: &usize| world.engine(*node).gives;
    let (given, ridden) =
        (median(world, (1..nodes).filter(gives)), median(world, (1..nodes).filter(|node| !gives(node))));
    let then = if stays { "stays" } else { "leaves" };
    println!(
        "{givers} who give: {given:.0} s, {riders} who do not: {ridden:.0} s, {:.2} times (who is done {then})",
        ridden / given
    );
    ridden / given
}

#[test]
fn a_free_rider_waits_half_as_long_again_as_who_gives() {
    let ratios = std::cell::RefCell::new(Vec::new());
    sweep(20, Content::new(64 * 1024, &[8 * MIB]), |world| {
        let ratio = free_riders(world, 16, 8, false);
        assert!(ratio >= 1.0, "{ratio:.2}: who only takes is done before who gives");
        ratios.borrow_mut().push(ratio);
    });
    // In the middle of all seeds; here and there a free rider is lucky.
    let mut ratios = ratios.into_inner();
    ratios.sort_by(f64::total_cmp);
    assert!(ratios[ratios.len() / 2] >= 1.5, "{ratios:.2?}");
}

/// Those who are done and stay serve whoever is left, and that is free riders: they get it all in the end.
#[test]
fn where_everybody_stays_a_free_rider_waits_longer_all_the_same() {
    sweep(4, Content::new(64 * 1024, &[8 * MIB]), |world| {
        let ratio = free_riders(world, 12, 12, true);
        assert!(ratio >= 1.05, "{ratio:.2}");
    });
}

/// One seed, as fast as each of these leechers, who all begin within some seconds and stay.
fn flash_crowd(leechers: usize) -> Sent {
    let up = 128 * KIB;
    // In the long run twice as much: the more there is, the less do the first and the last pieces matter.
    let content = Content::new(64 * 1024, &[if is_long() { 16 * MIB } else { 8 * MIB }]);
    let total = content.layout.total_bytes();
    let sent = std::cell::Cell::new(None);
    sweep(1, content, |world| {
        world.most_steps = 100_000_000;
        let seed = add_seed(world, up);
        (0..leechers).for_each(|_| join(world, up, true, seconds(10)));
        let done = world.run_until(seconds(7200), move |world| all_done(world, 1 + leechers));
        assert!(done, "somebody of {leechers} is never done");
        let copies = uploaded(world, seed) as f64 / total as f64;
        let seconds = world.elapsed().as_secs_f64();
        println!("{leechers} leechers: the seed sends {copies:.2} copies, a plain server {leechers}; {seconds:.0} s");
        sent.set(Some(Sent { leechers, copies }));
    });
    sent.get().expect("it has run")
}

/// `SIM_DRAW=FILE` draws what came out.
#[test]
fn one_seed_sends_less_than_two_copies_to_however_many() {
    let counts: &[usize] = if is_long() { &[1, 10, 50, 200] } else { &[1, 10, 50] };
    let sent: Vec<Sent> = counts.iter().map(|&leechers| flash_crowd(leechers)).collect();
    if let Some(file) = std::env::var_os("SIM_DRAW") {
        std::fs::write(file, copies_sent(&sent)).expect("the drawing can be written");
    }
    assert!(sent.iter().all(|sent| sent.copies < 2.0), "{sent:.2?}");
}
