//! Plain downloads from other people's seeds into a directory, resumed, chosen, shared, and interrupted.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use btfs::proto::metainfo::{EntryKind, Metainfo};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::clients::several_files;
use crate::harness::payload::{Torrent, assert_same, link_text, torrent, write_file};
use crate::harness::process::{Process, send_signal};
use crate::harness::{World, own_addr, run, run_any, texts, wait_until};

const BOUND: Duration = Duration::from_secs(90);

/// `btfs get` of a torrent into `got`, without trackers.
fn get(world: &World, torrent: &Path, arguments: &[&str]) -> Command {
    let mut command = world.btfs();
    command.arg("get").arg(torrent).arg("-o").arg(world.path("got")).args(["--no-tracker", "--bind"]);
    command.arg(own_addr().ip().to_string()).args(arguments);
    command
}

/// What `--json` said.
#[track_caller]
fn told(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text.lines().count(), 1, "{}", texts(output));
    serde_json::from_str(&text).unwrap()
}

/// Everything below a directory, by its path in it.
fn tree(root: &Path) -> BTreeMap<Vec<u8>, std::fs::Metadata> {
    let mut found = BTreeMap::new();
    let mut left = vec![root.to_path_buf()];
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            if meta.is_dir() {
                left.push(path.clone());
            }
            found.insert(path.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec(), meta);
        }
    }
    found
}

/// Compares what was got with the original, and that nothing else lies there.
#[track_caller]
fn assert_got(world: &World, torrent: &Torrent) {
    let got = world.path("got");
    let names: Vec<_> = std::fs::read_dir(&got).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, [&*torrent.name], "the slot is gone");
    let (ours, theirs) = (tree(&got.join(&torrent.name)), tree(&torrent.data));
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
    for name in theirs.iter().filter(|(_, meta)| meta.is_file()).map(|(name, _)| name) {
        let name = std::ffi::OsStr::from_bytes(name);
        assert_same(&got.join(&torrent.name).join(name), &torrent.data.join(name));
    }
}

#[test]
fn a_torrent_is_got_whole_and_a_second_time_only_checked() {
    let world = World::new();
    let torrent = several_files(&world);
    let seed = world.libtorrent_seed(&torrent).start();
    let peer = seed.addr.to_string();
    let output = run(get(&world, &torrent.file, &["--peer", &peer]).arg("--json"));
    let said = told(&output);
    assert_got(&world, &torrent);
    assert_eq!((&said["state"], &said["error"]), (&"complete".into(), &Value::Null));
    assert_eq!((&said["total_bytes"], &said["have_bytes"]), (&torrent.length.into(), &torrent.length.into()));
    assert_eq!(said["files"].as_array().unwrap().len(), 5);
    let modes: Vec<_> = tree(&world.path("got")).values().map(|meta| meta.permissions().mode() & 0o777).collect();
    assert!(modes.iter().all(|mode| [0o755, 0o644].contains(mode)), "{modes:?}");
    assert_eq!(std::fs::read_dir(world.path("cache")).unwrap().count(), 0, "a download keeps nothing elsewhere");
    drop(seed);
    let before = tree(&world.path("got"));
    let said = run(&mut get(&world, &torrent.file, &[]));
    assert!(
        texts(&said).contains("got several files (12.0 MiB)") && !texts(&said).contains("WARN"),
        "{}",
        texts(&said)
    );
    for (name, meta) in tree(&world.path("got")) {
        assert_eq!((meta.ino(), meta.ctime_nsec()), (before[&name].ino(), before[&name].ctime_nsec()), "{name:?}");
    }
}

#[test]
fn killed_at_any_moment_it_goes_on_where_it_was() {
    let world = World::new();
    let torrent = several_files(&world);
    let mut seed = world.libtorrent_seed(&torrent).upload_limit(8_000_000).start();
    let peer = seed.addr.to_string();
    for round in 0..5 {
        let mut command = get(&world, &torrent.file, &["--peer", &peer]);
        let mut process = Process::start(&mut command, &world.path(format!("get-{round}.log")));
        let slot = world.path("got").join(format!(".btfs-{}", torrent.info_hash));
        wait_until("it has begun", BOUND, || slot.join("data").exists() || world.path("got/several files").exists());
        std::thread::sleep(Duration::from_millis(100 + round * 70)); // the moment is what is tried
        process.signal(libc::SIGKILL);
        process.wait(BOUND);
    }
    run(&mut get(&world, &torrent.file, &["--peer", &peer]));
    assert_got(&world, &torrent);
    // Blocks under way at five kills: 8 MiB each at most.
    let uploaded = seed.state()["uploaded"].as_u64().unwrap();
    assert!(uploaded < torrent.length + 5 * (8 << 20), "{uploaded} bytes for {}", torrent.length);
}

