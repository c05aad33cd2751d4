//! Reads that wait: their readers can be killed, live ones are not disturbed, and nobody else is held up.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use btfs::fs::MountConfig;

use super::served::{Content, Reader, Served, Supply, digest};
use crate::harness::{as_root, can_mount, times, wait_until};

fn content() -> Content {
    Content::new("torrent", 65536, &["a=300000", "b=300000"])
}

/// Reads all of a file in one of the ways and prints its SHA-1. A caught SIGINT ends it by itself: it is a program that
/// cleans up.
const READ: &str = r"
import hashlib, mmap, os, signal, sys
path, way, caught = sys.argv[1].rsplit(':', 2)
size = os.stat(path).st_size
if caught == 'caught':
    def end(number, frame): os._exit(77)
    signal.signal(signal.SIGINT, end)
elif caught == 'default':
    signal.signal(signal.SIGINT, signal.SIG_DFL)
if caught == 'alarm':
    # Restarted where the kernel can, as for most programs.
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.siginterrupt(signal.SIGALRM, False)
    signal.signal(signal.SIGURG, lambda *_: None)
    signal.siginterrupt(signal.SIGURG, False)
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
fd = os.open(path, os.O_RDONLY | (os.O_DIRECT if way == 'direct' else 0))
result = hashlib.sha1()
if way == 'read':
    while data := os.read(fd, 65536): result.update(data)
elif way == 'direct':
    room = mmap.mmap(-1, 1 << 16)
    at = 0
    while (n := os.preadv(fd, [room], at)) > 0:
        result.update(room[:n])
        at += n
elif way == 'mmap':
    result.update(bytes(mmap.mmap(fd, size, prot=mmap.PROT_READ)))
elif way == 'sendfile':
    out = os.memfd_create('out')
    while os.sendfile(out, fd, None, 1 << 16) > 0: pass
    result.update(os.pread(out, size, 0))
signal.setitimer(signal.ITIMER_REAL, 0)
print(result.hexdigest())
";

/// Generous: whatever waits for what does not come waits for longer.
const BOUND: Duration = Duration::from_secs(20);

const WAYS: [&str; 4] = ["read", "direct", "mmap", "sendfile"];

fn reader(path: &Path, way: &str, caught: &str) -> Reader {
    Reader::python(READ, format!("{}:{way}:{caught}", path.display()).as_ref())
}

/// Kills a blocked reader again and again; it must die within a second, and its read be given up. The second is that of
/// the fastest: what else the machine does is no matter, and a reader that has to wait would wait for ever.
fn kill_blocked_readers(way: &str, caught: &str, signal: i32) {
    if !can_mount() {
        return;
    }
    let served = Served::empty(content());
    served.owner.supply(Supply::Shut);
    let (mut fastest, mut slowest) = (Duration::MAX, Duration::ZERO);
    for round in 0..times(20) {
        let mut reader = reader(&served.top().join("a"), way, caught);
        served.wait_blocked(1);
        let start = Instant::now();
        reader.signal(signal);
        reader.ends_within(BOUND);
        let took = start.elapsed();
        (fastest, slowest) = (fastest.min(took), slowest.max(took));
        assert!(took < Duration::from_secs(10), "{way} {caught}, round {round}: {took:?}");
        wait_until("its reads are given up", BOUND, || {
            served.mount().waiting_reads() == 0 && served.owner.waiting() == 0
        });
    }
    assert!(fastest < Duration::from_secs(1), "{way} {caught}: {fastest:?} at best");
    eprintln!("{way}, signal {signal} {caught}: the slowest of {} was gone after {slowest:?}", times(20));
    // The dead left nothing behind: the next reader gets its bytes.
    served.owner.supply(Supply::Open);
    assert!(fs::read(served.top().join("a")).unwrap() == served.content.file("a"));
}

macro_rules! killed {
    ($($name:ident: $way:literal, $caught:literal, $signal:ident;)*) => {$(
        #[test]
        fn $name() {
            kill_blocked_readers($way, $caught, libc::$signal);
        }
    )*};
}

killed! {
    a_blocked_buffered_reader_can_be_killed: "read", "default", SIGKILL;
    a_blocked_buffered_reader_can_be_interrupted: "read", "default", SIGINT;
    a_blocked_buffered_reader_that_catches_is_interrupted: "read", "caught", SIGINT;
    a_blocked_direct_reader_can_be_killed: "direct", "default", SIGKILL;
    a_blocked_direct_reader_can_be_interrupted: "direct", "default", SIGINT;
    a_blocked_direct_reader_that_catches_is_interrupted: "direct", "caught", SIGINT;
    a_blocked_mapping_reader_can_be_killed: "mmap", "default", SIGKILL;
    a_blocked_mapping_reader_can_be_interrupted: "mmap", "default", SIGINT;
    a_blocked_sendfile_can_be_killed: "sendfile", "default", SIGKILL;
    a_blocked_sendfile_can_be_interrupted: "sendfile", "default", SIGINT;
    a_blocked_sendfile_that_catches_is_interrupted: "sendfile", "caught", SIGINT;
    a_blocked_direct_reader_can_be_terminated: "direct", "default", SIGTERM;
    a_blocked_direct_reader_hangs_up: "direct", "default", SIGHUP;
}

