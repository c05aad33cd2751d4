//! `btfs add`, `btfs remove`: torrents come into a mount that is running, and go.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::ValueHint;

use super::args::tracker_url;
use super::torrents::{self, Named, NamedFile};
use super::{exit, mountpoint, status, text};
use crate::control::{Request, Response, Status, ask_with};

/// What can stand after `btfs add`.
#[derive(Debug, clap::Args)]
pub struct Add {
    /// Where it is mounted
    #[arg(value_hint = ValueHint::DirPath)]
    pub mountpoint: PathBuf,
    /// A .torrent file, or an http(s) URL of one
    #[arg(required = true, value_name = "TORRENT", value_hint = ValueHint::FilePath)]
    pub torrents: Vec<OsString>,
    /// Connect to this peer, too (repeatable)
    #[arg(long = "peer", value_name = "ADDRESS:PORT")]
    pub peers: Vec<SocketAddr>,
    /// Ask this tracker as well, by http, https or udp (repeatable)
    #[arg(long = "tracker", value_name = "URL", value_parser = tracker_url)]
    pub trackers: Vec<String>,
}

/// What can stand after `btfs remove`.
#[derive(Debug, clap::Args)]
pub struct Remove {
    /// Where it is mounted
    #[arg(value_hint = ValueHint::DirPath)]
    pub mountpoint: PathBuf,
    /// Its name in the mount, or its info-hash (the beginning will do)
    #[arg(required = true, value_name = "NAME|HASH")]
    pub torrents: Vec<OsString>,
}

/// Adds each; those that can be are, also when another one cannot.
pub(crate) fn add(args: &Add) -> anyhow::Result<i32> {
    // Judged before anything is changed.
    let named = args.torrents.iter().map(|name| torrents::load_file(name)).collect::<anyhow::Result<Vec<_>>>()?;
    let (socket, status) = serving(&args.mountpoint)?;
    let files = fetch(named, status.bind)?;
    let mut outcome = exit::OK;
    for (name, file) in files {
        let request =
            Request::Add { bytes: file.len() as u64, peers: args.peers.clone(), trackers: args.trackers.clone() };
        let answer = ask_with(&socket, &request, &file, PATIENCE);
        outcome = outcome.max(tell(&name, answer.map(|(answer, _)| answer), |path| {
            format!("mounted {}", text::safe(mountpoint::text(&args.mountpoint.join(path))))
        }));
    }
    Ok(outcome)
}

/// Removes each, as far as it is there.
pub(crate) fn remove(args: &Remove) -> anyhow::Result<i32> {
    let (socket, _) = serving(&args.mountpoint)?;
    let mut outcome = exit::OK;
    for name in &args.torrents {
        let torrent = mountpoint::text(Path::new(name));
        let answer = ask_with(&socket, &Request::Remove { torrent: torrent.clone() }, &[], PATIENCE);
        outcome = outcome.max(tell(&text::safe(&torrent), answer.map(|(answer, _)| answer), |path| {
            format!("removed {}; what was fetched of it stays in the cache", text::safe(path))
        }));
    }
    Ok(outcome)
}

/// The process of a mount that is served: its socket, and its status without files.
pub(crate) fn serving(mountpoint: &Path) -> anyhow::Result<(PathBuf, Status)> {
    match status::find(mountpoint).filter(|(_, status)| status.mounted) {
        Some(found) => Ok(found),
        None if mountpoint::find(mountpoint).is_some() => {
            bail!("{}: the process of this mount does not answer", mountpoint.display())
        }
        None => bail!("{}: no btfs mount", mountpoint.display()),
    }
}

/// Says what came of it, in a line.
fn tell(name: &str, answer: std::io::Result<Response>, done: impl FnOnce(&str) -> String) -> i32 {
    let reason = match answer {
        Ok(Response { ok: true, path, .. }) => {
            text::say(done(&path.unwrap_or_default()));
            return exit::OK;
        }
        Ok(answer) => answer.error.unwrap_or_default(),
        Err(error) => error.to_string(),
    };
    text::complain(format_args!("{name}: {}", text::safe(&reason)));
    exit::FAILED
}

/// The bytes of each, those of URLs fetched with the address that the mount's process uses.
fn fetch(named: Vec<(String, NamedFile)>, bind: Option<IpAddr>) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let mut runtime = None;
    let mut files = Vec::new();
    for (name, named) in named {
        let file = match named {
            Named::Parsed((file, _)) => file,
            Named::Url(url) => {
                if runtime.is_none() {
                    runtime =
                        Some(tokio::runtime::Builder::new_current_thread().enable_all().build().context("threads")?);
                }
                let runtime = runtime.as_ref().expect("just made");
                let file = runtime.block_on(torrents::fetch(&url, bind))?;
                torrents::parse(&name, &file)?;
                file.to_vec()
            }
        };
        files.push((name, file));
    }
    Ok(files)
}

/// Opening a store and leaving a swarm take a moment.
const PATIENCE: Duration = Duration::from_secs(30);
