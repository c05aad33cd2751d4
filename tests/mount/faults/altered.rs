//! Somebody alters the cache behind our back, or it is damaged.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use super::{BOUND, Dice, PIECE, forget_pages, one_file};
use crate::harness::mount::{Mount, sum};
use crate::harness::payload::{assert_range, assert_same, compare, torrent, write_file};
use crate::harness::{World, can_mount, run_any, times, wait_for};

/// One of the ways to alter a file; says which.
fn alter(file: &Path, dice: &mut Dice) -> String {
    let open = OpenOptions::new().read(true).write(true).open(file).unwrap();
    let length = open.metadata().unwrap().len();
    let at = dice.below(length - PIECE);
    match dice.below(5) {
        0 => {
            let mut byte = [0];
            open.read_exact_at(&mut byte, at).unwrap();
            open.write_all_at(&[byte[0] ^ (1 << dice.below(8))], at).unwrap();
            format!("one bit flipped at {at}")
        }
        1 => {
            open.write_all_at(&[0; 16 << 10], at).unwrap();
            format!("16 KiB zeroed at {at}")
        }
        2 => {
            let pieces = length / PIECE;
            let first = dice.below(pieces);
            let second = (first + 1 + dice.below(pieces - 1)) % pieces;
            let (mut a, mut b) = (vec![0; PIECE as usize], vec![0; PIECE as usize]);
            open.read_exact_at(&mut a, first * PIECE).unwrap();
            open.read_exact_at(&mut b, second * PIECE).unwrap();
            open.write_all_at(&a, second * PIECE).unwrap();
            open.write_all_at(&b, first * PIECE).unwrap();
            format!("pieces {first} and {second} swapped")
        }
        3 => {
            open.set_len(at).unwrap();
            format!("truncated to {at}")
        }
        _ => {
            open.write_all_at(&[7; 1000], length).unwrap();
            "extended by 1000 bytes".to_owned()
        }
    }
}

/// The one file of the torrent's slot.
fn stored(mount: &Mount, torrent: &crate::harness::payload::Torrent) -> std::path::PathBuf {
    mount.slot(torrent).join("data/0")
}

#[test]
fn what_was_altered_while_unmounted_is_found_and_fetched_again() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let mut dice = Dice::new();
    let torrent = one_file(&world, "file.bin", 4 << 20);
    let seed = world.libtorrent_seed(&torrent).start();
    let mount = world.mount(&torrent).peer(seed.addr).start();
    assert_same(&mount.path(&torrent.name), &torrent.data);
    let file = stored(&mount, &torrent);
    mount.umount();
    for round in 0..times(50) {
        let how = alter(&file, &mut dice);
        let mount = world.mount(&torrent).peer(seed.addr).start();
        if let Err(difference) = compare(&mount.path(&torrent.name), &torrent.data) {
            panic!("round {round}, {how}: {difference}\n{}", world.logs());
        }
        let fetched = mount.downloaded();
        if !how.starts_with("truncated") {
            assert!(fetched <= 3 * PIECE, "round {round}, {how}: {fetched} bytes fetched again");
        }
        mount.umount();
    }
}

#[test]
fn what_was_altered_and_is_nowhere_else_is_an_error_for_that_piece_only() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let torrent = one_file(&world, "file.bin", 4 << 20);
    let seed = world.libtorrent_seed(&torrent).start();
    let mount = world.mount(&torrent).peer(seed.addr).start();
    assert_same(&mount.path(&torrent.name), &torrent.data);
    let file = stored(&mount, &torrent);
    mount.umount();
    drop(seed);

    let hit = 20 * PIECE + 5;
    OpenOptions::new().write(true).open(&file).unwrap().write_all_at(b"damage", hit).unwrap();
    let mount = world.mount(&torrent).args(&["--read-timeout", "2s"]).start();
    let got = File::open(mount.path(&torrent.name)).unwrap();
    let wanted = std::fs::read(&torrent.data).unwrap();
    let mut piece = vec![0; PIECE as usize];
    for number in 0..torrent.length / PIECE {
        let offset = number * PIECE;
        let result = got.read_exact_at(&mut piece, offset);
        if number == hit / PIECE {
            assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EIO));
        } else {
            result.unwrap_or_else(|error| panic!("piece {number}: {error}"));
            assert!(piece == wanted[offset as usize..][..PIECE as usize], "piece {number} is right");
        }
    }
    mount.umount();
}

