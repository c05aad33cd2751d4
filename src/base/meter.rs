//! How fast something flows.

use std::time::{Duration, Instant};

/// A rate in bytes per second, smoothed over a few seconds; fed with explicit instants (I8).
#[derive(Debug, Clone)]
pub struct RateMeter {
    /// Bytes of the bin now filling, and when it began.
    bin: u64,
    since: Instant,
    rate: f64,
    total: u64,
}

impl RateMeter {
    /// A meter that has seen nothing.
    pub fn new(now: Instant) -> Self {
        Self { bin: 0, since: now, rate: 0.0, total: 0 }
    }

    /// Counts `bytes` that flowed at `now`.
    pub fn add(&mut self, now: Instant, bytes: u64) {
        self.roll(now);
        self.bin += bytes;
        self.total += bytes;
    }

    /// Bytes per second over the last few seconds.
    pub fn bytes_per_second(&mut self, now: Instant) -> u64 {
        self.roll(now);
        self.rate as u64
    }

    /// The same without a trace: a bin that is closed by looking at it often is another one, where bytes come seldom.
    pub fn peek(&self, now: Instant) -> u64 {
        self.clone().bytes_per_second(now)
    }

    /// All bytes ever counted.
    pub fn total_bytes(&self) -> u64 {
        self.total
    }

    /// Closes the bin when it is full: its rate enters the average with the weight of its length.
    fn roll(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed < BIN {
            return;
        }
        let seconds = elapsed.as_secs_f64();
        let keep = (-seconds / MEMORY.as_secs_f64()).exp();
        self.rate = self.rate * keep + self.bin as f64 / seconds * (1.0 - keep);
        self.bin = 0;
        self.since = now;
    }
}

/// Events closer together than this are one sample.
const BIN: Duration = Duration::from_millis(500);
/// A past rate has lost 63 % of its weight after this long.
const MEMORY: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_flow_shows_its_rate_and_a_dry_one_fades() {
        let start = Instant::now();
        let mut meter = RateMeter::new(start);
        let mut now = start;
        for _ in 0..300 {
            now += Duration::from_millis(100);
            meter.add(now, 1000);
        }
        let rate = meter.bytes_per_second(now);
        assert!((9_000..=11_000).contains(&rate), "{rate}");
        assert!(meter.bytes_per_second(now + Duration::from_secs(30)) < 500);
        assert_eq!(meter.total_bytes(), 300_000);
    }
}
