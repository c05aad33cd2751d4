//! libtorrent, Transmission and aria2 as seeds for our mount and as leechers from it, and our own programs with each
//! other. Every comparison is of the whole content.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use crate::harness::mount::{sum, torrents};
use crate::harness::payload::{Torrent, assert_same, torrent, write_file};
use crate::harness::{World, can_mount, own_addr, run, texts, wait_until};

const BOUND: Duration = Duration::from_secs(90);
const PIECE: u64 = 64 << 10;

/// A directory of files whose borders lie inside pieces, one of them empty, one of a single byte.
pub fn several_files(world: &World) -> Torrent {
    let root = world.path("original/several files");
    for (seed, (name, length)) in
        [("a.bin", 3_000_001), ("b/c.bin", 70_000), ("b/empty", 0), ("b/one", 1), ("z.bin", 9_500_000)]
            .iter()
            .enumerate()
    {
        write_file(&root.join(name), 40 + seed as u64, *length);
    }
    torrent(&root, PIECE, &[])
}

fn one_file(world: &World, name: &str, length: u64) -> Torrent {
    let path = world.path("original").join(name);
    write_file(&path, length, length);
    torrent(&path, PIECE, &[])
}

/// Compares everything below a directory with the torrent's content.
#[track_caller]
pub fn assert_whole(got: &Path, wanted: &Path) {
    if !wanted.is_dir() {
        return assert_same(got, wanted);
    }
    let mut names: Vec<_> = std::fs::read_dir(wanted).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let mut listed: Vec<_> = std::fs::read_dir(got).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    listed.sort();
    assert_eq!(listed, names, "{}", got.display());
    names.iter().for_each(|name| assert_whole(&got.join(name), &wanted.join(name)));
}

/// As [`assert_whole`], of what a leecher wrote: Transmission makes empty files or not, as it comes.
#[track_caller]
pub fn assert_downloaded(got: &Path, wanted: &Path) {
    if !wanted.is_dir() {
        if got.exists() || wanted.metadata().unwrap().len() > 0 {
            assert_same(got, wanted);
        }
        return;
    }
    for entry in std::fs::read_dir(wanted).unwrap() {
        let name = entry.unwrap().file_name();
        assert_downloaded(&got.join(&name), &wanted.join(&name));
    }
}

#[test]
fn a_mount_reads_from_libtorrent() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let torrent = several_files(&world);
    let mut seed = world.libtorrent_seed(&torrent).start();
    let mount = world.mount(&torrent).peer(seed.addr).start();
    // While something is missing: two seeds of everything have nothing to say to each other and part.
    assert_eq!(std::fs::read(mount.path(&torrent.name).join("b/one")).unwrap().len(), 1);
    let client = torrents(&mount.status())[0]["peers"][0]["client"].as_str().unwrap_or_default().to_lowercase();
    assert!(client.contains("libtorrent"), "the peer's name: {client:?}");
    assert_whole(&mount.path(&torrent.name), &torrent.data);
    let status = mount.status();
    assert!(sum(&status, "downloaded_bytes") >= torrent.length);
    assert_eq!(sum(&status, "left_bytes"), 0);
    assert_eq!(seed.state()["failed"], 0);
    mount.umount();
}

#[test]
fn a_mount_reads_from_transmission() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let torrent = several_files(&world);
    let mut seed = world.transmission(&torrent, torrent.parent());
    seed.wait_complete(BOUND);
    let mount = world.mount(&torrent).peer(seed.addr).start();
    assert_whole(&mount.path(&torrent.name), &torrent.data);
    mount.umount();
}

#[test]
fn a_mount_reads_from_aria2() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let torrent = several_files(&world);
    let seed = world.aria2(&torrent, torrent.parent(), true);
    let mount = world.mount(&torrent).peer(seed.addr).start();
    assert_whole(&mount.path(&torrent.name), &torrent.data);
    mount.umount();
}