#[test]
fn what_is_altered_while_mounted_is_found_at_the_next_open() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let mut dice = Dice::new();
    // The second file is never read: two that have everything would part, and meet again only after a while.
    let root = world.path("original/two");
    write_file(&root.join("altered.bin"), 1, 4 << 20);
    write_file(&root.join("missing.bin"), 2, 1 << 20);
    let torrent = torrent(&root, PIECE, &[]);
    let original = root.join("altered.bin");
    let seed = world.libtorrent_seed(&torrent).start();
    let mount = world.mount(&torrent).peer(seed.addr).start();
    let path = mount.path(&torrent.name).join("altered.bin");
    assert_same(&path, &original);
    let file = stored(&mount, &torrent);
    for round in 0..times(50) {
        let how = alter(&file, &mut dice);
        forget_pages(&path);
        if let Err(difference) = compare(&path, &original) {
            panic!("round {round}, {how}: {difference}\n{}", world.logs());
        }
    }
    assert!(mount.figure("repaired_pieces") > 0, "repairs are counted: {}", mount.status());
    mount.umount();
    let mount = world.mount(&torrent).start();
    assert_same(&path, &original);
    mount.umount();
}

#[test]
fn a_damaged_state_costs_a_check_and_never_a_failed_start() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let torrent = one_file(&world, "file.bin", 4 << 20);
    let other = one_file(&world, "other.bin", 2 << 20);
    let seeds = [world.libtorrent_seed(&torrent).start(), world.libtorrent_seed(&other).start()];
    for (torrent, seed, point) in [(&torrent, &seeds[0], "mnt"), (&other, &seeds[1], "mnt2")] {
        let mount = world.mount(torrent).peer(seed.addr).at(point).start();
        assert_same(&mount.path(&torrent.name), &torrent.data);
        mount.umount();
    }
    drop(seeds);
    let cache = world.path("cache/btfs");
    let slot = cache.join(&torrent.info_hash);
    let state = std::fs::read(slot.join("state")).expect("a checkpoint after umount");
    let foreign = std::fs::read(cache.join(&other.info_hash).join("state")).unwrap();
    let damages: [(&str, Vec<u8>); 6] = [
        ("empty", Vec::new()),
        ("cut", state[..state.len() / 2].to_vec()),
        ("noise", crate::harness::payload::bytes(5, state.len())),
        ("another torrent's", foreign),
        ("deep", b"l".repeat(100_000)),
        ("one bit", state.iter().enumerate().map(|(at, &byte)| byte ^ u8::from(at == state.len() / 3)).collect()),
    ];
    for (what, bytes) in damages {
        std::fs::write(slot.join("state"), bytes).unwrap();
        for entry in std::fs::read_dir(&slot).unwrap().flatten() {
            if entry.file_name().to_string_lossy().starts_with("journal") {
                std::fs::write(entry.path(), b"\xff\x00garbage").unwrap();
            }
        }
        let mount = world.mount(&torrent).args(&["--read-timeout", "10s"]).start();
        if let Err(difference) = compare(&mount.path(&torrent.name), &torrent.data) {
            panic!("state {what}: {difference}\n{}", world.logs());
        }
        mount.umount();
    }
    std::fs::remove_file(slot.join("state")).unwrap();
    let mount = world.mount(&torrent).start();
    assert_same(&mount.path(&torrent.name), &torrent.data);
    mount.umount();
}

