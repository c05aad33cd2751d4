//! Many readers, many mounts, few means; and mount points that are none.

use std::fs::File;
use std::time::{Duration, Instant};

use super::{BOUND, Dice, one_file};
use crate::harness::mount::is_mounted;
use crate::harness::payload::{assert_range, assert_same, compare};
use crate::harness::{World, can_mount, texts};

#[test]
fn sixty_four_readers_of_one_mount_all_get_their_bytes() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let mut dice = Dice::new();
    let torrent = one_file(&world, "file.bin", 32 << 20);
    let seed = world.libtorrent_seed(&torrent).start();
    let mount = world.mount(&torrent).peer(seed.addr).start();
    let path = mount.path(&torrent.name);
    std::thread::scope(|scope| {
        for number in 0..64 {
            let (path, torrent, mut dice) = (&path, &torrent, Dice(dice.below(u64::MAX) | 1));
            scope.spawn(move || {
                if number % 2 == 0 {
                    assert_same(path, &torrent.data);
                } else {
                    let (got, wanted) = (File::open(path).unwrap(), File::open(&torrent.data).unwrap());
                    for _ in 0..60 {
                        let length = 1 + dice.below(200_000);
                        assert_range(&got, &wanted, dice.below(torrent.length - length), length as usize);
                    }
                }
            });
        }
    });
    mount.umount();
}

#[test]
fn twenty_mounts_live_side_by_side_and_end_one_by_one() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let torrents: Vec<_> = (0..20).map(|n| one_file(&world, &format!("file-{n}"), 300_000 + n * 1000)).collect();
    let seeds: Vec<_> = torrents.iter().map(|torrent| world.libtorrent_seed(torrent)).collect();
    let seeds: Vec<_> = std::thread::scope(|scope| {
        let starting: Vec<_> = seeds.into_iter().map(|seed| scope.spawn(|| seed.start())).collect();
        starting.into_iter().map(|seed| seed.join().unwrap()).collect()
    });
    // One cache, one address, twenty ports.
    let ip = crate::harness::own_ip().to_string();
    let mut mounts: Vec<_> = torrents
        .iter()
        .zip(&seeds)
        .enumerate()
        .map(|(n, (torrent, seed))| {
            world.mount(torrent).peer(seed.addr).args(&["--bind", &ip]).at(&format!("mnt-{n}")).start()
        })
        .collect();
    while let Some(mount) = mounts.pop() {
        mount.umount();
        for (mount, torrent) in mounts.iter().zip(&torrents) {
            assert_eq!(std::fs::metadata(mount.path(&torrent.name)).unwrap().len(), torrent.length);
        }
        if let Some((mount, torrent)) = mounts.last().zip(torrents.get(mounts.len().wrapping_sub(1))) {
            assert_same(&mount.path(&torrent.name), &torrent.data);
        }
    }
}

#[test]
fn two_mounts_of_one_torrent_share_a_cache_without_harm() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let torrent = one_file(&world, "file.bin", 8 << 20);
    let seed = world.libtorrent_seed(&torrent).start();
    for _ in 0..5 {
        let first = world.mount(&torrent).peer(seed.addr).at("first").start();
        let second = world.mount(&torrent).peer(seed.addr).at("second").start();
        std::thread::scope(|scope| {
            for mount in [&first, &second] {
                let torrent = &torrent;
                scope.spawn(move || assert_same(&mount.path(&torrent.name), &torrent.data));
            }
        });
        first.umount();
        assert_same(&second.path(&torrent.name), &torrent.data);
        second.umount();
    }
}

#[test]
fn sixty_four_open_files_are_enough() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let root = world.path("original/many");
    for number in 0..100 {
        crate::harness::payload::write_file(&root.join(format!("{number:03}")), number, 70_000);
    }
    let torrent = crate::harness::payload::torrent(&root, 64 << 10, &[]);
    let seed = world.libtorrent_seed(&torrent).start();
    let mount = world.mount(&torrent).peer(seed.addr).open_files(64).start();
    let mut open = Vec::new();
    for number in 0..100 {
        let name = format!("{number:03}");
        let path = mount.path(&torrent.name).join(&name);
        compare(&path, &root.join(&name)).unwrap_or_else(|error| panic!("{name}: {error}\n{}", world.logs()));
        open.push(File::open(path).unwrap());
    }
    drop(open);
    mount.umount();
}

#[test]
fn a_mount_point_that_cannot_be_one_is_refused_at_once() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let torrent = one_file(&world, "file.bin", 100_000);
    std::fs::write(world.path("plain"), "a file").unwrap();
    std::os::unix::fs::symlink("nowhere", world.path("dangling")).unwrap();
    for point in ["plain", "plain/below", "missing/parent", "dangling"] {
        let path = world.path(point);
        let start = Instant::now();
        let output = crate::harness::run_any(
            world.btfs().arg("mount").arg(&torrent.file).arg(&path).arg("--cache-dir").arg(world.path("unused")),
        );
        let said = texts(&output);
        assert_eq!(output.status.code(), Some(1), "{point}: {said}");
        assert!(start.elapsed() < Duration::from_secs(20), "{point}: {:?}", start.elapsed());
        assert!(said.contains(path.to_str().unwrap()), "{point} is named: {said}");
        assert!(!is_mounted(&path));
    }
    assert!(!world.path("unused").join(&torrent.info_hash).exists(), "nothing is left behind");
}

#[test]
fn a_port_that_was_asked_for_and_is_taken_is_refused() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let torrent = one_file(&world, "file.bin", 100_000);
    let taken = std::net::TcpListener::bind((crate::harness::own_ip(), 0)).unwrap();
    let addr = taken.local_addr().unwrap();
    let (ip, port) = (addr.ip().to_string(), addr.port().to_string());
    let output = world.mount(&torrent).args(&["--bind", &ip, "--port", &port]).attempt();
    assert_eq!(output.status.code(), Some(1), "{}", texts(&output));
    assert!(texts(&output).contains(&addr.to_string()), "{}", texts(&output));
    assert!(!is_mounted(&world.path("mnt")));
}

#[test]
fn a_remount_listens_on_the_same_port() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let torrent = one_file(&world, "file.bin", 100_000);
    let ip = crate::harness::own_ip().to_string();
    let mut ports = Vec::new();
    for _ in 0..3 {
        let mount = world.mount(&torrent).args(&["--bind", &ip]).start();
        ports.push(mount.wait_status("a port", BOUND, |status| status["port"].is_u64())["port"].clone());
        mount.umount();
    }
    assert!(ports.windows(2).all(|pair| pair[0] == pair[1]), "{ports:?}");
}

#[test]
fn a_mount_is_refused_into_its_own_cache_and_its_cache_into_the_mount() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let torrent = one_file(&world, "file.bin", 100_000);
    for (point, cache) in [("nest", "nest/cache"), ("nest/cache/mnt", "nest/cache"), ("nest", "nest")] {
        std::fs::create_dir_all(world.path(cache)).unwrap();
        let output = world.mount(&torrent).at(point).cache(cache).attempt();
        assert_eq!(output.status.code(), Some(1), "{point}, {cache}: {}", texts(&output));
        assert!(!is_mounted(&world.path(point)));
    }
}