/// A mount whose cache is complete, listening where it says.
pub fn complete_mount(
    world: &World,
    torrent: &Torrent,
    peers: &[std::net::SocketAddr],
) -> (crate::harness::mount::Mount, std::net::SocketAddr) {
    let source = world.libtorrent_seed(torrent).start();
    let addr = own_addr();
    let mut builder = world.mount(torrent).peer(source.addr);
    for peer in peers {
        builder = builder.peer(peer);
    }
    let (ip, port) = (addr.ip().to_string(), addr.port().to_string());
    let mount = builder.args(&["--bind", &ip, "--port", &port, "--fill", "all"]).start();
    mount.wait_status("the mount has it all", BOUND, |status| sum(status, "left_bytes") == 0);
    (mount, addr) // the source goes away here: what a leecher gets now is ours
}

#[test]
fn libtorrent_leeches_from_a_mount() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let torrent = several_files(&world);
    let (mount, addr) = complete_mount(&world, &torrent, &[]);
    let into = world.directory("got");
    let mut leech = world.libtorrent_leech(&torrent, &into).connect(addr).start();
    leech.wait_complete(BOUND);
    assert_downloaded(&into.join(&torrent.name), &torrent.data);
    assert_eq!(leech.state()["failed"], 0);
    assert!(mount.figure("uploaded_bytes") >= torrent.length);
    mount.umount();
}

#[test]
fn transmission_leeches_from_a_mount() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let torrent = several_files(&world);
    let into = world.directory("got");
    // It dials nobody on loopback: the mount dials it.
    let mut leech = world.transmission(&torrent, &into);
    let (mount, _) = complete_mount(&world, &torrent, &[leech.addr]);
    leech.wait_complete(BOUND);
    assert_downloaded(&into.join(&torrent.name), &torrent.data);
    mount.umount();
}

#[test]
fn aria2_leeches_from_a_mount() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let torrent = several_files(&world);
    let into = world.directory("got");
    let mut leech = world.aria2(&torrent, &into, false);
    let (mount, _) = complete_mount(&world, &torrent, &[leech.addr]);
    assert_eq!(leech.process.wait(BOUND), Some(0), "{}", leech.process.log());
    assert_downloaded(&into.join(&torrent.name), &torrent.data);
    mount.umount();
}

#[test]
fn libtorrent_leeches_what_btfs_seed_shares() {
    let world = World::new();
    let torrent = several_files(&world);
    let seed = world.seed(&torrent);
    let into = world.directory("got");
    let mut leech = world.libtorrent_leech(&torrent, &into).connect(seed.addr).start();
    leech.wait_complete(BOUND);
    assert_downloaded(&into.join(&torrent.name), &torrent.data);
}

#[test]
fn transmission_and_aria2_leech_what_btfs_seed_shares() {
    let world = World::new();
    let torrent = several_files(&world);
    let (for_transmission, for_aria2) = (world.directory("transmission"), world.directory("aria2"));
    let mut transmission = world.transmission(&torrent, &for_transmission);
    let mut aria2 = world.aria2(&torrent, &for_aria2, false);
    let _seed = world.seed_to(&torrent, &[transmission.addr, aria2.addr]);
    assert_eq!(aria2.process.wait(BOUND), Some(0), "{}", aria2.process.log());
    assert_downloaded(&for_aria2.join(&torrent.name), &torrent.data);
    transmission.wait_complete(BOUND);
    assert_downloaded(&for_transmission.join(&torrent.name), &torrent.data);
}

#[test]
fn a_mount_reads_what_btfs_seed_shares() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let torrent = several_files(&world);
    let seed = world.seed(&torrent);
    let mount = world.mount(&torrent).peer(seed.addr).start();
    assert_whole(&mount.path(&torrent.name), &torrent.data);
    mount.umount();
}

#[test]
fn two_mounts_complete_each_other() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let torrent = one_file(&world, "halves.bin", 16 << 20);
    let seed = world.seed(&torrent);
    let addr = own_addr();
    let (ip, port) = (addr.ip().to_string(), addr.port().to_string());
    let first = world.mount(&torrent).cache("one").at("first").peer(seed.addr);
    let first = first.args(&["--bind", &ip, "--port", &port]).start();
    assert_same(&first.path(&torrent.name), &torrent.data);
    drop(seed);
    let second = world.mount(&torrent).cache("two").at("second").peer(addr).start();
    assert_same(&second.path(&torrent.name), &torrent.data);
    // Uploads are told every half second.
    wait_until("the uploads are told", Duration::from_secs(5), || first.figure("uploaded_bytes") >= torrent.length);
    first.umount();
    second.umount();
}

