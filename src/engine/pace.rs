//! How soon a peer sends what it is asked: its rate, its round trip, and how much to keep asked of it.

use std::time::{Duration, Instant};

use crate::base::BLOCK_BYTES;

/// Estimates of one peer, fed with its requests and blocks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pace {
    /// Bytes per second while it had something to send, lately; 0: unknown.
    rate: f64,
    peak: f64,
    samples: u32,
    /// The burst being measured: when its first block came, and bytes since then, that block left out.
    burst: Option<(Instant, u64)>,
    last_block: Option<Instant>,
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
            self.burst = None;
        }
    }

    /// A block arrived that was asked at `sent` and expected to take `expected`.
    pub(crate) fn block(&mut self, now: Instant, sent: Instant, expected: Duration, bytes: u32) {
        let took = now.saturating_duration_since(sent);
        self.sample_rtt(now, took);
        let miss = (took.as_secs_f64() - expected.as_secs_f64()).abs();
        self.deviation += (miss - self.deviation) / 8.0;
        self.last_block = Some(now);
        if let Some(depth) = &mut self.slow_start {
            *depth += 1.0;
        }
        if let Some(depth) = &mut self.restart {
            *depth += 1.0;
        }
        let Some((since, sum)) = &mut self.burst else {
            self.burst = Some((now, 0));
            if self.rate == 0.0 {
                // A first guess from a single round trip; the burst refines it.
                self.rate = f64::from(bytes) / took.as_secs_f64().max(0.001);
                self.peak = self.rate;
            }
            return;
        };
        *sum += u64::from(bytes);
        let seconds = now.saturating_duration_since(*since).as_secs_f64();
        if seconds < BIN.as_secs_f64() {
            return;
        }
        let sample = *sum as f64 / seconds;
        self.burst = Some((now, 0));
        // The first samples weigh more: the guess was made of a round trip, not of a rate.
        self.samples = self.samples.saturating_add(1);
        let keep = (-seconds / MEMORY.as_secs_f64()).exp().min(1.0 - 1.0 / f64::from(self.samples));
        self.rate = self.rate * keep + sample * (1.0 - keep);
        self.peak = (self.peak * 0.99).max(self.rate);
        // The pipeline has stopped to be the limit once the rate explains less than half of it.
        if self.slow_start.is_some_and(|depth| self.rate_depth() * 2.0 < depth) {
            self.slow_start = None;
        }
    }

    /// It choked, snubbed or refused us: the pipeline starts small again, whatever the rate was.
    pub(crate) fn restart(&mut self) {
        self.restart = Some(FIRST_DEPTH);
        self.burst = None;
    }

    /// Whether it has sent anything yet.
    pub(crate) fn is_proven(&self) -> bool {
        self.last_block.is_some()
    }

    /// Bytes per second to be expected: the recent rate; the peak when it was silent for long; `None` for a fresh peer.
    pub(crate) fn rate(&self, now: Instant) -> Option<f64> {
        let last = self.last_block?;
        let silent = now.saturating_duration_since(last) > SILENT;
        Some(if silent { self.peak } else { self.rate }.max(1.0))
    }

    /// Smallest time from request to block, lately.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.rtt.into_iter().flatten().min()
    }

    /// Time until a block asked now is here: `rtt + (outstanding + block) / rate`; `mean`: the rate of fresh peers.
    pub(crate) fn eta(&self, now: Instant, outstanding_bytes: u64, mean: f64) -> f64 {
        let rate = self.rate(now).unwrap_or(mean).max(1.0);
        let rtt = self.rtt().unwrap_or(FRESH_RTT).as_secs_f64();
        rtt + (outstanding_bytes as f64 + f64::from(BLOCK_BYTES)) / rate
    }

    /// How much later than expected is still usual.
    pub(crate) fn spread(&self, expected: f64) -> f64 {
        (self.deviation * 2.0).max(expected * 0.5).max(MIN_SPREAD)
    }

    /// Blocks to keep asked: rate x (rtt + slack), more while it still grows.
    pub(crate) fn depth(&self) -> usize {
        let depth = self.rate_depth().max(self.slow_start.unwrap_or(0.0)).min(self.restart.unwrap_or(MAX_DEPTH));
        depth.clamp(MIN_DEPTH, MAX_DEPTH) as usize
    }

    fn rate_depth(&self) -> f64 {
        let rtt = self.rtt().unwrap_or(FRESH_RTT);
        self.rate * (rtt + SLACK).as_secs_f64() / f64::from(BLOCK_BYTES)
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

/// Rate samples are at least this long.
const BIN: Duration = Duration::from_millis(50);
/// A past rate has lost 63 % of its weight after this long.
const MEMORY: Duration = Duration::from_secs(1);
/// After this long without a block the recent rate says little.
const SILENT: Duration = Duration::from_secs(10);
/// The smallest round trip is looked for among those of this period and the one before.
const RTT_PERIOD: Duration = Duration::from_secs(20);
/// Round trip assumed of a peer that sent nothing yet.
const FRESH_RTT: Duration = Duration::from_millis(100);
/// What is asked beyond one round trip, so that a pipeline does not run dry: enough for senders that dole out their
/// bandwidth several times a second, little enough that a blocked read does not wait behind it for long.
const SLACK: Duration = Duration::from_millis(500);
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
            while flight.len() < pace.depth() {
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
        let covers = pace.depth() as f64 * f64::from(BLOCK_BYTES) / 5e6;
        assert!((0.3..1.5).contains(&covers), "{covers} s");
        assert!(Pace::new().depth() >= 8, "a fresh peer gets a few at once");
    }

    #[test]
    fn after_an_interruption_the_pipeline_grows_back() {
        let (mut pace, mut now) = run(50e6, 50 * MS, 5);
        let before = pace.depth();
        pace.restart();
        assert_eq!(pace.depth(), 16);
        for _ in 0..before {
            now += MS / 3;
            pace.block(now, now - 50 * MS, 50 * MS, BLOCK_BYTES);
        }
        assert!(pace.depth() * 2 > before, "{}", pace.depth());
    }

    #[test]
    fn a_peer_long_silent_counts_by_its_peak() {
        let (mut pace, now) = run(5e6, 50 * MS, 5);
        pace.rate = 1000.0;
        assert!(pace.eta(now, 0, 1.0) > 10.0);
        assert!(pace.eta(now + Duration::from_secs(30), 0, 1.0) < 0.2);
    }
}
