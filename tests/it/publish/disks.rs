//! The disk below a tracker is full, read-only, or taken away: uploads are refused in words, nothing that was acknowledged
//! is lost, announces and searches go on, and all is as before when there is room again.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Running, btfs, say, until};
use crate::index::kills::check;
use crate::index::torrents::{Torrent, named};

/// A disk of a test's own.
struct Disk(PathBuf);

impl Disk {
    /// `None`, and a word, where that is not possible.
    fn tmpfs(point: &Path, size: &str) -> Option<Self> {
        fs::create_dir_all(point).unwrap();
        let option = format!("size={size}");
        Self::mount(point, &["-t", "tmpfs", "-o", &option, "none"])
    }

    /// With a real file system on it, in a file beside.
    fn ext4(point: &Path) -> Option<Self> {
        fs::create_dir_all(point).unwrap();
        let image = point.with_extension("image");
        File::create(&image).unwrap().set_len(32 << 20).unwrap();
        let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image).status().is_ok_and(|made| made.success());
        if !made {
            eprintln!("SKIPPED: cannot make an ext4 here");
            return None;
        }
        Self::mount(point, &["-o", "loop,errors=remount-ro", image.to_str().unwrap()])
    }

    fn mount(point: &Path, arguments: &[&str]) -> Option<Self> {
        // SAFETY: no arguments, no failure.
        let root = unsafe { libc::geteuid() } == 0;
        let mounted =
            root && Command::new("mount").args(arguments).arg(point).status().is_ok_and(|done| done.success());
        if !mounted {
            eprintln!("SKIPPED: needs root, to mount a disk");
        }
        mounted.then(|| Self(point.to_owned()))
    }

    fn resize(&self, size: &str) {
        let option = format!("remount,size={size}");
        assert!(Command::new("mount").args(["-o", &option]).arg(&self.0).status().unwrap().success());
    }

    /// What the kernel does when it finds the structures of an ext4 damaged.
    fn turn_read_only(&self) {
        let found = Command::new("findmnt").args(["-n", "-o", "SOURCE"]).arg(&self.0).output().unwrap();
        let source = String::from_utf8(found.stdout).unwrap();
        let device = source.trim().rsplit('/').next().unwrap();
        fs::write(format!("/sys/fs/ext4/{device}/trigger_fs_error"), "1").unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A tracker with its state in a directory of its own, its log in a file, and what it has acknowledged.
struct World {
    room: tempfile::TempDir,
    state: PathBuf,
    token: String,
    server: Running,
    acknowledged: Vec<(String, Vec<u8>)>,
}

impl World {
    fn new(room: tempfile::TempDir, state: &Path) -> Self {
        let directory = state.to_str().unwrap();
        let token = say(room.path(), &["tracker", "token", "add", "alice", "--state-dir", directory]);
        fs::write(room.path().join("tracker.toml"), "snapshot-seconds = 1\n").unwrap();
        let server = Self::start(&room, state);
        let world = Self { room, state: state.to_owned(), token, server, acknowledged: Vec::new() };
        assert!(world.server.takes("", "one"));
        until("a snapshot", || world.state.join("swarms").exists());
        world
    }

    fn start(room: &tempfile::TempDir, state: &Path) -> Running {
        Running::start(room.path(), &["--config", "tracker.toml", "--state-dir", state.to_str().unwrap()])
    }

    /// Lines of the log with all of these.
    fn logged(&self, words: &[&str]) -> usize {
        let log = fs::read_to_string(self.room.path().join("log")).unwrap();
        log.lines().filter(|line| words.iter().all(|word| line.contains(word))).count()
    }

    /// Uploads a torrent of about so many bytes; the answer's status and text.
    fn upload(&mut self, name: &str, bytes: u64) -> (u16, String) {
        let file = Torrent { length: bytes / 20 * (1 << 16), ..named(name) }.bytes();
        let answer = Running::upload(&self.server.addr, &self.token, &file).expect("an answer");
        let status = answer.get(9..12).and_then(|status| status.parse().ok()).expect("a status");
        if status == 201 {
            self.acknowledged.push((name.to_owned(), file));
        }
        (status, answer)
    }

    /// Everything that was acknowledged can be had and found, and peers announce.
    fn assert_serves(&self, port: u16) {
        for (name, bytes) in &self.acknowledged {
            let hash = btfs::proto::metainfo::Metainfo::parse(bytes).unwrap().info_hash.unwrap();
            let answer = self.server.ask(&format!("/torrent/{hash}.torrent"));
            assert!(answer.starts_with(b"HTTP/1.1 200 ") && answer.ends_with(bytes), "{name} is lost");
            assert!(self.server.get(&format!("/?q={name}")).contains(&hash.to_string()), "{name} is not found");
        }
        let hash = "%07".repeat(20);
        let query = format!("info_hash={hash}&peer_id=-XX0001-000000000000&port={port}&left=0");
        let answer = self.server.get(&format!("/announce?{query}"));
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("8:complete"), "{answer}");
    }

    /// Refused again and again, in words; but all that only asks is answered.
    fn assert_refuses(&mut self, status: u16, words: &str) {
        for again in 0..10 {
            let (found, answer) = self.upload(&format!("refused{again}"), 30_000);
            assert!(found == status && answer.contains(words), "{answer}");
        }
        self.assert_serves(2000);
    }

    /// Uploads are taken again, and the swarms are saved, without a word from anybody.
    fn assert_resumes(&mut self) {
        let mut tries = 0;
        until("uploads are taken", || {
            tries += 1;
            self.upload(&format!("later{tries}"), 30_000).0 == 201
        });
        until("the swarms are saved", || self.logged(&["swarms are saved again"]) == 1);
        self.assert_serves(3000);
    }

    /// After a kill all of it is there, and nothing else.
    fn assert_kept(mut self, warnings: &[&str]) {
        self.server.child.kill().unwrap();
        self.server.child.wait().unwrap();
        check(&self.state.join("index.sqlite"));
        self.server = Self::start(&self.room, &self.state);
        self.assert_serves(4000);
        let found = self.server.get("/?q=refused");
        assert!(found.contains("Nothing fits"), "what was refused is not there");
        for words in warnings {
            assert_eq!(self.logged(&["WARN", words]), 1, "{words}: {}", self.logged(&["WARN"]));
        }
        assert_eq!((self.logged(&["WARN"]), self.logged(&["ERROR"])), (warnings.len(), 0));
    }
}