#[test]
fn chosen_files_are_got_first_and_the_rest_later() {
    let world = World::new();
    let torrent = several_files(&world);
    let mut seed = world.libtorrent_seed(&torrent).start();
    let peer = seed.addr.to_string();
    let listed = texts(&run(world.btfs().arg("show").arg(&torrent.file)));
    assert!(listed.contains("    2    68.4 KiB  b/c.bin"), "{listed}");
    run(&mut get(&world, &torrent.file, &["--peer", &peer, "--files", "2", "--files", "o?e"]));
    let names: Vec<_> = tree(&world.path("got")).into_keys().map(|name| String::from_utf8(name).unwrap()).collect();
    assert_eq!(
        names,
        ["several files", "several files/b", "several files/b/c.bin", "several files/b/one"],
        "nothing else, no slot"
    );
    // Their pieces and no others.
    assert!(seed.state()["uploaded"].as_u64().unwrap() < 600_000);
    let before = world.path("got/several files/b/c.bin").metadata().unwrap();
    let nothing = run_any(&mut get(&world, &torrent.file, &["--files", "*.mkv"]));
    assert_eq!(nothing.status.code(), Some(2), "{}", texts(&nothing));
    assert!(texts(&nothing).contains("--files *.mkv: no file of the torrent is meant"), "{}", texts(&nothing));
    run(&mut get(&world, &torrent.file, &["--peer", &peer]));
    assert_got(&world, &torrent);
    let after = world.path("got/several files/b/c.bin").metadata().unwrap();
    assert_eq!((before.ino(), before.ctime_nsec()), (after.ino(), after.ctime_nsec()), "it was right already");
}

#[test]
fn what_exists_is_neither_overwritten_nor_followed() {
    let world = World::new();
    let torrent = several_files(&world);
    let seed = world.libtorrent_seed(&torrent).start();
    let peer = seed.addr.to_string();
    let there = world.directory("got/several files");
    let refused = |reason: &str| {
        let before = tree(&world.path("got")).len();
        let output = run_any(get(&world, &torrent.file, &["--peer", &peer, "--log", "error"]).arg("--json"));
        assert_eq!(output.status.code(), Some(1), "{}", texts(&output));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(reason) && said.lines().count() == 1, "{said}");
        (tree(&world.path("got")).len() == before, output)
    };
    std::fs::write(there.join("z.bin"), "mine").unwrap();
    assert!(refused("z.bin: exists already, with 4 bytes instead of 9500000; move it away").0, "nothing is made");
    assert_eq!(std::fs::read(there.join("z.bin")).unwrap(), b"mine");

    // Of the right length, with the wrong bytes: in the middle, then in the piece that it shares with others.
    for at in [5_000_000, 10] {
        let mut wrong = std::fs::read(torrent.data.join("z.bin")).unwrap();
        wrong[at] ^= 1;
        std::fs::write(there.join("z.bin"), &wrong).unwrap();
        let (_, output) = refused("z.bin: exists already, and is not what the torrent says; move it away");
        assert_eq!(told(&output)["state"], "failed");
        assert!(std::fs::read(there.join("z.bin")).unwrap() == wrong);
    }
    std::fs::remove_file(there.join("z.bin")).unwrap();

    // A link where a directory belongs, and one where a file does.
    let outside = world.directory("outside");
    for (name, reason) in [("b", "is in the way to it"), ("z.bin", "exists already, and is no file")] {
        let _ = std::fs::remove_dir_all(there.join(name));
        symlink(&outside, there.join(name)).unwrap();
        refused(reason);
        std::fs::remove_file(there.join(name)).unwrap();
    }
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);

    // What is right already, or was got meanwhile, is taken as it is.
    std::fs::copy(torrent.data.join("z.bin"), there.join("z.bin")).unwrap();
    run(&mut get(&world, &torrent.file, &["--peer", &peer]));
    assert_got(&world, &torrent);
}

