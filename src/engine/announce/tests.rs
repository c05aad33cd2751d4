use super::*;

use AnnounceEvent::{Completed, Periodic, Started, Stopped};

struct Bench {
    announcer: Announcer,
    now: Instant,
}

impl Bench {
    /// Tiers as in `a b | c`.
    fn new(tiers: &str) -> Self {
        Self::with(tiers, false, 1)
    }

    fn with(tiers: &str, private: bool, seed: u64) -> Self {
        let tiers: Vec<Vec<String>> =
            tiers.split('|').map(|tier| tier.split_whitespace().map(str::to_owned).collect()).collect();
        let now = Instant::now();
        Self { announcer: Announcer::new(&tiers, private, now, seed), now }
    }

    /// What is due now, as (URL, event).
    fn due(&mut self) -> Vec<(String, AnnounceEvent)> {
        self.polled().into_iter().map(|announcement| (announcement.url, announcement.event)).collect()
    }

    fn polled(&mut self) -> Vec<Announcement> {
        std::iter::from_fn(|| self.announcer.poll_announce(self.now, Totals::default())).collect()
    }

    fn id(&self, url: &str) -> TrackerId {
        TrackerId(self.announcer.trackers.iter().position(|tracker| tracker.url == url).unwrap() as u32)
    }

    fn answer(&mut self, url: &str, interval: u64, min_interval: Option<u64>) {
        let outcome = AnnounceOutcome::Answered {
            interval: Some(Duration::from_secs(interval)),
            min_interval: min_interval.map(Duration::from_secs),
            peers: Vec::new(),
            complete: Some(3),
            incomplete: None,
            warning: None,
            external_ip: None,
            tracker_id: Some(url.as_bytes().to_vec()),
        };
        self.announcer.handle_outcome(self.now, self.id(url), &outcome);
    }

    fn fail(&mut self, url: &str) {
        let outcome = AnnounceOutcome::Failed { reason: "no".into() };
        self.announcer.handle_outcome(self.now, self.id(url), &outcome);
    }

    /// Goes to the next timeout; seconds passed, `None` when none is planned.
    fn next(&mut self) -> Option<u64> {
        let at = self.announcer.poll_timeout()?.max(self.now);
        let passed = (at - self.now).as_secs();
        self.now = at;
        Some(passed)
    }
}

fn one(url: &str, event: AnnounceEvent) -> Vec<(String, AnnounceEvent)> {
    vec![(url.to_owned(), event)]
}

#[test]
fn intervals_are_clamped_whatever_the_tracker_says() {
    for (interval, min_interval, wait) in [
        (0, None, 60),
        (59, None, 60),
        (1800, None, 1800),
        (1800, Some(3600), 3600),
        (1800, Some(0), 1800),
        (1 << 62, None, 86_400),
        (60, Some(1 << 62), 86_400),
    ] {
        let mut bench = Bench::new("a");
        assert_eq!(bench.due(), one("a", Started));
        bench.answer("a", interval, min_interval);
        assert_eq!((bench.next(), bench.due()), (Some(wait), one("a", Periodic)), "{interval} {min_interval:?}");
    }
}

#[test]
fn failures_back_off_from_fifteen_seconds_to_half_an_hour() {
    let mut bench = Bench::new("a");
    let mut waits = Vec::new();
    for _ in 0..10 {
        assert_eq!(bench.due(), one("a", Started));
        bench.fail("a");
        waits.extend(bench.next());
    }
    assert_eq!(waits, [15, 30, 60, 120, 240, 480, 960, 1800, 1800, 1800]);
    assert_eq!(bench.due(), one("a", Started));
    bench.answer("a", 1800, None);
    bench.next();
    assert_eq!(bench.due(), one("a", Periodic));
    bench.fail("a");
    assert_eq!(bench.next(), Some(15), "an answer resets the backoff");
}

