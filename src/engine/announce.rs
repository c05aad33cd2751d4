//! When to announce what to which tracker (BEP 3, 12, 24): intervals, events, tiers, backoff. Announces nothing itself.
//!
//! Tiers go as BEP 12 says: shuffled inside once, the one that answers moves to the front of its tier, a failing one
//! gives way to the next, a later tier is asked when all earlier ones have failed. One liberty: while peers are short
//! the later tiers are asked as well, unless the torrent is private.
//!
//! Whatever a tracker says, regular announces are 60 s apart at least and 24 h at most (I9).

use std::time::{Duration, Instant};

use super::{AnnounceEvent, AnnounceOutcome, Announcement, TrackerId, TrackerSnapshot};

/// Byte counts that every announce carries.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Totals {
    /// Bytes sent in this life.
    pub(crate) uploaded: u64,
    /// Bytes received in this life.
    pub(crate) downloaded: u64,
    /// Bytes missing until complete.
    pub(crate) left: u64,
}

/// The announce schedule of one torrent.
#[derive(Debug)]
pub(crate) struct Announcer {
    /// In the order of the torrent; `TrackerId` is the index.
    trackers: Vec<Tracker>,
    /// For each tier its trackers in the order in which they are tried.
    tiers: Vec<Tier>,
    private: bool,
    completed: bool,
    stopping: bool,
    /// Peers are few and somebody waits.
    short: bool,
    numwant: u32,
}

#[derive(Debug)]
struct Tier {
    order: Vec<usize>,
    working: Option<usize>,
}

#[derive(Debug)]
struct Tracker {
    url: String,
    tier: usize,
    /// The event of the announce that is under way.
    in_flight: Option<AnnounceEvent>,
    /// It has answered `started` and may still list us.
    started: bool,
    /// It has answered `completed`.
    completed: bool,
    /// `stopped` has been sent, or need not be.
    stopped: bool,
    failures: u32,
    next_at: Instant,
    /// When it last answered.
    answered_at: Option<Instant>,
    interval: Duration,
    min_interval: Duration,
    /// The gap after which it is asked early; doubles each time.
    early_gap: Duration,
    tracker_id: Option<Vec<u8>>,
    message: Option<String>,
    seeds: Option<u32>,
    leechers: Option<u32>,
}

impl Announcer {
    /// Every tracker of `tiers` is new; the first of each active tier is due at once.
    pub(crate) fn new(tiers: &[Vec<String>], private: bool, now: Instant, seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut trackers = Vec::new();
        let mut ordered = Vec::new();
        for (tier, urls) in tiers.iter().filter(|urls| !urls.is_empty()).enumerate() {
            let mut order: Vec<usize> = (trackers.len()..trackers.len() + urls.len()).collect();
            rng.shuffle(&mut order);
            ordered.push(Tier { order, working: None });
            trackers.extend(urls.iter().map(|url| Tracker::new(url.clone(), tier, now)));
        }
        Self {
            trackers,
            tiers: ordered,
            private,
            completed: false,
            stopping: false,
            short: false,
            numwant: MIN_NUMWANT,
        }
    }

    /// The next announce that is due, if any; call until `None`. Each is answered by [`Self::handle_outcome`].
    pub(crate) fn poll_announce(&mut self, now: Instant, totals: Totals) -> Option<Announcement> {
        let index = self.due().filter(|&(at, _)| at <= now).map(|(_, index)| index)?;
        let (completed, numwant) = (self.completed, self.numwant);
        let tracker = &mut self.trackers[index];
        let event = if self.stopping {
            tracker.stopped = true;
            AnnounceEvent::Stopped
        } else if !tracker.started {
            AnnounceEvent::Started
        } else if completed && !tracker.completed {
            AnnounceEvent::Completed
        } else {
            AnnounceEvent::Periodic
        };
        if event == AnnounceEvent::Started && completed {
            // It gets to know us as a seed: nothing completes in its eyes.
            tracker.completed = true;
        }
        tracker.in_flight = Some(event);
        Some(Announcement {
            tracker: TrackerId(index as u32),
            url: tracker.url.clone(),
            event,
            uploaded: totals.uploaded,
            downloaded: totals.downloaded,
            left: totals.left,
            numwant: if event == AnnounceEvent::Stopped { 0 } else { numwant },
            tracker_id: tracker.tracker_id.clone(),
        })
    }

