//! `-o` as mount(8) has it: translated to the command's own options, so that both mean the same.

use super::args::{MountArgs, at_least_one, min_free, seconds, size, tracker_url};
use super::cache::time;
use super::exit::UsageError;
use super::limits::{rate, slots};
use super::stop::ratio;

/// Applies every `-o` of `args` to it. What is left in `args.options` is for the kernel or the FUSE library.
///
/// # Errors
/// [`UsageError`] naming an option that is unknown or has a wrong value.
pub(crate) fn apply(args: &mut MountArgs) -> Result<(), UsageError> {
    let given = std::mem::take(&mut args.options);
    for option in given.iter().flat_map(|list| split(list)) {
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (option.as_str(), None),
        };
        match apply_one(args, name, value) {
            Ok(()) => {}
            Err(Wrong::Unknown) if args.manner.sloppy => {}
            Err(wrong) => return Err(UsageError(format!("option {option}: {wrong}"))),
        }
    }
    if args.seeding.is_without_reason() {
        return Err(UsageError("seed_ratio, seed_time and seed_idle need seed_after_unmount".to_owned()));
    }
    if args.swarm.no_tracker && !args.swarm.trackers.is_empty() {
        return Err(UsageError("no_tracker and a tracker exclude each other".to_owned()));
    }
    Ok(())
}

/// What is wrong with an option.
#[derive(Debug, thiserror::Error)]
enum Wrong {
    #[error("unknown")]
    Unknown,
    #[error("{0}")]
    Value(String),
}

impl From<String> for Wrong {
    fn from(reason: String) -> Self {
        Self::Value(reason)
    }
}

fn apply_one(args: &mut MountArgs, name: &str, value: Option<&str>) -> Result<(), Wrong> {
    let swarm = &mut args.swarm;
    match (name, value) {
        (name, None) if IGNORED.contains(&name) => {}
        // Notes for others: for systemd, for desktops, for umount(8); who mounted, where fstab lets users do so.
        (name, _) if name.starts_with("x-") || name.starts_with("X-") => {}
        ("comment" | "user" | "helper" | "uhelper", _) => {}
        ("remount", None) => {
            return Err(Wrong::Value("nothing can be changed while mounted: unmount, then mount again".to_owned()));
        }
        ("noexec" | "dirsync", None) => args.options.push(name.to_owned()),
        (
            "fsname" | "subtype" | "max_read" | "blksize" | "context" | "fscontext" | "defcontext" | "rootcontext",
            Some(value),
        ) => {
            args.options.push(format!("{name}={value}"));
        }
        ("allow_other", None) => args.allow_other = true,
        ("uid", Some(value)) => args.uid = Some(number(value)?),
        ("gid", Some(value)) => args.gid = Some(number(value)?),
        ("read_timeout", Some(value)) => args.read_timeout = seconds(value)?,
        ("readahead", Some(value)) => args.readahead = seconds(value)?,
        ("seed_after_unmount", None) => args.seeding.seed_after_unmount = true,
        ("seed_ratio", Some(value)) => args.seeding.seed_ratio = Some(ratio(value)?),
        ("seed_time", Some(value)) => args.seeding.seed_time = Some(time(value)?),
        ("seed_idle", Some(value)) => args.seeding.seed_idle = Some(time(value)?),
        ("even_as_last_seed", None) => args.seeding.even_as_last_seed = true,
        ("watch", Some(value)) => args.watch = Some(value.into()),
        ("fill", Some(value)) => args.fill = clap::ValueEnum::from_str(value, false)?,
        ("cache_dir", Some(value)) => args.cache.cache_dir = Some(value.into()),
        ("cache_size", Some(value)) => args.cache.cache_size = Some(size(value)?),
        ("cache_min_free", Some(value)) => args.cache.cache_min_free = Some(min_free(value)?),
        ("port", Some(value)) => swarm.port = Some(number(value)?),
        // Beside a `bind=` in fstab mount(8) looks for a bind mount, and does not know ours by its source.
        ("bind" | "address", Some(value)) => swarm.bind = Some(number(value)?),
        ("max_peers", Some(value)) => swarm.max_peers = at_least_one(value)?,
        ("max_per_address", Some(value)) => swarm.max_per_address = at_least_one(value)?,
        ("max_upload", Some(value)) => swarm.limits.max_upload = Some(rate(value)?),
        ("max_download", Some(value)) => swarm.limits.max_download = Some(rate(value)?),
        ("torrent_max_upload", Some(value)) => swarm.limits.torrent_max_upload = Some(rate(value)?),
        ("torrent_max_download", Some(value)) => swarm.limits.torrent_max_download = Some(rate(value)?),
        ("upload_slots", Some(value)) => swarm.limits.upload_slots = Some(slots(value)?),
        ("max_connections", Some(value)) => swarm.limits.max_connections = Some(at_least_one(value)?),
        ("max_half_open", Some(value)) => swarm.limits.max_half_open = Some(at_least_one(value)?),
        ("peer", Some(value)) => swarm.peers.push(number(value)?),
        ("tracker", Some(value)) => swarm.trackers.push(tracker_url(value)?),
        ("log", Some(value)) => swarm.log = value.to_owned(),
        ("no_upload", None) => swarm.no_upload = true,
        ("no_tracker", None) => swarm.no_tracker = true,
        ("verify", None) => swarm.verify = true,
        (name, value) => {
            return Err(match (is_known(name), value) {
                (true, None) => Wrong::Value("needs a value".to_owned()),
                (true, Some(_)) => Wrong::Value("takes no value".to_owned()),
                (false, _) => Wrong::Unknown,
            });
        }
    }
    Ok(())
}

