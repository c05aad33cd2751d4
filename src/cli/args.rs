//! The command line as clap reads it. Other rooms get their own `Config` types; none sees these.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};

use super::{add, cache, completions, create, edit, get, limits, man, publish, share, show, stop, tracker, verify};
use crate::base::size::parse_bytes;
use crate::engine::Fill;
use crate::net::SessionConfig;
use crate::proto::announce::{TrackerScheme, tracker_scheme};
use crate::storage::{CacheLimits, MinFree};

/// Everything that can stand on the command line.
#[derive(Debug, Parser)]
#[command(name = "btfs", version, about = "Mount a torrent as a directory", long_about = LONG_ABOUT)]
#[command(after_help = EXAMPLES, after_long_help = EXAMPLES, max_term_width = 100, propagate_version = true)]
pub struct Cli {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Mount torrents as a read-only directory: what is read is fetched, checked and kept
    #[command(after_help = MOUNT_EXAMPLES, after_long_help = MOUNT_EXAMPLES, allow_missing_positional = true)]
    Mount(Box<MountArgs>),
    /// Unmount, also while files are open or reads wait
    #[command(visible_alias = "unmount")]
    Umount(UmountArgs),
    /// Mount more torrents where others are mounted already
    Add(add::Add),
    /// Take torrents out of a mount
    #[command(visible_alias = "rm")]
    Remove(add::Remove),
    /// Change the limits of a running mount or seed, or show them
    Set(limits::Set),
    /// Show what the running mounts and seeds are doing
    Status(StatusArgs),
    /// End sharing that goes on after an unmount, or a seed
    Stop(stop::Args),
    /// Show what is in a torrent file
    Show(show::Args),
    /// Make a torrent of a file or directory
    #[command(after_help = create::options::EXAMPLES, after_long_help = create::options::EXAMPLES)]
    Create(Box<create::Args>),
    /// Change trackers, web seeds, texts and dates of a torrent file; it stays the same torrent
    #[command(after_help = edit::EXAMPLES, after_long_help = edit::EXAMPLES)]
    Edit(Box<edit::Args>),
    /// Show what the cache holds, remove some of it, keep some of it
    Cache(cache::Args),
    /// Download a torrent, or some of its files, into a directory
    #[command(after_help = get::EXAMPLES, after_long_help = get::EXAMPLES)]
    Get(Box<get::Args>),
    /// Share files that are already here
    #[command(after_help = SEED_EXAMPLES, after_long_help = SEED_EXAMPLES)]
    Seed(Box<SeedArgs>),
    /// Give a file or directory away: its torrent, a tracker, a page and a seed in one
    #[command(after_help = share::EXAMPLES, after_long_help = share::EXAMPLES)]
    Share(Box<share::Args>),
    /// Compare files, or what the cache holds, with what a torrent says
    #[command(after_help = verify::EXAMPLES, after_long_help = verify::EXAMPLES)]
    Verify(verify::Args),
    /// Give torrent files to an index
    #[command(after_help = publish::EXAMPLES, after_long_help = publish::EXAMPLES)]
    Publish(publish::Args),
    /// Track swarms over HTTP and UDP, and serve an index of torrents: pages to search and to upload to
    #[command(after_help = tracker::EXAMPLES, after_long_help = tracker::EXAMPLES)]
    Tracker(tracker::Args),
    /// See it work: makes files, seeds and tracks them in this process, mounts and reads them, cleans up
    Demo(DemoArgs),
    /// Print what makes a shell complete commands and options
    #[command(after_help = completions::PLACES, after_long_help = completions::PLACES)]
    Completions(completions::Args),
    /// Print a manual page, or write all of them
    #[command(after_help = man::EXAMPLES, after_long_help = man::EXAMPLES)]
    Man(man::Args),
}

