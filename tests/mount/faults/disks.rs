//! The cache's disk is full, read-only, broken or taken away, or what lies in its slot is not what it should be.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::{BOUND, PIECE, forget_pages, one_file};
use crate::harness::mount::{Mount, sum, torrents};
use crate::harness::payload::{Torrent, assert_range, assert_same, compare};
use crate::harness::{World, can_mount, run, texts, wait_until};

/// A small file system of a test's own.
struct Disk<'a>(&'a Path);

impl Disk<'_> {
    fn resize(&self, option: &str) {
        run(Command::new("mount").args(["-o", option]).arg(self.0));
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

/// A disk with a real file system, which can be made to fail; it lies in a file of this world.
struct Failing<'a> {
    point: &'a Path,
}

impl<'a> Failing<'a> {
    /// `None`, and a word, where that is not possible.
    fn new(world: &World, point: &'a Path) -> Option<Self> {
        let image = world.path("image");
        std::fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
        let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image).status().is_ok_and(|made| made.success());
        let mount = || Command::new("mount").args(["-o", "loop,errors=remount-ro"]).args([&*image, point]).status();
        if !made || !mount().is_ok_and(|mounted| mounted.success()) {
            eprintln!("SKIPPED: cannot make and mount an ext4 here");
            return None;
        }
        Some(Self { point })
    }

    /// What the kernel does when it finds its structures damaged.
    fn turn_read_only(&self) {
        let source = texts(&run(Command::new("findmnt").args(["-n", "-o", "SOURCE"]).arg(self.point)));
        let device = source.trim().rsplit('/').next().unwrap().to_owned();
        std::fs::write(format!("/sys/fs/ext4/{device}/trigger_fs_error"), "1").unwrap();
    }

    /// From here on every call that needs the disk fails, as if it had been pulled out.
    fn shut_down(&self) {
        let root = File::open(self.point).unwrap();
        let flags = NO_LOG_FLUSH;
        // SAFETY: the descriptor and the flags, of which the call reads four bytes, live through it.
        let done = unsafe { libc::ioctl(root.as_raw_fd(), EXT4_IOC_SHUTDOWN, &raw const flags) };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    }
}

impl Drop for Failing<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.point).status();
    }
}

/// `_IOR('X', 125, __u32)`, and its flag for "without writing anything more" (linux, fs/ext4/ext4.h).
const EXT4_IOC_SHUTDOWN: libc::Ioctl = 0x8004_587D_u32 as libc::Ioctl;
const NO_LOG_FLUSH: u32 = 2;

/// What was said of the disk, but for bounds of the cache.
fn warned(status: &Value) -> Vec<String> {
    let warnings = status["warnings"].as_array().unwrap().iter();
    let texts = warnings.filter_map(|warning| Some(warning["text"].as_str()?.to_owned()));
    texts.filter(|text| !text.contains("grows a little beyond its bound")).collect()
}

fn disk_error(status: &Value) -> Option<String> {
    torrents(status)[0]["disk_error"].as_str().map(str::to_owned)
}

/// A disk fails: everything can be read all the same, and one warning says what to do.
fn assert_read_through_memory(mount: &Mount, torrent: &Torrent, world: &World, error: &str, advice: &str) {
    let path = mount.path(&torrent.name);
    if let Err(difference) = compare(&path, &torrent.data) {
        panic!("{difference}\n{}", world.logs());
    }
    let status = mount.status();
    assert!(disk_error(&status).is_some_and(|text| text.contains(error)), "{status}");
    let said = warned(&status);
    assert!(said.len() == 1 && said[0].contains(error) && said[0].contains(advice), "{said:?}");
    let (pieces, bytes) = (sum(&status, "memory_pieces"), sum(&status, "memory_bytes"));
    assert!(pieces > 0 && bytes >= pieces * PIECE - PIECE && bytes <= 32 << 20, "{pieces} pieces in {bytes} bytes");
    let text = texts(&run(world.btfs().arg("status").arg(&mount.point)));
    assert!(text.contains("until the disk takes them again") && text.contains(error), "{text}");
}