    /// What became of an announce. Its peers are the caller's business.
    pub(crate) fn handle_outcome(&mut self, now: Instant, id: TrackerId, outcome: &AnnounceOutcome) {
        let index = id.0 as usize;
        let Some(tracker) = self.trackers.get_mut(index) else { return };
        let Some(event) = tracker.in_flight.take() else { return };
        let tier = tracker.tier;
        match outcome {
            AnnounceOutcome::Answered {
                interval,
                min_interval,
                complete,
                incomplete,
                warning,
                tracker_id,
                peers: _,
                external_ip: _,
            } => {
                tracker.answer(now, event, *interval, *min_interval);
                tracker.message.clone_from(warning);
                tracker.seeds = complete.or(tracker.seeds);
                tracker.leechers = incomplete.or(tracker.leechers);
                if tracker_id.is_some() {
                    tracker.tracker_id.clone_from(tracker_id);
                }
                let owes = if self.stopping { !tracker.stopped } else { self.completed && tracker.owes_completed() };
                if owes {
                    tracker.next_at = now;
                }
                let tier = &mut self.tiers[tier];
                tier.working = Some(index);
                if let Some(place) = tier.order.iter().position(|&other| other == index) {
                    tier.order[..=place].rotate_right(1);
                }
            }
            AnnounceOutcome::Failed { reason } => {
                tracker.message = Some(reason.clone());
                tracker.failures += 1;
                tracker.next_at = if self.stopping { now } else { now + backoff(tracker.failures) };
                let tier = &mut self.tiers[tier];
                if tier.working == Some(index) {
                    tier.working = None;
                }
            }
        }
        self.ask_early(now);
    }

    /// The torrent has become complete in this life: every tracker that knows us is told once.
    pub(crate) fn completed(&mut self, now: Instant) {
        if self.completed {
            return;
        }
        self.completed = true;
        for tracker in self.trackers.iter_mut().filter(|tracker| tracker.started && tracker.failures == 0) {
            tracker.next_at = now;
        }
    }

    /// How badly peers are wanted: `numwant` of them (clamped to 50..=200); `short`: a reader waits and they are few, so
    /// trackers are asked as early as they allow.
    pub(crate) fn set_need(&mut self, now: Instant, numwant: usize, short: bool) {
        self.numwant = u32::try_from(numwant).unwrap_or(u32::MAX).clamp(MIN_NUMWANT, MAX_NUMWANT);
        if short != self.short {
            self.short = short;
            self.ask_early(now);
        }
    }

    /// The torrent ends: whoever answered `started` gets `stopped`, nobody anything else.
    pub(crate) fn stop(&mut self, now: Instant) {
        if self.stopping {
            return;
        }
        self.stopping = true;
        for tracker in &mut self.trackers {
            // A `started` under way decides when it is answered.
            tracker.stopped = !tracker.started && tracker.in_flight != Some(AnnounceEvent::Started);
            tracker.next_at = now;
        }
    }

    /// After [`Self::stop`]: nothing is under way or due any more.
    #[cfg(test)]
    pub(crate) fn is_finished(&self) -> bool {
        self.stopping && self.due().is_none() && self.trackers.iter().all(|tracker| tracker.in_flight.is_none())
    }