#[test]
fn a_dead_swarm_and_an_interruption_are_told_with_the_way_on() {
    let world = World::new();
    let torrent = several_files(&world);
    let output = run_any(get(&world, &torrent.file, &["--timeout", "1", "--log", "error"]).arg("--json"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &told(&output)["state"]), (Some(3), &"stalled".into()), "{said}");
    assert!(said.contains("no progress for 1 s: no peer, and no tracker") && said.contains("--peer;"), "{said}");
    assert!(said.contains("the same command goes on from there"), "{said}");

    let seed = world.libtorrent_seed(&torrent).upload_limit(2_000_000).start();
    let peer = seed.addr.to_string();
    let mut process = Process::start(&mut get(&world, &torrent.file, &["--peer", &peer]), &world.path("log"));
    let kept = world.path("got").join(format!(".btfs-{}/data/4", torrent.info_hash));
    wait_until("some of it is here", BOUND, || kept.metadata().is_ok_and(|meta| meta.blocks() * 512 > 500_000));
    process.signal(libc::SIGINT);
    assert_eq!(process.wait(BOUND), Some(130), "{}", process.log());
    assert!(process.log().contains("interrupted; "), "{}", process.log());
    assert!(!world.path("got/several files/z.bin").exists(), "none that is not complete");
    drop(seed);
    let seed = world.libtorrent_seed(&torrent).start();
    run(&mut get(&world, &torrent.file, &["--peer", &seed.addr.to_string()]));
    assert_got(&world, &torrent);
}

#[test]
fn it_goes_on_sharing_what_it_has_got() {
    let world = World::new();
    let torrent = several_files(&world);
    let source = world.libtorrent_seed(&torrent).start();
    let addr = own_addr();
    let mut command = world.btfs();
    command.arg("get").arg(&torrent.file).arg("-o").arg(world.path("got")).args(["--no-tracker", "--seed"]);
    command.arg("--bind").arg(addr.ip().to_string()).arg("--port").arg(addr.port().to_string());
    command.arg("--peer").arg(source.addr.to_string());
    let mut process = Process::start(&mut command, &world.path("log"));
    wait_until("it shares", BOUND, || {
        process.assert_alive();
        process.log().contains(&format!("sharing it at port {}", addr.port()))
    });
    drop(source);
    let into = world.directory("leech");
    let mut leech = world.libtorrent_leech(&torrent, &into).connect(addr).start();
    leech.wait_complete(BOUND);
    assert_same(&into.join("several files/z.bin"), &torrent.data.join("z.bin"));
    let status: Value = serde_json::from_str(&texts(&run(world.btfs().args(["status", "--json"])))).unwrap();
    assert_eq!(status["command"], "get");
    send_signal(process.pid(), libc::SIGTERM);
    assert_eq!(process.wait(BOUND), Some(0), "{}", process.log());
    assert_got(&world, &torrent);
}

/// The content of an entry of the corpus, as its maker has it: SHA-256 of its key and a counter, cut.
fn corpus_bytes(key: &str, length: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for counter in 0.. {
        if bytes.len() as u64 >= length {
            break;
        }
        bytes.extend(Sha256::digest(format!("{key}/{counter}")));
    }
    bytes.truncate(length as usize);
    bytes
}

fn decode(text: &str) -> Vec<u8> {
    let mut parts = text.split('%');
    let mut out = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        out.push(u8::from_str_radix(&part[..2], 16).expect("an escape"));
        out.extend_from_slice(&part.as_bytes()[2..]);
    }
    out
}

