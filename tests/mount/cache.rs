//! A bounded cache: what plays through it, who shares it, what stays, what peers hear, and `btfs cache`.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::harness::mount::Mount;
use crate::harness::payload::{Torrent, assert_range, assert_same, compare, torrent, write_file};
use crate::harness::{World, as_root, can_mount, run, run_any, texts, wait_until};

const MIB: u64 = 1 << 20;
const PIECE: u64 = 64 << 10;
const BOUND: Duration = Duration::from_secs(60);

/// Bytes that the files below all slots of a cache take on the disk.
fn taken(cache: &Path) -> u64 {
    let mut bytes = 0;
    for slot in std::fs::read_dir(cache).into_iter().flatten().flatten() {
        for file in std::fs::read_dir(slot.path().join("data")).into_iter().flatten().flatten() {
            bytes += file.metadata().map_or(0, |meta| meta.blocks() * 512);
        }
    }
    bytes
}

/// Looks at what a cache takes, all the time, while something is done; the most that was seen.
fn most_taken(cache: &Path, mut during: impl FnMut()) -> u64 {
    let (most, over) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                most.fetch_max(taken(cache), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        // Also when it panics, or the scope would wait for ever.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(&mut during));
        over.store(true, Ordering::Relaxed);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
    most.into_inner()
}

fn film(world: &World, length: u64) -> Torrent {
    let path = world.path("original/film.bin");
    write_file(&path, 11, length);
    torrent(&path, PIECE, &[])
}

/// `user.btfs.cached` of a path.
fn cached(path: &Path) -> u64 {
    let output = run(Command::new("getfattr").args(["--only-values", "-n", "user.btfs.cached"]).arg(path));
    String::from_utf8(output.stdout).unwrap().parse().unwrap()
}

fn list(world: &World) -> Value {
    let output = run(world.btfs().args(["cache", "list", "--json"]));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// All bounds here are far below what the disk has free, which may be little.
fn bounded(size: &str) -> Vec<&str> {
    vec!["--cache-size", size, "--cache-min-free", "0"]
}

#[test]
fn a_film_three_times_the_cache_plays_from_end_to_end() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let torrent = film(&world, 72 * MIB + 12_345);
    let seed = world.libtorrent_seed(&torrent).start();
    let mount = world.mount(&torrent).peer(seed.addr).args(&bounded("24M")).start();
    let path = mount.path(&torrent.name);
    let most = most_taken(&mount.cache, || assert_same(&path, &torrent.data));
    assert!(most <= 30 * MIB, "24 MiB and a window of 6, but {most} bytes were taken");
    assert!(most >= 16 * MIB, "it is used: {most}");
    // Jumping about in it, also to what went: right bytes every time.
    let (got, wanted) = (File::open(&path).unwrap(), File::open(&torrent.data).unwrap());
    let most = most_taken(&mount.cache, || {
        for at in [0_u64, 70, 3, 35, 71, 12, 50, 0, 36] {
            assert_range(&got, &wanted, at * MIB + 4321, 300_000);
        }
    });
    assert!(most <= 30 * MIB, "{most}");
    let fetched = mount.downloaded();
    assert!(fetched < torrent.length + 30 * MIB, "nothing is fetched and thrown away: {fetched}");
    assert_eq!(cached(&path), sum_present(&mount), "what the attribute says is what the status says");
    let shown = mount.status()["cache"].clone();
    assert_eq!(shown["size_limit"], 24 * MIB, "{shown}");
    let used = shown["used_bytes"].as_u64().unwrap();
    assert!(used.abs_diff(taken(&mount.cache)) <= MIB, "{used} bytes are said to be taken");
    let text = run(world.btfs().arg("status").arg(&mount.point));
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains(" of 24.0 MiB in "), "{text}");
    mount.umount();
}

fn sum_present(mount: &Mount) -> u64 {
    let top =
        run(Command::new("getfattr").args(["--only-values", "-n", "user.btfs.status"]).arg(mount.path("film.bin")));
    let status: Value = serde_json::from_slice(&top.stdout).unwrap();
    status["present_bytes"].as_u64().unwrap()
}