/// Splits at commas; `\,` is a comma inside a value, as fstab(5) users expect of FUSE file systems.
fn split(list: &str) -> Vec<String> {
    let mut options = vec![String::new()];
    let mut chars = list.chars().peekable();
    while let Some(c) = chars.next() {
        let last = options.last_mut().expect("one from the start");
        match c {
            '\\' if matches!(chars.peek(), Some(',' | '\\')) => last.extend(chars.next()),
            ',' => options.push(String::new()),
            c => last.push(c),
        }
    }
    options
}

fn number<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

fn is_known(name: &str) -> bool {
    let others = [
        "uid",
        "gid",
        "read_timeout",
        "readahead",
        "fill",
        "watch",
        "seed_after_unmount",
        "seed_ratio",
        "seed_time",
        "seed_idle",
        "even_as_last_seed",
        "cache_dir",
        "cache_size",
        "cache_min_free",
        "port",
        "bind",
        "address",
        "max_peers",
        "max_per_address",
        "max_upload",
        "max_download",
        "torrent_max_upload",
        "torrent_max_download",
        "upload_slots",
        "max_connections",
        "max_half_open",
        "peer",
        "tracker",
        "log",
        "noexec",
        "dirsync",
        "allow_other",
        "no_upload",
        "no_tracker",
        "verify",
        "remount",
    ];
    IGNORED.contains(&name) || others.contains(&name)
}

