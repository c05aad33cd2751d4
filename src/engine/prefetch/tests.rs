// Plans are lists of ranges, often of one.
#![allow(clippy::single_range_in_vec_init)]

use super::*;

use proptest::prelude::*;

const KIB: u64 = 1024;

fn file(bytes: u64, piece_length: u64) -> FileGeometry {
    FileGeometry { bytes, start: 0, piece_length: piece_length as u32 }
}

/// A reader with a clock; reads are answered at once.
struct Reader {
    prefetcher: Prefetcher,
    now: Instant,
    plan: WindowPlan,
    plans: usize,
    /// Everything that was ever planned.
    planned: Vec<Range<u64>>,
}

impl Reader {
    fn new(bytes: u64, piece_length: u64) -> Self {
        let prefetcher = Prefetcher::new(PrefetchConfig::default(), file(bytes, piece_length), Habit::default());
        Self { prefetcher, now: Instant::now(), plan: WindowPlan::default(), plans: 0, planned: Vec::new() }
    }

    fn take(&mut self, plan: Option<WindowPlan>) {
        if let Some(plan) = plan {
            assert!(plan.ranges.iter().all(|range| !range.is_empty() && range.end <= self.prefetcher.file.bytes));
            self.planned.extend(plan.ranges.iter().cloned());
            self.plan = plan;
            self.plans += 1;
        }
    }

    fn ask(&mut self, offset: u64, length: u64) {
        let plan = self.prefetcher.on_read(self.now, offset, length);
        self.take(plan);
    }

    fn done(&mut self, offset: u64, length: u64, stalled: bool) {
        let plan = self.prefetcher.on_read_done(self.now, offset, length, stalled);
        self.take(plan);
    }

    fn read(&mut self, offset: u64, length: u64) {
        self.ask(offset, length);
        self.done(offset, length, false);
    }

    /// Reads `range` in order in pieces of 128 KiB, `millis` of thought after each.
    fn stream(&mut self, range: Range<u64>, millis: u64) {
        let mut at = range.start;
        while at < range.end {
            self.read(at, 128 * KIB);
            self.now += Duration::from_millis(millis);
            at += 128 * KIB;
        }
    }

    /// Bytes from `offset` on that are planned without a gap, as whole pieces.
    fn ahead_of(&self, offset: u64) -> u64 {
        let ends = self.plan.ranges.iter().map(|range| (range.start, self.prefetcher.piece_end(range.end - 1)));
        ends.filter(|&(start, end)| start <= offset && offset < end).map(|(_, end)| end - offset).max().unwrap_or(0)
    }
}

#[test]
fn a_window_opens_after_half_a_mebibyte_in_a_row() {
    for step in [4 * KIB, 16 * KIB, 128 * KIB] {
        let mut reader = Reader::new(1 << 30, 4 * MIB);
        let mut at = 0;
        while reader.prefetcher.window_bytes() == 0 && at < MIB {
            reader.read(at, step);
            at += step;
        }
        assert_eq!(at, 512 * KIB + step, "the next read after the proof, in steps of {step}");
        assert_eq!(reader.plan.ranges, [at..at + FIRST_WINDOW]);
    }
}

#[test]
fn the_window_doubles_with_use_up_to_its_bound() {
    let mut reader = Reader::new(1 << 30, MIB);
    reader.stream(0..8 * MIB, 10);
    let early = reader.prefetcher.window_bytes();
    assert!((4 * MIB..=16 * MIB).contains(&early), "{early}");
    reader.stream(8 * MIB..200 * MIB, 10);
    assert_eq!(reader.prefetcher.window_bytes(), 64 * MIB);
    assert!(reader.ahead_of(200 * MIB) >= 56 * MIB, "{:?}", reader.plan);
}

#[test]
fn the_window_of_a_fast_stream_grows_sooner_but_not_at_once() {
    let mut reader = Reader::new(1 << 30, MIB);
    let (mut read, mut windows) = (0, Vec::new());
    while reader.prefetcher.window_bytes() < 40 * MIB {
        reader.ask(read, 128 * KIB);
        reader.now += Duration::from_micros(250); // 500 MB/s
        reader.done(read, 128 * KIB, read == 0);
        read += 128 * KIB;
        windows.push(reader.prefetcher.window_bytes());
        assert!(read < 8 * MIB);
    }
    windows.dedup();
    assert!(windows.starts_with(&[0, FIRST_WINDOW, 8 * FIRST_WINDOW]) && windows.len() == 4, "{windows:?}");
}

