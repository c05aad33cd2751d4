//! A bounded rate: what is asked for, and by whom first.

use std::sync::Arc;

use super::world::{MS, S, World};
use crate::base::BLOCK_BYTES;
use crate::engine::limit::{Allowance, RateLimit};
use crate::engine::*;
use crate::proto::wire::Message;

const KIB: u64 = 1024;

fn bounded(fill: Fill, rate: u64) -> (World, Arc<RateLimit>) {
    let limit = Arc::new(RateLimit::new(Some(rate)));
    let allowance = Allowance::new(limit.clone(), Arc::default());
    let world = World::with(64, 16, |config| {
        config.fill = fill;
        config.limits.download = allowance;
    });
    (world, limit)
}

/// Everybody answers at once, for so long.
fn flow(world: &mut World, seconds: u64) -> u64 {
    let before = world.snapshot().downloaded_bytes;
    for _ in 0..seconds * 100 {
        world.pass(10 * MS);
        for peer in [1, 2] {
            while world.answer(peer) {}
        }
        world.write_all();
    }
    world.snapshot().downloaded_bytes - before
}

#[test]
fn no_more_is_asked_for_than_may_come() {
    for fill in [Fill::All, Fill::None] {
        let (mut world, limit) = bounded(fill, 256 * KIB);
        world.seed(1);
        world.seed(2);
        if fill == Fill::None {
            world.read(1, 0, 63);
        }
        let came = flow(&mut world, 10);
        let most = (256 * 10 + 64 + 5 * 16) * KIB;
        assert!(came <= most && came > most * 8 / 10, "{fill:?}: {came} of {most}");
        limit.set(world.now, None);
        world.command(Command::NewLimits);
        flow(&mut world, 1);
        assert_eq!(world.snapshot().left_bytes, 0, "{fill:?}: without a bound all of it comes");
    }
}

#[test]
fn a_reader_goes_before_what_nobody_waits_for() {
    let (mut world, _) = bounded(Fill::All, 256 * KIB);
    world.seed(1);
    flow(&mut world, 2);
    world.read(1, 60, 60);
    let before = world.snapshot().downloaded_bytes;
    while world.ready.is_empty() {
        flow(&mut world, 1);
        assert!(world.snapshot().downloaded_bytes - before < 1024 * KIB, "others were served before it");
    }
}

#[test]
fn what_does_not_come_is_not_counted() {
    let (mut world, _) = bounded(Fill::None, 64 * KIB);
    world.seed(1);
    world.read(1, 0, 3);
    world.pass(20 * MS);
    let asked = world.asked_count();
    assert!((4..=6).contains(&asked), "a burst: {asked}");
    // Refused, so as many may be asked of somebody else at once.
    for request in world.asked.remove(&1).unwrap() {
        world.hear(1, Message::Reject(request));
    }
    world.seed(2);
    world.pass(20 * MS);
    assert!(world.asked_count() >= 4, "{}", world.asked_count());
    // And no more than that as time goes on, as long as nothing comes.
    let before = world.requests_seen();
    world.pass(S);
    let gained = (world.requests_seen() - before) as u64 * u64::from(BLOCK_BYTES);
    assert!(gained <= 64 * KIB + 4 * u64::from(BLOCK_BYTES), "{gained}");
}
