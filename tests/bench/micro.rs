//! Micro-benchmarks of the path of a block, step by step: `cargo bench` (with a name to choose, `-- --test` to run each once).
//!
//! They use what the library offers to everybody, without a socket or a mount. Whole transfers beside other programs are
//! `scripts/bench`'s business.

mod create;
mod engine;
mod index;
mod reads;
mod storage;
mod swarm;
mod wire;

use criterion::Criterion;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    wire::benches(&mut criterion);
    engine::benches(&mut criterion);
    storage::benches(&mut criterion);
    reads::benches(&mut criterion);
    create::benches(&mut criterion);
    index::benches(&mut criterion);
    criterion.final_summary();
}
