//! Hashing of a whole tree, as `btfs create` does it, beside what the hash function does on the same cores when nobody has
//! to read anything.

use std::cell::Cell;
use std::hint::black_box;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use btfs::base::{FileSpec, Layout};
use btfs::storage::scan::{Hashing, Wanted, hash_pieces, walk};
use criterion::{Criterion, Throughput};
use sha1::{Digest, Sha1};

/// Bytes of each file; the second kind is a thousand that share the same number of bytes.
const TOTAL: u64 = 256 << 20;
const PIECE_BYTES: u32 = 256 << 10;

pub fn benches(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().unwrap();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut group = criterion.benchmark_group("create");
    group.sample_size(10).measurement_time(Duration::from_secs(4)).throughput(Throughput::Bytes(TOTAL));
    let alone = Rate::default();
    group.bench_function(format!("SHA-1 alone, threads: {threads}"), |bencher| {
        bencher.iter_custom(|times| alone.measure(times, || only_hash(threads)));
    });
    for (name, files) in [("one file", 1), ("1000 files", 1000)] {
        let root = directory.path().join(name);
        std::fs::create_dir(&root).unwrap();
        let content = vec![7; (TOTAL / files) as usize];
        (0..files).for_each(|file| std::fs::write(root.join(format!("{file:04}")), &content).unwrap());
        let tree = walk(&root, &Wanted::ALL).unwrap();
        let specs: Vec<_> =
            tree.entries.iter().map(|entry| FileSpec { length: entry.length(), padding: false }).collect();
        let layout = Layout::new(PIECE_BYTES, &specs).unwrap();
        let whole = Rate::default();
        group.bench_function(format!("{name}, threads: {threads}"), |bencher| {
            let hashing = Hashing { threads, progress: &|_| {}, stop: &AtomicBool::new(false) };
            bencher.iter_custom(|times| {
                whole.measure(times, || drop(black_box(hash_pieces(&tree.entries, &layout, &hashing).unwrap())))
            });
        });
        if let (Some(alone), Some(whole)) = (alone.per_second(), whole.per_second()) {
            let share = whole / alone * 100.0;
            println!(
                "create, {name}: {whole:.2} of the {alone:.2} GB/s of SHA-1 alone on {threads} cores: {share:.0} %\n"
            );
        }
    }
    group.finish();
}

/// As many bytes, of a buffer that stays in the cache.
fn only_hash(threads: usize) {
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let buffer = vec![7; PIECE_BYTES as usize];
                for _ in 0..TOTAL / u64::from(PIECE_BYTES) / threads as u64 {
                    black_box(Sha1::digest(black_box(&buffer)));
                }
            });
        }
    });
}

/// How fast something was in all its runs.
#[derive(Default)]
struct Rate {
    runs: Cell<u64>,
    elapsed: Cell<Duration>,
}

impl Rate {
    fn measure(&self, times: u64, work: impl Fn()) -> Duration {
        let start = Instant::now();
        (0..times).for_each(|_| work());
        let elapsed = start.elapsed();
        self.runs.set(self.runs.get() + times);
        self.elapsed.set(self.elapsed.get() + elapsed);
        elapsed
    }

    /// In GB/s; `None` when it was not asked for.
    fn per_second(&self) -> Option<f64> {
        let seconds = self.elapsed.get().as_secs_f64();
        (seconds > 0.0).then(|| self.runs.get() as f64 * TOTAL as f64 / seconds / 1e9)
    }
}
