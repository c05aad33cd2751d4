//! The power fails: what the disk had been told to keep is there, and of the rest anything may be, whole, in part, or not at
//! all. The calls of a running tracker are recorded, and disks are made of them as they might look afterwards.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Instant, SystemTime};

use btfs::base::InfoHash;
use btfs::tracker::index::{Index, TorrentName};
use btfs::tracker::{Announce, Event, Restored, StateDir, Store, StoreConfig};

use super::{Running, btfs, say};
use crate::index::kills::check;
use crate::index::torrents::{Torrent, named};

/// The files of the database that a power cut leaves; the third (`-shm`) is made anew at each start.
const FILES: [&str; 2] = ["index.sqlite", "index.sqlite-wal"];

/// One call of the tracker, or one answer of it.
enum Step {
    Write {
        file: usize,
        at: usize,
        bytes: Vec<u8>,
    },
    Length {
        file: usize,
        bytes: usize,
    },
    /// Everything before it is on the disk.
    Sync(usize),
    /// An upload is acknowledged.
    Told(InfoHash),
}

/// What `strace -f -y -xx` has seen.
fn steps(trace: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut syncing: HashMap<&str, usize> = HashMap::new();
    for line in trace.lines() {
        let Some((thread, call)) = line.split_once(' ') else { continue };
        let call = call.trim_start();
        if call.starts_with("<... fsync resumed>") || call.starts_with("<... fdatasync resumed>") {
            // Of another file, else.
            let file = syncing.remove(thread).filter(|_| call.ends_with("= 0"));
            steps.extend(file.map(Step::Sync));
            continue;
        }
        let Some((name, rest)) = call.split_once('(') else { continue };
        if ["write", "writev", "sendto"].contains(&name) {
            steps.extend(told(&quoted(rest)).map(Step::Told));
            continue;
        }
        let path =
            rest.split_once('<').and_then(|(_, path)| path.split_once('>')).map_or(Vec::new(), |(path, _)| hex(path));
        let Some(file) = FILES.iter().position(|file| path.ends_with(format!("/{file}").as_bytes())) else { continue };
        // What stands behind the last comma but those of the result: a length or an offset.
        let arguments = rest.split(" <unfinished").next().unwrap().split(") = ").next().unwrap();
        let last = arguments.rsplit(", ").next().and_then(|number| number.parse().ok());
        match name {
            "pwrite64" => steps.push(Step::Write { file, at: last.expect("an offset"), bytes: quoted(rest) }),
            "ftruncate" => steps.push(Step::Length { file, bytes: last.expect("a length") }),
            "fsync" | "fdatasync" if call.contains("<unfinished") => _ = syncing.insert(thread, file),
            "fsync" | "fdatasync" if call.ends_with("= 0") => steps.push(Step::Sync(file)),
            _ => {}
        }
    }
    steps
}

/// All strings of a call, one behind the other.
fn quoted(arguments: &str) -> Vec<u8> {
    arguments.split('"').skip(1).step_by(2).flat_map(hex).collect()
}

/// `\x61\x62`: ab.
fn hex(text: &str) -> Vec<u8> {
    text.split("\\x").skip(1).map(|byte| u8::from_str_radix(&byte[..2], 16).expect("two digits")).collect()
}

fn told(answer: &[u8]) -> Option<InfoHash> {
    let text = String::from_utf8_lossy(answer);
    let (_, hash) = text.split_once("\"info_hash\":\"")?;
    Some(hash.get(..40)?.parse().expect("an info-hash"))
}

/// What the disk surely has, and what it may have of what came after.
#[derive(Clone)]
struct Disk {
    files: [Vec<u8>; 2],
}

impl Disk {
    /// The first `part` bytes of a write; all of anything else.
    fn apply(&mut self, step: &Step, part: usize) {
        match step {
            Step::Write { file, at, bytes } => {
                let (content, bytes) = (&mut self.files[*file], &bytes[..bytes.len().min(part)]);
                content.resize(content.len().max(at + bytes.len()), 0);
                content[*at..at + bytes.len()].copy_from_slice(bytes);
            }
            Step::Length { file, bytes } => self.files[*file].resize(*bytes, 0),
            Step::Sync(_) | Step::Told(_) => {}
        }
    }

    fn of(step: &Step) -> Option<usize> {
        match step {
            Step::Write { file, .. } | Step::Length { file, .. } => Some(*file),
            _ => None,
        }
    }