/// A disk that works again is used again, without a word from anybody, and what is read from then on stays.
fn assert_cached_again(mount: Mount, torrent: &Torrent, world: &World, cache: &str) {
    mount.wait_status("the disk is used again", BOUND, |status| {
        disk_error(status).is_none() && sum(status, "memory_bytes") == 0
    });
    let path = mount.path(&torrent.name);
    forget_pages(&path);
    assert_same(&path, &torrent.data);
    let status = mount.status();
    assert_eq!(sum(&status, "have_pieces"), sum(&status, "pieces"), "{status}");
    assert_eq!((warned(&status).len(), sum(&status, "memory_bytes")), (1, 0), "{status}");
    mount.umount();
    // Nobody to fetch it from.
    let mount = world.mount(torrent).cache(cache).args(&["--read-timeout", "5s", "--cache-min-free", "0"]).start();
    assert_same(&path, &torrent.data);
    mount.umount();
}

/// A disk of `size` for a torrent of `length` bytes, of which nothing may go; then it gets room for it.
fn read_on_a_full_disk(size: &str, length: u64) {
    let world = World::new();
    let torrent = one_file(&world, "file.bin", length);
    let seed = world.libtorrent_seed(&torrent).start();
    let point = world.directory("disk");
    let size = format!("size={size}");
    if !Command::new("mount").args(["-t", "tmpfs", "-o", &size, "none"]).arg(&point).status().unwrap().success() {
        eprintln!("SKIPPED: cannot mount a tmpfs here");
        return;
    }
    let disk = Disk(&point);
    // What is pinned makes no room.
    let pin = ["cache", "pin", &torrent.info_hash, "--cache-dir"];
    run(world.btfs().args(pin).arg(point.join("cache")));
    let arguments = ["--read-timeout", "20s", "--cache-min-free", "0"];
    let mount = world.mount(&torrent).peer(seed.addr).cache("disk/cache").args(&arguments).start();
    assert_read_through_memory(&mount, &torrent, &world, "No space left", "Free some of the disk");
    // Also what had to go from memory meanwhile.
    forget_pages(&mount.path(&torrent.name));
    assert_same(&mount.path(&torrent.name), &torrent.data);
    disk.resize("remount,size=128m");
    assert_cached_again(mount, &torrent, &world, "disk/cache");
}

#[test]
fn a_full_disk_of_256_kib_is_read_past_and_used_when_there_is_room() {
    if can_mount() {
        read_on_a_full_disk("256k", 6 << 20);
    }
}

#[test]
fn a_full_disk_of_3_mib_is_read_past_and_used_when_there_is_room() {
    if can_mount() {
        read_on_a_full_disk("3m", 6 << 20);
    }
}

#[test]
fn on_a_full_disk_more_is_read_than_fits_into_memory() {
    if can_mount() {
        read_on_a_full_disk("1m", 44 << 20);
    }
}

#[test]
fn a_disk_that_turns_read_only_is_read_past_until_another_is_in_its_place() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let torrent = one_file(&world, "file.bin", 6 << 20);
    let seed = world.libtorrent_seed(&torrent).start();
    let point = world.directory("disk");
    let Some(disk) = Failing::new(&world, &point) else { return };
    // Without read-ahead, which might have all of it before the disk fails.
    let arguments = ["--read-timeout", "20s", "--cache-min-free", "0", "--readahead", "0"];
    let mount = world.mount(&torrent).peer(seed.addr).cache("disk/cache").args(&arguments).start();
    let path = mount.path(&torrent.name);
    assert_range(&File::open(&path).unwrap(), &File::open(&torrent.data).unwrap(), 0, 2 << 20);
    disk.turn_read_only();
    assert_read_through_memory(&mount, &torrent, &world, "Read-only", "Remount the disk for writing");
    // Somebody takes it out and mounts another one there.
    drop(disk);
    forget_pages(&path);
    assert_same(&path, &torrent.data);
    run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=64m", "none"]).arg(&point));
    let _disk = Disk(&point);
    assert_cached_again(mount, &torrent, &world, "disk/cache");
}