/// Every accepted torrent of the corpus, with its hostile names: what is got is what the corpus demands, and no path leads
/// out of the directory.
#[test]
fn hostile_names_end_where_the_mount_shows_them() {
    let world = World::new();
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let layout = std::fs::read_to_string(corpus.join("layout.tsv")).unwrap();
    let expected = std::fs::read_to_string(corpus.join("expected.tsv")).unwrap();
    let taken = expected.lines().skip(1).map(|line| line.split('\t').collect::<Vec<_>>());
    let taken = taken.filter(|row| row[2].starts_with("accept") && row[4] != "-").map(|row| row[0].to_owned());

    // One process seeds them all, from files under the names that a mount would show.
    let addr = own_addr();
    let mut seed = world.btfs();
    seed.args(["seed", "--no-tracker", "--max-per-address", "100", "--bind"]).arg(addr.ip().to_string());
    seed.arg("--port").arg(addr.port().to_string());
    let mut seeded = Vec::new();
    for torrent in taken {
        let file = corpus.join("torrents").join(&torrent);
        let metainfo = Metainfo::parse(&std::fs::read(&file).unwrap()).unwrap();
        if metainfo.layout.total_bytes() > 1 << 20 {
            continue;
        }
        let stem = torrent.trim_end_matches(".torrent");
        let data = world.directory(format!("data/{stem}"));
        for (at, (entry, index)) in metainfo.entries.iter().zip(metainfo.layout.files()).enumerate() {
            if matches!(entry.kind, EntryKind::File { .. }) {
                let key = if stem == "v41-same-content" { "same".to_owned() } else { format!("{stem}/{at}") };
                let path = data.join(std::ffi::OsStr::from_bytes(&entry.path));
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, corpus_bytes(&key, metainfo.layout.file_bytes(index))).unwrap();
            }
        }
        let data = if metainfo.single_file { data.join(std::ffi::OsStr::from_bytes(&metainfo.name)) } else { data };
        seed.arg(&file).arg(data);
        seeded.push((torrent, file, metainfo));
    }
    assert!(seeded.len() > 45, "{} torrents", seeded.len());
    let mut seed = Process::start(&mut seed, &world.path("seed.log"));
    wait_until("the seed listens", BOUND, || {
        seed.assert_alive();
        std::net::TcpStream::connect(addr).is_ok()
    });

    for (number, (torrent, file, metainfo)) in seeded.iter().enumerate() {
        let got = world.path(format!("got-{number}"));
        let mut command = world.btfs();
        command.arg("get").arg(file).arg("-o").arg(&got).args(["--no-tracker", "--timeout", "60", "--log", "error"]);
        command.args(["--bind", "127.0.0.1", "--peer", &addr.to_string()]);
        let output = run_any(&mut command);
        assert!(output.status.success(), "{torrent}: {}\n{}", texts(&output), seed.log());
        let names: Vec<_> = std::fs::read_dir(&got).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, [std::ffi::OsStr::from_bytes(&metainfo.name)], "{torrent}");
        let root = got.join(&names[0]);
        let found: BTreeMap<Vec<u8>, String> = if metainfo.single_file {
            BTreeMap::from([(metainfo.name.to_vec(), what(&root))])
        } else {
            let files = tree(&root).into_iter().filter(|(_, meta)| !meta.is_dir());
            files.map(|(name, _)| (name.clone(), what(&root.join(std::ffi::OsStr::from_bytes(&name))))).collect()
        };
        let mut demanded = BTreeMap::new();
        for row in layout.lines().skip(1).map(|line| line.split('\t').collect::<Vec<_>>()) {
            let [of, kind, path, _, sha256, mode, target] = row[..] else { panic!("{row:?}") };
            if of == torrent && kind != "pad" {
                let mode = if mode == "0555" { "755" } else { "644" };
                let path = decode(path);
                let what = match kind {
                    "file" => format!("file {mode} {sha256}"),
                    _ => format!("link {}", String::from_utf8_lossy(&link_text(&path, &decode(target)))),
                };
                demanded.insert(path, what);
            }
        }
        if !demanded.is_empty() {
            assert_eq!(found, demanded, "{torrent}");
        }
    }
    let strays: Vec<_> = std::fs::read_dir(world.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let ours = ["home", "run", "state", "cache", "config", "data", "seed.log"];
    let known =
        |name: &std::ffi::OsString| name.to_string_lossy().starts_with("got-") || ours.iter().any(|o| name == o);
    assert!(strays.iter().all(known), "{strays:?}");
}

#[test]
fn a_line_that_is_slow_is_no_stall() {
    let world = World::new();
    let path = world.path("original/film.bin");
    write_file(&path, 5, 1 << 20);
    let film = torrent(&path, 1 << 20, &[]);
    let seed = world.seed(&film);
    // One piece, for which this takes eight seconds.
    let more = ["--max-download", "128K", "--timeout", "5", "--peer", &seed.addr.to_string()];
    let output = run_any(&mut get(&world, &film.file, &more));
    assert!(output.status.success(), "{}", texts(&output));
    assert_same(&world.path("got/film.bin"), &film.data);
}

/// What lies at a path: permissions and SHA-256 of a file, or where a link leads.
fn what(path: &Path) -> String {
    let meta = path.symlink_metadata().unwrap();
    if meta.is_symlink() {
        return format!("link {}", std::fs::read_link(path).unwrap().display());
    }
    let digest = Sha256::digest(std::fs::read(path).unwrap());
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("file {:o} {hex}", meta.permissions().mode() & 0o777)
}