    /// Starts with it; all that is there must be whole.
    fn boot(&self) -> (Index, tempfile::TempDir) {
        let room = memory();
        let path = room.path().join(FILES[0]);
        for (name, bytes) in FILES.iter().zip(&self.files) {
            fs::write(room.path().join(name), bytes).unwrap();
        }
        let index = Index::open(&path).expect("it opens without a word from anybody");
        check(&path);
        (index, room)
    }
}

fn has(index: &Index, hash: InfoHash, bytes: &[u8]) -> bool {
    index.details(&TorrentName::Short(hash)).unwrap().is_some_and(|details| details.bytes == *bytes)
}

/// Where syncs cost nothing.
fn memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Ends a process that strace has started for us.
struct Traced(u32);

impl Drop for Traced {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-9", &self.0.to_string()]).status();
    }
}

#[test]
fn what_was_acknowledged_survives_a_power_cut_at_any_call() {
    let trial = Command::new("strace").args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=none", "true"]).status();
    if !trial.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: strace cannot be used here");
        return;
    }
    let room = tempfile::tempdir().unwrap();
    let token = say(room.path(), &["tracker", "token", "add", "alice", "--state-dir", "state"]);
    let state = room.path().join("state");
    let before = Disk { files: FILES.map(|file| fs::read(state.join(file)).unwrap_or_default()) };

    let tracker = btfs(room.path(), &[]);
    let mut command = Command::new("strace");
    command.args(["-f", "-y", "-xx", "-qq", "-s", "1000000", "-o", "trace"]);
    command.args(["-e", "trace=pwrite64,ftruncate,fsync,fdatasync,write,writev,sendto"]).arg(tracker.get_program());
    command.args(["tracker", "--json", "--listen", "127.0.0.1:0", "--state-dir", "state"]);
    command.current_dir(room.path()).env("HOME", room.path()).env_remove("BTFS_LOG").stdin(Stdio::null());
    let mut server = Running::spawn(command);
    let traced = Traced(server.pid);
    let mut torrents = BTreeMap::new();
    std::thread::scope(|scope| {
        let uploading: Vec<_> = (0..3)
            .map(|thread| {
                let (addr, token) = (&server.addr, &token);
                scope.spawn(move || {
                    // Enough for the log of the database to be written back and begun anew.
                    let torrent = |number: u64| {
                        let name = format!("film{number:02} of {thread}");
                        let length = if number.is_multiple_of(2) { 10_000 << 16 } else { 100 };
                        let torrent = Torrent { length, ..named(&name) };
                        (torrent.info_hash(), torrent.bytes())
                    };
                    (0..14)
                        .map(torrent)
                        .inspect(|(_, bytes)| {
                            let answer = Running::upload(addr, token, bytes).expect("an answer");
                            assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        for uploading in uploading {
            torrents.extend(uploading.join().unwrap());
        }
    });
    drop(traced);
    server.child.wait().unwrap();

    let steps = steps(&fs::read_to_string(room.path().join("trace")).unwrap());
    let acknowledged = steps.iter().filter(|step| matches!(step, Step::Told(_))).count();
    let synced = [0, 1].map(|file| steps.iter().filter(|step| matches!(step, Step::Sync(of) if *of == file)).count());
    assert_eq!(acknowledged, torrents.len());
    assert!(synced[0] >= 1 && synced[1] >= 10, "written back once at least, and synced for uploads: {synced:?}");

    let mut random = fastrand::Rng::with_seed(7);
    let (mut sure, mut pending): (Disk, Vec<&Step>) = (before.clone(), Vec::new());
    let mut promised = Vec::new();
    let long: usize = std::env::var("BTFS_LONG").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let rate = (steps.len() / (60 * long)).max(1);
    let mut cuts = 0;
    for step in &steps {
        match step {
            Step::Sync(file) => {
                pending
                    .iter()
                    .filter(|step| Disk::of(step) == Some(*file))
                    .for_each(|step| sure.apply(step, usize::MAX));
                pending.retain(|step| Disk::of(step) != Some(*file));
            }
            Step::Told(hash) => {
                if promised.is_empty() {
                    assert!(!has(&before.boot().0, *hash, &torrents[hash]), "this would see a loss");
                }
                promised.push(*hash);
            }
            step => pending.push(step),
        }
        let is_told = matches!(step, Step::Told(_));
        if !is_told && random.usize(..rate) != 0 {
            continue;
        }
        // At a promise what was not synced is lost; elsewhere anything of it may be.
        let way = if is_told { 0 } else { random.u8(1..4) };
        let mut disk = sure.clone();
        match way {
            0 => {}
            1 => pending.iter().for_each(|step| disk.apply(step, usize::MAX)),
            // In order, the last one by halves.
            2 => {
                let whole = random.usize(..=pending.len());
                pending[..whole].iter().for_each(|step| disk.apply(step, usize::MAX));
                pending[whole..].iter().take(1).for_each(|step| disk.apply(step, random.usize(..4096)));
            }
            // Some of it, in sectors.
            _ => {
                for step in &pending {
                    match random.u8(..3) {
                        0 => disk.apply(step, usize::MAX),
                        1 => disk.apply(step, 512 * random.usize(..8)),
                        _ => {}
                    }
                }
            }
        }
        let (index, _room) = disk.boot();
        for hash in &promised {
            assert!(has(&index, *hash, &torrents[hash]), "cut {cuts}, way {way}: {hash} is lost");
        }
        cuts += 1;
    }
    eprintln!("{cuts} cuts among {} calls, syncs {synced:?}", steps.len());
}

#[test]
fn a_log_of_the_database_that_ends_anywhere_is_read_up_to_there() {
    let room = memory();
    let path = room.path().join(FILES[0]);
    let index = Index::open(&path).unwrap();
    let torrents: Vec<_> = (0..6).map(|number| named(&format!("film {number}")).bytes()).collect();
    let (mut ends, mut files) = (Vec::new(), None);
    for bytes in &torrents {
        index.add(bytes.clone().into(), None, SystemTime::now()).unwrap();
        let wal = fs::read(room.path().join(FILES[1])).unwrap();
        ends.push(wal.len());
        files = Some([fs::read(&path).unwrap(), wal]);
    }
    drop(index);
    let disk = Disk { files: files.unwrap() };
    let length = disk.files[1].len();
    let around = ends.iter().flat_map(|&end| [end - 1, end, end + 1]).filter(|&cut| cut <= length);
    for cut in around.chain((0..length).step_by(1501)) {
        let mut torn = disk.clone();
        torn.files[1].truncate(cut);
        let kept = ends.iter().filter(|&&end| end <= cut).count();
        assert_eq!(torn.boot().0.len(), kept, "cut at {cut}");
        if cut < length {
            let mut changed = disk.clone();
            changed.files[1][cut] ^= 0x55;
            let kept = changed.boot().0.len();
            assert!(kept <= ends.iter().filter(|&&end| end <= cut).count(), "changed at {cut}: {kept} are there");
        }
    }
}

#[test]
fn a_snapshot_that_is_cut_or_changed_anywhere_is_taken_whole_or_not_at_all() {
    let (room, now) = (memory(), Instant::now());
    let store = |torrents: u8| {
        let store = Store::new(StoreConfig::default(), now);
        for number in 0..torrents {
            let announce = Announce {
                info_hash: InfoHash([number; 20]),
                addr: ([192, 0, 2, number], 1000).into(),
                complete: number % 2 == 0,
                event: Event::Started,
                wanted: 0,
                uploaded: 1,
                downloaded: 2,
            };
            store.announce(now, &announce, &mut Vec::new()).unwrap();
        }
        store
    };
    let state = StateDir::open(room.path()).unwrap();
    let restored = || {
        let fresh = store(0);
        let restored = state.restore(&fresh, now);
        fresh.check_invariants();
        assert_eq!((fresh.totals().torrents, fresh.torrent_count()), (restored.torrents, restored.torrents));
        restored.torrents
    };
    state.save(&store(9), now).unwrap();
    let (path, half) = (room.path().join("swarms"), room.path().join("swarms.new"));
    let whole = fs::read(&path).unwrap();
    for cut in 0..whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        assert_eq!(restored(), 0, "cut at {cut}");
        // The next one was being written: the last one counts.
        fs::write(&path, &whole).unwrap();
        fs::write(&half, &whole[..cut]).unwrap();
        assert_eq!(restored(), 9, "the next one cut at {cut}");
        // The time when it was written is no part of what is taken in.
        if !(8..16).contains(&cut) {
            let mut changed = whole.clone();
            changed[cut] ^= 0x55;
            fs::write(&path, changed).unwrap();
            assert_eq!(restored(), 0, "changed at {cut}");
        }
    }
    fs::write(&path, [&whole[..], b"x"].concat()).unwrap();
    assert_eq!(restored(), 0, "something behind it");
    state.save(&store(5), now).unwrap();
    let fresh = store(0);
    assert_eq!(state.restore(&fresh, now), Restored { torrents: 5, peers: 5 });
}
