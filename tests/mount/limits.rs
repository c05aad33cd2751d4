//! `btfs set`: limits of a mount that is running.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::mount::{Mount, torrents};
use crate::harness::payload::{assert_same, compare, torrent, write_file};
use crate::harness::{World, can_mount, run, texts};

const BOUND: Duration = Duration::from_secs(60);

#[track_caller]
fn set(mount: &Mount, arguments: &[&str]) -> String {
    let output = mount.tell("set", arguments);
    assert!(output.status.success(), "{arguments:?}: {}", texts(&output));
    texts(&output)
}

#[test]
fn limits_are_changed_while_a_reader_waits_behind_them() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let path = world.path("original/film.bin");
    write_file(&path, 5, 8 << 20);
    let film = torrent(&path, 64 << 10, &[]);
    let seed = world.seed(&film);
    let mount = world.mount(&film).peer(seed.addr).args(&["--max-download", "64K", "--upload-slots", "4"]).start();
    let status = mount.status();
    assert_eq!(status["limits"]["download"], json!(65536));
    assert_eq!((&status["limits"]["upload"], &status["limits"]["upload_slots"]), (&json!(null), &json!(4)));
    let text = texts(&run(world.btfs().arg("status").arg(&mount.point)));
    assert!(text.contains("limits     all torrents: ↓ 64.0 KiB/s  ↑ no limit; 4 upload slots each"), "{text}");

    let (got, wanted) = (mount.path("film.bin"), film.data.clone());
    let reader = std::thread::spawn(move || compare(&got, &wanted));
    mount.wait_status("something flows", BOUND, |status| {
        torrents(status)[0]["downloaded_bytes"].as_u64() > Some(100_000)
    });
    // At this rate it takes two minutes.
    assert!(!reader.is_finished());
    let begun = Instant::now();
    let said = set(&mount, &["--max-download", "none", "--upload-slots", "none"]);
    assert!(said.contains("all torrents: ↓ no limit  ↑ no limit") && !said.contains("slots"), "{said}");
    let said = set(&mount, &["--torrent", "film.bin", "--max-download", "2M", "--max-upload", "1M"]);
    assert!(said.contains("film.bin: ↓ 2.00 MiB/s  ↑ 1.00 MiB/s"), "{said}");
    let left = torrents(&mount.status())[0]["left_bytes"].as_u64().unwrap();
    reader.join().unwrap().unwrap();
    // From below only; less a burst and what had been asked for before the second change.
    if left > 7 << 20 {
        assert!(begun.elapsed() > Duration::from_secs(1), "{:?} for {left} bytes", begun.elapsed());
    }
    let status = mount.status();
    assert_eq!(torrents(&status)[0]["download_limit"], json!(2 << 20));
    assert_same(&mount.path("film.bin"), &film.data);

    // By the number of its process; and what makes no sense.
    let pid = mount.pid().to_string();
    let said = texts(&run(world.btfs().args(["set", &pid, "--each", "--max-upload", "3M"])));
    assert!(said.contains("each that comes: ↓ no limit  ↑ 3.00 MiB/s"), "{said}");
    let refused = |arguments: &[&str]| mount.tell("set", arguments).status.code();
    assert_eq!(refused(&["--torrent", "nothing", "--max-upload", "1M"]), Some(1));
    assert_eq!((refused(&["--torrent", "film.bin"]), refused(&["--max-upload", "1"])), (Some(2), Some(2)));
    mount.umount();
}