#[test]
fn a_stall_doubles_the_window_once() {
    let mut reader = Reader::new(1 << 30, MIB);
    reader.stream(0..768 * KIB, 10);
    let before = reader.prefetcher.window_bytes();
    for _ in 0..8 {
        reader.ask(768 * KIB, 128 * KIB);
        reader.done(768 * KIB, 128 * KIB, true);
    }
    assert_eq!(reader.prefetcher.window_bytes(), 2 * before, "eight answers of one stall");
}

#[test]
fn the_window_holds_fifteen_seconds_of_a_slow_reader() {
    let mut reader = Reader::new(1 << 30, MIB);
    reader.stream(0..100 * MIB, 125); // 1 MiB/s
    let window = reader.prefetcher.window_bytes();
    assert!((14 * MIB..=16 * MIB).contains(&window), "{window}");
    let horizon = reader.plan.horizon.unwrap().as_secs();
    assert!((13..=16).contains(&horizon), "{horizon}");
    // Waiting for the network is not the reader's pace.
    let mut reader = Reader::new(1 << 30, MIB);
    for at in 0..1600 {
        reader.ask(at * 128 * KIB, 128 * KIB);
        reader.now += Duration::from_millis(125);
        reader.done(at * 128 * KIB, 128 * KIB, true);
    }
    assert_eq!(reader.prefetcher.window_bytes(), 64 * MIB);
}

#[test]
fn a_pause_does_not_shrink_the_window() {
    let mut reader = Reader::new(1 << 30, MIB);
    reader.stream(0..100 * MIB, 125);
    let before = reader.prefetcher.window_bytes();
    reader.now += Duration::from_secs(300);
    reader.stream(100 * MIB..102 * MIB, 125);
    let after = reader.prefetcher.window_bytes();
    assert!(after >= before * 3 / 4, "{before} {after}");
}

#[test]
fn one_long_read_opens_no_window() {
    // A pread of 1 MiB reaches us as eight requests at once.
    let mut reader = Reader::new(1 << 30, 4 * MIB);
    for place in [MIB, 500 * MIB, 200 * MIB] {
        for at in 0..8 {
            reader.ask(place + at * 128 * KIB, 128 * KIB);
        }
        for at in 0..8 {
            reader.done(place + at * 128 * KIB, 128 * KIB, false);
        }
    }
    assert_eq!(reader.prefetcher.window_bytes(), 0);
    assert!(reader.planned.iter().all(|range| range.end % (100 * MIB) <= 2 * MIB), "{:?}", reader.planned);
}

#[test]
fn a_burst_that_ends_near_its_piece_wants_the_next_piece() {
    let piece = 2 * MIB;
    for (offset, length, next) in [
        (0, 256 * KIB, false),
        (piece - 300 * KIB, 256 * KIB, true),
        // What the kernel makes of a read of 64 KiB.
        (piece - 300 * KIB, 128 * KIB, false),
        (piece - 256 * KIB, 256 * KIB, true),
        (piece - 600 * KIB, 256 * KIB, false),
    ] {
        let mut reader = Reader::new(5 * MIB, piece);
        reader.read(offset, length);
        let expected = if next { vec![piece..2 * piece] } else { vec![] };
        assert_eq!(reader.plan.ranges, expected, "{offset} {length}");
    }
    let mut reader = Reader::new(5 * MIB, piece);
    reader.read(5 * MIB - 128 * KIB, 128 * KIB);
    assert_eq!(reader.plans, 0, "nothing after the end");
    // Requests that overlap in time are one burst.
    let mut reader = Reader::new(5 * MIB, piece);
    reader.ask(piece - 384 * KIB, 128 * KIB);
    assert_eq!(reader.plans, 0);
    reader.ask(piece - 256 * KIB, 128 * KIB);
    assert_eq!(reader.plan.ranges, [piece..2 * piece]);
}

#[test]
fn pieces_are_those_of_the_torrent_not_of_the_file() {
    let geometry = FileGeometry { bytes: 10 * MIB, start: 1536 * KIB, piece_length: MIB as u32 };
    let mut prefetcher = Prefetcher::new(PrefetchConfig::default(), geometry, Habit::default());
    // The file's first piece ends after 512 KiB of it.
    let plan = prefetcher.on_read(Instant::now(), 128 * KIB, 256 * KIB).unwrap();
    assert_eq!(plan.ranges, [512 * KIB..1536 * KIB]);
}

