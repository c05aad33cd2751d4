//! opentracker and npm's bittorrent-tracker bring a mount and a foreign seed together: nobody names a peer.

use std::time::Duration;

use crate::harness::mount::{sum, torrents};
use crate::harness::payload::{assert_same, torrent, write_file};
use crate::harness::trackers::OpenTracker;
use crate::harness::{World, can_mount, own_addr, own_ip, wait_until};

const BOUND: Duration = Duration::from_secs(60);
const PIECE: u64 = 64 << 10;

#[test]
fn bittorrent_tracker_sees_started_completed_and_stopped() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let mut tracker = world.npm_tracker();
    let data = world.path("original/file.bin");
    write_file(&data, 1, 6_000_001);
    let torrent = torrent(&data, PIECE, std::slice::from_ref(&tracker.url));

    let seed = world.libtorrent_seed(&torrent).trackers().start();
    assert_eq!(tracker.wait_event("start", seed.addr, BOUND), 0);

    let addr = own_addr();
    let (ip, port) = (addr.ip().to_string(), addr.port().to_string());
    let mount = world.mount(&torrent).args(&["--bind", &ip, "--port", &port]).start();
    assert_eq!(tracker.wait_event("start", addr, BOUND), torrent.length);
    assert_same(&mount.path(&torrent.name), &torrent.data);
    assert_eq!(tracker.wait_event("complete", addr, BOUND), 0);
    let status = mount.status();
    let seen = &torrents(&status)[0]["trackers"][0];
    assert_eq!(seen["working"], true, "{seen}");
    mount.umount();
    tracker.wait_event("stop", addr, BOUND);
    assert_eq!(tracker.events(addr), ["start", "complete", "stop"]);
}

#[test]
fn bittorrent_tracker_by_udp_brings_a_mount_and_a_seed_together() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let mut tracker = world.npm_tracker();
    let data = world.path("original/file.bin");
    write_file(&data, 8, 6_000_001);
    let torrent = torrent(&data, PIECE, std::slice::from_ref(&tracker.udp));
    let seed = world.libtorrent_seed(&torrent).trackers().start();
    assert_eq!(tracker.wait_event("start", seed.addr, BOUND), 0);

    let addr = own_addr();
    let (ip, port) = (addr.ip().to_string(), addr.port().to_string());
    let mount = world.mount(&torrent).args(&["--bind", &ip, "--port", &port]).start();
    assert_eq!(tracker.wait_event("start", addr, BOUND), torrent.length);
    assert_same(&mount.path(&torrent.name), &torrent.data);
    assert_eq!(mount.downloaded(), torrent.length);
    assert_eq!(tracker.wait_event("complete", addr, BOUND), 0);
    let status = mount.wait_status("the tracker's figures", BOUND, |status| {
        let seen = &torrents(status)[0]["trackers"][0];
        seen["working"] == true && seen["completed"].is_u64() && seen["seeds"] == 2
    });
    let seen = &torrents(&status)[0]["trackers"][0];
    assert_eq!((&seen["url"], &seen["leechers"]), (&tracker.udp.as_str().into(), &0.into()), "{seen}");
    mount.umount();
    tracker.wait_event("stop", addr, BOUND);
    assert_eq!(tracker.events(addr), ["start", "complete", "stop"]);
}

#[test]
fn bittorrent_tracker_by_udp_over_ipv6_brings_a_mount_and_a_seed_together() {
    if !can_mount() {
        return;
    }
    if std::net::UdpSocket::bind("[::1]:0").is_err() {
        return eprintln!("SKIPPED: there is no IPv6");
    }
    let world = World::new();
    let mut tracker = world.npm_tracker();
    let data = world.path("original/file.bin");
    write_file(&data, 9, 3_000_001);
    let torrent = torrent(&data, PIECE, std::slice::from_ref(&tracker.udp6));
    let seed = world.libtorrent_seed(&torrent).ip("::1".parse().unwrap()).trackers().start();
    assert_eq!(tracker.wait_event("start", seed.addr, BOUND), 0);
    let mount = world.mount(&torrent).args(&["--bind", "::1"]).start();
    assert_same(&mount.path(&torrent.name), &torrent.data);
    assert_eq!(mount.downloaded(), torrent.length);
    let status = mount.status();
    let seen = &torrents(&status)[0]["trackers"][0];
    assert_eq!((&seen["url"], &seen["working"]), (&tracker.udp6.as_str().into(), &true.into()), "{seen}");
    mount.umount();
}

#[test]
fn libtorrent_finds_our_seed_by_a_udp_tracker() {
    let world = World::new();
    let mut tracker = world.npm_tracker();
    let data = world.path("original/file.bin");
    write_file(&data, 10, 4_000_001);
    let torrent = torrent(&data, PIECE, std::slice::from_ref(&tracker.udp));
    let seed = world.seed(&torrent);
    tracker.wait_event("start", seed.addr, BOUND);
    let save = world.directory("leech");
    let mut leech = world.libtorrent_leech(&torrent, &save).trackers().start();
    leech.wait_complete(BOUND);
    assert_same(&save.join(&torrent.name), &torrent.data);
}

