//! Bounds on rates: token buckets, one for each torrent and one for all of a process, and who may draw from them first.
//!
//! The one thing that brains of several torrents share. Knows no clock: each call brings the driver's time along, which
//! is the same for all (a brain's own time leaves out when it was suspended).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::base::BLOCK_BYTES;

/// What bytes are wanted for; the more urgent leaves less behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Claim {
    /// A reader waits, or a peer that we have unchoked.
    Urgent,
    /// Ahead of a reader.
    Soon,
    /// Nobody waits for it.
    Background,
}

/// A bucket: it fills at a rate, and what flows is drawn from it. Without a rate it is never empty.
///
/// It holds a quarter of a second, so that this is the longest burst; of that, half is kept for whom is more urgent than
/// background, and a quarter for readers who wait. Debts are allowed, down to what was drawn at once, and paid first.
#[derive(Debug, Default)]
pub struct RateLimit {
    /// Bytes per second; 0: no bound.
    rate: AtomicU64,
    level: Mutex<Level>,
}

#[derive(Debug, Default)]
struct Level {
    /// Bytes that may flow at once; negative: a debt.
    bytes: f64,
    /// When it was so. `None`: full.
    at: Option<Instant>,
}

impl RateLimit {
    /// A bound of so many bytes per second, or none.
    pub fn new(bytes_per_second: Option<u64>) -> Self {
        Self { rate: AtomicU64::new(bytes_per_second.unwrap_or(0)), level: Mutex::default() }
    }

    /// Sets another bound, at once.
    pub fn set(&self, now: Instant, bytes_per_second: Option<u64>) {
        let mut level = self.level();
        let before = self.rate.load(Ordering::Relaxed);
        if before == 0 {
            *level = Level::default();
        } else {
            level.fill(before, now);
        }
        self.rate.store(bytes_per_second.unwrap_or(0), Ordering::Relaxed);
    }

    /// The bound.
    pub fn bytes_per_second(&self) -> Option<u64> {
        Some(self.rate.load(Ordering::Relaxed)).filter(|&rate| rate > 0)
    }

    /// Bytes that may flow now for such a claim; negative when none may before some were gained. `None`: any number.
    fn room(&self, now: Instant, claim: Claim) -> Option<f64> {
        let rate = self.bytes_per_second()?;
        let mut level = self.level();
        level.fill(rate, now);
        Some(level.bytes - reserve(rate, claim))
    }

    /// Bytes flow, or are sure to.
    fn draw(&self, now: Instant, bytes: f64) {
        let Some(rate) = self.bytes_per_second() else { return };
        let mut level = self.level();
        level.fill(rate, now);
        level.bytes = (level.bytes - bytes).min(capacity(rate));
    }

    fn level(&self) -> MutexGuard<'_, Level> {
        // Whole after any panic: two numbers.
        self.level.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Level {
    fn fill(&mut self, rate: u64, now: Instant) {
        let most = capacity(rate);
        let gained = self.at.map_or(most, |at| now.saturating_duration_since(at).as_secs_f64() * rate as f64);
        self.bytes = (self.bytes + gained).min(most);
        // Threads may be here in another order than they have looked at the clock.
        self.at = self.at.max(Some(now));
    }
}

/// What one torrent may do in one direction: by its own bound, and by that of all together.
#[derive(Debug, Clone, Default)]
pub struct Allowance {
    own: Arc<RateLimit>,
    all: Arc<RateLimit>,
}

impl Allowance {
    /// Bounded by both.
    pub fn new(own: Arc<RateLimit>, all: Arc<RateLimit>) -> Self {
        Self { own, all }
    }

    /// The torrent's own bound.
    pub fn own(&self) -> &RateLimit {
        &self.own
    }

    /// Whether there is any bound.
    pub fn is_bounded(&self) -> bool {
        self.limits().any(|limit| limit.bytes_per_second().is_some())
    }

    /// Whether something may flow now for such a claim.
    pub fn allows(&self, now: Instant, claim: Claim) -> bool {
        self.limits().all(|limit| limit.room(now, claim).is_none_or(|room| room > 0.0))
    }

    /// Bytes that may flow now for such a claim; `u64::MAX` without a bound.
    pub fn room(&self, now: Instant, claim: Claim) -> u64 {
        let rooms = self.limits().filter_map(|limit| limit.room(now, claim));
        rooms.min_by(f64::total_cmp).map_or(u64::MAX, |room| room.max(0.0) as u64)
    }

    /// How long to wait until something may flow, and a little more of it than a block, so that it is worth a look; a
    /// second at most.
    pub fn wait(&self, now: Instant, claim: Claim) -> Duration {
        let waits = self.limits().filter_map(|limit| {
            let (rate, room) = (limit.bytes_per_second()?, limit.room(now, claim)?);
            let missing = (capacity(rate) / 8.0 - room).max(1.0);
            Some(Duration::from_secs_f64((missing / rate as f64).min(LONGEST_WAIT)))
        });
        waits.max().unwrap_or(Duration::ZERO)
    }

    /// So much flows, or is sure to.
    pub fn spend(&self, now: Instant, bytes: u64) {
        self.limits().for_each(|limit| limit.draw(now, bytes as f64));
    }