#[test]
fn a_seek_drops_the_window_and_coming_back_restores_it() {
    let mut reader = Reader::new(1 << 30, MIB);
    reader.stream(0..32 * MIB, 1);
    let window = reader.prefetcher.window_bytes();
    assert!(window > 16 * MIB);
    reader.read(900 * MIB, 64 * KIB);
    // By its habit it will read on here, too; but no further than a little.
    assert_eq!(reader.plan.ranges, [900 * MIB + 64 * KIB..900 * MIB + HABIT_MAX]);
    reader.read(32 * MIB, 128 * KIB);
    assert!(reader.ahead_of(33 * MIB) >= window / 2, "{:?}", reader.plan);
}

#[test]
fn long_reads_here_and_there_are_foreseen_whole_and_no_further() {
    let mut reader = Reader::new(1 << 30, MIB);
    // Reads of 1 MiB each, and what the kernel reads ahead of them.
    let whole = |reader: &mut Reader, at: u64| (0..9).for_each(|step| reader.read(at + step * 128 * KIB, 128 * KIB));
    for place in [100, 500, 300, 700] {
        whole(&mut reader, place * MIB + 700 * KIB);
    }
    reader.planned.clear();
    let place = 900 * MIB + 700 * KIB;
    reader.read(place, 128 * KIB);
    assert_eq!(reader.plan.ranges, [place + 128 * KIB..place + MIB], "the whole of it at once");
    reader.stream(place + 128 * KIB..place + MIB + 128 * KIB, 0);
    assert!(reader.planned.iter().all(|range| range.end <= place + MIB), "{:?}", reader.planned);
    // One that goes on after all has its window with the first request beyond.
    reader.read(place + MIB + 128 * KIB, 128 * KIB);
    assert!(reader.prefetcher.window_bytes() >= MIB);
}

#[test]
fn whoever_looks_at_the_head_of_many_files_fetches_heads() {
    let mut habit = Habit::default();
    for number in 0..10 {
        let mut reader = Reader::new(64 * MIB, 256 * KIB);
        reader.prefetcher = Prefetcher::new(PrefetchConfig::default(), file(64 * MIB, 256 * KIB), habit);
        reader.stream(0..MIB, 0);
        habit = reader.prefetcher.habit();
        let most = reader.planned.iter().map(|range| range.end).max().unwrap_or(0);
        assert!(number < 1 || most <= MIB, "file {number}: {most}");
    }
    // Who goes on has a window as ever.
    let mut reader = Reader::new(64 * MIB, 256 * KIB);
    reader.prefetcher = Prefetcher::new(PrefetchConfig::default(), file(64 * MIB, 256 * KIB), habit);
    reader.stream(0..3 * MIB, 0);
    assert!(reader.prefetcher.window_bytes() >= MIB);
}

#[test]
fn short_reads_make_no_habit() {
    let mut reader = Reader::new(1 << 30, 4 * MIB);
    for place in [100, 500, 300, 700, 200, 900] {
        reader.read(place * MIB, 128 * KIB);
        reader.read(place * MIB + 128 * KIB, 128 * KIB);
    }
    assert_eq!(reader.plans, 0);
}

#[test]
fn a_reader_that_hops_keeps_both_windows() {
    let mut reader = Reader::new(1 << 30, MIB);
    for step in 0..100 {
        for base in [0, 500 * MIB] {
            reader.read(base + step * 256 * KIB, 128 * KIB);
            reader.read(base + step * 256 * KIB + 128 * KIB, 128 * KIB);
            reader.now += Duration::from_millis(50);
        }
    }
    assert!(reader.ahead_of(26 * MIB) >= MIB && reader.ahead_of(526 * MIB) >= MIB, "{:?}", reader.plan);
    let before = reader.plans;
    reader.read(25 * MIB, 128 * KIB);
    reader.read(525 * MIB, 128 * KIB);
    assert!(reader.plans <= before + 1, "a hop is no news");
}

#[test]
fn a_small_skip_goes_on_and_random_access_closes_the_window() {
    let mut reader = Reader::new(1 << 30, MIB);
    reader.stream(0..16 * MIB, 1);
    reader.stream(20 * MIB..22 * MIB, 1);
    assert!(reader.ahead_of(23 * MIB) >= MIB, "{:?}", reader.plan);
    for hop in [7, 3, 9, 1, 8, 2, 10, 5, 4, 6] {
        reader.now += Duration::from_secs(3);
        reader.read(22 * MIB + hop * MIB, 64 * KIB);
    }
    assert_eq!(reader.prefetcher.window_bytes(), 0);
}

