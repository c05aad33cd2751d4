//! Torrents named by a URL, fetched from a web server by the command itself.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use crate::harness::mount::is_mounted;
use crate::harness::payload::{Torrent, assert_same, torrent, write_file};
use crate::harness::process::Process;
use crate::harness::{World, can_mount, own_ip, texts};

/// A torrent whose file lies in the directory `web` as well.
fn published(world: &World) -> (Torrent, PathBuf) {
    let data = world.path("original/file.bin");
    write_file(&data, 7, 1_000_001);
    let torrent = torrent(&data, 64 << 10, &[]);
    let web = world.directory("web");
    std::fs::copy(&torrent.file, web.join("file.torrent")).unwrap();
    (torrent, web)
}

#[test]
fn a_torrent_named_by_a_url_is_fetched_from_the_bound_address_and_mounted() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let (torrent, web) = published(&world);
    let ip = own_ip();
    let authority = world.authority("authority");
    let certificate = authority.certify(ip);
    let seed = world.libtorrent_seed(&torrent).start();
    for server in [world.web_server(&web, None), world.web_server(&web, Some((ip, &certificate)))] {
        let url = format!("{}/file.torrent", server.url);
        let ours = own_ip();
        let mount = world.mount_file(Path::new(&url)).env("SSL_CERT_FILE", &authority.file).peer(seed.addr);
        let mount = mount.args(&["--bind", &ours.to_string()]).cache(&format!("cache-{ours}")).start();
        assert!(mount.said.starts_with("mounted file.bin"), "{}", mount.said);
        assert_same(&mount.path(&torrent.name), &torrent.data);
        mount.umount();
        assert_eq!(server.asked("/file.torrent"), [(ours, 200)], "{url}");
    }
}

/// Mounts what must be refused: status 1, one line with the URL and the reason, nothing mounted or left behind.
#[track_caller]
fn assert_refused(world: &World, url: &str, reason: &str) {
    for arguments in [&[][..], &["--foreground"]] {
        let started = Instant::now();
        let output: Output = world.mount_file(Path::new(url)).args(arguments).attempt();
        let said = texts(&output);
        assert_eq!((output.status.code(), said.lines().count()), (Some(1), 1), "{url}: {said}");
        assert!(said.starts_with(&format!("btfs: {url}: ")) && said.contains(reason), "{said}");
        assert!(started.elapsed() < Duration::from_secs(20), "{url}: {:?}", started.elapsed());
        assert!(!is_mounted(&world.path("mnt")), "{url}");
        for place in ["cache", "state", "run"] {
            assert_eq!(std::fs::read_dir(world.path(place)).unwrap().count(), 0, "{url}: {place}");
        }
    }
}

#[test]
fn a_url_that_gives_no_torrent_is_refused_in_one_line() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let (_, web) = published(&world);
    std::fs::write(web.join("page.html"), "<html>Not here</html>\n").unwrap();
    std::fs::write(web.join("empty.torrent"), "").unwrap();
    File::create(web.join("large.torrent")).unwrap().set_len((64 << 20) + 1).unwrap();
    let server = world.web_server(&web, None);
    for (path, reason) in [
        ("/nothing.torrent", "status 404"),
        ("/page.html", "not a usable torrent: "),
        ("/empty.torrent", "not a usable torrent: "),
        ("/large.torrent", "longer than 67108864 bytes"),
    ] {
        assert_refused(&world, &format!("{}{path}", server.url), reason);
    }
    let nobody = TcpListener::bind((own_ip(), 0)).unwrap().local_addr().unwrap();
    assert_refused(&world, &format!("http://{nobody}/file.torrent"), "refused");
    let ip = own_ip();
    let server = world.web_server(&web, Some((ip, &world.authority("stranger").certify(ip))));
    assert_refused(&world, &format!("{}/file.torrent", server.url), "certificate");
}

#[test]
fn a_server_that_never_answers_is_given_up_and_can_be_interrupted() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    // Connections are made by the kernel; nobody reads them.
    let silent = TcpListener::bind((own_ip(), 0)).unwrap();
    let url = format!("http://{}/file.torrent", silent.local_addr().unwrap());
    let mut command = world.btfs();
    command.args(["mount", &url]).arg(world.directory("mnt")).arg("--cache-dir").arg(world.path("cache/btfs"));
    let started = Instant::now();
    let mut patient = Process::start(&mut command, &world.path("patient.log"));
    let mut interrupted = Process::start(command.arg("--foreground"), &world.path("interrupted.log"));
    let _connections = [silent.accept().unwrap(), silent.accept().unwrap()];
    interrupted.signal(libc::SIGINT);
    assert_eq!(interrupted.wait(Duration::from_secs(20)), Some(1));
    assert_eq!(interrupted.log(), "btfs: interrupted\n");
    assert_eq!(patient.wait(Duration::from_secs(40)), Some(1));
    assert!(started.elapsed() > Duration::from_secs(25), "{:?}", started.elapsed());
    assert_eq!(patient.log(), format!("btfs: {url}: no answer in time\n"));
    assert!(!is_mounted(&world.path("mnt")));
}
