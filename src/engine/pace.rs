//! How soon a peer sends what it is asked: its rate, its round trip, and how much to keep asked of it.

use std::time::{Duration, Instant};

use crate::base::BLOCK_BYTES;

/// Estimates of one peer, fed with its requests and blocks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pace {
    /// Bytes per second while it had something to send, lately; of no meaning without `samples`.
    rate: f64,
    peak: f64,
    samples: u32,
    /// Bytes per second of its first block, the round trip included: it is faster than that.
    guess: f64,
    /// Being measured: bytes, and the seconds in which they came one after the other. A burst's first block only
    /// starts the clock.
    measured: (u64, f64),
    /// It has been busy sending since the last block.
    in_burst: bool,
    last_block: Option<Instant>,
    /// Until when time without blocks has been counted.
    missed_at: Option<Instant>,
    /// Smallest time from request to block of this and the last period.
    rtt: [Option<Duration>; 2],
    rtt_since: Option<Instant>,
    /// Mean deviation of the time from request to block from what was expected, in seconds.
    deviation: f64,
    /// Depth of the pipeline while it is still growing.
    slow_start: Option<f64>,
    /// Bound of the pipeline after an interruption, while it grows back.
    restart: Option<f64>,
}

impl Pace {
    pub(crate) fn new() -> Self {
        Self { slow_start: Some(FIRST_DEPTH), ..Self::default() }
    }

    /// A request leaves; `idle`: nothing else was outstanding.
    pub(crate) fn requested(&mut self, now: Instant, idle: bool) {
        // Time without a request says nothing about the rate. Requests made at the arrival of the last block go on.
        if idle && self.last_block != Some(now) {
            self.in_burst = false;
        }
    }

    /// A block arrived that was asked at `sent` and expected to take `expected`.
    pub(crate) fn block(&mut self, now: Instant, sent: Instant, expected: Duration, bytes: u32) {
        let took = now.saturating_duration_since(sent);
        self.sample_rtt(now, took);
        if self.samples > 0 {
            // Before, what was expected was a guess.
            let miss = (took.as_secs_f64() - expected.as_secs_f64()).abs();
            self.deviation += (miss - self.deviation) / 8.0;
        }
        if let Some(depth) = &mut self.slow_start {
            *depth += 1.0;
        }
        if let Some(depth) = &mut self.restart {
            *depth += 1.0;
        }
        let last = self.last_block.replace(now);
        let in_burst = std::mem::replace(&mut self.in_burst, true);
        let Some(last) = last.filter(|_| in_burst) else {
            if self.samples == 0 {
                self.guess = self.guess.max(f64::from(bytes) / took.as_secs_f64().max(0.001));
            }
            return;
        };
        self.measured.0 += u64::from(bytes);
        // Time that a missed block has been charged with counts once.
        let since = self.missed_at.map_or(last, |missed| missed.max(last));
        self.measured.1 += now.saturating_duration_since(since).as_secs_f64();
        // The first short bursts must do for a first estimate.
        let enough = if self.samples < FEW_SAMPLES { FIRST_BIN } else { BIN };
        if self.measured.1 >= enough.as_secs_f64() {
            self.sample_rate();
        }
    }

    /// What it was asked at `sent` is late, and somebody else has brought it: time in which nothing came.
    pub(crate) fn missed(&mut self, now: Instant, sent: Instant) {
        let counted = [self.last_block, self.missed_at].into_iter().flatten().fold(sent, Instant::max);
        self.missed_at = Some(now);
        if self.samples > 0 {
            self.rate *= MISSED;
            self.measured.1 += now.saturating_duration_since(counted).as_secs_f64();
            if self.measured.1 >= BIN.as_secs_f64() {
                self.sample_rate();
            }
        }
    }

    fn sample_rate(&mut self) {
        let (bytes, seconds) = std::mem::take(&mut self.measured);
        let sample = bytes as f64 / seconds;
        self.samples = self.samples.saturating_add(1);
        let keep = (-seconds / MEMORY.as_secs_f64()).exp().min(1.0 - 1.0 / f64::from(self.samples));
        self.rate = self.rate * keep + sample * (1.0 - keep);
        self.peak = (self.peak * 0.99).max(self.rate);
        // The pipeline has stopped to be the limit once the rate explains less than half of it.
        if self.slow_start.is_some_and(|depth| self.rate_depth(LONG_SLACK) * 2.0 < depth) {
            self.slow_start = None;
        }
    }

    /// It choked, snubbed or refused us: the pipeline starts small again, whatever the rate was.
    pub(crate) fn restart(&mut self) {
        self.restart = Some(FIRST_DEPTH);
        self.in_burst = false;
    }

