//! Readers that pause, and seeds that do not like it.

use super::{KIB, MIB, millis, seconds, sweep};
use crate::content::Content;
use crate::node::mount_config;
use crate::reader::{Step, cat, open};
use crate::script::Behaviour;

/// As a busy public seed: 8 slots in rounds of 15 s, 30 others want them, whoever asks nothing for 60 s is dropped.
fn busy_seed() -> Behaviour {
    Behaviour { rivals: 30, ..Behaviour::default() }
}

#[test]
fn a_pause_of_five_minutes_then_play() {
    sweep(10, Content::new(64 * 1024, &[32 * MIB]), |world| {
        let mount = world.add_engine(mount_config(world));
        let seeds: Vec<usize> = (0..8).map(|_| world.add_script(busy_seed())).collect();
        let pace = Some(256 * KIB);
        let steps = [
            Step::Stream { from: 0, to: 4 * MIB, bytes_per_second: pace },
            Step::Pause(seconds(300)),
            // Beyond what was read ahead: a viewer who comes back and skips a little.
            Step::Stream { from: 24 * MIB, to: 26 * MIB, bytes_per_second: pace },
        ];
        let reader = open(world, mount, 0, steps);
        let done = world.run_until(seconds(600), |world| world.engine(mount).readers[reader].finished);
        let answers = &world.engine(mount).readers[reader].answers;
        assert!(done && !world.engine(mount).readers[reader].failed(), "{} answers", answers.len());
        let after = answers.iter().find(|answer| answer.offset == 24 * MIB).expect("it was read");
        assert!(after.took() < seconds(3), "first bytes after the pause took {:?}", after.took());
        let dropped: u64 = seeds.iter().map(|&seed| world.script(seed).drops).sum();
        assert!(dropped <= 4, "{dropped} seeds have dropped us");
    });
}

#[test]
fn a_single_seed_with_free_slots_keeps_us_through_a_pause() {
    sweep(10, Content::new(64 * 1024, &[16 * MIB]), |world| {
        let mount = world.add_engine(mount_config(world));
        let seed = world.add_script(Behaviour::default());
        let steps = [
            Step::Stream { from: 0, to: 2 * MIB, bytes_per_second: Some(256 * KIB) },
            Step::Pause(seconds(300)),
            Step::Stream { from: 12 * MIB, to: 13 * MIB, bytes_per_second: Some(256 * KIB) },
        ];
        let reader = open(world, mount, 0, steps);
        assert!(world.run_until(seconds(400), |world| world.engine(mount).readers[reader].finished));
        assert_eq!(world.script(seed).drops, 0);
        let answers = &world.engine(mount).readers[reader].answers;
        let after = answers.iter().find(|answer| answer.offset == 12 * MIB).expect("it was read");
        assert!(after.took() < millis(800), "{:?}", after.took());
    });
}

#[test]
fn an_idle_mount_is_quiet() {
    sweep(5, Content::new(64 * 1024, &[16 * MIB]), |world| {
        let mount = world.add_engine(mount_config(world));
        for _ in 0..10 {
            world.add_script(Behaviour { drop_idle: None, ..Behaviour::default() });
        }
        world.run_for(seconds(600));
        let engine = world.engine(mount);
        assert_eq!(engine.requests_sent, 0, "nobody has opened anything");
        assert!(engine.control_sent < 10 * 20, "{} messages in ten minutes", engine.control_sent);
        assert!(world.steps < 5000, "{} events", world.steps);
    });
}

#[test]
fn a_choked_swarm_is_waited_for() {
    sweep(10, Content::new(64 * 1024, &[4 * MIB]), |world| {
        let mount = world.add_engine(mount_config(world));
        for _ in 0..6 {
            world.add_script(busy_seed());
        }
        let reader = cat(world, mount, 0);
        assert!(world.run_until(seconds(300), |world| world.engine(mount).readers[reader].bytes_read() > 0));
        let first = world.engine(mount).readers[reader].answers[0].took();
        assert!(first < seconds(60), "{first:?}");
        assert!(world.run_until(seconds(600), |world| world.engine(mount).readers[reader].finished));
        assert!(!world.engine(mount).readers[reader].failed());
    });
}

#[test]
fn an_allowed_fast_piece_comes_through_a_choke() {
    sweep(5, Content::new(64 * 1024, &[4 * MIB]), |world| {
        let mount = world.add_engine(mount_config(world));
        world.add_script(Behaviour { never_unchokes: true, allowed_fast: vec![3, 9], ..Behaviour::default() });
        let read = Step::Stream { from: 3 * 64 * KIB, to: 4 * 64 * KIB, bytes_per_second: None };
        let reader = open(world, mount, 0, [read]);
        assert!(world.run_until(seconds(10), |world| world.engine(mount).readers[reader].finished));
        assert_eq!(world.engine(mount).readers[reader].bytes_read(), 64 * KIB);
    });
}
