//! The time in which this process ran.
//!
//! A suspended process (SIGSTOP) finds minutes gone and every timer due: readers would fail and peers be dropped for a
//! silence that was ours. A wake-up far later than planned therefore counts as none of the time in between.

use std::time::{Duration, Instant};

/// Turns the driver's time into the time that the parts know, and back.
#[derive(Debug)]
pub(super) struct Clock {
    now: Instant,
    lost: Duration,
}

impl Clock {
    pub(super) fn new(now: Instant) -> Self {
        Self { now, lost: Duration::ZERO }
    }

    /// The driver says that it is `outer`; the next wake-up was `planned` for (in our time).
    pub(super) fn enter(&mut self, outer: Instant, planned: Option<Instant>) -> Instant {
        let inner = outer.checked_sub(self.lost).unwrap_or(self.now);
        if let Some(expected) = planned.map(|planned| planned.max(self.now)) {
            let late = inner.saturating_duration_since(expected);
            if late > SUSPENDED {
                self.lost += late;
                self.now = expected;
                return self.now;
            }
        }
        self.now = self.now.max(inner);
        self.now
    }

    pub(super) fn now(&self) -> Instant {
        self.now
    }

    /// Our time in the driver's.
    pub(super) fn outer(&self, inner: Instant) -> Instant {
        inner + self.lost
    }
}

/// Nobody's scheduler is this late.
const SUSPENDED: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn time_in_which_nobody_ran_does_not_count() {
        let start = Instant::now();
        let mut clock = Clock::new(start);
        assert_eq!(clock.enter(start + 3 * S, Some(start + 2 * S)), start + 3 * S);
        assert_eq!(clock.enter(start + 100 * S, Some(start + 5 * S)), start + 5 * S);
        assert_eq!(clock.outer(start + 6 * S), start + 101 * S);
        assert_eq!(clock.enter(start + 101 * S, Some(start + 6 * S)), start + 6 * S);
    }

    #[test]
    fn a_long_planned_sleep_counts_and_time_never_goes_back() {
        let start = Instant::now();
        let mut clock = Clock::new(start);
        assert_eq!(clock.enter(start + 120 * S, Some(start + 120 * S)), start + 120 * S);
        assert_eq!(clock.enter(start + 100 * S, None), start + 120 * S);
        assert_eq!(clock.enter(start + 500 * S, None), start + 500 * S);
    }
}
