//! Torrents that `btfs create` made and `btfs edit` changed, in other people's programs.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::clients::assert_downloaded;
use crate::harness::payload::{Torrent, write_file};
use crate::harness::process::Process;
use crate::harness::{World, own_addr, run, texts};

const BOUND: Duration = Duration::from_secs(90);

/// Makes a torrent as a user would, then gives it another comment and a tracker that is not there.
fn created(world: &World, data: &Path, args: &[&str]) -> Torrent {
    let file = data.with_extension("torrent");
    let made = run(world.btfs().arg("create").arg(data).arg("-o").arg(&file).args(args).arg("--json"));
    let made: Value = serde_json::from_str(&texts(&made)).unwrap();
    let changes = ["--comment", "changed", "--json"];
    let edited = run(world.btfs().arg("edit").arg(&file).args(changes));
    let edited: Value = serde_json::from_str(&texts(&edited)).unwrap();
    assert_eq!(edited["info_hash"], made["info_hash"]);
    Torrent {
        file,
        data: data.to_path_buf(),
        name: made["name"].as_str().unwrap().to_owned(),
        length: made["size_bytes"].as_u64().unwrap(),
        piece_length: made["piece_length"].as_u64().unwrap(),
        info_hash: made["info_hash"].as_str().unwrap().to_owned(),
    }
}

fn tree(world: &World) -> std::path::PathBuf {
    let root = world.path("original/some files");
    for (seed, (name, length)) in
        [("a.bin", 1_000_001), ("b/c.bin", 70_000), ("b/one", 1), ("z.bin", 2_500_000)].iter().enumerate()
    {
        write_file(&root.join(name), 70 + seed as u64, *length);
    }
    std::fs::set_permissions(root.join("b/one"), std::fs::Permissions::from_mode(0o755)).unwrap();
    root
}

#[test]
fn others_take_a_padded_torrent_and_get_its_files_from_us() {
    let world = World::new();
    let torrent = created(&world, &tree(&world), &["--pad", "--piece-length", "64K"]);
    let (one, two, three) = (world.directory("one"), world.directory("two"), world.directory("three"));
    let mut transmission = world.transmission(&torrent, &one);
    let mut aria2 = world.aria2(&torrent, &two, false);
    let addr = own_addr();
    let mut command = world.btfs();
    command.arg("seed").arg(&torrent.file).arg(&torrent.data).args(["--no-tracker", "--bind"]);
    command.arg(addr.ip().to_string()).arg("--port").arg(addr.port().to_string());
    for peer in [transmission.addr, aria2.addr] {
        command.arg("--peer").arg(peer.to_string());
    }
    let mut seed = Process::start(&mut command, &world.path("seed.log"));
    world.libtorrent_leech(&torrent, &three).connect(addr).start().wait_complete(BOUND);
    transmission.wait_complete(BOUND);
    assert_eq!(aria2.process.wait(BOUND), Some(0), "{}", aria2.process.log());
    for directory in [one, two, three] {
        assert_downloaded(&directory.join(&torrent.name), &torrent.data);
    }
    seed.assert_alive();
}

#[test]
fn others_find_the_content_of_a_plain_torrent_complete() {
    let world = World::new();
    let torrent = created(&world, &tree(&world), &["-a", "http://127.0.0.1:9/announce", "--source", "S"]);
    world.libtorrent_seed(&torrent).start().wait_complete(BOUND);
    world.transmission(&torrent, torrent.parent()).wait_complete(BOUND);
    let seed = world.aria2(&torrent, torrent.parent(), true);
    let into = world.directory("leech");
    world.libtorrent_leech(&torrent, &into).connect(seed.addr).start().wait_complete(BOUND);
    assert_downloaded(&into.join(&torrent.name), &torrent.data);
}