#[test]
fn the_end_of_the_file_ends_the_window() {
    let mut reader = Reader::new(3 * MIB + 5, MIB);
    reader.stream(0..2 * MIB, 0);
    assert_eq!(reader.plan.ranges.last().map(|range| range.end), Some(3 * MIB + 5));
    reader.stream(2 * MIB..4 * MIB, 0);
    reader.read(u64::MAX, 10);
    reader.read(u64::MAX - 3, u64::MAX);
    assert!(reader.plan.ranges.is_empty() || reader.plan.ranges[0].end == 3 * MIB + 5);
}

#[test]
fn scarcity_shrinks_the_window_and_no_time_means_none() {
    let mut reader = Reader::new(1 << 30, MIB);
    reader.stream(0..64 * MIB, 0);
    let plan = reader.prefetcher.set_max_window_bytes(2 * MIB).unwrap();
    assert_eq!(plan.ranges[0].end - plan.ranges[0].start, 2 * MIB);
    let config = PrefetchConfig { max_window_time: Duration::ZERO, ..PrefetchConfig::default() };
    let mut reader = Reader::new(1 << 30, MIB);
    reader.prefetcher = Prefetcher::new(config, file(1 << 30, MIB), Habit::default());
    reader.stream(0..16 * MIB, 0);
    assert_eq!(reader.plans, 0);
}

#[test]
fn plans_are_few() {
    let mut reader = Reader::new(1 << 30, MIB);
    reader.stream(0..512 * MIB, 0);
    assert!(reader.plans < 120, "{} plans for 4096 reads", reader.plans);
}

/// Plays `requests` with up to `depth` outstanding, answered in an order drawn from `rng`.
fn play(
    reader: &mut Reader,
    requests: &[Range<u64>],
    depth: usize,
    rng: &mut fastrand::Rng,
    mut check: impl FnMut(&Reader),
) {
    let mut open: Vec<Range<u64>> = Vec::new();
    for request in requests {
        while open.len() >= depth || !open.is_empty() && rng.u8(..3) == 0 {
            let done = open.swap_remove(rng.usize(..open.len()));
            reader.now += Duration::from_micros(rng.u64(..500));
            reader.done(done.start, done.end - done.start, rng.u8(..4) == 0);
        }
        reader.ask(request.start, request.end - request.start);
        open.push(request.clone());
        check(reader);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_sequential_reader_always_has_a_window_ahead(
        seed: u64, depth in 1_usize..=8, shift in 0_usize..=4, piece in 16_u32..=24, start in 0_u64..1 << 28,
    ) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut reader = Reader::new(1 << 30, 1 << piece);
        let mut requests: Vec<Range<u64>> =
            (0..400).map(|n| start + n * 128 * KIB..start + (n + 1) * 128 * KIB).collect();
        // The kernel's threads overtake each other by a few requests.
        requests.chunks_mut(shift + 1).for_each(|group| rng.shuffle(group));
        let proof = start + 4 * MIB;
        let mut tip = 0;
        play(&mut reader, &requests, depth, &mut rng, |reader| {
            tip = tip.max(reader.prefetcher.cursors[0].head);
            // By the truth of bytes: from the contiguous end on, half a first window at least is planned.
            assert!(tip < proof || reader.ahead_of(tip) >= FIRST_WINDOW / 2, "{tip} {:?}", reader.plan);
        });
        prop_assert_eq!(tip, requests.iter().map(|request| request.end).max().unwrap());
    }

    #[test]
    fn a_random_reader_fetches_what_it_touches(seed: u64, depth in 1_usize..=8, piece in 16_u32..=24) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let piece = 1_u64 << piece;
        let mut reader = Reader::new(1 << 32, piece);
        let requests: Vec<Range<u64>> = (0..300)
            .map(|_| rng.u64(..1 << 16) * 64 * KIB)
            .map(|offset| offset..offset + 64 * KIB)
            .collect();
        play(&mut reader, &requests, depth, &mut rng, |_| ());
        for planned in &reader.planned {
            let by_rule = requests.iter().any(|request| {
                let end = (request.end - 1) / piece * piece + piece;
                end - request.end <= NEAR_PIECE_END && *planned == (end..end + piece)
            });
            prop_assert!(by_rule, "{:?}", planned);
        }
    }
}
