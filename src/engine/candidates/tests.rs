use super::*;

fn book() -> (Candidates, Instant) {
    (Candidates::new(vec!["123.213.32.10:6881".parse().unwrap()], false, 1), Instant::now())
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn addresses_are_filtered_by_kind_and_source() {
    use Source::{Dht, Incoming, Lsd, Pex, Tracker, User};
    let all = [User, Tracker, Incoming, Pex, Dht, Lsd];
    for (text, taken) in [
        ("8.8.8.8:1", &all[..]),
        ("[2001:db8::1]:1", &all),
        ("8.8.8.8:0", &[]),
        ("0.0.0.0:1", &[]),
        ("0.1.2.3:1", &[]),
        ("224.0.0.1:1", &[]),
        ("250.0.0.1:1", &[]),
        ("255.255.255.255:1", &[]),
        ("169.254.1.1:1", &[]),
        ("[::]:1", &[]),
        ("[ff02::1]:1", &[]),
        ("[fe80::1]:1", &[]),
        ("[::ffff:224.0.0.1]:1", &[]),
        ("127.0.5.1:1", &[User, Tracker, Incoming, Lsd]),
        ("[::1]:1", &[User, Tracker, Incoming, Lsd]),
        ("192.168.1.1:1", &[User, Tracker, Incoming, Pex, Lsd]),
        ("[fd00::1]:1", &[User, Tracker, Incoming, Pex, Lsd]),
    ] {
        for source in all {
            let (mut book, now) = book();
            let fresh = book.add(now, source, [addr(text)]);
            assert_eq!(fresh == 1, taken.contains(&source), "{text} {source:?}");
        }
    }
}

#[test]
fn a_private_torrent_believes_no_hearsay() {
    let now = Instant::now();
    let mut book = Candidates::new(Vec::new(), true, 1);
    for (source, fresh) in [(Source::Pex, 0), (Source::Dht, 0), (Source::Lsd, 0), (Source::Tracker, 1)] {
        assert_eq!(book.add(now, source, [addr("8.8.8.8:1")]), fresh, "{source:?}");
    }
}

#[test]
fn a_mapped_address_is_the_same_as_the_plain_one() {
    let (mut book, now) = book();
    assert_eq!(book.add(now, Source::Tracker, [addr("8.8.8.8:1"), addr("[::ffff:8.8.8.8]:1")]), 1);
}

#[test]
fn the_users_peers_come_first_then_the_best_priority() {
    let (mut book, now) = book();
    let others = [addr("98.76.54.32:1"), addr("50.1.2.3:1"), addr("200.7.7.7:1")];
    book.add(now, Source::Tracker, others);
    book.add(now, Source::User, [addr("10.0.0.1:1")]);
    assert_eq!(book.next_dial(now), Some(addr("10.0.0.1:1")));
    let order: Vec<_> = std::iter::from_fn(|| book.next_dial(now)).collect();
    let own = addr("123.213.32.10:6881");
    assert_eq!(order.len(), 3);
    assert!(order.is_sorted_by_key(|&addr| std::cmp::Reverse(canonical_priority(own, addr))));
    assert_eq!((book.dialling(), book.len()), (4, 4));
}

#[test]
fn failures_back_off_from_fifteen_seconds_to_half_an_hour() {
    let (mut book, mut now) = book();
    let peer = addr("8.8.8.8:1");
    book.add(now, Source::Tracker, [peer]);
    book.connected(now, peer);
    book.disconnected(now, peer, Departure::Useful);
    let mut waits = Vec::new();
    now += MIN_SPACING * 2;
    for _ in 0..10 {
        assert_eq!(book.next_dial(now), Some(peer));
        book.failed(now, peer, DialFailure::Unreachable);
        let next = book.poll_timeout().unwrap();
        waits.push((next - now).as_secs());
        assert_eq!(book.next_dial(next - seconds(1)), None);
        now = next;
    }
    for (wait, nominal) in waits.iter().zip([15, 30, 60, 120, 240, 480, 960, 1800, 1800, 1800]) {
        assert!((nominal..=nominal * 11 / 10).contains(wait), "{waits:?}");
    }
}

#[test]
fn an_address_that_never_answered_is_forgotten_unless_the_user_named_it() {
    for (source, left) in [(Source::Tracker, 0), (Source::User, 1)] {
        let (mut book, mut now) = book();
        book.add(now, source, [addr("8.8.8.8:1")]);
        for _ in 0..MAX_FAILURES {
            let Some(peer) = book.next_dial(now) else { panic!("not due") };
            book.failed(now, peer, DialFailure::Unreachable);
            now = book.poll_timeout().unwrap_or(now).max(now);
        }
        assert_eq!(book.len(), left, "{source:?}");
    }
}

#[test]
fn nobody_is_tried_more_than_twenty_times_a_minute() {
    let (mut book, start) = book();
    let peer = addr("8.8.8.8:1");
    book.add(start, Source::User, [peer]);
    book.set_hurry(true);
    let mut tries = 0;
    for tick in 0..6000 {
        let now = start + Duration::from_millis(10 * tick);
        if book.next_dial(now).is_some() {
            tries += 1;
            book.connected(now, peer);
            book.disconnected(now, peer, Departure::Useful);
        }
    }
    assert!((15..=20).contains(&tries), "{tries}");
}

#[test]
fn a_busy_driver_is_not_the_peers_fault() {
    let (mut book, now) = book();
    book.add(now, Source::Tracker, [addr("8.8.8.8:1")]);
    let peer = book.next_dial(now).unwrap();
    book.failed(now, peer, DialFailure::Busy);
    assert_eq!(book.next_dial(now + seconds(4)), Some(peer));
}

#[test]
fn in_a_hurry_a_good_address_is_tried_every_fifteen_seconds() {
    let (mut book, mut now) = book();
    let peer = addr("8.8.8.8:1");
    book.add(now, Source::Tracker, [peer]);
    for _ in 0..5 {
        assert_eq!(book.next_dial(now), Some(peer));
        book.failed(now, peer, DialFailure::Unreachable);
        now = book.poll_timeout().unwrap();
    }
    assert_eq!(book.next_dial(now), Some(peer));
    book.failed(now, peer, DialFailure::Unreachable);
    assert!(book.poll_timeout().unwrap() >= now + seconds(480));
    book.set_hurry(true);
    assert_eq!(book.poll_timeout(), Some(now + HURRY_SPACING));
    book.set_hurry(false);
    assert!(book.poll_timeout().unwrap() >= now + seconds(480));
}

#[test]
fn a_ban_lasts_an_hour_and_covers_every_port_but_on_localhost() {
    let (mut book, now) = book();
    book.add(now, Source::Tracker, [addr("8.8.8.8:1"), addr("127.0.0.1:7"), addr("127.0.0.1:8")]);
    book.ban(now, addr("8.8.8.8:99"));
    book.ban(now, addr("127.0.0.1:7"));
    assert!(book.is_banned(now, addr("[::ffff:8.8.8.8]:5")) && book.is_banned(now, addr("127.0.0.1:7")));
    assert_eq!((book.next_dial(now), book.next_dial(now)), (Some(addr("127.0.0.1:8")), None));
    assert_eq!(book.banned_count(now), 2);
    assert!(book.poll_timeout() >= Some(now + BAN), "nothing is due that may not be tried");
    let later = now + BAN;
    assert_eq!(book.banned_count(later), 0);
    assert!(!book.is_banned(later, addr("8.8.8.8:1")));
}

#[test]
fn ourselves_are_never_dialled_again() {
    let (mut book, now) = book();
    let me = addr("127.0.0.1:6881");
    book.add(now, Source::Tracker, [me]);
    assert_eq!(book.next_dial(now), Some(me));
    book.mark_self(me);
    assert_eq!(book.add(now, Source::User, [me]), 0);
    assert_eq!((book.next_dial(now + seconds(3600)), book.len()), (None, 0));
}

#[test]
fn the_book_is_bounded_and_keeps_the_better_addresses() {
    let (mut book, now) = book();
    let many = (0..5000_u32).map(|n| SocketAddr::new(Ipv4Addr::from(0x0800_0000 + n * 65536).into(), 1));
    book.add(now, Source::Tracker, many.filter(|addr| usable(*addr, Source::Tracker)));
    assert_eq!(book.len(), MAX_ENTRIES);
    assert_eq!(book.add(now, Source::User, [addr("10.0.0.1:1")]), 1);
    assert_eq!(book.len(), MAX_ENTRIES);
    assert_eq!(book.next_dial(now), Some(addr("10.0.0.1:1")));
    let lowest = book.entries.values().map(|entry| entry.priority).min().unwrap();
    assert!(lowest > u32::MAX / 5, "the worst two fifths are gone: {lowest:x}");
}

#[test]
fn redundant_peers_are_left_alone_and_useful_ones_come_back_soon() {
    for (how, least, most) in
        [(Departure::Useful, 3, 4), (Departure::Useless, 15, 17), (Departure::Redundant, 1800, 1980)]
    {
        let (mut book, now) = book();
        book.add(now, Source::Tracker, [addr("8.8.8.8:1")]);
        let peer = book.next_dial(now).unwrap();
        book.connected(now, peer);
        assert_eq!(book.poll_timeout(), None);
        let end = now + seconds(100);
        book.disconnected(end, peer, how);
        let wait = (book.poll_timeout().unwrap() - end).as_secs();
        assert!((least..=most).contains(&wait), "{how:?} {wait}");
    }
}