#[test]
fn a_reader_with_alarms_gets_its_bytes_undisturbed() {
    if !can_mount() {
        return;
    }
    for way in WAYS {
        let served = Served::empty(content());
        served.owner.supply(Supply::Shut);
        let reader = reader(&served.top().join("a"), way, "alarm");
        served.wait_blocked(1);
        let until = Instant::now() + Duration::from_millis(1500);
        while Instant::now() < until {
            reader.signal(libc::SIGURG);
            std::thread::sleep(Duration::from_millis(7));
        }
        assert!(served.mount().waiting_reads() >= 1, "{way}: the read still waits");
        served.owner.supply(Supply::Open);
        let got = reader.output(BOUND);
        assert_eq!(got.trim(), digest(served.content.file("a")), "{way}");
    }
}

#[test]
fn a_stopped_reader_gets_its_bytes_when_it_goes_on() {
    if !can_mount() {
        return;
    }
    let served = Served::empty(content());
    served.owner.supply(Supply::Shut);
    let reader = reader(&served.top().join("a"), "direct", "default");
    served.wait_blocked(1);
    reader.signal(libc::SIGSTOP);
    std::thread::sleep(Duration::from_millis(700));
    assert!(served.mount().waiting_reads() >= 1);
    served.owner.supply(Supply::Open);
    reader.signal(libc::SIGCONT);
    assert_eq!(reader.output(BOUND).trim(), digest(served.content.file("a")));
}

#[test]
fn a_reader_in_another_pid_namespace_gets_its_bytes_and_can_be_killed() {
    if !can_mount() || !as_root("to make a namespace") {
        return;
    }
    let served = Served::empty(content());
    served.owner.supply(Supply::Shut);
    let start = |way: &str| {
        let path = format!("{}:{way}:default", served.top().join("a").display());
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child", "python3", "-c", READ]).arg(path);
        Reader::run(&mut command)
    };
    let reader = start("direct");
    served.wait_blocked(1);
    std::thread::sleep(Duration::from_millis(800));
    assert!(served.mount().waiting_reads() >= 1, "the watch must not take it for dead");
    served.owner.supply(Supply::Open);
    assert_eq!(reader.output(BOUND).trim(), digest(served.content.file("a")));
    // Its id in our namespace is what the kernel tells: it can be killed like any other.
    let served = Served::empty(content());
    served.owner.supply(Supply::Shut);
    let mut command = Command::new("unshare");
    let path = format!("{}:direct:default", served.top().join("a").display());
    let mut reader = Reader::run(command.args(["--pid", "--fork", "--kill-child", "python3", "-c", READ]).arg(path));
    served.wait_blocked(1);
    reader.signal(libc::SIGKILL);
    reader.ends_within(BOUND);
    wait_until("its read is given up", BOUND, || served.mount().waiting_reads() == 0);
}

#[test]
fn readers_that_proc_hides_get_their_bytes() {
    if !can_mount() || !as_root("to hide processes") {
        return;
    }
    // The mount lives in a child of ours in a mount namespace of its own, where /proc hides other users' processes
    // (and the child lacks the capability to look through it); the reader is another user.
    let probe = Command::new("unshare")
        .args(["--mount", "mount", "-t", "proc", "-o", "hidepid=2,gid=54321", "proc", "/proc"])
        .status();
    if !probe.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: no mount namespace with hidepid=2 here");
        return;
    }
    let me = std::env::current_exe().unwrap();
    let script = "mount -t proc -o hidepid=2,gid=54321 proc /proc && exec setpriv --bounding-set -sys_ptrace --inh-caps -sys_ptrace \
                  \"$0\" --exact semantics::readers::hidden_from_proc --ignored --nocapture --test-threads 1";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--", "sh", "-c", script]).arg(me);
    let said = Reader::run(&mut command).output(Duration::from_secs(60));
    assert!(said.contains("hidden, alive, served, killed"), "{said}");
}