#[test]
fn a_disk_that_gives_errors_is_read_past_until_another_is_in_its_place() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let torrent = one_file(&world, "file.bin", 6 << 20);
    let seed = world.libtorrent_seed(&torrent).start();
    let point = world.directory("disk");
    let Some(disk) = Failing::new(&world, &point) else { return };
    let arguments = ["--read-timeout", "20s", "--cache-min-free", "0"];
    let mount = world.mount(&torrent).peer(seed.addr).cache("disk/cache").args(&arguments).start();
    let path = mount.path(&torrent.name);
    assert_range(&File::open(&path).unwrap(), &File::open(&torrent.data).unwrap(), 0, 3 << 20);
    disk.shut_down();
    // What was there can be read no more, and comes again.
    forget_pages(&path);
    assert_read_through_memory(&mount, &torrent, &world, "Input/output error", "dmesg");
    drop(disk);
    run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=64m", "none"]).arg(&point));
    let _disk = Disk(&point);
    assert_cached_again(mount, &torrent, &world, "disk/cache");
}

#[test]
fn a_disk_that_is_unmounted_lazily_is_used_to_the_end() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let torrent = one_file(&world, "file.bin", 6 << 20);
    let seed = world.libtorrent_seed(&torrent).start();
    let point = world.directory("disk");
    if !Command::new("mount").args(["-t", "tmpfs", "-o", "size=64m", "none"]).arg(&point).status().unwrap().success() {
        eprintln!("SKIPPED: cannot mount a tmpfs here");
        return;
    }
    let disk = Disk(&point);
    let arguments = ["--read-timeout", "20s", "--cache-min-free", "0"];
    let mount = world.mount(&torrent).peer(seed.addr).cache("disk/cache").args(&arguments).start();
    let path = mount.path(&torrent.name);
    assert_range(&File::open(&path).unwrap(), &File::open(&torrent.data).unwrap(), 0, 2 << 20);
    drop(disk);
    assert_same(&path, &torrent.data);
    let status = mount.status();
    assert!(warned(&status).is_empty() && sum(&status, "memory_bytes") == 0, "{status}");
    mount.umount();
}

#[test]
fn a_disk_smaller_than_the_file_is_enough_to_read_it() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let torrent = one_file(&world, "file.bin", 6 << 20);
    let seed = world.libtorrent_seed(&torrent).start();
    let point = world.directory("disk");
    if !Command::new("mount").args(["-t", "tmpfs", "-o", "size=2m", "none"]).arg(&point).status().unwrap().success() {
        eprintln!("SKIPPED: cannot mount a tmpfs here");
        return;
    }
    let _disk = Disk(&point);
    for min_free in ["10%", "25%"] {
        let arguments = ["--read-timeout", "20s", "--cache-min-free", min_free];
        let mount = world.mount(&torrent).peer(seed.addr).cache("disk/cache").args(&arguments).start();
        if let Err(difference) = compare(&mount.path(&torrent.name), &torrent.data) {
            panic!("{min_free} free: {difference}\n{}", world.logs());
        }
        mount.umount();
    }
}

/// What somebody puts in the place of a file: its name, and how it is made (a link leads to the second path).
type Kind = (&'static str, fn(&Path, &Path));

#[test]
fn what_lies_in_a_slot_and_is_no_file_costs_a_fetch_and_never_a_start() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let torrent = one_file(&world, "file.bin", 2 << 20);
    let seed = world.libtorrent_seed(&torrent).start();
    let mount = world.mount(&torrent).peer(seed.addr).start();
    assert_same(&mount.path(&torrent.name), &torrent.data);
    let slot = mount.slot(&torrent);
    mount.umount();
    let outside = world.path("outside");
    std::fs::write(&outside, "theirs").unwrap();

    let kinds: [Kind; 3] = [
        ("a directory", |path, _| std::fs::create_dir(path).unwrap()),
        ("a pipe", |path, _| _ = run(Command::new("mkfifo").arg(path))),
        ("a link", |path, outside| std::os::unix::fs::symlink(outside, path).unwrap()),
    ];
    for name in ["data/0", "data", "state", "info", "../cache.lock", "../cache.usage", "used", "lock"] {
        for (kind, make) in kinds.iter().filter(|(kind, _)| (name, *kind) != ("data", "a directory")) {
            let path = slot.join(name);
            match path.symlink_metadata() {
                Ok(old) if old.is_dir() => std::fs::remove_dir_all(&path).unwrap(),
                Ok(_) => std::fs::remove_file(&path).unwrap(),
                Err(_) => {}
            }
            make(&path, &outside);
            let mount = world.mount(&torrent).peer(seed.addr).args(&["--read-timeout", "20s"]).start();
            if let Err(difference) = compare(&mount.path(&torrent.name), &torrent.data) {
                panic!("{name} as {kind}: {difference}\n{}", world.logs());
            }
            let told = name.starts_with("../") || name == "used" || mount.said.contains(name);
            assert!(told, "{name} as {kind}: {}", mount.said);
            mount.umount();
            assert_eq!(std::fs::read(&outside).unwrap(), b"theirs", "{name} as {kind}");
        }
    }
}

