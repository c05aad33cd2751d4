//! When to announce what to which tracker (BEP 3, 12, 24, 31), and when to scrape it (BEP 48): intervals, events, tiers,
//! backoff. Asks nobody itself.
//!
//! Tiers go as BEP 12 says: shuffled inside once, tried in that order, the one that answers moves to the front of its
//! tier, a later tier is asked when every tracker of all earlier ones has failed. One that does not answer for 10 s gives
//! way like one that failed; its late answer is still welcome. The user's own trackers are a tier beside the others, which
//! it does not hold back.
//!
//! Whatever a tracker says, regular announces are 60 s apart at least and 24 h at most (I9).

mod tracker;

use std::time::Instant;

use super::{AnnounceEvent, AnnounceOutcome, Announcement, Scrape, ScrapeOutcome, TrackerId, TrackerSnapshot};
use tracker::{MAX_INTERVAL, MIN_INTERVAL, Tracker};

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
    /// The first so many tiers hold no later one back.
    free_tiers: usize,
    /// When the first tier may be asked.
    opens_at: Instant,
    completed: bool,
    stopping: bool,
    /// Peers are few and somebody waits.
    short: bool,
    numwant: u32,
    rng: fastrand::Rng,
}

#[derive(Debug)]
struct Tier {
    /// As they are tried.
    order: Vec<usize>,
    /// Whom the regular announces go to.
    working: Option<usize>,
    /// When one of it failed last. Whoever was due before is due then: in their order, not by who waits longest.
    turned_at: Instant,
}

impl Announcer {
    /// Every tracker is new; the first of each active tier is due at once. `users` are a tier of their own. Of all the
    /// first [`MAX_TRACKERS`] count.
    pub(crate) fn new(users: &[String], tiers: &[Vec<String>], now: Instant, seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut trackers = Vec::new();
        let mut ordered = Vec::new();
        let all = std::iter::once(users).chain(tiers.iter().map(Vec::as_slice));
        for (tier, urls) in all.filter(|urls| !urls.is_empty()).enumerate() {
            let urls = &urls[..urls.len().min(MAX_TRACKERS - trackers.len())];
            if urls.is_empty() {
                break;
            }
            let mut order: Vec<usize> = (trackers.len()..trackers.len() + urls.len()).collect();
            rng.shuffle(&mut order);
            ordered.push(Tier { order, working: None, turned_at: now });
            trackers.extend(urls.iter().map(|url| Tracker::new(url.clone(), tier, now)));
        }
        Self {
            trackers,
            tiers: ordered,
            free_tiers: usize::from(!users.is_empty()),
            opens_at: now,
            completed: false,
            stopping: false,
            short: false,
            numwant: MIN_NUMWANT,
            rng,
        }
    }

    /// Nobody is asked before this instant, or before [`Self::found_whole`]: whoever has it all, as a check is about to show,
    /// should not be listed as one who lacks everything.
    pub(crate) fn hold(&mut self, until: Instant) {
        self.opens_at = until;
    }

