//! Torrents that come into a running mount and go: by `btfs add` and `btfs remove`, and by a watched directory.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::mount::{Mount, torrents};
use crate::harness::payload::{Torrent, assert_range, assert_same, torrent, write_file};
use crate::harness::{World, can_mount, texts, wait_until};

const PIECE: u64 = 64 << 10;
const BOUND: Duration = Duration::from_secs(120);

/// A torrent of one file of this name.
fn one(world: &World, name: &str, length: u64) -> Torrent {
    let path = world.path("original").join(name);
    write_file(&path, length, length);
    torrent(&path, PIECE, &[])
}

/// Runs a command on the mount; it must be fine. What it said.
#[track_caller]
fn tell(mount: &Mount, command: &str, arguments: &[&str]) -> String {
    let output = mount.tell(command, arguments);
    assert!(output.status.success(), "{command} {arguments:?}: {}", texts(&output));
    texts(&output)
}

/// As [`tell`], of a command that must fail.
#[track_caller]
fn refused(mount: &Mount, command: &str, arguments: &[&str]) -> String {
    let output = mount.tell(command, arguments);
    assert_eq!(output.status.code(), Some(1), "{command} {arguments:?}: {}", texts(&output));
    texts(&output)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn paths(status: &Value) -> Vec<&str> {
    torrents(status).iter().map(|torrent| torrent["path"].as_str().unwrap()).collect()
}

#[test]
fn torrents_come_and_go_while_another_one_is_read() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let (first, second) = (one(&world, "first.bin", 3_000_001), one(&world, "second.bin", 2_000_001));
    let (one_seed, other_seed) = (world.seed(&first), world.seed(&second));
    let mount = world.mount(&first).peer(one_seed.addr).start();
    let reader = File::open(mount.path("first.bin")).unwrap();
    let original = File::open(&first.data).unwrap();
    assert_range(&reader, &original, 0, 4096);
    let inode = fs::metadata(mount.path("first.bin")).unwrap().ino();

    let peer = other_seed.addr.to_string();
    let said = tell(&mount, "add", &[text(&second.file), "--peer", &peer]);
    assert!(said.starts_with("mounted ") && said.trim_end().ends_with("/mnt/second.bin"), "{said}");
    assert_eq!(names(&mount.point), ["first.bin", "second.bin"]);
    assert_same(&mount.path("second.bin"), &second.data);
    assert_eq!(paths(&mount.status()), ["first.bin", "second.bin"]);
    assert!(refused(&mount, "add", &[text(&second.file)]).contains("in this mount already"));

    // By the kernel's memory it would be there for a second more.
    fs::metadata(mount.path("second.bin")).unwrap();
    let said = tell(&mount, "remove", &["second.bin"]);
    assert!(said.starts_with("removed second.bin"), "{said}");
    assert_eq!(fs::metadata(mount.path("second.bin")).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!((names(&mount.point), paths(&mount.status())), (vec!["first.bin".into()], vec!["first.bin"]));
    assert!(refused(&mount, "remove", &["second.bin"]).contains("no torrent of that name"));

    // What was fetched is there still, and nobody is asked for it.
    drop(other_seed);
    tell(&mount, "add", &[text(&second.file)]);
    assert_same(&mount.path("second.bin"), &second.data);
    assert_eq!(mount.downloaded(), torrents(&mount.status())[0]["downloaded_bytes"].as_u64().unwrap());

    assert_range(&reader, &original, 2_500_000, 100_000);
    assert_same(&mount.path("first.bin"), &first.data);
    assert_eq!(fs::metadata(mount.path("first.bin")).unwrap().ino(), inode);
    drop(reader);
    mount.umount();
}

#[test]
fn readers_of_a_torrent_that_is_removed_get_what_is_here_or_an_error() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let stays = one(&world, "stays.bin", 300_001);
    let goes = one(&world, "goes.bin", 8 << 20);
    let seed = world.seed(&goes);
    let mount = world.mount(&stays).and(&goes.file).peer(seed.addr).start();
    let file = File::open(mount.path("goes.bin")).unwrap();
    let original = File::open(&goes.data).unwrap();
    assert_range(&file, &original, 0, 4096);
    drop(seed);

    let waiting: Vec<_> = [mount.path("goes.bin"), mount.path("stays.bin")]
        .into_iter()
        .map(|path| {
            std::thread::spawn(move || {
                let mut byte = [0];
                let at = fs::metadata(&path).unwrap().len() - 1;
                File::open(&path).unwrap().read_exact_at(&mut byte, at).map_err(|error| error.raw_os_error())
            })
        })
        .collect();
    mount.wait_blocked(2);
    let begun = Instant::now();
    tell(&mount, "remove", &[&goes.info_hash[..10]]);
    let mut waiting = waiting.into_iter();
    assert_eq!(waiting.next().unwrap().join().unwrap(), Err(Some(libc::EIO)));
    assert!(begun.elapsed() < Duration::from_secs(20), "not only by the read timeout: {:?}", begun.elapsed());
    mount.wait_status("the other one waits", BOUND, |status| status["waiting_reads"] == 1);

    // An open file outlives its name: what is here is read, what is not fails at once.
    assert_range(&file, &original, 0, 65536);
    assert_eq!(file.metadata().unwrap().len(), 8 << 20);
    let begun = Instant::now();
    let mut bytes = [0; 4096];
    assert_eq!(file.read_exact_at(&mut bytes, 6 << 20).unwrap_err().raw_os_error(), Some(libc::EIO));
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert_eq!(names(&mount.point), ["stays.bin"]);
    drop(file);
    mount.umount();
    assert_eq!(waiting.next().unwrap().join().unwrap(), Err(Some(libc::EIO)));
}