/// `btfs mount`.
#[derive(Debug, Args)]
pub struct MountArgs {
    /// A .torrent file, or an http(s) URL of one; several become several names in the mount
    #[arg(required_unless_present = "watch", num_args = 1.., value_name = "TORRENT", value_hint = ValueHint::FilePath)]
    pub torrents: Vec<OsString>,
    /// An empty directory to mount on
    #[arg(required = true, value_name = "MOUNTPOINT", value_hint = ValueHint::DirPath)]
    pub mountpoint: PathBuf,
    /// Mount every torrent file in this directory as well, as long as it lies there; directories in it become directories
    /// in the mount
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub watch: Option<PathBuf>,
    /// Stay in the foreground, with a live status line on a terminal
    #[arg(short, long)]
    pub foreground: bool,
    /// Let a read fail with EIO after this many seconds without progress; 0: let it wait for ever
    #[arg(long, value_name = "SECONDS", default_value = "120", value_parser = seconds)]
    pub read_timeout: Duration,
    /// What to fetch unasked: nothing (but read-ahead), the rest of every file that was opened, or everything
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = FillArg::None)]
    pub fill: FillArg,
    /// Read ahead this many seconds at the reader's pace (at most 64 MiB)
    #[arg(long, value_name = "SECONDS", default_value = "15", value_parser = seconds)]
    pub readahead: Duration,
    /// Let other users see the mount (as an ordinary user: needs user_allow_other in /etc/fuse.conf)
    #[arg(long)]
    pub allow_other: bool,
    /// Owner of all files [default: who mounts]
    #[arg(long, value_name = "UID")]
    pub uid: Option<u32>,
    /// Group of all files [default: that of who mounts]
    #[arg(long, value_name = "GID")]
    pub gid: Option<u32>,
    /// Options as mount(8) has them, separated by commas: ro, noexec, allow_other, uid=, gid=, and every option of this
    /// command as name=value with underscores (cache_dir=/var/cache/btfs,read_timeout=30,no_upload); address= is --bind
    #[arg(short, long = "options", value_name = "OPTIONS")]
    pub options: Vec<String>,
    /// What only mount(8) asks for.
    #[arg(skip)]
    pub manner: Manner,
    /// What goes on after the mount.
    #[command(flatten)]
    pub seeding: stop::SeedingArgs,
    /// The swarm.
    #[command(flatten)]
    pub swarm: SwarmArgs,
    /// The cache.
    #[command(flatten)]
    pub cache: CacheArgs,
}

/// How `mount.btfs` differs from `btfs mount`; by default in nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Manner {
    /// Say nothing when all is well.
    pub quiet: bool,
    /// Pass over options of `-o` that are not known.
    pub sloppy: bool,
    /// Judge the torrents and the options, mount nothing.
    pub fake: bool,
}

/// `btfs seed`.
#[derive(Debug, Args)]
pub struct SeedArgs {
    /// A .torrent file (or an http(s) URL of one), and the file or directory that holds its content; further pairs
    #[arg(required_unless_present = "from_list", num_args = 2.., value_names = ["TORRENT", "DATA"])]
    #[arg(value_hint = ValueHint::AnyPath)]
    pub pairs: Vec<OsString>,
    /// Share what this list names, too: a .torrent file a line and, after a tab, where its content lies (else: where the
    /// torrent file lies); paths are relative to the list, - is standard input
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub from_list: Option<PathBuf>,
    /// Print one line of JSON when all is checked and shared, instead of text
    #[arg(long)]
    pub json: bool,
    /// The swarm.
    #[command(flatten)]
    pub swarm: SwarmArgs,
    /// The cache.
    #[command(flatten)]
    pub cache: CacheArgs,
}

/// What every command with a cache understands, with the same meaning.
#[derive(Debug, Args, Clone)]
#[command(next_help_heading = "Cache")]
pub struct CacheArgs {
    /// Where fetched pieces and what is known of them are kept [default: $XDG_CACHE_HOME/btfs or
    /// ~/.cache/btfs; /var/cache/btfs for root without a home]
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub cache_dir: Option<PathBuf>,
    /// Keep the cache below this size, all torrents and mounts together; what was used longest ago goes
    /// [default: as the disk allows]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub cache_size: Option<u64>,
    /// Keep so much of the disk free: a size, or per cent of the disk [default: 5 % or 2 GiB, whichever is more]
    #[arg(long, value_name = "SIZE|PERCENT", value_parser = min_free)]
    pub cache_min_free: Option<MinFree>,
}