#[test]
fn ten_mounts_share_one_bound() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let torrent = film(&world, 12 * MIB);
    let seed = world.libtorrent_seed(&torrent).start();
    let cache = world.path("cache/btfs");
    let points: Vec<String> = (0..10).map(|number| format!("mnt{number}")).collect();
    let mounts: Vec<_> = points
        .iter()
        .map(|point| world.mount(&torrent).at(point).peer(seed.addr).args(&bounded("32M")).start())
        .collect();
    let most = most_taken(&cache, || {
        std::thread::scope(|scope| {
            for mount in &mounts {
                scope.spawn(|| assert_same(&mount.path(&torrent.name), &torrent.data));
            }
        });
    });
    // One after the other as well: each pushes out what the others used longest ago.
    let then = most_taken(&cache, || {
        for mount in &mounts {
            let (got, wanted) = (File::open(mount.path(&torrent.name)).unwrap(), File::open(&torrent.data).unwrap());
            (0..12).for_each(|at| assert_range(&got, &wanted, at * MIB, 1 << 20));
        }
    });
    eprintln!("10 mounts of 12 MiB in 32 MiB: at most {most} and {then} bytes");
    assert!(most.max(then) <= 40 * MIB, "32 MiB and a window of 8, but {most} and {then} bytes were taken");
    wait_until("the bound itself holds when all is quiet", BOUND, || taken(&cache) <= 32 * MIB);
    let slots = list(&world)["slots"].as_array().unwrap().len();
    assert_eq!(slots, 10, "each has a slot of its own");
    mounts.into_iter().for_each(Mount::umount);
}

#[test]
fn reading_everything_once_does_not_flush_what_is_being_watched() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let top = world.path("original/mixed");
    write_file(&top.join("film.bin"), 1, 12 * MIB);
    for number in 0..16 {
        write_file(&top.join(format!("other/{number:02}.bin")), 100 + number, 4 * MIB);
    }
    let torrent = torrent(&top, PIECE, &[]);
    let seed = world.libtorrent_seed(&torrent).start();
    let mount = world.mount(&torrent).peer(seed.addr).args(&bounded("24M")).start();
    let film = mount.path("mixed/film.bin");
    let (watched, wanted) = (File::open(&film).unwrap(), File::open(top.join("film.bin")).unwrap());
    for at in 0..8 {
        assert_range(&watched, &wanted, at * MIB, 1 << 20);
    }
    let before = cached(&film);
    assert!(before >= 8 * MIB, "{before}");
    // The 64 MiB beside it, with 24 MiB of cache.
    let sums = run(Command::new("sh").arg("-c").arg("sha256sum *").current_dir(mount.path("mixed/other")));
    let right = run(Command::new("sh").arg("-c").arg("sha256sum *").current_dir(top.join("other")));
    assert_eq!(texts(&sums), texts(&right));
    assert!(cached(&film) >= before, "{} of {before} are left", cached(&film));
    let fetched = mount.downloaded();
    for at in 0..8 {
        assert_range(&watched, &wanted, at * MIB, 1 << 20);
    }
    assert_eq!(mount.downloaded(), fetched, "nothing had to be fetched again");
    drop(watched);
    mount.umount();
}

#[test]
fn kill_9_amid_evictions_leaves_right_bytes() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let torrent = film(&world, 40 * MIB);
    let seed = world.libtorrent_seed(&torrent).start();
    for round in 0..crate::harness::times(6) {
        let mut mount = world.mount(&torrent).peer(seed.addr).args(&bounded("8M")).start();
        let path = mount.path(&torrent.name);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // It ends with an error, of course.
                let _ = compare(&path, &torrent.data);
            });
            wait_until("pieces have gone", BOUND, || mount.downloaded() > (10 + 2 * (round as u64 % 14)) * MIB);
            mount.kill9();
        });
        drop(mount);
        let again = world.mount(&torrent).peer(seed.addr).args(&bounded("8M")).start();
        let most = most_taken(&again.cache, || assert_same(&again.path(&torrent.name), &torrent.data));
        assert!(most <= 11 * MIB, "round {round}: {most}");
        again.umount();
    }
}

#[test]
fn a_libtorrent_peer_hears_what_we_do_not_have_any_more() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let torrent = film(&world, 32 * MIB);
    let pieces = torrent.length.div_ceil(PIECE);
    let seed = world.libtorrent_seed(&torrent).start();
    let listening = crate::harness::own_addr();
    let (ip, port) = (listening.ip().to_string(), listening.port().to_string());
    let mount =
        world.mount(&torrent).peer(seed.addr).args(&["--bind", &ip, "--port", &port]).args(&bounded("8M")).start();
    let directory = world.directory("leech");
    let mut leech = world
        .libtorrent_leech(&torrent, &directory)
        .setting("download_rate_limit", 2_000_000)
        .connect(listening)
        .start();
    wait_until("the leecher is connected", BOUND, || !leech.state()["peers"].as_array().unwrap().is_empty());
    assert_same(&mount.path(&torrent.name), &torrent.data);
    let present = || cached(&mount.path(&torrent.name)) / PIECE;
    assert!(present() < pieces / 2);
    let mut told = 0;
    wait_until("libtorrent knows exactly what is left", BOUND, || {
        let state = leech.state();
        told = state["peers"][0]["pieces"].as_u64().unwrap_or(0);
        told == present()
    });
    assert!(told < pieces / 2, "{told} of {pieces}");
    // It takes what it can get, and nothing that it gets is wrong.
    assert_eq!(leech.state()["failed"], 0);
    drop(leech);
    mount.umount();
}