#[test]
fn one_tracker_of_a_tier_is_asked_and_the_next_when_it_fails() {
    let mut bench = Bench::new("a b c");
    let first = bench.due();
    assert_eq!(first.len(), 1);
    bench.fail(&first[0].0);
    let second = bench.due();
    assert_eq!((second.len(), second[0].1), (1, Started));
    assert_ne!(first[0].0, second[0].0);
    bench.answer(&second[0].0, 600, None);
    assert_eq!(bench.announcer.snapshot(bench.now)[0].url, second[0].0, "the one that works comes first");
    assert_eq!((bench.next(), bench.due()), (Some(600), one(&second[0].0, Periodic)));
    bench.fail(&second[0].0);
    let third = bench.due();
    assert!(third.len() == 1 && third[0].0 != second[0].0, "{third:?}");
}

#[test]
fn a_tier_is_shuffled_by_the_seed() {
    let firsts: std::collections::BTreeSet<String> =
        (0..50).map(|seed| Bench::with("a b c", false, seed).due().remove(0).0).collect();
    assert_eq!(firsts.len(), 3);
    assert_eq!(Bench::with("a b c", false, 9).due(), Bench::with("a b c", false, 9).due());
}

#[test]
fn a_later_tier_waits_until_all_before_it_have_failed() {
    let mut bench = Bench::new("a | b | c");
    assert_eq!(bench.due(), one("a", Started));
    bench.fail("a");
    assert_eq!(bench.due(), one("b", Started));
    bench.answer("b", 600, None);
    assert_eq!((bench.next(), bench.due()), (Some(15), one("a", Started)), "the first tier is tried again");
    bench.answer("a", 900, None);
    assert_eq!((bench.next(), bench.due()), (Some(900), one("a", Periodic)), "the second is silent again");
}

#[test]
fn while_peers_are_short_later_tiers_are_asked_unless_private() {
    for private in [false, true] {
        let mut bench = Bench::with("a | b", private, 1);
        bench.due();
        bench.answer("a", 600, None);
        assert_eq!(bench.due(), []);
        bench.announcer.set_need(bench.now, 70, true);
        let due = bench.due();
        assert_eq!(due, if private { vec![] } else { one("b", Started) });
    }
}

#[test]
fn a_waiting_reader_makes_announces_early_but_never_below_a_minute() {
    let mut bench = Bench::new("a");
    bench.due();
    bench.answer("a", 1800, None);
    bench.now += Duration::from_secs(10);
    bench.announcer.set_need(bench.now, 200, true);
    let mut waits = Vec::new();
    for _ in 0..6 {
        waits.extend(bench.next());
        assert_eq!(bench.due(), one("a", Periodic));
        bench.answer("a", 1800, None);
    }
    assert_eq!(waits, [50, 120, 240, 480, 960, 1800], "each early one doubles the gap");
    let mut bench = Bench::new("a");
    bench.due();
    bench.answer("a", 1800, Some(300));
    bench.announcer.set_need(bench.now, 200, true);
    assert_eq!(bench.next(), Some(300), "the tracker's minimum holds");
}

#[test]
fn numwant_follows_the_need_within_bounds() {
    for (need, numwant) in [(0, 50), (80, 80), (10_000, 200)] {
        let mut bench = Bench::new("a");
        bench.announcer.set_need(bench.now, need, false);
        assert_eq!(bench.polled()[0].numwant, numwant);
    }
}

#[test]
fn completion_is_told_once_to_every_tracker_that_knows_us() {
    let mut bench = Bench::new("a | b");
    bench.due();
    bench.fail("a");
    bench.due();
    bench.answer("b", 1800, None);
    bench.next();
    bench.due();
    bench.answer("a", 1800, None);
    bench.now += Duration::from_secs(100);
    bench.announcer.completed(bench.now);
    bench.announcer.completed(bench.now);
    let mut due = bench.due();
    due.sort_by(|one, other| one.0.cmp(&other.0));
    assert_eq!(due, [("a".to_owned(), Completed), ("b".to_owned(), Completed)]);
    bench.answer("b", 1800, None);
    bench.fail("a");
    assert_eq!((bench.next(), bench.due()), (Some(15), one("a", Completed)));
}