/// What every command with a swarm understands, with the same meaning.
#[derive(Debug, Args, Clone)]
#[command(next_help_heading = "Swarm")]
pub struct SwarmArgs {
    /// Listen for peers on this TCP port [default: the one of last time, else any]
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// Listen and connect only with this address of ours [default: all, IPv4 and IPv6]
    #[arg(long, value_name = "ADDRESS")]
    pub bind: Option<IpAddr>,
    /// Connections at most for each torrent
    #[arg(long, value_name = "NUMBER", default_value_t = 80, value_parser = at_least_one)]
    pub max_peers: usize,
    /// Connect to this peer, too (repeatable)
    #[arg(long = "peer", value_name = "ADDRESS:PORT")]
    pub peers: Vec<SocketAddr>,
    /// Send nothing to other peers (they will send less, and later)
    #[arg(long)]
    pub no_upload: bool,
    /// Ask this tracker as well, by http, https or udp (repeatable: a tier of your own)
    #[arg(long = "tracker", value_name = "URL", value_parser = tracker_url)]
    pub trackers: Vec<String>,
    /// Ask no tracker
    #[arg(long, conflicts_with = "trackers")]
    pub no_tracker: bool,
    /// Trust nothing that was kept: check every piece again before it is used
    #[arg(long)]
    pub verify: bool,
    /// Connections at most from one address (swarms on one machine need more)
    #[arg(long, value_name = "NUMBER", default_value_t = 3, value_parser = at_least_one)]
    pub max_per_address: usize,
    /// How much to log: error, warn, info, debug, trace, or a filter such as info,btfs::net=debug
    #[arg(long, value_name = "LEVEL", env = "BTFS_LOG", default_value = "info")]
    pub log: String,
    /// How much, and over how many connections.
    #[command(flatten)]
    pub limits: limits::LimitArgs,
}

/// `btfs umount`.
#[derive(Debug, Args)]
pub struct UmountArgs {
    /// Where it is mounted
    #[arg(value_hint = ValueHint::DirPath)]
    pub mountpoint: PathBuf,
}

/// `btfs status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Only this mount [default: every mount and seed of this user]
    #[arg(value_hint = ValueHint::DirPath)]
    pub mountpoint: Option<PathBuf>,
    /// One JSON object a process and line
    #[arg(long)]
    pub json: bool,
    /// Show it again every second until interrupted
    #[arg(short, long)]
    pub watch: bool,
}

/// `btfs demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Size of the larger file in MiB
    #[arg(long, value_name = "MIB", default_value_t = 24, value_parser = clap::value_parser!(u64).range(1..=512))]
    pub size: u64,
}

/// What is fetched without a reader asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FillArg {
    /// Only what is read, and read-ahead
    None,
    /// The rest of every file that was opened
    File,
    /// Everything
    All,
}

impl From<FillArg> for Fill {
    fn from(fill: FillArg) -> Self {
        match fill {
            FillArg::None => Self::None,
            FillArg::File => Self::File,
            FillArg::All => Self::All,
        }
    }
}

impl SwarmArgs {
    /// The session that these options ask for. `None` as read timeout: reads wait for ever.
    pub(crate) fn session_config(
        &self,
        cache: &CacheArgs,
        read_timeout: Option<Duration>,
        fill: Fill,
    ) -> anyhow::Result<SessionConfig> {
        Ok(SessionConfig {
            limits: CacheLimits { size: cache.cache_size, min_free: cache.cache_min_free.unwrap_or_default() },
            ..self.without_cache(cache.directory()?, read_timeout, fill)
        })
    }

    /// As [`session_config`](Self::session_config), with this directory instead of a cache.
    pub(crate) fn without_cache(
        &self,
        cache_dir: PathBuf,
        read_timeout: Option<Duration>,
        fill: Fill,
    ) -> SessionConfig {
        SessionConfig {
            cache_dir,
            port: self.port.filter(|&port| port != 0),
            bind: self.bind,
            upload: !self.no_upload,
            max_peers: self.max_peers,
            read_timeout,
            fill,
            use_trackers: !self.no_tracker,
            max_per_address: self.max_per_address,
            recheck: self.verify,
            limits: CacheLimits::default(),
            bounds: self.limits.bounds(),
        }
    }
}