    /// Whether it has sent anything yet.
    pub(crate) fn is_proven(&self) -> bool {
        self.last_block.is_some()
    }

    /// Bytes per second to be expected: the recent rate; the peak when it was silent for long; `None`: too little known.
    pub(crate) fn rate(&self, now: Instant) -> Option<f64> {
        let last = self.last_block.filter(|_| self.samples > 0)?;
        let silent = now.saturating_duration_since(last) > SILENT;
        Some(if silent { self.peak } else { self.rate }.max(1.0))
    }

    /// When it will have been silent for so long that its rate is another one; `None`: it has, or its rate is unknown.
    pub(crate) fn silent_at(&self, now: Instant) -> Option<Instant> {
        let last = self.last_block.filter(|_| self.samples > 0)?;
        (now.saturating_duration_since(last) <= SILENT).then(|| last + SILENT)
    }

    /// Bytes per second that may be hoped for after its first block, if there was any.
    pub(crate) fn hope(&self) -> Option<f64> {
        (self.guess > 0.0).then_some(self.guess * HOPE)
    }

    /// As [`rate`](Self::rate); of a peer of which little is known `mean`, that of the others, or what its first block
    /// allows to hope for.
    pub(crate) fn rate_or(&self, now: Instant, mean: f64) -> f64 {
        let hoped = || self.hope().map_or(mean, |hope| mean.min(hope));
        self.rate(now).unwrap_or_else(hoped).max(1.0)
    }

    /// Smallest time from request to block, lately.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.rtt.into_iter().flatten().min()
    }

    /// Time until a block asked now is here: `rtt + (outstanding + block) / rate`; `mean`: the rate of fresh peers.
    pub(crate) fn eta(&self, now: Instant, outstanding_bytes: u64, mean: f64) -> f64 {
        let rate = self.rate_or(now, mean);
        let rtt = self.rtt().unwrap_or(FRESH_RTT).as_secs_f64();
        rtt + (outstanding_bytes as f64 + f64::from(BLOCK_BYTES)) / rate
    }

    /// How much later than expected is still usual.
    pub(crate) fn spread(&self, expected: f64) -> f64 {
        (self.deviation * 2.0).max(expected * 0.5).max(MIN_SPREAD)
    }

    /// Blocks to keep asked: rate x (rtt + slack), more while it still grows.
    pub(crate) fn depth(&self, slack: Duration) -> usize {
        let grown = self.rate_depth(slack).max(self.slow_start.unwrap_or(0.0));
        grown.min(self.restart.unwrap_or(MAX_DEPTH)).clamp(MIN_DEPTH, MAX_DEPTH) as usize
    }

    fn rate_depth(&self, slack: Duration) -> f64 {
        let (rate, rtt) = (self.rate.max(self.guess), self.rtt().unwrap_or(FRESH_RTT));
        (rate * rtt.as_secs_f64() + (rate * slack.as_secs_f64()).min(SLACK_MAX)) / f64::from(BLOCK_BYTES)
    }

    fn sample_rtt(&mut self, now: Instant, took: Duration) {
        let since = *self.rtt_since.get_or_insert(now);
        if now.saturating_duration_since(since) > RTT_PERIOD {
            self.rtt = [None, self.rtt[0]];
            self.rtt_since = Some(now);
        }
        self.rtt[0] = Some(self.rtt[0].map_or(took, |least| least.min(took)));
    }
}