#[test]
fn a_completion_that_failed_is_told_again_and_then_never() {
    let mut bench = Bench::new("a");
    bench.due();
    bench.answer("a", 1800, None);
    bench.announcer.completed(bench.now);
    assert_eq!(bench.due(), one("a", Completed));
    bench.fail("a");
    assert_eq!((bench.next(), bench.due()), (Some(15), one("a", Completed)));
    bench.answer("a", 1800, None);
    assert_eq!((bench.next(), bench.due()), (Some(1800), one("a", Periodic)));
}

#[test]
fn who_first_meets_us_complete_hears_no_completion() {
    let mut bench = Bench::new("a");
    bench.announcer.completed(bench.now);
    assert_eq!(bench.due(), one("a", Started));
    bench.answer("a", 1800, None);
    assert_eq!((bench.next(), bench.due()), (Some(1800), one("a", Periodic)));
    // But one whose `started` was under way hears it.
    let mut bench = Bench::new("a");
    bench.due();
    bench.announcer.completed(bench.now);
    bench.answer("a", 1800, None);
    assert_eq!(bench.due(), one("a", Completed));
}

#[test]
fn stopping_tells_those_who_answered_and_nobody_else() {
    let mut bench = Bench::new("a | b | c");
    bench.due();
    bench.fail("a");
    bench.due();
    bench.answer("b", 600, None);
    bench.announcer.stop(bench.now);
    let due = bench.polled();
    assert_eq!((due.len(), due[0].event, due[0].numwant), (1, Stopped, 0));
    assert_eq!((due[0].url.as_str(), due[0].tracker_id.as_deref()), ("b", Some(&b"b"[..])));
    assert!(!bench.announcer.is_finished());
    bench.answer("b", 600, None);
    assert!(bench.announcer.is_finished());
    assert_eq!((bench.due(), bench.next()), (vec![], None));
}

#[test]
fn a_start_under_way_is_followed_by_its_stop() {
    for answered in [true, false] {
        let mut bench = Bench::new("a");
        bench.due();
        bench.announcer.stop(bench.now);
        assert_eq!(bench.due(), []);
        if answered {
            bench.answer("a", 600, None)
        } else {
            bench.fail("a")
        }
        assert_eq!(bench.due(), if answered { one("a", Stopped) } else { vec![] });
        bench.fail("a");
        assert!(bench.announcer.is_finished(), "a stop is not tried twice");
    }
}

#[test]
fn a_stop_waits_for_what_is_under_way() {
    for answered in [true, false] {
        let mut bench = Bench::new("a");
        bench.due();
        bench.answer("a", 600, None);
        bench.announcer.completed(bench.now);
        assert_eq!(bench.due(), one("a", Completed));
        bench.announcer.stop(bench.now);
        assert_eq!(bench.due(), [], "taken in the wrong order, the two would list us again");
        if answered {
            bench.answer("a", 600, None)
        } else {
            bench.fail("a")
        }
        assert_eq!(bench.due(), one("a", Stopped));
    }
}

#[test]
fn snapshots_show_state_in_the_order_of_tiers() {
    let mut bench = Bench::new("a | b");
    bench.due();
    let shots = bench.announcer.snapshot(bench.now);
    assert!(shots[0].announcing && shots[0].next_announce.is_none() && !shots[1].announcing);
    bench.answer("a", 600, None);
    let shots = bench.announcer.snapshot(bench.now + Duration::from_secs(100));
    assert_eq!((shots[0].working, shots[0].seeds, shots[0].tier, shots[1].tier), (true, Some(3), 0, 1));
    assert_eq!(shots[0].next_announce, Some(Duration::from_secs(500)));
    assert_eq!(shots[1].next_announce, None);
    bench.next();
    bench.due();
    bench.fail("a");
    let shots = bench.announcer.snapshot(bench.now);
    assert_eq!((shots[0].working, shots[0].message.as_deref()), (false, Some("no")));
    assert_eq!(shots[1].next_announce, Some(Duration::ZERO), "the next tier takes over");
}

#[test]
fn a_torrent_without_trackers_plans_nothing() {
    let mut bench = Bench::new("");
    assert_eq!((bench.due(), bench.next()), (vec![], None));
    bench.announcer.stop(bench.now);
    assert!(bench.announcer.is_finished());
}