#[test]
fn a_remount_of_a_complete_gigabyte_is_ready_at_once_and_hashes_nothing() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let path = world.path("original/big.bin");
    write_file(&path, 11, 1 << 30);
    let torrent = torrent(&path, 1 << 20, &[]);
    let seed = world.libtorrent_seed(&torrent).start();
    let mount = world.mount(&torrent).peer(seed.addr).args(&["--fill", "all"]).start();
    mount.wait_status("all of it", BOUND * 2, |status| sum(status, "left_bytes") == 0);
    mount.umount();

    let start = std::time::Instant::now();
    let mount = world.mount(&torrent).peer(seed.addr).start();
    let took = start.elapsed();
    assert!(took < Duration::from_secs(15), "ready after {took:?}");
    assert_same(&mount.path(&torrent.name), &torrent.data);
    let status = mount.status();
    assert_eq!(sum(&status, "downloaded_bytes"), 0);
    assert_eq!(sum(&status, "hashed_pieces"), 0);
    mount.umount();
}

#[test]
fn a_seed_that_is_altered_in_place_sends_nothing_of_it_and_says_so() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let torrent = one_file(&world, "file.bin", 4 << 20);
    let original = world.path("copy.bin");
    std::fs::copy(&torrent.data, &original).unwrap();
    let seed = world.seed(&torrent);
    let status = |what: &str, condition: &dyn Fn(&serde_json::Value) -> bool| {
        wait_for(what, BOUND, || {
            let output = run_any(world.btfs().args(["status", "--json"]));
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let processes = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
            processes.into_iter().find(|status| status["command"] == "seed" && condition(status))
        })
    };
    status("all is checked", &|status| sum(status, "have_pieces") == 64);
    let open = OpenOptions::new().write(true).open(&torrent.data).unwrap();
    open.write_all_at(&vec![7; 2 << 20], 2 << 20).unwrap();
    status("the look at its start is a second old", &|status| status["uptime_seconds"].as_u64() > Some(1));

    let mount = world.mount(&torrent).peer(seed.addr).args(&["--read-timeout", "10s"]).start();
    let got = File::open(mount.path(&torrent.name)).unwrap();
    let wanted = File::open(&original).unwrap();
    assert_eq!(super::read_errno(&got, 3 << 20, PIECE as usize), Some(libc::EIO));
    assert_eq!(mount.figure("corrupt_pieces"), 0, "nothing wrong was sent");
    // What was not altered is shared again once it was checked.
    assert_range(&got, &wanted, 0, 2 << 20);
    let said = status("half of it is left", &|status| sum(status, "have_pieces") == 32);
    let warnings = said["warnings"].to_string();
    assert!(warnings.contains("altered by somebody else") && warnings.contains("file.bin"), "{warnings}");
    drop(got);
    mount.umount();
}

#[test]
fn a_cache_directory_that_is_removed_while_mounted_is_made_again() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let torrent = one_file(&world, "file.bin", 4 << 20);
    let seed = world.libtorrent_seed(&torrent).start();
    let mount = world.mount(&torrent).peer(seed.addr).start();
    let path = mount.path(&torrent.name);
    assert_range(&File::open(&path).unwrap(), &File::open(&torrent.data).unwrap(), 0, 2 << 20);
    std::fs::remove_dir_all(&mount.cache).unwrap();
    forget_pages(&path);
    if let Err(difference) = compare(&path, &torrent.data) {
        panic!("{difference}\n{}", world.logs());
    }
    let status = mount.wait_status("it is made again", BOUND, |status| sum(status, "memory_bytes") == 0);
    let warnings: Vec<_> = status["warnings"].as_array().unwrap().iter().collect();
    assert!(warnings.len() == 1 && warnings[0].to_string().contains("was removed, and is made again"), "{warnings:?}");
    forget_pages(&path);
    assert_same(&path, &torrent.data);
    assert_eq!(mount.figure("have_pieces"), torrent.length / PIECE);
    mount.umount();
    drop(seed);
    let mount = world.mount(&torrent).args(&["--read-timeout", "5s"]).start();
    assert_same(&path, &torrent.data);
    mount.umount();
}
