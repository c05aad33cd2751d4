//! Programs that jump about in files: they get what they need from the mount, and little more is fetched.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::harness::mount::Mount;
use crate::harness::payload::{Torrent, torrent, write_file};
use crate::harness::peers::Libtorrent;
use crate::harness::{World, can_mount, run, run_any, texts};

const PIECE: u64 = 256 << 10;

/// A mount of `data` and its seed.
fn mounted(world: &World, data: &Path) -> (Torrent, Libtorrent, Mount) {
    let torrent = torrent(data, PIECE, &[]);
    let seed = world.libtorrent_seed(&torrent).start();
    let mount = world.mount(&torrent).peer(seed.addr).start();
    (torrent, seed, mount)
}

/// Prints and bounds what was fetched.
#[track_caller]
fn assert_fetched(what: &str, mount: &Mount, torrent: &Torrent, most: u64) {
    let fetched = mount.downloaded();
    eprintln!("{what}: fetched {fetched} of {} bytes", torrent.length);
    assert!(fetched > 0, "{what} read something");
    assert!(fetched <= most, "{what} fetched {fetched} bytes of {}, more than {most}", torrent.length);
}

/// An MP4 of about 30 MB whose index lies behind the media data, as encoders write it.
fn movie(world: &World) -> PathBuf {
    let path = world.directory("original").join("movie.mp4");
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-v", "error", "-f", "lavfi", "-i", "testsrc2=size=640x360:rate=25", "-t", "60"]);
    ffmpeg.args(["-c:v", "mpeg4", "-qscale:v", "2", "-threads", "2"]).arg(&path);
    run(&mut ffmpeg);
    let bytes = std::fs::read(&path).unwrap();
    let place = |name: &[u8]| bytes.windows(4).rposition(|window| window == name);
    assert!(place(b"moov") > Some(bytes.len() * 9 / 10), "the index lies at the end");
    path
}

#[test]
fn ffprobe_and_ffmpeg_play_a_movie_whose_index_is_at_its_end() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let original = movie(&world);
    let (torrent, _seed, mount) = mounted(&world, &original);
    let film = mount.path(&torrent.name);

    let probe = |path: &Path| {
        let mut ffprobe = Command::new("ffprobe");
        ffprobe.args([
            "-v",
            "error",
            "-show_entries",
            "format=duration:stream=codec_name,width,height",
            "-of",
            "csv=p=0",
        ]);
        texts(&run(ffprobe.arg(path)))
    };
    assert_eq!(probe(&film), probe(&original));
    assert_fetched("ffprobe", &mount, &torrent, torrent.length / 2);

    // Two seconds from the middle, to the last pixel.
    let frames = |path: &Path| {
        let mut ffmpeg = Command::new("ffmpeg");
        ffmpeg.args(["-v", "error", "-ss", "30", "-i"]).arg(path);
        texts(&run(ffmpeg.args(["-t", "2", "-an", "-f", "framemd5", "-"])))
    };
    assert_eq!(frames(&film), frames(&original));
    assert_fetched("two seconds from the middle", &mount, &torrent, torrent.length * 3 / 4);
    mount.umount();
}

/// Many small members around a big one, so that the lists of contents lie far apart or at the end.
fn members(world: &World) -> PathBuf {
    let root = world.path("members");
    for number in 0..200 {
        write_file(&root.join(format!("small/{number:03}.bin")), number, 2_000 + number * 17);
    }
    write_file(&root.join("big.bin"), 1000, 48 << 20);
    root
}

#[test]
fn unzip_lists_an_archive_and_takes_one_member() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let root = members(&world);
    let archive = world.directory("original").join("archive.zip");
    run(Command::new("zip").args(["-q", "-r", "-0"]).arg(&archive).arg(".").current_dir(&root));
    let (torrent, _seed, mount) = mounted(&world, &archive);
    let zipped = mount.path(&torrent.name);

    let list = |path: &Path| texts(&run(Command::new("unzip").args(["-lqq"]).arg(path)));
    assert_eq!(list(&zipped), list(&archive));
    assert_fetched("unzip -l", &mount, &torrent, 4 << 20);

    let member = run_any(Command::new("unzip").arg("-p").arg(&zipped).arg("small/123.bin"));
    assert!(member.stdout == std::fs::read(root.join("small/123.bin")).unwrap(), "one member");
    assert_fetched("unzip -l and one member", &mount, &torrent, 10 << 20);
    mount.umount();
}

#[test]
fn tar_lists_an_archive_by_skipping() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let root = members(&world);
    let archive = world.directory("original").join("archive.tar");
    run(Command::new("tar").args(["--sort=name", "-cf"]).arg(&archive).arg("big.bin").arg("small").current_dir(&root));
    let (torrent, _seed, mount) = mounted(&world, &archive);
    let list = |path: &Path| texts(&run(Command::new("tar").arg("-tvnf").arg(path)));
    assert_eq!(list(&mount.path(&torrent.name)), list(&archive));
    // The small members lie side by side: those are fetched, the big one before them is not.
    assert_fetched("tar -t", &mount, &torrent, 12 << 20);
    mount.umount();
}

#[test]
fn a_copy_by_sendfile_and_a_checksum_of_the_whole_agree() {
    if !can_mount() {
        return;
    }
    let world = World::new();
    let data = world.path("original/data.bin");
    write_file(&data, 77, 20_000_003);
    let (torrent, _seed, mount) = mounted(&world, &data);
    let sum = |path: &Path| {
        let output = run(Command::new("timeout").args(["60", "sha256sum"]).arg(path));
        String::from_utf8(output.stdout).unwrap().split_whitespace().next().unwrap().to_owned()
    };
    let copy = world.path("copy.bin");
    run(Command::new("timeout").args(["60", "cp", "--sparse=never"]).arg(mount.path(&torrent.name)).arg(&copy));
    assert_eq!(sum(&copy), sum(&data));
    assert_eq!(sum(&mount.path(&torrent.name)), sum(&data));
    assert!(
        mount
            .wait_status("it is complete", Duration::from_secs(5), |s| crate::harness::mount::sum(s, "left_bytes") == 0)
            .is_object()
    );
    mount.umount();
}