/// The child of the test above; it means nothing by itself.
#[test]
#[ignore = "run by readers_that_proc_hides_get_their_bytes"]
fn hidden_from_proc() {
    let config = MountConfig { allow_other: true, ..MountConfig::default() };
    let served = Served::start(content(), false, config);
    served.owner.supply(Supply::Shut);
    let start = || {
        let path = format!("{}:direct:default", served.top().join("a").display());
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "/usr/bin/python3", "-c", READ])
            .arg(path);
        Reader::run(&mut command)
    };
    let reader = start();
    served.wait_blocked(1);
    assert!(!Path::new(&format!("/proc/{}/status", reader.0.id())).exists(), "/proc hides it");
    std::thread::sleep(Duration::from_millis(800));
    assert!(served.mount().waiting_reads() >= 1, "hidden is not dead");
    served.owner.supply(Supply::Open);
    assert_eq!(reader.output(BOUND).trim(), digest(served.content.file("a")));
    println!("hidden, alive, served, killed");
}

#[test]
fn a_stall_is_an_error_and_later_reads_recover() {
    if !can_mount() {
        return;
    }
    let served = Served::empty(content());
    served.owner.supply(Supply::Stalled);
    for way in ["read", "direct", "sendfile"] {
        let start = Instant::now();
        let mut reader = reader(&served.top().join("a"), way, "default");
        assert!(!reader.ends_within(BOUND).success(), "{way}");
        let mut errors = String::new();
        std::io::Read::read_to_string(reader.0.stderr.as_mut().unwrap(), &mut errors).unwrap();
        assert!(errors.contains("Input/output error"), "{way}: {errors}");
        assert!(start.elapsed() < Duration::from_secs(15), "{way}: the kernel's retry fails at once as well");
    }
    assert_eq!(fs::read(served.top().join("a")).unwrap_err().raw_os_error(), Some(libc::EIO));
    served.owner.supply(Supply::Open);
    assert!(fs::read(served.top().join("a")).unwrap() == served.content.file("a"));
    // A mapping dies of SIGBUS, as it does on a bad disk.
    let served = Served::empty(content());
    served.owner.supply(Supply::Stalled);
    let mut reader = reader(&served.top().join("a"), "mmap", "default");
    let status = reader.ends_within(BOUND);
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(libc::SIGBUS));
}

#[test]
fn metadata_and_other_files_stay_fast_while_64_readers_wait() {
    if !can_mount() {
        return;
    }
    let entries: Vec<String> =
        (0..64).map(|number| format!("f{number}=300000")).chain(["ready=300000".into()]).collect();
    let served = Served::empty(Content::new("torrent", 65536, &entries));
    fs::read(served.top().join("ready")).unwrap();
    served.owner.supply(Supply::Shut);
    let readers: Vec<_> = (0..64)
        .map(|number| {
            let path = served.top().join(format!("f{number}"));
            let wanted = served.content.file(&format!("f{number}")).to_vec();
            std::thread::spawn(move || assert!(fs::read(path).unwrap() == wanted))
        })
        .collect();
    served.wait_blocked(64);
    let start = Instant::now();
    let listed = Command::new("ls").arg("-lR").arg(served.root()).output().unwrap();
    assert!(listed.status.success());
    assert!(start.elapsed() < BOUND, "ls took {:?}", start.elapsed());
    let start = Instant::now();
    for number in 0..64 {
        fs::metadata(served.top().join(format!("f{number}"))).unwrap();
        fs::File::open(served.top().join(format!("f{number}"))).unwrap();
    }
    let direct = reader(&served.top().join("ready"), "direct", "default").output(BOUND);
    assert_eq!(direct.trim(), digest(served.content.file("ready")));
    assert!(start.elapsed() < BOUND, "stat, open and a present file took {:?}", start.elapsed());
    served.owner.supply(Supply::Open);
    for reader in readers {
        reader.join().unwrap();
    }
    assert_eq!(served.mount().waiting_reads(), 0);
}

#[test]
fn one_readers_death_is_not_another_ones_error() {
    if !can_mount() {
        return;
    }
    let served = Served::empty(content());
    served.owner.supply(Supply::Shut);
    let path = served.top().join("a");
    let mut first = reader(&path, "read", "default");
    served.wait_blocked(1);
    let others: Vec<Reader> = (0..4).map(|_| reader(&path, "read", "default")).collect();
    // They wait for the first one's page, which no request of theirs shows; give them time to get there.
    std::thread::sleep(Duration::from_millis(400));
    first.signal(libc::SIGKILL);
    first.ends_within(BOUND);
    std::thread::sleep(Duration::from_millis(400));
    served.wait_blocked(1);
    served.owner.supply(Supply::Open);
    for other in others {
        assert_eq!(other.output(BOUND).trim(), digest(served.content.file("a")));
    }
}
