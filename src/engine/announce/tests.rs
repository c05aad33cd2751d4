use std::time::Duration;

use super::super::{Retry, ScrapeReply};
use super::*;

use AnnounceEvent::{Completed, Periodic, Started, Stopped};

struct Bench {
    announcer: Announcer,
    now: Instant,
}

impl Bench {
    /// Tiers as in `a b | c`.
    fn new(tiers: &str) -> Self {
        Self::with("", tiers, 1)
    }

    fn with(users: &str, tiers: &str, seed: u64) -> Self {
        let users: Vec<String> = users.split_whitespace().map(str::to_owned).collect();
        let tiers: Vec<Vec<String>> =
            tiers.split('|').map(|tier| tier.split_whitespace().map(str::to_owned).collect()).collect();
        let now = Instant::now();
        Self { announcer: Announcer::new(&users, &tiers, now, seed), now }
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
            downloaded: None,
            warning: None,
            external_ip: None,
            tracker_id: Some(url.as_bytes().to_vec()),
        };
        self.announcer.handle_outcome(self.now, self.id(url), &outcome);
    }

    fn fail(&mut self, url: &str) {
        self.refuse(url, None);
    }

    fn refuse(&mut self, url: &str, retry: Option<Retry>) {
        let outcome = AnnounceOutcome::Failed { reason: "no".into(), retry };
        self.announcer.handle_outcome(self.now, self.id(url), &outcome);
    }

    /// What became of the scrape of the first tracker.
    fn scraped(&mut self, outcome: ScrapeOutcome) {
        self.announcer.handle_scraped(self.now, TrackerId(0), outcome);
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
fn trackers_that_come_later_are_asked_when_those_before_them_fail() {
    let mut bench = Bench::new("a | b");
    assert_eq!(bench.due(), one("a", Started));
    bench.announcer.learn(&[vec!["b".into(), "a".into()], vec!["c".into()]], bench.now);
    assert_eq!(bench.announcer.snapshot(bench.now).iter().map(|tracker| tracker.tier).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!(bench.due(), []);
    bench.fail("a");
    assert_eq!(bench.due(), one("b", Started));
    bench.fail("b");
    assert_eq!(bench.due(), one("c", Started));
    // Where there was none it is the first.
    let mut bench = Bench::new("");
    bench.announcer.learn(&[vec!["c".into()]], bench.now);
    assert_eq!(bench.due(), one("c", Started));
    let many = (0..MAX_TRACKERS).map(|number| number.to_string()).collect();
    bench.announcer.learn(&[many], bench.now);
    assert_eq!(bench.announcer.trackers.len(), MAX_TRACKERS);
}

#[test]
fn a_tier_is_shuffled_by_the_seed() {
    let firsts: std::collections::BTreeSet<String> =
        (0..50).map(|seed| Bench::with("", "a b c", seed).due().remove(0).0).collect();
    assert_eq!(firsts.len(), 3);
    assert_eq!(Bench::with("", "a b c", 9).due(), Bench::with("", "a b c", 9).due());
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
fn a_tier_is_tried_in_its_order_from_the_front() {
    let mut bench = Bench::new("a b c");
    let order: Vec<String> = bench.announcer.snapshot(bench.now).into_iter().map(|tracker| tracker.url).collect();
    let [first, second, third] = order.try_into().unwrap();
    assert_eq!(bench.due(), one(&first, Started));
    bench.now += Duration::from_secs(1);
    bench.fail(&first);
    assert_eq!(bench.due(), one(&second, Started));
    bench.answer(&second, 600, None);
    assert_eq!((bench.next(), bench.due()), (Some(600), one(&second, Periodic)));
    bench.fail(&second);
    // It is the first one's turn again, though the third has never been asked.
    assert_eq!(bench.due(), one(&first, Started));
    bench.fail(&first);
    assert_eq!(bench.due(), one(&third, Started));
    bench.answer(&third, 600, None);
    let order: Vec<String> = bench.announcer.snapshot(bench.now).into_iter().map(|tracker| tracker.url).collect();
    assert_eq!(order, [third, second, first], "as in the example of BEP 12");
}

#[test]
fn later_tiers_are_silent_while_an_earlier_one_works_however_short_peers_are() {
    let mut bench = Bench::new("a | b");
    bench.due();
    bench.answer("a", 600, None);
    bench.announcer.set_need(bench.now, 70, true);
    for _ in 0..10 {
        bench.next();
        assert_eq!(bench.due(), one("a", Periodic));
        bench.answer("a", 600, None);
    }
}

#[test]
fn the_users_trackers_hold_nobody_back() {
    let mut bench = Bench::with("u", "a | b", 1);
    let mut due = bench.due();
    due.sort_by(|one, other| one.0.cmp(&other.0));
    assert_eq!(due, [("a".to_owned(), Started), ("u".to_owned(), Started)]);
    bench.answer("u", 600, None);
    bench.fail("a");
    assert_eq!(bench.due(), one("b", Started), "and `a` alone decides about `b`");
    let shots = bench.announcer.snapshot(bench.now);
    assert_eq!(
        shots.iter().map(|shot| (shot.url.as_str(), shot.tier)).collect::<Vec<_>>(),
        [("u", 0), ("a", 1), ("b", 2)]
    );
}

#[test]
fn of_very_many_trackers_the_first_hundred_count() {
    let tier = |from: usize| (from..from + 60).map(|number| format!("t{number}")).collect::<Vec<_>>().join(" ");
    let bench = Bench::with("u", &format!("{}|{}|x", tier(0), tier(60)), 1);
    let shots = bench.announcer.snapshot(bench.now);
    let in_tier = |tier| shots.iter().filter(|shot| shot.tier == tier).count();
    assert_eq!([in_tier(0), in_tier(1), in_tier(2), in_tier(3)], [1, 60, 39, 0]);
}

#[test]
fn who_does_not_answer_gives_way_after_ten_seconds() {
    let mut bench = Bench::new("a b | c");
    let first = bench.due().remove(0).0;
    let second = if first == "a" { "b" } else { "a" };
    assert_eq!((bench.next(), bench.due()), (Some(10), one(second, Started)));
    assert_eq!((bench.next(), bench.due()), (Some(10), one("c", Started)), "both are silent");
    assert_eq!(bench.due(), []);
    bench.answer("c", 600, None);
    bench.answer(&first, 900, None);
    let front = bench.announcer.snapshot(bench.now).remove(0);
    assert_eq!((front.url.as_str(), front.working), (first.as_str(), true), "a late answer is an answer");
    bench.answer(second, 300, None);
    assert_eq!((bench.next(), bench.due()), (Some(900), one(&first, Periodic)), "the second came too late");
    bench.answer(&first, 900, None);
    assert_eq!((bench.next(), bench.due()), (Some(900), one(&first, Periodic)), "the later tier is silent again");
}

#[test]
fn a_tracker_that_says_when_to_come_again_is_heeded() {
    for (retry, wait) in [
        (Retry::Minutes(0), 15),
        (Retry::Minutes(7), 420),
        (Retry::Minutes(u32::MAX), 86_400), // as long as any interval
    ] {
        let mut bench = Bench::new("a");
        bench.due();
        bench.refuse("a", Some(retry));
        assert_eq!((bench.next(), bench.due()), (Some(wait), one("a", Started)), "{retry:?}");
    }
}

#[test]
fn a_tracker_that_says_never_is_not_asked_again_not_even_to_leave() {
    let mut bench = Bench::new("a | b");
    bench.due();
    bench.answer("a", 600, None);
    bench.next();
    bench.due();
    bench.refuse("a", Some(Retry::Never));
    assert_eq!(bench.due(), one("b", Started));
    bench.answer("b", 600, None);
    for _ in 0..100 {
        bench.next();
        assert_eq!(bench.due(), one("b", Periodic));
        bench.answer("b", 600, None);
    }
    assert_eq!(bench.announcer.snapshot(bench.now)[0].next_announce, None);
    bench.announcer.completed(bench.now);
    assert_eq!(bench.due(), one("b", Completed));
    bench.answer("b", 600, None);
    bench.announcer.stop(bench.now);
    assert_eq!(bench.due(), one("b", Stopped));
    let mut bench = Bench::new("a");
    bench.due();
    bench.refuse("a", Some(Retry::Never));
    assert_eq!((bench.next(), bench.due()), (None, vec![]));
}

#[test]
fn who_tells_less_than_all_figures_is_scraped_as_often_as_announced_to() {
    let mut bench = Bench::new("a | b");
    assert_eq!(bench.announcer.poll_scrape(bench.now), None, "nobody who has not answered");
    bench.due();
    for _ in 0..3 {
        bench.answer("a", 600, None);
        let scrape = bench.announcer.poll_scrape(bench.now).unwrap();
        assert_eq!((scrape.url.as_str(), scrape.tracker), ("a", bench.id("a")));
        assert_eq!(bench.announcer.poll_scrape(bench.now), None);
        bench.now += Duration::from_secs(1);
        bench.scraped(ScrapeOutcome::Answered(ScrapeReply { downloaded: Some(9), ..ScrapeReply::default() }));
        bench.next();
        bench.due();
    }
    let shot = bench.announcer.snapshot(bench.now).remove(0);
    assert_eq!((shot.seeds, shot.leechers, shot.completed), (Some(3), None, Some(9)));
    // Early announces bring no scrape.
    bench.answer("a", 600, None);
    bench.announcer.poll_scrape(bench.now);
    bench.scraped(ScrapeOutcome::Answered(ScrapeReply::default()));
    bench.announcer.set_need(bench.now, 70, true);
    assert_eq!((bench.next(), bench.due()), (Some(60), one("a", Periodic)));
    bench.answer("a", 600, None);
    assert_eq!(bench.announcer.poll_scrape(bench.now), None);
    bench.announcer.stop(bench.now);
    assert_eq!(bench.announcer.poll_scrape(bench.now), None);
}

#[test]
fn scrapes_that_fail_become_rarer_and_impossible_ones_end() {
    for (outcome, scrapes) in [
        (ScrapeOutcome::Failed, 4), // after 1, 3, 7 and 15 intervals
        (ScrapeOutcome::Impossible, 1),
        (ScrapeOutcome::Answered(ScrapeReply { min_interval_seconds: Some(3000), ..ScrapeReply::default() }), 4),
    ] {
        let mut bench = Bench::new("a");
        let mut count = 0;
        for _ in 0..16 {
            bench.due();
            bench.answer("a", 600, None);
            count += usize::from(bench.announcer.poll_scrape(bench.now).is_some());
            bench.scraped(outcome.clone());
            bench.next();
        }
        assert_eq!(count, scrapes, "{outcome:?}");
    }
}

#[test]
fn who_tells_all_figures_is_not_scraped() {
    let mut bench = Bench::new("a");
    bench.due();
    let outcome = AnnounceOutcome::Answered {
        interval: None,
        min_interval: None,
        peers: Vec::new(),
        complete: Some(1),
        incomplete: Some(2),
        downloaded: Some(3),
        warning: None,
        external_ip: None,
        tracker_id: None,
    };
    bench.announcer.handle_outcome(bench.now, TrackerId(0), &outcome);
    assert_eq!(bench.announcer.poll_scrape(bench.now), None);
    assert_eq!(bench.announcer.snapshot(bench.now)[0].completed, Some(3));
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
fn whoever_is_found_whole_in_time_never_was_a_leecher() {
    let mut bench = Bench::new("a");
    bench.announcer.hold(bench.now + Duration::from_secs(10));
    assert_eq!(bench.due(), []);
    bench.now += Duration::from_secs(3);
    bench.announcer.found_whole(bench.now);
    assert_eq!(bench.due(), one("a", Started));
    bench.answer("a", 600, None);
    assert_eq!((bench.next(), bench.due()), (Some(600), one("a", Periodic)), "it knows already");
}

#[test]
fn a_check_that_takes_long_does_not_keep_trackers_waiting() {
    let mut bench = Bench::new("a");
    bench.announcer.hold(bench.now + Duration::from_secs(10));
    assert_eq!((bench.next(), bench.due()), (Some(10), one("a", Started)));
}

#[test]
fn trackers_hear_soon_of_what_is_found_whole_but_not_as_of_a_completion() {
    let mut bench = Bench::new("a | b");
    bench.due();
    bench.answer("a", 600, Some(90));
    bench.now += Duration::from_secs(30);
    bench.announcer.found_whole(bench.now);
    assert_eq!((bench.next(), bench.due()), (Some(60), one("a", Periodic)), "as early as it lets us");
    bench.answer("a", 600, None);
    assert_eq!((bench.next(), bench.due()), (Some(600), one("a", Periodic)), "once");
}

#[test]
fn what_was_under_way_when_it_was_found_whole_is_put_right() {
    let mut bench = Bench::new("a");
    assert_eq!(bench.due(), one("a", Started));
    bench.announcer.found_whole(bench.now);
    assert_eq!(bench.due(), []);
    bench.answer("a", 600, None);
    assert_eq!((bench.next(), bench.due()), (Some(60), one("a", Periodic)));
    bench.answer("a", 600, None);
    assert_eq!(bench.next(), Some(600));
}

#[test]
fn a_tracker_that_failed_waits_all_the_same_and_then_hears_the_truth() {
    let mut bench = Bench::new("a");
    bench.due();
    bench.fail("a");
    bench.announcer.found_whole(bench.now);
    assert_eq!((bench.next(), bench.due()), (Some(15), one("a", Started)));
    bench.answer("a", 600, None);
    assert_eq!((bench.next(), bench.due()), (Some(600), one("a", Periodic)), "nothing has completed");
}

#[test]
fn a_torrent_without_trackers_plans_nothing() {
    let mut bench = Bench::new("");
    assert_eq!((bench.due(), bench.next()), (vec![], None));
    bench.announcer.stop(bench.now);
    assert!(bench.announcer.is_finished());
}
