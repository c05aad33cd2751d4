//! `btfs tracker` brings others together: libtorrent, Transmission, aria2 and our own programs, over HTTP and UDP, IPv4 and
//! IPv6. Nobody names a peer.

use std::net::IpAddr;
use std::time::Duration;

use crate::harness::mount::torrents;
use crate::harness::payload::{assert_same, torrent, write_file};
use crate::harness::trackers::OwnTracker;
use crate::harness::{World, can_mount, own_addr, own_ip, wait_until};

const BOUND: Duration = Duration::from_secs(60);
const PIECE: u64 = 64 << 10;

#[test]
fn libtorrent_and_a_mount_meet_over_http() {
    a_mount_meets_libtorrent(own_ip(), |tracker| &tracker.url);
}

#[test]
fn libtorrent_and_a_mount_meet_over_udp() {
    a_mount_meets_libtorrent(own_ip(), |tracker| &tracker.udp);
}

#[test]
fn libtorrent_and_a_mount_meet_over_http_and_ipv6() {
    a_mount_meets_libtorrent("::1".parse().unwrap(), |tracker| &tracker.url);
}

#[test]
fn libtorrent_and_a_mount_meet_over_udp_and_ipv6() {
    a_mount_meets_libtorrent("::1".parse().unwrap(), |tracker| &tracker.udp);
}

fn a_mount_meets_libtorrent(ip: IpAddr, url: impl Fn(&OwnTracker) -> &String) {
    if !can_mount() {
        return;
    }
    if std::net::UdpSocket::bind((ip, 0)).is_err() {
        return eprintln!("SKIPPED: there is no {ip}");
    }
    let world = World::new();
    let mut tracker = world.own_tracker(ip);
    let url = url(&tracker).clone();
    let data = world.path("original/file.bin");
    write_file(&data, 21, 3_000_001);
    let torrent = torrent(&data, PIECE, std::slice::from_ref(&url));
    let peer_ip = if ip.is_ipv6() { ip } else { own_ip() };
    let seed = world.libtorrent_seed(&torrent).ip(peer_ip).trackers().start();
    tracker.wait_peers(1, 0, BOUND);

    let peer_ip = if ip.is_ipv6() { ip } else { own_addr().ip() };
    let mount = world.mount(&torrent).args(&["--bind", &peer_ip.to_string()]).start();
    assert_same(&mount.path(&torrent.name), &torrent.data);
    assert_eq!(mount.downloaded(), torrent.length);
    tracker.wait_peers(2, 0, BOUND);
    let status = mount.wait_status("the tracker's figures", BOUND, |status| {
        let seen = &torrents(status)[0]["trackers"][0];
        seen["working"] == true && seen["seeds"] == 2 && seen["completed"].is_u64()
    });
    assert_eq!(torrents(&status)[0]["trackers"][0]["url"], *url);
    mount.umount();
    tracker.wait_peers(1, 0, Duration::from_secs(10));
    let stats = tracker.stats();
    assert_eq!((&stats["completed"], &stats["announced_downloaded_bytes"]), (&1.into(), &torrent.length.into()));
    assert_eq!(stats["peers_ipv6"], u64::from(ip.is_ipv6()), "{stats}");
    drop(seed);
}

#[test]
fn transmission_aria2_and_btfs_seed_meet_over_http() {
    leechers_meet_our_seed(|tracker| &tracker.url);
}

#[test]
fn transmission_aria2_and_btfs_seed_meet_over_udp() {
    leechers_meet_our_seed(|tracker| &tracker.udp);
}

fn leechers_meet_our_seed(url: impl Fn(&OwnTracker) -> &String) {
    let world = World::new();
    let mut tracker = world.own_tracker(own_ip());
    let data = world.path("original/file.bin");
    write_file(&data, 22, 3_000_001);
    let url = url(&tracker).clone();
    let torrent = torrent(&data, PIECE, std::slice::from_ref(&url));
    let (for_transmission, for_aria2) = (world.directory("transmission"), world.directory("aria2"));
    let mut transmission = world.transmission(&torrent, &for_transmission);
    // It speaks UDP with trackers where it speaks UDP at all; its DHT knows nobody to begin with.
    let (port, routes) = (own_addr().port().to_string(), world.path("aria2-dht.dat"));
    let dht =
        ["--enable-dht=true", &format!("--dht-listen-port={port}"), &format!("--dht-file-path={}", routes.display())];
    let over_udp = url.starts_with("udp:");
    let mut aria2 = world.aria2_with(&torrent, &for_aria2, false, if over_udp { &dht } else { &[] });
    tracker.wait_peers(0, 2, BOUND);
    // Transmission takes no loopback address of a tracker: it is our side that learns of them and dials.
    let _seed = world.seed(&torrent);
    assert_eq!(aria2.process.wait(BOUND), Some(0), "{}", aria2.process.log());
    assert_same(&for_aria2.join(&torrent.name), &torrent.data);
    transmission.wait_complete(BOUND);
    assert_same(&for_transmission.join(&torrent.name), &torrent.data);
    // aria2 has told that it is complete before it left; Transmission takes its time for that.
    wait_until("a completion is counted", BOUND, || tracker.stats()["completed"].as_u64() >= Some(1));
}

#[test]
fn libtorrent_finds_transmission_over_udp() {
    let world = World::new();
    let mut tracker = world.own_tracker(own_ip());
    let data = world.path("original/file.bin");
    write_file(&data, 23, 2_000_001);
    let torrent = torrent(&data, PIECE, std::slice::from_ref(&tracker.udp));
    let _seed = world.transmission(&torrent, torrent.parent());
    tracker.wait_peers(1, 0, BOUND);
    let into = world.directory("got");
    let mut leech = world.libtorrent_leech(&torrent, &into).trackers().start();
    leech.wait_complete(BOUND);
    assert_same(&into.join(&torrent.name), &torrent.data);
}
