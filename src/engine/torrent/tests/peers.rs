//! How peers are treated.

use super::world::{S, World};
use crate::proto::wire::Message;

#[test]
fn a_rejected_block_is_asked_of_a_single_seed_again_after_a_second() {
    let mut world = World::new(4, 4);
    world.seed(1);
    world.read(1, 0, 3);
    let request = world.asked.get_mut(&1).unwrap().remove(0);
    world.hear(1, Message::Reject(request));
    assert!(!world.asked_of(1).contains(&(0, 0)));
    while world.answer(1) {}
    world.write_all();
    world.pass(S);
    assert_eq!(world.asked_of(1), [(0, 0)]);
    world.run();
    assert_eq!(world.ready, [1]);
}

#[test]
fn a_peer_that_rejects_everything_is_asked_one_two_four_seconds_apart() {
    let mut world = World::new(4, 4);
    world.seed(1);
    world.read(1, 0, 3);
    let mut times = Vec::new();
    let start = world.now;
    for _ in 0..400 {
        let asked: Vec<_> = world.asked.get_mut(&1).unwrap().drain(..).collect();
        if !asked.is_empty() {
            times.push(((world.now - start).as_secs(), asked.len()));
        }
        asked.into_iter().for_each(|request| world.hear(1, Message::Reject(request)));
        world.pass(S / 4);
    }
    assert_eq!(times, [(0, 16), (1, 4), (3, 4), (7, 4), (15, 4), (31, 4), (63, 4)]);
}
