//! `btfs tracker`: announces and scrapes over HTTP and UDP on one port number, and the pages of an index, until it is
//! signalled.

mod folder;
pub(super) mod people;
mod reload;
pub(super) mod settings;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::ValueHint;
use ipnet::IpNet;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use self::folder::Taker;
use self::settings::{Allow, Listen, Settings};
use super::exit::{self, UsageError};
use super::{daemon, logging, paths, process, text};
use crate::tracker::web::{keep_history, pages};
use crate::tracker::{
    Restored, ServeConfig, Sockets, StateDir, Tracker, admit_known, book_users, keep_access, serve, set_lists,
};

/// `btfs tracker`.
#[derive(Debug, Clone, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    /// Something else than to track.
    #[command(subcommand)]
    pub command: Option<people::Command>,
    /// Listen here for HTTP and UDP: PORT, ADDRESS or ADDRESS:PORT (repeatable) [default: port 6969 of every address,
    /// IPv4 and IPv6]
    #[arg(long, value_name = "ADDR")]
    pub listen: Vec<Listen>,
    /// Where swarms and figures are kept over a restart [default: $XDG_STATE_HOME/btfs/tracker or
    /// ~/.local/state/btfs/tracker; /var/lib/btfs/tracker for root without a home]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub state_dir: Option<PathBuf>,
    /// Under which name or address others reach this machine, for the URLs that are shown [default: the address that
    /// leads to the world]
    #[arg(long, value_name = "NAME", value_parser = settings::public_name)]
    pub public_name: Option<String>,
    /// Where the pages are, as others see it: https://tracker.example, behind a proxy, say [default: http and the name
    /// or address by which each request asks]
    #[arg(long, value_name = "URL", value_parser = settings::public_url)]
    pub public_url: Option<String>,
    /// Who may announce what [default: open]
    #[arg(long, value_name = "WHAT")]
    pub allow: Option<Allow>,
    /// Let in only torrents whose info-hashes stand in this file, one a line, comments after #; beside what --allow says
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub allow_list: Option<PathBuf>,
    /// Let in no torrent whose info-hash stands in this file: announces and uploads are refused, pages show it no more
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub deny_list: Option<PathBuf>,
    /// Take .torrent files that lie or come in this directory, or below it, into the index, as if its name had uploaded
    /// them; each once, and again when it was written anew. Removing a file does not remove the torrent (btfs tracker
    /// remove does); names that begin with a dot are left out, and symlinks; repeatable
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub watch: Vec<PathBuf>,
    /// Believe this reverse proxy, or this network of them, for whom it asks (X-Forwarded-For); repeatable
    #[arg(long, value_name = "CIDR", value_parser = settings::network)]
    pub trust_forwarded_from: Vec<IpNet>,
    /// Read options from this file (TOML); what stands on the command line counts more
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,
    /// Print all options as such a file, with their values and what they mean, and end
    #[arg(long)]
    pub print_config: bool,
    /// Print one line of JSON when it listens, instead of text
    #[arg(long)]
    pub json: bool,
    /// How much to log: error, warn, info, debug, trace, or a filter such as info,btfs::tracker=debug
    #[arg(long, value_name = "LEVEL", env = "BTFS_LOG", default_value = "info")]
    pub log: String,
}