    /// So much of what was spent will not flow after all.
    pub fn refund(&self, now: Instant, bytes: u64) {
        self.limits().for_each(|limit| limit.draw(now, -(bytes as f64)));
    }

    fn limits(&self) -> impl Iterator<Item = &RateLimit> {
        [&*self.own, &*self.all].into_iter()
    }
}

/// What a bucket holds.
fn capacity(rate: u64) -> f64 {
    (rate as f64 / 4.0).max(4.0 * f64::from(BLOCK_BYTES))
}

/// What a claim leaves in it.
fn reserve(rate: u64, claim: Claim) -> f64 {
    match claim {
        Claim::Urgent => 0.0,
        Claim::Soon => capacity(rate) / 4.0,
        Claim::Background => capacity(rate) / 2.0,
    }
}

/// Seconds: whoever waits looks again, as the bound may have been raised meanwhile.
const LONGEST_WAIT: f64 = 1.0;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KIB: u64 = 1024;
    const MIB: u64 = 1024 * KIB;

    fn limited(own: Option<u64>, all: Option<u64>) -> Allowance {
        Allowance::new(Arc::new(RateLimit::new(own)), Arc::new(RateLimit::new(all)))
    }

    /// Draws blocks whenever it is allowed, for some seconds; the bytes.
    fn flow(allowance: &Allowance, start: Instant, seconds: u64, claim: Claim) -> u64 {
        let (mut now, end, mut bytes) = (start, start + Duration::from_secs(seconds), 0);
        while now < end {
            while allowance.allows(now, claim) {
                allowance.spend(now, BLOCK_BYTES.into());
                bytes += u64::from(BLOCK_BYTES);
            }
            now += allowance.wait(now, claim);
        }
        bytes
    }

    #[test]
    fn what_flows_is_the_rate_and_one_burst() {
        let start = Instant::now();
        for rate in [20 * KIB, MIB, 500 * MIB] {
            let most = rate * 60 + rate / 4 + 5 * u64::from(BLOCK_BYTES);
            let flowed = flow(&limited(Some(rate), None), start, 60, Claim::Urgent);
            assert!(flowed <= most && flowed > most * 9 / 10, "{flowed} at {rate}");
        }
        let bound = limited(Some(2 * MIB), Some(MIB));
        assert!(flow(&bound, start, 10, Claim::Urgent) <= 10 * MIB + MIB / 4 + 5 * u64::from(BLOCK_BYTES));
        assert_eq!(limited(None, None).room(start, Claim::Background), u64::MAX);
    }

    #[test]
    fn who_waits_goes_before_who_does_not() {
        let start = Instant::now();
        let all = Arc::new(RateLimit::new(Some(MIB)));
        let (reader, other) = (Allowance::new(Arc::default(), all.clone()), Allowance::new(Arc::default(), all));
        let (mut urgent, mut background) = (0, 0);
        for ms in 0..10_000 {
            let now = start + Duration::from_millis(ms);
            while other.allows(now, Claim::Background) {
                other.spend(now, BLOCK_BYTES.into());
                background += 1;
            }
            while reader.allows(now, Claim::Urgent) {
                reader.spend(now, BLOCK_BYTES.into());
                urgent += 1;
            }
        }
        assert!(background < 16, "{background} blocks in the background, {urgent} for the reader");
        assert!(urgent > 600, "{urgent}");
    }

    #[test]
    fn a_new_bound_counts_at_once() {
        let start = Instant::now();
        let bound = limited(Some(KIB), None);
        while bound.allows(start, Claim::Urgent) {
            bound.spend(start, BLOCK_BYTES.into());
        }
        let before = bound.wait(start, Claim::Urgent);
        bound.own().set(start, Some(MIB));
        assert!(bound.wait(start, Claim::Urgent) < before / 10);
        bound.own().set(start, None);
        assert!(bound.allows(start, Claim::Background) && !bound.is_bounded());
        bound.own().set(start, Some(KIB));
        assert_eq!((bound.own().bytes_per_second(), bound.allows(start, Claim::Urgent)), (Some(KIB), true));
    }

    proptest! {
        #[test]
        fn never_more_than_rate_and_burst_whatever_is_given_back(
            rate in 1_u64..50 * MIB,
            steps in proptest::collection::vec((0_u64..500, 0_u64..200_000, any::<bool>()), 1..100),
        ) {
            let start = Instant::now();
            let bound = limited(Some(rate), None);
            let (mut now, mut spent, mut largest) = (start, 0_i64, 0);
            for (ms, bytes, give_back) in steps {
                now += Duration::from_millis(ms);
                if give_back {
                    let back = bytes.min(spent.max(0) as u64);
                    bound.refund(now, back);
                    spent -= back as i64;
                } else if bound.allows(now, Claim::Urgent) {
                    bound.spend(now, bytes);
                    spent += bytes as i64;
                    largest = largest.max(bytes);
                }
                let most = now.duration_since(start).as_secs_f64() * rate as f64 + capacity(rate) + largest as f64;
                prop_assert!(spent as f64 <= most + 1.0, "{spent} of {most}");
            }
        }
    }
}
