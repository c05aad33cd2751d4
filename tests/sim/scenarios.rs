//! What must hold, by name.

mod chaos;
mod crowds;
mod distance;
mod fairness;
mod faults;
mod liars;
mod parts;
mod patience;
mod swarms;

use std::time::Duration;

use crate::content::Content;
use crate::world::World;

/// 4 MiB in pieces of 64 KiB, two files.
pub fn small() -> Content {
    Content::new(64 * 1024, &[3 * MIB, MIB])
}

/// Runs a scenario with several seeds; a failure names its seed. `SIM_SEED=7` runs that one alone, `SIM_SEEDS=500` more.
pub fn sweep(seeds: u64, content: Content, scenario: impl Fn(&mut World)) {
    let wish = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let range = match (wish("SIM_SEED"), wish("SIM_SEEDS")) {
        (Some(seed), _) => seed..=seed,
        (None, count) => 1..=count.unwrap_or(seeds),
    };
    for seed in range {
        let mut world = World::new(seed, content.clone());
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            scenario(&mut world);
            world.check_manners();
        }));
        if let Err(panic) = outcome {
            eprintln!("seed {seed}, {:?} into the run, after {} events", world.elapsed(), world.steps);
            std::panic::resume_unwind(panic);
        }
    }
}

/// Whether this is the long run (`scripts/full`).
pub fn is_long() -> bool {
    std::env::var("BTFS_LONG").ok().and_then(|text| text.parse().ok()).unwrap_or(1) > 1
}

pub const KIB: u64 = 1024;
pub const MIB: u64 = 1024 * 1024;

pub fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}
