//! What the mount survives, and what a reader sees meanwhile: right bytes or an error, never anything else.

mod altered;
mod corpus;
mod covered;
mod crowds;
mod disks;
mod kills;
mod signals;
mod stalls;
mod streams;

use std::fs::File;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::harness::mount::{Mount, torrents};
use crate::harness::payload::{Torrent, torrent, write_file};
use crate::harness::process::Process;
use crate::harness::{World, own_ip, wait_until};

/// What a machine that is busy otherwise may add to a promise.
const MARGIN: Duration = Duration::from_secs(10);
/// Long enough for anything that has to happen at all.
const BOUND: Duration = Duration::from_secs(60);
const PIECE: u64 = 64 << 10;

/// A process that is asked to end does within 5 s; the rest is for a busy machine.
const ENDS: Duration = Duration::from_secs(20);

/// The URL of a UDP tracker that answers everything but `stopped`, which an end in order waits 3 s for.
fn deaf_tracker() -> String {
    let socket = UdpSocket::bind((own_ip(), 0)).unwrap();
    let url = format!("udp://{}/announce", socket.local_addr().unwrap());
    // It ends with the process of the test.
    std::thread::spawn(move || {
        let mut buffer = [0; 2000];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let asked = &buffer[..length];
            let answer = match (asked.get(11), asked.get(83)) {
                (Some(0), _) => [&[0; 4], &asked[12..16], &[7; 8]].concat(),
                (Some(1), Some(event)) if *event != 3 => {
                    [&[0, 0, 0, 1], &asked[12..16], &[0, 0, 7, 8], &[0; 8]].concat()
                }
                _ => continue,
            };
            let _ = socket.send_to(&answer, from);
        }
    });
    url
}

/// Waits until its tracker knows of it, and is to be told of its end.
#[track_caller]
fn wait_announced(mount: &Mount) {
    mount.wait_status("it has announced", BOUND, |status| {
        let trackers = torrents(status)[0]["trackers"].as_array().unwrap();
        trackers.iter().any(|tracker| tracker["working"] == true)
    });
}

/// Waits until the background process has begun to end.
#[track_caller]
fn wait_ending(world: &World) {
    wait_until("it ends", BOUND, || world.logs().contains("ending reason="));
}

/// A torrent of one file `name`, without trackers.
fn one_file(world: &World, name: &str, length: u64) -> Torrent {
    let path = world.path("original").join(name);
    write_file(&path, length ^ 0xB7F5, length);
    torrent(&path, PIECE, &[])
}

/// A process that reads `length` bytes at `offset` and ends with status 0 only when it got them all.
fn reader(world: &World, path: &Path, offset: u64, length: u64, name: &str) -> Process {
    let mut dd = Command::new("dd");
    dd.arg(format!("if={}", path.display())).args(["of=/dev/null", "iflag=skip_bytes,count_bytes,fullblock"]);
    dd.args([format!("bs={length}"), format!("skip={offset}"), format!("count={length}"), "status=none".into()]);
    Process::start(&mut dd, &world.path(format!("{name}.log")))
}

/// The errno of reading a range.
fn read_errno(file: &File, offset: u64, length: usize) -> Option<i32> {
    use std::os::unix::fs::FileExt;
    let mut buffer = vec![0; length];
    file.read_exact_at(&mut buffer, offset).err().and_then(|error| error.raw_os_error())
}

/// A small reproducible generator for moments and places.
struct Dice(u64);

impl Dice {
    /// A seed from the environment replays a failure; else one from the clock, which is printed.
    fn new() -> Self {
        let seed = std::env::var("BTFS_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(|| {
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64
        });
        eprintln!("BTFS_SEED={seed}");
        Self(seed | 1)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % bound
    }
}

/// Takes the mount's file out of the page cache: the next read asks the program.
fn forget_pages(path: &Path) {
    let file = File::open(path).unwrap();
    // SAFETY: the descriptor lives as long as the call.
    assert_eq!(unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) }, 0);
}