/// What is asked beyond one round trip, so that a pipeline does not run dry: enough for senders that dole out their
/// bandwidth several times a second.
pub(crate) const LONG_SLACK: Duration = Duration::from_millis(500);
/// The same where somebody may seek at any moment: what a peer has begun to send cannot be called back, and stands
/// before whatever is asked next.
pub(crate) const SHORT_SLACK: Duration = Duration::from_millis(100);
/// Bytes of slack that suffice for the fastest: more only fills memory.
const SLACK_MAX: f64 = 1.5 * 1024.0 * 1024.0;
/// Rate samples are at least this long, the first few shorter.
const BIN: Duration = Duration::from_millis(50);
const FIRST_BIN: Duration = Duration::from_millis(10);
const FEW_SAMPLES: u32 = 3;
/// A peer may be so many times as fast as its first block, whose time is mostly the round trip.
const HOPE: f64 = 8.0;
/// A past rate has lost 63 % of its weight after this long.
const MEMORY: Duration = Duration::from_secs(1);
/// After this long without a block the recent rate says little.
const SILENT: Duration = Duration::from_secs(10);
/// The smallest round trip is looked for among those of this period and the one before.
const RTT_PERIOD: Duration = Duration::from_secs(20);
/// Round trip assumed of a peer that sent nothing yet.
pub(crate) const FRESH_RTT: Duration = Duration::from_millis(100);
/// What is left of a peer's rate with each block that others had to bring; it comes back with what it sends.
const MISSED: f64 = 0.85;
const MIN_SPREAD: f64 = 0.2;
const FIRST_DEPTH: f64 = 16.0;
const MIN_DEPTH: f64 = 2.0;
/// 16 MiB in flight from one peer.
const MAX_DEPTH: f64 = 1024.0;

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A peer that sends `rate` bytes a second after `rtt`, its pipeline always full.
    fn run(rate: f64, rtt: Duration, seconds: u64) -> (Pace, Instant) {
        let start = Instant::now();
        let mut pace = Pace::new();
        let (mut now, mut free_at) = (start, start);
        let mut flight = std::collections::VecDeque::new();
        while now < start + Duration::from_secs(seconds) {
            while flight.len() < pace.depth(LONG_SLACK) {
                pace.requested(now, flight.is_empty());
                free_at = free_at.max(now + rtt) + Duration::from_secs_f64(f64::from(BLOCK_BYTES) / rate);
                flight.push_back((now, free_at));
            }
            let (sent, arrives) = flight.pop_front().unwrap();
            now = arrives;
            pace.block(now, sent, arrives - sent, BLOCK_BYTES);
        }
        (pace, now)
    }

    #[test]
    fn the_rate_and_the_round_trip_are_found() {
        for (rate, rtt) in [(100e3, 20), (5e6, 50), (100e6, 1)] {
            let (pace, now) = run(rate, rtt * MS, 5);
            let found = pace.rate(now).unwrap();
            assert!((found / rate - 1.0).abs() < 0.1, "{rate}: {found}");
            assert!(pace.rtt().unwrap() >= rtt * MS);
        }
    }

    #[test]
    fn the_pipeline_covers_the_round_trip_and_some_slack() {
        let (pace, _) = run(5e6, 50 * MS, 5);
        let covers = pace.depth(LONG_SLACK) as f64 * f64::from(BLOCK_BYTES) / 5e6;
        assert!((0.3..1.5).contains(&covers), "{covers} s");
        assert!(Pace::new().depth(SHORT_SLACK) >= 8, "a fresh peer gets a few at once");
    }

    #[test]
    fn after_an_interruption_the_pipeline_grows_back() {
        let (mut pace, mut now) = run(50e6, 50 * MS, 5);
        let before = pace.depth(LONG_SLACK);
        pace.restart();
        assert_eq!(pace.depth(LONG_SLACK), 16);
        for _ in 0..before {
            now += MS / 3;
            pace.block(now, now - 50 * MS, 50 * MS, BLOCK_BYTES);
        }
        assert!(pace.depth(LONG_SLACK) * 2 > before, "{}", pace.depth(LONG_SLACK));
    }

    #[test]
    fn short_bursts_tell_the_rate() {
        // Eight blocks of 2 MB/s after 60 ms, every second: never 50 ms at a stretch for a sample of its own.
        let (mut pace, start) = (Pace::new(), Instant::now());
        for burst in 0..4 {
            let sent = start + 1000 * MS * burst;
            for block in 0..5_u32 {
                pace.requested(sent, block == 0);
            }
            for block in 1..=5 {
                let now = sent + 60 * MS + 8 * MS * block;
                pace.block(now, sent, 60 * MS, BLOCK_BYTES);
            }
            let found = pace.rate(sent + 100 * MS).unwrap();
            assert!((1.8e6..2.2e6).contains(&found), "{found}");
        }
    }

    #[test]
    fn one_block_is_no_rate_but_bounds_what_is_hoped_for() {
        let (mut pace, start) = (Pace::new(), Instant::now());
        assert_eq!(pace.rate_or(start, 2e6), 2e6);
        pace.requested(start, true);
        pace.block(start + 930 * MS, start, 60 * MS, BLOCK_BYTES);
        assert!(pace.rate(start).is_none() && pace.rate_or(start, 2e6) < 0.2e6);
        assert_eq!(pace.rate_or(start, 1e3), 1e3);
    }

    #[test]
    fn a_peer_long_silent_counts_by_its_peak() {
        let (mut pace, now) = run(5e6, 50 * MS, 5);
        pace.rate = 1000.0;
        assert!(pace.eta(now, 0, 1.0) > 10.0);
        assert!(pace.eta(now + Duration::from_secs(30), 0, 1.0) < 0.2);
    }
}