    /// When [`Self::poll_announce`] has something.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.due().map(|(at, _)| at)
    }

    /// All trackers in the order of their tiers.
    pub(crate) fn snapshot(&self, now: Instant) -> Vec<TrackerSnapshot> {
        let planned: Vec<usize> = (0..self.tiers.len()).filter_map(|tier| self.next_in(tier)).collect();
        self.tiers
            .iter()
            .flat_map(|tier| &tier.order)
            .map(|&index| {
                let tracker = &self.trackers[index];
                TrackerSnapshot {
                    url: tracker.url.clone(),
                    tier: tracker.tier,
                    working: tracker.answered_at.is_some() && tracker.failures == 0,
                    announcing: tracker.in_flight.is_some(),
                    message: tracker.message.clone(),
                    seeds: tracker.seeds,
                    leechers: tracker.leechers,
                    next_announce: planned.contains(&index).then(|| tracker.next_at.saturating_duration_since(now)),
                }
            })
            .collect()
    }

    /// The tracker that is due first, and when.
    fn due(&self) -> Option<(Instant, usize)> {
        if self.stopping {
            let waiting = self.trackers.iter().enumerate();
            let waiting = waiting.filter(|(_, tracker)| !tracker.stopped && tracker.may_be_told_to_stop());
            return waiting.map(|(index, tracker)| (tracker.next_at, index)).min();
        }
        let told = self.trackers.iter().enumerate().filter(|(_, tracker)| self.completed && tracker.owes_completed());
        let regular = (0..self.tiers.len()).filter_map(|tier| self.next_in(tier));
        let regular = regular.map(|index| (self.trackers[index].next_at, index));
        regular.chain(told.map(|(index, tracker)| (tracker.next_at, index))).min()
    }

    /// Which tracker of a tier is to be asked next; `None` while one is under way or the tier has nothing to do.
    fn next_in(&self, tier: usize) -> Option<usize> {
        if self.stopping || !self.is_active(tier) {
            return None;
        }
        let Tier { order, working } = &self.tiers[tier];
        if order.iter().any(|&index| self.trackers[index].in_flight.is_some()) {
            return None;
        }
        // The first in order among those that are due at the same time: `min_by_key` keeps the first.
        working.or_else(|| order.iter().copied().min_by_key(|&index| self.trackers[index].next_at))
    }

    fn is_active(&self, tier: usize) -> bool {
        self.tiers[..tier].iter().all(|earlier| {
            let all_failed = earlier.order.iter().all(|&index| self.trackers[index].failures > 0);
            all_failed || self.short && !self.private && earlier.working.is_some()
        })
    }

    /// While peers are short, trackers that work are asked a minute after their last answer, then two, then four.
    fn ask_early(&mut self, now: Instant) {
        for tracker in self.trackers.iter_mut().filter(|tracker| tracker.failures == 0 && tracker.in_flight.is_none()) {
            let Some(at) = tracker.answered_at.filter(|_| !self.stopping) else { continue };
            if self.short {
                let early = at + tracker.early_gap.max(tracker.min_interval);
                if early < tracker.next_at {
                    tracker.next_at = early.max(now);
                    tracker.early_gap = (tracker.early_gap * 2).min(MAX_INTERVAL);
                }
            } else if tracker.early_gap > MIN_INTERVAL {
                tracker.early_gap = MIN_INTERVAL.max(tracker.early_gap / 2);
            }
        }
    }
}

impl Tracker {
    fn new(url: String, tier: usize, now: Instant) -> Self {
        Self {
            url,
            tier,
            in_flight: None,
            started: false,
            completed: false,
            stopped: false,
            failures: 0,
            next_at: now,
            answered_at: None,
            interval: DEFAULT_INTERVAL,
            min_interval: MIN_INTERVAL,
            early_gap: MIN_INTERVAL,
            tracker_id: None,
            message: None,
            seeds: None,
            leechers: None,
        }
    }

    fn answer(
        &mut self,
        now: Instant,
        event: AnnounceEvent,
        interval: Option<Duration>,
        min_interval: Option<Duration>,
    ) {
        self.failures = 0;
        self.answered_at = Some(now);
        self.min_interval = min_interval.unwrap_or(MIN_INTERVAL).clamp(MIN_INTERVAL, MAX_INTERVAL);
        self.interval = interval.unwrap_or(DEFAULT_INTERVAL).clamp(self.min_interval, MAX_INTERVAL);
        self.next_at = now + self.interval;
        match event {
            AnnounceEvent::Started => self.started = true,
            AnnounceEvent::Completed => self.completed = true,
            AnnounceEvent::Stopped => self.started = false,
            AnnounceEvent::Periodic => {}
        }
    }

    /// It lists us, so it hears of our completion once; a failing one hears it at its next try.
    fn owes_completed(&self) -> bool {
        self.started && !self.completed && self.in_flight.is_none()
    }

    /// After whatever it is being told now: a tracker that takes two announces in the wrong order would list us again.
    fn may_be_told_to_stop(&self) -> bool {
        self.started && self.in_flight.is_none()
    }
}

/// 15 s, doubling to half an hour.
fn backoff(failures: u32) -> Duration {
    FIRST_BACKOFF.saturating_mul(1 << failures.saturating_sub(1).min(7)).min(MAX_BACKOFF)
}

const MIN_INTERVAL: Duration = Duration::from_secs(60);
const MAX_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);
/// For trackers that name none.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(30 * 60);
const FIRST_BACKOFF: Duration = Duration::from_secs(15);
const MAX_BACKOFF: Duration = Duration::from_secs(30 * 60);
const MIN_NUMWANT: u32 = 50;
const MAX_NUMWANT: u32 = 200;

#[cfg(test)]
mod tests;