#[test]
fn a_cache_on_a_read_only_disk_is_listed() {
    if !can_mount() || !as_root("for a mount namespace") {
        return;
    }
    let world = World::new();
    let torrent = film(&world, MIB);
    world.mount(&torrent).start().umount();
    let cache = world.path("cache/btfs");
    let script = "mount --bind \"$1\" \"$1\" && mount -o remount,ro,bind \"$1\" && exec \"$2\" cache list --json";
    let mut command = Command::new("unshare");
    world.surround(&mut command);
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(&cache).arg(crate::harness::btfs());
    let output = run(&mut command);
    let listed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(listed["slots"][0]["info_hash"], *torrent.info_hash);
}

#[test]
fn the_cache_is_listed_pruned_and_pinned() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let torrent = film(&world, 3 * MIB);
    let seed = world.libtorrent_seed(&torrent).start();
    let mount = world.mount(&torrent).peer(seed.addr).start();
    assert_same(&mount.path(&torrent.name), &torrent.data);
    let slots = list(&world);
    let slot = &slots["slots"][0];
    assert_eq!((slot["name"].as_str(), slot["info_hash"].as_str()), (Some("film.bin"), Some(&*torrent.info_hash)));
    assert_eq!((slot["total_bytes"].as_u64(), slot["pinned"].as_bool()), (Some(torrent.length), Some(false)));
    assert!(slot["cached_bytes"].as_u64().unwrap() >= torrent.length);
    assert!(slot["in_use_by"].as_str().unwrap().contains(&mount.pid().to_string()), "{slot}");

    let cache = |arguments: &[&str]| run_any(world.btfs().arg("cache").args(arguments));
    let all = cache(&["prune"]);
    assert!(all.status.success() && texts(&all).contains("0 removed"), "{}", texts(&all));
    let named = cache(&["prune", &torrent.info_hash]);
    assert!(named.status.code() == Some(1) && texts(&named).contains("in use by"), "{}", texts(&named));
    assert_same(&mount.path(&torrent.name), &torrent.data);
    mount.umount();

    run(world.btfs().args(["cache", "pin"]).arg(&torrent.file));
    assert_eq!(list(&world)["slots"][0]["pinned"], true);
    assert!(texts(&cache(&["list"])).contains("pinned"));
    let named = cache(&["prune", torrent.file.to_str().unwrap()]);
    assert!(named.status.code() == Some(1) && texts(&named).contains("pinned"), "{}", texts(&named));
    assert!(texts(&cache(&["prune"])).contains("0 removed"));
    run(world.btfs().args(["cache", "unpin", &torrent.info_hash]));
    for keeps in [&["prune", "--older-than", "1h"][..], &["prune", "--to", "1G"], &["prune", "--dry-run"]] {
        assert!(cache(keeps).status.success());
        assert_eq!(list(&world)["slots"].as_array().unwrap().len(), 1, "{keeps:?}");
    }
    let pruned = cache(&["prune", "--to", "0"]);
    assert!(texts(&pruned).contains("1 removed"), "{}", texts(&pruned));
    assert_eq!((list(&world)["slots"].as_array().unwrap().len(), taken(&world.path("cache/btfs"))), (0, 0));
    let missing = cache(&["prune", &torrent.info_hash]);
    assert!(missing.status.code() == Some(1) && texts(&missing).contains("nothing of it"), "{}", texts(&missing));
}

#[test]
fn a_pinned_torrent_is_not_evicted_by_another() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let kept = film(&world, 4 * MIB);
    let path = world.path("original/large.bin");
    write_file(&path, 5, 24 * MIB);
    let large = torrent(&path, PIECE, &[]);
    let (first, second) = (world.libtorrent_seed(&kept).start(), world.libtorrent_seed(&large).start());
    run(world.btfs().args(["cache", "pin", &kept.info_hash]));
    let mount = world.mount(&kept).peer(first.addr).args(&bounded("8M")).start();
    assert_same(&mount.path(&kept.name), &kept.data);
    mount.umount();
    drop(first);
    let mount = world.mount(&large).peer(second.addr).args(&bounded("8M")).start();
    let most = most_taken(&mount.cache, || assert_same(&mount.path(&large.name), &large.data));
    assert!(most <= 11 * MIB, "{most}");
    mount.umount();
    let mount = world.mount(&kept).start();
    assert_same(&mount.path(&kept.name), &kept.data);
    mount.umount();
}