    /// There are more trackers than was known: tiers behind the others, which are asked as those are. Of all the first
    /// [`MAX_TRACKERS`] count.
    pub(crate) fn learn(&mut self, tiers: &[Vec<String>], now: Instant) {
        for urls in tiers {
            let mut order = Vec::new();
            for url in urls {
                let known = self.trackers.iter().any(|tracker| tracker.url == *url);
                if !known && !self.stopping && self.trackers.len() < MAX_TRACKERS {
                    order.push(self.trackers.len());
                    self.trackers.push(Tracker::new(url.clone(), self.tiers.len(), now));
                }
            }
            if !order.is_empty() {
                self.rng.shuffle(&mut order);
                self.tiers.push(Tier { order, working: None, turned_at: now });
            }
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
        tracker.in_flight = Some((event, now));
        tracker.outdated = false;
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
        let Some((event, _)) = tracker.in_flight.take() else { return };
        let tier = tracker.tier;
        match outcome {
            AnnounceOutcome::Answered {
                interval,
                min_interval,
                complete,
                incomplete,
                downloaded,
                warning,
                tracker_id,
                peers: _,
                external_ip: _,
            } => {
                tracker.answer(now, event, *interval, *min_interval);
                tracker.message.clone_from(warning);
                if event != AnnounceEvent::Stopped {
                    tracker.count(now, *complete, *incomplete, *downloaded);
                }
                if tracker_id.is_some() {
                    tracker.tracker_id.clone_from(tracker_id);
                }
                let owes = if self.stopping { !tracker.stopped } else { self.completed && tracker.owes_completed() };
                if owes {
                    tracker.next_at = now;
                } else if tracker.outdated {
                    tracker.ask_as_soon_as_allowed(now);
                }
                let tier = &mut self.tiers[tier];
                // A late answer does not unseat who was asked in its place and works.
                let other = tier.working.filter(|&other| other != index).map(|other| &self.trackers[other]);
                if !other.is_some_and(|other| other.is_working() && other.is_idle()) {
                    tier.working = Some(index);
                    if let Some(place) = tier.order.iter().position(|&other| other == index) {
                        tier.order[..=place].rotate_right(1);
                    }
                }
            }
            AnnounceOutcome::Failed { reason, retry } => {
                tracker.message = Some(reason.clone());
                tracker.fail(now, *retry);
                if self.stopping {
                    tracker.next_at = now;
                }
                let tier = &mut self.tiers[tier];
                tier.turned_at = now;
                if tier.working == Some(index) {
                    tier.working = None;
                }
            }
        }
        self.ask_early(now);
    }

    /// The next scrape that is due, if any; call until `None`. Each is answered by [`Self::handle_scraped`]. They follow
    /// answered announces, so nobody needs to be woken for them.
    pub(crate) fn poll_scrape(&mut self, now: Instant) -> Option<Scrape> {
        if self.stopping {
            return None;
        }
        let index = self.trackers.iter_mut().position(|tracker| tracker.take_scrape(now))?;
        Some(Scrape { tracker: TrackerId(index as u32), url: self.trackers[index].url.clone() })
    }

    /// What became of a scrape.
    pub(crate) fn handle_scraped(&mut self, now: Instant, id: TrackerId, outcome: ScrapeOutcome) {
        if let Some(tracker) = self.trackers.get_mut(id.0 as usize) {
            tracker.handle_scraped(now, outcome);
        }
    }

    /// The torrent has become complete in this life: every tracker that knows us is told once.
    pub(crate) fn completed(&mut self, now: Instant) {
        if self.completed {
            return;
        }
        self.completed = true;
        for tracker in self.trackers.iter_mut().filter(|tracker| tracker.started && !tracker.has_failed()) {
            tracker.next_at = now;
        }
    }

    /// All was here before this life, as a check has found out: not a completion, but trackers that list us as one who
    /// lacks something are to know it soon.
    pub(crate) fn found_whole(&mut self, now: Instant) {
        if self.completed {
            return;
        }
        self.completed = true;
        self.opens_at = self.opens_at.min(now);
        for tracker in &mut self.trackers {
            tracker.outdated = tracker.in_flight.is_some();
            if tracker.started || tracker.outdated {
                tracker.completed = true;
                tracker.ask_as_soon_as_allowed(now);
            }
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
            let starting = matches!(tracker.in_flight, Some((AnnounceEvent::Started, _)));
            tracker.stopped = !tracker.started && !starting;
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
        let planned: Vec<(Instant, usize)> = self.regular().collect();
        self.tiers
            .iter()
            .flat_map(|tier| &tier.order)
            .map(|&index| {
                let tracker = &self.trackers[index];
                TrackerSnapshot {
                    url: tracker.url.clone(),
                    tier: tracker.tier,
                    working: tracker.is_working(),
                    announcing: tracker.in_flight.is_some(),
                    message: tracker.message.clone(),
                    seeds: tracker.figures.seeds,
                    leechers: tracker.figures.leechers,
                    completed: tracker.figures.completed,
                    next_announce: planned
                        .iter()
                        .find(|(_, planned)| *planned == index)
                        .map(|(at, _)| at.saturating_duration_since(now)),
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
        self.regular().chain(told.map(|(index, tracker)| (tracker.next_at, index))).min()
    }

    /// For each tier that may be asked, or may be soon: which of its trackers is next, and when.
    fn regular(&self) -> impl Iterator<Item = (Instant, usize)> {
        // From when on a tier may be asked: every tracker of those before it has failed, or is silent by then.
        let mut opens_at = (!self.stopping).then_some(self.opens_at);
        let tiers = self.tiers.iter().enumerate().map_while(move |(place, tier)| {
            let opened_at = opens_at?;
            if place >= self.free_tiers {
                let gives_way = tier.order.iter().map(|&index| self.trackers[index].gives_way_at());
                opens_at = gives_way.fold(opens_at, |latest, at| Some(latest?.max(at?)));
            }
            Some(self.next_in(tier, opened_at))
        });
        tiers.flatten()
    }

    /// Which tracker of a tier that opens at this instant is to be asked next, and when; `None` when all are being asked.
    fn next_in(&self, tier: &Tier, opens_at: Instant) -> Option<(Instant, usize)> {
        let Tier { order, working, turned_at } = tier;
        let idle = |&index: &usize| self.trackers[index].is_idle();
        if let Some(index) = working.filter(idle) {
            return Some((self.trackers[index].next_at.max(opens_at), index));
        }
        let silent_at = order.iter().filter_map(|&index| self.trackers[index].silent_at()).max();
        let earliest = silent_at.unwrap_or(opens_at).max(*turned_at).max(opens_at);
        let due = |&index: &usize| self.trackers[index].next_at.max(earliest);
        // `min_by_key` keeps the first of those that are due at the same time.
        order.iter().filter(|index| idle(index)).min_by_key(|index| due(index)).map(|index| (due(index), *index))
    }

    /// While peers are short, trackers that work are asked a minute after their last answer, then two, then four.
    fn ask_early(&mut self, now: Instant) {
        for tracker in self.trackers.iter_mut().filter(|tracker| !tracker.has_failed() && tracker.is_idle()) {
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

/// A torrent with more is no better, only louder.
const MAX_TRACKERS: usize = 100;
const MIN_NUMWANT: u32 = 50;
const MAX_NUMWANT: u32 = 200;

#[cfg(test)]
mod tests;