#[test]
fn a_hybrid_torrent_of_libtorrent_mounts_as_v1() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let mut torrent = several_files(&world);
    torrent.file = world.path("hybrid.torrent");
    let script = "
import libtorrent as lt, sys, warnings
warnings.simplefilter('ignore')
data, parent, out = sys.argv[1:]
files = lt.file_storage()
lt.add_files(files, data)
made = lt.create_torrent(files, 65536)
lt.set_piece_hashes(made, parent)
raw = lt.bencode(made.generate())
open(out, 'wb').write(raw)
info = lt.torrent_info(out)
assert info.info_hashes().has_v1() and info.info_hashes().has_v2()
print(info.info_hashes().v1)
";
    let mut python = std::process::Command::new(crate::harness::python());
    python.arg("-c").arg(script).args([&torrent.data, torrent.parent(), &torrent.file]);
    torrent.info_hash = texts(&run(&mut python)).trim().to_owned();
    let seed = world.libtorrent_seed(&torrent).start();
    let mount = world.mount(&torrent).peer(seed.addr).start();
    assert_whole(&mount.path(&torrent.name), &torrent.data);
    assert_eq!(torrents(&mount.status())[0]["info_hash"], *torrent.info_hash);
    mount.umount();
}

#[test]
fn a_torrent_made_by_btfs_create_is_the_same_to_libtorrent() {
    let world = World::new();
    let by_hand = several_files(&world);
    let made = world.path("made.torrent");
    run(world.btfs().arg("create").arg(&by_hand.data).arg("-o").arg(&made).args(["-a", "http://127.0.0.1:1/announce"]));
    let again = world.path("again.torrent");
    run(world
        .btfs()
        .arg("create")
        .arg(&by_hand.data)
        .arg("-o")
        .arg(&again)
        .args(["-a", "http://127.0.0.1:1/announce"]));
    assert_eq!(std::fs::read(&made).unwrap(), std::fs::read(&again).unwrap(), "same input, same bytes out");

    // libtorrent finds every piece of the original good.
    let torrent = Torrent { file: made, ..by_hand };
    let mut leech = world.libtorrent_leech(&torrent, torrent.parent()).start();
    leech.wait_complete(BOUND);
}

#[test]
fn peers_meet_over_ipv6() {
    if !can_mount() {
        return;
    }
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        eprintln!("SKIPPED: there is no IPv6 loopback");
        return;
    }
    let world = World::new();
    let torrent = one_file(&world, "six.bin", 5_000_000);
    let seed = world.libtorrent_seed(&torrent).ip("::1".parse().unwrap()).start();
    let mount = world.mount(&torrent).peer(seed.addr).args(&["--bind", "::1"]).start();
    // While something is missing: two that have everything part.
    let mut byte = [0];
    std::fs::File::open(mount.path(&torrent.name)).unwrap().read_exact(&mut byte).unwrap();
    let addr = torrents(&mount.status())[0]["peers"][0]["addr"].as_str().unwrap_or_default().to_owned();
    assert_eq!(addr, seed.addr.to_string());
    assert_same(&mount.path(&torrent.name), &torrent.data);
    mount.umount();
}

#[test]
fn one_mount_shows_several_torrents_of_different_seeds() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let several = several_files(&world);
    let single = one_file(&world, "single.bin", 4_000_000);
    let other = one_file(&world, "other.bin", 2_500_000);
    let seeds = [
        world.libtorrent_seed(&several).start(),
        world.libtorrent_seed(&single).start(),
        world.libtorrent_seed(&other).start(),
    ];
    let mut builder = world.mount(&several).and(&single.file).and(&other.file);
    for seed in &seeds {
        builder = builder.peer(seed.addr);
    }
    let mount = builder.start();
    let mut names: Vec<_> = std::fs::read_dir(&mount.point).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["other.bin", "several files", "single.bin"]);
    for torrent in [&several, &single, &other] {
        assert_whole(&mount.path(&torrent.name), &torrent.data);
    }
    assert_eq!(torrents(&mount.status()).len(), 3);
    mount.umount();
}
