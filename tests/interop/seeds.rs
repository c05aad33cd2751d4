//! Many torrents of a list, shared by one process.

use std::time::Duration;

use serde_json::Value;

use crate::harness::payload::{assert_same, torrent, write_file};
use crate::harness::process::Process;
use crate::harness::{World, own_addr, run, run_any, texts, wait_until};

const BOUND: Duration = Duration::from_secs(90);

#[test]
fn a_list_is_shared_and_what_is_of_no_use_in_it_is_told() {
    let world = World::new();
    let mut list = String::from("# torrents\n\n");
    let mut torrents = Vec::new();
    for number in 0..60 {
        let path = world.path(format!("original/file {number}.bin"));
        write_file(&path, 100 + number, 50_000 + number);
        let torrent = torrent(&path, 16 << 10, &[]);
        // Every second one without its data, which lies beside the torrent file.
        let data = if number % 2 == 0 { format!("\t{}", torrent.data.display()) } else { String::new() };
        list += &format!("original/file {number}.bin.torrent{data}\n");
        torrents.push(torrent);
    }
    list += "original/file 3.bin.torrent\noriginal/none.torrent\nhttp://127.0.0.1:1/x.torrent\n";
    list += &format!("{}\t/nowhere/at/all", world.path("original/other.torrent").display());
    write_file(&world.path("original/other"), 7, 5_000);
    torrent(&world.path("original/other"), 16 << 10, &[]);
    std::fs::write(world.path("list"), list).unwrap();

    let addr = own_addr();
    let mut command = world.btfs();
    command.arg("seed").arg("--from-list").arg(world.path("list")).args(["--no-tracker", "--bind"]);
    command.arg(addr.ip().to_string()).arg("--port").arg(addr.port().to_string());
    let mut seed = Process::start(&mut command, &world.path("seed.log"));
    wait_until("it shares", BOUND, || {
        seed.assert_alive();
        seed.log().contains("peers reach it at port")
    });
    let said = seed.log();
    for line in [
        ":63: file 3.bin: the torrent was named before".to_owned(),
        ":64: ".to_owned() + &world.path("original/none.torrent").display().to_string(),
        ":65: ".to_owned(),
        ":66: ".to_owned(),
        "sharing 60 torrents (2.8".to_owned(),
        "60 of them whole".to_owned(),
        "4 of the list cannot be shared".to_owned(),
    ] {
        assert!(said.contains(&line), "{line:?} in\n{said}");
    }
    let status: Value = serde_json::from_str(&texts(&run(world.btfs().args(["status", "--json"])))).unwrap();
    assert_eq!(status["torrents"].as_array().unwrap().len(), 60);
    for torrent in [&torrents[2], &torrents[59]] {
        let into = world.directory(format!("got-{}", torrent.info_hash));
        let mut leech = world.libtorrent_leech(torrent, &into).connect(addr).start();
        leech.wait_complete(BOUND);
        assert_same(&into.join(&torrent.name), &torrent.data);
    }
    seed.signal(libc::SIGTERM);
    assert_eq!(seed.wait(BOUND), Some(0), "{}", seed.log());

    // Nothing of use is a failure.
    std::fs::write(world.path("list"), "none.torrent\n").unwrap();
    let output = run_any(world.btfs().arg("seed").arg("--from-list").arg(world.path("list")).arg("--no-tracker"));
    assert_eq!(output.status.code(), Some(1), "{}", texts(&output));
    assert!(texts(&output).contains("nothing of the list can be shared"), "{}", texts(&output));
}