impl CacheArgs {
    /// The cache directory.
    pub(crate) fn directory(&self) -> anyhow::Result<PathBuf> {
        match &self.cache_dir {
            Some(path) => Ok(std::path::absolute(path)?),
            None => super::paths::cache_dir().ok_or_else(|| anyhow::anyhow!(NO_CACHE)),
        }
    }
}

/// A number of seconds, fractions allowed.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.trim_end_matches('s').parse().map_err(|_| "expected a number of seconds".to_owned())?;
    if !(0.0..=MAX_SECONDS).contains(&number) {
        return Err(format!("expected 0 to {MAX_SECONDS} seconds"));
    }
    Ok(Duration::from_secs_f64(number))
}

/// A number of bytes that a cache can have.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    match parse_bytes(text) {
        Ok(bytes) if bytes < MIN_CACHE_BYTES => Err("at least 1M is needed".to_owned()),
        other => other.map_err(|error| error.to_string()),
    }
}

/// What is to be kept free.
pub(crate) fn min_free(text: &str) -> Result<MinFree, String> {
    let Some(percent) = text.strip_suffix('%') else {
        return parse_bytes(text).map(MinFree::Bytes).map_err(|error| format!("{error}, or 5%"));
    };
    match percent.trim().parse() {
        Ok(percent) if (0.0..100.0).contains(&percent) => Ok(MinFree::Percent(percent)),
        _ => Err("expected 0% to 99%".to_owned()),
    }
}

/// A number of connections.
pub(crate) fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("at least 1 is needed".to_owned()),
        Ok(number) => Ok(number),
        Err(_) => Err("expected a number".to_owned()),
    }
}

/// The URL of a tracker that we can ask.
pub(crate) fn tracker_url(text: &str) -> Result<String, String> {
    match tracker_scheme(text) {
        Some(TrackerScheme::Http | TrackerScheme::Udp) => Ok(text.to_owned()),
        Some(TrackerScheme::WebSocket) => Err("trackers are asked by http, https and udp".to_owned()),
        None => Err("no tracker URL: it needs http, https or udp, a host, and for udp a port".to_owned()),
    }
}

/// Smaller caches could not hold what one reader waits for.
const MIN_CACHE_BYTES: u64 = 1 << 20;

/// About 31 years: more is a mistake.
const MAX_SECONDS: f64 = 1e9;

pub(super) const NO_CACHE: &str = "neither XDG_CACHE_HOME nor HOME is set: name a directory with --cache-dir";

const LONG_ABOUT: &str = "btfs turns a torrent into a read-only directory. Any program can open its files: what it \
reads is fetched from the swarm first, checked against the torrent's hashes and kept on disk. Like every peer it also \
shares what it has (--no-upload turns that off).";

const EXAMPLES: &str = "Examples:
  btfs mount debian.torrent /mnt/debian     mount, and go on in the background
  btfs status --watch                       what is being fetched, from whom, who waits
  btfs add /mnt/debian fedora.torrent       one more in the same mount; btfs remove takes it out
  btfs umount /mnt/debian                   done
  btfs create ~/films -o films.torrent -a https://tracker.example/announce
  btfs seed films.torrent ~/films           share files that are here
  btfs demo                                 see all of it work on this machine, in a few seconds";

const MOUNT_EXAMPLES: &str = "Examples:
  btfs mount film.torrent /mnt/film                    only what is read is fetched
  btfs mount --fill all film.torrent /mnt/film         fetch the rest, too
  btfs mount a.torrent b.torrent /mnt/both             several torrents in one mount
  btfs mount --watch ~/torrents /mnt/all               what is dropped there appears, what is removed goes
  btfs mount -f --peer 192.0.2.7:6881 film.torrent m   in the foreground, with a peer you know
  btfs mount -o ro,allow_other,uid=1000 film.torrent m mount(8)-style options

