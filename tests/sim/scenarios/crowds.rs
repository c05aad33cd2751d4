//! Many who watch the same at the same time.

use std::time::Duration;

use super::fairness::{add_seed, home, uploaded};
use super::{MIB, is_long, seconds, sweep};
use crate::content::Content;
use crate::node::mount_config;
use crate::player::Player;
use crate::reader::{Step, open};
use crate::world::World;

/// A film of 1 MB/s.
const PACE: u64 = 1_000_000;
/// Seconds of it that a player reads ahead.
const BUFFER: u64 = 10;

/// A mount at home starts the film some time within the first ten seconds.
fn watch(world: &mut World, film: u64) {
    let at = Duration::from_millis(world.rng.u64(..10_000));
    world.after(at, move |world| {
        let mount = world.add_engine(mount_config(world));
        home(world, mount, 3_000_000, 12_000_000);
        open(world, mount, 0, [Step::Play(Player::new(film, PACE, BUFFER))]);
    });
}

#[test]
fn fifty_who_start_one_film_at_once_see_it_without_a_stall() {
    let (seeds, film) = if is_long() { (5, 64 * MIB) } else { (1, 40 * MIB) };
    let mounts = 50;
    sweep(seeds, Content::new(256 * 1024, &[film]), |world| {
        world.most_steps = 100_000_000;
        let seed = add_seed(world, 4_000_000);
        (0..mounts).for_each(|_| watch(world, film));
        let nodes = 1..1 + mounts;
        let all = nodes.clone();
        let done = move |world: &World| {
            world.nodes.len() == 1 + mounts && all.clone().all(|node| world.engine(node).readers[0].finished)
        };
        assert!(world.run_until(seconds(600), done), "the film never ends for somebody");
        let copies = uploaded(world, seed) as f64 / film as f64;
        let players: Vec<&Player> =
            nodes.map(|node| world.engine(node).readers[0].played.as_ref().expect("it has played")).collect();
        let mut starts: Vec<Duration> = players.iter().map(|player| player.start.expect("it has begun")).collect();
        starts.sort();
        let stalls: Vec<Duration> = players.iter().flat_map(|player| player.stalls.iter().copied()).collect();
        println!(
            "first picture after {:.1?} (median), {:.1?} (last); {} stalls of {:.1?} in all; the seed sent {copies:.2} copies",
            starts[starts.len() / 2],
            starts[starts.len() - 1],
            stalls.len(),
            stalls.iter().sum::<Duration>()
        );
        assert!(stalls.is_empty(), "{stalls:?}");
        assert!(copies < 3.0, "{copies:.2}");
    });
}