/// A disk of `size` that uploads of so many bytes fill; then it gets room for more.
fn uploads_to_a_full_disk(size: &str, bytes: u64) {
    let room = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::tmpfs(&room.path().join("disk"), size) else { return };
    let state = disk.0.join("tracker");
    let mut world = World::new(room, &state);
    let refused =
        (0..1000).map(|number| world.upload(&format!("film{number:04}"), bytes)).find(|(status, _)| *status != 201);
    let (status, answer) = refused.expect("the disk is full some time");
    assert!(status == 507 && answer.contains("the disk of this server is full"), "{answer}");
    // What the last one left of it.
    let mut filler = File::create(disk.0.join("filler")).unwrap();
    for part in [1 << 16, 1 << 12] {
        while filler.write_all(&vec![1; part]).is_ok() {}
    }
    until("no room for a snapshot", || world.logged(&["WARN", "cannot be saved"]) == 1);
    // A log that is begun anew may have room for some more.
    let full = (0..1000).any(|number| world.upload(&format!("small{number}"), 30_000).0 == 507);
    assert!(full, "there is always room for some more");
    world.assert_refuses(507, "nothing of this was kept");
    assert!(state.join("swarms").metadata().unwrap().len() > 0 && !state.join("swarms.new").exists());
    disk.resize("64m");
    world.assert_resumes();
    world.assert_kept(&["the index takes nothing", "cannot be saved"]);
}

#[test]
fn a_full_disk_of_2_mib_loses_nothing_and_is_used_when_there_is_room() {
    uploads_to_a_full_disk("2m", 100_000);
}

#[test]
fn a_full_disk_of_12_mib_loses_nothing_and_is_used_when_there_is_room() {
    uploads_to_a_full_disk("12m", 700_000);
}

#[test]
fn a_full_disk_of_1_mib_is_filled_by_small_torrents() {
    uploads_to_a_full_disk("1m", 2_000);
}

#[test]
fn a_disk_that_turns_read_only_is_served_from_until_another_is_in_its_place() {
    let room = tempfile::tempdir().unwrap();
    let point = room.path().join("disk");
    let Some(disk) = Disk::ext4(&point) else { return };
    let state = point.join("tracker");
    let mut world = World::new(room, &state);
    for number in 0..5 {
        assert_eq!(world.upload(&format!("film{number}"), 30_000).0, 201);
    }
    disk.turn_read_only();
    until("no snapshot", || world.logged(&["WARN", "cannot be saved"]) == 1);
    world.assert_refuses(503, "its operator finds the reason in the log");
    // Somebody takes it out, and mounts another one there.
    drop(disk);
    world.assert_refuses(503, "its operator finds the reason in the log");
    let Some(_disk) = Disk::tmpfs(&point, "64m") else { return };
    world.assert_refuses(503, "its operator finds the reason in the log");
    fs::create_dir(&state).unwrap();
    world.assert_resumes();
    world.assert_kept(&["the index takes nothing", "cannot be saved", "written anew"]);
}

#[test]
fn a_directory_that_is_removed_and_made_again_loses_nothing() {
    let room = tempfile::tempdir().unwrap();
    let state = room.path().join("tracker");
    let mut world = World::new(room, &state);
    for number in 0..5 {
        assert_eq!(world.upload(&format!("film{number}"), 30_000).0, 201);
    }
    fs::remove_dir_all(&state).unwrap();
    until("no snapshot", || world.logged(&["WARN", "cannot be saved"]) == 1);
    world.assert_refuses(503, "its operator finds the reason in the log");
    assert_eq!(world.logged(&["WARN", "make it again, or mount what belongs there"]), 1);
    fs::create_dir(&state).unwrap();
    world.assert_resumes();
    // It is ours again.
    let mut second = btfs(world.room.path(), &["tracker", "--listen", "127.0.0.1:0", "--state-dir"]);
    let second = second.arg(&state).output().unwrap();
    assert!(String::from_utf8_lossy(&second.stderr).contains("another tracker"), "{second:?}");
    // The file alone: its name comes back with the next upload.
    fs::remove_file(state.join("index.sqlite")).unwrap();
    assert_eq!(world.upload("again", 30_000).0, 201);
    world.assert_serves(5000);
    let acknowledged = world.acknowledged.len();
    assert!(acknowledged >= 7);
    world.server.child.kill().unwrap();
    world.server.child.wait().unwrap();
    check(&state.join("index.sqlite"));
    world.server = World::start(&world.room, &state);
    world.assert_serves(6000);
    assert!(world.server.get("/?q=refused").contains("Nothing fits"));
}