#[test]
fn a_complete_file_that_is_open_outlives_its_torrent() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let stays = one(&world, "stays.bin", 300_001);
    let goes = one(&world, "goes.bin", 2 << 20);
    let seed = world.seed(&goes);
    let mount = world.mount(&stays).and(&goes.file).peer(seed.addr).start();
    let path = mount.path("goes.bin");
    assert_same(&path, &goes.data);
    // Of root's mount the kernel reads this one past us (passthrough), as it is complete before it is opened.
    let held = File::open(&path).unwrap();
    assert_range(&held, &File::open(&goes.data).unwrap(), 0, 4096);
    tell(&mount, "remove", &["goes.bin"]);
    assert_eq!(names(&mount.point), ["stays.bin"]);
    drop(seed);
    assert_range(&held, &File::open(&goes.data).unwrap(), 0, 2 << 20);

    // It comes back into a slot of its own, with nobody to fetch it from.
    tell(&mount, "add", &[text(&goes.file)]);
    let status = mount.status();
    let again = torrents(&status).iter().find(|torrent| torrent["path"] == "goes.bin").unwrap();
    assert_eq!(again["have_bytes"], 0, "{again}");
    assert_range(&held, &File::open(&goes.data).unwrap(), 1 << 20, 1 << 20);
    drop(held);
    tell(&mount, "remove", &["goes.bin"]);
    // The first slot is nobody's now, so that it is taken up again, whole.
    wait_until("what was complete is found again", BOUND, || {
        tell(&mount, "add", &[text(&goes.file)]);
        let status = mount.status();
        let found = torrents(&status).iter().any(|torrent| torrent["path"] == "goes.bin" && torrent["left_bytes"] == 0);
        if !found {
            tell(&mount, "remove", &["goes.bin"]);
        }
        found
    });
    assert_same(&path, &goes.data);
    mount.umount();
}