It returns once the mount answers; it never waits for a peer. Unmount with `btfs umount` (or umount, fusermount3 -u).
Logs: $XDG_STATE_HOME/btfs/ (~/.local/state/btfs/), under systemd the journal.";

const SEED_EXAMPLES: &str = "Examples:
  btfs seed films.torrent ~/films
  btfs seed a.torrent ~/a b.torrent ~/b.iso --port 6881
  btfs seed --from-list torrents.txt                       a thousand of them

The files are opened read-only and checked once; later they are trusted as long as size, times and inode are the same.";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_last_word_is_the_mountpoint() {
        let Command::Mount(args) = parse("btfs mount a.torrent http://h/b.torrent /mnt/x -f").unwrap().command else {
            panic!("not a mount");
        };
        assert_eq!(args.torrents, ["a.torrent", "http://h/b.torrent"]);
        assert_eq!((args.mountpoint.to_str(), args.foreground), (Some("/mnt/x"), true));
        assert_eq!((args.read_timeout.as_secs(), args.readahead.as_secs(), args.fill), (120, 15, FillArg::None));
    }

    #[test]
    fn trackers_of_all_kinds_that_are_asked_may_be_named() {
        let urls = ["udp://h:1/announce", "UDP://h:1", "http://h/a?passkey=x", "https://[::1]:9/announce"];
        for url in urls {
            let lines = ["mount a b", "seed a b", "get a", "add a b"];
            for line in lines.map(|line| format!("btfs {line} --tracker {url}")) {
                assert!(parse(&line).is_ok(), "{line}");
            }
        }
    }

    #[test]
    fn bounds_of_the_cache_are_read() {
        let Command::Mount(args) = parse("btfs mount a b --cache-size 1.5G --cache-min-free 7.5%").unwrap().command
        else {
            panic!("not a mount");
        };
        let config = args.swarm.session_config(&args.cache, None, Fill::None).unwrap();
        assert_eq!(config.limits, CacheLimits { size: Some(3 << 29), min_free: MinFree::Percent(7.5) });
        assert_eq!((min_free("0"), min_free("3GiB")), (Ok(MinFree::Bytes(0)), Ok(MinFree::Bytes(3 << 30))));
        let Command::Seed(args) = parse("btfs seed a b").unwrap().command else { panic!("not a seed") };
        assert_eq!(args.swarm.session_config(&args.cache, None, Fill::None).unwrap().limits, CacheLimits::default());
    }

    #[test]
    fn wrong_lines_are_usage_errors() {
        for line in [
            "btfs",
            "btfs mount a.torrent",
            "btfs mount a b --read-timeout soon",
            "btfs mount a b --read-timeout -1",
            "btfs mount a b --port 65536",
            "btfs mount a b --peer nowhere",
            "btfs mount a b --max-peers 0",
            "btfs mount a b --max-per-address 0",
            "btfs mount a b --tracker udp://h/announce",
            "btfs mount a b --tracker ws://h/announce",
            "btfs mount a b --tracker http:///announce",
            "btfs mount a b --tracker http://h/a --no-tracker",
            "btfs mount a b --fill some",
            "btfs seed a",
            "btfs mount a b --cache-size 1000",
            "btfs mount a b --cache-size much",
            "btfs mount a b --cache-min-free 100%",
            "btfs mount a b --cache-min-free -1",
            "btfs mount a b --max-upload fast",
            "btfs mount a b --max-half-open 0",
            "btfs set",
            "btfs stop",
            "btfs stop --all 7",
            "btfs mount a b --seed-ratio 2",
            "btfs mount a b --seed-after-unmount --seed-time soon",
            "btfs mount a b --seed-after-unmount --seed-ratio -1",
            "btfs set /m --each --torrent a",
            "btfs cache",
            "btfs cache prune --older-than soon",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn every_command_explains_each_of_its_options() {
        for command in Cli::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
                assert!(arg.get_help().is_some(), "{} {}", command.get_name(), arg.get_id());
            }
        }
    }
}
