//! The brain: what one event costs it, with all that follows from it.

use std::time::{Duration, Instant};

use btfs::base::{InfoHash, PeerId};
use btfs::engine::prefetch::{FileGeometry, Habit, PrefetchConfig, Prefetcher};
use btfs::engine::{Command, Config, Effect, Fill, Source, Torrent};
use criterion::{BatchSize, Criterion, Throughput};

use crate::swarm::{Plan, Swarm, layout};

pub fn benches(criterion: &mut Criterion) {
    block_events(criterion);
    candidates(criterion);
    prefetch(criterion);
}

/// A block arrives: booked, and what is asked, written and told because of it taken out. Criterion tells the mean, the
/// lines below it what no mean shows.
fn block_events(criterion: &mut Criterion) {
    for pieces in [1_000, 10_000] {
        for (name, plan) in [
            ("readers", Plan { pieces, readers: 64, window: 0, fill: Fill::None }),
            ("readers with windows", Plan { pieces, readers: 64, window: 8, fill: Fill::None }),
            ("filling", Plan { pieces, readers: 0, window: 0, fill: Fill::All }),
        ] {
            let name = format!("block event, {name}, 200 peers, {pieces} pieces");
            let mut swarm = None;
            let mut times = Vec::new();
            criterion.bench_function(&name, |bencher| {
                let swarm = swarm.get_or_insert_with(|| Swarm::settled(plan));
                bencher.iter_custom(|count| (0..count).map(|_| swarm.block(&mut times)).sum());
            });
            if let Some(swarm) = swarm {
                println!("{}", line(&name, &mut times, &swarm));
            }
        }
    }
}

/// One line about all events. The machine takes the processor away now and then, for milliseconds: "mean" counts that,
/// the other one leaves out the longest event in a thousand.
fn line(name: &str, times: &mut [u32], swarm: &Swarm) -> String {
    times.sort_unstable();
    let micros = |nanos: f64| nanos / 1e3;
    let mean = |times: &[u32]| {
        let sum: u64 = times.iter().map(|&nanos| u64::from(nanos)).sum();
        micros(sum as f64 / times.len() as f64)
    };
    let at = |share: f64| micros(times[((times.len() - 1) as f64 * share) as usize].into());
    let usual = &times[..(times.len() * 999).div_ceil(1000)];
    format!(
        "{name}: mean {:.2} µs ({:.2} of 99.9 %), p50 {:.2}, p99 {:.2}, max {:.0}, of {} events; other events {:.2} µs a block",
        mean(times),
        mean(usual),
        at(0.5),
        at(0.99),
        at(1.0),
        times.len(),
        micros(swarm.other_nanos_per_block()),
    )
}

/// Addresses as a tracker names them, two hundred at a time, with room for no connection.
fn candidates(criterion: &mut Criterion) {
    let now = Instant::now();
    let addrs: Vec<_> = (0..200_u8).map(|n| ([9, n, n / 3, 7], 6881).into()).collect();
    let mut group = criterion.benchmark_group("candidates");
    group.throughput(Throughput::Elements(addrs.len() as u64));
    group.bench_function("200 addresses, all dialled", |bencher| {
        let fresh = || Torrent::new(config(1000, Fill::All), now, 1);
        let tell = |mut torrent: Torrent| {
            torrent.handle_command(now, Command::Candidates { source: Source::Tracker, addrs: addrs.clone() });
            let mut dials = 0;
            while let Some(effect) = torrent.poll_effect() {
                dials += usize::from(matches!(effect, Effect::Dial { .. }));
            }
            assert_eq!(dials, addrs.len());
            torrent
        };
        bencher.iter_batched(fresh, tell, BatchSize::SmallInput);
    });
    group.finish();
}

/// One read of a sequential reader, told and answered.
fn prefetch(criterion: &mut Criterion) {
    const READ: u64 = 128 * 1024;
    let file = FileGeometry { bytes: u64::MAX / 2, start: 0, piece_length: 1 << 20 };
    let mut prefetcher = Prefetcher::new(PrefetchConfig::default(), file, Habit::default());
    let (mut now, mut offset) = (Instant::now(), 0);
    criterion.bench_function("prefetch, a sequential read", |bencher| {
        bencher.iter(|| {
            now += Duration::from_millis(1);
            let asked = prefetcher.on_read(now, offset, READ);
            let done = prefetcher.on_read_done(now, offset, READ, false);
            offset += READ;
            (asked, done)
        });
    });
}

/// A torrent of so many pieces of 1 MiB, of which nothing is here.
pub fn config(pieces: u32, fill: Fill) -> Config {
    let layout = layout(pieces);
    let nothing = btfs::base::Bitfield::new(layout.piece_count());
    Config {
        info_hash: InfoHash([1; 20]),
        layout,
        have: nothing.clone(),
        unchecked: nothing,
        peer_id: PeerId(*b"-BT0000-------------"),
        private: false,
        user_trackers: Vec::new(),
        trackers: Vec::new(),
        fill,
        upload: true,
        read_timeout: Some(Duration::from_secs(120)),
        max_peers: 200,
        listen_port: Some(6881),
        client: "bench".to_owned(),
        own_addrs: Vec::new(),
        read_only: false,
        hashes_together: true,
        limits: Default::default(),
    }
}