/// What mount(8) hands to its helpers, what stands in fstab(5) for others, and what every mount of ours is anyway. `rw`
/// comes with each mount that was not told otherwise; it is read-only all the same.
const IGNORED: &[&str] = &[
    "",
    "defaults",
    "ro",
    "rw",
    "auto",
    "noauto",
    "nofail",
    "_netdev",
    "nouser",
    "users",
    "nousers",
    "owner",
    "noowner",
    "group",
    "nogroup",
    "default_permissions",
    "dev",
    "nodev",
    "suid",
    "nosuid",
    "exec",
    "atime",
    "noatime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "diratime",
    "nodiratime",
    "lazytime",
    "nolazytime",
    "iversion",
    "noiversion",
    "mand",
    "nomand",
    "symfollow",
    "silent",
    "loud",
    "async",
    "sync",
];

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::args::{Cli, Command};
    use super::*;
    use crate::storage::MinFree;

    fn mount(options: &str) -> Result<MountArgs, UsageError> {
        let cli = Cli::try_parse_from(["btfs", "mount", "a.torrent", "/m", "-o", options]).unwrap();
        let Command::Mount(mut args) = cli.command else { panic!("not a mount") };
        apply(&mut args).map(|()| *args)
    }

    #[test]
    fn options_mean_what_the_flags_mean() {
        let args = mount(
            "ro,nodev,noexec,allow_other,uid=7,gid=8,cache_dir=/a\\,b,cache_size=2M,cache_min_free=3%,read_timeout=0,fill=all,peer=127.0.0.1:5,port=9,\
             no_upload,tracker=http://h/announce,tracker=udp://h:1/announce",
        )
        .unwrap();
        assert_eq!((args.allow_other, args.uid, args.gid), (true, Some(7), Some(8)));
        assert_eq!(args.options, ["noexec"]);
        let swarm = args.swarm;
        assert_eq!((args.cache.cache_size, args.cache.cache_min_free), (Some(2 << 20), Some(MinFree::Percent(3.0))));
        assert_eq!(args.cache.cache_dir.unwrap().to_str(), Some("/a,b"));
        assert_eq!((args.read_timeout.as_secs(), swarm.port, swarm.no_upload), (0, Some(9), true));
        assert_eq!((swarm.peers.len(), swarm.trackers.len()), (1, 2));
    }

    #[test]
    fn what_mount_8_and_fstab_add_is_ignored() {
        let args = mount("rw,_netdev,nofail,noauto,user,x-systemd.automount,x-gvfs-name=a,defaults,,relatime").unwrap();
        assert_eq!((args.options.len(), args.allow_other), (0, false));
        let args =
            mount("user=me,comment=a b,X-mount.mkdir=0755,x-systemd.device-timeout=5s,nodev,nosuid,lazytime").unwrap();
        assert_eq!((args.options.len(), args.allow_other), (0, false));
    }

    #[test]
    fn sloppiness_passes_over_what_is_unknown_but_not_over_what_is_wrong() {
        let sloppy = |options: &str| {
            let cli = Cli::try_parse_from(["btfs", "mount", "a.torrent", "/m", "-o", options]).unwrap();
            let Command::Mount(mut args) = cli.command else { panic!("not a mount") };
            args.manner.sloppy = true;
            apply(&mut args).map(|()| *args)
        };
        assert_eq!(sloppy("colour=red,uid=7,nonsense").unwrap().uid, Some(7));
        assert_eq!(
            sloppy("colour=red,uid=root").unwrap_err().to_string(),
            "option uid=root: invalid digit found in string"
        );
    }

    #[test]
    fn unknown_options_and_values_are_named() {
        for (options, said) in [
            ("ro,colour=red", "option colour=red: unknown"),
            ("uid", "option uid: needs a value"),
            ("ro=1", "option ro=1: takes no value"),
            ("uid=root", "option uid=root: invalid digit found in string"),
            ("remount,ro", "option remount: nothing can be changed while mounted: unmount, then mount again"),
            ("address=here", "option address=here: invalid IP address syntax"),
            ("max_peers=0", "option max_peers=0: at least 1 is needed"),
            ("cache_size=12", "option cache_size=12: at least 1M is needed"),
            ("cache_min_free", "option cache_min_free: needs a value"),
            ("seed_time=90", "option seed_time=90: expected a number and a unit: 90m, 12h, 30d"),
            ("seed_ratio=2", "seed_ratio, seed_time and seed_idle need seed_after_unmount"),
            ("max_upload=fast", "option max_upload=fast: expected bytes in a second, such as 500K or 2M, or none"),
            ("max_half_open", "option max_half_open: needs a value"),
            ("max_per_address", "option max_per_address: needs a value"),
            ("no_tracker,tracker=http://h/a", "no_tracker and a tracker exclude each other"),
        ] {
            assert_eq!(mount(options).unwrap_err().to_string(), said);
        }
    }
}