#[test]
fn what_is_dropped_into_a_watched_directory_appears_and_goes_with_its_file() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let all: Vec<_> = ["a.bin", "b.bin", "c.bin"].map(|name| one(&world, name, 200_000 + name.len() as u64)).into();
    let [a, b, c] = &all[..] else { panic!("three") };
    let seeds: Vec<_> = all.iter().map(|torrent| world.seed(torrent)).collect();
    let watched = world.directory("watched");
    fs::create_dir(watched.join("series")).unwrap();
    fs::copy(&a.file, watched.join("a.torrent")).unwrap();
    let mut builder = world.mount(a).of_none().args(&["--watch", text(&watched)]);
    for seed in &seeds {
        builder = builder.peer(seed.addr);
    }
    let mount = builder.start();
    assert!(mount.said.contains("1 torrent now"), "{}", mount.said);
    assert_eq!(names(&mount.point), ["a.bin", "series"], "what lies there is there from the start");
    assert_same(&mount.path("a.bin"), &a.data);

    // Half of it, then the rest.
    let bytes = fs::read(&b.file).unwrap();
    let (half, rest) = bytes.split_at(bytes.len() / 2);
    let path = watched.join("series/b.torrent");
    fs::write(&path, half).unwrap();
    fs::write(watched.join("bad.torrent"), "d4:spam").unwrap();
    mount.wait_status("the bad one is named", BOUND, |status| warnings(status, "bad.torrent") == 1);
    assert_eq!(names(&mount.path("series")), [""; 0]);
    use std::io::Write;
    File::options().append(true).open(&path).unwrap().write_all(rest).unwrap();
    wait_until("the second one appears", BOUND, || mount.path("series/b.bin").exists());
    assert_same(&mount.path("series/b.bin"), &b.data);
    let mut open = File::open(mount.path("series/b.bin")).unwrap();
    fs::create_dir_all(watched.join("more/deep")).unwrap();
    fs::rename(&path, watched.join("more/deep/b.torrent")).unwrap();
    wait_until("it moves with its file", BOUND, || mount.path("more/deep/b.bin").exists());
    assert!(!mount.path("series/b.bin").exists());
    // Longer than what the kernel was told of it holds.
    std::thread::sleep(Duration::from_millis(1200));
    assert_eq!(open.metadata().unwrap().len(), fs::metadata(&b.data).unwrap().len());
    let mut moved = Vec::new();
    open.read_to_end(&mut moved).unwrap();
    assert!(moved == fs::read(&b.data).unwrap(), "an open file is no matter");
    drop(open);

    tell(&mount, "add", &[text(&c.file)]);
    assert_eq!(paths(&mount.status()), ["a.bin", "more/deep/b.bin", "c.bin"]);
    fs::remove_dir_all(watched.join("more")).unwrap();
    fs::remove_file(watched.join("a.torrent")).unwrap();
    wait_until("they go with their files", BOUND, || names(&mount.point) == ["c.bin", "series"]);
    assert_eq!(warnings(&mount.status(), "bad.torrent"), 1, "named once");
    mount.umount();
}

fn warnings(status: &Value, word: &str) -> usize {
    let all = status["warnings"].as_array().unwrap().iter();
    all.filter(|warning| warning["text"].as_str().unwrap().contains(word)).count()
}

#[test]
fn a_torrent_is_taken_out_by_its_place_or_its_info_hash_alone() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let first = one(&world, "same.bin", 100_001);
    let path = world.path("other/same.bin");
    write_file(&path, 7, 100_002);
    let second = torrent(&path, PIECE, &[]);
    let mount = world.mount(&first).start();
    let long = format!("same.{}.bin", &second.info_hash[..8]);
    let output = mount.tell("add", [&second.file, &world.path("nothing.torrent")]);
    assert_eq!(
        (output.status.code(), names(&mount.point).len()),
        (Some(1), 1),
        "all are judged first: {}",
        texts(&output)
    );
    tell(&mount, "add", &[text(&second.file)]);
    assert_eq!(names(&mount.point), [long.as_str(), "same.bin"]);
    for word in ["nothing", "same", &first.info_hash[..5], ""] {
        assert!(refused(&mount, "remove", &[word]).contains("no torrent of that name or info-hash"), "{word}");
    }
    let said = refused(&mount, "remove", &["nothing", "same.bin"]);
    assert!(said.contains("removed same.bin") && said.contains("nothing: no torrent"), "{said}");
    assert_eq!(names(&mount.point), [long.as_str()], "names stay as they are");
    tell(&mount, "remove", &[&second.info_hash]);
    assert_eq!(names(&mount.point), [""; 0]);
    tell(&mount, "add", &[text(&first.file)]);
    assert_eq!(names(&mount.point), ["same.bin"]);
    mount.umount();
}