/// Tracks until it is signalled.
pub(crate) fn run(args: &Args) -> anyhow::Result<i32> {
    if let Some(command) = &args.command {
        return people::run(command);
    }
    let settings = Settings::of(args)?;
    if args.print_config {
        text::print(settings.to_toml().as_bytes())?;
        return Ok(exit::OK);
    }
    let state_dir = settings.state_dir.clone().or_else(default_state_dir);
    let state_dir = state_dir.ok_or_else(|| UsageError(NO_STATE_DIR.to_owned()))?;
    let lists = reload::lists(&settings)?;
    logging::start(&args.log, &logging::Target::foreground())?;
    daemon::raise_descriptor_limit();
    let threads = settings.threads();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads.min(8))
        .thread_name("tokio")
        .enable_all()
        .build()
        .context("threads")?;
    let state = Arc::new(StateDir::open(&state_dir).context("name another directory with --state-dir")?);
    let sockets = Sockets::open(&settings.addrs(), threads)?;
    let now = Instant::now();
    let tracker = Arc::new(Tracker::new(settings.store(), now, sockets.udp_workers()));
    let restored = state.restore(&tracker.store, now);
    let index = people::open_index(state.path()).context("the index")?;
    reload::set_allow(&tracker, settings.allow);
    if !lists.is_empty() {
        set_lists(&index, &tracker, &Arc::new(lists)).context("the index")?;
    }
    admit_known(&index, &tracker).context("the index")?;
    let (stop, stopped) = watch::channel(false);
    let stop = Arc::new(stop);
    let taker = |directory: &PathBuf| Taker::new(directory, index.clone(), tracker.clone(), stopped.clone());
    let takers = settings.watch.iter().map(taker).collect::<anyhow::Result<Vec<_>>>()?;
    announce_ourselves(args, &settings, sockets.addrs(), state.path(), restored);
    let config = ServeConfig {
        pages: Some(pages(index.clone(), tracker.clone(), settings.pages())),
        trusted_proxies: settings.trusted_proxies(),
        bounds: settings.bounds(),
    };
    // They end with this.
    let _watching = takers.into_iter().map(Taker::start).collect::<Result<Vec<_>, _>>().context("threads")?;
    runtime.block_on(async {
        let reloads = reload::Reloads::new(args, settings.clone(), index.clone(), tracker.clone(), stop.clone())?;
        end_by_signals(stop)?;
        tokio::spawn(keep_access(index.clone(), tracker.clone(), stopped.clone()));
        tokio::spawn(keep_history(index.clone(), tracker.clone(), stopped.clone()));
        let keep = tokio::spawn(keep(state.clone(), tracker.clone(), settings.snapshot()));
        let served = tokio::select! {
            served = serve(sockets, tracker.clone(), config, stopped) => served,
            never = reloads.run() => match never {},
        };
        keep.abort();
        // A snapshot that is being written is waited for: two at a time would write one file.
        let _ = keep.await;
        served.context("the tracker cannot go on")
    })?;
    runtime.shutdown_timeout(Duration::from_secs(1));
    if let Err(error) = book_users(&index, &tracker) {
        tracing::warn!(%error, "what users have moved in the last seconds is lost");
    }
    state.save(&tracker.store, Instant::now()).with_context(|| format!("{}: not saved", state_dir.display()))?;
    tracing::info!("ended");
    Ok(exit::OK)
}

/// Saves the swarms again and again.
async fn keep(state: Arc<StateDir>, tracker: Arc<Tracker>, every: Duration) {
    let mut fine = true;
    loop {
        tokio::time::sleep(every).await;
        let (state, tracker) = (state.clone(), tracker.clone());
        let saved = tokio::task::spawn_blocking(move || state.save(&tracker.store, Instant::now())).await;
        match saved {
            Ok(Ok(())) if !std::mem::replace(&mut fine, true) => tracing::info!("the swarms are saved again"),
            // Said once, until it has worked again.
            Ok(Err(error)) if std::mem::replace(&mut fine, false) => {
                tracing::warn!(%error, "the swarms cannot be saved; what was saved last stays");
            }
            _ => {}
        }
    }
}

/// The first signal ends in order, the second at once.
fn end_by_signals(stop: Arc<watch::Sender<bool>>) -> anyhow::Result<()> {
    let count = Arc::new(AtomicU32::new(0));
    for kind in process::ending_signals().into_iter().filter(|&kind| kind != SignalKind::hangup()) {
        let (mut signals, stop, count) = (signal(kind)?, stop.clone(), count.clone());
        tokio::spawn(async move {
            while signals.recv().await.is_some() {
                if count.fetch_add(1, Ordering::Relaxed) > 0 {
                    exit::at_once(exit::FAILED);
                }
                let _ = stop.send(true);
            }
        });
    }
    Ok(())
}

/// Says where it listens and what to write into a torrent.
fn announce_ourselves(args: &Args, settings: &Settings, addrs: &[SocketAddr], state: &Path, restored: Restored) {
    let urls = announce_urls(settings.public_name.as_deref(), addrs);
    if args.json {
        let (torrents, peers) = (restored.torrents, restored.peers);
        text::say(json!({
            "listen": addrs,
            "announce": urls,
            "state_dir": state,
            "restored": { "torrents": torrents, "peers": peers },
            "pid": std::process::id(),
        }));
        return;
    }
    let listed: Vec<_> = addrs.iter().map(SocketAddr::to_string).collect();
    text::say(format_args!("Listening on {}, HTTP and UDP. Announce URLs:", listed.join(" and ")));
    urls.iter().for_each(|url| text::say(format_args!("  {url}")));
    let (torrents, peers) = (restored.torrents, restored.peers);
    let kept =
        if torrents == 0 { String::new() } else { format!(" ({torrents} torrents, {peers} peers from last time)") };
    text::say(format_args!(
        "Kept in {}{kept}. The index: /, statistics: /statistics. Ctrl-C ends it.",
        state.display()
    ));
}

