//! What is known of one tracker: how it answered, when it is next asked, what it counts.

use std::time::{Duration, Instant};

use super::super::{AnnounceEvent, Retry, ScrapeOutcome};

/// One tracker of a torrent.
#[derive(Debug)]
pub(super) struct Tracker {
    pub(super) url: String,
    pub(super) tier: usize,
    /// The event of the announce that is under way, and since when it is.
    pub(super) in_flight: Option<(AnnounceEvent, Instant)>,
    /// It has answered `started` and may still list us.
    pub(super) started: bool,
    /// It has answered `completed`, or is not to be told of a completion.
    pub(super) completed: bool,
    /// What is under way tells it less than we have.
    pub(super) outdated: bool,
    /// `stopped` has been sent, or need not be.
    pub(super) stopped: bool,
    /// It wants never to be asked again (BEP 31).
    pub(super) dismissed: bool,
    failures: u32,
    /// The last failure; none when it has answered since.
    failed_at: Option<Instant>,
    pub(super) next_at: Instant,
    /// When it last answered.
    pub(super) answered_at: Option<Instant>,
    interval: Duration,
    pub(super) min_interval: Duration,
    /// The gap after which it is asked early; doubles each time.
    pub(super) early_gap: Duration,
    pub(super) tracker_id: Option<Vec<u8>>,
    pub(super) message: Option<String>,
    pub(super) figures: Figures,
    scrapes: Scrapes,
}

/// What a tracker counts in the swarm.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Figures {
    pub(super) seeds: Option<u32>,
    pub(super) leechers: Option<u32>,
    pub(super) completed: Option<u32>,
}

impl Figures {
    /// Takes what is told, keeps what is not.
    fn update(&mut self, seeds: Option<u32>, leechers: Option<u32>, completed: Option<u32>) {
        self.seeds = seeds.or(self.seeds);
        self.leechers = leechers.or(self.leechers);
        self.completed = completed.or(self.completed);
    }
}

/// When a tracker is scraped.
#[derive(Debug)]
struct Scrapes {
    /// It is to be asked now.
    wanted: bool,
    in_flight: bool,
    /// Never before this; `None`: never.
    not_before: Option<Instant>,
    failures: u32,
}

impl Tracker {
    pub(super) fn new(url: String, tier: usize, now: Instant) -> Self {
        Self {
            url,
            tier,
            in_flight: None,
            started: false,
            completed: false,
            outdated: false,
            stopped: false,
            dismissed: false,
            failures: 0,
            failed_at: None,
            next_at: now,
            answered_at: None,
            interval: DEFAULT_INTERVAL,
            min_interval: MIN_INTERVAL,
            early_gap: MIN_INTERVAL,
            tracker_id: None,
            message: None,
            figures: Figures::default(),
            scrapes: Scrapes { wanted: false, in_flight: false, not_before: Some(now), failures: 0 },
        }
    }

    pub(super) fn answer(
        &mut self,
        now: Instant,
        event: AnnounceEvent,
        interval: Option<Duration>,
        min_interval: Option<Duration>,
    ) {
        self.failures = 0;
        self.failed_at = None;
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

    /// If it works, its next announce is as early as it lets us.
    pub(super) fn ask_as_soon_as_allowed(&mut self, now: Instant) {
        if let Some(at) = self.answered_at.filter(|_| !self.has_failed()) {
            self.next_at = self.next_at.min((at + self.min_interval).max(now));
        }
    }

    pub(super) fn fail(&mut self, now: Instant, retry: Option<Retry>) {
        self.failures += 1;
        self.failed_at = Some(now);
        let wait = backoff(self.failures);
        self.next_at = now
            + match retry {
                Some(Retry::Minutes(minutes)) => wait.max(MINUTE.saturating_mul(minutes)).min(MAX_INTERVAL),
                Some(Retry::Never) | None => wait,
            };
        self.dismissed = retry == Some(Retry::Never);
    }

    /// Takes the figures of an announce. What it did not tell is asked for by a scrape, as rarely as it is announced to.
    pub(super) fn count(&mut self, now: Instant, seeds: Option<u32>, leechers: Option<u32>, completed: Option<u32>) {
        self.figures.update(seeds, leechers, completed);
        let told_all = seeds.is_some() && leechers.is_some() && completed.is_some();
        let scrapes = &mut self.scrapes;
        scrapes.wanted = !told_all && !scrapes.in_flight && scrapes.not_before.is_some_and(|at| at <= now);
    }

    /// Whether a scrape is to be made now; it is under way then.
    pub(super) fn take_scrape(&mut self, now: Instant) -> bool {
        let due = std::mem::take(&mut self.scrapes.wanted);
        if due {
            self.scrapes.in_flight = true;
            self.scrapes.not_before = Some(now + self.interval);
        }
        due
    }

    pub(super) fn handle_scraped(&mut self, now: Instant, outcome: ScrapeOutcome) {
        if !std::mem::take(&mut self.scrapes.in_flight) {
            return;
        }
        let wait = match outcome {
            ScrapeOutcome::Answered(reply) => {
                self.figures.update(reply.complete, reply.incomplete, reply.downloaded);
                self.scrapes.failures = 0;
                reply.min_interval_seconds.map_or(Duration::ZERO, |seconds| Duration::from_secs(seconds.into()))
            }
            ScrapeOutcome::Failed => {
                self.scrapes.failures += 1;
                self.interval.saturating_mul(1 << self.scrapes.failures.min(7))
            }
            ScrapeOutcome::Impossible => {
                self.scrapes.not_before = None;
                return;
            }
        };
        self.scrapes.not_before = self.scrapes.not_before.max(Some(now + wait.min(MAX_INTERVAL)));
    }

    /// Its last announce was answered.
    pub(super) fn is_working(&self) -> bool {
        self.answered_at.is_some() && self.failed_at.is_none()
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed_at.is_some()
    }

    /// It may be asked: nothing is under way, and it has not sent us away.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.is_none() && !self.dismissed
    }

    /// Since when, or from when on, others are asked in its place: it failed, or does not answer. `None`: not at all.
    pub(super) fn gives_way_at(&self) -> Option<Instant> {
        self.failed_at.or_else(|| self.silent_at())
    }

    /// When whatever is under way has been unanswered for so long that others are asked as well.
    pub(super) fn silent_at(&self) -> Option<Instant> {
        self.in_flight.map(|(_, since)| since + GIVE_WAY)
    }

    /// It lists us, so it hears of our completion once; a failing one hears it at its next try.
    pub(super) fn owes_completed(&self) -> bool {
        self.started && !self.completed && self.is_idle()
    }

    /// After whatever it is being told now: a tracker that takes two announces in the wrong order would list us again.
    pub(super) fn may_be_told_to_stop(&self) -> bool {
        self.started && self.is_idle()
    }
}

/// 15 s, doubling to half an hour.
fn backoff(failures: u32) -> Duration {
    FIRST_BACKOFF.saturating_mul(1 << failures.saturating_sub(1).min(7)).min(MAX_BACKOFF)
}

const MINUTE: Duration = Duration::from_secs(60);
pub(super) const MIN_INTERVAL: Duration = MINUTE;
pub(super) const MAX_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);
/// For trackers that name none.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(30 * 60);
const FIRST_BACKOFF: Duration = Duration::from_secs(15);
const MAX_BACKOFF: Duration = Duration::from_secs(30 * 60);
/// BEP 12 leaves open when a tracker "cannot be reached". A dead UDP tracker says nothing for as long as we listen (30 s),
/// and so does a host that drops packets: nobody who waits for a first peer should wait for it.
const GIVE_WAY: Duration = Duration::from_secs(10);