#[test]
fn a_dead_udp_tracker_does_not_hold_the_next_one_back() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let mut tracker = world.npm_tracker();
    // It takes everything and says nothing.
    let dead = std::net::UdpSocket::bind((own_ip(), 0)).unwrap();
    let dead_url = format!("udp://{}/announce", dead.local_addr().unwrap());
    let data = world.path("original/file.bin");
    write_file(&data, 11, 1_000_001);
    let seeded = torrent(&data, PIECE, std::slice::from_ref(&tracker.udp));
    let seed = world.libtorrent_seed(&seeded).trackers().start();
    assert_eq!(tracker.wait_event("start", seed.addr, BOUND), 0);
    let torrent = torrent(&data, PIECE, &[dead_url.clone(), tracker.udp.clone()]);
    let mount = world.mount(&torrent).start();
    assert_same(&mount.path(&torrent.name), &torrent.data);
    let status = mount.wait_status("it is told", BOUND, |status| {
        torrents(status)[0]["trackers"].as_array().unwrap().iter().any(|tracker| tracker["message"].is_string())
    });
    let trackers = torrents(&status)[0]["trackers"].as_array().unwrap();
    let told = trackers.iter().find(|tracker| tracker["url"] == *dead_url).unwrap();
    assert!(told["message"].as_str().unwrap().starts_with("timed out"), "{told}");
    let warnings = status["warnings"].to_string();
    assert_eq!(warnings.matches("timed out").count(), 1, "{warnings}");
    mount.umount();
}

#[test]
fn a_remount_of_a_complete_torrent_announces_no_completion() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let mut tracker = world.npm_tracker();
    let data = world.path("original/file.bin");
    write_file(&data, 1, 1_000_001);
    let torrent = torrent(&data, PIECE, std::slice::from_ref(&tracker.url));
    let seed = world.libtorrent_seed(&torrent).start();
    let mount = world.mount(&torrent).peer(seed.addr).start();
    assert_same(&mount.path(&torrent.name), &torrent.data);
    mount.umount();

    let addr = own_addr();
    let (ip, port) = (addr.ip().to_string(), addr.port().to_string());
    let mount = world.mount(&torrent).args(&["--bind", &ip, "--port", &port]).start();
    assert_eq!(tracker.wait_event("start", addr, BOUND), 0);
    mount.umount();
    tracker.wait_event("stop", addr, BOUND);
    assert_eq!(tracker.events(addr), ["start", "stop"]);
}

#[test]
fn a_tracker_named_on_the_command_line_is_asked() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let mut tracker = world.npm_tracker();
    let data = world.path("original/file.bin");
    write_file(&data, 2, 1_500_000);
    let announced = torrent(&data, PIECE, std::slice::from_ref(&tracker.url));
    let seed = world.libtorrent_seed(&announced).trackers().start();
    tracker.wait_event("start", seed.addr, BOUND);
    let trackerless = torrent(&data, PIECE, &[]);
    let mount = world.mount(&trackerless).args(&["--tracker", &tracker.url]).start();
    assert_same(&mount.path(&trackerless.name), &trackerless.data);
    mount.umount();
}

#[test]
fn no_tracker_is_asked_when_the_user_says_so() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let tracker = world.npm_tracker();
    let data = world.path("original/file.bin");
    write_file(&data, 3, 500_000);
    let torrent = torrent(&data, PIECE, std::slice::from_ref(&tracker.url));
    let seed = world.libtorrent_seed(&torrent).start();
    let addr = own_addr();
    let (ip, port) = (addr.ip().to_string(), addr.port().to_string());
    let mount = world.mount(&torrent).peer(seed.addr).args(&["--no-tracker", "--bind", &ip, "--port", &port]).start();
    assert_same(&mount.path(&torrent.name), &torrent.data);
    mount.umount();
    assert!(tracker.events(addr).is_empty(), "{:?}", tracker.events(addr));
}

#[test]
fn opentracker_counts_a_mount_as_leecher_then_as_seed_then_not_at_all() {
    opentracker_counts_a_mount(|tracker| &tracker.url);
}

#[test]
fn opentracker_by_udp_counts_a_mount_as_leecher_then_as_seed_then_not_at_all() {
    opentracker_counts_a_mount(|tracker| &tracker.udp);
}

