//! `mount.btfs`: the program as mount(8) calls it, for `mount -t btfs` and for the lines of fstab(5).
//!
//! The same binary under another name. Options and exit statuses are those that mount(8) agrees on with its helpers; what
//! happens then is `btfs mount`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Parser;

use super::args::{Cli, Command, Manner, MountArgs};
use super::exit::UsageError;
use super::{daemon, exit, mount, paths};

/// What mount(8) hands to a helper.
#[derive(Debug, Parser)]
#[command(name = "mount.btfs", version, about = "Mount a torrent for mount(8) and fstab(5)", long_about = LONG_ABOUT)]
#[command(after_help = NOTES, after_long_help = NOTES, max_term_width = 100)]
pub(crate) struct Helper {
    /// A .torrent file, or an http(s) URL of one
    #[arg(value_name = "SPEC")]
    spec: OsString,
    /// The directory to mount on
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Options, separated by commas: those of btfs mount without dashes and with underscores (cache_dir=/srv/cache,
    /// read_timeout=30, no_upload; for --bind, address=), and those of every mount
    #[arg(short, value_name = "OPTIONS")]
    options: Vec<String>,
    /// Pass over options that are not known
    #[arg(short)]
    sloppy: bool,
    /// Judge torrent and options, mount nothing
    #[arg(short)]
    fake: bool,
    /// Nothing: there is no mtab to write
    #[arg(short = 'n')]
    _no_mtab: bool,
    /// Say what was mounted
    #[arg(short)]
    verbose: bool,
    /// Do all of it in this mount namespace: a file such as /proc/PID/ns/mnt, or a process
    #[arg(short = 'N', value_name = "NAMESPACE")]
    namespace: Option<PathBuf>,
    /// The type that mount(8) was given: btfs or fuse.btfs
    #[arg(short = 't', value_name = "TYPE")]
    kind: Option<String>,
}

/// Whether we were called by the name of a helper.
pub(crate) fn is_meant() -> bool {
    std::env::args_os().next().is_some_and(|name| is_helper(Path::new(&name)))
}

fn is_helper(program: &Path) -> bool {
    program.file_name().is_some_and(|name| name == "mount.btfs" || name == "mount.fuse.btfs")
}

/// Mounts; the exit status is one of mount(8).
pub(crate) fn main() -> i32 {
    let helper = match Helper::try_parse() {
        Ok(helper) => helper,
        Err(said) => {
            let _ = said.print();
            return if said.use_stderr() { of_mount_8(exit::USAGE) } else { exit::OK };
        }
    };
    let called = std::process::id();
    let outcome = helper.run();
    let system = outcome.as_ref().is_err_and(|error| error.is::<daemon::NoProcess>());
    let status = outcome.unwrap_or_else(|error| exit::report(&error));
    match std::process::id() == called {
        true if system => SYSTEM_ERROR,
        true => of_mount_8(status),
        // Of the one that was to serve the mount: whoever was called waits for it, and translates.
        false => status,
    }
}

/// An exit status of ours as mount(8) has them.
fn of_mount_8(status: i32) -> i32 {
    match status {
        exit::OK => exit::OK,
        exit::USAGE => 1,
        exit::BUG => 4,
        _ => 32,
    }
}

impl Helper {
    fn run(&self) -> anyhow::Result<i32> {
        let kind = self.kind.as_deref().unwrap_or("btfs");
        if kind.strip_prefix("fuse.").unwrap_or(kind) != "btfs" {
            return Err(UsageError(format!("-t {kind}: only btfs is mounted here")).into());
        }
        if let Some(namespace) = &self.namespace {
            let path = namespace_file(namespace);
            daemon::enter_mount_namespace(&path).with_context(|| format!("mount namespace {}", path.display()))?;
        }
        if paths::who().0 == 0 {
            daemon::forget_home();
        }
        mount::run(self.arguments()?)
    }

