//! `btfs mount`: returns when the mount answers and goes on in the background, or stays (`-f`).

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;

use super::args::MountArgs;
use super::process::{self, End, Parts, Process};
use super::torrents::{self, Named};
use super::watching::InMount;
use super::{daemon, exit, logging, mountpoint, options, stop, text};
use crate::base::size::Bytes;
use crate::control::{Changes, Common, Seeding, Watch};
use crate::fs::{Mount, MountConfig, prepare_mountpoint};
use crate::net::{AddTorrent, SessionConfig, judge_port};
use crate::proto::metainfo::{EntryKind, Metainfo};

/// Mounts. Returns in the process that was called; the one that serves the mount ends by itself.
pub(crate) fn run(mut args: MountArgs) -> anyhow::Result<i32> {
    options::apply(&mut args)?;
    // Judged before there is a process, a port or a directory.
    let named = args.torrents.iter().map(|name| torrents::load(name)).collect::<anyhow::Result<Vec<_>>>()?;
    let parsed: Vec<_> = named.iter().filter_map(parsed).collect();
    torrents::refuse_twins(&parsed)?;
    let read_timeout = Some(args.read_timeout).filter(|timeout| !timeout.is_zero());
    let session = args.swarm.session_config(&args.cache, read_timeout, args.fill.into())?;
    args.mountpoint = std::path::absolute(&args.mountpoint)?;
    args.watch = args.watch.map(std::path::absolute).transpose()?;
    args.watch.as_deref().map(watched).transpose()?;
    if args.manner.fake {
        return Ok(exit::OK);
    }
    if args.foreground {
        return serve(&args, named, session, None);
    }
    match daemon::fork()? {
        daemon::Forked::Parent(status) => Ok(status),
        daemon::Forked::Child(ready) => serve(&args, named, session, Some(ready)),
    }
}

/// Serves the mount until it ends; returns only when it could not be started.
fn serve(
    args: &MountArgs,
    named: Vec<Named>,
    session: SessionConfig,
    ready: Option<daemon::Ready>,
) -> anyhow::Result<i32> {
    let background = ready.is_some();
    let target = match background {
        true => logging::Target::background(&mountpoint::text(&args.mountpoint)),
        false => logging::Target::foreground(),
    };
    let logging = logging::start(&args.swarm.log, &target)?;
    daemon::leave_directory()?;
    let mut process = Process::start(background)?;
    let torrents = process.resolve(named, args.swarm.bind)?;
    let mountpoint = prepare_mountpoint(&args.mountpoint)?;
    refuse_cache_inside(&session.cache_dir, &mountpoint)?;
    // Open until the mount has been refused or made.
    let log_directory = logging.directory();
    let upload = session.upload;
    let watched = args.watch.as_deref().map(watched).transpose()?;
    let cache = session.cache_dir.clone();
    let config = MountConfig {
        mountpoint: mountpoint.clone(),
        allow_other: args.allow_other,
        uid: args.uid,
        gid: args.gid,
        readahead: args.readahead,
        data: Some(cache.clone()),
        options: args.options.clone(),
    };
    // Whoever shares on ends for a mount that comes about.
    Mount::judge(&config)?;
    let sharers = stop::Sharers::default();
    if let Some(port) = session.port
        && !sharers.will_free(port, &torrents, &cache)
    {
        judge_port(port, session.bind)?;
    }
    sharers.take_over(&torrents, &cache);
    let session = process.session(session)?;
    let started = (|| {
        let identity = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
        let log = log_directory.as_ref().and_then(|directory| directory.metadata().ok());
        let watched = watched.as_ref().and_then(|directory| directory.metadata().ok());
        let mut avoid = Vec::from_iter(log.into_iter().chain(watched).chain(cache.metadata().ok()).map(identity));
        for metainfo in &torrents {
            anyhow::ensure!(!process.is_ending(), "interrupted");
            let added = session.add(AddTorrent {
                metainfo: metainfo.clone(),
                data: None,
                peers: args.swarm.peers.clone(),
                trackers: args.swarm.trackers.clone(),
            });
            let torrent = added.map_err(process::explain)?;
            avoid.extend(torrent.store().directories());
        }
        Ok(Mount::start(config, &session.torrents(), &avoid)?)
    })();
    let mount = match started {
        Ok(mount) => mount,
        Err(error) => {
            session.shutdown();
            return Err(error);
        }
    };
    exit::set_mounted(Some(&mount));
    let warnings = logging.last_warnings();
    let common = Common { peers: args.swarm.peers.clone(), trackers: args.swarm.trackers.clone() };
    let changes = Changes::new(session, Some(Arc::new(mount)), common);
    let mut watch = args.watch.clone().map(Watch::new);
    if let Some(watch) = &mut watch {
        // What lies there now is there from the start.
        watch.look(Instant::now(), &InMount::new(&changes).until(&|| process.is_ending()));
    }
    let found = watch.as_ref().map(|watch| (watch.directory().to_owned(), watch.shown()));
    let parts = Parts {
        changes,
        watch,
        seeding: Seeding::new(args.seeding.goals()),
        mountpoint: Some(mountpoint.clone()),
        warnings: warnings.clone(),
        log: target.describe(),
    };
    // So far that can be a signal only.
    let is_interrupted = process.is_ending();
    let running = process.run("mount", parts);
    // From here on nothing may return: what is mounted is unmounted by an orderly end alone.
    if is_interrupted {
        text::complain("interrupted");
        running.end_with(End::Signal, exit::FAILED, || {});
    }
    tracing::info!(mountpoint = %mountpoint.display(), torrents = torrents.len(), "mounted");
    if !args.manner.quiet {
        announce(&torrents, &mountpoint, found);
        text::say(match upload {
            true => "while mounted, what was fetched is shared with other peers; --no-upload turns that off",
            false => "nothing is shared with other peers (--no-upload)",
        });
    }
    if let Some(ready) = ready {
        // From now on they go to the log only.
        warnings.list().iter().for_each(|warning| text::complain(&warning.text));
        if let Err(error) = ready.tell() {
            let status = exit::report(&anyhow::Error::new(error).context("cannot go on in the background"));
            running.end_with(End::Done, status, || {});
        }
    }
    running.until_end(!background)
}

