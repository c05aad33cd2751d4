//! `btfs demo`: the whole way on one machine, in front of the user's eyes: files, torrent, tracker, seed, mount, reads.
//!
//! Real sockets, a real mount; everything lies below one temporary directory and is removed, whatever happens.

use std::ffi::OsString;
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use clap::Parser;
use tokio::sync::watch;

use super::args::{Cli, Command, DemoArgs};
use super::logging::{self, Target};
use super::{create, exit, status, text, torrents};
use crate::base::size::Bytes;
use crate::control::{Changes, Common, Seeding, StatusSource};
use crate::engine::Fill;
use crate::fs::{Mount, MountConfig, detach};
use crate::net::{AddTorrent, Session, SessionConfig, TorrentHandle};
use crate::proto::metainfo::Metainfo;
use crate::tracker::{self, ServeConfig, Sockets, StoreConfig, Tracker};

/// Runs it, within a minute.
pub(crate) fn run(args: &DemoArgs) -> anyhow::Result<i32> {
    let logging = logging::start("warn", &Target::Stderr)?;
    let room = Room::make()?;
    text::say(format_args!(
        "Everything happens on this machine, below {}, and is removed at the end.\n",
        room.0.display()
    ));
    let guard = room.0.clone();
    let give_up = move || {
        let _ = detach(&guard.join("mnt"));
        let _ = fs::remove_dir_all(&guard);
        std::process::exit(exit::FAILED);
    };
    let give_up_late = give_up.clone();
    std::thread::Builder::new().name("demo-limit".into()).spawn(move || {
        std::thread::sleep(LONGEST);
        text::complain(format_args!("the demo takes longer than {} s: giving up", LONGEST.as_secs()));
        give_up_late();
    })?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            give_up();
        }
    });
    let warnings = logging.last_warnings();
    let outcome = show(&room.0, args.size, &runtime, move || warnings.list());
    runtime.shutdown_timeout(Duration::from_secs(2));
    outcome?;
    drop(room);
    text::say("\nAll of it worked. Your turn: btfs mount FILE.torrent MOUNTPOINT");
    Ok(exit::OK)
}

/// The temporary directory.
struct Room(PathBuf);

impl Room {
    fn make() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("btfs-demo-{}", std::process::id()));
        fs::DirBuilder::new().mode(0o700).create(&path).with_context(|| path.display().to_string())?;
        Ok(Self(path.canonicalize()?))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // A mount in it would have its files deleted in vain, one by one; it is gone by now, or goes now.
        let _ = detach(&self.0.join("mnt"));
        if let Err(error) = fs::remove_dir_all(&self.0) {
            text::complain(format_args!("{} is left over: {error}", self.0.display()));
        }
    }
}

fn show(
    room: &Path,
    mib: u64,
    runtime: &tokio::runtime::Runtime,
    warnings: impl Fn() -> Vec<crate::control::Warning> + Send + Sync + 'static,
) -> anyhow::Result<()> {
    let beginning = Instant::now();
    let original = room.join("holiday");
    make_files(&original, mib << 20)?;
    say("files", &format!("holiday: film.bin ({}), notes.txt, pictures/", Bytes(mib << 20)));

    let (stop, stopped) = watch::channel(false);
    let sockets = Sockets::open(&[(Ipv4Addr::LOCALHOST, 0).into()], 1)?;
    let url = format!("http://{}/announce", sockets.addrs()[0]);
    let swarms = StoreConfig { seed: fastrand::u64(..), ..StoreConfig::default() };
    let swarms = Arc::new(Tracker::new(swarms, beginning, sockets.udp_workers()));
    let tracker = runtime.spawn(tracker::serve(sockets, swarms, ServeConfig::default(), stopped));
    say("tracker", &format!("{url}, in this process"));

    let metainfo = make_torrent(room, &original, &url)?;
    let layout = &metainfo.layout;
    let pieces = format!("{} pieces of {}", layout.piece_count(), Bytes(u64::from(layout.piece_length())));
    say("create", &format!("holiday.torrent: {} in {pieces}", Bytes(layout.total_bytes())));

    let seed = session(room.join("seed-cache"), runtime)?;
    let seeding = seed.add(add(&metainfo, Some(original.clone())))?;
    until("the seed has checked its files", || seeding.snapshot().is_some_and(|state| state.left_bytes == 0))?;
    say("seed", &format!("every piece checked; peers reach it at 127.0.0.1:{}", seed.port()));

    let reader = session(room.join("cache"), runtime)?;
    let torrent = reader.add(add(&metainfo, None))?;
    let mountpoint = room.join("mnt");
    fs::create_dir(&mountpoint)?;
    let config = MountConfig { mountpoint: mountpoint.clone(), ..MountConfig::default() };
    let mount = Arc::new(Mount::start(config, std::slice::from_ref(&torrent), &torrent.store().directories())?);
    exit::set_mounted(Some(&mount));
    say("mount", &format!("{}; fetched so far: {}", mountpoint.display(), fetched(&torrent)));
    list(&mountpoint, &mountpoint)?;

    let mounted = mountpoint.join("holiday");
    let started = Instant::now();
    let end = tail(&mounted.join("film.bin"))?;
    let elapsed = started.elapsed();
    ensure!(end == tail(&original.join("film.bin"))?, "the end of film.bin is not what it should be");
    let text = format!("the last 64 KiB of film.bin, as players do first: right, after {} ms", elapsed.as_millis());
    say("read", &text);
    more(&format!("fetched so far: {} (whole pieces, each checked before a byte of it is shown)", fetched(&torrent)));

    let half = fs::File::open(mounted.join("film.bin")).and_then(|file| {
        let mut half = vec![0; (mib << 19) as usize];
        (&file).read_exact(&mut half).map(|()| half)
    })?;
    ensure!(fs::read(original.join("film.bin"))?.starts_with(&half), "film.bin is not what it should be");
    say("status", "of film.bin the first half is read, too; `btfs status` says:");
    let source = StatusSource {
        changes: Arc::new(Changes::new(reader.clone(), Some(mount.clone()), Common::default())),
        watching: None,
        seeding: Seeding::default(),
        mountpoint: Some(mountpoint.clone()),
        command: "mount",
        started: beginning,
        log: None,
        warnings: Box::new(warnings),
    };
    for line in status::human(&source.collect(20)).lines() {
        text::say(format_args!("      │ {line}"));
    }

    let started = Instant::now();
    let bytes = compare(&original, &mounted)?;
    let rate = Bytes((bytes as f64 / started.elapsed().as_secs_f64()) as u64);
    say("read", &format!("every file: equal to the original, byte for byte ({} at {rate}/s)", Bytes(bytes)));
    let started = Instant::now();
    compare(&original, &mounted)?;
    say("again", &format!("all of it from the cache, in {} ms", started.elapsed().as_millis()));

    mount.unmount();
    exit::set_mounted(None);
    ensure!(fs::read_dir(&mountpoint)?.next().is_none(), "{} is still mounted", mountpoint.display());
    reader.shutdown();
    seed.shutdown();
    let _ = stop.send(true);
    let _ = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(2), tracker).await });
    say("umount", "the mount is gone, the tracker was told, the files are removed");
    Ok(())
}