    /// As `btfs mount` has them.
    fn arguments(&self) -> anyhow::Result<MountArgs> {
        let words: [OsString; 5] =
            ["btfs".into(), "mount".into(), "--".into(), self.spec.clone(), self.directory.clone().into()];
        let Command::Mount(mut args) = Cli::try_parse_from(words)?.command else {
            anyhow::bail!("`mount` means something else");
        };
        args.options.extend(source(self.spec.to_str()));
        args.options.extend_from_slice(&self.options);
        args.manner = Manner { quiet: !self.verbose, sloppy: self.sloppy, fake: self.fake };
        Ok(*args)
    }
}

/// Makes the torrent's own name the source that the kernel shows, by which mount(8) knows the lines of fstab that are
/// mounted already. Not where that name would not pass as a mount option.
fn source(spec: Option<&str>) -> Option<String> {
    spec.filter(|spec| !spec.contains([',', '\\'])).map(|spec| format!("fsname={spec}"))
}

fn namespace_file(named: &Path) -> PathBuf {
    match named.to_str().filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())) {
        Some(process) => PathBuf::from(format!("/proc/{process}/ns/mnt")),
        None => named.to_path_buf(),
    }
}

/// Of mount(8): out of memory, no fork.
const SYSTEM_ERROR: i32 = 2;

const LONG_ABOUT: &str = "mount.btfs is btfs mount as mount(8) wants its helpers: a link to btfs in /sbin with that name. \
It returns when the mount answers, and a process goes on serving it. When root mounts, what the environment says of \
homes and caches is not heeded, so that a mount at boot and one by hand share a cache: /var/cache/btfs, unless \
cache_dir= names another one. Logs go to the journal where systemd mounts, else to /var/log/btfs.";

const NOTES: &str = "Examples:
  ln -s /usr/local/bin/btfs /sbin/mount.btfs
  mount -t btfs debian.torrent /mnt/debian -o ro,allow_other

A line of /etc/fstab:
  /srv/torrents/debian.torrent /mnt/debian btfs ro,nofail,_netdev,cache_dir=/var/cache/btfs 0 0

Only who mounts may look, unless the options say allow_other. Unmount with umount(8) or btfs umount.

Exit status:
  0   fine
  1   wrong usage, or an option that is unknown or has a wrong value
  2   no process could be made
  4   a bug
  32  nothing was mounted";

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn helper(line: &str) -> Result<Helper, clap::Error> {
        Helper::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_definition_is_sound_and_explained() {
        let command = Helper::command();
        command.clone().debug_assert();
        assert!(command.get_arguments().all(|arg| arg.get_help().is_some()));
    }

    #[test]
    fn what_mount_8_hands_over_becomes_what_btfs_mount_takes() {
        let helper = helper("/sbin/mount.btfs /srv/a.torrent /mnt/a -s -v -o ro,uid=7 -n -t fuse.btfs").unwrap();
        let args = helper.arguments().unwrap();
        assert_eq!((args.torrents, args.mountpoint), (vec!["/srv/a.torrent".into()], PathBuf::from("/mnt/a")));
        assert_eq!(args.options, ["fsname=/srv/a.torrent", "ro,uid=7"]);
        assert_eq!(args.manner, Manner { quiet: false, sloppy: true, fake: false });
        assert!(!args.foreground);
    }

    #[test]
    fn names_that_are_no_options_are_not_made_the_source() {
        assert_eq!(source(Some("/a b/c.torrent")).as_deref(), Some("fsname=/a b/c.torrent"));
        assert_eq!((source(Some("/a,b")), source(Some("/a\\b")), source(None)), (None, None, None));
    }

    #[test]
    fn statuses_are_those_of_mount_8() {
        let ours = [exit::OK, exit::USAGE, exit::FAILED, exit::BUG];
        assert_eq!(ours.map(of_mount_8), [0, 1, 32, 4]);
    }

    #[test]
    fn helpers_have_their_names() {
        assert!(is_helper(Path::new("/sbin/mount.btfs")) && is_helper(Path::new("mount.fuse.btfs")));
        assert!(!is_helper(Path::new("/usr/bin/btfs")) && !is_helper(Path::new("mount.btfs.old")));
        assert_eq!(namespace_file(Path::new("17")), Path::new("/proc/17/ns/mnt"));
        assert_eq!(namespace_file(Path::new("/proc/9/fd/3")), Path::new("/proc/9/fd/3"));
    }
}