/// What is mounted where; `found`: a directory that is watched, and how many more were in it.
fn announce(torrents: &[Arc<Metainfo>], mountpoint: &Path, found: Option<(PathBuf, usize)>) {
    let place = text::safe(mountpoint::text(mountpoint));
    match torrents {
        [] => {}
        [torrent] => {
            let files = torrent.entries.iter().filter(|entry| !matches!(entry.kind, EntryKind::Padding)).count();
            let size = Bytes(torrent.layout.total_bytes());
            let files = if files == 1 { "1 file".to_owned() } else { format!("{files} files") };
            text::say(format_args!("mounted {} ({size}, {files}) at {place}", text::safe(&torrent.name)));
        }
        torrents => {
            let size = Bytes(torrents.iter().map(|torrent| torrent.layout.total_bytes()).sum());
            text::say(format_args!("mounted {} torrents ({size}) at {place}", torrents.len()));
        }
    }
    if let Some((directory, count)) = found {
        let directory = text::safe(mountpoint::text(&directory));
        let torrents = if count == 1 { "torrent" } else { "torrents" };
        text::say(format_args!("mounted what is in {directory} at {place}: {count} {torrents} now, and what comes"));
    }
}

/// Opens a directory that is to be watched.
fn watched(directory: &Path) -> anyhow::Result<File> {
    let name = || text::safe(mountpoint::text(directory));
    let opened = File::open(directory).with_context(name)?;
    anyhow::ensure!(opened.metadata().with_context(name)?.is_dir(), "{}: not a directory, to be watched", name());
    Ok(opened)
}

/// Refuses a cache directory that would lie below the mount, before it is made.
fn refuse_cache_inside(cache: &Path, mountpoint: &Path) -> anyhow::Result<()> {
    let inside = |meta: std::fs::Metadata| (meta.dev(), meta.ino());
    let own = std::fs::metadata(mountpoint).map(inside)?;
    let existing = cache.ancestors().filter_map(|path| std::fs::metadata(path).ok().map(inside));
    if existing.into_iter().any(|directory| directory == own) {
        anyhow::bail!(
            "{}: the cache {} would lie inside the mount: name another one with --cache-dir",
            mountpoint.display(),
            cache.display()
        );
    }
    Ok(())
}

fn parsed(named: &Named) -> Option<Arc<Metainfo>> {
    match named {
        Named::Parsed(metainfo) => Some(metainfo.clone()),
        Named::Url(_) => None,
    }
}