/// By the name that the user gave, else by addresses.
pub(super) fn announce_urls(name: Option<&str>, addrs: &[SocketAddr]) -> Vec<String> {
    let mut hosts: Vec<String> = match name {
        Some(name) => {
            let bare = if name.parse::<Ipv6Addr>().is_ok() { format!("[{name}]") } else { name.to_owned() };
            addrs.iter().map(|addr| format!("{bare}:{}", addr.port())).collect()
        }
        None => addrs.iter().filter_map(|&addr| reachable(addr)).map(|addr| addr.to_string()).collect(),
    };
    if let (true, Some(first)) = (hosts.is_empty(), addrs.first()) {
        hosts.push(SocketAddr::from((Ipv4Addr::LOCALHOST, first.port())).to_string());
    }
    hosts.sort();
    hosts.dedup();
    hosts.iter().flat_map(|host| [format!("http://{host}/announce"), format!("udp://{host}/announce")]).collect()
}

/// The address of this host that leads to the world, where every address is listened on; `None` without a way there.
fn reachable(addr: SocketAddr) -> Option<SocketAddr> {
    if !addr.ip().is_unspecified() {
        return Some(addr);
    }
    // Addresses of documentation: connecting a datagram socket sends nothing.
    let world: IpAddr = match addr {
        SocketAddr::V4(_) => Ipv4Addr::new(192, 0, 2, 1).into(),
        SocketAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    };
    let socket = UdpSocket::bind((addr.ip(), 0)).ok()?;
    socket.connect((world, 9)).ok()?;
    socket.local_addr().ok().map(|own| SocketAddr::new(own.ip(), addr.port()))
}

fn default_state_dir() -> Option<PathBuf> {
    let own = paths::xdg("XDG_STATE_HOME", ".local/state").map(|state| state.join("btfs/tracker"));
    own.or_else(|| (paths::who().0 == 0).then(|| PathBuf::from("/var/lib/btfs/tracker")))
}

const NO_STATE_DIR: &str = "neither XDG_STATE_HOME nor HOME is set: name a directory with --state-dir";

pub(super) const EXAMPLES: &str = "Examples:
  btfs tracker                                           HTTP and UDP, port 6969, for everybody
  btfs tracker --listen 127.0.0.1:7000 --state-dir /srv/tracker
  btfs tracker --print-config > tracker.toml             then change what should be different
  btfs tracker --config tracker.toml --trust-forwarded-from 10.0.0.0/8
  btfs tracker token add alice                           a token for uploads to the index: --allow listed tracks only these
  btfs tracker --watch /srv/torrents                     .torrent files that are dropped there are listed
  btfs tracker user add bob                              a passkey for --allow private: /PASSKEY/announce

It answers /announce and /scrape over HTTP, the same over UDP, and /stats.json, /metrics (Prometheus) and /health over HTTP; all else there is the index, a page in a browser.

SIGHUP has it read --config, --allow-list and --deny-list anew: who may announce what (allow, allow-list, deny-list) counts at once, all else from the next start. What cannot be read changes nothing, and the log says why. Where its terminal is closed, it ends.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_have_names_that_lead_here() {
        let addrs: Vec<SocketAddr> = vec!["[::1]:7000".parse().unwrap(), "127.0.0.1:7000".parse().unwrap()];
        let own = announce_urls(None, &addrs);
        assert_eq!(own[0], "http://127.0.0.1:7000/announce");
        assert_eq!(own[3], "udp://[::1]:7000/announce");
        let named = announce_urls(Some("tracker.example"), &addrs);
        assert_eq!(named, ["http://tracker.example:7000/announce", "udp://tracker.example:7000/announce"]);
        assert_eq!(announce_urls(Some("2001:db8::1"), &addrs)[0], "http://[2001:db8::1]:7000/announce");
    }
}