fn say(step: &str, text: &str) {
    text::say(format_args!("  {step:<9}{text}"));
}

fn more(text: &str) {
    text::say(format_args!("  {:<9}{text}", ""));
}

fn make_files(directory: &Path, film_bytes: u64) -> anyhow::Result<()> {
    fs::create_dir_all(directory.join("pictures"))?;
    let mut rng = fastrand::Rng::new();
    let mut noise = |bytes: u64| {
        let mut data = vec![0; bytes as usize];
        rng.fill(&mut data);
        data
    };
    fs::write(directory.join("film.bin"), noise(film_bytes))?;
    for number in 1..=5 {
        fs::write(directory.join(format!("pictures/{number}.raw")), noise(300_000 + number))?;
    }
    fs::write(directory.join("notes.txt"), "Read me through the mount.\n")?;
    Ok(())
}

/// As `btfs create` does it.
fn make_torrent(room: &Path, data: &Path, url: &str) -> anyhow::Result<Arc<Metainfo>> {
    let file = room.join("holiday.torrent");
    let words: [OsString; 7] =
        ["btfs".into(), "create".into(), data.into(), "-o".into(), file.clone().into(), "-a".into(), url.into()];
    let Command::Create(args) = Cli::try_parse_from(words)?.command else { bail!("`create` means something else") };
    create::make(&args, &AtomicBool::new(false))?;
    torrents::parse("holiday.torrent", &fs::read(file)?)
}

fn session(cache_dir: PathBuf, runtime: &tokio::runtime::Runtime) -> anyhow::Result<Session> {
    let config = SessionConfig {
        cache_dir,
        port: None,
        bind: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        upload: true,
        max_peers: 20,
        read_timeout: Some(Duration::from_secs(30)),
        fill: Fill::None,
        use_trackers: true,
        max_per_address: 20,
        recheck: false,
        limits: Default::default(),
        bounds: Default::default(),
    };
    Ok(Session::start(config, runtime.handle().clone())?)
}

fn add(metainfo: &Arc<Metainfo>, data: Option<PathBuf>) -> AddTorrent {
    AddTorrent { metainfo: metainfo.clone(), data, peers: Vec::<SocketAddr>::new(), trackers: Vec::new() }
}

fn fetched(torrent: &TorrentHandle) -> Bytes {
    Bytes(torrent.snapshot().map_or(0, |state| state.downloaded_bytes))
}

/// Everything below `directory`, with sizes, as `find` would show it.
fn list(top: &Path, directory: &Path) -> anyhow::Result<()> {
    let mut entries = fs::read_dir(directory)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (path, meta) = (entry.path(), entry.metadata()?);
        let name = path.strip_prefix(top)?.display().to_string();
        if meta.is_dir() {
            list(top, &path)?;
        } else {
            more(&format!("{:>10}  {name}", Bytes(meta.len())));
        }
    }
    Ok(())
}

fn tail(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut file = fs::File::open(path)?;
    file.seek(SeekFrom::End(-(64 << 10)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Compares two trees, both ways; returns the bytes compared.
fn compare(original: &Path, mounted: &Path) -> anyhow::Result<u64> {
    let names = |directory: &Path| -> anyhow::Result<Vec<OsString>> {
        let mut names =
            fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name())).collect::<anyhow::Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
    };
    let mut bytes = 0;
    let inside = names(original)?;
    ensure!(inside == names(mounted)?, "{} lists other names", mounted.display());
    for name in inside {
        let (ours, theirs) = (original.join(&name), mounted.join(&name));
        if ours.is_dir() {
            bytes += compare(&ours, &theirs)?;
        } else {
            let wanted = fs::read(&ours)?;
            ensure!(fs::read(&theirs)? == wanted, "{} differs from the original", theirs.display());
            bytes += wanted.len() as u64;
        }
    }
    Ok(bytes)
}

fn until(what: &str, condition: impl Fn() -> bool) -> anyhow::Result<()> {
    let start = Instant::now();
    while !condition() {
        ensure!(start.elapsed() < Duration::from_secs(20), "waited 20 s in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The demo takes a few seconds; past this something is wrong.
const LONGEST: Duration = Duration::from_secs(60);