fn opentracker_counts_a_mount(url: impl Fn(&OpenTracker) -> &String) {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let data = world.path("original/file.bin");
    write_file(&data, 4, 6_000_001);
    let unlisted = torrent(&data, PIECE, &[]);
    let tracker = world.opentracker(&unlisted.info_hash);
    let torrent = torrent(&data, PIECE, std::slice::from_ref(url(&tracker)));
    assert_eq!(torrent.info_hash, unlisted.info_hash);

    let mut seed = world.libtorrent_seed(&torrent).trackers().start();
    wait_until("opentracker knows the seed", BOUND, || tracker.scrape() == Some((1, 0, 0)));
    let mount = world.mount(&torrent).start();
    wait_until("opentracker knows the mount", BOUND, || tracker.scrape() == Some((1, 0, 1)));
    assert_same(&mount.path(&torrent.name), &torrent.data);
    assert!(sum(&mount.status(), "downloaded_bytes") >= torrent.length, "the bytes came from the swarm");
    wait_until("opentracker knows of the completion", BOUND, || tracker.scrape() == Some((2, 1, 0)));
    mount.wait_status("its figures", BOUND, |status| {
        let seen = &torrents(status)[0]["trackers"][0];
        seen["seeds"] == 2 && seen["leechers"] == 0 && seen["completed"].is_u64()
    });
    mount.umount();
    wait_until("opentracker forgets the mount", BOUND, || tracker.scrape() == Some((1, 1, 0)));
    assert_eq!(seed.state()["failed"], 0);
}

#[test]
fn a_tracker_by_https_is_trusted_by_the_users_own_authority() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let ip = own_ip();
    let certificate = world.authority("authority").certify(ip);
    let mut tracker = world.npm_tracker_at(ip, Some(&certificate));
    let https = tracker.https.clone().unwrap();
    let data = world.path("original/file.bin");
    write_file(&data, 5, 4_000_001);
    let plain = torrent(&data, PIECE, std::slice::from_ref(&tracker.url));
    let seed = world.libtorrent_seed(&plain).trackers().start();
    assert_eq!(tracker.wait_event("start", seed.addr, BOUND), 0);

    let torrent = torrent(&data, PIECE, std::slice::from_ref(&https));
    let addr = own_addr();
    let (ip, port) = (addr.ip().to_string(), addr.port().to_string());
    // As a user writes it: relative to where the command is started.
    let mount = world.mount(&torrent).env("SSL_CERT_FILE", "authority/authority.pem");
    let mount = mount.args(&["--bind", &ip, "--port", &port]).start();
    assert_eq!(tracker.wait_event("start", addr, BOUND), torrent.length);
    assert_same(&mount.path(&torrent.name), &torrent.data);
    assert_eq!(tracker.wait_event("complete", addr, BOUND), 0);
    let status = mount.status();
    let seen = &torrents(&status)[0]["trackers"][0];
    assert_eq!((&seen["url"], &seen["working"]), (&https.into(), &true.into()), "{seen}");
    assert_eq!(mount.downloaded(), torrent.length);
    mount.umount();
    tracker.wait_event("stop", addr, BOUND);
}

#[test]
fn a_tracker_whose_certificate_is_not_accepted_is_named_and_harms_nothing() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let (trusted, stranger) = (world.authority("trusted"), world.authority("stranger"));
    let (first, second) = (own_ip(), own_ip());
    let trackers = [
        world.npm_tracker_at(first, Some(&stranger.certify(first))),
        world.npm_tracker_at(second, Some(&trusted.certify(own_ip()))), // another server's
    ];
    let urls = [0, 1].map(|at: usize| trackers[at].https.clone().unwrap());
    let data = world.path("original/file.bin");
    write_file(&data, 6, 2_000_001);
    let torrent = torrent(&data, PIECE, &urls);
    let seed = world.libtorrent_seed(&torrent).start();
    let mount = world.mount(&torrent).env("SSL_CERT_FILE", &trusted.file).peer(seed.addr).start();
    let status = mount.wait_status("both have failed", Duration::from_secs(15), |status| {
        torrents(status)[0]["trackers"].as_array().unwrap().iter().all(|tracker| tracker["message"].is_string())
    });
    for (tracker, url, reason) in [(0, &urls[0], "nobody who is trusted"), (1, &urls[1], "not valid for")] {
        let seen = &torrents(&status)[0]["trackers"][tracker];
        assert_eq!((seen["url"].as_str(), &seen["working"]), (Some(url.as_str()), &false.into()), "{seen}");
        let message = seen["message"].as_str().unwrap();
        assert!(message.contains("certificate") && message.contains(reason), "{message}");
    }
    assert_same(&mount.path(&torrent.name), &torrent.data);
    mount.umount();
}

#[test]
fn a_file_of_authorities_that_is_missing_is_warned_of() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let ip = own_ip();
    let tracker = world.npm_tracker_at(ip, Some(&world.authority("authority").certify(ip)));
    let data = world.path("original/file.bin");
    write_file(&data, 7, 300_000);
    let torrent = torrent(&data, PIECE, &[tracker.https.clone().unwrap()]);
    let mount = world.mount(&torrent).env("SSL_CERT_FILE", "authority/typo.pem").start();
    let status = mount.wait_status("it has failed", Duration::from_secs(15), |status| {
        torrents(status)[0]["trackers"][0]["message"].is_string()
    });
    let warnings = status["warnings"].to_string();
    let file = world.path("authority/typo.pem");
    assert!(warnings.contains(file.to_str().unwrap()) && warnings.contains("no https"), "{warnings}");
    assert!(!warnings.contains("ERROR"), "{warnings}");
    mount.umount();
}