#[test]
fn every_seventh_call_of_the_disk_fails_and_every_read_is_right_or_an_error() {
    if !can_mount() {
        return;
    }
    let trial = Command::new("strace").args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=none", "true"]).status();
    if !trial.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: strace cannot be used here");
        return;
    }
    let world = World::new();
    let torrent = one_file(&world, "file.bin", 4 << 20);
    let seed = world.libtorrent_seed(&torrent).start();
    let mount = world.mount(&torrent).peer(seed.addr).args(&["--read-timeout", "20s"]).start();
    // Of each thread and each of these calls the seventh, the fourteenth and so on.
    let reading = "pread64,preadv2,openat,newfstatat";
    let writing = "pwritev,pwritev2,pwrite64,fsync,fdatasync,syncfs,ftruncate,fallocate,unlinkat,renameat,renameat2";
    let injection = format!("inject={reading},{writing}:error=EIO:when=7+7");
    let pid = mount.pid().to_string();
    let traced = format!("trace={reading},{writing}");
    let arguments = ["-f", "-qq", "-o", "/dev/null", "-e", &traced, "-e", &injection, "-p", &pid];
    let mut tracer = Command::new("strace").args(arguments).spawn().unwrap();
    wait_until("strace traces all threads", BOUND, || {
        assert!(tracer.try_wait().unwrap().is_none(), "strace goes on");
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
        let status = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("status")).unwrap_or_default();
        tasks.map(status).all(|status| !status.contains("TracerPid:\t0"))
    });
    let path = mount.path(&torrent.name);
    let (got, wanted) = (File::open(&path).unwrap(), std::fs::read(&torrent.data).unwrap());
    let (mut right, mut failed) = (0, 0);
    for round in 0..4 {
        forget_pages(&path);
        let mut part = vec![0; 100_000];
        for at in (round * 30_000..wanted.len() - part.len()).step_by(part.len()) {
            match got.read_exact_at(&mut part, at as u64) {
                Ok(()) => {
                    assert!(part == wanted[at..at + part.len()], "round {round}: wrong bytes at {at}");
                    right += 1;
                }
                Err(error) => {
                    assert_eq!(error.raw_os_error(), Some(libc::EIO), "round {round}: at {at}");
                    failed += 1;
                }
            }
        }
    }
    eprintln!("{right} reads were right, {failed} failed");
    assert!(right > 9 * failed, "reads go on: {right} were right, {failed} failed");
    drop(got);
    // SAFETY: the child is ours and not reaped yet.
    assert_eq!(unsafe { libc::kill(tracer.id() as i32, libc::SIGTERM) }, 0);
    tracer.wait().unwrap();
    mount.umount();
    let log = world.logs();
    assert!(log.contains("Input/output error") && !log.contains("panic") && !log.contains("ERROR"), "{log}");
    let mount = world.mount(&torrent).peer(seed.addr).start();
    if let Err(difference) = compare(&mount.path(&torrent.name), &torrent.data) {
        panic!("after the next start: {difference}\n{}", world.logs());
    }
    mount.umount();
}
